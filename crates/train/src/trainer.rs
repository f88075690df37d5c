//! The training loop: data and a base model in; `model/` (Hugging Face layout) and `metrics.parquet` out.
//!
//! A step's gradient is that of the mean loss over every counted token of the whole batch, however many
//! micro-batches it is run in. The same inputs give the same bits, with any number of threads, and
//! through any number of interruptions.

use std::{fmt, fs, path::Path, time::Instant};

use anyhow::Result;
use artifact::{
    Bar, Context, bail_user,
    error::user,
    hash::{files_below, hash_file},
    text::{count, duration},
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    batches::{Plan, micro_batches},
    checkpoint::{Checkpoints, Identity},
    config::{BaseModel, Length, Recipe, TrainConfig, TrainData},
    data::{Dataset, Encoding, Split},
    disk::explain_full_disk,
    encoder::Encoder,
    export,
    metrics::{self, LossSum, Row},
    model::{Gradients, Model, ModelConfig},
    optimizer::AdamW,
    schedule::LearningRate,
};

/// What a training came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Optimiser steps.
    pub steps: u64,
    /// Documents trained on in one epoch.
    pub documents: u64,
    /// Tokens run through training, over all epochs.
    pub tokens: u64,
    /// Parameters of the model.
    pub parameters: u64,
    /// Training loss of the last step.
    pub loss: Option<f64>,
    /// The step whose weights were kept; the last one without validation data.
    pub kept_step: u64,
    /// Validation loss of those weights.
    pub validation_loss: Option<f64>,
    /// The same by language.
    pub validation_loss_by_language: Vec<(String, f64)>,
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
        if let Some(loss) = self.loss {
            write!(f, "; training loss {loss:.4}")?;
        }
        if let Some(loss) = self.validation_loss {
            write!(f, "; validation loss {loss:.4} at step {} (kept)", count(self.kept_step))?;
            for (language, loss) in &self.validation_loss_by_language {
                write!(f, ", {language} {loss:.4}")?;
            }
        }
        Ok(())
    }
}

/// Trains. `out` is an existing folder; a checkpoint of the same run in `out/checkpoint` is resumed.
///
/// After Ctrl-C a checkpoint is written and `Interrupted` returned. Faults of the settings or the data,
/// a loss that is not a number among them, are `UserError`s.
pub fn run(
    config: &TrainConfig,
    base: &BaseModel,
    data: &TrainData,
    out: &Path,
    ctx: &Context,
) -> Result<Summary> {
    let recipe = config.resolve()?;
    let encoder = Encoder::load(base.tokenizer())?;
    let model_config = config_of(base, &encoder)?;
    encoder.tokenizer.check_fits(model_config.vocab_size)?;
    let sequence_length = sequence_length(&recipe, model_config.max_position_embeddings)?;
    let encoding = Encoding { encoder: &encoder, objective: recipe.objective, sequence_length };
    let train = Dataset::load(&data.train, Split::Train, &encoding, ctx)?;
    let held_out = Split::Validation(&train.tasks);
    let validation = match &data.validation {
        Some(path) => Dataset::load(path, held_out, &encoding, ctx)?,
        None => Dataset::load_any(&data.train, held_out, &encoding, ctx)?,
    };
    let validation = (!validation.documents.is_empty()).then_some(validation);
    let identity = Identity {
        recipe: json!(recipe),
        base: identity_of(base, &model_config)?,
        train: train.hash.clone(),
        validation: validation.as_ref().map(|data| data.hash.clone()),
    };
    let plan = Plan::new(train.lengths(), sequence_length, &recipe);
    let checkpoints = Checkpoints::of(out);
    let setup = Setup { recipe, identity, plan, train, validation, checkpoints };
    let mut trainer = Trainer::start(setup, ctx, || match base {
        BaseModel::Weights(folder) => Model::load(folder),
        BaseModel::Random { seed, .. } => Ok(Model::random(model_config, *seed)),
    })?;
    trainer.train()?;
    trainer.finish(&encoder, out)
}

