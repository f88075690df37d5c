// What Hopper adds: barriers in shared memory, the bulk tensor copy engine, products by four warps.
// Include after device.cuh, in kernels for sm_90a alone.
//
// Sources: PTX ISA 8.7 (mbarrier, cp.async.bulk.tensor, wgmma, setmaxnreg) and its figures of the
// matrix descriptor and of the canonical layouts.
#pragma once
#include "device.cuh"

/// How the copy engine sees a tensor: made by the host, opaque here.
struct alignas(64) TensorMap {
    u64 opaque[16];
};

/// A matrix in shared memory as `wgmma` takes it: rows of 128 bytes under the 128-byte swizzle.
///
/// K-major (each row holds 64 consecutive k of one m or n): `stride` is the bytes between groups of
/// eight rows, 1024 where they are packed; `lead` is not used. A step of 16 along k adds 32 bytes to
/// the address.
///
/// MN-major (each row holds 64 consecutive m or n of one k): `stride` is the bytes between groups of
/// eight k; `lead` those between blocks of 64 along m or n. A step of 16 along k adds two groups.
HOST_DEVICE u64 matrix_descriptor(u32 shared, u32 lead, u32 stride) {
    return u64((shared & 0x3ffffu) >> 4) | (u64(lead >> 4) << 16) | (u64(stride >> 4) << 32) |
           (u64(1) << 62);
}

#ifdef __CUDA_ARCH__

// ---------------------------------------------------------------------------------------------
// Barriers in shared memory

/// A barrier that `arrivals` arrivals and the bytes announced to it complete; then its phase flips.
DEVICE void mbarrier_init(u32 barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
/// Makes the barriers' initial state visible to the copy engine.
DEVICE void mbarrier_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void mbarrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/// Arrives, and announces `bytes` that copies will bring.
DEVICE void mbarrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}
/// Waits for the end of the phase of this parity.
DEVICE void mbarrier_wait(u32 barrier, u32 parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "WAIT:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra DONE;\n"
        "bra WAIT;\n"
        "DONE:\n"
        "}\n" ::"r"(barrier),
        "r"(parity)
        : "memory");
}

// ---------------------------------------------------------------------------------------------
// The copy engine

DEVICE void tensor_prefetch(const TensorMap& map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}
/// Brings the box at column `x`, row `y`; what lies outside the tensor arrives as zeros.
DEVICE void tensor_load_2d(u32 shared, const TensorMap& map, u32 barrier, i32 x, i32 y) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%3, %4}], [%2];" ::"r"(shared),
        "l"(&map), "r"(barrier), "r"(x), "r"(y)
        : "memory");
}
DEVICE void tensor_load_3d(u32 shared, const TensorMap& map, u32 barrier, i32 x, i32 y, i32 z) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared),
        "l"(&map), "r"(barrier), "r"(x), "r"(y), "r"(z)
        : "memory");
}
/// Takes a box away; what lies outside the tensor is dropped.
DEVICE void tensor_store_2d(const TensorMap& map, u32 shared, i32 x, i32 y) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::
                     "l"(&map),
                 "r"(shared), "r"(x), "r"(y)
                 : "memory");
}
DEVICE void tensor_store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
/// Waits until at most `left` groups still read shared memory.
template <i32 left>
DEVICE void tensor_store_wait_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(left) : "memory");
}
template <i32 left>
DEVICE void tensor_store_wait() {
    asm volatile("cp.async.bulk.wait_group %0;" ::"n"(left) : "memory");
}
/// Shows ordinary writes to shared memory to the copy engine and the tensor cores.
DEVICE void shared_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

template <i32 count>
DEVICE void registers_give() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
}
template <i32 count>
DEVICE void registers_take() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
}

// ---------------------------------------------------------------------------------------------
// Products by a warpgroup (four consecutive warps): d [64, N] (+)= a [64, 16] · b [16, N].
// Thread t with warp w = t / 32, g = t % 32 / 4, q = t % 4 holds d[4 j + 2 i + c]: row
// 16 w + g + 8 i, column 8 j + 2 q + c.

