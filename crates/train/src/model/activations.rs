//! The memory of a pass over N rows: what the forward pass keeps for the backward pass, and what
//! both write over again and again. It is taken once for the largest batch seen and serves all
//! after it.

use super::ModelConfig;
use crate::ops::Backend;

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
    /// 1/rms of the layer's input `[N]`.
    pub input_rms: T,
    /// Queries, keys and values, turned `[N, (H + 2K) D]`.
    pub qkv: T,
    /// `[N, H D]`.
    pub attended: T,
    /// `[N, H]`.
    pub log_sums: T,
    /// The stream between attention and feed-forward `[N, C]`.
    pub mid: T,
    /// 1/rms of `mid` `[N]`.
    pub mid_rms: T,
    /// `[N, 2F]`; the backward pass puts its gradient here.
    pub gate_up: T,
}

/// What is written over in every layer.
pub(super) struct Scratch<T> {
    /// Normed input of a product, and its gradient `[N, C]`.
    pub normed: T,
    /// Output of the gate, and its gradient `[N, F]`.
    pub gated: T,
    /// Gradient of the residual stream `[N, C]`.
    pub dstream: T,
    /// `[N, H D]`.
    pub dattended: T,
    /// `[N, (H + 2K) D]`.
    pub dqkv: T,
}

/// The rows that count, around the head.
pub(super) struct HeadActivations<T> {
    /// Their stream `[N, C]`.
    pub stream: T,
    /// The same, normed.
    pub normed: T,
    /// 1/rms `[N]`.
    pub rms: T,
    /// `[N]`.
    pub losses: T,
    /// Gradient of `normed`.
    pub dnormed: T,
    /// `[N, V]`, only where logits are asked for.
    pub logits: T,
}

impl<T> Activations<T> {
    /// Makes sure that there is room for `rows`. `gradient`: every layer is kept, and there is room
    /// for gradients.
    pub fn reserve<'a, B: Backend<Tensor = T>>(
        this: &'a mut Option<Self>,
        backend: &B,
        config: &ModelConfig,
        rows: usize,
        gradient: bool,
    ) -> &'a mut Self {
        if this.as_ref().is_none_or(|held| held.rows < rows) {
            // The old memory goes before the new comes.
            *this = None;
        }
        this.get_or_insert_with(|| Self::new(backend, config, rows, gradient))
    }

    fn new<B: Backend<Tensor = T>>(
        backend: &B,
        config: &ModelConfig,
        rows: usize,
        gradient: bool,
    ) -> Self {
        let (c, f) = (config.hidden_size, config.intermediate_size);
        let (h, q, qkv) = (config.num_attention_heads, config.query_width(), config.qkv_width());
        let depth = if gradient { config.num_hidden_layers } else { 1 };
        let zeros = |width: usize| backend.zeros(rows * width);
        let for_gradient = |width: usize| backend.zeros(if gradient { rows * width } else { 0 });
        let layer = |_| LayerActivations {
            input_rms: zeros(1),
            qkv: zeros(qkv),
            attended: zeros(q),
            log_sums: zeros(h),
            mid: zeros(c),
            mid_rms: zeros(1),
            gate_up: zeros(2 * f),
        };
        Self {
            streams: (0..=depth).map(|_| zeros(c)).collect(),
            layers: (0..depth).map(layer).collect(),
            scratch: Scratch {
                normed: zeros(c),
                gated: zeros(f),
                dstream: for_gradient(c),
                dattended: for_gradient(q),
                dqkv: for_gradient(qkv),
            },
            head: HeadActivations {
                stream: zeros(c),
                normed: zeros(c),
                rms: zeros(1),
                losses: zeros(1),
                dnormed: for_gradient(c),
                logits: backend.zeros(0),
            },
            rows,
        }
    }
}
