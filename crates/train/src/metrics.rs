//! Losses by language, and the rows of `metrics.parquet`.

use std::{collections::BTreeSet, path::Path};

use anyhow::Result;
use artifact::{parquet, polars::prelude::*, schema::METRICS};

use crate::data::Dataset;

/// Sums of token losses, in total and by language.
#[derive(Clone, Debug, Default)]
pub struct LossSum {
    total: Sum,
    by_language: Vec<Sum>,
    /// Examples whose loss is not a number or infinite.
    pub not_finite: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    loss: f64,
    tokens: u64,
}

impl Sum {
    fn add(&mut self, loss: f32) {
        self.loss += f64::from(loss);
        self.tokens += 1;
    }

    fn mean(self) -> Option<f64> {
        (self.tokens > 0).then(|| self.loss / self.tokens as f64)
    }
}

impl LossSum {
    /// Adds the token losses of documents that were run end to end.
    pub fn add<'a>(
        &mut self,
        data: &Dataset,
        documents: impl IntoIterator<Item = &'a usize>,
        losses: &[f32],
    ) {
        self.by_language.resize(data.languages.len(), Sum::default());
        let mut rest = losses;
        for &index in documents {
            let document = &data.documents[index];
            let (own, after) = rest.split_at(document.tokens.len().min(rest.len()));
            rest = after;
            for (&loss, &target) in own.iter().zip(&*document.targets) {
                if target >= 0 {
                    self.total.add(loss);
                    self.by_language[document.language].add(loss);
                }
            }
            if own.iter().any(|loss| !loss.is_finite()) {
                self.not_finite.push(document.example_id.clone());
            }
        }
    }

    /// Mean loss per counted token.
    pub fn mean(&self) -> f64 {
        self.total.mean().unwrap_or(0.0)
    }

    /// Mean loss of each language that occurred.
    pub fn by_language(&self, data: &Dataset) -> Vec<(String, f64)> {
        let means = data.languages.iter().zip(&self.by_language);
        means.filter_map(|(name, sum)| Some((name.clone(), sum.mean()?))).collect()
    }
}

/// One row of `metrics.parquet`; the columns' meanings stand in the schema.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// Optimiser steps done.
    pub step: u64,
    /// Whether this is a validation.
    pub validation: bool,
    /// Mean loss per counted token, in nats.
    pub loss: f64,
    /// Learning rate of the step.
    pub learning_rate: Option<f64>,
    /// Global gradient norm before clipping.
    pub grad_norm: Option<f64>,
    /// Tokens run through training since the start.
    pub tokens: u64,
    /// Seconds since the start.
    pub seconds: f64,
    /// Throughput of the step.
    pub tokens_per_second: Option<f64>,
    /// The step's model FLOP/s over the cards' peak, where that is known.
    pub mfu: Option<f64>,
    /// Documents of the step.
    pub documents: Option<u64>,
    /// How many of them are of rows that the sequence length cut.
    pub truncated: Option<u64>,
    /// Loss by language, sorted.
    pub by_language: Vec<(String, f64)>,
}

const LANGUAGE_PREFIX: &str = "loss_";

/// Writes rows; each language that occurs has a column `loss_<lang>`.
pub fn write(rows: &[Row], path: &Path) -> Result<()> {
    let number = |name: &str, value: &dyn Fn(&Row) -> Option<f64>| {
        Float64Chunked::from_iter_options(name.into(), rows.iter().map(value)).into_column()
    };
    let integer = |name: &str, value: &dyn Fn(&Row) -> u64| {
        Int64Chunked::from_iter_values(name.into(), rows.iter().map(|row| value(row) as i64))
            .into_column()
    };
    let maybe = |name: &str, value: &dyn Fn(&Row) -> Option<u64>| {
        let values = rows.iter().map(|row| value(row).map(|value| value as i64));
        Int64Chunked::from_iter_options(name.into(), values).into_column()
    };
    let splits = rows.iter().map(|row| if row.validation { "validation" } else { "train" });
    let mut columns = vec![
        integer("step", &|row| row.step),
        StringChunked::from_iter_values("split".into(), splits).into_column(),
        number("loss", &|row| Some(row.loss)),
        number("learning_rate", &|row| row.learning_rate),
        number("grad_norm", &|row| row.grad_norm),
        integer("tokens", &|row| row.tokens),
        number("seconds", &|row| Some(row.seconds)),
        number("tokens_per_second", &|row| row.tokens_per_second),
        number("mfu", &|row| row.mfu),
        maybe("documents", &|row| row.documents),
        maybe("truncated", &|row| row.truncated),
    ];
    let languages: BTreeSet<&String> =
        rows.iter().flat_map(|row| row.by_language.iter().map(|(name, _)| name)).collect();
    for language in languages {
        let of = |row: &Row| {
            row.by_language.iter().find(|(name, _)| name == language).map(|(_, loss)| *loss)
        };
        columns.push(number(&format!("{LANGUAGE_PREFIX}{language}"), &of));
    }
    let mut frame = DataFrame::new(rows.len(), columns)?;
    parquet::write(path, &METRICS, &mut frame)
}

