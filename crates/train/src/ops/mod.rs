//! The operations that a decoder is made of, each with its backward pass written by hand.
//! [`Backend`] names them; the model is written once over it. [`Cpu`] is the fast form for
//! processors and [`Reference`] the plain one, all simple loops, that every fast form is tested
//! against. One file an operation holds both forms and their tests.
//!
//! Shapes, everywhere: N rows (tokens laid end to end), C width of the residual stream, H query
//! heads, K key and value heads, D head size, F feed-forward width, V vocabulary. Matrices are
//! row-major. Weights stand as `[outputs, inputs]`.

use std::borrow::Cow;
use std::ops::Range;

pub mod adamw;
pub mod attention;
pub mod cached_attention;
mod cpu;
pub mod cross_entropy;
pub mod embedding;
pub mod glu;
pub mod head_norm;
pub mod matmul;
pub mod moments;
pub mod norm;
mod reference;
pub mod rope;
pub mod rounding;
pub mod sample;
pub mod simd;
mod split;
mod stored;
#[cfg(test)]
pub(crate) mod testing;

pub use adamw::{AdamWStep, Update};
pub use cpu::Cpu;
pub use moments::{Form, Moments};
pub use reference::Reference;
pub use stored::{Stored, StoredKind};

/// Rows, inputs and outputs of a linear map y `[rows, outputs]` = x `[rows, inputs]` · wᵀ.
#[derive(Debug, Clone, Copy)]
pub struct LinearShape {
    /// The row at which x, y, a residual and their gradients begin.
    pub first: usize,
    /// N.
    pub rows: usize,
    /// Width of x.
    pub inputs: usize,
    /// Width of y.
    pub outputs: usize,
}

impl LinearShape {
    /// From the first row on.
    #[must_use]
    pub fn new(rows: usize, inputs: usize, outputs: usize) -> Self {
        Self { first: 0, rows, inputs, outputs }
    }

    /// The same map of these rows alone, counted from its own first.
    #[must_use]
    pub fn part(self, rows: &Range<usize>) -> Self {
        Self { first: self.first + rows.start, rows: rows.len(), ..self }
    }

    /// Where x begins.
    #[must_use]
    pub fn x(self) -> usize {
        self.first * self.inputs
    }

    /// Where y begins.
    #[must_use]
    pub fn y(self) -> usize {
        self.first * self.outputs
    }
}

/// Which norm it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// x / √(mean(x²) + eps) · w.
    Rms,
    /// The same with 1 + w for w, so that a weight of zero leaves the scale as it is (Gemma).
    RmsPlusOne,
    /// (x − mean) / √(variance + eps) · w, without a bias (Cohere).
    Layer,
}

impl NormKind {
    /// What is added to a weight before it is used.
    #[must_use]
    pub fn offset(self) -> f32 {
        if self == Self::RmsPlusOne { 1.0 } else { 0.0 }
    }

    /// Whether the mean is taken off first.
    #[must_use]
    pub fn centres(self) -> bool {
        self == Self::Layer
    }
}

/// A norm over rows.
#[derive(Debug, Clone, Copy)]
pub struct NormShape {
    /// N.
    pub rows: usize,
    /// C.
    pub width: usize,
    /// What is added to the mean square.
    pub eps: f32,
    /// Which norm.
    pub kind: NormKind,
}

/// A norm over each query and key head of a row of `qkv`.
#[derive(Debug, Clone, Copy)]
pub struct HeadNormShape {
    /// N.
    pub rows: usize,
    /// The heads; values are left as they are.
    pub heads: Heads,
    /// What is added to the mean square.
    pub eps: f32,
    /// Which norm.
    pub kind: NormKind,
    /// Whether every head has weights of its own, `[(H + K) D]`; if not, all query heads share D
    /// weights and all key heads D others, `[2 D]`.
    pub per_head: bool,
}

impl HeadNormShape {
    /// Heads that are normed: H + K.
    #[must_use]
    pub fn count(self) -> usize {
        self.heads.queries + self.heads.key_values
    }

    /// Number of weights.
    #[must_use]
    pub fn weights(self) -> usize {
        if self.per_head { self.count() * self.heads.size } else { 2 * self.heads.size }
    }

