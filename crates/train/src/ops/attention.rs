//! Causal attention with grouped queries over packed documents, forward and backward. Softmax is
//! kept as its log-sum-exp alone and recomputed in the backward pass (Dao et al., FlashAttention,
//! arXiv 2205.14135). On the CPU one task takes one document and one key and value head with the
//! group of query heads that share it, so that all it writes is its own; inside, blocks of queries
//! meet all keys before them, which a short document's scores allow to stand in cache.

use std::cell::RefCell;
use std::ops::Range;

use super::matmul::{Target, View, product};
use super::split::{self, Shared};
use super::{Heads, SavedAttention, simd};

/// Queries of one block.
const QUERIES: usize = 64;

thread_local! {
    /// Scores and their gradients of one block of queries; kept from task to task.
    static SCRATCH: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// Where one task's heads stand in a row of `qkv` or of the output.
#[derive(Clone, Copy)]
struct Place {
    /// First row of the document.
    start: usize,
    /// Tokens of the document.
    len: usize,
    /// Key and value head.
    head: usize,
    heads: Heads,
}

impl Place {
    /// Columns of `qkv` where query head `member` of the group, the key head and the value head
    /// begin.
    fn columns(self, member: usize) -> [usize; 3] {
        let Heads { queries, key_values, size } = self.heads;
        [self.query_head(member), queries + self.head, queries + key_values + self.head]
            .map(|head| head * size)
    }

    fn query_head(self, member: usize) -> usize {
        self.head * self.heads.group() + member
    }

    /// A head's rows of a matrix of `width` columns, from query or key `first` of the document on.
    fn view(self, data: &[f32], width: usize, column: usize, first: usize) -> View<'_> {
        View::rows(data, width).from(self.start + first, column)
    }

    /// The same as a target for `rows` rows.
    fn target(
        self,
        memory: Shared<'_>,
        width: usize,
        column: usize,
        rows: Range<usize>,
    ) -> Target<'_> {
        let start = (self.start + rows.start) * width + column;
        Target { memory, start, row_stride: width, rows: rows.len(), columns: self.heads.size }
    }
}

/// Calls `task` for each document and key and value head.
fn for_each_place(documents: &[u32], heads: Heads, task: impl Fn(Place) + Sync + Send) {
    let count = documents.len().saturating_sub(1);
    let cost: usize =
        documents.windows(2).map(|d| ((d[1] - d[0]) as usize).pow(2) * heads.query_width()).sum();
    split::for_each(count * heads.key_values, cost, |i| {
        let (start, end) = (
            documents[i / heads.key_values] as usize,
            documents[i / heads.key_values + 1] as usize,
        );
        task(Place { start, len: end - start, head: i % heads.key_values, heads });
    });
}

/// out = softmax(q kᵀ / √D, causal) v; `log_sums` `[rows, H]` gets the log of each softmax's
/// denominator.
pub fn forward(
    out: &mut [f32],
    log_sums: &mut [f32],
    qkv: &[f32],
    documents: &[u32],
    heads: Heads,
) {
    let (out, log_sums) = (Shared::new(out), Shared::new(log_sums));
    for_each_place(documents, heads, |place| {
        SCRATCH.with_borrow_mut(|[scores, _]| {
            for member in 0..heads.group() {
                for first in (0..place.len).step_by(QUERIES) {
                    let queries = first..(first + QUERIES).min(place.len);
                    forward_block(place, member, queries, qkv, scores, [out, log_sums]);
                }
            }
        });
    });
}

