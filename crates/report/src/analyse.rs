//! Cells in; per curve and n out: every language, the seen and unseen means, the gap, Perf-to-EN,
//! and the difference of each from the baseline, with intervals and a verdict that allows for how
//! many differences were looked at. Definitions: arXiv 2504.16677 (Perf-to-EN: mean over the
//! non-English languages of score / English score, same checkpoint).

use std::collections::BTreeSet;

use anyhow::Result;
use artifact::context::Context;
use rayon::prelude::*;

use crate::ReportConfig;
use crate::arrange::{self, Arranged, Series};
use crate::bootstrap::{self, Draws, Estimate, Statistic};
use crate::further::{Answers, Further};
pub(crate) use crate::quantity::{ALPHA, Change, Measure, Test};
use crate::read::Group;
use crate::statistics::holm;
use crate::words::Unit;

/// Everything that the report shows.
pub(crate) struct Analysis {
    pub curves: Vec<Curve>,
    /// Everything beyond the curves themselves.
    pub further: Further,
    /// The first page.
    pub answers: Answers,
    pub baseline: i64,
    pub draws: usize,
    pub notes: Vec<String>,
}

/// One task, metric and series along n.
pub(crate) struct Curve {
    pub task: String,
    pub metric: String,
    /// Whether this is the metric that the task is judged by first.
    pub headline: bool,
    pub series: Series,
    pub unit: Unit,
    pub points: Vec<Point>,
}

/// One n of a curve. A measure is `None` where it cannot be computed; `notes` say why.
pub(crate) struct Point {
    pub n: i64,
    pub languages: Vec<Language>,
    pub seen: Option<Measure>,
    pub unseen: Option<Measure>,
    pub non_english: Option<Measure>,
    pub perf_to_english: Option<Measure>,
    pub gap: Option<Measure>,
    pub notes: Vec<&'static str>,
}

/// One language at one point.
pub(crate) struct Language {
    pub lang: String,
    pub group: Group,
    pub measure: Measure,
}

impl Analysis {
    /// A language at one n of a curve.
    pub fn language(&self, curve: usize, n: i64, lang: &str) -> Option<&Language> {
        let point = self.curves[curve].points.iter().find(|point| point.n == n)?;
        point.languages.iter().find(|one| one.lang == lang)
    }
}

impl Curve {
    /// The point at the baseline's n.
    pub fn baseline(&self, n: i64) -> Option<&Point> {
        self.points.iter().find(|point| point.n == n)
    }

    /// The point of the largest n, where that is not the baseline.
    pub fn last(&self, baseline: i64) -> Option<&Point> {
        self.points.last().filter(|point| point.n != baseline)
    }
}

impl Point {
    pub fn english(&self) -> Option<&Measure> {
        self.languages
            .iter()
            .find(|language| language.group == Group::English)
            .map(|language| &language.measure)
    }

    /// Seeds and items behind the point: the smallest over its languages.
    pub fn seeds_and_items(&self) -> (usize, usize) {
        let least = |count: fn(&Estimate) -> usize| {
            self.languages
                .iter()
                .map(|language| count(&language.measure.estimate))
                .min()
                .unwrap_or(0)
        };
        (least(|estimate| estimate.seeds), least(|estimate| estimate.items))
    }

    fn summaries(&mut self) -> impl Iterator<Item = &mut Measure> {
        [
            &mut self.seen,
            &mut self.unseen,
            &mut self.non_english,
            &mut self.perf_to_english,
            &mut self.gap,
        ]
        .into_iter()
        .flatten()
    }
}

/// Draws every task's bootstrap and estimates everything.
pub(crate) fn analyse(
    arranged: &Arranged,
    config: &ReportConfig,
    ctx: &Context,
) -> Result<Analysis> {
    let (baseline, count) = (config.baseline.n, enough_draws(arranged, config.draws));
    let mut analysis = Analysis {
        curves: Vec::new(),
        further: Further::default(),
        answers: Answers::default(),
        baseline,
        draws: count,
        notes: arranged.notes.clone(),
    };
    for task in &arranged.tasks {
        let draws = bootstrap::draw(task, count, config.seed, ctx)?;
        let curves: Vec<Curve> =
            task.curves.par_iter().map(|one| curve(one, &draws, baseline)).collect();
        analysis.curves.extend(curves);
    }
    for at in 0..analysis.curves.len() {
        analysis.curves[at].unit = unit(&analysis.curves, at);
    }
    notes(&mut analysis);
    Ok(analysis)
}

/// The settings' draws, or more where Holm needs finer p values: over m differences the smallest p,
/// 2 / (draws + 1), times m must come well below α.
fn enough_draws(arranged: &Arranged, least: usize) -> usize {
    let resampled = |task: &&arrange::Task| {
        task.cells.iter().any(|cell| cell.seeds.len() > 1 || cell.items > 1)
    };
    let curves = arranged.tasks.iter().filter(resampled).flat_map(|task| &task.curves);
    let differences =
        curves.map(|curve| curve.points.iter().map(|point| point.cells.len()).sum::<usize>());
    let needed = differences.max().map_or(0, |most| (3.0 / ALPHA) as usize * most);
    if needed > least { needed.next_multiple_of(1000) } else { least }
}

