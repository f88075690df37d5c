//! Models and data from the Hugging Face Hub: `hf://owner/name[@revision]` and `hf://datasets/owner/name[@revision]/path`.
//!
//! ```text
//! address ─resolve→ commit and files (a Snapshot) ─fetch→ files in the Hub's own cache
//! ```
//!
//! Resolving asks for a repository's commit and the content hash of each file, and takes nothing: that is all that a store's
//! key needs. Fetching takes the chosen files into the cache that huggingface_hub keeps (`blobs`, `refs`, `snapshots`), so
//! that what one tool has fetched the other finds. The environment is that of the Hub's own tools: [`Settings::from_env`].
//!
//! The hf-hub crate gives the cache's layout, the addresses and the request for a repository's files. Transfers are ours:
//! its own have no timeout, cannot be stopped, do not check what came, append a whole file to a part where the server
//! ignores ranges, and send the token along to the host that a redirect names.

mod address;
mod choose;
mod client;
mod download;
mod settings;
mod snapshot;

pub use address::{Address, Kind, SCHEME, is_address};
pub use choose::{is_tokenizer_file, model_files};
pub use client::Hub;
pub use settings::Settings;
pub use snapshot::{File, Snapshot};
