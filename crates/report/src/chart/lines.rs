//! Panels of lines along n on common axes: intervals as bands, seeds as dots, and where a line was
//! fitted, the fit and where it levels off.

use super::{Chart, Frame, Legend, Style, WIDTH, axis_number};
use crate::svg::{Anchor, Counts, Linear, Svg, text_width, ticks};
use crate::words::Unit;

/// Panels of lines with common axes.
pub(crate) struct Lines {
    unit: Unit,
    y_title: String,
    /// Panels side by side, at most.
    columns: usize,
    panels: Vec<Panel>,
    legend: Legend,
    /// The y axis takes in 0 and marks it: for differences.
    zero: bool,
}

/// One pair of axes.
#[derive(Default)]
pub(crate) struct Panel {
    pub title: String,
    pub lines: Vec<Line>,
    pub fits: Vec<Fit>,
    /// The language that the panel is about, where it is about one.
    pub lang: Option<String>,
}

/// A fitted line, and the n from which on it is level with that n's interval.
pub(crate) struct Fit {
    pub style: Style,
    pub line: Vec<(f64, f64)>,
    pub at: Option<f64>,
    pub span: Option<(f64, f64)>,
    pub hover: String,
}

/// One line.
pub(crate) struct Line {
    pub style: Style,
    pub marks: Vec<Mark>,
}

/// One point of a line.
pub(crate) struct Mark {
    pub n: i64,
    pub value: f64,
    pub interval: Option<(f64, f64)>,
    pub seeds: Vec<f64>,
    pub hover: String,
}

impl Lines {
    /// One large panel, two or four in pairs, more in threes.
    pub fn new(unit: Unit, y_title: String, panels: Vec<Panel>) -> Self {
        let columns = match panels.len() {
            0 | 1 => 1,
            2 | 4 => 2,
            _ => 3,
        };
        Lines {
            unit,
            y_title,
            columns,
            panels,
            legend: Legend { names: Vec::new(), lines: true },
            zero: false,
        }
    }

    /// Names the styles that are drawn.
    pub fn legend(mut self, names: Vec<(Style, String)>) -> Self {
        let lines = || self.panels.iter().flat_map(|panel| &panel.lines);
        let drawn =
            |style: Style| lines().any(|line| line.style == style && !line.marks.is_empty());
        self.legend.names = names.into_iter().filter(|(style, _)| drawn(*style)).collect();
        self
    }

    pub fn in_columns(self, columns: usize) -> Self {
        Lines { columns, ..self }
    }

    pub fn with_zero(self) -> Self {
        Lines { zero: true, ..self }
    }
}

impl Chart for Lines {
    fn draw(&self, id: &str, title: &str, description: &str) -> String {
        let mut svg = Svg::default();
        let columns = self.columns.clamp(1, self.panels.len().max(1));
        let rows = self.panels.len().div_ceil(columns);
        let plot_height = if columns > 2 { 150.0 } else { 240.0 };
        let (left, gap, head, foot) = (52.0, 18.0, 30.0, 34.0);
        // The axis title has a line of its own between legend and panels.
        let legend_height = self.legend.draw(&mut svg, left) + 18.0;
        let width = (WIDTH - left - 8.0 - gap * (columns - 1) as f64) / columns as f64;
        let y_ticks = self.y_ticks(plot_height);
        for (at, panel) in self.panels.iter().enumerate() {
            let (row, column) = (at / columns, at % columns);
            let panel_left = left + column as f64 * (width + gap);
            let top = legend_height + head + row as f64 * (plot_height + head + foot);
            let frame = Frame {
                left: panel_left,
                right: panel_left + width,
                top,
                bottom: top + plot_height,
            };
            let lowest = at + columns >= self.panels.len();
            svg.about(panel.lang.as_deref(), |svg| {
                self.panel(svg, panel, &frame, &y_ticks, (column == 0, lowest));
            });
        }
        let height = legend_height + rows as f64 * (plot_height + head + foot) + 12.0;
        svg.text(
            "muted",
            (WIDTH - 8.0, height - 6.0),
            Anchor::End,
            "n: examples per seen language other than English",
        );
        svg.text("muted", (left - 44.0, legend_height - 2.0), Anchor::Start, &self.y_title);
        svg.finish(id, (WIDTH, height), title, description)
    }
}

impl Lines {
    fn marks(&self) -> impl Iterator<Item = &Mark> {
        self.panels.iter().flat_map(|panel| &panel.lines).flat_map(|line| &line.marks)
    }

