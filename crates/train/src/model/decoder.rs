//! The decoder, written once over a set of operations: embedding, L layers of attention and
//! feed-forward, norm, head. The forward pass of a layer serves training, the filling of a cache
//! and decoding from it; the backward pass mirrors it by hand. In what families differ they differ
//! by the facts of [`super::family`], which decide what weights there are.
//!
//! Shapes: N rows, C residual stream, H query and K key/value heads of D, F feed-forward, V
//! vocabulary, L layers.

use super::activations::{Activations, LayerActivations, Normed, Scratch};
use super::adapter::{Adapter, Pair, Trained};
use super::family::Block;
use super::weights::{LayerWeights, Projection, Weights};
use super::{Attached, ModelConfig, Packed};
use crate::ops::{
    Backend, CacheShape, HeadGradient, Kind, LinearGluShape, LinearShape, NormGradients, Plus,
    SavedAttention,
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
    pub adapter: Option<&'a Attached<B::Tensor>>,
    /// The table of each of the config's ropes.
    pub angles: &'a [B::Tensor],
    pub rows: usize,
    /// Whether a row's result must not depend on what other rows there are, as in generation.
    pub rows_apart: bool,
}

/// Where a layer's gradients go.
enum LayerGradients<'a, T> {
    All(&'a mut LayerWeights<T>),
    Adapter(&'a mut [Option<Pair<T>>; 4]),
}

impl<'a, T> LayerGradients<'a, T> {
    fn of(all: &'a mut Trained<T>, l: usize) -> Self {
        match all {
            Trained::Full(weights) => Self::All(&mut weights.layers[l]),
            Trained::Adapter(Adapter { layers }) => Self::Adapter(&mut layers[l]),
        }
    }

    /// One of the layer's own tensors, where those are trained.
    fn own<'b>(
        &'b mut self,
        choose: impl FnOnce(&'b mut LayerWeights<T>) -> Option<&'b mut T>,
    ) -> Option<&'b mut T> {
        match self {
            Self::All(weights) => choose(weights),
            Self::Adapter(_) => None,
        }
    }
}

