//! Generation: prompts fill slots of a cache of keys and values, then each step takes one token a
//! slot. What a slot yields is the same, bit for bit, whatever other slots are in use: it is made
//! by operations whose rows do not depend on one another.
//!
//! Tokens are chosen where the logits are. What a step leaves is what the next begins with, so that a
//! device takes several steps before the host reads their tokens, each step by one call where it is
//! recorded. Rows that only fill up a count of rows for which there is a recording use a spare slot.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Result, ensure};

use super::activations::{Activations, Purpose};
use super::adapter::Widths;
use super::batch::{Filling, Joined, Packed};
use super::decoder::{Apart, Attend, Pass};
use super::passes::Memory;
use super::{Batch, Decoder, ModelConfig};
use crate::ops::sample::Choice;
use crate::ops::{AttentionShape, Backend, CacheShape, Cpu, Draw, Kind, SampleShape};
use crate::slots::Room;

/// Tokens of prompts that are run together; a longer prompt is run alone. On a device that runs ahead
/// it takes more to keep it busy.
pub(crate) const PREFILL: usize = 1024;
pub(crate) const PREFILL_AHEAD: usize = 8192;
/// Recordings are made for positions below so many and its doubles.
pub(crate) const LEAST_REACH: usize = 256;

/// Keys and values of the sequences being generated, one slot each, and the memory of their steps. It
/// belongs to the model that it was made for.
pub struct KvCache<B: Backend = Cpu> {
    /// One tensor a layer.
    layers: Vec<B::Tensor>,
    /// Tokens that a slot holds at most.
    capacity: usize,
    /// Tokens in each slot, and the one that its next step reads.
    lengths: Vec<usize>,
    last: Vec<u32>,
    /// Memory of steps.
    passes: Option<Activations<B::Tensor>>,
    /// Inputs and outputs of steps, by the number of rows.
    sets: BTreeMap<usize, Rows<B>>,
}

/// Rows that take steps, in memory that stays where it is.
struct Rows<B: Backend> {
    packed: Packed<B>,
    slots: B::Index,
    tokens: Chosen<B>,
    /// The steps that are recorded for now, by [reach, positions with angles].
    recorded: BTreeMap<[usize; 2], B::Recorded>,
    choice: Choice,
}

/// Where chosen tokens go, beside the next step's inputs; see [`Draw`].
struct Chosen<B: Backend> {
    taken: B::Index,
    picked: B::Index,
    chances: B::Index,
}

/// One row of logits for each sequence of a call, in its order.
#[derive(Debug, Clone)]
pub struct Logits {
    values: Vec<f32>,
    vocab: usize,
}

impl Logits {
    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.values.len() / self.vocab
    }

    /// Logits `[V]` of the `index`-th sequence.
    ///
    /// # Panics
    /// If there are not so many rows.
    #[must_use]
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.vocab..(index + 1) * self.vocab]
    }
}

impl<B: Backend + Clone> KvCache<B> {
    /// Room for `slots` sequences of at most `capacity` tokens, prompt and generated together.
    #[must_use]
    pub fn new(model: &Decoder<B>, slots: usize, capacity: usize) -> Self {
        let held = slots + usize::from(model.backend.runs_ahead() > 0);
        let layers = (0..model.config.num_hidden_layers)
            .map(|_| model.backend.zeros(Kind::Activation, held * slot_len(model, capacity)))
            .collect();
        let (passes, sets) = (None, BTreeMap::new());
        Self { layers, capacity, lengths: vec![0; slots], last: vec![0; slots], passes, sets }
    }

    /// Why steps cannot be recorded and run one launch after the other, if that is so.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        let recorded = self.sets.values().flat_map(|set| set.recorded.values());
        recorded.filter_map(B::refusal).next().map(str::to_owned)
    }

    /// Number of slots.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.lengths.len()
    }

    /// Tokens that a slot holds at most.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Tokens in a slot.
    ///
    /// # Panics
    /// If there is no such slot.
    #[must_use]
    pub fn len(&self, slot: usize) -> usize {
        self.lengths[slot]
    }

    /// Takes the memory of steps of all slots.
    pub(crate) fn reserve_steps(&mut self, model: &Decoder<B>) {
        let (backend, config, most) = (&model.backend, &model.config, self.slots());
        let purpose = Purpose::Inference;
        Activations::reserve(&mut self.passes, backend, config, most, purpose, Widths::default())
            .reserve_logits(backend, config, most);
    }

    /// Says that each slot has so many tokens: for the memory of its steps alone.
    pub(crate) fn pretend(&mut self, tokens: usize) {
        self.lengths.fill(tokens);
    }

    /// Empties a slot.
    ///
    /// # Panics
    /// If there is no such slot.
    pub fn clear(&mut self, slot: usize) {
        self.lengths[slot] = 0;
    }

    /// That slot exists and has room for `tokens` in all, which the model's context has too.
    fn check(&self, slot: usize, tokens: usize, config: &ModelConfig) -> Result<()> {
        ensure!(slot < self.slots(), "slot {slot} of {}", self.slots());
        ensure!(tokens <= self.capacity(), "{tokens} tokens in a slot for {}", self.capacity());
        let context = config.max_position_embeddings;
        ensure!(tokens <= context, "{tokens} tokens in a context of {context}");
        Ok(())
    }
}

