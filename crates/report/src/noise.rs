//! How far runs of one experiment differ: from runs that differ in their seeds alone, from runs that
//! are one experiment by their data (English alone under several names), and from departures along n.
//!
//! The last is the difference-based variance of Gasser, Sroka and Jennen-Steinmetz (1986,
//! Biometrika 73): each point against the straight line between its neighbours, here over
//! log(n + smallest positive n). A bend in the curve counts as noise, so it errs on the large side.
//! About half a degree of freedom a point is left (their efficiency of 18/35).

use ::statistics::RunSpread;
use statrs::distribution::{ContinuousCDF, StudentsT};

use crate::curves::Which;
use crate::further::{NoiseOf, NoiseSource, RunNoise};
use crate::ground::{Ground, Over, Place, Spread};
use crate::quantity::Basis;
use crate::words;

/// Below this a spread says too little to judge by.
const LEAST_FREEDOM: f64 = 2.0;
/// Below this a language's spread is pooled with that of the others.
const OWN_FREEDOM: f64 = 8.0;

/// The run-to-run spread of a number over the languages of a family's curves: by their seeds; where
/// no point has several, by runs of the same data and along n together.
pub(crate) fn spread(ground: &Ground, family: &[usize], over: &Over) -> Option<Spread> {
    if let Some(spread) = seeds(ground, family, over) {
        return Some((spread, Basis::Seeds));
    }
    let parts =
        [same_data(ground, family, over).map(|(spread, _)| spread), along_n(ground, family, over)];
    let spread = pooled(&parts.into_iter().flatten().collect::<Vec<_>>())?;
    Some((spread, Basis::RunNoise))
}

/// Of several estimates of one spread.
fn pooled(parts: &[RunSpread]) -> Option<RunSpread> {
    let freedom: f64 = parts.iter().map(|part| part.degrees_of_freedom).sum();
    let mean = |of: fn(&RunSpread) -> f64| {
        parts.iter().map(|part| of(part) * part.degrees_of_freedom).sum::<f64>() / freedom
    };
    let (variance, of_items) = (mean(|part| part.variance), mean(|part| part.of_items));
    (freedom >= LEAST_FREEDOM && variance > 0.0).then(|| RunSpread {
        variance,
        of_items,
        degrees_of_freedom: freedom,
        settings: parts.iter().map(|part| part.settings).max().unwrap_or(0),
    })
}

/// From runs that differ in their seeds alone, at every point of the family; of a language with few
/// such runs, from all languages.
fn seeds(ground: &Ground, family: &[usize], over: &Over) -> Option<RunSpread> {
    let points = || family.iter().flat_map(|&at| &ground.curve(at).points);
    let spread = |over: &Over| {
        let statistics: Vec<_> = points().filter_map(|point| over.statistic(point)).collect();
        ground.draws_of(family[0]).run_spread(&statistics)
    };
    let own = spread(over)?;
    match over {
        Over::Mean(langs) if langs.len() == 1 && own.degrees_of_freedom < OWN_FREEDOM => {
            let mut langs: Vec<&String> =
                points().flat_map(|point| &point.languages).map(|one| &one.lang).collect();
            langs.sort();
            langs.dedup();
            let parts: Vec<RunSpread> =
                langs.into_iter().filter_map(|lang| spread(&Over::language(lang))).collect();
            // Languages of one run move together in part, so they are not as many runs: with a
            // correlation of a third, about half as many.
            let all = pooled(&parts)?;
            let degrees_of_freedom = (all.degrees_of_freedom / 2.0).max(own.degrees_of_freedom);
            // A language that strays more than the others keeps its own spread.
            let larger = if own.variance > all.variance { own } else { all };
            Some(RunSpread { degrees_of_freedom, ..larger })
        }
        _ => Some(own),
    }
}

/// The points at n = 0 of designs that add to English: by their data one experiment, whatever the
/// languages that they go on to. One run that stands under several names counts once.
fn same_data(
    ground: &Ground,
    family: &[usize],
    over: &Over,
) -> Option<(RunSpread, Vec<(String, f64)>)> {
    let mut runs: Vec<(String, f64)> = Vec::new();
    let mut scores: Vec<Vec<(&str, f64)>> = Vec::new();
    for &at in family {
        let curve = ground.curve(at);
        let english = curve.series.train_langs.split([',', ' ', '+']);
        if !english.into_iter().any(|lang| language::same_language(lang, "en")) {
            continue;
        }
        let Some(point) = ground.point(Place { curve: at, n: 0 }) else { continue };
        let all: Vec<_> = point
            .languages
            .iter()
            .map(|one| (one.lang.as_str(), one.measure.estimate.value))
            .collect();
        let mut sorted = all.clone();
        sorted.sort_by(|a, b| a.0.cmp(b.0));
        if let Some(value) = over.value(point).filter(|_| !scores.contains(&sorted)) {
            runs.push((words::series(&curve.series), value));
            scores.push(sorted);
        }
    }
    let freedom = runs.len().checked_sub(1).filter(|&freedom| freedom > 0)? as f64;
    let mean = runs.iter().map(|run| run.1).sum::<f64>() / runs.len() as f64;
    let squares: f64 = runs.iter().map(|run| (run.1 - mean).powi(2)).sum();
    Some((plain(squares / freedom, freedom), runs))
}

