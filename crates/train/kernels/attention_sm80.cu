// Flash attention on Ampere and Ada, forward and backward, in the same form as on Hopper.
//
//   tile            64 queries (forward, dq) or 64 keys (dk, dv) of one head; steps of 64 rows of the
//                   other side, or 32 or 16 where registers are short
//   threads         128: four warps, 16 rows each
//   shared memory   the tile, and a ring of 2 stages for the other side
//   schedule        one block a tile and head
//
// Methods: as in attention_sm90.cu and attention_backward_sm90.cu.
#include "attention.cuh"

template <i32 D, bool backward>
struct WarpLayout {
    static constexpr i32 rows = 64;
    static constexpr i32 step = D == 256 ? 16 : backward && D == 128 ? 32 : 64;
    static constexpr i32 stages = 2;
    static constexpr u32 tile_bytes = rows * D * 2;
    static constexpr u32 step_bytes = step * D * 2;
    // The tile's two matrices (one in the forward pass), then the ring's two by stage.
    static constexpr u32 ring = 2 * tile_bytes;
    static constexpr u32 bytes = ring + stages * 2 * step_bytes;
};

/// Copies rows [row, row + rows) of one head; zeros from row `end` and from column `size` on.
template <i32 D, i32 rows>
DEVICE void copy_head(u32 shared, const bf16* from, i32 width, i32 head, i32 size, i32 row, i32 end) {
#pragma unroll
    for (i32 i = 0; i < rows * D / 8 / 128; ++i) {
        i32 unit = i32(threadIdx.x) + 128 * i, r = unit / (D / 8), column = unit % (D / 8) * 8;
        bool inside = row + r < end && column < size;
        const bf16* at = inside ? from + i64(row + r) * width + i64(head) * size + column : from;
        copy_async_16(shared + panel_place(rows, r, column), at, inside ? 16 : 0);
    }
}

/// a [16, 16] at (row, column).
template <i32 rows>
DEVICE void rows_operand(u32 (&r)[4], u32 shared, i32 row, i32 column) {
    Element at = fragment_a(i32(lane_id()), false);
    load_matrix_x4(r, shared + panel_place(rows, row + at.mn, column + at.k));
}
/// b [16 k, 16 n] whose n are rows and whose k are columns: registers 0, 1 for n, 2, 3 for n + 8.
template <i32 rows>
DEVICE void columns_operand(u32 (&r)[4], u32 shared, i32 n, i32 k) {
    Element at = fragment_b(i32(lane_id()), false);
    load_matrix_x4(r, shared + panel_place(rows, n + at.mn, k + at.k));
}
/// The same where k are rows and n are columns.
template <i32 rows>
DEVICE void columns_operand_transposed(u32 (&r)[4], u32 shared, i32 n, i32 k) {
    Element at = fragment_b(i32(lane_id()), true);
    load_matrix_x4_transposed(r, shared + panel_place(rows, k + at.k, n + at.mn));
}

/// s [16, n] = a rows of `tile` · rows of `other`, over D.
template <i32 D, i32 rows, i32 n>
DEVICE void row_products(f32 (&s)[n / 8][4], u32 tile, i32 row, u32 other) {
#pragma unroll
    for (i32 j = 0; j < n / 8; ++j)
#pragma unroll
        for (i32 i = 0; i < 4; ++i) s[j][i] = 0.0f;
#pragma unroll
    for (i32 k = 0; k < D; k += 16) {
        u32 a[4];
        rows_operand<rows>(a, tile, row, k);
#pragma unroll
        for (i32 j = 0; j < n / 16; ++j) {
            u32 b[4];
            columns_operand<n>(b, other, 16 * j, k);
            mma_16x8x16(s[2 * j], a, b[0], b[1]);
            mma_16x8x16(s[2 * j + 1], a, b[2], b[3]);
        }
    }
}

/// d [16, D] += s [16, n] as bf16 · rows of `other` [n, D].
template <i32 D, i32 n>
DEVICE void weighted_rows(f32 (&d)[D / 8][4], const f32 (&s)[n / 8][4], u32 other) {
#pragma unroll
    for (i32 k = 0; k < n / 16; ++k) {
        u32 a[4];
#pragma unroll
        for (i32 i = 0; i < 4; ++i)
            a[i] = pack_bf16(s[2 * k + i / 2][2 * (i % 2)], s[2 * k + i / 2][2 * (i % 2) + 1]);
#pragma unroll
        for (i32 j = 0; j < D / 16; ++j) {
            u32 b[4];
            columns_operand_transposed<n>(b, other, 16 * j, 16 * k);
            mma_16x8x16(d[2 * j], a, b[0], b[1]);
            mma_16x8x16(d[2 * j + 1], a, b[2], b[3]);
        }
    }
}