/// Elements of a slot in one layer.
fn slot_len<B: Backend>(model: &Decoder<B>, capacity: usize) -> usize {
    let attention = AttentionShape::plain(model.config.heads());
    CacheShape { attention, capacity, reach: capacity }.slot_len()
}

impl<B: Backend + Clone> Decoder<B> {
    /// Tokens of prompts that are run together.
    #[must_use]
    pub fn prefill_tokens(&self) -> usize {
        if self.backend.runs_ahead() > 0 { PREFILL_AHEAD } else { PREFILL }
    }

    /// Gives the memory of passes back.
    pub(crate) fn release_passes(&mut self) {
        self.memory = Memory::default();
    }

    /// Takes the memory of passes over prompts.
    pub(crate) fn reserve_prompts(&mut self, room: &Room) {
        let (backend, config) = (&self.backend, &self.config);
        self.memory.reserve(backend, config, (room.tokens, Purpose::Inference), Widths::default());
        if let Some(kept) = &mut self.memory.inference {
            kept.reserve_logits(backend, config, room.prompts);
        }
        self.memory.reserve_angles(backend, config, room.capacity);
    }

    /// Steps that [`Decoder::proceed`] takes at once at most.
    #[must_use]
    pub fn most_steps(&self) -> usize {
        self.backend.runs_ahead().max(1)
    }

    /// Puts each prompt into its slot, in place of what was there, and returns the logits after
    /// each one's last token.
    ///
    /// # Errors
    /// If a prompt is empty or longer than a slot or the context, or an id is outside the
    /// vocabulary.
    pub fn prefill(
        &mut self,
        cache: &mut KvCache<B>,
        sequences: &[(usize, &[u32])],
    ) -> Result<Logits> {
        let mut values = Vec::with_capacity(sequences.len() * self.config.vocab_size);
        for group in self.groups(cache, sequences)? {
            self.fill(cache, &sequences[group.clone()])?;
            values.extend(self.read_logits(group.len())?);
        }
        Ok(Logits { values, vocab: self.config.vocab_size })
    }

    /// Puts each prompt into its slot, in place of what was there, and returns the token that comes
    /// after each, chosen with these random bits; [`NO_TOKEN`](crate::ops::sample::NO_TOKEN) where
    /// the logits are not numbers.
    ///
    /// # Errors
    /// As [`Decoder::prefill`].
    pub fn start(
        &mut self,
        cache: &mut KvCache<B>,
        sequences: &[(usize, &[u32])],
        choice: Choice,
        chances: &[u64],
    ) -> Result<Vec<u32>> {
        ensure!(chances.len() == sequences.len(), "a random number for each prompt");
        let mut tokens = Vec::with_capacity(sequences.len());
        for group in self.groups(cache, sequences)? {
            self.fill(cache, &sequences[group.clone()])?;
            for (&(slot, _), token) in
                sequences[group.clone()].iter().zip(self.choose(choice, &chances[group])?)
            {
                cache.last[slot] = token;
                tokens.push(token);
            }
        }
        Ok(tokens)
    }

    /// Checks prompts and says which are run together.
    fn groups(
        &self,
        cache: &KvCache<B>,
        sequences: &[(usize, &[u32])],
    ) -> Result<Vec<Range<usize>>> {
        let (mut groups, mut start, mut tokens) = (Vec::new(), 0, 0);
        for (i, &(slot, sequence)) in sequences.iter().enumerate() {
            cache.check(slot, sequence.len(), &self.config)?;
            ensure!(!sequence.is_empty(), "the prompt of slot {slot} is empty");
            ensure!(
                sequences[..i].iter().all(|(other, _)| *other != slot),
                "slot {slot} is named twice"
            );
            tokens += sequence.len();
            if tokens > self.prefill_tokens() && i > start {
                groups.push(start..i);
                (start, tokens) = (i, sequence.len());
            }
        }
        groups.push(start..sequences.len());
        groups.retain(|group| !group.is_empty());
        Ok(groups)
    }

