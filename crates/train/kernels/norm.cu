// Norms over rows [rows, width] of bf16: y = (x − m) r (w + o), plus a residual.
//   kind 0   root mean square: m = 0, r = 1 / sqrt(mean(x²) + eps), o = 0
//   kind 1   the same with o = 1
//   kind 2   layer norm without bias: m = mean(x), r = 1 / sqrt(mean((x − m)²) + eps), o = 0
//
//   forward   one warp a row, which it reads twice, the second time from the cache
//   backward  a block takes rows in turn and keeps its part of dweight in registers; the parts are
//             summed in order by reduce_columns
//
// `width` is a multiple of 8.
#include "block.cuh"

constexpr i32 LAYER = 2;

/// m and r of a warp's row.
DEVICE Two row_moments(const bf16* x, i32 width, f32 eps, i32 kind) {
    f32 mean = 0.0f, squares = 0.0f;
    if (kind == LAYER) {
        for (i32 i = i32(lane_id()) * 8; i < width; i += 256) {
            Eight v = load_eight(x + i);
#pragma unroll
            for (i32 j = 0; j < 8; ++j) mean += v.x[j];
        }
        mean = warp_sum(mean) / f32(width);
    }
    for (i32 i = i32(lane_id()) * 8; i < width; i += 256) {
        Eight v = load_eight(x + i);
#pragma unroll
        for (i32 j = 0; j < 8; ++j) squares += (v.x[j] - mean) * (v.x[j] - mean);
    }
    return Two{mean, rsqrtf(warp_sum(squares) / f32(width) + eps)};
}

KERNEL(norm_forward, bf16* y, f32* inverse, const bf16* x, const bf16* weight, const bf16* residual, i32 rows,
       i32 width, f32 eps, i32 kind) {
    i32 row = i32(blockIdx.x * (blockDim.x / 32) + warp_id());
    if (row >= rows) return;
    i64 at = i64(row) * width;
    Two moments = row_moments(x + at, width, eps, kind);
    f32 offset = kind == 1 ? 1.0f : 0.0f;
    if (lane_id() == 0) inverse[row] = moments.b;
    for (i32 i = i32(lane_id()) * 8; i < width; i += 256) {
        Eight v = load_eight(x + at + i), w = load_eight(weight + i);
#pragma unroll
        for (i32 j = 0; j < 8; ++j) v.x[j] = (v.x[j] - moments.a) * moments.b * (w.x[j] + offset);
        if (residual) {
            Eight more = load_eight(residual + at + i);
#pragma unroll
            for (i32 j = 0; j < 8; ++j) v.x[j] += more.x[j];
        }
        store_eight(y + at + i, v);
    }
}

/// With x̂ = (x − m) r and g = (w + o) dy: dx (+)= r (g − x̂ mean(g x̂) − mean(g) in a layer norm);
/// y = x̂ (w + o) and parts [gridDim.x, width] of dweight = sum of dy x̂, where they are not null.
template <i32 chunks>
DEVICE void norm_backward(bf16* dx, bf16* y, f32* parts, const f32* inverse, const bf16* dy, const bf16* x,
                          const bf16* weight, i32 rows, i32 width, i32 kind, i32 accumulate) {
    __shared__ f32 shared[4][64];
    f32 dweight[chunks][8] = {}, offset = kind == 1 ? 1.0f : 0.0f;
    i32 turn = 0;
    for (i32 row = i32(blockIdx.x); row < rows; row += i32(gridDim.x), turn ^= 2) {
        i64 at = i64(row) * width;
        f32 r = inverse[row], mean = 0.0f;
        if (kind == LAYER) {
            for (i32 c = 0; c < chunks; ++c) {
                i32 i = (i32(threadIdx.x) + c * i32(blockDim.x)) * 8;
                if (i >= width) break;
                Eight v = load_eight(x + at + i);
#pragma unroll
                for (i32 j = 0; j < 8; ++j) mean += v.x[j];
            }
            mean = block_sum(Two{mean, 0.0f}, shared[turn + 1]).a / f32(width);
        }
        Two sums{0.0f, 0.0f};
#pragma unroll
        for (i32 c = 0; c < chunks; ++c) {
            i32 i = (i32(threadIdx.x) + c * i32(blockDim.x)) * 8;
            if (i >= width) break;
            Eight v = load_eight(x + at + i), d = load_eight(dy + at + i), w = load_eight(weight + i);
#pragma unroll
            for (i32 j = 0; j < 8; ++j) {
                f32 hat = (v.x[j] - mean) * r, g = (w.x[j] + offset) * d.x[j];
                sums.a += g * hat;
                sums.b += g;
                dweight[c][j] += d.x[j] * hat;
            }
        }
        sums = block_sum(sums, shared[turn]);
        f32 along = sums.a / f32(width), level = kind == LAYER ? sums.b / f32(width) : 0.0f;
#pragma unroll
        for (i32 c = 0; c < chunks; ++c) {
            i32 i = (i32(threadIdx.x) + c * i32(blockDim.x)) * 8;
            if (i >= width) break;
            Eight v = load_eight(x + at + i), d = load_eight(dy + at + i), w = load_eight(weight + i), out;
            Eight before = {};
            if (accumulate) before = load_eight(dx + at + i);
#pragma unroll
            for (i32 j = 0; j < 8; ++j) {
                f32 hat = (v.x[j] - mean) * r, g = (w.x[j] + offset) * d.x[j];
                out.x[j] = before.x[j] + r * (g - hat * along - level);
                v.x[j] = hat * (w.x[j] + offset);
            }
            store_eight(dx + at + i, out);
            if (y) store_eight(y + at + i, v);
        }
    }
    if (!parts) return;
#pragma unroll
    for (i32 c = 0; c < chunks; ++c) {
        i32 i = (i32(threadIdx.x) + c * i32(blockDim.x)) * 8;
        if (i >= width) break;
        for (i32 j = 0; j < 8; ++j) parts[i64(blockIdx.x) * width + i + j] = dweight[c][j];
    }
}

