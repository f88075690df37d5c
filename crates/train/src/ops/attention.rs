//! Causal attention with grouped queries over packed documents, forward and backward. Softmax is
//! kept as its log-sum-exp alone and recomputed in the backward pass (Dao et al., FlashAttention,
//! arXiv 2205.14135). On the CPU one task takes one document and one key and value head with the
//! group of query heads that share it, so that all it writes is its own; inside, blocks of queries
//! meet all keys that one of them sees, which a short document's scores allow to stand in cache.
//! Scores may be capped (Gemma 2) and a token may see no further than a window.

use std::cell::RefCell;
use std::ops::Range;

use super::matmul::{Target, View, product};
use super::split::{self, Shared};
use super::{AttentionShape, Heads, SavedAttention, simd};

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
    shape: AttentionShape,
}

impl Place {
    /// Columns of `qkv` where query head `member` of the group, the key head and the value head
    /// begin.
    fn columns(self, member: usize) -> [usize; 3] {
        let Heads { queries, key_values, size } = self.shape.heads;
        [self.query_head(member), queries + self.head, queries + key_values + self.head]
            .map(|head| head * size)
    }

    fn query_head(self, member: usize) -> usize {
        self.head * self.shape.heads.group() + member
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
        Target {
            memory,
            start,
            row_stride: width,
            rows: rows.len(),
            columns: self.shape.heads.size,
        }
    }

    /// Keys of the document that a block of queries sees at all.
    fn keys(self, queries: &Range<usize>) -> Range<usize> {
        self.shape.first_seen(queries.start)..queries.end
    }

    /// Cuts a query's row of scores over `keys` into what it does not see, sees, does not see.
    fn cut<'s>(self, row: &'s mut [f32], query: usize, keys: &Range<usize>) -> [&'s mut [f32]; 3] {
        let (before, rest) = row.split_at_mut(self.shape.first_seen(query) - keys.start);
        let (seen, after) = rest.split_at_mut(query + 1 - keys.start - before.len());
        [before, seen, after]
    }
}

/// Calls `task` for each document and key and value head.
fn for_each_place(documents: &[u32], shape: AttentionShape, task: impl Fn(Place) + Sync + Send) {
    let heads = shape.heads;
    let count = documents.len().saturating_sub(1);
    let cost: usize =
        documents.windows(2).map(|d| ((d[1] - d[0]) as usize).pow(2) * heads.query_width()).sum();
    split::for_each(count * heads.key_values, cost, |i| {
        let (start, end) = (
            documents[i / heads.key_values] as usize,
            documents[i / heads.key_values + 1] as usize,
        );
        task(Place { start, len: end - start, head: i % heads.key_values, shape });
    });
}

