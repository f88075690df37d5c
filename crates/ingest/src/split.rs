//! Cutting a byte stream into rows: at line feeds, at line feeds outside quotes (RFC 4180), or at the elements of a JSON
//! array. Rows come in blocks of about half a megabyte; a row over the limit is thrown away as it is read, never held whole.

use std::io::{self, Read};
use std::mem;

use memchr::{memchr, memchr_iter, memchr2};

const BLOCK_BYTES: usize = 512 << 10;
const BLOCK_ROWS: usize = 4096;
const READ_BYTES: usize = 128 << 10;
/// How much of a row that is too long is kept to show.
const SHOWN_BYTES: usize = 2048;

/// Where rows end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Boundary {
    Line,
    Record { delimiter: u8 },
    Element,
}

/// A row of a block: its bytes, where it stands, and its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub start: usize,
    pub end: usize,
    /// The line it begins at, from 1.
    pub line: u64,
    /// Its number among the rows of the file, from 1; of lines the line's.
    pub number: u64,
}

/// Some rows of a file in a row.
#[derive(Debug, Default)]
pub(crate) struct Block {
    pub bytes: Vec<u8>,
    pub rows: Vec<Row>,
    /// Rows over the limit: line, size, beginning.
    pub too_long: Vec<(u64, u64, Vec<u8>)>,
}

impl Block {
    pub(crate) fn row(&self, row: &Row) -> &[u8] {
        &self.bytes[row.start..row.end]
    }
}

/// A stream that is cut into rows.
pub(crate) struct Splitter<R> {
    input: R,
    scanner: Scanner,
    limit: usize,
    keep_blank: bool,
    buffer: Vec<u8>,
    /// Where the current row starts, and how far it is scanned.
    start: usize,
    scanned: usize,
    line: u64,
    number: u64,
    ended: bool,
}

impl<R: Read> Splitter<R> {
    /// `limit`: bytes of the longest row taken. `keep_blank`: whether blank rows come out.
    pub(crate) fn new(input: R, boundary: Boundary, limit: usize, keep_blank: bool) -> Self {
        let scanner = Scanner { boundary, state: State::Start, depth: 0 };
        Splitter {
            input,
            scanner,
            limit,
            keep_blank,
            buffer: Vec::new(),
            start: 0,
            scanned: 0,
            line: 1,
            number: 0,
            ended: false,
        }
    }

    /// The next rows; `None` at the end.
    pub(crate) fn next_block(&mut self) -> io::Result<Option<Block>> {
        let mut block = Block::default();
        while self.start < BLOCK_BYTES && block.rows.len() < BLOCK_ROWS {
            match self.scanner.scan(&self.buffer[self.scanned..]) {
                Scan::Row { content, next } => {
                    let (end, next) = (self.scanned + content, self.scanned + next);
                    self.take(&mut block, end, next);
                }
                Scan::More if self.ended => {
                    if self.start < self.buffer.len() {
                        self.scanner.finish()?;
                        let end = self.buffer.len();
                        self.take(&mut block, end, end);
                    }
                    break;
                }
                Scan::More => {
                    self.scanned = self.buffer.len();
                    if self.scanned - self.start > self.limit {
                        self.skip(&mut block)?;
                    } else {
                        self.read()?;
                    }
                }
            }
        }
        let rest = self.buffer.split_off(self.start);
        block.bytes = mem::replace(&mut self.buffer, rest);
        self.scanned -= self.start;
        self.start = 0;
        let more = !block.rows.is_empty()
            || !block.too_long.is_empty()
            || !self.buffer.is_empty()
            || !self.ended;
        Ok(more.then_some(block))
    }

    /// Puts the row that ends at `end` into the block; the next begins at `next`.
    fn take(&mut self, block: &mut Block, end: usize, next: usize) {
        let row = &self.buffer[self.start..end];
        let trimmed = row.strip_suffix(b"\r").unwrap_or(row);
        let from = self.start + self.scanner.lead(trimmed);
        let (start, end) = (from.min(self.start + trimmed.len()), self.start + trimmed.len());
        let blank = self.buffer[start..end].trim_ascii().is_empty();
        let lines = memchr_iter(b'\n', &self.buffer[self.start..next]).count() as u64;
        let lead_lines = memchr_iter(b'\n', &self.buffer[self.start..start]).count() as u64;
        if !blank || self.keep_blank || matches!(self.scanner.boundary, Boundary::Line) {
            self.number += 1;
        }
        if (!blank || self.keep_blank) && end - start <= self.limit {
            block.rows.push(Row { start, end, line: self.line + lead_lines, number: self.number });
        } else if !blank {
            let shown = self.buffer[start..end.min(start + SHOWN_BYTES)].to_vec();
            block.too_long.push((self.line + lead_lines, (end - start) as u64, shown));
        }
        self.line += lines;
        self.start = next;
        self.scanned = next;
    }

