//! How the result of a product is cut into tiles, each the work of one task: by its shape alone, never by
//! the number of threads. In: the rows of each run and the result's columns and depth. Out: the tiles,
//! among them those that several runs share. Which elements may be computed in one call follows from how
//! the `gemm` crate sums (version 0.19, `gemm_basic_generic` and `kernel_params`).

use std::ops::Range;

/// Rows and columns of one tile of a result. Large enough that operands are packed seldom, small
/// enough that there are tasks for several threads.
fn tile(rows: usize, columns: usize) -> (usize, usize) {
    let (mut height, mut width) = (rows.min(256), columns.min(512));
    while rows.div_ceil(height) * columns.div_ceil(width) < 8 && height.max(width) > 64 {
        if height >= width {
            height = height.div_ceil(2).next_multiple_of(16);
        } else {
            width = width.div_ceil(2).next_multiple_of(16);
        }
    }
    (height, width)
}

/// A part of a result that one task computes.
#[derive(Clone)]
pub(super) struct Tile {
    pub rows: Range<usize>,
    pub columns: Range<usize>,
    /// How much of the depth a call takes.
    pub depth: usize,
}

/// Depth that `gemm` sums at once in a small product; the sum goes to the result, and on from there.
const SUMMED: usize = 512;
/// A product of so few rows and columns is a small one.
const SMALL: usize = 64;
/// A smaller product has kernels of its own, which sum in another order.
const TINY: usize = 256;
/// Rows of a tile of several runs, at most.
const JOINED: usize = 512;

impl Tile {
    fn is_small(&self) -> bool {
        self.rows.len() <= SMALL && self.columns.len() <= SMALL
    }

    /// Whether `gemm` sums each of its elements by one rule: in large products by blocks that follow from
    /// the depth alone, in small ones by blocks of [`SUMMED`].
    fn is_regular(&self, depth: usize) -> bool {
        let (height, width) = (self.rows.len(), self.columns.len());
        // No block may be so short that it has a kernel of its own.
        let blocks = depth > 2 && !(1..=2).contains(&(depth % SUMMED));
        blocks && height > 1 && width > 1 && height * width > TINY
    }
}

/// The tiles of a result. Each of `runs` is cut as it would be alone, so that its rows do not depend on
/// the others. Then tiles of neighbouring runs over the same columns become one, where every element
/// is still summed as it was: the weights are read and packed once for all of them.
pub(super) fn tiles(runs: &[Range<usize>], [columns, depth]: [usize; 2]) -> Vec<Tile> {
    let mut all: Vec<Tile> = Vec::new();
    for run in runs {
        let (height, width) = tile(run.len().max(1), columns.max(1));
        for row in run.clone().step_by(height) {
            for column in (0..columns).step_by(width) {
                let rows = row..run.end.min(row + height);
                all.push(Tile { rows, columns: column..columns.min(column + width), depth });
            }
        }
    }
    if runs.len() < 2 {
        return all;
    }
    all.sort_by_key(|tile| tile.columns.start);
    let mut joined: Vec<Tile> = Vec::new();
    for tile in all {
        let is_next = |last: &&mut Tile| {
            let alike = tile.is_small() == (last.is_small() || last.depth < depth);
            last.columns == tile.columns
                && last.rows.end == tile.rows.start
                && (last.rows.len() + tile.rows.len()) <= JOINED
                && tile.is_regular(depth)
                && last.is_regular(depth)
                && (alike || depth <= SUMMED)
        };
        match joined.last_mut().filter(is_next) {
            Some(last) => {
                if tile.is_small() {
                    last.depth = SUMMED.min(depth);
                }
                last.rows.end = tile.rows.end;
            }
            None => joined.push(tile),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_of_runs_alike_become_one() {
        let runs = [0..30, 30..60, 60..90, 90..120];
        let depth = 896;
        let rows = |columns| -> Vec<_> {
            tiles(&runs, [columns, depth]).into_iter().map(|tile| tile.rows).collect()
        };
        // Small products of 64 columns, large ones of 512.
        assert_eq!(rows(896), vec![0..120; 14]);
        assert_eq!(rows(4864), vec![0..120; 10]);
        assert_eq!(tiles(&runs, [896, depth])[0].depth, SUMMED);
        assert_eq!(tiles(&runs, [4864, depth])[0].depth, depth);
    }
}
