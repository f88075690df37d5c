//! What a pass is given: a [`Batch`] as it is asked for, the batches of one or several runs laid end to
//! end ([`Joined`]), and those in a backend's memory ([`Packed`]). Where a backend makes recordings, small
//! training passes are filled up to counts that come again: with rows that make up a document of their
//! own, and with counted rows that are ignored. They add nothing to any gradient.

use std::ops::Range;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::ModelConfig;
use crate::ops::cross_entropy::IGNORED;
use crate::ops::{Backend, Kind};

/// N tokens laid end to end; attention stays inside each document. No padding tokens exist, and
/// rotary positions restart at each document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Token ids `[N]`.
    pub tokens: Vec<u32>,
    /// The token after each one `[N]`; −1: not counted.
    pub targets: Vec<i32>,
    /// Where each document starts, and N at the end.
    pub documents: Vec<u32>,
}

impl Batch {
    /// Checks ids, targets and documents against the config.
    pub(super) fn check(&self, config: &ModelConfig) -> Result<()> {
        let rows = self.tokens.len();
        ensure!(rows > 0, "the batch is empty");
        ensure!(self.targets.len() == rows, "{} targets for {rows} tokens", self.targets.len());
        for id in self
            .tokens
            .iter()
            .map(|&id| i64::from(id))
            .chain(self.targets.iter().map(|&id| i64::from(id)))
        {
            ensure!(
                (-1..config.vocab_size as i64).contains(&id),
                "token id {id} in a vocabulary of {}",
                config.vocab_size
            );
        }
        let ends = (self.documents.first(), self.documents.last());
        ensure!(
            ends == (Some(&0), Some(&(rows as u32))),
            "documents must go from 0 to {rows}, not {ends:?}"
        );
        for pair in self.documents.windows(2) {
            let len = i64::from(pair[1]) - i64::from(pair[0]);
            ensure!(
                (1..=config.max_position_embeddings as i64).contains(&len),
                "a document of {len} tokens where 1 to {} are possible",
                config.max_position_embeddings
            );
        }
        Ok(())
    }

    /// Length of the longest document.
    pub(super) fn longest(&self) -> usize {
        self.documents.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max().unwrap_or(0)
    }

    /// The losses of its counted rows, in order, at their places; 0 elsewhere.
    pub(super) fn spread(&self, losses: &[f32]) -> Vec<f32> {
        let mut losses = losses.iter().copied();
        let of = |target: &i32| if *target >= 0 { losses.next().unwrap_or(0.0) } else { 0.0 };
        self.targets.iter().map(of).collect()
    }
}

/// Most FLOPs of a layer, forward and back, at which launches bound a pass: 45 launches of some 5 µs
/// are so many on a card of 900 TFLOP/s.
const LAUNCH_BOUND: usize = 200_000_000_000;

/// To which counts training passes are filled up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Filling {
    /// The most rows that are filled up, and of whose passes recordings are made.
    pub most: usize,
}

impl Filling {
    /// No pass is filled up.
    pub const NONE: Self = Self { most: 0 };

    /// That of training passes of a model.
    pub fn of<B: Backend>(backend: &B, config: &ModelConfig) -> Self {
        if !backend.records() {
            return Self::NONE;
        }
        let (c, f) = (config.hidden_size, config.intermediate_size);
        let of_layer = c * (config.qkv_width() + config.query_width() + 3 * f);
        Self { most: LAUNCH_BOUND / (6 * of_layer) }
    }

    /// Whether a pass over so many rows is bound by its launches.
    pub fn fills(self, rows: usize) -> bool {
        rows <= self.most
    }

    /// A count up to which so many rows are filled: whole sixteenths of a power of two, 16 at least.
    pub fn count(self, rows: usize) -> usize {
        let step = (rows.next_power_of_two() / 16).max(16);
        if self.fills(rows) { rows.next_multiple_of(step) } else { rows }
    }

    /// The most rows that a pass over at most `rows` goes over.
    pub fn most(self, rows: usize) -> usize {
        rows.max(self.count(rows.min(self.most)))
    }
}

/// The rows of one or several batches, on the host.
#[derive(Debug, Default)]
pub(super) struct Joined {
    pub tokens: Vec<u32>,
    pub positions: Vec<u32>,
    pub documents: Vec<u32>,
    /// The rows that count, and their targets.
    pub counted: Vec<u32>,
    pub targets: Vec<u32>,
    /// Each batch's rows, and which of the counted rows are its own; those in the batch itself come
    /// first in both.
    pub parts: Vec<[Range<usize>; 2]>,
}