fn config_of(base: &BaseModel, encoder: &Encoder) -> Result<ModelConfig> {
    match base {
        BaseModel::Weights(folder) => ModelConfig::load(folder),
        BaseModel::Random { init, .. } => init.model_config(&encoder.tokenizer),
    }
}

/// The recipe's sequence length, within the model's context.
fn sequence_length(recipe: &Recipe, context: usize) -> Result<usize> {
    if recipe.sequence_length_is_explicit && recipe.sequence_length > context {
        bail_user!(
            "train.sequence_length is {}, but the model's context is {context} (max_position_embeddings)",
            recipe.sequence_length
        );
    }
    Ok(recipe.sequence_length.min(context))
}

/// The base model in a checkpoint's identity: its config, and a hash or the seed of its weights.
fn identity_of(base: &BaseModel, config: &ModelConfig) -> Result<Value> {
    let mut identity = Map::new();
    identity.insert("config".to_owned(), config.to_json());
    match base {
        BaseModel::Random { seed, .. } => {
            identity.insert("seed".to_owned(), json!(seed));
        }
        BaseModel::Weights(folder) => {
            for file in files_below(folder)? {
                if file.extension().is_some_and(|extension| extension == "safetensors") {
                    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    identity.insert(name, json!(hash_file(&file)?));
                }
            }
        }
    }
    Ok(Value::Object(identity))
}

/// What stays the same throughout a run, but for the plan's memory of the epoch it is in.
struct Setup {
    recipe: Recipe,
    identity: Identity,
    plan: Plan,
    train: Dataset,
    validation: Option<Dataset>,
    checkpoints: Checkpoints,
}

struct Trainer<'a> {
    setup: Setup,
    model: Model,
    optimizer: AdamW,
    gradients: Gradients,
    rates: LearningRate,
    rows: Vec<Row>,
    /// Optimiser steps done.
    step: u64,
    /// Tokens of those steps.
    tokens: u64,
    started: Instant,
    /// Seconds of earlier sessions of this run.
    seconds_before: f64,
    ctx: &'a Context,
}

impl<'a> Trainer<'a> {
    /// From the last checkpoint where there is one, else from `base` weights.
    fn start(setup: Setup, ctx: &'a Context, base: impl FnOnce() -> Result<Model>) -> Result<Self> {
        let Setup { recipe, plan, checkpoints, .. } = &setup;
        let (step, rows, model, optimizer) = match checkpoints.last(&setup.identity)? {
            Some(mut checkpoint) => {
                let folder = checkpoints.root().display();
                ctx.log(format!("going on from step {} ({folder})", count(checkpoint.step)));
                let mut optimizer = adamw(&checkpoint.model, recipe);
                checkpoint.restore(&mut optimizer)?;
                let rows = std::mem::take(&mut checkpoint.metrics);
                (checkpoint.step, rows, checkpoint.model, optimizer)
            }
            None => {
                let model = base()?;
                let optimizer = adamw(&model, recipe);
                (0, Vec::new(), model, optimizer)
            }
        };
        let total = match recipe.length {
            Length::Steps(steps) => steps,
            Length::Epochs(epochs) => (epochs * plan.steps_per_epoch() as f64).ceil() as u64,
        };
        let rates = LearningRate {
            peak: recipe.learning_rate,
            schedule: recipe.schedule,
            warmup: recipe.warmup.steps(total),
            total,
            min_ratio: recipe.min_lr_ratio,
        };
        let last = rows.last();
        Ok(Self {
            gradients: Gradients::zeros(&model),
            tokens: last.map_or(0, |row| row.tokens),
            seconds_before: last.map_or(0.0, |row| row.seconds),
            started: Instant::now(),
            setup,
            model,
            optimizer,
            rates,
            rows,
            step,
            ctx,
        })
    }

    /// Runs the steps that are left.
    fn train(&mut self) -> Result<()> {
        let bar = self.ctx.bar("train", "steps", Some(self.rates.total));
        bar.set(self.step);
        let result = self.steps(&bar);
        bar.finish();
        result
    }

