//! What a model is, read from a Hugging Face `config.json`. A model family is data: one row of
//! `FAMILIES` with the facts in which it differs. Whatever the engine does not know how to honour
//! is refused by the name of its key, because a field that is silently ignored gives a model that
//! is silently wrong.

use std::path::Path;

use anyhow::Result;
use artifact::bail_user;
use artifact::error::{open_input, user};
use serde_json::{Map, Value, json};

use crate::ops::Heads;

/// The facts in which one model family differs from another.
#[derive(Debug)]
pub struct Family {
    /// `model_type` in config.json.
    pub model_type: &'static str,
    /// The only entry of `architectures` in config.json.
    pub architecture: &'static str,
    /// Whether the query, key and value projections have a bias: a fact of the family, or the
    /// config's own key.
    pub qkv_bias: Fact,
    /// The same for the attention's output projection.
    pub output_bias: Fact,
    /// Whether the config may name a `head_dim` other than `hidden_size / num_attention_heads`.
    pub own_head_size: bool,
    /// `num_key_value_heads` where the config has none; `None`: as many as there are query heads.
    pub default_key_value_heads: Option<usize>,
    /// `max_position_embeddings` where the config has none.
    pub default_max_positions: usize,
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

/// The families that the decoder runs.
pub static FAMILIES: [Family; 2] = [
    Family {
        model_type: "llama",
        architecture: "LlamaForCausalLM",
        qkv_bias: Fact::Key("attention_bias"),
        output_bias: Fact::Key("attention_bias"),
        own_head_size: true,
        default_key_value_heads: None,
        default_max_positions: 2048,
    },
    Family {
        model_type: "qwen2",
        architecture: "Qwen2ForCausalLM",
        qkv_bias: Fact::Always,
        output_bias: Fact::Never,
        own_head_size: false,
        default_key_value_heads: Some(32),
        default_max_positions: 32768,
    },
];

/// Keys that do not change what the decoder computes.
const WITHOUT_EFFECT: &[&str] = &[
    "_attn_implementation_autoset",
    "_name_or_path",
    "bos_token_id",
    "chunk_size_feed_forward",
    "dtype",
    "eos_token_id",
    "id2label",
    "initializer_range",
    "is_encoder_decoder",
    "keys_to_ignore_at_inference",
    "label2id",
    "max_window_layers",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "pretraining_tp",
    "problem_type",
    "return_dict",
    "sliding_window",
    "torch_dtype",
    "transformers_version",
    "unsloth_version",
    "use_cache",
];

/// Keys that the decoder honours or checks.
const HONOURED: &[&str] = &[
    "architectures",
    "attention_bias",
    "attention_dropout",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "layer_types",
    "max_position_embeddings",
    "mlp_bias",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "tie_word_embeddings",
    "use_sliding_window",
    "vocab_size",
];

/// A decoder's shape and constants.
#[derive(Debug, Clone)]
pub struct ModelConfig {
    /// The row of [`FAMILIES`].
    pub family: &'static Family,
    /// V: rows of the embedding.
    pub vocab_size: usize,
    /// C: width of the residual stream.
    pub hidden_size: usize,
    /// F: width of the feed-forward's inner layer.
    pub intermediate_size: usize,
    /// L: decoder layers.
    pub num_hidden_layers: usize,
    /// H: query heads.
    pub num_attention_heads: usize,
    /// K: key and value heads; H is a multiple of K.
    pub num_key_value_heads: usize,
    /// D: width of one head.
    pub head_dim: usize,
    /// The longest document, in tokens.
    pub max_position_embeddings: usize,
    /// Epsilon of the RMS norms.
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Whether the head is the embedding itself.
    pub tie_word_embeddings: bool,
    /// Whether the query, key and value projections have a bias.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub output_bias: bool,
    /// Standard deviation of the random initial weights.
    pub initializer_range: f32,
    /// The file as it was read, so that what does not concern the decoder (token ids, say) goes out
    /// again as it came.
    fields: Map<String, Value>,
}

impl ModelConfig {
    /// Reads `config.json` in `dir`.
    ///
    /// # Errors
    /// A user error that names the file and the key if the file is missing or not JSON, the
    /// architecture is unknown, or a field asks for what the engine does not do.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let text = std::io::read_to_string(open_input(&path)?)
            .map_err(|err| user(format!("{}: cannot be read as text: {err}", path.display())))?;
        Self::parse(&text, &path)
    }

    /// Reads the text of a config; `path` is for the messages.
    ///
    /// # Errors
    /// As [`ModelConfig::load`].
    pub fn parse(json: &str, path: &Path) -> Result<Self> {
        let fields: Map<String, Value> = serde_json::from_str(json)
            .map_err(|err| user(format!("{}: not a JSON object: {err}", path.display())))?;
        Reader { fields: &fields, path }.config()
    }

