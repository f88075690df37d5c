//! Generations in, `scores.parquet` out: one row per answer and metric, with the run's factors.
//!
//! Two passes over the inputs: the first finds the languages (the detector's candidates), tasks and columns, the second scores batch
//! by batch, the rows of a batch side by side. Order is that of the input, then that of the metrics, so the bytes do not
//! depend on the number of threads; memory is bounded by the largest batch.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use anyhow::Result;
use artifact::error::user;
use artifact::parquet::Writer;
use artifact::polars::prelude::*;
use artifact::schema::SCORES;
use artifact::{Context, bail_user};
use language::{Accuracy, Detector, canonical};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::input::{Asked, Input, Reading};
use crate::metric::exact_match::Marks;
use crate::metric::mecab::Dictionary;
use crate::metric::{Item, Metric, Tools, Value};
use crate::summary::Summary;
use crate::task::{self, Tasks};

/// How generations are scored.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Task files of your own, besides the tasks that ship.
    pub tasks: Vec<PathBuf>,
    /// The task of rows that name none.
    pub task: Option<String>,
    /// Metrics for every row; empty: those of each row's task.
    pub metrics: Vec<Metric>,
    /// The language detector's candidates (English is always one); empty: the languages of the generations.
    pub languages: Vec<String>,
    /// How languages are identified: `accurate`, or `fast`, which cannot tell Swahili and a few words.
    pub detector: Accuracy,
    /// Column names that differ from ours: ours = theirs. A path names a value inside: "choices[0].message.content".
    pub map: BTreeMap<String, String>,
    /// The language of rows that name none.
    pub lang: Option<String>,
    /// Prompts or examples that the answers are joined with by `example_id`, for files that hold no more than ids and answers.
    #[serde(skip)]
    pub prompts: Option<PathBuf>,
    /// The folder of a MeCab dictionary, for the metrics that segment Japanese (rouge_l_xlsum and its like, bleu).
    pub mecab: Option<PathBuf>,
    /// The run of rows that name none; the file's name if not given.
    pub run_id: Option<String>,
}

/// Columns of generations that belong to one answer and are not carried into its scores.
const PER_ANSWER: &[&str] =
    &["prompt", "generation", "finish_reason", "reference", "prompt_tokens", "generated_tokens"];
/// Scores `generations` into `out/scores.parquet`.
pub fn run(config: &Config, generations: &[PathBuf], out: &Path, ctx: &Context) -> Result<Summary> {
    let asked = config.prompts.as_deref().map(Asked::read).transpose()?;
    let reading = Reading { map: config.map.clone(), lang: config.lang.clone(), asked };
    let inputs =
        generations.iter().map(|path| Input::new(path, &reading)).collect::<Result<Vec<_>>>()?;
    let survey = Survey::of(&inputs, config, ctx)?;
    if survey.unanswered > 0 {
        ctx.warn(format!(
            "{} of {} rows have no generation and count as empty answers",
            survey.unanswered, survey.total
        ));
    }
    let scorer = Scorer::new(config, &survey)?;
    let bar = ctx.bar("eval", "answers", Some(survey.total));
    let mut writer = Writer::create(&out.join("scores.parquet"), &SCORES)?;
    let mut summary = Summary::default();
    for input in &inputs {
        let mut row = 0;
        for batch in input.batches()? {
            ctx.check()?;
            let batch = batch?;
            let ids = survey.ids(&batch, input, config, row)?;
            let scores = scorer.score(&batch, &ids)?;
            summary.add(&ids, &scores);
            writer.write(&survey.frame(&batch, &ids, &rows(&scores), input.path())?)?;
            row += batch.height();
            bar.inc(batch.height() as u64);
        }
    }
    writer.finish()?;
    bar.finish();
    for warning in summary.warnings() {
        ctx.warn(warning);
    }
    Ok(summary)
}

