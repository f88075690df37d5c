//! Thai words by PyThaiNLP's `newmm`: the path of fewest dictionary words through a text that breaks only between character clusters
//! (TCC, Theeramunkong et al. 2000).
//!
//! The dictionary is PyThaiNLP 5.4's `words_th.txt` (CC0), `data/thai_words.txt.zst`: 62,106 words in order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::LazyLock;

static WORDS: LazyLock<Vec<Vec<char>>> = LazyLock::new(|| {
    let packed = include_bytes!("../../../data/thai_words.txt.zst");
    let text = zstd::decode_all(&packed[..]).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().map(|word| word.chars().collect()).collect()
});

/// Beyond this many edges the search goes on with what it has.
const GRAPH: usize = 50;

/// Calls `emit` with each word of a cleaned text; a run of spaces is one.
pub fn words(clean: &str, mut emit: impl FnMut(&str)) {
    let text: Vec<char> = clean.chars().collect();
    for (start, end) in cut(&text) {
        emit(&text[start..end].iter().collect::<String>());
    }
}

fn cut(text: &[char]) -> Vec<(usize, usize)> {
    let breaks = breaks(text);
    let mut words = Vec::new();
    let mut graph: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let (mut edges, mut done) = (0, 0);
    let mut open = BTreeSet::from([0]); // places that a word may start at
    while let Some(start) = open.pop_first().filter(|&start| start < text.len()) {
        for end in prefixes(text, start).into_iter().filter(|&end| breaks[end]) {
            graph.entry(start).or_default().push(end);
            edges += 1;
            open.insert(end);
            if edges > GRAPH {
                break;
            }
        }
        let path = match (open.len(), open.first()) {
            (1, Some(&goal)) => shortest(&graph, done, goal),
            (0, _) => vec![unknown(text, start, &breaks)],
            _ => continue,
        };
        open.extend(path.last());
        (edges, graph) = (0, BTreeMap::new());
        for end in path {
            words.push((done, end));
            done = end;
        }
    }
    words
}

/// The ends of the dictionary's words that start here, ascending.
fn prefixes(text: &[char], start: usize) -> Vec<usize> {
    let words = &WORDS[..];
    let (mut low, mut high) = (0, words.len());
    let mut ends = Vec::new();
    for (depth, &c) in text[start..].iter().enumerate() {
        // of the words with the same beginning, the one that is no longer comes first
        let at = |word: &Vec<char>| word.get(depth).copied();
        let first = low + words[low..high].partition_point(|word| at(word) < Some(c));
        high = low + words[low..high].partition_point(|word| at(word) <= Some(c));
        low = first;
        if low == high {
            break;
        }
        if words[low].len() == depth + 1 {
            ends.push(start + depth + 1);
        }
    }
    ends
}

/// The ends of the words on the first shortest way from `start` to `goal`.
fn shortest(graph: &BTreeMap<usize, Vec<usize>>, start: usize, goal: usize) -> Vec<usize> {
    let mut from = BTreeMap::from([(start, start)]);
    let mut queue = VecDeque::from([start]);
    while let Some(at) = queue.pop_front().filter(|_| !from.contains_key(&goal)) {
        for &end in graph.get(&at).into_iter().flatten() {
            from.entry(end).or_insert_with(|| {
                queue.push_back(end);
                at
            });
        }
    }
    let back = std::iter::successors(Some(goal), |at| from.get(at).copied());
    let mut path: Vec<usize> = back.take_while(|&at| at != start).collect();
    path.reverse();
    path
}

/// Where a word ends that is not in the dictionary.
fn unknown(text: &[char], start: usize, breaks: &[bool]) -> usize {
    if let Some(end) = foreign(text, start) {
        return end;
    }
    let short =
        |at: usize, end: usize| end - at <= 2 && text[at..end].iter().all(|&c| is_consonant(c));
    let starts_word = |at: usize| {
        let known = prefixes(text, at).into_iter().any(|end| breaks[end] && !short(at, end));
        known || foreign(text, at).is_some()
    };
    (start + 1..text.len()).find(|&at| breaks[at] && starts_word(at)).unwrap_or(text.len())
}

/// The end of a run of Latin letters, a number, spaces, or other characters that are not Thai.
fn foreign(text: &[char], start: usize) -> Option<usize> {
    let run = |belongs: &dyn Fn(char) -> bool| {
        let length = text[start..].iter().take_while(|&&c| belongs(c)).count();
        (length > 0).then_some(start + length)
    };
    run(&|c| c == '-' || c.is_ascii_alphabetic())
        .or_else(|| run(&|c| super::super::number::digit(c).is_some()))
        .or_else(|| run(&|c| c == ' '))
        .or_else(|| run(&|c| !matches!(c, '\u{E00}'..='\u{E7F}' | ' ')))
}

fn is_consonant(c: char) -> bool {
    matches!(c, 'ก'..='ฮ')
}

