// Matrix products on Hopper: c [M, N] = a · bᵀ over K, bf16 in, f32 sums.
//
//   tile            128 × BN, BN 256 or 128 or 64; k in blocks of 64
//   threads         384: one warpgroup loads, two compute (64 rows of the tile each)
//   shared memory   a ring of 4 (BN 256), 6 or 8 stages, and 16 KB a computing warpgroup for the way out
//   schedule        persistent: one block a multiprocessor, tiles in the order of tiles.cuh
//
// Each operand is K-major ([rows, K], as x and w in y = x wᵀ) or MN-major ([K, rows], as dy and x in
// dw = dyᵀ x): the tensor cores read both, so nothing is ever transposed in memory.
//
// Ways out: bf16, plus a bias by column and a residual where they are given; or f32, added to what is
// there or put into one plane a split, which gemm_reduce sums in order; or, of the gate and up of a
// feed-forward, bf16 and the gated values beside them: a tile then has the same 128 columns of both.
#include "activation.cuh"
#include "gemm.cuh"
#include "hopper.cuh"

constexpr i32 GEMM_BM = 128;
constexpr i32 GEMM_PANEL = 64 * 64 * 2;  // bytes of a 64 × 64 panel of bf16

template <i32 BN>
struct GemmLayout {
    static constexpr i32 stages = BN == 256 ? 4 : BN == 128 ? 6 : 8;
    static constexpr u32 a_bytes = GEMM_BM * GEMM_BK * 2;
    static constexpr u32 b_bytes = BN * GEMM_BK * 2;
    static constexpr u32 stage_bytes = a_bytes + b_bytes;
    static constexpr u32 out_bytes = 2 * 2 * GEMM_PANEL;  // two panels for each of two warpgroups
    static constexpr u32 out = stages * stage_bytes;
    static constexpr u32 full = out + out_bytes;
    static constexpr u32 empty = full + stages * 8;
    static constexpr u32 bytes = empty + stages * 8;
};

/// Where a warpgroup's two panels on the way out stand.
template <i32 BN>
DEVICE u32 gemm_out_place(u32 half) {
    DYNAMIC_SHARED(memory);
    return shared_address(memory) + GemmLayout<BN>::out + half * 2 * GEMM_PANEL;
}

/// Loads `rows` × 64 of an operand at (row, k): K-major in one box, MN-major in boxes of 64 × 64.
template <i32 rows, i32 mn_major>
DEVICE void gemm_load(u32 shared, const TensorMap& map, u32 barrier, i32 row, i32 k) {
    if (mn_major) {
#pragma unroll
        for (i32 i = 0; i < rows / 64; ++i)
            tensor_load_2d(shared + i * GEMM_PANEL, map, barrier, row + 64 * i, k);
    } else {
        tensor_load_2d(shared, map, barrier, k, row);
    }
}

/// The descriptor of an operand at k step 16 · `step` in its stage.
template <i32 mn_major>
HOST_DEVICE u64 gemm_operand(u32 shared, i32 step) {
    return mn_major ? matrix_descriptor(shared + step * 2048, GEMM_PANEL, 1024)
                    : matrix_descriptor(shared + step * 32, 0, 1024);
}

/// One panel of 64 × 64 out through shared memory, which the copy engine takes away to (row, column).
/// `two(k, r, x)` are the bf16 at row r and columns x, x + 1 of the panel, which are d[k], d[k + 1] of a
/// first panel. `room`: how many panels before this one may still be on their way.
template <i32 room, typename TwoValues>
DEVICE void gemm_out_panel(const TensorMap& c, u32 at, u32 group, i32 row, i32 column, TwoValues two) {
    u32 thread = threadIdx.x & 127u, warp = thread / 32, g = thread % 32 / 4, q = thread % 4;
    if (thread == 0) tensor_store_wait_read<room>();
    barrier_sync(1 + group, 128);
#pragma unroll
    for (i32 j = 0; j < 8; ++j)
#pragma unroll
        for (i32 i = 0; i < 2; ++i) {
            u32 r = 16 * warp + g + 8 * i, x = 8 * j + 2 * q;
            store_shared_u32(at + swizzle_128(r * 128 + x * 2), two(4 * j + 2 * i, i32(r), i32(x)));
        }
    shared_fence();
    barrier_sync(1 + group, 128);
    if (thread == 0) {
        tensor_store_2d(c, at, column, row);
        tensor_store_commit();
    }
}

