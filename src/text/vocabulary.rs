//! The vocabulary of a model file: token texts, types, scores, merges and special ids, checked once.
//! It knows nothing of how text is split; see [`super::tokenizer`] for that.

use std::collections::{HashMap, HashSet};

/// Why a tokenizer cannot be built from a file's metadata.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VocabularyError {
    #[error("tokenizer.ggml.model is '{0}'; supported are 'gpt2' (byte-level BPE) and 'llama' (SentencePiece BPE)")]
    UnknownModel(String),
    #[error("tokenizer.ggml.pre is '{name}', which is not supported; supported are: {supported}")]
    UnknownPreTokenizer { name: String, supported: String },
    #[error("tokenizer.ggml.tokens is empty: the file has no vocabulary")]
    NoTokens,
    #[error("{key} has {found} entries for a vocabulary of {expected}")]
    Length { key: &'static str, found: usize, expected: usize },
    #[error("tokenizer.ggml.tokens holds '{text}' twice, as ids {first} and {second}")]
    Duplicate { text: String, first: u32, second: u32 },
    #[error("tokenizer.ggml.scores[{0}] is not a number")]
    Score(usize),
    #[error("tokenizer.ggml.merges[{index}] is '{text}', which is not two tokens with a space between")]
    Merge { index: usize, text: String },
    #[error("tokenizer.ggml.merges is empty: a 'gpt2' tokenizer needs it")]
    NoMerges,
    #[error("{key} is {id}, outside the vocabulary of {tokens} tokens")]
    SpecialId { key: &'static str, id: u32, tokens: usize },
    #[error("{flag} is true, but the file has no {key}")]
    MissingSpecial { flag: &'static str, key: &'static str },
    #[error("the merges of the vocabulary cannot be used: {0}")]
    Merges(String),
    #[error("cannot read the tokenizer's metadata: {0}")]
    Metadata(String),
}

/// What a file says about its tokenizer, as it stands under `tokenizer.` in its metadata. Options are keys that a
/// file may lack.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vocabulary {
    /// `tokenizer.ggml.model`: `gpt2` or `llama`.
    pub model: String,
    /// `tokenizer.ggml.pre`: how a `gpt2` tokenizer splits text into words.
    pub pre: Option<String>,
    /// `general.name`; a few model names imply how special tokens treat the whitespace beside them.
    pub name: Option<String>,
    pub tokens: Vec<String>,
    /// One for each token, or empty. Only `llama` uses them.
    pub scores: Vec<f32>,
    /// One for each token, or empty; see [`TokenType`].
    pub token_types: Vec<i32>,
    /// Pairs with a space between, best first. Only `gpt2` uses them.
    pub merges: Vec<String>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    /// End of turn.
    pub eot: Option<u32>,
    /// End of message.
    pub eom: Option<u32>,
    pub unknown: Option<u32>,
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
    /// `tokenizer.chat_template.NAME`, by NAME.
    pub named_chat_templates: Vec<(String, String)>,
}

/// How a token takes part in tokenization and in the text of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenType {
    Normal,
    /// Stands for what has no token.
    Unknown,
    /// Steers the model (end of turn, …); not part of the text.
    Control,
    /// Matched before everything else, and part of the text.
    UserDefined,
    /// Fills the vocabulary; has no text.
    Unused,
    /// One byte, written `<0xNN>`.
    Byte,
    Undefined,
}

impl TokenType {
    /// The numbers are the GGUF specification's.
    pub fn from_gguf(number: i32) -> TokenType {
        match number {
            1 => TokenType::Normal,
            2 => TokenType::Unknown,
            3 => TokenType::Control,
            4 => TokenType::UserDefined,
            5 => TokenType::Unused,
            6 => TokenType::Byte,
            _ => TokenType::Undefined,
        }
    }
}

/// Tokens that end an answer wherever they occur in a vocabulary. Files name one or two of them by id; chat models
/// use more, so llama.cpp finds them by text, and so does this list.
const END_OF_GENERATION: [&str; 33] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<｜end▁of▁sentence｜>",
    // Between the files of a repository: a code model that writes one has finished its file.
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
    "<turn|>",
    "<|tool_response>",
    "[e~[",
];

/// Control tokens by their text, whatever type the file gives them.
const FILL_IN_MIDDLE: [&str; 19] = [
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
];

/// A checked vocabulary: every id in it is below its size.
#[derive(Debug)]
pub(crate) struct Tokens {
    pub texts: Vec<String>,
    pub types: Vec<TokenType>,
    pub scores: Vec<f32>,
    pub ids: HashMap<String, u32>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unknown: Option<u32>,
    pub end_of_generation: Vec<u32>,
}

