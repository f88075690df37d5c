//! What the further analyses found, as plain data: each is computed in the file of its name and
//! drawn by tables, figures and page.
//!
//! `curve` is always a place in `Analysis::curves`; a language at one n of a curve is found by
//! `Analysis::language`.

use serde::Serialize;

use crate::bootstrap::Estimate;
use crate::findings::{Finding, Verdict};
use crate::quantity::{Contrast, Test};
use crate::words::Unit;

/// All of them. An empty list means that the scores hold nothing to compute it from; `notes` of the
/// analysis say why where that is not plain.
#[derive(Default)]
pub(crate) struct Further {
    pub noise: Vec<RunNoise>,
    pub panels: Vec<Panel>,
    pub matrices: Vec<Matrix>,
    pub inclusions: Vec<Inclusion>,
    pub fidelity: Vec<Fidelity>,
    pub extraction: Vec<Extraction>,
    pub plateaus: Vec<Plateau>,
    pub pareto: Vec<Pareto>,
    pub variance: Vec<Variance>,
    pub outliers: Vec<Outlier>,
    pub detectable: Vec<Detectable>,
    pub following: Vec<Following>,
    pub gaps: Vec<GapConstancy>,
}

/// Task, metric, model and setting: what further analyses are of.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct About {
    pub task: String,
    pub metric: String,
    pub model: String,
    pub setting: String,
    /// Whether the metric is the one that the task is judged by first.
    pub headline: bool,
}

impl About {
    /// `math, exact_match (aya-7b · single-task)`.
    pub fn name(&self) -> String {
        let series: Vec<&str> = [self.model.as_str(), self.setting.as_str()]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect();
        let series =
            if series.is_empty() { String::new() } else { format!(" ({})", series.join(" · ")) };
        format!("{}, {}{series}", self.task, self.metric)
    }
}

/// How far runs of one experiment differ.
pub(crate) struct RunNoise {
    pub about: About,
    pub unit: Unit,
    pub source: NoiseSource,
    /// What it is the spread of: one language's score, or the mean over the non-English ones.
    pub of: NoiseOf,
    /// Standard deviation of one run.
    pub sd: f64,
    pub degrees_of_freedom: f64,
    /// The runs' own values, where they are few enough to show: name and value.
    pub runs: Vec<(String, f64)>,
    /// Largest less smallest of them.
    pub range: Option<f64>,
    /// A difference between two runs smaller than this is within noise (t, 95 %, unadjusted).
    pub threshold: f64,
}

/// Where a run-to-run spread was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum NoiseSource {
    /// Runs that differ in their seeds alone.
    Seeds,
    /// Runs that are one experiment by their data: English alone under several names.
    SameData,
    /// Departures from the straight line between neighbours along n (Gasser, Sroka and
    /// Jennen-Steinmetz 1986).
    AlongN,
}

/// What a run-to-run spread is the spread of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum NoiseOf {
    Language,
    NonEnglishMean,
}

