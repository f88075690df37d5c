//! The tables of the report: language × n, Perf-to-EN, seen against unseen, differences from the
//! baseline. Beside them the key table for a terminal.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result};
use artifact::text::TextTable;
use serde::Serialize;

use crate::analyse::{Analysis, Curve, Language, Measure, Point, Test};
use crate::bootstrap::Estimate;
use crate::forms;
use crate::further_tables;
use crate::table::{Cell, Column, Row, Table};
use crate::words::{self, Unit};

/// Every table.
pub(crate) struct Tables {
    pub languages: Table,
    pub perf_to_en: Table,
    pub seen_unseen: Table,
    pub differences: Table,
    /// Those of the further analyses that found something.
    pub further: Vec<Table>,
    pub key: KeyTable,
}

/// The table to look at first, as text: one row per task and series, from the baseline to the
/// largest n.
#[derive(Clone, Debug, Default, Serialize)]
pub struct KeyTable {
    /// Column titles.
    pub header: Vec<String>,
    /// One row per task and series.
    pub rows: Vec<Vec<String>>,
    /// How many columns, from the left, are names rather than numbers.
    pub names: usize,
}

impl KeyTable {
    /// Aligned for a terminal.
    pub fn to_terminal(&self) -> String {
        let mut table = TextTable::new(&self.header.iter().map(String::as_str).collect::<Vec<_>>());
        table.right(&(self.names..self.header.len()).collect::<Vec<_>>());
        for row in &self.rows {
            table.row(row.clone());
        }
        table.to_string()
    }
}

/// Makes all of them.
pub(crate) fn all(analysis: &Analysis) -> Tables {
    Tables {
        languages: languages(analysis),
        perf_to_en: perf_to_en(analysis),
        seen_unseen: seen_unseen(analysis),
        differences: differences(analysis),
        further: further_tables::all(analysis),
        key: key(analysis),
    }
}

impl Tables {
    /// Every table that is written.
    pub fn all(&self) -> Vec<&Table> {
        let of_curves = [&self.languages, &self.perf_to_en, &self.seen_unseen, &self.differences];
        of_curves.into_iter().chain(&self.further).collect()
    }

    /// Writes every table in every form below `out/tables`.
    pub fn write(&self, analysis: &Analysis, out: &Path) -> Result<()> {
        let folder = out.join("tables");
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        for table in self.all() {
            let further = self.further.iter().any(|one| one.name == table.name);
            let sections = if further { Vec::new() } else { sections(table, analysis) };
            forms::write(table, &sections, &folder)?;
        }
        Ok(())
    }
}

/// One section per curve.
fn sections(table: &Table, analysis: &Analysis) -> Vec<(String, Table)> {
    let section = |(at, curve): (usize, &Curve)| {
        let part = table.part(|curve| curve == at);
        let heading =
            format!("{}: {}{}", curve.task, curve.metric, words::series_suffix(&curve.series));
        (!part.rows.is_empty()).then_some((heading, part))
    };
    analysis.curves.iter().enumerate().filter_map(section).collect()
}

/// The names of the columns that say what a row is about, and a curve's values of them.
pub(crate) struct Keys {
    variants: bool,
}

impl Keys {
    pub fn new(analysis: &Analysis) -> Self {
        Keys { variants: analysis.curves.iter().any(|curve| !curve.series.variant.is_empty()) }
    }

    pub fn columns(&self, with_n: bool) -> Vec<Column> {
        let names = [
            ("task", "Task"),
            ("model", "Model"),
            ("setting", "Setting"),
            ("train_langs", "Trained on"),
        ];
        let mut columns: Vec<_> =
            names.iter().map(|(name, title)| Column::key(name, title)).collect();
        columns.extend(with_n.then(|| Column::key("n", "n")));
        columns.push(Column::key("metric", "Metric"));
        columns.extend(self.variants.then(|| Column::key("variant", "Variant")));
        columns
    }

    pub fn cells(&self, curve: &Curve, n: Option<i64>) -> Vec<Cell> {
        let series = &curve.series;
        let mut cells: Vec<_> = [&curve.task, &series.model, &series.setting, &series.train_langs]
            .map(Cell::text)
            .to_vec();
        cells.extend(n.map(Cell::Count));
        cells.push(Cell::text(&curve.metric));
        cells.extend(self.variants.then(|| Cell::text(&series.variant)));
        cells
    }
}

fn remarks() -> [Column; 3] {
    [
        Column::remark("seeds", "Seeds"),
        Column::remark("items", "Items"),
        Column::remark("note", "Note"),
    ]
}

