//! The leakage guard: no test item, in any language, may be trained or validated on.
//!
//! A row leaks if a test row has its `item_id`, or shares a run of n words with it (n-gram
//! overlap, Brown et al. 2020, appendix C), or if a translation of it does. Scripts written without
//! spaces are compared by characters, two of which weigh as much as a word.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    iter::successors,
};

use anyhow::Result;
use artifact::{
    Context, Example,
    example::frame_to_examples,
    polars::prelude::{Column, DataFrame, NamedFrom, Series},
};
use rayon::prelude::*;
use unicode_normalization::{
    IsNormalized, UnicodeNormalization, char::is_combining_mark, is_nfkc_quick,
};
use unicode_script::{Script, UnicodeScript};

use crate::{
    design::Leakage,
    pool::{Inputs, Pool, State},
};

/// Why a row was taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    ItemId,
    Ngram,
    Translation,
}

impl Reason {
    /// The value of the `reason` column of `leaks`.
    pub fn name(self) -> &'static str {
        match self {
            Reason::ItemId => "item-id",
            Reason::Ngram => "n-gram",
            Reason::Translation => "n-gram of a translation",
        }
    }
}

/// A row of the pool that overlaps a test row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Leak {
    pub row: usize,
    pub test_example_id: String,
    pub reason: Reason,
}

/// What the test rows hold.
#[derive(Default)]
pub(crate) struct Guard {
    item_id: bool,
    ngram: usize,
    test_ids: Vec<String>,
    items: HashMap<String, u32>,
    ngrams: HashMap<u64, u32>,
}

impl Guard {
    pub fn new(settings: Leakage) -> Guard {
        Guard { item_id: settings.item_id, ngram: settings.ngram, ..Guard::default() }
    }

    /// How many test rows it knows.
    pub fn test_rows(&self) -> u64 {
        self.test_ids.len() as u64
    }

    /// Whether it was asked to do anything.
    pub fn is_on(&self) -> bool {
        self.item_id || self.ngram > 0
    }

    /// Takes up the test rows among these.
    pub fn learn(&mut self, examples: &[Example]) {
        let tests: Vec<&Example> =
            examples.iter().filter(|example| example.split == "test").collect();
        let prints: Vec<Vec<u64>> =
            tests.par_iter().map(|example| fingerprint(example, self.ngram)).collect();
        for (example, print) in tests.into_iter().zip(prints) {
            let test = self.test_ids.len() as u32;
            self.test_ids.push(example.example_id.clone());
            // Where two test rows share something the smaller id is named, whatever their order.
            let ids = &self.test_ids;
            keep_smaller(self.items.entry(example.item_id.clone()), test, ids);
            for hash in print {
                keep_smaller(self.ngrams.entry(hash), test, ids);
            }
        }
    }

    /// Marks the rows of the pool that leak, and lists them in the order of their ids.
    pub fn apply(&self, pool: &mut Pool, inputs: &Inputs, context: &Context) -> Result<Vec<Leak>> {
        let mut leaks: BTreeMap<usize, (u32, Reason)> = BTreeMap::new();
        if self.ngram > 0 && !self.ngrams.is_empty() {
            leaks.extend(self.overlaps(pool, inputs, context)?);
        }
        if self.item_id {
            let mut items: HashMap<&str, u32> = HashMap::new();
            for (&row, &(test, _)) in &leaks {
                keep_smaller(items.entry(&pool.rows[row].item_id), test, &self.test_ids);
            }
            for (index, row) in pool.rows.iter().enumerate() {
                if let Some(&test) = self.items.get(&row.item_id) {
                    leaks.insert(index, (test, Reason::ItemId));
                } else if let Some(&test) = items.get(row.item_id.as_str()) {
                    leaks.entry(index).or_insert((test, Reason::Translation));
                }
            }
        }
        let mut list = Vec::with_capacity(leaks.len());
        for (row, (test, reason)) in leaks {
            pool.rows[row].state = State::Leaked;
            list.push(Leak { row, test_example_id: self.test_ids[test as usize].clone(), reason });
        }
        list.sort_by(|a, b| pool.rows[a.row].example_id.cmp(&pool.rows[b.row].example_id));
        Ok(list)
    }

    /// The rows of the pool that share an n-gram with a test row. Reads the texts once more.
    fn overlaps(
        &self,
        pool: &Pool,
        inputs: &Inputs,
        context: &Context,
    ) -> Result<Vec<(usize, (u32, Reason))>> {
        let mut found = Vec::new();
        inputs.stream("leakage guard", context, |_, first, _, df| {
            let examples = frame_to_examples(&df)?;
            let start = pool.rows.partition_point(|row| row.number < first);
            let end = pool.rows.partition_point(|row| row.number < first + examples.len());
            found.par_extend(pool.rows[start..end].par_iter().enumerate().filter_map(
                |(offset, row)| {
                    let print = fingerprint(&examples[row.number - first], self.ngram);
                    let test = print.iter().find_map(|hash| self.ngrams.get(hash))?;
                    Some((start + offset, (*test, Reason::Ngram)))
                },
            ));
            Ok(())
        })?;
        Ok(found)
    }
}

