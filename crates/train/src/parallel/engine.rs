//! What every rank holds of a run, and what it does with it: the model, its gradients, and the optimiser's state of the
//! values that it owns. On one rank, that is all of them and nobody is talked to.

use std::borrow::Cow;
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::courier::{Back, Courier};
use super::{Cuts, Exchange, Shares};
use crate::config::Recipe;
use crate::model::{Batch, Decoder, Gradients};
use crate::ops::{Backend, Kind};
use crate::optimizer::AdamW;

/// A tensor's number and the sum of its gradients' squares, or of those of a run of them.
pub type Squares = (usize, f64);

/// A model in training.
pub struct Engine<B: Backend> {
    /// The model.
    pub model: Decoder<B>,
    /// AdamW over what this rank owns.
    pub optimizer: AdamW<B>,
    /// How long this rank waited for gradients of others when its own were complete, over all steps.
    pub waited: Duration,
    gradients: Gradients<B>,
    rank: usize,
    seed: u64,
    /// Which rank owns which of the values that are trained.
    pub shares: Shares,
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

    /// The rank that holds most of as many as the recipe has, with an exchange that goes nowhere: for its memory alone.
    pub fn rehearsal(
        model: Decoder<B>,
        recipe: &Recipe,
        exchange: impl FnOnce(usize) -> Box<dyn Exchange<B>>,
    ) -> Result<Self> {
        let shares = Shares::new(&model.trained_specs(), recipe.ranks);
        let held = |rank: &usize| shares.of(*rank).iter().map(Range::len).sum::<usize>();
        let largest = (0..recipe.ranks).rev().max_by_key(held).unwrap_or(0);
        let exchange = (recipe.ranks > 1).then(|| exchange(largest));
        Self::new(model, recipe, (largest, recipe.ranks), exchange)
    }

    fn new(
        mut model: Decoder<B>,
        recipe: &Recipe,
        (rank, size): (usize, usize),
        mut exchange: Option<Box<dyn Exchange<B>>>,
    ) -> Result<Self> {
        let shares = Shares::new(&model.trained_specs(), size);
        let masters_apart = match &mut exchange {
            Some(exchange) => {
                exchange.prepare(&shares)?;
                distribute(&mut model, &shares.cuts, rank, &**exchange)?
            }
            None => false,
        };
        let mut optimizer = AdamW::of_part(&model, recipe.states(), shares.of(rank));
        optimizer.beta1 = recipe.beta1 as f32;
        optimizer.beta2 = recipe.beta2 as f32;
        optimizer.eps = recipe.eps as f32;
        optimizer.weight_decay = recipe.weight_decay as f32;
        model.set_recompute(recipe.recompute.unwrap_or_default());
        let gradients = match recipe.optimizer_in_backward {
            true => Gradients::by_piece(&model),
            false => Gradients::zeros(&model),
        };
        let (seed, waited) = (recipe.seed, Duration::ZERO);
        Ok(Self {
            model,
            optimizer,
            waited,
            gradients,
            rank,
            seed,
            shares,
            exchange,
            masters_apart,
        })
    }

    /// Gradients of this rank's batches, times `scale`, summed over all ranks; `row` is how many rows of the step come
    /// before theirs. Returns the batches' losses one after the other, and the sum of squares of what this rank owns of
    /// each tensor.
    pub fn gradients(
        &mut self,
        (row, batches): (u64, &[Batch]),
        scale: f32,
    ) -> Result<(Vec<f32>, Vec<Squares>)> {
        self.gradients.clear();
        self.model.begin_step(self.seed, self.optimizer.steps(), row);
        let (last, before) = match batches.split_last() {
            Some((last, before)) if self.exchange.is_some() => (Some(last), before),
            _ => (None, batches),
        };
        let mut losses = Vec::new();
        for batch in before {
            losses.extend(self.model.forward_backward(batch, scale, &mut self.gradients)?);
        }
        losses.extend(self.exchanged(last, scale)?);
        let mine = self.shares.of(self.rank).into_iter().enumerate();
        let mine: Vec<_> = mine.filter(|(_, run)| !run.is_empty()).collect();
        let squares = self.gradients.squares(&mine);
        let squares = mine.into_iter().map(|(tensor, _)| tensor).zip(squares).collect();
        self.model.backend().check()?;
        Ok((losses, squares))
    }

