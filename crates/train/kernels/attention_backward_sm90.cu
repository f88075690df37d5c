// Flash attention backward on Hopper, in two kernels that repeat bit for bit: nothing is summed by
// atomics. Scores and their gradients are recomputed, in one kernel by keys and in one by queries.
//
//   attention_backward_kv_D  dk, dv of 128 keys (64 where D is 256), over all the queries that see them
//   attention_backward_q_D   dq of 128 queries, over all the keys that they see
//
//   threads                  384: one warpgroup loads, two compute
//   schedule                 one block a tile and head; tiles stand the other way round (keys by
//                            queries) in the first, so that probabilities and score gradients go from
//                            the accumulators straight into the next product's registers. A product is
//                            waited for only when its result is needed, so that the exponentials run
//                            behind products
//
// Where D is 256, the accumulators of dk and dv do not fit into one warpgroup: the first computes dv,
// the second dk.
//
// Method: Dao, FlashAttention-2 (arXiv 2307.08691), algorithm 2, split in two for order.
#include "attention_hopper.cuh"

/// 64 rows of a gradient, times `factor`, to rows [row, end) of one head.
template <i32 D>
DEVICE void put_gradient(bf16* to, i32 width, i32 head, i32 size, const f32 (&d)[D / 2], f32 factor, i32 row,
                         i32 end) {
    i32 warp = i32(warp_id()) % 4, g = i32(lane_id()) / 4, q = i32(lane_id()) % 4;
#pragma unroll
    for (i32 h = 0; h < 2; ++h) {
        i32 r = row + 16 * warp + g + 8 * h;
        if (r >= end) continue;
        bf16* at = to + i64(r) * width + i64(head) * size;
#pragma unroll
        for (i32 j = 0; j < D / 8; ++j) {
            i32 column = 8 * j + 2 * q;
            if (column < size)
                *reinterpret_cast<u32*>(at + column) =
                    pack_bf16(d[4 * j + 2 * h] * factor, d[4 * j + 2 * h + 1] * factor);
        }
    }
}

// ---------------------------------------------------------------------------------------------
// dk and dv

template <i32 D>
struct KeysLayout {
    static constexpr i32 queries = 64;  // of one step
    static constexpr i32 keys = D == 256 ? 64 : 128;
    static constexpr i32 panels = D / 64;
    static constexpr i32 stages = D == 256 ? 2 : 3;
    static constexpr u32 kv_bytes = keys * D * 2;
    static constexpr u32 q_bytes = queries * D * 2;
    static constexpr u32 v = kv_bytes;
    static constexpr u32 q = 2 * kv_bytes;
    static constexpr u32 dout = q + stages * q_bytes;
    static constexpr u32 sums = dout + stages * q_bytes;  // by stage: log sums, then deltas
    static constexpr u32 full_kv = sums + stages * 2 * queries * 4;
    static constexpr u32 full = full_kv + 8;
    static constexpr u32 empty = full + 8 * stages;
    static constexpr u32 mending = empty + 8 * stages;
    static constexpr u32 bytes = mending + 8;
};

/// Brings one step's queries, gradients of the output, log sums and deltas; a warp's work.
template <class Layout>
DEVICE void load_step(u32 base, const TensorMap& queries, const TensorMap& douts, const f32* log_sums,
                      const f32* delta, const AttentionTask& task, Mending& mending, i32 step, i32 head,
                      i32 row, i32 end) {
    i32 s = step % Layout::stages;
    u32 phase = u32(step / Layout::stages) & 1u;
    mbarrier_wait(base + Layout::empty + 8 * s, phase ^ 1);
    u32 sums = base + Layout::sums + s * 2 * Layout::queries * 4;
#pragma unroll
    for (i32 i = 0; i < Layout::queries; i += 32) {
        i32 at = i + i32(lane_id());
        bool inside = row + at < end;
        i64 from = i64(head) * task.rows + row + at;
        store_shared_u32(sums + at * 4, f32_to_bits(inside ? log_sums[from] * LOG2_E : 0.0f));
        store_shared_u32(sums + (Layout::queries + at) * 4, f32_to_bits(inside ? delta[from] : 0.0f));
    }
    __syncwarp();
    u32 q = base + Layout::q + s * Layout::q_bytes, dout = base + Layout::dout + s * Layout::q_bytes;
    load_document<Layout::queries>(
        base + Layout::full + 8 * s, mending, 2 * Layout::q_bytes, row, end, task.rows,
        [&](u32 barrier) {
            load_head<Layout::panels, Layout::queries>(q, queries, barrier, head, row);
            load_head<Layout::panels, Layout::queries>(dout, douts, barrier, head, row);
        },
        [&](i32 from) {
            clear_rows<Layout::panels, Layout::queries>(q, from);
            clear_rows<Layout::panels, Layout::queries>(dout, from);
        });
}

