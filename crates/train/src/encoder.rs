//! A conversation or a text becomes tokens, each marked as counted in the loss or not.
//!
//! What the assistant said is found by rendering prefixes: the text of `messages[..=i]` less the text
//! of `messages[..i]` with the generation prompt. So training predicts exactly what generation will be
//! asked for, with any template. The last token counted of a turn must be one that ends a
//! generation; a mask without it trains a model that never stops, so that is an error.

use std::path::Path;

use anyhow::{Context as _, Result};
use artifact::{Message, bail_user, error::user};

use crate::{template::ChatTemplate, tokenizer::Tokenizer};

/// Tokens of one example.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tokens {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Whether the loss counts the prediction of this token.
    pub counted: Vec<bool>,
}

/// Messages as the text of language modelling: their contents, one to a line.
pub fn plain_text(messages: &[Message]) -> String {
    let texts: Vec<&str> = messages.iter().map(|message| message.content.as_str()).collect();
    texts.join("\n")
}

/// Tokenizer and chat template of a model.
pub struct Encoder {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The chat template.
    pub template: ChatTemplate,
}

impl Encoder {
    /// Loads both from a model folder.
    pub fn load(folder: &Path) -> Result<Self> {
        let tokenizer = Tokenizer::load(folder)?;
        let template = ChatTemplate::load(&tokenizer)?;
        Ok(Self { tokenizer, template })
    }

    /// A conversation with the assistant's tokens counted. Answers that are empty count nothing.
    pub fn chat(&self, messages: &[Message]) -> Result<Tokens> {
        let messages = self.escape(messages);
        let text = self.render(&messages, false)?;
        let mut spans = Vec::new();
        for (index, message) in messages.iter().enumerate() {
            if message.role == "assistant" && !message.content.trim().is_empty() {
                spans.push((index, self.span(&messages, index, &text)?));
            }
        }
        let encoded = self.tokenizer.encode(&text, false)?;
        let mut counted = vec![false; encoded.ids.len()];
        for (index, span) in spans {
            let from = encoded.starts.partition_point(|&start| start < span.start);
            let to = encoded.starts.partition_point(|&start| start < span.end);
            let end = self.end_of_turn_in(&encoded.ids[from..to]).ok_or_else(|| {
                user(format!(
                    "message {index} (assistant): the chat template puts no end-of-turn token after it, so a trained \
                     model would never stop; end the turn with eos_token in the template"
                ))
            })?;
            counted[from..from + end].fill(true);
        }
        Ok(Tokens { ids: encoded.ids, counted })
    }

    /// A text, all of it counted, with the end-of-text token after it.
    pub fn text(&self, text: &str) -> Result<Tokens> {
        let mut ids = self.tokenizer.encode(&self.tokenizer.escape(text), true)?.ids;
        if let Some(end) = self.tokenizer.named_id("eos_token")
            && ids.last() != Some(&end)
        {
            ids.push(end);
        }
        let counted = vec![true; ids.len()];
        Ok(Tokens { ids, counted })
    }

    /// Messages as training shows them to a person: a conversation, or plain text where nobody
    /// answers, as language modelling takes it.
    pub fn chat_or_text(&self, messages: &[Message]) -> Result<Tokens> {
        if messages.iter().any(|message| message.role == "assistant") {
            self.chat(messages)
        } else {
            self.text(&plain_text(messages))
        }
    }

    /// The prompt that an assistant answers: its text and its tokens. Messages that stand after
    /// the last one of user or system are left out.
    pub fn prompt(&self, messages: &[Message]) -> Result<(String, Vec<u32>)> {
        let asked = messages
            .iter()
            .rposition(|message| message.role != "assistant")
            .map_or(0, |last| last + 1);
        let text = self.render(&self.escape(&messages[..asked]), true)?;
        let ids = self.tokenizer.encode(&text, false)?.ids;
        Ok((Tokenizer::unescape(&text), ids))
    }

    /// The token that ends the assistant's turns by the chat template.
    pub fn end_of_turn(&self) -> Result<u32> {
        let message = |role: &str| Message { role: role.to_owned(), content: "a".to_owned() };
        let tokens = self.chat(&[message("user"), message("assistant")])?;
        let last = tokens.counted.iter().rposition(|&counted| counted);
        last.map(|last| tokens.ids[last]).context("the chat template renders no assistant turn")
    }

    /// All ids that end a generation, sorted.
    pub fn stop_ids(&self) -> Result<Vec<u32>> {
        let mut ids = self.tokenizer.stop_ids().to_vec();
        ids.push(self.end_of_turn()?);
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    fn escape(&self, messages: &[Message]) -> Vec<Message> {
        let escaped = |message: &Message| Message {
            role: message.role.clone(),
            content: self.tokenizer.escape(&message.content).into_owned(),
        };
        messages.iter().map(escaped).collect()
    }

    /// Where message `index` stands in the rendered `text`, in bytes.
    fn span(
        &self,
        messages: &[Message],
        index: usize,
        text: &str,
    ) -> Result<std::ops::Range<usize>> {
        let before = self.render(&messages[..index], true)?;
        let after = if index + 1 == messages.len() {
            text.to_owned()
        } else {
            self.render(&messages[..=index], false)?
        };
        if !after.starts_with(&before) || !text.starts_with(&after) {
            bail_user!(
                "message {index} (assistant): the chat template renders the messages before it differently once it is \
                 there, so what it said cannot be told from the prompt; split the conversation into one example per answer"
            );
        }
        Ok(before.len()..after.len())
    }

    /// How many of a turn's tokens count: up to its last special token, with only space after that.
    fn end_of_turn_in(&self, ids: &[u32]) -> Option<usize> {
        let ends =
            |id: &u32| self.tokenizer.is_special(*id) || self.tokenizer.stop_ids().contains(id);
        let last = ids.iter().rposition(ends)?;
        let rest = self.tokenizer.decode_all(&ids[last + 1..]).ok()?;
        rest.trim().is_empty().then_some(last + 1)
    }

    /// Renders, and on failure says which message the template does not take.
    fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.template.render(messages, add_generation_prompt).map_err(|error| {
            let fails = |&count: &usize| {
                self.template.render(&messages[..count], add_generation_prompt).is_err()
            };
            let first =
                (1..=messages.len()).find(fails).unwrap_or(messages.len()).saturating_sub(1);
            let role = messages.get(first).map_or("none", |message| message.role.as_str());
            user(format!("message {first} ({role}): the chat template fails: {error:#}"))
        })
    }
}
