// Matrix products on Ampere and Ada (and, slower than they could be, on anything newer): c [M, N] =
// a · bᵀ over K, bf16 in, f32 sums.
//
//   tile            128 × 128, or 64 × 64 for small products; k in blocks of 64
//   threads         256: eight warps, two by four
//   shared memory   a ring of 3 stages, swizzled, filled by cp.async
//   schedule        one block a tile, in the order of tiles.cuh
//
// The same task, layouts and ways out as gemm_sm90.cu. Rows of both operands start at multiples of
// 16 bytes; gemm_any in gemm_plain.cu takes the others.
#include "activation.cuh"
#include "gemm.cuh"

template <i32 BM, i32 BN>
struct RingLayout {
    static constexpr i32 stages = 3;
    static constexpr u32 a_bytes = BM * GEMM_BK * 2;
    static constexpr u32 b_bytes = BN * GEMM_BK * 2;
    static constexpr u32 stage_bytes = a_bytes + b_bytes;
    static constexpr u32 bytes = stages * stage_bytes;
};

/// Where line `line` of a tile of gate and up comes from, gate over up, `width` rows each: eight rows of
/// gate and the same eight of up by turns, so that a thread has the two of a column beside each other.
/// Past the end of gate there is nothing.
DEVICE i32 ring_gated_row(i32 first, i32 line, i32 width) {
    i32 row = first + line / 16 * 8 + line % 8;
    return row < width ? row + (line % 16 < 8 ? 0 : width) : 2 * width;
}

/// Copies `rows` × 64 of an operand at (row, k) into 128-byte rows, swizzled: K-major one row a row,
/// MN-major in panels of 64, each one row a k. What lies outside [0, extent) × [0, depth) is zero.
/// `gated`: the operand is gate over up, K-major, and `row` counts rows of gate.
template <i32 rows, i32 mn_major, i32 gated = 0>
DEVICE void ring_load(u32 shared, const bf16* from, i32 row, i32 k, i32 extent, i32 depth) {
    constexpr i32 units = rows * 8;  // of 16 bytes
#pragma unroll
    for (i32 i = 0; i < units / 256; ++i) {
        i32 unit = i32(threadIdx.x) + 256 * i, line = unit / 8, column = unit % 8 * 8;
        i32 mn, depth_at, place;
        if (mn_major) {
            mn = row + line / 64 * 64 + column;
            depth_at = k + line % 64;
            place = line;
        } else {
            mn = gated ? ring_gated_row(row, line, extent / 2) : row + line;
            depth_at = k + column;
            place = line;
        }
        bool inside = mn < extent && depth_at < depth;
        i32 left = mn_major ? extent - mn : depth - depth_at;
        i64 at = mn_major ? i64(depth_at) * extent + mn : i64(mn) * depth + depth_at;
        copy_async_16(shared + swizzle_128(u32(place * 128 + column * 2)), inside ? from + at : from,
                      inside ? u32(least(left, 8) * 2) : 0);
    }
}

/// Fragments of a [16, 16] at (m, k) of a stage.
template <i32 mn_major>
DEVICE void ring_a(u32 (&r)[4], u32 shared, i32 m, i32 k) {
    Element at = fragment_a(i32(lane_id()), mn_major);
    u32 place = shared + operand_place({m + at.mn, k + at.k}, mn_major);
    mn_major ? load_matrix_x4_transposed(r, place) : load_matrix_x4(r, place);
}

/// Fragments of b [16, 16], two columns of eight: registers 0, 1 for n, 2, 3 for n + 8.
template <i32 mn_major>
DEVICE void ring_b(u32 (&r)[4], u32 shared, i32 n, i32 k) {
    Element at = fragment_b(i32(lane_id()), mn_major);
    u32 place = shared + operand_place({n + at.mn, k + at.k}, mn_major);
    mn_major ? load_matrix_x4_transposed(r, place) : load_matrix_x4(r, place);
}

