//! Within a task: where more data stop helping, English against the rest, in which language the
//! answers are and how many could be read, what the scores vary with, and what does not fit.

use super::{Figure, Gallery, Numbers, Theme, about, distinct, figure, keys, names, suffix};
use crate::analyse::{Analysis, Measure, Point};
use crate::bootstrap::Estimate;
use crate::chart::{
    Bar, Bars, Fit, Line, Lines, Mark, Panel, Part, Row, RowMark, RowPanel, Rows, Scatter,
    ScatterMark, ScatterPanel, Style,
};
use crate::figures::{ENGLISH, MEAN, MOST_LINES, MOST_PANELS, SEEN, SERIES, UNSEEN};
use crate::further::{
    About, Extraction, Fidelity, Outlier, Pareto, Plateau, Shape, Variance, VariancePart,
};
use crate::words::{self, Unit};

/// Kinds of part that the bars' colours tell apart, and what is left over.
const PARTS: [&str; 7] = ["a0", "a1", "a2", "a3", "a4", "a5", "a6"];
const TOGETHER: &str = "a7";
const REST: &str = "rest";
/// Outliers drawn at most, and bars; the tables have all.
const MOST_ROWS: usize = 40;

/// The curves of a list, in groups of one task and metric.
fn groups(analysis: &Analysis, curves: impl Iterator<Item = usize>) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for at in distinct(curves) {
        let key = |at: usize| (&analysis.curves[at].task, &analysis.curves[at].metric);
        match groups.iter_mut().find(|group| key(group[0]) == key(at)) {
            Some(group) => group.push(at),
            None => groups.push(vec![at]),
        }
    }
    groups
}

/// Seen and unseen means with their fits, one panel a series.
pub(super) fn plateaus(analysis: &Analysis, gallery: &mut Gallery) {
    type Of = fn(&Point) -> Option<&Measure>;
    let sides: [(Style, &str, Of); 3] = [
        (SEEN, "seen", |point| point.seen.as_ref()),
        (UNSEEN, "unseen", |point| point.unseen.as_ref()),
        (MEAN, "non-English", |point| point.non_english.as_ref()),
    ];
    let all = &analysis.further.plateaus;
    for curves in groups(analysis, all.iter().map(|one| one.curve)) {
        let first = &analysis.curves[curves[0]];
        let fitted =
            |at: usize, side: &str| all.iter().find(|one| one.curve == at && one.of == side);
        // Seen and unseen where they are told apart, else the mean of both.
        let apart = curves.iter().any(|&at| fitted(at, "seen").is_some());
        let sides = if apart { &sides[..2] } else { &sides[2..] };
        // More have no panel each: they stand in the table.
        if curves.len() > MOST_PANELS {
            continue;
        }
        let panel = |(&at, title): (&usize, String)| {
            let curve = &analysis.curves[at];
            let line = |&(style, side, of): &(Style, &str, Of)| {
                let mark = |point: &Point| {
                    let estimate = &of(point)?.estimate;
                    let hover =
                        format!("{side}, n = {}: {}", point.n, curve.unit.cell(estimate, false));
                    Some(Mark {
                        n: point.n,
                        value: estimate.value,
                        interval: estimate.interval,
                        seeds: Vec::new(),
                        hover,
                    })
                };
                Line {
                    style: Style { dash: "0 9", ..style },
                    marks: curve.points.iter().filter_map(mark).collect(),
                }
            };
            let fit =
                |&(style, side, _): &(Style, &str, Of)| fitted(at, side).map(|one| fit(one, style));
            Panel {
                title,
                lines: sides.iter().map(line).collect(),
                fits: sides.iter().filter_map(fit).collect(),
                lang: None,
            }
        };
        let panels = curves.iter().zip(names(analysis, &curves)).map(panel).collect();
        let legend = sides
            .iter()
            .map(|&(style, side, _)| (Style { dash: "0 9", ..style }, side.to_string()))
            .collect();
        let chart =
            Lines::new(first.unit, words::axis(&first.metric, first.unit), panels).legend(legend);
        let title = format!("{}: where {} levels off", first.task, first.metric);
        let caption = "Lines: the fitted curve. Upright: the n from which on it is level, with the 95 % interval of that n; none where it still rises, \
                       or where no rise stands out of the noise."
            .to_string();
        gallery.add(
            figure(
                &about(first),
                Theme::Along,
                "plateau",
                title,
                caption,
                Numbers::of_curves("plateau", &curves),
            ),
            &chart,
        );
    }
}

