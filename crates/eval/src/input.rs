//! Generations made by anyone, as data frames of the generations' columns: Parquet row group by row group, JSON lines and CSV some
//! thousand rows at a time, so that memory is bounded whatever the file's size.
//!
//! Of JSON lines and CSV every column is text but for the integer factors; a number or boolean in JSON is taken as written
//! (`"reference": 18`). Other names than ours are renamed by `map` (our name → theirs).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::Result;
use artifact::config::nearest;
use artifact::error::{open_input, user};
use artifact::polars::prelude::*;
use artifact::schema::{GENERATIONS, Kind, MIXTURES};
use artifact::{bail_user, factors, parquet};
use serde_json::Value;

/// Rows of a text format that are held at once.
const BATCH_ROWS: usize = 4096;

type Batches = Box<dyn Iterator<Item = Result<DataFrame>>>;
type Record = Vec<(String, Option<String>)>;

/// One input file.
pub struct Input {
    path: PathBuf,
    format: Format,
    map: BTreeMap<String, String>,
}

enum Format {
    Parquet,
    /// An Arrow IPC stream from stdin, held whole because it is read twice.
    Stream(DataFrame),
    JsonLines,
    Csv(u8),
}

impl Input {
    /// A file whose format its name says; `map` names columns: ours → theirs.
    pub fn new(path: &Path, map: &BTreeMap<String, String>) -> Result<Input> {
        let extension =
            path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        let format = match extension.as_str() {
            "parquet" | "pq" => Format::Parquet,
            "jsonl" | "ndjson" | "json" => Format::JsonLines,
            "csv" => Format::Csv(b','),
            "tsv" => Format::Csv(b'\t'),
            _ if path == Path::new("-") => Format::Stream(parquet::read(path, None)?),
            _ => bail_user!(
                "{}: generations are read from .parquet, .jsonl, .csv or .tsv files",
                path.display()
            ),
        };
        Ok(Input { path: path.to_owned(), format, map: map.clone() })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's name without its extension: the run of rows that name none.
    pub fn stem(&self) -> String {
        self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The file's rows in order, under our names, with the generations' columns in their types and any others as they are.
    pub fn batches(&self) -> Result<impl Iterator<Item = Result<DataFrame>>> {
        let raw: Batches = match &self.format {
            Format::Parquet => Box::new(parquet::row_groups(&self.path, None)?),
            Format::Stream(df) => Box::new(std::iter::once(Ok(df.clone()))),
            Format::JsonLines => Box::new(frames(json_lines(&self.path)?)),
            Format::Csv(delimiter) => Box::new(frames(csv_rows(&self.path, *delimiter)?)),
        };
        Ok(raw.map(|df| self.conform(df?)))
    }

    fn conform(&self, mut df: DataFrame) -> Result<DataFrame> {
        for (ours, theirs) in &self.map {
            if df.column(theirs).is_err() {
                return Err(self.missing(theirs, &df, "which `map` names"));
            }
            if ours != theirs {
                let column = df.column(theirs)?.clone().with_name(ours.as_str().into());
                df.drop_in_place(theirs)?;
                df.with_column(column)?;
            }
        }
        for required in ["lang", "generation"] {
            // The schema lets `generation` be absent; to score a file without one would make every answer empty.
            if df.column(required).is_err() {
                return Err(self.missing(
                    required,
                    &df,
                    "which is needed (another name is given by `map`)",
                ));
            }
        }
        if matches!(self.format, Format::JsonLines | Format::Csv(_)) {
            self.integers(&mut df)?;
        }
        GENERATIONS.conform(df, &self.path)
    }

    fn missing(&self, column: &str, df: &DataFrame, why: &str) -> anyhow::Error {
        let names: Vec<&str> =
            df.get_column_names().into_iter().map(|name| name.as_str()).collect();
        let near = nearest(column, names.iter().copied())
            .map_or(".".to_owned(), |near| format!("; is it `{near}`?"));
        user(format!(
            "{}: there is no column `{column}`, {why}{near} It has: {}",
            self.path.display(),
            names.join(", ")
        ))
    }

    /// Parses the columns that are integers by the contract.
    fn integers(&self, df: &mut DataFrame) -> Result<()> {
        let specified = GENERATIONS.columns.iter().chain(MIXTURES.columns);
        let names = specified.filter(|spec| spec.kind == Kind::Integer).map(|spec| spec.name);
        let factors = factors::NAMES.iter().copied().filter(|name| name.ends_with("seed"));
        for name in names.chain(factors) {
            let Ok(column) = df.column(name) else { continue };
            if column.dtype() != &DataType::String {
                continue; // done already: the name stands in both tables
            }
            let mut values = Vec::with_capacity(column.len());
            for (row, text) in column.str()?.iter().enumerate() {
                values.push(match text.map(str::trim).filter(|text| !text.is_empty()) {
                    None => None,
                    Some(text) => Some(text.parse::<i64>().map_err(|_| {
                        user(format!(
                            "{}: column `{name}`, row {}: {text:?}, where a whole number is needed",
                            self.path.display(),
                            row + 1
                        ))
                    })?),
                });
            }
            df.with_column(
                Int64Chunked::from_iter_options(name.into(), values.into_iter()).into_column(),
            )?;
        }
        Ok(())
    }
}

/// Gathers records into frames of text columns, the columns in order of first appearance.
fn frames(
    mut records: impl Iterator<Item = Result<Record>>,
) -> impl Iterator<Item = Result<DataFrame>> {
    std::iter::from_fn(move || {
        let batch: Result<Vec<Record>> = records.by_ref().take(BATCH_ROWS).collect();
        match batch {
            Ok(batch) if batch.is_empty() => None,
            Ok(batch) => Some(frame(batch)),
            Err(error) => Some(Err(error)),
        }
    })
}

fn frame(batch: Vec<Record>) -> Result<DataFrame> {
    let height = batch.len();
    let mut columns: Vec<(String, Vec<Option<String>>)> = Vec::new();
    for (row, record) in batch.into_iter().enumerate() {
        for (name, value) in record {
            let index = columns.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
                columns.push((name, vec![None; height]));
                columns.len() - 1
            });
            columns[index].1[row] = value;
        }
    }
    let columns = columns.into_iter().map(|(name, values)| {
        StringChunked::from_iter_options(name.as_str().into(), values.into_iter()).into_column()
    });
    Ok(DataFrame::new(height, columns.collect())?)
}

