//! Log-probabilities in the two forms that OpenAI's endpoints give them.

use super::answer::TokenLogprobs;
use crate::text::Text;
use serde_json::{Map, Value, json};

/// The lowest that is sent: JSON has no infinity.
const FLOOR: f32 = -9999.0;

fn number(logprob: f32) -> f32 {
    if logprob.is_nan() { FLOOR } else { logprob.max(FLOOR) }
}

/// `choices[].logprobs` of a chat.
pub fn chat(text: &Text, tokens: &[TokenLogprobs]) -> Value {
    let entry = |id: u32, logprob: f32| {
        let bytes = text.token_bytes(id);
        let token = String::from_utf8_lossy(&bytes);
        json!({"token": token, "logprob": number(logprob), "bytes": *bytes})
    };
    let content: Vec<Value> = tokens
        .iter()
        .map(|token| {
            let mut value = entry(token.id, token.logprobs.chosen);
            let top = token.logprobs.top.iter().map(|(id, logprob)| entry(*id, *logprob)).collect();
            value["top_logprobs"] = Value::Array(top);
            value
        })
        .collect();
    json!({"content": content, "refusal": null})
}

/// `choices[].logprobs` of a completion: parallel arrays. `offset` is where the answer begins in the choice's text,
/// in characters.
pub fn completion(text: &Text, tokens: &[TokenLogprobs], offset: usize) -> Value {
    let name = |id: u32| String::from_utf8_lossy(&text.token_bytes(id)).into_owned();
    let names: Vec<String> = tokens.iter().map(|token| name(token.id)).collect();
    let chosen: Vec<f32> = tokens.iter().map(|token| number(token.logprobs.chosen)).collect();
    let offsets: Vec<usize> = tokens.iter().map(|token| offset + token.text_offset).collect();
    let top: Vec<Value> = tokens
        .iter()
        .map(|token| {
            let mut alternatives = Map::new();
            let chosen = (token.id, token.logprobs.chosen);
            for (id, logprob) in token.logprobs.top.iter().copied().chain([chosen]) {
                // Two tokens may look alike when they are parts of characters: the more probable is kept.
                alternatives.entry(name(id)).or_insert_with(|| json!(number(logprob)));
            }
            Value::Object(alternatives)
        })
        .collect();
    json!({"tokens": names, "token_logprobs": chosen, "top_logprobs": top, "text_offset": offsets})
}