fn fit(plateau: &Plateau, style: Style) -> Fit {
    let n = |n: f64| artifact::text::count(n.round().max(0.0) as u64);
    let interval = match (plateau.low, plateau.high) {
        (Some(low), Some(high)) => format!(" (95 % interval {} to {})", n(low), n(high)),
        (Some(low), None) => format!(" (95 % interval from {})", n(low)),
        _ => String::new(),
    };
    let hover = match (plateau.shape, plateau.at) {
        (Shape::LevelsOff, Some(at)) => {
            format!("{}: level from n = {}{interval}", plateau.of, n(at))
        }
        (Shape::StillRising, _) => format!("{}: still rising", plateau.of),
        (Shape::Flat, _) => format!("{}: no rise", plateau.of),
        (Shape::Falls, _) => format!("{}: falls", plateau.of),
        _ => format!("{}: not determined", plateau.of),
    };
    let level = plateau.shape == Shape::LevelsOff;
    let end = plateau.fit.last().map_or(f64::INFINITY, |last| last.0);
    Fit {
        style,
        line: plateau.fit.clone(),
        at: plateau.at.filter(|_| level),
        span: plateau.low.filter(|_| level).map(|low| (low, plateau.high.unwrap_or(end))),
        hover,
    }
}

/// English against the mean of the others, with the front.
pub(super) fn pareto(analysis: &Analysis, gallery: &mut Gallery) {
    for one in &analysis.further.pareto {
        let curves = distinct(one.points.iter().map(|point| point.curve));
        let names = names(analysis, &curves);
        let few = curves.len() <= MOST_LINES;
        let style = |curve: usize| {
            let place = curves.iter().position(|&at| at == curve).unwrap_or(0);
            if few { SERIES[place] } else { MEAN }
        };
        let chart = scatter(one, &curves, &names, &style, few);
        let title = format!(
            "{}: English against the other languages{}",
            one.about.task,
            suffix(&About { setting: String::new(), ..one.about.clone() })
        );
        let caption = format!(
            "{} in English across, its mean over the other languages up. Filled, on the dashed front: no other mixture is better in one and no worse in the other.",
            one.about.metric
        );
        gallery.add(
            figure(
                &one.about,
                Theme::Trade,
                "pareto",
                title,
                caption,
                Numbers::of_keys("pareto", &keys(&one.about)),
            ),
            &chart,
        );
    }
}

fn scatter(
    one: &Pareto,
    curves: &[usize],
    names: &[String],
    style: &dyn Fn(usize) -> Style,
    few: bool,
) -> Scatter {
    let unit = one.unit;
    let name = |curve: usize| curves.iter().position(|&at| at == curve).map_or("", |at| &names[at]);
    let mark = |point: &crate::further::ParetoPoint| {
        let label = match (few, name(point.curve)) {
            (false, name) if !name.is_empty() => name.to_string(),
            _ => point.n.to_string(),
        };
        let sure =
            point.probability.map(|p| format!("; on the front in {:.0} % of draws", 100.0 * p));
        let series = Some(name(point.curve)).filter(|name| !name.is_empty());
        ScatterMark {
            style: style(point.curve),
            x: point.english.value,
            y: point.non_english.value,
            x_interval: point.english.interval,
            y_interval: point.non_english.interval,
            label,
            on_front: point.on_front,
            hover: format!(
                "{}n = {}: English {}, others {}{}",
                series.map(|name| format!("{name}, ")).unwrap_or_default(),
                point.n,
                unit.cell(&point.english, false),
                unit.cell(&point.non_english, false),
                sure.unwrap_or_default()
            ),
        }
    };
    let marks = one.points.iter().map(mark).collect();
    let titles = [
        words::axis(&format!("{} in English", one.about.metric), unit),
        words::axis("mean over the other languages", unit),
    ];
    let legend = curves.iter().zip(names).filter(|(_, name)| few && !name.is_empty());
    let legend = legend.map(|(&curve, name)| (style(curve), name.clone())).collect();
    Scatter::new(unit, titles, vec![ScatterPanel { title: String::new(), marks }], legend)
}

