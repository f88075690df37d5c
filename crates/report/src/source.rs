//! One score file as typed columns: Parquet, CSV, TSV, or Arrow IPC on `-`, under the user's column
//! map. A column that is missing or holds another type is named with its file, its row and what
//! would be right.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use artifact::bail_user;
use artifact::config::nearest;
use artifact::error::user;
use polars::prelude::*;

/// Names that other tools give to `value`.
const VALUE_NAMES: [&str; 5] = ["score", "accuracy", "acc", "result", "mean"];

/// An opened file and the names that its user gave to our columns.
pub(crate) struct Source<'a> {
    frame: DataFrame,
    path: &'a Path,
    map: &'a BTreeMap<String, String>,
}

/// A text column; every row is `None` where the file has no such column.
pub(crate) struct Text(Option<StringChunked>);

impl Text {
    /// Whether the file has the column.
    pub fn is_there(&self) -> bool {
        self.0.is_some()
    }

    pub fn get(&self, row: usize) -> Option<&str> {
        self.0.as_ref().and_then(|column| column.get(row)).filter(|text| !text.is_empty())
    }

    /// The row's text, empty where it has none.
    pub fn at(&self, row: usize) -> String {
        self.get(row).unwrap_or_default().to_string()
    }
}

/// A column of numbers; every row is `None` where the file has no such column.
pub(crate) struct Numbers<T>(Vec<Option<T>>);

impl<T: Copy> Numbers<T> {
    pub fn get(&self, row: usize) -> Option<T> {
        self.0.get(row).copied().flatten()
    }
}

impl<'a> Source<'a> {
    /// Opens by extension: `.csv`, `.tsv`, anything else as Parquet.
    pub fn open(path: &'a Path, map: &'a BTreeMap<String, String>) -> Result<Self> {
        let extension =
            path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        let frame = match extension.as_str() {
            "csv" => read_csv(path, b',')?,
            "tsv" => read_csv(path, b'\t')?,
            _ => artifact::parquet::read(path, None)?,
        };
        Ok(Source { frame, path, map })
    }

    pub fn rows(&self) -> usize {
        self.frame.height()
    }

    pub fn text(&self, name: &str) -> Result<Text> {
        let Some(column) = self.optional(name)? else { return Ok(Text(None)) };
        self.as_text(column).map(|column| Text(Some(column)))
    }

    pub fn required_text(&self, name: &str) -> Result<Text> {
        self.as_text(self.required(name)?).map(|column| Text(Some(column)))
    }

    pub fn integers(&self, name: &str) -> Result<Numbers<i64>> {
        self.optional(name)?.map_or(Ok(Numbers(Vec::new())), |column| self.as_integers(column))
    }

    pub fn required_integers(&self, name: &str) -> Result<Numbers<i64>> {
        self.as_integers(self.required(name)?)
    }

    pub fn required_numbers(&self, name: &str) -> Result<Numbers<f64>> {
        self.as_numbers(self.required(name)?).map(Numbers)
    }

    fn names(&self) -> Vec<&str> {
        self.frame.columns().iter().map(|column| column.name().as_str()).collect()
    }

    /// The column for `name`; one that the map names must be there.
    fn optional(&self, name: &str) -> Result<Option<&Column>> {
        let theirs = self.map.get(name).map_or(name, String::as_str);
        match self.frame.column(theirs) {
            Ok(column) => Ok(Some(column)),
            Err(_) if self.map.contains_key(name) => {
                let near = nearest(theirs, self.names())
                    .map(|near| format!("; the nearest is `{near}`"))
                    .unwrap_or_default();
                let (path, names) = (self.path.display(), self.names().join(", "));
                bail_user!(
                    "{path}: no column `{theirs}`, which the map gives for `{name}`{near}. Columns there: {names}"
                )
            }
            Err(_) => Ok(None),
        }
    }

