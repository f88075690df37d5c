//! Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685): beside a matrix W `[outputs, inputs]`
//! that stays as it is stand A `[r, inputs]` and B `[outputs, r]`, the layer computes
//! x · (W + s B A)ᵀ, and A and B alone are trained. What meets the same input stands in one tensor,
//! as in [`super::weights`], so that an adapter costs two thin products a fused map: [`Pair`] says
//! how, and [`Layout`] where each module of a checkpoint stands in it. With DoRA ([`super::dora`]) each
//! output has a trained magnitude, too.

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
    /// Share of what an adapter reads that is dropped in training, for each map by itself. Keys have it by
    /// a name that says so: once the maps that read the same input had it dropped alike.
    #[serde(rename = "dropout_by_map", skip_serializing_if = "is_zero")]
    pub dropout: f64,
    /// Whether each row of the weights has a magnitude apart from its direction (DoRA).
    #[serde(skip_serializing_if = "is_false")]
    pub dora: bool,
    /// The maps that have one, sorted.
    pub targets: Vec<Target>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Lora {
    /// A plain adapter.
    #[must_use]
    pub fn new(rank: usize, alpha: f64, targets: Vec<Target>) -> Self {
        Self { rank, alpha, rslora: false, dropout: 0.0, dora: false, targets }
    }

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

/// The tensors beside a fused map of M targeted modules; R = M r. The rows `m r .. (m + 1) r` are
/// module m's.
#[derive(Debug, Clone)]
pub struct Pair<T> {
    /// `[R, inputs]`: the A of all modules, one after the other.
    pub down: T,
    /// `[R, outputs]`: the Bᵀ of each module, in the columns of that module alone; zero elsewhere.
    pub up: T,
    /// `[outputs]`, with DoRA: the magnitude of each row of the modules' weights; zero elsewhere.
    pub magnitude: Option<T>,
}

impl<T> Pair<T> {
    fn all(&self) -> impl Iterator<Item = &T> {
        [&self.down, &self.up].into_iter().chain(&self.magnitude)
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut T> {
        [&mut self.down, &mut self.up].into_iter().chain(&mut self.magnitude)
    }
}

impl<T> Adapter<T> {
    /// Every tensor, in order.
    pub fn all(&self) -> Vec<&T> {
        let pairs = self.layers.iter().flatten().flatten();
        pairs.flat_map(Pair::all).collect()
    }

    /// Every tensor, in the same order.
    pub fn all_mut(&mut self) -> Vec<&mut T> {
        let pairs = self.layers.iter_mut().flatten().flatten();
        pairs.flat_map(Pair::all_mut).collect()
    }

    /// The same structure with each tensor put through `f`, in the same order.
    pub fn map<U>(&self, mut f: impl FnMut(&T) -> U) -> Adapter<U> {
        let mut of_pair = |pair: &Pair<T>| Pair {
            down: f(&pair.down),
            up: f(&pair.up),
            magnitude: pair.magnitude.as_ref().map(&mut f),
        };
        let layers = self.layers.iter();
        let layers =
            layers.map(|pairs| pairs.each_ref().map(|pair| pair.as_ref().map(&mut of_pair)));
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
    /// Which map it is.
    pub(super) target: Target,
    /// Its outputs among those of the fused map,
    pub(super) columns: Range<usize>,
    /// and its rows of the pair.
    pub(super) rows: Range<usize>,
}

/// The modules beside one fused map.
#[derive(Debug, Clone)]
pub struct Place {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) modules: Vec<Module>,
}

/// Which of a module's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Member {
    /// `[r, inputs]`.
    A,
    /// `[outputs, r]`.
    B,
    /// `[outputs]`, with DoRA.
    Magnitude,
}

/// A module's tensor, as PEFT keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`.
    pub name: String,
    /// Rows and columns, or outputs.
    pub shape: Vec<usize>,
    /// Row by row.
    pub values: Vec<f32>,
}

/// What PEFT calls a module's tensor.
#[must_use]
pub fn peft_name(module: &str, member: Member) -> String {
    let name = match member {
        Member::A => "lora_A.weight",
        Member::B => "lora_B.weight",
        Member::Magnitude => "lora_magnitude_vector",
    };
    format!("base_model.model.{module}.{name}")
}

