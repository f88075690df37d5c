//! Scores as the bootstrap takes them: cells (a language at one setting), each with its runs
//! ("seeds"), each run with its scores item by item.
//!
//! An item is a cluster: what occurs in several cells, runs and metrics under one number is the
//! same test item there, and is drawn in all of them together, so that differences are paired.

use crate::interval::mean;
use crate::unavailable::{Outcome, Unavailable, finite, same_length};

/// All cells that share a set of test items.
pub struct Sample {
    items: usize,
    pub(crate) coverages: Vec<Coverage>,
    cells: Vec<Cell>,
}

/// Which items a run scored, and how many scores each has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Coverage {
    pub items: Vec<u32>,
    pub counts: Vec<u32>,
}

/// The scores of one language at one setting.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Run by run. Runs at the same place belong together across cells (the languages of one run,
    /// runs of one seed).
    pub seeds: Vec<SeedScores>,
    /// Where scores must lie, as 0 to 1 for a share: intervals are cut to it.
    pub range: Option<(f64, f64)>,
    /// Whether every score is 0 or 1.
    pub binary: bool,
}

/// One run's scores in a cell.
#[derive(Clone, Debug)]
pub enum SeedScores {
    /// Sums of the scores by item, along the items of a coverage.
    Items {
        /// From [`Sample::coverage`].
        coverage: usize,
        /// One sum an item.
        sums: Vec<f64>,
    },
    /// A mean whose items are not known.
    Aggregate(f64),
}

impl Sample {
    /// A sample over items `0..items`.
    pub fn new(items: usize) -> Sample {
        Sample { items, coverages: Vec::new(), cells: Vec::new() }
    }

    /// Items, whether or not a cell has them.
    pub fn items(&self) -> usize {
        self.items
    }

    /// The cells, in the order they came.
    pub fn cells(&self) -> &[Cell] {
        &self.cells
    }

    /// Registers which items a run scored, ascending, and how many scores each has; the same
    /// coverage twice is kept once. Returns its number.
    ///
    /// # Errors
    /// Lists of different lengths, no items, or items that are unknown, repeated or without scores.
    pub fn coverage(&mut self, items: Vec<u32>, counts: Vec<u32>) -> Outcome<usize> {
        same_length("items and their counts of scores", items.len(), counts.len())?;
        let Some(&last) = items.last() else { return Err(Unavailable::Empty) };
        if last as usize >= self.items {
            return Err(Unavailable::OutOfRange { what: "an item", value: f64::from(last) });
        }
        if let Some(pair) = items.windows(2).find(|pair| pair[0] >= pair[1]) {
            let value = f64::from(pair[1]);
            return Err(Unavailable::OutOfRange { what: "an item after a larger one", value });
        }
        if counts.contains(&0) {
            return Err(Unavailable::OutOfRange { what: "a count of scores", value: 0.0 });
        }
        let coverage = Coverage { items, counts };
        let known = self.coverages.iter().position(|known| *known == coverage);
        Ok(known.unwrap_or_else(|| {
            self.coverages.push(coverage);
            self.coverages.len() - 1
        }))
    }

    /// Adds a cell and returns its number.
    ///
    /// # Errors
    /// No runs, a score that is not finite, or sums that do not fit their coverage.
    pub fn cell(&mut self, cell: Cell) -> Outcome<usize> {
        if cell.seeds.is_empty() {
            return Err(Unavailable::Empty);
        }
        for seed in &cell.seeds {
            match seed {
                SeedScores::Aggregate(value) => finite(&[*value])?,
                SeedScores::Items { coverage, sums } => {
                    let Some(known) = self.coverages.get(*coverage) else {
                        return Err(Unavailable::OutOfRange {
                            what: "a coverage",
                            value: *coverage as f64,
                        });
                    };
                    same_length("sums and the items of their coverage", sums.len(), known.len())?;
                    finite(sums)?;
                }
            }
        }
        self.cells.push(cell);
        Ok(self.cells.len() - 1)
    }

    pub(crate) fn get(&self, cell: usize) -> Outcome<&Cell> {
        self.cells.get(cell).ok_or(Unavailable::NoSuchCell { cell, cells: self.cells.len() })
    }

