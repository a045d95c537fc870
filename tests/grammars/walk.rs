//! Random walks: what a model with random weights may write under a constraint.

use hesper::gguf::Gguf;
use hesper::text::{AnswerRules, Body, Grammar, GrammarError, Text, Vocabulary};
use std::sync::LazyLock;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/hesper-demo-Q8_0.gguf");
const SENTENCE_PIECE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/text/sentence_piece.gguf");

/// The demo model's tokens: byte-level.
pub static TEXT: LazyLock<Text> = LazyLock::new(|| Text::from_gguf(&Gguf::open(DEMO).unwrap()).unwrap());

/// A SentencePiece vocabulary with tokens of single bytes.
pub static PIECES: LazyLock<Text> = LazyLock::new(|| Text::from_gguf(&Gguf::open(SENTENCE_PIECE).unwrap()).unwrap());

pub fn demo_vocabulary() -> Vocabulary {
    Vocabulary::from_gguf(&Gguf::open(DEMO).unwrap()).unwrap()
}

/// SplitMix64: the same walks on every run.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// The tokens whose bits are set.
pub fn allowed(mask: &[u32]) -> Vec<u32> {
    (0..mask.len() as u32 * 32).filter(|token| mask[*token as usize / 32] >> (token % 32) & 1 == 1).collect()
}

pub fn rules(text: &Text, grammar: &Grammar) -> Result<AnswerRules, GrammarError> {
    Ok(text.answer_rules(None, Body::Grammar(Box::new(text.grammars()?.compile(grammar)?))))
}

/// One answer of at most `most` tokens: its tokens, and whether it came to its end. Tokens are drawn evenly, but for those
/// that bring an end nearer, so that strings are not only long.
pub fn walk(text: &Text, rules: &AnswerRules, random: &mut Random, most: usize) -> (Vec<u32>, bool) {
    let (mut constraint, stops) = (rules.begin(), text.stop_tokens());
    let mut tokens: Vec<u32> = Vec::new();
    let mut mask = vec![0; text.vocabulary_size().div_ceil(32)];
    while tokens.len() < most {
        mask.fill(0);
        let masked = constraint.allowed(tokens.last().copied(), &mut mask).expect("a mask");
        let choices = if masked { allowed(&mask) } else { (0..text.vocabulary_size() as u32).collect() };
        assert!(!choices.is_empty(), "nothing may follow {:?}", text.decode(&tokens, true));
        let ends = |token: &&u32| {
            stops.contains(token) || matches!(text.token_bytes(**token)[..], [b'"' | b'}' | b']' | b')' | b'@'])
        };
        let near: Vec<u32> = choices.iter().filter(ends).copied().collect();
        let from = if near.is_empty() || random.below(2) == 0 { &choices } else { &near };
        let token = from[random.below(from.len())];
        if stops.contains(&token) {
            return (tokens, true);
        }
        tokens.push(token);
    }
    (tokens, false)
}

/// The texts of `count` walks that came to their end.
pub fn texts(text: &Text, grammar: &Grammar, count: usize, most: usize) -> Vec<String> {
    let rules = rules(text, grammar).unwrap_or_else(|error| panic!("{error} in {grammar:?}"));
    let mut random = Random(7);
    let walks = (0..count).map(|_| walk(text, &rules, &mut random, most));
    walks.filter(|(_, ended)| *ended).map(|(tokens, _)| text.decode(&tokens, false)).collect()
}

/// Whether a grammar allows `string` from beginning to end, by the model's own tokens.
pub fn allows(text: &Text, grammar: &Grammar, string: &str) -> bool {
    let mut constraint = rules(text, grammar).unwrap_or_else(|error| panic!("{error} in {grammar:?}")).begin();
    let mut mask = vec![0; text.vocabulary_size().div_ceil(32)];
    let mut last = None;
    for token in text.encode(string, false) {
        mask.fill(0);
        constraint.allowed(last, &mut mask).expect("a mask");
        // What a grammar forces comes in the model's own tokens; elsewhere any tokens of the text will do.
        if mask[token as usize / 32] >> (token % 32) & 1 == 0 {
            return allows_bytes(text, grammar, string);
        }
        last = Some(token);
    }
    mask.fill(0);
    constraint.allowed(last, &mut mask).expect("a mask");
    text.stop_tokens().iter().any(|stop| mask[*stop as usize / 32] >> (stop % 32) & 1 == 1)
}

/// The same by the longest allowed tokens.
fn allows_bytes(text: &Text, grammar: &Grammar, string: &str) -> bool {
    let mut constraint = rules(text, grammar).unwrap().begin();
    let mut mask = vec![0; text.vocabulary_size().div_ceil(32)];
    let (mut last, mut rest) = (None, string.as_bytes());
    loop {
        mask.fill(0);
        constraint.allowed(last, &mut mask).expect("a mask");
        let choices = allowed(&mask);
        if rest.is_empty() {
            return choices.iter().any(|token| text.stop_tokens().contains(token));
        }
        let fits = |token: &&u32| !text.token_bytes(**token).is_empty() && rest.starts_with(&text.token_bytes(**token));
        let Some(&token) = choices.iter().filter(fits).max_by_key(|token| text.token_bytes(**token).len()) else {
            return false;
        };
        rest = &rest[text.token_bytes(token).len()..];
        last = Some(token);
    }
}
