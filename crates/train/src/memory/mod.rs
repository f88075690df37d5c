//! The memory plan: what a run will hold, to the byte, before its first step. The run's own code is
//! rehearsed with its own batches on a device that only counts ([`crate::cuda::Counter`]), so that a
//! plan and a run cannot disagree. From the plan come the recompute level that fits, the reservation
//! that a run takes its memory from, and, where nothing fits, what would. Runs side by side over one base
//! have one plan.

mod advice;
mod generation;
mod passes;
mod places;
#[cfg(test)]
mod tests;

pub use generation::{Asked, GenerationPlan};
pub use passes::Passes;
pub use places::{PlaceTaken, Places};

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use artifact::Context;
use artifact::error::user;
use artifact::text::{TextTable, count};
use serde::Serialize;

use crate::config::{Recipe, TrainConfig};
use crate::cuda::driver::Facts;
use crate::cuda::memory::Use;
use crate::cuda::{Counter, Cuda};
use crate::device::{Device, Opened};
use crate::model::{Batch, Decoder, KEPT_RECORDINGS, Meeting, ModelConfig, Recompute};
use crate::ops::Backend as _;
use crate::parallel::engine::Engine;
use crate::setup::Setup;

/// Bytes of a card that are left to its driver, which takes some for the kernels' code as they are
/// loaded, and for their stacks and queues.
pub const LEFT_TO_THE_DRIVER: u64 = 512 << 20;
/// The same for each launch, copy or zeroing in a recording (CUDA graph). NVIDIA's own libraries reckon
/// with some 10 kB a kernel (CCCL, executable_graph_cache); nothing in the driver's interface tells it.
pub const OF_A_RECORDED_LAUNCH: u64 = 16 << 10;

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
        Self::Card { facts, available: memory, host: None }
    }

    /// The card of an engine, with what can be had of it now.
    ///
    /// # Errors
    /// If the device reports a fault.
    pub fn of(cuda: &Cuda) -> Result<Self> {
        let available = cuda.driver().free_bytes()? + cuda.pool().idle() as u64;
        let facts = cuda.driver().facts().clone();
        Ok(Self::Card { facts, available, host: available_on_host() })
    }

    /// A device, or a card of so many bytes that is not there.
    ///
    /// # Errors
    /// If the device cannot be opened.
    pub fn open(device: Device, card: Option<u64>, ctx: &Context) -> Result<Self> {
        if let Some(bytes) = card {
            return Ok(Self::imagined(bytes));
        }
        match device.open(0, ctx)? {
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
    of_host("MemAvailable:")
}

/// Bytes of memory that the host has, with what it can swap out.
fn installed() -> Option<u64> {
    Some(of_host("MemTotal:")? + of_host("SwapTotal:").unwrap_or(0))
}

fn of_host(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// What a run holds, and what there is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MemoryPlan {
    /// Where.
    pub place: String,
    /// Bytes by what they are for.
    pub parts: Vec<(Use, u64)>,
    /// Bytes of a card that are left to its driver.
    pub driver: u64,
    /// Launches of the longest recording, and how many recordings are kept.
    pub recorded: [u64; 2],
    /// Runs side by side over one base that it is for.
    pub runs: usize,
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
    /// The plan of a run, or of runs side by side, with the least recompute that fits where the settings leave
    /// that open.
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

    /// The plan of as many runs side by side as fit, `most` or fewer; of one where not even one does.
    ///
    /// # Errors
    /// As [`MemoryPlan::new`].
    pub fn of_several(
        model: &ModelConfig,
        recipe: &Recipe,
        (passes, most): (&Passes, usize),
        place: &Place,
    ) -> Result<Self> {
        let of = |runs| MemoryPlan::new(model, recipe, &passes.clone().side_by_side(runs), place);
        let all = of(most.max(1))?;
        if all.fits() || most <= 1 {
            return Ok(all);
        }
        // The more runs, the more memory.
        let (mut fits, mut too_many) = (of(1)?, most);
        while fits.fits() && too_many > fits.runs + 1 {
            let between = of(fits.runs.midpoint(too_many))?;
            match between.fits() {
                true => fits = between,
                false => too_many = between.runs,
            }
        }
        Ok(fits)
    }

    /// Bytes that a run reserves.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }

    /// The same with what is left to the driver.
    #[must_use]
    pub fn needed(&self) -> u64 {
        self.total() + self.driver
    }

    /// Whether there is as much; also where nobody knows.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.available.is_none_or(|available| self.needed() <= available)
    }

    fn part(&self, purpose: Use) -> u64 {
        self.parts.iter().find(|part| part.0 == purpose).map_or(0, |part| part.1)
    }

    /// Takes what was planned.
    ///
    /// # Errors
    /// If the device has not so much left.
    pub fn reserve(&self, cuda: &Cuda) -> Result<()> {
        cuda.pool().reserve(self.total() as usize)?;
        cuda.pool().expect_recordings(self.part(Use::Recordings) as usize);
        Ok(())
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
    let lora = recipe.lora.as_ref();
    let base = || Decoder::zeros_as(cuda.clone(), recipe.weights(), model.clone());
    let meeting = Arc::new(Meeting::default());
    let models = (0..passes.runs).map(|_| {
        let mut model = match passes.runs {
            1 => base(),
            _ => meeting.join(|| Ok(base()))?,
        };
        if let Some(lora) = lora {
            model.attach_zeros(lora.clone());
        }
        Ok(model)
    });
    let models = models.collect::<Result<Vec<_>>>()?;
    side_by_side(models, |run, model| {
        let exchange = |rank| cuda.rehearsed_exchange(rank, recipe.ranks);
        let mut engine = Engine::rehearsal(model, &recipe, exchange)?;
        if recipe.ranks > 1 {
            // The masters of what other ranks own are gone before the gradients come.
            cuda.pool().forget_peak(Use::Masters);
        }
        engine.model.reserve(passes.room);
        if on_card { run_through(&mut engine, &recipe, (passes, run)) } else { Ok(()) }
    })?;
    cuda.check()?;
    let parts = if on_card { of_card(&cuda) } else { of_processor(&cuda) };
    let most = if counter.recordings().count > 0 { KEPT_RECORDINGS as u64 } else { 0 };
    let recorded = [counter.recordings().longest, most];
    let of_recordings = recorded[0] * recorded[1] * OF_A_RECORDED_LAUNCH;
    Ok(MemoryPlan {
        place: if on_card { facts.name } else { "the processor".to_owned() },
        parts,
        driver: if on_card { LEFT_TO_THE_DRIVER + of_recordings } else { 0 },
        recorded,
        runs: passes.runs,
        host: counter.host_peak(),
        available: place.available(),
        tokens: passes.room.training,
        recompute,
    })
}

/// Lets each model have a thread of its own, if there are several that are to meet.
fn side_by_side(
    models: Vec<Decoder<Cuda>>,
    run: impl Fn(usize, Decoder<Cuda>) -> Result<()> + Sync,
) -> Result<()> {
    let run = &run;
    if models.len() == 1 {
        return models.into_iter().try_for_each(|model| run(0, model));
    }
    std::thread::scope(|threads| {
        let start = |(number, model)| threads.spawn(move || run(number, model));
        let all: Vec<_> = models.into_iter().enumerate().map(start).collect();
        all.into_iter().try_for_each(|run| run.join().expect("no panic in a rehearsal"))
    })
}

/// A run's part of each kind of pass, a validation and a step; twice, for the first of a kind runs plainly and
/// the second is recorded.
fn run_through(
    engine: &mut Engine<Cuda>,
    recipe: &Recipe,
    (passes, run): (&Passes, usize),
) -> Result<()> {
    let kinds = passes.kinds(engine.model.filled_rows());
    let twice = kinds.iter().chain(&kinds);
    twice.into_iter().try_for_each(|kind| one_step(engine, recipe, &kind[run]))
}

fn one_step(
    engine: &mut Engine<Cuda>,
    recipe: &Recipe,
    [training, validation]: &[Option<Batch>; 2],
) -> Result<()> {
    if let Some(batch) = validation {
        engine.losses(std::slice::from_ref(batch), || ())?;
    }
    match training {
        Some(batch) if recipe.optimizer_in_backward => {
            engine.step_in_backward(batch, 1.0, 0.0).map(drop)
        }
        Some(batch) => {
            engine.gradients((0, std::slice::from_ref(batch)), 1.0)?;
            engine.update(1.0, 0.0)
        }
        None => Ok(()),
    }
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
    parts.push((Use::Recordings, cuda.pool().recordings() as u64));
    let standing: u64 = parts.iter().map(|(_, bytes)| bytes).sum();
    parts.push((Use::Workspace, (cuda.pool().top() as u64).saturating_sub(standing)));
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
                bytes(plan.needed()),
                plan.place,
                bytes(plan.available.unwrap_or(0)),
            )))
        }
        // What is available now may be more in a minute; what is not built in will not be.
        Place::Processor { .. }
            if !plan.fits() && installed().is_some_and(|all| plan.total() > all) =>
        {
            Err(user(format!(
                "the run needs {} of memory, and the system has {} in all; recompute = \"block\", optimizer_states = \"bf16\", more gradient_accumulation and an adapter (lora = {{ rank = 16 }}) each take less\n{plan}",
                bytes(plan.total()),
                bytes(installed().unwrap_or(0)),
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

/// The same for runs with such settings side by side, whatever their data: as many as fit, `most` or fewer.
///
/// # Errors
/// As [`settle`].
pub fn settle_several(setup: &Setup, most: usize, place: &Place) -> Result<(MemoryPlan, Passes)> {
    let Setup { model, recipe, .. } = setup;
    let passes = Passes::at_most(model, recipe);
    let plan = MemoryPlan::of_several(model, recipe, (&passes, most), place)?;
    if plan.fits() {
        let passes = passes.side_by_side(plan.runs);
        return Ok((plan, passes));
    }
    settle(setup, &Passes::of(setup, recipe, setup.sequence_length), place)?;
    Err(user(format!(
        "runs side by side need {} of memory, even one at a time: it is planned for any data that their settings          allow, {} tokens a pass, and {} has {}; side_by_side = 1 plans for each run's own data, and a lower          sequence_length or a higher gradient_accumulation makes passes smaller\n{plan}",
        bytes(plan.needed()),
        count(plan.tokens as u64),
        plan.place,
        bytes(plan.available.unwrap_or(0)),
    )))
}

/// The most that runs of a model folder with these settings can take, whatever their data, as many of them side
/// by side as are asked for or, if those are too many, as fit: on the device that is there, or on a card of so
/// many bytes that is not. The folder's weights need not be there.
///
/// # Errors
/// Those of the settings, the folder's config and the device.
pub fn bound(
    config: &TrainConfig,
    folder: &Path,
    side_by_side: usize,
    (card, ctx): (Option<u64>, &Context),
) -> Result<MemoryPlan> {
    let (recipe, model) = (config.resolve()?, ModelConfig::load(folder)?);
    let place = Place::open(recipe.device, card, ctx)?;
    let most = if recipe.lora.is_some() && recipe.ranks == 1 { side_by_side } else { 1 };
    let most = if matches!(place, Place::Card { .. }) { most } else { 1 };
    MemoryPlan::of_several(&model, &recipe, (&Passes::at_most(&model, &recipe), most), &place)
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
            Self::Recordings => "recordings' workspace",
        }
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = TextTable::new(&["memory", "", "of what"]);
        table.right(&[1]);
        for &(purpose, of) in &self.parts {
            let what = match purpose {
                Use::Weights if self.runs > 1 => {
                    format!("of {} runs side by side over one base", self.runs)
                }
                Use::Activations => format!(
                    "{} tokens a pass, recompute {}",
                    count(self.tokens as u64),
                    self.recompute.name()
                ),
                _ => String::new(),
            };
            table.row(vec![purpose.name().to_owned(), bytes(of), what]);
        }
        rest_rows(
            &mut table,
            (self.total(), self.driver),
            self.recorded,
            &self.place,
            self.available,
        );
        if self.host > 0 {
            let of = "page-locked, on the host".to_owned();
            table.row(vec!["host memory".to_owned(), bytes(self.host), of]);
        }
        f.write_str(table.to_string().trim_end())
    }
}

/// The rows of a plan that every plan has: what is left to the driver, the sum, and what is free.
fn rest_rows(
    table: &mut TextTable,
    (total, driver): (u64, u64),
    [launches, recordings]: [u64; 2],
    place: &str,
    available: Option<u64>,
) {
    if driver > 0 {
        let what = match recordings {
            0 => String::new(),
            _ => format!("up to {recordings} recordings of {} launches", count(launches)),
        };
        table.row(vec!["left to the driver".to_owned(), bytes(driver), what]);
    }
    let needed = total + driver;
    table.row(vec!["in all".to_owned(), bytes(needed), place.to_owned()]);
    if let Some(available) = available {
        let (name, rest) = match available.checked_sub(needed) {
            Some(rest) => ("free", rest),
            None => ("missing", needed - available),
        };
        table.row(vec![name.to_owned(), bytes(rest), format!("of {}", bytes(available))]);
    }
}
