//! Holds the rules of ARCHITECTURE.md that a compiler does not: who may import whom, how long files and functions are,
//! where `unsafe`, `async` and certain crates may stand, and that no shader is left over. It reads sources as text; the
//! scanners below are themselves tested at the end, so that a rule cannot go quiet.

mod scan;

use scan::{Source, functions, imports, words};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

/// Module of `src/`, then the modules it may import. Dependencies point down only.
const IMPORTS: &[(&str, &[&str])] = &[
    ("api", &["engine", "text", "store"]),
    ("text", &["gguf"]),
    ("engine", &["model", "kernels", "gguf", "plan"]),
    ("model", &["kernels", "gguf", "plan"]),
    // Of gguf, kernels and their twins use the block formats.
    ("kernels", &["plan", "gguf"]),
    ("gpu", &["plan", "kernels"]),
    ("reference", &["plan", "kernels", "gguf"]),
    ("plan", &[]),
    ("gguf", &[]),
    // Asks servers from outside, as any client does.
    ("load", &[]),
    ("pull", &[]),
    // Keeps bytes for whoever asks.
    ("store", &[]),
];

/// The binary's own files: they put the parts together, so they may import any.
const BINARY: &[&str] = &["main", "commands"];

/// Word, then the modules of `src/` in which it may stand, then why.
const CONFINED: &[(&str, &[&str], &str)] = &[
    ("unsafe", &["gpu", "gguf"], "memory shared with a device or a file is handled in gpu/ and gguf/"),
    ("vulkano", &["gpu"], "only gpu/ speaks Vulkan"),
    ("ash", &["gpu"], "only gpu/ speaks Vulkan"),
    ("axum", &["api"], "only api/ speaks HTTP"),
    ("async", &["api", "load", "pull", "main", "commands"], "elsewhere threads and channels are enough"),
    ("anyhow", &["main", "commands"], "the library's errors have types"),
];

fn lengths(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    let mut broken = Vec::new();
    if lines > FILE_LINES_MAX {
        broken.push(format!("{}:{lines}: a file has at most {FILE_LINES_MAX} lines", source.path.display()));
    }
    if !source.is_shader() && source.extension() != "rs" {
        return broken;
    }
    for (name, start, end) in functions(source) {
        let lines = source.code[start..end].matches('\n').count() + 1;
        if lines > FUNCTION_LINES_MAX {
            let rule = format!("`{name}` has {lines} lines; a function has at most {FUNCTION_LINES_MAX}");
            broken.push(source.at(start, &rule));
        }
    }
    broken
}

fn directions(source: &Source) -> Vec<String> {
    let Some(module) = source.module().filter(|module| *module != "lib" && !BINARY.contains(module)) else {
        return Vec::new();
    };
    let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == module) else {
        return vec![
            source
                .at(0, &format!("module `{module}` is not in the list of tests/tidy/main.rs: say what it may import")),
        ];
    };
    let known = |name: &str| IMPORTS.iter().any(|(module, _)| *module == name);
    imports(source)
        .into_iter()
        .filter(|(_, name)| known(name) && name != module && !allowed.contains(&name.as_str()))
        .map(|(at, name)| source.at(at, &format!("`{module}` imports `{name}`; it may import {allowed:?} only")))
        .collect()
}

/// Words that only certain modules may hold. A crate's name counts where a path or a `use` names it. Tests are free.
fn confined(source: &Source) -> Vec<String> {
    let mut broken = Vec::new();
    let Some(module) = source.module() else { return broken };
    for (word, allowed, why) in CONFINED {
        if allowed.contains(&module) {
            continue;
        }
        let keyword = matches!(*word, "unsafe" | "async");
        for at in words(&source.code, word) {
            let after = &source.code[at + word.len()..];
            let named = after.starts_with("::") || source.code[..at].trim_end().ends_with("use");
            if keyword || named {
                broken.push(source.at(at, &format!("`{word}` stands only in {allowed:?}: {why}")));
            }
        }
    }
    broken
}