/// `out(split, row, column, at, x, y)` takes four values of a row away: those at columns `at`, `at` + 1
/// of the tile that begins at `column`, and those eight on. With `gated` b is gate over up.
template <i32 BM, i32 BN, i32 a_mn, i32 b_mn, i32 gated, typename Out>
DEVICE void ring_gemm(const bf16* a, const bf16* b, const GemmTask& task, Out out) {
    using Layout = RingLayout<BM, BN>;
    constexpr i32 WM = BM / 2, WN = BN / 4;      // a warp's part
    constexpr i32 FM = WM / 16, FN = WN / 16;    // in fragments of 16 × 16
    DYNAMIC_SHARED(memory);
    u32 base = shared_address(memory);
    i32 warp = i32(warp_id());
    Tile tile = tile_at(task.tiles, i32(blockIdx.x));
    Range range = split_range(ceil_div(task.k, GEMM_BK), task.tiles.splits, tile.split);
    i32 row = tile.row * BM, column = tile.column * (gated ? BN / 2 : BN);

    auto load = [&](i32 block) {
        if (block < range.last) {
            u32 shared = base + (block - range.first) % Layout::stages * Layout::stage_bytes;
            ring_load<BM, a_mn>(shared, a, row, block * GEMM_BK, task.m, task.k);
            ring_load<BN, b_mn, gated>(shared + Layout::a_bytes, b, column, block * GEMM_BK,
                                       gated ? 2 * task.n : task.n, task.k);
        }
        copy_async_commit();
    };
#pragma unroll
    for (i32 s = 0; s < Layout::stages - 1; ++s) load(range.first + s);

    f32 d[FM][2 * FN][4] = {};
    i32 m = warp / 4 * WM, n = warp % 4 * WN;
    for (i32 block = range.first; block < range.last; ++block) {
        copy_async_wait<Layout::stages - 2>();
        __syncthreads();
        load(block + Layout::stages - 1);
        u32 shared = base + (block - range.first) % Layout::stages * Layout::stage_bytes;
#pragma unroll
        for (i32 k = 0; k < GEMM_BK; k += 16) {
            u32 fa[FM][4], fb[FN][4];
#pragma unroll
            for (i32 i = 0; i < FM; ++i) ring_a<a_mn>(fa[i], shared, m + 16 * i, k);
#pragma unroll
            for (i32 j = 0; j < FN; ++j) ring_b<b_mn>(fb[j], shared + Layout::a_bytes, n + 16 * j, k);
#pragma unroll
            for (i32 i = 0; i < FM; ++i)
#pragma unroll
                for (i32 j = 0; j < FN; ++j) {
                    mma_16x8x16(d[i][2 * j], fa[i], fb[j][0], fb[j][1]);
                    mma_16x8x16(d[i][2 * j + 1], fa[i], fb[j][2], fb[j][3]);
                }
        }
    }

    i32 g = i32(lane_id()) / 4, q = i32(lane_id()) % 4;
#pragma unroll
    for (i32 i = 0; i < FM; ++i)
#pragma unroll
        for (i32 j = 0; j < FN; ++j)
#pragma unroll
            for (i32 h = 0; h < 2; ++h)
                out(tile.split, row + m + 16 * i + g + 8 * h, column, n + 16 * j + 2 * q,
                    d[i][2 * j] + 2 * h, d[i][2 * j + 1] + 2 * h);
}

template <i32 BM, i32 BN, i32 a_mn, i32 b_mn>
DEVICE void ring_plain(const bf16* a, const bf16* b, bf16* c, const GemmTask& task) {
    ring_gemm<BM, BN, a_mn, b_mn, 0>(
        a, b, task, [&](i32 split, i32 row, i32 column, i32 at, const f32* x, const f32* y) {
            gemm_put(task, c, split, row, column + at, x[0], x[1]);
            gemm_put(task, c, split, row, column + at + 8, y[0], y[1]);
        });
}

#define GEMM(BM, BN, layout, a_mn, b_mn)                                                          \
    KERNEL_BOUNDS(gemm_ring_##layout##_##BM##x##BN, 256, 1, const bf16* a, const bf16* b, bf16* c, \
                  GRID_CONSTANT GemmTask task) {                                                  \
        ring_plain<BM, BN, a_mn, b_mn>(a, b, c, task);                                            \
    }
GEMM(128, 128, nt, 0, 0)
GEMM(128, 128, nn, 0, 1)
GEMM(128, 128, tn, 1, 1)
GEMM(64, 64, nt, 0, 0)
GEMM(64, 64, nn, 0, 1)
GEMM(64, 64, tn, 1, 1)
#undef GEMM

/// y [M, F] = act(x · gateᵀ) · (x · upᵀ), b [2F, K] being gate over up, and both as they are unless
/// `gate_up` is null. `task.n` is F, a tile 64 columns of each.
KERNEL_BOUNDS(gemm_ring_gated_128x128, 256, 1, const bf16* a, const bf16* b, bf16* gate_up, bf16* y,
              GRID_CONSTANT GemmTask task, i32 gelu) {
    ring_gemm<128, 128, 0, 0, 1>(
        a, b, task, [&](i32, i32 row, i32 first, i32 at, const f32* gate, const f32* up) {
            i32 column = first + at / 16 * 8 + at % 8, width = task.n;
            if (row >= task.m || column >= width) return;
            auto put = [&](bf16* to, f32 x0, f32 x1) { *reinterpret_cast<u32*>(to) = pack_bf16(x0, x1); };
            if (gate_up) {
                bf16* to = gate_up + i64(row) * 2 * width + column;
                put(to, gate[0], gate[1]);
                put(to + width, up[0], up[1]);
            }
            put(y + i64(row) * width + column, gated(gate[0], up[0], gelu), gated(gate[1], up[1], gelu));
        });
}
