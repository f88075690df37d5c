//! A curve's numbers: every language, the seen and unseen means, the gap and Perf-to-EN at each n,
//! and the difference of each from the baseline. Definitions: arXiv 2504.16677 (Perf-to-EN: mean over
//! the non-English languages of score / English score, same checkpoint).

use std::collections::BTreeSet;

use rayon::prelude::*;

use crate::analyse::{Change, Curve, Language, Measure, Point, SUMMARIES, Test};
use crate::arrange::Task;
use crate::bootstrap::{Draws, Estimate};
use crate::ground::{Ground, Over, Place};
use crate::quantity::{Basis, adjust};
use crate::read::Group;

/// The curves of all tasks with their languages' values, before anything is estimated.
pub(crate) fn outline(draws: &[Draws]) -> Vec<Curve> {
    let of_task = |(at, draws): (usize, &Draws)| {
        let curves = 0..draws.task.curves.len();
        curves.map(|place| outline_of((at, place), draws)).collect::<Vec<_>>()
    };
    draws.iter().enumerate().flat_map(of_task).collect()
}

fn outline_of(place: (usize, usize), draws: &Draws) -> Curve {
    let Task { name, cells, curves, .. } = draws.task;
    let curve = &curves[place.1];
    let language = |&cell: &usize| Language {
        lang: cells[cell].lang.clone(),
        group: cells[cell].group,
        cell,
        measure: Measure {
            estimate: Estimate::plain(draws.observed(cell)),
            test: None,
            change: None,
        },
    };
    let point = |point: &crate::arrange::Point| Point {
        n: point.n,
        languages: point.cells.iter().map(language).collect(),
        ..Point::default()
    };
    Curve {
        task: name.clone(),
        metric: curve.metric.clone(),
        headline: curve.metric_rank == 0,
        series: curve.series.clone(),
        scale: curve.scale,
        unit: curve.scale.unit,
        place,
        points: curve.points.iter().map(point).collect(),
    }
}

/// Every point of every curve, estimated.
pub(crate) fn estimated(ground: &Ground) -> Vec<Curve> {
    let places: Vec<(usize, usize)> = (0..ground.curves.len())
        .flat_map(|curve| (0..ground.curve(curve).points.len()).map(move |point| (curve, point)))
        .collect();
    let mut points: Vec<Point> =
        places.par_iter().map(|&(curve, at)| point(ground, curve, at)).collect();
    let mut curves = Vec::new();
    for curve in ground.curves {
        let rest = points.split_off(curve.points.len());
        curves.push(Curve { points: std::mem::replace(&mut points, rest), ..curve.clone() });
    }
    adjust_all(&mut curves);
    curves
}

/// A number of a point, by which its measure is found again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Language(usize),
    Seen,
    Unseen,
    NonEnglish,
    PerfToEnglish,
    Gap,
}

impl Which {
    /// As a number over a point's languages; `None` where it has not got them.
    pub fn over(self, point: &Point) -> Option<Over> {
        let langs = |wanted: &dyn Fn(Group) -> bool| -> Option<Vec<String>> {
            let of = point.languages.iter().filter(|one| wanted(one.group));
            let langs: Vec<String> = of.map(|one| one.lang.clone()).collect();
            (!langs.is_empty()).then_some(langs)
        };
        let seen = || langs(&|group| group == Group::Seen);
        let unseen = || langs(&|group| group == Group::Unseen);
        let others = || langs(&|group| group != Group::English);
        Some(match self {
            Which::Language(at) => Over::language(&point.languages.get(at)?.lang),
            Which::Seen => Over::Mean(seen()?),
            Which::Unseen => Over::Mean(unseen()?),
            Which::NonEnglish => Over::Mean(others()?),
            Which::PerfToEnglish => {
                Over::Ratio(others()?, langs(&|group| group == Group::English)?.pop()?)
            }
            Which::Gap => Over::Gap(seen()?, unseen()?),
        })
    }
}

