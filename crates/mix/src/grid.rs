//! From a design to its checked list of mixtures. Nothing is read here: whatever is wrong with the
//! design itself is said before any work.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use anyhow::Result;
use artifact::{Factors, bail_user, hash::hash_bytes};
use serde::Serialize;

use crate::design::{Budget, Content, Design, Leakage, OnShortage, Setting};

/// English, canonical.
pub(crate) const ENGLISH: &str = "en";

/// One design point: a mixture to be drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Short, unique in the design, safe as a folder name: `math.en-es.additive.n100.d1`.
    pub mixture_id: String,
    /// The levels of the factors.
    pub factors: Factors,
    /// Seed of the draw.
    pub seed: u64,
    /// Rows asked for, in the design's order of tasks and languages; zeros included.
    pub cells: Vec<Cell>,
}

/// Rows of one task in one language.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// Task.
    pub task: String,
    /// Language, canonical.
    pub lang: String,
    /// Rows.
    pub rows: u64,
}

/// A design with everything resolved and checked.
#[derive(Clone, Debug)]
pub(crate) struct Grid {
    /// The points of all grids.
    pub points: Vec<Point>,
    pub tasks: Vec<String>,
    /// Every seen language of the design, and English.
    pub languages: Vec<String>,
    pub content: Content,
    pub sources: Vec<String>,
    pub on_shortage: OnShortage,
    pub leakage: Leakage,
    pub validation_rows: u64,
}

/// One mixture's place in the grid, before the seeds.
struct Level {
    setting: Setting,
    name: String,
    languages: Vec<String>,
    n: Option<u64>,
    english: Option<u64>,
    cells: Vec<Cell>,
}

impl Point {
    /// The tasks that it asks for rows of, in the design's order.
    pub fn tasks(&self) -> Vec<String> {
        in_order(self.cells.iter().filter(|cell| cell.rows > 0).map(|cell| cell.task.clone()))
    }
}

impl Grid {
    /// Resolves the preset and the language tags, and expands the factors of every grid.
    pub fn new(design: &Design) -> Result<Grid> {
        let mut all = Vec::new();
        for (number, grid) in design.grids().iter().enumerate() {
            let points = points(grid);
            all.extend(match number {
                0 => points?,
                _ => {
                    points.map_err(|error| error.context(format!("in [[also]] number {number}")))?
                }
            });
        }
        let points = united(all)?;
        let cells = || points.iter().flat_map(|point| &point.cells);
        let tasks = in_order(cells().map(|cell| cell.task.clone()));
        let languages = in_order(cells().map(|cell| cell.lang.clone()).chain([ENGLISH.to_owned()]));
        Ok(Grid {
            tasks,
            languages,
            content: design.content,
            sources: design.sources.clone(),
            on_shortage: design.on_shortage,
            leakage: design.leakage,
            validation_rows: design.validation.per_language,
            points,
        })
    }

    /// Whether any point of the design has the language among its seen ones of the task.
    pub fn trains_on(&self, task: &str, lang: &str) -> bool {
        let mut cells = self.points.iter().flat_map(|point| &point.cells);
        cells.any(|cell| cell.task == task && cell.lang == lang)
    }

    /// The most rows that any point asks for, by task and language; zeros left out.
    pub fn largest_cells(&self) -> BTreeMap<(&str, &str), u64> {
        let mut largest = BTreeMap::new();
        for cell in self.points.iter().flat_map(|point| &point.cells).filter(|cell| cell.rows > 0) {
            let rows: &mut u64 =
                largest.entry((cell.task.as_str(), cell.lang.as_str())).or_default();
            *rows = cell.rows.max(*rows);
        }
        largest
    }
}

/// The points of one grid.
fn points(design: &Design) -> Result<Vec<Point>> {
    let budget = design.budget.unwrap_or_default();
    check_lists(design)?;
    let levels =
        if budget == Budget::Explicit { explicit(design)? } else { counted(design, budget)? };
    let of_level = |level| design.seeds.iter().map(move |&seed| point(level, seed, budget, design));
    Ok(levels.iter().flat_map(of_level).collect())
}

