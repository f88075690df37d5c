//! Parquet through polars: read whole, by columns, or row group by row group; write zstd with the
//! schema's name and version in the metadata and row groups of at most 64 MB.

use std::{
    fs::File,
    io::{self, BufWriter, Cursor, Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use anyhow::{Context as _, Result};
use polars::{
    io::parquet::{
        metadata::FileMetadataRef,
        read::ParquetReader,
        write::{BatchedWriter, KeyValueMetadata, ParquetCompression, ParquetWriter},
    },
    prelude::{DataFrame, IpcStreamReader, SerReader},
};

use crate::{
    bail_user,
    error::{open_input, user},
    schema::Schema,
};

/// Row groups stay at or below this many bytes in memory, so that readers stream.
pub const ROW_GROUP_BYTES: usize = 64 << 20;
/// And at or below this many rows, so that a reader of narrow rows streams too.
const ROW_GROUP_ROWS: usize = 64 << 10;
const SCHEMA_KEY: &str = "isogloss.schema";
const VERSION_KEY: &str = "isogloss.version";

fn broken(path: &Path, error: impl std::fmt::Display) -> anyhow::Error {
    user(format!("{}: not a complete Parquet file ({error}); was it cut off?", path.display()))
}

fn reader(path: &Path) -> Result<ParquetReader<File>> {
    let file = open_input(path)?;
    if file.metadata()?.len() == 0 {
        bail_user!("{}: the file is empty, where a Parquet file is needed", path.display());
    }
    Ok(ParquetReader::new(file))
}

/// Refuses a file that says it is another artifact, or of a major version that is not known.
fn check_metadata(reader: &mut ParquetReader<File>, schema: &Schema, path: &Path) -> Result<()> {
    let metadata = reader.get_metadata().map_err(|error| broken(path, error))?;
    let value = |key: &str| {
        let pairs = metadata.key_value_metadata.as_ref()?;
        pairs.iter().find(|pair| pair.key == key)?.value.as_deref()
    };
    let Some(artifact) = value(SCHEMA_KEY) else { return Ok(()) };
    // A mixture is a table of examples with more columns.
    let fits =
        artifact == schema.artifact || (artifact == "mixture" && schema.artifact == "examples");
    if !fits {
        bail_user!(
            "{}: holds the artifact `{artifact}`, where `{}` is needed",
            path.display(),
            schema.artifact
        );
    }
    let version = value(VERSION_KEY).unwrap_or_default();
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major != Some(schema.version.0) {
        bail_user!(
            "{}: `{artifact}` of version {version}, where this isogloss reads version {}",
            path.display(),
            schema.version_text(),
        );
    }
    Ok(())
}

fn finish(df: DataFrame, schema: Option<&Schema>, path: &Path) -> Result<DataFrame> {
    match schema {
        Some(schema) => schema.conform(df, path),
        None => Ok(df),
    }
}

/// Reads a whole file. With a schema, its metadata and columns are checked and widened. `-` reads
/// an Arrow IPC stream from stdin.
pub fn read(path: &Path, schema: Option<&'static Schema>) -> Result<DataFrame> {
    if path == Path::new("-") {
        return finish(read_ipc(std::io::stdin().lock())?, schema, Path::new("stdin"));
    }
    let mut reader = reader(path)?;
    if let Some(schema) = schema {
        check_metadata(&mut reader, schema, path)?;
    }
    let df = reader.finish().map_err(|error| broken(path, error))?;
    finish(df, schema, path)
}

fn read_ipc(mut input: impl Read) -> Result<DataFrame> {
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes).context("cannot read stdin")?;
    IpcStreamReader::new(Cursor::new(bytes))
        .finish()
        .map_err(|error| user(format!("stdin: not an Arrow IPC stream ({error})")))
}

/// Reads these columns alone. They must exist; types are as the schema says.
pub fn read_columns(
    path: &Path,
    schema: Option<&'static Schema>,
    columns: &[&str],
) -> Result<DataFrame> {
    if path == Path::new("-") {
        return Ok(read(path, schema)?.select(columns.iter().copied())?);
    }
    let mut groups = row_groups(path, schema)?;
    groups.columns = Some(columns.iter().map(|&name| name.to_owned()).collect());
    let mut whole: Option<DataFrame> = None;
    for group in groups {
        match &mut whole {
            Some(whole) => {
                whole.vstack_mut(&group?)?;
            }
            None => whole = Some(group?),
        }
    }
    Ok(whole.unwrap_or_default())
}

/// The row groups of a file, one at a time.
pub struct RowGroups {
    path: PathBuf,
    schema: Option<&'static Schema>,
    metadata: Option<FileMetadataRef>,
    /// A stream from stdin has no row groups to seek to: it stands here whole.
    whole: Option<DataFrame>,
    columns: Option<Vec<String>>,
    rows: Vec<usize>,
    next: usize,
    start: usize,
}

/// Streams a file row group by row group; memory is bounded by the largest one. A file of no rows
/// gives one empty frame, so that its columns are checked all the same.
pub fn row_groups(path: &Path, schema: Option<&'static Schema>) -> Result<RowGroups> {
    let groups = |metadata, whole, rows: Vec<usize>| RowGroups {
        path: path.to_owned(),
        schema,
        metadata,
        whole,
        columns: None,
        rows,
        next: 0,
        start: 0,
    };
    if path == Path::new("-") {
        let whole = read(path, schema)?;
        let rows = vec![whole.height()];
        return Ok(groups(None, Some(whole), rows));
    }
    let mut reader = reader(path)?;
    if let Some(schema) = schema {
        check_metadata(&mut reader, schema, path)?;
    }
    let metadata = reader.get_metadata().map_err(|error| broken(path, error))?.clone();
    let mut rows: Vec<usize> = metadata.row_groups.iter().map(|group| group.num_rows()).collect();
    if rows.is_empty() {
        rows.push(0);
    }
    Ok(groups(Some(metadata), None, rows))
}

impl RowGroups {
    /// Rows in the whole file.
    pub fn total_rows(&self) -> usize {
        self.rows.iter().sum()
    }

    fn group(&self, start: usize, rows: usize) -> Result<DataFrame> {
        if let Some(whole) = &self.whole {
            return Ok(whole.clone());
        }
        let mut reader = reader(&self.path)?.with_slice(Some((start, rows)));
        if let Some(metadata) = &self.metadata {
            reader.set_metadata(metadata.clone());
        }
        // The schema may fill absent nullable columns in, so it is applied before the selection.
        let known = reader.schema().map_err(|error| broken(&self.path, error))?;
        let present = self.columns.as_ref().map(|columns| {
            columns.iter().filter(|name| known.contains(name)).cloned().collect::<Vec<_>>()
        });
        let df = match self.schema {
            None => reader.with_columns(present).finish(),
            Some(_) => {
                let wanted = present.map(|mut present| {
                    let all = self.schema.iter().flat_map(|schema| schema.columns);
                    for required in all.filter(|column| !column.nullable) {
                        let name = required.name.to_owned();
                        // Cheap columns are read for the check; conversations are not.
                        let cheap = required.kind != crate::schema::Kind::Messages;
                        if cheap && known.contains(&name) && !present.contains(&name) {
                            present.push(name);
                        }
                    }
                    present
                });
                reader.with_columns(wanted).finish()
            }
        }
        .map_err(|error| broken(&self.path, error))?;
        let Some(columns) = &self.columns else { return finish(df, self.schema, &self.path) };
        let mut out = Vec::with_capacity(columns.len());
        for name in columns {
            let spec =
                self.schema.and_then(|schema| schema.columns.iter().find(|spec| spec.name == name));
            out.push(match (df.column(name), spec) {
                (Ok(column), Some(spec)) => spec.conform(column, &self.path)?,
                (Ok(column), None) => column.clone(),
                (Err(_), Some(spec)) if spec.nullable => spec.nulls(df.height()),
                (Err(_), _) => {
                    bail_user!("{}: column `{name}` is missing", self.path.display())
                }
            });
        }
        Ok(DataFrame::new(df.height(), out)?)
    }
}

impl Iterator for RowGroups {
    type Item = Result<DataFrame>;

    fn next(&mut self) -> Option<Self::Item> {
        let rows = *self.rows.get(self.next)?;
        let group = self.group(self.start, rows);
        self.next += 1;
        self.start += rows;
        Some(group)
    }
}

/// Writes a whole frame.
pub fn write(path: &Path, schema: &'static Schema, df: &mut DataFrame) -> Result<()> {
    let mut writer = Writer::create(path, schema)?;
    writer.write(df)?;
    writer.finish()
}

/// Writes a file batch by batch. Small batches are gathered, large ones are cut, so that a row
/// group holds up to [`ROW_GROUP_BYTES`]. The first batch fixes the columns.
pub struct Writer {
    path: PathBuf,
    schema: &'static Schema,
    writer: Option<BatchedWriter<BufWriter<Watched>>>,
    failure: Failure,
    pending: Option<DataFrame>,
    rows: u64,
}

/// Why writing to a file failed last.
type Failure = Arc<Mutex<Option<io::Error>>>;

/// A file that notes why writing to it failed: the Parquet writer's errors do not always say so.
struct Watched {
    file: File,
    failure: Failure,
}

impl Watched {
    fn note(&self, error: io::Error) -> io::Error {
        let again = error.raw_os_error().map(io::Error::from_raw_os_error);
        if let Ok(mut failure) = self.failure.lock() {
            *failure = Some(again.unwrap_or_else(|| error.kind().into()));
        }
        error
    }
}

impl Write for Watched {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes).map_err(|error| self.note(error))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush().map_err(|error| self.note(error))
    }
}

