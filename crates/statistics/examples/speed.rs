//! Time of the bootstrap of a whole study: 10,000 draws of 40 mixtures × 11 languages × 250 items ×
//! 3 runs, and of an estimate of every cell, every difference from the first mixture, and Perf-to-EN.
//! `cargo run --release -p statistics --example speed`

#[path = "../tests/common/mod.rs"]
mod planted;

use std::time::Instant;

use planted::{Planted, Random, key};
use rayon::prelude::*;
use statistics::{Options, Statistic};

const MIXTURES: usize = 40;
const LANGUAGES: usize = 11;

fn main() {
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
