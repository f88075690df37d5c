//! Rows of a mixture become documents: tokens with the targets that the loss counts.
//!
//! Rows stream in row group by row group, are encoded in parallel and kept in `position` order. What is
//! too long is cut by rule, what has nothing to learn from is left out; both are counted and said.

use std::{collections::BTreeSet, path::Path};

use anyhow::Result;
use artifact::{Context, MixtureRow, bail_user, text::count};
use rayon::prelude::*;

use crate::{
    config::Objective,
    encoder::{Encoder, Tokens, plain_text},
    model::Batch,
};

/// One run of tokens that attention stays inside.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The example it is from.
    pub example_id: String,
    /// Index into [`Dataset::languages`].
    pub language: usize,
    /// Inputs: every token but the last.
    pub tokens: Vec<u32>,
    /// The token after each input; -1 where the loss does not count it.
    pub targets: Vec<i32>,
}

/// Encoded rows of one split.
#[derive(Debug, Default)]
pub struct Dataset {
    /// Documents in `position` order.
    pub documents: Vec<Document>,
    /// Languages that occur, sorted.
    pub languages: Vec<String>,
    /// Tasks that occur, sorted.
    pub tasks: Vec<String>,
    /// blake3 over documents and languages: what training sees of the data.
    pub hash: String,
}

/// Which rows of a file of examples are taken. A mixture is taken whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split<'a> {
    /// Rows to train on.
    Train,
    /// Rows to validate on, of these tasks: those that are trained.
    Validation(&'a [String]),
}

impl Split<'_> {
    fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Validation(_) => "validation",
        }
    }
}

/// How rows are encoded.
pub struct Encoding<'a> {
    /// Tokenizer and template.
    pub encoder: &'a Encoder,
    /// Which tokens count.
    pub objective: Objective,
    /// Most inputs of a document.
    pub sequence_length: usize,
}

/// What a row came to.
enum Encoded {
    Pieces {
        pieces: Vec<(Vec<u32>, Vec<i32>)>,
        cut: bool,
    },
    /// Nothing of it counts; the reason.
    Nothing(&'static str),
}

/// How many rows met one rule, and the first of them.
#[derive(Default)]
struct Tally {
    rows: u64,
    first: String,
}

impl Tally {
    fn add(&mut self, example_id: &str) {
        if self.rows == 0 {
            self.first = example_id.to_owned();
        }
        self.rows += 1;
    }

    fn warn(&self, ctx: &Context, path: &Path, of: u64, what: &str) {
        if self.rows > 0 {
            let (rows, of) = (count(self.rows), count(of));
            ctx.warn(format!(
                "{}: {rows} of {of} rows {what} (the first: {})",
                path.display(),
                self.first
            ));
        }
    }
}

impl Dataset {
    /// Reads and encodes the rows of a split. Having none is a `UserError`.
    pub fn load(path: &Path, split: Split, encoding: &Encoding, ctx: &Context) -> Result<Self> {
        let data = Self::load_any(path, split, encoding, ctx)?;
        if data.documents.is_empty() {
            let tasks = match split {
                Split::Train => String::new(),
                Split::Validation(tasks) => format!(" in what is trained: {}", tasks.join(", ")),
            };
            bail_user!(
                "{}: no row of the {} split to learn from{tasks}",
                path.display(),
                split.name()
            );
        }
        Ok(data)
    }

