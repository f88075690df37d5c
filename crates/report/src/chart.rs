//! The kinds of figure, each in its file: `lines` along n with interval bands and one dot a seed,
//! `rows` of marks with intervals, `heat` maps with their numbers, stacked `bars`, and a `scatter`
//! with its front. What a colour says, a marker, a dash or a number says too.

mod bars;
mod heat;
mod lines;
mod rows;
mod scatter;

pub(crate) use bars::{Bar, Bars, Part};
pub(crate) use heat::{Heat, HeatCell, Scale};
pub(crate) use lines::{Fit, Line, Lines, Mark, Panel};
pub(crate) use rows::{Row, RowMark, RowPanel, Rows};
pub(crate) use scatter::{Scatter, ScatterMark, ScatterPanel};

use crate::svg::{Anchor, Marker, Svg, text_width};
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

/// A legend's names of the styles; a mark alone where the chart has no lines.
#[derive(Clone, Default)]
struct Legend {
    names: Vec<(Style, String)>,
    lines: bool,
}

impl Legend {
    /// Draws it in as many lines as it needs, from `left`, and gives its height.
    fn draw(&self, svg: &mut Svg, left: f64) -> f64 {
        let (mut x, mut y) = (left, 14.0);
        let key = if self.lines { 30.0 } else { 8.0 };
        for (style, name) in &self.names {
            let width = key + 16.0 + text_width(name);
            if x + width > WIDTH && x > left {
                (x, y) = (left, y + 20.0);
            }
            svg.group(style.class, None, |svg| {
                if self.lines {
                    svg.polyline("line", style.dash, &[(x, y), (x + key, y)]);
                }
                svg.marker("mark", style.marker, (x + key / 2.0, y), 4.0);
            });
            svg.text("label", (x + key + 7.0, y + 4.0), Anchor::Start, name);
            x += width + 18.0;
        }
        if self.names.is_empty() { 0.0 } else { y + 12.0 }
    }
}

/// Where one panel stands.
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
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
