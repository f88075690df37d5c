//! Everything that is settled before the first step: settings, tokenizer, encoded rows, the order of the steps. What is
//! wrong with any of them is said here, before weights are loaded.

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc};

use anyhow::Result;
use artifact::{
    Context, bail_user,
    text::{TextTable, count},
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    batches::{MICRO_BATCH_TOKENS, Plan},
    checkpoint::Identity,
    config::{BaseModel, Objective, Recipe, TrainConfig, TrainData},
    data::{Counts, Dataset, Split},
    encodings::Encoding,
    lora::LoraConfig,
    model::{
        ModelConfig,
        adapter::Lora,
        peft::{self, base_folder, is_adapter},
    },
    schedule::LearningRate,
    shared::{Shared, SharedEncoder},
};

/// What a run is made of.
pub struct Setup {
    /// Settings.
    pub recipe: Recipe,
    /// What a checkpoint must agree with.
    pub identity: Identity,
    /// The model's shape.
    pub model: ModelConfig,
    /// Tokenizer and template.
    pub encoder: Arc<SharedEncoder>,
    /// Most tokens in a sequence.
    pub sequence_length: usize,
    /// What is trained on.
    pub train: Dataset,
    /// What is validated on.
    pub validation: Option<Dataset>,
    /// The order of the steps.
    pub plan: Plan,
    /// Learning rate by step, and steps in all.
    pub rates: LearningRate,
}

/// What a setup is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A run.
    Training,
    /// To tell what a run would come to; the base model's weights need not be there.
    Planning,
}

impl Setup {
    /// Reads and checks all of it. Faults of the settings or the data are `UserError`s.
    pub fn new(
        config: &TrainConfig,
        base: &BaseModel,
        data: &TrainData,
        shared: &Shared,
        (purpose, ctx): (Purpose, &Context),
    ) -> Result<Self> {
        let mut recipe = config.resolve()?;
        if let Some(settings) = &config.lora {
            recipe.lora = Some(adapter(settings, base)?);
        }
        let encoder = shared.encoder(&peft::tokenizer_folder(base.tokenizer())?)?;
        let model = match base {
            BaseModel::Weights(folder) => ModelConfig::load(folder)?,
            BaseModel::Random { init, .. } => init.model_config(&encoder.encoder.tokenizer)?,
        };
        encoder.encoder.tokenizer.check_fits(model.vocab_size)?;
        if recipe.objective == Objective::Sft {
            // What the trained model's folder will say; a template that cannot tell must not come out at the end.
            encoder.encoder.stop_ids()?;
            if encoder.encoder.template.is_default() {
                ctx.log(format!(
                    "{}: no chat template; ChatML is taken, and saved with the model",
                    base.tokenizer().display()
                ));
            }
        }
        let sequence_length = sequence_length(&recipe, model.max_position_embeddings)?;
        let encoding = Encoding {
            encoder: &encoder.encoder,
            objective: recipe.objective,
            sequence_length,
            known: shared.rows(&encoder, recipe.objective, sequence_length),
        };
        let train = Dataset::load(&data.train, Split::Train, &encoding, ctx)?;
        let held_out = Split::Validation(&train.tasks);
        let validation = match &data.validation {
            Some(path) => Dataset::load(path, held_out, &encoding, ctx)?,
            None => Dataset::load_any(&data.train, held_out, &encoding, ctx)?,
        };
        let validation = (!validation.documents.is_empty()).then_some(validation);
        if recipe.patience.is_some() && validation.is_none() {
            bail_user!(
                "train.patience is set, but there is no validation data: give validation rows, or take patience out"
            );
        }
        let identity = Identity {
            recipe: without_what_stays(json!(recipe)),
            base: match purpose {
                Purpose::Training => base_identity(base, &model, shared)?,
                Purpose::Planning => Value::Null,
            },
            train: train.hash.clone(),
            validation: validation.as_ref().map(|data| data.hash.clone()),
        };
        let mut plan = Plan::new(train.lengths(), sequence_length, &recipe);
        let rates = rates(&recipe, plan.steps_per_epoch());
        if recipe.optimizer_in_backward {
            check_one_pass_a_step(&recipe, &mut plan, rates.total)?;
        }
        Ok(Self {
            recipe,
            identity,
            model,
            encoder,
            sequence_length,
            train,
            validation,
            plan,
            rates,
        })
    }

    /// What the run would come to.
    pub fn outline(&self) -> Outline {
        let mut languages: BTreeMap<&str, Share> = BTreeMap::new();
        for document in &self.train.documents {
            let share = languages.entry(&self.train.languages[document.language]).or_default();
            share.documents += 1;
            share.tokens += document.tokens.len() as u64;
            share.counted += document.targets.iter().filter(|&&target| target >= 0).count() as u64;
        }
        let tokens = self.train.tokens();
        let room = self.plan.sequences() as u64 * self.sequence_length as u64;
        Outline {
            languages: languages
                .into_iter()
                .map(|(name, share)| (name.to_owned(), share))
                .collect(),
            rows: self.train.counts,
            longest: self.train.lengths().into_iter().max().unwrap_or(0) as u64,
            sequence_length: self.sequence_length as u64,
            sequences: self.plan.sequences() as u64,
            packed: self.recipe.packing.then(|| tokens as f64 / room as f64),
            steps_per_epoch: self.plan.steps_per_epoch(),
            steps: self.rates.total,
            validation_documents: self
                .validation
                .as_ref()
                .map_or(0, |data| data.documents.len() as u64),
        }
    }
}

