//! Answers to prompts: rows of examples in, answers as text out. `slots` runs them side by side.
//!
//! An answer depends on its prompt alone: the engine gives a row the same bits whatever stands beside it,
//! and the random numbers are keyed by example and token. Rows are written in the order of the input.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    path::Path,
    time::Instant,
};

use anyhow::Result;
use artifact::{
    Bar, Context, Example, Factors, bail_user,
    example::frame_to_examples,
    parquet::{self, Writer},
    polars::prelude::*,
    schema::{EXAMPLES, GENERATIONS},
    text::{count, duration},
};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    device::Device,
    device::Opened,
    disk::explain_full_disk,
    encoder::Encoder,
    memory::{Asked, GenerationPlan, Place},
    model::{Decoder, Model, ModelConfig, PREFILL, peft},
    ops::{
        Backend, Kind,
        sample::{Choice, NO_TOKEN},
    },
    sampling,
    slots::{self, Answers, Room, Times},
};

/// Answers written at once.
const CHUNK: usize = 1024;

/// The `[generate]` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GenerateConfig {
    /// Most tokens of an answer. Default 256.
    pub max_new_tokens: usize,
    /// 0 (default) takes the most likely token; above 0 samples.
    pub temperature: f64,
    /// Sample from so many of the most likely tokens. Default 0: from all.
    #[serde(skip_serializing_if = "is_zero")]
    pub top_k: u32,
    /// Of those, sample from the fewest tokens that hold this much probability. Default 1: from all.
    pub top_p: f64,
    /// Seed of the sampling. Default 0.
    pub seed: u64,
    /// Texts that end an answer; they are cut off.
    pub stop: Vec<String>,
    /// The tasks whose prompts are answered. Default: all that there are.
    pub tasks: Vec<String>,
    /// Prompts run side by side. Does not change the answers. Default 0: 16 on the processor; on a card as
    /// many as its memory has room for, 256 at most.
    #[serde(skip_serializing)]
    pub batch_size: usize,
    /// "auto" (default), "cpu" or "cuda". Does not change the result's key.
    #[serde(skip_serializing)]
    pub device: Device,
}

/// A setting that did not exist once stays out of the key while it is not used.
fn is_zero(value: &u32) -> bool {
    *value == 0
}

impl Default for GenerateConfig {
    fn default() -> Self {
        Self {
            max_new_tokens: 256,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            seed: 0,
            stop: Vec::new(),
            tasks: Vec::new(),
            batch_size: 0,
            device: Device::Auto,
        }
    }
}

impl GenerateConfig {
    /// Checks the values; a fault is a `UserError` that names the key.
    pub fn check(&self) -> Result<()> {
        if self.max_new_tokens == 0 {
            bail_user!("generate.max_new_tokens is 0; it must be at least 1");
        }
        if !self.temperature.is_finite() || self.temperature < 0.0 {
            bail_user!(
                "generate.temperature is {}; it must be a number from 0 up",
                self.temperature
            );
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            bail_user!("generate.top_p is {}; it must be above 0 and at most 1", self.top_p);
        }
        if self.stop.iter().any(String::is_empty) {
            bail_user!("generate.stop holds an empty text, which would end every answer at once");
        }
        Ok(())
    }
}

impl GenerateConfig {
    /// What it asks for, of prompts of these lengths.
    fn asked<'a>(&self, lengths: &'a [usize]) -> Asked<'a> {
        Asked { lengths, new: self.max_new_tokens, slots: self.batch_size }
    }
}

/// What a generation came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Prompts.
    pub prompts: u64,
    /// Tokens in the prompts.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Answers by `finish_reason`.
    pub finish_reasons: BTreeMap<String, u64>,
    /// Seconds taken in all.
    pub seconds: f64,
    /// Seconds in which the model read prompts.
    pub prompt_seconds: f64,
    /// Seconds in which it wrote answers.
    pub generation_seconds: f64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reasons: Vec<String> = self
            .finish_reasons
            .iter()
            .map(|(reason, rows)| format!("{} {reason}", count(*rows)))
            .collect();
        write!(
            f,
            "{} answers ({}) in {}; {} tokens of prompts ({}/s), {} generated ({}/s)",
            count(self.prompts),
            reasons.join(", "),
            duration(self.seconds),
            count(self.prompt_tokens),
            rate(self.prompt_tokens, self.prompt_seconds),
            count(self.generated_tokens),
            rate(self.generated_tokens, self.generation_seconds)
        )
    }
}

/// Tokens a second.
fn rate(tokens: u64, seconds: f64) -> String {
    count((tokens as f64 / seconds.max(1e-9)) as u64)
}

