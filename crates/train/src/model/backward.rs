//! The backward pass of the decoder, by hand: it mirrors the forward pass of [`super::decoder`], from
//! the losses of the rows that count through each layer to the embedding.
//!
//! Shapes as there.

use super::activations::{
    Activations, Internals, LayerActivations, LayerMemory, Normed, Recompute, Scratch,
};
use super::adapter::Trained;
use super::batch::Packed;
use super::decoder::Pass;
use super::projection::{LayerGradients, Onto};
use super::weights::Projection;
use crate::ops::{Backend, HeadGradient, NormGradients, SavedAttention};

impl<B: Backend> Pass<'_, B> {
    /// Losses of the rows that count, in `head.losses`; with somewhere for each run's gradient to go,
    /// also that of the last stream, in `dstream`, and those of the head and of its norm.
    pub fn losses(
        &self,
        batch: &Packed<B>,
        kept: &mut Activations<B::Tensor>,
        gradients: &mut [Onto<'_, B::Tensor>],
    ) {
        let (ops, c, counted) = (self.backend, self.config.hidden_size, batch.counted_rows);
        if counted == 0 {
            return;
        }
        self.head_stream(batch, kept);
        let (shape, weight) = (self.config.head(counted), self.weights.head());
        let Activations { head, scratch, .. } = kept;
        let (losses, hidden, targets) = (&mut head.losses, &head.normed, &batch.targets);
        let dhidden = &mut head.dnormed;
        match gradients {
            [(scale, Trained::Full(own))] => {
                let dhead = own.lm_head.as_mut().unwrap_or(&mut own.embed_tokens);
                let into = HeadGradient { scale: *scale, hidden: dhidden, head: Some(dhead) };
                ops.cross_entropy(losses, hidden, weight, targets, Some(into), shape);
            }
            _ => {
                let runs: Vec<_> = self.lanes.iter().map(|lane| lane.counted.clone()).collect();
                let scales: Vec<_> = gradients.iter().map(|(scale, _)| *scale).collect();
                let into = (!scales.is_empty()).then_some((&scales[..], dhidden));
                ops.cross_entropy_of_runs(losses, hidden, weight, targets, into, (shape, &runs));
            }
        }
        let dnorm = match gradients {
            [] => return,
            [(_, Trained::Full(weights)), ..] => Some(&mut weights.norm),
            _ => None,
        };
        // The normed rows are needed no more; their memory takes the gradient of the rows before
        // the norm.
        let into =
            NormGradients { dx: &mut head.normed, accumulate: false, dweight: dnorm, y: None };
        let Normed { x, inverse } = &head.stream;
        let norm = self.config.norm(counted);
        ops.norm_backward(into, inverse, &head.dnormed, x, &self.weights.norm, norm);
        ops.fill(&mut scratch.dstream, self.rows * c, 0.0);
        ops.scatter_add_rows(&mut scratch.dstream, &head.normed, &batch.counted, c);
    }

    /// From the gradient of a layer's output, in `dstream`, to that of its input, and to those of
    /// its weights. What the layers share is made again first, but for the last layer, whose it
    /// still is.
    pub fn layer_backward(
        &self,
        l: usize,
        batch: &Packed<B>,
        kept: &mut Activations<B::Tensor>,
        gradients: &mut [Onto<'_, B::Tensor>],
        recompute: Recompute,
    ) {
        let (streams, mut memory) = kept.layer(l);
        let [x, out] = streams;
        if recompute != Recompute::None && l + 1 < self.weights.layers.len() {
            self.layer_again(l, [x, out], batch, &mut memory, recompute);
        }
        self.through_layer(l, LayerGradients::of(gradients, l), x, batch, &mut memory);
    }

    /// From the gradient of the first stream, in `dstream`, to that of the embedding, where it is
    /// trained.
    pub fn embedding_backward(
        &self,
        batch: &Packed<B>,
        kept: &mut Activations<B::Tensor>,
        gradients: &mut [Onto<'_, B::Tensor>],
    ) {
        let [(_, Trained::Full(gradients))] = gradients else { return };
        let (ops, c) = (self.backend, self.config.hidden_size);
        let dstream = &mut kept.scratch.dstream;
        if let Some(scale) = self.embedding_scale() {
            ops.scale(dstream, self.rows * c, scale);
        }
        ops.scatter_add_rows(&mut gradients.embed_tokens, dstream, &batch.tokens, c);
    }

    /// One layer. `dstream` holds the gradient of its output and gets that of its input `x`. The
    /// norms' and the gate's backward passes give their outputs back, which the weights' gradients
    /// need.
    fn through_layer(
        &self,
        l: usize,
        mut into: LayerGradients<'_, B::Tensor>,
        x: &B::Tensor,
        batch: &Packed<B>,
        memory: &mut LayerMemory<'_, B::Tensor>,
    ) {
        let (ops, weights, norm) = (self.backend, self.layer(l), self.config.norm(self.rows));
        let into = &mut into;
        self.feed_forward_backward(l, into, memory);
        let LayerMemory { kept, internals, low, scratch, .. } = memory;
        let Scratch { normed, dnormed, dstream, dlow, .. } = &mut **scratch;
        if let Some((weight, mid)) = weights.feed_forward_norm.as_ref().zip(kept.mid.as_ref()) {
            let dweight = into.own(|own| own.feed_forward_norm.as_mut());
            let gradients =
                NormGradients { dx: dstream, accumulate: true, dweight, y: Some(normed) };
            ops.norm_backward(gradients, &kept.mid_inverse, dnormed, mid, weight, norm);
            let (at, low) = ((l, Projection::GateUp), (&*low, &*dlow));
            self.project_backward_weight(at, into, &internals.gate_up, normed, low);
        }

        self.attention_backward(l, into, batch, memory);
        let LayerMemory { kept, internals, low, scratch, .. } = memory;
        let Scratch { normed, dnormed, dstream, dqkv, dlow, .. } = &mut **scratch;
        // The norm of a parallel block has the gradients of both halves.
        self.project_backward_input(l, Projection::Qkv, dnormed, dqkv, self.is_parallel(), dlow);
        let dweight = into.own(|own| Some(&mut own.input_norm));
        let gradients = NormGradients { dx: dstream, accumulate: true, dweight, y: Some(normed) };
        ops.norm_backward(gradients, &kept.input_inverse, dnormed, x, &weights.input_norm, norm);
        let low = (&*low, &*dlow);
        self.project_backward_weight((l, Projection::Qkv), into, dqkv, normed, low);
        if self.is_parallel() {
            let at = (l, Projection::GateUp);
            self.project_backward_weight(at, into, &internals.gate_up, normed, low);
        }
    }

    /// From the layer's output to the normed input of its feed-forward, in `dnormed`; `gate_up`
    /// becomes its gradient.
    fn feed_forward_backward(
        &self,
        l: usize,
        into: &mut LayerGradients<'_, B::Tensor>,
        LayerMemory { kept, internals, low, scratch, .. }: &mut LayerMemory<'_, B::Tensor>,
    ) {
        let gate_up = &mut internals.gate_up;
        let Scratch { gated, dnormed, dstream, dbranch, dlow, .. } = &mut **scratch;
        let out_norm =
            kept.feed_forward_out.as_ref().zip(self.layer(l).feed_forward_out_norm.as_ref());
        let dweight = into.own(|own| own.feed_forward_out_norm.as_mut());
        let dout = self.branch_gradient(dstream, dbranch, out_norm, dweight);
        self.project_backward_input(l, Projection::Down, gated, dout, false, dlow);
        self.backend.glu_backward(gate_up, gated, self.config.glu(self.rows));
        let low = (&*low, &*dlow);
        self.project_backward_weight((l, Projection::Down), into, dout, gated, low);
        self.project_backward_input(l, Projection::GateUp, dnormed, gate_up, false, dlow);
    }

    /// From what attention adds to the stream to the queries, keys and values, in `dqkv`.
    fn attention_backward(
        &self,
        l: usize,
        into: &mut LayerGradients<'_, B::Tensor>,
        batch: &Packed<B>,
        LayerMemory { kept, internals, low, scratch, .. }: &mut LayerMemory<'_, B::Tensor>,
    ) {
        let (ops, weights) = (self.backend, self.layer(l));
        let Scratch { dstream, dbranch, dattended, dqkv, dlow, .. } = &mut **scratch;
        let out_norm = kept.attention_out.as_ref().zip(weights.attention_out_norm.as_ref());
        let dweight = into.own(|own| own.attention_out_norm.as_mut());
        let dout = self.branch_gradient(dstream, dbranch, out_norm, dweight);
        self.project_backward_input(l, Projection::Output, dattended, dout, false, dlow);
        let (at, low) = ((l, Projection::Output), (&*low, &*dlow));
        self.project_backward_weight(at, into, dout, &kept.attended, low);
        let LayerActivations { attended: out, log_sums, .. } = &**kept;
        let Internals { projected, qkv, .. } = &**internals;
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
}
