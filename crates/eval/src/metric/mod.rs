//! The metrics: each a pure function of texts in a file of its own, with its reference implementation or paper named there.
//!
//! A score is nothing without the way it was made, so each metric has a signature in each language. Scales are those of the
//! reference tools: ROUGE and the 0/1 metrics from 0 to 1, chrF and BLEU from 0 to 100.

pub mod bleu;
mod bleu_words;
mod category;
pub mod chrf;
pub mod exact_match;
pub mod fidelity;
pub mod mecab;
mod names;
mod ngrams;
pub mod number;
pub mod porter;
pub mod rouge;
mod stem;
pub mod tokens;
pub mod xlsum;

use exact_match::Marks;
use fidelity::{Fidelity, Share};
use language::Detector;
pub use names::METRICS;
use number::Number;
use rouge::Rouge;
use tokens::Tokenizer;

/// A metric; its name in task files and in the `metric` column is in [`METRICS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Metric {
    /// The final number equals the reference's: the strict form where there is one, or else the flexible one.
    ExactMatch,
    /// The number behind the answer prefix equals the reference's.
    ExactMatchStrict,
    /// The last number of the answer equals the reference's.
    ExactMatchFlexible,
    /// Whether there is a number behind an answer prefix: its mean is the extraction rate.
    Extracted,
    /// Whether there is a number at all.
    ExtractedFlexible,
    /// A ROUGE over words of a kind.
    Rouge(Rouge, Words),
    /// chrF as sacreBLEU's.
    Chrf,
    /// chrF++ as sacreBLEU's.
    ChrfPlusPlus,
    /// BLEU as sacreBLEU's, with one of its tokenizers or that of the language.
    Bleu(Option<bleu::Tokenizer>),
    /// Whether the answer as a whole is in the language asked for, in English instead, or in another.
    Language(Share),
    /// Whether each of its lines is in the language asked for.
    LinePass,
    /// Whether an answer that passes by line has no stray English word.
    WordPass,
}

/// The words of a ROUGE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Words {
    /// Of any script.
    Unicode,
    /// Google's rouge-score: a–z and 0–9.
    Ascii,
    /// The same with its stemmer.
    AsciiStemmed,
    /// XL-Sum's, with a segmenter and a stemmer per language.
    XlSum,
}

impl Words {
    /// The tokenizer for a language; why there is none.
    fn tokenizer<'a>(self, lang: &str, tools: &'a Tools) -> Result<Tokenizer<'a>, &'static str> {
        match self {
            Words::Unicode => Ok(Tokenizer::Unicode),
            Words::Ascii => Ok(Tokenizer::Ascii { stem: false }),
            Words::AsciiStemmed => Ok(Tokenizer::Ascii { stem: true }),
            Words::XlSum => xlsum::Language::of(lang, tools.dictionary.as_ref())
                .map(Tokenizer::XlSum)
                .ok_or(mecab::NO_DICTIONARY),
        }
    }

    fn signature(self, lang: &str, tools: &Tools) -> String {
        let words = match self {
            Words::Unicode => "tok:unicode-1|stem:no|case:lc",
            Words::Ascii => "tok:rouge_score|stem:no|case:lc|version:0.1.2",
            Words::AsciiStemmed => "tok:rouge_score|stem:nltk-porter|case:lc|version:0.1.2",
            Words::XlSum => return xlsum::Language::signature(lang, tools.dictionary.as_ref()),
        };
        words.to_owned()
    }
}

/// What metrics need besides the texts.
pub struct Tools {
    /// For language fidelity.
    pub detector: Detector,
    /// For the metrics that segment Japanese.
    pub dictionary: Option<mecab::Dictionary>,
}

impl From<Detector> for Tools {
    fn from(detector: Detector) -> Tools {
        Tools { detector, dictionary: None }
    }
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
#[derive(Debug, Default)]
pub struct Value {
    /// `None` where the metric does not apply to this answer.
    pub value: Option<f64>,
    /// How it came about: the number found, the language detected, why there is no value.
    pub detail: Option<String>,
    /// What a corpus score is computed from, for a metric that has one.
    pub counts: Option<Counts>,
}

/// Counts that add up over answers to a score of the corpus, which is not the mean of its answers' scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// chrF or chrF++.
    Chrf(chrf::Counts),
    /// BLEU.
    Bleu(bleu::Counts),
}

impl Counts {
    /// Adds the counts of another answer in the same metric.
    pub fn add(&mut self, other: &Counts) {
        match (self, other) {
            (Counts::Chrf(sum), Counts::Chrf(other)) => sum.add(other),
            (Counts::Bleu(sum), Counts::Bleu(other)) => sum.add(other),
            _ => {} // two metrics never share a sum
        }
    }

    /// The score of the corpus.
    pub fn corpus(&self) -> f64 {
        match self {
            Counts::Chrf(counts) => counts.score(),
            Counts::Bleu(counts) => counts.corpus(),
        }
    }
}

impl Value {
    fn plain(value: f64) -> Value {
        Value { value: Some(value), ..Value::default() }
    }

    fn none(why: impl Into<String>) -> Value {
        Value { detail: Some(why.into()), ..Value::default() }
    }
}

impl Metric {
    /// Whether it compares with a reference.
    pub fn needs_reference(self) -> bool {
        !matches!(
            self,
            Metric::Extracted
                | Metric::ExtractedFlexible
                | Metric::Language(_)
                | Metric::LinePass
                | Metric::WordPass
        )
    }

