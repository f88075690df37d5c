//! Where more data stop helping: a constant, a logarithmic, a saturating and a segmented curve are
//! fitted along n; the best by AIC says whether and where the scores level off.

use ::statistics::{self as stats, Choice, LevelsOff, Series};
use rayon::prelude::*;

use crate::bootstrap::runs;
use crate::curves::Which;
use crate::further::{Plateau, Shape};
use crate::ground::{Ground, Over, Place};

/// Points of the line to draw.
const DRAWN: usize = 48;

/// For every curve: the seen, unseen and non-English means; for a headline metric each language too.
pub(crate) fn plateaus(ground: &Ground) -> Vec<Plateau> {
    let wanted: Vec<(usize, String, Over)> = (0..ground.curves.len())
        .flat_map(|at| numbers(ground, at).into_iter().map(move |(of, over)| (at, of, over)))
        .collect();
    wanted.into_par_iter().filter_map(|(at, of, over)| plateau(ground, at, of, &over)).collect()
}

/// What of a curve is followed along n, with its name.
pub(crate) fn numbers(ground: &Ground, at: usize) -> Vec<(String, Over)> {
    let curve = ground.curve(at);
    let Some(point) = curve.points.first() else { return Vec::new() };
    let means =
        [("seen", Which::Seen), ("unseen", Which::Unseen), ("non-English", Which::NonEnglish)];
    let means =
        means.into_iter().filter_map(|(name, which)| Some((name.into(), which.over(point)?)));
    let languages = point.languages.iter().filter(|_| curve.headline);
    means.chain(languages.map(|one| (one.lang.clone(), Over::language(&one.lang)))).collect()
}

/// A number's points along n with what is known of their errors; `None` below two points.
pub(crate) fn series(ground: &Ground, at: usize, over: &Over) -> Option<(Series, Vec<Place>)> {
    let curve = ground.curve(at);
    let known: Vec<(Place, f64)> = curve
        .points
        .iter()
        .filter_map(|point| Some((Place { curve: at, n: point.n }, over.value(point)?)))
        .collect();
    if known.len() < 2 {
        return None;
    }
    let places: Vec<Place> = known.iter().map(|one| one.0).collect();
    let statistics: Vec<_> =
        places.iter().map(|&place| over.statistic(ground.point(place)?)).collect::<Option<_>>()?;
    let spread = ground.spread_of(&[(1.0, places[0])], over);
    let resampled = ground.estimate(places[0], over)?.interval.is_some();
    let covariance = resampled
        .then(|| ground.draws_of(at).drawn().covariance(&statistics, runs(spread.map(|one| one.0))))
        .and_then(Result::ok)
        .map(|found| found.matrix);
    let n = places.iter().map(|place| place.n as f64).collect();
    let value = known.iter().map(|one| one.1).collect();
    Some((Series { n, value, covariance }, places))
}

fn plateau(ground: &Ground, at: usize, of: String, over: &Over) -> Option<Plateau> {
    let (series, _) = series(ground, at, over)?;
    let found = stats::choose(&series).and_then(|choice| {
        let levels = stats::levels_off(&series, &choice, 0.95)?;
        Ok((choice, levels))
    });
    let (first, last) = (*series.n.first()?, *series.n.last()?);
    let mut plateau = Plateau {
        curve: at,
        of,
        shape: Shape::Undetermined,
        at: None,
        low: None,
        high: None,
        level: None,
        rise: None,
        fit: Vec::new(),
        note: String::new(),
    };
    let (choice, levels) = match found {
        Ok(found) => found,
        Err(reason) => {
            plateau.note = format!("no curve fitted: {reason}");
            return Some(plateau);
        }
    };
    let rise = choice.best.at(last) - choice.best.at(first);
    (plateau.level, plateau.rise) = (Some(choice.best.at(last)), Some(rise));
    plateau.shape = match levels {
        LevelsOff::Flat => Shape::Flat,
        _ if rise < 0.0 => Shape::Falls,
        LevelsOff::NotWithinGrid { .. } => Shape::StillRising,
        LevelsOff::At { .. } => Shape::LevelsOff,
    };
    if let LevelsOff::At { n, low, high } = levels {
        (plateau.at, plateau.low, plateau.high) = (Some(n), Some(low), high);
    }
    plateau.fit = drawn(&choice, first, last);
    plateau.note = note(&choice, &series);
    Some(plateau)
}

/// The line between the ends of the grid, with more points where n is small.
fn drawn(choice: &Choice, first: f64, last: f64) -> Vec<(f64, f64)> {
    let at = |step: usize| {
        let share = step as f64 / (DRAWN - 1) as f64;
        let n = first + (last - first) * share * share;
        (n, choice.best.at(n))
    };
    (0..DRAWN).map(at).collect()
}

fn note(choice: &Choice, series: &Series) -> String {
    let name = match choice.best.shape {
        stats::Shape::Constant => "a constant",
        stats::Shape::LogLinear => "a logarithmic curve",
        stats::Shape::Saturating => "a saturating curve",
        stats::Shape::Segmented => "a line that breaks off",
    };
    let weight = choice
        .fits
        .iter()
        .find(|(fit, _)| fit.shape == choice.best.shape)
        .map_or(0.0, |(_, weight)| *weight);
    let errors = match series.covariance {
        Some(_) => "their errors known from items and runs",
        None => "their errors taken from the scatter",
    };
    format!(
        "{name} (Akaike weight {:.0} %) through {} points, {errors}",
        100.0 * weight,
        series.n.len()
    )
}
