//! Statistics of transfer: plain arrays of scores in, numbers with their uncertainty out.
//!
//! | question | method | module |
//! |---|---|---|
//! | how large is it, and how sure | bootstrap of items and runs, BCa or percentile | [`bootstrap`] |
//! | a share of right answers | Wilson | [`proportion`] |
//! | do two differ | sign-flip permutation, McNemar | [`paired`] |
//! | how many did we look at | Holm, Benjamini–Hochberg | [`multiplicity`] |
//! | do two rise together | Spearman with a permutation p | [`correlation`] |
//!
//! What cannot be computed is a result too: [`Unavailable`] says why. Nothing here knows of files,
//! tables or languages, and nothing depends on the number of threads.

pub mod bootstrap;
pub mod correlation;
mod influence;
pub mod interval;
pub mod multiplicity;
pub mod paired;
pub mod proportion;
mod random;
pub mod sample;
pub mod statistic;
pub mod unavailable;

pub use bootstrap::{Covariance, Draws, Estimate, Method, Options, RunSpread, Runs};
pub use correlation::{Spearman, spearman};
pub use influence::Noise;
pub use interval::{Interval, quantile};
pub use multiplicity::{benjamini_hochberg, holm};
pub use paired::{McNemar, Permutation, mcnemar, permutation};
pub use proportion::wilson;
pub use random::Key;
pub use sample::{Cell, Sample, SeedScores};
pub use statistic::Statistic;
pub use unavailable::{Outcome, Unavailable};
