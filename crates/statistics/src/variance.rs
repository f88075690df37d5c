//! Which factors the scores vary with: task × size × setting × mixture × language and their
//! interactions, runs as replicates. No variable alone explains transfer; this says how much each
//! and each combination does.
//!
//! A model of crossed random effects. Balanced designs go by analysis of variance and its expected
//! mean squares (Searle, Casella and McCulloch 1992, chapter 4), with intervals from generalised
//! pivots (Weerahandi 1993); others, and those in which a component would be negative, by REML
//! (module `reml`), with intervals from a scaled χ² for each component (Satterthwaite 1946).

mod anova;
mod reml;

use serde::Serialize;

use crate::interval::{Interval, quantile};
use crate::random::{Key, Stream};
use crate::unavailable::{Outcome, Unavailable, finite, probability, same_length};

/// Draws of the components that intervals are read from.
const DRAWS: u64 = 4000;
/// Levels over all terms that REML takes on.
const MOST_LEVELS: usize = 1500;

/// Something that observations differ in.
#[derive(Clone, Debug, PartialEq)]
pub struct Factor {
    /// As `language`.
    pub name: String,
    /// The level of each observation; any numbers that are equal where the level is.
    pub levels: Vec<u32>,
}

/// Where the variance lies.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decomposition {
    /// Factors, interactions, and last what is left over.
    pub components: Vec<Component>,
    /// `ANOVA` or `REML`.
    pub method: &'static str,
    /// Observations.
    pub observations: usize,
    /// Different combinations of levels among them.
    pub cells: usize,
    /// Terms that the data say nothing of, and why.
    pub left_out: Vec<(String, Unavailable)>,
}

/// One term's part of the variance.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Component {
    /// `task`, `task × language`, `further interactions`, `between runs`.
    pub term: String,
    /// Its variance, 0 or more.
    pub variance: f64,
    /// Of the sum of all components.
    pub share: f64,
    /// Of the share.
    pub interval: Interval,
    /// Levels, or combinations of levels.
    pub levels: usize,
    /// That the component is known with.
    pub degrees_of_freedom: f64,
}

/// A term of the model over the cells.
struct Term {
    name: String,
    factors: Vec<usize>,
    /// Level of each cell, from 0 on.
    groups: Vec<usize>,
    levels: usize,
}

/// Observations with all levels alike, as one.
struct Cells {
    /// Level of each factor, cell by cell, from 0 on.
    levels: Vec<Vec<usize>>,
    counts: Vec<f64>,
    means: Vec<f64>,
    /// Sum of squares within the cells.
    within: f64,
}

/// What a method finds: variances in the order of the terms, then further interactions where they
/// are told apart, then the rest; and draws of them.
struct Found {
    variances: Vec<f64>,
    degrees_of_freedom: Vec<f64>,
    draws: Vec<Vec<f64>>,
    method: &'static str,
}

/// The model: terms, and whether cells differ beyond them.
struct Model<'a> {
    cells: &'a Cells,
    terms: Vec<Term>,
    /// Whether combinations of levels have an effect of their own beyond the terms, which only
    /// replicates tell from chance.
    further: bool,
}

/// Takes the variance of values apart by factors and their interactions up to `order` factors.
///
/// # Errors
/// No values, lists of different lengths, values that are not finite or all equal, no factor with
/// two levels, no more observations than levels, too many levels, or a fit that does not settle.
pub fn decompose(
    values: &[f64],
    factors: &[Factor],
    order: usize,
    confidence: f64,
    key: Key,
) -> Outcome<Decomposition> {
    probability("a confidence", confidence)?;
    if values.is_empty() {
        return Err(Unavailable::Empty);
    }
    finite(values)?;
    for factor in factors {
        same_length("values and their levels", values.len(), factor.levels.len())?;
    }
    if values.iter().all(|value| *value == values[0]) {
        return Err(Unavailable::AllEqual);
    }
    let mut left_out = Vec::new();
    let (kept, levels) = varying(factors, &mut left_out);
    if kept.is_empty() {
        return Err(Unavailable::TooFew { what: "factors that vary", found: 0, needed: 1 });
    }
    let cells = Cells::new(values, &levels);
    let model = Model::new(&cells, &kept, order.max(1), &mut left_out);
    if model.terms.is_empty() {
        return Err(Unavailable::NoReplicates);
    }
    let found = match anova::balanced(&model) {
        Some(table) => anova::components(&model, &table, key)?,
        None => reml::components(&model, key)?,
    };
    Ok(model.report(found, confidence, values.len(), left_out))
}

