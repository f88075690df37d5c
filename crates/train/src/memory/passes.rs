//! The passes that a run's memory depends on. What an operation takes grows with the rows, the counted rows and
//! the documents of its pass and with nothing else of it, so that a pass that has the most of each, which
//! no batch may have all at once, takes as much as any.

use crate::batches::{MICRO_BATCH_TOKENS, Plan, micro_batches};
use crate::config::Recipe;
use crate::data::{Dataset, Document};
use crate::model::{Batch, ModelConfig, Room};
use crate::setup::Setup;

/// Sequences that are looked through for the largest batches; of more, the most that they could be is taken.
const LOOKED_THROUGH: u64 = 2_000_000;

/// The most of what passes have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Most {
    /// Rows.
    pub rows: usize,
    /// Rows that count.
    pub counted: usize,
    /// Documents.
    pub documents: usize,
}

impl Most {
    /// What a document has, cut to a length.
    fn of(document: &Document, length: usize) -> Self {
        let targets = &document.targets[..document.targets.len().min(length)];
        let counted = targets.iter().filter(|&&target| target >= 0).count();
        Self { rows: targets.len(), counted, documents: 1 }
    }

    /// What some of these have together.
    fn sum(each: &[Self], part: &[usize]) -> Self {
        part.iter().map(|&index| each[index]).fold(Self::default(), |sum, one| Self {
            rows: sum.rows + one.rows,
            counted: sum.counted + one.counted,
            documents: sum.documents + one.documents,
        })
    }

    fn raise(&mut self, other: Self) {
        self.rows = self.rows.max(other.rows);
        self.counted = self.counted.max(other.counted);
        self.documents = self.documents.max(other.documents);
    }

    /// The same in no more than so many rows.
    fn within(self, rows: usize) -> Self {
        let rows = rows.min(self.rows).max(1);
        Self { rows, counted: self.counted.min(rows), documents: self.documents.min(rows) }
    }

    /// A batch that has them: documents of one token, but for as few as hold all others.
    fn batch(self, longest: usize) -> Batch {
        let Self { rows, counted, documents } = self;
        let documents = documents.max(rows.div_ceil(longest.max(1)));
        let mut batch = Batch { documents: vec![0], ..Batch::default() };
        for after in (0..documents).rev() {
            let before = batch.tokens.len();
            batch.tokens.resize((before + longest).min(rows - after), 0);
            batch.documents.push(batch.tokens.len() as u32);
        }
        batch.targets = (0..rows).map(|row| if row < counted { 0 } else { -1 }).collect();
        batch
    }
}

/// What a validation has at most, or a single row where there is none.
fn validation_or_least(validation: Option<Most>) -> Most {
    validation.unwrap_or(Most { rows: 1, counted: 1, documents: 1 })
}

/// The passes of a run that memory depends on.
#[derive(Clone, Debug)]
pub struct Passes {
    /// What there has to be room for.
    pub room: Room,
    /// The most of a training pass of one run.
    training: Most,
    /// The same of a validation.
    validation: Option<Most>,
    /// Passes of the step that has the most.
    pub most_passes: usize,
    /// Runs side by side that have such passes.
    pub runs: usize,
}

impl Passes {
    /// Those of a run with these settings, and its documents cut to a length.
    #[must_use]
    pub fn of(setup: &Setup, recipe: &Recipe, sequence_length: usize) -> Self {
        let each = |data: &Dataset| -> Vec<Most> {
            data.documents.iter().map(|one| Most::of(one, sequence_length)).collect()
        };
        let lengths = |each: &[Most]| -> Vec<usize> { each.iter().map(|one| one.rows).collect() };
        let of_training = each(&setup.train);
        let mut plan = Plan::new(lengths(&of_training), sequence_length, recipe);
        let total = recipe.steps(plan.steps_per_epoch());
        let looked_through = (LOOKED_THROUGH / recipe.batch_size as u64).max(1);
        let (mut training, mut most_passes) = (Most::default(), 0);
        if total > looked_through {
            let Self { training: most, most_passes: passes, .. } =
                Self::at_most(&setup.model, recipe);
            (training, most_passes) = (most, passes);
        }
        for step in 0..total.min(looked_through) {
            for share in plan.shares(step, recipe.ranks) {
                most_passes = most_passes.max(share.len());
                share.iter().for_each(|part| training.raise(Most::sum(&of_training, part)));
            }
        }
        let of_validation = setup.validation.as_ref().map(each).unwrap_or_default();
        let alone: Vec<Vec<usize>> = (0..of_validation.len()).map(|index| vec![index]).collect();
        let mut validation = Most::default();
        for part in micro_batches(&alone, &lengths(&of_validation)) {
            validation.raise(Most::sum(&of_validation, &part));
        }
        let all = of_training.iter().chain(&of_validation).map(|one| one.rows);
        let validation = Some(validation).filter(|most| most.rows > 0);
        Self::new(training, validation, all.max().unwrap_or(0), most_passes)
    }

