//! The way of weights from mapped files to the card: through two pieces of page-locked host memory by turns. While the
//! card copies one, all threads fill the other from the file's pages, so that loading runs at the rate of the page
//! cache or of the bus, whichever is slower, and the host never holds a copy of the model.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use half::bf16;
use rayon::prelude::*;

use super::driver::{Address, Driver, Event, Stream};
use super::memory::{Locked, bytes_of};
use crate::ops::{Stored, StoredKind, to_f32};

/// Bytes of one of the two.
const HALF: usize = 32 << 20;
/// Bytes that one task copies.
const TASK: usize = 1 << 20;

/// The two pieces, once something was loaded.
pub struct Staging {
    driver: Arc<dyn Driver>,
    bytes: usize,
    halves: Mutex<Option<Halves>>,
}

struct Halves {
    driver: Arc<dyn Driver>,
    both: [Half; 2],
    /// Up to here the kernels' stream has come before a copy begins.
    before: Event,
    /// How often one was filled.
    turns: usize,
}

struct Half {
    memory: Locked,
    /// The card has copied it.
    copied: Event,
}

impl Staging {
    /// For a device.
    #[must_use]
    pub fn new(driver: Arc<dyn Driver>) -> Self {
        Self { driver, bytes: HALF, halves: Mutex::default() }
    }

    /// Brings so many bytes to the card, as `fill` gives those from a number on. What is asked for afterwards comes
    /// after it.
    ///
    /// # Errors
    /// If there is no page-locked memory, or the device reports a fault.
    pub fn bring(&self, to: Address, bytes: usize, fill: impl Fn(usize, &mut [u8])) -> Result<()> {
        let driver = &self.driver;
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        let halves = match &mut *halves {
            Some(halves) => halves,
            empty => empty.insert(Halves::new(driver, self.bytes)?),
        };
        // Kernels may still use this memory for what was there before.
        driver.record(halves.before, Stream::Compute)?;
        driver.wait(Stream::Load, halves.before)?;
        for start in (0..bytes).step_by(self.bytes) {
            let half = &mut halves.both[halves.turns % 2];
            halves.turns += 1;
            let len = self.bytes.min(bytes - start);
            driver.await_event(half.copied)?;
            fill(start, &mut half.memory.bytes_mut()[..len]);
            driver.copy_on(Stream::Load, to + start as Address, half.memory.at, len)?;
            driver.record(half.copied, Stream::Load)?;
            driver.wait(Stream::Compute, half.copied)?;
        }
        Ok(())
    }
}

impl Halves {
    fn new(driver: &Arc<dyn Driver>, bytes: usize) -> Result<Self> {
        let half = || {
            Ok::<_, anyhow::Error>(Half {
                memory: Locked::zeros(driver, bytes)?,
                copied: driver.event()?,
            })
        };
        let (both, before) = ([half()?, half()?], driver.event()?);
        Ok(Self { driver: Arc::clone(driver), both, before, turns: 0 })
    }
}

impl Drop for Halves {
    fn drop(&mut self) {
        for event in [self.before, self.both[0].copied, self.both[1].copied] {
            self.driver.drop_event(event);
        }
    }
}

/// Some of the values of tensors that follow one another.
fn some<'a>(parts: &[Stored<'a>], values: Range<usize>) -> Vec<Stored<'a>> {
    let (mut found, mut first) = (Vec::new(), 0);
    for &Stored { kind, bytes } in parts {
        let size = kind.size();
        let here = bytes.len() / size;
        let [start, end] =
            [values.start, values.end].map(|at| at.clamp(first, first + here) - first);
        if start < end {
            found.push(Stored { kind, bytes: &bytes[start * size..end * size] });
        }
        first += here;
    }
    found
}

/// The bytes from a number on of such values in bf16.
pub fn narrow(parts: &[Stored], start: usize, into: &mut [u8]) {
    let first = start / 2;
    let mut rest = into;
    for part in some(parts, first..first + rest.len() / 2) {
        let (these, after) = rest.split_at_mut(part.bytes.len() / part.kind.size() * 2);
        rest = after;
        if part.kind == StoredKind::Bf16 {
            let tasks = these.par_chunks_mut(TASK).zip(part.bytes.par_chunks(TASK));
            tasks.for_each(|(to, from)| to.copy_from_slice(from));
        } else {
            let tasks =
                these.par_chunks_mut(TASK).zip(part.bytes.par_chunks(TASK / 2 * part.kind.size()));
            tasks.for_each(|(to, bytes)| {
                let values = to_f32(&[Stored { kind: part.kind, bytes }]);
                for (to, value) in to.as_chunks_mut().0.iter_mut().zip(values) {
                    *to = bf16::from_f32(value).to_le_bytes();
                }
            });
        }
    }
}

