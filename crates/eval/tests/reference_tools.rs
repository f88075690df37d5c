//! ROUGE-L and chrF equal the reference tools on multilingual pairs, edge cases among them.
//!
//! `fixtures/metric_pairs.jsonl` was written by rouge-score 0.1.2 and sacreBLEU 2.6.0 through `fixtures/make_metric_pairs.py`.

use eval::metric::{chrf::chrf, rouge::rouge_l, tokens::Tokenizer};
use serde::Deserialize;

#[derive(Deserialize)]
struct Pair {
    hypothesis: String,
    reference: String,
    rouge_l: f64,
    rouge_l_stemmed: f64,
    chrf: f64,
    chrf_plus_plus: f64,
}

fn pairs() -> Vec<Pair> {
    let pairs: Vec<Pair> = include_str!("fixtures/metric_pairs.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).expect("a pair"))
        .collect();
    assert!(pairs.len() >= 500);
    pairs
}

fn check(name: &str, expected: fn(&Pair) -> f64, ours: fn(&Pair) -> f64) {
    for (index, pair) in pairs().iter().enumerate() {
        let (expected, ours) = (expected(pair), ours(pair));
        let near = (expected - ours).abs() <= 1e-9 * expected.abs().max(1.0);
        assert!(
            near,
            "{name}, line {}: {ours}, want {expected}: {:?} / {:?}",
            index + 1,
            pair.hypothesis,
            pair.reference
        );
    }
}

#[test]
fn rouge_l_equals_rouge_score() {
    check(
        "rougeL",
        |p| p.rouge_l,
        |p| rouge_l(&p.hypothesis, &p.reference, Tokenizer::Ascii { stem: false }),
    );
}

#[test]
fn stemmed_rouge_l_equals_rouge_score() {
    check(
        "rougeL stemmed",
        |p| p.rouge_l_stemmed,
        |p| rouge_l(&p.hypothesis, &p.reference, Tokenizer::Ascii { stem: true }),
    );
}

#[test]
fn chrf_equals_sacrebleu() {
    check("chrF", |p| p.chrf, |p| chrf(&p.hypothesis, &p.reference, 0));
}

#[test]
fn chrf_plus_plus_equals_sacrebleu() {
    check("chrF++", |p| p.chrf_plus_plus, |p| chrf(&p.hypothesis, &p.reference, 2));
}

#[test]
fn the_unicode_tokenizer_equals_rouge_score_on_ascii_text() {
    let mut checked = 0;
    for pair in pairs().iter().filter(|p| p.hypothesis.is_ascii() && p.reference.is_ascii()) {
        let ours = rouge_l(&pair.hypothesis, &pair.reference, Tokenizer::Unicode);
        assert!(
            (ours - pair.rouge_l).abs() < 1e-12,
            "{ours}, want {}: {:?}",
            pair.rouge_l,
            pair.hypothesis
        );
        checked += 1;
    }
    assert!(checked > 30);
}
