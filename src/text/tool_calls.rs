//! Tool calls in an answer, found while its text comes in pieces: names at once, arguments as the model writes them.
//! It knows nothing of the API's types.

use super::tool_format::ToolFormat;
use serde_json::{Map, Value as Json};
use std::sync::Arc;

const CLOSE: &str = "</tool_call>";
const PYTHON_TAG: &str = "<|python_tag|>";
const ARGUMENTS_MARK: &str = "[ARGS]";
const CALL_ID_MARK: &str = "[CALL_ID]";

/// A call whose arguments have not begun after this many bytes is read as a whole.
const HEAD_BYTES_MAX: usize = 512;

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolCallEvent {
    /// Plain text; never empty.
    Content(String),
    /// A call begins: its arguments follow.
    Begin { name: String },
    /// More of the arguments of the call that began last. Together they are the text of a JSON object, as the model wrote
    /// it; only the braces, brackets and strings of it were looked at.
    Arguments(String),
    /// The call is complete.
    End,
}

/// Separates calls from text. Whitespace beside a call belongs to the call. A block that does not begin as a call is plain
/// text. What comes out does not depend on how the text was cut into pieces, but for where content and arguments are cut.
#[derive(Clone, Debug)]
pub struct ToolCallParser {
    format: ToolFormat,
    /// Names of the functions that may be called. Without a marker around it, only a call of one of them is a call.
    names: Arc<[String]>,
    /// Text that is not decided on.
    held: String,
    stage: Stage,
    after_call: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Stage {
    /// Nothing but whitespace yet, in a format whose calls are the whole answer.
    Start,
    /// Text in which a marker is looked for.
    Text,
    /// Text to the end.
    Rest,
    /// A call's object begins at `at` of the held text; before it stand markers.
    Head {
        at: usize,
        array: bool,
    },
    /// A call in an unusual order, read once its object is complete. `searched` bytes from `at` on were scanned.
    Whole {
        at: usize,
        array: bool,
        scan: Scan,
        searched: usize,
    },
    Arguments {
        scan: Scan,
        object: bool,
        array: bool,
    },
    /// Behind the arguments, in the call's own object.
    Members {
        array: bool,
    },
    /// Skips members that follow the arguments.
    Skip {
        scan: Scan,
        array: bool,
    },
    /// Behind the call's object.
    Tail {
        array: bool,
    },
}

impl ToolCallParser {
    /// `names` are the functions that may be called.
    pub fn new(format: ToolFormat, names: Arc<[String]>) -> ToolCallParser {
        let stage = if format == ToolFormat::Llama { Stage::Start } else { Stage::Text };
        ToolCallParser { format, names, held: String::new(), stage, after_call: false }
    }

    /// Takes the next piece of the answer.
    pub fn push(&mut self, piece: &str) -> Vec<ToolCallEvent> {
        self.held.push_str(piece);
        let mut events = Vec::new();
        while self.step(&mut events) {}
        events
    }

    /// The answer has ended: what was held back is text, but for whitespace after a call. A call that was not complete
    /// stays as far as it came.
    pub fn finish(&mut self) -> Vec<ToolCallEvent> {
        let mut events = Vec::new();
        let held = std::mem::take(&mut self.held);
        let within_call = matches!(
            self.stage,
            Stage::Arguments { .. } | Stage::Members { .. } | Stage::Skip { .. } | Stage::Tail { .. }
        );
        if !within_call && (!self.after_call || !held.trim().is_empty()) {
            content(held, &mut events);
        }
        *self = ToolCallParser::new(self.format, self.names.clone());
        events
    }

