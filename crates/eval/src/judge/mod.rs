//! A judge model rates answers and compares them with a baseline run's, through any OpenAI-compatible endpoint.
//!
//! ```text
//! generations ─prompt→ requests ─cache, or endpoint→ replies ─verdict→ scores.parquet
//! ```
//!
//! Metrics, one row each per answer: `judge_rating` (1 to 5), `judge_pass` (1 if the answer is in the language asked for),
//! `judge_switch_aware` (1 if it is not, else the rating), and
//! against a baseline `win_rate` (1 win, 0.5 tie, 0 loss; a win must hold in both orders of showing the two answers,
//! Zheng et al. 2023). A reply without a clear verdict is malformed: it is counted, shown, and has no value.
//!
//! [`cache`] keeps every reply under the content of its request, so that a rerun pays nothing; [`ask`] asks what is left,
//! many at a time, and [`endpoint`] is one exchange over HTTP. What decides a score enters a signature; where the endpoint
//! is, its key and its speed do not.

mod ask;
mod cache;
mod court;
mod endpoint;
mod pace;
mod prompt;
mod rows;
mod run;
mod summary;
mod verdict;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use artifact::{bail_user, hash};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Metric;
use crate::metric::fidelity::Share;
pub use prompt::Prompt;
pub use run::{estimate, run};
pub use summary::{Estimate, Summary};

/// Names the endpoint where the settings do not.
pub const URL_VARIABLE: &str = "ISOGLOSS_JUDGE_URL";
/// Holds the endpoint's key where the settings name no other variable.
pub const KEY_VARIABLE: &str = "ISOGLOSS_JUDGE_KEY";

/// Who judges, and what.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The judge, by the name that the endpoint knows it by.
    pub model: String,
    /// The endpoint: http://localhost:8000, https://api.example.com/v1; else ISOGLOSS_JUDGE_URL.
    #[serde(skip_serializing)]
    pub base_url: Option<String>,
    /// The environment variable that holds the endpoint's key; else ISOGLOSS_JUDGE_KEY, if that is set.
    #[serde(skip_serializing)]
    pub key_env: Option<String>,
    /// The tasks whose answers are judged; empty: all.
    pub tasks: Vec<String>,
    /// Whether answers are rated from 1 to 5.
    pub rating: bool,
    /// The run that every other run is compared with, answer by answer.
    pub baseline: Option<String>,
    /// A prompt file of your own to ask for ratings with.
    pub rating_prompt: Option<PathBuf>,
    /// A prompt file of your own to ask for comparisons with.
    pub pairwise_prompt: Option<PathBuf>,
    /// What goes into each request beside model and messages, as the endpoint knows it.
    pub parameters: BTreeMap<String, Value>,
    /// What decides whether an answer is in its language: the answer as a whole, or each of its lines.
    pub language_check: LanguageCheck,
    /// The language detector's candidates (English is always one); empty: the languages of the generations.
    pub languages: Vec<String>,
    /// Column names that differ from ours: ours = theirs.
    pub map: BTreeMap<String, String>,
    /// The language of rows that name none.
    pub lang: Option<String>,
    /// Prompts or examples that the answers are joined with by `example_id`, for files that hold no more than ids and answers.
    #[serde(skip)]
    pub prompts: Option<PathBuf>,
    /// The task of rows that name none.
    pub task: Option<String>,
    /// The run of rows that name none; the file's name if not given.
    pub run_id: Option<String>,
    /// The share of requests that may fail for good; their answers have no value. More stop the run.
    pub max_failed: f64,
    /// Requests in flight at a time.
    #[serde(skip_serializing)]
    pub concurrency: usize,
    /// Requests a minute at most; as fast as the endpoint goes if not given.
    #[serde(skip_serializing)]
    pub requests_per_minute: Option<f64>,
    /// Seconds to wait for one reply.
    #[serde(skip_serializing)]
    pub timeout: f64,
    /// Times that a request is sent at most.
    #[serde(skip_serializing)]
    pub attempts: u32,
    /// Seconds before the second attempt; doubled before each further one, up to a minute.
    #[serde(skip_serializing)]
    pub retry_wait: f64,
    /// Seconds for a request with all its attempts and waits.
    #[serde(skip_serializing)]
    pub give_up_after: f64,
    /// What the endpoint charges.
    #[serde(skip_serializing)]
    pub price: Option<Price>,
    /// The folder that keeps replies; by default isogloss/judge in the user's cache folder.
    #[serde(skip_serializing)]
    pub cache: Option<PathBuf>,
}

/// How an answer's language is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LanguageCheck {
    /// The answer as a whole is in the language (`language_fidelity`).
    #[default]
    Answer,
    /// Every line of 5 or more words is (`line_pass`).
    Lines,
}

impl LanguageCheck {
    /// The metric that decides.
    pub(crate) fn metric(self) -> Metric {
        match self {
            LanguageCheck::Answer => Metric::Language(Share::Asked),
            LanguageCheck::Lines => Metric::LinePass,
        }
    }
}

/// Prices per million tokens, in any currency.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Of what is sent.
    pub prompt: f64,
    /// Of what comes back.
    pub completion: f64,
}