/// One block of queries of one head against the keys up to the block's end.
fn forward_block(
    place: Place,
    member: usize,
    queries: Range<usize>,
    qkv: &[f32],
    scores: &mut Vec<f32>,
    [out, log_sums]: [Shared; 2],
) {
    let (heads, width, keys) = (place.heads, place.heads.qkv_width(), queries.end);
    let [q, _, v] = place.columns(member);
    block_scores(place, member, queries.clone(), qkv, scores);
    for (i, row) in scores.chunks_exact_mut(keys).enumerate() {
        let (seen, hidden) = row.split_at_mut(queries.start + i + 1);
        let largest = simd::row_max(seen);
        let sum = simd::exp_minus_and_sum(seen, largest);
        simd::scale(seen, 1.0 / sum);
        hidden.fill(0.0);
        let at = (place.start + queries.start + i) * heads.queries + place.query_head(member);
        // SAFETY: this row and head are this task's alone.
        unsafe { log_sums.part(at..at + 1)[0] = largest + sum.ln() };
    }
    let target = place.target(out, heads.query_width(), q, queries);
    // SAFETY: these rows and columns of the output are this task's alone.
    unsafe {
        product(target, View::rows(scores, keys), place.view(qkv, width, v, 0), keys, 1.0, false)
    };
}

/// scores `[queries, keys]` = q kᵀ / √D.
fn block_scores(
    place: Place,
    member: usize,
    queries: Range<usize>,
    qkv: &[f32],
    scores: &mut Vec<f32>,
) {
    let (heads, width, keys) = (place.heads, place.heads.qkv_width(), queries.end);
    let [q, k, _] = place.columns(member);
    let (q, k) =
        (place.view(qkv, width, q, queries.start), place.view(qkv, width, k, 0).transposed());
    fill_product(scores, [queries.len(), keys, heads.size], q, k, heads.scale());
}

/// memory = factor · a · b, as a whole matrix of its own.
fn fill_product(
    memory: &mut Vec<f32>,
    [rows, columns, depth]: [usize; 3],
    a: View,
    b: View,
    factor: f32,
) {
    memory.resize(rows * columns, 0.0);
    let target =
        Target { memory: Shared::new(memory), start: 0, row_stride: columns, rows, columns };
    // SAFETY: the memory is borrowed by this function alone.
    unsafe { product(target, a, b, depth, factor, false) };
}

/// dqkv from dout.
pub fn backward(
    dqkv: &mut [f32],
    dout: &[f32],
    saved: SavedAttention<[f32]>,
    documents: &[u32],
    heads: Heads,
) {
    let (width, size) = (heads.qkv_width(), heads.size);
    let dqkv = Shared::new(dqkv);
    for_each_place(documents, heads, |place| {
        let [_, k, v] = place.columns(0);
        for row in place.start..place.start + place.len {
            for column in [k, v] {
                // SAFETY: these rows and columns of the gradient are this task's alone.
                unsafe { dqkv.part(row * width + column..row * width + column + size).fill(0.0) };
            }
        }
        SCRATCH.with_borrow_mut(|scratch| {
            for member in 0..heads.group() {
                for first in (0..place.len).step_by(QUERIES) {
                    let queries = first..(first + QUERIES).min(place.len);
                    backward_block(place, member, queries, dout, saved, scratch, dqkv);
                }
            }
        });
    });
}

/// One block of queries of one head: writes its dq, adds to dk and dv of the keys that it meets.
fn backward_block(
    place: Place,
    member: usize,
    queries: Range<usize>,
    dout: &[f32],
    saved: SavedAttention<[f32]>,
    [scores, dscores]: &mut [Vec<f32>; 2],
    dqkv: Shared,
) {
    let (heads, keys, count) = (place.heads, queries.end, queries.len());
    let (width, out_width) = (heads.qkv_width(), heads.query_width());
    let [q, k, v] = place.columns(member);
    let dout_view = place.view(dout, out_width, q, queries.start);
    block_scores(place, member, queries.clone(), saved.qkv, scores);
    let values = place.view(saved.qkv, width, v, 0).transposed();
    fill_product(dscores, [count, keys, heads.size], dout_view, values, 1.0);
    for i in 0..count {
        let row = place.start + queries.start + i;
        let at = row * out_width + q;
        let delta = row_dot(&dout[at..at + heads.size], &saved.out[at..at + heads.size]);
        let log_sum = saved.log_sums[row * heads.queries + place.query_head(member)];
        let (p, p_hidden) = scores[i * keys..(i + 1) * keys].split_at_mut(queries.start + i + 1);
        let (ds, ds_hidden) = dscores[i * keys..(i + 1) * keys].split_at_mut(queries.start + i + 1);
        softmax_backward(p, ds, log_sum, delta, heads.scale());
        p_hidden.fill(0.0);
        ds_hidden.fill(0.0);
    }
    let (p, ds) = (View::rows(scores, keys), View::rows(dscores, keys));
    // SAFETY: these rows and columns of the gradient are this task's alone, and the three parts do
    // not overlap.
    unsafe {
        let q_rows = place.view(saved.qkv, width, q, queries.start);
        product(place.target(dqkv, width, v, 0..keys), p.transposed(), dout_view, count, 1.0, true);
        product(place.target(dqkv, width, k, 0..keys), ds.transposed(), q_rows, count, 1.0, true);
        product(
            place.target(dqkv, width, q, queries),
            ds,
            place.view(saved.qkv, width, k, 0),
            keys,
            1.0,
            false,
        );
    }
}

