//! A response in the making: its object and its output's items.

use super::items;
use crate::{
    api::{
        answer::{Finish, TokenLogprobs},
        blocks::Block,
        generate::Usage,
        identifiers::{identifier, now_s},
        logprobs,
    },
    text::Text,
};
use serde_json::{Map, Value, json};

pub struct Object {
    pub id: String,
    pub created_s: u64,
    pub model: String,
    pub text: Text,
    /// Whether log-probabilities are asked for.
    pub logprobs: bool,
    /// Fields of the request that the response repeats.
    pub repeated: Map<String, Value>,
    pub metadata: Map<String, Value>,
    /// Ids of the output's items so far, by their blocks.
    pub ids: Vec<String>,
}

/// How far a response has come.
pub enum Status<'a> {
    InProgress,
    Ended(Finish, Usage),
    Failed { code: &'a str, message: &'a str },
}

impl Object {
    pub fn to_json(&self, blocks: &[Block], status: &Status) -> Value {
        let (name, completed_s, incomplete, error, usage) = match status {
            Status::InProgress => ("in_progress", None, Value::Null, Value::Null, Value::Null),
            Status::Ended(Finish::Length, tokens) => {
                ("incomplete", None, json!({"reason": "max_output_tokens"}), Value::Null, usage(*tokens))
            }
            Status::Ended(_, tokens) => ("completed", Some(now_s()), Value::Null, Value::Null, usage(*tokens)),
            Status::Failed { code, message } => {
                ("failed", None, Value::Null, json!({"code": code, "message": message}), Value::Null)
            }
        };
        let mut object = json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created_s,
            "status": name,
            "completed_at": completed_s,
            "error": error,
            "incomplete_details": incomplete,
            "model": self.model,
            "output": self.output(blocks, status),
            "metadata": self.metadata,
            "usage": usage,
        });
        for (name, value) in &self.repeated {
            object[name] = value.clone();
        }
        object
    }

    /// Items of which the last is what the end of the answer has made of it.
    fn output(&self, blocks: &[Block], status: &Status) -> Vec<Value> {
        let last = blocks.len().saturating_sub(1);
        let cut = matches!(status, Status::Ended(Finish::Length, _));
        let name = |at| if cut && at == last { "incomplete" } else { "completed" };
        blocks.iter().enumerate().map(|(at, block)| self.item(at, block, name(at))).collect()
    }

    /// Block number `at` as an item.
    pub fn item(&self, at: usize, block: &Block, status: &str) -> Value {
        let id = self.ids.get(at).cloned();
        match block {
            Block::Reasoning(text) => items::reasoning(id, text, status),
            Block::Text { text, logprobs } => {
                let mut item = items::message(id, text, status);
                item["content"] = json!([self.text_part(text, logprobs)]);
                item
            }
            Block::Call { id: call_id, name, arguments } => items::function_call(id, call_id, name, arguments, status),
        }
    }

    pub fn text_part(&self, text: &str, tokens: &[TokenLogprobs]) -> Value {
        items::text_part(text, self.logprobs(tokens))
    }

    pub fn logprobs(&self, tokens: &[TokenLogprobs]) -> Vec<Value> {
        if !self.logprobs {
            return Vec::new();
        }
        let mut chat = logprobs::chat(&self.text, tokens);
        chat["content"].as_array_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Gives the next item its id.
    pub fn begin(&mut self, block: &Block) {
        self.ids.push(identifier(match block {
            Block::Reasoning(_) => "rs_",
            Block::Text { .. } => "msg_",
            Block::Call { .. } => "fc_",
        }));
    }
}

fn usage(tokens: Usage) -> Value {
    json!({
        "input_tokens": tokens.prompt_tokens,
        "input_tokens_details": {"cached_tokens": tokens.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": tokens.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning_tokens},
        "total_tokens": tokens.prompt_tokens + tokens.completion_tokens,
    })
}
