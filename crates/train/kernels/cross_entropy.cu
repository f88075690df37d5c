// Loss and gradient of a chunk of rows of logits; the products before and after are gemm's, so that
// logits stand for a chunk of rows only. One block a row.
//
// products [rows, vocabulary] f32 become logits: times `scale`, then cap · tanh(logit / cap) where `cap`
// is not 0. losses[row] = log Σ exp(logit) − logit[target]. Where `gradient` is not null it gets
// d products = `factor` · (softmax − one-hot) · slope.
#include "attention.cuh"
#include "block.cuh"

DEVICE f32 logit_of(f32 product, f32 scale, f32 cap) {
    f32 x = product * scale;
    return cap != 0.0f ? cap * tanh_by_exp(x / cap) : x;
}

KERNEL_BOUNDS(cross_entropy, 512, 2, f32* losses, bf16* gradient, const f32* products, const u32* targets,
              i64 vocabulary, f32 scale, f32 cap, f32 factor) {
    __shared__ f32 mosts[16];
    __shared__ f32 sums[64];
    i64 row = blockIdx.x;
    const f32* at = products + row * vocabulary;
    // Each thread's maximum and sum over its share, then the block's.
    f32 most = LEAST, sum = 0.0f;
    for (i64 i = threadIdx.x; i < vocabulary; i += blockDim.x) {
        f32 x = logit_of(at[i], scale, cap);
        if (x > most) {
            sum *= most == LEAST ? 0.0f : exp2_fast((most - x) * LOG2_E);
            most = x;
        }
        sum += exp2_fast((x - most) * LOG2_E);
    }
    f32 all = warp_max(most);
    if (lane_id() == 0) mosts[warp_id()] = all;
    __syncthreads();
    for (i32 w = 0; w < i32(blockDim.x) / 32; ++w) all = fmaxf(all, mosts[w]);
    sum = most == LEAST ? 0.0f : sum * exp2_fast((most - all) * LOG2_E);
    sum = block_sum(Two{sum, 0.0f}, sums).a;
    f32 log_sum = all + LN_2 * log2f(sum);
    u32 target = targets[row];
    if (threadIdx.x == 0) losses[row] = log_sum - logit_of(at[target], scale, cap);
    if (!gradient) return;
    for (i64 i = threadIdx.x; i < vocabulary; i += blockDim.x) {
        f32 x = logit_of(at[i], scale, cap);
        f32 slope = cap != 0.0f ? scale * (1.0f - x / cap * (x / cap)) : scale;
        f32 p = exp2_fast((x - log_sum) * LOG2_E);
        gradient[row * vocabulary + i] = to_bf16(factor * (p - (i == target ? 1.0f : 0.0f)) * slope);
    }
}
