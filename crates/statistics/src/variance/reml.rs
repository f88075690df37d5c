//! Restricted maximum likelihood for crossed random effects (Patterson and Thompson 1971), by the
//! average-information algorithm (Gilmour, Thompson and Cullis 1995) with halved steps and
//! components held at 0 where the likelihood falls from there on.
//!
//! Runs of a cell enter as their mean and their sum of squares, so that the equations have the size
//! of the levels, not of the observations. With D the variance of the cells' means beyond the terms,
//! W = [1 Z₁ Z₂ …] and S the standard deviations of its columns (1 for the mean):
//! A = S WᵀD⁻¹W S + (0 ⊕ I), P = D⁻¹ − D⁻¹ W S A⁻¹ S WᵀD⁻¹.

use nalgebra::{Cholesky, DMatrix, DVector};

use super::{Found, MOST_LEVELS, Model, scaled_chi_squared};
use crate::random::Key;
use crate::unavailable::{Outcome, Unavailable};

const MOST_STEPS: usize = 200;

/// The likelihood at given components, and what it takes to climb.
struct Point {
    likelihood: f64,
    gradient: DVector<f64>,
    information: DMatrix<f64>,
}

/// The model's terms as columns of W.
struct Equations<'a> {
    model: &'a Model<'a>,
    /// First column of each term; column 0 is the mean.
    starts: Vec<usize>,
    columns: usize,
    /// Terms whose levels are the cells themselves go to D.
    of_cells: Option<usize>,
    /// Components: terms, further interactions where they are told apart, the rest.
    components: usize,
}

/// Components with their errors and degrees of freedom.
pub(super) fn components(model: &Model, key: Key) -> Outcome<Found> {
    let equations = Equations::new(model)?;
    let (variances, point) = equations.maximise()?;
    let covariance = point.information.clone().try_inverse().ok_or(Unavailable::NotConverged)?;
    let errors: Vec<f64> =
        (0..variances.len()).map(|at| covariance[(at, at)].max(0.0).sqrt()).collect();
    let degrees_of_freedom: Vec<f64> = variances
        .iter()
        .zip(&errors)
        .map(|(variance, error)| (2.0 * (variance / error).powi(2)).clamp(1.0, 1e6))
        .collect();
    let draws = scaled_chi_squared(&variances, &errors, &degrees_of_freedom, key);
    Ok(Found { variances, degrees_of_freedom, draws, method: "REML" })
}

impl<'a> Equations<'a> {
    fn new(model: &'a Model<'a>) -> Outcome<Self> {
        let cells = model.cells.len();
        let of_cells = model.terms.iter().position(|term| term.levels == cells);
        let (mut starts, mut columns) = (Vec::new(), 1);
        for (at, term) in model.terms.iter().enumerate() {
            starts.push(columns);
            columns += if Some(at) == of_cells { 0 } else { term.levels };
        }
        if columns > MOST_LEVELS {
            return Err(Unavailable::OutOfRange {
                what: "the number of levels over all terms",
                value: columns as f64,
            });
        }
        let components = model.terms.len() + usize::from(model.further) + 1;
        Ok(Equations { model, starts, columns, of_cells, components })
    }

    /// The column of each term that a cell is in, with the term.
    fn row(&self, cell: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.model
            .terms
            .iter()
            .enumerate()
            .filter(|(at, _)| Some(*at) != self.of_cells)
            .map(move |(at, term)| (at, self.starts[at] + term.groups[cell]))
    }

    /// The component that adds to every cell, if any.
    fn cell_component(&self) -> Option<usize> {
        self.of_cells.or(self.model.further.then_some(self.model.terms.len()))
    }

