//! Model FLOPs of a step and the peak of a card, whose quotient is the model FLOPs utilisation (Chowdhery
//! et al. 2022, PaLM, appendix B, arXiv 2204.02311): what the mathematics of a step asks for, over what
//! the card could have done meanwhile. What is computed again to save memory counts for nothing.

use crate::cuda::driver::Facts;
use crate::model::adapter::Trained;
use crate::model::weights::Spec;
use crate::model::{Batch, Decoder, ModelConfig};
use crate::ops::Backend;

/// How many FLOPs a batch asks for.
///
/// A matrix of n weights costs 2n a token forward, 2n for its input's gradient and 2n for its own: 6n, or
/// 4n where it stays and an adapter of its own 6n is trained beside it. The embedding is looked up and
/// costs nothing; the head costs only the tokens that the loss counts. Attention costs 12 H D for each
/// layer and each pair of tokens of which one sees the other, in documents as they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Flops {
    /// For each token.
    token: f64,
    /// For each token that the loss counts.
    counted: f64,
    /// For each pair of a layer.
    pair: f64,
    /// Each layer's window.
    windows: Vec<Option<usize>>,
}

impl Flops {
    /// Of a model as it is trained.
    #[must_use]
    pub fn of<B: Backend + Clone>(model: &Decoder<B>) -> Self {
        let config = model.config();
        let adapter = match &*model.trained_specs() {
            Trained::Full(_) => None,
            Trained::Adapter(_) => Some(model.trained_count() as f64),
        };
        let specs = crate::model::weights::specs(config);
        let layers = specs.layers.iter().flat_map(|layer| layer.all()).map(matrix).sum::<f64>();
        let head = matrix(specs.head());
        Self::new(config, [layers, head], adapter)
    }

    /// Weights of the layers' matrices and of the head, and those of an adapter.
    fn new(config: &ModelConfig, [layers, head]: [f64; 2], adapter: Option<f64>) -> Self {
        let factor = if adapter.is_some() { 4.0 } else { 6.0 };
        Self {
            token: factor * layers + 6.0 * adapter.unwrap_or(0.0),
            counted: factor * head,
            pair: 12.0 * config.query_width() as f64,
            windows: (0..config.num_hidden_layers).map(|l| config.attention(l).window).collect(),
        }
    }

    /// Of a forward and a backward pass over a batch.
    #[must_use]
    pub fn of_batch(&self, batch: &Batch) -> f64 {
        let counted = batch.targets.iter().filter(|&&target| target >= 0).count();
        let lengths = batch.documents.windows(2).map(|pair| u64::from(pair[1] - pair[0]));
        let pairs: u64 = lengths
            .flat_map(|length| self.windows.iter().map(move |window| pairs(length, *window)))
            .sum();
        self.token * batch.tokens.len() as f64
            + self.counted * counted as f64
            + self.pair * pairs as f64
    }
}

/// Number of a matrix's weights; none of a norm's or a bias's.
fn matrix(spec: &Spec) -> f64 {
    if spec.decays() { spec.elements() as f64 } else { 0.0 }
}

/// Pairs of a token and one that it sees, itself among them.
fn pairs(length: u64, window: Option<usize>) -> u64 {
    let window = window.map_or(length, |window| length.min(window as u64));
    window * (window + 1) / 2 + (length - window) * window
}

/// Cards by a part of their names, the longer names before those that they contain, and their peak in
/// bf16 with f32 sums, dense, in TFLOP/s: NVIDIA's data sheets.
const PEAKS: [(&str, f64); 20] = [
    ("B200", 2250.0),
    ("GH200", 989.0),
    ("H200 NVL", 835.0),
    ("H200", 989.0),
    ("H100 NVL", 835.0),
    ("H100 PCIe", 756.0),
    ("H100", 989.0),
    ("H800 PCIe", 756.0),
    ("H800", 989.0),
    ("H20", 148.0),
    ("A100", 312.0),
    ("A800", 312.0),
    ("L40S", 362.0),
    ("L40", 181.0),
    ("L4", 121.0),
    ("RTX 4090", 165.2),
    ("RTX 3090", 71.0),
    ("A40", 149.7),
    ("A30", 165.0),
    ("NVIDIA A10", 125.0),
];

