//! What a judge is asked: a short TOML file with a template, one to rate an answer and one to compare two. Two ship with
//! the tool (`crates/eval/judge/`); a file of the user's own takes the place of one.

use std::path::Path;

use anyhow::Result;
use artifact::bail_user;
use artifact::config::{from_toml, load_toml};
use minijinja::{Environment, UndefinedBehavior};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Config;

/// How a judge is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    /// A short name, for the signature.
    pub name: String,
    /// One line for people.
    #[serde(default, skip_serializing)]
    pub about: String,
    /// The marks around the verdict in a reply.
    pub verdict: [String; 2],
    /// The system message, a template like `prompt`; none if empty.
    #[serde(default)]
    pub system: String,
    /// The user's message: a Jinja template over the fields of [`Shown`].
    pub prompt: String,
}

/// What the judge is shown of an answer.
#[derive(Clone, Copy)]
pub(super) struct Shown<'a> {
    /// Language tag.
    pub lang: &'a str,
    /// Task.
    pub task: &'a str,
    /// What the model was asked.
    pub question: &'a str,
    /// The answer, or the one that is shown first.
    pub answer: &'a str,
    /// The one that is shown second, in a comparison.
    pub other: Option<&'a str>,
    /// A right answer, where there is one.
    pub reference: Option<&'a str>,
}

impl Prompt {
    /// The prompt that asks for a rating.
    ///
    /// # Errors
    /// A user error where the file is missing or wrong.
    pub fn rating(config: &Config) -> Result<Prompt> {
        let shipped = ("rating.toml", include_str!("../../judge/rating.toml"));
        Prompt::load(config.rating_prompt.as_deref(), shipped, &["question", "answer"])
    }

    /// The prompt that asks for a comparison.
    ///
    /// # Errors
    /// A user error where the file is missing or wrong.
    pub fn pairwise(config: &Config) -> Result<Prompt> {
        let shipped = ("pairwise.toml", include_str!("../../judge/pairwise.toml"));
        let shown = ["question", "answer_a", "answer_b"];
        Prompt::load(config.pairwise_prompt.as_deref(), shipped, &shown)
    }

    fn load(own: Option<&Path>, shipped: (&str, &str), shown: &[&str]) -> Result<Prompt> {
        let (prompt, path): (Prompt, &Path) = match own {
            Some(path) => (load_toml(path)?, path),
            None => (from_toml(shipped.1, Path::new(shipped.0))?, Path::new(shipped.0)),
        };
        let path = path.display();
        if prompt.verdict.iter().any(|mark| mark.trim().is_empty()) {
            bail_user!(
                "{path}: `verdict` needs two marks that are not empty, such as [\"[[\", \"]]\"]"
            );
        }
        // Filled in with words that stand nowhere else, the template shows what it leaves out.
        let probe = Shown {
            lang: "en",
            task: "task",
            question: "\u{1}question",
            answer: "\u{1}answer",
            other: shown.contains(&"answer_b").then_some("\u{1}other"),
            reference: Some("reference"),
        };
        let filled = prompt
            .message(&prompt.prompt, &probe)
            .and_then(|text| prompt.message(&prompt.system, &probe).map(|_| text))
            .map_err(|error| artifact::error::user(format!("{path}: {error}")))?;
        let values = [probe.question, probe.answer, probe.other.unwrap_or_default()];
        let mut shown = shown.iter().zip(values);
        if let Some((name, _)) = shown.find(|(_, value)| !filled.contains(value)) {
            bail_user!("{path}: the template `prompt` does not contain {{{{ {name} }}}}");
        }
        Ok(prompt)
    }

    /// The messages of a request.
    pub(super) fn messages(&self, shown: &Shown) -> Result<Value> {
        let message = |role: &str, template: &str| -> Result<Value> {
            Ok(json!({"role": role, "content": self.message(template, shown)?.trim()}))
        };
        let mut messages = Vec::with_capacity(2);
        if !self.system.trim().is_empty() {
            messages.push(message("system", &self.system)?);
        }
        messages.push(message("user", &self.prompt)?);
        Ok(Value::Array(messages))
    }

