//! The scale of a metric: where its scores must lie, and how people write them.

use crate::words::Unit;

/// Where scores lie, and their unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scale {
    /// `None` where the metric is not known and its scores do not tell.
    pub range: Option<(f64, f64)>,
    pub unit: Unit,
}

/// Metrics from 0 to 100 and those from 1 to 5, by what their names hold.
const HUNDRED: [&str; 3] = ["chrf", "bleu", "rouge"];
const FIVE: [&str; 2] = ["rating", "switch_aware"];

impl Scale {
    /// Of a metric by its name, if its scores agree with it; else by the scores.
    pub fn of(metric: &str, values: impl Iterator<Item = f64> + Clone) -> Scale {
        let name = metric.to_lowercase();
        let within =
            |low: f64, high: f64| values.clone().all(|value| (low..=high).contains(&value));
        let named = |words: &[&str]| words.iter().any(|word| name.contains(word));
        let range = match () {
            // sacreBLEU's scales go to 100; other tools divide by it.
            () if named(&HUNDRED) && !within(0.0, 1.0) && within(0.0, 100.0) => Some((0.0, 100.0)),
            () if named(&FIVE) && within(1.0, 5.0) => Some((1.0, 5.0)),
            () if within(0.0, 1.0) => Some((0.0, 1.0)),
            () => None,
        };
        let unit = if range.is_some_and(|(_, high)| high > 1.0) {
            Unit::Raw
        } else {
            Unit::of(metric, values)
        };
        Scale { range, unit }
    }

    /// The width of the scale.
    pub fn width(self) -> Option<f64> {
        self.range.map(|(low, high)| high - low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_known_by_name_and_value() {
        let of = |metric: &str, values: &[f64]| {
            let scale = Scale::of(metric, values.iter().copied());
            (scale.range, scale.unit)
        };
        assert_eq!(of("judge_rating", &[1.0, 4.5]), (Some((1.0, 5.0)), Unit::Raw));
        assert_eq!(of("judge_rating", &[1.0, 1.0]), (Some((1.0, 5.0)), Unit::Raw));
        assert_eq!(of("chrf_plus_plus", &[0.0, 43.2]), (Some((0.0, 100.0)), Unit::Raw));
        assert_eq!(of("judge_pass", &[0.0, 1.0]), (Some((0.0, 1.0)), Unit::Percent));
        assert_eq!(of("rouge_l", &[0.1, 0.4]), (Some((0.0, 1.0)), Unit::Hundredth));
        assert_eq!(of("points", &[3.0, 14.0]), (None, Unit::Raw));
    }
}
