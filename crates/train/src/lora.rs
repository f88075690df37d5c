//! Settings of low-rank adapters: the `[train.lora]` section of a pipeline file, and the [`Lora`]
//! that it comes to.

use std::path::Path;

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
/// becomes 2e-4. Where the base model is an adapter's folder itself, its training goes on: it stays what it is, and
/// keys that are left out are as they are there. For example:
///
/// [train.lora]
/// rank = 16
/// targets = ["q_proj", "v_proj"]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rank of the adapter's matrices. Default 16.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// The adapter's product is multiplied by alpha / rank. Default 32.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Share of what an adapter reads that is dropped in training, from 0 (default) to below 1; for each map by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f64>,
    /// The linear maps that have an adapter: "all-linear" (default), or a list of q_proj, k_proj, v_proj, o_proj,
    /// gate_proj, up_proj and down_proj.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<Targets>,
    /// "nf4": the base model's linear maps stand in 4 bits a value while the adapter is trained (QLoRA), an eighth of
    /// their memory on the processor and a quarter on a card, for some time a step. Default: they stand as they are.
    /// Merging and all later stages put the adapter into the base model as it is on the disk, unrounded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantize: Option<Quantize>,
    /// With `quantize`: the scales of its blocks stand in 8 bits each, which saves another 0.37 bits a value.
    /// Default true, as QLoRA has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub double_quant: Option<bool>,
    /// Multiply by alpha / √rank in place of alpha / rank (rsLoRA). Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rslora: Option<bool>,
    /// Give each output of the maps a trained magnitude apart from its direction (DoRA): closer to tuning all weights at
    /// a small rank, for more time and memory a step, above all with dropout. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dora: Option<bool>,
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

    /// The settings that come to this adapter.
    #[must_use]
    pub fn of(self, lora: &Lora) -> Self {
        let Lora { rank, alpha, rslora, dropout, dora, ref targets } = *lora;
        let names = targets.iter().map(|target| target.name().to_owned());
        Self {
            rank: Some(rank),
            alpha: Some(alpha),
            dropout: Some(dropout),
            targets: Some(Targets::Some(names.collect())),
            rslora: Some(rslora),
            dora: Some(dora),
            ..self
        }
    }

    /// Checks the values. A fault is a `UserError` that names the key.
    pub fn resolve(&self) -> Result<Lora> {
        self.over(&Lora::new(16, 32.0, Target::ALL.to_vec()))
    }

    /// What the adapter of a folder is trained on as: itself. Dropout alone may be another.
    ///
    /// # Errors
    /// A user error that names the first setting that is another than the adapter's.
    pub fn going_on(&self, own: &Lora, folder: &Path) -> Result<Lora> {
        let wanted = self.over(own)?;
        let names = |lora: &Lora| lora.targets.iter().map(|one| one.name()).collect::<Vec<_>>();
        let differing = [
            ("rank", wanted.rank.to_string(), own.rank.to_string()),
            ("alpha", wanted.alpha.to_string(), own.alpha.to_string()),
            ("rslora", wanted.rslora.to_string(), own.rslora.to_string()),
            ("dora", wanted.dora.to_string(), own.dora.to_string()),
            ("targets", names(&wanted).join(", "), names(own).join(", ")),
        ];
        if let Some((key, wanted, own)) = differing.iter().find(|(_, wanted, own)| wanted != own) {
            bail_user!(
                "{}: the base model is an adapter, whose training goes on, but train.lora.{key} is {wanted} and the \
                 adapter's is {own}; leave the key out, or make a whole model of the adapter with `isogloss merge {} \
                 --out DIR` and train a new adapter beside that",
                folder.display(),
                folder.display()
            );
        }
        Ok(wanted)
    }

    /// The adapter with these defaults.
    fn over(&self, defaults: &Lora) -> Result<Lora> {
        let targets = self.targets.as_ref().map(Targets::resolve).transpose()?;
        let lora = Lora {
            rank: self.rank.unwrap_or(defaults.rank),
            alpha: self.alpha.unwrap_or(defaults.alpha),
            rslora: self.rslora.unwrap_or(defaults.rslora),
            dropout: self.dropout.unwrap_or(defaults.dropout),
            dora: self.dora.unwrap_or(defaults.dora),
            targets: targets.unwrap_or_else(|| defaults.targets.clone()),
        };
        if lora.rank == 0 {
            bail_user!("train.lora.rank is 0; it must be at least 1");
        }
        if !(lora.alpha > 0.0 && lora.alpha.is_finite()) {
            bail_user!("train.lora.alpha is {}; it must be above 0", lora.alpha);
        }
        if !(0.0..1.0).contains(&lora.dropout) {
            bail_user!("train.lora.dropout is {}; it must be from 0 to below 1", lora.dropout);
        }
        Ok(lora)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TrainConfig;
    use artifact::error::is_user;

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
        // What keys are made of says nothing of what is not set.
        let plain = parse("[lora]").unwrap().resolve().unwrap().lora.unwrap();
        let text = serde_json::to_string(&plain).unwrap();
        assert!(!text.contains("dora") && !text.contains("dropout"), "{text}");
    }

    #[test]
    fn an_adapter_whose_training_goes_on_stays_what_it_is() {
        let own = Lora { dora: true, dropout: 0.1, ..Lora::new(4, 8.0, vec![Target::QProj]) };
        let going_on = |text: &str| {
            let config = parse(&format!("[lora]\n{text}")).unwrap().lora.unwrap();
            config.going_on(&own, Path::new("tuned"))
        };
        assert_eq!(going_on("").unwrap(), own);
        assert_eq!(going_on("rank = 4\ndora = true\ntargets = \"q_proj\"").unwrap(), own);
        assert_eq!(going_on("dropout = 0").unwrap(), Lora { dropout: 0.0, ..own.clone() });
        assert_eq!(LoraConfig::default().of(&own).resolve().unwrap(), own);
        for (text, key) in [
            ("rank = 8", "train.lora.rank is 8 and the adapter's is 4"),
            ("alpha = 9.5", "train.lora.alpha is 9.5 and the adapter's is 8"),
            ("rslora = true", "train.lora.rslora is true"),
            ("dora = false", "train.lora.dora is false"),
            ("targets = \"all-linear\"", "train.lora.targets is q_proj, k_proj"),
        ] {
            let error = going_on(text).unwrap_err();
            let message = error.to_string();
            let is_whole = message.contains(key) && message.contains("isogloss merge tuned");
            assert!(is_user(&error) && is_whole, "{message}");
        }
    }

    #[test]
    fn four_bits_are_asked_for_have_their_scales_in_8_bits_and_change_the_result() {
        let recipe = |text: &str| parse(&format!("[lora]\n{text}")).unwrap().resolve().unwrap();
        let (whole, packed) = (recipe(""), recipe("quantize = \"nf4\""));
        assert_eq!((whole.quantize, packed.quantize), (None, Some(Nf4 { double_quant: true })));
        let plain = recipe("quantize = \"nf4\"\ndouble_quant = false");
        assert_eq!(plain.quantize, Some(Nf4 { double_quant: false }));
        let key = |recipe: &crate::config::Recipe| serde_json::json!(recipe);
        assert!(key(&whole) != key(&packed) && key(&packed) != key(&plain));
        assert!(key(&whole).get("quantize").is_none(), "keys of before it could be set stay good");
        let full = parse("quantize = \"nf4\"").unwrap_err();
        assert!(is_user(&full) && full.to_string().contains("quantize"), "{full}");
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
            ("quantize = \"int4\"", "nf4"),
            ("double_quant = false", "quantize = \"nf4\""),
        ] {
            let resolved = parse(&format!("[lora]\n{text}")).and_then(|config| config.resolve());
            let error = resolved.unwrap_err();
            assert!(is_user(&error) && error.to_string().contains(words), "{text}: {error}");
        }
    }
}
