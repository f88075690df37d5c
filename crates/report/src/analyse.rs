//! The flow of the analysis: bootstrap draws of every task, its curves with their differences from
//! the baseline, then each further analysis, a file of its own. What comes out is plain data.

use std::collections::BTreeSet;

use anyhow::Result;
use artifact::context::Context;

use crate::ReportConfig;
use crate::arrange::{self, Arranged, Series};
use crate::bootstrap::{Draws, Estimate};
use crate::curves;
use crate::further::{About, Answers, Further};
use crate::ground::Ground;
pub(crate) use crate::quantity::{ALPHA, Change, Measure, Test};
use crate::read::Group;
use crate::scale::Scale;
use crate::words::Unit;
use crate::{
    answers, detectable, extraction, fidelity, following, inclusion, matrix, noise, outliers,
    panels, pareto, plateau, suggest, variance,
};

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
#[derive(Clone)]
pub(crate) struct Curve {
    pub task: String,
    pub metric: String,
    /// Whether this is the metric that the task is judged by first.
    pub headline: bool,
    pub series: Series,
    pub scale: Scale,
    pub unit: Unit,
    /// Its task and its place there, as arranged.
    pub place: (usize, usize),
    pub points: Vec<Point>,
}

/// How many numbers over several languages a point has.
pub(crate) const SUMMARIES: usize = 5;

/// One n of a curve. A measure is `None` where it cannot be computed; `notes` say why.
#[derive(Clone, Default)]
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
#[derive(Clone)]
pub(crate) struct Language {
    pub lang: String,
    pub group: Group,
    /// Its cell, as arranged.
    pub cell: usize,
    pub measure: Measure,
}

impl Curve {
    /// What the curves share whose languages alone differ.
    pub fn family(&self) -> (About, String) {
        (self.about(), self.series.variant.clone())
    }

    /// What further analyses group it by.
    pub fn about(&self) -> About {
        About {
            task: self.task.clone(),
            metric: self.metric.clone(),
            model: self.series.model.clone(),
            setting: self.series.setting.clone(),
            headline: self.headline,
        }
    }

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

    /// The languages other than English.
    pub fn others(&self) -> impl Iterator<Item = &Language> {
        self.languages.iter().filter(|language| language.group != Group::English)
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

    /// The numbers over several languages.
    pub fn summaries(&mut self) -> [&mut Option<Measure>; SUMMARIES] {
        [
            &mut self.seen,
            &mut self.unseen,
            &mut self.non_english,
            &mut self.perf_to_english,
            &mut self.gap,
        ]
    }
}

/// Draws every task's bootstrap and estimates everything.
pub(crate) fn analyse(
    arranged: &Arranged,
    config: &ReportConfig,
    ctx: &Context,
) -> Result<Analysis> {
    let (baseline, count) = (config.baseline.n, enough_draws(arranged, config.draws));
    let bar = ctx.bar("bootstrap", "tasks", Some(arranged.tasks.len() as u64));
    let mut draws: Vec<Draws> = Vec::new();
    for task in &arranged.tasks {
        ctx.check()?;
        draws.push(Draws::new(task, count, config.seed)?);
        bar.inc(1);
    }
    bar.finish();
    let outline = curves::outline(&draws);
    let curves = curves::estimated(&Ground::new(&outline, &draws, baseline, config.seed));
    let ground = Ground::new(&curves, &draws, baseline, config.seed);
    let further = Further {
        noise: noise::table(&ground),
        panels: panels::panels(&ground),
        matrices: matrix::matrices(&ground),
        inclusions: inclusion::inclusions(&ground),
        fidelity: fidelity::fidelity(&ground),
        extraction: extraction::extraction(&ground),
        plateaus: plateau::plateaus(&ground),
        pareto: pareto::fronts(&ground),
        following: following::following(&ground),
        gaps: following::gaps(&ground, config.gap_margin),
        detectable: detectable::detectable(&ground),
        variance: variance::variance(&ground),
        outliers: outliers::outliers(&ground),
    };
    let suggestions = match config.budget {
        Some(budget) => {
            suggest::suggestions(&ground, &suggest::Wish { budget, targets: &config.targets })
        }
        None => Vec::new(),
    };
    drop(ground);
    let mut analysis = Analysis {
        curves,
        further,
        answers: Answers { suggestions, ..Answers::default() },
        baseline,
        draws: count,
        notes: arranged.notes.clone(),
    };
    notes(&mut analysis);
    analysis.answers.questions = answers::answers(&analysis);
    Ok(analysis)
}

/// The settings' draws, or more where Holm needs finer p values: over m differences the smallest p,
/// 2 / (draws + 1), times m must come well below α.
fn enough_draws(arranged: &Arranged, least: usize) -> usize {
    let resampled =
        |task: &&arrange::Task| task.cells.iter().any(|cell| cell.runs.len() > 1 || cell.items > 1);
    let curves = arranged.tasks.iter().filter(resampled).flat_map(|task| &task.curves);
    let differences =
        curves.map(|curve| curve.points.iter().map(|point| point.cells.len()).sum::<usize>());
    let needed = differences.max().map_or(0, |most| (3.0 / ALPHA) as usize * most);
    if needed > least { needed.next_multiple_of(1000) } else { least }
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
    for caveat in points().filter_map(curves::caveat).collect::<BTreeSet<_>>() {
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
