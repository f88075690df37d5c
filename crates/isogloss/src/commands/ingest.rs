//! `isogloss ingest`: raw files of most shapes become examples, on plain files.

use std::path::{Path, PathBuf};

use ::ingest::{Column, Config, Dedup, Format, Kind, Map, OrTable, Paths, Source};
use anyhow::Result;
use artifact::Context;
use artifact::error::user;
use clap::Args as ClapArgs;
use language::Accuracy;

use super::files::{Output, pair, publish, set, settings};
use super::train::choice;
use crate::remote::fetch_sources;

/// Reads raw files into examples: JSONL, JSON, CSV, TSV, Parquet or lines, each also .gz or .zst.
///
/// Layout and schema (Alpaca, ShareGPT, messages, prompt/completion, wide) are recognised; --map names
/// the columns of any other. Writes examples.parquet and rejects.parquet, and shows what came in by
/// language, script, task, split and source.
#[derive(ClapArgs)]
#[command(after_help = "\
Examples:
  isogloss ingest 'data/*.jsonl.gz' --task instruction --out examples
  isogloss ingest mgsm_es.tsv --no-header --no-quoting --map prompt=1,reference=2 --lang es \\
      --task math --split test --out mgsm
  isogloss ingest 'hf://datasets/CohereLabs/aya_dataset/data/train-*.parquet' --out aya
  isogloss ingest --config sources.toml --out examples      several sources, as in a pipeline file")]
pub struct Args {
    /// Files, folders or patterns; also on the Hugging Face Hub: hf://datasets/owner/name[@revision]/path.
    #[arg(required_unless_present = "config")]
    sources: Vec<String>,

    /// Kind of file: auto, jsonl, json, csv, tsv, parquet or lines [default: auto].
    #[arg(long, value_parser = choice::<Kind>)]
    format: Option<Kind>,

    /// The first record of a CSV or TSV is data, too; columns are numbered from 1.
    #[arg(long)]
    no_header: bool,

    /// Quotes in a CSV or TSV are letters like any other.
    #[arg(long)]
    no_quoting: bool,

    /// How a row holds its conversation: auto, alpaca, sharegpt, messages, prompt-completion, lines,
    /// wide or map [default: auto].
    #[arg(long, value_parser = choice::<::ingest::Schema>)]
    schema: Option<::ingest::Schema>,

    /// Which column holds what: prompt=question,reference=answer. Names on the left: prompt, completion,
    /// system, reference, messages, text, lang, item_id, example_id, task, split.
    #[arg(long, value_name = "OURS=THEIRS", value_delimiter = ',', value_parser = pair)]
    map: Vec<(String, String)>,

    /// The rows' language: a tag or a name.
    #[arg(long)]
    lang: Option<String>,

    /// The rows' task.
    #[arg(long)]
    task: Option<String>,

    /// The rows' split: train, validation or test.
    #[arg(long)]
    split: Option<String>,

    /// What the source is called in the output [default: the file's name].
    #[arg(long)]
    name: Option<String>,

    /// The experiment's languages, which the detector chooses among, separated by commas [default: all].
    #[arg(long, value_name = "LANGS", value_delimiter = ',')]
    languages: Vec<String>,

    /// Which duplicates are removed: off, exact or near [default: near].
    #[arg(long, value_parser = choice::<Dedup>)]
    dedup: Option<Dedup>,

    /// How languages are identified: accurate, or fast, which cannot tell Swahili and a few words
    /// [default: accurate].
    #[arg(long, value_parser = choice::<Accuracy>)]
    detector: Option<Accuracy>,

    /// Takes the declared languages as they are.
    #[arg(long)]
    no_detect: bool,

    /// Settings as TOML, as [ingest] and [[source]] of a pipeline file; flags win over them.
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,

    /// The folder to write, or `-` for an Arrow IPC stream of the examples on stdout.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Does what `isogloss ingest` was asked for.
pub fn run(args: Args, ctx: &Context) -> Result<()> {
    let mut config: Config = settings(args.config.as_deref())?;
    set(&mut config.dedup, args.dedup);
    set(&mut config.detector, args.detector);
    config.detect &= !args.no_detect;
    if !args.languages.is_empty() {
        config.languages.clone_from(&args.languages);
    }
    if !args.sources.is_empty() {
        config.sources.push(source(&args)?);
    }
    fetch_sources(&mut config.sources, ctx)?;
    let base = args.config.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
    let output =
        Output { out: &args.out, stage: "ingest", main: Some("examples.parquet"), resume: false };
    publish(&output, ctx, |out| ::ingest::run(&config, base, out, ctx))
}

/// The source that the flags describe.
fn source(args: &Args) -> Result<Source> {
    let no = |flag: bool| flag.then_some(false);
    let format = Format {
        kind: args.format.unwrap_or_default(),
        header: no(args.no_header),
        quoting: no(args.no_quoting),
        delimiter: None,
    };
    let text = |flag: &Option<String>| flag.clone().map(OrTable::Text);
    // Paths on the command line start where the user stands, also beside a --config from elsewhere.
    let absolute = |path: &String| match hub::is_address(path) {
        true => Ok(path.clone()),
        false => std::path::absolute(path).map(|path| path.to_string_lossy().into_owned()),
    };
    Ok(Source {
        path: Paths::Many(args.sources.iter().map(absolute).collect::<Result<_, _>>()?),
        name: args.name.clone(),
        format: Some(OrTable::Table(format)),
        schema: args.schema.unwrap_or_default(),
        map: map(&args.map)?,
        lang: text(&args.lang),
        task: text(&args.task),
        split: text(&args.split),
        ..Source::default()
    })
}

/// The pairs of `--map`; a number is a column's place.
fn map(pairs: &[(String, String)]) -> Result<Map> {
    let column = |text: &String| match text.parse() {
        Ok(number) => Column::Number(number),
        Err(_) => Column::Name(text.clone()),
    };
    let columns = pairs.iter().map(|(ours, theirs)| (ours.clone(), column(theirs)));
    let value = serde_json::Value::Object(
        columns
            .map(|(ours, column)| Ok((ours, serde_json::to_value(column)?)))
            .collect::<Result<_>>()?,
    );
    serde_json::from_value(value).map_err(|error| user(format!("--map: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        text.split(',').map(|part| pair(part).unwrap()).collect()
    }

    #[test]
    fn a_map_takes_names_and_numbers() {
        let map = map(&pairs("prompt=question,reference=2")).unwrap();
        assert_eq!(map.prompt, Some(Column::Name("question".into())));
        assert_eq!(map.reference, Some(Column::Number(2)));
    }

    #[test]
    fn an_unknown_name_in_a_map_is_the_users_error() {
        let error = map(&pairs("promt=question")).unwrap_err();
        assert!(artifact::error::is_user(&error));
        assert!(error.to_string().contains("promt"), "{error}");
    }
}
