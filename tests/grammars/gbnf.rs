//! llama.cpp's grammars, regular expressions, choices and Lark.

use crate::walk::{TEXT, allows, rules, texts};
use hesper::text::Grammar;
use serde_json::Value;

fn gbnf(source: &str) -> Grammar {
    let grammar = Grammar::of_text(source.to_owned());
    assert!(matches!(grammar, Grammar::Gbnf(_)));
    grammar
}

/// Texts that a grammar allows and texts that it does not.
fn check(grammar: &Grammar, yes: &[&str], no: &[&str]) {
    for text in yes {
        assert!(allows(&TEXT, grammar, text), "{text:?} by {grammar:?}");
    }
    for text in no {
        assert!(!allows(&TEXT, grammar, text), "{text:?} by {grammar:?}");
    }
}

/// JSON, written as llama.cpp's own grammar for it is: whitespace behind every value.
const JSON: &str = r#"
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"#;

/// Sums, in which a line's end both ends a term's whitespace and the term.
const SUMS: &str = r#"
root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*
"#;

const CHESS: &str = r#"
# one game
root ::= (
    "1. " move " " move "\n"
    ([1-9] [0-9]? ". " move " " move "\n")+
)
move ::= (pawn | nonpawn | castle) [+#]?
pawn ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
castle ::= "O-O" "-O"?
"#;

#[test]
fn json_by_its_grammar() {
    let grammar = gbnf(JSON);
    check(
        &grammar,
        &["{}", r#"{"a": [1, -2.5e+3, "x\"\u00e9 y", true, null] }"#, "{\n    \"a\":{}}", "{\"é🦤\":0}"],
        &["[]", r#"{"a"}"#, r#"{"a":01.}"#, "{\"a\":\"\n\"}", "{  }", r#"{"a":"\x"}"#, "", "{"],
    );
    let written = texts(&TEXT, &grammar, 30, 200);
    assert!(written.len() >= 20, "{}", written.len());
    for text in written {
        let value: Result<Value, _> = serde_json::from_str(&text);
        assert!(value.is_ok() || text.contains("00") || text.contains("\\ud"), "{text}");
    }
}

#[test]
fn grammars_mean_what_they_mean_to_llama_cpp() {
    check(
        &gbnf(SUMS),
        &["1=1\n", "a+b*(c -2) = x_1\n", "1 =\n2\n\n", "1=2\n3=4\n"],
        &["1=1", "1+=2\n", "=1\n", "A=1\n", "(1=1\n"],
    );
    check(
        &gbnf(CHESS),
        &["1. e4 e5\n2. Nf3 Nc6\n", "1. O-O O-O-O+\n12. axb8=Q# Ra1xa8\n"],
        &["1. e4 e5\n", "1. e9 e5\n2. a1 a1\n"],
    );
    check(
        &gbnf("root ::= (\"- \" item)+\nitem ::= [^\\n\\x0b]+ \"\\n\""),
        &["- one\n", "- ä\n- b, c\n"],
        &["-one\n", "- \n", "- a"],
    );
    check(&gbnf("root ::= [ぁ-ゟ]+ (\"、\" [ぁ-ゟ]+)*"), &["ひらがな", "あ、い"], &["カ", "あ、", ""]);
    // A text may begin with another, and the longest lexeme is not always the right one.
    check(
        &gbnf("root ::= list\nlist ::= (\"a\" | \"ab\") (\"bc\" | \"c\") (\";\" list)?"),
        &["abc", "ac", "abbc;ac"],
        &["ab", "abcc"],
    );
    check(
        &gbnf("root ::= a b tail?\ntail ::= \";\" root\na ::= [a-z]+\nb ::= [a-z] [0-9]"),
        &["xyz1", "ab2;cd3"],
        &["a1", "xy"],
    );
    check(&gbnf("root ::= \"(\" root? \")\""), &["()", "((()))"], &["(", "())"]);
    check(
        &gbnf("root ::= x{2} y{1,} z{0,2} w{3,4}\nx ::= \"x\"\ny ::= \"y\"\nz ::= \"z\"\nw ::= \"w\""),
        &["xxywww", "xxyyyzzwwww"],
        &["xywww", "xxyzzzwww", "xxyww"],
    );
    check(&gbnf("root ::= \"a\" empty \"b\" |\n  \"c\"\nempty ::="), &["ab", "c"], &["a", "d"]);
    check(&gbnf("root ::= \"a\"*"), &["", "aaa"], &["b"]);
    check(
        &gbnf("root ::= . \"\\u00e9\" [\\x41-\\U00000043] [a\\-z] [^\\]]"),
        &["🦤éB-x", "xéCzé"],
        &["éB-x", "xéDzx", "xéAbx", "xéAz]"],
    );
}

#[test]
fn tokens_are_named_in_both_ways() {
    let think = TEXT.tokenizer().id_of("<think>").unwrap();
    for source in [
        "root ::= <think> thought </think> \"4\"\nthought ::= !</think>+".to_owned(),
        format!("root ::= <[{think}]> thought </think> \"4\"\nthought ::= [^<]+"),
    ] {
        check(&gbnf(&source), &["<think>two and two</think>4"], &["4", "<think></think>4", "<think>x</think>5"]);
    }
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    for (source, says) in [
        ("root ::= x", "no rule `x`"),
        ("a ::= \"b\"", "no rule `root`"),
        ("root ::= \"a", "line 1: a closing `\"`"),
        ("root ::= \"x\"\nb ::= [a-", "line 2"),
        ("root ::= [z-a]", "empty"),
        ("root ::= \"a\"\nroot ::= \"b\"", "twice"),
        ("root ::= (\"a\"", "`)`"),
        ("root ::= \"a\"{3,1}", "{3,1}"),
        ("root ::= \"a\"{99999}", "99999"),
        ("root ::= root \"a\" | \"b\"", "begins with itself"),
        ("root ::= x root\nx ::= \"a\"?", "begins with itself"),
        ("root ::= \"\\q\"", "\\q"),
        ("root ::= \"\\ud800\"", "hexadecimal"),
        ("root ::= <nonsense>", "<nonsense>"),
        ("root ::= \"a\" ; \"b\"", "line end"),
        ("root ::= <[99999999]>", ""),
        (&format!("root ::= {}\"a\"{}", "(".repeat(40), ")".repeat(40)), "deeper"),
        ("root ::= [^\\x00-\\U0010FFFF]", "no character"),
    ] {
        let error = rules(&TEXT, &gbnf(source)).err().unwrap_or_else(|| panic!("{source:?} is taken"));
        assert!(error.to_string().contains(says), "{source:?}: {error}");
    }
}

#[test]
fn expressions_match_from_beginning_to_end() {
    let regex = |text: &str| Grammar::Regex(text.to_owned());
    check(&regex("[a-c]{2,3}/\\d+"), &["ab/1", "abc/123"], &["a/1", "ab/", "xab/1"]);
    check(&regex("^(yes|no)$"), &["yes", "no"], &["", "yesno"]);
    check(&regex("é+🦤?"), &["éé", "é🦤"], &["e", "🦤"]);
    let pattern = regex::Regex::new("^(?:[A-Z][a-z]{1,5} ?){1,3}[!?.]$").unwrap();
    let written = texts(&TEXT, &regex("([A-Z][a-z]{1,5} ?){1,3}[!?.]"), 40, 60);
    assert_eq!(written.len(), 40);
    written.iter().for_each(|text| assert!(pattern.is_match(text), "{text}"));
    for wrong in ["(", "[b-a]", "a{5,2}", "(?=x)y", "\\p{Nonsense}", ""] {
        assert!(rules(&TEXT, &regex(wrong)).is_err(), "{wrong}");
    }
}

#[test]
fn one_of_the_texts_comes() {
    let texts_of = |list: &[&str]| Grammar::Choice(list.iter().map(|&text| text.to_owned()).collect());
    let list = ["a", "ab", "a.c", "[x]", "two words\n", "ünï / 🦤"];
    check(&texts_of(&list), &list, &["", "b", "abc", "aXc", "x"]);
    let written = texts(&TEXT, &texts_of(&list), 60, 40);
    assert_eq!(written.len(), 60);
    assert!(list.iter().all(|text| written.iter().any(|found| found == text)), "{written:?}");
    assert!(rules(&TEXT, &texts_of(&[])).is_err());
}

#[test]
fn lark_is_taken_as_it_is() {
    let lark = |text: &str| Grammar::of_text(text.to_owned());
    let grammar = lark("start: \"sum \" NUMBER (\"+\" NUMBER)*\nNUMBER: /[0-9]+/\n");
    assert!(matches!(grammar, Grammar::Lark(_)));
    check(&grammar, &["sum 1", "sum 1+22"], &["sum", "sum 1+"]);
    check(&lark("start: %json {\"type\": \"boolean\"}"), &["true", "false"], &["1"]);
    for wrong in [
        "start: other",
        "rule: \"a\"",
        "start: \"a",
        "start: <nonsense>",
        "",
        "start: @other",
        "%import nonsense\nstart: \"a\"",
    ] {
        let outcome = rules(&TEXT, &lark(wrong));
        assert!(outcome.is_err(), "{wrong:?}");
    }
}

#[test]
fn grammars_that_nest_do_not_overflow() {
    let chain: String = (0..900).map(|i| format!("r{i} ::= \"a\" r{}\n", i + 1)).collect();
    let recursive: String = (0..900).map(|i| format!("r{i} ::= \"a\" r{} \"b\"\n", i + 1)).collect();
    let lark: String = (0..3900).map(|i| format!("r{i}: \"a\" r{}\n", i + 1)).collect();
    let tokens: String = (0..3900).map(|i| format!("T{i}: \"a\" T{}\n", i + 1)).collect();
    for grammar in [
        gbnf(&format!("root ::= r0\n{chain}r900 ::= \"b\"")),
        gbnf(&format!("root ::= r0\n{recursive}r900 ::= root | \"b\"")),
        Grammar::Lark(format!("start: r0\n{lark}r3900: \"b\"")),
        Grammar::Lark(format!("start: T0\n{tokens}T3900: \"b\"")),
        Grammar::Lark(format!("start: {}\"a\"{}", "(".repeat(20_000), ")".repeat(20_000))),
        Grammar::Regex(format!("{}a{}", "(".repeat(20_000), ")".repeat(20_000))),
        Grammar::Regex("(a|b|ab)*c".repeat(2000)),
    ] {
        let begin = std::time::Instant::now();
        let outcome = rules(&TEXT, &grammar);
        let compiled = begin.elapsed();
        let mut mask = vec![0; TEXT.vocabulary_size().div_ceil(32)];
        let first = outcome.map(|rules| rules.begin().allowed(None, &mut mask));
        println!("{compiled:?} {:?} {first:?}", begin.elapsed());
        assert!(begin.elapsed().as_secs() < 20);
    }
}
