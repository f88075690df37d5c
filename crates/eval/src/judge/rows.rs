//! What is to be judged: the answers of a batch of generations with their ids, and the answers of the baseline run that
//! they are compared with.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use anyhow::Result;
use artifact::config::nearest;
use artifact::polars::prelude::*;
use artifact::{Context, bail_user};

use super::Config;
use crate::input::{Asked, Input, Reading};
use crate::metric::Metric;
use crate::metric::fidelity::Share;
use crate::score::{self, Ids, Survey};

/// How the files are read.
///
/// # Errors
/// A user error where the prompts to join with cannot be read.
pub(super) fn reading(config: &Config) -> Result<Reading> {
    let asked = config.prompts.as_deref().map(Asked::read).transpose()?;
    Ok(Reading { map: config.map.clone(), lang: config.lang.clone(), asked })
}

/// The settings by which scoring fills in ids, which judging fills in alike.
pub(super) fn naming(config: &Config) -> score::Config {
    score::Config {
        task: config.task.clone(),
        run_id: config.run_id.clone(),
        // With metrics of its own a row need not name a task.
        metrics: vec![Metric::Language(Share::Asked)],
        ..score::Config::default()
    }
}

/// Files as inputs.
pub(super) fn inputs<'a>(paths: &[PathBuf], reading: &'a Reading) -> Result<Vec<Input<'a>>> {
    paths.iter().map(|path| Input::new(path, reading)).collect()
}

/// The texts of a batch.
pub(super) struct Texts {
    questions: StringChunked,
    answers: StringChunked,
    references: StringChunked,
}

impl Texts {
    /// Of a batch of generations.
    pub fn of(batch: &DataFrame) -> Result<Texts> {
        let column = |name: &str| -> Result<StringChunked> {
            Ok(batch.column(name)?.str()?.rechunk().into_owned())
        };
        Ok(Texts {
            questions: column("prompt")?,
            answers: column("generation")?,
            references: column("reference")?,
        })
    }

    /// What was asked.
    pub fn question(&self, at: usize) -> Option<&str> {
        self.questions.get(at).filter(|text| !text.trim().is_empty())
    }

    /// What was answered; empty if nothing was.
    pub fn answer(&self, at: usize) -> &str {
        self.answers.get(at).unwrap_or_default().trim()
    }

    /// A right answer.
    pub fn reference(&self, at: usize) -> Option<&str> {
        self.references.get(at).map(str::trim).filter(|text| !text.is_empty())
    }
}

/// The answers of the run that others are compared with.
#[derive(Debug, Default)]
pub(super) struct Baseline {
    /// Its id.
    pub run_id: String,
    by_example: HashMap<[String; 3], String>,
    /// `None` where an item stands there several times.
    by_item: HashMap<[String; 3], Option<String>>,
}

impl Baseline {
    /// Reads the run `wanted` (or, with none named, the only one) from `inputs`.
    ///
    /// # Errors
    /// A user error where there is no such run.
    pub fn read(
        wanted: Option<&str>,
        inputs: &[Input],
        config: &Config,
        ctx: &Context,
    ) -> Result<Baseline> {
        let naming = naming(config);
        let survey = Survey::of(inputs, &naming, ctx)?;
        let mut runs: BTreeSet<String> = BTreeSet::new();
        let mut baseline =
            Baseline { run_id: wanted.unwrap_or_default().to_owned(), ..Baseline::default() };
        for input in inputs {
            let mut row = 0;
            for batch in input.batches()? {
                ctx.check()?;
                let batch = batch?;
                let ids = survey.ids(&batch, input, &naming, row)?;
                let texts = Texts::of(&batch)?;
                for (at, id) in ids.into_iter().enumerate() {
                    if wanted.is_none_or(|wanted| wanted == id.run_id) {
                        baseline.add(&id, texts.answer(at));
                    }
                    runs.insert(id.run_id);
                }
                row += batch.height();
            }
        }
        let shown = || runs.iter().cloned().collect::<Vec<_>>().join(", ");
        match wanted {
            Some(wanted) if !runs.contains(wanted) => {
                let near = nearest(wanted, runs.iter().map(String::as_str))
                    .map_or(String::new(), |near| format!(", is it `{near}`?"));
                bail_user!("baseline: there is no run `{wanted}`{near} There are: {}", shown())
            }
            None if runs.len() > 1 => bail_user!(
                "the generations to compare with hold several runs: name one as the baseline. There are: {}",
                shown()
            ),
            None => baseline.run_id = runs.into_iter().next().unwrap_or_default(),
            _ => {}
        }
        Ok(baseline)
    }

    fn add(&mut self, id: &Ids, answer: &str) {
        let [example, item] = keys(id);
        self.by_example.insert(example, answer.to_owned());
        self.by_item
            .entry(item)
            .and_modify(|known| *known = None)
            .or_insert_with(|| Some(answer.to_owned()));
    }

    /// Its answer to the same example, or else to the same item in the same language.
    pub fn answer(&self, id: &Ids) -> Option<&str> {
        let [example, item] = keys(id);
        let by_item = || self.by_item.get(&item)?.as_deref();
        self.by_example.get(&example).map(String::as_str).or_else(by_item)
    }
}

fn keys(id: &Ids) -> [[String; 3]; 2] {
    [&id.example_id, &id.item_id].map(|name| [id.task.clone(), id.lang.clone(), name.clone()])
}
