//! Tool calls that are demanded or strict, in every format; and reasoning before them.

use crate::walk::{Random, TEXT, allowed, demo_vocabulary, walk};
use hesper::text::{
    Body, Chat, Function, ReasoningParser, ReasoningRules, ReasoningStart, Text, ToolCallEvent, ToolCallParser,
    ToolFormat, ToolOutput, Vocabulary,
};
use serde_json::{Value, json};

/// Templates reduced to what tells their format.
const TEMPLATES: [(ToolFormat, &str); 5] = [
    (ToolFormat::Tagged, "{{ tools }}<tool_call></tool_call>{{ messages }}"),
    (ToolFormat::Llama, "{{ tools }}<|start_header_id|>{\"name\": \"parameters\": }{{ messages }}"),
    (ToolFormat::MistralArray, "[AVAILABLE_TOOLS]{{ tools }}[TOOL_CALLS]{{ messages }}"),
    (ToolFormat::MistralNamed, "[AVAILABLE_TOOLS]{{ tools }}[TOOL_CALLS][ARGS]{{ messages }}"),
    (ToolFormat::Tagged, "{{ messages }}"),
];

/// The demo model's tokens with a template; `marks` become control tokens, as they are in the models of that format.
fn text(template: &str, marks: &[&str]) -> Text {
    let mut vocabulary = Vocabulary { chat_template: Some(template.to_owned()), ..demo_vocabulary() };
    // In the place of long tokens, which nothing here needs.
    for (place, mark) in marks.iter().enumerate() {
        let id = vocabulary.tokens.len() - 20 - place;
        vocabulary.tokens[id] = (*mark).to_owned();
        vocabulary.token_types[id] = 3;
    }
    Text::new(&vocabulary).unwrap()
}

fn texts() -> Vec<(ToolFormat, Text)> {
    let mut all: Vec<(ToolFormat, Text)> = Vec::new();
    for (format, template) in TEMPLATES {
        let text_of = |marks: &[&str]| text(template, marks);
        all.push((format, text_of(&[])));
        if matches!(format, ToolFormat::MistralArray | ToolFormat::MistralNamed) {
            all.push((format, text_of(&["[TOOL_CALLS]", "[ARGS]"])));
        }
    }
    all
}

