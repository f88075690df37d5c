//! chrF and chrF++ (Popović 2015, 2017): the F₂-score of character n-grams up to order 6, and for chrF++ word n-grams up to
//! order 2, from 0 to 100.
//!
//! Equal to sacreBLEU 2.6's `sentence_chrf` with its defaults: whitespace dropped before characters are counted, case kept,
//! precision and recall averaged over the orders that occur in both texts, one reference.
//!
//! An n-gram is the first n characters of a suffix. So the suffixes of a text, each cut to 6 characters of 21 bits in a `u128`, are
//! sorted once, and one merge of two sorted lists per order counts the n-grams they share.

use super::tokens::Vocabulary;

const CHARACTER_ORDER: usize = 6;
const BITS: usize = 21; // a code point plus one, so that 0 means "past the end"

/// chrF (`words` 0) or chrF++ (`words` 2) of `hypothesis` against `reference`.
pub fn chrf(hypothesis: &str, reference: &str, words: usize) -> f64 {
    let mut mean = Averages::default();
    let hypothesis_suffixes = sorted_suffixes(hypothesis);
    let reference_suffixes = sorted_suffixes(reference);
    for order in 1..=CHARACTER_ORDER {
        let shift = BITS * (CHARACTER_ORDER - order);
        let whole = |gram: &u128| gram & ((1 << BITS) - 1) != 0;
        let grams = |suffixes: &'_ [u128]| {
            suffixes.iter().map(|s| s >> shift).filter(whole).collect::<Vec<_>>()
        };
        mean.add(&grams(&hypothesis_suffixes), &grams(&reference_suffixes));
    }
    if words > 0 {
        let mut vocabulary = Vocabulary::default();
        let hypothesis = word_ids(hypothesis, &mut vocabulary);
        let reference = word_ids(reference, &mut vocabulary);
        for order in 1..=words {
            mean.add(&sorted_word_grams(&hypothesis, order), &sorted_word_grams(&reference, order));
        }
    }
    mean.f2()
}

/// The variant in sacreBLEU's notation.
pub fn signature(words: usize) -> &'static str {
    if words == 0 {
        "chrF2|nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no"
    } else {
        "chrF2++|nrefs:1|case:mixed|eff:yes|nc:6|nw:2|space:no"
    }
}

/// Precision and recall summed over the orders that occur in both texts.
#[derive(Default)]
struct Averages {
    precision: f64,
    recall: f64,
    orders: f64,
}

impl Averages {
    /// Adds one order; both lists are sorted.
    fn add<T: Ord>(&mut self, hypothesis: &[T], reference: &[T]) {
        if hypothesis.is_empty() || reference.is_empty() {
            return;
        }
        let common = common(hypothesis, reference) as f64;
        self.precision += common / hypothesis.len() as f64;
        self.recall += common / reference.len() as f64;
        self.orders += 1.0;
    }

    fn f2(&self) -> f64 {
        if self.precision + self.recall == 0.0 {
            return 0.0;
        }
        let (precision, recall) = (self.precision / self.orders, self.recall / self.orders);
        100.0 * (5.0 * precision * recall / (4.0 * precision + recall))
    }
}

/// The size of the multiset intersection of two sorted lists.
fn common<T: Ord>(a: &[T], b: &[T]) -> usize {
    let (mut i, mut j, mut count) = (0, 0, 0);
    while i < a.len() && j < b.len() {
        // without branches: which side moves is as good as random
        let (x, y) = (&a[i], &b[j]);
        i += usize::from(x <= y);
        j += usize::from(y <= x);
        count += usize::from(x == y);
    }
    count
}

/// Every suffix of the text without whitespace, cut to six characters, sorted.
fn sorted_suffixes(text: &str) -> Vec<u128> {
    let mut window = 0u128;
    let mut suffixes: Vec<u128> = text
        .chars()
        .rev()
        .filter(|&c| !is_space(c))
        .map(|c| {
            window = (window >> BITS)
                | ((u128::from(u32::from(c)) + 1) << (BITS * (CHARACTER_ORDER - 1)));
            window
        })
        .collect();
    suffixes.sort_unstable();
    suffixes
}

/// Python's `str.isspace`, which counts the four ASCII separators too.
fn is_space(c: char) -> bool {
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