/// Ids of one answer, filled in where the input has none.
pub(crate) struct Ids {
    pub run_id: String,
    pub example_id: String,
    pub item_id: String,
    pub lang: String,
    pub task: String,
}

/// One metric's value for one answer, with its signature.
pub(crate) struct Score<'a> {
    pub metric: Metric,
    pub signature: &'a str,
    pub value: Value,
}

/// One row of the output.
pub(crate) struct ScoreRow<'a> {
    /// The answer's row in its batch.
    pub at: usize,
    pub metric: &'a str,
    pub value: Option<f64>,
    pub detail: Option<&'a str>,
    pub signature: &'a str,
}

/// What the inputs hold, found in a first pass.
#[derive(Default)]
pub(crate) struct Survey {
    languages: BTreeMap<String, String>, // as written → canonical
    tasks: BTreeSet<String>,
    carried: Vec<(String, DataType)>,
    has_reference: bool,
    unanswered: u64,
    total: u64,
}

impl Survey {
    pub(crate) fn of(inputs: &[Input], config: &Config, ctx: &Context) -> Result<Survey> {
        let mut survey = Survey::default();
        let mut unnamed_runs: Vec<String> = Vec::new();
        for input in inputs {
            let (mut row, mut unnamed) = (0, false);
            for batch in input.batches()? {
                ctx.check()?;
                let batch = batch?;
                survey.columns(&batch);
                survey.rows(&batch, config, input.path(), row)?;
                row += batch.height();
                survey.unanswered += batch.column("generation")?.null_count() as u64;
                unnamed |= config.run_id.is_none() && batch.column("run_id")?.null_count() > 0;
            }
            survey.total += row as u64;
            if unnamed && unnamed_runs.contains(&input.stem()) {
                bail_user!(
                    "{}: its rows name no run, and another input of the same name has such rows too; add a column `run_id` to \
                     tell the runs apart, or give `run_id` if they are one",
                    input.path().display()
                );
            }
            unnamed_runs.extend(unnamed.then(|| input.stem()));
        }
        if survey.total == 0 {
            let paths: Vec<String> =
                inputs.iter().map(|input| input.path().display().to_string()).collect();
            bail_user!("there are no generations in {}", paths.join(", "));
        }
        Ok(survey)
    }

    /// Notes the columns to be carried along: those of one value a row that are not the answer's own.
    fn columns(&mut self, batch: &DataFrame) {
        self.has_reference |=
            batch.column("reference").is_ok_and(|column| column.null_count() < column.len());
        for column in batch.columns() {
            let (name, dtype) = (column.name().as_str(), column.dtype());
            let made = SCORES.columns.iter().any(|spec| spec.name == name && name != "mixture_id");
            let known = PER_ANSWER.contains(&name) || made;
            let scalar = dtype.is_primitive_numeric()
                || matches!(dtype, DataType::String | DataType::Boolean);
            if !known && scalar && !self.carried.iter().any(|(carried, _)| carried == name) {
                self.carried.push((name.to_owned(), dtype.clone()));
            }
        }
    }

    /// Notes languages and tasks; `first` is the batch's first row in its file.
    fn rows(
        &mut self,
        batch: &DataFrame,
        config: &Config,
        path: &Path,
        first: usize,
    ) -> Result<()> {
        let (langs, tasks) = (batch.column("lang")?.str()?, batch.column("task")?.str()?);
        for (at, (lang, task)) in langs.iter().zip(tasks.iter()).enumerate() {
            let place = || format!("{}: row {}", path.display(), first + at + 1);
            let Some(lang) = lang else {
                bail_user!(
                    "{}: `lang` is empty: it must say which language was asked for",
                    place()
                );
            };
            if !self.languages.contains_key(lang) {
                let known =
                    canonical(lang).map_err(|error| user(format!("{}: {error}", place())))?;
                self.languages.insert(lang.to_owned(), known);
            }
            match task.or(config.task.as_deref()) {
                Some(task) if !self.tasks.contains(task) => {
                    self.tasks.insert(task.to_owned());
                }
                None if config.metrics.is_empty() => bail_user!(
                    "{}: it names no task, so there is no telling its metrics; give `task` (math, summarization, instruction or \
                     one of your own) or `metrics`",
                    place()
                ),
                _ => {}
            }
        }
        Ok(())
    }