/// Shaders that `variants` does not name or that do not exist, and library files that no shader includes.
fn orphans(variants: &str, shaders: &[Source]) -> Vec<String> {
    let paths: BTreeSet<&Path> = shaders.iter().map(|shader| shader.path.as_path()).collect();
    let lines = || variants.lines().enumerate().map(|(at, line)| (at + 1, line.split('#').next().unwrap_or("")));
    let named: BTreeSet<PathBuf> = lines()
        .filter_map(|(_, line)| line.split_whitespace().next())
        .map(|stem| Path::new("shaders").join(stem).with_extension("comp"))
        .collect();
    let mut broken = Vec::new();
    for (number, line) in lines() {
        let Some(stem) = line.split_whitespace().next() else { continue };
        if !paths.contains(Path::new("shaders").join(stem).with_extension("comp").as_path()) {
            broken.push(format!("shaders/variants:{number}: there is no shaders/{stem}.comp"));
        }
    }
    let mut reached = named.clone();
    let mut open: Vec<PathBuf> = named.into_iter().collect();
    while let Some(path) = open.pop() {
        let Some(shader) = shaders.iter().find(|shader| shader.path == path) else { continue };
        for included in includes(shader, &paths) {
            if reached.insert(included.clone()) {
                open.push(included);
            }
        }
    }
    for path in paths.into_iter().filter(|path| !reached.contains(*path)) {
        broken.push(format!("{}:1: no variant in shaders/variants compiles or includes this file", path.display()));
    }
    broken
}

/// Files that a shader includes, sought beside it, in `shaders/` and in `shaders/lib/`.
fn includes(shader: &Source, paths: &BTreeSet<&Path>) -> Vec<PathBuf> {
    let names = shader.text.lines().filter_map(|line| {
        let name = line.trim_start().strip_prefix("#include")?.trim();
        Some(name.get(1..name.len().checked_sub(1)?)?.to_string())
    });
    let beside = shader.path.parent().unwrap_or(Path::new(""));
    let folders = [beside, Path::new("shaders"), Path::new("shaders/lib")];
    names
        .flat_map(|name| folders.map(|folder| folder.join(&name)))
        .filter(|path| paths.contains(path.as_path()))
        .collect()
}

