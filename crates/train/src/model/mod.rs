//! The model: a decoder-only transformer of one of the families in [`config`], trained and run by
//! hand-written passes over a [`Backend`]. [`weights`] says which tensors there are, `folder` reads
//! and writes them in the Hugging Face layout, `decoder` is the mathematics, `cache` decodes.
//! [`Model`] is the decoder on the processor.

mod activations;
pub mod adapter;
mod backward;
mod batch;
mod beside;
mod cache;
pub mod config;
mod decoder;
mod dora;
pub mod family;
mod fields;
mod folder;
mod passes;
pub mod peft;
mod projection;
mod repeats;
pub mod rope;
mod side_by_side;
mod stand;
mod training;
pub mod weights;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;

use crate::ops::{Backend, Cpu, Kind};
use adapter::{Adapter, Layout, Lora, Pair, Trained};
use dora::Attached;
use passes::Memory;
use projection::Moment;
use stand::Packing;
use weights::{Part, Spec, Weights};

pub use activations::Recompute;
pub use batch::Batch;
pub use cache::{KvCache, Logits};
pub(crate) use cache::{LEAST_REACH, PREFILL, PREFILL_AHEAD};
pub use config::ModelConfig;
pub use folder::Dtype;
pub use peft::Base;
pub use repeats::MOST as KEPT_RECORDINGS;
pub use side_by_side::{Meeting, Seat};
pub use stand::Stand;
pub use training::{Room, Take};

/// A decoder on the processor.
pub type Model = Decoder<Cpu>;

/// A decoder with its weights and the memory of its passes, on some backend.
pub struct Decoder<B: Backend> {
    backend: B,
    config: ModelConfig,
    specs: Arc<Weights<Spec>>,
    /// Shared by decoders that train adapters beside them.
    weights: Arc<Weights<B::Tensor>>,
    /// How the weights stand.
    stand: Stand,
    packing: Option<Arc<Packing>>,
    /// What is trained beside the weights, which then stay as they are.
    adapter: Option<Attached<B::Tensor>>,
    /// What training passes make again.
    recompute: Recompute,
    /// Where its training stands.
    moment: Moment,
    memory: Memory<B>,
    /// Where it meets the runs that it is trained side by side with.
    seat: Option<Seat<B>>,
}

impl<B: Backend + Clone> Decoder<B> {
    /// A decoder of `config` whose tensors `tensor` makes.
    fn build(
        backend: B,
        config: ModelConfig,
        stand: Stand,
        mut tensor: impl FnMut(&B, &Spec) -> Result<B::Tensor>,
    ) -> Result<Self> {
        let specs = Arc::new(weights::specs(&config));
        let weights = Arc::new(specs.try_map(|spec| tensor(&backend, spec))?);
        let packing = Packing::of(stand, &specs).map(Arc::new);
        Ok(Self {
            backend,
            config,
            specs,
            weights,
            stand,
            packing,
            adapter: None,
            recompute: Recompute::None,
            moment: Moment::default(),
            memory: Memory::default(),
            seat: None,
        })
    }

    /// Another decoder over the same weights, which neither can train any more: an adapter is to come
    /// beside them.
    #[must_use]
    pub fn share(&self) -> Self {
        Self {
            backend: self.backend.clone(),
            config: self.config.clone(),
            specs: Arc::clone(&self.specs),
            weights: Arc::clone(&self.weights),
            stand: Stand { kind: Kind::Frozen, ..self.stand },
            packing: self.packing.clone(),
            adapter: None,
            recompute: self.recompute,
            moment: Moment::default(),
            memory: Memory::default(),
            seat: None,
        }
    }

    /// Gives up its place beside other runs: no more passes are to come that they would wait for.
    pub fn leave(&mut self) {
        self.seat = None;
    }

    /// Waits for something that a run side by side with this one may be at, without being waited for.
    pub fn aside<T>(&self, wait: impl FnOnce() -> T) -> T {
        match &self.seat {
            Some(seat) => seat.aside(wait),
            None => wait(),
        }
    }