    fn message(&self, template: &str, shown: &Shown) -> Result<String> {
        let mut values = vec![
            ("language", in_words(shown.lang)),
            ("lang", shown.lang.to_owned()),
            ("task", shown.task.to_owned()),
            ("question", shown.question.to_owned()),
            ("reference", shown.reference.unwrap_or_default().to_owned()),
        ];
        match shown.other {
            None => values.push(("answer", shown.answer.to_owned())),
            Some(other) => {
                values.push(("answer_a", shown.answer.to_owned()));
                values.push(("answer_b", other.to_owned()));
            }
        }
        let known: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
        let known = known.join(", ");
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.render_str(template, minijinja::Value::from_pairs(values)).map_err(|error| {
            artifact::error::user(format!(
                "the judge's prompt `{}` cannot be filled in: {error}; it may use {known}",
                self.name
            ))
        })
    }
}

/// A language in words, with its script where the tag names one: `Simplified Chinese`, `Serbian (Latin script)`.
fn in_words(tag: &str) -> String {
    let Some(name) = language::english_name(tag) else { return tag.to_owned() };
    let script = tag.split('-').nth(1);
    match script {
        Some("Hans") => format!("Simplified {name}"),
        Some("Hant") => format!("Traditional {name}"),
        Some("Latn") => format!("{name} (Latin script)"),
        Some("Cyrl") => format!("{name} (Cyrillic script)"),
        Some("Arab") => format!("{name} (Arabic script)"),
        Some("Deva") => format!("{name} (Devanagari script)"),
        Some("Guru") => format!("{name} (Gurmukhi script)"),
        Some(other) => format!("{name} (script {other})"),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(other: Option<&'static str>) -> Shown<'static> {
        Shown {
            lang: "zh-Hans", task: "t", question: "问?", answer: "答", other, reference: None
        }
    }

    #[test]
    fn the_shipped_prompts_name_the_language_in_words() {
        let prompt = Prompt::rating(&Config::default()).unwrap();
        let messages = prompt.messages(&shown(None)).unwrap();
        assert_eq!(messages[0]["role"], "system");
        let text = messages[1]["content"].as_str().unwrap();
        assert!(
            text.contains("in Simplified Chinese") && text.contains("<answer>\n答\n"),
            "{text}"
        );
        assert!(!text.contains("reference_answer"), "{text}");
        let prompt = Prompt::pairwise(&Config::default()).unwrap();
        let messages = prompt.messages(&shown(Some("另"))).unwrap();
        let text = messages[1]["content"].as_str().unwrap();
        assert!(text.find("答").unwrap() < text.find("另").unwrap(), "{text}");
    }

    #[test]
    fn what_a_user_writes_is_shown_and_never_runs() {
        let prompt = Prompt::rating(&Config::default()).unwrap();
        let shown = Shown { answer: "{{ question }} {% raw %}", ..shown(None) };
        let text = prompt.messages(&shown).unwrap()[1]["content"].to_string();
        assert!(text.contains("{{ question }} {% raw %}"), "{text}");
    }

    #[test]
    fn a_prompt_file_that_leaves_the_answer_out_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        let config = Config { rating_prompt: Some(path.clone()), ..Config::default() };
        let head = "name = \"mine\"\nverdict = [\"<r>\", \"</r>\"]\n";
        for (rest, word) in [
            ("prompt = \"{{ question }}\"", "{{ answer }}"),
            ("prompt = \"{{ question }} {{ answers }}\"", "reference, answer"),
            ("prompt = \"{{ question }} {{ answer }}\"\nsistem = \"x\"", "system"),
        ] {
            std::fs::write(&path, format!("{head}{rest}\n")).unwrap();
            let error = Prompt::rating(&config).unwrap_err();
            let said = error.to_string();
            assert!(artifact::error::is_user(&error), "{said}");
            assert!(said.contains("mine.toml") && said.contains(word), "{said}");
        }
        std::fs::write(&path, format!("{head}prompt = \"{{{{ question }}}} {{{{ answer }}}}\"\n"))
            .unwrap();
        assert_eq!(Prompt::rating(&config).unwrap().verdict[0], "<r>");
    }

    #[test]
    fn scripts_are_named_where_the_tag_has_one() {
        assert_eq!(in_words("sr-Latn"), "Serbian (Latin script)");
        assert_eq!(in_words("pt"), "Portuguese");
        assert_eq!(in_words("zh-Hant"), "Traditional Chinese");
    }
}
