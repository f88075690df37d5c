//! The training loop: data and a base model in; `model/` (Hugging Face layout) and `metrics.parquet` out.
//!
//! A step's gradient is that of the mean loss over every counted token of the whole batch, however many
//! micro-batches it is run in. The same inputs give the same bits, with any number of threads, and
//! through any number of interruptions.

use std::{
    fmt, fs,
    path::Path,
    sync::{Arc, PoisonError},
    time::Instant,
};

use anyhow::{Result, ensure};
use artifact::{
    Bar, Context,
    error::user,
    text::{count, duration},
};
use serde::Serialize;

use crate::{
    batches::{micro_batches, share_out},
    checkpoint::{Checkpoints, Snapshot},
    config::{BaseModel, Recipe, TrainConfig, TrainData},
    course::{Course, Explosion},
    cuda::Cuda,
    data::Counts,
    device::Opened,
    disk::explain_full_disk,
    export,
    flops::{self, Flops},
    memory::{self, MemoryPlan, Passes, Place, PlaceTaken},
    metrics::{self, LossSum, Row},
    model::{Base, Decoder, Meeting, Room, Stand},
    ops::Cpu,
    parallel::{Connect, Lead, Team},
    setup::{Outline, Purpose, Setup, base_and_start},
    shared::{Meetings, Shared, Untouched},
    tensorboard::Events,
};

/// What a training came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Optimiser steps.
    pub steps: u64,
    /// Whether patience ended the run before its last step.
    pub stopped_early: bool,
    /// Documents trained on in one epoch.
    pub documents: u64,
    /// What became of the rows they are from.
    pub rows: Counts,
    /// Tokens run through training, over all epochs.
    pub tokens: u64,
    /// Parameters of the model.
    pub parameters: u64,
    /// Those of the adapter, where only they are trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trained: Option<u64>,
    /// Training loss of the last step.
    pub loss: Option<f64>,
    /// The same by language.
    pub loss_by_language: Vec<(String, f64)>,
    /// The step whose weights were kept; the last one without validation data.
    pub kept_step: u64,
    /// Validation loss of those weights.
    pub validation_loss: Option<f64>,
    /// The same by language.
    pub validation_loss_by_language: Vec<(String, f64)>,
    /// Processes that shared the run, where there were several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranks: Option<usize>,
    /// Seconds that the first of them waited for the others' gradients, its own being complete, since the run began or
    /// was last gone on with: what of their travel the backward pass does not hide, and what the others are slower by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waited: Option<f64>,
    /// Seconds of training, interruptions left out.
    pub seconds: f64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} steps, {} tokens in {}; {} parameters",
            count(self.steps),
            count(self.tokens),
            duration(self.seconds),
            count(self.parameters)
        )?;
        if let Some(ranks) = self.ranks {
            write!(f, " on {ranks} ranks")?;
        }
        if let Some(waited) = self.waited {
            write!(f, ", {} of it waiting for gradients", duration(waited))?;
        }
        if let Some(trained) = self.trained {
            write!(f, ", beside them {} of the adapter", count(trained))?;
        }
        if let Some(loss) = self.loss {
            write!(f, "; training loss {loss:.4}")?;
        }
        if let Some(loss) = self.validation_loss {
            write!(f, "; validation loss {loss:.4} at step {} (kept)", count(self.kept_step))?;
            for (language, loss) in &self.validation_loss_by_language {
                write!(f, ", {language} {loss:.4}")?;
            }
        }
        if self.stopped_early {
            write!(f, "; stopped early, the validation loss fell no further")?;
        }
        let losses = self.rows.losses();
        if !losses.is_empty() {
            write!(f, "; {losses}")?;
        }
        Ok(())
    }
}

