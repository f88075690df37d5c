// What the matrix products share: the task, and how a result leaves.
#pragma once
#include "device.cuh"
#include "tiles.cuh"

constexpr i32 GEMM_BK = 64;

/// What every block is told.
struct GemmTask {
    i32 m, n, k;
    TileGrid tiles;
    const bf16* bias;      // [N], or null
    const bf16* residual;  // [M, N], or null
    f32* out;              // [M, N] or [splits, M, N]; null where c leaves as bf16
    i32 add;               // whether `out` is added to
};

/// Two neighbouring columns of the result with their bias and residual.
DEVICE void gemm_finish(const GemmTask& task, f32& x0, f32& x1, i32 row, i32 column) {
    if (task.bias && column < task.n) {
        x0 += to_f32(task.bias[column]);
        if (column + 1 < task.n) x1 += to_f32(task.bias[column + 1]);
    }
    if (task.residual && row < task.m && column < task.n) {
        const bf16* at = task.residual + i64(row) * task.n + column;
        x0 += to_f32(at[0]);
        if (column + 1 < task.n) x1 += to_f32(at[1]);
    }
}

/// Two neighbouring columns as f32, into the split's plane.
DEVICE void gemm_put_f32(const GemmTask& task, i32 split, i32 row, i32 column, f32 x0, f32 x1) {
    if (row >= task.m || column >= task.n) return;
    f32* at = task.out + (i64(split) * task.m + row) * task.n + column;
    at[0] = task.add ? at[0] + x0 : x0;
    if (column + 1 < task.n) at[1] = task.add ? at[1] + x1 : x1;
}

/// Two neighbouring columns, whichever way out.
DEVICE void gemm_put(const GemmTask& task, bf16* c, i32 split, i32 row, i32 column, f32 x0, f32 x1) {
    if (task.out) return gemm_put_f32(task, split, row, column, x0, x1);
    if (row >= task.m || column >= task.n) return;
    gemm_finish(task, x0, x1, row, column);
    bf16* at = c + i64(row) * task.n + column;
    if (task.n % 2 == 0) {
        *reinterpret_cast<u32*>(at) = pack_bf16(x0, x1);
    } else {
        at[0] = to_bf16(x0);
        if (column + 1 < task.n) at[1] = to_bf16(x1);
    }
}
