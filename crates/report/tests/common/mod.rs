//! What the report's tests share: a folder to report into, tables read back, and score files made
//! to measure.
#![expect(dead_code, reason = "each test file uses its own part of this")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use artifact::context::Context;
use report::{ReportConfig, Summary};

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A report in a folder of its own.
pub struct Made {
    pub folder: tempfile::TempDir,
    pub summary: Summary,
}

impl Made {
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    pub fn table(&self, name: &str) -> Vec<Record> {
        records(&self.read(&format!("tables/{name}.csv")))
    }

    /// Every file below the folder, by name.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.folder.path().to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.insert(
                        path.strip_prefix(&self.folder).unwrap().into(),
                        fs::read(&path).unwrap(),
                    );
                }
            }
        }
        files
    }
}

pub fn try_report(config: &ReportConfig, scores: &[PathBuf]) -> anyhow::Result<Made> {
    let folder = tempfile::tempdir()?;
    let summary = report::run(config, scores, folder.path(), &Context::quiet())?;
    Ok(Made { folder, summary })
}

pub fn report(config: &ReportConfig, scores: &[PathBuf]) -> Made {
    try_report(config, scores).unwrap()
}

/// The report on a CSV's text.
pub fn report_text(csv: &str) -> Made {
    try_text(csv).unwrap()
}

pub fn try_text(csv: &str) -> anyhow::Result<Made> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("scores.csv");
    fs::write(&path, csv)?;
    try_report(&quick(), &[path])
}

/// The message of a run that must fail, and that must be the user's to mend.
pub fn user_error(csv: &str) -> String {
    let error = try_text(csv).err().expect("a user error");
    assert!(artifact::error::is_user(&error), "{error:#}");
    format!("{error:#}")
}

/// Fewer draws than by default.
pub fn quick() -> ReportConfig {
    ReportConfig { draws: 500, ..ReportConfig::default() }
}

/// A CSV row by column.
pub type Record = BTreeMap<String, String>;

pub fn records(csv: &str) -> Vec<Record> {
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let header = reader.headers().unwrap().clone();
    let row = |row: csv::StringRecord| {
        header.iter().zip(&row).map(|(name, value)| (name.to_string(), value.to_string())).collect()
    };
    reader.records().map(|one| row(one.unwrap())).collect()
}

pub fn number(row: &Record, column: &str) -> f64 {
    row[column].parse().unwrap_or_else(|_| panic!("{column} = {:?}", row[column]))
}

/// A study of `items` items in en, es (seen), ar and th (unseen): `right(n, lang, item, seed)` says
/// what is solved.
pub fn study(
    ns: &[i64],
    items: usize,
    seeds: &[i64],
    right: impl Fn(i64, &str, usize, i64) -> bool,
) -> String {
    let mut csv =
        "run_id,item_id,lang,task,metric,value,setting,train_langs,n,data_seed,train_seed\n"
            .to_string();
    for &n in ns {
        for &seed in seeds {
            for lang in ["en", "es", "ar", "th"] {
                for item in 0..items {
                    let value = u8::from(right(n, lang, item, seed));
                    writeln!(csv, "n{n}-s{seed},item-{item},{lang},math,exact_match,{value},single-task,\"en,es\",{n},{seed},{seed}").unwrap();
                }
            }
        }
    }
    csv
}

/// A number from 0 to 1 that looks random but is always the same.
pub fn noise(parts: &[i64]) -> f64 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for &part in parts {
        state = (state ^ part as u64).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state ^= state >> 29;
        state = state.wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^= state >> 32;
    }
    (state >> 11) as f64 / (1u64 << 53) as f64
}
