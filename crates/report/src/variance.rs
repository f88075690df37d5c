//! Which factors the scores vary with, and how they interact: shares of variance, each run of each
//! language at each design point being an observation, its seeds replicates.
//!
//! Runs are taken in blocks in which every level of a factor meets every level of the others: what
//! varies together in a design cannot be told apart. Per task, the scores themselves; over all tasks together, score / English score of the same run,
//! which has one meaning in all of them.

use std::collections::{BTreeMap, BTreeSet};

use ::statistics::{Factor, decompose};
use rayon::prelude::*;

use crate::analyse::Curve;
use crate::bootstrap::key;
use crate::further::{Variance, VariancePart};
use crate::ground::{Ground, Place};
use crate::words::list;

/// Interactions of so many factors are told apart.
const ORDER: usize = 2;
/// Observations below which shares mean nothing, and above which interactions are not told apart.
const LEAST: usize = 8;
const MOST: usize = 5000;
/// Levels of a factor up to which every subset of them is tried as a block.
const MANY: usize = 6;

/// What stands for all tasks together.
pub(crate) const ALL_TASKS: &str = "all tasks";

/// One score with the levels of its factors.
struct Observation {
    value: f64,
    levels: [String; FACTORS.len()],
}

const FACTORS: [&str; 6] = ["task", "model", "setting", "mixture", "n", "language"];

/// For each task's headline metric, and for all tasks together where there are several: one
/// decomposition for each block of runs in which factors vary fully crossed.
pub(crate) fn variance(ground: &Ground) -> Vec<Variance> {
    let headlines: Vec<usize> =
        (0..ground.curves.len()).filter(|&at| ground.curve(at).headline).collect();
    let mut tasks: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for &at in &headlines {
        tasks.entry(&ground.curve(at).task).or_default().push(at);
    }
    let mut wanted: Vec<(String, String, bool, Block)> = Vec::new();
    for (task, curves) in &tasks {
        let metric = &ground.curve(curves[0]).metric;
        let of_task = blocks(ground, curves).into_iter();
        wanted.extend(of_task.map(|block| ((*task).into(), metric.clone(), false, block)));
    }
    if tasks.len() > 1 {
        let together = blocks(ground, &headlines).into_iter();
        let response = "score / English score";
        wanted.extend(together.map(|block| (ALL_TASKS.into(), response.into(), true, block)));
    }
    let one = |(about, response, against_english, block): (String, String, bool, Block)| {
        shares(ground, about, response, &observations(ground, &block, against_english))
    };
    wanted.into_par_iter().filter_map(one).collect()
}

/// The series of a block, and the n and languages that all of them have.
struct Block {
    curves: Vec<usize>,
    n: Vec<i64>,
    langs: Vec<String>,
}

impl Block {
    fn of(ground: &Ground, curves: Vec<usize>) -> Option<Block> {
        let first = ground.curve(*curves.first()?);
        let everywhere =
            |n: &i64| curves.iter().all(|&curve| ground.point(Place { curve, n: *n }).is_some());
        let n: Vec<i64> = first.points.iter().map(|point| point.n).filter(everywhere).collect();
        let scored = |lang: &String| {
            let places =
                curves.iter().flat_map(|&curve| n.iter().map(move |&n| Place { curve, n }));
            let mut points = places.filter_map(|place| ground.point(place));
            points.all(|point| point.others().any(|one| one.lang == *lang))
        };
        let langs: Vec<String> =
            first.points.first()?.others().map(|one| one.lang.clone()).filter(scored).collect();
        (!n.is_empty() && !langs.is_empty()).then_some(Block { curves, n, langs })
    }

    fn size(&self) -> usize {
        self.curves.len() * self.n.len() * self.langs.len()
    }
}

