//! What each step reads and does. A step reads its [`Inputs`] and nothing else, and all of them enter
//! its key by their content; so does [`settings`], which holds what decides the content and nothing
//! else. [`work`] then calls the stage.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use artifact::hash::{files_below, hash_file};
use artifact::store::{Recipe, Stored};
use artifact::{Context, bail_user};
use hub::Snapshot;
use serde::Serialize;
use serde_json::{Value, json};
use train::model::peft::{base_folder, is_adapter};
use train::shared::weights_hash;
use train::{BaseModel, RunLabels, Shared, TrainData};

use crate::pipeline::Model;
use crate::plan::{Plan, Run, Stage, Step};
use crate::remote::Remote;

impl Stage {
    /// Raised whenever the stage's output changes for the same settings and inputs.
    pub fn version(self) -> u32 {
        match self {
            Stage::Eval => 3,
            Stage::Ingest | Stage::Train | Stage::Report => 2,
            _ => 1,
        }
    }
}

/// Files that a step reads, each in a role.
#[derive(Default)]
pub struct Inputs {
    remote: Arc<Remote>,
    /// What has to come from the Hub before the step is done; its content is in the hashes already.
    to_fetch: Vec<Snapshot>,
    hashes: Vec<(String, String)>,
    places: BTreeMap<String, Vec<PathBuf>>,
}

impl Inputs {
    /// A file of an earlier step's output.
    fn output(&mut self, role: &str, stored: &Stored, file: &str) -> Result<()> {
        self.hashes.push((role.to_owned(), stored.content(file)?));
        self.place(role, stored.path.join(file));
        Ok(())
    }

    /// A folder of an earlier step's output, by the content of each of its files.
    fn output_folder(&mut self, role: &str, stored: &Stored, folder: &str) {
        for (name, entry) in &stored.manifest.files {
            if let Some(name) = Path::new(name).strip_prefix(folder).ok().and_then(Path::to_str) {
                self.hashes.push((format!("{role}/{name}"), entry.hash.clone()));
            }
        }
        self.place(role, stored.path.join(folder));
    }

    /// Generated raw files.
    fn synth(&mut self, stored: &Stored) {
        let files = stored.manifest.files.iter().filter(|(file, _)| file.ends_with(".jsonl"));
        for (file, entry) in files {
            self.hashes.push((format!("synth/{file}"), entry.hash.clone()));
            // Ingest would take a relative path from the pipeline file's folder, and the store
            // stands in the folder where the command was given.
            let path = stored.path.join(file);
            self.place("synth", std::path::absolute(&path).unwrap_or(path));
        }
    }

    /// Files on the Hub.
    fn snapshot(&mut self, role: &str, snapshot: Snapshot) {
        for file in &snapshot.files {
            self.hashes.push((format!("{role}/{}", file.name), snapshot.identity(file)));
        }
        self.place(role, snapshot.folder.clone());
        self.to_fetch.push(snapshot);
    }

    fn place(&mut self, role: &str, path: PathBuf) {
        self.places.entry(role.to_owned()).or_default().push(path);
    }

    /// All paths in a role.
    pub fn all(&self, role: &str) -> &[PathBuf] {
        self.places.get(role).map_or(&[], Vec::as_slice)
    }

    /// The first path in a role, if there is one.
    pub fn get(&self, role: &str) -> Option<&Path> {
        self.all(role).first().map(PathBuf::as_path)
    }

    /// The path in a role that the step cannot do without.
    fn need(&self, role: &str) -> Result<&Path> {
        self.get(role).with_context(|| format!("the step was given no {role}"))
    }
}

/// Content hashes of files from outside, each computed once, and what the Hub says of its own.
#[derive(Default)]
pub struct Hashes {
    files: Mutex<BTreeMap<PathBuf, String>>,
    remote: Arc<Remote>,
}

impl Hashes {
    fn of(&self, path: &Path) -> Result<String> {
        let known = |hashes: &Self| hashes.files.lock().ok()?.get(path).cloned();
        if let Some(hash) = known(self) {
            return Ok(hash);
        }
        // Training asks for that of its base's weights again.
        let is_weights = path.extension().is_some_and(|end| end == "safetensors");
        let hash = if is_weights { weights_hash(path)? } else { hash_file(path)? };
        if let Ok(mut hashes) = self.files.lock() {
            hashes.insert(path.to_owned(), hash.clone());
        }
        Ok(hash)
    }
}

