//! What becomes of sampled tokens: text piece by piece, stop strings, tool calls. And the round trip of tokenizers.

use hesper::gguf::Gguf;
use hesper::text::{
    Passed, ReasoningParser, ReasoningStart, ReasoningTags, Split, StopStrings, Text, ToolCallEvent, ToolCallParser,
    ToolFormat, Vocabulary,
};
use proptest::prelude::*;
use std::sync::LazyLock;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/text");
const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/hesper-demo-Q8_0.gguf");

fn vocabulary(path: &str) -> Vocabulary {
    Vocabulary::from_gguf(&Gguf::open(path).unwrap()).unwrap()
}

static DEMO_TEXT: LazyLock<Text> = LazyLock::new(|| Text::from_gguf(&Gguf::open(DEMO).unwrap()).unwrap());
static BYTE_LEVEL: LazyLock<Vec<Text>> = LazyLock::new(|| {
    let vocabulary = vocabulary(&format!("{FIXTURES}/byte_level.gguf"));
    let pres =
        ["default", "qwen2", "llama-bpe", "gpt-2", "smollm", "tekken", "gpt-4o", "deepseek-v3", "deepseek-coder"];
    let text = |pre: &str| Text::new(&Vocabulary { pre: Some(pre.to_owned()), ..vocabulary.clone() }).unwrap();
    pres.into_iter().map(text).collect()
});
static SENTENCE_PIECE: LazyLock<Text> =
    LazyLock::new(|| Text::new(&vocabulary(&format!("{FIXTURES}/sentence_piece.gguf"))).unwrap());

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// The tokens' texts one by one and what is left at the end.
fn increments(text: &Text, ids: &[u32]) -> Vec<String> {
    let mut decoder = text.decoder();
    let mut pieces: Vec<String> = ids.iter().map(|&id| decoder.push(id)).collect();
    pieces.push(decoder.finish());
    pieces
}

fn bytes_of(text: &Text, ids: &[u32]) -> Vec<u8> {
    ids.iter().flat_map(|&id| text.token_bytes(id)).collect()
}

