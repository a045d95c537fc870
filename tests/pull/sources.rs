//! Files as sources, the folder's commands, and names where other commands take models.

use super::server::{Content, Server};
use super::{Models, assert_holds, fail, succeed};

const DEMO: &str = "models/hesper-demo-Q8_0.gguf";

#[test]
fn a_file_is_copied_and_known_by_name() {
    let models = Models::new();
    assert_holds(&succeed(models.hesper(&["list"])).0, &["holds no model", "hesper pull hf://"]);
    let (printed, _) = succeed(models.pull(DEMO));
    assert_holds(&printed, &["Pulled hesper-demo-Q8_0", "computed here; the source states none"]);
    let original = std::fs::read(DEMO).expect("the demo model");
    assert!(std::fs::read(models.path("hesper-demo-Q8_0.gguf")).expect("a copy") == original);
    assert_holds(&succeed(models.pull(DEMO)).0, &["there and unchanged"]);

    let by_path = succeed(models.hesper(&["tokenize", "-m", DEMO, "Hello"])).0;
    for name in ["hesper-demo-Q8_0", "hesper-demo-Q8_0.gguf"] {
        assert_eq!(succeed(models.hesper(&["tokenize", "-m", name, "Hello"])).0, by_path);
        assert_holds(&succeed(models.hesper(&["inspect", name])).0, &["general.architecture"]);
        assert_holds(&succeed(models.hesper(&["plan", "-m", name])).0, &["dispatches"]);
    }
    let mut file = models.pull(DEMO);
    file.args(["--name", "other", "--sha256", &"0".repeat(64)]);
    assert_holds(&fail(file), &["SHA-256", "is removed"]);
    let list = succeed(models.hesper(&["list", "--json"])).0;
    let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
    assert_eq!(list[0]["name"], "hesper-demo-Q8_0");
    assert_eq!(list[0]["bytes"], original.len());
    assert_eq!((&list[0]["complete"], list.as_array().map(Vec::len)), (&true.into(), Some(1)));
    assert_holds(&succeed(models.hesper(&["rm", "hesper-demo-Q8_0"])).0, &["Removed hesper-demo-Q8_0"]);
    assert_eq!(models.files(), Vec::<String>::new());
}

#[test]
fn an_unknown_name_is_answered_with_what_there_is() {
    let models = Models::new();
    let unknown = |text: &str| fail(models.hesper(&["tokenize", "-m", text, "x"]));
    assert_holds(
        &unknown("qwen"),
        &["no model named \"qwen\"", "holds no model", "`hesper pull hf://OWNER/REPOSITORY`"],
    );
    std::fs::copy(DEMO, models.path("qwen3.gguf")).expect("a copy");
    assert_holds(&unknown("qwen"), &["holds qwen3", "did you mean qwen3?"]);
    assert_holds(&unknown("hf://a/b:Q8_0"), &["`hesper pull hf://a/b:Q8_0` gets it"]);
    assert_holds(&unknown("ftp://a"), &["not a model's source", "ftp://"]);
    assert_holds(&unknown("folder/qwen3"), &["cannot open folder/qwen3", "check the path"]);
    // A file that a user put there has a name, too.
    succeed(models.hesper(&["tokenize", "-m", "qwen3", "x"]));
    assert_holds(&succeed(models.hesper(&["list"])).0, &["qwen3", "put there as a file"]);
    assert_holds(&fail(models.pull("./qwen3.gguf")), &["qwen3.gguf", "check the path"]);
    let mut over = models.pull(DEMO);
    over.args(["--name", "qwen3"]);
    assert_holds(&fail(over), &["qwen3 is there already", "other means", "--name"]);
}

#[test]
fn names_never_leave_the_folder() {
    let models = Models::new();
    for name in ["../x", "/tmp/x", "a/b", ".hidden", "x-00001-of-00002", "NUL"] {
        let mut command = models.pull(DEMO);
        command.args(["--name", name]);
        assert_holds(&fail(command), &["cannot be a model's name"]);
    }
    for name in ["..", "../x", ".", "/etc/passwd"] {
        assert_holds(&fail(models.hesper(&["rm", name])), &["no model named"]);
    }
    let server = Server::of(&Content::new(100, 1));
    for path in ["/..%2f..%2fx.gguf", "/.gguf", "/a%00.gguf", "/"] {
        assert_holds(&fail(models.pull(&server.url(path))), &["cannot be a model's name"]);
    }
    assert_eq!(models.files(), Vec::<String>::new());
}

#[test]
fn split_models_at_http_and_on_disk_come_whole() {
    let (models, copy) = (Models::new(), Models::new());
    let parts = [Content::new(2 << 20, 1), Content::new(1 << 20, 2)];
    let files = parts.clone();
    let server = Server::start(move |request| {
        let part = &files[usize::from(request.path.contains("m-00002"))];
        super::server::Reply::file(request, part).with("etag", "\"one\"")
    });
    succeed(models.pull(&server.url("/m-00001-of-00002.gguf")));
    let names = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "m.hesper.json"];
    assert_eq!(models.files(), names);
    let first = models.path(names[0]);
    succeed(copy.pull(first.to_str().expect("a plain path")));
    assert_eq!(copy.files(), names);
    for (file, part) in names.iter().zip(&parts) {
        super::assert_content(&copy.path(file), part);
    }
    std::fs::remove_file(models.path(names[1])).expect("it is there");
    let missing = Models::new();
    assert_holds(&fail(missing.pull(first.to_str().expect("a plain path"))), &[names[1], "No such file"]);
}
