//! Rotary frequencies as a config.json gives them: the base, and how it is stretched for a longer
//! context. Both spellings are read, `rope_theta` with `rope_scaling`, and `rope_parameters` as
//! transformers 5 writes it. Values are rounded to f32 where PyTorch's are.

use anyhow::Result;
use artifact::bail_user;
use serde_json::Value;

use super::family::{Family, RopeRule};
use super::fields::{Fields, same};
use crate::ops::rope::angles;

/// Frequencies of the pairs of a head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// Base: pair i turns by theta^(−2i/D) a position.
    pub theta: f32,
    /// What is done to those frequencies.
    pub scaling: Scaling,
}

/// How frequencies are stretched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// All divided by a factor (Chen et al., arXiv 2306.15595).
    Linear {
        /// Divisor.
        factor: f32,
    },
    /// Slow ones divided by a factor, fast ones not, those between in part (Llama 3.1, arXiv
    /// 2407.21783).
    Llama3 {
        /// Divisor.
        factor: f32,
        /// Pairs with fewer turns than this over the original context are slow.
        low: f32,
        /// Pairs with more are fast.
        high: f32,
        /// The original context, in tokens.
        original: f32,
    },
    /// The same by a ramp over the pairs, with cosines and sines multiplied (YaRN, Peng et al.,
    /// arXiv 2309.00071).
    Yarn {
        /// Divisor.
        factor: f32,
        /// Pairs at which the ramp begins and ends.
        ramp: [f32; 2],
        /// Factor of cosines and sines.
        attention: f32,
    },
}

impl Rope {
    /// Cosines and sines `[positions, D]`; see [`angles`].
    #[must_use]
    pub fn table(&self, positions: usize, head_size: usize) -> Vec<f32> {
        let factor = match self.scaling {
            Scaling::Yarn { attention, .. } => attention,
            _ => 1.0,
        };
        angles(positions, &self.frequencies(head_size), factor)
    }

    /// Angle per position of each pair, `[D/2]`.
    #[must_use]
    pub fn frequencies(&self, head_size: usize) -> Vec<f32> {
        let plain = |i: usize| 1.0 / self.theta.powf(2.0 * i as f32 / head_size as f32);
        let scaled = |i: usize| match self.scaling {
            Scaling::None => plain(i),
            Scaling::Linear { factor } => plain(i) / factor,
            Scaling::Llama3 { factor, low, high, original } => {
                let wavelength = 2.0 * std::f32::consts::PI / plain(i);
                if wavelength > original / low {
                    plain(i) / factor
                } else if wavelength < original / high {
                    plain(i)
                } else {
                    let smooth = (original / wavelength - low) / (high - low);
                    (1.0 - smooth) * plain(i) / factor + smooth * plain(i)
                }
            }
            Scaling::Yarn { factor, ramp: [begin, end], .. } => {
                let stretched = ((i as f32 - begin) / (end - begin)).clamp(0.0, 1.0);
                let kept = 1.0 - stretched;
                let power = self.theta.powf(2.0 * i as f32 / head_size as f32);
                1.0 / (factor * power) * (1.0 - kept) + 1.0 / power * kept
            }
        };
        (0..head_size / 2).map(scaled).collect()
    }
}

/// The ropes of a config: one, or for [`RopeRule::TwoBases`] that of layers without and that of
/// layers with a window.
pub(super) fn read(
    fields: &Fields,
    family: &Family,
    head_size: usize,
    context: usize,
) -> Result<Vec<Rope>> {
    let parameters = fields.object("rope_parameters")?;
    let scaling = fields.object("rope_scaling")?;
    let rope = |inner: Option<&Fields>, theta_key: &str, default: f32| {
        rope(fields, inner, theta_key, default, head_size, context)
    };
    let (global, local) = match family.rope {
        RopeRule::Every(theta) | RopeRule::Windowed(theta) => {
            if let (Some(_), Some(_)) = (&parameters, &scaling)
                && fields.get("rope_parameters") != fields.get("rope_scaling")
            {
                bail_user!("{}: rope_parameters and rope_scaling disagree", fields.at());
            }
            return Ok(vec![rope(parameters.or(scaling).as_ref(), "rope_theta", theta)?]);
        }
        RopeRule::TwoBases { global, local } => (global, local),
    };
    let inner = |kind| match &parameters {
        Some(parameters) => parameters.object(kind),
        None => Ok(None),
    };
    if let Some(parameters) = &parameters {
        parameters.refuse_others(&["full_attention", "sliding_attention"], family.model_type)?;
        if scaling.is_some() {
            bail_user!("{}: both rope_parameters and rope_scaling are there", fields.at());
        }
    }
    Ok(vec![
        rope(inner("full_attention")?.or(scaling).as_ref(), "rope_theta", global)?,
        rope(inner("sliding_attention")?.as_ref(), "rope_local_base_freq", local)?,
    ])
}

