//! `index.html`: one file with its figures, tables, style and script inside; no network. Style and
//! script run by their hashes alone (Content-Security-Policy), so that no text of the data can.
//! Answers first, then figures and tables theme by theme, samples, method.

mod blocks;
mod front;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use minijinja::Environment;
use minijinja::value::Serde;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::analyse::Analysis;
use crate::drill::{self, Drill};
use crate::figures::{CHART_CSS, Figure};
use crate::read::{InputFile, Scores};
use crate::samples::Cell;
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
    suggestion: Option<HtmlTable>,
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

/// Samples of each task and language that stand on the page without a script.
const STATIC_SAMPLES: usize = 2;

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
        suggestion: front::suggestion(page.analysis),
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

/// By task and language, of the first series' largest n: the first answers that have texts.
fn samples<'a>(page: &'a Page, drill: &Drill) -> Vec<ShownSample<'a>> {
    let mut shown: BTreeMap<(usize, &str), usize> = BTreeMap::new();
    let mut samples = Vec::new();
    for cell in page.cells {
        let curve = &page.analysis.curves[cell.curve];
        if curve.points.last().is_none_or(|last| last.n != cell.n) {
            continue;
        }
        let task = drill.names.tasks.iter().position(|task| *task == curve.task);
        let lang = drill.names.tags.iter().position(|tag| *tag == cell.lang);
        let count = shown.entry((task.unwrap_or(usize::MAX), &cell.lang)).or_insert(0);
        for example in &cell.examples {
            let Some(texts) = example.texts.as_ref().filter(|_| *count < STATIC_SAMPLES) else {
                continue;
            };
            *count += 1;
            samples.push(ShownSample {
                task: &curve.task,
                task_number: task,
                language: words::language(&cell.lang),
                lang: &cell.lang,
                dir: words::direction(&cell.lang),
                lang_number: lang,
                metric: &curve.metric,
                score: curve.unit.value(example.value).replace('-', "−"),
                n: cell.n,
                item: &example.item,
                run: &example.run,
                prompt: &texts.prompt,
                generation: &texts.generation,
                reference: &texts.reference,
                scores: example
                    .scores
                    .iter()
                    .map(|(name, value)| (name.as_str(), drill::plain(*value)))
                    .collect(),
            });
        }
    }
    samples
}
