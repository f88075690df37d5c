//! chrF and chrF++ (Popović 2015, 2017): the F₂-score of character n-grams up to order 6, and for chrF++ word n-grams up to
//! order 2, from 0 to 100.
//!
//! Equal to sacreBLEU 2.6's `sentence_chrf` with its defaults: whitespace dropped before characters are counted, case kept,
//! precision and recall averaged over the orders that occur in both texts, one reference.
//!
//! Of a corpus it is the F₂-score of the summed counts (`corpus_chrf`), which is not the mean of its answers' scores.

use super::ngrams::{Suffixes, common};
use super::tokens::Vocabulary;

const CHARACTER_ORDER: usize = 6;
const WORD_ORDER: usize = 2;

/// How many n-grams of one order the hypothesis has, the reference has, and both have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Order {
    hypothesis: u64,
    reference: u64,
    common: u64,
}

/// What chrF is computed from: characters of order 1 to 6, then words of order 1 and 2. Counts of several answers add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts([Order; CHARACTER_ORDER + WORD_ORDER]);

impl Counts {
    /// The counts of one answer, for chrF (`words` 0) or chrF++ (`words` 2).
    pub fn of(hypothesis: &str, reference: &str, words: usize) -> Counts {
        let mut counts = Counts::default();
        let (ours, theirs) = (suffixes(hypothesis), suffixes(reference));
        for n in 1..=CHARACTER_ORDER {
            counts.0[n - 1] = Order::of(&ours.grams(n), &theirs.grams(n));
        }
        if words > 0 {
            let mut vocabulary = Vocabulary::default();
            let hypothesis = word_ids(hypothesis, &mut vocabulary);
            let reference = word_ids(reference, &mut vocabulary);
            for n in 1..=words.min(WORD_ORDER) {
                counts.0[CHARACTER_ORDER + n - 1] = Order::of(
                    &sorted_word_grams(&hypothesis, n),
                    &sorted_word_grams(&reference, n),
                );
            }
        }
        counts
    }

    /// Adds another answer's counts.
    pub fn add(&mut self, other: &Counts) {
        for (sum, order) in self.0.iter_mut().zip(&other.0) {
            sum.hypothesis += order.hypothesis;
            sum.reference += order.reference;
            sum.common += order.common;
        }
    }

    /// The score of all answers whose counts are in here.
    pub fn score(&self) -> f64 {
        let (mut precision, mut recall, mut orders) = (0.0, 0.0, 0.0);
        for order in self.0.iter().filter(|order| order.hypothesis > 0 && order.reference > 0) {
            precision += order.common as f64 / order.hypothesis as f64;
            recall += order.common as f64 / order.reference as f64;
            orders += 1.0;
        }
        if precision + recall == 0.0 {
            return 0.0;
        }
        let (precision, recall) = (precision / orders, recall / orders);
        100.0 * (5.0 * precision * recall / (4.0 * precision + recall))
    }
}

impl Order {
    /// Of two sorted lists. As in sacreBLEU an order that the reference is too short for does not count.
    fn of<T: Ord>(hypothesis: &[T], reference: &[T]) -> Order {
        if reference.is_empty() {
            return Order::default();
        }
        Order {
            hypothesis: hypothesis.len() as u64,
            reference: reference.len() as u64,
            common: common(hypothesis, reference) as u64,
        }
    }
}

/// chrF (`words` 0) or chrF++ (`words` 2) of `hypothesis` against `reference`.
pub fn chrf(hypothesis: &str, reference: &str, words: usize) -> f64 {
    Counts::of(hypothesis, reference, words).score()
}

/// The variant in sacreBLEU's notation.
pub fn signature(words: usize) -> &'static str {
    if words == 0 {
        "chrF2|nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0"
    } else {
        "chrF2++|nrefs:1|case:mixed|eff:yes|nc:6|nw:2|space:no|version:2.6.0"
    }
}

/// The suffixes of the text without whitespace.
fn suffixes(text: &str) -> Suffixes<CHARACTER_ORDER, 21> {
    Suffixes::of_reversed(text.chars().rev().filter(|&c| !is_space(c)).map(u32::from))
}

/// Python's `str.isspace`, which counts the four ASCII separators too.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1C}'..='\u{1F}')
}

/// Words with one ASCII punctuation mark split off: the last character if it is one, or else the first. So "(hi)" becomes "(hi" and
/// ")", as in sacreBLEU and in chrF's first implementation.
fn word_ids(text: &str, vocabulary: &mut Vocabulary) -> Vec<u32> {
    let mut ids = Vec::new();
    for word in text.split(is_space).filter(|w| !w.is_empty()) {
        let (first, last) = (word.as_bytes()[0], word.as_bytes()[word.len() - 1]);
        let cut = if word.len() == 1 {
            None
        } else if last.is_ascii_punctuation() {
            Some(word.len() - 1)
        } else if first.is_ascii_punctuation() {
            Some(1)
        } else {
            None
        };
        let (head, tail) = word.split_at(cut.unwrap_or(word.len()));
        ids.push(vocabulary.id(head));
        if !tail.is_empty() {
            ids.push(vocabulary.id(tail));
        }
    }
    ids
}

/// Word n-grams of order 1 or 2, packed, sorted.
fn sorted_word_grams(ids: &[u32], order: usize) -> Vec<u64> {
    let pack = |gram: &[u32]| gram.iter().fold(0, |packed, &id| (packed << 32) | u64::from(id));
    let mut grams: Vec<u64> = ids.windows(order).map(pack).collect();
    grams.sort_unstable();
    grams
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identical_text_scores_100_and_disjoint_text_0() {
        for words in [0, 2] {
            assert!((chrf("Guten Tag, Welt!", "Guten Tag, Welt!", words) - 100.0).abs() < 1e-12);
            assert_eq!(chrf("abc", "xyz", words), 0.0);
            assert_eq!(chrf("", "xyz", words), 0.0);
            assert_eq!(chrf("abc", "", words), 0.0);
        }
    }

    #[test]
    fn whitespace_and_repeats_are_counted_as_sacrebleu_does() {
        // "aa" against "a": order 1: P 1/2, R 1; order 2 has no reference n-gram and does not count.
        let expected = 100.0 * 5.0 * 0.5 / (4.0 * 0.5 + 1.0);
        assert!((chrf("a a", "a", 0) - expected).abs() < 1e-12);
    }
}