/// Every file below `folder` with one of these extensions, `folder` itself when it is a file.
fn read(folder: &str, extensions: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut open, mut found) = (vec![root.join(folder)], Vec::new());
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            open.extend(entries.map(|entry| entry.expect("a folder's entry").path()));
            continue;
        }
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or("");
        if path.is_file() && extensions.contains(&extension) {
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            found.push(Source::new(path.strip_prefix(root).expect("below the root"), text));
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn rust() -> Vec<Source> {
    let folders = ["src", "build.rs", "build", "tests", "benches"];
    folders.iter().flat_map(|folder| read(folder, &["rs"])).collect()
}

fn shaders() -> Vec<Source> {
    read("shaders", &["comp", "glsl"])
}

fn assert_none(broken: Vec<String>) {
    assert!(broken.is_empty(), "{} rule(s) broken:\n{}", broken.len(), broken.join("\n"));
}

#[test]
fn files_and_functions_are_short() {
    let others = ["tests", "scripts"].iter().flat_map(|folder| read(folder, &["py", "sh", "c", ""]));
    let pages = read("src/api/page", &["js", "css", "html"]);
    let all: Vec<Source> = rust().into_iter().chain(shaders()).chain(others).chain(pages).collect();
    assert!(all.len() > 20, "only {} files were read", all.len());
    assert_none(all.iter().flat_map(lengths).collect());
}

#[test]
fn imports_point_down() {
    assert_none(rust().iter().flat_map(directions).collect());
}

#[test]
fn unsafe_async_and_crates_stay_in_their_modules() {
    assert_none(rust().iter().flat_map(confined).collect());
}

#[test]
fn no_shader_is_left_over() {
    let variants = read("shaders/variants", &[""]);
    assert_eq!(variants.len(), 1, "shaders/variants is missing");
    assert_none(orphans(&variants[0].text, &shaders()));
}

/// The scanners on small texts: each rule is seen to hold and to break.
mod scanners {
    use super::*;

    fn rust(path: &str, text: &str) -> Source {
        Source::new(path, text)
    }

    #[test]
    fn long_files_and_functions_are_found() {
        let body = "    let x = [0; 2];\n".repeat(FUNCTION_LINES_MAX - 2);
        let short = format!("fn f(x: [u8; 2]) -> fn(u8) {{\n{body}}}\n");
        assert_eq!(lengths(&rust("src/a.rs", &short)), Vec::<String>::new());
        let long = short.replacen("{\n", "{\n\n", 1);
        assert_eq!(lengths(&rust("src/a.rs", &format!("\n{long}"))).len(), 1);
        assert!(lengths(&rust("src/a.rs", &format!("\n{long}")))[0].starts_with("src/a.rs:2: `f` has 71 lines"));
        assert_eq!(lengths(&rust("src/a.rs", &"\n".repeat(FILE_LINES_MAX + 1))).len(), 1);
        let shader =
            format!("layout(x) in;\nstruct S {{ int a; }};\nvoid main()\n{{\n{}}}\n", "\n".repeat(FUNCTION_LINES_MAX));
        assert!(lengths(&rust("shaders/a.comp", &shader))[0].starts_with("shaders/a.comp:3: `main` has"));
    }

    #[test]
    fn wrong_imports_are_found() {
        let count = |path: &str, text: &str| directions(&rust(path, text)).len();
        assert_eq!(count("src/plan/a.rs", "use crate::gpu::Device;"), 1);
        assert_eq!(count("src/gpu/a.rs", "use crate::plan::Plan; // crate::api"), 0);
        assert_eq!(count("src/api/mod.rs", "use crate::{engine::{gpu, x}, gguf, model::Y};"), 2);
        assert_eq!(count("src/plan/mod.rs", "use super::gpu; mod gpu { use super::gpu; }"), 1);
        assert_eq!(count("src/plan/a.rs", "use super::gpu; mod tests { use super::super::super::gpu; }"), 1);
        assert_eq!(count("src/other/a.rs", ""), 1);
        assert_eq!(count("src/main.rs", "use hesper::gpu;"), 0);
    }

    #[test]
    fn misplaced_words_are_found() {
        let count = |path: &str, text: &str| confined(&rust(path, text)).len();
        assert_eq!(count("src/plan/a.rs", "unsafe { x() }; let s = \"unsafe\"; async fn f() {} use ash;"), 3);
        assert_eq!(count("src/gpu/a.rs", "unsafe { ash::x() }; let axum = hash::y();"), 0);
        assert_eq!(count("src/engine/a.rs", "use axum::Json; fn f() -> anyhow::Result<()>"), 2);
        assert_eq!(count("tests/a.rs", "async fn f() { unsafe { ash::x() } }"), 0);
    }

    #[test]
    fn orphans_are_found() {
        let variants = "# shader variant\nnorm norm_f16 A=1\ngone gone\n";
        let shaders = [
            rust("shaders/norm.comp", "#include \"prelude.glsl\"\n"),
            rust("shaders/lib/prelude.glsl", "#include \"quant/f16.glsl\"\n"),
            rust("shaders/lib/quant/f16.glsl", ""),
            rust("shaders/lib/lonely.glsl", ""),
            rust("shaders/stray.comp", ""),
        ];
        let broken = orphans(variants, &shaders);
        assert_eq!(broken.len(), 3, "{broken:?}");
        assert!(
            broken[0].starts_with("shaders/variants:3: ")
                && broken[1].contains("lonely")
                && broken[2].contains("stray")
        );
    }
}
