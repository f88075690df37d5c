//! From the settings to a checked plan: every file found, every tag, pattern and encoding understood, before any row is read.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use artifact::bail_user;
use artifact::error::user;
use encoding_rs::Encoding;
use language::{Detector, Tag, canonical, normalise};
use regex::Regex;

use crate::batch::Reading;
use crate::config::{
    Column, Config, Dedup, DetectOn, Format, ItemId, Join, Map, OrTable, Origin, Schema, Source,
};
use crate::fields::Kept;
use crate::input::format_of;
use crate::paths::{common_folder, expand, short_name};

/// Everything an ingest does, decided.
pub(crate) struct Plan {
    pub sources: Vec<SourcePlan>,
    pub files: Vec<FilePlan>,
    pub detector: Detector,
    pub max_row_bytes: usize,
}

/// What holds for all rows of a source.
pub(crate) struct SourcePlan {
    pub name: String,
    pub items: String,
    pub format: Format,
    pub encoding: Option<&'static Encoding>,
    pub schema: Schema,
    pub map: Map,
    /// Columns of a wide file by the language that they hold.
    pub columns: BTreeMap<String, Tag>,
    pub item: Item,
    pub joins: Vec<Table>,
    pub extract_reference: Option<Regex>,
    pub extract_completion: Option<Regex>,
    pub detect: bool,
    pub detect_on: DetectOn,
    pub dedup: Dedup,
}

/// Where item ids are from.
pub(crate) enum Item {
    /// A column `item_id` or `id`; else every row is an item of its own.
    Default,
    Line,
    Column(Column),
    HashOf(Column),
}

/// A file, and what holds for all its rows.
pub(crate) struct FilePlan {
    pub source: usize,
    pub path: PathBuf,
    /// What it is called in ids and rejects.
    pub short: String,
    pub lang: Option<Tag>,
    pub task: Option<String>,
    pub split: Option<&'static str>,
    pub parallel: Vec<(String, PathBuf)>,
}

/// Another file's rows by the value of a key.
pub(crate) struct Table {
    pub path: PathBuf,
    pub on: Column,
    rows: HashMap<String, Kept>,
}

impl Plan {
    /// Checks the settings. `scratch`: a folder for temporary files.
    ///
    /// # Errors
    /// A user error that names the source and what would be right.
    pub(crate) fn new(config: &Config, base: &Path, scratch: &Path) -> Result<Plan> {
        let files = found(config, base)?;
        let mut plan = Plan {
            sources: Vec::new(),
            files: Vec::new(),
            detector: Detector::with(&config.languages, config.detector)?,
            max_row_bytes: config.max_row_bytes,
        };
        let names: Vec<String> = config
            .sources
            .iter()
            .zip(&files)
            .map(|(source, files)| name_of(source, files))
            .collect();
        for (index, (source, paths)) in config.sources.iter().zip(&files).enumerate() {
            let context = || format!("source `{}`", names[index]);
            // Files of one name are told apart by their path below what all sources of that name share.
            let same = names.iter().zip(&files).filter(|(name, _)| **name == names[index]);
            let root = common_folder(same.flat_map(|(_, files)| files).map(PathBuf::as_path));
            let source_plan =
                source_plan(config, source, &names[index], base, scratch).with_context(context)?;
            let plans = file_plans(source, index, paths, &root, base).with_context(context)?;
            plan.sources.push(source_plan);
            plan.files.extend(plans);
        }
        Ok(plan)
    }
}

/// Each source's files, sorted.
pub(crate) fn found(config: &Config, base: &Path) -> Result<Vec<Vec<PathBuf>>> {
    if config.sources.is_empty() {
        bail_user!("no source: name at least one file with [[source]]");
    }
    config
        .sources
        .iter()
        .map(|source| expand(&source.path, base, source.format.is_some()))
        .collect()
}

/// The files that a source is read with besides its own: parallel ones and joined ones.
pub(crate) fn companions(source: &Source, base: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for paths in source.parallel.values() {
        files.extend(expand(paths, base, true)?);
    }
    for join in &source.join {
        files.push(base.join(artifact::config::expand_env(&join.path)?));
    }
    Ok(files)
}

/// The given name, or the file's without its extensions, or the folder's where there are several files.
fn name_of(source: &Source, files: &[PathBuf]) -> String {
    let file_name = |path: &Path| {
        path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    };
    match (&source.name, files) {
        (Some(name), _) => name.clone(),
        (None, [file]) => {
            let name = file_name(file);
            name.split('.').next().filter(|stem| !stem.is_empty()).unwrap_or(&name).to_string()
        }
        (None, files) => file_name(&common_folder(files.iter().map(PathBuf::as_path))),
    }
}

