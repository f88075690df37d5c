//! Chat templates: a conversation becomes text by the model's own Jinja template.
//!
//! Templates come from `chat_template.jinja` or `tokenizer_config.json` and run in minijinja with what
//! transformers gives them: Python's string methods, trimmed blocks, `raise_exception`, `strftime_now`,
//! `tojson`. A model without a template gets ChatML.

use std::path::Path;

use anyhow::{Result, anyhow};
use artifact::{Message, bail_user, error::user};
use minijinja::{
    Environment, Error, ErrorKind, Value, context, syntax::SyntaxConfig, value::Kwargs,
};
use serde_json::ser::Formatter;

use crate::tokenizer::{Tokenizer, read_json};

/// The template of models that have none.
pub const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] \
     + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// The same for a tokenizer that lacks ChatML's tokens: turns of the assistant end in its EOS token.
const CHATML_WITH_EOS: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] \
     + (eos_token if message['role'] == 'assistant' else '<|im_end|>') + '\\n' }}{% endfor %}\
     {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// The template of a model that can end no turn; language modelling does without one.
const NO_TEMPLATE: &str = "{{ raise_exception('the model has no chat template, and neither the token <|im_end|> nor an eos_token to \
     end a turn with; add chat_template.jinja, or an eos_token in tokenizer_config.json') }}";

/// A compiled chat template with the special tokens it may name.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    is_default: bool,
}

impl ChatTemplate {
    /// The template of the tokenizer's folder, or ChatML.
    pub fn load(tokenizer: &Tokenizer) -> Result<Self> {
        let folder = tokenizer.folder();
        let named: Vec<(String, String)> = tokenizer
            .all_named()
            .iter()
            .map(|(name, token)| (name.clone(), token.clone()))
            .collect();
        let file = folder.join("chat_template.jinja");
        if file.exists() {
            let source = std::fs::read_to_string(&file).map_err(|error| {
                user(format!("{}: cannot be read as text: {error}", file.display()))
            })?;
            return Self::new(&source, &file, &named);
        }
        let file = folder.join("tokenizer_config.json");
        let config = read_json(&file)?.unwrap_or_default();
        if let Some(source) = configured(&config["chat_template"], &file)? {
            return Self::new(&source, &file, &named);
        }
        let has_chatml =
            ["<|im_start|>", "<|im_end|>"].iter().all(|token| tokenizer.id(token).is_some());
        let source = match tokenizer.named("eos_token") {
            _ if has_chatml => CHATML,
            Some(_) => CHATML_WITH_EOS,
            None => NO_TEMPLATE,
        };
        let mut template = Self::new(source, Path::new("ChatML"), &named)?;
        template.is_default = true;
        Ok(template)
    }

    /// Compiles a template; `origin` is named in errors, `named` holds `bos_token` and the like.
    pub fn new(source: &str, origin: &Path, named: &[(String, String)]) -> Result<Self> {
        let mut environment = Environment::new();
        environment
            .set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| strftime(&format));
        environment.add_filter("tojson", tojson);
        // minijinja can go through none, as through an empty list; Python cannot.
        environment
            .add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
        for (name, token) in named {
            environment.add_global(name.clone(), token.clone());
        }
        environment.add_global("tools", Value::from(()));
        environment.add_global("documents", Value::from(()));
        environment.add_template_owned("chat", without_generation_tags(source)).map_err(
            |error| {
                user(format!("{}: the chat template does not parse: {error}", origin.display()))
            },
        )?;
        Ok(Self { environment, source: source.to_owned(), is_default: false })
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the model brought no template of its own.
    pub fn is_default(&self) -> bool {
        self.is_default
    }