simd::simd! {
    /// x · y.
    fn row_dot(x: &[f32], y: &[f32]) -> f32 {
        simd::dot(x, y)
    }
}

simd::simd! {
    /// Scores become probabilities, d probabilities become d (q · k).
    fn softmax_backward(p: &mut [f32], ds: &mut [f32], log_sum: f32, delta: f32, scale: f32) {
        for (p, ds) in p.iter_mut().zip(ds) {
            *p = simd::exp(*p - log_sum);
            *ds = *p * (*ds - delta) * scale;
        }
    }
}

/// The plain form: each query against each key before it.
pub mod reference {
    use super::super::{Heads, SavedAttention};

    /// Softmax of one query's scores, and where the heads' columns begin.
    fn probabilities(
        qkv: &[f32],
        start: usize,
        row: usize,
        head: usize,
        heads: Heads,
    ) -> (Vec<f32>, f32, [usize; 3]) {
        let (width, size) = (heads.qkv_width(), heads.size);
        let shared = head / heads.group();
        let [q, k, v] = [head, heads.queries + shared, heads.queries + heads.key_values + shared]
            .map(|h| h * size);
        let score = |key: usize| {
            (0..size).map(|d| qkv[row * width + q + d] * qkv[key * width + k + d]).sum::<f32>()
                * heads.scale()
        };
        let scores: Vec<f32> = (start..=row).map(score).collect();
        let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let log_sum = largest + scores.iter().map(|s| (s - largest).exp()).sum::<f32>().ln();
        (scores.iter().map(|s| (s - log_sum).exp()).collect(), log_sum, [q, k, v])
    }

    /// See [`super::forward`].
    pub fn forward(
        out: &mut [f32],
        log_sums: &mut [f32],
        qkv: &[f32],
        documents: &[u32],
        heads: Heads,
    ) {
        let (width, size) = (heads.qkv_width(), heads.size);
        for ends in documents.windows(2) {
            for row in ends[0] as usize..ends[1] as usize {
                for head in 0..heads.queries {
                    let (p, log_sum, [_, _, v]) =
                        probabilities(qkv, ends[0] as usize, row, head, heads);
                    log_sums[row * heads.queries + head] = log_sum;
                    for d in 0..size {
                        let values = p
                            .iter()
                            .zip(ends[0] as usize..)
                            .map(|(p, key)| p * qkv[key * width + v + d]);
                        out[row * heads.query_width() + head * size + d] = values.sum();
                    }
                }
            }
        }
    }