/// Trains. `out` is an existing folder; a checkpoint of the same run in `out/checkpoint` is resumed.
///
/// After Ctrl-C a checkpoint is written and `Interrupted` returned. Faults of the settings or the data,
/// a run that diverges among them, are `UserError`s.
pub fn run(
    config: &TrainConfig,
    base: &BaseModel,
    data: &TrainData,
    shared: &Shared,
    out: &Path,
    ctx: &Context,
) -> Result<Summary> {
    let config = &shared.ranks.settings(config);
    let mut setup = Setup::new(config, base, data, shared, (Purpose::Training, ctx))?;
    let lead = shared.ranks.lead(setup.recipe.ranks, ctx)?;
    let _turn = lead.as_ref().map(|lead| lead.turn());
    let card = lead.as_ref().map_or(0, |lead| lead.card());
    match setup.recipe.device.open(card, ctx)? {
        Opened::Cpu => {
            let passes = Passes::of(&setup, &setup.recipe, setup.sequence_length);
            let memory = memory::settle(&setup, &passes, &Place::processor())?;
            setup.recipe.recompute = Some(memory.recompute);
            if !memory.fits() {
                ctx.warn(format!(
                    "the system may not have the memory that this run needs\n{memory}"
                ));
            }
            let means = Means { room: passes.room, peak: None };
            let load = |stand: Stand, folder: &Path| shared.model(stand, folder);
            let (at, team) = ((out, ctx), (config, lead.clone()));
            let meeting = meeting(&shared.on_cpu, &setup, base, shared);
            let run = || run_on((Cpu, meeting), (setup, means), base, shared, team, at, load);
            match &lead {
                Some(lead) => lead.threads()?.install(run),
                None => run(),
            }
        }
        Opened::Cuda(cuda) => {
            let meeting = meeting(&shared.on_card, &setup, base, shared);
            let beside = meeting.as_deref().map(|meeting| (meeting, shared.most_side_by_side()));
            let (means, _place) = means_on_card(&cuda, &mut setup, beside, ctx)?;
            let load = |stand: Stand, folder: &Path| Decoder::load_as(cuda.clone(), stand, folder);
            let on = (cuda.clone(), meeting.clone());
            run_on(on, (setup, means), base, shared, (config, lead.clone()), (out, ctx), load)
        }
    }
}

/// The same on a card that is open, alone.
pub(crate) fn run_on_card(
    cuda: &Cuda,
    (config, base): (&TrainConfig, &BaseModel),
    data: &TrainData,
    out: &Path,
    ctx: &Context,
) -> Result<Summary> {
    let shared = Shared::default();
    let mut setup = Setup::new(config, base, data, &shared, (Purpose::Training, ctx))?;
    let (means, _) = means_on_card(cuda, &mut setup, None, ctx)?;
    let load = |stand: Stand, folder: &Path| Decoder::load_as(cuda.clone(), stand, folder);
    let alone = (config, None);
    run_on((cuda.clone(), None), (setup, means), base, &shared, alone, (out, ctx), load)
}

/// Where a run meets others, if it is to.
fn meeting<B: Connect>(
    meetings: &Meetings<B>,
    setup: &Setup,
    base: &BaseModel,
    shared: &Shared,
) -> Option<Arc<Meeting<B>>> {
    match (base, &setup.recipe.lora) {
        (BaseModel::Weights(folder), Some(lora)) if setup.recipe.ranks == 1 => {
            shared.meeting(meetings, folder, (lora, setup.recipe.weights().packed))
        }
        _ => None,
    }
}

/// Plans a run's memory on a card and reserves it; beside others, that of as many of them as there can be at
/// once, and waits for a place among them.
fn means_on_card<'a>(
    cuda: &Cuda,
    setup: &mut Setup,
    beside: Option<(&'a Meeting<Cuda>, usize)>,
    ctx: &Context,
) -> Result<(Means, Option<PlaceTaken<'a>>)> {
    let own = Passes::of(setup, &setup.recipe, setup.sequence_length);
    let reserve = |memory: &MemoryPlan| {
        ctx.log(memory.to_string());
        memory.reserve(cuda)
    };
    let (memory, passes, place) = match beside {
        None => {
            let memory = memory::settle(setup, &own, &Place::of(cuda)?)?;
            reserve(&memory)?;
            (memory, own, None)
        }
        Some((meeting, most)) => {
            let plan = || {
                let (memory, passes) = memory::settle_several(setup, most, &Place::of(cuda)?)?;
                if memory.runs < most {
                    let (fit, most) = (count(memory.runs as u64), count(most as u64));
                    ctx.warn(format!(
                        "of {most} runs side by side the card has memory for {fit} at once"
                    ));
                }
                reserve(&memory)?;
                Ok((memory, passes))
            };
            let (memory, passes, place) = meeting.places.take(plan)?;
            let fits = own.fit(&passes);
            ensure!(
                fits,
                "the run's passes are larger than those that were planned for all side by side"
            );
            (memory, passes, Some(place))
        }
    };
    setup.recipe.recompute = Some(memory.recompute);
    let ranks = setup.recipe.ranks as f64;
    let peak = flops::peak(cuda.driver().facts()).map(|peak| ranks * peak);
    Ok((Means { room: passes.room, peak }, place))
}