/// What every answer says of the run that it is from.
#[derive(Clone, Copy, Debug)]
pub struct RunLabels<'a> {
    /// Id of the run.
    pub run_id: &'a str,
    /// The mixture that the model was trained on.
    pub mixture_id: Option<&'a str>,
    /// The run's factors.
    pub factors: &'a Factors,
}

/// A finished answer.
struct Answer {
    example: Example,
    prompt: String,
    text: String,
    reason: &'static str,
    prompt_tokens: usize,
    generated_tokens: usize,
}

/// A prompt that waits for a slot.
struct Waiting {
    order: usize,
    example: Example,
    prompt: String,
    ids: Vec<u32>,
}

/// A prompt in a slot.
struct Active {
    waiting: Waiting,
    generated: Vec<u32>,
}

/// Answers the rows of `prompts` (examples, of which a last assistant message is left out) with the
/// model folder `model`, all or those of the config's tasks, and writes `out/generations.parquet` with the
/// run's labels.
///
/// A prompt that leaves no room in the model's context gets an empty answer with `finish_reason`
/// "prompt-too-long". One that ends at the context's end has the reason "length".
pub fn generate(
    config: &GenerateConfig,
    model: &Path,
    prompts: &Path,
    run: RunLabels,
    out: &Path,
    ctx: &Context,
) -> Result<Summary> {
    config.check()?;
    let encoder = Encoder::load(&peft::tokenizer_folder(model)?)?;
    let model_config = ModelConfig::load(model)?;
    encoder.tokenizer.check_fits(model_config.vocab_size)?;
    let examples = read_prompts(prompts, &config.tasks)?;
    let total = examples.len();
    let mut generator = Generator {
        config,
        stop_ids: encoder.stop_ids()?,
        context: model_config.max_position_embeddings,
        sink: Sink::create(out, run)?,
        encoder: &encoder,
        done: BTreeMap::new(),
        waiting: VecDeque::new(),
        started: Instant::now(),
        times: Times::default(),
        bar: ctx.bar("generate", "prompts", Some(total as u64)),
        ctx,
    };
    generator.encode_prompts(examples, prompts)?;
    let (context, shape) = (generator.context, &model_config);
    match config.device.open(0, ctx)? {
        Opened::Cpu => {
            let lengths = generator.lengths();
            let slots = slots::wanted(config.batch_size, lengths.len(), false);
            let answers = (config.max_new_tokens, context);
            generator.answer(Model::load(model)?, Room::new(slots, &lengths, answers, PREFILL))?;
        }
        Opened::Cuda(cuda) => {
            let lengths = generator.lengths();
            let plans = GenerationPlan::all(shape, config.asked(&lengths), &Place::of(&cuda)?)?;
            GenerationPlan::reserve(&plans, &cuda)?;
            let mut loaded = Decoder::load_as(cuda.clone(), Kind::Frozen, model)?;
            for plan in plans {
                ctx.log(plan.to_string());
                plan.begin(&cuda);
                loaded = generator.answer(loaded, plan.room)?;
            }
        }
    }
    generator.bar.finish();
    let mut summary = generator.sink.finish()?;
    summary.seconds = generator.started.elapsed().as_secs_f64();
    (summary.prompt_seconds, summary.generation_seconds) =
        (generator.times.prompts, generator.times.answers);
    let too_long = summary.finish_reasons.get(TOO_LONG).copied().unwrap_or(0);
    if too_long > 0 {
        ctx.warn(format!(
            "{}: {} of {} prompts leave no room in the model's context of {} tokens; their answers are empty",
            prompts.display(),
            count(too_long),
            count(total as u64),
            count(generator.context as u64)
        ));
    }
    Ok(summary)
}

/// What [`generate`] would do, told without a model's weights: the plans of the caches that would answer the prompts,
/// one after the other, on the device that is there or on a card of so many bytes that is not.
///
/// # Errors
/// Those of the settings, the model's config and tokenizer, the prompts and the device; a user error where the
/// card has too little memory.
pub fn plan(
    config: &GenerateConfig,
    model: &Path,
    prompts: &Path,
    (card, ctx): (Option<u64>, &Context),
) -> Result<Vec<GenerationPlan>> {
    config.check()?;
    let encoder = Encoder::load(&peft::tokenizer_folder(model)?)?;
    let shape = ModelConfig::load(model)?;
    encoder.tokenizer.check_fits(shape.vocab_size)?;
    let examples = read_prompts(prompts, &config.tasks)?;
    let lengths = examples.par_iter().map(|example| Ok(encoder.prompt(&example.messages)?.1.len()));
    let mut lengths = lengths.collect::<Result<Vec<_>>>()?;
    lengths.retain(|&length| (1..shape.max_position_embeddings).contains(&length));
    GenerationPlan::all(&shape, config.asked(&lengths), &Place::open(config.device, card, ctx)?)
}

