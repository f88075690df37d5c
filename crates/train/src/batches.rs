//! Which documents each optimiser step sees: the order of an epoch, packing, micro-batches.
//!
//! Everything is a function of the lengths, the training seed and the step, so a resumed run goes on
//! where it stopped, in the middle of an epoch too.

use std::collections::BTreeSet;

use rand_chacha::{
    ChaCha12Rng,
    rand_core::{Rng, SeedableRng},
};

use crate::config::Recipe;

/// Tokens a micro-batch holds where `gradient_accumulation` is not set: enough to fill the cores,
/// small enough for memory.
pub const MICRO_BATCH_TOKENS: usize = 8192;

/// The steps of a run.
pub struct Plan {
    lengths: Vec<usize>,
    batch_size: usize,
    capacity: Option<usize>,
    accumulation: Option<usize>,
    shuffle: bool,
    seed: u64,
    /// Sequences of an epoch.
    sequences: usize,
    /// The epoch in use and its sequences.
    current: Option<(u64, Vec<Vec<usize>>)>,
}

impl Plan {
    /// Plans epochs over documents of these lengths, each at most `sequence_length`.
    pub fn new(lengths: Vec<usize>, sequence_length: usize, recipe: &Recipe) -> Self {
        let capacity = recipe.packing.then_some(sequence_length);
        // Best fit on the same lengths gives as many sequences in every epoch.
        let sequences = match capacity {
            Some(capacity) => pack(&lengths, (0..lengths.len()).collect(), capacity).len(),
            None => lengths.len(),
        };
        Self {
            batch_size: recipe.batch_size,
            capacity,
            accumulation: recipe.gradient_accumulation,
            shuffle: recipe.shuffle,
            seed: recipe.seed,
            sequences,
            current: None,
            lengths,
        }
    }

    /// Optimiser steps of one pass over the data; the last may have fewer sequences.
    pub fn steps_per_epoch(&self) -> u64 {
        self.sequences.div_ceil(self.batch_size) as u64
    }

    /// Sequences of one pass over the data.
    pub fn sequences(&self) -> usize {
        self.sequences
    }

    /// Micro-batches of a step, counted from 0: lists of documents, to be run one after the other.
    pub fn step(&mut self, step: u64) -> Vec<Vec<usize>> {
        self.shares(step, 1).concat()
    }

    /// The same for each of several ranks: the batch's sequences are shared out in order, about as many tokens for
    /// each, and a rank runs its own in micro-batches.
    pub fn shares(&mut self, step: u64, ranks: usize) -> Vec<Vec<Vec<usize>>> {
        let per_epoch = self.steps_per_epoch();
        let (epoch, place) = (step / per_epoch, (step % per_epoch) as usize);
        if self.current.as_ref().is_none_or(|(current, _)| *current != epoch) {
            self.current = Some((epoch, self.epoch(epoch)));
        }
        let sequences = self.current.as_ref().map_or(&[][..], |(_, sequences)| sequences);
        let start = place * self.batch_size;
        let batch = &sequences[start..sequences.len().min(start + self.batch_size)];
        let micro_batches = |share: &[Vec<usize>]| match self.accumulation {
            _ if share.is_empty() => Vec::new(),
            Some(parts) => {
                let parts = parts.div_ceil(ranks);
                share.chunks(share.len().div_ceil(parts)).map(<[_]>::concat).collect()
            }
            None => micro_batches(share, &self.lengths),
        };
        share_out(batch, &self.lengths, ranks).into_iter().map(micro_batches).collect()
    }

    /// Sequences of an epoch in training order.
    fn epoch(&self, epoch: u64) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..self.lengths.len()).collect();
        if self.shuffle {
            shuffle(&mut order, self.seed, "documents", epoch);
        }
        let Some(capacity) = self.capacity else {
            return order.into_iter().map(|index| vec![index]).collect();
        };
        let mut sequences = pack(&self.lengths, order, capacity);
        if self.shuffle {
            shuffle(&mut sequences, self.seed, "sequences", epoch);
        }
        sequences
    }
}

