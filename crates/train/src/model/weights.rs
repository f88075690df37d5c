//! A decoder's weights: which tensors there are, what the checkpoint calls their parts, and random
//! values to begin with. What meets the same input stands in
//! one tensor (queries, keys and values; gate and up), so that it is one matrix product; a
//! checkpoint's tensor is then a run of its rows.

use std::ops::Range;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;

use super::ModelConfig;
use super::family::Block;

/// One value for each tensor of a decoder: the tensors themselves, their gradients, or what is
/// known of them.
#[derive(Debug, Clone)]
pub struct Weights<T> {
    /// `[V, C]`.
    pub embed_tokens: T,
    /// L of them.
    pub layers: Vec<LayerWeights<T>>,
    /// `[C]`.
    pub norm: T,
    /// `[V, C]`; none where the embedding is the head.
    pub lm_head: Option<T>,
}

/// One layer's part of [`Weights`].
#[derive(Debug, Clone)]
pub struct LayerWeights<T> {
    /// `[C]`, before attention, and before both halves of a parallel block.
    pub input_norm: T,
    /// `[(H + 2K) D, C]`: q_proj, k_proj, v_proj.
    pub qkv: Linear<T>,
    /// Norms of query and key heads, `[2 D]` or `[(H + K) D]`: q_norm, k_norm.
    pub qk_norm: Option<T>,
    /// `[C, H D]`: o_proj.
    pub output: Linear<T>,
    /// `[C]`, on what attention adds to the stream.
    pub attention_out_norm: Option<T>,
    /// `[C]`, before the feed-forward; none in a parallel block.
    pub feed_forward_norm: Option<T>,
    /// `[2 F, C]`: gate_proj, up_proj.
    pub gate_up: Linear<T>,
    /// `[C, F]`: down_proj.
    pub down: Linear<T>,
    /// `[C]`, on what the feed-forward adds to the stream.
    pub feed_forward_out_norm: Option<T>,
}

/// A linear map y = x · wᵀ + b.
#[derive(Debug, Clone)]
pub struct Linear<T> {
    /// `[outputs, inputs]`.
    pub weight: T,
    /// `[outputs]`.
    pub bias: Option<T>,
}

/// The linear maps of a layer, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Projection {
    /// Queries, keys and values out of the stream.
    Qkv,
    /// What was attended to, back into the stream.
    Output,
    /// Gate and up out of the stream.
    GateUp,
    /// The gated values, back into the stream.
    Down,
}

impl Projection {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Qkv, Self::Output, Self::GateUp, Self::Down];

    /// A name for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Qkv => "qkv",
            Self::Output => "output",
            Self::GateUp => "gate_up",
            Self::Down => "down",
        }
    }
}

/// Weights whose gradients are complete at the same time, in the order of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Piece {
    /// The embedding.
    Embedding,
    /// A layer, by its number.
    Layer(usize),
    /// The final norm, and the head where it is not the embedding.
    Head,
}

impl Piece {
    /// All of a model of so many layers, in the order of the backward pass.
    pub fn of_layers(count: usize) -> impl Iterator<Item = Self> {
        let layers = (0..count).rev().map(Self::Layer);
        std::iter::once(Self::Head).chain(layers).chain([Self::Embedding])
    }
}

impl<T> LayerWeights<T> {
    /// A linear map.
    pub fn linear(&self, projection: Projection) -> &Linear<T> {
        match projection {
            Projection::Qkv => &self.qkv,
            Projection::Output => &self.output,
            Projection::GateUp => &self.gate_up,
            Projection::Down => &self.down,
        }
    }

    /// A linear map's gradients to add to.
    pub fn linear_mut(&mut self, projection: Projection) -> &mut Linear<T> {
        match projection {
            Projection::Qkv => &mut self.qkv,
            Projection::Output => &mut self.output,
            Projection::GateUp => &mut self.gate_up,
            Projection::Down => &mut self.down,
        }
    }