    /// The most that they can be with these settings, whatever the data.
    #[must_use]
    pub fn at_most(model: &ModelConfig, recipe: &Recipe) -> Self {
        let length = recipe.sequence_length.min(model.max_position_embeddings);
        let all = recipe.batch_size.div_ceil(recipe.ranks) * length;
        let joined = MICRO_BATCH_TOKENS.max(length);
        let training = match recipe.gradient_accumulation {
            Some(parts) => recipe.batch_size.div_ceil(parts) * length,
            None => joined.min(all),
        };
        let most = |rows| Most { rows, counted: rows, documents: rows };
        Self::new(most(training), Some(most(joined)), length, all.div_ceil(training))
    }

    /// Passes of one run; `longest`: tokens of a document.
    pub(super) fn new(
        training: Most,
        validation: Option<Most>,
        longest: usize,
        most_passes: usize,
    ) -> Self {
        let inference = validation.map_or(0, |most| most.rows);
        let room = Room { training: training.rows, inference, longest };
        Self { room, training, validation, most_passes, runs: 1 }
    }

    /// Those of so many runs side by side, each of which has such passes: one pass is for the rows of all, as
    /// long as those are no more than a micro-batch.
    #[must_use]
    pub fn side_by_side(self, runs: usize) -> Self {
        let joined = |rows: usize| MICRO_BATCH_TOKENS.min(runs * rows);
        // Filled up, each has an eighth more at most.
        let filled = |rows: usize| rows + (rows / 8).max(15);
        let room = match runs {
            1 => self.room,
            _ => Room {
                training: self.training.rows.max(joined(filled(self.training.rows))),
                inference: self.validation.map_or(0, |most| most.rows.max(joined(most.rows))),
                ..self.room
            },
        };
        Self { room, runs, ..self }
    }

    /// Whether each of them can take place where there is room for those.
    #[must_use]
    pub fn fit(&self, others: &Self) -> bool {
        let (room, of) = (self.room, others.room);
        room.training <= of.training && room.inference <= of.inference && room.longest <= of.longest
    }

    /// Each run's batches of the passes that together take as much as any: training passes, where rows up to
    /// `filled` are another kind, of which recordings are made, and validations.
    #[must_use]
    pub fn kinds(&self, filled: usize) -> Vec<Vec<[Option<Batch>; 2]>> {
        let mut kinds = vec![vec![[Some(self.training), self.validation]; self.runs]];
        if self.runs > 1 {
            let (training, validation) = (self.shared(self.training), self.validation);
            let validation = validation.map(|most| self.shared(most));
            let of_run =
                |run: usize| [Some(training[run]), validation.as_ref().map(|each| each[run])];
            kinds.push((0..self.runs).map(of_run).collect());
            // One trains while the others validate: its pass is recorded as if it were alone.
            let others = validation_or_least(self.validation);
            let alone = [Some(self.training.within(filled)), None];
            let of_run = |run: usize| if run == 0 { alone } else { [None, Some(others)] };
            kinds.push((0..self.runs).map(of_run).collect());
        } else if self.training.rows > filled && filled > 0 {
            kinds.push(vec![[Some(self.training.within(filled)), None]]);
        }
        let batch = |most: Most| most.batch(self.room.longest);
        let of_run = |each: [Option<Most>; 2]| each.map(|most| most.map(batch));
        kinds.into_iter().map(|kind| kind.into_iter().map(of_run).collect()).collect()
    }

    /// What runs bring whose rows are all of a micro-batch together, in powers of two, which are not filled up.
    fn shared(&self, each: Most) -> Vec<Most> {
        let share = 1 << (MICRO_BATCH_TOKENS / self.runs).max(1).ilog2();
        let with_two = (MICRO_BATCH_TOKENS / share).saturating_sub(self.runs);
        let rows = |run: usize| if run < with_two { 2 * share } else { share };
        let of_run = |run: usize| {
            let rows = rows(run);
            let (counted, documents) = (each.counted.min(rows), each.documents.min(rows));
            Most { rows, counted, documents }
        };
        let joined = each.rows * self.runs > MICRO_BATCH_TOKENS;
        (0..self.runs).map(|run| if joined { of_run(run) } else { each }).collect()
    }
}
