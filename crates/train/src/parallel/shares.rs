//! Which rank owns what: each piece of the model whose gradients are complete at one time is laid out flat and cut into
//! as many runs as there are ranks (ZeRO stage 1 over flat tensors). So all ranks have as much of every piece, whatever
//! the shapes: an embedding of a quarter of the model is nobody's alone, and while a piece's gradients travel every rank
//! sends and receives.

use std::ops::Range;

use crate::model::adapter::Trained;
use crate::model::weights::{Piece, Spec};
use crate::ops::moments::BLOCK;

/// Where one tensor is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cuts {
    /// Ascending, one more than there are ranks.
    at: Vec<usize>,
    /// Whether all ranks read it as exactly as its owners.
    pub is_exact: bool,
}

impl Cuts {
    /// What a rank owns of the tensor.
    #[must_use]
    pub fn of(&self, rank: usize) -> Range<usize> {
        self.at[rank]..self.at[rank + 1]
    }

    /// Of which of its values a rank keeps the exact form.
    #[must_use]
    pub fn kept(&self, rank: usize) -> Range<usize> {
        if self.is_exact { 0..self.at.last().copied().unwrap_or(0) } else { self.of(rank) }
    }

    /// What each rank owns of it, in their order.
    pub fn runs(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.at.windows(2).map(|ends| ends[0]..ends[1])
    }
}

/// What each rank owns of everything that is trained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shares {
    /// By tensor.
    pub cuts: Vec<Cuts>,
    /// The tensors of each piece, in the order in which gradients are complete.
    pub pieces: Vec<Range<usize>>,
}

impl Shares {
    /// Of so many ranks.
    #[must_use]
    pub fn new(specs: &Trained<Spec>, ranks: usize) -> Self {
        let elements: Vec<usize> = specs.all().into_iter().map(Spec::elements).collect();
        let pieces: Vec<Range<usize>> = match specs {
            Trained::Full(weights) => Piece::of_layers(weights.layers.len())
                .map(|piece| {
                    let first = weights.first_of(piece);
                    first..first + weights.piece(piece).len()
                })
                .collect(),
            // An adapter's gradients are few, and used together.
            Trained::Adapter(_) => std::iter::once(0..elements.len()).collect(),
        };
        let mut cuts: Vec<Cuts> = cut(&elements, 1);
        for piece in &pieces {
            let of_piece = cut(&elements[piece.clone()], ranks);
            cuts[piece.clone()].iter_mut().zip(of_piece).for_each(|(to, cuts)| *to = cuts);
        }
        for (cuts, spec) in cuts.iter_mut().zip(specs.all()) {
            cuts.is_exact = spec.is_exact();
        }
        Self { cuts, pieces }
    }

    /// A rank's runs, by tensor; some are empty.
    #[must_use]
    pub fn of(&self, rank: usize) -> Vec<Range<usize>> {
        self.cuts.iter().map(|cuts| cuts.of(rank)).collect()
    }
}

/// Cuts tensors that lie end to end into runs of about the same length, at blocks of moments.
pub(crate) fn cut(elements: &[usize], ranks: usize) -> Vec<Cuts> {
    let total: usize = elements.iter().sum();
    let mut before = 0;
    elements
        .iter()
        .map(|&len| {
            let inside = |rank: usize| {
                let at = (total as u128 * rank as u128 / ranks as u128) as usize;
                let block = (at.saturating_sub(before) + BLOCK / 2) / BLOCK * BLOCK;
                if rank == ranks { len } else { block.min(len) }
            };
            let cuts = Cuts { at: (0..=ranks).map(inside).collect(), is_exact: false };
            before += len;
            cuts
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::ModelConfig;
    use crate::model::weights::specs;
    use crate::ops::Form;

    fn model(fields: &str) -> Trained<Spec> {
        let text = format!(
            r#"{{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "rms_norm_eps": 1e-6,
                "max_position_embeddings": 128, "rope_theta": 10000.0, "initializer_range": 0.1,
                "hidden_act": "silu", {fields}}}"#
        );
        Trained::Full(specs(&ModelConfig::parse(&text, Path::new("config.json")).unwrap()))
    }

    #[test]
    fn every_value_has_one_owner_and_cuts_are_at_blocks() {
        let places = |elements: &[usize], ranks| -> Vec<Vec<usize>> {
            cut(elements, ranks).into_iter().map(|cuts| cuts.at).collect()
        };
        assert_eq!(places(&[1000, 24], 2), [vec![0, 512, 1000], vec![0, 0, 24]]);
        assert_eq!(places(&[5], 3), [vec![0, 0, 0, 5]]);
        assert_eq!(places(&[300, 2048], 1), [vec![0, 300], vec![0, 2048]]);
        let elements = [64, 12288, 64, 64, 8192, 8192, 3, 64, 12288, 700];
        for ranks in 1..9 {
            for (cuts, len) in places(&elements, ranks).iter().zip(elements) {
                assert_eq!((cuts.len(), cuts[0], cuts[ranks]), (ranks + 1, 0, len));
                assert!(cuts.windows(2).all(|ends| ends[0] <= ends[1]), "{cuts:?}");
                assert!(cuts.iter().all(|&at| at.is_multiple_of(BLOCK) || at == len), "{cuts:?}");
            }
        }
    }

    #[test]
    fn the_states_of_a_model_with_a_large_tied_embedding_are_shared_out_evenly() {
        // 256,000 words of 2,048 over four layers: the embedding is two thirds of the model.
        let large = r#""vocab_size": 256000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 4,
            "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": true"#;
        let small = r#""vocab_size": 8000, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 3,
            "num_attention_heads": 6, "num_key_value_heads": 2, "tie_word_embeddings": true"#;
        for (fields, ranks) in
            [(large, 2), (large, 3), (large, 8), (large, 64), (small, 2), (small, 4)]
        {
            let specs = model(fields);
            let shares = Shares::new(&specs, ranks);
            for form in [Form::F32, Form::Bf16, Form::Int8] {
                let bytes = |rank: usize| -> usize {
                    let runs = shares.of(rank).into_iter().zip(specs.all());
                    let of = |(run, spec): (Range<usize>, &Spec)| {
                        let form = form.of(spec.elements());
                        2 * (form.value_bytes(run.len()) + 4 * form.scales(run.len()))
                    };
                    runs.map(of).sum()
                };
                let all: Vec<usize> = (0..ranks).map(bytes).collect();
                let (most, least) = (all.iter().max().unwrap(), all.iter().min().unwrap());
                let ratio = *most as f64 / *least as f64;
                assert!(ratio <= 1.05, "{ranks} ranks, {form:?}: {ratio}");
            }
        }
    }
}
