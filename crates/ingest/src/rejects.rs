//! Rows that were not taken: why, and how they come into `rejects.parquet`.

use std::borrow::Cow;

use anyhow::Result;
use polars::prelude::{Column, DataFrame, NamedFrom, Series};

/// How much of a row's text is kept, in bytes.
const RAW_BYTES: usize = 4096;

/// The kinds of reasons, as they are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    InvalidUtf8,
    InvalidJson,
    TooLong,
    WrongCells,
    WrongType,
    MissingField,
    NoSchema,
    Empty,
    NoMatch,
    UnknownLanguage,
    UnknownSplit,
    ScriptMismatch,
    Contradicted,
    DuplicateId,
    Duplicate,
    NearDuplicate,
}

impl Reason {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Reason::InvalidUtf8 => "invalid UTF-8",
            Reason::InvalidJson => "invalid JSON",
            Reason::TooLong => "too long",
            Reason::WrongCells => "wrong number of cells",
            Reason::WrongType => "wrong type",
            Reason::MissingField => "missing field",
            Reason::NoSchema => "no known schema",
            Reason::Empty => "empty",
            Reason::NoMatch => "no match",
            Reason::UnknownLanguage => "unknown language",
            Reason::UnknownSplit => "unknown split",
            Reason::ScriptMismatch => "script mismatch",
            Reason::Contradicted => "language contradicted",
            Reason::DuplicateId => "duplicate id",
            Reason::Duplicate => "duplicate",
            Reason::NearDuplicate => "near duplicate",
        }
    }
}

/// Why a row is not taken.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refusal {
    pub reason: Reason,
    pub detail: String,
}

impl Refusal {
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Refusal {
        Refusal { reason, detail: detail.into() }
    }

    /// The same, said of a field.
    pub(crate) fn about(self, field: &str) -> Refusal {
        Refusal { detail: format!("`{field}` {}", self.detail), ..self }
    }

    /// What stands in the `reason` column. A detail that begins with the reason says it once.
    pub(crate) fn text(&self) -> String {
        let reason = self.reason.as_str();
        let detail = self.detail.strip_prefix(reason).unwrap_or(&self.detail).trim_start();
        format!("{reason}: {detail}")
    }
}

/// A row of `rejects.parquet`.
#[derive(Clone, Debug)]
pub(crate) struct Reject {
    pub source: String,
    pub file: String,
    pub line: u64,
    pub refusal: Refusal,
    pub raw: String,
}

/// The part of a row that is kept to show: at most some kilobytes, what is not UTF-8 replaced.
pub(crate) fn shown(raw: &[u8]) -> String {
    let text: Cow<'_, str> = String::from_utf8_lossy(&raw[..raw.len().min(RAW_BYTES)]);
    // A character cut in two at the end is no fault of the row.
    match raw.len() > RAW_BYTES {
        true => format!("{}…", text.trim_end_matches('\u{fffd}')),
        false => text.into_owned(),
    }
}

/// Rejects as a frame with the columns of `rejects`.
pub(crate) fn frame(rejects: &[Reject]) -> Result<DataFrame> {
    let text = |name: &str, of: fn(&Reject) -> String| -> Column {
        Series::new(name.into(), rejects.iter().map(of).collect::<Vec<_>>()).into()
    };
    let lines: Vec<i64> = rejects.iter().map(|reject| reject.line as i64).collect();
    let columns = vec![
        text("source", |reject| reject.source.clone()),
        text("file", |reject| reject.file.clone()),
        Series::new("line".into(), lines).into(),
        text("reason", |reject| reject.refusal.text()),
        text("raw", |reject| reject.raw.clone()),
    ];
    Ok(DataFrame::new(rejects.len(), columns)?)
}
