//! The metrics equal the reference tools to the last digit on more than 5,000 pairs in 45 languages and scripts, edge cases among them.
//!
//! The fixtures were written by rouge-score 0.1.2 and sacreBLEU 2.6.0 (`fixtures/make_metric_pairs.py`), and by XL-Sum's multilingual
//! rouge with its segmenters and stemmers (`fixtures/make_xlsum_pairs.py`).

use std::collections::BTreeMap;

use eval::Metric;
use eval::metric::exact_match::Marks;
use eval::metric::mecab::Dictionary;
use eval::metric::{Counts, Item, Tools, Value};
use language::Detector;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The columns of `metric_pairs.jsonl.zst`, by our names.
const NAMES: [&str; 15] = [
    "rouge_1_ascii",
    "rouge_2_ascii",
    "rouge_l_ascii",
    "rouge_lsum_ascii",
    "rouge_1_ascii_stemmed",
    "rouge_2_ascii_stemmed",
    "rouge_l_ascii_stemmed",
    "rouge_lsum_ascii_stemmed",
    "chrf",
    "chrf_plus_plus",
    "bleu_13a",
    "bleu_intl",
    "bleu_char",
    "bleu_zh",
    "bleu_none",
];

/// Language, hypothesis, reference, values. The numbers are parsed by `std`: serde_json's parser may miss the last bit.
#[derive(Deserialize)]
struct Pair(String, String, String, Vec<Box<RawValue>>);

fn number(raw: &RawValue) -> f64 {
    raw.get().parse().expect("a number")
}

/// The pairs, and the corpus scores over all of them.
fn fixture() -> (Vec<Pair>, BTreeMap<String, Box<RawValue>>) {
    let text = unpacked(include_bytes!("fixtures/metric_pairs.jsonl.zst"));
    let mut lines: Vec<&str> = text.split_terminator('\n').collect();
    let corpus = serde_json::from_str(lines.pop().expect("a last line")).expect("a table");
    let pairs: Vec<Pair> =
        lines.iter().map(|line| serde_json::from_str(line).expect("a pair")).collect();
    assert!(pairs.len() > 5_000);
    (pairs, corpus)
}

fn score(metric: Metric, Pair(lang, hypothesis, reference, _): &Pair, tools: &Tools) -> Value {
    let marks = Marks::default();
    let item = Item { lang, generation: hypothesis, reference: Some(reference), marks: &marks };
    metric.score(&item, tools)
}

fn unpacked(bytes: &[u8]) -> String {
    String::from_utf8(zstd::decode_all(bytes).expect("zstd")).expect("UTF-8")
}

/// Equal to the last bit; but BLEU takes logarithms, and a platform's `log` and `exp` may round the other way.
fn same(name: &str, ours: f64, theirs: f64) -> bool {
    let tolerance = if name.starts_with("bleu") { 1e-14 * theirs.abs() } else { 0.0 };
    (ours - theirs).abs() <= tolerance
}

#[test]
fn every_pair_scores_as_in_the_reference_tools() {
    let tools = Detector::new(&[]).expect("a detector").into();
    let (pairs, _) = fixture();
    for (column, name) in NAMES.iter().enumerate() {
        let metric = Metric::named(name).expect("a metric");
        let mut between = 0;
        for (line, pair) in pairs.iter().enumerate() {
            let (ours, theirs) = (score(metric, pair, &tools).value, number(&pair.3[column]));
            assert!(
                ours.is_some_and(|ours| same(name, ours, theirs)),
                "{name}, line {}: {ours:?}, want {theirs}: {:?} / {:?}",
                line + 1,
                pair.1,
                pair.2
            );
            between += usize::from(theirs > 0.0 && theirs < 1.0);
            between += usize::from(theirs > 1.0 && theirs < 100.0);
        }
        assert!(between > 400, "{name}: only {between} pairs are neither alike nor unlike");
    }
}

#[test]
fn every_pair_scores_as_in_xl_sums_rouge() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["sys.dic", "unk.dic", "matrix.bin", "char.bin"] {
        let packed = format!("{}/tests/fixtures/mecab/{name}.zst", env!("CARGO_MANIFEST_DIR"));
        let bytes = zstd::decode_all(std::fs::File::open(packed).expect("file")).expect("zstd");
        std::fs::write(folder.path().join(name), bytes).expect("written");
    }
    let dictionary = Dictionary::read(folder.path()).expect("a dictionary");
    let detector = Detector::new(&[]).expect("a detector");
    let tools = Tools { detector, dictionary: Some(dictionary) };
    let values = unpacked(include_bytes!("fixtures/xlsum_pairs.jsonl.zst"));
    let (pairs, _) = fixture();
    assert_eq!(values.lines().count(), pairs.len());
    let mut between = BTreeMap::<&str, usize>::new();
    for (line, (values, pair)) in values.lines().zip(&pairs).enumerate() {
        let Some(values) =
            serde_json::from_str::<Option<Vec<Box<RawValue>>>>(values).expect("a line")
        else {
            continue;
        };
        for (name, value) in ["rouge_1_xlsum", "rouge_2_xlsum", "rouge_l_xlsum", "rouge_lsum_xlsum"]
            .iter()
            .zip(&values)
        {
            let (ours, theirs) =
                (score(Metric::named(name).expect("a metric"), pair, &tools).value, number(value));
            assert_eq!(
                ours,
                Some(theirs),
                "{name}, line {}: {} {:?} / {:?}",
                line + 1,
                pair.0,
                pair.1,
                pair.2
            );
            *between.entry(&pair.0).or_default() += usize::from(theirs > 0.0 && theirs < 1.0);
        }
    }
    assert!(between.len() == 45 && between.values().all(|&scores| scores > 150), "{between:?}");
}

#[test]
fn japanese_without_a_dictionary_has_no_score_and_says_why() {
    let tools = Detector::new(&[]).expect("a detector").into();
    let pair = Pair("ja".into(), "走った".into(), "走る".into(), Vec::new());
    for name in ["rouge_l_xlsum", "bleu"] {
        let value = score(Metric::named(name).expect("a metric"), &pair, &tools);
        assert!(
            value.value.is_none() && value.detail.expect("a reason").contains("`mecab`"),
            "{name}"
        );
    }
}

#[test]
fn corpus_scores_are_those_of_the_summed_counts() {
    let tools = Detector::new(&[]).expect("a detector").into();
    let (pairs, corpus) = fixture();
    for (name, theirs) in &corpus {
        let metric = Metric::named(name).expect("a metric");
        let sum = pairs
            .iter()
            .map(|pair| score(metric, pair, &tools).counts.expect("counts"))
            .reduce(|mut sum: Counts, counts| {
                sum.add(&counts);
                sum
            });
        let (ours, theirs) = (sum.expect("pairs").corpus(), number(theirs));
        assert!(same(name, ours, theirs), "{name}: {ours}, want {theirs}");
    }
}

#[test]
fn the_unicode_words_are_those_of_rouge_score_on_ascii_text() {
    let tools = Detector::new(&[]).expect("a detector").into();
    let (pairs, _) = fixture();
    let ascii: Vec<&Pair> = pairs.iter().filter(|p| p.1.is_ascii() && p.2.is_ascii()).collect();
    assert!(ascii.len() > 300);
    for (column, name) in ["rouge_1", "rouge_2", "rouge_l", "rouge_lsum"].iter().enumerate() {
        let metric = Metric::named(name).expect("a metric");
        for pair in &ascii {
            assert_eq!(
                score(metric, pair, &tools).value,
                Some(number(&pair.3[column])),
                "{:?}",
                pair.1
            );
        }
    }
}
