//! From a checked chat request to a prompt, and to what its answers may be and how they are read. It takes its time, so it
//! runs where blocking is allowed.

use super::{
    Service,
    answer::{Reading, ReasoningReading, ToolReading},
    chat_request::ChatRequest,
    error::ApiError,
    fields::Unknown,
    generate::{Constrained, Job, check_length},
    output_format::OutputFormat,
    parameters::Parameters,
    tool_fields::{ToolChoice, Tools},
    truncate,
};
use crate::text::{Body, Chat, CompiledGrammar, Function, Grammar, GrammarError, ReasoningRules, Text, ToolOutput};
use serde_json::{Value, json};

/// The prompt of a chat's `messages` by the model's template, tools included.
///
/// # Errors
/// A chat that the template refuses.
pub fn render(text: &Text, request: &ChatRequest, messages: &[Value]) -> Result<String, ApiError> {
    let (tools, variables) = (&request.tools.described[..], Some(&request.template_arguments));
    text.render_tool_chat(&Chat { tools, variables, ..Chat::new(messages) })
        .map_err(|error| ApiError::field("messages", error.to_string()).code("chat_template"))
}

/// What to make of a request, and its prompt's tokens: fewer than the context holds.
///
/// # Errors
/// Those of [`render`] and [`job`], and a prompt that is too long.
pub fn prompt(service: &Service, request: ChatRequest, unknown: &mut Unknown) -> Result<(Job, Vec<u32>), ApiError> {
    let (text, parameters) = (&service.text, &request.parameters);
    let prompt = render(text, &request, &request.messages)?;
    let mut tokens = text.encode_chat(&prompt);
    let room = truncate::room(service.model.context_tokens, parameters.max_tokens);
    if let Some(truncate) = parameters.truncate.filter(|_| tokens.len() > room) {
        let tokenize = |messages: &[Value]| Ok(text.encode_chat(&render(text, &request, messages)?));
        let (left, cut) = truncate::chat(&request.messages, truncate, room, tokenize)?;
        tokens = left;
        unknown.warnings.extend(cut.warning());
    }
    check_length(tokens.len(), service.model.context_tokens, "messages")?;
    Ok((job(service, request, &prompt)?, tokens))
}

/// What to make of `prompt`, which [`render`] returned.
///
/// # Errors
/// Schemas and grammars that cannot be followed, by the field that holds them.
pub fn job(service: &Service, request: ChatRequest, prompt: &str) -> Result<Job, ApiError> {
    let text = &service.text;
    let style = text.chat_style();
    let options = &request.reasoning;
    let reasoning = style.reasoning.map(|tags| (tags, tags.start(prompt)));
    let reading = Reading {
        tools: request.tools.may_be_called().then(|| ToolReading {
            format: style.tools,
            names: request.tools.functions.iter().map(|function| function.name.clone()).collect(),
            parallel: request.tools.parallel,
        }),
        reasoning: reasoning.filter(|_| options.split).map(|(tags, start)| ReasoningReading {
            tags,
            start,
            shown: options.shown,
        }),
    };
    let body = body(text, &request)?;
    if let Some((_, field)) = &body {
        check_ends(&request.parameters, field)?;
    }
    let rules = reasoning.map(|(tags, start)| ReasoningRules { tags, start, budget: options.budget });
    let (body, field) =
        body.map_or((Body::Free, "reasoning".to_owned()), |(grammar, field)| (Body::Grammar(Box::new(grammar)), field));
    let rules = text.answer_rules(rules, body);
    let constraint = (!rules.is_free()).then_some(Constrained { rules, field });
    Ok(Job { parameters: request.parameters, logprobs: request.logprobs, reading, constraint })
}

/// The constraint of plain completions.
///
/// # Errors
/// Schemas and grammars that cannot be followed, by the field that holds them.
pub fn plain_constraint(
    text: &Text,
    output: Option<&OutputFormat>,
    parameters: &Parameters,
) -> Result<Option<Constrained>, ApiError> {
    let Some(output) = output else { return Ok(None) };
    check_ends(parameters, &output.field)?;
    let body = Body::Grammar(Box::new(compile(text, &output.grammar, &output.field)?));
    Ok(Some(Constrained { rules: text.answer_rules(None, body), field: output.field.clone() }))
}