fn remark_cells(point: &Point) -> [Cell; 3] {
    let (seeds, items) = point.seeds_and_items();
    let note =
        if point.notes.is_empty() { Cell::Empty } else { Cell::Text(point.notes.join("; ")) };
    [
        Cell::Count(seeds as i64),
        if items > 0 { Cell::Count(items as i64) } else { Cell::Empty },
        note,
    ]
}

fn estimate(measure: &Option<Measure>) -> Option<&Estimate> {
    measure.as_ref().map(|measure| &measure.estimate)
}

/// Every point of every curve, with the number of its curve.
fn points(analysis: &Analysis) -> impl Iterator<Item = (usize, &Curve, &Point)> {
    let curves = analysis.curves.iter().enumerate();
    curves.flat_map(|(at, curve)| curve.points.iter().map(move |point| (at, curve, point)))
}

fn perf_to_en(analysis: &Analysis) -> Table {
    let keys = Keys::new(analysis);
    let mut columns = keys.columns(true);
    for (name, title) in [
        ("perf_to_en", "Perf-to-EN"),
        ("mean_seen", "Seen"),
        ("mean_unseen", "Unseen"),
        ("mean_non_en", "Non-English"),
        ("gap", "Gap"),
    ] {
        columns.push(Column::measure(name, title));
    }
    columns.extend(remarks());
    let row = |(at, curve, point): (usize, &Curve, &Point)| {
        let mut cells = keys.cells(curve, Some(point.n));
        cells.push(Cell::measure(estimate(&point.perf_to_english), Unit::Percent));
        cells.extend(
            [&point.seen, &point.unseen, &point.non_english]
                .map(|one| Cell::measure(estimate(one), curve.unit)),
        );
        cells.push(Cell::difference(estimate(&point.gap), curve.unit));
        cells.extend(remark_cells(point));
        Row { curve: at, cells }
    };
    let caption = "Perf-to-EN, the means over languages, and the gap".into();
    Table { name: "perf_to_en".into(), caption, columns, rows: points(analysis).map(row).collect() }
}

fn seen_unseen(analysis: &Analysis) -> Table {
    let keys = Keys::new(analysis);
    let mut columns = keys.columns(true);
    for (name, title) in [
        ("english", "English"),
        ("mean_seen", "Seen"),
        ("mean_unseen", "Unseen"),
        ("gap", "Gap"),
        ("gap_change", "Gap change"),
    ] {
        columns.push(Column::measure(name, title));
    }
    for (name, title) in [
        ("gap_p_holm", "p (gap)"),
        ("gap_verdict", "Gap is"),
        ("gap_change_p_holm", "p (change)"),
        ("gap_change_verdict", "Change is"),
    ] {
        columns.push(Column::remark(name, title));
    }
    columns.extend(remarks());
    let row = |(at, curve, point): (usize, &Curve, &Point)| {
        let mut cells = keys.cells(curve, Some(point.n));
        cells.push(Cell::measure(point.english().map(|english| &english.estimate), curve.unit));
        cells.extend(
            [&point.seen, &point.unseen].map(|one| Cell::measure(estimate(one), curve.unit)),
        );
        cells.push(Cell::difference(estimate(&point.gap), curve.unit));
        let change = point.gap.as_ref().and_then(|gap| gap.change.as_ref());
        cells.push(Cell::difference(change.map(|change| &change.estimate), curve.unit));
        cells.extend(test_cells(point.gap.as_ref().and_then(|gap| gap.test.as_ref())));
        cells.extend(test_cells(change.map(|change| &change.test)));
        cells.extend(remark_cells(point));
        Row { curve: at, cells }
    };
    let caption = "Seen against unseen languages".into();
    Table {
        name: "seen_unseen".into(),
        caption,
        columns,
        rows: points(analysis).map(row).collect(),
    }
}

pub(crate) fn test_cells(test: Option<&Test>) -> [Cell; 2] {
    match test {
        Some(test) => [Cell::probability(test.p_holm), Cell::text(test.verdict().to_string())],
        None => [Cell::Empty, Cell::Empty],
    }
}

