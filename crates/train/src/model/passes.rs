//! A pass over batches, forward and back: one run's alone, or those of several runs that train
//! adapters beside the same weights, their rows laid end to end. What a run gets does not depend on
//! the others, bit for bit.

use std::cell::RefCell;
use std::sync::Arc;

use anyhow::Result;

use super::activations::{Activations, Purpose, Recompute};
use super::adapter::{Trained, Widths};
use super::batch::{Batch, Filling, Joined, Packed, scalar};
use super::beside::Aside;
use super::decoder::{Apart, Attend, Pass};
use super::dora::Attached;
use super::projection::{Into, Lane, Moment, Onto};
use super::repeats::{Repeat, Repeats, Shape};
use super::stand::{Packing, Unpacking};
use super::weights::{Piece, Weights};
use super::{ModelConfig, Room};
use crate::ops::{Backend, Kind};

/// The memory of passes, taken for the largest batch seen.
pub(super) struct Memory<B: Backend> {
    /// Cosines and sines of each of the config's ropes for the positions met so far, and how many
    /// those are.
    pub angles: (Vec<B::Tensor>, usize),
    /// Of training passes, and of passes without a gradient.
    training: Option<Activations<B::Tensor>>,
    pub inference: Option<Activations<B::Tensor>>,
    /// Room beside a map, and for how many rows.
    aside: Option<(Aside<B::Tensor>, usize)>,
    /// A linear map that stands packed, for the time of its product.
    pub unpacked: Option<RefCell<B::Tensor>>,
    /// What each run's gradient is multiplied by `[1]`.
    scales: Vec<B::Tensor>,
    /// Training passes that may come again, in this memory.
    pub repeats: Repeats<B>,
}

impl<B: Backend> Default for Memory<B> {
    fn default() -> Self {
        Self {
            angles: (Vec::new(), 0),
            training: None,
            inference: None,
            aside: None,
            unpacked: None,
            scales: Vec::new(),
            repeats: Repeats::default(),
        }
    }
}

impl<B: Backend> Memory<B> {
    /// Sees to it that positions below `positions` have their angles.
    pub fn reserve_angles(&mut self, backend: &B, config: &ModelConfig, positions: usize) {
        if self.angles.1 < positions {
            self.repeats.clear();
            let positions = positions.next_power_of_two();
            let table = |rope: &super::rope::Rope| {
                backend.tensor(Kind::Statistic, rope.table(positions, config.head_dim))
            };
            self.angles = (config.ropes.iter().map(table).collect(), positions);
        }
    }

    /// Room for what stands beside a map for a moment in training passes over so many rows, where an
    /// adapter needs any.
    pub fn reserve_aside(
        &mut self,
        backend: &B,
        config: &ModelConfig,
        adapter: Option<&Attached<B::Tensor>>,
        rows: usize,
    ) {
        let Some(widths) = adapter.and_then(|attached| attached.widths_aside(config)) else {
            return;
        };
        if self.aside.as_ref().is_none_or(|(_, held)| *held < rows) {
            self.aside = None;
        }
        self.aside.get_or_insert_with(|| (Aside::new(backend, rows, widths), rows));
    }

    /// Room for the largest of the linear maps that stand packed.
    pub fn reserve_unpacked(&mut self, backend: &B, packing: Option<&Packing>) {
        if let Some(packing) = packing {
            let new = || RefCell::new(backend.zeros(Kind::Activation, packing.largest()));
            self.unpacked.get_or_insert_with(new);
        }
    }

    /// Takes all that passes of at most this room need.
    pub fn reserve_room(
        &mut self,
        backend: &B,
        config: &ModelConfig,
        (room, recompute): (Room, Recompute),
        adapter: Option<&Attached<B::Tensor>>,
        packing: Option<&Packing>,
    ) {
        let widths = adapter.map(|attached| attached.layout.widths()).unwrap_or_default();
        if room.inference > 0 {
            self.reserve(backend, config, (room.inference, Purpose::Inference), widths);
        }
        let rows = Filling::of(backend, config).most(room.training);
        self.reserve(backend, config, (rows, Purpose::Training(recompute)), widths);
        self.reserve_angles(backend, config, room.longest);
        self.reserve_unpacked(backend, packing);
        self.reserve_aside(backend, config, adapter, rows);
    }

    /// Sees to it that there is room for passes over so many rows.
    pub fn reserve(
        &mut self,
        backend: &B,
        config: &ModelConfig,
        (rows, purpose): (usize, Purpose),
        widths: Widths,
    ) {
        let held = match purpose {
            Purpose::Inference => &mut self.inference,
            Purpose::Training(_) => &mut self.training,
        };
        if !Activations::fit(held, rows, purpose) && purpose != Purpose::Inference {
            self.repeats.clear();
        }
        Activations::reserve(held, backend, config, rows, purpose, widths);
    }
}