impl Writer {
    /// A writer to a new file (an old one is replaced).
    pub fn create(path: &Path, schema: &'static Schema) -> Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            schema,
            writer: None,
            failure: Failure::default(),
            pending: None,
            rows: 0,
        })
    }

    /// The error for a failure of the Parquet writer, with the file system's reason where there is one.
    fn explain(&self, error: impl Into<anyhow::Error>) -> anyhow::Error {
        let reason = self.failure.lock().ok().and_then(|mut failure| failure.take());
        reason
            .map_or_else(|| error.into(), anyhow::Error::from)
            .context(format!("cannot write {}", self.path.display()))
    }

    /// Rows written so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Adds a batch.
    pub fn write(&mut self, df: &DataFrame) -> Result<()> {
        self.rows += df.height() as u64;
        match &mut self.pending {
            Some(pending) => {
                pending
                    .vstack_mut(df)
                    .with_context(|| format!("cannot add rows to {}", self.path.display()))?;
            }
            None => self.pending = Some(df.clone()),
        }
        self.flush(false)
    }

    /// Writes full row groups out; at the end (`all`) also what is left.
    fn flush(&mut self, all: bool) -> Result<()> {
        let Some(pending) = self.pending.take() else { return Ok(()) };
        let bytes = pending.estimated_size().max(1);
        let per_group = (pending.height() * (ROW_GROUP_BYTES / 2) / bytes).clamp(1, ROW_GROUP_ROWS);
        let mut start = 0;
        while pending.height() - start >= per_group || (all && start < pending.height()) {
            let group = pending.slice(start as i64, per_group);
            start += group.height();
            self.write_group(group)?;
        }
        if start < pending.height() || self.writer.is_none() {
            self.pending = Some(pending.slice(start as i64, pending.height()));
        }
        Ok(())
    }

    fn write_group(&mut self, mut group: DataFrame) -> Result<()> {
        let context = || format!("cannot write {}", self.path.display());
        group.rechunk_mut();
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                let file = File::create(&self.path).with_context(context)?;
                let pairs = vec![
                    (SCHEMA_KEY.to_owned(), self.schema.artifact.to_owned()),
                    (VERSION_KEY.to_owned(), self.schema.version_text()),
                ];
                let file = Watched { file, failure: self.failure.clone() };
                let writer = ParquetWriter::new(BufWriter::new(file))
                    .with_compression(ParquetCompression::Zstd(None))
                    .with_key_value_metadata(Some(KeyValueMetadata::from_static(pairs)))
                    .batched(group.schema())
                    .with_context(context)?;
                self.writer.insert(writer)
            }
        };
        if group.height() > 0
            && let Err(error) = writer.write_batch(&group)
        {
            return Err(self.explain(error));
        }
        Ok(())
    }

    /// Writes what is left and the footer. A file of no rows keeps its columns.
    pub fn finish(mut self) -> Result<()> {
        self.flush(true)?;
        if self.writer.is_none() {
            let empty = self.pending.take().unwrap_or_else(|| self.schema.empty());
            self.write_group(empty)?;
        }
        match self.writer.as_ref().map(BatchedWriter::finish) {
            Some(Err(error)) => Err(self.explain(error)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        error::is_user,
        example::{examples_to_frame, frame_to_examples, sample},
        schema::{EXAMPLES, SCORES},
    };

    #[test]
    fn a_full_disk_is_named_wherever_it_is_met() {
        // /dev/full answers every write with ENOSPC: of few rows it is the footer that meets it.
        for rows in [1, 2_000] {
            let mut frame = examples_to_frame(&sample(rows)).unwrap();
            let error = write(Path::new("/dev/full"), &EXAMPLES, &mut frame).unwrap_err();
            let said = format!("{error:#}");
            assert!(said.contains("/dev/full") && said.contains("No space left"), "{said}");
        }
    }

    #[test]
    fn a_file_comes_back_whole_by_columns_and_by_row_groups() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("examples.parquet");
        let rows = sample(200);
        let mut writer = Writer::create(&path, &EXAMPLES).unwrap();
        for part in rows.chunks(33) {
            writer.write(&examples_to_frame(part).unwrap()).unwrap();
        }
        assert_eq!(writer.rows(), 200);
        writer.finish().unwrap();
        assert_eq!(frame_to_examples(&read(&path, Some(&EXAMPLES)).unwrap()).unwrap(), rows);
        let ids = read_columns(&path, Some(&EXAMPLES), &["lang", "example_id", "meta"]).unwrap();
        assert_eq!(ids.get_column_names(), ["lang", "example_id", "meta"]);
        assert_eq!(ids.height(), 200);
        let mut streamed = Vec::new();
        for group in row_groups(&path, Some(&EXAMPLES)).unwrap() {
            streamed.extend(frame_to_examples(&group.unwrap()).unwrap());
        }
        assert_eq!(streamed, rows);
    }

    #[test]
    fn large_frames_are_cut_into_row_groups() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scores.parquet");
        let rows = 3 * ROW_GROUP_ROWS + 5;
        let values: Vec<f64> = (0..rows).map(|row| row as f64).collect();
        let text = vec!["x"; rows];
        let mut df =
            polars::df!("lang" => &text, "task" => &text, "metric" => &text, "value" => &values)
                .unwrap();
        write(&path, &SCORES, &mut df).unwrap();
        let groups: Vec<_> = row_groups(&path, Some(&SCORES))
            .unwrap()
            .map(|group| group.unwrap().height())
            .collect();
        assert_eq!(groups, [ROW_GROUP_ROWS, ROW_GROUP_ROWS, ROW_GROUP_ROWS, 5]);
    }

    #[test]
    fn a_file_of_no_rows_keeps_its_columns() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("examples.parquet");
        Writer::create(&path, &EXAMPLES).unwrap().finish().unwrap();
        let df = read(&path, Some(&EXAMPLES)).unwrap();
        assert_eq!((df.height(), df.width()), (0, EXAMPLES.columns.len()));
        assert_eq!(row_groups(&path, Some(&EXAMPLES)).unwrap().count(), 1);
        assert_eq!(read_columns(&path, Some(&EXAMPLES), &["lang"]).unwrap().width(), 1);
    }

    #[test]
    fn a_cut_file_another_artifact_and_an_empty_file_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("examples.parquet");
        write(&path, &EXAMPLES, &mut examples_to_frame(&sample(50)).unwrap()).unwrap();
        let wrong = read(&path, Some(&SCORES)).unwrap_err();
        assert!(
            is_user(&wrong) && wrong.to_string().contains("holds the artifact `examples`"),
            "{wrong}"
        );
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let cut = read(&path, Some(&EXAMPLES)).unwrap_err();
        assert!(is_user(&cut) && cut.to_string().contains("cut off"), "{cut}");
        std::fs::write(&path, "").unwrap();
        assert!(is_user(&read(&path, None).unwrap_err()));
    }

    #[test]
    fn a_newer_major_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.parquet");
        static NEWER: Schema =
            Schema { artifact: "examples", version: (9, 0), meaning: "", columns: &[] };
        write(&path, &NEWER, &mut examples_to_frame(&sample(2)).unwrap()).unwrap();
        let error = read(&path, Some(&EXAMPLES)).unwrap_err();
        assert!(error.to_string().contains("version 9.0"), "{error}");
    }
}
