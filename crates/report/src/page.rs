//! `index.html`: one file with its figures, tables, style and script inside; no network. Style and
//! script run by their hashes alone (Content-Security-Policy), so that no text of the data can.
//! Answers first, then figures and tables theme by theme, samples, method.

mod blocks;
mod front;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use minijinja::Environment;
use minijinja::value::Serde;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::analyse::{Analysis, Curve};
use crate::drill::{self, Drill};
use crate::figures::{CHART_CSS, Figure};
use crate::read::{InputFile, Scores};
use crate::samples::{Cell, Example, Texts};
use crate::tables::Tables;
use crate::words;
use crate::{ReportConfig, Samples, Summary};

use blocks::{HtmlTable, Section};
use front::{Question, Tile};

/// Everything that the page shows.
pub(crate) struct Page<'a> {
    pub config: &'a ReportConfig,
    pub input: &'a Scores,
    pub analysis: &'a Analysis,
    pub tables: &'a Tables,
    pub figures: &'a [Figure],
    pub cells: &'a [Cell],
    pub summary: &'a Summary,
}

/// What the template is given.
#[derive(Serialize)]
struct View<'a> {
    title: &'a str,
    style: &'a str,
    style_hash: String,
    script: &'static str,
    script_hash: String,
    data: &'a str,
    facts: String,
    overall: Option<String>,
    tiles: Vec<Tile>,
    questions: Vec<Question>,
    series: Vec<Question>,
    suggestions: Vec<HtmlTable>,
    key: HtmlTable,
    sections: Vec<Section<'a>>,
    samples: Vec<ShownSample<'a>>,
    notes: &'a [String],
    terms: Vec<(&'static str, String)>,
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

/// An answer that stands on the page without a script.
#[derive(Serialize)]
struct ShownSample<'a> {
    task: &'a str,
    task_number: Option<usize>,
    language: String,
    lang: &'a str,
    dir: &'static str,
    lang_number: Option<usize>,
    metric: &'a str,
    score: String,
    n: i64,
    item: &'a str,
    run: &'a str,
    prompt: &'a str,
    generation: &'a str,
    reference: &'a str,
    scores: Vec<(&'a str, String)>,
}

/// Writes the page.
pub(crate) fn write(page: &Page, out: &Path) -> Result<()> {
    let budget =
        page.config.samples.as_ref().map_or(Samples::MEGABYTES, |samples| samples.megabytes);
    let drill = Drill::new(page.analysis, page.input, page.cells, (budget * 1e6) as usize)?;
    let style = include_str!("../assets/page.css").to_string() + CHART_CSS;
    let mut environment = Environment::new();
    environment
        .add_template("index.html", include_str!("../assets/page.html"))
        .context("the page's template")?;
    let html = environment.get_template("index.html")?.render(Serde(view(page, &drill, &style)));
    let path = out.join("index.html");
    std::fs::write(&path, html.context("the page")?)
        .with_context(|| format!("writing {}", path.display()))
}

/// A source expression of the content security policy.
fn hash(text: &str) -> String {
    format!("sha256-{}", BASE64_STANDARD.encode(Sha256::digest(text)))
}

fn view<'a>(page: &'a Page, drill: &'a Drill, style: &'a str) -> View<'a> {
    let (config, input) = (page.config, page.input);
    let script = include_str!("../assets/page.js");
    let file = |file: &'a InputFile| File {
        name: &file.name,
        rows: artifact::text::count(file.rows as u64),
        hash: file.hash.as_deref(),
    };
    View {
        title: &config.title,
        style,
        style_hash: hash(style),
        script,
        script_hash: hash(script),
        data: &drill.json,
        facts: front::facts(page),
        overall: front::overall(page.analysis),
        tiles: front::tiles(page.analysis, &drill.names),
        questions: front::questions(page),
        series: front::series(page),
        suggestions: front::suggestions(page.analysis),
        key: front::key(page, drill),
        sections: blocks::sections(page, drill),
        samples: samples(page, drill),
        notes: &page.summary.notes,
        terms: front::terms(page.analysis),
        files: input.files.iter().map(file).collect(),
        signatures: &input.signatures,
        version: env!("CARGO_PKG_VERSION"),
        draws: artifact::text::count(page.analysis.draws as u64),
        seed: config.seed,
        baseline: config.baseline.n,
        map: &config.map,
    }
}

/// By task and language, of the first series' largest n: a low and a high scored answer.
fn samples<'a>(page: &'a Page, drill: &Drill) -> Vec<ShownSample<'a>> {
    let mut shown: BTreeSet<(usize, &str)> = BTreeSet::new();
    let mut samples = Vec::new();
    for cell in page.cells {
        let curve = &page.analysis.curves[cell.curve];
        let last = curve.points.last().is_some_and(|last| last.n == cell.n);
        let with_texts = cell.examples.iter().filter(|one| one.texts.is_some());
        let value = |a: &&Example, b: &&Example| a.value.total_cmp(&b.value);
        let Some(low) = with_texts.clone().min_by(value).filter(|_| last) else { continue };
        let task = drill.names.tasks.iter().position(|task| *task == curve.task);
        if !shown.insert((task.unwrap_or(usize::MAX), &cell.lang)) {
            continue;
        }
        let high = with_texts.max_by(value).filter(|high| high.value > low.value);
        samples.extend(
            [Some(low), high].into_iter().flatten().map(|one| sample(cell, one, curve, drill)),
        );
    }
    samples
}

fn sample<'a>(
    cell: &'a Cell,
    example: &'a Example,
    curve: &'a Curve,
    drill: &Drill,
) -> ShownSample<'a> {
    let text =
        |of: fn(&'a Texts) -> &'a String| example.texts.as_ref().map_or("", |all| of(all).as_str());
    let scores = example.scores.iter();
    ShownSample {
        task: &curve.task,
        task_number: drill.names.tasks.iter().position(|task| *task == curve.task),
        language: words::language(&cell.lang),
        lang: &cell.lang,
        dir: words::direction(&cell.lang),
        lang_number: drill.names.tags.iter().position(|tag| *tag == cell.lang),
        metric: &curve.metric,
        score: curve.unit.value(example.value).replace('-', "−"),
        n: cell.n,
        item: &example.item,
        run: &example.run,
        prompt: text(|all| &all.prompt),
        generation: text(|all| &all.generation),
        reference: text(|all| &all.reference),
        scores: scores.map(|(name, value)| (name.as_str(), drill::plain(*value))).collect(),
    }
}
