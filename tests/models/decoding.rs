//! The same request gives the same tokens and logits, however it is evaluated: token by token or as a prompt, in chunks
//! of any size, first or later.

use crate::fixtures::Fixture;
use crate::{device, every_row, load, nmse, synthetic};
use hesper::engine::request::SamplingParameters;
use hesper::engine::runner::{KvType, Options, Planned, Runner};
use hesper::engine::solo::Solo;
use hesper::kernels::policy::Policy;

/// One model of each family, with and without fused parts.
fn fixtures() -> Vec<Fixture> {
    let names = ["qwen3-plain-mixed", "qwen3-mqa-q8_0", "qwen2-ragged-q8_0", "llama-biases-q8_0", "llama-factors-f16"];
    let all = synthetic::all();
    let found = names.map(|name| all.iter().find(|model| model.name == name).expect("it is in the list"));
    [Fixture::demo()].into_iter().chain(found.into_iter().map(Fixture::synthetic)).collect()
}

/// Those of them whose heads suit a quantized cache: of one group and of several.
fn quantizable() -> Vec<Fixture> {
    let names = ["qwen2-mqa-q8_0", "llama-factors-f16"];
    let all = synthetic::all();
    let found = names.map(|name| all.iter().find(|model| model.name == name).expect("it is in the list"));
    [Fixture::demo()].into_iter().chain(found.into_iter().map(Fixture::synthetic)).collect()
}

/// Every case: a cache of each type, and models that suit it.
fn cases() -> impl Iterator<Item = (KvType, Fixture)> {
    let plain = fixtures().into_iter().map(|fixture| (KvType::F16, fixture));
    plain.chain(quantizable().into_iter().map(|fixture| (KvType::Q8_0, fixture)))
}

/// A runner on the device at hand, and whether that is a CPU.
fn runner(kv_type: KvType, fixture: &Fixture, chunk_rows: u32) -> Option<(Runner, bool)> {
    let gpu = device::gpu()?;
    let policy = device::policy(&gpu);
    Some((load(&fixture.gguf, Box::new(gpu), chunk_rows, policy, kv_type), policy.software))
}

/// `count` greedy tokens behind `prompt`, each with the logits it was chosen by.
fn generate(runner: &mut Runner, prompt: &[u32], count: usize) -> Vec<(u32, Vec<f32>)> {
    let greedy = SamplingParameters { temperature: 0.0, ..SamplingParameters::default() };
    let mut solo = Solo::begin(runner, prompt, &greedy, 0);
    solo.prefill(prompt, 0, true).unwrap_or_else(|error| panic!("{error}"));
    let mut answer = Vec::new();
    for _ in 0..count {
        if !answer.is_empty() {
            solo.submit_decode().unwrap_or_else(|error| panic!("{error}"));
        }
        let token = solo.last_token().unwrap_or_else(|error| panic!("{error}")).expect("the token was sampled");
        let logits = solo.runner.last_logits(0).unwrap_or_else(|error| panic!("{error}"));
        answer.push((token, logits));
    }
    answer
}

fn highest(logits: &[f32]) -> u32 {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|&logit| logit == best).expect("a highest logit") as u32
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// How the logits of 30 tokens decoded behind `prompt` differ from those of a prompt of the same tokens.
fn differences(
    fixture: &Fixture,
    prompt: &[u32],
    runner: &mut Runner,
    same: impl Fn(&[f32], &[f32]) -> bool,
) -> Vec<String> {
    let answer = generate(runner, prompt, 30);
    let tokens: Vec<u32> = prompt.iter().copied().chain(answer.iter().map(|(token, _)| *token)).collect();
    let rows = every_row(runner, &tokens);
    let mut differences = Vec::new();
    for ((token, logits), row) in answer.iter().zip(&rows[prompt.len() - 1..]) {
        assert_eq!(*token, highest(logits), "{}: greedy takes the highest logit", fixture.name);
        if !same(logits, row) {
            differences.push(format!("{}: {:.1e}", fixture.name, nmse(logits, row)));
        }
    }
    differences
}

