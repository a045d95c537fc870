//! How much a model may reason before its answer, and whether the client sees it: OpenAI's field, and those of llama.cpp,
//! vLLM, OpenRouter and Qwen.

use super::{
    error::ApiError,
    fields::{Fields, Unknown},
};
use serde_json::{Map, Value, json};

const EFFORTS: [&str; 6] = ["none", "minimal", "low", "medium", "high", "xhigh"];

/// What a request says of reasoning. A model that does not reason is within every limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReasoningOptions {
    /// Most tokens of reasoning; 0 for none at all; `None`: as many as the answer may have.
    pub budget: Option<u32>,
    /// Split it from the answer's text.
    pub split: bool,
    /// Send it to the client.
    pub shown: bool,
}

impl Default for ReasoningOptions {
    fn default() -> Self {
        ReasoningOptions { budget: None, split: true, shown: true }
    }
}

impl ReasoningOptions {
    /// Takes the fields. What templates know by `enable_thinking` and `reasoning_effort` goes to `template_arguments`, unless
    /// the client put it there itself.
    ///
    /// # Errors
    /// Malformed fields, and two limits in one request.
    pub fn take(
        fields: &mut Fields,
        template_arguments: &mut Map<String, Value>,
        unknown: &mut Unknown,
    ) -> Result<ReasoningOptions, ApiError> {
        let mut options = ReasoningOptions::default();
        let mut effort = fields.choice("reasoning_effort", &EFFORTS)?;
        let mut budgets: Vec<(String, i64)> = Vec::new();
        let mut enabled = fields.boolean("enable_thinking")?;
        let range = -1..=i64::from(u32::MAX);
        for name in ["thinking_budget", "thinking_budget_tokens", "thinking_token_budget"] {
            budgets.extend(fields.integer(name, range.clone())?.map(|tokens| (name.to_owned(), tokens)));
        }
        if let Some(mut inner) = fields.object("reasoning")? {
            let other = inner.choice("effort", &EFFORTS)?;
            if other.is_some() && effort.is_some() {
                let message = "`reasoning.effort` is another name of `reasoning_effort`; give one of them";
                return Err(ApiError::field("reasoning.effort", message));
            }
            effort = effort.or(other);
            let path = inner.path("max_tokens");
            budgets.extend(inner.integer("max_tokens", range)?.map(|tokens| (path, tokens)));
            options.shown = !inner.boolean("exclude")?.unwrap_or(false);
            enabled = inner.boolean("enabled")?.or(enabled);
            inner.finish(unknown)?;
        }
        if let [(first, _), (second, _), ..] = &budgets[..] {
            let message = format!("`{second}` is another name of `{first}`; give one of them");
            return Err(ApiError::field(second.clone(), message));
        }
        options.shown &= fields.boolean("include_reasoning")?.unwrap_or(true);
        options.split = fields.choice("reasoning_format", &["auto", "deepseek", "none"])? != Some("none");
        options.budget = match budgets.pop() {
            Some((_, tokens)) => u32::try_from(tokens).ok(),
            None => effort.and_then(budget_of),
        };
        if enabled == Some(false) {
            options.budget = Some(0);
        }
        let mut tell = |name: &str, value: Value| {
            template_arguments.entry(name).or_insert(value);
        };
        if let Some(effort) = effort.filter(|effort| *effort != "none") {
            tell("reasoning_effort", json!(effort));
        }
        let asked = effort.map(|effort| effort != "none");
        let thinking = if options.budget == Some(0) { Some(false) } else { enabled.or(asked) };
        if let Some(thinking) = thinking {
            tell("enable_thinking", json!(thinking));
        }
        Ok(options)
    }
}

/// Tokens of reasoning that an effort stands for, where nothing else says how many.
fn budget_of(effort: &str) -> Option<u32> {
    match effort {
        "none" => Some(0),
        "minimal" => Some(512),
        "low" => Some(2048),
        "medium" => Some(8192),
        _ => None,
    }
}
