//! The memory of a pass over N rows: what the forward pass keeps for the backward pass, and what
//! both write over again and again. It is taken once for the largest batch seen and serves all
//! after it.

use super::ModelConfig;
use super::family::Block;
use crate::ops::{Backend, Kind};

/// Tensors of one pass. Training keeps every layer's; without a gradient one layer's serve all in
/// turn.
pub(super) struct Activations<T> {
    /// The residual stream before each layer and after the last `[N, C]`; two in turn where nothing
    /// is kept.
    pub streams: Vec<T>,
    pub layers: Vec<LayerActivations<T>>,
    pub scratch: Scratch<T>,
    pub head: HeadActivations<T>,
    /// N that there is room for.
    rows: usize,
}

/// What one layer keeps.
pub(super) struct LayerActivations<T> {
    /// Of the norm before attention `[N]`.
    pub input_inverse: T,
    /// Queries, keys and values as they were projected, where their heads are normed.
    pub projected: Option<Normed<T>>,
    /// Queries, keys and values, normed and turned `[N, (H + 2K) D]`.
    pub qkv: T,
    /// `[N, H D]`.
    pub attended: T,
    /// `[N, H]`.
    pub log_sums: T,
    /// What attention adds to the stream, where that is normed `[N, C]`.
    pub attention_out: Option<Normed<T>>,
    /// The stream between attention and feed-forward `[N, C]`; in a parallel block nobody needs it
    /// again.
    pub mid: Option<T>,
    /// Of the norm before the feed-forward `[N]`.
    pub mid_inverse: T,
    /// `[N, 2F]`; the backward pass puts its gradient here.
    pub gate_up: T,
    /// What the feed-forward adds to the stream, where that is normed `[N, C]`.
    pub feed_forward_out: Option<Normed<T>>,
    /// What each projection's adapter makes of its input `[N, R]`; empty where there is none.
    pub low: [T; 4],
}

/// The input of a norm, and what the norm keeps.
pub(super) struct Normed<T> {
    pub x: T,
    pub inverse: T,
}

/// What is written over in every layer.
pub(super) struct Scratch<T> {
    /// Normed input of a product `[N, C]`.
    pub normed: T,
    /// Its gradient `[N, C]`.
    pub dnormed: T,
    /// Output of the gate, and its gradient `[N, F]`.
    pub gated: T,
    /// The stream between the halves of a parallel block `[N, C]`.
    pub mid: T,
    /// Gradient of the residual stream `[N, C]`.
    pub dstream: T,
    /// Gradient of what a half adds to the stream, where that is normed `[N, C]`.
    pub dbranch: T,
    /// `[N, H D]`.
    pub dattended: T,
    /// `[N, (H + 2K) D]`.
    pub dqkv: T,
    /// Gradient of each `low`.
    pub dlow: [T; 4],
}

impl<T> Scratch<T> {
    /// Whether it is that of a pass with a backward pass.
    pub fn has_gradients<B: Backend<Tensor = T>>(&self, backend: &B) -> bool {
        backend.len(&self.dnormed) > 0
    }
}

/// The rows that count, around the head.
pub(super) struct HeadActivations<T> {
    /// Their stream `[N, C]`, and what its norm keeps `[N]`.
    pub stream: Normed<T>,
    /// The same, normed.
    pub normed: T,
    /// `[N]`.
    pub losses: T,
    /// Gradient of `normed`.
    pub dnormed: T,
    /// `[N, V]`, only where logits are asked for.
    pub logits: T,
}

impl<T> Activations<T> {
    /// Makes sure that there is room for `rows`. `gradient`: every layer is kept, and there is room
    /// for gradients. `ranks`: R of each projection's adapter, which are the same all the time.
    pub fn reserve<'a, B: Backend<Tensor = T>>(
        this: &'a mut Option<Self>,
        backend: &B,
        config: &ModelConfig,
        rows: usize,
        gradient: bool,
        ranks: [usize; 4],
    ) -> &'a mut Self {
        if this.as_ref().is_none_or(|held| held.rows < rows) {
            // The old memory goes before the new comes.
            *this = None;
        }
        this.get_or_insert_with(|| Self::new(backend, config, rows, gradient, ranks))
    }

    fn new<B: Backend<Tensor = T>>(
        backend: &B,
        config: &ModelConfig,
        rows: usize,
        gradient: bool,
        ranks: [usize; 4],
    ) -> Self {
        let (c, f, heads) = (config.hidden_size, config.intermediate_size, config.heads());
        let (parallel, sandwich) =
            (config.family.block == Block::Parallel, config.family.block == Block::Sandwich);
        let depth = if gradient { config.num_hidden_layers } else { 1 };
        let zeros = |width: usize| backend.zeros(Kind::Activation, rows * width);
        let statistic = |width: usize| backend.zeros(Kind::Statistic, rows * width);
        let zeros_if = |needed: bool, width: usize| zeros(if needed { width } else { 0 });
        let normed =
            |width: usize, norms: usize| Normed { x: zeros(width), inverse: statistic(norms) };
        let layer = |_| LayerActivations {
            input_inverse: statistic(1),
            projected: config
                .qk_norm
                .then(|| normed(heads.qkv_width(), heads.queries + heads.key_values)),
            qkv: zeros(heads.qkv_width()),
            attended: zeros(heads.query_width()),
            log_sums: statistic(heads.queries),
            attention_out: sandwich.then(|| normed(c, 1)),
            mid: (!parallel).then(|| zeros(c)),
            mid_inverse: statistic(usize::from(!parallel)),
            gate_up: zeros(2 * f),
            feed_forward_out: sandwich.then(|| normed(c, 1)),
            low: ranks.map(zeros),
        };
        Self {
            streams: (0..=depth).map(|_| zeros(c)).collect(),
            layers: (0..depth).map(layer).collect(),
            scratch: Scratch {
                normed: zeros(c),
                dnormed: zeros_if(gradient, c),
                gated: zeros(f),
                mid: zeros_if(parallel, c),
                dstream: zeros_if(gradient, c),
                dbranch: zeros_if(gradient && sandwich, c),
                dattended: zeros_if(gradient, heads.query_width()),
                dqkv: zeros_if(gradient, heads.qkv_width()),
                dlow: ranks.map(|rank| zeros_if(gradient, rank)),
            },
            head: HeadActivations {
                stream: normed(c, 1),
                normed: zeros(c),
                losses: statistic(1),
                dnormed: zeros_if(gradient, c),
                logits: backend.zeros(Kind::Statistic, 0),
            },
            rows,
        }
    }
}
