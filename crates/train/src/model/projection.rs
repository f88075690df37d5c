//! A layer's linear maps with what may stand beside them: each adapter's thin products over the rows
//! of its own run. All products of a layer go through here, forward and back. Where the rows of
//! several runs stand end to end, the frozen map takes all of them at once, and each run gets the
//! bits that it gets alone.

use std::ops::Range;

use super::Attached;
use super::adapter::{Adapter, Pair, Trained};
use super::decoder::{Apart, Pass};
use super::weights::{LayerWeights, Projection, Weights};
use crate::ops::{Backend, LinearGluShape, LinearShape, Mask, Plus};

/// A run's part of a pass.
pub(super) struct Lane<'a, T> {
    /// Its rows.
    pub rows: Range<usize>,
    /// Those of the counted rows that are its own.
    pub counted: Range<usize>,
    /// What it trains beside the weights; none where it trains the weights, which one run alone can.
    pub adapter: Option<&'a Attached<T>>,
    /// In training, at which step, and after how many of its rows.
    pub moment: Option<Moment>,
}

/// Where a run stands in its training, which dropout depends on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moment {
    /// Seed of the run.
    pub seed: u64,
    /// Optimiser step.
    pub step: u32,
    /// Rows of the step that came before.
    pub row: u64,
}

/// Where a run's gradient goes: what that of its summed losses is multiplied by, and what it is
/// added to.
pub(super) type Into<'a, T> = (f32, &'a mut Trained<T>);

/// The same with the factor where the pass reads it.
pub(super) type Onto<'a, T> = (&'a T, &'a mut Trained<T>);

/// Where a layer's gradients go.
pub(super) enum LayerGradients<'a, T> {
    All(&'a mut LayerWeights<T>),
    /// Each run's.
    Adapters(Vec<&'a mut [Option<Pair<T>>; 4]>),
}

impl<'a, T> LayerGradients<'a, T> {
    pub fn of(runs: &'a mut [Onto<'_, T>], l: usize) -> Self {
        let mut adapters = Vec::new();
        for (_, gradients) in runs {
            match gradients {
                Trained::Full(Weights { layers, .. }) => {
                    // Where there are fewer layers than the model has, they serve in turn.
                    let count = layers.len();
                    return Self::All(&mut layers[l % count]);
                }
                Trained::Adapter(Adapter { layers }) => adapters.push(&mut layers[l]),
            }
        }
        Self::Adapters(adapters)
    }

    /// One of the layer's own tensors, where those are trained.
    pub fn own<'b>(
        &'b mut self,
        choose: impl FnOnce(&'b mut LayerWeights<T>) -> Option<&'b mut T>,
    ) -> Option<&'b mut T> {
        match self {
            Self::All(weights) => choose(weights),
            Self::Adapters(_) => None,
        }
    }
}

/// What a run's adapter does beside a linear map: y += h · up, where h = scale · x · downᵀ.
struct Beside<'a, T> {
    pair: &'a Pair<T>,
    scale: f32,
    /// x to h.
    down: LinearShape,
    /// dy to dh.
    up: LinearShape,
    /// What of x is dropped.
    mask: Option<Mask>,
}

impl<'a, B: Backend> Pass<'a, B> {
    fn projection_shape(&self, projection: Projection) -> LinearShape {
        let (c, f) = (self.config.hidden_size, self.config.intermediate_size);
        let (inputs, outputs) = match projection {
            Projection::Qkv => (c, self.config.qkv_width()),
            Projection::Output => (self.config.query_width(), c),
            Projection::GateUp => (c, 2 * f),
            Projection::Down => (f, c),
        };
        LinearShape::new(self.rows, inputs, outputs)
    }

