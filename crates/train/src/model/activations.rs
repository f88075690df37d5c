//! The memory of a pass over N rows: what the forward pass keeps for the backward pass, and what
//! both write over again and again. It is taken once for the largest batch seen and serves all
//! after it. Layers that share memory have what stood in it made again before their backward pass
//! (Chen et al. 2016, arXiv 1604.06174).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ModelConfig;
use super::adapter::Widths;
use super::family::Block;
use crate::ops::{Backend, Kind};

/// What the backward pass makes again in place of having kept it. It changes memory and time, and
/// no bit of the result.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Recompute {
    /// Nothing: every layer keeps all that its backward pass reads.
    #[default]
    None,
    /// Queries, keys and values, and the feed-forward's gate and up: the widest of what a layer
    /// keeps, each one product away from what stays.
    Internals,
    /// A whole layer: its input alone is kept.
    Block,
}

impl Recompute {
    /// From the fastest to the smallest.
    pub const ALL: [Self; 3] = [Self::None, Self::Internals, Self::Block];

    /// Its name in the settings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Internals => "internals",
            Self::Block => "block",
        }
    }
}

/// What a pass is for, by which its memory is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A forward pass alone: one layer's memory serves all in turn.
    Inference,
    /// A forward and a backward pass.
    Training(Recompute),
}

/// Tensors of one pass. Where there are fewer of a kind than layers, they serve in turn: that of
/// layer l is number l modulo how many there are.
pub(super) struct Activations<T> {
    /// The residual stream before each layer and after the last `[N, C]`; two in turn where nothing
    /// is kept.
    pub streams: Vec<T>,
    pub layers: Vec<LayerActivations<T>>,
    pub internals: Vec<Internals<T>>,
    /// What each projection's adapter makes of its input `[N, R]`; empty where there is none. They
    /// are small, and always kept for training.
    pub low: Vec<[T; 4]>,
    /// What each projection makes before magnitudes come to it `[N, outputs]`; empty where none do.
    /// Those of queries, keys and values and of gate and up are among the internals.
    plain: [Vec<T>; 4],
    pub scratch: Scratch<T>,
    pub head: HeadActivations<T>,
    /// What it is for, and N that there is room for.
    purpose: Purpose,
    rows: usize,
}

/// What a layer's adapters make, by projection.
pub(super) struct Low<'a, T> {
    /// See [`Activations::low`].
    pub low: &'a mut [T; 4],
    /// See [`Activations`].
    pub plain: [&'a mut T; 4],
}

/// The memory of one layer's pass.
pub(super) struct LayerMemory<'a, T> {
    pub kept: &'a mut LayerActivations<T>,
    pub internals: &'a mut Internals<T>,
    pub low: Low<'a, T>,
    pub scratch: &'a mut Scratch<T>,
    /// Whether gate and up are to stand until the backward pass, which they do not where another
    /// layer takes their place.
    pub keep: bool,
}

/// What a layer makes of its normed inputs.
pub(super) struct Internals<T> {
    /// Queries, keys and values as they were projected, where their heads are normed.
    pub projected: Option<Normed<T>>,
    /// Queries, keys and values, normed and turned `[N, (H + 2K) D]`.
    pub qkv: T,
    /// `[N, 2F]`; the backward pass puts its gradient here.
    pub gate_up: T,
}

/// What else a layer's backward pass reads.
pub(super) struct LayerActivations<T> {
    /// Of the norm before attention `[N]`.
    pub input_inverse: T,
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
    /// What the feed-forward adds to the stream, where that is normed `[N, C]`.
    pub feed_forward_out: Option<Normed<T>>,
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
    /// Whether there is room for `rows`.
    pub fn fit(this: &Option<Self>, rows: usize, purpose: Purpose) -> bool {
        this.as_ref().is_some_and(|held| held.rows >= rows && held.purpose == purpose)
    }