/// What a step reads; `None` as long as a step that it needs has not been made.
pub fn inputs(
    plan: &Plan,
    step: &Step,
    made: &impl Fn(usize) -> Option<Stored>,
    hashes: &Hashes,
) -> Result<Option<Inputs>> {
    let mut outputs = Vec::new();
    for &need in &step.needs {
        let Some(stored) = made(need) else { return Ok(None) };
        outputs.push((plan.steps[need].stage, stored));
    }
    let all =
        |stage: Stage| outputs.iter().filter(move |(of, _)| *of == stage).map(|(_, stored)| stored);
    let output = |stage: Stage| all(stage).next();
    let need = |stage: Stage| {
        output(stage).with_context(|| format!("{} needs {}", step.name, stage.name()))
    };
    let mut inputs = Inputs { remote: hashes.remote.clone(), ..Inputs::default() };
    match step.stage {
        Stage::Synth => {}
        Stage::Ingest => {
            output(Stage::Synth).into_iter().for_each(|synth| inputs.synth(synth));
            if !sources(plan, &mut inputs, hashes)? {
                return Ok(None);
            }
        }
        Stage::Tokenizer | Stage::Prompts => {
            inputs.output("examples", need(Stage::Ingest)?, "examples.parquet")?;
        }
        Stage::Mix => {
            inputs.output("examples", need(Stage::Ingest)?, "examples.parquet")?;
            tokenizer(plan, output(Stage::Tokenizer), &mut inputs, hashes)?;
        }
        Stage::Train => {
            let run = run_of(plan, step)?;
            match &run.mixture {
                Some(id) => {
                    let mix = need(Stage::Mix)?;
                    inputs.output("mixture", mix, &format!("mixtures/{id}/mixture.parquet"))?;
                    if design_of(plan)?.validation.per_language > 0 {
                        inputs.output("validation", mix, "validation.parquet")?;
                    }
                }
                None => inputs.output("mixture", need(Stage::Ingest)?, "examples.parquet")?,
            }
            match &plan.pipeline.models[run.model].path {
                Some(folder) => model_folder(folder, &mut inputs, hashes)?,
                None => tokenizer(plan, output(Stage::Tokenizer), &mut inputs, hashes)?,
            }
        }
        Stage::Generate => {
            inputs.output_folder("model", need(Stage::Train)?, "model");
            inputs.output("prompts", need(Stage::Prompts)?, "prompts.parquet")?;
        }
        Stage::Eval => {
            inputs.output("generations", need(Stage::Generate)?, "generations.parquet")?;
        }
        Stage::Judge => {
            let mut answers = all(Stage::Generate);
            let own = answers.next().with_context(|| format!("{} needs generate", step.name))?;
            inputs.output("generations", own, "generations.parquet")?;
            if let Some(baseline) = answers.next() {
                inputs.output("baseline", baseline, "generations.parquet")?;
            }
        }
        Stage::Report => {
            for scores in all(Stage::Eval).chain(all(Stage::Judge)) {
                inputs.output("scores", scores, "scores.parquet")?;
            }
            for generations in all(Stage::Generate) {
                inputs.output("generations", generations, "generations.parquet")?;
            }
        }
    }
    Ok(Some(inputs))
}

fn run_of<'a>(plan: &'a Plan, step: &Step) -> Result<&'a Run> {
    step.run.map(|run| &plan.runs[run]).with_context(|| format!("{} has no run", step.name))
}

/// The id of the run that this step's answers are compared with.
pub fn baseline_of<'a>(plan: &'a Plan, step: &Step) -> Result<Option<&'a str>> {
    let baseline = step.run.map(|run| plan.baseline_of(run)).transpose()?.flatten();
    Ok(baseline.map(|run| plan.runs[run].id.as_str()))
}

fn design_of(plan: &Plan) -> Result<&mix::Design> {
    plan.pipeline.mix.as_ref().context("the pipeline has no [mix]")
}

/// The raw files, each in the role of its source, folder and name, from which ids and names are made.
/// False where some of them are on the Hub and not fetched yet.
fn sources(plan: &Plan, inputs: &mut Inputs, hashes: &Hashes) -> Result<bool> {
    let mut config = plan.pipeline.ingest_config(&[]);
    if config.sources.is_empty() {
        return Ok(true);
    }
    let mut fetched = BTreeMap::new();
    for snapshot in hashes.remote.localise(&mut config.sources)? {
        for file in &snapshot.files {
            let path = snapshot.path(file);
            if !path.exists() {
                return Ok(false);
            }
            fetched.insert(path, (file.name.clone(), snapshot.identity(file)));
        }
    }
    for (source, path) in ingest::files(&config, &plan.pipeline.base)? {
        if let Some((name, content)) = fetched.get(&path) {
            inputs.hashes.push((format!("source{source}/{name}"), content.clone()));
            continue;
        }
        let folder = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        inputs.hashes.push((format!("source{source}/{folder}/{name}"), hashes.of(&path)?));
    }
    Ok(true)
}

