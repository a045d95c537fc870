//! What a tokenizer refuses to be built from, and what it takes from a model file.

use hesper::gguf::{Gguf, Writer};
use hesper::text::{Text, Tokenizer, Vocabulary, VocabularyError};
use proptest::prelude::*;

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn byte_level() -> Vocabulary {
    Vocabulary {
        model: "gpt2".into(),
        pre: Some("qwen2".into()),
        tokens: strings(&["a", "b", "ab", "<|end|>"]),
        token_types: vec![1, 1, 1, 3],
        merges: strings(&["a b"]),
        ..Vocabulary::default()
    }
}

fn sentence_piece() -> Vocabulary {
    Vocabulary {
        model: "llama".into(),
        tokens: strings(&["<unk>", "<s>", "</s>", "▁", "a", "▁a"]),
        scores: vec![0.0, 0.0, 0.0, -2.0, -3.0, -1.0],
        token_types: vec![2, 3, 3, 1, 1, 1],
        ..Vocabulary::default()
    }
}

/// The error's text, which must hold `words`.
fn refused(vocabulary: Vocabulary, words: &[&str]) {
    let error = Tokenizer::new(&vocabulary).map(|_| ()).unwrap_err().to_string();
    for word in words {
        assert!(error.contains(word), "{error:?} lacks {word:?}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    let good = byte_level;
    refused(Vocabulary { model: "bert".into(), ..good() }, &["tokenizer.ggml.model", "'bert'", "gpt2", "llama"]);
    refused(
        Vocabulary { pre: Some("martian".into()), ..good() },
        &["tokenizer.ggml.pre", "'martian'", "llama-bpe", "smollm"],
    );
    refused(Vocabulary { tokens: vec![], ..good() }, &["tokenizer.ggml.tokens", "empty"]);
    refused(Vocabulary { tokens: strings(&["a", "b", "ab", "a"]), ..good() }, &["'a'", "0", "3"]);
    refused(Vocabulary { token_types: vec![1], ..good() }, &["tokenizer.ggml.token_type", "1 ", "4"]);
    refused(Vocabulary { merges: vec![], ..good() }, &["tokenizer.ggml.merges", "empty"]);
    for merge in ["ab", "a ", "", " ", "a"] {
        refused(Vocabulary { merges: strings(&["a b", merge]), ..good() }, &["tokenizer.ggml.merges[1]"]);
    }
    refused(Vocabulary { eos: Some(4), ..good() }, &["tokenizer.ggml.eos_token_id", "4"]);
    refused(Vocabulary { add_bos: Some(true), ..good() }, &["add_bos_token", "bos_token_id"]);
    refused(Vocabulary { pre: Some("llama-bpe".into()), ..good() }, &["add_bos_token", "bos_token_id"]);
    let scores = vec![0.0, 0.0, 0.0, f32::NAN, 0.0, 0.0];
    refused(Vocabulary { scores, ..sentence_piece() }, &["tokenizer.ggml.scores[3]"]);
    refused(Vocabulary { unknown: Some(u32::MAX), ..sentence_piece() }, &["unknown_token_id"]);
}

#[test]
fn merges_that_cannot_apply_are_left_out() {
    let merges = strings(&["x y", "a b", "b a", "a b"]);
    let tokenizer = Tokenizer::new(&Vocabulary { merges, ..byte_level() }).unwrap();
    assert_eq!(tokenizer.encode("abab<|end|>", true), [2, 2, 3]);
    assert_eq!(tokenizer.stop_tokens(), [3]);
    // Bytes without a token are lost: this vocabulary cannot say them.
    assert_eq!(tokenizer.encode("a?b", true), [0, 1]);
}

#[test]
fn sentence_piece_defaults_hold_where_the_file_is_silent() {
    let tokenizer = Tokenizer::new(&sentence_piece()).unwrap();
    assert_eq!(tokenizer.encode_prompt("a a", true), [1, 5, 5]);
    assert_eq!(tokenizer.encode_prompt("", true), [1]);
    assert_eq!(tokenizer.stop_tokens(), [2]);
    // No byte tokens: the unknown token stands for every byte.
    assert_eq!(tokenizer.encode("é", true), [3, 0, 0]);
    let text = Text::new(&sentence_piece()).unwrap();
    assert_eq!(text.decode(&[5, 0, 1, 4], false), "aa");
    assert_eq!(text.decode(&[9999, 4], true), "a");
    assert!(text.token_bytes(9999).is_empty());
}

#[test]
fn a_file_is_read_and_wrong_types_are_named() {
    let mut writer = Writer::new();
    writer.string("general.architecture", "llama").string("tokenizer.ggml.model", "llama");
    writer.string_array("tokenizer.ggml.tokens", &sentence_piece().tokens);
    writer.f32_array("tokenizer.ggml.scores", &sentence_piece().scores);
    writer.i32_array("tokenizer.ggml.token_type", &sentence_piece().token_types);
    writer.string("tokenizer.chat_template", "{{ messages[0].content }}");
    writer.string_array("tokenizer.chat_templates", &["tool_use", "absent"]);
    writer.string("tokenizer.chat_template.tool_use", "tools");
    let read = |writer: &Writer| Vocabulary::from_gguf(&Gguf::parse("test", writer.finish()).unwrap());
    let vocabulary = read(&writer).unwrap();
    assert_eq!(vocabulary.chat_template.as_deref(), Some("{{ messages[0].content }}"));
    assert_eq!(vocabulary.named_chat_templates, [("tool_use".to_owned(), "tools".to_owned())]);
    assert_eq!(vocabulary.tokens, sentence_piece().tokens);
    writer.string("tokenizer.ggml.bos_token_id", "one");
    let error = read(&writer).unwrap_err();
    assert!(matches!(&error, VocabularyError::Metadata(text) if text.contains("bos_token_id")), "{error}");
    let error = read(Writer::new().string("general.architecture", "llama")).unwrap_err().to_string();
    assert!(error.contains("tokenizer.ggml.model"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_vocabulary_is_refused_or_works(
        sentence_piece: bool,
        tokens in prop::collection::vec("[ab▁<>0xéĠ]{0,4}", 0..20),
        token_types in prop::collection::vec(-1i32..9, 0..20),
        scores in prop::collection::vec(any::<f32>(), 0..20),
        merges in prop::collection::vec("[ab Ġ]{0,5}", 0..8),
        special in prop::array::uniform3(prop::option::of(0u32..25)),
        text in "[ab <>é▁]{0,20}",
    ) {
        let size = tokens.len();
        let fit = |length: usize| length >= size;
        let vocabulary = Vocabulary {
            model: if sentence_piece { "llama" } else { "gpt2" }.into(),
            token_types: if fit(token_types.len()) { token_types[..size].to_vec() } else { token_types },
            scores: if fit(scores.len()) { scores[..size].to_vec() } else { scores },
            tokens,
            merges,
            bos: special[0],
            eos: special[1],
            unknown: special[2],
            ..Vocabulary::default()
        };
        if let Ok(text_of) = Text::new(&vocabulary) {
            for parse_special in [true, false] {
                let ids = text_of.encode_prompt(&text, parse_special);
                prop_assert!(ids.iter().all(|&id| (id as usize) < size));
                text_of.decode(&ids, true);
            }
        }
    }
}
