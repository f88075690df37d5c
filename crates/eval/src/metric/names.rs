//! The names of the metrics, as they stand in task files, on the command line and in the `metric` column, with a line for people.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::bleu::Tokenizer;
use super::fidelity::Share;
use super::rouge::Rouge;
use super::{Metric, Words};

/// Every metric with its name and what it measures, in the order they are listed.
pub const METRICS: &[(&str, Metric, &str)] = &[
    (
        "exact_match",
        Metric::ExactMatch,
        "the number is right: the strict form's, or else the flexible one's",
    ),
    (
        "exact_match_strict",
        Metric::ExactMatchStrict,
        "the number behind the answer prefix is right",
    ),
    ("exact_match_flexible", Metric::ExactMatchFlexible, "the last number of the answer is right"),
    ("extracted", Metric::Extracted, "a number stands behind an answer prefix (strict)"),
    ("extracted_flexible", Metric::ExtractedFlexible, "a number stands anywhere (flexible)"),
    ("rouge_1", Metric::Rouge(Rouge::One, Words::Unicode), "ROUGE-1 over words of any script"),
    ("rouge_2", Metric::Rouge(Rouge::Two, Words::Unicode), "ROUGE-2 over words of any script"),
    ("rouge_l", Metric::Rouge(Rouge::L, Words::Unicode), "ROUGE-L over words of any script"),
    (
        "rouge_lsum",
        Metric::Rouge(Rouge::Lsum, Words::Unicode),
        "ROUGE-Lsum over words of any script",
    ),
    ("rouge_1_ascii", Metric::Rouge(Rouge::One, Words::Ascii), "ROUGE-1 as Google's rouge-score"),
    ("rouge_2_ascii", Metric::Rouge(Rouge::Two, Words::Ascii), "ROUGE-2 as Google's rouge-score"),
    ("rouge_l_ascii", Metric::Rouge(Rouge::L, Words::Ascii), "ROUGE-L as Google's rouge-score"),
    (
        "rouge_lsum_ascii",
        Metric::Rouge(Rouge::Lsum, Words::Ascii),
        "ROUGE-Lsum as Google's rouge-score",
    ),
    (
        "rouge_1_ascii_stemmed",
        Metric::Rouge(Rouge::One, Words::AsciiStemmed),
        "ROUGE-1 as Google's rouge-score with its stemmer",
    ),
    (
        "rouge_2_ascii_stemmed",
        Metric::Rouge(Rouge::Two, Words::AsciiStemmed),
        "ROUGE-2 as Google's rouge-score with its stemmer",
    ),
    (
        "rouge_l_ascii_stemmed",
        Metric::Rouge(Rouge::L, Words::AsciiStemmed),
        "ROUGE-L as Google's rouge-score with its stemmer",
    ),
    (
        "rouge_lsum_ascii_stemmed",
        Metric::Rouge(Rouge::Lsum, Words::AsciiStemmed),
        "ROUGE-Lsum as Google's rouge-score with its stemmer",
    ),
    (
        "rouge_1_xlsum",
        Metric::Rouge(Rouge::One, Words::XlSum),
        "ROUGE-1 as XL-Sum's multilingual rouge",
    ),
    (
        "rouge_2_xlsum",
        Metric::Rouge(Rouge::Two, Words::XlSum),
        "ROUGE-2 as XL-Sum's multilingual rouge",
    ),
    (
        "rouge_l_xlsum",
        Metric::Rouge(Rouge::L, Words::XlSum),
        "ROUGE-L as XL-Sum's multilingual rouge",
    ),
    (
        "rouge_lsum_xlsum",
        Metric::Rouge(Rouge::Lsum, Words::XlSum),
        "ROUGE-Lsum as XL-Sum's multilingual rouge",
    ),
    ("chrf", Metric::Chrf, "chrF as sacreBLEU's"),
    ("chrf_plus_plus", Metric::ChrfPlusPlus, "chrF++ as sacreBLEU's"),
    ("bleu", Metric::Bleu(None), "BLEU as sacreBLEU's, with its tokenizer for the language"),
    ("bleu_13a", Metric::Bleu(Some(Tokenizer::V13a)), "BLEU with sacreBLEU's tokenizer 13a"),
    (
        "bleu_intl",
        Metric::Bleu(Some(Tokenizer::International)),
        "BLEU with sacreBLEU's tokenizer intl",
    ),
    ("bleu_char", Metric::Bleu(Some(Tokenizer::Character)), "BLEU with sacreBLEU's tokenizer char"),
    ("bleu_zh", Metric::Bleu(Some(Tokenizer::Chinese)), "BLEU with sacreBLEU's tokenizer zh"),
    ("bleu_none", Metric::Bleu(Some(Tokenizer::None)), "BLEU over what stands between white space"),
    (
        "language_fidelity",
        Metric::Language(Share::Asked),
        "the answer as a whole is in the language asked for",
    ),
    ("answer_in_english", Metric::Language(Share::English), "it is in English instead"),
    ("answer_in_other", Metric::Language(Share::Other), "it is in another language, or empty"),
    (
        "line_pass",
        Metric::LinePass,
        "each line of 5 or more words is in the language asked for (LPR)",
    ),
    (
        "word_pass",
        Metric::WordPass,
        "an answer that passes by line has no stray English word (WPR; not for Latin script)",
    ),
];

const COUNT: usize = METRICS.len();

const NAMES: [&str; COUNT] = {
    let mut names = [""; COUNT];
    let mut at = 0;
    while at < COUNT {
        names[at] = METRICS[at].0;
        at += 1;
    }
    names
};

impl Metric {
    /// The name in the `metric` column.
    pub fn name(self) -> &'static str {
        METRICS.iter().find(|(_, metric, _)| *metric == self).map_or("", |(name, ..)| name)
    }

    /// The metric of that name.
    pub fn named(name: &str) -> Option<Metric> {
        METRICS.iter().find(|(known, ..)| *known == name).map(|(_, metric, _)| *metric)
    }
}

impl Serialize for Metric {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Metric {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Metric, D::Error> {
        let name = Cow::<str>::deserialize(deserializer)?;
        Metric::named(&name).ok_or_else(|| de::Error::unknown_variant(&name, &NAMES))
    }
}

impl JsonSchema for Metric {
    fn schema_name() -> Cow<'static, str> {
        "Metric".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let one = |(name, _, about): &(&str, Metric, &str)| json_schema!({ "const": name, "description": about });
        json_schema!({
            "description": "A metric by its name in a task file and in the `metric` column.",
            "oneOf": METRICS.iter().map(one).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_one_name_and_comes_back_by_it() {
        for (name, metric, about) in METRICS {
            assert_eq!((metric.name(), Metric::named(name)), (*name, Some(*metric)));
            assert!(!about.is_empty());
        }
    }

    #[test]
    fn names_are_those_of_a_task_file() {
        let metrics: Vec<Metric> =
            serde_json::from_str(r#"["chrf_plus_plus","rouge_l_ascii_stemmed"]"#).expect("names");
        let words = Words::AsciiStemmed;
        assert_eq!(metrics, [Metric::ChrfPlusPlus, Metric::Rouge(Rouge::L, words)]);
        let error = serde_json::from_str::<Metric>("\"chrff\"").expect_err("no metric");
        assert!(
            error.to_string().contains("unknown variant `chrff`, expected one of `exact_match`"),
            "{error}"
        );
    }
}
