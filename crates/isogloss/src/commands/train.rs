//! `isogloss train`: trains a model on a mixture, on plain files.

use std::path::PathBuf;

use ::train::config::{Objective, Preset};
use ::train::device::Device;
use ::train::lora::Quantize;
use ::train::model::Recompute;
use ::train::{BaseModel, InitConfig, RowsFile, Shared, TrainConfig, TrainData};
use anyhow::Result;
use artifact::bail_user;
use artifact::schema::{EXAMPLES, MIXTURE};
use artifact::{Context, publish::can_resume};
use clap::Args as ClapArgs;
use serde::Deserialize;
use serde::de::value::{Error, StrDeserializer};

use super::files::{Input, Output, publish, settings};
use super::worker;
use crate::console::print;
use crate::remote::{model_folder, outline_folder, tokenizer_folder};

/// Trains a model on a mixture.
///
/// Writes model/ (a Hugging Face folder, or PEFT's of an adapter), metrics.parquet and tensorboard/. Ctrl-C leaves a checkpoint beside
/// the output; --resume goes on from it and gives the same result bit for bit. While it runs, all of it stands
/// in .OUT.partial/ beside the output.
#[derive(ClapArgs)]
#[command(after_help = "\
Examples:
  isogloss train --model models/small --data mixture.parquet --epochs 2 --out tuned
  isogloss train --model models/small --data mixture.parquet --lora-rank 16 --out adapter
  isogloss train --model models/large --data mixture.parquet --lora-rank 16 --quantize nf4 --out adapter
  isogloss train --model models/small --data mixture.parquet --ranks 4 --out tuned
  isogloss train --model models/small --data mixture.parquet --dry-run
  isogloss train --model models/large --data mixture.parquet --dry-run --memory 141GB
  isogloss train --init shape.toml --tokenizer tok --data examples.parquet --objective lm --out base")]
pub struct Args {
    /// The base model: a Hugging Face folder, or hf://owner/name[@revision]. An adapter's folder is merged into its
    /// base and all of it tuned, or, with [lora] in --config, its own training goes on.
    #[arg(long, value_name = "MODEL", required_unless_present = "init")]
    model: Option<PathBuf>,

    /// A model with random weights of this shape: a TOML or JSON file with config.json's names.
    #[arg(long, value_name = "FILE", conflicts_with = "model", requires = "tokenizer")]
    init: Option<PathBuf>,

    /// The tokenizer's folder, or a model's address on the Hub, for a model with random weights.
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,

    /// mixture.parquet, or examples, whose train split is taken (`-`: Arrow IPC stream on stdin); a path, or
    /// hf://datasets/owner/name/FILE.
    #[arg(long, value_name = "MIXTURE")]
    data: PathBuf,

    /// Examples to validate on; by default the validation split of --data.
    #[arg(long, value_name = "EXAMPLES")]
    validation: Option<PathBuf>,

    /// Settings as TOML; flags win over them.
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,

    #[command(flatten)]
    flags: Flags,

    /// Goes on from the checkpoint that an interrupted run left.
    #[arg(long)]
    resume: bool,

    /// Encodes and packs the data, checks everything, tells what the steps would be made of and what memory they
    /// would take; trains nothing.
    #[arg(long, conflicts_with = "resume")]
    dry_run: bool,

    /// With --dry-run: plans the memory for a card of this size that need not be there (141GB, 80GiB). The model's
    /// folder needs no weights then, config.json and the tokenizer are enough.
    #[arg(long, value_name = "SIZE", requires = "dry_run", value_parser = card_memory)]
    memory: Option<u64>,

    /// The folder to write.
    #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
    out: Option<PathBuf>,
}

/// The settings that people vary most; the others stand in `--config`.
#[derive(ClapArgs)]
struct Flags {
    /// Where other settings' defaults come from: study or pretrain [default: study].
    #[arg(long, value_parser = choice::<Preset>)]
    preset: Option<Preset>,

    /// sft (loss on assistant tokens) or lm (on all tokens).
    #[arg(long, value_parser = choice::<Objective>)]
    objective: Option<Objective>,

    /// Passes over the data.
    #[arg(long, value_name = "N", conflicts_with = "steps")]
    epochs: Option<f64>,

    /// Optimiser steps, instead of epochs.
    #[arg(long, value_name = "N")]
    steps: Option<u64>,

    /// Sequences per optimiser step.
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,

    /// Most tokens in a sequence.
    #[arg(long, value_name = "N")]
    sequence_length: Option<usize>,

    /// Peak learning rate.
    #[arg(long, value_name = "RATE")]
    learning_rate: Option<f64>,

    /// Train a low-rank adapter (LoRA) of this rank; what else it is (dora = true, …) stands in [lora] of --config.
    #[arg(long, value_name = "N")]
    lora_rank: Option<usize>,

