//! Scores that do not fit their neighbours: a checkpoint that collapsed in one language, a seed that
//! went astray.
//!
//! Each language's scores along n get a robust line over log n (Theil 1950, Sen 1968); what all
//! languages share at an n (the median of their departures) is taken off; the rest is held against
//! the median absolute departure of the curve, more where the language's own is larger. Flagged from
//! 3.5 robust standard deviations on (Iglewicz and Hoaglin 1993), if it also stands after Holm.
//! n = 0 stays out: the step to the first examples is what a study is after, and no stray.

use crate::analyse::{Curve, Point};
use crate::further::Outlier;
use crate::ground::Ground;
use crate::quantity::{ALPHA, Basis, Test, adjust};
use statrs::distribution::{ContinuousCDF, StudentsT};

/// Robust standard deviations from which on a score is an outlier.
const LEAST: f64 = 3.5;
/// Points and languages below which there is no telling what fits.
const LEAST_POINTS: usize = 4;
const LEAST_LANGUAGES: usize = 3;
/// The median absolute deviation of a normal variable, inverted.
const MAD: f64 = 1.482_602_218_505_602;

/// The outliers of every curve.
pub(crate) fn outliers(ground: &Ground) -> Vec<Outlier> {
    let mut all = Vec::new();
    for at in 0..ground.curves.len() {
        let mut found = cells(ground, at);
        found.extend(seeds(ground, at));
        all.extend(found);
    }
    all.sort_by(|a, b| b.z.abs().total_cmp(&a.z.abs()));
    all
}

/// Whole cells that do not fit.
fn cells(ground: &Ground, at: usize) -> Vec<Outlier> {
    let curve = ground.curve(at);
    let langs = languages(curve);
    let points: Vec<&Point> = curve.points.iter().filter(|point| point.n > 0).collect();
    if points.len() < LEAST_POINTS || langs.len() < LEAST_LANGUAGES {
        return Vec::new();
    }
    let scores: Vec<Vec<f64>> =
        langs.iter().map(|lang| points.iter().map(|point| value(point, lang)).collect()).collect();
    let places: Vec<f64> = points.iter().map(|point| (point.n as f64).ln()).collect();
    let expected = expected(&scores, &places);
    let departures: Vec<f64> = scores
        .iter()
        .flatten()
        .zip(expected.iter().flatten())
        .map(|(score, expected)| score - expected)
        .collect();
    let width = points.len();
    // What the lines and the shared parts have fitted away is given back to the spread.
    let (count, fitted) = (langs.len() * width, 2 * langs.len() + width);
    let freedom = count.saturating_sub(fitted).max(1) as f64;
    let given_back = (count as f64 / freedom).sqrt();
    let resolution = resolution(scores.iter().flatten().copied());
    let least = (given_back * scale(&departures)).max(resolution / 2.0);
    // A language of its own few points says little of its own spread: half its, half the curve's.
    let own = |of_language: &[f64]| (scale(of_language) / 2.0 + least / 2.0).max(least);
    let scales: Vec<f64> = departures.chunks(width).map(own).collect();
    let mut all: Vec<Outlier> = departures
        .iter()
        .enumerate()
        .map(|(place, departure)| {
            let (row, column) = (place / width, place % width);
            let (point, z) = (points[column], departure / scales[row]);
            Outlier {
                curve: at,
                n: point.n,
                lang: langs[row].clone(),
                value: scores[row][column],
                expected: expected[row][column],
                z,
                test: test(z, freedom),
                run: None,
                runs: runs(ground, at, point, &langs[row]),
            }
        })
        .collect();
    flagged(&mut all)
}

/// Single runs of a cell that stray from its other runs, by the spread that runs have in the curve.
fn seeds(ground: &Ground, at: usize) -> Vec<Outlier> {
    let curve = ground.curve(at);
    let mut strays = Vec::new();
    for point in &curve.points {
        for language in &point.languages {
            let values = &language.measure.estimate.by_seed;
            if values.len() < 3 {
                continue;
            }
            let middle = median(values.clone());
            let names = runs(ground, at, point, &language.lang);
            for (seed, value) in values.iter().enumerate() {
                strays.push((point.n, &language.lang, *value, middle, names.get(seed).cloned()));
            }
        }
    }
    let departures: Vec<f64> = strays.iter().map(|stray| stray.2 - stray.3).collect();
    // Each cell's median is one of its own values: those zeros are no measure of the spread.
    let apart: Vec<f64> = departures.iter().copied().filter(|one| *one != 0.0).collect();
    let scale = scale(&apart);
    if apart.len() < 2 * LEAST_POINTS || scale == 0.0 {
        return Vec::new();
    }
    let freedom = apart.len() as f64 / 2.0;
    let mut all: Vec<Outlier> = strays
        .into_iter()
        .map(|(n, lang, value, middle, run)| {
            let z = (value - middle) / scale;
            Outlier {
                curve: at,
                n,
                lang: lang.clone(),
                value,
                expected: middle,
                z,
                test: test(z, freedom),
                runs: run.iter().cloned().collect(),
                run,
            }
        })
        .collect();
    flagged(&mut all)
}