    /// How it is computed in a language: variant, tokenizer, stemmer and the version that it equals, as in sacreBLEU's signatures.
    pub fn signature(self, lang: &str, tools: &Tools) -> String {
        let Tools { detector, dictionary } = tools;
        let number = |form: &str| format!("number|form:{form}|digits:any|separators:by-language");
        match self {
            Metric::ExactMatch => number("strict-or-last"),
            Metric::ExactMatchStrict | Metric::Extracted => number("strict"),
            Metric::ExactMatchFlexible | Metric::ExtractedFlexible => number("last"),
            Metric::Chrf => chrf::signature(0).to_owned(),
            Metric::ChrfPlusPlus => chrf::signature(2).to_owned(),
            Metric::Bleu(tokenizer) => {
                bleu::signature(bleu::Words::of(tokenizer, lang, dictionary.as_ref()))
            }
            Metric::Language(_) | Metric::LinePass | Metric::WordPass => {
                fidelity::signature(self.name(), detector)
            }
            Metric::Rouge(rouge, words) => {
                format!("{}|f|{}", rouge.name(), words.signature(lang, tools))
            }
        }
    }

    /// Scores one answer.
    pub fn score(self, item: &Item, tools: &Tools) -> Value {
        let Tools { detector, dictionary } = tools;
        let reference = match item.reference {
            Some(reference) => reference,
            None if self.needs_reference() => return Value::none("no reference"),
            None => "",
        };
        match self {
            Metric::ExactMatch | Metric::ExactMatchStrict | Metric::ExactMatchFlexible => {
                self.number(item, reference)
            }
            Metric::Extracted | Metric::ExtractedFlexible => {
                let found = self.find(item);
                Value {
                    value: Some(f64::from(found.is_some())),
                    detail: found.map(|number| number.value.to_string()),
                    counts: None,
                }
            }
            Metric::Rouge(rouge, words) => match words.tokenizer(item.lang, tools) {
                Ok(tokenizer) => Value::plain(rouge.score(item.generation, reference, tokenizer)),
                Err(why) => Value::none(why),
            },
            Metric::Chrf => chrf::Counts::of(item.generation, reference, 0).into(),
            Metric::ChrfPlusPlus => chrf::Counts::of(item.generation, reference, 2).into(),
            Metric::Bleu(tokenizer) => {
                match bleu::Words::of(tokenizer, item.lang, dictionary.as_ref()) {
                    Ok(words) => bleu::Counts::new(item.generation, reference, words).into(),
                    Err(why) => Value::none(why),
                }
            }
            Metric::Language(share) => {
                fidelity::whole(item.generation, item.lang, share, detector).into()
            }
            Metric::WordPass => fidelity::word_pass(item.generation, item.lang, detector).into(),
            Metric::LinePass => fidelity::line_pass(item.generation, item.lang, detector).into(),
        }
    }

    /// The number that an answer gives, in this metric's form.
    fn find(self, item: &Item) -> Option<Number> {
        let strict = || exact_match::strict(item.generation, item.marks, item.lang);
        let flexible = || exact_match::flexible(item.generation, item.marks, item.lang);
        match self {
            Metric::ExactMatch => strict().or_else(flexible),
            Metric::ExactMatchFlexible | Metric::ExtractedFlexible => flexible(),
            _ => strict(),
        }
    }

    fn number(self, item: &Item, reference: &str) -> Value {
        let Some(gold) = exact_match::gold(reference, item.marks, item.lang) else {
            return Value::none("no number in the reference");
        };
        let found = self.find(item);
        let shown = found.map_or("none".to_owned(), |number| number.value.to_string());
        Value {
            value: Some(f64::from(found.is_some_and(|found| found.agrees(&gold)))),
            detail: Some(format!("found {shown}, want {}", gold.value)),
            counts: None,
        }
    }
}

impl From<chrf::Counts> for Value {
    fn from(counts: chrf::Counts) -> Value {
        Value { counts: Some(Counts::Chrf(counts)), ..Value::plain(counts.score()) }
    }
}

impl From<bleu::Counts> for Value {
    fn from(counts: bleu::Counts) -> Value {
        Value { counts: Some(Counts::Bleu(counts)), ..Value::plain(counts.sentence()) }
    }
}

impl From<Fidelity> for Value {
    fn from(found: Fidelity) -> Value {
        let detail = match found.detected {
            Some(detected) => format!("{}: {detected}", found.rule),
            None => found.rule.to_owned(),
        };
        Value { value: found.value, detail: Some(detail), counts: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUGE_L: Metric = Metric::Rouge(Rouge::L, Words::Unicode);

    fn score(metric: Metric, generation: &str, reference: Option<&str>) -> Option<f64> {
        let marks =
            Marks { prefixes: vec!["the answer is".into()], stops: vec!["\nQuestion:".into()] };
        let detector = Detector::new(&["en".into(), "es".into()]).expect("known languages");
        metric
            .score(&Item { lang: "en", generation, reference, marks: &marks }, &detector.into())
            .value
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
        for metric in [Metric::ExactMatch, ROUGE_L, Metric::Chrf, Metric::Language(Share::Asked)] {
            assert_eq!(score(metric, "", Some("18")), Some(0.0), "{metric:?}");
        }
    }

    #[test]
    fn without_a_reference_there_is_no_value() {
        assert_eq!(score(ROUGE_L, "a", None), None);
        assert_eq!(score(Metric::ExactMatch, "18", Some("many")), None);
    }
}
