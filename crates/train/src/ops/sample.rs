//! From logits to tokens: greedy, or by temperature, top-k and top-p (nucleus sampling, arXiv
//! 1904.09751), with a random number that comes from outside. What cards do is in `sample.cu`.

use rayon::prelude::*;

use super::{Draw, LogitRule, SampleShape};

/// In place of a token where logits are not numbers.
pub const NO_TOKEN: u32 = u32::MAX;

/// How a token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// 0: the most likely token.
    pub temperature: f64,
    /// Of the most likely tokens, so many; 0: all.
    pub top_k: u32,
    /// Of those, the fewest that hold this share of their probability.
    pub top_p: f64,
}

impl Choice {
    /// The most likely token.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0 };

    /// Whether it needs no random number.
    #[must_use]
    pub fn is_greedy(self) -> bool {
        self.temperature == 0.0
    }

    /// The token that `logits` (length V) give, or [`NO_TOKEN`]. `bits` are random.
    #[must_use]
    pub fn pick(self, logits: &[f32], bits: u64) -> u32 {
        if logits.iter().any(|logit| logit.is_nan()) {
            NO_TOKEN
        } else if self.is_greedy() {
            most_likely(logits)
        } else {
            // 53 bits: a number in [0, 1) that a double holds exactly.
            self.at(logits, (bits >> 11) as f64 / (1u64 << 53) as f64)
        }
    }

    /// The token at `uniform` of the cumulative distribution, tokens sorted by probability, then id.
    fn at(self, logits: &[f32], uniform: f64) -> u32 {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |logit: f32| (f64::from(logit - largest) / self.temperature).exp();
        let mut weighted: Vec<(f64, u32)> =
            logits.iter().zip(0..).map(|(&logit, id)| (weight(logit), id)).collect();
        weighted.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        if self.top_k > 0 {
            weighted.truncate(self.top_k as usize);
        }
        let total: f64 = weighted.iter().map(|(weight, _)| weight).sum();
        let mut kept = 0.0;
        let nucleus = weighted.iter().position(|(weight, _)| {
            kept += weight;
            kept >= self.top_p * total
        });
        weighted.truncate(nucleus.map_or(weighted.len(), |last| last + 1));
        let kept: f64 = weighted.iter().map(|(weight, _)| weight).sum();
        let mut left = uniform * kept;
        for &(weight, id) in &weighted {
            left -= weight;
            if left < 0.0 {
                return id;
            }
        }
        weighted.last().map_or(0, |&(_, id)| id)
    }
}

/// The largest logit's id; the smallest such id on a tie.
fn most_likely(logits: &[f32]) -> u32 {
    let mut best = (f32::NEG_INFINITY, 0);
    for (&logit, id) in logits.iter().zip(0..) {
        if logit > best.0 {
            best = (logit, id);
        }
    }
    best.1
}

/// See [`super::Backend::sample`].
pub fn sample(draw: Draw<'_, Vec<u32>>, products: &[f32], shape: SampleShape) {
    let SampleShape { rows, vocabulary, logits, choice, last } = shape;
    let pick = |row: usize| {
        let products = &products[row * vocabulary..(row + 1) * vocabulary];
        let at = 2 * (draw.taken[row] as usize * rows + row);
        let bits = match draw.chances.get(at..at + 2) {
            Some(&[low, high]) => u64::from(low) | u64::from(high) << 32,
            _ => 0,
        };
        if logits == LogitRule::PLAIN {
            return choice.pick(products, bits);
        }
        let mut capped = products.to_vec();
        logits.apply(&mut capped);
        choice.pick(&capped, bits)
    };
    let tokens: Vec<u32> = (0..rows).into_par_iter().map(pick).collect();
    for (row, token) in tokens.into_iter().enumerate() {
        draw.picked[draw.taken[row] as usize * rows + row] = token;
        draw.taken[row] += 1;
        draw.tokens[row] = if token == NO_TOKEN { 0 } else { token };
        draw.positions[row] = (draw.positions[row] + 1).min(last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(temperature: f64, top_p: f64) -> Choice {
        Choice { temperature, top_k: 0, top_p }
    }

    /// Shares of `draws` tokens whose random numbers lie evenly.
    fn shares(choice: Choice, logits: &[f32], draws: u64) -> Vec<f64> {
        let mut counts = vec![0; logits.len()];
        for draw in 0..draws {
            counts[choice.pick(logits, u64::MAX / draws * draw) as usize] += 1;
        }
        counts.into_iter().map(|count| f64::from(count) / draws as f64).collect()
    }

    #[test]
    fn temperature_zero_is_greedy_with_ties_to_the_smaller_id() {
        assert_eq!(Choice::GREEDY.pick(&[0.5, 2.0, 2.0, -1.0], 0), 1);
    }

    #[test]
    fn logits_that_are_not_numbers_give_no_token() {
        for choice in [Choice::GREEDY, choice(1.0, 0.9)] {
            assert_eq!(choice.pick(&[0.5, f32::NAN, 2.0], 0), NO_TOKEN);
        }
    }

    #[test]
    fn tokens_come_with_the_softmaxs_shares() {
        // p = 1/2, 1/3, 1/6; with temperature 1/2 they become squares: 9/14, 4/14, 1/14.
        let logits: Vec<f32> =
            [1.0 / 2.0, 1.0 / 3.0, 1.0 / 6.0].iter().map(|p: &f32| p.ln()).collect();
        for (temperature, expected) in
            [(1.0, [0.5, 1.0 / 3.0, 1.0 / 6.0]), (0.5, [9.0 / 14.0, 4.0 / 14.0, 1.0 / 14.0])]
        {
            for (share, expected) in
                shares(choice(temperature, 1.0), &logits, 20_000).iter().zip(expected)
            {
                assert!((share - expected).abs() < 2e-4, "{share} {expected}");
            }
        }
    }

    #[test]
    fn top_p_keeps_the_fewest_tokens_that_hold_its_share() {
        let logits: Vec<f32> = [0.5f32, 0.3, 0.15, 0.05].iter().map(|p| p.ln()).collect();
        let found = shares(choice(1.0, 0.7), &logits, 5_000);
        assert_eq!(&found[2..], [0.0, 0.0]);
        assert!((found[0] - 0.625).abs() < 1e-3, "{found:?}");
        assert_eq!(shares(choice(1.0, 0.4), &logits, 100), [1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn top_k_keeps_the_most_likely_and_top_p_counts_within_them() {
        let logits: Vec<f32> = [0.05f32, 0.3, 0.15, 0.5].iter().map(|p| p.ln()).collect();
        let two = Choice { top_k: 2, ..choice(1.0, 1.0) };
        let found = shares(two, &logits, 8_000);
        assert!((found[1] - 0.375).abs() < 1e-3 && found[0] + found[2] == 0.0, "{found:?}");
        // Of the two, the first holds 5/8.
        assert_eq!(shares(Choice { top_p: 0.62, ..two }, &logits, 100), [0.0, 0.0, 0.0, 1.0]);
    }
}
