//! Passes over a batch for training: losses, and the gradient of their sum. Each piece of the
//! gradient can be taken as soon as it is complete, so that one layer's stands at a time (LOMO, Lv et
//! al. 2023, arXiv 2306.09782).

use anyhow::{Result, bail, ensure};

use super::activations::Recompute;
use super::adapter::{Layout, Lora, Trained};
use super::batch::Filling;
use super::passes::{Between, Ground, Run};
use super::projection::{Into, Moment};
use super::weights::{Piece, Spec, Weights};
use super::{Attached, Base, Batch, Decoder, Gradients, Stand};
use crate::ops::{Backend, Kind};

/// What takes a piece's gradients when they are complete: its weights, which it may change, and
/// their gradients, which are cleared afterwards.
pub type Take<'a, T> = dyn FnMut(Piece, Vec<&mut T>, &[&mut T]) + 'a;

/// What takes a piece's gradients out of those of the whole model when no pass adds to them any more.
pub type Done<'a, T> = dyn FnMut(Piece, Vec<&mut T>) + 'a;

/// The most tokens of passes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// Of a training pass.
    pub training: usize,
    /// Of a pass without a gradient.
    pub inference: usize,
    /// Of a document.
    pub longest: usize,
}

impl<B: Backend + Clone> Decoder<B> {
    /// A decoder of zeros: for its memory alone.
    #[must_use]
    pub fn zeros_as(
        backend: B,
        stand: impl std::convert::Into<Stand>,
        config: super::ModelConfig,
    ) -> Self {
        let stand = stand.into();
        let zeros = |backend: &B, spec: &Spec| Ok(stand.zeros(backend, spec));
        Self::build(backend, config, stand, zeros).expect("zeros cannot fail")
    }

    /// Puts an adapter of zeros beside the weights: for its memory alone.
    pub fn attach_zeros(&mut self, lora: Lora) {
        let layout = Layout::new(lora, &self.specs);
        let zeros = |spec: &Spec| self.backend.zeros(Kind::Weight, spec.elements());
        let tensors = layout.specs().map(zeros);
        let attached = Attached::new(&self.backend, layout, tensors, Base::default());
        self.adapter = Some(attached);
    }

    /// The most rows of a training pass that is filled up, and recorded where its shape comes again.
    #[must_use]
    pub fn filled_rows(&self) -> usize {
        Filling::of(&self.backend, &self.config).most
    }

    /// What training passes make again in place of keeping it; no bit of a result depends on it.
    pub fn set_recompute(&mut self, recompute: Recompute) {
        self.recompute = recompute;
    }

    /// Takes the memory that passes need, so that no later pass within it takes any.
    pub fn reserve(&mut self, room: Room) {
        let Self { backend, config, memory, adapter, packing, recompute, seat, .. } = self;
        let adapter = adapter.as_ref();
        let (room, packing) = ((room, *recompute), packing.as_deref());
        match seat {
            // Passes are done in memory that all runs share.
            Some(seat) => seat.with_memory(|memory| {
                memory.reserve_room(backend, config, room, adapter, packing);
            }),
            None => memory.reserve_room(backend, config, room, adapter, packing),
        }
    }

    /// Says that the training passes from here on are those of a step, from one of its rows on, on which
    /// dropout depends.
    pub fn begin_step(&mut self, seed: u64, step: u64, row: u64) {
        self.moment = Moment { seed, step: step as u32, row };
    }

    /// Why training passes cannot be recorded and run one launch after the other, if that is so.
    #[must_use]
    pub fn refusal(&self) -> Option<&str> {
        self.memory.repeats.refusal()
    }

    /// Loss of each token `[N]`, 0 where masked.
    ///
    /// # Errors
    /// If the batch contradicts itself or the config.
    pub fn losses(&mut self, batch: &Batch) -> Result<Vec<f32>> {
        self.pass(batch, None, None)
    }

    /// Loss of each token `[N]`, 0 where masked; `gradients` += `scale` · d(sum of losses).
    ///
    /// # Errors
    /// If the batch contradicts itself or the config.
    pub fn forward_backward(
        &mut self,
        batch: &Batch,
        scale: f32,
        gradients: &mut Gradients<B>,
    ) -> Result<Vec<f32>> {
        self.check(gradients)?;
        self.pass(batch, Some((scale, &mut gradients.tensors)), None)
    }

