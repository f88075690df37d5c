//! Why a number could not be computed: a result like any other, shown where the number would stand.
//! Nothing in this crate panics on data; bad data end here, with a reason in plain words.

use std::fmt;

use serde::Serialize;

use crate::interval::Interval;

/// What a statistic gives: itself, or the reason why there is none.
pub type Outcome<T> = Result<T, Unavailable>;

/// Why there is no number.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "reason")]
pub enum Unavailable {
    /// No values at all.
    Empty,
    /// A value is infinite or not a number.
    NotFinite,
    /// One item and one run: nothing to resample.
    OneItem,
    /// One run: no spread from run to run.
    OneSeed,
    /// Every value is the same: no spread to judge by.
    AllEqual,
    /// Fewer values than the method needs.
    TooFew {
        /// What there is too little of, in the plural.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there must be.
        needed: usize,
    },
    /// Two lists that belong together differ in length.
    Lengths {
        /// What the lists are.
        what: &'static str,
        /// Length of the first.
        first: usize,
        /// Length of the second.
        second: usize,
    },
    /// Scores other than 0 and 1, or several runs, where the test counts single hits.
    NotBinary,
    /// A ratio whose denominator may be 0.
    DenominatorSpansZero {
        /// The denominator as observed.
        value: f64,
        /// Its interval, 0 within.
        interval: Interval,
    },
    /// Not a number as observed, or in too many draws (a ratio over 0).
    Undefined,
    /// An argument or value outside of what it can be.
    OutOfRange {
        /// Which.
        what: &'static str,
        /// The value given.
        value: f64,
    },
    /// A cell that the sample does not have.
    NoSuchCell {
        /// Index asked for.
        cell: usize,
        /// Number of cells.
        cells: usize,
    },
    /// The search for a maximum did not end.
    NotConverged,
    /// No two observations share all their levels, so chance and interaction cannot be told apart.
    NoReplicates,
    /// Two terms of a model split the observations in the same way.
    Confounded {
        /// The term that it cannot be told from.
        with: String,
    },
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unavailable::Empty => f.write_str("no scores"),
            Unavailable::NotFinite => f.write_str("a score is not a finite number"),
            Unavailable::OneItem => f.write_str("one item and one run: nothing to judge chance by"),
            Unavailable::OneSeed => f.write_str("one run: the spread from run to run is not known"),
            Unavailable::AllEqual => f.write_str("all values are equal: no spread to judge by"),
            Unavailable::TooFew { what, found, needed } => {
                write!(f, "{found} {what}, and at least {needed} are needed")
            }
            Unavailable::Lengths { what, first, second } => {
                write!(f, "{what} differ in number: {first} and {second}")
            }
            Unavailable::NotBinary => {
                f.write_str("needs one run of scores that are all 0 or 1 on both sides")
            }
            Unavailable::DenominatorSpansZero { value, interval } => write!(
                f,
                "the denominator, {value:.4}, may be 0 (interval {:.4} to {:.4})",
                interval.low, interval.high
            ),
            Unavailable::Undefined => f.write_str("not a number, as where something is over 0"),
            Unavailable::OutOfRange { what, value } => write!(f, "{what} cannot be {value}"),
            Unavailable::NoSuchCell { cell, cells } => {
                write!(f, "no cell {cell}: there are {cells}")
            }
            Unavailable::NotConverged => f.write_str("the fit did not settle"),
            Unavailable::NoReplicates => f.write_str(
                "no setting was run twice: interactions and chance cannot be told apart",
            ),
            Unavailable::Confounded { with } => write!(f, "cannot be told apart from {with}"),
        }
    }
}

impl std::error::Error for Unavailable {}

/// Refuses values that are infinite or not numbers.
pub(crate) fn finite(values: &[f64]) -> Outcome<()> {
    if values.iter().all(|value| value.is_finite()) { Ok(()) } else { Err(Unavailable::NotFinite) }
}

/// Refuses a probability that is 0, 1 or outside.
pub(crate) fn probability(what: &'static str, value: f64) -> Outcome<()> {
    if value > 0.0 && value < 1.0 { Ok(()) } else { Err(Unavailable::OutOfRange { what, value }) }
}

/// Refuses lists of different lengths.
pub(crate) fn same_length(what: &'static str, first: usize, second: usize) -> Outcome<()> {
    if first == second { Ok(()) } else { Err(Unavailable::Lengths { what, first, second }) }
}
