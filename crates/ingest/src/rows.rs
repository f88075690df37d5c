//! From a batch of rows to examples: conversation, reference, ids, language. One row gives one example, or one in each
//! language of a wide file, or a reject with its reason.

use std::borrow::Cow;
use std::collections::HashMap;

use anyhow::Result;
use artifact::example::examples_to_frame;
use artifact::{Example, Message};
use language::{Resolution, Rule, Tag, canonical, normalise, resolve};
use polars::prelude::{DataFrame, NamedFrom, Series};
use regex::Regex;

use crate::batch::Batch;
use crate::config::{Column, DetectOn, Schema};
use crate::conversation::{conversation, single};
use crate::fields::Fields;
use crate::near::Print;
use crate::plan::{FilePlan, Item, Plan, SourcePlan, split_of, squeezed};
use crate::rejects::{Reason, Refusal, Reject, shown};
use crate::split::Row;
use crate::summary::Counts;

/// Columns of the temporary frames beside those of `examples`: where the row stands.
pub(crate) const FILE: &str = "isogloss.file";
pub(crate) const LINE: &str = "isogloss.line";

/// What became of a batch.
pub(crate) struct Output {
    /// The columns of `examples`, [`FILE`] (index in the plan) and [`LINE`].
    pub examples: DataFrame,
    /// What duplicates are found by, one for each example.
    pub prints: Vec<Print>,
    pub rejects: Vec<Reject>,
    pub counts: Counts,
}

/// Takes a batch of the plan's file of this index.
pub(crate) fn take(plan: &Plan, file: usize, batch: &Batch) -> Result<Output> {
    let mut taker = Taker::new(plan, file);
    for row in &batch.block.rows {
        let taken = batch.fields(row).and_then(|fields| taker.row(fields, row, batch));
        if let Err(refusal) = taken {
            taker.refuse(row.line, refusal, batch.raw(row));
        }
    }
    for (line, bytes, raw) in &batch.block.too_long {
        let detail = format!("{bytes} bytes, more than max_row_bytes = {}", plan.max_row_bytes);
        taker.refuse(*line, Refusal::new(Reason::TooLong, detail), shown(raw));
    }
    taker.finish(file)
}

struct Taker<'a> {
    plan: &'a Plan,
    file: &'a FilePlan,
    source: &'a SourcePlan,
    /// Tags met so far and what they mean.
    tags: HashMap<String, Option<Tag>>,
    examples: Vec<Example>,
    prints: Vec<Print>,
    lines: Vec<i64>,
    rejects: Vec<Reject>,
    counts: Counts,
}

impl<'a> Taker<'a> {
    fn new(plan: &'a Plan, file: usize) -> Self {
        let file = &plan.files[file];
        Taker {
            plan,
            file,
            source: &plan.sources[file.source],
            tags: HashMap::new(),
            examples: Vec::new(),
            prints: Vec::new(),
            lines: Vec::new(),
            rejects: Vec::new(),
            counts: Counts::default(),
        }
    }

    fn finish(mut self, file: usize) -> Result<Output> {
        self.rejects.sort_by_key(|reject| reject.line);
        self.rejects.iter().for_each(|reject| self.counts.reject(reject));
        let mut examples = examples_to_frame(&self.examples)?;
        let files = vec![file as u32; self.lines.len()];
        examples.with_column(Series::new(FILE.into(), files).into())?;
        examples.with_column(Series::new(LINE.into(), self.lines).into())?;
        Ok(Output { examples, prints: self.prints, rejects: self.rejects, counts: self.counts })
    }

    fn refuse(&mut self, line: u64, refusal: Refusal, raw: String) {
        let (source, file) = (self.source.name.clone(), self.file.path.display().to_string());
        self.rejects.push(Reject { source, file, line, refusal, raw });
    }

    fn row(&mut self, mut fields: Fields<'a>, row: &Row, batch: &Batch) -> Result<(), Refusal> {
        for table in &self.source.joins {
            let value = fields.find_text(&table.on)?.unwrap_or_default().into_owned();
            let found = table.get(&value).ok_or_else(|| {
                Refusal::new(
                    Reason::NoMatch,
                    format!(
                        "{} has no row whose key is this row's {}",
                        table.path.display(),
                        table.on
                    ),
                )
            })?;
            fields.join(found);
        }
        if self.source.schema == Schema::Wide {
            return self.wide(&fields, row, batch);
        }
        let schema = self.source.schema;
        let messages = match conversation(&fields, schema, &self.source.map) {
            Err(refusal)
                if schema == Schema::Auto
                    && refusal.reason == Reason::NoSchema
                    && self.is_wide(&fields) =>
            {
                return self.wide(&fields, row, batch);
            }
            other => other?,
        };
        let tag = self.declared(&fields)?;
        self.example(&fields, row, messages, tag, batch)
    }