fn functions() -> Vec<Function> {
    let function = |name: &str, parameters: Option<Value>| Function { name: name.into(), parameters, strict: true };
    vec![
        function(
            "get_weather",
            Some(json!({"type": "object", "properties": {
                "city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["C", "F"]}},
                "required": ["city", "unit"], "additionalProperties": false})),
        ),
        function("now", None),
        function(
            "sum",
            Some(json!({"properties": {"of": {"type": "array", "items": {"type": "integer"}, "maxItems": 3}},
            "required": ["of"], "additionalProperties": false})),
        ),
    ]
}

/// The calls and the text of an answer.
fn read(text: &Text, tokens: &[u32]) -> (Vec<(String, Value)>, String) {
    let names = functions().into_iter().map(|function| function.name).collect();
    let mut parser = ToolCallParser::new(text.chat_style().tools, names);
    let mut decoder = text.answer_decoder();
    let mut events: Vec<ToolCallEvent> = Vec::new();
    for &token in tokens {
        events.extend(parser.push(&decoder.push(token)));
    }
    events.extend(parser.finish());
    let (mut calls, mut content): (Vec<(String, String)>, String) = (Vec::new(), String::new());
    for event in events {
        match event {
            ToolCallEvent::Content(text) => content.push_str(&text),
            ToolCallEvent::Begin { name } => calls.push((name, String::new())),
            ToolCallEvent::Arguments(text) => calls.last_mut().unwrap().1.push_str(&text),
            ToolCallEvent::End => {}
        }
    }
    let parsed = |(name, text): (String, String)| {
        let value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        (name, value)
    };
    (calls.into_iter().map(parsed).collect(), content)
}

fn check_arguments(calls: &[(String, Value)]) {
    for (name, arguments) in calls {
        let function = functions().into_iter().find(|function| function.name == *name).expect("a declared function");
        let none = json!({"type": "object", "additionalProperties": false});
        let schema = function.parameters.unwrap_or(none);
        assert!(jsonschema::is_valid(&schema, arguments), "{arguments} by {schema}");
    }
}

#[test]
fn formats_are_told_from_templates() {
    for (index, (format, template)) in TEMPLATES.into_iter().enumerate() {
        let style = text(template, &[]).chat_style();
        assert_eq!((style.tools, style.knows_tools), (format, index < 4), "{template}");
    }
    assert_eq!(TEXT.chat_style().tools, ToolFormat::Tagged);
    assert!(TEXT.chat_style().knows_tools && TEXT.chat_style().reasoning.is_some());
    let xml = text("{{ tools }}<tool_call><function=name></tool_call>", &[]);
    assert!(!xml.chat_style().knows_tools, "its calls are not JSON, so they are asked for in our way");
}

#[test]
fn demanded_calls_come() {
    for (format, text) in texts() {
        for parallel in [true, false] {
            let grammar = text.tool_grammar(&functions(), &ToolOutput::Calls, parallel).unwrap();
            let rules = text.answer_rules(None, Body::Grammar(Box::new(grammar)));
            let (mut random, mut finished, mut most) = (Random(3), 0, 0);
            for _ in 0..25 {
                let (tokens, ended) = walk(&text, &rules, &mut random, 300);
                if !ended {
                    continue;
                }
                let (calls, content) = read(&text, &tokens);
                assert!(!calls.is_empty() && content.is_empty(), "{format:?}: {}", text.decode(&tokens, true));
                assert!(parallel || calls.len() == 1);
                check_arguments(&calls);
                finished += 1;
                most = most.max(calls.len());
            }
            assert!(finished >= 15, "{format:?}: {finished}");
            assert_eq!(most > 1, parallel && format != ToolFormat::Llama, "{format:?}");
        }
    }
}

#[test]
fn a_named_function_is_the_one_that_is_called() {
    for (_, text) in texts() {
        let grammar = text.tool_grammar(&functions()[2..], &ToolOutput::Calls, false).unwrap();
        let rules = text.answer_rules(None, Body::Grammar(Box::new(grammar)));
        let mut random = Random(5);
        let answers: Vec<(Vec<u32>, bool)> = (0..8).map(|_| walk(&text, &rules, &mut random, 200)).collect();
        for (tokens, _) in answers.iter().filter(|(_, ended)| *ended) {
            assert_eq!(read(&text, tokens).0[0].0, "sum");
        }
        assert!(answers.iter().any(|(_, ended)| *ended));
    }
}

/// Whether the rules allow `string`, written in the longest tokens allowed.
fn may_write(text: &Text, rules: &hesper::text::AnswerRules, string: &str) -> bool {
    let (mut constraint, mut last, mut rest) = (rules.begin(), None, string.as_bytes());
    let mut mask = vec![0; text.vocabulary_size().div_ceil(32)];
    loop {
        mask.fill(0);
        constraint.allowed(last, &mut mask).unwrap();
        let choices = allowed(&mask);
        if rest.is_empty() {
            return choices.iter().any(|token| text.stop_tokens().contains(token));
        }
        let bytes = |token: u32| text.token_bytes(token);
        let fits = |token: &u32| !bytes(*token).is_empty() && rest.starts_with(&bytes(*token));
        let Some(token) = choices.into_iter().filter(fits).max_by_key(|token| bytes(*token).len()) else {
            return false;
        };
        rest = &rest[bytes(token).len()..];
        last = Some(token);
    }
}

#[test]
fn strict_calls_may_stand_behind_text() {
    let call = |name: &str, key: &str, arguments: &str| format!("{{\"name\": \"{name}\", \"{key}\": {arguments}}}");
    for (format, text) in texts() {
        let write = |name: &str, arguments: &str| match format {
            ToolFormat::Tagged => format!("<tool_call>\n{}\n</tool_call>", call(name, "arguments", arguments)),
            ToolFormat::Llama => call(name, "parameters", arguments),
            ToolFormat::MistralArray => format!("[TOOL_CALLS][{}]", call(name, "arguments", arguments)),
            ToolFormat::MistralNamed => format!("[TOOL_CALLS]{name}[ARGS]{arguments}"),
        };
        let before = if format == ToolFormat::Llama { "" } else { "Let me see.\n" };
        let grammar = text.tool_grammar(&functions(), &ToolOutput::Text, true).unwrap();
        let rules = text.answer_rules(None, Body::Grammar(Box::new(grammar)));
        for yes in [
            "Oslo < 3 {it is}.\nYes, <tool is>.".to_owned(),
            write("now", "{}"),
            format!("{before}{}", write("sum", "{\"of\": [1, 2]}")),
        ] {
            assert!(may_write(&text, &rules, &yes), "{format:?}: {yes}");
        }
        for no in [
            format!("{before}{}", write("sum", "{\"of\": [1.5]}")),
            format!("{before}{}", write("other", "{}")),
            write("now", "{\"zone\": 1}"),
            write("sum", "{}"),
        ] {
            assert!(!may_write(&text, &rules, &no), "{format:?}: {no}");
        }
        let json = ToolOutput::Json(json!({"type": "object", "properties": {"a": {"type": "null"}},
            "required": ["a"], "additionalProperties": false}));
        let marked = text.tokenizer().control_id("[TOOL_CALLS]").is_some();
        let grammar = text.tool_grammar(&functions(), &json, true);
        if format != ToolFormat::Tagged && !marked {
            assert!(grammar.unwrap_err().to_string().contains("JSON"));
            continue;
        }
        let grammar = grammar.unwrap();
        let rules = text.answer_rules(None, Body::Grammar(Box::new(grammar)));
        assert!(may_write(&text, &rules, "{\"a\": null}") && may_write(&text, &rules, &write("now", "{}")));
        assert!(!may_write(&text, &rules, "{\"a\": 1}") && !may_write(&text, &rules, "plain"));
    }
}

#[test]
fn tools_reach_templates_that_know_none() {
    let source = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}";
    let text = text(source, &[]);
    let tools = [json!({"type": "function", "function": {"name": "now", "description": "The time"}})];
    let messages = [
        json!({"role": "user", "content": "What time is it?"}),
        json!({"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "type": "function",
            "function": {"name": "now", "arguments": "{\"zone\": \"CET\"}"}}]}),
        json!({"role": "tool", "tool_call_id": "c1", "content": "12:30"}),
        json!({"role": "tool", "tool_call_id": "c2", "content": "half past"}),
    ];
    insta::assert_snapshot!(text.render_tool_chat(&Chat { tools: &tools, ..Chat::new(&messages) }).unwrap());
    // Without tools nothing is said of them.
    let plain = text.render_tool_chat(&Chat::new(&messages[..1])).unwrap();
    assert_eq!(plain, "[user] What time is it?\n");
}

