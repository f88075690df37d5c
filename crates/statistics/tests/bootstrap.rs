//! The bootstrap beside scipy's, beside closed forms, and on planted data.

#[path = "common/mod.rs"]
mod planted;

use planted::{Planted, Random, key};
use rayon::prelude::*;
use serde_json::Value;
use statistics::{
    Cell, Estimate, Method, Options, Runs, Sample, SeedScores, Statistic, Unavailable, wilson,
};

const KEY: [u8; 32] = [3; 32];

/// A sample whose cells all have the same items: cell by cell, run by run, item by item.
fn sample(cells: &[Vec<Vec<f64>>]) -> Sample {
    let items = cells[0][0].len();
    let mut sample = Sample::new(items);
    let coverage = sample.coverage((0..items as u32).collect(), vec![1; items]).unwrap();
    for runs in cells {
        let seeds = runs.iter().map(|sums| SeedScores::Items { coverage, sums: sums.clone() });
        let binary = runs.iter().flatten().all(|score| [0.0, 1.0].contains(score));
        let range = binary.then_some((0.0, 1.0));
        sample.cell(Cell { seeds: seeds.collect(), range, binary }).unwrap();
    }
    sample
}

/// Cells without items: cell by cell, run by run.
fn aggregates(cells: &[&[f64]]) -> Sample {
    let mut sample = Sample::new(0);
    for runs in cells {
        let seeds = runs.iter().map(|&value| SeedScores::Aggregate(value)).collect();
        sample.cell(Cell { seeds, range: None, binary: false }).unwrap();
    }
    sample
}

fn estimate(sample: &Sample, statistic: &Statistic, options: Options) -> Estimate {
    sample.draw(20_000, KEY).unwrap().estimate(statistic, options).unwrap()
}

fn with(method: Method) -> Options {
    Options { method, ..Options::default() }
}

#[test]
fn intervals_are_those_of_scipy() {
    let all: Value = serde_json::from_str(include_str!("fixtures/reference.json")).unwrap();
    for case in all["bootstrap"].as_array().unwrap() {
        let numbers = |name: &str| -> Vec<f64> {
            case[name].as_array().unwrap().iter().map(|one| one.as_f64().unwrap()).collect()
        };
        let sample = sample(&[vec![numbers("first")], vec![numbers("second")]]);
        let (first, second) = (Statistic::cell(0), Statistic::cell(1));
        let statistic = match case["statistic"].as_str().unwrap() {
            "mean" => first,
            "difference" => first.minus(second),
            _ => Statistic::ratio(first, second),
        };
        for (name, method) in [("percentile", Method::Percentile), ("BCa", Method::Bca)] {
            let found = estimate(&sample, &statistic, with(method)).interval.unwrap();
            let expected = numbers(name);
            // The ends of 20,000 draws scatter by about 1 % of the width.
            let tolerance = 0.03 * (expected[1] - expected[0]);
            assert!(
                (found.low - expected[0]).abs() < tolerance
                    && (found.high - expected[1]).abs() < tolerance,
                "{statistic:?} {name}: {found:?} for {expected:?}"
            );
        }
    }
}

#[test]
fn the_item_error_of_a_mean_is_its_standard_error() {
    let scores = vec![0.1, 0.9, 0.4, 0.7, 0.2, 0.2, 0.8];
    let mean = scores.iter().sum::<f64>() / 7.0;
    let squares: f64 = scores.iter().map(|score| (score - mean).powi(2)).sum();
    let found = estimate(&sample(&[vec![scores]]), &Statistic::cell(0), Options::default());
    assert!((found.item_error - (squares / 6.0 / 7.0).sqrt()).abs() < 1e-12);
    assert_eq!((found.run_error, found.seeds, found.items), (0.0, 1, 7));
    assert!(found.by_seed.is_empty());
}

#[test]
fn runs_without_items_get_students_interval() {
    let runs = [0.30, 0.34, 0.29, 0.35];
    let found = estimate(&aggregates(&[&runs]), &Statistic::cell(0), with(Method::Percentile));
    // scipy.stats.t.interval(0.95, 3, loc=0.32, scale=scipy.stats.sem([.30, .34, .29, .35]))
    let (low, high) = (0.273_155_658_769_676_2, 0.366_844_341_230_323_83);
    let interval = found.interval.unwrap();
    assert!((interval.low - low).abs() < 0.003 && (interval.high - high).abs() < 0.003);
    assert_eq!(found.degrees_of_freedom, 3.0);
    assert_eq!(found.by_seed, runs);
}

#[test]
fn a_difference_of_runs_is_paired_by_their_place() {
    // The runs differ a lot, their differences hardly: 1.0, 1.1, 0.9.
    let sample = aggregates(&[&[5.0, 3.0, 8.0], &[4.0, 1.9, 7.1]]);
    let difference = Statistic::cell(0).minus(Statistic::cell(1));
    let found = estimate(&sample, &difference, Options::default());
    assert!((found.error() - 0.1 / 3f64.sqrt()).abs() < 1e-12);
    assert!(found.interval.unwrap().low > 0.7 && found.p.unwrap() < 0.01);
}