    /// Every tensor that there is, in order.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        [
            Some(&self.input_norm),
            Some(&self.qkv.weight),
            self.qkv.bias.as_ref(),
            self.qk_norm.as_ref(),
            Some(&self.output.weight),
            self.output.bias.as_ref(),
            self.attention_out_norm.as_ref(),
            self.feed_forward_norm.as_ref(),
            Some(&self.gate_up.weight),
            self.gate_up.bias.as_ref(),
            Some(&self.down.weight),
            self.down.bias.as_ref(),
            self.feed_forward_out_norm.as_ref(),
        ]
        .into_iter()
        .flatten()
    }

    /// Every tensor that there is, in the same order.
    fn all_mut(&mut self) -> impl Iterator<Item = &mut T> {
        [
            Some(&mut self.input_norm),
            Some(&mut self.qkv.weight),
            self.qkv.bias.as_mut(),
            self.qk_norm.as_mut(),
            Some(&mut self.output.weight),
            self.output.bias.as_mut(),
            self.attention_out_norm.as_mut(),
            self.feed_forward_norm.as_mut(),
            Some(&mut self.gate_up.weight),
            self.gate_up.bias.as_mut(),
            Some(&mut self.down.weight),
            self.down.bias.as_mut(),
            self.feed_forward_out_norm.as_mut(),
        ]
        .into_iter()
        .flatten()
    }

    fn try_map<U, E>(&self, f: &mut impl FnMut(&T) -> Result<U, E>) -> Result<LayerWeights<U>, E> {
        Ok(LayerWeights {
            input_norm: f(&self.input_norm)?,
            qkv: self.qkv.try_map(f)?,
            qk_norm: self.qk_norm.as_ref().map(&mut *f).transpose()?,
            output: self.output.try_map(f)?,
            attention_out_norm: self.attention_out_norm.as_ref().map(&mut *f).transpose()?,
            feed_forward_norm: self.feed_forward_norm.as_ref().map(&mut *f).transpose()?,
            gate_up: self.gate_up.try_map(f)?,
            down: self.down.try_map(f)?,
            feed_forward_out_norm: self.feed_forward_out_norm.as_ref().map(&mut *f).transpose()?,
        })
    }
}

impl<T> Linear<T> {
    fn try_map<U, E>(&self, f: &mut impl FnMut(&T) -> Result<U, E>) -> Result<Linear<U>, E> {
        Ok(Linear { weight: f(&self.weight)?, bias: self.bias.as_ref().map(f).transpose()? })
    }
}

impl<T> Weights<T> {
    /// The head: the embedding itself where they are tied.
    pub fn head(&self) -> &T {
        self.lm_head.as_ref().unwrap_or(&self.embed_tokens)
    }

    /// Every tensor, in the checkpoint's order.
    pub fn all(&self) -> Vec<&T> {
        let mut all = vec![&self.embed_tokens];
        all.extend(self.layers.iter().flat_map(LayerWeights::all));
        all.push(&self.norm);
        all.extend(&self.lm_head);
        all
    }

    /// Every tensor, in the same order.
    pub fn all_mut(&mut self) -> Vec<&mut T> {
        let mut all = vec![&mut self.embed_tokens];
        all.extend(self.layers.iter_mut().flat_map(LayerWeights::all_mut));
        all.push(&mut self.norm);
        all.extend(&mut self.lm_head);
        all
    }

    /// The tensors of a piece, in order. Where there are fewer layers than the model has, they
    /// serve in turn.
    pub fn piece(&self, piece: Piece) -> Vec<&T> {
        match piece {
            Piece::Head => std::iter::once(&self.norm).chain(&self.lm_head).collect(),
            Piece::Layer(l) => self.layers[l % self.layers.len()].all().collect(),
            Piece::Embedding => vec![&self.embed_tokens],
        }
    }

    /// The same to write to.
    pub fn piece_mut(&mut self, piece: Piece) -> Vec<&mut T> {
        match piece {
            Piece::Head => std::iter::once(&mut self.norm).chain(&mut self.lm_head).collect(),
            Piece::Layer(l) => {
                let count = self.layers.len();
                self.layers[l % count].all_mut().collect()
            }
            Piece::Embedding => vec![&mut self.embed_tokens],
        }
    }

    /// The number of a piece's first tensor in [`Weights::all`], where the others follow it.
    pub fn first_of(&self, piece: Piece) -> usize {
        let layers = match piece {
            Piece::Embedding => return 0,
            Piece::Layer(l) => &self.layers[..l],
            Piece::Head => &self.layers,
        };
        1 + layers.iter().map(|layer| layer.all().count()).sum::<usize>()
    }

    /// The same structure with each tensor put through `f`, in the same order.
    ///
    /// # Errors
    /// The first that `f` returns.
    pub fn try_map<U, E>(&self, mut f: impl FnMut(&T) -> Result<U, E>) -> Result<Weights<U>, E> {
        Ok(Weights {
            embed_tokens: f(&self.embed_tokens)?,
            layers: self
                .layers
                .iter()
                .map(|layer| layer.try_map(&mut f))
                .collect::<Result<_, E>>()?,
            norm: f(&self.norm)?,
            lm_head: self.lm_head.as_ref().map(&mut f).transpose()?,
        })
    }