/// Out as bf16.
template <i32 BN>
DEVICE void gemm_out_bf16(const GemmTask& task, const TensorMap& c, const f32 (&d)[BN / 2], u32 shared,
                          u32 group, i32 row, i32 column) {
#pragma unroll
    for (i32 panel = 0; panel < BN / 64; ++panel)
        // A single panel has no second place.
        gemm_out_panel<BN == 64 ? 0 : 1>(
            c, shared + (panel & 1) * GEMM_PANEL, group, row, column + 64 * panel,
            [&](i32 k, i32 r, i32 x) {
                f32 x0 = d[32 * panel + k], x1 = d[32 * panel + k + 1];
                gemm_finish(task, x0, x1, row + r, column + 64 * panel + x);
                return pack_bf16(x0, x1);
            });
}

/// Where gate and up and the gated values go.
struct GatedOut {
    const TensorMap& gate;
    const TensorMap& up;
    const TensorMap& y;
    i32 keep;  // whether gate and up are wanted
    i32 gelu;
};

/// Out as gate, up and gated, of which d holds 128 columns of gate and then the same of up.
DEVICE void gemm_out_gated(const GatedOut& out, const f32 (&d)[128], u32 shared, u32 group, i32 row,
                           i32 column) {
#pragma unroll
    for (i32 panel = 0; panel < 2; ++panel) {
        i32 at = 32 * panel, x = column + 64 * panel;
        u32 n = out.keep ? 3 * panel : panel;  // panels before; they take turns in two places
        if (out.keep) {
            gemm_out_panel<1>(out.gate, shared + (n++ & 1) * GEMM_PANEL, group, row, x,
                              [&](i32 k, i32, i32) { return pack_bf16(d[at + k], d[at + k + 1]); });
            gemm_out_panel<1>(
                out.up, shared + (n++ & 1) * GEMM_PANEL, group, row, x,
                [&](i32 k, i32, i32) { return pack_bf16(d[64 + at + k], d[64 + at + k + 1]); });
        }
        gemm_out_panel<1>(out.y, shared + (n & 1) * GEMM_PANEL, group, row, x, [&](i32 k, i32, i32) {
            return pack_bf16(gated(d[at + k], d[64 + at + k], out.gelu),
                             gated(d[at + k + 1], d[64 + at + k + 1], out.gelu));
        });
    }
}

/// Out as f32, straight from the registers.
template <i32 BN>
DEVICE void gemm_out_f32(const GemmTask& task, const f32 (&d)[BN / 2], i32 split, i32 row, i32 column) {
    u32 thread = threadIdx.x & 127u, warp = thread / 32, g = thread % 32 / 4, q = thread % 4;
#pragma unroll
    for (i32 j = 0; j < BN / 8; ++j)
#pragma unroll
        for (i32 i = 0; i < 2; ++i)
            gemm_put_f32(task, split, row + i32(16 * warp + g + 8 * i), column + 8 * j + i32(2 * q),
                         d[4 * j + 2 * i], d[4 * j + 2 * i + 1]);
}

/// `load_b(shared, barrier, column, k)` brings b's part of a stage for a column of tiles; `out(d, tile,
/// group)` takes a warpgroup's half of a tile away.
template <i32 BN, i32 a_mn, i32 b_mn, typename LoadB, typename Out>
DEVICE void gemm(const TensorMap& a, const GemmTask& task, LoadB load_b, Out out) {
    using Layout = GemmLayout<BN>;
    DYNAMIC_SHARED(memory);
    u32 base = shared_address(memory);
    u32 group = threadIdx.x / 128;
    i32 tiles = task.tiles.rows * task.tiles.columns * task.tiles.splits;
    i32 blocks = ceil_div(task.k, GEMM_BK);

    if (threadIdx.x == 0) {
        for (i32 s = 0; s < Layout::stages; ++s) {
            mbarrier_init(base + Layout::full + 8 * s, 1);
            mbarrier_init(base + Layout::empty + 8 * s, 8);  // the computing warps
        }
        mbarrier_fence();
    }
    __syncthreads();

    if (group == 0) {
        registers_give<40>();
        if (threadIdx.x == 0) {
            i32 stage = 0;
            u32 phase = 0;
            for (i32 id = i32(blockIdx.x); id < tiles; id += i32(gridDim.x)) {
                Tile tile = tile_at(task.tiles, id);
                Range range = split_range(blocks, task.tiles.splits, tile.split);
                for (i32 block = range.first; block < range.last; ++block) {
                    u32 full = base + Layout::full + 8 * stage;
                    u32 shared = base + stage * Layout::stage_bytes;
                    mbarrier_wait(base + Layout::empty + 8 * stage, phase ^ 1);
                    mbarrier_expect(full, Layout::stage_bytes);
                    gemm_load<GEMM_BM, a_mn>(shared, a, full, tile.row * GEMM_BM, block * GEMM_BK);
                    load_b(shared + Layout::a_bytes, full, tile.column, block * GEMM_BK);
                    if (++stage == Layout::stages) stage = 0, phase ^= 1;
                }
            }
        }
    } else {
        registers_take<232>();
        u32 half = group - 1;  // which 64 rows of the tile
        i32 stage = 0;
        u32 phase = 0;
        f32 d[BN / 2];
        for (i32 id = i32(blockIdx.x); id < tiles; id += i32(gridDim.x)) {
            Tile tile = tile_at(task.tiles, id);
            Range range = split_range(blocks, task.tiles.splits, tile.split);
            i32 before = -1;  // the stage that the product before this one still reads
            for (i32 block = range.first; block < range.last; ++block) {
                mbarrier_wait(base + Layout::full + 8 * stage, phase);
                u32 at_a = base + stage * Layout::stage_bytes + half * GEMM_PANEL;
                u32 at_b = base + stage * Layout::stage_bytes + Layout::a_bytes;
                wgmma_fence();
#pragma unroll
                for (i32 step = 0; step < GEMM_BK / 16; ++step)
                    wgmma<a_mn, b_mn>(d, gemm_operand<a_mn>(at_a, step),
                                      gemm_operand<b_mn>(at_b, step),
                                      step > 0 || block > range.first);
                wgmma_commit();
                wgmma_wait<1>();
                if (before >= 0 && lane_id() == 0)
                    mbarrier_arrive(base + Layout::empty + 8 * before);
                before = stage;
                if (++stage == Layout::stages) stage = 0, phase ^= 1;
            }
            wgmma_wait<0>();
            wgmma_hold(d);
            if (lane_id() == 0) mbarrier_arrive(base + Layout::empty + 8 * before);
            out(d, tile, half);
        }
        if ((threadIdx.x & 127u) == 0) tensor_store_wait<0>();
    }
}

