//! The shape of a new model, as a pipeline file's `[model.init]` writes it, and the `config.json` it comes to: a few keys in
//! the field names of Hugging Face, the rest from the family's facts.

use std::path::Path;

use anyhow::Result;
use artifact::{config::nearest, error::user};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    model::{
        ModelConfig,
        family::{FAMILIES, Family, HeadSize, Windows, activation_name},
    },
    tokenizer::Tokenizer,
};

/// The shape of a new model, in the field names of Hugging Face's `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InitConfig {
    /// Family: "llama" (default), "mistral", "qwen2", "qwen3", "cohere", "cohere2", "gemma2" or "gemma3".
    #[serde(default = "llama")]
    pub model_type: String,
    /// Channels.
    pub hidden_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key/value heads; default: as many as query heads.
    pub num_key_value_heads: Option<usize>,
    /// Width of a head, in families that say it; default: `hidden_size` over the query heads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// Tokens that a layer with a window sees, in families that have such layers; default: the family's, and for
    /// mistral none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sliding_window: Option<usize>,
    /// Width of the feed-forward layer; default: 8/3 of `hidden_size`, rounded up to a multiple of 32.
    pub intermediate_size: Option<usize>,
    /// Context in tokens. Default 2048.
    #[serde(default = "context")]
    pub max_position_embeddings: usize,
    /// Base of the rotary frequencies. Default 10000.
    #[serde(default = "rope_theta")]
    pub rope_theta: f64,
    /// Epsilon of the norms. Default 1e-6.
    #[serde(default = "norm_eps")]
    pub rms_norm_eps: f64,
    /// Share the embedding with the output head. Default true.
    #[serde(default = "yes")]
    pub tie_word_embeddings: bool,
    /// Standard deviation of the random weights. Default 0.02.
    #[serde(default = "spread")]
    pub initializer_range: f64,
    /// Rows of the embedding; default: the tokenizer's size, rounded up to a multiple of 64.
    pub vocab_size: Option<usize>,
}

fn llama() -> String {
    "llama".to_owned()
}
fn context() -> usize {
    2048
}
fn rope_theta() -> f64 {
    10_000.0
}
fn norm_eps() -> f64 {
    1e-6
}
fn yes() -> bool {
    true
}
fn spread() -> f64 {
    0.02
}

impl InitConfig {
    /// Reads a TOML file, or a JSON file of the same keys (`.json`).
    pub fn load(path: &Path) -> Result<Self> {
        if path.extension().is_some_and(|extension| extension == "json") {
            let file = std::io::BufReader::new(artifact::error::open_input(path)?);
            return serde_json::from_reader(file)
                .map_err(|error| user(format!("{}: {error}", path.display())));
        }
        artifact::config::load_toml(path)
    }

    fn family(&self) -> Result<&'static Family> {
        // What the multimodal models of the family are called, whose text part it is.
        let name = if self.model_type == "gemma3" { "gemma3_text" } else { &self.model_type };
        let found = FAMILIES.iter().find(|family| family.model_type == name);
        found.ok_or_else(|| {
            let known: Vec<&str> = FAMILIES.iter().map(|family| family.model_type).collect();
            let near = nearest(name, known.iter().copied())
                .map_or(String::new(), |n| format!(" (\"{n}\"?)"));
            let all = known.join(", ");
            user(format!("init.model_type is \"{name}\"{near}; new models are one of {all}"))
        })
    }

    /// The config of a new model for a tokenizer.
    pub fn model_config(&self, tokenizer: &Tokenizer) -> Result<ModelConfig> {
        let family = self.family()?;
        let Value::Object(mut fields) = json!(self) else {
            unreachable!("a struct serialises to an object")
        };
        if let Some(eps) = fields.remove("rms_norm_eps") {
            fields.insert(family.norm_eps.0.to_owned(), eps);
        }
        fields.insert("model_type".to_owned(), json!(family.model_type));
        let mut set = |key: &str, value: Value| {
            let unset = fields.get(key).is_none_or(Value::is_null);
            if unset {
                fields.insert(key.to_owned(), value);
            }
        };
        set("architectures", json!([family.architecture]));
        set(family.activation.0, json!(activation_name(family.activation.1)));
        let head_size = self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1));
        if let HeadSize::Own(_) = family.head_size {
            set("head_dim", json!(head_size));
        }
        if family.query_scalar.is_some() {
            set("query_pre_attn_scalar", json!(head_size));
        }
        if family.windows == Windows::Every {
            set("sliding_window", Value::Null);
        }
        set("num_key_value_heads", json!(self.num_attention_heads));
        set("intermediate_size", json!((self.hidden_size * 8).div_ceil(3).next_multiple_of(32)));
        set("vocab_size", json!(tokenizer.size().next_multiple_of(64)));
        for (key, name) in [("bos_token_id", "bos_token"), ("eos_token_id", "eos_token")] {
            set(key, json!(tokenizer.named_id(name)));
        }
        ModelConfig::parse(&Value::Object(fields).to_string(), Path::new("[model.init]"))
    }
}