fn source_plan(
    config: &Config,
    source: &Source,
    name: &str,
    base: &Path,
    scratch: &Path,
) -> Result<SourcePlan> {
    let mut map = source.map.clone();
    column_of("lang", &source.lang, &mut map.lang)?;
    column_of("task", &source.task, &mut map.task)?;
    column_of("split", &source.split, &mut map.split)?;
    let columns = source.columns.iter().map(|(column, tag)| Ok((column.clone(), tag_of(tag)?)));
    let joins =
        source.join.iter().map(|join| Table::read(join, base, scratch, config.max_row_bytes));
    let schema = if source.columns.is_empty() { source.schema } else { Schema::Wide };
    let plan = SourcePlan {
        name: name.to_string(),
        items: source.items.clone().unwrap_or_else(|| name.to_string()),
        format: format_of(source.format.as_ref())?,
        encoding: source.encoding.as_deref().map(encoding_of).transpose()?,
        schema,
        item: item_of(source, &map)?,
        map,
        columns: columns.collect::<Result<_>>()?,
        joins: joins.collect::<Result<_>>()?,
        extract_reference: group_regex("extract.reference", source.extract.reference.as_deref())?,
        extract_completion: group_regex(
            "extract.completion",
            source.extract.completion.as_deref(),
        )?,
        detect: source.detect.unwrap_or(config.detect),
        detect_on: source.detect_on.unwrap_or(config.detect_on),
        dedup: source.dedup.unwrap_or(config.dedup),
    };
    if plan.map.completion.is_some() && plan.map.prompt.is_none() {
        bail_user!("`map.completion` needs `map.prompt` beside it: which column is the question?");
    }
    if plan.named_columns().contains(&&Column::Number(0)) {
        bail_user!("columns are numbered from 1; there is no column 0");
    }
    Ok(plan)
}

impl SourcePlan {
    /// The columns that the user named.
    pub(crate) fn named_columns(&self) -> Vec<&Column> {
        let map = &self.map;
        let mapped = [
            &map.prompt,
            &map.completion,
            &map.system,
            &map.reference,
            &map.messages,
            &map.text,
            &map.lang,
            &map.item_id,
            &map.example_id,
            &map.task,
            &map.split,
        ];
        let item = match &self.item {
            Item::Column(column) | Item::HashOf(column) => Some(column),
            Item::Default | Item::Line => None,
        };
        mapped
            .into_iter()
            .flatten()
            .chain(item)
            .chain(self.joins.iter().map(|table| &table.on))
            .collect()
    }

    /// Checks the columns that the user named against those of a file.
    pub(crate) fn check_columns(&self, columns: &[String], path: &Path) -> Result<()> {
        let wide = self.columns.keys().map(|name| Column::Name(name.clone())).collect::<Vec<_>>();
        for column in self.named_columns().into_iter().chain(&wide) {
            let known = match column {
                Column::Number(number) => *number <= columns.len(),
                Column::Name(name) => {
                    let first = name.split('.').next().unwrap_or(name);
                    columns.iter().any(|column| column == name || column == first)
                        || self.joins.iter().any(|table| table.has(name))
                }
            };
            if !known {
                let wanted = column.to_string();
                let near = artifact::config::nearest(
                    wanted.trim_matches('`'),
                    columns.iter().map(String::as_str),
                );
                let hint = near.map_or(String::new(), |near| format!(" (did you mean `{near}`?)"));
                bail_user!(
                    "{}: no column {wanted}{hint}; there is {}",
                    path.display(),
                    columns.join(", ")
                );
            }
        }
        Ok(())
    }
}

/// A setting's column, which `map` may name as well but not otherwise.
fn column_of(
    key: &str,
    setting: &Option<OrTable<Origin>>,
    mapped: &mut Option<Column>,
) -> Result<()> {
    if setting.is_some() && mapped.is_some() {
        bail_user!("`{key}` and `map.{key}` are both given: one is enough");
    }
    if let Some(OrTable::Table(origin)) = setting {
        match (&origin.column, &origin.from_path) {
            (Some(column), None) => *mapped = Some(column.clone()),
            (None, Some(_)) => {}
            _ => bail_user!("`{key}` needs one of `from_path` and `column`"),
        }
    }
    Ok(())
}

fn item_of(source: &Source, map: &Map) -> Result<Item> {
    Ok(match (&source.item_id, &map.item_id) {
        (Some(_), Some(_)) => {
            bail_user!("`item_id` and `map.item_id` are both given: one is enough")
        }
        (None, None) => Item::Default,
        (None, Some(column)) => Item::Column(column.clone()),
        (Some(OrTable::Text(line)), _) if line == "line" => Item::Line,
        (Some(OrTable::Text(column)), _) => Item::Column(Column::Name(column.clone())),
        (Some(OrTable::Table(ItemId { column: Some(column), hash_of: None })), _) => {
            Item::Column(column.clone())
        }
        (Some(OrTable::Table(ItemId { column: None, hash_of: Some(column) })), _) => {
            Item::HashOf(column.clone())
        }
        _ => bail_user!("`item_id` needs one of `column` and `hash_of`"),
    })
}

