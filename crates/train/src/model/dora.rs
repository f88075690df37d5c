//! Weight-decomposed adapters (DoRA, Liu et al. 2024, arXiv 2402.09353), as PEFT has them: beside a map
//! of W the layer computes b + m / ‖W + s B A‖ ∘ (x · (W + s B A)ᵀ), with a norm and a trained
//! magnitude m for each output. m begins as the norm, and the norm is a constant of the backward
//! pass. Norms and ratios are made when an adapter has moved, once for all passes until it moves again.

use std::sync::Arc;

use super::ModelConfig;
use super::adapter::{Adapter, Layout, Pair};
use super::peft::Base;
use super::stand::Unpacking;
use super::weights::{Projection, Weights};
use crate::ops::{Backend, Kind, LowRank, RowNormShape, RowNorms};

/// What a fused map's outputs are divided and multiplied by.
pub(super) struct Strength<T> {
    /// ‖W + s B A‖ `[outputs]`; infinity at outputs without an adapter, which have no gradient.
    pub norms: T,
    /// Magnitude over norm `[outputs]`; 1 at outputs without an adapter.
    pub ratios: T,
}

/// An adapter beside a decoder's weights.
pub(super) struct Attached<T> {
    pub layout: Arc<Layout>,
    pub tensors: Adapter<T>,
    /// Whose weights they are.
    pub base: Base,
    /// With DoRA, by layer and [`Projection`].
    strengths: Vec<[Option<Strength<T>>; 4]>,
    /// Whether the adapter moved after those were made.
    moved: bool,
}

impl<T> Attached<T> {
    pub fn new<B: Backend<Tensor = T>>(
        backend: &B,
        layout: Layout,
        tensors: Adapter<T>,
        base: Base,
    ) -> Self {
        let strength = |pair: &Option<Pair<T>>| {
            let len = backend.len(pair.as_ref()?.magnitude.as_ref()?);
            let all = |value| backend.tensor(Kind::Statistic, vec![value; len]);
            Some(Strength { norms: all(f32::INFINITY), ratios: all(1.0) })
        };
        let layers = tensors.layers.iter();
        let strengths = layers.map(|pairs| pairs.each_ref().map(strength)).collect();
        Self { layout: Arc::new(layout), tensors, base, strengths, moved: true }
    }

    /// The tensors, which may move.
    pub fn tensors_mut(&mut self) -> Vec<&mut T> {
        self.moved = true;
        self.tensors.all_mut()
    }

    pub fn strength(&self, l: usize, projection: Projection) -> Option<&Strength<T>> {
        self.strengths[l][projection as usize].as_ref()
    }

    /// Every tensor that a pass reads.
    pub fn all_read(&self) -> impl Iterator<Item = &T> {
        let strengths = self.strengths.iter().flatten().flatten();
        let strengths = strengths.flat_map(|strength| [&strength.norms, &strength.ratios]);
        self.tensors.all().into_iter().chain(strengths)
    }

    /// How wide a row is of what [`super::beside::Aside`] has room for; none where nothing is dropped
    /// or scaled.
    pub fn widths_aside(&self, config: &ModelConfig) -> Option<[usize; 3]> {
        let most = |widths: [usize; 4]| widths.into_iter().max().unwrap_or(0);
        let widths = self.layout.widths();
        let (low, plain) = (most(widths.low), most(widths.plain));
        let drops = self.layout.lora.dropout > 0.0;
        // One module's part is at most all that its map makes.
        let [read, part] = if drops { [config.widest(), low.max(plain)] } else { [0; 2] };
        (drops || plain > 0).then_some([read, part, plain])
    }

    /// Whether norms and ratios are those of where it was before.
    pub fn has_moved(&self) -> bool {
        self.moved && self.layout.lora.dora
    }

    /// Makes norms and ratios of the adapter as it stands.
    pub fn refresh<B: Backend<Tensor = T>>(
        &mut self,
        backend: &B,
        weights: &Weights<T>,
        unpacking: Option<Unpacking<'_, T>>,
    ) {
        self.moved = false;
        let scale = self.layout.lora.scale();
        for (l, strengths) in self.strengths.iter_mut().enumerate() {
            for (strength, projection) in strengths.iter_mut().zip(Projection::ALL) {
                let (Some(Strength { norms, ratios }), Some(place), Some(pair)) = (
                    strength.as_mut(),
                    self.layout.place(l, projection),
                    self.tensors.layers[l][projection as usize].as_ref(),
                ) else {
                    continue;
                };
                let Some(magnitude) = &pair.magnitude else { continue };
                let weight = &weights.layers[l].linear(projection).weight;
                let mut unpacked = unpacking.map(|(packing, room)| {
                    let mut room = room.borrow_mut();
                    backend.unpack(&mut room, weight, packing.how(projection));
                    room
                });
                let weight = unpacked.as_deref_mut().map_or(weight, |unpacked| &*unpacked);
                for module in &place.modules {
                    let shape = RowNormShape {
                        inputs: place.inputs,
                        outputs: place.outputs,
                        rows: module.columns.clone(),
                        ranks: module.rows.clone(),
                    };
                    let into = RowNorms { norms: &mut *norms, ratios: &mut *ratios };
                    let low = LowRank { down: &pair.down, up: &pair.up, scale };
                    backend.row_norms(into, magnitude, weight, low, shape);
                }
            }
        }
    }

    /// Lets every magnitude be its row's norm, as it is at the beginning; after [`Attached::refresh`].
    pub fn begin_magnitudes<B: Backend<Tensor = T>>(&mut self, backend: &B) {
        let strengths = self.strengths.iter().flatten();
        let pairs = self.tensors.layers.iter_mut().flatten();
        for (strength, pair) in strengths.zip(pairs) {
            let magnitude = pair.as_mut().and_then(|pair| pair.magnitude.as_mut());
            let (Some(strength), Some(magnitude)) = (strength, magnitude) else { continue };
            let mut norms = backend.values(&strength.norms, backend.len(&strength.norms));
            norms.iter_mut().filter(|norm| !norm.is_finite()).for_each(|norm| *norm = 0.0);
            backend.write(magnitude, &norms);
        }
        self.moved = true;
    }
}
