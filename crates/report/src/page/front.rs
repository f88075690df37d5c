//! The first screen: the line of facts, the key figures, the answers in plain words, the suggested
//! mixture and the key table.

use serde::Serialize;

use super::Page;
use super::blocks::{HtmlCell, HtmlRow, HtmlTable, badge, number};
use crate::analyse::{Analysis, Curve, Measure, Point};
use crate::drill::{Drill, Names};
use crate::findings::{Finding, Verdict};
use crate::further::Suggestion;
use crate::words::{self, Unit};

/// Answers of a question that stand open; the others are folded away.
const SHOWN: usize = 6;
/// The name under which a suggestion gives the mean over its languages.
const MEAN: &str = "mean";
/// Key figures at most.
const TILES: usize = 4;

/// A key figure.
#[derive(Serialize)]
pub(super) struct Tile {
    task: Option<usize>,
    what: String,
    value: String,
    change: String,
    verdict: String,
    class: &'static str,
}

/// A question with its answers.
#[derive(Serialize)]
pub(super) struct Question {
    id: String,
    question: String,
    shown: Vec<Told>,
    more: Vec<Told>,
}

#[derive(Serialize)]
struct Told {
    verdict: String,
    class: &'static str,
    about: String,
    topic: String,
    text: String,
}

/// The line below the title.
pub(super) fn facts(page: &Page) -> String {
    let input = page.input;
    let plural = |count: usize, one: &str| {
        let s = if count == 1 { "" } else { "s" };
        format!("{} {one}{s}", artifact::text::count(count as u64))
    };
    let parts = [
        plural(input.runs(), "run"),
        plural(input.tasks.list.len(), "task"),
        plural(input.langs.list.len(), "language"),
        plural(input.rows.len(), "score"),
    ];
    parts.join(" · ")
}

/// How many of all the languages' differences came out clear.
pub(super) fn overall(analysis: &Analysis) -> Option<String> {
    let headlines = analysis.curves.iter().filter(|curve| curve.headline);
    let last = headlines.filter_map(|curve| curve.last(analysis.baseline));
    let changes =
        last.flat_map(|point| &point.languages).filter_map(|one| one.measure.change.as_ref());
    let verdicts: Vec<_> =
        changes.map(|change| (change.test.verdict(), change.estimate.value > 0.0)).collect();
    let count = |wanted: &dyn Fn(&(Verdict, bool)) -> bool| {
        verdicts.iter().filter(|one| wanted(one)).count()
    };
    let gains = count(&|one| *one == (Verdict::Clear, true));
    let losses = count(&|one| *one == (Verdict::Clear, false));
    let noise = count(&|one| one.0 == Verdict::WithinNoise);
    if gains + losses + noise == 0 {
        return None;
    }
    Some(format!(
        "Of {} language scores at the largest n, {gains} are clearly above the baseline n = {}, {losses} clearly below, and {noise} within noise.",
        gains + losses + noise,
        analysis.baseline
    ))
}

/// What the largest n came to, of the first series of each task; the fewer tasks, the more of each.
pub(super) fn tiles(analysis: &Analysis, names: &Names) -> Vec<Tile> {
    let mut curves: Vec<&Curve> = Vec::new();
    for curve in analysis.curves.iter().filter(|curve| curve.headline) {
        if curve.last(analysis.baseline).is_some()
            && curves.iter().all(|one| one.task != curve.task)
        {
            curves.push(curve);
        }
    }
    type Of = fn(&Point) -> Option<&Measure>;
    let percent = Some(Unit::Percent);
    let all: [(&str, Of, Option<Unit>); 5] = [
        ("seen languages", |point| point.seen.as_ref(), None),
        ("unseen languages", |point| point.unseen.as_ref(), None),
        ("Perf-to-EN", |point| point.perf_to_english.as_ref(), percent),
        ("English", Point::english, None),
        ("other languages than English", |point| point.non_english.as_ref(), None),
    ];
    let shown = match curves.len() {
        1 => &all[..4],
        2 => &all[..2],
        _ => &all[4..],
    };
    let of_curve = |curve: &&Curve| {
        let last = curve.last(analysis.baseline)?;
        let tile = |&(what, of, unit): &(&str, Of, Option<Unit>)| {
            let measure = of(last)?;
            let what = format!(
                "{}: {what}, n = {}",
                curve.task,
                artifact::text::count(last.n.unsigned_abs())
            );
            let task = names.tasks.iter().position(|task| *task == curve.task);
            tile(measure, unit.unwrap_or(curve.unit), what, task)
        };
        Some(shown.iter().filter_map(tile).collect::<Vec<_>>())
    };
    curves.iter().filter_map(of_curve).flatten().take(TILES).collect()
}

