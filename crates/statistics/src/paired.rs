//! Tests of paired differences: the sign-flip permutation test (Fisher 1935; Good 2005, section 3.2)
//! and McNemar's test (1947) with its exact and mid-p forms (Fagerland, Lydersen and Laake 2013).
//!
//! One difference an item goes in: an item that occurs in several languages or runs is averaged
//! first, because what is exchangeable under "no difference" is the sign of a whole item.

use rayon::prelude::*;
use serde::Serialize;
use statrs::distribution::{Binomial, Discrete, DiscreteCDF};

use crate::interval::mean;
use crate::random::{Key, Stream};
use crate::unavailable::{Outcome, Unavailable, finite};

/// So many items that differ are enumerated; more are drawn at random.
const EXACT: usize = 20;
/// Random draws otherwise; with the observed one the p is a multiple of 1/100,000.
const DRAWS: u64 = 99_999;

/// A sign-flip test of "the mean difference is 0".
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Permutation {
    /// Mean difference.
    pub mean: f64,
    /// Two-sided p.
    pub p: f64,
    /// Items.
    pub items: usize,
    /// Whether every assignment of signs was looked at.
    pub exact: bool,
}

/// Tests whether differences, one an item, have mean 0: every sign is as likely if nothing
/// differs. All 2^m assignments of the m differences other than 0 where m ≤ 20, 99,999 random ones
/// otherwise.
///
/// # Errors
/// No differences, or one that is not finite.
pub fn permutation(differences: &[f64], key: Key) -> Outcome<Permutation> {
    if differences.is_empty() {
        return Err(Unavailable::Empty);
    }
    finite(differences)?;
    let sizes: Vec<f64> =
        differences.iter().filter(|&&d| d != 0.0).map(|difference| difference.abs()).collect();
    let observed = differences.iter().sum::<f64>().abs();
    // Sums in different orders differ in their last digits; what is equal must count as equal.
    let reached = observed - 1e-9 * sizes.iter().sum::<f64>();
    let exact = sizes.len() <= EXACT;
    let p = if exact {
        let assignments = 1u64 << sizes.len();
        let extreme = (0..assignments)
            .into_par_iter()
            .filter(|&signs| signed_sum(&sizes, |at| signs >> at & 1 == 1).abs() >= reached)
            .count();
        extreme as f64 / assignments as f64
    } else {
        let extreme = (0..DRAWS)
            .into_par_iter()
            .filter(|&draw| random_sum(&sizes, Stream::new(key, draw)).abs() >= reached)
            .count();
        (extreme + 1) as f64 / (DRAWS + 1) as f64
    };
    let mean = mean(differences.iter().copied());
    Ok(Permutation { mean, p, items: differences.len(), exact })
}

fn signed_sum(sizes: &[f64], minus: impl Fn(usize) -> bool) -> f64 {
    sizes.iter().enumerate().map(|(at, size)| if minus(at) { -size } else { *size }).sum()
}

/// One random bit an item.
fn random_sum(sizes: &[f64], mut stream: Stream) -> f64 {
    let words = sizes.chunks(64).map(|chunk| {
        let bits = stream.bits();
        signed_sum(chunk, |at| bits >> at & 1 == 1)
    });
    words.sum()
}

/// McNemar's test of two systems on the same items, each right or wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct McNemar {
    /// Items that the first alone has right.
    pub first_only: u64,
    /// Items that the second alone has right.
    pub second_only: u64,
    /// Two-sided p of the exact binomial test: never too small, often too large.
    pub exact: f64,
    /// Two-sided mid-p: close to its level, the one to read.
    pub mid_p: f64,
}

/// Tests from the discordant pairs; both p are 1 where there are none.
pub fn mcnemar(first_only: u64, second_only: u64) -> McNemar {
    let (pairs, fewer) = (first_only + second_only, first_only.min(second_only));
    let (tail, point) = match Binomial::new(0.5, pairs) {
        Ok(binomial) if pairs > 0 => (binomial.cdf(fewer), binomial.pmf(fewer)),
        _ => (1.0, 0.0),
    };
    let exact = (2.0 * tail).min(1.0);
    let mid_p = if first_only == second_only { 1.0 - point / 2.0 } else { 2.0 * tail - point };
    McNemar { first_only, second_only, exact, mid_p: mid_p.clamp(0.0, 1.0) }
}
