//! What the tests of all operations share: random tensors, comparison in relative terms, finite
//! differences, thread pools.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Values in [-1, 1), from a seed.
pub fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| (generator.next_u32() as f32 / 2f32.powi(31)) - 1.0).collect()
}

/// The largest difference, relative to the largest expected value, is at most `tolerance`.
#[track_caller]
pub fn assert_close(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(1e-6f32, |m, x| m.max(x.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!(
            (f - e).abs() <= tolerance * largest,
            "element {i}: {f}, expected {e} (largest {largest})"
        );
    }
}

/// `gradient` is d(sum of dy · run(x))/dx, by central differences.
#[track_caller]
pub fn assert_gradient(gradient: &[f32], x: &[f32], dy: &[f32], run: impl Fn(&[f32]) -> Vec<f32>) {
    let step = 2f32.powi(-7);
    let value = |x: &[f32]| {
        run(x).iter().zip(dy).map(|(y, dy)| f64::from(*y) * f64::from(*dy)).sum::<f64>()
    };
    let expected: Vec<f32> = (0..x.len())
        .map(|i| {
            let mut moved = x.to_vec();
            moved[i] = x[i] + step;
            let above = value(&moved);
            moved[i] = x[i] - step;
            ((above - value(&moved)) / f64::from(2.0 * step)) as f32
        })
        .collect();
    assert_close(gradient, &expected, 1e-3);
}

/// Bit patterns, for comparisons that take no tolerance.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Runs `work` with a pool of so many threads.
pub fn on_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool").install(work)
}
