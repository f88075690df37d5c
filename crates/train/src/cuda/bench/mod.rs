//! How fast the engine is on a card: products, attention, the head, what memory bounds, steps,
//! generation. One [`Row`] a measurement, with what the same work in another library needs to know, so
//! that `benches/gpu.py` can time that beside it. The rows are the same over the emulation, where they
//! say nothing of speed and everything of whether the benchmark works.

mod kernels;
mod models;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use half::bf16;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Serialize;
use serde_json::Value;

use super::driver::Driver;
use super::memory::{Tensor, bytes_of};
use super::{Card, Cuda};
use crate::ops::{Backend, Kind};

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The part of the benchmark.
    pub section: &'static str,
    /// What was timed, for people.
    pub case: String,
    /// The same for programs.
    pub with: Value,
    /// Median seconds of one run.
    pub seconds: f64,
    /// Seconds of the fastest run.
    pub fastest: f64,
    /// Runs that count.
    pub runs: usize,
    /// Floating-point operations of a run, masked and recomputed ones left out; 0 where memory bounds
    /// it.
    pub flops: f64,
    /// Bytes that a run must move at least; 0 where arithmetic bounds it.
    pub bytes: f64,
    /// Tokens of a run; 0 where there are none.
    pub tokens: f64,
}

/// What one run of a measurement comes to.
#[derive(Clone, Copy, Debug, Default)]
struct Work {
    flops: f64,
    bytes: f64,
    tokens: f64,
}

/// How to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Shapes for the emulation.
    pub tiny: bool,
    /// Most runs that count.
    pub runs: usize,
    /// Most seconds of a measurement, warm-up left out.
    pub seconds: f64,
    /// Rest before each measurement, for the card to cool.
    pub pause: Duration,
    /// When no further measurement begins.
    pub until: Option<Instant>,
}

impl Plan {
    /// For a card.
    #[must_use]
    pub fn card() -> Self {
        let pause = Duration::from_millis(200);
        Self { tiny: false, runs: 40, seconds: 0.6, pause, until: None }
    }

    /// For the emulation.
    #[must_use]
    pub fn tiny() -> Self {
        Self { tiny: true, runs: 1, seconds: 0.0, pause: Duration::ZERO, until: None }
    }
}

type Section = (&'static str, fn(&mut Bed<'_>) -> Result<()>);

/// The parts, in order.
const SECTIONS: &[Section] = &[
    ("copy", kernels::copy),
    ("gemm", kernels::gemm),
    ("attention", kernels::attention),
    ("head", kernels::head),
    ("rows", kernels::rows),
    ("step", models::step),
    ("lora", models::lora),
    ("generate", models::generate),
];

/// The names of the parts.
#[must_use]
pub fn sections() -> Vec<&'static str> {
    SECTIONS.iter().map(|section| section.0).collect()
}

/// Measures the parts that `wanted` names (all, where it is empty) on a device; `card` is the device
/// itself where it is one. `each` gets every row as it comes.
///
/// # Errors
/// If a part has no such name. What fails inside a part is given to `failed` with its name, and the
/// next part begins.
pub fn run(
    driver: &Arc<dyn Driver>,
    card: Option<&Card>,
    plan: Plan,
    wanted: &[String],
    each: &mut dyn FnMut(Row),
    failed: &mut dyn FnMut(&str, &anyhow::Error),
) -> Result<()> {
    if let Some(name) = wanted.iter().find(|name| !sections().contains(&name.as_str())) {
        bail!("there is no part {name}; there are {}", sections().join(", "));
    }
    for &(section, run) in SECTIONS {
        if !wanted.is_empty() && !wanted.iter().any(|name| name == section) {
            continue;
        }
        // Memory of a part is given back before the next begins.
        let ops = Cuda::new(Arc::clone(driver));
        let flush = ops.zeros(Kind::Gradient, if plan.tiny { 64 } else { FLUSH });
        let mut bed = Bed { ops, card, plan, section, flush, each };
        if let Err(error) = run(&mut bed) {
            failed(section, &error);
        }
    }
    Ok(())
}

/// Values written between runs, several times the L2 cache of the largest card.
const FLUSH: usize = 64 << 20;

/// Where a part measures.
struct Bed<'a> {
    ops: Cuda,
    card: Option<&'a Card>,
    plan: Plan,
    section: &'static str,
    flush: Tensor,
    each: &'a mut dyn FnMut(Row),
}

impl Bed<'_> {
    /// What went wrong on the device so far.
    fn ops_check(&self) -> Result<()> {
        self.ops.check()
    }

    /// One of two sets of shapes.
    fn pick<T>(&self, tiny: T, full: T) -> T {
        if self.plan.tiny { tiny } else { full }
    }

    /// Normal values on the device: a block of them over and over, since drawing billions takes
    /// minutes.
    fn normal(&self, kind: Kind, len: usize) -> Result<Tensor> {
        let mut generator = ChaCha8Rng::seed_from_u64(1);
        let mut uniform = || (f64::from(generator.next_u32()) + 1.0) / 2f64.powi(32);
        let mut draw = || {
            let radius = (-2.0 * uniform().ln()).sqrt();
            (radius * (std::f64::consts::TAU * uniform()).cos()) as f32
        };
        // An odd length, so that no row of a matrix is another.
        let block: Vec<f32> = (0..len.min(1_000_003)).map(|_| draw()).collect();
        let narrow: Vec<bf16> = block.iter().map(|&x| bf16::from_f32(x)).collect();
        let tensor = self.ops.zeros(kind, len);
        self.ops.check()?;
        let width = tensor.dtype.bytes();
        for start in (0..len).step_by(block.len()) {
            let count = block.len().min(len - start);
            let at = tensor.at() + (start * width) as u64;
            match width {
                2 => self.ops.driver.copy_in(at, bytes_of(&narrow[..count]))?,
                _ => self.ops.driver.copy_in(at, bytes_of(&block[..count]))?,
            }
        }
        Ok(tensor)
    }

    /// Seconds of one run, by the card's own clock where there is a card.
    fn once(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        if let Some(card) = self.card {
            let from = card.mark()?;
            work()?;
            let to = card.mark()?;
            return card.seconds(&from, &to);
        }
        let started = Instant::now();
        work()?;
        self.ops.driver.synchronize()?;
        Ok(started.elapsed().as_secs_f64())
    }

    /// Times something: twice to warm up, then as often as the plan allows. Caches are flushed before
    /// each run; that also keeps the card busy while the host asks for the run.
    fn time(
        &mut self,
        case: impl Into<String>,
        with: Value,
        work: Work,
        mut run: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        if self.plan.until.is_some_and(|until| Instant::now() >= until) {
            bail!("the time is up");
        }
        std::thread::sleep(self.pause());
        self.once(&mut run)?;
        let estimate = self.once(&mut run)?;
        let most = (self.plan.seconds / estimate.max(1e-6)) as usize;
        let mut all = Vec::new();
        for _ in 0..most.clamp(3.min(self.plan.runs), self.plan.runs) {
            let bytes = self.ops.len(&self.flush) * 4;
            self.ops.driver.zero(self.flush.at(), bytes)?;
            all.push(self.once(&mut run)?);
        }
        self.ops.check()?;
        all.sort_by(f64::total_cmp);
        let Work { flops, bytes, tokens } = work;
        (self.each)(Row {
            section: self.section,
            case: case.into(),
            with,
            seconds: all[all.len() / 2],
            fastest: all[0],
            runs: all.len(),
            flops,
            bytes,
            tokens,
        });
        Ok(())
    }

    fn pause(&self) -> Duration {
        self.plan.pause
    }
}
