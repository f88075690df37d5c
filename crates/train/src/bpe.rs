//! Trains a tokenizer: byte-level BPE on the text of examples, by Hugging Face's tokenizers library.
//!
//! Text is brought to NFC and split into words, runs of punctuation and single digits (so that a number
//! is spelled out and arithmetic can be learnt) before merging. Marks belong to their letters, which
//! scripts like Devanagari and Thai need. Out come the two files that transformers loads.

use std::{fs, path::Path, sync::mpsc};

use anyhow::{Context as _, Result, anyhow};
use artifact::{Context, bail_user, text::count};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokenizers::{
    AddedToken, Model as _, SplitDelimiterBehavior, Tokenizer,
    models::{
        TrainerWrapper,
        bpe::{BPE, BpeTrainer},
    },
    normalizers::NFC,
    pre_tokenizers::{
        PreTokenizerWrapper,
        byte_level::ByteLevel,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
};

use crate::template::CHATML;

/// Ends a text.
const END_OF_TEXT: &str = "<|endoftext|>";
/// First ids of the vocabulary, in this order.
const SPECIAL: [&str; 3] = [END_OF_TEXT, "<|im_start|>", "<|im_end|>"];

/// English contractions; letters with their marks; one digit; punctuation; line ends; spaces.
const WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The `[tokenizer]` section: how a tokenizer is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizerConfig {
    /// Ids in all, with 256 bytes and the special tokens. Default 8192.
    pub vocab_size: usize,
    /// How often a pair must occur to be merged. Default 2.
    pub min_frequency: u64,
}

impl Default for TokenizerConfig {
    fn default() -> Self {
        Self { vocab_size: 8192, min_frequency: 2 }
    }
}

/// What a tokenizer training came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Ids.
    pub vocab_size: u64,
    /// Rows read.
    pub rows: u64,
    /// Bytes of text read.
    pub bytes: u64,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Summary { vocab_size, rows, bytes } = self;
        write!(
            f,
            "{} ids from {} rows ({} bytes of text)",
            count(*vocab_size),
            count(*rows),
            count(*bytes)
        )
    }
}

/// Trains on the messages of `data` (examples or a mixture; test rows are left out) and writes
/// `tokenizer.json` and `tokenizer_config.json` to `out`.
pub fn train_tokenizer(
    config: &TokenizerConfig,
    data: &Path,
    out: &Path,
    ctx: &Context,
) -> Result<Summary> {
    let least = 256 + SPECIAL.len();
    if config.vocab_size < least {
        bail_user!(
            "tokenizer.vocab_size is {}; it must be at least {least}: 256 bytes and {} special tokens",
            config.vocab_size,
            SPECIAL.len()
        );
    }
    let failed = |error: tokenizers::Error| anyhow!("tokenizer: {error}");
    let mut tokenizer = untrained().map_err(failed)?;
    let special = SPECIAL.map(|token| AddedToken::from(token, true));
    let trainer = BpeTrainer::builder()
        .vocab_size(config.vocab_size)
        .min_frequency(config.min_frequency)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(special.to_vec())
        .build();
    let mut trainer = TrainerWrapper::BpeTrainer(trainer);
    // The trainer wants all text from one iterator; a second thread reads it, row group by row group.
    let (sender, texts) = mpsc::sync_channel(256);
    let (rows, bytes) = std::thread::scope(|scope| -> Result<(u64, u64)> {
        let reader = scope.spawn(|| read_texts(data, sender, ctx));
        let trained = tokenizer.train(&mut trainer, texts.into_iter());
        let read = reader.join().map_err(|_| anyhow!("the reader of {} failed", data.display()))?;
        let read = read?;
        trained.map_err(failed)?;
        Ok(read)
    })?;
    if bytes == 0 {
        bail_user!("{}: holds no text to train a tokenizer on", data.display());
    }
    let vocab_size = tokenizer.get_vocab_size(true);
    if vocab_size < config.vocab_size {
        ctx.warn(format!(
            "{}: the text has pairs for {} ids, fewer than tokenizer.vocab_size = {}",
            data.display(),
            count(vocab_size as u64),
            count(config.vocab_size as u64)
        ));
    }
    write(&tokenizer, out)?;
    Ok(Summary { vocab_size: vocab_size as u64, rows, bytes })
}

fn untrained() -> tokenizers::Result<Tokenizer> {
    let words =
        Split::new(SplitPattern::Regex(WORDS.to_owned()), SplitDelimiterBehavior::Isolated, false)?;
    let bytes = ByteLevel::new(false, false, false);
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_normalizer(Some(NFC));
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![
        PreTokenizerWrapper::Split(words),
        PreTokenizerWrapper::ByteLevel(bytes),
    ])));
    tokenizer.with_decoder(Some(bytes));
    Ok(tokenizer)
}

/// Sends every message's text; returns rows and bytes.
fn read_texts(data: &Path, sender: mpsc::SyncSender<String>, ctx: &Context) -> Result<(u64, u64)> {
    let bar = ctx.bar("read text", "rows", None);
    let (mut rows, mut bytes) = (0, 0);
    for group in artifact::arrow::mixture_rows(data)? {
        ctx.check()?;
        for row in group?.into_iter().filter(|row| row.example.split != "test") {
            rows += 1;
            bar.inc(1);
            for message in row.example.messages {
                bytes += message.content.len() as u64;
                // The trainer hangs up only if it fails, which it then says itself.
                let _ = sender.send(message.content);
            }
        }
    }
    bar.finish();
    Ok((rows, bytes))
}

fn write(tokenizer: &Tokenizer, out: &Path) -> Result<()> {
    let json = tokenizer.to_string(true).map_err(|error| anyhow!("tokenizer: {error}"))?;
    let mut added = Map::new();
    for token in SPECIAL {
        let id = tokenizer.get_model().token_to_id(token).context("a special token has no id")?;
        let flags = json!({"content": token, "lstrip": false, "normalized": false, "rstrip": false, "single_word": false, "special": true});
        added.insert(id.to_string(), flags);
    }
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": added,
        "bos_token": Value::Null,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "unk_token": Value::Null,
        "additional_special_tokens": &SPECIAL[1..],
        "clean_up_tokenization_spaces": false,
        "chat_template": CHATML,
    });
    for (name, text) in
        [("tokenizer.json", json), ("tokenizer_config.json", format!("{config:#}\n"))]
    {
        let path = out.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
