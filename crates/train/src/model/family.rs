//! The model families, as data: a row of [`FAMILIES`] says in which facts one differs from another,
//! and the decoder asks the facts, never the name. Sources are the families' papers and, where
//! those are silent, the models' code in Hugging Face transformers 5.

use crate::ops::{Activation, NormKind, RopeLayout};

/// The facts in which one model family differs from another.
#[derive(Debug)]
pub struct Family {
    /// `model_type` in config.json.
    pub model_type: &'static str,
    /// The only entry of `architectures` in config.json.
    pub architecture: &'static str,
    /// The norms of the residual stream, and of query and key heads.
    pub norm: NormKind,
    /// The key of the norms' epsilon, and its value where the config has none.
    pub norm_eps: (&'static str, f32),
    /// How attention and feed-forward stand to the residual stream.
    pub block: Block,
    /// The feed-forward's gate, and the key that has to name it.
    pub activation: (&'static str, Activation),
    /// Whether the query, key and value projections have a bias.
    pub qkv_bias: Fact,
    /// The same for the attention's output projection.
    pub output_bias: Fact,
    /// Whether query and key heads are normed.
    pub qk_norm: Fact,
    /// Whether each head has norm weights of its own.
    pub qk_norm_per_head: bool,
    /// Which components turn together.
    pub rope_layout: RopeLayout,
    /// Which layers turn, by which base.
    pub rope: RopeRule,
    /// Which layers look back over a window only.
    pub windows: Windows,
    /// Whether D may differ from `hidden_size / num_attention_heads`.
    pub head_size: HeadSize,
    /// `query_pre_attn_scalar` where the config has none: scores are divided by its root. `None`:
    /// the key does not exist, and scores are divided by √D.
    pub query_scalar: Option<f32>,
    /// Whether the embedding is multiplied by √C.
    pub scaled_embedding: bool,
    /// The keys of the caps on scores and on logits, with their values where the config has none.
    pub score_cap: Option<Cap>,
    /// The same for logits.
    pub logit_cap: Option<Cap>,
    /// `logit_scale` where the config has none; `None`: the key does not exist.
    pub logit_scale: Option<f32>,
    /// `tie_word_embeddings` where the config has none.
    pub tied: bool,
    /// `num_key_value_heads` where the config has none; `None`: as many as there are query heads.
    pub default_key_value_heads: Option<usize>,
    /// `max_position_embeddings` where the config has none.
    pub default_max_positions: usize,
    /// Fields that may be there only with one value, as JSON.
    pub pinned: &'static [(&'static str, &'static str)],
}

/// Where a yes-or-no fact of a family comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fact {
    /// It is so in every model of the family.
    Always,
    /// It is so in none.
    Never,
    /// The config says, under this key; false where it is silent.
    Key(&'static str),
}

/// A layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    /// mid = x + attention(norm(x)); out = mid + feed_forward(norm(mid)).
    Sequential,
    /// The same with another norm on what each half adds.
    Sandwich,
    /// out = x + attention(norm(x)) + feed_forward(norm(x)), with one norm.
    Parallel,
}

/// Which layers turn queries and keys, with the bases where the config has none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeRule {
    /// Every layer.
    Every(f32),
    /// Those with a window; the others see no positions (Yang et al., arXiv 2501.18795).
    Windowed(f32),
    /// Every layer, those with a window by another base (Gemma 3, arXiv 2503.19786).
    TwoBases {
        /// Layers without a window.
        global: f32,
        /// Layers with one.
        local: f32,
    },
}

/// Which layers have a window, whose width is `sliding_window`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Windows {
    /// None.
    Never,
    /// All, unless `sliding_window` is null.
    Every,
    /// Those from `max_window_layers` on, if `use_sliding_window`.
    Switched,
    /// All but each so-many-th; the config may say how many, as `sliding_window_pattern`.
    AllBut(usize),
}

/// The width of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadSize {
    /// `hidden_size / num_attention_heads`.
    Divided,
    /// `head_dim`; the quotient where the config has none.
    OwnOrDivided,
    /// `head_dim`; this where the config has none.
    Own(usize),
}

