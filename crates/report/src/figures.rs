//! The figures, from the analysis: per task and metric the means along n, the differences from the
//! baseline, Perf-to-EN and the gap along n; per curve a small panel for each language. Each is
//! written as a standalone SVG and stands in the page.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::analyse::{Analysis, Curve, Language, Measure, Point};
use crate::arrange::Series;
use crate::chart::{Chart, Forest, ForestPanel, ForestRow, Line, Lines, Mark, Panel, Style};
use crate::findings::Verdict;
use crate::read::Group;
use crate::svg::Marker;
use crate::words::{self, Unit};

/// The classes of a drawing, which a standalone figure carries and the page has once.
const CHART_CSS: &str = include_str!("../assets/chart.css");

/// A drawn figure.
pub(crate) struct Figure {
    /// File name without extension, and unique id on the page.
    pub id: String,
    pub title: String,
    pub caption: String,
    pub svg: String,
    pub kind: Kind,
    /// The curves that it shows, all of one task and metric.
    pub curves: Vec<usize>,
}

/// What a figure shows, which decides the table that stands below it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Means,
    Differences,
    PerfToEnglish,
    Gap,
    Languages,
}

const SEEN: Style = Style { class: "seen", marker: Marker::Circle, dash: "" };
const UNSEEN: Style = Style { class: "unseen", marker: Marker::Triangle, dash: "6 4" };
const ENGLISH: Style = Style { class: "english", marker: Marker::Square, dash: "1.5 3.5" };
const MEAN: Style = Style { class: "mean", marker: Marker::Diamond, dash: "" };
const SERIES: [Style; 6] = [
    Style { class: "s0", marker: Marker::Circle, dash: "" },
    Style { class: "s1", marker: Marker::Triangle, dash: "7 4" },
    Style { class: "s2", marker: Marker::Square, dash: "2 3" },
    Style { class: "s3", marker: Marker::Diamond, dash: "9 3 2 3" },
    Style { class: "s4", marker: Marker::Down, dash: "4 2" },
    Style { class: "s5", marker: Marker::Cross, dash: "12 4" },
];

/// A number of a point, where it has one.
type Of = fn(&Point) -> Option<&Measure>;

/// Draws all figures, task by task and metric by metric.
pub(crate) fn all(analysis: &Analysis) -> Vec<Figure> {
    let mut figures = Vec::new();
    let mut stems = BTreeSet::new();
    for curves in families(analysis) {
        let first = &analysis.curves[curves[0]];
        let mut stem = slug(&format!("{} {}", first.task, first.metric));
        if !stems.insert(stem.clone()) {
            stem += &format!("-{}", curves[0]);
        }
        let family = Family { analysis, curves, stem };
        figures.push(family.means());
        figures.extend(
            [family.differences(), family.perf_to_english(), family.gap()].into_iter().flatten(),
        );
        figures.extend((0..family.curves.len()).map(|place| family.one(place).languages()));
    }
    figures
}

/// The curves of each task and metric.
fn families(analysis: &Analysis) -> Vec<Vec<usize>> {
    let mut families: Vec<Vec<usize>> = Vec::new();
    for (at, curve) in analysis.curves.iter().enumerate() {
        let same = |family: &&mut Vec<usize>| {
            let first = &analysis.curves[family[0]];
            (&first.task, &first.metric) == (&curve.task, &curve.metric)
        };
        match families.iter_mut().find(same) {
            Some(family) => family.push(at),
            None => families.push(vec![at]),
        }
    }
    families
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

/// The curves of one task and metric, which share figures.
struct Family<'a> {
    analysis: &'a Analysis,
    curves: Vec<usize>,
    /// What their file names begin with.
    stem: String,
}

