//! What the dialects share: each translates its requests into those of `/v1/chat/completions`, so that a field means
//! the same everywhere, and its own are the names that an error gives.

use super::{
    Service,
    chat::prompt,
    chat_request::ChatRequest,
    error::ApiError,
    fields::{Fields, Unknown},
    generate::Job,
};
use serde_json::{Map, Value};

/// A checked request, ready for the queue.
pub struct Ready {
    pub request: ChatRequest,
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

/// Checks what a chat request checks. `names` are pairs of a chat's field and what the dialect calls it.
pub fn ready(
    service: &Service,
    body: ChatBody,
    unknown: &mut Unknown,
    names: &[(&str, &str)],
) -> Result<Ready, ApiError> {
    let ready = || {
        let request = ChatRequest::parse(Value::Object(body.0), service.model.vocabulary, unknown)?;
        let (job, tokens) = prompt(service, &request)?;
        Ok((request, job, tokens))
    };
    let (request, job, tokens) = ready().map_err(|error| renamed(error, names))?;
    Ok(Ready { request, job, tokens })
}

/// The error with the fields' names in the dialect, in its message too.
fn renamed(mut error: ApiError, names: &[(&str, &str)]) -> ApiError {
    for (from, to) in names {
        for end in ["`", ".", "["] {
            error.message = error.message.replace(&format!("`{from}{end}"), &format!("`{to}{end}"));
        }
    }
    // Dialects describe a function in the tool itself.
    error.message = error.message.replace("].function.", "].");
    error.param = error.param.map(|param| {
        let rest =
            |from: &str| Some(param.strip_prefix(from)?).filter(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
        let found = names.iter().find_map(|(from, to)| Some(format!("{to}{}", rest(from)?)));
        found.unwrap_or(param.replace("].function.", "]."))
    });
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_field_that_the_client_sent() {
        let names = [("stop", "stop_sequences"), ("messages", "input")];
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
