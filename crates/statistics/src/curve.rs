//! Scores as a function of the examples per language: which shape they have, and from which n on
//! more data stop helping.
//!
//! Four shapes are fitted by (generalised) least squares, the nonlinear parameter by its profile
//! (Bates and Watts 1988, section 6.1), and chosen between by AICc (Hurvich and Tsai 1989; Burnham
//! and Anderson 2002): where the errors of the points are known, by AIC with them. "Levels off at n"
//! gets a profile-likelihood interval over all levelling shapes that the data support, without an
//! upper end where rising on cannot be excluded.

use nalgebra::{Cholesky, DMatrix, DVector, Dyn};
use serde::Serialize;

use crate::interval::{chi_squared_quantile, normal_quantile, student_quantile};
use crate::unavailable::{Outcome, Unavailable, finite, probability, same_length};

/// Places of the nonlinear parameter that are looked at, evenly in its logarithm.
const PLACES: usize = 240;
/// Shapes this near to the best by their criterion are not ruled out: the 95 % quantile of χ² with
/// one degree of freedom, about Burnham and Anderson's bound of "considerably less support" (p. 70).
const SUPPORTED: f64 = 4.0;
/// With errors known, a change with n must be told apart from none at this level: AIC alone takes
/// noise for a curve one time in five.
const ALPHA: f64 = 0.05;
/// A saturating curve has levelled off when so much of its rise is done.
const RISEN: f64 = 0.95;

/// Scores along n.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Examples per language, from 0 on; no two alike.
    pub n: Vec<f64>,
    /// The score at each.
    pub value: Vec<f64>,
    /// The scores' errors and how they go together ([`Draws::covariance`](crate::Draws)); `None`
    /// where only their scatter about the curve tells.
    pub covariance: Option<Vec<Vec<f64>>>,
}

/// What a curve may look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// a
    Constant,
    /// a + b ln(1 + n / n₁), n₁ the smallest n above 0: every doubling gives as much.
    LogLinear,
    /// a + b (1 − exp(−n / c))
    Saturating,
    /// a + b min(n, c) / c: straight, then level.
    Segmented,
}

/// All shapes, simplest first.
pub const SHAPES: [Shape; 4] =
    [Shape::Constant, Shape::LogLinear, Shape::Saturating, Shape::Segmented];

/// A fitted curve.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fit {
    /// Its shape.
    pub shape: Shape,
    /// a, b and c, as far as the shape has them.
    pub parameters: Vec<f64>,
    /// AICc, or AIC where the errors are known: smaller is better.
    pub criterion: f64,
    /// Sum of squared residuals, in squared standard errors where those are known.
    pub residual: f64,
    /// The smallest n above 0.
    pub(crate) unit: f64,
}

/// The shapes compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Choice {
    /// The one with the smallest criterion.
    pub best: Fit,
    /// Every fit with its Akaike weight.
    pub fits: Vec<(Fit, f64)>,
    /// Shapes that could not be fitted, and why.
    pub left_out: Vec<(Shape, Unavailable)>,
}

/// From where on more data stop helping.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LevelsOff {
    /// At n.
    At {
        /// The break of a segmented curve; where 95 % of a saturating one's change is done.
        n: f64,
        /// Lower end of the interval.
        low: f64,
        /// Upper end; `None` where it may go on to the end of the grid and beyond.
        high: Option<f64>,
    },
    /// Still changing at the largest n.
    NotWithinGrid {
        /// That n.
        last: f64,
    },
    /// No change with n, so nothing to level off.
    Flat,
}

impl Fit {
    /// The curve at n.
    pub fn at(&self, n: f64) -> f64 {
        let [a, b, c] = [0, 1, 2].map(|at| self.parameters.get(at).copied().unwrap_or(0.0));
        if self.shape == Shape::Constant { a } else { a + b * self.shape.rise(n, c, self.unit) }
    }
}

impl Shape {
    /// What b is multiplied with.
    fn rise(self, n: f64, c: f64, unit: f64) -> f64 {
        match self {
            Shape::Constant => 0.0,
            Shape::LogLinear => (n / unit).ln_1p(),
            Shape::Saturating => -(-n / c).exp_m1(),
            Shape::Segmented => n.min(c) / c,
        }
    }

    /// Parameters of the curve.
    fn parameters(self) -> usize {
        match self {
            Shape::Constant => 1,
            Shape::LogLinear => 2,
            Shape::Saturating | Shape::Segmented => 3,
        }
    }

    /// Where a curve with this c has levelled off.
    fn level_at(self, c: f64) -> f64 {
        if self == Shape::Saturating { -c * (1.0 - RISEN).ln() } else { c }
    }
}

