//! Training passes that come again in the same shape: their inputs stand in memory that stays where it
//! is, the same for all shapes, so that a device can record a pass and run it by one call. The first of a shape runs plainly, the
//! second is recorded.

use super::activations::Recompute;
use super::batch::{Joined, Packed, scalar};
use crate::ops::Backend;

/// Recordings of training passes that are kept; the one that was used longest ago goes first.
pub const MOST: usize = 16;

/// What must be the same for a pass to be the same work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Of tokens, counted rows and documents.
    counts: [usize; 3],
    recompute: Recompute,
    /// Where everything stands that the pass reads and writes and that others own.
    places: Vec<u64>,
}

impl Shape {
    pub fn new(rows: &Joined, recompute: Recompute, places: Vec<u64>) -> Self {
        let counts = [rows.tokens.len(), rows.counted.len(), rows.documents.len()];
        Self { counts, recompute, places }
    }
}

/// What passes begin with: those of all shapes read it in the same places.
struct Inputs<B: Backend> {
    packed: Packed<B>,
    /// What the gradient is multiplied by `[1]`.
    scale: B::Tensor,
}

/// A pass of one shape, set to its rows.
pub(super) struct Repeat<'a, B: Backend> {
    pub packed: &'a Packed<B>,
    /// What the gradient is multiplied by `[1]`.
    pub scale: &'a B::Tensor,
    pub recorded: &'a mut B::Recorded,
}

/// Passes that may come again. They are bound to the memory of passes.
pub(super) struct Repeats<B: Backend> {
    inputs: Option<Inputs<B>>,
    /// The last used first.
    shapes: Vec<(Shape, B::Recorded)>,
}

impl<B: Backend> Default for Repeats<B> {
    fn default() -> Self {
        Self { inputs: None, shapes: Vec::new() }
    }
}

impl<B: Backend> Repeats<B> {
    /// Forgets them all.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// A pass of this shape, set to these rows, of at most `room`, which is always the same.
    pub fn get(
        &mut self,
        backend: &B,
        room: usize,
        shape: Shape,
        (rows, scale): (&Joined, f32),
    ) -> Repeat<'_, B> {
        let inputs = self.inputs.get_or_insert_with(|| Inputs {
            packed: Packed::with_room(backend, room),
            scale: scalar(backend, scale),
        });
        inputs.packed.set(backend, rows);
        backend.write(&mut inputs.scale, &[scale]);
        let held = match self.shapes.iter().position(|(held, _)| *held == shape) {
            Some(at) => self.shapes.remove(at),
            None => (shape, B::Recorded::default()),
        };
        self.shapes.truncate(MOST - 1);
        self.shapes.insert(0, held);
        let Inputs { packed, scale } = inputs;
        Repeat { packed, scale, recorded: &mut self.shapes[0].1 }
    }

    /// Why a pass could not be recorded, if that was tried.
    pub fn refusal(&self) -> Option<&str> {
        self.shapes.iter().find_map(|(_, recorded)| B::refusal(recorded))
    }
}

#[cfg(test)]
mod tests {
    use super::super::batch::{Batch, Filling};
    use super::*;
    use crate::ops::Cpu;

    #[test]
    fn the_shape_that_was_used_longest_ago_goes_first() {
        let mut repeats = Repeats::<Cpu>::default();
        let mut pass = |rows: usize| {
            let documents = vec![0, rows as u32];
            let batch = Batch { tokens: vec![1; rows], targets: vec![2; rows], documents };
            let joined = Joined::of([&batch], Filling::NONE, 3);
            let shape = Shape::new(&joined, Recompute::None, vec![7]);
            let repeat = repeats.get(&Cpu, 20, shape, (&joined, rows as f32));
            assert_eq!((repeat.packed.tokens.len(), repeat.scale), (rows, &vec![rows as f32]));
            repeats.shapes.iter().map(|(shape, _)| shape.counts[0]).collect::<Vec<_>>()
        };
        for rows in 1..=MOST {
            assert_eq!(pass(rows).len(), rows);
        }
        assert_eq!(pass(1)[..2], [1, MOST]);
        let held = pass(MOST + 1);
        assert_eq!((held.len(), held[0], held[1]), (MOST, MOST + 1, 1));
        assert!(!held.contains(&2) && held.contains(&3));
    }
}
