// Loss and gradient of a chunk of rows of logits; the products before and after are gemm's, so that
// logits stand for a chunk of rows only. One block a row.
//
// products [rows, vocabulary] f32 become logits: times `scale`, then cap · tanh(logit / cap) where `cap`
// is not 0. losses[row] = log Σ exp(logit) − logit[target]. Where `gradient` is not null it gets
// d products = `factor` · (softmax − one-hot) · slope. A row whose target is IGNORED has no loss and no gradient.
#include "attention.cuh"
#include "block.cuh"

constexpr u32 IGNORED = 0xffffffffu;

// A thread takes four neighbours at a time where rows begin at sixteen bytes.
DEVICE f32 logit_of(f32 product, f32 scale, f32 cap) {
    f32 x = product * scale;
    return cap != 0.0f ? cap * tanh_by_exp(x / cap) : x;
}

/// Logits i to i + 3 of a row; past its end there are the least ones.
struct Four {
    f32 x[4];
};
DEVICE Four load_four(const f32* at, i64 i, i64 vocabulary, bool aligned, f32 scale, f32 cap) {
    Four out;
    if (aligned) {
        Wide wide = *reinterpret_cast<const Wide*>(at + i);
#pragma unroll
        for (i32 j = 0; j < 4; ++j) out.x[j] = logit_of(bits_to_f32(wide.x[j]), scale, cap);
    } else {
#pragma unroll
        for (i32 j = 0; j < 4; ++j)
            out.x[j] = i + j < vocabulary ? logit_of(at[i + j], scale, cap) : LEAST;
    }
    return out;
}

KERNEL_BOUNDS(cross_entropy, 512, 2, f32* losses, bf16* gradient, const f32* products, const u32* targets,
              i64 vocabulary, f32 scale, f32 cap, const f32* factor) {
    __shared__ f32 mosts[16];
    __shared__ f32 sums[64];
    i64 row = blockIdx.x, first = i64(threadIdx.x) * 4, step = i64(blockDim.x) * 4;
    if (targets[row] == IGNORED) {
        if (threadIdx.x == 0) losses[row] = 0.0f;
        for (i64 i = threadIdx.x; gradient && i < vocabulary; i += blockDim.x)
            gradient[row * vocabulary + i] = to_bf16(0.0f);
        return;
    }
    const f32* at = products + row * vocabulary;
    bool aligned = vocabulary % 4 == 0;
    // Each thread's maximum and sum over its share, then the block's.
    f32 most = LEAST, sum = 0.0f;
    for (i64 i = first; i < vocabulary; i += step) {
        Four four = load_four(at, i, vocabulary, aligned, scale, cap);
        f32 now = fmaxf(fmaxf(four.x[0], four.x[1]), fmaxf(four.x[2], four.x[3]));
        if (now > most) {
            sum *= most == LEAST ? 0.0f : exp2_fast((most - now) * LOG2_E);
            most = now;
        }
#pragma unroll
        for (i32 j = 0; j < 4; ++j) sum += exp2_fast((four.x[j] - most) * LOG2_E);
    }
    f32 all = warp_max(most);
    if (lane_id() == 0) mosts[warp_id()] = all;
    __syncthreads();
    for (i32 w = 0; w < i32(blockDim.x) / 32; ++w) all = fmaxf(all, mosts[w]);
    sum = most == LEAST ? 0.0f : sum * exp2_fast((most - all) * LOG2_E);
    sum = block_sum(Two{sum, 0.0f}, sums).a;
    f32 log_sum = all + LN_2 * log2f(sum);
    i64 target = targets[row];
    if (threadIdx.x == 0) losses[row] = log_sum - logit_of(at[target], scale, cap);
    if (!gradient) return;
    f32 times = *factor;
    for (i64 i = first; i < vocabulary; i += step) {
        Four four = load_four(at, i, vocabulary, aligned, scale, cap);
#pragma unroll
        for (i32 j = 0; j < 4; ++j) {
            f32 x = four.x[j], p = exp2_fast((x - log_sum) * LOG2_E);
            f32 slope = cap != 0.0f ? scale * (1.0f - x / cap * (x / cap)) : scale;
            four.x[j] = times * (p - (i + j == target ? 1.0f : 0.0f)) * slope;
        }
        bf16* to = gradient + row * vocabulary + i;
        if (aligned) {
            u32* two = reinterpret_cast<u32*>(to);
            two[0] = pack_bf16(four.x[0], four.x[1]);
            two[1] = pack_bf16(four.x[2], four.x[3]);
        } else {
            for (i32 j = 0; j < 4 && i + j < vocabulary; ++j) to[j] = to_bf16(four.x[j]);
        }
    }
}
