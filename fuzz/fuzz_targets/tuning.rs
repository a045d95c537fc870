//! Any bytes as a file of measured geometries: refused, or only such as would be tried, and the same when read again.
#![no_main]

use hesper::kernels::policy::Policy;
use hesper::kernels::tuning::{CLASSES, Tuning, candidates};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for policy in [Policy::GPU, Policy::SOFTWARE] {
        let Ok(tuning) = Tuning::read(bytes, "device", &policy) else { continue };
        for (family, shapes) in tuning.families() {
            for class in 0..CLASSES.len() {
                let tried = candidates(policy.arrangement(), family.gate_up, class, shapes[0].parts);
                assert!(tried.contains(&shapes[class]));
            }
        }
        assert_eq!(Tuning::read(tuning.write("device").as_bytes(), "device", &policy), Ok(tuning));
    }
});