fn keep_smaller<K>(entry: Entry<'_, K, u32>, test: u32, ids: &[String]) {
    match entry {
        Entry::Vacant(slot) => {
            slot.insert(test);
        }
        Entry::Occupied(mut slot) => {
            if ids[test as usize] < ids[*slot.get() as usize] {
                slot.insert(test);
            }
        }
    }
}

/// The `leaks` table.
pub(crate) fn leaks_to_frame(leaks: &[Leak], pool: &Pool) -> Result<DataFrame> {
    let column =
        |name: &str, values: Vec<&str>| -> Column { Series::new(name.into(), values).into() };
    Ok(DataFrame::new(
        leaks.len(),
        vec![
            column(
                "example_id",
                leaks.iter().map(|leak| pool.rows[leak.row].example_id.as_str()).collect(),
            ),
            column("lang", leaks.iter().map(|leak| &*pool.rows[leak.row].lang).collect()),
            column(
                "test_example_id",
                leaks.iter().map(|leak| leak.test_example_id.as_str()).collect(),
            ),
            column("reason", leaks.iter().map(|leak| leak.reason.name()).collect()),
        ],
    )?)
}

/// The hashes by which two rows are compared. A prompt too short for an n-gram is compared as a
/// whole; a short answer is not compared, because "42" answers many questions. The system message
/// is left out: it is the same for unrelated rows.
fn fingerprint(example: &Example, ngram: usize) -> Vec<u64> {
    let mut hashes = Vec::new();
    if ngram == 0 {
        return hashes;
    }
    let mut prompt = Vec::new();
    for message in &example.messages {
        match message.role.as_str() {
            "system" => {}
            "assistant" => hashes.extend(ngrams(&units(&message.content), ngram)),
            _ => prompt.extend(units(&message.content)),
        }
    }
    if let Some(reference) = &example.reference {
        hashes.extend(ngrams(&units(reference), ngram));
    }
    let before = hashes.len();
    hashes.extend(ngrams(&prompt, ngram));
    if hashes.len() == before && !prompt.is_empty() {
        hashes.push(!fold(&prompt));
    }
    hashes
}

/// A word, or a character of a script that is written without spaces.
#[derive(Clone, Copy)]
struct Unit {
    hash: u64,
    /// 2 for a word, 1 for a character: 13 words weigh as much as 26 characters, which is about
    /// as much text. (13 characters would be a person's title and name.)
    weight: usize,
}

/// The hash of every shortest run that weighs at least `ngram` words, one per start.
fn ngrams(units: &[Unit], ngram: usize) -> impl Iterator<Item = u64> {
    let next = move |&(start, end, weight): &(usize, usize, usize)| {
        // Drop the first unit of the last run, then take in units until it is heavy enough again.
        let weight = weight - units[start].weight;
        grow(units, start + 1, end, weight, ngram)
    };
    successors(grow(units, 0, 0, 0, ngram), next).map(|(start, end, _)| fold(&units[start..end]))
}

fn grow(
    units: &[Unit],
    start: usize,
    mut end: usize,
    mut weight: usize,
    ngram: usize,
) -> Option<(usize, usize, usize)> {
    while weight < 2 * ngram {
        weight += units.get(end)?.weight;
        end += 1;
    }
    Some((start, end, weight))
}

fn fold(units: &[Unit]) -> u64 {
    units.iter().fold(0, |hash, unit| mix(hash ^ unit.hash))
}

