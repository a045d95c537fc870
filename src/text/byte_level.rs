//! Byte-level BPE: words become bytes, bytes become the printable alphabet of GPT-2, and pairs of those merge by rank.
//! It knows nothing of special tokens.

use super::pre_tokenizer::PreTokenizer;
use super::vocabulary::{Tokens, Vocabulary, VocabularyError, merge_pairs};
use tokenizers::Model as _;
use tokenizers::models::bpe::BPE;

/// The character that stands for a byte in a byte-level vocabulary: printable Latin-1 characters stand for
/// themselves, the other 68 bytes for U+0100 onwards in their order.
fn character_of(byte: u8) -> char {
    let shifted = match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => return byte as char,
        0x00..=0x20 => byte as u32,
        0x7f..=0xa0 => byte as u32 - 0x7f + 33,
        0xad => 67,
    };
    char::from_u32(0x100 + shifted).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The byte that a character of a byte-level token stands for.
pub(crate) fn byte_of(character: char) -> Option<u8> {
    match character as u32 {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

#[derive(Debug)]
pub(crate) struct ByteLevel {
    pre: PreTokenizer,
    model: BPE,
    alphabet: [char; 256],
}

impl ByteLevel {
    pub fn new(vocabulary: &Vocabulary, tokens: &Tokens, pre: PreTokenizer) -> Result<ByteLevel, VocabularyError> {
        let merges = merge_pairs(&vocabulary.merges, tokens)?;
        let ids: tokenizers::models::bpe::Vocab = tokens.ids.iter().map(|(text, &id)| (text.clone(), id)).collect();
        let model = BPE::builder()
            .vocab_and_merges(ids, merges)
            .ignore_merges(pre.ignore_merges())
            .build()
            .map_err(|error| VocabularyError::Merges(error.to_string()))?;
        let alphabet = std::array::from_fn(|byte| character_of(byte as u8));
        Ok(ByteLevel { pre, model, alphabet })
    }

    /// Appends the ids of `text`, which holds no special tokens.
    pub fn encode(&self, text: &str, ids: &mut Vec<u32>) {
        let mut spelled = String::new();
        for word in self.pre.split(text) {
            spelled.clear();
            spelled.extend(word.bytes().map(|byte| self.alphabet[byte as usize]));
            // It fails only for models with an unknown token or dropout, which this one is built without.
            let tokens = self.model.tokenize(&spelled).unwrap_or_default();
            ids.extend(tokens.iter().map(|token| token.id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_reversible() {
        for byte in 0..=255u8 {
            assert_eq!(byte_of(character_of(byte)), Some(byte));
        }
        assert_eq!(character_of(b' '), 'Ġ');
        assert_eq!(character_of(b'\n'), 'Ċ');
        assert_eq!(byte_of('€'), None);
    }
}
