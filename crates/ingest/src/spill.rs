//! Finding duplicates among any number of rows in fixed memory: (hash, row) pairs go to files by their first bits, and each
//! file is sorted alone; a file that is too large is dealt out again by the next bits. Rows stand in files meanwhile.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use artifact::Context;
use polars::prelude::{
    CompatLevel, DataFrame, IpcStreamReader, IpcStreamWriter, SerReader, SerWriter,
};

use crate::near::{HASHES, Print, Sketch, similar};
use crate::rejects::Reason;

/// Bits of a hash that choose its file.
const BITS: u32 = 6;
const PARTS: usize = 1 << BITS;
/// Pairs that are sorted in memory at once.
const PAIRS_MAX: u64 = 2 << 20;
const PAIR_BYTES: u64 = 16;
/// Rows are kept in files of about this size.
const SEGMENT_BYTES: usize = 32 << 20;
/// Of rows that meet in a band each is compared with so many that differ from each other.
const COMPARED_MAX: usize = 8;

/// Pairs of a hash and a row, dealt out to files.
struct Pairs {
    folder: PathBuf,
    shift: u32,
    files: Vec<Option<BufWriter<File>>>,
    counts: Vec<u64>,
}

impl Pairs {
    fn new(folder: PathBuf, depth: u32) -> Result<Pairs> {
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot write {}", folder.display()))?;
        let files = (0..PARTS).map(|_| None).collect();
        Ok(Pairs { folder, shift: 64 - BITS * (depth + 1), files, counts: vec![0; PARTS] })
    }

    fn path(&self, part: usize) -> PathBuf {
        self.folder.join(part.to_string())
    }

    fn push(&mut self, hash: u64, row: u64) -> Result<()> {
        let part = (hash >> self.shift) as usize % PARTS;
        let path = self.path(part);
        let context = || format!("cannot write {}", path.display());
        let file = match &mut self.files[part] {
            Some(file) => file,
            empty => empty.insert(BufWriter::with_capacity(
                32 << 10,
                File::create(&path).with_context(context)?,
            )),
        };
        let mut pair = [0; PAIR_BYTES as usize];
        pair[..8].copy_from_slice(&hash.to_le_bytes());
        pair[8..].copy_from_slice(&row.to_le_bytes());
        file.write_all(&pair).with_context(context)?;
        self.counts[part] += 1;
        Ok(())
    }

    /// Gives `each` the rows, ascending, of every hash that more than one row has.
    fn groups(
        mut self,
        depth: u32,
        ctx: &Context,
        each: &mut dyn FnMut(&[u64]) -> Result<()>,
    ) -> Result<()> {
        for part in 0..PARTS {
            let Some(mut file) = self.files[part].take() else { continue };
            ctx.check()?;
            let path = self.path(part);
            let context = || format!("cannot read {}", path.display());
            file.flush().with_context(context)?;
            drop(file);
            let mut reader =
                BufReader::with_capacity(1 << 20, File::open(&path).with_context(context)?);
            let (count, last) = (self.counts[part], self.shift == 64 - BITS * (64 / BITS));
            if count > PAIRS_MAX && !last {
                let mut parts = Pairs::new(self.folder.join(format!("{part}-parts")), depth + 1)?;
                for _ in 0..count {
                    let (hash, row) = read_pair(&mut reader).with_context(context)?;
                    parts.push(hash, row)?;
                }
                std::fs::remove_file(&path).with_context(context)?;
                parts.groups(depth + 1, ctx, each)?;
                continue;
            }
            let mut pairs = (0..count)
                .map(|_| read_pair(&mut reader))
                .collect::<std::io::Result<Vec<_>>>()
                .with_context(context)?;
            std::fs::remove_file(&path).with_context(context)?;
            pairs.sort_unstable();
            for group in pairs.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1) {
                let rows: Vec<u64> = group.iter().map(|(_, row)| *row).collect();
                each(&rows)?;
            }
        }
        Ok(())
    }
}

fn read_pair(reader: &mut impl Read) -> std::io::Result<(u64, u64)> {
    let mut pair = [[0; 8]; 2];
    reader.read_exact(pair.as_flattened_mut())?;
    Ok((u64::from_le_bytes(pair[0]), u64::from_le_bytes(pair[1])))
}

/// The rows of an ingest between its two passes, and what their duplicates are found by.
pub(crate) struct Spill {
    folder: PathBuf,
    ids: Pairs,
    exact: Pairs,
    near: Pairs,
    /// Fixed-size sketches by row; rows without one have zeros.
    sketches: BufWriter<File>,
    has_near: bool,
    pending: Option<DataFrame>,
    segments: usize,
    rows: u64,
}

