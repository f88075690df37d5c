//! The optimiser: AdamW over what is trained of a model, with its moments and their way into and out
//! of a checkpoint. The arithmetic of one tensor is in [`crate::ops::adamw`], the forms that moments
//! stand in are in [`crate::ops::moments`].
//!
//! Bytes a parameter of full tuning on a card, while its gradient stands:
//!
//! | weights | states | weights | gradient | states | in all |
//! |---|---|---|---|---|---|
//! | with masters | f32 | 6 | 4 | 8 | 18 |
//! | with masters | bf16 | 6 | 4 | 4 | 14 |
//! | with masters | int8 | 6 | 4 | 2.03 | 12.03 |
//! | bf16 alone | f32 | 2 | 4 | 8 | 14 |
//! | bf16 alone | bf16 | 2 | 4 | 4 | 10 |
//! | bf16 alone | int8 | 2 | 4 | 2.03 | 8.03 |
//!
//! Offloaded states count in the host's memory. Weights that stay (an adapter's base, a model that
//! generates) take 2.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use half::bf16;
use serde::{Deserialize, Serialize};

use crate::model::adapter::Trained;
use crate::model::weights::{Part, Piece, Spec};
use crate::model::{Batch, Decoder, Gradients};
use crate::ops::moments::Values;
use crate::ops::{AdamWStep, Backend, Cpu, Form, Kind, Moments, Update};

/// How the optimiser's states stand. Whether weights have masters is the model's to say
/// ([`Kind::Weight`] or [`Kind::Narrow`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The form of both moments.
    pub states: Form,
    /// Whether they stand in the host's memory and pass through the card's, which changes no result.
    pub offload: bool,
    /// What roundings are drawn by, beside step, tensor and element.
    pub seed: u64,
}

impl Policy {
    /// Bytes of the states of one tensor of so many values.
    #[must_use]
    pub fn bytes_of_states(self, elements: usize) -> usize {
        self.states.bytes(elements)
    }
}

/// AdamW with decoupled weight decay on matrices alone, not on norms and biases.
pub struct AdamW<B: Backend = Cpu> {
    /// Decay of the first moment, 0.9.
    pub beta1: f32,
    /// Decay of the second moment, 0.999.
    pub beta2: f32,
    /// Added to the root of the second moment, 1e-8.
    pub eps: f32,
    /// Share of the learning rate by which matrices shrink at each step, 0.
    pub weight_decay: f32,
    policy: Policy,
    /// Whether parameters stand in bf16 alone.
    narrow: bool,
    /// Steps begun.
    steps: u64,
    moments: Trained<B::Moments>,
    specs: Arc<Trained<Spec>>,
    /// Which of each tensor's values are this optimiser's; the others stay as they are.
    mine: Vec<Range<usize>>,
}

impl<B: Backend + Clone> AdamW<B> {
    /// Moments at zero in f32 and the usual constants, which the caller may change before the first
    /// step.
    #[must_use]
    pub fn new(model: &Decoder<B>) -> Self {
        Self::with(model, Policy::default())
    }

    /// The same with states that stand as the policy says.
    ///
    /// # Panics
    /// If the model was read to stay as it is ([`Kind::Frozen`]) and has no adapter.
    #[must_use]
    pub fn with(model: &Decoder<B>, policy: Policy) -> Self {
        let all = model.trained_specs().all().into_iter().map(|spec| 0..spec.elements()).collect();
        Self::of_part(model, policy, all)
    }

    /// The same for a run of each tensor's values, in the order of their specs; one that is not empty begins at a
    /// block of moments, and ends at one or with the tensor.
    ///
    /// # Panics
    /// As [`AdamW::with`].
    #[must_use]
    pub fn of_part(model: &Decoder<B>, policy: Policy, mine: Vec<Range<usize>>) -> Self {
        let (specs, kind) = (model.trained_specs(), model.trained_kind());
        assert!(kind != Kind::Frozen, "the weights were read to stay as they are");
        let mut runs = mine.iter();
        let moments = specs.map(|spec| {
            let len = runs.next().map_or(0, ExactSizeIterator::len);
            model.backend().moments(policy.states.of(spec.elements()), len, policy.offload)
        });
        let (beta1, beta2, eps, weight_decay) = (0.9, 0.999, 1e-8, 0.0);
        let (narrow, steps) = (kind == Kind::Narrow, 0);
        Self { beta1, beta2, eps, weight_decay, policy, narrow, steps, moments, specs, mine }
    }