/// Factors with more than one level: names, and levels renumbered from 0 on.
fn varying<'a>(
    factors: &'a [Factor],
    left_out: &mut Vec<(String, Unavailable)>,
) -> (Vec<&'a str>, Vec<Vec<usize>>) {
    let (mut names, mut levels) = (Vec::new(), Vec::new());
    for factor in factors {
        let mut known = factor.levels.clone();
        known.sort_unstable();
        known.dedup();
        if known.len() < 2 {
            let reason = Unavailable::TooFew { what: "levels", found: known.len(), needed: 2 };
            left_out.push((factor.name.clone(), reason));
            continue;
        }
        names.push(factor.name.as_str());
        let place = |level: &u32| known.binary_search(level).unwrap_or_default();
        levels.push(factor.levels.iter().map(place).collect());
    }
    (names, levels)
}

impl Cells {
    fn new(values: &[f64], levels: &[Vec<usize>]) -> Cells {
        let key = |at: usize| -> Vec<usize> { levels.iter().map(|factor| factor[at]).collect() };
        let mut order: Vec<(Vec<usize>, usize)> =
            (0..values.len()).map(|at| (key(at), at)).collect();
        order.sort_unstable();
        let mut cells =
            Cells { levels: Vec::new(), counts: Vec::new(), means: Vec::new(), within: 0.0 };
        for cell in order.chunk_by(|a, b| a.0 == b.0) {
            let count = cell.len() as f64;
            let mean = cell.iter().map(|one| values[one.1]).sum::<f64>() / count;
            cells.within += cell.iter().map(|one| (values[one.1] - mean).powi(2)).sum::<f64>();
            cells.levels.push(cell[0].0.clone());
            cells.counts.push(count);
            cells.means.push(mean);
        }
        cells
    }

    fn len(&self) -> usize {
        self.means.len()
    }

    fn observations(&self) -> f64 {
        self.counts.iter().sum()
    }

    /// The cells' combinations of some factors, numbered from 0 on.
    fn groups(&self, factors: &[usize]) -> (Vec<usize>, usize) {
        let of = |cell: &Vec<usize>| -> Vec<usize> { factors.iter().map(|&f| cell[f]).collect() };
        let mut known: Vec<Vec<usize>> = self.levels.iter().map(of).collect();
        known.sort_unstable();
        known.dedup();
        let groups = self
            .levels
            .iter()
            .map(|cell| known.binary_search(&of(cell)).unwrap_or_default())
            .collect();
        (groups, known.len())
    }
}

