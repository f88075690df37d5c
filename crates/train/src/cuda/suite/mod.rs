//! Every operation of the engine on a device against the processor's, on fresh random data, at odd
//! sizes, with outputs that hold NaN before and guards behind them. One suite over any
//! [`Driver`](super::driver::Driver): the tests run it small in the emulation, `make test-gpu` at full
//! size on a card (`examples/gpu_test.rs`).

mod attention;
mod dora;
mod engine;
mod products;
mod rows;
mod training;

use std::time::Instant;

use anyhow::{Result, bail};
use half::bf16;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::Cuda;
use super::memory::Tensor;
use crate::ops::{Backend, Kind};

/// How large the shapes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// For the emulation, and for compute-sanitizer on a card.
    Small,
    /// Sizes of real models, still odd.
    Full,
}

/// What is compared in one place.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The case's name.
    pub case: &'static str,
    /// Kernel and shape.
    pub what: String,
    /// ‖found − expected‖ / ‖expected‖, or a fourth of the worst element's error over the largest
    /// expected value, whichever is greater: one wrong element in a million shows.
    pub error: f64,
    /// What `error` may be.
    pub tolerance: f64,
    /// Seconds since the comparison before.
    pub seconds: f64,
    /// What went wrong beside the error.
    pub fault: Option<String>,
}

impl Outcome {
    /// Whether all is well; a NaN never passes.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.fault.is_none() && self.error <= self.tolerance
    }
}

/// A named part of the suite.
struct Case {
    name: &'static str,
    run: fn(&mut Lab<'_>) -> Result<()>,
}

const CASES: &[Case] = &[
    Case { name: "products", run: products::every_kernel },
    Case { name: "thin-products", run: products::thin },
    Case { name: "gated-products", run: products::gated },
    Case { name: "decoding-products", run: products::rows_apart },
    Case { name: "attention", run: attention::documents },
    Case { name: "cached-attention", run: attention::cached },
    Case { name: "norms", run: rows::norms },
    Case { name: "head-norms", run: rows::head_norms },
    Case { name: "ropes", run: rows::ropes },
    Case { name: "gates", run: rows::gates },
    Case { name: "embeddings", run: rows::embeddings },
    Case { name: "4-bit-weights", run: rows::packed },
    Case { name: "fills", run: rows::fills },
    Case { name: "magnitudes", run: dora::magnitudes },
    Case { name: "head-and-loss", run: training::head_and_loss },
    Case { name: "optimiser", run: training::optimiser },
    Case { name: "sampling", run: training::sampling },
    Case { name: "families", run: engine::families },
    Case { name: "adapters", run: engine::adapters },
    Case { name: "repeats", run: engine::repeats },
    Case { name: "decoding", run: engine::decoding },
    Case { name: "recorded-steps", run: engine::recorded_steps },
    Case { name: "recorded-training", run: engine::recorded_training },
    Case { name: "trainer", run: engine::trainer },
];

/// The names of the suite's cases.
#[must_use]
pub fn cases() -> Vec<&'static str> {
    CASES.iter().map(|case| case.name).collect()
}

/// Runs the cases that `wanted` names (all, where it is empty) on a device; `each` gets every
/// comparison. The number of those that failed.
///
/// # Errors
/// If a case has no such name. What goes wrong on the device is an outcome.
pub fn run(
    ops: &Cuda,
    size: Size,
    seed: u64,
    wanted: &[String],
    each: &mut dyn FnMut(&Outcome),
) -> Result<usize> {
    if let Some(name) = wanted.iter().find(|name| !cases().contains(&name.as_str())) {
        bail!("there is no case {name}; there are {}", cases().join(", "));
    }
    let mut failures = 0;
    for (number, case) in CASES.iter().enumerate() {
        if !wanted.is_empty() && !wanted.iter().any(|name| name == case.name) {
            continue;
        }
        // A case draws the same numbers whichever others run.
        let seed = seed.wrapping_add((number as u64) << 32);
        let started = Instant::now();
        let mut lab =
            Lab { ops: ops.clone(), size, case: case.name, seed, started, each, failures };
        if let Err(error) = (case.run)(&mut lab) {
            let fault = Some(format!("{error:#}"));
            lab.tell("the whole case".to_owned(), 0.0, 0.0, fault);
        }
        failures = lab.failures;
    }
    Ok(failures)
}