template <i32 BN, i32 a_mn, i32 b_mn>
DEVICE void gemm_plain(const TensorMap& a, const TensorMap& b, const TensorMap& c, const GemmTask& task) {
    auto load_b = [&](u32 shared, u32 barrier, i32 column, i32 k) {
        gemm_load<BN, b_mn>(shared, b, barrier, column * BN, k);
    };
    gemm<BN, a_mn, b_mn>(a, task, load_b, [&](const f32(&d)[BN / 2], Tile tile, u32 half) {
        i32 row = tile.row * GEMM_BM + 64 * i32(half), column = tile.column * BN;
        if (task.out)
            gemm_out_f32<BN>(task, d, tile.split, row, column);
        else
            gemm_out_bf16<BN>(task, c, d, gemm_out_place<BN>(half), half, row, column);
    });
}

// nt: y = x wᵀ. nn: dx = dy w. tn: dw = dyᵀ x.
#define GEMM(BN, layout, a_mn, b_mn)                                                              \
    KERNEL_BOUNDS(gemm_##layout##_128x##BN, 384, 1, GRID_CONSTANT TensorMap a,                    \
                  GRID_CONSTANT TensorMap b, GRID_CONSTANT TensorMap c, GRID_CONSTANT GemmTask task) { \
        gemm_plain<BN, a_mn, b_mn>(a, b, c, task);                                                \
    }
GEMM(256, nt, 0, 0)
GEMM(256, nn, 0, 1)
GEMM(256, tn, 1, 1)
GEMM(128, nt, 0, 0)
GEMM(128, nn, 0, 1)
GEMM(128, tn, 1, 1)
GEMM(64, nt, 0, 0)
GEMM(64, nn, 0, 1)
GEMM(64, tn, 1, 1)
#undef GEMM

/// y [M, F] = act(x · gateᵀ) · (x · upᵀ), b [2F, K] being gate over up. `task.n` is F, a tile 128 columns.
KERNEL_BOUNDS(gemm_gated_128x256, 384, 1, GRID_CONSTANT TensorMap a, GRID_CONSTANT TensorMap b,
              GRID_CONSTANT TensorMap gate, GRID_CONSTANT TensorMap up, GRID_CONSTANT TensorMap y,
              GRID_CONSTANT GemmTask task, i32 keep, i32 gelu) {
    auto load_b = [&](u32 shared, u32 barrier, i32 column, i32 k) {
        gemm_load<128, 0>(shared, b, barrier, column * 128, k);
        gemm_load<128, 0>(shared + 2 * GEMM_PANEL, b, barrier, task.n + column * 128, k);
    };
    gemm<256, 0, 0>(a, task, load_b, [&](const f32(&d)[128], Tile tile, u32 half) {
        GatedOut out{gate, up, y, keep, gelu};
        gemm_out_gated(out, d, gemm_out_place<256>(half), half, tile.row * GEMM_BM + 64 * i32(half),
                       tile.column * 128);
    });
}