impl Family<'_> {
    fn each(&self) -> impl Iterator<Item = &Curve> {
        self.curves.iter().map(|&at| &self.analysis.curves[at])
    }

    fn first(&self) -> &Curve {
        &self.analysis.curves[self.curves[0]]
    }

    /// A family of one of its curves.
    fn one(&self, place: usize) -> Self {
        let many = self.curves.len() > 1;
        let stem = if many { format!("{}-{}", self.stem, place + 1) } else { self.stem.clone() };
        Family { analysis: self.analysis, curves: vec![self.curves[place]], stem }
    }

    fn names(&self) -> Vec<String> {
        words::short_names(&self.each().map(|curve| &curve.series).collect::<Vec<_>>())
    }

    /// The metric with its unit, as an axis names it.
    fn axis(&self) -> String {
        let (metric, unit) = (&self.first().metric, self.first().unit.axis());
        if unit.is_empty() { metric.clone() } else { format!("{metric}, {unit}") }
    }

    /// Draws, and adds to the caption how its intervals came about.
    fn figure(&self, kind: Kind, title: String, caption: &str, chart: &dyn Chart) -> Figure {
        let word = match kind {
            Kind::Means => "means",
            Kind::Differences => "differences",
            Kind::PerfToEnglish => "perf-to-en",
            Kind::Gap => "gap",
            Kind::Languages => "languages",
        };
        let id = format!("{}-{word}", self.stem);
        let caption = format!("{caption} {}", self.method(kind));
        let svg = chart.draw(&id, &title, &caption);
        Figure { id, title, caption, svg, kind, curves: self.curves.clone() }
    }

    /// Seen, unseen and English along n, one panel a series.
    fn means(&self) -> Figure {
        let sides: [(Style, &str, Of); 4] = [
            (ENGLISH, "English", Point::english),
            (SEEN, "seen languages, mean", |point| point.seen.as_ref()),
            (UNSEEN, "unseen languages, mean", |point| point.unseen.as_ref()),
            (MEAN, "non-English languages, mean", |point| point.non_english.as_ref()),
        ];
        let grouped = |point: &Point| point.seen.is_some() || point.unseen.is_some();
        let known = self.each().flat_map(|curve| &curve.points).any(grouped);
        // The mean over all stands in only where nothing tells seen from unseen.
        let sides = if known { &sides[..3] } else { &sides[..] };
        let panel = |(curve, title): (&Curve, String)| {
            let line =
                |&(style, name, of): &(Style, &str, Of)| line(curve, style, name, curve.unit, of);
            Panel { title, lines: sides.iter().map(line).collect() }
        };
        let panels = self.each().zip(self.names()).map(panel).collect();
        let legend = sides.iter().map(|&(style, name, _)| (style, name.to_string())).collect();
        let chart = Lines::new(self.first().unit, self.axis(), panels).legend(legend);
        let title = format!(
            "{}: {} by n, seen against unseen languages",
            self.first().task,
            self.first().metric
        );
        self.figure(
            Kind::Means,
            title,
            "Mean over the seen and over the unseen languages, and English, along n.",
            &chart,
        )
    }

    fn perf_to_english(&self) -> Option<Figure> {
        let chart = self.by_model(Unit::Percent, "Perf-to-EN, %".into(), |point| {
            point.perf_to_english.as_ref()
        })?;
        let title = format!("{}: Perf-to-EN by n", self.first().task);
        let caption = format!(
            "Mean over the non-English languages of score / English score of the same checkpoint ({}).",
            self.first().metric
        );
        Some(self.figure(Kind::PerfToEnglish, title, &caption, &chart))
    }

    fn gap(&self) -> Option<Figure> {
        let (metric, unit) = (&self.first().metric, self.first().unit);
        let axis = format!("gap, {}", if unit == Unit::Raw { metric } else { "points" });
        let chart = self.by_model(unit, axis, |point| point.gap.as_ref())?.with_zero();
        let title = format!("{}: gap between seen and unseen languages by n", self.first().task);
        let caption = format!(
            "Seen mean less unseen mean ({metric}). Above the zero line the seen languages are ahead."
        );
        Some(self.figure(Kind::Gap, title, &caption, &chart))
    }

    /// One line a series, one panel a model; a series looks the same in every panel.
    fn by_model(&self, unit: Unit, y_title: String, of: Of) -> Option<Lines> {
        let without_model = |curve: &Curve| Series { model: String::new(), ..curve.series.clone() };
        let mut kinds: Vec<Series> = Vec::new();
        for curve in self.each() {
            if !kinds.contains(&without_model(curve)) {
                kinds.push(without_model(curve));
            }
        }
        let style = |curve: &Curve| {
            let place = kinds.iter().position(|kind| *kind == without_model(curve)).unwrap_or(0);
            SERIES[place % SERIES.len()]
        };
        let models: BTreeSet<&str> = self.each().map(|curve| curve.series.model.as_str()).collect();
        let panel = |&model: &&str| {
            let curves = self.each().filter(|curve| curve.series.model == model);
            let lines = curves
                .map(|curve| line(curve, style(curve), &words::series(&curve.series), unit, of));
            Panel {
                title: if models.len() > 1 { model.into() } else { String::new() },
                lines: lines.collect(),
            }
        };
        let drawn = |panel: &Panel| panel.lines.iter().any(|line| !line.marks.is_empty());
        let panels: Vec<Panel> = models.iter().map(panel).filter(drawn).collect();
        let names = words::short_names(&kinds.iter().collect::<Vec<_>>());
        let legend =
            names.into_iter().enumerate().map(|(at, name)| (SERIES[at % SERIES.len()], name));
        let legend = legend.filter(|(_, name)| !name.is_empty()).collect();
        (!panels.is_empty()).then(|| Lines::new(unit, y_title, panels).legend(legend))
    }

    /// What the largest n changed against the baseline, language by language.
    fn differences(&self) -> Option<Figure> {
        let (baseline, unit, metric) =
            (self.analysis.baseline, self.first().unit, &self.first().metric);
        let panel = |(curve, name): (&Curve, String)| {
            let last = curve.last(baseline)?;
            let rows = forest_rows(last);
            let title = match name.as_str() {
                "" => format!("n = {} against n = {baseline}", last.n),
                name => format!("{name}: n = {}", last.n),
            };
            (!rows.is_empty()).then_some(ForestPanel { title, rows })
        };
        let panels: Vec<ForestPanel> = self.each().zip(self.names()).filter_map(panel).collect();
        let mut rows = panels.iter().flat_map(|panel| &panel.rows).peekable();
        rows.peek()?;
        let marks = if rows.all(|row| row.verdict == Verdict::NoInterval) {
            "Hollow throughout: nothing to tell noise by."
        } else {
            "Filled: clear after Holm's adjustment; hollow: within noise."
        };
        let x_title = if unit == Unit::Raw {
            format!("difference in {metric}")
        } else {
            "difference, points".into()
        };
        let title = format!("{}: what the largest n changed", self.first().task);
        let caption = format!(
            "{metric} at the largest n less that at n = {baseline}, language by language. {marks}"
        );
        Some(self.figure(Kind::Differences, title, &caption, &Forest { unit, x_title, panels }))
    }

    /// A small panel for each language of the first curve.
    fn languages(&self) -> Figure {
        let curve = self.first();
        let mut seen = BTreeSet::new();
        let each = curve.points.iter().flat_map(|point| &point.languages);
        let panel = |language: &Language| {
            let name = words::language(&language.lang);
            let at = |point: &Point| {
                let found = point.languages.iter().find(|one| one.lang == language.lang)?;
                Some(mark(point.n, &found.measure, &name, curve.unit))
            };
            let line = Line {
                style: style(language.group),
                marks: curve.points.iter().filter_map(at).collect(),
            };
            Panel { title: name.clone(), lines: vec![line] }
        };
        let panels = each.filter(|one| seen.insert(one.lang.as_str())).map(panel).collect();
        let legend = [(ENGLISH, "English"), (SEEN, "seen"), (UNSEEN, "unseen"), (MEAN, "language")];
        let legend = legend.map(|(style, name)| (style, name.to_string())).to_vec();
        let chart = Lines::new(curve.unit, self.axis(), panels).legend(legend).in_columns(4);
        let suffix = words::series_suffix(&curve.series);
        let title = format!("{}: {} by n and language{suffix}", curve.task, curve.metric);
        let caption = format!("{} along n, language by language, on one scale.", curve.metric);
        self.figure(Kind::Languages, title, &caption, &chart)
    }

    /// How the intervals of these curves came about.
    fn method(&self, kind: Kind) -> String {
        let points: Vec<(usize, usize)> =
            self.each().flat_map(|curve| &curve.points).map(Point::seeds_and_items).collect();
        let range = |pick: fn(&(usize, usize)) -> usize, one: &str| {
            let (low, high) = (
                points.iter().map(pick).min().unwrap_or(0),
                points.iter().map(pick).max().unwrap_or(0),
            );
            let plural = if high == 1 { "" } else { "s" };
            if low == high {
                format!("{high} {one}{plural}")
            } else {
                format!("{low} to {high} {one}s")
            }
        };
        let (seeds, items) = (range(|point| point.0, "seed"), range(|point| point.1, "item"));
        let bars = if kind == Kind::Differences { "Bars" } else { "Bands" };
        let dots = if kind == Kind::Differences || points.iter().all(|point| point.0 < 2) {
            ""
        } else {
            " Small dots: single seeds."
        };
        let draws = artifact::text::count(self.analysis.draws as u64);
        match (points.iter().any(|point| point.0 > 1), points.iter().any(|point| point.1 > 0)) {
            (_, true) => format!(
                "{bars}: 95 % intervals by paired bootstrap over items and seeds ({draws} draws; {items} a language, {seeds}).{dots}"
            ),
            (true, false) => format!(
                "{bars}: 95 % intervals by bootstrap over seeds ({seeds}; aggregates without items).{dots}"
            ),
            (false, false) => {
                "No intervals: one aggregate score each, with neither items nor seeds.".into()
            }
        }
    }
}

