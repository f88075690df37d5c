//! The `samples_TASK_TIME.jsonl` files of lm-evaluation-harness, written by `lm_eval --log_samples`.
//!
//! A line holds a document, the model's raw answers (`resps`), what each filter made of them and the harness's own marks. What is
//! scored here is the first raw answer. The lines of a second filter repeat the first one's and are left out. The run is the
//! folder's name, which the harness takes from the model; the language is the two letters in the task's name that are one.

use std::path::Path;

use anyhow::Result;
use artifact::bail_user;
use serde_json::Value;

use super::Record;
use super::json::{Object, text};

/// What a file's place says about all its rows.
pub struct Samples {
    task: String,
    run_id: Option<String>,
    lang: Option<String>,
    filter: Option<Value>,
}

impl Samples {
    /// The samples in `path`, if its first object says that they are such.
    pub fn recognise(path: &Path, first: &Object) -> Option<Samples> {
        let keys = ["doc_id", "doc", "target", "resps", "filtered_resps"];
        if !keys.iter().all(|key| first.contains_key(*key)) {
            return None;
        }
        let name = path.file_name()?.to_string_lossy().into_owned();
        let name = name.split('.').next().unwrap_or_default();
        let name = name.strip_prefix("samples_").unwrap_or(name);
        // behind the task stands the time of the run: 2026-11-20T12-00-00
        let date = |part: &str| part.len() >= 10 && part.starts_with("20") && part.contains('-');
        let parts: Vec<&str> = name.split('_').filter(|part| !date(part)).collect();
        let two_letters = |part: &&&str| part.len() == 2 && language::canonical(part).is_ok();
        let folder = path.parent().and_then(Path::file_name);
        Some(Samples {
            lang: parts.iter().rev().find(two_letters).map(|part| (*part).to_owned()),
            task: parts.join("_"),
            run_id: folder.map(|folder| folder.to_string_lossy().into_owned()),
            filter: first.get("filter").cloned(),
        })
    }

    /// The row of one line; `None` for a line of another filter.
    pub fn record(&self, object: &Object, path: &Path, line: usize) -> Result<Option<Record>> {
        if object.get("filter") != self.filter.as_ref() {
            return Ok(None);
        }
        let document = object.get("doc_id").map(Value::to_string);
        let answer = object.get("resps").and_then(|all| all.get(0)).and_then(|all| all.get(0));
        let Some(Value::String(generation)) = answer else {
            bail_user!(
                "{}:{line}: `resps` holds no text: the harness asked for likelihoods here, and generations are what is scored",
                path.display()
            );
        };
        let target = object.get("target").unwrap_or(&Value::Null);
        let fixed = |name: &str, value: &Option<String>| (name.to_owned(), value.clone());
        Ok(Some(vec![
            fixed("run_id", &self.run_id),
            ("example_id".to_owned(), document.as_ref().map(|id| format!("{}:{id}", self.task))),
            ("item_id".to_owned(), document),
            fixed("lang", &self.lang),
            ("generation".to_owned(), Some(generation.clone())),
            ("reference".to_owned(), text(target, "target", path, line)?),
        ]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recognise(path: &str) -> Option<Samples> {
        let line = r#"{"doc_id":0,"doc":{},"target":"18","resps":[["x"]],"filtered_resps":["x"],"filter":"none"}"#;
        Samples::recognise(Path::new(path), &serde_json::from_str(line).expect("an object"))
    }

    #[test]
    fn the_files_place_gives_run_and_language() {
        let samples =
            recognise("out/org__model/samples_mgsm_direct_de_2026-11-20T12-00-00.123456.jsonl")
                .expect("samples");
        assert_eq!(samples.task, "mgsm_direct_de");
        assert_eq!(
            (samples.run_id.as_deref(), samples.lang.as_deref()),
            (Some("org__model"), Some("de"))
        );
        assert_eq!(
            recognise("samples_mgsm_en_cot_te.jsonl").expect("samples").lang.as_deref(),
            Some("te")
        );
        // "cot" is a language too, but not one that a task is named after
        assert_eq!(recognise("samples_gsm8k_cot.jsonl").expect("samples").lang, None);
    }
}
