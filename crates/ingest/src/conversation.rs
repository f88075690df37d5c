//! From a row's fields to its conversation, in the shapes that instruction data come in: Alpaca (Taori et al. 2023),
//! ShareGPT, `messages` (OpenAI), prompt and completion, preference pairs (the chosen side), self-instruct seed tasks.

use std::borrow::Cow;

use artifact::Message;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::config::{Map, Schema};
use crate::fields::{Fields, Value};
use crate::rejects::{Reason, Refusal};

const PROMPTS: &[&str] = &["prompt", "question", "query"];
const ANSWERS: &[&str] = &["completion", "response", "answer", "chosen", "output"];

/// The conversation of a row.
pub(crate) fn conversation(
    fields: &Fields,
    schema: Schema,
    map: &Map,
) -> Result<Vec<Message>, Refusal> {
    let mut messages = match by_map(fields, map)? {
        Some(messages) => messages,
        None => by_schema(fields, schema)?,
    };
    if let Some(column) = &map.system
        && let Some(system) = fields.find_text(column)?
    {
        messages.insert(0, message("system", system));
    }
    messages.retain(|message| message.role != "system" || !message.content.is_empty());
    let speaks = |message: &Message| {
        matches!(message.role.as_str(), "user" | "text") && !message.content.trim().is_empty()
    };
    if !messages.iter().any(speaks) {
        return Err(Refusal::new(Reason::Empty, "no text of a user"));
    }
    if messages
        .last()
        .is_some_and(|last| last.role == "assistant" && last.content.trim().is_empty())
    {
        return Err(Refusal::new(Reason::Empty, "the last answer has no text"));
    }
    Ok(messages)
}

/// The one-turn conversation of a cell.
pub(crate) fn single(role: &str, text: &str) -> Vec<Message> {
    vec![Message { role: role.to_string(), content: text.to_string() }]
}

fn message(role: &str, content: Cow<'_, str>) -> Message {
    Message { role: role.to_string(), content: content.into_owned() }
}

fn by_map(fields: &Fields, map: &Map) -> Result<Option<Vec<Message>>, Refusal> {
    if let Some(column) = &map.messages {
        return list(&*fields.find(column)?).map(Some);
    }
    if let Some(column) = &map.text {
        return Ok(Some(vec![message("text", fields.find_text(column)?.unwrap_or_default())]));
    }
    let Some(column) = &map.prompt else { return Ok(None) };
    let mut messages = vec![message("user", fields.find_text(column)?.unwrap_or_default())];
    if let Some(column) = &map.completion {
        messages.push(message("assistant", fields.find_text(column)?.unwrap_or_default()));
    }
    Ok(Some(messages))
}

fn by_schema(fields: &Fields, schema: Schema) -> Result<Vec<Message>, Refusal> {
    match schema {
        Schema::Messages => list(required(fields, "messages")?),
        Schema::Sharegpt => sharegpt(fields),
        Schema::Alpaca => alpaca(fields),
        Schema::PromptCompletion => prompt_completion(fields),
        Schema::Lines => Ok(vec![message("user", fields.text("text")?.unwrap_or_default())]),
        Schema::Map | Schema::Wide => {
            Err(Refusal::new(Reason::NoSchema, "`map` names neither prompt, messages nor text"))
        }
        Schema::Auto if fields.has("messages") => list(required(fields, "messages")?),
        Schema::Auto if fields.has("conversations") => sharegpt(fields),
        Schema::Auto if fields.has("instruction") => alpaca(fields),
        Schema::Auto if PROMPTS.iter().any(|name| fields.has(name)) => prompt_completion(fields),
        Schema::Auto if fields.has("text") => {
            Ok(vec![message("text", fields.text("text")?.unwrap_or_default())])
        }
        Schema::Auto => {
            let names: Vec<&str> = fields.names().collect();
            Err(Refusal::new(
                Reason::NoSchema,
                format!("the row has {}; say what they hold with `map`", names.join(", ")),
            ))
        }
    }
}

fn required<'f, 'a>(fields: &'f Fields<'a>, name: &str) -> Result<&'f Value<'a>, Refusal> {
    fields.get(name).ok_or_else(|| {
        let names: Vec<&str> = fields.names().collect();
        Refusal::new(
            Reason::MissingField,
            format!("no column `{name}`; there is {}", names.join(", ")),
        )
    })
}

