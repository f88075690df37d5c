//! What a stage is given besides its inputs: a way to show progress, to warn, and to be stopped.
//!
//! Everything goes to stderr. Bars appear only on a terminal; elsewhere a plain line every ten
//! seconds says how far long work has come.

use std::{
    io::IsTerminal,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};

use crate::{error::Interrupted, text};

const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq)]
enum Output {
    Quiet,
    Lines,
    Bars,
}

/// Progress, warnings and cancellation; cheap to clone.
#[derive(Clone)]
pub struct Context {
    output: Output,
    bars: MultiProgress,
    cancelled: Arc<AtomicBool>,
}

impl Context {
    fn new(output: Output) -> Self {
        Self { output, bars: MultiProgress::new(), cancelled: Arc::default() }
    }

    /// Says nothing but warnings; for tests and for use as a library.
    pub fn quiet() -> Self {
        Self::new(Output::Quiet)
    }

    /// Bars where stderr is a terminal, plain lines elsewhere.
    pub fn terminal() -> Self {
        Self::new(if std::io::stderr().is_terminal() { Output::Bars } else { Output::Lines })
    }

    /// Asks all work under this context to stop at its next check.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// An error once [`Context::cancel`] was called. Long loops call this.
    pub fn check(&self) -> Result<()> {
        if self.cancelled.load(Ordering::Relaxed) { Err(Interrupted.into()) } else { Ok(()) }
    }

    /// One line to stderr, above any bar.
    pub fn log(&self, line: impl AsRef<str>) {
        match self.output {
            Output::Quiet => {}
            Output::Lines => eprintln!("{}", line.as_ref()),
            Output::Bars => self.bars.suspend(|| eprintln!("{}", line.as_ref())),
        }
    }

    /// A line that matters even when quiet.
    pub fn warn(&self, line: impl AsRef<str>) {
        self.bars.suspend(|| eprintln!("warning: {}", line.as_ref()));
    }

    /// A bar for `total` units of work (`None`: unknown), with rate and time left. The unit "B"
    /// is shown as bytes.
    pub fn bar(&self, label: &str, unit: &str, total: Option<u64>) -> Bar {
        let bar = match self.output {
            Output::Bars => self.bars.add(match total {
                Some(total) => ProgressBar::new(total),
                None => ProgressBar::new_spinner(),
            }),
            _ => ProgressBar::hidden(),
        };
        bar.set_style(style(unit, total.is_some()));
        bar.set_prefix(label.to_owned());
        Bar(Arc::new(Inner {
            bar,
            label: label.to_owned(),
            unit: unit.to_owned(),
            total,
            done: AtomicU64::new(0),
            started: Instant::now(),
            plain: (self.output == Output::Lines).then(|| Mutex::new(Plain::default())),
        }))
    }
}

fn style(unit: &str, bounded: bool) -> ProgressStyle {
    let (amount, rate) = match (unit, bounded) {
        ("B", true) => ("{bytes}/{total_bytes}".to_owned(), "{bytes_per_sec}"),
        ("B", false) => ("{bytes}".to_owned(), "{bytes_per_sec}"),
        (_, true) => (format!("{{human_pos}}/{{human_len}} {unit}"), "{rate}"),
        (_, false) => (format!("{{human_pos}} {unit}"), "{rate}"),
    };
    let template = if bounded {
        format!("{{prefix}} [{{bar:24}}] {amount} {rate} eta {{eta}} {{wide_msg}}")
    } else {
        format!("{{prefix}} {{spinner}} {amount} {rate} {{wide_msg}}")
    };
    ProgressStyle::with_template(&template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
        .with_key("rate", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let _ = write!(out, "{}/s", text::count(state.per_sec() as u64));
        })
}

#[derive(Default)]
struct Plain {
    last: Option<Instant>,
    note: String,
}

struct Inner {
    bar: ProgressBar,
    label: String,
    unit: String,
    total: Option<u64>,
    done: AtomicU64,
    started: Instant,
    plain: Option<Mutex<Plain>>,
}

/// Progress of one piece of work. Cheap to clone, safe to share.
#[derive(Clone)]
pub struct Bar(Arc<Inner>);

impl Bar {
    /// Counts `n` more units as done.
    pub fn inc(&self, n: u64) {
        let done = self.0.done.fetch_add(n, Ordering::Relaxed) + n;
        self.0.bar.set_position(done);
        self.plain_line(done);
    }

    /// Sets the units done.
    pub fn set(&self, n: u64) {
        self.0.done.store(n, Ordering::Relaxed);
        self.0.bar.set_position(n);
        self.plain_line(n);
    }

    /// A short text beside the bar: loss, current file.
    pub fn note(&self, note: &str) {
        self.0.bar.set_message(note.to_owned());
        if let Some(plain) = &self.0.plain
            && let Ok(mut plain) = plain.lock()
        {
            plain.note = note.to_owned();
        }
    }

    /// Takes the bar off the screen.
    pub fn finish(&self) {
        self.0.bar.finish_and_clear();
    }

    fn plain_line(&self, done: u64) {
        let Some(plain) = &self.0.plain else { return };
        let Ok(mut plain) = plain.try_lock() else { return };
        if plain.last.unwrap_or(self.0.started).elapsed() < PLAIN_INTERVAL {
            return;
        }
        plain.last = Some(Instant::now());
        let seconds = self.0.started.elapsed().as_secs_f64();
        let rate = done as f64 / seconds;
        let left = self.0.total.filter(|_| rate > 0.0).map_or(String::new(), |total| {
            let left = total.saturating_sub(done) as f64 / rate;
            format!(", {} left", text::duration(left))
        });
        let of = self.0.total.map_or(String::new(), |total| format!("/{}", text::count(total)));
        let (label, unit, note) = (&self.0.label, &self.0.unit, &plain.note);
        let (done, rate) = (text::count(done), text::count(rate as u64));
        let gap = if note.is_empty() { "" } else { "  " };
        eprintln!("{label}: {done}{of} {unit}, {rate}/s{left}{gap}{note}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::is_interrupted;

    #[test]
    fn a_cancelled_context_stops_work_in_every_clone() {
        let context = Context::quiet();
        let clone = context.clone();
        assert!(clone.check().is_ok());
        context.cancel();
        assert!(is_interrupted(&clone.check().unwrap_err()));
    }

    #[test]
    fn every_bar_style_parses() {
        for unit in ["B", "rows"] {
            for bounded in [true, false] {
                let bar = ProgressBar::hidden();
                bar.set_style(style(unit, bounded));
            }
        }
    }
}
