//! What to change where a run does not fit its card: each change planned like the run itself, alone
//! and together, in the order of what they cost.

use std::fmt::Write as _;

use anyhow::Result;
use artifact::text::TextTable;

use super::{MemoryPlan, Passes, Place, bytes};
use crate::config::Recipe;
use crate::model::Recompute;
use crate::ops::{Form, Nf4};
use crate::setup::Setup;

/// A run with some settings changed.
#[derive(Clone)]
struct Changed {
    recipe: Recipe,
    sequence_length: usize,
    /// What was changed, as a settings file has it.
    settings: Vec<String>,
}

/// A change: `None` where it does not apply or changes nothing.
type Change = fn(&Changed, &Passes) -> Option<Changed>;

impl Changed {
    fn with(&self, setting: String, change: impl FnOnce(&mut Self)) -> Option<Self> {
        let mut changed = self.clone();
        let key = setting.split(' ').next().unwrap_or_default().to_owned();
        changed.settings.retain(|held| held.split(' ').next() != Some(&key));
        changed.settings.push(setting);
        change(&mut changed);
        Some(changed)
    }

    fn plan(&self, setup: &Setup, place: &Place) -> Result<(MemoryPlan, Passes)> {
        let passes = Passes::of(setup, &self.recipe, self.sequence_length);
        Ok((MemoryPlan::new(&setup.model, &self.recipe, &passes, place)?, passes))
    }
}

/// In the order of what they cost: time first, then the order of sums, then what the optimiser
/// remembers, then what is learnt.
const CHANGES: [Change; 11] = [
    recompute,
    more_passes,
    optimiser_in_backward,
    offload,
    bf16_states,
    int8_states,
    no_masters,
    shorter,
    adapter,
    four_bits,
    smaller_batch,
];

/// Ways to fit, each by some of the changes in this order: full tuning with the gradients of a whole
/// step, full tuning with those of a layer at a time, and an adapter, over a base in
/// 4 bits if need be.
const WAYS: [&[Change]; 3] = [
    &[recompute, more_passes, offload, bf16_states, int8_states, no_masters, shorter],
    &[
        recompute,
        optimiser_in_backward,
        offload,
        bf16_states,
        int8_states,
        no_masters,
        shorter,
        smaller_batch,
    ],
    &[adapter, recompute, more_passes, four_bits, shorter],
];

fn recompute(run: &Changed, _: &Passes) -> Option<Changed> {
    let open = run.recipe.recompute.is_some_and(|level| level != Recompute::Block);
    open.then(|| {
        run.with(r#"recompute = "block""#.to_owned(), |run| {
            run.recipe.recompute = Some(Recompute::Block);
        })
    })?
}

/// Twice the passes, unless each has one sequence already.
fn more_passes(run: &Changed, passes: &Passes) -> Option<Changed> {
    let parts = (2 * passes.most_passes).min(run.recipe.batch_size);
    let more = !run.recipe.optimizer_in_backward && parts > passes.most_passes;
    more.then(|| {
        run.with(format!("gradient_accumulation = {parts}"), |run| {
            run.recipe.gradient_accumulation = Some(parts);
        })
    })?
}

fn optimiser_in_backward(run: &Changed, passes: &Passes) -> Option<Changed> {
    let free = run.recipe.lora.is_none() && !run.recipe.optimizer_in_backward;
    (free && passes.most_passes == 1).then(|| {
        run.with("optimizer_in_backward = true (with clip = 0)".to_owned(), |run| {
            run.recipe.optimizer_in_backward = true;
            run.recipe.clip = 0.0;
        })
    })?
}

fn offload(run: &Changed, _: &Passes) -> Option<Changed> {
    let held = run.recipe.lora.is_none() && !run.recipe.optimizer_offload;
    held.then(|| {
        run.with("optimizer_offload = true".to_owned(), |run| {
            run.recipe.optimizer_offload = true;
        })
    })?
}

fn bf16_states(run: &Changed, _: &Passes) -> Option<Changed> {
    states(run, Form::Bf16, "bf16")
}

fn int8_states(run: &Changed, _: &Passes) -> Option<Changed> {
    states(run, Form::Int8, "int8")
}

fn no_masters(run: &Changed, _: &Passes) -> Option<Changed> {
    let has_masters = run.recipe.lora.is_none() && run.recipe.master_weights;
    has_masters.then(|| {
        run.with("master_weights = false".to_owned(), |run| run.recipe.master_weights = false)
    })?
}

fn shorter(run: &Changed, _: &Passes) -> Option<Changed> {
    let length = run.sequence_length / 2;
    (length >= 256).then(|| {
        run.with(format!("sequence_length = {length}"), |run| run.sequence_length = length)
    })?
}

