//! What a model is, read from a Hugging Face `config.json`. A model family is a row of facts, see
//! [`super::family`]; what differs from layer to layer is a list beside them. Whatever the engine
//! does not know how to honour is refused by the name of its key, because a field that is silently
//! ignored gives a model that is silently wrong.

use std::path::Path;

use anyhow::Result;
use artifact::bail_user;
use artifact::error::{open_input, user};
use serde_json::{Map, Value, json};

use super::family::{self, Cap, FAMILIES, Fact, Family, HeadSize, RopeRule, Windows};
use super::fields::{Fields, same};
use super::peft::{base_folder, is_adapter};
use super::rope::{self, Rope};
use crate::ops::{
    AttentionShape, GluShape, HeadNormShape, HeadShape, Heads, LinearShape, LogitRule, NormKind,
    NormShape,
};

/// Keys that do not change what the decoder computes.
const WITHOUT_EFFECT: &[&str] = &[
    "_attn_implementation_autoset",
    "_name_or_path",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "dtype",
    "eos_token_id",
    "id2label",
    "initializer_range",
    "is_encoder_decoder",
    "keys_to_ignore_at_inference",
    "label2id",
    "model_max_length",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "pretraining_tp",
    "problem_type",
    "return_dict",
    "tokenizer_class",
    "torch_dtype",
    "transformers_version",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
];

/// Keys that the decoder honours or checks in every family.
const HONOURED: &[&str] = &[
    "architectures",
    "attention_dropout",
    "head_dim",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "tie_word_embeddings",
    "vocab_size",
];

/// Fields that may be there in every family, but only with one value, as JSON.
const PINNED: &[(&str, &str)] = &[
    ("attention_dropout", "0.0"),
    ("add_cross_attention", "false"),
    ("is_decoder", "false"),
    ("tie_encoder_decoder", "false"),
    ("torchscript", "false"),
    ("use_bfloat16", "false"),
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
    /// Epsilon of the norms.
    pub norm_eps: f32,
    /// Whether the head is the embedding itself.
    pub tie_word_embeddings: bool,
    /// Whether the query, key and value projections have a bias.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub output_bias: bool,
    /// Whether query and key heads are normed.
    pub qk_norm: bool,
    /// What scores are multiplied by.
    pub score_scale: f32,
    /// The soft cap of scores.
    pub score_cap: Option<f32>,
    /// How the head's products become logits.
    pub logits: LogitRule,
    /// What embeddings are multiplied by, before it is rounded to the type of the stream.
    pub embedding_scale: Option<f32>,
    /// What differs from layer to layer, L of them.
    pub layers: Vec<LayerConfig>,
    /// The rotary embeddings that layers choose from.
    pub ropes: Vec<Rope>,
    /// Standard deviation of the random initial weights.
    pub initializer_range: f32,
    /// The file as it was read, so that what does not concern the decoder (token ids, say) goes out
    /// again as it came.
    fields: Map<String, Value>,
}

/// What differs from layer to layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerConfig {
    /// Tokens that a token sees, itself and those before it; all where there is none.
    pub window: Option<usize>,
    /// Its rotary embedding, by its place in [`ModelConfig::ropes`]; none: positions are not seen.
    pub rope: Option<usize>,
}

