//! The noise flag: one verdict on a difference, with its reasons, from everything that bears on it:
//! interval, p after adjustment, spread from run to run, smallest detectable effect.

use std::fmt;

use serde::Serialize;

use crate::interval::Interval;
use crate::unavailable::Unavailable;

/// What is known of a difference.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// The difference.
    pub value: f64,
    /// Its interval, or why there is none.
    pub interval: Result<Interval, Unavailable>,
    /// Its p after adjusting for the number of differences looked at.
    pub p_adjusted: Option<f64>,
    /// Runs on each side; 1 where the interval knows nothing of the spread from run to run.
    pub seeds: usize,
    /// Half-width of the interval that the spread from run to run alone gives a difference of no
    /// effect: t × standard error, from runs of other settings. `None` where no such runs exist or
    /// the interval holds them already.
    pub run_threshold: Option<f64>,
    /// The smallest effect that the design finds four times in five.
    pub smallest_detectable: Option<f64>,
}

/// How sure a difference is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Told apart from 0, runs and items considered.
    Clear,
    /// Told apart from 0 over items; what another run would give is not known.
    OneRun,
    /// Not told apart from 0.
    WithinNoise,
    /// Nothing to judge by.
    Unknown,
}

/// Why a verdict is what it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The interval leaves out 0.
    LeavesOutZero(Interval),
    /// The interval holds 0.
    HoldsZero(Interval),
    /// p after adjustment, below α.
    SmallAfterAdjusting(f64),
    /// p after adjustment, not below α.
    LargeAfterAdjusting(f64),
    /// No run was repeated, here or elsewhere.
    OneRun,
    /// Not larger than what runs of one setting differ by.
    WithinRunSpread(f64),
    /// Larger than what runs of one setting differ by.
    BeyondRunSpread(f64),
    /// Below the smallest detectable effect and not told apart: a difference of this size would
    /// mostly be missed.
    Underpowered(f64),
    /// Below the smallest detectable effect and yet told apart: its size is likely overstated
    /// (Gelman and Carlin 2014).
    LikelyOverstated(f64),
    /// No interval, and why.
    NoInterval(Unavailable),
}

/// A verdict with its reasons, the deciding ones first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Flag {
    /// The verdict.
    pub verdict: Verdict,
    /// Why.
    pub reasons: Vec<Reason>,
}

/// Judges a difference. The adjusted p decides where there is one, the interval otherwise, and where
/// there is neither the spread from run to run alone.
pub fn flag(evidence: &Evidence, alpha: f64) -> Flag {
    let mut reasons = Vec::new();
    let beyond_runs = evidence.run_threshold.map(|most| {
        let beyond = evidence.value.abs() > most;
        let reason = if beyond { Reason::BeyondRunSpread } else { Reason::WithinRunSpread };
        (beyond, reason(most))
    });
    let told_apart = match (&evidence.interval, evidence.p_adjusted) {
        (_, Some(p)) if p.is_finite() => {
            let small = p < alpha;
            let reason =
                if small { Reason::SmallAfterAdjusting } else { Reason::LargeAfterAdjusting };
            reasons.push(reason(p));
            Some(small)
        }
        (Ok(interval), _) => Some(interval.excludes_zero()),
        (Err(_), _) => None,
    };
    match &evidence.interval {
        Ok(interval) if interval.excludes_zero() => reasons.push(Reason::LeavesOutZero(*interval)),
        Ok(interval) => reasons.push(Reason::HoldsZero(*interval)),
        Err(reason) => reasons.push(Reason::NoInterval(reason.clone())),
    }
    let verdict = match (told_apart, &beyond_runs) {
        (Some(false), _) | (_, Some((false, _))) => Verdict::WithinNoise,
        (_, Some((true, _))) => Verdict::Clear,
        (Some(true), None) if evidence.seeds < 2 => Verdict::OneRun,
        (Some(true), None) => Verdict::Clear,
        (None, None) => Verdict::Unknown,
    };
    if verdict == Verdict::OneRun {
        reasons.push(Reason::OneRun);
    }
    if let Some((beyond, reason)) = beyond_runs {
        reasons.insert(if beyond { reasons.len() } else { 0 }, reason);
    }
    if let Some(smallest) = evidence.smallest_detectable
        && evidence.value.abs() < smallest
    {
        match verdict {
            Verdict::WithinNoise => reasons.push(Reason::Underpowered(smallest)),
            Verdict::Clear | Verdict::OneRun => reasons.push(Reason::LikelyOverstated(smallest)),
            Verdict::Unknown => {}
        }
    }
    Flag { verdict, reasons }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Verdict::Clear => "clear",
            Verdict::OneRun => "one run",
            Verdict::WithinNoise => "within noise",
            Verdict::Unknown => "unknown",
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::LeavesOutZero(Interval { low, high }) => {
                write!(f, "the interval {low:.4} to {high:.4} leaves out 0")
            }
            Reason::HoldsZero(Interval { low, high }) => {
                write!(f, "the interval {low:.4} to {high:.4} holds 0")
            }
            Reason::SmallAfterAdjusting(p) => {
                write!(f, "p = {p:.3} after adjusting for all differences looked at")
            }
            Reason::LargeAfterAdjusting(p) => {
                write!(f, "p = {p:.2} after adjusting for all differences looked at")
            }
            Reason::OneRun => {
                f.write_str("no run was repeated: what another run would give is not known")
            }
            Reason::WithinRunSpread(most) => {
                write!(f, "runs of one setting differ by up to {most:.4} themselves")
            }
            Reason::BeyondRunSpread(most) => {
                write!(f, "runs of one setting differ by {most:.4} at most")
            }
            Reason::Underpowered(smallest) => {
                write!(f, "a difference below {smallest:.4} would mostly be missed")
            }
            Reason::LikelyOverstated(smallest) => write!(
                f,
                "below {smallest:.4}, what this design finds four times in five: likely overstated"
            ),
            Reason::NoInterval(reason) => write!(f, "no interval: {reason}"),
        }
    }
}
