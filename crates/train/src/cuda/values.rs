//! Values on their way into tensors and out of them: from files, to the host, and of a weight's exact form what a rank
//! keeps.

use std::ops::Range;

use half::bf16;

use super::driver::Arguments;
use super::memory::{Dtype, Master, Tensor, Use, bytes_of_mut};
use super::{Cuda, staging};
use crate::ops::{Kind, Stored, StoredKind};

impl Cuda {
    /// A parameter of a file's values.
    pub(super) fn load_staged(&self, kind: Kind, parts: &[Stored<'_>]) -> Tensor {
        let len = parts.iter().map(|part| part.bytes.len() / part.kind.size()).sum();
        let tensor = self.tensor_of(kind, Dtype::Bf16, len, kind == Kind::Weight);
        self.run(|| {
            let staging = &self.staging;
            staging
                .bring(tensor.at(), 2 * len, |start, into| staging::narrow(parts, start, into))?;
            let Some(master) = tensor.master.as_ref().filter(|_| len > 0) else { return Ok(()) };
            if !parts.iter().all(|part| part.kind == StoredKind::Bf16) {
                let wide = |start: usize, into: &mut [u8]| staging::wide(parts, start, into);
                return staging.bring(master.from(0), 4 * len, wide);
            }
            // What products read is exact, and the master is made of it on the card.
            let arguments =
                Arguments::new().with(master.from(0)).with(tensor.at()).with(len as i64);
            self.driver.launch("widen", self.over(len), arguments)
        });
        tensor
    }

    /// Lets go of a weight's exact values but for some.
    pub(super) fn keep_run(&self, weight: &mut Tensor, values: Range<usize>) {
        let Some(whole) = weight.master.take() else { return };
        if values == whole.run {
            weight.master = Some(whole);
        } else if !values.is_empty() {
            weight.master = self.run(|| {
                let buffer = self.pool.take_for(Use::Masters, values.len() * 4)?;
                self.driver.copy(buffer.at, whole.from(values.start), values.len() * 4)?;
                Ok(Some(Master { buffer, run: values }))
            });
        }
    }

    /// The first values, exact as far as they are here.
    pub(super) fn copied_out(&self, tensor: &Tensor, len: usize) -> Vec<f32> {
        let mut values = vec![0.0; len];
        if len == 0 {
            return values;
        }
        self.run(|| {
            let exact = tensor.master.as_ref().map_or(0..0, |master| master.run.clone());
            if tensor.dtype == Dtype::F32 {
                return self.driver.copy_out(bytes_of_mut(&mut values), tensor.at());
            }
            if exact.start > 0 || exact.end < len {
                let mut narrow = vec![bf16::ZERO; len];
                self.driver.copy_out(bytes_of_mut(&mut narrow), tensor.at())?;
                for (wide, narrow) in values.iter_mut().zip(narrow) {
                    *wide = narrow.to_f32();
                }
            }
            match &tensor.master {
                Some(master) if exact.start < len => {
                    let some = &mut values[exact.start..exact.end.min(len)];
                    self.driver.copy_out(bytes_of_mut(some), master.buffer.at)
                }
                _ => Ok(()),
            }
        });
        values
    }
}
