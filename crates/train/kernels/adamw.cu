// A step of AdamW on many tensors (Loshchilov and Hutter, arXiv 1711.05101), in the arithmetic of
// the CPU form, operation by operation, so that both give the same bits: weights shrink first, moments
// are corrected for their zero start, eps is added to the corrected root.
//
// Moments stand in f32, in bf16 rounded by chance, or as a byte each in blocks of 256 with a scale
// (Dettmers et al., arXiv 2110.02861). Where there is no f32 master copy, the bf16 weight is rounded by
// chance. The bits are drawn by (seed, step, tensor, element), Philox 4x32-10 (Salmon et al. 2011).
//
// A warp takes 256 values at a time, a lane eight that follow one another. Bound by memory: 30 bytes a
// value with masters and f32 moments, 12 without and with bytes.
#include "philox.cuh"
#include "tensors.cuh"

struct AdamWTensor {
    bf16* weight;
    f32* master;           // or null
    const f32* gradient;
    void* moments[2];      // f32, bf16 or bytes
    f32* scales[2];        // of blocks of bytes
    i64 count;
    i64 element;           // number of the first value in its tensor, a multiple of 256
    u32 block;             // of the first of its blocks
    i32 form;              // 0: f32, 1: bf16, 2: bytes
    i32 decays;
    u32 number;            // of the tensor, for the drawn bits
};

struct AdamWStep {
    f32 beta1, beta2;
    f32 rate;            // learning rate / (1 − beta1^t)
    f32 root;            // 1 / sqrt(1 − beta2^t)
    f32 eps;
    f32 factor;          // of the gradient: the share that clipping leaves
    f32 keep;            // 1 − learning rate · weight decay
    u32 step;
    u32 seed[2];
};

/// Values of one block.
constexpr i32 ADAMW_SPAN = 8192;

/// What is rounded; each has bits of its own.
enum Purpose { WEIGHT = 0, FIRST = 1, SECOND = 2 };

/// Eight values that follow one another, of which the first `here` are there.
struct Lane {
    f32 x[8];
};

DEVICE Lane load_f32(const f32* from, i32 here) {
    Lane out;
    if (here == 8) {
#pragma unroll
        for (i32 half = 0; half < 2; ++half) {
            Wide wide = reinterpret_cast<const Wide*>(from)[half];
#pragma unroll
            for (i32 i = 0; i < 4; ++i) out.x[4 * half + i] = bits_to_f32(wide.x[i]);
        }
    } else {
#pragma unroll
        for (i32 i = 0; i < 8; ++i) out.x[i] = i < here ? from[i] : 0.0f;
    }
    return out;
}

DEVICE void store_f32(f32* to, const Lane& values, i32 here) {
    if (here == 8) {
#pragma unroll
        for (i32 half = 0; half < 2; ++half) {
            Wide wide;
#pragma unroll
            for (i32 i = 0; i < 4; ++i) wide.x[i] = f32_to_bits(values.x[4 * half + i]);
            reinterpret_cast<Wide*>(to)[half] = wide;
        }
    } else {
#pragma unroll
        for (i32 i = 0; i < 8; ++i)
            if (i < here) to[i] = values.x[i];
    }
}

DEVICE Lane load_bf16(const bf16* from, i32 here) {
    Lane out;
    if (here == 8) {
        Wide wide = *reinterpret_cast<const Wide*>(from);
#pragma unroll
        for (i32 i = 0; i < 4; ++i) {
            out.x[2 * i] = low_f32(wide.x[i]);
            out.x[2 * i + 1] = high_f32(wide.x[i]);
        }
    } else {
#pragma unroll
        for (i32 i = 0; i < 8; ++i) out.x[i] = i < here ? to_f32(from[i]) : 0.0f;
    }
    return out;
}

DEVICE void store_bf16(bf16* to, const u16 (&bits)[8], i32 here) {
    if (here == 8) {
        Wide wide;
#pragma unroll
        for (i32 i = 0; i < 4; ++i) wide.x[i] = u32(bits[2 * i]) | u32(bits[2 * i + 1]) << 16;
        *reinterpret_cast<Wide*>(to) = wide;
    } else {
#pragma unroll
        for (i32 i = 0; i < 8; ++i)
            if (i < here) to[i] = bf16{bits[i]};
    }
}

/// To the nearest.
DEVICE void store_nearest(bf16* to, const Lane& values, i32 here) {
    u16 bits[8];
#pragma unroll
    for (i32 i = 0; i < 8; ++i) bits[i] = to_bf16(values.x[i]).bits;
    store_bf16(to, bits, here);
}

/// Up or down by chance; `element` is the number of the first value.
DEVICE void store_drawn(bf16* to, const Lane& values, i32 here, const AdamWStep& step, u32 number, i64 element,
                        Purpose purpose) {
    u32 words[4] = {u32(element / 8), u32(purpose), number, step.step};
    philox(words, step.seed[0], step.seed[1]);
    u16 bits[8];
#pragma unroll
    for (i32 i = 0; i < 8; ++i)
        bits[i] = to_bf16_stochastic(values.x[i], words[i / 2] >> (16 * (i % 2))).bits;
    store_bf16(to, bits, here);
}

/// The 256 values of a byte, and the middles between them, of the first and the second moment.
struct Codes {
    f32 values[2][256];
    f32 middles[2][256];
};

struct alignas(8) Bytes {
    u8 x[8];
};

