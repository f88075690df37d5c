//! Points on two axes where more is better in both: the front that no point beats as steps, points
//! on it filled, those behind it hollow, the n of a point beside it.

use super::{Chart, Frame, Legend, Style, WIDTH, axis_number};
use crate::svg::{Anchor, Linear, Svg, text_width, ticks};
use crate::words::Unit;

/// Panels of points on common axes.
pub(crate) struct Scatter {
    unit: Unit,
    titles: [String; 2],
    panels: Vec<ScatterPanel>,
    legend: Legend,
}

/// One pair of axes.
pub(crate) struct ScatterPanel {
    pub title: String,
    pub marks: Vec<ScatterMark>,
}

/// One point.
pub(crate) struct ScatterMark {
    pub style: Style,
    pub x: f64,
    pub y: f64,
    pub x_interval: Option<(f64, f64)>,
    pub y_interval: Option<(f64, f64)>,
    pub label: String,
    pub on_front: bool,
    pub hover: String,
}

impl Scatter {
    pub fn new(
        unit: Unit,
        titles: [String; 2],
        panels: Vec<ScatterPanel>,
        names: Vec<(Style, String)>,
    ) -> Self {
        Scatter { unit, titles, panels, legend: Legend { names, lines: false } }
    }

    fn axis(
        &self,
        of: impl Fn(&ScatterMark) -> (f64, Option<(f64, f64)>),
        count: usize,
    ) -> Vec<f64> {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for mark in self.panels.iter().flat_map(|panel| &panel.marks) {
            let (value, interval) = of(mark);
            let (from, to) = interval.unwrap_or((value, value));
            (low, high) = (low.min(from), high.max(to));
        }
        if low.is_finite() { ticks(low, high, count) } else { vec![0.0, 1.0] }
    }
}

impl Chart for Scatter {
    fn draw(&self, id: &str, title: &str, description: &str) -> String {
        let mut svg = Svg::default();
        let columns = self.panels.len().clamp(1, 2);
        let (left, gap, head, foot, height) = (52.0, 40.0, 30.0, 52.0, 330.0);
        let width = (WIDTH - left - 12.0 - gap * (columns - 1) as f64) / columns as f64;
        let x_ticks = self.axis(|mark| (mark.x, mark.x_interval), 6);
        let y_ticks = self.axis(|mark| (mark.y, mark.y_interval), 7);
        let mut top = self.legend.draw(&mut svg, left) + 18.0;
        svg.text("muted", (8.0, top - 2.0), Anchor::Start, &self.titles[1]);
        for panels in self.panels.chunks(columns) {
            for (column, panel) in panels.iter().enumerate() {
                let from = left + column as f64 * (width + gap);
                let frame = Frame {
                    left: from,
                    right: from + width,
                    top: top + head,
                    bottom: top + head + height,
                };
                self.panel(&mut svg, panel, &frame, [&x_ticks, &y_ticks]);
            }
            top += head + height + foot;
        }
        svg.text("muted", (WIDTH - 8.0, top - 12.0), Anchor::End, &self.titles[0]);
        svg.finish(id, (WIDTH, top), title, description)
    }
}

impl Scatter {
    fn panel(&self, svg: &mut Svg, panel: &ScatterPanel, frame: &Frame, ticks: [&[f64]; 2]) {
        let ends = |ticks: &[f64]| (ticks[0], ticks[ticks.len() - 1]);
        let x = Linear::new(ends(ticks[0]), (frame.left + 8.0, frame.right - 8.0));
        let y = Linear::new(ends(ticks[1]), (frame.bottom, frame.top));
        svg.text("head", (frame.left, frame.top - 10.0), Anchor::Start, &panel.title);
        for &tick in ticks[1] {
            svg.line("grid", (frame.left, y.at(tick)), (frame.right, y.at(tick)));
            let number = axis_number(self.unit, tick, ticks[1]);
            svg.text("tick", (frame.left - 8.0, y.at(tick) + 4.0), Anchor::End, &number);
        }
        for &tick in ticks[0] {
            svg.line("axis", (x.at(tick), frame.bottom), (x.at(tick), frame.bottom + 4.0));
            let number = axis_number(self.unit, tick, ticks[0]);
            svg.text("tick", (x.at(tick), frame.bottom + 17.0), Anchor::Middle, &number);
        }
        svg.polyline("front", "5 3", &front(&panel.marks, &x, &y, frame));
        for mark in &panel.marks {
            let at = (x.at(mark.x), y.at(mark.y));
            svg.group(mark.style.class, None, |svg| {
                svg.group("point", Some(&mark.hover), |svg| {
                    if let Some((low, high)) = mark.x_interval {
                        svg.line("faint", (x.at(low), at.1), (x.at(high), at.1));
                    }
                    if let Some((low, high)) = mark.y_interval {
                        svg.line("faint", (at.0, y.at(low)), (at.0, y.at(high)));
                    }
                    let class = if mark.on_front { "mark" } else { "hollow" };
                    svg.marker(class, mark.style.marker, at, 5.0);
                });
            });
        }
        self.labels(svg, panel, &x, &y);
    }

    /// The points' names, as many as stand free of each other; those on the front come first.
    fn labels(&self, svg: &mut Svg, panel: &ScatterPanel, x: &Linear, y: &Linear) {
        let mut order: Vec<&ScatterMark> = panel.marks.iter().collect();
        order.sort_by_key(|mark| !mark.on_front);
        let mut taken: Vec<(f64, f64, f64)> = Vec::new();
        for mark in order {
            let (left, base, width) =
                (x.at(mark.x) + 8.0, y.at(mark.y) - 6.0, text_width(&mark.label));
            let free = |&(other, line, size): &(f64, f64, f64)| {
                (line - base).abs() > 13.0 || left > other + size || other > left + width
            };
            if taken.iter().all(free) {
                taken.push((left, base, width));
                svg.text(
                    if mark.on_front { "head" } else { "muted" },
                    (left, base),
                    Anchor::Start,
                    &mark.label,
                );
            }
        }
    }
}

/// The steps that no point is beyond, from the top left to the bottom right.
fn front(marks: &[ScatterMark], x: &Linear, y: &Linear, frame: &Frame) -> Vec<(f64, f64)> {
    let mut on: Vec<&ScatterMark> = marks.iter().filter(|mark| mark.on_front).collect();
    on.sort_by(|a, b| a.x.total_cmp(&b.x).then(b.y.total_cmp(&a.y)));
    let mut points = Vec::new();
    let mut level = None;
    for mark in &on {
        let at = (x.at(mark.x), y.at(mark.y));
        points.push((level.unwrap_or(frame.left), at.1));
        points.push(at);
        level = Some(at.0);
    }
    // Vertical steps: each point's level holds up to it, then drops to the next one's.
    if let Some(&last) = points.last() {
        points.push((last.0, frame.bottom));
    }
    points
}
