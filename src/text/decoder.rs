//! Token ids to text, one at a time: never half a character, never a replacement for a character that is still to
//! be completed.

use super::tokenizer::Tokenizer;
use super::vocabulary::TokenType;
use std::sync::Arc;

/// Writes the text of an answer as its tokens come. By default control tokens are left out and nothing is taken from
/// the beginning, since an answer continues a prompt.
#[derive(Clone, Debug)]
pub struct Decoder {
    tokenizer: Arc<Tokenizer>,
    /// At most three bytes: the beginning of a character.
    pending: Vec<u8>,
    control_tokens: bool,
    /// Control tokens that are written nevertheless.
    shown: Vec<u32>,
    strip_space: bool,
}

impl Decoder {
    pub(crate) fn new(tokenizer: Arc<Tokenizer>) -> Decoder {
        Decoder { tokenizer, pending: Vec::new(), control_tokens: false, shown: Vec::new(), strip_space: false }
    }

    /// Writes control tokens by their text too.
    pub fn with_control_tokens(mut self) -> Decoder {
        self.control_tokens = true;
        self
    }

    /// Writes these control tokens by their text.
    pub fn showing(mut self, ids: Vec<u32>) -> Decoder {
        self.shown = ids;
        self
    }

    /// The first token begins a text: the space that SentencePiece tokenizers put before it is taken away again.
    pub fn from_beginning(mut self) -> Decoder {
        self.strip_space = self.tokenizer.adds_space_prefix();
        self
    }

    /// The text that token `id` completes; may be empty. Bytes that can never become a character are U+FFFD.
    pub fn push(&mut self, id: u32) -> String {
        let hidden = matches!(self.tokenizer.token_type(id), TokenType::Control | TokenType::Unknown);
        if hidden && !self.control_tokens && !self.shown.contains(&id) {
            return String::new();
        }
        let bytes = self.tokenizer.token_bytes(id);
        let text = match bytes.split_first() {
            Some((b' ', rest)) if self.strip_space => rest,
            _ => &bytes,
        };
        self.strip_space &= bytes.is_empty();
        self.pending.extend_from_slice(text);
        self.complete()
    }

    /// What is left at the end: U+FFFD for the beginning of a character that was never completed.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }

    fn complete(&mut self) -> String {
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, invalid) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = invalid;
                    let Some(length) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[length..];
                }
            }
        }
        self.pending = rest.to_vec();
        text
    }
}