impl Tokens {
    /// `default_special` are the ids of (beginning, end, unknown) that the tokenizer model has where a file is silent.
    pub fn new(vocabulary: &Vocabulary, default_special: [Option<u32>; 3]) -> Result<Tokens, VocabularyError> {
        let size = vocabulary.tokens.len();
        if size == 0 || u32::try_from(size).is_err() {
            return Err(VocabularyError::NoTokens);
        }
        check_length("tokenizer.ggml.scores", vocabulary.scores.len(), size)?;
        check_length("tokenizer.ggml.token_type", vocabulary.token_types.len(), size)?;
        if let Some(index) = vocabulary.scores.iter().position(|score| score.is_nan()) {
            return Err(VocabularyError::Score(index));
        }
        let (texts, ids) = number(&vocabulary.tokens)?;
        let mut types = vec![TokenType::Normal; size];
        for (slot, &kind) in types.iter_mut().zip(&vocabulary.token_types) {
            *slot = TokenType::from_gguf(kind);
        }
        let special = |key, id: Option<u32>, default: Option<u32>| match id {
            Some(id) if id as usize >= size => Err(VocabularyError::SpecialId { key, id, tokens: size }),
            Some(id) => Ok(Some(id)),
            None => Ok(default.filter(|&id| (id as usize) < size)),
        };
        let [bos, eos, unknown] = default_special;
        let bos = special("tokenizer.ggml.bos_token_id", vocabulary.bos, bos)?;
        let eos = special("tokenizer.ggml.eos_token_id", vocabulary.eos, eos)?;
        let eot = special("tokenizer.ggml.eot_token_id", vocabulary.eot, None)?;
        let eom = special("tokenizer.ggml.eom_token_id", vocabulary.eom, None)?;
        let unknown = special("tokenizer.ggml.unknown_token_id", vocabulary.unknown, unknown)?;
        let by_text = |list: &[&str]| list.iter().filter_map(|text| ids.get(*text).copied()).collect::<Vec<u32>>();
        let mut end_of_generation = by_text(&END_OF_GENERATION);
        for &id in end_of_generation.iter().chain(&by_text(&FILL_IN_MIDDLE)) {
            types[id as usize] = TokenType::Control;
        }
        end_of_generation.extend([eos, eot, eom].into_iter().flatten());
        end_of_generation.sort_unstable();
        end_of_generation.dedup();
        // `+ 0.0` makes -0.0 a 0.0, so that `total_cmp` orders scores as `<` does.
        let scores = match vocabulary.scores.len() {
            0 => vec![0.0; size],
            _ => vocabulary.scores.iter().map(|score| score + 0.0).collect(),
        };
        Ok(Tokens { texts, types, scores, ids, bos, eos, unknown, end_of_generation })
    }

    pub fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }
}

fn check_length(key: &'static str, found: usize, expected: usize) -> Result<(), VocabularyError> {
    if found == 0 || found == expected { Ok(()) } else { Err(VocabularyError::Length { key, found, expected }) }
}

fn number(tokens: &[String]) -> Result<(Vec<String>, HashMap<String, u32>), VocabularyError> {
    let mut texts = Vec::with_capacity(tokens.len());
    let mut ids = HashMap::with_capacity(tokens.len());
    for (id, token) in (0u32..).zip(tokens) {
        // An empty text would match everywhere; llama.cpp gives it this name.
        let text = if token.is_empty() { format!("[EMPTY_{id}]") } else { token.clone() };
        if let Some(first) = ids.insert(text.clone(), id) {
            return Err(VocabularyError::Duplicate { text, first, second: id });
        }
        texts.push(text);
    }
    Ok((texts, ids))
}

/// The merges as pairs, best first. A pair that is listed again or that needs a token which the vocabulary lacks can
/// never be applied and is left out.
pub(crate) fn merge_pairs(merges: &[String], tokens: &Tokens) -> Result<Vec<(String, String)>, VocabularyError> {
    if merges.is_empty() {
        return Err(VocabularyError::NoMerges);
    }
    let mut seen = HashSet::with_capacity(merges.len());
    let mut pairs = Vec::with_capacity(merges.len());
    for (index, merge) in merges.iter().enumerate() {
        // The first character may itself be a space.
        let space = merge.char_indices().skip(1).find(|&(_, character)| character == ' ');
        let (left, right) = match space {
            Some((at, _)) if at + 1 < merge.len() => (&merge[..at], &merge[at + 1..]),
            _ => return Err(VocabularyError::Merge { index, text: merge.clone() }),
        };
        let usable = [left, right, &format!("{left}{right}")].iter().all(|text| tokens.ids.contains_key(*text));
        if usable && seen.insert((left, right)) {
            pairs.push((left.to_owned(), right.to_owned()));
        }
    }
    Ok(pairs)
}
