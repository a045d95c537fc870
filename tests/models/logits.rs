//! Logits against llama.cpp's on the same weights, dequantized.

use crate::fixtures::{Fixture, POSITIONS};
use crate::{device, every_row, load, nmse, synthetic};
use hesper::kernels::policy::Policy;
use hesper::reference::Reference;

/// The largest error at a stored position among those evaluated.
fn worst(fixture: &Fixture, logits: &[Vec<f32>]) -> f64 {
    let known = POSITIONS.iter().zip(fixture.expected()).filter(|(at, _)| **at < logits.len());
    let errors = known.map(|(&at, expected)| nmse(&logits[at], &expected));
    errors.fold(0.0, |worst, error| if error > worst || error.is_nan() { error } else { worst })
}

/// The bounds of the project: what is left is the cache's F16 and the order of sums.
fn bound(fixture: &Fixture) -> f64 {
    if fixture.quantized { 2e-5 } else { 1e-5 }
}

/// Whether kernels get the geometry that suits the device, or that of a GPU.
#[derive(Clone, Copy, PartialEq)]
enum Geometry {
    Device,
    Gpu,
}

fn check(geometry: Geometry, fixtures: impl Iterator<Item = Fixture>) {
    let mut failures = Vec::new();
    for fixture in fixtures {
        let Some(gpu) = device::gpu() else { return };
        let policy = if geometry == Geometry::Device { device::policy(&gpu) } else { Policy::GPU };
        let error = worst(&fixture, &every_row(&mut load(&fixture.gguf, Box::new(gpu), 64, policy), &fixture.tokens));
        println!("{:<24} {error:.1e}", fixture.name);
        if error.is_nan() || error > bound(&fixture) {
            failures.push(format!("{}: {error:.1e} exceeds {:.0e}", fixture.name, bound(&fixture)));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn the_demo_models_logits_are_llama_cpps() {
    check(Geometry::Device, [Fixture::demo()].into_iter());
}

#[test]
fn every_formats_logits_are_llama_cpps() {
    let all = synthetic::all();
    check(Geometry::Device, all.iter().filter(|model| model.shape.name == "qwen3-plain").map(Fixture::synthetic));
}

#[test]
fn odd_shapes_logits_are_llama_cpps() {
    let all = synthetic::all();
    check(Geometry::Device, all.iter().filter(|model| model.shape.name != "qwen3-plain").map(Fixture::synthetic));
}

#[test]
fn the_geometry_of_gpus_gives_llama_cpps_logits() {
    check(Geometry::Gpu, [Fixture::demo()].into_iter());
    let all = synthetic::all();
    check(Geometry::Gpu, all.iter().filter(|model| model.shape.name == "qwen3-plain").map(Fixture::synthetic));
}

/// The CPU executor runs the same plans. It is slow: two small models, half of the tokens.
#[test]
fn the_references_logits_are_llama_cpps() {
    for name in ["qwen2-ragged-f16", "llama-biases-q8_0"] {
        let model = synthetic::all().into_iter().find(|model| model.name == name).expect("it is in the list");
        let fixture = Fixture::synthetic(&model);
        let mut runner = load(&fixture.gguf, Box::new(Reference::default()), 32, Policy::SOFTWARE);
        let error = worst(&fixture, &every_row(&mut runner, &fixture.tokens[..32]));
        println!("{name:<24} {error:.1e}");
        assert!(error <= bound(&fixture), "{name}: {error:.1e}");
    }
}