    /// The languages, canonical.
    pub(crate) fn languages(&self) -> Vec<String> {
        self.languages.values().cloned().collect()
    }

    /// The ids of a batch whose first row is `first` in its file.
    pub(crate) fn ids(
        &self,
        batch: &DataFrame,
        input: &Input,
        config: &Config,
        first: usize,
    ) -> Result<Vec<Ids>> {
        let column =
            |name: &str| -> Result<StringChunked> { Ok(batch.column(name)?.str()?.clone()) };
        let (runs, examples, items) =
            (column("run_id")?, column("example_id")?, column("item_id")?);
        let (langs, tasks) = (column("lang")?, column("task")?);
        let stem = input.stem();
        let run_id = config.run_id.as_ref().unwrap_or(&stem);
        Ok((0..batch.height())
            .map(|at| {
                // The row number pairs the same row of other runs' files; the file's name keeps this one apart.
                let row = format!("row-{:06}", first + at + 1);
                let example = examples.get(at);
                let item_id = items.get(at).or(example).unwrap_or(&row).to_owned();
                let example_id = example.map_or_else(|| format!("{stem}:{row}"), str::to_owned);
                let lang = langs.get(at).unwrap_or_default();
                Ids {
                    run_id: runs.get(at).unwrap_or(run_id).to_owned(),
                    item_id,
                    example_id,
                    lang: self.languages.get(lang).map_or(lang, String::as_str).to_owned(),
                    task: tasks.get(at).or(config.task.as_deref()).unwrap_or(UNNAMED).to_owned(),
                }
            })
            .collect())
    }

    /// Score rows of a batch (read from `path`): ids, metric, value, detail, signature, and what is carried along.
    pub(crate) fn frame(
        &self,
        batch: &DataFrame,
        ids: &[Ids],
        rows: &[ScoreRow],
        path: &Path,
    ) -> Result<DataFrame> {
        let id = |name: &str, pick: fn(&Ids) -> &str| {
            text(name, rows.iter().map(|row| Some(pick(&ids[row.at]))))
        };
        let values = rows.iter().map(|row| row.value);
        let mut columns = vec![
            id("run_id", |id| &id.run_id),
            id("example_id", |id| &id.example_id),
            id("item_id", |id| &id.item_id),
            id("lang", |id| &id.lang),
            id("task", |id| &id.task),
            text("metric", rows.iter().map(|row| Some(row.metric))),
            Float64Chunked::from_iter_options("value".into(), values).into_column(),
            text("detail", rows.iter().map(|row| row.detail)),
            text("signature", rows.iter().map(|row| Some(row.signature))),
        ];
        let taken: Vec<IdxSize> = rows.iter().map(|row| row.at as IdxSize).collect();
        let taken = IdxCa::from_vec("rows".into(), taken);
        for (name, dtype) in &self.carried {
            columns.push(match batch.column(name) {
                Ok(column) => column
                    .strict_cast(dtype)
                    .and_then(|column| column.take(&taken))
                    .map_err(|_| {
                        let found = column.dtype();
                        user(format!(
                            "{}: column `{name}` holds {found}, where an earlier input has {dtype}",
                            path.display()
                        ))
                    })?,
                Err(_) => Column::full_null(name.as_str().into(), taken.len(), dtype),
            });
        }
        Ok(DataFrame::new(taken.len(), columns)?)
    }
}

