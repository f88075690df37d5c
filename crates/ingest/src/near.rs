//! What duplicates are found by: hashes of ids and normalised texts, and MinHash (Broder 1997) in bands (locality-sensitive
//! hashing) over shingles: three words, or five characters in scripts that do not space their words.
//! Texts whose numbers differ share no band, so that two exercises on other figures are never near duplicates.

use artifact::Example;

use crate::config::Dedup;

/// 12 bands of 6: texts that share 0.8 of their shingles meet in some band with probability 0.97, those that share 0.5
/// with 0.17; what meets is then checked on the sketch.
pub(crate) const BANDS: usize = 12;
const ROWS: usize = 6;
pub(crate) const HASHES: usize = BANDS * ROWS;
/// Texts that share this part of their shingles (Jaccard) are near duplicates.
const SIMILAR: f64 = 0.8;
const WORDS: usize = 3;
const CHARACTERS: usize = 5;

/// The low bytes of a text's minima: equal in the part of the places that is the share of shingles in common.
pub(crate) type Sketch = [u8; HASHES];

/// What an example is compared by.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Print {
    /// Of an id that the data give; ids made from file and line are unique anyway.
    pub id: Option<u64>,
    pub exact: Option<u64>,
    pub near: Option<Near>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Near {
    pub bands: [u64; BANDS],
    pub sketch: Sketch,
}

impl Print {
    pub(crate) fn new(example: &Example, given_id: bool, dedup: Dedup) -> Print {
        // Duplicates are looked for within a language, task and split: the same text in train and test is a leak, which
        // mixing guards against, and not a duplicate.
        let stratum = [&example.lang, &example.task, &example.split]
            .iter()
            .fold(SEED, |hash, part| text_hash(hash, part));
        let near = dedup == Dedup::Near && example.split != "test";
        Print {
            id: given_id.then(|| text_hash(SEED, &example.example_id)),
            exact: (dedup != Dedup::Off).then(|| exact(example, stratum)),
            near: near.then(|| Near::new(texts(example), stratum)),
        }
    }
}

/// Whether two texts are near duplicates by their sketches. Bytes also agree by chance, once in 256.
pub(crate) fn similar(a: &Sketch, b: &Sketch) -> bool {
    let equal = a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / HASHES as f64;
    (equal - 1.0 / 256.0) / (1.0 - 1.0 / 256.0) >= SIMILAR
}

/// Everything said, and the reference where it says more.
fn texts(example: &Example) -> impl Iterator<Item = &str> {
    let said = example.messages.iter().map(|message| message.content.as_str());
    let reference = example
        .reference
        .as_deref()
        .filter(|text| example.messages.last().is_none_or(|last| last.content != *text));
    said.chain(reference)
}

/// The hash of a conversation, letter case and white space aside.
fn exact(example: &Example, stratum: u64) -> u64 {
    let mut hash = stratum;
    let roles = example.messages.iter().map(|message| message.role.as_str()).chain(["reference"]);
    for (role, text) in roles.zip(texts(example)) {
        hash = mix(text_hash(hash, role));
        let mut space = true;
        for c in text.chars().flat_map(char::to_lowercase) {
            if c.is_whitespace() {
                space = true;
                continue;
            }
            hash = step(if space { step(hash, b' '.into()) } else { hash }, c.into());
            space = false;
        }
    }
    mix(hash)
}

impl Near {
    fn new<'a>(texts: impl Iterator<Item = &'a str>, stratum: u64) -> Near {
        let (shingles, numbers) = shingles(texts);
        let mut minima = [u32::MAX; HASHES];
        for shingle in shingles {
            let shingle = (mix(shingle) >> 32) as u32;
            for (index, minimum) in minima.iter_mut().enumerate() {
                *minimum = (*minimum)
                    .min(shingle.wrapping_mul(FACTORS[index]).wrapping_add(OFFSETS[index]));
            }
        }
        let mut bands = [0; BANDS];
        for (index, (band, minima)) in bands.iter_mut().zip(minima.chunks(ROWS)).enumerate() {
            let start = step(step(stratum, numbers), index as u64);
            *band = mix(minima.iter().fold(start, |hash, minimum| step(hash, u64::from(*minimum))));
        }
        // The high byte would be zero nearly always: minima are small.
        let sketch = minima.map(|minimum| minimum as u8);
        Near { bands, sketch }
    }
}

/// The hashes of all shingles, and the hash of all numbers in their order.
fn shingles<'a>(texts: impl Iterator<Item = &'a str>) -> (Vec<u64>, u64) {
    let (mut tokens, mut numbers) = (Vec::new(), SEED);
    for text in texts {
        let (mut word, mut number) = (None, false);
        for c in text.chars() {
            if number && !c.is_numeric() {
                numbers = step(numbers, 0);
                number = false;
            }
            if is_unspaced(c) {
                tokens.extend(word.take().map(|hash| (hash, false)));
                tokens.push((step(SEED, c.into()), true));
            } else if c.is_alphanumeric() {
                if c.is_numeric() {
                    numbers = step(numbers, c.into());
                    number = true;
                }
                word = Some(
                    c.to_lowercase().fold(word.unwrap_or(SEED), |hash, c| step(hash, c.into())),
                );
            } else {
                tokens.extend(word.take().map(|hash| (hash, false)));
            }
        }
        tokens.extend(word.map(|hash| (hash, false)));
        numbers = step(numbers, 0);
    }
    let hash =
        |tokens: &[(u64, bool)]| tokens.iter().fold(SEED, |hash, (token, _)| step(hash, *token));
    let length = |at: usize| if tokens[at].1 { CHARACTERS } else { WORDS };
    let mut shingles: Vec<u64> =
        (0..tokens.len()).filter_map(|at| tokens.get(at..at + length(at))).map(hash).collect();
    if shingles.is_empty() {
        shingles.push(hash(&tokens));
    }
    (shingles, numbers)
}

