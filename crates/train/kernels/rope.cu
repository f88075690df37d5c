// Rotary position embedding in place: the first `heads` heads of each row of `qkv` [rows, all, size]
// turn by the angles of the row's position. `angles` [positions, size]: size / 2 cosines, then as many
// sines. `direction` −1 turns back, which is the gradient. `size` is a multiple of 16.
#include "block.cuh"

/// Components i and i + size / 2 turn together (Llama). One thread eight pairs.
KERNEL(rope_halves, bf16* qkv, const u32* positions, const f32* angles, i32 rows, i32 all, i32 heads, i32 size,
       f32 direction) {
    i32 units = heads * size / 16;
    i64 unit = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (unit >= i64(rows) * units) return;
    i32 row = i32(unit / units), within = i32(unit % units), half = size / 2;
    i32 head = within / (half / 8), i = within % (half / 8) * 8;
    bf16* at = qkv + (i64(row) * all + head) * size + i;
    const f32* angle = angles + i64(positions[row]) * size + i;
    Eight low = load_eight(at), high = load_eight(at + half), a, b;
#pragma unroll
    for (i32 j = 0; j < 8; ++j) {
        f32 cos = angle[j], sin = angle[half + j] * direction;
        a.x[j] = low.x[j] * cos - high.x[j] * sin;
        b.x[j] = high.x[j] * cos + low.x[j] * sin;
    }
    store_eight(at, a);
    store_eight(at + half, b);
}

/// Components 2i and 2i + 1 turn together (Cohere). One thread four pairs.
KERNEL(rope_interleaved, bf16* qkv, const u32* positions, const f32* angles, i32 rows, i32 all, i32 heads,
       i32 size, f32 direction) {
    i32 units = heads * size / 8;
    i64 unit = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (unit >= i64(rows) * units) return;
    i32 row = i32(unit / units), within = i32(unit % units);
    i32 head = within / (size / 8), i = within % (size / 8) * 8;
    bf16* at = qkv + (i64(row) * all + head) * size + i;
    const f32* angle = angles + i64(positions[row]) * size + i / 2;
    Eight v = load_eight(at), out;
#pragma unroll
    for (i32 j = 0; j < 4; ++j) {
        f32 cos = angle[j], sin = angle[size / 2 + j] * direction;
        out.x[2 * j] = v.x[2 * j] * cos - v.x[2 * j + 1] * sin;
        out.x[2 * j + 1] = v.x[2 * j + 1] * cos + v.x[2 * j] * sin;
    }
    store_eight(at, out);
}