    /// Where the weights of a head begin.
    #[must_use]
    pub fn weight_of(self, head: usize) -> usize {
        let set = if self.per_head { head } else { usize::from(head >= self.heads.queries) };
        set * self.heads.size
    }
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
}

/// How one layer attends.
#[derive(Debug, Clone, Copy)]
pub struct AttentionShape {
    /// The heads.
    pub heads: Heads,
    /// What scores are multiplied by.
    pub scale: f32,
    /// Scores s become cap · tanh(s / cap), where there is a cap.
    pub softcap: Option<f32>,
    /// A token sees so many tokens, itself and those before it; all of its document where there is
    /// no window.
    pub window: Option<usize>,
}

impl AttentionShape {
    /// Scores over √D, without cap or window.
    #[must_use]
    pub fn plain(heads: Heads) -> Self {
        Self { heads, scale: 1.0 / (heads.size as f32).sqrt(), softcap: None, window: None }
    }

    /// The first position that the one at `position` sees.
    #[must_use]
    pub fn first_seen(self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }
}

/// Which components of a head turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeLayout {
    /// i and i + D/2.
    Halves,
    /// 2i and 2i + 1.
    Interleaved,
}

/// The gate of a feed-forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x σ(x).
    Silu,
    /// The tanh form of GELU: x σ(2 √(2/π) (x + 0.044715 x³)).
    GeluTanh,
}

/// Shape of a gated activation.
#[derive(Debug, Clone, Copy)]
pub struct GluShape {
    /// N.
    pub rows: usize,
    /// F.
    pub width: usize,
    /// What the gate goes through.
    pub activation: Activation,
}

/// Shape of a product that goes into a gated activation.
#[derive(Debug, Clone, Copy)]
pub struct LinearGluShape {
    /// Width of the product's input.
    pub inputs: usize,
    /// The activation.
    pub glu: GluShape,
    /// Whether the product itself is wanted, too; without it its memory may hold anything.
    pub keep: bool,
}

impl LinearGluShape {
    /// The product.
    #[must_use]
    pub fn linear(self) -> LinearShape {
        let GluShape { rows, width, .. } = self.glu;
        LinearShape::new(rows, self.inputs, 2 * width)
    }
}

/// What the head's products go through to become logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogitRule {
    /// They are multiplied by this,
    pub scale: f32,
    /// and then become cap · tanh(logit / cap), where there is a cap.
    pub softcap: Option<f32>,
}

impl LogitRule {
    /// Logits are the products.
    pub const PLAIN: Self = Self { scale: 1.0, softcap: None };
}

/// The head and its loss.
#[derive(Debug, Clone, Copy)]
pub struct HeadShape {
    /// Rows that count, C and V; losses and targets begin at its first row, too.
    pub linear: LinearShape,
    /// How products become logits.
    pub logits: LogitRule,
}

/// One layer's keys and values of many sequences: `[slots, 2 (keys, values), K, capacity, D]`.
#[derive(Debug, Clone, Copy)]
pub struct CacheShape {
    /// How the layer attends; of its heads only those of keys and values are kept.
    pub attention: AttentionShape,
    /// Tokens that a slot holds at most.
    pub capacity: usize,
    /// All positions of a step are below this, which is at most the capacity.
    pub reach: usize,
}

impl CacheShape {
    /// Elements of one slot.
    #[must_use]
    pub fn slot_len(self) -> usize {
        2 * self.attention.heads.key_value_width() * self.capacity
    }
}

/// Where the gradient of the loss goes, for [`Backend::cross_entropy`].
pub struct HeadGradient<'a, T: ?Sized> {
    /// What the gradient is multiplied by.
    pub scale: f32,
    /// d hidden `[rows, C]`, overwritten.
    pub hidden: &'a mut T,
    /// d head `[V, C]`, added to; none where the head is not trained.
    pub head: Option<&'a mut T>,
}

/// How tokens are chosen from the head's products.
#[derive(Debug, Clone, Copy)]
pub struct SampleShape {
    /// N.
    pub rows: usize,
    /// V.
    pub vocabulary: usize,
    /// How products become logits.
    pub logits: LogitRule,
    /// How a token is chosen from them.
    pub choice: sample::Choice,
    /// No position goes beyond this.
    pub last: u32,
}