    /// The config as `config.json` has it: every field that was read, with the decoder's own facts
    /// written out. The caller sets `torch_dtype`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut fields = self.fields.clone();
        let facts = json!({
            "architectures": [self.family.architecture],
            "model_type": self.family.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": shortest(self.rms_norm_eps),
            "rope_theta": shortest(self.rope_theta),
            "tie_word_embeddings": self.tie_word_embeddings,
            "initializer_range": shortest(self.initializer_range),
            "hidden_act": "silu",
        });
        if let Value::Object(facts) = facts {
            fields.extend(facts);
        }
        if self.family.own_head_size {
            fields.insert("head_dim".into(), self.head_dim.into());
        }
        if let Fact::Key(key) = self.family.qkv_bias {
            fields.insert(key.into(), self.qkv_bias.into());
        }
        Value::Object(fields)
    }

    /// Width of one row of queries, keys and values together: (H + 2K) D.
    #[must_use]
    pub fn qkv_width(&self) -> usize {
        (self.num_attention_heads + 2 * self.num_key_value_heads) * self.head_dim
    }

    /// Width of one row of queries: H D.
    #[must_use]
    pub fn query_width(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// The heads, as the operations take them.
    #[must_use]
    pub fn heads(&self) -> Heads {
        Heads {
            queries: self.num_attention_heads,
            key_values: self.num_key_value_heads,
            size: self.head_dim,
        }
    }

    /// A field as it stood in the file, `eos_token_id` for one.
    #[must_use]
    pub fn field(&self, key: &str) -> Option<&Value> {
        self.fields.get(key)
    }
}

/// The f64 with the shortest decimal form that reads back as `value`, so that 1e-6 is written as
/// 1e-6.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// Whether a value is one that the decoder does not honour.
type Test = fn(&Value) -> bool;

/// The fields of one file, and the file's name for the messages.
struct Reader<'a> {
    fields: &'a Map<String, Value>,
    path: &'a Path,
}

