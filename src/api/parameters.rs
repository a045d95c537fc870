//! The request fields that chat and completions share: how to sample, when to stop, how to answer.

use super::{
    error::ApiError,
    fields::{Fields, Unknown, as_integer, kind, shown, wrong_type},
    messages,
    truncate::Truncate,
};
use crate::engine::request::{MAX_LOGIT_BIAS, SamplingParameters};
use serde_json::{Map, Value, json};

/// Most answers to one prompt.
pub const MAX_CHOICES: u32 = 128;
const MAX_STOP_STRINGS: usize = 16;
const MAX_STOP_BYTES: usize = 1024;
const MAX_STOP_TOKENS: usize = 64;
const MAX_METADATA: usize = 16;
const MAX_METADATA_NAME: usize = 64;
const MAX_METADATA_VALUE: usize = 512;

/// Below this a temperature is greedy: dividing logits by less could overflow.
const MIN_TEMPERATURE: f64 = 1e-5;

#[derive(Clone, Debug, PartialEq)]
pub struct Parameters {
    /// The model asked for; `None` takes the one that is served.
    pub model: Option<String>,
    pub sampling: SamplingParameters,
    /// 1..=[`MAX_CHOICES`].
    pub choices: u32,
    pub max_tokens: Option<u32>,
    pub stop: Vec<String>,
    pub stop_token_ids: Vec<u32>,
    /// Do not stop at the model's own end of text.
    pub ignore_eos: bool,
    pub stream: bool,
    pub include_usage: bool,
    /// Strings by which a client finds what it stored.
    pub metadata: Map<String, Value>,
    /// Whether what earlier prompts have left in the cache may be used. It changes the time an answer takes, not its tokens.
    pub reuse_prefix: bool,
    /// What goes of a prompt that is too long; `None`: it is refused.
    pub truncate: Option<Truncate>,
    /// A text that the answer may resemble. It changes the time an answer takes, not its tokens.
    pub prediction: Option<String>,
}

impl Parameters {
    /// Takes the shared fields out of `fields`. `vocabulary` is the number of token ids.
    pub fn take(fields: &mut Fields, vocabulary: u32, unknown: &mut Unknown) -> Result<Parameters, ApiError> {
        no_effect(fields)?;
        not_implemented(fields)?;
        let (stream, include_usage) = stream(fields, unknown)?;
        Ok(Parameters {
            model: fields.string("model")?,
            sampling: sampling(fields, vocabulary)?,
            choices: fields.integer("n", 1..=MAX_CHOICES.into())?.unwrap_or(1) as u32,
            max_tokens: max_tokens(fields)?,
            stop: stop_strings(fields)?,
            stop_token_ids: stop_token_ids(fields, vocabulary)?,
            ignore_eos: fields.boolean("ignore_eos")?.unwrap_or(false),
            stream,
            include_usage,
            metadata: metadata(fields)?,
            reuse_prefix: fields.boolean("cache_prompt")?.unwrap_or(true),
            truncate: fields.choice("truncate", &Truncate::NAMES)?.map(Truncate::named),
            prediction: prediction(fields, unknown)?,
        })
    }
}

/// OpenAI's predicted outputs: <https://platform.openai.com/docs/guides/predicted-outputs>.
fn prediction(fields: &mut Fields, unknown: &mut Unknown) -> Result<Option<String>, ApiError> {
    let Some(mut prediction) = fields.object("prediction")? else { return Ok(None) };
    let kind = prediction.choice("type", &["content"])?;
    prediction.require("type", kind)?;
    let text = messages::content(&mut prediction, unknown)?;
    let text = prediction.require("content", text)?;
    prediction.finish(unknown)?;
    Ok(Some(text))
}

/// Fields that cannot change the answer: checked for their type and left at that.
fn no_effect(fields: &mut Fields) -> Result<(), ApiError> {
    for name in ["user", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"] {
        fields.string(name)?;
    }
    Ok(())
}

