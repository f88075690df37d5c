//! Tensors and indices in a device's memory. A run reserves what its plan says; what is taken then
//! comes from there, and no step asks the driver for memory. Without a reservation, what is given
//! back is kept by size for the next who asks.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use super::arena::Arena;
use super::derived::Derived;
use super::driver::{Address, Driver};
use crate::ops::Kind;

/// What memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Use {
    /// Weights as products read them.
    Weights,
    /// Weights in 4 bits.
    Packed,
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
    /// What recordings take while they run.
    Recordings,
}

impl Use {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Weights,
        Self::Packed,
        Self::Masters,
        Self::Gradients,
        Self::States,
        Self::Activations,
        Self::Statistics,
        Self::Workspace,
        Self::Recordings,
    ];

    /// What a tensor of this kind is for.
    #[must_use]
    pub fn of(kind: Kind) -> Self {
        match kind {
            Kind::Weight | Kind::Narrow | Kind::Frozen => Self::Weights,
            Kind::Packed => Self::Packed,
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
/// What is taken while work is recorded the recording writes to whenever it runs again. Recordings run
/// one after the other, so that one piece of memory, as large as the largest of them needs, serves them
/// all. It gives way: where there is no memory left for others, it goes back, and what was recorded
/// has to be recorded again.
pub struct Pool {
    driver: Arc<dyn Driver>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    arena: Option<Arena>,
    free: Free,
    /// The memory of recordings, how much of it there should be at least, and how often it was another.
    scratch: Option<Arena>,
    least_scratch: usize,
    generation: u64,
    /// Whether work is being recorded.
    recording: bool,
    /// What work that is to be recorded takes, as if it had memory of its own.
    trial: Trial,
    usage: [Usage; Use::ALL.len()],
    /// How often the driver was asked for memory.
    allocations: usize,
}

type Free = BTreeMap<usize, Vec<Address>>;

/// Memory that is nowhere, of which work that runs takes what it would need.
#[derive(Default)]
struct Trial {
    arena: Option<Arena>,
    /// How many such memories there were, and how many trials go on in this one.
    number: u64,
    open: usize,
}

impl State {
    /// Takes back what was taken for so many bytes.
    fn give(&mut self, at: Address, size: usize) {
        match &mut self.arena {
            Some(arena) if arena.holds(at) => arena.give(at, size),
            _ => self.free.entry(size).or_default().push(at),
        }
    }

    /// Takes back the memory of recordings; whether there was any that nothing stands in.
    fn release(&mut self) -> bool {
        if self.recording || self.scratch.as_ref().is_none_or(|scratch| !scratch.is_free()) {
            return false;
        }
        if let Some(scratch) = self.scratch.take() {
            self.give(scratch.base(), scratch.size());
        }
        self.generation += 1;
        true
    }

    fn pop(free: &mut Free, bytes: usize) -> Option<Address> {
        free.get_mut(&bytes).and_then(Vec::pop)
    }

    /// Memory for so many bytes out of what is there.
    fn take(&mut self, bytes: usize, class: usize, stays: bool) -> Option<(Address, usize)> {
        let of_arena = |state: &mut Self| {
            let arena = state.arena.as_mut()?;
            let at = if stays { arena.take(bytes) } else { arena.take_back(bytes) };
            Some((at?, bytes))
        };
        let held = of_arena(self).or_else(|| {
            let beside = self.arena.as_ref().zip(self.scratch.as_ref());
            let gives_way = beside.is_some_and(|(arena, scratch)| arena.holds(scratch.base()));
            if gives_way && self.release() { of_arena(self) } else { None }
        });
        held.or_else(|| Self::pop(&mut self.free, class).map(|at| (at, class)))
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
        state.release();
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
        state.least_scratch = 0;
        state.arena = Some(Arena::new(self.driver.allocate(bytes)?, bytes));
        Ok(())
    }

    /// Memory for `bytes`, of any content, that stands during an operation or a batch.
    ///
    /// # Errors
    /// If the device has none left.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Result<Buffer> {
        self.take_as(Use::Workspace, bytes, false)
    }

    /// The same for what stands longer: beside what comes and goes it would leave holes.
    ///
    /// # Errors
    /// If the device has none left.
    pub fn take_to_stay(self: &Arc<Self>, bytes: usize) -> Result<Buffer> {
        self.take_as(Use::Workspace, bytes, true)
    }

    /// Memory for `bytes`, of any content.
    ///
    /// # Errors
    /// If the device has none left.
    pub fn take_for(self: &Arc<Self>, purpose: Use, bytes: usize) -> Result<Buffer> {
        self.take_as(purpose, bytes, true)
    }

    fn take_as(self: &Arc<Self>, purpose: Use, bytes: usize, stays: bool) -> Result<Buffer> {
        let (at, size, recorded) = match self.take_recorded(bytes)? {
            Some(at) => (at, bytes, true),
            None => {
                let (at, size) = self.take_plain(bytes, stays)?;
                (at, size, false)
            }
        };
        let state = &mut *self.state();
        let usage = &mut state.usage[purpose as usize];
        usage.now += bytes;
        usage.peak = usage.peak.max(usage.now);
        let number = state.trial.number;
        let tried = state.trial.arena.as_mut().and_then(|arena| arena.take(bytes));
        let tried = tried.map(|at| (at, number));
        Ok(Buffer { pool: Arc::clone(self), at, size, recorded, tried, purpose, bytes })
    }

    /// Where so many bytes are, and how many they are.
    fn take_plain(&self, bytes: usize, stays: bool) -> Result<(Address, usize)> {
        let class = Self::class(bytes);
        let held = self.state().take(bytes, class, stays);
        if let Some(held) = held {
            return Ok(held);
        }
        // What others gave back may be of no use to anyone, but in the way.
        let at = self.driver.allocate(class).or_else(|error| match self.give_back() {
            true => self.driver.allocate(class),
            false => Err(error),
        })?;
        self.state().allocations += 1;
        Ok((at, class))
    }

    /// Where so many bytes of the memory of recordings are, if work is being recorded.
    fn take_recorded(&self, bytes: usize) -> Result<Option<Address>> {
        let state = &mut *self.state();
        if !state.recording {
            return Ok(None);
        }
        let at = state.scratch.as_mut().and_then(|scratch| scratch.take(bytes));
        let at = at.context("a recording takes more memory than its work did before")?;
        Ok(Some(at))
    }

    /// Gives the driver back what is kept for the next who asks; whether there was any.
    fn give_back(&self) -> bool {
        let state = &mut *self.state();
        state.release();
        if state.recording || state.free.is_empty() {
            return false;
        }
        for at in std::mem::take(&mut state.free).into_values().flatten() {
            self.driver.free(at);
        }
        true
    }

    /// Counts what is taken from here to [`Pool::end_trial`] as if it had memory of its own.
    pub fn begin_trial(&self) {
        let trial = &mut self.state().trial;
        if trial.open == 0 {
            trial.arena = Some(Arena::new(0, usize::MAX / 4));
            trial.number += 1;
        }
        trial.open += 1;
    }

    /// How much memory of its own would have been enough.
    #[must_use]
    pub fn end_trial(&self) -> usize {
        let trial = &mut self.state().trial;
        let top = trial.arena.as_ref().map_or(0, Arena::top);
        trial.open -= 1;
        if trial.open == 0 {
            trial.arena = None;
        }
        top
    }

    /// Lets what is taken from here to [`Pool::end_recording`] come out of the memory of recordings,
    /// which has room for so many bytes.
    ///
    /// # Errors
    /// If the device has not so much left.
    pub fn begin_recording(&self, bytes: usize) -> Result<()> {
        if self.state().scratch.as_ref().is_none_or(|scratch| scratch.size() < bytes) {
            self.state().release();
            ensure!(self.state().scratch.is_none(), "something stands in the recordings' memory");
            let size = Self::class(bytes).max(self.state().least_scratch);
            let is_reserved = self.state().arena.is_some();
            let (at, size) = if is_reserved {
                let held = self.state().take(size, size, true);
                held.context("the reserved memory has no room for a recording")?
            } else {
                self.take_plain(size, true)?
            };
            self.state().scratch = Some(Arena::new(at, size));
        }
        self.state().recording = true;
        Ok(())
    }

    /// Ends it.
    pub fn end_recording(&self) {
        self.state().recording = false;
    }

    /// Which memory recordings have; those that were made with another cannot run any more.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.state().generation
    }

    /// How much memory recordings have.
    #[must_use]
    pub fn recordings(&self) -> usize {
        self.state().scratch.as_ref().map_or(0, Arena::size)
    }

    /// Lets recordings have so much memory from the first one on, so that no later one needs another.
    pub fn expect_recordings(&self, bytes: usize) {
        self.state().least_scratch = bytes;
    }

    /// Takes the memory of recordings back.
    pub fn release(&self) {
        self.state().release();
    }

    /// What the memory in use is for.
    #[must_use]
    pub fn usage(&self, purpose: Use) -> Usage {
        self.state().usage[purpose as usize]
    }

    /// Lets the most that ever was in use for something be what is now.
    pub fn forget_peak(&self, purpose: Use) {
        let usage = &mut self.state().usage[purpose as usize];
        usage.peak = usage.now;
    }

    /// Bytes of the reservation that were ever in use.
    #[must_use]
    pub fn top(&self) -> usize {
        self.state().arena.as_ref().map_or(0, Arena::top)
    }

    /// Those of them that stood longer than an operation or a batch.
    #[must_use]
    pub fn standing(&self) -> usize {
        self.state().arena.as_ref().map_or(0, Arena::front)
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
        state.release();
        let inside = |at: &Address| state.arena.as_ref().is_some_and(|arena| arena.holds(*at));
        for at in state.free.values().flatten() {
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
    /// Whether it is part of the memory of recordings.
    recorded: bool,
    /// Where it would be in the memory of a trial, and of which.
    tried: Option<(Address, u64)>,
    purpose: Use,
    /// Bytes that were asked for.
    bytes: usize,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let state = &mut *self.pool.state();
        state.usage[self.purpose as usize].now -= self.bytes;
        let trial = &mut state.trial;
        if let (Some(arena), Some((at, number))) = (&mut trial.arena, self.tried)
            && number == trial.number
        {
            arena.give(at, self.bytes);
        }
        match &mut state.scratch {
            Some(scratch) if self.recorded => scratch.give(self.at, self.size),
            _ => state.give(self.at, self.size),
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

/// The exact values of a weight that is trained, or a run of them, in f32.
pub struct Master {
    pub(super) buffer: Buffer,
    /// Which values they are.
    pub(super) run: Range<usize>,
}

impl Master {
    /// Where the value of this number is, one of its run.
    #[must_use]
    pub fn from(&self, value: usize) -> Address {
        self.buffer.at + 4 * (value - self.run.start) as Address
    }
}

/// A run of values on the device. A weight that is trained has an f32 master copy beside the bf16
/// values that products read.
pub struct Tensor {
    /// Where the values are; none where there are no values.
    pub(super) buffer: Option<Buffer>,
    pub(super) master: Option<Master>,
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
    /// For how many numbers there is room, where their count may change.
    pub(super) room: Option<usize>,
    /// What was derived, and for how many blocks.
    pub(super) derived: Mutex<BTreeMap<Derived, (Arc<Buffer>, usize)>>,
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
