//! Any answer through the parsers of tool calls and reasoning: the same events however it is cut, and nothing lost of an
//! answer that holds no call.
#![no_main]

use hesper::text::{ReasoningParser, ReasoningStart, ReasoningTags, ToolCallEvent, ToolCallParser, ToolFormat};
use std::sync::Arc;

const FORMATS: [ToolFormat; 4] =
    [ToolFormat::Tagged, ToolFormat::Llama, ToolFormat::MistralArray, ToolFormat::MistralNamed];

libfuzzer_sys::fuzz_target!(|input: (String, Vec<u8>)| {
    let (text, cuts) = input;
    let pieces = cut(&text, &cuts);
    let names: Arc<[String]> = Arc::new(["f".to_owned(), "now".to_owned()]);
    for format in FORMATS {
        let whole = events(ToolCallParser::new(format, names.clone()), &[&text]);
        let parts = events(ToolCallParser::new(format, names.clone()), &pieces);
        assert_eq!(whole, parts, "{format:?}");
        if let [ToolCallEvent::Content(content)] = &whole[..] {
            assert_eq!(*content, text);
        }
    }
    let tags = ReasoningTags { open: "<think>", close: "</think>" };
    for start in [ReasoningStart::Open, ReasoningStart::MayOpen, ReasoningStart::Closed] {
        assert_eq!(split(tags, start, &[&text]), split(tags, start, &pieces), "{start:?}");
    }
});

fn cut<'t>(text: &'t str, cuts: &[u8]) -> Vec<&'t str> {
    let (mut pieces, mut rest) = (Vec::new(), text);
    for cut in cuts {
        let at = rest.char_indices().nth(usize::from(*cut)).map_or(rest.len(), |(at, _)| at);
        pieces.push(&rest[..at]);
        rest = &rest[at..];
    }
    pieces.push(rest);
    pieces
}

/// Neighbouring content as one, and a call's arguments.
fn events(mut parser: ToolCallParser, pieces: &[&str]) -> Vec<ToolCallEvent> {
    let mut found: Vec<ToolCallEvent> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    found.extend(parser.finish());
    let mut joined: Vec<ToolCallEvent> = Vec::new();
    for event in found {
        match (joined.last_mut(), event) {
            (Some(ToolCallEvent::Content(before)), ToolCallEvent::Content(text)) => before.push_str(&text),
            (Some(ToolCallEvent::Arguments(before)), ToolCallEvent::Arguments(text)) => before.push_str(&text),
            (_, event) => joined.push(event),
        }
    }
    joined
}

fn split(tags: ReasoningTags, start: ReasoningStart, pieces: &[&str]) -> (String, String) {
    let mut parser = ReasoningParser::new(tags, start);
    let (mut reasoning, mut text) = (String::new(), String::new());
    for part in pieces.iter().map(|piece| parser.push(piece)).collect::<Vec<_>>() {
        reasoning += &part.reasoning;
        text += &part.text;
    }
    let part = parser.finish();
    (reasoning + &part.reasoning, text + &part.text)
}
