//! Reading a file into batches of rows, whatever its layout, and taking a row of a batch apart into fields.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use artifact::error::user;
use artifact::{Bar, bail_user};
use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::Encoding;
use polars::prelude::DataFrame;

use crate::config::Format;
use crate::fields::{Fields, Value, cells};
use crate::input::{Input, Layout, open, unreadable};
use crate::rejects::{Reason, Refusal};
use crate::split::{Block, Boundary, Row, Splitter};

/// Rows of a Parquet file that make a batch.
const FRAME_ROWS: usize = 4096;

/// How the rows of a batch are laid out.
pub(crate) enum Shape {
    /// JSON objects.
    Json,
    /// Cells under these names; without names a cell is called by its number.
    Cells { names: Arc<Vec<String>>, delimiter: u8, quoting: bool },
    /// Lines of a data frame; a row's start is its index.
    Frame(DataFrame),
}

/// Some rows of a file, in order.
pub(crate) struct Batch {
    pub shape: Shape,
    pub block: Block,
}

/// What to read and how.
pub(crate) struct Reading<'a> {
    pub path: &'a Path,
    pub format: &'a Format,
    pub encoding: Option<&'static Encoding>,
    /// Further columns of a file of lines, each with its file.
    pub parallel: &'a [(String, PathBuf)],
    pub max_row_bytes: usize,
    /// A folder for what must be unpacked.
    pub scratch: &'a Path,
    pub bar: Option<&'a Bar>,
}

