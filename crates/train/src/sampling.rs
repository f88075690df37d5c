//! The random numbers of sampling. That of a token is blake3(seed, example, index of the token): which
//! prompts share a batch, and in which order they end, cannot matter then.

/// The random bits of token `index` of the answer to `example_id`.
#[must_use]
pub fn chance(seed: u64, example_id: &str, index: usize) -> u64 {
    let key = artifact::hash::draw_key(seed, example_id, &index.to_string());
    u64::from_le_bytes([key[0], key[1], key[2], key[3], key[4], key[5], key[6], key[7]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::sample::Choice;

    #[test]
    fn a_token_depends_on_seed_example_and_index_alone() {
        let logits = vec![0.0f32; 1000];
        let choose = |seed, example, index| {
            Choice { temperature: 1.0, top_k: 0, top_p: 1.0 }
                .pick(&logits, chance(seed, example, index))
        };
        assert_eq!(choose(3, "a", 4), choose(3, "a", 4));
        assert_ne!(choose(3, "a", 4), choose(3, "a", 5));
        assert_ne!(choose(3, "a", 4), choose(3, "b", 4));
        assert_ne!(choose(3, "a", 4), choose(4, "a", 4));
    }

    #[test]
    fn tokens_of_many_examples_come_evenly() {
        let halves = Choice { temperature: 1.0, top_k: 0, top_p: 1.0 };
        let first = (0..10_000)
            .filter(|index| halves.pick(&[1.0, 1.0], chance(5, "example", *index)) == 0)
            .count();
        // Four standard deviations of 10,000 coins.
        assert!((4800..5200).contains(&first), "{first}");
    }
}
