//! `transfer.parquet`: the long form for other programs, one row per curve, n and language, with its
//! interval and its difference from the baseline.

use std::path::Path;

use anyhow::Result;
use polars::prelude::{Column, DataFrame};

use crate::analyse::{Analysis, Change, Curve, Language, Point};

/// What a row is made from.
struct Row<'a> {
    curve: &'a Curve,
    point: &'a Point,
    language: &'a Language,
}

impl Row<'_> {
    fn change<T>(&self, of: impl Fn(&Change) -> Option<T>) -> Option<T> {
        self.language.measure.change.as_ref().and_then(of)
    }

    fn interval(&self) -> Option<(f64, f64)> {
        self.language.measure.estimate.interval
    }
}

/// Writes it against the schema `transfer`.
pub(crate) fn write(analysis: &Analysis, path: &Path) -> Result<()> {
    let mut rows = Vec::new();
    for curve in &analysis.curves {
        for point in &curve.points {
            rows.extend(point.languages.iter().map(|language| Row { curve, point, language }));
        }
    }
    let text = |name: &str, of: fn(&Row) -> String| {
        let named = |row| Some(of(row)).filter(|text| !text.is_empty());
        Column::new(name.into(), rows.iter().map(named).collect::<Vec<_>>())
    };
    let whole = |name: &str, of: fn(&Row) -> i64| {
        Column::new(name.into(), rows.iter().map(of).collect::<Vec<_>>())
    };
    let float = |name: &str, of: fn(&Row) -> Option<f64>| {
        Column::new(name.into(), rows.iter().map(of).collect::<Vec<_>>())
    };
    let columns = vec![
        text("task", |row| row.curve.task.clone()),
        text("metric", |row| row.curve.metric.clone()),
        text("model", |row| row.curve.series.model.clone()),
        text("setting", |row| row.curve.series.setting.clone()),
        text("train_langs", |row| row.curve.series.train_langs.clone()),
        text("variant", |row| row.curve.series.variant.clone()),
        whole("n", |row| row.point.n),
        text("lang", |row| row.language.lang.clone()),
        text("group", |row| row.language.group.name().into()),
        float("value", |row| Some(row.language.measure.estimate.value)),
        float("low", |row| row.interval().map(|ends| ends.0)),
        float("high", |row| row.interval().map(|ends| ends.1)),
        float("standard_error", |row| row.language.measure.estimate.error),
        whole("seeds", |row| row.language.measure.estimate.seeds as i64),
        whole("items", |row| row.language.measure.estimate.items as i64),
        float("difference", |row| row.change(|change| Some(change.estimate.value))),
        float("difference_low", |row| row.change(|change| Some(change.estimate.interval?.0))),
        float("difference_high", |row| row.change(|change| Some(change.estimate.interval?.1))),
        float("difference_p", |row| row.change(|change| change.test.p)),
        float("difference_p_bh", |row| row.change(|change| change.test.p_bh)),
        float("difference_p_holm", |row| row.change(|change| change.test.p_holm)),
        text("verdict", |row| {
            row.change(|change| Some(change.test.verdict().to_string())).unwrap_or_default()
        }),
    ];
    let mut frame = DataFrame::new_infer_height(columns)?;
    artifact::parquet::write(path, &artifact::schema::TRANSFER, &mut frame)
}