/// Fields that other servers have; only the value that changes nothing is accepted.
fn not_implemented(fields: &mut Fields) -> Result<(), ApiError> {
    let zero = [json!(0)];
    for name in ["mirostat", "xtc_probability", "dry_multiplier", "dynatemp_range", "min_tokens", "n_keep", "min_keep"]
    {
        fields.neutral(name, &zero)?;
    }
    for name in ["typical_p", "length_penalty"] {
        fields.neutral(name, &[json!(1)])?;
    }
    for name in ["use_beam_search", "early_stopping", "include_stop_str_in_output"] {
        fields.neutral(name, &[json!(false)])?;
    }
    for name in ["skip_special_tokens", "spaces_between_special_tokens"] {
        fields.neutral(name, &[json!(true)])?;
    }
    fields.neutral("bad_words", &[json!([])])?;
    fields.neutral("top_n_sigma", &[json!(-1), json!(0)])?;
    for name in ["samplers", "truncate_prompt_tokens", "lora"] {
        fields.neutral(name, &[])?;
    }
    Ok(())
}

/// `metadata`: at most 16 strings by name, as OpenAI bounds them.
pub fn metadata(fields: &mut Fields) -> Result<Map<String, Value>, ApiError> {
    let map = fields.map("metadata")?.unwrap_or_default();
    if map.len() > MAX_METADATA {
        let message = format!("`metadata` may have {MAX_METADATA} entries, not {}", map.len());
        return Err(ApiError::field("metadata", message));
    }
    for (name, value) in &map {
        let path = format!("metadata.{}", shown(name));
        let text = value.as_str().ok_or_else(|| wrong_type(&path, "a string", value))?;
        if name.chars().count() > MAX_METADATA_NAME || text.chars().count() > MAX_METADATA_VALUE {
            let message = format!(
                "`{path}` is too long: names have at most {MAX_METADATA_NAME} characters, values {MAX_METADATA_VALUE}"
            );
            return Err(ApiError::field(path, message));
        }
    }
    Ok(map)
}

fn stream(fields: &mut Fields, unknown: &mut Unknown) -> Result<(bool, bool), ApiError> {
    let stream = fields.boolean("stream")?.unwrap_or(false);
    let Some(mut options) = fields.object("stream_options")? else { return Ok((stream, false)) };
    if !stream {
        return Err(ApiError::field("stream_options", "`stream_options` is only allowed when `stream` is true"));
    }
    let include_usage = options.boolean("include_usage")?.unwrap_or(false);
    options.neutral("include_obfuscation", &[json!(false)])?;
    options.finish(unknown)?;
    Ok((stream, include_usage))
}

fn sampling(fields: &mut Fields, vocabulary: u32) -> Result<SamplingParameters, ApiError> {
    let default = SamplingParameters::default();
    let temperature = fields.number("temperature", 0.0..=2.0)?.unwrap_or(default.temperature.into());
    let top_p = fields.number("top_p", 0.0..=1.0)?.unwrap_or(1.0);
    // The second test is for what is positive only until it is rounded.
    if top_p <= 0.0 || top_p as f32 <= 0.0 {
        return Err(ApiError::field("top_p", "`top_p` must be above 0 and at most 1").code("out_of_range"));
    }
    let top_k = fields.integer("top_k", -1..=i64::from(i32::MAX))?.unwrap_or(0).max(0) as u32;
    let repetition = fields.number("repetition_penalty", 0.01..=100.0)?;
    let repeat = fields.number("repeat_penalty", 0.01..=100.0)?;
    if repetition.is_some() && repeat.is_some() {
        let message = "`repeat_penalty` is another name of `repetition_penalty`; give one of them";
        return Err(ApiError::field("repeat_penalty", message));
    }
    Ok(SamplingParameters {
        temperature: if temperature < MIN_TEMPERATURE { 0.0 } else { temperature as f32 },
        top_k: if top_k >= vocabulary { 0 } else { top_k },
        top_p: top_p as f32,
        min_p: fields.number("min_p", 0.0..=1.0)?.unwrap_or(0.0) as f32,
        repetition_penalty: repetition.or(repeat).unwrap_or(1.0) as f32,
        presence_penalty: fields.number("presence_penalty", -2.0..=2.0)?.unwrap_or(0.0) as f32,
        frequency_penalty: fields.number("frequency_penalty", -2.0..=2.0)?.unwrap_or(0.0) as f32,
        logit_bias: logit_bias(fields, vocabulary)?,
        seed: match fields.integer("seed", i64::MIN..=i64::MAX)? {
            Some(seed) => seed as u64,
            None => super::identifiers::random(),
        },
    })
}

