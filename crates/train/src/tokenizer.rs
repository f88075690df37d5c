//! A model folder's tokenizer: `tokenizer.json`, with what the configs beside it say of added and
//! special tokens. In goes text, out come ids and the place in the text where each begins.
//!
//! Ids are those of Hugging Face's tokenizers library, which [`crate::byte_level`] finds faster where it can. One thing differs on purpose: a special token
//! that is written out in content stays text. [`Tokenizer::escape`] breaks such a spelling with
//! a character that no text holds (U+FDD0, a noncharacter); a second copy of the tokenizer drops that
//! character in its normaliser, which runs after special tokens have been recognised.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use anyhow::{Result, anyhow};
use artifact::{bail_user, error::user};
use serde_json::{Value, json};
use tokenizers::{
    AddedToken, NormalizerWrapper,
    normalizers::{Replace, Sequence},
};

use crate::byte_level::{ByteLevel, Rules};

const ESCAPE: char = '\u{FDD0}';

/// Ids of a text and where each token begins in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Encoded {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Byte at which each token begins; a token ends where the next begins.
    pub starts: Vec<usize>,
}

/// A tokenizer with its special tokens.
pub struct Tokenizer {
    folder: PathBuf,
    plain: tokenizers::Tokenizer,
    /// One more than the largest id.
    size: usize,
    /// The short way to the same ids, where there is one.
    fast: Option<ByteLevel>,
    /// Ids that the post-processor puts before and after a text.
    around: [Vec<u32>; 2],
    escaped: OnceLock<tokenizers::Tokenizer>,
    /// Special tokens, longest first, so that the first that fits is the longest.
    special: Vec<String>,
    /// bos_token, eos_token … by name.
    named: BTreeMap<String, String>,
    stop_ids: Vec<u32>,
}

/// A JSON file of a model folder; `None` where there is none.
pub(crate) fn read_json(path: &Path) -> Result<Option<Value>> {
    if !path.exists() {
        return Ok(None);
    }
    let mut text = String::new();
    std::io::Read::read_to_string(&mut artifact::error::open_input(path)?, &mut text)
        .map_err(|error| user(format!("{}: {error}", path.display())))?;
    let value = serde_json::from_str(&text)
        .map_err(|error| user(format!("{}: {error}", path.display())))?;
    Ok(Some(value))
}

fn failed(error: tokenizers::Error) -> anyhow::Error {
    anyhow!("tokenizer: {error}")
}