/// Takes the sources that are on the Hub, which have to be looked into before anything else can be planned.
pub fn fetch_sources(plan: &Plan, hashes: &Hashes, ctx: &Context) -> Result<()> {
    let snapshots = hashes.remote.localise(&mut plan.pipeline.ingest_config(&[]).sources)?;
    snapshots.iter().try_for_each(|snapshot| hashes.remote.fetch(snapshot, ctx))
}

/// The tokenizer that mixtures are counted with and that random models use.
fn tokenizer(
    plan: &Plan,
    trained: Option<&Stored>,
    inputs: &mut Inputs,
    hashes: &Hashes,
) -> Result<()> {
    if let Some(trained) = trained {
        inputs.output_folder("tokenizer", trained, "");
        return Ok(());
    }
    let given =
        plan.pipeline.tokenizer.as_ref().and_then(|tokenizer| tokenizer.added.path.as_ref());
    let of_model = || plan.pipeline.models.iter().find_map(|model: &Model| model.path.as_ref());
    match given.or_else(of_model) {
        Some(folder) => tokenizer_folder(folder, inputs, hashes),
        None => Ok(()),
    }
}

const TOKENIZER: [&str; 4] =
    ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"];

/// The files of a folder that say how text becomes tokens.
fn tokenizer_folder(folder: &Path, inputs: &mut Inputs, hashes: &Hashes) -> Result<()> {
    if hub::is_address(folder) {
        inputs.snapshot("tokenizer", hashes.remote.tokenizer(folder)?);
        return Ok(());
    }
    if !folder.join("tokenizer.json").exists() {
        bail_user!("{} has no tokenizer.json", folder.display());
    }
    for name in TOKENIZER {
        let path = folder.join(name);
        if path.exists() {
            inputs.hashes.push((format!("tokenizer/{name}"), hashes.of(&path)?));
        }
    }
    inputs.place("tokenizer", folder.to_owned());
    Ok(())
}

/// The files of a Hugging Face folder that a model is made of; a README beside them does not count.
fn model_folder(folder: &Path, inputs: &mut Inputs, hashes: &Hashes) -> Result<()> {
    if hub::is_address(folder) {
        inputs.snapshot("base", hashes.remote.model(folder)?);
        return Ok(());
    }
    if !folder.join("config.json").exists() {
        bail_user!("{} is not a model folder: it has no config.json", folder.display());
    }
    hash_model(folder, "base", inputs, hashes)?;
    if is_adapter(folder) {
        hash_model(&base_folder(folder)?, "base_of_adapter", inputs, hashes)?;
    }
    inputs.place("base", folder.to_owned());
    Ok(())
}

/// The hashes of a model folder's files, under `name`.
fn hash_model(folder: &Path, name: &str, inputs: &mut Inputs, hashes: &Hashes) -> Result<()> {
    for path in files_below(folder)? {
        let counts = path
            .extension()
            .is_some_and(|end| ["json", "safetensors", "jinja"].iter().any(|&e| end == e));
        if counts && path.file_name().is_none_or(|name| name != "manifest.json") {
            let file = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
            inputs.hashes.push((format!("{name}/{file}"), hashes.of(&path)?));
        }
    }
    Ok(())
}

/// The settings that decide a step's output: resolved, and without paths, devices and the like, which
/// the stages' own types leave out of their JSON.
pub fn settings(plan: &Plan, step: &Step) -> Result<Value> {
    let pipeline = &plan.pipeline;
    Ok(match step.stage {
        Stage::Synth => json!(pipeline.synth.as_ref().map(|synth| &synth.stage)),
        Stage::Ingest => pipeline.ingest_settings()?,
        Stage::Tokenizer => json!(pipeline.tokenizer.as_ref().map(|tokenizer| &tokenizer.stage)),
        Stage::Mix => json!(design_of(plan)?.with_preset()),
        Stage::Prompts => pipeline.prompt_settings()?,
        Stage::Train => {
            let run = run_of(plan, step)?;
            let recipe = pipeline.train_config(run.seed).resolve()?;
            json!({"train": recipe, "init": pipeline.models[run.model].init})
        }
        Stage::Generate => {
            let run = run_of(plan, step)?;
            let config = pipeline.generate_config(&run.tasks);
            let Run { id, mixture, factors, .. } = run;
            json!({"generate": config, "run_id": id, "mixture_id": mixture, "factors": factors})
        }
        Stage::Eval => pipeline.eval_settings()?,
        Stage::Judge => pipeline.judge_settings(baseline_of(plan, step)?)?,
        Stage::Report => json!(pipeline.report_config(&[])),
    })
}