    /// The last of a step's passes, whose gradients go to their owners as they are complete.
    fn exchanged(&mut self, last: Option<&Batch>, scale: f32) -> Result<Vec<f32>> {
        let Self { model, gradients, shares, exchange: Some(exchange), .. } = self else {
            return Ok(Vec::new());
        };
        let backend = model.backend().clone();
        let take = |tensors: Vec<&mut B::Tensor>| -> Vec<B::Tensor> {
            let nothing = || backend.zeros(Kind::Gradient, 0);
            tensors.into_iter().map(|tensor| std::mem::replace(tensor, nothing())).collect()
        };
        let (losses, back, waited) = thread::scope(|scope| {
            let mut courier = Courier::start(scope, &**exchange, shares);
            let mut fault = None;
            let mut done = |_, tensors: Vec<&mut B::Tensor>| {
                fault = courier.send(take(tensors)).err().or(fault.take());
            };
            let losses = match last {
                Some(batch) => model.forward_backward_with(batch, scale, gradients, &mut done)?,
                None => Vec::new(),
            };
            for piece in &shares.pieces[courier.sent..] {
                let tensors = gradients.tensors_mut().drain(piece.clone()).collect();
                courier.send(take(tensors))?;
            }
            let complete = Instant::now();
            let back: Back<B::Tensor> = courier.finish()?;
            fault.map_or(Ok((losses, back, complete.elapsed())), Err)
        })?;
        self.waited += waited;
        for (piece, tensors) in back {
            for (place, tensor) in self.gradients.tensors_mut().drain(piece).zip(tensors) {
                *place = tensor;
            }
        }
        Ok(losses)
    }

    /// A step of the optimiser on what this rank owns, with gradients times `factor`; then everybody's new weights.
    pub fn update(&mut self, factor: f32, learning_rate: f32) -> Result<()> {
        let Self { model, gradients, optimizer, .. } = self;
        optimizer.step_scaled(model, gradients, learning_rate, factor);
        match &self.exchange {
            Some(exchange) => exchange.gather(self.model.trained_mut(), &self.shares.cuts),
            None => Ok(()),
        }
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

    /// What each rank owns of a trained tensor, in their order.
    pub fn runs(&self, tensor: usize) -> impl Iterator<Item = Range<usize>> + '_ {
        self.shares.cuts[tensor].runs()
    }

    /// Whether the owners alone have exact values of what is trained.
    pub fn has_masters_apart(&self) -> bool {
        self.masters_apart
    }

    /// The values that this rank owns of a trained tensor.
    pub fn own_weight(&self, tensor: usize) -> Vec<f32> {
        self.weight(tensor)[self.shares.cuts[tensor].of(self.rank)].to_vec()
    }

    /// The values of a trained tensor as they stand here.
    pub fn weight(&self, tensor: usize) -> Cow<'_, [f32]> {
        self.model.trained_values(tensor)
    }
}

