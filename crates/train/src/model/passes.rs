//! A pass over batches, forward and back: one run's alone, or those of several runs that train
//! adapters beside the same weights, their rows laid end to end. What a run gets does not depend on
//! the others, bit for bit.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;

use super::activations::{Activations, Purpose, Recompute};
use super::adapter::Trained;
use super::decoder::{Apart, Attend, Pass};
use super::projection::{Into, Lane, Moment};
use super::weights::{Piece, Weights};
use super::{Attached, Batch, ModelConfig, Packed};
use crate::ops::{Backend, Kind};

/// The memory of passes, taken for the largest batch seen.
pub(super) struct Memory<T> {
    /// Cosines and sines of each of the config's ropes for the positions met so far, and how many
    /// those are.
    pub angles: (Vec<T>, usize),
    /// Of training passes, and of passes without a gradient.
    pub training: Option<Activations<T>>,
    pub inference: Option<Activations<T>>,
    /// What an adapter reads, once some of it is dropped, and for how many values there is room.
    pub dropped: Option<(RefCell<T>, usize)>,
}

impl<T> Default for Memory<T> {
    fn default() -> Self {
        Self { angles: (Vec::new(), 0), training: None, inference: None, dropped: None }
    }
}

impl<T> Memory<T> {
    /// Sees to it that positions below `positions` have their angles.
    pub fn reserve_angles<B: Backend<Tensor = T>>(
        &mut self,
        backend: &B,
        config: &ModelConfig,
        positions: usize,
    ) {
        if self.angles.1 < positions {
            let positions = positions.next_power_of_two();
            let table = |rope: &super::rope::Rope| {
                backend.tensor(Kind::Statistic, rope.table(positions, config.head_dim))
            };
            self.angles = (config.ropes.iter().map(table).collect(), positions);
        }
    }

    /// Room for `len` values of what an adapter reads.
    pub fn reserve_dropped<'a, B: Backend<Tensor = T>>(
        dropped: &'a mut Option<(RefCell<T>, usize)>,
        backend: &B,
        len: usize,
    ) -> &'a RefCell<T> {
        if dropped.as_ref().is_none_or(|(_, held)| *held < len) {
            *dropped = None;
        }
        let new = || (RefCell::new(backend.zeros(Kind::Activation, len)), len);
        &dropped.get_or_insert_with(new).0
    }
}

/// The weights of a pass, and where and how it is done.
pub(super) struct Ground<'a, B: Backend> {
    pub backend: &'a B,
    pub config: &'a ModelConfig,
    pub weights: &'a mut Arc<Weights<B::Tensor>>,
    pub recompute: Recompute,
}

/// A run's part of a pass: a checked batch and, in training, where its gradient goes.
pub(super) struct Run<'a, T> {
    pub batch: &'a Batch,
    pub adapter: Option<&'a Attached<T>>,
    pub into: Option<Into<'a, T>>,
    pub moment: Moment,
}

/// What is done when a piece's gradients are complete, to its weights and those.
pub(super) type Between<'a, T> = dyn FnMut(Piece, &mut Weights<T>, &mut Trained<T>) + 'a;

/// What stays the same through a pass between whose layers the weights may change.
struct Over<'a, B: Backend> {
    backend: &'a B,
    config: &'a ModelConfig,
    lanes: &'a [Lane<'a, B::Tensor>],
    dropped: Option<&'a RefCell<B::Tensor>>,
    angles: &'a [B::Tensor],
    rows: usize,
}

impl<B: Backend> Over<'_, B> {
    fn pass<'a>(&'a self, weights: &'a Weights<B::Tensor>) -> Pass<'a, B> {
        let Over { backend, config, lanes, dropped, angles, rows } = *self;
        Pass { backend, config, weights, lanes, dropped, angles, rows, apart: Apart::No }
    }
}

