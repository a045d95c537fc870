//! What an answer must look like: JSON schemas, regular expressions, choices and grammars, compiled by `llguidance` over a
//! model's own tokens. It knows nothing of the API's fields and nothing of sampling.

use super::gbnf;
use super::schema;
use super::tokenizer::Tokenizer;
use super::vocabulary::TokenType;
use llguidance::api::{GrammarWithLexer, ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use llguidance::{Matcher, ParserFactory};
use serde_json::Value as Json;
use std::collections::HashSet;
use std::sync::Arc;

/// Most bytes of a schema or grammar as text.
pub const GRAMMAR_BYTES_MAX: usize = 256 << 10;
/// Most texts to choose from.
pub const CHOICES_MAX: usize = 4096;
/// Most rules and terminals of a Lark grammar, counted by their colons.
const LARK_RULES_MAX: usize = 4000;
/// Enough for a chain of as many rules, each of which takes up to 6 KiB.
const STACK_BYTES: usize = 64 << 20;
/// Longer tokens are never allowed by a grammar: the trie of tokens is not made for them.
const TOKEN_BYTES_MAX: usize = 1000;
/// The trie of tokens holds ids of 24 bits.
const TOKENS_MAX: usize = (1 << 24) - 2;
/// A description of all answers that are allowed.
#[derive(Clone, Debug, PartialEq)]
pub enum Grammar {
    /// JSON that satisfies a schema.
    Json(Json),
    /// Text that a regular expression matches from beginning to end, in the syntax of Rust's `regex`.
    Regex(String),
    /// One of a few texts.
    Choice(Vec<String>),
    /// llguidance's dialect of Lark.
    Lark(String),
    /// llama.cpp's GBNF.
    Gbnf(String),
}

impl Grammar {
    /// A grammar as clients write it: llama.cpp's if it has a rule `root ::= …`, else Lark.
    pub fn of_text(text: String) -> Grammar {
        if text.contains("::=") { Grammar::Gbnf(text) } else { Grammar::Lark(text) }
    }
}

/// Why a grammar cannot be used: the client's mistake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GrammarError(pub String);

/// Compiles grammars for one vocabulary.
pub struct Grammars {
    tokenizer: Arc<Tokenizer>,
    factory: ParserFactory,
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Grammars")
    }
}

/// Tokenizes text that a grammar forces as the model would.
struct Tokens {
    tokenizer: Arc<Tokenizer>,
    trie: TokTrie,
}

impl TokenizerEnv for Tokens {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        match std::str::from_utf8(bytes) {
            Ok(text) if self.tokenize_is_canonical() => self.tokenizer.encode(text, false),
            _ => self.trie.greedy_tokenize(bytes),
        }
    }

    /// SentencePiece puts a space before a text of its own; what a grammar forces is no text of its own.
    fn tokenize_is_canonical(&self) -> bool {
        self.tokenizer.is_byte_level()
    }
}

impl Grammars {
    /// Reads the vocabulary once.
    ///
    /// # Errors
    /// A vocabulary without a token that ends answers, or one too large.
    pub(crate) fn new(tokenizer: Arc<Tokenizer>) -> Result<Grammars, GrammarError> {
        let failed = |why: &str| GrammarError(format!("this model's answers cannot be constrained: {why}"));
        if tokenizer.size() > TOKENS_MAX {
            return Err(failed("its vocabulary is too large"));
        }
        let stops = tokenizer.stop_tokens();
        let end = *stops.first().ok_or_else(|| failed("its file names no token that ends an answer"))?;
        let words = words(&tokenizer);
        let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, end), &words).with_eos_tokens(stops);
        let tokens: TokEnv = Arc::new(Tokens { tokenizer: tokenizer.clone(), trie });
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&tokens, InferenceCapabilities::default(), &slices)
            .map_err(|error| failed(&error.to_string()))?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            initial_lexer_fuel: 1_000_000,
            step_lexer_fuel: 500_000,
            step_max_items: 500_000,
            max_lexer_states: 100_000,
            max_grammar_size: 200_000,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        Ok(Grammars { tokenizer, factory })
    }

    /// Compiles `grammar`.
    ///
    /// # Errors
    /// A grammar that is malformed, too large, or uses what is not supported; the message says which.
    pub fn compile(&self, grammar: &Grammar) -> Result<CompiledGrammar, GrammarError> {
        let top = match grammar {
            Grammar::Json(schema) => {
                check_size(schema.to_string().len())?;
                GrammarWithLexer::from_json_schema(schema::prepare(schema)?)
            }
            Grammar::Regex(regex) => {
                check_size(regex.len())?;
                if regex.is_empty() {
                    return Err(GrammarError("the regular expression is empty".to_owned()));
                }
                GrammarWithLexer::from_regex(regex)
            }
            Grammar::Choice(texts) => {
                check_size(texts.iter().map(String::len).sum())?;
                GrammarWithLexer::from_lark(choice(texts)?)
            }
            Grammar::Lark(source) => {
                check_size(source.len())?;
                if source.matches(':').count() > LARK_RULES_MAX {
                    return Err(GrammarError(format!("it has more than {LARK_RULES_MAX} colons, so too many rules")));
                }
                GrammarWithLexer::from_lark(source.clone())
            }
            Grammar::Gbnf(source) => {
                check_size(source.len())?;
                let lark = gbnf::to_lark(source, |text| self.tokenizer.id_of(text)).map_err(GrammarError)?;
                GrammarWithLexer::from_lark(lark)
            }
        };
        self.compile_top(top)
    }

    /// Compiles a Lark grammar that was written here.
    pub(crate) fn compile_lark(&self, source: String) -> Result<CompiledGrammar, GrammarError> {
        check_size(source.len())?;
        self.compile_top(GrammarWithLexer::from_lark(source))
    }

    /// The compiler follows rules that name each other by calling itself, so it gets a stack for the longest chain.
    fn compile_top(&self, grammar: GrammarWithLexer) -> Result<CompiledGrammar, GrammarError> {
        let failed = |_| GrammarError("the grammar's compiler failed".to_owned());
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("grammar".into()).stack_size(STACK_BYTES);
            let compiled = thread.spawn_scoped(scope, || self.compile_here(grammar));
            compiled.map_err(|error| GrammarError(error.to_string()))?.join().map_err(failed)?
        })
    }

    fn compile_here(&self, grammar: GrammarWithLexer) -> Result<CompiledGrammar, GrammarError> {
        let parser = self.factory.create_parser(TopLevelGrammar::from_grammar(grammar)).map_err(|e| brief(&e))?;
        let mut matcher = Matcher::new(Ok(parser));
        // A schema that nothing satisfies shows itself here, before the answer begins.
        matcher.compute_mask_or_eos().map_err(|error| brief(&error))?;
        Ok(CompiledGrammar { matcher, stops: self.tokenizer.stop_tokens().into() })
    }
}

