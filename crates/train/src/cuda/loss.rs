//! Launch code of the head and its loss: products stand for a part of the rows at a time, become
//! losses and their own gradient in place, and go on into the gradients of rows and head.

use anyhow::Result;

use super::Cuda;
use super::driver::{Address, Arguments, Facts, Grid};
use super::gemm::{self, Layout, Product, Target};
use super::memory::{Index, Tensor};
use crate::ops::{HeadGradient, HeadShape, LinearShape};

/// Least and most bytes of the head's products that stand at a time, f32 and bf16 together.
const PRODUCTS: [u64; 2] = [384 << 20, 2 << 30];

/// The most rows of `outputs` products each that are run at a time: whole tiles, in a 64th of the card's
/// memory.
fn most_at_a_time(facts: &Facts, outputs: usize) -> usize {
    let bytes = (facts.memory / 64).clamp(PRODUCTS[0], PRODUCTS[1]) as usize;
    (bytes / (6 * outputs) / 128 * 128).max(128)
}

/// How many of some rows are: about as many each time. The gradient of the head is read and written
/// once for so many rows, which is why they should not be few.
fn rows_at_a_time(facts: &Facts, rows: usize, outputs: usize) -> usize {
    let times = rows.div_ceil(most_at_a_time(facts, outputs));
    rows.div_ceil(times).next_multiple_of(128).min(rows)
}

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
        let most = rows_at_a_time(self.driver.facts(), rows, outputs);
        // Room for the most that as many rows or fewer are run at a time, so that fewer need no more.
        let room = most_at_a_time(self.driver.facts(), outputs).min(rows) * outputs;
        let products = self.pool.take(room * 4)?;
        let dproducts = match &gradient {
            Some(_) => Some(self.pool.take(room * 2)?),
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
        let LinearShape { first, rows, inputs, outputs, .. } = shape.linear;
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
            .with(gradient.map_or(0, |g| g.scale.at()));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_rows_of_products_stand_at_a_time_on_a_larger_card() {
        let facts = |gib: u64| Facts {
            name: String::new(),
            capability: (9, 0),
            multiprocessors: 132,
            memory: gib << 30,
            free: 0,
        };
        // 512 and 2,688 rows of 131,072 products of 6 bytes are the most; 8,192 rows go in equal parts.
        assert_eq!(rows_at_a_time(&facts(24), 8192, 131_072), 512);
        assert_eq!(rows_at_a_time(&facts(141), 8192, 131_072), 2048);
        assert_eq!(rows_at_a_time(&facts(24), 300, 1 << 30), 128, "never less than a tile");
        assert_eq!(rows_at_a_time(&facts(24), 77, 131_072), 77);
    }
}
