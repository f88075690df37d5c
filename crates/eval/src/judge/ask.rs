//! Asks an endpoint many requests at a time: paced, tried again where that may help, each reply kept as soon as it is
//! there. Replies come back in the order of the requests, whoever answered first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use artifact::Context;
use artifact::error::{Interrupted, user};
use artifact::text::duration;

use super::Config;
use super::cache::{Cache, Reply, Request};
use super::endpoint::{Endpoint, Fault};
use super::pace::{Pace, backoff};

/// How often those who wait look whether they are to stop.
const GLANCE: Duration = Duration::from_millis(50);
/// How long a run that stops waits for the requests in flight, whose replies are paid.
const LAST_REPLIES: Duration = Duration::from_secs(5);

/// A reply, or why there is none after all attempts.
pub type Answer = Result<Reply, String>;

/// Sends requests to one endpoint.
pub struct Asker {
    shared: Arc<Shared>,
    concurrency: usize,
}

/// What all workers see.
struct Shared {
    endpoint: Endpoint,
    cache: Arc<Cache>,
    pace: Pace,
    attempts: u32,
    retry_wait: f64,
    give_up_after: Duration,
    /// Whether the endpoint has answered anything: what does not answer later is out of order rather than wrong.
    answered: AtomicBool,
    stopped: AtomicBool,
}

/// One batch of requests, whose next one any worker takes.
struct Batch {
    requests: Vec<Request>,
    next: AtomicUsize,
}

impl Asker {
    /// An asker with these settings.
    pub fn new(endpoint: Endpoint, cache: Arc<Cache>, config: &Config) -> Asker {
        let shared = Shared {
            endpoint,
            cache,
            pace: Pace::new(config.requests_per_minute),
            attempts: config.attempts,
            retry_wait: config.retry_wait,
            give_up_after: Duration::from_secs_f64(config.give_up_after),
            answered: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        };
        Asker { shared: Arc::new(shared), concurrency: config.concurrency }
    }

    /// The answers to these requests, in their order. `each` sees them as they come, and ends everything by an error.
    ///
    /// # Errors
    /// What the user has to mend, Ctrl-C, a cache that cannot be written, and what `each` returns. Replies so far are kept.
    pub fn ask(
        &self,
        requests: Vec<Request>,
        ctx: &Context,
        mut each: impl FnMut(&Answer) -> Result<()>,
    ) -> Result<Vec<Answer>> {
        let mut answers: Vec<Option<Answer>> = requests.iter().map(|_| None).collect();
        let workers = self.concurrency.min(requests.len());
        let batch = Arc::new(Batch { requests, next: AtomicUsize::new(0) });
        let (sender, receiver) = channel();
        for _ in 0..workers {
            let (shared, batch, sender) = (self.shared.clone(), batch.clone(), sender.clone());
            // Not scoped: a request in flight may outlive an interrupted run by its timeout.
            thread::spawn(move || shared.work(&batch, &sender));
        }
        drop(sender);
        let mut collect = || -> Result<()> {
            while let Some((at, answer)) = next(&receiver, ctx)? {
                let answer = answer?;
                each(&answer)?;
                answers[at] = Some(answer);
            }
            Ok(())
        };
        if let Err(error) = collect() {
            self.shared.stopped.store(true, Ordering::SeqCst);
            let deadline = Instant::now() + LAST_REPLIES;
            while receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok()
            {
            }
            return Err(error);
        }
        let whole: Option<Vec<Answer>> = answers.into_iter().collect();
        whole.ok_or_else(|| anyhow!("a thread that asks the judge ended early"))
    }
}

/// The next answer that arrives; `None` after the last one.
fn next<T>(receiver: &Receiver<T>, ctx: &Context) -> Result<Option<T>> {
    loop {
        ctx.check()?;
        match receiver.recv_timeout(GLANCE) {
            Ok(arrived) => return Ok(Some(arrived)),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

impl Shared {
    fn work(&self, batch: &Batch, sender: &Sender<(usize, Result<Answer>)>) {
        while !self.stopped.load(Ordering::SeqCst) {
            let at = batch.next.fetch_add(1, Ordering::SeqCst);
            let Some(request) = batch.requests.get(at) else { return };
            if sender.send((at, self.attempts(request))).is_err() {
                return;
            }
        }
    }

    /// One request with all its attempts.
    fn attempts(&self, request: &Request) -> Result<Answer> {
        let mut started = None;
        let mut attempt = 0;
        loop {
            self.turn()?;
            let started = *started.get_or_insert_with(Instant::now);
            let (why, asked) = match self.endpoint.ask(&request.body) {
                Ok(reply) => {
                    self.answered.store(true, Ordering::SeqCst);
                    self.cache.put(request, &reply)?;
                    return Ok(Ok(reply));
                }
                Err(Fault::Fatal(why)) => return Err(user(why)),
                Err(Fault::Refused(why)) => return Ok(Err(why)),
                Err(Fault::Unreachable(why)) if !self.answered.load(Ordering::SeqCst) => {
                    return Err(user(format!("{why}; start the server, or mend base_url")));
                }
                Err(Fault::Unreachable(why)) => (why, None),
                Err(Fault::Passing(why, asked)) => (why, asked),
            };
            attempt += 1;
            if attempt >= self.attempts {
                return Ok(Err(format!("{why} (attempt {attempt} of {attempt})")));
            }
            let wait =
                backoff(self.retry_wait, attempt - 1, &request.key).max(asked.unwrap_or_default());
            if started.elapsed() + wait > self.give_up_after {
                let wait = duration(wait.as_secs_f64());
                return Ok(Err(format!(
                    "{why} (another {wait} to wait is more than give_up_after allows)"
                )));
            }
            if let Some(asked) = asked {
                // A limit of the account holds for all requests.
                self.pace.pause(asked);
            }
            self.sleep(wait)?;
        }
    }

    /// Waits for this worker's turn.
    fn turn(&self) -> Result<()> {
        while let Err(wait) = self.pace.turn() {
            self.sleep(wait)?;
        }
        Ok(())
    }

    fn sleep(&self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            if self.stopped.load(Ordering::SeqCst) {
                return Err(Interrupted.into());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(GLANCE));
        }
    }
}
