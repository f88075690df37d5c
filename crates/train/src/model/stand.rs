//! How a decoder's weights stand: what they are for, and whether the layers' linear maps are packed in
//! 4 bits a value, as QLoRA has them under an adapter (and transformers where it loads in 4 bits).
//! Embedding, head, norms and biases never are. A packed map's tensor holds the words of
//! [`crate::ops::nf4`], each of the checkpoint's matrices by itself.

use std::borrow::Cow;
use std::cell::RefCell;

use super::weights::{Projection, Spec, Weights};
use crate::ops::{Backend, Cpu, Kind, Nf4, Stored};

/// How weights stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stand {
    /// What they are for.
    pub kind: Kind,
    /// How the layers' linear maps are packed, which then stay as they are.
    pub packed: Option<Nf4>,
}

impl From<Kind> for Stand {
    fn from(kind: Kind) -> Self {
        Self { kind, packed: None }
    }
}

impl From<Nf4> for Stand {
    fn from(form: Nf4) -> Self {
        Self { kind: Kind::Frozen, packed: Some(form) }
    }
}

impl Stand {
    fn packs(self, spec: &Spec) -> Option<Nf4> {
        self.packed.filter(|_| spec.is_map())
    }

    /// A tensor of these values.
    pub(super) fn tensor<B: Backend>(
        self,
        backend: &B,
        spec: &Spec,
        values: Vec<f32>,
    ) -> B::Tensor {
        let Some(form) = self.packs(spec) else { return backend.tensor(self.kind, values) };
        let parts = spec.parts.iter().map(|part| Cow::Borrowed(&values[part.range.clone()]));
        backend.tensor(Kind::Packed, form.pack(parts))
    }

    /// A tensor of a file's values.
    pub(super) fn load<B: Backend>(
        self,
        backend: &B,
        spec: &Spec,
        parts: &[Stored<'_>],
    ) -> B::Tensor {
        match self.packs(spec) {
            None => backend.load(self.kind, parts),
            Some(form) => backend.tensor(Kind::Packed, form.pack_stored(parts)),
        }
    }

    /// A tensor of zeros.
    pub(super) fn zeros<B: Backend>(self, backend: &B, spec: &Spec) -> B::Tensor {
        match self.packs(spec) {
            None => backend.zeros(self.kind, spec.elements()),
            Some(form) => {
                let words = spec.lens().into_iter().map(|len| form.words(len)).sum();
                backend.zeros(Kind::Packed, words)
            }
        }
    }

    /// The values of a tensor that stands so.
    pub(super) fn values<B: Backend>(
        self,
        backend: &B,
        spec: &Spec,
        tensor: &B::Tensor,
    ) -> Vec<f32> {
        let Some(form) = self.packs(spec) else { return backend.values(tensor, spec.elements()) };
        let words = backend.values(tensor, backend.len(tensor));
        let mut values = vec![0.0; spec.elements()];
        Cpu.unpack(&mut values, &words, (form, &spec.lens()));
        values
    }
}

/// The same with where one is unpacked for its products.
pub(super) type Unpacking<'a, T> = (&'a Packing, &'a RefCell<T>);

/// How the layers' linear maps are packed, in every layer alike.
#[derive(Debug)]
pub(super) struct Packing {
    form: Nf4,
    /// The values of each checkpoint's matrix.
    lens: [Vec<usize>; 4],
}

impl Packing {
    /// That of a model's weights, where they have one.
    pub fn of(stand: Stand, specs: &Weights<Spec>) -> Option<Self> {
        let (form, layer) = stand.packed.zip(specs.layers.first())?;
        Some(Self { form, lens: Projection::ALL.map(|one| layer.linear(one).weight.lens()) })
    }

    /// That of a map.
    pub fn how(&self, projection: Projection) -> (Nf4, &[usize]) {
        (self.form, &self.lens[projection as usize])
    }

    /// Values of the largest map.
    pub fn largest(&self) -> usize {
        self.lens.iter().map(|lens| lens.iter().sum()).max().unwrap_or(0)
    }
}