/// Text of all kinds: arbitrary, and with special tokens, spaces and marks in it.
fn any_text() -> impl Strategy<Value = String> {
    let known = [
        "<|im_start|>",
        "<|im_end|>",
        "<s>",
        "</s>",
        "<think>",
        "<tool_call>",
        "<|",
        " ",
        "\n",
        "  ",
        "'s",
        "12",
        "日本",
        "👨‍👩‍👧",
        "e\u{301}",
    ];
    let part = prop_oneof![3 => any::<String>(), 2 => prop::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => "[a-zA-Z ]{0,12}"];
    prop::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn byte_level_text_survives_the_round_trip(string in any_text(), parse_special: bool) {
        for text in BYTE_LEVEL.iter().chain([&*DEMO_TEXT]) {
            let ids = text.encode(&string, parse_special);
            prop_assert!(ids.iter().all(|&id| (id as usize) < text.vocabulary_size()));
            prop_assert_eq!(&text.decode(&ids, true), &string);
        }
    }

    #[test]
    fn sentence_piece_text_survives_the_round_trip(string in "[^▁<>\\[\\]]{0,40}") {
        // Special tokens get a space after them; the strings above hold none but these.
        prop_assume!(!string.contains("         ") && !string.contains("\n\n\n"));
        let ids = SENTENCE_PIECE.encode(&string, true);
        prop_assert_eq!(SENTENCE_PIECE.decode(&ids, true), string);
    }

    #[test]
    fn increments_join_to_the_whole(ids in prop::collection::vec(0u32..3100, 0..40)) {
        for text in [&BYTE_LEVEL[0], &SENTENCE_PIECE] {
            let ids: Vec<u32> = ids.iter().copied().filter(|&id| !is_hidden(text, id)).collect();
            let pieces = increments(text, &ids);
            prop_assert_eq!(pieces.concat(), String::from_utf8_lossy(&bytes_of(text, &ids)).into_owned());
        }
    }

    #[test]
    fn nothing_is_replaced_that_is_still_to_be_completed(string in any_text()) {
        prop_assume!(!string.contains('\u{fffd}'));
        let ids = DEMO_TEXT.encode(&string, false);
        for piece in increments(&DEMO_TEXT, &ids) {
            prop_assert!(!piece.contains('\u{fffd}'), "{:?}", piece);
        }
    }

    #[test]
    fn stop_strings_end_the_text_where_a_search_finds_them(
        text in "[abc é]{0,40}",
        stops in prop::collection::vec("[abc é]{0,5}", 0..4),
        cuts in prop::collection::vec(0usize..41, 0..8),
    ) {
        let (expected, stopped) = naive(&text, &stops);
        let mut stop = StopStrings::new(&stops);
        let mut found = String::new();
        let mut found_stop = None;
        let mut seen = String::new();
        for piece in pieces(&text, &cuts) {
            let Passed { text: passed, stopped } = stop.push(&piece);
            prop_assert!(found_stop.is_none() || passed.is_empty());
            seen.push_str(&piece);
            found.push_str(&passed);
            found_stop = found_stop.or(stopped);
            if found_stop.is_none() {
                prop_assert_eq!(&found, without_beginning_of_stop(&seen, &stops));
            }
        }
        found.push_str(&stop.finish());
        prop_assert_eq!(found, expected);
        prop_assert_eq!(found_stop.map(|index| stops[index].clone()), stopped);
    }

    #[test]
    fn text_without_calls_passes_through_the_parser(
        parts in prop::collection::vec(prop::sample::select(vec!["<tool_call>", "</tool_call>", "{", "\"", "name", " ", "\n", "a", "é", "<tool", "<"]), 0..20),
        cuts in prop::collection::vec(0usize..100, 0..8),
    ) {
        let text = parts.concat();
        let mut found = String::new();
        for event in parse(&pieces(&text, &cuts)) {
            match event {
                ToolCallEvent::Content(content) => found.push_str(&content),
                call => prop_assert!(false, "{:?}", call),
            }
        }
        prop_assert_eq!(found, text);
    }

    #[test]
    fn every_format_is_read_alike_however_the_text_is_cut(
        parts in prop::collection::vec(prop::sample::select(CALL_PARTS.to_vec()), 0..24),
        cuts in prop::collection::vec(0usize..200, 0..12),
    ) {
        let text = parts.concat();
        for format in [ToolFormat::Tagged, ToolFormat::Llama, ToolFormat::MistralArray, ToolFormat::MistralNamed] {
            let whole = joined(parse_as(format, std::slice::from_ref(&text)));
            prop_assert_eq!(&whole, &joined(parse_as(format, &pieces(&text, &cuts))), "{:?}: {}", format, text);
            if let [ToolCallEvent::Content(content)] = &whole[..] {
                prop_assert_eq!(content, &text);
            }
        }
    }

    #[test]
    fn reasoning_is_split_alike_however_the_text_is_cut(
        parts in prop::collection::vec(prop::sample::select(vec!["<think>", "</think>", "<thi", "nk>", "</", "\n", " ", "a", "é"]), 0..14),
        cuts in prop::collection::vec(0usize..80, 0..8),
    ) {
        let text = parts.concat();
        for start in [ReasoningStart::Open, ReasoningStart::MayOpen, ReasoningStart::Closed] {
            let whole = reasoned(start, std::slice::from_ref(&text));
            prop_assert_eq!(&whole, &reasoned(start, &pieces(&text, &cuts)));
            // Nothing but tags and whitespace is lost.
            prop_assert_eq!(bare(&format!("{}{}", whole.0, whole.1)), bare(&text));
        }
    }

    #[test]
    fn calls_are_found_however_the_text_is_cut(cuts in prop::collection::vec(0usize..400, 0..30)) {
        let whole = parse(&[CALLS.to_owned()]);
        prop_assert_eq!(joined(parse(&pieces(CALLS, &cuts))), joined(whole));
    }
}

/// The text without whitespace, and without tags, also those that come together when one between is taken out.
fn bare(text: &str) -> String {
    let text: String = text.split_whitespace().collect();
    let less = text.replace("<think>", "").replace("</think>", "");
    if less == text { text } else { bare(&less) }
}

/// Control and unknown tokens, which a decoder leaves out.
fn is_hidden(text: &Text, id: u32) -> bool {
    use hesper::text::TokenType::{Control, Unknown};
    matches!(text.tokenizer().token_type(id), Control | Unknown)
}