    /// Decides on some of the held text; false when more of the answer is needed.
    fn step(&mut self, events: &mut Vec<ToolCallEvent>) -> bool {
        match self.stage.clone() {
            Stage::Start => self.start(),
            Stage::Text => self.find_marker(events),
            Stage::Rest => {
                content(std::mem::take(&mut self.held), events);
                false
            }
            Stage::Head { at, array } => self.head(at, array, events),
            Stage::Whole { at, array, scan, searched } => self.whole(at, array, scan, searched, events),
            Stage::Arguments { scan, object, array } => self.arguments(scan, object, array, events),
            Stage::Members { array } => self.members(array),
            Stage::Skip { mut scan, array } => {
                let end = scan.end(&self.held);
                self.held.drain(..end.unwrap_or(self.held.len()));
                self.stage = if end.is_some() { Stage::Tail { array } } else { Stage::Skip { scan, array } };
                end.is_some()
            }
            Stage::Tail { array } => self.tail(array),
        }
    }

    fn start(&mut self) -> bool {
        let text = self.held.trim_start();
        let spaces = self.held.len() - text.len();
        if PYTHON_TAG.starts_with(text) && text != PYTHON_TAG {
            return false;
        }
        self.stage = match text.strip_prefix(PYTHON_TAG) {
            Some(_) => Stage::Head { at: spaces + PYTHON_TAG.len(), array: false },
            None if text.starts_with('{') => Stage::Head { at: spaces, array: false },
            None => Stage::Rest,
        };
        true
    }

    fn find_marker(&mut self, events: &mut Vec<ToolCallEvent>) -> bool {
        let marker = self.format.marker();
        let found = self.held.find(marker);
        let text = &self.held[..found.unwrap_or(self.held.len() - partial(&self.held, marker))];
        // Whitespace waits too: it is dropped when a call follows.
        let shown = text.trim_end().len();
        if shown > 0 {
            let rest = self.held.split_off(shown);
            content(std::mem::replace(&mut self.held, rest), events);
            self.after_call = false;
        }
        if let Some(found) = found {
            self.stage = Stage::Head { at: found - shown + marker.len(), array: false };
        }
        found.is_some()
    }

    fn head(&mut self, at: usize, array: bool, events: &mut Vec<ToolCallEvent>) -> bool {
        let body = &self.held[at..];
        let spaces = body.len() - body.trim_start().len();
        let mistral = matches!(self.format, ToolFormat::MistralArray | ToolFormat::MistralNamed);
        let named = mistral && !array && !body.trim_start().starts_with(['{', '[']);
        let read = match body.as_bytes().get(spaces) {
            None => return false,
            Some(b'[') if mistral && !array => {
                self.stage = Stage::Head { at: at + spaces + 1, array: true };
                return true;
            }
            _ if named => named_head(beginning(body)),
            _ => head(beginning(body)),
        };
        let read = match read {
            Err(Undecided::More) if body.len() <= HEAD_BYTES_MAX => return false,
            Ok((name, _)) if self.format == ToolFormat::Llama && !self.names.contains(&name) => Err(Undecided::Odd),
            other => other,
        };
        match read {
            Ok((name, arguments)) => {
                self.held.drain(..at + arguments);
                events.push(ToolCallEvent::Begin { name });
                self.stage = Stage::Arguments { scan: Scan::default(), object: !named, array };
            }
            Err(_) if body[spaces..].starts_with('{') => {
                self.stage = Stage::Whole { at, array, scan: Scan::default(), searched: spaces };
            }
            Err(_) => self.as_text(at, events),
        }
        true
    }

    fn whole(
        &mut self,
        at: usize,
        array: bool,
        mut scan: Scan,
        searched: usize,
        events: &mut Vec<ToolCallEvent>,
    ) -> bool {
        let Some(end) = scan.end(&self.held[at + searched..]).map(|end| at + searched + end) else {
            self.stage = Stage::Whole { at, array, scan, searched: self.held.len() - at };
            return false;
        };
        let bare = self.format == ToolFormat::Llama;
        match parse(&self.held[at..end]).filter(|(name, _)| !bare || self.names.contains(name)) {
            Some((name, arguments)) => {
                self.held.drain(..end);
                events.push(ToolCallEvent::Begin { name });
                events.push(ToolCallEvent::Arguments(arguments));
                self.ended(events);
                self.stage = Stage::Tail { array };
            }
            None => self.as_text(end, events),
        }
        true
    }

