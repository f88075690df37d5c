//! Plain SVG: elements, scales, ticks and markers. Colours are classes (see `chart.css`), so that
//! one drawing serves light and dark pages; what a colour says, a marker and a dash say too.

use std::fmt::Write as _;

use unicode_width::UnicodeWidthChar;

/// A drawing under construction.
#[derive(Default)]
pub(crate) struct Svg {
    body: String,
}

/// Where a text stands against its point.
#[derive(Clone, Copy)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// Shapes that tell lines apart without colour.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Marker {
    Circle,
    Triangle,
    Square,
    Diamond,
    Down,
    Cross,
}

impl Svg {
    pub fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let _ = writeln!(
            self.body,
            r#"<path class="{class}" d="M{} {}L{} {}"/>"#,
            n(from.0),
            n(from.1),
            n(to.0),
            n(to.1)
        );
    }

    /// An open line through the points.
    pub fn polyline(&mut self, class: &str, dash: &str, points: &[(f64, f64)]) {
        let dash =
            if dash.is_empty() { String::new() } else { format!(r#" stroke-dasharray="{dash}""#) };
        let _ = writeln!(self.body, r#"<path class="{class}"{dash} d="{}"/>"#, path(points));
    }

    /// A closed area.
    pub fn polygon(&mut self, class: &str, points: &[(f64, f64)]) {
        let _ = writeln!(self.body, r#"<path class="{class}" d="{}Z"/>"#, path(points));
    }

    pub fn dot(&mut self, class: &str, at: (f64, f64), radius: f64) {
        let _ = writeln!(
            self.body,
            r#"<circle class="{class}" cx="{}" cy="{}" r="{}"/>"#,
            n(at.0),
            n(at.1),
            n(radius)
        );
    }

    pub fn text(&mut self, class: &str, at: (f64, f64), anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ = writeln!(
            self.body,
            r#"<text class="{class}" x="{}" y="{}" text-anchor="{anchor}">{}</text>"#,
            n(at.0),
            n(at.1),
            escape(text)
        );
    }

    /// Everything that `draw` adds, under one class, and with a text that a pointer shows.
    pub fn group(&mut self, class: &str, hover: Option<&str>, draw: impl FnOnce(&mut Svg)) {
        let _ = writeln!(self.body, r#"<g class="{class}">"#);
        if let Some(hover) = hover {
            let _ = writeln!(self.body, "<title>{}</title>", escape(hover));
        }
        draw(self);
        self.body.push_str("</g>\n");
    }

    /// Everything that `draw` adds is about this language, which a filter can look for.
    pub fn about(&mut self, lang: Option<&str>, draw: impl FnOnce(&mut Svg)) {
        if let Some(lang) = lang {
            let _ = writeln!(self.body, r#"<g data-lang="{}">"#, escape(lang));
        }
        draw(self);
        if lang.is_some() {
            self.body.push_str("</g>\n");
        }
    }

    pub fn rect(&mut self, class: &str, (x, y): (f64, f64), (width, height): (f64, f64)) {
        let (x, y, width, height) = (n(x), n(y), n(width), n(height));
        let _ = writeln!(
            self.body,
            r#"<rect class="{class}" x="{x}" y="{y}" width="{width}" height="{height}"/>"#
        );
    }

    pub fn marker(&mut self, class: &str, marker: Marker, (x, y): (f64, f64), size: f64) {
        let s = size;
        let points: &[(f64, f64)] = match marker {
            Marker::Circle => return self.dot(class, (x, y), s),
            Marker::Triangle => &[(0.0, -1.2 * s), (1.1 * s, 0.8 * s), (-1.1 * s, 0.8 * s)],
            Marker::Down => &[(0.0, 1.2 * s), (1.1 * s, -0.8 * s), (-1.1 * s, -0.8 * s)],
            Marker::Square => &[
                (-0.9 * s, -0.9 * s),
                (0.9 * s, -0.9 * s),
                (0.9 * s, 0.9 * s),
                (-0.9 * s, 0.9 * s),
            ],
            Marker::Diamond => {
                &[(0.0, -1.25 * s), (1.25 * s, 0.0), (0.0, 1.25 * s), (-1.25 * s, 0.0)]
            }
            Marker::Cross => &[
                (-0.4 * s, -1.2 * s),
                (0.4 * s, -1.2 * s),
                (0.4 * s, -0.4 * s),
                (1.2 * s, -0.4 * s),
                (1.2 * s, 0.4 * s),
                (0.4 * s, 0.4 * s),
                (0.4 * s, 1.2 * s),
                (-0.4 * s, 1.2 * s),
                (-0.4 * s, 0.4 * s),
                (-1.2 * s, 0.4 * s),
                (-1.2 * s, -0.4 * s),
                (-0.4 * s, -0.4 * s),
            ],
        };
        self.polygon(class, &points.iter().map(|(dx, dy)| (x + dx, y + dy)).collect::<Vec<_>>());
    }

    /// The whole drawing, named and described for those who do not see it. `id` must be unique on
    /// its page.
    pub fn finish(self, id: &str, size: (f64, f64), title: &str, description: &str) -> String {
        let (width, height) = (n(size.0), n(size.1));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
             role=\"img\" aria-labelledby=\"{id}-title {id}-desc\">\n<title id=\"{id}-title\">{}</title>\n<desc id=\"{id}-desc\">{}</desc>\n{}</svg>\n",
            escape(title),
            escape(description),
            self.body
        )
    }
}

fn path(points: &[(f64, f64)]) -> String {
    let mut path = String::new();
    for (at, (x, y)) in points.iter().enumerate() {
        let _ = write!(path, "{}{} {}", if at == 0 { 'M' } else { 'L' }, n(*x), n(*y));
    }
    path
}

/// A coordinate with at most one decimal: small files, and the same bytes everywhere.
fn n(value: f64) -> String {
    let text = format!("{value:.1}");
    let text = text.strip_suffix(".0").unwrap_or(&text);
    if text == "-0" { "0".into() } else { text.into() }
}

/// Text as it may stand in XML and HTML.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// About how wide a text is, in the chart's pixels at 12 px.
pub(crate) fn text_width(text: &str) -> f64 {
    text.chars().map(|c| c.width().unwrap_or(0) as f64 * 6.6).sum()
}

/// A straight map from values to pixels.
#[derive(Clone, Copy)]
pub(crate) struct Linear {
    values: (f64, f64),
    pixels: (f64, f64),
}

impl Linear {
    pub fn new(values: (f64, f64), pixels: (f64, f64)) -> Self {
        Linear { values, pixels }
    }

    pub fn at(&self, value: f64) -> f64 {
        let share = (value - self.values.0) / (self.values.1 - self.values.0);
        self.pixels.0 + share * (self.pixels.1 - self.pixels.0)
    }
}

/// n along x by its square root, so that 0, 100, 200, 400 … 5000 and 0, 500, 1000 … 7000 are all
/// seen apart.
#[derive(Clone, Copy)]
pub(crate) struct Counts(Linear);

impl Counts {
    pub fn new(grid: &[i64], pixels: (f64, f64)) -> Self {
        let root = |n: Option<&i64>| n.map_or(0.0, |&n| (n.max(0) as f64).sqrt());
        let (low, high) = (root(grid.first()), root(grid.last()));
        // A lone n stands in the middle.
        Counts(Linear::new(if low == high { (low - 1.0, high + 1.0) } else { (low, high) }, pixels))
    }

    pub fn at(&self, n: i64) -> f64 {
        self.of(n as f64)
    }

    /// Of an n between the counts: a fit's.
    pub fn of(&self, n: f64) -> f64 {
        self.0.at(n.max(0.0).sqrt())
    }
}

/// Round numbers that cover `low` to `high` in about `count` steps (1, 2, 2.5 or 5 times a power of
/// ten).
pub(crate) fn ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let span = if high > low { high - low } else { low.abs().max(1.0) };
    let rough = span / count.max(1) as f64;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0]
        .into_iter()
        .map(|m| m * power)
        .find(|step| *step >= rough * 0.999)
        .unwrap_or(rough);
    let (first, last) = ((low / step + 1e-9).floor() as i64, (high / step - 1e-9).ceil() as i64);
    (first..=last.max(first + 1)).map(|at| at as f64 * step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_cover_the_range() {
        let close = |found: Vec<f64>, expected: &[f64]| {
            assert_eq!(found.len(), expected.len(), "{found:?}");
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?}");
        };
        close(ticks(0.0, 0.97, 5), &[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
        close(ticks(-0.02, 0.31, 4), &[-0.1, 0.0, 0.1, 0.2, 0.3, 0.4]);
        close(ticks(3.0, 3.0, 4), &[3.0, 4.0]);
    }

    #[test]
    fn counts_keep_zero_and_the_large_n_apart() {
        let scale = Counts::new(&[0, 100, 200, 400, 5000], (0.0, 100.0));
        let places: Vec<f64> = [0, 100, 200, 400, 5000].map(|n| scale.at(n)).to_vec();
        assert_eq!((places[0], places[4]), (0.0, 100.0));
        assert!(places.windows(2).all(|pair| pair[1] - pair[0] > 5.0), "{places:?}");
        assert_eq!(Counts::new(&[400], (0.0, 100.0)).at(400), 50.0);
    }

    #[test]
    fn text_cannot_leave_its_element() {
        let mut svg = Svg::default();
        svg.text("label", (0.0, 0.0), Anchor::Start, "<script>&\"");
        let out = svg.finish("f", (10.0, 10.0), "a < b", "");
        assert!(
            out.contains("&lt;script&gt;&amp;&quot;</text>") && out.contains("a &lt; b</title>"),
            "{out}"
        );
    }
}