/// A series made ready: checked, sorted out, errors taken apart.
pub(crate) struct Prepared<'a> {
    series: &'a Series,
    /// L of the covariance L·Lᵀ.
    errors: Option<Cholesky<f64, Dyn>>,
    unit: f64,
    last: f64,
    /// The largest n but one.
    last_but_one: f64,
}

impl<'a> Prepared<'a> {
    pub fn new(series: &'a Series) -> Outcome<Self> {
        same_length("n and their scores", series.n.len(), series.value.len())?;
        finite(&series.n)?;
        finite(&series.value)?;
        if let Some(&negative) = series.n.iter().find(|&&n| n < 0.0) {
            return Err(Unavailable::OutOfRange { what: "n", value: negative });
        }
        let mut sorted = series.n.clone();
        sorted.sort_by(f64::total_cmp);
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Unavailable::OutOfRange { what: "an n given twice", value: pair[0] });
        }
        let Some(&unit) = sorted.iter().find(|&&n| n > 0.0) else {
            return Err(Unavailable::TooFew { what: "n above 0", found: 0, needed: 1 });
        };
        let errors = series.covariance.as_ref().map(|matrix| cholesky(matrix, sorted.len()));
        let last = sorted[sorted.len() - 1];
        let last_but_one = if sorted.len() > 1 { sorted[sorted.len() - 2] } else { last };
        Ok(Prepared { series, errors: errors.transpose()?, unit, last, last_but_one })
    }

    /// In units of standard errors, and independent.
    fn whiten(&self, values: Vec<f64>) -> DVector<f64> {
        let values = DVector::from_vec(values);
        match &self.errors {
            Some(errors) => errors.l_dirty().solve_lower_triangular(&values).unwrap_or(values),
            None => values,
        }
    }

    /// Every place of c that a shape may have; one that does not matter where it has none.
    fn places(&self, shape: Shape) -> Vec<f64> {
        let (from, to) = match shape {
            Shape::Constant | Shape::LogLinear => return vec![1.0],
            Shape::Saturating => (self.unit / 5.0, self.last * 5.0),
            Shape::Segmented => (self.unit, self.last),
        };
        let step = (to / from).ln() / (PLACES - 1) as f64;
        (0..PLACES).map(|at| from * (step * at as f64).exp()).collect()
    }

    /// Bases at every place.
    pub fn bases(&self, shape: Shape) -> Vec<Basis> {
        self.places(shape).into_iter().filter_map(|c| self.basis(shape, c)).collect()
    }

    /// `None` where the curve does not vary over the points.
    fn basis(&self, shape: Shape, c: f64) -> Option<Basis> {
        let level = self.whiten(vec![1.0; self.series.n.len()]);
        let length = level.norm();
        let level = level / length;
        if shape == Shape::Constant {
            let rise = DVector::zeros(level.len());
            return Some(Basis { c, level, length, rise, square: 0.0, along: 0.0 });
        }
        let rise: Vec<f64> = self.series.n.iter().map(|&n| shape.rise(n, c, self.unit)).collect();
        let rise = self.whiten(rise);
        let along = level.dot(&rise);
        let whole = rise.norm_squared();
        let rise = rise - &level * along;
        let square = rise.norm_squared();
        (square > 1e-12 * whole).then_some(Basis { c, level, length, rise, square, along })
    }

    fn fit(&self, shape: Shape) -> Outcome<Fit> {
        let (points, parameters) = (self.series.n.len(), shape.parameters());
        // With errors known a curve may pass through every point; else scatter must remain.
        let needed = if self.errors.is_some() { parameters } else { parameters + 3 };
        if points < needed {
            return Err(Unavailable::TooFew { what: "points along n", found: points, needed });
        }
        let value = self.whiten(self.series.value.clone());
        let bases = self.bases(shape);
        let best = best(&bases, &value).ok_or(Unavailable::AllEqual)?;
        let best = self.refine(shape, &bases, best, &value);
        let (a, b) = best.solve(&value);
        let residual = best.residual(&value);
        let criterion = if self.errors.is_some() {
            residual + 2.0 * parameters as f64
        } else {
            // One parameter more: the scatter. A perfect fit is one to rounding.
            let (m, k) = (points as f64, parameters as f64 + 1.0);
            let scale = value.norm_squared().max(f64::MIN_POSITIVE);
            m * (residual.max(1e-24 * scale) / m).ln()
                + 2.0 * k
                + 2.0 * k * (k + 1.0) / (m - k - 1.0)
        };
        let parameters = [a, b, best.c][..parameters].to_vec();
        Ok(Fit { shape, parameters, criterion, residual, unit: self.unit })
    }

    /// Golden-section search between the neighbours of the best place.
    fn refine(&self, shape: Shape, bases: &[Basis], best: usize, value: &DVector<f64>) -> Basis {
        let golden = (5f64.sqrt() - 1.0) / 2.0;
        let (mut low, mut high) =
            (bases[best.saturating_sub(1)].c, bases[(best + 1).min(bases.len() - 1)].c);
        let residual =
            |c: f64| self.basis(shape, c).map_or(f64::INFINITY, |one| one.residual(value));
        for _ in 0..60 {
            let (a, b) = (high - golden * (high - low), low + golden * (high - low));
            if residual(a) <= residual(b) { high = b } else { low = a }
        }
        let found = self.basis(shape, (low + high) / 2.0);
        match found {
            Some(found) if found.residual(value) < bases[best].residual(value) => found,
            _ => bases[best].clone(),
        }
    }

    /// The largest n at which a curve of this shape can be seen to have levelled off: one point
    /// beyond the break of a segmented curve shows no level.
    fn latest(&self, shape: Shape) -> f64 {
        let latest = if shape == Shape::Segmented { self.last_but_one } else { self.last };
        latest * (1.0 + 1e-9)
    }

    /// The places of c that the data do not reject, first and last: those whose residual is within
    /// the quantile of the best.
    fn supported(&self, fit: &Fit, confidence: f64) -> Option<(f64, f64)> {
        let level = 0.5 + confidence / 2.0;
        let left = self.series.n.len() as f64 - fit.parameters.len() as f64;
        let allowed = match &self.errors {
            Some(_) => normal_quantile(level).powi(2),
            None => student_quantile(level, left).powi(2) * fit.residual / left,
        };
        let value = self.whiten(self.series.value.clone());
        let held = |c: f64| {
            let basis = self.basis(fit.shape, c);
            basis.is_some_and(|one| one.residual(&value) <= fit.residual + allowed)
        };
        let places = self.places(fit.shape);
        // The fit itself is held, and may lie between two places that are not.
        let own = fit.parameters.get(2).copied()?;
        let first = places.iter().position(|&c| c >= own || held(c))?;
        let last = places.iter().rposition(|&c| c <= own || held(c))?;
        let edge = |inside: f64, outside: Option<&f64>| {
            outside.map_or(inside, |&outside| bisect(inside, outside, held))
        };
        let low = edge(places[first].min(own), first.checked_sub(1).and_then(|at| places.get(at)));
        let high = edge(places[last].max(own), places.get(last + 1));
        Some((low, high))
    }
}

