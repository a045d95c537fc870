//! Any bytes as a file of kept pipelines, or as what a driver gives to keep: refused, or the same when read again.
#![no_main]

use hesper::gpu::kept::Identity;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for venus in [false, true] {
        let identity = Identity {
            vendor: 0x1af4,
            device: 7,
            cache_uuid: [3; 16],
            driver_version: 4,
            driver_uuid: [5; 16],
            venus,
            build: [6; 32],
        };
        // Without the build's digest in front nothing is a file.
        assert!(identity.unseal(bytes).is_err());
        // The header that a driver must have given; the rest is the input's.
        let head = [32u32, 1, 0x1af4, 7].map(u32::to_le_bytes).concat();
        let data = [&head[..], &[3; 16], bytes].concat();
        for data in [bytes, &data] {
            if let Ok(file) = identity.seal(data) {
                assert_eq!(identity.unseal(&file), Ok(data));
            }
        }
    }
});