/// Scores of one task and metric share their unit.
fn unit(curves: &[Curve], at: usize) -> Unit {
    let same = curves
        .iter()
        .filter(|curve| (&curve.task, &curve.metric) == (&curves[at].task, &curves[at].metric));
    let values = same
        .flat_map(|curve| &curve.points)
        .flat_map(|point| &point.languages)
        .map(|language| language.measure.estimate.value);
    Unit::of(&curves[at].metric, values)
}

fn curve(curve: &arrange::Curve, draws: &Draws, baseline: i64) -> Curve {
    let base = curve.points.iter().find(|point| point.n == baseline);
    let mut points: Vec<Point> = curve
        .points
        .iter()
        .map(|one| point(one, base.filter(|base| base.n != one.n), draws))
        .collect();
    adjust(&mut points);
    Curve {
        task: draws.task().name.clone(),
        metric: curve.metric.clone(),
        headline: curve.metric_rank == 0,
        series: curve.series.clone(),
        unit: Unit::Raw,
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
        (!self.others.is_empty())
            .then(|| Statistic::perf_to_english(&self.others, english))
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
        gap.test = Some(Test { p: gap.estimate.p, ..Test::default() });
    }
    let language = |&cell: &usize| {
        let same = |&&before: &&usize| cells[before].lang == cells[cell].lang;
        let from = base
            .and_then(|base| base.cells.iter().find(same))
            .map(|&before| Statistic::cell(before));
        let measure = measure(Statistic::cell(cell), from, draws)?;
        Some(Language { lang: cells[cell].lang.clone(), group: cells[cell].group, measure })
    };
    let languages = point.cells.iter().filter_map(language).collect();
    let mut made =
        Point { n: point.n, languages, seen, unseen, non_english, perf_to_english, gap, notes };
    made.notes.extend(caveat(&made));
    made
}

/// What a reader must know of the interval itself.
fn caveat(point: &Point) -> Option<&'static str> {
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

fn measure(statistic: Statistic, from: Option<Statistic>, draws: &Draws) -> Option<Measure> {
    let estimate = draws.estimate(&statistic)?;
    let change = from.and_then(|from| {
        let before = draws.estimate(&from)?.value;
        let estimate = draws.estimate(&statistic.minus(from))?;
        Some(Change { from: before, test: Test { p: estimate.p, ..Test::default() }, estimate })
    });
    Some(Measure { estimate, test: None, change })
}

/// Holm over each family of a curve: the languages' differences, the means' differences, and the
/// gaps against 0.
fn adjust(points: &mut [Point]) {
    fn family<'a>(tests: impl Iterator<Item = &'a mut Test>) {
        let mut tests: Vec<_> = tests.filter(|test| test.p.is_some()).collect();
        let adjusted = holm(&tests.iter().filter_map(|test| test.p).collect::<Vec<_>>());
        for (test, p) in tests.iter_mut().zip(adjusted) {
            test.p_holm = Some(p);
        }
    }
    fn change(measure: &mut Measure) -> Option<&mut Test> {
        measure.change.as_mut().map(|change| &mut change.test)
    }
    family(
        points
            .iter_mut()
            .flat_map(|point| &mut point.languages)
            .filter_map(|language| change(&mut language.measure)),
    );
    family(points.iter_mut().flat_map(Point::summaries).filter_map(change));
    family(
        points
            .iter_mut()
            .filter_map(|point| point.gap.as_mut())
            .filter_map(|gap| gap.test.as_mut()),
    );
}

/// What holds for the report as a whole.
fn notes(analysis: &mut Analysis) {
    let curves = &analysis.curves;
    let mut notes = BTreeSet::new();
    let whole = |curve: &Curve| {
        format!("{}, {}{}", curve.task, curve.metric, crate::words::series_suffix(&curve.series))
    };
    for curve in curves {
        if curve.baseline(analysis.baseline).is_none() {
            notes.insert(format!(
                "{}: no scores at the baseline n = {}, so no differences from it",
                whole(curve),
                analysis.baseline
            ));
        } else if curve.points.len() == 1 {
            notes.insert(format!(
                "{}: n = {} alone is scored, so nothing to compare along n",
                whole(curve),
                curve.points[0].n
            ));
        }
    }
    let points = || curves.iter().flat_map(|curve| &curve.points);
    for caveat in points().filter_map(caveat).collect::<BTreeSet<_>>() {
        let count = points().filter(|point| point.notes.contains(&caveat)).count();
        let all = points().count();
        let share = if count == all {
            "everywhere".to_string()
        } else {
            format!("at {count} of {all} points")
        };
        notes.insert(format!("{caveat} ({share})"));
    }
    let withheld = points().filter(|point| point.perf_to_english.is_none()).count();
    if withheld > 0 {
        notes.insert(format!("Perf-to-EN is withheld at {withheld} of {} points, where English is not scored or scores 0", points().count()));
    }
    analysis.notes.extend(notes);
}