/// A grammar ready to be followed. Cloning begins at the beginning.
#[derive(Clone)]
pub struct CompiledGrammar {
    matcher: Matcher,
    stops: Arc<[u32]>,
}

impl std::fmt::Debug for CompiledGrammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CompiledGrammar")
    }
}

impl CompiledGrammar {
    /// Sets the bits of the tokens that may come next; where the text may end, those of the model's stop tokens too.
    ///
    /// # Errors
    /// A grammar that is too complex at this place.
    pub fn mask(&mut self, mask: &mut [u32]) -> Result<(), GrammarError> {
        let allowed = self.matcher.compute_mask_or_eos().map_err(|error| brief(&error))?;
        for (word, allowed) in mask.iter_mut().zip(allowed.as_slice()) {
            *word |= allowed;
        }
        // A grammar may name tokens, or all but some; stop tokens among them would end a text that is not complete.
        if !self.may_end() {
            for &stop in self.stops.iter() {
                mask[stop as usize / 32] &= !(1 << (stop % 32));
            }
        }
        Ok(())
    }

    /// Takes a token that the mask allowed.
    ///
    /// # Errors
    /// A token that it did not allow.
    pub fn advance(&mut self, token: u32) -> Result<(), GrammarError> {
        self.matcher.consume_token(token).map_err(|error| brief(&error))
    }

    /// Whether the text may end here.
    fn may_end(&mut self) -> bool {
        self.matcher.is_stopped() || self.matcher.is_accepting().unwrap_or(false)
    }
}

/// The first lines of a message: what follows is the library's state, or a backtrace.
fn brief(error: &impl std::fmt::Display) -> GrammarError {
    let text = error.to_string();
    let text = text.split("<backtrace>").next().unwrap_or_default().split("<state>").next().unwrap_or_default();
    let text: String = text.trim().chars().take(600).collect();
    GrammarError(text)
}

fn check_size(bytes: usize) -> Result<(), GrammarError> {
    if bytes > GRAMMAR_BYTES_MAX {
        return Err(GrammarError(format!("it has {bytes} bytes; {GRAMMAR_BYTES_MAX} is the most")));
    }
    Ok(())
}

fn choice(texts: &[String]) -> Result<String, GrammarError> {
    if texts.is_empty() || texts.len() > CHOICES_MAX {
        return Err(GrammarError(format!("there must be 1 to {CHOICES_MAX} texts to choose from")));
    }
    // One expression for all, so that a text may begin with another.
    let texts: Vec<String> = texts.iter().map(|text| gbnf::escape_regex(text)).collect();
    Ok(format!("start: TEXT\nTEXT: /({})/\n", texts.join("|")))
}

/// The bytes of every token as the library takes them: control tokens behind a byte that no text holds, nothing for tokens
/// that no answer should hold.
fn words(tokenizer: &Tokenizer) -> Vec<Vec<u8>> {
    let mut seen: HashSet<Vec<u8>> = HashSet::new();
    let mut words = vec![Vec::new(); tokenizer.size()];
    // Tokens of single bytes come last: where another token has the same text, it is the model's choice.
    let (bytes, others): (Vec<u32>, Vec<u32>) =
        (0..words.len() as u32).partition(|&id| tokenizer.token_type(id) == TokenType::Byte);
    for id in others.into_iter().chain(bytes) {
        let word = match tokenizer.token_type(id) {
            TokenType::Unknown | TokenType::Unused | TokenType::Undefined => continue,
            TokenType::Control => [&[TokTrie::SPECIAL_TOKEN_MARKER], tokenizer.token_bytes(id).as_slice()].concat(),
            TokenType::Normal | TokenType::UserDefined | TokenType::Byte => tokenizer.token_bytes(id),
        };
        let control = tokenizer.token_type(id) == TokenType::Control;
        let marked = word.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER);
        if word.len() <= TOKEN_BYTES_MAX && control == marked && seen.insert(word.clone()) {
            words[id as usize] = word;
        }
    }
    words
}
