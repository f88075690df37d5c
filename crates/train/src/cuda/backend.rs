//! The operations on a card: bf16 activations and weights, f32 sums, gradients, statistics and master
//! weights. A fault of the device is kept, makes all that follows do nothing, and comes out of
//! [`Backend::check`].

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock};

use anyhow::{Result, ensure};
use half::bf16;

use super::attention::{Attention, Decode};
use super::driver::{Arguments, Driver, Grid};
use super::gemm::{self, Gated, Layout, Product, Target};
use super::graph::Recorded;
use super::memory::{Buffer, Dtype, Index, Master, Pool, Tensor, Use, bytes_of, bytes_of_mut};
use super::optimizer::{DeviceMoments, Optimizer};
use super::staging::Staging;
use super::turn::Turn;
use super::{norm, sample};
use crate::ops::{
    Activation, AdamWStep, AttentionShape, Backend, CacheShape, ColumnShape, Draw, Factor, Form,
    GluShape, HeadGradient, HeadNormShape, HeadShape, Heads, Kind, LinearGluShape, LinearShape,
    LowRank, Mask, Moments, Nf4, NormGradients, NormShape, Plus, RopeLayout, RowNormShape,
    RowNorms, SampleShape, SavedAttention, Stored, Update,
};

/// Steps of decoding whose tokens are read together. A sequence that ends wastes half of them on
/// average, and the device waits for the host once in so many.
const RUNS_AHEAD: usize = 8;

/// The operations on a device.
#[derive(Clone)]
pub struct Cuda {
    pub(super) driver: Arc<dyn Driver>,
    pub(super) pool: Arc<Pool>,
    pub(super) turn: Arc<Turn>,
    optimizer: Arc<Optimizer>,
    pub(super) staging: Arc<Staging>,
    /// The values of 4-bit codes and of their scales' codes, once something is packed.
    pub(super) codes: Arc<OnceLock<Buffer>>,
}

impl Cuda {
    /// Operations on this device.
    #[must_use]
    pub fn new(driver: Arc<dyn Driver>) -> Self {
        let pool = Pool::new(Arc::clone(&driver));
        let optimizer = Optimizer::new(Arc::clone(&driver), Arc::clone(&pool));
        let staging = Arc::new(Staging::new(Arc::clone(&driver)));
        let (turn, codes) = Default::default();
        Self { driver, pool, turn, optimizer: Arc::new(optimizer), staging, codes }
    }

    /// The same with slots of so many bytes for offloaded moments.
    #[cfg(test)]
    pub(super) fn with_slots(driver: Arc<dyn Driver>, bytes: usize) -> Self {
        let new = Self::new(driver);
        let optimizer = Optimizer::new(Arc::clone(&new.driver), Arc::clone(&new.pool));
        Self { optimizer: Arc::new(optimizer.with_slots(bytes)), ..new }
    }

    /// Its memory.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Its device.
    #[must_use]
    pub fn driver(&self) -> &dyn Driver {
        &*self.driver
    }

    /// Does something unless there was a fault before, and keeps its own.
    pub(super) fn run<T: Default>(&self, work: impl FnOnce() -> Result<T>) -> T {
        self.turn.run(work)
    }

    pub(super) fn tensor_of(&self, kind: Kind, dtype: Dtype, len: usize, master: bool) -> Tensor {
        let mut tensor = Tensor { buffer: None, master: None, dtype, len };
        if len > 0 {
            self.run(|| {
                tensor.buffer = Some(self.pool.take_for(Use::of(kind), len * dtype.bytes())?);
                if master {
                    let buffer = self.pool.take_for(Use::Masters, len * 4)?;
                    tensor.master = Some(Master { buffer, run: 0..len });
                }
                Ok(())
            });
        }
        tensor
    }

    fn elementwise(&self, kernel: &str, tensor: &Tensor, len: usize, value: f32) {
        if len == 0 {
            return;
        }
        let kernel = match tensor.dtype {
            Dtype::Bf16 => format!("{kernel}_bf16"),
            Dtype::F32 => format!("{kernel}_f32"),
        };
        self.run(|| {
            let arguments = Arguments::new().with(tensor.at()).with(len as i64).with(value);
            self.driver.launch(&kernel, self.over(len), arguments)
        });
    }