/// Characters of scripts that put no space between words: each is a token.
fn is_unspaced(c: char) -> bool {
    matches!(c as u32,
        0x0E00..=0x0EFF // Thai, Lao
        | 0x1000..=0x109F | 0x1780..=0x17FF // Myanmar, Khmer
        | 0x3040..=0x30FF | 0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xF900..=0xFAFF | 0x20000..=0x3FFFF) // kana, Han
}

const SEED: u64 = 0x9E37_79B9_7F4A_7C15;

fn step(hash: u64, value: u64) -> u64 {
    (hash.rotate_left(5) ^ value).wrapping_mul(0x517C_C1B7_2722_0A95)
}

fn text_hash(start: u64, text: &str) -> u64 {
    mix(text.bytes().fold(step(start, text.len() as u64), |hash, byte| step(hash, byte.into())))
}

/// Spreads every bit over all others (the finaliser of SplitMix64).
const fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    hash ^ (hash >> 31)
}

/// Odd factors and offsets permute the shingle hashes; from a fixed seed.
static FACTORS: [u32; HASHES] = drawn(0, 1);
static OFFSETS: [u32; HASHES] = drawn(HASHES, 0);

const fn drawn(from: usize, low_bit: u32) -> [u32; HASHES] {
    let mut numbers = [0; HASHES];
    let mut index = 0;
    while index < HASHES {
        numbers[index] = (mix(SEED.wrapping_mul((from + index) as u64 + 1)) >> 32) as u32 | low_bit;
        index += 1;
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(text: &str) -> Near {
        Near::new([text].into_iter(), 0)
    }

    /// Words of one text with `changed` of them replaced, one by one from the front.
    fn words(count: usize, changed: usize) -> String {
        (0..count)
            .map(|i| {
                if i % 10 == 5 && i / 10 < changed {
                    format!("other{}", letters(i))
                } else {
                    letters(i)
                }
            })
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn letters(i: usize) -> String {
        let bits = mix(i as u64 + 1);
        (0..5).map(|k| char::from(b'a' + (bits >> (8 * k)) as u8 % 26)).collect()
    }

    fn meets(a: &Near, b: &Near) -> bool {
        a.bands.iter().zip(&b.bands).any(|(a, b)| a == b)
    }

    /// The exact Jaccard similarity of two texts' shingles.
    fn jaccard(a: &str, b: &str) -> f64 {
        let set = |text: &str| {
            shingles([text].into_iter()).0.into_iter().collect::<std::collections::BTreeSet<_>>()
        };
        let (a, b) = (set(a), set(b));
        a.intersection(&b).count() as f64 / a.union(&b).count() as f64
    }

    #[test]
    fn sketches_estimate_the_share_of_common_shingles() {
        let base = words(200, 0);
        for changed in [0, 2, 5, 10, 20] {
            let other = words(200, changed);
            let (a, b) = (near(&base).sketch, near(&other).sketch);
            let estimate = a.iter().zip(&b).filter(|(a, b)| a == b).count() as f64 / HASHES as f64;
            let exact = jaccard(&base, &other);
            // Four standard deviations of 72 draws.
            let tolerance = 4.0 * (exact * (1.0 - exact) / HASHES as f64).sqrt() + 0.02;
            assert!(
                (estimate - exact).abs() <= tolerance,
                "{changed} changed: {estimate} for {exact}"
            );
        }
    }

    #[test]
    fn near_texts_meet_in_a_band_and_far_ones_do_not() {
        let base = near(&words(200, 0));
        let close = near(&words(200, 2));
        assert!(meets(&base, &close) && similar(&base.sketch, &close.sketch));
        let far = near(&(300..500).map(letters).collect::<Vec<_>>().join(" "));
        assert!(!similar(&base.sketch, &far.sketch));
    }

    #[test]
    fn texts_with_other_numbers_never_meet() {
        let text = |n: u32| {
            format!(
                "Anna buys {n} boxes of apples at the market, gives half to her sister and eats the rest. {}",
                words(60, 0)
            )
        };
        assert!(meets(&near(&text(12)), &near(&text(12).to_uppercase())));
        assert!(!meets(&near(&text(12)), &near(&text(13))));
        assert!(!meets(
            &near("安娜在市场上买了十箱苹果，又买了3个梨子。"),
            &near("安娜在市场上买了十箱苹果，又买了4个梨子。")
        ));
    }

    #[test]
    fn unspaced_scripts_are_compared_by_characters() {
        let base = "翁每小时做保姆工作赚美元昨天她只做了五十分钟的保姆工作她赚了多少钱她打算用这些钱买一本关于园艺的新书送给妈妈";
        let close = near(&base.replacen("妈妈", "爸爸", 1));
        assert!(
            similar(&near(base).sketch, &near(&base.replace("她", " 她")).sketch),
            "spaces do not matter"
        );
        assert!(jaccard(base, &base.replacen("妈妈", "爸爸", 1)) > 0.9);
        assert!(meets(&near(base), &close));
    }
}
