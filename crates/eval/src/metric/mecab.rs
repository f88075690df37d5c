//! Japanese words by a MeCab dictionary: the cheapest path through the lattice of dictionary words and unknown ones (Kudo et al. 2004).
//!
//! In goes the folder of a compiled dictionary (UniDic, IPADIC …), out come MeCab 0.996's words (`-O wakati`). The files: `sys.dic` and
//! `unk.dic` (a header, a double array over UTF-8 bytes, tokens), `matrix.bin` (connection costs), `char.bin` (character categories).

use std::path::Path;

use anyhow::Result;
use artifact::error::input_error;
use artifact::{bail_user, hash};

/// Why there is no score where a dictionary is needed and none was given.
pub const NO_DICTIONARY: &str = "Japanese is segmented by a MeCab dictionary, and none is given: name its folder by `mecab` (--mecab)";

/// MeCab's largest number of characters in a run that is taken as one unknown word.
const LONGEST_RUN: usize = 24;

/// A compiled dictionary.
#[derive(Debug)]
pub struct Dictionary {
    words: Lexicon,
    /// Tokens of unknown words by category.
    unknown: Vec<Vec<Token>>,
    matrix: Matrix,
    categories: Vec<Category>,
    identity: String,
}

/// Words by their bytes.
#[derive(Debug)]
struct Lexicon {
    bytes: Vec<u8>,
    double_array: std::ops::Range<usize>,
    tokens: std::ops::Range<usize>,
}

/// One entry: its context on either side, and its cost.
#[derive(Clone, Copy, Debug)]
struct Token {
    left: u16,
    right: u16,
    cost: i16,
}

#[derive(Debug)]
struct Matrix {
    costs: Vec<i16>,
    rows: usize,
}

/// What a character is: the set of its categories, the one it counts as, and how unknown words are made of it.
#[derive(Clone, Copy, Debug)]
struct Category {
    kinds: u32,
    default: usize,
    length: usize,
    group: bool,
    invoke: bool,
}

/// A word that may stand somewhere in the text.
struct Node {
    start: usize,
    end: usize,
    token: Token,
    cost: i64,
    before: Option<usize>,
}