    /// The same structure with each tensor put through `f`.
    pub fn map<U>(&self, mut f: impl FnMut(&T) -> U) -> Weights<U> {
        match self.try_map(|tensor| Ok::<_, std::convert::Infallible>(f(tensor))) {
            Ok(weights) => weights,
            Err(never) => match never {},
        }
    }
}

/// What a tensor of the checkpoint is, which decides how it begins and whether it decays.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Role {
    /// Begins as what leaves the scale alone, does not decay.
    Norm,
    /// Begins at zero, does not decay.
    Bias,
    /// Begins normal with the config's `initializer_range`, decays.
    Matrix,
    /// The embedding or the head: a matrix that is not among the layers' maps.
    Table,
    /// A matrix whose product is added to the residual stream: begins smaller by √(2L), so that the
    /// stream's variance does not grow with depth (Radford et al., GPT-2, section 2.3).
    Residual,
    /// Magnitudes of rows of a matrix (DoRA), which decay as it does.
    Magnitude,
}

/// One tensor of the checkpoint, as a run of one of ours.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Its name in the checkpoint.
    pub name: String,
    /// Its shape there.
    pub shape: Vec<usize>,
    /// What it is.
    pub role: Role,
    /// Where it stands in our tensor.
    pub range: Range<usize>,
    /// Its number among all parts, which its random values are drawn by.
    pub number: usize,
}

/// One of our tensors: the checkpoint's tensors that it holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// In the order in which they stand.
    pub parts: Vec<Part>,
}

impl Spec {
    /// Number of values.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.parts.last().map_or(0, |part| part.range.end)
    }

    /// Whether it is a matrix, to which the optimiser's weight decay applies.
    #[must_use]
    pub fn decays(&self) -> bool {
        let decays = [Role::Table, Role::Magnitude];
        self.is_map() || self.parts.iter().all(|part| decays.contains(&part.role))
    }

    /// Whether it is one of the layers' linear maps.
    #[must_use]
    pub fn is_map(&self) -> bool {
        self.parts.iter().all(|part| matches!(part.role, Role::Matrix | Role::Residual))
    }

    /// Whether passes read it as it is trained and not in fewer bits: a magnitude in bf16 would be off by
    /// more than a training moves it.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.parts.iter().all(|part| part.role == Role::Magnitude)
    }

    /// Number of values of each part.
    #[must_use]
    pub fn lens(&self) -> Vec<usize> {
        self.parts.iter().map(|part| part.range.len()).collect()
    }
}

/// The tensors of a config's decoder.
#[must_use]
pub fn specs(config: &ModelConfig) -> Weights<Spec> {
    let (c, v) = (config.hidden_size, config.vocab_size);
    let mut names = Names { number: 0 };
    Weights {
        embed_tokens: names.one("model.embed_tokens.weight", &[v, c], Role::Table),
        layers: (0..config.num_hidden_layers).map(|l| layer_specs(config, l, &mut names)).collect(),
        norm: names.one("model.norm.weight", &[c], Role::Norm),
        lm_head: (!config.tie_word_embeddings)
            .then(|| names.one("lm_head.weight", &[v, c], Role::Table)),
    }
}

/// Counts the parts as they are named.
struct Names {
    number: usize,
}

impl Names {
    /// One tensor of ours that holds some of the checkpoint's.
    fn join(&mut self, prefix: &str, parts: &[(&str, &[usize])], role: Role) -> Spec {
        let mut at = 0;
        let parts = parts.iter().map(|(name, shape)| {
            let start = at;
            at += shape.iter().product::<usize>();
            self.number += 1;
            Part {
                name: format!("{prefix}{name}"),
                shape: shape.to_vec(),
                role,
                range: start..at,
                number: self.number,
            }
        });
        Spec { parts: parts.collect() }
    }

    /// One tensor that is one of the checkpoint's.
    fn one(&mut self, name: &str, shape: &[usize], role: Role) -> Spec {
        self.join(name, &[("", shape)], role)
    }
}

