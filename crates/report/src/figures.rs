//! The figures, from the analysis: `along` n for every task and metric, `further` for the analyses
//! that compare languages, settings and factors. Each is written as a standalone SVG and stands in
//! the page above the table of its numbers.

mod along;
mod further;

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::analyse::Analysis;
use crate::chart::{Chart, Style};
use crate::read::Group;
use crate::svg::Marker;
use crate::table::{Row, Table};

/// The classes of a drawing, which a standalone figure carries and the page has once.
pub(crate) const CHART_CSS: &str = include_str!("../assets/chart.css");

/// Series that a chart of lines can still tell apart; more are drawn as maps and rows.
const MOST_LINES: usize = 6;
/// Series that have a panel each; more are drawn as rows and a map.
const MOST_PANELS: usize = 12;

/// A drawn figure.
pub(crate) struct Figure {
    /// File name without extension, and unique id on the page.
    pub id: String,
    pub title: String,
    pub caption: String,
    pub svg: String,
    pub theme: Theme,
    /// Empty where it is about all.
    pub task: String,
    pub metric: String,
    /// Whether the metric is the one that the task is judged by first.
    pub headline: bool,
    /// Models that it shows, for the filter.
    pub models: Vec<String>,
    pub numbers: Numbers,
    /// Stands folded away: one of many.
    pub folded: bool,
}

/// The page's sections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Theme {
    /// What more data bought, along n.
    Along,
    /// Which language helps which.
    Between,
    /// English against the rest, one setting against another.
    Trade,
    /// In which language the answers are, and whether they could be read.
    Fidelity,
    /// What is noise, what is an outlier, what could have been found.
    Trust,
}

/// The table below a figure: by name, with the rows of some curves or with these values in its key
/// columns.
pub(crate) struct Numbers {
    pub table: &'static str,
    pub curves: Vec<usize>,
    pub keys: Vec<(&'static str, String)>,
}

impl Numbers {
    fn of_curves(table: &'static str, curves: &[usize]) -> Self {
        Numbers { table, curves: curves.to_vec(), keys: Vec::new() }
    }

    fn of_keys(table: &'static str, keys: &[(&'static str, &str)]) -> Self {
        let keys = keys.iter().map(|&(name, value)| (name, value.to_string())).collect();
        Numbers { table, curves: Vec::new(), keys }
    }

    /// Which rows of the table they are.
    pub fn wanted<'a>(&'a self, table: &Table) -> impl Fn(&Row) -> bool + 'a {
        let place = |name: &str| table.columns.iter().position(|column| column.name == name);
        let keys: Vec<(usize, &String)> =
            self.keys.iter().filter_map(|(name, value)| Some((place(name)?, value))).collect();
        move |row| match self.curves.is_empty() {
            false => self.curves.contains(&row.curve),
            true => keys.iter().all(|&(at, value)| row.cells[at].key() == *value),
        }
    }
}

const SEEN: Style = Style { class: "seen", marker: Marker::Circle, dash: "" };
const UNSEEN: Style = Style { class: "unseen", marker: Marker::Triangle, dash: "6 4" };
const ENGLISH: Style = Style { class: "english", marker: Marker::Square, dash: "1.5 3.5" };
const MEAN: Style = Style { class: "mean", marker: Marker::Diamond, dash: "" };
const SERIES: [Style; MOST_LINES] = [
    Style { class: "s0", marker: Marker::Circle, dash: "" },
    Style { class: "s1", marker: Marker::Triangle, dash: "7 4" },
    Style { class: "s2", marker: Marker::Square, dash: "2 3" },
    Style { class: "s3", marker: Marker::Diamond, dash: "9 3 2 3" },
    Style { class: "s4", marker: Marker::Down, dash: "4 2" },
    Style { class: "s5", marker: Marker::Cross, dash: "12 4" },
];

fn style(group: Group) -> Style {
    match group {
        Group::English => ENGLISH,
        Group::Seen => SEEN,
        Group::Unseen => UNSEEN,
        Group::Unknown => MEAN,
    }
}

/// Draws all figures: along n task by task and metric by metric, then the further analyses.
pub(crate) fn all(analysis: &Analysis) -> Vec<Figure> {
    let mut gallery = Gallery::default();
    along::draw(analysis, &mut gallery);
    further::draw(analysis, &mut gallery);
    gallery.figures
}

/// The figures drawn so far; no two have one id.
#[derive(Default)]
struct Gallery {
    figures: Vec<Figure>,
}

impl Gallery {
    /// Draws a figure that is described but for its drawing.
    fn add(&mut self, mut figure: Figure, chart: &dyn Chart) {
        let taken = |id: &str| self.figures.iter().any(|one| one.id == id);
        let wanted = slug(&figure.id);
        let mut id = wanted.clone();
        let mut count = 1;
        while taken(&id) {
            count += 1;
            id = format!("{wanted}-{count}");
        }
        figure.svg = chart.draw(&id, &figure.title, &figure.caption);
        figure.id = id;
        self.figures.push(figure);
    }
}

/// Writes `figures/*.svg`, each with its own colours and background.
pub(crate) fn write(figures: &[Figure], out: &Path) -> Result<()> {
    let folder = out.join("figures");
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    for figure in figures {
        let inside = figure.svg.find("<title").unwrap_or(0);
        let (head, body) = figure.svg.split_at(inside);
        let standalone = format!(
            "{head}<style>{CHART_CSS}</style>\n<rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n{body}"
        );
        let path = folder.join(format!("{}.svg", figure.id));
        std::fs::write(&path, standalone).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// A name as it may stand in a file name.
fn slug(name: &str) -> String {
    let keep = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let slug: String = name.chars().map(keep).collect();
    slug.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}
