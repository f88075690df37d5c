//! Whose turn it is at a device that several threads share: operations come one at a time, the first
//! fault is kept and makes all that follow do nothing, and while one thread records, the others wait:
//! what they ask for is no part of its recording.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use anyhow::{Error, Result};

/// A device's turns.
#[derive(Default)]
pub struct Turn {
    state: Mutex<State>,
    recorded: Condvar,
}

#[derive(Default)]
struct State {
    fault: Option<Error>,
    recorder: Option<ThreadId>,
}

impl Turn {
    /// The state, once no other thread records.
    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.recorder.is_some_and(|recorder| recorder != thread::current().id()) {
            state = self.recorded.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state
    }

    /// Does something unless there was a fault before, and keeps its own.
    pub fn run<T: Default>(&self, work: impl FnOnce() -> Result<T>) -> T {
        let mut state = self.state();
        if state.fault.is_some() {
            return T::default();
        }
        work().unwrap_or_else(|fault| {
            state.fault = Some(fault);
            T::default()
        })
    }

    /// The first fault since the last call.
    pub fn take_fault(&self) -> Option<Error> {
        self.state().fault.take()
    }

    /// Lets this thread alone ask for work from here to [`Turn::end_recording`]. Does nothing and says
    /// so where there was a fault.
    pub fn begin_recording(&self) -> bool {
        let mut state = self.state();
        if state.fault.is_none() {
            state.recorder = Some(thread::current().id());
        }
        state.fault.is_none()
    }

    /// Lets the others go on. A fault in between is that of the recording.
    pub fn end_recording(&self) -> Option<Error> {
        let mut state = self.state();
        state.recorder = None;
        self.recorded.notify_all();
        state.fault.take()
    }
}
