//! Chat templates against transformers' renders, stored by scripts/fixtures/text/templates.py, most of which are
//! llama.cpp's too; errors, dates and bounds.

use hesper::gguf::Gguf;
use hesper::text::{Chat, ChatTemplate, TemplateError, Text, Vocabulary};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::fs::read_to_string;
use std::time::{Duration, UNIX_EPOCH};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/text");
const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/hesper-demo-Q8_0.gguf");

#[derive(Deserialize)]
struct StoredChat {
    name: String,
    messages: Vec<Value>,
    #[serde(default)]
    tools: Vec<Value>,
    add_generation_prompt: Option<bool>,
    variables: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
struct Render {
    template: String,
    chat: String,
    prompt: Option<String>,
    refused: Option<String>,
    llama_cpp: bool,
}

fn read<T: serde::de::DeserializeOwned>(file: &str) -> Vec<T> {
    serde_json::from_str(&read_to_string(format!("{FIXTURES}/{file}")).unwrap()).unwrap()
}

fn demo() -> Vocabulary {
    Vocabulary::from_gguf(&Gguf::open(DEMO).unwrap()).unwrap()
}

/// The demo model's tokens with one of the stored templates.
fn text_with(template: &str) -> Text {
    let chat_template = match template {
        "demo" => return Text::new(&demo()).unwrap(),
        name => Some(read_to_string(format!("{FIXTURES}/templates/{name}")).unwrap()),
    };
    Text::new(&Vocabulary { chat_template, ..demo() }).unwrap()
}

#[test]
fn prompts_are_those_of_transformers() {
    let chats: HashMap<String, StoredChat> =
        read::<StoredChat>("chats.json").into_iter().map(|chat| (chat.name.clone(), chat)).collect();
    let renders: Vec<Render> = read("renders.json");
    let mut texts: HashMap<&str, Text> = HashMap::new();
    for render in &renders {
        let text = texts.entry(&render.template).or_insert_with(|| text_with(&render.template));
        let chat = &chats[&render.chat];
        let found = text.render_chat(&Chat {
            tools: &chat.tools,
            add_generation_prompt: chat.add_generation_prompt.unwrap_or(true),
            variables: chat.variables.as_ref(),
            ..Chat::new(&chat.messages)
        });
        let place = format!("{} / {}", render.template, render.chat);
        match (&render.prompt, &render.refused) {
            (Some(prompt), None) => assert_eq!(found.as_ref(), Ok(prompt), "{place}"),
            (None, Some(message)) => assert_eq!(found, Err(TemplateError::Refused(message.clone())), "{place}"),
            _ => assert!(matches!(found, Err(TemplateError::Failed(_))), "{place}: {found:?}"),
        }
    }
    assert_eq!(renders.len(), texts.len() * chats.len());
    let shared = renders.iter().filter(|render| render.llama_cpp).count();
    assert!(shared >= 80, "only {shared} renders are llama.cpp's too");
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, None, "<s>", "</s>").unwrap()
}

fn question() -> Vec<Value> {
    vec![json!({"role": "user", "content": "Hello"})]
}

#[test]
fn a_missing_or_faulty_template_is_reported_when_it_is_used() {
    let text = Text::new(&Vocabulary { chat_template: None, ..demo() }).unwrap();
    assert_eq!(text.render_chat(&Chat::new(&question())), Err(TemplateError::Missing));
    let text = Text::new(&Vocabulary { chat_template: Some("{% if %}".into()), ..demo() }).unwrap();
    let error = text.render_chat(&Chat::new(&question())).unwrap_err();
    assert!(
        matches!(&error, TemplateError::Syntax(message) if message.contains("line 1") || message.contains(":1")),
        "{error}"
    );
    assert!(matches!(ChatTemplate::new("{{ x", None, "", ""), Err(TemplateError::Syntax(_))));
}

#[test]
fn dates_are_pythons() {
    let now = UNIX_EPOCH + Duration::from_millis(1_709_210_705_250);
    for (format, expected) in [
        ("%d %b %Y", "29 Feb 2024"),
        ("%Y-%m-%d", "2024-02-29"),
        ("%A, %B %d, %Y", "Thursday, February 29, 2024"),
        ("%H:%M:%S", "12:45:05"),
        ("%a %-d/%-m/%y %I %p %j %%", "Thu 29/2/24 12 PM 060 %"),
    ] {
        let source = format!("{{{{ strftime_now('{format}') }}}}");
        assert_eq!(template(&source).render(&Chat { now, ..Chat::new(&[]) }), Ok(expected.to_owned()), "{format}");
    }
    let wrong = template("{{ strftime_now('%!') }}").render(&Chat::new(&[]));
    assert!(matches!(wrong, Err(TemplateError::Failed(_))), "{wrong:?}");
}

