//! Launch code of attention: the work lists, the views of the copy engine, the kernels.

use std::sync::Arc;

use anyhow::{Result, ensure};

use super::derived::Derived;
use super::driver::{Address, Arguments, Driver, Grid, TensorMap, TensorShape};
use super::memory::{Buffer, Index, Pool};
use crate::ops::{AttentionShape, CacheShape};

/// Rows [row, end) of a document that begins at `start`; `AttentionTile` in attention.cuh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Tile {
    /// First row of the tile.
    pub row: i32,
    /// First row of its document.
    pub start: i32,
    /// One past the document's last row.
    pub end: i32,
    unused: i32,
}

impl Tile {
    /// No rows at all, where a list is longer than its tiles.
    pub const EMPTY: Self = Self { row: 0, start: 0, end: 0, unused: 0 };
}

/// `AttentionTask` in attention.cuh.
#[derive(Clone, Copy)]
#[repr(C)]
struct Task {
    rows: i32,
    heads: i32,
    key_values: i32,
    size: i32,
    window: i32,
    scale: f32,
    cap: f32,
    tiles: i32,
    list: Address,
}

/// `DecodeTask` in decode.cu.
#[derive(Clone, Copy)]
#[repr(C)]
struct DecodeTask {
    rows: i32,
    heads: i32,
    key_values: i32,
    size: i32,
    capacity: i32,
    window: i32,
    scale: f32,
    cap: f32,
    pieces: i32,
}

/// Keys of one piece of a cached sequence; PIECE in decode.cu.
const PIECE: usize = 256;

/// Tiles of `rows` rows over all documents, those with the most work first. `of_keys`: a tile's work
/// is the queries from its first row on; else the keys up to its last.
#[must_use]
pub fn tiles(documents: &[u32], rows: usize, window: Option<usize>, of_keys: bool) -> Vec<Tile> {
    let window = window.unwrap_or(usize::MAX);
    let mut all: Vec<(usize, Tile)> = Vec::new();
    for pair in documents.windows(2) {
        let (start, end) = (pair[0] as usize, pair[1] as usize);
        for row in (start..end).step_by(rows) {
            let last = (row + rows).min(end);
            let work = if of_keys {
                end.min(last.saturating_add(window)) - row
            } else {
                last - start.max((row + 1).saturating_sub(window))
            };
            let tile = Tile { row: row as i32, start: start as i32, end: end as i32, unused: 0 };
            all.push((work, tile));
        }
    }
    all.sort_by_key(|&(work, tile)| (std::cmp::Reverse(work), tile.row));
    all.into_iter().map(|(_, tile)| tile).collect()
}

/// The kernels' head size for a model's: what is left over is filled with zeros.
fn padded(size: usize) -> Result<usize> {
    match [64, 128, 256].into_iter().find(|&padded| size <= padded) {
        Some(padded) if size.is_multiple_of(8) => Ok(padded),
        _ => artifact::bail_user!(
            "attention on a card takes head sizes up to 256 that are multiples of 8; the model's is {size}"
        ),
    }
}

/// One attention's launches.
pub struct Attention<'a> {
    /// The device.
    pub driver: &'a dyn Driver,
    /// Its memory.
    pub pool: &'a Arc<Pool>,
    /// The documents, which keep their work lists.
    pub documents: &'a Index,
    /// How it attends.
    pub shape: AttentionShape,
    /// `[rows, (H + 2K) D]`.
    pub qkv: Address,
}

