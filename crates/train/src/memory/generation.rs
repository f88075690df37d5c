//! The memory plan of generation: its own code, rehearsed with the most that its prompts can ask for, on a device
//! that only counts. From it come the slots that a card has room for, the reservation that all is taken
//! from, and, where not even one slot fits, what would.

use std::fmt;
use std::sync::Arc;

use anyhow::{Result, bail};
use artifact::error::user;
use artifact::text::{TextTable, count};
use serde::Serialize;

use super::{LEFT_TO_THE_DRIVER, OF_A_RECORDED_LAUNCH, Place, bytes, rest_rows};
use crate::cuda::{Counter, Cuda};
use crate::model::{Decoder, KvCache, ModelConfig, PREFILL_AHEAD};
use crate::ops::sample::Choice;
use crate::ops::{Backend as _, Kind};
use crate::slots::{Room, wanted};

/// What there is to answer.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Tokens of each prompt.
    pub lengths: &'a [usize],
    /// Most tokens of an answer.
    pub new: usize,
    /// Slots that were asked for, or 0.
    pub slots: usize,
}

/// What the prompts of one cache hold, and what there is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GenerationPlan {
    /// Where.
    pub place: String,
    /// The cache's measures.
    pub room: Room,
    /// Bytes of the weights, the cache, passes over prompts, steps of answers, and what recordings of steps take.
    pub parts: [u64; 5],
    /// Bytes of a card that are left to its driver.
    pub driver: u64,
    /// Launches of the longest recording, and how many recordings there can be.
    pub recorded: [u64; 2],
    /// Bytes that can be had, where that is known.
    pub available: Option<u64>,
}

const PARTS: [&str; 5] = ["weights", "KV cache", "prompts", "steps", "recordings' workspace"];

impl GenerationPlan {
    /// The plans of the caches that answer all, one after the other: the longest prompts first, where their slots are
    /// fewer than are wanted, then those that are short enough for smaller ones.
    ///
    /// # Errors
    /// A user error that says what would fit, where not one slot does.
    pub fn all(model: &ModelConfig, asked: Asked<'_>, place: &Place) -> Result<Vec<Self>> {
        let (mut plans, mut lengths) = (Vec::new(), asked.lengths.to_vec());
        while !lengths.is_empty() {
            let plan = Self::of_one(model, Asked { lengths: &lengths, ..asked }, place)?;
            lengths.retain(|&length| length < plan.room.shortest);
            plans.push(plan);
        }
        Ok(plans)
    }

    /// The plan of the cache for the longest, with as many slots as fit.
    fn of_one(model: &ModelConfig, asked: Asked<'_>, place: &Place) -> Result<Self> {
        let of = |slots| rehearse(model, room(model, asked, slots), place);
        let most = wanted(asked.slots, asked.lengths.len(), matches!(place, Place::Card { .. }));
        let all = of(most)?;
        if all.fits() || matches!(place, Place::Processor { .. }) {
            return Ok(all);
        }
        let (mut fits, mut too_many) = (of(1)?, most);
        if !fits.fits() {
            let advice = advice(model, asked, place)?;
            return Err(user(format!(
                "generation needs {} of memory with a single slot, and {} has {}\n{fits}\n{advice}",
                bytes(fits.needed()),
                fits.place,
                bytes(fits.available.unwrap_or(0)),
            )));
        }
        while too_many > fits.room.slots + 1 {
            let between = of(fits.room.slots.midpoint(too_many))?;
            match between.fits() {
                true => fits = between,
                false => too_many = between.room.slots,
            }
        }
        // Prompts of less than half the slots' length wait for a cache with more.
        fits.room.shortest = (fits.room.capacity / 2).saturating_sub(asked.new);
        Ok(fits)
    }

    /// Bytes that are reserved.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.parts.iter().sum()
    }

    /// The same with what is left to the driver.
    #[must_use]
    pub fn needed(&self) -> u64 {
        self.total() + self.driver
    }

    fn fits(&self) -> bool {
        self.available.is_none_or(|available| self.needed() <= available)
    }

    /// Takes what was planned for all of these.
    ///
    /// # Errors
    /// If the device has not so much left.
    pub fn reserve(all: &[Self], cuda: &Cuda) -> Result<()> {
        let most = all.iter().map(Self::total).max().unwrap_or(0);
        cuda.pool().reserve(most as usize)
    }

    /// Lets recordings of this cache's steps have the memory that is planned for them, and no others.
    pub fn begin(&self, cuda: &Cuda) {
        cuda.pool().release();
        cuda.pool().expect_recordings(self.parts[4] as usize);
    }
}

fn room(model: &ModelConfig, asked: Asked<'_>, slots: usize) -> Room {
    let answers = (asked.new, model.max_position_embeddings);
    Room::new(slots, asked.lengths, answers, PREFILL_AHEAD)
}

