//! What a design can see: the smallest difference that it finds with a given power, and how many
//! runs or items would find a given one. From the components of a difference's error
//! ([`Noise`]) and the noncentral t distribution (Cohen 1988).

use serde::Serialize;
use statrs::function::gamma::ln_gamma;

use crate::influence::Noise;
use crate::interval::{normal_cdf, student_quantile};
use crate::unavailable::{Outcome, Unavailable, finite, probability};

/// More than so many runs or items nobody adds.
const MOST: usize = 1 << 24;

/// How many would do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Needed {
    /// So many.
    Count(usize),
    /// However many: what the other component adds keeps the smallest detectable effect at `floor`.
    Never {
        /// The smallest detectable effect with any number.
        floor: f64,
    },
}

/// The smallest difference that a two-sided test at `alpha` finds with probability `power`.
///
/// # Errors
/// No items or runs, α or power outside of 0 to 1, components that are not finite or all 0.
pub fn smallest_detectable(
    noise: &Noise,
    items: usize,
    seeds: usize,
    alpha: f64,
    power: f64,
) -> Outcome<f64> {
    probability("an α", alpha)?;
    probability("a power", power)?;
    for (what, count) in [("items", items), ("runs", seeds)] {
        if count == 0 {
            return Err(Unavailable::TooFew { what, found: 0, needed: 1 });
        }
    }
    finite(&[noise.item, noise.run, noise.interaction])?;
    let error = noise.error(items, seeds);
    if error == 0.0 {
        return Err(Unavailable::AllEqual);
    }
    Ok(error * detectable_in_errors(degrees_of_freedom(noise, items, seeds), alpha, power))
}

/// Runs that bring the smallest detectable effect down to `effect`, with so many items.
///
/// # Errors
/// As [`smallest_detectable`], and an effect of 0.
pub fn seeds_needed(
    noise: &Noise,
    effect: f64,
    items: usize,
    alpha: f64,
    power: f64,
) -> Outcome<Needed> {
    needed(effect, |seeds| smallest_detectable(noise, items, seeds, alpha, power))
}

/// Items that bring the smallest detectable effect down to `effect`, with so many runs.
///
/// # Errors
/// As [`smallest_detectable`], and an effect of 0.
pub fn items_needed(
    noise: &Noise,
    effect: f64,
    seeds: usize,
    alpha: f64,
    power: f64,
) -> Outcome<Needed> {
    needed(effect, |items| smallest_detectable(noise, items, seeds, alpha, power))
}

fn needed(effect: f64, smallest: impl Fn(usize) -> Outcome<f64>) -> Outcome<Needed> {
    if !effect.is_finite() || effect == 0.0 {
        return Err(Unavailable::OutOfRange { what: "an effect to detect", value: effect });
    }
    let enough = |count| Ok(smallest(count)? <= effect.abs());
    if !enough(MOST)? {
        return Ok(Needed::Never { floor: smallest(MOST)? });
    }
    let (mut too_few, mut count) = (0, MOST);
    while count - too_few > 1 {
        let middle = too_few + (count - too_few) / 2;
        if enough(middle)? { count = middle } else { too_few = middle }
    }
    Ok(Needed::Count(count))
}

/// Satterthwaite's (1946), for the items' part and the runs' part. What is known of the runs'
/// spread now stays known; more runs make it better known in every setting that was pooled.
fn degrees_of_freedom(noise: &Noise, items: usize, seeds: usize) -> f64 {
    let (i, s) = (items as f64, seeds as f64);
    let of_items = noise.item / i;
    let of_runs = (noise.run + noise.interaction / i) / s;
    let runs = noise.run_degrees_of_freedom.max(noise.settings as f64 * (s - 1.0)).max(1.0);
    let sum = of_items * of_items / (i - 1.0).max(1.0) + of_runs * of_runs / runs;
    (of_items + of_runs).powi(2) / sum
}

/// The difference in standard errors that is found with the power: the noncentral t, by secants from
/// the sum of the two quantiles, which is near.
fn detectable_in_errors(degrees_of_freedom: f64, alpha: f64, power: f64) -> f64 {
    let critical = student_quantile(1.0 - alpha / 2.0, degrees_of_freedom);
    let missing = |shift: f64| {
        noncentral_t(critical, degrees_of_freedom, shift)
            - noncentral_t(-critical, degrees_of_freedom, shift)
            - (1.0 - power)
    };
    let start = (critical + student_quantile(power, degrees_of_freedom)).max(0.1);
    let (mut before, mut shift) = (0.98 * start, start);
    let mut value = missing(before);
    for _ in 0..12 {
        let next = missing(shift);
        let slope = (next - value) / (shift - before);
        if next.abs() < 1e-9 || slope == 0.0 || !slope.is_finite() {
            break;
        }
        (before, value) = (shift, next);
        shift = (shift - next / slope).clamp(0.5 * shift, 2.0 * shift);
    }
    shift
}

/// P(T ≤ t) of (Z + shift) / √(χ²/d): the normal integral at every value u of the root, by Simpson's
/// rule over the root's density.
fn noncentral_t(t: f64, degrees_of_freedom: f64, shift: f64) -> f64 {
    let d = degrees_of_freedom;
    // The density's edge at 0 needs small steps where there is one.
    let steps = if d < 20.0 { 2000 } else { 240 };
    let reach = 10.0 / (2.0 * d).sqrt();
    let (from, to) = ((1.0 - reach).max(0.0), 1.0 + reach);
    let scale = std::f64::consts::LN_2 + d / 2.0 * (d / 2.0).ln() - ln_gamma(d / 2.0);
    let at = |step: usize| {
        let u = from + (to - from) * step as f64 / steps as f64;
        let density = if u > 0.0 || d == 1.0 {
            (scale + if d == 1.0 { 0.0 } else { (d - 1.0) * u.ln() } - d * u * u / 2.0).exp()
        } else {
            0.0
        };
        density * normal_cdf(t * u - shift)
    };
    let weight = |step: usize| match step {
        step if step == 0 || step == steps => 1.0,
        step if step % 2 == 1 => 4.0,
        _ => 2.0,
    };
    (0..=steps).map(|step| weight(step) * at(step)).sum::<f64>() * (to - from) / steps as f64 / 3.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noncentral_t_is_that_of_scipy() {
        // scipy.stats.nct.cdf(t, df, shift)
        for (t, df, shift, expected) in NCT {
            let found = noncentral_t(t, df, shift);
            assert!((found - expected).abs() < 1e-6, "{t} {df} {shift}: {found} for {expected}");
        }
    }

    const NCT: [(f64, f64, f64, f64); 5] = [
        (2.0, 1.0, 1.0, 0.6228719644602817),
        (4.302652729749462, 2.0, 5.0, 0.2808194646433027),
        (2.0, 7.5, 2.5, 0.305922462787575),
        (-1.96, 248.0, 0.5, 0.007170711270882727),
        (1.96, 20000.0, 2.8, 0.2004586323910293),
    ];
}
