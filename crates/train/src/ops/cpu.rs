//! The fast form of every operation, for processors: f32 in host memory, rayon's current pool.

use half::bf16;

use super::*;

/// Operations on the processor, on as many threads as the rayon pool they are called in has.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu;

/// Weights of a layer that stay in a core's cache from pass to pass: nothing is saved by reading them
/// for several runs at once, and products over them are over before other threads have woken.
const FEW_WEIGHTS: usize = 1 << 20;
/// Rows from which on products are bound by arithmetic and no longer by reading the weights.
const MANY_ROWS: usize = 256;

impl Backend for Cpu {
    type Tensor = Vec<f32>;
    type Index = Vec<u32>;
    type Recorded = ();
    type Moments = Moments;

    fn gathering(&self, layer: usize) -> Gathering {
        if layer < FEW_WEIGHTS {
            return Gathering { at_once: rayon::current_num_threads(), enough: 1 };
        }
        Gathering { at_once: 1, enough: MANY_ROWS }
    }
    fn on_its_threads<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        // From outside of the pool, each operation would be handed over to it and waited for.
        rayon::scope(|_| work())
    }

    fn zeros(&self, _kind: Kind, len: usize) -> Vec<f32> {
        vec![0.0; len]
    }
    fn tensor(&self, kind: Kind, mut values: Vec<f32>) -> Vec<f32> {
        if kind == Kind::Narrow {
            split::for_each_rows(&mut values, 1, |_, part| {
                part.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
            });
        }
        values
    }
    fn rounded(&self, kind: Kind, value: f32) -> f32 {
        if kind == Kind::Narrow { bf16::from_f32(value).to_f32() } else { value }
    }
    fn values(&self, tensor: &Vec<f32>, len: usize) -> Vec<f32> {
        tensor[..len].to_vec()
    }
    fn view<'a>(&self, tensor: &'a Vec<f32>, len: usize) -> Cow<'a, [f32]> {
        Cow::Borrowed(&tensor[..len])
    }
    fn write(&self, tensor: &mut Vec<f32>, values: &[f32]) {
        split::for_each_rows(&mut tensor[..values.len()], 1, |range, part| {
            part.copy_from_slice(&values[range]);
        });
    }
    fn len(&self, tensor: &Vec<f32>) -> usize {
        tensor.len()
    }
    fn index(&self, values: &[u32]) -> Vec<u32> {
        values.to_vec()
    }
    fn index_with_room(&self, room: usize) -> Vec<u32> {
        Vec::with_capacity(room)
    }
    fn set_index(&self, index: &mut Vec<u32>, values: &[u32]) {
        index.clear();
        index.extend_from_slice(values);
    }
    fn index_len(&self, index: &Vec<u32>) -> usize {
        index.len()
    }
    fn index_values(&self, index: &Vec<u32>, len: usize) -> Vec<u32> {
        index[..len].to_vec()
    }
    fn sample(&self, draw: Draw<'_, Vec<u32>>, products: &Vec<f32>, shape: SampleShape) {
        sample::sample(draw, products, shape);
    }
    fn fill(&self, tensor: &mut Vec<f32>, len: usize, value: f32) {
        split::for_each_rows(&mut tensor[..len], 1, |_, part| part.fill(value));
    }
    fn unpack(&self, into: &mut Vec<f32>, packed: &Vec<f32>, how: (Nf4, &[usize])) {
        nf4::unpack(into, packed, how);
    }
    fn fill_block(
        &self,
        tensor: &mut Vec<f32>,
        width: usize,
        block: [Range<usize>; 2],
        value: f32,
    ) {
        let [rows, columns] = block;
        for row in rows {
            tensor[row * width..][columns.clone()].fill(value);
        }
    }
    fn scale(&self, tensor: &mut Vec<f32>, len: usize, factor: f32) {
        split::for_each_rows(&mut tensor[..len], 1, |_, part| simd::scale(part, factor));
    }
    fn squares_of_runs(&self, runs: &[(&Vec<f32>, Range<usize>)]) -> Vec<f64> {
        runs.iter().map(|(tensor, run)| adamw::sum_of_squares(&tensor[run.clone()])).collect()
    }

    fn linear(
        &self,
        y: &mut Vec<f32>,
        x: &Vec<f32>,
        weight: &Vec<f32>,
        plus: Plus<Vec<f32>>,
        shape: LinearShape,
    ) {
        let (x, weight) = (&x[shape.x()..], &weight[shape.w()..]);
        matmul::forward(&mut y[shape.y()..], x, weight, plus.slices(shape), shape);
    }
    fn linear_backward_input(
        &self,
        dx: &mut Vec<f32>,
        dy: &Vec<f32>,
        weight: &Vec<f32>,
        shape: LinearShape,
        accumulate: bool,
    ) {
        let (dx, dy) = (&mut dx[shape.x()..], &dy[shape.y()..]);
        matmul::backward_input(dx, dy, &weight[shape.w()..], shape, accumulate);
    }
    fn linear_backward_weight(
        &self,
        dweight: &mut Vec<f32>,
        dbias: Option<&mut Vec<f32>>,
        dy: &Vec<f32>,
        x: &Vec<f32>,
        shape: LinearShape,
    ) {
        let (dy, x) = (&dy[shape.y()..], &x[shape.x()..]);
        let dweight = &mut dweight[shape.w()..];
        matmul::backward_weight(dweight, dbias.map(|d| &mut d[..]), dy, x, shape);
    }
    fn linear_of_runs(
        &self,
        y: &mut Vec<f32>,
        x: &Vec<f32>,
        weight: &Vec<f32>,
        plus: Plus<Vec<f32>>,
        shape: LinearShape,
        runs: &[Range<usize>],
    ) {
        let (y, x, plus) = (&mut y[shape.y()..], &x[shape.x()..], plus.slices(shape));
        matmul::forward_of_runs(y, x, &weight[shape.w()..], plus, shape, runs);
    }
    fn linear_backward_input_of_runs(
        &self,
        dx: &mut Vec<f32>,
        dy: &Vec<f32>,
        weight: &Vec<f32>,
        shape: LinearShape,
        accumulate: bool,
        runs: &[Range<usize>],
    ) {
        let (dx, dy) = (&mut dx[shape.x()..], &dy[shape.y()..]);
        let weight = &weight[shape.w()..];
        matmul::backward_input_of_runs(dx, dy, weight, shape, accumulate, runs);
    }
    fn dropout(
        &self,
        y: &mut Vec<f32>,
        x: &Vec<f32>,
        mask: &Mask,
        shape: LinearShape,
        accumulate: bool,
    ) {
        dropout::apply(&mut y[shape.x()..], &x[shape.x()..], mask, shape, accumulate);
    }
    fn row_norms(
        &self,
        into: RowNorms<Vec<f32>>,
        magnitudes: &Vec<f32>,
        weight: &Vec<f32>,
        low: LowRank<Vec<f32>>,
        shape: RowNormShape,
    ) {
        dora::row_norms(into.slices(), magnitudes, weight, low.slices(), shape);
    }
    fn scale_columns(
        &self,
        y: &mut Vec<f32>,
        x: &Vec<f32>,
        factor: Factor<Vec<f32>>,
        plus: Plus<Vec<f32>>,
        shape: ColumnShape,
        accumulate: bool,
    ) {
        let residual = plus.residual.map(|r| &r[..]);
        let plus = Plus { bias: plus.bias.map(|b| &b[..]), residual };
        dora::scale_columns(y, x, factor.slices(), plus, shape, accumulate);
    }
    fn column_products(
        &self,
        sums: &mut Vec<f32>,
        [a, b]: [&Vec<f32>; 2],
        divisors: &Vec<f32>,
        shape: LinearShape,
    ) {
        dora::column_products(sums, [&a[shape.y()..], &b[shape.y()..]], divisors, shape);
    }
    fn linear_rows(
        &self,
        y: &mut Vec<f32>,
        x: &Vec<f32>,
        weight: &Vec<f32>,
        plus: Plus<Vec<f32>>,
        shape: LinearShape,
    ) {
        let (x, weight) = (&x[shape.x()..], &weight[shape.w()..]);
        matmul::rows(&mut y[shape.y()..], x, weight, plus.slices(shape), shape);
    }

    fn norm(
        &self,
        y: &mut Vec<f32>,
        inverse: &mut Vec<f32>,
        x: &Vec<f32>,
        weight: &Vec<f32>,
        residual: Option<&Vec<f32>>,
        shape: NormShape,
    ) {
        norm::forward(y, inverse, x, weight, residual.map(|r| &r[..]), shape);
    }
    fn norm_backward(
        &self,
        gradients: NormGradients<Vec<f32>>,
        inverse: &Vec<f32>,
        dy: &Vec<f32>,
        x: &Vec<f32>,
        weight: &Vec<f32>,
        shape: NormShape,
    ) {
        norm::backward(gradients.slices(), inverse, dy, x, weight, shape);
    }
    fn head_norm(
        &self,
        qkv: &mut Vec<f32>,
        inverse: &mut Vec<f32>,
        projected: &Vec<f32>,
        weight: &Vec<f32>,
        shape: HeadNormShape,
    ) {
        head_norm::forward(qkv, inverse, projected, weight, shape);
    }
    fn head_norm_backward(
        &self,
        dqkv: &mut Vec<f32>,
        dweight: Option<&mut Vec<f32>>,
        inverse: &Vec<f32>,
        projected: &Vec<f32>,
        weight: &Vec<f32>,
        shape: HeadNormShape,
    ) {
        let dweight = dweight.map(|d| &mut d[..]);
        head_norm::backward(dqkv, dweight, inverse, projected, weight, shape);
    }
    fn rope(
        &self,
        qkv: &mut Vec<f32>,
        positions: &Vec<u32>,
        angles: &Vec<f32>,
        heads: Heads,
        layout: RopeLayout,
        inverse: bool,
    ) {
        rope::rotate(qkv, positions, angles, heads, layout, inverse);
    }

    fn attention(
        &self,
        out: &mut Vec<f32>,
        log_sums: &mut Vec<f32>,
        qkv: &Vec<f32>,
        documents: &Vec<u32>,
        shape: AttentionShape,
    ) {
        attention::forward(out, log_sums, qkv, documents, shape);
    }
    fn attention_backward(
        &self,
        dqkv: &mut Vec<f32>,
        dout: &Vec<f32>,
        saved: SavedAttention<Vec<f32>>,
        documents: &Vec<u32>,
        shape: AttentionShape,
    ) {
        attention::backward(dqkv, dout, saved.slices(), documents, shape);
    }
    fn cache_store(
        &self,
        cache: &mut Vec<f32>,
        qkv: &Vec<f32>,
        slots: &Vec<u32>,
        positions: &Vec<u32>,
        shape: CacheShape,
    ) {
        cached_attention::store(cache, qkv, slots, positions, shape);
    }
    fn cached_attention(
        &self,
        out: &mut Vec<f32>,
        qkv: &Vec<f32>,
        cache: &Vec<f32>,
        slots: &Vec<u32>,
        positions: &Vec<u32>,
        shape: CacheShape,
    ) {
        cached_attention::attend(out, qkv, cache, slots, positions, shape);
    }

    fn glu(&self, y: &mut Vec<f32>, gate_up: &Vec<f32>, shape: GluShape) {
        glu::forward(y, gate_up, shape);
    }
    fn glu_backward(&self, gate_up: &mut Vec<f32>, dy: &mut Vec<f32>, shape: GluShape) {
        glu::backward(gate_up, dy, shape);
    }
    fn gather_rows(&self, y: &mut Vec<f32>, table: &Vec<f32>, ids: &Vec<u32>, width: usize) {
        embedding::gather(y, table, ids, width);
    }
    fn scatter_add_rows(&self, dtable: &mut Vec<f32>, dy: &Vec<f32>, ids: &Vec<u32>, width: usize) {
        embedding::scatter_add(dtable, dy, ids, width);
    }
    fn cross_entropy(
        &self,
        losses: &mut Vec<f32>,
        hidden: &Vec<f32>,
        head: &Vec<f32>,
        targets: &Vec<u32>,
        gradient: Option<HeadGradient<Vec<f32>>>,
        shape: HeadShape,
    ) {
        let linear = shape.linear;
        let gradient = gradient.map(|gradient| gradient.slices(linear));
        let (losses, targets) = (&mut losses[linear.first..], &targets[linear.first..]);
        cross_entropy::head_loss(losses, &hidden[linear.x()..], head, targets, gradient, shape);
    }
    fn cross_entropy_of_runs(
        &self,
        losses: &mut Vec<f32>,
        hidden: &Vec<f32>,
        head: &Vec<f32>,
        targets: &Vec<u32>,
        gradient: Option<(&[&Vec<f32>], &mut Vec<f32>)>,
        (shape, runs): (HeadShape, &[Range<usize>]),
    ) {
        let scales = gradient.as_ref().map_or(&[][..], |(scales, _)| scales);
        let scales: Vec<f32> = scales.iter().map(|scale| scale[0]).collect();
        let gradient = gradient.map(|(_, hidden)| (&scales[..], &mut hidden[..]));
        cross_entropy::head_loss_of_runs(losses, hidden, head, targets, gradient, shape, runs);
    }
    fn moments(&self, form: Form, len: usize, _offload: bool) -> Moments {
        Moments::zeros(form, len)
    }
    fn read_moments<'a>(&self, moments: &'a Moments) -> Cow<'a, Moments> {
        Cow::Borrowed(moments)
    }
    fn write_moments(&self, moments: &mut Moments, values: Moments) {
        *moments = values;
    }
    fn adamw(&self, step: &AdamWStep, updates: Vec<Update<'_, Vec<f32>, Moments>>) {
        for update in updates {
            adamw::step(step, update);
        }
    }
}