/// The points of all grids, each once. Ids are compared without case, as some file systems do.
fn united(all: Vec<Point>) -> Result<Vec<Point>> {
    let mut points: Vec<Point> = Vec::new();
    let mut places = BTreeMap::new();
    for point in all {
        match places.entry(point.mixture_id.to_lowercase()) {
            Entry::Vacant(place) => {
                place.insert(points.len());
                points.push(point);
            }
            Entry::Occupied(place) if points[*place.get()] == point => {}
            Entry::Occupied(_) => bail_user!(
                "the design asks for two different mixtures {}: an id tells tasks, languages, budget, n and seed \
                 apart, and these two differ in something else (`english`, say). Keep one of them, or give the \
                 other a name with budget = \"explicit\" and `counts`",
                point.mixture_id
            ),
        }
    }
    Ok(points)
}

fn point(level: &Level, seed: u64, budget: Budget, design: &Design) -> Point {
    let tasks = in_order(level.cells.iter().map(|cell| cell.task.clone()));
    let tasks = compact(&tasks, "+", "tasks");
    let languages = compact(&level.languages, "-", "langs");
    Point {
        mixture_id: file_safe(&format!(
            "{tasks}.{languages}.{}.{}.d{seed}",
            budget.name(),
            level.name
        )),
        factors: Factors {
            model: None,
            setting: Some(level.setting.name().to_owned()),
            train_langs: Some(level.languages.join(",")),
            n: level.n.map(|n| n as i64),
            english: level.english.map(|english| english as i64),
            budget: Some(budget.name().to_owned()),
            sampler: Some(design.sampler.name().to_owned()),
            data_seed: Some(seed as i64),
            train_seed: None,
        },
        seed,
        cells: level.cells.clone(),
    }
}

/// The additive and the substitution rule.
fn counted(design: &Design, budget: Budget) -> Result<Vec<Level>> {
    if !design.counts.is_empty() {
        bail_user!(
            "`counts` is given, but budget = \"{}\" takes the rows from `english` and `n`; set budget = \"explicit\" or leave `counts` out",
            budget.name()
        );
    }
    if design.tasks.is_empty() {
        bail_user!(
            "the design names no task; set tasks = [\"…\"] to names of the examples' `task` column"
        );
    }
    if design.n.is_empty() {
        bail_user!(
            "the design does not say `n`, the examples per seen language other than English; set n = [0, 100, …]"
        );
    }
    let sets = language_sets(design)?;
    let english = english_rows(design, &sets)?;
    let mut levels = Vec::new();
    for (setting, tasks) in task_groups(design)? {
        for set in &sets {
            let others = set.iter().filter(|lang| *lang != ENGLISH).count() as u64;
            // Without another language every n is the same mixture.
            let ns = if others == 0 { &[0][..] } else { &design.n };
            for &n in ns {
                let english_rows = match budget {
                    Budget::Substitution => substituted(english, n, others, set)?,
                    _ => english,
                };
                let rows = |lang: &String| if lang == ENGLISH { english_rows } else { n };
                let cell = |task: &String, lang: &String| Cell {
                    task: task.clone(),
                    lang: lang.clone(),
                    rows: rows(lang),
                };
                levels.push(Level {
                    setting,
                    name: format!("n{n}"),
                    languages: set.clone(),
                    n: Some(n),
                    english: Some(if set.iter().any(|lang| lang == ENGLISH) { english } else { 0 }),
                    cells: tasks
                        .iter()
                        .flat_map(|task| set.iter().map(|lang| cell(task, lang)))
                        .collect(),
                });
            }
        }
    }
    Ok(levels)
}