    /// Whether it computes what its base does, for the adapter beside that adds nothing yet. One with
    /// magnitudes does so in another order, and not to the bit.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        let Some(Attached { tensors, .. }) = &self.adapter else { return false };
        tensors.layers.iter().flatten().flatten().all(|Pair { up, magnitude, .. }| {
            let len = self.backend.len(up);
            magnitude.is_none() && self.backend.view(up, len).iter().all(|x| *x == 0.0)
        })
    }

    /// Puts an adapter of random values beside the weights, which stay from now on; `base` says
    /// whose weights they are. See [`Layout::initial`].
    pub fn attach(&mut self, lora: Lora, base: Base, seed: u64) {
        let layout = Layout::new(lora, &self.specs);
        let values = layout.initial(seed);
        self.attach_values(layout, &values, base);
        self.refresh();
        if let Some(attached) = &mut self.adapter {
            attached.begin_magnitudes(&self.backend);
        }
    }

    fn attach_values(&mut self, layout: Layout, values: &Adapter<Vec<f32>>, base: Base) {
        let tensors = values.map(|values| self.backend.tensor(Kind::Weight, values.clone()));
        self.adapter = Some(Attached::new(&self.backend, layout, tensors, base));
        // Its room depends on the adapter.
        self.memory = Memory::default();
    }

    /// Number of values that are trained: all, or those of the adapter.
    #[must_use]
    pub fn trained_count(&self) -> usize {
        let of_adapter = self.adapter.as_ref().map(|attached| attached.layout.parameter_count());
        of_adapter.unwrap_or_else(|| self.parameter_count())
    }

    /// A decoder with random weights: normal with the config's `initializer_range`, matrices that
    /// write to the residual stream smaller by √(2L), norms such that they leave the scale alone,
    /// biases zero. The same seed gives the same bytes. `stand` as for [`Decoder::load_as`].
    #[must_use]
    pub fn random_as(backend: B, stand: impl Into<Stand>, config: ModelConfig, seed: u64) -> Self {
        let (facts, stand) = (config.clone(), stand.into());
        let draw = |backend: &B, spec: &Spec| {
            Ok(stand.tensor(backend, spec, weights::initial(spec, &facts, seed)))
        };
        Self::build(backend, config, stand, draw).expect("drawing cannot fail")
    }

    /// The same, to be trained with exact weights.
    #[must_use]
    pub fn random_on(backend: B, config: ModelConfig, seed: u64) -> Self {
        Self::random_as(backend, Kind::Weight, config, seed)
    }

    /// The same weights on another backend, without an adapter. `stand` as for
    /// [`Decoder::load_as`].
    #[must_use]
    pub fn copy_as<C: Backend + Clone>(&self, backend: C, stand: impl Into<Stand>) -> Decoder<C> {
        let stand = stand.into();
        let mut all = self.specs.all().into_iter().zip(self.weights.all());
        let copy = |backend: &C, _: &Spec| {
            let (spec, tensor) = all.next().expect("as many tensors as specs");
            if stand.packed == self.stand.packed && self.stand.packed.is_some() && spec.is_map() {
                // Packed again, scales would be rounded again.
                let words = self.backend.values(tensor, self.backend.len(tensor));
                return Ok(backend.tensor(Kind::Packed, words));
            }
            Ok(stand.tensor(backend, spec, self.stand.values(&self.backend, spec, tensor)))
        };
        Decoder::build(backend, self.config.clone(), stand, copy).expect("copying cannot fail")
    }

    /// The same, for what they are for here.
    #[must_use]
    pub fn copy_to<C: Backend + Clone>(&self, backend: C) -> Decoder<C> {
        self.copy_as(backend, self.stand)
    }

    /// What the model is.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Number of weights; a tied head counts once. An adapter is not counted.
    #[must_use]
    pub fn parameter_count(&self) -> usize {
        self.specs.all().iter().map(|spec| spec.elements()).sum()
    }

    /// The name of the first trained tensor with a value that is no number.
    #[must_use]
    pub fn first_not_finite(&self) -> Option<String> {
        let specs = self.trained_specs();
        let tensors = match &self.adapter {
            None => self.weights.all(),
            Some(attached) => attached.tensors.all(),
        };
        specs.all().into_iter().zip(tensors).find_map(|(spec, tensor)| {
            let values = self.backend.view(tensor, spec.elements());
            let is_whole = |part: &Part| values[part.range.clone()].iter().all(|x| x.is_finite());
            spec.parts.iter().find(|part| !is_whole(part)).map(|part| part.name.clone())
        })
    }

    /// What the optimiser needs of the model.
    pub(crate) fn trained_specs(&self) -> Arc<Trained<Spec>> {
        Arc::new(match &self.adapter {
            None => Trained::Full(Weights::clone(&self.specs)),
            Some(attached) => Trained::Adapter(attached.layout.specs()),
        })
    }

    /// The element type that holds the weights as they are trained, exactly.
    #[must_use]
    pub fn exact_dtype(&self) -> Dtype {
        if self.trained_kind() == Kind::Narrow { Dtype::Bf16 } else { Dtype::F32 }
    }

    /// What those tensors are for: [`Kind::Narrow`] where they stand in bf16 alone. An adapter is
    /// always exact.
    pub(crate) fn trained_kind(&self) -> Kind {
        if self.adapter.is_some() { Kind::Weight } else { self.stand.kind }
    }

    /// Where its tensors are.
    #[must_use]
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// A decoder whose weights are all zero, to be filled with another's.
    pub(crate) fn empty_on(backend: B, config: ModelConfig, stand: Stand) -> Result<Self> {
        Self::build(backend, config, stand, |backend, spec| Ok(stand.zeros(backend, spec)))
    }

    /// Every tensor: the weights, then the adapter's.
    pub(crate) fn tensors(&self) -> Vec<&B::Tensor> {
        let mut all = self.weights.all();
        all.extend(self.adapter.iter().flat_map(|attached| attached.tensors.all()));
        all
    }

    /// The same to write to, of weights that are no other model's too.
    pub(crate) fn tensors_mut(&mut self) -> Vec<&mut B::Tensor> {
        let weights = Arc::get_mut(&mut self.weights);
        let mut all = weights.expect("shared weights do not change").all_mut();
        all.extend(self.adapter.iter_mut().flat_map(Attached::tensors_mut));
        all
    }

    /// The values of one of the tensors that are trained.
    pub(crate) fn trained_values(&self, index: usize) -> Cow<'_, [f32]> {
        let tensor = match &self.adapter {
            None => self.weights.all()[index],
            Some(attached) => attached.tensors.all()[index],
        };
        self.backend.view(tensor, self.backend.len(tensor))
    }

    /// The tensors that are trained, in the order of their specs.
    pub(crate) fn trained_mut(&mut self) -> Vec<&mut B::Tensor> {
        match &mut self.adapter {
            None => {
                let weights = Arc::get_mut(&mut self.weights);
                weights.expect("shared weights are not trained").all_mut()
            }
            Some(attached) => attached.tensors_mut(),
        }
    }
}