/// The weights of a pass, and where and how it is done.
pub(super) struct Ground<'a, B: Backend> {
    pub backend: &'a B,
    pub config: &'a ModelConfig,
    pub weights: &'a mut Arc<Weights<B::Tensor>>,
    pub packing: Option<&'a Packing>,
    pub recompute: Recompute,
}

/// A run's part of a pass: a checked batch and, in training, where its gradient goes.
pub(super) struct Run<'a, T> {
    pub batch: &'a Batch,
    pub adapter: Option<&'a Attached<T>>,
    pub into: Option<Into<'a, T>>,
    pub moment: Moment,
}

/// Takes a piece's gradients, out of all weights and gradients.
pub(super) type TakePiece<'a, T> = dyn FnMut(Piece, &mut Weights<T>, &mut Trained<T>) + 'a;

/// What is done between the pieces of the way back.
pub(super) struct Between<'a, T> {
    /// Whether weights move, for which every loss has to be a number.
    pub moves_weights: bool,
    /// Is called when a piece's gradients are complete, with all weights and gradients.
    pub take: &'a mut TakePiece<'a, T>,
}

/// What stays the same through a pass between whose layers the weights may change.
struct Over<'a, B: Backend> {
    backend: &'a B,
    config: &'a ModelConfig,
    lanes: &'a [Lane<'a, B::Tensor>],
    aside: Option<&'a Aside<B::Tensor>>,
    unpacking: Option<Unpacking<'a, B::Tensor>>,
    angles: &'a [B::Tensor],
    rows: usize,
}

impl<B: Backend> Over<'_, B> {
    fn pass<'a>(&'a self, weights: &'a Weights<B::Tensor>) -> Pass<'a, B> {
        let Over { backend, config, lanes, aside, unpacking, angles, rows } = *self;
        let apart = Apart::No;
        Pass { backend, config, weights, lanes, aside, unpacking, angles, rows, apart }
    }
}

