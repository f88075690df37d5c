// The device as the kernels see it: types, warp and block operations, asynchronous copies, tensor
// cores. Under NVRTC or nvcc each wrapper is one PTX instruction. Under a host compiler the same
// wrappers come from host/emulate.h, which states what each instruction does in plain C++: a kernel
// then runs, slowly, on any machine, and is tested without a card.
//
// No headers but our own: NVRTC alone has to be enough.
//
// Sources: PTX ISA 8.7 (mma, ldmatrix, cp.async, mbarrier, cp.async.bulk.tensor, wgmma).
#pragma once

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i32 = int;
using i64 = long long;
using f32 = float;

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define DEVICE __device__ __forceinline__
#define HOST_DEVICE __host__ __device__ __forceinline__
/// A kernel that the host launches by its name.
#define KERNEL(name, ...) extern "C" __global__ void name(__VA_ARGS__)
/// The same with a bound on threads per block and on blocks per multiprocessor.
#define KERNEL_BOUNDS(name, threads, blocks, ...) \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(__VA_ARGS__)
/// A parameter that stays where it is, as the copy engine needs it.
#define GRID_CONSTANT const __grid_constant__
#define DYNAMIC_SHARED(name) extern __shared__ __align__(1024) u8 name[]
#else
#include "host/emulate.h"
#endif

// ---------------------------------------------------------------------------------------------
// Numbers

/// bfloat16: the upper half of an f32.
struct bf16 {
    u16 bits;
};

HOST_DEVICE f32 bits_to_f32(u32 bits) {
    union {
        u32 u;
        f32 f;
    } value;
    value.u = bits;
    return value.f;
}

HOST_DEVICE u32 f32_to_bits(f32 x) {
    union {
        u32 u;
        f32 f;
    } value;
    value.f = x;
    return value.u;
}

HOST_DEVICE f32 to_f32(bf16 x) { return bits_to_f32(u32(x.bits) << 16); }

/// To the nearest, ties to even; a NaN stays one.
HOST_DEVICE bf16 to_bf16(f32 x) {
    u32 bits = f32_to_bits(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return bf16{u16((bits >> 16) | 0x40u)};
    return bf16{u16((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

/// Up or down by chance, so that the mean over `random` (32 uniform bits) is x itself.
HOST_DEVICE bf16 to_bf16_stochastic(f32 x, u32 random) {
    u32 bits = f32_to_bits(x);
    if ((bits & 0x7f800000u) == 0x7f800000u) return to_bf16(x);
    return bf16{u16((bits + (random & 0xffffu)) >> 16)};
}

/// Less than every number.
#define LEAST bits_to_f32(0xff800000u)

/// Two of them, `low` at the lower address.
DEVICE u32 pack_bf16(f32 low, f32 high) {
#ifdef __CUDA_ARCH__
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
#else
    return u32(to_bf16(low).bits) | (u32(to_bf16(high).bits) << 16);
#endif
}

HOST_DEVICE f32 low_f32(u32 packed) { return bits_to_f32(packed << 16); }
HOST_DEVICE f32 high_f32(u32 packed) { return bits_to_f32(packed & 0xffff0000u); }

/// Sixteen bytes: eight bf16 or four f32, the widest access.
struct alignas(16) Wide {
    u32 x[4];
};

HOST_DEVICE i32 ceil_div(i32 a, i32 b) { return (a + b - 1) / b; }
HOST_DEVICE i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }
HOST_DEVICE i32 least(i32 a, i32 b) { return a < b ? a : b; }
HOST_DEVICE i32 greatest(i32 a, i32 b) { return a > b ? a : b; }

/// Where byte `offset` of a tile of 128-byte rows stands under the copy engine's 128-byte swizzle:
/// the sixteen-byte unit's place in its row is xored with the row's number modulo 8. The tile
/// starts at a multiple of 1024 bytes.
HOST_DEVICE u32 swizzle_128(u32 offset) { return offset ^ ((offset >> 3) & 0x70u); }

// ---------------------------------------------------------------------------------------------
// Warps and blocks

constexpr u32 ALL_LANES = 0xffffffffu;

DEVICE u32 lane_id() { return threadIdx.x & 31u; }
DEVICE u32 warp_id() { return threadIdx.x >> 5; }

DEVICE f32 warp_sum(f32 x) {
#pragma unroll
    for (i32 step = 16; step > 0; step >>= 1) x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}

DEVICE f32 warp_max(f32 x) {
#pragma unroll
    for (i32 step = 16; step > 0; step >>= 1) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, step));
    return x;
}

#ifdef __CUDA_ARCH__

/// 2^x, within 2 ulp.
DEVICE f32 exp2_fast(f32 x) {
    f32 y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/// Waits for `threads` threads at barrier `id` (1 to 15; 0 is __syncthreads).
DEVICE void barrier_sync(u32 id, u32 threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
/// Counts as one of them without waiting.
DEVICE void barrier_arrive(u32 id, u32 threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

DEVICE u32 shared_address(const void* pointer) {
    return u32(__cvta_generic_to_shared(pointer));
}

DEVICE void store_shared_u32(u32 shared, u32 value) {
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(shared), "r"(value) : "memory");
}
/// Sixteen bytes of zeros.
DEVICE void clear_shared_16(u32 shared) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(shared), "r"(0u) : "memory");
}
DEVICE u32 load_shared_u32(u32 shared) {
    u32 value;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(value) : "r"(shared) : "memory");
    return value;
}

// ---------------------------------------------------------------------------------------------
// Ampere and later: asynchronous copies and warp-wide products

/// Copies 16 bytes from device to shared memory past the registers, of which only the first `bytes`
/// are read and the rest are zeros. Both addresses are multiples of 16.
DEVICE void copy_async_16(u32 shared, const void* global, u32 bytes = 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global),
                 "r"(bytes)
                 : "memory");
}
/// Closes a group of copies.
DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until no more than `left` groups of this thread are under way.
template <i32 left>
DEVICE void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
}

/// Four 8×8 matrices of 16-bit values: lane 8i + r holds the address of row r of matrix i; register
/// i of lane l is matrix i's row l / 4, columns 2 (l % 4) and the next.
DEVICE void load_matrix_x4(u32 (&r)[4], u32 shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared)
                 : "memory");
}
/// The same with each matrix transposed.
DEVICE void load_matrix_x4_transposed(u32 (&r)[4], u32 shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared)
                 : "memory");
}

/// d [16, 8] += a [16, 16] · b [16, 8]. Lane l, with g = l / 4 and t = l % 4, holds
/// a: rows g and g + 8 by register, columns 2t, 2t + 1, and 8 further on in registers 2 and 3;
/// b: rows 2t, 2t + 1 (register 1: 8 further on) of column g;
/// d: row g, columns 2t, 2t + 1, then row g + 8.
DEVICE void mma_16x8x16(f32 (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif  // __CUDA_ARCH__
