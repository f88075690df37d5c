//! `synth`: multilingual data made by the project itself, parallel by construction and of any size from a seed.
//!
//! In: a [`Config`]. Out: `<task>.<language>.<split>.jsonl` with word problems (`math`), short news (`summarization`), small
//! requests (`instruction`) and plain text for language modelling (`text`). What the items are stands in
//! `templates/world.toml`, how a language says them in `templates/<language>.toml`; the code knows no word of either.
//!
//! **One item, one identity.** A schema's items are numbered; the number decides every word and figure, and the `item_id`
//! holds it. The same `item_id` is the same content in every language, for every seed and every size ([`draw`]).
//!
//! **Splits are part of the world.** Each schema's items are cut once, whatever the seed, into test, validation, train and
//! text items. So a model pretrained on one run's text can be tested on any other run's test split.
//!
//! **What the text for language modelling holds.** Sentences about the same people, things and places, some with a question
//! whose answer stands in the text; arithmetic as bare equations and in words; and, side by side in two languages, the same
//! sentence, the same word or the same *question* of a word problem ([`text`]). It never holds a word problem with its
//! solution, in any language, nor a news story with its summary, nor a request as the instruction task puts it: what a
//! language can do after tuning is what tuning brought, or carried over.

mod draw;
mod language;
mod template;
mod text;
mod world;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    fs::File,
    io::{BufWriter, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result};
use artifact::{
    bail_user, config::nearest, context::Context, error::user, example::Message, text::TextTable,
};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    draw::{Item, Split},
    language::{Catalog, Language},
    world::World,
};

/// What to make. Counts are items per task; each item comes in every language.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// BCP 47 tags, of en, es, fr, ja, zh-Hans, ar, ko, pt.
    pub languages: Vec<String>,
    /// Of math, summarization, instruction; may be empty where `text` is not 0.
    pub tasks: Vec<String>,
    /// Training items per task.
    pub train: usize,
    /// Validation items per task.
    pub validation: usize,
    /// Test items per task.
    pub test: usize,
    /// Lines of text per language, for language modelling.
    pub text: usize,
    /// Chooses the items within each split; no seed moves an item from one split to another.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            languages: world::LANGUAGES.map(String::from).to_vec(),
            tasks: world::TASKS.map(String::from).to_vec(),
            train: 2000,
            validation: 100,
            test: 100,
            text: 0,
            seed: 1,
        }
    }
}

/// Rows written, by file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// In the order of the configuration.
    pub files: Vec<FileSummary>,
}

/// One file that was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileSummary {
    /// File name, `<task>.<language>.<split>.jsonl`.
    pub file: String,
    /// math, summarization, instruction or text.
    pub task: String,
    /// BCP 47 tag.
    pub lang: String,
    /// train, validation or test.
    pub split: String,
    /// Rows in the file.
    pub rows: usize,
}

impl fmt::Display for Summary {
    /// A row for each language, a column for each task and split.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns =
            distinct(self.files.iter().map(|file| format!("{} {}", file.task, file.split)));
        let mut header = vec!["language"];
        header.extend(columns.iter().map(String::as_str));
        let mut table = TextTable::new(&header);
        table.right(&(1..header.len()).collect::<Vec<_>>());
        for lang in distinct(self.files.iter().map(|file| file.lang.clone())) {
            let rows = |column: &String| {
                let here = self.files.iter().filter(|file| {
                    file.lang == lang && format!("{} {}", file.task, file.split) == *column
                });
                artifact::text::count(here.map(|file| file.rows as u64).sum())
            };
            table.row(std::iter::once(lang.clone()).chain(columns.iter().map(rows)).collect());
        }
        write!(f, "{}", table.to_string().trim_end())
    }
}

/// The distinct values, in the order in which they first come.
fn distinct(values: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = Vec::new();
    for value in values {
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    seen
}

/// A line of an output file.
#[derive(Serialize)]
struct Row<'a> {
    id: String,
    item_id: String,
    lang: &'a str,
    task: &'a str,
    split: &'static str,
    messages: Vec<Message>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
}

/// One file to write.
struct Job<'a> {
    task: &'a str,
    language: &'a Language,
    split: Split,
    /// Which of the configured seeds' items; none for text.
    items: &'a [Item<'a>],
}

