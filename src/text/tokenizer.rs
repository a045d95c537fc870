//! Text to token ids and ids to bytes, as llama.cpp does both for the same file. It knows nothing of chats.

use super::byte_level::{ByteLevel, byte_of};
use super::pre_tokenizer::PreTokenizer;
use super::sentence_piece::{SPACE, SentencePiece};
use super::vocabulary::{TokenType, Tokens, Vocabulary, VocabularyError};
use std::collections::{HashMap, HashSet};

#[derive(Debug)]
enum Model {
    ByteLevel(Box<ByteLevel>),
    SentencePiece { model: SentencePiece, add_space_prefix: bool },
}

/// Turns text into token ids and back.
#[derive(Debug)]
pub struct Tokenizer {
    tokens: Tokens,
    model: Model,
    special: Vec<Special>,
    /// Indices into `special`, by the first two bytes of the text.
    special_by_start: HashMap<[u8; 2], Vec<usize>>,
    /// Whether a special token begins with a byte.
    special_first: [bool; 256],
    add_bos: bool,
    add_eos: bool,
}

/// A token that is matched by its text before the rest is split.
#[derive(Debug)]
struct Special {
    id: u32,
    text: String,
    /// User-defined tokens are matched even where control tokens are to be read as plain text.
    always: bool,
    /// Swallows the whitespace after it.
    strip_right: bool,
}

/// A part of a text: not yet tokenized, or a special token.
enum Fragment<'t> {
    Text(&'t str),
    Token(u32),
}

impl Tokenizer {
    pub fn new(vocabulary: &Vocabulary) -> Result<Tokenizer, VocabularyError> {
        let (tokens, model, add_bos) = match vocabulary.model.as_str() {
            "gpt2" => {
                let tokens = Tokens::new(vocabulary, [None; 3])?;
                let pre = PreTokenizer::new(vocabulary.pre.as_deref().unwrap_or("default"))?;
                let add_bos = pre.add_bos();
                let model = ByteLevel::new(vocabulary, &tokens, pre)?;
                (tokens, Model::ByteLevel(Box::new(model)), add_bos)
            }
            "llama" => {
                let tokens = Tokens::new(vocabulary, [Some(1), Some(2), Some(0)])?;
                let model = SentencePiece::new(&tokens);
                let add_space_prefix = vocabulary.add_space_prefix.unwrap_or(true);
                (tokens, Model::SentencePiece { model, add_space_prefix }, true)
            }
            other => return Err(VocabularyError::UnknownModel(other.to_owned())),
        };
        let add_bos = vocabulary.add_bos.unwrap_or(add_bos);
        let add_eos = vocabulary.add_eos.unwrap_or(false);
        let missing = |flag, key| Err(VocabularyError::MissingSpecial { flag, key });
        if add_bos && tokens.bos.is_none() {
            return missing("tokenizer.ggml.add_bos_token", "tokenizer.ggml.bos_token_id");
        }
        if add_eos && tokens.eos.is_none() {
            return missing("tokenizer.ggml.add_eos_token", "tokenizer.ggml.eos_token_id");
        }
        let special = special_tokens(&tokens, vocabulary.name.as_deref().unwrap_or_default());
        let mut special_by_start: HashMap<[u8; 2], Vec<usize>> = HashMap::new();
        let mut special_first = [false; 256];
        for (index, token) in special.iter().enumerate() {
            let start = start_of(token.text.as_bytes());
            special_by_start.entry(start).or_default().push(index);
            special_first[start[0] as usize] = true;
        }
        Ok(Tokenizer { tokens, model, special, special_by_start, special_first, add_bos, add_eos })
    }