/// The text up to the first place where a stop string is complete, the longest there, and that string.
fn naive(text: &str, stops: &[String]) -> (String, Option<String>) {
    for end in (1..=text.len()).filter(|&end| text.is_char_boundary(end)) {
        let here = stops.iter().filter(|stop| !stop.is_empty() && text[..end].ends_with(stop.as_str()));
        if let Some(stop) = here.max_by_key(|stop| stop.len()) {
            return (text[..end - stop.len()].to_owned(), Some(stop.clone()));
        }
    }
    (text.to_owned(), None)
}

/// The text without the longest end that may still become a stop string.
fn without_beginning_of_stop<'t>(text: &'t str, stops: &[String]) -> &'t str {
    let begins = |end: &str| stops.iter().any(|stop| stop.len() > end.len() && stop.starts_with(end));
    let starts = (0..text.len()).filter(|&at| text.is_char_boundary(at));
    starts.map(|at| text.split_at(at)).find(|(_, end)| begins(end)).map_or(text, |(shown, _)| shown)
}

/// Cuts a text at characters.
fn pieces(text: &str, cuts: &[usize]) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    let mut cuts: Vec<usize> = cuts.iter().map(|&cut| cut.min(characters.len())).collect();
    cuts.extend([0, characters.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| characters[pair[0]..pair[1]].iter().collect()).collect()
}

fn parse(pieces: &[String]) -> Vec<ToolCallEvent> {
    parse_as(ToolFormat::Tagged, pieces)
}

fn parser(format: ToolFormat) -> ToolCallParser {
    ToolCallParser::new(format, ["get_weather", "now"].map(str::to_owned).into())
}

fn parse_as(format: ToolFormat, pieces: &[String]) -> Vec<ToolCallEvent> {
    let mut parser = parser(format);
    let mut events: Vec<ToolCallEvent> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    events.extend(parser.finish());
    events
}

/// Neighbouring content as one, and a call's arguments.
fn joined(events: Vec<ToolCallEvent>) -> Vec<ToolCallEvent> {
    let mut all: Vec<ToolCallEvent> = Vec::new();
    for event in events {
        match (all.last_mut(), event) {
            (Some(ToolCallEvent::Content(before)), ToolCallEvent::Content(text)) => before.push_str(&text),
            (Some(ToolCallEvent::Arguments(before)), ToolCallEvent::Arguments(text)) => before.push_str(&text),
            (_, event) => all.push(event),
        }
    }
    all
}

const CALLS: &str = "Let me see.\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Z\u{fc}rich </tool_call>\", \"days\": [1, 2.50]}}\n</tool_call>\n<tool_call>{\"name\":\"now\"}</tool_call> and <tool_call>nonsense</tool_call>  <tool_call>{\"name\": \"open\"";

/// What calls are made of, in all formats.
const CALL_PARTS: [&str; 22] = [
    "<tool_call>",
    "</tool_call>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "[CALL_ID]",
    "<|python_tag|>",
    "{\"name\": \"now\", ",
    "\"arguments\": ",
    "\"parameters\": ",
    "{\"a\": [1, \"}\"]}",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "now",
    ",",
    ";",
    "\\",
    "\n",
    " ",
    "é",
];

/// Reasoning and the rest.
fn reasoned(start: ReasoningStart, pieces: &[String]) -> (String, String) {
    let mut parser = ReasoningParser::new(ReasoningTags { open: "<think>", close: "</think>" }, start);
    let mut parts: Vec<Split> = pieces.iter().map(|piece| parser.push(piece)).collect();
    parts.push(parser.finish());
    (parts.iter().map(|part| part.reasoning.as_str()).collect(), parts.iter().map(|part| part.text.as_str()).collect())
}

fn content(text: &str) -> ToolCallEvent {
    ToolCallEvent::Content(text.to_owned())
}

fn call(name: &str, arguments: &str) -> [ToolCallEvent; 3] {
    let begin = ToolCallEvent::Begin { name: name.to_owned() };
    [begin, ToolCallEvent::Arguments(arguments.to_owned()), ToolCallEvent::End]
}

