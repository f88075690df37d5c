//! `index.html`: one file with its figures, tables and style inside; no network, no script.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use minijinja::Environment;
use minijinja::value::Serde;
use serde::Serialize;

use crate::analyse::Analysis;
use crate::figures::{Figure, Kind};
use crate::read::{InputFile, Scores};
use crate::samples::Sample;
use crate::table::{Column, Table};
use crate::tables::Tables;
use crate::words;
use crate::{Finding, ReportConfig, Summary};

/// Everything that the page shows.
pub(crate) struct Page<'a> {
    pub config: &'a ReportConfig,
    pub input: &'a Scores,
    pub analysis: &'a Analysis,
    pub tables: &'a Tables,
    pub figures: &'a [Figure],
    pub samples: &'a [Sample],
    pub summary: &'a Summary,
}

/// What the template is given.
#[derive(Serialize)]
struct View<'a> {
    title: &'a str,
    style: &'static str,
    facts: String,
    overall: Option<String>,
    abouts: Vec<About>,
    key: HtmlTable,
    sections: Vec<Section>,
    samples: Vec<ShownSample<'a>>,
    notes: &'a [String],
    files: Vec<File<'a>>,
    signatures: &'a BTreeMap<String, Vec<String>>,
    version: &'static str,
    draws: String,
    seed: u64,
    baseline: i64,
    map: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct File<'a> {
    name: &'a str,
    rows: String,
    hash: Option<&'a str>,
}

/// The findings of one task and series.
#[derive(Serialize)]
struct About {
    name: String,
    findings: Vec<Told>,
}

#[derive(Serialize)]
struct Told {
    verdict: String,
    class: &'static str,
    topic: &'static str,
    text: String,
}

/// One metric of one task.
#[derive(Serialize)]
struct Section {
    anchor: String,
    task: String,
    metric: String,
    headline: bool,
    figures: Vec<Shown>,
}

/// A figure with the table of its numbers.
#[derive(Serialize)]
struct Shown {
    title: String,
    svg: String,
    caption: String,
    file: String,
    /// Stands folded away: one of many.
    folded: bool,
    table: HtmlTable,
}

#[derive(Serialize)]
struct HtmlTable {
    caption: String,
    file: String,
    titles: Vec<HtmlCell>,
    rows: Vec<Vec<HtmlCell>>,
}

#[derive(Serialize)]
struct HtmlCell {
    text: String,
    class: &'static str,
}

#[derive(Serialize)]
struct ShownSample<'a> {
    task: &'a str,
    language: String,
    lang: &'a str,
    dir: &'static str,
    metric: &'a str,
    score: String,
    n: i64,
    item: &'a str,
    run: &'a str,
    prompt: &'a str,
    generation: &'a str,
    reference: &'a str,
}

/// Writes the page.
pub(crate) fn write(page: &Page, out: &Path) -> Result<()> {
    let mut environment = Environment::new();
    environment
        .add_template("index.html", include_str!("../assets/page.html"))
        .context("the page's template")?;
    let html = environment.get_template("index.html")?.render(Serde(view(page)));
    let path = out.join("index.html");
    std::fs::write(&path, html.context("the page")?)
        .with_context(|| format!("writing {}", path.display()))
}

fn view<'a>(page: &'a Page) -> View<'a> {
    let (config, input) = (page.config, page.input);
    let file = |file: &'a InputFile| File {
        name: &file.name,
        rows: artifact::text::count(file.rows as u64),
        hash: file.hash.as_deref(),
    };
    View {
        title: &config.title,
        style: concat!(include_str!("../assets/page.css"), include_str!("../assets/chart.css")),
        facts: facts(page),
        overall: overall(page.analysis),
        abouts: abouts(&page.summary.findings),
        key: key(page),
        sections: sections(page),
        samples: page.samples.iter().map(sample).collect(),
        notes: &page.summary.notes,
        files: input.files.iter().map(file).collect(),
        signatures: &input.signatures,
        version: env!("CARGO_PKG_VERSION"),
        draws: artifact::text::count(page.analysis.draws as u64),
        seed: config.seed,
        baseline: config.baseline.n,
        map: &config.map,
    }
}

