//! Launch code of sampling; the rule is in `ops/sample.rs`.

use anyhow::{Result, ensure};

use super::driver::{Arguments, Driver, Grid};
use super::memory::{Index, Tensor};
use crate::ops::{Draw, SampleShape};

/// Threads of a block, and values of a digit; SAMPLE_THREADS and DIGITS in sample.cu.
const THREADS: u32 = 512;
const DIGITS: u32 = 16;
/// Tokens whose weights sum without overflow.
const MOST_TOKENS: usize = (1 << 19) - 1;

/// `SampleTask` in sample.cu.
#[derive(Clone, Copy)]
#[repr(C)]
struct Task {
    rows: i32,
    vocabulary: i32,
    last: u32,
    top_k: u32,
    scale: f32,
    cap: f32,
    temperature: f64,
    top_p: f64,
}

/// Chooses the token of each row.
///
/// # Errors
/// If the vocabulary is larger than the kernel takes, or the device refuses.
pub fn launch(
    driver: &dyn Driver,
    draw: Draw<'_, Index>,
    products: &Tensor,
    shape: SampleShape,
) -> Result<()> {
    let SampleShape { rows, vocabulary, logits, choice, last } = shape;
    ensure!(
        choice.is_greedy() || vocabulary <= MOST_TOKENS,
        "sampling on a card takes vocabularies up to {MOST_TOKENS} tokens; the model's has {vocabulary}"
    );
    let task = Task {
        rows: rows as i32,
        vocabulary: vocabulary as i32,
        last,
        top_k: choice.top_k,
        scale: logits.scale,
        cap: logits.softcap.unwrap_or(0.0),
        temperature: choice.temperature,
        top_p: choice.top_p,
    };
    let arguments = Arguments::new()
        .with(products.at())
        .with(draw.tokens.at())
        .with(draw.positions.at())
        .with(draw.taken.at())
        .with(draw.picked.at())
        .with(draw.chances.at())
        .with(task);
    driver.launch(
        "sample",
        Grid { shared: THREADS * DIGITS * 8, ..Grid::line(rows, THREADS) },
        arguments,
    )
}
