// What Hopper's attention kernels share.
#pragma once
#include "attention.cuh"
#include "hopper.cuh"

/// Brings `rows` rows of one head, panel by panel of 64 columns.
template <i32 panels, i32 rows>
DEVICE void load_head(u32 shared, const TensorMap& map, u32 barrier, i32 head, i32 row) {
#pragma unroll
    for (i32 p = 0; p < panels; ++p)
        tensor_load_3d(shared + p * rows * 128, map, barrier, 64 * p, head, row);
}

/// Accumulators of 64 rows as the a operand of sixteen of their columns, from 16 · step on.
template <i32 count>
DEVICE void as_operand(u32 (&a)[4], const f32 (&s)[count], i32 step) {
#pragma unroll
    for (i32 i = 0; i < 4; ++i) {
        i32 at = 4 * (2 * step + i / 2) + 2 * (i % 2);
        a[i] = pack_bf16(s[at], s[at + 1]);
    }
}
