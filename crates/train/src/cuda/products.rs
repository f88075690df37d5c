//! A linear map's products as the kernels take them.

use super::Cuda;
use super::gemm::{self, Layout, Product, Target};
use super::memory::{Dtype, Tensor};
use crate::ops::{LinearShape, Plus};

impl Cuda {
    /// Does a product.
    pub(super) fn product(&self, product: Product) {
        self.run(|| gemm::launch(&*self.driver, &self.pool, &product));
    }

    /// dx (+)= dy · w.
    pub(super) fn product_back(
        dx: &Tensor,
        dy: &Tensor,
        weight: &Tensor,
        shape: LinearShape,
        accumulate: bool,
    ) -> Product {
        let dims = [shape.rows, shape.inputs, shape.outputs];
        let (factors, to) = ([dy.from(shape.y()), weight.from(shape.w())], dx.from(shape.x()));
        Product {
            residual: if accumulate { to } else { 0 },
            ..Product::new(dims, Layout::Nn, factors, Target::Bf16(to))
        }
    }

    /// y = x · wᵀ, plus what is added.
    pub(super) fn product_of(
        y: &Tensor,
        x: &Tensor,
        weight: &Tensor,
        plus: Plus<'_, Tensor>,
        shape: LinearShape,
        rows_apart: bool,
    ) -> Product {
        let to = y.from(shape.y());
        let target = if y.dtype == Dtype::Bf16 { Target::Bf16(to) } else { Target::F32(to) };
        let dims = [shape.rows, shape.outputs, shape.inputs];
        let factors = [x.from(shape.x()), weight.from(shape.w())];
        Product {
            bias: plus.bias.map_or(0, Tensor::at),
            residual: plus.residual.map_or(0, |residual| residual.from(shape.y())),
            rows_apart,
            ..Product::new(dims, Layout::Nt, factors, target)
        }
    }
}
