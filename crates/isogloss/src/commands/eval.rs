//! `isogloss eval`: scores for generations, ours or anyone's.

use std::path::PathBuf;

use ::eval::metric::METRICS;
use ::eval::{Config, Metric};
use anyhow::Result;
use artifact::Context;
use artifact::schema::GENERATIONS;
use clap::Args as ClapArgs;
use language::Accuracy;

use super::files::{Output, prompts, publish, set, settings, tables};
use super::train::choice;

const USES: &str = "\
Examples:
  isogloss eval answers/generations.parquet --out scores
  isogloss eval theirs.jsonl --map generation=output,reference=gold --metric chrf --out scores
  isogloss eval vllm.jsonl.gz --map generation=outputs[0].text,reference=gold \\
    --lang de --task math --out scores
  isogloss eval batch_output.jsonl --prompts prompts \\
    --map example_id=custom_id,generation=response.body.choices[0].message.content --out scores
  isogloss eval lm_eval_out/*/samples_mgsm_*.jsonl --task math --out scores";

/// The examples, and every metric with what it measures.
fn long_help() -> String {
    let widest = METRICS.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
    let line = |(name, _, about): &(&str, Metric, &str)| format!("\n  {name:widest$}  {about}");
    format!("{USES}\n\nMetrics:{}", METRICS.iter().map(line).collect::<String>())
}

/// Scores generations, ours or anyone's: one row per item and metric.
///
/// A file needs the columns lang, generation and, for most metrics, reference; --map names columns
/// that are called otherwise. Writes scores.parquet.
#[derive(ClapArgs)]
#[command(after_help = USES, after_long_help = long_help())]
pub struct Args {
    /// Generations: Parquet, JSONL or CSV (also .gz, .zst); samples_*.jsonl of lm-evaluation-harness; or the folder of generate's
    /// output. A path, or hf://datasets/owner/name/FILE.
    #[arg(required = true)]
    generations: Vec<PathBuf>,

    /// Column names that differ: ours=theirs, separated by commas. A path names a value inside, such as
    /// generation=outputs[0].text.
    #[arg(long, value_name = "OURS=THEIRS", value_delimiter = ',', value_parser = super::files::pair)]
    map: Vec<(String, String)>,

    /// The task of rows that name none.
    #[arg(long)]
    task: Option<String>,

    /// The language of rows that name none.
    #[arg(long)]
    lang: Option<String>,

    /// Prompts or examples (Parquet) to take lang, task and reference from, by example_id.
    #[arg(long, value_name = "PROMPTS")]
    prompts: Option<PathBuf>,

    /// A task file, besides the tasks that come with the tool; may be repeated.
    #[arg(long = "task-file", value_name = "TASK.toml")]
    tasks: Vec<PathBuf>,

    /// A metric for every row, instead of those of its task; may be repeated. --help lists them.
    #[arg(long = "metric", value_name = "METRIC", value_parser = choice::<Metric>)]
    metrics: Vec<Metric>,

    /// The folder of a MeCab dictionary, for the metrics that segment Japanese (rouge_l_xlsum and its
    /// like: UniDic; bleu: IPADIC).
    #[arg(long, value_name = "DIR")]
    mecab: Option<PathBuf>,

    /// How the language of answers is identified: accurate, or fast, which cannot tell Swahili and a few
    /// words [default: accurate].
    #[arg(long, value_parser = choice::<Accuracy>)]
    detector: Option<Accuracy>,

    /// Settings as TOML; flags win over them.
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,

    /// The folder to write, or `-` for an Arrow IPC stream on stdout.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Does what `isogloss eval` was asked for.
pub fn run(args: Args, ctx: &Context) -> Result<()> {
    let mut config: Config = settings(args.config.as_deref())?;
    config.tasks.extend(args.tasks);
    config.map.extend(args.map);
    set(&mut config.detector, args.detector);
    config.task = args.task.or(config.task);
    config.lang = args.lang.or(config.lang);
    config.mecab = args.mecab.or(config.mecab);
    config.prompts = args.prompts.map(|path| prompts(&path, ctx)).transpose()?;
    if !args.metrics.is_empty() {
        config.metrics = args.metrics;
    }
    let generations = tables(&args.generations, &GENERATIONS, ctx)?;
    let output =
        Output { out: &args.out, stage: "eval", main: Some("scores.parquet"), resume: false };
    publish(&output, ctx, |out| ::eval::run(&config, &generations, out, ctx))
}
