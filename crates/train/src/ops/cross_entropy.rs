//! The head and its loss in one: logits = hidden · headᵀ, scaled (Cohere) and capped (Gemma) where a
//! family does that, loss = −log softmax(logits)[target], and the gradient d logits = softmax −
//! onehot, which turns at once into d hidden and d head. Logits stand for a chunk of rows at a time
//! (as in Hsu et al., Liger Kernel, arXiv 2410.10989). Rows that do not count are not given to this
//! operation, so they cost nothing.

use std::cell::RefCell;
use std::ops::Range;

use super::matmul;
use super::split::{self, Shared};
use super::{HeadGradient, HeadShape, LinearShape, LogitRule, Plus, simd};

/// The target of a row that has no loss and no gradient: one that only fills up a number of rows.
pub const IGNORED: u32 = u32::MAX;

/// Logits that stand at a time, at most: 96 MB.
const LOGITS: usize = 24 << 20;
/// Rows that a chunk has at most; few enough that a small vocabulary's logits stay in cache.
const ROWS: usize = 256;

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Calls `work` with room for so many logits, which the thread keeps.
fn with_logits(len: usize, work: impl FnOnce(&mut [f32])) {
    // Taken and not borrowed: while it waits for others, a thread may begin with another run's loss.
    let mut logits = SCRATCH.take();
    logits.resize(logits.len().max(len), 0.0);
    work(&mut logits[..len]);
    SCRATCH.set(logits);
}

/// Most rows of a chunk.
fn most(vocab: usize) -> usize {
    (LOGITS / vocab).clamp(1, ROWS)
}

/// Rows of a chunk: as many as the bounds allow, spread evenly.
fn chunk(rows: usize, vocab: usize) -> usize {
    let most = most(vocab);
    rows.div_ceil(rows.div_ceil(most).max(1)).max(1)
}

/// Losses `[rows]` of hidden `[rows, C]` against targets, and their gradient.
pub fn head_loss(
    losses: &mut [f32],
    hidden: &[f32],
    head: &[f32],
    targets: &[u32],
    mut gradient: Option<HeadGradient<[f32]>>,
    shape: HeadShape,
) {
    let HeadShape { linear: LinearShape { rows, inputs, outputs, .. }, logits: rule } = shape;
    let size = chunk(rows, outputs);
    with_logits(size * outputs, |logits| {
        for first in (0..rows).step_by(size) {
            let range = first..(first + size).min(rows);
            let shape = LinearShape::new(range.len(), inputs, outputs);
            let logits = &mut logits[..range.len() * outputs];
            let values = range.start * inputs..range.end * inputs;
            let hidden = &hidden[values.clone()];
            matmul::forward(logits, hidden, head, Plus::NOTHING, shape);
            let scale = gradient.as_ref().map(|g| g.scale[0]);
            loss_rows(&mut losses[range.clone()], logits, &targets[range], scale, rule);
            if let Some(gradient) = &mut gradient {
                matmul::backward_input(&mut gradient.hidden[values], logits, head, shape, false);
                if let Some(dhead) = gradient.head.as_deref_mut() {
                    matmul::backward_weight(dhead, None, logits, hidden, shape);
                }
            }
        }
    });
}

/// The same of several runs' rows with a head that is not trained, the rows of each run as it has them
/// alone; `gradient` is the scale of each run and d hidden. Runs of few rows have one chunk for
/// several, so that the head is read once for them.
pub fn head_loss_of_runs(
    losses: &mut [f32],
    hidden: &[f32],
    head: &[f32],
    targets: &[u32],
    mut gradient: Option<(&[f32], &mut [f32])>,
    shape: HeadShape,
    runs: &[Range<usize>],
) {
    let HeadShape { linear: LinearShape { inputs, outputs, .. }, .. } = shape;
    let mut first = 0;
    while first < runs.len() {
        let start = runs[first].start;
        let fits = |run: &&Range<usize>| run.end - start <= most(outputs);
        let count = runs[first..].iter().take_while(fits).count().max(1);
        let part = &runs[first..first + count];
        let rows = start..part[count - 1].end;
        let of_part = HeadShape { linear: LinearShape::new(rows.len(), inputs, outputs), ..shape };
        let values = rows.start * inputs..rows.end * inputs;
        let hidden = &hidden[values.clone()];
        let (losses, targets) = (&mut losses[rows.clone()], &targets[rows]);
        let mut gradient = gradient
            .as_mut()
            .map(|(scales, dhidden)| (&scales[first..first + count], &mut dhidden[values]));
        if count == 1 {
            let gradient =
                gradient.map(|(scale, hidden)| HeadGradient { scale, hidden, head: None });
            head_loss(losses, hidden, head, targets, gradient, of_part);
        } else {
            let part = part.iter().map(|run| run.start - start..run.end - start);
            let part: Vec<Range<usize>> = part.collect();
            chunk_of_runs(losses, hidden, head, targets, gradient.as_mut(), of_part, &part);
        }
        first += count;
    }
}