    /// The ids of `text`, without beginning or end tokens. With `parse_special`, the texts of control tokens in it
    /// become those tokens; without, they are plain text.
    pub fn encode(&self, text: &str, parse_special: bool) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 1);
        let mut after_special = true;
        for fragment in self.partition(text, parse_special) {
            match fragment {
                Fragment::Token(id) => ids.push(id),
                Fragment::Text(text) => match &self.model {
                    Model::ByteLevel(model) => model.encode(text, &mut ids),
                    Model::SentencePiece { model, add_space_prefix } => {
                        let prefix = if *add_space_prefix && after_special { SPACE } else { "" };
                        let escaped = format!("{prefix}{}", text.replace(' ', SPACE));
                        model.encode(&self.tokens, &escaped, &mut ids);
                    }
                },
            }
            after_special = matches!(fragment, Fragment::Token(_));
        }
        ids
    }

    /// The ids of a prompt: as [`Tokenizer::encode`], with the beginning and end tokens that the file asks for.
    pub fn encode_prompt(&self, text: &str, parse_special: bool) -> Vec<u32> {
        let mut ids: Vec<u32> = self.tokens.bos.filter(|_| self.add_bos).into_iter().collect();
        ids.append(&mut self.encode(text, parse_special));
        ids.extend(self.tokens.eos.filter(|_| self.add_eos));
        ids
    }

    /// The ids of a rendered chat: special tokens are parsed, and the beginning token that the file asks for is added
    /// unless the template wrote it.
    pub fn encode_chat(&self, rendered: &str) -> Vec<u32> {
        let ids = self.encode(rendered, true);
        match self.tokens.bos.filter(|bos| self.add_bos && ids.first() != Some(bos)) {
            Some(bos) => std::iter::once(bos).chain(ids).collect(),
            None => ids,
        }
    }

    /// Tokens in the vocabulary; every id is below it.
    pub fn size(&self) -> usize {
        self.tokens.texts.len()
    }

    /// Ids that end an answer, ascending: the file's own, and those known by their text.
    pub fn stop_tokens(&self) -> &[u32] {
        &self.tokens.end_of_generation
    }

    /// The token's text as it stands in the vocabulary: with byte-level or SentencePiece spelling.
    pub fn vocabulary_text(&self, id: u32) -> Option<&str> {
        self.tokens.texts.get(id as usize).map(String::as_str)
    }

    pub fn id_of(&self, vocabulary_text: &str) -> Option<u32> {
        self.tokens.id(vocabulary_text)
    }

    /// The control token with this text.
    pub fn control_id(&self, text: &str) -> Option<u32> {
        self.id_of(text).filter(|&id| self.token_type(id) == TokenType::Control)
    }

    pub fn bos(&self) -> Option<u32> {
        self.tokens.bos
    }

    pub fn eos(&self) -> Option<u32> {
        self.tokens.eos
    }

    /// The type of a token; undefined for an id outside the vocabulary.
    pub fn token_type(&self, id: u32) -> TokenType {
        self.tokens.types.get(id as usize).copied().unwrap_or(TokenType::Undefined)
    }

    /// The bytes that a token stands for, control tokens by their text; empty for an id outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        let Some(text) = self.vocabulary_text(id) else { return Vec::new() };
        match (self.token_type(id), &self.model) {
            (TokenType::Control | TokenType::UserDefined | TokenType::Unknown, _) => text.as_bytes().to_vec(),
            (TokenType::Normal, Model::SentencePiece { .. }) => text.replace(SPACE, " ").into_bytes(),
            (TokenType::Normal, Model::ByteLevel(_)) => unspell(text),
            (TokenType::Byte, _) => {
                let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
                digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).into_iter().collect()
            }
            (TokenType::Unused | TokenType::Undefined, _) => Vec::new(),
        }
    }

    /// Whether every text is the same text again after the round trip through ids, wherever it begins.
    pub(crate) fn is_byte_level(&self) -> bool {
        matches!(self.model, Model::ByteLevel(_))
    }

    /// Whether text begins with a space that [`Tokenizer::encode`] put there.
    pub(crate) fn adds_space_prefix(&self) -> bool {
        matches!(self.model, Model::SentencePiece { add_space_prefix: true, .. })
    }

    /// Splits `text` at special tokens: the longest token first everywhere, then the next on what is left.
    fn partition<'t>(&self, text: &'t str, parse_special: bool) -> Vec<Fragment<'t>> {
        let mut fragments = if text.is_empty() { Vec::new() } else { vec![Fragment::Text(text)] };
        for index in self.present(text) {
            let special = &self.special[index];
            if !parse_special && !special.always {
                continue;
            }
            let mut split = Vec::with_capacity(fragments.len() + 2);
            for fragment in fragments {
                match fragment {
                    Fragment::Text(text) => special.split(text, &mut split),
                    token => split.push(token),
                }
            }
            fragments = split;
        }
        fragments
    }

    /// The special tokens whose text occurs in `text`, longest first. A vocabulary may have a thousand; a text, a few.
    fn present(&self, text: &str) -> Vec<usize> {
        let bytes = text.as_bytes();
        let mut found = HashSet::new();
        for at in (0..bytes.len()).filter(|&at| self.special_first[bytes[at] as usize]) {
            for start in [start_of(&bytes[at..]), start_of(&bytes[at..at + 1])] {
                let candidates = self.special_by_start.get(&start).into_iter().flatten();
                found.extend(candidates.filter(|&&index| bytes[at..].starts_with(self.special[index].text.as_bytes())));
            }
        }
        let mut present: Vec<usize> = found.into_iter().collect();
        present.sort_unstable();
        present
    }
}

impl Special {
    fn split<'t>(&self, mut text: &'t str, into: &mut Vec<Fragment<'t>>) {
        while let Some(at) = text.find(&self.text) {
            if at > 0 {
                into.push(Fragment::Text(&text[..at]));
            }
            into.push(Fragment::Token(self.id));
            text = &text[at + self.text.len()..];
            if self.strip_right {
                text = text.trim_start_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
            }
        }
        if !text.is_empty() {
            into.push(Fragment::Text(text));
        }
    }
}

/// The first two bytes; a zero where there is only one.
fn start_of(bytes: &[u8]) -> [u8; 2] {
    [bytes.first().copied().unwrap_or(0), bytes.get(1).copied().unwrap_or(0)]
}

/// Longest first; equally long ones by id.
fn special_tokens(tokens: &Tokens, name: &str) -> Vec<Special> {
    // Files do not say which tokens swallow whitespace; those of Phi-3 are known to.
    let name = name.to_lowercase();
    let strips = name.contains("phi-3") || name.contains("phi3");
    let special = |(id, kind): (u32, &TokenType)| {
        let text = tokens.texts[id as usize].clone();
        let strip_right = strips && !["<unk>", "<s>", "<|endoftext|>"].contains(&text.as_str());
        match kind {
            TokenType::UserDefined => Some(Special { id, text, always: true, strip_right }),
            TokenType::Control | TokenType::Unknown => Some(Special { id, text, always: false, strip_right }),
            _ => None,
        }
    };
    let mut all: Vec<Special> = (0u32..).zip(&tokens.types).filter_map(special).collect();
    all.sort_by_key(|special| std::cmp::Reverse(special.text.len()));
    all
}

/// The bytes of a byte-level token. Characters outside the alphabet occur only in foreign tokens; they stand as they are.
fn unspell(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    for character in text.chars() {
        match byte_of(character) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}
