//! What transferred, and how sure that is: scores in; tables, figures and a self-contained page out.
//!
//! The flow is one line of steps, each in its file:
//!
//! 1. `read` (over `source`): Parquet or CSV files, ours or anyone's, become score rows;
//! 2. `arrange`: rows become, per task, cells (metric × series × n × language), which hold their
//!    items' scores seed by seed;
//! 3. `bootstrap`: items and seeds are resampled, the same draw for every cell of a task, so that
//!    differences are paired;
//! 4. `analyse`: `curves` (seen and unseen means, the gap, Perf-to-EN and the differences from the
//!    baseline, each with its interval), then each further analysis in its file;
//! 5. `findings`, `tables` (written by `forms`), `figures` (drawn by `chart`), `samples` and `page`:
//!    what a person reads.
//!
//! Definitions follow arXiv 2504.16677 (Perf-to-EN, seen against unseen, the gap).

mod analyse;
mod answers;
mod arrange;
mod bootstrap;
mod chart;
mod curves;
mod detectable;
mod drill;
mod extraction;
mod fidelity;
mod figures;
mod findings;
mod following;
mod forms;
mod further;
mod further_tables;
mod ground;
mod inclusion;
mod matrix;
mod next;
mod noise;
mod outliers;
mod page;
mod panels;
mod pareto;
mod plateau;
mod quantity;
mod read;
mod samples;
mod scale;
mod source;
mod suggest;
mod svg;
mod table;
mod tables;
mod transfer;
mod variance;
mod words;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use artifact::context::Context;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use findings::{Finding, Verdict};
pub use further::Question;
pub use tables::KeyTable;

/// Settings of the report stage.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReportConfig {
    /// Heading of the page.
    pub title: String,
    /// Canonical column name to the name that the input uses, such as `lang = "eval_lang"`.
    pub map: BTreeMap<String, String>,
    /// The run that differences are taken from.
    pub baseline: Baseline,
    /// Metrics to report, the first of each task being its headline; empty for all, in the order of
    /// the input.
    pub metrics: Vec<String>,
    /// Bootstrap draws; more are taken where a table holds so many differences that Holm's
    /// adjustment needs them.
    pub draws: usize,
    /// Seed of the bootstrap.
    pub seed: u64,
    /// A change of the gap smaller than this share of the metric's scale counts as none, when it is
    /// asked whether the gap is constant.
    pub gap_margin: f64,
    /// Examples per task, beside the English ones, that a suggested mixture may hold; without it none
    /// is suggested.
    pub budget: Option<i64>,
    /// The languages that the suggested mixture is for; empty for all but English.
    pub targets: Vec<String>,
    /// Generations to show examples from.
    pub samples: Option<Samples>,
}

/// The baseline of every difference: the same series at this n.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// Examples per seen language other than English.
    pub n: i64,
}

/// Generations that the page shows a few of, behind the scores.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Samples {
    /// `generations.parquet` files.
    pub generations: Vec<PathBuf>,
    /// Answers per cell (task, mixture, n and language): in turn the largest loss against the
    /// baseline, the lowest score, the largest gain, the highest.
    pub per_cell: usize,
    /// How much text the page may hold; it says what it leaves out.
    pub megabytes: f64,
}

impl Samples {
    const PER_CELL: usize = 4;
    const MEGABYTES: f64 = 4.0;
}

impl Default for Samples {
    fn default() -> Self {
        Samples { generations: Vec::new(), per_cell: Self::PER_CELL, megabytes: Self::MEGABYTES }
    }
}

impl Default for ReportConfig {
    fn default() -> Self {
        ReportConfig {
            title: "Cross-lingual transfer".into(),
            map: BTreeMap::new(),
            baseline: Baseline { n: 0 },
            metrics: Vec::new(),
            draws: 10_000,
            seed: 1,
            gap_margin: 0.02,
            budget: None,
            targets: Vec::new(),
            samples: None,
        }
    }
}

