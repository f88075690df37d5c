//! Attention of a decoding step: one query a sequence over the keys and values that the sequence
//! has left in the cache, no further back than the layer's window. Each sequence and key and value head is a task of its own with a fixed
//! order of sums, so that a result does not depend on what else is decoded with it. A slot of the
//! cache is `[2 (keys, values), K, capacity, D]`: one head's keys are contiguous.

use super::split::{self, Shared};
use super::{AttentionShape, CacheShape, simd};

/// Puts the keys and values of each row of `qkv` into its slot at its position.
pub fn store(cache: &mut [f32], qkv: &[f32], slots: &[u32], positions: &[u32], shape: CacheShape) {
    let CacheShape { attention: AttentionShape { heads, .. }, capacity, .. } = shape;
    let size = heads.size;
    for (row, (&slot, &position)) in slots.iter().zip(positions).enumerate() {
        let keys_and_values =
            &qkv[row * heads.qkv_width() + heads.query_width()..(row + 1) * heads.qkv_width()];
        for (head, values) in keys_and_values.chunks_exact(size).enumerate() {
            let at =
                slot as usize * shape.slot_len() + (head * capacity + position as usize) * size;
            cache[at..at + size].copy_from_slice(values);
        }
    }
}

/// out `[rows, H D]`: row i attends to the positions up to `positions[i]` of slot `slots[i]` that
/// it sees.
pub fn attend(
    out: &mut [f32],
    qkv: &[f32],
    cache: &[f32],
    slots: &[u32],
    positions: &[u32],
    shape: CacheShape,
) {
    let CacheShape { attention: AttentionShape { heads, scale, softcap, .. }, capacity, .. } =
        shape;
    let (size, part) = (heads.size, heads.group() * heads.size);
    let cost: usize = positions.iter().map(|&p| (p as usize + 1) * heads.query_width()).sum();
    let out = Shared::new(out);
    split::for_each(slots.len() * heads.key_values, cost / 4, |i| {
        let (row, head) = (i / heads.key_values, i % heads.key_values);
        let slot = slots[row] as usize * shape.slot_len();
        let position = positions[row] as usize;
        let seen = shape.attention.first_seen(position)..position + 1;
        let [keys, values] = [head, heads.key_values + head].map(|h| {
            let start = slot + h * capacity * size;
            &cache[start + seen.start * size..start + seen.end * size]
        });
        let queries = &qkv[row * heads.qkv_width() + head * part..][..part];
        // SAFETY: this row's part for this head is this task's alone.
        let out = unsafe { out.part(i * part..(i + 1) * part) };
        for (query, out) in queries.chunks_exact(size).zip(out.chunks_exact_mut(size)) {
            attend_one(out, query, keys, values, (scale, softcap));
        }
    });
}

/// Keys whose scores stand at a time; the softmax is kept up to date from block to block.
const KEYS: usize = 64;

simd::simd! {
    /// out = softmax(q kᵀ · scale) v for one query, block by block of keys, with the running
    /// maximum and sum of online softmax.
    fn attend_one(out: &mut [f32], query: &[f32], keys: &[f32], values: &[f32], rule: (f32, Option<f32>)) {
        let (scale, softcap) = rule;
        let size = query.len();
        let (mut largest, mut sum) = (f32::NEG_INFINITY, 0.0f32);
        let mut scores = [0.0f32; KEYS];
        out.fill(0.0);
        for (keys, values) in keys.chunks(KEYS * size).zip(values.chunks(KEYS * size)) {
            let scores = &mut scores[..keys.len() / size];
            for (score, key) in scores.iter_mut().zip(keys.chunks_exact(size)) {
                *score = simd::dot(query, key) * scale;
            }
            if let Some(cap) = softcap {
                for score in &mut *scores {
                    *score = cap * simd::tanh(*score / cap);
                }
            }
            let higher = largest.max(simd::max(scores));
            let shrink = simd::exp(largest.max(-1e30) - higher);
            largest = higher;
            sum *= shrink;
            for out in out.iter_mut() {
                *out *= shrink;
            }
            for (score, value) in scores.iter().zip(values.chunks_exact(size)) {
                let weight = simd::exp(score - largest);
                sum += weight;
                for (out, value) in out.iter_mut().zip(value) {
                    *out = weight.mul_add(*value, *out);
                }
            }
        }
        for out in out.iter_mut() {
            *out /= sum;
        }
    }
}

/// The plain form.
pub mod reference {
    use super::{AttentionShape, CacheShape};

