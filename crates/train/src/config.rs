//! Settings of training, as a pipeline file writes them, and the recipe they come to.
//!
//! A file sets few keys; a preset gives the rest. [`TrainConfig::resolve`] checks the values and
//! returns a [`Recipe`] without gaps, which is what the trainer runs and what a cache key is made of.

use std::path::{Path, PathBuf};

use anyhow::Result;
use artifact::bail_user;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    device::Device,
    init::InitConfig,
    lora::{self, LoraConfig},
    model::{Dtype, Recompute, Stand, adapter::Lora},
    ops::{Form, Kind, Nf4},
    optimizer::Policy,
    schedule::{Schedule, Warmup},
};

/// Named sets of defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// The study's fine-tuning: batch 64, unpacked, constant 1e-5, no decay, validation every 50
    /// steps and the best of them kept.
    #[default]
    Study,
    /// Language modelling from scratch: packed, batch 16, cosine from 1e-3 after 2 % warm-up,
    /// decay 0.1, beta2 0.95.
    Pretrain,
}

/// Which tokens the loss counts.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// The assistant's tokens of a rendered conversation, each with its end-of-turn token.
    Sft,
    /// Every token of the messages' text, followed by the end-of-text token.
    Lm,
}

/// Element type of saved weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SavedDtype {
    /// 32-bit floats, exactly as trained.
    #[default]
    F32,
    /// bfloat16, rounded to nearest even: half the size.
    Bf16,
}

impl From<SavedDtype> for Dtype {
    fn from(dtype: SavedDtype) -> Self {
        match dtype {
            SavedDtype::F32 => Dtype::F32,
            SavedDtype::Bf16 => Dtype::Bf16,
        }
    }
}