/// Sixteen rows times a factor each, to rows before `end` of one head.
template <i32 D>
DEVICE void put_rows(bf16* to, i32 width, i32 head, i32 size, const f32 (&d)[D / 8][4], const f32 (&factor)[2],
                     i32 row, i32 end) {
    i32 g = i32(lane_id()) / 4, q = i32(lane_id()) % 4;
#pragma unroll
    for (i32 h = 0; h < 2; ++h) {
        i32 r = row + g + 8 * h;
        if (r >= end) continue;
        bf16* at = to + i64(r) * width + i64(head) * size;
#pragma unroll
        for (i32 j = 0; j < D / 8; ++j) {
            i32 column = 8 * j + 2 * q;
            if (column < size)
                *reinterpret_cast<u32*>(at + column) =
                    pack_bf16(d[j][2 * h] * factor[h], d[j][2 * h + 1] * factor[h]);
        }
    }
}

/// Runs `compute(step, stage)` for each step, whose `load(step, stage)` was issued a stage ahead.
template <i32 stages, class Load, class Compute>
DEVICE void ring_steps(i32 steps, Load load, Compute compute) {
    load(0, 0);
    copy_async_commit();
    for (i32 step = 0; step < steps; ++step) {
        i32 ahead = step + stages - 1;
        if (ahead < steps) load(ahead, ahead % stages);
        copy_async_commit();
        copy_async_wait<stages - 1>();
        __syncthreads();
        compute(step, step % stages);
        __syncthreads();
    }
}

// ---------------------------------------------------------------------------------------------

template <i32 D>
DEVICE void warp_forward(const AttentionTask& task, const bf16* qkv, bf16* out, f32* log_sums) {
    using Layout = WarpLayout<D, false>;
    constexpr i32 n = Layout::step;
    DYNAMIC_SHARED(memory);
    u32 base = shared_address(memory);
    AttentionTile tile = task.list[blockIdx.x];
    if (tile.row >= tile.end) return;
    i32 head = i32(blockIdx.y), k_head = task.heads + head / (task.heads / task.key_values);
    i32 v_head = k_head + task.key_values, width = (task.heads + 2 * task.key_values) * task.size;
    i32 end = least(tile.row + 64, tile.end);
    Steps keys = steps_of_queries(tile, 64, task.window, n);
    i32 first = keys.first;
    i32 part = 16 * i32(warp_id()), g = i32(lane_id()) / 4, q = i32(lane_id()) % 4;
    i32 query = tile.row + part + g;
    f32 unit = (task.cap != 0.0f ? 1.0f : task.scale) * LOG2_E;
    f32 o[D / 8][4] = {}, most[2] = {LEAST, LEAST}, sum[2] = {};

    copy_head<D, 64>(base, qkv, width, head, task.size, tile.row, end);
    auto load = [&](i32 step, i32 stage) {
        u32 at = base + Layout::ring + stage * 2 * Layout::step_bytes;
        copy_head<D, n>(at, qkv, width, k_head, task.size, first + step * n, end);
        copy_head<D, n>(at + Layout::step_bytes, qkv, width, v_head, task.size, first + step * n, end);
    };
    ring_steps<Layout::stages>(keys.count, load, [&](i32 step, i32 stage) {
        u32 at = base + Layout::ring + stage * 2 * Layout::step_bytes;
        f32 s[n / 8][4];
        row_products<D, 64, n>(s, base, part, at);
#pragma unroll
        for (i32 h = 0; h < 2; ++h) {
            f32 now = most[h];
#pragma unroll
            for (i32 j = 0; j < n / 8; ++j)
#pragma unroll
                for (i32 c = 0; c < 2; ++c) {
                    f32& x = s[j][2 * h + c];
                    if (task.cap != 0.0f) x = task.cap * tanh_by_exp(x * task.scale / task.cap);
                    if (!sees(query + 8 * h, first + step * n + 8 * j + 2 * q + c, tile.start, task.window))
                        x = LEAST;
                    now = fmaxf(now, x);
                }
            now = fmaxf(now, __shfl_xor_sync(ALL_LANES, now, 1));
            now = fmaxf(now, __shfl_xor_sync(ALL_LANES, now, 2));
            f32 less = now == LEAST ? 0.0f : now * unit, shrink = exp2_fast(most[h] * unit - less), add = 0.0f;
            most[h] = now;
#pragma unroll
            for (i32 j = 0; j < n / 8; ++j)
#pragma unroll
                for (i32 c = 0; c < 2; ++c) {
                    f32& x = s[j][2 * h + c];
                    x = exp2_fast(x * unit - less);
                    add += x;
                }
            sum[h] = sum[h] * shrink + add;
#pragma unroll
            for (i32 j = 0; j < D / 8; ++j) o[j][2 * h] *= shrink, o[j][2 * h + 1] *= shrink;
        }
        weighted_rows<D, n>(o, s, at + Layout::step_bytes);
    });

    f32 share[2];
#pragma unroll
    for (i32 h = 0; h < 2; ++h) {
        sum[h] += __shfl_xor_sync(ALL_LANES, sum[h], 1);
        sum[h] += __shfl_xor_sync(ALL_LANES, sum[h], 2);
        share[h] = 1.0f / sum[h];
        i32 row = query + 8 * h;
        if (q == 0 && row < end)
            log_sums[i64(head) * task.rows + row] = LN_2 * (most[h] * unit + log2f(sum[h]));
    }
    put_rows<D>(out, task.heads * task.size, head, task.size, o, share, tile.row + part, end);
}

