// Sums in a fixed order: columns of parts, squares for the global norm.
#include "block.cuh"
#include "tensors.cuh"

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

struct SquaresTensor {
    const f32* x;
    i64 count;
    u32 block;             // of the first of its blocks
    u32 end;               // the block after its last
};

/// parts [blocks] of the sums of squares of many tensors.
KERNEL(square_sums, double* parts, const SquaresTensor* tensors, i32 count) {
    __shared__ f32 shared[64];
    const SquaresTensor p = tensor_of_block(tensors, count);
    i64 first = i64(blockIdx.x - p.block) * SQUARES;
    i64 end = first + SQUARES < p.count ? first + SQUARES : p.count;
    f32 sum = 0.0f;
    for (i64 at = first + threadIdx.x * 4; at < end; at += blockDim.x * 4) {
        if (at + 4 <= end) {
            Wide wide = *reinterpret_cast<const Wide*>(p.x + at);
#pragma unroll
            for (i32 i = 0; i < 4; ++i) sum += bits_to_f32(wide.x[i]) * bits_to_f32(wide.x[i]);
        } else {
            for (; at < end; ++at) sum += p.x[at] * p.x[at];
        }
    }
    sum = block_sum(Two{sum, 0.0f}, shared).a;
    if (threadIdx.x == 0) parts[blockIdx.x] = double(sum);
}

/// out[i] = the parts of tensor i; a block each. Thread t adds every 128th from t on, the first thread
/// their sums, in order.
KERNEL(sum_parts, double* out, const double* parts, const SquaresTensor* tensors) {
    __shared__ double sums[128];
    const SquaresTensor& p = tensors[blockIdx.x];
    double sum = 0.0;
    for (u32 i = p.block + threadIdx.x; i < p.end; i += blockDim.x) sum += parts[i];
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (u32 i = 1; i < blockDim.x; ++i) sum += sums[i];
    out[blockIdx.x] = sum;
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