    /// See [`super::backward`].
    pub fn backward(
        dqkv: &mut [f32],
        dout: &[f32],
        saved: SavedAttention<[f32]>,
        documents: &[u32],
        heads: Heads,
    ) {
        let (width, size, qkv) = (heads.qkv_width(), heads.size, saved.qkv);
        dqkv.fill(0.0);
        for ends in documents.windows(2) {
            for row in ends[0] as usize..ends[1] as usize {
                for head in 0..heads.queries {
                    let (p, _, [q, k, v]) = probabilities(qkv, ends[0] as usize, row, head, heads);
                    let dout = &dout[row * heads.query_width() + head * size..][..size];
                    let dp = |key: usize| {
                        (0..size).map(|d| dout[d] * qkv[key * width + v + d]).sum::<f32>()
                    };
                    let delta: f32 =
                        p.iter().zip(ends[0] as usize..).map(|(p, key)| p * dp(key)).sum();
                    for (p, key) in p.iter().zip(ends[0] as usize..) {
                        let ds = p * (dp(key) - delta) * heads.scale();
                        for d in 0..size {
                            dqkv[key * width + v + d] += p * dout[d];
                            dqkv[row * width + q + d] += ds * qkv[key * width + k + d];
                            dqkv[key * width + k + d] += ds * qkv[row * width + q + d];
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, assert_gradient, bits, on_threads, random};
    use super::*;

    const CASES: [(Heads, &[u32]); 4] = [
        (Heads { queries: 1, key_values: 1, size: 2 }, &[0, 1]),
        (Heads { queries: 4, key_values: 2, size: 6 }, &[0, 3, 4, 70, 75]),
        (Heads { queries: 3, key_values: 3, size: 16 }, &[0, 130, 193]),
        (Heads { queries: 6, key_values: 1, size: 32 }, &[0, 64, 128]),
    ];

    struct Run {
        out: Vec<f32>,
        log_sums: Vec<f32>,
        dqkv: Vec<f32>,
    }

    fn run(qkv: &[f32], dout: &[f32], documents: &[u32], heads: Heads, plain: bool) -> Run {
        let rows = qkv.len() / heads.qkv_width();
        let (mut out, mut log_sums) =
            (vec![f32::NAN; rows * heads.query_width()], vec![f32::NAN; rows * heads.queries]);
        let mut dqkv = vec![f32::NAN; qkv.len()];
        let forward = if plain { reference::forward } else { forward };
        let backward = if plain { reference::backward } else { backward };
        forward(&mut out, &mut log_sums, qkv, documents, heads);
        let saved = SavedAttention { qkv, out: &out[..], log_sums: &log_sums[..] };
        backward(&mut dqkv, dout, saved, documents, heads);
        Run { out, log_sums, dqkv }
    }

    fn input(heads: Heads, documents: &[u32]) -> (Vec<f32>, Vec<f32>) {
        let rows = *documents.last().unwrap() as usize;
        let qkv = random(1, rows * heads.qkv_width()).iter().map(|x| 3.0 * x).collect();
        (qkv, random(2, rows * heads.query_width()))
    }

    #[test]
    fn forward_and_backward_agree_with_the_reference() {
        for (heads, documents) in CASES {
            let (qkv, dout) = input(heads, documents);
            let (fast, plain) = (
                run(&qkv, &dout, documents, heads, false),
                run(&qkv, &dout, documents, heads, true),
            );
            assert_close(&fast.out, &plain.out, 1e-5);
            assert_close(&fast.log_sums, &plain.log_sums, 1e-5);
            assert_close(&fast.dqkv, &plain.dqkv, 1e-5);
        }
    }

    #[test]
    fn gradient_is_that_of_finite_differences() {
        let (heads, documents) = (Heads { queries: 4, key_values: 2, size: 4 }, &[0, 3, 8]);
        let (qkv, dout) = input(heads, documents);
        let found = run(&qkv, &dout, documents, heads, false).dqkv;
        assert_gradient(&found, &qkv, &dout, |qkv| run(qkv, &dout, documents, heads, true).out);
    }

    #[test]
    fn one_and_two_threads_give_the_same_bits() {
        let (heads, documents) = CASES[1];
        let (qkv, dout) = input(heads, documents);
        let once = || {
            let Run { out, dqkv, .. } = run(&qkv, &dout, documents, heads, false);
            (bits(&out), bits(&dqkv))
        };
        assert_eq!(on_threads(1, once), on_threads(2, once));
    }

    #[test]
    fn a_document_does_not_see_its_neighbours() {
        let heads = Heads { queries: 2, key_values: 1, size: 8 };
        let (qkv, dout) = input(heads, &[0, 40]);
        let together = run(&qkv, &dout, &[0, 10, 40], heads, false).out;
        let alone =
            run(&qkv[10 * heads.qkv_width()..], &dout[10 * 16..], &[0, 30], heads, false).out;
        assert_eq!(bits(&together[10 * 16..]), bits(&alone));
    }
}
