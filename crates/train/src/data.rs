//! Rows of a mixture become documents, in `position` order.
//!
//! Rows stream in row group by row group and are encoded in parallel. What is too long is cut by rule,
//! what has nothing to learn from is left out; both are counted, said, and kept in the summary.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use anyhow::Result;
use artifact::{Context, MixtureRow, bail_user, text::count};
use rayon::prelude::*;
use serde::Serialize;

use crate::{
    config::RowsFile,
    encodings::{Encoded, Encoding},
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
    pub tokens: Arc<[u32]>,
    /// The token after each input; -1 where the loss does not count it.
    pub targets: Arc<[i32]>,
    /// Whether its row lost answer tokens to the sequence length.
    pub cut: bool,
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
    /// What became of the rows.
    pub counts: Counts,
    /// blake3 over documents and languages: what training sees of the data.
    pub hash: String,
    /// Rows of the file that are of other splits.
    pub others: BTreeMap<String, u64>,
}

/// What became of the rows of a split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Rows of the split.
    pub rows: u64,
    /// Of those, cut at the sequence length.
    pub truncated: u64,
    /// Left out: every answer is empty.
    pub empty: u64,
    /// Left out: no assistant message.
    pub without_answer: u64,
    /// Left out: no answer begins within the sequence length.
    pub too_long: u64,
    /// Trained as one document for each answer, since the chat template rewrites earlier turns.
    pub split: u64,
}

impl Counts {
    /// What was cut or left out, in words; empty where every row was taken whole.
    pub fn losses(&self) -> String {
        let kinds = [
            (self.truncated, "cut"),
            (self.too_long, "left out as too long"),
            (self.empty, "left out with empty answers"),
            (self.without_answer, "left out without an answer"),
        ];
        let said = kinds.iter().filter(|(rows, _)| *rows > 0);
        let parts: Vec<String> =
            said.map(|(rows, what)| format!("{} {what}", count(*rows))).collect();
        if parts.is_empty() {
            return String::new();
        }
        format!("of {} rows {}", count(self.rows), parts.join(", "))
    }
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

/// The first row that met each rule.
#[derive(Default)]
struct Firsts {
    truncated: Option<String>,
    empty: Option<String>,
    without_answer: Option<String>,
    too_long: Option<String>,
    split: Option<String>,
}

/// Rows encoded between two looks at Ctrl-C.
const PART: usize = 4096;

/// A split on its way to a [`Dataset`].
#[derive(Default)]
struct Reading {
    taken: Vec<(i64, String, Document)>,
    tasks: BTreeSet<String>,
    counts: Counts,
    firsts: Firsts,
    /// Rows of other splits.
    others: BTreeMap<String, u64>,
}

impl Reading {
    fn add(&mut self, row: &MixtureRow, encoded: &Encoded) {
        let example = &row.example;
        let count = |rows: &mut u64, first: &mut Option<String>| {
            *rows += 1;
            first.get_or_insert_with(|| example.example_id.clone());
        };
        let (counts, firsts) = (&mut self.counts, &mut self.firsts);
        counts.rows += 1;
        let (pieces, cut) = match encoded {
            Encoded::NoAnswer => {
                return count(&mut counts.without_answer, &mut firsts.without_answer);
            }
            Encoded::Empty => return count(&mut counts.empty, &mut firsts.empty),
            Encoded::TooLong => return count(&mut counts.too_long, &mut firsts.too_long),
            Encoded::Pieces { pieces, cut, split } => {
                if *cut {
                    count(&mut counts.truncated, &mut firsts.truncated);
                }
                if *split {
                    count(&mut counts.split, &mut firsts.split);
                }
                (pieces, *cut)
            }
        };
        for piece in pieces {
            let document = Document {
                example_id: example.example_id.clone(),
                language: 0,
                tokens: Arc::clone(&piece.tokens),
                targets: Arc::clone(&piece.targets),
                cut,
            };
            self.taken.push((row.position, example.lang.clone(), document));
        }
        if !self.tasks.contains(&example.task) {
            self.tasks.insert(example.task.clone());
        }
    }

    /// Says what was cut, left out or taken apart.
    fn warn(&self, ctx: &Context, name: &Path, sequence_length: usize) {
        let (counts, firsts) = (&self.counts, &self.firsts);
        let length = count(sequence_length as u64);
        let rules = [
            (counts.truncated, &firsts.truncated, format!("are longer than {length} tokens and were cut at their end")),
            (counts.too_long, &firsts.too_long, format!("were left out, since no answer begins within {length} tokens")),
            (counts.empty, &firsts.empty, "were left out, since their answer is empty".to_owned()),
            (counts.without_answer, &firsts.without_answer, "were left out, since they have no assistant message".to_owned()),
            (
                counts.split,
                &firsts.split,
                "became one document for each answer, since the chat template rewrites earlier turns".to_owned(),
            ),
        ];
        for (rows, first, what) in rules {
            if let Some(first) = first {
                let (rows, of) = (count(rows), count(counts.rows));
                ctx.warn(format!(
                    "{}: {rows} of {of} rows {what} (the first: {first})",
                    name.display()
                ));
            }
        }
    }
}

impl Dataset {
    /// Reads and encodes the rows of a split. Having none is a `UserError`.
    pub fn load(file: &RowsFile, split: Split, encoding: &Encoding, ctx: &Context) -> Result<Self> {
        let data = Self::load_any(file, split, encoding, ctx)?;
        if data.documents.is_empty() {
            let tasks = match split {
                Split::Train => String::new(),
                Split::Validation(tasks) => format!(" in what is trained: {}", tasks.join(", ")),
            };
            let of_others = |(split, rows): (&String, &u64)| {
                format!("{} are of the split {split:?}", count(*rows))
            };
            let mut why: Vec<String> = data.others.iter().map(of_others).collect();
            why.extend(Some(data.counts.losses()).filter(|losses| !losses.is_empty()));
            let why = match why.is_empty() {
                true => String::new(),
                false => format!(" ({})", why.join(", ")),
            };
            bail_user!("{}: no row of the {} split{tasks}{why}", file.name.display(), split.name());
        }
        Ok(data)
    }

