//! The fast form of every operation, for processors: f32 in host memory, rayon's current pool.

use super::*;

/// Operations on the processor, on as many threads as the rayon pool they are called in has.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu;

impl Backend for Cpu {
    type Tensor = Vec<f32>;
    type Index = Vec<u32>;

    fn zeros(&self, len: usize) -> Vec<f32> {
        vec![0.0; len]
    }
    fn tensor(&self, values: Vec<f32>) -> Vec<f32> {
        values
    }
    fn values(&self, tensor: &Vec<f32>, len: usize) -> Vec<f32> {
        tensor[..len].to_vec()
    }
    fn len(&self, tensor: &Vec<f32>) -> usize {
        tensor.len()
    }
    fn index(&self, values: &[u32]) -> Vec<u32> {
        values.to_vec()
    }
    fn fill(&self, tensor: &mut Vec<f32>, len: usize, value: f32) {
        split::for_each_rows(&mut tensor[..len], 1, |_, part| part.fill(value));
    }
    fn scale(&self, tensor: &mut Vec<f32>, factor: f32) {
        split::for_each_rows(tensor, 1, |_, part| simd::scale(part, factor));
    }
    fn sum_of_squares(&self, tensor: &Vec<f32>) -> f64 {
        adamw::sum_of_squares(tensor)
    }

    fn linear(
        &self,
        y: &mut Vec<f32>,
        x: &Vec<f32>,
        weight: &Vec<f32>,
        plus: Plus<Vec<f32>>,
        shape: LinearShape,
    ) {
        matmul::forward(y, x, weight, plus.slices(), shape);
    }
    fn linear_backward_input(
        &self,
        dx: &mut Vec<f32>,
        dy: &Vec<f32>,
        weight: &Vec<f32>,
        shape: LinearShape,
    ) {
        matmul::backward_input(dx, dy, weight, shape);
    }
    fn linear_backward_weight(
        &self,
        dweight: &mut Vec<f32>,
        dbias: Option<&mut Vec<f32>>,
        dy: &Vec<f32>,
        x: &Vec<f32>,
        shape: LinearShape,
    ) {
        matmul::backward_weight(dweight, dbias.map(|d| &mut d[..]), dy, x, shape);
    }
    fn linear_rows(
        &self,
        y: &mut Vec<f32>,
        x: &Vec<f32>,
        weight: &Vec<f32>,
        plus: Plus<Vec<f32>>,
        shape: LinearShape,
    ) {
        matmul::rows(y, x, weight, plus.slices(), shape);
    }

    fn rms_norm(
        &self,
        y: &mut Vec<f32>,
        inverse_rms: &mut Vec<f32>,
        x: &Vec<f32>,
        weight: &Vec<f32>,
        shape: NormShape,
    ) {
        rms_norm::forward(y, inverse_rms, x, weight, shape);
    }
    fn rms_norm_backward(
        &self,
        gradients: NormGradients<Vec<f32>>,
        inverse_rms: &Vec<f32>,
        x: &Vec<f32>,
        weight: &Vec<f32>,
        shape: NormShape,
    ) {
        rms_norm::backward(gradients.slices(), inverse_rms, x, weight, shape);
    }
    fn rope(
        &self,
        qkv: &mut Vec<f32>,
        positions: &Vec<u32>,
        angles: &Vec<f32>,
        heads: Heads,
        inverse: bool,
    ) {
        rope::rotate(qkv, positions, angles, heads, inverse);
    }

    fn attention(
        &self,
        out: &mut Vec<f32>,
        log_sums: &mut Vec<f32>,
        qkv: &Vec<f32>,
        documents: &Vec<u32>,
        heads: Heads,
    ) {
        attention::forward(out, log_sums, qkv, documents, heads);
    }
    fn attention_backward(
        &self,
        dqkv: &mut Vec<f32>,
        dout: &Vec<f32>,
        saved: SavedAttention<Vec<f32>>,
        documents: &Vec<u32>,
        heads: Heads,
    ) {
        attention::backward(dqkv, dout, saved.slices(), documents, heads);
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

    fn swiglu(&self, y: &mut Vec<f32>, gate_up: &Vec<f32>, rows: usize, width: usize) {
        swiglu::forward(y, gate_up, rows, width);
    }
    fn swiglu_backward(
        &self,
        gate_up: &mut Vec<f32>,
        dy: &mut Vec<f32>,
        rows: usize,
        width: usize,
    ) {
        swiglu::backward(gate_up, dy, rows, width);
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
        shape: LinearShape,
    ) {
        cross_entropy::head_loss(
            losses,
            hidden,
            head,
            targets,
            gradient.map(HeadGradient::slices),
            shape,
        );
    }
    fn adamw(
        &self,
        step: &AdamWStep,
        parameter: &mut Vec<f32>,
        gradient: &Vec<f32>,
        [m, v]: [&mut Vec<f32>; 2],
    ) {
        adamw::step(step, parameter, gradient, [m, v]);
    }
}
