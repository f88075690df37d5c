//! Opening an input: compression by its magic bytes, character encoding by its byte-order mark or as told, kind by name and
//! content. Out comes a stream of UTF-8 bytes, in which what could not be decoded stays invalid so that its row is rejected.

use std::fs::File;
use std::io::{self, BufReader, Chain, Cursor, Read};
use std::path::Path;

use anyhow::Result;
use artifact::error::{open_input, user};
use artifact::{Bar, bail_user};
use encoding_rs::{Decoder, DecoderResult, Encoding};

use crate::config::{Format, Kind, OrTable};

/// How much of a file is looked at to tell its kind.
const HEAD_BYTES: usize = 64 << 10;

/// The layout of a file, decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    JsonLines,
    JsonArray,
    Cells { delimiter: u8, header: bool, quoting: bool },
    Lines,
    Parquet,
}

/// An open input.
pub(crate) struct Input {
    pub layout: Layout,
    pub bytes: Box<dyn Read + Send>,
    /// What a failure of reading means: the compression, whose data may be cut off.
    pub compression: Option<&'static str>,
}

/// Opens a file. `bar` counts the bytes read from disk.
///
/// # Errors
/// A user error where the file cannot be read, is empty, or is not of the kind it is said to be.
pub(crate) fn open(
    path: &Path,
    format: &Format,
    encoding: Option<&'static Encoding>,
    bar: Option<&Bar>,
) -> Result<Input> {
    let file = Counted { file: open_input(path)?, bar: bar.cloned() };
    let (head, raw) = peek(Box::new(BufReader::with_capacity(HEAD_BYTES, file)), 4)
        .map_err(|e| unreadable(path, None, &e))?;
    let compression = match head.as_slice() {
        [0x1f, 0x8b, ..] => Some("gzip"),
        [0x28, 0xb5, 0x2f, 0xfd] => Some("zstd"),
        _ => None,
    };
    let failure = |error: io::Error| unreadable(path, compression, &error);
    let plain: Box<dyn Read + Send> = match compression {
        Some("gzip") => Box::new(flate2::read::MultiGzDecoder::new(raw)),
        Some(_) => Box::new(zstd::Decoder::new(raw).map_err(failure)?),
        None => raw,
    };
    let (head, plain) = peek(plain, HEAD_BYTES).map_err(failure)?;
    if head.is_empty() {
        bail_user!("{}: the file is empty", path.display());
    }
    if head.starts_with(b"PAR1") {
        return Ok(Input { layout: Layout::Parquet, bytes: plain, compression });
    }
    let marked = Encoding::for_bom(&head).map(|(encoding, _)| encoding);
    let decoded: Box<dyn Read + Send> = match encoding.or(marked) {
        Some(encoding) => Box::new(Transcoded::new(plain, encoding)),
        None => plain,
    };
    let (head, bytes) = peek(decoded, HEAD_BYTES).map_err(failure)?;
    let layout = layout(path, format, &head)?;
    Ok(Input { layout, bytes, compression })
}

/// The user error for an input that cannot be read to its end.
pub(crate) fn unreadable(
    path: &Path,
    compression: Option<&str>,
    error: &io::Error,
) -> anyhow::Error {
    match compression {
        Some(kind) => user(format!(
            "{}: the {kind} data end too early or are damaged ({error}); was the file cut off?",
            path.display()
        )),
        None => artifact::error::input_error(path, error),
    }
}

/// The format in full of a setting in short.
pub(crate) fn format_of(setting: Option<&OrTable<Format>>) -> Result<Format> {
    match setting {
        None => Ok(Format::default()),
        Some(OrTable::Table(format)) => Ok(format.clone()),
        Some(OrTable::Text(kind)) => {
            let known = serde::de::value::StrDeserializer::<serde::de::value::Error>::new(kind);
            let kind = serde::Deserialize::deserialize(known)
                .map_err(|error| user(format!("format: {error}")))?;
            Ok(Format { kind, ..Format::default() })
        }
    }
}

fn layout(path: &Path, format: &Format, head: &[u8]) -> Result<Layout> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_lowercase();
    let name = name.strip_suffix(".gz").or(name.strip_suffix(".zst")).unwrap_or(&name);
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    let cells = |delimiter: char| -> Result<Layout> {
        let delimiter = format.delimiter.unwrap_or(delimiter);
        let byte = u8::try_from(delimiter).ok().filter(u8::is_ascii);
        let delimiter = byte.ok_or_else(|| {
            user(format!("format: delimiter {delimiter:?} is not an ASCII character"))
        })?;
        Ok(Layout::Cells {
            delimiter,
            header: format.header.unwrap_or(true),
            quoting: format.quoting.unwrap_or(true),
        })
    };
    match (format.kind, extension) {
        (Kind::Jsonl, _) => Ok(Layout::JsonLines),
        (Kind::Csv, _) | (Kind::Auto, "csv") => cells(','),
        (Kind::Tsv, _) | (Kind::Auto, "tsv") => cells('\t'),
        (Kind::Lines, _) => Ok(Layout::Lines),
        (Kind::Parquet, _) | (Kind::Auto, "parquet") => Err(user(format!(
            "{}: not a Parquet file (it does not begin with PAR1)",
            path.display()
        ))),
        (Kind::Json, _) | (Kind::Auto, "json" | "jsonl" | "ndjson") => {
            match (json(head), extension) {
                (Some(layout), _) => Ok(layout),
                (None, "jsonl" | "ndjson") => Ok(Layout::JsonLines),
                (None, _) => Err(user(format!(
                    "{}: neither a JSON array nor JSON lines; one object that holds everything is not a list of rows",
                    path.display()
                ))),
            }
        }
        (Kind::Auto, _) => Ok(json(head).unwrap_or(Layout::Lines)),
    }
}

