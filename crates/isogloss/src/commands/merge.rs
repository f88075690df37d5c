//! `isogloss merge`: an adapter put into its base model.

use std::path::PathBuf;

use ::train::config::SavedDtype;
use anyhow::Result;
use artifact::Context;
use clap::Args as ClapArgs;

use super::files::{Output, publish};
use crate::remote::model_folder;

/// Makes a whole model of an adapter (LoRA) and its base model.
///
/// Takes what `isogloss train` with [train.lora] wrote, or a folder of PEFT. Writes a Hugging Face folder that
/// needs neither the adapter nor PEFT. `isogloss generate` and the pipeline take adapters as they are. An adapter
/// that was trained over a base in 4 bits (`quantize`) goes into the base model as it is.
#[derive(ClapArgs)]
#[command(after_help = "\
Examples:
  isogloss merge tuned/model --out whole
  isogloss merge adapter --base hf://Qwen/Qwen3-0.6B --dtype bf16 --out whole")]
pub struct Args {
    /// The adapter's folder, with adapter_config.json, or hf://owner/name[@revision].
    #[arg(value_name = "ADAPTER")]
    adapter: PathBuf,

    /// The base model, a Hugging Face folder or hf://owner/name[@revision] [default: the one that the adapter names].
    #[arg(long, value_name = "MODEL")]
    base: Option<PathBuf>,

    /// Type of the saved values: f32 or bf16.
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = super::train::choice::<SavedDtype>)]
    dtype: SavedDtype,

    /// The folder to write.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Does what `isogloss merge` was asked for.
pub fn run(args: Args, ctx: &Context) -> Result<()> {
    let adapter = model_folder(&args.adapter, ctx)?;
    let base = args.base.map(|base| model_folder(&base, ctx)).transpose()?;
    let output = Output { out: &args.out, stage: "merge", main: None, resume: false };
    publish(&output, ctx, |out| ::train::merge(&adapter, base.as_deref(), args.dtype.into(), out))
}
