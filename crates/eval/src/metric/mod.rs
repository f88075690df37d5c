//! The metrics: each a pure function of texts in a file of its own, with its reference implementation or paper named there.
//!
//! A score is nothing without the way it was made, so each metric has a signature. Scales are those of the reference tools: ROUGE-L
//! and the 0/1 metrics from 0 to 1, chrF from 0 to 100.

pub mod chrf;
pub mod exact_match;
pub mod fidelity;
pub mod number;
pub mod porter;
pub mod rouge;
pub mod tokens;

use exact_match::Marks;
use fidelity::Fidelity;
use language::Detector;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokens::Tokenizer;

/// A metric by its name in a task file and in the `metric` column.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// The final number equals the reference's: the strict form where there is one, or else the flexible one.
    ExactMatch,
    /// The number behind the answer prefix equals the reference's.
    ExactMatchStrict,
    /// Whether there is a number behind an answer prefix: its mean is the extraction rate.
    Extracted,
    /// ROUGE-L over words of any script.
    RougeL,
    /// ROUGE-L exactly as Google's rouge-score: ASCII words alone.
    RougeLAscii,
    /// The same with the Porter stemmer.
    RougeLAsciiStemmed,
    /// chrF as sacreBLEU's.
    Chrf,
    /// chrF++ as sacreBLEU's.
    ChrfPlusPlus,
    /// Whether the answer is in the language asked for.
    LanguageFidelity,
    /// Whether each of its lines is.
    LinePass,
}

/// What is scored: one answer.
pub struct Item<'a> {
    /// The language asked for.
    pub lang: &'a str,
    /// The answer; empty if there is none.
    pub generation: &'a str,
    /// What it is compared with.
    pub reference: Option<&'a str>,
    /// Answer prefixes and stops of the task in this language.
    pub marks: &'a Marks,
}

/// A metric's value for one answer.
pub struct Value {
    /// `None` where the metric does not apply to this answer.
    pub value: Option<f64>,
    /// How it came about: the number found, the language detected, why there is no value.
    pub detail: Option<String>,
}

impl Value {
    fn plain(value: f64) -> Value {
        Value { value: Some(value), detail: None }
    }
}

impl Metric {
    /// The name in the `metric` column.
    pub fn name(self) -> &'static str {
        match self {
            Metric::ExactMatch => "exact_match",
            Metric::ExactMatchStrict => "exact_match_strict",
            Metric::Extracted => "extracted",
            Metric::RougeL => "rouge_l",
            Metric::RougeLAscii => "rouge_l_ascii",
            Metric::RougeLAsciiStemmed => "rouge_l_ascii_stemmed",
            Metric::Chrf => "chrf",
            Metric::ChrfPlusPlus => "chrf_plus_plus",
            Metric::LanguageFidelity => "language_fidelity",
            Metric::LinePass => "line_pass",
        }
    }

    /// Whether it compares with a reference.
    pub fn needs_reference(self) -> bool {
        !matches!(self, Metric::Extracted | Metric::LanguageFidelity | Metric::LinePass)
    }

    /// Variant, tokenizer, stemmer and the like, as in sacreBLEU's signatures.
    pub fn signature(self, detector: &Detector) -> String {
        match self {
            Metric::ExactMatch => {
                "number|form:strict-or-last|digits:any|separators:by-language".to_owned()
            }
            Metric::ExactMatchStrict | Metric::Extracted => {
                "number|form:strict|digits:any|separators:by-language".to_owned()
            }
            Metric::Chrf => chrf::signature(0).to_owned(),
            Metric::ChrfPlusPlus => chrf::signature(2).to_owned(),
            Metric::LanguageFidelity | Metric::LinePass => {
                fidelity::signature(self.name(), detector)
            }
            Metric::RougeL | Metric::RougeLAscii | Metric::RougeLAsciiStemmed => {
                rouge::signature(self.tokenizer()).to_owned()
            }
        }
    }

    fn tokenizer(self) -> Tokenizer {
        match self {
            Metric::RougeLAscii => Tokenizer::Ascii { stem: false },
            Metric::RougeLAsciiStemmed => Tokenizer::Ascii { stem: true },
            _ => Tokenizer::Unicode,
        }
    }

    /// Scores one answer.
    pub fn score(self, item: &Item, detector: &Detector) -> Value {
        let reference = match item.reference {
            Some(reference) => reference,
            None if self.needs_reference() => {
                return Value { value: None, detail: Some("no reference".to_owned()) };
            }
            None => "",
        };
        match self {
            Metric::ExactMatch | Metric::ExactMatchStrict => self.number(item, reference),
            Metric::Extracted => {
                let found = exact_match::strict(item.generation, item.marks, item.lang);
                Value {
                    value: Some(f64::from(found.is_some())),
                    detail: found.map(|number| number.value.to_string()),
                }
            }
            Metric::RougeL | Metric::RougeLAscii | Metric::RougeLAsciiStemmed => {
                Value::plain(rouge::rouge_l(item.generation, reference, self.tokenizer()))
            }
            Metric::Chrf => Value::plain(chrf::chrf(item.generation, reference, 0)),
            Metric::ChrfPlusPlus => Value::plain(chrf::chrf(item.generation, reference, 2)),
            Metric::LanguageFidelity => {
                fidelity::language_fidelity(item.generation, item.lang, detector).into()
            }
            Metric::LinePass => fidelity::line_pass(item.generation, item.lang, detector).into(),
        }
    }

    fn number(self, item: &Item, reference: &str) -> Value {
        let Some(gold) = exact_match::gold(reference, item.marks, item.lang) else {
            return Value { value: None, detail: Some("no number in the reference".to_owned()) };
        };
        let strict = exact_match::strict(item.generation, item.marks, item.lang);
        let found = match self {
            Metric::ExactMatch => {
                strict.or_else(|| exact_match::flexible(item.generation, item.marks, item.lang))
            }
            _ => strict,
        };
        let shown = found.map_or("none".to_owned(), |number| number.value.to_string());
        Value {
            value: Some(f64::from(found.is_some_and(|found| found.agrees(&gold)))),
            detail: Some(format!("found {shown}, want {}", gold.value)),
        }
    }
}

