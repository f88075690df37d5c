//! A task is a short TOML file: how a prompt is made, what comes before it as examples, and which metrics score the answer.
//!
//! The study's three tasks ship with the tool (`crates/eval/tasks/`). A file of the user's own adds a task or, under the same name,
//! takes the place of one. Tables by language are looked up by the whole tag (`zh-Hans`), then by its language (`zh`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use artifact::bail_user;
use artifact::config::{from_toml, load_toml, nearest};
use minijinja::{Environment, UndefinedBehavior};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::metric::Metric;
use crate::metric::exact_match::Marks;

const SHIPPED: &[(&str, &str)] = &[
    ("instruction.toml", include_str!("../tasks/instruction.toml")),
    ("math.toml", include_str!("../tasks/math.toml")),
    ("summarization.toml", include_str!("../tasks/summarization.toml")),
];

/// How one task is asked and scored.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// What stands in the `task` column.
    pub name: String,
    /// One line for people.
    #[serde(default)]
    pub about: String,
    /// The metrics, in the order of their rows.
    pub metrics: Vec<Metric>,
    /// The user's message, a Jinja template over `prompt` (the example's own message), `lang` and the names in `strings`.
    #[serde(default = "as_it_is")]
    pub prompt: String,
    /// A system message for every prompt; the example's own stands if there is none here.
    #[serde(default)]
    pub system: Option<String>,
    /// At most this many test items in each language, drawn by the seed; parallel items are drawn together.
    #[serde(default)]
    pub max_items: Option<usize>,
    /// Worked examples before the question.
    #[serde(default)]
    pub shots: Shots,
    /// By language: phrases that introduce the final answer.
    #[serde(default)]
    pub answer_prefix: BTreeMap<String, Vec<String>>,
    /// By language: texts at which an answer that runs on is cut.
    #[serde(default)]
    pub stop: BTreeMap<String, Vec<String>>,
    /// By name, then language: texts for the template.
    #[serde(default)]
    pub strings: BTreeMap<String, BTreeMap<String, String>>,
}

/// Worked examples before the question.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Shots {
    /// How many.
    pub count: usize,
    /// The split they are drawn from; never an item that is in the test split in any language.
    pub split: String,
    /// Their language; that of the question if not given.
    pub lang: Option<String>,
    /// Turns of the conversation, or one text.
    pub layout: Layout,
}

/// Where worked examples stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Each is a user and an assistant message.
    Turns,
    /// All stand in the one user message, blank lines between them.
    Text,
}

impl Default for Shots {
    fn default() -> Self {
        Self { count: 0, split: "train".to_owned(), lang: None, layout: Layout::Turns }
    }
}

fn as_it_is() -> String {
    "{{ prompt }}".to_owned()
}

impl Task {
    /// Answer prefixes and stops for a language; those of English count in every language.
    pub fn marks(&self, lang: &str) -> Marks {
        let collect = |table: &BTreeMap<String, Vec<String>>| {
            let own = by_language(table, lang).into_iter().flatten();
            let english = table.get("en").into_iter().flatten();
            own.chain(english).cloned().collect::<Vec<_>>()
        };
        let prefixes =
            collect(&self.answer_prefix).iter().map(|prefix| prefix.to_lowercase()).collect();
        Marks { prefixes, stops: collect(&self.stop) }
    }

    /// The user's message for an example's own message.
    pub fn render(&self, prompt: &str, lang: &str) -> Result<String> {
        let strings = self
            .strings
            .iter()
            .filter_map(|(name, table)| Some((name.as_str(), by_language(table, lang)?.as_str())));
        let values =
            minijinja::Value::from_pairs(strings.chain([("prompt", prompt), ("lang", lang)]));
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.render_str(&self.prompt, values).map_err(|error| {
            artifact::error::user(format!(
                "task `{}`, language {lang}: its prompt template cannot be filled in: {error}; it may use `prompt`, `lang` and what \
                 [strings] has for this language",
                self.name
            ))
        })
    }

