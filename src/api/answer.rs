//! One answer on its way from tokens to what a client is sent: reasoning, text, tool calls, log-probabilities.

use super::identifiers::{call_identifier, identifier};
use crate::{
    engine::request::{self, FinishReason, Token},
    text::{
        Decoder, ReasoningParser, ReasoningStart, ReasoningTags, StopStrings, Text, ToolCallEvent, ToolCallParser,
        ToolFormat,
    },
};
use serde_json::{Value, json};
use std::{collections::VecDeque, sync::Arc};

/// How the answers to a request are to be read.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// `Some`: tool calls are looked for.
    pub tools: Option<ToolReading>,
    /// `Some`: a block of reasoning at the beginning is split from the answer.
    pub reasoning: Option<ReasoningReading>,
}

#[derive(Clone, Debug)]
pub struct ToolReading {
    pub format: ToolFormat,
    /// The functions that may be called.
    pub names: Arc<[String]>,
    /// Without it an answer ends after its first call.
    pub parallel: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct ReasoningReading {
    pub tags: ReasoningTags,
    pub start: ReasoningStart,
    /// Without it the reasoning is dropped; its tokens are counted all the same.
    pub shown: bool,
}

/// What an answer grew by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Piece {
    /// Thoughts before the answer; all of them come before the first text or call.
    pub reasoning: String,
    /// The answer's text.
    pub text: String,
    /// In the order in which the model wrote them. A call's deltas follow each other.
    pub calls: Vec<CallDelta>,
    /// Of the tokens whose text is in this piece or was held back until now: those of reasoning and calls too.
    pub logprobs: Vec<TokenLogprobs>,
}

impl Piece {
    pub fn is_empty(&self) -> bool {
        self.text.is_empty() && self.reasoning.is_empty() && self.calls.is_empty() && self.logprobs.is_empty()
    }
}

/// A tool call begins, or its arguments grow.
#[derive(Clone, Debug, PartialEq)]
pub struct CallDelta {
    /// The call's place among the answer's calls, from 0.
    pub index: usize,
    /// In the call's first delta, and only there.
    pub begin: Option<CallBegin>,
    /// The next part of the arguments, which together are a JSON object as text, as the model wrote it. Empty in the first
    /// delta. Where no schema was enforced the model may have written what is no JSON.
    pub arguments: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct CallBegin {
    /// Made once; later deltas and the whole call have the same.
    pub id: String,
    pub name: String,
}

/// A tool call put together from its deltas.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    pub id: String,
    pub name: String,
    /// A JSON object as text.
    pub arguments: String,
}

