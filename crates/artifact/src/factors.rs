//! The factors of a run: what the design varied. They travel as columns from the mixture index
//! through generations and scores to the report, so that any table can be grouped by them.

use anyhow::Result;
use polars::prelude::*;
use serde::{Deserialize, Serialize};

/// Column names of the factors, in order.
pub const NAMES: [&str; 9] = [
    "model",
    "setting",
    "train_langs",
    "n",
    "english",
    "budget",
    "sampler",
    "data_seed",
    "train_seed",
];

/// One run's factors; `None` where a factor does not apply or is not known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Factors {
    /// Name of the base model.
    pub model: Option<String>,
    /// `single-task` or `multi-task`.
    pub setting: Option<String>,
    /// The design's seen languages, joined by commas; the same for n = 0.
    pub train_langs: Option<String>,
    /// Examples per seen language other than English, and per task.
    pub n: Option<i64>,
    /// English examples per task.
    pub english: Option<i64>,
    /// The budget rule: `additive`, `substitution`, `explicit`.
    pub budget: Option<String>,
    /// How strata are sampled: `uniform`.
    pub sampler: Option<String>,
    /// Seed of the draw.
    pub data_seed: Option<i64>,
    /// Seed of training.
    pub train_seed: Option<i64>,
}

impl Factors {
    /// Sets the factor columns of `df` to this run's values, the same on every row.
    pub fn add_to(&self, df: &mut DataFrame) -> Result<()> {
        let rows = df.height();
        let text = |name: &str, value: &Option<String>| {
            StringChunked::from_iter_options(
                name.into(),
                std::iter::repeat_n(value.as_deref(), rows),
            )
            .into_column()
        };
        let number = |name: &str, value: Option<i64>| {
            Int64Chunked::from_iter_options(name.into(), std::iter::repeat_n(value, rows))
                .into_column()
        };
        for column in [
            text("model", &self.model),
            text("setting", &self.setting),
            text("train_langs", &self.train_langs),
            number("n", self.n),
            number("english", self.english),
            text("budget", &self.budget),
            text("sampler", &self.sampler),
            number("data_seed", self.data_seed),
            number("train_seed", self.train_seed),
        ] {
            df.with_column(column)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_become_columns_of_those_names() {
        let mut df = df!("id" => ["a", "b"]).unwrap();
        let factors =
            Factors { n: Some(100), setting: Some("single-task".into()), ..Factors::default() };
        factors.add_to(&mut df).unwrap();
        let names: Vec<_> =
            df.get_column_names().iter().skip(1).map(|name| name.as_str()).collect();
        assert_eq!(names, NAMES);
        assert_eq!(df.column("n").unwrap().i64().unwrap().get(1), Some(100));
        assert_eq!(df.column("model").unwrap().null_count(), 2);
    }
}