/// What adapter is trained: one beside a whole base model, or the one of a folder, whose training goes on.
fn adapter(settings: &LoraConfig, base: &BaseModel) -> Result<Lora> {
    match base {
        BaseModel::Random { .. } => bail_user!(
            "train.lora needs a base model with weights (a path): beside random ones an adapter has nothing to adapt"
        ),
        BaseModel::Weights(folder) if is_adapter(folder) => {
            settings.going_on(&peft::settings(folder)?, folder)
        }
        BaseModel::Weights(_) => settings.resolve(),
    }
}

/// The base model, and the adapter's folder that training goes on from: an adapter stands beside the base of the
/// one that it began as.
pub fn base_and_start(base: &BaseModel, lora: bool) -> Result<(BaseModel, Option<&Path>)> {
    match base {
        BaseModel::Weights(folder) if lora && is_adapter(folder) => {
            Ok((BaseModel::Weights(base_folder(folder)?), Some(folder)))
        }
        base => Ok((base.clone(), None)),
    }
}

/// An optimiser in the backward pass sees a step's gradients once.
fn check_one_pass_a_step(recipe: &Recipe, plan: &mut Plan, steps: u64) -> Result<()> {
    for step in 0..steps {
        let passes = plan.step(step).len();
        if passes > 1 {
            bail_user!(
                "train.optimizer_in_backward is set, but the batch of {} sequences at step {} would be run in {passes} passes of about {MICRO_BATCH_TOKENS} tokens; set gradient_accumulation = 1 to run it in one, or lower batch_size",
                recipe.batch_size,
                step + 1
            );
        }
    }
    Ok(())
}

/// Which checkpoints are left for later has no part in the weights, and may change on the way.
fn without_what_stays(mut recipe: Value) -> Value {
    if let Some(fields) = recipe.as_object_mut() {
        fields.shift_remove("kept");
    }
    recipe
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
fn base_identity(base: &BaseModel, config: &ModelConfig, shared: &Shared) -> Result<Value> {
    let mut identity = Map::new();
    identity.insert("config".to_owned(), config.to_json());
    match base {
        BaseModel::Random { seed, .. } => {
            identity.insert("seed".to_owned(), json!(seed));
        }
        BaseModel::Weights(folder) => identity.extend(shared.weights_identity(folder)?),
    }
    Ok(Value::Object(identity))
}

fn rates(recipe: &Recipe, steps_per_epoch: u64) -> LearningRate {
    let total = recipe.steps(steps_per_epoch);
    LearningRate {
        peak: recipe.learning_rate,
        schedule: recipe.schedule,
        warmup: recipe.warmup.steps(total),
        total,
        min_ratio: recipe.min_lr_ratio,
    }
}

/// A language's share of an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    /// Documents.
    pub documents: u64,
    /// Tokens that run through the model.
    pub tokens: u64,
    /// Tokens that the loss counts.
    pub counted: u64,
}

/// What a run would come to, told without running it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outline {
    /// Each language's share of an epoch, sorted by name.
    pub languages: Vec<(String, Share)>,
    /// What became of the rows.
    pub rows: Counts,
    /// Tokens of the longest document.
    pub longest: u64,
    /// Most tokens in a sequence.
    pub sequence_length: u64,
    /// Sequences of an epoch.
    pub sequences: u64,
    /// How full packed sequences are, 0 to 1; none without packing.
    pub packed: Option<f64>,
    /// Steps of an epoch.
    pub steps_per_epoch: u64,
    /// Steps in all.
    pub steps: u64,
    /// Documents of a validation.
    pub validation_documents: u64,
}

impl fmt::Display for Outline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = TextTable::new(&["lang", "documents", "tokens", "counted in the loss"]);
        table.right(&[1, 2, 3]);
        let mut all = Share::default();
        for (name, share) in &self.languages {
            all.documents += share.documents;
            all.tokens += share.tokens;
            all.counted += share.counted;
            let cells = [share.documents, share.tokens, share.counted].map(count);
            table.row([vec![name.clone()], cells.to_vec()].concat());
        }
        let cells = [all.documents, all.tokens, all.counted].map(count);
        table.row([vec!["all".to_owned()], cells.to_vec()].concat());
        writeln!(f, "{}", table.to_string().trim_end())?;
        let losses = self.rows.losses();
        if !losses.is_empty() {
            writeln!(f, "{losses}")?;
        }
        write!(f, "{} sequences", count(self.sequences))?;
        if let Some(packed) = self.packed {
            write!(f, " of {}, {:.1} % full", count(self.sequence_length), packed * 100.0)?;
        }
        write!(
            f,
            "; longest document {} tokens of at most {}\n{} steps, {} an epoch; {} validation documents",
            count(self.longest),
            count(self.sequence_length),
            count(self.steps),
            count(self.steps_per_epoch),
            count(self.validation_documents)
        )
    }
}