    /// Blocks that go over so many values in turns.
    pub(super) fn over(&self, len: usize) -> Grid {
        let most = 8 * self.driver.facts().multiprocessors as usize;
        Grid::line(len.div_ceil(256).min(most), 256)
    }
}

impl Backend for Cuda {
    type Tensor = Tensor;
    type Index = Index;
    type Moments = DeviceMoments;
    type Recorded = Recorded;

    fn recorded(&self, recorded: &mut Recorded, work: &mut dyn FnMut()) {
        self.run_recorded(recorded, work);
    }

    fn records(&self) -> bool {
        true
    }

    fn place(&self, tensor: &Tensor) -> u64 {
        tensor.at()
    }

    fn refusal(recorded: &Recorded) -> Option<&str> {
        recorded.refused()
    }

    fn zeros(&self, kind: Kind, len: usize) -> Tensor {
        if kind == Kind::Packed {
            self.run(|| self.codes().map(drop));
        }
        let tensor = match kind {
            Kind::Weight => self.tensor_of(kind, Dtype::Bf16, len, true),
            Kind::Narrow | Kind::Frozen | Kind::Activation => {
                self.tensor_of(kind, Dtype::Bf16, len, false)
            }
            Kind::Packed | Kind::Gradient | Kind::Statistic => {
                self.tensor_of(kind, Dtype::F32, len, false)
            }
        };
        self.run(|| {
            if let Some(buffer) = &tensor.buffer {
                self.driver.zero(buffer.at, len * tensor.dtype.bytes())?;
            }
            match &tensor.master {
                Some(master) => self.driver.zero(master.buffer.at, len * 4),
                None => Ok(()),
            }
        });
        tensor
    }

    fn tensor(&self, kind: Kind, values: Vec<f32>) -> Tensor {
        let mut tensor = self.zeros(kind, values.len());
        self.write(&mut tensor, &values);
        tensor
    }