impl Tokenizer {
    /// Loads the tokenizer of a model folder. Faults of its files are `UserError`s.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        if !folder.is_dir() {
            bail_user!(
                "{}: no such folder; a model folder with tokenizer.json is needed",
                folder.display()
            );
        }
        let Some(mut json) = read_json(&path)? else {
            bail_user!(
                "{}: the model folder has no tokenizer.json; save the model's fast tokenizer there",
                folder.display()
            );
        };
        normalise_definition(&mut json);
        let rules = Rules::of(&json);
        let mut plain: tokenizers::Tokenizer = serde_json::from_value(json).map_err(|error| {
            user(format!("{}: not a tokenizer definition: {error}", path.display()))
        })?;
        let config_path = folder.join("tokenizer_config.json");
        let config = read_json(&config_path)?.unwrap_or_default();
        add_configured_tokens(&mut plain, &config, &config_path)?;
        let mut special: Vec<String> = plain
            .get_added_tokens_decoder()
            .into_values()
            .filter(|token| token.special)
            .map(|token| token.content)
            .collect();
        special.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
        let map = read_json(&folder.join("special_tokens_map.json"))?.unwrap_or_default();
        let named = named_tokens(&map, &config);
        let stop_ids = stop_ids(folder, &plain, &named)?;
        Ok(Self {
            folder: folder.to_owned(),
            fast: rules.and_then(|rules| ByteLevel::new(rules, &plain)),
            around: around(&plain)?,
            size: plain.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1),
            plain,
            escaped: OnceLock::new(),
            special,
            named,
            stop_ids,
        })
    }

    /// The folder it was loaded from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// One more than the largest id.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Refuses a model whose embedding has fewer rows than there are ids.
    pub fn check_fits(&self, vocab_size: usize) -> Result<()> {
        if self.size() > vocab_size {
            bail_user!(
                "{}: the tokenizer has {} ids, but the model's embedding has {vocab_size} rows (vocab_size in \
                 config.json); they do not belong together",
                self.folder.display(),
                self.size(),
            );
        }
        Ok(())
    }

    /// A named special token's text: `bos_token`, `eos_token`, `pad_token`, `unk_token`.
    pub fn named(&self, name: &str) -> Option<&str> {
        self.named.get(name).map(String::as_str)
    }

    /// A named special token's id.
    pub fn named_id(&self, name: &str) -> Option<u32> {
        self.id(self.named(name)?)
    }

    /// All named special tokens.
    pub(crate) fn all_named(&self) -> &BTreeMap<String, String> {
        &self.named
    }

    /// The id of a token's text.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.plain.token_to_id(token)
    }

    /// Ids that end a generation: those of generation_config.json, config.json and the
    /// tokenizer's `eos_token`, sorted.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// Whether an id is a special token.
    pub fn is_special(&self, id: u32) -> bool {
        let token = self.plain.get_added_vocabulary().simple_id_to_token(id);
        token.is_some_and(|token| self.plain.get_added_vocabulary().is_special_token(&token))
    }

    /// Breaks every special token that is spelled out in `text`, so that [`Tokenizer::encode`] takes
    /// it for text.
    pub fn escape<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if !self.special.iter().any(|token| text.contains(token.as_str())) {
            return Cow::Borrowed(text);
        }
        let mut out = String::with_capacity(text.len() + 8);
        for (start, char) in text.char_indices() {
            out.push(char);
            if self.special.iter().any(|token| text[start..].starts_with(token.as_str())) {
                out.push(ESCAPE);
            }
        }
        Cow::Owned(out)
    }

    /// Takes the marks of [`Tokenizer::escape`] out again.
    pub fn unescape(text: &str) -> String {
        text.replace(ESCAPE, "")
    }

    /// Encodes text in which special tokens count as such, but where escaped. `add_special` adds the
    /// tokens that the tokenizer's post-processor puts around a text (BOS, say).
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Encoded> {
        let is_escaped = text.contains(ESCAPE);
        let fast = self.fast.as_ref().filter(|_| !is_escaped);
        if let Some(mut encoded) = fast.and_then(|fast| fast.encode(text, &self.plain)) {
            if add_special {
                let [before, after] = &self.around;
                encoded.ids.splice(0..0, before.iter().copied());
                encoded.ids.extend(after);
                encoded.starts.splice(0..0, before.iter().map(|_| 0));
                encoded.starts.extend(after.iter().map(|_| text.len()));
            }
            return Ok(encoded);
        }
        self.encode_by_library(text, add_special)
    }

    /// The long way: Hugging Face's library from end to end.
    fn encode_by_library(&self, text: &str, add_special: bool) -> Result<Encoded> {
        let tokenizer = if text.contains(ESCAPE) { self.escaped()? } else { &self.plain };
        let encoding = tokenizer.encode(text, add_special).map_err(failed)?;
        // Offsets may leave out a token's spaces, and the bytes of one character all point at the
        // whole of it; so a token begins no later than where the one before it ends.
        let mut end = 0;
        let starts = encoding.get_offsets().iter().map(|&(from, to)| {
            let start = from.min(end);
            end = end.max(to);
            start
        });
        Ok(Encoded { starts: starts.collect(), ids: encoding.get_ids().to_vec() })
    }

    /// Text of ids, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.plain.decode(ids, true).map_err(failed)
    }

    /// Text of ids, special tokens shown.
    pub fn decode_all(&self, ids: &[u32]) -> Result<String> {
        self.plain.decode(ids, false).map_err(failed)
    }

    fn escaped(&self) -> Result<&tokenizers::Tokenizer> {
        if let Some(tokenizer) = self.escaped.get() {
            return Ok(tokenizer);
        }
        let mut tokenizer = self.plain.clone();
        let drop = Replace::new(ESCAPE.to_string(), "").map_err(failed)?;
        let mut steps = vec![NormalizerWrapper::Replace(drop)];
        steps.extend(tokenizer.get_normalizer().cloned());
        tokenizer.with_normalizer(Some(NormalizerWrapper::Sequence(Sequence::new(steps))));
        Ok(self.escaped.get_or_init(|| tokenizer))
    }
}