/// A computing warpgroup's work: dv, dk or both of the 64 keys from 64 · `part` of the tile on.
template <i32 D, bool capped, bool for_v, bool for_k>
DEVICE void compute_kv(u32 base, const AttentionTask& task, const AttentionTile& tile, i32 kv_head, i32 part,
                       i32 members, i32 steps, bf16* dqkv) {
    using Layout = KeysLayout<D>;
    constexpr i32 Q = Layout::queries, BKV = Layout::keys;
    i32 warp = i32(warp_id()) % 4, g = i32(lane_id()) / 4, q = i32(lane_id()) % 4;
    i32 first = tile.row + 64 * part, key = first + 16 * warp + g;
    u32 rows = u32(part) * 64 * 128;
    f32 dv[for_v ? D / 2 : 1], dk[for_k ? D / 2 : 1];
    f32 p[Q / 2], ds[Q / 2];
    u32 a_p[Q / 16][4], a_ds[Q / 16][4];
    i32 last = members * steps - 1;
    auto stage = [](i32 step) { return u32(step % Layout::stages); };
    auto at_q = [&](i32 step) { return base + Layout::q + stage(step) * Layout::q_bytes; };
    auto at_dout = [&](i32 step) { return base + Layout::dout + stage(step) * Layout::q_bytes; };
    auto scores = [&](i32 step) {  // p = k qᵀ, keys by queries, issued
        u32 at_keys = computed_here(base + rows);
        mbarrier_wait(base + Layout::full + 8 * stage(step), u32(step / Layout::stages) & 1u);
        wgmma_fence();
#pragma unroll
        for (i32 k = 0; k < D / 16; ++k)
            wgmma<0, 0>(p, matrix_descriptor(at_keys + k / 4 * BKV * 128 + k % 4 * 32, 0, 1024),
                        matrix_descriptor(at_q(step) + k / 4 * Q * 128 + k % 4 * 32, 0, 1024), k > 0);
        wgmma_commit();
    };
    auto dprobabilities = [&](i32 step) {  // ds = v doutᵀ, issued
        u32 at_values = computed_here(base + Layout::v + rows);
        wgmma_fence();
#pragma unroll
        for (i32 k = 0; k < D / 16; ++k)
            wgmma<0, 0>(ds,
                        matrix_descriptor(at_values + k / 4 * BKV * 128 + k % 4 * 32, 0, 1024),
                        matrix_descriptor(at_dout(step) + k / 4 * Q * 128 + k % 4 * 32, 0, 1024), k > 0);
        wgmma_commit();
    };
    auto each = [&](i32 step, auto change) {  // of the scores: (place, log sum, delta, visible)
        i32 query = tile.row + step % steps * Q;
        u32 sums = base + Layout::sums + stage(step) * 2 * Q * 4;
        bool masked = query < first + 63 || query + Q > tile.end || task.window > 0;
#pragma unroll
        for (i32 j = 0; j < Q / 8; ++j)
#pragma unroll
            for (i32 c = 0; c < 2; ++c) {
                i32 column = 8 * j + 2 * q + c, i = query + column;
                f32 log_sum = bits_to_f32(load_shared_u32(sums + column * 4));
                f32 less = bits_to_f32(load_shared_u32(sums + (Q + column) * 4));
#pragma unroll
                for (i32 h = 0; h < 2; ++h)
                    change(4 * j + 2 * h + c, log_sum, less,
                           !masked || (i < tile.end && sees(i, key + 8 * h, tile.start, task.window)));
            }
    };
    auto probabilities = [&](i32 step) {
        if constexpr (!capped)
            each(step, [&](i32 at, f32 log_sum, f32, bool visible) {
                p[at] = probability(p[at], log_sum, visible, task);
            });
    };
    // The first operands of dv and dk; no product may be under way.
    auto operands = [&](i32 step) {
        if constexpr (capped)
            each(step, [&](i32 at, f32 log_sum, f32 less, bool visible) {
                f32 gradient = for_k ? ds[at] : 0.0f;
                score_gradient(p[at], gradient, log_sum, less, visible, task);
                if constexpr (for_k) ds[at] = gradient;
            });
        else if constexpr (for_k)
            each(step, [&](i32 at, f32, f32 less, bool) { ds[at] = p[at] * (ds[at] - less); });
#pragma unroll
        for (i32 k = 0; k < Q / 16; ++k) {
            if constexpr (for_v) as_operand(a_p[k], p, k);
            if constexpr (for_k) as_operand(a_ds[k], ds, k);
        }
    };
    auto gradients = [&](i32 step) {  // dv += pᵀ dout, dk += dsᵀ q, issued
        wgmma_fence();
        if constexpr (for_v) {
#pragma unroll
            for (i32 k = 0; k < Q / 16; ++k)
                wgmma_registers<1>(dv, a_p[k], matrix_descriptor(at_dout(step) + k * 2048, Q * 128, 1024),
                                   step > 0 || k > 0);
            wgmma_commit();
        }
        if constexpr (for_k) {
#pragma unroll
            for (i32 k = 0; k < Q / 16; ++k)
                wgmma_registers<1>(dk, a_ds[k], matrix_descriptor(at_q(step) + k * 2048, Q * 128, 1024),
                                   step > 0 || k > 0);
            wgmma_commit();
        }
    };
    auto hold = [&] {
        wgmma_hold(p);
        if constexpr (for_v) wgmma_hold(dv);
        if constexpr (for_k) wgmma_hold(dk);
    };

    mbarrier_wait(base + Layout::full_kv, 0);
    scores(0);
    if constexpr (for_k) dprobabilities(0);
    wgmma_wait<for_k ? 1 : 0>();
    wgmma_hold(p);
    probabilities(0);
    wgmma_wait<0>();
    if constexpr (for_k) wgmma_hold(ds);
    for (i32 step = 0; step < last; ++step) {
        operands(step);
        scores(step + 1);
        gradients(step);
        wgmma_wait<1>();  // the next scores, and dv with its operands' registers
        wgmma_hold(p);
        if constexpr (for_k) dprobabilities(step + 1);
        probabilities(step + 1);
        wgmma_wait<0>();
        hold();
        if constexpr (for_k) wgmma_hold(ds);
        __syncwarp();  // all lanes have read the sums that stand beside the stage
        if (lane_id() == 0) mbarrier_arrive(base + Layout::empty + 8 * stage(step));
    }
    operands(last);
    gradients(last);
    wgmma_wait<0>();
    hold();
    i32 width = (task.heads + 2 * task.key_values) * task.size, k_head = task.heads + kv_head;
    if constexpr (for_v)
        put_gradient<D>(dqkv, width, k_head + task.key_values, task.size, dv, 1.0f, first, tile.end);
    if constexpr (for_k)
        put_gradient<D>(dqkv, width, k_head, task.size, dk, task.scale, first, tile.end);
}