    /// Ticks that cover everything drawn; shares start at 0 where they come anywhere near it.
    fn y_ticks(&self, height: f64) -> Vec<f64> {
        let ends = |mark: &Mark| {
            [Some(mark.value), mark.interval.map(|ends| ends.0), mark.interval.map(|ends| ends.1)]
        };
        let fits = || self.panels.iter().flat_map(|panel| &panel.fits).flat_map(|fit| &fit.line);
        let marks = || {
            self.marks().flat_map(move |mark| {
                ends(mark).into_iter().flatten().chain(mark.seeds.iter().copied())
            })
        };
        let values = || marks().chain(fits().map(|&(_, value)| value));
        let (low, high) =
            (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
        if !low.is_finite() {
            return vec![0.0, 1.0];
        }
        let from_zero = self.zero || (self.unit != Unit::Raw && low >= 0.0 && low < 0.6 * high);
        let (low, high) = if from_zero { (low.min(0.0), high.max(0.0)) } else { (low, high) };
        ticks(low, high, (height / 37.0) as usize)
    }

    fn panel(
        &self,
        svg: &mut Svg,
        panel: &Panel,
        frame: &Frame,
        y_ticks: &[f64],
        (first, lowest): (bool, bool),
    ) {
        let ends = (y_ticks[0], y_ticks[y_ticks.len() - 1]);
        let y = Linear::new(ends, (frame.bottom, frame.top));
        let mut grid: Vec<i64> =
            panel.lines.iter().flat_map(|line| &line.marks).map(|mark| mark.n).collect();
        grid.sort_unstable();
        grid.dedup();
        let x = Counts::new(&grid, (frame.left + 12.0, frame.right - 12.0));
        if !panel.title.is_empty() {
            svg.text("head", (frame.left, frame.top - 10.0), Anchor::Start, &panel.title);
        }
        for &tick in y_ticks {
            let class = if self.zero && tick == 0.0 { "zero" } else { "grid" };
            svg.line(class, (frame.left, y.at(tick)), (frame.right, y.at(tick)));
            if first {
                svg.text(
                    "tick",
                    (frame.left - 8.0, y.at(tick) + 4.0),
                    Anchor::End,
                    &axis_number(self.unit, tick, y_ticks),
                );
            }
        }
        n_axis(svg, &grid, &x, frame.bottom, lowest || grid.len() > 1);
        for fit in &panel.fits {
            svg.group(fit.style.class, None, |svg| level_from(svg, fit, &x, frame));
        }
        for line in &panel.lines {
            svg.group(line.style.class, None, |svg| band(svg, line, &x, &y));
        }
        for fit in &panel.fits {
            let points: Vec<_> =
                fit.line.iter().map(|&(n, value)| (x.of(n), y.at(value))).collect();
            svg.group(fit.style.class, None, |svg| svg.polyline("fit", "", &points));
        }
        for line in &panel.lines {
            svg.group(line.style.class, None, |svg| self.line(svg, line, &x, &y));
        }
    }

    fn line(&self, svg: &mut Svg, line: &Line, x: &Counts, y: &Linear) {
        let points: Vec<(f64, f64)> =
            line.marks.iter().map(|mark| (x.at(mark.n), y.at(mark.value))).collect();
        svg.polyline("line", line.style.dash, &points);
        for (mark, &at) in line.marks.iter().zip(&points) {
            svg.group("point", Some(&mark.hover), |svg| {
                for (place, &seed) in mark.seeds.iter().enumerate() {
                    let aside = (place as f64 - (mark.seeds.len() - 1) as f64 / 2.0) * 3.0;
                    svg.dot("seed", (at.0 + aside, y.at(seed)), 1.7);
                }
                svg.marker("mark", line.style.marker, at, 4.0);
            });
        }
    }
}

/// Where a fit is level from: the interval of that n as a column, and the n itself as a line.
fn level_from(svg: &mut Svg, fit: &Fit, x: &Counts, frame: &Frame) {
    let inside = |n: f64| x.of(n).clamp(frame.left, frame.right);
    svg.group("point", Some(&fit.hover), |svg| {
        if let Some((low, high)) = fit.span {
            let (left, right) = (inside(low), inside(high));
            let corners = [
                (left, frame.top),
                (right, frame.top),
                (right, frame.bottom),
                (left, frame.bottom),
            ];
            svg.polygon("band", &corners);
        }
        if let Some(at) = fit.at {
            svg.line("level", (inside(at), frame.top), (inside(at), frame.bottom));
        }
    });
}

/// The interval as an area along the line; whiskers where the line is one point.
fn band(svg: &mut Svg, line: &Line, x: &Counts, y: &Linear) {
    let ends: Vec<(f64, f64, f64)> = line
        .marks
        .iter()
        .filter_map(|mark| mark.interval.map(|(low, high)| (x.at(mark.n), y.at(low), y.at(high))))
        .collect();
    if let [(x, low, high)] = ends[..] {
        svg.line("whisker", (x, low), (x, high));
    } else if !ends.is_empty() {
        let upper = ends.iter().map(|&(x, _, high)| (x, high));
        let lower = ends.iter().rev().map(|&(x, low, _)| (x, low));
        svg.polygon("band", &upper.chain(lower).collect::<Vec<_>>());
    }
}

/// Ticks at every n, with as many of their numbers as there is room for; the first and the last
/// have precedence.
fn n_axis(svg: &mut Svg, grid: &[i64], x: &Counts, bottom: f64, numbers: bool) {
    let half = |n: i64| text_width(&n.to_string()) / 2.0 + 4.0;
    let last = grid.last().copied();
    let mut free = f64::NEG_INFINITY;
    for &n in grid {
        let at = x.at(n);
        svg.line("axis", (at, bottom), (at, bottom + 4.0));
        let blocked = last.is_some_and(|last| n != last && at + half(n) > x.at(last) - half(last));
        if numbers && at - half(n) >= free && !blocked {
            svg.text("tick", (at, bottom + 17.0), Anchor::Middle, &n.to_string());
            free = at + half(n);
        }
    }
}