/// What the report found: the terminal's key table (by [`fmt::Display`]) and the counts for a
/// manifest.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Score rows read.
    pub rows: u64,
    /// Runs (or seeds, where the input does not name runs).
    pub runs: usize,
    /// Languages scored.
    pub languages: usize,
    /// The questions that the results answer.
    pub answers: Vec<Question>,
    /// What each series shows, sentence by sentence.
    pub findings: Vec<Finding>,
    /// What could not be computed, and why.
    pub notes: Vec<String>,
    /// The key table: one row per task and series, from the baseline to the largest n.
    pub key_table: KeyTable,
}

/// Answers to a question that a terminal shows before it points to the page.
const ANSWERS_SHOWN: usize = 6;

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key_table.to_terminal())?;
        for question in &self.answers {
            writeln!(f, "\n{}", question.question)?;
            let shown = &question.answers[..question.answers.len().min(ANSWERS_SHOWN)];
            for answer in shown {
                let text = format!("{}. {}: {}", answer.about, answer.topic, answer.text);
                let lines = words::wrap(&text, 100);
                writeln!(f, "  {:<16}  {}", answer.verdict, lines.join("\n                    "))?;
            }
            if question.answers.len() > shown.len() {
                let left = question.answers.len() - shown.len();
                writeln!(f, "  … and {left} more in index.html")?;
            }
        }
        for note in &self.notes {
            writeln!(f, "\nnote: {note}")?;
        }
        Ok(())
    }
}

/// Makes the report of `scores` (Parquet or CSV; item-level or aggregates) in the existing folder
/// `out`: `transfer.parquet`, `tables/`, `figures/` and `index.html`.
///
/// # Errors
/// A user error where a file lacks a column, holds a value of another type or the same score twice,
/// or where there is nothing to report on. What merely cannot be computed (no English row, no
/// items, one seed) becomes a note.
pub fn run(
    config: &ReportConfig,
    scores: &[PathBuf],
    out: &Path,
    ctx: &Context,
) -> Result<Summary> {
    check(config)?;
    let input = read::read(scores, config, ctx)?;
    let arranged = arrange::arrange(&input, config)?;
    let analysis = analyse::analyse(&arranged, config, ctx)?;
    let findings = findings::findings(&analysis);
    let cells = samples::collect(config.samples.as_ref(), &input, &analysis, ctx)?;
    let tables = tables::all(&analysis);
    tables.write(&analysis, out)?;
    transfer::write(&analysis, &out.join("transfer.parquet"))?;
    let figures = figures::all(&analysis);
    figures::write(&figures, out)?;
    let summary = Summary {
        rows: input.count as u64,
        runs: input.runs(),
        languages: input.langs.list.len(),
        answers: analysis.answers.questions.clone(),
        findings,
        notes: analysis.notes.clone(),
        key_table: tables.key.clone(),
    };
    page::write(
        &page::Page {
            config,
            input: &input,
            analysis: &analysis,
            tables: &tables,
            figures: &figures,
            cells: &cells,
            summary: &summary,
        },
        out,
    )?;
    Ok(summary)
}

/// Settings that cannot be meant.
fn check(config: &ReportConfig) -> Result<()> {
    if config.draws < 100 {
        artifact::bail_user!(
            "draws = {} is too few for a 95 % interval: 100 or more, 10,000 by default",
            config.draws
        );
    }
    if !(config.gap_margin > 0.0 && config.gap_margin < 1.0) {
        artifact::bail_user!(
            "gap_margin = {} must be a share of the metric's scale, above 0 and below 1, such as 0.02",
            config.gap_margin
        );
    }
    if let Some(budget) = config.budget.filter(|&budget| budget < 1) {
        artifact::bail_user!("budget = {budget} must be 1 example or more");
    }
    for target in &config.targets {
        language::canonical(target)?;
    }
    Ok(())
}
