//! What a run's adapter does beside a linear map, over the run's own rows: h = s x Aᵀ, y += h Bᵀ, and the
//! way back. Each module reads x with a mask of its own where some of it is dropped. With DoRA
//! ([`super::dora`]) outputs are kept in `plain` before their magnitudes come to them.

use std::cell::RefCell;
use std::ops::Range;

use super::adapter::{Module, Pair, Target};
use super::decoder::Pass;
use super::dora::{Attached, Strength};
use super::projection::{Lane, Moment};
use super::weights::Projection;
use crate::ops::{Backend, ColumnShape, Columns, Factor, Kind, LinearShape, Mask, Plus};

/// A run's adapter beside one map.
pub(super) struct Beside<'a, T> {
    pair: &'a Pair<T>,
    scale: f32,
    /// x to y, over the run's rows.
    map: LinearShape,
    /// x to h.
    down: LinearShape,
    /// dy to dh.
    up: LinearShape,
    modules: &'a [Module],
    /// What of x is dropped, module by module; none where nothing is.
    masks: Vec<Mask>,
    /// With DoRA.
    strength: Option<&'a Strength<T>>,
}

/// Room for what stands for a moment beside a map, over the rows of a pass.
pub(super) struct Aside<T> {
    /// What an adapter reads once some of it is dropped, or the gradient of that.
    dropped: RefCell<T>,
    /// What one module makes of it, or the gradient of that.
    part: RefCell<T>,
    /// The gradient of a map's outputs before their magnitudes.
    scaled: RefCell<T>,
}

impl<T> Aside<T> {
    /// `widths`: the most that one of the three has of a row.
    pub fn new<B: Backend<Tensor = T>>(backend: &B, rows: usize, widths: [usize; 3]) -> Self {
        let room = |width| RefCell::new(backend.zeros(Kind::Activation, rows * width));
        let [dropped, part, scaled] = widths.map(room);
        Self { dropped, part, scaled }
    }
}

impl<'a, T> Beside<'a, T> {
    /// That of a lane, if it has one there; `shape` is the map's over the rows of all lanes.
    pub fn of(
        lane: &'a Lane<'a, T>,
        (l, projection): (usize, Projection),
        shape: LinearShape,
    ) -> Option<Self> {
        let attached: &Attached<T> = lane.adapter?;
        let pair = attached.tensors.layers[l][projection as usize].as_ref()?;
        let (layout, lora) = (&attached.layout, &attached.layout.lora);
        let modules = &layout.place(l, projection)?.modules[..];
        let rank = modules.len() * lora.rank;
        let masks = |Moment { seed, step, row }| {
            let place = |target: Target| (l * Target::ALL.len() + target as usize) as u32;
            let mask = |place| Mask { rate: lora.dropout, seed, step, place, row };
            modules.iter().map(|module| mask(place(module.target))).collect()
        };
        Some(Self {
            pair,
            scale: lora.scale(),
            map: shape.part(&lane.rows),
            down: LinearShape { outputs: rank, ..shape }.part(&lane.rows),
            up: LinearShape { inputs: shape.outputs, outputs: rank, ..shape }.part(&lane.rows),
            modules,
            masks: lane.moment.filter(|_| lora.dropout > 0.0).map(masks).unwrap_or_default(),
            strength: attached.strength(l, projection),
        })
    }

    /// Whether outputs have magnitudes.
    pub fn is_scaled(&self) -> bool {
        self.strength.is_some()
    }

    /// Whether some of what is read is dropped.
    pub fn drops(&self) -> bool {
        !self.masks.is_empty()
    }

    fn masked(&self) -> impl Iterator<Item = (&Module, &Mask)> {
        self.modules.iter().zip(&self.masks)
    }

    /// All outputs of the map.
    fn whole(&self) -> ColumnShape {
        ColumnShape::whole(self.map.first, self.map.rows, self.map.outputs)
    }

