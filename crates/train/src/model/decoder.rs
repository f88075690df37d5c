//! The decoder, written once over a set of operations: embedding, L layers of attention and
//! feed-forward, norm, head. The forward pass of a layer serves training, the filling of a cache
//! and decoding from it; the backward pass mirrors it by hand. In what families differ they differ
//! by the facts of [`super::family`], which decide what weights there are.
//!
//! Shapes: N rows, C residual stream, H query and K key/value heads of D, F feed-forward, V
//! vocabulary, L layers.

use super::activations::{Activations, LayerActivations, Normed, Scratch};
use super::family::Block;
use super::weights::{LayerWeights, Projection, Weights};
use super::{ModelConfig, Packed};
use crate::ops::{
    Backend, CacheShape, HeadGradient, Kind, LinearShape, NormGradients, Plus, SavedAttention,
};

/// What attention looks at. What goes through a cache takes the form of products whose rows do not
/// depend on one another.
pub(super) enum Attend<'a, B: Backend> {
    /// Whole documents.
    Documents,
    /// Whole documents, whose keys and values also go into a cache.
    Fill { caches: &'a mut [B::Tensor], slots: &'a B::Index, capacity: usize },
    /// One row for each of some cached sequences.
    Step { caches: &'a mut [B::Tensor], slots: &'a B::Index, capacity: usize },
}

/// The constants of one pass.
pub(super) struct Pass<'a, B: Backend> {
    pub backend: &'a B,
    pub config: &'a ModelConfig,
    pub weights: &'a Weights<B::Tensor>,
    /// The table of each of the config's ropes.
    pub angles: &'a [B::Tensor],
    pub rows: usize,
    /// Whether a row's result must not depend on what other rows there are, as in generation.
    pub rows_apart: bool,
}

