//! Which kernel takes a matrix product, and how it is launched.

use anyhow::{Result, bail};

use super::driver::{Address, Arguments, Driver, Grid, TensorMap, TensorShape};
use super::memory::Pool;
use std::sync::Arc;

/// Which way the operands of c = a · bᵀ stand in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// a `[M, K]`, b `[N, K]`: y = x wᵀ.
    Nt,
    /// a `[M, K]`, b `[K, N]`: dx = dy w.
    Nn,
    /// a `[K, M]`, b `[K, N]`: dw = dyᵀ x.
    Tn,
}

impl Layout {
    fn name(self) -> &'static str {
        match self {
            Self::Nt => "nt",
            Self::Nn => "nn",
            Self::Tn => "tn",
        }
    }
}

/// Where a product goes.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// To bf16.
    Bf16(Address),
    /// To f32.
    F32(Address),
    /// Onto f32.
    AddF32(Address),
}

/// A product to be done.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// Rows and columns of c, and what is summed over.
    pub m: usize,
    /// Columns of c.
    pub n: usize,
    /// What is summed over.
    pub k: usize,
    /// How a and b stand.
    pub layout: Layout,
    /// First operand, bf16.
    pub a: Address,
    /// Second operand, bf16.
    pub b: Address,
    /// Where c goes.
    pub target: Target,
    /// A row `[N]` added to every row; null for none.
    pub bias: Address,
    /// `[M, N]`, added; null for none.
    pub residual: Address,
    /// Whether a row's result must not depend on how many rows there are.
    pub rows_apart: bool,
}

impl Product {
    /// c `[m, n]` of two factors, summed over k, and nothing added.
    #[must_use]
    pub fn new(
        [m, n, k]: [usize; 3],
        layout: Layout,
        [a, b]: [Address; 2],
        target: Target,
    ) -> Self {
        Self { m, n, k, layout, a, b, target, bias: 0, residual: 0, rows_apart: false }
    }
}

/// What the kernels are told; `GemmTask` in gemm.cuh.
#[derive(Clone, Copy)]
#[repr(C)]
struct Task {
    m: i32,
    n: i32,
    k: i32,
    tiles: [i32; 3],
    bias: Address,
    residual: Address,
    out: Address,
    add: i32,
}

/// A kernel, its tiles, and how often k is split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Which family of kernels.
    pub kernel: Kernel,
    /// Rows of a tile.
    pub rows: usize,
    /// Columns of a tile.
    pub columns: usize,
    /// Parts of k.
    pub splits: usize,
}

/// The families of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// gemm_sm90.cu.
    Hopper,
    /// gemm_sm80.cu.
    Ring,
    /// gemm_plain.cu.
    Plain,
}

/// Bytes of dynamic shared memory, as the layouts in the kernels' sources have them.
fn shared_bytes(choice: Choice) -> u32 {
    let stage = (choice.rows + choice.columns) * 64 * 2;
    let bytes = match choice.kernel {
        Kernel::Hopper => {
            let stages = hopper_stages(choice.columns);
            stages * stage + 4 * 64 * 64 * 2 + 2 * stages * 8
        }
        Kernel::Ring => 3 * stage,
        Kernel::Plain => 0,
    };
    bytes as u32
}

fn hopper_stages(columns: usize) -> usize {
    match columns {
        256 => 4,
        128 => 6,
        _ => 8,
    }
}

/// Fewest blocks of k (64 each) that a split should have: below, summing the parts costs more than
/// it saves.
const SPLIT_BLOCKS: usize = 8;

/// Whether rows do not begin at multiples of 16 bytes, so that wide copies cannot have them.
fn is_odd(product: &Product) -> bool {
    let Product { m, n, k, layout, .. } = *product;
    let a_row = if layout == Layout::Tn { m } else { k };
    let b_row = if layout == Layout::Nt { k } else { n };
    [a_row, b_row, n].iter().any(|row| !row.is_multiple_of(8))
}

const PLAIN: Choice = Choice { kernel: Kernel::Plain, rows: 16, columns: 16, splits: 1 };

