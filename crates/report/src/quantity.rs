//! What the analyses count in: a difference with its test, and what that test rests on.

use crate::bootstrap::Estimate;
use crate::findings::Verdict;

/// A difference counts as clear below this p, after Holm.
pub(crate) const ALPHA: f64 = 0.05;

/// An estimate and its difference from the baseline.
pub(crate) struct Measure {
    pub estimate: Estimate,
    /// Of a gap: whether it differs from 0.
    pub test: Option<Test>,
    /// `None` at the baseline itself and where there is none.
    pub change: Option<Change>,
}

/// A difference from the baseline.
pub(crate) struct Change {
    pub from: f64,
    pub estimate: Estimate,
    pub test: Test,
}

/// A difference of any other kind.
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
            Some(p) if p < ALPHA => Verdict::Clear,
            Some(_) => Verdict::WithinNoise,
        }
    }
}