/// What was settled about the device before the first step.
struct Means {
    room: Room,
    /// What the cards could do in a second at most, where that is known.
    peak: Option<f64>,
}

/// The same on some backend, beside other runs where there is a meeting; `load` reads base weights.
fn run_on<B: Connect>(
    (backend, meeting): (B, Option<Arc<Meeting<B>>>),
    (setup, means): (Setup, Means),
    base: &BaseModel,
    shared: &Shared,
    (config, lead): (&TrainConfig, Option<Arc<Lead>>),
    (out, ctx): (&Path, &Context),
    load: impl FnOnce(Stand, &Path) -> Result<Decoder<B>>,
) -> Result<Summary> {
    let (shape, lora) = (setup.model.clone(), setup.recipe.lora.clone());
    let (seed, stand) = (setup.recipe.seed, setup.recipe.weights());
    let recipe = setup.recipe.clone();
    let (base, start) = base_and_start(base, lora.is_some())?;
    let team = |model| Team::new(model, (config, &recipe), lead.clone(), ctx);
    let model = |checkpoint: Option<&Path>| {
        let mut model = match (&base, checkpoint) {
            (_, Some(folder)) if lora.is_none() => {
                return Decoder::load_as(backend.clone(), stand, folder);
            }
            (BaseModel::Weights(folder), _) => match &meeting {
                Some(meeting) => meeting.join(|| load(stand, folder))?,
                None => load(stand, folder)?,
            },
            (BaseModel::Random { seed, .. }, _) => {
                Decoder::random_as(backend.clone(), stand, shape, *seed)
            }
        };
        if let (Some(lora), BaseModel::Weights(folder)) = (lora, &base) {
            let of = Base::new(folder, shared.weights_identity(folder)?)?;
            match checkpoint.or(start) {
                Some(checkpoint) => model.attach_from(checkpoint, lora, of)?,
                None => model.attach(lora, of, seed),
            }
        }
        Ok(model)
    };
    let moves = || meeting.as_deref().map(|meeting| meeting.places.moves());
    let mut trainer = Trainer::start(setup, out, ctx, |checkpoint| {
        let _moves = moves();
        team(model(checkpoint)?)
    })?;
    trainer.team.reserve(means.room);
    trainer.peak = means.peak;
    if lead.is_none() {
        trainer.untouched = shared.untouched(&trainer.setup.identity, B::ON_CARD);
    }
    let summary = trainer.train().and_then(|()| {
        // What is left to do is this run's own; no other has to wait for it.
        trainer.team.leave();
        trainer.finish()
    });
    let _moves = moves();
    drop(trainer);
    summary
}

/// What [`run`] would do: reads, encodes and packs everything, checks all that can be checked before a step,
/// and tells what the steps would be made of and what memory they would take: on the device that is there, or on
/// a card of so many bytes that is not. The base model's weights need not be there.
pub fn plan(
    config: &TrainConfig,
    base: &BaseModel,
    data: &TrainData,
    shared: &Shared,
    (card, ctx): (Option<u64>, &Context),
) -> Result<Planned> {
    let setup = Setup::new(config, base, data, shared, (Purpose::Planning, ctx))?;
    let place = Place::open(setup.recipe.device, card, ctx)?;
    let passes = Passes::of(&setup, &setup.recipe, setup.sequence_length);
    let memory = memory::settle(&setup, &passes, &place)?;
    Ok(Planned { outline: setup.outline(), memory })
}

/// What a run would come to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Planned {
    /// Its data and steps.
    pub outline: Outline,
    /// Its memory.
    pub memory: MemoryPlan,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n\n{}", self.outline, self.memory)
    }
}

struct Trainer<'a, B: Connect> {
    setup: Setup,
    checkpoints: Checkpoints,
    /// What other runs may know of the first validation.
    untouched: Option<Arc<Untouched>>,
    /// The model in training.
    team: Team<B>,
    /// What a batch costs, and what the cards could do in a second, where that is known.
    flops: Flops,
    peak: Option<f64>,
    rows: Vec<Row>,
    /// What those rows say.
    course: Course,
    events: Events,
    /// Optimiser steps done.
    step: u64,
    /// Tokens of those steps.
    tokens: u64,
    started: Instant,
    /// Seconds of earlier sessions of this run.
    seconds_before: f64,
    out: &'a Path,
    ctx: &'a Context,
}

