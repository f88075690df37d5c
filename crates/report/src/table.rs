//! The one type behind every table: `forms` writes it as CSV, Parquet, Markdown and LaTeX, and
//! `page` as HTML, so that a number is the same wherever it stands. People's forms round a value and
//! put its interval behind it; the machines' forms have a column for each end.

use crate::bootstrap::Estimate;
use crate::words::Unit;

/// The `curve` of a row that belongs to none.
pub(crate) const NO_CURVE: usize = usize::MAX;

/// A column: its name for machines and its title for people.
#[derive(Clone)]
pub(crate) struct Column {
    pub name: String,
    pub title: String,
    pub kind: Kind,
}

/// What a column is for, which decides its place among the machines' columns.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    /// Names what the row is about.
    Key,
    /// An estimate: three columns for machines, its ends standing behind all values.
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
                    .map(|(low, high)| format!(" [{}, {}]", end(low, *unit), end(high, *unit)));
                (value + &interval.unwrap_or_default()).replace('-', "−")
            }
        }
    }

    /// What a key column holds, as a filter compares it; empty where there is nothing.
    pub fn key(&self) -> String {
        if matches!(self, Cell::Empty) { String::new() } else { self.shown() }
    }

    fn is_number(&self) -> bool {
        !matches!(self, Cell::Text(_))
    }
}

/// An end of an interval; one that lies beyond what was measured is open.
fn end(value: f64, unit: Unit) -> String {
    if value.is_finite() { unit.number(value) } else { "…".into() }
}

/// A row, and the curve of the analysis that it belongs to, or [`NO_CURVE`].
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
        self.part_by(|row| wanted(row.curve))
    }

    /// The rows that are wanted, without the key columns that say the same in every row.
    pub fn part_by(&self, wanted: impl Fn(&Row) -> bool) -> Table {
        let rows: Vec<Row> = self.rows.iter().filter(|row| wanted(row)).cloned().collect();
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
}
