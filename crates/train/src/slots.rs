//! Continuous batching: a fixed number of slots, each with one prompt; a slot whose answer ends takes the
//! next prompt at once. What an answer says is not known here, only its tokens.

use std::time::Instant;

use anyhow::Result;
use artifact::bail_user;
use artifact::text::count;

use crate::model::{Decoder, KvCache};
use crate::ops::Backend;
use crate::ops::sample::Choice;

/// Slots where nobody says how many: on the processor, and on a card at most.
const SLOTS: usize = 16;
const SLOTS_AHEAD: usize = 256;
/// Of the free memory the cache takes at most so much; the rest is for what steps write.
const SHARE: f64 = 0.9;

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

/// A cache's measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Prompts side by side.
    pub slots: usize,
    /// Tokens of a slot.
    pub capacity: usize,
    /// Prompts with fewer tokens wait for a cache of shorter slots, of which there can be more.
    pub shortest: usize,
}

impl Room {
    /// The cache for prompts that wait, `prompts` of them with at most `longest` tokens; `asked`: slots
    /// asked for, or 0;
    /// `free`: bytes of memory, where that is for the engine to share out.
    ///
    /// # Errors
    /// A user error where memory has no room for one slot.
    pub fn find<B: Backend + Clone>(
        model: &Decoder<B>,
        asked: usize,
        free: Option<u64>,
        (prompts, longest, new): (usize, usize, usize),
    ) -> Result<Self> {
        let capacity = (longest + new).min(model.config().max_position_embeddings);
        let usual = if model.most_steps() > 1 { SLOTS_AHEAD } else { SLOTS };
        let wanted = if asked > 0 { asked } else { usual }.min(prompts).max(1);
        let (pass, slot) = (model.pass_bytes(longest), KvCache::slot_bytes(model, capacity));
        let Some(free) = free else {
            return Ok(Self { slots: wanted, capacity, shortest: 0 });
        };
        // One slot more is for rows that only fill up.
        let fits = ((free as f64 * SHARE) as u64).saturating_sub(pass) / slot.max(1);
        match fits.saturating_sub(1) as usize {
            0 => bail_user!(
                "generation: a prompt of {} tokens with an answer of up to {} needs {} MB of the card's memory beside the \
                 model, of which {} MB are free; shorten the answers (max_new_tokens) or leave out the longest prompts",
                count(longest as u64),
                count(new as u64),
                count((pass + 2 * slot).div_ceil(1_000_000)),
                count(free / 1_000_000)
            ),
            fits if fits < wanted => {
                Ok(Self { slots: fits, capacity, shortest: (capacity / 2).saturating_sub(new) })
            }
            _ => Ok(Self { slots: wanted, capacity, shortest: 0 }),
        }
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
    let mut cache = KvCache::new(model, room.slots, room.capacity);
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