impl Dictionary {
    /// Reads a folder. UTF-8 dictionaries only.
    pub fn read(folder: &Path) -> Result<Dictionary> {
        let file = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).map_err(|error| input_error(&path, &error))
        };
        let broken = |name: &str| {
            artifact::error::user(format!(
                "{}: not a file of a compiled MeCab dictionary in UTF-8",
                folder.join(name).display()
            ))
        };
        let (system, characters) = (file("sys.dic")?, file("char.bin")?);
        let matrix = Matrix::new(&file("matrix.bin")?).ok_or_else(|| broken("matrix.bin"))?;
        let (names, categories) = categories(&characters).ok_or_else(|| broken("char.bin"))?;
        let digest = hash::hash_bytes(&system);
        let words = Lexicon::new(system).ok_or_else(|| broken("sys.dic"))?;
        let unknown_words = Lexicon::new(file("unk.dic")?).ok_or_else(|| broken("unk.dic"))?;
        let unknown: Vec<Vec<Token>> =
            names.iter().map(|name| unknown_words.exactly(name)).collect();
        if unknown.iter().any(Vec::is_empty)
            || categories.iter().any(|c| c.default >= unknown.len())
        {
            bail_user!(
                "{}: a category of char.bin has no unknown word",
                folder.join("unk.dic").display()
            );
        }
        let identity = format!("mecab-{}", digest.chars().take(12).collect::<String>());
        Ok(Dictionary { words, unknown, matrix, categories, identity })
    }

    /// `mecab-` and the beginning of the hash of its words.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Calls `emit` with each word of a text without white space at its end.
    pub fn words(&self, text: &str, mut emit: impl FnMut(&str)) {
        let mut nodes: Vec<Node> = Vec::new();
        // by place: the words that end there, the last found first
        let mut ends: Vec<Vec<usize>> = vec![Vec::new(); text.len() + 1];
        for at in 0..text.len() {
            if at > 0 && ends[at].is_empty() {
                continue;
            }
            for (start, end, token) in self.candidates(text, at) {
                let (before, cost) = self.connect(&nodes, &ends[at], token.left, at == 0);
                ends[end].push(nodes.len());
                let cost = cost + i64::from(token.cost);
                nodes.push(Node { start, end, token, cost, before });
            }
        }
        let (last, _) = self.connect(&nodes, &ends[text.len()], 0, text.is_empty());
        let way = std::iter::successors(last, |&at| nodes[at].before);
        let mut path: Vec<usize> = way.collect();
        path.reverse();
        path.into_iter().for_each(|at| emit(&text[nodes[at].start..nodes[at].end]));
    }

    /// The cheapest of the nodes to stand before a left context, and its cost; the text's beginning costs nothing.
    fn connect(
        &self,
        nodes: &[Node],
        ending: &[usize],
        left: u16,
        first: bool,
    ) -> (Option<usize>, i64) {
        if first {
            return (None, i64::from(self.matrix.cost(0, left)));
        }
        let cost =
            |&at: &usize| nodes[at].cost + i64::from(self.matrix.cost(nodes[at].token.right, left));
        // MeCab looks at the last found first, and takes the first of equals
        let best = ending.iter().rev().map(|at| (cost(at), *at)).min_by_key(|(cost, _)| *cost);
        best.map_or((None, i64::MAX / 4), |(cost, at)| (Some(at), cost))
    }

    /// The words that may stand at a place, behind the spaces there: those of the dictionary, and unknown ones where the category of
    /// the first character wants them or there are no others. In MeCab's order, which is the reverse of their making.
    fn candidates(&self, text: &str, at: usize) -> Vec<(usize, usize, Token)> {
        let space = self.category(' ');
        let spaces = text[at..].chars().take_while(|&c| space.kinds & self.category(c).kinds != 0);
        let start = at + spaces.map(char::len_utf8).sum::<usize>();
        let mut found = self.words.prefixes(&text.as_bytes()[start..], start);
        if let Some(first) = text[start..].chars().next() {
            let category = self.category(first);
            if found.is_empty() || category.invoke {
                let tokens = &self.unknown[category.default];
                let ends = self.unknown_ends(&text[start..], category, found.is_empty());
                let nodes = ends
                    .into_iter()
                    .flat_map(|end| tokens.iter().map(move |token| (start, start + end, *token)));
                found.extend(nodes);
            }
        }
        found.reverse();
        found
    }

    /// Lengths of the unknown words at the beginning of a text: the whole run of its category, and its first characters.
    fn unknown_ends(&self, text: &str, first: Category, alone: bool) -> Vec<usize> {
        let mut ends = Vec::new();
        let first_end = text.chars().next().map_or(0, char::len_utf8);
        let mut run_end = None;
        if first.group {
            let (mut end, mut length, mut before) = (first_end, 0, first);
            for c in text[first_end..].chars() {
                let category = self.category(c);
                if before.kinds & category.kinds == 0 {
                    break;
                }
                (end, length, before) = (end + c.len_utf8(), length + 1, category);
            }
            if length <= LONGEST_RUN {
                ends.push(end);
            }
            run_end = Some(end);
        }
        let mut end = first_end;
        for _ in 0..first.length {
            if run_end != Some(end) {
                ends.push(end);
                let next = text[end..]
                    .chars()
                    .next()
                    .filter(|&c| first.kinds & self.category(c).kinds != 0);
                let Some(next) = next else { break };
                end += next.len_utf8();
            }
        }
        if ends.is_empty() && alone {
            ends.push(end);
        }
        ends
    }

    /// A character's category; those beyond the basic plane have that of the zero character.
    fn category(&self, c: char) -> Category {
        let code = u32::from(c) as usize;
        self.categories[if code < self.categories.len() { code } else { 0 }]
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// `char.bin`: the categories' names, and the category of each character of the basic plane but the last.
fn categories(bytes: &[u8]) -> Option<(Vec<String>, Vec<Category>)> {
    let count = number(bytes, 0)? as usize;
    let table = 4 + 32 * count;
    if bytes.len() != table + 4 * 0xFFFF {
        return None;
    }
    let name = |at: usize| {
        let name = &bytes[4 + 32 * at..36 + 32 * at];
        String::from_utf8_lossy(name.split(|&b| b == 0).next().unwrap_or_default()).into_owned()
    };
    let category = |code: usize| {
        let bits = number(bytes, table + 4 * code)?;
        Some(Category {
            kinds: bits & 0x3_FFFF,
            default: (bits >> 18 & 0xFF) as usize,
            length: (bits >> 26 & 0xF) as usize,
            group: bits >> 30 & 1 == 1,
            invoke: bits >> 31 == 1,
        })
    };
    Some(((0..count).map(name).collect(), (0..0xFFFF).map(category).collect::<Option<_>>()?))
}

impl Matrix {
    fn new(bytes: &[u8]) -> Option<Matrix> {
        let (rows, columns) = (usize::from(short(bytes, 0)?), usize::from(short(bytes, 2)?));
        if bytes.len() != 4 + 2 * rows * columns {
            return None;
        }
        let costs = bytes[4..].chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]]));
        Some(Matrix { costs: costs.collect(), rows })
    }

    /// The cost of a word with this right context before one with this left context.
    fn cost(&self, right: u16, left: u16) -> i16 {
        self.costs
            .get(usize::from(right) + self.rows * usize::from(left))
            .copied()
            .unwrap_or(i16::MAX)
    }
}