    fn steps(&mut self, bar: &Bar) -> Result<()> {
        if self.rows.is_empty() {
            self.validate()?;
        }
        while self.step < self.rates.total {
            if let Err(interrupted) = self.ctx.check() {
                self.checkpoint()?;
                return Err(interrupted);
            }
            let row = self.optimise()?;
            let speed = row.tokens_per_second.unwrap_or(0.0);
            bar.note(&format!("loss {:.3}  {} tokens/s", row.loss, count(speed as u64)));
            self.rows.push(row);
            bar.set(self.step);
            let at_end = self.step == self.rates.total;
            if at_end || is_due(self.step, self.setup.recipe.validate_every) {
                self.validate()?;
            }
            if !at_end && is_due(self.step, self.setup.recipe.checkpoint_every) {
                self.checkpoint()?;
            }
        }
        Ok(())
    }

    /// One optimiser step.
    fn optimise(&mut self) -> Result<Row> {
        let started = Instant::now();
        let parts = self.setup.plan.step(self.step);
        let batches: Vec<_> = parts.iter().map(|part| self.setup.train.batch(part)).collect();
        let targets = || batches.iter().flat_map(|batch| &batch.targets);
        let counted = targets().filter(|&&target| target >= 0).count();
        self.gradients.clear();
        let mut sum = LossSum::default();
        for (part, batch) in parts.iter().zip(&batches) {
            let losses =
                self.model.forward_backward(batch, 1.0 / counted as f32, &mut self.gradients)?;
            sum.add(&self.setup.train, part, &losses);
        }
        let grad_norm = self.gradients.global_norm();
        if !sum.mean().is_finite() {
            let what = format!("the loss is {}", sum.mean());
            return Err(self.diverged(self.step + 1, &what, &sum.not_finite));
        }
        if !grad_norm.is_finite() {
            let documents =
                parts.concat().into_iter().map(|index| &self.setup.train.documents[index]);
            let examples: Vec<_> = documents.map(|document| document.example_id.clone()).collect();
            let what = format!("the gradient's norm is {grad_norm}");
            return Err(self.diverged(self.step + 1, &what, &examples));
        }
        let learning_rate = self.rates.at(self.step);
        if self.setup.recipe.clip > 0.0 {
            // As torch.nn.utils.clip_grad_norm_ does.
            let factor = self.setup.recipe.clip / (grad_norm + 1e-6);
            if factor < 1.0 {
                self.gradients.scale(factor as f32);
            }
        }
        self.optimizer.step(&mut self.model, &self.gradients, learning_rate as f32);
        let tokens = targets().count() as u64;
        self.step += 1;
        self.tokens += tokens;
        Ok(Row {
            step: self.step,
            validation: false,
            loss: sum.mean(),
            learning_rate: Some(learning_rate),
            grad_norm: Some(grad_norm),
            tokens: self.tokens,
            seconds: self.seconds(),
            tokens_per_second: Some(tokens as f64 / started.elapsed().as_secs_f64().max(1e-9)),
            by_language: sum.by_language(&self.setup.train),
        })
    }

    /// The error that stops a run at `step`, before what is no number reaches weights that are kept.
    fn diverged(&self, step: u64, what: &str, examples: &[String]) -> anyhow::Error {
        let (shown, more) = examples.split_at(examples.len().min(5));
        let examples = match (shown, more.len()) {
            ([], _) => String::new(),
            (_, 0) => format!(", on examples {}", shown.join(", ")),
            (_, more) => format!(", on examples {} and {more} more", shown.join(", ")),
        };
        let kept = match self.setup.checkpoints.last_folder() {
            Ok(Some(folder)) => format!("the last good checkpoint is kept in {}", folder.display()),
            _ => "no checkpoint had been written yet".to_owned(),
        };
        user(format!(
            "training diverged at step {step}: {what}, at learning rate {:e}{examples}; {kept}; \
             lower learning_rate or clip, lengthen the warm-up, or look at the examples and the base weights",
            self.rates.at(step.saturating_sub(1)),
        ))
    }