/// What the post-processor puts before and after a text.
fn around(tokenizer: &tokenizers::Tokenizer) -> Result<[Vec<u32>; 2]> {
    let ids = |special| -> Result<Vec<u32>> {
        Ok(tokenizer.encode_fast("a", special).map_err(failed)?.get_ids().to_vec())
    };
    let (bare, with) = (ids(false)?, ids(true)?);
    let start = with.windows(bare.len().max(1)).position(|window| window == bare).unwrap_or(0);
    Ok([with[..start].to_vec(), with[(start + bare.len()).min(with.len())..].to_vec()])
}

/// Takes truncation and padding out, which are settings of some earlier run, and has special tokens
/// matched before normalisation, so that escaping works whatever the normaliser.
fn normalise_definition(json: &mut Value) {
    json["truncation"] = Value::Null;
    json["padding"] = Value::Null;
    for token in json["added_tokens"].as_array_mut().into_iter().flatten() {
        if token["special"] == json!(true) {
            token["normalized"] = json!(false);
        }
    }
}

/// Adds tokens that stand in tokenizer_config.json alone, as transformers does.
fn add_configured_tokens(
    tokenizer: &mut tokenizers::Tokenizer,
    config: &Value,
    path: &Path,
) -> Result<()> {
    let Some(listed) = config["added_tokens_decoder"].as_object() else { return Ok(()) };
    let mut tokens: Vec<(u32, &Value)> = Vec::new();
    for (id, token) in listed {
        let id = id.parse().map_err(|_| {
            user(format!(
                "{}: added_tokens_decoder has the key \"{id}\", which is no token id",
                path.display()
            ))
        })?;
        tokens.push((id, token));
    }
    tokens.sort_by_key(|(id, _)| *id);
    for (id, token) in tokens {
        let Some(content) = token["content"].as_str() else {
            bail_user!("{}: added token {id} has no content", path.display());
        };
        if tokenizer.token_to_id(content).is_none() {
            let flag = |name: &str| token[name].as_bool().unwrap_or(false);
            let special = flag("special");
            let added = AddedToken::from(content.to_owned(), special)
                .single_word(flag("single_word"))
                .lstrip(flag("lstrip"))
                .rstrip(flag("rstrip"))
                .normalized(flag("normalized") && !special);
            tokenizer.add_tokens(&[added]);
        }
        let found = tokenizer.token_to_id(content);
        if found != Some(id) {
            bail_user!(
                "{}: added token {content:?} has id {id} there, but {found:?} by tokenizer.json",
                path.display()
            );
        }
    }
    Ok(())
}

/// `bos_token` and the like from both files; tokenizer_config.json decides where they differ. A
/// token is written as text or as an object with `content`.
fn named_tokens(map: &Value, config: &Value) -> BTreeMap<String, String> {
    let mut named = BTreeMap::new();
    for file in [map, config] {
        for (name, value) in file.as_object().into_iter().flatten() {
            let text = value.as_str().or_else(|| value["content"].as_str());
            if let (Some(text), true) = (text, name.ends_with("_token")) {
                named.insert(name.clone(), text.to_owned());
            }
        }
    }
    named
}