#[test]
fn draws_do_not_depend_on_threads() {
    let planted = Planted { items: 50, seeds: 3, item: 1.0, run: 0.3, noise: 1.0, binary: false };
    let sample = planted.sample(&[0.0, 1.0], &mut Random::new(5));
    let statistic = Statistic::ratio(Statistic::cell(1), Statistic::mean(&[0, 1]));
    let with_threads = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let draws = sample.draw(997, KEY).unwrap();
            draws.values(std::slice::from_ref(&statistic), Runs::Own).unwrap().remove(0)
        })
    };
    let one = with_threads(1);
    assert_eq!(one.len(), 997);
    assert!(one.iter().zip(with_threads(5)).all(|(a, b)| a.to_bits() == b.to_bits()));
}

#[test]
fn equal_shares_have_wilsons_width_and_equal_scores_none() {
    let ones = vec![vec![1.0; 30]];
    let zeros = vec![vec![0.0; 30]];
    let binary = sample(&[ones.clone(), zeros]);
    let found = estimate(&binary, &Statistic::cell(0), Options::default());
    let (found, expected) = (found.interval.unwrap(), wilson(1.0, 30, 0.95).unwrap());
    assert!((found.low - expected.low).abs() < 1e-12 && (found.high - 1.0).abs() < 1e-12);
    let difference = Statistic::cell(0).minus(Statistic::cell(1));
    let found = estimate(&binary, &difference, Options::default());
    assert_eq!(found.p, Ok(0.5f64.powi(29)));
    let interval = found.interval.unwrap();
    assert!(interval.low < 0.9 && interval.low > 0.8 && interval.high == 1.0, "{interval:?}");
    let same = sample(&[ones.clone(), ones]);
    assert_eq!(estimate(&same, &difference, Options::default()).p, Ok(1.0));
    let equal = sample(&[vec![vec![0.3; 30]]]);
    let found = estimate(&equal, &Statistic::cell(0), Options::default());
    assert_eq!((found.value, found.interval), (0.3, Err(Unavailable::AllEqual)));
}

#[test]
fn a_sample_of_one_outlier_breaks_nothing() {
    for outlier in [-40.0, 40.0] {
        let mut scores = vec![0.10, 0.11, 0.12, 0.13, 0.14];
        scores.push(outlier);
        let found = estimate(&sample(&[vec![scores]]), &Statistic::cell(0), Options::default());
        let (interval, p) = (found.interval.unwrap(), found.p.unwrap());
        assert!(interval.low <= interval.high && interval.width().is_finite(), "{interval:?}");
        assert!(p > 0.0 && p <= 1.0, "{p}");
        assert_eq!(interval.excludes_zero(), p < 0.05, "{interval:?} {p}");
    }
}

#[test]
fn bad_data_are_results() {
    let lone = sample(&[vec![vec![0.5]]]);
    let draws = lone.draw(100, KEY).unwrap();
    let found = draws.estimate(&Statistic::cell(0), Options::default()).unwrap();
    assert_eq!((found.value, found.interval), (0.5, Err(Unavailable::OneItem)));
    assert_eq!(
        draws.noise(&Statistic::cell(0), Runs::Own).unwrap_err(),
        Unavailable::TooFew { what: "items", found: 1, needed: 2 }
    );
    let unknown = draws.estimate(&Statistic::cell(9), Options::default()).unwrap_err();
    assert_eq!(unknown.to_string(), "no cell 9: there are 1");
    assert!(draws.estimate(&Statistic::mean(&[]), Options::default()).is_err());

    let mut empty = Sample::new(4);
    assert_eq!(empty.draw(100, KEY).err(), Some(Unavailable::Empty));
    assert_eq!(empty.coverage(vec![], vec![]), Err(Unavailable::Empty));
    assert!(empty.coverage(vec![1, 1], vec![1, 1]).is_err());
    assert!(empty.coverage(vec![4], vec![1]).is_err());
    assert!(empty.coverage(vec![1], vec![0]).is_err());
    let none = Cell { seeds: vec![], range: None, binary: false };
    assert_eq!(empty.cell(none), Err(Unavailable::Empty));
    let seeds = vec![SeedScores::Aggregate(f64::NAN)];
    let cell = Cell { seeds, range: None, binary: false };
    assert_eq!(empty.cell(cell), Err(Unavailable::NotFinite));

    // English scores 0 in every item: no ratio as observed. In most items: none in many draws.
    let all = sample(&[vec![vec![0.0; 6]], vec![vec![0.0, 0.0, 0.0, 0.0, 0.0, 1.0]]]);
    let draws = all.draw(1000, KEY).unwrap();
    let over = |cell| Statistic::ratio(Statistic::cell(1), Statistic::cell(cell));
    assert_eq!(draws.estimate(&over(0), Options::default()), Err(Unavailable::Undefined));
    let found = draws.estimate(&over(1), Options::default()).unwrap();
    assert_eq!((found.value, found.interval), (1.0, Err(Unavailable::Undefined)));
}