    /// Whether a row without any other schema has a column each for two languages or more.
    fn is_wide(&mut self, fields: &Fields) -> bool {
        fields.names().filter(|name| self.column_tag(name).is_some()).count() > 1
    }

    /// The language that a wide file's column holds: as `columns` says, else by its name. A column `id` is the row's id
    /// unless Indonesian is among the experiment's languages.
    fn column_tag(&mut self, name: &str) -> Option<Tag> {
        let listed = &self.source.columns;
        match listed.is_empty() {
            false => listed.get(name).cloned(),
            true if name == "id" && !self.plan.detector.is_candidate("id") => None,
            true => self.tag(name),
        }
    }

    /// One example for each language's cell.
    fn wide(&mut self, fields: &Fields, row: &Row, batch: &Batch) -> Result<(), Refusal> {
        let mut cells: Vec<(Tag, String)> = Vec::new();
        let names: Vec<String> = fields.names().map(String::from).collect();
        for name in names {
            if let Some(tag) = self.column_tag(&name)
                && let Some(text) = fields.text(&name)?
            {
                cells.push((tag, text.into_owned()));
            }
        }
        if cells.is_empty() {
            return Err(Refusal::new(Reason::Empty, "no column of a language has text"));
        }
        let role = if self.source.map.text.is_some() { "text" } else { "user" };
        for (tag, text) in cells {
            if let Err(refusal) = self.example(fields, row, single(role, &text), Some(tag), batch) {
                self.refuse(row.line, refusal, text);
            }
        }
        Ok(())
    }

    fn example(
        &mut self,
        fields: &Fields,
        row: &Row,
        mut messages: Vec<Message>,
        declared: Option<Tag>,
        batch: &Batch,
    ) -> Result<(), Refusal> {
        let source = self.source;
        let map = &source.map;
        let mapped = |column: &Option<Column>| {
            column.as_ref().map_or(Ok(None), |column| fields.find_text(column))
        };
        let mut reference = match mapped(&map.reference)? {
            Some(text) => Some(text.into_owned()),
            None => fields.text("reference")?.map(Cow::into_owned),
        };
        if reference.is_none() {
            reference =
                messages.iter().rev().find(|m| m.role == "assistant").map(|m| m.content.clone());
        }
        if let (Some(regex), Some(text)) = (&source.extract_reference, &reference) {
            reference = Some(extracted(regex, text, "reference")?);
        }
        if let (Some(regex), Some(last)) =
            (&source.extract_completion, messages.iter_mut().rev().find(|m| m.role == "assistant"))
        {
            last.content = extracted(regex, &last.content, "completion")?;
        }
        let settled = self.settle(declared.as_ref(), &messages);
        let given_id = match mapped(&map.example_id)? {
            Some(id) => Some(id),
            None => {
                fields.text("example_id")?.map_or_else(|| fields.text("id"), |id| Ok(Some(id)))?
            }
        };
        let place = format!("{}:{}", self.file.short, row.number);
        let key = given_id.as_deref().unwrap_or(&place);
        let raw_text = messages.iter().all(|message| message.role == "text");
        let task = match &self.file.task {
            Some(task) => task.clone(),
            None => column_or(fields, &map.task, "task")?
                .unwrap_or(if raw_text { "text" } else { "instruction" }.into()),
        };
        let split = match self.file.split {
            Some(split) => split,
            None => match column_or(fields, &map.split, "split")? {
                Some(name) => split_of(&name)
                    .map_err(|error| Refusal::new(Reason::UnknownSplit, error.to_string()))?,
                None => "train",
            },
        };
        let example = Example {
            example_id: format!("{}/{key}@{}", source.name, settled.lang),
            item_id: format!("{}/{}", source.items, self.item(fields, row, &place)?),
            source: source.name.clone(),
            task,
            split: split.to_string(),
            lang: settled.lang,
            lang_declared: declared.map(|tag| tag.lang),
            lang_detected: settled.detected,
            lang_confidence: settled.confidence,
            lang_rule: settled.rule.as_str().to_string(),
            script: settled.script,
            messages,
            reference,
            // Where the languages are listed, other columns may be languages that nobody asked for.
            meta: if source.columns.is_empty() { fields.unused() } else { None },
        };
        self.push(example, settled.rule, given_id.is_some(), row, batch);
        Ok(())
    }

    fn push(&mut self, example: Example, rule: Rule, given_id: bool, row: &Row, batch: &Batch) {
        if rule.quarantines() {
            self.counts.disagreement(&example);
            return self.refuse(row.line, contradiction(&example, rule), batch.raw(row));
        }
        self.counts.take(&example);
        self.prints.push(Print::new(&example, given_id, self.source.dedup));
        self.lines.push(row.line as i64);
        self.examples.push(example);
    }