/// dv, dk or both of 64 keys.
template <i32 D, bool for_v, bool for_k>
DEVICE void warp_backward_kv(const AttentionTask& task, const bf16* qkv, const bf16* dout, const f32* log_sums,
                             const f32* delta, bf16* dqkv) {
    using Layout = WarpLayout<D, true>;
    constexpr i32 n = Layout::step;
    DYNAMIC_SHARED(memory);
    u32 base = shared_address(memory);
    AttentionTile tile = task.list[blockIdx.x];
    if (tile.row >= tile.end) return;
    i32 kv_head = i32(blockIdx.y), members = task.heads / task.key_values, k_head = task.heads + kv_head;
    i32 v_head = k_head + task.key_values, width = (task.heads + 2 * task.key_values) * task.size;
    i32 end = least(tile.row + 64, tile.end);
    i32 steps = steps_of_keys(tile, 64, task.window, n).count;
    i32 part = 16 * i32(warp_id()), g = i32(lane_id()) / 4, q = i32(lane_id()) % 4;
    i32 key = tile.row + part + g;
    f32 dv[for_v ? D / 8 : 1][4] = {}, dk[for_k ? D / 8 : 1][4] = {};

    copy_head<D, 64>(base, qkv, width, k_head, task.size, tile.row, end);
    copy_head<D, 64>(base + Layout::tile_bytes, qkv, width, v_head, task.size, tile.row, end);
    auto load = [&](i32 step, i32 stage) {
        u32 at = base + Layout::ring + stage * 2 * Layout::step_bytes;
        i32 head = kv_head * members + step / steps, row = tile.row + step % steps * n;
        copy_head<D, n>(at, qkv, width, head, task.size, row, tile.end);
        copy_head<D, n>(at + Layout::step_bytes, dout, task.heads * task.size, head, task.size, row, tile.end);
    };
    ring_steps<Layout::stages>(members * steps, load, [&](i32 step, i32 stage) {
        u32 at = base + Layout::ring + stage * 2 * Layout::step_bytes;
        i32 head = kv_head * members + step / steps, query = tile.row + step % steps * n;
        f32 p[n / 8][4], ds[n / 8][4] = {};
        row_products<D, 64, n>(p, base, part, at);
        if (for_k) row_products<D, 64, n>(ds, base + Layout::tile_bytes, part, at + Layout::step_bytes);
#pragma unroll
        for (i32 j = 0; j < n / 8; ++j)
#pragma unroll
            for (i32 c = 0; c < 2; ++c) {
                i32 i = query + 8 * j + 2 * q + c;
                bool inside = i < tile.end;
                i64 from = i64(head) * task.rows + i;
                f32 log_sum = inside ? log_sums[from] * LOG2_E : 0.0f, less = inside ? delta[from] : 0.0f;
#pragma unroll
                for (i32 h = 0; h < 2; ++h)
                    score_gradient(p[j][2 * h + c], ds[j][2 * h + c], log_sum, less,
                                   inside && sees(i, key + 8 * h, tile.start, task.window), task);
            }
        if constexpr (for_v) weighted_rows<D, n>(dv, p, at + Layout::step_bytes);
        if constexpr (for_k) weighted_rows<D, n>(dk, ds, at);
    });
    if constexpr (for_v)
        put_rows<D>(dqkv, width, v_head, task.size, dv, {1.0f, 1.0f}, tile.row + part, end);
    if constexpr (for_k)
        put_rows<D>(dqkv, width, k_head, task.size, dk, {task.scale, task.scale}, tile.row + part, end);
}

