//! English against the rest: which mixtures and n no other beats in one without losing in the other.

use rayon::prelude::*;

use crate::further::{Pareto, ParetoPoint};
use crate::ground::{Ground, Over, Place};
use crate::read::Group;

/// Draws that the probability of being on the front is taken over.
const DRAWS: usize = 1000;

/// One front for each task, metric and model, over all its settings, mixtures and n.
pub(crate) fn fronts(ground: &Ground) -> Vec<Pareto> {
    let families = ground
        .grouped(|curve| (curve.task.clone(), curve.metric.clone(), curve.series.model.clone()));
    families.into_iter().filter_map(|family| front(ground, &family)).collect()
}

/// One point of the front's plane.
struct Candidate {
    place: Place,
    english: Over,
    others: Over,
}

fn front(ground: &Ground, family: &[usize]) -> Option<Pareto> {
    let first = ground.curve(family[0]);
    let candidates = candidates(ground, family);
    let estimate = |one: &Candidate, over: &Over| ground.estimate(one.place, over);
    let mut points: Vec<ParetoPoint> = candidates
        .iter()
        .map(|one| {
            Some(ParetoPoint {
                curve: one.place.curve,
                n: one.place.n,
                english: estimate(one, &one.english)?,
                non_english: estimate(one, &one.others)?,
                on_front: false,
                probability: None,
            })
        })
        .collect::<Option<_>>()?;
    if points.len() < 2 {
        return None;
    }
    let plane: Vec<(f64, f64)> =
        points.iter().map(|one| (one.english.value, one.non_english.value)).collect();
    let shares = shares(ground, &candidates);
    for ((at, point), on_front) in points.iter_mut().enumerate().zip(on_front(&plane)) {
        point.on_front = on_front;
        point.probability = shares.as_ref().map(|shares| shares[at]);
    }
    Some(Pareto { about: first.about(), unit: first.unit, points })
}

/// The points that score English and the same other languages: means over different ones do not
/// compare, so the set counts that most points have.
fn candidates(ground: &Ground, family: &[usize]) -> Vec<Candidate> {
    let mut all = Vec::new();
    for &curve in family {
        for point in &ground.curve(curve).points {
            let mut others: Vec<String> = point.others().map(|one| one.lang.clone()).collect();
            others.sort_unstable();
            let english = point.languages.iter().find(|one| one.group == Group::English);
            if let Some(english) = english.filter(|_| !others.is_empty()) {
                let (english, others) = (Over::language(&english.lang), Over::Mean(others));
                all.push(Candidate { place: Place { curve, n: point.n }, english, others });
            }
        }
    }
    let count = |over: &Over| all.iter().filter(|one| one.others == *over).count();
    let common = all.iter().map(|one| (count(&one.others), &one.others)).max();
    let Some((_, common)) = common.map(|(count, over)| (count, over.clone())) else { return all };
    all.retain(|one| one.others == common);
    all
}

/// Per point, whether no other is better in one and no worse in the other.
fn on_front(plane: &[(f64, f64)]) -> Vec<bool> {
    let mut order: Vec<usize> = (0..plane.len()).collect();
    order.sort_by(|&a, &b| {
        plane[b].0.total_cmp(&plane[a].0).then(plane[b].1.total_cmp(&plane[a].1))
    });
    let mut front = vec![false; plane.len()];
    let mut best: Option<(f64, f64)> = None;
    for at in order {
        let (x, y) = plane[at];
        let beaten = best.is_some_and(|(best_x, best_y)| best_y > y || (best_y == y && best_x > x));
        front[at] = !beaten;
        if best.is_none_or(|(_, best_y)| y > best_y) {
            best = Some((x, y));
        }
    }
    front
}

/// Share of the draws in which each is on the front; `None` where nothing was resampled.
fn shares(ground: &Ground, candidates: &[Candidate]) -> Option<Vec<f64>> {
    let of = |one: &Candidate| {
        let point = ground.point(one.place)?;
        let statistics = [one.english.statistic(point)?, one.others.statistic(point)?];
        let values = ground.draws_of(one.place.curve).values(&statistics, None)?;
        let [english, others] = <[Vec<f64>; 2]>::try_from(values).ok()?;
        Some((cut(english), cut(others)))
    };
    let drawn: Vec<(Vec<f64>, Vec<f64>)> = candidates.iter().map(of).collect::<Option<_>>()?;
    let count = drawn.iter().map(|(english, _)| english.len()).min()?;
    let front =
        |draw: usize| on_front(&drawn.iter().map(|(x, y)| (x[draw], y[draw])).collect::<Vec<_>>());
    let fronts: Vec<Vec<bool>> = (0..count).into_par_iter().map(front).collect();
    let share = |at: usize| fronts.iter().filter(|front| front[at]).count() as f64 / count as f64;
    Some((0..candidates.len()).map(share).collect())
}

fn cut(mut draws: Vec<f64>) -> Vec<f64> {
    draws.truncate(DRAWS);
    draws
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_holds_what_nothing_beats() {
        let plane = [(1.0, 5.0), (2.0, 4.0), (2.0, 3.0), (3.0, 1.0), (3.0, 1.0), (0.5, 5.0)];
        assert_eq!(on_front(&plane), [true, true, false, true, true, false]);
        assert_eq!(on_front(&[]), Vec::<bool>::new());
    }
}
