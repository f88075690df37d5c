//! `isogloss inspect`: a human look at a Parquet file, and at the tokens that training would count.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use ::train::encoder::{Encoder, Tokens};
use ::train::model::peft::tokenizer_folder;
use anyhow::{Context as _, Result};
use artifact::example::{frame_to_examples, messages_of};
use artifact::parquet::{read_columns, row_groups};
use artifact::polars::prelude::{AnyValue, DataFrame, DataType};
use artifact::schema::{ALL, EXAMPLES, MIXTURE, Schema};
use artifact::text::{TextTable, count, shorten};
use artifact::{Context, Example, Message, bail_user};
use clap::Args as ClapArgs;

use super::files::Input;
use crate::console::print;
use crate::remote::outline_folder;

/// A look at a file: columns, rows by language, and the first rows.
///
/// With --model, the rows of a mixture or of examples are shown as the tokens that the model would be trained
/// on, those that the loss counts set off: green on a terminal (unless NO_COLOR is set), [[in brackets]] elsewhere.
#[derive(ClapArgs)]
#[command(after_help = "\
Examples:
  isogloss inspect examples.parquet
  isogloss inspect mixtures/m1/mixture.parquet --model models/small --rows 1")]
pub struct Args {
    /// A Parquet file, here or on the Hub, or an output folder (`-`: Arrow IPC stream on stdin).
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Rows to show.
    #[arg(long, value_name = "N", default_value_t = 3)]
    rows: usize,

    /// A model's folder or its address on the Hub, whose tokenizer and chat template turn rows into tokens; an
    /// adapter's, or its base's.
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
}

/// Widest that one value is shown.
const WIDTH: usize = 100;

/// Does what `isogloss inspect` was asked for.
pub fn run(args: Args, ctx: &Context) -> Result<()> {
    let input = Input::open(&args.file, &ALL, ctx)?;
    let groups = row_groups(&input.path, None)?;
    let total = groups.total_rows();
    let Some(first) = groups.into_iter().next().transpose()? else { return Ok(()) };
    let schema = schema_of(&first);
    let kind = schema.map_or("no artifact of isogloss", |schema| schema.artifact);
    print(format!("{}: {kind}, {} rows\n", args.file.display(), count(total as u64)))?;
    print(columns(&first, schema))?;
    if first.column("lang").is_ok() {
        print(languages(&input.path, &first)?)?;
    }
    let shown = first.head(Some(args.rows));
    match &args.model {
        Some(model) => tokens(&shown, schema, &outline_folder(model, ctx)?, &args.file),
        None => rows(&shown),
    }
}

/// The artifact that the columns are those of: of several, the one that knows the most of them.
fn schema_of(frame: &DataFrame) -> Option<&'static Schema> {
    let there = |name: &str| frame.column(name).is_ok();
    let fits = |schema: &&&Schema| {
        schema.columns.iter().all(|column| column.nullable || there(column.name))
    };
    let known =
        |schema: &&&Schema| schema.columns.iter().filter(|column| there(column.name)).count();
    ALL.iter().filter(fits).max_by_key(known).copied()
}

/// A type's name as the schemas write it.
fn type_name(kind: &DataType) -> String {
    let known = match kind {
        DataType::String => "string",
        DataType::Boolean => "bool",
        DataType::Int32 => "int32",
        DataType::Int64 => "int64",
        DataType::Float32 => "float32",
        DataType::Float64 => "float64",
        other => return other.to_string(),
    };
    known.to_owned()
}

fn columns(frame: &DataFrame, schema: Option<&Schema>) -> String {
    let mut table = TextTable::new(&["column", "type", "meaning"]);
    for column in frame.columns() {
        let known = schema.and_then(|schema| {
            schema.columns.iter().find(|known| known.name == column.name().as_str())
        });
        let kind =
            known.map_or_else(|| type_name(column.dtype()), |known| known.kind.name().to_owned());
        let meaning = known.map_or("", |known| known.meaning);
        table.row(vec![column.name().to_string(), kind, meaning.to_owned()]);
    }
    table.to_string()
}

/// Rows by language, task and split (or metric).
fn languages(path: &Path, first: &DataFrame) -> Result<String> {
    let names: Vec<&str> = ["lang", "task", "split", "metric"]
        .into_iter()
        .filter(|name| first.column(name).is_ok())
        .collect();
    let frame = read_columns(path, None, &names)?;
    let columns =
        names.iter().map(|name| Ok(frame.column(name)?.str()?)).collect::<Result<Vec<_>>>()?;
    let mut counts: BTreeMap<Vec<&str>, u64> = BTreeMap::new();
    for row in 0..frame.height() {
        let key = columns.iter().map(|column| column.get(row).unwrap_or("")).collect();
        *counts.entry(key).or_default() += 1;
    }
    let mut table = TextTable::new(&[&names[..], &["rows"]].concat());
    table.right(&[names.len()]);
    for (key, rows) in counts {
        let cells = key.into_iter().map(str::to_owned).chain([count(rows)]);
        table.row(cells.collect());
    }
    Ok(table.to_string())
}