/// A row that goes, the earlier one that it repeats, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Dropped {
    pub row: u64,
    pub kept: u64,
    pub reason: Reason,
}

impl Spill {
    /// Files in a new folder. `near`: whether near duplicates are looked for at all.
    pub(crate) fn new(folder: &Path, near: bool) -> Result<Spill> {
        let pairs = |name: &str| Pairs::new(folder.join(name), 0);
        let (ids, exact, near_pairs) = (pairs("ids")?, pairs("exact")?, pairs("near")?);
        let sketches = folder.join("sketches");
        let sketches = File::create(&sketches)
            .with_context(|| format!("cannot write {}", sketches.display()))?;
        Ok(Spill {
            folder: folder.to_path_buf(),
            ids,
            exact,
            near: near_pairs,
            sketches: BufWriter::with_capacity(256 << 10, sketches),
            has_near: near,
            pending: None,
            segments: 0,
            rows: 0,
        })
    }

    /// Adds rows and their prints.
    pub(crate) fn add(&mut self, rows: DataFrame, prints: &[Print]) -> Result<()> {
        for print in prints {
            if let Some(id) = print.id {
                self.ids.push(id, self.rows)?;
            }
            if let Some(hash) = print.exact {
                self.exact.push(hash, self.rows)?;
            }
            if let Some(near) = &print.near {
                for band in near.bands {
                    self.near.push(band, self.rows)?;
                }
            }
            if self.has_near {
                let sketch = print.near.as_ref().map_or([0; HASHES], |near| near.sketch);
                self.sketches.write_all(&sketch).context("cannot write the sketches")?;
            }
            self.rows += 1;
        }
        match &mut self.pending {
            Some(pending) => {
                pending.vstack_mut_owned(rows)?;
            }
            None => self.pending = Some(rows),
        }
        if self.pending.as_ref().is_some_and(|pending| pending.estimated_size() >= SEGMENT_BYTES) {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let Some(mut pending) = self.pending.take().filter(|pending| pending.height() > 0) else {
            return Ok(());
        };
        let path = self.segment(self.segments);
        let context = || format!("cannot write {}", path.display());
        let file = BufWriter::new(File::create(&path).with_context(context)?);
        pending.rechunk_mut();
        let mut writer = IpcStreamWriter::new(file).with_compat_level(CompatLevel::newest());
        SerWriter::finish(&mut writer, &mut pending)
            .map_err(anyhow::Error::from)
            .with_context(context)?;
        self.segments += 1;
        Ok(())
    }

    fn segment(&self, index: usize) -> PathBuf {
        self.folder.join(format!("rows-{index}"))
    }

    /// The rows that repeat an earlier one, ascending.
    pub(crate) fn resolve(&mut self, ctx: &Context) -> Result<Vec<Dropped>> {
        self.flush()?;
        self.sketches.flush().context("cannot write the sketches")?;
        let mut dropped: HashMap<u64, Dropped> = HashMap::new();
        let ids = std::mem::replace(&mut self.ids, Pairs::new(self.folder.join("done"), 0)?);
        ids.groups(0, ctx, &mut |rows| {
            dropped.extend(
                rows[1..]
                    .iter()
                    .map(|&row| (row, Dropped { row, kept: rows[0], reason: Reason::DuplicateId })),
            );
            Ok(())
        })?;
        let exact = std::mem::replace(&mut self.exact, Pairs::new(self.folder.join("done"), 0)?);
        exact.groups(0, ctx, &mut |rows| {
            let rows: Vec<u64> =
                rows.iter().copied().filter(|row| !dropped.contains_key(row)).collect();
            let repeats = rows
                .iter()
                .skip(1)
                .map(|&row| (row, Dropped { row, kept: rows[0], reason: Reason::Duplicate }));
            dropped.extend(repeats);
            Ok(())
        })?;
        let sketches = self.folder.join("sketches");
        let mut sketches =
            File::open(&sketches).with_context(|| format!("cannot read {}", sketches.display()))?;
        let mut sketch = |row: u64| -> Result<Sketch> {
            let mut sketch = [0; HASHES];
            sketches.seek(SeekFrom::Start(row * HASHES as u64))?;
            sketches.read_exact(&mut sketch).context("cannot read the sketches")?;
            Ok(sketch)
        };
        let mut clusters = Clusters::default();
        let near = std::mem::replace(&mut self.near, Pairs::new(self.folder.join("done"), 0)?);
        near.groups(0, ctx, &mut |rows| {
            let rows: Vec<u64> =
                rows.iter().copied().filter(|row| !dropped.contains_key(row)).collect();
            if rows.len() > 1 { clusters.join_similar(&rows, &mut sketch) } else { Ok(()) }
        })?;
        let mut dropped: Vec<Dropped> = dropped.into_values().collect();
        dropped.extend(clusters.repeats());
        dropped.sort_unstable_by_key(|dropped| dropped.row);
        Ok(dropped)
    }

    /// Gives `each` the rows again, in order, with the number of the first.
    pub(crate) fn replay(&self, each: &mut dyn FnMut(u64, DataFrame) -> Result<()>) -> Result<()> {
        let mut first = 0;
        for index in 0..self.segments {
            let path = self.segment(index);
            let context = || format!("cannot read {}", path.display());
            let file = BufReader::new(File::open(&path).with_context(context)?);
            let rows = IpcStreamReader::new(file)
                .finish()
                .map_err(anyhow::Error::from)
                .with_context(context)?;
            std::fs::remove_file(&path).with_context(context)?;
            let height = rows.height() as u64;
            each(first, rows)?;
            first += height;
        }
        Ok(())
    }
}

/// Rows joined by similarity; the first of a cluster stands for it (union-find over the joined rows alone).
#[derive(Default)]
struct Clusters {
    parents: HashMap<u64, u64>,
}

impl Clusters {
    fn first(&mut self, row: u64) -> u64 {
        let parent = *self.parents.get(&row).unwrap_or(&row);
        if parent == row {
            return row;
        }
        let first = self.first(parent);
        self.parents.insert(row, first);
        first
    }

