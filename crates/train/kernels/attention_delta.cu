// What the backward pass of attention takes from each row: delta [H, N] = sum over D of out · dout,
// where out and dout are [N, H D]. One warp a row and head.
#include "device.cuh"

/// delta of one row and head by one warp.
KERNEL(attention_delta, const bf16* out, const bf16* dout, f32* delta, i32 rows, i32 heads, i32 size) {
    i64 at = i64(blockIdx.x) * (blockDim.x / 32) + warp_id();
    if (at >= i64(rows) * heads) return;
    const u32* a = reinterpret_cast<const u32*>(out + at * size);
    const u32* b = reinterpret_cast<const u32*>(dout + at * size);
    f32 sum = 0.0f;
    for (i32 i = i32(lane_id()); i < size / 2; i += 32)
        sum += low_f32(a[i]) * low_f32(b[i]) + high_f32(a[i]) * high_f32(b[i]);
    sum = warp_sum(sum);
    if (lane_id() == 0) delta[at % heads * rows + at / heads] = sum;
}
