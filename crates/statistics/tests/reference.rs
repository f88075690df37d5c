//! Our numbers beside those of scipy and statsmodels (`fixtures/reference.py` made the file).

use serde_json::Value;
use statistics::{
    Needed, Noise, Unavailable, benjamini_hochberg, fieller, holm, items_needed, line, mcnemar,
    permutation, ratio_of_means, seeds_needed, smallest_detectable, spearman, tost, wilson,
};

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

#[test]
fn fiellers_ends_are_where_a_t_test_just_rejects() {
    for case in cases("ratio") {
        let pairs: Vec<(f64, f64)> =
            numbers(&case, "first").into_iter().zip(numbers(&case, "second")).collect();
        let found = ratio_of_means(&pairs, number(&case, "confidence")).unwrap();
        close(found.interval.low, number(&case, "low"), 1e-9);
        close(found.interval.high, number(&case, "high"), 1e-9);
    }
}

#[test]
fn a_ratio_over_what_may_be_zero_is_withheld() {
    let withheld = fieller(0.1, 0.05, (0.001, 0.001), 0.0, f64::INFINITY, 0.95).unwrap_err();
    assert!(matches!(withheld, Unavailable::DenominatorSpansZero { .. }));
    assert_eq!(
        withheld.to_string(),
        "the denominator, 0.0500, may be 0 (interval -0.0120 to 0.1120)"
    );
    assert!(fieller(0.1, f64::NAN, (0.001, 0.001), 0.0, 5.0, 0.95).is_err());
    assert!(ratio_of_means(&[(1.0, 2.0)], 0.95).is_err());
    // Certain on both sides: no width.
    let certain = fieller(1.0, 4.0, (0.0, 0.0), 0.0, 5.0, 0.95).unwrap();
    assert_eq!((certain.interval.low, certain.interval.high), (0.25, 0.25));
}

#[test]
fn equivalence_tests_are_those_of_statsmodels() {
    for case in cases("tost") {
        let of = |name| number(&case, name);
        let found = tost(of("value"), of("error"), of("df"), of("margin"), 0.05).unwrap();
        close(found.p, of("p"), 1e-9);
        let within = found.interval.low > -of("margin") && found.interval.high < of("margin");
        assert_eq!(found.equivalent, within);
    }
    assert!(tost(0.0, 0.1, 5.0, 0.0, 0.05).is_err());
    assert_eq!(tost(0.0, 0.0, 5.0, 0.1, 0.05), Err(Unavailable::AllEqual));
}

#[test]
fn a_line_is_that_of_scipy() {
    for case in cases("line") {
        let found = line(&numbers(&case, "x"), &numbers(&case, "y"), 0.95).unwrap();
        for (found, name) in [
            (found.slope, "slope"),
            (found.intercept, "intercept"),
            (found.error, "error"),
            (found.p, "p"),
            (found.interval.low, "low"),
            (found.interval.high, "high"),
        ] {
            close(found, number(&case, name), 1e-9);
        }
    }
    assert_eq!(line(&[0.0, 1.0, 2.0], &[1.0, 2.0, 3.0], 0.95), Err(Unavailable::AllEqual));
    assert!(line(&[0.0, 1.0], &[1.0, 2.0], 0.95).is_err());
}

/// A difference whose error comes from items alone or from runs alone is a one-sample t test.
#[test]
fn smallest_detectable_effects_are_those_of_statsmodels() {
    for case in cases("power") {
        let n = case["n"].as_u64().unwrap() as usize;
        let (alpha, power) = (number(&case, "alpha"), number(&case, "power"));
        let none = Noise {
            item: 0.0,
            run: 0.0,
            run_degrees_of_freedom: 1.0,
            settings: 1,
            interaction: 0.0,
            items: n,
            seeds: n,
        };
        let of_items = Noise { item: 1.0, ..none };
        let of_runs = Noise { run: 1.0, ..none };
        let by_items = smallest_detectable(&of_items, n, 1, alpha, power).unwrap();
        let by_runs = smallest_detectable(&of_runs, 7, n, alpha, power).unwrap();
        close(by_items / number(&case, "effect"), 1.0, 1e-4);
        close(by_runs / number(&case, "effect"), 1.0, 1e-4);
        // And back: so many are needed for that effect, and one fewer would not do.
        let needed = items_needed(&of_items, by_items * 1.000_001, 1, alpha, power).unwrap();
        assert_eq!(needed, Needed::Count(n));
    }
}

#[test]
fn items_cannot_make_up_for_runs() {
    let noise = Noise {
        item: 0.2,
        run: 0.0004,
        run_degrees_of_freedom: 16.0,
        settings: 8,
        interaction: 0.1,
        items: 250,
        seeds: 3,
    };
    let at_hand = smallest_detectable(&noise, 250, 3, 0.05, 0.8).unwrap();
    assert!(at_hand > 2.8 * noise.error(250, 3) && at_hand < 3.1 * noise.error(250, 3));
    let Needed::Never { floor } = items_needed(&noise, 0.02, 3, 0.05, 0.8).unwrap() else {
        panic!("runs alone keep it above")
    };
    assert!(floor > 2.8 * (noise.run / 3.0).sqrt());
    let Needed::Count(seeds) = seeds_needed(&noise, 0.085, 250, 0.05, 0.8).unwrap() else {
        panic!("enough runs do")
    };
    let smallest = |seeds| smallest_detectable(&noise, 250, seeds, 0.05, 0.8).unwrap();
    assert!(smallest(seeds) <= 0.085 && smallest(seeds - 1) > 0.085);
    assert!(seeds_needed(&noise, 0.0, 250, 0.05, 0.8).is_err());
    assert!(smallest_detectable(&noise, 250, 0, 0.05, 0.8).is_err());
}