    /// Some columns of a matrix of `width`, out of it to stand by themselves.
    fn out_of(&self, columns: &Range<usize>, width: usize) -> ColumnShape {
        let (first, rows, count) = (self.map.first, self.map.rows, columns.len());
        let from = Columns { width, first: columns.start };
        ColumnShape { first, rows, count, from, to: Columns { width: count, first: 0 } }
    }

    /// The way back into it.
    fn into(&self, columns: &Range<usize>, width: usize) -> ColumnShape {
        let out = self.out_of(columns, width);
        ColumnShape { from: out.to, to: out.from, ..out }
    }
}

impl<B: Backend> Pass<'_, B> {
    fn aside(&self) -> &Aside<B::Tensor> {
        self.aside.expect("room was taken for what is dropped or scaled")
    }

    /// h = scale · x · downᵀ, and y += h · up.
    pub fn add_low(
        &self,
        beside: &[Beside<'_, B::Tensor>],
        [y, h]: [&mut B::Tensor; 2],
        x: &B::Tensor,
    ) {
        let ops = self.backend;
        for one in beside {
            if !one.drops() {
                ops.linear(h, x, &one.pair.down, Plus::NOTHING, one.down);
                continue;
            }
            let part = &mut *self.aside().part.borrow_mut();
            for (module, mask) in one.masked() {
                let shape = one.down.to(&module.rows);
                self.with_dropped(x, mask, one, |x| {
                    ops.linear(part, x, &one.pair.down, Plus::NOTHING, shape);
                });
                let shape = one.into(&module.rows, one.down.outputs);
                ops.scale_columns(h, part, Factor::Number(1.0), Plus::NOTHING, shape, false);
            }
        }
        self.scale_low(h, beside);
        for Beside { pair, up, .. } in beside {
            ops.linear_backward_input(y, h, &pair.up, *up, true);
        }
    }

    /// The outputs of modules from what they read once some of it is dropped.
    pub fn plain_of_dropped(
        &self,
        beside: &[Beside<'_, B::Tensor>],
        plain: &mut B::Tensor,
        x: &B::Tensor,
        weight: &B::Tensor,
    ) {
        let (ops, part) = (self.backend, &mut *self.aside().part.borrow_mut());
        for one in beside {
            for (module, mask) in one.masked() {
                let shape = one.map.to(&module.columns);
                self.with_dropped(x, mask, one, |x| {
                    ops.linear(part, x, weight, Plus::NOTHING, shape);
                });
                let shape = one.into(&module.columns, one.map.outputs);
                ops.scale_columns(plain, part, Factor::Number(1.0), Plus::NOTHING, shape, false);
            }
        }
    }

    /// y (+)= the outputs times their magnitudes over norms, or times a number.
    pub fn scale_outputs(
        &self,
        beside: &[Beside<'_, B::Tensor>],
        (y, plain): (&mut B::Tensor, &B::Tensor),
        number: Option<f32>,
        plus: Plus<'_, B::Tensor>,
        accumulate: bool,
    ) {
        for one in beside {
            let Some(strength) = one.strength else { continue };
            let factor = number.map_or(Factor::Each(&strength.ratios), Factor::Number);
            self.backend.scale_columns(y, plain, factor, plus, one.whole(), accumulate);
        }
    }

    /// Calls `read` with the gradient of the outputs before their magnitudes, given that after them.
    pub fn with_scaled(
        &self,
        beside: &[Beside<'_, B::Tensor>],
        dy: &B::Tensor,
        read: impl FnOnce(&B::Tensor),
    ) {
        if !beside.iter().any(Beside::is_scaled) {
            return read(dy);
        }
        let scaled = &mut *self.aside().scaled.borrow_mut();
        self.scale_outputs(beside, (scaled, dy), None, Plus::NOTHING, false);
        read(scaled);
    }

    /// dh = scale · dy · upᵀ, and dx += dh · down.
    pub fn add_low_backward(
        &self,
        beside: &[Beside<'_, B::Tensor>],
        [dx, dh]: [&mut B::Tensor; 2],
        dy: &B::Tensor,
        weight: &B::Tensor,
    ) {
        let ops = self.backend;
        self.with_scaled(beside, dy, |dy| {
            for Beside { pair, up, .. } in beside {
                ops.linear(dh, dy, &pair.up, Plus::NOTHING, *up);
            }
        });
        self.scale_low(dh, beside);
        for one in beside {
            if one.drops() {
                self.dropped_backward(one, [dx, dh], dy, weight);
            } else {
                ops.linear_backward_input(dx, dh, &one.pair.down, one.down, true);
            }
        }
    }

    /// dx += what comes back through each module's mask.
    fn dropped_backward(
        &self,
        one: &Beside<'_, B::Tensor>,
        [dx, dh]: [&mut B::Tensor; 2],
        dy: &B::Tensor,
        weight: &B::Tensor,
    ) {
        let (ops, Aside { dropped, part, .. }) = (self.backend, self.aside());
        let (dropped, part) = (&mut *dropped.borrow_mut(), &mut *part.borrow_mut());
        for (module, mask) in one.masked() {
            let shape = one.out_of(&module.rows, one.down.outputs);
            ops.scale_columns(part, dh, Factor::Number(1.0), Plus::NOTHING, shape, false);
            let shape = one.down.to(&module.rows);
            ops.linear_backward_input(dropped, part, &one.pair.down, shape, false);
            if let Some(Strength { ratios, .. }) = one.strength {
                // The map itself has read all of x; what is left for it here is ratio − 1.
                let shape = one.out_of(&module.columns, one.map.outputs);
                ops.scale_columns(part, dy, Factor::Number(-1.0), Plus::NOTHING, shape, false);
                ops.scale_columns(part, dy, Factor::Each(ratios), Plus::NOTHING, shape, true);
                let shape = one.map.to(&module.columns);
                ops.linear_backward_input(dropped, part, weight, shape, true);
            }
            ops.dropout(dx, dropped, mask, one.map, true);
        }
    }

    /// Adds to the gradients of a run's adapter, whose h and dh these are.
    pub fn low_backward_weight(
        &self,
        one: &Beside<'_, B::Tensor>,
        into: &mut Pair<B::Tensor>,
        [dy, x]: [&B::Tensor; 2],
        [h, dh, plain]: [&B::Tensor; 3],
    ) {
        let ops = self.backend;
        if let (Some(strength), Some(magnitude)) = (one.strength, &mut into.magnitude) {
            ops.column_products(magnitude, [dy, plain], &strength.norms, one.map);
        }
        self.with_scaled(std::slice::from_ref(one), dy, |dy| {
            ops.linear_backward_weight(&mut into.up, None, h, dy, one.up);
        });
        if !one.drops() {
            return ops.linear_backward_weight(&mut into.down, None, dh, x, one.down);
        }
        let part = &mut *self.aside().part.borrow_mut();
        for (module, mask) in one.masked() {
            let shape = one.out_of(&module.rows, one.down.outputs);
            ops.scale_columns(part, dh, Factor::Number(1.0), Plus::NOTHING, shape, false);
            let shape = one.down.to(&module.rows);
            self.with_dropped(x, mask, one, |x| {
                ops.linear_backward_weight(&mut into.down, None, part, x, shape);
            });
        }
    }

    /// Calls `read` with what a module reads of x in its run's rows.
    fn with_dropped(
        &self,
        x: &B::Tensor,
        mask: &Mask,
        one: &Beside<'_, B::Tensor>,
        read: impl FnOnce(&B::Tensor),
    ) {
        let dropped = &mut *self.aside().dropped.borrow_mut();
        self.backend.dropout(dropped, x, mask, one.map, false);
        read(dropped);
    }

    /// Multiplies h or dh by the scale, which all runs of a pass have.
    fn scale_low(&self, h: &mut B::Tensor, beside: &[Beside<'_, B::Tensor>]) {
        if let Some(Beside { scale, down, .. }) = beside.first() {
            self.backend.scale(h, self.rows * down.outputs, *scale);
        }
    }
}
