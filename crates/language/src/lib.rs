//! Which language is this? Tags of every kind become one canonical BCP 47 form, text is identified by whatlang with the
//! experiment's languages as candidates, and one rule settles what a row's language is when the two disagree.
//!
//! ```
//! use language::{Detector, Rule, normalise, resolve};
//! let detector = Detector::new(&["en".into(), "es".into()]).unwrap();
//! let declared = normalise("spa_Latn");
//! let text = "¿Cuántas manzanas quedan en la cesta después de comer?";
//! let settled = resolve(declared.as_ref(), text, &detector);
//! assert_eq!((settled.lang.as_str(), settled.rule), ("es", Rule::Agreed));
//! ```

mod detect;
mod ngrams;
mod resolve;
mod sample;
mod script;
mod tag;

pub use detect::{Accuracy, Detection, Detector};
pub use resolve::{Resolution, Rule, resolve, verify};
pub use tag::{Tag, canonical, english_name, normalise, same_language};

/// The tag of a row whose language is neither declared nor detected (BCP 47: undetermined).
pub const UNDETERMINED: &str = "und";