/// One chunk, of several runs.
fn chunk_of_runs(
    losses: &mut [f32],
    hidden: &[f32],
    head: &[f32],
    targets: &[u32],
    gradient: Option<&mut (&[f32], &mut [f32])>,
    HeadShape { linear, logits: rule }: HeadShape,
    runs: &[Range<usize>],
) {
    let LinearShape { rows, outputs, .. } = linear;
    with_logits(rows * outputs, |logits| {
        matmul::forward_of_runs(logits, hidden, head, Plus::NOTHING, linear, runs);
        for (r, run) in runs.iter().enumerate().filter(|(_, run)| !run.is_empty()) {
            let scale = gradient.as_ref().map(|(scales, _)| scales[r]);
            let logits = &mut logits[run.start * outputs..run.end * outputs];
            loss_rows(&mut losses[run.clone()], logits, &targets[run.clone()], scale, rule);
        }
        if let Some((_, dhidden)) = gradient {
            matmul::backward_input_of_runs(dhidden, logits, head, linear, false, runs);
        }
    });
}

/// The losses of a chunk; with a scale, products become the gradient of theirs.
fn loss_rows(
    losses: &mut [f32],
    logits: &mut [f32],
    targets: &[u32],
    scale: Option<f32>,
    rule: LogitRule,
) {
    let outputs = logits.len() / targets.len();
    let losses = Shared::new(losses);
    split::for_each_rows(logits, outputs, |range, logits| {
        // SAFETY: each block of rows is one task's.
        let losses = unsafe { losses.part(range.clone()) };
        let mut slopes = Vec::new();
        for ((logits, &target), loss) in
            logits.chunks_exact_mut(outputs).zip(&targets[range]).zip(losses)
        {
            if target == IGNORED {
                *loss = 0.0;
                logits.fill(0.0);
                continue;
            }
            rule.apply(logits);
            if let (Some(cap), Some(_)) = (rule.softcap, scale) {
                slopes.clear();
                slopes.extend_from_slice(logits);
                cap_slopes(&mut slopes, cap);
            }
            let largest = simd::row_max(logits);
            let at_target = logits[target as usize] - largest;
            let sum = simd::exp_minus_and_sum(logits, largest);
            *loss = sum.ln() - at_target;
            if let Some(scale) = scale.map(|scale| scale * rule.scale) {
                simd::scale(logits, scale / sum);
                logits[target as usize] -= scale;
                if rule.softcap.is_some() {
                    multiply(logits, &slopes);
                }
            }
        }
    });
}

impl LogitRule {
    /// Products become logits.
    pub fn apply(self, products: &mut [f32]) {
        if self.scale != 1.0 {
            simd::scale(products, self.scale);
        }
        if let Some(cap) = self.softcap {
            simd::soft_cap(products, cap);
        }
    }
}

simd::simd! {
    /// Capped values c become the cap's slope there, 1 − (c / cap)².
    fn cap_slopes(x: &mut [f32], cap: f32) {
        for x in x {
            *x = 1.0 - (*x / cap) * (*x / cap);
        }
    }
}

simd::simd! {
    /// y_i *= x_i.
    fn multiply(y: &mut [f32], x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y *= x;
        }
    }
}

/// The plain form: all logits at once.
pub mod reference {
    use super::super::matmul::reference as matmul;
    use super::{HeadGradient, HeadShape, IGNORED, Plus};