    /// One pass over some prompts laid end to end; leaves the head's products of their last tokens.
    fn fill(&mut self, cache: &mut KvCache<B>, sequences: &[(usize, &[u32])]) -> Result<()> {
        let (mut batch, mut slots) = (Batch { documents: vec![0], ..Batch::default() }, Vec::new());
        for &(slot, tokens) in sequences {
            batch.tokens.extend(tokens);
            slots.resize(batch.tokens.len(), slot as u32);
            // Only the last token's logits are asked for; its target does not matter.
            batch.targets.resize(batch.tokens.len() - 1, -1);
            batch.targets.push(0);
            batch.documents.push(batch.tokens.len() as u32);
        }
        batch.check(&self.config)?;
        self.memory.reserve_angles(&self.backend, &self.config, batch.longest());
        let joined = Joined::of([&batch], Filling::NONE, self.config.vocab_size);
        let (packed, slots) = (joined.pack(&self.backend), self.backend.index(&slots));
        let capacity = cache.capacity;
        let attend = Attend::Fill { caches: &mut cache.layers, slots: &slots, capacity };
        self.products(&packed, attend, batch.tokens.len())?;
        for &(slot, tokens) in sequences {
            cache.lengths[slot] = tokens.len();
        }
        Ok(())
    }

    /// Chooses a token from each row of the products of the last pass.
    fn choose(&mut self, choice: Choice, chances: &[u64]) -> Result<Vec<u32>> {
        let (backend, rows) = (&self.backend, chances.len());
        let zeros = || backend.index(&vec![0; rows]);
        let (mut tokens, mut positions) = (zeros(), zeros());
        let mut chosen: Chosen<B> =
            Chosen { taken: zeros(), picked: zeros(), chances: backend.index(&halves(chances)) };
        if let Some(kept) = &self.memory.inference {
            let shape = sample_shape(&self.config, rows, choice, u32::MAX);
            backend.sample(chosen.draw(&mut tokens, &mut positions), &kept.head.logits, shape);
        }
        let picked = backend.index_values(&chosen.picked, rows);
        backend.check()?;
        Ok(picked)
    }

    /// Continues each of some slots by `steps` tokens, at most [`Decoder::most_steps`], chosen with the
    /// random bits `[steps, N]`. Returns them `[steps, N]`; what comes after a slot is full, or after
    /// its logits are not numbers, is of no use.
    ///
    /// # Errors
    /// If a slot is empty, full or named twice, or its last logits were not numbers.
    pub fn proceed(
        &mut self,
        cache: &mut KvCache<B>,
        slots: &[usize],
        steps: usize,
        choice: Choice,
        chances: &[u64],
    ) -> Result<Vec<u32>> {
        let most = self.most_steps();
        ensure!((1..=most).contains(&steps), "{steps} steps where 1 to {most} are possible");
        ensure!(chances.len() == steps * slots.len(), "a random number for each step and row");
        if slots.is_empty() {
            return Ok(Vec::new());
        }
        ensure!(
            slots.iter().all(|&slot| slot < cache.slots()),
            "there are {} slots",
            cache.slots()
        );
        let tokens: Vec<(usize, u32)> =
            slots.iter().map(|&slot| (slot, cache.last[slot])).collect();
        self.check_steps(cache, &tokens)?;
        self.memory.reserve_angles(&self.backend, &self.config, cache.capacity);
        let rows = match self.backend.runs_ahead() {
            0 => tokens.len(),
            _ => tokens.len().next_power_of_two().min(cache.slots()),
        };
        let mut set =
            cache.sets.remove(&rows).unwrap_or_else(|| Rows::new(&self.backend, rows, most));
        set.set(&self.backend, cache, &tokens, chances);
        if set.choice != choice {
            set.recorded.clear();
            set.choice = choice;
        }
        let longest = slots.iter().map(|&slot| cache.lengths[slot] + steps).max().unwrap_or(0);
        let reach = longest.next_power_of_two().max(LEAST_REACH).min(cache.capacity);
        for _ in 0..steps {
            self.step(cache, &mut set, rows, reach)?;
        }
        let picked = self.backend.index_values(&set.tokens.picked, steps * rows);
        self.backend.check()?;
        cache.sets.insert(rows, set);
        for (row, &slot) in slots.iter().enumerate() {
            cache.lengths[slot] = (cache.lengths[slot] + steps).min(cache.capacity);
            cache.last[slot] = picked[(steps - 1) * rows + row];
        }
        Ok(picked.chunks_exact(rows).flat_map(|step| &step[..slots.len()]).copied().collect())
    }

