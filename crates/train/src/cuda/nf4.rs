//! Launch code of matrices in 4 bits a value.

use anyhow::Result;

use super::Cuda;
use super::driver::{Address, Arguments, Grid};
use super::memory::{Buffer, Tensor, Use, bytes_of};
use crate::ops::nf4::{self, Nf4, Places};

impl Cuda {
    /// The values of codes and of scales' codes on the device. They are there before anything is
    /// recorded, since they come with the first packed tensor.
    pub(super) fn codes(&self) -> Result<&Buffer> {
        if let Some(codes) = self.codes.get() {
            return Ok(codes);
        }
        let tables = [&nf4::CODE[..], nf4::scale_values()].concat();
        let codes = self.pool.take_for(Use::Packed, size_of_val(&tables[..]))?;
        self.driver.copy_in(codes.at, bytes_of(&tables))?;
        Ok(self.codes.get_or_init(|| codes))
    }

    /// The values of packed matrices of these lengths, one after the other.
    pub(super) fn unpack_matrices(
        &self,
        into: &Tensor,
        packed: &Tensor,
        (form, lens): (Nf4, &[usize]),
    ) -> Result<()> {
        let (mut values, mut words) = (0, 0);
        for &len in lens {
            let Places { codes, scales, scale_codes } = form.places(len);
            let at = |word: usize| packed.at() + 4 * (words + word) as Address;
            let arguments = Arguments::new()
                .with(into.from(values))
                .with(at(codes.start))
                .with(at(scales.start))
                .with(if scale_codes.is_empty() { 0 } else { at(scale_codes.start) })
                .with(self.codes()?.at)
                .with(len as i64);
            let grid = Grid::line(codes.len().div_ceil(256), 256);
            self.driver.launch("unpack_nf4", grid, arguments)?;
            values += len;
            words += form.words(len);
        }
        Ok(())
    }
}
