//! How far runs of one experiment differ, where seeds do not say: from runs that are one experiment
//! by their data (English alone under several names), and from departures along n.
//!
//! The second is the difference-based variance of Gasser, Sroka and Jennen-Steinmetz (1986,
//! Biometrika 73): each point against the straight line between its neighbours, here over
//! log(n + smallest positive n). A bend in the curve counts as noise, so it errs on the large side.
//! About half a degree of freedom a point is left (their efficiency of 18/35).

use statrs::distribution::{ContinuousCDF, StudentsT};

use crate::analyse::Curve;
use crate::further::{NoiseOf, NoiseSource, RunNoise};
use crate::ground::{Ground, Over, Place};
use crate::read::Group;
use crate::words;

/// Below this a spread says too little to judge by.
const LEAST_FREEDOM: f64 = 2.0;

/// A standard deviation and how much it rests on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub sd: f64,
    pub degrees_of_freedom: f64,
}

impl Spread {
    pub fn times(self, factor: f64) -> Spread {
        Spread { sd: self.sd * factor, ..self }
    }

    /// Of a sum of independent parts (Welch and Satterthwaite's degrees of freedom).
    pub fn sum(parts: &[Spread]) -> Option<Spread> {
        let variance: f64 = parts.iter().map(|part| part.sd.powi(2)).sum();
        let weight: f64 = parts.iter().map(|part| part.sd.powi(4) / part.degrees_of_freedom).sum();
        // Parts of one source share its degrees of freedom: no more than the largest.
        let most = parts.iter().map(|part| part.degrees_of_freedom).fold(0.0, f64::max);
        (variance > 0.0).then(|| Spread {
            sd: variance.sqrt(),
            degrees_of_freedom: (variance.powi(2) / weight).min(most),
        })
    }

    /// Of several estimates of one spread.
    fn pooled(parts: &[Spread]) -> Option<Spread> {
        let freedom: f64 = parts.iter().map(|part| part.degrees_of_freedom).sum();
        let squares: f64 = parts.iter().map(|part| part.sd.powi(2) * part.degrees_of_freedom).sum();
        (freedom >= LEAST_FREEDOM && squares > 0.0)
            .then(|| Spread { sd: (squares / freedom).sqrt(), degrees_of_freedom: freedom })
    }

    fn student(self) -> Option<StudentsT> {
        StudentsT::new(0.0, 1.0, self.degrees_of_freedom).ok()
    }

    /// Two-sided p of a value that should be 0.
    pub fn p(self, value: f64) -> f64 {
        self.student().map_or(1.0, |t| 2.0 * t.sf((value / self.sd).abs()))
    }

    pub fn interval(self, value: f64) -> Option<(f64, f64)> {
        let half = self.student()?.inverse_cdf(0.975) * self.sd;
        Some((value - half, value + half))
    }
}

/// The run-to-run spread of a number over one curve's languages: from its model and setting's runs
/// of the same data and from the curves of that model and setting along n, together.
pub(crate) fn spread(ground: &Ground, curve: usize, over: &Over) -> Option<Spread> {
    let family = family(ground, curve);
    let parts: Vec<Spread> = [
        same_data(ground, &family, over).map(|(spread, _)| spread),
        along_n(ground, &family, over),
    ]
    .into_iter()
    .flatten()
    .collect();
    Spread::pooled(&parts)
}

/// Curves of the same task, metric, model, setting and variant.
fn family(ground: &Ground, curve: usize) -> Vec<usize> {
    let key = |curve: &Curve| (curve.about(), curve.series.variant.clone());
    let wanted = key(ground.curve(curve));
    (0..ground.curves.len()).filter(|&other| key(ground.curve(other)) == wanted).collect()
}

/// The points at n = 0 of designs that add to English: by their data one experiment, whatever the
/// languages that they go on to. One run that stands under several names counts once.
fn same_data(
    ground: &Ground,
    family: &[usize],
    over: &Over,
) -> Option<(Spread, Vec<(String, f64)>)> {
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
    Some((Spread { sd: (squares / freedom).sqrt(), degrees_of_freedom: freedom }, runs))
}

fn along_n(ground: &Ground, family: &[usize], over: &Over) -> Option<Spread> {
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
    (count > 0)
        .then(|| Spread { sd: (squares / f64::from(count)).sqrt(), degrees_of_freedom: freedom })
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
    let mut rows = Vec::new();
    for family in ground.families() {
        let curve = ground.curve(family[0]);
        let Some(point) = curve.points.first() else { continue };
        let others: Vec<String> = point
            .languages
            .iter()
            .filter(|one| one.group != Group::English)
            .map(|one| one.lang.clone())
            .collect();
        let row = |source, of, spread: Spread, runs: Vec<(String, f64)>| {
            let ends = |pick: fn(f64, f64) -> f64| runs.iter().map(|run| run.1).reduce(pick);
            Some(RunNoise {
                about: curve.about(),
                unit: curve.unit,
                source,
                of,
                sd: spread.sd,
                degrees_of_freedom: spread.degrees_of_freedom,
                range: ends(f64::max).zip(ends(f64::min)).map(|(most, least)| most - least),
                threshold: spread.times(2.0_f64.sqrt()).interval(0.0)?.1,
                runs,
            })
        };
        let languages: Vec<Over> =
            point.languages.iter().map(|one| Over::language(&one.lang)).collect();
        for (of, overs) in [
            (NoiseOf::NonEnglishMean, vec![Over::Mean(others.clone())]),
            (NoiseOf::Language, languages),
        ] {
            if of == NoiseOf::NonEnglishMean && others.is_empty() {
                continue;
            }
            let over_all = |one: &dyn Fn(&Over) -> Option<Spread>| {
                let parts: Vec<Spread> = overs.iter().filter_map(one).collect();
                Spread::pooled(&parts)
            };
            if let Some(spread) = over_all(&|over| seeds(ground, &family, over)) {
                rows.extend(row(NoiseSource::Seeds, of, spread, Vec::new()));
            }
            if let Some(spread) =
                over_all(&|over| same_data(ground, &family, over).map(|(spread, _)| spread))
            {
                let runs = match of {
                    NoiseOf::NonEnglishMean => same_data(ground, &family, &overs[0])
                        .map(|(_, runs)| runs)
                        .unwrap_or_default(),
                    NoiseOf::Language => Vec::new(),
                };
                rows.extend(row(NoiseSource::SameData, of, spread, runs));
            }
            if let Some(spread) = over_all(&|over| along_n(ground, &family, over)) {
                rows.extend(row(NoiseSource::AlongN, of, spread, Vec::new()));
            }
        }
    }
    rows
}

/// From the runs of each point that differ in their seeds alone.
fn seeds(ground: &Ground, family: &[usize], over: &Over) -> Option<Spread> {
    let mut parts = Vec::new();
    for &at in family {
        for point in &ground.curve(at).points {
            let place = Place { curve: at, n: point.n };
            let Some(estimate) = ground.estimate(place, over) else { continue };
            let values = &estimate.by_seed;
            if values.len() > 1 {
                let freedom = (values.len() - 1) as f64;
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
                parts.push(Spread { sd: (squares / freedom).sqrt(), degrees_of_freedom: freedom });
            }
        }
    }
    Spread::pooled(&parts)
}
