//! The optimiser: AdamW over what is trained of a model, with its moments and their way into and out
//! of a checkpoint. The arithmetic of one tensor is in [`crate::ops::adamw`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::model::adapter::Trained;
use crate::model::weights::{Piece, Spec};
use crate::model::{Decoder, Gradients};
use crate::ops::{AdamWStep, Backend, Cpu, Kind};

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
    /// Steps done.
    steps: u64,
    /// First and second moments.
    moments: [Trained<B::Tensor>; 2],
    specs: Arc<Trained<Spec>>,
    /// Which tensors are this optimiser's; the others' moments are empty and they stay as they are.
    mine: Vec<bool>,
}

/// One tensor's first (0) or second (1) moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// First or second.
    pub which: usize,
    /// Number of the tensor.
    pub index: usize,
}

/// A moment by its name in a checkpoint.
pub type Named<'a> = (String, Cow<'a, [f32]>);

/// What the moments are called in a checkpoint, as PyTorch calls them.
const MOMENTS: [&str; 2] = ["exp_avg", "exp_avg_sq"];

impl<B: Backend + Clone> AdamW<B> {
    /// Moments at zero and the usual constants, which the caller may change before the first step.
    #[must_use]
    pub fn new(model: &Decoder<B>) -> Self {
        let all = vec![true; model.trained_specs().all().len()];
        Self::of_part(model, all)
    }

    /// The same for a part of the tensors, given as one flag for each in the order of their specs.
    #[must_use]
    pub fn of_part(model: &Decoder<B>, mine: Vec<bool>) -> Self {
        let specs = model.trained_specs();
        let zeros = || {
            let mut mine = mine.iter();
            specs.map(|spec| {
                let is_mine = mine.next().is_some_and(|&mine| mine);
                let elements = if is_mine { spec.elements() } else { 0 };
                model.backend().zeros(Kind::Moment, elements)
            })
        };
        let moments = [zeros(), zeros()];
        let (beta1, beta2, eps, weight_decay) = (0.9, 0.999, 1e-8, 0.0);
        Self { beta1, beta2, eps, weight_decay, steps: 0, moments, specs, mine }
    }

    /// Moves everything that is trained, as far as it is this optimiser's, against its gradient.
    pub fn step(&mut self, model: &mut Decoder<B>, gradients: &Gradients<B>, learning_rate: f32) {
        self.begin();
        let (backend, step) = (model.backend().clone(), self.at(learning_rate));
        let [first, second] = &mut self.moments;
        let moments = first.all_mut().into_iter().zip(second.all_mut());
        let tensors = model.trained_mut().into_iter().zip(gradients.tensors().all());
        let all = self.specs.all().into_iter().zip(tensors).zip(moments).zip(&self.mine);
        for (((spec, (parameter, gradient)), (first, second)), _) in all.filter(|(_, mine)| **mine)
        {
            let step = step.decaying(spec.decays());
            backend.adamw(&step, parameter, gradient, [first, second]);
        }
    }

    /// The step that is being done.
    fn at(&self, learning_rate: f32) -> AdamWStep {
        let Self { steps: step, beta1, beta2, eps, weight_decay, .. } = *self;
        AdamWStep { step, learning_rate, beta1, beta2, eps, weight_decay }
    }

    /// Begins a step whose pieces come one by one, through [`AdamW::step_piece`].
    pub fn begin(&mut self) {
        self.steps += 1;
    }

    /// Moves a piece of the weights against its gradients: all pieces of a step together do what
    /// [`AdamW::step`] does.
    pub fn step_piece(
        &mut self,
        backend: &B,
        piece: Piece,
        (weights, gradients): (Vec<&mut B::Tensor>, &[&mut B::Tensor]),
        learning_rate: f32,
    ) {
        let step = self.at(learning_rate);
        let [Trained::Full(first), Trained::Full(second)] = &mut self.moments else { return };
        let Trained::Full(specs) = &*self.specs else { return };
        let moments = first.piece_mut(piece).into_iter().zip(second.piece_mut(piece));
        let tensors = weights.into_iter().zip(gradients);
        for ((spec, (parameter, gradient)), (first, second)) in
            specs.piece(piece).into_iter().zip(tensors).zip(moments)
        {
            let step = step.decaying(spec.decays());
            backend.adamw(&step, parameter, gradient, [first, second]);
        }
    }
}

