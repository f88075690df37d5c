//! The decoder, written once over a set of operations: embedding, L layers of attention and
//! feed-forward, norm, head. The forward pass of a layer serves training, the filling of a cache
//! and decoding from it. In what families differ they differ
//! by the facts of [`super::family`], which decide what weights there are. [`super::backward`] is the
//! way back.
//!
//! Shapes: N rows, C residual stream, H query and K key/value heads of D, F feed-forward, V
//! vocabulary, L layers.

use super::ModelConfig;
use super::activations::{
    Activations, Internals, LayerActivations, LayerMemory, Low, Normed, Recompute, Scratch,
};
use super::batch::Packed;
use super::beside::Aside;
use super::family::Block;
use super::projection::Lane;
use super::stand::Unpacking;
use super::weights::{LayerWeights, Projection, Weights};
use crate::ops::{Backend, CacheShape, Kind, Plus};

/// What attention looks at. What goes through a cache takes the form of products whose rows do not
/// depend on one another.
pub(super) enum Attend<'a, B: Backend> {
    /// Whole documents.
    Documents,
    /// Whole documents, whose keys and values also go into a cache.
    Fill { caches: &'a mut [B::Tensor], slots: &'a B::Index, capacity: usize },
    /// One row for each of some cached sequences.
    Step { caches: &'a mut [B::Tensor], slots: &'a B::Index, capacity: usize, reach: usize },
}

/// The constants of one pass.
pub(super) struct Pass<'a, B: Backend> {
    pub backend: &'a B,
    pub config: &'a ModelConfig,
    pub weights: &'a Weights<B::Tensor>,
    /// The runs whose rows these are, in order.
    pub lanes: &'a [Lane<'a, B::Tensor>],
    /// Room for what stands for a moment beside a map, where adapters need it.
    pub aside: Option<&'a Aside<B::Tensor>>,
    /// Where the layers' linear maps stand packed, how, and room for one of them.
    pub unpacking: Option<Unpacking<'a, B::Tensor>>,
    /// The table of each of the config's ropes.
    pub angles: &'a [B::Tensor],
    pub rows: usize,
    pub apart: Apart,
}

/// Whether a row's result must not depend on what other rows there are, as in generation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Apart {
    /// It may.
    No,
    /// The rows of whole prompts.
    Prompts,
    /// One row for each of some sequences.
    Steps,
}

