//! What the metrics so far say of a run: which validation is the best, whether it still gets better,
//! whether it has exploded. Rows go in one by one, so a resumed run that replays its rows stands where it stood.

use std::collections::VecDeque;

use crate::{config::Recipe, metrics::Row};

/// Steps whose mean loss is looked at, so that one odd batch decides nothing.
const WINDOW: usize = 10;

/// The course of a run.
pub struct Course {
    /// Languages that are trained.
    trained: Vec<String>,
    /// Validations without progress that end the run; `None`: none do.
    patience: Option<u64>,
    /// By how much a validation loss must fall to be progress.
    min_delta: f64,
    /// Nats by which the loss may rise above its lowest; `None`: any.
    max_rise: Option<f64>,
    best: Option<(u64, f64)>,
    /// The loss that a validation must fall below to be progress, and validations since it was set.
    progress: (f64, u64),
    recent: VecDeque<f64>,
    lowest: f64,
}

/// A loss that has risen too far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Explosion {
    /// Mean loss of the last steps.
    pub now: f64,
    /// The lowest such mean of the run.
    pub lowest: f64,
}

impl Course {
    /// Before the first row.
    pub fn new(recipe: &Recipe, trained: &[String]) -> Self {
        Self {
            trained: trained.to_owned(),
            patience: recipe.patience,
            min_delta: recipe.min_delta,
            max_rise: Some(recipe.max_loss_rise).filter(|&rise| rise > 0.0),
            best: None,
            progress: (f64::INFINITY, 0),
            recent: VecDeque::with_capacity(WINDOW),
            lowest: f64::INFINITY,
        }
    }

    /// Takes the next row.
    pub fn add(&mut self, row: &Row) {
        if row.validation {
            // The model as it came is the baseline and no candidate.
            if row.step > 0 {
                self.validated(row.step, deciding_loss(row, &self.trained));
            }
            return;
        }
        if self.recent.len() == WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back(row.loss);
        if let Some(mean) = self.recent_mean() {
            self.lowest = self.lowest.min(mean);
        }
    }

    fn validated(&mut self, step: u64, loss: f64) {
        if self.best.is_none_or(|(_, best)| loss < best) {
            self.best = Some((step, loss));
        }
        let (mark, waited) = &mut self.progress;
        if loss < *mark - self.min_delta {
            (*mark, *waited) = (loss, 0);
        } else {
            *waited += 1;
        }
    }

    fn recent_mean(&self) -> Option<f64> {
        let full = self.recent.len() == WINDOW;
        full.then(|| self.recent.iter().sum::<f64>() / WINDOW as f64)
    }

    /// The validation with the lowest loss after the first step, as (step, loss); the earliest on a tie.
    ///
    /// Only the languages that are trained decide, each counting once. A language that the mixture
    /// lacks is watched and never chosen by: else a run on English alone would be picked by how it does
    /// in the languages it is meant to know nothing of.
    pub fn best(&self) -> Option<(u64, f64)> {
        self.best
    }

    /// Whether patience is at its end.
    pub fn has_stalled(&self) -> bool {
        self.patience.is_some_and(|patience| self.progress.1 >= patience)
    }

    /// Whether the loss has exploded: the mean of the last ten steps stands too far above the lowest such mean.
    pub fn explosion(&self) -> Option<Explosion> {
        let (now, rise) = (self.recent_mean()?, self.max_rise?);
        (now > self.lowest + rise).then_some(Explosion { now, lowest: self.lowest })
    }

    /// Whether the last step's loss alone stands too far above the lowest mean. A checkpoint of such a
    /// step might not be one to go back to.
    pub fn is_in_doubt(&self) -> bool {
        match (self.recent.back(), self.max_rise) {
            (Some(last), Some(rise)) => *last > self.lowest + rise,
            _ => false,
        }
    }
}

