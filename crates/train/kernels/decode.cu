// Attention of one new token a sequence over its cached keys and values, and the cache's filling.
//
// One layer's cache: [slots, 2 (keys, values), K, capacity, D] bf16. A sequence's keys are cut into pieces
// of 256; a block takes one piece of one key and value head for all query heads that share it, and
// decode_combine puts the pieces together in order. What a row gets depends on its own length alone, not
// on the other rows.
#include "attention.cuh"
#include "block.cuh"

constexpr i32 PIECE = 256;
/// Query heads that share a key and value head, at most.
constexpr i32 MOST_SHARING = 16;

struct DecodeTask {
    i32 rows, heads, key_values, size, capacity, window;
    f32 scale, cap;
    i32 pieces;  // of a full cache
};

/// Puts keys and values of each row of `qkv` [rows, (H + 2K) D] at its slot and position. One warp a head.
KERNEL(cache_store, bf16* cache, const bf16* qkv, const u32* slots, const u32* positions,
       GRID_CONSTANT DecodeTask task) {
    i32 all = 2 * task.key_values;
    i64 at = i64(blockIdx.x) * (blockDim.x / 32) + warp_id();
    if (at >= i64(task.rows) * all) return;
    i32 row = i32(at / all), head = i32(at % all);  // keys first, then values
    const bf16* from = qkv + (i64(row) * (task.heads + all) + task.heads + head) * task.size;
    bf16* to = cache + ((i64(slots[row]) * all + head) * task.capacity + positions[row]) * task.size;
    for (i32 i = i32(lane_id()) * 8; i < task.size; i += 256)
        *reinterpret_cast<Wide*>(to + i) = *reinterpret_cast<const Wide*>(from + i);
}

/// Keys that the token at `position` sees: [first, position].
DEVICE i32 first_cached(i32 position, i32 window) {
    return window > 0 ? greatest(0, position - window + 1) : 0;
}

/// Grid: pieces, K, rows; 128 threads. `partial` [rows, H, pieces, D], `states` [rows, H, pieces, 2]: each
/// piece's weighted values and its maximum (log2) and sum. Dynamic shared memory: sharing · D + sharing ·
/// PIECE values of f32.
KERNEL_BOUNDS(decode_piece, 128, 4, f32* partial, f32* states, const bf16* qkv, const bf16* cache,
              const u32* slots, const u32* positions, GRID_CONSTANT DecodeTask task) {
    DYNAMIC_SHARED(memory);
    i32 piece = i32(blockIdx.x), kv = i32(blockIdx.y), row = i32(blockIdx.z);
    i32 position = i32(positions[row]), first = greatest(first_cached(position, task.window), piece * PIECE);
    i32 last = least(position + 1, (piece + 1) * PIECE), size = task.size;
    if (first >= last) return;
    i32 sharing = task.heads / task.key_values, width = (task.heads + 2 * task.key_values) * size;
    f32* queries = reinterpret_cast<f32*>(memory);      // [sharing, D]
    f32* scores = queries + sharing * size;             // [sharing, PIECE]
    const bf16* from = qkv + i64(row) * width + i64(kv) * sharing * size;
    for (i32 i = i32(threadIdx.x); i < sharing * size; i += 128) queries[i] = to_f32(from[i]);
    __syncthreads();

    // Scores: eight lanes a key, each an eighth of D.
    i64 slot = i64(slots[row]) * 2 * task.key_values;
    const bf16* keys = cache + (slot + kv) * task.capacity * size;
    i32 lane = i32(threadIdx.x) % 8, count = last - first;
    for (i32 base = 0; base < count; base += 16) {
        i32 j = base + i32(threadIdx.x) / 8;
        f32 sums[MOST_SHARING] = {};
        if (j < count)
            for (i32 d = lane * 8; d < size; d += 64) {
                Eight key = load_eight(keys + i64(first + j) * size + d);
                for (i32 h = 0; h < sharing; ++h)
#pragma unroll
                    for (i32 i = 0; i < 8; ++i) sums[h] += key.x[i] * queries[h * size + d + i];
            }
        for (i32 h = 0; h < sharing; ++h) {
            f32 sum = sums[h];
            sum += __shfl_xor_sync(ALL_LANES, sum, 1);
            sum += __shfl_xor_sync(ALL_LANES, sum, 2);
            sum += __shfl_xor_sync(ALL_LANES, sum, 4);
            if (lane == 0 && j < count) scores[h * PIECE + j] = score_log2(sum, task.scale, task.cap);
        }
    }
    __syncthreads();

    // A warp a head: maximum, exponentials, sum.
    for (i32 h = i32(warp_id()); h < sharing; h += 4) {
        f32 most = LEAST, sum = 0.0f;
        for (i32 j = i32(lane_id()); j < count; j += 32) most = fmaxf(most, scores[h * PIECE + j]);
        most = warp_max(most);
        for (i32 j = i32(lane_id()); j < count; j += 32) {
            f32 p = exp2_fast(scores[h * PIECE + j] - most);
            scores[h * PIECE + j] = p;
            sum += p;
        }
        sum = warp_sum(sum);
        if (lane_id() == 0) {
            f32* at = states + ((i64(row) * task.heads + kv * sharing + h) * task.pieces + piece) * 2;
            at[0] = most;
            at[1] = sum;
        }
    }
    __syncthreads();

    // Values: a thread two columns of some heads.
    const bf16* values = cache + (slot + task.key_values + kv) * task.capacity * size;
    i32 pairs = size / 2;
    for (i32 unit = i32(threadIdx.x); unit < pairs * sharing; unit += 128) {
        i32 d = unit % pairs * 2, h = unit / pairs;
        f32 a = 0.0f, b = 0.0f;
        for (i32 j = 0; j < count; ++j) {
            u32 packed = *reinterpret_cast<const u32*>(values + i64(first + j) * size + d);
            f32 p = scores[h * PIECE + j];
            a += p * low_f32(packed);
            b += p * high_f32(packed);
        }
        f32* at = partial + ((i64(row) * task.heads + kv * sharing + h) * task.pieces + piece) * size + d;
        at[0] = a;
        at[1] = b;
    }
}

/// out [rows, H D] from the pieces; one warp a head of a row.
KERNEL(decode_combine, bf16* out, const f32* partial, const f32* states, const u32* positions,
       GRID_CONSTANT DecodeTask task) {
    i64 at = i64(blockIdx.x) * (blockDim.x / 32) + warp_id();
    if (at >= i64(task.rows) * task.heads) return;
    i32 position = i32(positions[at / task.heads]);
    i32 first = first_cached(position, task.window) / PIECE, last = position / PIECE;
    const f32* state = states + at * task.pieces * 2;
    f32 most = LEAST, sum = 0.0f;
    for (i32 p = first; p <= last; ++p) most = fmaxf(most, state[2 * p]);
    for (i32 p = first; p <= last; ++p) sum += state[2 * p + 1] * exp2_fast(state[2 * p] - most);
    for (i32 d = i32(lane_id()); d < task.size; d += 32) {
        f32 value = 0.0f;
        for (i32 p = first; p <= last; ++p)
            value += partial[(at * task.pieces + p) * task.size + d] * exp2_fast(state[2 * p] - most);
        out[at * task.size + d] = to_bf16(value / sum);
    }
}
