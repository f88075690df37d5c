//! What every rank holds of a run, and what it does with it: the model, its gradients, and the optimiser's state of the
//! tensors that it owns. On one rank, that is all of them and nobody is talked to.

use std::borrow::Cow;

use anyhow::Result;

use super::{Exchange, owners};
use crate::config::Recipe;
use crate::model::weights::Spec;
use crate::model::{Batch, Decoder, Gradients};
use crate::ops::Backend;
use crate::optimizer::AdamW;

/// A tensor's number and the sum of its gradients' squares.
pub type Squares = (usize, f64);

/// A model in training.
pub struct Engine<B: Backend> {
    /// The model.
    pub model: Decoder<B>,
    /// AdamW over what this rank owns.
    pub optimizer: AdamW<B>,
    gradients: Gradients<B>,
    rank: usize,
    seed: u64,
    /// Which rank owns each trained tensor.
    owners: Vec<usize>,
    /// Which of them all ranks read as exactly as their owner.
    exact: Vec<bool>,
    exchange: Option<Box<dyn Exchange<B>>>,
    /// Whether owners have more exact weights than the others.
    masters_apart: bool,
}

impl<B: Backend + Clone> Engine<B> {
    /// A model on one rank.
    pub fn alone(model: Decoder<B>, recipe: &Recipe) -> Result<Self> {
        Self::new(model, recipe, (0, 1), None)
    }

    /// The same on one of several, which all call this. The model's weights become those of rank 0.
    pub fn among(
        model: Decoder<B>,
        recipe: &Recipe,
        (rank, size): (usize, usize),
        exchange: Box<dyn Exchange<B>>,
    ) -> Result<Self> {
        Self::new(model, recipe, (rank, size), Some(exchange))
    }

    /// The first of as many ranks as the recipe has, with nobody to talk to: for its memory alone.
    pub fn rehearsal(model: Decoder<B>, recipe: &Recipe) -> Result<Self> {
        Self::new(model, recipe, (0, recipe.ranks), None)
    }

    fn new(
        mut model: Decoder<B>,
        recipe: &Recipe,
        (rank, size): (usize, usize),
        exchange: Option<Box<dyn Exchange<B>>>,
    ) -> Result<Self> {
        let specs = model.trained_specs();
        let elements: Vec<usize> = specs.all().into_iter().map(Spec::elements).collect();
        let exact: Vec<bool> = specs.all().into_iter().map(Spec::is_exact).collect();
        let owners = owners(&elements, size);
        let mut masters_apart = false;
        if let Some(exchange) = &exchange {
            let all = model.tensors_mut();
            let from_the_first = vec![0; all.len()];
            exchange.broadcast(all, &from_the_first, true)?;
            let backend = model.backend().clone();
            let whose = owners.iter().zip(exact.iter().copied());
            for (tensor, (&owner, is_exact)) in model.trained_mut().into_iter().zip(whose) {
                masters_apart |= backend.has_master(tensor);
                if owner != rank && !is_exact {
                    backend.drop_master(tensor);
                }
            }
        }
        let mine = owners.iter().map(|&owner| owner == rank).collect();
        let mut optimizer = AdamW::of_part(&model, recipe.states(), mine);
        optimizer.beta1 = recipe.beta1 as f32;
        optimizer.beta2 = recipe.beta2 as f32;
        optimizer.eps = recipe.eps as f32;
        optimizer.weight_decay = recipe.weight_decay as f32;
        model.set_recompute(recipe.recompute.unwrap_or_default());
        let gradients = match recipe.optimizer_in_backward {
            true => Gradients::by_piece(&model),
            false => Gradients::zeros(&model),
        };
        let seed = recipe.seed;
        Ok(Self { model, optimizer, gradients, rank, seed, owners, exact, exchange, masters_apart })
    }

    /// Gradients of this rank's batches, times `scale`, summed over all ranks; `row` is how many rows of the step come
    /// before theirs. Returns the batches' losses one after the other, and the sum of squares of each tensor that this
    /// rank owns.
    pub fn gradients(
        &mut self,
        (row, batches): (u64, &[Batch]),
        scale: f32,
    ) -> Result<(Vec<f32>, Vec<Squares>)> {
        self.gradients.clear();
        self.model.begin_step(self.seed, self.optimizer.steps(), row);
        let mut losses = Vec::new();
        for batch in batches {
            losses.extend(self.model.forward_backward(batch, scale, &mut self.gradients)?);
        }
        if let Some(exchange) = &self.exchange {
            exchange.reduce(self.gradients.tensors_mut(), &self.owners)?;
        }
        let tensors = 0..self.owners.len();
        let mine: Vec<usize> = tensors.filter(|&t| self.owners[t] == self.rank).collect();
        let squares = self.gradients.squares(&mine);
        let squares = mine.into_iter().zip(squares).collect();
        self.model.backend().check()?;
        Ok((losses, squares))
    }

    /// A step of the optimiser on what this rank owns, with gradients times `factor`; then everybody's new weights.
    pub fn update(&mut self, factor: f32, learning_rate: f32) -> Result<()> {
        let Self { model, gradients, optimizer, .. } = self;
        optimizer.step_scaled(model, gradients, learning_rate, factor);
        let Some(exchange) = &self.exchange else { return Ok(()) };
        for masters in [false, true] {
            let of = |t: &usize| self.exact[*t] == masters;
            let owners: Vec<usize> =
                (0..self.owners.len()).filter(of).map(|t| self.owners[t]).collect();
            let tensors = self.model.trained_mut().into_iter().zip(&self.exact);
            let tensors = tensors.filter(|(_, exact)| **exact == masters).map(|(tensor, _)| tensor);
            exchange.broadcast(tensors.collect(), &owners, masters)?;
        }
        Ok(())
    }

    /// A whole step on one batch, on one rank, whose gradients, times `scale`, are used as they come: the losses and
    /// the norm of all gradients. Nothing moves if a loss is no number.
    pub fn step_in_backward(
        &mut self,
        batch: &Batch,
        scale: f32,
        learning_rate: f32,
    ) -> Result<(Vec<f32>, f64)> {
        let Self { model, gradients, optimizer, .. } = self;
        optimizer.step_in_backward(model, gradients, (batch, scale), learning_rate)
    }

    /// Losses of batches, one after the other; `done` is called after each batch.
    pub fn losses(&mut self, batches: &[Batch], mut done: impl FnMut()) -> Result<Vec<f32>> {
        let mut losses = Vec::new();
        for batch in batches {
            losses.extend(self.model.losses(batch)?);
            done();
        }
        Ok(losses)
    }

    /// The rank that owns each trained tensor.
    pub fn owners(&self) -> &[usize] {
        &self.owners
    }

    /// The rank that has a trained tensor's exact values, where this one has not.
    pub fn keeper(&self, tensor: usize) -> Option<usize> {
        Some(self.owners[tensor]).filter(|&owner| self.masters_apart && owner != self.rank)
    }

    /// The values of a trained tensor as they stand here.
    pub fn weight(&self, tensor: usize) -> Cow<'_, [f32]> {
        self.model.trained_values(tensor)
    }
}
