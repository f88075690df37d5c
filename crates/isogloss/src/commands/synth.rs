//! `isogloss synth`: generated multilingual data, as raw files.

use std::path::PathBuf;

use ::synth::Config;
use anyhow::Result;
use artifact::Context;
use clap::Args as ClapArgs;

use super::files::{Output, publish, set, settings};

/// Generates multilingual data from templates: parallel by construction, of any size, from a seed.
///
/// Writes <task>.<lang>.<split>.jsonl files, which ingest reads.
#[derive(ClapArgs)]
#[command(after_help = "\
Examples:
  isogloss synth --languages en,es,zh --tasks math --train 2000 --test 100 --out raw
  isogloss ingest raw --map lang=lang,item_id=item_id,task=task,split=split --out examples")]
pub struct Args {
    /// Languages, separated by commas: en, es, fr, ja, zh, ar, ko, pt [default: all].
    #[arg(long, value_name = "LANGS", value_delimiter = ',')]
    languages: Vec<String>,

    /// Tasks, separated by commas: math, summarization, instruction [default: all].
    #[arg(long, value_delimiter = ',')]
    tasks: Vec<String>,

    /// Training items of each task.
    #[arg(long, value_name = "N")]
    train: Option<usize>,

    /// Validation items of each task.
    #[arg(long, value_name = "N")]
    validation: Option<usize>,

    /// Test items of each task.
    #[arg(long, value_name = "N")]
    test: Option<usize>,

    /// Lines of plain text in each language, for language modelling.
    #[arg(long, value_name = "N")]
    text: Option<usize>,

    /// Seed of everything.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Settings as TOML, as [synth] of a pipeline file; flags win over them.
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,

    /// The folder to write.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Does what `isogloss synth` was asked for.
pub fn run(args: Args, ctx: &Context) -> Result<()> {
    let mut config: Config = settings(args.config.as_deref())?;
    if !args.languages.is_empty() {
        config.languages = args.languages;
    }
    for tag in &mut config.languages {
        *tag = language::canonical(tag)?;
    }
    if !args.tasks.is_empty() {
        config.tasks = args.tasks;
    }
    set(&mut config.train, args.train);
    set(&mut config.validation, args.validation);
    set(&mut config.test, args.test);
    set(&mut config.text, args.text);
    set(&mut config.seed, args.seed);
    let output = Output { out: &args.out, stage: "synth", main: None, resume: false };
    publish(&output, ctx, |out| ::synth::run(&config, out, ctx))
}