    /// Moves everything that is trained, as far as it is this optimiser's, against its gradient.
    pub fn step(&mut self, model: &mut Decoder<B>, gradients: &Gradients<B>, learning_rate: f32) {
        self.step_scaled(model, gradients, learning_rate, 1.0);
    }

    /// The same with gradients multiplied by `factor` first, the share that clipping leaves.
    pub fn step_scaled(
        &mut self,
        model: &mut Decoder<B>,
        gradients: &Gradients<B>,
        learning_rate: f32,
        factor: f32,
    ) {
        self.begin();
        let (backend, gradients) = (model.backend().clone(), gradients.tensors().all());
        let tensors = model.trained_mut().into_iter().zip(gradients).collect();
        self.step_part(&backend, 0, tensors, learning_rate, factor);
    }

    /// Begins a step, which then goes over the tensors in parts.
    pub fn begin(&mut self) {
        self.steps += 1;
    }

    /// A forward and a backward pass whose gradients, times `scale`, are used as they come: the losses
    /// and the norm of all gradients. `gradients` are those of [`Gradients::by_piece`]. Nothing
    /// moves if a loss is no number.
    ///
    /// # Errors
    /// As [`Decoder::forward_backward`].
    pub fn step_in_backward(
        &mut self,
        model: &mut Decoder<B>,
        gradients: &mut Gradients<B>,
        (batch, scale): (&Batch, f32),
        learning_rate: f32,
    ) -> Result<(Vec<f32>, f64)> {
        self.begin();
        let backend = model.backend().clone();
        // Summed in the order of the weights, as the norm of gradients that stand together is.
        let mut squares: BTreeMap<Piece, Vec<f64>> = BTreeMap::new();
        let mut take = |piece, weights: Vec<&mut B::Tensor>, gradients: &[&mut B::Tensor]| {
            let of: Vec<&B::Tensor> = gradients.iter().map(|gradient| &**gradient).collect();
            squares.insert(piece, backend.squares(&of));
            self.step_piece(&backend, piece, (weights, gradients), learning_rate);
        };
        let losses = model.forward_backward_by_piece(batch, scale, gradients, &mut take)?;
        Ok((losses, squares.into_values().flatten().sum::<f64>().sqrt()))
    }

    /// The begun step of a piece of the weights, with its gradients: all pieces of a step together, in
    /// any order, do what [`AdamW::step`] does.
    pub fn step_piece(
        &mut self,
        backend: &B,
        piece: Piece,
        (weights, gradients): (Vec<&mut B::Tensor>, &[&mut B::Tensor]),
        learning_rate: f32,
    ) {
        let Trained::Full(specs) = &*self.specs else { return };
        let first = specs.first_of(piece);
        let tensors = weights.into_iter().zip(gradients.iter().map(|gradient| &**gradient));
        self.step_part(backend, first, tensors.collect(), learning_rate, 1.0);
    }

    /// The begun step of some tensors, each with its gradient: `first` is the number of the first of
    /// them among all that is trained, and the others follow it.
    fn step_part(
        &mut self,
        backend: &B,
        first: usize,
        tensors: Vec<(&mut B::Tensor, &B::Tensor)>,
        learning_rate: f32,
        factor: f32,
    ) {
        let Self { steps: step, beta1, beta2, eps, weight_decay, narrow, .. } = *self;
        let (gradient_factor, seed) = (factor, self.policy.seed);
        let step = AdamWStep {
            step,
            learning_rate,
            beta1,
            beta2,
            eps,
            weight_decay,
            gradient_factor,
            narrow,
            seed,
        };
        let states = self.specs.all().into_iter().zip(self.moments.all_mut()).enumerate();
        let updates = states.skip(first).zip(tensors);
        let updates = updates.filter(|((number, _), _)| !self.mine[*number].is_empty());
        let updates = updates.map(|((number, (spec, moments)), (parameter, gradient))| Update {
            parameter,
            gradient,
            moments,
            decays: spec.decays(),
            number: number as u32,
            first: self.mine[number].start,
        });
        backend.adamw(&step, updates.collect());
    }
}

/// One tensor's first (0) or second (1) moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// First or second.
    pub which: usize,
    /// Number of the tensor.
    pub index: usize,
}

/// A run of a tensor's values, and a moment of theirs as words; see [`Values::into_words`].
pub type Words = (Range<usize>, Vec<f32>);