    fn arguments(&mut self, mut scan: Scan, object: bool, array: bool, events: &mut Vec<ToolCallEvent>) -> bool {
        let end = scan.end(&self.held);
        let rest = self.held.split_off(end.unwrap_or(self.held.len()));
        let text = std::mem::replace(&mut self.held, rest);
        if !text.is_empty() {
            events.push(ToolCallEvent::Arguments(text));
        }
        match end {
            Some(_) => {
                self.ended(events);
                self.stage = if object { Stage::Members { array } } else { Stage::Tail { array } };
                true
            }
            None => {
                self.stage = Stage::Arguments { scan, object, array };
                false
            }
        }
    }

    fn ended(&mut self, events: &mut Vec<ToolCallEvent>) {
        events.push(ToolCallEvent::End);
        self.after_call = true;
    }

    fn members(&mut self, array: bool) -> bool {
        self.drop_space();
        match self.held.bytes().next() {
            None => return false,
            Some(b'}') => {
                self.held.remove(0);
                self.stage = Stage::Tail { array };
            }
            Some(b',') => self.stage = Stage::Skip { scan: Scan { depth: 1, ..Scan::default() }, array },
            Some(_) => self.stage = Stage::Tail { array },
        }
        true
    }

    fn tail(&mut self, array: bool) -> bool {
        self.drop_space();
        let next = self.held.bytes().next();
        self.stage = match (self.format, next) {
            (ToolFormat::Tagged, _) if self.held.starts_with(CLOSE) => {
                self.held.drain(..CLOSE.len());
                Stage::Text
            }
            (ToolFormat::Tagged, _) if CLOSE.starts_with(self.held.as_str()) => return false,
            (ToolFormat::Tagged, _) => Stage::Text,
            (_, None) => return false,
            (ToolFormat::Llama, Some(b';' | b',')) => {
                self.held.remove(0);
                Stage::Head { at: 0, array }
            }
            (ToolFormat::Llama, Some(b'{')) => Stage::Head { at: 0, array },
            (ToolFormat::Llama, _) => Stage::Rest,
            (_, Some(b',')) if array => {
                self.held.remove(0);
                Stage::Head { at: 0, array }
            }
            (_, Some(b']')) if array => {
                self.held.remove(0);
                Stage::Text
            }
            _ => Stage::Text,
        };
        true
    }

    fn drop_space(&mut self) {
        let spaces = self.held.len() - self.held.trim_start().len();
        self.held.drain(..spaces);
    }