/// Peak of a card in FLOP/s, where it is one of those known.
#[must_use]
pub fn peak(facts: &Facts) -> Option<f64> {
    // The A10G is another card than the A10, at a peak of its own.
    let known = PEAKS.iter().find(|(name, _)| facts.name.contains(name));
    known.filter(|_| !facts.name.contains("A10G")).map(|(_, peak)| peak * 1e12)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;
    use crate::model::adapter::{Lora, Target};

    fn batch(lengths: &[u32], counted: usize) -> Batch {
        let rows: u32 = lengths.iter().sum();
        let mut targets = vec![-1; rows as usize];
        targets[..counted].fill(1);
        let ends = lengths.iter().scan(0, |end, length| {
            *end += length;
            Some(*end)
        });
        let documents = std::iter::once(0).chain(ends).collect();
        Batch { tokens: vec![0; rows as usize], targets, documents }
    }

    /// Llama 3.1 8B, whose 8,030,261,248 parameters are published; 525,336,576 are the embedding's, as
    /// many the head's, 266,240 the norms'.
    #[test]
    fn a_large_models_flops_are_the_appendixs() {
        let config = ModelConfig::parse(
            r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128256,
            "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": false,
            "hidden_act": "silu"}"#,
            std::path::Path::new("config.json"),
        )
        .unwrap();
        let specs = crate::model::weights::specs(&config);
        let layers = specs.layers.iter().flat_map(|layer| layer.all()).map(matrix).sum::<f64>();
        let head = matrix(specs.head());
        let without_lookups = 8_030_261_248.0 - 525_336_576.0 - 266_240.0;
        assert_eq!(layers + head, without_lookups);
        let flops = Flops::new(&config, [layers, head], None);
        // 6 N + 12 L H Q T a token, of which a causal mask leaves (T + 1) / 2.
        let t = 8192.0;
        let per_token = 6.0 * without_lookups + 12.0 * 32.0 * 32.0 * 128.0 * (t + 1.0) / 2.0;
        assert_eq!(flops.of_batch(&batch(&[8192], 8192)), per_token * t);
        let frozen = Flops::new(&config, [layers, head], Some(0.0));
        let attention = flops.of_batch(&batch(&[8192], 8192)) - 6.0 * without_lookups * t;
        assert_eq!(frozen.of_batch(&batch(&[8192], 8192)), 4.0 * without_lookups * t + attention);
    }

    #[test]
    fn documents_windows_and_masked_tokens_cost_what_they_are() {
        // Of five tokens with a window of three, token i sees min(i, 3): 1 + 2 + 3 + 3 + 3.
        assert_eq!((pairs(5, None), pairs(5, Some(3)), pairs(2, Some(3))), (15, 12, 3));
        let folder =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/engine/llama");
        let mut model = Model::load(&folder).unwrap();
        let flops = Flops::of(&model);
        let one = |lengths: &[u32], counted| flops.of_batch(&batch(lengths, counted));
        let layers = model.config().num_hidden_layers as f64;
        let width = model.config().query_width() as f64;
        // Two documents of 4 see 2 · 10 pairs, one of 8 sees 36.
        assert_eq!(one(&[8], 8) - one(&[4, 4], 8), 16.0 * 12.0 * layers * width);
        let head = (model.config().vocab_size * model.config().hidden_size) as f64;
        assert_eq!(one(&[8], 8) - one(&[8], 3), 5.0 * 6.0 * head);

        let lora = Lora::new(2, 4.0, vec![Target::QProj]);
        model.attach(lora, crate::model::Base::default(), 0);
        let beside = Flops::of(&model);
        assert_eq!(beside.token, 4.0 / 6.0 * flops.token + 6.0 * model.trained_count() as f64);
    }

    #[test]
    fn a_card_is_known_by_its_name() {
        let of = |name: &str| {
            peak(&Facts {
                name: name.to_owned(),
                capability: (9, 0),
                multiprocessors: 132,
                memory: 0,
                free: 0,
            })
        };
        assert_eq!(of("NVIDIA H200"), Some(989e12));
        assert_eq!(of("NVIDIA H100 PCIe"), Some(756e12));
        assert_eq!(of("NVIDIA H100 80GB HBM3"), Some(989e12));
        assert_eq!(of("NVIDIA A100-SXM4-80GB"), Some(312e12));
        assert_eq!((of("NVIDIA A10"), of("NVIDIA A10G")), (Some(125e12), None));
        assert_eq!((of("NVIDIA L40S"), of("NVIDIA L4")), (Some(362e12), Some(121e12)));
        assert_eq!(of("emulation"), None);
    }
}