    fn maximise(&self) -> Outcome<(Vec<f64>, Point)> {
        let cells = self.model.cells;
        let mean = cells.means.iter().sum::<f64>() / cells.len() as f64;
        let total = (cells.means.iter().map(|one| (one - mean).powi(2)).sum::<f64>()
            + cells.within)
            / (cells.observations() - 1.0);
        let least = 1e-10 * total;
        let rest = self.components - 1;
        let mut at = vec![total / self.components as f64; self.components];
        let mut point = self.point(&at)?;
        for _ in 0..MOST_STEPS {
            let step = self.step(&at, &point);
            let mut length = 1.0;
            let next = loop {
                let mut next: Vec<f64> =
                    at.iter().zip(step.iter()).map(|(a, s)| (a + length * s).max(0.0)).collect();
                next[rest] = next[rest].max(least);
                match self.point(&next) {
                    Ok(found) if found.likelihood >= point.likelihood => break Some((next, found)),
                    _ if length < 1e-9 => break None,
                    _ => length /= 2.0,
                }
            };
            let Some((next, found)) = next else { return Ok((at, point)) };
            let gain = found.likelihood - point.likelihood;
            let moved = at.iter().zip(&next).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            (at, point) = (next, found);
            if gain < 1e-10 && moved < 1e-8 * total {
                return Ok((at, point));
            }
        }
        Err(Unavailable::NotConverged)
    }

    /// Newton's step over the components that are free: not those at 0 that would fall.
    fn step(&self, at: &[f64], point: &Point) -> DVector<f64> {
        let free: Vec<usize> =
            (0..at.len()).filter(|&k| at[k] > 0.0 || point.gradient[k] > 0.0).collect();
        let information =
            DMatrix::from_fn(free.len(), free.len(), |i, j| point.information[(free[i], free[j])]);
        let gradient = DVector::from_fn(free.len(), |i, _| point.gradient[free[i]]);
        // The average information is positive but where two components cannot be told apart;
        // a trace more of it keeps the step finite.
        let ridge = 1e-9 * information.trace() / free.len() as f64;
        let damped = &information + DMatrix::identity(free.len(), free.len()) * ridge;
        let solved = Cholesky::new(damped).map(|cholesky| cholesky.solve(&gradient));
        let mut step = DVector::zeros(at.len());
        for (i, &k) in free.iter().enumerate() {
            step[k] = solved.as_ref().map_or(gradient[i], |solved| solved[i]);
        }
        step
    }

    /// Likelihood, gradient and average information.
    fn point(&self, at: &[f64]) -> Outcome<Point> {
        let cells = self.model.cells;
        let (rest, of_cell) = (self.components - 1, self.cell_component());
        let d: Vec<f64> = cells
            .counts
            .iter()
            .map(|count| of_cell.map_or(0.0, |k| at[k]) + at[rest] / count)
            .collect();
        // G = WᵀD⁻¹W, and its scaled form with the prior: A.
        let gram = self.gram(&d);
        let scale = self.scale(at);
        let mut a =
            DMatrix::from_fn(self.columns, self.columns, |i, j| scale[i] * gram[(i, j)] * scale[j]);
        (1..self.columns).for_each(|i| a[(i, i)] += 1.0);
        let cholesky = Cholesky::new(a).ok_or(Unavailable::NotConverged)?;
        let log_determinant = 2.0 * cholesky.l_dirty().diagonal().map(f64::ln).sum();
        let inverse = cholesky.inverse();
        let b = DMatrix::from_fn(self.columns, self.columns, |i, j| {
            scale[i] * inverse[(i, j)] * scale[j]
        });
        let project = |v: &[f64]| self.project(v, &d, &b);

        let y = &cells.means;
        let py = project(y);
        let spare = cells.observations() - cells.len() as f64;
        let variance = at[rest];
        let likelihood = -0.5
            * (d.iter().map(|d| d.ln()).sum::<f64>()
                + log_determinant
                + y.iter().zip(&py).map(|(y, p)| y * p).sum::<f64>()
                + if spare > 0.0 { spare * variance.ln() + cells.within / variance } else { 0.0 });

        let traces = self.traces(&gram, &b, &d);
        let mut gradient = DVector::zeros(self.components);
        let mut directions = Vec::with_capacity(self.components);
        for (k, trace) in traces.iter().enumerate() {
            let direction = self.direction(k, &py);
            let square: f64 = direction.iter().zip(&py).map(|(f, p)| f * p).sum();
            gradient[k] = -0.5 * (trace - square);
            directions.push(direction);
        }
        let projected: Vec<Vec<f64>> = directions.iter().map(|one| project(one)).collect();
        let mut information = DMatrix::from_fn(self.components, self.components, |k, l| {
            0.5 * directions[k].iter().zip(&projected[l]).map(|(f, p)| f * p).sum::<f64>()
        });
        if spare > 0.0 {
            gradient[rest] -= 0.5 * (spare / variance - cells.within / variance.powi(2));
            information[(rest, rest)] += 0.5 * spare / variance.powi(2);
        }
        if likelihood.is_finite() {
            Ok(Point { likelihood, gradient, information })
        } else {
            Err(Unavailable::NotConverged)
        }
    }