#[test]
fn calls_and_text_are_separated() {
    let expected = [
        vec![content("Let me see.")],
        call("get_weather", "{\"city\": \"Zürich </tool_call>\", \"days\": [1, 2.50]}").to_vec(),
        call("now", "{}").to_vec(),
        vec![content(" and <tool_call>nonsense</tool_call>  <tool_call>{\"name\": \"open\"")],
    ];
    assert_eq!(joined(parse(&[CALLS.to_owned()])), expected.concat());
}

#[test]
fn malformed_calls_are_text() {
    for body in [
        "",
        "[]",
        "{}",
        "{\"name\": 1}",
        "{\"name\": \"\"}",
        "{\"name\": \"f\", \"arguments\": [1]}",
        "{\"name\": \"f\", \"other\": {}, \"arguments\": 1}",
        "x{\"name\": \"f\"}",
        "{'name': 'f'}",
    ] {
        let text = format!("<tool_call>{body}</tool_call>");
        assert_eq!(joined(parse(std::slice::from_ref(&text))), [content(&text)]);
    }
    for body in [
        "{\"name\": \"f\", \"arguments\": \"{\\\"b\\\": 1, \\\"a\\\": 2}\"}",
        "{\"arguments\": {\"b\": 1, \"a\": 2}, \"name\": \"f\"}",
        "{\"type\":\"function\",\"name\": \"f\", \"parameters\": {\"b\":1,\"a\":2}, \"id\": \"}\"}",
    ] {
        assert_eq!(joined(parse(&[format!("<tool_call>{body}</tool_call>")])), call("f", "{\"b\":1,\"a\":2}"));
    }
}

#[test]
fn every_format_is_read() {
    let weather = "{\"city\": \"Oslo; [x]\"}";
    let all = [call("get_weather", weather), call("now", "{}")].concat();
    let cases = [
        (
            ToolFormat::Llama,
            format!(
                "\n{{\"name\": \"get_weather\", \"parameters\": {weather}}}; {{\"name\": \"now\", \"parameters\": {{}}}}"
            ),
        ),
        (
            ToolFormat::Llama,
            format!(
                "<|python_tag|>{{\"type\": \"function\", \"name\": \"get_weather\", \"parameters\": {weather}}}\n{{\"name\":\"now\"}}"
            ),
        ),
        (
            ToolFormat::MistralArray,
            format!(
                "[TOOL_CALLS] [{{\"name\": \"get_weather\", \"arguments\": {weather}, \"id\": \"123456789\"}}, {{\"name\": \"now\", \"arguments\": {{}}}}]"
            ),
        ),
        (
            ToolFormat::MistralNamed,
            format!("[TOOL_CALLS]get_weather[ARGS]{weather}[TOOL_CALLS]now[CALL_ID]abc123def[ARGS]{{}}"),
        ),
        (
            ToolFormat::Tagged,
            format!(
                "<tool_call>{{\"name\": \"get_weather\", \"arguments\": {weather}}}</tool_call><tool_call>{{\"name\":\"now\",\"arguments\":null}}"
            ),
        ),
    ];
    for (format, text) in &cases {
        assert_eq!(joined(parse_as(*format, std::slice::from_ref(text))), all, "{format:?}: {text}");
    }
    // A whole answer that looks like a call is one only where such a function was declared.
    for text in
        ["{\"name\": \"other\", \"parameters\": {}}", "{\"city\": 1}", "Say {\"name\": \"now\"}", "<|python_tag|>now()"]
    {
        assert_eq!(joined(parse_as(ToolFormat::Llama, &[text.to_owned()])), [content(text)]);
    }
    for text in ["[TOOL_CALLS] nothing", "[TOOL_CALLS][1, 2]", "[TOOL_CALLS]now(1)", "[TOOL", "[TOOL_CALLS]"] {
        assert_eq!(joined(parse_as(ToolFormat::MistralNamed, &[text.to_owned()])), [content(text)]);
    }
}

#[test]
fn arguments_come_as_they_are_written() {
    let mut parser = parser(ToolFormat::Tagged);
    assert_eq!(parser.push("<tool_call>\n{\"name\": \"now\", \"argum"), []);
    let begin = ToolCallEvent::Begin { name: "now".into() };
    assert_eq!(parser.push("ents\": {\"zo"), [begin, ToolCallEvent::Arguments("{\"zo".into())]);
    assert_eq!(parser.push("ne\""), [ToolCallEvent::Arguments("ne\"".into())]);
    // What was written of a call that breaks off stays.
    assert_eq!(parser.finish(), []);
}