    /// See [`super::attend`].
    pub fn attend(
        out: &mut [f32],
        qkv: &[f32],
        cache: &[f32],
        slots: &[u32],
        positions: &[u32],
        shape: CacheShape,
    ) {
        let CacheShape {
            attention: AttentionShape { heads, scale, softcap, .. }, capacity, ..
        } = shape;
        let size = heads.size;
        for (row, (&slot, &last)) in slots.iter().zip(positions).enumerate() {
            for head in 0..heads.queries {
                let at = |part: usize, key: usize| {
                    slot as usize * shape.slot_len()
                        + ((part * heads.key_values + head / heads.group()) * capacity + key) * size
                };
                let query = &qkv[row * heads.qkv_width() + head * size..][..size];
                let score = |key: usize| {
                    let dot: f32 = query.iter().zip(&cache[at(0, key)..]).map(|(q, k)| q * k).sum();
                    softcap.map_or(dot * scale, |cap| cap * (dot * scale / cap).tanh())
                };
                let first = shape.attention.first_seen(last as usize);
                let scores: Vec<f32> = (first..=last as usize).map(score).collect();
                let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f32 = scores.iter().map(|s| (s - largest).exp()).sum();
                for d in 0..size {
                    out[(row * heads.queries + head) * size + d] = scores
                        .iter()
                        .zip(first..)
                        .map(|(s, key)| (s - largest).exp() / sum * cache[at(1, key) + d])
                        .sum();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, bits, on_threads, random};
    use super::super::{Heads, attention};
    use super::*;

    const HEADS: Heads = Heads { queries: 4, key_values: 2, size: 20 };

    /// Without cap and window, with each, with both.
    fn shapes() -> [CacheShape; 4] {
        [(None, None), (Some(1.5), None), (None, Some(70)), (Some(0.5), Some(3))].map(
            |(softcap, window)| {
                let plain = AttentionShape::plain(HEADS);
                let attention = AttentionShape { softcap, window, ..plain };
                CacheShape { attention, capacity: 150, reach: 150 }
            },
        )
    }

    /// A cache of three slots full of random values, and one query row for each.
    fn input(shape: CacheShape) -> (Vec<f32>, Vec<f32>) {
        (random(1, 3 * shape.slot_len()), random(2, 3 * HEADS.qkv_width()))
    }

    #[test]
    fn agrees_with_the_reference_at_unequal_lengths() {
        for shape in shapes() {
            let (cache, qkv) = input(shape);
            let [mut fast, mut plain] = [(); 2].map(|()| vec![f32::NAN; 3 * 80]);
            let (slots, positions) = ([2, 0, 1], [0, 149, 63]);
            attend(&mut fast, &qkv, &cache, &slots, &positions, shape);
            reference::attend(&mut plain, &qkv, &cache, &slots, &positions, shape);
            assert_close(&fast, &plain, 1e-5);
        }
    }

    #[test]
    fn what_is_stored_is_attended_to_as_in_training() {
        for shape in shapes() {
            let qkv = random(3, 100 * HEADS.qkv_width());
            let mut cache = vec![f32::NAN; 2 * shape.slot_len()];
            let positions: Vec<u32> = (0..100).collect();
            store(&mut cache, &qkv, &[1; 100], &positions, shape);
            let (mut expected, mut log_sums) = (vec![0.0; 100 * 80], vec![0.0; 400]);
            attention::forward(&mut expected, &mut log_sums, &qkv, &[0, 100], shape.attention);
            let mut found = vec![0.0; 80];
            attend(&mut found, &qkv[99 * HEADS.qkv_width()..], &cache, &[1], &[99], shape);
            assert_close(&found, &expected[99 * 80..], 1e-5);
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_others_or_on_threads() {
        for shape in shapes() {
            let (cache, qkv) = input(shape);
            let run = |rows: std::ops::Range<usize>| {
                let mut out = vec![0.0; rows.len() * 80];
                let (slots, positions) = ([2, 0, 1], [80, 149, 63]);
                let qkv = &qkv[rows.start * HEADS.qkv_width()..];
                attend(&mut out, qkv, &cache, &slots[rows.clone()], &positions[rows], shape);
                bits(&out)
            };
            let all = on_threads(1, || run(0..3));
            assert_eq!(all, on_threads(2, || run(0..3)));
            assert_eq!(run(1..2), all[80..160]);
            assert_eq!(run(1..3), all[80..]);
        }
    }
}
