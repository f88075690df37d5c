// The order in which tiles of a product are worked on. Host and device compile the same functions;
// the launch code's twin in Rust is tested against them.
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
