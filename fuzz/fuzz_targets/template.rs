#![no_main]
//! Any template, over a chat with tools; and any content through a fixed template. Neither may panic or run on.

use hesper::text::{Chat, ChatTemplate};
use libfuzzer_sys::fuzz_target;
use serde_json::json;

fuzz_target!(|data: &[u8]| {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let messages = [
        json!({"role": "user", "content": source}),
        json!({"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": source}}]}),
    ];
    let tools = [json!({"type": "function", "function": {"name": source, "parameters": {}}})];
    let chat = Chat { tools: &tools, ..Chat::new(&messages) };
    if let Ok(template) = ChatTemplate::new(source, Some(source), source, source) {
        let _ = template.render(&chat);
    }
    let fixed = ChatTemplate::new("{{ messages | tojson(indent=2) }}{{ tools | string | trim | upper }}", None, "", "");
    fixed.unwrap().render(&chat).unwrap();
});