/// The scores of a batch's answers as rows.
fn rows<'a>(scores: &'a [Vec<Score>]) -> Vec<ScoreRow<'a>> {
    let row = |at, score: &'a Score<'a>| ScoreRow {
        at,
        metric: score.metric.name(),
        value: score.value.value,
        detail: score.value.detail.as_deref(),
        signature: score.signature,
    };
    let answers = scores.iter().enumerate();
    answers.flat_map(|(at, of)| of.iter().map(move |score| row(at, score))).collect()
}

fn text<'a>(name: &str, values: impl Iterator<Item = Option<&'a str>>) -> Column {
    StringChunked::from_iter_options(name.into(), values).into_column()
}

/// The task name of rows that have none and are scored by named metrics.
const UNNAMED: &str = "unnamed";

/// What each answer is scored by, with what that needs.
struct Scorer {
    /// By task and language.
    plans: HashMap<(String, String), Plan>,
    tools: Tools,
}

/// How the answers of one task in one language are scored.
struct Plan {
    marks: Marks,
    /// Each metric with its signature.
    metrics: Vec<(Metric, String)>,
}

impl Scorer {
    fn new(config: &Config, survey: &Survey) -> Result<Scorer> {
        let tasks: Tasks = task::load(&config.tasks)?;
        let languages: Vec<String> = if config.languages.is_empty() {
            survey.languages.values().cloned().collect()
        } else {
            config.languages.clone()
        };
        let dictionary = config.mecab.as_deref().map(Dictionary::read).transpose()?;
        let tools = Tools { detector: Detector::with(&languages, config.detector)?, dictionary };
        let mut plans = HashMap::new();
        for name in survey.tasks.iter().map(String::as_str).chain([UNNAMED]) {
            let known = tasks.get(name);
            let metrics = match (&known, config.metrics.is_empty()) {
                (_, false) => config.metrics.clone(),
                (Ok(task), true) => task.metrics.clone(),
                (Err(_), true) if name == UNNAMED => continue, // no row has it
                (Err(_), true) => {
                    return Err(known
                        .err()
                        .unwrap_or_else(|| anyhow::anyhow!("unknown task {name}")));
                }
            };
            if let Some(metric) =
                metrics.iter().find(|metric| metric.needs_reference() && !survey.has_reference)
            {
                bail_user!(
                    "task `{name}`: the metric `{}` compares with a reference, and the generations have no column `reference` with \
                     anything in it; name it by `map`, or give `metrics` that need none (language_fidelity, line_pass, extracted)",
                    metric.name()
                );
            }
            // A task of one's own without a file is read with the answer prefixes of maths.
            let task = known.or_else(|_| tasks.get("math"))?;
            for lang in survey.languages.values() {
                let signed = |&metric: &Metric| (metric, metric.signature(lang, &tools));
                let metrics = metrics.iter().map(signed).collect();
                let plan = Plan { marks: task.marks(lang), metrics };
                plans.insert((name.to_owned(), lang.clone()), plan);
            }
        }
        Ok(Scorer { plans, tools })
    }

    /// The scores of each answer of a batch.
    fn score(&self, batch: &DataFrame, ids: &[Ids]) -> Result<Vec<Vec<Score<'_>>>> {
        // one chunk, so that an answer is found at once
        let column = |name: &str| -> Result<StringChunked> {
            Ok(batch.column(name)?.str()?.rechunk().into_owned())
        };
        let (generations, references) = (column("generation")?, column("reference")?);
        Ok(ids
            .par_iter()
            .enumerate()
            .map(|(at, id)| {
                let Some(plan) = self.plans.get(&(id.task.clone(), id.lang.clone())) else {
                    return Vec::new(); // never: the survey saw every task and language
                };
                let item = Item {
                    lang: &id.lang,
                    generation: generations.get(at).unwrap_or_default(),
                    reference: references.get(at),
                    marks: &plan.marks,
                };
                plan.metrics
                    .iter()
                    .map(|(metric, signature)| Score {
                        metric: *metric,
                        signature,
                        value: metric.score(&item, &self.tools),
                    })
                    .collect()
            })
            .collect())
    }
}