impl Joined {
    /// Batches laid end to end, each filled up by itself.
    pub fn of<'a>(
        batches: impl IntoIterator<Item = &'a Batch>,
        filling: Filling,
        ids: usize,
    ) -> Self {
        let mut all = Self { documents: vec![0], ..Self::default() };
        for batch in batches {
            all.add(batch, filling, ids);
        }
        all
    }

    fn add(&mut self, batch: &Batch, filling: Filling, ids: usize) {
        let (first, first_counted) = (self.tokens.len(), self.counted.len());
        self.tokens.extend(&batch.tokens);
        for pair in batch.documents.windows(2) {
            self.positions.extend(0..pair[1] - pair[0]);
            self.documents.push(first as u32 + pair[1]);
        }
        for (&target, row) in batch.targets.iter().zip(first as u32..) {
            if target >= 0 {
                self.counted.push(row);
                self.targets.push(target as u32);
            }
        }
        let rows = batch.tokens.len();
        if filling.fills(rows) {
            let more = filling.count(rows) - rows;
            // Different tokens, so that no block has to add many rows to one embedding.
            self.tokens.extend((0..more).map(|i| (i % ids) as u32));
            self.positions.resize(first + rows + more, 0);
            self.documents.push(self.tokens.len() as u32);
            let counted = self.counted.len() - first_counted;
            if counted > 0 {
                let more = filling.count(counted) - counted;
                self.counted.extend((0..more).map(|i| (first + i % rows) as u32));
                self.targets.resize(self.counted.len(), IGNORED);
            }
        }
        self.parts.push([first..self.tokens.len(), first_counted..self.counted.len()]);
    }

    /// Adds documents of no rows until there is a power of two of them.
    pub fn fill_documents(&mut self) {
        let (last, documents) = (self.tokens.len() as u32, self.documents.len() - 1);
        self.documents.resize(documents.next_power_of_two() + 1, last);
    }

    pub fn pack<B: Backend>(self, backend: &B) -> Packed<B> {
        Packed {
            tokens: backend.index(&self.tokens),
            positions: backend.index(&self.positions),
            documents: backend.index(&self.documents),
            counted: backend.index(&self.counted),
            counted_rows: self.counted.len(),
            targets: backend.index(&self.targets),
        }
    }
}

/// The rows of a pass in a backend's memory.
pub(super) struct Packed<B: Backend> {
    pub tokens: B::Index,
    pub positions: B::Index,
    pub documents: B::Index,
    /// The rows that count, and how many they are.
    pub counted: B::Index,
    pub counted_rows: usize,
    /// Their targets.
    pub targets: B::Index,
}

impl<B: Backend> Packed<B> {
    /// No rows yet, and room for so many.
    pub fn with_room(backend: &B, rows: usize) -> Self {
        Self {
            tokens: backend.index_with_room(rows),
            positions: backend.index_with_room(rows),
            // Filled up to a power of two, with one of rows that fill up.
            documents: backend.index_with_room((rows + 1).next_power_of_two() + 1),
            counted: backend.index_with_room(rows),
            counted_rows: 0,
            targets: backend.index_with_room(rows),
        }
    }

    /// Takes other rows.
    pub fn set(&mut self, backend: &B, rows: &Joined) {
        self.counted_rows = rows.counted.len();
        backend.set_index(&mut self.tokens, &rows.tokens);
        backend.set_index(&mut self.positions, &rows.positions);
        backend.set_index(&mut self.documents, &rows.documents);
        backend.set_index(&mut self.counted, &rows.counted);
        backend.set_index(&mut self.targets, &rows.targets);
    }
}

/// A number that a pass reads where it stands.
pub(super) fn scalar<B: Backend>(backend: &B, value: f32) -> B::Tensor {
    backend.tensor(Kind::Statistic, vec![value])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rows_that_fill_up_are_a_document_of_their_own_and_count_for_nothing() {
        let batch = |tokens: &[u32], targets: &[i32], documents: &[u32]| Batch {
            tokens: tokens.to_vec(),
            targets: targets.to_vec(),
            documents: documents.to_vec(),
        };
        let (a, b) = (batch(&[5, 6, 7], &[-1, 7, 8], &[0, 2, 3]), batch(&[9], &[-1], &[0, 1]));
        let plain = Joined::of([&a, &b], Filling::NONE, 10);
        assert_eq!((plain.tokens, plain.positions), (vec![5, 6, 7, 9], vec![0, 1, 0, 0]));
        assert_eq!((plain.documents, plain.counted), (vec![0, 2, 3, 4], vec![1, 2]));
        assert_eq!((plain.targets, plain.parts[1].clone()), (vec![7, 8], [3..4, 2..2]));

        let mut filled = Joined::of([&a, &b], Filling { most: 100 }, 10);
        assert_eq!(filled.documents, [0, 2, 3, 16, 17, 32]);
        assert_eq!(filled.parts, [[0..16, 0..16], [16..32, 16..16]]);
        assert_eq!(
            (&filled.counted[..5], &filled.targets[..2]),
            (&[1, 2, 0, 1, 2][..], &[7, 8][..])
        );
        assert!(filled.targets[2..].iter().all(|&target| target == IGNORED));
        assert!(filled.positions[3..16].iter().all(|&position| position == 0));
        filled.fill_documents();
        assert_eq!(filled.documents, [0, 2, 3, 16, 17, 32, 32, 32, 32]);
        assert_eq!(a.spread(&[0.5, 0.25, 0.0]), [0.0, 0.5, 0.25]);
    }

    proptest! {
        #[test]
        fn a_pass_is_filled_up_by_an_eighth_at_most_and_never_past_what_was_reserved(
            rows in 1_usize..20_000, more in 0_usize..20_000, most in 0_usize..20_000
        ) {
            let filling = Filling { most };
            let count = filling.count(rows);
            prop_assert!(count >= rows && count <= rows + (rows / 8).max(15));
            prop_assert!(count <= filling.most(rows + more));
        }
    }
}