impl<B: Backend> Ground<'_, B> {
    /// The losses of each run's tokens, 0 where masked; every run has a gradient to add to, or none
    /// has. Weights that are trained are one run's alone. With `between`, nothing goes back if a loss
    /// is no number.
    pub fn pass(
        &mut self,
        memory: &mut Memory<B::Tensor>,
        runs: Vec<Run<'_, B::Tensor>>,
        mut between: Option<&mut Between<'_, B::Tensor>>,
    ) -> Result<Vec<Vec<f32>>> {
        let Ground { backend, config, weights, recompute } = self;
        let batches: Vec<&Batch> = runs.iter().map(|run| run.batch).collect();
        let joined = Batch::join(&batches);
        memory.reserve_angles(*backend, config, joined.longest());
        let (packed, rows) = (joined.pack(*backend), joined.tokens.len());
        let adapter = runs.iter().find_map(|run| run.adapter);
        let ranks = adapter.map_or([0; 4], |attached| attached.layout.ranks());
        let (mut lanes, mut gradients, mut first) = (Vec::new(), Vec::new(), 0);
        for Run { batch, adapter, into, moment } in runs {
            let rows = first..first + batch.tokens.len();
            let (counted, moment) = (packed.counted_of(&rows), into.is_some().then_some(moment));
            lanes.push(Lane { rows, counted, adapter, moment });
            gradients.extend(into);
            first += batch.tokens.len();
        }
        let (held, purpose) = match gradients.is_empty() {
            true => (&mut memory.inference, Purpose::Inference),
            false => (&mut memory.training, Purpose::Training(*recompute)),
        };
        let kept = Activations::reserve(held, *backend, config, rows, purpose, ranks);
        let (lanes, angles) = (&lanes[..], &memory.angles.0[..]);
        let drops =
            adapter.is_some_and(|one| one.layout.lora.dropout > 0.0) && !gradients.is_empty();
        let room = rows * config.widest();
        let dropped = drops.then(|| Memory::reserve_dropped(&mut memory.dropped, *backend, room));
        let on = Over { backend: *backend, config, lanes, dropped, angles, rows };
        on.pass(weights).forward(&packed, kept, Attend::Documents);
        on.pass(weights).losses(&packed, kept, &mut gradients);
        let counted = packed.counted_rows.len();
        let spread = |losses: &[f32]| {
            lanes.iter().map(|lane| lane.spread(losses, &packed.counted_rows)).collect()
        };
        if between.is_some() {
            let losses = backend.values(&kept.head.losses, counted);
            if !losses.iter().all(|loss| loss.is_finite()) {
                backend.check()?;
                return Ok(spread(&losses));
            }
        }
        let is_back = counted > 0 && !gradients.is_empty();
        for piece in Piece::of_layers(weights.layers.len()).filter(|_| is_back) {
            match piece {
                Piece::Head => (),
                Piece::Layer(l) => {
                    on.pass(weights).layer_backward(l, &packed, kept, &mut gradients, *recompute)
                }
                Piece::Embedding => {
                    on.pass(weights).embedding_backward(&packed, kept, &mut gradients)
                }
            }
            if let (Some(between), [(_, own)]) = (&mut between, &mut gradients[..]) {
                let weights = Arc::get_mut(weights).expect("shared weights are not trained");
                between(piece, weights, own);
            }
        }
        for ((_, gradients), lane) in gradients.iter_mut().zip(lanes) {
            if let (Some(attached), Trained::Adapter(tensors)) = (lane.adapter, gradients) {
                attached.layout.clear_outside(*backend, tensors);
            }
        }
        let losses = backend.values(&kept.head.losses, counted);
        backend.check()?;
        Ok(spread(&losses))
    }
}

impl<T> Lane<'_, T> {
    /// The losses of its counted rows at their places, 0 elsewhere.
    fn spread(&self, losses: &[f32], counted_rows: &[u32]) -> Vec<f32> {
        let mut all = vec![0.0; self.rows.len()];
        for i in self.counted.clone() {
            all[counted_rows[i] as usize - self.rows.start] = losses[i];
        }
        all
    }
}

impl Batch {
    /// Several batches laid end to end.
    fn join(batches: &[&Batch]) -> Batch {
        let mut joined = Batch { documents: vec![0], ..Batch::default() };
        for batch in batches {
            let first = joined.tokens.len() as u32;
            joined.tokens.extend(&batch.tokens);
            joined.targets.extend(&batch.targets);
            joined.documents.extend(batch.documents.iter().skip(1).map(|end| first + end));
        }
        joined
    }
}

impl<B: Backend> Packed<B> {
    /// Which of the counted rows are among these rows.
    fn counted_of(&self, rows: &Range<usize>) -> Range<usize> {
        let before = |end: usize| self.counted_rows.partition_point(|&row| (row as usize) < end);
        before(rows.start)..before(rows.end)
    }
}
