//! What n does: per task and metric the means along n, the differences from the baseline,
//! Perf-to-EN, the gap, and every language. Where there are more series than lines can tell apart,
//! they stand as rows, and their languages as a map.

use std::collections::BTreeSet;

use super::{
    ENGLISH, Figure, Gallery, MEAN, MOST_LINES, MOST_PANELS, Numbers, SEEN, SERIES, Theme, UNSEEN,
    style,
};
use crate::analyse::{Analysis, Curve, Language, Measure, Point};
use crate::arrange::Series;
use crate::chart::{
    Chart, Heat, HeatCell, Line, Lines, Mark, Panel, Row, RowMark, RowPanel, Rows, Scale, Style,
};
use crate::findings::Verdict;
use crate::words::{self, Unit};

/// Rows that a figure holds at most; the table has all.
const MOST_ROWS: usize = 60;
/// Panels of differences that are easier to read than a map.
const MOST_FORESTS: usize = 4;

/// What a figure shows, which decides its name and the table that stands below it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Means,
    Differences,
    PerfToEnglish,
    Gap,
    Languages,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Means => "means",
            Kind::Differences => "differences",
            Kind::PerfToEnglish => "perf-to-en",
            Kind::Gap => "gap",
            Kind::Languages => "languages",
        }
    }

    fn table(self) -> &'static str {
        match self {
            Kind::Means | Kind::Gap => "seen_unseen",
            Kind::PerfToEnglish => "perf_to_en",
            Kind::Differences => "baseline_differences",
            Kind::Languages => "language_by_n",
        }
    }
}

/// Draws the figures of every task and metric.
pub(super) fn draw(analysis: &Analysis, gallery: &mut Gallery) {
    for curves in families(analysis) {
        let family = Family { analysis, curves };
        family.means(gallery);
        family.differences(gallery);
        family.perf_to_english(gallery);
        family.gap(gallery);
        if family.curves.len() > MOST_FORESTS {
            family.language_map(gallery);
        }
        if !family.many() {
            (0..family.curves.len()).for_each(|place| family.one(place).languages(gallery));
        }
    }
}

/// A number of a point, where it has one.
type Of = fn(&Point) -> Option<&Measure>;

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