const STOP: &str = "stop";
const LENGTH: &str = "length";
const TOO_LONG: &str = "prompt-too-long";

/// The prompts of these tasks; of all if none is named.
fn read_prompts(path: &Path, tasks: &[String]) -> Result<Vec<Example>> {
    let mut there = BTreeSet::new();
    let mut prompts = Vec::new();
    for group in parquet::row_groups(path, Some(&EXAMPLES))? {
        for example in frame_to_examples(&group?)? {
            if !there.contains(&example.task) {
                there.insert(example.task.clone());
            }
            if tasks.is_empty() || tasks.contains(&example.task) {
                prompts.push(example);
            }
        }
    }
    if there.is_empty() {
        bail_user!("{}: holds no rows, so there is nothing to answer", path.display());
    }
    if let Some(task) = tasks.iter().find(|task| !there.contains(*task)) {
        bail_user!(
            "{}: there is no prompt of the task {task}, only of {}; name the tasks to answer with [generate] tasks",
            path.display(),
            Vec::from_iter(there).join(", ")
        );
    }
    Ok(prompts)
}

struct Generator<'a> {
    config: &'a GenerateConfig,
    encoder: &'a Encoder,
    stop_ids: Vec<u32>,
    context: usize,
    times: Times,
    waiting: VecDeque<Waiting>,
    /// Answers whose turn to be written has not come.
    done: BTreeMap<usize, Answer>,
    sink: Sink<'a>,
    started: Instant,
    bar: Bar,
    ctx: &'a Context,
}

impl Generator<'_> {
    /// Renders and encodes the prompts; those without room are answered here.
    fn encode_prompts(&mut self, examples: Vec<Example>, path: &Path) -> Result<()> {
        let encoder = self.encoder;
        let encoded: Vec<_> =
            examples.par_iter().map(|example| encoder.prompt(&example.messages)).collect();
        for (order, (example, encoded)) in examples.into_iter().zip(encoded).enumerate() {
            let row = || format!("{}: example {}", path.display(), example.example_id);
            let (prompt, ids) = encoded.map_err(|error| error.context(row()))?;
            if ids.is_empty() {
                bail_user!("{} has an empty prompt", row());
            }
            let waiting = Waiting { order, example, prompt, ids };
            if waiting.ids.len() >= self.context {
                self.finish(Active { waiting, generated: Vec::new() }, String::new(), TOO_LONG)?;
            } else {
                self.waiting.push_back(waiting);
            }
        }
        Ok(())
    }

    /// Tokens of each prompt that waits.
    fn lengths(&self) -> Vec<usize> {
        self.waiting.iter().map(|waiting| waiting.ids.len()).collect()
    }

    /// Answers all that waits and is long enough for the cache.
    fn answer<B: Backend + Clone>(
        &mut self,
        mut model: Decoder<B>,
        room: Room,
    ) -> Result<Decoder<B>> {
        let GenerateConfig { temperature, top_k, top_p, .. } = *self.config;
        let choice = Choice { temperature, top_k, top_p };
        if room.shortest > 0 {
            // Few slots at first, for the longest.
            let waiting = self.waiting.make_contiguous();
            waiting.sort_by_key(|waiting| std::cmp::Reverse(waiting.ids.len()));
        }
        let mut times = self.times;
        let refusal = slots::run(&mut model, room, choice, self, &mut times)?;
        self.times = times;
        if let Some(why) = refusal {
            self.ctx.warn(format!("steps run one launch at a time, which is slower: {why}"));
        }
        Ok(model)
    }

    /// Takes an answer, and writes all whose turn has come.
    fn finish(&mut self, active: Active, text: String, reason: &'static str) -> Result<()> {
        let Active { waiting: Waiting { order, example, prompt, ids }, generated } = active;
        let (prompt_tokens, generated_tokens) = (ids.len(), generated.len());
        self.done.insert(
            order,
            Answer { example, prompt, text, reason, prompt_tokens, generated_tokens },
        );
        while let Some(answer) = self.done.remove(&self.sink.taken) {
            self.sink.take(answer)?;
        }
        self.bar.inc(1);
        Ok(())
    }
}