/// out = softmax(q kᵀ · scale, causal) v; `log_sums` `[rows, H]` gets the log of each softmax's
/// denominator.
pub fn forward(
    out: &mut [f32],
    log_sums: &mut [f32],
    qkv: &[f32],
    documents: &[u32],
    shape: AttentionShape,
) {
    let (out, log_sums) = (Shared::new(out), Shared::new(log_sums));
    for_each_place(documents, shape, |place| {
        SCRATCH.with_borrow_mut(|[scores, _]| {
            for member in 0..shape.heads.group() {
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
    let (heads, keys) = (place.shape.heads, place.keys(&queries));
    let [q, _, v] = place.columns(member);
    block_scores(place, member, queries.clone(), qkv, scores);
    for (query, row) in queries.clone().zip(scores.chunks_exact_mut(keys.len())) {
        let [before, seen, after] = place.cut(row, query, &keys);
        if let Some(cap) = place.shape.softcap {
            simd::soft_cap(seen, cap);
        }
        let largest = simd::row_max(seen);
        let sum = simd::exp_minus_and_sum(seen, largest);
        simd::scale(seen, 1.0 / sum);
        before.fill(0.0);
        after.fill(0.0);
        let at = (place.start + query) * heads.queries + place.query_head(member);
        // SAFETY: this row and head are this task's alone.
        unsafe { log_sums.part(at..at + 1)[0] = largest + sum.ln() };
    }
    let values = place.view(qkv, heads.qkv_width(), v, keys.start);
    let target = place.target(out, heads.query_width(), q, queries);
    // SAFETY: these rows and columns of the output are this task's alone.
    unsafe { product(target, View::rows(scores, keys.len()), values, keys.len(), 1.0, false) };
}

/// scores `[queries, keys]` = q kᵀ · scale, before the cap.
fn block_scores(
    place: Place,
    member: usize,
    queries: Range<usize>,
    qkv: &[f32],
    scores: &mut Vec<f32>,
) {
    let (AttentionShape { heads, scale, .. }, keys) = (place.shape, place.keys(&queries));
    let (width, [q, k, _]) = (heads.qkv_width(), place.columns(member));
    let (q, k) = (
        place.view(qkv, width, q, queries.start),
        place.view(qkv, width, k, keys.start).transposed(),
    );
    fill_product(scores, [queries.len(), keys.len(), heads.size], q, k, scale);
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
    shape: AttentionShape,
) {
    let (width, size) = (shape.heads.qkv_width(), shape.heads.size);
    let dqkv = Shared::new(dqkv);
    for_each_place(documents, shape, |place| {
        let [_, k, v] = place.columns(0);
        for row in place.start..place.start + place.len {
            for column in [k, v] {
                // SAFETY: these rows and columns of the gradient are this task's alone.
                unsafe { dqkv.part(row * width + column..row * width + column + size).fill(0.0) };
            }
        }
        SCRATCH.with_borrow_mut(|scratch| {
            for member in 0..shape.heads.group() {
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
    let (heads, keys, count) = (place.shape.heads, place.keys(&queries), queries.len());
    let (width, out_width) = (heads.qkv_width(), heads.query_width());
    let [q, k, v] = place.columns(member);
    let dout_view = place.view(dout, out_width, q, queries.start);
    block_scores(place, member, queries.clone(), saved.qkv, scores);
    let values = place.view(saved.qkv, width, v, keys.start).transposed();
    fill_product(dscores, [count, keys.len(), heads.size], dout_view, values, 1.0);
    let rows = scores.chunks_exact_mut(keys.len()).zip(dscores.chunks_exact_mut(keys.len()));
    for (query, (p, ds)) in queries.clone().zip(rows) {
        let row = place.start + query;
        let at = row * out_width + q;
        let delta = row_dot(&dout[at..at + heads.size], &saved.out[at..at + heads.size]);
        let log_sum = saved.log_sums[row * heads.queries + place.query_head(member)];
        let ([p_before, p, p_after], [ds_before, ds, ds_after]) =
            (place.cut(p, query, &keys), place.cut(ds, query, &keys));
        softmax_backward(p, ds, [log_sum, delta], place.shape);
        for unseen in [p_before, p_after, ds_before, ds_after] {
            unseen.fill(0.0);
        }
    }
    let (p, ds) = (View::rows(scores, keys.len()), View::rows(dscores, keys.len()));
    // SAFETY: these rows and columns of the gradient are this task's alone, and the three parts do
    // not overlap.
    unsafe {
        let q_rows = place.view(saved.qkv, width, q, queries.start);
        let k_rows = place.view(saved.qkv, width, k, keys.start);
        let [dk, dv] = [k, v].map(|column| place.target(dqkv, width, column, keys.clone()));
        product(dv, p.transposed(), dout_view, count, 1.0, true);
        product(dk, ds.transposed(), q_rows, count, 1.0, true);
        product(place.target(dqkv, width, q, queries), ds, k_rows, keys.len(), 1.0, false);
    }
}

simd::simd! {
    /// x · y.
    fn row_dot(x: &[f32], y: &[f32]) -> f32 {
        simd::dot(x, y)
    }
}

/// Scores before the cap become probabilities, d probabilities become d (q · k).
fn softmax_backward(p: &mut [f32], ds: &mut [f32], sums: [f32; 2], shape: AttentionShape) {
    match shape.softcap {
        None => plain_backward(p, ds, sums, shape.scale),
        Some(cap) => capped_backward(p, ds, sums, shape.scale, cap),
    }
}

simd::simd! {
    fn plain_backward(p: &mut [f32], ds: &mut [f32], sums: [f32; 2], scale: f32) {
        let [log_sum, delta] = sums;
        for (p, ds) in p.iter_mut().zip(ds) {
            *p = simd::exp(*p - log_sum);
            *ds = *p * (*ds - delta) * scale;
        }
    }
}

simd::simd! {
    fn capped_backward(p: &mut [f32], ds: &mut [f32], sums: [f32; 2], scale: f32, cap: f32) {
        let [log_sum, delta] = sums;
        for (p, ds) in p.iter_mut().zip(ds) {
            let share = simd::tanh(*p / cap);
            *p = simd::exp(cap * share - log_sum);
            *ds = *p * (*ds - delta) * scale * (1.0 - share * share);
        }
    }
}

/// The plain form: each query against each key that it sees.
pub mod reference {
    use super::super::{AttentionShape, SavedAttention};

    /// One query's part: its row, its head, where its document starts.
    struct One<'a> {
        qkv: &'a [f32],
        start: usize,
        row: usize,
        head: usize,
        shape: AttentionShape,
    }

    impl One<'_> {
        /// Columns of q, k and v.
        fn columns(&self) -> [usize; 3] {
            let heads = self.shape.heads;
            let shared = self.head / heads.group();
            [self.head, heads.queries + shared, heads.queries + heads.key_values + shared]
                .map(|h| h * heads.size)
        }

        /// The first key that is seen; the last is the row itself.
        fn first(&self) -> usize {
            self.start + self.shape.first_seen(self.row - self.start)
        }

        /// Score and its slope by q · k, for each key that is seen.
        fn scores(&self) -> Vec<[f32; 2]> {
            let (width, size) = (self.shape.heads.qkv_width(), self.shape.heads.size);
            let ([q, k, _], scale) = (self.columns(), self.shape.scale);
            let score = |key: usize| {
                let dot: f32 = (0..size)
                    .map(|d| self.qkv[self.row * width + q + d] * self.qkv[key * width + k + d])
                    .sum();
                match self.shape.softcap {
                    None => [dot * scale, scale],
                    Some(cap) => {
                        let share = (dot * scale / cap).tanh();
                        [cap * share, scale * (1.0 - share * share)]
                    }
                }
            };
            (self.first()..=self.row).map(score).collect()
        }

        /// Softmax of the scores, and the log of its denominator.
        fn probabilities(&self) -> (Vec<f32>, f32) {
            let scores = self.scores();
            let largest = scores.iter().map(|s| s[0]).fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = scores.iter().map(|s| (s[0] - largest).exp()).sum();
            let log_sum = largest + sum.ln();
            (scores.iter().map(|s| (s[0] - log_sum).exp()).collect(), log_sum)
        }
    }

    /// Calls `task` for each row and query head.
    fn for_each(qkv: &[f32], documents: &[u32], shape: AttentionShape, mut task: impl FnMut(One)) {
        for ends in documents.windows(2) {
            let start = ends[0] as usize;
            for row in start..ends[1] as usize {
                for head in 0..shape.heads.queries {
                    task(One { qkv, start, row, head, shape });
                }
            }
        }
    }

    /// See [`super::forward`].
    pub fn forward(
        out: &mut [f32],
        log_sums: &mut [f32],
        qkv: &[f32],
        documents: &[u32],
        shape: AttentionShape,
    ) {
        let heads = shape.heads;
        for_each(qkv, documents, shape, |one| {
            let ((p, log_sum), [_, _, v]) = (one.probabilities(), one.columns());
            log_sums[one.row * heads.queries + one.head] = log_sum;
            for d in 0..heads.size {
                let values = p
                    .iter()
                    .zip(one.first()..)
                    .map(|(p, key)| p * qkv[key * heads.qkv_width() + v + d]);
                out[one.row * heads.query_width() + one.head * heads.size + d] = values.sum();
            }
        });
    }

    /// See [`super::backward`].
    pub fn backward(
        dqkv: &mut [f32],
        dout: &[f32],
        saved: SavedAttention<[f32]>,
        documents: &[u32],
        shape: AttentionShape,
    ) {
        let (heads, qkv) = (shape.heads, saved.qkv);
        let (width, size) = (heads.qkv_width(), heads.size);
        dqkv.fill(0.0);
        for_each(qkv, documents, shape, |one| {
            let ((p, _), scores, [q, k, v]) = (one.probabilities(), one.scores(), one.columns());
            let dout = &dout[one.row * heads.query_width() + one.head * size..][..size];
            let dp =
                |key: usize| (0..size).map(|d| dout[d] * qkv[key * width + v + d]).sum::<f32>();
            let delta: f32 = p.iter().zip(one.first()..).map(|(p, key)| p * dp(key)).sum();
            for ((&p, score), key) in p.iter().zip(&scores).zip(one.first()..) {
                let ds = p * (dp(key) - delta) * score[1];
                for d in 0..size {
                    dqkv[key * width + v + d] += p * dout[d];
                    dqkv[one.row * width + q + d] += ds * qkv[key * width + k + d];
                    dqkv[key * width + k + d] += ds * qkv[one.row * width + q + d];
                }
            }
        });
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

    /// Without cap and window, with each, with both; a window of one token, and one that is wider
    /// than a document.
    fn shapes(heads: Heads) -> [AttentionShape; 6] {
        let plain = AttentionShape::plain(heads);
        let both = |softcap, window| AttentionShape { softcap, window, scale: 0.3, ..plain };
        [
            plain,
            both(Some(2.0), None),
            both(None, Some(1)),
            both(None, Some(50)),
            both(Some(1.5), Some(7)),
            both(None, Some(100_000)),
        ]
    }

    struct Run {
        out: Vec<f32>,
        log_sums: Vec<f32>,
        dqkv: Vec<f32>,
    }

    fn run(
        qkv: &[f32],
        dout: &[f32],
        documents: &[u32],
        shape: AttentionShape,
        plain: bool,
    ) -> Run {
        let heads = shape.heads;
        let rows = qkv.len() / heads.qkv_width();
        let (mut out, mut log_sums) =
            (vec![f32::NAN; rows * heads.query_width()], vec![f32::NAN; rows * heads.queries]);
        let mut dqkv = vec![f32::NAN; qkv.len()];
        let forward = if plain { reference::forward } else { forward };
        let backward = if plain { reference::backward } else { backward };
        forward(&mut out, &mut log_sums, qkv, documents, shape);
        let saved = SavedAttention { qkv, out: &out[..], log_sums: &log_sums[..] };
        backward(&mut dqkv, dout, saved, documents, shape);
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
            for shape in shapes(heads) {
                let [fast, plain] =
                    [false, true].map(|plain| run(&qkv, &dout, documents, shape, plain));
                assert_close(&fast.out, &plain.out, 1e-5);
                assert_close(&fast.log_sums, &plain.log_sums, 1e-5);
                assert_close(&fast.dqkv, &plain.dqkv, 1e-5);
            }
        }
    }

    #[test]
    fn gradient_is_that_of_finite_differences() {
        let (heads, documents) = (Heads { queries: 4, key_values: 2, size: 4 }, &[0, 3, 8]);
        let (qkv, dout) = input(heads, documents);
        let three = AttentionShape { window: Some(3), ..shapes(heads)[1] };
        for shape in [shapes(heads)[0], shapes(heads)[1], three] {
            let found = run(&qkv, &dout, documents, shape, false).dqkv;
            assert_gradient(&found, &qkv, &dout, |qkv| run(qkv, &dout, documents, shape, true).out);
        }
    }

    #[test]
    fn one_and_two_threads_give_the_same_bits() {
        let (heads, documents) = CASES[1];
        let (qkv, dout) = input(heads, documents);
        for shape in shapes(heads) {
            let once = || {
                let Run { out, dqkv, .. } = run(&qkv, &dout, documents, shape, false);
                (bits(&out), bits(&dqkv))
            };
            assert_eq!(on_threads(1, once), on_threads(2, once));
        }
    }

    #[test]
    fn a_window_of_one_token_gives_its_own_value() {
        let heads = Heads { queries: 2, key_values: 2, size: 8 };
        let (qkv, dout) = input(heads, &[0, 90]);
        let shape = AttentionShape { window: Some(1), ..AttentionShape::plain(heads) };
        let out = run(&qkv, &dout, &[0, 40, 90], shape, false).out;
        for (out, qkv) in out.chunks_exact(16).zip(qkv.chunks_exact(48)) {
            assert_close(out, &qkv[32..], 1e-6);
        }
    }

    #[test]
    fn a_document_does_not_see_its_neighbours() {
        let heads = Heads { queries: 2, key_values: 1, size: 8 };
        let (qkv, dout) = input(heads, &[0, 40]);
        for shape in shapes(heads) {
            let together = run(&qkv, &dout, &[0, 10, 40], shape, false).out;
            let alone =
                run(&qkv[10 * heads.qkv_width()..], &dout[10 * 16..], &[0, 30], shape, false).out;
            assert_eq!(bits(&together[10 * 16..]), bits(&alone));
        }
    }
}