    /// One step of a set of rows.
    fn step(
        &self,
        cache: &mut KvCache<B>,
        set: &mut Rows<B>,
        rows: usize,
        reach: usize,
    ) -> Result<()> {
        ensure!(self.adapter.is_none(), ADAPTER);
        let (backend, config, capacity) = (&self.backend, &self.config, cache.capacity);
        cache.reserve_steps(self);
        let kept = cache.passes.as_mut().expect("it was reserved");
        let pass = self.pass_apart(rows, Apart::Steps);
        let shape = sample_shape(config, rows, set.choice, capacity as u32 - 1);
        let Rows { packed, slots, tokens, recorded, .. } = set;
        backend.recorded(recorded.entry([reach, self.memory.angles.1]).or_default(), &mut || {
            let caches = &mut cache.layers[..];
            pass.forward(packed, kept, Attend::Step { caches, slots, capacity, reach });
            pass.products(packed, kept);
            let draw = tokens.draw(&mut packed.tokens, &mut packed.positions);
            backend.sample(draw, &kept.head.logits, shape);
        });
        Ok(())
    }

    /// Checks what takes a step.
    fn check_steps(&self, cache: &KvCache<B>, tokens: &[(usize, u32)]) -> Result<()> {
        for (i, &(slot, id)) in tokens.iter().enumerate() {
            ensure!(
                tokens[..i].iter().all(|(other, _)| *other != slot),
                "slot {slot} is named twice"
            );
            ensure!(
                (id as usize) < self.config.vocab_size,
                "token id {id} in a vocabulary of {}",
                self.config.vocab_size
            );
            cache.check(slot, cache.lengths.get(slot).map_or(0, |len| len + 1), &self.config)?;
            ensure!(cache.lengths[slot] > 0, "slot {slot} has no prompt");
        }
        Ok(())
    }

    /// Appends one token to each of some slots and returns the logits after it.
    ///
    /// # Errors
    /// If a slot is empty, full or named twice, or an id is outside the vocabulary.
    pub fn decode(&mut self, cache: &mut KvCache<B>, tokens: &[(usize, u32)]) -> Result<Logits> {
        self.check_steps(cache, tokens)?;
        if tokens.is_empty() {
            return Ok(Logits { values: Vec::new(), vocab: self.config.vocab_size });
        }
        let ids: Vec<u32> = tokens.iter().map(|&(_, id)| id).collect();
        let slots: Vec<u32> = tokens.iter().map(|&(slot, _)| slot as u32).collect();
        let positions: Vec<u32> =
            tokens.iter().map(|&(slot, _)| cache.lengths[slot] as u32).collect();
        let longest = positions.iter().max().map_or(0, |&last| last as usize + 1);
        self.memory.reserve_angles(&self.backend, &self.config, longest);
        let packed = Packed::steps(&self.backend, &ids, &positions);
        let slots = self.backend.index(&slots);
        let (caches, capacity) = (&mut cache.layers[..], cache.capacity);
        let attend = Attend::Step { caches, slots: &slots, capacity, reach: capacity };
        self.products(&packed, attend, tokens.len())?;
        for &(slot, _) in tokens {
            cache.lengths[slot] += 1;
        }
        Ok(Logits { values: self.read_logits(tokens.len())?, vocab: self.config.vocab_size })
    }

    /// The head's products of the rows of `packed` that count.
    fn products(&mut self, packed: &Packed<B>, attend: Attend<'_, B>, rows: usize) -> Result<()> {
        ensure!(self.adapter.is_none(), ADAPTER);
        ensure!(self.packing.is_none(), "packed weights are there to train an adapter beside");
        let mut inference = self.memory.inference.take();
        let (backend, config) = (&self.backend, &self.config);
        let kept = Activations::reserve(
            &mut inference,
            backend,
            config,
            rows,
            Purpose::Inference,
            Widths::default(),
        );
        let is_step = matches!(attend, Attend::Step { .. });
        let pass = self.pass_apart(rows, if is_step { Apart::Steps } else { Apart::Prompts });
        pass.forward(packed, kept, attend);
        pass.products(packed, kept);
        self.memory.inference = inference;
        self.backend.check()
    }