/// One rope. `inner` is its own object; the base may stand there or beside it under `theta_key`.
fn rope(
    fields: &Fields,
    inner: Option<&Fields>,
    theta_key: &str,
    default: f32,
    head_size: usize,
    context: usize,
) -> Result<Rope> {
    let outside = fields.number(theta_key, Some(f64::from(default)))?;
    let Some(inner) = inner else {
        return Ok(Rope { theta: outside as f32, scaling: Scaling::None });
    };
    if let (Some(a), Some(b)) = (inner.get("rope_theta"), fields.get(theta_key))
        && !same(a, b)
    {
        bail_user!(
            "{}: {} = {a} and {theta_key} = {b} disagree",
            fields.at(),
            inner.name("rope_theta")
        );
    }
    let theta = inner.number("rope_theta", Some(outside))?;
    let scaling = scaling(inner, theta, head_size, context)?;
    Ok(Rope { theta: theta as f32, scaling })
}

/// Keys that every kind of rope may have.
const COMMON: [&str; 4] = ["rope_type", "type", "rope_theta", "partial_rotary_factor"];

fn scaling(fields: &Fields, theta: f64, head_size: usize, context: usize) -> Result<Scaling> {
    let kind = match fields.get("rope_type").or(fields.get("type")) {
        None => "default",
        Some(Value::String(kind)) => kind,
        Some(value) => return Err(fields.wrong("rope_type", "a name", value)),
    };
    if let Some(value) = fields.get("partial_rotary_factor").filter(|v| v.as_f64() != Some(1.0)) {
        return Err(fields.wrong("partial_rotary_factor", "1", value));
    }
    let only = |keys: &[&str]| {
        let known: Vec<&str> = COMMON.iter().chain(keys).copied().collect();
        fields.refuse_others(&known, &format!("a rope of type {kind}"))
    };
    let factor = || fields.number("factor", None).map(|n| n as f32);
    let original = || {
        fields.number("original_max_position_embeddings", Some(context as f64)).map(|n| n as f32)
    };
    match kind {
        "default" => {
            only(&[])?;
            Ok(Scaling::None)
        }
        "linear" => {
            only(&["factor"])?;
            Ok(Scaling::Linear { factor: factor()? })
        }
        // It stretches only beyond max_position_embeddings, where no document goes.
        "dynamic" => {
            only(&["factor", "original_max_position_embeddings"])?;
            factor()?;
            Ok(Scaling::None)
        }
        "llama3" => {
            only(&[
                "factor",
                "low_freq_factor",
                "high_freq_factor",
                "original_max_position_embeddings",
            ])?;
            let [low, high] = ["low_freq_factor", "high_freq_factor"]
                .map(|key| fields.number(key, None).map(|n| n as f32));
            let (low, high) = (low?, high?);
            if high <= low {
                bail_user!(
                    "{}: {} = {high} must be above {} = {low}",
                    fields.at(),
                    fields.name("high_freq_factor"),
                    fields.name("low_freq_factor")
                );
            }
            Ok(Scaling::Llama3 { factor: factor()?, low, high, original: original()? })
        }
        "yarn" => yarn(fields, &only, theta, head_size, f64::from(original()?)),
        _ => bail_user!(
            "{}: {} = {kind} is not supported; supported are default, linear, dynamic, llama3, yarn",
            fields.at(),
            fields.name("rope_type")
        ),
    }
}

fn yarn(
    fields: &Fields,
    only: &dyn Fn(&[&str]) -> Result<()>,
    theta: f64,
    head_size: usize,
    original: f64,
) -> Result<Scaling> {
    only(&[
        "factor",
        "original_max_position_embeddings",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
    ])?;
    let factor = fields.number("factor", None)?;
    // The pair that makes so many turns over the original context.
    let pair = |turns: f64| {
        head_size as f64 * (original / (turns * std::f64::consts::TAU)).ln() / (2.0 * theta.ln())
    };
    let mut begin = pair(fields.number("beta_fast", Some(32.0))?);
    let mut end = pair(fields.number("beta_slow", Some(1.0))?);
    if fields.flag("truncate", true)? {
        (begin, end) = (begin.floor(), end.ceil());
    }
    (begin, end) = (begin.max(0.0), end.min(head_size as f64 - 1.0));
    if begin == end {
        end += 0.001;
    }
    let of_scale = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
    let attention = match (fields.get("mscale"), fields.get("mscale_all_dim")) {
        _ if fields.get("attention_factor").is_some() => fields.number("attention_factor", None)?,
        (Some(_), Some(_)) => {
            of_scale(fields.number("mscale", None)?)
                / of_scale(fields.number("mscale_all_dim", None)?)
        }
        _ => of_scale(1.0),
    };
    let ramp = [begin as f32, end as f32];
    Ok(Scaling::Yarn { factor: factor as f32, ramp, attention: attention as f32 })
}