/// To the bit on software, where one lane sums a row alone. GPUs share a row's columns among as many lanes as suit the
/// number of tokens, so there the order of sums, and nothing else, may differ.
#[test]
fn decoding_equals_evaluating_the_same_tokens_as_a_prompt() {
    let synthetic = synthetic::all();
    let mut failures = Vec::new();
    let all = [Fixture::demo()].into_iter().chain(synthetic.iter().map(Fixture::synthetic));
    let quantized = quantizable().into_iter().map(|fixture| (KvType::Q8_0, fixture));
    for (kv_type, fixture) in all.map(|fixture| (KvType::F16, fixture)).chain(quantized) {
        let Some((mut runner, software)) = runner(kv_type, &fixture, 16) else { return };
        let same = |a: &[f32], b: &[f32]| if software { same_bits(a, b) } else { nmse(a, b) <= 1e-6 };
        failures.extend(differences(&fixture, &fixture.tokens[..11], &mut runner, same));
    }
    assert!(failures.is_empty(), "{} tokens differ:\n{}", failures.len(), failures.join("\n"));
}

/// What is chosen for GPUs is right on every device, so that it is tested where there is none.
#[test]
fn the_geometry_of_gpus_decodes_the_same() {
    let mut failures = Vec::new();
    // Each shape of heads is another kernel to compile, with barriers, which takes long on a CPU driver.
    let plain = fixtures().into_iter().take(2).map(|fixture| (KvType::F16, fixture));
    for (kv_type, fixture) in plain.chain([(KvType::Q8_0, Fixture::demo())]) {
        let Some(gpu) = device::gpu() else { return };
        let mut runner = load(&fixture.gguf, Box::new(gpu), 16, Policy::GPU, kv_type);
        failures.extend(differences(&fixture, &fixture.tokens[..11], &mut runner, |a, b| nmse(a, b) <= 1e-6));
    }
    assert!(failures.is_empty(), "{} tokens differ:\n{}", failures.len(), failures.join("\n"));
}

/// Likewise where decoding goes on from the plan for short sequences to the one that attends in splits.
#[test]
fn the_geometry_of_gpus_decodes_the_same_behind_many_tokens() {
    let fixture = Fixture::demo();
    let prompt: Vec<u32> = fixture.tokens.iter().cycle().take(500).copied().collect();
    let mut failures = Vec::new();
    for kv_type in [KvType::F16, KvType::Q8_0] {
        let Some(gpu) = device::gpu() else { return };
        let options = Options { context_tokens: Some(1024), kv_type, ..Options::alone(Policy::GPU) };
        let planned = Planned::new(&fixture.gguf, &options).unwrap_or_else(|error| panic!("{error}"));
        let loaded = planned.load(&fixture.gguf, Box::new(gpu), &mut |_| {});
        let mut runner = loaded.unwrap_or_else(|error| panic!("{error}"));
        let splits = [500, 511, 512, 529].map(|position| runner.model().decode_key(1, position).splits);
        assert_eq!(splits, [1, 1, 5, 5]);
        failures.extend(differences(&fixture, &prompt, &mut runner, |a, b| nmse(a, b) <= 1e-6));
    }
    assert!(failures.is_empty(), "{} tokens differ:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn chunks_of_any_size_give_the_same_bits() {
    for (kv_type, fixture) in cases() {
        let prompt = &fixture.tokens[..53];
        let mut answers = Vec::new();
        for chunk_rows in [4, 16, 64] {
            let Some((mut runner, _)) = runner(kv_type, &fixture, chunk_rows) else { return };
            answers.push(generate(&mut runner, prompt, 3));
        }
        for other in &answers[1..] {
            for (position, (first, other)) in answers[0].iter().zip(other).enumerate() {
                assert_eq!(first.0, other.0, "{} in {kv_type}: token {position}", fixture.name);
                assert!(same_bits(&first.1, &other.1), "{} in {kv_type}: logits {position}", fixture.name);
            }
        }
    }
}

#[test]
fn a_replay_equals_the_first_run() {
    for (kv_type, fixture) in cases() {
        let Some((mut runner, _)) = runner(kv_type, &fixture, 16) else { return };
        let first = generate(&mut runner, &fixture.tokens[..13], 12);
        // Another, longer request leaves its keys and values behind.
        let between = generate(&mut runner, &fixture.tokens[20..64], 20);
        assert_ne!(first[0].1, between[0].1, "{}: the other request is another", fixture.name);
        let again = generate(&mut runner, &fixture.tokens[..13], 12);
        assert_eq!(first, again, "{} in {kv_type}", fixture.name);
    }
}