    /// Renders messages; with `add_generation_prompt`, up to where the assistant speaks next.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let messages: Vec<Value> =
            messages.iter().map(|message| turn(&message.role, &message.content)).collect();
        self.render_turns(&messages, add_generation_prompt)
    }

    /// The same for what [`turn`] made, which can be rendered in several lengths without being copied.
    pub(crate) fn render_turns(
        &self,
        messages: &[Value],
        add_generation_prompt: bool,
    ) -> Result<String> {
        let template = self.environment.get_template("chat").map_err(|error| anyhow!("{error}"))?;
        let messages: Value = messages.iter().cloned().collect();
        template.render(context! { messages, add_generation_prompt }).map_err(|error| {
            let detail = error.detail().unwrap_or_default();
            let line =
                error.line().map_or(String::new(), |line| format!(" (template line {line})"));
            if detail.is_empty() {
                anyhow!("{}{line}", error.kind())
            } else {
                anyhow!("{detail}{line}")
            }
        })
    }
}

/// A message as templates see it.
pub(crate) fn turn(role: &str, content: &str) -> Value {
    Value::from_pairs([("role", role), ("content", content)])
}

/// `chat_template` is a text, or a list of `{name, template}` of which "default" is taken.
fn configured(value: &serde_json::Value, file: &Path) -> Result<Option<String>> {
    let list = match value {
        serde_json::Value::Null => return Ok(None),
        serde_json::Value::String(source) => return Ok(Some(source.clone())),
        serde_json::Value::Array(list) => list,
        _ => bail_user!(
            "{}: chat_template must be a text or a list of named templates",
            file.display()
        ),
    };
    let default = list.iter().find(|entry| entry["name"] == "default");
    match default.and_then(|entry| entry["template"].as_str()) {
        Some(source) => Ok(Some(source.to_owned())),
        None => bail_user!("{}: chat_template lists no template named \"default\"", file.display()),
    }
}

/// `{% generation %}` marks the assistant's text for other trainers; here the mask comes from
/// rendered prefixes, so the tag becomes a condition that always holds.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let (before, tag) = (&rest[..start], &rest[start..start + length + 2]);
        let word = tag.trim_matches(|char: char| "{}%-+".contains(char) || char.is_whitespace());
        out.push_str(before);
        match word {
            "generation" => out.push_str(&tag.replace(word, "if true")),
            "endgeneration" => out.push_str(&tag.replace(word, "endif")),
            _ => out.push_str(tag),
        }
        rest = &rest[start + length + 2..];
    }
    out.push_str(rest);
    out
}

/// The date a template is told. The clock would make tokens depend on the day of the run, so it is the
/// day that Llama 3.2's template falls back on: Friday, 26 July 2024, at midnight.
fn strftime(format: &str) -> String {
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(char) = chars.next() {
        if char != '%' {
            out.push(char);
            continue;
        }
        match chars.next() {
            Some('d' | 'e') => out.push_str("26"),
            Some('m') => out.push_str("07"),
            Some('b' | 'h') => out.push_str("Jul"),
            Some('B') => out.push_str("July"),
            Some('y') => out.push_str("24"),
            Some('Y') => out.push_str("2024"),
            Some('a') => out.push_str("Fri"),
            Some('A') => out.push_str("Friday"),
            Some('j') => out.push_str("208"),
            Some('F') => out.push_str("2024-07-26"),
            Some('H' | 'M' | 'S') => out.push_str("00"),
            Some('%') => out.push('%'),
            Some(other) => out.extend(['%', other]),
            None => out.push('%'),
        }
    }
    out
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=…)`, as transformers gives it to templates.
fn tojson(value: Value, options: Kwargs) -> Result<Value, Error> {
    let failed =
        |error: serde_json::Error| Error::new(ErrorKind::BadSerialization, error.to_string());
    let indent: Option<usize> = options.get("indent")?;
    let mut out = Vec::new();
    match indent {
        Some(width) => {
            let spaces = " ".repeat(width);
            let formatter = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
            serde::Serialize::serialize(&value, &mut serializer).map_err(failed)?;
        }
        None => {
            let mut serializer = serde_json::Serializer::with_formatter(&mut out, PythonSpacing);
            serde::Serialize::serialize(&value, &mut serializer).map_err(failed)?;
        }
    }
    Ok(Value::from_safe_string(String::from_utf8_lossy(&out).into_owned()))
}

/// Python's separators: ", " and ": ".
struct PythonSpacing;

impl Formatter for PythonSpacing {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
    ) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}
