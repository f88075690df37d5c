//! Test examples in, prompts out: `prompts.parquet` has the examples' columns (and any others that were there), with `messages`
//! ending in the user's question, made by the task's template and preceded by its worked examples.
//!
//! Both draws (test items, worked examples) take the smallest keys by `item_id`, as mixtures do: parallel items are drawn together,
//! and neither row order nor other languages matter. A first pass over ids decides, a second one reads what was chosen; memory
//! is bounded by the ids and a row group.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use artifact::example::{frame_to_examples, messages_column};
use artifact::hash::draw_key;
use artifact::parquet::{Writer, read_columns, row_groups};
use artifact::polars::prelude::*;
use artifact::schema::EXAMPLES;
use artifact::text::{TextTable, count};
use artifact::{Context, Example, Message, bail_user};
use language::canonical;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::task::{self, Layout, Task, Tasks};

/// What is asked.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PromptConfig {
    /// Task files of your own, besides the tasks that ship.
    pub tasks: Vec<PathBuf>,
    /// The split that is asked.
    pub split: String,
    /// The languages that are asked; empty: all.
    pub languages: Vec<String>,
    /// Worked examples before each question, instead of each task's own number.
    pub shots: Option<usize>,
    /// The worked examples' language, instead of each task's own setting.
    pub shots_lang: Option<String>,
    /// Test items in each language at most, instead of each task's own number.
    pub max_items: Option<usize>,
    /// Seed of both draws.
    pub seed: u64,
}

impl Default for PromptConfig {
    fn default() -> Self {
        Self {
            tasks: Vec::new(),
            split: "test".to_owned(),
            languages: Vec::new(),
            shots: None,
            shots_lang: None,
            max_items: None,
            seed: 0,
        }
    }
}

/// What was made.
#[derive(Clone, Debug, Serialize)]
pub struct PromptSummary {
    /// By task and language.
    pub prompts: Vec<PromptCount>,
}

/// The prompts of one task in one language.
#[derive(Clone, Debug, Serialize)]
pub struct PromptCount {
    /// Task.
    pub task: String,
    /// Language.
    pub lang: String,
    /// Prompts.
    pub prompts: usize,
    /// Worked examples before each.
    pub shots: usize,
}

impl fmt::Display for PromptSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = TextTable::new(&["task", "language", "prompts", "shots"]);
        table.right(&[2, 3]);
        for row in &self.prompts {
            table.row(vec![
                row.task.clone(),
                row.lang.clone(),
                count(row.prompts as u64),
                row.shots.to_string(),
            ]);
        }
        write!(f, "{table}")
    }
}

/// Writes `out/prompts.parquet` from the test rows of `examples`.
pub fn prompts(
    config: &PromptConfig,
    examples: &[PathBuf],
    out: &Path,
    ctx: &Context,
) -> Result<PromptSummary> {
    let tasks = task::load(&config.tasks)?;
    let rows = survey(config, &tasks, examples)?;
    let chosen = rows.test_items(config)?;
    let shots = rows.worked_examples(config, &chosen)?;
    let shown = shots.read(examples)?;

    let mut writer = Writer::create(&out.join("prompts.parquet"), &EXAMPLES)?;
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for (file, path) in examples.iter().enumerate() {
        let wanted: BTreeSet<usize> =
            chosen.iter().filter(|row| row.file == file).map(|row| row.row).collect();
        each_chosen(path, &wanted, |mut df| {
            ctx.check()?;
            let mut messages = Vec::with_capacity(df.height());
            for example in frame_to_examples(&df)? {
                let task = tasks.get(&example.task)?;
                let before = shown
                    .get(&(example.task.clone(), example.lang.clone()))
                    .map_or(&[][..], Vec::as_slice);
                messages.push(ask(&example, task, before)?);
                *counts.entry((example.task, example.lang)).or_default() += 1;
            }
            df.with_column(messages_column("messages", messages.iter().map(Vec::as_slice))?)?;
            writer.write(&df)
        })?;
    }
    writer.finish()?;
    let shots_of = |key: &(String, String)| shown.get(key).map_or(0, Vec::len);
    let prompts = counts
        .into_iter()
        .map(|(key, prompts)| PromptCount {
            shots: shots_of(&key),
            task: key.0,
            lang: key.1,
            prompts,
        })
        .collect();
    Ok(PromptSummary { prompts })
}

/// A row by its place and its ids.
#[derive(Clone, Debug)]
struct Row {
    file: usize,
    row: usize,
    example_id: String,
    item_id: String,
    task: String,
    lang: String,
    split: String,
}

