//! Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685): beside a matrix W `[outputs, inputs]`
//! that stays as it is stand A `[r, inputs]` and B `[outputs, r]`, the layer computes
//! x · (W + s B A)ᵀ, and A and B alone are trained. What meets the same input stands in one tensor,
//! as in [`super::weights`], so that an adapter costs two thin products a fused map: [`Pair`] says
//! how, and [`Layout`] where each module of a checkpoint stands in it.

use std::ops::Range;

use anyhow::Result;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Serialize;

use super::weights::{LayerWeights, Part, Projection, Role, Spec, Weights};
use crate::ops::Backend;

/// A linear map that an adapter can stand beside, by its name in every family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Queries.
    QProj,
    /// Keys.
    KProj,
    /// Values.
    VProj,
    /// What was attended to, back into the stream.
    OProj,
    /// The feed-forward's gate.
    GateProj,
    /// What the gate multiplies.
    UpProj,
    /// The gated values, back into the stream.
    DownProj,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::QProj,
        Self::KProj,
        Self::VProj,
        Self::OProj,
        Self::GateProj,
        Self::UpProj,
        Self::DownProj,
    ];

    /// Its name in a checkpoint.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
            Self::OProj => "o_proj",
            Self::GateProj => "gate_proj",
            Self::UpProj => "up_proj",
            Self::DownProj => "down_proj",
        }
    }
}

/// What an adapter is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lora {
    /// r: rows of A.
    pub rank: usize,
    /// The scale s is alpha / r,
    pub alpha: f64,
    /// or alpha / √r with rsLoRA (Kalajdzievski 2023, arXiv 2312.03732).
    pub rslora: bool,
    /// Share of what an adapter reads that is dropped in training. Maps that read the same input, such
    /// as those to queries, keys and values, have it dropped alike.
    #[serde(skip_serializing_if = "is_zero")]
    pub dropout: f64,
    /// The maps that have one, sorted.
    pub targets: Vec<Target>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

impl Lora {
    /// s: what the product of A and B is multiplied by.
    #[must_use]
    pub fn scale(&self) -> f32 {
        let rank = self.rank as f64;
        (self.alpha / if self.rslora { rank.sqrt() } else { rank }) as f32
    }
}

/// One value for each tensor of an adapter, by layer and [`Projection`].
#[derive(Debug, Clone)]
pub struct Adapter<T> {
    /// L of them.
    pub layers: Vec<[Option<Pair<T>>; 4]>,
}

/// The two tensors beside a fused map of M targeted modules; R = M r. The rows `m r .. (m + 1) r` are
/// module m's.
#[derive(Debug, Clone)]
pub struct Pair<T> {
    /// `[R, inputs]`: the A of all modules, one after the other.
    pub down: T,
    /// `[R, outputs]`: the Bᵀ of each module, in the columns of that module alone; zero elsewhere.
    pub up: T,
}

impl<T> Adapter<T> {
    /// Every tensor, in order.
    pub fn all(&self) -> Vec<&T> {
        let pairs = self.layers.iter().flatten().flatten();
        pairs.flat_map(|pair| [&pair.down, &pair.up]).collect()
    }

    /// Every tensor, in the same order.
    pub fn all_mut(&mut self) -> Vec<&mut T> {
        let pairs = self.layers.iter_mut().flatten().flatten();
        pairs.flat_map(|pair| [&mut pair.down, &mut pair.up]).collect()
    }

    /// The same structure with each tensor put through `f`, in the same order.
    pub fn map<U>(&self, mut f: impl FnMut(&T) -> U) -> Adapter<U> {
        let layers = self.layers.iter().map(|pairs| {
            pairs
                .each_ref()
                .map(|pair| pair.as_ref().map(|pair| Pair { down: f(&pair.down), up: f(&pair.up) }))
        });
        Adapter { layers: layers.collect() }
    }
}

/// One value for each tensor that is trained.
#[derive(Debug, Clone)]
pub enum Trained<T> {
    /// All weights.
    Full(Weights<T>),
    /// An adapter beside weights that stay.
    Adapter(Adapter<T>),
}

impl<T> Trained<T> {
    /// Every tensor, in order.
    pub fn all(&self) -> Vec<&T> {
        match self {
            Self::Full(weights) => weights.all(),
            Self::Adapter(adapter) => adapter.all(),
        }
    }

