// Matrix products, plain: any layout and any alignment, one thread an element of a 16 × 16 tile. The
// twin that the fast kernels are tested against, and what takes the shapes that they cannot.
#include "device.cuh"
#include "gemm.cuh"

/// c = a · bᵀ over K. Element (m, k) of a stands at a[m · a_row + k · a_column]; likewise (n, k) of b.
KERNEL(gemm_any, const bf16* a, i64 a_row, i64 a_column, const bf16* b, i64 b_row, i64 b_column, bf16* c,
       GRID_CONSTANT GemmTask task) {
    i32 row = i32(blockIdx.y) * 16 + i32(threadIdx.x) / 8;
    i32 column = i32(blockIdx.x) * 16 + i32(threadIdx.x) % 8 * 2;
    f32 sum[2] = {};
    if (row < task.m && column < task.n) {
        bool both = column + 1 < task.n;
        for (i32 k = 0; k < task.k; ++k) {
            f32 x = to_f32(a[row * a_row + k * a_column]);
            sum[0] += x * to_f32(b[column * b_row + k * b_column]);
            if (both) sum[1] += x * to_f32(b[(column + 1) * b_row + k * b_column]);
        }
    }
    gemm_put(task, c, 0, row, column, sum[0], sum[1]);
}

/// The planes of a split product, summed in order: out = planes[0] + planes[1] + …, as bf16 with
/// bias and residual, or added to f32. One thread two columns.
KERNEL(gemm_reduce, const f32* planes, i32 count, bf16* c, GRID_CONSTANT GemmTask task) {
    i64 pair = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    i32 pairs = ceil_div(task.n, 2);
    i32 row = i32(pair / pairs), column = i32(pair % pairs) * 2;
    if (row >= task.m) return;
    bool both = column + 1 < task.n;
    f32 sum[2] = {};
    for (i32 i = 0; i < count; ++i) {
        const f32* at = planes + (i64(i) * task.m + row) * task.n + column;
        sum[0] += at[0];
        if (both) sum[1] += at[1];
    }
    gemm_put(task, c, 0, row, column, sum[0], sum[1]);
}
