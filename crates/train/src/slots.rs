//! Continuous batching: a fixed number of slots, each with one prompt; a slot whose answer ends takes the
//! next prompt at once. What an answer says is not known here, only its tokens.

use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use crate::model::{Decoder, KvCache, LEAST_REACH};
use crate::ops::Backend;
use crate::ops::sample::Choice;

/// Slots where nobody says how many: on the processor, and on a card at most.
const SLOTS: usize = 16;
const SLOTS_AHEAD: usize = 256;

/// Where prompts come from and tokens go.
pub trait Answers {
    /// A prompt in a slot, with what was answered so far.
    type Item;

    /// The next prompt, if it has at least `shortest` tokens.
    fn next(&mut self, shortest: usize) -> Option<Self::Item>;
    /// A prompt's tokens, of which there are some.
    fn prompt<'a>(&self, item: &'a Self::Item) -> &'a [u32];
    /// Tokens that the answer may still get, at least 1.
    fn left(&self, item: &Self::Item) -> usize;
    /// Random bits of the token that comes `ahead` tokens after the next.
    fn chance(&self, item: &Self::Item, ahead: usize) -> u64;
    /// Takes the next token. `None`: the answer is complete.
    ///
    /// # Errors
    /// If the answer cannot go on.
    fn take(&mut self, item: Self::Item, token: u32) -> Result<Option<Self::Item>>;
    /// Called between steps.
    ///
    /// # Errors
    /// If the work is to end here.
    fn pause(&mut self) -> Result<()>;
}

/// Slots where nobody says how many: on the processor, and on a card at most, of which there are never more than
/// prompts.
pub fn wanted(asked: usize, prompts: usize, on_card: bool) -> usize {
    let usual = if on_card { SLOTS_AHEAD } else { SLOTS };
    if asked > 0 { asked } else { usual }.min(prompts).max(1)
}

/// A cache's measures, and the most that its prompts have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Room {
    /// Prompts side by side.
    pub slots: usize,
    /// Tokens of a slot.
    pub capacity: usize,
    /// Prompts with fewer tokens wait for a cache of shorter slots, of which there can be more.
    pub shortest: usize,
    /// Tokens of the longest prompt.
    pub longest: usize,
    /// Prompts that are run together, and their tokens.
    pub prompts: usize,
    /// The tokens of those.
    pub tokens: usize,
}

impl Room {
    /// A cache of so many slots for prompts of these lengths, whose answers have up to `new` tokens in a context of
    /// `context`; prompts are run together up to `together` tokens.
    pub fn new(
        slots: usize,
        lengths: &[usize],
        (new, context): (usize, usize),
        together: usize,
    ) -> Self {
        let longest = lengths.iter().copied().max().unwrap_or(1);
        let prompts = slots.min(lengths.len()).min(together).max(1);
        let most = (prompts * longest).min(lengths.iter().sum());
        Self {
            slots,
            capacity: (longest + new).min(context),
            shortest: 0,
            longest,
            prompts,
            tokens: longest.max(most.min(together)),
        }
    }

    /// Lengths of prompts that are run together, as many and with as many tokens as there can be.
    pub fn fullest(&self) -> Vec<usize> {
        let mut left = self.tokens.min(self.prompts * self.longest).max(self.prompts);
        let of = |after: usize| {
            let length = self.longest.min(left - after);
            left -= length;
            length
        };
        (0..self.prompts).rev().map(of).collect()
    }

    /// For how many numbers of positions steps are recorded.
    pub fn reaches(&self) -> u64 {
        let all = std::iter::successors(Some(LEAST_REACH), |reach| Some(2 * reach));
        all.take_while(|&reach| reach < self.capacity).count() as u64 + 1
    }
}

/// Seconds that went to each half of the work.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Times {
    /// Reading prompts.
    pub prompts: f64,
    /// Writing answers.
    pub answers: f64,
}