#[test]
fn the_tool_use_template_serves_chats_with_tools() {
    let both = ChatTemplate::new("plain", Some("{{ tools[0].function.name }}"), "", "").unwrap();
    let tools = [json!({"type": "function", "function": {"name": "get_time"}})];
    assert_eq!(both.render(&Chat::new(&question())).unwrap(), "plain");
    assert_eq!(both.render(&Chat { tools: &tools, ..Chat::new(&question()) }).unwrap(), "get_time");
}

#[test]
fn variables_do_not_replace_the_chat() {
    let variables = json!({"messages": [], "bos_token": "x", "mode": "fast", "tools": 1});
    let chat_of = |source: &str| {
        let variables = variables.as_object();
        template(source).render(&Chat { variables, ..Chat::new(&question()) }).unwrap()
    };
    assert_eq!(chat_of("{{ messages|length }}{{ bos_token }}{{ tools }}{{ mode }}"), "1<s>Nonefast");
}

#[test]
fn messages_reach_templates_in_their_shape() {
    let messages = [
        json!({"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}),
        json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}),
        json!({"role": "assistant", "content": null, "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"z\": 1, \"a\": 2.0}"}},
            {"id": "2", "type": "function", "function": {"name": "g", "arguments": "not JSON"}},
        ]}),
    ];
    let prompt = template("{{ messages | tojson }}").render(&Chat::new(&messages)).unwrap();
    assert_eq!(
        prompt,
        r#"[{"role": "system", "content": "a\nb"}, {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {"z": 1, "a": 2.0}}}, {"id": "2", "type": "function", "function": {"name": "g", "arguments": "not JSON"}}]}]"#
    );
    let knows = template("{# developer #}{{ messages[0].role }}").render(&Chat::new(&messages)).unwrap();
    assert_eq!(knows, "developer");
}

#[test]
fn refusals_are_found_wherever_they_are_raised() {
    for source in [
        "{{ raise_exception('no') }}",
        "{% macro f() %}{{ raise_exception('no') }}{% endmacro %}{{ f() }}",
        "{% for m in messages %}{% set x = raise_exception('no') %}{% endfor %}",
    ] {
        let found = template(source).render(&Chat::new(&question()));
        assert_eq!(found, Err(TemplateError::Refused("no".into())), "{source}");
    }
}

#[test]
fn hostile_templates_end() {
    for source in [
        "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for a in range(9999) %}{{ 'x' * 20000 }}{% endfor %}",
        "{% set ns = namespace(x=[]) %}{% for a in range(5000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x | tojson }}",
        "{{ 'x' * 99999999999 }}",
        "{{ messages[0].content.content.content }}",
        "{{ 1 // 0 }}",
        "{{ {} | tojson(indent=99999999999) }}{{ [1] | tojson(indent=99999999999, nonsense=1) }}",
        "{% include 'chat_template' %}",
        "{% extends 'chat_template' %}",
        "{{ self.x() }}",
    ] {
        let found = template(source).render(&Chat::new(&question()));
        assert!(matches!(found, Err(TemplateError::Failed(_))), "{source}: {:?}", found.map(|prompt| prompt.len()));
    }
    let nested = format!("{}1{}", "(".repeat(10_000), ")".repeat(10_000));
    let refused = ChatTemplate::new(&format!("{{{{ {nested} }}}}"), None, "", "");
    assert!(matches!(refused, Err(TemplateError::Syntax(_))), "{refused:?}");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_template_renders_or_fails(parts in proptest::collection::vec(fragment(), 0..12)) {
        if let Ok(template) = ChatTemplate::new(&parts.concat(), None, "<s>", "</s>") {
            let _ = template.render(&Chat::new(&question()));
        }
    }

    #[test]
    fn any_content_passes_through_unchanged(content in proptest::prelude::any::<String>()) {
        let messages = [json!({"role": "user", "content": content})];
        let shown = template("{{ messages[0].content }}|{{ messages[0] | tojson }}").render(&Chat::new(&messages)).unwrap();
        let (plain, json) = shown.split_at(content.len());
        proptest::prop_assert_eq!(plain, content.as_str());
        let parsed: Value = serde_json::from_str(&json[1..]).unwrap();
        proptest::prop_assert_eq!(&parsed, &messages[0]);
    }
}

fn fragment() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    let known = [
        "{%",
        "%}",
        "{{",
        "}}",
        "{#",
        "#}",
        "-",
        " if ",
        " else ",
        " endif ",
        " for m in messages ",
        " endfor ",
        " set x = ",
        "messages",
        "[0]",
        "[::-1]",
        ".content",
        "|tojson",
        "|length",
        "(",
        ")",
        "'a'",
        "generation",
        "endgeneration",
        " 1 ",
        " macro f(x) ",
        " endmacro ",
        "f(1)",
        "namespace(a=1)",
        "raise_exception('x')",
        "\n",
        " in ",
        " is defined ",
        "~",
        "*",
    ];
    prop_oneof![8 => prop::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => any::<String>()]
}