fn stop_ids(
    folder: &Path,
    plain: &tokenizers::Tokenizer,
    named: &BTreeMap<String, String>,
) -> Result<Vec<u32>> {
    let mut ids: Vec<u32> =
        named.get("eos_token").and_then(|eos| plain.token_to_id(eos)).into_iter().collect();
    for file in ["generation_config.json", "config.json"] {
        let json = read_json(&folder.join(file))?.unwrap_or_default();
        let listed = match &json["eos_token_id"] {
            Value::Array(list) => list.clone(),
            single => vec![single.clone()],
        };
        ids.extend(listed.iter().filter_map(Value::as_u64).filter_map(|id| u32::try_from(id).ok()));
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The small tokenizer.
    fn own() -> &'static Tokenizer {
        static OWN: OnceLock<Tokenizer> = OnceLock::new();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/trainer/tokenizer");
        OWN.get_or_init(|| Tokenizer::load(&folder).unwrap())
    }

    /// Tokenizers that have a short way: the small one, and Qwen2's and MiniMind's where the shared data is.
    fn tokenizers() -> Vec<Tokenizer> {
        let own = own().folder.clone();
        let data =
            std::env::var_os("ISOGLOSS_DATA").map(|data| PathBuf::from(data).join("tokenizers"));
        let shared =
            data.into_iter().flat_map(|data| ["qwen2", "minimind"].map(|name| data.join(name)));
        let all = [own].into_iter().chain(shared.filter(|folder| folder.exists()));
        all.map(|folder| Tokenizer::load(&folder).unwrap()).collect()
    }

    #[track_caller]
    fn is_the_same(tokenizer: &Tokenizer, text: &str) {
        for special in [false, true] {
            let (short, long) = (
                tokenizer.encode(text, special).unwrap(),
                tokenizer.encode_by_library(text, special).unwrap(),
            );
            assert_eq!(short.ids, long.ids, "{:?} {text:?}", tokenizer.folder);
        }
    }

    #[test]
    fn the_short_way_gives_the_librarys_ids() {
        for tokenizer in tokenizers() {
            assert!(tokenizer.fast.is_some(), "{:?} has a short way", tokenizer.folder);
            for text in [
                "",
                " ",
                "  ",
                "a",
                " a",
                "  a",
                "   a  b   ",
                "a\n\nb \n c\n",
                "\t\ta",
                "a \u{a0} b\u{3000}\u{3000}c",
                "\r\n\r\n x",
                "don't DON'T we'Ll 'S 'ſ",
                "1234 5678,9  10",
                "!!! ?? a!b ...\n\n",
                "e\u{301} é ﬁ 한국 각",
                "𐍈 🙂🙂 👩‍👩‍👧 ¿Cuánto?",
                "<|im_start|>user\nHi  there<|im_end|>\n",
                "<|im_start|><|im_end|>  <|endoftext|>x",
                "<|im_ start|>",
                "مرحبا ١٢٣ हिन्दी ไทย",
            ] {
                is_the_same(&tokenizer, text);
            }
        }
    }

    #[test]
    fn the_short_way_agrees_on_characters_of_every_kind() {
        // All of them take minutes.
        let step = if std::env::var_os("ISOGLOSS_EXHAUSTIVE").is_some() { 1 } else { 61 };
        let chars = || ('\0'..'\u{32000}').step_by(step);
        for tokenizer in tokenizers() {
            // After a letter, between spaces, before a digit, beside an apostrophe, doubled, at the end of a line.
            for char in chars() {
                is_the_same(&tokenizer, &format!("a{char}b {char} {char}1'{char}{char}  {char}\n"));
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn the_short_way_agrees_on_any_text(text in r"(\PC|[ \n\t]|<\|im_end\|>){0,40}") {
            is_the_same(own(), &text);
        }
    }
}