/// What is left of English when `others` languages have taken `n` rows each.
fn substituted(english: u64, n: u64, others: u64, set: &[String]) -> Result<u64> {
    if !set.iter().any(|lang| lang == ENGLISH) {
        bail_user!(
            "budget = \"substitution\" takes rows from English, which is not among the languages {}",
            set.join(", ")
        );
    }
    let taken = n.saturating_mul(others);
    english.checked_sub(taken).ok_or_else(|| {
        artifact::error::user(format!(
            "budget = \"substitution\" keeps {english} rows a task; n = {n} in {others} languages ({}) is {taken}, \
             more than that. The largest n that fits is {}; or raise `english`",
            set.join(", "), english / others,
        ))
    })
}

/// The named points of `counts`.
fn explicit(design: &Design) -> Result<Vec<Level>> {
    let unused = [
        ("n", !design.n.is_empty()),
        ("english", design.english.is_some()),
        ("setting", !design.setting.is_empty() && design.preset.is_none()),
        ("language_sets", !design.language_sets.is_empty()),
    ];
    if let Some((key, _)) = unused.iter().find(|(_, given)| *given) {
        bail_user!(
            "`{key}` has no meaning with budget = \"explicit\", where `counts` says every row; leave it out"
        );
    }
    if design.counts.is_empty() {
        bail_user!(
            "budget = \"explicit\" needs at least one point, as in [counts.half] with math = {{ en = 100, es = 50 }}"
        );
    }
    design.counts.iter().map(|(name, tasks)| explicit_point(design, name, tasks)).collect()
}

fn explicit_point(
    design: &Design,
    name: &str,
    tasks: &BTreeMap<String, crate::design::LanguageCounts>,
) -> Result<Level> {
    let mut counts: BTreeMap<(&str, String), u64> = BTreeMap::new();
    for (task, languages) in tasks {
        for (tag, &rows) in &languages.0 {
            let lang = language::canonical(tag)
                .map_err(|error| error.context(format!("counts.{name}.{task}")))?;
            if counts.insert((task, lang.clone()), rows).is_some() {
                bail_user!("counts.{name}.{task} names the language {lang} twice");
            }
        }
    }
    let listed = canonical_list("languages", &design.languages)?;
    let found: BTreeSet<&String> = counts.keys().map(|(_, lang)| lang).collect();
    if let Some(extra) = found.iter().find(|lang| !listed.is_empty() && !listed.contains(lang)) {
        bail_user!(
            "counts.{name} has rows in {extra}, which `languages` does not list ({})",
            listed.join(", ")
        );
    }
    // The design's order if it gives one; else English first.
    let english = found.iter().filter(|lang| ***lang == ENGLISH);
    let others = found.iter().filter(|lang| ***lang != ENGLISH);
    let languages = if listed.is_empty() {
        english.chain(others).map(|lang| lang.to_string()).collect()
    } else {
        listed
    };
    let count = |task: &str, lang: &str| counts.get(&(task, lang.to_owned())).copied().unwrap_or(0);
    let cells: Vec<Cell> = tasks
        .keys()
        .flat_map(|task| {
            languages.iter().map(|lang| Cell {
                task: task.clone(),
                lang: lang.clone(),
                rows: count(task, lang),
            })
        })
        .collect();
    if cells.iter().all(|cell| cell.rows == 0) {
        bail_user!("counts.{name} asks for no rows at all");
    }
    let (english, others): (Vec<&Cell>, Vec<&Cell>) =
        cells.iter().partition(|cell| cell.lang == ENGLISH);
    Ok(Level {
        setting: if tasks.len() > 1 { Setting::MultiTask } else { Setting::SingleTask },
        name: name.to_owned(),
        n: the_same(&others),
        english: the_same(&english),
        languages,
        cells,
    })
}

/// The rows of these cells if they all have the same.
fn the_same(cells: &[&Cell]) -> Option<u64> {
    let rows = cells.first()?.rows;
    cells.iter().all(|cell| cell.rows == rows).then_some(rows)
}