/// What decides the output of a step with these inputs.
pub fn recipe(plan: &Plan, step: &Step, inputs: &Inputs) -> Result<Recipe> {
    Ok(Recipe {
        stage: step.stage.name(),
        version: step.stage.version(),
        config: settings(plan, step)?,
        inputs: inputs.hashes.clone(),
    })
}

/// What a step came to: for the manifest, and for a person.
pub struct Done {
    /// The stage's summary.
    pub summary: Value,
    /// The same as text.
    pub text: String,
}

impl Done {
    fn new(summary: impl Serialize + std::fmt::Display) -> Result<Done> {
        Ok(Done { summary: serde_json::to_value(&summary)?, text: summary.to_string() })
    }
}

/// Does a step: calls its stage with its inputs and writes into `out`. Training runs of one process find in
/// `shared` what an earlier one has read and encoded.
pub fn work(
    plan: &Plan,
    step: &Step,
    inputs: &Inputs,
    shared: &Shared,
    out: &Path,
    ctx: &Context,
) -> Result<Done> {
    let pipeline = &plan.pipeline;
    inputs.to_fetch.iter().try_for_each(|snapshot| inputs.remote.fetch(snapshot, ctx))?;
    match step.stage {
        Stage::Synth => {
            let config = pipeline.synth.as_ref().context("the pipeline has no [synth]")?;
            Done::new(synth::run(config, out, ctx)?)
        }
        Stage::Ingest => {
            let mut config = pipeline.ingest_config(inputs.all("synth"));
            inputs.remote.localise(&mut config.sources)?;
            Done::new(ingest::run(&config, &pipeline.base, out, ctx)?)
        }
        Stage::Tokenizer => {
            let config = pipeline.tokenizer.as_ref().context("the pipeline has no [tokenizer]")?;
            Done::new(train::train_tokenizer(config, inputs.need("examples")?, out, ctx)?)
        }
        Stage::Mix => {
            let design = design_of(plan)?;
            Done::new(mix::run(design, inputs.all("examples"), inputs.get("tokenizer"), out, ctx)?)
        }
        Stage::Prompts => {
            Done::new(eval::prompts(&pipeline.prompt_config(), inputs.all("examples"), out, ctx)?)
        }
        Stage::Train => {
            let run = run_of(plan, step)?;
            let data = TrainData {
                train: inputs.need("mixture")?.into(),
                validation: inputs.get("validation").map(Into::into),
            };
            let base = base_model(&pipeline.models[run.model], inputs, run.seed)?;
            let config = pipeline.train_config(run.seed);
            Done::new(train::run(&config, &base, &data, shared, out, ctx)?)
        }
        Stage::Generate => {
            let run = run_of(plan, step)?;
            let (model, prompts) = (inputs.need("model")?, inputs.need("prompts")?);
            let config = pipeline.generate_config(&run.tasks);
            let labels = RunLabels {
                run_id: &run.id,
                mixture_id: run.mixture.as_deref(),
                factors: &run.factors,
            };
            Done::new(train::generate(&config, model, prompts, labels, out, ctx)?)
        }
        Stage::Eval => {
            Done::new(eval::run(&pipeline.eval_config(), inputs.all("generations"), out, ctx)?)
        }
        Stage::Judge => {
            let config = pipeline.judge_config(baseline_of(plan, step)?);
            let (own, baseline) = (inputs.all("generations"), inputs.all("baseline"));
            Done::new(eval::judge::run(&config, own, baseline, out, ctx)?)
        }
        Stage::Report => {
            let config = pipeline.report_config(inputs.all("generations"));
            Done::new(report::run(&config, inputs.all("scores"), out, ctx)?)
        }
    }
}

fn base_model(model: &Model, inputs: &Inputs, seed: u64) -> Result<BaseModel> {
    Ok(match &model.init {
        Some(init) => BaseModel::Random {
            init: init.clone(),
            tokenizer: inputs.need("tokenizer")?.to_owned(),
            seed,
        },
        None => BaseModel::Weights(inputs.need("base")?.to_owned()),
    })
}
