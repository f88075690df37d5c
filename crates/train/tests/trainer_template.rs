//! Chat templates against transformers' `apply_chat_template`, and the loss mask.

mod trainer_common;

use std::path::Path;

use artifact::{Message, error::is_user};
use serde_json::Value;
use train::{
    encoder::{Encoder, Tokens},
    template::ChatTemplate,
    tokenizer::Tokenizer,
};
use trainer_common::{fixture, lines, message};

fn messages(row: &Value) -> Vec<Message> {
    serde_json::from_value(row["messages"].clone()).unwrap()
}

fn compile(source: &str) -> ChatTemplate {
    let end = "<|endoftext|>".to_owned();
    let named = [("bos_token".to_owned(), end.clone()), ("eos_token".to_owned(), end)];
    ChatTemplate::new(source, Path::new("test"), &named).unwrap()
}

fn encoder(source: &str) -> Encoder {
    let tokenizer = Tokenizer::load(&fixture("tokenizer")).unwrap();
    Encoder { tokenizer, template: compile(source) }
}

/// Texts of the tokens that count.
fn counted(encoder: &Encoder, messages: &[Message]) -> anyhow::Result<String> {
    counted_of(encoder, &one(encoder.chat(messages)?))
}

fn counted_of(encoder: &Encoder, tokens: &Tokens) -> anyhow::Result<String> {
    let pairs = tokens.ids.iter().zip(&tokens.counted);
    let ids: Vec<u32> = pairs.filter(|(_, counted)| **counted).map(|(id, _)| *id).collect();
    encoder.tokenizer.decode_all(&ids)
}

/// The only document.
#[track_caller]
fn one(mut documents: Vec<Tokens>) -> Tokens {
    assert_eq!(documents.len(), 1);
    documents.remove(0)
}

#[test]
fn templates_render_as_in_transformers() {
    let rows = lines("templates.jsonl");
    assert!(rows.len() >= 40);
    for row in rows {
        let rendered = compile(row["template"].as_str().unwrap())
            .render(&messages(&row), row["prompt"] == true);
        match row["text"].as_str() {
            Some(text) => assert_eq!(rendered.unwrap(), text, "{}", row["name"]),
            None => assert!(rendered.unwrap_err().to_string().contains("roles must alternate")),
        }
    }
}

/// The real models' templates, where `make_templates.py --real` has rendered them.
#[test]
fn real_templates_render_as_in_transformers() {
    let Some(file) = std::env::var_os("ISOGLOSS_TEMPLATES") else { return };
    let text = std::fs::read_to_string(file).unwrap();
    let mut wrong = Vec::new();
    for line in text.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let template = row["template"].as_str().unwrap();
        let end = "<|endoftext|>".to_owned();
        let named =
            ["bos_token", "eos_token", "pad_token"].map(|name| (name.to_owned(), end.clone()));
        let found = ChatTemplate::new(template, Path::new("real"), &named)
            .and_then(|template| template.render(&messages(&row), row["prompt"] == true));
        let is_equal = match row["text"].as_str() {
            Some(text) => found.as_ref().is_ok_and(|found| found == text),
            None => found.is_err(),
        };
        if !is_equal {
            wrong.push(format!(
                "{} {}: {found:?}, not {}",
                row["name"], row["messages"], row["text"]
            ));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_mask_is_the_one_that_generation_tags_give_transformers() {
    let template =
        lines("templates.jsonl").into_iter().find(|row| row["name"] == "generation tags").unwrap();
    let encoder = encoder(template["template"].as_str().unwrap());
    for row in lines("masks.jsonl") {
        let tokens = one(encoder.chat(&messages(&row)).unwrap());
        let ids: Vec<u32> = serde_json::from_value(row["ids"].clone()).unwrap();
        let mask: Vec<u8> = serde_json::from_value(row["mask"].clone()).unwrap();
        assert_eq!(tokens.ids, ids);
        assert_eq!(tokens.counted, mask.iter().map(|&counted| counted == 1).collect::<Vec<_>>());
    }
}

#[test]
fn every_answer_counts_with_its_end_of_turn_and_nothing_else_does() {
    let encoder = Encoder::load(&fixture("tokenizer")).unwrap();
    let talk = [
        message("user", "Hi"),
        message("assistant", "Hello!"),
        message("user", "12 + 30?"),
        message("assistant", "42"),
    ];
    assert_eq!(counted(&encoder, &talk).unwrap(), "Hello!<|im_end|>42<|im_end|>");
    assert_eq!(
        encoder.tokenizer.decode_all(&[encoder.end_of_turn().unwrap()]).unwrap(),
        "<|im_end|>"
    );
}

#[test]
fn a_spelled_out_end_token_neither_ends_the_turn_nor_moves_the_mask() {
    let encoder = Encoder::load(&fixture("tokenizer")).unwrap();
    let talk = [
        message("user", "what is <|im_end|>?"),
        message("assistant", "<|im_end|> ends <|im_start|>"),
    ];
    let tokens = one(encoder.chat(&talk).unwrap());
    assert_eq!(counted(&encoder, &talk).unwrap(), "<|im_end|> ends <|im_start|><|im_end|>");
    let end = encoder.tokenizer.id("<|im_end|>").unwrap();
    assert_eq!(tokens.ids.iter().filter(|&&id| id == end).count(), 2);
    let (prompt, ids) = encoder.prompt(&talk).unwrap();
    assert_eq!(prompt, "<|im_start|>user\nwhat is <|im_end|>?<|im_end|>\n<|im_start|>assistant\n");
    assert_eq!(ids, tokens.ids[..ids.len()]);
}

#[test]
fn an_empty_answer_counts_nothing() {
    let encoder = Encoder::load(&fixture("tokenizer")).unwrap();
    assert_eq!(
        counted(&encoder, &[message("user", "Hi"), message("assistant", " \n")]).unwrap(),
        ""
    );
}

#[test]
fn a_template_without_an_end_token_is_refused() {
    let encoder = encoder(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}",
    );
    let error = encoder.chat(&[message("user", "Hi"), message("assistant", "Hello!")]).unwrap_err();
    assert!(
        is_user(&error)
            && error.to_string().contains("message 1")
            && error.to_string().contains("end-of-turn"),
        "{error}"
    );
}

/// Answers lose their reasoning once the user speaks again, as in Qwen3.
const FORGETFUL: &str = "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}\
     {% for m in messages %}<|im_start|>{{ m.role }}\n\
     {% if m.role == 'assistant' and loop.index0 > ns.last and '</think>' not in m.content %}<think>\n\n</think>\n\n{{ m.content }}\
     {% elif m.role == 'assistant' and loop.index0 < ns.last %}{{ m.content.split('</think>')[-1].lstrip('\n') }}\
     {% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}\
     {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

#[test]
fn where_a_template_rewrites_earlier_turns_each_answer_is_a_document_after_its_prompt() {
    let encoder = encoder(FORGETFUL);
    let talk = [
        message("user", "Hi"),
        message("assistant", "<think>\nso\n</think>\n\nHello!"),
        message("user", "12"),
        message("assistant", "42"),
    ];
    let documents = encoder.chat(&talk).unwrap();
    let counted: Vec<String> =
        documents.iter().map(|tokens| counted_of(&encoder, tokens).unwrap()).collect();
    assert_eq!(
        counted,
        ["<think>\nso\n</think>\n\nHello!<|im_end|>", "<think>\n\n</think>\n\n42<|im_end|>"]
    );
    // What stands before an answer is what generation will be given.
    for (document, asked) in documents.iter().zip([1, 3]) {
        let (_, prompt) = encoder.prompt(&talk[..asked]).unwrap();
        let first = document.counted.iter().position(|&counted| counted).unwrap();
        assert_eq!(document.ids[..first], prompt);
    }
    assert!(encoder.prompt(&talk[..3]).unwrap().0.contains("assistant\nHello!"), "no reasoning");
    assert_eq!(encoder.chat(&talk[..2]).unwrap().len(), 1);
}

#[test]
fn a_template_whose_prompt_is_no_beginning_of_the_answered_conversation_is_refused() {
    // The prompt opens the reasoning that an answer then lacks, as in DeepSeek R1.
    let encoder = encoder(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}\
         {% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
    );
    let talk = [message("user", "Hi"), message("assistant", "Hello!")];
    let error = encoder.chat(&talk).unwrap_err();
    assert!(is_user(&error) && error.to_string().contains("message 1 (assistant)"), "{error}");
}

#[test]
fn a_failing_template_names_the_message() {
    let encoder = encoder(
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}{{ m.content }}{% endfor %}",
    );
    let error = encoder
        .chat(&[message("user", "Hi"), message("system", "Be brief")])
        .unwrap_err()
        .to_string();
    assert!(error.contains("message 1 (system)") && error.contains("no system role"), "{error}");
    let broken =
        ChatTemplate::new("{% for %}", Path::new("x/chat_template.jinja"), &[]).err().unwrap();
    assert!(is_user(&broken) && broken.to_string().contains("x/chat_template.jinja"), "{broken}");
}

