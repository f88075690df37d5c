//! The training stage: mixtures and a base model in, trained models, their metrics and their answers out.
//!
//! [`run`] goes from a mixture to a model: [`encoder`] turns rows into tokens and says which count,
//! [`data`] and [`batches`] lay them out, [`trainer`] runs the steps on the engine, and
//! [`checkpoint`] lets an interrupted run go on with the same bits. [`generate`] answers prompts
//! with a trained model, [`train_tokenizer`] makes a tokenizer, and [`tokens_with_mask`] shows what training
//! counts. The engine is [`model`], [`ops`] and [`optimizer`].

use std::path::Path;

use anyhow::Result;
use artifact::Example;

pub mod batches;
pub mod bpe;
pub mod checkpoint;
pub mod config;
pub mod data;
mod disk;
pub mod encoder;
pub mod export;
pub mod generate;
pub mod metrics;
pub mod model;
pub mod ops;
pub mod optimizer;
pub mod sampling;
pub mod schedule;
pub mod template;
pub mod tokenizer;
pub mod trainer;

pub use bpe::train_tokenizer;
pub use config::{BaseModel, GenerateConfig, InitConfig, TokenizerConfig, TrainConfig, TrainData};
pub use generate::{RunLabels, generate};
pub use trainer::run;

/// The tokens of a conversation as training sees it: the text of each, its id, and whether the loss
/// counts it. `folder` is a model's or a tokenizer's. An example without an answer is taken for plain
/// text, as language modelling takes it.
pub fn tokens_with_mask(folder: &Path, example: &Example) -> Result<Vec<(String, u32, bool)>> {
    let encoder = encoder::Encoder::load(folder)?;
    let has_answer = example.messages.iter().any(|message| message.role == "assistant");
    let tokens = if has_answer {
        encoder.chat(&example.messages)?
    } else {
        encoder.text(&encoder::plain_text(&example.messages))?
    };
    let shown =
        |(&id, &counted): (&u32, &bool)| Ok((encoder.tokenizer.decode_all(&[id])?, id, counted));
    tokens.ids.iter().zip(&tokens.counted).map(shown).collect()
}