fn reasoning(start: ReasoningStart, budget: Option<u32>) -> Option<ReasoningRules> {
    Some(ReasoningRules { tags: TEXT.chat_style().reasoning.unwrap(), start, budget })
}

/// Reasoning and the rest of an answer, and its tokens of reasoning.
fn split(tokens: &[u32], start: ReasoningStart) -> (String, String) {
    let mut parser = ReasoningParser::new(TEXT.chat_style().reasoning.unwrap(), start);
    let mut decoder = TEXT.answer_decoder();
    let (mut thoughts, mut rest) = (String::new(), String::new());
    for part in tokens.iter().map(|&token| parser.push(&decoder.push(token))).collect::<Vec<_>>() {
        thoughts.push_str(&part.reasoning);
        rest.push_str(&part.text);
    }
    let part = parser.finish();
    (thoughts + &part.reasoning, rest + &part.text)
}

#[test]
fn constraints_begin_behind_the_reasoning_and_budgets_close_it() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["a"], "additionalProperties": false});
    let grammar = TEXT.grammars().unwrap().compile(&hesper::text::Grammar::Json(schema.clone())).unwrap();
    let close = TEXT.tokenizer().id_of("</think>").unwrap();
    let open = TEXT.tokenizer().id_of("<think>").unwrap();
    let mut random = Random(11);
    for (start, budget) in [
        (ReasoningStart::Open, Some(5)),
        (ReasoningStart::Open, Some(0)),
        (ReasoningStart::MayOpen, Some(7)),
        (ReasoningStart::MayOpen, Some(0)),
        (ReasoningStart::Closed, Some(5)),
    ] {
        let rules = TEXT.answer_rules(reasoning(start, budget), Body::Grammar(Box::new(grammar.clone())));
        let mut thought = 0;
        for _ in 0..20 {
            let (tokens, ended) = walk(&TEXT, &rules, &mut random, 120);
            assert!(ended, "{start:?} {budget:?}: {}", TEXT.decode(&tokens, true));
            let (reasoning, rest) = split(&tokens, start);
            let value: Value = serde_json::from_str(&rest).unwrap_or_else(|error| panic!("{error}: {rest:?}"));
            assert!(jsonschema::is_valid(&schema, &value), "{rest}");
            let inside = tokens.iter().position(|token| *token == close);
            let begin = usize::from(tokens.first() == Some(&open));
            // Within the tags, and the line's end that closing puts before the last.
            let spent = inside.map_or(0, |end| end - begin);
            assert!(spent <= budget.unwrap() as usize + 1, "{spent}: {}", TEXT.decode(&tokens, true));
            assert_eq!(inside.is_some(), start == ReasoningStart::Open || begin == 1);
            assert!(budget != Some(0) || reasoning.is_empty());
            thought += usize::from(!reasoning.is_empty());
        }
        assert!(
            (thought > 0) == (start == ReasoningStart::Open && budget == Some(5)) || start == ReasoningStart::MayOpen
        );
    }
}