impl Model {
    /// A model with random weights; see [`Decoder::random_on`].
    #[must_use]
    pub fn random(config: ModelConfig, seed: u64) -> Self {
        Self::random_on(Cpu, config, seed)
    }

    /// The checkpoint's tensors by name, in its order.
    #[must_use]
    pub fn parameters(&self) -> Vec<(&str, &[f32])> {
        named(&self.specs, &self.weights)
    }

    /// The same to write to.
    ///
    /// # Panics
    /// If the weights are shared.
    pub fn parameters_mut(&mut self) -> Vec<(&str, &mut [f32])> {
        let weights = Arc::get_mut(&mut self.weights).expect("shared weights do not change");
        let mut all = Vec::new();
        for (spec, tensor) in self.specs.all().into_iter().zip(weights.all_mut()) {
            let mut rest = &mut tensor[..];
            for part in &spec.parts {
                let (values, after) = rest.split_at_mut(part.range.len());
                all.push((part.name.as_str(), values));
                rest = after;
            }
        }
        all
    }
}

fn named<'a>(
    specs: &'a Weights<Spec>,
    weights: &'a Weights<Vec<f32>>,
) -> Vec<(&'a str, &'a [f32])> {
    let tensors = specs.all().into_iter().zip(weights.all());
    tensors
        .flat_map(|(spec, tensor)| {
            spec.parts.iter().map(|part| (part.name.as_str(), &tensor[part.range.clone()]))
        })
        .collect()
}