/// Cuts a list of sequences into one run for each rank, each sequence going where its middle token falls.
pub fn share_out<'a>(
    sequences: &'a [Vec<usize>],
    lengths: &[usize],
    ranks: usize,
) -> Vec<&'a [Vec<usize>]> {
    let tokens =
        |sequence: &Vec<usize>| sequence.iter().map(|&index| lengths[index]).sum::<usize>();
    let total = sequences.iter().map(tokens).sum::<usize>().max(1);
    let (mut before, mut rest) = (0, sequences);
    let mut shares = Vec::with_capacity(ranks);
    for rank in 0..ranks {
        let mut taken = 0;
        while let Some(sequence) = rest.get(taken) {
            let length = tokens(sequence);
            if (2 * before + length) * ranks >= 2 * (rank + 1) * total {
                break;
            }
            before += length;
            taken += 1;
        }
        // The last takes what is left: the middle of the last sequence lies before the end.
        let (share, after) = rest.split_at(if rank + 1 == ranks { rest.len() } else { taken });
        shares.push(share);
        rest = after;
    }
    shares
}

/// Joins sequences, in order, while they stay within [`MICRO_BATCH_TOKENS`].
pub fn micro_batches(sequences: &[Vec<usize>], lengths: &[usize]) -> Vec<Vec<usize>> {
    let mut parts: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for sequence in sequences {
        let tokens: usize = sequence.iter().map(|&index| lengths[index]).sum();
        match parts.last_mut() {
            Some(part) if tokens <= room => {
                part.extend(sequence);
                room -= tokens;
            }
            _ => {
                parts.push(sequence.clone());
                room = MICRO_BATCH_TOKENS.saturating_sub(tokens);
            }
        }
    }
    parts
}

/// Best-fit decreasing: the longest document first, each into the fullest sequence it still fits. Sequences
/// come out in the order of their earliest document, and hold documents in that order.
fn pack(lengths: &[usize], order: Vec<usize>, capacity: usize) -> Vec<Vec<usize>> {
    let mut places: Vec<usize> = (0..order.len()).collect();
    places.sort_by_key(|&place| std::cmp::Reverse(lengths[order[place]]));
    let mut sequences: Vec<Vec<usize>> = Vec::new();
    let mut open: BTreeSet<(usize, usize)> = BTreeSet::new();
    for place in places {
        let length = lengths[order[place]];
        let fit = open.range((length, 0)..).next().copied();
        let (room, sequence) = match fit {
            Some(entry) => {
                open.remove(&entry);
                entry
            }
            None => {
                sequences.push(Vec::new());
                (capacity, sequences.len() - 1)
            }
        };
        sequences[sequence].push(place);
        if room > length {
            open.insert((room - length, sequence));
        }
    }
    for sequence in &mut sequences {
        sequence.sort_unstable();
    }
    sequences.sort_unstable();
    sequences
        .into_iter()
        .map(|sequence| sequence.into_iter().map(|place| order[place]).collect())
        .collect()
}

/// Fisher-Yates by ChaCha12, keyed by blake3 of seed, purpose and epoch.
fn shuffle<T>(items: &mut [T], seed: u64, purpose: &str, epoch: u64) {
    let key = artifact::hash::draw_key(seed, purpose, &epoch.to_string());
    let mut rng = ChaCha12Rng::from_seed(key);
    for index in (1..items.len()).rev() {
        items.swap(index, below(&mut rng, index as u64 + 1) as usize);
    }
}