/// Writes `<task>.<language>.<split>.jsonl` into the folder `out`. The bytes depend on `config` alone.
///
/// # Errors
/// A [`artifact::error::UserError`] for a language or task that is not there, and for more items than there are.
pub fn run(config: &Config, out: &Path, ctx: &Context) -> Result<Summary> {
    let world = World::load()?;
    let catalog = Catalog::load(&world)?;
    check(config, &catalog)?;
    let mut draws = Vec::new();
    for task in &config.tasks {
        for (split, count) in [
            (Split::Train, config.train),
            (Split::Validation, config.validation),
            (Split::Test, config.test),
        ] {
            if count > 0 {
                draws.push((
                    task.as_str(),
                    split,
                    draw::items(&world, task, split, count, config.seed)?,
                ));
            }
        }
    }
    let mut jobs = Vec::new();
    for tag in &config.languages {
        let language = catalog.get(tag).context("the configuration has been checked")?;
        jobs.extend(draws.iter().map(|(task, split, items)| Job {
            task,
            language,
            split: *split,
            items,
        }));
        if config.text > 0 {
            jobs.push(Job { task: "text", language, split: Split::Text, items: &[] });
        }
    }
    let bar = ctx.bar("synth", "files", Some(jobs.len() as u64));
    let files = jobs
        .par_iter()
        .map(|job| {
            ctx.check()?;
            let rows = match job.split {
                Split::Text => text::rows(&world, &catalog, job.language, config)?,
                _ => {
                    job.items.iter().map(|item| row(item, job, &catalog)).collect::<Result<_>>()?
                }
            };
            let summary = write(out, job, &rows)?;
            bar.inc(1);
            Ok(summary)
        })
        .collect::<Result<Vec<_>>>()?;
    bar.finish();
    Ok(Summary { files })
}

/// Every language and task is known and named once.
fn check(config: &Config, catalog: &Catalog) -> Result<()> {
    let known = [
        (&config.languages, "language", &world::LANGUAGES[..]),
        (&config.tasks, "task", &world::TASKS[..]),
    ];
    for (values, what, known) in known {
        // Text alone is something to make, too.
        if values.is_empty() && !(what == "task" && config.text > 0) {
            bail_user!("synth: no {what} is named; there are {}", known.join(", "));
        }
        for (at, value) in values.iter().enumerate() {
            if !known.contains(&value.as_str()) {
                let hint = nearest(value, known.iter().copied())
                    .map(|near| format!(" (did you mean {near}?)"))
                    .unwrap_or_default();
                bail_user!(
                    "synth: {what} '{value}' is not there{hint}; the generator has {}",
                    known.join(", ")
                );
            }
            if values[..at].contains(value) {
                bail_user!("synth: {what} '{value}' is named twice");
            }
        }
    }
    let missing = config.languages.iter().find(|tag| catalog.get(tag).is_none());
    missing.map_or(Ok(()), |tag| Err(user(format!("synth: there is no templates/{tag}.toml"))))
}

/// The item as the language says it.
fn row<'a>(item: &Item, job: &Job<'a>, catalog: &Catalog) -> Result<Row<'a>> {
    let text = job.language.conversation(item, catalog)?;
    let message = |role: &str, content: String| Message { role: role.into(), content };
    let item_id = item.id();
    Ok(Row {
        id: format!("{item_id}.{}", job.language.tag),
        item_id,
        lang: &job.language.tag,
        task: job.task,
        split: job.split.name(),
        messages: vec![message("user", text.prompt), message("assistant", text.answer)],
        reference: Some(text.reference),
    })
}

fn write(out: &Path, job: &Job, rows: &[Row]) -> Result<FileSummary> {
    let (task, lang, split) = (job.task, job.language.tag.as_str(), job.split.name());
    let file = format!("{task}.{lang}.{split}.jsonl");
    let path = out.join(&file);
    let create = || -> Result<()> {
        let mut writer = BufWriter::new(File::create(&path)?);
        for row in rows {
            serde_json::to_writer(&mut writer, row)?;
            writer.write_all(b"\n")?;
        }
        Ok(writer.flush()?)
    };
    create().with_context(|| format!("writing {}", path.display()))?;
    Ok(FileSummary {
        file,
        task: task.into(),
        lang: lang.into(),
        split: split.into(),
        rows: rows.len(),
    })
}
