//! Places on a card for runs side by side: the first to come plans the memory of all, and reserves it; there are
//! as many places as the card has memory for, and who finds none free waits until another run has left.
//! Each run takes what is its own in one go and gives it back in one go, so that the next finds a hole
//! that it fits.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::Result;

use super::{MemoryPlan, Passes};

/// The places at a meeting.
#[derive(Default)]
pub struct Places {
    state: Mutex<State>,
    left: Condvar,
    moves: Mutex<()>,
}

#[derive(Default)]
struct State {
    planned: Option<(MemoryPlan, Passes)>,
    taken: usize,
}

/// A run's place, until it is dropped.
pub struct PlaceTaken<'a>(&'a Places);

impl Places {
    /// Waits for a place; `plan` says how many there are, where this run is the first, and what they take.
    ///
    /// # Errors
    /// Those of `plan`.
    pub fn take(
        &self,
        plan: impl FnOnce() -> Result<(MemoryPlan, Passes)>,
    ) -> Result<(MemoryPlan, Passes, PlaceTaken<'_>)> {
        let mut state = self.state();
        let (plan, passes) = match &state.planned {
            Some(planned) => planned.clone(),
            None => state.planned.insert(plan()?).clone(),
        };
        while state.taken >= plan.runs {
            state = self.left.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.taken += 1;
        Ok((plan, passes, PlaceTaken(self)))
    }

    /// Held while a run takes what is its own, or gives it back.
    pub fn moves(&self) -> MutexGuard<'_, ()> {
        self.moves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PlaceTaken<'_> {
    fn drop(&mut self) {
        self.0.state().taken -= 1;
        self.0.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread::{scope, sleep};
    use std::time::Duration;

    use super::*;
    use crate::memory::passes::Most;
    use crate::model::Recompute;

    #[test]
    fn the_first_plans_for_all_and_who_finds_no_place_waits_for_one() {
        let plan = MemoryPlan {
            place: String::new(),
            parts: Vec::new(),
            driver: 0,
            recorded: [0; 2],
            runs: 2,
            host: 0,
            available: None,
            tokens: 0,
            recompute: Recompute::None,
        };
        let (places, planned) = (Places::default(), AtomicUsize::new(0));
        let take = || {
            let plan = || {
                planned.fetch_add(1, Ordering::Relaxed);
                Ok((plan.clone(), Passes::new(Most::default(), None, 1, 1)))
            };
            places.take(plan).expect("a plan").2
        };
        let (first, _second) = (take(), take());
        let seated = AtomicUsize::new(0);
        scope(|threads| {
            threads.spawn(|| {
                let _third = take();
                seated.fetch_add(1, Ordering::Relaxed);
            });
            sleep(Duration::from_millis(30));
            assert_eq!(seated.load(Ordering::Relaxed), 0);
            drop(first);
        });
        assert_eq!([&seated, &planned].map(|count| count.load(Ordering::Relaxed)), [1, 1]);
    }
}