/// In which language the answers are: every n of a series, then its languages at the largest n.
pub(super) fn fidelity(analysis: &Analysis, gallery: &mut Gallery) {
    let all = &analysis.further.fidelity;
    for curves in groups(analysis, all.iter().map(|one| one.curve)) {
        let first = &analysis.curves[curves[0]];
        let mut bars = Vec::new();
        for (&at, name) in curves.iter().zip(names(analysis, &curves)) {
            let of = || all.iter().filter(move |one| one.curve == at && one.asked.is_some());
            let last = of().map(|one| one.n).max();
            let shown = of().filter(|one| one.lang == "all" || Some(one.n) == last);
            let mut shown: Vec<&Fidelity> = shown.collect();
            shown.sort_by_key(|one| (one.lang != "all", one.n));
            for (place, one) in shown.into_iter().enumerate() {
                let heading = (place == 0 && !name.is_empty()).then(|| name.clone());
                bars.push(bar(one, heading));
            }
        }
        bars.truncate(MOST_ROWS);
        if bars.is_empty() {
            continue;
        }
        let all = [
            ("a0", "the language asked for"),
            ("a1", "English instead"),
            ("a6", "another"),
            (REST, "not as asked, in which language is not told"),
        ];
        let drawn =
            |class: &str| bars.iter().flat_map(|bar| &bar.parts).any(|part| part.class == class);
        let legend = all.into_iter().filter(|(class, _)| drawn(class));
        let legend = legend.map(|(class, name)| (class, name.to_string())).collect();
        let title = format!("{}: the language of the answers", first.task);
        let caption = "Shares of answers, in per cent: all languages but English by n, then each language at the largest n.".to_string();
        let numbers = Numbers::of_curves("language_fidelity", &curves);
        let figure = figure(&about(first), Theme::Fidelity, "fidelity", title, caption, numbers);
        gallery.add(Figure { headline: true, ..figure }, &Bars { bars, legend });
    }
}

fn bar(one: &Fidelity, heading: Option<String>) -> Bar {
    let all = one.lang == "all";
    let label = if all { format!("all, n = {}", one.n) } else { words::language(&one.lang) };
    let parts = [
        ("a0", "asked for", &one.asked),
        ("a1", "English", &one.english),
        ("a6", "other", &one.other),
    ];
    let part = |(class, name, share): (&'static str, &str, &Option<Estimate>)| {
        let share = share.as_ref()?;
        let hover = format!("{label}: {name} {} %", Unit::Percent.cell(share, false));
        Some(Part { class, share: share.value, hover })
    };
    let mut parts: Vec<Part> = parts.into_iter().filter_map(part).collect();
    let rest = 1.0 - parts.iter().map(|part| part.share).sum::<f64>();
    if rest > 0.001 {
        let hover = format!("{label}: not as asked {}", Unit::Percent.value(rest));
        parts.push(Part { class: REST, share: rest, hover });
    }
    Bar { parts, heading, lang: (!all).then(|| one.lang.clone()), label: label.clone() }
}

/// Answers that hold a number beside answers that are right, at the largest n.
pub(super) fn extraction(analysis: &Analysis, gallery: &mut Gallery) {
    let all = &analysis.further.extraction;
    for curves in groups(analysis, all.iter().map(|one| one.curve)) {
        let first = &analysis.curves[curves[0]];
        let panel = |(&at, name): (&usize, String)| {
            let of = || all.iter().filter(move |one| one.curve == at);
            let last = of().map(|one| one.n).max()?;
            let rows = of().filter(|one| one.n == last).map(extracted).collect();
            let title =
                if name.is_empty() { format!("n = {last}") } else { format!("{name}: n = {last}") };
            Some(RowPanel { title, rows })
        };
        let panels: Vec<RowPanel> = curves
            .iter()
            .zip(names(analysis, &curves))
            .filter_map(panel)
            .take(MOST_LINES)
            .collect();
        let names = vec![(ENGLISH, "holds an answer".to_string()), (SEEN, "is right".to_string())];
        let chart = Rows::values(Unit::Percent, "share of answers, %".into(), panels, names);
        let title = format!("{}: answers found and answers right", first.task);
        let caption = "How many generations hold an answer that could be read, beside how many are right. Behind each, the share right of those read.".to_string();
        let numbers = Numbers::of_curves("extraction", &curves);
        let figure = figure(&about(first), Theme::Fidelity, "extraction", title, caption, numbers);
        gallery.add(Figure { headline: true, ..figure }, &chart);
    }
}

fn extracted(one: &Extraction) -> Row {
    let label = words::language(&one.lang);
    let mark = |style: Style, name: &str, estimate: &Estimate, hollow: bool| RowMark {
        style,
        value: estimate.value,
        interval: estimate.interval,
        hollow,
        hover: format!("{label}, {name}: {} %", Unit::Percent.cell(estimate, false)),
    };
    Row {
        marks: vec![
            mark(ENGLISH, "holds an answer", &one.extracted, true),
            mark(SEEN, "is right", &one.accuracy, false),
        ],
        number: one
            .of_extracted
            .as_ref()
            .filter(|share| share.value <= 1.0)
            .map_or("–".into(), |share| Unit::Percent.number(share.value)),
        summary: false,
        lang: Some(one.lang.clone()),
        label: label.clone(),
    }
}