fn test(z: f64, freedom: f64) -> Test {
    let p = StudentsT::new(0.0, 1.0, freedom).ok().map(|t| 2.0 * t.sf(z.abs()));
    Test { p: p.filter(|p| p.is_finite()), basis: Basis::Trend, ..Test::default() }
}

fn flagged(all: &mut Vec<Outlier>) -> Vec<Outlier> {
    adjust(all.iter_mut().map(|one| &mut one.test));
    let stands = |one: &Outlier| one.z.abs() >= LEAST && one.test.p_holm.is_some_and(|p| p < ALPHA);
    std::mem::take(all).into_iter().filter(stands).collect()
}

/// The languages that every point of the curve has.
fn languages(curve: &Curve) -> Vec<String> {
    let everywhere =
        |lang: &&String| curve.points.iter().all(|point| value(point, lang).is_finite());
    let first = curve.points.iter().flat_map(|point| &point.languages).map(|one| &one.lang);
    let mut langs: Vec<String> = Vec::new();
    for lang in first.filter(everywhere) {
        if !langs.contains(lang) {
            langs.push(lang.clone());
        }
    }
    langs
}

fn value(point: &Point, lang: &str) -> f64 {
    let found = point.languages.iter().find(|one| one.lang == lang);
    found.map_or(f64::NAN, |one| one.measure.estimate.value)
}

fn runs(ground: &Ground, at: usize, point: &Point, lang: &str) -> Vec<String> {
    let cell = point.languages.iter().find(|one| one.lang == lang).map(|one| one.cell);
    cell.map(|cell| ground.draws_of(at).task.cells[cell].runs.clone()).unwrap_or_default()
}

/// By language and n: the language's robust line plus what all languages share at that n.
fn expected(scores: &[Vec<f64>], places: &[f64]) -> Vec<Vec<f64>> {
    let mut fitted: Vec<Vec<f64>> = scores.iter().map(|row| robust_line(places, row)).collect();
    for column in 0..places.len() {
        let shared = median(
            scores.iter().zip(&fitted).map(|(row, fit)| row[column] - fit[column]).collect(),
        );
        fitted.iter_mut().for_each(|fit| fit[column] += shared);
    }
    fitted
}

/// Theil and Sen's line at each place: the median slope over all pairs, and the median intercept.
fn robust_line(x: &[f64], y: &[f64]) -> Vec<f64> {
    let pairs = (0..x.len()).flat_map(|a| (a + 1..x.len()).map(move |b| (a, b)));
    let slopes =
        pairs.filter(|&(a, b)| x[a] != x[b]).map(|(a, b)| (y[b] - y[a]) / (x[b] - x[a])).collect();
    let slope = median(slopes);
    let start = median(x.iter().zip(y).map(|(x, y)| y - slope * x).collect());
    x.iter().map(|x| start + slope * x).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    ::statistics::quantile(&values, 0.5)
}

/// Standard deviation by the median absolute departure.
fn scale(departures: &[f64]) -> f64 {
    MAD * median(departures.iter().map(|one| one.abs()).collect())
}

/// The smallest step between values: scores rounded to it cannot scatter less.
fn resolution(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let steps = values.windows(2).map(|pair| pair[1] - pair[0]).filter(|&step| step > 1e-9);
    steps.reduce(f64::min).unwrap_or(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_robust_line_is_that_of_scipy() {
        // scipy.stats.theilslopes([1, 2.1, 2.9, 10, 5.2], [0, 1, 2, 3, 4], method="joint"): 1.075, 1.0
        let line = robust_line(&[0.0, 1.0, 2.0, 3.0, 4.0], &[1.0, 2.1, 2.9, 10.0, 5.2]);
        assert!((line[1] - line[0] - 1.075).abs() < 1e-9, "{line:?}");
        assert!((line[0] - 1.0).abs() < 1e-9, "{line:?}");
    }

    #[test]
    fn a_collapse_is_told_from_a_smooth_curve() {
        let places = [0.0, 1.0, 2.0, 3.0, 4.0];
        let mut scores: Vec<Vec<f64>> = (0..4)
            .map(|row| places.iter().map(|x| 0.1 * f64::from(row) + 0.05 * x).collect())
            .collect();
        scores[2][4] -= 0.3;
        let expected = expected(&scores, &places);
        assert!((scores[2][4] - expected[2][4] + 0.3).abs() < 0.1);
        assert!((scores[1][4] - expected[1][4]).abs() < 1e-9);
    }
}
