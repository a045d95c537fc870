//! One answer in the making, and the request that it belongs to.

use super::blocks::Node;
use super::draft::Drafter;
use super::request::{Allowed, Constraint, Event, FinishReason, Request};
use super::waiting::Rank;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

/// A request with what is known of it since it was taken.
pub struct Live {
    pub request: Request,
    /// Its first answer left the queue.
    pub started: Cell<bool>,
    /// Answers that are not complete.
    pub open: Cell<u32>,
    /// All its answers are queued, or further.
    pub spread: Cell<bool>,
}

impl Live {
    pub fn new(request: Request) -> Rc<Live> {
        let open = Cell::new(request.choices.max(1));
        Rc::new(Live { request, started: Cell::new(false), open, spread: Cell::new(false) })
    }

    /// Sends to a client that may be gone, which [`Live::is_gone`] tells.
    pub fn send(&self, event: Event) {
        let _ = self.request.events.send(event);
    }

    pub fn is_gone(&self) -> bool {
        self.request.events.is_closed()
    }

    pub fn is_late(&self, now: Instant) -> bool {
        self.request.deadline.is_some_and(|deadline| deadline <= now)
    }
}

/// What the next token may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restriction {
    None,
    Mask(Vec<u32>),
}

/// One answer, wherever it stands: it can lose its place and its blocks and go on later.
pub struct Sequence {
    pub live: Rc<Live>,
    pub choice: u32,
    pub rank: Rank,
    /// Prompt and answer.
    pub tokens: Vec<u32>,
    pub prompt_tokens: usize,
    /// Most tokens that it may come to have.
    pub end: usize,
    pub seed: u64,
    constraint: Option<Constraint>,
    pub restriction: Restriction,
    /// Where drafts come from, if the sequence may have any.
    pub drafter: Option<Drafter>,
}

impl Sequence {
    /// # Errors
    /// What the constraint says when it cannot begin.
    pub fn new(
        live: &Rc<Live>,
        choice: u32,
        rank: Rank,
        context_tokens: u32,
        mask_words: usize,
    ) -> Result<Sequence, String> {
        let request = &live.request;
        let prompt_tokens = request.tokens.len();
        let room = (context_tokens as usize).saturating_sub(prompt_tokens);
        let mut sequence = Sequence {
            live: live.clone(),
            choice,
            rank,
            tokens: request.tokens.clone(),
            prompt_tokens,
            end: prompt_tokens + room.min(request.max_tokens as usize),
            seed: request.sampling.seed.wrapping_add(choice.into()),
            constraint: request.constraint.as_ref().map(|constraints| (constraints.0)()),
            restriction: Restriction::None,
            drafter: None,
        };
        if request.speculate && !request.sampling.has_penalties() && request.constraint.is_none() {
            sequence.drafter = Some(Drafter::new(&request.prediction));
        }
        sequence.restrict(None, mask_words)?;
        Ok(sequence)
    }

    pub fn is_constrained(&self) -> bool {
        self.constraint.is_some()
    }

    /// Asks the constraint what may follow `sampled`.
    fn restrict(&mut self, sampled: Option<u32>, mask_words: usize) -> Result<(), String> {
        let Some(constraint) = &mut self.constraint else { return Ok(()) };
        let mut mask = match std::mem::replace(&mut self.restriction, Restriction::None) {
            Restriction::Mask(mut mask) => {
                mask.fill(0);
                mask
            }
            Restriction::None => vec![0; mask_words],
        };
        if constraint(sampled, &mut mask)? == Allowed::Masked {
            self.restriction = Restriction::Mask(mask);
        }
        Ok(())
    }

    /// Takes the next token. Says how the answer ends if it does; the token that ends it by being one of the stop tokens is
    /// no part of it.
    pub fn take(&mut self, token: u32, mask_words: usize) -> Result<(bool, Option<FinishReason>), String> {
        let request = &self.live.request;
        if request.stop_tokens.contains(&token) || request.ended.is_ended(self.choice) {
            return Ok((false, Some(FinishReason::Stop)));
        }
        self.tokens.push(token);
        if self.tokens.len() >= self.end {
            return Ok((true, Some(FinishReason::Length)));
        }
        self.restrict(Some(token), mask_words)?;
        Ok((true, None))
    }
}

/// A sequence that has a slot of the step and blocks of the cache.
pub struct Placed {
    pub sequence: Sequence,
    /// Never used twice, so that what comes of a step finds its sequence or nobody.
    pub id: u64,
    pub slot: u32,
    pub blocks: Vec<u32>,
    /// The last block that was remembered, and how many were.
    pub node: Node,
    pub remembered: usize,
    /// Tokens whose evaluation was submitted; may exceed those that are known.
    pub submitted: usize,
}

impl Placed {
    /// Tokens that are known and not evaluated; 1 where the next one is only known to the device. 0: it must wait, since
    /// the answer would be too long, or what may come next depends on what is in flight.
    pub fn pending(&self) -> u32 {
        let known = self.sequence.tokens.len();
        if self.submitted < known {
            return (known - self.submitted) as u32;
        }
        let ends = self.submitted + 1 >= self.sequence.end;
        u32::from(!ends && !self.sequence.is_constrained())
    }

    /// The row at this position is the last whose token is known, or behind: its successor is to be sampled.
    pub fn is_output(&self, position: usize) -> bool {
        position + 1 >= self.sequence.tokens.len()
    }
}