/// The kernel for a product over the rows of prompts: many as a rule, and a row's result must not
/// depend on how many, so that n alone decides and k is never split.
#[must_use]
pub fn choose_for_prompts(product: &Product, hopper: bool) -> Choice {
    if is_odd(product) {
        return PLAIN;
    }
    let n = product.n;
    if hopper {
        // A single prompt fills few tiles; narrow ones keep more of the card busy.
        let wide = [256, 128].into_iter().find(|columns| n >= 16 * columns);
        let columns = wide.unwrap_or(if n > 64 { 128 } else { 64 });
        return Choice { kernel: Kernel::Hopper, rows: 128, columns, splits: 1 };
    }
    let size = if n > 64 { 128 } else { 64 };
    Choice { kernel: Kernel::Ring, rows: size, columns: size, splits: 1 }
}

/// The kernel for a product on a card of so many multiprocessors. Where rows must not depend on one
/// another, the choice depends on n and k alone.
#[must_use]
pub fn choose(product: &Product, hopper: bool, multiprocessors: usize) -> Choice {
    let Product { m, n, k, .. } = *product;
    if is_odd(product) {
        return PLAIN;
    }
    let tiles = |rows: usize, columns: usize, m: usize| m.div_ceil(rows) * n.div_ceil(columns);
    let most_splits = (k.div_ceil(64) / SPLIT_BLOCKS).max(1);
    if product.rows_apart {
        // Few rows: the weights' bytes decide, so that many small blocks read at once.
        let splits = (2 * multiprocessors).div_ceil(tiles(64, 64, 64)).clamp(1, most_splits);
        return Choice { kernel: Kernel::Ring, rows: 64, columns: 64, splits };
    }
    if hopper {
        let columns = [256, 128, 64]
            .into_iter()
            .find(|&columns| n > columns / 2 && tiles(128, columns, m) >= multiprocessors)
            .unwrap_or(if n > 64 { 128 } else { 64 });
        let splits = (multiprocessors / tiles(128, columns, m)).clamp(1, most_splits);
        return Choice { kernel: Kernel::Hopper, rows: 128, columns, splits };
    }
    let size = if tiles(128, 128, m) >= multiprocessors { 128 } else { 64 };
    let splits = (2 * multiprocessors / tiles(size, size, m)).clamp(1, most_splits);
    Choice { kernel: Kernel::Ring, rows: size, columns: size, splits }
}

/// Bytes that the parts of a product need at most where it has as many rows or fewer, those of so many
/// runs: of a product whose tiles are too few it is split, and with more rows not, which is why more
/// rows would need less. Memory that is enough for the most rows is enough for all, and a plan holds.
#[must_use]
pub fn parts_room(product: &Product, runs: usize, hopper: bool, multiprocessors: usize) -> usize {
    let Product { m, n, rows_apart, .. } = *product;
    let splits_of = |product: &Product| choose(product, hopper, multiprocessors).splits;
    let (first, splits) = (splits_of(&Product { m: 1, ..*product }), splits_of(product));
    if first.max(splits) == 1 {
        return 0;
    }
    // About one tile for each multiprocessor, or two.
    let tiles = multiprocessors * if hopper { 1 } else { 2 };
    let most = if rows_apart { usize::MAX } else { runs * tiles * 128 * 128 * 4 };
    (first * m * n * 4).min(most).max(splits * m * n * 4)
}

/// Launches a product.
///
/// # Errors
/// If the device refuses, or has no memory for the parts of a split product.
pub fn launch(driver: &dyn Driver, pool: &Arc<Pool>, product: &Product) -> Result<()> {
    launch_runs(driver, pool, std::slice::from_ref(product))
}

/// Launches the products of several runs with the same weights, whose rows stand end to end. Where each
/// run by itself would choose the same kernel, one launch takes the rows of all: an element's sum does
/// not depend on which row of a tile it is in.
///
/// # Errors
/// As [`launch`].
pub fn launch_runs(driver: &dyn Driver, pool: &Arc<Pool>, runs: &[Product]) -> Result<()> {
    let facts = driver.facts();
    let (hopper, multiprocessors) = (facts.is_hopper(), facts.multiprocessors as usize);
    let of = |product| choose(product, hopper, multiprocessors);
    let Some(first) = runs.first() else { return Ok(()) };
    let whole = Product { m: runs.iter().map(|run| run.m).sum(), ..*first };
    let room = parts_room(&whole, runs.len(), hopper, multiprocessors);
    let choice = of(first);
    if runs.iter().any(|run| of(run) != choice) {
        return runs.iter().try_for_each(|run| launch_in(driver, pool, run, (of(run), room)));
    }
    launch_in(driver, pool, &whole, (choice, room))
}

