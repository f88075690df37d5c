// What the gate of a feed-forward goes through. `gelu`: 0 for x σ(x), 1 for GELU's tanh form.
#pragma once
#include "block.cuh"

/// act(x) and its slope.
DEVICE Two activation(f32 x, i32 gelu) {
    if (gelu) {  // x σ(u) with u = 2 √(2/π) (x + 0.044715 x³)
        constexpr f32 c = 1.5957691216057308f;
        f32 u = c * (x + 0.044715f * x * x * x), du = c * (1.0f + 3.0f * 0.044715f * x * x);
        f32 s = __fdividef(1.0f, 1.0f + __expf(-u));
        return Two{x * s, s + x * s * (1.0f - s) * du};
    }
    f32 s = __fdividef(1.0f, 1.0f + __expf(-x));
    return Two{x * s, s * (1.0f + x * (1.0f - s))};
}

/// act(gate) · up, of values as they stand in memory.
DEVICE f32 gated(f32 gate, f32 up, i32 gelu) {
    u32 both = pack_bf16(gate, up);
    return activation(low_f32(both), gelu).a * high_f32(both);
}
