//! What the analyses count in: a difference with its test, and what that test rests on.

use crate::bootstrap::Estimate;
use crate::findings::Verdict;
use ::statistics::{benjamini_hochberg, holm};

/// A difference counts as clear below this p, after Holm.
pub(crate) const ALPHA: f64 = 0.05;

/// An estimate and its difference from the baseline.
#[derive(Clone)]
pub(crate) struct Measure {
    pub estimate: Estimate,
    /// Of a gap: whether it differs from 0.
    pub test: Option<Test>,
    /// `None` at the baseline itself and where there is none.
    pub change: Option<Change>,
}

/// A difference from the baseline.
#[derive(Clone)]
pub(crate) struct Change {
    pub from: f64,
    pub estimate: Estimate,
    pub test: Test,
}

/// A difference of any other kind.
#[derive(Clone)]
pub(crate) struct Contrast {
    pub estimate: Estimate,
    pub test: Test,
}

/// How a difference stands against 0.
#[derive(Clone, Debug, Default)]
pub(crate) struct Test {
    pub p: Option<f64>,
    /// After Holm over the differences of the same table.
    pub p_holm: Option<f64>,
    /// After Benjamini and Hochberg over the same.
    pub p_bh: Option<f64>,
    pub basis: Basis,
}

/// What a test rests on: what was resampled, or which spread a difference is held against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Basis {
    /// Nothing: no test.
    #[default]
    Nothing,
    /// Items and seeds resampled.
    ItemsAndSeeds,
    /// Items alone: run-to-run noise is not in it.
    Items,
    /// Seeds alone.
    Seeds,
    /// The spread of runs that are one experiment, or of neighbours along n.
    RunNoise,
    /// The scatter of the points about a trend along n.
    Trend,
    /// Permutations.
    Permutation,
}

impl Test {
    pub fn verdict(&self) -> Verdict {
        match self.p_holm {
            None => Verdict::NoInterval,
            Some(p) if p < ALPHA && self.basis == Basis::Items => Verdict::OneRun,
            Some(p) if p < ALPHA => Verdict::Clear,
            Some(_) => Verdict::WithinNoise,
        }
    }
}

impl Basis {
    /// What the bootstrap of an estimate could resample.
    pub fn of(estimate: &Estimate) -> Basis {
        match (estimate.p, estimate.seeds, estimate.items) {
            (None, ..) => Basis::Nothing,
            (_, 0 | 1, _) => Basis::Items,
            (_, _, 0) => Basis::Seeds,
            _ => Basis::ItemsAndSeeds,
        }
    }
}

/// Holm's and Benjamini and Hochberg's adjustment over one family of tests.
pub(crate) fn adjust<'a>(tests: impl IntoIterator<Item = &'a mut Test>) {
    let mut tests: Vec<_> = tests.into_iter().filter(|test| test.p.is_some()).collect();
    let p: Vec<f64> = tests.iter().filter_map(|test| test.p).collect();
    for ((test, holm), bh) in tests.iter_mut().zip(holm(&p)).zip(benjamini_hochberg(&p)) {
        (test.p_holm, test.p_bh) = (Some(holm), Some(bh));
    }
}