    fn join_similar(
        &mut self,
        rows: &[u64],
        sketch: &mut dyn FnMut(u64) -> Result<Sketch>,
    ) -> Result<()> {
        let mut distinct: Vec<(u64, Sketch)> = Vec::new();
        for &row in rows {
            let own = sketch(row)?;
            let mut found = false;
            for (other, theirs) in &distinct {
                if self.first(row) == self.first(*other) || similar(&own, theirs) {
                    let (a, b) = (self.first(row), self.first(*other));
                    self.parents.insert(a.max(b), a.min(b));
                    found = true;
                    break;
                }
            }
            if !found && distinct.len() < COMPARED_MAX {
                distinct.push((row, own));
            }
        }
        Ok(())
    }

    fn repeats(mut self) -> Vec<Dropped> {
        let rows: Vec<u64> = self.parents.keys().copied().collect();
        let repeats = rows.into_iter().map(|row| Dropped {
            row,
            kept: self.first(row),
            reason: Reason::NearDuplicate,
        });
        repeats.filter(|dropped| dropped.kept != dropped.row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_hashes_come_out_as_groups_however_often_they_are_dealt_out() {
        let folder = tempfile::tempdir().unwrap();
        for depth in [0, 1, 9] {
            let mut pairs = Pairs::new(folder.path().join(depth.to_string()), depth).unwrap();
            for row in 0..10_000u64 {
                pairs.push((row % 5000).wrapping_mul(0x9E37_79B9_7F4A_7C15), row).unwrap();
            }
            let mut groups = Vec::new();
            pairs
                .groups(depth, &Context::quiet(), &mut |rows| {
                    groups.push(rows.to_vec());
                    Ok(())
                })
                .unwrap();
            groups.sort();
            let expected: Vec<Vec<u64>> = (0..5000).map(|row| vec![row, row + 5000]).collect();
            assert_eq!(groups, expected);
        }
    }

    #[test]
    fn the_first_row_stands_for_its_cluster_in_whatever_order_pairs_come() {
        let sketches: HashMap<u64, Sketch> =
            (0..6).map(|row| (row, [row as u8 / 3; HASHES])).collect();
        for order in [[[4, 5], [3, 4], [0, 1], [1, 2]], [[1, 2], [0, 1], [3, 4], [4, 5]]] {
            let mut clusters = Clusters::default();
            for pair in order {
                clusters.join_similar(&pair, &mut |row| Ok(sketches[&row])).unwrap();
            }
            let mut kept: Vec<(u64, u64)> =
                clusters.repeats().iter().map(|d| (d.row, d.kept)).collect();
            kept.sort_unstable();
            assert_eq!(kept, [(1, 0), (2, 0), (4, 3), (5, 3)]);
        }
    }
}
