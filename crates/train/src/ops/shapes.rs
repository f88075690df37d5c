//! What operations take beside tensors: shapes, rules, and what belongs together of inputs and
//! outputs.

use std::ops::Range;

use super::sample;

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
    /// The row of w, or of its gradient, that makes the first of the outputs.
    pub start: usize,
}

impl LinearShape {
    /// From the first row on.
    #[must_use]
    pub const fn new(rows: usize, inputs: usize, outputs: usize) -> Self {
        Self { first: 0, rows, inputs, outputs, start: 0 }
    }

    /// The map to these of its outputs alone, which y then has and no others.
    #[must_use]
    pub fn to(self, outputs: &Range<usize>) -> Self {
        Self { outputs: outputs.len(), start: self.start + outputs.start, ..self }
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

    /// Where w begins.
    #[must_use]
    pub fn w(self) -> usize {
        self.start * self.inputs
    }
}

/// Columns of a matrix that has others beside them.
#[derive(Debug, Clone, Copy)]
pub struct Columns {
    /// Width of the matrix.
    pub width: usize,
    /// The first of them.
    pub first: usize,
}

/// A run of columns of one matrix that goes to as many of another, for [`Backend::scale_columns`].
#[derive(Debug, Clone, Copy)]
pub struct ColumnShape {
    /// The row at which both begin.
    pub first: usize,
    /// N.
    pub rows: usize,
    /// How many columns.
    pub count: usize,
    /// Where they are in x,
    pub from: Columns,
    /// and in y.
    pub to: Columns,
}

impl ColumnShape {
    /// All columns of matrices of one width.
    #[must_use]
    pub fn whole(first: usize, rows: usize, width: usize) -> Self {
        let all = Columns { width, first: 0 };
        Self { first, rows, count: width, from: all, to: all }
    }
}

/// What columns are multiplied by.
pub enum Factor<'a, T: ?Sized> {
    /// All by the same.
    Number(f32),
    /// Each by its own, which has the number of the column in x.
    Each(&'a T),
}

impl<T: ?Sized> Clone for Factor<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized> Copy for Factor<'_, T> {}

/// Two thin matrices beside rows of a weight, for [`Backend::row_norms`].
pub struct LowRank<'a, T: ?Sized> {
    /// A `[R, inputs]`.
    pub down: &'a T,
    /// Bᵀ `[R, outputs]`.
    pub up: &'a T,
    /// s: what their product is multiplied by.
    pub scale: f32,
}

impl<T: ?Sized> Clone for LowRank<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized> Copy for LowRank<'_, T> {}

/// Some rows of a weight `[outputs, inputs]` and those of the thin matrices' R that go with them.
#[derive(Debug, Clone)]
pub struct RowNormShape {
    /// Width of the weight.
    pub inputs: usize,
    /// All of its rows.
    pub outputs: usize,
    /// The rows that are meant.
    pub rows: Range<usize>,
    /// Their part of R.
    pub ranks: Range<usize>,
}

/// What [`Backend::row_norms`] writes, each `[outputs]`, at the rows that are meant.
pub struct RowNorms<'a, T: ?Sized> {
    /// The norms; infinity where a row is zero.
    pub norms: &'a mut T,
    /// Magnitudes over norms.
    pub ratios: &'a mut T,
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

/// What is dropped where: see [`super::dropout`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mask {
    /// p: the share that is dropped, from 0 to below 1.
    pub rate: f64,
    /// Seed of the run.
    pub seed: u64,
    /// Optimiser step.
    pub step: u32,
    /// Number of the map whose input it is, among all of the model.
    pub place: u32,
    /// Rows of the step that came before the first one here.
    pub row: u64,
}

/// Where the gradient of the loss goes, for [`Backend::cross_entropy`].
pub struct HeadGradient<'a, T: ?Sized> {
    /// What the gradient is multiplied by `[1]`.
    pub scale: &'a T,
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

impl<'a> LowRank<'a, Vec<f32>> {
    pub(super) fn slices(self) -> LowRank<'a, [f32]> {
        LowRank { down: self.down, up: self.up, scale: self.scale }
    }
}

impl<'a> RowNorms<'a, Vec<f32>> {
    pub(super) fn slices(self) -> RowNorms<'a, [f32]> {
        RowNorms { norms: self.norms, ratios: self.ratios }
    }
}

impl<'a> Factor<'a, Vec<f32>> {
    pub(super) fn slices(self) -> Factor<'a, [f32]> {
        match self {
            Self::Number(number) => Factor::Number(number),
            Self::Each(all) => Factor::Each(all),
        }
    }
}

impl<'a> Plus<'a, Vec<f32>> {
    /// As slices, the residual's from its first row on.
    pub(super) fn slices(self, shape: LinearShape) -> Plus<'a, [f32]> {
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
    pub(super) fn slices(self, shape: LinearShape) -> HeadGradient<'a, [f32]> {
        let Self { scale, hidden, head } = self;
        HeadGradient {
            scale: &scale[..1],
            hidden: &mut hidden[shape.x()..],
            head: head.map(|h| &mut h[..]),
        }
    }
}

impl<'a> NormGradients<'a, Vec<f32>> {
    pub(super) fn slices(self) -> NormGradients<'a, [f32]> {
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
    pub(super) fn slices(self) -> SavedAttention<'a, [f32]> {
        SavedAttention { qkv: self.qkv, out: self.out, log_sums: self.log_sums }
    }
}