    fn check(&self, path: &Path) -> Result<()> {
        let path = path.display();
        if self.name.is_empty() {
            bail_user!("{path}: `name` is empty: it must be what stands in the `task` column");
        }
        if self.metrics.is_empty() {
            bail_user!("{path}: `metrics` is empty: name at least one, such as \"chrf\"");
        }
        if !self.prompt.contains("prompt") {
            bail_user!(
                "{path}: the template `prompt` does not contain {{{{ prompt }}}}, so every question would be the same"
            );
        }
        let tables = [&self.answer_prefix, &self.stop].into_iter().flat_map(BTreeMap::keys);
        for tag in tables.chain(self.strings.values().flat_map(BTreeMap::keys)) {
            language::canonical(tag)
                .map_err(|error| artifact::error::user(format!("{path}: {error}")))?;
        }
        Ok(())
    }
}

/// The entry for a tag, or else for its language.
fn by_language<'a, T>(table: &'a BTreeMap<String, T>, lang: &str) -> Option<&'a T> {
    table.get(lang).or_else(|| table.get(lang.split('-').next().unwrap_or(lang)))
}

/// All tasks that are known, by name.
#[derive(Clone, Debug, Serialize)]
pub struct Tasks(BTreeMap<String, Task>);

/// The tasks that ship with the tool, and those of the user's `files`.
pub fn load(files: &[PathBuf]) -> Result<Tasks> {
    let mut tasks = BTreeMap::new();
    for (name, text) in SHIPPED {
        let task: Task = from_toml(text, Path::new(name))?;
        tasks.insert(task.name.clone(), task);
    }
    for path in files {
        let task: Task = load_toml(path)?;
        task.check(path)?;
        tasks.insert(task.name.clone(), task);
    }
    Ok(Tasks(tasks))
}

impl Tasks {
    /// The task of that name; a user error with the nearest name if there is none.
    pub fn get(&self, name: &str) -> Result<&Task> {
        if let Some(task) = self.0.get(name) {
            return Ok(task);
        }
        let names: Vec<&str> = self.0.keys().map(String::as_str).collect();
        let near = nearest(name, names.iter().copied())
            .map_or(".".to_owned(), |near| format!("; did you mean `{near}`?"));
        bail_user!(
            "unknown task `{name}`{near} Known: {}. Give a file of your own by `tasks`.",
            names.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_tasks_are_the_studys_three() {
        let tasks = load(&[]).expect("shipped tasks");
        let names: Vec<_> = tasks.0.keys().map(String::as_str).collect();
        assert_eq!(names, ["instruction", "math", "summarization"]);
        for (name, task) in &tasks.0 {
            task.check(Path::new(name)).expect("a shipped task is right");
        }
        assert_eq!(tasks.get("math").expect("math").shots.count, 8);
    }

    #[test]
    fn an_unknown_task_names_the_nearest() {
        let error = load(&[]).expect("tasks").get("maths").expect_err("unknown");
        assert!(artifact::error::is_user(&error));
        assert!(error.to_string().contains("did you mean `math`"), "{error}");
    }

    #[test]
    fn a_users_file_is_checked_and_takes_the_place_of_a_shipped_task() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("mine.toml");
        std::fs::write(&path, "name = \"math\"\nmetrics = [\"chrf\"]\nprompt = \"{{ ask }}: {{ prompt }}\"\n[strings.ask]\nes = \"Di\"\n").expect("write");
        let tasks = load(std::slice::from_ref(&path)).expect("a right file");
        let task = tasks.get("math").expect("math");
        assert_eq!(task.render("¿Qué?", "es").expect("rendered"), "Di: ¿Qué?");
        let error = task.render("What?", "fr").expect_err("no string for French");
        assert!(error.to_string().contains("fr"), "{error}");

        std::fs::write(&path, "name = \"x\"\nmetrics = [\"chrff\"]\n").expect("write");
        let error = load(std::slice::from_ref(&path)).expect_err("a misspelt metric");
        assert!(
            error.to_string().contains("mine.toml:2") && error.to_string().contains("chrf"),
            "{error}"
        );
        std::fs::write(&path, "name = \"x\"\nmetrics = [\"chrf\"]\nprompts = \"\"\n")
            .expect("write");
        assert!(
            load(std::slice::from_ref(&path))
                .expect_err("an unknown key")
                .to_string()
                .contains("`prompt`")
        );
    }

    #[test]
    fn a_table_is_looked_up_by_tag_then_by_language() {
        let tasks = load(&[]).expect("tasks");
        let marks = tasks.get("math").expect("math").marks("zh-Hans");
        assert!(
            marks.prefixes.contains(&"答案是".to_owned())
                && marks.prefixes.contains(&"the answer is".to_owned())
        );
    }
}