/// dq of 64 queries.
template <i32 D>
DEVICE void warp_backward_q(const AttentionTask& task, const bf16* qkv, const bf16* dout, const f32* log_sums,
                            const f32* delta, bf16* dqkv) {
    using Layout = WarpLayout<D, true>;
    constexpr i32 n = Layout::step;
    DYNAMIC_SHARED(memory);
    u32 base = shared_address(memory);
    AttentionTile tile = task.list[blockIdx.x];
    if (tile.row >= tile.end) return;
    i32 head = i32(blockIdx.y), k_head = task.heads + head / (task.heads / task.key_values);
    i32 v_head = k_head + task.key_values, width = (task.heads + 2 * task.key_values) * task.size;
    i32 end = least(tile.row + 64, tile.end);
    Steps keys = steps_of_queries(tile, 64, task.window, n);
    i32 first = keys.first;
    i32 part = 16 * i32(warp_id()), g = i32(lane_id()) / 4, q = i32(lane_id()) % 4;
    i32 query = tile.row + part + g;
    f32 dq[D / 8][4] = {}, log_sum[2], less[2];
#pragma unroll
    for (i32 h = 0; h < 2; ++h) {
        i64 at = i64(head) * task.rows + query + 8 * h;
        bool inside = query + 8 * h < end;
        log_sum[h] = inside ? log_sums[at] * LOG2_E : 0.0f;
        less[h] = inside ? delta[at] : 0.0f;
    }

    copy_head<D, 64>(base, qkv, width, head, task.size, tile.row, end);
    copy_head<D, 64>(base + Layout::tile_bytes, dout, task.heads * task.size, head, task.size, tile.row, end);
    auto load = [&](i32 step, i32 stage) {
        u32 at = base + Layout::ring + stage * 2 * Layout::step_bytes;
        copy_head<D, n>(at, qkv, width, k_head, task.size, first + step * n, end);
        copy_head<D, n>(at + Layout::step_bytes, qkv, width, v_head, task.size, first + step * n, end);
    };
    ring_steps<Layout::stages>(keys.count, load, [&](i32 step, i32 stage) {
        u32 at = base + Layout::ring + stage * 2 * Layout::step_bytes;
        f32 p[n / 8][4], ds[n / 8][4];
        row_products<D, 64, n>(p, base, part, at);
        row_products<D, 64, n>(ds, base + Layout::tile_bytes, part, at + Layout::step_bytes);
#pragma unroll
        for (i32 j = 0; j < n / 8; ++j)
#pragma unroll
            for (i32 i = 0; i < 4; ++i) {
                i32 row = query + 8 * (i / 2), key = first + step * n + 8 * j + 2 * q + i % 2;
                score_gradient(p[j][i], ds[j][i], log_sum[i / 2], less[i / 2],
                               row < end && sees(row, key, tile.start, task.window), task);
            }
        weighted_rows<D, n>(dq, ds, at);
    });
    put_rows<D>(dqkv, width, head, task.size, dq, {task.scale, task.scale}, tile.row + part, end);
}

#define ATTENTION(D)                                                                                    \
    KERNEL_BOUNDS(attention_warp_forward_##D, 128, 1, GRID_CONSTANT AttentionTask task, const bf16* qkv, \
                  bf16* out, f32* log_sums) {                                                           \
        warp_forward<D>(task, qkv, out, log_sums);                                                      \
    }                                                                                                   \
    KERNEL_BOUNDS(attention_warp_backward_q_##D, 128, 1, GRID_CONSTANT AttentionTask task,              \
                  const bf16* qkv, const bf16* dout, const f32* log_sums, const f32* delta,             \
                  bf16* dqkv) {                                                                         \
        warp_backward_q<D>(task, qkv, dout, log_sums, delta, dqkv);                                     \
    }                                                                                                   \
    /* Where D is 256, grid z is 2: dv, then dk. */                                                     \
    KERNEL_BOUNDS(attention_warp_backward_kv_##D, 128, 1, GRID_CONSTANT AttentionTask task,             \
                  const bf16* qkv, const bf16* dout, const f32* log_sums, const f32* delta,             \
                  bf16* dqkv) {                                                                         \
        if constexpr (D < 256)                                                                          \
            warp_backward_kv<D, true, true>(task, qkv, dout, log_sums, delta, dqkv);                    \
        else if (blockIdx.z == 0)                                                                       \
            warp_backward_kv<D, true, false>(task, qkv, dout, log_sums, delta, dqkv);                   \
        else                                                                                            \
            warp_backward_kv<D, false, true>(task, qkv, dout, log_sums, delta, dqkv);                   \
    }
ATTENTION(64)
ATTENTION(128)
ATTENTION(256)
#undef ATTENTION