DEVICE Lane load_bytes(const u8* from, i32 here, const f32* values, f32 scale) {
    Lane out;
    Bytes bytes{};
    if (here == 8) {
        bytes = *reinterpret_cast<const Bytes*>(from);
    } else {
#pragma unroll
        for (i32 i = 0; i < 8; ++i)
            if (i < here) bytes.x[i] = from[i];
    }
#pragma unroll
    for (i32 i = 0; i < 8; ++i) out.x[i] = i < here ? values[bytes.x[i]] * scale : 0.0f;
    return out;
}

/// To the nearest code; returns the block's scale. All lanes of a warp come. What is above zero does
/// not become zero if `keeps`: a first moment over a second one of zero would be over eps alone.
DEVICE f32 store_bytes(u8* to, const Lane& values, i32 here, const f32* middles, bool keeps) {
    f32 largest = 0.0f;
#pragma unroll
    for (i32 i = 0; i < 8; ++i) largest = fmaxf(largest, fabsf(values.x[i]));
    largest = warp_max(largest);
    bool flat = largest < 1.17549435e-38f;
    f32 inverse = flat ? 0.0f : __fdiv_rn(1.0f, largest);
    Bytes bytes;
#pragma unroll
    for (i32 i = 0; i < 8; ++i) {
        f32 x = __fmul_rn(values.x[i], inverse);
        u32 code = 0;
#pragma unroll
        for (u32 step = 128; step > 0; step /= 2)
            if (x > middles[code + step - 1]) code += step;
        if (keeps && code == 0 && values.x[i] > 0.0f) code = 1;
        bytes.x[i] = u8(code);
    }
    if (here == 8) {
        *reinterpret_cast<Bytes*>(to) = bytes;
    } else {
#pragma unroll
        for (i32 i = 0; i < 8; ++i)
            if (i < here) to[i] = bytes.x[i];
    }
    return flat ? 0.0f : largest;
}

/// A moment of eight values from `at` on.
template <i32 which>
DEVICE Lane load_moment(const AdamWTensor& p, i64 at, i32 here, const Codes& codes) {
    if (p.form == 0) return load_f32(static_cast<const f32*>(p.moments[which]) + at, here);
    if (p.form == 1) return load_bf16(static_cast<const bf16*>(p.moments[which]) + at, here);
    return load_bytes(static_cast<const u8*>(p.moments[which]) + at, here, codes.values[which],
                      p.scales[which][at / 256]);
}
template <i32 which>
DEVICE void store_moment(const AdamWTensor& p, i64 at, i32 here, const Codes& codes, const Lane& values,
                         const AdamWStep& step) {
    if (p.form == 0) {
        store_f32(static_cast<f32*>(p.moments[which]) + at, values, here);
    } else if (p.form == 1) {
        store_drawn(static_cast<bf16*>(p.moments[which]) + at, values, here, step, p.number, p.element + at,
                    which == 0 ? FIRST : SECOND);
    } else {
        u8* to = static_cast<u8*>(p.moments[which]) + at;
        f32 scale = store_bytes(to, values, here, codes.middles[which], which == 1);
        if (lane_id() == 0) p.scales[which][at / 256] = scale;
    }
}

KERNEL_BOUNDS(adamw, 256, 2, const AdamWTensor* tensors, i32 count, const Codes* all_codes,
              GRID_CONSTANT AdamWStep step) {
    __shared__ Codes codes;
    const AdamWTensor p = tensor_of_block(tensors, count);
    if (p.form == 2) {
        const f32* from = &all_codes->values[0][0];
        f32* to = &codes.values[0][0];
        for (u32 i = threadIdx.x; i < sizeof(Codes) / 4; i += blockDim.x) to[i] = from[i];
        __syncthreads();
    }
    f32 keep = p.decays ? step.keep : 1.0f;
    i64 first = i64(blockIdx.x - p.block) * ADAMW_SPAN;
    i64 end = first + ADAMW_SPAN < p.count ? first + ADAMW_SPAN : p.count;
    for (i64 run = first + warp_id() * 256; run < end; run += blockDim.x * 8) {
        i64 at = run + lane_id() * 8;
        i32 here = at + 8 <= end ? 8 : at < end ? i32(end - at) : 0;
        Lane g = load_f32(p.gradient + at, here);
        Lane m = load_moment<0>(p, at, here, codes), v = load_moment<1>(p, at, here, codes);
        Lane w = p.master ? load_f32(p.master + at, here) : load_bf16(p.weight + at, here);
#pragma unroll
        for (i32 i = 0; i < 8; ++i) {
            f32 gradient = __fmul_rn(g.x[i], step.factor);
            m.x[i] = __fadd_rn(__fmul_rn(step.beta1, m.x[i]), __fmul_rn(1.0f - step.beta1, gradient));
            f32 square = __fmul_rn(__fmul_rn(1.0f - step.beta2, gradient), gradient);
            v.x[i] = __fadd_rn(__fmul_rn(step.beta2, v.x[i]), square);
            f32 below = __fadd_rn(__fmul_rn(__fsqrt_rn(v.x[i]), step.root), step.eps);
            f32 move = __fdiv_rn(__fmul_rn(step.rate, m.x[i]), below);
            w.x[i] = __fadd_rn(__fmul_rn(w.x[i], keep), -move);
        }
        store_moment<0>(p, at, here, codes, m, step);
        store_moment<1>(p, at, here, codes, v, step);
        if (p.master) {
            store_f32(p.master + at, w, here);
            store_nearest(p.weight + at, w, here);
        } else {
            store_drawn(p.weight + at, w, here, step, p.number, p.element + at, WEIGHT);
        }
    }
}