/// The `[train]` section: every key may be left out, the preset then decides.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Where the other keys' defaults come from: "study" (the default) or "pretrain".
    #[serde(default)]
    pub preset: Preset,
    /// "sft": loss on assistant tokens alone (study); "lm": on all tokens of the text (pretrain).
    pub objective: Option<Objective>,
    /// Sequences per optimiser step. Default 64 (study), 16 (pretrain).
    pub batch_size: Option<usize>,
    /// Most tokens in a sequence. Default 2048 (study), 512 (pretrain), or the model's context if
    /// that is less. A longer conversation is cut at its end; longer text goes on in another sequence.
    pub sequence_length: Option<usize>,
    /// Fill each sequence with documents by best fit; attention stays inside a document. Without
    /// it a sequence is one document. Padding is never computed. Default false (study), true (pretrain).
    pub packing: Option<bool>,
    /// Shuffle the mixture anew in each epoch (default true); false keeps `position` order.
    pub shuffle: Option<bool>,
    /// Split a batch into this many parts that are run one after the other. The gradient is
    /// normalised by the counted tokens of the whole batch. Default: parts of about 8,192 tokens.
    pub gradient_accumulation: Option<usize>,
    /// Passes over the data; may be a fraction. Default 1.
    pub epochs: Option<f64>,
    /// Optimiser steps, instead of `epochs`.
    pub steps: Option<u64>,
    /// Peak learning rate. Default 1e-5 (study), 1e-3 (pretrain); 2e-4 for an adapter.
    pub learning_rate: Option<f64>,
    /// "constant" (study), "linear" or "cosine" (pretrain) after the warm-up.
    pub schedule: Option<Schedule>,
    /// Steps of linear warm-up. Default 0 (study).
    pub warmup_steps: Option<u64>,
    /// Warm-up as a share of all steps, instead of `warmup_steps`. Default 0.02 (pretrain).
    pub warmup_ratio: Option<f64>,
    /// What "linear" and "cosine" end at, as a share of the peak. Default 0 (study), 0.1 (pretrain).
    pub min_lr_ratio: Option<f64>,
    /// Decoupled weight decay of matrices; norms and biases have none. Default 0 (study), 0.1 (pretrain).
    pub weight_decay: Option<f64>,
    /// AdamW's first decay rate. Default 0.9.
    pub beta1: Option<f64>,
    /// AdamW's second decay rate. Default 0.999 (study), 0.95 (pretrain).
    pub beta2: Option<f64>,
    /// AdamW's epsilon. Default 1e-8.
    pub eps: Option<f64>,
    /// Largest gradient norm; 0 switches clipping off. Default 1.
    pub clip: Option<f64>,
    /// Training seed: the data's order, and new weights where training starts from none. Default 0.
    pub seed: Option<u64>,
    /// Steps between validations; 0 leaves the one at the end alone. Default 50.
    pub validate_every: Option<u64>,
    /// Keep the weights with the lowest validation loss in the trained languages, not the last ones. Default true where
    /// there is validation data.
    pub keep_best: Option<bool>,
    /// End the run after this many validations without progress. Default: never.
    pub patience: Option<u64>,
    /// By how many nats a validation loss must fall to be progress. Default 0.
    pub min_delta: Option<f64>,
    /// Stop with an error where the mean loss of ten steps stands this many nats above its lowest.
    /// Default 4; 0 for never. A loss that is no number always stops the run.
    pub max_loss_rise: Option<f64>,
    /// Steps between checkpoints, from which an interrupted run goes on; 0 for none. Default 50.
    pub save_every: Option<u64>,
    /// Keep this many of the last checkpoints, and leave them beside the trained model: `checkpoint/step-N/`, each a
    /// model folder with the optimiser's state. Default: the last one, until training has ended.
    pub keep: Option<usize>,
    /// Train a low-rank adapter beside the weights, not the weights themselves.
    pub lora: Option<LoraConfig>,
    /// What the backward pass makes again in place of having kept it: "none", "internals" (the widest of what a layer
    /// keeps) or "block" (all but a layer's input). Less memory, more time, no other result. Default: on a card the
    /// first of them that fits, on the processor "none". Does not change the result's key.
    pub recompute: Option<Recompute>,
    /// Take each layer's gradients into the optimiser as soon as they are complete, so that one layer's stand at a
    /// time. It goes with `clip = 0`, `gradient_accumulation = 1` and one rank. The result is that of an ordinary step.
    /// Does not change the result's key.
    pub optimizer_in_backward: Option<bool>,
    /// Train an exact f32 copy of the weights, of which a card's products read bf16 (default true). false: weights
    /// stand in bf16 alone, on every device, and each step rounds them up or down by chance, so that small steps are
    /// not lost; 4 bytes a parameter less on a card.
    pub master_weights: Option<bool>,
    /// How AdamW's two moments stand: "f32" (default, 8 bytes a parameter), "bf16" (4, rounded by chance) or "int8"
    /// (2, in blocks of 256 with a scale each).
    pub optimizer_states: Option<Form>,
    /// Keep the moments in the host's memory and stream them through the card's beside the computation (default
    /// false). Does not change the result or its key; the processor has nothing to move.
    pub optimizer_offload: Option<bool>,
    /// Element type of the saved model: "f32" (default) or "bf16" (default where master_weights is false, and exact
    /// then).
    pub dtype: Option<SavedDtype>,
    /// "auto" (default), "cpu" or "cuda". Does not change the result's key.
    pub device: Option<Device>,
    /// Processes that share a run: each takes a part of every batch and keeps the optimiser's state of a part of the
    /// weights; one a card, or with a part of the threads each. Does not change the result's key. Default 1.
    pub ranks: Option<usize>,
}

/// How long to train.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Length {
    /// Passes over the data.
    Epochs(f64),
    /// Optimiser steps.
    Steps(u64),
}

/// Checkpoints that stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Steps between them.
    pub every: u64,
    /// How many of the last.
    pub last: usize,
}

