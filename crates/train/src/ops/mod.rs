//! The operations that a decoder is made of, each with its backward pass written by hand.
//! [`Backend`] names them; the model is written once over it. [`Cpu`] is the fast form for
//! processors and [`Reference`] the plain one, all simple loops, that every fast form is tested
//! against. One file an operation holds both forms and their tests.
//!
//! Shapes, everywhere: N rows (tokens laid end to end), C width of the residual stream, H query
//! heads, K key and value heads, D head size, F feed-forward width, V vocabulary. Matrices are
//! row-major. Weights stand as `[outputs, inputs]`.

pub mod adamw;
pub mod attention;
pub mod cached_attention;
mod cpu;
pub mod cross_entropy;
pub mod embedding;
pub mod matmul;
mod reference;
pub mod rms_norm;
pub mod rope;
pub mod simd;
mod split;
pub mod swiglu;
#[cfg(test)]
pub(crate) mod testing;

pub use adamw::AdamWStep;
pub use cpu::Cpu;
pub use reference::Reference;

/// Rows, inputs and outputs of a linear map y `[rows, outputs]` = x `[rows, inputs]` · wᵀ.
#[derive(Debug, Clone, Copy)]
pub struct LinearShape {
    /// N.
    pub rows: usize,
    /// Width of x.
    pub inputs: usize,
    /// Width of y.
    pub outputs: usize,
}

/// Rows and width of a norm, and what it adds to the mean square.
#[derive(Debug, Clone, Copy)]
pub struct NormShape {
    /// N.
    pub rows: usize,
    /// C.
    pub width: usize,
    /// Epsilon.
    pub eps: f32,
}

/// The heads of an attention. A row of `qkv` holds H query heads, then K key heads, then K value
/// heads, each D wide.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// H, a multiple of `key_values`.
    pub queries: usize,
    /// K.
    pub key_values: usize,
    /// D, even.
    pub size: usize,
}

impl Heads {
    /// Width of a row of `qkv`.
    #[must_use]
    pub fn qkv_width(self) -> usize {
        (self.queries + 2 * self.key_values) * self.size
    }

    /// Width of a row of queries or of the attention's output.
    #[must_use]
    pub fn query_width(self) -> usize {
        self.queries * self.size
    }

    /// Width of a row of keys or of values.
    #[must_use]
    pub fn key_value_width(self) -> usize {
        self.key_values * self.size
    }

    /// Query heads that share one key and value head.
    #[must_use]
    pub fn group(self) -> usize {
        self.queries / self.key_values
    }

    /// What scores are multiplied by: 1/√D.
    #[must_use]
    pub fn scale(self) -> f32 {
        1.0 / (self.size as f32).sqrt()
    }
}

/// One layer's keys and values of many sequences: `[slots, 2 (keys, values), K, capacity, D]`.
#[derive(Debug, Clone, Copy)]
pub struct CacheShape {
    /// The heads; only the key and value heads are kept.
    pub heads: Heads,
    /// Tokens that a slot holds at most.
    pub capacity: usize,
}

impl CacheShape {
    /// Elements of one slot.
    #[must_use]
    pub fn slot_len(self) -> usize {
        2 * self.heads.key_value_width() * self.capacity
    }
}

/// Where the gradient of the loss goes, for [`Backend::cross_entropy`].
pub struct HeadGradient<'a, T: ?Sized> {
    /// What the gradient is multiplied by.
    pub scale: f32,
    /// d hidden `[rows, C]`, overwritten.
    pub hidden: &'a mut T,
    /// d head `[V, C]`, added to.
    pub head: &'a mut T,
}

/// A set of operations over tensors in some memory.
///
/// A tensor is a run of f32 values; it may be longer than an operation needs, and shapes come
/// beside it. Operations run in the order in which they are called. Each is a pure function of its
/// inputs, bit for bit, whatever the number of threads.
pub trait Backend {
    /// f32 values.
    type Tensor: Send + Sync;
    /// u32 values: token ids, positions, starts of documents.
    type Index: Send + Sync;

