//! Every compiled shader variant is valid SPIR-V for Vulkan 1.2 and translates to Metal's language. Needs `spirv-val`
//! (spirv-tools) and `spirv-cross`.

use hesper::kernels::KERNELS;
use std::path::Path;
use std::process::Command;

/// Metal 2.3, of macOS 11: less than any macOS that can run a container on the GPU has.
const METAL_VERSION: &str = "20300";

/// What a tool says against a file, or `None`.
fn complaint(tool: &str, arguments: &[&str], file: &Path) -> Option<String> {
    let output = Command::new(tool).args(arguments).arg(file).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {tool}: {error}; scripts/test installs it"));
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn every_variant_is_valid_and_translates_to_metal() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut failures = Vec::new();
    for kernel in KERNELS {
        let file = folder.path().join(kernel.name);
        std::fs::write(&file, kernel.spirv).expect("the folder is writable");
        let metal = ["--msl", "--msl-version", METAL_VERSION];
        for (tool, arguments) in [("spirv-val", &["--target-env", "vulkan1.2"][..]), ("spirv-cross", &metal[..])] {
            failures.extend(complaint(tool, arguments, &file).map(|text| format!("{} {tool}: {text}", kernel.name)));
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
    assert!(complaint("spirv-val", &["--target-env", "vulkan1.2"], &file).is_some());
    assert!(complaint("spirv-cross", &["--msl"], &file).is_some());
}