/// The rows that may be asked or shown.
struct Survey<'a> {
    tasks: &'a Tasks,
    rows: Vec<Row>,
}

fn survey<'a>(config: &PromptConfig, tasks: &'a Tasks, examples: &[PathBuf]) -> Result<Survey<'a>> {
    let mut rows = Vec::new();
    for (file, path) in examples.iter().enumerate() {
        if path == Path::new("-") {
            bail_user!(
                "prompts are made in two passes over the examples: give a file instead of `-`"
            );
        }
        let df = read_columns(
            path,
            Some(&EXAMPLES),
            &["example_id", "item_id", "task", "lang", "split"],
        )?;
        let column = |name: &str| -> Result<StringChunked> { Ok(df.column(name)?.str()?.clone()) };
        let (ids, items, names) = (column("example_id")?, column("item_id")?, column("task")?);
        let (langs, splits) = (column("lang")?, column("split")?);
        let text =
            |column: &StringChunked, row: usize| column.get(row).unwrap_or_default().to_owned();
        for row in 0..df.height() {
            let split = splits.get(row).unwrap_or_default();
            let task = names.get(row).unwrap_or_default();
            let asked = split == config.split;
            // An unknown task matters only where it is to be asked.
            let shown = !asked
                && tasks
                    .get(task)
                    .is_ok_and(|task| shots(config, task) > 0 && task.shots.split == split);
            if asked {
                tasks.get(task)?;
            }
            if asked || shown {
                let (example_id, item_id) = (text(&ids, row), text(&items, row));
                rows.push(Row {
                    file,
                    row,
                    example_id,
                    item_id,
                    task: task.to_owned(),
                    lang: text(&langs, row),
                    split: split.to_owned(),
                });
            }
        }
    }
    Ok(Survey { tasks, rows })
}

fn shots(config: &PromptConfig, task: &Task) -> usize {
    config.shots.unwrap_or(task.shots.count)
}

/// Rows in the order in which a draw takes them.
fn drawn<'a>(
    rows: impl Iterator<Item = &'a Row>,
    seed: u64,
    stratum: &str,
) -> impl Iterator<Item = &'a Row> {
    let mut keyed: Vec<_> =
        rows.map(|row| (draw_key(seed, stratum, &row.item_id), &row.example_id, row)).collect();
    keyed.sort_by_key(|keyed| (keyed.0, keyed.1));
    keyed.into_iter().map(|(_, _, row)| row)
}

impl Survey<'_> {
    /// The rows that are asked.
    fn test_items(&self, config: &PromptConfig) -> Result<Vec<&Row>> {
        let languages: BTreeSet<String> =
            config.languages.iter().map(|lang| canonical(lang)).collect::<Result<_>>()?;
        let wanted = |lang: &str| languages.is_empty() || languages.contains(lang);
        let mut strata: BTreeMap<(&str, &str), Vec<&Row>> = BTreeMap::new();
        for row in self.rows.iter().filter(|row| row.split == config.split && wanted(&row.lang)) {
            strata.entry((&row.task, &row.lang)).or_default().push(row);
        }
        if strata.is_empty() {
            bail_user!(
                "there are no examples of the split `{}` to ask{}",
                config.split,
                match &config.languages[..] {
                    [] => String::new(),
                    languages => format!(" in {}", languages.join(", ")),
                }
            );
        }
        let mut chosen = Vec::new();
        for ((task, _), rows) in strata {
            let limit = config.max_items.or(self.tasks.get(task)?.max_items).unwrap_or(usize::MAX);
            chosen
                .extend(drawn(rows.into_iter(), config.seed, &format!("test/{task}")).take(limit));
        }
        Ok(chosen)
    }

    /// The rows that are shown before the questions of each task and language.
    fn worked_examples(&self, config: &PromptConfig, chosen: &[&Row]) -> Result<Shown> {
        let tested: HashSet<(&str, &str)> = self
            .rows
            .iter()
            .filter(|row| row.split == config.split)
            .map(|row| (row.task.as_str(), row.item_id.as_str()))
            .collect();
        let strata: BTreeSet<(&str, &str)> =
            chosen.iter().map(|row| (row.task.as_str(), row.lang.as_str())).collect();
        let mut shown = Vec::new();
        for (name, lang) in strata {
            let task = self.tasks.get(name)?;
            let want = shots(config, task);
            if want == 0 {
                continue;
            }
            let given = config.shots_lang.as_deref().or(task.shots.lang.as_deref());
            let from = given.map_or_else(|| Ok(lang.to_owned()), canonical)?;
            let pool = self.rows.iter().filter(|row| {
                let untested = !tested.contains(&(row.task.as_str(), row.item_id.as_str()));
                row.split == task.shots.split && row.task == name && row.lang == from && untested
            });
            let mut items = HashSet::new();
            let rows: Vec<Row> = drawn(pool, config.seed, &format!("shots/{name}"))
                .filter(|row| items.insert(&row.item_id))
                .take(want)
                .cloned()
                .collect();
            if rows.len() < want {
                bail_user!(
                    "task `{name}`, language {lang}: {want} worked examples are wanted, and the split `{}` has {} in {from} that are \
                     not test items; set `shots` lower, or `shots_lang` to a language that has them (\"en\")",
                    task.shots.split,
                    rows.len()
                );
            }
            shown.push(((name.to_owned(), lang.to_owned()), rows));
        }
        Ok(Shown(shown))
    }
}