impl ModelConfig {
    /// Reads `config.json` in `dir`, or that of the base model if `dir` is an adapter as PEFT writes
    /// it.
    ///
    /// # Errors
    /// A user error that names the file and the key if the file is missing or not JSON, the
    /// architecture is unknown, or a field asks for what the engine does not do.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        if !path.exists() && is_adapter(dir) {
            return Self::load(&base_folder(dir)?);
        }
        let text = std::io::read_to_string(open_input(&path)?)
            .map_err(|err| user(format!("{}: cannot be read as text: {err}", path.display())))?;
        Self::parse(&text, &path)
    }

    /// Reads the text of a config; `path` is for the messages.
    ///
    /// # Errors
    /// As [`ModelConfig::load`].
    pub fn parse(json: &str, path: &Path) -> Result<Self> {
        let map: Map<String, Value> = serde_json::from_str(json)
            .map_err(|err| user(format!("{}: not a JSON object: {err}", path.display())))?;
        let fields = Fields::new(&map, path);
        let family = family_of(&fields)?;
        refuse_unsupported(&fields, family)?;
        let heads = heads(&fields, family)?;
        let hidden_size = fields.size("hidden_size", None)?;
        let context = fields.size("max_position_embeddings", Some(family.default_max_positions))?;
        let query_scalar = match family.query_scalar {
            Some(default) => {
                fields.number("query_pre_attn_scalar", Some(f64::from(default)))? as f32
            }
            None => heads.size as f32,
        };
        Ok(Self {
            family,
            vocab_size: fields.size("vocab_size", None)?,
            hidden_size,
            intermediate_size: fields.size("intermediate_size", None)?,
            num_hidden_layers: fields.size("num_hidden_layers", None)?,
            num_attention_heads: heads.queries,
            num_key_value_heads: heads.key_values,
            head_dim: heads.size,
            max_position_embeddings: context,
            norm_eps: number(&fields, family.norm_eps.0, family.norm_eps.1)?,
            tie_word_embeddings: fields.flag("tie_word_embeddings", family.tied)?,
            qkv_bias: fact(&fields, family.qkv_bias)?,
            output_bias: fact(&fields, family.output_bias)?,
            qk_norm: fact(&fields, family.qk_norm)?,
            score_scale: 1.0 / query_scalar.sqrt(),
            score_cap: cap(&fields, family.score_cap)?,
            logits: LogitRule {
                scale: match family.logit_scale {
                    Some(default) => number(&fields, "logit_scale", default)?,
                    None => 1.0,
                },
                softcap: cap(&fields, family.logit_cap)?,
            },
            embedding_scale: family.scaled_embedding.then(|| (hidden_size as f64).sqrt() as f32),
            layers: layers(&fields, family, context)?,
            ropes: rope::read(&fields, family, heads.size, context)?,
            initializer_range: number(&fields, "initializer_range", 0.02)?,
            fields: map.clone(),
        })
    }

    /// The config as `config.json` has it: every field that was read, with the decoder's own facts
    /// written out. The caller sets `torch_dtype`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let (family, mut fields) = (self.family, self.fields.clone());
        let facts = json!({
            "architectures": [family.architecture],
            "model_type": family.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "max_position_embeddings": self.max_position_embeddings,
            family.norm_eps.0: shortest(self.norm_eps),
            "rope_theta": shortest(self.ropes[0].theta),
            "tie_word_embeddings": self.tie_word_embeddings,
            "initializer_range": shortest(self.initializer_range),
            family.activation.0: family::activation_name(family.activation.1),
        });
        if let Value::Object(facts) = facts {
            fields.extend(facts);
        }
        if family.head_size != HeadSize::Divided {
            fields.insert("head_dim".into(), self.head_dim.into());
        }
        if let RopeRule::TwoBases { .. } = family.rope {
            fields.insert("rope_local_base_freq".into(), shortest(self.ropes[1].theta).into());
        }
        for (fact, is) in [(family.qkv_bias, self.qkv_bias), (family.qk_norm, self.qk_norm)] {
            if let Fact::Key(key) = fact {
                fields.insert(key.into(), is.into());
            }
        }
        Value::Object(fields)
    }

    /// Width of one row of queries, keys and values together: (H + 2K) D.
    #[must_use]
    pub fn qkv_width(&self) -> usize {
        self.heads().qkv_width()
    }

    /// Width of one row of queries: H D.
    #[must_use]
    pub fn query_width(&self) -> usize {
        self.heads().query_width()
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

    /// How layer `l` attends.
    #[must_use]
    pub fn attention(&self, l: usize) -> AttentionShape {
        AttentionShape {
            heads: self.heads(),
            scale: self.score_scale,
            softcap: self.score_cap,
            window: self.layers[l].window,
        }
    }

    /// The norms over `rows` of the residual stream.
    #[must_use]
    pub fn norm(&self, rows: usize) -> NormShape {
        NormShape { rows, width: self.hidden_size, eps: self.norm_eps, kind: self.family.norm }
    }

    /// The norms of query and key heads.
    #[must_use]
    pub fn head_norm(&self, rows: usize) -> HeadNormShape {
        HeadNormShape {
            rows,
            heads: self.heads(),
            eps: self.norm_eps,
            kind: self.family.norm,
            per_head: self.family.qk_norm_per_head,
        }
    }

    /// The feed-forward's gate.
    #[must_use]
    pub fn glu(&self, rows: usize) -> GluShape {
        GluShape { rows, width: self.intermediate_size, activation: self.family.activation.1 }
    }

    /// The head over `rows` that count.
    #[must_use]
    pub fn head(&self, rows: usize) -> HeadShape {
        let linear = LinearShape::new(rows, self.hidden_size, self.vocab_size);
        HeadShape { linear, logits: self.logits }
    }

    /// The widest of what a layer's linear maps read.
    #[must_use]
    pub fn widest(&self) -> usize {
        self.hidden_size.max(self.query_width()).max(self.intermediate_size)
    }

    /// What the weights of a norm begin as, so that it leaves the scale alone.
    #[must_use]
    pub fn initial_norm(&self) -> f32 {
        if self.family.norm == NormKind::RmsPlusOne { 0.0 } else { 1.0 }
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

/// The family by `model_type`, with which `architectures` has to agree where it is given.
fn family_of(fields: &Fields) -> Result<&'static Family> {
    let architecture = match fields.get("architectures") {
        None => None,
        Some(Value::Array(names)) if names.len() == 1 && names[0].is_string() => names[0].as_str(),
        Some(other) => return Err(fields.wrong("architectures", "one name in a list", other)),
    };
    let model_type = fields.get("model_type").and_then(Value::as_str);
    let found = FAMILIES.iter().find(|family| match (architecture, model_type) {
        (Some(name), Some(kind)) => family.architecture == name && family.model_type == kind,
        (Some(name), None) => family.architecture == name,
        (None, Some(kind)) => family.model_type == kind,
        (None, None) => false,
    });
    if let Some(family) = found {
        return Ok(family);
    }
    let wrapper = fields.get("text_config").is_some() || fields.get("vision_config").is_some();
    let hint = if wrapper {
        "; it wraps a text model in one for images, which isogloss does not run: \
         take the text model alone"
    } else {
        ""
    };
    bail_user!(
        "{}: architectures = {} with model_type = {} is not supported{hint}; supported are {}",
        fields.at(),
        architecture.unwrap_or("(none)"),
        model_type.unwrap_or("(none)"),
        FAMILIES.iter().map(|f| f.architecture).collect::<Vec<_>>().join(", ")
    )
}

fn refuse_unsupported(fields: &Fields, family: &Family) -> Result<()> {
    let own = family.keys();
    let pinned: Vec<&(&str, &str)> =
        PINNED.iter().chain(family.pinned).filter(|(key, _)| !own.contains(key)).collect();
    let mut known: Vec<&str> = [HONOURED, WITHOUT_EFFECT, &own].concat();
    known.extend(pinned.iter().map(|(key, _)| *key));
    fields.refuse_others(&known, &format!("a {} model", family.model_type))?;
    for (key, only) in pinned {
        let only: Value = serde_json::from_str(only).unwrap_or(Value::Null);
        if let Some(value) = fields.get(key).filter(|value| !same(value, &only)) {
            bail_user!(
                "{}: {key} = {value} is not supported in a {} model; it may be {only}",
                fields.at(),
                family.model_type
            );
        }
    }
    let (key, activation) = family.activation;
    if let Some(value) = fields.get(key).filter(|v| *v != family::activation_name(activation)) {
        bail_user!(
            "{}: {key} = {value} is not supported in a {} model; it may be {}",
            fields.at(),
            family.model_type,
            family::activation_name(activation)
        );
    }
    Ok(())
}

fn heads(fields: &Fields, family: &Family) -> Result<Heads> {
    let hidden_size = fields.size("hidden_size", None)?;
    let queries = fields.size("num_attention_heads", None)?;
    let key_values = fields
        .size("num_key_value_heads", Some(family.default_key_value_heads.unwrap_or(queries)))?;
    let quotient = || {
        if hidden_size.is_multiple_of(queries) {
            Ok(hidden_size / queries)
        } else {
            bail_user!(
                "{}: hidden_size {hidden_size} is not a multiple of num_attention_heads {queries}",
                fields.at()
            )
        }
    };
    let size = match family.head_size {
        HeadSize::Own(default) => fields.size("head_dim", Some(default))?,
        HeadSize::OwnOrDivided if fields.get("head_dim").is_some() => {
            fields.size("head_dim", None)?
        }
        HeadSize::OwnOrDivided => quotient()?,
        HeadSize::Divided => {
            let size = quotient()?;
            if fields.size("head_dim", Some(size))? != size {
                bail_user!(
                    "{}: head_dim must be hidden_size / num_attention_heads = {size} in a {} model",
                    fields.at(),
                    family.model_type
                );
            }
            size
        }
    };
    if !queries.is_multiple_of(key_values) {
        bail_user!(
            "{}: num_attention_heads {queries} is not a multiple of num_key_value_heads {key_values}",
            fields.at()
        );
    }
    if !size.is_multiple_of(2) {
        bail_user!(
            "{}: the head size {size} is odd; rotary embedding needs an even one",
            fields.at()
        );
    }
    Ok(Heads { queries, key_values, size })
}

/// Far beyond any model: a slip of the pen must not take memory for layers that cannot be.
const MOST_LAYERS: usize = 10_000;

/// Window and rope of each layer.
fn layers(fields: &Fields, family: &Family, context: usize) -> Result<Vec<LayerConfig>> {
    let count = fields.size("num_hidden_layers", None)?;
    if count > MOST_LAYERS {
        bail_user!("{}: num_hidden_layers = {count} is more than {MOST_LAYERS}", fields.at());
    }
    let windowed = windowed(fields, family, count)?;
    let width = if windowed.contains(&true) {
        let width = fields.size("sliding_window", Some(4096))?;
        if fields.size("sliding_window_size", Some(width))? != width {
            bail_user!("{}: sliding_window_size is not sliding_window = {width}", fields.at());
        }
        Some(width)
    } else {
        None
    };
    let layer = |windowed: bool| LayerConfig {
        // A window as wide as the context hides nothing.
        window: width.filter(|&width| windowed && width < context),
        rope: match family.rope {
            RopeRule::Every(_) => Some(0),
            RopeRule::Windowed(_) => windowed.then_some(0),
            RopeRule::TwoBases { .. } => Some(usize::from(windowed)),
        },
    };
    Ok(windowed.into_iter().map(layer).collect())
}

/// Which layers have a window.
fn windowed(fields: &Fields, family: &Family, count: usize) -> Result<Vec<bool>> {
    let null = fields.is_null("sliding_window");
    let (by_rule, off): (Vec<bool>, bool) = match family.windows {
        Windows::Never => return Ok(vec![false; count]),
        Windows::Every => return Ok(vec![!null; count]),
        Windows::Switched => {
            let from = fields.size("max_window_layers", Some(28))?;
            let on = fields.flag("use_sliding_window", false)?;
            if on && null {
                bail_user!(
                    "{}: use_sliding_window is true, but sliding_window is null",
                    fields.at()
                );
            }
            ((0..count).map(|l| on && l >= from).collect(), !on)
        }
        Windows::AllBut(default) => {
            let mut period = default;
            for key in ["sliding_window_pattern", "_sliding_window_pattern", "layer_switch"] {
                period = fields.size(key, Some(period))?;
            }
            ((0..count).map(|l| (l + 1) % period != 0).collect(), null)
        }
    };
    let all = match fields.get("layer_types") {
        None => by_rule,
        Some(value) => {
            let kind = |kind: &Value| match kind.as_str() {
                Some("full_attention") => Some(false),
                Some("sliding_attention") => Some(true),
                _ => None,
            };
            let kinds = value.as_array().and_then(|all| all.iter().map(kind).collect());
            match kinds {
                Some(kinds) if Vec::len(&kinds) == count => kinds,
                _ => {
                    let expected =
                        format!("{count} times full_attention or sliding_attention, one a layer");
                    return Err(fields.wrong("layer_types", &expected, value));
                }
            }
        }
    };
    if off && all.contains(&true) {
        bail_user!(
            "{}: layer_types has layers of sliding_attention, but there is no window \
             (sliding_window, use_sliding_window)",
            fields.at()
        );
    }
    Ok(all)
}

fn fact(fields: &Fields, fact: Fact) -> Result<bool> {
    match fact {
        Fact::Always => Ok(true),
        Fact::Never => Ok(false),
        Fact::Key(key) => fields.flag(key, false),
    }
}

fn cap(fields: &Fields, cap: Option<Cap>) -> Result<Option<f32>> {
    match cap {
        None => Ok(None),
        Some((key, _)) if fields.is_null(key) => Ok(None),
        Some((key, None)) if fields.get(key).is_none() => Ok(None),
        Some((key, default)) => Ok(Some(fields.number(key, default.map(f64::from))? as f32)),
    }
}

fn number(fields: &Fields, key: &str, default: f32) -> Result<f32> {
    Ok(fields.number(key, Some(f64::from(default)))? as f32)
}
