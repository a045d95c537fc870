//! Any bytes as what servers and users say to `hesper pull`: a source, a hub's list of files, a registry's manifest, a
//! journal, headers. Each is read or refused, never a panic, and no choice leaves the repository.
#![no_main]

use hesper::pull::{Listing, Manifest, Pick, Source, Url, content, content_range, parse_journal};
use hesper::pull::{choose, next_hop, retry_after, token_service};
use std::time::SystemTime;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some((source, ranges)) = parse_journal(bytes) {
        assert!(ranges.bytes() <= source.bytes);
        assert_eq!(ranges.gaps(source.bytes, u64::MAX >> 1).iter().map(|gap| gap.end - gap.start).sum::<u64>(), source.bytes - ranges.bytes());
    }
    if let Ok(listing) = serde_json::from_slice::<Listing>(bytes)
        && let Ok(choice) = choose(&listing, "owner/repository", &Pick::Preferred)
    {
        assert!(choice.files.iter().all(|file| !file.path.split('/').any(|part| part == ".." || part.is_empty())));
    }
    if let Ok(manifest) = serde_json::from_slice::<Manifest>(bytes) {
        let _ = content(&manifest, "registry/repository:tag");
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(source) = text.parse::<Source>() {
        let spelling = source.to_string();
        assert_eq!(spelling.parse::<Source>().expect("what was shown is read").to_string(), spelling);
    }
    if let Some((first, last, total)) = content_range(text) {
        assert!(first <= last && total.is_none_or(|total| last < total));
    }
    let start: Url = "https://example.com/model.gguf".parse().expect("an address");
    if let Ok(next) = next_hop(&[start], text) {
        assert_eq!(next.scheme(), "https");
    }
    let _ = (token_service(text, "me/model"), retry_after(text, SystemTime::UNIX_EPOCH));
});
