//! An answer as a row of blocks, each begun, continued and ended before the next: the form that the dialects of
//! `/v1/responses` and `/v1/messages` have in common.

use super::answer::{CallBegin, Piece, TokenLogprobs};

#[derive(Clone, Debug, PartialEq)]
pub enum Block {
    Reasoning(String),
    Text {
        text: String,
        logprobs: Vec<TokenLogprobs>,
    },
    Call {
        id: String,
        name: String,
        /// The text of a JSON object; broken off where the answer was.
        arguments: String,
    },
}

/// What became of block number `at`.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Begin {
        at: usize,
    },
    /// It grew by `text`; log-probabilities come with plain text alone, since nothing else has a place for them.
    Grow {
        at: usize,
        text: String,
        logprobs: Vec<TokenLogprobs>,
    },
    End {
        at: usize,
    },
}

/// The blocks of one answer so far. The last is open until [`Blocks::finish`] or until the next begins.
#[derive(Clone, Debug, Default)]
pub struct Blocks {
    pub all: Vec<Block>,
    open: bool,
}

impl Blocks {
    /// Takes what the answer grew by.
    pub fn push(&mut self, piece: Piece) -> Vec<Change> {
        let mut changes = Vec::new();
        if !piece.reasoning.is_empty() {
            if !matches!(self.last(), Some(Block::Reasoning(_))) {
                self.begin(Block::Reasoning(String::new()), &mut changes);
            }
            self.grow(&piece.reasoning, Vec::new(), &mut changes);
        }
        if !piece.text.is_empty() {
            if !matches!(self.last(), Some(Block::Text { .. })) {
                self.begin(Block::Text { text: String::new(), logprobs: Vec::new() }, &mut changes);
            }
            self.grow(&piece.text, piece.logprobs, &mut changes);
        }
        for call in piece.calls {
            if let Some(CallBegin { id, name }) = call.begin {
                self.begin(Block::Call { id, name, arguments: String::new() }, &mut changes);
            }
            if !call.arguments.is_empty() {
                self.grow(&call.arguments, Vec::new(), &mut changes);
            }
        }
        changes
    }

    /// The answer is complete.
    pub fn finish(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        self.end(&mut changes);
        changes
    }

    fn last(&self) -> Option<&Block> {
        self.all.last().filter(|_| self.open)
    }

    fn begin(&mut self, block: Block, changes: &mut Vec<Change>) {
        self.end(changes);
        changes.push(Change::Begin { at: self.all.len() });
        self.all.push(block);
        self.open = true;
    }

    fn grow(&mut self, more: &str, new: Vec<TokenLogprobs>, changes: &mut Vec<Change>) {
        let Some(at) = self.all.len().checked_sub(1) else { return };
        match &mut self.all[at] {
            Block::Reasoning(text) => text.push_str(more),
            Block::Text { text, logprobs } => {
                text.push_str(more);
                logprobs.extend(new.iter().cloned());
            }
            Block::Call { arguments, .. } => arguments.push_str(more),
        }
        changes.push(Change::Grow { at, text: more.to_owned(), logprobs: new });
    }

    fn end(&mut self, changes: &mut Vec<Change>) {
        if std::mem::take(&mut self.open) {
            changes.push(Change::End { at: self.all.len() - 1 });
        }
    }
}
