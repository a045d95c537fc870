//! How byte-level BPE splits text into words before it merges: the patterns behind `tokenizer.ggml.pre`.
//!
//! Patterns are those that llama.cpp applies, so that a file tokenizes here as it does there. They are tried in a
//! cascade: each splits every piece that the one before left, both where it matches and between matches.

use super::vocabulary::VocabularyError;
use tokenizers::utils::SysRegex;

/// A way of splitting and the names that files use for it.
struct Kind {
    names: &'static [&'static str],
    patterns: &'static [&'static str],
    /// A word that is itself a token is not split and merged.
    ignore_merges: bool,
    /// Whether a prompt begins with the beginning-of-text token where a file does not say.
    add_bos: bool,
}

const GPT_2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Words with the mark before them, up to three digits, other signs with the line ends after them.
const LLAMA_3: &str = r"'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// As Llama 3, but every digit is a word.
const QWEN_2: &str = r"'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Splits words where a capital follows a small letter. The model's own pattern knows the case of every script and
/// keeps combining marks in words; llama.cpp knows the case of ASCII letters only, and this follows llama.cpp.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]*[\p{L}&&[^A-Z]]+|[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]+[\p{L}&&[^A-Z]]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// As Tekken, with English contractions kept at their word and up to three digits together.
const GPT_4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]*[\p{L}&&[^A-Z]]+(?:'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD]))?|[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]+[\p{L}&&[^A-Z]]*(?:'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD]))?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const DEEPSEEK_V3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

const KINDS: [Kind; 11] = [
    Kind {
        names: &["default"],
        patterns: &[r"[\p{P}$+<=>^~|]+", GPT_2, r"\p{N}+", "[0-9][0-9][0-9]"],
        ignore_merges: false,
        add_bos: false,
    },
    Kind {
        names: &["qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan", "grok-2", "solar-open"],
        patterns: &[QWEN_2],
        ignore_merges: false,
        add_bos: false,
    },
    Kind {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        patterns: &[LLAMA_3],
        ignore_merges: true,
        add_bos: true,
    },
    Kind {
        names: &["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"],
        patterns: &[LLAMA_3],
        ignore_merges: false,
        add_bos: false,
    },
    Kind {
        names: &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "exaone4",
            "gigachat",
            "mellum",
        ],
        patterns: &[GPT_2],
        ignore_merges: false,
        add_bos: false,
    },
    Kind {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        patterns: &[r"\p{N}", GPT_2],
        ignore_merges: false,
        add_bos: false,
    },
    Kind { names: &["tekken"], patterns: &[TEKKEN], ignore_merges: true, add_bos: true },
    Kind { names: &["gpt-4o", "llama4"], patterns: &[GPT_4O], ignore_merges: false, add_bos: false },
    Kind {
        names: &["deepseek-v3"],
        patterns: &[r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK_V3],
        ignore_merges: false,
        add_bos: false,
    },
    Kind {
        names: &["deepseek-coder"],
        // The second range runs from U+0800 to U+4E00; llama.cpp does not see the spaces in it.
        patterns: &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿&&\S]+", r"\p{N}"],
        ignore_merges: false,
        add_bos: false,
    },
    Kind {
        names: &["falcon"],
        patterns: &[r"[\p{P}$+<=>^~|`]+", GPT_2, "[0-9][0-9][0-9]"],
        ignore_merges: false,
        add_bos: false,
    },
];

/// One of the ways of splitting, ready for use.
#[derive(Debug)]
pub(crate) struct PreTokenizer {
    patterns: Vec<SysRegex>,
    ignore_merges: bool,
    add_bos: bool,
}

impl PreTokenizer {
    pub fn new(name: &str) -> Result<PreTokenizer, VocabularyError> {
        let kind = KINDS.iter().find(|kind| kind.names.contains(&name)).ok_or_else(|| {
            let supported = KINDS.iter().flat_map(|kind| kind.names).copied().collect::<Vec<_>>().join(", ");
            VocabularyError::UnknownPreTokenizer { name: name.to_owned(), supported }
        })?;
        let compile = |pattern: &&str| {
            SysRegex::new(pattern).map_err(|error| VocabularyError::Merges(format!("pattern of '{name}': {error}")))
        };
        let patterns = kind.patterns.iter().map(compile).collect::<Result<_, _>>()?;
        Ok(PreTokenizer { patterns, ignore_merges: kind.ignore_merges, add_bos: kind.add_bos })
    }

    pub fn ignore_merges(&self) -> bool {
        self.ignore_merges
    }

    pub fn add_bos(&self) -> bool {
        self.add_bos
    }

    /// The words of `text`, in order; joined they are `text`.
    pub fn split<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut pieces = vec![text];
        for pattern in &self.patterns {
            pieces = pieces.into_iter().flat_map(|piece| split_by(pattern, piece)).collect();
        }
        pieces
    }
}

fn split_by<'t>(pattern: &SysRegex, text: &'t str) -> Vec<&'t str> {
    let mut words = Vec::new();
    let mut end = 0;
    for (from, to) in pattern.find_iter(text) {
        if end < from {
            words.push(&text[end..from]);
        }
        if from < to {
            words.push(&text[from..to]);
        }
        end = to;
    }
    if end < text.len() {
        words.push(&text[end..]);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_compiles_and_loses_nothing() {
        let text = "It's 12345 IT'S  naïveCamelCASE\r\n\n\t x\u{301} 日本語ひらがな 🦀🦀!?\n /end  ";
        for name in KINDS.iter().flat_map(|kind| kind.names) {
            assert_eq!(PreTokenizer::new(name).unwrap().split(text).concat(), text, "{name}");
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let error = PreTokenizer::new("martian").unwrap_err().to_string();
        assert!(error.contains("'martian'") && error.contains("qwen2") && error.contains("tekken"), "{error}");
    }
}