#define BACKWARD(chunks)                                                                               \
    KERNEL_BOUNDS(norm_backward_##chunks, 256, 2, bf16* dx, bf16* y, f32* parts, const f32* inverse,   \
                  const bf16* dy, const bf16* x, const bf16* weight, i32 rows, i32 width, i32 kind,    \
                  i32 accumulate) {                                                                    \
        norm_backward<chunks>(dx, y, parts, inverse, dy, x, weight, rows, width, kind, accumulate);    \
    }
BACKWARD(1)
BACKWARD(2)
BACKWARD(4)
BACKWARD(8)
#undef BACKWARD

// ---------------------------------------------------------------------------------------------
// The norm of each query and key head. A row of `qkv` holds `all` heads of `size`, of which the first
// `count` are normed. Weights: D for each head, or D for the first `queries` and D for the others.

DEVICE const bf16* head_weight(const bf16* weight, i32 head, i32 queries, i32 size, i32 per_head) {
    return weight + (per_head ? head : head >= queries) * size;
}

/// One warp a head; values are copied.
KERNEL(head_norm_forward, bf16* qkv, f32* inverse, const bf16* projected, const bf16* weight, i32 rows, i32 all,
       i32 count, i32 queries, i32 size, i32 per_head, f32 eps, i32 kind) {
    i64 at = i64(blockIdx.x) * (blockDim.x / 32) + warp_id();
    if (at >= i64(rows) * all) return;
    i32 row = i32(at / all), head = i32(at % all);
    const bf16* x = projected + at * size;
    bf16* y = qkv + at * size;
    if (head >= count) {
        for (i32 i = i32(lane_id()) * 8; i < size; i += 256)
            *reinterpret_cast<Wide*>(y + i) = *reinterpret_cast<const Wide*>(x + i);
        return;
    }
    Two moments = row_moments(x, size, eps, kind);
    f32 offset = kind == 1 ? 1.0f : 0.0f;
    if (lane_id() == 0) inverse[i64(row) * count + head] = moments.b;
    const bf16* weights = head_weight(weight, head, queries, size, per_head);
    for (i32 i = i32(lane_id()) * 8; i < size; i += 256) {
        Eight v = load_eight(x + i), w = load_eight(weights + i);
#pragma unroll
        for (i32 j = 0; j < 8; ++j) v.x[j] = (v.x[j] - moments.a) * moments.b * (w.x[j] + offset);
        store_eight(y + i, v);
    }
}

/// `dqkv` becomes d projected; parts [gridDim.x, count, size] of dweight by head. Grid: parts, heads;
/// the warps of a block take rows in turn and their sums are added in order. `size` is at most 256.
KERNEL(head_norm_backward, bf16* dqkv, f32* parts, const f32* inverse, const bf16* projected, const bf16* weight,
       i32 rows, i32 all, i32 count, i32 queries, i32 size, i32 per_head, i32 kind) {
    __shared__ f32 shared[8 * 256];
    i32 head = i32(blockIdx.y), warps = i32(blockDim.x) / 32, i = i32(lane_id()) * 8;
    bool mine = i < size;
    f32 offset = kind == 1 ? 1.0f : 0.0f, dweight[8] = {};
    Eight w = {};
    if (mine) w = load_eight(head_weight(weight, head, queries, size, per_head) + i);
    i32 stride = i32(gridDim.x) * warps;
    for (i32 row = i32(blockIdx.x) * warps + i32(warp_id()); row < rows; row += stride) {
        i64 at = (i64(row) * all + head) * size;
        Eight v = {}, d = {};
        if (mine) v = load_eight(projected + at + i), d = load_eight(dqkv + at + i);
        f32 r = inverse[i64(row) * count + head], mean = 0.0f;
        if (kind == LAYER) {
            for (i32 j = 0; j < 8; ++j) mean += v.x[j];
            mean = warp_sum(mean) / f32(size);
        }
        f32 along = 0.0f, level = 0.0f;
#pragma unroll
        for (i32 j = 0; j < 8; ++j) {
            v.x[j] = (v.x[j] - mean) * r;
            dweight[j] += d.x[j] * v.x[j];
            d.x[j] *= w.x[j] + offset;
            along += d.x[j] * v.x[j];
            level += d.x[j];
        }
        along = warp_sum(mine ? along : 0.0f) / f32(size);
        level = kind == LAYER ? warp_sum(level) / f32(size) : 0.0f;
#pragma unroll
        for (i32 j = 0; j < 8; ++j) d.x[j] = r * (d.x[j] - v.x[j] * along - level);
        if (mine) store_eight(dqkv + at + i, d);
    }
    if (!parts) return;
    for (i32 j = 0; j < 8; ++j)
        if (mine) shared[i32(warp_id()) * size + i + j] = dweight[j];
    __syncthreads();
    for (i32 column = i32(threadIdx.x); column < size; column += i32(blockDim.x)) {
        f32 sum = 0.0f;
        for (i32 warp = 0; warp < warps; ++warp) sum += shared[warp * size + column];
        parts[(i64(blockIdx.x) * count + head) * size + column] = sum;
    }
}