#[test]
fn a_budget_closes_reasoning_before_free_text() {
    let rules = TEXT.answer_rules(reasoning(ReasoningStart::MayOpen, Some(3)), Body::Free);
    assert!(!rules.is_free());
    assert!(TEXT.answer_rules(reasoning(ReasoningStart::MayOpen, None), Body::Free).is_free());
    let ids = |text: &str| TEXT.encode(text, true);
    let mut constraint = rules.begin();
    let mut mask = vec![0; TEXT.vocabulary_size().div_ceil(32)];
    let mut written: Vec<u32> = Vec::new();
    let wanted = [ids("<think>"), ids("abcdefgh")].concat();
    for step in 0..12 {
        mask.fill(0);
        let masked = constraint.allowed(written.last().copied(), &mut mask).unwrap();
        let token = if masked { allowed(&mask)[0] } else { *wanted.get(step).unwrap_or(&wanted[1]) };
        assert!(!masked || allowed(&mask).len() == 1);
        written.push(token);
    }
    let text = TEXT.decode(&written, true);
    let expected: Vec<u32> = wanted[..4].to_vec();
    assert!(text.starts_with(&format!("{}\n</think>\n\n", TEXT.decode(&expected, true))), "{text}");
    // No thought at all: the tag itself is forbidden.
    let none = TEXT.answer_rules(reasoning(ReasoningStart::MayOpen, Some(0)), Body::Free);
    mask.fill(0);
    assert!(none.begin().allowed(None, &mut mask).unwrap());
    assert_eq!(allowed(&mask).len(), TEXT.vocabulary_size() - 1);
    assert!(!allowed(&mask).contains(&ids("<think>")[0]));
}