/// Where a word may end: behind a character cluster. One flag a place, the text's end included.
fn breaks(text: &[char]) -> Vec<bool> {
    let mut breaks = vec![false; text.len() + 1];
    let mut at = 0;
    while at < text.len() {
        at = CLUSTERS.iter().find_map(|rule| matched(rule, text, at)).unwrap_or(at + 1);
        breaks[at] = true;
    }
    breaks
}

/// A part of a cluster's rule.
#[derive(Clone, Copy)]
enum Is {
    /// This character.
    Just(char),
    /// This character, or nothing.
    Maybe(char),
    /// One of these.
    OneOf(&'static str),
    /// One of these, or nothing.
    MaybeOneOf(&'static str),
    /// A character from the first to the last.
    Range(char, char),
    /// A consonant.
    Consonant,
    /// A tone mark, or nothing.
    Tone,
    /// A silenced consonant or two, or nothing.
    Silenced,
    /// Before a consonant, a leading vowel or the end.
    Ahead,
}

use Is::{Ahead, Consonant as C, Just, Maybe, MaybeOneOf, OneOf, Range, Silenced as K, Tone as T};

/// The clusters, the first that fits taken (PyThaiNLP's `tcc_p`).
const CLUSTERS: &[&[Is]] = &[
    &[Just('เ'), C, Just('็'), C, K],
    &[Just('เ'), C, C, T, Just('า'), Just('ะ'), K],
    &[Just('เ'), C, C, Just('ี'), T, Just('ย'), Just('ะ'), K],
    &[Just('เ'), C, C, Just('ี'), T, Just('ย'), Ahead, K],
    &[Just('เ'), C, C, Just('็'), C, K],
    &[Just('เ'), C, Just('ิ'), C, Just('์'), C, K],
    &[Just('เ'), C, Just('ิ'), T, C, K],
    &[Just('เ'), C, Just('ี'), T, Just('ย'), Maybe('ะ'), K],
    &[Just('เ'), C, Just('ื'), T, Just('อ'), Maybe('ะ'), K],
    &[Just('เ'), C, OneOf("ิีุู"), T, Just('ย'), Ahead, K],
    &[Just('เ'), C, T, Maybe('า'), Maybe('ะ'), K],
    &[C, Just('ั'), T, Just('ว'), Just('ะ'), K],
    &[C, OneOf("ัื"), T, C, MaybeOneOf("ุิะ"), K],
    &[C, OneOf("ิุู"), Just('์')],
    &[C, Range('ะ', 'ู'), T, K],
    &[C, Just('ร'), Just('ร'), C, Just('์')],
    &[C, Just('็')],
    &[C, T, MaybeOneOf("ะาำ"), K],
    &[C, K],
    &[Just('แ'), C, Just('็'), C],
    &[Just('แ'), C, C, Just('์')],
    &[Just('แ'), C, T, Just('ะ')],
    &[Just('แ'), C, C, Just('็'), C],
    &[Just('แ'), C, C, C, Just('์')],
    &[Just('โ'), C, T, Just('ะ')],
    &[Range('เ', 'ไ'), C, T],
    &[Just('ก'), Just('็')],
    &[Just('อ'), Just('ึ')],
    &[Just('ห'), Just('ึ')],
];

/// Where a rule's match at `at` ends. What may be absent is taken if the rest of the rule fits then.
fn matched(rule: &[Is], text: &[char], at: usize) -> Option<usize> {
    let Some((first, rest)) = rule.split_first() else { return Some(at) };
    let here = text.get(at).copied();
    let one = |fits: bool| if fits { matched(rest, text, at + 1) } else { None };
    let is = |set: &str| here.is_some_and(|c| set.contains(c));
    let tone = || here.is_some_and(|c| matches!(c, '่'..='๋'));
    match *first {
        Just(c) => one(here == Some(c)),
        OneOf(set) => one(is(set)),
        Range(low, high) => one(here.is_some_and(|c| (low..=high).contains(&c))),
        C => one(here.is_some_and(is_consonant)),
        Maybe(c) => one(here == Some(c)).or_else(|| matched(rest, text, at)),
        MaybeOneOf(set) => one(is(set)).or_else(|| matched(rest, text, at)),
        T => one(tone()).or_else(|| matched(rest, text, at)),
        K => silenced(text, at)
            .and_then(|end| matched(rest, text, end))
            .or_else(|| matched(rest, text, at)),
        Ahead => {
            let ahead = here.is_none_or(|c| is_consonant(c) || matches!(c, 'เ'..='ไ'));
            if ahead { matched(rest, text, at) } else { None }
        }
    }
}

/// The end of one or two consonants with a low vowel or ิ or nothing behind them, and the killer on them.
fn silenced(text: &[char], at: usize) -> Option<usize> {
    let consonant = |at: usize| text.get(at).is_some_and(|&c| is_consonant(c));
    if !consonant(at) {
        return None;
    }
    let tail = |at: usize| {
        let vowel = usize::from(text.get(at).is_some_and(|c| "ูุิ".contains(*c)));
        (text.get(at + vowel) == Some(&'์')).then_some(at + vowel + 1)
    };
    (if consonant(at + 1) { tail(at + 2) } else { None }).or_else(|| tail(at + 1))
}