/// The largest block of curves for each set of factors that vary in it: every model with every
/// setting with every mixture (and task), so that no factor stands for another.
fn blocks(ground: &Ground, curves: &[usize]) -> Vec<Block> {
    let level = |at: usize, factor: usize| levels(ground.curve(at))[factor].clone();
    let all = |factor: usize| -> Vec<String> {
        curves.iter().map(|&at| level(at, factor)).collect::<BTreeSet<_>>().into_iter().collect()
    };
    let tasks = all(0);
    let mut best: BTreeMap<Vec<usize>, Block> = BTreeMap::new();
    for models in subsets(&all(1)) {
        for settings in subsets(&all(2)) {
            let has = |mixture: &String, task: &String, model: &String, setting: &String| {
                let wanted = [task, model, setting, mixture];
                curves.iter().copied().find(|&at| {
                    levels(ground.curve(at)).iter().zip(wanted).all(|(one, other)| one == other)
                })
            };
            let of_mixture = |mixture: &String| -> Option<Vec<usize>> {
                let mut found = Vec::new();
                for task in &tasks {
                    for model in &models {
                        for setting in &settings {
                            found.push(has(mixture, task, model, setting)?);
                        }
                    }
                }
                Some(found)
            };
            let curves: Vec<usize> = all(3).iter().filter_map(of_mixture).flatten().collect();
            let Some(block) = Block::of(ground, curves) else { continue };
            let varied: Vec<usize> = (0..4)
                .filter(|&factor| {
                    let levels: BTreeSet<String> =
                        block.curves.iter().map(|&at| level(at, factor)).collect();
                    levels.len() > 1
                })
                .collect();
            let larger = best.get(&varied).is_none_or(|known| known.size() < block.size());
            if larger {
                best.insert(varied, block);
            }
        }
    }
    // One whose factors are all varied in another says no more than it.
    let keys: Vec<Vec<usize>> = best.keys().cloned().collect();
    let within =
        |a: &[usize], b: &[usize]| a.len() < b.len() && a.iter().all(|one| b.contains(one));
    best.into_iter()
        .filter(|(key, _)| !keys.iter().any(|other| within(key, other)))
        .map(|(_, block)| block)
        .collect()
}

/// All non-empty subsets; of many levels, the whole and each alone.
fn subsets(levels: &[String]) -> Vec<Vec<String>> {
    if levels.len() > MANY {
        let alone = levels.iter().map(|one| vec![one.clone()]);
        return alone.chain([levels.to_vec()]).collect();
    }
    let pick = |bits: u32| {
        let kept = levels.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1);
        kept.map(|(_, level)| level.clone()).collect()
    };
    (1..1u32 << levels.len()).map(pick).collect()
}

/// Task, model, setting and mixture of a curve.
fn levels(curve: &Curve) -> [String; 4] {
    let series = &curve.series;
    let mixture = [&series.train_langs, &series.variant].map(String::as_str).join(" ");
    [
        curve.task.clone(),
        series.model.clone(),
        series.setting.clone(),
        mixture.trim_end().to_string(),
    ]
}

/// Every seed of every language of a block; against English where asked for.
fn observations(ground: &Ground, block: &Block, against_english: bool) -> Vec<Observation> {
    let mut all = Vec::new();
    for &at in &block.curves {
        let curve = ground.curve(at);
        let [task, model, setting, mixture] = levels(curve);
        for point in curve.points.iter().filter(|point| block.n.contains(&point.n)) {
            let english = point.english().map(|english| &english.estimate);
            for language in point.others().filter(|one| block.langs.contains(&one.lang)) {
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
                    let levels = [
                        task.clone(),
                        model.clone(),
                        setting.clone(),
                        mixture.clone(),
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
    if !(LEAST..=MOST).contains(&observations.len()) {
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
    let varied: Vec<String> = factors
        .iter()
        .map(|factor| {
            let levels = factor.levels.iter().max().map_or(0, |last| last + 1);
            format!("{levels} of {}", factor.name)
        })
        .collect();
    let mut note = format!(
        "{} over {} scores, fully crossed: {}",
        found.method,
        found.observations,
        list(&varied)
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
            interval: Some((component.interval.low, component.interval.high)),
        })
        .collect();
    Some(Variance {
        about,
        response,
        residual: parts.last().map_or(0.0, |part| part.share),
        parts,
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
