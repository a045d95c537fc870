//! The reasoning before an answer: `<think>…</think>` and its likes, told apart from what follows while the text comes in
//! pieces. It knows nothing of tokens.

use super::tool_calls::partial;

/// Pairs of tags around reasoning, in the order in which they are looked for.
pub(crate) const TAGS: [(&str, &str); 2] = [("<think>", "</think>"), ("[THINK]", "[/THINK]")];

/// What stands around a model's reasoning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReasoningTags {
    pub open: &'static str,
    pub close: &'static str,
}

/// Where an answer begins, seen from its reasoning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReasoningStart {
    /// The prompt ends with the opening tag: the answer begins within the reasoning.
    Open,
    /// The model may open the block by itself.
    MayOpen,
    /// The prompt has closed the block already.
    Closed,
}

impl ReasoningTags {
    /// How an answer to `prompt` begins.
    pub fn start(&self, prompt: &str) -> ReasoningStart {
        let prompt = prompt.trim_end();
        match () {
            () if prompt.ends_with(self.open) => ReasoningStart::Open,
            () if prompt.ends_with(self.close) => ReasoningStart::Closed,
            () => ReasoningStart::MayOpen,
        }
    }
}

/// What a piece of an answer turned out to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    pub reasoning: String,
    pub text: String,
}

/// Splits reasoning from the answer after it. A block counts only at the answer's very beginning. The tags and the
/// whitespace beside them are dropped. The result does not depend on how the text was cut into pieces.
#[derive(Clone, Debug)]
pub struct ReasoningParser {
    tags: ReasoningTags,
    stage: Stage,
    held: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Before the block. `open`: the prompt has opened it, and the model may say so again.
    Start {
        open: bool,
    },
    /// Within the block; `begun` once it holds more than whitespace.
    Inside {
        begun: bool,
    },
    /// Whitespace after the block.
    Between,
    Done,
}

impl ReasoningParser {
    pub fn new(tags: ReasoningTags, start: ReasoningStart) -> ReasoningParser {
        let stage = match start {
            ReasoningStart::Open => Stage::Start { open: true },
            ReasoningStart::MayOpen => Stage::Start { open: false },
            ReasoningStart::Closed => Stage::Done,
        };
        ReasoningParser { tags, stage, held: String::new() }
    }

    /// Whether the text so far ends within the reasoning.
    pub fn is_inside(&self) -> bool {
        matches!(self.stage, Stage::Start { open: true } | Stage::Inside { .. })
    }

    /// Whether what follows is the answer.
    pub fn is_past(&self) -> bool {
        matches!(self.stage, Stage::Between | Stage::Done)
    }

    /// Bytes that are held back: they may belong to a tag, or be whitespace beside one.
    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// Takes the next piece of the answer.
    pub fn push(&mut self, piece: &str) -> Split {
        let mut split = Split::default();
        self.held.push_str(piece);
        while self.step(&mut split) {}
        split
    }

    /// The answer has ended: what was held back is what it looked like.
    pub fn finish(&mut self) -> Split {
        let held = std::mem::take(&mut self.held);
        match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Start { open: true } | Stage::Inside { .. } => {
                Split { reasoning: held.trim_end().to_owned(), ..Split::default() }
            }
            Stage::Between => Split::default(),
            Stage::Start { open: false } | Stage::Done => Split { text: held, ..Split::default() },
        }
    }

    fn step(&mut self, split: &mut Split) -> bool {
        match self.stage {
            Stage::Start { open } => {
                let text = self.held.trim_start();
                if self.tags.open.starts_with(text) && text != self.tags.open {
                    return false;
                }
                match text.strip_prefix(self.tags.open) {
                    Some(rest) => {
                        self.held = rest.to_owned();
                        self.stage = Stage::Inside { begun: false };
                    }
                    None if open => self.stage = Stage::Inside { begun: false },
                    None => self.stage = Stage::Done,
                }
                true
            }
            Stage::Inside { begun } => self.inside(begun, split),
            Stage::Between => {
                self.held = self.held.trim_start().to_owned();
                self.stage = if self.held.is_empty() { Stage::Between } else { Stage::Done };
                self.stage == Stage::Done
            }
            Stage::Done => {
                split.text.push_str(&std::mem::take(&mut self.held));
                false
            }
        }
    }

    fn inside(&mut self, begun: bool, split: &mut Split) -> bool {
        if !begun {
            self.held = self.held.trim_start().to_owned();
        }
        let close = self.held.find(self.tags.close);
        let text = &self.held[..close.unwrap_or(self.held.len() - partial(&self.held, self.tags.close))];
        let shown = text.trim_end().len();
        split.reasoning.push_str(&text[..shown]);
        match close {
            Some(at) => {
                self.held.drain(..at + self.tags.close.len());
                self.stage = Stage::Between;
            }
            None => {
                self.held.drain(..shown);
                self.stage = Stage::Inside { begun: begun || shown > 0 };
            }
        }
        close.is_some()
    }
}
