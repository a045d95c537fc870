#![no_main]
//! Any text through tokenizers of every kind and back; the first byte chooses the kind.

use hesper::gguf::Gguf;
use hesper::text::{StopStrings, Text, Vocabulary};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static TEXTS: LazyLock<Vec<Text>> = LazyLock::new(|| {
    let read = |file: &str| {
        let path = format!("{}/../tests/fixtures/text/{file}.gguf", env!("CARGO_MANIFEST_DIR"));
        Vocabulary::from_gguf(&Gguf::open(path).unwrap()).unwrap()
    };
    let byte_level = read("byte_level");
    let pres = ["default", "qwen2", "llama-bpe", "gpt-2", "smollm", "tekken", "gpt-4o", "deepseek-v3", "deepseek-coder"];
    let with = |pre: &str| Vocabulary { pre: Some(pre.to_owned()), ..byte_level.clone() };
    let all = pres.into_iter().map(with).chain([read("sentence_piece")]);
    all.map(|vocabulary| Text::new(&vocabulary).unwrap()).collect()
});

fuzz_target!(|data: &[u8]| {
    let Some((&kind, rest)) = data.split_first() else { return };
    let Ok(string) = std::str::from_utf8(rest) else { return };
    let index = kind as usize % TEXTS.len();
    let text = &TEXTS[index];
    for parse_special in [false, true] {
        let ids = text.encode(string, parse_special);
        assert!(ids.iter().all(|&id| (id as usize) < text.vocabulary_size()));
        let decoded = text.decode(&ids, true);
        assert!(index + 1 == TEXTS.len() || decoded == string);
        let mut decoder = text.decoder();
        let mut stops = StopStrings::new(string.split(' ').take(4));
        for id in ids {
            let piece = decoder.push(id);
            stops.push(&piece);
        }
    }
});
