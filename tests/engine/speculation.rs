//! Drafts make answers come in fewer steps and never change them: greedy or drawn, alone or beside others, whatever ends
//! them, and with whatever the cache has of them afterwards.

use crate::harness::{Answer, Asked, Engine, FLAT, Question, REPETITIVE, Setup, prompt, until};
use hesper::engine::request::{Allowed, Constraints, FinishReason};
use std::sync::Arc;

const DRAFT_MAX: u32 = 7;

fn setup(sequences: u32) -> Setup {
    let shape = Setup::of(REPETITIVE);
    Setup { context_tokens: 128, sequences, chunk_rows: 16, capacity: 64, draft_max: DRAFT_MAX, ..shape }
}

/// A prompt that says the same three times, as copying does.
fn repeating(tokens: u32, seed: u32) -> Vec<u32> {
    let passage: Vec<u32> = prompt(tokens + seed).split_off(seed as usize);
    passage.repeat(3)
}

fn questions() -> Vec<Question> {
    let of = |prompt: Vec<u32>, question: Question| Question { prompt, max_tokens: 40, ..question };
    let mut questions = vec![
        of(repeating(9, 0), Question::greedy(1)),
        of(repeating(21, 1), Question::sampled(1, 5)),
        of(repeating(5, 2), Question { logprobs: Some(2), ..Question::greedy(1) }),
        of(prompt(31), Question::greedy(1)),
        of(repeating(12, 3), Question::sampled(1, 6).choices(3)),
        of(repeating(7, 4), Question::greedy(1)),
        of(repeating(7, 5), Question::greedy(1)),
    ];
    questions[1].sampling.temperature = 0.8;
    questions[5].sampling.repetition_penalty = 1.2;
    questions[6].sampling.logit_bias = vec![(3, 2.0)];
    questions
}

fn without(setup: Setup, questions: &[Question]) -> Vec<Vec<Answer>> {
    let engine = Setup { draft_max: 0, sequences: 1, ..setup }.start();
    let answers = questions.iter().map(|question| engine.answers(question)).collect();
    assert_eq!(engine.handle.stats().drafted_tokens.get(), 0);
    answers
}

#[test]
fn answers_are_the_same_in_fewer_steps() {
    for (shape, repeats) in [(REPETITIVE, true), (FLAT, false)] {
        let setup = Setup { shape, ..setup(1) };
        let expected = without(setup, &questions());
        let engine = setup.start();
        for (index, (question, expected)) in questions().iter().zip(&expected).enumerate() {
            let steps = engine.handle.stats().steps.get();
            assert_eq!(engine.answers(question), *expected, "question {index}");
            if repeats && index == 0 {
                let steps = engine.handle.stats().steps.get() - steps;
                assert!(steps < 20, "{steps} steps for 40 tokens that repeat themselves");
            }
        }
        let stats = engine.handle.stats();
        let (drafted, accepted) = (stats.drafted_tokens.get(), stats.accepted_tokens.get());
        assert!(accepted > 0 && accepted <= drafted, "{accepted} of {drafted}");
        if !repeats {
            assert!(accepted < drafted, "some drafts are wrong");
        }
        let sampled: usize = expected.iter().flatten().map(|answer| answer.tokens.len()).sum();
        assert_eq!(stats.sampled_tokens.get(), sampled as u64, "what was drafted in vain is no token");
        engine.end().expect("the device works");
    }
}

#[test]
fn beside_others_too() {
    let questions: Vec<Question> = questions().into_iter().cycle().take(10).collect();
    let expected = without(setup(1), &questions);
    for (sequences, cache_tokens) in [(2, None), (3, Some(128)), (10, None)] {
        let engine = Setup { cache_tokens, ..setup(sequences) }.start();
        for what in if sequences == 2 { &["cold", "warm"][..] } else { &["cold"] } {
            engine.device.hold_after(engine.device.submits());
            let asked: Vec<Asked> = questions.iter().map(|question| engine.ask(question)).collect();
            engine.device.open();
            for (index, (asked, expected)) in asked.into_iter().zip(&expected).enumerate() {
                let same = asked.answers() == *expected;
                assert!(same, "{sequences} at once, {what}: question {index} has another answer");
            }
        }
        let stats = engine.handle.stats();
        assert!(stats.accepted_tokens.get() > 0, "{sequences} at once");
        until("no block is held", || stats.blocks_held.get() == 0);
        engine.end().expect("the device works");
    }
}