    /// `len` zeros.
    fn zeros(&self, len: usize) -> Self::Tensor;
    /// Moves values into the backend's memory.
    fn tensor(&self, values: Vec<f32>) -> Self::Tensor;
    /// Copies the first `len` values out.
    fn values(&self, tensor: &Self::Tensor, len: usize) -> Vec<f32>;
    /// Number of values.
    fn len(&self, tensor: &Self::Tensor) -> usize;
    /// Copies whole numbers in.
    fn index(&self, values: &[u32]) -> Self::Index;
    /// Sets the first `len` values.
    fn fill(&self, tensor: &mut Self::Tensor, len: usize, value: f32);
    /// Multiplies every value.
    fn scale(&self, tensor: &mut Self::Tensor, factor: f32);
    /// Sum of the squares of all values.
    fn sum_of_squares(&self, tensor: &Self::Tensor) -> f64;

    /// y = x · wᵀ, plus a bias and a residual where there are.
    fn linear(
        &self,
        y: &mut Self::Tensor,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        plus: Plus<'_, Self::Tensor>,
        shape: LinearShape,
    );
    /// dx = dy · w.
    fn linear_backward_input(
        &self,
        dx: &mut Self::Tensor,
        dy: &Self::Tensor,
        weight: &Self::Tensor,
        shape: LinearShape,
    );
    /// dw += dyᵀ · x, and dbias += the column sums of dy.
    fn linear_backward_weight(
        &self,
        dweight: &mut Self::Tensor,
        dbias: Option<&mut Self::Tensor>,
        dy: &Self::Tensor,
        x: &Self::Tensor,
        shape: LinearShape,
    );
    /// [`Backend::linear`] for the few rows of a decoding step: each row's result is the same, bit
    /// for bit, whatever the other rows are and however many.
    fn linear_rows(
        &self,
        y: &mut Self::Tensor,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        plus: Plus<'_, Self::Tensor>,
        shape: LinearShape,
    );

    /// y = x / √(mean(x²) + eps) · w by row; keeps 1/√(…) in `inverse_rms` `[rows]`.
    fn rms_norm(
        &self,
        y: &mut Self::Tensor,
        inverse_rms: &mut Self::Tensor,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        shape: NormShape,
    );
    /// dx += …, dw += …; `dy` becomes y again, which the matrix product after it in the backward
    /// pass needs.
    fn rms_norm_backward(
        &self,
        gradients: NormGradients<'_, Self::Tensor>,
        inverse_rms: &Self::Tensor,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        shape: NormShape,
    );

    /// Turns the queries and keys of `qkv` by the angles of their positions; backwards if
    /// `inverse`, which is also the gradient.
    fn rope(
        &self,
        qkv: &mut Self::Tensor,
        positions: &Self::Index,
        angles: &Self::Tensor,
        heads: Heads,
        inverse: bool,
    );

    /// Causal attention inside each document; `log_sums` `[rows, H]` keeps the log of each
    /// softmax's denominator.
    fn attention(
        &self,
        out: &mut Self::Tensor,
        log_sums: &mut Self::Tensor,
        qkv: &Self::Tensor,
        documents: &Self::Index,
        heads: Heads,
    );
    /// dqkv of [`Backend::attention`], overwritten.
    fn attention_backward(
        &self,
        dqkv: &mut Self::Tensor,
        dout: &Self::Tensor,
        saved: SavedAttention<'_, Self::Tensor>,
        documents: &Self::Index,
        heads: Heads,
    );
    /// Puts the keys and values of each row of `qkv` into its slot at its position.
    fn cache_store(
        &self,
        cache: &mut Self::Tensor,
        qkv: &Self::Tensor,
        slots: &Self::Index,
        positions: &Self::Index,
        shape: CacheShape,
    );
    /// Attention of one query row a slot over the slot's keys and values up to and with its
    /// position.
    fn cached_attention(
        &self,
        out: &mut Self::Tensor,
        qkv: &Self::Tensor,
        cache: &Self::Tensor,
        slots: &Self::Index,
        positions: &Self::Index,
        shape: CacheShape,
    );

