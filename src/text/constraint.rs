//! Which tokens may come next in an answer: first its reasoning, within a budget, then text that a grammar allows. It knows
//! nothing of the engine that samples them.

use super::decoder::Decoder;
use super::grammar::{CompiledGrammar, GrammarError};
use super::reasoning::{ReasoningParser, ReasoningStart, ReasoningTags};
use std::collections::VecDeque;

/// What the part of an answer after its reasoning may be.
#[derive(Clone, Debug)]
pub enum Body {
    /// Any text.
    Free,
    /// A text of the grammar, and then the end.
    Grammar(Box<CompiledGrammar>),
}

/// The reasoning before an answer.
#[derive(Clone, Debug)]
pub struct ReasoningRules {
    pub tags: ReasoningTags,
    pub start: ReasoningStart,
    /// Most tokens between the tags; `None`: as many as the answer may have.
    pub budget: Option<u32>,
}

/// The rules of all answers to one request.
#[derive(Clone, Debug)]
pub struct AnswerRules {
    pub(super) reasoning: Option<ReasoningRules>,
    pub(super) body: Body,
    /// The model's tags as tokens, where each is one.
    pub(super) open: Option<u32>,
    pub(super) close: Option<u32>,
    /// What is written when the budget is used up.
    pub(super) closing: Vec<u32>,
    pub(super) stops: Vec<u32>,
    pub(super) vocabulary: usize,
    pub(super) decoder: Decoder,
}

impl AnswerRules {
    /// Whether every token is allowed everywhere, so that nobody need ask.
    pub fn is_free(&self) -> bool {
        matches!(self.body, Body::Free) && self.reasoning.as_ref().is_none_or(|reasoning| reasoning.budget.is_none())
    }

    /// For one answer, from its beginning.
    pub fn begin(&self) -> AnswerConstraint {
        let phase = match &self.reasoning {
            None | Some(ReasoningRules { start: ReasoningStart::Closed, .. }) => Phase::Body,
            Some(ReasoningRules { tags, start, .. }) => Phase::Reasoning {
                parser: ReasoningParser::new(*tags, *start),
                decoder: self.decoder.clone(),
                spent: 0,
            },
        };
        AnswerConstraint { rules: self.clone(), phase }
    }
}

/// The rules of one answer, and where it stands.
pub struct AnswerConstraint {
    rules: AnswerRules,
    phase: Phase,
}

enum Phase {
    /// Before the reasoning or within it. `spent` tokens lie within.
    Reasoning {
        parser: ReasoningParser,
        decoder: Decoder,
        spent: u32,
    },
    /// The budget is used up: these tokens follow.
    Closing(VecDeque<u32>),
    Body,
}

impl AnswerConstraint {
    /// What may follow `last`, which is `None` at the beginning: true when `mask` says it, in which token t is bit t % 32 of
    /// word t / 32 and which is zero before; false when every token may.
    ///
    /// # Errors
    /// A grammar that is too complex at this place.
    pub fn allowed(&mut self, last: Option<u32>, mask: &mut [u32]) -> Result<bool, GrammarError> {
        if let Some(token) = last {
            self.advance(token)?;
        }
        self.close_at_budget();
        let constrained = matches!(self.rules.body, Body::Grammar(_));
        let inside = match &self.phase {
            Phase::Closing(tokens) => {
                tokens.iter().take(1).for_each(|&token| set(mask, token, true));
                return Ok(true);
            }
            Phase::Body => None,
            Phase::Reasoning { parser, .. } => Some(parser.is_inside()),
        };
        let may_open = self.rules.reasoning.as_ref().is_some_and(|reasoning| reasoning.budget != Some(0));
        match (inside, &mut self.rules.body) {
            (None, Body::Grammar(grammar)) => grammar.mask(mask).map(|()| true),
            (Some(false), Body::Grammar(grammar)) => {
                grammar.mask(mask)?;
                // The block must be told apart from the body by its first and last token.
                if let (Some(open), Some(_), true) = (self.rules.open, self.rules.close, may_open) {
                    set(mask, open, true);
                }
                Ok(true)
            }
            (Some(false), Body::Free) if !may_open && self.rules.open.is_some() => {
                self.all_but(self.rules.open.into_iter().collect(), mask);
                Ok(true)
            }
            // An answer that ended here would lack its body.
            (Some(true), _) if constrained => {
                self.all_but(self.rules.stops.clone(), mask);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn all_but(&self, tokens: Vec<u32>, mask: &mut [u32]) {
        (0..self.rules.vocabulary as u32).for_each(|token| set(mask, token, true));
        tokens.into_iter().for_each(|token| set(mask, token, false));
    }

    fn advance(&mut self, token: u32) -> Result<(), GrammarError> {
        match &mut self.phase {
            Phase::Reasoning { parser, decoder, spent } => {
                let was_inside = parser.is_inside();
                parser.push(&decoder.push(token));
                if parser.is_inside() {
                    *spent += u32::from(was_inside);
                } else if was_inside {
                    self.phase = Phase::Body;
                } else if let Body::Grammar(grammar) = &mut self.rules.body {
                    self.phase = Phase::Body;
                    grammar.advance(token)?;
                } else if parser.is_past() {
                    self.phase = Phase::Body;
                }
            }
            Phase::Closing(tokens) => {
                tokens.pop_front();
                if tokens.is_empty() {
                    self.phase = Phase::Body;
                }
            }
            Phase::Body => {
                if let Body::Grammar(grammar) = &mut self.rules.body {
                    grammar.advance(token)?;
                }
            }
        }
        Ok(())
    }

    fn close_at_budget(&mut self) {
        let Phase::Reasoning { parser, spent, .. } = &self.phase else { return };
        let Some(reasoning) = &self.rules.reasoning else { return };
        // Where the tags are no tokens, a block cannot be told from a body that a grammar allows.
        let untold = self.rules.close.is_none() && matches!(self.rules.body, Body::Grammar(_));
        let spent_all = reasoning.budget.is_some_and(|budget| *spent >= budget);
        if parser.is_inside() && (spent_all || untold) {
            self.phase = Phase::Closing(self.rules.closing.iter().copied().collect());
        }
    }
}

fn set(mask: &mut [u32], token: u32, allowed: bool) {
    if let Some(word) = mask.get_mut(token as usize / 32) {
        let bit = 1 << (token % 32);
        *word = if allowed { *word | bit } else { *word & !bit };
    }
}