    fn item(&self, fields: &Fields, row: &Row, place: &str) -> Result<String, Refusal> {
        let column = match &self.source.item {
            Item::Line => return Ok(row.number.to_string()),
            Item::Default => {
                let id =
                    fields.text("item_id")?.map_or_else(|| fields.text("id"), |id| Ok(Some(id)))?;
                return Ok(id.map_or_else(|| place.to_string(), Cow::into_owned));
            }
            Item::Column(column) | Item::HashOf(column) => column,
        };
        let text = fields.find_text(column)?.filter(|text| !text.trim().is_empty());
        let text = text.ok_or_else(|| {
            Refusal::new(Reason::Empty, format!("{column}, the item's id, has no text"))
        })?;
        Ok(match &self.source.item {
            Item::HashOf(_) => blake3::hash(squeezed(&text).as_bytes()).to_hex()[..16].to_string(),
            _ => text.into_owned(),
        })
    }

    /// The declared language: the file's, or the column's that the user named, or that of a column `lang` or `language`.
    fn declared(&mut self, fields: &Fields) -> Result<Option<Tag>, Refusal> {
        if let Some(tag) = &self.file.lang {
            return Ok(Some(tag.clone()));
        }
        let text = match column_or(fields, &self.source.map.lang, "lang")? {
            Some(text) => Some(text),
            None if self.source.map.lang.is_none() => fields.text("language")?.map(Cow::into_owned),
            None => None,
        };
        let Some(text) = text.filter(|text| !matches!(text.as_str(), "" | "und" | "unknown"))
        else {
            return Ok(None);
        };
        let unknown = || match canonical(&text) {
            Err(error) => Refusal::new(Reason::UnknownLanguage, error.to_string()),
            Ok(_) => Refusal::new(Reason::UnknownLanguage, text.clone()),
        };
        self.tag(&text).map(Some).ok_or_else(unknown)
    }

    fn tag(&mut self, text: &str) -> Option<Tag> {
        if let Some(known) = self.tags.get(text) {
            return known.clone();
        }
        let tag = normalise(text);
        self.tags.insert(text.to_string(), tag.clone());
        tag
    }

    fn settle(&self, declared: Option<&Tag>, messages: &[Message]) -> Resolution {
        if !self.source.detect {
            return Resolution::unchecked(declared);
        }
        resolve(declared, &side(messages, self.source.detect_on), &self.plan.detector)
    }
}

/// The text of one side of a conversation; a side that says nothing is the whole.
fn side(messages: &[Message], on: DetectOn) -> Cow<'_, str> {
    let counts = |message: &&Message| match on {
        DetectOn::Prompt => matches!(message.role.as_str(), "user" | "text"),
        DetectOn::Answer => matches!(message.role.as_str(), "assistant" | "text"),
        DetectOn::All => true,
    };
    let mut texts = messages.iter().filter(counts).map(|message| message.content.as_str());
    match (texts.next(), texts.next()) {
        (Some(only), None) => Cow::Borrowed(only),
        (Some(first), Some(second)) => {
            Cow::Owned([first, second].into_iter().chain(texts).collect::<Vec<_>>().join("\n"))
        }
        (None, _) => side(messages, DetectOn::All),
    }
}

fn contradiction(example: &Example, rule: Rule) -> Refusal {
    let declared = example.lang_declared.as_deref().unwrap_or_default();
    match rule {
        Rule::ScriptMismatch => {
            let script = example.script.as_deref().unwrap_or_default();
            Refusal::new(
                Reason::ScriptMismatch,
                format!("declared {declared}, written in {script}"),
            )
        }
        _ => {
            let detected = example.lang_detected.as_deref().unwrap_or_default();
            let confidence = example.lang_confidence.unwrap_or_default();
            Refusal::new(
                Reason::Contradicted,
                format!("declared {declared}, detected {detected} (confidence {confidence:.2})"),
            )
        }
    }
}

/// The text of the column that the user named, or of the one of the usual name.
fn column_or(
    fields: &Fields,
    named: &Option<Column>,
    usual: &str,
) -> Result<Option<String>, Refusal> {
    let text = match named {
        Some(column) => fields.find_text(column)?,
        None => fields.text(usual)?,
    };
    Ok(text.map(Cow::into_owned).filter(|text| !text.is_empty()))
}

fn extracted(regex: &Regex, text: &str, what: &str) -> Result<String, Refusal> {
    let group = regex.captures(text).and_then(|found| found.get(1));
    let missing = || {
        Refusal::new(
            Reason::NoMatch,
            format!("the {what} has nothing that `extract.{what}` = {:?} matches", regex.as_str()),
        )
    };
    group.map(|group| group.as_str().trim().to_string()).ok_or_else(missing)
}
