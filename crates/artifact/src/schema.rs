//! The artifacts' tables: column names are public interface.
//!
//! A reader checks what it needs: a missing or mistyped column is named with its file, extra
//! columns are welcome, and nullable columns that an older writer did not know are filled with
//! nulls (that is what a minor version may add; a rename or retype is a new major version).

use std::path::Path;

use anyhow::Result;
use polars::prelude::*;

use crate::{bail_user, config::nearest, error::user};

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8 text.
    Text,
    /// 64-bit integer; narrower ones are widened on reading.
    Integer,
    /// 64-bit float; integers and narrower floats are widened on reading.
    Float,
    /// List of struct `role`, `content`.
    Messages,
    /// List of struct `task`, `lang`, `rows`, `tokens`.
    Realised,
}

impl Kind {
    /// The name as `isogloss schema` prints it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Text => "string",
            Kind::Integer => "int64",
            Kind::Float => "float64",
            Kind::Messages => "list<struct<role: string, content: string>>",
            Kind::Realised => {
                "list<struct<task: string, lang: string, rows: int64, tokens: int64>>"
            }
        }
    }

    fn dtype(self) -> DataType {
        let field = |name: &str, dtype| Field::new(name.into(), dtype);
        let list = |fields| DataType::List(Box::new(DataType::Struct(fields)));
        match self {
            Kind::Text => DataType::String,
            Kind::Integer => DataType::Int64,
            Kind::Float => DataType::Float64,
            Kind::Messages => {
                list(vec![field("role", DataType::String), field("content", DataType::String)])
            }
            Kind::Realised => list(vec![
                field("task", DataType::String),
                field("lang", DataType::String),
                field("rows", DataType::Int64),
                field("tokens", DataType::Int64),
            ]),
        }
    }

    /// Whether `found` can be read as this kind without loss of meaning.
    fn accepts(self, found: &DataType) -> bool {
        match self {
            Kind::Text => matches!(found, DataType::String) || found.is_categorical(),
            Kind::Integer => found.is_integer(),
            Kind::Float => found.is_primitive_numeric(),
            Kind::Messages | Kind::Realised => *found == self.dtype(),
        }
    }
}

/// One column of an artifact.
#[derive(Debug)]
pub struct ColumnSpec {
    /// Name; public interface.
    pub name: &'static str,
    /// Type.
    pub kind: Kind,
    /// Whether it may be null, or missing in files of older writers and other tools.
    pub nullable: bool,
    /// What it means.
    pub meaning: &'static str,
}

impl ColumnSpec {
    /// `column` (read from `path`) in this column's type.
    pub fn conform(&self, column: &Column, path: &Path) -> Result<Column> {
        let dtype = self.kind.dtype();
        if *column.dtype() == dtype {
            return Ok(column.clone());
        }
        let absent = self.nullable && column.dtype().is_null();
        if !absent && !self.kind.accepts(column.dtype()) {
            bail_user!(
                "{}: column `{}` holds {}, where {} is needed ({})",
                path.display(),
                self.name,
                column.dtype(),
                self.kind.name(),
                self.meaning,
            );
        }
        Ok(column.cast(&dtype)?)
    }

    /// Text and whole numbers that an artifact needs stand in every row. A float may be null: a
    /// score that does not apply.
    fn refuse_nulls(&self, column: &Column, path: &Path) -> Result<()> {
        if self.nullable || self.kind == Kind::Float || column.null_count() == 0 {
            return Ok(());
        }
        let row = column.is_null().iter().position(|null| null == Some(true)).unwrap_or_default();
        bail_user!(
            "{}: column `{}` is null in row {}; it is needed in every row ({})",
            path.display(),
            self.name,
            row + 1,
            self.meaning,
        );
    }

    /// This column with nothing in it.
    pub fn nulls(&self, rows: usize) -> Column {
        Column::full_null(self.name.into(), rows, &self.kind.dtype())
    }
}

/// An artifact's table.
#[derive(Debug)]
pub struct Schema {
    /// Name of the artifact, e.g. `examples`.
    pub artifact: &'static str,
    /// Major and minor version.
    pub version: (u32, u32),
    /// What the artifact is.
    pub meaning: &'static str,
    /// Columns in order.
    pub columns: &'static [ColumnSpec],
}

impl Schema {
    /// The version as written into the file: `1.0`.
    pub fn version_text(&self) -> String {
        format!("{}.{}", self.version.0, self.version.1)
    }

    /// Checks `df` (read from `path`) against this table.
    pub fn check(&self, df: &DataFrame, path: &Path) -> Result<()> {
        self.conform(df.clone(), path).map(drop)
    }

    /// Checks `df` and brings its columns to this table's types: integers and floats widened,
    /// missing nullable columns added as nulls. Extra columns stay.
    pub fn conform(&self, mut df: DataFrame, path: &Path) -> Result<DataFrame> {
        for spec in self.columns {
            let column = match df.column(spec.name) {
                Ok(found) => {
                    spec.refuse_nulls(found, path)?;
                    spec.conform(found, path)?
                }
                Err(_) if spec.nullable => spec.nulls(df.height()),
                Err(_) => return Err(self.missing(spec, &df, path)),
            };
            df.with_column(column)?;
        }
        Ok(df)
    }

