//! A device that carries nothing out and only counts: what the launch code asks of it is what it
//! would ask of a card, so that a step rehearsed on it says to the byte what a real one will need.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::Result;

use super::driver::{
    Address, Arguments, Driver, Event, Facts, GraphId, Grid, Stream, TensorMap, TensorShape,
};

/// The counting device.
pub struct Counter {
    facts: Facts,
    /// Where the next allocation begins.
    next: AtomicU64,
    host: Mutex<Host>,
    recordings: Mutex<Recordings>,
}

/// What was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recordings {
    /// Whether something is being recorded, and how many launches, copies and zeroings it has so far.
    open: Option<u64>,
    /// How many recordings there were.
    pub count: u64,
    /// The most launches, copies and zeroings of one.
    pub longest: u64,
}

/// Page-locked host memory.
#[derive(Default)]
struct Host {
    sizes: Vec<(Address, usize)>,
    now: u64,
    peak: u64,
}

impl Counter {
    /// A device that is said to be this.
    #[must_use]
    pub fn new(facts: Facts) -> Self {
        Self {
            facts,
            next: AtomicU64::new(1 << 20),
            host: Mutex::default(),
            recordings: Mutex::default(),
        }
    }

    /// Most bytes of page-locked host memory that stood at a time.
    #[must_use]
    pub fn host_peak(&self) -> u64 {
        self.host.lock().unwrap_or_else(PoisonError::into_inner).peak
    }

    /// What was recorded so far.
    #[must_use]
    pub fn recordings(&self) -> Recordings {
        *self.recordings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more piece of work that a recording has a node for.
    fn node(&self) -> Result<()> {
        let mut all = self.recordings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(nodes) = &mut all.open {
            *nodes += 1;
        }
        Ok(())
    }

    fn place(&self, bytes: usize) -> Address {
        self.next.fetch_add(bytes.next_multiple_of(256) as u64, Ordering::Relaxed)
    }
}

impl Driver for Counter {
    fn facts(&self) -> &Facts {
        &self.facts
    }
    fn allocate(&self, bytes: usize) -> Result<Address> {
        Ok(self.place(bytes))
    }
    fn free(&self, _: Address) {}
    fn copy_in(&self, _: Address, _: &[u8]) -> Result<()> {
        Ok(())
    }
    fn copy_out(&self, bytes: &mut [u8], _: Address) -> Result<()> {
        bytes.fill(0);
        Ok(())
    }
    fn copy(&self, _: Address, _: Address, _: usize) -> Result<()> {
        self.node()
    }
    fn zero(&self, _: Address, _: usize) -> Result<()> {
        self.node()
    }
    fn launch_on(&self, stream: Stream, _: &str, _: Grid, _: Arguments) -> Result<()> {
        if stream == Stream::Compute { self.node() } else { Ok(()) }
    }
    fn tensor_map(&self, _: &TensorShape) -> Result<TensorMap> {
        Ok(TensorMap([0; 16]))
    }
    fn allocate_host(&self, bytes: usize) -> Result<Address> {
        let at = self.place(bytes);
        let mut host = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        host.sizes.push((at, bytes));
        host.now += bytes as u64;
        host.peak = host.peak.max(host.now);
        Ok(at)
    }
    fn free_host(&self, at: Address) {
        let mut host = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = host.sizes.iter().position(|held| held.0 == at) {
            host.now -= host.sizes.swap_remove(place).1 as u64;
        }
    }
    fn copy_on(&self, _: Stream, _: Address, _: Address, _: usize) -> Result<()> {
        Ok(())
    }
    fn event(&self) -> Result<Event> {
        Ok(Event(0))
    }
    fn drop_event(&self, _: Event) {}
    fn record(&self, _: Event, _: Stream) -> Result<()> {
        Ok(())
    }
    fn wait(&self, _: Stream, _: Event) -> Result<()> {
        Ok(())
    }
    fn await_event(&self, _: Event) -> Result<()> {
        Ok(())
    }
    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
    fn begin_capture(&self) -> Result<()> {
        self.recordings.lock().unwrap_or_else(PoisonError::into_inner).open = Some(0);
        Ok(())
    }
    fn end_capture(&self) -> Result<GraphId> {
        let mut all = self.recordings.lock().unwrap_or_else(PoisonError::into_inner);
        let nodes = all.open.take().unwrap_or(0);
        (all.count, all.longest) = (all.count + 1, all.longest.max(nodes));
        Ok(GraphId(all.count))
    }
    fn replay(&self, _: GraphId) -> Result<()> {
        Ok(())
    }
    fn forget(&self, _: GraphId) {}
}