/// The languages' differences at a point, and below them the means'.
fn forest_rows(point: &Point) -> Vec<ForestRow> {
    let languages = point.languages.iter();
    let languages = languages
        .map(|one| (words::language(&one.lang), style(one.group), Some(&one.measure), false));
    let means = [
        ("seen, mean".to_string(), SEEN, point.seen.as_ref(), true),
        ("unseen, mean".to_string(), UNSEEN, point.unseen.as_ref(), true),
    ];
    let row = |(label, style, measure, summary): (String, Style, Option<&Measure>, bool)| {
        let change = measure?.change.as_ref()?;
        let (value, interval) = (change.estimate.value, change.estimate.interval);
        Some(ForestRow { label, style, value, interval, verdict: change.test.verdict(), summary })
    };
    languages.chain(means).filter_map(row).collect()
}

fn style(group: Group) -> Style {
    match group {
        Group::English => ENGLISH,
        Group::Seen => SEEN,
        Group::Unseen => UNSEEN,
        Group::Unknown => MEAN,
    }
}

fn line(
    curve: &Curve,
    style: Style,
    name: &str,
    unit: Unit,
    of: fn(&Point) -> Option<&Measure>,
) -> Line {
    let marks = curve
        .points
        .iter()
        .filter_map(|point| Some(mark(point.n, of(point)?, name, unit)))
        .collect();
    Line { style, marks }
}

fn mark(n: i64, measure: &Measure, name: &str, unit: Unit) -> Mark {
    let estimate = &measure.estimate;
    let hover = format!("{name}, n = {n}: {}", unit.cell(estimate, false));
    Mark {
        n,
        value: estimate.value,
        interval: estimate.interval,
        seeds: estimate.by_seed.clone(),
        hover,
    }
}

/// A name as it may stand in a file name.
fn slug(name: &str) -> String {
    let keep = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let slug: String = name.chars().map(keep).collect();
    slug.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}
