//! Source × target: what the mixtures did for each language, against the baseline, with each
//! mixture's gift to the languages that it does not hold (donor) and each language's gain from the
//! mixtures that do not hold it (recipient).

use crate::further::{Matrix, MatrixCell};
use crate::ground::{Ground, Over, Place, Term};
use crate::quantity::{Contrast, adjust};
use crate::read::Group;

/// One matrix for each task, metric, model and setting with several mixtures, at the largest n that
/// they share.
pub(crate) fn matrices(ground: &Ground) -> Vec<Matrix> {
    ground.families().into_iter().filter_map(|family| matrix(ground, &family)).collect()
}

fn matrix(ground: &Ground, family: &[usize]) -> Option<Matrix> {
    let mixtures: Vec<usize> = family
        .iter()
        .copied()
        .filter(|&at| !ground.curve(at).series.others().is_empty())
        .filter(|&at| ground.base_of(at).is_some())
        .collect();
    if mixtures.len() < 2 {
        return None;
    }
    let first = ground.curve(mixtures[0]);
    let shared = |n: &i64| {
        *n != ground.baseline
            && mixtures.iter().all(|&curve| ground.point(Place { curve, n: *n }).is_some())
    };
    let n = first.points.iter().map(|point| point.n).filter(shared).max()?;
    let rows: Vec<Source> = mixtures
        .iter()
        .filter_map(|&curve| Some(Source { at: Place { curve, n }, from: ground.base_of(curve)? }))
        .collect();
    let targets = targets(ground, &rows);
    let mut gains: Vec<Vec<Option<MatrixCell>>> = rows
        .iter()
        .map(|row| targets.iter().map(|target| row.gain(ground, target)).collect())
        .collect();
    let mut donors: Vec<_> = rows.iter().map(|row| row.donor(ground, &targets)).collect();
    let mut recipients: Vec<_> =
        targets.iter().map(|target| recipient(ground, &rows, target)).collect();
    adjust(gains.iter_mut().flatten().flatten().map(|cell| &mut cell.gain.test));
    adjust(donors.iter_mut().flatten().map(|one| &mut one.test));
    adjust(recipients.iter_mut().flatten().map(|one| &mut one.test));
    Some(Matrix {
        about: first.about(),
        unit: first.unit,
        n,
        baseline: ground.baseline,
        sources: mixtures
            .iter()
            .map(|&at| (at, ground.curve(at).series.others().join("+")))
            .collect(),
        targets,
        gains,
        donors,
        recipients,
    })
}

/// Languages scored at some row, in the order of their first.
fn targets(ground: &Ground, rows: &[Source]) -> Vec<String> {
    let mut targets: Vec<String> = Vec::new();
    let points = rows.iter().filter_map(|row| ground.point(row.at));
    for language in points.flat_map(|point| &point.languages) {
        if !targets.contains(&language.lang) {
            targets.push(language.lang.clone());
        }
    }
    targets.sort_by_key(|lang| !language::same_language(lang, "en"));
    targets
}

/// A mixture at the matrix's n, and the run that its gains are taken from.
struct Source {
    at: Place,
    from: Place,
}

impl Source {
    fn group(&self, ground: &Ground, target: &str) -> Option<Group> {
        let point = ground.point(self.at)?;
        point.languages.iter().find(|one| one.lang == target).map(|one| one.group)
    }

    /// Whether it holds examples of the target, as all mixtures with English do of English.
    fn holds(&self, ground: &Ground, target: &str) -> Option<bool> {
        self.group(ground, target).map(|group| matches!(group, Group::Seen | Group::English))
    }

    fn gain(&self, ground: &Ground, target: &str) -> Option<MatrixCell> {
        let own = self.holds(ground, target)?;
        let gain = ground.difference(self.at, self.from, &Over::language(target))?;
        Some(MatrixCell { gain, own })
    }

    fn donor(&self, ground: &Ground, targets: &[String]) -> Option<Contrast> {
        let given = |target: &&String| {
            self.holds(ground, target) == Some(false)
                && ground.estimate(self.from, &Over::language(target)).is_some()
        };
        let langs: Vec<String> = targets.iter().filter(given).cloned().collect();
        if langs.is_empty() {
            return None;
        }
        ground.difference(self.at, self.from, &Over::Mean(langs))
    }
}

fn recipient(ground: &Ground, rows: &[Source], target: &str) -> Option<Contrast> {
    let over = Over::language(target);
    let givers: Vec<&Source> = rows
        .iter()
        .filter(|row| row.holds(ground, target) == Some(false))
        .filter(|row| ground.estimate(row.from, &over).is_some())
        .collect();
    if givers.is_empty() {
        return None;
    }
    let weight = 1.0 / givers.len() as f64;
    let terms: Vec<Term> =
        givers.iter().flat_map(|row| [(weight, row.at), (-weight, row.from)]).collect();
    ground.contrast(&terms, &over)
}