/// A [`TrainConfig`] without gaps. Its JSON holds what decides the result, and nothing else.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recipe {
    /// Which tokens the loss counts.
    pub objective: Objective,
    /// Sequences per optimiser step.
    pub batch_size: usize,
    /// Most tokens in a sequence; the model's context bounds it further where it was not asked for.
    pub sequence_length: usize,
    /// Whether `sequence_length` was written by the user, so that exceeding the context is an error.
    #[serde(skip)]
    pub sequence_length_is_explicit: bool,
    /// Whether sequences are filled with several documents.
    pub packing: bool,
    /// Whether each epoch is shuffled.
    pub shuffle: bool,
    /// Parts a batch is run in; `None`: by token count.
    pub gradient_accumulation: Option<usize>,
    /// How long to train.
    pub length: Length,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Shape of the learning rate after warm-up.
    pub schedule: Schedule,
    /// Length of the warm-up.
    pub warmup: Warmup,
    /// End of the decay as a share of the peak.
    pub min_lr_ratio: f64,
    /// Weight decay of matrices.
    pub weight_decay: f64,
    /// AdamW beta1.
    pub beta1: f64,
    /// AdamW beta2.
    pub beta2: f64,
    /// AdamW epsilon.
    pub eps: f64,
    /// Largest gradient norm; 0: no clipping.
    pub clip: f64,
    /// Training seed.
    pub seed: u64,
    /// Steps between validations; 0: at the end alone.
    pub validate_every: u64,
    /// Keep the best weights by validation loss.
    pub keep_best: bool,
    /// Validations without progress that end the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<u64>,
    /// What is progress, in nats.
    pub min_delta: f64,
    /// Nats by which the loss may rise above its lowest; 0: any.
    pub max_loss_rise: f64,
    /// Steps between checkpoints; 0: none.
    #[serde(skip)]
    pub save_every: u64,
    /// Checkpoints that are left beside the model, as every how many steps and how many of the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<Kept>,
    /// The adapter that is trained in place of the weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
    /// How the base model's linear maps stand in 4 bits under the adapter; none: as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantize: Option<Nf4>,
    /// Whether the weights that are trained are exact, and not bf16 alone.
    #[serde(skip_serializing_if = "is_true")]
    pub master_weights: bool,
    /// How the optimiser's moments stand.
    #[serde(skip_serializing_if = "is_f32")]
    pub optimizer_states: Form,
    /// Whether they stand in the host's memory.
    #[serde(skip)]
    pub optimizer_offload: bool,
    /// What the backward pass makes again; `None`: the first level that fits.
    #[serde(skip)]
    pub recompute: Option<Recompute>,
    /// Whether the optimiser takes each layer's gradients as they come.
    #[serde(skip)]
    pub optimizer_in_backward: bool,
    /// Element type of the saved model.
    pub dtype: SavedDtype,
    /// Device.
    #[serde(skip)]
    pub device: Device,
    /// Processes that share the run.
    #[serde(skip)]
    pub ranks: usize,
}

