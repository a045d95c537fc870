//! Several answers to one prompt.

use crate::harness::{Engine, FLAT, Question};
use hesper::engine::request::FinishReason;
use std::collections::BTreeSet;

const CHOICES: u32 = 5;

/// A choice is the answer to a request of its own with the seed that is its.
fn assert_choices_are_requests(engine: &Engine, question: &Question) -> BTreeSet<Vec<u32>> {
    let choices = engine.answers(question);
    assert_eq!(choices.len() as u32, question.choices);
    assert_eq!(engine.answers(question), choices, "the same request gives the same tokens");
    for (index, choice) in (0..).zip(&choices) {
        let mut single = Question { choices: 1, ..question.clone() };
        single.sampling.seed = question.sampling.seed.wrapping_add(index);
        assert_eq!(engine.answer(&single), *choice, "choice {index}");
    }
    choices.iter().map(|choice| choice.ids()).collect()
}

#[test]
fn choices_are_single_requests_with_the_next_seeds() {
    let engine = Engine::of(FLAT);
    for prompt_tokens in [1, 4, 8, 9, 23] {
        let question = Question::sampled(prompt_tokens, 100).choices(CHOICES);
        let different = assert_choices_are_requests(&engine, &question);
        assert_eq!(different.len() as u32, CHOICES, "at temperature 1 they differ");
    }
}

#[test]
fn also_with_penalties_logprobs_stop_tokens_and_the_last_seed() {
    let engine = Engine::of(FLAT);
    let mut question = Question::sampled(17, u64::MAX - 2).choices(CHOICES).max_tokens(20);
    question.sampling.frequency_penalty = 0.7;
    question.sampling.presence_penalty = 0.4;
    question.sampling.repetition_penalty = 1.2;
    question.logprobs = Some(2);
    question.stop_tokens = (0..4).collect();
    let reasons: BTreeSet<bool> =
        engine.answers(&question).iter().map(|choice| choice.reason == FinishReason::Stop).collect();
    assert_eq!(reasons.len(), 2, "some choices end at a stop token, others do not");
    assert_choices_are_requests(&engine, &question);
}

#[test]
fn greedy_choices_are_equal() {
    let engine = Engine::of(FLAT);
    let choices = engine.answers(&Question::greedy(11).choices(3));
    assert!(choices[0].tokens.len() == 12 && choices.iter().all(|choice| *choice == choices[0]));
}

#[test]
fn the_prompt_is_evaluated_once() {
    let engine = Engine::of(FLAT);
    let question = Question::sampled(40, 1).choices(CHOICES).max_tokens(6);
    engine.answers(&question);
    // Every further choice finds the full block of 32 tokens, and evaluates what is behind it: one chunk of eight.
    assert_eq!(engine.device.submits(), question.chunks() + (CHOICES - 1) + CHOICES * 5);
}