/// Array or lines, where the head is JSON objects in one of the two.
fn json(head: &[u8]) -> Option<Layout> {
    let text = head.trim_ascii_start();
    match text.first()? {
        b'[' => matches!(text[1..].trim_ascii_start().first(), None | Some(b'{' | b']'))
            .then_some(Layout::JsonArray),
        b'{' => {
            let line = text.split(|byte| *byte == b'\n').next()?;
            let whole = line.len() < text.len() || head.len() < HEAD_BYTES;
            (!whole || serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok())
                .then_some(Layout::JsonLines)
        }
        _ => None,
    }
}

/// Reads up to `bytes` ahead; the stream given back starts with them again.
fn peek(
    mut stream: Box<dyn Read + Send>,
    bytes: usize,
) -> io::Result<(Vec<u8>, Box<dyn Read + Send>)> {
    let mut head = Vec::with_capacity(bytes);
    (&mut stream).take(bytes as u64).read_to_end(&mut head)?;
    let whole: Chain<Cursor<Vec<u8>>, _> = Cursor::new(head.clone()).chain(stream);
    Ok((head, Box::new(whole)))
}

/// A file that tells a bar how much of it was read.
struct Counted {
    file: File,
    bar: Option<Bar>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        if let Some(bar) = &self.bar {
            bar.inc(read as u64);
        }
        Ok(read)
    }
}

/// A stream turned into UTF-8. A sequence that is not of the encoding becomes the byte 0xFF, which no UTF-8 text holds.
struct Transcoded<R> {
    input: R,
    decoder: Decoder,
    raw: Vec<u8>,
    raw_start: usize,
    out: Vec<u8>,
    out_start: usize,
    ended: bool,
}

impl<R: Read> Transcoded<R> {
    fn new(input: R, encoding: &'static Encoding) -> Self {
        let decoder = encoding.new_decoder_with_bom_removal();
        Transcoded {
            input,
            decoder,
            raw: Vec::new(),
            raw_start: 0,
            out: Vec::new(),
            out_start: 0,
            ended: false,
        }
    }

    fn refill(&mut self) -> io::Result<()> {
        self.out.clear();
        self.out_start = 0;
        while self.out.is_empty() && !self.ended {
            if self.raw_start == self.raw.len() {
                self.raw.resize(32 << 10, 0);
                let read = self.input.read(&mut self.raw)?;
                self.raw.truncate(read);
                self.raw_start = 0;
            }
            let last = self.raw.is_empty();
            let mut piece = [0; 8 << 10];
            let (result, read, written) = self.decoder.decode_to_utf8_without_replacement(
                &self.raw[self.raw_start..],
                &mut piece,
                last,
            );
            self.raw_start += read;
            self.out.extend_from_slice(&piece[..written]);
            match result {
                DecoderResult::Malformed(..) => self.out.push(0xff),
                DecoderResult::InputEmpty => self.ended = last,
                DecoderResult::OutputFull => {}
            }
        }
        Ok(())
    }
}

impl<R: Read> Read for Transcoded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.out_start == self.out.len() {
            self.refill()?;
        }
        let take = buffer.len().min(self.out.len() - self.out_start);
        buffer[..take].copy_from_slice(&self.out[self.out_start..self.out_start + take]);
        self.out_start += take;
        Ok(take)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str, head: &str) -> Option<Layout> {
        layout(Path::new(name), &Format::default(), head.as_bytes()).ok()
    }

    #[test]
    fn the_kind_is_seen_from_name_and_content() {
        let tsv = Layout::Cells { delimiter: b'\t', header: true, quoting: true };
        for (name, head, expected) in [
            ("a.json", "[\n {\"a\": 1}", Some(Layout::JsonArray)),
            ("a.json", "{\"a\": 1}\n{\"a\": 2}\n", Some(Layout::JsonLines)),
            ("a.json", "{\n  \"data\": []\n}", None),
            ("train.txt", "{\"a\": 1}\n", Some(Layout::JsonLines)),
            ("train.es", "Natalia vendió clips", Some(Layout::Lines)),
            ("notes.txt", "[sic] a bracket", Some(Layout::Lines)),
            ("a.tsv.GZ", "x\ty", Some(tsv)),
            ("a.parquet", "not", None),
        ] {
            assert_eq!(kind(name, head), expected, "{name} {head:?}");
        }
    }

    #[test]
    fn transcoding_marks_what_it_cannot_decode() {
        let utf16: Vec<u8> =
            "\u{feff}añ字".encode_utf16().flat_map(u16::to_le_bytes).chain([0x00, 0xd8]).collect();
        let mut out = Vec::new();
        Transcoded::new(&utf16[..], encoding_rs::UTF_16LE).read_to_end(&mut out).unwrap();
        assert_eq!(out, [&b"a\xc3\xb1\xe5\xad\x97"[..], b"\xff"].concat());
        let long = vec![0xe9; 100_000];
        let mut out = String::new();
        Transcoded::new(&long[..], encoding_rs::WINDOWS_1252).read_to_string(&mut out).unwrap();
        assert_eq!(out, "é".repeat(100_000));
    }
}
