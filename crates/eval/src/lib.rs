//! Evaluation: test examples become prompts, and generations become scores.
//!
//! ```text
//! examples ─prompts→ prompts.parquet … generations ─run→ scores.parquet
//! ```
//!
//! [`task`] says how a task is asked and scored, as a short TOML file; [`prompts`] makes the prompts with their worked examples;
//! [`run`] scores anyone's generations, which need no more than `lang`, `generation` and `reference`. The metrics are pure
//! functions in [`metric`], each equal to its reference implementation or defined by a paper.

mod input;
pub mod judge;
mod means_table;
pub mod metric;
mod prompt;
mod score;
mod summary;
pub mod task;

pub use metric::Metric;
pub use prompt::{PromptConfig, PromptCount, PromptSummary, prompts};
pub use score::{Config, run};
pub use summary::{Mean, Summary};