template <i32 D, bool capped>
DEVICE void backward_kv(const TensorMap& queries, const TensorMap& keys, const TensorMap& douts,
                        const AttentionTask& task, const f32* log_sums, const f32* delta, bf16* dqkv) {
    using Layout = KeysLayout<D>;
    constexpr i32 BKV = Layout::keys;
    DYNAMIC_SHARED(memory);
    u32 base = shared_address(memory);
    AttentionTile tile = task.list[blockIdx.x];
    if (tile.row >= tile.end) return;
    i32 kv_head = i32(blockIdx.y), members = task.heads / task.key_values;
    u32 group = threadIdx.x / 128;
    i32 steps = steps_of_keys(tile, BKV, task.window, Layout::queries).count;  // of one query head

    if (threadIdx.x == 0) {
        mbarrier_init(base + Layout::full_kv, 1);
        mbarrier_init(base + Layout::mending, 1);
        for (i32 s = 0; s < Layout::stages; ++s) {
            mbarrier_init(base + Layout::full + 8 * s, 1);
            mbarrier_init(base + Layout::empty + 8 * s, 8);
        }
        mbarrier_fence();
    }
    __syncthreads();

    if (group == 0) {
        registers_give<24>();
        if (warp_id() == 0) {
            if (lane_id() == 0) {
                mbarrier_expect(base + Layout::full_kv, 2 * Layout::kv_bytes);
                load_head<Layout::panels, BKV>(base, keys, base + Layout::full_kv, task.heads + kv_head,
                                               tile.row);
                load_head<Layout::panels, BKV>(base + Layout::v, keys, base + Layout::full_kv,
                                               task.heads + task.key_values + kv_head, tile.row);
            }
            Mending mending{base + Layout::mending, 0};
            for (i32 step = 0; step < members * steps; ++step)
                load_step<Layout>(base, queries, douts, log_sums, delta, task, mending, step,
                                  kv_head * members + step / steps,
                                  tile.row + step % steps * Layout::queries, tile.end);
        }
    } else {
        registers_take<240>();
        if constexpr (D < 256)
            compute_kv<D, capped, true, true>(base, task, tile, kv_head, i32(group) - 1, members, steps, dqkv);
        else if (group == 1)
            compute_kv<D, capped, true, false>(base, task, tile, kv_head, 0, members, steps, dqkv);
        else
            compute_kv<D, capped, false, true>(base, task, tile, kv_head, 0, members, steps, dqkv);
    }
}