impl Answers for Generator<'_> {
    type Item = Active;

    fn next(&mut self, shortest: usize) -> Option<Active> {
        let waiting = self.waiting.pop_front_if(|waiting| waiting.ids.len() >= shortest)?;
        Some(Active { waiting, generated: Vec::new() })
    }

    fn prompt<'a>(&self, active: &'a Active) -> &'a [u32] {
        &active.waiting.ids
    }

    fn left(&self, active: &Active) -> usize {
        let most = self.config.max_new_tokens.min(self.context - active.waiting.ids.len());
        most - active.generated.len()
    }

    fn chance(&self, active: &Active, ahead: usize) -> u64 {
        let index = active.generated.len() + ahead;
        sampling::chance(self.config.seed, &active.waiting.example.example_id, index)
    }

    fn take(&mut self, mut active: Active, token: u32) -> Result<Option<Active>> {
        if token == NO_TOKEN {
            bail_user!(
                "the model's answer to {} breaks down at token {}: its logits are not numbers; \
                 the weights are damaged or a training diverged",
                active.waiting.example.example_id,
                active.generated.len() + 1
            );
        }
        if self.stop_ids.binary_search(&token).is_ok() {
            let text = self.encoder.tokenizer.decode(&active.generated)?;
            return self.finish(active, text, STOP).map(|()| None);
        }
        active.generated.push(token);
        if !self.config.stop.is_empty() {
            let text = self.encoder.tokenizer.decode(&active.generated)?;
            if let Some(end) =
                self.config.stop.iter().filter_map(|stop| text.find(stop.as_str())).min()
            {
                return self.finish(active, text[..end].to_owned(), STOP).map(|()| None);
            }
        }
        if self.left(&active) == 0 {
            let text = self.encoder.tokenizer.decode(&active.generated)?;
            return self.finish(active, text, LENGTH).map(|()| None);
        }
        Ok(Some(active))
    }

    fn pause(&mut self) -> Result<()> {
        self.ctx.check()?;
        let tokens = self.sink.summary.generated_tokens;
        self.bar.note(&format!("{} tokens/s", rate(tokens, self.started.elapsed().as_secs_f64())));
        Ok(())
    }
}

/// Writes answers in order, a chunk at a time.
struct Sink<'a> {
    run: RunLabels<'a>,
    path: std::path::PathBuf,
    writer: Writer,
    answers: Vec<Answer>,
    taken: usize,
    summary: Summary,
}

impl<'a> Sink<'a> {
    fn create(out: &Path, run: RunLabels<'a>) -> Result<Self> {
        let path = out.join("generations.parquet");
        Ok(Self {
            writer: Writer::create(&path, &GENERATIONS)?,
            path,
            run,
            answers: Vec::new(),
            taken: 0,
            summary: Summary::default(),
        })
    }

    fn take(&mut self, answer: Answer) -> Result<()> {
        self.taken += 1;
        self.summary.prompts += 1;
        self.summary.prompt_tokens += answer.prompt_tokens as u64;
        self.summary.generated_tokens += answer.generated_tokens as u64;
        *self.summary.finish_reasons.entry(answer.reason.to_owned()).or_default() += 1;
        self.answers.push(answer);
        if self.answers.len() == CHUNK { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        let answers = std::mem::take(&mut self.answers);
        if answers.is_empty() {
            return Ok(());
        }
        let text = |name: &str, value: &dyn Fn(&Answer) -> &str| {
            StringChunked::from_iter_values(name.into(), answers.iter().map(value)).into_column()
        };
        let number = |name: &str, value: &dyn Fn(&Answer) -> usize| {
            Int64Chunked::from_iter_values(
                name.into(),
                answers.iter().map(|answer| value(answer) as i64),
            )
            .into_column()
        };
        let references = answers.iter().map(|answer| answer.example.reference.as_deref());
        let mut frame = DataFrame::new(
            answers.len(),
            vec![
                Column::new("run_id".into(), vec![self.run.run_id; answers.len()]),
                Column::new("mixture_id".into(), vec![self.run.mixture_id; answers.len()]),
                text("example_id", &|answer| &answer.example.example_id),
                text("item_id", &|answer| &answer.example.item_id),
                text("lang", &|answer| &answer.example.lang),
                text("task", &|answer| &answer.example.task),
                text("prompt", &|answer| &answer.prompt),
                text("generation", &|answer| &answer.text),
                text("finish_reason", &|answer| answer.reason),
                StringChunked::from_iter_options("reference".into(), references).into_column(),
                number("prompt_tokens", &|answer| answer.prompt_tokens),
                number("generated_tokens", &|answer| answer.generated_tokens),
            ],
        )?;
        self.run.factors.add_to(&mut frame)?;
        self.writer.write(&frame).map_err(|error| explain_full_disk(error, &self.path))
    }

    fn finish(mut self) -> Result<Summary> {
        self.write()?;
        self.writer.finish().map_err(|error| explain_full_disk(error, &self.path))?;
        Ok(self.summary)
    }
}
