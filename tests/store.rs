//! The store of clients' records: order, bounds, owners, and a file that outlives whoever wrote it.

use hesper::store::{FILE, Head, Kind, Limits, Query, Store, StoreError};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::{fs, path::Path, process::Command};

const SMALL: Limits = Limits { records: 4, bytes: 4000 };

fn head(id: &str, owner: &str) -> Head {
    let (id, owner) = (id.to_owned(), owner.to_owned());
    Head { kind: Kind::ChatCompletion, id, owner, model: "m".into(), metadata: Map::new(), bytes: 0 }
}

fn ids(store: &Store, owner: &str, query: Query) -> Vec<String> {
    let page = store.list(Kind::ChatCompletion, owner, &query).unwrap().unwrap();
    page.records.into_iter().map(|record| record.head.id).collect()
}

fn all() -> Query {
    Query { limit: 100, ..Query::default() }
}

fn with(limits: Limits, names: &[&str]) -> Store {
    let store = Store::in_memory(limits).unwrap();
    for name in names {
        store.put(head(name, "o"), &json!({"name": name})).unwrap();
    }
    store
}

#[test]
fn the_oldest_go_first() {
    let store = with(SMALL, &["a", "b", "c", "d", "e"]);
    assert_eq!(ids(&store, "o", all()), ["b", "c", "d", "e"]);
    assert_eq!(store.get(Kind::ChatCompletion, "o", "a").unwrap(), None);
    store.put(head("big", "o"), &json!("x".repeat(3700))).unwrap();
    assert_eq!(ids(&store, "o", all()).last().unwrap(), "big");
    let (records, bytes) = store.size();
    assert!(records < 4 && bytes <= SMALL.bytes, "{records} {bytes}");
    let error = store.put(head("huge", "o"), &json!("x".repeat(5000))).unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { limit: 4000, .. }), "{error}");
    assert_eq!(ids(&store, "o", all()).last().unwrap(), "big", "what does not fit pushes nothing out");
}

#[test]
fn a_record_is_its_owners_alone() {
    let store = with(SMALL, &["a"]);
    let kind = Kind::ChatCompletion;
    assert_eq!(store.get(kind, "o", "a").unwrap().unwrap().body, json!({"name": "a"}));
    assert_eq!(store.get(kind, "p", "a").unwrap(), None);
    assert_eq!(store.get(Kind::Response, "o", "a").unwrap(), None);
    assert_eq!(store.set_metadata(kind, "p", "a", Map::new()).unwrap(), None);
    assert!(!store.delete(kind, "p", "a").unwrap());
    assert_eq!(store.list(kind, "p", &Query { after: Some("a".into()), ..all() }).unwrap(), None);
    assert!(ids(&store, "p", all()).is_empty());
    assert!(store.delete(kind, "o", "a").unwrap() && !store.delete(kind, "o", "a").unwrap());
    assert_eq!(store.size(), (0, 0));
}

#[test]
fn lists_are_paged_both_ways_and_filtered() {
    let store = with(Limits::MEMORY, &["a", "b", "c", "d"]);
    let metadata: Map<String, Value> = [("k".to_owned(), json!("v"))].into_iter().collect();
    let changed = store.set_metadata(Kind::ChatCompletion, "o", "c", metadata).unwrap().unwrap();
    assert_eq!(changed.head.metadata["k"], "v");
    let page = |after: Option<&str>, limit, descending| {
        let query = Query { after: after.map(Into::into), limit, descending, ..Query::default() };
        let page = store.list(Kind::ChatCompletion, "o", &query).unwrap().unwrap();
        let ids: String = page.records.into_iter().map(|record| record.head.id).collect();
        (ids, page.has_more)
    };
    assert_eq!(page(None, 2, false), ("ab".into(), true));
    assert_eq!(page(Some("b"), 2, false), ("cd".into(), false));
    assert_eq!(page(None, 3, true), ("dcb".into(), true));
    assert_eq!(page(Some("b"), 3, true), ("a".into(), false));
    assert_eq!(page(Some("d"), 3, false), (String::new(), false));
    let filtered = |name: &str, value: &str| {
        ids(&store, "o", Query { metadata: vec![(name.to_owned(), value.to_owned())], ..all() })
    };
    assert_eq!((filtered("k", "v"), filtered("k", "w")), (vec!["c".to_owned()], vec![]));
    assert!(ids(&store, "o", Query { model: Some("other".into()), ..all() }).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    /// Against a plain list: what is put, replaced and deleted is there in order, within the bounds.
    #[test]
    fn it_is_as_a_bounded_list(work in prop::collection::vec((0..6u8, 0..600usize, any::<bool>()), 1..30)) {
        let store = Store::in_memory(SMALL).unwrap();
        let mut list: Vec<(String, usize)> = Vec::new();
        for (name, size, delete) in work {
            let id = name.to_string();
            let at = list.iter().position(|(other, _)| *other == id);
            if let Some(at) = at {
                list.remove(at);
            }
            if delete {
                prop_assert_eq!(store.delete(Kind::ChatCompletion, "o", &id).unwrap(), at.is_some());
            } else {
                store.put(head(&id, "o"), &json!("x".repeat(size))).unwrap();
                list.push((id, size));
                list.drain(..list.len().saturating_sub(4));
            }
            let expected: Vec<&str> = list.iter().map(|(id, _)| id.as_str()).collect();
            prop_assert_eq!(ids(&store, "o", all()), expected);
            prop_assert_eq!(store.size().0, list.len() as u64);
        }
    }
}

#[test]
fn a_file_keeps_records_for_the_next_process() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("a/b");
    let store = Store::open(&inner, SMALL).unwrap();
    store.put(head("a", "o"), &json!({"x": 1})).unwrap();
    let size = store.size();
    let error = Store::open(&inner, SMALL).unwrap_err();
    assert!(matches!(error, StoreError::Locked(_)), "{error}");
    drop(store);
    let store = Store::open(&inner, SMALL).unwrap();
    assert_eq!(store.size(), size);
    assert_eq!(store.get(Kind::ChatCompletion, "o", "a").unwrap().unwrap().body, json!({"x": 1}));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&inner), mode(&inner.join(FILE))), (0o700, 0o600));
    }
}