impl<B: Backend> Pass<'_, B> {
    fn layer(&self, l: usize) -> &LayerWeights<B::Tensor> {
        &self.weights.layers[l]
    }

    fn is_parallel(&self) -> bool {
        self.config.family.block == Block::Parallel
    }

    /// What embeddings are multiplied by, in the stream's type: transformers rounds it so too, and
    /// √3072 = 55.43 is 55.5 in bf16.
    fn embedding_scale(&self) -> Option<f32> {
        self.config.embedding_scale.map(|scale| self.backend.rounded(Kind::Activation, scale))
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
        let (ops, c) = (self.backend, self.config.hidden_size);
        let (streams, depth) = (kept.streams.len(), kept.layers.len());
        ops.gather_rows(&mut kept.streams[0], &self.weights.embed_tokens, &batch.tokens, c);
        if let Some(scale) = self.embedding_scale() {
            ops.scale(&mut kept.streams[0], self.rows * c, scale);
        }
        for l in 0..self.weights.layers.len() {
            let [x, out] = kept
                .streams
                .get_disjoint_mut([l % streams, (l + 1) % streams])
                .expect("neighbouring streams are two");
            let memory = (&mut kept.layers[l % depth], &mut kept.scratch);
            self.layer_forward(l, [x, out], batch, memory, &mut attend);
        }
    }

    /// One layer: mid = x + attention(norm(x)), out = mid + feed_forward(norm(mid)), or norm(x)
    /// for norm(mid) in a parallel block.
    fn layer_forward(
        &self,
        l: usize,
        [x, out]: [&mut B::Tensor; 2],
        batch: &Packed<B>,
        (kept, scratch): (&mut LayerActivations<B::Tensor>, &mut Scratch<B::Tensor>),
        attend: &mut Attend<'_, B>,
    ) {
        let (ops, weights, norm) = (self.backend, self.layer(l), self.config.norm(self.rows));
        let Scratch { normed, gated, mid, .. } = scratch;
        ops.norm(normed, &mut kept.input_inverse, x, &weights.input_norm, None, norm);
        self.attention_forward(l, normed, batch, kept, attend);
        let mid = kept.mid.as_mut().unwrap_or(mid);
        let out_norm = kept.attention_out.as_mut().zip(weights.attention_out_norm.as_ref());
        self.project_onto(l, Projection::Output, [mid, x], &kept.attended, out_norm);

        if let Some(weight) = &weights.feed_forward_norm {
            ops.norm(normed, &mut kept.mid_inverse, mid, weight, None, norm);
        }
        self.project(l, Projection::GateUp, &mut kept.gate_up, normed, None);
        ops.glu(gated, &kept.gate_up, self.config.glu(self.rows));
        let out_norm = kept.feed_forward_out.as_mut().zip(weights.feed_forward_out_norm.as_ref());
        self.project_onto(l, Projection::Down, [out, mid], gated, out_norm);
    }

    /// The normed stream to what is attended to.
    fn attention_forward(
        &self,
        l: usize,
        normed: &B::Tensor,
        batch: &Packed<B>,
        kept: &mut LayerActivations<B::Tensor>,
        attend: &mut Attend<'_, B>,
    ) {
        let (ops, attention) = (self.backend, self.config.attention(l));
        let LayerActivations { projected, qkv, attended, log_sums, .. } = kept;
        match projected.as_mut().zip(self.layer(l).qk_norm.as_ref()) {
            None => self.project(l, Projection::Qkv, qkv, normed, None),
            Some((projected, weight)) => {
                self.project(l, Projection::Qkv, &mut projected.x, normed, None);
                let shape = self.config.head_norm(self.rows);
                ops.head_norm(qkv, &mut projected.inverse, &projected.x, weight, shape);
            }
        }
        self.turn(l, qkv, batch, false);
        let positions = &batch.positions;
        match attend {
            Attend::Documents => {
                ops.attention(attended, log_sums, qkv, &batch.documents, attention);
            }
            Attend::Fill { caches, slots, capacity } => {
                let shape = CacheShape { attention, capacity: *capacity };
                ops.cache_store(&mut caches[l], qkv, slots, positions, shape);
                ops.attention(attended, log_sums, qkv, &batch.documents, attention);
            }
            Attend::Step { caches, slots, capacity } => {
                let shape = CacheShape { attention, capacity: *capacity };
                ops.cache_store(&mut caches[l], qkv, slots, positions, shape);
                ops.cached_attention(attended, qkv, &caches[l], slots, positions, shape);
            }
        }
    }

    /// Turns queries and keys, where the layer does that.
    fn turn(&self, l: usize, qkv: &mut B::Tensor, batch: &Packed<B>, inverse: bool) {
        if let Some(rope) = self.config.layers[l].rope {
            let (angles, layout) = (&self.angles[rope], self.config.family.rope_layout);
            let heads = self.config.heads();
            self.backend.rope(qkv, &batch.positions, angles, heads, layout, inverse);
        }
    }

    fn projection_shape(&self, projection: Projection) -> LinearShape {
        let (c, f) = (self.config.hidden_size, self.config.intermediate_size);
        let (inputs, outputs) = match projection {
            Projection::Qkv => (c, self.config.qkv_width()),
            Projection::Output => (self.config.query_width(), c),
            Projection::GateUp => (c, 2 * f),
            Projection::Down => (f, c),
        };
        LinearShape { rows: self.rows, inputs, outputs }
    }

    /// y = a layer's linear map of x, plus a residual. All of a layer's products go through here,
    /// and their gradients through the two functions after it.
    fn project(
        &self,
        l: usize,
        projection: Projection,
        y: &mut B::Tensor,
        x: &B::Tensor,
        residual: Option<&B::Tensor>,
    ) {
        let linear = self.layer(l).linear(projection);
        let plus = Plus { bias: linear.bias.as_ref(), residual };
        let apply = if self.rows_apart { B::linear_rows } else { B::linear };
        apply(self.backend, y, x, &linear.weight, plus, self.projection_shape(projection));
    }

    /// dx (+)= the gradient that comes back through a layer's linear map.
    fn project_backward_input(
        &self,
        l: usize,
        projection: Projection,
        dx: &mut B::Tensor,
        dy: &B::Tensor,
        accumulate: bool,
    ) {
        let (weight, shape) =
            (&self.layer(l).linear(projection).weight, self.projection_shape(projection));
        self.backend.linear_backward_input(dx, dy, weight, shape, accumulate);
    }

    /// Adds to the gradients of a layer's linear map.
    fn project_backward_weight(
        &self,
        projection: Projection,
        into: &mut LayerWeights<B::Tensor>,
        dy: &B::Tensor,
        x: &B::Tensor,
    ) {
        let (into, shape) = (into.linear_mut(projection), self.projection_shape(projection));
        let dbias = into.bias.as_mut();
        self.backend.linear_backward_weight(&mut into.weight, dbias, dy, x, shape);
    }

    /// y = stream + linear(x), or stream + norm(linear(x)) where the family norms what is added.
    fn project_onto(
        &self,
        l: usize,
        projection: Projection,
        [y, stream]: [&mut B::Tensor; 2],
        x: &B::Tensor,
        out_norm: Option<(&mut Normed<B::Tensor>, &B::Tensor)>,
    ) {
        match out_norm {
            None => self.project(l, projection, y, x, Some(stream)),
            Some((Normed { x: added, inverse }, weight)) => {
                self.project(l, projection, added, x, None);
                let norm = self.config.norm(self.rows);
                self.backend.norm(y, inverse, added, weight, Some(stream), norm);
            }
        }
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
        self.head_stream(batch, kept);
        let (shape, weight) = (self.config.head(counted), self.weights.head());
        let Activations { head, scratch, .. } = kept;
        let Some((scale, gradients)) = gradient else {
            let (losses, targets) = (&mut head.losses, &batch.targets);
            ops.cross_entropy(losses, &head.normed, weight, targets, None, shape);
            return ops.values(&head.losses, counted);
        };
        let into =
            HeadGradient { scale, hidden: &mut head.dnormed, head: Some(gradients.head_mut()) };
        let (losses, targets) = (&mut head.losses, &batch.targets);
        ops.cross_entropy(losses, &head.normed, weight, targets, Some(into), shape);
        // The normed rows are needed no more; their memory takes the gradient of the rows before
        // the norm.
        let into = NormGradients {
            dx: &mut head.normed,
            accumulate: false,
            dweight: Some(&mut gradients.norm),
            y: None,
        };
        let Normed { x, inverse } = &head.stream;
        let norm = self.config.norm(counted);
        ops.norm_backward(into, inverse, &head.dnormed, x, &self.weights.norm, norm);
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
        let (ops, c) = (self.backend, self.config.hidden_size);
        for l in (0..self.weights.layers.len()).rev() {
            let memory = (&mut kept.layers[l], &mut kept.scratch);
            self.layer_backward(l, &mut gradients.layers[l], &kept.streams[l], batch, memory);
        }
        let dstream = &mut kept.scratch.dstream;
        if let Some(scale) = self.embedding_scale() {
            ops.scale(dstream, self.rows * c, scale);
        }
        ops.scatter_add_rows(&mut gradients.embed_tokens, dstream, &batch.tokens, c);
    }

    /// One layer. `dstream` holds the gradient of its output and gets that of its input `x`. The
    /// norms' and the gate's backward passes give their outputs back, which the weights' gradients
    /// need.
    fn layer_backward(
        &self,
        l: usize,
        into: &mut LayerWeights<B::Tensor>,
        x: &B::Tensor,
        batch: &Packed<B>,
        (kept, scratch): (&mut LayerActivations<B::Tensor>, &mut Scratch<B::Tensor>),
    ) {
        let (ops, weights, norm) = (self.backend, self.layer(l), self.config.norm(self.rows));
        self.feed_forward_backward(l, into, kept, scratch);
        let Scratch { normed, dnormed, dstream, .. } = scratch;
        if let Some((weight, mid)) = weights.feed_forward_norm.as_ref().zip(kept.mid.as_ref()) {
            let dweight = into.feed_forward_norm.as_mut();
            let gradients =
                NormGradients { dx: dstream, accumulate: true, dweight, y: Some(normed) };
            ops.norm_backward(gradients, &kept.mid_inverse, dnormed, mid, weight, norm);
            self.project_backward_weight(Projection::GateUp, into, &kept.gate_up, normed);
        }

        self.attention_backward(l, into, batch, kept, scratch);
        let Scratch { normed, dnormed, dstream, dqkv, .. } = scratch;
        // The norm of a parallel block has the gradients of both halves.
        self.project_backward_input(l, Projection::Qkv, dnormed, dqkv, self.is_parallel());
        let dweight = Some(&mut into.input_norm);
        let gradients = NormGradients { dx: dstream, accumulate: true, dweight, y: Some(normed) };
        ops.norm_backward(gradients, &kept.input_inverse, dnormed, x, &weights.input_norm, norm);
        self.project_backward_weight(Projection::Qkv, into, dqkv, normed);
        if self.is_parallel() {
            self.project_backward_weight(Projection::GateUp, into, &kept.gate_up, normed);
        }
    }

    /// From the layer's output to the normed input of its feed-forward, in `dnormed`; `gate_up`
    /// becomes its gradient.
    fn feed_forward_backward(
        &self,
        l: usize,
        into: &mut LayerWeights<B::Tensor>,
        kept: &mut LayerActivations<B::Tensor>,
        scratch: &mut Scratch<B::Tensor>,
    ) {
        let Scratch { gated, dnormed, dstream, dbranch, .. } = scratch;
        let out_norm =
            kept.feed_forward_out.as_ref().zip(self.layer(l).feed_forward_out_norm.as_ref());
        let dweight = into.feed_forward_out_norm.as_mut();
        let dout = self.branch_gradient(dstream, dbranch, out_norm, dweight);
        self.project_backward_input(l, Projection::Down, gated, dout, false);
        self.backend.glu_backward(&mut kept.gate_up, gated, self.config.glu(self.rows));
        self.project_backward_weight(Projection::Down, into, dout, gated);
        self.project_backward_input(l, Projection::GateUp, dnormed, &kept.gate_up, false);
    }

    /// From what attention adds to the stream to the queries, keys and values, in `dqkv`.
    fn attention_backward(
        &self,
        l: usize,
        into: &mut LayerWeights<B::Tensor>,
        batch: &Packed<B>,
        kept: &LayerActivations<B::Tensor>,
        scratch: &mut Scratch<B::Tensor>,
    ) {
        let (ops, weights) = (self.backend, self.layer(l));
        let Scratch { dstream, dbranch, dattended, dqkv, .. } = scratch;
        let out_norm = kept.attention_out.as_ref().zip(weights.attention_out_norm.as_ref());
        let dweight = into.attention_out_norm.as_mut();
        let dout = self.branch_gradient(dstream, dbranch, out_norm, dweight);
        self.project_backward_input(l, Projection::Output, dattended, dout, false);
        self.project_backward_weight(Projection::Output, into, dout, &kept.attended);
        let LayerActivations { qkv, attended: out, log_sums, projected, .. } = kept;
        let (saved, attention) = (SavedAttention { qkv, out, log_sums }, self.config.attention(l));
        ops.attention_backward(dqkv, dattended, saved, &batch.documents, attention);
        self.turn(l, dqkv, batch, true);
        if let Some((projected, weight)) = projected.as_ref().zip(weights.qk_norm.as_ref()) {
            let (Normed { x, inverse }, dweight) = (projected, into.qk_norm.as_mut());
            let shape = self.config.head_norm(self.rows);
            ops.head_norm_backward(dqkv, dweight, inverse, x, weight, shape);
        }
    }

    /// The gradient of what a half of the layer adds to the stream: that of the stream itself, or
    /// that put through the norm on what is added.
    fn branch_gradient<'a>(
        &self,
        dstream: &'a B::Tensor,
        dbranch: &'a mut B::Tensor,
        out_norm: Option<(&Normed<B::Tensor>, &B::Tensor)>,
        dweight: Option<&mut B::Tensor>,
    ) -> &'a B::Tensor {
        let Some((Normed { x, inverse }, weight)) = out_norm else { return dstream };
        let gradients = NormGradients { dx: &mut *dbranch, accumulate: false, dweight, y: None };
        let norm = self.config.norm(self.rows);
        self.backend.norm_backward(gradients, inverse, dstream, x, weight, norm);
        dbranch
    }

    /// The rows that count, normed for the head.
    fn head_stream(&self, batch: &Packed<B>, kept: &mut Activations<B::Tensor>) {
        let (ops, c, counted) = (self.backend, self.config.hidden_size, batch.counted_rows.len());
        let last = self.last(kept);
        let Normed { x, inverse } = &mut kept.head.stream;
        ops.gather_rows(x, &kept.streams[last], &batch.counted, c);
        let (normed, norm) = (&mut kept.head.normed, self.config.norm(counted));
        ops.norm(normed, inverse, x, &self.weights.norm, None, norm);
    }

    /// Logits `[counted, V]` of the counted rows.
    pub fn logits(&self, batch: &Packed<B>, kept: &mut Activations<B::Tensor>) -> Vec<f32> {
        self.head_stream(batch, kept);
        let (ops, head, counted) = (self.backend, &mut kept.head, batch.counted_rows.len());
        let shape = self.config.head(counted);
        let len = counted * shape.linear.outputs;
        if ops.len(&head.logits) < len {
            head.logits = ops.zeros(Kind::Statistic, len);
        }
        let (weight, linear) = (self.weights.head(), shape.linear);
        ops.linear_rows(&mut head.logits, &head.normed, weight, Plus::NOTHING, linear);
        let mut logits = ops.values(&head.logits, len);
        shape.logits.apply(&mut logits);
        logits
    }
}
