//! The pipeline file: what a user writes to describe a whole study, read, checked and with its paths resolved. In: a
//! TOML file. Out: a [`Pipeline`] whose every path is absolute and whose stages have their languages filled in.
//! The stages' own sections are the stages' own types, so that a key means the same here and on the command line.

mod load;
mod settings;
mod with;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;
use train::{GenerateConfig, InitConfig, TokenizerConfig, TrainConfig};

pub use load::load;
pub use with::{Added, With};

/// A study, from raw files to a report.
///
/// Paths are relative to the pipeline file, and `${NAME}` in them stands for an environment variable. A file without
/// `[mix]` trains on all training examples; one without `[generate]`, `[eval]` and `[report]` ends with training.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// A short name, used for the report's folder and to remember what was made last.
    pub name: String,
    /// The languages of the study.
    #[serde(default)]
    pub languages: Languages,
    /// Generated multilingual data, read as one more source.
    pub synth: Option<Synth>,
    /// Files to read; as many tables as there are kinds of files.
    #[serde(default, rename = "source")]
    pub sources: Vec<ingest::Source>,
    /// How the files are read: duplicates, language detection.
    #[serde(default)]
    pub ingest: ingest::Config,
    /// A tokenizer to train on the training examples, or the folder of one; for models with random weights.
    pub tokenizer: Option<Tokenizer>,
    /// Which mixtures to train on; without it, one run on all training examples.
    pub mix: Option<mix::Design>,
    /// The base models; every mixture is trained on each.
    #[serde(rename = "model")]
    pub models: Vec<Model>,
    /// How to train, and with which seeds.
    #[serde(default)]
    pub train: With<Trainings, TrainConfig>,
    /// Which test items are asked, and how.
    #[serde(default)]
    pub prompts: eval::PromptConfig,
    /// How to answer them. By default a model is asked the tasks that its mixture has; `tasks` names
    /// others.
    pub generate: Option<With<Shots, GenerateConfig>>,
    /// How answers are scored.
    pub eval: Option<eval::Config>,
    /// Who judges the answers, and against which run they are compared. Without an endpoint nothing is judged, and the
    /// report has the other metrics alone.
    pub judge: Option<With<JudgeBaseline, eval::judge::Config>>,
    /// How the report is made.
    pub report: Option<report::ReportConfig>,
    /// Where to put the trained model; for a pipeline with one run.
    pub export: Option<Export>,
    /// The folder of the pipeline file.
    #[serde(skip)]
    pub base: PathBuf,
    /// Whether the trained models are tested.
    #[serde(skip)]
    pub measures: bool,
}

/// The languages of the study, as BCP 47 tags or names.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Languages {
    /// Trained on, English among them.
    #[serde(default)]
    pub seen: Vec<String>,
    /// Tested only.
    #[serde(default)]
    pub unseen: Vec<String>,
}

impl Languages {
    /// Seen and unseen together.
    pub fn all(&self) -> Vec<String> {
        self.seen.iter().chain(&self.unseen).cloned().collect()
    }
}

/// `[synth]`: the generator's settings, and its languages if they are not those of `[languages]`.
pub type Synth = With<SynthLanguages, synth::Config>;

/// What `[synth]` has beside the other settings of the generator.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SynthLanguages {
    /// The languages to make; by default those of `[languages]`, or else all that there are.
    pub languages: Vec<String>,
}

impl Added for SynthLanguages {
    const FIELDS: &'static [&'static str] = &["languages"];
}

/// `[tokenizer]`: settings to train one, or `path`.
pub type Tokenizer = With<TokenizerPath, TokenizerConfig>;

/// What `[tokenizer]` has beside the trainer's settings.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizerPath {
    /// A folder with a tokenizer.json to use as it is, or a model's address on the Hub, instead of training one.
    pub path: Option<PathBuf>,
}

impl Added for TokenizerPath {
    const FIELDS: &'static [&'static str] = &["path"];
}

/// A base model: weights in a folder, or random ones.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Its name in run ids and in the report; by default the folder's name, or "random".
    #[serde(default)]
    pub name: String,
    /// A Hugging Face folder (config.json, weights, tokenizer), or hf://owner/name[@revision] on the Hub.
    pub path: Option<PathBuf>,
    /// The shape of a model with random weights, which uses the pipeline's tokenizer.
    pub init: Option<InitConfig>,
}

/// What `[train]` has beside the trainer's settings.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Trainings {
    /// Training seeds; each mixture is trained once with each. By default `seed` alone.
    pub seeds: Vec<u64>,
    /// With [train.lora]: up to this many runs over one base model are trained side by side; they share a copy of the
    /// base and, where batches are small, the passes through it, and count as one job. Where a card has no memory for
    /// so many, as many as fit. Each run's result is what it is alone, bit for bit, and the settings' key does not
    /// change. Default: 4 on the processor, with more threads up to 8; 1 on a card.
    pub side_by_side: Option<usize>,
}

impl Added for Trainings {
    const FIELDS: &'static [&'static str] = &["seeds", "side_by_side"];
}

/// What `[generate]` has beside the generator's settings.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Shots {
    /// Solved examples before the question; by default what the task says.
    pub shots: Option<usize>,
}

impl Added for Shots {
    const FIELDS: &'static [&'static str] = &["shots"];
}

/// What `[judge]` has beside the judge's settings.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JudgeBaseline {
    /// The run that each run is compared with: a run's id, or { n = 0 } for the one that differs in n alone.
    pub baseline: Option<JudgedAgainst>,
}

impl Added for JudgeBaseline {
    const FIELDS: &'static [&'static str] = &["baseline"];
}

/// The run that others are compared with.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum JudgedAgainst {
    /// The run of that id.
    Run(String),
    /// The run that has this n and is the same otherwise.
    Point {
        /// Examples per seen language other than English.
        n: i64,
    },
}

/// `[export]`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// The folder that gets a copy of the trained model.
    pub model: PathBuf,
}
