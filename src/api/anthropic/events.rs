//! A message in the making: its object, and the events that tell of it.

use crate::api::{
    answer::Finish,
    blocks::{Block, Blocks, Change},
    generate::{Generation, Update, Usage},
    stream::{Broken, Sink},
};
use serde_json::{Map, Value, json};

pub struct Message {
    pub id: String,
    pub model: String,
    pub stop_sequences: Vec<String>,
}

/// Why a message ended.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    reason: &'static str,
    stop_sequence: Option<String>,
}

impl Message {
    /// The end, if the update is the last.
    pub fn end(&self, update: &Update) -> Option<End> {
        let stop_sequence = update.stopped_at.and_then(|index| self.stop_sequences.get(index)).cloned();
        let reason = match update.finish? {
            Finish::Length => "max_tokens",
            Finish::ToolCalls => "tool_use",
            Finish::Stop if stop_sequence.is_some() => "stop_sequence",
            Finish::Stop => "end_turn",
        };
        Some(End { reason, stop_sequence })
    }

    pub fn whole(&self, blocks: &[Block], end: Option<End>, tokens: Usage) -> Value {
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": blocks.iter().map(content).collect::<Vec<Value>>(),
            "stop_reason": end.as_ref().map(|end| end.reason),
            "stop_sequence": end.and_then(|end| end.stop_sequence),
            "usage": usage(tokens),
        })
    }
}

/// Tokens that were in the cache are counted apart from the rest of the prompt.
fn usage(tokens: Usage) -> Value {
    json!({
        "input_tokens": tokens.prompt_tokens.saturating_sub(tokens.cached_tokens),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": tokens.cached_tokens,
        "output_tokens": tokens.completion_tokens,
    })
}

/// A complete block. The input of a call that `max_tokens` has broken off is empty: what there is of it is no JSON.
fn content(block: &Block) -> Value {
    match block {
        // Signatures are for services that check whether reasoning comes back as it was; here nothing depends on it.
        Block::Reasoning(text) => json!({"type": "thinking", "thinking": text, "signature": ""}),
        Block::Text { text, .. } => json!({"type": "text", "text": text}),
        Block::Call { id, name, arguments } => {
            let input = serde_json::from_str::<Map<String, Value>>(arguments).unwrap_or_default();
            json!({"type": "tool_use", "id": id, "name": name, "input": input})
        }
    }
}

/// A block at its beginning.
fn empty(block: &Block) -> Block {
    match block {
        Block::Reasoning(_) => Block::Reasoning(String::new()),
        Block::Text { .. } => Block::Text { text: String::new(), logprobs: Vec::new() },
        Block::Call { id, name, .. } => Block::Call { id: id.clone(), name: name.clone(), arguments: String::new() },
    }
}

fn event(blocks: &Blocks, change: Change) -> (&'static str, Value) {
    match change {
        Change::Begin { at } => {
            ("content_block_start", json!({"index": at, "content_block": content(&empty(&blocks.all[at]))}))
        }
        Change::Grow { at, text, .. } => {
            let delta = match &blocks.all[at] {
                Block::Reasoning(_) => json!({"type": "thinking_delta", "thinking": text}),
                Block::Text { .. } => json!({"type": "text_delta", "text": text}),
                Block::Call { .. } => json!({"type": "input_json_delta", "partial_json": text}),
            };
            ("content_block_delta", json!({"index": at, "delta": delta}))
        }
        Change::End { at } => ("content_block_stop", json!({"index": at})),
    }
}

/// Every event's data begins with its name.
async fn emit(sink: &Sink, (name, data): (&'static str, Value)) -> Result<(), Broken> {
    let mut named = json!({"type": name});
    if let (Some(named), Value::Object(data)) = (named.as_object_mut(), data) {
        named.extend(data);
    }
    sink.send_named(name, &named).await
}

pub async fn send(sink: Sink, message: Message, mut generation: Generation) -> Result<Sink, Broken> {
    let start = message.whole(&[], None, generation.usage);
    emit(&sink, ("message_start", json!({"message": start}))).await?;
    emit(&sink, ("ping", json!({}))).await?;
    let (mut blocks, mut end) = (Blocks::default(), None);
    while let Some(update) = generation.next().await? {
        end = message.end(&update).or(end);
        for change in blocks.push(update.piece) {
            emit(&sink, event(&blocks, change)).await?;
        }
    }
    for change in blocks.finish() {
        emit(&sink, event(&blocks, change)).await?;
    }
    let delta = json!({
        "stop_reason": end.as_ref().map(|end| end.reason),
        "stop_sequence": end.and_then(|end| end.stop_sequence),
    });
    emit(&sink, ("message_delta", json!({"delta": delta, "usage": usage(generation.usage)}))).await?;
    emit(&sink, ("message_stop", json!({}))).await?;
    Ok(sink)
}
