//! Every compiled shader variant is valid SPIR-V for Vulkan 1.2 and translates to Metal's language. Needs `spirv-val`
//! (spirv-tools) and `spirv-cross`.

use hesper::kernels::KERNELS;
use std::path::Path;
use std::process::Command;

/// Versions of Metal's language: 2.3, of macOS 11, which is less than any Mac has that can run a container on its GPU;
/// and 3.1, of macOS 14. MoltenVK translates to the newest that the system knows.
const METAL_VERSIONS: [&str; 2] = ["20300", "30100"];

/// What a tool prints for a file, or what it says against it.
fn output(tool: &str, arguments: &[&str], file: &Path) -> Result<String, String> {
    let output = Command::new(tool).args(arguments).arg(file).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {tool}: {error}; scripts/test installs it"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// What of a translation MoltenVK could not run as it is. The push constants must be its one argument: they reach Metal by
/// `setBytes`, all memory is addressed through pointers in them, and no argument buffers are needed.
fn beyond_moltenvk(metal: &str) -> Option<&'static str> {
    let signature = metal.lines().find(|line| line.starts_with("kernel void "));
    let Some(signature) = signature else { return Some("it has no kernel") };
    let rest = signature.replacen("[[buffer(0)]]", "", 1);
    if rest.len() == signature.len() || ["[[buffer(", "[[texture(", "[[sampler("].iter().any(|part| rest.contains(part))
    {
        return Some("its arguments are not one buffer");
    }
    metal.split(|c: char| !c.is_alphanumeric()).any(|word| word == "double").then_some("Metal has no double")
}

#[test]
fn every_variant_is_valid_and_translates_to_metal() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut failures = Vec::new();
    for kernel in KERNELS {
        let file = folder.path().join(kernel.name);
        std::fs::write(&file, kernel.spirv).expect("the folder is writable");
        let mut note = |text: String| failures.push(format!("{}: {text}", kernel.name));
        if let Err(text) = output("spirv-val", &["--target-env", "vulkan1.2"], &file) {
            note(text);
        }
        for version in METAL_VERSIONS {
            match output("spirv-cross", &["--msl", "--msl-version", version], &file) {
                Err(text) => note(text),
                Ok(metal) => beyond_moltenvk(&metal).into_iter().for_each(|text| note(format!("{text}:\n{metal}"))),
            }
        }
    }
    assert!(KERNELS.len() > 50, "only {} kernels", KERNELS.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_broken_module_is_noticed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("broken");
    let spirv = KERNELS[0].spirv;
    std::fs::write(&file, &spirv[..spirv.len() - 8]).expect("the folder is writable");
    output("spirv-val", &["--target-env", "vulkan1.2"], &file).expect_err("it is cut off");
    output("spirv-cross", &["--msl"], &file).expect_err("it is cut off");
}

#[test]
fn what_moltenvk_cannot_run_is_noticed() {
    let one = "kernel void main0(constant A& a [[buffer(0)]], uint3 i [[thread_position_in_grid]])";
    assert_eq!(beyond_moltenvk(one), None);
    for wrong in [
        "kernel void main0(uint3 i [[thread_position_in_grid]])",
        "kernel void main0(constant A& a [[buffer(0)]], device B& b [[buffer(1)]])",
        "kernel void main0(constant A& a [[buffer(0)]], texture2d<float> t [[texture(0)]])",
        "fragment void main0(constant A& a [[buffer(0)]])",
    ] {
        assert!(beyond_moltenvk(wrong).is_some(), "{wrong}");
    }
    assert!(beyond_moltenvk(&format!("{one}\n{{\n    double x = 1;\n}}")).is_some());
}
