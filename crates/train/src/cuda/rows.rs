//! Launch code of what goes over rows: rotary embedding, gates, rows by number.

use anyhow::Result;
use artifact::bail_user;

use super::Cuda;
use super::derived::Derived;
use super::driver::{Address, Arguments, Grid};
use super::memory::{Dtype, Index, Tensor};
use super::norm;
use crate::ops::{Activation, GluShape, Heads, RopeLayout};

impl Cuda {
    /// Turns queries and keys.
    pub(super) fn turn(
        &self,
        [qkv, angles]: [&Tensor; 2],
        positions: &Index,
        heads: Heads,
        layout: RopeLayout,
        inverse: bool,
    ) -> Result<()> {
        let (turned, rows) = (heads.queries + heads.key_values, positions.host.len());
        let (kernel, unit) = match layout {
            RopeLayout::Halves => ("rope_halves", 16),
            RopeLayout::Interleaved => ("rope_interleaved", 8),
        };
        if !heads.size.is_multiple_of(unit) {
            bail_user!(
                "rotary embedding on a card takes head sizes that are multiples of {unit}; the model's is {}",
                heads.size
            );
        }
        let arguments = Arguments::new()
            .with(qkv.at())
            .with(positions.at())
            .with(angles.at())
            .with(rows as i32)
            .with((turned + heads.key_values) as i32)
            .with(turned as i32)
            .with(heads.size as i32)
            .with(if inverse { -1.0_f32 } else { 1.0 });
        let threads = rows * turned * heads.size / unit;
        self.driver.launch(kernel, Grid::line(threads.div_ceil(256), 256), arguments)
    }

    /// A gated activation or its gradient.
    pub(super) fn gate(&self, kernel: &str, [a, b]: [&Tensor; 2], shape: GluShape) -> Result<()> {
        norm::check_width("the feed-forward's width", shape.width)?;
        let arguments = Arguments::new()
            .with(a.at())
            .with(b.at())
            .with(shape.rows as i32)
            .with(shape.width as i32)
            .with(i32::from(shape.activation == Activation::GeluTanh));
        let threads = shape.rows * shape.width / 8;
        self.driver.launch(kernel, Grid::line(threads.div_ceil(256), 256), arguments)
    }

    /// y row i = table row `ids[i]`.
    pub(super) fn gather(
        &self,
        y: &Tensor,
        table: &Tensor,
        ids: &Index,
        width: usize,
    ) -> Result<()> {
        norm::check_width("the hidden size", width)?;
        let rows = ids.host.len();
        let arguments = Arguments::new()
            .with(y.at())
            .with(table.at())
            .with(ids.at())
            .with(rows as i32)
            .with(width as i32);
        self.driver.launch("gather_rows", Grid::line(rows.div_ceil(8), 256), arguments)
    }

    /// dtable row `ids[i]` += dy row i.
    pub(super) fn scatter_add(
        &self,
        dtable: &Tensor,
        dy: &Tensor,
        ids: &Index,
        width: usize,
    ) -> Result<()> {
        if ids.host.is_empty() {
            return Ok(());
        }
        let (order, distinct) = ids.derive((&*self.driver, &self.pool), Derived::Order)?;
        let place = |entry: usize| order.at + (entry * 4) as Address;
        let arguments = Arguments::new()
            .with(dtable.at())
            .with(dy.at())
            .with(place(0))
            .with(place(distinct))
            .with(place(2 * distinct + 1))
            .with(width as i32);
        let kernel = match dtable.dtype {
            Dtype::F32 => "scatter_add_f32",
            Dtype::Bf16 => "scatter_add_bf16",
        };
        self.driver.launch(kernel, Grid::line(distinct, 128), arguments)
    }
}