/// Values behind each tensor that nothing may write, and that show where they are read.
const GUARD: usize = 64;

/// What bf16 rounding of a result costs.
const ROUNDED: f64 = 4e-3;

/// What a case works with.
struct Lab<'a> {
    ops: Cuda,
    size: Size,
    case: &'static str,
    seed: u64,
    started: Instant,
    each: &'a mut dyn FnMut(&Outcome),
    failures: usize,
}

impl Lab<'_> {
    /// One of two sets of shapes.
    fn pick<T>(&self, small: T, full: T) -> T {
        if self.size == Size::Small { small } else { full }
    }

    /// Normal values that bf16 holds exactly, other ones at each call.
    fn values(&mut self, len: usize) -> Vec<f32> {
        self.seed += 1;
        let mut generator = ChaCha8Rng::seed_from_u64(self.seed);
        let mut uniform = || (f64::from(generator.next_u32()) + 1.0) / 2f64.powi(32);
        let normal = |_| {
            let radius = (-2.0 * uniform().ln()).sqrt();
            bf16::from_f64(radius * (std::f64::consts::TAU * uniform()).cos()).to_f32()
        };
        (0..len).map(normal).collect()
    }

    /// Moves values onto the device, a NaN guard behind them.
    fn tensor(&self, kind: Kind, values: &[f32]) -> Tensor {
        let guard = std::iter::repeat_n(f32::NAN, GUARD);
        self.ops.tensor(kind, values.iter().copied().chain(guard).collect())
    }

    /// The same for several inputs of products and other operations.
    fn inputs<const N: usize>(&self, all: [&[f32]; N]) -> [Tensor; N] {
        all.map(|values| self.tensor(Kind::Activation, values))
    }

    /// An output that is to be written whole.
    fn poisoned(&self, kind: Kind, len: usize) -> Tensor {
        self.tensor(kind, &vec![f32::NAN; len])
    }

    /// The values of a tensor made here, whose guard must still stand.
    fn read(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        let mut values = self.ops.values(tensor, self.ops.len(tensor));
        self.ops.check()?;
        let guard = values.split_off(values.len() - GUARD);
        if guard.iter().any(|x| !x.is_nan()) {
            bail!("something was written behind the output's {} values", values.len());
        }
        Ok(values)
    }

    /// Compares a tensor made here with what is expected.
    fn near(&mut self, what: impl Into<String>, found: &Tensor, expected: &[f32], tolerance: f64) {
        match self.read(found) {
            Ok(found) => self.near_values(what, &found, expected, tolerance),
            Err(error) => self.tell(what.into(), 0.0, tolerance, Some(format!("{error:#}"))),
        }
    }

    /// Compares values with what is expected.
    fn near_values(
        &mut self,
        what: impl Into<String>,
        found: &[f32],
        expected: &[f32],
        tolerance: f64,
    ) {
        let lengths = (found.len() != expected.len())
            .then(|| format!("{} values, not {}", found.len(), expected.len()));
        self.tell(what.into(), error(found, expected), tolerance, lengths);
    }

    /// Compares bit by bit.
    fn same(&mut self, what: impl Into<String>, found: &[f32], expected: &[f32]) {
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let fault = (bits(found) != bits(expected)).then(|| "other bits".to_owned());
        self.tell(what.into(), 0.0, 0.0, fault);
    }

    fn tell(&mut self, what: String, error: f64, tolerance: f64, fault: Option<String>) {
        let seconds = self.started.elapsed().as_secs_f64();
        self.started = Instant::now();
        let outcome = Outcome { case: self.case, what, error, tolerance, seconds, fault };
        self.failures += usize::from(!outcome.passed());
        (self.each)(&outcome);
    }
}

/// See [`Outcome::error`].
fn error(found: &[f32], expected: &[f32]) -> f64 {
    let (mut off, mut all, mut worst, mut largest) = (0.0, 1e-30, 0.0_f64, 1e-30_f64);
    for (&f, &e) in found.iter().zip(expected) {
        let (difference, e) = (f64::from(f) - f64::from(e), f64::from(e));
        off += difference * difference;
        all += e * e;
        worst = worst.max(difference.abs());
        largest = largest.max(e.abs());
    }
    // A NaN among the differences comes through the sum; `max` would drop it.
    let norm: f64 = f64::sqrt(off / all);
    if norm.is_nan() { norm } else { norm.max(worst / largest / 4.0) }
}
