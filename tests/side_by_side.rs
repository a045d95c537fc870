//! Workgroups that wait for each other, on the driver at hand: in a process of its own, since tests beside it would take the
//! threads' cores.

#[path = "kernels/chain.rs"]
#[allow(dead_code)] // shared with the kernels' tests
mod chain;
#[path = "device/mod.rs"]
mod device;
#[path = "kernels/harness.rs"]
#[allow(dead_code)]
mod harness;
#[path = "kernels/matrix.rs"]
#[allow(dead_code)]
mod matrix;
#[path = "models/synthetic.rs"]
#[allow(dead_code)]
mod synthetic;

use hesper::engine::pace::SILENCE;
use hesper::engine::queue::queue;
use hesper::engine::request::{Event, Request, SamplingParameters};
use hesper::engine::runner::{Options, Planned};
use hesper::engine::self_test::self_test;
use hesper::engine::worker;
use hesper::gguf::Gguf;
use hesper::gguf::blocks::BlockFormat;
use hesper::gpu::Gpu;
use hesper::kernels::policy::Policy;
use hesper::plan::{Executor, Region};
use hesper::reference::Checked;
use synthetic::{Formats, Shape, Synthetic, TINY};
use tokio::sync::mpsc;

/// One behind another in one dispatch or each in its own, by any number of workgroups: a token's bits may not depend on it.
#[test]
fn a_chain_gives_the_bits_of_its_products() {
    let Some(mut gpu) = looked() else { return };
    let (lanes, side_by_side) = (gpu.info().subgroup_size, gpu.info().side_by_side);
    if !matches!(lanes, 8 | 16) {
        println!("nothing to compare: no weights are woven for subgroups of {lanes} lanes");
        return;
    }
    // Only where they were seen to may workgroups wait for each other.
    println!("with 1 workgroup, and with {side_by_side} that wait for each other");
    for format in [BlockFormat::Q4_0, BlockFormat::F16] {
        for tokens in [1, 4] {
            let groups = [1, side_by_side].into_iter().filter(|groups| *groups > 0);
            let apart = chain::feed_forward(format, lanes, 0, tokens);
            gpu.allocate(Region::Step, apart.region_bytes()).expect("device memory");
            let expected = apart.run(&mut gpu);
            for groups in groups {
                let chain = chain::feed_forward(format, lanes, groups, tokens);
                assert_eq!(chain.dispatches().len() + 2, apart.dispatches().len(), "three products are one dispatch");
                // Twice, since the counts of those that wait must be as before; the other way of computing says nothing then.
                for _ in 0..2 {
                    assert!(chain.run(&mut gpu) == expected, "{}", chain.name);
                }
            }
            gpu.forget().expect("nothing runs");
        }
    }
}

/// Of whole blocks of the K formats.
const SHAPE: Shape = Shape { layers: 3, width: 512, heads: 8, head_dim: 64, rotary: 64, feed_forward: 768, ..TINY };

/// What a decoded token is made of in one dispatch is what it is made of in many, and what the twins make of it.
#[test]
fn a_whole_token_in_one_chain_has_the_same_bits() {
    let Some(gpu) = looked() else { return };
    let Policy { side_by_side, .. } = policy(&gpu);
    if side_by_side < 2 || !matches!(gpu.info().subgroup_size, 8 | 16) {
        println!("nothing to compare: workgroups may not wait for each other here, or no weights are woven");
        return;
    }
    for formats in [Formats::Medium, Formats::All(BlockFormat::Q8_0), Formats::All(BlockFormat::F16)] {
        let model = Synthetic::new(SHAPE, formats);
        let gguf = Gguf::parse(&model.name, model.gguf()).expect("the model is well made");
        let apart = Policy { side_by_side: 0, ..policy(&gpu) };
        let expected = answer(&gguf, looked().expect("there was a device"), apart, None);
        let chained = looked().expect("there was a device");
        let policy = policy(&chained);
        assert_eq!(policy.side_by_side, side_by_side);
        let checked = Checked::new(chained);
        let options = Options { context_tokens: Some(256), ..Options::alone(policy) };
        self_test(&gguf, &options, Box::new(checked.clone())).unwrap_or_else(|error| panic!("{}: {error}", model.name));
        let (mut chained, _) = checked.into_device().expect("the runner is gone");
        chained.forget().expect("nothing runs");
        // Steps, embeddings, all layers with the head, and sampling.
        assert_eq!(answer(&gguf, chained, policy, Some(4)), expected, "{}", model.name);
    }
}

/// A device that was looked at.
fn looked() -> Option<Gpu> {
    let mut gpu = device::gpu()?;
    gpu.look_side_by_side().expect("a small kernel runs");
    Some(gpu)
}

fn policy(gpu: &Gpu) -> Policy {
    Policy { side_by_side: gpu.info().side_by_side, ..device::policy(gpu) }
}

/// Tokens and the bits of their log-probabilities, from plans of so many dispatches.
fn answer(gguf: &Gguf, gpu: Gpu, policy: Policy, dispatches: Option<usize>) -> Vec<(u32, u32)> {
    let options = Options { context_tokens: Some(256), ..Options::alone(policy) };
    let planned = Planned::new(gguf, &options).unwrap_or_else(|error| panic!("{error}"));
    let decode = planned.plans().find(|plan| plan.name == "decode rows=1 outputs=1").expect("there is one");
    if let Some(expected) = dispatches {
        assert_eq!(decode.dispatches().count(), expected, "{decode}");
    }
    let runner = planned.load(gguf, Box::new(gpu), &mut |_| {}).unwrap_or_else(|error| panic!("{error}"));
    let (handle, inbox) = queue(1);
    let thread = std::thread::spawn(move || worker::run(runner, inbox, SILENCE));
    let (events, mut received) = mpsc::unbounded_channel();
    let sampling = SamplingParameters { temperature: 1.0, seed: 7, ..SamplingParameters::default() };
    let request =
        Request { sampling, max_tokens: 80, logprobs: Some(1), ..Request::new((0..40).collect::<Vec<_>>(), events) };
    handle.submit(request).unwrap_or_else(|refused| panic!("{refused}"));
    let mut tokens = Vec::new();
    loop {
        match received.blocking_recv() {
            Some(Event::Started { .. }) => {}
            Some(Event::Token { token, .. }) => {
                tokens.push((token.id, token.logprobs.expect("they were asked for").chosen.to_bits()));
            }
            Some(Event::Finished { .. }) => break,
            other => panic!("{other:?} after {} tokens", tokens.len()),
        }
    }
    drop(handle);
    thread.join().expect("the engine does not panic").unwrap_or_else(|error| panic!("{error}"));
    assert!(tokens.len() > 60, "{} tokens", tokens.len());
    tokens
}
