//! Learning rate by step: linear warm-up, then constant, linear or cosine decay.
//!
//! The shapes are those of Hugging Face's `get_*_schedule_with_warmup`, but warm-up ends on the
//! peak at its last step, so that no step is spent at a rate of 0.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The shape after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// The peak to the end.
    Constant,
    /// A straight line to the end.
    Linear,
    /// Half a cosine wave (SGDR, arXiv 1608.03983).
    Cosine,
}

/// Length of the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Warmup {
    /// In steps.
    Steps(u64),
    /// As a share of all steps, rounded to the nearest step.
    Ratio(f64),
}

/// A learning rate for each of `total` steps.
#[derive(Clone, Copy, Debug)]
pub struct LearningRate {
    /// Highest rate.
    pub peak: f64,
    /// Shape after the warm-up.
    pub schedule: Schedule,
    /// Steps of warm-up.
    pub warmup: u64,
    /// Steps in all.
    pub total: u64,
    /// Lowest rate of a decay, as a share of the peak.
    pub min_ratio: f64,
}

impl Warmup {
    /// Steps of a run of `total`.
    pub fn steps(self, total: u64) -> u64 {
        match self {
            Warmup::Steps(steps) => steps,
            Warmup::Ratio(ratio) => (ratio * total as f64).round() as u64,
        }
    }
}

impl LearningRate {
    /// The rate of step `step`, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / self.warmup as f64;
        }
        let decay_steps = self.total.saturating_sub(self.warmup).max(1);
        let progress = ((step - self.warmup) as f64 / decay_steps as f64).min(1.0);
        let shape = match self.schedule {
            Schedule::Constant => return self.peak,
            Schedule::Linear => 1.0 - progress,
            Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
        };
        self.peak * (self.min_ratio + (1.0 - self.min_ratio) * shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(schedule: Schedule, warmup: u64, min_ratio: f64) -> LearningRate {
        LearningRate { peak: 2.0, schedule, warmup, total: 12, min_ratio }
    }

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found} is not {expected}");
    }

    #[test]
    fn warm_up_is_a_line_that_reaches_the_peak() {
        let rate = rate(Schedule::Constant, 4, 0.0);
        for (step, expected) in [0.5, 1.0, 1.5, 2.0, 2.0, 2.0].into_iter().enumerate() {
            close(rate.at(step as u64), expected);
        }
        close(rate.at(11), 2.0);
    }

    #[test]
    fn linear_falls_by_equal_parts_to_the_floor() {
        let rate = rate(Schedule::Linear, 2, 0.1);
        close(rate.at(2), 2.0);
        close(rate.at(7), 2.0 * 0.55);
        close(rate.at(12), 0.2);
        close(rate.at(5) - rate.at(6), rate.at(9) - rate.at(10));
    }

    #[test]
    fn cosine_is_half_way_in_the_middle_and_a_quarter_turn_is_its_cosine() {
        let rate = rate(Schedule::Cosine, 0, 0.0);
        close(rate.at(0), 2.0);
        close(rate.at(3), 1.0 + std::f64::consts::FRAC_1_SQRT_2);
        close(rate.at(6), 1.0);
        close(rate.at(12), 0.0);
    }

    #[test]
    fn a_ratio_becomes_steps() {
        assert_eq!(Warmup::Ratio(0.03).steps(1000), 30);
        assert_eq!(Warmup::Steps(7).steps(1000), 7);
    }
}
