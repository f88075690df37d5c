//! A fast path for byte-level BPE (GPT-2, Llama 3, Qwen, and what [`crate::bpe`] trains): the ids of Hugging Face's library at
//! several times its speed.
//!
//! The library carries an alignment of every character through every stage. Here a text is cut into added tokens and words by
//! the tokenizer's own pattern, each word is looked up, and only a word that was never met goes through the library's model. A
//! definition or a text that is not covered exactly (another normaliser, other lookaround) goes the long way.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{PoisonError, RwLock},
};

use regex::Regex;
use serde_json::{Value, json};
use tokenizers::Model as _;
use unicode_normalization::{IsNormalized, is_nfc_quick};

use crate::tokenizer::Encoded;

/// GPT-2's pattern, which `ByteLevel` stands for where it brings its own.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// How every pattern of this kind ends: spaces before a word, less the last one, which goes with the word.
const SPACES: &str = r"|\s+(?!\S)|\s+";

/// Parts that words are remembered in, so that threads seldom wait for each other.
const SHARDS: usize = 64;
/// Most words remembered in each, and the longest, in bytes.
const WORDS: usize = 1 << 14;
const LONGEST: usize = 128;

/// A word's ids, and where each begins in it.
type Word = Box<[(u32, u32)]>;

/// A tokenizer that is covered.
pub struct ByteLevel {
    /// Any added token, the longest first; none where there are none.
    added: Option<Regex>,
    added_ids: HashMap<String, u32>,
    rules: Rules,
    /// Each byte's character in the model's alphabet.
    alphabet: [char; 256],
    known: Vec<RwLock<HashMap<Box<[u8]>, Word>>>,
    state: RandomState,
}

/// What of a definition says that it is covered, and how it cuts a text.
pub struct Rules {
    /// Words other than spaces.
    words: Regex,
    is_nfc: bool,
}

impl Rules {
    /// Of a definition (`tokenizer.json`); `None` where it is not covered.
    pub fn of(json: &Value) -> Option<Self> {
        let model = &json["model"];
        let plain =
            |value: &Value| value.is_null() || *value == json!("") || *value == json!(false);
        let is_plain =
            ["continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "dropout"]
                .iter()
                .all(|name| plain(&model[*name]));
        let is_nfc = json["normalizer"]["type"] == "NFC";
        if model["type"] != "BPE" || !is_plain || !(is_nfc || json["normalizer"].is_null()) {
            return None;
        }
        let pattern = pattern(&json["pre_tokenizer"])?;
        Some(Self { words: Regex::new(pattern.strip_suffix(SPACES)?).ok()?, is_nfc })
    }
}

impl ByteLevel {
    /// With the tokenizer's added tokens; `None` where one of them is not covered.
    pub fn new(rules: Rules, tokenizer: &tokenizers::Tokenizer) -> Option<Self> {
        let mut added_ids = HashMap::new();
        for (id, token) in tokenizer.get_added_tokens_decoder() {
            if token.lstrip || token.rstrip || token.single_word || token.normalized {
                return None;
            }
            added_ids.insert(token.content, id);
        }
        let mut contents: Vec<&String> = added_ids.keys().collect();
        contents.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
        let any: Vec<String> = contents.iter().map(|content| regex::escape(content)).collect();
        let added = if any.is_empty() { None } else { Some(Regex::new(&any.join("|")).ok()?) };
        Some(Self {
            added,
            added_ids,
            rules,
            alphabet: alphabet(),
            known: (0..SHARDS).map(|_| RwLock::default()).collect(),
            state: RandomState::new(),
        })
    }

    /// Ids of a text; `None` where it must go the long way.
    pub fn encode(&self, text: &str, tokenizer: &tokenizers::Tokenizer) -> Option<Encoded> {
        if self.rules.is_nfc && !text.is_ascii() && is_nfc_quick(text.chars()) != IsNormalized::Yes
        {
            return None;
        }
        let mut out = Encoded::default();
        let mut done = 0;
        for found in self.added.iter().flat_map(|added| added.find_iter(text)) {
            self.segment(&text[done..found.start()], done, tokenizer, &mut out)?;
            out.ids.push(self.added_ids[found.as_str()]);
            out.starts.push(found.start());
            done = found.end();
        }
        self.segment(&text[done..], done, tokenizer, &mut out)?;
        Some(out)
    }

