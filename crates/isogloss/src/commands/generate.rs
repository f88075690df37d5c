//! `isogloss generate`: a model's answers to prompts, on plain files.

use std::path::{Path, PathBuf};

use ::train::device::Device;
use ::train::{GenerateConfig, RunLabels};
use anyhow::Result;
use artifact::config::nearest;
use artifact::factors::NAMES;
use artifact::schema::EXAMPLES;
use artifact::{Context, Factors, bail_user};
use clap::Args as ClapArgs;
use serde_json::Value;

use super::files::{Input, Output, publish, set, settings};
use crate::console::print;
use crate::remote::{model_folder, outline_folder};

/// Answers prompts with a model.
///
/// Every row of the data is asked; its last assistant message, if any, is left out. `isogloss prompts`
/// makes prompts from test examples by a task's template. Writes generations.parquet.
#[derive(ClapArgs)]
#[command(after_help = "\
Examples:
  isogloss generate --model tuned/model --data prompts.parquet --out answers \\
      --factor n=100 --factor train_langs=en,es
  isogloss generate --model tuned/model --data prompts.parquet --out answers --device cuda \\
      --temperature 0.7 --top-p 0.9
  isogloss generate --model models/large --data prompts.parquet --dry-run --memory 80GB
  isogloss generate --model tuned/model --data prompts.parquet --out - | python read_arrow.py")]
pub struct Args {
    /// The model: a Hugging Face folder, or hf://owner/name[@revision].
    #[arg(long, value_name = "MODEL")]
    model: PathBuf,

    /// Prompts with the examples' columns (`-`: Arrow IPC stream on stdin).
    #[arg(long, value_name = "EXAMPLES")]
    data: PathBuf,

    /// Most tokens of an answer [default: 256].
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<usize>,

    /// 0 takes the most likely token, above 0 samples [default: 0].
    #[arg(long, value_name = "T")]
    temperature: Option<f64>,

    /// Samples from so many of the most likely tokens; 0: from all [default: 0].
    #[arg(long, value_name = "K")]
    top_k: Option<u32>,

    /// Samples from the fewest tokens that hold this much probability [default: 1].
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,

    /// Seed of the sampling [default: 0].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Prompts side by side (slots); a slot whose answer ends takes the next prompt. Does not change the
    /// answers [default: 16 on the processor; on a card as many as its memory has room for, 256 at most].
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,

    /// auto, cpu or cuda. A card picks tokens itself and runs up to 8 steps before they are read.
    #[arg(long, value_parser = super::train::device)]
    device: Option<Device>,

    /// What to call the run in the output [default: the model folder's name].
    #[arg(long, value_name = "ID")]
    run_id: Option<String>,

    /// The mixture that the model was trained on, for the output.
    #[arg(long, value_name = "ID")]
    mixture_id: Option<String>,

    /// The tasks whose prompts are answered, separated by commas [default: all].
    #[arg(long, value_delimiter = ',')]
    tasks: Vec<String>,

    /// A factor of the run, which its answers and scores carry into the report's tables: model, setting,
    /// train_langs, n, english, budget, sampler, data_seed or train_seed; may be repeated.
    #[arg(long = "factor", value_name = "NAME=VALUE", value_parser = super::files::pair)]
    factors: Vec<(String, String)>,

    /// Settings as TOML; flags win over them.
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,

    /// Reads the prompts, checks everything and tells what memory the answers would take, and how many slots that
    /// leaves; answers nothing.
    #[arg(long)]
    dry_run: bool,

    /// With --dry-run: plans the memory for a card of this size that need not be there (141GB, 80GiB). The model's
    /// folder needs no weights then, config.json and the tokenizer are enough.
    #[arg(long, value_name = "SIZE", requires = "dry_run", value_parser = super::train::card_memory)]
    memory: Option<u64>,

    /// The folder to write, or `-` for an Arrow IPC stream on stdout.
    #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
    out: Option<PathBuf>,
}