    fn read(&mut self) -> io::Result<()> {
        let filled = self.buffer.len();
        self.buffer.resize(filled + READ_BYTES, 0);
        let read = loop {
            match self.input.read(&mut self.buffer[filled..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.buffer.truncate(filled + read);
        self.ended = read == 0;
        Ok(())
    }

    /// Reads past a row that is over the limit, keeping only its beginning.
    fn skip(&mut self, block: &mut Block) -> io::Result<()> {
        let row = &self.buffer[self.start..];
        let shown = row[..row.len().min(SHOWN_BYTES)].to_vec();
        let (line, mut size) = (self.line, row.len() as u64);
        self.line += memchr_iter(b'\n', row).count() as u64;
        self.number += 1;
        loop {
            self.buffer.truncate(self.start);
            self.scanned = self.start;
            self.read()?;
            let (end, next) = match self.scanner.scan(&self.buffer[self.start..]) {
                Scan::Row { content, next } => (content, Some(self.start + next)),
                Scan::More => {
                    (self.buffer.len() - self.start, self.ended.then_some(self.buffer.len()))
                }
            };
            size += end as u64;
            let passed = next.unwrap_or(self.buffer.len());
            self.line += memchr_iter(b'\n', &self.buffer[self.start..passed]).count() as u64;
            if let Some(next) = next {
                block.too_long.push((line, size, shown));
                self.start = next;
                self.scanned = next;
                return Ok(());
            }
        }
    }
}

enum Scan {
    /// Bytes scanned up to the end of the row, and up to the beginning of the next.
    Row {
        content: usize,
        next: usize,
    },
    More,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// At the start of a cell, or before or between the elements of an array.
    Start,
    /// In a cell without quotes, or in an element.
    Inside,
    /// Between quotes.
    Quoted,
    /// After a quote between quotes (the end, or the first of two), or after a backslash in a JSON string.
    Escape,
    /// After the array.
    Done,
}

/// Finds row ends in pieces of a stream, remembering between pieces what it is in.
struct Scanner {
    boundary: Boundary,
    state: State,
    depth: usize,
}

impl Scanner {
    fn scan(&mut self, bytes: &[u8]) -> Scan {
        match self.boundary {
            Boundary::Line => match memchr(b'\n', bytes) {
                Some(end) => Scan::Row { content: end, next: end + 1 },
                None => Scan::More,
            },
            Boundary::Record { delimiter } => self.record(bytes, delimiter),
            Boundary::Element => self.element(bytes),
        }
    }

    /// RFC 4180 with csv's leniency: a quote opens only at the start of a cell, text may follow a closing one.
    fn record(&mut self, bytes: &[u8], delimiter: u8) -> Scan {
        let mut at = 0;
        while at < bytes.len() {
            match self.state {
                State::Quoted => match memchr(b'"', &bytes[at..]) {
                    Some(quote) => {
                        at += quote + 1;
                        self.state = State::Escape;
                    }
                    None => return Scan::More,
                },
                State::Inside => match memchr2(delimiter, b'\n', &bytes[at..]) {
                    Some(end) => {
                        at += end;
                        self.state = State::Start;
                        if bytes[at] == b'\n' {
                            return Scan::Row { content: at, next: at + 1 };
                        }
                        at += 1;
                    }
                    None => return Scan::More,
                },
                State::Start | State::Escape | State::Done => {
                    let opens = bytes[at] == b'"';
                    if bytes[at] == b'\n' {
                        self.state = State::Start;
                        return Scan::Row { content: at, next: at + 1 };
                    }
                    self.state = match bytes[at] {
                        _ if opens => State::Quoted,
                        byte if byte == delimiter => State::Start,
                        _ => State::Inside,
                    };
                    at += 1;
                }
            }
        }
        Scan::More
    }

    /// An element ends at the comma or bracket of depth one after it.
    fn element(&mut self, bytes: &[u8]) -> Scan {
        for (at, &byte) in bytes.iter().enumerate() {
            match (self.state, byte) {
                (State::Done, _) => return Scan::Row { content: bytes.len(), next: bytes.len() },
                (State::Escape, _) => self.state = State::Quoted,
                (State::Quoted, b'\\') => self.state = State::Escape,
                (State::Quoted, b'"') => self.state = State::Inside,
                (State::Quoted, _) => {}
                (_, b'"') => self.state = State::Quoted,
                (_, b'[' | b'{') => self.depth += 1,
                (_, b',') if self.depth == 1 => return Scan::Row { content: at, next: at + 1 },
                (_, b']' | b'}') => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        self.state = State::Done;
                        return Scan::Row { content: at, next: at + 1 };
                    }
                }
                _ => {}
            }
        }
        Scan::More
    }

    /// Bytes before the row proper: of an array's first element the bracket, of every element white space.
    fn lead(&self, row: &[u8]) -> usize {
        if !matches!(self.boundary, Boundary::Element) {
            return 0;
        }
        let space = row.len() - row.trim_ascii_start().len();
        match row[space..].strip_prefix(b"[") {
            Some(rest) => row.len() - rest.trim_ascii_start().len(),
            None => space,
        }
    }

    /// Whether the stream may end here.
    fn finish(&self) -> io::Result<()> {
        let unfinished = matches!(self.boundary, Boundary::Element) && self.state != State::Done;
        if unfinished {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it ends inside a JSON array; was it cut off?",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream that gives a few bytes at a time.
    struct Drip<'a>(&'a [u8], usize);

    impl Read for Drip<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = self.1 % 7 + 1;
            let take = self.1.min(self.0.len()).min(buffer.len());
            buffer[..take].copy_from_slice(&self.0[..take]);
            self.0 = &self.0[take..];
            Ok(take)
        }
    }