impl Attention<'_> {
    fn rows(&self) -> usize {
        self.documents.host.last().map_or(0, |&end| end as usize)
    }

    fn list(&self, rows: usize, of_keys: bool) -> Result<(Arc<Buffer>, usize)> {
        let what = Derived::Tiles { rows, window: self.shape.window, of_keys };
        self.documents.derive((self.driver, self.pool), what)
    }

    fn task(&self, list: &Buffer, count: usize) -> Task {
        let AttentionShape { heads, scale, softcap, window } = self.shape;
        Task {
            rows: self.rows() as i32,
            heads: heads.queries as i32,
            key_values: heads.key_values as i32,
            size: heads.size as i32,
            window: window.unwrap_or(0) as i32,
            scale,
            cap: softcap.unwrap_or(0.0),
            tiles: count as i32,
            list: list.at,
        }
    }

    /// The copy engine's view of `count` heads a row, boxes of 64 columns and `box_rows` rows.
    fn map(&self, base: Address, count: usize, box_rows: usize) -> Result<TensorMap> {
        let size = self.shape.heads.size as u64;
        self.driver.tensor_map(&TensorShape {
            base,
            rank: 3,
            sizes: [size, count as u64, self.rows() as u64],
            strides: [size * 2, size * 2 * count as u64],
            boxes: [64, 1, box_rows as u32],
        })
    }

    /// out `[rows, H D]` and log sums `[H, rows]`.
    ///
    /// # Errors
    /// If the head size is none that the kernels have, or the device refuses.
    pub fn forward(&self, out: Address, log_sums: Address) -> Result<()> {
        let heads = self.shape.heads;
        let size = padded(heads.size)?;
        if self.rows() == 0 {
            return Ok(());
        }
        if self.driver.facts().is_hopper() {
            let (keys, all) =
                (if size == 256 { 64 } else { 128 }, heads.queries + 2 * heads.key_values);
            let (list, count) = self.list(128, false)?;
            let shared = 128 * size * 2 + 4 * keys * size * 2 + 5 * 16;
            let arguments = Arguments::new()
                .with(self.map(self.qkv, all, 128)?)
                .with(self.map(self.qkv, all, keys)?)
                .with(self.task(&list, count))
                .with(out)
                .with(log_sums);
            let grid = Grid {
                blocks: [count as u32, heads.queries as u32, 1],
                threads: 384,
                shared: shared as u32,
            };
            return self.driver.launch(&format!("attention_forward_{size}"), grid, arguments);
        }
        let (list, count) = self.list(64, false)?;
        let arguments =
            Arguments::new().with(self.task(&list, count)).with(self.qkv).with(out).with(log_sums);
        let grid = Grid {
            blocks: [count as u32, heads.queries as u32, 1],
            threads: 128,
            shared: warp_shared(size, false),
        };
        self.driver.launch(&format!("attention_warp_forward_{size}"), grid, arguments)
    }

    /// dqkv, from what the forward pass left.
    ///
    /// # Errors
    /// As [`Attention::forward`].
    pub fn backward(
        &self,
        dqkv: Address,
        dout: Address,
        out: Address,
        log_sums: Address,
    ) -> Result<()> {
        let heads = self.shape.heads;
        let (size, rows) = (padded(heads.size)?, self.rows());
        if rows == 0 {
            return Ok(());
        }
        // Lists stay for the whole batch; what goes sooner is taken after them.
        let is_hopper = self.driver.facts().is_hopper();
        self.list(if is_hopper && size < 256 { 128 } else { 64 }, true)?;
        self.list(if is_hopper { 128 } else { 64 }, false)?;
        let delta = self.pool.take(rows * heads.queries * 4)?;
        let arguments = Arguments::new()
            .with(out)
            .with(dout)
            .with(delta.at)
            .with(rows as i32)
            .with(heads.queries as i32)
            .with(heads.size as i32);
        let warps = (rows * heads.queries).div_ceil(8);
        self.driver.launch("attention_delta", Grid::line(warps, 256), arguments)?;
        if is_hopper {
            return self.backward_hopper(size, dqkv, dout, log_sums, delta.at);
        }
        let (list, count) = self.list(64, true)?;
        let arguments = |list: &Buffer| {
            Arguments::new()
                .with(self.task(list, count))
                .with(self.qkv)
                .with(dout)
                .with(log_sums)
                .with(delta.at)
                .with(dqkv)
        };
        let shared = warp_shared(size, true);
        let parts = if size == 256 { 2 } else { 1 };
        let blocks = [count as u32, heads.key_values as u32, parts];
        let grid = Grid { blocks, threads: 128, shared };
        let kernel = format!("attention_warp_backward_kv_{size}");
        self.driver.launch(&kernel, grid, arguments(&list))?;
        let (list, _) = self.list(64, false)?;
        let blocks = [count as u32, heads.queries as u32, 1];
        let kernel = format!("attention_warp_backward_q_{size}");
        self.driver.launch(&kernel, Grid { blocks, threads: 128, shared }, arguments(&list))
    }

    fn backward_hopper(
        &self,
        size: usize,
        dqkv: Address,
        dout: Address,
        log_sums: Address,
        delta: Address,
    ) -> Result<()> {
        let heads = self.shape.heads;
        let all = heads.queries + 2 * heads.key_values;
        let launch = |kernel: &str,
                      [q, kv]: [usize; 2],
                      tile: usize,
                      of_keys: bool,
                      blocks: usize,
                      shared: usize| {
            let (list, count) = self.list(tile, of_keys)?;
            let arguments = Arguments::new()
                .with(self.map(self.qkv, all, q)?)
                .with(self.map(self.qkv, all, kv)?)
                .with(self.map(dout, heads.queries, q)?)
                .with(self.task(&list, count))
                .with(log_sums)
                .with(delta)
                .with(dqkv);
            let grid = Grid {
                blocks: [count as u32, blocks as u32, 1],
                threads: 384,
                shared: shared as u32,
            };
            let capped = if self.shape.softcap.is_some() { "capped_" } else { "" };
            self.driver.launch(&format!("{kernel}_{capped}{size}"), grid, arguments)
        };
        // KeysLayout and QueriesLayout in attention_backward_sm90.cu.
        let (keys, stages) = if size == 256 { (64, 2) } else { (128, 3) };
        let of_stage = 2 * 64 * size * 2 + 2 * 64 * 4 + 2 * 8;
        let shared = 2 * keys * size * 2 + stages * of_stage + 2 * 8;
        launch("attention_backward_kv", [64, keys], keys, true, heads.key_values, shared)?;
        let (keys, stages) = (if size == 64 { 128 } else { 64 }, if size == 256 { 1 } else { 3 });
        let shared = 2 * 128 * size * 2 + stages * (2 * keys * size * 2 + 2 * 8) + 2 * 8;
        launch("attention_backward_q", [128, keys], 128, false, heads.queries, shared)
    }
}

