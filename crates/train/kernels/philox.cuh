// Random words from a counter and a key: Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers:
// as easy as 1, 2, 3").
#pragma once
#include "device.cuh"

/// Four words from four and two, with ten rounds.
DEVICE void philox(u32 (&c)[4], u32 key0, u32 key1) {
#pragma unroll
    for (i32 i = 0; i < 10; ++i) {
        u32 high0 = __umulhi(0xd2511f53u, c[0]), low0 = 0xd2511f53u * c[0];
        u32 high1 = __umulhi(0xcd9e8d57u, c[2]), low1 = 0xcd9e8d57u * c[2];
        c[0] = high1 ^ c[1] ^ key0;
        c[1] = low1;
        c[2] = high0 ^ c[3] ^ key1;
        c[3] = low0;
        key0 += 0x9e3779b9u;
        key1 += 0xbb67ae85u;
    }
}
