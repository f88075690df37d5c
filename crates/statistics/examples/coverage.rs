//! How often intervals hold the planted truth, and how often flags are raised on pure noise:
//! `cargo run --release -p statistics --example coverage`. Its output is kept in `benches/runs`.

#[path = "../tests/common/mod.rs"]
mod planted;

use planted::{Planted, Random, key};
use rayon::prelude::*;
use statistics::{Method, Options, RunSpread, Runs, Statistic};

const SIMULATIONS: u64 = 2000;
const DRAWS: usize = 1000;

fn main() {
    intervals();
}

/// Coverage of 95 % intervals of a mean, a difference and a ratio.
fn intervals() {
    println!(
        "## Coverage of 95 % intervals, in percent ({SIMULATIONS} simulations, {DRAWS} draws, ± 1.0)\n"
    );
    println!(
        "| scores | items | runs | sd of runs | mean: percentile | BCa | difference: percentile | BCa | pooled runs | ratio: BCa | mean width of difference | pooled |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    let continuous =
        Planted { items: 100, seeds: 3, item: 1.0, run: 0.0, noise: 1.0, binary: false };
    let binary = Planted { binary: true, item: 1.5, noise: 0.5, ..continuous };
    for (seeds, run) in
        [(1, 0.0), (2, 0.0), (2, 0.1), (2, 0.5), (3, 0.0), (3, 0.1), (3, 0.2), (3, 0.5), (5, 0.2)]
    {
        coverage("continuous", Planted { seeds, run, ..continuous }, 4.0, 5.0);
    }
    for (seeds, run) in [(1, 0.0), (3, 0.0), (3, 0.2)] {
        coverage("binary", Planted { seeds, run, ..binary }, 0.0, 1.0);
        coverage("binary, rare", Planted { seeds, run, ..binary }, -4.0, -3.0);
    }
    coverage("continuous", Planted { items: 20, run: 0.2, ..continuous }, 4.0, 5.0);
    coverage("continuous", Planted { items: 250, run: 0.1, ..continuous }, 4.0, 5.0);
}

fn coverage(name: &str, planted: Planted, low: f64, high: f64) {
    let (a, b) = (truth(&planted, low), truth(&planted, high));
    let mean = Statistic::cell(1);
    let difference = Statistic::cell(1).minus(Statistic::cell(0));
    let ratio = Statistic::ratio(Statistic::cell(1), Statistic::cell(0));
    let percentile = Options { method: Method::Percentile, ..Options::default() };
    let bca = Options::default();
    let one = |simulation: u64| {
        let mut random = Random::new(simulation);
        // Two cells to compare, and six more of the same design that lend their runs.
        let sample = planted.sample(&[low, high, low, low, low, high, high, high], &mut random);
        let draws = sample.draw(DRAWS, key(&mut random)).unwrap();
        let cells: Vec<Statistic> = (0..8).map(Statistic::cell).collect();
        let spread = draws.run_spread(&cells).map(RunSpread::of_difference);
        let pooled = Options { runs: spread.map_or(Runs::Own, Runs::Pooled), ..bca };
        let cases = [
            (&mean, percentile, b),
            (&mean, bca, b),
            (&difference, percentile, b - a),
            (&difference, bca, b - a),
            (&difference, pooled, b - a),
            (&ratio, bca, b / a),
        ];
        cases.map(|(statistic, options, truth)| {
            let interval = draws.estimate(statistic, options).and_then(|found| found.interval);
            interval.map_or((f64::NAN, f64::NAN), |interval| {
                (f64::from(u8::from(interval.contains(truth))), interval.width())
            })
        })
    };
    let all: Vec<[(f64, f64); 6]> = (0..SIMULATIONS).into_par_iter().map(one).collect();
    let rate = |case: usize| {
        let known: Vec<f64> = all.iter().map(|one| one[case].0).filter(|x| !x.is_nan()).collect();
        format!("{:.1}", 100.0 * known.iter().sum::<f64>() / known.len() as f64)
    };
    let width = |case: usize| {
        let mut widths: Vec<f64> =
            all.iter().map(|one| one[case].1).filter(|x| !x.is_nan()).collect();
        widths.sort_by(f64::total_cmp);
        format!("{:.3}", statistics::quantile(&widths, 0.5))
    };
    let rates: Vec<String> = (0..6).map(rate).collect();
    println!(
        "| {name} | {} | {} | {} | {} | {} | {} |",
        planted.items,
        planted.seeds,
        planted.run,
        rates.join(" | "),
        width(3),
        width(4)
    );
}

/// The true value of a cell: of binary scores the mean over items and runs.
fn truth(planted: &Planted, mean: f64) -> f64 {
    if !planted.binary {
        return mean;
    }
    let spread = (planted.item.powi(2) + planted.run.powi(2) + planted.noise.powi(2)).sqrt();
    let (steps, reach) = (2000, 8.0);
    let at = |step: i32| {
        let z = reach * (2.0 * (f64::from(step) + 0.5) / f64::from(steps) - 1.0);
        let weight = (-z * z / 2.0).exp();
        (weight, weight / (1.0 + (-(mean + spread * z)).exp()))
    };
    let (weights, sum) =
        (0..steps).map(at).fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    sum / weights
}