    /// How many rows there is room for.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Makes sure that there is room for `rows`. `widths`: those of the adapter, which
    /// are the same all the time.
    pub fn reserve<'a, B: Backend<Tensor = T>>(
        this: &'a mut Option<Self>,
        backend: &B,
        config: &ModelConfig,
        rows: usize,
        purpose: Purpose,
        widths: Widths,
    ) -> &'a mut Self {
        if !Self::fit(this, rows, purpose) {
            // The old memory goes before the new comes.
            *this = None;
        }
        this.get_or_insert_with(|| Self::new(backend, config, rows, purpose, widths))
    }

    fn new<B: Backend<Tensor = T>>(
        backend: &B,
        config: &ModelConfig,
        rows: usize,
        purpose: Purpose,
        widths: Widths,
    ) -> Self {
        let (c, f, heads) = (config.hidden_size, config.intermediate_size, config.heads());
        let (parallel, sandwich) =
            (config.family.block == Block::Parallel, config.family.block == Block::Sandwich);
        let l = config.num_hidden_layers;
        let (gradient, [streams, layers, internals, low]) = match purpose {
            Purpose::Inference => (false, [2, 1, 1, 1]),
            Purpose::Training(Recompute::None) => (true, [l + 1, l, l, l]),
            Purpose::Training(Recompute::Internals) => (true, [l + 1, l, 1, l]),
            Purpose::Training(Recompute::Block) => (true, [l + 1, 1, 1, l]),
        };
        let zeros = |width: usize| backend.zeros(Kind::Activation, rows * width);
        let statistic = |width: usize| backend.zeros(Kind::Statistic, rows * width);
        let zeros_if = |needed: bool, width: usize| zeros(if needed { width } else { 0 });
        let normed =
            |width: usize, norms: usize| Normed { x: zeros(width), inverse: statistic(norms) };
        let layer = |_| LayerActivations {
            input_inverse: statistic(1),
            attended: zeros(heads.query_width()),
            log_sums: statistic(heads.queries),
            attention_out: sandwich.then(|| normed(c, 1)),
            mid: (!parallel).then(|| zeros(c)),
            mid_inverse: statistic(usize::from(!parallel)),
            feed_forward_out: sandwich.then(|| normed(c, 1)),
        };
        let inside = |_| Internals {
            projected: config
                .qk_norm
                .then(|| normed(heads.qkv_width(), heads.queries + heads.key_values)),
            qkv: zeros(heads.qkv_width()),
            gate_up: zeros(2 * f),
        };
        Self {
            streams: (0..streams).map(|_| zeros(c)).collect(),
            layers: (0..layers).map(layer).collect(),
            internals: (0..internals).map(inside).collect(),
            low: (0..low).map(|_| widths.low.map(zeros)).collect(),
            plain: std::array::from_fn(|p| {
                let count = [internals, layers, internals, layers][p];
                (0..count).map(|_| zeros(widths.plain[p])).collect()
            }),
            scratch: Scratch {
                normed: zeros(c),
                dnormed: zeros_if(gradient, c),
                gated: zeros(f),
                mid: zeros_if(parallel, c),
                dstream: zeros_if(gradient, c),
                dbranch: zeros_if(gradient && sandwich, c),
                dattended: zeros_if(gradient, heads.query_width()),
                dqkv: zeros_if(gradient, heads.qkv_width()),
                dlow: widths.low.map(|rank| zeros_if(gradient, rank)),
            },
            head: HeadActivations {
                stream: normed(c, 1),
                normed: zeros(c),
                losses: statistic(1),
                dnormed: zeros_if(gradient, c),
                logits: backend.zeros(Kind::Statistic, 0),
            },
            purpose,
            rows,
        }
    }

    /// Makes sure that there is room for the logits of so many rows.
    pub fn reserve_logits<B: Backend<Tensor = T>>(
        &mut self,
        backend: &B,
        config: &ModelConfig,
        rows: usize,
    ) {
        let len = rows * config.vocab_size;
        if backend.len(&self.head.logits) < len {
            self.head.logits = backend.zeros(Kind::Statistic, len);
        }
    }

    /// The streams before and after layer `l`, and its memory.
    pub fn layer(&mut self, l: usize) -> ([&mut T; 2], LayerMemory<'_, T>) {
        let Self { streams, layers, internals, low, plain, scratch, purpose, .. } = self;
        let (s, k, i, r) = (streams.len(), layers.len(), internals.len(), low.len());
        let keep = *purpose != Purpose::Inference && (i > 1 || l + 2 == s);
        let streams = streams.get_disjoint_mut([l % s, (l + 1) % s]);
        let memory = LayerMemory {
            kept: &mut layers[l % k],
            internals: &mut internals[l % i],
            low: Low {
                low: &mut low[l % r],
                plain: plain.each_mut().map(|of| {
                    let count = of.len();
                    &mut of[l % count]
                }),
            },
            scratch,
            keep,
        };
        (streams.expect("neighbouring streams are two"), memory)
    }
}