/// A number below `bound` without bias (Lemire, arXiv 1805.10941).
fn below(rng: &mut ChaCha12Rng, bound: u64) -> u64 {
    let biased = bound.wrapping_neg() % bound;
    loop {
        let product = u128::from(rng.next_u64()) * u128::from(bound);
        if product as u64 >= biased {
            return (product >> 64) as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TrainConfig;
    use proptest::prelude::*;

    fn recipe(config: TrainConfig) -> Recipe {
        config.resolve().unwrap()
    }

    fn documents(parts: Vec<Vec<usize>>) -> Vec<usize> {
        parts.concat()
    }

    #[test]
    fn every_epoch_holds_every_document_once_in_another_order() {
        let config = TrainConfig { batch_size: Some(4), ..TrainConfig::default() };
        let mut plan = Plan::new(vec![3; 10], 8, &recipe(config));
        assert_eq!(plan.steps_per_epoch(), 3);
        let mut epoch = |epoch: u64| {
            (0..3).flat_map(|step| documents(plan.step(epoch * 3 + step))).collect::<Vec<_>>()
        };
        let (first, second) = (epoch(0), epoch(1));
        assert_ne!(first, second);
        for mut order in [first, second] {
            order.sort_unstable();
            assert_eq!(order, (0..10).collect::<Vec<_>>());
        }
    }

    #[test]
    fn without_shuffling_the_mixtures_order_stands() {
        let config =
            TrainConfig { batch_size: Some(4), shuffle: Some(false), ..TrainConfig::default() };
        let mut plan = Plan::new(vec![3; 6], 8, &recipe(config));
        assert_eq!(documents(plan.step(0)), [0, 1, 2, 3]);
        assert_eq!(documents(plan.step(1)), [4, 5]);
        assert_eq!(documents(plan.step(2)), [0, 1, 2, 3]);
    }

    #[test]
    fn a_step_is_the_same_wherever_one_starts() {
        let config =
            || TrainConfig { batch_size: Some(2), packing: Some(true), ..TrainConfig::default() };
        let lengths: Vec<usize> = (1..40).collect();
        let mut whole = Plan::new(lengths.clone(), 64, &recipe(config()));
        let steps: Vec<_> = (0..30).map(|step| whole.step(step)).collect();
        let mut resumed = Plan::new(lengths, 64, &recipe(config()));
        assert_eq!(resumed.step(17), steps[17]);
    }

    #[test]
    fn accumulation_splits_a_batch_and_loses_nothing() {
        let config = |parts| TrainConfig {
            batch_size: Some(7),
            gradient_accumulation: parts,
            ..TrainConfig::default()
        };
        let whole = Plan::new(vec![5; 20], 8, &recipe(config(Some(1)))).step(0);
        let split = Plan::new(vec![5; 20], 8, &recipe(config(Some(3)))).step(0);
        assert_eq!(split.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 1]);
        assert_eq!(documents(whole), documents(split));
    }

    #[test]
    fn ranks_get_runs_of_a_batch_with_about_as_many_tokens_each() {
        let sequences: Vec<Vec<usize>> = (0..6).map(|index| vec![index]).collect();
        let share = |lengths: &[usize], ranks| -> Vec<Vec<usize>> {
            let shares = share_out(&sequences[..lengths.len()], lengths, ranks);
            shares.into_iter().map(<[_]>::concat).collect()
        };
        assert_eq!(share(&[5; 6], 3), [[0, 1], [2, 3], [4, 5]]);
        assert_eq!(share(&[10, 1, 1, 4, 2, 2], 2), [vec![0], vec![1, 2, 3, 4, 5]]);
        assert_eq!(share(&[7], 2), [vec![], vec![0]]);
        assert_eq!(share(&[5; 6], 1), [[0, 1, 2, 3, 4, 5]]);
    }

    #[test]
    fn several_ranks_run_the_batch_of_one() {
        for accumulation in [None, Some(4)] {
            let config = TrainConfig {
                batch_size: Some(7),
                gradient_accumulation: accumulation,
                ..TrainConfig::default()
            };
            let mut plan = Plan::new((1..30).collect(), 64, &recipe(config));
            for step in 0..6 {
                let shares = plan.shares(step, 3);
                assert_eq!(documents(shares.concat()), documents(plan.step(step)));
                let most = accumulation.map_or(1, |parts: usize| parts.div_ceil(3));
                assert!(shares.iter().all(|parts| parts.len() <= most));
            }
        }
    }

    #[test]
    fn micro_batches_stay_within_their_tokens() {
        let lengths = [5000, 3000, 192, 9000, 1];
        let sequences: Vec<Vec<usize>> = (0..5).map(|index| vec![index]).collect();
        assert_eq!(micro_batches(&sequences, &lengths), [vec![0, 1, 2], vec![3], vec![4]]);
    }

    #[test]
    fn best_fit_fills_gaps_exactly() {
        let lengths = [6, 4, 5, 5, 9, 1];
        let sequences = pack(&lengths, (0..6).collect(), 10);
        assert_eq!(sequences, [vec![0, 1], vec![2, 3], vec![4, 5]]);
    }

    proptest! {
        #[test]
        fn packing_holds_each_document_once_and_never_overfills(
            lengths in proptest::collection::vec(1usize..=32, 1..80),
        ) {
            let sequences = pack(&lengths, (0..lengths.len()).collect(), 32);
            let mut all = sequences.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
            // Whatever fits an open sequence goes there, so no two sequences could be one.
            let filled = |sequence: &[usize]| sequence.iter().map(|&index| lengths[index]).sum::<usize>();
            for (index, one) in sequences.iter().enumerate() {
                prop_assert!(filled(one) <= 32);
                prop_assert!(sequences[index + 1..].iter().all(|other| filled(one) + filled(other) > 32));
            }
        }
    }
}
