//! Settings of low-rank adapters: the `[train.lora]` section of a pipeline file, and the [`Lora`]
//! that it comes to.

use anyhow::Result;
use artifact::bail_user;
use artifact::config::nearest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::adapter::{Lora, Target};
use crate::ops::Nf4;

/// What a LoRA run learns with where the learning rate is left out: ten to twenty times what all
/// weights would be tuned with, as an adapter wants (Schulman et al. 2025, LoRA without regret).
pub const LEARNING_RATE: f64 = 2e-4;

/// The `[train.lora]` section: trains a low-rank adapter (LoRA) beside the base model's weights, which stay as they
/// are. The trained model is then a folder in PEFT's layout, which names its base; every later stage and
/// `isogloss generate` take it, and `isogloss merge` makes a whole model of it. The learning rate's default
/// becomes 2e-4. For example:
///
/// [train.lora]
/// rank = 16
/// targets = ["q_proj", "v_proj"]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rank of the adapter's matrices. Default 16.
    pub rank: usize,
    /// The adapter's product is multiplied by alpha / rank. Default 32.
    pub alpha: f64,
    /// Share of what an adapter reads that is dropped in training, from 0 (default) to below 1; for each map by itself.
    pub dropout: f64,
    /// The linear maps that have an adapter: "all-linear" (default), or a list of q_proj, k_proj, v_proj, o_proj,
    /// gate_proj, up_proj and down_proj.
    pub targets: Targets,
    /// "nf4": the base model's linear maps stand in 4 bits a value while the adapter is trained (QLoRA), an eighth of
    /// their memory on the processor and a quarter on a card, for some time a step. Default: they stand as they are. The
    /// adapter then goes with the base model as it is: it is merged into that, and so are later stages' models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantize: Option<Quantize>,
    /// With `quantize`: the scales of its blocks stand in 8 bits each, which saves another 0.37 bits a value.
    /// Default true, as QLoRA has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub double_quant: Option<bool>,
    /// Multiply by alpha / √rank in place of alpha / rank (rsLoRA). Default false.
    pub rslora: bool,
    /// Give each output of the maps a trained magnitude apart from its direction (DoRA): closer to tuning all weights at
    /// the same rank, for about a third more time a step. Default false.
    pub dora: bool,
}

impl Default for LoraConfig {
    fn default() -> Self {
        let targets = Targets::One(ALL.to_owned());
        Self {
            rank: 16,
            alpha: 32.0,
            dropout: 0.0,
            targets,
            quantize: None,
            double_quant: None,
            rslora: false,
            dora: false,
        }
    }
}

/// In what the base model's linear maps stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Quantize {
    /// 4-bit NormalFloat in blocks of 64 values (Dettmers et al. 2023).
    Nf4,
}

/// Names of linear maps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Targets {
    /// "all-linear", or one map.
    One(String),
    /// Some of them.
    Some(Vec<String>),
}

const ALL: &str = "all-linear";

impl Targets {
    fn resolve(&self) -> Result<Vec<Target>> {
        let names = match self {
            Targets::One(name) if name == ALL => return Ok(Target::ALL.to_vec()),
            Targets::One(name) => std::slice::from_ref(name),
            Targets::Some(names) => names,
        };
        let known = Target::ALL.map(Target::name);
        let mut targets = Vec::new();
        for name in names {
            match Target::ALL.into_iter().find(|target| target.name() == name) {
                Some(target) => targets.push(target),
                None => {
                    let near = nearest(name, known)
                        .map_or(String::new(), |near| format!(", is it {near}?"));
                    bail_user!(
                        "train.lora.targets: there is no linear map \"{name}\"{near}; there are \
                         \"{ALL}\" and {}",
                        known.join(", ")
                    );
                }
            }
        }
        if targets.is_empty() {
            bail_user!("train.lora.targets is empty; leave it out for all linear maps");
        }
        targets.sort_unstable();
        targets.dedup();
        Ok(targets)
    }
}

impl LoraConfig {
    /// How the base model's linear maps are packed, if they are.
    pub fn packed(&self) -> Result<Option<Nf4>> {
        if self.quantize.is_none() && self.double_quant.is_some() {
            bail_user!(
                "train.lora.double_quant is set, but quantize is not; set quantize = \"nf4\""
            );
        }
        let double_quant = self.double_quant.unwrap_or(true);
        Ok(self.quantize.map(|Quantize::Nf4| Nf4 { double_quant }))
    }

    /// Checks the values. A fault is a `UserError` that names the key.
    pub fn resolve(&self) -> Result<Lora> {
        if self.rank == 0 {
            bail_user!("train.lora.rank is 0; it must be at least 1");
        }
        if !(self.alpha > 0.0 && self.alpha.is_finite()) {
            bail_user!("train.lora.alpha is {}; it must be above 0", self.alpha);
        }
        if !(0.0..1.0).contains(&self.dropout) {
            bail_user!("train.lora.dropout is {}; it must be from 0 to below 1", self.dropout);
        }
        let targets = self.targets.resolve()?;
        let Self { rank, alpha, rslora, dropout, dora, .. } = *self;
        Ok(Lora { rank, alpha, rslora, dropout, dora, targets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TrainConfig;
    use artifact::error::is_user;
    use std::path::Path;

    fn parse(text: &str) -> Result<TrainConfig> {
        artifact::config::from_toml(text, Path::new("train.toml"))
    }

    #[test]
    fn the_section_has_pefts_scales_and_a_learning_rate_of_its_own() {
        let recipe = parse("[lora]").unwrap().resolve().unwrap();
        let lora = recipe.lora.unwrap();
        assert_eq!((lora.rank, lora.scale(), &lora.targets[..]), (16, 2.0, &Target::ALL[..]));
        assert_eq!(recipe.learning_rate, LEARNING_RATE);
        let text = "learning_rate = 1e-3\n[lora]\nrank = 4\nalpha = 8\nrslora = true\n\
                    targets = [\"v_proj\", \"q_proj\", \"v_proj\"]";
        let recipe = parse(text).unwrap().resolve().unwrap();
        let lora = recipe.lora.unwrap();
        assert_eq!((lora.scale(), recipe.learning_rate), (4.0, 1e-3));
        assert_eq!(lora.targets, [Target::QProj, Target::VProj]);
        assert_eq!(parse("").unwrap().resolve().unwrap().lora, None);
    }

    #[test]
    fn bad_values_name_their_key() {
        for (text, words) in [
            ("rank = 0", "rank is 0"),
            ("alpha = 0", "alpha"),
            ("alpha = nan", "alpha"),
            ("dropout = 1.0", "dropout"),
            ("dropout = -0.1", "dropout"),
            ("dropout = nan", "dropout"),
            ("targets = []", "targets"),
            ("targets = [\"q_prj\"]", "is it q_proj?"),
            ("targets = \"c_attn\"", "all-linear"),
            ("ranks = 2", "rank"),
        ] {
            let resolved = parse(&format!("[lora]\n{text}")).and_then(|config| config.resolve());
            let error = resolved.unwrap_err();
            assert!(is_user(&error) && error.to_string().contains(words), "{text}: {error}");
        }
    }
}
