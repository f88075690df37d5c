//! Whether unseen languages follow the seen ones: the rank correlation of their means along n, and
//! whether the gap between the two stays as it is.
//!
//! Constancy is a claim of its own: "no clear change" does not show it. It is shown where two
//! one-sided tests hold the change of the gap's trend, from the smallest to the largest n, within a
//! margin (Schuirmann 1987).

use ::statistics::{Equivalence, constant_gap, line, spearman, tost};

use crate::bootstrap::{Estimate, key, runs};
use crate::curves::Which;
use crate::further::{Following, GapConstancy, GapShape};
use crate::ground::{Ground, Over, Place};
use crate::quantity::{ALPHA, Basis, Contrast, Test, adjust};

/// Points below which ranks say nothing.
const LEAST_POINTS: usize = 3;

/// The correlation of every curve with seen and unseen languages.
pub(crate) fn following(ground: &Ground) -> Vec<Following> {
    let one = |at: usize| {
        let curve = ground.curve(at);
        let means: Vec<(f64, f64)> = curve
            .points
            .iter()
            .filter_map(|point| Some((point.seen.as_ref()?, point.unseen.as_ref()?)))
            .map(|(seen, unseen)| (seen.estimate.value, unseen.estimate.value))
            .collect();
        if means.len() < LEAST_POINTS {
            return None;
        }
        let (seen, unseen): (Vec<f64>, Vec<f64>) = means.into_iter().unzip();
        let found = spearman(&seen, &unseen, key(ground.seed, &curve.task, "spearman")).ok()?;
        let test = Test { p: Some(found.p), basis: Basis::Permutation, ..Test::default() };
        let (correlation, points, exact) = (found.rho, found.n, found.exact);
        Some(Following { curve: at, correlation, points, test, exact })
    };
    let mut all: Vec<Following> = (0..ground.curves.len()).filter_map(one).collect();
    for group in ground.grouped(|curve| (curve.task.clone(), curve.metric.clone())) {
        let of_group = all.iter_mut().filter(|one| group.contains(&one.curve));
        adjust(of_group.map(|one| &mut one.test));
    }
    all
}

/// The gap of every curve along n. `margin` is a share of the metric's scale.
pub(crate) fn gaps(ground: &Ground, margin: f64) -> Vec<GapConstancy> {
    let mut all: Vec<GapConstancy> =
        (0..ground.curves.len()).filter_map(|at| gap(ground, at, margin)).collect();
    for group in ground.grouped(|curve| (curve.task.clone(), curve.metric.clone())) {
        let of_group = |one: &&mut GapConstancy| group.contains(&one.curve);
        adjust(all.iter_mut().filter(of_group).map(|one| &mut one.change.test));
        adjust(all.iter_mut().filter(of_group).map(|one| &mut one.equivalence));
    }
    for one in &mut all {
        one.shape = shape(one);
    }
    all
}

fn gap(ground: &Ground, at: usize, margin: f64) -> Option<GapConstancy> {
    let curve = ground.curve(at);
    // The same languages at every n, or the gap changes with them.
    let over = curve.points.first().and_then(|point| Which::Gap.over(point))?;
    let points: Vec<(f64, f64)> = curve
        .points
        .iter()
        .filter(|point| Which::Gap.over(point).as_ref() == Some(&over))
        .filter_map(|point| Some((point.n as f64, over.value(point)?)))
        .collect();
    let (first, last) = (points.first()?.1, points.last()?.1);
    if points.len() < 2 {
        return None;
    }
    let allowed = curve.scale.width().map(|width| width * margin);
    let (change, equivalence, note) =
        resampled(ground, at, &over, &points, allowed).or_else(|| scattered(&points, allowed))?;
    let note = match allowed {
        None => format!("{note}; the metric's scale is not known, so there is no margin"),
        Some(_) => note,
    };
    Some(GapConstancy {
        curve: at,
        unit: curve.unit,
        first,
        last,
        equivalence: Test {
            p: equivalence.map(|one| one.p),
            basis: change.test.basis,
            ..Test::default()
        },
        change,
        margin: allowed.unwrap_or(f64::NAN),
        shape: GapShape::Undecided,
        note,
    })
}

type Found = (Contrast, Option<Equivalence>, String);

/// By the bootstrap, where there is something to resample.
fn resampled(
    ground: &Ground,
    at: usize,
    over: &Over,
    points: &[(f64, f64)],
    margin: Option<f64>,
) -> Option<Found> {
    let places: Vec<Place> =
        points.iter().map(|&(n, _)| Place { curve: at, n: n as i64 }).collect();
    let statistics: Vec<_> =
        places.iter().map(|&place| over.statistic(ground.point(place)?)).collect::<Option<_>>()?;
    let n: Vec<f64> = points.iter().map(|point| point.0).collect();
    let spread = ground.spread_of(&[(1.0, places[0])], over);
    let known = spread.is_some() || ground.estimate(places[0], over)?.interval.is_some();
    if !known {
        return None;
    }
    let draws = ground.draws_of(at);
    let runs = runs(spread.map(|one| one.0));
    let found =
        constant_gap(draws.drawn(), &statistics, &n, runs, margin.unwrap_or(1.0), ALPHA).ok()?;
    let estimate = Estimate::from_crate(found.change);
    let basis = spread.map_or(Basis::Items, |one| one.1);
    let test = Test { p: estimate.p, basis, ..Test::default() };
    let equivalence = found.equivalence.ok().filter(|_| margin.is_some());
    let note = format!("a line along log2(1 + n) through {} points", points.len());
    Some((Contrast { estimate, test }, equivalence, note))
}

/// By the scatter of the points about a line.
fn scattered(points: &[(f64, f64)], margin: Option<f64>) -> Option<Found> {
    let x: Vec<f64> = points.iter().map(|point| (1.0 + point.0).log2()).collect();
    let y: Vec<f64> = points.iter().map(|point| point.1).collect();
    let range = x.last()? - x.first()?;
    let found = line(&x, &y, 0.95).ok()?;
    let (value, error) = (found.slope * range, found.error * range);
    let estimate = Estimate {
        interval: Some((found.interval.low * range, found.interval.high * range)),
        p: Some(found.p),
        error: Some(error),
        degrees_of_freedom: found.degrees_of_freedom,
        ..Estimate::plain(value)
    };
    let test = Test { p: Some(found.p), basis: Basis::Trend, ..Test::default() };
    let equivalence =
        margin.and_then(|margin| tost(value, error, found.degrees_of_freedom, margin, ALPHA).ok());
    let note = format!(
        "a line along log2(1 + n) through {} points, judged by their scatter about it",
        points.len()
    );
    Some((Contrast { estimate, test }, equivalence, note))
}

fn shape(gap: &GapConstancy) -> GapShape {
    let below = |test: &Test| test.p_holm.is_some_and(|p| p < ALPHA);
    match (below(&gap.equivalence), below(&gap.change.test)) {
        (true, _) => GapShape::Constant,
        (false, true) if gap.change.estimate.value > 0.0 => GapShape::Grows,
        (false, true) => GapShape::Shrinks,
        (false, false) => GapShape::Undecided,
    }
}
