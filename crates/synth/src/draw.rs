//! Which items a split gets. Each schema's items are shuffled once by a fixed key and cut into regions, one a split; a seed
//! then walks its own way through the region. So items are unique without a record of what was drawn, a larger draw holds a
//! smaller one, and no seed or size moves an item from one split to another.
//!
//! The shuffle is a Feistel network with cycle walking (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002).

use anyhow::Result;
use artifact::bail_user;

use crate::world::{Schema, World};

/// A part of a schema's items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    Train,
    Validation,
    Test,
    /// Items whose question may stand in the text for language modelling.
    Text,
}

impl Split {
    /// As in the `split` column; text is training data.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train | Self::Text => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }

    /// Its share of a schema's shuffled items, in percent from and to.
    fn share(self) -> (u64, u64) {
        match self {
            Self::Test => (0, 20),
            Self::Validation => (20, 30),
            Self::Train => (30, 80),
            Self::Text => (80, 100),
        }
    }
}

/// One item of a schema: all that every language needs to say it.
#[derive(Debug)]
pub struct Item<'a> {
    pub schema: &'a Schema,
    pub index: u64,
    /// Keys of the words, one for each slot.
    pub words: Vec<&'a str>,
    pub numbers: &'a [u8],
}

impl Item<'_> {
    /// The same content has the same identity, whatever the seed.
    pub fn id(&self) -> String {
        format!("{}-{}-{}", self.schema.task, self.schema.name, self.index)
    }
}

/// `count` items of a task, the schemas taking turns; a schema that has no more is passed over.
///
/// # Errors
/// A user error if the split has fewer items.
pub fn items<'a>(
    world: &'a World,
    task: &str,
    split: Split,
    count: usize,
    seed: u64,
) -> Result<Vec<Item<'a>>> {
    let schemas: Vec<&Schema> = world.schemas.iter().filter(|schema| schema.task == task).collect();
    let have: u64 = schemas.iter().map(|schema| region(schema, split).1).sum();
    if have < count as u64 {
        bail_user!("synth: {task} has {have} {} items, but {count} are asked for", split.name());
    }
    let mut items = Vec::with_capacity(count);
    let mut turn = 0;
    while items.len() < count {
        let left = schemas
            .iter()
            .filter(|schema| turn < region(schema, split).1)
            .take(count - items.len());
        items.extend(left.map(|schema| item(schema, split, turn, seed)));
        turn += 1;
    }
    Ok(items)
}

/// The item at `turn` in the seed's way through the split; wraps around.
pub fn item<'a>(schema: &'a Schema, split: Split, turn: u64, seed: u64) -> Item<'a> {
    let (start, length) = region(schema, split);
    let place = start + permute(turn % length.max(1), length, &key("seed", schema, seed));
    let index = permute(place, schema.size(), &key("world", schema, 0));
    let (words, numbers) = schema.decode(index);
    Item { schema, index, words, numbers }
}

/// Start and length of the split's part. Sentences for language modelling are not split.
pub fn region(schema: &Schema, split: Split) -> (u64, u64) {
    if split == Split::Text && crate::world::TEXTS.contains(&schema.task.as_str()) {
        return (0, schema.size());
    }
    let (from, to) = split.share();
    let bound = |percent: u64| schema.size() / 100 * percent + schema.size() % 100 * percent / 100;
    (bound(from), bound(to) - bound(from))
}

fn key(purpose: &str, schema: &Schema, seed: u64) -> [u64; 4] {
    let mut hasher = blake3::Hasher::new_derive_key("isogloss synth 2026 order of items");
    hasher.update(format!("{purpose}\0{}\0{seed}", schema.title()).as_bytes());
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(hasher.finalize().as_bytes().chunks_exact(8)) {
        *word = bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    }
    words
}

/// A bijection on `0..size`: four Feistel rounds on the next even number of bits, repeated until the value falls below `size`.
pub fn permute(value: u64, size: u64, key: &[u64; 4]) -> u64 {
    if size < 2 {
        return value;
    }
    let half = (64 - (size - 1).leading_zeros()).div_ceil(2);
    let mask = (1 << half) - 1;
    let mut value = value;
    loop {
        let (mut left, mut right) = (value >> half, value & mask);
        for round in key {
            (left, right) = (right, left ^ (mix(right ^ round) & mask));
        }
        value = left << half | right;
        if value < size {
            return value;
        }
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
pub fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

/// A stream of draws named by a label.
pub struct Stream {
    state: u64,
}

impl Stream {
    pub fn new(label: &str, seed: u64) -> Self {
        let hash = blake3::hash(format!("{label}\0{seed}").as_bytes());
        Self {
            state: hash
                .as_bytes()
                .iter()
                .take(8)
                .fold(0, |word, byte| word << 8 | u64::from(*byte)),
        }
    }

    /// A number below `bound`; the bias is below 2^-32 for the small bounds here.
    pub fn below(&mut self, bound: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (mix(self.state) % bound.max(1) as u64) as usize
    }
}