/// Two kinds of mixture side by side at the same n: two scripts, two settings.
pub(crate) struct Panel {
    pub about: About,
    pub unit: Unit,
    pub kind: PanelKind,
    /// What tells the sides apart: `Latin: es+fr`. Of several mixtures the mean is taken.
    pub names: [String; 2],
    /// Further curves of the same kind to draw beside them, such as the mixture of both scripts.
    pub beside: Vec<(usize, String)>,
    pub points: Vec<PanelPoint>,
    /// The highest mean over the non-English languages of each, with its n, and their difference.
    pub best: Option<PanelBest>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PanelKind {
    /// Non-English training languages in Latin script against those in other scripts.
    Scripts,
    /// Single-task against multi-task.
    Settings,
}

/// The second curve less the first, at one n.
pub(crate) struct PanelPoint {
    pub n: i64,
    /// The mean over the non-English languages of each side.
    pub means: [Option<Estimate>; 2],
    pub languages: Vec<(String, Contrast)>,
    pub non_english: Option<Contrast>,
    /// Over the languages that neither side was trained on.
    pub unseen_by_both: Option<Contrast>,
}

pub(crate) struct PanelBest {
    pub n: [i64; 2],
    pub values: [f64; 2],
    pub difference: Contrast,
}

/// Source × target at one n: what each mixture's languages did for each target, against the
/// baseline.
pub(crate) struct Matrix {
    pub about: About,
    pub unit: Unit,
    pub n: i64,
    /// The n of the runs that gains are taken from.
    pub baseline: i64,
    /// One row per mixture: its curve and its languages other than English, `es+fr`.
    pub sources: Vec<(usize, String)>,
    pub targets: Vec<String>,
    /// Gains by source and target; `None` where not scored.
    pub gains: Vec<Vec<Option<MatrixCell>>>,
    /// Row means over the targets that the mixture does not hold.
    pub donors: Vec<Option<Contrast>>,
    /// Column means over the mixtures that do not hold the target.
    pub recipients: Vec<Option<Contrast>>,
}

pub(crate) struct MatrixCell {
    pub gain: Contrast,
    /// Whether the mixture holds the target.
    pub own: bool,
}

/// A language with and without examples of its own, at the same n: zero-shot against direct.
pub(crate) struct Inclusion {
    pub about: About,
    pub unit: Unit,
    pub n: i64,
    pub lang: String,
    /// The mixtures with the language and without it, by their other languages, paired place by
    /// place: of all pairs, the nearest.
    pub with: Vec<String>,
    pub without: Vec<String>,
    /// How the mixtures of a pair differ: `the language alone`, `as many languages`, or `languages
    /// and their number`.
    pub pairing: &'static str,
    /// Before any examples: the baseline's n.
    pub base: Option<Estimate>,
    pub zero_shot: Estimate,
    pub direct: Estimate,
    /// Direct less zero-shot: the inclusion effect.
    pub effect: Contrast,
    /// (zero-shot − base) / (direct − base).
    pub ratio: Option<Ratio>,
}

/// A ratio with its Fieller interval.
pub(crate) struct Ratio {
    pub value: Option<f64>,
    pub interval: Option<(f64, f64)>,
    /// Why it is withheld.
    pub withheld: Option<String>,
}

/// In which language a curve's answers are, at one n.
pub(crate) struct Fidelity {
    pub curve: usize,
    pub n: i64,
    /// A language, or "all" for the mean over the languages other than English.
    pub lang: String,
    /// LPR, WPR and their harmonic mean.
    pub line_pass: Option<Estimate>,
    pub word_pass: Option<Estimate>,
    pub combined: Option<Estimate>,
    /// Shares of answers in the language asked for, in English where that was not asked for, and in
    /// any other.
    pub asked: Option<Estimate>,
    pub english: Option<Estimate>,
    pub other: Option<Estimate>,
}

/// How many answers hold a number at all, beside how many are right.
pub(crate) struct Extraction {
    /// The accuracy's curve.
    pub curve: usize,
    pub n: i64,
    pub lang: String,
    pub extracted: Estimate,
    pub accuracy: Estimate,
    /// Accuracy over the answers that hold a number: accuracy / extracted.
    pub of_extracted: Option<Estimate>,
}

/// Where more data stop helping.
pub(crate) struct Plateau {
    pub curve: usize,
    /// `seen`, `unseen`, `non-English`, or a language.
    pub of: String,
    pub shape: Shape,
    /// The n from which on the curve is level, with its 95 % interval where it has one; an end of
    /// `None` lies outside the grid.
    pub at: Option<f64>,
    pub low: Option<f64>,
    pub high: Option<f64>,
    /// The level that it comes to, and its rise from the smallest n.
    pub level: Option<f64>,
    pub rise: Option<f64>,
    /// The fitted line, to draw: n and value.
    pub fit: Vec<(f64, f64)>,
    /// How the fit was made and what it rests on.
    pub note: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Rises, then is level within the grid.
    LevelsOff,
    /// Rises up to the largest n.
    StillRising,
    /// No rise that stands out of the noise.
    Flat,
    /// Falls as n grows.
    Falls,
    /// Too few points, or an interval as wide as the grid.
    Undetermined,
}

/// English against the rest: the points of a task and metric for one model.
pub(crate) struct Pareto {
    pub about: About,
    pub unit: Unit,
    pub points: Vec<ParetoPoint>,
}

pub(crate) struct ParetoPoint {
    pub curve: usize,
    pub n: i64,
    pub english: Estimate,
    pub non_english: Estimate,
    /// No other point is better in one and no worse in the other.
    pub on_front: bool,
    /// Share of the bootstrap's draws in which it is on the front; `None` without draws.
    pub probability: Option<f64>,
}

/// Which factors the scores vary with.
pub(crate) struct Variance {
    /// A task and metric, or all tasks together.
    pub about: String,
    /// What is decomposed: a metric, or `score / English score`.
    pub response: String,
    pub parts: Vec<VariancePart>,
    /// Share that no factor explains: run to run where there are replicates.
    pub residual: f64,
    pub note: String,
}

pub(crate) struct VariancePart {
    /// One factor, or the factors that interact: `task`, `task × model`.
    pub factors: String,
    /// Share of the total variance.
    pub share: f64,
    pub interval: Option<(f64, f64)>,
}

/// A score that does not fit its neighbours.
pub(crate) struct Outlier {
    pub curve: usize,
    pub n: i64,
    pub lang: String,
    pub value: f64,
    /// What the language's other points and the other languages at this n lead to expect.
    pub expected: f64,
    /// Robust standard deviations from there.
    pub z: f64,
    pub test: Test,
    /// One seed's score alone, where the cell holds several.
    pub run: Option<String>,
    /// Names of the runs behind the cell: the `run_id` of its generations.
    pub runs: Vec<String>,
}

/// What these scores could have shown, and what it would take to show what was seen.
pub(crate) struct Detectable {
    pub curve: usize,
    /// `seen`, `unseen`, `non-English`, or a language: its difference from the baseline.
    pub of: String,
    pub n: i64,
    pub observed: Option<f64>,
    pub standard_error: f64,
    /// The smallest difference found four times in five at α = 0.05, two-sided.
    pub smallest: f64,
    pub seeds: usize,
    pub items: usize,
    /// Seeds, at these items, that would find the observed difference four times in five; `None`
    /// where none would (the items alone are too few) or nothing was observed.
    pub seeds_needed: Option<usize>,
    /// Items, at these seeds.
    pub items_needed: Option<usize>,
    pub note: String,
}

/// Whether unseen languages follow the seen ones along n.
pub(crate) struct Following {
    pub curve: usize,
    /// Spearman's rank correlation of the seen and unseen means, and how many n it is over.
    pub correlation: f64,
    pub points: usize,
    /// p of a permutation test, two-sided.
    pub test: Test,
    pub exact: bool,
}

/// Whether the gap between seen and unseen languages stays as it is.
pub(crate) struct GapConstancy {
    pub curve: usize,
    pub unit: Unit,
    /// The gap at the smallest and at the largest n, and the change of its trend between the two.
    pub first: f64,
    pub last: f64,
    pub change: Contrast,
    /// Changes smaller than this count as none.
    pub margin: f64,
    /// p of the two one-sided tests that the change is within the margin.
    pub equivalence: Test,
    pub shape: GapShape,
    pub note: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GapShape {
    /// Equivalent to constant, within the margin.
    Constant,
    Grows,
    Shrinks,
    /// Neither shown.
    Undecided,
}

/// The first page: questions with their answers.
#[derive(Default)]
pub(crate) struct Answers {
    pub questions: Vec<Question>,
    /// Mixtures for the budget and targets of the settings, one for each model and setting; empty
    /// where they ask for none.
    pub suggestions: Vec<Suggestion>,
}

/// One question and the sentences that answer it, each with its verdict.
#[derive(Clone, Debug, Serialize)]
pub struct Question {
    /// Stable, to link to: `bought`, `unseen`, `plateau`, `variance`, `noise`, `next`, `mixture`.
    pub id: &'static str,
    /// As a reader asks it.
    pub question: String,
    /// Its answers, each with its numbers.
    pub answers: Vec<Finding>,
}

/// A mixture for a budget.
pub(crate) struct Suggestion {
    /// Model and setting.
    pub about: String,
    /// Examples per task beside the English ones.
    pub budget: i64,
    pub targets: Vec<String>,
    /// Examples by language; empty where the suggestion is withheld.
    pub counts: Vec<(String, i64)>,
    /// Expected scores of the target languages.
    pub expected: Vec<Expected>,
    pub verdict: Verdict,
    /// Why it is withheld, or what it rests on.
    pub note: String,
}

pub(crate) struct Expected {
    pub task: String,
    pub metric: String,
    pub unit: Unit,
    pub lang: String,
    /// The curve that it is read from.
    pub curve: usize,
    /// Lies outside the grid, or is of a language that the scores do not hold.
    pub extrapolated: bool,
    pub value: f64,
    pub interval: Option<(f64, f64)>,
}