/// Values of a state in their own form.
#[derive(Clone, Debug, PartialEq)]
pub enum Saved<'a> {
    /// Moments in f32, or the scales of coded ones.
    F32(Cow<'a, [f32]>),
    /// Moments in bf16.
    Bf16(Cow<'a, [bf16]>),
    /// Codes.
    Bytes(Cow<'a, [u8]>),
}

/// A part of the optimiser's state by its name in a checkpoint.
pub type Named<'a> = (String, Saved<'a>);

/// What the moments are called in a checkpoint, as PyTorch calls them.
const MOMENTS: [&str; 2] = ["exp_avg", "exp_avg_sq"];

/// The name of a moment of a checkpoint's tensor.
fn of_part(moment: &str, part: &Part) -> String {
    format!("{moment}.{}", part.name)
}

/// The name of the scales of a whole tensor of ours, which goes by its first part: blocks go on
/// from part to part.
fn of_scales(moment: &str, spec: &Spec) -> String {
    let first = spec.parts.first().map_or("", |part| &part.name);
    format!("{moment}_scales.{first}")
}

impl<B: Backend + Clone> AdamW<B> {
    /// Steps done, and the moments as `exp_avg.<parameter>` and `exp_avg_sq.<parameter>`, with
    /// scales where they are coded. `elsewhere` gives the runs that are other optimisers', each with what
    /// [`AdamW::moment`] says there.
    ///
    /// # Errors
    /// The first that `elsewhere` returns.
    pub fn state<'a>(
        &'a self,
        backend: &B,
        mut elsewhere: impl FnMut(Moment) -> Result<Vec<Words>>,
    ) -> Result<(u64, Vec<Named<'a>>)> {
        let mut all = Vec::new();
        let pairs = self.specs.all().into_iter().zip(self.moments.all()).enumerate();
        for (index, (spec, moments)) in pairs {
            let mine = backend.read_moments(moments);
            let moments = match self.mine[index].len() == spec.elements() {
                true => mine,
                false => Cow::Owned(self.joined((index, spec), &mine, &mut elsewhere)?),
            };
            match &moments {
                Cow::Borrowed(moments) => all.extend(saved(spec, moments)),
                Cow::Owned(moments) => {
                    let owned = |(name, values): Named<'_>| (name, values.into_owned());
                    all.extend(saved(spec, moments).into_iter().map(owned));
                }
            }
        }
        Ok((self.steps, all))
    }

    /// Both moments of a tensor some of which are other optimisers'.
    fn joined(
        &self,
        (index, spec): (usize, &Spec),
        mine: &Moments,
        elsewhere: &mut impl FnMut(Moment) -> Result<Vec<Words>>,
    ) -> Result<Moments> {
        let (len, form) = (spec.elements(), self.policy.states.of(spec.elements()));
        let mut whole = Moments::zeros(form, len);
        for which in [0, 1] {
            let values = whole.get_mut(which);
            values.put(self.mine[index].start, mine.get(which));
            for (run, words) in elsewhere(Moment { which, index })? {
                values.put(run.start, &Values::from_words(form, run.len(), words));
            }
        }
        Ok(whole)
    }

    /// Takes up the state that [`AdamW::state`] gave. What is not all this optimiser's goes to `elsewhere` as a whole;
    /// others take their runs of it by [`AdamW::set_moment`].
    ///
    /// # Errors
    /// If a moment is missing, of another length or form, or of a parameter that the model does not
    /// have; and the first that `elsewhere` returns.
    pub fn restore(
        &mut self,
        backend: &B,
        steps: u64,
        state: &[Named<'_>],
        mut elsewhere: impl FnMut(Moment, &Values) -> Result<()>,
    ) -> Result<()> {
        let mut given: BTreeMap<&str, &Saved> =
            state.iter().map(|(name, values)| (&name[..], values)).collect();
        let pairs = self.specs.all().into_iter().zip(self.moments.all_mut()).enumerate();
        for (index, (spec, moments)) in pairs {
            let len = spec.elements();
            let mut read = Moments::zeros(self.policy.states.of(len), len);
            for (moment, values) in MOMENTS.iter().zip([&mut read.first, &mut read.second]) {
                restore_one(moment, spec, values, &mut given)?;
            }
            if self.mine[index].len() == len {
                backend.write_moments(moments, read);
                continue;
            }
            for which in [0, 1] {
                elsewhere(Moment { which, index }, read.get(which))?;
            }
            let mine = |values: &Values| values.part(self.mine[index].clone());
            let part = Moments { first: mine(&read.first), second: mine(&read.second) };
            backend.write_moments(moments, part);
        }
        ensure!(
            given.is_empty(),
            "the optimiser's state has {} too many: {:?}",
            given.len(),
            given.keys().next()
        );
        self.steps = steps;
        Ok(())
    }

    /// A moment of its run of a tensor in its own form, as words to be passed on; see
    /// [`Values::into_words`].
    pub(crate) fn moment(&self, backend: &B, moment: Moment) -> Cow<'_, [f32]> {
        match backend.read_moments(self.moments.all()[moment.index]) {
            Cow::Borrowed(moments) => match moments.get(moment.which) {
                Values::F32(values) => Cow::Borrowed(values),
                other => Cow::Owned(other.clone().into_words()),
            },
            Cow::Owned(moments) => Cow::Owned(moments.into_one(moment.which).into_words()),
        }
    }

    /// Puts a moment of its run of a tensor where it was.
    pub(crate) fn set_moment(&mut self, backend: &B, moment: Moment, words: Vec<f32>) {
        let Moment { which, index } = moment;
        let form = self.policy.states.of(self.specs.all()[index].elements());
        let len = self.mine[index].len();
        let held = &mut *self.moments.all_mut()[index];
        let mut moments = backend.read_moments(held).into_owned();
        *moments.get_mut(which) = Values::from_words(form, len, words);
        backend.write_moments(held, moments);
    }

    /// Steps done.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// Goes on counting from here.
    pub(crate) fn set_steps(&mut self, steps: u64) {
        self.steps = steps;
    }
}

