//! Random numbers that depend on a key and a place alone: draw `b` has its own ChaCha stream, so
//! results are the same whatever the number of threads.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What decides all draws of an analysis.
pub type Key = [u8; 32];

/// One stream of random numbers.
pub(crate) struct Stream(ChaCha8Rng);

impl Stream {
    /// Stream number `place` of a key.
    pub fn new(key: Key, place: u64) -> Self {
        let mut random = ChaCha8Rng::from_seed(key);
        random.set_stream(place);
        Stream(random)
    }

    /// Sixty-four random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `bound`, each as likely (up to 2⁻⁶⁴·bound).
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.bits()) * bound as u128) >> 64) as usize
    }

    /// Uniform in (0, 1), both ends excluded.
    pub fn uniform(&mut self) -> f64 {
        ((self.bits() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Standard normal, by Box and Muller's method (1958).
    pub fn normal(&mut self) -> f64 {
        let (radius, angle) = (self.uniform(), self.uniform());
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    }

    /// χ², as twice a gamma variate by Marsaglia and Tsang's method (2000).
    pub fn chi_squared(&mut self, degrees_of_freedom: f64) -> f64 {
        if degrees_of_freedom < 2.0 {
            let boost = self.uniform().powf(2.0 / degrees_of_freedom);
            return self.chi_squared(degrees_of_freedom + 2.0) * boost;
        }
        let d = degrees_of_freedom / 2.0 - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && self.uniform().ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return 2.0 * d * v;
            }
        }
    }

    /// Shuffles in place (Fisher and Yates).
    pub fn shuffle(&mut self, values: &mut [f64]) {
        for last in (1..values.len()).rev() {
            values.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut stream = Stream::new([7; 32], 0);
        let count = 20_000;
        let normals: Vec<f64> = (0..count).map(|_| stream.normal()).collect();
        let moment = |values: &[f64], k: i32| {
            values.iter().map(|value| value.powi(k)).sum::<f64>() / values.len() as f64
        };
        // Standard errors: 1/√n, √2/√n, √96/√n.
        let root = f64::from(count).sqrt();
        assert!(moment(&normals, 1).abs() < 4.0 / root);
        assert!((moment(&normals, 2) - 1.0).abs() < 4.0 * 2f64.sqrt() / root);
        assert!((moment(&normals, 4) - 3.0).abs() < 4.0 * 96f64.sqrt() / root);
        for df in [1.0, 2.0, 9.0, 250.0] {
            let values: Vec<f64> = (0..count).map(|_| stream.chi_squared(df)).collect();
            let variance = moment(&values, 2) - moment(&values, 1).powi(2);
            assert!((moment(&values, 1) - df).abs() < 4.0 * (2.0 * df).sqrt() / root, "{df}");
            assert!((variance / (2.0 * df) - 1.0).abs() < 0.2, "{df} {variance}");
        }
    }

    #[test]
    fn streams_of_one_key_differ_and_repeat() {
        let first = |place| Stream::new([1; 32], place).bits();
        assert_eq!(first(3), first(3));
        assert_ne!(first(3), first(4));
    }
}