impl TrainConfig {
    /// Fills the gaps from the preset and checks every value. A fault is a `UserError` that names the key.
    pub fn resolve(&self) -> Result<Recipe> {
        let pretrain = self.preset == Preset::Pretrain;
        let pick = |study: f64, other: f64| if pretrain { other } else { study };
        let length = match (self.epochs, self.steps) {
            (Some(_), Some(_)) => bail_user!("train: give `epochs` or `steps`, not both"),
            (_, Some(steps)) => Length::Steps(steps),
            (epochs, None) => Length::Epochs(epochs.unwrap_or(1.0)),
        };
        let warmup = match (self.warmup_steps, self.warmup_ratio) {
            (Some(_), Some(_)) => {
                bail_user!("train: give `warmup_steps` or `warmup_ratio`, not both")
            }
            (Some(steps), None) => Warmup::Steps(steps),
            (None, ratio) => Warmup::Ratio(ratio.unwrap_or(pick(0.0, 0.02))),
        };
        let default_schedule = if pretrain { Schedule::Cosine } else { Schedule::Constant };
        let default_objective = if pretrain { Objective::Lm } else { Objective::Sft };
        let save_every = self.save_every.unwrap_or(50);
        let lora = self.lora.as_ref().map(LoraConfig::resolve).transpose()?;
        let quantize = self.lora.as_ref().map(LoraConfig::packed).transpose()?.flatten();
        let default_rate = if lora.is_some() { lora::LEARNING_RATE } else { pick(1e-5, 1e-3) };
        let master_weights = self.master_weights.unwrap_or(true);
        let default_dtype = if master_weights { SavedDtype::F32 } else { SavedDtype::Bf16 };
        let recipe = Recipe {
            objective: self.objective.unwrap_or(default_objective),
            batch_size: self.batch_size.unwrap_or(if pretrain { 16 } else { 64 }),
            sequence_length: self.sequence_length.unwrap_or(if pretrain { 512 } else { 2048 }),
            sequence_length_is_explicit: self.sequence_length.is_some(),
            packing: self.packing.unwrap_or(pretrain),
            shuffle: self.shuffle.unwrap_or(true),
            gradient_accumulation: self.gradient_accumulation,
            length,
            learning_rate: self.learning_rate.unwrap_or(default_rate),
            schedule: self.schedule.unwrap_or(default_schedule),
            warmup,
            min_lr_ratio: self.min_lr_ratio.unwrap_or(pick(0.0, 0.1)),
            weight_decay: self.weight_decay.unwrap_or(pick(0.0, 0.1)),
            beta1: self.beta1.unwrap_or(0.9),
            beta2: self.beta2.unwrap_or(pick(0.999, 0.95)),
            eps: self.eps.unwrap_or(1e-8),
            clip: self.clip.unwrap_or(1.0),
            seed: self.seed.unwrap_or(0),
            validate_every: self.validate_every.unwrap_or(50),
            keep_best: self.keep_best.unwrap_or(true),
            patience: self.patience,
            min_delta: self.min_delta.unwrap_or(0.0),
            max_loss_rise: self.max_loss_rise.unwrap_or(4.0),
            save_every,
            kept: self.keep.map(|last| Kept { every: save_every, last }),
            lora,
            quantize,
            recompute: self.recompute,
            optimizer_in_backward: self.optimizer_in_backward.unwrap_or(false),
            master_weights,
            optimizer_states: self.optimizer_states.unwrap_or_default(),
            optimizer_offload: self.optimizer_offload.unwrap_or(false),
            dtype: self.dtype.unwrap_or(default_dtype),
            device: self.device.unwrap_or_default(),
            ranks: self.ranks.unwrap_or(1),
        };
        recipe.check()?;
        Ok(recipe)
    }
}

/// What is not written into keys and checkpoints, so that those of before it could be set stay good.
fn is_true(value: &bool) -> bool {
    *value
}
fn is_f32(form: &Form) -> bool {
    *form == Form::F32
}

impl Recipe {
    /// How the base model's weights stand.
    #[must_use]
    pub fn weights(&self) -> Stand {
        match (&self.lora, self.quantize, self.master_weights) {
            (Some(_), Some(form), _) => form.into(),
            (Some(_), None, _) => Kind::Frozen.into(),
            (None, _, true) => Kind::Weight.into(),
            (None, _, false) => Kind::Narrow.into(),
        }
    }

    /// How the optimiser's states stand.
    #[must_use]
    pub fn states(&self) -> Policy {
        let (states, offload) = (self.optimizer_states, self.optimizer_offload);
        Policy { states, offload, seed: self.seed }
    }

    /// Optimiser steps, given those of one pass over the data.
    #[must_use]
    pub fn steps(&self, per_epoch: u64) -> u64 {
        match self.length {
            Length::Steps(steps) => steps,
            Length::Epochs(epochs) => (epochs * per_epoch as f64).ceil() as u64,
        }
    }

