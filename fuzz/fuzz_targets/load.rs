//! Any bytes as what a measured server sends, and as a file of prompts: events that do not depend on where the stream is
//! cut, answers or failures, prompts or an error that names a line; never a panic.
#![no_main]

use hesper::load::sse::SseParser;
use hesper::load::{Dataset, answer};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let whole = SseParser::default().push(bytes);
    let mut parser = SseParser::default();
    let (head, tail) = bytes.split_at(bytes.len() / 2);
    let pieces = parser.push(head).and_then(|first| Ok([first, parser.push(tail)?].concat()));
    assert_eq!(whole, pieces);
    for event in whole.unwrap_or_default() {
        drop((answer::chunk(&event), answer::whole(&event), answer::first_model(&event)));
        assert!(!answer::error_text(&event).is_empty());
    }
    match Dataset::parse("prompts", bytes) {
        Ok(dataset) => assert!(!dataset.is_empty() && dataset.messages(0).is_array()),
        Err(error) => assert!(error.to_string().contains("prompts")),
    }
});
