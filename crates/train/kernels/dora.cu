// Weight-decomposed adapters as in src/ops/dora.rs: norms of rows of W + s B A, columns times a number
// each, and column sums of products.
#include "block.cuh"

/// Rows of a weight that one block takes, and most of its warps.
constexpr i32 NORM_ROWS = 8;
constexpr i32 NORM_WARPS = 8;

/// norms[row] = ‖w[row] + scale Σ_r up[r][row] down[r]‖, infinite where that is 0, and ratios[row] =
/// magnitudes[row] / norms[row], for `count` rows from where all pointers but `down` point to. A thread
/// has two columns of eight rows at a time. `inputs` is even; `wide`: eight values of up can be read
/// at once.
KERNEL(row_norms, f32* norms, f32* ratios, const f32* magnitudes, const bf16* w, const bf16* down, const bf16* up,
       f32 scale, i32 count, i32 inputs, i32 outputs, i32 ranks, i32 wide) {
    __shared__ f32 shared[NORM_WARPS][NORM_ROWS];
    i32 first = i32(blockIdx.x) * NORM_ROWS, here = least(NORM_ROWS, count - first);
    f32 squares[NORM_ROWS] = {};
    for (i32 i = i32(threadIdx.x) * 2; i < inputs; i += i32(blockDim.x) * 2) {
        f32 a[NORM_ROWS] = {}, b[NORM_ROWS] = {};
        for (i32 r = 0; r < ranks; ++r) {
            u32 of_down = *reinterpret_cast<const u32*>(down + i64(r) * inputs + i);
            const bf16* of_up = up + i64(r) * outputs + first;
            Eight factors{};
            if (wide && here == NORM_ROWS) {
                factors = load_eight(of_up);
            } else {
#pragma unroll
                for (i32 k = 0; k < NORM_ROWS; ++k)
                    if (k < here) factors.x[k] = to_f32(of_up[k]);
            }
#pragma unroll
            for (i32 k = 0; k < NORM_ROWS; ++k) {
                a[k] += factors.x[k] * low_f32(of_down);
                b[k] += factors.x[k] * high_f32(of_down);
            }
        }
#pragma unroll
        for (i32 k = 0; k < NORM_ROWS; ++k) {
            if (k >= here) break;
            u32 of_w = *reinterpret_cast<const u32*>(w + i64(first + k) * inputs + i);
            f32 x = low_f32(of_w) + scale * a[k], y = high_f32(of_w) + scale * b[k];
            squares[k] += x * x + y * y;
        }
    }
#pragma unroll
    for (i32 k = 0; k < NORM_ROWS; ++k) {
        f32 sum = warp_sum(squares[k]);
        if (lane_id() == 0) shared[warp_id()][k] = sum;
    }
    __syncthreads();
    i32 k = i32(threadIdx.x);
    if (k >= here) return;
    f32 sum = 0.0f;
    for (i32 warp = 0; warp < i32(blockDim.x) / 32; ++warp) sum += shared[warp][k];
    f32 norm = sum > 0.0f ? sqrtf(sum) : sum == 0.0f ? -LEAST : sum;
    norms[first + k] = norm;
    ratios[first + k] = magnitudes[first + k] / norm;
}

struct ColumnTask {
    bf16* y;
    const bf16* x;
    const f32* factors;      // or null: `number`
    const bf16* bias;        // or null
    const bf16* residual;    // or null; as wide as y
    f32 number;
    i32 rows, count;         // columns
    i32 x_width, y_width;
    i32 add;
};

DEVICE f32 scaled(const ColumnTask& p, i64 y, f32 x, i32 column) {
    f32 value = (p.factors ? p.factors[column] : p.number) * x;
    if (p.bias) value += to_f32(p.bias[column]);
    if (p.residual) value += to_f32(p.residual[y]);
    return p.add ? to_f32(p.y[y]) + value : value;
}

/// y (+)= columns of x times their factors, plus bias and residual: a thread has one value,
KERNEL(scale_columns_1, GRID_CONSTANT ColumnTask p) {
    i64 all = i64(p.rows) * p.count;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < all; i += i64(gridDim.x) * blockDim.x) {
        i64 row = i / p.count;
        i32 column = i32(i % p.count);
        i64 y = row * p.y_width + column;
        p.y[y] = to_bf16(scaled(p, y, to_f32(p.x[row * p.x_width + column]), column));
    }
}

/// or eight, where all places are multiples of eight.
KERNEL(scale_columns_8, GRID_CONSTANT ColumnTask p) {
    i32 units = p.count / 8;
    i64 all = i64(p.rows) * units;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < all; i += i64(gridDim.x) * blockDim.x) {
        i64 row = i / units;
        i32 column = i32(i % units) * 8;
        i64 at = row * p.y_width + column;
        Eight x = load_eight(p.x + row * p.x_width + column), bias{}, more{}, before{};
        if (p.bias) bias = load_eight(p.bias + column);
        if (p.residual) more = load_eight(p.residual + at);
        if (p.add) before = load_eight(p.y + at);
        Eight y;
#pragma unroll
        for (i32 j = 0; j < 8; ++j) {
            f32 factor = p.factors ? p.factors[column + j] : p.number;
            y.x[j] = before.x[j] + (factor * x.x[j] + bias.x[j] + more.x[j]);
        }
        store_eight(p.y + at, y);
    }
}

/// parts [gridDim.x, columns] of the column sums of a ∘ b [rows, columns], each over its divisor; a block
/// takes every gridDim.x-th row, a thread two columns. `columns` is even.
KERNEL(column_products, f32* parts, const bf16* a, const bf16* b, const f32* divisors, i32 rows, i32 columns) {
    for (i32 column = i32(threadIdx.x) * 2; column < columns; column += i32(blockDim.x) * 2) {
        f32 low = 0.0f, high = 0.0f;
        for (i32 row = i32(blockIdx.x); row < rows; row += i32(gridDim.x)) {
            i64 at = i64(row) * columns + column;
            u32 of_a = *reinterpret_cast<const u32*>(a + at), of_b = *reinterpret_cast<const u32*>(b + at);
            low += low_f32(of_a) * low_f32(of_b);
            high += high_f32(of_a) * high_f32(of_b);
        }
        parts[i64(blockIdx.x) * columns + column] = low / divisors[column];
        parts[i64(blockIdx.x) * columns + column + 1] = high / divisors[column + 1];
    }
}