/// The gradient of everything that is trained, or, where each layer's is taken as soon as it is
/// complete, of one layer, of the final norm, and of the embedding and the head in turn.
pub struct Gradients<B: Backend = Cpu> {
    backend: B,
    specs: Arc<Trained<Spec>>,
    tensors: Trained<B::Tensor>,
    /// Of the adapter, where one is trained.
    layout: Option<Arc<Layout>>,
}

impl<B: Backend + Clone> Gradients<B> {
    /// Zeros for a model.
    #[must_use]
    pub fn zeros(model: &Decoder<B>) -> Self {
        let specs = model.trained_specs();
        let tensors = specs.map(|spec| model.backend.zeros(Kind::Gradient, spec.elements()));
        let layout = model.adapter.as_ref().map(|attached| Arc::clone(&attached.layout));
        Self { backend: model.backend.clone(), specs, tensors, layout }
    }

    /// Zeros for a model whose gradients are taken piece by piece, which no adapter's are; see
    /// [`Decoder::forward_backward_by_piece`].
    #[must_use]
    pub fn by_piece(model: &Decoder<B>) -> Self {
        let mut specs = Weights::clone(&model.specs);
        specs.layers.truncate(1);
        specs.lm_head = None;
        let specs = Arc::new(Trained::Full(specs));
        let tensors = specs.map(|spec| model.backend.zeros(Kind::Gradient, spec.elements()));
        Self { backend: model.backend.clone(), specs, tensors, layout: None }
    }

    /// Back to zero.
    pub fn clear(&mut self) {
        for (spec, tensor) in self.specs.all().into_iter().zip(self.tensors.all_mut()) {
            self.backend.fill(tensor, spec.elements(), 0.0);
        }
    }

    /// √ of the sum of all squares, summed in f64 in a fixed order.
    #[must_use]
    pub fn global_norm(&self) -> f64 {
        self.backend.squares(&self.tensors.all()).iter().sum::<f64>().sqrt()
    }

    /// Sums of the squares of some tensors' runs, by the tensors' numbers.
    pub(crate) fn squares(&self, runs: &[(usize, Range<usize>)]) -> Vec<f64> {
        let all = self.tensors.all();
        let some: Vec<_> = runs.iter().map(|(number, run)| (all[*number], run.clone())).collect();
        self.backend.squares_of_runs(&some)
    }

    pub(crate) fn tensors(&self) -> &Trained<B::Tensor> {
        &self.tensors
    }

    pub(crate) fn tensors_mut(&mut self) -> Vec<&mut B::Tensor> {
        self.tensors.all_mut()
    }

    /// Copies of all gradients by the checkpoint's names, or an adapter's by PEFT's.
    #[must_use]
    pub fn named(&self) -> Vec<(String, Vec<f32>)> {
        if let (Some(layout), Trained::Adapter(tensors)) = (&self.layout, &self.tensors) {
            let values =
                tensors.map(|tensor| self.backend.values(tensor, self.backend.len(tensor)));
            let matrices = layout.matrices(&values).into_iter();
            return matrices.map(|matrix| (matrix.name, matrix.values)).collect();
        }
        let mut all = Vec::new();
        for (spec, tensor) in self.specs.all().into_iter().zip(self.tensors.all()) {
            let values = self.backend.values(tensor, spec.elements());
            all.extend(
                spec.parts
                    .iter()
                    .map(|part| (part.name.clone(), values[part.range.clone()].to_vec())),
            );
        }
        all
    }
}
