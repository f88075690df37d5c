//! One table, four forms with the same numbers: CSV (values and interval ends in columns of their
//! own, unrounded), Markdown, HTML rows and text (rounded, the interval behind its value).

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::bootstrap::Estimate;
use crate::words::Unit;

/// A column: its name in a CSV and its title for people.
#[derive(Clone)]
pub(crate) struct Column {
    pub name: String,
    pub title: String,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Names what the row is about.
    Key,
    /// An estimate: three columns in a CSV, its ends standing behind all values.
    Measure,
    /// Stands behind the interval ends.
    Remark,
}

impl Column {
    pub fn key(name: &str, title: &str) -> Self {
        Column { name: name.into(), title: title.into(), kind: Kind::Key }
    }

    pub fn measure(name: &str, title: &str) -> Self {
        Column { name: name.into(), title: title.into(), kind: Kind::Measure }
    }

    pub fn remark(name: &str, title: &str) -> Self {
        Column { name: name.into(), title: title.into(), kind: Kind::Remark }
    }
}

/// A cell before it is written.
#[derive(Clone)]
pub(crate) enum Cell {
    Empty,
    Text(String),
    Count(i64),
    /// A p value.
    Probability(f64),
    Measure {
        value: f64,
        interval: Option<(f64, f64)>,
        unit: Unit,
        signed: bool,
    },
}

impl Cell {
    pub fn text(text: impl Into<String>) -> Self {
        Cell::Text(text.into())
    }

    pub fn measure(estimate: Option<&Estimate>, unit: Unit) -> Self {
        Self::estimate(estimate, unit, false)
    }

    pub fn difference(estimate: Option<&Estimate>, unit: Unit) -> Self {
        Self::estimate(estimate, unit, true)
    }

    pub fn number(value: f64, unit: Unit) -> Self {
        Cell::Measure { value, interval: None, unit, signed: false }
    }

    pub fn probability(p: Option<f64>) -> Self {
        p.map_or(Cell::Empty, Cell::Probability)
    }

    fn estimate(estimate: Option<&Estimate>, unit: Unit, signed: bool) -> Self {
        estimate.map_or(Cell::Empty, |e| Cell::Measure {
            value: e.value,
            interval: e.interval,
            unit,
            signed,
        })
    }

    /// As people read it.
    pub fn shown(&self) -> String {
        match self {
            Cell::Empty => "–".into(),
            Cell::Text(text) => text.clone(),
            Cell::Count(count) => count.to_string(),
            Cell::Probability(p) if *p < 0.001 => "< 0.001".into(),
            Cell::Probability(p) => format!("{p:.3}"),
            Cell::Measure { value, interval, unit, signed } => {
                let value = if *signed { unit.signed(*value) } else { unit.number(*value) };
                let interval = interval
                    .map(|(low, high)| format!(" [{}, {}]", unit.number(low), unit.number(high)));
                (value + &interval.unwrap_or_default()).replace('-', "−")
            }
        }
    }

    /// Value, low and high as a CSV holds them.
    fn exact(&self) -> [String; 3] {
        let plain = |text: String| [text, String::new(), String::new()];
        match self {
            Cell::Empty => plain(String::new()),
            Cell::Text(text) => plain(text.clone()),
            Cell::Count(count) => plain(count.to_string()),
            Cell::Probability(p) => plain(exact(*p)),
            Cell::Measure { value, interval, .. } => {
                let end = |pick: fn((f64, f64)) -> f64| {
                    interval.map(|ends| exact(pick(ends))).unwrap_or_default()
                };
                [exact(*value), end(|ends| ends.0), end(|ends| ends.1)]
            }
        }
    }

    fn is_number(&self) -> bool {
        !matches!(self, Cell::Text(_))
    }
}

/// Six decimals at most; `0` rather than `-0`.
fn exact(value: f64) -> String {
    let text = format!("{value:.6}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".into() } else { text.into() }
}

