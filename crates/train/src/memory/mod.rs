//! The memory plan: what a run will hold, to the byte, before its first step. The run's own code is
//! rehearsed with its own batches on a device that only counts ([`crate::cuda::Counter`]), so that a
//! plan and a run cannot disagree. From the plan come the recompute level that fits, the reservation
//! that a run takes its memory from, and, where nothing fits, what would.

mod advice;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use artifact::Context;
use artifact::error::user;
use artifact::text::{TextTable, count};
use serde::Serialize;

use crate::batches::{MICRO_BATCH_TOKENS, Plan, micro_batches};
use crate::config::{Recipe, TrainConfig};
use crate::cuda::driver::Facts;
use crate::cuda::memory::Use;
use crate::cuda::{Counter, Cuda};
use crate::data::Dataset;
use crate::device::Opened;
use crate::model::{Batch, Decoder, ModelConfig, Recompute, Room};
use crate::ops::Backend as _;
use crate::parallel::engine::Engine;
use crate::setup::Setup;

/// Bytes of a card that a run leaves alone: the driver takes some for the kernels' code as they are
/// loaded.
pub const LEFT_TO_THE_DRIVER: u64 = 512 << 20;
/// Sequences that are looked through for the largest batches; an allocation in a step is the price of
/// one that lies beyond.
const LOOKED_THROUGH: u64 = 2_000_000;

/// Where a run is to take place.
#[derive(Clone, Debug)]
pub enum Place {
    /// On a card.
    Card {
        /// What it is.
        facts: Facts,
        /// Bytes that a run can have.
        available: u64,
        /// The same of the host's, where that is known.
        host: Option<u64>,
    },
    /// On the processor.
    Processor {
        /// Bytes that the system says are available, where it says that.
        available: Option<u64>,
    },
}

impl Place {
    /// The processor, as it is now.
    #[must_use]
    pub fn processor() -> Self {
        Self::Processor { available: available_on_host() }
    }

    /// A card that is not there: a Hopper one of so much memory.
    #[must_use]
    pub fn imagined(memory: u64) -> Self {
        let facts = Facts {
            name: format!("a card of {}", bytes(memory)),
            capability: (9, 0),
            multiprocessors: 132,
            memory,
            free: memory,
        };
        let available = memory.saturating_sub(LEFT_TO_THE_DRIVER);
        Self::Card { facts, available, host: None }
    }

    /// The card of an engine, with what can be had of it now.
    ///
    /// # Errors
    /// If the device reports a fault.
    pub fn of(cuda: &Cuda) -> Result<Self> {
        let had = cuda.driver().free_bytes()? + cuda.pool().idle() as u64;
        let available = had.saturating_sub(LEFT_TO_THE_DRIVER);
        let facts = cuda.driver().facts().clone();
        Ok(Self::Card { facts, available, host: available_on_host() })
    }

    /// The device that a recipe runs on, or a card of so many bytes that is not there.
    ///
    /// # Errors
    /// If the device cannot be opened.
    pub fn open(recipe: &Recipe, card: Option<u64>, ctx: &Context) -> Result<Self> {
        if let Some(bytes) = card {
            return Ok(Self::imagined(bytes));
        }
        match recipe.device.open(0, ctx)? {
            Opened::Cpu => Ok(Self::processor()),
            Opened::Cuda(cuda) => Self::of(&cuda),
        }
    }

    fn available(&self) -> Option<u64> {
        match self {
            Self::Card { available, .. } => Some(*available),
            Self::Processor { available } => *available,
        }
    }
}

/// Bytes of host memory that a new program can have, as Linux estimates them.
fn available_on_host() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The passes of a run that memory depends on.
#[derive(Clone, Debug, Default)]
pub struct Passes {
    /// What there has to be room for.
    pub room: Room,
    /// Training passes that differ in what they need: the longest, the one with the most counted
    /// tokens, the shortest.
    training: Vec<Batch>,
    /// The largest pass of a validation.
    validation: Option<Batch>,
    /// Passes of the step that has the most.
    pub most_passes: usize,
}

