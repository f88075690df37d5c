//! The kernels' tile arithmetic, compiled for the host, against a twin written down independently
//! here: the order of tiles, splits, the swizzle and its banks, fragments, matrix descriptors as the
//! PTX ISA lays them out, and that attention's work meets every pair of query and key once.

use libloading::{Library, Symbol};
use proptest::prelude::*;

use super::attention::tiles;
use super::emulator::library;

/// Calls one of the functions at the end of kernels/host/kernels.cpp.
macro_rules! host {
    ($library:expr, $name:literal ( $($argument:expr => $kind:ty),* ) $(-> $out:ty)?) => {{
        // SAFETY: the function has this type.
        unsafe {
            let function: Symbol<'_, unsafe extern "C" fn($($kind),*) $(-> $out)?> =
                $library.get(concat!($name, "\0").as_bytes()).expect($name);
            function($($argument),*)
        }
    }};
}

/// The library, where there is a C++ compiler.
fn with(work: impl FnOnce(&Library)) {
    if let Some(library) = library() {
        work(&library.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}

fn tile_at(library: &Library, grid: [i32; 3], id: i32) -> [i32; 3] {
    let mut tile = [-1; 3];
    host!(library, "host_tile_at"(grid.as_ptr() => *const i32, id => i32, tile.as_mut_ptr() => *mut i32));
    tile
}

/// The order as it is described: split by split, bands of eight rows, in a band column by column.
fn tiles_in_order([rows, columns, splits]: [i32; 3]) -> Vec<[i32; 3]> {
    let mut all = Vec::new();
    for split in 0..splits {
        for band in (0..rows).step_by(8) {
            for column in 0..columns {
                all.extend((band..rows.min(band + 8)).map(|row| [row, column, split]));
            }
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_schedule_visits_each_tile_once_in_bands(rows in 1..40, columns in 1..30, splits in 1..5) {
        with(|library| {
            let grid = [rows, columns, splits];
            let count = rows * columns * splits;
            let found: Vec<_> = (0..count).map(|id| tile_at(library, grid, id)).collect();
            assert_eq!(found, tiles_in_order(grid));
        });
    }

    #[test]
    fn splits_part_the_blocks_of_k_evenly(blocks in 1..300, splits in 1..40) {
        prop_assume!(splits <= blocks);
        with(|library| {
            let mut next = 0;
            let mut lengths = Vec::new();
            for split in 0..splits {
                let mut range = [-1; 2];
                host!(library, "host_split_range"(
                    blocks => i32, splits => i32, split => i32, range.as_mut_ptr() => *mut i32
                ));
                assert_eq!(range[0], next, "no block is left out or taken twice");
                next = range[1];
                lengths.push(range[1] - range[0]);
            }
            assert_eq!(next, blocks);
            let [longest, shortest] =
                [lengths.iter().max(), lengths.iter().min()].map(|x| *x.expect("a split"));
            assert!(longest - shortest <= 1 && shortest > 0, "{lengths:?}");
        });
    }
}

/// The 128-byte swizzle by the figure of the PTX ISA: of rows of eight 16-byte units, unit u of row r
/// stands at place u xor (r mod 8).
fn swizzle(offset: u32) -> u32 {
    let (row, unit, within) = (offset / 128, offset / 16 % 8, offset % 16);
    row * 128 + (unit ^ (row % 8)) * 16 + within
}

/// 16-byte accesses of eight lanes go at once: the most that fall on one of eight groups of banks.
fn conflicts(places: &[u32]) -> usize {
    (0..8).map(|group| places.iter().filter(|&&at| at / 16 % 8 == group).count()).max().unwrap_or(0)
}

#[test]
fn the_swizzle_is_the_documented_one_and_a_bijection() {
    with(|library| {
        let mut seen = vec![false; 64 * 128];
        for offset in 0..64 * 128 {
            let found = host!(library, "host_swizzle"(offset => u32) -> u32);
            assert_eq!(found, swizzle(offset));
            assert!(!std::mem::replace(&mut seen[found as usize], true));
        }
    });
}

#[test]
fn fragments_are_read_where_elements_stand_and_without_bank_conflicts() {
    with(|library| {
        let place = |mn: i32, k: i32, mn_major: i32| host!(library, "host_operand_place"(mn => i32, k => i32, mn_major => i32) -> u32);
        // Where the copies put an element: rows of 64 k, or panels of 64 rows with a row a k.
        for mn in 0..128 {
            for k in 0..64 {
                assert_eq!(place(mn, k, 0), swizzle((mn * 128 + k * 2) as u32));
                let row = mn / 64 * 64 + k;
                assert_eq!(place(mn, k, 1), swizzle((row * 128 + mn % 64 * 2) as u32));
            }
        }
        // ldmatrix: lane 8 i + r gives row r of matrix i, eight elements along the tile's row.
        for of_b in [0, 1] {
            for mn_major in [0, 1] {
                for (mn, k) in [(0, 0), (16, 48), (112, 16)] {
                    let mut lanes = Vec::new();
                    for lane in 0..32 {
                        let mut at = [-1; 2];
                        host!(library, "host_fragment"(
                            of_b => i32, lane => i32, mn_major => i32, at.as_mut_ptr() => *mut i32
                        ));
                        let (matrix, row) = (lane / 8, lane % 8);
                        // mma_16x8x16: a's second matrix is eight rows on, b's eight k.
                        let (far, near) = (matrix / 2 * 8, matrix % 2 * 8);
                        let corner = if of_b == 1 { [far, near] } else { [near, far] };
                        let along = usize::from(mn_major == 1);
                        let mut expected = corner;
                        expected[along] += row;
                        assert_eq!(at, expected, "lane {lane}");
                        lanes.push(place(mn + at[0], k + at[1], mn_major));
                    }
                    for eight in lanes.chunks(8) {
                        assert_eq!(conflicts(eight), 1, "{eight:?}");
                        assert!(eight.iter().all(|at| at % 16 == 0));
                    }
                }
            }
        }
    });
}

#[test]
fn panels_and_the_way_out_meet_each_bank_once() {
    with(|library| {
        let panel = |rows: i32, row: i32, column: i32| host!(library, "host_panel_place"(rows => i32, row => i32, column => i32) -> u32);
        for rows in [16, 32, 64] {
            let mut seen = vec![false; rows as usize * 256 * 2];
            for row in 0..rows {
                for column in 0..256 {
                    let at = panel(rows, row, column);
                    let base = (column / 64 * rows * 128) as u32;
                    assert_eq!(at, base + swizzle((row * 128 + column % 64 * 2) as u32));
                    assert!(!std::mem::replace(&mut seen[at as usize], true));
                }
            }
            for column in (0..256).step_by(8) {
                let eight: Vec<u32> = (0..8).map(|row| panel(rows, row, column)).collect();
                assert_eq!(conflicts(&eight), 1);
            }
        }
        // Results leave as pairs of bf16: lane 4 g + q writes row g, columns 8 j + 2 q.
        for j in 0..8 {
            let mut banks = [false; 32];
            for lane in 0..32 {
                let offset = (lane / 4) * 128 + (8 * j + 2 * (lane % 4)) * 2;
                let at = host!(library, "host_swizzle"(offset => u32) -> u32);
                assert!(!std::mem::replace(&mut banks[at as usize / 4 % 32], true));
            }
        }
    });
}

/// A matrix descriptor's fields (PTX ISA, "Matrix Descriptor Format" of wgmma): start, leading and
/// stride byte offsets, base offset, swizzle mode.
fn fields(descriptor: u64) -> [u64; 5] {
    let field = |from: u32, bits: u32| descriptor >> from & ((1 << bits) - 1);
    [field(0, 14) << 4, field(16, 14) << 4, field(32, 14) << 4, field(49, 3), field(62, 2)]
}

#[test]
fn descriptors_have_their_fields_where_the_isa_puts_them() {
    with(|library| {
        for (start, lead, stride) in
            [(0, 0, 1024), (1024, 8192, 1024), (0x38000, 16384, 1024), (32, 0, 2048)]
        {
            let found = host!(library, "host_matrix_descriptor"(
                start => u32, lead => u32, stride => u32
            ) -> u64);
            let wide = [start, lead, stride].map(u64::from);
            // The start's bits above 18 are not there; mode 1 is the 128-byte swizzle.
            assert_eq!(fields(found), [wide[0] & 0x3ffff, wide[1], wide[2], 0, 1]);
            // Nothing stands between the fields.
            let used = 0x3fff | 0x3fff << 16 | 0x3fff << 32 | 0b111 << 49 | 0b11 << 62;
            assert_eq!(found & !used, 0);
        }
    });
}

#[test]
fn descriptors_of_products_find_each_element_where_the_copy_engine_put_it() {
    with(|library| {
        for mn_major in [0, 1] {
            for step in 0..4 {
                let found = host!(library, "host_gemm_operand"(
                    8192 => u32, step => i32, mn_major => i32
                ) -> u64);
                let [start, lead, stride, ..] = fields(found);
                for mn in 0..64_u64 {
                    for k in 0..16_u64 {
                        // The canonical layouts under the 128-byte swizzle: what the tensor cores do
                        // with the fields. The swizzle goes by the address.
                        let address = if mn_major == 1 {
                            start + mn % 64 * 2 + mn / 64 * lead + k % 8 * 128 + k / 8 * stride
                        } else {
                            start + mn % 8 * 128 + mn / 8 * stride + k * 2
                        };
                        let k = k + 16 * step as u64;
                        let row = if mn_major == 1 { k } else { mn };
                        let column = if mn_major == 1 { mn } else { k };
                        let expected = 8192 + row * 128 + column * 2;
                        assert_eq!(swizzle(address as u32), swizzle(expected as u32));
                    }
                }
            }
        }
    });
}

/// How often each pair (query, key) is met by the blocks of one head.
fn met(
    library: &Library,
    documents: &[u32],
    window: usize,
    of_keys: bool,
    [rows, step]: [i32; 2],
) -> Vec<u8> {
    let n = documents[documents.len() - 1] as usize;
    let mut count = vec![0_u8; n * n];
    let limit = (window > 0).then_some(window);
    for tile in tiles(documents, rows as usize, limit, of_keys) {
        let place = [tile.row, tile.start, tile.end];
        let mut steps = [-1; 2];
        host!(library, "host_attention_steps"(
            i32::from(of_keys) => i32, place.as_ptr() => *const i32, rows => i32, window as i32 => i32,
            step => i32, steps.as_mut_ptr() => *mut i32
        ));
        for mine in tile.row..(tile.row + rows).min(tile.end) {
            for other in steps[0]..(steps[0] + steps[1] * step).min(tile.end) {
                let (i, j) = if of_keys { (other, mine) } else { (mine, other) };
                let sees = host!(library, "host_sees"(
                    i => i32, j => i32, tile.start => i32, window as i32 => i32
                ) -> i32);
                count[i as usize * n + j as usize] += u8::from(sees != 0);
            }
        }
    }
    count
}

#[test]
fn attention_meets_each_visible_pair_once_and_no_other() {
    with(|library| {
        for documents in [vec![0, 150], vec![0, 1, 65, 66, 200], vec![0, 129, 130]] {
            let n = documents[documents.len() - 1] as usize;
            for window in [0, 1, 63, 70, 500] {
                let start = |i: usize| documents.iter().rev().find(|&&d| d as usize <= i).copied();
                let expected: Vec<u8> = (0..n * n)
                    .map(|at| (at / n, at % n))
                    .map(|(i, j)| {
                        let near = window == 0 || i < j + window;
                        u8::from(j <= i && near && start(i) == start(j))
                    })
                    .collect();
                // The tiles and steps of the kernels: forward, dq, then dk and dv.
                for (of_keys, size) in [
                    (false, [128, 128]),
                    (false, [128, 64]),
                    (false, [64, 16]),
                    (true, [128, 64]),
                    (true, [64, 32]),
                ] {
                    let found = met(library, &documents, window, of_keys, size);
                    assert!(
                        found == expected,
                        "{documents:?}, window {window}, {of_keys} {size:?}"
                    );
                }
            }
        }
    });
}
