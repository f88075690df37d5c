//! Launch code of the head and its loss: products stand for a part of the rows at a time, become
//! losses and their own gradient in place, and go on into the gradients of rows and head.

use anyhow::Result;

use super::Cuda;
use super::driver::{Address, Arguments, Grid};
use super::gemm::{self, Layout, Product, Target};
use super::memory::{Index, Tensor};
use crate::ops::{HeadGradient, HeadShape, LinearShape};

/// Bytes of the products of the head that stand at a time, f32 and bf16 together.
const LOGITS: usize = 384 << 20;

impl Cuda {
    /// Losses of all rows, and their gradients where they are asked for.
    pub(super) fn loss(
        &self,
        losses: &Tensor,
        hidden: &Tensor,
        head: &Tensor,
        targets: &Index,
        gradient: Option<HeadGradient<'_, Tensor>>,
        shape: HeadShape,
    ) -> Result<()> {
        let LinearShape { rows, outputs, .. } = shape.linear;
        if rows == 0 {
            return Ok(());
        }
        // Whole tiles of rows, so that no chunk's products waste part of one.
        let most = (LOGITS / (6 * outputs) / 128 * 128).max(128).min(rows);
        let products = self.pool.take(most * outputs * 4)?;
        let dproducts = match &gradient {
            Some(_) => Some(self.pool.take(most * outputs * 2)?),
            None => None,
        };
        for first in (0..rows).step_by(most) {
            let linear = shape.linear.part(&(first..rows.min(first + most)));
            self.loss_chunk(
                [losses.at(), hidden.at(), targets.at()],
                head,
                gradient.as_ref(),
                HeadShape { linear, ..shape },
                [products.at, dproducts.as_ref().map_or(0, |buffer| buffer.at)],
            )?;
        }
        Ok(())
    }

    /// Loss and gradient of some rows of a batch.
    fn loss_chunk(
        &self,
        [losses, hidden, targets]: [Address; 3],
        head: &Tensor,
        gradient: Option<&HeadGradient<'_, Tensor>>,
        shape: HeadShape,
        [products, dproducts]: [Address; 2],
    ) -> Result<()> {
        let LinearShape { first, rows, inputs, outputs } = shape.linear;
        let row = shape.linear.x() * 2;
        let (hidden, dims) = (hidden + row as Address, [rows, outputs, inputs]);
        let plain = Product::new(dims, Layout::Nt, [hidden, head.at()], Target::F32(products));
        gemm::launch(&*self.driver, &self.pool, &plain)?;
        let arguments = Arguments::new()
            .with(losses + (first * 4) as Address)
            .with(if gradient.is_some() { dproducts } else { 0 })
            .with(products)
            .with(targets + (first * 4) as Address)
            .with(outputs as i64)
            .with(shape.logits.scale)
            .with(shape.logits.softcap.unwrap_or(0.0))
            .with(gradient.map_or(0.0, |g| g.scale));
        self.driver.launch("cross_entropy", Grid::line(rows, 512), arguments)?;
        let Some(gradient) = gradient else { return Ok(()) };
        let to = Target::Bf16(gradient.hidden.at() + row as Address);
        let (dims, factors) = ([rows, inputs, outputs], [dproducts, head.at()]);
        let dhidden = Product::new(dims, Layout::Nn, factors, to);
        gemm::launch(&*self.driver, &self.pool, &dhidden)?;
        if let Some(dhead) = &gradient.head {
            let (dims, factors) = ([outputs, inputs, rows], [dproducts, hidden]);
            let dhead = Product::new(dims, Layout::Tn, factors, Target::AddF32(dhead.at()));
            gemm::launch(&*self.driver, &self.pool, &dhead)?;
        }
        Ok(())
    }
}
