//! What the dialects share: each translates its requests into those of `/v1/chat/completions`, so that a field means
//! the same everywhere, and its own are the names that an error gives.

use super::{
    Service,
    blocks::Block,
    chat_request::ChatRequest,
    error::ApiError,
    fields::{Fields, Unknown},
    generate::Job,
    prepare::prompt,
};
use serde_json::{Map, Value, json};

/// A checked request, ready for the queue.
pub struct Ready {
    pub job: Job,
    pub tokens: Vec<u32>,
}

/// The body of a chat request in the making.
#[derive(Clone, Debug, Default)]
pub struct ChatBody(pub Map<String, Value>);

impl ChatBody {
    /// Sets a field, if there is a value.
    pub fn set(&mut self, name: &str, value: impl Into<Option<Value>>) {
        if let Some(value) = value.into() {
            self.0.insert(name.to_owned(), value);
        }
    }

    /// Moves fields that have the same name and meaning in both dialects.
    pub fn take(&mut self, fields: &mut Fields, names: &[&str]) {
        for name in names {
            self.set(name, fields.value(name));
        }
    }
}

/// A chat's messages in the making, where the dialect has blocks or items.
#[derive(Clone, Debug, Default)]
pub struct Messages(pub Vec<Value>);

impl Messages {
    pub fn push(&mut self, role: &str, content: String) {
        self.0.push(json!({"role": role, "content": content}));
    }

    pub fn tool_result(&mut self, id: &str, content: String) {
        self.0.push(json!({"role": "tool", "tool_call_id": id, "content": content}));
    }

    /// Adds to the last message if it is of `role`, or begins one: turns that follow each other are one.
    pub fn say(&mut self, role: &str, text: &str) {
        let turn = self.turn(role);
        let before = turn["content"].as_str().unwrap_or_default();
        let between = if before.is_empty() || text.is_empty() { "" } else { "\n" };
        turn["content"] = json!(format!("{before}{between}{text}"));
    }

    /// Reasoning of the assistant's turn.
    pub fn think(&mut self, text: &str) {
        self.turn("assistant")["reasoning_content"] = json!(text);
    }

    /// A call in the assistant's turn.
    pub fn call(&mut self, id: &str, name: &str, arguments: &str) {
        let call = json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
        let turn = self.turn("assistant");
        match turn["tool_calls"].as_array_mut() {
            Some(calls) => calls.push(call),
            None => turn["tool_calls"] = json!([call]),
        }
    }

    /// What the server answered.
    pub fn answer(&mut self, blocks: &[Block]) {
        for block in blocks {
            match block {
                Block::Reasoning(text) => self.think(text),
                Block::Text { text, .. } => self.say("assistant", text),
                Block::Call { id, name, arguments } => self.call(id, name, arguments),
            }
        }
    }

    fn turn(&mut self, role: &str) -> &mut Value {
        if self.0.last().is_none_or(|message| message["role"] != role) {
            self.push(role, String::new());
        }
        let last = self.0.len() - 1;
        &mut self.0[last]
    }
}

/// Checks what a chat request checks. `names` are pairs of a chat's field and what the dialect calls it.
pub fn ready(
    service: &Service,
    body: ChatBody,
    unknown: &mut Unknown,
    names: &[(&str, &str)],
) -> Result<Ready, ApiError> {
    let ready = || {
        let request = ChatRequest::parse(Value::Object(body.0), service.model.vocabulary, unknown)?;
        prompt(service, request, unknown)
    };
    let (job, tokens) = ready().map_err(|error| renamed(error, names))?;
    Ok(Ready { job, tokens })
}

/// The error with the fields' names in the dialect, in its message too. A name that begins with a bracket may stand
/// behind any index.
fn renamed(mut error: ApiError, names: &[(&str, &str)]) -> ApiError {
    for (from, to) in names {
        let within = from.starts_with(']');
        error.param = error.param.map(|param| {
            let ends = |rest: &&str| within || rest.is_empty() || rest.starts_with(['.', '[']);
            match param.split_once(from) {
                Some((before, rest)) if (within || before.is_empty()) && ends(&rest) => format!("{before}{to}{rest}"),
                _ => param,
            }
        });
        if within {
            error.message = error.message.replace(from, to);
        }
        for end in ["`", ".", "["].iter().filter(|_| !within) {
            error.message = error.message.replace(&format!("`{from}{end}"), &format!("`{to}{end}"));
        }
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_field_that_the_client_sent() {
        let names = [("stop", "stop_sequences"), ("messages", "input"), ("].function.", "].")];
        for (param, expected) in [
            ("stop", "stop_sequences"),
            ("stop[1]", "stop_sequences[1]"),
            ("stop_token_ids", "stop_token_ids"),
            ("messages[0].content", "input[0].content"),
            ("tools[2].function.name", "tools[2].name"),
            ("temperature", "temperature"),
        ] {
            let error = renamed(ApiError::field(param, format!("`{param}` is wrong")), &names);
            assert_eq!((error.param.as_deref(), error.message), (Some(expected), format!("`{expected}` is wrong")));
        }
    }
}
