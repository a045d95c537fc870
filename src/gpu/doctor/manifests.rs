//! The files by which the Vulkan loader finds drivers: where it looks, and whether what they name is there.

use super::facts::{Manifest, ManifestState};
use std::path::{Path, PathBuf};

/// A manifest is a few hundred bytes.
const BYTES_MAX: u64 = 1 << 20;

/// Manifests that the loader reads, in its order: named by variables, or found in its folders.
pub fn manifests(variable: impl Fn(&str) -> Option<String>) -> Vec<Manifest> {
    let named = variable("VK_DRIVER_FILES").or_else(|| variable("VK_ICD_FILENAMES"));
    let added = variable("VK_ADD_DRIVER_FILES").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&added).collect();
    match named {
        Some(list) => places.extend(std::env::split_paths(&list)),
        None => places.extend(folders(variable).into_iter().map(|folder| folder.join("vulkan/icd.d"))),
    }
    let mut manifests = Vec::new();
    for place in places.into_iter().filter(|place| !place.as_os_str().is_empty()) {
        let mut files = match std::fs::read_dir(&place) {
            Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
            Err(_) if is_json(&place) => vec![place],
            Err(_) => Vec::new(),
        };
        files.retain(|file| is_json(file));
        files.sort();
        manifests.extend(files.iter().map(|file| Manifest { path: file.display().to_string(), state: state(file) }));
    }
    manifests
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
}

/// The folders below which the loader looks for `vulkan/icd.d`.
fn folders(variable: impl Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let home = variable("HOME").map(PathBuf::from).unwrap_or_default();
    let config = variable("XDG_CONFIG_HOME").map_or_else(|| home.join(".config"), PathBuf::from);
    let data = variable("XDG_DATA_HOME").map_or_else(|| home.join(".local/share"), PathBuf::from);
    let shared = variable("XDG_DATA_DIRS").unwrap_or_else(|| "/usr/local/share:/usr/share".to_owned());
    let mut folders = vec![config, "/etc".into(), "/usr/local/etc".into(), data];
    folders.extend(std::env::split_paths(&shared));
    if cfg!(target_os = "macos") {
        folders.extend(["/opt/homebrew/etc".into(), "/opt/homebrew/share".into()]);
    }
    let mut seen = Vec::new();
    folders.retain(|folder| !seen.contains(folder) && (seen.push(folder.clone()), true).1);
    folders
}

fn state(manifest: &Path) -> ManifestState {
    let library = match library(manifest) {
        Ok(library) => library,
        Err(problem) => return ManifestState::Broken(problem),
    };
    // A bare name is searched for by the dynamic linker; a path is relative to the manifest.
    let target = manifest.parent().unwrap_or(Path::new("/")).join(&library);
    if library.contains('/') && !target.exists() {
        return ManifestState::LibraryMissing(library);
    }
    ManifestState::Library(library)
}

/// The library that a manifest names, or what is wrong with it.
fn library(manifest: &Path) -> Result<String, String> {
    let bytes = std::fs::metadata(manifest).map_err(|error| error.to_string())?.len();
    if bytes > BYTES_MAX {
        return Err(format!("it has {bytes} bytes, which no manifest has"));
    }
    let text = std::fs::read_to_string(manifest).map_err(|error| error.to_string())?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let library = json["ICD"]["library_path"].as_str().ok_or("it names no ICD.library_path")?;
    Ok(library.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_are_read_and_their_libraries_looked_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let state_of = |text: &str| {
            let path = folder.path().join("x.json");
            std::fs::write(&path, text).expect("a file");
            state(&path)
        };
        let named = |library: &str| format!(r#"{{"ICD": {{"library_path": "{library}"}}}}"#);
        assert_eq!(state_of(&named("libvulkan_x.so")), ManifestState::Library("libvulkan_x.so".to_owned()));
        assert_eq!(state_of(&named("./x.json")), ManifestState::Library("./x.json".to_owned()));
        let nowhere = "/nowhere/libvulkan_x.so";
        assert_eq!(state_of(&named(nowhere)), ManifestState::LibraryMissing(nowhere.to_owned()));
        assert!(matches!(state_of("{}"), ManifestState::Broken(_)), "it names nothing");
        assert!(matches!(state_of("{"), ManifestState::Broken(_)), "it is not JSON");
        assert!(matches!(state(&folder.path().join("absent")), ManifestState::Broken(_)));
    }

    #[test]
    fn variables_replace_the_folders() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("x.json");
        std::fs::write(&file, "{}").expect("a file");
        std::fs::write(folder.path().join("readme"), "").expect("a file");
        let only = |name: &str| (name == "VK_DRIVER_FILES").then(|| folder.path().display().to_string());
        let found: Vec<String> = manifests(only).into_iter().map(|manifest| manifest.path).collect();
        assert_eq!(found, [file.display().to_string()]);
        let absent = |name: &str| (name == "VK_DRIVER_FILES").then(|| "/nonexistent/x.json".to_owned());
        assert!(matches!(manifests(absent).as_slice(), [Manifest { state: ManifestState::Broken(_), .. }]));
        let folders = folders(|name| (name == "XDG_DATA_DIRS").then(|| "/usr/share:/etc".to_owned()));
        assert_eq!(folders.iter().filter(|folder| **folder == Path::new("/etc")).count(), 1);
    }
}