impl<B: Backend + Clone> AdamW<B> {
    /// Steps done, and the moments as `exp_avg.<parameter>` and `exp_avg_sq.<parameter>`. `elsewhere` gives those
    /// of tensors that are another optimiser's.
    ///
    /// # Errors
    /// The first that `elsewhere` returns.
    pub fn state<'a>(
        &'a self,
        backend: &B,
        mut elsewhere: impl FnMut(Moment) -> Result<Vec<f32>>,
    ) -> Result<(u64, Vec<Named<'a>>)> {
        let mut all = Vec::new();
        for (which, name) in MOMENTS.iter().enumerate() {
            for (index, spec) in self.specs.all().into_iter().enumerate() {
                let moment = Moment { which, index };
                let values = match self.mine[index] {
                    true => self.moment(backend, moment),
                    false => Cow::Owned(elsewhere(moment)?),
                };
                all.extend(spec.parts.iter().map(|part| {
                    let part_values = match &values {
                        Cow::Borrowed(values) => Cow::Borrowed(&values[part.range.clone()]),
                        Cow::Owned(values) => Cow::Owned(values[part.range.clone()].to_vec()),
                    };
                    (format!("{name}.{}", part.name), part_values)
                }));
            }
        }
        Ok((self.steps, all))
    }

    /// Takes up the state that [`AdamW::state`] gave; what is another optimiser's goes to `elsewhere`.
    ///
    /// # Errors
    /// If a moment is missing, of another length, or of a parameter that the model does not have; and the first that
    /// `elsewhere` returns.
    pub fn restore(
        &mut self,
        backend: &B,
        steps: u64,
        moments: &[(String, Vec<f32>)],
        mut elsewhere: impl FnMut(Moment, Vec<f32>) -> Result<()>,
    ) -> Result<()> {
        let mut given: BTreeMap<&str, &[f32]> =
            moments.iter().map(|(name, values)| (&name[..], &values[..])).collect();
        let specs = Arc::clone(&self.specs);
        for (which, name) in MOMENTS.iter().enumerate() {
            for (index, spec) in specs.all().into_iter().enumerate() {
                let mut values = vec![0.0; spec.elements()];
                restore_one(name, spec, &mut values, &mut given)?;
                let moment = Moment { which, index };
                match self.mine[index] {
                    true => self.set_moment(backend, moment, values),
                    false => elsewhere(moment, values)?,
                }
            }
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

    /// A moment of one of its tensors.
    pub(crate) fn moment(&self, backend: &B, moment: Moment) -> Cow<'_, [f32]> {
        let elements = self.specs.all()[moment.index].elements();
        backend.view(self.moments[moment.which].all()[moment.index], elements)
    }

    /// Puts a moment of one of its tensors where it was.
    pub(crate) fn set_moment(&mut self, backend: &B, moment: Moment, values: Vec<f32>) {
        backend.write(self.moments[moment.which].all_mut()[moment.index], &values);
    }

    /// Goes on counting from here.
    pub(crate) fn set_steps(&mut self, steps: u64) {
        self.steps = steps;
    }
}

fn restore_one(
    moment: &str,
    spec: &Spec,
    tensor: &mut [f32],
    given: &mut BTreeMap<&str, &[f32]>,
) -> Result<()> {
    for part in &spec.parts {
        let name = format!("{moment}.{}", part.name);
        let values = given.remove(&name[..]);
        let found = values.map_or(0, <[f32]>::len);
        ensure!(
            found == part.range.len(),
            "{name}: {found} values in the state, {} in the model",
            part.range.len()
        );
        tensor[part.range.clone()].copy_from_slice(values.unwrap_or_default());
    }
    Ok(())
}