/// Whatever length an answer ends at, nothing comes behind it.
#[test]
fn answers_end_amid_drafts() {
    let long = Question { max_tokens: 60, ..questions()[0].clone() };
    let expected = without(setup(1), std::slice::from_ref(&long))[0][0].ids();
    let engine = setup(1).start();
    for length in 1..30 {
        let answer = engine.answer(&long.clone().max_tokens(length));
        assert_eq!((answer.ids(), answer.reason), (expected[..length as usize].to_vec(), FinishReason::Length));
    }
    // It ends at a stop token's first place, which is likely amid a draft.
    for &stop in &expected[10..14] {
        let first = expected.iter().position(|&token| token == stop).expect("it is there");
        let answer = engine.answer(&Question { stop_tokens: vec![stop], ..long.clone() });
        assert_eq!((answer.ids(), answer.reason), (expected[..first].to_vec(), FinishReason::Stop));
    }
    assert!(engine.handle.stats().accepted_tokens.get() > 0);
    let to_the_end = Question { max_tokens: u32::MAX, ..long.clone() };
    assert_eq!(engine.answer(&to_the_end).tokens.len(), 128 - long.prompt.len());
}

/// Tokens that were drafted in vain leave keys and values behind; what is found in the cache has none of them.
#[test]
fn the_cache_keeps_nothing_of_wrong_drafts() {
    let setup = Setup { shape: FLAT, ..setup(1) };
    let engine = setup.start();
    for seed in 0..6 {
        let mut first = Question { prompt: repeating(10, seed), ..Question::sampled(1, seed.into()).max_tokens(60) };
        // So that it repeats itself for a while and then does not.
        first.sampling.temperature = 0.5;
        let mut continued = first.prompt.clone();
        continued.extend(engine.answer(&first).ids());
        let second = Question { prompt: continued, ..Question::sampled(1, 99).max_tokens(20) };
        let hits = engine.handle.stats().prefix_hit_tokens.get();
        assert_eq!(engine.answers(&second), without(setup, std::slice::from_ref(&second))[0], "seed {seed}");
        assert!(engine.handle.stats().prefix_hit_tokens.get() >= hits + 64, "seed {seed}: the answer is in the cache");
    }
    let stats = engine.handle.stats();
    assert!(stats.accepted_tokens.get() < stats.drafted_tokens.get(), "some drafts were wrong");
}

#[test]
fn requests_say_whether_and_from_what() {
    let engine = setup(1).start();
    let drafted = |engine: &Engine| engine.handle.stats().drafted_tokens.get();
    let question = &questions()[0];
    let expected = without(setup(1), std::slice::from_ref(question)).remove(0);
    let asked = question.submit_with(&engine.handle, |request| request.speculate = false).expect("there is room");
    assert_eq!(asked.answers(), expected);
    assert_eq!(drafted(&engine), 0, "this one wants none");
    let any = Constraints(Arc::new(|| Box::new(|_, _| Ok(Allowed::Any))));
    let asked = question.submit_with(&engine.handle, |request| request.constraint = Some(any)).expect("there is room");
    assert_eq!(asked.answers(), expected);
    let mut counted = question.clone();
    counted.sampling.frequency_penalty = 0.1;
    engine.answers(&counted);
    assert_eq!(drafted(&engine), 0, "neither with a constraint nor with penalties");

    // An answer of many different tokens, of which the prompt has none.
    let flat = Setup { shape: FLAT, ..setup(1) };
    let engine = flat.start();
    let question = Question::sampled(3, 8).max_tokens(60);
    let asked = question.submit_with(&engine.handle, |request| request.speculate = false).expect("there is room");
    let expected = asked.answers();
    let prediction = expected[0].ids();
    let steps = engine.handle.stats().steps.get();
    let asked =
        question.submit_with(&engine.handle, |request| request.prediction = prediction.clone()).expect("there is room");
    assert_eq!(asked.answers(), expected);
    let stats = engine.handle.stats();
    assert!(stats.steps.get() - steps < 30, "{} steps", stats.steps.get() - steps);
}