/// Generation's own code on a device that counts.
fn rehearse(model: &ModelConfig, room: Room, place: &Place) -> Result<GenerationPlan> {
    let (facts, on_card) = match place {
        Place::Card { facts, .. } => (facts.clone(), true),
        Place::Processor { .. } => {
            let Place::Card { facts, .. } = Place::imagined(0) else { bail!("no card") };
            (facts, false)
        }
    };
    let counter = Arc::new(Counter::new(facts.clone()));
    let cuda = Cuda::new(counter.clone());
    cuda.pool().reserve(1 << 60)?;
    let mut decoder = Decoder::zeros_as(cuda.clone(), Kind::Frozen, model.clone());
    let parts = run_through(&mut decoder, room)?;
    cuda.check()?;
    let recorded = [counter.recordings().longest, counter.recordings().count * room.reaches()];
    let driver = LEFT_TO_THE_DRIVER + recorded[0] * recorded[1] * OF_A_RECORDED_LAUNCH;
    // The processor's values are f32 where a card's are bf16, and it records nothing.
    let of_processor = parts.map(|bytes| 2 * bytes);
    Ok(GenerationPlan {
        place: if on_card { facts.name } else { "the processor".to_owned() },
        room,
        parts: if on_card {
            parts
        } else {
            [of_processor[0], of_processor[1], of_processor[2], 0, 0]
        },
        driver: if on_card { driver } else { 0 },
        recorded: if on_card { recorded } else { [0; 2] },
        available: place.available(),
    })
}

/// A cache with the most prompts and the longest, and steps of each number of rows, the largest first; twice, for
/// the first of a kind runs plainly and the second is recorded. Bytes by [`PARTS`].
pub(super) fn run_through(model: &mut Decoder<Cuda>, room: Room) -> Result<[u64; 5]> {
    let cuda = model.backend().clone();
    let pool = || (cuda.pool().standing() as u64, cuda.pool().top() as u64);
    let weights = pool().0;
    let mut cache = KvCache::new(model, room.slots, room.capacity);
    let with_cache = pool().0;
    model.reserve_prompts(&room);
    let with_prompts = pool().0;
    cache.reserve_steps(model);
    let prompts = |model: &mut Decoder<Cuda>, cache: &mut KvCache<Cuda>| {
        let long = vec![0; room.longest];
        model.start(cache, &[(0, &long)], Choice::GREEDY, &[0])?;
        let lengths = room.fullest();
        let all: Vec<_> =
            lengths.iter().enumerate().map(|(slot, &length)| (slot, &long[..length])).collect();
        model.start(cache, &all, Choice::GREEDY, &vec![0; all.len()])
    };
    prompts(model, &mut cache)?;
    let comes_and_goes = pool().1 - pool().0;
    let mut rows = room.slots;
    while rows > 0 {
        for _ in 0..2 {
            cache.pretend(room.capacity - 1);
            let slots: Vec<usize> = (0..rows).collect();
            model.proceed(&mut cache, &slots, 1, Choice::GREEDY, &vec![0; rows])?;
        }
        rows = if rows == 1 { 0 } else { rows.next_power_of_two() / 2 };
    }
    prompts(model, &mut cache)?;
    let recordings = cuda.pool().recordings() as u64;
    let of_prompts = with_prompts - with_cache + comes_and_goes;
    let of_steps = pool().1 - with_cache - of_prompts - recordings;
    Ok([weights, with_cache - weights, of_prompts, of_steps, recordings])
}

/// What would fit where a single slot does not: shorter answers, or without the longest prompts.
fn advice(model: &ModelConfig, asked: Asked<'_>, place: &Place) -> Result<String> {
    let fits = |asked: Asked<'_>| {
        Ok::<_, anyhow::Error>(rehearse(model, room(model, asked, 1), place)?.fits())
    };
    let mut advice = Vec::new();
    let mut new = asked.new / 2;
    while new > 0 && !fits(Asked { new, ..asked })? {
        new /= 2;
    }
    if new > 0 {
        advice.push(format!("fits: max_new_tokens = {new}"));
    }
    let mut lengths = asked.lengths.to_vec();
    lengths.sort_unstable();
    // The longer, the more memory.
    let (mut fit, mut end) = (0, lengths.len());
    while fit < end {
        let middle = fit + (end - fit) / 2;
        match fits(Asked { lengths: &lengths[..=middle], ..asked })? {
            true => fit = middle + 1,
            false => end = middle,
        }
    }
    if fit > 0 {
        let (without, longest) = ((lengths.len() - fit) as u64, lengths[fit - 1] as u64);
        let (without, longest) = (count(without), count(longest));
        advice.push(format!(
            "fits: prompts of up to {longest} tokens, without the {without} that are longer"
        ));
    }
    if advice.is_empty() {
        advice.push("neither shorter answers nor shorter prompts fit: take a smaller model or a larger card".into());
    }
    Ok(advice.join("\n"))
}

impl fmt::Display for GenerationPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Room { slots, capacity, tokens, prompts, .. } = self.room;
        let mut table = TextTable::new(&["memory", "", "of what"]);
        table.right(&[1]);
        let of = |value: usize| count(value as u64);
        for (name, &value) in PARTS.iter().zip(&self.parts).filter(|(_, value)| **value > 0) {
            let what = match *name {
                "KV cache" => format!("{} slots of {} tokens", of(slots), of(capacity)),
                "prompts" => {
                    format!("{} tokens a pass, {} prompts at most", of(tokens), of(prompts))
                }
                "steps" => format!("{} rows at most", of(slots)),
                _ => String::new(),
            };
            table.row(vec![(*name).to_owned(), bytes(value), what]);
        }
        let sums = (self.total(), self.driver);
        rest_rows(&mut table, sums, self.recorded, &self.place, self.available);
        f.write_str(table.to_string().trim_end())
    }
}

#[cfg(test)]
#[path = "generation_tests.rs"]
mod tests;
