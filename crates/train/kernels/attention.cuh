// What the attention kernels share: the task, the mask, the work list.
//
// Rows of `qkv` [N, (H + 2K) D] hold H query heads, K key heads and K value heads. Documents lie end to
// end; a query at row i sees the keys at rows max(start of its document, i - window + 1) to i. Scores
// are q · k times `scale`, then capped (Gemma 2: cap · tanh(score / cap)) where `cap` is not 0.
#pragma once
#include "device.cuh"
#include "tiles.cuh"

constexpr f32 LOG2_E = 1.4426950408889634f;
constexpr f32 LN_2 = 0.6931471805599453f;

/// Rows [row, end) of one document that begins at `start`: a block's share of queries or of keys. Lists of
/// a fixed length end with tiles of no rows, whose blocks have nothing to do.
struct AttentionTile {
    i32 row;
    i32 start;
    i32 end;
    i32 unused;
};

struct AttentionTask {
    i32 rows;         // N
    i32 heads;        // H
    i32 key_values;   // K
    i32 size;         // D
    i32 window;       // 0: the whole document
    f32 scale;
    f32 cap;          // 0: none
    i32 tiles;
    const AttentionTile* list;  // [tiles], the longest work first
};

/// The first key that the query at row i sees.
HOST_DEVICE i32 first_key(i32 i, i32 start, i32 window) {
    return window > 0 ? greatest(start, i - window + 1) : start;
}

/// One past the last query that sees the key at row j.
HOST_DEVICE i32 last_query(i32 j, i32 end, i32 window) {
    return window > 0 ? least(end, j + window) : end;
}

/// The rows of the other side that a tile meets: `count` steps of some rows, from `first` on.
struct Steps {
    i32 first;
    i32 count;
};

/// The keys of a tile of `rows` queries, in steps of `keys`.
HOST_DEVICE Steps steps_of_queries(const AttentionTile& tile, i32 rows, i32 window, i32 keys) {
    i32 first = first_key(tile.row, tile.start, window);
    return Steps{first, ceil_div(least(tile.row + rows, tile.end) - first, keys)};
}

/// The queries of a tile of `rows` keys, in steps of `queries`.
HOST_DEVICE Steps steps_of_keys(const AttentionTile& tile, i32 rows, i32 window, i32 queries) {
    i32 until = last_query(least(tile.row + rows, tile.end) - 1, tile.end, window);
    return Steps{tile.row, ceil_div(until - tile.row, queries)};
}

HOST_DEVICE bool sees(i32 i, i32 j, i32 start, i32 window) {
    return j <= i && j >= first_key(i, start, window);
}

/// tanh by exponentials; exact to f32 rounding where it matters for capped scores.
DEVICE f32 tanh_by_exp(f32 x) {
    f32 e = exp2_fast(-2.0f * LOG2_E * fabsf(x));
    f32 t = __fdividef(1.0f - e, 1.0f + e);
    return x < 0.0f ? -t : t;
}

/// A raw score to what the softmax takes, in units of log2.
DEVICE f32 score_log2(f32 raw, f32 scale, f32 cap) {
    f32 x = raw * scale;
    if (cap != 0.0f) x = cap * tanh_by_exp(x / cap);
    return x * LOG2_E;
}

/// A raw score to its probability.
DEVICE f32 probability(f32 score, f32 log_sum_log2, bool visible, const AttentionTask& task) {
    return visible ? exp2_fast(score * task.scale * LOG2_E - log_sum_log2) : 0.0f;
}

/// A raw score and its gradient before the softmax's, to probability and gradient of the raw score
/// over `scale`.
DEVICE void score_gradient(f32& score, f32& gradient, f32 log_sum_log2, f32 delta, bool visible,
                           const AttentionTask& task) {
    f32 slope = 1.0f, x = score * task.scale;
    if (task.cap != 0.0f) {
        f32 t = tanh_by_exp(x / task.cap);
        x = task.cap * t;
        slope = 1.0f - t * t;
    }
    score = visible ? exp2_fast(x * LOG2_E - log_sum_log2) : 0.0f;
    gradient = score * (gradient - delta) * slope;
}