fn tile(measure: &Measure, unit: Unit, what: String, task: Option<usize>) -> Option<Tile> {
    let change = measure.change.as_ref()?;
    let verdict = change.test.verdict().to_string();
    let interval = change.estimate.interval.map(|ends| format!(" ({})", unit.interval(ends)));
    Some(Tile {
        task,
        what,
        value: unit.value(measure.estimate.value).replace('-', "−"),
        change: unit.points(change.estimate.value) + &interval.unwrap_or_default(),
        class: badge(&verdict),
        verdict,
    })
}

/// The questions with their answers.
pub(super) fn questions(page: &Page) -> Vec<Question> {
    let question = |one: &crate::further::Question| {
        // What several answers in a row are about is said once.
        let mut last = "";
        let tell =
            |finding| told(finding, std::mem::replace(&mut last, &finding.about) != finding.about);
        split(one.id.into(), one.question.clone(), one.answers.iter().map(tell).collect())
    };
    page.analysis.answers.questions.iter().map(question).collect()
}

/// The findings of every series.
pub(super) fn series(page: &Page) -> Vec<Question> {
    let findings = &page.summary.findings;
    let groups = findings.chunk_by(|a, b| a.about == b.about).enumerate();
    let group = |(at, group): (usize, &[Finding])| {
        let told = group.iter().map(|finding| told(finding, false)).collect();
        split(format!("series-{at}"), group[0].about.clone(), told)
    };
    groups.map(group).collect()
}

fn split(id: String, question: String, mut told: Vec<Told>) -> Question {
    let more = told.split_off(told.len().min(SHOWN));
    Question { id, question, shown: told, more }
}

fn told(finding: &Finding, about: bool) -> Told {
    let verdict = finding.verdict.to_string();
    Told {
        class: badge(&verdict),
        verdict,
        about: if about { finding.about.clone() } else { String::new() },
        topic: finding.topic.to_string(),
        text: finding.text.clone(),
    }
}

/// The suggested mixtures: what of each language, and what to expect of it.
pub(super) fn suggestions(analysis: &Analysis) -> Vec<HtmlTable> {
    analysis.answers.suggestions.iter().filter_map(suggestion).collect()
}