/// The same in f32.
pub fn wide(parts: &[Stored], start: usize, into: &mut [u8]) {
    let first = start / 4;
    let values = to_f32(&some(parts, first..first + into.len() / 4));
    into.par_chunks_mut(TASK).zip(bytes_of(&values).par_chunks(TASK)).for_each(|(to, from)| {
        to.copy_from_slice(from);
    });
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::super::Cuda;
    use super::super::emulator::Emulator;
    use super::*;
    use crate::ops::testing::{bits, random};
    use crate::ops::{Backend as _, Kind};

    #[test]
    fn what_comes_to_the_card_is_what_stands_in_the_files_whatever_its_type() {
        let Some(device) = Emulator::new((8, 0)) else { return };
        let driver: Arc<dyn Driver> = Arc::new(device);
        let staging = Staging { bytes: 1024, ..Staging::new(Arc::clone(&driver)) };
        let values = [random(1, 1500), random(2, 3), random(3, 700), random(4, 2048)];
        let bf16s: Vec<u8> =
            values[0].iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
        let f16s: Vec<u8> =
            values[1].iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
        let parts = [
            Stored { kind: StoredKind::Bf16, bytes: &bf16s },
            Stored { kind: StoredKind::F16, bytes: &f16s },
            Stored { kind: StoredKind::F32, bytes: bytes_of(&values[2]) },
            Stored { kind: StoredKind::F32, bytes: bytes_of(&values[3]) },
        ];
        let mut exact: Vec<f32> = values[0].iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
        exact.extend(values[1].iter().map(|&x| f16::from_f32(x).to_f32()));
        exact.extend(values[2].iter().chain(&values[3]));
        let (count, at) = (exact.len(), driver.allocate(6 * exact.len()).unwrap());
        let master = at + 2 * count as Address;
        staging.bring(at, 2 * count, |start, into| narrow(&parts, start, into)).unwrap();
        staging.bring(master, 4 * count, |start, into| wide(&parts, start, into)).unwrap();
        let (mut narrowed, mut widened) = (vec![0; 2 * count], vec![0; 4 * count]);
        driver.synchronize().unwrap();
        driver.copy_out(&mut narrowed, at).unwrap();
        driver.copy_out(&mut widened, master).unwrap();
        let expected: Vec<u8> =
            exact.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
        assert_eq!(narrowed, expected);
        assert_eq!(widened, bytes_of(&exact));
    }

    #[test]
    fn a_weight_that_is_trained_is_read_with_its_exact_values() {
        let Some(device) = Emulator::new((8, 0)) else { return };
        let cuda = Cuda::new(Arc::new(device));
        let values = random(5, 3000);
        let part = Stored { kind: StoredKind::F32, bytes: bytes_of(&values) };
        let weight = cuda.load(Kind::Weight, &[part, part]);
        let found = cuda.values(&weight, 6000);
        assert_eq!(bits(&found), bits(&[&values[..], &values].concat()));
        let frozen = cuda.load(Kind::Frozen, &[part]);
        let rounded: Vec<f32> = values.iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
        assert_eq!(bits(&cuda.values(&frozen, 3000)), bits(&rounded));
    }

    #[test]
    fn loading_takes_two_pieces_of_the_hosts_memory_however_large_a_model_is() {
        let Some(device) = Emulator::new((8, 0)) else { return };
        let driver: Arc<dyn Driver> = Arc::new(device);
        let staging = Staging { bytes: 1024, ..Staging::new(Arc::clone(&driver)) };
        let at = driver.allocate(10_000).unwrap();
        let places = Mutex::new(Vec::new());
        for _ in 0..10 {
            let fill = |_, into: &mut [u8]| places.lock().unwrap().push(into.as_ptr() as usize);
            staging.bring(at, 10_000, fill).unwrap();
        }
        let places = places.into_inner().unwrap();
        assert_eq!(places.len(), 100);
        assert!(places[0] != places[1] && places.windows(3).all(|three| three[0] == three[2]));
    }
}