    /// A row's line, number and text.
    type Found = (u64, u64, String);
    /// The line and the bytes of a row over the limit.
    type TooLong = (u64, u64);

    /// The rows of `text`, and those over the limit.
    fn rows(text: &str, boundary: Boundary, limit: usize) -> (Vec<Found>, Vec<TooLong>) {
        let mut splitter = Splitter::new(Drip(text.as_bytes(), 0), boundary, limit, false);
        let (mut rows, mut long) = (Vec::new(), Vec::new());
        while let Some(block) = splitter.next_block().unwrap() {
            let text = |row: &Row| String::from_utf8(block.row(row).to_vec()).unwrap();
            rows.extend(block.rows.iter().map(|row| (row.line, row.number, text(row))));
            long.extend(block.too_long.iter().map(|(line, bytes, _)| (*line, *bytes)));
        }
        (rows, long)
    }

    fn row(line: u64, number: u64, text: &str) -> Found {
        (line, number, text.to_string())
    }

    #[test]
    fn lines_end_at_line_feeds_alone() {
        let (found, _) = rows("a\r\n\nb\u{2028}c\u{85}\n  \nlast", Boundary::Line, 100);
        assert_eq!(found, [row(1, 1, "a"), row(3, 3, "b\u{2028}c\u{85}"), row(5, 5, "last")]);
    }

    #[test]
    fn records_end_outside_quotes() {
        let text = "a,b\r\n\"x\ny\",\"say \"\"hi\n\"\"\"\n\nq\"uote,2\n\"open";
        let (found, _) = rows(text, Boundary::Record { delimiter: b',' }, 100);
        let expected = [
            row(1, 1, "a,b"),
            row(2, 2, "\"x\ny\",\"say \"\"hi\n\"\"\""),
            row(6, 3, "q\"uote,2"),
            row(7, 4, "\"open"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn elements_of_an_array_are_cut_whatever_they_hold() {
        let text = " [ {\"a\": \"]},{\\\"\"},\n\n  {\"b\": [1, {\"c\": 2}]} , 3\n]\n";
        let (found, _) = rows(text, Boundary::Element, 100);
        let expected = [
            row(1, 1, "{\"a\": \"]},{\\\"\"}"),
            row(3, 2, "{\"b\": [1, {\"c\": 2}]} "),
            row(3, 3, "3\n"),
        ];
        assert_eq!(found, expected);
        assert!(rows("[]", Boundary::Element, 100).0.is_empty());
        let mut cut = Splitter::new(&b"[{\"a\": 1}, {"[..], Boundary::Element, 100, false);
        assert_eq!(cut.next_block().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_row_over_the_limit_is_passed_over_and_counting_goes_on() {
        let long = "x".repeat(500_000);
        let (found, skipped) = rows(&format!("a\n{long}\nb\n{long}"), Boundary::Line, 1000);
        assert_eq!(found, [row(1, 1, "a"), row(3, 3, "b")]);
        assert_eq!(skipped, [(2, 500_000), (4, 500_000)]);
        let (found, skipped) = rows(&format!("[1,\n\"{long},\n\",2]"), Boundary::Element, 1000);
        assert_eq!(found, [row(1, 1, "1"), row(3, 3, "2")]);
        assert_eq!(skipped.len(), 1);
    }

    #[test]
    fn rows_are_whole_across_blocks() {
        let text: String =
            (0..30_000).map(|i| format!("row {i} {}\n", "y".repeat(i % 90))).collect();
        let (found, _) = rows(&text, Boundary::Line, 1000);
        assert_eq!(found.len(), 30_000);
        assert!(found.iter().zip(text.lines()).all(|(row, line)| row.2 == line));
    }
}
