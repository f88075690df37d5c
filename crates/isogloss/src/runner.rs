//! Does the steps of a plan that the store does not hold yet, in order, several side by side. In: a
//! [`Plan`] and a store. Out: the outputs in the store, and an [`Outcome`] that says what was done.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context as _, Error, Result};
use artifact::error::{is_interrupted, user};
use artifact::store::{Recipe, Store, Stored};
use artifact::text::duration;
use artifact::{Context, bail_user};

use train::Shared;
use train::parallel::Ranks;

use crate::console;
use crate::plan::{Plan, Stage};
use crate::schedule::{self, Fate, Limits, Node};
use crate::stages::{self, Hashes, Inputs};

/// Which steps may be done; what they need must be in the store already.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Selection {
    /// Every step.
    All,
    /// This stage alone.
    Only(Stage),
    /// This stage and those after it.
    From(Stage),
}

impl Selection {
    fn allows(self, stage: Stage) -> bool {
        match self {
            Selection::All => true,
            Selection::Only(only) => stage == only,
            Selection::From(first) => stage >= first,
        }
    }
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Steps in all.
    pub steps: usize,
    /// Steps that had to be done.
    pub done: usize,
    /// The report, where it was made anew, as text.
    pub report: Option<String>,
}

/// A plan at work on a store.
pub struct Runner<'a> {
    /// The steps.
    pub plan: &'a Plan,
    /// Where outputs are.
    pub store: &'a Store,
    hashes: Hashes,
    made: Vec<OnceLock<Stored>>,
    /// What training runs have in common: encoded rows, base weights.
    shared: Shared,
}

impl<'a> Runner<'a> {
    /// Looks at nothing yet.
    pub fn new(plan: &'a Plan, store: &'a Store) -> Self {
        let made = plan.steps.iter().map(|_| OnceLock::new()).collect();
        let shared = match (plan.runs.len(), plan.pipeline.side_by_side()) {
            (..=1, _) => Shared::default(),
            (_, ..=1) => Shared::for_sweep(),
            (_, most) => Shared::for_sweep().side_by_side(most),
        };
        Runner { plan, store, hashes: Hashes::default(), made, shared }
    }

    /// With training runs on these ranks.
    pub fn on(self, ranks: Ranks) -> Self {
        Runner { shared: self.shared.on(ranks), ..self }
    }

    /// What the step reads and what decides its output; `None` while a step that it needs is not made.
    pub fn resolve(&self, step: usize) -> Result<Option<(Inputs, Recipe)>> {
        let step = &self.plan.steps[step];
        let made = |need: usize| self.made[need].get().cloned();
        let Some(inputs) = stages::inputs(self.plan, step, &made, &self.hashes)? else {
            return Ok(None);
        };
        let recipe = stages::recipe(self.plan, step, &inputs)?;
        Ok(Some((inputs, recipe)))
    }

    /// Takes the data that are on the Hub, without which no key is known.
    pub fn fetch_sources(&self, ctx: &Context) -> Result<()> {
        stages::fetch_sources(self.plan, &self.hashes, ctx)
    }

    /// The step's output, if the store holds it and all that it was made from.
    pub fn find(&self, step: usize) -> Result<Option<Stored>> {
        if let Some(stored) = self.made[step].get() {
            return Ok(Some(stored.clone()));
        }
        let Some((_, recipe)) = self.resolve(step)? else { return Ok(None) };
        let found = self.store.find(&recipe)?;
        if let Some(stored) = &found {
            self.made[step].get_or_init(|| stored.clone());
        }
        Ok(found)
    }

    /// Finds every step that is in the store; to be called before [`Runner::find`] of a late one.
    pub fn find_all(&self) -> Result<()> {
        (0..self.plan.steps.len()).try_for_each(|step| self.find(step).map(drop))
    }

    /// Makes the step's output if it is not there; returns it, and what the stage said if it ran.
    pub fn make(&self, step: usize, ctx: &Context) -> Result<(Stored, Option<String>)> {
        let plan = self.plan;
        let (inputs, recipe) = self
            .resolve(step)?
            .with_context(|| format!("{} is not ready", plan.steps[step].name))?;
        let mut text = None;
        let stored = self.store.produce(&recipe, ctx, |folder| {
            let done = stages::work(plan, &plan.steps[step], &inputs, &self.shared, folder, ctx)?;
            text = Some(done.text);
            Ok(done.summary)
        })?;
        self.keep(step, &stored)?;
        Ok((stored, text))
    }

    /// Notes a step's output, here and in the store's record of the pipeline.
    fn keep(&self, step: usize, stored: &Stored) -> Result<()> {
        self.made[step].get_or_init(|| stored.clone());
        self.store.record(&self.plan.pipeline.name, &self.plan.steps[step].name, stored)
    }

