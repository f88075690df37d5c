//! Training passes on the emulated device: which of them are run by recordings, and what becomes of
//! these when memory is short. More of the bits that they yield is in the suite.

use std::sync::Arc;

use super::Cuda;
use super::emulator::Emulator;
use super::graph::Recorded;
use super::tests::{QWEN3, tiny};
use crate::model::{Batch, Decoder, Gradients, Recompute};
use crate::ops::*;

fn device() -> Option<(Arc<Emulator>, Cuda)> {
    let emulator = Arc::new(Emulator::new((8, 0))?);
    Some((Arc::clone(&emulator), Cuda::new(emulator)))
}

/// One document and another of so many tokens; the last `counted` count.
fn batch([first, second]: [u32; 2], counted: u32) -> Batch {
    let rows = first + second;
    let target = |i: u32| if i + counted < rows { -1 } else { (i * 7 % 96) as i32 };
    Batch {
        tokens: (0..rows).map(|i| (i * 5 + first) % 96).collect(),
        targets: (0..rows).map(target).collect(),
        documents: vec![0, first, rows],
    }
}

#[test]
fn a_pass_whose_shape_comes_again_is_recorded_and_run_again() {
    let Some((emulator, ops)) = device() else { return };
    let mut model = Decoder::random_on(ops, tiny(QWEN3), 3);
    let mut gradients = Gradients::zeros(&model);
    let replays = |model: &mut Decoder<Cuda>, batch: Batch, gradients: &mut Gradients<Cuda>| {
        let before = emulator.replays();
        model.forward_backward(&batch, 0.1, gradients).expect("a pass");
        assert_eq!(model.refusal(), None);
        emulator.replays() - before
    };
    // Up to 32 rows, and up to 16 of them counted.
    let alike = [batch([20, 12], 9), batch([3, 16], 16), batch([13, 13], 1)];
    let found = alike.map(|batch| {
        let mut elsewhere = Gradients::zeros(&model);
        gradients.clear();
        let found = replays(&mut model, batch.clone(), &mut gradients);
        model.forward_backward(&batch, 0.1, &mut elsewhere).expect("a pass");
        assert!(gradients.named() == elsewhere.named(), "the bits of a plain pass");
        found
    });
    assert_eq!(found, [0, 1, 1]);
    // More counted rows, twice; a pass without any; one with other gradients.
    assert_eq!(replays(&mut model, batch([20, 12], 17), &mut gradients), 0);
    assert_eq!(replays(&mut model, batch([15, 15], 24), &mut gradients), 1);
    assert_eq!(replays(&mut model, batch([20, 12], 0), &mut gradients), 0);
    let mut others = Gradients::zeros(&model);
    assert_eq!(replays(&mut model, batch([20, 12], 9), &mut others), 0);
    assert_eq!(replays(&mut model, batch([20, 12], 9), &mut gradients), 1);
    // More rows than there was memory for: all begins again, in other memory.
    assert_eq!(replays(&mut model, batch([30, 10], 9), &mut gradients), 0);
    assert_eq!(replays(&mut model, batch([20, 12], 9), &mut gradients), 0);
    assert_eq!(replays(&mut model, batch([20, 11], 9), &mut gradients), 1);
    // Another level needs other memory.
    model.set_recompute(Recompute::Block);
    assert_eq!(replays(&mut model, batch([20, 12], 9), &mut gradients), 0);
    assert_eq!(replays(&mut model, batch([20, 12], 9), &mut gradients), 1);
}

#[test]
fn recordings_give_their_memory_to_others_and_are_made_again() {
    let Some((emulator, ops)) = device() else { return };
    ops.pool().reserve(64 << 10).expect("memory");
    let shape = LinearShape::new(5, 1024, 8);
    let weight = ops.tensor(Kind::Frozen, vec![0.5; 8 * 1024]);
    let x = ops.tensor(Kind::Activation, vec![1.0; 5 * 1024]);
    let mut y = ops.zeros(Kind::Activation, 40);
    let mut recorded = Recorded::default();
    // A product that is split, which takes temporary memory.
    let mut run = |y: &mut _, expected: usize| {
        let before = emulator.replays();
        ops.fill(y, 40, f32::NAN);
        ops.recorded(&mut recorded, &mut || ops.linear_rows(y, &x, &weight, Plus::NOTHING, shape));
        ops.check().expect("no fault");
        assert_eq!(ops.values(y, 40), [512.0; 40]);
        assert_eq!(emulator.replays() - before, expected);
    };
    for expected in [0, 1, 1] {
        run(&mut y, expected);
    }
    // Others take all that there is, and then what the recordings had.
    let (generation, mut others) = (ops.pool().generation(), Vec::new());
    while ops.pool().generation() == generation {
        others.push(ops.pool.take(256).expect("memory"));
        assert_eq!(ops.pool().allocations(), 0, "no memory beyond the reservation");
    }
    others.pop();
    for expected in [1, 1] {
        run(&mut y, expected);
    }
}
