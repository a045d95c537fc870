//! The models that have stored logits, what was fed to them, and where the logits are kept. `scripts/fixtures/logits` makes
//! them with llama.cpp from what [`write_models`] writes, on each file's dequantized copy.

use crate::synthetic;
use hesper::gguf::Gguf;
use std::path::{Path, PathBuf};

/// The committed demo model's name.
pub const DEMO: &str = "hesper-demo-Q8_0";

/// Tokens evaluated.
pub const TOKENS: u32 = 64;

/// The positions whose logits are stored.
pub const POSITIONS: [usize; 4] = [0, 1, 31, 63];

/// The beginning of a chat, for the demo model.
const CHAT: [u32; TOKENS as usize] = [
    2042, 266, 198, 296, 283, 281, 316, 289, 1650, 30, 2043, 198, 2042, 268, 198, 1945, 13, 2043, 198, 2042, 266, 198,
    296, 283, 281, 316, 289, 1739, 30, 2043, 198, 2042, 268, 198, 1973, 837, 13, 2043, 198, 2042, 266, 198, 296, 283,
    281, 316, 289, 1589, 30, 2043, 198, 2042, 268, 198, 1940, 13, 2043, 198, 2042, 266, 198, 296, 283, 281,
];

/// A model and its stored logits.
pub struct Fixture {
    pub name: String,
    pub gguf: Gguf,
    pub tokens: Vec<u32>,
    pub quantized: bool,
}

impl Fixture {
    pub fn demo() -> Fixture {
        let gguf = Gguf::open(root().join(format!("models/{DEMO}.gguf"))).unwrap_or_else(|error| panic!("{error}"));
        Fixture { name: DEMO.to_owned(), gguf, tokens: CHAT.to_vec(), quantized: true }
    }

    pub fn synthetic(model: &synthetic::Synthetic) -> Fixture {
        let gguf = Gguf::parse(&model.name, model.gguf()).unwrap_or_else(|error| panic!("{error}"));
        let tokens = (0..TOKENS).map(|i| (i * 397 + 11) % model.shape.vocabulary).collect();
        Fixture { name: model.name.clone(), gguf, tokens, quantized: model.is_quantized() }
    }

    /// llama.cpp's logits at [`POSITIONS`].
    pub fn expected(&self) -> Vec<Vec<f32>> {
        let path = root().join(format!("tests/fixtures/models/{}.logits", self.name));
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let values: Vec<f32> = bytemuck::allocation::pod_collect_to_vec(&bytes);
        assert!(!values.is_empty() && values.len().is_multiple_of(POSITIONS.len()), "{}", path.display());
        values.chunks(values.len() / POSITIONS.len()).map(<[f32]>::to_vec).collect()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Writes what llama.cpp needs: each model, its tokens and the positions wanted, into the folder HESPER_MODELS_OUT.
#[test]
#[ignore = "a tool for scripts/fixtures/logits, which sets HESPER_MODELS_OUT"]
fn write_models() {
    let out = PathBuf::from(std::env::var_os("HESPER_MODELS_OUT").expect("HESPER_MODELS_OUT names a folder"));
    let put =
        |name: String, bytes: &[u8]| std::fs::write(out.join(&name), bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
    let numbers = |fixture: &Fixture| {
        let words = |values: &[u32]| values.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        format!("{}\n{}\n", words(&fixture.tokens), words(&POSITIONS.map(|position| position as u32)))
    };
    let demo = Fixture::demo();
    put(format!("{DEMO}.gguf"), &std::fs::read(demo.gguf.file()).expect("the demo model is readable"));
    put(format!("{DEMO}.tokens"), numbers(&demo).as_bytes());
    for model in synthetic::all() {
        put(format!("{}.gguf", model.name), &model.gguf());
        put(format!("{}.tokens", model.name), numbers(&Fixture::synthetic(&model)).as_bytes());
    }
}