impl Lexicon {
    fn new(bytes: Vec<u8>) -> Option<Lexicon> {
        const HEADER: usize = 72; // ten numbers and the character set's name
        let size = |at: usize| number(&bytes, at).map(|size| size as usize);
        let (array, tokens) = (size(24)?, size(28)?);
        let charset = String::from_utf8_lossy(bytes.get(40..HEADER)?).to_lowercase();
        let utf8 = matches!(charset.trim_end_matches('\0'), "utf-8" | "utf8" | "utf_8");
        let whole = number(&bytes, 0)? ^ 0xEF71_8F77 == bytes.len() as u32;
        let tokens = HEADER + array..HEADER + array + tokens;
        if !utf8 || !whole || tokens.end > bytes.len() {
            return None;
        }
        Some(Lexicon { double_array: HEADER..HEADER + array, tokens, bytes })
    }

    /// Base and check of a cell.
    fn cell(&self, at: usize) -> Option<(i32, u32)> {
        let at = self.double_array.start + 8 * at;
        let inside = at + 8 <= self.double_array.end;
        Some((number(&self.bytes, at)? as i32, number(&self.bytes, at + 4)?)).filter(|_| inside)
    }

    /// The words that a text begins with, as (start, end, token) with `start` for the text's beginning, short before long.
    fn prefixes(&self, text: &[u8], start: usize) -> Vec<(usize, usize, Token)> {
        let mut found = Vec::new();
        self.walk(text, |length, tokens| {
            found.extend(tokens.into_iter().map(|token| (start, start + length, token)))
        });
        found
    }

    /// The tokens of just this word.
    fn exactly(&self, word: &str) -> Vec<Token> {
        let mut found = Vec::new();
        self.walk(word.as_bytes(), |length, tokens| {
            if length == word.len() {
                found = tokens;
            }
        });
        found
    }

    /// Calls `word` with the length and tokens of each word on the way through the double array.
    fn walk(&self, text: &[u8], mut word: impl FnMut(usize, Vec<Token>)) {
        let Some((mut base, _)) = self.cell(0) else { return };
        for length in 0..=text.len() {
            let here = base as u32;
            if let Some((value, check)) = self.cell(here as usize)
                && check == here
                && value < 0
                && length > 0
            {
                word(length, self.tokens((-value - 1) as usize));
            }
            let Some(byte) = text.get(length) else { return };
            match self.cell(here as usize + usize::from(*byte) + 1) {
                Some((next, check)) if check == here => base = next,
                _ => return,
            }
        }
    }

    /// The tokens of a word's value: how many in its last byte, the first one's number in the others.
    fn tokens(&self, value: usize) -> Vec<Token> {
        let token = |number: usize| {
            let at = self.tokens.start + 16 * number;
            let field = |offset: usize| {
                short(&self.bytes, at + offset).filter(|_| at + 16 <= self.tokens.end)
            };
            Some(Token { left: field(0)?, right: field(2)?, cost: field(6)? as i16 })
        };
        let first = value >> 8;
        (first..first + (value & 0xFF)).filter_map(token).collect()
    }
}