fn deciding_loss(row: &Row, trained: &[String]) -> f64 {
    let known = row.by_language.iter().filter(|(language, _)| trained.contains(language));
    let losses: Vec<f64> = known.map(|(_, loss)| *loss).collect();
    if losses.is_empty() { row.loss } else { losses.iter().sum::<f64>() / losses.len() as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TrainConfig;

    fn row(step: u64, validation: bool, loss: f64, by_language: &[(&str, f64)]) -> Row {
        let by_language =
            by_language.iter().map(|(name, loss)| ((*name).to_owned(), *loss)).collect();
        Row { step, validation, loss, by_language, ..Row::default() }
    }

    fn course(config: TrainConfig, trained: &[&str]) -> Course {
        let trained: Vec<String> = trained.iter().map(|&name| name.to_owned()).collect();
        Course::new(&config.resolve().unwrap(), &trained)
    }

    fn after(config: TrainConfig, trained: &[&str], rows: &[Row]) -> Course {
        let mut course = course(config, trained);
        rows.iter().for_each(|row| course.add(row));
        course
    }

    #[test]
    fn the_best_is_the_first_lowest_validation_of_a_trained_model() {
        let rows = [
            row(0, true, 0.5, &[]),
            row(1, false, 0.1, &[]),
            row(2, true, 0.9, &[]),
            row(4, true, 0.7, &[]),
            row(6, true, 0.7, &[]),
        ];
        let best = |rows| after(TrainConfig::default(), &[], rows).best();
        assert_eq!(best(&rows), Some((4, 0.7)));
        assert_eq!(best(&rows[..2]), None);
    }

    #[test]
    fn languages_that_are_not_trained_do_not_choose() {
        let rows = [
            row(2, true, 1.0, &[("en", 0.9), ("es", 1.1)]),
            row(4, true, 2.0, &[("en", 0.2), ("es", 3.8)]),
        ];
        let best = |trained: &[&str]| after(TrainConfig::default(), trained, &rows).best();
        assert_eq!(best(&["en"]), Some((4, 0.2)));
        assert_eq!(best(&["en", "es"]), Some((2, 1.0)));
    }

    #[test]
    fn patience_counts_validations_that_are_no_progress() {
        let losses = [3.0, 2.0, 1.95, 1.92, 1.91];
        let rows: Vec<Row> =
            losses.iter().zip(1..).map(|(&loss, step)| row(step, true, loss, &[])).collect();
        let stalled = |patience, min_delta| {
            let config = TrainConfig {
                patience: Some(patience),
                min_delta: Some(min_delta),
                ..TrainConfig::default()
            };
            let mut course = course(config, &[]);
            let stalls = |row: &Row| {
                course.add(row);
                course.has_stalled()
            };
            rows.iter().position(stalls).map(|place| place + 1)
        };
        assert_eq!(stalled(2, 0.1), Some(4), "1.95 and 1.92 are within 0.1 of 2.0");
        assert_eq!(stalled(3, 0.1), Some(5));
        assert_eq!(stalled(2, 0.07), None, "1.92 is progress, 0.08 below 2.0");
        assert_eq!(stalled(1, 0.0), None, "every one was lower");
        assert!(!after(TrainConfig::default(), &[], &rows).has_stalled());
    }

    #[test]
    fn an_explosion_is_a_mean_far_above_the_lowest_and_not_one_odd_batch() {
        let config = || TrainConfig { max_loss_rise: Some(2.0), ..TrainConfig::default() };
        let steps = |losses: &[f64]| -> Vec<Row> {
            losses.iter().zip(1..).map(|(&loss, step)| row(step, false, loss, &[])).collect()
        };
        let mut losses = vec![1.0; 12];
        losses.push(9.0);
        let odd = after(config(), &[], &steps(&losses));
        assert_eq!(odd.explosion(), None);
        assert!(odd.is_in_doubt());
        losses.extend([9.0, 9.0]);
        // The mean of seven ones and three nines.
        let exploded = after(config(), &[], &steps(&losses)).explosion();
        assert_eq!(exploded, Some(Explosion { now: 3.4, lowest: 1.0 }));
        let off = TrainConfig { max_loss_rise: Some(0.0), ..TrainConfig::default() };
        assert_eq!(after(off, &[], &steps(&losses)).explosion(), None);
        assert_eq!(after(config(), &[], &steps(&losses[..9])).explosion(), None);
    }
}
