//! The subcommands: each file holds the arguments of one with their help, and what it does.

pub mod eval;
pub mod generate;
pub mod ingest;
pub mod inspect;
pub mod judge;
pub mod merge;
pub mod mix;
pub mod path;
pub mod prompts;
pub mod report;
pub mod run;
pub mod schema;
pub mod status;
pub mod synth;
pub mod tokenizer;
pub mod train;
pub mod worker;

mod files;