/// Where `held` ends between a place inside and one outside.
fn bisect(mut inside: f64, mut outside: f64, held: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..40 {
        let middle = (inside + outside) / 2.0;
        if held(middle) { inside = middle } else { outside = middle }
    }
    inside
}

fn cholesky(matrix: &[Vec<f64>], points: usize) -> Outcome<Cholesky<f64, Dyn>> {
    same_length("points and rows of their covariance", points, matrix.len())?;
    for row in matrix {
        same_length("points and columns of their covariance", points, row.len())?;
        finite(row)?;
    }
    let mut matrix = DMatrix::from_fn(points, points, |row, column| matrix[row][column]);
    // Covariances from few runs can be singular; a trace of independent error makes them usable.
    let trace = 1e-6 * matrix.trace() / points as f64;
    for at in 0..points {
        matrix[(at, at)] += trace;
    }
    Cholesky::new(matrix).ok_or(Unavailable::AllEqual)
}

/// Level and rise of a curve at the points, in units of standard errors; the rise is taken at right
/// angles to the level.
#[derive(Clone)]
pub(crate) struct Basis {
    pub c: f64,
    level: DVector<f64>,
    length: f64,
    rise: DVector<f64>,
    square: f64,
    along: f64,
}

impl Basis {
    /// a and b.
    pub fn solve(&self, value: &DVector<f64>) -> (f64, f64) {
        let b = if self.square > 0.0 { self.rise.dot(value) / self.square } else { 0.0 };
        ((self.level.dot(value) - b * self.along) / self.length, b)
    }

    fn residual(&self, value: &DVector<f64>) -> f64 {
        (value.norm_squared() - self.explained(value)).max(0.0)
    }

    fn explained(&self, value: &DVector<f64>) -> f64 {
        let rise = self.rise.dot(value);
        let of_rise = if self.square > 0.0 { rise * rise / self.square } else { 0.0 };
        self.level.dot(value).powi(2) + of_rise
    }
}

/// The basis that explains most; the first of those.
fn best(bases: &[Basis], value: &DVector<f64>) -> Option<usize> {
    let explained: Vec<f64> = bases.iter().map(|basis| basis.explained(value)).collect();
    (0..bases.len()).reduce(|a, b| if explained[b] > explained[a] { b } else { a })
}

