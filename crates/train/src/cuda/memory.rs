//! Tensors and indices in a device's memory. A run reserves what its plan says; what is taken then
//! comes from there, and no step asks the driver for memory. Without a reservation, what is given
//! back is kept by size for the next who asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use serde::Serialize;

use super::arena::Arena;
use super::driver::{Address, Driver};
use crate::ops::Kind;

/// What memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Use {
    /// Weights as products read them.
    Weights,
    /// Their f32 masters.
    Masters,
    /// Gradients.
    Gradients,
    /// What the optimiser keeps.
    States,
    /// What passes from operation to operation.
    Activations,
    /// What does so in f32.
    Statistics,
    /// What stands during an operation or a batch.
    Workspace,
}

impl Use {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Weights,
        Self::Masters,
        Self::Gradients,
        Self::States,
        Self::Activations,
        Self::Statistics,
        Self::Workspace,
    ];

    /// What a tensor of this kind is for.
    #[must_use]
    pub fn of(kind: Kind) -> Self {
        match kind {
            Kind::Weight | Kind::Narrow | Kind::Frozen => Self::Weights,
            Kind::Gradient => Self::Gradients,
            Kind::Activation => Self::Activations,
            Kind::Statistic => Self::Statistics,
        }
    }
}

/// Bytes that are in use, and the most that ever were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Now.
    pub now: usize,
    /// At most.
    pub peak: usize,
}

/// A device's memory, shared by all that stands in it.
///
/// What is taken while work is recorded stays with the recordings: they write to it whenever they run
/// again. They run one after the other, so that all of them share it.
pub struct Pool {
    driver: Arc<dyn Driver>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    arena: Option<Arena>,
    free: Free,
    /// Free memory of recordings.
    recorded: Free,
    /// Whether work is being recorded.
    recording: bool,
    usage: [Usage; Use::ALL.len()],
    /// How often the driver was asked for memory.
    allocations: usize,
}

type Free = BTreeMap<usize, Vec<Address>>;

impl State {
    fn pop(free: &mut Free, bytes: usize) -> Option<Address> {
        free.get_mut(&bytes).and_then(Vec::pop)
    }

