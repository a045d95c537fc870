//! Any bytes as the facts of a machine, or as podman's list of machines: read or refused, and judged without a panic.
#![no_main]

use hesper::gpu::doctor::{Facts, diagnose, machines};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        machines(text);
    }
    let Ok(facts) = Facts::parse(bytes) else { return };
    assert!(!diagnose(&facts, true).to_string().is_empty());
});
