//! Rows of marks on a common axis, in panels side by side: differences with their intervals (filled
//! where clear, hollow where within noise), or two and more values of one thing, joined by a line.

use super::{Chart, Frame, Legend, Style, WIDTH, axis_number};
use crate::svg::{Anchor, Linear, Svg, text_width, ticks};
use crate::words::Unit;

const ROW: f64 = 21.0;

/// Rows in panels that share the axis.
pub(crate) struct Rows {
    unit: Unit,
    x_title: String,
    panels: Vec<RowPanel>,
    legend: Legend,
    /// The axis takes in 0 and marks it: for differences.
    zero: bool,
}

/// One column of rows.
pub(crate) struct RowPanel {
    pub title: String,
    pub rows: Vec<Row>,
}

/// One thing and its marks, with its number behind them.
pub(crate) struct Row {
    pub label: String,
    pub number: String,
    pub marks: Vec<RowMark>,
    /// Set off from the rows above: a mean.
    pub summary: bool,
    pub lang: Option<String>,
}

/// A value with its interval.
pub(crate) struct RowMark {
    pub style: Style,
    pub value: f64,
    pub interval: Option<(f64, f64)>,
    pub hollow: bool,
    pub hover: String,
}

impl Rows {
    /// Differences, about 0.
    pub fn differences(unit: Unit, x_title: String, panels: Vec<RowPanel>) -> Self {
        Rows { unit, x_title, panels, legend: Legend::default(), zero: true }
    }

    /// Values, each style named by the legend.
    pub fn values(
        unit: Unit,
        x_title: String,
        panels: Vec<RowPanel>,
        names: Vec<(Style, String)>,
    ) -> Self {
        Rows { unit, x_title, panels, legend: Legend { names, lines: false }, zero: false }
    }

    fn rows(&self) -> impl Iterator<Item = &Row> {
        self.panels.iter().flat_map(|panel| &panel.rows)
    }

    fn x_ticks(&self, count: usize) -> Vec<f64> {
        let ends = |mark: &RowMark| {
            let (low, high) = mark.interval.unwrap_or((mark.value, mark.value));
            [mark.value, low, high]
        };
        let values = || self.rows().flat_map(|row| &row.marks).flat_map(ends);
        let (low, high) =
            (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
        let from_zero = self.zero || (self.unit != Unit::Raw && low >= 0.0 && low < 0.6 * high);
        match (low.is_finite(), from_zero) {
            (false, _) => vec![0.0, 1.0],
            (true, true) => ticks(low.min(0.0), high.max(0.0), count),
            (true, false) => ticks(low, high, count),
        }
    }
}

impl Chart for Rows {
    fn draw(&self, id: &str, title: &str, description: &str) -> String {
        let mut svg = Svg::default();
        let columns = self.panels.len().clamp(1, 3);
        let titled = self.panels.iter().any(|panel| !panel.title.is_empty());
        let (head, foot) = (if titled { 34.0 } else { 12.0 }, 40.0);
        let labels = self.rows().map(|row| text_width(&row.label)).fold(60.0, f64::max) + 14.0;
        let numbers = self.rows().map(|row| text_width(&row.number)).fold(0.0, f64::max) + 10.0;
        let width = (WIDTH - 8.0) / columns as f64;
        let x_ticks = self.x_ticks(if columns > 2 { 3 } else { 5 });
        let mut top = 4.0 + self.legend.draw(&mut svg, 4.0);
        for panels in self.panels.chunks(columns) {
            let most = panels.iter().map(|panel| panel.rows.len()).max().unwrap_or(0);
            for (column, panel) in panels.iter().enumerate() {
                let left = column as f64 * width;
                let frame = Frame {
                    left: left + labels,
                    right: (left + width - numbers - 14.0).max(left + labels + 60.0),
                    top: top + head,
                    bottom: top + head + most as f64 * ROW,
                };
                self.panel(&mut svg, panel, &frame, &x_ticks, left);
            }
            top += head + most as f64 * ROW + foot;
        }
        svg.text("muted", (WIDTH - 8.0, top), Anchor::End, &self.x_title);
        svg.finish(id, (WIDTH, top + 8.0), title, description)
    }
}

impl Rows {
    fn panel(&self, svg: &mut Svg, panel: &RowPanel, frame: &Frame, x_ticks: &[f64], left: f64) {
        let x = Linear::new((x_ticks[0], x_ticks[x_ticks.len() - 1]), (frame.left, frame.right));
        if !panel.title.is_empty() {
            svg.text("head", (left + 4.0, frame.top - 14.0), Anchor::Start, &panel.title);
        }
        for &tick in x_ticks {
            let class = if self.zero && tick == 0.0 { "zero" } else { "grid" };
            svg.line(class, (x.at(tick), frame.top - 4.0), (x.at(tick), frame.bottom + 2.0));
            let number = axis_number(self.unit, tick, x_ticks);
            svg.text("tick", (x.at(tick), frame.bottom + 17.0), Anchor::Middle, &number);
        }
        for (at, row) in panel.rows.iter().enumerate() {
            let y = frame.top + 10.0 + at as f64 * ROW;
            if row.summary && at > 0 && !panel.rows[at - 1].summary {
                svg.line("axis", (left + 4.0, y - 10.5), (frame.right, y - 10.5));
            }
            svg.about(row.lang.as_deref(), |svg| self.row(svg, row, frame, &x, y));
        }
    }

    fn row(&self, svg: &mut Svg, row: &Row, frame: &Frame, x: &Linear, y: f64) {
        let class = if row.summary { "head" } else { "label" };
        svg.text(class, (frame.left - 10.0, y + 4.0), Anchor::End, &row.label);
        let places = || row.marks.iter().map(|mark| x.at(mark.value));
        if row.marks.len() > 1 {
            let (low, high) = (
                places().fold(f64::INFINITY, f64::min),
                places().fold(f64::NEG_INFINITY, f64::max),
            );
            svg.line("axis", (low, y), (high, y));
        }
        for mark in &row.marks {
            svg.group(mark.style.class, None, |svg| {
                svg.group("point", Some(&mark.hover), |svg| {
                    if let Some((low, high)) = mark.interval {
                        svg.line("whisker", (x.at(low), y), (x.at(high), y));
                    }
                    let class = if mark.hollow { "hollow" } else { "mark" };
                    svg.marker(class, mark.style.marker, (x.at(mark.value), y), 4.5);
                });
            });
        }
        svg.text("value", (frame.right + 10.0, y + 4.0), Anchor::Start, &row.number);
    }
}
