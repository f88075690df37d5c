//! What adapters need of a device, on the emulated one: products of several runs' rows end to end, and
//! dropout.

use std::sync::Arc;

use super::Cuda;
use super::emulator::Emulator;
use crate::ops::testing::{bits, random};
use crate::ops::*;

/// One of each class of cards.
fn devices() -> Vec<Cuda> {
    let emulators = [(9, 0), (8, 0)].into_iter().filter_map(Emulator::new);
    emulators.map(|emulator| Cuda::new(Arc::new(emulator))).collect()
}

#[test]
fn runs_end_to_end_get_the_bits_that_each_gets_alone() {
    for ops in devices() {
        // Runs that choose the same kernel, and runs that do not; a width that only the plain one has.
        for (ends, inputs, outputs) in
            [([40, 90, 100], 64, 72), ([3, 131, 400], 1088, 136), ([5, 20, 21], 30, 9)]
        {
            let runs = [0..ends[0], ends[0]..ends[1], ends[1]..ends[2]];
            let s = LinearShape::new(ends[2], inputs, outputs);
            let tensor = |seed, len| ops.tensor(Kind::Activation, random(seed, len));
            let (x, residual) = (tensor(1, s.rows * inputs), tensor(2, s.rows * outputs));
            let weight = ops.tensor(Kind::Weight, random(3, inputs * outputs));
            let plus = Plus { bias: None, residual: Some(&residual) };
            let [mut y, mut own_y] = [(); 2].map(|()| tensor(4, s.rows * outputs));
            let [mut dx, mut own_dx] = [(); 2].map(|()| tensor(5, s.rows * inputs));
            ops.linear_of_runs(&mut y, &x, &weight, plus, s, &runs);
            ops.linear_backward_input_of_runs(&mut dx, &residual, &weight, s, true, &runs);
            for run in &runs {
                ops.linear(&mut own_y, &x, &weight, plus, s.part(run));
                ops.linear_backward_input(&mut own_dx, &residual, &weight, s.part(run), true);
            }
            let read = |tensor, len| bits(&ops.values(tensor, len));
            assert_eq!(read(&y, s.rows * outputs), read(&own_y, s.rows * outputs));
            assert_eq!(read(&dx, s.rows * inputs), read(&own_dx, s.rows * inputs));
            ops.check().unwrap();
        }
    }
}

#[test]
fn dropout_has_the_references_mask() {
    for ops in devices() {
        let mask = Mask { rate: 0.3, seed: (5 << 32) | 8, step: 2, place: 11, row: 3 };
        for accumulate in [false, true] {
            let shape = LinearShape { first: 2, ..LinearShape::new(40, 24, 1) };
            let start = |seed| ops.tensor(Kind::Activation, random(seed, 44 * 24));
            let (x, mut y) = (start(1), start(2));
            let (plain_x, mut plain) = (ops.values(&x, 44 * 24), ops.values(&y, 44 * 24));
            Reference.dropout(&mut plain, &plain_x, &mask, shape, accumulate);
            ops.dropout(&mut y, &x, &mask, shape, accumulate);
            ops.check().unwrap();
            let found = ops.values(&y, 44 * 24);
            let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 4e-3 * b.abs().max(0.25);
            assert!(found.iter().zip(&plain).all(near));
            let zeros = |values: &[f32]| values.iter().filter(|v| **v == 0.0).count();
            assert_eq!(zeros(&found), zeros(&plain));
        }
    }
}
