//! How often intervals hold the planted truth, and how often tests and flags are raised on pure
//! noise. `cargo run --release -p statistics --example coverage`; its output is kept in
//! `benches/runs`.

#[path = "../tests/common/mod.rs"]
mod planted;

use planted::{Planted, Random, key};
use rayon::prelude::*;
use statistics::{
    Draws, Evidence, Factor, LevelsOff, Method, Options, Response, Runs, Series, Statistic,
    Verdict, benjamini_hochberg, choose, decompose, fieller, flag, holm, levels_off, mcnemar,
    permutation, spearman, tost,
};

const SIMULATIONS: u64 = 2000;
const DRAWS: usize = 1000;
const GRID: [f64; 8] = [0.0, 100.0, 200.0, 400.0, 800.0, 1000.0, 2000.0, 5000.0];
const CONTINUOUS: Planted =
    Planted { items: 100, seeds: 3, item: 1.0, run: 0.0, noise: 1.0, binary: false };

fn main() {
    println!(
        "{SIMULATIONS} simulations each, {DRAWS} draws: a rate of 95 % is known to ± 1.0 points, one of 5 % too.\n"
    );
    intervals();
    tests_on_noise();
    flags();
    ratios_and_equivalence();
    plateaus();
    shares();
}

/// One outcome a simulation, each with its own random numbers: column means over those that are
/// numbers.
fn means<const N: usize>(one: impl Fn(&mut Random) -> [f64; N] + Sync) -> [f64; N] {
    let all: Vec<[f64; N]> =
        (0..SIMULATIONS).into_par_iter().map(|seed| one(&mut Random::new(seed))).collect();
    std::array::from_fn(|at| {
        let known: Vec<f64> = all.iter().map(|one| one[at]).filter(|one| !one.is_nan()).collect();
        known.iter().sum::<f64>() / known.len() as f64
    })
}

fn yes(held: bool) -> f64 {
    f64::from(u8::from(held))
}

fn percent(rates: &[f64]) -> String {
    rates.iter().map(|rate| format!("{:.1}", 100.0 * rate)).collect::<Vec<_>>().join(" | ")
}

