//! Text: from a model file's metadata to token ids, from sampled ids to text, and from chats to prompts. Tokenizers,
//! chat templates, incremental decoding, stop strings and tool calls. It knows nothing of HTTP, of devices, or of how
//! tokens are computed.
//!
//! Tokenization and rendering are held to llama.cpp's results for the same file (`tests/text_*.rs`).

mod byte_level;
mod decoder;
mod json;
mod metadata;
mod pre_tokenizer;
mod sentence_piece;
mod stop_strings;
mod template;
mod tokenizer;
mod tool_calls;
mod vocabulary;

pub use decoder::Decoder;
pub use stop_strings::{Passed, StopStrings};
pub use template::{Chat, ChatTemplate, TemplateError};
pub use tokenizer::Tokenizer;
pub use tool_calls::{ToolCallEvent, ToolCallParser};
pub use vocabulary::{TokenType, Vocabulary, VocabularyError};

use crate::gguf::Gguf;
use std::sync::Arc;

/// All that serving a model needs of text. Cheap to clone, shared between threads.
#[derive(Clone, Debug)]
pub struct Text {
    tokenizer: Arc<Tokenizer>,
    template: Arc<Result<ChatTemplate, TemplateError>>,
}

impl Text {
    /// From a model file. A missing or faulty chat template is no error here: [`Text::render_chat`] reports it.
    pub fn from_gguf(gguf: &Gguf) -> Result<Text, VocabularyError> {
        Text::new(&Vocabulary::from_gguf(gguf)?)
    }

    pub fn new(vocabulary: &Vocabulary) -> Result<Text, VocabularyError> {
        let tokenizer = Tokenizer::new(vocabulary)?;
        let text_of = |id: Option<u32>| id.and_then(|id| tokenizer.vocabulary_text(id)).unwrap_or_default();
        let tool_use = vocabulary.named_chat_templates.iter().find(|(name, _)| name == "tool_use");
        let template = match &vocabulary.chat_template {
            None => Err(TemplateError::Missing),
            Some(source) => ChatTemplate::new(
                source,
                tool_use.map(|(_, source)| source.as_str()),
                text_of(tokenizer.bos()),
                text_of(tokenizer.eos()),
            ),
        };
        Ok(Text { tokenizer: Arc::new(tokenizer), template: Arc::new(template) })
    }

    /// The ids of `text` alone. With `parse_special`, the texts of control tokens in it become those tokens; without,
    /// they are plain text.
    pub fn encode(&self, text: &str, parse_special: bool) -> Vec<u32> {
        self.tokenizer.encode(text, parse_special)
    }

    /// The ids of a prompt for plain completion, with the beginning and end tokens that the file asks for.
    pub fn encode_prompt(&self, text: &str, parse_special: bool) -> Vec<u32> {
        self.tokenizer.encode_prompt(text, parse_special)
    }

    /// The ids of what [`Text::render_chat`] returned, with the beginning token where the file asks for one and the
    /// template did not write it.
    pub fn encode_chat(&self, rendered: &str) -> Vec<u32> {
        self.tokenizer.encode_chat(rendered)
    }

    /// The prompt for a chat, by the model's own template.
    pub fn render_chat(&self, chat: &Chat) -> Result<String, TemplateError> {
        match &*self.template {
            Ok(template) => template.render(chat),
            Err(error) => Err(error.clone()),
        }
    }

    /// For an answer's tokens as they come.
    pub fn decoder(&self) -> Decoder {
        Decoder::new(self.tokenizer.clone())
    }

    /// The text of a whole token sequence from its beginning; control tokens by their text, or left out.
    pub fn decode(&self, ids: &[u32], control_tokens: bool) -> String {
        let mut decoder = self.decoder().from_beginning();
        if control_tokens {
            decoder = decoder.with_control_tokens();
        }
        let mut text: String = ids.iter().map(|&id| decoder.push(id)).collect();
        text.push_str(&decoder.finish());
        text
    }

    /// Ids that end an answer, ascending: those that the file names, and those known by their text.
    pub fn stop_tokens(&self) -> Vec<u32> {
        self.tokenizer.stop_tokens().to_vec()
    }

    /// The text of one token, control tokens too; U+FFFD for bytes that are no character by themselves.
    pub fn token_text(&self, id: u32) -> String {
        String::from_utf8_lossy(&self.tokenizer.token_bytes(id)).into_owned()
    }

    /// The bytes of one token, control tokens by their text. Empty for an id outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        self.tokenizer.token_bytes(id)
    }

    /// Tokens in the vocabulary.
    pub fn vocabulary_size(&self) -> usize {
        self.tokenizer.size()
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }
}
