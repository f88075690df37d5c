//! One run on several processes (ranks): data parallel, with the optimiser's states shared out (ZeRO stage 1,
//! Rajbhandari et al. 2020, arXiv 1910.02054). Rank 0 has the data, decides and writes; the others hold a model, do what
//! they are told, and need nothing but a connection.
//!
//! A step: [`team`] sends every rank its share of the batch; each adds up its gradients ([`engine`]); every value's
//! gradient goes to the rank that owns it ([`shares`]), a layer's while the backward pass is at the next ([`courier`]),
//! and is summed there in the order of the ranks; the owner moves its weights by AdamW and hands them to all. So a run
//! repeats bit for bit with as many ranks, and with another number differs by the rounding of those sums alone. [`world`] says which rank a process is, [`meeting`] and [`link`] connect them, `pulse`
//! notices one that hangs, [`crew`] starts them on this machine, [`worker`] is what a rank other than 0 does.

mod courier;
pub mod crew;
pub mod engine;
pub mod link;
pub mod meeting;
mod mesh;
mod pulse;
pub mod shares;
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
pub use shares::{Cuts, Shares};
pub use team::{Lead, Ranks, Team};
pub use worker::serve;
pub use world::World;

/// A point in a device's work, where it has a queue of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Point(pub u64);

/// What ranks do with tensors together. All call the same function with tensors of the same lengths in the same order;
/// cuts say of each tensor which rank owns what.
pub trait Exchange<B: Backend>: Send + Sync {
    /// Takes the memory that exchanges will need.
    ///
    /// # Errors
    /// If there is not so much.
    fn prepare(&mut self, _shares: &Shares) -> Result<()> {
        Ok(())
    }

    /// The point up to which work has been asked for now.
    ///
    /// # Errors
    /// If the device reports a fault.
    fn point(&self) -> Result<Point> {
        Ok(Point::default())
    }

    /// Adds up tensors over the ranks, in their order, once a point is reached. Each rank has the sums of what it owns
    /// when this returns; what is left of the rest has no meaning. Other work may go on meanwhile.
    ///
    /// # Errors
    /// If a rank is gone.
    fn reduce(&self, after: Point, tensors: Vec<&mut B::Tensor>, cuts: &[Cuts]) -> Result<()>;

    /// Gives every rank the values that the owners have.
    ///
    /// # Errors
    /// If a rank is gone.
    fn gather(&self, tensors: Vec<&mut B::Tensor>, cuts: &[Cuts]) -> Result<()>;

    /// On rank 0: gives all others its values; and each the exact form of those for which it keeps that, where a
    /// backend has one apart.
    ///
    /// # Errors
    /// If a rank is gone.
    fn give(&self, tensors: &[(&B::Tensor, Option<&Cuts>)]) -> Result<()>;

    /// On the others: takes them. Each tensor has the exact form of just those values that the rank keeps.
    ///
    /// # Errors
    /// If a rank is gone.
    fn take(&self, tensors: Vec<&mut B::Tensor>) -> Result<()>;
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
    /// The values of a trained tensor that the rank owns. Answered with those.
    Weight(usize),
    /// A moment of the values that the rank owns. Answered with those.
    Moment(Moment),
    /// That moment's values are those beside.
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
    /// Losses stand beside; here the sums of squares of the gradients that it owns, by tensor, as bits, and whether the
    /// process was asked to stop.
    Gradients(Vec<(usize, u64)>, bool),
    /// It could not be done.
    Failed {
        /// Why.
        what: String,
        /// Which rank was gone, if that is why.
        lost: Option<usize>,
    },
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
