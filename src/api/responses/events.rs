//! The events that tell of a response in the making.

use super::{
    Work,
    object::{Object, Status},
};
use crate::api::{
    answer::Finish,
    blocks::{Block, Blocks, Change},
    error::ApiError,
    stream::{Broken, Sink},
};
use serde_json::{Value, json};

/// Numbers the events of a stream.
struct Numbered<'a> {
    sink: &'a Sink,
    next: u64,
}

impl Numbered<'_> {
    async fn send(&mut self, name: &str, mut data: Value) -> Result<(), Broken> {
        data["type"] = json!(name);
        data["sequence_number"] = json!(self.next);
        self.next += 1;
        self.sink.send_named(name, &data).await
    }
}

/// What tells that block number `at` begins, grows or ends. The last item of an answer that was cut is `incomplete`.
fn events(object: &Object, blocks: &Blocks, change: Change, cut: bool) -> Vec<(&'static str, Value)> {
    match change {
        Change::Begin { at } => begin(object, &blocks.all[at], at),
        Change::Grow { at, text, logprobs } => {
            let mut data = place(object, &blocks.all[at], at);
            data["delta"] = json!(text);
            let name = match blocks.all[at] {
                Block::Reasoning(_) => "response.reasoning_text.delta",
                Block::Text { .. } => {
                    data["logprobs"] = json!(object.logprobs(&logprobs));
                    "response.output_text.delta"
                }
                Block::Call { .. } => "response.function_call_arguments.delta",
            };
            vec![(name, data)]
        }
        Change::End { at } => end(object, &blocks.all[at], at, cut),
    }
}

/// Where a block's events belong.
fn place(object: &Object, block: &Block, at: usize) -> Value {
    let mut place = json!({"item_id": object.ids[at], "output_index": at});
    if !matches!(block, Block::Call { .. }) {
        place["content_index"] = json!(0);
    }
    place
}

fn begin(object: &Object, block: &Block, at: usize) -> Vec<(&'static str, Value)> {
    let (empty, part) = match block {
        Block::Reasoning(_) => (Block::Reasoning(String::new()), Some(json!({"type": "reasoning_text", "text": ""}))),
        Block::Text { .. } => {
            (Block::Text { text: String::new(), logprobs: Vec::new() }, Some(object.text_part("", &[])))
        }
        Block::Call { id, name, .. } => {
            (Block::Call { id: id.clone(), name: name.clone(), arguments: String::new() }, None)
        }
    };
    let mut item = object.item(at, &empty, "in_progress");
    if part.is_some() {
        // Its one part is added by an event of its own.
        item["content"] = json!([]);
    }
    let added = ("response.output_item.added", json!({"output_index": at, "item": item}));
    let part = part.map(|part| {
        let mut data = place(object, block, at);
        data["part"] = part;
        ("response.content_part.added", data)
    });
    std::iter::once(added).chain(part).collect()
}

fn end(object: &Object, block: &Block, at: usize, cut: bool) -> Vec<(&'static str, Value)> {
    let mut done = place(object, block, at);
    let mut part_done = done.clone();
    let mut events = match block {
        Block::Reasoning(text) => {
            done["text"] = json!(text);
            part_done["part"] = json!({"type": "reasoning_text", "text": text});
            vec![("response.reasoning_text.done", done), ("response.content_part.done", part_done)]
        }
        Block::Text { text, logprobs } => {
            done["text"] = json!(text);
            done["logprobs"] = json!(object.logprobs(logprobs));
            part_done["part"] = object.text_part(text, logprobs);
            vec![("response.output_text.done", done), ("response.content_part.done", part_done)]
        }
        Block::Call { name, arguments, .. } => {
            done["name"] = json!(name);
            done["arguments"] = json!(arguments);
            vec![("response.function_call_arguments.done", done)]
        }
    };
    let item = object.item(at, block, if cut { "incomplete" } else { "completed" });
    events.push(("response.output_item.done", json!({"output_index": at, "item": item})));
    events
}

/// Sends a whole stream. What fails after its beginning ends it with `response.failed`.
pub async fn send(sink: Sink, mut work: Work) -> Result<Sink, Broken> {
    let mut numbered = Numbered { sink: &sink, next: 0 };
    let mut blocks = Blocks::default();
    match run(&mut numbered, &mut work, &mut blocks).await {
        Ok(()) => {}
        Err(Broken::Gone) => return Err(Broken::Gone),
        Err(Broken::Failed(error)) => {
            let status = Status::Failed { code: failure_code(&error), message: &error.message };
            let response = work.object.to_json(&blocks.all, &status);
            numbered.send("response.failed", json!({"response": response})).await?;
        }
    }
    Ok(sink)
}

/// The codes that clients know.
fn failure_code(error: &ApiError) -> &'static str {
    match error.status.as_u16() {
        429 => "rate_limit_exceeded",
        400..=499 => "invalid_prompt",
        _ => "server_error",
    }
}

async fn run(numbered: &mut Numbered<'_>, work: &mut Work, blocks: &mut Blocks) -> Result<(), Broken> {
    let begun = work.object.to_json(&[], &Status::InProgress);
    numbered.send("response.created", json!({"response": begun})).await?;
    numbered.send("response.in_progress", json!({"response": begun})).await?;
    let mut finish = Finish::Stop;
    while let Some(update) = work.generation.next().await? {
        finish = update.finish.unwrap_or(finish);
        let changes = blocks.push(update.piece);
        changed(numbered, work, blocks, changes, false).await?;
    }
    let changes = blocks.finish();
    changed(numbered, work, blocks, changes, finish == Finish::Length).await?;
    let response = work.ended(&blocks.all, finish).await?;
    let name = if finish == Finish::Length { "response.incomplete" } else { "response.completed" };
    numbered.send(name, json!({"response": response})).await
}

async fn changed(
    numbered: &mut Numbered<'_>,
    work: &mut Work,
    blocks: &Blocks,
    changes: Vec<Change>,
    cut: bool,
) -> Result<(), Broken> {
    for change in changes {
        if let Change::Begin { at } = change {
            work.object.begin(&blocks.all[at]);
        }
        for (name, data) in events(&work.object, blocks, change, cut) {
            numbered.send(name, data).await?;
        }
    }
    Ok(())
}
