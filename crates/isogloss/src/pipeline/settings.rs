//! What each stage is given from a pipeline: the settings to call it with (`…_config`), and those that
//! decide its output (`…_settings`), which enter the store's key without paths.

use std::path::{Path, PathBuf};

use anyhow::Result;
use artifact::hash::hash_dir;
use ingest::{Column, Map, Paths, Source};
use language::Detector;
use report::{ReportConfig, Samples};
use serde_json::{Value, json};
use train::device::Device;
use train::{GenerateConfig, TrainConfig};

use super::Pipeline;

/// What of a task decides its prompts.
const ASKED: &[&str] = &["name", "prompt", "system", "max_items", "shots", "strings"];
/// What of a task decides its scores.
const SCORED: &[&str] = &["name", "metrics", "answer_prefix", "stop"];

/// Adapters that are trained side by side where nothing else is asked for: enough that small batches are one large
/// one, and one for each of a few threads.
const SIDE_BY_SIDE: std::ops::RangeInclusive<usize> = 4..=8;

impl Pipeline {
    /// The training seeds.
    pub fn train_seeds(&self) -> Vec<u64> {
        match &self.train.added.seeds[..] {
            [] => vec![self.train.seed.unwrap_or(0)],
            seeds => seeds.to_vec(),
        }
    }

    /// Most runs that are trained side by side: what is asked for, or several adapters on the processor, where they need
    /// not wait for one another.
    pub fn side_by_side(&self) -> usize {
        let shares = || {
            self.train.lora.is_some()
                && self.train.ranks.is_none_or(|ranks| ranks == 1)
                && self.train.device.unwrap_or_default().is_processor()
        };
        let threads =
            || rayon::current_num_threads().clamp(*SIDE_BY_SIDE.start(), *SIDE_BY_SIDE.end());
        let by_itself = || if shares() { threads() } else { 1 };
        self.train.added.side_by_side.unwrap_or_else(by_itself)
    }

    /// Whether `[tokenizer]` is to be trained.
    pub fn trains_tokenizer(&self) -> bool {
        self.tokenizer.as_ref().is_some_and(|tokenizer| tokenizer.added.path.is_none())
    }

    /// Where models run, for training and for generation.
    pub fn set_device(&mut self, device: Device) {
        self.train.device = Some(device);
        self.generate.get_or_insert_default().device = device;
    }

    /// All sources; generated data, where `synth` says they are, come first.
    pub fn ingest_config(&self, synth: &[PathBuf]) -> ingest::Config {
        let mut config = self.ingest.clone();
        config.sources.splice(0..0, self.sources.iter().cloned());
        if !synth.is_empty() {
            config.sources.insert(0, synth_source(synth));
        }
        config
    }

    /// Without the files' paths, whose content and names count by themselves; but where a value is read
    /// out of the path, the path as it is written counts, too.
    pub fn ingest_settings(&self) -> Result<Value> {
        let mut config = json!(self.ingest_config(&[]));
        for source in config["source"].as_array_mut().into_iter().flatten() {
            let reads_path =
                ["lang", "task", "split"].iter().any(|key| !source[key]["from_path"].is_null());
            if let Some(source) = source.as_object_mut().filter(|_| !reads_path) {
                source.remove("path");
            }
        }
        Ok(json!({
            "ingest": config,
            "synth": self.synth.is_some(),
            "detector": Detector::with(&self.ingest.languages, self.ingest.detector)?.identity(),
        }))
    }

    /// How test items become prompts.
    pub fn prompt_config(&self) -> eval::PromptConfig {
        self.prompts.clone()
    }

    /// The same, with the tasks' templates instead of their paths.
    pub fn prompt_settings(&self) -> Result<Value> {
        let mut config = json!(self.prompts);
        config["tasks"] = tasks(&self.prompts.tasks, ASKED)?;
        Ok(config)
    }

    /// Training with this seed.
    pub fn train_config(&self, seed: u64) -> TrainConfig {
        TrainConfig { seed: Some(seed), ..self.train.stage.clone() }
    }

    /// How prompts are answered by a model that was trained on these tasks.
    pub fn generate_config(&self, trained: &[String]) -> GenerateConfig {
        let mut config = self
            .generate
            .as_ref()
            .map_or_else(GenerateConfig::default, |generate| generate.stage.clone());
        if config.tasks.is_empty() {
            config.tasks = trained.to_vec();
        }
        config
    }

    /// How answers are scored.
    pub fn eval_config(&self) -> eval::Config {
        self.eval.clone().unwrap_or_default()
    }

    /// The same, with the tasks' metrics instead of their paths.
    pub fn eval_settings(&self) -> Result<Value> {
        let config = self.eval_config();
        let mut settings = json!(config);
        settings["tasks"] = tasks(&config.tasks, SCORED)?;
        settings["detector"] =
            json!(Detector::with(&config.languages, config.detector)?.identity());
        settings["mecab"] = json!(config.mecab.as_deref().map(hash_dir).transpose()?);
        Ok(settings)
    }

    /// Whether answers are judged: there is a `[judge]`, and an endpoint to ask.
    pub fn judges(&self) -> bool {
        self.judge.as_ref().is_some_and(|judge| judge.endpoint().is_some())
    }

    /// How answers are judged and compared with those of this run.
    pub fn judge_config(&self, baseline: Option<&str>) -> eval::judge::Config {
        let judge = self.judge.as_ref().map(|judge| judge.stage.clone()).unwrap_or_default();
        eval::judge::Config { baseline: baseline.map(str::to_owned), ..judge }
    }

    /// The same, with the prompts' content instead of their paths.
    pub fn judge_settings(&self, baseline: Option<&str>) -> Result<Value> {
        let config = self.judge_config(baseline);
        let mut settings = config.semantics()?;
        settings["detector"] = json!(Detector::new(&config.languages)?.identity());
        Ok(settings)
    }

    /// How the report is made, with these generations to show examples from.
    pub fn report_config(&self, generations: &[PathBuf]) -> ReportConfig {
        let mut config = self.report.clone().unwrap_or_default();
        let samples = config.samples.unwrap_or_default();
        config.samples = Some(Samples { generations: generations.to_vec(), ..samples });
        config
    }
}

/// The tasks that ship and those of the user's files, by name: these fields of each.
fn tasks(files: &[PathBuf], fields: &[&str]) -> Result<Value> {
    let mut tasks = json!(eval::task::load(files)?);
    for task in tasks.as_object_mut().into_iter().flat_map(|tasks| tasks.values_mut()) {
        if let Some(task) = task.as_object_mut() {
            task.retain(|field, _| fields.contains(&field.as_str()));
        }
    }
    Ok(tasks)
}

/// The generator's files as a source.
fn synth_source(files: &[PathBuf]) -> Source {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let column = |name: &str| Some(Column::Name(name.to_owned()));
    Source {
        path: Paths::Many(files.iter().map(|file| text(file)).collect()),
        name: Some("synth".to_owned()),
        map: Map {
            lang: column("lang"),
            item_id: column("item_id"),
            example_id: column("id"),
            task: column("task"),
            split: column("split"),
            ..Map::default()
        },
        ..Source::default()
    }
}