/// The line below the title.
fn facts(page: &Page) -> String {
    let input = page.input;
    let plural = |count: usize, one: &str| {
        format!(
            "{} {one}{}",
            artifact::text::count(count as u64),
            if count == 1 { "" } else { "s" }
        )
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
fn overall(analysis: &Analysis) -> Option<String> {
    let headlines = analysis.curves.iter().filter(|curve| curve.headline);
    let last = headlines.filter_map(|curve| curve.last(analysis.baseline));
    let changes =
        last.flat_map(|point| &point.languages).filter_map(|one| one.measure.change.as_ref());
    let verdicts: Vec<_> =
        changes.map(|change| (change.test.verdict(), change.estimate.value > 0.0)).collect();
    let count = |wanted: &[(crate::Verdict, bool)]| {
        verdicts.iter().filter(|one| wanted.contains(one)).count()
    };
    let gains = count(&[(crate::Verdict::Clear, true)]);
    let losses = count(&[(crate::Verdict::Clear, false)]);
    let noise = count(&[(crate::Verdict::WithinNoise, true), (crate::Verdict::WithinNoise, false)]);
    if verdicts.is_empty() || gains + losses + noise == 0 {
        return None;
    }
    Some(format!(
        "Of {} language scores at the largest n, {gains} are clearly above the baseline n = {}, {losses} clearly below, and {noise} within noise.",
        gains + losses + noise,
        analysis.baseline
    ))
}

fn abouts(findings: &[Finding]) -> Vec<About> {
    let told = |one: &Finding| {
        let verdict = one.verdict.to_string();
        Told { class: class(&verdict), verdict, topic: one.topic, text: one.text.clone() }
    };
    let about = |group: &[Finding]| About {
        name: group[0].about.clone(),
        findings: group.iter().map(told).collect(),
    };
    findings.chunk_by(|a, b| a.about == b.about).map(about).collect()
}

/// The class of a cell that holds a verdict or a group.
fn class(text: &str) -> &'static str {
    match text {
        "clear" => "badge clear",
        "within noise" => "badge noise",
        "no interval" => "badge none",
        _ => "",
    }
}

fn key(page: &Page) -> HtmlTable {
    let key = &page.tables.key;
    let cell = |(at, text): (usize, &String)| HtmlCell {
        text: text.clone(),
        class: number(at >= key.names),
    };
    HtmlTable {
        caption: format!(
            "From the baseline n = {} to the largest n, with 95 % intervals in brackets",
            page.config.baseline.n
        ),
        file: "tables/perf_to_en.csv".into(),
        titles: key.header.iter().enumerate().map(cell).collect(),
        rows: key.rows.iter().map(|row| row.iter().enumerate().map(cell).collect()).collect(),
    }
}

/// One section per task and metric, in the figures' order.
fn sections(page: &Page) -> Vec<Section> {
    let curves = &page.analysis.curves;
    let mut sections: Vec<Section> = Vec::new();
    for figure in page.figures {
        let curve = &curves[figure.curves[0]];
        if sections
            .last()
            .is_none_or(|last| (&last.task, &last.metric) != (&curve.task, &curve.metric))
        {
            let (task, metric) = (curve.task.clone(), curve.metric.clone());
            sections.push(Section {
                anchor: figure.id.clone() + "-section",
                task,
                metric,
                headline: curve.headline,
                figures: Vec::new(),
            });
        }
        let many = figure.kind == Kind::Languages
            && curves
                .iter()
                .filter(|one| (&one.task, &one.metric) == (&curve.task, &curve.metric))
                .count()
                > 1;
        if let Some(section) = sections.last_mut() {
            section.figures.push(Shown {
                svg: figure.svg.clone(),
                caption: figure.caption.clone(),
                file: format!("figures/{}.svg", figure.id),
                folded: many,
                title: figure.title.clone(),
                table: table(page.tables, figure),
            });
        }
    }
    sections
}

/// The numbers of a figure.
fn table(tables: &Tables, figure: &Figure) -> HtmlTable {
    let table = match figure.kind {
        Kind::Means | Kind::Gap => &tables.seen_unseen,
        Kind::PerfToEnglish => &tables.perf_to_en,
        Kind::Differences => &tables.differences,
        Kind::Languages => &tables.languages,
    };
    html_table(&table.part(|curve| figure.curves.contains(&curve)))
}

fn html_table(table: &Table) -> HtmlTable {
    let numeric = table.numeric();
    let cell = |(text, &numeric): (String, &bool)| {
        let class = class(&text);
        HtmlCell { class: if numeric { "number" } else { class }, text }
    };
    let title = |(column, &numeric): (&Column, &bool)| HtmlCell {
        text: column.title.clone(),
        class: number(numeric),
    };
    HtmlTable {
        caption: table.caption.clone(),
        file: format!("tables/{}.csv", table.name),
        titles: table.columns.iter().zip(&numeric).map(title).collect(),
        rows: table
            .rows
            .iter()
            .map(|row| row.cells.iter().map(|cell| cell.shown()).zip(&numeric).map(cell).collect())
            .collect(),
    }
}

fn number(is: bool) -> &'static str {
    if is { "number" } else { "" }
}

fn sample(sample: &Sample) -> ShownSample<'_> {
    ShownSample {
        task: &sample.task,
        language: words::language(&sample.lang),
        lang: &sample.lang,
        dir: if words::right_to_left(&sample.lang) { "rtl" } else { "ltr" },
        metric: &sample.metric,
        score: format!("{:.2}", sample.value),
        n: sample.n,
        item: &sample.item,
        run: &sample.run,
        prompt: &sample.prompt,
        generation: &sample.generation,
        reference: &sample.reference,
    }
}

/// The headline metric of each task.
pub(crate) fn headlines(analysis: &Analysis) -> BTreeMap<String, String> {
    let headlines = analysis.curves.iter().filter(|curve| curve.headline);
    headlines.map(|curve| (curve.task.clone(), curve.metric.clone())).collect()
}
