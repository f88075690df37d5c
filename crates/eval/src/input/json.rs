//! JSON as records of text: one object a line, or one array of objects, as inference servers and harnesses write them.
//!
//! A value deep in an object is named by a path such as `response.body.choices[0].message.content`, `outputs[0].text` or
//! `messages[-1].content`. A chat message's list of text parts counts as the one text that they make.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::Result;
use artifact::bail_user;
use artifact::config::nearest;
use artifact::error::{input_error, user};
use serde_json::{Map, Value};

/// A JSON object.
pub type Object = Map<String, Value>;

/// Objects, each with its line.
pub type Objects = Box<dyn Iterator<Item = Result<(usize, Object)>>>;

/// The objects of a file, each with its line (of an array: its number in it).
pub fn objects(path: &Path, bytes: Box<dyn Read + Send>) -> Result<Objects> {
    let mut reader = BufReader::new(bytes);
    let shown = path.to_owned();
    if starts_an_array(&mut reader).map_err(|error| input_error(path, &error))? {
        let all: Vec<Object> = serde_json::from_reader(reader).map_err(|error| {
            user(format!("{}: not an array of JSON objects: {error}", path.display()))
        })?;
        return Ok(Box::new(all.into_iter().enumerate().map(|(at, object)| Ok((at + 1, object)))));
    }
    let mut line = Vec::new();
    let mut number = 0;
    Ok(Box::new(std::iter::from_fn(move || {
        loop {
            line.clear();
            number += 1;
            return match reader.read_until(b'\n', &mut line) {
                Ok(0) => None,
                Ok(_) if line.trim_ascii().is_empty() => continue,
                Ok(_) => Some(object(&line).map(|object| (number, object)).map_err(|error| {
                    let shown = shown.display();
                    user(format!("{shown}:{number}: not a JSON object on one line: {error}"))
                })),
                Err(error) => Some(Err(input_error(&shown, &error))),
            };
        }
    })))
}

fn starts_an_array(reader: &mut impl BufRead) -> std::io::Result<bool> {
    let head = reader.fill_buf()?;
    let head = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(head);
    Ok(head.trim_ascii_start().first() == Some(&b'['))
}

fn object(line: &[u8]) -> serde_json::Result<Object> {
    serde_json::from_slice(line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line))
}

/// Where a value stands in a row: keys and places in lists.
#[derive(Clone, Debug)]
pub struct Place {
    text: String,
    steps: Vec<Step>,
}

/// One step of a [`Place`].
#[derive(Clone, Debug)]
pub enum Step {
    /// A key of an object.
    Key(String),
    /// A place in a list; from its end if negative.
    At(i64),
}

impl Place {
    /// Reads `a.b[0].c`; `None` for a plain name, or brackets that hold no number.
    pub fn new(text: &str) -> Option<Place> {
        let mut steps = Vec::new();
        for part in text.split('.') {
            let (key, mut rest) = part.split_at(part.find('[').unwrap_or(part.len()));
            if !key.is_empty() {
                steps.push(Step::Key(key.to_owned()));
            }
            while !rest.is_empty() {
                let (index, after) = rest.strip_prefix('[')?.split_once(']')?;
                steps.push(Step::At(index.trim().parse().ok()?));
                rest = after;
            }
        }
        (steps.len() > 1).then(|| Place { text: text.to_owned(), steps })
    }

    /// The steps from a row to the value.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The value, where there is one.
    pub fn find<'a>(&self, object: &'a Object) -> Option<&'a Value> {
        let [Step::Key(first), rest @ ..] = &self.steps[..] else { return None };
        rest.iter().try_fold(object.get(first)?, step)
    }

    /// What an object has where the path leaves it.
    pub fn explain(&self, object: &Object) -> String {
        let root = Value::Object(object.clone());
        let (mut at, mut shown) = (&root, String::new());
        for next in &self.steps {
            let Some(value) = step(at, next) else {
                let place = if shown.is_empty() { "it".to_owned() } else { format!("`{shown}`") };
                return format!("{place} {}", contents(at, next));
            };
            at = value;
            match next {
                Step::Key(key) if shown.is_empty() => shown.push_str(key),
                Step::Key(key) => shown.push_str(&format!(".{key}")),
                Step::At(index) => shown.push_str(&format!("[{index}]")),
            }
        }
        format!("`{shown}` is null")
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn step<'a>(value: &'a Value, step: &Step) -> Option<&'a Value> {
    match (value, step) {
        (Value::Object(object), Step::Key(key)) => object.get(key),
        (Value::Array(list), Step::At(index)) => {
            let index = if *index < 0 { list.len() as i64 + index } else { *index };
            list.get(usize::try_from(index).ok()?)
        }
        _ => None,
    }
}