impl From<Fidelity> for Value {
    fn from(found: Fidelity) -> Value {
        let detail = match found.detected {
            Some(detected) => format!("{}: {detected}", found.rule),
            None => found.rule.to_owned(),
        };
        Value { value: found.value, detail: Some(detail) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(metric: Metric, generation: &str, reference: Option<&str>) -> Option<f64> {
        let marks =
            Marks { prefixes: vec!["the answer is".into()], stops: vec!["\nQuestion:".into()] };
        let detector = Detector::new(&["en".into(), "es".into()]).expect("known languages");
        metric.score(&Item { lang: "en", generation, reference, marks: &marks }, &detector).value
    }

    #[test]
    fn exact_match_falls_back_to_the_last_number_and_strict_does_not() {
        let generation = "5 + 13 makes 18 ducks.";
        assert_eq!(score(Metric::ExactMatch, generation, Some("18")), Some(1.0));
        assert_eq!(score(Metric::ExactMatchStrict, generation, Some("18")), Some(0.0));
        assert_eq!(score(Metric::Extracted, generation, None), Some(0.0));
        let answered = "5 + 13 = 18. The answer is 18.\nQuestion: 3 + 4? The answer is 7.";
        assert_eq!(
            score(Metric::ExactMatchStrict, answered, Some("1 + 17 = 18\n#### 18")),
            Some(1.0)
        );
    }

    #[test]
    fn an_empty_answer_scores_zero_in_every_metric_of_quality() {
        for metric in [Metric::ExactMatch, Metric::RougeL, Metric::Chrf, Metric::LanguageFidelity] {
            assert_eq!(score(metric, "", Some("18")), Some(0.0), "{metric:?}");
        }
    }

    #[test]
    fn without_a_reference_there_is_no_value() {
        assert_eq!(score(Metric::RougeL, "a", None), None);
        assert_eq!(score(Metric::ExactMatch, "18", Some("many")), None);
    }

    #[test]
    fn names_are_those_of_a_task_file() {
        let metrics: Vec<Metric> =
            serde_json::from_str(r#"["chrf_plus_plus","rouge_l_ascii_stemmed"]"#).expect("names");
        assert_eq!(
            metrics.iter().map(|m| m.name()).collect::<Vec<_>>(),
            ["chrf_plus_plus", "rouge_l_ascii_stemmed"]
        );
    }
}