/// Launches a product by a given kernel.
///
/// # Errors
/// As [`launch`].
pub fn launch_as(
    driver: &dyn Driver,
    pool: &Arc<Pool>,
    product: &Product,
    choice: Choice,
) -> Result<()> {
    launch_in(driver, pool, product, (choice, 0))
}

/// The same with at least so much memory for the parts.
fn launch_in(
    driver: &dyn Driver,
    pool: &Arc<Pool>,
    product: &Product,
    (choice, room): (Choice, usize),
) -> Result<()> {
    let Product { m, n, k, layout, a, b, target, bias, residual, .. } = *product;
    if m == 0 || n == 0 || k == 0 {
        return Ok(());
    }
    // A split has a block of k at the least: the kernels do not know empty ones.
    let choice = Choice { splits: choice.splits.min(k.div_ceil(64)), ..choice };
    let (c, out, add) = match target {
        Target::Bf16(c) => (c, 0, 0),
        Target::F32(out) => (0, out, 0),
        Target::AddF32(out) => (0, out, 1),
    };
    let tiles =
        [m.div_ceil(choice.rows) as i32, n.div_ceil(choice.columns) as i32, choice.splits as i32];
    let whole = Task { m: m as i32, n: n as i32, k: k as i32, tiles, bias, residual, out, add };
    let exact = if choice.splits == 1 { 0 } else { choice.splits * m * n * 4 };
    let planes = match room.max(exact) {
        0 => None,
        bytes => Some(pool.take(bytes)?),
    };
    let planes = planes.filter(|_| exact > 0);
    let task = match &planes {
        None => whole,
        Some(planes) => Task { bias: 0, residual: 0, out: planes.at, add: 0, ..whole },
    };
    let count = tiles.iter().product::<i32>() as usize;
    let shared = shared_bytes(choice);
    match choice.kernel {
        Kernel::Hopper => {
            let maps = hopper_maps(driver, product, choice, c)?;
            let arguments = Arguments::new().with(maps[0]).with(maps[1]).with(maps[2]).with(task);
            let blocks = count.min(driver.facts().multiprocessors as usize);
            let kernel = format!("gemm_{}_128x{}", layout.name(), choice.columns);
            driver.launch(&kernel, Grid { shared, ..Grid::line(blocks, 384) }, arguments)?;
        }
        Kernel::Ring => {
            let arguments = Arguments::new().with(a).with(b).with(c).with(task);
            let kernel = format!("gemm_ring_{}_{}x{}", layout.name(), choice.rows, choice.columns);
            driver.launch(&kernel, Grid { shared, ..Grid::line(count, 256) }, arguments)?;
        }
        Kernel::Plain => {
            let strides = |transposed: bool, rows: usize| -> [i64; 2] {
                if transposed { [1, rows as i64] } else { [k as i64, 1] }
            };
            let [a_row, a_column] = strides(layout == Layout::Tn, m);
            let [b_row, b_column] = strides(layout != Layout::Nt, n);
            let arguments = Arguments::new()
                .with(a)
                .with(a_row)
                .with(a_column)
                .with(b)
                .with(b_row)
                .with(b_column)
                .with(c)
                .with(task);
            let blocks = [n.div_ceil(16) as u32, m.div_ceil(16) as u32, 1];
            driver.launch("gemm_any", Grid { blocks, threads: 128, shared: 0 }, arguments)?;
        }
    }
    if let Some(planes) = planes {
        let arguments =
            Arguments::new().with(planes.at).with(choice.splits as i32).with(c).with(whole);
        let pairs = m * n.div_ceil(2);
        driver.launch("gemm_reduce", Grid::line(pairs.div_ceil(256), 256), arguments)?;
    }
    Ok(())
}

/// The two halves of a feed-forward's first product, and what becomes of them:
/// y `[M, F]` = act(x gateᵀ) · (x upᵀ).
#[derive(Clone, Copy, Debug)]
pub struct Gated {
    /// Rows, F, and what is summed over.
    pub m: usize,
    /// F.
    pub n: usize,
    /// What is summed over.
    pub k: usize,
    /// x `[M, K]`.
    pub x: Address,
    /// Gate over up `[2 F, K]`.
    pub weight: Address,
    /// `[M, 2 F]`, or null where the gate and up themselves are not wanted.
    pub gate_up: Address,
    /// `[M, F]`.
    pub y: Address,
    /// Whether the gate goes through GELU, not SiLU.
    pub gelu: bool,
}

