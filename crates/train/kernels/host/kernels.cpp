// All kernels in one library for the emulation, and the function by which a test runs one.
#include "../adamw.cu"
#include "../attention_backward_sm90.cu"
#include "../attention_delta.cu"
#include "../attention_sm80.cu"
#include "../attention_sm90.cu"
#include "../cross_entropy.cu"
#include "../decode.cu"
#include "../embedding.cu"
#include "../gemm_plain.cu"
#include "../gemm_sm80.cu"
#include "../gemm_sm90.cu"
#include "../glu.cu"
#include "../norm.cu"
#include "../reduce.cu"
#include "../rope.cu"
#include "../sample.cu"

/// Runs a kernel to its end. 0, or 1 where no kernel has that name.
extern "C" int emulate_launch(const char* kernel, const u32* grid, const u32* block, u32 shared_bytes,
                              void** arguments) {
    if (emulate::kernels().count(kernel) == 0) return 1;
    emulate::launch(kernel, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, shared_bytes,
                    arguments);
    return 0;
}
