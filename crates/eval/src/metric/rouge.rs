//! ROUGE-L (Lin 2004): the F-measure of the longest common subsequence of two texts' words, from 0 to 1.
//!
//! Equal to Google's rouge-score 0.1.2 (`rougeL`, F-measure) with [`Tokenizer::Ascii`]. The subsequence is found by bit-parallel
//! dynamic programming (Crochemore et al. 2001, Hyyrö 2004): 64 cells of the table in one addition.

use super::tokens::{Tokenizer, Vocabulary};

/// ROUGE-L's F-measure of `hypothesis` against `reference`; 0 where either has no words.
pub fn rouge_l(hypothesis: &str, reference: &str, tokenizer: Tokenizer) -> f64 {
    let mut vocabulary = Vocabulary::default();
    let reference = vocabulary.ids(reference, tokenizer);
    let hypothesis = vocabulary.ids(hypothesis, tokenizer);
    if reference.is_empty() || hypothesis.is_empty() {
        return 0.0;
    }
    let common = longest_common_subsequence(&reference, &hypothesis, vocabulary.size()) as f64;
    let precision = common / hypothesis.len() as f64;
    let recall = common / reference.len() as f64;
    if precision + recall > 0.0 { 2.0 * precision * recall / (precision + recall) } else { 0.0 }
}

/// The variant, as it stands beside a score.
pub fn signature(tokenizer: Tokenizer) -> &'static str {
    match tokenizer {
        Tokenizer::Ascii { stem: false } => "rougeL|f|tok:rouge_score|stem:no|case:lc",
        Tokenizer::Ascii { stem: true } => "rougeL|f|tok:rouge_score|stem:nltk-porter|case:lc",
        Tokenizer::Unicode => "rougeL|f|tok:unicode-1|stem:no|case:lc",
    }
}

/// The length of the longest common subsequence of `a` and `b`, whose ids are below `symbols`.
///
/// The table's rows (`a`) are cut into blocks of 64. A bit of `row` is 0 where the table grows by one from the row above; one column
/// step is `row = (row + (row & match)) | (row & !match)`. A block's addition carries into the block below it in the same column,
/// so blocks are done one after the other with one carry kept per column: memory is O(b + symbols), time O(a/64 · b).
pub fn longest_common_subsequence(a: &[u32], b: &[u32], symbols: usize) -> usize {
    let mut carries = vec![false; b.len()];
    let mut matches = vec![0u64; symbols];
    let mut length = 0;
    for block in a.chunks(64) {
        for (bit, &symbol) in block.iter().enumerate() {
            matches[symbol as usize] |= 1 << bit;
        }
        let mut row = u64::MAX;
        for (&symbol, carry) in b.iter().zip(&mut carries) {
            let hit = row & matches[symbol as usize];
            let (sum, over) = row.overflowing_add(hit);
            let (sum, over_by_carry) = sum.overflowing_add(u64::from(*carry));
            *carry = over | over_by_carry;
            row = sum | (row & !hit);
        }
        let used = u64::MAX >> (64 - block.len());
        length += (!row & used).count_ones() as usize;
        for &symbol in block {
            matches[symbol as usize] = 0;
        }
    }
    length
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
            assert_eq!(rouge_l(text, text, Tokenizer::Unicode), 1.0, "{text}");
        }
        // what the ASCII tokenizer cannot see scores 0
        assert_eq!(rouge_l("猫坐下了。", "猫坐下了。", Tokenizer::Ascii { stem: false }), 0.0);
    }

    #[test]
    fn empty_text_scores_zero() {
        assert_eq!(rouge_l("", "a b", Tokenizer::Unicode), 0.0);
        assert_eq!(rouge_l("a b", "…!", Tokenizer::Unicode), 0.0);
    }

    #[test]
    fn hand_computed_example() {
        // Lin 2004, section 3.1: "police killed the gunman" against "police kill the gunman": LCS 3 of 4 and 4.
        let score =
            rouge_l("police kill the gunman", "police killed the gunman", Tokenizer::Unicode);
        assert_eq!(score, 0.75);
    }
}
