//! The small statistics that the report needs beside the bootstrap itself.

/// Quantile `q` of sorted values, with linear interpolation between neighbours (type 7 of Hyndman
/// and Fan, numpy's default).
pub(crate) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = q * last as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    below + (above - below) * at.fract()
}

/// Two-sided bootstrap p of "no difference": twice the smaller share of draws on one side of 0,
/// where a draw at 0 counts for both sides and the observed value counts as one draw more, so that
/// p is never 0 (Davison and Hinkley 1997, section 4.4).
pub(crate) fn p_value(draws: &[f64]) -> f64 {
    let below = draws.iter().filter(|&&draw| draw <= 0.0).count();
    let above = draws.iter().filter(|&&draw| draw >= 0.0).count();
    (2.0 * (below.min(above) + 1) as f64 / (draws.len() + 1) as f64).min(1.0)
}

/// Holm's step-down adjustment (1979): p values that stay below α with probability ≤ α if no
/// difference is real.
pub(crate) fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![0.0; p.len()];
    let mut largest = 0.0_f64;
    for (rank, &at) in order.iter().enumerate() {
        largest = largest.max((p[at] * (p.len() - rank) as f64).min(1.0));
        adjusted[at] = largest;
    }
    adjusted
}

/// Benjamini and Hochberg's adjustment (1995): of what stays below α, a share of at most α is not
/// real on average.
pub(crate) fn benjamini_hochberg(p: &[f64]) -> Vec<f64> {
    statistics::benjamini_hochberg(p)
}

/// Wilson's score interval of a proportion at 95 % (1927).
pub(crate) fn wilson(share: f64, trials: usize) -> (f64, f64) {
    const Z: f64 = 1.959_963_984_540_054;
    let n = trials as f64;
    let centre = share + Z * Z / (2.0 * n);
    let half = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    (((centre - half) / scale).max(0.0), ((centre + half) / scale).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_numpy() {
        // numpy.quantile([1, 2, 4, 8, 16], [0, .025, .1, .5, .9, 1])
        let values = [1.0, 2.0, 4.0, 8.0, 16.0];
        for (q, expected) in
            [(0.0, 1.0), (0.025, 1.1), (0.1, 1.4), (0.5, 4.0), (0.9, 12.8), (1.0, 16.0)]
        {
            assert!((quantile(&values, q) - expected).abs() < 1e-12, "{q}");
        }
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn holm_is_that_of_statsmodels() {
        // statsmodels.stats.multitest.multipletests([.01, .04, .03, .005, .5], method="holm")[1]
        let adjusted = holm(&[0.01, 0.04, 0.03, 0.005, 0.5]);
        for (found, expected) in adjusted.iter().zip([0.04, 0.09, 0.09, 0.025, 0.5]) {
            assert!((found - expected).abs() < 1e-12, "{adjusted:?}");
        }
    }

    #[test]
    fn wilson_is_that_of_statsmodels() {
        // statsmodels.stats.proportion.proportion_confint(k, n, method="wilson")
        for (hits, trials, low, high) in [
            (0.0, 250, 0.0, 0.015_133),
            (5.0, 50, 0.043_476, 0.213_602),
            (250.0, 250, 0.984_867, 1.0),
        ] {
            let (found_low, found_high) = wilson(hits / f64::from(trials), trials as usize);
            assert!(
                (found_low - low).abs() < 1e-6 && (found_high - high).abs() < 1e-6,
                "{hits}/{trials}: {found_low} {found_high}"
            );
        }
    }

    #[test]
    fn p_counts_both_sides_and_is_never_zero() {
        assert_eq!(p_value(&[1.0; 99]), 0.02);
        assert_eq!(p_value(&[0.0; 99]), 1.0);
        assert_eq!(p_value(&[-1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]), 0.4);
    }
}