impl<'a> Model<'a> {
    fn new(
        cells: &'a Cells,
        names: &[&str],
        order: usize,
        left_out: &mut Vec<(String, Unavailable)>,
    ) -> Model<'a> {
        let replicated = cells.observations() > cells.len() as f64;
        let mut terms: Vec<Term> = Vec::new();
        for factors in subsets(names.len(), order) {
            let name = factors.iter().map(|&at| names[at]).collect::<Vec<_>>().join(" × ");
            let (groups, levels) = cells.groups(&factors);
            if levels == cells.len() && !replicated {
                // As many levels as observations: what is left over.
                left_out.push((name, Unavailable::NoReplicates));
                continue;
            }
            let same = terms.iter().find(|term| same_partition(&term.groups, &groups));
            match same.map(|term| term.name.clone()) {
                Some(with) => left_out.push((name, Unavailable::Confounded { with })),
                None => terms.push(Term { name, factors, groups, levels }),
            }
        }
        let by_cell = terms.iter().any(|term| term.levels == cells.len());
        if !replicated {
            left_out.push(("between runs".into(), Unavailable::NoReplicates));
        }
        Model { cells, terms, further: replicated && !by_cell && names.len() > 1 }
    }

    /// Names of the components after the terms.
    fn rest(&self) -> Vec<&'static str> {
        let replicated = self.cells.observations() > self.cells.len() as f64;
        match (self.further, replicated) {
            (true, _) => vec!["further interactions", "between runs"],
            (false, true) => vec!["between runs"],
            (false, false) => vec!["further interactions and runs"],
        }
    }

    fn report(
        self,
        found: Found,
        confidence: f64,
        observations: usize,
        left_out: Vec<(String, Unavailable)>,
    ) -> Decomposition {
        let total: f64 = found.variances.iter().sum();
        let shares: Vec<Vec<f64>> = found
            .draws
            .iter()
            .map(|draw| {
                let all: f64 = draw.iter().sum();
                draw.iter().map(|one| one / all).collect()
            })
            .collect();
        let cells = self.cells.len();
        let of_terms = self.terms.iter().map(|term| (term.name.clone(), term.levels));
        let of_rest = self.rest().into_iter().map(|name| {
            (name.to_string(), if name == "further interactions" { cells } else { observations })
        });
        let component = |(at, (term, levels)): (usize, (String, usize))| {
            let mut draws: Vec<f64> = shares.iter().map(|draw| draw[at]).collect();
            draws.sort_unstable_by(f64::total_cmp);
            let share = found.variances[at] / total;
            let [low, high] = [0.5 - confidence / 2.0, 0.5 + confidence / 2.0]
                .map(|level| quantile(&draws, level));
            Component {
                term,
                variance: found.variances[at],
                share,
                interval: Interval { low: low.min(share), high: high.max(share) },
                levels,
                degrees_of_freedom: found.degrees_of_freedom[at],
            }
        };
        let components = of_terms.chain(of_rest).enumerate().map(component).collect();
        Decomposition { components, method: found.method, observations, cells, left_out }
    }
}

/// Subsets of `0..count` with 1 to `order` members, small ones first.
fn subsets(count: usize, order: usize) -> Vec<Vec<usize>> {
    let members = |bits: u32| (0..count).filter(|at| bits >> at & 1 == 1).collect::<Vec<_>>();
    let mut all: Vec<Vec<usize>> =
        (1..1u32 << count.min(16)).map(members).filter(|set| set.len() <= order).collect();
    all.sort_by(|a, b| a.len().cmp(&b.len()).then(a.cmp(b)));
    all
}

/// Whether two numberings put the same cells together.
fn same_partition(a: &[usize], b: &[usize]) -> bool {
    let mut of_a = std::collections::BTreeMap::new();
    let mut of_b = std::collections::BTreeMap::new();
    a.iter()
        .zip(b)
        .all(|(a, b)| *of_a.entry(a).or_insert(b) == b && *of_b.entry(b).or_insert(a) == a)
}

/// Draws of components whose estimates have a spread: scaled χ²; of one at 0 the positive half of a
/// normal.
fn scaled_chi_squared(
    variances: &[f64],
    errors: &[f64],
    degrees_of_freedom: &[f64],
    key: Key,
) -> Vec<Vec<f64>> {
    let draw = |place: u64| {
        let mut stream = Stream::new(key, place);
        let mut one = |at: usize| {
            if variances[at] > 0.0 {
                let d = degrees_of_freedom[at];
                variances[at] * d / stream.chi_squared(d)
            } else {
                errors[at] * stream.normal().abs()
            }
        };
        (0..variances.len()).map(&mut one).collect()
    };
    (0..DRAWS).map(draw).collect()
}
