//! Tool calls in an answer: `<tool_call>{"name": …, "arguments": {…}}</tool_call>` among plain text, found while the
//! text comes in pieces. It knows nothing of the API's types.

use serde_json::{Map, Value as Json};

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolCallEvent {
    /// Plain text; never empty.
    Content(String),
    Call {
        name: String,
        /// A JSON object as compact text, its keys in the model's order.
        arguments: String,
    },
}

/// Separates calls from text. Whitespace beside a call belongs to the call; a block that is not a call, or is never
/// closed, is plain text.
#[derive(Clone, Debug, Default)]
pub struct ToolCallParser {
    /// Text that is not decided on: whitespace and the beginning of a tag, or a block that is still open.
    held: String,
    /// Where the block's text begins in `held`, when one is open.
    block: Option<usize>,
    /// How much of the open block was searched for its end.
    searched: usize,
    after_call: bool,
}

impl ToolCallParser {
    pub fn new() -> ToolCallParser {
        ToolCallParser::default()
    }

    /// Takes the next piece of the answer.
    pub fn push(&mut self, piece: &str) -> Vec<ToolCallEvent> {
        self.held.push_str(piece);
        let mut events = Vec::new();
        while self.step(&mut events) {}
        events
    }

    /// The answer has ended: what was held back is text, but for whitespace after a call.
    pub fn finish(&mut self) -> Vec<ToolCallEvent> {
        let mut events = Vec::new();
        let held = std::mem::take(&mut self.held);
        if !self.after_call || !held.trim().is_empty() {
            content(held, &mut events);
        }
        *self = ToolCallParser::default();
        events
    }

    /// Decides on some of the held text; false when more of the answer is needed.
    fn step(&mut self, events: &mut Vec<ToolCallEvent>) -> bool {
        let Some(start) = self.block else {
            return self.find_block(events);
        };
        let from = start.max(self.searched);
        let Some(close) = self.held[from..].find(CLOSE).map(|at| from + at) else {
            self.searched = floor_boundary(&self.held, self.held.len().saturating_sub(CLOSE.len()));
            return false;
        };
        let body = &self.held[start..close];
        let call = parse(body);
        if call.is_none() && inside_string(body) {
            self.searched = close + CLOSE.len();
            return true;
        }
        let rest = self.held.split_off(close + CLOSE.len());
        let block = std::mem::replace(&mut self.held, rest);
        match call {
            Some(call) => {
                events.push(call);
                self.after_call = true;
            }
            None => {
                content(block, events);
                self.after_call = false;
            }
        }
        self.block = None;
        self.searched = 0;
        true
    }

    fn find_block(&mut self, events: &mut Vec<ToolCallEvent>) -> bool {
        let tag = self.held.find(OPEN);
        let text = &self.held[..tag.unwrap_or(self.held.len() - partial(&self.held))];
        // Whitespace waits too: it is dropped when a call follows.
        let shown = text.trim_end().len();
        if shown > 0 {
            let rest = self.held.split_off(shown);
            content(std::mem::replace(&mut self.held, rest), events);
            self.after_call = false;
        }
        self.block = tag.map(|at| at - shown + OPEN.len());
        tag.is_some()
    }
}

fn content(text: String, events: &mut Vec<ToolCallEvent>) {
    match events.last_mut() {
        _ if text.is_empty() => {}
        Some(ToolCallEvent::Content(before)) => before.push_str(&text),
        _ => events.push(ToolCallEvent::Content(text)),
    }
}

/// How many bytes at the end of `text` may be the beginning of a tag.
fn partial(text: &str) -> usize {
    (1..OPEN.len()).rev().find(|&length| text.ends_with(&OPEN[..length])).unwrap_or(0)
}

fn floor_boundary(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn parse(body: &str) -> Option<ToolCallEvent> {
    let mut call: Map<String, Json> = serde_json::from_str(body.trim()).ok()?;
    let Some(Json::String(name)) = call.remove("name") else { return None };
    let arguments = match call.remove("arguments") {
        None | Some(Json::Null) => Map::new(),
        Some(Json::Object(arguments)) => arguments,
        Some(Json::String(text)) => serde_json::from_str(&text).ok()?,
        Some(_) => return None,
    };
    let arguments = serde_json::to_string(&arguments).ok()?;
    (!name.is_empty()).then_some(ToolCallEvent::Call { name, arguments })
}

/// Whether JSON text breaks off within a string, so that a tag after it may be part of that string.
fn inside_string(json: &str) -> bool {
    let (mut inside, mut escaped) = (false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if inside => escaped = true,
            b'"' => inside = !inside,
            _ => {}
        }
    }
    inside
}