fn json_lines(path: &Path) -> Result<impl Iterator<Item = Result<Record>> + 'static> {
    let mut reader = BufReader::new(open_input(path)?);
    let path = path.to_owned();
    let mut bytes = Vec::new();
    let mut number = 0;
    Ok(std::iter::from_fn(move || {
        loop {
            bytes.clear();
            number += 1;
            return match reader.read_until(b'\n', &mut bytes) {
                Ok(0) => None,
                Ok(_) if bytes.trim_ascii().is_empty() => continue,
                Ok(_) => Some(json_record(&bytes).map_err(|error| {
                    user(format!(
                        "{}:{number}: not a JSON object on one line: {error}",
                        path.display()
                    ))
                })),
                Err(error) => Some(Err(artifact::error::input_error(&path, &error))),
            };
        }
    }))
}

fn json_record(line: &[u8]) -> serde_json::Result<Record> {
    let line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
    let object: serde_json::Map<String, Value> = serde_json::from_slice(line)?;
    let text = |value| match value {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    };
    Ok(object.into_iter().map(|(name, value)| (name, text(value))).collect())
}

fn csv_rows(path: &Path, delimiter: u8) -> Result<impl Iterator<Item = Result<Record>> + 'static> {
    let file: File = open_input(path)?;
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(file);
    let shown = path.display().to_string();
    let broken = move |error: csv::Error| user(format!("{shown}: {error}"));
    let header = reader.headers().map_err(&broken)?.clone();
    let records = reader.into_records();
    Ok(records.map(move |record| {
        let record = record.map_err(&broken)?;
        let cell = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Ok(header.iter().map(str::to_owned).zip(record.iter().map(cell)).collect())
    }))
}