    /// The same, where there may be no row of that split.
    pub fn load_any(
        file: &RowsFile,
        split: Split,
        encoding: &Encoding,
        ctx: &Context,
    ) -> Result<Self> {
        let mut reading = Reading::default();
        let bar = ctx.bar(&format!("encode {}", split.name()), "rows", None);
        for group in artifact::arrow::mixture_rows(&file.path)? {
            let mut rows = Vec::new();
            for row in group? {
                if is_of(&row, split, &file.name)? {
                    rows.push(row);
                } else {
                    *reading.others.entry(row.example.split).or_default() += 1;
                }
            }
            // In parts, so that Ctrl-C is heard and progress seen within a large row group.
            for part in rows.chunks(PART) {
                ctx.check()?;
                let encoded: Vec<Result<Arc<Encoded>>> =
                    part.par_iter().map(|row| encoding.encode(&row.example.messages)).collect();
                for (row, encoded) in part.iter().zip(encoded) {
                    let at_row = |error: anyhow::Error| {
                        let id = &row.example.example_id;
                        error.context(format!("{}: example {id}", file.name.display()))
                    };
                    reading.add(row, &*encoded.map_err(at_row)?);
                }
                bar.inc(part.len() as u64);
            }
        }
        bar.finish();
        reading.warn(ctx, &file.name, encoding.sequence_length);
        if split == Split::Train {
            warn_of_unknown_splits(&reading.others, &file.name, ctx);
        }
        let Reading { mut taken, tasks, counts, others, .. } = reading;
        taken.sort_by_key(|(position, ..)| *position);
        Ok(Self { tasks: tasks.into_iter().collect(), counts, others, ..Self::of(taken) })
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
            batch.tokens.extend(&*self.documents[index].tokens);
            batch.targets.extend(&*self.documents[index].targets);
            batch.documents.push(batch.tokens.len() as u32);
        }
        batch
    }

    /// The batches of each rank's micro-batches.
    pub fn batches(&self, shares: &[Vec<Vec<usize>>]) -> Vec<Vec<Batch>> {
        let of_share =
            |parts: &Vec<Vec<usize>>| parts.iter().map(|part| self.batch(part)).collect();
        shares.iter().map(of_share).collect()
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
    let mut bytes = Vec::new();
    for document in documents {
        bytes.clear();
        bytes.extend((document.tokens.len() as u64).to_le_bytes());
        bytes.extend(document.tokens.iter().flat_map(|token| token.to_le_bytes()));
        bytes.extend(document.targets.iter().flat_map(|target| target.to_le_bytes()));
        bytes.extend(languages[document.language].as_bytes());
        hasher.update(&bytes);
    }
    hasher.finalize().to_hex().to_string()
}

/// A split that nothing takes is most likely a name from elsewhere.
fn warn_of_unknown_splits(others: &BTreeMap<String, u64>, name: &Path, ctx: &Context) {
    for (split, rows) in others {
        if !["train", "validation", "test"].contains(&split.as_str()) {
            let (name, rows) = (name.display(), count(*rows));
            ctx.warn(format!(
                "{name}: {rows} rows are of the split {split:?}, which nothing takes; splits are train, validation and test"
            ));
        }
    }
}

/// A mixture's rows are all for training, but never a test row; of plain examples the split decides,
/// and for validation the task.
fn is_of(row: &MixtureRow, split: Split, name: &Path) -> Result<bool> {
    let of_mixture = !row.mixture_id.is_empty();
    if of_mixture && split == Split::Train && row.example.split == "test" {
        bail_user!(
            "{}: example {} is of the test split; a mixture must not hold test rows",
            name.display(),
            row.example.example_id
        );
    }
    let of_split = row.example.split == split.name();
    Ok(match split {
        Split::Train => of_mixture || of_split,
        Split::Validation(tasks) => !of_mixture && of_split && tasks.contains(&row.example.task),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_sees_tokens_mask_and_language() {
        let document = |targets: Vec<i32>| Document {
            example_id: "a".into(),
            language: 0,
            tokens: [1, 2].into(),
            targets: targets.into(),
            cut: false,
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
