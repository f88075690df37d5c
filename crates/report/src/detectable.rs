//! What these scores could have shown: the smallest difference from the baseline that a test at
//! α = 0.05 finds four times in five, and the runs or items that would find the one that was seen.

use ::statistics::{Needed, items_needed, seeds_needed, smallest_detectable};
use rayon::prelude::*;
use statrs::distribution::{ContinuousCDF, StudentsT};

use crate::bootstrap::runs;
use crate::further::Detectable;
use crate::ground::{Ground, Over, Place};
use crate::plateau::numbers;
use crate::quantity::ALPHA;

const POWER: f64 = 0.8;

/// For every headline curve with a baseline, at its largest n: the means and each language.
pub(crate) fn detectable(ground: &Ground) -> Vec<Detectable> {
    let wanted: Vec<(usize, String, Over)> = (0..ground.curves.len())
        .filter(|&at| ground.curve(at).headline)
        .flat_map(|at| numbers(ground, at).into_iter().map(move |(of, over)| (at, of, over)))
        .collect();
    wanted.into_par_iter().filter_map(|(at, of, over)| one(ground, at, of, &over)).collect()
}

fn one(ground: &Ground, at: usize, of: String, over: &Over) -> Option<Detectable> {
    let last = ground.curve(at).last(ground.baseline)?;
    let (to, from) = (Place { curve: at, n: last.n }, Place { curve: at, n: ground.baseline });
    let terms = [(1.0, to), (-1.0, from)];
    let observed = ground.difference(to, from, over)?.estimate;
    let (seeds, items) = (observed.seeds, observed.items);
    let mut made = Detectable {
        curve: at,
        of,
        n: last.n,
        observed: Some(observed.value),
        standard_error: observed.error?,
        smallest: f64::NAN,
        seeds,
        items,
        seeds_needed: None,
        items_needed: None,
        note: String::new(),
    };
    let spread = ground.spread_of(&terms, over).map(|one| one.0);
    let statistic = ground.statistic(&terms, over)?;
    match ground.draws_of(at).drawn().noise(&statistic, runs(spread)) {
        Ok(noise) => {
            made.smallest = smallest_detectable(&noise, items, seeds, ALPHA, POWER).ok()?;
            let seeds = seeds_needed(&noise, observed.value, items, ALPHA, POWER);
            let items = items_needed(&noise, observed.value, seeds_of(&made), ALPHA, POWER);
            let mut notes = Vec::new();
            for (needed, place, what, other) in [
                (seeds, &mut made.seeds_needed, "seeds", "items"),
                (items, &mut made.items_needed, "items", "seeds"),
            ] {
                match needed {
                    Ok(Needed::Count(count)) => *place = Some(count),
                    Ok(Needed::Never { .. }) => {
                        notes.push(format!("no number of {what} would do with these {other}"));
                    }
                    Err(_) => {}
                }
            }
            made.note = notes.join("; ");
        }
        Err(_) => {
            // One run, or no items: the standard error is all there is.
            let errors = in_errors(observed.degrees_of_freedom)?;
            made.smallest = errors * made.standard_error;
            made.note = match (spread, items) {
                (None, _) => "over the items of one run; what runs add is not known".into(),
                (Some(_), 0) => "aggregates: judged by the spread of runs".into(),
                (Some(_), _) => "one run: judged by the spread of other runs".into(),
            };
            if spread.is_some() && items == 0 && observed.value != 0.0 {
                let runs = (made.smallest / observed.value).powi(2) * seeds as f64;
                made.seeds_needed = Some(runs.ceil().max(1.0) as usize);
            }
        }
    }
    Some(made)
}

fn seeds_of(made: &Detectable) -> usize {
    made.seeds.max(1)
}

/// Standard errors between 0 and a difference that is found so often.
fn in_errors(degrees_of_freedom: f64) -> Option<f64> {
    let t = StudentsT::new(0.0, 1.0, degrees_of_freedom.min(1e6)).ok()?;
    Some(t.inverse_cdf(1.0 - ALPHA / 2.0) + t.inverse_cdf(POWER))
}