    /// Validation loss, in total and by language; keeps the weights if they are the best so far.
    fn validate(&mut self) -> Result<()> {
        let Some(data) = &self.setup.validation else { return Ok(()) };
        let documents: Vec<Vec<usize>> =
            (0..data.documents.len()).map(|index| vec![index]).collect();
        let parts = micro_batches(&documents, &data.lengths());
        let bar = self.ctx.bar("validate", "parts", Some(parts.len() as u64));
        let mut sum = LossSum::default();
        for part in &parts {
            let losses = self.model.losses(&data.batch(part))?;
            sum.add(data, part, &losses);
            bar.inc(1);
        }
        bar.finish();
        if !sum.mean().is_finite() {
            let what = format!("the validation loss is {}", sum.mean());
            return Err(self.diverged(self.step, &what, &sum.not_finite));
        }
        self.rows.push(Row {
            step: self.step,
            validation: true,
            loss: sum.mean(),
            learning_rate: None,
            grad_norm: None,
            tokens: self.tokens,
            seconds: self.seconds(),
            tokens_per_second: None,
            by_language: sum.by_language(data),
        });
        if self.best() == Some(self.step) && self.step < self.rates.total {
            let Setup { recipe, checkpoints, .. } = &self.setup;
            checkpoints.save_best(self.step, &self.model, recipe.dtype.into())?;
        }
        Ok(())
    }

    /// The step whose weights are to be kept, where validation decides that.
    fn best(&self) -> Option<u64> {
        let best = metrics::best(&self.rows, &self.setup.train.languages).map(|(step, _)| step);
        best.filter(|_| self.setup.recipe.keep_best)
    }

    fn checkpoint(&self) -> Result<()> {
        let Setup { identity, checkpoints, .. } = &self.setup;
        checkpoints.save(identity, &self.model, &self.optimizer, &self.rows, self.best())
    }

    fn seconds(&self) -> f64 {
        self.seconds_before + self.started.elapsed().as_secs_f64()
    }

    /// Writes the results, then takes the checkpoints away.
    fn finish(&self, encoder: &Encoder, out: &Path) -> Result<Summary> {
        let kept_step = self.best().unwrap_or(self.step);
        let is_whole = |values: &[f32]| values.iter().all(|value| value.is_finite());
        if let Some((name, _)) =
            self.model.parameters().iter().find(|(_, values)| !is_whole(values))
        {
            return Err(self.diverged(self.step, &format!("{name} is no longer finite"), &[]));
        }
        self.write(kept_step, encoder, out).map_err(|error| explain_full_disk(error, out))?;
        self.setup.checkpoints.clear()?;
        let train_row = self.rows.iter().rfind(|row| !row.validation);
        let kept = self.rows.iter().rfind(|row| row.validation && row.step == kept_step);
        Ok(Summary {
            steps: self.step,
            documents: self.setup.train.documents.len() as u64,
            tokens: self.tokens,
            parameters: self.model.parameter_count() as u64,
            loss: train_row.map(|row| row.loss),
            kept_step,
            validation_loss: kept.map(|row| row.loss),
            validation_loss_by_language: kept
                .map(|row| row.by_language.clone())
                .unwrap_or_default(),
            seconds: self.seconds(),
        })
    }

    /// `model/` with the weights of `kept_step`, and `metrics.parquet`.
    fn write(&self, kept_step: u64, encoder: &Encoder, out: &Path) -> Result<()> {
        let Setup { recipe, checkpoints, .. } = &self.setup;
        let folder = out.join("model");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        if kept_step == self.step {
            self.model.save(&folder, recipe.dtype.into())?;
        } else {
            export::copy_files(&checkpoints.best(kept_step), &folder)?;
        }
        export::complete(&folder, encoder, recipe.objective)?;
        metrics::write(&self.rows, &out.join("metrics.parquet"))
    }
}

fn adamw(model: &Model, recipe: &Recipe) -> AdamW {
    let mut optimizer = AdamW::new(model);
    optimizer.beta1 = recipe.beta1 as f32;
    optimizer.beta2 = recipe.beta2 as f32;
    optimizer.eps = recipe.eps as f32;
    optimizer.weight_decay = recipe.weight_decay as f32;
    optimizer
}

/// Whether something that happens every so many steps happens after this one.
fn is_due(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}
