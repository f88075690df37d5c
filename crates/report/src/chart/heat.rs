//! A map of numbers: colour gives the size, the number itself stands in each cell, bold where it is
//! clear, outlined where the cell is special (a language's own data). Row and column means stand
//! apart.

use super::{Chart, WIDTH};
use crate::svg::{Anchor, Svg, text_width};

/// Rows × columns of numbers.
pub(crate) struct Heat {
    pub scale: Scale,
    pub row_title: String,
    pub column_title: String,
    pub columns: Vec<String>,
    /// Languages that the columns are about, where they are about any.
    pub column_langs: Vec<Option<String>>,
    pub rows: Vec<(String, Vec<Option<HeatCell>>)>,
    /// Stand to the right of the rows and below the columns, with their names.
    pub row_means: Option<(String, Vec<Option<HeatCell>>)>,
    pub column_means: Option<(String, Vec<Option<HeatCell>>)>,
}

/// One number.
pub(crate) struct HeatCell {
    pub value: f64,
    pub text: String,
    pub hover: String,
    pub bold: bool,
    pub outlined: bool,
}

/// How values become colours.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Scale {
    /// Losses and gains, apart at 0.
    Diverging,
    /// From the smallest to the largest.
    Sequential,
}

const CELL_HEIGHT: f64 = 26.0;
const GAP: f64 = 8.0;

impl Heat {
    fn cells(&self) -> impl Iterator<Item = &HeatCell> {
        let means = [&self.row_means, &self.column_means].into_iter().flatten();
        self.rows
            .iter()
            .flat_map(|(_, cells)| cells)
            .chain(means.flat_map(|(_, cells)| cells))
            .flatten()
    }

    /// The class of a value: `n4` to `n1`, `z`, `p1` to `p4`; or `q0` to `q8`.
    fn class(&self, value: f64, (low, high): (f64, f64)) -> String {
        match self.scale {
            Scale::Diverging => {
                let most = low.abs().max(high.abs()).max(f64::MIN_POSITIVE);
                let step = (4.5 * value.abs() / most).floor().min(4.0) as usize;
                match (step, value < 0.0) {
                    (0, _) => "z".into(),
                    (step, true) => format!("n{step}"),
                    (step, false) => format!("p{step}"),
                }
            }
            Scale::Sequential => {
                let share = if high > low { (value - low) / (high - low) } else { 0.5 };
                format!("q{}", (share * 8.99).floor())
            }
        }
    }

    fn cell(&self, svg: &mut Svg, cell: &HeatCell, ends: (f64, f64), at: (f64, f64), width: f64) {
        let class = self.class(cell.value, ends);
        svg.group(&format!("cell point {class}"), Some(&cell.hover), |svg| {
            svg.rect(
                if cell.outlined { "own" } else { "fill" },
                (at.0 + 1.0, at.1 + 1.0),
                (width - 2.0, CELL_HEIGHT - 2.0),
            );
            let text = if cell.bold { "strong" } else { "plain" };
            svg.text(
                text,
                (at.0 + width / 2.0, at.1 + CELL_HEIGHT / 2.0 + 4.0),
                Anchor::Middle,
                &cell.text,
            );
        });
    }
}

impl Chart for Heat {
    fn draw(&self, id: &str, title: &str, description: &str) -> String {
        let mut svg = Svg::default();
        let ends = self.cells().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), cell| {
            (low.min(cell.value), high.max(cell.value))
        });
        let means = self.column_means.iter().map(|(name, _)| name);
        let names = self.rows.iter().map(|(name, _)| name).chain(means).chain([&self.row_title]);
        let labels = names.map(|name| text_width(name)).fold(40.0, f64::max) + 14.0;
        let widest = self.cells().map(|cell| text_width(&cell.text)).fold(0.0, f64::max) + 12.0;
        let extra = if self.row_means.is_some() { 1 } else { 0 };
        let room = (WIDTH - labels - GAP - 4.0) / (self.columns.len() + extra).max(1) as f64;
        let width = room.min(110.0).max(widest.min(room));
        let (mut top, left) = (22.0, labels);
        let fits = self.columns.iter().all(|name| text_width(name) < width);
        svg.text("muted", (4.0, 14.0), Anchor::Start, &self.row_title);
        svg.text("muted", (left + 2.0, 14.0), Anchor::Start, &self.column_title);
        let mean_left = left + width * self.columns.len() as f64 + GAP;
        for (at, name) in self.columns.iter().enumerate() {
            // Where names are too wide for their columns they stand on two lines in turn.
            let line = if fits || at % 2 == 0 { 16.0 } else { 30.0 };
            svg.about(self.column_langs.get(at).and_then(Option::as_deref), |svg| {
                svg.text(
                    "head",
                    (left + (at as f64 + 0.5) * width, top + line),
                    Anchor::Middle,
                    name,
                );
            });
        }
        if let Some((name, _)) = &self.row_means {
            svg.text("head", (mean_left + width / 2.0, top + 16.0), Anchor::Middle, name);
        }
        top += if fits { 24.0 } else { 38.0 };
        let row = |svg: &mut Svg,
                   name: &str,
                   cells: &[Option<HeatCell>],
                   mean: Option<&HeatCell>,
                   class: &str,
                   top: f64| {
            svg.text(class, (left - 10.0, top + CELL_HEIGHT / 2.0 + 4.0), Anchor::End, name);
            for (at, cell) in cells.iter().enumerate() {
                let place = (left + at as f64 * width, top);
                svg.about(self.column_langs.get(at).and_then(Option::as_deref), |svg| match cell {
                    Some(cell) => self.cell(svg, cell, ends, place, width),
                    None => svg.text(
                        "muted",
                        (place.0 + width / 2.0, top + CELL_HEIGHT / 2.0 + 4.0),
                        Anchor::Middle,
                        "–",
                    ),
                });
            }
            if let Some(mean) = mean {
                self.cell(svg, mean, ends, (mean_left, top), width);
            }
        };
        for (at, (name, cells)) in self.rows.iter().enumerate() {
            let mean = self.row_means.as_ref().and_then(|(_, means)| means.get(at)?.as_ref());
            row(&mut svg, name, cells, mean, "label", top);
            top += CELL_HEIGHT;
        }
        if let Some((name, cells)) = &self.column_means {
            top += GAP;
            row(&mut svg, name, cells, None, "head", top);
            top += CELL_HEIGHT;
        }
        svg.finish(id, (WIDTH, top + 8.0), title, description)
    }
}