fn contents(value: &Value, wanted: &Step) -> String {
    match value {
        Value::Object(object) => {
            let keys = || object.keys().map(String::as_str);
            let near = match wanted {
                Step::Key(key) => nearest(key, keys()),
                Step::At(_) => None,
            };
            let near = near.map_or(String::new(), |near| format!("; is it `{near}`?"));
            format!("has the keys {}{near}", keys().collect::<Vec<_>>().join(", "))
        }
        Value::Array(list) => format!("is a list of {}", list.len()),
        Value::Null => "is null".to_owned(),
        _ => "is a single value".to_owned(),
    }
}

/// A value as a text: numbers as they are written, a message's text parts joined; a user error for any other list or object.
pub fn text(value: &Value, name: &str, path: &Path, line: usize) -> Result<Option<String>> {
    let whole = match value {
        Value::Null => return Ok(None),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(parts)
            if !parts.is_empty() && parts.iter().all(|part| part_text(part).is_some()) =>
        {
            parts.iter().filter_map(part_text).collect()
        }
        Value::Array(_) | Value::Object(_) => {
            let (kind, part) = match value {
                Value::Array(_) => ("a list", format!("{name}[0]")),
                _ => ("an object", format!("{name}.KEY")),
            };
            bail_user!(
                "{}:{line}: `{name}` is {kind}, where a text is needed; name a part of it by `map`, such as {part}",
                path.display()
            )
        }
    };
    Ok(Some(whole))
}

/// The text of `{"type": "text", "text": …}`.
fn part_text(part: &Value) -> Option<&str> {
    let part = part.as_object()?;
    let kind = part.get("type")?.as_str()?;
    matches!(kind, "text" | "output_text").then(|| part.get("text")?.as_str()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(place: &str, json: &str) -> Option<Value> {
        let object: Object = serde_json::from_str(json).expect("an object");
        Place::new(place).expect("a path").find(&object).cloned()
    }

    #[test]
    fn a_path_goes_through_objects_and_lists() {
        let batch = r#"{"response":{"body":{"choices":[{"message":{"content":"18"}}]}}}"#;
        assert_eq!(found("response.body.choices[0].message.content", batch), Some("18".into()));
        assert_eq!(found("response.body.choices[1].message.content", batch), None);
        assert_eq!(found("a[-1][0]", r#"{"a":[[1],[2,3]]}"#), Some(2.into()));
        assert!(Place::new("plain").is_none() && Place::new("a[x]").is_none());
    }

    #[test]
    fn a_path_that_leads_nowhere_says_where_it_ends() {
        let object: Object =
            serde_json::from_str(r#"{"response":{"body":{"choices":[]}}}"#).expect("an object");
        let explain = |place: &str| Place::new(place).expect("a path").explain(&object);
        assert_eq!(
            explain("response.body.choises[0]"),
            "`response.body` has the keys choices; is it `choices`?"
        );
        assert_eq!(
            explain("response.body.choices[0].text"),
            "`response.body.choices` is a list of 0"
        );
        assert_eq!(explain("respond.x"), "it has the keys response; is it `response`?");
    }

    #[test]
    fn text_parts_of_a_message_are_one_text() {
        let parts: Value = serde_json::from_str(
            r#"[{"type":"text","text":"It is "},{"type":"text","text":"18."}]"#,
        )
        .expect("a list");
        let whole = text(&parts, "content", Path::new("x.jsonl"), 1).expect("a text");
        assert_eq!(whole.as_deref(), Some("It is 18."));
        let error = text(&serde_json::json!(["a", "b"]), "outputs", Path::new("x.jsonl"), 7)
            .expect_err("a list");
        assert!(
            error.to_string().starts_with("x.jsonl:7: `outputs` is a list")
                && error.to_string().contains("outputs[0]"),
            "{error}"
        );
    }
}