    /// A gradient that is gone after its layer can be neither added to nor measured against the others.
    fn check_optimizer_in_backward(&self) -> Result<()> {
        let set = "train.optimizer_in_backward is set, but";
        if self.lora.is_some() {
            bail_user!("{set} so is lora, whose gradients are small anyhow; take one of them out");
        }
        if self.clip != 0.0 {
            bail_user!(
                "{set} clip is {}: the norm of all gradients is known only at the end; set clip = 0",
                self.clip
            );
        }
        if self.gradient_accumulation.is_some_and(|parts| parts > 1) {
            bail_user!(
                "{set} gradient_accumulation is {}: a layer's gradients are used as they come; set gradient_accumulation = 1, with a smaller batch_size if it does not fit",
                self.gradient_accumulation.unwrap_or(1)
            );
        }
        if self.ranks > 1 {
            bail_user!(
                "{set} ranks is {}: gradients are not summed over ranks then; set ranks = 1",
                self.ranks
            );
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let warmup_ratio = if let Warmup::Ratio(ratio) = self.warmup { ratio } else { 0.0 };
        let (epochs, steps) = match self.length {
            Length::Epochs(epochs) => (epochs, 1),
            Length::Steps(steps) => (1.0, steps),
        };
        let at_least_one = [
            ("batch_size", self.batch_size as u64),
            ("gradient_accumulation", self.gradient_accumulation.unwrap_or(1) as u64),
            ("steps", steps),
            ("patience", self.patience.unwrap_or(1)),
            ("keep", self.kept.map_or(1, |kept| kept.last as u64)),
            ("ranks", self.ranks as u64),
        ];
        for (key, value) in at_least_one {
            if value == 0 {
                bail_user!("train.{key} is 0; it must be at least 1");
            }
        }
        if self.kept.is_some() && self.save_every == 0 {
            bail_user!("train.keep is set, but save_every is 0: there is no checkpoint to keep");
        }
        if self.patience.is_some() && self.validate_every == 0 {
            bail_user!(
                "train.patience is set, but validate_every is 0: nothing is validated before the end"
            );
        }
        if self.lora.is_some() && !self.master_weights {
            bail_user!(
                "train.master_weights is false beside train.lora: an adapter is small and always trained exactly, and its base stands in bf16 alone on a card anyway; take master_weights out"
            );
        }
        if self.optimizer_in_backward {
            self.check_optimizer_in_backward()?;
        }
        if self.sequence_length < 2 {
            bail_user!("train.sequence_length is {}; it must be at least 2", self.sequence_length);
        }
        const OPEN: f64 = 1.0 - f64::EPSILON;
        const ANY: f64 = f64::MAX;
        let tiny = f64::MIN_POSITIVE;
        let within = [
            ("epochs", epochs, tiny, ANY, "above 0"),
            ("learning_rate", self.learning_rate, 0.0, ANY, "a number from 0 up"),
            ("warmup_ratio", warmup_ratio, 0.0, 1.0, "from 0 to 1"),
            ("min_lr_ratio", self.min_lr_ratio, 0.0, 1.0, "from 0 to 1"),
            ("weight_decay", self.weight_decay, 0.0, ANY, "a number from 0 up"),
            ("beta1", self.beta1, 0.0, OPEN, "from 0 to below 1"),
            ("beta2", self.beta2, 0.0, OPEN, "from 0 to below 1"),
            ("eps", self.eps, tiny, ANY, "above 0"),
            ("clip", self.clip, 0.0, ANY, "a number from 0 up (0: no clipping)"),
            ("min_delta", self.min_delta, 0.0, ANY, "a number from 0 up"),
            ("max_loss_rise", self.max_loss_rise, 0.0, ANY, "a number from 0 up (0: any rise)"),
        ];
        for (key, value, low, high, right) in within {
            if !(low..=high).contains(&value) {
                bail_user!("train.{key} is {value}; it must be {right}");
            }
        }
        Ok(())
    }
}

/// Where training starts.
#[derive(Clone, Debug)]
pub enum BaseModel {
    /// A Hugging Face folder with weights and tokenizer.
    Weights(PathBuf),
    /// New weights.
    Random {
        /// Shape of the model.
        init: InitConfig,
        /// Folder with `tokenizer.json`.
        tokenizer: PathBuf,
        /// Seed of the weights.
        seed: u64,
    },
}

impl BaseModel {
    /// The folder whose tokenizer and chat template are used.
    pub fn tokenizer(&self) -> &Path {
        match self {
            BaseModel::Weights(folder) => folder,
            BaseModel::Random { tokenizer, .. } => tokenizer,
        }
    }
}

/// What is trained and validated on.
#[derive(Clone, Debug)]
pub struct TrainData {
    /// `mixture.parquet`, or an `examples.parquet`, of which the train split is taken.
    pub train: RowsFile,
    /// Examples to validate on. Without it, an `examples.parquet` in `train` gives its validation split.
    pub validation: Option<RowsFile>,
}

/// A file of rows.
#[derive(Clone, Debug)]
pub struct RowsFile {
    /// Where it lies.
    pub path: PathBuf,
    /// What messages call it: what the user named, where `path` is a copy of that.
    pub name: PathBuf,
}

impl<P: Into<PathBuf>> From<P> for RowsFile {
    fn from(path: P) -> Self {
        let path = path.into();
        Self { name: path.clone(), path }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use artifact::error::is_user;
    use serde_json::json;

    fn parse(text: &str) -> Result<TrainConfig> {
        artifact::config::from_toml(text, Path::new("train.toml"))
    }

    #[test]
    fn the_study_preset_is_the_papers_recipe_and_keys_override_it() {
        // arXiv 2504.16677: batch 64, unpacked, constant 1e-5, best of a checkpoint every 50 steps.
        let recipe = parse("preset = \"study\"\nepochs = 2").unwrap().resolve().unwrap();
        assert_eq!((recipe.batch_size, recipe.packing, recipe.learning_rate), (64, false, 1e-5));
        assert_eq!(
            (recipe.schedule, recipe.validate_every, recipe.keep_best),
            (Schedule::Constant, 50, true)
        );
        assert_eq!((recipe.save_every, recipe.kept), (50, None));
        assert_eq!(recipe.length, Length::Epochs(2.0));
        let own = parse("preset = \"study\"\nbatch_size = 8\nlearning_rate = 1e-3")
            .unwrap()
            .resolve()
            .unwrap();
        assert_eq!((own.batch_size, own.learning_rate), (8, 1e-3));
        assert_eq!(
            parse("").unwrap().resolve().unwrap(),
            parse("preset = \"study\"").unwrap().resolve().unwrap()
        );
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let error = parse("batchsize = 3").unwrap_err();
        assert!(is_user(&error) && error.to_string().contains("batch_size"), "{error}");
    }

    #[test]
    fn bad_values_name_their_key() {
        for (text, key) in [
            ("batch_size = 0", "batch_size"),
            ("learning_rate = -1.0", "learning_rate"),
            ("learning_rate = nan", "learning_rate"),
            ("epochs = 0", "epochs"),
            ("epochs = 1\nsteps = 1", "epochs"),
            ("warmup_ratio = 2.0", "warmup_ratio"),
            ("beta2 = 1.0", "beta2"),
            ("sequence_length = 1", "sequence_length"),
            ("patience = 0", "patience"),
            ("patience = 2\nvalidate_every = 0", "validate_every"),
            ("min_delta = -0.1", "min_delta"),
            ("max_loss_rise = -1.0", "max_loss_rise"),
            ("keep = 0", "keep"),
            ("ranks = 0", "ranks"),
            ("keep = 2\nsave_every = 0", "save_every"),
            ("master_weights = false\n[lora]", "master_weights"),
            ("optimizer_in_backward = true", "clip = 0"),
            (
                "optimizer_in_backward = true\nclip = 0\ngradient_accumulation = 2",
                "gradient_accumulation = 1",
            ),
            ("optimizer_in_backward = true\nclip = 0\nranks = 2", "ranks = 1"),
            ("optimizer_in_backward = true\nclip = 0\nlora = {}", "lora"),
        ] {
            let error = parse(text).unwrap().resolve().unwrap_err();
            assert!(is_user(&error) && error.to_string().contains(key), "{text}: {error}");
        }
    }

    #[test]
    fn what_does_not_change_the_result_is_not_in_the_recipes_json() {
        let base = parse("").unwrap().resolve().unwrap();
        let text = "device = \"cpu\"
save_every = 7
ranks = 2
optimizer_offload = true
recompute = \"block\"";
        let moved = parse(text).unwrap().resolve().unwrap();
        assert_eq!(json!(base), json!(moved));
        let kept = |text| json!(parse(text).unwrap().resolve().unwrap());
        assert_ne!(json!(base), kept("keep = 2"), "checkpoints that stay are part of the result");
        assert_ne!(kept("keep = 2"), kept("keep = 2\nsave_every = 7"));
        let other = parse("seed = 1").unwrap().resolve().unwrap();
        assert_ne!(json!(base), json!(other));
    }
}
