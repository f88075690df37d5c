//! Rows as training takes them: tokens with the targets that the loss counts, cut to the sequence length.
//!
//! A row is encoded once, however often it stands in a mixture and in however many mixtures of a sweep:
//! [`Rows`] remembers what each content came to, and documents share its memory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use artifact::Message;

use crate::{
    config::Objective,
    encoder::{Encoder, Tokens, plain_text},
};

/// How rows are encoded.
pub struct Encoding<'a> {
    /// Tokenizer and template.
    pub encoder: &'a Encoder,
    /// Which tokens count.
    pub objective: Objective,
    /// Most inputs of a document.
    pub sequence_length: usize,
    /// Rows encoded before, in the same way.
    pub known: Arc<Rows>,
}

/// One run of tokens, and what the loss counts of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// Inputs: every token but the last.
    pub tokens: Arc<[u32]>,
    /// The token after each input; -1 where the loss does not count it.
    pub targets: Arc<[i32]>,
}

/// What a row came to.
#[derive(Debug, PartialEq)]
pub enum Encoded {
    /// Documents to train on.
    Pieces {
        /// In the row's order.
        pieces: Vec<Piece>,
        /// Whether the sequence length took something away that would have counted.
        cut: bool,
        /// Whether the chat template asked for one document an answer.
        split: bool,
    },
    /// Nobody answers.
    NoAnswer,
    /// All answers are empty.
    Empty,
    /// No answer begins within the sequence length.
    TooLong,
}

/// What rows came to, by the hash of their messages.
#[derive(Default)]
pub struct Rows(Mutex<HashMap<[u8; 32], Slot>>);

/// Filled by the first who asks, while others who ask for the same row wait.
type Slot = Arc<Mutex<Option<Arc<Encoded>>>>;

impl Rows {
    /// What `messages` came to before, or come to now by `encode`. A failure is not remembered.
    fn get(
        &self,
        messages: &[Message],
        encode: impl FnOnce() -> Result<Encoded>,
    ) -> Result<Arc<Encoded>> {
        let key = content_hash(messages);
        let slot = {
            let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(slots.entry(key).or_default())
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*slot {
            return Ok(Arc::clone(known));
        }
        Ok(Arc::clone(slot.insert(Arc::new(encode()?))))
    }

    /// Rows remembered.
    pub fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// blake3 over roles and contents, each with its length.
fn content_hash(messages: &[Message]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for text in messages.iter().flat_map(|message| [&message.role, &message.content]) {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    *hasher.finalize().as_bytes()
}

impl<'a> Encoding<'a> {
    /// With a memory of its own.
    pub fn new(encoder: &'a Encoder, objective: Objective, sequence_length: usize) -> Self {
        Self { encoder, objective, sequence_length, known: Arc::default() }
    }

    /// Encodes a row's messages, or remembers them.
    pub fn encode(&self, messages: &[Message]) -> Result<Arc<Encoded>> {
        self.known.get(messages, || match self.objective {
            Objective::Sft => self.conversation(messages),
            Objective::Lm => self.plain(messages),
        })
    }

    /// A conversation that is too long loses its end.
    fn conversation(&self, messages: &[Message]) -> Result<Encoded> {
        let answers = || messages.iter().filter(|message| message.role == "assistant");
        if answers().next().is_none() {
            return Ok(Encoded::NoAnswer);
        }
        if answers().all(|message| message.content.trim().is_empty()) {
            return Ok(Encoded::Empty);
        }
        let documents = self.encoder.chat(messages)?;
        let split = documents.len() > 1;
        let (mut pieces, mut cut) = (Vec::new(), false);
        for Tokens { ids, counted } in documents {
            let kept = ids.len().min(self.sequence_length + 1);
            cut |= counted[kept..].contains(&true);
            pieces.extend(piece(&ids[..kept], &counted[..kept]));
        }
        if pieces.is_empty() {
            return Ok(Encoded::TooLong);
        }
        Ok(Encoded::Pieces { pieces, cut, split })
    }

    /// Long text goes on in the next document: each token is predicted once.
    fn plain(&self, messages: &[Message]) -> Result<Encoded> {
        let text = plain_text(messages);
        if text.trim().is_empty() {
            return Ok(Encoded::Empty);
        }
        let Tokens { ids, counted } = self.encoder.text(&text)?;
        let chunk = |start: usize| {
            let end = (start + self.sequence_length + 1).min(ids.len());
            piece(&ids[start..end], &counted[start..end])
        };
        let starts = (0..ids.len().saturating_sub(1)).step_by(self.sequence_length);
        let pieces: Vec<Piece> = starts.filter_map(chunk).collect();
        if pieces.is_empty() {
            return Ok(Encoded::Empty);
        }
        Ok(Encoded::Pieces { pieces, cut: false, split: false })
    }
}

/// Inputs and shifted targets, up to the last token that counts: what comes after it cannot
/// change any loss.
fn piece(ids: &[u32], counted: &[bool]) -> Option<Piece> {
    let last = counted.iter().rposition(|&counted| counted).filter(|&last| last > 0)?;
    let target = |index: usize| if counted[index] { ids[index] as i32 } else { -1 };
    Some(Piece { tokens: ids[..last].into(), targets: (1..=last).map(target).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_ends_with_its_last_counted_token_and_targets_are_shifted() {
        let found = piece(&[10, 11, 12, 13, 14], &[false, false, true, true, false]).unwrap();
        assert_eq!(*found.tokens, [10, 11, 12]);
        assert_eq!(*found.targets, [-1, 12, 13]);
        assert_eq!(piece(&[10, 11], &[true, false]), None, "the first token is never predicted");
        assert_eq!(piece(&[10, 11], &[false, false]), None);
    }

    #[test]
    fn a_row_is_encoded_once_and_a_failure_is_not_remembered() {
        let rows = Rows::default();
        let messages = |text: &str| [Message { role: "user".into(), content: text.into() }];
        assert!(rows.get(&messages("a"), || anyhow::bail!("no")).is_err());
        let first = rows.get(&messages("a"), || Ok(Encoded::Empty)).unwrap();
        let again = rows.get(&messages("a"), || Ok(Encoded::NoAnswer)).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        assert_eq!(*rows.get(&messages("b"), || Ok(Encoded::NoAnswer)).unwrap(), Encoded::NoAnswer);
        assert_eq!(rows.len(), 2);
    }

    #[test]
    fn the_content_hash_sees_where_role_and_content_end() {
        let of = |pairs: &[(&str, &str)]| {
            let message = |(role, content): &(&str, &str)| Message {
                role: (*role).into(),
                content: (*content).into(),
            };
            content_hash(&pairs.iter().map(message).collect::<Vec<_>>())
        };
        assert_ne!(of(&[("user", "ab")]), of(&[("usera", "b")]));
        assert_ne!(of(&[("a", "b"), ("c", "d")]), of(&[("a", "b")]));
        assert_eq!(of(&[("a", "b")]), of(&[("a", "b")]));
    }
}
