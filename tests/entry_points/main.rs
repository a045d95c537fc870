//! Which Vulkan entry points a decoded token costs. Behind Venus every call is talk between two machines, and a synchronous
//! one a sleep; so a token is submissions and nothing else.

#![cfg(target_os = "linux")]

#[path = "../device/mod.rs"]
mod device;

use hesper::engine::pace::SILENCE;
use hesper::engine::queue::queue;
use hesper::engine::request::{Event, Request};
use hesper::engine::runner::{Options, Planned};
use hesper::engine::worker;
use hesper::gguf::Gguf;
use libloading::{Library, Symbol};
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_void};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// Most calls for a token, of any kind.
const CALLS_MAX: u64 = 4;
/// Tokens before and between the two looks at the counts.
const SETTLED: usize = 20;
const COUNTED: usize = 200;

type Each = unsafe extern "C" fn(unsafe extern "C" fn(*const c_char, u64, *mut c_void), *mut c_void);

/// The counting library, which cargo builds as an example beside the tests.
fn library_path() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let profile = test.parent().and_then(Path::parent).expect("target/PROFILE/deps/entry_points-…");
    let path = profile.join("examples/libcount_entry_points.so");
    assert!(path.exists(), "{} is missing: cargo test builds it, or cargo build --examples", path.display());
    path
}

/// Calls of each entry point since the library was opened.
fn counts(library: &Library) -> BTreeMap<String, u64> {
    unsafe extern "C" fn add(name: *const c_char, count: u64, state: *mut c_void) {
        // SAFETY: `state` is the map below, and the name a string that lives as long as the call.
        let (counts, name) = unsafe { (&mut *state.cast::<BTreeMap<String, u64>>(), CStr::from_ptr(name)) };
        *counts.entry(name.to_string_lossy().into_owned()).or_default() += count;
    }
    let mut counts = BTreeMap::new();
    // SAFETY: the library exports this function with this type.
    unsafe {
        let each: Symbol<Each> = library.get(b"hesper_count_each\0").expect("it is exported");
        each(add, (&raw mut counts).cast());
    }
    counts
}

#[test]
fn a_decoded_token_is_submissions_and_nothing_else() {
    let path = library_path();
    // SAFETY: no other thread of this process reads the environment yet: this is its only test.
    unsafe { std::env::set_var("HESPER_VULKAN_LIBRARY", &path) };
    // SAFETY: it is the library built for this test.
    let library = unsafe { Library::new(&path) }.expect("it opens");
    let Some(gpu) = device::gpu() else { return };
    let policy = device::policy(&gpu);
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/hesper-demo-Q8_0.gguf");
    let gguf = Gguf::open(model).expect("the demo model opens");
    let options = Options { context_tokens: Some(512), ..Options::alone(policy) };
    let planned = Planned::new(&gguf, &options).expect("it fits");
    let runner = planned.load(&gguf, Box::new(gpu), &mut |_| {}).expect("it is loaded");
    let loaded = counts(&library);
    assert!(loaded["vkCreateInstance"] > 0 && loaded["vkCmdDispatch"] > 0, "calls are not counted: {loaded:?}");

    let (handle, inbox) = queue(1);
    let engine = std::thread::spawn(move || worker::run(runner, inbox, SILENCE));
    let (events, mut answer) = mpsc::unbounded_channel();
    let request = Request { max_tokens: (SETTLED + COUNTED + 50) as u32, ..Request::new(vec![1, 2, 3], events) };
    handle.submit(request).expect("there is room");
    let mut until = |tokens: usize| {
        let mut seen = 0;
        while seen < tokens {
            match answer.blocking_recv() {
                Some(Event::Token { .. }) => seen += 1,
                Some(Event::Started { .. }) => {}
                other => panic!("{other:?} after {seen} tokens"),
            }
        }
        counts(&library)
    };
    let before = until(SETTLED);
    let after = until(COUNTED);
    drop(handle);
    drop(answer);
    engine.join().expect("the engine does not panic").expect("the device works");

    let called: BTreeMap<&str, u64> = after
        .iter()
        .map(|(name, count)| (name.as_str(), count - before.get(name).unwrap_or(&0)))
        .filter(|(_, calls)| *calls > 0)
        .collect();
    println!("{COUNTED} tokens: {called:?}");
    assert_eq!(called.keys().copied().collect::<Vec<_>>(), ["vkQueueSubmit"], "of {called:?}");
    // The engine may be ahead of what this thread has received.
    assert!(called["vkQueueSubmit"] <= CALLS_MAX * COUNTED as u64, "{called:?}");
    assert!(called["vkQueueSubmit"] >= COUNTED as u64 - 4, "{called:?}");
}
