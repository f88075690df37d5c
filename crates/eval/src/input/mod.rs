//! Generations made by anyone, as data frames of the generations' columns: Parquet row group by row group, JSON lines and CSV some
//! thousand rows at a time, so that memory is bounded whatever the file's size. Text formats may be packed (.gz, .zst).
//!
//! Of JSON lines and CSV every column is text but for the integer factors; a number or boolean in JSON is taken as written
//! (`"reference": 18`). Other names than ours are renamed by `map` (our name → theirs); a path names a value deep in an object:
//! `generation = "response.body.choices[0].message.content"`.

mod harness;
mod join;
mod json;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Result;
use artifact::config::nearest;
use artifact::error::{input_error, open_input, user};
use artifact::polars::prelude::*;
use artifact::schema::{GENERATIONS, Kind, MIXTURES};
use artifact::{bail_user, factors, parquet};

use harness::Samples;
pub use join::Asked;
use json::{Object, Place, Step};

/// Rows of a text format that are held at once.
const BATCH_ROWS: usize = 4096;

type Batches<'a> = Box<dyn Iterator<Item = Result<DataFrame>> + 'a>;
type Record = Vec<(String, Option<String>)>;

/// What is said once about all inputs.
#[derive(Default)]
pub struct Reading {
    /// Column names that differ: ours → theirs.
    pub map: BTreeMap<String, String>,
    /// The language of rows that name none.
    pub lang: Option<String>,
    /// What was asked, to be joined by `example_id`.
    pub asked: Option<Asked>,
}

/// One input file.
pub struct Input<'a> {
    path: PathBuf,
    format: Format,
    packed: Packed,
    reading: &'a Reading,
    /// The values of `map` that are paths.
    places: Vec<Place>,
}

enum Format {
    Parquet,
    /// An Arrow IPC stream from stdin, held whole because it is read twice.
    Stream(DataFrame),
    Json,
    Csv(u8),
}

/// How a text file is compressed.
#[derive(Clone, Copy)]
enum Packed {
    Not,
    Gzip,
    Zstd,
}