impl Reading<'_> {
    /// Reads the file to its end. `each` is given the batches in order.
    ///
    /// # Errors
    /// A user error where the file is empty, cut off or not of its kind; whatever `each` returns.
    pub(crate) fn batches(&self, each: &mut dyn FnMut(Batch) -> Result<()>) -> Result<()> {
        let input = open(self.path, self.format, self.encoding, self.bar)?;
        let mut rows = 0;
        let mut counted = |batch: Batch| {
            rows += batch.block.rows.len() + batch.block.too_long.len();
            each(batch)
        };
        match input.layout {
            Layout::Lines => self.lines(input, &mut counted)?,
            _ if !self.parallel.is_empty() => {
                bail_user!("{}: `parallel` needs a file of lines", self.path.display())
            }
            Layout::Parquet => self.frames(input, &mut counted)?,
            Layout::JsonLines => {
                self.blocks(input, Boundary::Line, &|| Shape::Json, &mut counted)?
            }
            Layout::JsonArray => {
                self.blocks(input, Boundary::Element, &|| Shape::Json, &mut counted)?
            }
            Layout::Cells { delimiter, header, quoting } => {
                self.cells(input, delimiter, header, quoting, &mut counted)?
            }
        }
        if rows == 0 {
            bail_user!("{}: there is no row in the file", self.path.display());
        }
        Ok(())
    }

    fn blocks(
        &self,
        input: Input,
        boundary: Boundary,
        shape: &dyn Fn() -> Shape,
        each: &mut dyn FnMut(Batch) -> Result<()>,
    ) -> Result<()> {
        let compression = input.compression;
        let mut splitter = Splitter::new(input.bytes, boundary, self.max_row_bytes, false);
        while let Some(block) =
            splitter.next_block().map_err(|error| self.failure(compression, &error))?
        {
            each(Batch { shape: shape(), block })?;
        }
        Ok(())
    }

    fn cells(
        &self,
        input: Input,
        delimiter: u8,
        header: bool,
        quoting: bool,
        each: &mut dyn FnMut(Batch) -> Result<()>,
    ) -> Result<()> {
        let boundary = if quoting { Boundary::Record { delimiter } } else { Boundary::Line };
        let mut names: Option<Arc<Vec<String>>> = if header { None } else { Some(Arc::default()) };
        self.blocks(input, boundary, &|| Shape::Json, &mut |mut batch| {
            let names = match &names {
                Some(names) => names,
                None if batch.block.rows.is_empty() => {
                    bail_user!("{}: the header is too long", self.path.display())
                }
                None => {
                    let row = batch.block.rows.remove(0);
                    let line = std::str::from_utf8(batch.block.row(&row)).map_err(|_| {
                        user(format!(
                            "{}: the header is not UTF-8; say its `encoding`",
                            self.path.display()
                        ))
                    })?;
                    names.insert(Arc::new(
                        cells(line, delimiter, quoting).into_iter().map(Cow::into_owned).collect(),
                    ))
                }
            };
            if header {
                batch.block.rows.iter_mut().for_each(|row| row.number -= 1);
            }
            batch.shape = Shape::Cells { names: names.clone(), delimiter, quoting };
            each(batch)
        })
    }

    /// Lines, and beside each the line of the same number of the parallel files. They go on as cells between line feeds.
    fn lines(&self, input: Input, each: &mut dyn FnMut(Batch) -> Result<()>) -> Result<()> {
        let names = ["text"].into_iter().chain(self.parallel.iter().map(|(name, _)| name.as_str()));
        let names: Arc<Vec<String>> = Arc::new(names.map(String::from).collect());
        let shape = || Shape::Cells { names: names.clone(), delimiter: b'\n', quoting: false };
        if self.parallel.is_empty() {
            return self.blocks(input, Boundary::Line, &shape, each);
        }
        let mut streams = vec![Lines::new(self, self.path, input)];
        for (_, path) in self.parallel {
            streams.push(Lines::new(self, path, open(path, self.format, self.encoding, None)?));
        }
        loop {
            let mut block = Block::default();
            while block.rows.len() < 2048 {
                let start = block.bytes.len();
                let mut ended = Vec::new();
                for stream in &mut streams {
                    let line = stream.next()?;
                    ended.push(line.is_none());
                    block.bytes.extend_from_slice(line.unwrap_or_default());
                    block.bytes.push(b'\n');
                }
                if let Some(short) = ended.iter().position(|ended| *ended) {
                    block.bytes.truncate(start);
                    if let Some(long) = ended.iter().position(|ended| !*ended) {
                        let (short, long) = (&streams[short], &streams[long]);
                        bail_user!(
                            "{} has {} lines and {} has more: parallel files need as many",
                            short.path.display(),
                            short.read,
                            long.path.display()
                        );
                    }
                    break;
                }
                let (end, number) = (block.bytes.len() - 1, streams[0].read);
                if !block.bytes[start..end].trim_ascii().is_empty() {
                    block.rows.push(Row { start, end, line: number, number });
                }
            }
            if block.rows.is_empty() && block.bytes.is_empty() {
                return Ok(());
            }
            each(Batch { shape: shape(), block })?;
        }
    }

    /// A Parquet file by row groups. A compressed one is unpacked first, since its index stands at its end.
    fn frames(&self, mut input: Input, each: &mut dyn FnMut(Batch) -> Result<()>) -> Result<()> {
        let unpacked = self.scratch.join("unpacked.parquet");
        let packed = input.compression.is_some();
        if packed {
            let mut file = File::create(&unpacked)
                .with_context(|| format!("cannot write {}", unpacked.display()))?;
            io::copy(&mut input.bytes, &mut file)
                .map_err(|error| self.failure(input.compression, &error))?;
        }
        let path = if packed { unpacked.as_path() } else { self.path };
        let mut number = 0;
        for group in artifact::parquet::row_groups(path, None)? {
            let group = group?;
            for start in (0..group.height()).step_by(FRAME_ROWS) {
                let frame = group.slice(start as i64, FRAME_ROWS);
                let rows = (0..frame.height()).map(|index| {
                    number += 1;
                    Row { start: index, end: index, line: number, number }
                });
                let block = Block { rows: rows.collect(), ..Block::default() };
                each(Batch { shape: Shape::Frame(frame), block })?;
            }
        }
        if packed {
            std::fs::remove_file(&unpacked)
                .with_context(|| format!("cannot remove {}", unpacked.display()))?;
        }
        Ok(())
    }

    fn failure(&self, compression: Option<&str>, error: &io::Error) -> anyhow::Error {
        unreadable(self.path, compression, error)
    }
}

