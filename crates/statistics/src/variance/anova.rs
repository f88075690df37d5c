//! Balanced designs: sums of squares, expected mean squares, and generalised pivots. Every
//! combination of levels is there, with the same number of runs.

use super::{DRAWS, Found, Model, Term, reml, subsets};
use crate::random::{Key, Stream};
use crate::unavailable::Outcome;

/// Mean squares in the order of the terms, then of what is left.
pub(super) struct Table {
    rows: Vec<Row>,
}

struct Row {
    squares: f64,
    degrees_of_freedom: f64,
    /// What each component counts in the expected mean square: (component, factor).
    expected: Vec<(usize, f64)>,
}

/// The table of a balanced design; `None` of any other.
pub(super) fn balanced(model: &Model) -> Option<Table> {
    let cells = model.cells;
    let factors = cells.levels[0].len();
    let levels: Vec<usize> = (0..factors)
        .map(|f| cells.levels.iter().map(|cell| cell[f]).max().unwrap_or(0) + 1)
        .collect();
    let full = levels.iter().product::<usize>() == cells.len();
    let runs = cells.counts[0];
    if !full || cells.counts.iter().any(|&count| count != runs) {
        return None;
    }
    // Every factor and interaction up to some order must be a term: what is left out for being the
    // residual is no gap.
    let order = model.terms.iter().map(|term| term.factors.len()).max()?;
    let expected: Vec<Vec<usize>> = subsets(factors, order);
    if !expected.iter().all(|set| model.terms.iter().any(|term| term.factors == *set)) {
        return None;
    }
    let observations = cells.observations();
    let (further, rest) = (model.terms.len(), model.terms.len() + usize::from(model.further));
    let grand = cells.means.iter().sum::<f64>() / cells.len() as f64;
    // Variation of the means over each set of factors; a term's own is that less its subsets'.
    let between = |term: &Term| {
        let size = (cells.len() / term.levels) as f64;
        let mut sums = vec![0.0; term.levels];
        term.groups.iter().zip(&cells.means).for_each(|(&group, mean)| sums[group] += mean);
        runs * size * sums.iter().map(|sum| (sum / size - grand).powi(2)).sum::<f64>()
    };
    let mut rows: Vec<Row> = Vec::new();
    for term in &model.terms {
        let within: f64 = model
            .terms
            .iter()
            .zip(&rows)
            .filter(|(other, _)| is_subset(&other.factors, &term.factors))
            .map(|(_, row)| row.squares)
            .sum();
        let mut expected = vec![(rest, 1.0)];
        if model.further {
            expected.push((further, runs));
        }
        for (at, other) in model.terms.iter().enumerate() {
            if is_subset(&term.factors, &other.factors) {
                expected.push((at, observations / other.levels as f64));
            }
        }
        rows.push(Row {
            squares: (between(term) - within).max(0.0),
            degrees_of_freedom: term.factors.iter().map(|&f| levels[f] as f64 - 1.0).product(),
            expected,
        });
    }
    let all: f64 = runs * cells.means.iter().map(|mean| (mean - grand).powi(2)).sum::<f64>();
    let explained: f64 = rows.iter().map(|row| row.squares).sum();
    let used: f64 = rows.iter().map(|row| row.degrees_of_freedom).sum();
    let beyond = ((all - explained).max(0.0), cells.len() as f64 - 1.0 - used);
    if model.further {
        let expected = vec![(rest, 1.0), (further, runs)];
        rows.push(Row { squares: beyond.0, degrees_of_freedom: beyond.1, expected });
    }
    let last = if runs > 1.0 { (cells.within, observations - cells.len() as f64) } else { beyond };
    rows.push(Row { squares: last.0, degrees_of_freedom: last.1, expected: vec![(rest, 1.0)] });
    rows.iter().all(|row| row.degrees_of_freedom > 0.0).then_some(Table { rows })
}

fn is_subset(small: &[usize], large: &[usize]) -> bool {
    small.iter().all(|one| large.contains(one))
}

/// Components from the mean squares; by REML where one of them would be negative.
pub(super) fn components(model: &Model, table: &Table, key: Key) -> Outcome<Found> {
    let mean_squares: Vec<f64> =
        table.rows.iter().map(|row| row.squares / row.degrees_of_freedom).collect();
    let draw = |place: u64| {
        let mut stream = Stream::new(key, place);
        let pivots: Vec<f64> = table
            .rows
            .iter()
            .map(|row| row.squares / stream.chi_squared(row.degrees_of_freedom))
            .collect();
        table.solve(&pivots).into_iter().map(|one| one.max(0.0)).collect()
    };
    let draws = (0..DRAWS).map(draw).collect();
    let variances = table.solve(&mean_squares);
    if variances.iter().any(|&one| one < 0.0) {
        return Ok(Found { draws, ..reml::components(model, key)? });
    }
    let degrees_of_freedom = table.rows.iter().map(|row| row.degrees_of_freedom).collect();
    Ok(Found { variances, degrees_of_freedom, draws, method: "ANOVA" })
}

impl Table {
    /// The components whose expected mean squares are the given ones. A row's own component is the
    /// only one in it that no later row has, so they come from the last to the first.
    fn solve(&self, mean_squares: &[f64]) -> Vec<f64> {
        let mut components = vec![0.0; self.rows.len()];
        for at in (0..self.rows.len()).rev() {
            let (mut own, mut others) = (1.0, 0.0);
            for &(component, factor) in &self.rows[at].expected {
                if component == at {
                    own = factor
                } else {
                    others += factor * components[component]
                }
            }
            components[at] = (mean_squares[at] - others) / own;
        }
        components
    }
}