fn suggestion(suggestion: &Suggestion) -> Option<HtmlTable> {
    let text = |text: String| HtmlCell { text, ..HtmlCell::default() };
    let figure = |text: String, interval: String| HtmlCell {
        text,
        interval,
        class: "number",
        ..HtmlCell::default()
    };
    let row =
        |cells: Vec<HtmlCell>| HtmlRow { task: None, model: None, langs: String::new(), cells };
    let mut langs: Vec<&String> = suggestion.counts.iter().map(|(lang, _)| lang).collect();
    langs.extend(
        suggestion
            .expected
            .iter()
            .map(|one| &one.lang)
            .filter(|lang| suggestion.counts.iter().all(|(known, _)| known != *lang)),
    );
    langs.dedup();
    // The mean over all stands last, and has no examples of its own.
    langs.sort_by_key(|lang| *lang == MEAN);
    let mut rows = Vec::new();
    for lang in langs {
        let count = suggestion.counts.iter().find(|(one, _)| one == lang);
        let count = match count {
            Some((_, count)) => artifact::text::count(count.unsigned_abs()),
            None if lang == MEAN => String::new(),
            None => "0".into(),
        };
        let expected: Vec<_> = suggestion.expected.iter().filter(|one| one.lang == *lang).collect();
        let first = [text(words::language(lang)), figure(count.clone(), String::new())];
        if expected.is_empty() {
            rows.push(row(first
                .into_iter()
                .chain([text(String::new()), figure("–".into(), String::new())])
                .collect()));
            continue;
        }
        for (at, one) in expected.into_iter().enumerate() {
            let names = if at == 0 {
                [text(words::language(lang)), figure(count.clone(), String::new())]
            } else {
                [text(String::new()), figure(String::new(), String::new())]
            };
            let interval = one.interval.map(|(low, high)| {
                format!("[{}, {}]", one.unit.number(low), one.unit.number(high)).replace('-', "−")
            });
            let value = one.unit.number(one.value).replace('-', "−")
                + if one.extrapolated { " *" } else { "" };
            let score = [
                text(format!("{}, {}", one.task, one.metric)),
                figure(value, interval.unwrap_or_default()),
            ];
            rows.push(row(names.into_iter().chain(score).collect()));
        }
    }
    if rows.is_empty() {
        return None;
    }
    let titles = [("Language", ""), ("Examples", "number"), ("Score", ""), ("Expected", "number")];
    let titles =
        titles.map(|(text, class)| HtmlCell { text: text.into(), class, ..HtmlCell::default() });
    let beyond = if suggestion.expected.iter().any(|one| one.extrapolated) {
        " *: beyond what was measured."
    } else {
        ""
    };
    Some(HtmlTable {
        caption: format!(
            "{}{} examples a task beside the English ones.{beyond}",
            if suggestion.about.is_empty() {
                String::new()
            } else {
                format!("{}: ", suggestion.about)
            },
            artifact::text::count(suggestion.budget.unsigned_abs())
        ),
        file: String::new(),
        left_out: 0,
        titles: titles.into(),
        rows,
    })
}

/// The table to look at first.
pub(super) fn key(page: &Page, drill: &Drill) -> HtmlTable {
    let key = &page.tables.key;
    let cell = |(at, text): (usize, &String)| {
        let (value, interval) = match text.find(" [").filter(|_| at >= key.names) {
            Some(cut) => (text[..cut].to_string(), text[cut + 1..].to_string()),
            None => (text.clone(), String::new()),
        };
        HtmlCell { text: value, interval, class: number(at >= key.names), ..HtmlCell::default() }
    };
    let row = |row: &Vec<String>| HtmlRow {
        task: row.first().and_then(|task| drill.names.tasks.iter().position(|one| one == task)),
        model: None,
        langs: String::new(),
        cells: row.iter().enumerate().map(cell).collect(),
    };
    HtmlTable {
        caption: format!(
            "From the baseline n = {} to the largest n, with 95 % intervals in brackets",
            page.config.baseline.n
        ),
        file: "perf_to_en".into(),
        left_out: 0,
        titles: key.header.iter().enumerate().map(cell).collect(),
        rows: key.rows.iter().map(row).collect(),
    }
}

/// The terms of the method that rest on how the analysis was made.
pub(super) fn terms(analysis: &Analysis) -> Vec<(&'static str, String)> {
    let draws = artifact::text::count(analysis.draws as u64);
    vec![
        (
            "Interval",
            format!(
                "95 % interval of {draws} bootstrap draws. Items are drawn as clusters (an item and its translations stay together), the same for all cells of a task, so that differences are paired; \
                 to each draw comes the deviation of the seeds drawn from the mean over all. Of S seeds, S − 1 are drawn, which keeps their variance right; with two or three seeds that part is rough all the same. A share of exactly 0 or 1 has Wilson's interval."
            ),
        ),
        (
            "Clear, within noise",
            "Clear: p of no difference stays below 0.05 after Holm's adjustment over all differences of the same table (one task, metric and series; languages and means apart). \
             An interval alone does not allow for how many there are, so one that just misses 0 may still be within noise."
                .to_string(),
        ),
    ]
}