    /// See [`super::head_loss`].
    pub fn head_loss(
        losses: &mut [f32],
        hidden: &[f32],
        head: &[f32],
        targets: &[u32],
        gradient: Option<HeadGradient<[f32]>>,
        HeadShape { linear: shape, logits: rule }: HeadShape,
    ) {
        let outputs = shape.outputs;
        let mut logits = vec![0.0; shape.rows * outputs];
        matmul::forward(&mut logits, hidden, head, Plus::NOTHING, shape);
        for (n, logits) in logits.chunks_exact_mut(outputs).enumerate() {
            if targets[n] == IGNORED {
                losses[n] = 0.0;
                logits.fill(0.0);
                continue;
            }
            for logit in &mut *logits {
                *logit *= rule.scale;
                if let Some(cap) = rule.softcap {
                    *logit = cap * (*logit / cap).tanh();
                }
            }
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let log_sum = largest + logits.iter().map(|l| (l - largest).exp()).sum::<f32>().ln();
            losses[n] = log_sum - logits[targets[n] as usize];
            if let Some(gradient) = &gradient {
                for (v, logit) in logits.iter_mut().enumerate() {
                    let onehot = if v == targets[n] as usize { 1.0 } else { 0.0 };
                    let slope =
                        rule.scale * rule.softcap.map_or(1.0, |cap| 1.0 - (*logit / cap).powi(2));
                    *logit = gradient.scale[0] * slope * ((*logit - log_sum).exp() - onehot);
                }
            }
        }
        if let Some(gradient) = gradient {
            matmul::backward_input(gradient.hidden, &logits, head, shape, false);
            if let Some(dhead) = gradient.head {
                matmul::backward_weight(dhead, None, &logits, hidden, shape);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, assert_gradient, bits, on_threads, random};
    use super::*;

    const RULES: [LogitRule; 3] = [
        LogitRule::PLAIN,
        LogitRule { scale: 0.25, softcap: None },
        LogitRule { scale: 1.5, softcap: Some(4.0) },
    ];

    /// Losses, d hidden, d head.
    fn run(
        hidden: &[f32],
        head: &[f32],
        width: usize,
        rule: LogitRule,
        plain: bool,
    ) -> [Vec<f32>; 3] {
        let linear = LinearShape::new(hidden.len() / width, width, head.len() / width);
        let targets: Vec<u32> = (0..linear.rows).map(|i| (i * 7 % linear.outputs) as u32).collect();
        let (mut losses, mut dhidden) = (vec![f32::NAN; linear.rows], vec![f32::NAN; hidden.len()]);
        let mut dhead = vec![0.0; head.len()];
        let head_loss = if plain { reference::head_loss } else { head_loss };
        let gradient = HeadGradient {
            scale: &[0.5][..],
            hidden: &mut dhidden[..],
            head: Some(&mut dhead[..]),
        };
        let shape = HeadShape { linear, logits: rule };
        head_loss(&mut losses, hidden, head, &targets, Some(gradient), shape);
        [losses, dhidden, dhead]
    }

    #[test]
    fn agrees_with_the_reference_over_several_chunks() {
        for (rows, width, vocab) in [(1, 3, 2), (70, 9, 101), (600, 17, 33)] {
            let hidden: Vec<f32> = random(1, rows * width).iter().map(|x| 5.0 * x).collect();
            let head = random(2, vocab * width);
            for rule in RULES {
                let [fast, plain] =
                    [false, true].map(|plain| run(&hidden, &head, width, rule, plain));
                for (fast, plain) in fast.iter().zip(&plain) {
                    assert_close(fast, plain, 1e-5);
                }
            }
        }
    }

    #[test]
    fn loss_of_equal_logits_is_the_log_of_the_vocabulary() {
        for rule in RULES {
            let [losses, ..] = run(&[0.0; 6], &random(1, 50 * 3), 3, rule, false);
            assert_close(&losses, &[50f32.ln(); 2], 1e-6);
        }
    }

    #[test]
    fn a_capped_logit_never_passes_its_cap() {
        let mut logits = [0.0, 1.0, -1e6, 1e6];
        RULES[2].apply(&mut logits);
        assert_close(&logits, &[0.0, 4.0 * (1.5f32 / 4.0).tanh(), -4.0, 4.0], 1e-6);
    }

    #[test]
    fn a_frozen_head_gets_no_gradient_and_hidden_the_same() {
        let (hidden, head) = (random(1, 4 * 3), random(2, 5 * 3));
        let [_, expected, _] = run(&hidden, &head, 3, RULES[0], false);
        let (mut losses, mut dhidden) = ([0.0; 4], [f32::NAN; 12]);
        let shape = HeadShape { linear: LinearShape::new(4, 3, 5), logits: RULES[0] };
        let gradient = HeadGradient { scale: &[0.5][..], hidden: &mut dhidden[..], head: None };
        head_loss(&mut losses, &hidden, &head, &[0, 2, 4, 1], Some(gradient), shape);
        assert_eq!(bits(&dhidden), bits(&expected));
    }

    #[test]
    fn runs_end_to_end_get_the_bits_that_each_gets_alone() {
        // Few rows and none, which share a chunk, and more than a chunk has.
        let runs = [0..5, 5..5, 5..36, 36..336, 336..340, 340..352];
        for (width, vocab) in [(9, 101), (600, 130), (40, 1000)] {
            let (hidden, head) = (random(1, 352 * width), random(2, vocab * width));
            let targets: Vec<u32> = (0..352).map(|i| (i * 7 % vocab) as u32).collect();
            let scales: Vec<f32> = (1..=runs.len()).map(|r| 0.5 / r as f32).collect();
            let shape = HeadShape { linear: LinearShape::new(352, width, vocab), logits: RULES[2] };
            let (mut losses, mut dhidden) = (vec![f32::NAN; 352], vec![f32::NAN; 352 * width]);
            let gradient = Some((&scales[..], &mut dhidden[..]));
            head_loss_of_runs(&mut losses, &hidden, &head, &targets, gradient, shape, &runs);
            for (run, scale) in runs.iter().zip(scales.chunks(1)) {
                let values = run.start * width..run.end * width;
                let linear = LinearShape { rows: run.len(), ..shape.linear };
                let (mut own, mut down) = (vec![0.0; run.len()], vec![0.0; values.len()]);
                let gradient = HeadGradient { scale, hidden: &mut down[..], head: None };
                let (targets, shape) = (&targets[run.clone()], HeadShape { linear, ..shape });
                head_loss(&mut own, &hidden[values.clone()], &head, targets, Some(gradient), shape);
                assert_eq!(bits(&own), bits(&losses[run.clone()]), "{run:?}");
                assert_eq!(bits(&down), bits(&dhidden[values]), "{run:?}");
            }
        }
    }

    #[test]
    fn an_ignored_row_has_no_loss_and_adds_nothing_to_any_gradient() {
        let (hidden, head) = (random(1, 4 * 3), random(2, 5 * 3));
        let linear = LinearShape::new(4, 3, 5);
        for head_loss in [head_loss, reference::head_loss] {
            let run = |rows: usize, targets: &[u32]| {
                let (mut losses, mut dhidden, mut dhead) =
                    ([f32::NAN; 4], [f32::NAN; 12], [0.0; 15]);
                let gradient = HeadGradient {
                    scale: &[0.5][..],
                    hidden: &mut dhidden[..],
                    head: Some(&mut dhead[..]),
                };
                let shape = HeadShape { linear: LinearShape { rows, ..linear }, logits: RULES[2] };
                head_loss(&mut losses, &hidden, &head, targets, Some(gradient), shape);
                (losses, dhidden, dhead)
            };
            let (losses, dhidden, dhead) = run(4, &[1, 3, IGNORED, IGNORED]);
            let (few, dfew, expected) = run(2, &[1, 3]);
            assert_eq!((&losses[..2], &losses[2..]), (&few[..2], &[0.0; 2][..]));
            assert!(dhidden[6..].iter().all(|&x| x == 0.0) && dhidden[..6] == dfew[..6]);
            assert_close(&dhead, &expected, 1e-6);
        }
    }

    #[test]
    fn gradient_is_that_of_finite_differences() {
        let (hidden, head) = (random(1, 4 * 3), random(2, 5 * 3));
        for rule in RULES {
            let [_, dhidden, dhead] = run(&hidden, &head, 3, rule, false);
            let losses = |hidden: &[f32], head: &[f32]| run(hidden, head, 3, rule, true)[0].clone();
            assert_gradient(&dhidden, &hidden, &[0.5; 4], |hidden| losses(hidden, &head));
            assert_gradient(&dhead, &head, &[0.5; 4], |head| losses(&hidden, head));
        }
    }

    #[test]
    fn chunks_are_even_and_within_bounds() {
        assert_eq!(chunk(2048, 4096), 256);
        assert_eq!(chunk(300, 100), 150);
        assert!(chunk(4096, 151_936) * 151_936 <= LOGITS);
        assert_eq!(chunk(3, usize::MAX), 1);
    }

    #[test]
    fn one_and_two_threads_give_the_same_bits() {
        let (hidden, head) = (random(1, 500 * 40), random(2, 700 * 40));
        let once = || run(&hidden, &head, 40, RULES[2], false).map(|v| bits(&v));
        assert_eq!(on_threads(1, once), on_threads(2, once));
    }
}