    /// The same, where there may be no row of that split.
    pub fn load_any(path: &Path, split: Split, encoding: &Encoding, ctx: &Context) -> Result<Self> {
        let mut rows_seen = 0;
        let (mut cut, mut empty, mut without_answer) =
            (Tally::default(), Tally::default(), Tally::default());
        let mut taken: Vec<(i64, String, Document)> = Vec::new();
        let mut tasks: BTreeSet<String> = BTreeSet::new();
        let bar = ctx.bar(&format!("encode {}", split.name()), "rows", None);
        for group in artifact::arrow::mixture_rows(path)? {
            ctx.check()?;
            let mut rows = Vec::new();
            for row in group? {
                if is_of(&row, split, path)? {
                    rows.push(row);
                }
            }
            rows_seen += rows.len() as u64;
            let encoded: Vec<Result<Encoded>> =
                rows.par_iter().map(|row| encoding.encode(row)).collect();
            for (row, encoded) in rows.iter().zip(encoded) {
                let example = &row.example;
                let at_row = |error: anyhow::Error| {
                    error.context(format!("{}: example {}", path.display(), example.example_id))
                };
                match encoded.map_err(at_row)? {
                    Encoded::Nothing(NO_ANSWER) => without_answer.add(&example.example_id),
                    Encoded::Nothing(_) => empty.add(&example.example_id),
                    Encoded::Pieces { pieces, cut: was_cut } => {
                        if was_cut {
                            cut.add(&example.example_id);
                        }
                        for (tokens, targets) in pieces {
                            let example_id = example.example_id.clone();
                            let document = Document { example_id, language: 0, tokens, targets };
                            taken.push((row.position, example.lang.clone(), document));
                        }
                        if !tasks.contains(&example.task) {
                            tasks.insert(example.task.clone());
                        }
                    }
                }
            }
            bar.inc(rows.len() as u64);
        }
        bar.finish();
        let limit = format!(
            "are longer than {} tokens and were cut at their end",
            count(encoding.sequence_length as u64)
        );
        cut.warn(ctx, path, rows_seen, &limit);
        empty.warn(
            ctx,
            path,
            rows_seen,
            "were left out, since their answer is empty or lies beyond the sequence length",
        );
        without_answer.warn(
            ctx,
            path,
            rows_seen,
            "were left out, since they have no assistant message",
        );
        taken.sort_by_key(|(position, ..)| *position);
        Ok(Self { tasks: tasks.into_iter().collect(), ..Self::of(taken) })
    }

    fn of(rows: Vec<(i64, String, Document)>) -> Self {
        let names: BTreeSet<&str> = rows.iter().map(|(_, language, _)| language.as_str()).collect();
        let languages: Vec<String> = names.into_iter().map(str::to_owned).collect();
        let documents: Vec<Document> = rows
            .into_iter()
            .map(|(_, name, document)| {
                let language = languages.partition_point(|known| *known < name);
                Document { language, ..document }
            })
            .collect();
        let hash = hash(&documents, &languages);
        Self { documents, languages, hash, ..Self::default() }
    }

    /// Lays documents end to end.
    pub fn batch(&self, documents: &[usize]) -> Batch {
        let mut batch = Batch { documents: vec![0], ..Batch::default() };
        for &index in documents {
            batch.tokens.extend(&self.documents[index].tokens);
            batch.targets.extend(&self.documents[index].targets);
            batch.documents.push(batch.tokens.len() as u32);
        }
        batch
    }

    /// Inputs of all documents.
    pub fn tokens(&self) -> u64 {
        self.documents.iter().map(|document| document.tokens.len() as u64).sum()
    }