    /// y `[rows, F]` = silu(gate) · up, where a row of `gate_up` is gate then up.
    fn swiglu(&self, y: &mut Self::Tensor, gate_up: &Self::Tensor, rows: usize, width: usize);
    /// `gate_up` becomes its gradient, `dy` becomes y again.
    fn swiglu_backward(
        &self,
        gate_up: &mut Self::Tensor,
        dy: &mut Self::Tensor,
        rows: usize,
        width: usize,
    );

    /// y row i = table row `ids[i]`.
    fn gather_rows(
        &self,
        y: &mut Self::Tensor,
        table: &Self::Tensor,
        ids: &Self::Index,
        width: usize,
    );
    /// dtable row `ids[i]` += dy row i.
    fn scatter_add_rows(
        &self,
        dtable: &mut Self::Tensor,
        dy: &Self::Tensor,
        ids: &Self::Index,
        width: usize,
    );

    /// The head and its loss in one: −log softmax(hidden · headᵀ) at each row's target. Logits
    /// stand for a few rows at a time only. `head` is `[outputs, inputs]`.
    fn cross_entropy(
        &self,
        losses: &mut Self::Tensor,
        hidden: &Self::Tensor,
        head: &Self::Tensor,
        targets: &Self::Index,
        gradient: Option<HeadGradient<'_, Self::Tensor>>,
        shape: LinearShape,
    );

    /// One step of AdamW on one tensor.
    fn adamw(
        &self,
        step: &AdamWStep,
        parameter: &mut Self::Tensor,
        gradient: &Self::Tensor,
        moments: [&mut Self::Tensor; 2],
    );
}

/// What a linear map adds to the product.
#[derive(Debug)]
pub struct Plus<'a, T: ?Sized> {
    /// The same row `[outputs]` to every row.
    pub bias: Option<&'a T>,
    /// A matrix `[rows, outputs]`.
    pub residual: Option<&'a T>,
}

impl<T: ?Sized> Clone for Plus<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized> Copy for Plus<'_, T> {}

impl<T: ?Sized> Plus<'_, T> {
    /// Nothing.
    pub const NOTHING: Self = Self { bias: None, residual: None };
}

impl<'a> Plus<'a, Vec<f32>> {
    fn slices(self) -> Plus<'a, [f32]> {
        Plus { bias: self.bias.map(|b| &b[..]), residual: self.residual.map(|r| &r[..]) }
    }
}

/// The gradients that [`Backend::rms_norm_backward`] reads and writes.
pub struct NormGradients<'a, T: ?Sized> {
    /// d input `[rows, C]`, added to.
    pub dx: &'a mut T,
    /// d weight `[C]`, added to.
    pub dweight: &'a mut T,
    /// d output `[rows, C]`; becomes the output.
    pub dy: &'a mut T,
}

/// What the forward pass of attention kept.
pub struct SavedAttention<'a, T: ?Sized> {
    /// `[rows, (H + 2K) D]`.
    pub qkv: &'a T,
    /// `[rows, H D]`.
    pub out: &'a T,
    /// `[rows, H]`.
    pub log_sums: &'a T,
}

impl<'a> HeadGradient<'a, Vec<f32>> {
    fn slices(self) -> HeadGradient<'a, [f32]> {
        HeadGradient { scale: self.scale, hidden: self.hidden, head: self.head }
    }
}

impl<'a> NormGradients<'a, Vec<f32>> {
    fn slices(self) -> NormGradients<'a, [f32]> {
        NormGradients { dx: self.dx, dweight: self.dweight, dy: self.dy }
    }
}

impl<T: ?Sized> Clone for SavedAttention<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized> Copy for SavedAttention<'_, T> {}

impl<'a> SavedAttention<'a, Vec<f32>> {
    fn slices(self) -> SavedAttention<'a, [f32]> {
        SavedAttention { qkv: self.qkv, out: self.out, log_sums: self.log_sums }
    }
}
