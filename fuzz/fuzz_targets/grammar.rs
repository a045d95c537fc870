//! Any GBNF: a translation or an error that says what is wrong, never a panic; and any text as every kind of grammar, compiled
//! over a small vocabulary, whose first mask leaves a token to sample.
#![no_main]

use hesper::text::{Body, Grammar, Text, Vocabulary, gbnf_to_lark};
use std::sync::LazyLock;

/// The bytes of ASCII, two words and an end.
static TEXT: LazyLock<Text> = LazyLock::new(|| {
    let mut tokens: Vec<String> = (b'!'..=b'~').map(|byte| char::from(byte).to_string()).collect();
    tokens.extend(["Ġ", "Ċ", "true", "the", "<|im_end|>"].map(str::to_owned));
    let mut token_types = vec![1; tokens.len()];
    if let Some(last) = token_types.last_mut() {
        *last = 3;
    }
    let vocabulary = Vocabulary {
        model: "gpt2".to_owned(),
        merges: vec!["t h".to_owned(), "th e".to_owned()],
        tokens,
        token_types,
        ..Vocabulary::default()
    };
    Text::new(&vocabulary).expect("the vocabulary is sound")
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(source) = std::str::from_utf8(data) else { return };
    if let Ok(lark) = gbnf_to_lark(source, |text| (text == "<think>").then_some(7)) {
        assert!(lark.starts_with("start: "), "{lark}");
    }
    // Long ones take long, and are another target's business.
    if source.len() > 300 {
        return;
    }
    let schema = serde_json::from_str(source).ok().map(Grammar::Json);
    let others = [Grammar::Gbnf(source.to_owned()), Grammar::Lark(source.to_owned()), Grammar::Regex(source.to_owned())];
    for grammar in schema.into_iter().chain(others) {
        let Ok(compiled) = TEXT.grammars().and_then(|grammars| grammars.compile(&grammar)) else { continue };
        let mut mask = vec![0; TEXT.vocabulary_size().div_ceil(32)];
        let masked = TEXT.answer_rules(None, Body::Grammar(Box::new(compiled))).begin().allowed(None, &mut mask);
        assert!(masked.is_err() || mask.iter().any(|word| *word != 0), "{grammar:?}");
    }
});
