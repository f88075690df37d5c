//! A curve's numbers: every language, the seen and unseen means, the gap and Perf-to-EN at each n,
//! and the difference of each from the baseline. Definitions: arXiv 2504.16677 (Perf-to-EN: mean over
//! the non-English languages of score / English score, same checkpoint).

use std::collections::BTreeSet;

use crate::analyse::{Change, Curve, Language, Measure, Point, Test};
use crate::arrange;
use crate::bootstrap::{Draws, Estimate, Statistic};
use crate::ground::{Ground, Over, Place};
use crate::quantity::{Basis, adjust};
use crate::read::Group;
use crate::words::Unit;
use rayon::prelude::*;

/// Makes the curve number `place` of its task.
pub(crate) fn curve(
    place: (usize, usize),
    curve: &arrange::Curve,
    draws: &Draws,
    baseline: i64,
) -> Curve {
    let base = curve.points.iter().find(|point| point.n == baseline);
    let points: Vec<Point> = curve
        .points
        .iter()
        .map(|one| point(one, base.filter(|base| base.n != one.n), draws))
        .collect();
    Curve {
        task: draws.task().name.clone(),
        metric: curve.metric.clone(),
        headline: curve.metric_rank == 0,
        series: curve.series.clone(),
        unit: Unit::Raw,
        place,
        points,
    }
}

/// The cells of one point, by what they count for.
struct Sides {
    english: Option<usize>,
    seen: Vec<usize>,
    unseen: Vec<usize>,
    others: Vec<usize>,
}

impl Sides {
    fn new(point: &arrange::Point, draws: &Draws) -> Self {
        let of = |wanted: &dyn Fn(Group) -> bool| -> Vec<usize> {
            point
                .cells
                .iter()
                .copied()
                .filter(|&cell| wanted(draws.task().cells[cell].group))
                .collect()
        };
        Sides {
            english: of(&|group| group == Group::English).first().copied(),
            seen: of(&|group| group == Group::Seen),
            unseen: of(&|group| group == Group::Unseen),
            others: of(&|group| group != Group::English),
        }
    }

    fn mean(cells: &[usize]) -> Option<Statistic> {
        (!cells.is_empty()).then(|| Statistic::mean(cells))
    }

    fn gap(&self) -> Option<Statistic> {
        (!self.seen.is_empty() && !self.unseen.is_empty())
            .then(|| Statistic::gap(&self.seen, &self.unseen))
    }

    fn perf_to_english(&self, draws: &Draws) -> Option<Statistic> {
        let english = self.english.filter(|&cell| draws.observed(cell) != 0.0)?;
        (!self.others.is_empty()).then(|| Statistic::perf_to_english(&self.others, english))
    }
}

fn point(point: &arrange::Point, base: Option<&arrange::Point>, draws: &Draws) -> Point {
    let cells = &draws.task().cells;
    let here = Sides::new(point, draws);
    let before = base.map(|base| Sides::new(base, draws));
    let languages_of = |point: &arrange::Point| {
        point.cells.iter().map(|&cell| cells[cell].lang.as_str()).collect::<BTreeSet<_>>()
    };
    // Means over different languages do not compare.
    let comparable = base.is_some_and(|base| languages_of(base) == languages_of(point));
    let mut notes = Vec::new();
    if base.is_some() && !comparable {
        notes.push("scored in other languages than the baseline: no differences of means");
    }
    let from = |of: &dyn Fn(&Sides) -> Option<Statistic>| {
        before.as_ref().filter(|_| comparable).and_then(of)
    };
    let mut summary = |of: &dyn Fn(&Sides) -> Option<Statistic>, absent: &'static str| {
        let found = of(&here).and_then(|statistic| measure(statistic, from(of), draws));
        if found.is_none() {
            notes.push(absent);
        }
        found
    };
    let seen = summary(&|sides| Sides::mean(&sides.seen), "no seen language scored");
    let unseen = summary(&|sides| Sides::mean(&sides.unseen), "no unseen language scored");
    let non_english = summary(&|sides| Sides::mean(&sides.others), "English alone scored");
    let absent = if here.english.is_none() {
        "no English scores: Perf-to-EN withheld"
    } else {
        "English scores 0: Perf-to-EN withheld"
    };
    let perf_to_english = summary(&|sides| sides.perf_to_english(draws), absent);
    let mut gap = here.gap().and_then(|statistic| measure(statistic, from(&Sides::gap), draws));
    if let Some(gap) = &mut gap {
        gap.test = Some(test(&gap.estimate));
    }
    let language = |&cell: &usize| {
        let same = |&&before: &&usize| cells[before].lang == cells[cell].lang;
        let from = base
            .and_then(|base| base.cells.iter().find(same))
            .map(|&before| Statistic::cell(before));
        let measure = measure(Statistic::cell(cell), from, draws)?;
        Some(Language { lang: cells[cell].lang.clone(), group: cells[cell].group, cell, measure })
    };
    let languages = point.cells.iter().filter_map(language).collect();
    let mut made =
        Point { n: point.n, languages, seen, unseen, non_english, perf_to_english, gap, notes };
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