fn prompt_completion(fields: &Fields) -> Result<Vec<Message>, Refusal> {
    let name = PROMPTS.iter().find(|name| fields.has(name)).unwrap_or(&PROMPTS[0]);
    let prompt = required(fields, name)?;
    let mut messages = turns(prompt, "user").map_err(|error| error.about(name))?;
    messages.splice(0..0, fields.text("system")?.map(|text| message("system", text)));
    if let Some(name) = ANSWERS.iter().find(|name| fields.has(name))
        && let Some(answer) = fields.get(name)
    {
        let answer = turns(answer, "assistant").map_err(|error| error.about(name))?;
        // A chosen side that repeats the prompt is the whole conversation.
        messages = if answer.len() > 1 { answer } else { [messages, answer].concat() };
    }
    Ok(messages)
}

/// A text of one side, or a list of messages or one message that says whose it is.
fn turns(value: &Value, role: &str) -> Result<Vec<Message>, Refusal> {
    match value {
        Value::Json(json) if json.starts_with('[') => list(value),
        Value::Json(json) if json.starts_with('{') => {
            list(&Value::Json(Cow::Owned(format!("[{json}]"))))
        }
        _ => Ok(vec![message(role, value.text()?.unwrap_or_default())]),
    }
}

/// Conversations by `from` and `value`; a preference pair ends with the chosen answer.
fn sharegpt(fields: &Fields) -> Result<Vec<Message>, Refusal> {
    let mut messages = list(required(fields, "conversations")?)?;
    messages.splice(0..0, fields.text("system")?.map(|text| message("system", text)));
    if let Some(chosen) = fields.get("chosen") {
        messages.extend(turns(chosen, "assistant").map_err(|error| error.about("chosen"))?);
    }
    Ok(messages)
}

/// Instruction and input make the prompt, a blank line between them; earlier turns stand in `history`.
fn alpaca(fields: &Fields) -> Result<Vec<Message>, Refusal> {
    let mut messages = Vec::new();
    messages.extend(fields.text("system")?.map(|text| message("system", text)));
    if let Some(history) = fields.get("history") {
        let pairs: Option<Vec<(String, String)>> =
            serde_json::from_str(&history.json()).unwrap_or(None);
        for (user, assistant) in pairs.unwrap_or_default() {
            messages.extend([message("user", user.into()), message("assistant", assistant.into())]);
        }
    }
    let instruction = fields.text("instruction")?.unwrap_or_default().into_owned();
    let (input, output) = match fields.get("instances") {
        Some(instances) => seed_instance(instances)?,
        None => {
            let output = ["output", "chosen"].iter().find(|name| fields.has(name));
            let output = output.map_or(Ok(None), |name| fields.text(name))?;
            (fields.text("input")?.map(Cow::into_owned), output.map(Cow::into_owned))
        }
    };
    let prompt = match input.filter(|input| !input.is_empty()) {
        Some(input) => format!("{instruction}\n\n{input}"),
        None => instruction,
    };
    messages.push(message("user", prompt.into()));
    messages.extend(output.map(|output| message("assistant", output.into())));
    Ok(messages)
}

/// The first instance of a self-instruct seed task.
fn seed_instance(instances: &Value) -> Result<(Option<String>, Option<String>), Refusal> {
    #[derive(Deserialize)]
    struct Instance {
        input: Option<String>,
        output: Option<String>,
    }
    let instances: Vec<Instance> = serde_json::from_str(&instances.json()).map_err(|error| {
        Refusal::new(
            Reason::WrongType,
            format!("`instances` is not a list of input, output: {error}"),
        )
    })?;
    Ok(instances.into_iter().next().map_or((None, None), |first| (first.input, first.output)))
}

/// One message as it stands in a list, whichever names its keys have.
#[derive(Deserialize)]
#[serde(expecting = "a message with `role` and `content`")]
struct Turn<'a> {
    #[serde(alias = "from", borrow)]
    role: Cow<'a, str>,
    #[serde(alias = "value", borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_calls: Option<&'a RawValue>,
}

/// A list of messages.
fn list(value: &Value) -> Result<Vec<Message>, Refusal> {
    let json = match value {
        Value::Json(json) => json.as_ref(),
        // A list in a cell is JSON text.
        Value::Text(text) => text.as_ref(),
    };
    let turns: Vec<Turn> = serde_json::from_str(json).map_err(|error| {
        Refusal::new(Reason::WrongType, format!("not a list of messages: {error}"))
    })?;
    turns.iter().map(message_of).collect()
}

fn message_of(turn: &Turn) -> Result<Message, Refusal> {
    let role = match turn.role.as_ref() {
        "user" | "human" | "prompter" => "user",
        "assistant" | "gpt" | "model" | "chatgpt" | "bot" | "function_call" => "assistant",
        "system" | "developer" => "system",
        "tool" | "function" | "observation" | "function_response" | "ipython" => "tool",
        "text" => "text",
        other => return Err(Refusal::new(Reason::WrongType, format!("unknown role {other:?}"))),
    };
    let mut content =
        turn.content.map_or(Ok(String::new()), |content| content_text(content.get()))?;
    if content.is_empty()
        && let Some(calls) = turn.tool_calls
    {
        content = calls.get().to_string();
    }
    Ok(Message { role: role.to_string(), content })
}

