// One step of AdamW on one parameter (Loshchilov and Hutter, arXiv 1711.05101), in the
// arithmetic of the CPU form: weights shrink first, moments are corrected for their zero start, eps is
// added to the corrected root.
//
// A block takes one span. Where there is no f32 master copy, the bf16 weight is rounded
// by chance, from a hash of (seed, parameter, element), so that small steps are not lost and a run
// repeats.
#include "device.cuh"

struct AdamWParameter {
    bf16* weight;
    f32* master;         // or null
    const f32* gradient;
    void* first;         // f32, or bf16 where `half` is set
    void* second;
    i64 count;
    f32 keep;            // 1 − learning rate · weight decay
    i32 half;
    i32 stream;          // which parameter, for the drawn bits
    i32 unused;
};

struct AdamWStep {
    f32 beta1, beta2;
    f32 rate;            // learning rate / (1 − beta1^t)
    f32 root;            // 1 / sqrt(1 − beta2^t)
    f32 eps;
    f32 scale;           // of the gradient: the share that clipping leaves
    u32 seed;
};

/// Elements of one block.
constexpr i32 ADAMW_SPAN = 4096;

/// Uniform bits from three numbers (the finaliser of MurmurHash3, twice).
HOST_DEVICE u32 random_bits(u32 seed, u32 stream, u32 index) {
    u32 x = seed ^ (stream * 0x9e3779b9u) ^ (index * 0x85ebca6bu + 0x165667b1u);
    for (i32 i = 0; i < 2; ++i) {
        x ^= x >> 16;
        x *= 0x85ebca6bu;
        x ^= x >> 13;
        x *= 0xc2b2ae35u;
        x ^= x >> 16;
        x += index;
    }
    return x;
}

DEVICE f32 load_state(const void* state, i64 i, i32 half) {
    return half ? to_f32(static_cast<const bf16*>(state)[i]) : static_cast<const f32*>(state)[i];
}
DEVICE void store_state(void* state, i64 i, i32 half, f32 value, u32 random) {
    if (half)
        static_cast<bf16*>(state)[i] = to_bf16_stochastic(value, random);
    else
        static_cast<f32*>(state)[i] = value;
}

KERNEL(adamw, GRID_CONSTANT AdamWParameter p, const f32* scale, GRID_CONSTANT AdamWStep step) {
    f32 clip = step.scale * (scale ? *scale : 1.0f);
    i64 first = i64(blockIdx.x) * ADAMW_SPAN;
    for (i64 i = first + threadIdx.x; i < first + ADAMW_SPAN && i < p.count; i += blockDim.x) {
        f32 g = p.gradient[i] * clip;
        f32 m = load_state(p.first, i, p.half), v = load_state(p.second, i, p.half);
        m = step.beta1 * m + (1.0f - step.beta1) * g;
        v = step.beta2 * v + (1.0f - step.beta2) * g * g;
        u32 random = random_bits(step.seed, u32(p.stream), u32(i));
        store_state(p.first, i, p.half, m, random);
        store_state(p.second, i, p.half, v, random >> 16);
        f32 w = p.master ? p.master[i] : to_f32(p.weight[i]);
        w = w * p.keep - step.rate * m / (sqrtf(v) * step.root + step.eps);
        if (p.master) {
            p.master[i] = w;
            p.weight[i] = to_bf16(w);
        } else {
            p.weight[i] = to_bf16_stochastic(w, random_bits(step.seed ^ 0x27d4eb2fu, u32(p.stream), u32(i)));
        }
    }
}
