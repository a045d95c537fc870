//! What is asked: prompts from a file of JSON lines, or a few that are built in.

use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Bytes that a file of prompts may have.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Roles that a message may have in OpenAI's API.
const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];
/// The names that ShareGPT-like files give to who speaks, and the role of each.
const SPEAKERS: [(&str, &str); 7] = [
    ("system", "system"),
    ("human", "user"),
    ("user", "user"),
    ("gpt", "assistant"),
    ("chatgpt", "assistant"),
    ("assistant", "assistant"),
    ("bot", "assistant"),
];

/// Questions of everyday kinds, short and long answers among them; written for this file.
const BUILT_IN: [&str; 12] = [
    "What is the capital of Norway?",
    "Explain in three sentences how a refrigerator moves heat out of its box.",
    "Write a short poem about the evening star.",
    "List five things to check before a long journey by bicycle.",
    "What is the difference between a process and a thread?",
    "Translate into French: The train to the coast leaves at half past seven.",
    "Write a function in Python that returns the n-th Fibonacci number, and say how fast it is.",
    "A box holds three red and five blue balls. Two are drawn. How likely are both blue?",
    "Summarize what an operating system's scheduler does, for a reader of twelve years.",
    "Give a recipe for a soup of lentils for four people.",
    "Which planets can be seen without a telescope, and when?",
    "Write a polite letter that declines an invitation to a meeting on Thursday.",
];

/// Why a file of prompts cannot be used. Every text names the file and, where there is one, the line.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    #[error("cannot read {file}: {source}; check the path and that you may read it")]
    Read { file: String, source: std::io::Error },
    #[error("{file} has {bytes} bytes, and a file of prompts at most {FILE_BYTES_MAX}; take a part of it with `head`")]
    TooLarge { file: String, bytes: u64 },
    #[error("{file} holds no prompt; each line is a JSON object with `messages`, `prompt` or `conversations`")]
    Empty { file: String },
    #[error("{file} line {line}: {problem}")]
    Line { file: String, line: usize, problem: String },
}

/// Prompts, each as the `messages` of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    prompts: Vec<Value>,
    /// Where they are from, for a report.
    pub source: String,
}

impl Dataset {
    /// The built-in questions; with `words`, each is lengthened to about as many words by text to be read first.
    pub fn built_in(words: Option<usize>) -> Dataset {
        let prompt = |(index, question): (usize, &&str)| {
            let text = words.map_or_else(|| (*question).to_owned(), |words| lengthened(question, index, words));
            json!([{"role": "user", "content": text}])
        };
        let source = match words {
            Some(words) => format!("built-in, {words} words each"),
            None => "built-in".to_owned(),
        };
        Dataset { prompts: BUILT_IN.iter().enumerate().map(prompt).collect(), source }
    }

    /// Reads a file of JSON lines: see [`Dataset::parse`].
    pub fn read(path: &Path) -> Result<Dataset, DatasetError> {
        let file = path.display().to_string();
        let failed = |source| DatasetError::Read { file: file.clone(), source };
        let bytes = fs::metadata(path).map_err(failed)?.len();
        if bytes > FILE_BYTES_MAX {
            return Err(DatasetError::TooLarge { file, bytes });
        }
        Dataset::parse(&file, &fs::read(path).map_err(failed)?)
    }

    /// One object a line, with one of: `messages` as in a request; `prompt`, a text; `conversations`, a list of `from`
    /// and `value` as in ShareGPT's files, of which all up to the last turn of the user is asked. Other fields are left
    /// aside, empty lines too.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Dataset, DatasetError> {
        let mut prompts = Vec::new();
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            let wrong = |problem| DatasetError::Line { file: file.to_owned(), line: index + 1, problem };
            prompts.push(prompt(line).map_err(wrong)?);
        }
        match prompts.is_empty() {
            true => Err(DatasetError::Empty { file: file.to_owned() }),
            false => Ok(Dataset { prompts, source: file.to_owned() }),
        }
    }

    pub fn len(&self) -> usize {
        self.prompts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.prompts.is_empty()
    }

    /// The messages of the prompt at `index`; they repeat from the start behind the last.
    pub fn messages(&self, index: usize) -> &Value {
        &self.prompts[index % self.prompts.len()]
    }
}

/// Text to read before a question. It differs from question to question in its first word, so that a server's cache of
/// prefixes does not answer for it.
fn lengthened(question: &str, index: usize, words: usize) -> String {
    const FILLER: &str = "the river was low that summer and people walked across it with their shoes in their hands";
    let filler = FILLER.split(' ').cycle().take(words.saturating_sub(question.split(' ').count() + 3));
    let text: Vec<&str> = filler.collect();
    format!("Note {}: {}. {question}", index + 1, text.join(" "))
}

fn prompt(line: &[u8]) -> Result<Value, String> {
    let value: Value = serde_json::from_slice(line).map_err(|error| match line.trim_ascii().first() {
        Some(b'[') => "a JSON list begins here; write one object a line, as `jq -c '.[]' FILE` does".to_owned(),
        _ => format!("not JSON: {error}; write one object a line"),
    })?;
    let fields = value.as_object().ok_or_else(|| match value.is_array() {
        true => "a JSON list; write one object a line, as `jq -c '.[]' FILE` does".to_owned(),
        false => "not a JSON object".to_owned(),
    })?;
    let given: Vec<&str> =
        ["messages", "prompt", "conversations"].into_iter().filter(|name| fields.contains_key(*name)).collect();
    match given.as_slice() {
        ["messages"] => messages(&fields["messages"]),
        ["prompt"] => match fields["prompt"].as_str() {
            Some(text) if !text.is_empty() => Ok(json!([{"role": "user", "content": text}])),
            _ => Err("`prompt` is not a text, or empty".to_owned()),
        },
        ["conversations"] => conversation(&fields["conversations"]),
        [] => Err("there is neither `messages` nor `prompt` nor `conversations`".to_owned()),
        several => Err(format!("`{}` are given together; give one of them", several.join("` and `"))),
    }
}

