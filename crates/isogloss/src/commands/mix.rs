//! `isogloss mix`: mixtures by a design, on plain files.

use std::path::PathBuf;

use anyhow::Result;
use artifact::Context;
use clap::Args as ClapArgs;

use super::files::{Input, Output, paths, publish};
use crate::remote::tokenizer_folder;

/// Draws training mixtures from examples by a design.
///
/// Writes mixtures/<id>/mixture.parquet for each point of the design, mixtures.parquet (the index: the
/// factors, rows and tokens by language and task), validation.parquet and leaks.parquet.
#[derive(ClapArgs)]
#[command(after_help = "\
Example:
  isogloss mix examples.parquet --design design.toml --tokenizer models/small --out mixtures

  with design.toml:
    tasks = [\"math\"]
    languages = [\"en\", \"es\", \"zh\"]
    english = 2000
    n = [0, 100, 400]          # per language other than English
    seeds = [1, 2, 3]")]
pub struct Args {
    /// Examples (examples.parquet, or the folder of ingest's output; `-`: Arrow IPC stream on stdin).
    #[arg(required = true)]
    examples: Vec<PathBuf>,

    /// The design: a TOML file of factors.
    #[arg(long, value_name = "DESIGN.toml")]
    design: PathBuf,

    /// A model folder, its address on the Hub, or a tokenizer.json, to count tokens with.
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,

    /// The folder to write.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Does what `isogloss mix` was asked for.
pub fn run(args: Args, ctx: &Context) -> Result<()> {
    let design: ::mix::Design = artifact::config::load_toml(&args.design)?;
    let examples = Input::examples(&args.examples, ctx)?;
    let tokenizer = args.tokenizer.map(|path| tokenizer_folder(&path, ctx)).transpose()?;
    let output = Output { out: &args.out, stage: "mix", main: None, resume: false };
    publish(&output, ctx, |out| {
        ::mix::run(&design, &paths(&examples), tokenizer.as_deref(), out, ctx)
    })
}
