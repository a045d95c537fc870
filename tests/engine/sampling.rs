//! What a request may ask of sampling, seen in the tokens that come out. The kernel itself is tested elsewhere.

use crate::harness::{Engine, FLAT, Question, REPETITIVE, Setup, by_hand};
use hesper::engine::request::MAX_LOGIT_BIAS;
use std::collections::BTreeSet;

fn distinct(ids: &[u32]) -> usize {
    ids.iter().collect::<BTreeSet<_>>().len()
}

/// log-softmax, plainly.
fn log_probabilities(logits: &[f32]) -> Vec<f64> {
    let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponent = |x: f32| f64::from(x) - f64::from(greatest);
    let sum: f64 = logits.iter().map(|x| exponent(*x).exp()).sum();
    logits.iter().map(|x| exponent(*x) - sum.ln()).collect()
}

#[test]
fn logprobs_are_those_of_the_logits_and_change_no_token() {
    let engine = Engine::of(FLAT);
    let (mut runner, _) = Setup::of(FLAT).load();
    let mut biased = Question::sampled(10, 21);
    // Log-probabilities are the model's own, whatever the request makes of them.
    biased.sampling.logit_bias = vec![(7, 3.0)];
    biased.sampling.temperature = 1.7;
    for question in [Question::greedy(10), Question::sampled(1, 20), biased] {
        let plain = engine.answer(&question);
        let stepped = by_hand(&mut runner, &question, question.max_tokens);
        for count in [0, 1, 5, 20] {
            let answer = engine.answer(&Question { logprobs: Some(count), ..question.clone() });
            assert_eq!((answer.ids(), answer.reason), (plain.ids(), plain.reason));
            for (token, (id, logits)) in answer.tokens.iter().zip(&stepped) {
                assert_eq!(token.id, *id);
                let expected = log_probabilities(logits);
                let close = |found: f32, id: u32| (f64::from(found) - expected[id as usize]).abs() < 1e-5;
                let logprobs = token.logprobs.as_ref().expect("they were asked for");
                assert!(close(logprobs.chosen, token.id), "{logprobs:?}");
                assert_eq!(logprobs.top.len(), usize::from(count));
                assert!(logprobs.top.iter().all(|&(id, found)| close(found, id)), "{logprobs:?}");
                let mut sorted = expected.clone();
                sorted.sort_by(|a, b| b.total_cmp(a));
                let found: Vec<f64> = logprobs.top.iter().map(|&(id, _)| expected[id as usize]).collect();
                assert_eq!(found, sorted[..usize::from(count)], "the most probable, in order");
                assert_eq!(distinct(&logprobs.top.iter().map(|(id, _)| *id).collect::<Vec<_>>()), found.len());
            }
        }
        assert!(plain.tokens.iter().all(|token| token.logprobs.is_none()));
    }
}

#[test]
fn penalties_keep_a_model_from_repeating_itself() {
    let engine = Engine::of(REPETITIVE);
    let question = Question::greedy(6).max_tokens(50);
    let plain = engine.answer(&question).ids();
    assert!(distinct(&plain) < 40, "this model repeats itself: {plain:?}");
    let mut frequency = question.clone();
    frequency.sampling.frequency_penalty = 1000.0;
    let mut presence = question.clone();
    presence.sampling.presence_penalty = 1000.0;
    for penalized in [frequency, presence] {
        let ids = engine.answer(&penalized).ids();
        assert_eq!(distinct(&ids), 50, "{ids:?}");
        assert_eq!(ids[0], plain[0], "nothing is penalized yet");
        // Every choice begins anew.
        let choices = engine.answers(&Question { choices: 2, ..penalized });
        assert_eq!([choices[0].ids(), choices[1].ids()], [ids.clone(), ids]);
    }
}

/// Unlike the other penalties it counts the prompt too.
#[test]
fn repetition_penalty_moves_away_from_the_prompt() {
    let engine = Engine::of(REPETITIVE);
    // The penalty divides what is positive, so it forbids a token only beside others that are positive too.
    let mut question = Question::greedy(20);
    question.sampling.logit_bias = (0..REPETITIVE.vocabulary).map(|id| (id, 100.0)).collect();
    let plain = engine.answer(&question).ids();
    assert!(plain.iter().any(|id| question.prompt.contains(id)), "{plain:?}");
    question.sampling.repetition_penalty = 1e6;
    let ids = engine.answer(&question).ids();
    assert_eq!(distinct(&ids), ids.len(), "{ids:?}");
    assert!(!ids.iter().any(|id| question.prompt.contains(id)), "{ids:?}");
}

#[test]
fn logit_bias_forbids_and_forces() {
    for shape in [REPETITIVE, FLAT] {
        let engine = Engine::of(shape);
        let question = Question::greedy(6).max_tokens(20);
        let plain = engine.answer(&question).ids();
        let mut forbidden = question.clone();
        forbidden.sampling.logit_bias =
            plain.iter().collect::<BTreeSet<_>>().into_iter().map(|id| (*id, -100.0)).collect();
        let ids = engine.answer(&forbidden).ids();
        assert!(!ids.iter().any(|id| plain.contains(id)), "{ids:?} holds some of {plain:?}");
        for forced in [0, 33, shape.vocabulary - 1] {
            let mut question = Question::sampled(6, 1);
            question.sampling.logit_bias = vec![(forced, 100.0)];
            assert_eq!(engine.answer(&question).ids(), [forced; 12]);
        }
    }
}

#[test]
fn as_many_biases_as_are_allowed() {
    assert!(MAX_LOGIT_BIAS > FLAT.vocabulary as usize, "entries must repeat to be so many");
    let engine = Engine::of(FLAT);
    let mut question = Question::sampled(6, 1);
    let plain = engine.answer(&question);
    question.sampling.logit_bias = (0..MAX_LOGIT_BIAS as u32 - 1).map(|index| (index % 60, 0.0)).collect();
    question.sampling.logit_bias.push((61, 0.0));
    assert_eq!(engine.answer(&question), plain, "zeros change nothing");
    question.sampling.logit_bias[MAX_LOGIT_BIAS - 1] = (61, 100.0);
    assert_eq!(engine.answer(&question).ids(), [61; 12], "the last entry counts");
}