impl<B: Backend> Pass<'_, B> {
    pub fn layer(&self, l: usize) -> &LayerWeights<B::Tensor> {
        &self.weights.layers[l]
    }

    pub fn is_parallel(&self) -> bool {
        self.config.family.block == Block::Parallel
    }

    /// What embeddings are multiplied by, in the stream's type: transformers rounds it so too, and
    /// √3072 = 55.43 is 55.5 in bf16.
    pub fn embedding_scale(&self) -> Option<f32> {
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
        ops.gather_rows(&mut kept.streams[0], &self.weights.embed_tokens, &batch.tokens, c);
        if let Some(scale) = self.embedding_scale() {
            ops.scale(&mut kept.streams[0], self.rows * c, scale);
        }
        for l in 0..self.weights.layers.len() {
            let (streams, mut memory) = kept.layer(l);
            self.layer_forward(l, streams, batch, &mut memory, &mut attend);
        }
    }

    /// One layer: mid = x + attention(norm(x)), out = mid + feed_forward(norm(mid)), or norm(x)
    /// for norm(mid) in a parallel block.
    fn layer_forward(
        &self,
        l: usize,
        [x, out]: [&mut B::Tensor; 2],
        batch: &Packed<B>,
        memory: &mut LayerMemory<'_, B::Tensor>,
        attend: &mut Attend<'_, B>,
    ) {
        self.attention_input(l, x, batch, memory);
        self.attend(l, batch, memory, attend);
        self.attention_output(l, x, memory);
        self.feed_forward(l, out, memory);
    }

    /// Makes again what a layer's memory held after the forward pass and is another layer's now.
    pub fn layer_again(
        &self,
        l: usize,
        [x, out]: [&mut B::Tensor; 2],
        batch: &Packed<B>,
        memory: &mut LayerMemory<'_, B::Tensor>,
        recompute: Recompute,
    ) {
        self.attention_input(l, x, batch, memory);
        // What magnitudes come to is kept from the products that they come to.
        let down = memory.kept.feed_forward_out.is_some() || self.is_scaled(l, Projection::Down);
        if recompute == Recompute::Block {
            self.attend(l, batch, memory, &mut Attend::Documents);
            // What a parallel block adds to the stream is of no further use else.
            if !self.is_parallel() || down || self.is_scaled(l, Projection::Output) {
                self.attention_output(l, x, memory);
            }
        }
        memory.keep = true;
        if recompute == Recompute::Block && down {
            return self.feed_forward(l, out, memory);
        }
        self.feed_forward_norm(l, memory);
        let LayerMemory { internals, low, scratch, .. } = memory;
        let (gate_up, normed) = (&mut internals.gate_up, &scratch.normed);
        self.project(l, Projection::GateUp, gate_up, normed, None, low);
    }

    /// The stream, normed, to queries, keys and values.
    fn attention_input(
        &self,
        l: usize,
        x: &B::Tensor,
        batch: &Packed<B>,
        memory: &mut LayerMemory<'_, B::Tensor>,
    ) {
        let (ops, weights, norm) = (self.backend, self.layer(l), self.config.norm(self.rows));
        let LayerMemory { kept, internals, low, scratch, .. } = memory;
        let (Internals { projected, qkv, .. }, normed) = (internals, &mut scratch.normed);
        ops.norm(normed, &mut kept.input_inverse, x, &weights.input_norm, None, norm);
        match projected.as_mut().zip(weights.qk_norm.as_ref()) {
            None => self.project(l, Projection::Qkv, qkv, normed, None, low),
            Some((projected, weight)) => {
                self.project(l, Projection::Qkv, &mut projected.x, normed, None, low);
                let shape = self.config.head_norm(self.rows);
                ops.head_norm(qkv, &mut projected.inverse, &projected.x, weight, shape);
            }
        }
        self.turn(l, qkv, batch, false);
    }

    /// Queries, keys and values to what is attended to.
    fn attend(
        &self,
        l: usize,
        batch: &Packed<B>,
        LayerMemory { kept, internals, .. }: &mut LayerMemory<'_, B::Tensor>,
        attend: &mut Attend<'_, B>,
    ) {
        let (ops, attention) = (self.backend, self.config.attention(l));
        let LayerActivations { attended, log_sums, .. } = &mut **kept;
        let (qkv, positions) = (&internals.qkv, &batch.positions);
        match attend {
            Attend::Documents => {
                ops.attention(attended, log_sums, qkv, &batch.documents, attention);
            }
            Attend::Fill { caches, slots, capacity } => {
                let shape = CacheShape { attention, capacity: *capacity, reach: *capacity };
                ops.cache_store(&mut caches[l], qkv, slots, positions, shape);
                ops.attention(attended, log_sums, qkv, &batch.documents, attention);
            }
            Attend::Step { caches, slots, capacity, reach } => {
                let shape = CacheShape { attention, capacity: *capacity, reach: *reach };
                ops.cache_store(&mut caches[l], qkv, slots, positions, shape);
                ops.cached_attention(attended, qkv, &caches[l], slots, positions, shape);
            }
        }
    }

    /// What is attended to, onto the stream.
    fn attention_output(
        &self,
        l: usize,
        x: &mut B::Tensor,
        LayerMemory { kept, low, scratch, .. }: &mut LayerMemory<'_, B::Tensor>,
    ) {
        let mid = kept.mid.as_mut().unwrap_or(&mut scratch.mid);
        let weight = self.layer(l).attention_out_norm.as_ref();
        let out_norm = kept.attention_out.as_mut().zip(weight);
        self.project_onto(l, Projection::Output, [mid, x], &kept.attended, out_norm, low);
    }

    /// The stream, normed for the feed-forward; a parallel block's is there already.
    fn feed_forward_norm(&self, l: usize, memory: &mut LayerMemory<'_, B::Tensor>) {
        let LayerMemory { kept, scratch, .. } = memory;
        if let Some((weight, mid)) = self.layer(l).feed_forward_norm.as_ref().zip(kept.mid.as_ref())
        {
            let (normed, norm) = (&mut scratch.normed, self.config.norm(self.rows));
            self.backend.norm(normed, &mut kept.mid_inverse, mid, weight, None, norm);
        }
    }

    /// The stream through gate, up and down, onto the stream.
    fn feed_forward(&self, l: usize, out: &mut B::Tensor, memory: &mut LayerMemory<'_, B::Tensor>) {
        self.feed_forward_norm(l, memory);
        let LayerMemory { kept, internals, low, scratch, keep } = memory;
        let Scratch { normed, gated, mid, .. } = &mut **scratch;
        self.project_gated(l, [gated, &mut internals.gate_up], normed, low, *keep);
        let mid = kept.mid.as_mut().unwrap_or(mid);
        let weight = self.layer(l).feed_forward_out_norm.as_ref();
        let out_norm = kept.feed_forward_out.as_mut().zip(weight);
        self.project_onto(l, Projection::Down, [out, mid], gated, out_norm, low);
    }

    /// Turns queries and keys, where the layer does that.
    pub fn turn(&self, l: usize, qkv: &mut B::Tensor, batch: &Packed<B>, inverse: bool) {
        if let Some(rope) = self.config.layers[l].rope {
            let (angles, layout) = (&self.angles[rope], self.config.family.rope_layout);
            let heads = self.config.heads();
            self.backend.rope(qkv, &batch.positions, angles, heads, layout, inverse);
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
        low: &mut Low<'_, B::Tensor>,
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

    /// The rows that count, normed for the head.
    pub fn head_stream(&self, batch: &Packed<B>, kept: &mut Activations<B::Tensor>) {
        let (ops, c, counted) = (self.backend, self.config.hidden_size, batch.counted_rows);
        let last = self.last(kept);
        let Normed { x, inverse } = &mut kept.head.stream;
        ops.gather_rows(x, &kept.streams[last], &batch.counted, c);
        let (normed, norm) = (&mut kept.head.normed, self.config.norm(counted));
        ops.norm(normed, inverse, x, &self.weights.norm, None, norm);
    }

    /// The head's products `[counted, V]` of the counted rows, into `head.logits`.
    pub fn products(&self, batch: &Packed<B>, kept: &mut Activations<B::Tensor>) {
        self.head_stream(batch, kept);
        let (ops, counted) = (self.backend, batch.counted_rows);
        kept.reserve_logits(ops, self.config, counted);
        let (head, linear) = (&mut kept.head, self.config.head(counted).linear);
        let weight = self.weights.head();
        ops.linear_rows(&mut head.logits, &head.normed, weight, Plus::NOTHING, linear);
    }
}