/// The kernel that does a gated product in one pass; none where tiles are so few that a product that
/// is split along k and a pass after it are faster, or that rows do not begin at 16 bytes.
#[must_use]
pub fn choose_gated(gated: &Gated, hopper: bool, multiprocessors: usize) -> Option<Kernel> {
    let (columns, kernel) = if hopper { (128, Kernel::Hopper) } else { (64, Kernel::Ring) };
    let tiles = gated.m.div_ceil(128) * gated.n.div_ceil(columns);
    let aligned = gated.n.is_multiple_of(8) && gated.k.is_multiple_of(8);
    (aligned && tiles >= multiprocessors).then_some(kernel)
}

/// Launches a gated product by one of the two kernels that do it in one pass.
///
/// # Errors
/// If the device refuses, or the kernel is [`Kernel::Plain`].
pub fn launch_gated(driver: &dyn Driver, gated: &Gated, kernel: Kernel) -> Result<()> {
    let Gated { m, n, k, x, weight, gate_up, y, gelu } = *gated;
    let columns = if kernel == Kernel::Hopper { 128 } else { 64 };
    let tiles = [m.div_ceil(128) as i32, n.div_ceil(columns) as i32, 1];
    let task =
        Task { m: m as i32, n: n as i32, k: k as i32, tiles, bias: 0, residual: 0, out: 0, add: 0 };
    let count = tiles.iter().product::<i32>() as usize;
    let choice = Choice { kernel, rows: 128, columns: 2 * columns, splits: 1 };
    let shared = shared_bytes(choice);
    match kernel {
        Kernel::Hopper => {
            // Gate and up have maps of their own: a panel at gate's end must not reach into up.
            let halves = match gate_up {
                0 => [TensorMap([0; 16]); 2],
                at => [
                    matrix_map(driver, at, [m, n, 2 * n], 64)?,
                    matrix_map(driver, at + 2 * n as Address, [m, n, 2 * n], 64)?,
                ],
            };
            let arguments = Arguments::new()
                .with(matrix_map(driver, x, [m, k, k], choice.rows)?)
                .with(matrix_map(driver, weight, [2 * n, k, k], columns)?)
                .with(halves[0])
                .with(halves[1])
                .with(matrix_map(driver, y, [m, n, n], 64)?)
                .with(task)
                .with(i32::from(gate_up != 0))
                .with(i32::from(gelu));
            let blocks = count.min(driver.facts().multiprocessors as usize);
            let grid = Grid { shared, ..Grid::line(blocks, 384) };
            driver.launch("gemm_gated_128x256", grid, arguments)
        }
        Kernel::Ring => {
            let arguments = Arguments::new()
                .with(x)
                .with(weight)
                .with(gate_up)
                .with(y)
                .with(task)
                .with(i32::from(gelu));
            let grid = Grid { shared, ..Grid::line(count, 256) };
            driver.launch("gemm_ring_gated_128x128", grid, arguments)
        }
        Kernel::Plain => bail!("the plain product does not gate"),
    }
}

/// The copy engine's view of a matrix `[rows, columns]` whose rows begin `pitch` elements apart.
fn matrix_map(
    driver: &dyn Driver,
    base: Address,
    [rows, columns, pitch]: [usize; 3],
    box_rows: usize,
) -> Result<TensorMap> {
    driver.tensor_map(&TensorShape {
        base,
        rank: 2,
        sizes: [columns as u64, rows as u64, 1],
        strides: [pitch as u64 * 2, 0],
        boxes: [64, box_rows as u32, 1],
    })
}

/// The copy engine's views of a, b and c.
fn hopper_maps(
    driver: &dyn Driver,
    product: &Product,
    choice: Choice,
    c: Address,
) -> Result<[TensorMap; 3]> {
    let Product { m, n, k, layout, a, b, .. } = *product;
    let matrix = |base: Address, rows: usize, columns: usize, box_rows: usize| {
        matrix_map(driver, base, [rows, columns, columns], box_rows)
    };
    let operand = |base: Address, transposed: bool, rows: usize, tile: usize| {
        if transposed { matrix(base, k, rows, 64) } else { matrix(base, rows, k, tile) }
    };
    let a = operand(a, layout == Layout::Tn, m, choice.rows)?;
    let b = operand(b, layout != Layout::Nt, n, choice.columns)?;
    let c = if c == 0 { TensorMap([0; 16]) } else { matrix(c, m, n, 64)? };
    Ok([a, b, c])
}
