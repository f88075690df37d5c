// Dropout as in src/ops/dropout.rs: y (+)= x where the value's random word is not below `threshold`,
// times `scale`, and 0 elsewhere. The words are those of Philox 4x32-10 at the counter (place of four
// values in the step, step, place of the map). One thread four values.
#include "philox.cuh"

/// `first`: a quarter of the place in the step that the first value has.
KERNEL(dropout, bf16* y, const bf16* x, i64 count, i64 first, u32 key0, u32 key1, u32 step, u32 place,
       u32 threshold, f32 scale, i32 add) {
    i64 block = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (block * 4 >= count) return;
    u64 at = u64(first + block);
    u32 words[4] = {u32(at), u32(at >> 32), step, place};
    philox(words, key0, key1);
#pragma unroll
    for (i32 j = 0; j < 4; ++j) {
        f32 kept = words[j] < threshold ? 0.0f : to_f32(x[block * 4 + j]) * scale;
        y[block * 4 + j] = to_bf16(add ? to_f32(y[block * 4 + j]) + kept : kept);
    }
}
