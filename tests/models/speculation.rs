//! Drafts leave answers as they are on a device too: greedy and drawn, alone, beside one and beside sixteen others.

use crate::batching::{Engine, answer};
use crate::device;
use crate::fixtures::Fixture;
use hesper::engine::request::{Event, FinishReason, Request, SamplingParameters, Token};
use hesper::engine::runner::Options;
use hesper::kernels::policy::Policy;
use tokio::sync::mpsc;

const ASKED: usize = 17;

type Answer = (Vec<Token>, FinishReason);

/// Prompts that say something twice, so that the answer may say it again.
fn request(fixture: &Fixture, index: usize, events: mpsc::UnboundedSender<Event>) -> Request {
    let passage: Vec<u32> = fixture.tokens.iter().cycle().skip(index).take(10 + 7 * (index % 9)).copied().collect();
    let temperature = if index.is_multiple_of(2) { 0.0 } else { 0.8 };
    let sampling = SamplingParameters { temperature, seed: index as u64, ..SamplingParameters::default() };
    let logprobs = index.is_multiple_of(5).then_some(2);
    Request { sampling, max_tokens: 48, logprobs, ..Request::new(passage.repeat(2), events) }
}

/// The answers of an engine that is asked so many at once, and its counts of tokens drafted and accepted.
fn answers(fixture: &Fixture, options: Options) -> Option<(Vec<Answer>, [u64; 2])> {
    let engine = Engine::start(fixture, options)?;
    let ask = |index| {
        let (events, answer) = mpsc::unbounded_channel();
        engine.handle.submit(request(fixture, index, events)).unwrap_or_else(|refused| panic!("{refused}"));
        answer
    };
    let asked: Vec<_> = (0..ASKED).map(ask).collect();
    let answers = asked.into_iter().map(answer).collect();
    let stats = engine.handle.stats();
    let drafts = [stats.drafted_tokens.get(), stats.accepted_tokens.get()];
    engine.end();
    Some((answers, drafts))
}

fn assert_the_same_with_drafts(policy: impl Fn(&hesper::gpu::Gpu) -> Policy) {
    let fixture = Fixture::demo();
    let Some(policy) = device::gpu().map(|gpu| policy(&gpu)) else { return };
    let plain = Options { context_tokens: Some(256), chunk_rows: 16, ..Options::alone(policy) };
    let Some((expected, drafts)) = answers(&fixture, plain) else { return };
    assert_eq!(drafts, [0, 0]);
    for sequences in [1, 2, ASKED as u32] {
        let options = Options { draft_max: 15, sequences, ..plain };
        let Some((actual, [drafted, accepted])) = answers(&fixture, options) else { return };
        eprintln!("{sequences} at once: {accepted} of {drafted} drafted tokens were accepted");
        for (index, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
            assert!(actual == expected, "{sequences} at once: request {index} has another answer");
        }
        // Where all are answered at once, too few may be left at the end.
        assert!(sequences > 2 || accepted > 0 && accepted < drafted, "{sequences} at once: {accepted} of {drafted}");
    }
}

#[test]
fn drafts_change_no_answer() {
    assert_the_same_with_drafts(device::policy);
}

/// What is chosen for GPUs holds to the same, on whatever device there is.
#[test]
fn drafts_change_no_answer_with_the_geometry_of_gpus() {
    assert_the_same_with_drafts(|_| Policy::GPU);
}