impl<'a, B: Connect> Trainer<'a, B> {
    /// From the last checkpoint where there is one, else from the beginning; `load` gives the model of
    /// either, in training.
    fn start(
        setup: Setup,
        out: &'a Path,
        ctx: &'a Context,
        load: impl FnOnce(Option<&Path>) -> Result<Team<B>>,
    ) -> Result<Self> {
        let recipe = &setup.recipe;
        let checkpoints = Checkpoints::of(out);
        let last = checkpoints.last(&setup.identity)?;
        let mut team = load(last.as_ref().map(|checkpoint| checkpoint.folder.as_path()))?;
        let (step, rows) = match last {
            Some(checkpoint) => {
                let folder = checkpoints.root().display();
                ctx.log(format!("going on from step {} ({folder})", count(checkpoint.step)));
                team.restore(&checkpoint)?;
                (checkpoint.step, checkpoint.metrics)
            }
            None => (0, Vec::new()),
        };
        let mut course = Course::new(recipe, &setup.train.languages);
        rows.iter().for_each(|row| course.add(row));
        let last = rows.last();
        Ok(Self {
            flops: Flops::of(team.model()),
            peak: None,
            untouched: None,
            tokens: last.map_or(0, |row| row.tokens),
            seconds_before: last.map_or(0.0, |row| row.seconds),
            started: Instant::now(),
            events: Events::create(out, &rows)?,
            setup,
            checkpoints,
            team,
            course,
            rows,
            step,
            out,
            ctx,
        })
    }

    /// Runs the steps that are left.
    fn train(&mut self) -> Result<()> {
        let bar = self.ctx.bar("train", "steps", Some(self.setup.rates.total));
        bar.set(self.step);
        let result = self.steps(&bar);
        bar.finish();
        result
    }

    fn steps(&mut self, bar: &Bar) -> Result<()> {
        if self.rows.is_empty() {
            self.validate()?;
        }
        while !self.is_at_end() {
            if let Err(interrupted) = self.ctx.check() {
                self.checkpoint()?;
                return Err(interrupted);
            }
            let row = self.optimise()?;
            let speed = row.tokens_per_second.unwrap_or(0.0);
            let mfu = row.mfu.map_or(String::new(), |mfu| format!("  {:.1} % MFU", 100.0 * mfu));
            bar.note(&format!("loss {:.3}  {} tokens/s{mfu}", row.loss, count(speed as u64)));
            self.record(row)?;
            bar.set(self.step);
            self.check_course()?;
            let Recipe { validate_every, save_every, kept, .. } = self.setup.recipe;
            if self.is_last_step() || is_due(self.step, validate_every) {
                self.validate()?;
            }
            let is_needed = !self.is_at_end() || kept.is_some();
            if is_needed && is_due(self.step, save_every) && !self.course.is_in_doubt() {
                self.checkpoint()?;
            }
        }
        Ok(())
    }

    fn is_last_step(&self) -> bool {
        self.step == self.setup.rates.total
    }

    fn is_at_end(&self) -> bool {
        self.step >= self.setup.rates.total || self.course.has_stalled()
    }

    /// Takes a row into the metrics.
    fn record(&mut self, row: Row) -> Result<()> {
        self.course.add(&row);
        self.events.add(&row)?;
        self.rows.push(row);
        Ok(())
    }

    /// Stops a run whose loss has exploded.
    fn check_course(&self) -> Result<()> {
        let Some(Explosion { now, lowest }) = self.course.explosion() else { return Ok(()) };
        let what = format!(
            "the mean loss of the last ten steps is {now:.3}, after it had been down to {lowest:.3} \
             (max_loss_rise = {})",
            self.setup.recipe.max_loss_rise
        );
        Err(self.diverged(self.step, &what, &[]))
    }