    /// A run's mean over its scores.
    pub(crate) fn seed_mean(&self, seed: &SeedScores) -> f64 {
        match seed {
            SeedScores::Aggregate(value) => *value,
            SeedScores::Items { coverage, sums } => {
                sums.iter().sum::<f64>() / self.coverages[*coverage].scores()
            }
        }
    }

    /// A run's mean with each item left out in turn: one value an item of the sample, which is the
    /// mean itself where the run does not have the item, and NaN where it has no other.
    pub(crate) fn leave_one_out(&self, seed: &SeedScores) -> Vec<f64> {
        let mut values = vec![self.seed_mean(seed); self.items];
        if let SeedScores::Items { coverage, sums } = seed {
            let coverage = &self.coverages[*coverage];
            let (total, scores) = (sums.iter().sum::<f64>(), coverage.scores());
            for ((&item, &count), sum) in coverage.items.iter().zip(&coverage.counts).zip(sums) {
                values[item as usize] = (total - sum) / (scores - f64::from(count));
            }
        }
        values
    }

    /// Items of the sample that any run of a cell has.
    pub(crate) fn mark_items(&self, cell: usize, marks: &mut [bool]) {
        for seed in &self.cells[cell].seeds {
            if let SeedScores::Items { coverage, .. } = seed {
                for &item in &self.coverages[*coverage].items {
                    marks[item as usize] = true;
                }
            }
        }
    }

    /// A cell's score by item, averaged over the runs that have it; `None` where none does.
    fn item_means(&self, cell: usize) -> Outcome<Vec<Option<f64>>> {
        let mut found = vec![(0.0, 0.0); self.items];
        for seed in &self.get(cell)?.seeds {
            let SeedScores::Items { coverage, sums } = seed else { continue };
            let coverage = &self.coverages[*coverage];
            for ((&item, &count), sum) in coverage.items.iter().zip(&coverage.counts).zip(sums) {
                let (total, runs) = &mut found[item as usize];
                *total += sum / f64::from(count);
                *runs += 1.0;
            }
        }
        Ok(found.into_iter().map(|(total, runs)| (runs > 0.0).then(|| total / runs)).collect())
    }

    /// First less second, item by item over the items that both have, averaged over runs first:
    /// what [`permutation`](crate::permutation) takes.
    ///
    /// # Errors
    /// An unknown cell, or no item in common.
    pub fn item_differences(&self, first: usize, second: usize) -> Outcome<Vec<f64>> {
        let (first, second) = (self.item_means(first)?, self.item_means(second)?);
        let differences: Vec<f64> =
            first.iter().zip(&second).filter_map(|(a, b)| Some((*a)? - (*b)?)).collect();
        if differences.is_empty() { Err(Unavailable::Empty) } else { Ok(differences) }
    }

    /// Items that the first alone has right and that the second alone has right: what
    /// [`mcnemar`](crate::mcnemar) takes.
    ///
    /// # Errors
    /// An unknown cell, no item in common, several runs, or scores other than 0 and 1.
    pub fn discordant(&self, first: usize, second: usize) -> Outcome<(u64, u64)> {
        for cell in [first, second] {
            let cell = self.get(cell)?;
            if !cell.binary || cell.seeds.len() != 1 {
                return Err(Unavailable::NotBinary);
            }
        }
        let differences = self.item_differences(first, second)?;
        if differences.iter().any(|difference| ![-1.0, 0.0, 1.0].contains(difference)) {
            return Err(Unavailable::NotBinary);
        }
        let count = |sign: f64| differences.iter().filter(|&&one| one == sign).count() as u64;
        Ok((count(1.0), count(-1.0)))
    }
}

impl Coverage {
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Scores over all items.
    pub fn scores(&self) -> f64 {
        self.counts.iter().map(|&count| f64::from(count)).sum()
    }
}

impl Cell {
    /// Run by run.
    pub(crate) fn seed_means(&self, sample: &Sample) -> Vec<f64> {
        self.seeds.iter().map(|seed| sample.seed_mean(seed)).collect()
    }

    /// The mean of the runs' means.
    pub(crate) fn mean(&self, sample: &Sample) -> f64 {
        mean(self.seed_means(sample))
    }
}
