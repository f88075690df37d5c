// Sums over a block, and rows read sixteen bytes at a time.
#pragma once
#include "device.cuh"

/// Eight bf16 of a row as f32.
struct Eight {
    f32 x[8];
};

DEVICE Eight load_eight(const bf16* from) {
    Wide wide = *reinterpret_cast<const Wide*>(from);
    Eight out;
#pragma unroll
    for (i32 i = 0; i < 4; ++i) {
        out.x[2 * i] = low_f32(wide.x[i]);
        out.x[2 * i + 1] = high_f32(wide.x[i]);
    }
    return out;
}

DEVICE void store_eight(bf16* to, const Eight& values) {
    Wide wide;
#pragma unroll
    for (i32 i = 0; i < 4; ++i) wide.x[i] = pack_bf16(values.x[2 * i], values.x[2 * i + 1]);
    *reinterpret_cast<Wide*>(to) = wide;
}

/// Two sums over all threads of a block, given to all; `shared` has room for 64 values that no other
/// sum under way uses.
struct Two {
    f32 a, b;
};
DEVICE Two block_sum(Two x, f32* shared) {
    x.a = warp_sum(x.a);
    x.b = warp_sum(x.b);
    i32 warps = i32(blockDim.x) / 32;
    if (lane_id() == 0) {
        shared[2 * warp_id()] = x.a;
        shared[2 * warp_id() + 1] = x.b;
    }
    __syncthreads();
    Two sum{0.0f, 0.0f};
    for (i32 w = 0; w < warps; ++w) {
        sum.a += shared[2 * w];
        sum.b += shared[2 * w + 1];
    }
    return sum;
}