/// What [`Backend::sample`] reads and writes, an entry a row: what the next step of decoding begins
/// with, so that steps follow each other without the host.
pub struct Draw<'a, I> {
    /// Becomes the chosen token `[N]`; 0 where there is none.
    pub tokens: &'a mut I,
    /// Goes up by one `[N]`.
    pub positions: &'a mut I,
    /// Steps taken; goes up by one `[N]`.
    pub taken: &'a mut I,
    /// The chosen tokens `[steps, N]`, or [`sample::NO_TOKEN`]; the row of this step is written.
    pub picked: &'a mut I,
    /// Random bits `[steps, N, 2]`, the lower half first; not read where the choice is greedy.
    pub chances: &'a I,
}

/// What a tensor is for, by which a backend chooses how its values stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A parameter that is trained, exact beside what products read of it.
    Weight,
    /// A parameter that is trained and stands in bf16 alone, on every device.
    Narrow,
    /// A parameter that stays, as products read it: bf16 on a card, f32 on the processor.
    Frozen,
    /// A parameter's gradient, summed over many products.
    Gradient,
    /// What passes from operation to operation, and its gradients.
    Activation,
    /// Few values that have to be exact: log sums, losses, angles, logits.
    Statistic,
}

/// A set of operations over tensors in some memory.
///
/// A tensor is a run of f32 values; it may be longer than an operation needs, and shapes come
/// beside it. Operations run in the order in which they are called. Each is a pure function of its
/// inputs, bit for bit, whatever the number of threads.
pub trait Backend {
    /// Values.
    type Tensor: Send + Sync;
    /// u32 values: token ids, positions, starts of documents.
    type Index: Send + Sync;
    /// What AdamW keeps of a parameter.
    type Moments: Send + Sync;
    /// What is kept of work that is done again and again; see [`Backend::recorded`].
    type Recorded: Default + Send;

    /// Does `work`, which asks for the same operations on the same tensors each time that it comes
    /// with the same `recorded`; a device can do it by one call then. What it does, it does by
    /// operations alone.
    fn recorded(&self, _recorded: &mut Self::Recorded, work: &mut dyn FnMut()) {
        work();
    }

    /// Why such work could not be recorded, if it was tried.
    fn refusal(_recorded: &Self::Recorded) -> Option<&str> {
        None
    }

