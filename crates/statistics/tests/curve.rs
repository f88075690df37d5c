//! Curves along n: beside scipy's least squares, and on planted shapes.

#[path = "common/random.rs"]
mod random;

use random::Random;
use rayon::prelude::*;
use serde_json::Value;
use statistics::{
    Fit, LevelsOff, Response, Series, Shape, Unavailable, choose, fit, levels_off, quantile,
};

const GRID: [f64; 8] = [0.0, 100.0, 200.0, 400.0, 800.0, 1000.0, 2000.0, 5000.0];

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|one| one.as_f64().unwrap()).collect()
}

/// Scores of a curve on the grid, with independent errors.
fn scores(curve: impl Fn(f64) -> f64, error: f64, random: &mut Random) -> Series {
    let value = GRID.iter().map(|&n| curve(n) + error * random.normal()).collect();
    Series { n: GRID.to_vec(), value, covariance: None }
}

/// The same with the errors known.
fn known(series: Series, error: f64) -> Series {
    let row = |at: usize| (0..8).map(|other| f64::from(at == other) * error * error).collect();
    Series { covariance: Some((0..8).map(row).collect()), ..series }
}

#[test]
fn fits_are_those_of_scipy() {
    let all: Value = serde_json::from_str(include_str!("fixtures/reference.json")).unwrap();
    for case in all["curve"].as_array().unwrap() {
        let covariance =
            case["covariance"].as_array().map(|rows| rows.iter().map(numbers).collect());
        let series = Series { n: numbers(&case["n"]), value: numbers(&case["value"]), covariance };
        let shapes = [
            ("constant", Shape::Constant),
            ("log-linear", Shape::LogLinear),
            ("saturating", Shape::Saturating),
            ("segmented", Shape::Segmented),
        ];
        let mut criteria = Vec::new();
        for (name, shape) in shapes {
            let (found, expected) = (fit(&series, shape).unwrap(), &case["fits"][name]);
            criteria.push((expected["criterion"].as_f64().unwrap(), shape));
            let residual = expected["residual"].as_f64().unwrap();
            // scipy's search is local: it may stop at a worse break.
            assert!(found.residual <= residual * 1.0001, "{name}: {found:?} {expected}");
            if found.residual > residual * 0.9999 {
                let criterion = expected["criterion"].as_f64().unwrap();
                assert!((found.criterion - criterion).abs() < 2e-3, "{name}: {found:?}");
                for (found, expected) in
                    found.parameters.iter().zip(numbers(&expected["parameters"]))
                {
                    let close = (found - expected).abs() < 2e-3 * expected.abs().max(0.01);
                    assert!(close, "{name}: {found} for {expected}");
                }
            }
        }
        criteria.sort_by(|a, b| a.0.total_cmp(&b.0));
        let choice = choose(&series).unwrap();
        assert_eq!(choice.best.shape, criteria[0].1);
        let weights: f64 = choice.fits.iter().map(|one| one.1).sum();
        assert!((weights - 1.0).abs() < 1e-12);
    }
}

#[test]
fn where_more_data_stop_helping_is_a_result_of_three_kinds() {
    let mut random = Random::new(3);
    let of = |series: &Series| levels_off(series, &choose(series).unwrap(), 0.95).unwrap();
    let saturating = scores(|n| 0.4 + 0.3 * (1.0 - (-n / 300.0).exp()), 0.004, &mut random);
    let LevelsOff::At { n, low, high: Some(high) } = of(&saturating) else {
        panic!("{:?}", of(&saturating))
    };
    // 95 % of the rise is done at 300 · ln 20 = 899.
    assert!(low < 899.0 && 899.0 < high && low < n && n < high, "{low} {n} {high}");
    let rising = scores(|n| 0.4 + 0.05 * (1.0 + n / 100.0).ln(), 0.004, &mut random);
    assert_eq!(of(&rising), LevelsOff::NotWithinGrid { last: 5000.0 });
    let straight = scores(|n| 0.4 + 0.00005 * n, 0.004, &mut random);
    assert_eq!(of(&straight), LevelsOff::NotWithinGrid { last: 5000.0 });
    let flat = scores(|_| 0.4, 0.004, &mut random);
    assert_eq!(of(&flat), LevelsOff::Flat);
}