    /// The first `end` bytes held are no call.
    fn as_text(&mut self, end: usize, events: &mut Vec<ToolCallEvent>) {
        let rest = self.held.split_off(end);
        content(std::mem::replace(&mut self.held, rest), events);
        self.after_call = false;
        self.stage = if self.format == ToolFormat::Llama { Stage::Rest } else { Stage::Text };
    }
}

fn content(text: String, events: &mut Vec<ToolCallEvent>) {
    match events.last_mut() {
        _ if text.is_empty() => {}
        Some(ToolCallEvent::Content(before)) => before.push_str(&text),
        _ => events.push(ToolCallEvent::Content(text)),
    }
}

/// How many bytes at the end of `text` may be the beginning of `tag`.
pub(crate) fn partial(text: &str, tag: &str) -> usize {
    (1..tag.len()).rev().find(|&length| tag.is_char_boundary(length) && text.ends_with(&tag[..length])).unwrap_or(0)
}

/// Follows JSON text to the end of the value that it begins with, looking at strings, braces and brackets only.
#[derive(Clone, Debug, Default, PartialEq)]
struct Scan {
    depth: usize,
    inside_string: bool,
    escaped: bool,
}

impl Scan {
    /// Where in `text` the object or array ends; `None` when it goes on.
    fn end(&mut self, text: &str) -> Option<usize> {
        for (index, byte) in text.bytes().enumerate() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.inside_string => self.escaped = true,
                b'"' => self.inside_string = !self.inside_string,
                b'{' | b'[' if !self.inside_string => self.depth += 1,
                b'}' | b']' if !self.inside_string => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(index + 1);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

/// Why a call's head cannot be told.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Undecided {
    /// The text so far may still become one.
    More,
    /// It is none, or its members stand in another order.
    Odd,
}

/// As much of a call as its head may take.
fn beginning(body: &str) -> &str {
    let mut end = body.len().min(HEAD_BYTES_MAX);
    while !body.is_char_boundary(end) {
        end -= 1;
    }
    &body[..end]
}

/// `{"name": "NAME", "arguments": {`: the name, and where the arguments' object begins.
fn head(body: &str) -> Result<(String, usize), Undecided> {
    let mut at = 0;
    expect(body, &mut at, b'{')?;
    let mut name = None;
    loop {
        let key = string(body, &mut at)?;
        expect(body, &mut at, b':')?;
        match key.as_str() {
            "name" => name = Some(string(body, &mut at)?).filter(|name| !name.is_empty()),
            "type" | "id" => drop(string(body, &mut at)?),
            "arguments" | "parameters" => {
                expect(body, &mut at, b'{')?;
                return name.map(|name| (name, at - 1)).ok_or(Undecided::Odd);
            }
            _ => return Err(Undecided::Odd),
        }
        expect(body, &mut at, b',')?;
    }
}

/// `NAME[ARGS]{`, perhaps with `[CALL_ID]ID` before `[ARGS]`.
fn named_head(body: &str) -> Result<(String, usize), Undecided> {
    let spaces = body.len() - body.trim_start().len();
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let end = spaces + body[spaces..].bytes().take_while(|&byte| allowed(byte)).count();
    let name = body[spaces..end].to_owned();
    let mut at = end;
    if let Some(rest) = body[at..].strip_prefix(CALL_ID_MARK) {
        at = body.len() - rest.len() + rest.bytes().take_while(|&byte| allowed(byte)).count();
    }
    match &body[at..] {
        _ if name.is_empty() && end < body.len() => Err(Undecided::Odd),
        rest if rest.starts_with(ARGUMENTS_MARK) => {
            at += ARGUMENTS_MARK.len();
            expect(body, &mut at, b'{')?;
            Ok((name, at - 1))
        }
        rest if ARGUMENTS_MARK.starts_with(rest) || CALL_ID_MARK.starts_with(rest) => Err(Undecided::More),
        _ => Err(Undecided::Odd),
    }
}

fn expect(text: &str, at: &mut usize, byte: u8) -> Result<(), Undecided> {
    let rest = &text.as_bytes()[*at..];
    let spaces = rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    match rest.get(spaces) {
        None => Err(Undecided::More),
        Some(&found) if found == byte => {
            *at += spaces + 1;
            Ok(())
        }
        Some(_) => Err(Undecided::Odd),
    }
}

fn string(text: &str, at: &mut usize) -> Result<String, Undecided> {
    expect(text, at, b'"')?;
    let mut escaped = false;
    for (index, byte) in text[*at..].bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => {
                let json = &text[*at - 1..*at + index + 1];
                *at += index + 1;
                return serde_json::from_str(json).map_err(|_| Undecided::Odd);
            }
            _ => {}
        }
    }
    Err(Undecided::More)
}

/// A whole call: name and arguments, the latter as compact text.
fn parse(body: &str) -> Option<(String, String)> {
    let mut call: Map<String, Json> = serde_json::from_str(body.trim()).ok()?;
    let Some(Json::String(name)) = call.remove("name") else { return None };
    let arguments = match call.remove("arguments").or_else(|| call.remove("parameters")) {
        None | Some(Json::Null) => Map::new(),
        Some(Json::Object(arguments)) => arguments,
        Some(Json::String(text)) => serde_json::from_str(&text).ok()?,
        Some(_) => return None,
    };
    let arguments = serde_json::to_string(&arguments).ok()?;
    (!name.is_empty()).then_some((name, arguments))
}
