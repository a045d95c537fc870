//! Geometries that are measured: each computes the same, and what was measured is kept.

use crate::{device, failures, matrix};
use hesper::gguf::blocks::BlockFormat;
use hesper::gpu;
use hesper::kernels::layout::Layout;
use hesper::kernels::tuning::{Product, Tuning};
use hesper::plan::{Executor, Region};
use std::fs;
use std::path::PathBuf;

/// Whatever is chosen, a token's sums are taken in one order: with as many parts the bits are the same.
#[test]
fn all_geometries_that_are_tried_multiply_right_and_alike() {
    let Some(mut gpu) = device::gpu() else { return };
    for parts in [2, 8] {
        let (shapes, cases): (Vec<_>, Vec<_>) = matrix::tuned(parts).into_iter().unzip();
        let failures = failures(&mut gpu, &cases);
        assert!(failures.is_empty(), "{} of {} cases fail:\n{}", failures.len(), cases.len(), failures.join("\n"));
        gpu.forget().expect("it runs");
        let bytes = cases.iter().map(|case| case.region_bytes()).max().unwrap_or(0);
        gpu.allocate(Region::Step, bytes).expect("device memory");
        for tokens in [1, 11] {
            let mut first = None;
            for (shape, case) in shapes.iter().zip(&cases).filter(|(shape, _)| shape.tokens == tokens) {
                let got = case.run(&mut gpu);
                assert!(*first.get_or_insert_with(|| got.clone()) == got, "other bits: {shape:?}");
            }
        }
        gpu.forget().expect("it runs");
    }
}

#[test]
fn what_was_measured_is_kept_for_the_next_start() {
    let Some(mut gpu) = device::gpu() else { return };
    let policy = device::policy(&gpu);
    let folder = tempfile::tempdir().expect("a folder");
    gpu.keep_pipelines_in(folder.path()).expect("a folder that can be written");
    let product = |format, gate_up, tiles| Product {
        layout: Layout::new(format, policy.arrangement(), tiles, 256).expect("a small matrix"),
        gate_up,
        count: 2,
    };
    let products = [product(BlockFormat::Q4_0, false, 20), product(BlockFormat::Q4_0, true, 24)];
    let mut tune = |products: &[Product], again| gpu::tune(&mut gpu, &policy, products, again).expect("it can measure");
    let (tuning, measured) = tune(&products, false);
    assert_eq!((measured, tuning.families().count()), (2, 2));
    assert_eq!(tune(&products, false), (tuning, 0));
    let more = [&products[..], &[product(BlockFormat::Q8_0, false, 1000)]].concat();
    let (more_tuning, measured) = tune(&more, false);
    assert_eq!((measured, more_tuning.families().count()), (1, 3));
    assert_eq!(tune(&products[..1], true).1, 1);
    let files = fs::read_dir(folder.path()).expect("readable").map(|entry| entry.expect("readable").path());
    let kept: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect();
    let [kept] = &kept[..] else { panic!("one file, not {kept:?}") };
    let text = fs::read_to_string(kept).expect("text");
    let identity = text.split('"').nth(3).expect("it comes first");
    assert_eq!(Tuning::read(text.as_bytes(), identity, &policy).expect("whole").families().count(), 3);
    for damaged in ["", "{}", &text[..text.len() / 2], &text.replace(identity, "another")] {
        fs::write(kept, damaged).expect("it can be written");
        assert_eq!(tune(&products, false).1, 2, "{damaged:?} was taken");
    }
}