/// The text of a content: a string, null, or a list of parts of which the texts count.
fn content_text(json: &str) -> Result<String, Refusal> {
    #[derive(Deserialize)]
    struct Part {
        #[serde(default)]
        text: String,
    }
    if json.starts_with('[') {
        let parts: Vec<Part> = serde_json::from_str(json).map_err(|error| {
            Refusal::new(Reason::WrongType, format!("a message's content: {error}"))
        })?;
        return Ok(parts.into_iter().map(|part| part.text).collect::<Vec<_>>().join("\n"));
    }
    let value = Value::Json(Cow::Borrowed(json));
    Ok(value.text().map_err(|error| error.about("content"))?.unwrap_or_default().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns_of(json: &str) -> Vec<(String, String)> {
        let fields = Fields::from_json(json).unwrap();
        let messages = conversation(&fields, Schema::Auto, &Map::default())
            .unwrap_or_else(|refusal| panic!("{json}: {refusal:?}"));
        messages.into_iter().map(|m| (m.role, m.content)).collect()
    }

    #[track_caller]
    fn check(json: &str, expected: &[(&str, &str)]) {
        let expected: Vec<_> =
            expected.iter().map(|(role, text)| (role.to_string(), text.to_string())).collect();
        assert_eq!(turns_of(json), expected, "{json}");
    }

    #[test]
    fn alpaca_with_input_history_and_system() {
        check(
            r#"{"instruction":"Add","input":"","output":"3"}"#,
            &[("user", "Add"), ("assistant", "3")],
        );
        check(
            r#"{"instruction":"And \"five\"?","input":"5","output":"8","system":"Be brief.","history":[["Add","3"]]}"#,
            &[
                ("system", "Be brief."),
                ("user", "Add"),
                ("assistant", "3"),
                ("user", "And \"five\"?\n\n5"),
                ("assistant", "8"),
            ],
        );
        check(
            r#"{"id":"seed_task_0","instruction":"Rhyme","instances":[{"input":"moon","output":"June"}]}"#,
            &[("user", "Rhyme\n\nmoon"), ("assistant", "June")],
        );
    }

    #[test]
    fn sharegpt_with_tools_and_preferences() {
        check(
            r#"{"conversations":[{"from":"human","value":"hi"},{"from":"function_call","value":"{}"},{"from":"observation","value":"1"},{"from":"gpt","value":"one"}]}"#,
            &[("user", "hi"), ("assistant", "{}"), ("tool", "1"), ("assistant", "one")],
        );
        check(
            r#"{"conversations":[{"from":"human","value":"hi"}],"chosen":{"from":"gpt","value":"good"},"rejected":{"from":"gpt","value":"bad"}}"#,
            &[("user", "hi"), ("assistant", "good")],
        );
    }

    #[test]
    fn messages_with_parts_and_null_content() {
        check(
            r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},{"role":"assistant","content":null,"tool_calls":[1]}]}"#,
            &[("user", "a\nb"), ("assistant", "[1]")],
        );
    }

    #[test]
    fn prompts_completions_and_raw_text() {
        check(r#"{"question":"2+2?","answer":"4"}"#, &[("user", "2+2?"), ("assistant", "4")]);
        check(
            r#"{"prompt":"p","chosen":"c","rejected":"r"}"#,
            &[("user", "p"), ("assistant", "c")],
        );
        check(
            r#"{"prompt":"p","chosen":[{"role":"user","content":"p"},{"role":"assistant","content":"c"}]}"#,
            &[("user", "p"), ("assistant", "c")],
        );
        check(r#"{"text":"Once upon a time"}"#, &[("text", "Once upon a time")]);
    }

    #[test]
    fn what_has_no_conversation_says_why() {
        for (json, reason) in [
            (r#"{"premise":"x","label":0}"#, Reason::NoSchema),
            (r#"{"prompt":""}"#, Reason::Empty),
            (r#"{"prompt":"p","completion":null}"#, Reason::Empty),
            (r#"{"prompt":{"a":1}}"#, Reason::WrongType),
            (r#"{"messages":"hello"}"#, Reason::WrongType),
            (r#"{"messages":[{"role":"narrator","content":"x"}]}"#, Reason::WrongType),
        ] {
            let fields = Fields::from_json(json).unwrap();
            let refusal = conversation(&fields, Schema::Auto, &Map::default()).unwrap_err();
            assert_eq!(refusal.reason, reason, "{json}: {refusal:?}");
        }
    }
}