    /// A pass whose rows do not depend on one another.
    fn pass_apart(&self, rows: usize, apart: Apart) -> Pass<'_, B> {
        Pass {
            backend: &self.backend,
            config: &self.config,
            weights: &self.weights,
            lanes: &[],
            aside: None,
            unpacking: None,
            angles: &self.memory.angles.0,
            rows,
            apart,
        }
    }

    /// The products of the last pass as logits.
    fn read_logits(&self, rows: usize) -> Result<Vec<f32>> {
        let shape = self.config.head(rows);
        let mut logits = self.memory.inference.as_ref().map_or_else(Vec::new, |kept| {
            self.backend.values(&kept.head.logits, rows * shape.linear.outputs)
        });
        self.backend.check()?;
        shape.logits.apply(&mut logits);
        Ok(logits)
    }
}

/// An adapter's products are not the ones whose rows do not depend on one another.
const ADAPTER: &str = "an adapter is merged into its model before it decodes";

fn sample_shape(config: &ModelConfig, rows: usize, choice: Choice, last: u32) -> SampleShape {
    let logits = config.head(rows).logits;
    SampleShape { rows, vocabulary: config.vocab_size, logits, choice, last }
}

/// Random bits as pairs of whole numbers, the lower half first.
fn halves(chances: &[u64]) -> Vec<u32> {
    chances.iter().flat_map(|&bits| [bits as u32, (bits >> 32) as u32]).collect()
}

impl<B: Backend> Chosen<B> {
    fn draw<'a>(
        &'a mut self,
        tokens: &'a mut B::Index,
        positions: &'a mut B::Index,
    ) -> Draw<'a, B::Index> {
        let Self { taken, picked, chances } = self;
        Draw { tokens, positions, taken, picked, chances }
    }
}

impl<B: Backend> Rows<B> {
    fn new(backend: &B, rows: usize, steps: usize) -> Self {
        let zeros = |len: usize| backend.index(&vec![0; len]);
        let tokens = Chosen {
            taken: zeros(rows),
            picked: zeros(steps * rows),
            chances: zeros(steps * rows * 2),
        };
        Self {
            packed: Packed::steps(backend, &vec![0; rows], &vec![0; rows]),
            slots: zeros(rows),
            tokens,
            recorded: BTreeMap::new(),
            choice: Choice::GREEDY,
        }
    }

    /// What the rows begin with. Those beyond `tokens` start over in the spare slot.
    fn set(&mut self, backend: &B, cache: &KvCache<B>, tokens: &[(usize, u32)], chances: &[u64]) {
        let rows = self.packed.counted_rows;
        let filled = |values: &mut dyn Iterator<Item = u32>, spare: u32| {
            let mut values: Vec<u32> = values.collect();
            values.resize(rows, spare);
            values
        };
        let slots =
            filled(&mut tokens.iter().map(|&(slot, _)| slot as u32), cache.lengths.len() as u32);
        let ids = filled(&mut tokens.iter().map(|&(_, id)| id), 0);
        let positions = filled(&mut tokens.iter().map(|&(slot, _)| cache.lengths[slot] as u32), 0);
        backend.set_index(&mut self.slots, &slots);
        backend.set_index(&mut self.packed.tokens, &ids);
        backend.set_index(&mut self.packed.positions, &positions);
        backend.set_index(&mut self.tokens.taken, &vec![0; rows]);
        let mut all = Vec::with_capacity(backend.index_len(&self.tokens.chances));
        for step in chances.chunks_exact(tokens.len()) {
            all.extend(halves(step));
            all.resize(all.len().next_multiple_of(2 * rows), 0);
        }
        all.resize(backend.index_len(&self.tokens.chances), 0);
        backend.set_index(&mut self.tokens.chances, &all);
    }
}

impl<B: Backend> Packed<B> {
    /// One token of each of some cached sequences; every row counts.
    fn steps(backend: &B, ids: &[u32], positions: &[u32]) -> Self {
        let all: Vec<u32> = (0..ids.len() as u32).collect();
        Self {
            tokens: backend.index(ids),
            positions: backend.index(positions),
            documents: backend.index(&[]),
            counted: backend.index(&all),
            counted_rows: all.len(),
            targets: backend.index(&[]),
        }
    }
}
