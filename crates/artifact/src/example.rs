//! The rows of `examples` and `mixture` as Rust values, and their way into and out of data frames.

use std::path::Path;

use anyhow::{Result, anyhow};
use polars::prelude::*;
use polars_arrow::{
    array::{Array, ListArray, MutableBinaryViewArray, StructArray, Utf8ViewArray},
    offset::OffsetsBuffer,
};
use serde::{Deserialize, Serialize};

use crate::schema::EXAMPLES;

/// One turn of a conversation. Roles: `system`, `user`, `assistant`, `tool`; `text` for raw text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// A row of `examples`; the columns are described in [`crate::schema::EXAMPLES`].
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "the schema table holds each column's meaning")]
pub struct Example {
    pub example_id: String,
    pub item_id: String,
    pub source: String,
    pub task: String,
    pub split: String,
    pub lang: String,
    pub lang_declared: Option<String>,
    pub lang_detected: Option<String>,
    pub lang_confidence: Option<f64>,
    pub lang_rule: String,
    pub script: Option<String>,
    pub messages: Vec<Message>,
    pub reference: Option<String>,
    pub meta: Option<String>,
}

/// A row of `mixture`: an example and its place in training.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "the schema table holds each column's meaning")]
pub struct MixtureRow {
    pub mixture_id: String,
    pub position: i64,
    pub repeat: i64,
    pub example: Example,
}

fn text<'a>(name: &str, values: impl Iterator<Item = &'a str>) -> Column {
    StringChunked::from_iter_values(name.into(), values).into_column()
}

fn optional<'a>(name: &str, values: impl Iterator<Item = Option<&'a str>>) -> Column {
    StringChunked::from_iter_options(name.into(), values).into_column()
}

fn example_columns(rows: &[&Example]) -> Result<Vec<Column>> {
    let confidence = rows.iter().map(|row| row.lang_confidence);
    Ok(vec![
        text("example_id", rows.iter().map(|row| row.example_id.as_str())),
        text("item_id", rows.iter().map(|row| row.item_id.as_str())),
        text("source", rows.iter().map(|row| row.source.as_str())),
        text("task", rows.iter().map(|row| row.task.as_str())),
        text("split", rows.iter().map(|row| row.split.as_str())),
        text("lang", rows.iter().map(|row| row.lang.as_str())),
        optional("lang_declared", rows.iter().map(|row| row.lang_declared.as_deref())),
        optional("lang_detected", rows.iter().map(|row| row.lang_detected.as_deref())),
        Float64Chunked::from_iter_options("lang_confidence".into(), confidence).into_column(),
        text("lang_rule", rows.iter().map(|row| row.lang_rule.as_str())),
        optional("script", rows.iter().map(|row| row.script.as_deref())),
        messages_column("messages", rows.iter().map(|row| row.messages.as_slice()))?,
        optional("reference", rows.iter().map(|row| row.reference.as_deref())),
        optional("meta", rows.iter().map(|row| row.meta.as_deref())),
    ])
}

/// Rows as an `examples` frame.
pub fn examples_to_frame(rows: &[Example]) -> Result<DataFrame> {
    let rows: Vec<&Example> = rows.iter().collect();
    Ok(DataFrame::new(rows.len(), example_columns(&rows)?)?)
}

/// Rows as a `mixture` frame.
pub fn mixture_to_frame(rows: &[MixtureRow]) -> Result<DataFrame> {
    let examples: Vec<&Example> = rows.iter().map(|row| &row.example).collect();
    let mut columns = vec![
        text("mixture_id", rows.iter().map(|row| row.mixture_id.as_str())),
        Int64Chunked::from_iter_values("position".into(), rows.iter().map(|row| row.position))
            .into_column(),
        Int64Chunked::from_iter_values("repeat".into(), rows.iter().map(|row| row.repeat))
            .into_column(),
    ];
    columns.extend(example_columns(&examples)?);
    Ok(DataFrame::new(rows.len(), columns)?)
}

/// A `messages` column: list of struct `role`, `content`.
pub fn messages_column<'a>(
    name: &str,
    rows: impl Iterator<Item = &'a [Message]> + Clone,
) -> Result<Column> {
    let field = |pick: fn(&Message) -> &str| {
        MutableBinaryViewArray::<str>::from_values_iter(rows.clone().flatten().map(pick)).freeze()
    };
    let roles = field(|message| &message.role);
    let contents = field(|message| &message.content);
    let mut ends = vec![0i64];
    let mut total = 0;
    for messages in rows.clone() {
        total += messages.len() as i64;
        ends.push(total);
    }
    let fields = ["role", "content"]
        .map(|field| ArrowField::new(field.into(), roles.dtype().clone(), true))
        .to_vec();
    let values = StructArray::new(
        ArrowDataType::Struct(fields),
        total as usize,
        vec![roles.boxed(), contents.boxed()],
        None,
    );
    let list = ListArray::<i64>::new(
        ListArray::<i64>::default_datatype(values.dtype().clone()),
        OffsetsBuffer::try_from(ends)?,
        values.boxed(),
        None,
    );
    Ok(Series::from_arrow(name.into(), list.boxed())?.into_column())
}