/// Reads what [`write`] wrote.
pub fn read(path: &Path) -> Result<Vec<Row>> {
    let frame = parquet::read(path, Some(&METRICS))?;
    let languages: Vec<String> = frame
        .get_column_names()
        .iter()
        .filter_map(|name| name.strip_prefix(LANGUAGE_PREFIX).map(str::to_owned))
        .collect();
    let maybe = |name: &str, row: usize| -> Result<Option<u64>> {
        Ok(frame.column(name)?.i64()?.get(row).map(|value| value as u64))
    };
    let integer = |name: &str, row: usize| maybe(name, row).map(Option::unwrap_or_default);
    let number =
        |name: &str, row: usize| -> Result<Option<f64>> { Ok(frame.column(name)?.f64()?.get(row)) };
    let mut rows = Vec::with_capacity(frame.height());
    for index in 0..frame.height() {
        let mut by_language = Vec::new();
        for language in &languages {
            if let Some(loss) = number(&format!("{LANGUAGE_PREFIX}{language}"), index)? {
                by_language.push((language.clone(), loss));
            }
        }
        rows.push(Row {
            step: integer("step", index)?,
            validation: frame.column("split")?.str()?.get(index) == Some("validation"),
            loss: number("loss", index)?.unwrap_or(f64::NAN),
            learning_rate: number("learning_rate", index)?,
            grad_norm: number("grad_norm", index)?,
            tokens: integer("tokens", index)?,
            seconds: number("seconds", index)?.unwrap_or(0.0),
            tokens_per_second: number("tokens_per_second", index)?,
            mfu: number("mfu", index)?,
            documents: maybe("documents", index)?,
            truncated: maybe("truncated", index)?,
            by_language,
        });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Document;

    fn row(step: u64, validation: bool, loss: f64, by_language: &[(&str, f64)]) -> Row {
        Row {
            step,
            validation,
            loss,
            learning_rate: (!validation).then_some(0.1),
            grad_norm: None,
            tokens: step * 10,
            seconds: 0.5,
            tokens_per_second: Some(20.0),
            mfu: validation.then_some(0.4),
            documents: (!validation).then_some(3),
            truncated: None,
            by_language: by_language
                .iter()
                .map(|(name, loss)| ((*name).to_owned(), *loss))
                .collect(),
        }
    }

    #[test]
    fn rows_come_back_from_parquet_bit_for_bit() {
        let third = 1.0 / 3.0;
        let rows = vec![
            row(1, false, third, &[("en", third)]),
            row(1, true, 0.1 + 0.2, &[("en", 1e-310), ("zh-Hans", 2.0)]),
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.parquet");
        write(&rows, &path).unwrap();
        assert_eq!(read(&path).unwrap(), rows);
    }

    #[test]
    fn losses_are_means_over_counted_tokens_by_language() {
        let document = |language, targets: &[i32]| Document {
            example_id: format!("doc-{language}"),
            language,
            tokens: vec![7; targets.len()].into(),
            targets: targets.into(),
            cut: false,
        };
        let data = Dataset {
            documents: vec![document(0, &[-1, 5]), document(1, &[5, 5, -1])],
            languages: vec!["en".into(), "es".into()],
            ..Dataset::default()
        };
        let mut sum = LossSum::default();
        sum.add(&data, &[1, 0], &[1.0, 2.0, 0.0, 0.0, 6.0]);
        assert_eq!(sum.mean(), 3.0);
        assert_eq!(sum.by_language(&data), [("en".to_owned(), 6.0), ("es".to_owned(), 1.5)]);
        assert!(sum.not_finite.is_empty());
        sum.add(&data, &[0], &[0.0, f32::NAN]);
        assert_eq!(sum.not_finite, ["doc-0"]);
    }
}
