//! A conversation or a text becomes tokens, each marked as counted in the loss or not.
//!
//! What the assistant said is found by rendering prefixes: the text of `messages[..=i]` less the text
//! of `messages[..i]` with the generation prompt. So training predicts exactly what generation will be
//! asked for, with any template. Where a template rewrites earlier turns once later ones are there (Qwen3
//! drops their reasoning), each answer becomes a document of its own, after the prompt it would be asked with.
//! The last token counted of a turn must be one that ends a generation; a mask without it trains a model
//! that never stops, so that is an error.

use std::{ops::Range, path::Path};

use anyhow::{Context as _, Result};
use artifact::{Message, bail_user, error::user};
use minijinja::Value;

use crate::{
    template::{ChatTemplate, turn},
    tokenizer::Tokenizer,
};

/// Tokens of one document.
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

/// A conversation on its way through the template: special tokens in contents are escaped.
struct Conversation<'a> {
    encoder: &'a Encoder,
    messages: &'a [Message],
    turns: Vec<Value>,
}

/// An answer in the text that ends with it.
struct Answer {
    /// Which message it is.
    index: usize,
    /// Where it stands in `text`, in bytes, with its end of turn.
    span: Range<usize>,
    /// The conversation up to it.
    text: String,
}

impl Encoder {
    /// Loads both from a model folder.
    pub fn load(folder: &Path) -> Result<Self> {
        let tokenizer = Tokenizer::load(folder)?;
        let template = ChatTemplate::load(&tokenizer)?;
        Ok(Self { tokenizer, template })
    }

    /// A conversation with the assistant's tokens counted: one document, or where the template rewrites
    /// earlier turns one for each answer. Answers that are empty count nothing.
    pub fn chat(&self, messages: &[Message]) -> Result<Vec<Tokens>> {
        let conversation = self.conversation(messages);
        let whole = conversation.render(messages.len(), false)?;
        let answers = conversation.answers(&whole)?;
        if answers.iter().all(|answer| whole.starts_with(&answer.text)) {
            return Ok(vec![self.counting(&whole, &answers)?]);
        }
        answers.iter().map(|one| self.counting(&one.text, std::slice::from_ref(one))).collect()
    }

    /// Tokens of `text`, those of the answers counted, each up to its end of turn.
    fn counting(&self, text: &str, answers: &[Answer]) -> Result<Tokens> {
        let encoded = self.tokenizer.encode(text, false)?;
        let mut counted = vec![false; encoded.ids.len()];
        for Answer { index, span, .. } in answers {
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

    /// A text, all of it counted, with the end-of-text token after it. What stands before it (BOS, say) is
    /// what tokenizer.json's post-processor puts there, as transformers does.
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
    pub fn chat_or_text(&self, messages: &[Message]) -> Result<Vec<Tokens>> {
        if messages.iter().any(|message| message.role == "assistant") {
            self.chat(messages)
        } else {
            Ok(vec![self.text(&plain_text(messages))?])
        }
    }

    /// The prompt that an assistant answers: its text and its tokens. Messages that stand after
    /// the last one of user or system are left out.
    pub fn prompt(&self, messages: &[Message]) -> Result<(String, Vec<u32>)> {
        let asked = messages
            .iter()
            .rposition(|message| message.role != "assistant")
            .map_or(0, |last| last + 1);
        if asked == 0 {
            bail_user!("there is no message of a user or the system to answer");
        }
        let text = self.conversation(messages).render(asked, true)?;
        let ids = self.tokenizer.encode(&text, false)?.ids;
        Ok((Tokenizer::unescape(&text), ids))
    }

    /// The token that ends the assistant's turns by the chat template.
    pub fn end_of_turn(&self) -> Result<u32> {
        let folder = self.tokenizer.folder().display();
        self.probe().with_context(|| {
            format!("{folder}: the chat template does not tell how an answer ends")
        })
    }

    /// The same, by a conversation of two messages.
    fn probe(&self) -> Result<u32> {
        let message = |role: &str| Message { role: role.to_owned(), content: "a".to_owned() };
        let talk = ["system", "user", "assistant"].map(message);
        // Some templates take no system message, some none without.
        let documents =
            self.chat(&talk[1..]).or_else(|error| self.chat(&talk).map_err(|_| error))?;
        let last = |tokens: &Tokens| {
            let last = tokens.counted.iter().rposition(|&counted| counted)?;
            Some(tokens.ids[last])
        };
        documents.last().and_then(last).context("the chat template renders no assistant turn")
    }

    /// All ids that end a generation, sorted.
    pub fn stop_ids(&self) -> Result<Vec<u32>> {
        let mut ids = self.tokenizer.stop_ids().to_vec();
        ids.push(self.end_of_turn()?);
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    fn conversation<'a>(&'a self, messages: &'a [Message]) -> Conversation<'a> {
        let escaped =
            |message: &Message| turn(&message.role, &self.tokenizer.escape(&message.content));
        Conversation { encoder: self, messages, turns: messages.iter().map(escaped).collect() }
    }

    /// How many of a turn's tokens count: up to its last special token, with only space after that.
    fn end_of_turn_in(&self, ids: &[u32]) -> Option<usize> {
        let ends =
            |id: &u32| self.tokenizer.is_special(*id) || self.tokenizer.stop_ids().contains(id);
        let last = ids.iter().rposition(ends)?;
        if last + 1 == ids.len() {
            return Some(ids.len());
        }
        let rest = self.tokenizer.decode_all(&ids[last + 1..]).ok()?;
        rest.trim().is_empty().then_some(last + 1)
    }
}

impl Conversation<'_> {
    /// Every answer that says something; `whole` is the text of the whole conversation.
    fn answers(&self, whole: &str) -> Result<Vec<Answer>> {
        let says = |(index, message): (usize, &Message)| {
            (message.role == "assistant" && !message.content.trim().is_empty()).then_some(index)
        };
        let spoken = self.messages.iter().enumerate().filter_map(says);
        spoken.map(|index| self.answer(index, whole)).collect()
    }

    /// Message `index` in the text that ends with it.
    fn answer(&self, index: usize, whole: &str) -> Result<Answer> {
        let before = self.render(index, true)?;
        let text = if index + 1 == self.messages.len() {
            whole.to_owned()
        } else {
            self.render(index + 1, false)?
        };
        if !text.starts_with(&before) {
            bail_user!(
                "message {index} (assistant): the chat template renders the messages before it differently once it is \
                 there, so what it said cannot be told from the prompt; mend the template, so that a conversation \
                 begins with what the same template gives as the prompt (add_generation_prompt)"
            );
        }
        Ok(Answer { index, span: before.len()..text.len(), text })
    }

    /// Renders the first `count` messages, and on failure says which one the template does not take.
    fn render(&self, count: usize, add_generation_prompt: bool) -> Result<String> {
        let render =
            |count| self.encoder.template.render_turns(&self.turns[..count], add_generation_prompt);
        render(count).map_err(|error| {
            let first = (1..=count).find(|&count| render(count).is_err()).unwrap_or(count);
            let first = first.saturating_sub(1);
            let role = self.messages.get(first).map_or("none", |message| message.role.as_str());
            user(format!("message {first} ({role}): the chat template fails: {error:#}"))
        })
    }
}