/// What an adapter does beside a linear map: y += h · up, where h = scale · x · downᵀ.
struct Beside<'a, T> {
    pair: &'a Pair<T>,
    scale: f32,
    /// x to h.
    down: LinearShape,
    /// dy to dh.
    up: LinearShape,
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
        let keep = scratch.has_gradients(ops);
        let Scratch { normed, gated, mid, .. } = scratch;
        ops.norm(normed, &mut kept.input_inverse, x, &weights.input_norm, None, norm);
        self.attention_forward(l, normed, batch, kept, attend);
        let mid = kept.mid.as_mut().unwrap_or(mid);
        let out_norm = kept.attention_out.as_mut().zip(weights.attention_out_norm.as_ref());
        let (attended, low) = (&kept.attended, &mut kept.low);
        self.project_onto(l, Projection::Output, [mid, x], attended, out_norm, low);

        if let Some(weight) = &weights.feed_forward_norm {
            ops.norm(normed, &mut kept.mid_inverse, mid, weight, None, norm);
        }
        self.project_gated(l, [gated, &mut kept.gate_up], normed, &mut kept.low, keep);
        let out_norm = kept.feed_forward_out.as_mut().zip(weights.feed_forward_out_norm.as_ref());
        self.project_onto(l, Projection::Down, [out, mid], gated, out_norm, &mut kept.low);
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
        let LayerActivations { projected, qkv, attended, log_sums, low, .. } = kept;
        match projected.as_mut().zip(self.layer(l).qk_norm.as_ref()) {
            None => self.project(l, Projection::Qkv, qkv, normed, None, low),
            Some((projected, weight)) => {
                self.project(l, Projection::Qkv, &mut projected.x, normed, None, low);
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

    /// The adapter beside a layer's linear map, if there is one.
    fn beside(&self, l: usize, projection: Projection) -> Option<Beside<'_, B::Tensor>> {
        let attached = self.adapter?;
        let pair = attached.tensors.layers[l][projection as usize].as_ref()?;
        let rank = attached.layout.ranks()[projection as usize];
        let LinearShape { rows, inputs, outputs } = self.projection_shape(projection);
        let (down, up) = (
            LinearShape { rows, inputs, outputs: rank },
            LinearShape { rows, inputs: outputs, outputs: rank },
        );
        Some(Beside { pair, scale: attached.layout.lora.scale(), down, up })
    }

    /// y = a layer's linear map of x, plus a residual; an adapter's h goes into `low`. All of a
    /// layer's products go through here, and their gradients through the two functions after it.
    fn project(
        &self,
        l: usize,
        projection: Projection,
        y: &mut B::Tensor,
        x: &B::Tensor,
        residual: Option<&B::Tensor>,
        low: &mut [B::Tensor; 4],
    ) {
        let linear = self.layer(l).linear(projection);
        let plus = Plus { bias: linear.bias.as_ref(), residual };
        let apply = if self.rows_apart { B::linear_rows } else { B::linear };
        apply(self.backend, y, x, &linear.weight, plus, self.projection_shape(projection));
        if let Some(Beside { pair, scale, down, up }) = self.beside(l, projection) {
            let (ops, h) = (self.backend, &mut low[projection as usize]);
            ops.linear(h, x, &pair.down, Plus::NOTHING, down);
            ops.scale(h, self.rows * down.outputs, scale);
            ops.linear_backward_input(y, h, &pair.up, up, true);
        }
    }

    /// The gated values of a layer's feed-forward; gate and up themselves too, unless `keep` is false.
    fn project_gated(
        &self,
        l: usize,
        [gated, gate_up]: [&mut B::Tensor; 2],
        x: &B::Tensor,
        low: &mut [B::Tensor; 4],
        keep: bool,
    ) {
        let (ops, glu) = (self.backend, self.config.glu(self.rows));
        if self.rows_apart || self.beside(l, Projection::GateUp).is_some() {
            self.project(l, Projection::GateUp, gate_up, x, None, low);
            ops.glu(gated, gate_up, glu);
        } else {
            let shape = LinearGluShape { inputs: self.config.hidden_size, glu, keep };
            ops.linear_glu(gated, gate_up, x, &self.layer(l).gate_up.weight, shape);
        }
    }

    /// dx (+)= the gradient that comes back through a layer's linear map; that of an adapter's h
    /// goes into `dlow`, where it stays for the gradients of the adapter.
    fn project_backward_input(
        &self,
        l: usize,
        projection: Projection,
        dx: &mut B::Tensor,
        dy: &B::Tensor,
        accumulate: bool,
        dlow: &mut [B::Tensor; 4],
    ) {
        let (weight, shape) =
            (&self.layer(l).linear(projection).weight, self.projection_shape(projection));
        self.backend.linear_backward_input(dx, dy, weight, shape, accumulate);
        if let Some(Beside { pair, scale, down, up }) = self.beside(l, projection) {
            let (ops, dh) = (self.backend, &mut dlow[projection as usize]);
            ops.linear(dh, dy, &pair.up, Plus::NOTHING, up);
            ops.scale(dh, self.rows * up.outputs, scale);
            ops.linear_backward_input(dx, dh, &pair.down, down, true);
        }
    }

    /// Adds to the gradients of a layer's linear map, or to those of the adapter beside it, whose h
    /// and dh these are.
    fn project_backward_weight(
        &self,
        (l, projection): (usize, Projection),
        into: &mut LayerGradients<'_, B::Tensor>,
        dy: &B::Tensor,
        x: &B::Tensor,
        [low, dlow]: [&[B::Tensor; 4]; 2],
    ) {
        let (ops, p) = (self.backend, projection as usize);
        match into {
            LayerGradients::All(weights) => {
                let (into, shape) =
                    (weights.linear_mut(projection), self.projection_shape(projection));
                ops.linear_backward_weight(&mut into.weight, into.bias.as_mut(), dy, x, shape);
            }
            LayerGradients::Adapter(pairs) => {
                if let Some((into, beside)) = pairs[p].as_mut().zip(self.beside(l, projection)) {
                    ops.linear_backward_weight(&mut into.up, None, &low[p], dy, beside.up);
                    ops.linear_backward_weight(&mut into.down, None, &dlow[p], x, beside.down);
                }
            }
        }
    }

    /// y = stream + linear(x), or stream + norm(linear(x)) where the family norms what is added.
    fn project_onto(
        &self,
        l: usize,
        projection: Projection,
        [y, stream]: [&mut B::Tensor; 2],
        x: &B::Tensor,
        out_norm: Option<(&mut Normed<B::Tensor>, &B::Tensor)>,
        low: &mut [B::Tensor; 4],
    ) {
        match out_norm {
            None => self.project(l, projection, y, x, Some(stream), low),
            Some((Normed { x: added, inverse }, weight)) => {
                self.project(l, projection, added, x, None, low);
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
        gradient: Option<(f32, &mut Trained<B::Tensor>)>,
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
        let (dhead, dnorm) = match gradients {
            Trained::Full(weights) => {
                let head = weights.lm_head.as_mut().unwrap_or(&mut weights.embed_tokens);
                (Some(head), Some(&mut weights.norm))
            }
            Trained::Adapter(_) => (None, None),
        };
        let into = HeadGradient { scale, hidden: &mut head.dnormed, head: dhead };
        let (losses, targets) = (&mut head.losses, &batch.targets);
        ops.cross_entropy(losses, &head.normed, weight, targets, Some(into), shape);
        // The normed rows are needed no more; their memory takes the gradient of the rows before
        // the norm.
        let into =
            NormGradients { dx: &mut head.normed, accumulate: false, dweight: dnorm, y: None };
        let Normed { x, inverse } = &head.stream;
        let norm = self.config.norm(counted);
        ops.norm_backward(into, inverse, &head.dnormed, x, &self.weights.norm, norm);
        ops.fill(&mut scratch.dstream, self.rows * c, 0.0);
        ops.scatter_add_rows(&mut scratch.dstream, &head.normed, &batch.counted, c);
        let losses = ops.values(&head.losses, counted);
        self.backward(batch, kept, gradients);
        losses
    }

    /// From the gradient of the last stream, in `dstream`, to all layers' weights and, where they
    /// are trained, the embedding.
    fn backward(
        &self,
        batch: &Packed<B>,
        kept: &mut Activations<B::Tensor>,
        gradients: &mut Trained<B::Tensor>,
    ) {
        let (ops, c) = (self.backend, self.config.hidden_size);
        for l in (0..self.weights.layers.len()).rev() {
            let memory = (&mut kept.layers[l], &mut kept.scratch);
            let into = LayerGradients::of(gradients, l);
            self.layer_backward(l, into, &kept.streams[l], batch, memory);
        }
        let Trained::Full(gradients) = gradients else { return };
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
        mut into: LayerGradients<'_, B::Tensor>,
        x: &B::Tensor,
        batch: &Packed<B>,
        (kept, scratch): (&mut LayerActivations<B::Tensor>, &mut Scratch<B::Tensor>),
    ) {
        let (ops, weights, norm) = (self.backend, self.layer(l), self.config.norm(self.rows));
        let into = &mut into;
        self.feed_forward_backward(l, into, kept, scratch);
        let Scratch { normed, dnormed, dstream, dlow, .. } = scratch;
        if let Some((weight, mid)) = weights.feed_forward_norm.as_ref().zip(kept.mid.as_ref()) {
            let dweight = into.own(|own| own.feed_forward_norm.as_mut());
            let gradients =
                NormGradients { dx: dstream, accumulate: true, dweight, y: Some(normed) };
            ops.norm_backward(gradients, &kept.mid_inverse, dnormed, mid, weight, norm);
            let (at, low) = ((l, Projection::GateUp), [&kept.low, &*dlow]);
            self.project_backward_weight(at, into, &kept.gate_up, normed, low);
        }

        self.attention_backward(l, into, batch, kept, scratch);
        let Scratch { normed, dnormed, dstream, dqkv, dlow, .. } = scratch;
        // The norm of a parallel block has the gradients of both halves.
        self.project_backward_input(l, Projection::Qkv, dnormed, dqkv, self.is_parallel(), dlow);
        let dweight = into.own(|own| Some(&mut own.input_norm));
        let gradients = NormGradients { dx: dstream, accumulate: true, dweight, y: Some(normed) };
        ops.norm_backward(gradients, &kept.input_inverse, dnormed, x, &weights.input_norm, norm);
        let low = [&kept.low, &*dlow];
        self.project_backward_weight((l, Projection::Qkv), into, dqkv, normed, low);
        if self.is_parallel() {
            let at = (l, Projection::GateUp);
            self.project_backward_weight(at, into, &kept.gate_up, normed, low);
        }
    }

    /// From the layer's output to the normed input of its feed-forward, in `dnormed`; `gate_up`
    /// becomes its gradient.
    fn feed_forward_backward(
        &self,
        l: usize,
        into: &mut LayerGradients<'_, B::Tensor>,
        kept: &mut LayerActivations<B::Tensor>,
        scratch: &mut Scratch<B::Tensor>,
    ) {
        let Scratch { gated, dnormed, dstream, dbranch, dlow, .. } = scratch;
        let out_norm =
            kept.feed_forward_out.as_ref().zip(self.layer(l).feed_forward_out_norm.as_ref());
        let dweight = into.own(|own| own.feed_forward_out_norm.as_mut());
        let dout = self.branch_gradient(dstream, dbranch, out_norm, dweight);
        self.project_backward_input(l, Projection::Down, gated, dout, false, dlow);
        self.backend.glu_backward(&mut kept.gate_up, gated, self.config.glu(self.rows));
        let low = [&kept.low, &*dlow];
        self.project_backward_weight((l, Projection::Down), into, dout, gated, low);
        self.project_backward_input(l, Projection::GateUp, dnormed, &kept.gate_up, false, dlow);
    }

    /// From what attention adds to the stream to the queries, keys and values, in `dqkv`.
    fn attention_backward(
        &self,
        l: usize,
        into: &mut LayerGradients<'_, B::Tensor>,
        batch: &Packed<B>,
        kept: &LayerActivations<B::Tensor>,
        scratch: &mut Scratch<B::Tensor>,
    ) {
        let (ops, weights) = (self.backend, self.layer(l));
        let Scratch { dstream, dbranch, dattended, dqkv, dlow, .. } = scratch;
        let out_norm = kept.attention_out.as_ref().zip(weights.attention_out_norm.as_ref());
        let dweight = into.own(|own| own.attention_out_norm.as_mut());
        let dout = self.branch_gradient(dstream, dbranch, out_norm, dweight);
        self.project_backward_input(l, Projection::Output, dattended, dout, false, dlow);
        let (at, low) = ((l, Projection::Output), [&kept.low, &*dlow]);
        self.project_backward_weight(at, into, dout, &kept.attended, low);
        let LayerActivations { qkv, attended: out, log_sums, projected, .. } = kept;
        let (saved, attention) = (SavedAttention { qkv, out, log_sums }, self.config.attention(l));
        ops.attention_backward(dqkv, dattended, saved, &batch.documents, attention);
        self.turn(l, dqkv, batch, true);
        if let Some((projected, weight)) = projected.as_ref().zip(weights.qk_norm.as_ref()) {
            let Normed { x, inverse } = projected;
            let dweight = into.own(|own| own.qk_norm.as_mut());
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
