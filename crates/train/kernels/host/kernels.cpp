// All kernels in one library for the emulation, with the few functions that a test calls.
#include <cstring>

#include "../hopper.cuh"

extern "C" {

/// Runs a kernel to its end. 0, or 1 where no kernel has that name.
int emulate_launch(const char* kernel, const u32* grid, const u32* block, u32 shared_bytes,
                   void** arguments) {
    if (emulate::kernels().count(kernel) == 0) return 1;
    emulate::launch(kernel, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]},
                    shared_bytes, arguments);
    return 0;
}
}