#[test]
fn items_missing_in_one_run_do_not_count_as_zeros() {
    let mut sample = Sample::new(4);
    let all = sample.coverage(vec![0, 1, 2, 3], vec![1; 4]).unwrap();
    let some = sample.coverage(vec![1, 3], vec![1, 2]).unwrap();
    let seeds = vec![
        SeedScores::Items { coverage: all, sums: vec![0.0, 1.0, 1.0, 0.0] },
        SeedScores::Items { coverage: some, sums: vec![1.0, 1.0] },
    ];
    sample.cell(Cell { seeds, range: Some((0.0, 1.0)), binary: true }).unwrap();
    let found = estimate(&sample, &Statistic::cell(0), Options::default());
    assert!((found.value - (0.5 + 2.0 / 3.0) / 2.0).abs() < 1e-12);
    assert_eq!(found.items, 4);
    assert_eq!(sample.item_differences(0, 0).unwrap(), [0.0; 4]);
}

#[test]
fn discordant_items_are_counted_by_side() {
    let first = vec![vec![1.0, 1.0, 0.0, 0.0, 1.0]];
    let second = vec![vec![0.0, 1.0, 1.0, 0.0, 0.0]];
    let found = sample(&[first.clone(), second]);
    assert_eq!(found.discordant(0, 1), Ok((2, 1)));
    assert_eq!(found.item_differences(0, 1).unwrap(), [1.0, 0.0, -1.0, 0.0, 1.0]);
    let two_runs = sample(&[first.clone(), vec![first[0].clone(); 2]]);
    assert_eq!(two_runs.discordant(0, 1), Err(Unavailable::NotBinary));
}

#[test]
fn a_trend_is_the_least_squares_slope() {
    let of: Vec<Statistic> = (0..4).map(Statistic::cell).collect();
    let slope = Statistic::trend(&of, &[0.0, 1.0, 2.0, 4.0]).unwrap();
    // numpy.polyfit([0, 1, 2, 4], [1, 3, 2, 6], 1)[0]
    assert!((slope.of(&[1.0, 3.0, 2.0, 6.0]) - 8.0 / 7.0).abs() < 1e-12);
    assert_eq!(Statistic::trend(&of, &[1.0; 4]), Err(Unavailable::AllEqual));
}

/// Draws of several statistics have the errors, and go together, as the closed form says: runs of
/// one seed together, pooled runs each alone.
#[test]
fn joint_draws_have_the_covariance_of_the_closed_form() {
    let planted = Planted { items: 80, seeds: 12, item: 1.0, run: 0.3, noise: 0.5, binary: false };
    let sample = planted.sample(&[0.0, 1.0], &mut Random::new(6));
    let draws = sample.draw(20_000, KEY).unwrap();
    let cells = [Statistic::cell(0), Statistic::cell(1)];
    for runs in [Runs::Own, Runs::Pooled(draws.run_spread(&cells).unwrap())] {
        let covariance = draws.covariance(&cells, runs).unwrap();
        let values = draws.values(&cells, runs).unwrap();
        let means = [0, 1].map(|at: usize| values[at].iter().sum::<f64>() / 20_000.0);
        let of = |i: usize, j: usize| {
            let products = values[i].iter().zip(&values[j]);
            products.map(|(a, b)| (a - means[i]) * (b - means[j])).sum::<f64>() / 20_000.0
        };
        for (i, j) in [(0, 0), (1, 1), (0, 1)] {
            // Student's variance is d / (d − 2) of the scale; the off-diagonal shares its items.
            let tolerance = 0.25 * covariance.matrix[0][0];
            assert!((of(i, j) - covariance.matrix[i][j]).abs() < tolerance, "{runs:?} {i} {j}");
        }
    }
}

/// 95 % intervals of planted differences hold the truth at their rate: within three standard errors
/// of the count. `examples/coverage.rs` is the larger run.
#[test]
fn intervals_hold_planted_differences_at_their_rate() {
    let simulations = 400;
    let planted = Planted { items: 60, seeds: 3, item: 1.0, run: 0.2, noise: 1.0, binary: false };
    let held = |simulation: u64| {
        let mut random = Random::new(simulation);
        let sample = planted.sample(&[0.0, 0.5, 0.5, 0.5], &mut random);
        let draws = sample.draw(500, key(&mut random)).unwrap();
        let cells: Vec<Statistic> = (0..4).map(Statistic::cell).collect();
        let pooled = Runs::Pooled(draws.run_spread(&cells).unwrap().of_difference());
        let difference = Statistic::cell(1).minus(Statistic::cell(0));
        [Runs::Own, pooled].map(|runs| {
            let options = Options { runs, ..Options::default() };
            let found = draws.estimate(&difference, options).unwrap();
            usize::from(found.interval.unwrap().contains(0.5))
        })
    };
    let held: Vec<[usize; 2]> = (0..simulations).into_par_iter().map(held).collect();
    for method in 0..2 {
        let count = held.iter().map(|one| one[method]).sum::<usize>() as f64;
        let expected = 0.95 * simulations as f64;
        let error = (expected * 0.05).sqrt();
        assert!((count - expected).abs() < 3.0 * error, "{count} of {simulations}");
    }
}