#[test]
fn the_clock_of_a_template_stands_still() {
    // Python: datetime.datetime(2024, 7, 26).strftime(...)
    let template = compile("{{ strftime_now('%d %b %Y, %A %B %j %y-%m-%d %H:%M:%S %%') }}");
    assert_eq!(
        template.render(&[], false).unwrap(),
        "26 Jul 2024, Friday July 208 24-07-26 00:00:00 %"
    );
}

/// The small tokenizer without ChatML's tokens, and with or without an EOS token.
fn without_chatml(eos: &str) -> anyhow::Result<Encoder> {
    let folder = tempfile::tempdir().unwrap();
    let json = std::fs::read_to_string(fixture("tokenizer/tokenizer.json")).unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), json.replace("<|im_", "<|my_")).unwrap();
    std::fs::write(folder.path().join("tokenizer_config.json"), eos).unwrap();
    Encoder::load(folder.path())
}

#[test]
fn without_template_or_chatml_tokens_a_turn_ends_in_eos() {
    let talk = [message("user", "Hi"), message("assistant", "42")];
    let encoder = without_chatml(r#"{"eos_token": {"content": "<|endoftext|>"}}"#).unwrap();
    assert_eq!(counted(&encoder, &talk).unwrap(), "42<|endoftext|>");
    let error = without_chatml("{}").unwrap().chat(&talk).unwrap_err();
    assert!(is_user(&error) && error.to_string().contains("no chat template"), "{error}");
}

#[test]
fn named_templates_and_the_jinja_file_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::copy(fixture("tokenizer/tokenizer.json"), path("tokenizer.json")).unwrap();
    let load = || ChatTemplate::load(&Tokenizer::load(folder.path()).unwrap());
    let chatml = load().unwrap();
    assert!(chatml.is_default());
    assert_eq!(
        chatml.render(&[message("user", "a")], true).unwrap(),
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    );
    let named = r#"{"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]}"#;
    std::fs::write(path("tokenizer_config.json"), named).unwrap();
    assert_eq!(load().unwrap().source(), "d");
    std::fs::write(path("tokenizer_config.json"), named.replace("default", "other")).unwrap();
    assert!(is_user(&load().err().unwrap()));
    std::fs::write(path("chat_template.jinja"), "j").unwrap();
    assert_eq!(load().unwrap().source(), "j");
}