    fn required(&self, name: &str) -> Result<&Column> {
        if let Some(column) = self.optional(name)? {
            return Ok(column);
        }
        let advice = match self.likely(name) {
            Some(near) => format!("if `{near}` is it, pass --map {name}={near}"),
            None => format!("pass --map {name}=COLUMN"),
        };
        bail_user!(
            "{}: no column `{name}`; {advice}. Columns there: {}",
            self.path.display(),
            self.names().join(", ")
        )
    }

    /// The column that most likely holds `name`: it has the word in it, is another tool's word for
    /// it, or is near in spelling.
    fn likely(&self, name: &str) -> Option<&str> {
        let names = self.names();
        let has_word = |column: &&&str| {
            column.split(['_', ' ', '.']).any(|word| word.eq_ignore_ascii_case(name))
        };
        let other_word = |column: &&&str| {
            name == "value" && VALUE_NAMES.contains(&column.to_ascii_lowercase().as_str())
        };
        let found = names.iter().find(has_word).or_else(|| names.iter().find(other_word)).copied();
        found.or_else(|| nearest(name, names))
    }

    fn as_text(&self, column: &Column) -> Result<StringChunked> {
        let cast = column.cast(&DataType::String).map_err(|error| {
            user(format!(
                "{}: column `{}` is not text: {error}",
                self.path.display(),
                column.name()
            ))
        })?;
        Ok(cast.str()?.rechunk().into_owned())
    }

    fn as_integers(&self, column: &Column) -> Result<Numbers<i64>> {
        let whole = |(row, number): (usize, Option<f64>)| match number {
            Some(number) if number.fract() == 0.0 && number.abs() < 9e15 => Ok(Some(number as i64)),
            None => Ok(None),
            Some(number) => Err(self.mistyped(column, row, &number.to_string(), "a whole number")),
        };
        let numbers: Result<_> =
            self.as_numbers(column)?.into_iter().enumerate().map(whole).collect();
        numbers.map(Numbers)
    }

    fn as_numbers(&self, column: &Column) -> Result<Vec<Option<f64>>> {
        match column.dtype() {
            DataType::String => {
                let parse = |(row, text): (usize, Option<&str>)| match text
                    .map(str::trim)
                    .filter(|text| !text.is_empty())
                {
                    None => Ok(None),
                    Some(text) => text
                        .parse()
                        .map(Some)
                        .map_err(|_| self.mistyped(column, row, &format!("{text:?}"), "a number")),
                };
                column.str()?.iter().enumerate().map(parse).collect()
            }
            kind if kind.is_primitive_numeric() || kind.is_bool() || kind.is_null() => {
                let cast = column.cast(&DataType::Float64)?;
                Ok(cast.f64()?.iter().collect())
            }
            kind => bail_user!(
                "{}: column `{}` holds {kind}, numbers are needed",
                self.path.display(),
                column.name()
            ),
        }
    }

    fn mistyped(&self, column: &Column, row: usize, found: &str, wanted: &str) -> anyhow::Error {
        user(format!(
            "{}: row {}: column `{}` holds {found}, {wanted} is needed",
            self.path.display(),
            row + 1,
            column.name()
        ))
    }
}

/// A delimited file as columns of text, which are parsed when they are used; an empty field is
/// null.
fn read_csv(path: &Path, delimiter: u8) -> Result<DataFrame> {
    let file = artifact::error::open_input(path)?;
    let bad = |error: csv::Error| user(format!("{}: {error}", path.display()));
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(file);
    let header = reader.headers().map_err(bad)?.clone();
    let mut columns: Vec<Vec<Option<String>>> = vec![Vec::new(); header.len()];
    for record in reader.into_records() {
        for (column, field) in columns.iter_mut().zip(&record.map_err(bad)?) {
            column.push((!field.is_empty()).then(|| field.to_string()));
        }
    }
    let names = header.iter().map(|name| name.trim_start_matches('\u{feff}').trim());
    let columns =
        names.zip(columns).map(|(name, values)| Column::new(name.into(), values)).collect();
    DataFrame::new_infer_height(columns)
        .map_err(|error| user(format!("{}: {error}", path.display())))
}