/// A row, and the curve of the analysis that it belongs to.
#[derive(Clone)]
pub(crate) struct Row {
    pub curve: usize,
    pub cells: Vec<Cell>,
}

/// A table with what it says in a line.
#[derive(Clone)]
pub(crate) struct Table {
    pub name: String,
    pub caption: String,
    pub columns: Vec<Column>,
    pub rows: Vec<Row>,
}

impl Table {
    /// The rows of some curves, without the key columns that say the same in every row.
    pub fn part(&self, wanted: impl Fn(usize) -> bool) -> Table {
        let rows: Vec<Row> = self.rows.iter().filter(|row| wanted(row.curve)).cloned().collect();
        let differs =
            |at: usize| rows.iter().any(|row| row.cells[at].shown() != rows[0].cells[at].shown());
        let filled = |at: usize| rows.iter().any(|row| !matches!(&row.cells[at], Cell::Empty));
        let keep = |at: &usize| match self.columns[*at].kind {
            Kind::Key => differs(*at) || self.columns[*at].name == "n",
            Kind::Measure | Kind::Remark => filled(*at),
        };
        let kept: Vec<usize> = (0..self.columns.len()).filter(keep).collect();
        let cut = |row: &Row| Row {
            curve: row.curve,
            cells: kept.iter().map(|&at| row.cells[at].clone()).collect(),
        };
        Table {
            columns: kept.iter().map(|&at| self.columns[at].clone()).collect(),
            rows: rows.iter().map(cut).collect(),
            ..self.clone()
        }
    }

    /// The columns, by place, that hold numbers.
    pub fn numeric(&self) -> Vec<bool> {
        (0..self.columns.len())
            .map(|at| self.rows.iter().all(|row| row.cells[at].is_number()))
            .collect()
    }

    pub fn write_csv(&self, folder: &Path) -> Result<()> {
        let path = folder.join(format!("{}.csv", self.name));
        let context = || format!("writing {}", path.display());
        let mut writer = csv::Writer::from_path(&path).with_context(context)?;
        let places = |wanted: fn(Kind) -> bool| {
            (0..self.columns.len()).filter(move |&at| wanted(self.columns[at].kind))
        };
        let values: Vec<usize> = places(|kind| kind != Kind::Remark).collect();
        let ends: Vec<usize> = places(|kind| kind == Kind::Measure).collect();
        let remarks: Vec<usize> = places(|kind| kind == Kind::Remark).collect();
        let line =
            |value: &dyn Fn(usize) -> String, end: &dyn Fn(usize) -> [String; 2]| -> Vec<String> {
                let ends = ends.iter().flat_map(|&at| end(at));
                values
                    .iter()
                    .map(|&at| value(at))
                    .chain(ends)
                    .chain(remarks.iter().map(|&at| value(at)))
                    .collect()
            };
        let name = |at: usize| self.columns[at].name.clone();
        writer
            .write_record(line(&name, &|at| [name(at) + "_low", name(at) + "_high"]))
            .with_context(context)?;
        for row in &self.rows {
            let cells: Vec<[String; 3]> = row.cells.iter().map(Cell::exact).collect();
            let fields = line(&|at| cells[at][0].clone(), &|at| {
                [cells[at][1].clone(), cells[at][2].clone()]
            });
            writer.write_record(fields).with_context(context)?;
        }
        writer.flush().with_context(context)
    }

    pub fn to_markdown(&self) -> String {
        let escape = |text: &str| text.replace('|', "\\|").replace('\n', " ");
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let rule = self
            .numeric()
            .into_iter()
            .map(|number| if number { "---:" } else { "---" }.to_string());
        let mut text = line(self.columns.iter().map(|column| escape(&column.title)).collect());
        text += &line(rule.collect());
        for row in &self.rows {
            text += &line(row.cells.iter().map(|cell| escape(&cell.shown())).collect());
        }
        text
    }
}
