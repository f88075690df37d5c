//! Variance components: beside published ones, statsmodels and closed forms, and on planted data.

#[path = "common/random.rs"]
mod random;

use random::Random;
use rayon::prelude::*;
use serde_json::Value;
use statistics::{Decomposition, Factor, Unavailable, decompose};

const KEY: [u8; 32] = [9; 32];

fn factor(name: &str, levels: impl IntoIterator<Item = u32>) -> Factor {
    Factor { name: name.into(), levels: levels.into_iter().collect() }
}

#[track_caller]
fn variance(found: &Decomposition, term: &str) -> f64 {
    let component = found.components.iter().find(|component| component.term == term);
    component.unwrap_or_else(|| panic!("no {term} in {found:?}")).variance
}

/// Davies' yields of dyestuff by batch, and Box and Tiao's made-up second set: variances as Bates'
/// lme4 (2010, section 1.3) gives them.
#[test]
fn one_factor_is_that_of_lme4() {
    let yields = [
        1545.0, 1440.0, 1440.0, 1520.0, 1580.0, 1540.0, 1555.0, 1490.0, 1560.0, 1495.0, 1595.0,
        1550.0, 1605.0, 1510.0, 1560.0, 1445.0, 1440.0, 1595.0, 1465.0, 1545.0, 1595.0, 1630.0,
        1515.0, 1635.0, 1625.0, 1520.0, 1455.0, 1450.0, 1480.0, 1445.0,
    ];
    let batch = factor("batch", (0..30).map(|at| at / 5));
    let found = decompose(&yields, std::slice::from_ref(&batch), 2, 0.95, KEY).unwrap();
    assert_eq!(found.method, "ANOVA");
    assert!((variance(&found, "batch") - 1764.05).abs() < 0.01);
    assert!((variance(&found, "between runs") - 2451.25).abs() < 0.01);

    let second = [
        7.298, 3.846, 2.434, 9.566, 7.990, 5.220, 6.556, 0.608, 11.788, -0.892, 0.110, 10.386,
        13.434, 5.510, 8.166, 2.212, 4.852, 7.092, 9.288, 4.980, 0.282, 9.014, 4.458, 9.446, 7.198,
        1.722, 4.782, 8.106, 0.758, 3.758,
    ];
    let found = decompose(&second, &[batch], 2, 0.95, KEY).unwrap();
    assert_eq!(found.method, "REML");
    assert_eq!(variance(&found, "batch"), 0.0);
    assert!((variance(&found, "between runs") - 13.806).abs() < 0.01);
}

#[test]
fn crossed_factors_are_those_of_statsmodels() {
    let cases: Value = serde_json::from_str(include_str!("fixtures/variance.json")).unwrap();
    for case in cases.as_array().unwrap() {
        let values: Vec<f64> =
            case["y"].as_array().unwrap().iter().map(|one| one.as_f64().unwrap()).collect();
        let named = case["factors"].as_object().unwrap();
        let factors: Vec<Factor> = named
            .iter()
            .map(|(name, levels)| {
                let levels = levels.as_array().unwrap();
                factor(name, levels.iter().map(|level| level.as_u64().unwrap() as u32))
            })
            .collect();
        let order = case["order"].as_u64().unwrap() as usize;
        let found = decompose(&values, &factors, order, 0.95, KEY).unwrap();
        assert_eq!(found.method, case["kind"].as_str().unwrap());
        let total: f64 = found.components.iter().map(|one| one.variance).sum();
        for (term, expected) in case["components"].as_object().unwrap() {
            let spelled: Vec<String> = term.chars().map(String::from).collect();
            let name = match term.as_str() {
                "e" => found.components.last().unwrap().term.clone(),
                term if term.len() > order && term.len() > 1 => "further interactions".into(),
                _ => spelled.join(" × "),
            };
            let expected = expected.as_f64().unwrap();
            let tolerance = if found.method == "ANOVA" { 1e-9 } else { 2e-3 * total };
            let got = variance(&found, &name);
            assert!((got - expected).abs() < tolerance, "{name}: {got} for {expected}");
        }
        let shares: f64 = found.components.iter().map(|one| one.share).sum();
        assert!((shares - 1.0).abs() < 1e-9);
        assert!(found.components.iter().all(|one| one.interval.contains(one.share)));
    }
}

