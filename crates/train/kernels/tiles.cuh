// The order in which tiles of a product are worked on, and where elements of a tile stand in shared
// memory. Host and device compile the same functions; src/cuda/tiles.rs holds them to a twin in Rust.
#pragma once
#include "device.cuh"

/// A product's tiles: `rows` × `columns` of them, the whole `splits` times along k.
struct TileGrid {
    i32 rows;
    i32 columns;
    i32 splits;
};

struct Tile {
    i32 row;
    i32 column;
    i32 split;
};

/// Rows of tiles that are worked on together, so that what they share stays in the L2 cache.
constexpr i32 TILE_GROUP = 8;

/// Tile number `id`: split by split; in bands of TILE_GROUP rows; in a band column by column.
HOST_DEVICE Tile tile_at(TileGrid grid, i32 id) {
    i32 plane = grid.rows * grid.columns;
    i32 split = id / plane;
    id -= split * plane;
    i32 band = TILE_GROUP * grid.columns;
    i32 first = id / band * TILE_GROUP;
    i32 height = least(grid.rows - first, TILE_GROUP);
    i32 within = id % band;
    return Tile{first + within % height, within / height, split};
}

/// The k blocks [first, last) of a split: as even as can be, the longer ones first.
struct Range {
    i32 first;
    i32 last;
};
HOST_DEVICE Range split_range(i32 blocks, i32 splits, i32 split) {
    i32 each = blocks / splits, more = blocks % splits;
    i32 first = split * each + least(split, more);
    return Range{first, first + each + (split < more ? 1 : 0)};
}

/// An element of an operand: its row (m or n), and k.
struct Element {
    i32 mn;
    i32 k;
};

/// Where an element stands in a tile of 128-byte rows under the swizzle. K-major: a row an mn, 64 k
/// wide. MN-major: panels of 64 mn, in each a row a k.
HOST_DEVICE u32 operand_place(Element at, bool mn_major) {
    return mn_major ? swizzle_128(u32((at.mn / 64 * 64 + at.k) * 128 + at.mn % 64 * 2))
                    : swizzle_128(u32(at.mn * 128 + at.k * 2));
}

/// Where (row, column) of `rows` rows in panels of 64 columns stands.
HOST_DEVICE u32 panel_place(i32 rows, i32 row, i32 column) {
    return u32(column / 64 * rows * 128) + swizzle_128(u32(row * 128 + column % 64 * 2));
}

/// The element of a [16 m, 16 k] at which a lane's eight begin, for load_matrix_x4 (transposed where
/// MN-major): matrices in the order (m, k), (m + 8, k), (m, k + 8), (m + 8, k + 8).
HOST_DEVICE Element fragment_a(i32 lane, bool mn_major) {
    return mn_major ? Element{lane / 8 % 2 * 8, lane % 8 + lane / 16 * 8} : Element{lane % 16, lane / 16 * 8};
}

/// The same of b [16 k, 16 n]: (n, k), (n, k + 8), (n + 8, k), (n + 8, k + 8).
HOST_DEVICE Element fragment_b(i32 lane, bool mn_major) {
    return mn_major ? Element{lane / 16 * 8, lane % 16} : Element{lane % 8 + lane / 16 * 8, lane / 8 % 2 * 8};
}