fn test(estimate: &Estimate) -> Test {
    Test { p: estimate.p, basis: Basis::of(estimate), ..Test::default() }
}

fn measure(statistic: Statistic, from: Option<Statistic>, draws: &Draws) -> Option<Measure> {
    let estimate = draws.estimate(&statistic)?;
    let change = from.and_then(|from| {
        let before = draws.estimate(&from)?.value;
        let estimate = draws.estimate(&statistic.minus(from))?;
        Some(Change { from: before, test: test(&estimate), estimate })
    });
    Some(Measure { estimate, test: None, change })
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
    /// All that a point has.
    pub fn all(point: &Point) -> Vec<Which> {
        let summaries =
            [Which::Seen, Which::Unseen, Which::NonEnglish, Which::PerfToEnglish, Which::Gap];
        let found = summaries.into_iter().filter(|which| which.of(point).is_some());
        (0..point.languages.len()).map(Which::Language).chain(found).collect()
    }

    pub fn of(self, point: &Point) -> Option<&Measure> {
        match self {
            Which::Language(at) => point.languages.get(at).map(|one| &one.measure),
            Which::Seen => point.seen.as_ref(),
            Which::Unseen => point.unseen.as_ref(),
            Which::NonEnglish => point.non_english.as_ref(),
            Which::PerfToEnglish => point.perf_to_english.as_ref(),
            Which::Gap => point.gap.as_ref(),
        }
    }

    pub fn of_mut(self, point: &mut Point) -> Option<&mut Measure> {
        match self {
            Which::Language(at) => point.languages.get_mut(at).map(|one| &mut one.measure),
            Which::Seen => point.seen.as_mut(),
            Which::Unseen => point.unseen.as_mut(),
            Which::NonEnglish => point.non_english.as_mut(),
            Which::PerfToEnglish => point.perf_to_english.as_mut(),
            Which::Gap => point.gap.as_mut(),
        }
    }

    /// The same as a number over languages, which other points have too.
    pub fn over(self, point: &Point) -> Option<Over> {
        let langs = |wanted: &dyn Fn(Group) -> bool| -> Vec<String> {
            let of = point.languages.iter().filter(|one| wanted(one.group));
            of.map(|one| one.lang.clone()).collect()
        };
        let seen = || langs(&|group| group == Group::Seen);
        let unseen = || langs(&|group| group == Group::Unseen);
        let others = || langs(&|group| group != Group::English);
        self.of(point)?;
        Some(match self {
            Which::Language(at) => Over::language(&point.languages[at].lang),
            Which::Seen => Over::Mean(seen()),
            Which::Unseen => Over::Mean(unseen()),
            Which::NonEnglish => Over::Mean(others()),
            Which::PerfToEnglish => {
                Over::Ratio(others(), langs(&|group| group == Group::English).pop()?)
            }
            Which::Gap => Over::Gap(seen(), unseen()),
        })
    }
}

/// The differences from the baseline as they stand against run-to-run noise, where a single run
/// cannot tell that itself: curve, point, which, difference.
pub(crate) fn judge(ground: &Ground) -> Vec<(usize, usize, Which, Change)> {
    let one = |at: usize| {
        let mut judged = Vec::new();
        for (place, point) in ground.curve(at).points.iter().enumerate() {
            let (to, from) =
                (Place { curve: at, n: point.n }, Place { curve: at, n: ground.baseline });
            for which in Which::all(point) {
                let change = which.of(point).and_then(|one| one.change.as_ref());
                let Some((change, over)) = change.zip(which.over(point)) else { continue };
                let mut change = change.clone();
                ground.judge_change(to, from, &over, &mut change);
                judged.push((at, place, which, change));
            }
        }
        judged
    };
    (0..ground.curves.len()).into_par_iter().flat_map_iter(one).collect()
}

/// Puts them in their places.
pub(crate) fn apply(curves: &mut [Curve], judged: Vec<(usize, usize, Which, Change)>) {
    for (curve, point, which, change) in judged {
        if let Some(measure) = which.of_mut(&mut curves[curve].points[point]) {
            measure.change = Some(change);
        }
    }
}

/// Adjusts p over each family of a curve: the languages' differences, the means' differences, and
/// the gaps against 0.
pub(crate) fn adjust_all(curves: &mut [Curve]) {
    fn change(measure: &mut Measure) -> Option<&mut Test> {
        measure.change.as_mut().map(|change| &mut change.test)
    }
    for points in curves.iter_mut().map(|curve| &mut curve.points) {
        let languages = points.iter_mut().flat_map(|point| &mut point.languages);
        adjust(languages.filter_map(|language| change(&mut language.measure)));
        adjust(points.iter_mut().flat_map(Point::summaries).filter_map(change));
        let gaps = points.iter_mut().filter_map(|point| point.gap.as_mut());
        adjust(gaps.filter_map(|gap| gap.test.as_mut()));
    }
}
