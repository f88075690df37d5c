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
pub mod dora;
pub mod dropout;
pub mod embedding;
pub mod glu;
pub mod head_norm;
pub mod matmul;
pub mod moments;
pub mod nf4;
pub mod norm;
mod reference;
pub mod rope;
pub mod rounding;
pub mod sample;
mod shapes;
pub mod simd;
mod split;
mod stored;
#[cfg(test)]
pub(crate) mod testing;
mod tiles;

pub use adamw::{AdamWStep, Update};
pub use cpu::Cpu;
pub use moments::{Form, Moments};
pub use nf4::Nf4;
pub use reference::Reference;
pub use shapes::*;
pub use stored::{Stored, StoredKind, to_f32};

/// What a tensor is for, by which a backend chooses how its values stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A parameter that is trained, exact beside what products read of it.
    Weight,
    /// A parameter that is trained and stands in bf16 alone, on every device.
    Narrow,
    /// A parameter that stays, as products read it: bf16 on a card, f32 on the processor.
    Frozen,
    /// Words of matrices that stay and stand in 4 bits a value, see [`nf4`]: bits, not numbers.
    Packed,
    /// A parameter's gradient, summed over many products.
    Gradient,
    /// What passes from operation to operation, and its gradients.
    Activation,
    /// Few values that have to be exact: log sums, losses, angles, logits.
    Statistic,
}

/// How the batches of several runs over the same weights come together for passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gathering {
    /// Passes that are done at the same time.
    pub at_once: usize,
    /// Rows from which on a pass begins without the runs that are still to come.
    pub enough: usize,
}

impl Gathering {
    /// One pass at a time, for all.
    pub const ALL: Self = Self { at_once: 1, enough: usize::MAX };
}

/// A set of operations over tensors in some memory.
///
/// A tensor is a run of f32 values; it may be longer than an operation needs, and shapes come
/// beside it. Operations run in the order in which they are called. Each is a pure function of its
/// inputs, bit for bit, whatever the number of threads.
pub trait Backend: Sync {
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

    /// Whether it makes recordings, for which work must come again in the same shapes.
    fn records(&self) -> bool {
        false
    }

    /// Where a tensor's values stand, for work that comes again with the same tensors; of use where
    /// recordings are made.
    fn place(&self, _tensor: &Self::Tensor) -> u64 {
        0
    }

    /// How the batches of several runs over the same weights come together, where a layer has so many of them.
    fn gathering(&self, _layer: usize) -> Gathering {
        Gathering::ALL
    }

    /// Does `work` where many operations are best called from.
    fn on_its_threads<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        work()
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
    /// Whether a weight's exact values, which the optimiser moves, stand apart from those that products read.
    fn has_master(&self, _weight: &Self::Tensor) -> bool {
        false
    }
    /// Lets go of a weight's exact values but for these.
    fn keep_master(&self, _weight: &mut Self::Tensor, _values: Range<usize>) {}
    /// Number of values.
    fn len(&self, tensor: &Self::Tensor) -> usize;
    /// Copies whole numbers in.
    fn index(&self, values: &[u32]) -> Self::Index;
    /// None yet, with room for so many.
    fn index_with_room(&self, room: usize) -> Self::Index;
    /// Copies whole numbers over those of an index, which stays where it is: as many as it has, or as
    /// many as it was given room for at most.
    fn set_index(&self, index: &mut Self::Index, values: &[u32]);
    /// How many whole numbers an index holds.
    fn index_len(&self, index: &Self::Index) -> usize;
    /// Copies the first `len` whole numbers out.
    fn index_values(&self, index: &Self::Index, len: usize) -> Vec<u32>;
    /// How many steps decoding runs ahead of the host, with few different counts of rows, so that
    /// their recordings can be used again. 0: a step is read before the next begins.
    fn runs_ahead(&self) -> usize {
        0
    }
    /// Sets the first `len` values.
    fn fill(&self, tensor: &mut Self::Tensor, len: usize, value: f32);
    /// The values of packed matrices of these lengths, one after the other: those of `packed`, whose form
    /// is [`Kind::Packed`].
    fn unpack(&self, into: &mut Self::Tensor, packed: &Self::Tensor, how: (Nf4, &[usize]));
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
    fn squares(&self, tensors: &[&Self::Tensor]) -> Vec<f64> {
        let whole = tensors.iter().map(|&tensor| (tensor, 0..self.len(tensor)));
        self.squares_of_runs(&whole.collect::<Vec<_>>())
    }
    /// Sum of the squares of each of some runs of tensors' values.
    fn squares_of_runs(&self, runs: &[(&Self::Tensor, Range<usize>)]) -> Vec<f64>;

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
    /// y (+)= x through the mask, over the shape's rows of x.
    fn dropout(
        &self,
        y: &mut Self::Tensor,
        x: &Self::Tensor,
        mask: &Mask,
        shape: LinearShape,
        accumulate: bool,
    );
    /// ‖W + s B A‖ of rows of a weight, and what each row's magnitude is of that.
    fn row_norms(
        &self,
        into: RowNorms<'_, Self::Tensor>,
        magnitudes: &Self::Tensor,
        weight: &Self::Tensor,
        low: LowRank<'_, Self::Tensor>,
        shape: RowNormShape,
    );
    /// y (+)= the columns of x, each times its factor, plus a bias and a residual where there are, which
    /// stand as y does.
    fn scale_columns(
        &self,
        y: &mut Self::Tensor,
        x: &Self::Tensor,
        factor: Factor<'_, Self::Tensor>,
        plus: Plus<'_, Self::Tensor>,
        shape: ColumnShape,
        accumulate: bool,
    );
    /// sums += the column sums of a ∘ b, each over its divisor; of the shape a and b are outputs.
    fn column_products(
        &self,
        sums: &mut Self::Tensor,
        factors: [&Self::Tensor; 2],
        divisors: &Self::Tensor,
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
    /// [`Backend::linear_rows`] for the many rows of whole prompts, in which a row need not have the
    /// bits that it has in a step.
    fn linear_prompts(
        &self,
        y: &mut Self::Tensor,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        plus: Plus<'_, Self::Tensor>,
        shape: LinearShape,
    ) {
        self.linear_rows(y, x, weight, plus, shape);
    }

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
    /// `[V, C]`. A row whose target is [`cross_entropy::IGNORED`] has a loss of 0 and no gradient.
    fn cross_entropy(
        &self,
        losses: &mut Self::Tensor,
        hidden: &Self::Tensor,
        head: &Self::Tensor,
        targets: &Self::Index,
        gradient: Option<HeadGradient<'_, Self::Tensor>>,
        shape: HeadShape,
    );

    /// The same of several runs over one head, which is not trained, the rows of each run as it has them alone;
    /// `gradient` is the scale of each run and d hidden.
    fn cross_entropy_of_runs(
        &self,
        losses: &mut Self::Tensor,
        hidden: &Self::Tensor,
        head: &Self::Tensor,
        targets: &Self::Index,
        mut gradient: Option<(&[&Self::Tensor], &mut Self::Tensor)>,
        (shape, runs): (HeadShape, &[Range<usize>]),
    ) {
        for (r, run) in runs.iter().enumerate() {
            let of_run = HeadShape { linear: shape.linear.part(run), ..shape };
            let gradient = gradient.as_mut().map(|(scales, hidden)| HeadGradient {
                scale: scales[r],
                hidden: &mut **hidden,
                head: None,
            });
            self.cross_entropy(losses, hidden, head, targets, gradient, of_run);
        }
    }

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