fn messages(value: &Value) -> Result<Value, String> {
    let items = value.as_array().filter(|items| !items.is_empty());
    for (index, message) in items.ok_or("`messages` is not a list, or empty")?.iter().enumerate() {
        let role = message["role"].as_str().filter(|role| ROLES.contains(role));
        role.ok_or_else(|| format!("`messages[{index}].role` is not one of {}", ROLES.join(", ")))?;
        let content = &message["content"];
        let called = message["tool_calls"].is_array() && content.is_null();
        if !(content.is_string() || content.is_array() || called) {
            return Err(format!("`messages[{index}].content` is neither a text nor a list of parts"));
        }
    }
    Ok(value.clone())
}

fn conversation(value: &Value) -> Result<Value, String> {
    let turns = value.as_array().ok_or("`conversations` is not a list")?;
    let mut messages = Vec::new();
    for (index, turn) in turns.iter().enumerate() {
        let from = turn["from"].as_str().unwrap_or_default();
        let role = SPEAKERS.iter().find(|(speaker, _)| *speaker == from).map(|(_, role)| role);
        let names = || SPEAKERS.map(|(speaker, _)| speaker).join(", ");
        let role = role.ok_or_else(|| format!("`conversations[{index}].from` is not one of {}", names()))?;
        let text = turn["value"].as_str().ok_or_else(|| format!("`conversations[{index}].value` is not a text"))?;
        messages.push(json!({"role": role, "content": text}));
    }
    let last = messages.iter().rposition(|message| message["role"] == "user");
    messages.truncate(last.ok_or("`conversations` has no turn of the user")? + 1);
    Ok(Value::Array(messages))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Dataset, DatasetError> {
        Dataset::parse("prompts.jsonl", text.as_bytes())
    }

    #[test]
    fn three_forms_of_prompts() {
        let text = concat!(
            r#"{"prompt": "a", "id": 7}"#,
            "\n\n",
            r#"{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text"}]}]}"#,
            "\r\n",
            r#"{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "r"}, {"from": "human", "value": "t"}, {"from": "gpt", "value": "u"}]}"#,
        );
        let dataset = parse(text).expect("a data set");
        assert_eq!((dataset.len(), dataset.is_empty()), (3, false));
        assert_eq!(dataset.messages(0), &json!([{"role": "user", "content": "a"}]));
        assert_eq!(dataset.messages(3), dataset.messages(0));
        assert_eq!(dataset.messages(1)[0]["role"], "system");
        let turns: Vec<_> =
            dataset.messages(2).as_array().expect("turns").iter().map(|turn| &turn["content"]).collect();
        assert_eq!(turns, ["q", "r", "t"]);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (line, part) in [
            ("{", "not JSON"),
            ("[", "jq -c"),
            ("[]", "jq -c"),
            ("1", "not a JSON object"),
            ("{}", "neither `messages`"),
            (r#"{"prompt": "a", "messages": []}"#, "`messages` and `prompt` are given together"),
            (r#"{"prompt": ""}"#, "`prompt`"),
            (r#"{"prompt": 1}"#, "`prompt`"),
            (r#"{"messages": []}"#, "`messages` is not a list"),
            (r#"{"messages": [{"role": "user", "content": "a"}, {"role": "me"}]}"#, "`messages[1].role`"),
            (r#"{"messages": [{"role": "user", "content": 1}]}"#, "`messages[0].content`"),
            (r#"{"messages": [1]}"#, "`messages[0].role`"),
            (r#"{"conversations": {}}"#, "`conversations` is not a list"),
            (r#"{"conversations": [{"from": "gpt", "value": "a"}]}"#, "no turn of the user"),
            (r#"{"conversations": [{"from": "x", "value": "a"}]}"#, "`conversations[0].from`"),
            (r#"{"conversations": [{"from": "human"}]}"#, "`conversations[0].value`"),
        ] {
            let error = parse(&format!("{{\"prompt\": \"fine\"}}\n{line}\n")).expect_err(line).to_string();
            assert!(error.starts_with("prompts.jsonl line 2: ") && error.contains(part), "{line}: {error}");
        }
        for empty in ["", "\n \n"] {
            assert!(matches!(parse(empty), Err(DatasetError::Empty { .. })));
        }
        let absent = Dataset::read(Path::new("/nonexistent/x")).expect_err("no such file").to_string();
        assert!(absent.contains("cannot read /nonexistent/x"), "{absent}");
    }

    #[test]
    fn built_in_prompts_differ_and_can_be_lengthened() {
        let plain = Dataset::built_in(None);
        let different: std::collections::BTreeSet<_> =
            (0..plain.len()).map(|at| plain.messages(at).to_string()).collect();
        assert_eq!(different.len(), BUILT_IN.len());
        let long = Dataset::built_in(Some(200));
        assert_eq!(long.len(), BUILT_IN.len());
        for (index, question) in BUILT_IN.iter().enumerate() {
            let text = long.messages(index)[0]["content"].as_str().expect("a text");
            assert!((198..=202).contains(&text.split(' ').count()) && text.ends_with(question), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_prompts_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(dataset) = Dataset::parse("x", &bytes) {
                prop_assert!(!dataset.is_empty() && dataset.messages(0).is_array());
            }
        }
    }
}