fn adapter(run: &Changed, _: &Passes) -> Option<Changed> {
    run.recipe.lora.is_none().then(|| {
        run.with("lora = { rank = 16 }".to_owned(), |run| {
            run.recipe.lora = crate::lora::LoraConfig::default().resolve().ok();
            run.recipe.optimizer_in_backward = false;
            run.recipe.master_weights = true;
        })
    })?
}

/// The base of an adapter in 4 bits.
fn four_bits(run: &Changed, _: &Passes) -> Option<Changed> {
    let is_open = run.recipe.lora.is_some() && run.recipe.quantize.is_none();
    let is_new = run.settings.iter().any(|setting| setting.starts_with("lora = "));
    let setting = match is_new {
        true => r#"lora = { rank = 16, quantize = "nf4" }"#,
        false => r#"lora.quantize = "nf4""#,
    };
    is_open.then(|| {
        run.with(setting.to_owned(), |run| run.recipe.quantize = Some(Nf4 { double_quant: true }))
    })?
}

fn smaller_batch(run: &Changed, _: &Passes) -> Option<Changed> {
    (run.recipe.batch_size > 1 && run.recipe.optimizer_in_backward).then(|| {
        let size = run.recipe.batch_size / 2;
        run.with(format!("batch_size = {size}"), |run| run.recipe.batch_size = size)
    })?
}

/// The optimiser's states in a smaller form than they have.
fn states(run: &Changed, form: Form, name: &str) -> Option<Changed> {
    let is_smaller = form.bytes(256) < run.recipe.optimizer_states.bytes(256);
    if run.recipe.lora.is_some() || run.recipe.optimizer_offload || !is_smaller {
        return None;
    }
    run.with(format!("optimizer_states = \"{name}\""), |run| run.recipe.optimizer_states = form)
}

/// What each change saves by itself, and ways in which changes together make the run fit.
///
/// # Errors
/// If a plan fails.
pub fn advice(setup: &Setup, plan: &MemoryPlan, place: &Place) -> Result<String> {
    let now = Changed {
        recipe: setup.recipe.clone(),
        sequence_length: setup.sequence_length,
        settings: Vec::new(),
    };
    let (_, passes) = now.plan(setup, place)?;
    let mut table = TextTable::new(&["setting in [train]", "saves", "leaves"]);
    table.right(&[1, 2]);
    for change in CHANGES {
        let Some(changed) = change(&now, &passes) else { continue };
        let (after, _) = changed.plan(setup, place)?;
        let saved = plan.needed().saturating_sub(after.needed());
        if saved > 0 {
            table.row(vec![changed.settings.join(", "), bytes(saved), bytes(after.needed())]);
        }
    }
    let mut text = format!("what saves memory, each by itself:\n{}", table.to_string().trim_end());
    let mut fits = Vec::new();
    for way in WAYS {
        if let Some(run) = fit(setup, place, &now, way)?.filter(|run| !fits.contains(&run.settings))
        {
            write!(text, "\nfits: {}", run.settings.join(", "))?;
            let host = run.plan(setup, place)?.0.host;
            if host > 0 {
                let bytes = bytes(host);
                write!(
                    text,
                    "; takes {bytes} of the host's memory, less with smaller optimizer_states"
                )?;
            }
            fits.push(run.settings);
        }
    }
    if fits.is_empty() {
        write!(text, "\nnone of these fit together: take a smaller model or a larger card")?;
    }
    Ok(text)
}

/// The run with changes of `way` that save something, one after the other and each as often as it
/// goes on saving, until it fits; then without those that it fits without.
fn fit(setup: &Setup, place: &Place, now: &Changed, way: &[Change]) -> Result<Option<Changed>> {
    let Some(mut fits) = first_fit(setup, place, now, way)? else { return Ok(None) };
    let mut needed = way.to_vec();
    for at in (0..needed.len()).rev() {
        let mut fewer = needed.clone();
        fewer.remove(at);
        let run = first_fit(setup, place, now, &fewer)?;
        if let Some(run) = run.filter(|run| run.settings.len() < fits.settings.len()) {
            (fits, needed) = (run, fewer);
        }
    }
    Ok(Some(fits))
}

fn first_fit(
    setup: &Setup,
    place: &Place,
    now: &Changed,
    way: &[Change],
) -> Result<Option<Changed>> {
    let mut run = now.clone();
    let (plan, mut passes) = run.plan(setup, place)?;
    let mut total = plan.needed();
    for change in way {
        while let Some(changed) = change(&run, &passes) {
            let (plan, of) = changed.plan(setup, place)?;
            if plan.needed() >= total {
                break;
            }
            (run, passes, total) = (changed, of, plan.needed());
            if plan.fits() {
                return Ok(Some(run));
            }
        }
    }
    Ok(None)
}
