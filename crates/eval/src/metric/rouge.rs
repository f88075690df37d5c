//! ROUGE (Lin 2004): F-measures of what two texts' words have in common, from 0 to 1. ROUGE-1 and -2 count shared n-grams, ROUGE-L
//! takes the longest common subsequence, ROUGE-Lsum the union of each reference line's subsequences over all lines of the answer.
//!
//! Equal to Google's rouge-score 0.1.2 (`rouge1`, `rouge2`, `rougeL`, `rougeLsum`, F-measure) with [`Tokenizer::Ascii`]; lines are
//! what `\n` separates. Subsequences are found by bit-parallel dynamic programming (Crochemore et al. 2001, Hyyrö 2004): 64 cells
//! of the table in one addition.

use super::ngrams::common;
use super::tokens::{Tokenizer, Vocabulary};

/// The members of the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rouge {
    /// Words.
    One,
    /// Pairs of neighbouring words.
    Two,
    /// The longest common subsequence.
    L,
    /// The same line by line.
    Lsum,
}

impl Rouge {
    /// rouge-score's name.
    pub fn name(self) -> &'static str {
        match self {
            Rouge::One => "rouge1",
            Rouge::Two => "rouge2",
            Rouge::L => "rougeL",
            Rouge::Lsum => "rougeLsum",
        }
    }

    /// The F-measure of `hypothesis` against `reference`; 0 where either has no words.
    pub fn score(self, hypothesis: &str, reference: &str, tokenizer: Tokenizer) -> f64 {
        if self == Rouge::Lsum {
            return by_lines(hypothesis, reference, tokenizer.of_lines());
        }
        let mut vocabulary = Vocabulary::default();
        let reference = vocabulary.ids(reference, tokenizer);
        let hypothesis = vocabulary.ids(hypothesis, tokenizer);
        let (ours, theirs) = (hypothesis.len(), reference.len());
        match self {
            Rouge::One => f_measure(shared(&hypothesis, &reference, 1), ours, theirs),
            Rouge::Two => {
                let pairs = |words: usize| words.saturating_sub(1);
                f_measure(shared(&hypothesis, &reference, 2), pairs(ours), pairs(theirs))
            }
            _ => {
                let common = longest_common_subsequence(&reference, &hypothesis, vocabulary.size());
                f_measure(common, ours, theirs)
            }
        }
    }
}

/// The F-measure of `common` things where one text has `ours` and the other `theirs`.
fn f_measure(common: usize, ours: usize, theirs: usize) -> f64 {
    let precision = common as f64 / ours.max(1) as f64;
    let recall = common as f64 / theirs.max(1) as f64;
    if precision + recall > 0.0 { 2.0 * precision * recall / (precision + recall) } else { 0.0 }
}

/// How many n-grams of order 1 or 2 two texts share.
fn shared(a: &[u32], b: &[u32], n: usize) -> usize {
    let grams = |ids: &[u32]| {
        let pack = |gram: &[u32]| gram.iter().fold(0, |packed, &id| packed << 32 | u64::from(id));
        let mut grams: Vec<u64> = ids.windows(n).map(pack).collect();
        grams.sort_unstable();
        grams
    };
    common(&grams(a), &grams(b))
}

/// Summary-level ROUGE-L. A word counts no more often than it occurs in each text, as in ROUGE 1.5.5 and rouge-score.
fn by_lines(hypothesis: &str, reference: &str, tokenizer: Tokenizer) -> f64 {
    let mut vocabulary = Vocabulary::default();
    let mut lines = |text: &str| -> Vec<Vec<u32>> {
        text.split('\n').map(|line| vocabulary.ids(line, tokenizer)).collect()
    };
    let (reference, hypothesis) = (lines(reference), lines(hypothesis));
    let mut left = vec![[0u32; 2]; vocabulary.size()];
    for (side, text) in [&hypothesis, &reference].into_iter().enumerate() {
        text.iter().flatten().for_each(|&id| left[id as usize][side] += 1);
    }
    let mut hits = 0;
    for line in &reference {
        let mut union = vec![false; line.len()];
        for candidate in &hypothesis {
            mark_common_subsequence(line, candidate, vocabulary.size(), &mut union);
        }
        for (&id, _) in line.iter().zip(&union).filter(|(_, hit)| **hit) {
            let [ours, theirs] = &mut left[id as usize];
            if *ours > 0 && *theirs > 0 {
                hits += 1;
                *ours -= 1;
                *theirs -= 1;
            }
        }
    }
    let words = |text: &[Vec<u32>]| text.iter().map(Vec::len).sum();
    f_measure(hits, words(&hypothesis), words(&reference))
}

