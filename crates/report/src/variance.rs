//! Which factors the scores vary with, and how they interact: shares of variance, each run of each
//! language at each design point being an observation, its seeds replicates.
//!
//! Per task, the scores themselves; over all tasks together, score / English score of the same run,
//! which has one meaning in all of them.

use std::collections::BTreeMap;

use ::statistics::{Factor, decompose};

use crate::bootstrap::key;
use crate::further::{Variance, VariancePart};
use crate::ground::Ground;
use crate::quantity::Test;
use crate::read::Group;
use crate::words::list;

/// Interactions of so many factors are told apart.
const ORDER: usize = 2;
/// Observations below which shares mean nothing.
const LEAST: usize = 8;

/// One score with the levels of its factors.
struct Observation {
    value: f64,
    levels: [String; FACTORS.len()],
}

const FACTORS: [&str; 6] = ["task", "model", "setting", "mixture", "n", "language"];

/// For each task's headline metric, and for all tasks together where there are several.
pub(crate) fn variance(ground: &Ground) -> Vec<Variance> {
    let headlines: Vec<usize> =
        (0..ground.curves.len()).filter(|&at| ground.curve(at).headline).collect();
    let mut tasks: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for &at in &headlines {
        tasks.entry(&ground.curve(at).task).or_default().push(at);
    }
    let mut all: Vec<Variance> = tasks
        .iter()
        .filter_map(|(task, curves)| {
            let metric = ground.curve(curves[0]).metric.clone();
            shares(ground, (*task).to_string(), metric, &observations(ground, curves, false))
        })
        .collect();
    if tasks.len() > 1 {
        let together = observations(ground, &headlines, true);
        all.extend(shares(ground, "all tasks".into(), "score / English score".into(), &together));
    }
    all
}

/// Every seed of every language but English at every point; against English where asked for.
fn observations(ground: &Ground, curves: &[usize], against_english: bool) -> Vec<Observation> {
    let mut all = Vec::new();
    for &at in curves {
        let curve = ground.curve(at);
        for point in &curve.points {
            let english = point.english().map(|english| &english.estimate);
            for language in point.languages.iter().filter(|one| one.group != Group::English) {
                let estimate = &language.measure.estimate;
                let alone = [estimate.value];
                let values =
                    if estimate.by_seed.is_empty() { &alone[..] } else { &estimate.by_seed };
                for (seed, value) in values.iter().enumerate() {
                    let over = english
                        .map(|english| english.by_seed.get(seed).copied().unwrap_or(english.value));
                    let value = match (against_english, over) {
                        (false, _) => *value,
                        (true, Some(over)) if over != 0.0 => value / over,
                        (true, _) => continue,
                    };
                    let series = &curve.series;
                    let mixture =
                        [&series.train_langs, &series.variant].map(String::as_str).join(" ");
                    let levels = [
                        curve.task.clone(),
                        series.model.clone(),
                        series.setting.clone(),
                        mixture,
                        point.n.to_string(),
                        language.lang.clone(),
                    ];
                    all.push(Observation { value, levels });
                }
            }
        }
    }
    all
}

fn shares(
    ground: &Ground,
    about: String,
    response: String,
    observations: &[Observation],
) -> Option<Variance> {
    if observations.len() < LEAST {
        return None;
    }
    let values: Vec<f64> = observations.iter().map(|one| one.value).collect();
    let factors: Vec<Factor> =
        (0..FACTORS.len()).filter_map(|at| factor(observations, at)).collect();
    if factors.is_empty() {
        return None;
    }
    let key = key(ground.seed, &about, "variance");
    let found = decompose(&values, &factors, ORDER, 0.95, key).ok()?;
    let left_out: Vec<String> =
        found.left_out.iter().map(|(term, reason)| format!("{term} ({reason})")).collect();
    let mut note = format!(
        "{} over {} scores of {} design points",
        found.method, found.observations, found.cells
    );
    if !left_out.is_empty() {
        note += &format!("; left out: {}", list(&left_out));
    }
    let parts: Vec<VariancePart> = found
        .components
        .iter()
        .map(|component| VariancePart {
            factors: component.term.clone(),
            share: component.share,
            interval: component.interval.as_ref().ok().map(|ends| (ends.low, ends.high)),
            degrees_of_freedom: component.levels.saturating_sub(1),
            test: Test::default(),
        })
        .collect();
    Some(Variance {
        about,
        response,
        residual: parts.last().map_or(0.0, |part| part.share),
        parts,
        observations: found.observations,
        replicates: (found.observations / found.cells.max(1)).max(1),
        note,
    })
}

/// A factor with at least two levels.
fn factor(observations: &[Observation], at: usize) -> Option<Factor> {
    let mut known: BTreeMap<&str, u32> = BTreeMap::new();
    let levels = observations
        .iter()
        .map(|one| {
            let next = known.len() as u32;
            *known.entry(&one.levels[at]).or_insert(next)
        })
        .collect();
    (known.len() > 1).then(|| Factor { name: FACTORS[at].into(), levels })
}
