// Flash attention forward on Hopper.
//
//   tile            128 queries of one head × BKV keys (128, or 64 where D is 256)
//   threads         384: one warpgroup loads, two compute (64 queries each)
//   shared memory   the queries, and rings of 2 stages for keys and for values
//   schedule        one block a tile and head; the product for the next scores runs behind the
//                   softmax of the present ones; the two computing warpgroups issue their products
//                   by turns, so that one's softmax runs beside the other's products
//
// Heads of 65 to 127 columns are computed as 128: the copy engine brings zeros past D.
//
// Method: Dao, FlashAttention-2 (arXiv 2307.08691), with the overlap of Shah et al., FlashAttention-3
// (arXiv 2407.08608).
#include "attention_hopper.cuh"

template <i32 D>
struct ForwardLayout {
    static constexpr i32 queries = 128;
    static constexpr i32 keys = D == 256 ? 64 : 128;
    static constexpr i32 panels = D / 64;
    static constexpr u32 q_bytes = queries * D * 2;
    static constexpr u32 kv_bytes = keys * D * 2;
    static constexpr u32 k = q_bytes;
    static constexpr u32 v = k + 2 * kv_bytes;
    static constexpr u32 barriers = v + 2 * kv_bytes;
    static constexpr u32 full_q = barriers;
    static constexpr u32 full_k = barriers + 8;
    static constexpr u32 full_v = full_k + 16;
    static constexpr u32 empty_k = full_v + 16;
    static constexpr u32 empty_v = empty_k + 16;
    static constexpr u32 mending = empty_v + 16;
    static constexpr u32 bytes = mending + 8;
};

/// One row pair's running maximum and sum.
struct Softmax {
    f32 most[2];
    f32 sum[2];
};

/// Raw scores [64, keys] at (query, key) to probabilities, in place; the factors by which what was
/// summed before must shrink come back in `shrink`.
template <i32 keys>
DEVICE void softmax_step(f32 (&s)[keys / 2], Softmax& state, f32 (&shrink)[2], const AttentionTask& task,
                         const AttentionTile& tile, i32 query, i32 key, bool masked) {
    i32 q = i32(lane_id()) % 4;
    // Branches for the whole step: most models have no cap, most steps need no mask.
    if (task.cap != 0.0f) {
        f32 inner = __fdividef(task.scale, task.cap);
#pragma unroll
        for (i32 i = 0; i < keys / 2; ++i) s[i] = task.cap * tanh_by_exp(s[i] * inner);
    }
    if (masked) {
#pragma unroll
        for (i32 i = 0; i < keys / 2; ++i)
            if (!sees(query + i / 2 % 2 * 8, key + i / 4 * 8 + 2 * q + i % 2, tile.start, task.window))
                s[i] = LEAST;
    }
#pragma unroll
    for (i32 h = 0; h < 2; ++h) {
        f32 most = state.most[h];
#pragma unroll
        for (i32 j = 0; j < keys / 8; ++j)
#pragma unroll
            for (i32 c = 0; c < 2; ++c) most = fmaxf(most, s[4 * j + 2 * h + c]);
        most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 1));
        most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 2));
        f32 unit = (task.cap != 0.0f ? 1.0f : task.scale) * LOG2_E;
        f32 base = most == LEAST ? 0.0f : most * unit;
        shrink[h] = exp2_fast(state.most[h] * unit - base);
        state.most[h] = most;
        f32 sum = 0.0f;
#pragma unroll
        for (i32 j = 0; j < keys / 8; ++j)
#pragma unroll
            for (i32 c = 0; c < 2; ++c) {
                f32& x = s[4 * j + 2 * h + c];
                x = exp2_fast(x * unit - base);
                sum += x;
            }
        state.sum[h] = state.sum[h] * shrink[h] + sum;
    }
}

