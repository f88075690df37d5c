//! What the tests that cross stages share: the built binary, run in a folder of its own.
//!
//! The tests need `target/<profile>/isogloss` beside them, which `make test` builds first.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context as _, Result, ensure};

/// A temporary folder in which `isogloss` runs.
pub struct Place {
    folder: tempfile::TempDir,
    binary: PathBuf,
}

/// How a command ended.
#[derive(Debug)]
pub struct Answer {
    /// Exit status; `None` if a signal ended it.
    pub status: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it logged.
    pub stderr: String,
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Place {
    /// An empty folder.
    ///
    /// # Errors
    /// Where the binary has not been built.
    pub fn new() -> Result<Self> {
        let test = std::env::current_exe()?;
        let profile = test.ancestors().nth(2).context("a test stands in target/<profile>/deps")?;
        let binary = profile.join("isogloss");
        ensure!(binary.exists(), "{} is not built; `make test` builds it", binary.display());
        Ok(Self { folder: tempfile::tempdir()?, binary })
    }

    /// A path in the folder.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file into the folder, and the folders that lead to it.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path(name);
        fs::create_dir_all(path.parent().context("a file stands in a folder")?)?;
        fs::write(&path, content)?;
        Ok(path)
    }

    /// `isogloss`, ready to run in the folder.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.current_dir(self.folder.path());
        command
    }

    /// Runs `isogloss` with these words.
    pub fn run(&self, words: &str) -> Result<Answer> {
        Ok(self.command().args(words.split_whitespace()).output()?.into())
    }

    /// Runs a shell script in the folder, with the binary as `$ISOGLOSS`.
    pub fn shell(&self, script: &str) -> Result<Answer> {
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(self.folder.path());
        Ok(command.env("ISOGLOSS", &self.binary).output()?.into())
    }
}

/// The real data that some tests look at: `ISOGLOSS_DATA`. `None` where that is not set.
pub fn real_data() -> Option<PathBuf> {
    std::env::var_os("ISOGLOSS_DATA").map(PathBuf::from)
}