    /// Memory for so many bytes out of what is there.
    fn take(&mut self, bytes: usize, class: usize) -> Option<(Address, usize)> {
        if self.recording {
            // By class, so that one recording's memory fits the next one's.
            let held = Self::pop(&mut self.recorded, class);
            let held = held.or_else(|| self.arena.as_mut().and_then(|arena| arena.take(class)));
            return held.or_else(|| Self::pop(&mut self.free, class)).map(|at| (at, class));
        }
        let own = self.arena.as_mut().and_then(|arena| arena.take(bytes)).map(|at| (at, bytes));
        own.or_else(|| Self::pop(&mut self.free, class).map(|at| (at, class)))
    }
}

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

    /// Sees to it that what is taken from here on, up to so many bytes, needs no further memory of
    /// the driver. What an earlier run reserved serves again where it is large enough; where other
    /// work stands in it, it stays as it is.
    ///
    /// # Errors
    /// If the device has not so much left.
    pub fn reserve(&self, bytes: usize) -> Result<()> {
        let state = &mut *self.state();
        if let Some(arena) = &state.arena {
            if !arena.is_free() || arena.size() >= bytes {
                return Ok(());
            }
            self.driver.free(arena.base());
            state.arena = None;
        }
        for at in std::mem::take(&mut state.free).into_values().flatten() {
            self.driver.free(at);
        }
        state.arena = Some(Arena::new(self.driver.allocate(bytes)?, bytes));
        Ok(())
    }

    /// Memory for `bytes`, of any content, that stands during an operation or a batch.
    ///
    /// # Errors
    /// If the device has none left.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Result<Buffer> {
        self.take_for(Use::Workspace, bytes)
    }

    /// Memory for `bytes`, of any content.
    ///
    /// # Errors
    /// If the device has none left.
    pub fn take_for(self: &Arc<Self>, purpose: Use, bytes: usize) -> Result<Buffer> {
        let class = Self::class(bytes);
        let (held, recorded) = {
            let state = &mut *self.state();
            (state.take(bytes, class), state.recording)
        };
        let (at, size) = match held {
            Some(held) => held,
            None => {
                // What others gave back may be of no use to anyone, but in the way.
                let at = self.driver.allocate(class).or_else(|error| match self.give_back() {
                    true => self.driver.allocate(class),
                    false => Err(error),
                })?;
                self.state().allocations += 1;
                (at, class)
            }
        };
        let usage = &mut self.state().usage[purpose as usize];
        usage.now += bytes;
        usage.peak = usage.peak.max(usage.now);
        Ok(Buffer { pool: Arc::clone(self), at, size, recorded, purpose, bytes })
    }

    /// Gives the driver back what is kept for the next who asks; whether there was any.
    fn give_back(&self) -> bool {
        let state = &mut *self.state();
        if state.recording || state.free.is_empty() {
            return false;
        }
        for at in std::mem::take(&mut state.free).into_values().flatten() {
            self.driver.free(at);
        }
        true
    }

    /// Says whether work is being recorded from here on.
    pub fn set_recording(&self, recording: bool) {
        self.state().recording = recording;
    }

    /// What the memory in use is for.
    #[must_use]
    pub fn usage(&self, purpose: Use) -> Usage {
        self.state().usage[purpose as usize]
    }

    /// Bytes of the reservation that were ever in use.
    #[must_use]
    pub fn top(&self) -> usize {
        self.state().arena.as_ref().map_or(0, Arena::top)
    }

    /// Bytes that [`Pool::reserve`] can give back to the driver.
    #[must_use]
    pub fn idle(&self) -> usize {
        let state = self.state();
        let reserved = state.arena.as_ref().filter(|arena| arena.is_free()).map_or(0, Arena::size);
        reserved + state.free.iter().map(|(bytes, held)| bytes * held.len()).sum::<usize>()
    }

    /// How often the driver was asked for memory beyond the reservation.
    #[must_use]
    pub fn allocations(&self) -> usize {
        self.state().allocations
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let inside = |at: &Address| state.arena.as_ref().is_some_and(|arena| arena.holds(*at));
        for at in state.free.values().chain(state.recorded.values()).flatten() {
            if !inside(at) {
                self.driver.free(*at);
            }
        }
        if let Some(arena) = &state.arena {
            self.driver.free(arena.base());
        }
    }
}

/// A piece of the device's memory; goes back to its pool.
pub struct Buffer {
    pool: Arc<Pool>,
    /// Where it begins.
    pub at: Address,
    /// Bytes that it occupies.
    size: usize,
    /// Whether it was taken while work was recorded.
    recorded: bool,
    purpose: Use,
    /// Bytes that were asked for.
    bytes: usize,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let state = &mut *self.pool.state();
        state.usage[self.purpose as usize].now -= self.bytes;
        match &mut state.arena {
            _ if self.recorded => state.recorded.entry(self.size).or_default().push(self.at),
            Some(arena) if arena.holds(self.at) => arena.give(self.at, self.size),
            _ => state.free.entry(self.size).or_default().push(self.at),
        }
    }
}

/// Page-locked memory of the host.
pub struct Locked {
    driver: Arc<dyn Driver>,
    /// Where it begins.
    pub at: Address,
    len: usize,
}

impl Locked {
    /// So many zeros.
    ///
    /// # Errors
    /// If the machine has not so much memory that can be locked.
    pub fn zeros(driver: &Arc<dyn Driver>, len: usize) -> Result<Self> {
        Ok(Self { driver: Arc::clone(driver), at: driver.allocate_host(len)?, len })
    }

    /// Its bytes; the caller has waited for copies to it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the memory is this value's alone and was given as zeros.
        unsafe { std::slice::from_raw_parts(self.at as *const u8, self.len) }
    }

    /// The same to write to; the caller has waited for copies from it.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.at as *mut u8, self.len) }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // No copy may be under way; a fault is told by the next operation.
        let _ = self.driver.synchronize();
        self.driver.free_host(self.at);
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

    /// Where the value of this number is.
    #[must_use]
    pub fn from(&self, value: usize) -> Address {
        self.at() + (value * self.dtype.bytes()) as Address
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