    fn gram(&self, d: &[f64]) -> DMatrix<f64> {
        let mut gram = DMatrix::zeros(self.columns, self.columns);
        for (cell, d) in d.iter().enumerate() {
            let row: Vec<usize> =
                std::iter::once(0).chain(self.row(cell).map(|(_, column)| column)).collect();
            for &i in &row {
                for &j in &row {
                    gram[(i, j)] += 1.0 / d;
                }
            }
        }
        gram
    }

    /// Standard deviation of each column's effect; 1 for the mean.
    fn scale(&self, at: &[f64]) -> Vec<f64> {
        let mut scale = vec![1.0; self.columns];
        for (k, term) in self.model.terms.iter().enumerate() {
            if Some(k) != self.of_cells {
                scale[self.starts[k]..self.starts[k] + term.levels].fill(at[k].sqrt());
            }
        }
        scale
    }

    /// P v.
    fn project(&self, v: &[f64], d: &[f64], b: &DMatrix<f64>) -> Vec<f64> {
        let mut sums = DVector::zeros(self.columns);
        for (cell, (v, d)) in v.iter().zip(d).enumerate() {
            sums[0] += v / d;
            for (_, column) in self.row(cell) {
                sums[column] += v / d;
            }
        }
        let effects = b * sums;
        let fitted = |cell: usize| {
            effects[0] + self.row(cell).map(|(_, column)| effects[column]).sum::<f64>()
        };
        (0..v.len()).map(|cell| (v[cell] - fitted(cell)) / d[cell]).collect()
    }

    /// tr(P V_k) of every component.
    fn traces(&self, gram: &DMatrix<f64>, b: &DMatrix<f64>, d: &[f64]) -> Vec<f64> {
        let mut traces = vec![0.0; self.components];
        // The diagonal of G − G B G, term by term.
        let gb = gram * b;
        for (k, term) in self.model.terms.iter().enumerate() {
            if Some(k) != self.of_cells {
                for j in self.starts[k]..self.starts[k] + term.levels {
                    traces[k] += gram[(j, j)] - gb.row(j).transpose().dot(&gram.column(j));
                }
            }
        }
        // The diagonal of P, for what adds to every cell.
        for (cell, d) in d.iter().enumerate() {
            let row: Vec<usize> =
                std::iter::once(0).chain(self.row(cell).map(|(_, column)| column)).collect();
            let fitted: f64 = row.iter().flat_map(|&i| row.iter().map(move |&j| b[(i, j)])).sum();
            let p = 1.0 / d - fitted / (d * d);
            if let Some(k) = self.cell_component() {
                traces[k] += p;
            }
            traces[self.components - 1] += p / self.model.cells.counts[cell];
        }
        traces
    }

    /// V_k P y.
    fn direction(&self, k: usize, py: &[f64]) -> Vec<f64> {
        if k == self.components - 1 {
            return py.iter().zip(&self.model.cells.counts).map(|(p, count)| p / count).collect();
        }
        if self.cell_component() == Some(k) {
            return py.to_vec();
        }
        let term = &self.model.terms[k];
        let mut sums = vec![0.0; term.levels];
        term.groups.iter().zip(py).for_each(|(&group, p)| sums[group] += p);
        term.groups.iter().map(|&group| sums[group]).collect()
    }
}
