//! Any bytes as a GGUF file: read or refused, never a panic. What is read is then walked as `hesper inspect` does.
#![no_main]

use hesper::gguf::{Gguf, inspect};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(gguf) = Gguf::parse("fuzz", bytes.to_vec()) else { return };
    inspect::print(&gguf, &mut std::io::sink()).expect("a sink takes everything");
    for tensor in gguf.tensors() {
        let mut row = vec![0.0; tensor.cols];
        tensor.kind.dequantize(&gguf.bytes(tensor)[..tensor.bytes / tensor.rows], &mut row);
    }
});