/// The lines of a file, one by one.
struct Lines<'a> {
    reading: &'a Reading<'a>,
    path: &'a Path,
    compression: Option<&'static str>,
    splitter: Splitter<Box<dyn Read + Send>>,
    block: Block,
    next: usize,
    /// Lines given out.
    read: u64,
}

impl<'a> Lines<'a> {
    fn new(reading: &'a Reading<'a>, path: &'a Path, input: Input) -> Self {
        let splitter = Splitter::new(input.bytes, Boundary::Line, reading.max_row_bytes, true);
        Lines {
            reading,
            path,
            compression: input.compression,
            splitter,
            block: Block::default(),
            next: 0,
            read: 0,
        }
    }

    fn next(&mut self) -> Result<Option<&[u8]>> {
        while self.next == self.block.rows.len() {
            let block = self
                .splitter
                .next_block()
                .map_err(|error| unreadable(self.path, self.compression, &error))?;
            let Some(block) = block else { return Ok(None) };
            if let Some((line, bytes, _)) = block.too_long.first() {
                let limit = self.reading.max_row_bytes;
                bail_user!(
                    "{}: line {line} has {bytes} bytes, more than max_row_bytes = {limit}",
                    self.path.display()
                );
            }
            self.block = block;
            self.next = 0;
        }
        self.next += 1;
        self.read += 1;
        Ok(Some(self.block.row(&self.block.rows[self.next - 1])))
    }
}

impl Batch {
    /// The fields of a row of this batch.
    pub(crate) fn fields(&self, row: &Row) -> Result<Fields<'_>, Refusal> {
        match &self.shape {
            Shape::Frame(frame) => Ok(Fields::from_frame(frame, row.start)),
            Shape::Json => Fields::from_json(utf8(self.block.row(row))?),
            Shape::Cells { names, delimiter, quoting } => {
                let cells = cells(utf8(self.block.row(row))?, *delimiter, *quoting);
                if !names.is_empty() && cells.len() != names.len() {
                    let detail =
                        format!("{}, where there are {} columns", cells.len(), names.len());
                    return Err(Refusal::new(Reason::WrongCells, detail));
                }
                let mut fields = Fields::default();
                for (index, cell) in cells.into_iter().enumerate() {
                    let name =
                        names.get(index).map_or(Cow::Owned((index + 1).to_string()), |name| {
                            Cow::Borrowed(name.as_str())
                        });
                    fields.push(name, Value::Text(cell));
                }
                Ok(fields)
            }
        }
    }

    /// The columns that every row has; `None` where rows have keys of their own.
    pub(crate) fn columns(&self) -> Option<Vec<String>> {
        match &self.shape {
            Shape::Json => None,
            Shape::Cells { names, .. } if names.is_empty() => None,
            Shape::Cells { names, .. } => Some(names.to_vec()),
            Shape::Frame(frame) => {
                Some(frame.get_column_names().iter().map(|name| name.to_string()).collect())
            }
        }
    }

    /// The row as it stands, to show.
    pub(crate) fn raw(&self, row: &Row) -> String {
        match &self.shape {
            Shape::Frame(frame) => crate::rejects::shown(
                Fields::from_frame(frame, row.start).unused().unwrap_or_default().as_bytes(),
            ),
            _ => crate::rejects::shown(self.block.row(row)),
        }
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(bytes).map_err(|error| {
        let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
        detector.feed(bytes, true);
        let guess = detector.guess(None, Utf8Detection::Deny).name();
        let at = error.valid_up_to() + 1;
        Refusal::new(
            Reason::InvalidUtf8,
            format!(
                "from byte {at} of the row on; if the file is in {guess}, say so with `encoding`"
            ),
        )
    })
}
