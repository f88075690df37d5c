// All kernels in one library for the emulation, and the function by which a test runs one.
#include "../adamw.cu"
#include "../attention_backward_sm90.cu"
#include "../attention_delta.cu"
#include "../attention_sm80.cu"
#include "../attention_sm90.cu"
#include "../cross_entropy.cu"
#include "../decode.cu"
#include "../dora.cu"
#include "../dropout.cu"
#include "../embedding.cu"
#include "../gemm_plain.cu"
#include "../gemm_sm80.cu"
#include "../gemm_sm90.cu"
#include "../glu.cu"
#include "../nf4.cu"
#include "../norm.cu"
#include "../reduce.cu"
#include "../rope.cu"
#include "../sample.cu"

/// Runs a kernel to its end. 0; or 1 where no kernel has that name, 2 where it declares arguments of other
/// sizes, 3 where it is compiled for fewer threads.
extern "C" int emulate_launch(const char* kernel, const u32* grid, const u32* block, u32 shared_bytes,
                              void** arguments, const u32* sizes, u32 count) {
    auto found = emulate::kernels().find(kernel);
    if (found == emulate::kernels().end()) return 1;
    if (found->second.sizes != std::vector<u32>(sizes, sizes + count)) return 2;
    auto bound = emulate::bounds().find(kernel);
    if (bound != emulate::bounds().end() && block[0] * block[1] * block[2] > bound->second) return 3;
    emulate::launch(kernel, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, shared_bytes,
                    arguments);
    return 0;
}

// ---------------------------------------------------------------------------------------------
// The tile arithmetic by itself, for src/cuda/tiles.rs

extern "C" void host_tile_at(const i32* grid, i32 id, i32* out) {
    Tile tile = tile_at({grid[0], grid[1], grid[2]}, id);
    out[0] = tile.row, out[1] = tile.column, out[2] = tile.split;
}
extern "C" void host_split_range(i32 blocks, i32 splits, i32 split, i32* out) {
    Range range = split_range(blocks, splits, split);
    out[0] = range.first, out[1] = range.last;
}
extern "C" u32 host_swizzle(u32 offset) { return swizzle_128(offset); }
extern "C" u32 host_operand_place(i32 mn, i32 k, i32 mn_major) {
    return operand_place({mn, k}, mn_major != 0);
}
extern "C" u32 host_panel_place(i32 rows, i32 row, i32 column) { return panel_place(rows, row, column); }
extern "C" void host_fragment(i32 of_b, i32 lane, i32 mn_major, i32* out) {
    Element at = of_b ? fragment_b(lane, mn_major != 0) : fragment_a(lane, mn_major != 0);
    out[0] = at.mn, out[1] = at.k;
}
extern "C" u64 host_matrix_descriptor(u32 shared, u32 lead, u32 stride) {
    return matrix_descriptor(shared, lead, stride);
}
extern "C" u64 host_gemm_operand(u32 shared, i32 step, i32 mn_major) {
    return mn_major ? gemm_operand<1>(shared, step) : gemm_operand<0>(shared, step);
}
extern "C" void host_attention_steps(i32 of_keys, const i32* tile, i32 rows, i32 window, i32 step, i32* out) {
    AttentionTile at{tile[0], tile[1], tile[2], 0};
    Steps steps = of_keys ? steps_of_keys(at, rows, window, step) : steps_of_queries(at, rows, window, step);
    out[0] = steps.first, out[1] = steps.count;
}
extern "C" i32 host_sees(i32 i, i32 j, i32 start, i32 window) { return sees(i, j, start, window); }