impl Passes {
    /// Those of a run with these settings, and its documents cut to a length.
    #[must_use]
    pub fn of(setup: &Setup, recipe: &Recipe, sequence_length: usize) -> Self {
        let lengths = |data: &Dataset| -> Vec<usize> {
            data.lengths().into_iter().map(|length| length.min(sequence_length)).collect()
        };
        let of_training = lengths(&setup.train);
        let counted: Vec<usize> = setup
            .train
            .documents
            .iter()
            .map(|one| one.targets.iter().take(sequence_length).filter(|t| **t >= 0).count())
            .collect();
        let sum = |part: &[usize], of: &[usize]| part.iter().map(|&i| of[i]).sum::<usize>();
        let mut plan = Plan::new(of_training.clone(), sequence_length, recipe);
        let total = recipe.steps(plan.steps_per_epoch());
        let looked_through = LOOKED_THROUGH / recipe.batch_size as u64;
        // Longest, most counted, shortest, each with what it is judged by.
        let mut chosen: [Option<(usize, Vec<usize>)>; 3] = [None, None, None];
        let mut most_passes = 0;
        for step in 0..total.min(looked_through.max(1)) {
            let parts = plan.shares(step, recipe.ranks).into_iter().flat_map(|share| {
                most_passes = most_passes.max(share.len());
                share
            });
            for part in parts.collect::<Vec<_>>() {
                let rows = sum(&part, &of_training);
                let keys = [rows, sum(&part, &counted), usize::MAX - rows];
                for (best, key) in chosen.iter_mut().zip(keys) {
                    if best.as_ref().is_none_or(|(held, _)| *held < key) {
                        *best = Some((key, part.clone()));
                    }
                }
            }
        }
        let mut parts: Vec<Vec<usize>> =
            chosen.into_iter().flatten().map(|(_, part)| part).collect();
        parts.dedup();
        let training: Vec<Batch> =
            parts.iter().map(|part| cut_batch(&setup.train, part, sequence_length)).collect();
        let validation = setup.validation.as_ref().and_then(|data| {
            let (all, of) = (data.documents.len(), lengths(data));
            let each: Vec<Vec<usize>> = (0..all).map(|index| vec![index]).collect();
            let largest =
                micro_batches(&each, &of).into_iter().max_by_key(|part| sum(part, &of))?;
            Some(cut_batch(data, &largest, sequence_length))
        });
        let longest = of_training.iter().copied().max().unwrap_or(0);
        let longest_of_validation =
            setup.validation.as_ref().and_then(|data| lengths(data).into_iter().max());
        let room = Room {
            training: training.iter().map(|batch| batch.tokens.len()).max().unwrap_or(0),
            inference: validation.as_ref().map_or(0, |batch| batch.tokens.len()),
            longest: longest.max(longest_of_validation.unwrap_or(0)),
        };
        Self { room, training, validation, most_passes }
    }

    /// The most that they can be with these settings, whatever the data.
    #[must_use]
    pub fn at_most(model: &ModelConfig, recipe: &Recipe) -> Self {
        let length = recipe.sequence_length.min(model.max_position_embeddings);
        let all = recipe.batch_size.div_ceil(recipe.ranks) * length;
        let joined = MICRO_BATCH_TOKENS.max(length);
        let training = match recipe.gradient_accumulation {
            Some(parts) => recipe.batch_size.div_ceil(parts) * length,
            None => joined.min(all),
        };
        let passes = all.div_ceil(training);
        let batch = |rows| full_batch(rows, length, model.vocab_size);
        Self {
            room: Room { training, inference: joined, longest: length },
            training: vec![batch(training)],
            validation: Some(batch(joined)),
            most_passes: passes,
        }
    }
}

/// Sequences of this length, end to end, every token counted.
fn full_batch(rows: usize, length: usize, vocabulary: usize) -> Batch {
    let mut documents: Vec<u32> = (0..rows).step_by(length).map(|row| row as u32).collect();
    documents.push(rows as u32);
    let tokens: Vec<u32> = (0..rows).map(|row| (row % vocabulary) as u32).collect();
    Batch { targets: tokens.iter().map(|&id| id as i32).collect(), tokens, documents }
}

/// Documents end to end, each cut to a length.
fn cut_batch(data: &Dataset, part: &[usize], length: usize) -> Batch {
    let mut batch = Batch { documents: vec![0], ..Batch::default() };
    for document in part.iter().map(|&index| &data.documents[index]) {
        let end = document.tokens.len().min(length);
        batch.tokens.extend(&document.tokens[..end]);
        batch.targets.extend(&document.targets[..end]);
        batch.documents.push(batch.tokens.len() as u32);
    }
    batch
}

