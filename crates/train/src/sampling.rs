//! From logits to a token: greedy, or by temperature and top-p (nucleus sampling, arXiv 1904.09751).
//!
//! The random number of a token is blake3(seed, example, index of the token). Which prompts share a
//! batch, and in which order they end, cannot matter then.

/// How tokens are chosen.
#[derive(Clone, Debug)]
pub struct Sampler {
    /// 0: the most likely token.
    pub temperature: f64,
    /// Share of probability that is sampled from.
    pub top_p: f64,
    /// Seed.
    pub seed: u64,
}

impl Sampler {
    /// The next token after `logits` (length V), for token `index` of the answer to `example_id`.
    pub fn choose(&self, logits: &[f32], example_id: &str, index: usize) -> u32 {
        if self.temperature == 0.0 {
            return most_likely(logits);
        }
        let key = artifact::hash::draw_key(self.seed, example_id, &index.to_string());
        let bits =
            u64::from_le_bytes([key[0], key[1], key[2], key[3], key[4], key[5], key[6], key[7]]);
        // 53 bits: a number in [0, 1) that a double holds exactly.
        let uniform = (bits >> 11) as f64 / (1u64 << 53) as f64;
        self.at(logits, uniform)
    }

    /// The token at `uniform` of the cumulative distribution, tokens sorted by probability, then id.
    fn at(&self, logits: &[f32], uniform: f64) -> u32 {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |logit: f32| (f64::from(logit - largest) / self.temperature).exp();
        let mut weighted: Vec<(f64, u32)> =
            logits.iter().zip(0..).map(|(&logit, id)| (weight(logit), id)).collect();
        weighted.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(temperature: f64, top_p: f64) -> Sampler {
        Sampler { temperature, top_p, seed: 3 }
    }

    /// Shares of `draws` tokens.
    fn shares(sampler: &Sampler, logits: &[f32], draws: usize) -> Vec<f64> {
        let mut counts = vec![0; logits.len()];
        for index in 0..draws {
            counts[sampler.choose(logits, "example", index) as usize] += 1;
        }
        counts.into_iter().map(|count| f64::from(count) / draws as f64).collect()
    }

    #[test]
    fn temperature_zero_is_greedy_with_ties_to_the_smaller_id() {
        assert_eq!(sampler(0.0, 1.0).choose(&[0.5, 2.0, 2.0, -1.0], "x", 0), 1);
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
                shares(&sampler(temperature, 1.0), &logits, 20_000).iter().zip(expected)
            {
                // Four standard deviations of a share of 20,000 draws.
                assert!(
                    (share - expected).abs() < 4.0 * (0.25f64 / 20_000.0).sqrt(),
                    "{share} {expected}"
                );
            }
        }
    }

    #[test]
    fn top_p_keeps_the_fewest_tokens_that_hold_its_share() {
        let logits: Vec<f32> = [0.5f32, 0.3, 0.15, 0.05].iter().map(|p| p.ln()).collect();
        let found = shares(&sampler(1.0, 0.7), &logits, 5_000);
        assert_eq!(&found[2..], [0.0, 0.0]);
        assert!((found[0] - 0.625).abs() < 0.03, "{found:?}");
        assert_eq!(shares(&sampler(1.0, 0.4), &logits, 100), [1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn a_token_depends_on_seed_example_and_index_alone() {
        let logits = vec![0.0f32; 1000];
        let one = sampler(1.0, 1.0);
        assert_eq!(one.choose(&logits, "a", 4), one.choose(&logits, "a", 4));
        assert_ne!(one.choose(&logits, "a", 4), one.choose(&logits, "a", 5));
        assert_ne!(one.choose(&logits, "a", 4), one.choose(&logits, "b", 4));
    }
}