/// A balanced design that loses one observation goes by another method and says nearly the same.
#[test]
fn both_methods_agree() {
    let mut random = Random::new(4);
    let (values, factors) = planted(&[6, 7], 3, [0.7, 0.5, 0.4, 0.5], &mut random);
    let balanced = decompose(&values, &factors, 2, 0.95, KEY).unwrap();
    let fewer: Vec<Factor> =
        factors.iter().map(|one| factor(&one.name, one.levels[1..].iter().copied())).collect();
    let unbalanced = decompose(&values[1..], &fewer, 2, 0.95, KEY).unwrap();
    assert_eq!((balanced.method, unbalanced.method), ("ANOVA", "REML"));
    for (a, b) in balanced.components.iter().zip(&unbalanced.components) {
        assert!((a.share - b.share).abs() < 0.03, "{a:?} {b:?}");
        assert!((a.interval.high - b.interval.high).abs() < 0.15, "{a:?} {b:?}");
    }
}

/// Two crossed factors: standard deviations of the first, the second, their interaction, runs.
fn planted(
    levels: &[u32; 2],
    runs: usize,
    deviations: [f64; 4],
    random: &mut Random,
) -> (Vec<f64>, Vec<Factor>) {
    let [first, second, both, rest] = deviations;
    let a: Vec<f64> = (0..levels[0]).map(|_| first * random.normal()).collect();
    let b: Vec<f64> = (0..levels[1]).map(|_| second * random.normal()).collect();
    let (mut values, mut of_a, mut of_b) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..levels[0] {
        for j in 0..levels[1] {
            let cell = a[i as usize] + b[j as usize] + both * random.normal();
            for _ in 0..runs {
                values.push(cell + rest * random.normal());
                of_a.push(i);
                of_b.push(j);
            }
        }
    }
    (values, vec![factor("mixture", of_a), factor("language", of_b)])
}

/// 90 % intervals hold planted shares at that rate or above, to three standard errors of the count:
/// those of a share near 0 or 1 hold more.
#[test]
fn planted_shares_are_held_by_their_intervals() {
    let simulations = 150;
    let deviations = [0.5, 0.7, 0.3, 0.4];
    let total: f64 = deviations.iter().map(|one| one * one).sum();
    let one = |simulation: u64| {
        let mut random = Random::new(simulation);
        let (values, factors) = planted(&[8, 11], 2, deviations, &mut random);
        let found = decompose(&values, &factors, 2, 0.9, KEY).unwrap();
        let held =
            |at: usize| found.components[at].interval.contains(deviations[at].powi(2) / total);
        [0, 1, 2, 3].map(|at| f64::from(held(at)))
    };
    let all: Vec<[f64; 4]> = (0..simulations).into_par_iter().map(one).collect();
    for at in 0..4 {
        let held = all.iter().map(|one| one[at]).sum::<f64>() / simulations as f64;
        let error = (0.9f64 * 0.1 / simulations as f64).sqrt();
        assert!(held > 0.9 - 3.0 * error, "component {at}: {held}");
    }
}

#[test]
fn what_cannot_be_told_apart_is_named() {
    let languages = factor("language", [0, 1, 2, 0, 1, 2]);
    let scripts = factor("script", [0, 0, 1, 0, 0, 1]);
    let models = factor("model", [7; 6]);
    let values = [0.3, 0.5, 0.9, 0.35, 0.45, 0.8];
    let all = [languages.clone(), scripts.clone(), models];
    let found = decompose(&values, &all, 2, 0.95, KEY).unwrap();
    let said: Vec<String> =
        found.left_out.iter().map(|(term, reason)| format!("{term}: {reason}")).collect();
    assert_eq!(
        said,
        [
            "model: 1 levels, and at least 2 are needed",
            "language × script: cannot be told apart from language",
        ]
    );
    // Without repeated runs the highest interaction is chance's.
    let once = [factor("language", [0, 1, 2, 0, 1, 2]), factor("mixture", [0, 0, 0, 1, 1, 1])];
    let found = decompose(&values, &once, 2, 0.95, KEY).unwrap();
    assert_eq!(found.components.last().unwrap().term, "further interactions and runs");
    assert!(found.left_out.iter().any(|one| one.1 == Unavailable::NoReplicates));

    assert_eq!(decompose(&[], &[], 2, 0.95, KEY), Err(Unavailable::Empty));
    assert!(decompose(&values, &[], 2, 0.95, KEY).is_err());
    assert_eq!(decompose(&[0.5; 6], &all, 2, 0.95, KEY), Err(Unavailable::AllEqual));
    let nan = [0.3, f64::NAN, 0.9, 0.35, 0.45, 0.8];
    assert_eq!(decompose(&nan, &all, 2, 0.95, KEY), Err(Unavailable::NotFinite));
    let alone = [factor("run", 0..6)];
    assert_eq!(decompose(&values, &alone, 2, 0.95, KEY), Err(Unavailable::NoReplicates));
    let short = [factor("language", [0, 1])];
    assert!(matches!(decompose(&values, &short, 2, 0.95, KEY), Err(Unavailable::Lengths { .. })));
}
