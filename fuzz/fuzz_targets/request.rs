//! Any bytes as a request body: a request whose values are in the engine's ranges, or a 4xx, never a panic.
#![no_main]

use hesper::api::{
    anthropic::request::{self as messages, Purpose},
    chat_request::ChatRequest,
    completion_request::CompletionRequest,
    error::ApiError,
    fields::Unknown,
    json,
    parameters::Parameters,
    responses::request as responses,
};

const VOCABULARY: u32 = 2048;

libfuzzer_sys::fuzz_target!(|body: &[u8]| {
    let value = match json::parse(body) {
        Ok(value) => value,
        Err(error) => return refused(&error),
    };
    for lenient in [false, true] {
        let unknown = || Unknown { lenient, ..Unknown::default() };
        match ChatRequest::parse(value.clone(), VOCABULARY, &mut unknown()) {
            Ok(request) => {
                assert!(!request.messages.is_empty());
                check(&request.parameters);
            }
            Err(error) => refused(&error),
        }
        match CompletionRequest::parse(value.clone(), VOCABULARY, &mut unknown()) {
            Ok(request) => {
                assert!(!request.prompts.is_empty());
                check(&request.parameters);
            }
            Err(error) => refused(&error),
        }
        let translated = [
            messages::translate(value.clone(), Purpose::Answer, &mut unknown()).map(|translated| translated.chat),
            messages::translate(value.clone(), Purpose::Count, &mut unknown()).map(|translated| translated.chat),
            responses::translate(value.clone(), Default::default(), &mut unknown()).map(|translated| translated.chat),
        ];
        for chat in translated {
            match chat {
                // What the dialect takes may still be refused as a chat.
                Ok(chat) => match ChatRequest::parse(chat.0.into(), VOCABULARY, &mut unknown()) {
                    Ok(request) => check(&request.parameters),
                    Err(error) => refused(&error),
                },
                Err(error) => refused(&error),
            }
        }
    }
});

fn refused(error: &ApiError) {
    assert!(error.status.is_client_error(), "{error:?}");
}

fn check(parameters: &Parameters) {
    let sampling = &parameters.sampling;
    assert!((1..=128).contains(&parameters.choices));
    assert!(sampling.temperature == 0.0 || (1e-6..=2.0).contains(&sampling.temperature));
    assert!(sampling.top_p > 0.0 && sampling.top_p <= 1.0);
    assert!((0.0..=1.0).contains(&sampling.min_p));
    assert!(sampling.repetition_penalty >= 0.01);
    assert!(sampling.logit_bias.iter().all(|(id, bias)| *id < VOCABULARY && bias.abs() <= 100.0));
    assert!(parameters.stop_token_ids.iter().all(|id| *id < VOCABULARY));
    assert!(parameters.stop.iter().all(|stop| !stop.is_empty()));
}