fn layer_specs(config: &ModelConfig, l: usize, names: &mut Names) -> LayerWeights<Spec> {
    let (c, f, heads) = (config.hidden_size, config.intermediate_size, config.heads());
    let (q, kv) = (heads.query_width(), heads.key_value_width());
    let at = format!("model.layers.{l}.");
    let (attention, mlp) = (format!("{at}self_attn."), format!("{at}mlp."));
    // What the checkpoint calls the norms after the first; the same name is another norm in
    // another family.
    let [attention_out, feed_forward, feed_forward_out] = match config.family.block {
        Block::Sequential => [None, Some("post_attention_layernorm"), None],
        Block::Sandwich => [
            Some("post_attention_layernorm"),
            Some("pre_feedforward_layernorm"),
            Some("post_feedforward_layernorm"),
        ],
        Block::Parallel => [None; 3],
    };
    let norm = |name: Option<&str>, names: &mut Names| {
        name.map(|name| names.one(&format!("{at}{name}.weight"), &[c], Role::Norm))
    };
    let [q_norm, k_norm] = if config.family.qk_norm_per_head {
        [vec![heads.queries, heads.size], vec![heads.key_values, heads.size]]
    } else {
        [vec![heads.size], vec![heads.size]]
    };
    LayerWeights {
        input_norm: names.one(&format!("{at}input_layernorm.weight"), &[c], Role::Norm),
        qkv: Linear {
            weight: names.join(
                &attention,
                &[
                    ("q_proj.weight", &[q, c]),
                    ("k_proj.weight", &[kv, c]),
                    ("v_proj.weight", &[kv, c]),
                ],
                Role::Matrix,
            ),
            bias: config.qkv_bias.then(|| {
                let parts: [(&str, &[usize]); 3] =
                    [("q_proj.bias", &[q]), ("k_proj.bias", &[kv]), ("v_proj.bias", &[kv])];
                names.join(&attention, &parts, Role::Bias)
            }),
        },
        qk_norm: config.qk_norm.then(|| {
            let parts = [("q_norm.weight", &q_norm[..]), ("k_norm.weight", &k_norm)];
            names.join(&attention, &parts, Role::Norm)
        }),
        output: Linear {
            weight: names.join(&attention, &[("o_proj.weight", &[c, q])], Role::Residual),
            bias: config
                .output_bias
                .then(|| names.join(&attention, &[("o_proj.bias", &[c])], Role::Bias)),
        },
        attention_out_norm: norm(attention_out, names),
        feed_forward_norm: norm(feed_forward, names),
        gate_up: Linear {
            weight: names.join(
                &mlp,
                &[("gate_proj.weight", &[f, c]), ("up_proj.weight", &[f, c])],
                Role::Matrix,
            ),
            bias: None,
        },
        down: Linear {
            weight: names.join(&mlp, &[("down_proj.weight", &[c, f])], Role::Residual),
            bias: None,
        },
        feed_forward_out_norm: norm(feed_forward_out, names),
    }
}

/// Elements that one stream of random numbers serves.
const BLOCK: usize = 1 << 16;

/// A tensor's first values. Each block of each part has a random stream of its own, so that the
/// bytes do not depend on threads.
#[must_use]
pub fn initial(spec: &Spec, config: &ModelConfig, seed: u64) -> Vec<f32> {
    let mut values = vec![0.0; spec.elements()];
    for part in &spec.parts {
        let deviation = match part.role {
            Role::Matrix | Role::Table => config.initializer_range,
            Role::Residual => {
                config.initializer_range / (2.0 * config.num_hidden_layers as f32).sqrt()
            }
            Role::Norm => {
                values[part.range.clone()].fill(config.initial_norm());
                continue;
            }
            Role::Bias | Role::Magnitude => continue,
        };
        values[part.range.clone()].par_chunks_mut(BLOCK).enumerate().for_each(|(block, values)| {
            let mut generator = ChaCha8Rng::seed_from_u64(seed);
            generator.set_stream(((part.number as u64) << 32) | block as u64);
            fill_normal(values, &mut generator, f64::from(deviation));
        });
    }
    values
}

/// Normal values by Box and Muller's transform, two at a time.
fn fill_normal(values: &mut [f32], generator: &mut ChaCha8Rng, deviation: f64) {
    // In (0, 1]: the logarithm is finite.
    let mut uniform = || ((generator.next_u64() >> 11) + 1) as f64 / 2f64.powi(53);
    for pair in values.chunks_mut(2) {
        let (radius, angle) =
            ((-2.0 * uniform().ln()).sqrt() * deviation, std::f64::consts::TAU * uniform());
        for (value, along) in pair.iter_mut().zip([angle.cos(), angle.sin()]) {
            *value = (radius * along) as f32;
        }
    }
}