    /// The same in the last pass before the gradients are used: `done` is given each piece's when they are
    /// complete, in the order of [`Piece::of_layers`], while the pass goes on with the next. It is not called for
    /// what is beside an adapter, nor where no row counts.
    ///
    /// # Errors
    /// If the batch contradicts itself or the config.
    pub fn forward_backward_with(
        &mut self,
        batch: &Batch,
        scale: f32,
        gradients: &mut Gradients<B>,
        done: &mut Done<'_, B::Tensor>,
    ) -> Result<Vec<f32>> {
        if self.adapter.is_some() {
            return self.forward_backward(batch, scale, gradients);
        }
        self.check(gradients)?;
        let mut take = |piece, _: &mut Weights<B::Tensor>, gradients: &mut Trained<B::Tensor>| {
            if let Trained::Full(gradients) = gradients {
                done(piece, gradients.piece_mut(piece));
            }
        };
        let between = Between { moves_weights: false, take: &mut take };
        self.pass(batch, Some((scale, &mut gradients.tensors)), Some(between))
    }

    /// The same with gradients made by [`Gradients::by_piece`]: `take` is given each piece when its
    /// gradients are complete, in the order of [`Piece::of_layers`]. It is not called at all if a
    /// loss is no number.
    ///
    /// # Errors
    /// If the batch contradicts itself or the config.
    pub fn forward_backward_by_piece(
        &mut self,
        batch: &Batch,
        scale: f32,
        gradients: &mut Gradients<B>,
        take: &mut Take<'_, B::Tensor>,
    ) -> Result<Vec<f32>> {
        ensure!(self.adapter.is_none(), "an adapter's gradients are not taken piece by piece");
        self.check(gradients)?;
        let (backend, is_tied) = (self.backend.clone(), self.config.tie_word_embeddings);
        let mut take_piece =
            |piece, weights: &mut Weights<B::Tensor>, gradients: &mut Trained<B::Tensor>| {
                let complete = piece_of(gradients, piece, is_tied);
                take(piece, weights.piece_mut(piece), &complete);
                for gradient in complete {
                    let len = backend.len(gradient);
                    backend.fill(gradient, len, 0.0);
                }
            };
        let between = Between { moves_weights: true, take: &mut take_piece };
        self.pass(batch, Some((scale, &mut gradients.tensors)), Some(between))
    }

    /// That the gradients are of what is trained.
    fn check(&self, gradients: &Gradients<B>) -> Result<()> {
        if self.adapter.is_some() != matches!(gradients.tensors, Trained::Adapter(_)) {
            bail!("the gradients were made before an adapter came to the model");
        }
        Ok(())
    }

    /// Sees to it that magnitudes go by the adapter as it stands.
    pub(super) fn refresh(&mut self) {
        let Self { backend, weights, packing, adapter, memory, .. } = self;
        let Some(adapter) = adapter.as_mut().filter(|adapter| adapter.has_moved()) else { return };
        memory.reserve_unpacked(backend, packing.as_deref());
        adapter.refresh(backend, weights, packing.as_deref().zip(memory.unpacked.as_ref()));
    }

    fn pass(
        &mut self,
        batch: &Batch,
        into: Option<Into<'_, B::Tensor>>,
        between: Option<Between<'_, B::Tensor>>,
    ) -> Result<Vec<f32>> {
        batch.check(&self.config)?;
        self.refresh();
        let Self {
            backend,
            config,
            weights,
            packing,
            adapter,
            recompute,
            memory,
            seat,
            moment,
            ..
        } = self;
        let now = *moment;
        if into.is_some() {
            moment.row += batch.tokens.len() as u64;
        }
        let packing = packing.as_deref();
        let mut ground = Ground { backend, config, weights, packing, recompute: *recompute };
        if let (Some(seat), Some(_)) = (seat, &adapter) {
            return seat.pass(&mut ground, (batch, now), adapter, into);
        }
        let run = Run { batch, adapter: adapter.as_ref(), into, moment: now };
        Ok(ground.pass(memory, vec![run], between)?.swap_remove(0))
    }
}

/// The gradients of a piece, as many as the model has weights.
fn piece_of<T>(gradients: &mut Trained<T>, piece: Piece, is_tied: bool) -> Vec<&mut T> {
    let Trained::Full(weights) = gradients else { return Vec::new() };
    match piece {
        // The head's gradient is complete before that of the embedding begins.
        Piece::Head if !is_tied => vec![&mut weights.norm, &mut weights.embed_tokens],
        piece => weights.piece_mut(piece),
    }
}
