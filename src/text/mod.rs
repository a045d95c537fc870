//! Text: from a model file's metadata to token ids, from sampled ids to text, and from chats to prompts. Tokenizers,
//! chat templates, incremental decoding, stop strings and tool calls. It knows nothing of HTTP, of devices, or of how
//! tokens are computed.
//!
//! Tokenization and rendering are held to llama.cpp's results for the same file (`tests/text_*.rs`).

mod byte_level;
mod constraint;
mod decoder;
mod gbnf;
mod grammar;
mod json;
mod metadata;
mod pre_tokenizer;
mod reasoning;
mod schema;
mod sentence_piece;
mod stop_strings;
mod template;
mod tokenizer;
mod tool_calls;
mod tool_format;
mod vocabulary;

pub use constraint::{AnswerConstraint, AnswerRules, Body, ReasoningRules};
pub use decoder::Decoder;
pub use gbnf::to_lark as gbnf_to_lark;
pub use grammar::{CompiledGrammar, Grammar, GrammarError, Grammars};
pub use reasoning::{ReasoningParser, ReasoningStart, ReasoningTags, Split};
pub use stop_strings::{Passed, StopStrings};
pub use template::{Chat, ChatTemplate, TemplateError};
pub use tokenizer::Tokenizer;
pub use tool_calls::{ToolCallEvent, ToolCallParser};
pub use tool_format::{Function, ToolFormat, ToolOutput};
pub use vocabulary::{TokenType, Vocabulary, VocabularyError};

use crate::gguf::Gguf;
use std::sync::{Arc, OnceLock};

/// All that serving a model needs of text. Cheap to clone, shared between threads.
#[derive(Clone, Debug)]
pub struct Text {
    tokenizer: Arc<Tokenizer>,
    template: Arc<Result<ChatTemplate, TemplateError>>,
    style: ChatStyle,
    grammars: Arc<OnceLock<Result<Grammars, GrammarError>>>,
}

/// How a model's answers in a chat are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChatStyle {
    pub tools: ToolFormat,
    /// The template knows tools; else they are described in the system message.
    pub knows_tools: bool,
    /// The tags around the model's reasoning, if it reasons.
    pub reasoning: Option<ReasoningTags>,
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
        let style = ChatStyle::of(vocabulary, &tokenizer);
        let (tokenizer, template) = (Arc::new(tokenizer), Arc::new(template));
        Ok(Text { tokenizer, template, style, grammars: Arc::new(OnceLock::new()) })
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

    /// The text of the model's chat template; `None` where there is none that can be read.
    pub fn chat_template(&self) -> Option<&str> {
        self.template.as_ref().as_ref().ok().map(ChatTemplate::source)
    }

    /// The prompt for a chat, by the model's own template.
    pub fn render_chat(&self, chat: &Chat) -> Result<String, TemplateError> {
        match &*self.template {
            Ok(template) => template.render(chat),
            Err(error) => Err(error.clone()),
        }
    }

    /// The prompt for a chat as [`Text::render_chat`] makes it. Where the template knows no tools, they are described in the
    /// system message, and calls and results in `messages` become text.
    pub fn render_tool_chat(&self, chat: &Chat) -> Result<String, TemplateError> {
        let calls = |message: &serde_json::Value| message["tool_calls"].is_array() || message["role"] == "tool";
        if self.style.knows_tools || (chat.tools.is_empty() && !chat.messages.iter().any(calls)) {
            return self.render_chat(chat);
        }
        let messages = tool_format::as_plain_chat(chat.messages, chat.tools);
        self.render_chat(&Chat { messages: &messages, tools: &[], ..*chat })
    }

    /// How answers in a chat are to be read.
    pub fn chat_style(&self) -> ChatStyle {
        self.style
    }

    /// Compiles grammars over this model's tokens. The first call reads the vocabulary, which takes up to a second.
    ///
    /// # Errors
    /// A vocabulary whose answers cannot be constrained.
    pub fn grammars(&self) -> Result<&Grammars, GrammarError> {
        self.grammars.get_or_init(|| Grammars::new(self.tokenizer.clone())).as_ref().map_err(Clone::clone)
    }

    /// A grammar of answers that call `functions` or are what `output` says. At most one call unless `parallel`.
    ///
    /// # Errors
    /// Functions whose parameters are no schema that can be followed.
    pub fn tool_grammar(
        &self,
        functions: &[Function],
        output: &ToolOutput,
        parallel: bool,
    ) -> Result<CompiledGrammar, GrammarError> {
        let source = self.style.tools.grammar(functions, output, parallel, &self.tokenizer)?;
        self.grammars()?.compile_lark(source)
    }

    /// The rules of the answers to a prompt.
    pub fn answer_rules(&self, reasoning: Option<ReasoningRules>, body: Body) -> AnswerRules {
        let tags = reasoning.as_ref().map(|reasoning| reasoning.tags);
        let single = |tag: &str| self.tokenizer.id_of(tag);
        AnswerRules {
            open: tags.and_then(|tags| single(tags.open)),
            close: tags.and_then(|tags| single(tags.close)),
            closing: tags.map_or(Vec::new(), |tags| self.encode(&format!("\n{}\n\n", tags.close), true)),
            stops: self.stop_tokens(),
            vocabulary: self.vocabulary_size(),
            decoder: self.answer_decoder(),
            reasoning,
            body,
        }
    }

    /// For an answer's tokens as they come, with the control tokens that calls and reasoning are told by.
    pub fn answer_decoder(&self) -> Decoder {
        let tags = self.style.reasoning.map_or(vec![], |tags| vec![tags.open, tags.close]);
        let marks = self.style.tools.marks().iter().copied().chain(tags);
        self.decoder().showing(marks.filter_map(|mark| self.tokenizer.control_id(mark)).collect())
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

impl ChatStyle {
    fn of(vocabulary: &Vocabulary, tokenizer: &Tokenizer) -> ChatStyle {
        let named = vocabulary.named_chat_templates.iter().filter(|(name, _)| name == "tool_use");
        let sources: Vec<&str> =
            named.map(|(_, source)| source).chain(&vocabulary.chat_template).map(String::as_str).collect();
        let format = sources.iter().find_map(|source| ToolFormat::of_template(source));
        let reasons = |(open, close): &(&str, &str)| {
            let tokens = tokenizer.id_of(open).is_some() && tokenizer.id_of(close).is_some();
            tokens || sources.iter().any(|source| source.contains(close))
        };
        let tags = reasoning::TAGS.into_iter().find(reasons);
        ChatStyle {
            tools: format.unwrap_or(ToolFormat::Tagged),
            knows_tools: format.is_some(),
            reasoning: tags.map(|(open, close)| ReasoningTags { open, close }),
        }
    }
}
