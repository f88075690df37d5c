// The gated activation of a feed-forward: y [rows, width] = act(gate) · up, where a row of `gate_up`
// [rows, 2 width] is gate, then up. `gelu`: 0 for x σ(x), 1 for GELU's tanh form. One thread eight
// values; `width` is a multiple of 8.
#include "activation.cuh"

KERNEL(glu_forward, bf16* y, const bf16* gate_up, i32 rows, i32 width, i32 gelu) {
    i64 at = (i64(blockIdx.x) * blockDim.x + threadIdx.x) * 8;
    if (at >= i64(rows) * width) return;
    i64 row = at / width, column = at % width;
    const bf16* from = gate_up + row * 2 * width + column;
    Eight gate = load_eight(from), up = load_eight(from + width);
#pragma unroll
    for (i32 j = 0; j < 8; ++j) up.x[j] *= activation(gate.x[j], gelu).a;
    store_eight(y + at, up);
}

/// `gate_up` becomes its gradient, `dy` becomes y again.
KERNEL(glu_backward, bf16* gate_up, bf16* dy, i32 rows, i32 width, i32 gelu) {
    i64 at = (i64(blockIdx.x) * blockDim.x + threadIdx.x) * 8;
    if (at >= i64(rows) * width) return;
    i64 row = at / width, column = at % width;
    bf16* from = gate_up + row * 2 * width + column;
    Eight gate = load_eight(from), up = load_eight(from + width), d = load_eight(dy + at), y;
#pragma unroll
    for (i32 j = 0; j < 8; ++j) {
        Two act = activation(gate.x[j], gelu);
        y.x[j] = act.a * up.x[j];
        gate.x[j] = d.x[j] * up.x[j] * act.b;
        up.x[j] = d.x[j] * act.a;
    }
    store_eight(from, gate);
    store_eight(from + width, up);
    store_eight(dy + at, y);
}
