//! Dropout on what an adapter reads (Srivastava et al. 2014; as PEFT applies it in LoRA): each value is
//! zero with probability p, the others are divided by 1 − p. Which ones is a function of the seed, the
//! step and the value's place alone: a counter put through Philox 4x32-10 (Salmon et al. 2011,
//! "Parallel random numbers: as easy as 1, 2, 3"). So the backward pass, and a layer that is computed
//! again, meet the same mask without one being kept.

use super::rounding::philox;
use super::split;
use super::{LinearShape, Mask};

impl Mask {
    /// Values whose random word is below this are dropped.
    #[must_use]
    pub fn threshold(&self) -> u32 {
        (self.rate * 2f64.powi(32)).round().min(f64::from(u32::MAX)) as u32
    }

    /// What the others are multiplied by.
    #[must_use]
    pub fn scale(&self) -> f32 {
        (1.0 / (1.0 - self.rate)) as f32
    }

    /// The two halves of the seed.
    #[must_use]
    pub fn key(&self) -> [u32; 2] {
        [self.seed as u32, (self.seed >> 32) as u32]
    }

    /// The random words of values 4 `block` to 4 `block` + 3 of the step.
    #[must_use]
    pub fn words(&self, block: u64) -> [u32; 4] {
        philox([block as u32, (block >> 32) as u32, self.step, self.place], self.key())
    }
}

/// y (+)= x through the mask, over the shape's rows of x.
pub fn apply(y: &mut [f32], x: &[f32], mask: &Mask, shape: LinearShape, accumulate: bool) {
    let (width, (threshold, scale)) = (shape.inputs, (mask.threshold(), mask.scale()));
    split::for_each_rows(&mut y[..shape.rows * width], width, |range, y| {
        let x = &x[range.start * width..range.end * width];
        let first = (mask.row + range.start as u64) * width as u64;
        let (mut block, mut words) = (first / 4, mask.words(first / 4));
        for ((y, x), at) in y.iter_mut().zip(x).zip(first..) {
            if at / 4 != block {
                block = at / 4;
                words = mask.words(block);
            }
            let kept = if words[(at % 4) as usize] < threshold { 0.0 } else { *x * scale };
            *y = if accumulate { *y + kept } else { kept };
        }
    });
}

/// The plain form: every value by itself.
pub mod reference {
    use super::super::rounding::philox;
    use super::{LinearShape, Mask};

    /// See [`super::apply`].
    pub fn apply(y: &mut [f32], x: &[f32], mask: &Mask, shape: LinearShape, accumulate: bool) {
        for row in 0..shape.rows {
            for column in 0..shape.inputs {
                let at = (mask.row + row as u64) * shape.inputs as u64 + column as u64;
                let [low, high] = [at / 4, (at / 4) >> 32].map(|half| half as u32);
                let word = philox([low, high, mask.step, mask.place], mask.key())[at as usize % 4];
                let (i, is_kept) = (row * shape.inputs + column, word >= mask.threshold());
                let kept = if is_kept { x[i] * mask.scale() } else { 0.0 };
                y[i] = if accumulate { y[i] + kept } else { kept };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{bits, on_threads, random};
    use super::*;

    const MASK: Mask = Mask { rate: 0.25, seed: (7 << 32) | 9, step: 3, place: 5, row: 2 };

    #[test]
    fn agrees_with_the_reference_bit_for_bit_on_any_number_of_threads() {
        for width in [1, 30, 1000] {
            let shape = LinearShape::new(300, width, 1);
            let (x, start) = (random(1, 300 * width), random(2, 300 * width));
            for accumulate in [false, true] {
                let run = || {
                    let mut y = start.clone();
                    apply(&mut y, &x, &MASK, shape, accumulate);
                    bits(&y)
                };
                let mut plain = start.clone();
                reference::apply(&mut plain, &x, &MASK, shape, accumulate);
                assert_eq!(on_threads(1, run), bits(&plain));
                assert_eq!(on_threads(2, run), bits(&plain));
            }
        }
    }

    #[test]
    fn a_quarter_is_dropped_and_the_rest_makes_up_for_it() {
        let shape = LinearShape::new(400, 100, 1);
        let mut y = vec![0.0; 40_000];
        apply(&mut y, &vec![3.0; 40_000], &MASK, shape, false);
        assert!(y.iter().all(|&y| y == 0.0 || y == 4.0));
        let dropped = y.iter().filter(|&&y| y == 0.0).count() as f64 / 40_000.0;
        // Four standard deviations of a share of 40,000.
        assert!((dropped - 0.25).abs() < 4.0 * (0.25f64 * 0.75 / 40_000.0).sqrt(), "{dropped}");
        let masked = |mask: &Mask, rows: usize| {
            let mut y = vec![0.0; rows * 100];
            apply(&mut y, &vec![3.0; rows * 100], mask, LinearShape::new(rows, 100, 1), false);
            y
        };
        // Cut into parts, a step has the mask that it has whole.
        assert_eq!(masked(&Mask { row: MASK.row + 30, ..MASK }, 10), y[3000..4000]);
        for other in [Mask { step: 4, ..MASK }, Mask { place: 6, ..MASK }, Mask { seed: 1, ..MASK }]
        {
            assert_ne!(masked(&other, 10), y[..1000]);
        }
    }
}