fn file_plans(
    source: &Source,
    index: usize,
    paths: &[PathBuf],
    root: &Path,
    base: &Path,
) -> Result<Vec<FilePlan>> {
    let mut parallel = vec![Vec::new(); paths.len()];
    for (name, named) in &source.parallel {
        let files = expand(named, base, true)?;
        if files.len() != paths.len() {
            bail_user!(
                "`parallel.{name}` names {} files for the {} of `path`",
                files.len(),
                paths.len()
            );
        }
        for (columns, file) in parallel.iter_mut().zip(files) {
            columns.push((name.clone(), file));
        }
    }
    let plans = paths.iter().zip(parallel).map(|(path, parallel)| {
        let lang = of_file("lang", &source.lang, path)?.map(|tag| tag_of(&tag)).transpose();
        let split = of_file("split", &source.split, path)?.map(|name| split_of(&name)).transpose();
        Ok(FilePlan {
            source: index,
            path: path.clone(),
            short: short_name(path, root),
            lang: lang.with_context(|| path.display().to_string())?,
            task: of_file("task", &source.task, path)?,
            split: split?,
            parallel,
        })
    });
    plans.collect()
}

/// A setting's value for a file: in short, or found in the path. In a path that matches often the last match counts.
fn of_file(key: &str, setting: &Option<OrTable<Origin>>, path: &Path) -> Result<Option<String>> {
    let pattern = match setting {
        Some(OrTable::Text(value)) => return Ok(Some(value.clone())),
        Some(OrTable::Table(Origin { from_path: Some(pattern), .. })) => pattern,
        _ => return Ok(None),
    };
    let text = path.to_string_lossy();
    let regex = group_regex(&format!("{key}.from_path"), Some(pattern))?;
    let found = regex.and_then(|regex| {
        regex.captures_iter(&text).last().and_then(|found| Some(found.get(1)?.as_str().to_string()))
    });
    match found {
        Some(value) => Ok(Some(value)),
        None => bail_user!("{text}: `{key}.from_path = {pattern:?}` does not match"),
    }
}

fn tag_of(text: &str) -> Result<Tag> {
    normalise(text).map_or_else(
        || canonical(text).and_then(|_| Err(user(format!("unknown language {text:?}")))),
        Ok,
    )
}

/// The name of a split in the artifacts.
pub(crate) fn split_of(name: &str) -> Result<&'static str> {
    match name.to_lowercase().as_str() {
        "train" | "training" => Ok("train"),
        "validation" | "valid" | "val" | "dev" => Ok("validation"),
        "test" | "eval" | "evaluation" => Ok("test"),
        _ => Err(user(format!("unknown split {name:?}: train, validation or test"))),
    }
}

fn encoding_of(label: &str) -> Result<&'static Encoding> {
    let known = Encoding::for_label(label.as_bytes());
    known.ok_or_else(|| user(format!("unknown encoding {label:?}: give a WHATWG label such as \"windows-1251\" or \"gb18030\"")))
}

fn group_regex(key: &str, pattern: Option<&str>) -> Result<Option<Regex>> {
    let Some(pattern) = pattern else { return Ok(None) };
    let regex = Regex::new(pattern).map_err(|error| user(format!("`{key}`: {error}")))?;
    if regex.captures_len() != 2 {
        bail_user!("`{key} = {pattern:?}` needs exactly one group (…) around what is kept");
    }
    Ok(Some(regex))
}

/// White space aside, the same text is the same.
pub(crate) fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Table {
    fn read(join: &Join, base: &Path, scratch: &Path, max_row_bytes: usize) -> Result<Table> {
        let path = base.join(artifact::config::expand_env(&join.path)?);
        let key = join.key.as_ref().unwrap_or(&join.on);
        let format = format_of(join.format.as_ref())?;
        let mut rows = HashMap::new();
        let reading = Reading {
            path: &path,
            format: &format,
            encoding: None,
            parallel: &[],
            max_row_bytes,
            scratch,
            bar: None,
        };
        reading.batches(&mut |batch| {
            for row in &batch.block.rows {
                let refused = |why: crate::rejects::Refusal| {
                    user(format!("{}, line {}: {}", path.display(), row.line, why.text()))
                };
                let fields = batch.fields(row).map_err(refused)?;
                let value = fields.find_text(key).map_err(refused)?.map(|text| squeezed(&text));
                rows.entry(value.unwrap_or_default()).or_insert_with(|| fields.into_rest());
            }
            Ok(())
        })?;
        Ok(Table { path, on: join.on.clone(), rows })
    }

    pub(crate) fn get(&self, value: &str) -> Option<&Kept> {
        self.rows.get(&squeezed(value))
    }

    fn has(&self, name: &str) -> bool {
        let first = name.split('.').next().unwrap_or(name);
        self.rows
            .values()
            .next()
            .is_some_and(|row| row.iter().any(|(known, _)| known == name || known == first))
    }
}
