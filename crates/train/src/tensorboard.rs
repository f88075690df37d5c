//! The metrics as a TensorBoard event file, so that a run can be watched while it goes.
//!
//! A file is a row of records in TFRecord framing: length, masked CRC-32C of the length, bytes, masked CRC-32C of
//! the bytes. A record is a protobuf `Event` (tensorflow/core/util/event.proto): wall_time = 1, step = 2, file_version = 3,
//! summary = 5, whose values are tag = 1 and simple_value = 2. The wall time is the run's own seconds, as in
//! `metrics.parquet`: TensorBoard's relative axis is right, and no clock gets into an output.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
};

use anyhow::{Context as _, Result};

use crate::metrics::Row;

/// Folder of the event file; TensorBoard is given this or any folder above it.
pub const FOLDER: &str = "tensorboard";
const FILE: &str = "events.out.tfevents.0.isogloss";

/// An event file that is being written.
pub struct Events {
    file: File,
}

impl Events {
    /// Starts the file in `out/tensorboard` anew, with the rows there are.
    pub fn create(out: &Path, rows: &[Row]) -> Result<Self> {
        let folder = out.join(FOLDER);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let path = folder.join(FILE);
        let file =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut events = Self { file };
        let mut version = Message::default();
        version.bytes(3, b"brain.Event:2");
        let mut records = framed(&version.0);
        rows.iter().for_each(|row| records.extend(framed(&event(row).0)));
        events.write(&records)?;
        Ok(events)
    }

    /// Adds a row; it is in the file when this returns.
    pub fn add(&mut self, row: &Row) -> Result<()> {
        self.write(&framed(&event(row).0))
    }

    fn write(&mut self, records: &[u8]) -> Result<()> {
        self.file.write_all(records).context("cannot write TensorBoard's event file")
    }
}

/// A row's numbers, under `train/` or `validation/`.
fn event(row: &Row) -> Message {
    let split = if row.validation { "validation" } else { "train" };
    let mut values = vec![("loss".to_owned(), row.loss)];
    let others = [
        ("learning_rate", row.learning_rate),
        ("grad_norm", row.grad_norm),
        ("tokens_per_second", row.tokens_per_second),
        ("mfu", row.mfu),
    ];
    values.extend(others.iter().filter_map(|(name, value)| Some(((*name).to_owned(), (*value)?))));
    values.extend(row.by_language.iter().map(|(name, loss)| (format!("loss_{name}"), *loss)));
    let mut summary = Message::default();
    for (name, value) in values {
        let mut one = Message::default();
        one.bytes(1, format!("{split}/{name}").as_bytes()).float(2, value as f32);
        summary.bytes(1, &one.0);
    }
    let mut event = Message::default();
    event.double(1, row.seconds).varint(2, row.step).bytes(5, &summary.0);
    event
}

/// A protobuf message as its bytes.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    /// A field's key: its number and how it is laid out.
    fn key(&mut self, field: u8, wire_type: u8) {
        self.0.push(field << 3 | wire_type);
    }

    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// Left out where it is 0, as proto3 does.
    fn varint(&mut self, field: u8, value: u64) -> &mut Self {
        if value != 0 {
            self.key(field, 0);
            self.raw_varint(value);
        }
        self
    }

    /// Left out where it is 0, as proto3 does.
    fn double(&mut self, field: u8, value: f64) -> &mut Self {
        if value != 0.0 {
            self.key(field, 1);
            self.0.extend(value.to_le_bytes());
        }
        self
    }

    fn float(&mut self, field: u8, value: f32) -> &mut Self {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(&mut self, field: u8, value: &[u8]) -> &mut Self {
        self.key(field, 2);
        self.raw_varint(value.len() as u64);
        self.0.extend(value);
        self
    }
}

/// A record in TFRecord framing.
fn framed(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked(crc32c(&length)).to_le_bytes());
    record.extend(data);
    record.extend(masked(crc32c(data)).to_le_bytes());
    record
}

/// TensorFlow's mask, so that a checksum of data that holds checksums still says something.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit: a record is a few hundred bytes.
fn crc32c(data: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !data.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_rfc_3720() {
        // Section B.4: 32 bytes of zeros, of ones, and rising; and the check value of the catalogue.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn the_file_is_the_one_that_tensorboards_writer_writes() {
        let train = Row {
            step: 300,
            loss: 1.5,
            learning_rate: Some(1e-5),
            grad_norm: Some(0.25),
            tokens_per_second: Some(12345.678),
            seconds: 2.5,
            by_language: vec![("en".into(), 0.0), ("zh-Hans".into(), 3.25)],
            ..Row::default()
        };
        let validation = Row { validation: true, seconds: 0.125, loss: 2.0, ..Row::default() };
        let out = tempfile::tempdir().unwrap();
        let mut events = Events::create(out.path(), &[validation]).unwrap();
        events.add(&train).unwrap();
        let written = fs::read(out.path().join(FOLDER).join(FILE)).unwrap();
        assert_eq!(
            written,
            include_bytes!("../tests/fixtures/trainer/events.out.tfevents.0.golden")
        );
    }
}
