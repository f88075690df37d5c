//! The decoder, written once over a set of operations: embedding, L layers of attention and
//! feed-forward, norm, head. The forward pass of a layer serves training, the filling of a cache
//! and decoding from it; the backward pass mirrors it by hand.
//!
//! Shapes: N rows, C residual stream, H query and K key/value heads of D, F feed-forward, V
//! vocabulary, L layers.

use super::activations::{Activations, LayerActivations, Scratch};
use super::weights::{LayerWeights, Weights};
use super::{ModelConfig, Packed};
use crate::ops::{
    Backend, CacheShape, HeadGradient, Heads, LinearShape, NormGradients, NormShape, Plus,
    SavedAttention,
};

/// What attention looks at. What goes through a cache takes the form of products whose rows do not
/// depend on one another.
pub(super) enum Attend<'a, B: Backend> {
    /// Whole documents.
    Documents,
    /// Whole documents, whose keys and values also go into a cache.
    Fill { caches: &'a mut [B::Tensor], slots: &'a B::Index, shape: CacheShape },
    /// One row for each of some cached sequences.
    Step { caches: &'a mut [B::Tensor], slots: &'a B::Index, shape: CacheShape },
}

/// The constants of one pass.
pub(super) struct Pass<'a, B: Backend> {
    pub backend: &'a B,
    pub config: &'a ModelConfig,
    pub weights: &'a Weights<B::Tensor>,
    pub angles: &'a B::Tensor,
    pub rows: usize,
}

