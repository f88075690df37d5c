//! Passes over a batch for training: losses, and the gradient of their sum. Each piece of the
//! gradient can be taken as soon as it is complete, so that one layer's stands at a time (LOMO, Lv et
//! al. 2023, arXiv 2306.09782).

use anyhow::{Result, bail, ensure};

use super::activations::{Activations, Purpose, Recompute};
use super::adapter::Trained;
use super::decoder::{Attend, Pass};
use super::weights::Piece;
use super::{Attached, Batch, Decoder, Gradients};
use crate::ops::Backend;

/// What takes a piece's gradients when they are complete: its weights, which it may change, and
/// their gradients, which are cleared afterwards.
pub type Take<'a, T> = dyn FnMut(Piece, Vec<&mut T>, &[&mut T]) + 'a;

impl<B: Backend + Clone> Decoder<B> {
    /// What training passes make again in place of keeping it; no bit of a result depends on it.
    pub fn set_recompute(&mut self, recompute: Recompute) {
        self.recompute = recompute;
    }

    /// Takes the memory for training passes over `training` tokens and for passes without a gradient
    /// over `inference` tokens, so that no later one of at most as many takes any.
    pub fn reserve(&mut self, training: usize, inference: usize) {
        let (backend, config, ranks) = (&self.backend, &self.config, self.ranks());
        if inference > 0 {
            let (held, purpose) = (&mut self.inference, Purpose::Inference);
            Activations::reserve(held, backend, config, inference, purpose, ranks);
        }
        let (held, purpose) = (&mut self.training, Purpose::Training(self.recompute));
        Activations::reserve(held, backend, config, training, purpose, ranks);
        let positions = self.config.max_position_embeddings.min(training.max(inference));
        self.reserve_angles(positions);
    }

    /// R of each projection's adapter.
    fn ranks(&self) -> [usize; 4] {
        self.adapter.as_ref().map_or([0; 4], |attached| attached.layout.ranks())
    }

    /// A pass over `rows` tokens. The parts stand apart because others of the decoder are written
    /// to beside it.
    fn training_pass<'a>(
        (backend, config): (&'a B, &'a super::ModelConfig),
        weights: &'a super::Weights<B::Tensor>,
        adapter: Option<&'a Attached<B::Tensor>>,
        angles: &'a [B::Tensor],
        rows: usize,
    ) -> Pass<'a, B> {
        Pass { backend, config, weights, adapter, angles, rows, rows_apart: false }
    }

    /// Loss of each token `[N]`, 0 where masked.
    ///
    /// # Errors
    /// If the batch contradicts itself or the config.
    pub fn losses(&mut self, batch: &Batch) -> Result<Vec<f32>> {
        batch.check(&self.config)?;
        self.reserve_angles(batch.longest());
        let (packed, rows, ranks) = (batch.pack(&self.backend), batch.tokens.len(), self.ranks());
        let (backend, config, adapter) = (&self.backend, &self.config, self.adapter.as_ref());
        let (held, purpose) = (&mut self.inference, Purpose::Inference);
        let kept = Activations::reserve(held, backend, config, rows, purpose, ranks);
        let of = (backend, config);
        let pass = Self::training_pass(of, &self.weights, adapter, &self.angles.0, rows);
        pass.forward(&packed, kept, Attend::Documents);
        pass.losses(&packed, kept, None);
        let losses = backend.values(&kept.head.losses, packed.counted_rows.len());
        backend.check()?;
        Ok(spread(&losses, &packed.counted_rows, rows))
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
        self.pass_and_back(batch, scale, gradients, None)
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
        self.pass_and_back(batch, scale, gradients, Some(take))
    }

    fn pass_and_back(
        &mut self,
        batch: &Batch,
        scale: f32,
        gradients: &mut Gradients<B>,
        mut take: Option<&mut Take<'_, B::Tensor>>,
    ) -> Result<Vec<f32>> {
        batch.check(&self.config)?;
        self.reserve_angles(batch.longest());
        let (packed, rows, ranks) = (batch.pack(&self.backend), batch.tokens.len(), self.ranks());
        let (backend, config, adapter) = (&self.backend, &self.config, self.adapter.as_ref());
        if adapter.is_some() != matches!(gradients.tensors, Trained::Adapter(_)) {
            bail!("the gradients were made before an adapter came to the model");
        }
        let (of, angles, recompute) = ((backend, config), &self.angles.0, self.recompute);
        let purpose = Purpose::Training(recompute);
        let kept = Activations::reserve(&mut self.training, backend, config, rows, purpose, ranks);
        let pass = Self::training_pass(of, &self.weights, adapter, angles, rows);
        pass.forward(&packed, kept, Attend::Documents);
        pass.losses(&packed, kept, Some((scale, &mut gradients.tensors)));
        let counted = packed.counted_rows.len();
        let mut losses = Vec::new();
        if take.is_some() {
            losses = backend.values(&kept.head.losses, counted);
            if !losses.iter().all(|loss| loss.is_finite()) {
                backend.check()?;
                return Ok(spread(&losses, &packed.counted_rows, rows));
            }
        }
        for piece in Piece::of_layers(self.weights.layers.len()).filter(|_| counted > 0) {
            let into = &mut gradients.tensors;
            let pass = Self::training_pass(of, &self.weights, adapter, angles, rows);
            match piece {
                Piece::Head => (),
                Piece::Layer(l) => pass.layer_backward(l, &packed, kept, into, recompute),
                Piece::Embedding => pass.embedding_backward(&packed, kept, into),
            }
            if let Some(take) = &mut take {
                let complete = gradients.piece_mut(piece, config.tie_word_embeddings);
                take(piece, self.weights.piece_mut(piece), &complete);
                for gradient in complete {
                    let len = backend.len(gradient);
                    backend.fill(gradient, len, 0.0);
                }
            }
        }
        if let (Some(attached), Trained::Adapter(tensors)) = (adapter, &mut gradients.tensors) {
            attached.layout.clear_outside(backend, tensors);
        }
        if take.is_none() {
            losses = backend.values(&kept.head.losses, counted);
        }
        backend.check()?;
        Ok(spread(&losses, &packed.counted_rows, rows))
    }
}

/// The counted rows' losses at their places, 0 elsewhere.
fn spread(losses: &[f32], counted: &[u32], rows: usize) -> Vec<f32> {
    let mut all = vec![0.0; rows];
    for (loss, &row) in losses.iter().zip(counted) {
        all[row as usize] = *loss;
    }
    all
}
