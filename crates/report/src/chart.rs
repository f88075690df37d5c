//! The two kinds of figure: panels of lines along n (with interval bands and one dot a seed), and
//! forests of differences (filled where clear, hollow where within noise).

use crate::findings::Verdict;
use crate::svg::{Anchor, Counts, Linear, Marker, Svg, text_width, ticks};
use crate::words::Unit;

const WIDTH: f64 = 960.0;

/// Something that can be drawn under a name and a description.
pub(crate) trait Chart {
    fn draw(&self, id: &str, title: &str, description: &str) -> String;
}

/// How a line looks: its colour class, marker and dash.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Style {
    pub class: &'static str,
    pub marker: Marker,
    pub dash: &'static str,
}

/// Panels of lines with common axes.
pub(crate) struct Lines {
    unit: Unit,
    y_title: String,
    /// Panels side by side, at most.
    columns: usize,
    panels: Vec<Panel>,
    legend: Vec<(Style, String)>,
    /// The y axis takes in 0 and marks it: for differences.
    zero: bool,
}

/// One pair of axes.
pub(crate) struct Panel {
    pub title: String,
    pub lines: Vec<Line>,
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

/// Rows of differences, in panels that share the rows.
pub(crate) struct Forest {
    pub unit: Unit,
    pub x_title: String,
    pub panels: Vec<ForestPanel>,
}

/// One column of differences.
pub(crate) struct ForestPanel {
    pub title: String,
    pub rows: Vec<ForestRow>,
}

/// One difference.
pub(crate) struct ForestRow {
    pub label: String,
    pub style: Style,
    pub value: f64,
    pub interval: Option<(f64, f64)>,
    pub verdict: Verdict,
    /// Set off from the rows above: a mean.
    pub summary: bool,
}

/// Where one panel stands.
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Lines {
    /// One large panel, two or four in pairs, more in threes.
    pub fn new(unit: Unit, y_title: String, panels: Vec<Panel>) -> Self {
        let columns = match panels.len() {
            0 | 1 => 1,
            2 | 4 => 2,
            _ => 3,
        };
        Lines { unit, y_title, columns, panels, legend: Vec::new(), zero: false }
    }

    /// Names the styles that are drawn.
    pub fn legend(mut self, names: Vec<(Style, String)>) -> Self {
        let lines = || self.panels.iter().flat_map(|panel| &panel.lines);
        let drawn =
            |style: Style| lines().any(|line| line.style == style && !line.marks.is_empty());
        self.legend = names.into_iter().filter(|(style, _)| drawn(*style)).collect();
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
        let legend_height = self.draw_legend(&mut svg, left) + 18.0;
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
            self.panel(&mut svg, panel, &frame, &y_ticks, (column == 0, lowest));
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
    /// Draws the legend in as many lines as it needs and gives its height.
    fn draw_legend(&self, svg: &mut Svg, left: f64) -> f64 {
        let (mut x, mut y) = (left, 14.0);
        for (style, name) in &self.legend {
            let width = 46.0 + text_width(name);
            if x + width > WIDTH && x > left {
                (x, y) = (left, y + 20.0);
            }
            svg.group(style.class, None, |svg| {
                svg.polyline("line", style.dash, &[(x, y), (x + 30.0, y)]);
                svg.marker("mark", style.marker, (x + 15.0, y), 4.0);
            });
            svg.text("label", (x + 37.0, y + 4.0), Anchor::Start, name);
            x += width + 18.0;
        }
        if self.legend.is_empty() { 0.0 } else { y + 12.0 }
    }

    fn marks(&self) -> impl Iterator<Item = &Mark> {
        self.panels.iter().flat_map(|panel| &panel.lines).flat_map(|line| &line.marks)
    }

    /// Ticks that cover everything drawn; shares start at 0 where they come anywhere near it.
    fn y_ticks(&self, height: f64) -> Vec<f64> {
        let ends = |mark: &Mark| {
            [Some(mark.value), mark.interval.map(|ends| ends.0), mark.interval.map(|ends| ends.1)]
        };
        let values = || {
            self.marks().flat_map(move |mark| {
                ends(mark).into_iter().flatten().chain(mark.seeds.iter().copied())
            })
        };
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
        for line in &panel.lines {
            svg.group(line.style.class, None, |svg| band(svg, line, &x, &y));
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

/// An axis number with no more decimals than its neighbours need.
fn axis_number(unit: Unit, tick: f64, all: &[f64]) -> String {
    let whole = all.iter().all(|&one| {
        unit.number(one)
            .split_once('.')
            .is_none_or(|(_, part)| part.trim_end_matches('0').is_empty())
    });
    let text = unit.number(tick);
    let text = if whole { text.split('.').next().unwrap_or(&text).to_string() } else { text };
    text.replace('-', "−")
}

impl Chart for Forest {
    fn draw(&self, id: &str, title: &str, description: &str) -> String {
        let mut svg = Svg::default();
        let columns = self.panels.len().clamp(1, 3);
        let (head, foot, row_height) = (34.0, 40.0, 21.0);
        let rows = || self.panels.iter().flat_map(|panel| &panel.rows);
        let labels = rows().map(|row| text_width(&row.label)).fold(60.0, f64::max) + 14.0;
        let numbers = rows().map(|row| text_width(&self.number(row))).fold(40.0, f64::max) + 10.0;
        let width = (WIDTH - 8.0) / columns as f64;
        let ends = |row: &ForestRow| {
            [
                row.value,
                row.interval.map_or(0.0, |ends| ends.0),
                row.interval.map_or(0.0, |ends| ends.1),
            ]
        };
        let (low, high) = rows()
            .flat_map(ends)
            .fold((0.0_f64, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
        let x_ticks = ticks(low, high, if columns > 2 { 3 } else { 5 });
        let mut top = 4.0;
        for panels in self.panels.chunks(columns) {
            let most = panels.iter().map(|panel| panel.rows.len()).max().unwrap_or(0);
            for (column, panel) in panels.iter().enumerate() {
                let left = column as f64 * width;
                let bottom = top + head + most as f64 * row_height;
                let frame = Frame {
                    left: left + labels,
                    right: (left + width - numbers - 14.0).max(left + labels + 60.0),
                    top: top + head,
                    bottom,
                };
                self.panel(&mut svg, panel, &frame, &x_ticks, left);
            }
            top += head + most as f64 * row_height + foot;
        }
        svg.text("muted", (WIDTH - 8.0, top), Anchor::End, &self.x_title);
        svg.finish(id, (WIDTH, top + 8.0), title, description)
    }
}

impl Forest {
    fn number(&self, row: &ForestRow) -> String {
        let value = self.unit.signed(row.value);
        match row.interval {
            Some((low, high)) => {
                format!("{value} [{}, {}]", self.unit.number(low), self.unit.number(high))
                    .replace('-', "−")
            }
            None => value,
        }
    }

    fn panel(&self, svg: &mut Svg, panel: &ForestPanel, frame: &Frame, x_ticks: &[f64], left: f64) {
        let x = Linear::new((x_ticks[0], x_ticks[x_ticks.len() - 1]), (frame.left, frame.right));
        if !panel.title.is_empty() {
            svg.text("head", (left + 4.0, frame.top - 14.0), Anchor::Start, &panel.title);
        }
        for &tick in x_ticks {
            let class = if tick == 0.0 { "zero" } else { "grid" };
            svg.line(class, (x.at(tick), frame.top - 4.0), (x.at(tick), frame.bottom + 2.0));
            svg.text(
                "tick",
                (x.at(tick), frame.bottom + 17.0),
                Anchor::Middle,
                &axis_number(self.unit, tick, x_ticks),
            );
        }
        for (at, row) in panel.rows.iter().enumerate() {
            let y = frame.top + 10.0 + at as f64 * 21.0;
            if row.summary && !panel.rows[at.saturating_sub(1)].summary {
                svg.line("axis", (left + 4.0, y - 10.5), (frame.right, y - 10.5));
            }
            svg.text(
                if row.summary { "head" } else { "label" },
                (frame.left - 10.0, y + 4.0),
                Anchor::End,
                &row.label,
            );
            let hover = format!("{}: {} ({})", row.label, self.number(row), row.verdict);
            svg.group(row.style.class, Some(&hover), |svg| {
                if let Some((low, high)) = row.interval {
                    svg.line("whisker", (x.at(low), y), (x.at(high), y));
                }
                let class = if row.verdict == Verdict::Clear { "mark" } else { "hollow" };
                svg.marker(class, row.style.marker, (x.at(row.value), y), 4.5);
            });
            svg.text("value", (frame.right + 10.0, y + 4.0), Anchor::Start, &self.number(row));
        }
    }
}
