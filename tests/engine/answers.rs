//! One answer: which tokens, how many, and why it ends.

use crate::harness::{CHUNK_ROWS, CONTEXT, Engine, FLAT, Question, REPETITIVE, Setup, by_hand, from_logits_alone};
use hesper::engine::request::FinishReason;
use hesper::kernels::RING_STEPS;

#[test]
fn a_greedy_answer_is_the_models_own() {
    for shape in [REPETITIVE, FLAT] {
        let engine = Engine::of(shape);
        let (mut runner, _) = Setup::of(shape).load();
        for prompt_tokens in [1, 2, CHUNK_ROWS - 1, CHUNK_ROWS, CHUNK_ROWS + 1, 29, CONTEXT - 2, CONTEXT - 1] {
            let question = Question::greedy(prompt_tokens);
            let count = question.max_tokens.min(CONTEXT - prompt_tokens);
            let answer = engine.answer(&question);
            assert_eq!(answer.ids(), from_logits_alone(&mut runner, &question.prompt, count), "{prompt_tokens}");
            let stepped: Vec<u32> = by_hand(&mut runner, &question, count).iter().map(|(id, _)| *id).collect();
            assert_eq!(answer.ids(), stepped, "{prompt_tokens}");
            assert_eq!(answer.reason, FinishReason::Length);
        }
    }
}

/// And the device is asked for no token that nobody wants.
#[test]
fn an_answer_has_max_tokens_or_fills_the_context() {
    let engine = Engine::of(FLAT);
    let mut submits = 0;
    for (prompt_tokens, max_tokens, expected) in [
        (5, 1, 1),
        (5, 2, 2),
        (5, 7, 7),
        (CONTEXT - 5, 4, 4),
        (CONTEXT - 5, 5, 5),
        (CONTEXT - 5, 6, 5),
        (CONTEXT - 5, u32::MAX, 5),
        (CONTEXT - 1, u32::MAX, 1),
    ] {
        let question = Question::greedy(prompt_tokens).max_tokens(max_tokens);
        let asked = question.submit_with(&engine.handle, |request| request.reuse_prefix = false);
        let [answer] = asked.expect("there is room").answers().try_into().expect("one choice");
        assert_eq!(answer.tokens.len() as u32, expected, "{max_tokens} after {prompt_tokens}");
        assert_eq!(answer.reason, FinishReason::Length);
        submits += question.chunks() + expected - 1;
        assert_eq!(engine.device.submits(), submits, "{max_tokens} after {prompt_tokens}");
    }
    let nothing = engine.answer(&Question::greedy(5).max_tokens(0));
    assert_eq!((nothing.tokens, nothing.reason), (vec![], FinishReason::Length));
}

#[test]
fn a_stop_token_ends_the_answer_and_is_not_sent() {
    let engine = Engine::of(FLAT);
    let whole = engine.answer(&Question::sampled(9, 5)).ids();
    for &stop in &whole {
        let first = whole.iter().position(|id| *id == stop).expect("it is one of them");
        // Among others, of which none is in the answer.
        let unused = (0..FLAT.vocabulary).filter(|id| !whole.contains(id)).take(3);
        let stop_tokens: Vec<u32> = unused.chain([stop]).collect();
        for (max_tokens, reason) in [(12, FinishReason::Stop), (first as u32 + 1, FinishReason::Stop)] {
            let question = Question { stop_tokens: stop_tokens.clone(), max_tokens, ..Question::sampled(9, 5) };
            let answer = engine.answer(&question);
            assert_eq!((answer.ids().as_slice(), answer.reason), (&whole[..first], reason), "{stop}");
        }
        let question = Question { stop_tokens, max_tokens: first as u32, ..Question::sampled(9, 5) };
        let cut = engine.answer(&question);
        assert_eq!((cut.ids().as_slice(), cut.reason), (&whole[..first], FinishReason::Length), "{stop}");
    }
}

#[test]
fn chunks_of_any_size_give_the_same_tokens() {
    let prompts = [1, 3, 4, 5, 12, 15, 16, 17, 33, 51];
    let answers = [4, 8, 16].map(|chunk_rows| {
        let engine = Setup { chunk_rows, ..Setup::of(FLAT) }.start();
        prompts.map(|prompt_tokens| engine.answer(&Question::sampled(prompt_tokens, 11)).ids())
    });
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0], answers[2]);
    assert_ne!(answers[0][2], answers[0][3], "the prompt matters");
}

#[test]
fn a_request_leaves_nothing_behind() {
    let engine = Engine::of(FLAT);
    let question = Question::sampled(13, 3);
    let first = engine.answer(&question);
    let mut other = Question::sampled(40, 9).max_tokens(24);
    other.sampling.frequency_penalty = 1.5;
    other.sampling.repetition_penalty = 1.3;
    other.sampling.top_k = 4;
    other.sampling.logit_bias = (0..50).map(|id| (id, 4.0)).collect();
    other.logprobs = Some(3);
    let between = engine.answer(&other);
    assert_ne!(first.ids(), between.ids()[..12]);
    assert_eq!(engine.answer(&question), first);
    assert_eq!(engine.answer(&other), between);
}

/// More steps than the rings have places: none of the lap before is taken for a new one.
#[test]
fn an_answer_may_take_more_steps_than_the_rings_hold() {
    let setup = Setup { context_tokens: 256, ..Setup::of(FLAT) };
    let question = Question::greedy(3).max_tokens(20 * RING_STEPS);
    let mut penalized = question.clone();
    // Greedy, but far from repeating itself: an old token would not be the right one by chance.
    penalized.sampling.frequency_penalty = 3.0;
    let (mut runner, _) = setup.load();
    let engine = setup.start();
    for question in [question, penalized] {
        let stepped: Vec<u32> =
            by_hand(&mut runner, &question, question.max_tokens).iter().map(|(id, _)| *id).collect();
        assert_eq!(engine.answer(&question).ids(), stepped);
    }
}
