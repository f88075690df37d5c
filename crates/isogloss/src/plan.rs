//! From a pipeline to its steps: one run for each model × mixture × training seed, and the graph of what each step
//! needs. Nothing is read here and no key is known yet; that comes as inputs come to be (`stages.rs`).
//!
//! ```text
//! synth → ingest → tokenizer → mix ─┬→ train → generate → eval ─┬→ report
//!                └→ prompts ────────┴→ train → generate → eval ─┘
//! ```
//!
//! With a judge, each run has a step `judge` beside its `eval`, which also reads the answers of the baseline's run.

use anyhow::Result;
use artifact::config::nearest;
use artifact::{Factors, bail_user};
use clap::ValueEnum;

use crate::pipeline::{JudgedAgainst, Pipeline};

/// The stages, in the order of a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Stage {
    /// Makes multilingual data.
    Synth,
    /// Reads raw files into examples.
    Ingest,
    /// Trains a tokenizer.
    Tokenizer,
    /// Draws the mixtures.
    Mix,
    /// Turns test items into prompts.
    Prompts,
    /// Trains a model on a mixture.
    Train,
    /// Answers the prompts.
    Generate,
    /// Scores the answers.
    Eval,
    /// Has a judge model rate the answers.
    Judge,
    /// Makes tables, figures and the page.
    Report,
}

impl Stage {
    /// Its name: the subcommand, and the folder in the store.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Synth => "synth",
            Stage::Ingest => "ingest",
            Stage::Tokenizer => "tokenizer",
            Stage::Mix => "mix",
            Stage::Prompts => "prompts",
            Stage::Train => "train",
            Stage::Generate => "generate",
            Stage::Eval => "eval",
            Stage::Judge => "judge",
            Stage::Report => "report",
        }
    }
}

/// One training run and what hangs on it.
#[derive(Clone, Debug)]
pub struct Run {
    /// `<model>.<mixture>.t<training seed>`.
    pub id: String,
    /// The base model, by index into the pipeline's.
    pub model: usize,
    /// The mixture; `None` where the pipeline has no design and trains on everything.
    pub mixture: Option<String>,
    /// Training seed.
    pub seed: u64,
    /// The tasks of its mixture; none are known without a design.
    pub tasks: Vec<String>,
    /// What the design varied, for the tables.
    pub factors: Factors,
}

/// What a run may train on; the fields are those of [`Run`].
#[derive(Default)]
struct TrainingSet {
    mixture: Option<String>,
    tasks: Vec<String>,
    factors: Factors,
}

/// One step: a stage, of the whole pipeline or of one run.
#[derive(Clone, Debug)]
pub struct Step {
    /// `ingest`, or `train small.math.n100.d1.t1`.
    pub name: String,
    /// What is done.
    pub stage: Stage,
    /// For which run, by index; `None` for a step that all runs share.
    pub run: Option<usize>,
    /// The steps whose outputs it reads, by index.
    pub needs: Vec<usize>,
}

/// A pipeline with its runs and its steps, each step after all that it needs.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What was asked for.
    pub pipeline: Pipeline,
    /// The runs of the grid.
    pub runs: Vec<Run>,
    /// The steps.
    pub steps: Vec<Step>,
}

impl Plan {
    /// Expands the grid and lays out the steps.
    pub fn new(pipeline: Pipeline) -> Result<Plan> {
        let mut plan = Plan { pipeline, runs: Vec::new(), steps: Vec::new() };
        plan.expand()?;
        plan.lay_out()?;
        Ok(plan)
    }

    /// The step of this stage, of the whole pipeline or of one run.
    pub fn find(&self, stage: Stage, run: Option<usize>) -> Option<usize> {
        self.steps.iter().position(|step| step.stage == stage && step.run == run)
    }

    /// All steps of this stage.
    pub fn of_stage(&self, stage: Stage) -> Vec<usize> {
        (0..self.steps.len()).filter(|&step| self.steps[step].stage == stage).collect()
    }

    /// Every model × mixture × training seed, mixtures first so that the first results are comparable.
    fn expand(&mut self) -> Result<()> {
        let sets = self.training_sets()?;
        for seed in self.pipeline.train_seeds() {
            for model in 0..self.pipeline.models.len() {
                for TrainingSet { mixture, tasks, factors } in &sets {
                    let name = &self.pipeline.models[model].name;
                    let id = mixture.as_deref().unwrap_or("all");
                    self.runs.push(Run {
                        id: format!("{name}.{id}.t{seed}"),
                        model,
                        mixture: mixture.clone(),
                        seed,
                        tasks: tasks.clone(),
                        factors: Factors {
                            model: Some(name.clone()),
                            train_seed: Some(seed as i64),
                            ..factors.clone()
                        },
                    });
                }
            }
        }
        Ok(())
    }