/// What a run holds, and what there is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MemoryPlan {
    /// Where.
    pub place: String,
    /// Bytes by what they are for.
    pub parts: Vec<(Use, u64)>,
    /// Page-locked host memory, beside a card's.
    pub host: u64,
    /// Bytes that can be had, where that is known.
    pub available: Option<u64>,
    /// Tokens of the longest training pass.
    pub tokens: usize,
    /// What is made again in the backward pass.
    pub recompute: Recompute,
}

impl MemoryPlan {
    /// The plan of a run, with the least recompute that fits where the settings leave that open.
    ///
    /// # Errors
    /// A user error if a card cannot run the model at all.
    pub fn new(
        model: &ModelConfig,
        recipe: &Recipe,
        passes: &Passes,
        place: &Place,
    ) -> Result<Self> {
        let levels = match (recipe.recompute, place) {
            (Some(level), _) => vec![level],
            (None, Place::Processor { .. }) => vec![Recompute::None],
            (None, Place::Card { .. }) => Recompute::ALL.to_vec(),
        };
        let mut last = None;
        for level in levels {
            let plan = rehearse(model, recipe, passes, place, level)?;
            if plan.fits() {
                return Ok(plan);
            }
            last = Some(plan);
        }
        Ok(last.expect("there is a level"))
    }

    /// Bytes in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Whether there is as much; also where nobody knows.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.available.is_none_or(|available| self.total() <= available)
    }
}

/// The run's own code on a device that counts.
fn rehearse(
    model: &ModelConfig,
    recipe: &Recipe,
    passes: &Passes,
    place: &Place,
    recompute: Recompute,
) -> Result<MemoryPlan> {
    let (facts, on_card) = match place {
        Place::Card { facts, .. } => (facts.clone(), true),
        Place::Processor { .. } => {
            let Place::Card { facts, .. } = Place::imagined(0) else { unreachable!() };
            (facts, false)
        }
    };
    let counter = Arc::new(Counter::new(facts.clone()));
    let cuda = Cuda::new(counter.clone());
    cuda.pool().reserve(1 << 60)?;
    let recipe = Recipe { recompute: Some(recompute), ..recipe.clone() };
    let decoder =
        Decoder::zeros_as(cuda.clone(), recipe.weights(), model.clone(), recipe.lora.as_ref());
    let mut engine = Engine::rehearsal(decoder, &recipe)?;
    engine.model.reserve(passes.room);
    if on_card {
        run_through(&mut engine, &recipe, passes)?;
    }
    cuda.check()?;
    let parts = if on_card { of_card(&cuda) } else { of_processor(&cuda) };
    Ok(MemoryPlan {
        place: if on_card { facts.name } else { "the processor".to_owned() },
        parts,
        host: counter.host_peak(),
        available: place.available(),
        tokens: passes.room.training,
        recompute,
    })
}

/// A validation, then a step of each of the training passes; twice, for what the first steps leave stands in the
/// way of the second.
fn run_through(engine: &mut Engine<Cuda>, recipe: &Recipe, passes: &Passes) -> Result<()> {
    for batch in passes.training.iter().cycle().take(2 * passes.training.len()) {
        if let Some(batch) = &passes.validation {
            engine.losses(std::slice::from_ref(batch), || ())?;
        }
        if recipe.optimizer_in_backward {
            engine.step_in_backward(batch, 1.0, 0.0)?;
        } else {
            engine.gradients((0, std::slice::from_ref(batch)), 1.0)?;
            engine.update(1.0, 0.0)?;
        }
    }
    Ok(())
}

/// What stands all the time, and as workspace what else it takes at the fullest moment.
fn of_card(cuda: &Cuda) -> Vec<(Use, u64)> {
    let peak = |purpose: Use| cuda.pool().usage(purpose).peak as u64;
    let mut parts = vec![
        (Use::Weights, peak(Use::Weights)),
        (Use::Packed, peak(Use::Packed)),
        (Use::Masters, peak(Use::Masters)),
        (Use::Gradients, peak(Use::Gradients)),
        (Use::States, peak(Use::States)),
        (Use::Activations, peak(Use::Activations) + peak(Use::Statistics)),
    ];
    let standing: u64 = parts.iter().map(|(_, bytes)| bytes).sum();
    parts.push((Use::Workspace, cuda.pool().top() as u64 - standing));
    parts.retain(|(_, bytes)| *bytes > 0);
    parts
}

