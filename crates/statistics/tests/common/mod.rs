//! Planted data: scores with known effects of items, runs and items in runs.

mod random;

pub use random::Random;
use statistics::{Cell, Sample, SeedScores};

/// A key for the bootstrap.
pub fn key(random: &mut Random) -> [u8; 32] {
    let mut key = [0; 32];
    key.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&random.bits().to_le_bytes()));
    key
}

/// How scores come about.
#[derive(Clone, Copy)]
pub struct Planted {
    pub items: usize,
    pub seeds: usize,
    /// Standard deviations of the effects of an item, a run, an item in a run.
    pub item: f64,
    pub run: f64,
    pub noise: f64,
    /// Scores are right or wrong, with the value as their log-odds.
    pub binary: bool,
}

impl Planted {
    /// A sample of one cell a mean; all cells share their items, each has its own runs.
    pub fn sample(&self, means: &[f64], random: &mut Random) -> Sample {
        let mut sample = Sample::new(self.items);
        let everything = (0..self.items as u32).collect();
        let coverage = sample.coverage(everything, vec![1; self.items]).unwrap();
        let items: Vec<f64> = (0..self.items).map(|_| self.item * random.normal()).collect();
        for mean in means {
            let seeds = (0..self.seeds).map(|_| {
                let run = self.run * random.normal();
                let mut score = |item: &f64| {
                    let value = mean + run + item + self.noise * random.normal();
                    if self.binary {
                        f64::from(random.uniform() < 1.0 / (1.0 + (-value).exp()))
                    } else {
                        value
                    }
                };
                SeedScores::Items { coverage, sums: items.iter().map(&mut score).collect() }
            });
            let range = self.binary.then_some((0.0, 1.0));
            let cell = Cell { seeds: seeds.collect(), range, binary: self.binary };
            sample.cell(cell).unwrap();
        }
        sample
    }
}
