//! Prompts that are too long for the context, cut when the request asks for it with `truncate`.
//!
//! Of a chat, whole turns go first: a turn is a user's message with all that follows it up to the next one. What stands
//! before the first user's message, and the last turn, stay. Where that is not enough, and in plain prompts, tokens go.

use super::error::ApiError;
use serde_json::Value;
use std::ops::Range;

/// What goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truncate {
    /// What stands in the middle.
    Middle,
    /// What came first.
    Left,
}

impl Truncate {
    pub const NAMES: [&'static str; 2] = ["middle", "left"];

    pub fn named(name: &str) -> Truncate {
        if name == "left" { Truncate::Left } else { Truncate::Middle }
    }

    /// Which `count` of `all` go.
    fn range(self, count: usize, all: usize) -> Range<usize> {
        let start = match self {
            Truncate::Middle => (all - count) / 2,
            Truncate::Left => 0,
        };
        start..start + count
    }

    /// Cuts `tokens` down to `room`; answers how many went.
    pub fn tokens(self, tokens: &mut Vec<u32>, room: usize) -> usize {
        let count = tokens.len().saturating_sub(room);
        tokens.drain(self.range(count, tokens.len()));
        count
    }
}

/// Tokens that a prompt may have: the rest is for an answer of `max_tokens`, or of a quarter of the context where the
/// request does not say, and at most of half of it.
pub fn room(context: u32, max_tokens: Option<u32>) -> usize {
    let answer = max_tokens.unwrap_or(context / 4).clamp(1, (context / 2).max(1));
    context.saturating_sub(answer) as usize
}

/// What was left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    pub messages: usize,
    pub tokens: usize,
}

impl Cut {
    /// For a `warning` header.
    pub fn warning(self) -> Option<String> {
        match self {
            Cut { messages: 0, tokens: 0 } => None,
            Cut { messages, tokens: 0 } => Some(format!("prompt truncated: {messages} messages left out")),
            Cut { messages: 0, tokens } => Some(format!("prompt truncated: {tokens} tokens left out")),
            Cut { messages, tokens } => {
                Some(format!("prompt truncated: {messages} messages and then {tokens} tokens left out"))
            }
        }
    }
}

/// The tokens of a chat without as many turns as it takes, and what was left out. `tokenize` gives the tokens of messages.
pub fn chat(
    messages: &[Value],
    truncate: Truncate,
    room: usize,
    tokenize: impl Fn(&[Value]) -> Result<Vec<u32>, ApiError>,
) -> Result<(Vec<u32>, Cut), ApiError> {
    let starts: Vec<usize> = (0..messages.len()).filter(|at| messages[*at]["role"] == "user").collect();
    // All turns but the last may go.
    let turns = starts.len().saturating_sub(1);
    let without = |count: usize| {
        let gone = truncate.range(count, turns);
        let gone = if count == 0 { 0..0 } else { starts[gone.start]..starts[gone.end] };
        let kept: Vec<Value> = [&messages[..gone.start], &messages[gone.end..]].concat();
        Ok::<_, ApiError>((tokenize(&kept)?, gone.len()))
    };
    // The fewest that are enough, or all: what goes with more turns holds what goes with fewer.
    let (mut low, mut high) = (0, turns);
    while low < high {
        let middle = (low + high) / 2;
        if without(middle)?.0.len() <= room {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    let (mut tokens, messages) = without(low)?;
    let cut = truncate.tokens(&mut tokens, room);
    Ok((tokens, Cut { messages, tokens: cut }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// A token for each message, which says its place, as many times as the message is long.
    fn tokenize(messages: &[Value]) -> Result<Vec<u32>, ApiError> {
        let token = |message: &Value| {
            let (place, length) = (message["place"].as_u64().unwrap(), message["length"].as_u64().unwrap());
            vec![place as u32; length as usize]
        };
        Ok(messages.iter().flat_map(token).collect())
    }

    fn messages(roles: &[(&str, usize)]) -> Vec<Value> {
        let message =
            |(place, (role, length)): (usize, &(&str, usize))| json!({"role": role, "place": place, "length": length});
        roles.iter().enumerate().map(message).collect()
    }

    #[test]
    fn turns_go_before_tokens() {
        let chat_of = |truncate, room| {
            let roles =
                [("system", 1), ("user", 2), ("assistant", 2), ("tool", 1), ("user", 2), ("assistant", 1), ("user", 3)];
            chat(&messages(&roles), truncate, room, tokenize).unwrap()
        };
        let cut = |messages, tokens| Cut { messages, tokens };
        assert_eq!(chat_of(Truncate::Left, 12), (vec![0, 1, 1, 2, 2, 3, 4, 4, 5, 6, 6, 6], cut(0, 0)));
        assert_eq!(chat_of(Truncate::Left, 11), (vec![0, 4, 4, 5, 6, 6, 6], cut(3, 0)));
        assert_eq!(chat_of(Truncate::Middle, 11), (vec![0, 4, 4, 5, 6, 6, 6], cut(3, 0)));
        assert_eq!(chat_of(Truncate::Left, 4), (vec![0, 6, 6, 6], cut(5, 0)));
        assert_eq!(chat_of(Truncate::Left, 2), (vec![6, 6], cut(5, 2)));
        assert_eq!(chat_of(Truncate::Middle, 2), (vec![0, 6], cut(5, 2)));
    }

    proptest! {
        /// Whatever the chat: it fits, the last user's message stays while there is room for it, and no turn goes needlessly.
        #[test]
        fn what_is_left_fits(
            roles in prop::collection::vec((prop::sample::select(vec!["system", "user", "assistant", "tool"]), 1..9usize), 1..20),
            room in 1..60usize,
            left: bool,
        ) {
            let truncate = if left { Truncate::Left } else { Truncate::Middle };
            let messages = messages(&roles);
            let whole = tokenize(&messages).unwrap();
            let (tokens, cut) = chat(&messages, truncate, room, tokenize).unwrap();
            prop_assert!(tokens.len() <= room);
            prop_assert_eq!(cut == Cut::default(), whole.len() <= room);
            prop_assert!(cut.tokens == 0 || tokens.len() == room);
            prop_assert!(tokens.windows(2).all(|pair| pair[0] <= pair[1]), "the order stays");
            if cut.tokens == 0 && let Some(last) = messages.iter().rposition(|message| message["role"] == "user") {
                prop_assert!(tokens.contains(&(last as u32)));
            }
        }
    }
}
