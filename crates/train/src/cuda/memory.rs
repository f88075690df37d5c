//! Tensors and indices in a device's memory. What is given back is kept by size for the next who
//! asks, so that once a step has run, the steps after it allocate nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;

use super::driver::{Address, Driver};

/// Memory by size class, shared by all that stands in it.
///
/// What is taken while work is recorded stays with the recordings: they write to it whenever they run
/// again. They run one after the other, so that all of them share it.
pub struct Pool {
    driver: Arc<dyn Driver>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    free: Free,
    /// Free memory of recordings.
    recorded: Free,
    /// Whether work is being recorded.
    recording: bool,
}

type Free = BTreeMap<usize, Vec<Address>>;

impl Pool {
    /// Nothing yet.
    #[must_use]
    pub fn new(driver: Arc<dyn Driver>) -> Arc<Self> {
        Arc::new(Self { driver, state: Mutex::default() })
    }

    /// The size class of `bytes`: an eighth of a power of two, so that little is wasted.
    fn class(bytes: usize) -> usize {
        let step = (bytes.max(2048).next_power_of_two() / 8).max(256);
        bytes.max(1).div_ceil(step) * step
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory for `bytes`, of any content.
    ///
    /// # Errors
    /// If the device has none left.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Result<Buffer> {
        let class = Self::class(bytes);
        let pop = |free: &mut Free| free.get_mut(&class).and_then(Vec::pop);
        let (held, recorded) = {
            let state = &mut *self.state();
            let of_recordings = if state.recording { pop(&mut state.recorded) } else { None };
            (of_recordings.or_else(|| pop(&mut state.free)), state.recording)
        };
        let at = match held {
            Some(at) => at,
            None => self.driver.allocate(class)?,
        };
        Ok(Buffer { pool: Arc::clone(self), at, class, recorded })
    }

    /// Says whether work is being recorded from here on.
    pub fn set_recording(&self, recording: bool) {
        self.state().recording = recording;
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        for at in state.free.values().chain(state.recorded.values()).flatten() {
            self.driver.free(*at);
        }
    }
}

/// A piece of the device's memory; goes back to its pool.
pub struct Buffer {
    pool: Arc<Pool>,
    /// Where it begins.
    pub at: Address,
    class: usize,
    /// Whether it was taken while work was recorded.
    recorded: bool,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let state = &mut *self.pool.state();
        let free = if self.recorded { &mut state.recorded } else { &mut state.free };
        free.entry(self.class).or_default().push(self.at);
    }
}

/// How values stand in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// The upper half of an f32.
    Bf16,
    /// Four bytes.
    F32,
}

impl Dtype {
    /// Bytes of a value.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }
}

/// A run of values on the device. A weight that is trained has an f32 master copy beside the bf16
/// values that products read.
pub struct Tensor {
    /// Where the values are; none where there are no values.
    pub(super) buffer: Option<Buffer>,
    pub(super) master: Option<Buffer>,
    pub(super) dtype: Dtype,
    pub(super) len: usize,
}

impl Tensor {
    /// Where the values begin; null where there are none.
    #[must_use]
    pub fn at(&self) -> Address {
        self.buffer.as_ref().map_or(0, |buffer| buffer.at)
    }
}

/// Whole numbers on the device and on the host, and what launches derive from them.
pub struct Index {
    pub(super) host: Vec<u32>,
    pub(super) buffer: Option<Buffer>,
    /// Work lists of attention by (rows of a tile, window, keys), and the order of a scatter.
    pub(super) derived: Mutex<BTreeMap<(u32, u32, bool), Arc<Buffer>>>,
}

impl Index {
    /// Where the numbers begin.
    #[must_use]
    pub fn at(&self) -> Address {
        self.buffer.as_ref().map_or(0, |buffer| buffer.at)
    }
}

/// The bytes of plain values.
#[must_use]
pub fn bytes_of<T: Copy>(values: &[T]) -> &[u8] {
    // SAFETY: any initialised plain value is bytes; the types used have no padding.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The same to write to.
pub fn bytes_of_mut<T: Copy>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: as above; every bit pattern is a value of the types used.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}
