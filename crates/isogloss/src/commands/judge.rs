//! `isogloss judge`: a judge model's ratings and comparisons of generations, ours or anyone's.

use std::path::PathBuf;

use ::eval::judge::{self, Config, Price};
use anyhow::Result;
use artifact::error::is_interrupted;
use artifact::schema::GENERATIONS;
use artifact::{Context, bail_user};
use clap::Args as ClapArgs;

use super::files::{Output, pair, prompts, publish, set, settings, tables};
use crate::console::print;

/// Asks a judge model to rate generations from 1 to 5, and to compare them with a baseline run's.
///
/// Any OpenAI-compatible endpoint serves. Every reply is kept in a cache under the content of its request, so a rerun
/// pays nothing and an interrupted run goes on where it stood. Writes scores.parquet with the metrics judge_rating,
/// judge_pass (the answer is in its language), judge_switch_aware (1 if it is not, else the rating) and, against a
/// baseline, win_rate (a win must hold in both orders).
#[derive(ClapArgs)]
#[command(after_help = "\
Examples:
  isogloss judge answers/generations.parquet --model Qwen/Qwen3-32B --base-url http://localhost:8000 \\
      --out judged
  isogloss judge ours.jsonl --map prompt=question --model some-model --baseline-from base.jsonl \\
      --config judge.toml --dry-run             how many requests, how many tokens, what it costs
  isogloss report scores judged --out report    beside the scores of eval

The key is read from ISOGLOSS_JUDGE_KEY and stands in no file; the address may come from ISOGLOSS_JUDGE_URL.")]
pub struct Args {
    /// Generations: Parquet, JSONL or CSV; or the folder of generate's output.
    #[arg(required = true)]
    generations: Vec<PathBuf>,

    /// The judge, by the name that the endpoint knows it by.
    #[arg(long)]
    model: Option<String>,

    /// The endpoint's address, with or without /v1 [default: ISOGLOSS_JUDGE_URL].
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,

    /// The environment variable that holds the endpoint's key [default: ISOGLOSS_JUDGE_KEY].
    #[arg(long, value_name = "NAME")]
    key_env: Option<String>,

    /// The run that all others are compared with.
    #[arg(long, value_name = "RUN_ID")]
    baseline: Option<String>,

    /// Where the baseline stands, if not among the generations; may be repeated.
    #[arg(long, value_name = "GENERATIONS")]
    baseline_from: Vec<PathBuf>,

    /// Compares alone, without ratings.
    #[arg(long)]
    no_rating: bool,

    /// The tasks whose answers are judged, separated by commas [default: all].
    #[arg(long, value_delimiter = ',')]
    tasks: Vec<String>,

    /// Column names that differ: ours=theirs, separated by commas.
    #[arg(long, value_name = "OURS=THEIRS", value_delimiter = ',', value_parser = pair)]
    map: Vec<(String, String)>,

    /// The task of rows that name none.
    #[arg(long)]
    task: Option<String>,

    /// The language of rows that name none.
    #[arg(long)]
    lang: Option<String>,

    /// Prompts or examples (Parquet) to take prompt, lang, task and reference from, by example_id.
    #[arg(long, value_name = "PROMPTS")]
    prompts: Option<PathBuf>,

    /// A prompt file to ask for ratings with, instead of the one that comes with the tool.
    #[arg(long, value_name = "PROMPT.toml")]
    rating_prompt: Option<PathBuf>,

    /// A prompt file to ask for comparisons with.
    #[arg(long, value_name = "PROMPT.toml")]
    pairwise_prompt: Option<PathBuf>,

    /// Requests in flight at a time [default: 8].
    #[arg(long, value_name = "N")]
    concurrency: Option<usize>,

    /// Requests a minute at most [default: as fast as the endpoint goes].
    #[arg(long, value_name = "N")]
    requests_per_minute: Option<f64>,

    /// Price of a million tokens, sent and back, separated by a comma: 0.15,0.6.
    #[arg(long, value_name = "SENT,BACK", value_parser = price)]
    price: Option<Price>,

    /// The folder that keeps replies [default: isogloss/judge in the user's cache folder].
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,

    /// Says how many requests there are, how many are in the cache and about what the rest costs; asks nothing.
    #[arg(long)]
    dry_run: bool,

    /// Settings as TOML, as [judge] of a pipeline file; flags win over them.
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,

    /// The folder to write, or `-` for an Arrow IPC stream on stdout.
    #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
    out: Option<PathBuf>,
}

/// Reads `0.15,0.6`.
fn price(text: &str) -> Result<Price, String> {
    let wrong = || format!("`{text}` should be two numbers, such as 0.15,0.6");
    let (sent, back) = text.split_once(',').ok_or_else(wrong)?;
    let number = |text: &str| text.trim().parse::<f64>().map_err(|_| wrong());
    Ok(Price { prompt: number(sent)?, completion: number(back)? })
}

/// Does what `isogloss judge` was asked for.
pub fn run(args: Args, ctx: &Context) -> Result<()> {
    let mut config: Config = settings(args.config.as_deref())?;
    set(&mut config.model, args.model);
    config.base_url = args.base_url.or(config.base_url);
    config.key_env = args.key_env.or(config.key_env);
    config.baseline = args.baseline.or(config.baseline);
    config.rating &= !args.no_rating;
    if !args.tasks.is_empty() {
        config.tasks = args.tasks;
    }
    config.map.extend(args.map);
    config.task = args.task.or(config.task);
    config.lang = args.lang.or(config.lang);
    config.prompts = args.prompts.map(|path| prompts(&path, ctx)).transpose()?;
    config.rating_prompt = args.rating_prompt.or(config.rating_prompt);
    config.pairwise_prompt = args.pairwise_prompt.or(config.pairwise_prompt);
    set(&mut config.concurrency, args.concurrency);
    config.requests_per_minute = args.requests_per_minute.or(config.requests_per_minute);
    config.price = args.price.or(config.price);
    config.cache = args.cache.or(config.cache);
    let generations = tables(&args.generations, &GENERATIONS, ctx)?;
    let against = tables(&args.baseline_from, &GENERATIONS, ctx)?;
    if args.dry_run {
        let estimate = judge::estimate(&config, &generations, &against, ctx)?;
        return print(estimate.to_string().trim_end());
    }
    let Some(out) = args.out else { bail_user!("give --out DIR") };
    let output = Output { out: &out, stage: "judge", main: Some("scores.parquet"), resume: false };
    publish(&output, ctx, |out| judge::run(&config, &generations, &against, out, ctx)).map_err(
        |error| match is_interrupted(&error) {
            true => error.context("replies so far are kept, the same command goes on from there"),
            false => error,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_is_two_numbers() {
        assert_eq!(price("0.15, 0.6"), Ok(Price { prompt: 0.15, completion: 0.6 }));
        assert!(price("0.15").is_err() && price("a,b").is_err());
    }
}
