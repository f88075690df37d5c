//! The training stage: mixtures and a base model in, trained models, their metrics and their answers out.
//!
//! [`run`] goes from a mixture to a model: [`encoder`] turns rows into tokens and says which count,
//! [`data`] and [`batches`] lay them out, [`setup`] checks all of it before a step is taken, [`trainer`] runs
//! the steps on the engine, and [`checkpoint`] lets an interrupted run go on with the same bits. [`memory`] says before
//! the first step what a run will hold. [`shared`]
//! is what the runs of a sweep have in common. [`generate`] answers prompts
//! with a trained model (`slots` keeps it busy), and [`train_tokenizer`] makes a tokenizer. The engine is [`model`], [`ops`] and [`optimizer`].

pub mod batches;
pub mod bpe;
mod byte_level;
pub mod checkpoint;
pub mod config;
pub mod course;
pub mod cuda;
pub mod data;
pub mod device;
mod disk;
pub mod encoder;
pub mod encodings;
pub mod export;
pub mod flops;
pub mod generate;
pub mod init;
pub mod lora;
pub mod memory;
pub mod merge;
pub mod metrics;
pub mod model;
pub mod ops;
pub mod optimizer;
pub mod parallel;
pub mod sampling;
pub mod schedule;
pub mod setup;
pub mod shared;
mod slots;
pub mod template;
pub mod tensorboard;
pub mod tokenizer;
pub mod trainer;

pub use bpe::{TokenizerConfig, train_tokenizer};
pub use config::{BaseModel, RowsFile, TrainConfig, TrainData};
pub use generate::{GenerateConfig, RunLabels, generate};
pub use init::InitConfig;
pub use merge::merge;
pub use shared::Shared;
pub use trainer::{plan, run};