impl Saved<'_> {
    fn into_owned(self) -> Saved<'static> {
        match self {
            Self::F32(values) => Saved::F32(Cow::Owned(values.into_owned())),
            Self::Bf16(values) => Saved::Bf16(Cow::Owned(values.into_owned())),
            Self::Bytes(values) => Saved::Bytes(Cow::Owned(values.into_owned())),
        }
    }
}

/// Both moments of a tensor under their names.
fn saved<'a>(spec: &Spec, moments: &'a Moments) -> Vec<Named<'a>> {
    let mut all = Vec::new();
    for (moment, values) in MOMENTS.into_iter().zip([&moments.first, &moments.second]) {
        save_one(&mut all, moment, spec, values);
    }
    all
}

fn save_one<'a>(all: &mut Vec<Named<'a>>, moment: &str, spec: &Spec, values: &'a Values) {
    for part in &spec.parts {
        let range = part.range.clone();
        let saved = match values {
            Values::F32(values) => Saved::F32(Cow::Borrowed(&values[range])),
            Values::Bf16(values) => Saved::Bf16(Cow::Borrowed(&values[range])),
            Values::Int8 { codes, .. } => Saved::Bytes(Cow::Borrowed(&codes[range])),
        };
        all.push((of_part(moment, part), saved));
    }
    if let Values::Int8 { scales, .. } = values {
        all.push((of_scales(moment, spec), Saved::F32(Cow::Borrowed(scales))));
    }
}

fn restore_one(
    moment: &str,
    spec: &Spec,
    values: &mut Values,
    given: &mut BTreeMap<&str, &Saved>,
) -> Result<()> {
    for part in &spec.parts {
        let (name, range) = (of_part(moment, part), part.range.clone());
        match (values as &mut Values, given.remove(&name[..])) {
            (Values::F32(values), Some(Saved::F32(saved))) => {
                take(&name, &mut values[range], saved)?
            }
            (Values::Bf16(values), Some(Saved::Bf16(saved))) => {
                take(&name, &mut values[range], saved)?;
            }
            (Values::Int8 { codes, .. }, Some(Saved::Bytes(saved))) => {
                take(&name, &mut codes[range], saved)?;
            }
            (_, None) => bail!("{name} is missing from the optimiser's state"),
            (_, Some(_)) => bail!("{name} stands in another form in the optimiser's state"),
        }
    }
    if let Values::Int8 { scales, .. } = values {
        let name = of_scales(moment, spec);
        let Some(Saved::F32(saved)) = given.remove(&name[..]) else {
            bail!("{name} is missing from the optimiser's state");
        };
        take(&name, scales, saved)?;
    }
    Ok(())
}

fn take<T: Copy>(name: &str, values: &mut [T], saved: &[T]) -> Result<()> {
    ensure!(
        saved.len() == values.len(),
        "{name}: {} values in the state, {} in the model",
        saved.len(),
        values.len()
    );
    values.copy_from_slice(saved);
    Ok(())
}