/// Refits some draws of a series in one shape: a, b and c of each.
pub(crate) fn refit(
    series: &Series,
    shape: Shape,
    draws: &[Vec<f64>],
    which: &[usize],
) -> Outcome<Vec<Vec<f64>>> {
    let prepared = Prepared::new(series)?;
    same_length("n and their draws", series.n.len(), draws.len())?;
    let bases = prepared.bases(shape);
    let one = |&draw: &usize| {
        let value = prepared.whiten(draws.iter().map(|values| values[draw]).collect());
        let basis = &bases[best(&bases, &value).ok_or(Unavailable::AllEqual)?];
        let (a, b) = basis.solve(&value);
        Ok([a, b, basis.c][..shape.parameters()].to_vec())
    };
    which.iter().map(one).collect()
}

/// Fits one shape.
///
/// # Errors
/// Too few points: a curve of p parameters needs p of them where their errors are known, p + 3
/// otherwise. No n above 0, an n twice, values that are not finite, a covariance that does not fit.
pub fn fit(series: &Series, shape: Shape) -> Outcome<Fit> {
    Prepared::new(series)?.fit(shape)
}

/// Fits all shapes and takes the one with the smallest criterion; the simplest of equals, and the
/// constant where errors are known and no change with n is told apart from none.
///
/// # Errors
/// As [`fit`], where no shape can be fitted.
pub fn choose(series: &Series) -> Outcome<Choice> {
    let prepared = Prepared::new(series)?;
    let (mut fits, mut left_out) = (Vec::new(), Vec::new());
    for shape in SHAPES {
        match prepared.fit(shape) {
            Ok(fit) => fits.push(fit),
            Err(reason) => left_out.push((shape, reason)),
        }
    }
    let smaller = |a: Fit, b: Fit| if b.criterion < a.criterion { b } else { a };
    let Some(mut best) = fits.iter().cloned().reduce(smaller) else {
        return Err(left_out.swap_remove(0).1);
    };
    let weight = |fit: &Fit| ((best.criterion - fit.criterion) / 2.0).exp();
    let total: f64 = fits.iter().map(weight).sum();
    let fits: Vec<(Fit, f64)> = fits.iter().map(|fit| (fit.clone(), weight(fit) / total)).collect();
    if prepared.errors.is_some()
        && let Some(flat) = flat(&fits)
    {
        best = flat.clone();
    }
    Ok(Choice { fits, best, left_out })
}

/// The constant, where no other shape is better by a likelihood-ratio test, Bonferroni's share of
/// the level each.
fn flat(fits: &[(Fit, f64)]) -> Option<&Fit> {
    let (constant, others) = fits.split_first()?;
    let level = ALPHA / others.len().max(1) as f64;
    let better = |(fit, _): &(Fit, f64)| {
        let gained = constant.0.residual - fit.residual;
        gained > chi_squared_quantile(1.0 - level, fit.parameters.len() as f64 - 1.0)
    };
    let none = constant.0.shape == Shape::Constant && !others.iter().any(better);
    none.then_some(&constant.0)
}

/// From where on more data stop helping, by the chosen shape; the interval spans every levelling
/// shape within 4 of the best criterion, and has no upper end where a shape that goes on rising is
/// within 4 as well.
///
/// # Errors
/// As [`fit`], and a confidence outside of 0 to 1.
pub fn levels_off(series: &Series, choice: &Choice, confidence: f64) -> Outcome<LevelsOff> {
    probability("a confidence", confidence)?;
    let prepared = Prepared::new(series)?;
    let last = prepared.last;
    let at = |fit: &Fit| fit.parameters.get(2).map(|&c| fit.shape.level_at(c));
    let n = match choice.best.shape {
        Shape::Constant => return Ok(LevelsOff::Flat),
        Shape::LogLinear => return Ok(LevelsOff::NotWithinGrid { last }),
        Shape::Saturating | Shape::Segmented => at(&choice.best).unwrap_or(f64::INFINITY),
    };
    if n > prepared.latest(choice.best.shape) {
        return Ok(LevelsOff::NotWithinGrid { last });
    }
    let (mut low, mut high) = (n, Some(n));
    let supported = choice
        .fits
        .iter()
        .map(|(fit, _)| fit)
        .filter(|fit| fit.criterion - choice.best.criterion <= SUPPORTED);
    for fit in supported {
        match fit.shape {
            Shape::Constant => {}
            Shape::LogLinear => high = None,
            Shape::Saturating | Shape::Segmented => {
                let Some((from, to)) = prepared.supported(fit, confidence) else { continue };
                low = low.min(fit.shape.level_at(from));
                let to = fit.shape.level_at(to);
                let within = to <= prepared.latest(fit.shape);
                high = high.filter(|_| within).map(|high| high.max(to));
            }
        }
    }
    Ok(LevelsOff::At { n, low, high })
}