    /// Every tensor, in the same order.
    pub fn all_mut(&mut self) -> Vec<&mut T> {
        match self {
            Self::Full(weights) => weights.all_mut(),
            Self::Adapter(adapter) => adapter.all_mut(),
        }
    }

    /// The same structure with each tensor put through `f`.
    pub fn map<U>(&self, f: impl FnMut(&T) -> U) -> Trained<U> {
        match self {
            Self::Full(weights) => Trained::Full(weights.map(f)),
            Self::Adapter(adapter) => Trained::Adapter(adapter.map(f)),
        }
    }
}

/// One module's part of a [`Pair`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name in the checkpoint: `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// Its number among all tensors of the checkpoint, which its random values are drawn by.
    number: usize,
    /// Its outputs among those of the fused map.
    columns: Range<usize>,
}

/// The modules beside one fused map.
#[derive(Debug, Clone)]
pub struct Place {
    inputs: usize,
    outputs: usize,
    modules: Vec<Module>,
}

/// Which of a module's two matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// `[r, inputs]`.
    A,
    /// `[outputs, r]`.
    B,
}

/// A module's matrix, as PEFT keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`.
    pub name: String,
    /// Rows and columns.
    pub shape: [usize; 2],
    /// Row by row.
    pub values: Vec<f32>,
}

/// What PEFT calls a module's matrix.
#[must_use]
pub fn peft_name(module: &str, half: Half) -> String {
    format!("base_model.model.{module}.lora_{half:?}.weight")
}

/// Where each module of a model stands in its adapter.
#[derive(Debug, Clone)]
pub struct Layout {
    /// What the adapter is.
    pub lora: Lora,
    layers: Vec<[Option<Place>; 4]>,
}

impl Layout {
    /// The adapter of a model.
    #[must_use]
    pub fn new(lora: Lora, specs: &Weights<Spec>) -> Self {
        let place = |layer: &LayerWeights<Spec>, projection: Projection| {
            let parts = &layer.linear(projection).weight.parts;
            let inputs = parts.first()?.shape[1];
            let targeted = |part: &Part| {
                let module = part.name.strip_suffix(".weight")?;
                let is_meant = |target: &Target| module.ends_with(target.name());
                lora.targets.iter().any(is_meant).then(|| Module {
                    name: module.to_owned(),
                    number: part.number,
                    columns: part.range.start / inputs..part.range.end / inputs,
                })
            };
            let modules: Vec<Module> = parts.iter().filter_map(targeted).collect();
            let outputs = parts.last()?.range.end / inputs;
            (!modules.is_empty()).then_some(Place { inputs, outputs, modules })
        };
        let layers = specs.layers.iter().map(|layer| Projection::ALL.map(|one| place(layer, one)));
        Self { layers: layers.collect(), lora }
    }

    /// The rows of a pair that are the module's at this place.
    fn rows(&self, module: usize) -> Range<usize> {
        module * self.lora.rank..(module + 1) * self.lora.rank
    }

    /// R of each projection, 0 where there is no adapter.
    #[must_use]
    pub fn ranks(&self) -> [usize; 4] {
        let of = |place: &Option<Place>| {
            place.as_ref().map_or(0, |place| place.modules.len() * self.lora.rank)
        };
        self.layers.first().map_or([0; 4], |places| places.each_ref().map(of))
    }

    /// Number of trained values.
    #[must_use]
    pub fn parameter_count(&self) -> usize {
        let places = self.layers.iter().flatten().flatten();
        let values = places.flat_map(|place| {
            place.modules.iter().map(|module| place.inputs + module.columns.len())
        });
        values.sum::<usize>() * self.lora.rank
    }

    /// The tensors; `layers.0.qkv.down` is the first.
    #[must_use]
    pub fn specs(&self) -> Adapter<Spec> {
        let layers = self.layers.iter().enumerate().map(|(l, places)| {
            std::array::from_fn(|p| {
                let place = places[p].as_ref()?;
                let ranks = place.modules.len() * self.lora.rank;
                let one = |half: &str, width: usize| {
                    let name = format!("layers.{l}.{}.{half}", Projection::ALL[p].name());
                    let (shape, range) = (vec![ranks, width], 0..ranks * width);
                    Spec { parts: vec![Part { name, shape, role: Role::Matrix, range, number: 0 }] }
                };
                Some(Pair { down: one("down", place.inputs), up: one("up", place.outputs) })
            })
        });
        Adapter { layers: layers.collect() }
    }

