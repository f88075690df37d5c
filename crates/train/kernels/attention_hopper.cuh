// What Hopper's attention kernels share.
#pragma once
#include "attention.cuh"
#include "hopper.cuh"

/// Brings `rows` rows of one head, panel by panel of 64 columns.
template <i32 panels, i32 rows>
DEVICE void load_head(u32 shared, const TensorMap& map, u32 barrier, i32 head, i32 row) {
#pragma unroll
    for (i32 p = 0; p < panels; ++p)
        tensor_load_3d(shared + p * rows * 128, map, barrier, 64 * p, head, row);
}

/// The barrier of a load that is mended before anybody may have it, and the parity of its next phase.
struct Mending {
    u32 barrier;
    u32 parity;
};

/// Zeros in place of a head's rows [from, rows); a warp's work.
template <i32 panels, i32 rows>
DEVICE void clear_rows(u32 shared, i32 from) {
    for (i32 p = 0; p < panels; ++p)
        for (i32 unit = from * 8 + i32(lane_id()); unit < rows * 8; unit += 32)
            clear_shared_16(shared + p * rows * 128 + unit * 16);
}

/// Loads rows [row, row + rows) of a document that ends at row `end` of `all`: `load(barrier)` brings
/// `bytes`, and `full` completes when they are there. Rows behind the end are another document's. No score
/// counts them, but nought times what is no number is none either, so that `clear(n)` wipes what stands
/// from row n on. A warp's work.
template <i32 rows, typename Load, typename Clear>
DEVICE void load_document(u32 full, Mending& mending, u32 bytes, i32 row, i32 end, i32 all, Load load,
                          Clear clear) {
    bool beyond = row + rows > end && end < all;
    u32 barrier = beyond ? mending.barrier : full;
    if (lane_id() == 0) {
        mbarrier_expect(barrier, bytes);
        load(barrier);
    }
    if (!beyond) return;
    mbarrier_wait(mending.barrier, mending.parity);
    mending.parity ^= 1;
    clear(end - row);
    shared_fence();
    __syncwarp();
    if (lane_id() == 0) mbarrier_arrive(full);
}

/// Accumulators of 64 rows as the a operand of sixteen of their columns, from 16 · step on.
template <i32 count>
DEVICE void as_operand(u32 (&a)[4], const f32 (&s)[count], i32 step) {
#pragma unroll
    for (i32 i = 0; i < 4; ++i) {
        i32 at = 4 * (2 * step + i / 2) + 2 * (i % 2);
        a[i] = pack_bf16(s[at], s[at + 1]);
    }
}
