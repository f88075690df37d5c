// The values of a matrix in NF4 as bf16; how it stands is in src/ops/nf4.rs. One thread eight values, a
// word of codes.
#include "device.cuh"

/// y [count] = the code's values times their blocks' scales. Those are `scales`, or, where there are
/// `scale_codes`, scales[1 + block / 256] times the value of the block's code plus scales[0]. `tables`: the
/// 16 values of a code, then the 256 of a scale's.
KERNEL(unpack_nf4, bf16* y, const u32* codes, const f32* scales, const u8* scale_codes, const f32* tables,
       i64 count) {
    __shared__ f32 values[16];
    if (threadIdx.x < 16) values[threadIdx.x] = tables[threadIdx.x];
    __syncthreads();
    i64 word = i64(blockIdx.x) * blockDim.x + threadIdx.x, at = word * 8, block = word / 8;
    if (at >= count) return;
    f32 scale;
    if (scale_codes == nullptr) {
        scale = scales[block];
    } else {
        f32 value = tables[16 + scale_codes[block]];
        // Not as one operation: the processor rounds the product too.
        scale = __fadd_rn(__fmul_rn(value, scales[1 + block / 256]), scales[0]);
    }
    u32 packed = codes[word];
    f32 own[8];
    // The first of a byte's two stands in its upper half.
#pragma unroll
    for (i32 i = 0; i < 8; ++i) own[i] = values[(packed >> (4 * (i ^ 1))) & 15u] * scale;
    bool is_wide = at + 8 <= count && (reinterpret_cast<u64>(y) & 15u) == 0;
    if (is_wide) {
        Wide wide;
#pragma unroll
        for (i32 i = 0; i < 4; ++i) wide.x[i] = pack_bf16(own[2 * i], own[2 * i + 1]);
        *reinterpret_cast<Wide*>(y + at) = wide;
    } else {
#pragma unroll
        for (i32 i = 0; i < 8; ++i)
            if (at + i < count) y[at + i] = to_bf16(own[i]);
    }
}
