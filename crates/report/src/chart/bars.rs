//! Horizontal bars of parts that add up to a whole: in which language answers are, which factors
//! scores vary with. Patterns of the parts differ in lightness as well as in hue, and each part that
//! has room holds its number.

use super::{Chart, WIDTH};
use crate::svg::{Anchor, Svg, text_width};

/// Bars below each other, one legend for all.
pub(crate) struct Bars {
    pub bars: Vec<Bar>,
    /// Class and name of every kind of part.
    pub legend: Vec<(&'static str, String)>,
}

/// One whole.
pub(crate) struct Bar {
    pub label: String,
    /// Above a new group of bars.
    pub heading: Option<String>,
    pub parts: Vec<Part>,
    pub lang: Option<String>,
}

/// A share of the whole, from 0 to 1.
pub(crate) struct Part {
    pub class: &'static str,
    pub share: f64,
    pub hover: String,
}

const BAR: f64 = 18.0;
const ROW: f64 = 24.0;

impl Bars {
    fn draw_legend(&self, svg: &mut Svg) -> f64 {
        let (mut x, mut y) = (4.0, 14.0);
        for (class, name) in &self.legend {
            let width = 38.0 + text_width(name);
            if x + width > WIDTH && x > 4.0 {
                (x, y) = (4.0, y + 20.0);
            }
            svg.group(&format!("part {class}"), None, |svg| {
                svg.rect("fill", (x, y - 7.0), (14.0, 14.0))
            });
            svg.text("label", (x + 20.0, y + 4.0), Anchor::Start, name);
            x += width;
        }
        y + 18.0
    }
}

impl Chart for Bars {
    fn draw(&self, id: &str, title: &str, description: &str) -> String {
        let mut svg = Svg::default();
        let mut top = self.draw_legend(&mut svg);
        let labels = self.bars.iter().map(|bar| text_width(&bar.label)).fold(40.0, f64::max) + 14.0;
        let width = WIDTH - labels - 16.0;
        let headings = self.bars.iter().filter(|bar| bar.heading.is_some()).count();
        let bottom = top + ROW * (self.bars.len() + headings) as f64;
        for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
            let x = labels + share * width;
            svg.line("grid", (x, top - 4.0), (x, bottom));
            svg.text("tick", (x, bottom + 14.0), Anchor::Middle, &format!("{:.0}", 100.0 * share));
        }
        for bar in &self.bars {
            if let Some(heading) = &bar.heading {
                svg.text("head", (4.0, top + 16.0), Anchor::Start, heading);
                top += ROW;
            }
            svg.about(bar.lang.as_deref(), |svg| {
                svg.text("label", (labels - 10.0, top + BAR / 2.0 + 4.0), Anchor::End, &bar.label);
                let mut left = labels;
                for part in &bar.parts {
                    let size = part.share.max(0.0) * width;
                    svg.group(&format!("part point {}", part.class), Some(&part.hover), |svg| {
                        svg.rect("fill", (left, top), (size, BAR));
                        let number = format!("{:.0}", 100.0 * part.share);
                        if size > text_width(&number) + 6.0 {
                            svg.text(
                                "inside",
                                (left + size / 2.0, top + BAR / 2.0 + 4.0),
                                Anchor::Middle,
                                &number,
                            );
                        }
                    });
                    left += size;
                }
            });
            top += ROW;
        }
        svg.text("muted", (WIDTH - 8.0, top + 32.0), Anchor::End, "per cent");
        svg.finish(id, (WIDTH, top + 40.0), title, description)
    }
}