    /// One optimiser step.
    fn optimise(&mut self) -> Result<Row> {
        let started = Instant::now();
        let shares = self.setup.plan.shares(self.step, self.team.size());
        let mut batches = self.setup.train.batches(&shares);
        let all = shares.iter().flatten().flatten();
        let documents = || all.clone().map(|&index| &self.setup.train.documents[index]);
        let truncated = documents().filter(|one| one.cut).count() as u64;
        let targets = || documents().flat_map(|document| &*document.targets);
        let (tokens, counted) =
            (targets().count() as u64, targets().filter(|&&target| target >= 0).count());
        let flops: f64 = batches.iter().flatten().map(|batch| self.flops.of_batch(batch)).sum();
        let (scale, learning_rate) = (1.0 / counted as f32, self.setup.rates.at(self.step));
        let in_backward = self.setup.recipe.optimizer_in_backward;
        let (losses, grad_norm, stop) = if in_backward {
            let (losses, norm) =
                self.team.step_in_backward(&batches[0][0], scale, learning_rate as f32)?;
            (losses, norm, false)
        } else {
            self.team.gradients(&mut batches, scale)?
        };
        if stop {
            self.ctx.cancel();
        }
        let mut sum = LossSum::default();
        sum.add(&self.setup.train, all.clone(), &losses);
        if !sum.mean().is_finite() {
            let what = format!("the loss is {}", sum.mean());
            return Err(self.diverged(self.step + 1, &what, &sum.not_finite));
        }
        if !grad_norm.is_finite() {
            let examples: Vec<_> = documents().map(|one| one.example_id.clone()).collect();
            let what = format!("the gradient's norm is {grad_norm}");
            return Err(self.diverged(self.step + 1, &what, &examples));
        }
        let documents = documents().count() as u64;
        if !in_backward {
            self.team.update(self.clipping(grad_norm), learning_rate as f32)?;
        }
        self.step += 1;
        self.tokens += tokens;
        let seconds = started.elapsed().as_secs_f64().max(1e-9);
        Ok(Row {
            step: self.step,
            validation: false,
            loss: sum.mean(),
            learning_rate: Some(learning_rate),
            grad_norm: Some(grad_norm),
            tokens: self.tokens,
            seconds: self.seconds(),
            tokens_per_second: Some(tokens as f64 / seconds),
            mfu: self.peak.map(|peak| flops / seconds / peak),
            documents: Some(documents),
            truncated: Some(truncated),
            by_language: sum.by_language(&self.setup.train),
        })
    }

    /// The share of a gradient that clipping leaves, as torch.nn.utils.clip_grad_norm_ has it.
    fn clipping(&self, grad_norm: f64) -> f32 {
        let clip = self.setup.recipe.clip;
        if clip > 0.0 { (clip / (grad_norm + 1e-6)).min(1.0) as f32 } else { 1.0 }
    }

    /// The error that stops a run at `step`, before what is no number reaches weights that are kept.
    fn diverged(&self, step: u64, what: &str, examples: &[String]) -> anyhow::Error {
        let (shown, more) = examples.split_at(examples.len().min(5));
        let examples = match (shown, more.len()) {
            ([], _) => String::new(),
            (_, 0) => format!(", on examples {}", shown.join(", ")),
            (_, more) => format!(", on examples {} and {more} more", shown.join(", ")),
        };
        let kept = match self.checkpoints.last_folder() {
            Ok(Some(folder)) => format!("the last good checkpoint is kept in {}", folder.display()),
            _ => "no checkpoint had been written yet".to_owned(),
        };
        user(format!(
            "training diverged at step {step}: {what}, at learning rate {:e}{examples}; {kept}; \
             lower learning_rate or clip, lengthen the warm-up, or look at the examples and the base weights",
            self.setup.rates.at(step.saturating_sub(1)),
        ))
    }

