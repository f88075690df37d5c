//! What the trainer's tests share: the small tokenizer, tables of examples, a model of a few thousand weights.

#![expect(dead_code, reason = "each test binary uses a part of it")]

use std::path::{Path, PathBuf};

use artifact::{
    Context, Example, Message, MixtureRow,
    example::{examples_to_frame, mixture_to_frame},
    schema::{EXAMPLES, MIXTURE},
};
use train::{BaseModel, InitConfig, Shared, TrainConfig, TrainData};

/// A file or folder of the fixtures.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/trainer").join(name)
}

/// Lines of a JSONL fixture.
pub fn lines(name: &str) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(fixture(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub fn message(role: &str, content: &str) -> Message {
    Message { role: role.to_owned(), content: content.to_owned() }
}

/// A question with its answer.
pub fn example(id: &str, lang: &str, question: &str, answer: &str) -> Example {
    Example {
        example_id: id.to_owned(),
        item_id: id.to_owned(),
        source: "test".to_owned(),
        task: "math".to_owned(),
        split: "train".to_owned(),
        lang: lang.to_owned(),
        lang_rule: "agreed".to_owned(),
        messages: vec![message("user", question), message("assistant", answer)],
        reference: Some(answer.to_owned()),
        ..Example::default()
    }
}

/// Sums in two languages, with answers of unequal length.
pub fn sums(count: usize) -> Vec<Example> {
    let of = |index: usize| {
        let (a, b) = (index * 7 % 50, index * 3 % 20);
        let (lang, ask) =
            if index.is_multiple_of(2) { ("en", "What is") } else { ("es", "¿Cuánto es") };
        let steps = "so ".repeat(index % 4);
        example(
            &format!("sum-{index:03}"),
            lang,
            &format!("{ask} {a} + {b}?"),
            &format!("{steps}{}", a + b),
        )
    };
    (0..count).map(of).collect()
}

pub fn write_mixture(path: &Path, examples: &[Example]) {
    let rows: Vec<MixtureRow> = examples
        .iter()
        .zip(0..)
        .map(|(example, position)| MixtureRow {
            example: example.clone(),
            mixture_id: "m".into(),
            position,
            repeat: 0,
        })
        .collect();
    artifact::parquet::write(path, &MIXTURE, &mut mixture_to_frame(&rows).unwrap()).unwrap();
}

pub fn write_examples(path: &Path, examples: &[Example]) {
    artifact::parquet::write(path, &EXAMPLES, &mut examples_to_frame(examples).unwrap()).unwrap();
}

/// A new model of about 20,000 weights.
pub fn base() -> BaseModel {
    let init = InitConfig {
        model_type: "llama".into(),
        hidden_size: 32,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: Some(2),
        head_dim: None,
        sliding_window: None,
        intermediate_size: Some(48),
        max_position_embeddings: 128,
        rope_theta: 10_000.0,
        rms_norm_eps: 1e-6,
        tie_word_embeddings: true,
        initializer_range: 0.05,
        vocab_size: None,
    };
    BaseModel::Random { init, tokenizer: fixture("tokenizer"), seed: 1 }
}

/// Settings by TOML.
pub fn config(text: &str) -> TrainConfig {
    artifact::config::from_toml(text, Path::new("train.toml")).unwrap()
}

/// A folder with a mixture of sums and validation sums, and room for outputs.
pub struct Bench {
    pub folder: tempfile::TempDir,
    pub data: TrainData,
}

impl Bench {
    pub fn new(train: &[Example], validation: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (path, validation_path) =
            (folder.path().join("mixture.parquet"), folder.path().join("validation.parquet"));
        write_mixture(&path, train);
        let held_out: Vec<Example> = sums(train.len() + validation)
            .split_off(train.len())
            .into_iter()
            .map(|example| Example { split: "validation".into(), ..example })
            .collect();
        write_examples(&validation_path, &held_out);
        let validation = (validation > 0).then_some(validation_path);
        Self {
            data: TrainData { train: path.into(), validation: validation.map(Into::into) },
            folder,
        }
    }

    /// A fresh output folder.
    pub fn out(&self, name: &str) -> PathBuf {
        let out = self.folder.path().join(name);
        std::fs::create_dir_all(&out).unwrap();
        out
    }

    /// Trains into a folder of that name, from another base model.
    pub fn run_from(
        &self,
        base: &BaseModel,
        name: &str,
        settings: &str,
    ) -> anyhow::Result<train::trainer::Summary> {
        let (shared, ctx) = (Shared::default(), Context::quiet());
        train::run(&config(settings), base, &self.data, &shared, &self.out(name), &ctx)
    }

    /// Trains into a folder of that name.
    pub fn run(&self, name: &str, settings: &str) -> anyhow::Result<train::trainer::Summary> {
        self.run_from(&base(), name, settings)
    }
}

/// Metrics rows of an output, without what the clock decides.
pub fn metrics(out: &Path) -> Vec<train::metrics::Row> {
    let rows = train::metrics::read(&out.join("metrics.parquet")).unwrap();
    let timeless = |row: train::metrics::Row| train::metrics::Row {
        seconds: 0.0,
        tokens_per_second: None,
        ..row
    };
    rows.into_iter().map(timeless).collect()
}