impl<B: Backend> Over<'_, B> {
    /// From the rows to the losses of those that count and the gradient of the last stream.
    fn forward(
        &self,
        weights: &Weights<B::Tensor>,
        packed: &Packed<B>,
        kept: &mut Activations<B::Tensor>,
        gradients: &mut [Onto<'_, B::Tensor>],
    ) {
        self.pass(weights).forward(packed, kept, Attend::Documents);
        self.pass(weights).losses(packed, kept, gradients);
    }

    /// One piece of the way back.
    fn backward(
        &self,
        (piece, recompute): (Piece, Recompute),
        weights: &Weights<B::Tensor>,
        packed: &Packed<B>,
        kept: &mut Activations<B::Tensor>,
        gradients: &mut [Onto<'_, B::Tensor>],
    ) {
        let pass = self.pass(weights);
        match piece {
            Piece::Head => (),
            Piece::Layer(l) => pass.layer_backward(l, packed, kept, gradients, recompute),
            Piece::Embedding => pass.embedding_backward(packed, kept, gradients),
        }
    }

    /// What an adapter that goes beside parts of a map leaves of the gradients.
    fn clear_outside(&self, gradients: &mut [Onto<'_, B::Tensor>]) {
        for ((_, gradients), lane) in gradients.iter_mut().zip(self.lanes) {
            if let (Some(attached), Trained::Adapter(tensors)) = (lane.adapter, gradients) {
                attached.layout.clear_outside(self.backend, tensors);
            }
        }
    }
}

impl<B: Backend> Ground<'_, B> {
    /// The losses of each run's tokens, 0 where masked; every run has a gradient to add to, or none
    /// has. Weights that are trained are one run's alone. Where weights move `between`, nothing goes back
    /// if a loss is no number.
    ///
    /// A small training pass of one run whose gradients are taken whole, without dropout, is recorded, where
    /// the backend does that, and run again when its shape comes again. What it yields is the same, bit for bit:
    /// what it is filled up to depends on each run's batch alone.
    pub fn pass(
        &mut self,
        memory: &mut Memory<B>,
        runs: Vec<Run<'_, B::Tensor>>,
        between: Option<Between<'_, B::Tensor>>,
    ) -> Result<Vec<Vec<f32>>> {
        let (backend, config) = (self.backend, self.config);
        let batches: Vec<&Batch> = runs.iter().map(|run| run.batch).collect();
        let is_training = runs.iter().any(|run| run.into.is_some());
        let filling = if is_training { Filling::of(backend, config) } else { Filling::NONE };
        let joined = Joined::of(batches.iter().copied(), filling, config.vocab_size);
        let longest = batches.iter().map(|batch| batch.longest()).max().unwrap_or(0);
        memory.reserve_angles(backend, config, longest);
        let adapter = runs.iter().find_map(|run| run.adapter);
        let drops = is_training && adapter.is_some_and(|one| one.layout.lora.dropout > 0.0);
        let repeats = match &runs[..] {
            // Masks are other ones in each pass.
            [run] => filling.fills(run.batch.tokens.len()) && !joined.counted.is_empty() && !drops,
            _ => false,
        };
        let widths = adapter.map_or(Widths::default(), |attached| attached.layout.widths());
        let rows = joined.tokens.len();
        let purpose =
            if is_training { Purpose::Training(self.recompute) } else { Purpose::Inference };
        memory.reserve(backend, config, (rows, purpose), widths);
        if is_training {
            memory.reserve_aside(backend, config, adapter, rows);
        }
        memory.reserve_unpacked(backend, self.packing);
        let Memory {
            angles: (angles, _),
            training,
            inference,
            aside,
            unpacked,
            scales,
            repeats: held,
        } = memory;
        let unpacking = self.packing.zip(unpacked.as_ref());
        let aside = aside.as_ref().map(|(aside, _)| aside);
        let kept = if is_training { training } else { inference };
        let kept = kept.as_mut().expect("it was reserved");

        let (mut lanes, mut into) = (Vec::new(), Vec::new());
        for (run, [rows, counted]) in runs.into_iter().zip(&joined.parts) {
            let (rows, counted) = (rows.clone(), counted.clone());
            let moment = run.into.is_some().then_some(run.moment);
            lanes.push(Lane { rows, counted, adapter: run.adapter, moment });
            into.extend(run.into);
        }
        let (counted, lanes) = (joined.counted.len(), &lanes[..]);
        let on = Over { backend, config, lanes, aside, unpacking, angles, rows };
        match &mut into[..] {
            [into] if repeats && between.is_none() => self.again(&on, kept, held, joined, into),
            _ => self.once(&on, (kept, scales), joined, &mut into, between),
        }
        let losses = backend.values(&kept.head.losses, counted);
        backend.check()?;
        let of_run =
            |(batch, lane): (&&Batch, &Lane<'_, _>)| batch.spread(&losses[lane.counted.clone()]);
        Ok(batches.iter().zip(lanes).map(of_run).collect())
    }

    /// A pass by itself.
    fn once(
        &mut self,
        on: &Over<'_, B>,
        (kept, scales): (&mut Activations<B::Tensor>, &mut Vec<B::Tensor>),
        joined: Joined,
        into: &mut [Into<'_, B::Tensor>],
        mut between: Option<Between<'_, B::Tensor>>,
    ) {
        let (backend, packed) = (self.backend, joined.pack(self.backend));
        for (i, (scale, _)) in into.iter().enumerate() {
            match scales.get_mut(i) {
                Some(held) => backend.write(held, &[*scale]),
                None => scales.push(scalar(backend, *scale)),
            }
        }
        let mut onto: Vec<Onto<'_, _>> =
            scales.iter().zip(into).map(|(scale, (_, own))| (scale, &mut **own)).collect();
        on.forward(self.weights, &packed, kept, &mut onto);
        if between.as_ref().is_some_and(|between| between.moves_weights) {
            let losses = backend.values(&kept.head.losses, packed.counted_rows);
            if !losses.iter().all(|loss| loss.is_finite()) {
                return;
            }
        }
        if packed.counted_rows == 0 || onto.is_empty() {
            return;
        }
        for piece in Piece::of_layers(self.weights.layers.len()) {
            on.backward((piece, self.recompute), self.weights, &packed, kept, &mut onto);
            if let (Some(between), [(_, own)]) = (&mut between, &mut onto[..]) {
                let weights = Arc::get_mut(self.weights).expect("shared weights are not trained");
                (between.take)(piece, weights, own);
            }
        }
        on.clear_outside(&mut onto);
    }

    /// A training pass of one run, by its recording where there is one.
    fn again(
        &mut self,
        on: &Over<'_, B>,
        kept: &mut Activations<B::Tensor>,
        held: &mut Repeats<B>,
        mut joined: Joined,
        (scale, gradients): &mut Into<'_, B::Tensor>,
    ) {
        let (backend, weights, recompute) = (self.backend, &*self.weights, self.recompute);
        let adapters = on.lanes.iter().filter_map(|lane| lane.adapter);
        let tensors = weights.all().into_iter().chain(gradients.all());
        let tensors = tensors.chain(adapters.flat_map(Attached::all_read));
        let places = tensors.map(|tensor| backend.place(tensor)).collect();
        joined.fill_documents();
        let shape = Shape::new(&joined, recompute, places);
        let room = kept.rows();
        let Repeat { packed, scale, recorded } = held.get(backend, room, shape, (&joined, *scale));
        backend.recorded(recorded, &mut || {
            let mut onto = [(scale, &mut **gradients)];
            on.forward(weights, packed, kept, &mut onto);
            for piece in Piece::of_layers(weights.layers.len()) {
                on.backward((piece, recompute), weights, packed, kept, &mut onto);
            }
            on.clear_outside(&mut onto);
        });
    }
}
