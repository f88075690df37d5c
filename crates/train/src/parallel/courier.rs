//! Gradients on their way to their owners while the backward pass still makes others. A thread has the pieces that are
//! complete, adds up each over the ranks, and gives all of them back at the end, when only the first layer's and the
//! embedding's are left to be waited for.

use std::ops::Range;
use std::sync::mpsc::{Sender, channel};
use std::thread::{Scope, ScopedJoinHandle};

use anyhow::{Result, anyhow};

use super::{Exchange, Point, Shares};
use crate::ops::Backend;

/// A piece's gradients, and the point at which they are complete.
struct Parcel<T> {
    tensors: Vec<T>,
    complete: Point,
}

/// Tensors that have come back, with their numbers.
pub type Back<T> = Vec<(Range<usize>, Vec<T>)>;

/// The thread, and the way to it.
pub struct Courier<'scope, 'env, B: Backend> {
    exchange: &'env dyn Exchange<B>,
    sender: Sender<Parcel<B::Tensor>>,
    /// Pieces that have been sent off.
    pub sent: usize,
    thread: ScopedJoinHandle<'scope, Result<Back<B::Tensor>>>,
}

impl<'scope, 'env, B: Backend> Courier<'scope, 'env, B> {
    /// Starts it.
    pub fn start(
        scope: &'scope Scope<'scope, 'env>,
        exchange: &'env dyn Exchange<B>,
        shares: &'env Shares,
    ) -> Self
    where
        B::Tensor: 'scope,
    {
        let (sender, parcels) = channel::<Parcel<B::Tensor>>();
        let thread = scope.spawn(move || {
            let mut back = Vec::new();
            for (Parcel { mut tensors, complete }, piece) in parcels.into_iter().zip(&shares.pieces)
            {
                let cuts = &shares.cuts[piece.clone()];
                exchange.reduce(complete, tensors.iter_mut().collect(), cuts)?;
                back.push((piece.clone(), tensors));
            }
            Ok(back)
        });
        Self { exchange, sender, sent: 0, thread }
    }

    /// Sends off the next piece, which is complete now.
    ///
    /// # Errors
    /// If the device reports a fault.
    pub fn send(&mut self, tensors: Vec<B::Tensor>) -> Result<()> {
        self.sent += 1;
        let complete = self.exchange.point()?;
        // Where it has given up, the reason comes with what it gives back.
        let _ = self.sender.send(Parcel { tensors, complete });
        Ok(())
    }

    /// Waits until all that was sent has been added up.
    ///
    /// # Errors
    /// If a rank is gone.
    pub fn finish(self) -> Result<Back<B::Tensor>> {
        drop(self.sender);
        self.thread
            .join()
            .unwrap_or_else(|_| Err(anyhow!("the thread that sends gradients panicked")))
    }
}