impl Reader<'_> {
    fn config(&self) -> Result<ModelConfig> {
        let family = self.family()?;
        self.refuse_unsupported(family)?;
        let hidden_size = self.size("hidden_size", None)?;
        let heads = self.size("num_attention_heads", None)?;
        let key_value_heads = self
            .size("num_key_value_heads", Some(family.default_key_value_heads.unwrap_or(heads)))?;
        let head_dim = if family.own_head_size && self.get("head_dim").is_some() {
            self.size("head_dim", None)?
        } else if hidden_size.is_multiple_of(heads) {
            hidden_size / heads
        } else {
            bail_user!(
                "{}: hidden_size {hidden_size} is not a multiple of num_attention_heads {heads}",
                self.at()
            );
        };
        if !family.own_head_size
            && self.get("head_dim").is_some_and(|v| v.as_u64() != Some(head_dim as u64))
        {
            bail_user!(
                "{}: head_dim must be hidden_size / num_attention_heads = {head_dim} in a {} model",
                self.at(),
                family.model_type
            );
        }
        if !heads.is_multiple_of(key_value_heads) {
            bail_user!(
                "{}: num_attention_heads {heads} is not a multiple of num_key_value_heads {key_value_heads}",
                self.at()
            );
        }
        if !head_dim.is_multiple_of(2) {
            bail_user!(
                "{}: the head size {head_dim} is odd; rotary embedding needs an even one",
                self.at()
            );
        }
        Ok(ModelConfig {
            family,
            vocab_size: self.size("vocab_size", None)?,
            hidden_size,
            intermediate_size: self.size("intermediate_size", None)?,
            num_hidden_layers: self.size("num_hidden_layers", None)?,
            num_attention_heads: heads,
            num_key_value_heads: key_value_heads,
            head_dim,
            max_position_embeddings: self
                .size("max_position_embeddings", Some(family.default_max_positions))?,
            rms_norm_eps: self.number("rms_norm_eps", 1e-6)?,
            rope_theta: self.rope_theta()?,
            tie_word_embeddings: self.flag("tie_word_embeddings")?,
            qkv_bias: self.fact(family.qkv_bias)?,
            output_bias: self.fact(family.output_bias)?,
            initializer_range: self.number("initializer_range", 0.02)?,
            fields: self.fields.clone(),
        })
    }

    /// The family by `model_type`, with which `architectures` has to agree where it is given.
    fn family(&self) -> Result<&'static Family> {
        let architecture = match self.get("architectures") {
            None => None,
            Some(Value::Array(names)) if names.len() == 1 && names[0].is_string() => {
                names[0].as_str()
            }
            Some(other) => bail_user!(
                "{}: architectures: expected one name in a list, found {other}",
                self.at()
            ),
        };
        let model_type = self.get("model_type").and_then(Value::as_str);
        let known = || FAMILIES.iter().map(|f| f.architecture).collect::<Vec<_>>().join(", ");
        let found = FAMILIES.iter().find(|family| match (architecture, model_type) {
            (Some(name), Some(kind)) => family.architecture == name && family.model_type == kind,
            (Some(name), None) => family.architecture == name,
            (None, Some(kind)) => family.model_type == kind,
            (None, None) => false,
        });
        found.ok_or_else(|| {
            user(format!(
                "{}: architectures = {} with model_type = {} is not supported; supported are {}",
                self.at(),
                architecture.unwrap_or("(none)"),
                model_type.unwrap_or("(none)"),
                known()
            ))
        })
    }

    fn refuse_unsupported(&self, family: &Family) -> Result<()> {
        for (key, value) in self.fields {
            let known = HONOURED.contains(&key.as_str()) || WITHOUT_EFFECT.contains(&key.as_str());
            if !known && !value.is_null() && *value != Value::Bool(false) {
                bail_user!("{}: the field {key} (= {value}) is not supported", self.at());
            }
        }
        let refused: [(&str, Test); 6] = [
            ("hidden_act", |v| v.as_str() != Some("silu")),
            ("mlp_bias", |v| *v != Value::Bool(false)),
            ("use_sliding_window", |v| *v != Value::Bool(false)),
            ("attention_dropout", |v| v.as_f64() != Some(0.0)),
            ("layer_types", |v| {
                !v.as_array().is_some_and(|all| all.iter().all(|one| one == "full_attention"))
            }),
            ("rope_scaling", |v| !has_default_rope_type(v)),
        ];
        for (key, unsupported) in refused {
            if let Some(value) = self.get(key).filter(|v| unsupported(v)) {
                bail_user!("{}: {key} = {value} is not supported", self.at());
            }
        }
        if family.qkv_bias != Fact::Key("attention_bias") && self.get("attention_bias").is_some() {
            bail_user!(
                "{}: attention_bias is not a field of a {} model",
                self.at(),
                family.model_type
            );
        }
        Ok(())
    }

    /// `rope_parameters.rope_theta` as transformers 5 writes it, or `rope_theta` as versions before
    /// it did.
    fn rope_theta(&self) -> Result<f32> {
        let Some(parameters) = self.get("rope_parameters") else {
            return self.number("rope_theta", 10_000.0);
        };
        if !has_default_rope_type(parameters) {
            bail_user!(
                "{}: rope_parameters = {parameters} is not supported; its rope_type may be default",
                self.at()
            );
        }
        let Some(inner) = parameters.as_object() else {
            bail_user!("{}: rope_parameters: expected an object, found {parameters}", self.at());
        };
        Reader { fields: inner, path: self.path }
            .number("rope_theta", self.number("rope_theta", 10_000.0)?)
    }

    fn fact(&self, fact: Fact) -> Result<bool> {
        match fact {
            Fact::Always => Ok(true),
            Fact::Never => Ok(false),
            Fact::Key(key) => self.flag(key),
        }
    }

    /// A positive whole number.
    fn size(&self, key: &str, default: Option<usize>) -> Result<usize> {
        match (self.get(key), default) {
            (None, Some(default)) => Ok(default),
            (None, None) => bail_user!("{}: the field {key} is missing", self.at()),
            (Some(value), _) => match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
                Some(n) if n > 0 => Ok(n),
                _ => bail_user!(
                    "{}: {key}: expected a positive whole number, found {value}",
                    self.at()
                ),
            },
        }
    }

    /// A positive number.
    fn number(&self, key: &str, default: f32) -> Result<f32> {
        let Some(value) = self.get(key) else { return Ok(default) };
        match value.as_f64().map(|n| n as f32) {
            Some(n) if n > 0.0 && n.is_finite() => Ok(n),
            _ => bail_user!("{}: {key}: expected a positive number, found {value}", self.at()),
        }
    }

    fn flag(&self, key: &str) -> Result<bool> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => {
                bail_user!("{}: {key}: expected true or false, found {value}", self.at())
            }
        }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.fields.get(key).filter(|value| !value.is_null())
    }

    fn at(&self) -> std::path::Display<'_> {
        self.path.display()
    }
}

/// Whether a `rope_scaling` or `rope_parameters` object asks for plain rotary frequencies.
fn has_default_rope_type(value: &Value) -> bool {
    let Some(fields) = value.as_object() else { return false };
    fields.iter().all(|(key, value)| match key.as_str() {
        "rope_type" | "type" => value == "default",
        "rope_theta" => true,
        _ => value.is_null(),
    })
}