/// A soft cap: its key, and its value where the config does not have the key. A null is no cap.
pub type Cap = (&'static str, Option<f32>);

const LLAMA: Family = Family {
    model_type: "llama",
    architecture: "LlamaForCausalLM",
    norm: NormKind::Rms,
    norm_eps: ("rms_norm_eps", 1e-6),
    block: Block::Sequential,
    activation: ("hidden_act", Activation::Silu),
    qkv_bias: Fact::Key("attention_bias"),
    output_bias: Fact::Key("attention_bias"),
    qk_norm: Fact::Never,
    qk_norm_per_head: false,
    rope_layout: RopeLayout::Halves,
    rope: RopeRule::Every(10_000.0),
    windows: Windows::Never,
    head_size: HeadSize::OwnOrDivided,
    query_scalar: None,
    scaled_embedding: false,
    score_cap: None,
    logit_cap: None,
    logit_scale: None,
    tied: false,
    default_key_value_heads: None,
    default_max_positions: 2048,
    pinned: &[("mlp_bias", "false")],
};

const QWEN2: Family = Family {
    model_type: "qwen2",
    architecture: "Qwen2ForCausalLM",
    qkv_bias: Fact::Always,
    output_bias: Fact::Never,
    windows: Windows::Switched,
    head_size: HeadSize::Divided,
    default_key_value_heads: Some(32),
    default_max_positions: 32768,
    pinned: &[("use_mrope", "false")],
    ..LLAMA
};

const COHERE: Family = Family {
    model_type: "cohere",
    architecture: "CohereForCausalLM",
    norm: NormKind::Layer,
    norm_eps: ("layer_norm_eps", 1e-5),
    block: Block::Parallel,
    qk_norm: Fact::Key("use_qk_norm"),
    qk_norm_per_head: true,
    rope_layout: RopeLayout::Interleaved,
    rope: RopeRule::Every(500_000.0),
    head_size: HeadSize::Divided,
    logit_scale: Some(0.0625),
    tied: true,
    default_max_positions: 8192,
    pinned: &[],
    ..LLAMA
};

const GEMMA2: Family = Family {
    model_type: "gemma2",
    architecture: "Gemma2ForCausalLM",
    norm: NormKind::RmsPlusOne,
    block: Block::Sandwich,
    activation: ("hidden_activation", Activation::GeluTanh),
    windows: Windows::AllBut(2),
    head_size: HeadSize::Own(256),
    query_scalar: Some(256.0),
    scaled_embedding: true,
    score_cap: Some(("attn_logit_softcapping", Some(50.0))),
    logit_cap: Some(("final_logit_softcapping", Some(30.0))),
    tied: true,
    default_key_value_heads: Some(4),
    default_max_positions: 8192,
    pinned: &[("hidden_act", "\"gelu_pytorch_tanh\""), ("use_bidirectional_attention", "false")],
    ..LLAMA
};

/// The families that the decoder runs.
pub static FAMILIES: [Family; 8] = [
    LLAMA,
    Family {
        model_type: "mistral",
        architecture: "MistralForCausalLM",
        qkv_bias: Fact::Never,
        output_bias: Fact::Never,
        windows: Windows::Every,
        default_key_value_heads: Some(8),
        default_max_positions: 131_072,
        pinned: &[("attention_bias", "false"), ("mlp_bias", "false")],
        ..LLAMA
    },
    QWEN2,
    Family {
        model_type: "qwen3",
        architecture: "Qwen3ForCausalLM",
        qkv_bias: Fact::Key("attention_bias"),
        output_bias: Fact::Key("attention_bias"),
        qk_norm: Fact::Always,
        head_size: HeadSize::Own(128),
        ..QWEN2
    },
    COHERE,
    Family {
        model_type: "cohere2",
        architecture: "Cohere2ForCausalLM",
        qk_norm: Fact::Never,
        qk_norm_per_head: false,
        rope: RopeRule::Windowed(10_000.0),
        windows: Windows::AllBut(4),
        pinned: &[
            ("order_of_interleaved_layers", "\"local_attn_first\""),
            ("position_embedding_type", "\"rope_gptj\""),
            ("rotary_pct", "1.0"),
            ("use_embedding_sharing", "true"),
            ("use_gated_activation", "true"),
            ("use_parallel_block", "true"),
            ("use_parallel_embedding", "false"),
            ("use_qk_norm", "false"),
        ],
        ..COHERE
    },
    GEMMA2,
    Family {
        model_type: "gemma3_text",
        architecture: "Gemma3ForCausalLM",
        qk_norm: Fact::Always,
        rope: RopeRule::TwoBases { global: 1_000_000.0, local: 10_000.0 },
        windows: Windows::AllBut(6),
        score_cap: None,
        logit_cap: Some(("final_logit_softcapping", None)),
        default_max_positions: 131_072,
        ..GEMMA2
    },
];

impl Family {
    /// The keys that follow from the family's facts.
    #[must_use]
    pub fn keys(&self) -> Vec<&'static str> {
        let mut keys = vec![self.norm_eps.0, self.activation.0];
        for fact in [self.qkv_bias, self.output_bias, self.qk_norm] {
            if let Fact::Key(key) = fact {
                keys.push(key);
            }
        }
        match self.windows {
            Windows::Never => {}
            Windows::Every => keys.push("sliding_window"),
            Windows::Switched => keys.extend([
                "sliding_window",
                "use_sliding_window",
                "max_window_layers",
                "layer_types",
            ]),
            Windows::AllBut(_) => keys.extend([
                "sliding_window",
                "sliding_window_size",
                "sliding_window_pattern",
                "_sliding_window_pattern",
                "layer_switch",
                "layer_types",
            ]),
        }
        if let RopeRule::TwoBases { .. } = self.rope {
            keys.push("rope_local_base_freq");
        }
        keys.extend(self.query_scalar.map(|_| "query_pre_attn_scalar"));
        keys.extend([self.score_cap, self.logit_cap].iter().flatten().map(|(key, _)| *key));
        keys.extend(self.logit_scale.map(|_| "logit_scale"));
        keys
    }
}

/// The name that a config gives an activation.
#[must_use]
pub fn activation_name(activation: Activation) -> &'static str {
    match activation {
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
    }
}