fn point(ground: &Ground, curve: usize, at: usize) -> Point {
    let outline = &ground.curve(curve).points[at];
    let here = Place { curve, n: outline.n };
    let from = Place { curve, n: ground.baseline };
    let base = ground.point(from).filter(|_| from.n != here.n);
    let languages_of =
        |point: &Point| point.languages.iter().map(|one| one.lang.clone()).collect::<BTreeSet<_>>();
    // Means over different languages do not compare.
    let comparable = base.is_some_and(|base| languages_of(base) == languages_of(outline));
    let mut notes = Vec::new();
    if base.is_some() && !comparable {
        notes.push("scored in other languages than the baseline: no differences of means");
    }
    let measure = |which: Which, from: Option<Place>| -> Option<Measure> {
        let over = which.over(outline)?;
        let estimate = ground.estimate(here, &over)?;
        let change = from.and_then(|from| {
            let contrast = ground.difference(here, from, &over)?;
            let before = over.value(ground.point(from)?)?;
            Some(Change { from: before, estimate: contrast.estimate, test: contrast.test })
        });
        Some(Measure { estimate, test: None, change })
    };
    let mut summary = |which: Which, absent: Option<&'static str>| {
        let found = measure(which, comparable.then_some(from));
        notes.extend(absent.filter(|_| found.is_none()));
        found
    };
    let without_english = if outline.english().is_none() {
        "no English scores: Perf-to-EN withheld"
    } else {
        "English scores 0: Perf-to-EN withheld"
    };
    let mut made = Point {
        n: outline.n,
        seen: summary(Which::Seen, Some("no seen language scored")),
        unseen: summary(Which::Unseen, Some("no unseen language scored")),
        non_english: summary(Which::NonEnglish, Some("English alone scored")),
        perf_to_english: summary(Which::PerfToEnglish, Some(without_english)),
        gap: summary(Which::Gap, None),
        languages: Vec::new(),
        notes: Vec::new(),
    };
    let of_languages = outline.languages.iter().enumerate().filter_map(|(at, one)| {
        let measure = measure(Which::Language(at), base.is_some().then_some(from))?;
        Some(Language { lang: one.lang.clone(), measure, ..*one })
    });
    made.languages = of_languages.collect();
    if let Some(gap) = &mut made.gap {
        let (p, basis) = (gap.estimate.p, Basis::of(&gap.estimate));
        gap.test = Some(Test { p, basis, ..Test::default() });
    }
    made.notes = notes;
    made.notes.extend(caveat(&made));
    made
}

/// What a reader must know of the interval itself.
pub(crate) fn caveat(point: &Point) -> Option<&'static str> {
    match point.seeds_and_items() {
        (0 | 1, 0) => Some("no interval: one aggregate score each, neither items nor seeds"),
        (0 | 1, 1) => Some("no interval: one item and one seed"),
        (0 | 1, _) => {
            Some("one seed: the interval covers the items, not the spread from run to run")
        }
        (_, 0) => Some("aggregates: the interval covers the seeds alone"),
        _ => None,
    }
}

/// Adjusts p over each family of a curve: the languages' differences at all n, each mean's
/// differences over n, and the gaps against 0.
fn adjust_all(curves: &mut [Curve]) {
    fn change(measure: &mut Measure) -> Option<&mut Test> {
        measure.change.as_mut().map(|change| &mut change.test)
    }
    for points in curves.iter_mut().map(|curve| &mut curve.points) {
        let languages = points.iter_mut().flat_map(|point| &mut point.languages);
        adjust(languages.filter_map(|language| change(&mut language.measure)));
        for which in 0..SUMMARIES {
            let of_mean = points.iter_mut().filter_map(|point| point.summaries()[which].as_mut());
            adjust(of_mean.filter_map(change));
        }
        let gaps = points.iter_mut().filter_map(|point| point.gap.as_mut());
        adjust(gaps.filter_map(|gap| gap.test.as_mut()));
    }
}