/// Shared memory of the kernels in attention_sm80.cu.
fn warp_shared(size: usize, backward: bool) -> u32 {
    let step = match (size, backward) {
        (256, _) => 16,
        (128, true) => 32,
        _ => 64,
    };
    (2 * 64 * size * 2 + 2 * 2 * step * size * 2) as u32
}

/// One layer's cache and the rows that use it.
pub struct Decode<'a> {
    /// The device.
    pub driver: &'a dyn Driver,
    /// Its memory.
    pub pool: &'a Arc<Pool>,
    /// `[slots, 2, K, capacity, D]`.
    pub cache: Address,
    /// `[rows, (H + 2K) D]`.
    pub qkv: Address,
    /// Each row's slot.
    pub slots: &'a Index,
    /// Each row's position.
    pub positions: &'a Index,
    /// How it attends, and a slot's capacity.
    pub shape: CacheShape,
}

impl Decode<'_> {
    fn task(&self) -> DecodeTask {
        let AttentionShape { heads, scale, softcap, window } = self.shape.attention;
        DecodeTask {
            rows: self.slots.host.len() as i32,
            heads: heads.queries as i32,
            key_values: heads.key_values as i32,
            size: heads.size as i32,
            capacity: self.shape.capacity as i32,
            window: window.unwrap_or(0) as i32,
            scale,
            cap: softcap.unwrap_or(0.0),
            pieces: self.shape.reach.div_ceil(PIECE) as i32,
        }
    }

    /// Puts the rows' keys and values into the cache.
    ///
    /// # Errors
    /// If the device refuses.
    pub fn store(&self) -> Result<()> {
        let task = self.task();
        let heads = self.slots.host.len() * 2 * task.key_values as usize;
        let arguments = Arguments::new()
            .with(self.cache)
            .with(self.qkv)
            .with(self.slots.at())
            .with(self.positions.at())
            .with(task);
        self.driver.launch("cache_store", Grid::line(heads.div_ceil(8), 256), arguments)
    }

    /// out `[rows, H D]`.
    ///
    /// # Errors
    /// If more query heads share a key head than the kernel has room for, or the device refuses.
    pub fn attend(&self, out: Address) -> Result<()> {
        let (task, heads) = (self.task(), self.shape.attention.heads);
        let (rows, sharing, size) = (self.slots.host.len(), heads.group(), heads.size);
        ensure!(sharing <= 16, "{sharing} query heads share a key head; decoding takes 16 at most");
        let places = rows * heads.queries * task.pieces as usize;
        let (partial, states) =
            (self.pool.take(places * size * 4)?, self.pool.take(places * 2 * 4)?);
        let arguments = Arguments::new()
            .with(partial.at)
            .with(states.at)
            .with(self.qkv)
            .with(self.cache)
            .with(self.slots.at())
            .with(self.positions.at())
            .with(task);
        let grid = Grid {
            blocks: [task.pieces as u32, heads.key_values as u32, rows as u32],
            threads: 128,
            shared: (sharing * (size + PIECE) * 4) as u32,
        };
        self.driver.launch("decode_piece", grid, arguments)?;
        let arguments = Arguments::new()
            .with(out)
            .with(partial.at)
            .with(states.at)
            .with(self.positions.at())
            .with(task);
        let warps = (rows * heads.queries).div_ceil(8);
        self.driver.launch("decode_combine", Grid::line(warps, 256), arguments)
    }
}