    fn load(&self, kind: Kind, parts: &[Stored<'_>]) -> Tensor {
        self.load_staged(kind, parts)
    }

    fn write(&self, tensor: &mut Tensor, values: &[f32]) {
        self.run(|| {
            let Some(buffer) = &tensor.buffer else { return Ok(()) };
            match tensor.dtype {
                Dtype::F32 => self.driver.copy_in(buffer.at, bytes_of(values))?,
                Dtype::Bf16 => {
                    let narrow: Vec<bf16> = values.iter().map(|&x| bf16::from_f32(x)).collect();
                    self.driver.copy_in(buffer.at, bytes_of(&narrow))?;
                }
            }
            match &tensor.master {
                Some(master) => {
                    let run = master.run.start..master.run.end.min(values.len());
                    self.driver.copy_in(master.buffer.at, bytes_of(&values[run]))
                }
                None => Ok(()),
            }
        });
    }

    fn has_master(&self, weight: &Tensor) -> bool {
        weight.master.is_some()
    }

    fn keep_master(&self, weight: &mut Tensor, values: Range<usize>) {
        self.keep_run(weight, values);
    }

    fn rounded(&self, kind: Kind, value: f32) -> f32 {
        match kind {
            Kind::Weight | Kind::Narrow | Kind::Frozen | Kind::Activation => {
                bf16::from_f32(value).to_f32()
            }
            Kind::Packed | Kind::Gradient | Kind::Statistic => value,
        }
    }

    fn values(&self, tensor: &Tensor, len: usize) -> Vec<f32> {
        self.copied_out(tensor, len)
    }

    fn len(&self, tensor: &Tensor) -> usize {
        tensor.len
    }

    fn index(&self, values: &[u32]) -> Index {
        let (host, derived) = (values.to_vec(), Mutex::default());
        let mut index = Index { host, buffer: None, room: None, derived };
        if !values.is_empty() {
            self.run(|| {
                let buffer = self.pool.take(size_of_val(values))?;
                self.driver.copy_in(buffer.at, bytes_of(values))?;
                index.buffer = Some(buffer);
                Ok(())
            });
        }
        index
    }

    fn index_with_room(&self, room: usize) -> Index {
        let (host, room, derived) = (Vec::new(), Some(room), Mutex::default());
        let buffer = room.filter(|&room| room > 0);
        let buffer = self.run(|| buffer.map(|room| self.pool.take_to_stay(4 * room)).transpose());
        Index { host, buffer, room, derived }
    }

    fn set_index(&self, index: &mut Index, values: &[u32]) {
        self.run(|| {
            let fits = match index.room {
                Some(room) => values.len() <= room,
                None => values.len() == index.host.len(),
            };
            ensure!(fits, "{} numbers where there is no room for them", values.len());
            index.set(&*self.driver, values)
        });
    }

    fn index_len(&self, index: &Index) -> usize {
        index.host.len()
    }

    fn index_values(&self, index: &Index, len: usize) -> Vec<u32> {
        let mut values = vec![0; len];
        if len > 0 {
            self.run(|| self.driver.copy_out(bytes_of_mut(&mut values), index.at()));
        }
        values
    }

    fn runs_ahead(&self) -> usize {
        RUNS_AHEAD
    }

    fn check(&self) -> Result<()> {
        match self.turn.take_fault() {
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }

    fn fill(&self, tensor: &mut Tensor, len: usize, value: f32) {
        if value == 0.0 {
            self.run(|| self.driver.zero(tensor.at(), len * tensor.dtype.bytes()));
        } else {
            self.elementwise("fill", tensor, len, value);
        }
    }

    fn unpack(&self, into: &mut Tensor, packed: &Tensor, how: (Nf4, &[usize])) {
        self.run(|| self.unpack_matrices(into, packed, how));
    }

    fn fill_block(&self, out: &mut Tensor, width: usize, block: [Range<usize>; 2], value: f32) {
        self.run(|| norm::fill_block(&*self.driver, out, width, block, value));
    }

    fn scale(&self, tensor: &mut Tensor, len: usize, factor: f32) {
        self.elementwise("scale", tensor, len, factor);
    }

    fn squares_of_runs(&self, runs: &[(&Tensor, Range<usize>)]) -> Vec<f64> {
        let sums = self.run(|| self.optimizer.squares(runs));
        // After a fault there are none.
        if sums.is_empty() { vec![f64::NAN; runs.len()] } else { sums }
    }

    fn linear(
        &self,
        y: &mut Tensor,
        x: &Tensor,
        weight: &Tensor,
        plus: Plus<'_, Tensor>,
        shape: LinearShape,
    ) {
        self.product(Self::product_of(y, x, weight, plus, shape, false));
    }

    fn linear_backward_input(
        &self,
        dx: &mut Tensor,
        dy: &Tensor,
        weight: &Tensor,
        shape: LinearShape,
        accumulate: bool,
    ) {
        self.product(Self::product_back(dx, dy, weight, shape, accumulate));
    }

    fn linear_of_runs(
        &self,
        y: &mut Tensor,
        x: &Tensor,
        weight: &Tensor,
        plus: Plus<'_, Tensor>,
        shape: LinearShape,
        runs: &[Range<usize>],
    ) {
        let of = |rows| Self::product_of(y, x, weight, plus, shape.part(rows), false);
        let products: Vec<Product> = runs.iter().map(of).collect();
        self.run(|| gemm::launch_runs(&*self.driver, &self.pool, &products));
    }

    fn linear_backward_input_of_runs(
        &self,
        dx: &mut Tensor,
        dy: &Tensor,
        weight: &Tensor,
        shape: LinearShape,
        accumulate: bool,
        runs: &[Range<usize>],
    ) {
        let of = |rows| Self::product_back(dx, dy, weight, shape.part(rows), accumulate);
        let products: Vec<Product> = runs.iter().map(of).collect();
        self.run(|| gemm::launch_runs(&*self.driver, &self.pool, &products));
    }

    fn dropout(
        &self,
        y: &mut Tensor,
        x: &Tensor,
        mask: &Mask,
        shape: LinearShape,
        accumulate: bool,
    ) {
        self.run(|| norm::dropout(&*self.driver, [y, x], mask, shape, accumulate));
    }

    fn linear_backward_weight(
        &self,
        dweight: &mut Tensor,
        dbias: Option<&mut Tensor>,
        dy: &Tensor,
        x: &Tensor,
        shape: LinearShape,
    ) {
        let dims = [shape.outputs, shape.inputs, shape.rows];
        let factors = [dy.from(shape.y()), x.from(shape.x())];
        let to = Target::AddF32(dweight.from(shape.w()));
        self.product(Product::new(dims, Layout::Tn, factors, to));
        if let Some(dbias) = dbias {
            self.run(|| norm::column_sums(&*self.driver, &self.pool, [dbias, dy], shape));
        }
    }

    fn row_norms(
        &self,
        into: RowNorms<'_, Tensor>,
        magnitudes: &Tensor,
        weight: &Tensor,
        low: LowRank<'_, Tensor>,
        shape: RowNormShape,
    ) {
        self.run(|| self.norms_of_rows(into, magnitudes, weight, low, shape));
    }

    fn scale_columns(
        &self,
        y: &mut Tensor,
        x: &Tensor,
        factor: Factor<'_, Tensor>,
        plus: Plus<'_, Tensor>,
        shape: ColumnShape,
        accumulate: bool,
    ) {
        self.run(|| self.columns_scaled([y, x], factor, plus, shape, accumulate));
    }

    fn column_products(
        &self,
        sums: &mut Tensor,
        factors: [&Tensor; 2],
        divisors: &Tensor,
        shape: LinearShape,
    ) {
        self.run(|| self.products_of_columns(sums, factors, divisors, shape));
    }

    fn linear_rows(
        &self,
        y: &mut Tensor,
        x: &Tensor,
        weight: &Tensor,
        plus: Plus<'_, Tensor>,
        shape: LinearShape,
    ) {
        self.product(Self::product_of(y, x, weight, plus, shape, true));
    }

    fn linear_prompts(
        &self,
        y: &mut Tensor,
        x: &Tensor,
        weight: &Tensor,
        plus: Plus<'_, Tensor>,
        shape: LinearShape,
    ) {
        let product = Self::product_of(y, x, weight, plus, shape, true);
        let choice = gemm::choose_for_prompts(&product, self.driver.facts().is_hopper());
        self.run(|| gemm::launch_as(&*self.driver, &self.pool, &product, choice));
    }

    fn norm(
        &self,
        y: &mut Tensor,
        inverse: &mut Tensor,
        x: &Tensor,
        weight: &Tensor,
        residual: Option<&Tensor>,
        shape: NormShape,
    ) {
        self.run(|| norm::forward(&*self.driver, [y, inverse, x, weight], residual, shape));
    }

    fn norm_backward(
        &self,
        gradients: NormGradients<'_, Tensor>,
        inverse: &Tensor,
        dy: &Tensor,
        x: &Tensor,
        weight: &Tensor,
        shape: NormShape,
    ) {
        self.run(|| {
            norm::backward(&*self.driver, &self.pool, gradients, [inverse, dy, x, weight], shape)
        });
    }

    fn head_norm(
        &self,
        qkv: &mut Tensor,
        inverse: &mut Tensor,
        projected: &Tensor,
        weight: &Tensor,
        shape: HeadNormShape,
    ) {
        self.run(|| norm::heads_forward(&*self.driver, [qkv, inverse, projected, weight], shape));
    }

    fn head_norm_backward(
        &self,
        dqkv: &mut Tensor,
        dweight: Option<&mut Tensor>,
        inverse: &Tensor,
        projected: &Tensor,
        weight: &Tensor,
        shape: HeadNormShape,
    ) {
        self.run(|| {
            let tensors = [&*dqkv, inverse, projected, weight];
            norm::heads_backward(&*self.driver, &self.pool, tensors, dweight.as_deref(), shape)
        });
    }

    fn rope(
        &self,
        qkv: &mut Tensor,
        positions: &Index,
        angles: &Tensor,
        heads: Heads,
        layout: RopeLayout,
        inverse: bool,
    ) {
        self.run(|| self.turn([qkv, angles], positions, heads, layout, inverse));
    }

    fn attention(
        &self,
        out: &mut Tensor,
        log_sums: &mut Tensor,
        qkv: &Tensor,
        documents: &Index,
        shape: AttentionShape,
    ) {
        let (driver, pool, qkv) = (&*self.driver, &self.pool, qkv.at());
        let attention = Attention { driver, pool, documents, shape, qkv };
        self.run(|| attention.forward(out.at(), log_sums.at()));
    }

    fn attention_backward(
        &self,
        dqkv: &mut Tensor,
        dout: &Tensor,
        saved: SavedAttention<'_, Tensor>,
        documents: &Index,
        shape: AttentionShape,
    ) {
        let (driver, pool, qkv) = (&*self.driver, &self.pool, saved.qkv.at());
        let attention = Attention { driver, pool, documents, shape, qkv };
        self.run(|| attention.backward(dqkv.at(), dout.at(), saved.out.at(), saved.log_sums.at()));
    }

    fn cache_store(
        &self,
        cache: &mut Tensor,
        qkv: &Tensor,
        slots: &Index,
        positions: &Index,
        shape: CacheShape,
    ) {
        let (driver, pool) = (&*self.driver, &self.pool);
        let (cache, qkv) = (cache.at(), qkv.at());
        self.run(|| Decode { driver, pool, cache, qkv, slots, positions, shape }.store());
    }

    fn cached_attention(
        &self,
        out: &mut Tensor,
        qkv: &Tensor,
        cache: &Tensor,
        slots: &Index,
        positions: &Index,
        shape: CacheShape,
    ) {
        let (driver, pool) = (&*self.driver, &self.pool);
        let (cache, qkv) = (cache.at(), qkv.at());
        self.run(|| Decode { driver, pool, cache, qkv, slots, positions, shape }.attend(out.at()));
    }

    fn sample(&self, draw: Draw<'_, Index>, products: &Tensor, shape: SampleShape) {
        self.run(|| sample::launch(&*self.driver, draw, products, shape));
    }

    fn glu(&self, y: &mut Tensor, gate_up: &Tensor, shape: GluShape) {
        self.run(|| self.gate("glu_forward", [y, gate_up], shape));
    }

    fn linear_glu(
        &self,
        y: &mut Tensor,
        gate_up: &mut Tensor,
        x: &Tensor,
        weight: &Tensor,
        shape: LinearGluShape,
    ) {
        let gated = Gated {
            m: shape.glu.rows,
            n: shape.glu.width,
            k: shape.inputs,
            x: x.at(),
            weight: weight.at(),
            gate_up: if shape.keep { gate_up.at() } else { 0 },
            y: y.at(),
            gelu: shape.glu.activation == Activation::GeluTanh,
        };
        let facts = self.driver.facts();
        let (hopper, multiprocessors) = (facts.is_hopper(), facts.multiprocessors as usize);
        match gemm::choose_gated(&gated, hopper, multiprocessors) {
            Some(kernel) => self.run(|| {
                // Fewer rows would take the other way, and memory for it.
                let plain =
                    Self::product_of(gate_up, x, weight, Plus::NOTHING, shape.linear(), false);
                let room = gemm::parts_room(&plain, 1, hopper, multiprocessors);
                let _room = if room > 0 { Some(self.pool.take(room)?) } else { None };
                gemm::launch_gated(&*self.driver, &gated, kernel)
            }),
            None => {
                self.linear(gate_up, x, weight, Plus::NOTHING, shape.linear());
                self.glu(y, gate_up, shape.glu);
            }
        }
    }

    fn glu_backward(&self, gate_up: &mut Tensor, dy: &mut Tensor, shape: GluShape) {
        self.run(|| self.gate("glu_backward", [gate_up, dy], shape));
    }

    fn gather_rows(&self, y: &mut Tensor, table: &Tensor, ids: &Index, width: usize) {
        self.run(|| self.gather(y, table, ids, width));
    }

    fn scatter_add_rows(&self, dtable: &mut Tensor, dy: &Tensor, ids: &Index, width: usize) {
        self.run(|| self.scatter_add(dtable, dy, ids, width));
    }

    fn cross_entropy(
        &self,
        losses: &mut Tensor,
        hidden: &Tensor,
        head: &Tensor,
        targets: &Index,
        gradient: Option<HeadGradient<'_, Tensor>>,
        shape: HeadShape,
    ) {
        self.run(|| self.loss(losses, hidden, head, targets, gradient, shape));
    }

    fn moments(&self, form: Form, len: usize, offload: bool) -> DeviceMoments {
        self.run(|| self.optimizer.moments(form, len, offload).map(Some)).unwrap_or_default()
    }

    fn read_moments<'a>(&self, moments: &'a DeviceMoments) -> Cow<'a, Moments> {
        Cow::Owned(
            self.run(|| self.optimizer.read(moments).map(Some)).unwrap_or_else(|| moments.zeros()),
        )
    }

    fn write_moments(&self, moments: &mut DeviceMoments, values: Moments) {
        self.run(|| self.optimizer.write(moments, values));
    }

    fn adamw(&self, step: &AdamWStep, updates: Vec<Update<'_, Tensor, DeviceMoments>>) {
        self.run(|| self.optimizer.step(step, updates));
    }
}