    /// Validation loss, in total and by language; keeps the weights if they are the best so far.
    fn validate(&mut self) -> Result<()> {
        let Some(data) = &self.setup.validation else { return Ok(()) };
        let documents: Vec<Vec<usize>> =
            (0..data.documents.len()).map(|index| vec![index]).collect();
        let lengths = data.lengths();
        let shares: Vec<_> = share_out(&documents, &lengths, self.team.size())
            .into_iter()
            .map(|share| micro_batches(share, &lengths))
            .collect();
        let bar = self.ctx.bar("validate", "parts", Some(shares[0].len() as u64));
        let mut batches = data.batches(&shares);
        let mut compute = |team: &mut Team<B>| team.losses(&mut batches, || bar.inc(1));
        let losses = match self.untouched.take() {
            // Adapters begin as nothing beside the base: one run computes what all of them begin with.
            Some(known) if self.rows.is_empty() && self.team.model().is_untouched() => {
                let lock = || known.lock().unwrap_or_else(PoisonError::into_inner);
                let mut known = self.team.model().aside(lock);
                if known.is_none() {
                    *known = Some(compute(&mut self.team)?);
                }
                known.clone().unwrap_or_default()
            }
            _ => compute(&mut self.team)?,
        };
        bar.finish();
        let mut sum = LossSum::default();
        sum.add(data, shares.iter().flatten().flatten(), &losses);
        if !sum.mean().is_finite() {
            let what = format!("the validation loss is {}", sum.mean());
            return Err(self.diverged(self.step, &what, &sum.not_finite));
        }
        let row = Row {
            step: self.step,
            validation: true,
            loss: sum.mean(),
            tokens: self.tokens,
            seconds: self.seconds(),
            documents: Some(data.documents.len() as u64),
            truncated: Some(data.documents.iter().filter(|one| one.cut).count() as u64),
            by_language: sum.by_language(data),
            ..Row::default()
        };
        self.record(row)?;
        if self.best() == Some(self.step) && !self.is_last_step() {
            let dtype = self.setup.recipe.dtype.into();
            self.checkpoints.save_best(self.step, &self.team, dtype)?;
        }
        Ok(())
    }

    /// The step whose weights are to be kept, where validation decides that.
    fn best(&self) -> Option<u64> {
        self.course.best().map(|(step, _)| step).filter(|_| self.setup.recipe.keep_best)
    }

    fn checkpoint(&self) -> Result<()> {
        let Setup { identity, recipe, encoder, .. } = &self.setup;
        let now = Snapshot {
            identity,
            team: &self.team,
            rows: &self.rows,
            tokenizer: recipe.kept.map(|_| (&encoder.encoder, recipe.objective)),
        };
        self.checkpoints.save(&now, recipe.kept.map_or(1, |kept| kept.last), self.best())
    }

    fn seconds(&self) -> f64 {
        self.seconds_before + self.started.elapsed().as_secs_f64()
    }

    /// Writes the results, then takes away the checkpoints that are not kept.
    fn finish(&self) -> Result<Summary> {
        let kept_step = self.best().unwrap_or(self.step);
        if let Some(name) = self.team.model().first_not_finite() {
            return Err(self.diverged(self.step, &format!("{name} is no longer finite"), &[]));
        }
        if let Some(why) = self.team.model().refusal() {
            self.ctx.warn(format!("passes ran one launch at a time, which is slower: {why}"));
        }
        self.write(kept_step).map_err(|error| explain_full_disk(error, self.out))?;
        let Setup { recipe, train, rates, .. } = &self.setup;
        self.checkpoints.finish(recipe.kept.map_or(0, |kept| kept.last))?;
        let train_row = self.rows.iter().rfind(|row| !row.validation);
        let kept = self.rows.iter().rfind(|row| row.validation && row.step == kept_step);
        Ok(Summary {
            steps: self.step,
            stopped_early: self.step < rates.total,
            documents: train.documents.len() as u64,
            rows: train.counts,
            tokens: self.tokens,
            parameters: self.team.model().parameter_count() as u64,
            trained: recipe.lora.as_ref().map(|_| self.team.model().trained_count() as u64),
            loss: train_row.map(|row| row.loss),
            loss_by_language: train_row.map(|row| row.by_language.clone()).unwrap_or_default(),
            kept_step,
            validation_loss: kept.map(|row| row.loss),
            validation_loss_by_language: kept
                .map(|row| row.by_language.clone())
                .unwrap_or_default(),
            ranks: Some(self.team.size()).filter(|&ranks| ranks > 1),
            waited: self.team.waited(),
            seconds: self.seconds(),
        })
    }

    /// `model/` with the weights of `kept_step`, and `metrics.parquet`.
    fn write(&self, kept_step: u64) -> Result<()> {
        let Setup { recipe, encoder, .. } = &self.setup;
        let folder = self.out.join("model");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        if kept_step == self.step {
            self.team.save(&folder, recipe.dtype.into())?;
        } else {
            export::copy_files(&self.checkpoints.best(kept_step), &folder)?;
        }
        export::complete(&folder, &encoder.encoder, recipe.objective)?;
        metrics::write(&self.rows, &self.out.join("metrics.parquet"))
    }
}

/// Whether something that happens every so many steps happens after this one.
fn is_due(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}