/// Before the first product, and after registers that take part were written.
DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <i32 left>
DEVICE void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(left) : "memory");
}

/// Keeps the compiler from moving or copying accumulators across a wait.
template <i32 count>
DEVICE void wgmma_hold(f32 (&d)[count]) {
#pragma unroll
    for (i32 i = 0; i < count; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

/// Keeps the compiler from computing what depends on this once for a whole loop, which takes registers
/// that the accumulators need.
DEVICE u32 computed_here(u32 x) {
    asm volatile("" : "+r"(x));
    return x;
}

#define D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define D16(i) D4(i), D4(i + 4), D4(i + 8), D4(i + 12)
#define D32(i) D16(i), D16(i + 16)
#define D48(i) D32(i), D16(i + 32)
#define D64(i) D32(i), D32(i + 32)
#define D80(i) D64(i), D16(i + 64)
#define D96(i) D64(i), D32(i + 64)
#define D128(i) D64(i), D64(i + 64)
#define LIST_16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define LIST_32                                                                                   \
    LIST_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define LIST_48                                                                                   \
    LIST_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define LIST_64                                                                                   \
    LIST_48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define LIST_80                                                                                   \
    LIST_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define LIST_96                                                                                   \
    LIST_80 ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define LIST_112                                                                                  \
    LIST_96                                                                                       \
    ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define LIST_128                                                                                  \
    LIST_112                                                                                      \
    ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, " \
    "%127"

/// d = a · b + (accumulate ? d : 0), both operands in shared memory. `a_mn`, `b_mn`: 1 where the
/// operand is MN-major; 0 where K-major. The width N is twice the registers of d.
#define WGMMA(N, REGISTERS, LIST, P0, P1, P2, P3, P4, P5, P6)                                      \
    template <i32 a_mn, i32 b_mn>                                                                 \
    DEVICE void wgmma(f32 (&d)[REGISTERS], u64 a, u64 b, i32 accumulate) {                        \
        asm volatile(                                                                             \
            "{\n.reg .pred p;\nsetp.ne.b32 p, %" #P2 ", 0;\n"                                     \
            "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" LIST "}, %" #P0 ", %" #P1 \
            ", p, 1, 1, %" #P3 ", %" #P4 ";\n}\n"                                                 \
            : D##REGISTERS(0)                                                                     \
            : "l"(a), "l"(b), "r"(accumulate), "n"(a_mn), "n"(b_mn)                               \
            : "memory");                                                                          \
    }                                                                                             \
    /* The same with a in registers, laid out as for mma_16x8x16, each warp its sixteen rows. */  \
    template <i32 b_mn>                                                                           \
    DEVICE void wgmma_registers(f32 (&d)[REGISTERS], const u32 (&a)[4], u64 b, i32 accumulate) {  \
        asm volatile(                                                                             \
            "{\n.reg .pred p;\nsetp.ne.b32 p, %" #P5 ", 0;\n"                                     \
            "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" LIST "}, {%" #P0 ", %" #P1 \
            ", %" #P2 ", %" #P3 "}, %" #P4 ", p, 1, 1, %" #P6 ";\n}\n"                            \
            : D##REGISTERS(0)                                                                     \
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(b_mn)      \
            : "memory");                                                                          \
    }

WGMMA(32, 16, LIST_16, 16, 17, 18, 19, 20, 21, 22)
WGMMA(64, 32, LIST_32, 32, 33, 34, 35, 36, 37, 38)
WGMMA(96, 48, LIST_48, 48, 49, 50, 51, 52, 53, 54)
WGMMA(128, 64, LIST_64, 64, 65, 66, 67, 68, 69, 70)
WGMMA(160, 80, LIST_80, 80, 81, 82, 83, 84, 85, 86)
WGMMA(192, 96, LIST_96, 96, 97, 98, 99, 100, 101, 102)
WGMMA(256, 128, LIST_128, 128, 129, 130, 131, 132, 133, 134)

#undef WGMMA
#else
#include "host/emulate_hopper.h"
#endif  // __CUDA_ARCH__