impl Price {
    /// What so many tokens cost.
    pub(crate) fn of(self, prompt: u64, completion: u64) -> f64 {
        (self.prompt * prompt as f64 + self.completion * completion as f64) / 1e6
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            model: String::new(),
            base_url: None,
            key_env: None,
            tasks: Vec::new(),
            rating: true,
            baseline: None,
            rating_prompt: None,
            pairwise_prompt: None,
            parameters: [
                ("temperature".to_owned(), json!(0)),
                ("max_tokens".to_owned(), json!(512)),
            ]
            .into(),
            language_check: LanguageCheck::default(),
            languages: Vec::new(),
            map: BTreeMap::new(),
            lang: None,
            prompts: None,
            task: None,
            run_id: None,
            max_failed: 0.01,
            concurrency: 8,
            requests_per_minute: None,
            timeout: 120.0,
            attempts: 6,
            retry_wait: 1.0,
            give_up_after: 900.0,
            price: None,
            cache: None,
        }
    }
}

impl Config {
    /// The endpoint that is asked: that of the settings, or else of the environment; `None` where there is no endpoint.
    pub fn endpoint(&self) -> Option<String> {
        let given = |url: String| (!url.trim().is_empty()).then(|| url.trim().to_owned());
        match &self.base_url {
            Some(url) => given(url.clone()),
            None => std::env::var(URL_VARIABLE).ok().and_then(given),
        }
    }

    /// Refuses settings that cannot be meant, with or without a baseline to compare with.
    ///
    /// # Errors
    /// A user error that names the setting.
    pub fn check(&self, has_baseline: bool) -> Result<()> {
        if self.model.trim().is_empty() {
            bail_user!("the judge has no name: give `model`, as the endpoint knows it");
        }
        if !self.rating && !has_baseline {
            bail_user!("there is nothing to judge: `rating` is false and there is no `baseline`");
        }
        for name in ["model", "messages", "stream", "n"] {
            if self.parameters.contains_key(name) {
                bail_user!("`parameters` cannot hold `{name}`, which isogloss sets itself");
            }
        }
        let positive = [
            ("timeout", self.timeout),
            ("retry_wait", self.retry_wait),
            ("give_up_after", self.give_up_after),
            ("requests_per_minute", self.requests_per_minute.unwrap_or(1.0)),
        ];
        // The upper end keeps sums of waits within what a clock can hold.
        if let Some((name, value)) = positive.iter().find(|(_, value)| !(1e-3..1e9).contains(value))
        {
            bail_user!("`{name}` is {value}, where a number above 0 is needed");
        }
        if self.concurrency == 0 || self.attempts == 0 {
            bail_user!("`concurrency` and `attempts` must be at least 1");
        }
        if !(0.0..=1.0).contains(&self.max_failed) {
            bail_user!("`max_failed` is {}, where a share from 0 to 1 is needed", self.max_failed);
        }
        if let Some(price) = self.price
            && !(price.prompt >= 0.0 && price.completion >= 0.0)
        {
            bail_user!("`price` must not be below 0");
        }
        Ok(())
    }

    /// What decides the scores, for the store's key: the prompts' content instead of their paths.
    ///
    /// # Errors
    /// A user error where a prompt file is missing or wrong.
    pub fn semantics(&self) -> Result<Value> {
        let mut settings = json!(self);
        for (name, prompt) in
            [("rating_prompt", Prompt::rating(self)?), ("pairwise_prompt", Prompt::pairwise(self)?)]
        {
            settings[name] = json!(prompt);
        }
        Ok(settings)
    }

    /// The judge and how it is asked, as part of a score's signature.
    pub(crate) fn signature(&self, prompt: &Prompt) -> String {
        let content = json!(prompt).to_string();
        let hash = &hash::hash_bytes(content.as_bytes())[..8];
        let mut parts = vec![format!("judge:{}|prompt:{}@{hash}", self.model, prompt.name)];
        parts.extend(self.parameters.iter().map(|(name, value)| format!("{name}:{value}")));
        parts.join("|")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_and_how_fast_is_not_part_of_what_decides_a_score() {
        let config = Config { model: "m".into(), ..Config::default() };
        let elsewhere = Config {
            base_url: Some("http://there".into()),
            key_env: Some("KEY".into()),
            concurrency: 3,
            timeout: 1.0,
            price: Some(Price { prompt: 1.0, completion: 2.0 }),
            cache: Some("c".into()),
            ..config.clone()
        };
        assert_eq!(config.semantics().unwrap(), elsewhere.semantics().unwrap());
        let other = Config { model: "n".into(), ..Config::default() };
        assert_ne!(config.semantics().unwrap(), other.semantics().unwrap());
    }

    #[test]
    fn settings_that_cannot_be_meant_are_the_users_error() {
        let fine = Config { model: "m".into(), ..Config::default() };
        assert!(fine.check(false).is_ok());
        let parameters = [("stream".to_owned(), json!(true))].into();
        for (wrong, word) in [
            (Config::default(), "model"),
            (Config { rating: false, ..fine.clone() }, "nothing to judge"),
            (Config { parameters, ..fine.clone() }, "stream"),
            (Config { timeout: f64::NAN, ..fine.clone() }, "timeout"),
            (Config { requests_per_minute: Some(0.0), ..fine.clone() }, "requests_per_minute"),
            (Config { concurrency: 0, ..fine.clone() }, "concurrency"),
            (Config { max_failed: 2.0, ..fine.clone() }, "max_failed"),
        ] {
            let error = wrong.check(false).expect_err(word);
            assert!(
                artifact::error::is_user(&error) && error.to_string().contains(word),
                "{error}"
            );
        }
    }
}