impl<'a> Input<'a> {
    /// A file whose format its name says.
    pub fn new(path: &Path, reading: &'a Reading) -> Result<Input<'a>> {
        let extension = |path: &Path| {
            path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default()
        };
        let (packed, inner) = match extension(path).as_str() {
            "gz" => (Packed::Gzip, path.with_extension("")),
            "zst" | "zstd" => (Packed::Zstd, path.with_extension("")),
            _ => (Packed::Not, path.to_owned()),
        };
        let format = match (extension(&inner).as_str(), packed) {
            ("parquet" | "pq", Packed::Not) => Format::Parquet,
            ("jsonl" | "ndjson" | "json", _) => Format::Json,
            ("csv", _) => Format::Csv(b','),
            ("tsv", _) => Format::Csv(b'\t'),
            _ if path == Path::new("-") => Format::Stream(parquet::read(path, None)?),
            _ => bail_user!(
                "{}: generations are read from .parquet, .jsonl, .csv or .tsv files; the texts also as .gz and .zst",
                path.display()
            ),
        };
        let places = reading.map.values().filter_map(|theirs| Place::new(theirs)).collect();
        Ok(Input { path: path.to_owned(), format, packed, reading, places })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's name without its extensions: the run of rows that name none.
    pub fn stem(&self) -> String {
        let stem =
            |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        match self.packed {
            Packed::Not => stem(&self.path),
            _ => stem(Path::new(&stem(&self.path))),
        }
    }

    /// The file's rows in order, under our names, with the generations' columns in their types and any others as they are.
    pub fn batches(&self) -> Result<impl Iterator<Item = Result<DataFrame>> + use<'_, 'a>> {
        let raw: Batches = match &self.format {
            Format::Parquet => Box::new(parquet::row_groups(&self.path, None)?),
            Format::Stream(df) => Box::new(std::iter::once(Ok(df.clone()))),
            Format::Json => Box::new(frames(self.json_records()?)),
            Format::Csv(delimiter) => Box::new(frames(self.csv_records(*delimiter)?)),
        };
        let mut rows = 0;
        Ok(raw.map(move |df| {
            let df = self.conform(df?, rows)?;
            rows += df.height();
            Ok(df)
        }))
    }

    /// The plain bytes of a text file.
    fn bytes(&self) -> Result<Box<dyn Read + Send>> {
        let file = open_input(&self.path)?;
        Ok(match self.packed {
            Packed::Not => Box::new(file),
            Packed::Gzip => Box::new(flate2::read::MultiGzDecoder::new(file)),
            Packed::Zstd => {
                Box::new(zstd::Decoder::new(file).map_err(|error| input_error(&self.path, &error))?)
            }
        })
    }

    fn conform(&self, mut df: DataFrame, first: usize) -> Result<DataFrame> {
        if !matches!(self.format, Format::Json) {
            self.take_out(&mut df)?;
        }
        for (ours, theirs) in &self.reading.map {
            let found = df.column(theirs).ok().filter(|c| first > 0 || c.null_count() < c.len());
            if found.is_none() {
                return Err(self.nothing_at(theirs, &df)?);
            }
            if ours != theirs {
                let column = df.column(theirs)?.clone().with_name(ours.as_str().into());
                df.drop_in_place(theirs)?;
                df.with_column(column)?;
            }
        }
        self.numbers_as_text(&mut df)?;
        if let Some(asked) = &self.reading.asked {
            asked.fill(&mut df, &self.path, first)?;
        }
        self.default_language(&mut df)?;
        for (required, hint) in [
            ("lang", "another name is given by `map`, one language for all rows by `lang`"),
            ("generation", "another name is given by `map`"),
        ] {
            // The schema lets `generation` be absent; to score a file without one would make every answer empty.
            if df.column(required).is_err() {
                return Err(self.missing(required, &df, &format!("which is needed ({hint})")));
            }
        }
        if matches!(self.format, Format::Json | Format::Csv(_)) {
            self.integers(&mut df, first)?;
        }
        GENERATIONS.conform(df, &self.path)
    }

    /// Gives the paths of `map` into nested Parquet columns a column each, as JSON's records have them.
    fn take_out(&self, df: &mut DataFrame) -> Result<()> {
        for place in &self.places {
            let [Step::Key(column), steps @ ..] = place.steps() else { continue };
            let Ok(column) = df.column(column) else { continue };
            let mut values = Vec::with_capacity(df.height());
            for row in 0..df.height() {
                let value = steps.iter().try_fold(column.get(row)?.into_static(), inside);
                values.push(value.filter(|value| !value.is_null()).map(
                    |value| match value.get_str() {
                        Some(text) => text.to_owned(),
                        None => value.to_string(),
                    },
                ));
            }
            let name = place.to_string();
            df.with_column(
                StringChunked::from_iter_options(name.into(), values.into_iter()).into_column(),
            )?;
        }
        Ok(())
    }

    /// A number or boolean in a column that is text by the contract (`reference` 18) counts as it is written.
    fn numbers_as_text(&self, df: &mut DataFrame) -> Result<()> {
        for spec in GENERATIONS.columns.iter().filter(|spec| spec.kind == Kind::Text) {
            let Ok(column) = df.column(spec.name) else { continue };
            if column.dtype().is_primitive_numeric() || column.dtype().is_bool() {
                let text = column.cast(&DataType::String)?;
                df.with_column(text)?;
            }
        }
        Ok(())
    }

    fn default_language(&self, df: &mut DataFrame) -> Result<()> {
        let Some(lang) = self.reading.lang.as_deref() else { return Ok(()) };
        let own = match df.column("lang") {
            Ok(own) => own.cast(&DataType::String)?,
            Err(_) => Column::full_null("lang".into(), df.height(), &DataType::String),
        };
        let filled = own.str()?.iter().map(|own| own.or(Some(lang)));
        df.with_column(StringChunked::from_iter_options("lang".into(), filled).into_column())?;
        Ok(())
    }

    /// The error for a name in `map` that no row has.
    fn nothing_at(&self, theirs: &str, df: &DataFrame) -> Result<anyhow::Error> {
        let place = self.places.iter().find(|place| place.to_string() == theirs);
        let (Some(place), Format::Json) = (place, &self.format) else {
            if df.column(theirs).is_ok() {
                let path = self.path.display();
                return Ok(user(format!(
                    "{path}: `{theirs}`, which `map` names, is null in every row"
                )));
            }
            return Ok(self.missing(theirs, df, "which `map` names"));
        };
        let first = json::objects(&self.path, self.bytes()?)?.next().transpose()?;
        let why = first.map_or(String::new(), |(_, object)| place.explain(&object));
        let path = self.path.display();
        Ok(user(format!("{path}: no row has `{theirs}`, which `map` names: in the first, {why}")))
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
    fn integers(&self, df: &mut DataFrame, first: usize) -> Result<()> {
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
                            first + row + 1
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
    fn json_records(&self) -> Result<impl Iterator<Item = Result<Record>> + use<'_, 'a>> {
        let mut objects = json::objects(&self.path, self.bytes()?)?.peekable();
        let samples = match objects.peek() {
            Some(Ok((_, first))) => Samples::recognise(&self.path, first),
            _ => None,
        };
        Ok(objects.filter_map(move |object| {
            let record = object.and_then(|(line, object)| match &samples {
                Some(samples) => {
                    let record = samples.record(&object, &self.path, line)?;
                    record.map(|record| self.with_places(record, &object, line)).transpose()
                }
                None => self.record(&object, line).map(Some),
            });
            record.transpose()
        }))
    }

    /// A row of an object's own texts and numbers, and of what `map`'s paths lead to.
    fn record(&self, object: &Object, line: usize) -> Result<Record> {
        let mut record = Record::with_capacity(object.len());
        for (name, value) in object {
            let named = self.reading.map.values().any(|theirs| theirs == name)
                || matches!(name.as_str(), "generation" | "reference" | "lang");
            if named || !(value.is_array() || value.is_object()) {
                record.push((name.clone(), json::text(value, name, &self.path, line)?));
            }
        }
        self.with_places(record, object, line)
    }

    fn with_places(&self, mut record: Record, object: &Object, line: usize) -> Result<Record> {
        for place in self.places.iter().filter(|place| !object.contains_key(&place.to_string())) {
            let name = place.to_string();
            let value = place.find(object).unwrap_or(&serde_json::Value::Null);
            let value = json::text(value, &name, &self.path, line)?;
            record.push((name, value));
        }
        Ok(record)
    }

    fn csv_records(&self, delimiter: u8) -> Result<impl Iterator<Item = Result<Record>> + use<'a>> {
        let bytes = self.bytes()?;
        let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(bytes);
        let shown = self.path.display().to_string();
        let broken = move |error: csv::Error| user(format!("{shown}: {error}"));
        let header = reader.headers().map_err(&broken)?.clone();
        let records = reader.into_records();
        Ok(records.map(move |record| {
            let record = record.map_err(&broken)?;
            let cell = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            Ok(header.iter().map(str::to_owned).zip(record.iter().map(cell)).collect())
        }))
    }
}

/// What a nested value has at a step of a path.
fn inside(value: AnyValue<'static>, step: &Step) -> Option<AnyValue<'static>> {
    match (value, step) {
        (AnyValue::StructOwned(fields), Step::Key(key)) => {
            let at = fields.1.iter().position(|field| field.name() == key)?;
            fields.0.into_iter().nth(at)
        }
        (AnyValue::List(list), Step::At(index)) => {
            let index = if *index < 0 { list.len() as i64 + index } else { *index };
            Some(list.get(usize::try_from(index).ok()?).ok()?.into_static())
        }
        _ => None,
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