    /// Does the selected steps, `jobs` at a time.
    ///
    /// # Errors
    /// What failed, after everything that does not depend on it was done; what a selection would need
    /// and the store does not hold.
    pub fn run(&self, selection: Selection, jobs: usize, ctx: &Context) -> Result<Outcome> {
        self.fetch_sources(ctx)?;
        let steps = self.steps_of(selection)?;
        let graph = self.graph(&steps);
        let finished = AtomicUsize::new(0);
        let done = AtomicUsize::new(0);
        let report = Mutex::new(None);
        let limits = Limits { jobs, side_by_side: self.plan.pipeline.side_by_side() };
        let fates = schedule::run(&graph, limits, |node| {
            ctx.check()?;
            let step = &self.plan.steps[steps[node]];
            let (stored, text) = self.make(steps[node], ctx)?;
            let count = finished.fetch_add(1, Ordering::SeqCst) + 1;
            if let Some(text) = text {
                done.fetch_add(1, Ordering::SeqCst);
                let seconds = duration(stored.manifest.seconds);
                let head = format!("[{count}/{}] {} ({seconds})", steps.len(), step.name);
                match (step.stage, text.trim_end()) {
                    (Stage::Report, text) => {
                        ctx.log(head);
                        *report.lock().unwrap_or_else(PoisonError::into_inner) =
                            Some(text.to_owned());
                    }
                    (_, text) if text.contains('\n') => ctx.log(format!("{head}:\n{text}")),
                    (_, text) => ctx.log(format!("{head}: {text}")),
                }
            }
            Ok(())
        })?;
        self.check(&steps, fates, ctx)?;
        Ok(Outcome {
            steps: steps.len(),
            done: done.into_inner(),
            report: report.into_inner().unwrap_or_else(PoisonError::into_inner),
        })
    }

    /// The selected steps, in order, after making sure that what they need and what the selection
    /// leaves out is in the store.
    fn steps_of(&self, selection: Selection) -> Result<Vec<usize>> {
        let all = &self.plan.steps;
        let mut wanted: Vec<bool> = all.iter().map(|step| selection.allows(step.stage)).collect();
        if !wanted.contains(&true) {
            bail_user!(
                "the pipeline {} has no such stage; it has {}",
                self.plan.pipeline.name,
                self.stages()
            );
        }
        for step in (0..all.len()).rev() {
            if wanted[step] {
                all[step].needs.iter().for_each(|&need| wanted[need] = true);
            }
        }
        let wanted = (0..all.len()).filter(|&step| wanted[step]);
        let (steps, before): (Vec<usize>, Vec<usize>) =
            wanted.partition(|&step| selection.allows(all[step].stage));
        for step in before {
            self.require(step, selection)?;
        }
        Ok(steps)
    }

    fn stages(&self) -> String {
        let mut seen: Vec<&str> = Vec::new();
        for step in &self.plan.steps {
            if !seen.contains(&step.stage.name()) {
                seen.push(step.stage.name());
            }
        }
        seen.join(", ")
    }

    /// The steps as the scheduler sees them. What all runs share is worth every thread.
    fn graph(&self, steps: &[usize]) -> Vec<Node> {
        let place = |step: &usize| steps.iter().position(|other| other == step);
        steps
            .iter()
            .map(|&step| Node {
                needs: self.plan.steps[step].needs.iter().filter_map(place).collect(),
                alone: self.plan.steps[step].run.is_none(),
                group: self.group(step),
            })
            .collect()
    }

    /// The base model that the step trains an adapter beside, where several such steps share its passes.
    fn group(&self, step: usize) -> Option<usize> {
        let (step, pipeline) = (&self.plan.steps[step], &self.plan.pipeline);
        let model = self.plan.runs[step.run?].model;
        let shares = step.stage == Stage::Train
            && pipeline.side_by_side() > 1
            && pipeline.train.lora.is_some();
        shares.then_some(model)
    }

    /// A step that the selection leaves out, but needs.
    fn require(&self, step: usize, selection: Selection) -> Result<()> {
        if let Some(stored) = self.find(step)? {
            return self.keep(step, &stored);
        }
        let stage = self.plan.steps[step].stage.name();
        let option = match selection {
            Selection::Only(only) => format!("--only {}", only.name()),
            Selection::From(first) => format!("--from {}", first.name()),
            Selection::All => String::new(),
        };
        Err(user(format!(
            "{option} needs the output of {}, which is not in the store for the present settings and inputs; \
             run without {option}, or with --from {stage}",
            self.plan.steps[step].name
        )))
    }

    /// Turns failures into one error, after each has been said.
    fn check(&self, steps: &[usize], fates: Vec<Fate>, ctx: &Context) -> Result<()> {
        let mut failures: Vec<(usize, Error)> = Vec::new();
        let mut skipped = 0;
        for (&step, fate) in steps.iter().zip(fates) {
            match fate {
                Fate::Done => {}
                Fate::Skipped => skipped += 1,
                Fate::Failed(error) => failures.push((step, error)),
            }
        }
        if let Some(at) = failures.iter().position(|(_, error)| is_interrupted(error)) {
            return Err(failures.swap_remove(at).1);
        }
        let count = failures.len();
        let mut failures = failures.into_iter();
        let Some((step, first)) = failures.next() else { return Ok(()) };
        for (step, error) in failures {
            ctx.log(format!(
                "{} failed: {}",
                self.plan.steps[step].name,
                console::describe(&error)
            ));
        }
        let name = &self.plan.steps[step].name;
        Err(match (count, skipped) {
            (1, 0) => first.context(format!("{name} failed")),
            (1, _) => {
                first.context(format!("{name} failed; {skipped} steps after it were not done"))
            }
            _ => first.context(format!(
                "{count} steps failed, {name} first; {skipped} steps after them were not done"
            )),
        })
    }

    /// Where a checkpoint of an unfinished step stands: its number of optimiser steps.
    pub fn interrupted_at(&self, recipe: &Recipe) -> Option<u64> {
        let folder: PathBuf = self.store.work_folder(recipe).join("checkpoint");
        std::fs::read_dir(folder)
            .ok()?
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("step-")?.parse().ok())
            .max()
    }
}