/// Does what `isogloss generate` was asked for.
pub fn run(args: Args, ctx: &Context) -> Result<()> {
    let mut config: GenerateConfig = settings(args.config.as_deref())?;
    set(&mut config.max_new_tokens, args.max_new_tokens);
    set(&mut config.temperature, args.temperature);
    set(&mut config.top_k, args.top_k);
    set(&mut config.top_p, args.top_p);
    set(&mut config.seed, args.seed);
    set(&mut config.batch_size, args.batch_size);
    set(&mut config.device, args.device);
    if !args.tasks.is_empty() {
        config.tasks = args.tasks;
    }
    let name = args.model.file_name().map_or("model".into(), |name| name.to_string_lossy());
    let run_id = args.run_id.unwrap_or_else(|| name.clone().into_owned());
    let mut given = vec![("model".to_owned(), name.into_owned())];
    given.extend(args.factors);
    let factors = factors(given)?;
    let mixture_id = args.mixture_id.as_deref();
    let labels = RunLabels { run_id: &run_id, mixture_id, factors: &factors };
    let data = Input::open(&args.data, &[&EXAMPLES], ctx)?;
    let Some(out) = args.out.filter(|_| !args.dry_run) else {
        let folder = outline_folder(&args.model, ctx)?;
        return plan(&config, &folder, &data, (args.memory, ctx));
    };
    let model = model_folder(&args.model, ctx)?;
    let output =
        Output { out: &out, stage: "generate", main: Some("generations.parquet"), resume: false };
    publish(&output, ctx, |out| ::train::generate(&config, &model, &data.path, labels, out, ctx))
}

/// Tells what the answers would take, one cache after the other.
fn plan(
    config: &GenerateConfig,
    model: &Path,
    data: &Input,
    card: (Option<u64>, &Context),
) -> Result<()> {
    let plans = ::train::generate::plan(config, model, &data.path, card)?;
    if plans.is_empty() {
        return print("no prompt leaves room for an answer in the model's context");
    }
    let all: Vec<String> = plans.iter().map(ToString::to_string).collect();
    print(all.join("\n\nthen, for the shorter prompts:\n"))
}

/// The factors that `--factor` names, later ones in place of earlier ones.
fn factors(given: Vec<(String, String)>) -> Result<Factors> {
    let mut fields = serde_json::Map::new();
    for (name, value) in given {
        if !NAMES.contains(&name.as_str()) {
            let near =
                nearest(&name, NAMES).map_or(String::new(), |near| format!(", is it {near}?"));
            bail_user!(
                "--factor {name}: no factor of that name{near}; there are {}",
                NAMES.join(", ")
            );
        }
        let is_number = matches!(name.as_str(), "n" | "english" | "data_seed" | "train_seed");
        let value = match (is_number, value.parse::<i64>()) {
            (false, _) => Value::from(value),
            (true, Ok(number)) => Value::from(number),
            (true, Err(_)) => bail_user!("--factor {name}={value}: a whole number is needed"),
        };
        fields.insert(name, value);
    }
    Ok(serde_json::from_value(Value::Object(fields))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(given: &[(&str, &str)]) -> Result<Factors> {
        factors(given.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    #[test]
    fn factors_are_read_by_their_types() {
        let factors =
            parse(&[("model", "a"), ("n", "8"), ("train_langs", "en,es"), ("model", "b")]).unwrap();
        let want = Factors {
            model: Some("b".into()),
            n: Some(8),
            train_langs: Some("en,es".into()),
            ..Factors::default()
        };
        assert_eq!(factors, want);
    }

    #[test]
    fn a_wrong_factor_is_the_users_error() {
        for (name, value, words) in
            [("train_lang", "en", "train_langs"), ("n", "many", "whole number")]
        {
            let error = parse(&[(name, value)]).unwrap_err();
            assert!(
                artifact::error::is_user(&error) && error.to_string().contains(words),
                "{error}"
            );
        }
    }
}
