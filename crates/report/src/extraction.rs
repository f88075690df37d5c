//! How many answers hold a number at all, beside how many are right: an accuracy can be low because
//! answers are wrong or because none was found in them.

use crate::further::Extraction;
use crate::ground::{Ground, Over, Place};

const EXTRACTED: &str = "extracted";
/// The accuracies that an extraction rate stands beside, the first that there is.
const ACCURACIES: [&str; 2] = ["exact_match_strict", "exact_match"];

/// For every task and series with both, by n and language.
pub(crate) fn extraction(ground: &Ground) -> Vec<Extraction> {
    let groups = ground.grouped(|curve| (curve.task.clone(), curve.series.clone()));
    let mut rows = Vec::new();
    for group in groups {
        let curve =
            |metric: &str| group.iter().copied().find(|&at| ground.curve(at).metric == metric);
        let accuracy = ACCURACIES.iter().find_map(|metric| curve(metric));
        let Some((extracted, accuracy)) = curve(EXTRACTED).zip(accuracy) else { continue };
        for point in &ground.curve(accuracy).points {
            for language in &point.languages {
                let over = Over::language(&language.lang);
                let [found, right] = [extracted, accuracy].map(|curve| Place { curve, n: point.n });
                let Some(estimate) = ground.estimate(found, &over) else { continue };
                rows.push(Extraction {
                    curve: accuracy,
                    n: point.n,
                    lang: language.lang.clone(),
                    of_extracted: ground.ratio(right, found, &over),
                    extracted: estimate,
                    accuracy: language.measure.estimate.clone(),
                });
            }
        }
    }
    rows
}