#[test]
fn text_is_shown_at_once() {
    let mut parser = parser(ToolFormat::Tagged);
    assert_eq!(parser.push("One"), [content("One")]);
    assert_eq!(parser.push(" <"), []);
    assert_eq!(parser.push("b>"), [content(" <b>")]);
    let mut stop = StopStrings::new(["END"]);
    assert_eq!(stop.push("one E").text, "one ");
    assert_eq!(stop.push("N").text, "");
    assert_eq!(stop.push("E").text, "EN");
    assert_eq!(stop.push("ND!"), Passed { text: String::new(), stopped: Some(0) });
    assert_eq!(stop.push("more"), Passed::default());
}

#[test]
fn a_character_of_several_tokens_appears_when_it_is_complete() {
    let ids = DEMO_TEXT.encode("𝄞a", true);
    assert!(ids.len() > 2, "the demo's vocabulary spells this character in bytes");
    let pieces = increments(&DEMO_TEXT, &ids);
    assert_eq!(pieces.iter().filter(|piece| !piece.is_empty()).collect::<Vec<_>>(), ["𝄞", "a"]);
    // An answer that ends within a character.
    let cut = increments(&DEMO_TEXT, &ids[..ids.len() - 2]);
    assert_eq!(cut.concat(), "\u{fffd}");
}

#[test]
fn control_tokens_are_hidden_and_user_defined_ones_are_text() {
    let ids = DEMO_TEXT.encode("<think>a</think><tool_call><|im_end|>", true);
    assert_eq!(ids.len(), 5);
    assert_eq!(DEMO_TEXT.decode(&ids, false), "<think>a</think><tool_call>");
    assert_eq!(DEMO_TEXT.decode(&ids, true), "<think>a</think><tool_call><|im_end|>");
    assert_eq!(increments(&DEMO_TEXT, &ids).concat(), "<think>a</think><tool_call>");
    assert_eq!(DEMO_TEXT.token_text(ids[4]), "<|im_end|>");
    let mut showing = DEMO_TEXT.decoder().with_control_tokens();
    assert_eq!(showing.push(ids[4]), "<|im_end|>");
}

#[test]
fn stop_tokens_are_those_of_the_file_and_those_known_by_text() {
    let by_text = |text: &Text, name: &str| text.tokenizer().id_of(name).unwrap();
    assert_eq!(DEMO_TEXT.stop_tokens(), [by_text(&DEMO_TEXT, "<|endoftext|>"), by_text(&DEMO_TEXT, "<|im_end|>")]);
    let mut expected = ["<|im_end|>", "<|endoftext|>", "</s>"].map(|name| by_text(&SENTENCE_PIECE, name));
    expected.sort_unstable();
    assert_eq!(SENTENCE_PIECE.stop_tokens(), expected);
}

#[test]
fn sentence_piece_spaces_belong_to_the_beginning_only() {
    let text = &*SENTENCE_PIECE;
    let ids = text.encode("the word", true);
    assert_eq!(text.decode(&ids, true), "the word");
    // An answer continues a prompt: its space is text.
    assert_eq!(increments(text, &ids).concat(), " the word");
    let spaced = text.encode("  the", true);
    assert_eq!(text.decode(&spaced, true), "  the");
    let prompt = text.encode_prompt("the", true);
    assert_eq!(prompt[0], text.tokenizer().bos().unwrap());
    assert_eq!(text.decode(&prompt, false), "the");
}

#[test]
fn chats_begin_once() {
    let text = &BYTE_LEVEL[2];
    let bos = text.tokenizer().bos().unwrap();
    assert_eq!(text.encode_chat("a")[0], bos);
    assert_eq!(text.encode_chat("<|begin_of_text|>a"), text.encode_chat("a"));
    assert_eq!(text.encode_prompt("<|begin_of_text|>a", true)[..2], [bos, bos]);
    assert_eq!(DEMO_TEXT.encode_chat("a"), DEMO_TEXT.encode("a", true));
}
