// Sums in a fixed order: columns of parts, squares for the global norm.
#include "block.cuh"

/// out [columns] += parts[0] + parts[1] + … of [parts, columns]; one thread a column.
KERNEL(reduce_columns, f32* out, const f32* parts, i32 count, i64 columns) {
    i64 column = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (column >= columns) return;
    f32 sum = 0.0f;
    for (i32 i = 0; i < count; ++i) sum += parts[i * columns + column];
    out[column] += sum;
}

/// The same for dweights of heads [parts, heads, size] that share their weights: heads [0, queries)
/// go to out [0, size), the others to out [size, 2 size).
KERNEL(reduce_heads, f32* out, const f32* parts, i32 count, i32 heads, i32 queries, i32 size) {
    i32 column = i32(blockIdx.x * blockDim.x + threadIdx.x);
    if (column >= 2 * size) return;
    i32 first = column < size ? 0 : queries, last = column < size ? queries : heads;
    f32 sum = 0.0f;
    for (i32 i = 0; i < count; ++i)
        for (i32 head = first; head < last; ++head) sum += parts[(i64(i) * heads + head) * size + column % size];
    out[column] += sum;
}

/// parts [gridDim.x, columns] of the column sums of x [rows, columns]; a block takes every
/// gridDim.x-th row, a thread two columns. `columns` is even.
KERNEL(column_sums, f32* parts, const bf16* x, i32 rows, i32 columns) {
    for (i32 column = i32(threadIdx.x) * 2; column < columns; column += i32(blockDim.x) * 2) {
        f32 a = 0.0f, b = 0.0f;
        for (i32 row = i32(blockIdx.x); row < rows; row += i32(gridDim.x)) {
            u32 packed = *reinterpret_cast<const u32*>(x + i64(row) * columns + column);
            a += low_f32(packed);
            b += high_f32(packed);
        }
        parts[i64(blockIdx.x) * columns + column] = a;
        parts[i64(blockIdx.x) * columns + column + 1] = b;
    }
}

/// Values that one block of `square_sums` takes.
constexpr i32 SQUARES = 1 << 16;

/// parts [blocks] of the sum of squares of x [count].
KERNEL(square_sums, double* parts, const f32* x, i64 count) {
    __shared__ f32 shared[64];
    i64 first = i64(blockIdx.x) * SQUARES;
    f32 sum = 0.0f;
    for (i64 i = first + threadIdx.x; i < first + SQUARES && i < count; i += blockDim.x) sum += x[i] * x[i];
    sum = block_sum(Two{sum, 0.0f}, shared).a;
    if (threadIdx.x == 0) parts[blockIdx.x] = double(sum);
}

/// out[0] = parts[0] + parts[1] + …, by one thread, in order.
KERNEL(sum_parts, double* out, const double* parts, i64 count) {
    double sum = 0.0;
    for (i64 i = 0; i < count; ++i) sum += parts[i];
    out[0] = sum;
}

/// x [count] = value, or x times value.
KERNEL(fill_f32, f32* x, i64 count, f32 value) {
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += i64(gridDim.x) * blockDim.x)
        x[i] = value;
}
KERNEL(fill_bf16, bf16* x, i64 count, f32 value) {
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += i64(gridDim.x) * blockDim.x)
        x[i] = to_bf16(value);
}
/// The same for a block [rows, columns] of a matrix whose rows are `width` wide.
KERNEL(fill_block_f32, f32* x, i64 width, i32 rows, i32 columns, f32 value) {
    i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < i64(rows) * columns) x[i / columns * width + i % columns] = value;
}
/// y [count] += x [count].
KERNEL(add_f32, f32* y, const f32* x, i64 count) {
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += i64(gridDim.x) * blockDim.x)
        y[i] += x[i];
}
KERNEL(scale_f32, f32* x, i64 count, f32 value) {
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += i64(gridDim.x) * blockDim.x)
        x[i] *= value;
}
KERNEL(scale_bf16, bf16* x, i64 count, f32 value) {
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += i64(gridDim.x) * blockDim.x)
        x[i] = to_bf16(to_f32(x[i]) * value);
}
/// bf16 to f32, and back to the nearest.
KERNEL(widen, f32* y, const bf16* x, i64 count) {
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += i64(gridDim.x) * blockDim.x)
        y[i] = to_f32(x[i]);
}
KERNEL(narrow, bf16* y, const f32* x, i64 count) {
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += i64(gridDim.x) * blockDim.x)
        y[i] = to_bf16(x[i]);
}
