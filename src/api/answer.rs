//! One answer on its way from tokens to what a client is sent: text, tool calls, log-probabilities.

use crate::{
    engine::request::{self, FinishReason, Token},
    text::{Decoder, StopStrings, Text, ToolCallEvent, ToolCallParser},
};
use std::collections::VecDeque;

/// What an answer grew by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Piece {
    pub text: String,
    pub calls: Vec<Call>,
    /// Of the tokens whose text is in this piece or was held back until now.
    pub logprobs: Vec<TokenLogprobs>,
}

impl Piece {
    pub fn is_empty(&self) -> bool {
        self.text.is_empty() && self.calls.is_empty() && self.logprobs.is_empty()
    }
}

/// A complete tool call.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The call's place among the answer's calls.
    pub index: usize,
    pub name: String,
    /// A JSON object as text.
    pub arguments: String,
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

/// Decodes tokens, holds back what may be the beginning of a stop string or a tool call.
pub struct Answer {
    decoder: Decoder,
    stops: StopStrings,
    /// The stop string that ended the answer, as an index into those given.
    pub stopped_at: Option<usize>,
    tools: Option<ToolCallParser>,
    calls: usize,
    /// Bytes and characters decoded so far.
    decoded: usize,
    decoded_chars: usize,
    /// Bytes that got past the stop strings.
    passed: usize,
    /// With the byte offset of the token's text.
    held: VecDeque<(usize, TokenLogprobs)>,
}

impl Answer {
    /// `stop` are the strings to end at; `tools`: whether `<tool_call>` blocks are looked for.
    pub fn new(text: &Text, stop: &[String], tools: bool) -> Answer {
        Answer {
            decoder: text.decoder(),
            stops: StopStrings::new(stop),
            stopped_at: None,
            tools: tools.then(ToolCallParser::new),
            calls: 0,
            decoded: 0,
            decoded_chars: 0,
            passed: 0,
            held: VecDeque::new(),
        }
    }

    /// Takes the next token. The second value says that a stop string was reached: the answer is complete.
    pub fn push(&mut self, token: Token) -> (Piece, bool) {
        if let Some(logprobs) = token.logprobs {
            let text_offset = self.decoded_chars;
            self.held.push_back((self.decoded, TokenLogprobs { id: token.id, text_offset, logprobs }));
        }
        let decoded = self.decoder.push(token.id);
        let (mut piece, stopped) = self.decoded(&decoded);
        if stopped {
            self.end(&mut piece);
        }
        (piece, stopped)
    }

    /// The engine has ended the answer. What was held back comes out, and the reason that the client is told.
    pub fn finish(&mut self, reason: FinishReason) -> (Piece, Finish) {
        let rest = self.decoder.finish();
        let (mut piece, stopped) = self.decoded(&rest);
        if !stopped {
            let rest = self.stops.finish();
            self.passed(&rest, &mut piece);
            piece.logprobs.extend(self.held.drain(..).map(|(_, logprobs)| logprobs));
        }
        self.end(&mut piece);
        let finish = if stopped { Finish::Stop } else { self.reason(reason) };
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

    fn decoded(&mut self, text: &str) -> (Piece, bool) {
        self.decoded += text.len();
        self.decoded_chars += text.chars().count();
        let mut piece = Piece::default();
        let passed = self.stops.push(text);
        self.passed(&passed.text, &mut piece);
        self.stopped_at = self.stopped_at.or(passed.stopped);
        (piece, passed.stopped.is_some())
    }

    fn passed(&mut self, text: &str, piece: &mut Piece) {
        self.passed += text.len();
        let passed = self.held.iter().take_while(|(start, _)| *start < self.passed).count();
        piece.logprobs.extend(self.held.drain(..passed).map(|(_, logprobs)| logprobs));
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
            match event {
                ToolCallEvent::Content(text) => piece.text.push_str(&text),
                ToolCallEvent::Call { name, arguments } => {
                    piece.calls.push(Call { index: self.calls, name, arguments });
                    self.calls += 1;
                }
            }
        }
    }
}