fn along_n(ground: &Ground, family: &[usize], over: &Over) -> Option<RunSpread> {
    let (mut squares, mut count) = (0.0, 0);
    for &at in family {
        let points = &ground.curve(at).points;
        let values: Vec<(f64, f64)> =
            points.iter().filter_map(|point| Some((point.n as f64, over.value(point)?))).collect();
        for residual in pseudo_residuals(&values) {
            squares += residual.powi(2);
            count += 1;
        }
    }
    let freedom = 18.0 / 35.0 * f64::from(count);
    (count > 0).then(|| plain(squares / f64::from(count), freedom))
}

/// A spread that does not know what its items add.
fn plain(variance: f64, degrees_of_freedom: f64) -> RunSpread {
    RunSpread { variance, of_items: 0.0, degrees_of_freedom, settings: 1 }
}

/// Each inner point's departure from the line between its neighbours, scaled to the standard
/// deviation of one point.
fn pseudo_residuals(points: &[(f64, f64)]) -> Vec<f64> {
    let first = points.iter().map(|point| point.0).find(|&n| n > 0.0).unwrap_or(1.0);
    let x = |n: f64| (n + first).ln();
    let one = |near: &[(f64, f64)]| {
        let [(n0, y0), (n1, y1), (n2, y2)] = [near[0], near[1], near[2]];
        let after = (x(n1) - x(n0)) / (x(n2) - x(n0));
        let line = y0 * (1.0 - after) + y2 * after;
        (y1 - line) / (1.0 + after.powi(2) + (1.0 - after).powi(2)).sqrt()
    };
    points.windows(3).map(one).collect()
}

/// The table of run-to-run noise: per task, metric, model and setting, of one language's score and of
/// the mean over the non-English ones, by each source that there is.
pub(crate) fn table(ground: &Ground) -> Vec<RunNoise> {
    ground.families().iter().flat_map(|family| rows(ground, family)).collect()
}

fn rows(ground: &Ground, family: &[usize]) -> Vec<RunNoise> {
    let Some(point) = ground.curve(family[0]).points.first() else { return Vec::new() };
    let mut rows = Vec::new();
    if let Some(mean) = Which::NonEnglish.over(point) {
        let (by_seeds, runs) =
            (seeds(ground, family, &mean), same_data(ground, family, &mean).unzip());
        let along_n = along_n(ground, family, &mean);
        let of = NoiseOf::NonEnglishMean;
        rows.extend(row(ground, family, of, NoiseSource::Seeds, by_seeds, None));
        rows.extend(row(ground, family, of, NoiseSource::SameData, runs.0, runs.1));
        rows.extend(row(ground, family, of, NoiseSource::AlongN, along_n, None));
    }
    let langs: Vec<Over> = point.languages.iter().map(|one| Over::language(&one.lang)).collect();
    let all = |of: &dyn Fn(&Over) -> Option<RunSpread>| {
        pooled(&langs.iter().filter_map(of).collect::<Vec<_>>())
    };
    let of = NoiseOf::Language;
    let by_seeds = all(&|over| seeds(ground, family, over));
    let runs = all(&|over| same_data(ground, family, over).map(|found| found.0));
    let along_n = all(&|over| along_n(ground, family, over));
    rows.extend(row(ground, family, of, NoiseSource::Seeds, by_seeds, None));
    rows.extend(row(ground, family, of, NoiseSource::SameData, runs, None));
    rows.extend(row(ground, family, of, NoiseSource::AlongN, along_n, None));
    rows
}

fn row(
    ground: &Ground,
    family: &[usize],
    of: NoiseOf,
    source: NoiseSource,
    spread: Option<RunSpread>,
    runs: Option<Vec<(String, f64)>>,
) -> Option<RunNoise> {
    let spread = spread.filter(|spread| spread.degrees_of_freedom >= LEAST_FREEDOM)?;
    let runs = runs.unwrap_or_default();
    let ends = |pick: fn(f64, f64) -> f64| runs.iter().map(|run| run.1).reduce(pick);
    let student = StudentsT::new(0.0, 1.0, spread.degrees_of_freedom).ok()?;
    let curve = ground.curve(family[0]);
    let sd = spread.variance.sqrt();
    Some(RunNoise {
        about: curve.about(),
        unit: curve.unit,
        source,
        of,
        sd,
        degrees_of_freedom: spread.degrees_of_freedom,
        range: ends(f64::max).zip(ends(f64::min)).map(|(most, least)| most - least),
        threshold: student.inverse_cdf(0.975) * sd * 2.0_f64.sqrt(),
        runs,
    })
}
