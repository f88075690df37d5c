// Rows by number, and their gradient. A table is [ids, width]; `width` is a multiple of 8.
//
// The gradient adds rows in a fixed order: the host sorts row numbers by id (stable), so that each id is
// one block's, which adds its rows one after the other. Ids of no rows may follow.
#include "block.cuh"

/// y row i = table row ids[i]; one warp a row.
KERNEL(gather_rows, bf16* y, const bf16* table, const u32* ids, i32 rows, i32 width) {
    i32 row = i32(blockIdx.x * (blockDim.x / 32) + warp_id());
    if (row >= rows) return;
    const Wide* from = reinterpret_cast<const Wide*>(table + i64(ids[row]) * width);
    Wide* to = reinterpret_cast<Wide*>(y + i64(row) * width);
    for (i32 i = i32(lane_id()); i < width / 8; i += 32) to[i] = from[i];
}

/// dtable row distinct[b] += dy rows order[starts[b]], …, order[starts[b + 1] − 1], in this order.
DEVICE void scatter_sum(Eight& sum, const bf16* dy, const u32* order, u32 first, u32 last, i32 width, i32 i) {
    for (u32 k = first; k < last; ++k) {
        Eight more = load_eight(dy + i64(order[k]) * width + i);
#pragma unroll
        for (i32 j = 0; j < 8; ++j) sum.x[j] += more.x[j];
    }
}
KERNEL(scatter_add_f32, f32* dtable, const bf16* dy, const u32* distinct, const u32* starts, const u32* order,
       i32 width) {
    u32 b = blockIdx.x;
    if (starts[b] == starts[b + 1]) return;
    for (i32 i = i32(threadIdx.x) * 8; i < width; i += i32(blockDim.x) * 8) {
        f32* to = dtable + i64(distinct[b]) * width + i;
        Eight sum;
        for (i32 j = 0; j < 8; ++j) sum.x[j] = to[j];
        scatter_sum(sum, dy, order, starts[b], starts[b + 1], width, i);
        for (i32 j = 0; j < 8; ++j) to[j] = sum.x[j];
    }
}
KERNEL(scatter_add_bf16, bf16* dtable, const bf16* dy, const u32* distinct, const u32* starts, const u32* order,
       i32 width) {
    u32 b = blockIdx.x;
    if (starts[b] == starts[b + 1]) return;
    for (i32 i = i32(threadIdx.x) * 8; i < width; i += i32(blockDim.x) * 8) {
        bf16* to = dtable + i64(distinct[b]) * width + i;
        Eight sum = load_eight(to);
        scatter_sum(sum, dy, order, starts[b], starts[b + 1], width, i);
        store_eight(to, sum);
    }
}