#[test]
fn too_few_points_are_named() {
    let series = |n: &[f64], value: &[f64]| Series {
        n: n.to_vec(),
        value: value.to_vec(),
        covariance: None,
    };
    let three = series(&[0.0, 100.0, 400.0], &[0.1, 0.2, 0.3]);
    let needed = Unavailable::TooFew { what: "points along n", found: 3, needed: 4 };
    assert_eq!(choose(&three), Err(needed));
    let five = series(&[0.0, 100.0, 200.0, 400.0, 800.0], &[0.1, 0.173, 0.215, 0.269, 0.331]);
    let choice = choose(&five).unwrap();
    assert_eq!(choice.best.shape, Shape::LogLinear);
    assert_eq!(choice.left_out.len(), 2);
    let twice = choose(&series(&[0.0, 5.0, 5.0, 9.0], &[0.1; 4])).unwrap_err();
    assert_eq!(twice.to_string(), "an n given twice cannot be 5");
    assert!(choose(&series(&[0.0], &[1.0])).is_err());
    assert!(choose(&series(&[], &[])).is_err());
    assert!(choose(&series(&[0.0, 1.0], &[f64::NAN, 1.0])).is_err());
    // All equal: constant, and nothing breaks.
    let equal = series(&GRID, &[0.3; 8]);
    assert_eq!(choose(&equal).unwrap().best.shape, Shape::Constant);
}

/// Planted plateaus are held by their 95 % intervals, and noise is not taken for a curve. Three
/// standard errors of the counts; the larger run is `examples/coverage.rs`.
#[test]
fn plateaus_are_held_and_noise_stays_flat() {
    let simulations = 300u64;
    let error = 0.01;
    let one = |simulation: u64| {
        let mut random = Random::new(simulation);
        let plateau = |n: f64| 0.4 + 0.3 * (1.0 - (-n / 400.0).exp());
        let rising = known(scores(plateau, error, &mut random), error);
        let found = levels_off(&rising, &choose(&rising).unwrap(), 0.95).unwrap();
        let truth = 400.0 * 20f64.ln();
        let held = match found {
            LevelsOff::At { low, high, .. } => {
                low <= truth && high.is_none_or(|high| truth <= high)
            }
            _ => false,
        };
        let flat = known(scores(|_| 0.5, error, &mut random), error);
        (held, choose(&flat).unwrap().best.shape != Shape::Constant)
    };
    let all: Vec<(bool, bool)> = (0..simulations).into_par_iter().map(one).collect();
    let held = all.iter().filter(|one| one.0).count() as f64 / simulations as f64;
    let alarms = all.iter().filter(|one| one.1).count() as f64 / simulations as f64;
    let error = (0.95f64 * 0.05 / simulations as f64).sqrt();
    assert!(held > 0.95 - 3.0 * error, "{held}");
    assert!(alarms < 0.05 + 3.0 * error, "{alarms}");
}

#[test]
fn an_expected_score_has_the_interval_of_its_draws() {
    let curve = |n: f64| 0.4 + 0.3 * (1.0 - (-n / 400.0).exp());
    let mut random = Random::new(8);
    let error = 0.004;
    let series = known(scores(curve, error, &mut random), error);
    let draws: Vec<Vec<f64>> = series
        .value
        .iter()
        .map(|value| (0..2000).map(|_| value + error * random.normal()).collect())
        .collect();
    let response = Response::new(&series, &draws).unwrap();
    assert_eq!(response.choice().best.shape, Shape::Saturating);
    let found = response.at(600.0, 0.95).unwrap();
    assert!(found.within_grid && found.interval.contains(curve(600.0)), "{found:?}");
    // A point of the grid alone would have ± 1.96 · 0.004; the curve has the others to lean on.
    assert!(found.interval.width() < 0.0157 && found.interval.width() > 0.004, "{found:?}");
    assert!(!response.at(9000.0, 0.95).unwrap().within_grid);
    let mut at = response.draws_at(600.0);
    at.sort_by(f64::total_cmp);
    assert_eq!(quantile(&at, 0.025), found.interval.low);
    assert!(response.at(-1.0, 0.95).is_err());
    assert!(Response::new(&series, &draws[..3]).is_err());
    let flat: Fit = fit(&series, Shape::Constant).unwrap();
    assert_eq!(flat.at(0.0), flat.at(5000.0));
}
