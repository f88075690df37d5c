//! `isogloss tokenizer`: trains a tokenizer on examples.

use std::path::PathBuf;

use ::train::TokenizerConfig;
use anyhow::Result;
use artifact::Context;
use artifact::schema::EXAMPLES;
use clap::Args as ClapArgs;

use super::files::{Input, Output, publish, set, settings};

/// Trains a byte-level BPE tokenizer on the training examples' text.
///
/// Writes tokenizer.json and tokenizer_config.json, which Hugging Face tokenizers load.
#[derive(ClapArgs)]
#[command(
    after_help = "Example:\n  isogloss tokenizer --data examples.parquet --vocab-size 8192 --out tokenizer"
)]
pub struct Args {
    /// Examples (examples.parquet, a folder that holds it, or `-` for an Arrow IPC stream on stdin).
    #[arg(long, value_name = "EXAMPLES")]
    data: PathBuf,

    /// Ids in all [default: 8192].
    #[arg(long, value_name = "N")]
    vocab_size: Option<usize>,

    /// How often a pair must occur to be merged [default: 2].
    #[arg(long, value_name = "N")]
    min_frequency: Option<u64>,

    /// Settings as TOML; flags win over them.
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,

    /// The folder to write.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Does what `isogloss tokenizer` was asked for.
pub fn run(args: Args, ctx: &Context) -> Result<()> {
    let mut config: TokenizerConfig = settings(args.config.as_deref())?;
    set(&mut config.vocab_size, args.vocab_size);
    set(&mut config.min_frequency, args.min_frequency);
    let data = Input::own(&args.data, &[&EXAMPLES], ctx)?;
    let output = Output { out: &args.out, stage: "tokenizer", main: None, resume: false };
    publish(&output, ctx, |out| ::train::train_tokenizer(&config, &data.path, out, ctx))
}