/// The length of the longest common subsequence of `a` and `b`, whose ids are below `symbols`.
pub fn longest_common_subsequence(a: &[u32], b: &[u32], symbols: usize) -> usize {
    let mut length = 0;
    sweep(a, b, symbols, |column, grown| {
        if column + 1 == b.len() {
            length += grown.count_ones() as usize;
        }
    });
    length
}

/// Marks the places in `a` of one longest common subsequence with `b`: of those there are the one that rouge-score reads out.
fn mark_common_subsequence(a: &[u32], b: &[u32], symbols: usize, marks: &mut [bool]) {
    let mut grown = Vec::with_capacity(a.len().div_ceil(64) * b.len());
    sweep(a, b, symbols, |_, bits| grown.push(bits));
    let (mut i, mut j) = (a.len(), b.len());
    while i > 0 && j > 0 {
        if a[i - 1] == b[j - 1] {
            marks[i - 1] = true;
            i -= 1;
            j -= 1;
        } else if grown[(i - 1) / 64 * b.len() + j - 1] >> ((i - 1) % 64) & 1 == 1 {
            // Longer than in the row above, and not by this pair: so the column before is as long.
            j -= 1;
        } else {
            i -= 1;
        }
    }
}

/// The table of the longest common subsequences of `a`'s and `b`'s beginnings, as where it grows from a row (of `a`) to the next:
/// for each block of 64 rows, for each column (of `b`), a word with a bit per row.
///
/// A bit of `row` is 0 where the table grows by one from the row above; one column step is `row = (row + (row & match)) |
/// (row & !match)`. A block's addition carries into the block below it in the same column, so blocks are done one after the other
/// with one carry kept per column: memory is O(b + symbols), time O(a/64 · b).
fn sweep(a: &[u32], b: &[u32], symbols: usize, mut column: impl FnMut(usize, u64)) {
    let mut carries = vec![false; b.len()];
    let mut matches = vec![0u64; symbols];
    for block in a.chunks(64) {
        for (bit, &symbol) in block.iter().enumerate() {
            matches[symbol as usize] |= 1 << bit;
        }
        let used = u64::MAX >> (64 - block.len());
        let mut row = u64::MAX;
        for (at, (&symbol, carry)) in b.iter().zip(&mut carries).enumerate() {
            let hit = row & matches[symbol as usize];
            let (sum, over) = row.overflowing_add(hit);
            let (sum, over_by_carry) = sum.overflowing_add(u64::from(*carry));
            *carry = over | over_by_carry;
            row = sum | (row & !hit);
            column(at, !row & used);
        }
        for &symbol in block {
            matches[symbol as usize] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The textbook table.
    fn plain(a: &[u32], b: &[u32]) -> usize {
        let mut above = vec![0; b.len() + 1];
        for x in a {
            let mut row = vec![0; b.len() + 1];
            for (j, y) in b.iter().enumerate() {
                row[j + 1] = if x == y { above[j] + 1 } else { above[j + 1].max(row[j]) };
            }
            above = row;
        }
        above[b.len()]
    }

    proptest! {
        #[test]
        fn equals_the_textbook_table(
            a in prop::collection::vec(0u32..6, 0..300),
            b in prop::collection::vec(0u32..6, 0..300),
        ) {
            prop_assert_eq!(longest_common_subsequence(&a, &b, 6), plain(&a, &b));
        }
    }

    #[test]
    fn identical_text_scores_one_in_every_script() {
        for text in ["A cat sat.", "고양이가 앉았다.", "猫坐下了。", "قطة جلست", "बिल्ली बैठी"]
        {
            assert_eq!(Rouge::L.score(text, text, Tokenizer::Unicode), 1.0, "{text}");
        }
        // what the ASCII tokenizer cannot see scores 0
        assert_eq!(
            Rouge::L.score("猫坐下了。", "猫坐下了。", Tokenizer::Ascii { stem: false }),
            0.0
        );
    }

    #[test]
    fn empty_text_scores_zero() {
        assert_eq!(Rouge::L.score("", "a b", Tokenizer::Unicode), 0.0);
        assert_eq!(Rouge::L.score("a b", "…!", Tokenizer::Unicode), 0.0);
    }

    #[test]
    fn hand_computed_example() {
        // Lin 2004, section 3.1: "police killed the gunman" against "police kill the gunman": LCS 3 of 4 and 4.
        let score = Rouge::L.score(
            "police kill the gunman",
            "police killed the gunman",
            Tokenizer::Unicode,
        );
        assert_eq!(score, 0.75);
    }
}