/// Each row, a line for each column that holds something.
fn rows(frame: &DataFrame) -> Result<()> {
    let conversations = frame.column("messages").map_or(Ok(Vec::new()), messages_of)?;
    for row in 0..frame.height() {
        print(format!("row {row}"))?;
        for column in frame.columns() {
            let value = match (column.name().as_str(), conversations.get(row)) {
                ("messages", Some(messages)) => conversation(messages),
                _ => match column.get(row)? {
                    AnyValue::Null => continue,
                    AnyValue::String(text) => text.to_owned(),
                    AnyValue::StringOwned(text) => text.to_string(),
                    other => other.to_string(),
                },
            };
            print(format!("  {}: {}", column.name(), shorten(&value, WIDTH)))?;
        }
    }
    Ok(())
}

fn is_conversations(schema: Option<&Schema>) -> bool {
    schema.is_some_and(|schema| [EXAMPLES.artifact, MIXTURE.artifact].contains(&schema.artifact))
}

fn conversation(messages: &[Message]) -> String {
    let turns = messages.iter().map(|message| format!("[{}] {}", message.role, message.content));
    turns.collect::<Vec<_>>().join(" ")
}

/// Each row as the tokens that training sees; one without an answer as plain text.
fn tokens(frame: &DataFrame, schema: Option<&Schema>, model: &Path, file: &Path) -> Result<()> {
    if !is_conversations(schema) {
        bail_user!("{}: --model needs examples or a mixture, for their messages", file.display());
    }
    let encoder = Encoder::load(&tokenizer_folder(model)?)?;
    let colours = colours(std::io::stdout().is_terminal(), std::env::var_os("NO_COLOR"));
    for example in frame_to_examples(frame)? {
        let Example { example_id, lang, messages, .. } = &example;
        let documents = encoder
            .chat_or_text(messages)
            .with_context(|| format!("{}: example {example_id}", file.display()))?;
        for (document, tokens) in documents.iter().enumerate() {
            let counted = tokens.counted.iter().filter(|&&counted| counted).count();
            let part = match documents.len() {
                1 => String::new(),
                all => format!(", answer {} of {all}", document + 1),
            };
            let all = tokens.ids.len();
            print(format!("{example_id} ({lang}){part}: {all} tokens, the loss counts {counted}"))?;
            print(show(&pieces(&encoder, tokens)?, colours))?;
        }
    }
    Ok(())
}

/// Colours are for terminals, and for those who have not asked to be spared them (no-color.org).
fn colours(is_terminal: bool, no_color: Option<OsString>) -> bool {
    is_terminal && no_color.is_none_or(|value| value.is_empty())
}

/// The text of each token; tokens that share a character stand together.
fn pieces(encoder: &Encoder, tokens: &Tokens) -> Result<Vec<(String, bool)>> {
    let mut pieces = Vec::new();
    let mut start = 0;
    for end in 1..=tokens.ids.len() {
        let text = encoder.tokenizer.decode_all(&tokens.ids[start..end])?;
        if !text.ends_with('\u{FFFD}') || end == tokens.ids.len() || end - start == 4 {
            pieces.push((text, tokens.counted[start]));
            start = end;
        }
    }
    Ok(pieces)
}

/// Pieces with `·` between them; runs that count are green, or in brackets without colours.
fn show(pieces: &[(String, bool)], colours: bool) -> String {
    let (open, close) = if colours { ("\x1b[32m", "\x1b[0m") } else { ("[[", "]]") };
    let mut text = String::new();
    for run in pieces.chunk_by(|a, b| a.1 == b.1) {
        let inside = run.iter().map(|(piece, _)| piece.as_str()).collect::<Vec<_>>().join("·");
        match run[0].1 {
            true => text += &format!("{open}{inside}{close}"),
            false => text += &inside,
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use artifact::schema::SCORES;

    #[test]
    fn counted_tokens_are_set_off() {
        let pieces = [
            ("<user>".to_owned(), false),
            ("Hi".to_owned(), false),
            ("Ho".to_owned(), true),
            ("!".to_owned(), true),
        ];
        assert_eq!(show(&pieces, false), "<user>·Hi[[Ho·!]]");
        assert_eq!(show(&pieces, true), "<user>·Hi\u{1b}[32mHo·!\u{1b}[0m");
    }

    #[test]
    fn colours_are_for_terminals_and_no_color_is_honoured() {
        assert!(colours(true, None) && colours(true, Some("".into())));
        assert!(!colours(true, Some("1".into())) && !colours(false, None));
    }

    #[test]
    fn an_artifact_is_known_by_its_columns() {
        assert_eq!(schema_of(&EXAMPLES.empty()).unwrap().artifact, "examples");
        assert_eq!(schema_of(&MIXTURE.empty()).unwrap().artifact, "mixture");
        let mut scores = SCORES.empty();
        artifact::Factors::default().add_to(&mut scores).unwrap();
        assert_eq!(schema_of(&scores).unwrap().artifact, "scores");
    }
}