    /// Every module's A and B.
    #[must_use]
    pub fn matrices(&self, adapter: &Adapter<Vec<f32>>) -> Vec<Matrix> {
        let (rank, mut all) = (self.lora.rank, Vec::new());
        let pairs = adapter.layers.iter().flatten().flatten();
        for (place, pair) in self.layers.iter().flatten().flatten().zip(pairs) {
            for (m, module) in place.modules.iter().enumerate() {
                let rows = self.rows(m);
                let down = &pair.down[rows.start * place.inputs..rows.end * place.inputs];
                let up = module.columns.clone().flat_map(|column| {
                    rows.clone().map(move |row| pair.up[row * place.outputs + column])
                });
                let matrix = |half, shape, values| Matrix {
                    name: peft_name(&module.name, half),
                    shape,
                    values,
                };
                all.push(matrix(Half::A, [rank, place.inputs], down.to_vec()));
                all.push(matrix(Half::B, [module.columns.len(), rank], up.collect()));
            }
        }
        all
    }

    /// An adapter of the matrices that `values` gives, in the shape that it is asked for.
    ///
    /// # Errors
    /// The first that `values` returns.
    pub fn assemble(
        &self,
        mut values: impl FnMut(&Module, Half, [usize; 2]) -> Result<Vec<f32>>,
    ) -> Result<Adapter<Vec<f32>>> {
        let mut adapter = self.specs().map(|spec| vec![0.0; spec.elements()]);
        let pairs = adapter.layers.iter_mut().flatten().flatten();
        for (place, pair) in self.layers.iter().flatten().flatten().zip(pairs) {
            for (m, module) in place.modules.iter().enumerate() {
                let (rank, rows, width) = (self.lora.rank, self.rows(m), module.columns.len());
                let a = values(module, Half::A, [rank, place.inputs])?;
                pair.down[rows.start * place.inputs..rows.end * place.inputs].copy_from_slice(&a);
                let b = values(module, Half::B, [width, rank])?;
                for (column, of_column) in module.columns.clone().zip(b.chunks_exact(rank)) {
                    for (row, value) in rows.clone().zip(of_column) {
                        pair.up[row * place.outputs + column] = *value;
                    }
                }
            }
        }
        Ok(adapter)
    }

    /// First values as PEFT has them: A uniform within ±1/√inputs (Kaiming's bound with a = √5), B
    /// zero, so that the first step starts from the base model. Each module has a random stream of
    /// its own: what it begins as does not depend on which others there are.
    ///
    /// # Panics
    /// Never: drawing cannot fail.
    #[must_use]
    pub fn initial(&self, seed: u64) -> Adapter<Vec<f32>> {
        let drawn = self.assemble(|module, half, [rows, columns]| {
            if half == Half::B {
                return Ok(vec![0.0; rows * columns]);
            }
            let mut generator = ChaCha8Rng::seed_from_u64(seed);
            // The upper half of the streams; those of random weights are in the lower one.
            generator.set_stream((1 << 63) | module.number as u64);
            let bound = 1.0 / (columns as f64).sqrt();
            let mut uniform = || (generator.next_u64() >> 11) as f64 / 2f64.powi(53);
            Ok((0..rows * columns).map(|_| ((2.0 * uniform() - 1.0) * bound) as f32).collect())
        });
        drawn.expect("drawing cannot fail")
    }

    /// Takes away the gradient of what is zero and has to stay so: the columns of other modules in
    /// a module's rows of `up`.
    pub(super) fn clear_outside<B: Backend>(&self, ops: &B, gradients: &mut Adapter<B::Tensor>) {
        let pairs = gradients.layers.iter_mut().flatten().flatten();
        for (place, pair) in self.layers.iter().flatten().flatten().zip(pairs) {
            for (m, Module { columns, .. }) in place.modules.iter().enumerate() {
                for outside in [0..columns.start, columns.end..place.outputs] {
                    if !outside.is_empty() {
                        let block = [self.rows(m), outside];
                        ops.fill_block(&mut pair.up, place.outputs, block, 0.0);
                    }
                }
            }
        }
    }
}