/// Worked examples by (task, language), in the order in which they are shown.
struct Shown(Vec<((String, String), Vec<Row>)>);

impl Shown {
    fn read(&self, files: &[PathBuf]) -> Result<BTreeMap<(String, String), Vec<Example>>> {
        let mut read: BTreeMap<(usize, usize), Example> = BTreeMap::new();
        for (file, path) in files.iter().enumerate() {
            let wanted: BTreeSet<usize> = self
                .0
                .iter()
                .flat_map(|(_, rows)| rows)
                .filter(|row| row.file == file)
                .map(|row| row.row)
                .collect();
            let mut examples = Vec::new();
            each_chosen(path, &wanted, |df| {
                examples.extend(frame_to_examples(&df)?);
                Ok(())
            })?;
            read.extend(wanted.iter().map(|&row| (file, row)).zip(examples));
        }
        let examples = |rows: &[Row]| {
            rows.iter().filter_map(|row| read.get(&(row.file, row.row)).cloned()).collect()
        };
        Ok(self.0.iter().map(|(key, rows)| (key.clone(), examples(rows))).collect())
    }
}

/// Calls `each` with the wanted rows of every row group that has some.
fn each_chosen(
    path: &Path,
    wanted: &BTreeSet<usize>,
    mut each: impl FnMut(DataFrame) -> Result<()>,
) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let mut start = 0;
    for group in row_groups(path, Some(&EXAMPLES))? {
        let group = group?;
        let end = start + group.height();
        let rows: Vec<IdxSize> =
            wanted.range(start..end).map(|&row| (row - start) as IdxSize).collect();
        if !rows.is_empty() {
            each(group.take(&IdxCa::from_vec("rows".into(), rows))?)?;
        }
        start = end;
    }
    Ok(())
}

/// The conversation that asks `example`: system, worked examples, what was said before, the question.
fn ask(example: &Example, task: &Task, shown: &[Example]) -> Result<Vec<Message>> {
    let message = |role: &str, content: String| Message { role: role.to_owned(), content };
    let (before, question) = question(example)?;
    let own_system = before.first().filter(|first| first.role == "system");
    let history = &before[usize::from(own_system.is_some())..];
    let system = task.system.clone().or(own_system.map(|own| own.content.clone()));
    let mut messages: Vec<Message> =
        system.into_iter().map(|text| message("system", text)).collect();
    let mut text = String::new();
    for shot in shown {
        let asked = task.render(question_of(shot)?, &shot.lang)?;
        let answer = answer(shot)?;
        match task.shots.layout {
            Layout::Turns => {
                messages.extend([message("user", asked), message("assistant", answer.to_owned())])
            }
            Layout::Text => text.push_str(&format!("{asked}\n{answer}\n\n")),
        }
    }
    messages.extend_from_slice(history);
    messages.push(message("user", text + &task.render(question, &example.lang)?));
    Ok(messages)
}

/// The last user message and what stands before it.
fn question(example: &Example) -> Result<(&[Message], &str)> {
    match example.messages.iter().rposition(|message| message.role == "user") {
        Some(last) => Ok((&example.messages[..last], &example.messages[last].content)),
        None => bail_user!(
            "example {}: it has no user message, so there is nothing to ask",
            example.example_id
        ),
    }
}

fn question_of(example: &Example) -> Result<&str> {
    question(example).map(|(_, question)| question)
}

fn answer(example: &Example) -> Result<&str> {
    let last = example
        .messages
        .iter()
        .rev()
        .find(|message| message.role == "assistant")
        .map(|message| message.content.as_str());
    match last.or(example.reference.as_deref()) {
        Some(answer) => Ok(answer),
        None => bail_user!(
            "example {}: it has no answer, so it cannot be shown as a worked example",
            example.example_id
        ),
    }
}
