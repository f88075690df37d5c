//! Tensors as files have them, little-endian f32, f16 or bf16, and their way into f32. A backend
//! that computes in another type takes the bytes as they are.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

/// A tensor's values in a file.
#[derive(Debug, Clone, Copy)]
pub struct Stored<'a> {
    /// Their type.
    pub kind: StoredKind,
    /// Little-endian.
    pub bytes: &'a [u8],
}

/// Types of values in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredKind {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
}

impl StoredKind {
    /// Bytes of a value.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// Values that one task converts.
const BLOCK: usize = 1 << 16;

/// Some tensors one after the other, as f32.
#[must_use]
pub fn to_f32(parts: &[Stored]) -> Vec<f32> {
    let len = parts.iter().map(|part| part.bytes.len() / part.kind.size()).sum();
    let mut values = vec![0.0; len];
    let mut rest = &mut values[..];
    for Stored { kind, bytes } in parts {
        let (these, after) = rest.split_at_mut(bytes.len() / kind.size());
        let convert = match kind {
            StoredKind::F32 => from_f32,
            StoredKind::F16 => from_f16,
            StoredKind::Bf16 => from_bf16,
        };
        let blocks = these.par_chunks_mut(BLOCK).zip(bytes.par_chunks(BLOCK * kind.size()));
        blocks.for_each(|(values, bytes)| convert(bytes, values));
        rest = after;
    }
    values
}

fn from_f32(bytes: &[u8], values: &mut [f32]) {
    for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
        *value = f32::from_le_bytes(*bytes);
    }
}

fn from_bf16(bytes: &[u8], values: &mut [f32]) {
    for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
        *value = bf16::from_le_bytes(*bytes).to_f32();
    }
}

fn from_f16(bytes: &[u8], values: &mut [f32]) {
    let halves: Vec<f16> =
        bytes.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes)).collect();
    halves.convert_to_f32_slice(values);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_every_type_come_out_one_after_the_other() {
        let exact = [1.5f32, -0.25, 3.0e-5, 65504.0];
        let single: Vec<u8> = exact.iter().flat_map(|x| x.to_le_bytes()).collect();
        let half: Vec<u8> = exact.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
        let brain: Vec<u8> = exact.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect();
        let parts = [
            Stored { kind: StoredKind::Bf16, bytes: &brain },
            Stored { kind: StoredKind::F32, bytes: &single },
            Stored { kind: StoredKind::F16, bytes: &half },
        ];
        let found = to_f32(&parts);
        let rounded = exact.map(|x| bf16::from_f32(x).to_f32());
        let halved = exact.map(|x| f16::from_f32(x).to_f32());
        assert_eq!(found, [rounded, exact, halved].concat());
        assert_eq!([rounded[1], halved[3]], [-0.25, 65504.0]);
    }
}