    /// The runs' adapters beside a layer's linear map; none where there is none.
    fn beside(&self, l: usize, projection: Projection) -> Vec<Beside<'a, B::Tensor>> {
        let shape = self.projection_shape(projection);
        let of_lane = |lane: &'a Lane<'a, B::Tensor>| {
            let Lane { rows, adapter, .. } = lane;
            let Attached { layout, tensors, .. } = (*adapter)?;
            let pair = tensors.layers[l][projection as usize].as_ref()?;
            let rank = layout.ranks()[projection as usize];
            let down = LinearShape { outputs: rank, ..shape }.part(rows);
            let up = LinearShape { inputs: shape.outputs, outputs: rank, ..shape }.part(rows);
            let rate = layout.lora.dropout;
            let place = (l * Projection::ALL.len() + projection as usize) as u32;
            let mask = lane.moment.filter(|_| rate > 0.0);
            let mask = mask.map(|Moment { seed, step, row }| Mask { rate, seed, step, place, row });
            Some(Beside { pair, scale: layout.lora.scale(), down, up, mask })
        };
        self.lanes.iter().filter_map(of_lane).collect()
    }

    /// Calls `read` with the weight of a layer's linear map: as it stands, or unpacked for the time of
    /// the call. One call at a time.
    pub fn with_weight<R>(
        &self,
        l: usize,
        projection: Projection,
        read: impl FnOnce(&B::Tensor) -> R,
    ) -> R {
        let weight = &self.layer(l).linear(projection).weight;
        let Some((packing, room)) = self.unpacking else { return read(weight) };
        let unpacked = &mut *room.borrow_mut();
        self.backend.unpack(unpacked, weight, packing.how(projection));
        read(unpacked)
    }

    fn runs(&self) -> Vec<Range<usize>> {
        self.lanes.iter().map(|lane| lane.rows.clone()).collect()
    }

    /// y = a layer's linear map of x, plus a residual; an adapter's h goes into `low`.
    pub fn project(
        &self,
        l: usize,
        projection: Projection,
        y: &mut B::Tensor,
        x: &B::Tensor,
        residual: Option<&B::Tensor>,
        low: &mut [B::Tensor; 4],
    ) {
        let (ops, shape) = (self.backend, self.projection_shape(projection));
        let plus = Plus { bias: self.layer(l).linear(projection).bias.as_ref(), residual };
        self.with_weight(l, projection, |weight| match self.lanes {
            _ if self.apart == Apart::Steps => ops.linear_rows(y, x, weight, plus, shape),
            _ if self.apart == Apart::Prompts => ops.linear_prompts(y, x, weight, plus, shape),
            [_] => ops.linear(y, x, weight, plus, shape),
            _ => ops.linear_of_runs(y, x, weight, plus, shape, &self.runs()),
        });
        let (h, beside) = (&mut low[projection as usize], self.beside(l, projection));
        for one in &beside {
            self.with_dropped(x, one, |x| {
                ops.linear(h, x, &one.pair.down, Plus::NOTHING, one.down);
            });
        }
        self.scale(h, &beside);
        for Beside { pair, up, .. } in &beside {
            ops.linear_backward_input(y, h, &pair.up, *up, true);
        }
    }

    /// The gated values of a layer's feed-forward; gate and up themselves too, unless `keep` is false.
    pub fn project_gated(
        &self,
        l: usize,
        [gated, gate_up]: [&mut B::Tensor; 2],
        x: &B::Tensor,
        low: &mut [B::Tensor; 4],
        keep: bool,
    ) {
        let (ops, glu) = (self.backend, self.config.glu(self.rows));
        let is_plain = self.lanes.len() == 1 && self.beside(l, Projection::GateUp).is_empty();
        if self.apart != Apart::No || !is_plain {
            self.project(l, Projection::GateUp, gate_up, x, None, low);
            ops.glu(gated, gate_up, glu);
        } else {
            let shape = LinearGluShape { inputs: self.config.hidden_size, glu, keep };
            self.with_weight(l, Projection::GateUp, |weight| {
                ops.linear_glu(gated, gate_up, x, weight, shape);
            });
        }
    }

    /// dx (+)= the gradient that comes back through a layer's linear map; that of an adapter's h
    /// goes into `dlow`, where it stays for the gradients of the adapter.
    pub fn project_backward_input(
        &self,
        l: usize,
        projection: Projection,
        dx: &mut B::Tensor,
        dy: &B::Tensor,
        accumulate: bool,
        dlow: &mut [B::Tensor; 4],
    ) {
        let (ops, shape) = (self.backend, self.projection_shape(projection));
        self.with_weight(l, projection, |weight| match self.lanes {
            [_] => ops.linear_backward_input(dx, dy, weight, shape, accumulate),
            _ => {
                let runs = self.runs();
                ops.linear_backward_input_of_runs(dx, dy, weight, shape, accumulate, &runs);
            }
        });
        let (dh, beside) = (&mut dlow[projection as usize], self.beside(l, projection));
        for Beside { pair, up, .. } in &beside {
            ops.linear(dh, dy, &pair.up, Plus::NOTHING, *up);
        }
        self.scale(dh, &beside);
        for Beside { pair, down, mask, .. } in &beside {
            let (Some(mask), Some(dropped)) = (mask, self.dropped) else {
                ops.linear_backward_input(dx, dh, &pair.down, *down, true);
                continue;
            };
            let dropped = &mut *dropped.borrow_mut();
            ops.linear_backward_input(dropped, dh, &pair.down, *down, false);
            ops.dropout(dx, dropped, mask, *down, true);
        }
    }

    /// Calls `read` with what an adapter reads of x in its own rows.
    fn with_dropped(
        &self,
        x: &B::Tensor,
        one: &Beside<'_, B::Tensor>,
        read: impl FnOnce(&B::Tensor),
    ) {
        let (Some(mask), Some(dropped)) = (&one.mask, self.dropped) else { return read(x) };
        let dropped = &mut *dropped.borrow_mut();
        self.backend.dropout(dropped, x, mask, one.down, false);
        read(dropped);
    }

    /// Multiplies h or dh by the scale, which all runs of a pass have.
    fn scale(&self, h: &mut B::Tensor, beside: &[Beside<'_, B::Tensor>]) {
        if let Some(Beside { scale, down, .. }) = beside.first() {
            self.backend.scale(h, self.rows * down.outputs, *scale);
        }
    }

    /// Adds to the gradients of a layer's linear map, or to those of the adapters beside it, whose h
    /// and dh these are.
    pub fn project_backward_weight(
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
            LayerGradients::Adapters(runs) => {
                let pairs = runs.iter_mut().filter_map(|pairs| pairs[p].as_mut());
                for (into, one) in pairs.zip(&self.beside(l, projection)) {
                    ops.linear_backward_weight(&mut into.up, None, &low[p], dy, one.up);
                    self.with_dropped(x, one, |x| {
                        ops.linear_backward_weight(&mut into.down, None, &dlow[p], x, one.down);
                    });
                }
            }
        }
    }
}
