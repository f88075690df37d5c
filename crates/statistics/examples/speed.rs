//! Time of the bootstrap of a whole study: 10,000 draws of 40 mixtures × 11 languages × 250 items ×
//! 3 runs, and of an estimate of every cell, every difference from the first mixture, and Perf-to-EN.
//! Then variance components of a whole grid, complete and with a run missing.
//! `cargo run --release -p statistics --example speed`

#[path = "../tests/common/mod.rs"]
mod planted;

use std::time::Instant;

use planted::{Planted, Random, key};
use rayon::prelude::*;
use statistics::{Factor, Options, Statistic, decompose};

const MIXTURES: usize = 40;
const LANGUAGES: usize = 11;

fn main() {
    bootstrap();
    variance();
}

fn bootstrap() {
    let planted = Planted { items: 250, seeds: 3, item: 1.0, run: 0.1, noise: 1.0, binary: true };
    let mut random = Random::new(1);
    let sample = planted.sample(&[0.0; MIXTURES * LANGUAGES], &mut random);
    let start = Instant::now();
    let draws = sample.draw(10_000, key(&mut random)).expect("cells");
    println!(
        "draws: {:.2} s on {} threads",
        start.elapsed().as_secs_f64(),
        rayon::current_num_threads()
    );
    let start = Instant::now();
    let languages =
        |mixture: usize| (1..LANGUAGES).map(|l| mixture * LANGUAGES + l).collect::<Vec<_>>();
    let mut statistics: Vec<Statistic> = (0..MIXTURES * LANGUAGES).map(Statistic::cell).collect();
    for cell in LANGUAGES..MIXTURES * LANGUAGES {
        statistics.push(Statistic::cell(cell).minus(Statistic::cell(cell % LANGUAGES)));
    }
    for mixture in 0..MIXTURES {
        statistics.push(Statistic::perf_to_english(&languages(mixture), mixture * LANGUAGES));
    }
    let known = statistics
        .par_iter()
        .filter(|one| {
            draws.estimate(one, Options::default()).is_ok_and(|found| found.interval.is_ok())
        })
        .count();
    println!("{known} BCa intervals: {:.2} s", start.elapsed().as_secs_f64());
}

/// Tasks × models × settings × n × languages × runs.
const GRID: [(&str, u32); 6] =
    [("task", 3), ("size", 3), ("setting", 2), ("n", 8), ("language", 11), ("run", 3)];

fn variance() {
    let mut random = Random::new(2);
    let observations: u32 = GRID.iter().map(|one| one.1).product();
    let mut levels = vec![Vec::new(); GRID.len()];
    for at in 0..observations {
        let mut rest = at;
        for (factor, (_, count)) in levels.iter_mut().zip(GRID) {
            factor.push(rest % count);
            rest /= count;
        }
    }
    let effects: Vec<Vec<f64>> =
        GRID.map(|(_, count)| (0..count).map(|_| random.normal()).collect()).to_vec();
    let value = |at: usize, random: &mut Random| {
        let of_factors: f64 = (0..5).map(|f| effects[f][levels[f][at] as usize]).sum();
        let together = effects[0][levels[0][at] as usize] * effects[4][levels[4][at] as usize];
        of_factors + 0.5 * together + 0.3 * random.normal()
    };
    let values: Vec<f64> = (0..observations as usize).map(|at| value(at, &mut random)).collect();
    for skip in [0, 1] {
        let factor =
            |f: usize| Factor { name: GRID[f].0.into(), levels: levels[f][skip..].to_vec() };
        let factors: Vec<Factor> = (0..5).map(factor).collect();
        let start = Instant::now();
        let found = decompose(&values[skip..], &factors, 2, 0.95, [1; 32]).expect("a grid");
        println!(
            "variance components by {}: {} observations, {} components: {:.2} s",
            found.method,
            found.observations,
            found.components.len(),
            start.elapsed().as_secs_f64()
        );
    }
}
