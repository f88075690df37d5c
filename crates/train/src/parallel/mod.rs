//! One run on several processes (ranks): data parallel, with the optimiser's states shared out (ZeRO stage 1,
//! Rajbhandari et al. 2020, arXiv 1910.02054). Rank 0 has the data, decides and writes; the others hold a model, do what
//! they are told, and need nothing but a connection.
//!
//! A step: [`team`] sends every rank its share of the batch; each adds up its gradients ([`engine`]); every tensor's
//! gradients go to the rank that owns it and are summed there in the order of the ranks; the owner moves its weights by
//! AdamW and hands them to all. So a run repeats bit for bit with as many ranks, and with another number differs by the
//! rounding of those sums alone. [`world`] says which rank a process is, [`link`] connects them, [`crew`] starts them
//! on this machine, [`worker`] is what a rank other than 0 does.

pub mod crew;
pub mod engine;
pub mod link;
mod mesh;
pub mod team;
pub mod worker;
pub mod world;

use std::sync::Arc;

use anyhow::Result;
use artifact::Context;
use serde::{Deserialize, Serialize};

use crate::config::TrainConfig;
use crate::model::Batch;
use crate::ops::Backend;
use crate::optimizer::Moment;

pub use link::Mesh;
pub use team::{Lead, Ranks, Team};
pub use worker::serve;
pub use world::World;

/// What ranks do with tensors together. All call the same function with tensors of the same lengths in the same order;
/// `owners` says for each which rank owns it.
pub trait Exchange<B: Backend> {
    /// Adds up each tensor over the ranks, in their order. The owner has the sum; what the others are left with has no
    /// meaning.
    ///
    /// # Errors
    /// If a rank is gone.
    fn reduce(&self, tensors: Vec<&mut B::Tensor>, owners: &[usize]) -> Result<()>;

    /// Gives every rank the values that the owner of each tensor has. With `masters`, what an optimiser needs of a
    /// weight goes along, where a backend keeps that apart.
    ///
    /// # Errors
    /// If a rank is gone.
    fn broadcast(
        &self,
        tensors: Vec<&mut B::Tensor>,
        owners: &[usize],
        masters: bool,
    ) -> Result<()>;
}

/// A backend whose tensors can go to other ranks.
pub trait Connect: Backend + Clone + Sized + 'static {
    /// Whether it is a card's.
    const ON_CARD: bool;

    /// On rank 0: what the ranks find each other by, beside their connections; none where those have to do.
    ///
    /// # Errors
    /// If there should be such a thing, and it cannot be had.
    fn meeting(&self, ctx: &Context) -> Result<Option<Vec<u8>>>;

    /// The exchange with the other ranks, which all call this.
    ///
    /// # Errors
    /// If they cannot be reached.
    fn exchange(&self, mesh: &Arc<Mesh>, meeting: Option<&[u8]>)
    -> Result<Box<dyn Exchange<Self>>>;
}

/// What rank 0 tells another. Numbers that have to arrive bit for bit go beside it.
#[derive(Debug, Serialize, Deserialize)]
enum Order {
    /// A run begins. Answered.
    Begin(Box<Job>),
    /// Gradients of these batches, before which the step has so many rows, times the number beside. Answered with
    /// losses and squares.
    Gradients(u64, Vec<Batch>),
    /// A step of the optimiser; beside: what gradients are multiplied by, and the learning rate.
    Update,
    /// Losses of these batches. Answered with losses.
    Losses(Vec<Batch>),
    /// A trained tensor's values as its owner has them. Answered with those.
    Weight(usize),
    /// A moment's values. Answered with those.
    Moment(Moment),
    /// The moment's values are those beside.
    SetMoment(Moment),
    /// So many steps are done.
    SetSteps(u64),
    /// The run is over.
    Finish,
    /// There is nothing more to do.
    End,
}

/// What another rank answers; floats go beside it.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    /// What was asked for stands beside.
    Done,
    /// Losses stand beside; here the squares of the gradients that it owns, by tensor, as bits, and whether the
    /// process was asked to stop.
    Gradients(Vec<(usize, u64)>, bool),
    /// It could not be done.
    Failed(String),
}

/// What a rank has to know of a run.
#[derive(Debug, Serialize, Deserialize)]
struct Job {
    /// Settings.
    config: TrainConfig,
    /// The model's `config.json`.
    model: serde_json::Value,
    /// Whether it runs on a card.
    on_card: bool,
    /// See [`Connect::meeting`].
    meeting: Option<Vec<u8>>,
}

/// Which rank owns each of some tensors: the largest first, each to the rank that has least.
#[must_use]
pub fn owners(elements: &[usize], ranks: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..elements.len()).collect();
    order.sort_by_key(|&tensor| (std::cmp::Reverse(elements[tensor]), tensor));
    let mut held = vec![0; ranks];
    let mut owners = vec![0; elements.len()];
    for tensor in order {
        let owner = (0..ranks).min_by_key(|&rank| (held[rank], rank)).unwrap_or(0);
        owners[tensor] = owner;
        held[owner] += elements[tensor];
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_shared_out_by_their_elements() {
        assert_eq!(owners(&[10, 3, 3, 4, 1, 1], 2), [0, 1, 1, 1, 0, 1]);
        assert_eq!(owners(&[5, 5, 5], 1), [0, 0, 0]);
        assert_eq!(owners(&[5], 3), [0]);
        let elements = [4096, 64, 12288, 64, 64, 8192, 8192, 4096, 64, 12288];
        let owners = owners(&elements, 3);
        let held =
            |rank| (0..10).filter(|&t| owners[t] == rank).map(|t| elements[t]).sum::<usize>();
        let most = (0..3).map(held).max().unwrap();
        assert!(most <= elements.iter().sum::<usize>() / 3 + 12288 / 3, "{most}");
    }
}