template <i32 D>
DEVICE void attention_forward(const TensorMap& queries, const TensorMap& keys, const AttentionTask& task,
                              bf16* out, f32* log_sums) {
    using Layout = ForwardLayout<D>;
    constexpr i32 BQ = Layout::queries, BKV = Layout::keys;
    DYNAMIC_SHARED(memory);
    u32 base = shared_address(memory);
    AttentionTile tile = task.list[blockIdx.x];
    if (tile.row >= tile.end) return;
    i32 head = i32(blockIdx.y), kv_head = head / (task.heads / task.key_values);
    u32 group = threadIdx.x / 128;
    i32 last_row = least(tile.row + BQ, tile.end) - 1;
    Steps seen = steps_of_queries(tile, BQ, task.window, BKV);
    i32 first = seen.first, steps = seen.count;

    if (threadIdx.x == 0) {
        mbarrier_init(base + Layout::full_q, 1);
        mbarrier_init(base + Layout::mending, 1);
        for (i32 s = 0; s < 2; ++s) {
            mbarrier_init(base + Layout::full_k + 8 * s, 1);
            mbarrier_init(base + Layout::full_v + 8 * s, 1);
            mbarrier_init(base + Layout::empty_k + 8 * s, 8);
            mbarrier_init(base + Layout::empty_v + 8 * s, 8);
        }
        mbarrier_fence();
    }
    __syncthreads();

    if (group == 0) {
        registers_give<24>();
        if (warp_id() == 0) {
            if (lane_id() == 0) {
                mbarrier_expect(base + Layout::full_q, Layout::q_bytes);
                load_head<Layout::panels, BQ>(base, queries, base + Layout::full_q, head, tile.row);
            }
            Mending mending{base + Layout::mending, 0};
            // From the last keys to the first: the tiles that need a mask come first.
            for (i32 step = 0; step < steps; ++step) {
                i32 key = first + (steps - 1 - step) * BKV, s = step % 2;
                u32 phase = u32(step / 2) & 1u;
                mbarrier_wait(base + Layout::empty_k + 8 * s, phase ^ 1);
                if (lane_id() == 0) {
                    mbarrier_expect(base + Layout::full_k + 8 * s, Layout::kv_bytes);
                    load_head<Layout::panels, BKV>(base + Layout::k + s * Layout::kv_bytes, keys,
                                                   base + Layout::full_k + 8 * s, task.heads + kv_head, key);
                }
                mbarrier_wait(base + Layout::empty_v + 8 * s, phase ^ 1);
                u32 v = base + Layout::v + s * Layout::kv_bytes;
                load_document<BKV>(
                    base + Layout::full_v + 8 * s, mending, Layout::kv_bytes, key, tile.end, task.rows,
                    [&](u32 barrier) {
                        load_head<Layout::panels, BKV>(v, keys, barrier,
                                                       task.heads + task.key_values + kv_head, key);
                    },
                    [&](i32 from) { clear_rows<Layout::panels, BKV>(v, from); });
            }
        }
        return;
    }

    registers_take<240>();
    u32 half = group - 1;
    i32 warp = i32(warp_id()) % 4, g = i32(lane_id()) / 4, q = i32(lane_id()) % 4;
    i32 query = tile.row + 64 * i32(half) + 16 * warp + g;
    f32 o[D / 2], s[BKV / 2];
    Softmax state{{LEAST, LEAST}, {0.0f, 0.0f}};
    f32 shrink[2];

    // Barriers 1 and 2 are the turns of the first and of the second warpgroup.
    auto begin_turn = [&] { barrier_sync(1 + half, 256); };
    auto end_turn = [&](i32 step) {  // the second's last turn is followed by none
        if (half == 0 || step + 1 < steps) barrier_arrive(2 - half, 256);
    };
    auto scores = [&](i32 step) {  // s = q kᵀ, issued
        i32 at = step % 2;
        u32 at_q = computed_here(base + half * 64 * 128);
        mbarrier_wait(base + Layout::full_k + 8 * at, u32(step / 2) & 1u);
        begin_turn();
        wgmma_fence();
#pragma unroll
        for (i32 k = 0; k < D / 16; ++k)
            wgmma<0, 0>(
                s, matrix_descriptor(at_q + k / 4 * BQ * 128 + k % 4 * 32, 0, 1024),
                matrix_descriptor(base + Layout::k + at * Layout::kv_bytes + k / 4 * BKV * 128 + k % 4 * 32,
                                  0, 1024),
                k > 0);
        wgmma_commit();
    };
    u32 p[BKV / 16][4];
    auto weighted = [&](i32 step) {  // o += p v, issued
        i32 at = step % 2;
        mbarrier_wait(base + Layout::full_v + 8 * at, u32(step / 2) & 1u);
        wgmma_fence();
#pragma unroll
        for (i32 k = 0; k < BKV / 16; ++k)
            wgmma_registers<1>(
                o, p[k],
                matrix_descriptor(base + Layout::v + at * Layout::kv_bytes + k * 2048, BKV * 128, 1024),
                step > 0 || k > 0);
        wgmma_commit();
    };
    auto release = [&](u32 barrier, i32 step) {
        if (lane_id() == 0) mbarrier_arrive(base + barrier + 8 * (step % 2));
    };
    auto masked = [&](i32 step) {
        i32 key = first + (steps - 1 - step) * BKV;
        i32 row = tile.row + 64 * i32(half);
        return key + BKV - 1 > row || (task.window > 0 && key < first_key(row + 63, tile.start, task.window));
    };
    auto softmax = [&](i32 step) {
        softmax_step<BKV>(s, state, shrink, task, tile, query, first + (steps - 1 - step) * BKV,
                          masked(step));
    };
    auto to_operand = [&] {
#pragma unroll
        for (i32 k = 0; k < BKV / 16; ++k) as_operand(p[k], s, k);
    };

    mbarrier_wait(base + Layout::full_q, 0);
    if (half == 1) barrier_arrive(1, 256);  // the first begins
    scores(0);
    end_turn(0);
    wgmma_wait<0>();
    wgmma_hold(s);
    release(Layout::empty_k, 0);
    softmax(0);
    to_operand();
    for (i32 step = 1; step < steps; ++step) {
        scores(step);
        weighted(step - 1);
        end_turn(step);
        wgmma_wait<1>();
        wgmma_hold(s);
        release(Layout::empty_k, step);
        softmax(step);
        wgmma_wait<0>();
        wgmma_hold(o);
        release(Layout::empty_v, step - 1);
#pragma unroll
        for (i32 i = 0; i < D / 2; ++i) o[i] *= shrink[i / 2 % 2];
        to_operand();
    }
    weighted(steps - 1);
    wgmma_wait<0>();
    wgmma_hold(o);

#pragma unroll
    for (i32 h = 0; h < 2; ++h) {
        f32 sum = state.sum[h];
        sum += __shfl_xor_sync(ALL_LANES, sum, 1);
        sum += __shfl_xor_sync(ALL_LANES, sum, 2);
        i32 row = query + 8 * h;
        if (row > last_row) continue;
        f32 unit = task.cap != 0.0f ? 1.0f : task.scale;
        if (q == 0) log_sums[i64(head) * task.rows + row] = state.most[h] * unit + LN_2 * log2f(sum);
        f32 share = 1.0f / sum;
        bf16* at = out + (i64(row) * task.heads + head) * task.size;
#pragma unroll
        for (i32 j = 0; j < D / 8; ++j) {
            i32 column = 8 * j + 2 * q;
            if (column < task.size)
                *reinterpret_cast<u32*>(at + column) =
                    pack_bf16(o[4 * j + 2 * h] * share, o[4 * j + 2 * h + 1] * share);
        }
    }
}

#define FORWARD(D)                                                                                 \
    KERNEL_BOUNDS(attention_forward_##D, 384, 1, GRID_CONSTANT TensorMap queries,                  \
                  GRID_CONSTANT TensorMap keys, GRID_CONSTANT AttentionTask task, bf16* out,       \
                  f32* log_sums) {                                                                 \
        attention_forward<D>(queries, keys, task, out, log_sums);                                  \
    }
FORWARD(64)
FORWARD(128)
FORWARD(256)
#undef FORWARD