    /// `len` zeros.
    fn zeros(&self, kind: Kind, len: usize) -> Self::Tensor;
    /// Moves values into the backend's memory.
    fn tensor(&self, kind: Kind, values: Vec<f32>) -> Self::Tensor;
    /// The first fault since the last call, of which there are none in host memory. After a fault
    /// all operations do nothing.
    ///
    /// # Errors
    /// If the device reported one.
    fn check(&self) -> anyhow::Result<()> {
        Ok(())
    }
    /// A number as a tensor of this kind would hold it.
    fn rounded(&self, _kind: Kind, value: f32) -> f32 {
        value
    }
    /// Takes the values of some tensors of a file, one after the other, for a parameter.
    fn load(&self, kind: Kind, parts: &[Stored<'_>]) -> Self::Tensor {
        self.tensor(kind, stored::to_f32(parts))
    }
    /// Copies the first `len` values out.
    fn values(&self, tensor: &Self::Tensor, len: usize) -> Vec<f32>;
    /// The first `len` values as they stand, or copied out where they do not stand in host memory.
    fn view<'a>(&self, tensor: &'a Self::Tensor, len: usize) -> Cow<'a, [f32]> {
        Cow::Owned(self.values(tensor, len))
    }
    /// Overwrites the first values.
    fn write(&self, tensor: &mut Self::Tensor, values: &[f32]);
    /// Number of values.
    fn len(&self, tensor: &Self::Tensor) -> usize;
    /// Copies whole numbers in.
    fn index(&self, values: &[u32]) -> Self::Index;
    /// Copies as many whole numbers over those of an index, which stays where it is.
    fn set_index(&self, index: &mut Self::Index, values: &[u32]);
    /// How many whole numbers an index holds.
    fn index_len(&self, index: &Self::Index) -> usize;
    /// Copies the first `len` whole numbers out.
    fn index_values(&self, index: &Self::Index, len: usize) -> Vec<u32>;
    /// Bytes of memory that nobody has taken, where that is for the engine to share out.
    fn free_memory(&self) -> Option<u64> {
        None
    }
    /// How many steps decoding runs ahead of the host, with few different counts of rows, so that
    /// their recordings can be used again. 0: a step is read before the next begins.
    fn runs_ahead(&self) -> usize {
        0
    }
    /// Sets the first `len` values.
    fn fill(&self, tensor: &mut Self::Tensor, len: usize, value: f32);
    /// Sets a block, rows then columns, of a matrix of rows `width` wide.
    fn fill_block(
        &self,
        tensor: &mut Self::Tensor,
        width: usize,
        block: [Range<usize>; 2],
        value: f32,
    );
    /// Multiplies the first `len` values.
    fn scale(&self, tensor: &mut Self::Tensor, len: usize, factor: f32);
    /// Sum of the squares of each of some tensors.
    fn squares(&self, tensors: &[&Self::Tensor]) -> Vec<f64>;

    /// y = x · wᵀ, plus a bias and a residual where there are.
    fn linear(
        &self,
        y: &mut Self::Tensor,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        plus: Plus<'_, Self::Tensor>,
        shape: LinearShape,
    );
    /// dx = dy · w, or dx += dy · w if `accumulate`.
    fn linear_backward_input(
        &self,
        dx: &mut Self::Tensor,
        dy: &Self::Tensor,
        weight: &Self::Tensor,
        shape: LinearShape,
        accumulate: bool,
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
    /// [`Backend::linear`] for several runs whose rows stand end to end, `runs` of `shape`'s rows: the
    /// rows of each get the bits that they get alone.
    fn linear_of_runs(
        &self,
        y: &mut Self::Tensor,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        plus: Plus<'_, Self::Tensor>,
        shape: LinearShape,
        runs: &[Range<usize>],
    ) {
        for rows in runs {
            self.linear(y, x, weight, plus, shape.part(rows));
        }
    }
    /// [`Backend::linear_backward_input`] in the same way.
    fn linear_backward_input_of_runs(
        &self,
        dx: &mut Self::Tensor,
        dy: &Self::Tensor,
        weight: &Self::Tensor,
        shape: LinearShape,
        accumulate: bool,
        runs: &[Range<usize>],
    ) {
        for rows in runs {
            self.linear_backward_input(dx, dy, weight, shape.part(rows), accumulate);
        }
    }
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

    /// y = norm(x) by row, see [`NormKind`], plus a residual where there is one; keeps 1/√(…) in
    /// `inverse` `[rows]`.
    fn norm(
        &self,
        y: &mut Self::Tensor,
        inverse: &mut Self::Tensor,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        residual: Option<&Self::Tensor>,
        shape: NormShape,
    );
    /// dx and dw of [`Backend::norm`], and y once more where it is asked for: the matrix product
    /// after the norm needs it in the backward pass.
    fn norm_backward(
        &self,
        gradients: NormGradients<'_, Self::Tensor>,
        inverse: &Self::Tensor,
        dy: &Self::Tensor,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        shape: NormShape,
    );
    /// `qkv` = `projected` with each query and key head normed; keeps 1/√(…) in `inverse`
    /// `[rows, H + K]`.
    fn head_norm(
        &self,
        qkv: &mut Self::Tensor,
        inverse: &mut Self::Tensor,
        projected: &Self::Tensor,
        weight: &Self::Tensor,
        shape: HeadNormShape,
    );
    /// `dqkv` becomes the gradient of `projected`; dweight += ….
    fn head_norm_backward(
        &self,
        dqkv: &mut Self::Tensor,
        dweight: Option<&mut Self::Tensor>,
        inverse: &Self::Tensor,
        projected: &Self::Tensor,
        weight: &Self::Tensor,
        shape: HeadNormShape,
    );

    /// Turns the queries and keys of `qkv` by the angles of their positions; backwards if
    /// `inverse`, which is also the gradient.
    fn rope(
        &self,
        qkv: &mut Self::Tensor,
        positions: &Self::Index,
        angles: &Self::Tensor,
        heads: Heads,
        layout: RopeLayout,
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
        shape: AttentionShape,
    );
    /// dqkv of [`Backend::attention`], overwritten.
    fn attention_backward(
        &self,
        dqkv: &mut Self::Tensor,
        dout: &Self::Tensor,
        saved: SavedAttention<'_, Self::Tensor>,
        documents: &Self::Index,
        shape: AttentionShape,
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

    /// Chooses the token of each row of `products` `[N, V]`, which the head's map made.
    fn sample(&self, draw: Draw<'_, Self::Index>, products: &Self::Tensor, shape: SampleShape);

    /// y `[rows, F]` = activation(gate) · up, where a row of `gate_up` is gate then up.
    fn glu(&self, y: &mut Self::Tensor, gate_up: &Self::Tensor, shape: GluShape);
    /// [`Backend::glu`] of the product `gate_up` = x · weightᵀ `[rows, 2 F]`: the same bits as the
    /// two one after the other.
    fn linear_glu(
        &self,
        y: &mut Self::Tensor,
        gate_up: &mut Self::Tensor,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        shape: LinearGluShape,
    ) {
        self.linear(gate_up, x, weight, Plus::NOTHING, shape.linear());
        self.glu(y, gate_up, shape.glu);
    }
    /// `gate_up` becomes its gradient, `dy` becomes y again.
    fn glu_backward(&self, gate_up: &mut Self::Tensor, dy: &mut Self::Tensor, shape: GluShape);

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

    /// The head and its loss in one: −log softmax(logits) at each row's target, logits = hidden ·
    /// headᵀ put through the [`LogitRule`]. Logits stand for a few rows at a time only. `head` is
    /// `[V, C]`.
    fn cross_entropy(
        &self,
        losses: &mut Self::Tensor,
        hidden: &Self::Tensor,
        head: &Self::Tensor,
        targets: &Self::Index,
        gradient: Option<HeadGradient<'_, Self::Tensor>>,
        shape: HeadShape,
    );

    /// Moments at zero, in just this form. `offload`: they stand in the host's memory and pass
    /// through the device's, if it has one of its own.
    fn moments(&self, form: Form, len: usize, offload: bool) -> Self::Moments;
    /// Copies them to host memory, if they do not stand there.
    fn read_moments<'a>(&self, moments: &'a Self::Moments) -> Cow<'a, Moments>;
    /// Takes values of the same form and length.
    fn write_moments(&self, moments: &mut Self::Moments, values: Moments);
    /// One step of AdamW on some tensors.
    fn adamw(&self, step: &AdamWStep, updates: Vec<Update<'_, Self::Tensor, Self::Moments>>);
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
    /// As slices, the residual's from its first row on.
    fn slices(self, shape: LinearShape) -> Plus<'a, [f32]> {
        Plus { bias: self.bias.map(|b| &b[..]), residual: self.residual.map(|r| &r[shape.y()..]) }
    }
}

/// What [`Backend::norm_backward`] writes.
pub struct NormGradients<'a, T: ?Sized> {
    /// d input `[rows, C]`.
    pub dx: &'a mut T,
    /// Whether `dx` is added to, not written over.
    pub accumulate: bool,
    /// d weight `[C]`, added to; none where it is not trained.
    pub dweight: Option<&'a mut T>,
    /// The norm's output `[rows, C]`.
    pub y: Option<&'a mut T>,
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
    /// As slices, that of the rows from the first one on.
    fn slices(self, shape: LinearShape) -> HeadGradient<'a, [f32]> {
        let Self { scale, hidden, head } = self;
        HeadGradient { scale, hidden: &mut hidden[shape.x()..], head: head.map(|h| &mut h[..]) }
    }
}

impl<'a> NormGradients<'a, Vec<f32>> {
    fn slices(self) -> NormGradients<'a, [f32]> {
        NormGradients {
            dx: self.dx,
            accumulate: self.accumulate,
            dweight: self.dweight.map(|d| &mut d[..]),
            y: self.y.map(|y| &mut y[..]),
        }
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