impl Call {
    /// As an assistant's message lists it.
    pub fn to_json(&self) -> Value {
        json!({"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}})
    }
}

/// All of one answer, put together from its pieces.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Whole {
    pub reasoning: String,
    pub text: String,
    pub calls: Vec<Call>,
    pub logprobs: Vec<TokenLogprobs>,
    /// `None` until the answer has ended.
    pub finish: Option<Finish>,
}

impl Whole {
    pub fn add(&mut self, piece: Piece, finish: Option<Finish>) {
        self.reasoning.push_str(&piece.reasoning);
        self.text.push_str(&piece.text);
        self.logprobs.extend(piece.logprobs);
        self.finish = finish.or(self.finish);
        for delta in piece.calls {
            if let Some(CallBegin { id, name }) = delta.begin {
                self.calls.push(Call { id, name, arguments: String::new() });
            }
            if let Some(call) = self.calls.get_mut(delta.index) {
                call.arguments.push_str(&delta.arguments);
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    pub id: u32,
    /// Characters of the answer before this token.
    pub text_offset: usize,
    pub logprobs: request::Logprobs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    Stop,
    Length,
    ToolCalls,
}

impl Finish {
    pub fn name(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::ToolCalls => "tool_calls",
        }
    }
}

/// Decodes tokens, splits reasoning and tool calls from text, and holds back what may be the beginning of a stop string or a
/// tag. Stop strings are looked for behind the reasoning.
pub struct Answer {
    decoder: Decoder,
    reasoning: Option<ReasoningParser>,
    reasoning_shown: bool,
    stops: StopStrings,
    /// The stop string that ended the answer, as an index into those given.
    pub stopped_at: Option<usize>,
    tools: Option<ToolCallParser>,
    short_ids: bool,
    parallel: bool,
    /// Calls that have begun, and whether the first is complete.
    calls: usize,
    called: bool,
    /// Bytes and characters decoded so far.
    decoded: usize,
    decoded_chars: usize,
    /// Bytes given to the stop strings, and those that got past them.
    offered: usize,
    passed: usize,
    /// With the byte offset of the token's text.
    held: VecDeque<(usize, TokenLogprobs)>,
}

impl Answer {
    /// `stop` are the strings to end at.
    pub fn new(text: &Text, stop: &[String], reading: &Reading) -> Answer {
        let plain = reading.tools.is_none() && reading.reasoning.is_none();
        let tools = reading.tools.as_ref();
        Answer {
            decoder: if plain { text.decoder() } else { text.answer_decoder() },
            reasoning: reading.reasoning.map(|reading| ReasoningParser::new(reading.tags, reading.start)),
            reasoning_shown: reading.reasoning.is_some_and(|reading| reading.shown),
            stops: StopStrings::new(stop),
            stopped_at: None,
            tools: tools.map(|reading| ToolCallParser::new(reading.format, reading.names.clone())),
            short_ids: tools.is_some_and(|reading| reading.format.short_ids()),
            parallel: tools.is_none_or(|reading| reading.parallel),
            calls: 0,
            called: false,
            decoded: 0,
            decoded_chars: 0,
            offered: 0,
            passed: 0,
            held: VecDeque::new(),
        }
    }

    /// Whether the answer so far ends within its reasoning.
    pub fn is_reasoning(&self) -> bool {
        self.reasoning.as_ref().is_some_and(ReasoningParser::is_inside)
    }

    /// Takes the next token. The second value says that the answer is complete: a stop string was reached, or the only call
    /// that there may be.
    pub fn push(&mut self, token: Token) -> (Piece, bool) {
        if let Some(logprobs) = token.logprobs {
            let text_offset = self.decoded_chars;
            self.held.push_back((self.decoded, TokenLogprobs { id: token.id, text_offset, logprobs }));
        }
        let decoded = self.decoder.push(token.id);
        let mut piece = Piece::default();
        let stopped = self.decoded(&decoded, &mut piece);
        if stopped {
            self.end(&mut piece);
        }
        (piece, stopped)
    }

    /// The engine has ended the answer. What was held back comes out, and the reason that the client is told.
    pub fn finish(&mut self, reason: FinishReason) -> (Piece, Finish) {
        let rest = self.decoder.finish();
        let mut piece = Piece::default();
        let mut stopped = self.decoded(&rest, &mut piece);
        if let Some(parser) = self.reasoning.as_mut().filter(|_| !stopped) {
            let split = parser.finish();
            self.think(&split.reasoning, &mut piece);
            stopped = self.offer(&split.text, &mut piece);
        }
        if !stopped {
            let rest = self.stops.finish();
            self.pass(&rest, &mut piece);
            piece.logprobs.extend(self.held.drain(..).map(|(_, logprobs)| logprobs));
        }
        self.end(&mut piece);
        let finish = if stopped { self.reason(FinishReason::Stop) } else { self.reason(reason) };
        (piece, finish)
    }

    /// The reason after a stop string or the engine's `reason`.
    pub fn reason(&self, reason: FinishReason) -> Finish {
        match reason {
            FinishReason::Length => Finish::Length,
            FinishReason::Stop if self.calls > 0 => Finish::ToolCalls,
            FinishReason::Stop => Finish::Stop,
        }
    }

    fn decoded(&mut self, text: &str, piece: &mut Piece) -> bool {
        self.decoded += text.len();
        self.decoded_chars += text.chars().count();
        let stopped = match &mut self.reasoning {
            None => self.offer(text, piece),
            Some(parser) => {
                let split = parser.push(text);
                self.think(&split.reasoning, piece);
                self.offer(&split.text, piece)
            }
        };
        // What is held back, by the tags around reasoning or the stop strings, is the end of what was decoded.
        let held = self.reasoning.as_ref().map_or(0, ReasoningParser::held_bytes) + self.offered - self.passed;
        let shown = self.decoded - held;
        let passed = self.held.iter().take_while(|(start, _)| *start < shown).count();
        piece.logprobs.extend(self.held.drain(..passed).map(|(_, logprobs)| logprobs));
        stopped
    }

    fn think(&self, text: &str, piece: &mut Piece) {
        if self.reasoning_shown {
            piece.reasoning.push_str(text);
        }
    }

    /// Text of the answer itself.
    fn offer(&mut self, text: &str, piece: &mut Piece) -> bool {
        self.offered += text.len();
        let passed = self.stops.push(text);
        self.pass(&passed.text, piece);
        self.stopped_at = self.stopped_at.or(passed.stopped);
        passed.stopped.is_some() || (self.called && !self.parallel)
    }

    fn pass(&mut self, text: &str, piece: &mut Piece) {
        self.passed += text.len();
        match &mut self.tools {
            None => piece.text.push_str(text),
            Some(parser) => {
                let events = parser.push(text);
                self.events(events, piece);
            }
        }
    }

    fn end(&mut self, piece: &mut Piece) {
        if let Some(parser) = &mut self.tools {
            let events = parser.finish();
            self.events(events, piece);
        }
    }

    fn events(&mut self, events: Vec<ToolCallEvent>, piece: &mut Piece) {
        for event in events {
            if self.called && !self.parallel {
                return;
            }
            let delta = match event {
                ToolCallEvent::Content(text) => {
                    piece.text.push_str(&text);
                    continue;
                }
                ToolCallEvent::End => {
                    self.called = true;
                    continue;
                }
                ToolCallEvent::Begin { name } => {
                    let id = if self.short_ids { call_identifier() } else { identifier("call_") };
                    self.calls += 1;
                    CallDelta { index: self.calls - 1, begin: Some(CallBegin { id, name }), arguments: String::new() }
                }
                // The parser sends arguments behind the call's beginning only.
                ToolCallEvent::Arguments(arguments) => {
                    CallDelta { index: self.calls.saturating_sub(1), begin: None, arguments }
                }
            };
            piece.calls.push(delta);
        }
    }
}
