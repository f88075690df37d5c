//! Statistics of transfer: plain arrays of scores in, numbers with their uncertainty out.
//!
//! | question | method | module |
//! |---|---|---|
//! | how large is it, and how sure | bootstrap of items and runs, BCa or percentile | [`bootstrap`] |
//! | a share of right answers | Wilson | [`proportion`] |
//! | do two differ | sign-flip permutation, McNemar | [`paired`] |
//! | is it more than noise | one verdict with its reasons | [`verdict`] |
//! | how many did we look at | Holm, Benjamini–Hochberg | [`multiplicity`] |
//! | what could we have seen | smallest detectable effect, runs and items needed | [`power`] |
//! | how much of it transfers | ratio with Fieller's interval | [`ratio`] |
//! | does it stay the same | two one-sided tests, trends | [`equivalence`] |
//! | do two rise together | Spearman with a permutation p | [`correlation`] |
//! | where do more data stop helping | shapes along n, chosen by AICc | [`curve`] |
//! | what would another mixture score | the chosen curve, refitted to every draw | [`response`] |
//! | which factors does it vary with | crossed random effects, ANOVA or REML | [`variance`] |
//!
//! What cannot be computed is a result too: [`Unavailable`] says why. Nothing here knows of files,
//! tables or languages, and nothing depends on the number of threads.

pub mod bootstrap;
pub mod correlation;
pub mod curve;
pub mod equivalence;
mod influence;
pub mod interval;
pub mod multiplicity;
pub mod paired;
pub mod power;
pub mod proportion;
mod random;
pub mod ratio;
pub mod response;
pub mod sample;
pub mod statistic;
pub mod unavailable;
pub mod variance;
pub mod verdict;

pub use bootstrap::{Covariance, Draws, Estimate, Method, Options, RunSpread, Runs};
pub use correlation::{Spearman, spearman};
pub use curve::{Choice, Fit, LevelsOff, Series, Shape, choose, fit, levels_off};
pub use equivalence::{ConstantGap, Equivalence, Line, constant_gap, line, tost};
pub use influence::Noise;
pub use interval::{Interval, quantile};
pub use multiplicity::{benjamini_hochberg, holm};
pub use paired::{McNemar, Permutation, mcnemar, permutation};
pub use power::{Needed, items_needed, seeds_needed, smallest_detectable};
pub use proportion::wilson;
pub use random::Key;
pub use ratio::{Ratio, fieller, ratio_of_means, transfer_ratio};
pub use response::{Prediction, Response};
pub use sample::{Cell, Sample, SeedScores};
pub use statistic::Statistic;
pub use unavailable::{Outcome, Unavailable};
pub use variance::{Component, Decomposition, Factor, decompose};
pub use verdict::{Evidence, Flag, Reason, Verdict, flag};