/// The processor's tensors are f32 where a card's are bf16; an operation's own memory is small and not
/// counted.
fn of_processor(cuda: &Cuda) -> Vec<(Use, u64)> {
    let peak = |purpose: Use| cuda.pool().usage(purpose).peak as u64;
    let mut parts = vec![
        (Use::Weights, 2 * peak(Use::Weights)),
        (Use::Packed, peak(Use::Packed)),
        (Use::Gradients, peak(Use::Gradients)),
        (Use::States, peak(Use::States)),
        (Use::Activations, 2 * peak(Use::Activations) + peak(Use::Statistics)),
    ];
    parts.retain(|(_, bytes)| *bytes > 0);
    parts
}

/// Settles how a run goes about memory: its plan, or what to change where it does not fit.
///
/// # Errors
/// A user error with the plan and what would fit, where a card has too little.
pub fn settle(setup: &Setup, passes: &Passes, place: &Place) -> Result<MemoryPlan> {
    let plan = MemoryPlan::new(&setup.model, &setup.recipe, passes, place)?;
    match place {
        Place::Card { .. } if !plan.fits() => {
            let advice = advice::advice(setup, &plan, place)?;
            Err(user(format!(
                "the run needs {} of memory, and {} has {}\n{plan}\n{advice}",
                bytes(plan.total()),
                plan.place,
                bytes(plan.available.unwrap_or(0)),
            )))
        }
        Place::Card { host: Some(host), .. } if plan.host > *host => Err(user(format!(
            "the run needs {} of page-locked host memory for the optimiser's states, and the system has {}; a smaller optimizer_states takes less\n{plan}",
            bytes(plan.host),
            bytes(*host),
        ))),
        _ => Ok(plan),
    }
}

/// The most that runs of a model folder with these settings can take, whatever their data: on the device
/// that is there, or on a card of so many bytes that is not. The folder's weights need not be there.
///
/// # Errors
/// Those of the settings, the folder's config and the device.
pub fn bound(
    config: &TrainConfig,
    folder: &Path,
    (card, ctx): (Option<u64>, &Context),
) -> Result<MemoryPlan> {
    let (recipe, model) = (config.resolve()?, ModelConfig::load(folder)?);
    let place = Place::open(&recipe, card, ctx)?;
    MemoryPlan::new(&model, &recipe, &Passes::at_most(&model, &recipe), &place)
}

/// A number of bytes as people write it: `12.34 GB`.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    let value = bytes as f64;
    match bytes {
        0..1_000_000 => format!("{:.1} kB", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", value / 1e6),
        _ => format!("{:.2} GB", value / 1e9),
    }
}

/// Reads a number of bytes: `141GB`, `80 GiB`, `512MB`.
///
/// # Errors
/// A user error for anything else.
pub fn parse_bytes(text: &str) -> Result<u64> {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let factor = match unit.trim() {
        "GB" => 1e9,
        "GiB" => f64::from(1 << 30),
        "MB" => 1e6,
        "MiB" => f64::from(1 << 20),
        "" | "B" => 1.0,
        _ => 0.0,
    };
    match number.parse::<f64>() {
        Ok(number) if factor > 0.0 && number > 0.0 => Ok((number * factor) as u64),
        _ => Err(user(format!("\"{text}\" is no size of memory; write it as 141GB or 80GiB"))),
    }
}

impl Use {
    fn name(self) -> &'static str {
        match self {
            Self::Weights => "weights",
            Self::Packed => "weights in 4 bits",
            Self::Masters => "their f32 masters",
            Self::Gradients => "gradients",
            Self::States => "optimiser states",
            Self::Activations | Self::Statistics => "activations",
            Self::Workspace => "workspace",
        }
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = TextTable::new(&["memory", "", "of what"]);
        table.right(&[1]);
        for &(purpose, of) in &self.parts {
            let what = match purpose {
                Use::Activations => format!(
                    "{} tokens a pass, recompute {}",
                    count(self.tokens as u64),
                    self.recompute.name()
                ),
                _ => String::new(),
            };
            table.row(vec![purpose.name().to_owned(), bytes(of), what]);
        }
        table.row(vec!["in all".to_owned(), bytes(self.total()), self.place.clone()]);
        if let Some(available) = self.available {
            let (name, rest) = match available.checked_sub(self.total()) {
                Some(rest) => ("free", rest),
                None => ("missing", self.total() - available),
            };
            table.row(vec![name.to_owned(), bytes(rest), format!("of {}", bytes(available))]);
        }
        if self.host > 0 {
            let of = "page-locked, on the host".to_owned();
            table.row(vec!["host memory".to_owned(), bytes(self.host), of]);
        }
        f.write_str(table.to_string().trim_end())
    }
}
