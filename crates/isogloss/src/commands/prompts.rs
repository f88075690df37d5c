//! `isogloss prompts`: test examples become prompts by their tasks' templates.

use std::path::PathBuf;

use ::eval::PromptConfig;
use anyhow::Result;
use artifact::Context;
use clap::Args as ClapArgs;

use super::files::{Input, Output, paths, publish, set, settings};

/// Makes prompts from test examples by their tasks' templates and few-shot examples.
///
/// Writes prompts.parquet, which `isogloss generate` or any other engine answers.
#[derive(ClapArgs)]
#[command(after_help = "Example:\n  isogloss prompts examples.parquet --shots 8 --out prompts")]
pub struct Args {
    /// Examples, those for the shots among them (`-`: Arrow IPC stream on stdin).
    #[arg(required = true)]
    examples: Vec<PathBuf>,

    /// A task file, besides the tasks that come with the tool; may be repeated.
    #[arg(long = "task", value_name = "TASK.toml")]
    tasks: Vec<PathBuf>,

    /// Languages to ask, separated by commas [default: all].
    #[arg(long, value_name = "LANGS", value_delimiter = ',')]
    languages: Vec<String>,

    /// Solved examples before each question [default: what the task says].
    #[arg(long, value_name = "N")]
    shots: Option<usize>,

    /// At most this many items a language [default: what the task says].
    #[arg(long, value_name = "N")]
    max_items: Option<usize>,

    /// The split that is asked [default: test].
    #[arg(long)]
    split: Option<String>,

    /// Settings as TOML; flags win over them.
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,

    /// The folder to write, or `-` for an Arrow IPC stream on stdout.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Does what `isogloss prompts` was asked for.
pub fn run(args: Args, ctx: &Context) -> Result<()> {
    let mut config: PromptConfig = settings(args.config.as_deref())?;
    config.tasks.extend(args.tasks);
    set(&mut config.split, args.split);
    if !args.languages.is_empty() {
        config.languages = args.languages;
    }
    config.shots = args.shots.or(config.shots);
    config.max_items = args.max_items.or(config.max_items);
    let examples = Input::examples(&args.examples, ctx)?;
    let output =
        Output { out: &args.out, stage: "prompts", main: Some("prompts.parquet"), resume: false };
    publish(&output, ctx, |out| ::eval::prompts(&config, &paths(&examples), out, ctx))
}