/// Writes until it is killed, and says what is on the disk; run by the test below, as a process of its own.
#[test]
fn writer() {
    let Some(folder) = std::env::var_os("HESPER_TEST_STORE") else { return };
    let store = Store::open(Path::new(&folder), Limits::FILE).unwrap();
    for number in 0..100_000 {
        store.put(head(&number.to_string(), "o"), &json!("x".repeat(number % 5000))).unwrap();
        eprintln!("kept {number}");
    }
}

#[test]
fn what_was_put_before_a_kill_is_there_after_it() {
    use std::io::{BufRead, BufReader};
    let folder = tempfile::tempdir().unwrap();
    let mut last = -1;
    for round in 1..=3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer", "--nocapture"])
            .env("HESPER_TEST_STORE", folder.path())
            .stderr(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        for line in lines.by_ref().take(round * 40) {
            last = line.unwrap().strip_prefix("kept ").expect("the writer's line").parse().unwrap();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it wrote between the last line read and its end.
        for line in lines.map_while(Result::ok) {
            last = line.strip_prefix("kept ").map_or(last, |number| number.parse().unwrap_or(last));
        }
        let store = Store::open(folder.path(), Limits::FILE).unwrap();
        for number in 0..=last {
            let record = store.get(Kind::ChatCompletion, "o", &number.to_string()).unwrap().expect("it was kept");
            assert_eq!(record.body, json!("x".repeat(number as usize % 5000)));
        }
    }
    assert!(last >= 100);
}

/// Whatever happened to the file: it opens with sound records, or one error says so.
#[test]
fn a_damaged_file_is_one_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), Limits::FILE).unwrap();
    for number in 0..40 {
        store.put(head(&number.to_string(), "o"), &json!("x".repeat(number * 100))).unwrap();
    }
    drop(store);
    let path = folder.path().join(FILE);
    let whole = fs::read(&path).unwrap();
    let (mut damaged, mut sound) = (0, 0);
    let mut check = |bytes: &[u8], must_fail: bool| {
        fs::write(&path, bytes).unwrap();
        match Store::open(folder.path(), Limits::FILE) {
            Ok(store) => {
                assert!(!must_fail);
                for record in store.list(Kind::ChatCompletion, "o", &all()).unwrap().unwrap().records {
                    let number: usize = record.head.id.parse().unwrap();
                    assert_eq!(record.body, json!("x".repeat(number * 100)));
                }
                sound += 1;
            }
            Err(error @ StoreError::Damaged { .. }) => {
                assert!(error.to_string().contains("move it away"), "{error}");
                damaged += 1;
            }
            Err(other) => panic!("{other}"),
        }
    };
    check(b"not a database at all, but long enough to be read as one".repeat(200).as_slice(), true);
    check(&whole[..whole.len() / 3], true);
    check(&vec![0; whole.len()], true);
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap();
    for step in 0..150 {
        let mut bytes = whole.clone();
        let at = step * used / 150;
        bytes[at] ^= 1 << (step % 8);
        check(&bytes, false);
    }
    check(&whole, false);
    assert!(damaged > 3 && sound > 1, "{damaged} {sound}");
}