/// The curves of one task and metric, which share figures.
struct Family<'a> {
    analysis: &'a Analysis,
    curves: Vec<usize>,
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
        Family { analysis: self.analysis, curves: vec![self.curves[place]] }
    }

    /// Whether the series are too many for a panel each.
    fn many(&self) -> bool {
        self.curves.len() > MOST_PANELS
    }

    /// Its series without their models: what lines must tell apart.
    fn kinds(&self) -> Vec<Series> {
        let mut kinds: Vec<Series> = Vec::new();
        for curve in self.each() {
            if !kinds.contains(&without_model(&curve.series)) {
                kinds.push(without_model(&curve.series));
            }
        }
        kinds
    }

    fn names(&self) -> Vec<String> {
        words::short_names(&self.each().map(|curve| &curve.series).collect::<Vec<_>>())
    }

    /// The metric with its unit, as an axis names it.
    fn axis(&self) -> String {
        words::axis(&self.first().metric, self.first().unit)
    }

    /// A figure of these curves, to be drawn; the caption says how its intervals came about.
    fn figure(&self, kind: Kind, title: String, caption: &str) -> Figure {
        let first = self.first();
        let models: BTreeSet<&String> = self.each().map(|curve| &curve.series.model).collect();
        Figure {
            id: format!("{} {} {}", first.task, first.metric, kind.word()),
            title,
            caption: format!("{caption} {}", self.method(kind)),
            svg: String::new(),
            theme: Theme::Along,
            task: first.task.clone(),
            metric: first.metric.clone(),
            headline: first.headline,
            models: models.into_iter().cloned().collect(),
            numbers: Numbers::of_curves(kind.table(), &self.curves),
            folded: false,
        }
    }

    /// Seen, unseen and English along n, one panel a series.
    fn means(&self, gallery: &mut Gallery) {
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
        let (task, metric, unit) = (&self.first().task, &self.first().metric, self.first().unit);
        if self.many() {
            let title = format!("{task}: {metric} by mixture, seen against unseen languages");
            let caption = "Mean over the seen and over the unseen languages, and English, at the largest n of each mixture.";
            let chart = self.ranking(unit, self.axis(), sides);
            return gallery.add(self.figure(Kind::Means, title, caption), &chart);
        }
        let panel = |(curve, title): (&Curve, String)| {
            let line = |&(style, name, of): &(Style, &str, Of)| line(curve, style, name, unit, of);
            Panel { title, lines: sides.iter().map(line).collect(), ..Panel::default() }
        };
        let panels = self.each().zip(self.names()).map(panel).collect();
        let legend = sides.iter().map(|&(style, name, _)| (style, name.to_string())).collect();
        let chart = Lines::new(unit, self.axis(), panels).legend(legend);
        let title = format!("{task}: {metric} by n, seen against unseen languages");
        let caption = "Mean over the seen and over the unseen languages, and English, along n.";
        gallery.add(self.figure(Kind::Means, title, caption), &chart);
    }

    fn perf_to_english(&self, gallery: &mut Gallery) {
        let of: Of = |point| point.perf_to_english.as_ref();
        let (task, metric) = (&self.first().task, &self.first().metric);
        let caption = format!(
            "Mean over the non-English languages of score / English score of the same checkpoint ({metric})."
        );
        self.along_or_ranked(
            Kind::PerfToEnglish,
            (Unit::Percent, "Perf-to-EN, %".into()),
            of,
            (format!("{task}: Perf-to-EN"), caption),
            gallery,
        );
    }

    fn gap(&self, gallery: &mut Gallery) {
        let (task, metric, unit) = (&self.first().task, &self.first().metric, self.first().unit);
        let axis = format!("gap, {}", if unit == Unit::Raw { metric } else { "points" });
        let caption =
            format!("Seen mean less unseen mean ({metric}). Above 0 the seen languages are ahead.");
        let title = format!("{task}: gap between seen and unseen languages");
        self.along_or_ranked(
            Kind::Gap,
            (unit, axis),
            |point| point.gap.as_ref(),
            (title, caption),
            gallery,
        );
    }

    /// One measure of every series: along n, or ranked where the series are many.
    fn along_or_ranked(
        &self,
        kind: Kind,
        (unit, axis): (Unit, String),
        of: Of,
        (title, caption): (String, String),
        gallery: &mut Gallery,
    ) {
        if !self.each().flat_map(|curve| &curve.points).any(|point| of(point).is_some()) {
            return;
        }
        let lines;
        let rows;
        let (title, chart): (String, &dyn Chart) = if self.kinds().len() > MOST_LINES {
            rows = self.ranking(unit, axis, &[(MEAN, "at the largest n", of)]);
            (title + " by mixture", &rows)
        } else {
            let plain = self.by_model(unit, axis, of);
            lines = if kind == Kind::Gap { plain.with_zero() } else { plain };
            (title + " by n", &lines)
        };
        gallery.add(self.figure(kind, title, &caption), chart);
    }

    /// A row a series, with its measures at its largest n; the highest by the last measure first.
    fn ranking(&self, unit: Unit, axis: String, sides: &[(Style, &str, Of)]) -> Rows {
        let row = |(curve, name): (&Curve, String)| {
            let point = curve.points.last()?;
            let mark = |&(style, side, of): &(Style, &str, Of)| {
                let estimate = &of(point)?.estimate;
                let hover =
                    format!("{name}, {side}, n = {}: {}", point.n, unit.cell(estimate, false));
                Some(RowMark {
                    style,
                    value: estimate.value,
                    interval: estimate.interval,
                    hollow: false,
                    hover,
                })
            };
            let marks: Vec<RowMark> = sides.iter().filter_map(mark).collect();
            let number = marks.last().map(|mark| unit.number(mark.value).replace('-', "−"))?;
            Some(Row { label: name.clone(), number, marks, summary: false, lang: None })
        };
        let mut rows: Vec<Row> = self.each().zip(self.names()).filter_map(row).collect();
        let last = |row: &Row| row.marks.last().map_or(f64::NEG_INFINITY, |mark| mark.value);
        rows.sort_by(|a, b| last(b).total_cmp(&last(a)));
        let title = match rows.len() {
            all @ MOST_ROWS.. => format!("the first {MOST_ROWS} of {all}"),
            _ => String::new(),
        };
        rows.truncate(MOST_ROWS);
        let names = sides.iter().map(|&(style, name, _)| (style, name.to_string())).collect();
        Rows::values(unit, axis, vec![RowPanel { title, rows }], names)
    }

    /// One line a series, one panel a model; a series looks the same in every panel.
    fn by_model(&self, unit: Unit, y_title: String, of: Of) -> Lines {
        let kinds = self.kinds();
        let style = |curve: &Curve| {
            let place =
                kinds.iter().position(|kind| *kind == without_model(&curve.series)).unwrap_or(0);
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
                ..Panel::default()
            }
        };
        let drawn = |panel: &Panel| panel.lines.iter().any(|line| !line.marks.is_empty());
        let panels: Vec<Panel> = models.iter().map(panel).filter(drawn).collect();
        let names = words::short_names(&kinds.iter().collect::<Vec<_>>());
        let legend =
            names.into_iter().enumerate().map(|(at, name)| (SERIES[at % SERIES.len()], name));
        let legend = legend.filter(|(_, name)| !name.is_empty()).collect();
        Lines::new(unit, y_title, panels).legend(legend)
    }

    /// What the largest n changed against the baseline, language by language.
    fn differences(&self, gallery: &mut Gallery) {
        let (baseline, unit, metric) =
            (self.analysis.baseline, self.first().unit, &self.first().metric);
        let panel = |(curve, name): (&Curve, String)| {
            let last = curve.last(baseline)?;
            let rows = forest_rows(last, unit);
            let title = match name.as_str() {
                "" => format!("n = {} against n = {baseline}", last.n),
                name => format!("{name}: n = {}", last.n),
            };
            (!rows.is_empty()).then_some(RowPanel { title, rows })
        };
        let panels: Vec<RowPanel> = self.each().zip(self.names()).filter_map(panel).collect();
        if panels.is_empty() {
            return;
        }
        let title = format!("{}: what the largest n changed", self.first().task);
        let caption =
            format!("{metric} at the largest n less that at n = {baseline}, language by language.");
        if self.curves.len() > MOST_FORESTS {
            let map = self.map(Scale::Diverging, |curve, lang| {
                let found = curve.last(baseline)?.languages.iter().find(|one| one.lang == lang)?;
                let change = found.measure.change.as_ref()?;
                let verdict = change.test.verdict();
                Some((
                    change.estimate.value,
                    unit.cell(&change.estimate, true) + &format!(" ({verdict})"),
                    unit.signed(change.estimate.value),
                    verdict == Verdict::Clear,
                ))
            });
            let caption = format!(
                "{caption} Bold: clear after Holm's adjustment; outlined: the mixture holds the language."
            );
            return gallery.add(self.figure(Kind::Differences, title, &caption), &map);
        }
        let marks = panels.iter().flat_map(|panel| &panel.rows).flat_map(|row| &row.marks);
        let marks = if marks.clone().all(|mark| mark.hover.ends_with("(no interval)")) {
            "Hollow throughout: nothing to tell noise by."
        } else {
            "Filled: clear after Holm's adjustment; hollow: within noise."
        };
        let x_title = if unit == Unit::Raw {
            format!("difference in {metric}")
        } else {
            "difference, points".into()
        };
        let chart = Rows::differences(unit, x_title, panels);
        gallery.add(self.figure(Kind::Differences, title, &format!("{caption} {marks}")), &chart);
    }

    /// Series down, languages across: `of` gives value, hover text, shown number, and whether it is
    /// clear.
    fn map(
        &self,
        scale: Scale,
        of: impl Fn(&Curve, &str) -> Option<(f64, String, String, bool)>,
    ) -> Heat {
        let mut langs: Vec<&str> = Vec::new();
        for language in
            self.each().flat_map(|curve| &curve.points).flat_map(|point| &point.languages)
        {
            if !langs.contains(&language.lang.as_str()) {
                langs.push(&language.lang);
            }
        }
        let row = |(curve, name): (&Curve, String)| {
            let own = |lang: &str| {
                let all = curve.points.iter().flat_map(|point| &point.languages);
                all.into_iter().any(|one| one.lang == lang && one.group == crate::read::Group::Seen)
            };
            let cell = |&lang: &&str| {
                let (value, hover, text, bold) = of(curve, lang)?;
                let hover = format!("{name}, {}: {hover}", words::language(lang));
                Some(HeatCell { value, text, hover, bold, outlined: own(lang) })
            };
            let cells: Vec<Option<HeatCell>> = langs.iter().map(cell).collect();
            (name.clone(), cells)
        };
        let rows = self.each().zip(self.names()).map(row).take(MOST_ROWS).collect();
        Heat {
            scale,
            row_title: "mixture".into(),
            column_title: String::new(),
            columns: langs.iter().map(|lang| lang.to_string()).collect(),
            column_langs: langs.iter().map(|lang| Some(lang.to_string())).collect(),
            rows,
            row_means: None,
            column_means: None,
        }
    }

    /// Every series and language at the largest n.
    fn language_map(&self, gallery: &mut Gallery) {
        let unit = self.first().unit;
        let map = self.map(Scale::Sequential, |curve, lang| {
            let found = curve.points.last()?.languages.iter().find(|one| one.lang == lang)?;
            let estimate = &found.measure.estimate;
            Some((
                estimate.value,
                unit.cell(estimate, false),
                unit.number(estimate.value).replace('-', "−"),
                false,
            ))
        });
        let title =
            format!("{}: {} by mixture and language", self.first().task, self.first().metric);
        let caption = format!(
            "{} at the largest n of each mixture. Outlined: the mixture holds the language.",
            self.first().metric
        );
        gallery.add(self.figure(Kind::Languages, title, &caption), &map);
    }

    /// A small panel for each language of the first curve.
    fn languages(&self, gallery: &mut Gallery) {
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
            Panel {
                title: name.clone(),
                lines: vec![line],
                lang: Some(language.lang.clone()),
                ..Panel::default()
            }
        };
        let panels = each.filter(|one| seen.insert(one.lang.as_str())).map(panel).collect();
        let legend = [(ENGLISH, "English"), (SEEN, "seen"), (UNSEEN, "unseen"), (MEAN, "language")];
        let legend = legend.map(|(style, name)| (style, name.to_string())).to_vec();
        let chart = Lines::new(curve.unit, self.axis(), panels).legend(legend).in_columns(4);
        let suffix = words::series_suffix(&curve.series);
        let title = format!("{}: {} by n and language{suffix}", curve.task, curve.metric);
        let caption = format!("{} along n, language by language, on one scale.", curve.metric);
        let figure = self.figure(Kind::Languages, title, &caption);
        let alone = families(self.analysis).into_iter().any(|family| family == self.curves);
        gallery.add(Figure { folded: !alone, ..figure }, &chart);
    }

    /// Whether differences have intervals where scores have none: from the noise between runs.
    fn judged(&self) -> bool {
        let languages =
            self.each().flat_map(|curve| &curve.points).flat_map(|point| &point.languages);
        let mut changes = languages.filter_map(|language| language.measure.change.as_ref());
        changes.any(|change| change.estimate.interval.is_some())
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
        let lines = match kind {
            Kind::Means => !self.many(),
            Kind::PerfToEnglish | Kind::Gap => self.kinds().len() <= MOST_LINES,
            Kind::Languages => self.curves.len() == 1,
            Kind::Differences => false,
        };
        let map = kind == Kind::Differences && self.curves.len() > MOST_FORESTS
            || kind == Kind::Languages && self.curves.len() > 1;
        let bars = match (lines, map) {
            (true, _) => "Bands",
            (false, true) => "On hover",
            (false, false) => "Bars",
        };
        let dots = if !lines || points.iter().all(|point| point.0 < 2) {
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
            (false, false) if kind == Kind::Differences && self.judged() => format!(
                "{bars}: 95 % intervals from run-to-run noise, for each score is one aggregate, with neither items nor seeds."
            ),
            (false, false) => {
                "No intervals: one aggregate score each, with neither items nor seeds.".into()
            }
        }
    }
}

fn without_model(series: &Series) -> Series {
    Series { model: String::new(), ..series.clone() }
}

/// The languages' differences at a point, and below them the means'.
fn forest_rows(point: &Point, unit: Unit) -> Vec<Row> {
    let languages = point.languages.iter().map(|one| {
        (words::language(&one.lang), style(one.group), Some(&one.measure), Some(one.lang.clone()))
    });
    let means = [
        ("seen, mean".to_string(), SEEN, point.seen.as_ref(), None),
        ("unseen, mean".to_string(), UNSEEN, point.unseen.as_ref(), None),
    ];
    let row = |(label, style, measure, lang): (String, Style, Option<&Measure>, Option<String>)| {
        let change = measure?.change.as_ref()?;
        let (value, interval) = (change.estimate.value, change.estimate.interval);
        let (number, verdict) = (unit.cell(&change.estimate, true), change.test.verdict());
        let hover = format!("{label}: {number} ({verdict})");
        let mark = RowMark { style, value, interval, hollow: verdict != Verdict::Clear, hover };
        Some(Row { label, number, marks: vec![mark], summary: lang.is_none(), lang })
    };
    languages.chain(means).filter_map(row).collect()
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
