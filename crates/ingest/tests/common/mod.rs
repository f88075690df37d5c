//! What the tests of ingest share: a folder of inputs, a run from TOML, and its outputs as rows.
#![allow(dead_code, clippy::allow_attributes, reason = "each test file uses its part")]

use std::io::Write;
use std::path::{Path, PathBuf};

use artifact::{Context, Example, parquet, schema};
use ingest::{Config, Summary};

pub struct Bench {
    pub folder: tempfile::TempDir,
}

pub struct Rejected {
    pub file: String,
    pub line: i64,
    pub reason: String,
    pub raw: String,
}

pub struct Ran {
    pub summary: Summary,
    pub examples: Vec<Example>,
    pub rejects: Vec<Rejected>,
}

impl Bench {
    pub fn new() -> Bench {
        Bench { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    pub fn run(&self, toml: &str) -> Ran {
        self.try_run(toml).unwrap_or_else(|error| panic!("{error:#}\n{toml}"))
    }

    pub fn try_run(&self, toml: &str) -> anyhow::Result<Ran> {
        let out = self.path("out");
        let summary =
            ingest::run(&config(toml)?, self.folder.path(), &make(&out), &Context::quiet())?;
        assert!(!out.join(".ingest").exists(), "temporary files stay");
        Ok(read(&out, summary))
    }

    /// The message of a run that must fail by the user's fault.
    pub fn fault(&self, toml: &str) -> String {
        let Err(error) = self.try_run(toml) else { panic!("no error:\n{toml}") };
        assert!(artifact::error::is_user(&error), "not the user's: {error:#}");
        format!("{error:#}")
    }
}

pub fn config(toml: &str) -> anyhow::Result<Config> {
    artifact::config::from_toml(toml, Path::new("pipeline.toml"))
}

pub fn make(out: &Path) -> PathBuf {
    std::fs::create_dir_all(out).unwrap();
    out.to_path_buf()
}

pub fn read(out: &Path, summary: Summary) -> Ran {
    let examples = parquet::read(&out.join("examples.parquet"), Some(&schema::EXAMPLES)).unwrap();
    let rejects = parquet::read(&out.join("rejects.parquet"), Some(&schema::REJECTS)).unwrap();
    let text = |name: &str, row| {
        rejects.column(name).unwrap().str().unwrap().get(row).unwrap().to_string()
    };
    let rejects = (0..rejects.height()).map(|row| Rejected {
        file: text("file", row),
        line: rejects.column("line").unwrap().i64().unwrap().get(row).unwrap(),
        reason: text("reason", row),
        raw: text("raw", row),
    });
    Ran {
        summary,
        examples: artifact::example::frame_to_examples(&examples).unwrap(),
        rejects: rejects.collect(),
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 0).unwrap()
}

/// A pseudo-random sequence of words, so that rows are not duplicates of each other.
pub fn sentence(seed: usize) -> String {
    let words = [
        "river", "stone", "market", "window", "garden", "letter", "morning", "table", "bridge",
        "winter", "lantern", "village", "harbour", "engine", "pencil", "thunder",
    ];
    let mut state = seed as u64 * 2_654_435_761 + 12_345;
    let mut word = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        words[(state >> 40) as usize % words.len()]
    };
    (0..12).map(|_| word()).collect::<Vec<_>>().join(" ")
}

/// The folder of real data, where it is.
pub fn data() -> Option<PathBuf> {
    let Some(root) = std::env::var_os("ISOGLOSS_DATA").map(PathBuf::from) else {
        println!("skipped: ISOGLOSS_DATA is not set");
        return None;
    };
    Some(root.canonicalize().unwrap())
}