    fn missing(&self, spec: &ColumnSpec, df: &DataFrame, path: &Path) -> anyhow::Error {
        let names = df.get_column_names();
        let near = nearest(spec.name, names.iter().map(|name| name.as_str()))
            .map_or(String::new(), |near| format!(", is it `{near}`?"));
        user(format!(
            "{}: column `{}` ({}) is missing{near} (`isogloss schema {}` lists the columns)",
            path.display(),
            spec.name,
            spec.kind.name(),
            self.artifact,
        ))
    }

    /// A frame of no rows with this table's columns.
    pub fn empty(&self) -> DataFrame {
        let columns: Vec<Column> = self
            .columns
            .iter()
            .map(|column| Column::new_empty(column.name.into(), &column.kind.dtype()))
            .collect();
        DataFrame::new(0, columns).unwrap_or_default()
    }
}

/// Every artifact, in pipeline order.
pub static ALL: [&Schema; 9] =
    [&EXAMPLES, &REJECTS, &MIXTURE, &MIXTURES, &METRICS, &GENERATIONS, &SCORES, &TRANSFER, &LEAKS];

macro_rules! schema {
    ($(#[$doc:meta])* $name:ident, $artifact:literal, $meaning:literal, [$($column:ident: $kind:ident $(? $null:ident)?, $text:literal;)*]) => {
        $(#[$doc])*
        pub static $name: Schema = Schema {
            artifact: $artifact,
            version: (1, 0),
            meaning: $meaning,
            columns: &[$(ColumnSpec {
                name: stringify!($column),
                kind: Kind::$kind,
                nullable: schema!(@null $($null)?),
                meaning: $text,
            }),*],
        };
    };
    (@null null) => { true };
    (@null) => { false };
}

schema!(
    /// Ingested data, one row per example.
    EXAMPLES, "examples", "ingested data, one row per example", [
    example_id: Text, "unique id of this row";
    item_id: Text, "id of the content, the same in every language of parallel data";
    source: Text, "name of the source it came from";
    task: Text, "task, e.g. math";
    split: Text, "train, validation or test";
    lang: Text, "language, resolved (BCP 47)";
    lang_declared: Text?null, "language as the source declares it, normalised";
    lang_detected: Text?null, "language as detected";
    lang_confidence: Float?null, "the detector's confidence, 0 to 1";
    lang_rule: Text, "which rule resolved the language";
    script: Text?null, "script (ISO 15924)";
    messages: Messages, "the conversation";
    reference: Text?null, "what a generation is scored against";
    meta: Text?null, "anything else the source said, as JSON";
]);

schema!(
    /// Input rows that were not taken.
    REJECTS, "rejects", "input rows that ingest did not take, with the reason", [
    source: Text?null, "name of the source";
    file: Text, "file the row stands in";
    line: Integer, "line or row number in that file, from 1";
    reason: Text, "why it was not taken";
    raw: Text?null, "the row as it stood, shortened";
]);

schema!(
    /// One training mixture.
    MIXTURE, "mixture", "one training mixture: examples in training order", [
    mixture_id: Text, "id of the mixture";
    position: Integer, "place in the training order, from 0";
    repeat: Integer, "which pass over the item this is, from 0";
    example_id: Text, "unique id of the example";
    item_id: Text, "id of the content across languages";
    source: Text, "name of the source";
    task: Text, "task";
    split: Text, "split";
    lang: Text, "language, resolved (BCP 47)";
    lang_declared: Text?null, "language as declared";
    lang_detected: Text?null, "language as detected";
    lang_confidence: Float?null, "the detector's confidence";
    lang_rule: Text, "which rule resolved the language";
    script: Text?null, "script (ISO 15924)";
    messages: Messages, "the conversation";
    reference: Text?null, "the answer";
    meta: Text?null, "anything else, as JSON";
]);

schema!(
    /// The index of all mixtures of a design.
    MIXTURES, "mixtures", "index of a design's mixtures: factors and what was realised", [
    mixture_id: Text, "id of the mixture";
    setting: Text, "single-task or multi-task";
    train_langs: Text, "the design's seen languages, joined by commas";
    n: Integer?null, "examples per seen language other than English, and per task";
    english: Integer?null, "English examples per task";
    budget: Text, "budget rule";
    sampler: Text, "how strata are sampled";
    data_seed: Integer, "seed of the draw";
    rows: Integer, "rows realised";
    tokens: Integer?null, "tokens realised, by the design's tokenizer";
    realised: Realised, "rows and tokens by task and language";
]);

schema!(
    /// Training and validation metrics.
    METRICS, "metrics", "training metrics, one row per logged step and split", [
    step: Integer, "optimiser steps done";
    split: Text, "train or validation";
    loss: Float, "mean loss per counted token (nats)";
    learning_rate: Float?null, "learning rate of the step";
    grad_norm: Float?null, "global gradient norm before clipping";
    tokens: Integer, "tokens seen since the start";
    seconds: Float, "seconds since the start";
    tokens_per_second: Float?null, "throughput since the last row";
    mfu: Float?null, "model FLOP/s over the device's peak, where that is known";
    documents: Integer?null, "documents of the step";
    truncated: Integer?null, "how many of them are of rows that the sequence length cut";
]);

schema!(
    /// What a checkpoint answered.
    GENERATIONS, "generations", "what a checkpoint answered, one row per prompt", [
    run_id: Text?null, "id of the run";
    mixture_id: Text?null, "id of the mixture that the run was trained on";
    example_id: Text?null, "id of the example";
    item_id: Text?null, "id of the content across languages";
    lang: Text, "language of the prompt, and asked of the answer";
    task: Text?null, "task";
    prompt: Text?null, "the rendered prompt";
    generation: Text?null, "the answer; null or empty if there is none";
    finish_reason: Text?null, "stop, length or prompt-too-long";
    reference: Text?null, "what the answer is scored against";
    prompt_tokens: Integer?null, "tokens in the prompt";
    generated_tokens: Integer?null, "tokens generated";
]);

schema!(
    /// One value per item and metric.
    SCORES, "scores", "one row per item and metric", [
    run_id: Text?null, "id of the run";
    mixture_id: Text?null, "id of the mixture that the run was trained on";
    example_id: Text?null, "id of the example";
    item_id: Text?null, "id of the content across languages";
    lang: Text, "language";
    task: Text, "task";
    metric: Text, "metric";
    value: Float, "score; null where the metric does not apply to the item, and detail says why";
    detail: Text?null, "how the value came about";
    signature: Text?null, "which variant of the metric, with which settings";
]);

schema!(
    /// What transferred.
    TRANSFER, "transfer", "scores by run factors and language, with intervals", [
    task: Text, "task";
    metric: Text, "metric";
    model: Text?null, "base model";
    setting: Text?null, "single-task or multi-task";
    train_langs: Text?null, "the design's seen languages";
    n: Integer?null, "examples per seen language other than English";
    lang: Text, "language";
    group: Text, "english, seen or unseen";
    value: Float, "mean score over items and seeds";
    low: Float?null, "lower end of the 95 % interval";
    high: Float?null, "upper end of the 95 % interval";
    seeds: Integer?null, "runs that differ in seed alone";
    items: Integer?null, "items";
]);

schema!(
    /// Train rows that the leakage guard took out.
    LEAKS, "leaks", "train rows that overlap a test item", [
    example_id: Text, "the train row";
    lang: Text, "its language";
    test_example_id: Text, "the test row it overlaps";
    reason: Text, "item-id or n-gram";
]);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::is_user;

    fn scores() -> DataFrame {
        df!("lang" => ["en"], "task" => ["math"], "metric" => ["m"], "value" => [1i32], "extra" => ["x"]).unwrap()
    }

    #[test]
    fn narrow_numbers_widen_and_absent_nullable_columns_become_null() {
        let df = SCORES.conform(scores(), Path::new("s")).unwrap();
        assert_eq!(df.column("value").unwrap().f64().unwrap().get(0), Some(1.0));
        assert_eq!(df.column("detail").unwrap().null_count(), 1);
        assert!(df.column("extra").is_ok());
    }

    #[test]
    fn a_missing_column_is_named_with_file_and_near_name() {
        let mut df = scores();
        df.rename("value", "values".into()).unwrap();
        let error = SCORES.check(&df, Path::new("s.parquet")).unwrap_err();
        let text = error.to_string();
        assert!(is_user(&error));
        assert!(
            text.contains("s.parquet") && text.contains("`value`") && text.contains("`values`"),
            "{text}"
        );
    }

    #[test]
    fn a_null_where_a_value_is_needed_names_the_row() {
        let mut df =
            df!("lang" => [Some("en"), None], "task" => ["m", "m"], "metric" => ["m", "m"])
                .unwrap();
        df.with_column(Column::new("value".into(), [Some(1.0), None])).unwrap();
        let text = SCORES.check(&df, Path::new("s.parquet")).unwrap_err().to_string();
        assert!(text.contains("s.parquet: column `lang` is null in row 2"), "{text}");
        let without = df.head(Some(1)).vstack(&df.head(Some(1))).unwrap();
        assert!(SCORES.check(&without, Path::new("s.parquet")).is_ok());
    }

    #[test]
    fn a_mistyped_column_says_what_was_found() {
        let df =
            df!("lang" => [1i64], "task" => ["m"], "metric" => ["m"], "value" => [1.0]).unwrap();
        let text = SCORES.check(&df, Path::new("s.parquet")).unwrap_err().to_string();
        assert!(
            text.contains("`lang`") && text.contains("i64") && text.contains("string"),
            "{text}"
        );
    }
}
