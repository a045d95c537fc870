//! What a server's JSON says: the chunks of a stream, whole answers, lists of models and errors. Servers differ in what
//! they add, so only what is measured is looked at, and that strictly.

use serde_json::Value;

/// Characters of a server's own words that a message shows.
const SHOWN_CHARACTERS: usize = 300;

/// Tokens as the server counted them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub prompt_tokens: u64,
    pub output_tokens: u64,
}

/// One chunk of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// It brings a piece of the answer: text, reasoning, a refusal or a part of a tool call.
    pub content: bool,
    /// It says why the answer ended.
    pub finished: bool,
    pub usage: Option<Usage>,
}

/// Reads the data of one event.
///
/// # Errors
/// What is wrong with it, or `Err(Said::Error)` with the server's words when it reports an error of its own.
pub fn chunk(data: &str) -> Result<Chunk, Said> {
    let value = object(data)?;
    let choices = choices(&value)?;
    Ok(Chunk {
        content: choices.iter().any(|choice| has_content(&choice["delta"])),
        finished: choices.iter().any(|choice| choice["finish_reason"].is_string()),
        usage: usage(&value)?,
    })
}

/// Reads an answer that came in one piece; the usage where the server tells it.
///
/// # Errors
/// As [`chunk`], also when there is no finished choice in it.
pub fn whole(body: &str) -> Result<Option<Usage>, Said> {
    let value = object(body)?;
    match choices(&value)?.iter().any(|choice| choice["message"].is_object()) {
        true => usage(&value),
        false => Err(Said::Garbage(format!("the answer has no message: {}", shown(body)))),
    }
}

/// The identifier of the first model that a server lists.
pub fn first_model(body: &str) -> Option<String> {
    let value: Value = serde_json::from_str(body).ok()?;
    value["data"][0]["id"].as_str().filter(|id| !id.is_empty()).map(str::to_owned)
}

/// A server's words for a failure: the message of OpenAI's error object, or the start of whatever it sent.
pub fn error_text(body: &str) -> String {
    let value: Value = serde_json::from_str(body).unwrap_or_default();
    let message = value["error"]["message"].as_str().or(value["error"].as_str()).or(value["message"].as_str());
    shown(message.unwrap_or(body))
}

/// What a server says instead of a piece of an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// An error of its own, in its words.
    Error(String),
    /// Something that is no answer.
    Garbage(String),
}

fn object(text: &str) -> Result<Value, Said> {
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) if fields.get("error").is_some_and(|error| !error.is_null()) => {
            Err(Said::Error(error_text(text)))
        }
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(Said::Garbage(format!("not a JSON object: {}", shown(text)))),
        Err(error) => Err(Said::Garbage(format!("not JSON ({error}): {}", shown(text)))),
    }
}

fn choices(value: &Value) -> Result<&Vec<Value>, Said> {
    let wrong = || Said::Garbage(format!("`choices` is missing or no list: {}", shown(&value.to_string())));
    value["choices"].as_array().ok_or_else(wrong)
}

/// Reasoning has two names: llama-server and vLLM write `reasoning_content`, Ollama and newer vLLM `reasoning`.
fn has_content(delta: &Value) -> bool {
    let text = |name: &str| delta[name].as_str().is_some_and(|text| !text.is_empty());
    let calls = || delta["tool_calls"].as_array().is_some_and(|calls| !calls.is_empty());
    ["content", "reasoning_content", "reasoning", "refusal"].into_iter().any(text) || calls()
}

fn usage(value: &Value) -> Result<Option<Usage>, Said> {
    let usage = &value["usage"];
    if usage.is_null() {
        return Ok(None);
    }
    let wrong = || Said::Garbage(format!("`usage` has no token counts: {}", shown(&usage.to_string())));
    let count = |name: &str| usage[name].as_u64().ok_or_else(wrong);
    Ok(Some(Usage { prompt_tokens: count("prompt_tokens")?, output_tokens: count("completion_tokens")? }))
}

/// The start of a text in one line, for a message.
fn shown(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None if line.is_empty() => "(nothing)".to_owned(),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const USAGE: Usage = Usage { prompt_tokens: 3, output_tokens: 5 };

    #[test]
    fn chunks_of_several_servers() {
        let of = |text: &str| chunk(text).expect(text);
        let content = Chunk { content: true, ..Chunk::default() };
        assert_eq!(
            of(r#"{"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#),
            Chunk::default()
        );
        assert_eq!(of(r#"{"choices":[{"delta":{"content":"a"}}],"usage":null}"#), content);
        assert_eq!(of(r#"{"choices":[{"delta":{"reasoning_content":"a"}}]}"#), content);
        assert_eq!(of(r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#), content);
        let finished = Chunk { finished: true, ..Chunk::default() };
        assert_eq!(of(r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#), finished);
        let counted = Chunk { usage: Some(USAGE), ..Chunk::default() };
        assert_eq!(of(r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}}"#), counted);
    }

    #[test]
    fn errors_and_nonsense_are_told_apart() {
        let error = |text: &str| chunk(text).expect_err(text);
        assert_eq!(error(r#"{"error":{"message":"out of\nmemory"}}"#), Said::Error("out of memory".to_owned()));
        assert_eq!(error(r#"{"error":"busy"}"#), Said::Error("busy".to_owned()));
        for garbage in ["", "{", "[]", "1", "{}", r#"{"choices":1}"#, r#"{"choices":[],"usage":{"prompt_tokens":-1}}"#]
        {
            assert!(matches!(error(garbage), Said::Garbage(_)), "{garbage}");
        }
    }

    #[test]
    fn whole_answers_models_and_error_bodies() {
        let answer = r#"{"choices":[{"message":{"content":"a"}}],"usage":{"prompt_tokens":3,"completion_tokens":5}}"#;
        assert_eq!(whole(answer), Ok(Some(USAGE)));
        assert_eq!(whole(r#"{"choices":[{"message":{"content":"a"}}]}"#), Ok(None));
        assert!(matches!(whole(r#"{"choices":[]}"#), Err(Said::Garbage(_))));
        assert_eq!(first_model(r#"{"data":[{"id":"a"},{"id":"b"}]}"#).as_deref(), Some("a"));
        assert_eq!((first_model(r#"{"data":[]}"#), first_model("x")), (None, None));
        assert_eq!(error_text(r#"{"error":{"message":"no"}}"#), "no");
        assert_eq!(error_text("<html>\n bad gateway"), "<html> bad gateway");
        assert_eq!(error_text(" "), "(nothing)");
        assert_eq!(error_text(&"ä".repeat(400)).chars().count(), SHOWN_CHARACTERS + 1);
    }

    proptest! {
        #[test]
        fn any_text_is_an_answer_or_refused(text in "\\PC{0,200}") {
            drop((chunk(&text), whole(&text), first_model(&text)));
            prop_assert!(error_text(&text).chars().count() <= SHOWN_CHARACTERS + 1);
        }
    }
}