    /// Keep the base model in 4 bits under the adapter (QLoRA): nf4.
    #[arg(long, value_name = "FORM", value_parser = choice::<Quantize>)]
    quantize: Option<Quantize>,

    /// Training seed.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Steps between checkpoints.
    #[arg(long, value_name = "N")]
    save_every: Option<u64>,

    /// Leave this many of the last checkpoints beside the model, as model folders.
    #[arg(long, value_name = "N")]
    keep: Option<usize>,

    /// End after this many validations without progress.
    #[arg(long, value_name = "N")]
    patience: Option<u64>,

    /// What the backward pass makes again to save memory: none, internals or block [default: what fits].
    #[arg(long, value_parser = choice::<Recompute>)]
    recompute: Option<Recompute>,

    /// auto, cpu or cuda.
    #[arg(long, value_parser = device)]
    device: Option<Device>,

    /// Processes that share the run: one a card, or with a part of the threads each.
    #[arg(long, value_name = "N")]
    ranks: Option<usize>,
}

/// Reads a card's memory.
pub fn card_memory(text: &str) -> Result<u64, String> {
    ::train::memory::parse_bytes(text).map_err(|error| error.to_string())
}

/// Reads a device's name.
pub fn device(name: &str) -> Result<Device, String> {
    choice(name)
}

/// Reads one of a setting's names as a settings file does.
pub fn choice<T: for<'de> Deserialize<'de>>(name: &str) -> Result<T, String> {
    T::deserialize(StrDeserializer::<Error>::new(name)).map_err(|error| error.to_string())
}

impl Flags {
    fn apply(self, config: &mut TrainConfig) -> Result<()> {
        if self.epochs.is_some() || self.steps.is_some() {
            (config.epochs, config.steps) = (self.epochs, self.steps);
        }
        config.preset = self.preset.unwrap_or(config.preset);
        config.objective = self.objective.or(config.objective);
        config.batch_size = self.batch_size.or(config.batch_size);
        config.sequence_length = self.sequence_length.or(config.sequence_length);
        config.learning_rate = self.learning_rate.or(config.learning_rate);
        if let Some(rank) = self.lora_rank {
            config.lora.get_or_insert_default().rank = Some(rank);
        }
        if let Some(form) = self.quantize {
            let Some(lora) = &mut config.lora else {
                bail_user!(
                    "--quantize is for the base model of an adapter: give --lora-rank too, or [lora] in --config"
                );
            };
            lora.quantize = Some(form);
        }
        config.seed = self.seed.or(config.seed);
        config.save_every = self.save_every.or(config.save_every);
        config.keep = self.keep.or(config.keep);
        config.patience = self.patience.or(config.patience);
        config.recompute = self.recompute.or(config.recompute);
        config.device = self.device.or(config.device);
        config.ranks = self.ranks.or(config.ranks);
        Ok(())
    }
}

/// Does what `isogloss train` was asked for.
pub fn run(args: Args, ctx: &Context) -> Result<()> {
    if worker::serves_another(ctx)? {
        return Ok(());
    }
    let mut config: TrainConfig = settings(args.config.as_deref())?;
    args.flags.apply(&mut config)?;
    let seed = config.resolve()?.seed;
    let base = match (args.model, args.init, args.tokenizer) {
        (None, Some(init), Some(tokenizer)) => {
            let tokenizer = tokenizer_folder(&tokenizer, ctx)?;
            BaseModel::Random { init: InitConfig::load(&init)?, tokenizer, seed }
        }
        (Some(model), ..) if args.dry_run => BaseModel::Weights(outline_folder(&model, ctx)?),
        (Some(model), ..) => BaseModel::Weights(model_folder(&model, ctx)?),
        _ => bail_user!("give --model DIR, or --init FILE with --tokenizer DIR"),
    };
    let train = Input::own(&args.data, &[&MIXTURE, &EXAMPLES], ctx)?;
    let validation =
        args.validation.map(|path| Input::own(&path, &[&EXAMPLES], ctx)).transpose()?;
    let rows = |input: &Input| RowsFile { path: input.path.clone(), name: input.name.clone() };
    let data = TrainData { train: rows(&train), validation: validation.as_ref().map(rows) };
    let shared = Shared::default().on(worker::ranks(ctx)?);
    let Some(out) = args.out.filter(|_| !args.dry_run) else {
        return print(::train::plan(&config, &base, &data, &shared, (args.memory, ctx))?);
    };
    if args.resume && !can_resume(&out) {
        ctx.warn(format!(
            "there is no checkpoint of {} to go on from; training starts anew",
            out.display()
        ));
    }
    let output = Output { out: &out, stage: "train", main: None, resume: args.resume };
    publish(&output, ctx, |out| ::train::run(&config, &base, &data, &shared, out, ctx))
}