fn logit_bias(fields: &mut Fields, vocabulary: u32) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(map) = fields.map("logit_bias")? else { return Ok(Vec::new()) };
    if map.len() > MAX_LOGIT_BIAS {
        let message = format!("`logit_bias` may have {MAX_LOGIT_BIAS} entries, not {}", map.len());
        return Err(ApiError::field("logit_bias", message));
    }
    let mut biases: Vec<(u32, f32)> = Vec::with_capacity(map.len());
    for (key, value) in &map {
        let id = key.parse::<u32>().ok().filter(|id| *id < vocabulary).ok_or_else(|| {
            let key = shown(key);
            let message = format!("`logit_bias` has the key {key:?}; keys are token ids below {vocabulary}");
            ApiError::field("logit_bias", message)
        })?;
        let path = format!("logit_bias.{id}");
        let bias = value.as_f64().ok_or_else(|| wrong_type(&path, "a number", value))?;
        if !(-100.0..=100.0).contains(&bias) {
            let message = format!("`{path}` must be between -100 and 100, not {bias}");
            return Err(ApiError::field(path, message).code("out_of_range"));
        }
        if biases.iter().any(|(other, _)| *other == id) {
            return Err(ApiError::field(path.clone(), format!("`{path}` is given twice")));
        }
        biases.push((id, bias as f32));
    }
    Ok(biases)
}

fn max_tokens(fields: &mut Fields) -> Result<Option<u32>, ApiError> {
    let range = 1..=i64::from(u32::MAX);
    let old = fields.integer("max_tokens", range.clone())?;
    let new = fields.integer("max_completion_tokens", range)?;
    if let (Some(old), Some(new)) = (old, new)
        && old != new
    {
        let message = "`max_tokens` is the old name of `max_completion_tokens`; give one of them";
        return Err(ApiError::field("max_tokens", message));
    }
    Ok(new.or(old).map(|tokens| tokens as u32))
}

fn stop_strings(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let items = match fields.value("stop") {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) => vec![Value::String(text)],
        Some(Value::Array(items)) => items,
        Some(other) => return Err(wrong_type("stop", "a string or an array of strings", &other)),
    };
    if items.len() > MAX_STOP_STRINGS {
        let message = format!("`stop` may hold {MAX_STOP_STRINGS} strings, not {}", items.len());
        return Err(ApiError::field("stop", message));
    }
    let check = |(index, item): (usize, Value)| match item {
        Value::String(text) if text.is_empty() => {
            Err(ApiError::field("stop", format!("`stop[{index}]` is empty; every text would end at once")))
        }
        Value::String(text) if text.len() > MAX_STOP_BYTES => {
            Err(ApiError::field("stop", format!("`stop[{index}]` is longer than {MAX_STOP_BYTES} bytes")))
        }
        Value::String(text) => Ok(text),
        other => Err(wrong_type(&format!("stop[{index}]"), "a string", &other)),
    };
    items.into_iter().enumerate().map(check).collect()
}

fn stop_token_ids(fields: &mut Fields, vocabulary: u32) -> Result<Vec<u32>, ApiError> {
    let items = fields.array("stop_token_ids")?.unwrap_or_default();
    if items.len() > MAX_STOP_TOKENS {
        let message = format!("`stop_token_ids` may hold {MAX_STOP_TOKENS} ids, not {}", items.len());
        return Err(ApiError::field("stop_token_ids", message));
    }
    token_ids(&items, "stop_token_ids", vocabulary)
}

/// Token ids below `vocabulary`, from the array at `path`.
pub fn token_ids(items: &[Value], path: &str, vocabulary: u32) -> Result<Vec<u32>, ApiError> {
    let check = |(index, item): (usize, &Value)| {
        as_integer(item).and_then(|id| u32::try_from(id).ok()).filter(|id| *id < vocabulary).ok_or_else(|| {
            let given = if item.is_number() { item.to_string() } else { kind(item).to_owned() };
            let path = format!("{path}[{index}]");
            let message = format!("`{path}` must be a token id below {vocabulary}, not {given}");
            ApiError::field(path, message)
        })
    };
    items.iter().enumerate().map(check).collect()
}
