//! The contract between stages: what an artifact looks like, how it is read and written, and
//! where it is kept.
//!
//! A stage is a function of (config, inputs, output folder, [`Context`]). It reads and writes plain
//! Parquet through [`mod@parquet`] against the tables of [`schema`], reports progress through the
//! context, and raises [`error::UserError`] for whatever the user can mend. [`store`] decides
//! whether a stage has to run at all; [`publish`] makes an output folder appear whole or not at all.

pub mod address;
pub mod arrow;
pub mod config;
pub mod context;
pub mod error;
pub mod example;
pub mod factors;
pub mod hash;
pub mod parquet;
pub mod publish;
pub mod schema;
pub mod store;
pub mod text;

pub use context::{Bar, Context};
pub use example::{Example, Message, MixtureRow};
pub use factors::Factors;
pub use polars;
