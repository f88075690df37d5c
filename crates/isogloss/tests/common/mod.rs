//! What the command line's tests share: the binary, a folder of their own, and a study that takes seconds.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

/// A folder of its own in which commands run.
pub struct Place(tempfile::TempDir);

/// What a command came to.
pub struct Answer {
    /// Exit status; -1 if it was killed.
    pub status: i32,
    /// What it printed.
    pub out: String,
    /// What it logged.
    pub err: String,
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        Answer {
            status: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }
}

impl Answer {
    /// The same, if it went well.
    #[track_caller]
    pub fn ok(self) -> Answer {
        assert_eq!(self.status, 0, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// The message, if it failed by the user's fault.
    #[track_caller]
    pub fn user_error(self) -> String {
        assert_eq!(self.status, 2, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self.err
    }
}

impl Place {
    /// An empty folder.
    pub fn new() -> Place {
        Place(tempfile::tempdir().expect("a temporary folder"))
    }

    /// A folder with the tiny study's pipeline file.
    pub fn with_study() -> Place {
        let place = Place::new();
        place.write("study.toml", STUDY);
        place
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file into it.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("written");
    }

    /// Changes the study.
    #[track_caller]
    pub fn edit(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path("study.toml")).expect("the study");
        assert!(text.contains(from), "{from} is in the study");
        self.write("study.toml", &text.replacen(from, to, 1));
    }

    /// `isogloss` with these arguments.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_isogloss"));
        command.args(line.split_whitespace()).current_dir(self.0.path()).stdin(Stdio::null());
        // What the one who runs the tests has set is not what is tested.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy().to_uppercase();
            let ours = ["HF_", "HUGGING", "ISOGLOSS_", "NO_COLOR", "RAYON_"];
            let of_ranks = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"];
            if ours.iter().any(|start| text.starts_with(start))
                || of_ranks.contains(&&*text)
                || text.ends_with("_PROXY")
            {
                command.env_remove(&name);
            }
        }
        command
    }

    /// Runs `isogloss` with these arguments.
    pub fn run(&self, line: &str) -> Answer {
        self.command(line).output().expect("isogloss starts").into()
    }

    /// Starts `isogloss` and does not wait.
    pub fn start(&self, line: &str) -> Child {
        self.command(line)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("isogloss starts")
    }

    /// Names of the finished outputs of a stage in the store.
    pub fn outputs(&self, stage: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path("runs").join(stage)) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.join("manifest.json").exists())
            .map(|path| path.file_name().expect("a name").to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

/// Everything a study has, as small as it goes: two mixtures, five optimiser steps each.
pub const STUDY: &str = r#"
name = "tiny"

[languages]
seen = ["en", "es"]
unseen = ["pt"]

[synth]
tasks = ["math"]
train = 60
validation = 8
test = 6
seed = 1

[ingest]
dedup = "off"

[tokenizer]
vocab_size = 400

[mix]
tasks = ["math"]
english = 24
n = [0, 8]
leakage = { ngram = 0 }
validation = { per_language = 4 }

[[model]]
name = "tiny"
init = { hidden_size = 32, num_hidden_layers = 1, num_attention_heads = 2, max_position_embeddings = 512 }

[train]
steps = 5
batch_size = 4
learning_rate = 1e-3
validate_every = 5
save_every = 1

[prompts]
shots = 0

[generate]
max_new_tokens = 4

[eval]
metrics = ["exact_match", "chrf"]

[report]
draws = 100
"#;
