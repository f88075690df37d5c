//! Generation: prompts fill slots of a cache of keys and values, then each step takes one token a
//! slot. What a slot yields is the same, bit for bit, whatever other slots are in use: it is made
//! by operations whose rows do not depend on one another.

use anyhow::{Result, ensure};

use super::activations::{Activations, Purpose};
use super::decoder::{Attend, Pass};
use super::passes::Memory;
use super::{Batch, Decoder, ModelConfig, Packed};
use crate::ops::{AttentionShape, Backend, CacheShape, Cpu, Kind};

/// Tokens of prompts that are run together; a longer prompt is run alone.
const PREFILL: usize = 1024;

/// Keys and values of the sequences being generated, one slot each.
pub struct KvCache<B: Backend = Cpu> {
    /// One tensor a layer.
    layers: Vec<B::Tensor>,
    /// Tokens that a slot holds at most.
    capacity: usize,
    /// Tokens in each slot.
    lengths: Vec<usize>,
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
        let attention = AttentionShape::plain(model.config.heads());
        let shape = CacheShape { attention, capacity };
        let layers = (0..model.config.num_hidden_layers)
            .map(|_| model.backend.zeros(Kind::Activation, slots * shape.slot_len()))
            .collect();
        Self { layers, capacity, lengths: vec![0; slots] }
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

impl<B: Backend + Clone> Decoder<B> {
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
        for (i, &(slot, tokens)) in sequences.iter().enumerate() {
            cache.check(slot, tokens.len(), &self.config)?;
            ensure!(!tokens.is_empty(), "the prompt of slot {slot} is empty");
            ensure!(
                sequences[..i].iter().all(|(other, _)| *other != slot),
                "slot {slot} is named twice"
            );
        }
        let mut values = Vec::with_capacity(sequences.len() * self.config.vocab_size);
        let mut rest = sequences;
        while !rest.is_empty() {
            let mut tokens = 0;
            let fits = |(_, sequence): &&(usize, &[u32])| {
                tokens += sequence.len();
                tokens <= PREFILL
            };
            let (now, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            values.extend(self.prefill_together(cache, now)?);
            rest = later;
        }
        Ok(Logits { values, vocab: self.config.vocab_size })
    }

    /// One pass over some prompts laid end to end.
    fn prefill_together(
        &mut self,
        cache: &mut KvCache<B>,
        sequences: &[(usize, &[u32])],
    ) -> Result<Vec<f32>> {
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
        let (packed, slots) = (batch.pack(&self.backend), self.backend.index(&slots));
        let capacity = cache.capacity;
        let attend = Attend::Fill { caches: &mut cache.layers, slots: &slots, capacity };
        let values = self.logits(&packed, attend, batch.tokens.len())?;
        for &(slot, tokens) in sequences {
            cache.lengths[slot] = tokens.len();
        }
        Ok(values)
    }

    /// Appends one token to each of some slots and returns the logits after it.
    ///
    /// # Errors
    /// If a slot is empty, full or named twice, or an id is outside the vocabulary.
    pub fn decode(&mut self, cache: &mut KvCache<B>, tokens: &[(usize, u32)]) -> Result<Logits> {
        let (mut slots, mut positions) = (Vec::new(), Vec::new());
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
            slots.push(slot as u32);
            positions.push(cache.lengths[slot] as u32);
        }
        let longest = positions.iter().max().map_or(0, |&last| last as usize + 1);
        self.memory.reserve_angles(&self.backend, &self.config, longest);
        let ids: Vec<u32> = tokens.iter().map(|&(_, id)| id).collect();
        let packed = Packed::steps(&self.backend, &ids, &positions);
        let slots = self.backend.index(&slots);
        let capacity = cache.capacity;
        let attend = Attend::Step { caches: &mut cache.layers, slots: &slots, capacity };
        let values = self.logits(&packed, attend, tokens.len())?;
        for &(slot, _) in tokens {
            cache.lengths[slot] += 1;
        }
        Ok(Logits { values, vocab: self.config.vocab_size })
    }

    /// Logits of the rows of `packed` that count.
    fn logits(
        &mut self,
        packed: &Packed<B>,
        attend: Attend<'_, B>,
        rows: usize,
    ) -> Result<Vec<f32>> {
        if rows == 0 {
            return Ok(Vec::new());
        }
        // An adapter's products are not the ones whose rows do not depend on one another.
        ensure!(self.adapter.is_none(), "an adapter is merged into its model before it decodes");
        let (backend, config) = (&self.backend, &self.config);
        let Memory { angles, inference: held, .. } = &mut self.memory;
        let purpose = Purpose::Inference;
        let kept = Activations::reserve(held, backend, config, rows, purpose, [0; 4]);
        let pass = Pass {
            backend,
            config,
            weights: &self.weights,
            lanes: &[],
            angles: &angles.0,
            rows,
            rows_apart: true,
        };
        pass.forward(packed, kept, attend);
        let logits = pass.logits(packed, kept);
        self.backend.check()?;
        Ok(logits)
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
            counted_rows: all,
            targets: backend.index(&[]),
        }
    }
}