/// A grammar ends answers by the model's own end token.
fn check_ends(parameters: &Parameters, field: &str) -> Result<(), ApiError> {
    if parameters.ignore_eos {
        let message = format!("`ignore_eos` cannot be combined with `{field}`, whose text comes to an end");
        return Err(ApiError::field("ignore_eos", message));
    }
    Ok(())
}

/// What follows the reasoning, if not any text; and the field that says so.
fn body(text: &Text, request: &ChatRequest) -> Result<Option<(CompiledGrammar, String)>, ApiError> {
    let (tools, output) = (&request.tools, request.output.as_ref());
    let strict = tools.functions.iter().any(|function| function.strict);
    match (tools.choice, output) {
        _ if !tools.may_be_called() => {}
        (ToolChoice::Required, _) => return demanded(text, tools, &tools.functions, "tool_choice").map(Some),
        (ToolChoice::Function(index), _) => {
            let named = &tools.functions[index..=index];
            return demanded(text, tools, named, "tool_choice.function.name").map(Some);
        }
        (_, None) if !strict => return Ok(None),
        (_, None) => return chosen(text, tools, ToolOutput::Text, "tools").map(Some),
        (_, Some(OutputFormat { grammar: Grammar::Json(schema), field })) => {
            // Alone first, so that what is wrong with it is not blamed on the tools.
            compile(text, &Grammar::Json(schema.clone()), field)?;
            return chosen(text, tools, ToolOutput::Json(schema.clone()), field).map(Some);
        }
        (_, Some(output)) => {
            let field = &output.field;
            let message = format!("`{field}` cannot be combined with `tools` that the model may choose to call");
            return Err(ApiError::unsupported(field.clone(), message));
        }
    }
    output.map(|output| Ok((compile(text, &output.grammar, &output.field)?, output.field.clone()))).transpose()
}

/// Nothing but calls, whose arguments satisfy the functions' schemas.
fn demanded(
    text: &Text,
    tools: &Tools,
    functions: &[Function],
    field: &str,
) -> Result<(CompiledGrammar, String), ApiError> {
    // A function that is named is called once, as OpenAI does it.
    let parallel = tools.parallel && functions.len() == tools.functions.len() && tools.choice == ToolChoice::Required;
    let grammar = text.tool_grammar(functions, &ToolOutput::Calls, parallel);
    Ok((grammar.map_err(|error| blame(text, tools, functions, error))?, field.to_owned()))
}

/// Calls or something else, as the model chooses. Only the schemas of strict functions are enforced.
fn chosen(text: &Text, tools: &Tools, output: ToolOutput, field: &str) -> Result<(CompiledGrammar, String), ApiError> {
    let any = json!({"type": "object"});
    let loosened: Vec<Function> = tools
        .functions
        .iter()
        .map(|function| match function.strict {
            true => function.clone(),
            false => Function { parameters: Some(any.clone()), ..function.clone() },
        })
        .collect();
    let grammar = text.tool_grammar(&loosened, &output, tools.parallel);
    Ok((grammar.map_err(|error| blame(text, tools, &loosened, error))?, field.to_owned()))
}

/// Names the function whose schema cannot be followed.
fn blame(text: &Text, tools: &Tools, functions: &[Function], error: GrammarError) -> ApiError {
    for function in functions {
        let index = tools.functions.iter().position(|other| other.name == function.name).unwrap_or(0);
        let field = format!("tools[{index}].function.parameters");
        if let Some(schema) = &function.parameters
            && let Err(error) = compile(text, &Grammar::Json(schema.clone()), &field)
        {
            return error;
        }
    }
    ApiError::field("tools", format!("`tools` cannot be followed: {error}")).code("invalid_grammar")
}

fn compile(text: &Text, grammar: &Grammar, field: &str) -> Result<CompiledGrammar, ApiError> {
    text.grammars().and_then(|grammars| grammars.compile(grammar)).map_err(|error| {
        let message = format!("`{field}` cannot be followed: {error}");
        ApiError::field(field, message).code("invalid_grammar")
    })
}