    /// Length of each document.
    pub fn lengths(&self) -> Vec<usize> {
        self.documents.iter().map(|document| document.tokens.len()).collect()
    }
}

fn hash(documents: &[Document], languages: &[String]) -> String {
    let mut hasher = blake3::Hasher::new();
    for document in documents {
        hasher.update(&(document.tokens.len() as u64).to_le_bytes());
        for (token, target) in document.tokens.iter().zip(&document.targets) {
            hasher.update(&token.to_le_bytes());
            hasher.update(&target.to_le_bytes());
        }
        hasher.update(languages[document.language].as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// A mixture's rows are all for training, but never a test row; of plain examples the split decides,
/// and for validation the task.
fn is_of(row: &MixtureRow, split: Split, path: &Path) -> Result<bool> {
    let of_mixture = !row.mixture_id.is_empty();
    if of_mixture && split == Split::Train && row.example.split == "test" {
        bail_user!(
            "{}: example {} is of the test split; a mixture must not hold test rows",
            path.display(),
            row.example.example_id
        );
    }
    let of_split = row.example.split == split.name();
    Ok(match split {
        Split::Train => of_mixture || of_split,
        Split::Validation(tasks) => !of_mixture && of_split && tasks.contains(&row.example.task),
    })
}

const NO_ANSWER: &str = "no assistant message";
const EMPTY: &str = "nothing to learn from";

impl Encoding<'_> {
    fn encode(&self, row: &MixtureRow) -> Result<Encoded> {
        let messages = &row.example.messages;
        match self.objective {
            Objective::Sft => {
                if !messages.iter().any(|message| message.role == "assistant") {
                    return Ok(Encoded::Nothing(NO_ANSWER));
                }
                Ok(self.cut(self.encoder.chat(messages)?))
            }
            Objective::Lm => {
                let text = plain_text(messages);
                if text.trim().is_empty() {
                    return Ok(Encoded::Nothing(EMPTY));
                }
                Ok(self.chunks(&self.encoder.text(&text)?))
            }
        }
    }

    /// A conversation that is too long loses its end.
    fn cut(&self, tokens: Tokens) -> Encoded {
        let kept = tokens.ids.len().min(self.sequence_length + 1);
        match piece(&tokens.ids[..kept], &tokens.counted[..kept]) {
            Some(kept_piece) => {
                let cut = tokens.counted[kept..].contains(&true);
                Encoded::Pieces { pieces: vec![kept_piece], cut }
            }
            None => Encoded::Nothing(EMPTY),
        }
    }

    /// Long text goes on in the next document: each token is predicted once.
    fn chunks(&self, tokens: &Tokens) -> Encoded {
        let inputs = tokens.ids.len() - 1;
        let pieces: Vec<_> = (0..inputs)
            .step_by(self.sequence_length)
            .filter_map(|start| {
                let end = (start + self.sequence_length + 1).min(tokens.ids.len());
                piece(&tokens.ids[start..end], &tokens.counted[start..end])
            })
            .collect();
        if pieces.is_empty() {
            Encoded::Nothing(EMPTY)
        } else {
            Encoded::Pieces { pieces, cut: false }
        }
    }
}

/// Inputs and shifted targets, up to the last token that counts: what comes after it cannot
/// change any loss.
fn piece(ids: &[u32], counted: &[bool]) -> Option<(Vec<u32>, Vec<i32>)> {
    let last = counted.iter().rposition(|&counted| counted).filter(|&last| last > 0)?;
    let target = |index: usize| if counted[index] { ids[index] as i32 } else { -1 };
    Some((ids[..last].to_vec(), (1..=last).map(target).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_ends_with_its_last_counted_token_and_targets_are_shifted() {
        let (tokens, targets) =
            piece(&[10, 11, 12, 13, 14], &[false, false, true, true, false]).unwrap();
        assert_eq!(tokens, [10, 11, 12]);
        assert_eq!(targets, [-1, 12, 13]);
        assert_eq!(piece(&[10, 11], &[true, false]), None, "the first token is never predicted");
        assert_eq!(piece(&[10, 11], &[false, false]), None);
    }

    #[test]
    fn the_hash_sees_tokens_mask_and_language() {
        let document = |targets: Vec<i32>| Document {
            example_id: "a".into(),
            language: 0,
            tokens: vec![1, 2],
            targets,
        };
        let hash_of = |targets, language: &str| {
            Dataset::of(vec![(0, language.to_owned(), document(targets))]).hash
        };
        let base = hash_of(vec![2, 3], "en");
        assert_eq!(base, hash_of(vec![2, 3], "en"));
        assert_ne!(base, hash_of(vec![-1, 3], "en"));
        assert_ne!(base, hash_of(vec![2, 3], "es"));
    }
}
