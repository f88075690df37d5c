//! When the next request may go out: a steady rate where one is set, and a pause for all where the endpoint asks for it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use artifact::hash::draw_key;

/// The longest wait between two attempts that the endpoint did not ask for.
const LONGEST_WAIT: f64 = 60.0;

/// Shared by all that send.
#[derive(Debug)]
pub struct Pace {
    interval: Duration,
    next: Mutex<Instant>,
}

impl Pace {
    /// So many requests a minute at most; without a limit every request may go at once.
    pub fn new(per_minute: Option<f64>) -> Pace {
        let interval = per_minute
            .map_or(Duration::ZERO, |per_minute| Duration::from_secs_f64(60.0 / per_minute));
        Pace { interval, next: Mutex::new(Instant::now()) }
    }

    /// Takes the next place in the row if its time has come; else says how long to wait before asking again.
    pub fn turn(&self) -> Result<(), Duration> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if *next > now {
            return Err(*next - now);
        }
        *next = now + self.interval;
        Ok(())
    }

    /// Nobody sends for that long.
    pub fn pause(&self, time: Duration) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next = (*next).max(Instant::now() + time);
    }
}

/// How long to wait after the `attempt`th failure (from 0) of the request of that key: `first` seconds, doubled with each
/// failure, and between half and all of that, so that requests that failed together do not come back together.
pub fn backoff(first: f64, attempt: u32, key: &str) -> Duration {
    let whole = (first * 2f64.powi(attempt.min(30) as i32)).min(LONGEST_WAIT);
    let part = f64::from(draw_key(u64::from(attempt), "backoff", key)[0]) / 255.0;
    Duration::from_secs_f64(whole * (0.5 + 0.5 * part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute_and_differ_between_requests() {
        for attempt in 0..20 {
            let whole = (0.5 * 2f64.powi(attempt as i32)).min(60.0);
            let wait = backoff(0.5, attempt, "key").as_secs_f64();
            assert!((0.5 * whole..=whole + 1e-9).contains(&wait), "{attempt}: {wait}");
        }
        assert_ne!(backoff(1.0, 0, "a"), backoff(1.0, 0, "b"));
    }

    #[test]
    fn a_rate_spaces_requests_and_a_pause_holds_for_all() {
        // Hours, so that it does not matter how long the test itself takes.
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let pace = Pace::new(Some(1.0 / 600.0));
        assert_eq!(pace.turn(), Ok(()));
        let wait = pace.turn().unwrap_err();
        assert!(wait <= hours(10) && wait > hours(9), "{wait:?}");
        let free = Pace::new(None);
        assert!((0..100).all(|_| free.turn().is_ok()));
        free.pause(hours(5));
        assert!(free.turn().unwrap_err() > hours(4));
    }
}