fn differences(analysis: &Analysis) -> Table {
    let keys = Keys::new(analysis);
    let mut columns = keys.columns(true);
    columns.extend([Column::key("of", "Of"), Column::key("group", "Group")]);
    for (name, title) in
        [("baseline", "Baseline"), ("value", "Value"), ("difference", "Difference")]
    {
        columns.push(Column::measure(name, title));
    }
    columns.extend([
        Column::remark("p", "p"),
        Column::remark("p_bh", "p (BH)"),
        Column::remark("p_holm", "p (Holm)"),
        Column::remark("verdict", "Verdict"),
    ]);
    let mut rows = Vec::new();
    for (at, curve, point) in points(analysis) {
        let languages = point
            .languages
            .iter()
            .map(|one| (one.lang.as_str(), one.group.name(), Some(&one.measure), curve.unit));
        let means = [
            ("mean_seen", "mean", point.seen.as_ref(), curve.unit),
            ("mean_unseen", "mean", point.unseen.as_ref(), curve.unit),
            ("mean_non_en", "mean", point.non_english.as_ref(), curve.unit),
            ("gap", "mean", point.gap.as_ref(), curve.unit),
            ("perf_to_en", "mean", point.perf_to_english.as_ref(), Unit::Percent),
        ];
        for (of, group, measure, unit) in languages.chain(means) {
            let Some((measure, change)) =
                measure.and_then(|measure| Some((measure, measure.change.as_ref()?)))
            else {
                continue;
            };
            let mut cells = keys.cells(curve, Some(point.n));
            cells.extend([Cell::text(of), Cell::text(group), Cell::number(change.from, unit)]);
            cells.extend([
                Cell::measure(Some(&measure.estimate), unit),
                Cell::difference(Some(&change.estimate), unit),
            ]);
            cells.push(Cell::probability(change.test.p));
            cells.push(Cell::probability(change.test.p_bh));
            cells.extend(test_cells(Some(&change.test)));
            rows.push(Row { curve: at, cells });
        }
    }
    let caption = format!("Differences from the baseline n = {}", analysis.baseline);
    Table { name: "baseline_differences".into(), caption, columns, rows }
}

/// Languages down, n across.
fn languages(analysis: &Analysis) -> Table {
    let keys = Keys::new(analysis);
    let grid: BTreeSet<i64> = points(analysis).map(|(_, _, point)| point.n).collect();
    let mut columns = keys.columns(false);
    columns.extend([Column::key("lang", "Language"), Column::key("group", "Group")]);
    columns.extend(grid.iter().map(|n| Column::measure(&format!("n={n}"), &format!("n = {n}"))));
    let mut rows = Vec::new();
    for (at, curve) in analysis.curves.iter().enumerate() {
        let mut seen = BTreeSet::new();
        let order: Vec<&Language> = curve
            .points
            .iter()
            .flat_map(|point| &point.languages)
            .filter(|one| seen.insert(one.lang.as_str()))
            .collect();
        for language in order {
            let mut cells = keys.cells(curve, None);
            cells.extend([Cell::text(&language.lang), Cell::text(language.group.name())]);
            cells.extend(grid.iter().map(|&n| {
                let point = curve.points.iter().find(|point| point.n == n);
                let found = point
                    .and_then(|point| point.languages.iter().find(|one| one.lang == language.lang));
                Cell::measure(found.map(|found| &found.measure.estimate), curve.unit)
            }));
            rows.push(Row { curve: at, cells });
        }
    }
    Table { name: "language_by_n".into(), caption: "Score by language and n".into(), columns, rows }
}

/// The headline of every task and series, from the baseline to the largest n.
fn key(analysis: &Analysis) -> KeyTable {
    let curves: Vec<&Curve> = analysis.curves.iter().filter(|curve| curve.headline).collect();
    let names = words::short_names(&curves.iter().map(|curve| &curve.series).collect::<Vec<_>>());
    let named = names.iter().any(|name| !name.is_empty());
    let mut header: Vec<String> = vec!["task".into(), "metric".into()];
    header.extend(named.then(|| "series".into()));
    let columns = header.len();
    header.extend(["n", "English", "seen", "unseen", "gap", "Perf-to-EN"].map(String::from));
    let mut rows = Vec::new();
    for (curve, name) in curves.iter().zip(names) {
        let mut ends = vec![curve.baseline(analysis.baseline), curve.last(analysis.baseline)];
        ends.dedup_by_key(|point| point.map(|point| point.n));
        for point in ends.into_iter().flatten() {
            let mut row = vec![curve.task.clone(), curve.metric.clone()];
            row.extend(named.then(|| name.clone()));
            row.push(point.n.to_string());
            let show = |one: Option<&Measure>, unit: Unit, signed| {
                one.map_or("–".into(), |one| unit.cell(&one.estimate, signed))
            };
            row.extend(
                [point.english(), point.seen.as_ref(), point.unseen.as_ref()]
                    .map(|one| show(one, curve.unit, false)),
            );
            row.push(show(point.gap.as_ref(), curve.unit, true));
            row.push(show(point.perf_to_english.as_ref(), Unit::Percent, false));
            rows.push(row);
        }
    }
    KeyTable { header, rows, names: columns }
}
