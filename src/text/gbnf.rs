//! llama.cpp's grammars: GBNF read into a tree, and that tree written as the Lark that `llguidance` takes.
//! Syntax: <https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md>.

mod bytes;
mod lark;
mod read;

/// Deepest nesting of groups; the translation of each is nested as deep.
const DEPTH_MAX: usize = 24;
/// Most rules of a grammar.
const RULES_MAX: usize = 2000;
/// Most repetitions that a range may demand or allow.
const REPEAT_MAX: u32 = 2000;

/// What a rule may hold. Rules are numbered in the order in which they are named first.
#[derive(Clone, Debug, PartialEq)]
enum Node {
    /// A text, character by character; empty for nothing.
    Text(String),
    /// One character of these ranges.
    Class(Vec<(char, char)>),
    Rule(usize),
    /// A token; negated: any other token.
    Token {
        id: u32,
        negated: bool,
    },
    Sequence(Vec<Node>),
    Either(Vec<Node>),
    Repeat {
        node: Box<Node>,
        least: u32,
        most: Option<u32>,
    },
}

/// The grammar as Lark; its start rule is `start`. `token` finds the token with a text.
///
/// # Errors
/// What is wrong and in which line.
pub fn to_lark(source: &str, token: impl Fn(&str) -> Option<u32>) -> Result<String, String> {
    let rules = read::rules(source, &token)?;
    Ok(lark::write(&rules))
}

/// Any text as a regular expression that matches just it.
pub(crate) fn escape_regex(text: &str) -> String {
    text.chars().map(lark::character).collect()
}