/// The conversations of a `messages` column; null is an empty one.
pub fn messages_of(column: &Column) -> Result<Vec<Vec<Message>>> {
    let series = column.as_materialized_series().rechunk();
    let list = series.list()?;
    let mut rows = Vec::with_capacity(list.len());
    for chunk in list.chunks() {
        let shape = || anyhow!("column `{}` is not a list of struct role, content", column.name());
        let lists = chunk.as_any().downcast_ref::<ListArray<i64>>().ok_or_else(shape)?;
        let turns = lists.values().as_any().downcast_ref::<StructArray>().ok_or_else(shape)?;
        let field = |name: &str| {
            let index = turns.fields().iter().position(|field| field.name == name)?;
            turns.values()[index].as_any().downcast_ref::<Utf8ViewArray>()
        };
        let (roles, contents) =
            (field("role").ok_or_else(shape)?, field("content").ok_or_else(shape)?);
        for row in 0..lists.len() {
            if !lists.is_valid(row) {
                rows.push(Vec::new());
                continue;
            }
            let (start, end) = lists.offsets().start_end(row);
            rows.push(
                (start..end)
                    .map(|turn| Message {
                        role: roles.get(turn).unwrap_or_default().to_owned(),
                        content: contents.get(turn).unwrap_or_default().to_owned(),
                    })
                    .collect(),
            );
        }
    }
    Ok(rows)
}

/// An `examples` frame (or a `mixture` one) as rows. Extra columns are left out.
pub fn frame_to_examples(df: &DataFrame) -> Result<Vec<Example>> {
    let df = EXAMPLES.conform(df.clone(), Path::new("examples"))?;
    let messages = messages_of(df.column("messages")?)?;
    let column = |name: &str| -> Result<StringChunked> { Ok(df.column(name)?.str()?.clone()) };
    let (example_id, item_id, source) =
        (column("example_id")?, column("item_id")?, column("source")?);
    let (task, split, lang, rule) =
        (column("task")?, column("split")?, column("lang")?, column("lang_rule")?);
    let (declared, detected, script) =
        (column("lang_declared")?, column("lang_detected")?, column("script")?);
    let (reference, meta) = (column("reference")?, column("meta")?);
    let confidence = df.column("lang_confidence")?.f64()?.clone();
    let plain = |column: &StringChunked, row: usize| column.get(row).unwrap_or_default().to_owned();
    let maybe = |column: &StringChunked, row: usize| column.get(row).map(str::to_owned);
    Ok(messages
        .into_iter()
        .enumerate()
        .map(|(row, messages)| Example {
            example_id: plain(&example_id, row),
            item_id: plain(&item_id, row),
            source: plain(&source, row),
            task: plain(&task, row),
            split: plain(&split, row),
            lang: plain(&lang, row),
            lang_declared: maybe(&declared, row),
            lang_detected: maybe(&detected, row),
            lang_confidence: confidence.get(row),
            lang_rule: plain(&rule, row),
            script: maybe(&script, row),
            messages,
            reference: maybe(&reference, row),
            meta: maybe(&meta, row),
        })
        .collect())
}

#[cfg(test)]
pub(crate) fn sample(rows: usize) -> Vec<Example> {
    (0..rows)
        .map(|row| Example {
            example_id: format!("e{row}"),
            item_id: format!("i{}", row / 2),
            source: "s".into(),
            task: "math".into(),
            split: "train".into(),
            lang: if row % 2 == 0 { "en" } else { "zh-Hans" }.into(),
            lang_confidence: (row % 3 == 0).then_some(0.5),
            lang_rule: "agreed".into(),
            messages: (0..row % 4)
                .map(|turn| Message {
                    role: "user".into(), content: format!("问题 {row}.{turn}")
                })
                .collect(),
            reference: (row % 2 == 0).then(|| row.to_string()),
            ..Example::default()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_survive_the_way_through_a_frame() {
        let rows = sample(9);
        let df = examples_to_frame(&rows).unwrap();
        EXAMPLES.check(&df, Path::new("t")).unwrap();
        assert_eq!(frame_to_examples(&df).unwrap(), rows);
        let taken = df.slice(3, 4);
        assert_eq!(frame_to_examples(&taken).unwrap(), rows[3..7]);
    }

    #[test]
    fn no_rows_are_a_frame_too() {
        let df = examples_to_frame(&[]).unwrap();
        EXAMPLES.check(&df, Path::new("t")).unwrap();
        assert!(frame_to_examples(&df).unwrap().is_empty());
    }
}