    /// Text without added tokens, which begins at `offset`.
    fn segment(
        &self,
        text: &str,
        offset: usize,
        tokenizer: &tokenizers::Tokenizer,
        out: &mut Encoded,
    ) -> Option<()> {
        let mut done = 0;
        while done < text.len() {
            let (start, end) = self
                .rules
                .words
                .find_at(text, done)
                .map_or((text.len(), text.len()), |word| (word.start(), word.end()));
            let cut = done + spaces(&text[done..], start - done)?;
            self.word(&text[done..cut], offset + done, tokenizer, out)?;
            self.word(&text[cut..start], offset + cut, tokenizer, out)?;
            self.word(&text[start..end], offset + start, tokenizer, out)?;
            if end == done {
                return None;
            }
            done = end;
        }
        Some(())
    }

    /// One word, which begins at `offset`.
    fn word(
        &self,
        word: &str,
        offset: usize,
        tokenizer: &tokenizers::Tokenizer,
        out: &mut Encoded,
    ) -> Option<()> {
        if word.is_empty() {
            return Some(());
        }
        let shard = &self.known[self.state.hash_one(word.as_bytes()) as usize % SHARDS];
        let mut add = |tokens: &Word| {
            for &(id, start) in tokens {
                out.ids.push(id);
                out.starts.push(offset + start as usize);
            }
        };
        if let Some(tokens) =
            shard.read().unwrap_or_else(PoisonError::into_inner).get(word.as_bytes())
        {
            add(tokens);
            return Some(());
        }
        let tokens = self.model(word, tokenizer)?;
        add(&tokens);
        if word.len() <= LONGEST {
            let mut known = shard.write().unwrap_or_else(PoisonError::into_inner);
            if known.len() < WORDS {
                known.insert(word.as_bytes().into(), tokens);
            }
        }
        Some(())
    }

    /// A word through the library's model, whose alphabet has a character for each byte.
    fn model(&self, word: &str, tokenizer: &tokenizers::Tokenizer) -> Option<Word> {
        let spelled: String = word.bytes().map(|byte| self.alphabet[byte as usize]).collect();
        // Tokens come with their bytes in the spelling, and a letter of the alphabet may take two.
        let mut letters = vec![0; spelled.len()];
        for (letter, (byte, _)) in spelled.char_indices().enumerate() {
            letters[byte] = letter as u32;
        }
        let tokens = tokenizer.get_model().tokenize(&spelled).ok()?;
        Some(tokens.into_iter().map(|token| (token.id, letters[token.offsets.0])).collect())
    }
}

/// How many bytes of the `gap` before the next word are one word by [`SPACES`]; the rest, a single space, is another. `None`
/// where the gap is not what that pattern takes.
fn spaces(text: &str, gap: usize) -> Option<usize> {
    let (before, after) = text.split_at(gap);
    if before.is_empty() {
        return Some(0);
    }
    if !before.chars().all(char::is_whitespace) {
        return None;
    }
    let mut next = after.chars();
    match next.next() {
        // `\s+(?!\S)` goes to the end of the text.
        None => Some(gap),
        // The next word begins with the last space of the run, which `\s+(?!\S)` leaves to it.
        Some(first) if first.is_whitespace() => {
            next.next().is_some_and(|second| !second.is_whitespace()).then_some(gap)
        }
        // It begins after the run, whose last space `\s+` then takes alone.
        Some(_) => {
            let last = before.chars().next_back().map_or(0, char::len_utf8);
            Some(if gap > last { gap - last } else { gap })
        }
    }
}

/// The pattern that cuts a text into words.
fn pattern(pre_tokenizer: &Value) -> Option<&str> {
    let is_bytes = |step: &Value, own_pattern: bool| {
        step["type"] == "ByteLevel"
            && step["add_prefix_space"] == json!(false)
            && step["use_regex"].as_bool().unwrap_or(true) == own_pattern
    };
    if is_bytes(pre_tokenizer, true) {
        return Some(GPT2);
    }
    let [split, bytes] = pre_tokenizer["pretokenizers"].as_array()?.as_slice() else { return None };
    let is_split = split["type"] == "Split"
        && split["behavior"] == "Isolated"
        && split["invert"] == json!(false)
        && is_bytes(bytes, false);
    let pattern = split["pattern"]["Regex"].as_str().filter(|_| is_split)?;
    // Possessive repetition reads otherwise to the crate; any other lookaround it does not know.
    let is_foreign =
        ["?+", "++", "*+", "(?=", "(?<", "(?>"].iter().any(|part| pattern.contains(part));
    let words = pattern.strip_suffix(SPACES)?;
    (!is_foreign && !words.contains("(?!")).then_some(pattern)
}

/// GPT-2's alphabet: printable bytes stand for themselves, the others for characters from U+0100 on.
fn alphabet() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| {
        if matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) {
            return byte as u8 as char;
        }
        next += 1;
        char::from_u32(next - 1).unwrap_or_default()
    })
}