/// The finaliser of splitmix64 (Steele et al. 2014), which is a bijection.
fn mix(hash: u64) -> u64 {
    let hash = hash.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// Cuts a text into units after NFKC and lower case. White space separates words; punctuation and
/// symbols are dropped; digits stay, and so does an arithmetic sign after one (6 + 7 is not 6 × 7).
fn units(text: &str) -> Vec<Unit> {
    if is_nfkc_quick(text.chars()) == IsNormalized::Yes {
        cut(text.chars())
    } else {
        cut(text.nfkc())
    }
}

fn cut(text: impl Iterator<Item = char>) -> Vec<Unit> {
    const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;
    const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;
    let step = |hash: u64, c: char| (hash ^ u64::from(u32::from(c))).wrapping_mul(FNV_PRIME);
    let mut units = Vec::new();
    let mut word: Option<u64> = None;
    let mut after_digit = false;
    for c in text.flat_map(char::to_lowercase) {
        let alone = is_unspaced(c);
        if (alone || c.is_whitespace())
            && let Some(hash) = word.take()
        {
            units.push(Unit { hash: mix(hash), weight: 2 });
        }
        if alone {
            units.push(Unit { hash: mix(step(FNV_START, c)), weight: 1 });
        } else if c.is_alphanumeric()
            || is_combining_mark(c)
            || (after_digit && "+-−*/×÷=<>^%".contains(c))
        {
            word = Some(step(word.unwrap_or(FNV_START), c));
        }
        after_digit = c.is_numeric() || (after_digit && c.is_whitespace());
    }
    units.extend(word.map(|hash| Unit { hash: mix(hash), weight: 2 }));
    units
}

/// Whether the character belongs to a script that is written without spaces between words.
fn is_unspaced(c: char) -> bool {
    use Script::{Han, Hiragana, Katakana, Khmer, Lao, Myanmar, Thai, Tibetan};
    const LONG_VOWEL: char = 'ー'; // common to both kana
    // The first of these scripts in Unicode is Thai.
    c >= '\u{0e00}'
        && (c.is_alphanumeric() || is_combining_mark(c))
        && (c == LONG_VOWEL
            || matches!(
                c.script(),
                Han | Hiragana | Katakana | Khmer | Lao | Myanmar | Thai | Tibetan
            ))
}

#[cfg(test)]
mod tests {
    use artifact::Message;

    use super::*;

    fn row(user: &str, assistant: &str) -> Example {
        let message =
            |role: &str, content: &str| Message { role: role.into(), content: content.into() };
        Example {
            messages: vec![
                message(
                    "system",
                    "You are a kind and careful assistant that answers every question step by step in full.",
                ),
                message("user", user),
                message("assistant", assistant),
            ],
            ..Example::default()
        }
    }

    fn overlap(train: &Example, test: &Example) -> bool {
        let test = fingerprint(test, 13);
        fingerprint(train, 13).iter().any(|hash| test.contains(hash))
    }

    const TWELVE: &str = "one two three four five six seven eight nine ten eleven twelve";

    #[test]
    fn thirteen_words_in_a_row_overlap_and_twelve_do_not() {
        let test = row(&format!("Before it, {TWELVE} thirteen, and after it."), "");
        assert!(overlap(
            &row(&format!("Quite other words: {TWELVE} thirteen! More words."), ""),
            &test
        ));
        assert!(!overlap(
            &row(&format!("Quite other words: {TWELVE} fourteen! More words."), ""),
            &test
        ));
    }

    #[test]
    fn case_punctuation_and_compatibility_forms_do_not_hide_an_overlap() {
        let eleven = &TWELVE[..TWELVE.len() - " twelve".len()];
        let test = row(&format!("{eleven} café 1,000 extra"), "");
        let wide = eleven.to_uppercase().replace("TWO", "ＴＷＯ").replace(' ', ",  ");
        assert!(overlap(&row(&format!("so: {wide} CAFE\u{301} １０００"), ""), &test));
        assert!(
            !overlap(&row(&format!("so: {wide} CAFE\u{301} 1001"), ""), &test),
            "numbers count"
        );
    }

    #[test]
    fn an_answer_that_holds_the_test_reference_overlaps() {
        let test = Example { reference: Some(format!("{TWELVE} thirteen")), ..row("What?", "") };
        assert!(overlap(&row("Something else?", &format!("Well: {TWELVE} thirteen.")), &test));
    }

    #[test]
    fn short_prompts_compare_whole_and_short_answers_do_not() {
        let test = Example { reference: Some("42".into()), ..row("What is 6 × 7?", "") };
        assert!(overlap(&row("what is 6 × 7", "It is forty-two."), &test));
        assert!(!overlap(&row("What is 6 + 7?", "13"), &test));
        assert!(!overlap(&row("What is 40 + 2?", "42"), &test));
        assert!(!overlap(&row("Now say: what is 6 × 7?", "42"), &test));
    }

    #[test]
    fn scripts_without_spaces_compare_by_twice_as_many_characters() {
        // The first article of the Universal Declaration of Human Rights.
        let chinese =
            "人人生而自由在尊严和权利上一律平等他们赋有理性和良心并应以兄弟关系的精神相对待";
        let characters: Vec<char> = chinese.chars().collect();
        let piece = |length: usize| characters[2..2 + length].iter().collect::<String>();
        let test = row(chinese, "");
        assert!(overlap(&row(&format!("题目：{}。问", piece(26)), ""), &test));
        let other = "甲乙丙丁戊己庚辛壬癸子丑寅卯辰";
        assert!(!overlap(&row(&format!("{other}{}{other}", piece(25)), ""), &test));
        let thai = "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ";
        assert!(overlap(&row(&format!("ถาม {thai}"), ""), &row(thai, "")));
        assert_eq!(
            units("ケーキ 3個").iter().map(|unit| unit.weight).collect::<Vec<_>>(),
            [1, 1, 1, 2, 1]
        );
    }

    #[test]
    fn words_keep_their_marks() {
        assert_eq!(units("नमस्ते दुनिया").len(), 2, "a virama is part of the word");
        assert_eq!(units("می‌خواهم").len(), 1, "so is a zero-width non-joiner");
        assert!(units("… — !").is_empty());
    }
}