/// Brings rank 0's weights to all, and leaves each the exact values of what it owns; whether there are such.
fn distribute<B: Backend + Clone>(
    model: &mut Decoder<B>,
    cuts: &[Cuts],
    rank: usize,
    exchange: &dyn Exchange<B>,
) -> Result<bool> {
    let backend = model.backend().clone();
    let give = |model: &Decoder<B>| {
        let all = model.tensors();
        let stay = all.len() - cuts.len();
        let cuts = (0..stay).map(|_| None).chain(cuts.iter().map(Some));
        exchange.give(&all.into_iter().zip(cuts).collect::<Vec<_>>())
    };
    if rank == 0 {
        give(model)?;
    }
    let mut masters_apart = false;
    for (tensor, cuts) in model.trained_mut().into_iter().zip(cuts) {
        masters_apart |= backend.has_master(tensor);
        backend.keep_master(tensor, cuts.kept(rank));
    }
    if rank > 0 {
        exchange.take(model.tensors_mut())?;
    }
    Ok(masters_apart)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::config::TrainConfig;
    use crate::model::{Model, ModelConfig};
    use crate::ops::Cpu;
    use crate::ops::testing::bits;
    use crate::parallel::Connect as _;
    use crate::parallel::meeting::tests::meshes;

    fn model(seed: u64, fields: &str, recipe: &Recipe) -> Model {
        let text = format!(
            r#"{{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 96, "hidden_size": 64,
                "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
                "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
                "initializer_range": 0.1, "hidden_act": "silu", {fields}}}"#
        );
        let config = ModelConfig::parse(&text, Path::new("config.json")).unwrap();
        Decoder::random_as(Cpu, recipe.weights(), config, seed)
    }

    fn batch(first: u32, rows: u32) -> Batch {
        let tokens: Vec<u32> = (0..rows).map(|i| (i * 37 + first) % 96).collect();
        let targets = tokens.iter().map(|&token| (token as i32 * 5 + 1) % 96).collect();
        Batch { tokens, targets, documents: vec![0, rows] }
    }

    /// What three ranks run: two passes, one, and none that counts.
    fn shares_of_step(step: u32) -> [Vec<Batch>; 3] {
        let masked = Batch { targets: vec![-1; 9], ..batch(step, 9) };
        [vec![batch(step, 24), batch(7 * step, 11)], vec![batch(50 + step, 30)], vec![masked]]
    }

    fn weights(engine: &Engine<Cpu>) -> Vec<Vec<u32>> {
        let all = 0..engine.shares.cuts.len();
        all.map(|tensor| bits(&engine.weight(tensor))).collect()
    }

    /// Three steps of each rank's gradients, made alone, added in the order of the ranks, and of AdamW on all of it.
    fn plainly(recipe: &Recipe, mut model: Model) -> Vec<Vec<u32>> {
        let mut optimizer = AdamW::with(&model, recipe.states());
        optimizer.weight_decay = recipe.weight_decay as f32;
        for step in 1..4 {
            let mut sum: Option<Gradients> = None;
            for share in shares_of_step(step) {
                let mut own = Gradients::zeros(&model);
                for batch in &share {
                    model.forward_backward(batch, 0.02, &mut own).unwrap();
                }
                match &mut sum {
                    None => sum = Some(own),
                    Some(sum) => {
                        for (sum, own) in sum.tensors_mut().into_iter().zip(own.tensors_mut()) {
                            sum.iter_mut().zip(own).for_each(|(sum, own)| *sum += *own);
                        }
                    }
                }
            }
            optimizer.step_scaled(&mut model, &sum.unwrap(), 1e-2, 0.5);
        }
        model.tensors().into_iter().map(|values| bits(values)).collect()
    }

    #[test]
    fn three_ranks_do_what_the_sum_of_their_gradients_and_one_optimiser_do_in_every_form() {
        for (fields, settings) in [
            (r#""tie_word_embeddings": true"#, ""),
            (r#""tie_word_embeddings": false"#, "optimizer_states = \"int8\""),
            (
                r#""tie_word_embeddings": true"#,
                "optimizer_states = \"bf16\"\nmaster_weights = false",
            ),
            (
                r#""tie_word_embeddings": true"#,
                "optimizer_states = \"int8\"\nmaster_weights = false",
            ),
        ] {
            let config: TrainConfig = artifact::config::from_toml(
                &format!("weight_decay = 0.1\n{settings}"),
                Path::new("t.toml"),
            )
            .unwrap();
            let recipe = config.resolve().unwrap();
            let expected = plainly(&recipe, model(0, fields, &recipe));
            let of_rank = |mesh: super::super::Mesh| {
                let (rank, mesh) = (mesh.rank, Arc::new(mesh));
                let exchange = Cpu.exchange(&mesh, None).unwrap();
                // The others begin with other weights, and are given those of rank 0.
                let model = model(rank as u64, fields, &recipe);
                let mut engine = Engine::among(model, &recipe, (rank, 3), exchange).unwrap();
                for step in 1..4 {
                    engine.gradients((0, &shares_of_step(step)[rank]), 0.02).unwrap();
                    engine.update(0.5, 1e-2).unwrap();
                }
                weights(&engine)
            };
            std::thread::scope(|scope| {
                let start = |mesh| scope.spawn(|| of_rank(mesh));
                let ranks: Vec<_> = meshes(3).into_iter().map(start).collect();
                for rank in ranks {
                    assert!(rank.join().unwrap() == expected, "{fields}, {settings}");
                }
            });
        }
    }
}
