//! Our numbers beside those of scipy and statsmodels (`fixtures/reference.py` made the file).

use serde_json::Value;
use statistics::{Unavailable, benjamini_hochberg, holm, mcnemar, permutation, spearman, wilson};

const KEY: [u8; 32] = [1; 32];

fn cases(method: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("fixtures/reference.json")).unwrap();
    all[method].as_array().unwrap().clone()
}

fn number(case: &Value, name: &str) -> f64 {
    case[name].as_f64().unwrap()
}

fn numbers(case: &Value, name: &str) -> Vec<f64> {
    case[name].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

#[track_caller]
fn close(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance, "{found} for {expected}");
}

/// An exact p agrees to the last digits; two drawn ones within five standard errors.
#[track_caller]
fn same_p(found: f64, expected: f64, exact: bool) {
    let error = (expected * (1.0 - expected) * (1.0 / 1e5 + 1.0 / 5e4)).sqrt();
    close(found, expected, if exact { 1e-9 } else { 5.0 * error });
}

#[test]
fn wilson_is_that_of_statsmodels() {
    for case in cases("wilson") {
        let (hits, trials) = (number(&case, "hits"), number(&case, "trials"));
        let interval = wilson(hits / trials, trials as usize, number(&case, "confidence")).unwrap();
        close(interval.low, number(&case, "low"), 1e-9);
        close(interval.high, number(&case, "high"), 1e-9);
    }
}

#[test]
fn adjusted_p_values_are_those_of_statsmodels() {
    for case in cases("multiplicity") {
        let p = numbers(&case, "p");
        for (method, found) in [("holm", holm(&p)), ("benjamini_hochberg", benjamini_hochberg(&p))]
        {
            for (found, expected) in found.into_iter().zip(numbers(&case, method)) {
                close(found, expected, 1e-12);
            }
        }
    }
}

#[test]
fn p_values_that_are_not_numbers_do_not_count() {
    let p = [0.01, f64::NAN, 0.02];
    for adjusted in [holm(&p), benjamini_hochberg(&p)] {
        assert_eq!((adjusted[0], adjusted[2]), (0.02, 0.02));
        assert!(adjusted[1].is_nan());
    }
    assert!(holm(&[]).is_empty());
}

#[test]
fn mcnemar_is_that_of_statsmodels() {
    for case in cases("mcnemar") {
        let count = |name| case[name].as_u64().unwrap();
        let found = mcnemar(count("first"), count("second"));
        close(found.exact, number(&case, "exact"), 1e-12);
        close(found.mid_p, number(&case, "mid_p"), 1e-12);
    }
}

#[test]
fn permutation_p_is_that_of_scipy() {
    for case in cases("permutation") {
        let found = permutation(&numbers(&case, "differences"), KEY).unwrap();
        assert_eq!(found.exact, case["exact"].as_bool().unwrap());
        same_p(found.p, number(&case, "p"), found.exact);
    }
}

#[test]
fn spearman_and_its_p_are_those_of_scipy() {
    for case in cases("spearman") {
        let found = spearman(&numbers(&case, "x"), &numbers(&case, "y"), KEY).unwrap();
        assert_eq!(found.exact, case["exact"].as_bool().unwrap());
        close(found.rho, number(&case, "rho"), 1e-12);
        same_p(found.p, number(&case, "p"), found.exact);
    }
}

#[test]
fn eight_grid_points_and_a_rho_of_two_thirds_are_no_evidence() {
    let n: Vec<f64> = (1..=8).map(f64::from).collect();
    let found = spearman(&n, &[4.0, 3.0, 2.0, 1.0, 7.0, 6.0, 5.0, 8.0], KEY).unwrap();
    close(found.rho, 2.0 / 3.0, 1e-12);
    // Every order, counted with itertools and numpy; Student's approximation says .07.
    close(found.p, 0.083_085_317_460_317_46, 1e-9);
}

#[test]
fn what_cannot_be_tested_says_why() {
    assert_eq!(permutation(&[], KEY), Err(Unavailable::Empty));
    assert_eq!(permutation(&[1.0, f64::NAN], KEY), Err(Unavailable::NotFinite));
    assert_eq!(permutation(&[0.0; 5], KEY).unwrap().p, 1.0);
    assert_eq!(spearman(&[1.0, 2.0, 3.0], &[5.0; 3], KEY), Err(Unavailable::AllEqual));
    let few = spearman(&[1.0, 2.0, f64::NAN], &[1.0, 2.0, 3.0], KEY).unwrap_err();
    assert_eq!(few.to_string(), "2 pairs, and at least 3 are needed");
    assert_eq!(wilson(0.5, 0, 0.95), Err(Unavailable::Empty));
    assert!(wilson(1.5, 10, 0.95).is_err() && wilson(f64::NAN, 10, 0.95).is_err());
    assert!(wilson(0.5, 10, 1.0).is_err());
}