/// Which tasks go into one mixture.
fn task_groups(design: &Design) -> Result<Vec<(Setting, Vec<String>)>> {
    let settings =
        if design.setting.is_empty() { &[Setting::SingleTask][..] } else { &design.setting };
    let mut groups = Vec::new();
    for &setting in settings {
        match setting {
            Setting::SingleTask => {
                groups.extend(design.tasks.iter().map(|task| (setting, vec![task.clone()])))
            }
            Setting::MultiTask if design.tasks.len() < 2 => {
                bail_user!(
                    "setting = \"multi-task\" needs two tasks or more; `tasks` has {}",
                    design.tasks.join(", ")
                )
            }
            Setting::MultiTask => groups.push((setting, design.tasks.clone())),
        }
    }
    Ok(groups)
}

fn language_sets(design: &Design) -> Result<Vec<Vec<String>>> {
    match (design.languages.is_empty(), design.language_sets.is_empty()) {
        (false, false) => {
            bail_user!("the design gives both `languages` and `language_sets`; keep one of them")
        }
        (true, true) => bail_user!("the design names no language; set languages = [\"en\", …]"),
        (false, true) => Ok(vec![canonical_list("languages", &design.languages)?]),
        (true, false) => {
            design.language_sets.iter().map(|set| canonical_list("language_sets", set)).collect()
        }
    }
}

fn canonical_list(key: &str, tags: &[String]) -> Result<Vec<String>> {
    let list = tags
        .iter()
        .map(|tag| language::canonical(tag).map_err(|error| error.context(format!("in `{key}`"))))
        .collect::<Result<Vec<_>>>()?;
    no_repeats(key, &list)?;
    Ok(list)
}

/// The English rows per task, after checking that `english` and the sets agree.
fn english_rows(design: &Design, sets: &[Vec<String>]) -> Result<u64> {
    if let Some(empty) = sets.iter().position(|set| set.is_empty()) {
        bail_user!("set {} of `language_sets` is empty", empty + 1);
    }
    let seen = sets.iter().flatten().any(|lang| lang == ENGLISH);
    match design.english {
        Some(0) | None if seen => {
            bail_user!(
                "English is among the languages, but the design does not say how many rows; set english = … (per task), or leave `en` out"
            )
        }
        Some(rows) if rows > 0 && !seen => {
            bail_user!(
                "english = {rows}, but English is not among the languages; add \"en\", or set english = 0"
            )
        }
        rows => Ok(rows.unwrap_or(0)),
    }
}

fn check_lists(design: &Design) -> Result<()> {
    no_repeats(
        "setting",
        &design.setting.iter().map(|setting| setting.name()).collect::<Vec<_>>(),
    )?;
    no_repeats("tasks", &design.tasks)?;
    no_repeats("n", &design.n)?;
    no_repeats("seeds", &design.seeds)?;
    no_repeats("sources", &design.sources)?;
    if design.seeds.is_empty() {
        bail_user!("`seeds` is empty; one data seed is the least");
    }
    let numbers = design.n.iter().chain(&design.seeds).chain(&design.english);
    if let Some(large) =
        numbers.chain([&design.validation.per_language]).find(|&&number| number > i64::MAX as u64)
    {
        bail_user!("{large} is too large a number");
    }
    Ok(())
}

fn no_repeats<T: PartialEq + std::fmt::Display>(key: &str, list: &[T]) -> Result<()> {
    for (index, value) in list.iter().enumerate() {
        if list[..index].contains(value) {
            bail_user!("`{key}` lists {value} twice");
        }
    }
    Ok(())
}

fn in_order(values: impl Iterator<Item = String>) -> Vec<String> {
    let mut list: Vec<String> = Vec::new();
    for value in values {
        if !list.contains(&value) {
            list.push(value);
        }
    }
    list
}

/// The parts joined, or their number and a hash where that would be too long for a folder name.
fn compact(parts: &[String], separator: &str, noun: &str) -> String {
    let joined = parts.join(separator);
    if joined.len() <= 60 {
        joined
    } else {
        format!("{}{noun}-{}", parts.len(), &hash_bytes(joined.as_bytes())[..8])
    }
}

fn file_safe(id: &str) -> String {
    id.chars().map(|c| if c.is_alphanumeric() || "+-._".contains(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests;
