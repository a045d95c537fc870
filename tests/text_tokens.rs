//! Tokenization against llama.cpp's, stored by scripts/fixtures/text/tokens.py, and the round trip back to text.

use hesper::gguf::Gguf;
use hesper::text::{Text, Vocabulary};
use std::fs::read_to_string;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/text");
const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/hesper-demo-Q8_0.gguf");

fn vocabulary(file: &str) -> Vocabulary {
    let path = if file == "demo" { DEMO.to_owned() } else { format!("{FIXTURES}/{file}.gguf") };
    Vocabulary::from_gguf(&Gguf::open(path).unwrap()).unwrap()
}

fn strings() -> Vec<String> {
    let strings: Vec<String> =
        serde_json::from_str(&read_to_string(format!("{FIXTURES}/strings.json")).unwrap()).unwrap();
    assert_eq!(strings.len(), 2000);
    strings
}

fn ids(line: &str) -> Vec<u32> {
    line.split_ascii_whitespace().map(|id| id.parse().unwrap()).collect()
}

/// Compares all strings with special tokens parsed and as plain text.
fn compare(name: &str, vocabulary: &Vocabulary) {
    let text = Text::new(vocabulary).unwrap();
    let expected = read_to_string(format!("{FIXTURES}/tokens-{name}.txt")).unwrap();
    let strings = strings();
    assert_eq!(expected.lines().count(), strings.len());
    let mut wrong = 0;
    for (string, line) in strings.iter().zip(expected.lines()) {
        let (parsed, plain) = line.split_once('|').unwrap_or((line, line));
        for (parse_special, expected) in [(true, ids(parsed)), (false, ids(plain))] {
            let found = text.encode_prompt(string, parse_special);
            if found != expected {
                wrong += 1;
                if wrong <= 5 {
                    let spell = |ids: &[u32]| ids.iter().map(|&id| text.token_text(id)).collect::<Vec<_>>();
                    eprintln!("{name} {string:?}\n  llama.cpp {:?}\n  hesper    {:?}", spell(&expected), spell(&found));
                }
            }
        }
    }
    assert_eq!(wrong, 0, "{name}: tokenizations that differ from llama.cpp's");
}

#[rstest::rstest]
#[case("default")]
#[case("qwen2")]
#[case("llama-bpe")]
#[case("dbrx")]
#[case("gpt-2")]
#[case("smollm")]
#[case("tekken")]
#[case("gpt-4o")]
#[case("deepseek-v3")]
#[case("deepseek-coder")]
#[case("falcon")]
fn byte_level_tokens_are_llama_cpps(#[case] pre: &str) {
    compare(pre, &Vocabulary { pre: Some(pre.to_owned()), ..vocabulary("byte_level") });
}

#[test]
fn the_demo_models_tokens_are_llama_cpps() {
    compare("demo", &vocabulary("demo"));
}

#[test]
fn sentence_piece_tokens_are_llama_cpps() {
    let vocabulary = vocabulary("sentence_piece");
    compare("sentence-piece", &vocabulary);
    let switched =
        Vocabulary { add_space_prefix: Some(false), add_bos: Some(false), add_eos: Some(true), ..vocabulary };
    compare("sentence-piece-no-prefix", &switched);
}

#[test]
fn special_tokens_of_phi_3_swallow_whitespace_as_llama_cpps_do() {
    let name = Some("Phi-3 of a kind".to_owned());
    compare("sentence-piece-phi-3", &Vocabulary { name, ..vocabulary("sentence_piece") });
}

#[rstest::rstest]
#[case("byte_level")]
#[case("sentence_piece")]
#[case("demo")]
fn bytes_and_ends_of_tokens_are_llama_cpps(#[case] file: &str) {
    let text = Text::new(&vocabulary(file)).unwrap();
    let pieces = read_to_string(format!("{FIXTURES}/pieces-{file}.txt")).unwrap();
    assert_eq!(pieces.lines().count(), text.vocabulary_size());
    let mut ends = Vec::new();
    for (id, line) in (0u32..).zip(pieces.lines()) {
        let mut words = line.split(' ');
        let hex: String = text.token_bytes(id).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(words.next(), Some(hex.as_str()), "token {id}");
        let marks: Vec<&str> = words.collect();
        let hidden = text.decode(&[id], true) != text.decode(&[id], false);
        assert_eq!(marks.contains(&"hidden"), hidden, "token {id}");
        if marks.contains(&"end") {
            ends.push(id);
        }
    }
    assert_eq!(text.stop_tokens(), ends);
}
