//! A layer's linear maps with what may stand beside them ([`super::beside`]): each adapter's products
//! over the rows of its own run. All products of a layer go through here, forward and back. Where the
//! rows of several runs stand end to end, the frozen map takes all of them at once, and each run gets
//! the bits that it gets alone.

use std::ops::Range;

use super::activations::Low;
use super::adapter::{Adapter, Pair, Trained};
use super::beside::Beside;
use super::decoder::{Apart, Pass};
use super::dora::Attached;
use super::weights::{LayerWeights, Projection, Weights};
use crate::ops::{Backend, LinearGluShape, LinearShape, Plus};

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
        let of_lane = |lane: &'a Lane<'a, _>| Beside::of(lane, (l, projection), shape);
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

    /// y = a layer's linear map of x, plus a residual; what adapters make goes into `low`.
    pub fn project(
        &self,
        l: usize,
        projection: Projection,
        y: &mut B::Tensor,
        x: &B::Tensor,
        residual: Option<&B::Tensor>,
        low: &mut Low<'_, B::Tensor>,
    ) {
        let plus = Plus { bias: self.layer(l).linear(projection).bias.as_ref(), residual };
        let (beside, shape) = (self.beside(l, projection), self.projection_shape(projection));
        let (h, plain) = (&mut low.low[projection as usize], &mut *low.plain[projection as usize]);
        let is_scaled = beside.iter().any(Beside::is_scaled);
        self.with_weight(l, projection, |weight| {
            if !is_scaled {
                self.map(y, x, weight, plus, shape);
                self.add_low(&beside, [y, h], x);
            } else if !beside.iter().any(Beside::drops) {
                self.map(plain, x, weight, Plus::NOTHING, shape);
                self.add_low(&beside, [plain, h], x);
                self.scale_outputs(&beside, (y, plain), None, plus, false);
            } else {
                // The map reads all of x, and magnitudes change what comes of what is not dropped.
                self.map(y, x, weight, plus, shape);
                self.plain_of_dropped(&beside, plain, x, weight);
                self.scale_outputs(&beside, (y, plain), Some(-1.0), Plus::NOTHING, true);
                self.add_low(&beside, [plain, h], x);
                self.scale_outputs(&beside, (y, plain), None, Plus::NOTHING, true);
            }
        });
    }

    /// y = a linear map of x by itself.
    fn map(
        &self,
        y: &mut B::Tensor,
        x: &B::Tensor,
        weight: &B::Tensor,
        plus: Plus<'_, B::Tensor>,
        shape: LinearShape,
    ) {
        let ops = self.backend;
        match self.lanes {
            _ if self.apart == Apart::Steps => ops.linear_rows(y, x, weight, plus, shape),
            _ if self.apart == Apart::Prompts => ops.linear_prompts(y, x, weight, plus, shape),
            [_] => ops.linear(y, x, weight, plus, shape),
            _ => ops.linear_of_runs(y, x, weight, plus, shape, &self.runs()),
        }
    }

    /// dx (+)= the gradient that comes back through it.
    fn map_backward(
        &self,
        dx: &mut B::Tensor,
        dy: &B::Tensor,
        weight: &B::Tensor,
        shape: LinearShape,
        accumulate: bool,
    ) {
        let ops = self.backend;
        if let [_] = self.lanes {
            ops.linear_backward_input(dx, dy, weight, shape, accumulate);
        } else {
            let runs = self.runs();
            ops.linear_backward_input_of_runs(dx, dy, weight, shape, accumulate, &runs);
        }
    }

    /// The gated values of a layer's feed-forward; gate and up themselves too, unless `keep` is false.
    pub fn project_gated(
        &self,
        l: usize,
        [gated, gate_up]: [&mut B::Tensor; 2],
        x: &B::Tensor,
        low: &mut Low<'_, B::Tensor>,
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
        let (beside, shape) = (self.beside(l, projection), self.projection_shape(projection));
        self.with_weight(l, projection, |weight| {
            let mut back = |dy: &_| self.map_backward(dx, dy, weight, shape, accumulate);
            if beside.iter().any(Beside::drops) {
                // It has read all of x, and what magnitudes change comes back through the masks.
                back(dy);
            } else {
                self.with_scaled(&beside, dy, back);
            }
            self.add_low_backward(&beside, [dx, &mut dlow[projection as usize]], dy, weight);
        });
    }

    /// Whether its outputs are kept before their magnitudes come to them.
    pub fn is_scaled(&self, l: usize, projection: Projection) -> bool {
        self.beside(l, projection).iter().any(Beside::is_scaled)
    }

    /// Adds to the gradients of a layer's linear map, or to those of the adapters beside it, which made
    /// `low`, and whose dh these are.
    pub fn project_backward_weight(
        &self,
        (l, projection): (usize, Projection),
        into: &mut LayerGradients<'_, B::Tensor>,
        dy: &B::Tensor,
        x: &B::Tensor,
        (low, dlow): (&Low<'_, B::Tensor>, &[B::Tensor; 4]),
    ) {
        let p = projection as usize;
        match into {
            LayerGradients::All(weights) => {
                let (into, shape) =
                    (weights.linear_mut(projection), self.projection_shape(projection));
                let (weight, bias) = (&mut into.weight, into.bias.as_mut());
                self.backend.linear_backward_weight(weight, bias, dy, x, shape);
            }
            LayerGradients::Adapters(runs) => {
                let pairs = runs.iter_mut().filter_map(|pairs| pairs[p].as_mut());
                for (into, one) in pairs.zip(&self.beside(l, projection)) {
                    let made = [&low.low[p], &dlow[p], &*low.plain[p]];
                    self.low_backward_weight(one, into, [dy, x], made);
                }
            }
        }
    }
}
