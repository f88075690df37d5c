//! The plain form of every operation as a backend: simple loops on one thread. The tests hold the
//! fast forms to it, one by one and as a whole model.

use half::bf16;

use super::*;

/// Simple loops.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reference;

impl Backend for Reference {
    type Tensor = Vec<f32>;
    type Index = Vec<u32>;
    type Recorded = ();
    type Moments = Moments;

    fn zeros(&self, _kind: Kind, len: usize) -> Vec<f32> {
        vec![0.0; len]
    }
    fn tensor(&self, kind: Kind, values: Vec<f32>) -> Vec<f32> {
        values.into_iter().map(|x| self.rounded(kind, x)).collect()
    }
    fn rounded(&self, kind: Kind, value: f32) -> f32 {
        if kind == Kind::Narrow { bf16::from_f32(value).to_f32() } else { value }
    }
    fn values(&self, tensor: &Vec<f32>, len: usize) -> Vec<f32> {
        tensor[..len].to_vec()
    }
    fn write(&self, tensor: &mut Vec<f32>, values: &[f32]) {
        tensor[..values.len()].copy_from_slice(values);
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
        tensor[..len].fill(value);
    }
    fn unpack(&self, into: &mut Vec<f32>, packed: &Vec<f32>, how: (Nf4, &[usize])) {
        nf4::reference::unpack(into, packed, how);
    }
    fn fill_block(
        &self,
        tensor: &mut Vec<f32>,
        width: usize,
        block: [Range<usize>; 2],
        value: f32,
    ) {
        let [rows, columns] = block;
        for (row, column) in rows.flat_map(|row| columns.clone().map(move |column| (row, column))) {
            tensor[row * width + column] = value;
        }
    }
    fn scale(&self, tensor: &mut Vec<f32>, len: usize, factor: f32) {
        tensor[..len].iter_mut().for_each(|x| *x *= factor);
    }
    fn squares_of_runs(&self, runs: &[(&Vec<f32>, Range<usize>)]) -> Vec<f64> {
        let sum = |values: &[f32]| values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        runs.iter().map(|(tensor, run)| sum(&tensor[run.clone()])).collect()
    }

    fn linear(
        &self,
        y: &mut Vec<f32>,
        x: &Vec<f32>,
        weight: &Vec<f32>,
        plus: Plus<Vec<f32>>,
        shape: LinearShape,
    ) {
        matmul::reference::forward(
            &mut y[shape.y()..],
            &x[shape.x()..],
            &weight[shape.w()..],
            plus.slices(shape),
            shape,
        );
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
        matmul::reference::backward_input(dx, dy, &weight[shape.w()..], shape, accumulate);
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
        matmul::reference::backward_weight(dweight, dbias.map(|d| &mut d[..]), dy, x, shape);
    }
    fn dropout(
        &self,
        y: &mut Vec<f32>,
        x: &Vec<f32>,
        mask: &Mask,
        shape: LinearShape,
        accumulate: bool,
    ) {
        dropout::reference::apply(&mut y[shape.x()..], &x[shape.x()..], mask, shape, accumulate);
    }
    fn row_norms(
        &self,
        into: RowNorms<Vec<f32>>,
        magnitudes: &Vec<f32>,
        weight: &Vec<f32>,
        low: LowRank<Vec<f32>>,
        shape: RowNormShape,
    ) {
        dora::reference::row_norms(into.slices(), magnitudes, weight, low.slices(), shape);
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
        dora::reference::scale_columns(y, x, factor.slices(), plus, shape, accumulate);
    }
    fn column_products(
        &self,
        sums: &mut Vec<f32>,
        [a, b]: [&Vec<f32>; 2],
        divisors: &Vec<f32>,
        shape: LinearShape,
    ) {
        dora::reference::column_products(sums, [&a[shape.y()..], &b[shape.y()..]], divisors, shape);
    }
    fn linear_rows(
        &self,
        y: &mut Vec<f32>,
        x: &Vec<f32>,
        weight: &Vec<f32>,
        plus: Plus<Vec<f32>>,
        shape: LinearShape,
    ) {
        matmul::reference::forward(
            &mut y[shape.y()..],
            &x[shape.x()..],
            &weight[shape.w()..],
            plus.slices(shape),
            shape,
        );
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
        norm::reference::forward(y, inverse, x, weight, residual.map(|r| &r[..]), shape);
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
        norm::reference::backward(gradients.slices(), inverse, dy, x, weight, shape);
    }
    fn head_norm(
        &self,
        qkv: &mut Vec<f32>,
        inverse: &mut Vec<f32>,
        projected: &Vec<f32>,
        weight: &Vec<f32>,
        shape: HeadNormShape,
    ) {
        head_norm::reference::forward(qkv, inverse, projected, weight, shape);
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
        head_norm::reference::backward(dqkv, dweight, inverse, projected, weight, shape);
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
        rope::reference::rotate(qkv, positions, angles, heads, layout, inverse);
    }

    fn attention(
        &self,
        out: &mut Vec<f32>,
        log_sums: &mut Vec<f32>,
        qkv: &Vec<f32>,
        documents: &Vec<u32>,
        shape: AttentionShape,
    ) {
        attention::reference::forward(out, log_sums, qkv, documents, shape);
    }
    fn attention_backward(
        &self,
        dqkv: &mut Vec<f32>,
        dout: &Vec<f32>,
        saved: SavedAttention<Vec<f32>>,
        documents: &Vec<u32>,
        shape: AttentionShape,
    ) {
        attention::reference::backward(dqkv, dout, saved.slices(), documents, shape);
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
        cached_attention::reference::attend(out, qkv, cache, slots, positions, shape);
    }

    fn glu(&self, y: &mut Vec<f32>, gate_up: &Vec<f32>, shape: GluShape) {
        glu::reference::forward(y, gate_up, shape);
    }
    fn glu_backward(&self, gate_up: &mut Vec<f32>, dy: &mut Vec<f32>, shape: GluShape) {
        glu::reference::backward(gate_up, dy, shape);
    }
    fn gather_rows(&self, y: &mut Vec<f32>, table: &Vec<f32>, ids: &Vec<u32>, width: usize) {
        embedding::reference::gather(y, table, ids, width);
    }
    fn scatter_add_rows(&self, dtable: &mut Vec<f32>, dy: &Vec<f32>, ids: &Vec<u32>, width: usize) {
        embedding::reference::scatter_add(dtable, dy, ids, width);
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
        cross_entropy::reference::head_loss(
            losses,
            &hidden[linear.x()..],
            head,
            targets,
            gradient,
            shape,
        );
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
            adamw::reference::step(step, update);
        }
    }
}