    /// The mixtures of the design; without one, all examples as one set.
    fn training_sets(&self) -> Result<Vec<TrainingSet>> {
        let Some(design) = &self.pipeline.mix else {
            return Ok(vec![TrainingSet::default()]);
        };
        let points = mix::expand(design)?.into_iter();
        Ok(points
            .map(|point| TrainingSet {
                tasks: point.tasks(),
                mixture: Some(point.mixture_id),
                factors: point.factors,
            })
            .collect())
    }

    /// The run that the judge compares this one with; `None` where that is the run itself, or nothing is compared.
    pub fn baseline_of(&self, run: usize) -> Result<Option<usize>> {
        let against = self.pipeline.judge.as_ref().and_then(|judge| judge.added.baseline.as_ref());
        let of = &self.runs[run];
        let found = match against {
            None => return Ok(None),
            Some(JudgedAgainst::Run(id)) => match self.runs.iter().position(|run| run.id == *id) {
                Some(found) => found,
                None => {
                    let near = nearest(id, self.runs.iter().map(|run| run.id.as_str()))
                        .map_or(String::new(), |near| format!(", is it {near}?"));
                    bail_user!("[judge] baseline = \"{id}\": there is no such run{near}")
                }
            },
            Some(JudgedAgainst::Point { n }) => {
                // With n the English count may change, too: that is the budget rule's doing.
                let rest = |run: &Run| Factors { n: None, english: None, ..run.factors.clone() };
                let fits = |other: &Run| {
                    other.factors.n == Some(*n)
                        && rest(other) == rest(of)
                        && other.tasks == of.tasks
                };
                match self.runs.iter().position(fits) {
                    Some(found) => found,
                    None => bail_user!(
                        "[judge] baseline = {{ n = {n} }}: the run {} has no counterpart with n = {n}; add {n} to [mix] n, or \
                         name a run as the baseline",
                        of.id
                    ),
                }
            }
        };
        Ok((found != run).then_some(found))
    }

    fn lay_out(&mut self) -> Result<()> {
        let measures = self.pipeline.measures;
        let synth = self.add_if(self.pipeline.synth.is_some(), Stage::Synth, &[]);
        let ingest = self.add_if(true, Stage::Ingest, &[synth]);
        let tokenizer = self.add_if(self.pipeline.trains_tokenizer(), Stage::Tokenizer, &[ingest]);
        let mix = self.add_if(self.pipeline.mix.is_some(), Stage::Mix, &[ingest, tokenizer]);
        let prompts = self.add_if(measures, Stage::Prompts, &[ingest]);
        let mut measured = Vec::new();
        let mut generates = Vec::new();
        for run in 0..self.runs.len() {
            let random = self.pipeline.models[self.runs[run].model].init.is_some();
            let tokenizer = tokenizer.filter(|_| random);
            let train = self.add(Stage::Train, Some(run), &[mix.or(ingest), tokenizer]);
            if measures {
                let generate = self.add(Stage::Generate, Some(run), &[Some(train), prompts]);
                let eval = self.add(Stage::Eval, Some(run), &[Some(generate)]);
                measured.extend([Some(generate), Some(eval)]);
                generates.push(generate);
            }
        }
        if measures && self.pipeline.judges() {
            for run in 0..self.runs.len() {
                let baseline = self.baseline_of(run)?.map(|other| generates[other]);
                let rates = self.pipeline.judge_config(None).rating;
                if !rates && baseline.is_none() {
                    continue; // the baseline's own run, of which nothing is asked
                }
                let judge = self.add(Stage::Judge, Some(run), &[Some(generates[run]), baseline]);
                measured.push(Some(judge));
            }
        }
        self.add_if(measures, Stage::Report, &measured);
        Ok(())
    }

    fn add_if(&mut self, there: bool, stage: Stage, needs: &[Option<usize>]) -> Option<usize> {
        there.then(|| self.add(stage, None, needs))
    }

    fn add(&mut self, stage: Stage, run: Option<usize>, needs: &[Option<usize>]) -> usize {
        let name = match run {
            Some(run) => format!("{} {}", stage.name(), self.runs[run].id),
            None => stage.name().to_owned(),
        };
        self.steps.push(Step {
            name,
            stage,
            run,
            needs: needs.iter().flatten().copied().collect(),
        });
        self.steps.len() - 1
    }
}