/// Answers all prompts of at least `room.shortest` tokens. An answer is the same, bit for bit, whatever
/// the slots.
///
/// # Errors
/// If the model cannot run, or from [`Answers`].
pub fn run<B: Backend + Clone, A: Answers>(
    model: &mut Decoder<B>,
    room: Room,
    choice: Choice,
    answers: &mut A,
    times: &mut Times,
) -> Result<Option<String>> {
    model.release_passes();
    let mut cache = KvCache::new(model, room.slots, room.capacity);
    model.reserve_prompts(&room);
    cache.reserve_steps(model);
    let mut active: Vec<Option<A::Item>> = (0..room.slots).map(|_| None).collect();
    loop {
        answers.pause()?;
        let started = Instant::now();
        let entered = enter(model, &mut cache, &mut active, (room.shortest, choice), answers)?;
        times.prompts += started.elapsed().as_secs_f64();
        if active.iter().all(Option::is_none) {
            if entered {
                continue;
            }
            return Ok(cache.refusal());
        }
        let started = Instant::now();
        proceed(model, &mut cache, &mut active, choice, answers)?;
        times.answers += started.elapsed().as_secs_f64();
    }
}

/// Gives free slots to prompts, as many as are run together, so that the others do not wait long;
/// whether there were any.
fn enter<B: Backend + Clone, A: Answers>(
    model: &mut Decoder<B>,
    cache: &mut KvCache<B>,
    active: &mut [Option<A::Item>],
    (shortest, choice): (usize, Choice),
    answers: &mut A,
) -> Result<bool> {
    let (mut entering, mut tokens) = (Vec::new(), 0);
    for (slot, _) in active.iter().enumerate().filter(|(_, place)| place.is_none()) {
        if tokens >= model.prefill_tokens() {
            break;
        }
        let Some(item) = answers.next(shortest) else { break };
        cache.clear(slot);
        tokens += answers.prompt(&item).len();
        entering.push((slot, item));
    }
    let sequences: Vec<(usize, &[u32])> =
        entering.iter().map(|(slot, item)| (*slot, answers.prompt(item))).collect();
    let chances: Vec<u64> =
        entering.iter().map(|(_, item)| chance(answers, item, choice, 0)).collect();
    let firsts = model.start(cache, &sequences, choice, &chances)?;
    let entered = !entering.is_empty();
    for ((slot, item), token) in entering.into_iter().zip(firsts) {
        active[slot] = answers.take(item, token)?;
    }
    Ok(entered)
}

/// Takes the model's steps for all slots in use.
fn proceed<B: Backend + Clone, A: Answers>(
    model: &mut Decoder<B>,
    cache: &mut KvCache<B>,
    active: &mut [Option<A::Item>],
    choice: Choice,
    answers: &mut A,
) -> Result<()> {
    let rows: Vec<(usize, &A::Item)> =
        active.iter().enumerate().filter_map(|(slot, item)| Some((slot, item.as_ref()?))).collect();
    let longest = rows.iter().map(|(_, item)| answers.left(item)).max().unwrap_or(1);
    let steps = longest.min(model.most_steps());
    let chances: Vec<u64> = (0..steps)
        .flat_map(|step| rows.iter().map(move |(_, item)| (item, step)))
        .map(|(item, step)| chance(answers, item, choice, step))
        .collect();
    let slots: Vec<usize> = rows.iter().map(|&(slot, _)| slot).collect();
    let tokens = model.proceed(cache, &slots, steps, choice, &chances)?;
    for (i, token) in tokens.into_iter().enumerate() {
        // What comes after an answer's end is of no use.
        let place = &mut active[slots[i % slots.len()]];
        if let Some(item) = place.take() {
            *place = answers.take(item, token)?;
        }
    }
    Ok(())
}

fn chance<A: Answers>(answers: &A, item: &A::Item, choice: Choice, ahead: usize) -> u64 {
    if choice.is_greedy() { 0 } else { answers.chance(item, ahead) }
}
