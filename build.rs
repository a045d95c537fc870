//! Compiles every shader variant named in `shaders/variants` with glslc, reflects its interface from the SPIR-V, and
//! writes typed Rust for it to `OUT_DIR/kernels.rs` (see `src/kernels/mod.rs`). The shader is the truth: an operand
//! renamed in GLSL is a compile error in Rust.

#[path = "build/generate.rs"]
mod generate;
#[path = "build/reflect.rs"]
mod reflect;

use std::{
    collections::BTreeMap,
    env, fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    thread,
};

/// A line of `shaders/variants`.
struct Variant {
    shader: String,
    name: String,
    defines: Vec<String>,
}

fn main() {
    println!("cargo::rerun-if-changed=shaders");
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-env-changed=GLSLC");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let variants = read_variants(&fs::read_to_string("shaders/variants").expect("shaders/variants is readable"));
    let sources = hash_of_sources(Path::new("shaders"));
    let failures = Mutex::new(Vec::new());
    let queue = Mutex::new(variants.iter());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, |threads| threads.get()) {
            scope.spawn(|| {
                loop {
                    let Some(variant) = queue.lock().expect("no thread panics with the lock").next() else { return };
                    if let Err(failure) = compile(variant, sources, &out) {
                        failures.lock().expect("no thread panics with the lock").push(failure);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("the threads have ended");
    if !failures.is_empty() {
        panic!("{}", failures.join("\n\n"));
    }

    let mut families: BTreeMap<&str, Vec<generate::Compiled>> = BTreeMap::new();
    for variant in &variants {
        let unoptimized = fs::read(out.join(format!("{}.names.spv", variant.name))).expect("it was just written");
        let interface =
            reflect::interface(&unoptimized).unwrap_or_else(|problem| panic!("{}: {problem}", variant.name));
        let compiled = generate::Compiled { name: &variant.name, defines: &variant.defines, interface };
        families.entry(&variant.shader).or_default().push(compiled);
    }
    let constants = ["step", "meet"].map(|name| {
        let file = format!("shaders/lib/{name}.glsl");
        generate::constants(&file, &fs::read_to_string(&file).expect("shaders/ is readable"))
    });
    let rust = generate::kernels(&families) + &constants.concat();
    fs::write(out.join("kernels.rs"), rust).expect("OUT_DIR is writable");
}

fn read_variants(text: &str) -> Vec<Variant> {
    text.lines()
        .map(|line| line.split('#').next().unwrap_or_default().split_whitespace())
        .filter_map(|mut words| {
            let (shader, name) = (words.next()?.to_owned(), words.next());
            let name = name.unwrap_or_else(|| panic!("shaders/variants: {shader} has no variant name")).to_owned();
            Some(Variant { shader, name, defines: words.map(str::to_owned).collect() })
        })
        .collect()
}

/// One hash over all shader text: a change anywhere recompiles everything, which costs seconds and cannot be wrong.
fn hash_of_sources(folder: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut folders = vec![folder.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("shaders/ is readable") {
            let path = entry.expect("shaders/ is readable").path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    for file in files.iter().filter(|file| file.extension().is_some()) {
        (file, fs::read(file).expect("shaders/ is readable")).hash(&mut hasher);
    }
    hasher.finish()
}

/// Writes `NAME.spv`, optimized, and `NAME.names.spv`, which still has its names.
fn compile(variant: &Variant, sources: u64, out: &Path) -> Result<(), String> {
    let mut hasher = DefaultHasher::new();
    (sources, &variant.shader, &variant.defines).hash(&mut hasher);
    let key = hasher.finish().to_string();
    let key_file = out.join(format!("{}.key", variant.name));
    if fs::read_to_string(&key_file).is_ok_and(|old| old == key) {
        return Ok(());
    }
    let glslc = env::var("GLSLC").unwrap_or_else(|_| "glslc".into());
    for (optimize, suffix) in [("-O0", "names.spv"), ("-O", "spv")] {
        let output = Command::new(&glslc)
            .args(["--target-env=vulkan1.2", "-std=460", "-Werror", "-I", "shaders", optimize])
            .args(variant.defines.iter().map(|define| format!("-D{define}")))
            .arg(format!("shaders/{}.comp", variant.shader))
            .arg("-o")
            .arg(out.join(format!("{}.{suffix}", variant.name)))
            .output()
            .map_err(|error| {
                format!(
                    "cannot run {glslc}: {error}. Install it (Debian: apt install glslc; macOS: brew install shaderc)"
                )
            })?;
        if !output.status.success() {
            return Err(format!("{}:\n{}", variant.name, String::from_utf8_lossy(&output.stderr)));
        }
    }
    fs::write(key_file, key).map_err(|error| error.to_string())
}
