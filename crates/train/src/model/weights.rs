//! A decoder's weights: which tensors there are, what the checkpoint calls their parts, and random
//! values to begin with. Fields bear the checkpoint's names. What meets the same input stands in
//! one tensor (queries, keys and values; gate and up), so that it is one matrix product; a
//! checkpoint's tensor is then a run of its rows.

use std::ops::Range;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;

use super::ModelConfig;

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
    /// `[C]`, before attention.
    pub input_layernorm: T,
    /// `[(H + 2K) D, C]`: q_proj, k_proj, v_proj.
    pub qkv_proj: T,
    /// `[(H + 2K) D]`.
    pub qkv_bias: Option<T>,
    /// `[C, H D]`.
    pub o_proj: T,
    /// `[C]`.
    pub o_bias: Option<T>,
    /// `[C]`, before the feed-forward.
    pub post_attention_layernorm: T,
    /// `[2 F, C]`: gate_proj, up_proj.
    pub gate_up_proj: T,
    /// `[C, F]`.
    pub down_proj: T,
}

impl<T> Weights<T> {
    /// The head: the embedding itself where they are tied.
    pub fn head(&self) -> &T {
        self.lm_head.as_ref().unwrap_or(&self.embed_tokens)
    }

    /// The head's gradient to add to.
    pub fn head_mut(&mut self) -> &mut T {
        self.lm_head.as_mut().unwrap_or(&mut self.embed_tokens)
    }

    /// Every tensor, in the checkpoint's order.
    pub fn all(&self) -> Vec<&T> {
        let mut all = vec![&self.embed_tokens];
        for layer in &self.layers {
            all.extend([&layer.input_layernorm, &layer.qkv_proj]);
            all.extend(&layer.qkv_bias);
            all.push(&layer.o_proj);
            all.extend(&layer.o_bias);
            all.extend([&layer.post_attention_layernorm, &layer.gate_up_proj, &layer.down_proj]);
        }
        all.push(&self.norm);
        all.extend(&self.lm_head);
        all
    }

    /// Every tensor, in the same order.
    pub fn all_mut(&mut self) -> Vec<&mut T> {
        let mut all = vec![&mut self.embed_tokens];
        for layer in &mut self.layers {
            all.extend([&mut layer.input_layernorm, &mut layer.qkv_proj]);
            all.extend(&mut layer.qkv_bias);
            all.push(&mut layer.o_proj);
            all.extend(&mut layer.o_bias);
            all.extend([
                &mut layer.post_attention_layernorm,
                &mut layer.gate_up_proj,
                &mut layer.down_proj,
            ]);
        }
        all.push(&mut self.norm);
        all.extend(&mut self.lm_head);
        all
    }

    /// The same structure with each tensor put through `f`, in the same order.
    ///
    /// # Errors
    /// The first that `f` returns.
    pub fn try_map<U, E>(&self, mut f: impl FnMut(&T) -> Result<U, E>) -> Result<Weights<U>, E> {
        let embed_tokens = f(&self.embed_tokens)?;
        let mut layers = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            layers.push(LayerWeights {
                input_layernorm: f(&layer.input_layernorm)?,
                qkv_proj: f(&layer.qkv_proj)?,
                qkv_bias: layer.qkv_bias.as_ref().map(&mut f).transpose()?,
                o_proj: f(&layer.o_proj)?,
                o_bias: layer.o_bias.as_ref().map(&mut f).transpose()?,
                post_attention_layernorm: f(&layer.post_attention_layernorm)?,
                gate_up_proj: f(&layer.gate_up_proj)?,
                down_proj: f(&layer.down_proj)?,
            });
        }
        let norm = f(&self.norm)?;
        Ok(Weights {
            embed_tokens,
            layers,
            norm,
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
    /// Begins at one, does not decay.
    Norm,
    /// Begins at zero, does not decay.
    Bias,
    /// Begins normal with the config's `initializer_range`, decays.
    Matrix,
    /// A matrix whose product is added to the residual stream: begins smaller by √(2L), so that the
    /// stream's variance does not grow with depth (Radford et al., GPT-2, section 2.3).
    Residual,
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

    /// Whether the optimiser's weight decay applies.
    #[must_use]
    pub fn decays(&self) -> bool {
        self.parts.iter().all(|part| matches!(part.role, Role::Matrix | Role::Residual))
    }
}

/// The tensors of a config's decoder.
#[must_use]
pub fn specs(config: &ModelConfig) -> Weights<Spec> {
    let (c, f, v) = (config.hidden_size, config.intermediate_size, config.vocab_size);
    let (q, kv) = (config.query_width(), config.num_key_value_heads * config.head_dim);
    let mut number = 0;
    let mut spec = |prefix: &str, parts: &[(&str, &[usize])], role: Role| {
        let mut at = 0;
        let parts = parts.iter().map(|(name, shape)| {
            let start = at;
            at += shape.iter().product::<usize>();
            number += 1;
            Part {
                name: format!("{prefix}{name}"),
                shape: shape.to_vec(),
                role,
                range: start..at,
                number,
            }
        });
        Spec { parts: parts.collect() }
    };
    let embed_tokens = spec("model.embed_tokens.weight", &[("", &[v, c])], Role::Matrix);
    let mut layers = Vec::new();
    for l in 0..config.num_hidden_layers {
        let (at, attention, mlp) = (
            format!("model.layers.{l}."),
            format!("model.layers.{l}.self_attn."),
            format!("model.layers.{l}.mlp."),
        );
        layers.push(LayerWeights {
            input_layernorm: spec(&at, &[("input_layernorm.weight", &[c])], Role::Norm),
            qkv_proj: spec(
                &attention,
                &[
                    ("q_proj.weight", &[q, c]),
                    ("k_proj.weight", &[kv, c]),
                    ("v_proj.weight", &[kv, c]),
                ],
                Role::Matrix,
            ),
            qkv_bias: config.qkv_bias.then(|| {
                spec(
                    &attention,
                    &[("q_proj.bias", &[q]), ("k_proj.bias", &[kv]), ("v_proj.bias", &[kv])],
                    Role::Bias,
                )
            }),
            o_proj: spec(&attention, &[("o_proj.weight", &[c, q])], Role::Residual),
            o_bias: config
                .output_bias
                .then(|| spec(&attention, &[("o_proj.bias", &[c])], Role::Bias)),
            post_attention_layernorm: spec(
                &at,
                &[("post_attention_layernorm.weight", &[c])],
                Role::Norm,
            ),
            gate_up_proj: spec(
                &mlp,
                &[("gate_proj.weight", &[f, c]), ("up_proj.weight", &[f, c])],
                Role::Matrix,
            ),
            down_proj: spec(&mlp, &[("down_proj.weight", &[c, f])], Role::Residual),
        });
    }
    let norm = spec("model.norm.weight", &[("", &[c])], Role::Norm);
    let lm_head = (!config.tie_word_embeddings)
        .then(|| spec("lm_head.weight", &[("", &[v, c])], Role::Matrix));
    Weights { embed_tokens, layers, norm, lm_head }
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
            Role::Matrix => config.initializer_range,
            Role::Residual => {
                config.initializer_range / (2.0 * config.num_hidden_layers as f32).sqrt()
            }
            Role::Norm => {
                values[part.range.clone()].fill(1.0);
                continue;
            }
            Role::Bias => continue,
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