impl<B: Backend> Pass<'_, B> {
    fn heads(&self) -> Heads {
        self.config.heads()
    }

    fn norm_shape(&self, rows: usize) -> NormShape {
        NormShape { rows, width: self.config.hidden_size, eps: self.config.rms_norm_eps }
    }

    fn linear_shape(&self, inputs: usize, outputs: usize) -> LinearShape {
        LinearShape { rows: self.rows, inputs, outputs }
    }

    /// Shapes of a layer's four products, in the order of the forward pass.
    fn layer_shapes(&self) -> [LinearShape; 4] {
        let (c, f) = (self.config.hidden_size, self.config.intermediate_size);
        [
            self.linear_shape(c, self.config.qkv_width()),
            self.linear_shape(self.config.query_width(), c),
            self.linear_shape(c, 2 * f),
            self.linear_shape(f, c),
        ]
    }

    /// Which of the streams is the one after the last layer.
    fn last(&self, kept: &Activations<B::Tensor>) -> usize {
        self.weights.layers.len() % kept.streams.len()
    }

    /// Token ids to the residual stream after the last layer.
    pub fn forward(
        &self,
        batch: &Packed<B>,
        kept: &mut Activations<B::Tensor>,
        mut attend: Attend<'_, B>,
    ) {
        let (streams, depth) = (kept.streams.len(), kept.layers.len());
        self.backend.gather_rows(
            &mut kept.streams[0],
            &self.weights.embed_tokens,
            &batch.tokens,
            self.config.hidden_size,
        );
        for (l, weights) in self.weights.layers.iter().enumerate() {
            let [x, out] = kept
                .streams
                .get_disjoint_mut([l % streams, (l + 1) % streams])
                .expect("neighbouring streams are two");
            self.layer_forward(
                l,
                weights,
                [x, out],
                batch,
                (&mut kept.layers[l % depth], &mut kept.scratch),
                &mut attend,
            );
        }
    }

    /// One layer: out = mid + feed_forward(norm(mid)), mid = x + attention(norm(x)).
    fn layer_forward(
        &self,
        l: usize,
        weights: &LayerWeights<B::Tensor>,
        [x, out]: [&mut B::Tensor; 2],
        batch: &Packed<B>,
        (kept, scratch): (&mut LayerActivations<B::Tensor>, &mut Scratch<B::Tensor>),
        attend: &mut Attend<'_, B>,
    ) {
        let (ops, norm) = (self.backend, self.norm_shape(self.rows));
        let [qkv_shape, o_shape, gate_up_shape, down_shape] = self.layer_shapes();
        let linear = if matches!(attend, Attend::Documents) { B::linear } else { B::linear_rows };

        ops.rms_norm(&mut scratch.normed, &mut kept.input_rms, x, &weights.input_layernorm, norm);
        let plus = Plus { bias: weights.qkv_bias.as_ref(), residual: None };
        linear(ops, &mut kept.qkv, &scratch.normed, &weights.qkv_proj, plus, qkv_shape);
        ops.rope(&mut kept.qkv, &batch.positions, self.angles, self.heads(), false);
        if let Attend::Fill { caches, slots, shape } | Attend::Step { caches, slots, shape } =
            attend
        {
            ops.cache_store(&mut caches[l], &kept.qkv, slots, &batch.positions, *shape);
        }
        match attend {
            Attend::Step { caches, slots, shape } => {
                ops.cached_attention(
                    &mut kept.attended,
                    &kept.qkv,
                    &caches[l],
                    slots,
                    &batch.positions,
                    *shape,
                );
            }
            _ => ops.attention(
                &mut kept.attended,
                &mut kept.log_sums,
                &kept.qkv,
                &batch.documents,
                self.heads(),
            ),
        }
        let plus = Plus { bias: weights.o_bias.as_ref(), residual: Some(&*x) };
        linear(ops, &mut kept.mid, &kept.attended, &weights.o_proj, plus, o_shape);

        ops.rms_norm(
            &mut scratch.normed,
            &mut kept.mid_rms,
            &kept.mid,
            &weights.post_attention_layernorm,
            norm,
        );
        linear(
            ops,
            &mut kept.gate_up,
            &scratch.normed,
            &weights.gate_up_proj,
            Plus::NOTHING,
            gate_up_shape,
        );
        ops.swiglu(&mut scratch.gated, &kept.gate_up, self.rows, self.config.intermediate_size);
        let plus = Plus { bias: None, residual: Some(&kept.mid) };
        linear(ops, out, &scratch.gated, &weights.down_proj, plus, down_shape);
    }

    /// Losses of the rows that count; with a scale, also their gradient, from the head down to the
    /// embedding.
    pub fn losses(
        &self,
        batch: &Packed<B>,
        kept: &mut Activations<B::Tensor>,
        gradient: Option<(f32, &mut Weights<B::Tensor>)>,
    ) -> Vec<f32> {
        let (ops, c, counted) = (self.backend, self.config.hidden_size, batch.counted_rows.len());
        if counted == 0 {
            return Vec::new();
        }
        let norm = self.norm_shape(counted);
        let shape = LinearShape { rows: counted, inputs: c, outputs: self.config.vocab_size };
        let last = self.last(kept);
        let Activations { streams, head, scratch, .. } = kept;
        ops.gather_rows(&mut head.stream, &streams[last], &batch.counted, c);
        ops.rms_norm(&mut head.normed, &mut head.rms, &head.stream, &self.weights.norm, norm);
        let Some((scale, gradients)) = gradient else {
            ops.cross_entropy(
                &mut head.losses,
                &head.normed,
                self.weights.head(),
                &batch.targets,
                None,
                shape,
            );
            return ops.values(&head.losses, counted);
        };
        let into = HeadGradient { scale, hidden: &mut head.dnormed, head: gradients.head_mut() };
        ops.cross_entropy(
            &mut head.losses,
            &head.normed,
            self.weights.head(),
            &batch.targets,
            Some(into),
            shape,
        );
        // The normed rows are needed no more; their memory takes the gradient of the rows before
        // the norm.
        ops.fill(&mut head.normed, counted * c, 0.0);
        let into = NormGradients {
            dx: &mut head.normed,
            dweight: &mut gradients.norm,
            dy: &mut head.dnormed,
        };
        ops.rms_norm_backward(into, &head.rms, &head.stream, &self.weights.norm, norm);
        ops.fill(&mut scratch.dstream, self.rows * c, 0.0);
        ops.scatter_add_rows(&mut scratch.dstream, &head.normed, &batch.counted, c);
        let losses = ops.values(&head.losses, counted);
        self.backward(batch, kept, gradients);
        losses
    }

    /// From the gradient of the last stream, in `dstream`, to all layers' weights and the
    /// embedding.
    fn backward(
        &self,
        batch: &Packed<B>,
        kept: &mut Activations<B::Tensor>,
        gradients: &mut Weights<B::Tensor>,
    ) {
        for l in (0..self.weights.layers.len()).rev() {
            let (weights, into) = (&self.weights.layers[l], &mut gradients.layers[l]);
            self.feed_forward_backward(weights, into, &mut kept.layers[l], &mut kept.scratch);
            self.attention_backward(
                weights,
                into,
                &kept.streams[l],
                batch,
                (&kept.layers[l], &mut kept.scratch),
            );
        }
        let width = self.config.hidden_size;
        self.backend.scatter_add_rows(
            &mut gradients.embed_tokens,
            &kept.scratch.dstream,
            &batch.tokens,
            width,
        );
    }

    /// The layer's second half. `dstream` holds the gradient of its output and gets that of `mid`.
    /// The norm's and the gate's backward passes give their outputs back, which the weights'
    /// gradients need.
    fn feed_forward_backward(
        &self,
        weights: &LayerWeights<B::Tensor>,
        into: &mut LayerWeights<B::Tensor>,
        kept: &mut LayerActivations<B::Tensor>,
        scratch: &mut Scratch<B::Tensor>,
    ) {
        let (ops, [_, _, gate_up_shape, down_shape]) = (self.backend, self.layer_shapes());
        let Scratch { normed, gated, dstream, .. } = scratch;
        ops.linear_backward_input(gated, dstream, &weights.down_proj, down_shape);
        ops.swiglu_backward(&mut kept.gate_up, gated, self.rows, self.config.intermediate_size);
        ops.linear_backward_weight(&mut into.down_proj, None, dstream, gated, down_shape);
        let dgate_up = &kept.gate_up;
        ops.linear_backward_input(normed, dgate_up, &weights.gate_up_proj, gate_up_shape);
        let norm =
            NormGradients { dx: dstream, dweight: &mut into.post_attention_layernorm, dy: normed };
        let shape = self.norm_shape(self.rows);
        ops.rms_norm_backward(
            norm,
            &kept.mid_rms,
            &kept.mid,
            &weights.post_attention_layernorm,
            shape,
        );
        ops.linear_backward_weight(&mut into.gate_up_proj, None, dgate_up, normed, gate_up_shape);
    }

    /// The layer's first half. `dstream` holds the gradient of `mid` and gets that of the layer's
    /// input `x`.
    fn attention_backward(
        &self,
        weights: &LayerWeights<B::Tensor>,
        into: &mut LayerWeights<B::Tensor>,
        x: &B::Tensor,
        batch: &Packed<B>,
        (kept, scratch): (&LayerActivations<B::Tensor>, &mut Scratch<B::Tensor>),
    ) {
        let (ops, [qkv_shape, o_shape, ..]) = (self.backend, self.layer_shapes());
        let Scratch { normed, dstream, dattended, dqkv, .. } = scratch;
        ops.linear_backward_input(dattended, dstream, &weights.o_proj, o_shape);
        ops.linear_backward_weight(
            &mut into.o_proj,
            into.o_bias.as_mut(),
            dstream,
            &kept.attended,
            o_shape,
        );
        let saved =
            SavedAttention { qkv: &kept.qkv, out: &kept.attended, log_sums: &kept.log_sums };
        ops.attention_backward(dqkv, dattended, saved, &batch.documents, self.heads());
        ops.rope(dqkv, &batch.positions, self.angles, self.heads(), true);
        ops.linear_backward_input(normed, dqkv, &weights.qkv_proj, qkv_shape);
        let norm = NormGradients { dx: dstream, dweight: &mut into.input_layernorm, dy: normed };
        ops.rms_norm_backward(
            norm,
            &kept.input_rms,
            x,
            &weights.input_layernorm,
            self.norm_shape(self.rows),
        );
        ops.linear_backward_weight(
            &mut into.qkv_proj,
            into.qkv_bias.as_mut(),
            dqkv,
            normed,
            qkv_shape,
        );
    }

    /// Logits `[counted, V]` of the counted rows.
    pub fn logits(&self, batch: &Packed<B>, kept: &mut Activations<B::Tensor>) -> Vec<f32> {
        let (ops, c, counted) = (self.backend, self.config.hidden_size, batch.counted_rows.len());
        let (last, vocab) = (self.last(kept), self.config.vocab_size);
        let head = &mut kept.head;
        ops.gather_rows(&mut head.stream, &kept.streams[last], &batch.counted, c);
        ops.rms_norm(
            &mut head.normed,
            &mut head.rms,
            &head.stream,
            &self.weights.norm,
            self.norm_shape(counted),
        );
        if ops.len(&head.logits) < counted * vocab {
            head.logits = ops.zeros(counted * vocab);
        }
        let shape = LinearShape { rows: counted, inputs: c, outputs: vocab };
        ops.linear_rows(&mut head.logits, &head.normed, self.weights.head(), Plus::NOTHING, shape);
        ops.values(&head.logits, counted * vocab)
    }
}