/// Coverage of 95 % intervals of a mean, a difference and a ratio.
fn intervals() {
    println!("## 95 % intervals that hold the truth, in percent\n");
    println!("`pooled`: the spread from run to run is taken over the eight cells of the design.\n");
    println!(
        "| scores | items | runs | sd of runs | mean: percentile | BCa | difference: percentile | \
         BCa | BCa, pooled | ratio: BCa | mean width of the difference | pooled |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    let binary = Planted { binary: true, item: 1.5, noise: 0.5, ..CONTINUOUS };
    for (seeds, run) in
        [(1, 0.0), (2, 0.0), (2, 0.1), (2, 0.5), (3, 0.0), (3, 0.1), (3, 0.2), (3, 0.5), (5, 0.2)]
    {
        coverage("continuous", Planted { seeds, run, ..CONTINUOUS }, 4.0, 5.0);
    }
    for (seeds, run) in [(1, 0.0), (3, 0.0), (3, 0.2)] {
        coverage("binary", Planted { seeds, run, ..binary }, 0.0, 1.0);
        coverage("binary, rare", Planted { seeds, run, ..binary }, -4.0, -3.0);
    }
    coverage("continuous", Planted { items: 20, run: 0.2, ..CONTINUOUS }, 4.0, 5.0);
    coverage("continuous", Planted { items: 250, run: 0.1, ..CONTINUOUS }, 4.0, 5.0);
    println!();
}

fn coverage(name: &str, planted: Planted, low: f64, high: f64) {
    let (a, b) = (truth(&planted, low), truth(&planted, high));
    let mean = Statistic::cell(1);
    let difference = Statistic::cell(1).minus(Statistic::cell(0));
    let ratio = Statistic::ratio(Statistic::cell(1), Statistic::cell(0));
    let found = means(|random| {
        // Two cells to compare, and six more of the same design that lend their runs.
        let sample = planted.sample(&[low, high, low, low, low, high, high, high], random);
        let draws = sample.draw(DRAWS, key(random)).expect("cells");
        let bca = Options::default();
        let percentile = Options { method: Method::Percentile, ..bca };
        let pooled = Options { runs: pooled(&draws, 8), ..bca };
        let cases = [
            (&mean, percentile, b),
            (&mean, bca, b),
            (&difference, percentile, b - a),
            (&difference, bca, b - a),
            (&difference, pooled, b - a),
            (&ratio, bca, b / a),
        ];
        let found = cases.map(|(statistic, options, truth)| {
            let interval = draws.estimate(statistic, options).and_then(|found| found.interval);
            interval.map_or((f64::NAN, f64::NAN), |one| (yes(one.contains(truth)), one.width()))
        });
        std::array::from_fn::<f64, 8, _>(|at| if at < 6 { found[at].0 } else { found[at - 3].1 })
    });
    println!(
        "| {name} | {} | {} | {} | {} | {:.3} | {:.3} |",
        planted.items,
        planted.seeds,
        planted.run,
        percent(&found[..6]),
        found[6],
        found[7]
    );
}

/// The spread of a difference between two runs, from all cells.
fn pooled(draws: &Draws, cells: usize) -> Runs {
    let cells: Vec<Statistic> = (0..cells).map(Statistic::cell).collect();
    draws.run_spread(&cells).map_or(Runs::Own, |spread| Runs::Pooled(spread.of_difference()))
}

/// Tests of nothing, at 5 %.
fn tests_on_noise() {
    println!("## Tests at 5 % on pure noise: rejected, in percent\n");
    println!(
        "| permutation, 12 items | permutation, 25 | McNemar exact, 60 | mid-p | Spearman, n = 8 |"
    );
    println!("|---|---|---|---|---|");
    let rates = means(|random| {
        let few: Vec<f64> = (0..12).map(|_| random.normal()).collect();
        let more: Vec<f64> = (0..25).map(|_| random.normal() * random.uniform()).collect();
        let (mut first, mut second) = (0, 0);
        for _ in 0..60 {
            let (a, b) = (random.uniform() < 0.4, random.uniform() < 0.4);
            first += u64::from(a && !b);
            second += u64::from(b && !a);
        }
        let mcnemar = mcnemar(first, second);
        let key = key(random);
        let mut side = || (0..8).map(|_| random.normal()).collect::<Vec<f64>>();
        [
            permutation(&few, key).expect("items").p,
            permutation(&more, key).expect("items").p,
            mcnemar.exact,
            mcnemar.mid_p,
            spearman(&side(), &side(), key).expect("pairs").p,
        ]
        .map(|p| yes(p < 0.05))
    });
    println!("| {} |\n", percent(&rates));
}

/// Twelve differences from one baseline, of which none or four are real.
fn flags() {
    println!("## Flags of twelve differences from one baseline, 3 runs, 60 items, in percent\n");
    println!(
        "| sd of runs | real | any false `clear` after Holm | false share of the found after Benjamini–Hochberg | of the real found after Holm | Benjamini–Hochberg |"
    );
    println!("|---|---|---|---|---|---|");
    for (run, real) in [(0.0, 0), (0.1, 0), (0.3, 0), (0.1, 4), (0.3, 4)] {
        let planted = Planted { items: 60, run, ..CONTINUOUS };
        let effects: Vec<f64> =
            (0..13).map(|at| if (1..=real).contains(&at) { 0.7 } else { 0.0 }).collect();
        let rates = means(|random| {
            let sample = planted.sample(&effects, random);
            let draws = sample.draw(DRAWS, key(random)).expect("cells");
            let options = Options { runs: pooled(&draws, 13), ..Options::default() };
            let estimates: Vec<_> = (1..13)
                .map(|cell| Statistic::cell(cell).minus(Statistic::cell(0)))
                .filter_map(|difference| draws.estimate(&difference, options).ok())
                .collect();
            let p: Vec<f64> =
                estimates.iter().map(|one| one.p.clone().unwrap_or(f64::NAN)).collect();
            let clear = |adjusted: Vec<f64>| -> Vec<bool> {
                let judged = estimates.iter().zip(adjusted).map(|(found, p)| {
                    let evidence = Evidence {
                        value: found.value,
                        interval: found.interval.clone(),
                        p_adjusted: Some(p),
                        seeds: found.seeds,
                        run_threshold: None,
                        smallest_detectable: None,
                    };
                    flag(&evidence, 0.05).verdict == Verdict::Clear
                });
                judged.collect()
            };
            let count = |flags: &[bool]| flags.iter().filter(|&&one| one).count() as f64;
            let (by_holm, by_bh) = (clear(holm(&p)), clear(benjamini_hochberg(&p)));
            [
                yes(count(&by_holm[real..]) > 0.0),
                count(&by_bh[real..]) / count(&by_bh).max(1.0),
                count(&by_holm[..real]) / real as f64,
                count(&by_bh[..real]) / real as f64,
            ]
        });
        let shown = if real == 0 {
            format!("{} | – | –", percent(&rates[..2]))
        } else {
            percent(&rates)
        };
        println!("| {run} | {real} | {shown} |");
    }
    println!();
}

/// Fieller's intervals, and equivalence at the margin itself.
fn ratios_and_equivalence() {
    println!(
        "## Ratio .6 with Fieller's interval (12 degrees of freedom), and equivalence tested at the margin\n"
    );
    println!(
        "| denominator / its error | withheld | held where given | equivalence at the margin, α = .05 |"
    );
    println!("|---|---|---|---|");
    for denominator in [0.0, 2.0, 4.0, 10.0] {
        let rates = means(|random| {
            let chi: f64 = (0..12).map(|_| random.normal().powi(2)).sum::<f64>() / 12.0;
            let (a, b) = (random.normal(), random.normal());
            let (num, den) = (0.6 * denominator + 0.5 * a + 0.5 * b, denominator + b);
            let found = fieller(num, den, (0.5 * chi, chi), 0.5 * chi, 12.0, 0.95);
            let held = found.as_ref().map_or(f64::NAN, |one| yes(one.interval.contains(0.6)));
            let equal = tost(1.0 + 0.2 * a, 0.2 * chi.sqrt(), 12.0, 1.0, 0.05);
            [yes(found.is_err()), held, equal.map_or(f64::NAN, |one| yes(one.equivalent))]
        });
        println!("| {denominator} | {} |", percent(&rates));
    }
    println!();
}

/// Where more data stop helping, and what is expected in between.
fn plateaus() {
    println!("## Curves over the study's eight n: percent of simulations\n");
    println!(
        "`held`: the 95 % interval of \"levels off at n\" holds the planted n, where one is given. `expected`: the 95 % interval of the score at n = 600 holds it.\n"
    );
    println!(
        "| planted | error of a score | errors known | levels off | held | no upper end | not within the grid | flat | expected |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let saturating = |n: f64| 0.4 + 0.25 * (1.0 - (-n / 300.0).exp());
    let segmented = |n: f64| 0.4 + 0.25 * n.min(700.0) / 700.0;
    let rising = |n: f64| 0.4 + 0.06 * (n / 100.0).ln_1p();
    let flat = |_: f64| 0.5;
    for error in [0.005, 0.01, 0.03] {
        for known in [true, false] {
            plateau("saturating", &saturating, 300.0 * 20f64.ln(), error, known);
            plateau("segmented", &segmented, 700.0, error, known);
            plateau("log-linear", &rising, f64::NAN, error, known);
            plateau("constant", &flat, f64::NAN, error, known);
        }
    }
    println!();
}

fn plateau(name: &str, curve: &(dyn Fn(f64) -> f64 + Sync), at: f64, error: f64, known: bool) {
    let rates = means(|random| {
        let value: Vec<f64> = GRID.iter().map(|&n| curve(n) + error * random.normal()).collect();
        let row = |i: usize| (0..8).map(|j| yes(i == j) * error * error).collect();
        let covariance = known.then(|| (0..8).map(row).collect());
        let series = Series { n: GRID.to_vec(), value, covariance };
        let draws: Vec<Vec<f64>> = series
            .value
            .iter()
            .map(|value| (0..200).map(|_| value + error * random.normal()).collect())
            .collect();
        let response = Response::new(&series, &draws).expect("eight points");
        let expected = response.at(600.0, 0.95).expect("an n").interval.contains(curve(600.0));
        let choice = choose(&series).expect("eight points");
        let (levels, held, open) = match levels_off(&series, &choice, 0.95).expect("a choice") {
            LevelsOff::At { low, high, .. } => {
                let held = low <= at && high.is_none_or(|high| at <= high);
                (Some(true), if at.is_nan() { f64::NAN } else { yes(held) }, yes(high.is_none()))
            }
            LevelsOff::NotWithinGrid { .. } => (Some(false), f64::NAN, f64::NAN),
            LevelsOff::Flat => (None, f64::NAN, f64::NAN),
        };
        [
            yes(levels == Some(true)),
            held,
            open,
            yes(levels == Some(false)),
            yes(levels.is_none()),
            yes(expected),
        ]
    });
    let shown = percent(&rates).replace("NaN", "–");
    println!("| {name} | {error} | {} | {shown} |", if known { "yes" } else { "no" });
}

/// Shares of variance, of a complete design and of one in which a fifth of the runs is missing.
fn shares() {
    println!(
        "## 95 % intervals of shares of variance that hold the truth, in percent (8 mixtures × 11 languages × 3 runs)\n"
    );
    println!(
        "| design | mixture (36 %) | language (36 %) | mixture × language (9 %) | between runs (19 %) |"
    );
    println!("|---|---|---|---|---|");
    let deviations = [0.6, 0.6, 0.3, 0.44];
    let total: f64 = deviations.iter().map(|one| one * one).sum();
    for (name, kept) in [("complete", 1.0), ("a fifth missing", 0.8)] {
        let rates = means(|random| {
            let mut effects = |count: usize, sd: f64| {
                (0..count).map(|_| sd * random.normal()).collect::<Vec<_>>()
            };
            let (a, b) = (effects(8, deviations[0]), effects(11, deviations[1]));
            let both = effects(88, deviations[2]);
            let (mut values, mut of_a, mut of_b) = (Vec::new(), Vec::new(), Vec::new());
            for at in 0..264 {
                let (i, j) = (at / 33, at / 3 % 11);
                if random.uniform() < kept {
                    values.push(a[i] + b[j] + both[at / 3] + deviations[3] * random.normal());
                    of_a.push(i as u32);
                    of_b.push(j as u32);
                }
            }
            let factors = [
                Factor { name: "mixture".into(), levels: of_a },
                Factor { name: "language".into(), levels: of_b },
            ];
            let found = decompose(&values, &factors, 2, 0.95, key(random)).expect("a design");
            std::array::from_fn::<f64, 4, _>(|at| {
                yes(found.components[at].interval.contains(deviations[at].powi(2) / total))
            })
        });
        println!("| {name} | {} |", percent(&rates));
    }
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