// ---------------------------------------------------------------------------------------------
// dq

template <i32 D>
struct QueriesLayout {
    static constexpr i32 queries = 128;
    static constexpr i32 keys = D == 64 ? 128 : 64;  // of one step
    static constexpr i32 panels = D / 64;
    static constexpr u32 q_bytes = queries * D * 2;
    static constexpr u32 kv_bytes = keys * D * 2;
    static constexpr i32 stages = D == 256 ? 1 : 3;
    static constexpr u32 dout = q_bytes;
    static constexpr u32 k = 2 * q_bytes;
    static constexpr u32 v = k + stages * kv_bytes;
    static constexpr u32 full_q = v + stages * kv_bytes;
    static constexpr u32 full = full_q + 8;
    static constexpr u32 empty = full + 8 * stages;
    static constexpr u32 mending = empty + 8 * stages;
    static constexpr u32 bytes = mending + 8;
};

template <i32 D, bool capped>
DEVICE void backward_q(const TensorMap& queries, const TensorMap& keys, const TensorMap& douts,
                       const AttentionTask& task, const f32* log_sums, const f32* delta, bf16* dqkv) {
    using Layout = QueriesLayout<D>;
    constexpr i32 BQ = Layout::queries, K = Layout::keys;
    DYNAMIC_SHARED(memory);
    u32 base = shared_address(memory);
    AttentionTile tile = task.list[blockIdx.x];
    if (tile.row >= tile.end) return;
    i32 head = i32(blockIdx.y), kv_head = head / (task.heads / task.key_values);
    u32 group = threadIdx.x / 128;
    i32 end = least(tile.row + BQ, tile.end);
    Steps seen = steps_of_queries(tile, BQ, task.window, K);
    i32 first = seen.first, steps = seen.count;

    if (threadIdx.x == 0) {
        mbarrier_init(base + Layout::full_q, 1);
        mbarrier_init(base + Layout::mending, 1);
        for (i32 s = 0; s < Layout::stages; ++s) {
            mbarrier_init(base + Layout::full + 8 * s, 1);
            mbarrier_init(base + Layout::empty + 8 * s, 8);
        }
        mbarrier_fence();
    }
    __syncthreads();

    if (group == 0) {
        registers_give<24>();
        if (warp_id() == 0) {
            if (lane_id() == 0) {
                mbarrier_expect(base + Layout::full_q, 2 * Layout::q_bytes);
                load_head<Layout::panels, BQ>(base, queries, base + Layout::full_q, head, tile.row);
                load_head<Layout::panels, BQ>(base + Layout::dout, douts, base + Layout::full_q, head,
                                              tile.row);
            }
            Mending mending{base + Layout::mending, 0};
            for (i32 step = 0; step < steps; ++step) {
                i32 s = step % Layout::stages, key = first + step * K;
                mbarrier_wait(base + Layout::empty + 8 * s, (u32(step / Layout::stages) & 1u) ^ 1u);
                u32 k = base + Layout::k + s * Layout::kv_bytes, v = base + Layout::v + s * Layout::kv_bytes;
                load_document<K>(
                    base + Layout::full + 8 * s, mending, 2 * Layout::kv_bytes, key, tile.end, task.rows,
                    [&](u32 barrier) {
                        load_head<Layout::panels, K>(k, keys, barrier, task.heads + kv_head, key);
                        load_head<Layout::panels, K>(v, keys, barrier,
                                                     task.heads + task.key_values + kv_head, key);
                    },
                    [&](i32 from) {
                        clear_rows<Layout::panels, K>(k, from);
                        clear_rows<Layout::panels, K>(v, from);
                    });
            }
        }
        return;
    }

    registers_take<240>();
    i32 half = i32(group) - 1;
    i32 warp = i32(warp_id()) % 4, g = i32(lane_id()) / 4, q = i32(lane_id()) % 4;
    i32 query = tile.row + 64 * half + 16 * warp + g;
    f32 log_sum[2], less[2];
#pragma unroll
    for (i32 h = 0; h < 2; ++h) {
        i64 at = i64(head) * task.rows + query + 8 * h;
        bool inside = query + 8 * h < end;
        log_sum[h] = inside ? log_sums[at] * LOG2_E : 0.0f;
        less[h] = inside ? delta[at] : 0.0f;
    }
    f32 dq[D / 2], p[K / 2], ds[K / 2];
    u32 a[K / 16][4];
    auto stage = [](i32 step) { return u32(step % Layout::stages); };
    auto scores = [&](i32 step) {  // p = q kᵀ, issued
        u32 at_k = base + Layout::k + stage(step) * Layout::kv_bytes;
        u32 at_q = computed_here(base + half * 64 * 128);
        mbarrier_wait(base + Layout::full + 8 * stage(step), u32(step / Layout::stages) & 1u);
        wgmma_fence();
#pragma unroll
        for (i32 k = 0; k < D / 16; ++k)
            wgmma<0, 0>(p, matrix_descriptor(at_q + k / 4 * BQ * 128 + k % 4 * 32, 0, 1024),
                        matrix_descriptor(at_k + k / 4 * K * 128 + k % 4 * 32, 0, 1024), k > 0);
        wgmma_commit();
    };
    auto release = [&](i32 step) {
        if (lane_id() == 0) mbarrier_arrive(base + Layout::empty + 8 * stage(step));
    };
    auto dprobabilities = [&](i32 step) {  // ds = dout vᵀ, issued
        u32 at_v = base + Layout::v + stage(step) * Layout::kv_bytes;
        u32 at_dout = computed_here(base + Layout::dout + half * 64 * 128);
        wgmma_fence();
#pragma unroll
        for (i32 k = 0; k < D / 16; ++k)
            wgmma<0, 0>(
                ds,
                matrix_descriptor(at_dout + k / 4 * BQ * 128 + k % 4 * 32, 0, 1024),
                matrix_descriptor(at_v + k / 4 * K * 128 + k % 4 * 32, 0, 1024), k > 0);
        wgmma_commit();
    };
    auto each = [&](i32 step, auto change) {  // of the scores: (place, which of the two rows, visible)
        i32 key = first + step * K;
        bool masked = key + K - 1 > query - g - 16 * warp || tile.row + BQ > tile.end || task.window > 0;
#pragma unroll
        for (i32 j = 0; j < K / 8; ++j)
#pragma unroll
            for (i32 i = 0; i < 4; ++i) {
                i32 h = i / 2, at = key + 8 * j + 2 * q + i % 2, row = query + 8 * h;
                change(4 * j + i, h, !masked || (row < end && sees(row, at, tile.start, task.window)));
            }
    };
    auto probabilities = [&](i32 step) {
        if constexpr (!capped)
            each(step, [&](i32 at, i32 h, bool visible) {
                p[at] = probability(p[at], log_sum[h], visible, task);
            });
    };
    auto operand = [&](i32 step) {  // of dq; no product may be under way
        if constexpr (capped)
            each(step, [&](i32 at, i32 h, bool visible) {
                score_gradient(p[at], ds[at], log_sum[h], less[h], visible, task);
            });
        else
            each(step, [&](i32 at, i32 h, bool) { ds[at] = p[at] * (ds[at] - less[h]); });
#pragma unroll
        for (i32 k = 0; k < K / 16; ++k) as_operand(a[k], ds, k);
    };
    auto gradient = [&](i32 step) {  // dq += ds k, issued
        u32 at_k = base + Layout::k + stage(step) * Layout::kv_bytes;
        wgmma_fence();
#pragma unroll
        for (i32 k = 0; k < K / 16; ++k)
            wgmma_registers<1>(dq, a[k], matrix_descriptor(at_k + k * 2048, K * 128, 1024), step > 0 || k > 0);
        wgmma_commit();
    };

    // Once the scores are there: their probabilities, and what runs behind them.
    auto finish_scores = [&](i32 step) {
        wgmma_hold(p);
        probabilities(step);
        wgmma_wait<0>();
        wgmma_hold(ds);
        wgmma_hold(dq);
    };

    mbarrier_wait(base + Layout::full_q, 0);
    if constexpr (Layout::stages == 1) {  // the next keys come when these have gone
        for (i32 step = 0; step < steps; ++step) {
            scores(step);
            dprobabilities(step);
            wgmma_wait<1>();
            finish_scores(step);
            operand(step);
            gradient(step);
            wgmma_wait<0>();
            wgmma_hold(dq);
            release(step);
        }
    } else {
        scores(0);
        dprobabilities(0);
        wgmma_wait<1>();
        finish_scores(0);
        for (i32 step = 0; step + 1 < steps; ++step) {
            operand(step);
            scores(step + 1);
            gradient(step);
            dprobabilities(step + 1);
            wgmma_wait<2>();
            finish_scores(step + 1);
            release(step);
        }
        operand(steps - 1);
        gradient(steps - 1);
        wgmma_wait<0>();
        wgmma_hold(dq);
    }
    i32 width = (task.heads + 2 * task.key_values) * task.size;
    put_gradient<D>(dqkv, width, head, task.size, dq, task.scale, tile.row + 64 * half, end);
}

#define BACKWARD(name, D, capped)                                                                    \
    KERNEL_BOUNDS(attention_backward_kv_##name, 384, 1, GRID_CONSTANT TensorMap queries,             \
                  GRID_CONSTANT TensorMap keys, GRID_CONSTANT TensorMap douts,                       \
                  GRID_CONSTANT AttentionTask task, const f32* log_sums, const f32* delta, bf16* dqkv) { \
        backward_kv<D, capped>(queries, keys, douts, task, log_sums, delta, dqkv);                   \
    }                                                                                                \
    KERNEL_BOUNDS(attention_backward_q_##name, 384, 1, GRID_CONSTANT TensorMap queries,              \
                  GRID_CONSTANT TensorMap keys, GRID_CONSTANT TensorMap douts,                       \
                  GRID_CONSTANT AttentionTask task, const f32* log_sums, const f32* delta, bf16* dqkv) { \
        backward_q<D, capped>(queries, keys, douts, task, log_sums, delta, dqkv);                    \
    }
BACKWARD(64, 64, false)
BACKWARD(128, 128, false)
BACKWARD(256, 256, false)
BACKWARD(capped_64, 64, true)
BACKWARD(capped_128, 128, true)
BACKWARD(capped_256, 256, true)
#undef BACKWARD
