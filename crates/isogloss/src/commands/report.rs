//! `isogloss report`: tables, figures and a page from scores, ours or anyone's.

use std::path::PathBuf;

use ::report::{Baseline, ReportConfig, Samples};
use anyhow::Result;
use artifact::Context;
use artifact::schema::{GENERATIONS, SCORES};
use clap::Args as ClapArgs;

use super::files::{Output, publish, set, settings, tables};

/// Makes tables, figures and a page from scores, ours or anyone's.
///
/// Takes scores of items, or aggregates such as a paper's table (Parquet or CSV); --map names columns
/// that are called otherwise. Writes transfer.parquet, tables/ (CSV, Parquet, Markdown, LaTeX), figures/ (SVG)
/// and index.html, which opens without a network.
#[derive(ClapArgs)]
#[command(after_help = "\
Examples:
  isogloss report scores/*.parquet --out report
  isogloss report tables.csv --map lang=eval_lang,value=score --out report
  isogloss report scores/*.parquet --budget 10000 --targets sw,th --out report")]
pub struct Args {
    /// Scores: Parquet or CSV; or the folder of eval's output.
    #[arg(required = true)]
    scores: Vec<PathBuf>,

    /// Column names that differ: ours=theirs, separated by commas.
    #[arg(long, value_name = "OURS=THEIRS", value_delimiter = ',', value_parser = super::files::pair)]
    map: Vec<(String, String)>,

    /// The page's heading.
    #[arg(long)]
    title: Option<String>,

    /// The n that differences are taken from [default: 0].
    #[arg(long, value_name = "N")]
    baseline_n: Option<i64>,

    /// Metrics to report, separated by commas; the first of each task is its headline [default: all].
    #[arg(long, value_delimiter = ',')]
    metrics: Vec<String>,

    /// Suggest a mixture of so many examples a task, beside the English ones.
    #[arg(long, value_name = "EXAMPLES")]
    budget: Option<i64>,

    /// The languages that the suggested mixture is for, separated by commas [default: all but English].
    #[arg(long, value_delimiter = ',', value_name = "LANGUAGES", requires = "budget")]
    targets: Vec<String>,

    /// Bootstrap draws [default: 10000].
    #[arg(long, value_name = "COUNT")]
    draws: Option<usize>,

    /// A change of the gap below this share of the metric's scale counts as none [default: 0.02].
    #[arg(long, value_name = "SHARE")]
    gap_margin: Option<f64>,

    /// Generations to show examples from; may be repeated.
    #[arg(long, value_name = "GENERATIONS")]
    samples: Vec<PathBuf>,

    /// Settings as TOML; flags win over them.
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,

    /// The folder to write.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Does what `isogloss report` was asked for.
pub fn run(args: Args, ctx: &Context) -> Result<()> {
    let mut config: ReportConfig = settings(args.config.as_deref())?;
    config.map.extend(args.map);
    set(&mut config.title, args.title);
    set(&mut config.baseline, args.baseline_n.map(|n| Baseline { n }));
    set(&mut config.draws, args.draws);
    set(&mut config.gap_margin, args.gap_margin);
    config.budget = args.budget.or(config.budget);
    if !args.targets.is_empty() {
        config.targets = args.targets;
    }
    if !args.metrics.is_empty() {
        config.metrics = args.metrics;
    }
    if !args.samples.is_empty() {
        let samples = config.samples.unwrap_or_default();
        config.samples =
            Some(Samples { generations: tables(&args.samples, &GENERATIONS, ctx)?, ..samples });
    }
    let scores = tables(&args.scores, &SCORES, ctx)?;
    let output = Output { out: &args.out, stage: "report", main: None, resume: false };
    publish(&output, ctx, |out| ::report::run(&config, &scores, out, ctx))
}
