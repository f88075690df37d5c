//! Rank correlation with its n and a permutation p: Spearman's ρ (1904), ties by mean ranks.
//!
//! With eight grid points a ρ of .67 has p = .08: a ρ without its n and p says little. The p is
//! exact (every order of one side) for n ≤ 9, else from 99,999 random orders.

use rayon::prelude::*;
use serde::Serialize;

use crate::random::{Key, Stream};
use crate::unavailable::{Outcome, Unavailable, same_length};

/// So many pairs are enumerated: 9! = 362,880 orders.
const EXACT: usize = 9;
const DRAWS: u64 = 99_999;

/// Spearman's rank correlation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spearman {
    /// From −1 to 1.
    pub rho: f64,
    /// Pairs.
    pub n: usize,
    /// Two-sided permutation p of "no association".
    pub p: f64,
    /// Whether every order was looked at.
    pub exact: bool,
}

/// Rank correlation of pairs; pairs in which a side is not a finite number are left out.
///
/// # Errors
/// Fewer than three pairs, lists of different lengths, or one side all equal.
pub fn spearman(x: &[f64], y: &[f64], key: Key) -> Outcome<Spearman> {
    same_length("the two sides of the pairs", x.len(), y.len())?;
    let (x, y): (Vec<f64>, Vec<f64>) =
        x.iter().zip(y).filter(|(x, y)| x.is_finite() && y.is_finite()).unzip();
    let n = x.len();
    if n < 3 {
        return Err(Unavailable::TooFew { what: "pairs", found: n, needed: 3 });
    }
    let (x, y) = (centred_ranks(&x), centred_ranks(&y));
    let scale = (dot(&x, &x) * dot(&y, &y)).sqrt();
    if scale == 0.0 {
        return Err(Unavailable::AllEqual);
    }
    let rho = dot(&x, &y) / scale;
    // Ranks are halves, so products differ by 1/4 or not at all.
    let reached = dot(&x, &y).abs() - 1e-6;
    let exact = n <= EXACT;
    let p = if exact {
        let (extreme, orders) = enumerate(&x, &y, reached);
        extreme as f64 / orders as f64
    } else {
        let extreme = |&draw: &u64| {
            let mut order = y.clone();
            Stream::new(key, draw).shuffle(&mut order);
            dot(&x, &order).abs() >= reached
        };
        let extreme = (0..DRAWS).into_par_iter().filter(extreme).count();
        (extreme + 1) as f64 / (DRAWS + 1) as f64
    };
    Ok(Spearman { rho, n, p, exact })
}

/// Ranks less their mean; equal values share the mean of their ranks.
fn centred_ranks(values: &[f64]) -> Vec<f64> {
    let centre = (values.len() + 1) as f64 / 2.0;
    let rank = |value: &f64| {
        let below = values.iter().filter(|other| *other < value).count();
        let equal = values.iter().filter(|other| *other == value).count();
        below as f64 + (equal + 1) as f64 / 2.0 - centre
    };
    values.iter().map(rank).collect()
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// Every order of `y` by Heap's algorithm (1963): how many reach the bound, of how many.
fn enumerate(x: &[f64], y: &[f64], reached: f64) -> (u64, u64) {
    let mut order = y.to_vec();
    let mut state = vec![0; order.len()];
    let count = |order: &[f64]| u64::from(dot(x, order).abs() >= reached);
    let (mut extreme, mut orders, mut at) = (count(&order), 1, 0);
    while at < order.len() {
        if state[at] < at {
            order.swap(if at % 2 == 0 { 0 } else { state[at] }, at);
            extreme += count(&order);
            orders += 1;
            state[at] += 1;
            at = 0;
        } else {
            state[at] = 0;
            at += 1;
        }
    }
    (extreme, orders)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_share_their_rank() {
        let ranks = centred_ranks(&[3.0, 1.0, 3.0, 2.0]);
        assert_eq!(ranks, [1.0, -1.5, 1.0, -0.5]);
    }
}