/// One bar a decomposition: the factors, their interactions by two, and what is left, which stands
/// last.
pub(super) fn variance(analysis: &Analysis, gallery: &mut Gallery) {
    let all = &analysis.further.variance;
    if all.is_empty() {
        return;
    }
    let alone = |factors: &&String| !factors.contains('×');
    let named = all.iter().filter_map(|one| Some(&one.parts[..one.parts.len().checked_sub(1)?]));
    let factors = distinct(named.flatten().map(|part| &part.factors).filter(alone));
    let class = |name: &String| match factors.iter().position(|one| *one == name) {
        Some(place) => PARTS[place % PARTS.len()],
        None => TOGETHER,
    };
    let bar = |one: &Variance| {
        let last = one.parts.len().saturating_sub(1);
        let part = |(at, part): (usize, &VariancePart)| {
            let ends = part.interval.map(|ends| format!(" ({})", Unit::Percent.interval(ends)));
            let share = Unit::Percent.value(part.share).replace('-', "−");
            let hover =
                format!("{}: {} {share}{}", one.about, part.factors, ends.unwrap_or_default());
            let class = if at == last { REST } else { class(&part.factors) };
            let share = if at == last { one.residual } else { part.share };
            Part { class, share, hover }
        };
        let mut parts: Vec<Part> = one.parts.iter().enumerate().map(part).collect();
        // By kind: a factor, interactions, the rest.
        parts.sort_by_key(|part| (part.class == REST, part.class == TOGETHER));
        // One task may be decomposed by more than one set of factors.
        let label = match all.iter().filter(|other| other.about == one.about).count() {
            1 => one.about.clone(),
            _ => {
                format!("{}, by {}", one.about, one.parts.first().map_or("", |part| &part.factors))
            }
        };
        Bar { label, heading: None, parts, lang: None }
    };
    let bars: Vec<Bar> = all.iter().take(MOST_ROWS).map(bar).collect();
    let mut legend: Vec<(&'static str, String)> =
        factors.iter().map(|name| (class(name), name.to_string())).collect();
    if bars.iter().flat_map(|bar| &bar.parts).any(|part| part.class == TOGETHER) {
        legend.push((TOGETHER, "two factors together".into()));
    }
    legend.push((REST, "what is left: further interactions, run to run".into()));
    let title = "What the scores vary with".to_string();
    let caption = "Shares of the variance of the scores, in per cent: each factor by itself, then two factors together beyond what each does alone.".to_string();
    let about = About::default();
    let figure = figure(
        &about,
        Theme::Trust,
        "variance",
        title,
        caption,
        Numbers::of_keys("variance_shares", &[]),
    );
    gallery.add(Figure { headline: true, ..figure }, &Bars { bars, legend });
}

/// What was scored beside what its neighbours lead to expect, the farthest first.
pub(super) fn outliers(analysis: &Analysis, gallery: &mut Gallery) {
    let all = &analysis.further.outliers;
    for curves in groups(analysis, all.iter().map(|one| one.curve)) {
        let first = &analysis.curves[curves[0]];
        let mut shown: Vec<&Outlier> =
            all.iter().filter(|one| curves.contains(&one.curve)).collect();
        shown.sort_by(|a, b| b.z.abs().total_cmp(&a.z.abs()));
        shown.truncate(MOST_ROWS);
        let names = names(analysis, &curves);
        let row = |one: &&Outlier| {
            let place = curves.iter().position(|&at| at == one.curve).unwrap_or(0);
            outlier(one, &names[place], first.unit)
        };
        let rows = shown.iter().map(row).collect();
        let names = vec![(MEAN, "expected".to_string()), (UNSEEN, "scored".to_string())];
        let chart = Rows::values(
            first.unit,
            words::axis(&first.metric, first.unit),
            vec![RowPanel { title: String::new(), rows }],
            names,
        );
        let title = format!("{}: scores that do not fit their neighbours", first.task);
        let caption = format!(
            "{} as scored, beside what the language's other n and the other languages at this n lead to expect. Behind each, how many robust standard deviations it is off.",
            first.metric
        );
        gallery.add(
            figure(
                &about(first),
                Theme::Trust,
                "outliers",
                title,
                caption,
                Numbers::of_curves("outliers", &curves),
            ),
            &chart,
        );
    }
}

fn outlier(one: &Outlier, series: &str, unit: Unit) -> Row {
    let series = if series.is_empty() { String::new() } else { format!("{series}, ") };
    let run = one.run.as_ref().map(|run| format!(", {run}")).unwrap_or_default();
    let label = format!("{series}{}, n = {}", words::language(&one.lang), one.n);
    let mark = |style: Style, name: &str, value: f64, hollow: bool| RowMark {
        style,
        value,
        interval: None,
        hollow,
        hover: format!("{label}{run}, {name}: {}", unit.number(value).replace('-', "−")),
    };
    Row {
        marks: vec![
            mark(MEAN, "expected", one.expected, true),
            mark(UNSEEN, "scored", one.value, false),
        ],
        number: format!("{:+.1} SD", one.z).replace('-', "−"),
        summary: false,
        lang: Some(one.lang.clone()),
        label: label.clone(),
    }
}