/// How wide what an adapter makes of a row is, by map; 0 where there is no adapter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Widths {
    /// R: what its A make of the row.
    pub low: [usize; 4],
    /// With DoRA the map's outputs, which are kept before their magnitudes come to them.
    pub plain: [usize; 4],
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
                let is_meant = |target: &&Target| module.ends_with(target.name());
                lora.targets.iter().find(is_meant).map(|&target| Module {
                    name: module.to_owned(),
                    number: part.number,
                    target,
                    columns: part.range.start / inputs..part.range.end / inputs,
                    rows: 0..0,
                })
            };
            let mut modules: Vec<Module> = parts.iter().filter_map(targeted).collect();
            for (m, module) in modules.iter_mut().enumerate() {
                module.rows = m * lora.rank..(m + 1) * lora.rank;
            }
            let outputs = parts.last()?.range.end / inputs;
            (!modules.is_empty()).then_some(Place { inputs, outputs, modules })
        };
        let layers = specs.layers.iter().map(|layer| Projection::ALL.map(|one| place(layer, one)));
        Self { layers: layers.collect(), lora }
    }

    /// The modules beside a layer's map, where there are any.
    pub(super) fn place(&self, l: usize, projection: Projection) -> Option<&Place> {
        self.layers[l][projection as usize].as_ref()
    }

    /// How wide what an adapter makes beside each map is.
    #[must_use]
    pub fn widths(&self) -> Widths {
        let of = |of: &dyn Fn(&Place) -> usize| {
            let places = self.layers.first();
            let one = |place: &Option<Place>| place.as_ref().map_or(0, of);
            places.map_or([0; 4], |places| places.each_ref().map(one))
        };
        let plain = if self.lora.dora { of(&|place| place.outputs) } else { [0; 4] };
        Widths { low: of(&|place| place.modules.len() * self.lora.rank), plain }
    }

    /// Number of trained values.
    #[must_use]
    pub fn parameter_count(&self) -> usize {
        let (rank, each) = (self.lora.rank, usize::from(self.lora.dora));
        let places = self.layers.iter().flatten().flatten();
        let values = places.flat_map(|place| {
            let of = move |outputs: usize| (place.inputs + outputs) * rank + each * outputs;
            place.modules.iter().map(move |module| of(module.columns.len()))
        });
        values.sum()
    }

    /// The tensors; `layers.0.qkv.down` is the first.
    #[must_use]
    pub fn specs(&self) -> Adapter<Spec> {
        let layers = self.layers.iter().enumerate().map(|(l, places)| {
            std::array::from_fn(|p| {
                let place = places[p].as_ref()?;
                let ranks = place.modules.len() * self.lora.rank;
                let one = |member: &str, role: Role, shape: Vec<usize>| {
                    let name = format!("layers.{l}.{}.{member}", Projection::ALL[p].name());
                    let range = 0..shape.iter().product();
                    Spec { parts: vec![Part { name, shape, role, range, number: 0 }] }
                };
                let magnitude = || one("magnitude", Role::Magnitude, vec![place.outputs]);
                Some(Pair {
                    down: one("down", Role::Matrix, vec![ranks, place.inputs]),
                    up: one("up", Role::Matrix, vec![ranks, place.outputs]),
                    magnitude: self.lora.dora.then(magnitude),
                })
            })
        });
        Adapter { layers: layers.collect() }
    }

    /// Every module's A and B, and its magnitudes.
    #[must_use]
    pub fn matrices(&self, adapter: &Adapter<Vec<f32>>) -> Vec<Matrix> {
        let (rank, mut all) = (self.lora.rank, Vec::new());
        let pairs = adapter.layers.iter().flatten().flatten();
        for (place, pair) in self.layers.iter().flatten().flatten().zip(pairs) {
            for module in &place.modules {
                let rows = module.rows.clone();
                let down = &pair.down[rows.start * place.inputs..rows.end * place.inputs];
                let up = module.columns.clone().flat_map(|column| {
                    rows.clone().map(move |row| pair.up[row * place.outputs + column])
                });
                let matrix = |member, shape: &[usize], values| Matrix {
                    name: peft_name(&module.name, member),
                    shape: shape.to_vec(),
                    values,
                };
                let outputs = module.columns.len();
                all.push(matrix(Member::A, &[rank, place.inputs], down.to_vec()));
                all.push(matrix(Member::B, &[outputs, rank], up.collect()));
                if let Some(magnitude) = &pair.magnitude {
                    let own = magnitude[module.columns.clone()].to_vec();
                    all.push(matrix(Member::Magnitude, &[outputs], own));
                }
            }
        }
        all
    }

    /// An adapter of the tensors that `values` gives, in the shape that it is asked for.
    ///
    /// # Errors
    /// The first that `values` returns.
    pub fn assemble(
        &self,
        mut values: impl FnMut(&Module, Member, [usize; 2]) -> Result<Vec<f32>>,
    ) -> Result<Adapter<Vec<f32>>> {
        let mut adapter = self.specs().map(|spec| vec![0.0; spec.elements()]);
        let pairs = adapter.layers.iter_mut().flatten().flatten();
        for (place, pair) in self.layers.iter().flatten().flatten().zip(pairs) {
            for module in &place.modules {
                let (rank, rows, width) =
                    (self.lora.rank, module.rows.clone(), module.columns.len());
                let a = values(module, Member::A, [rank, place.inputs])?;
                pair.down[rows.start * place.inputs..rows.end * place.inputs].copy_from_slice(&a);
                let b = values(module, Member::B, [width, rank])?;
                for (column, of_column) in module.columns.clone().zip(b.chunks_exact(rank)) {
                    for (row, value) in rows.clone().zip(of_column) {
                        pair.up[row * place.outputs + column] = *value;
                    }
                }
                if let Some(magnitude) = &mut pair.magnitude {
                    let own = values(module, Member::Magnitude, [width, 1])?;
                    magnitude[module.columns.clone()].copy_from_slice(&own);
                }
            }
        }
        Ok(adapter)
    }

    /// First values as PEFT has them: A uniform within ±1/√inputs (Kaiming's bound with a = √5), B
    /// zero, so that the first step starts from the base model. Each module has a random stream of
    /// its own: what it begins as does not depend on which others there are. Magnitudes are zero here;
    /// they begin as what the base's weights say.
    ///
    /// # Panics
    /// Never: drawing cannot fail.
    #[must_use]
    pub fn initial(&self, seed: u64) -> Adapter<Vec<f32>> {
        let drawn = self.assemble(|module, member, [rows, columns]| {
            if member != Member::A {
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
            for Module { columns, rows, .. } in &place.modules {
                for outside in [0..columns.start, columns.end..place.outputs] {
                    if !outside.is_empty() {
                        let block = [rows.clone(), outside];
                        ops.fill_block(&mut pair.up, place.outputs, block, 0.0);
                    }
                }
            }
        }
    }
}
