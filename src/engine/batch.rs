//! Continuous batching: sequences come and go between any two steps, prompts are evaluated in pieces beside sequences that
//! decode, and the cache is shared out in blocks.

use super::blocks::{Blocks, Prefix, TOKENS};
use super::request::Event;
use super::runner::{Runner, StepNumber, StepRows};
use super::schedule;
use super::sequence::{Placed, Restriction, Sequence};
use super::stats::Stats;
use crate::kernels::{RING_STEPS, Row, SAMPLED_LAST};
use crate::plan::ExecutorError;
use std::collections::{HashMap, VecDeque};

/// Steps in flight: while the host looks at one's tokens, the device works on the next.
pub const IN_FLIGHT: usize = 3;
/// The same when the next one evaluates prompts: such steps are long, and whoever comes meanwhile waits for them.
const PROMPTS_IN_FLIGHT: usize = 2;
const _: () = assert!(IN_FLIGHT < RING_STEPS as usize);

/// A submitted step.
pub struct Flight {
    pub number: StepNumber,
    /// Sequences, by id, with the tokens that they have in the cache when it is done.
    parts: Vec<(u64, usize)>,
    outputs: Vec<Output>,
    /// Nothing is submitted behind it: its raw logits are wanted, which only the last step in flight has, or the rows of
    /// the next step depend on what it samples.
    last: bool,
}

/// A row of a step for which a token is sampled. Those of one sequence stand together.
struct Output {
    /// Its sequence.
    id: u64,
    /// The token that the row behind it takes for the one to be sampled; `None` where no row does.
    drafted: Option<u32>,
}

/// Least rows of a sequence with a draft: the fewest that make it worthwhile.
const DRAFT_ROWS_MIN: usize = 4;

/// The sequences that have a place, and the runner that they share.
pub struct Batch {
    pub runner: Runner,
    blocks: Blocks,
    /// The most urgent first.
    placed: Vec<Placed>,
    free_slots: Vec<u32>,
    /// Slots of sequences that are gone, with the last step that may use them.
    leaving: Vec<(u32, Option<StepNumber>)>,
    flights: VecDeque<Flight>,
    ids: u64,
}

impl Batch {
    pub fn new(runner: Runner) -> Batch {
        let sizes = runner.model().sizes;
        Batch {
            runner,
            blocks: Blocks::new(sizes.cache_blocks),
            placed: Vec::new(),
            free_slots: (0..sizes.sequences).rev().collect(),
            leaving: Vec::new(),
            flights: VecDeque::new(),
            ids: 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.placed.is_empty() && self.flights.is_empty()
    }

    pub fn placed(&self) -> impl Iterator<Item = &Placed> {
        self.placed.iter()
    }

    /// A place for `sequence`: a slot, and blocks for the tokens that it has. Gives it back when there is none now, else the
    /// number of its tokens that the cache had.
    pub fn place(&mut self, sequence: Sequence) -> Result<usize, Box<Sequence>> {
        let Some(slot) = self.free_slots.pop() else { return Err(Box::new(sequence)) };
        // Choices of one request share their prompt in any case.
        let reuse = sequence.live.request.reuse_prefix || sequence.choice > 0;
        let Prefix { mut blocks, node } = self.blocks.find(if reuse { &sequence.tokens } else { &[] });
        let (found, wanted) = (blocks.len(), sequence.tokens.len().div_ceil(TOKENS));
        // Those that run will need more soon, and would have to be thrown out.
        let reserve = self.placed.len();
        if wanted - found + reserve > self.blocks.available() as usize && !(self.placed.is_empty()) {
            self.blocks.release(&blocks);
            self.free_slots.push(slot);
            return Err(Box::new(sequence));
        }
        blocks.extend(std::iter::from_fn(|| self.blocks.take()).take(wanted - found));
        debug_assert_eq!(blocks.len(), wanted, "one sequence always fits");
        self.runner.put_blocks(slot, 0, &blocks);
        let (prompt, answer) = sequence.tokens.split_at(sequence.prompt_tokens);
        self.runner.begin(slot, prompt, answer, &sequence.live.request.sampling, sequence.seed);
        self.ids += 1;
        let placed =
            Placed { sequence, id: self.ids, slot, blocks, node, remembered: found, submitted: found * TOKENS };
        restrict(&mut self.runner, &placed);
        let at = self.placed.partition_point(|other| other.sequence.rank <= placed.sequence.rank);
        self.placed.insert(at, placed);
        Ok(found * TOKENS)
    }

    /// Takes a sequence's place from it. What it has in the cache may be found again.
    fn displace(&mut self, at: usize) -> Sequence {
        let placed = self.placed.remove(at);
        self.blocks.release(&placed.blocks);
        self.leaving.push((placed.slot, self.flights.back().map(|flight| flight.number)));
        self.free_slots();
        placed.sequence
    }

    /// Takes out every sequence that `gone` says so of.
    pub fn remove(&mut self, mut gone: impl FnMut(&Placed) -> bool) -> Vec<Sequence> {
        let mut out = Vec::new();
        for at in (0..self.placed.len()).rev() {
            if gone(&self.placed[at]) {
                out.push(self.displace(at));
            }
        }
        out
    }

    /// Slots that no step in flight uses can be given to others.
    fn free_slots(&mut self) {
        let oldest = self.flights.front().map(|flight| flight.number);
        let free = |last: Option<StepNumber>| oldest.is_none() || last < oldest;
        self.free_slots.extend(self.leaving.extract_if(.., |(_, last)| free(*last)).map(|(slot, _)| slot));
    }

    /// A block more for the sequence at `at`; sequences that are less urgent lose their place for it, or it its own.
    fn grow(&mut self, at: usize, displaced: &mut Vec<Sequence>) -> bool {
        loop {
            if let Some(block) = self.blocks.take() {
                let placed = &mut self.placed[at];
                placed.blocks.push(block);
                self.runner.put_blocks(placed.slot, placed.blocks.len() - 1, &[block]);
                return true;
            }
            let last = self.placed.len() - 1;
            displaced.push(self.displace(last));
            if last == at {
                return false;
            }
        }
    }

    /// Submits the next step, unless there is nothing to do before one in flight is done. Sequences that lost their places
    /// to others are added to `displaced`.
    pub fn submit(&mut self, displaced: &mut Vec<Sequence>, stats: &Stats) -> Result<bool, ExecutorError> {
        if self.flights.len() >= IN_FLIGHT || self.flights.iter().any(|flight| flight.last) {
            return Ok(false);
        }
        let pending: Vec<(u64, u32)> =
            self.placed.iter().map(|placed| (placed.id, placed.pending())).filter(|(_, tokens)| *tokens > 0).collect();
        if pending.is_empty() {
            return Ok(false);
        }
        let tokens: Vec<u32> = pending.iter().map(|(_, tokens)| *tokens).collect();
        let drafts = self.drafts();
        if !drafts.is_empty() && !self.flights.is_empty() {
            // A draft stands behind known tokens. Those in flight show on the way whether it is right so far.
            return Ok(false);
        }
        if self.flights.len() >= PROMPTS_IN_FLIGHT && tokens.iter().any(|tokens| *tokens > 1) {
            return Ok(false);
        }
        let shares = schedule::share(&tokens, self.runner.model().sizes.prefill_rows());
        let mut step = StepRows { plan_rows: shares.rows, ..StepRows::default() };
        let mut flight =
            Flight { number: StepNumber::default(), parts: Vec::new(), outputs: Vec::new(), last: !drafts.is_empty() };
        // In the order of urgency, so that those which lose their places are not in the step yet.
        for (&(id, _), &share) in pending.iter().zip(&shares.tokens) {
            let draft = drafts.get(&id).map(Vec::as_slice).unwrap_or_default();
            self.add(id, (share, draft), &mut step, &mut flight, displaced);
        }
        // Drafts make it longer than its share.
        step.plan_rows = step.plan_rows.max((step.rows.len() as u32).next_power_of_two());
        if step.rows.is_empty() {
            return Ok(false);
        }
        stats.count_step(flight.parts.len() as u32);
        stats.prompt_tokens.add((step.rows.len() - step.outputs.len()) as u64);
        flight.number = self.runner.submit(&step)?;
        for &(id, submitted) in &flight.parts {
            if let Some(placed) = self.placed.iter_mut().find(|placed| placed.id == id) {
                placed.submitted = submitted;
            }
        }
        self.flights.push_back(flight);
        Ok(true)
    }

    /// Drafts, by sequence, for the next step: none where a prompt waits to be evaluated, or so many sequences decode that
    /// the device has enough to do with one token of each.
    fn drafts(&mut self) -> HashMap<u64, Vec<u32>> {
        let sizes = self.runner.model().sizes;
        let share = sizes.draft_rows() as usize / self.placed.len().max(1);
        if share < DRAFT_ROWS_MIN || self.placed.iter().any(|placed| placed.pending() > 1) {
            return HashMap::new();
        }
        let most = (share - 1).min(sizes.draft_max as usize);
        let draft = |placed: &mut Placed| {
            let sequence = &mut placed.sequence;
            // The last token is sampled and not drafted.
            let room = most.min(sequence.end.saturating_sub(sequence.tokens.len() + 1));
            let drafter = sequence.drafter.as_mut()?;
            drafter.extend(&sequence.tokens);
            Some((placed.id, drafter.draft(room))).filter(|(_, draft)| !draft.is_empty())
        };
        self.placed.iter_mut().filter_map(draft).collect()
    }

    /// Adds `share` tokens of a sequence to a step, and a draft behind them, if it is still there and gets the blocks for
    /// them. A draft gets those that nobody holds.
    fn add(
        &mut self,
        id: u64,
        (share, draft): (u32, &[u32]),
        step: &mut StepRows,
        flight: &mut Flight,
        displaced: &mut Vec<Sequence>,
    ) {
        let Some(at) = self.placed.iter().position(|placed| placed.id == id) else { return };
        let first = self.placed[at].submitted;
        let end = first + share as usize;
        if share == 0 {
            return;
        }
        while self.placed[at].blocks.len() * TOKENS < end {
            if !self.grow(at, displaced) {
                return;
            }
        }
        while self.placed[at].blocks.len() * TOKENS < end + draft.len() && self.blocks.available() > 0 {
            self.grow(at, displaced);
        }
        let placed = &self.placed[at];
        let draft = &draft[..draft.len().min(placed.blocks.len() * TOKENS - end)];
        let known = placed.sequence.tokens.get(first..end.min(placed.sequence.tokens.len())).unwrap_or_default();
        let unknown = std::iter::repeat_n(SAMPLED_LAST, share as usize - known.len());
        for (position, token) in (first as u32..).zip(known.iter().copied().chain(unknown).chain(draft.iter().copied()))
        {
            step.rows.push(Row { token, position, sequence: placed.slot, live: 1 });
        }
        flight.parts.push((id, end));
        if placed.is_output(end - 1) {
            let guesses = draft.iter().copied().map(Some).chain([None]);
            flight.outputs.extend(guesses.map(|drafted| Output { id, drafted }));
            let rows = step.rows.len() as u32;
            step.outputs.extend(rows - 1 - draft.len() as u32..rows);
            flight.last |= placed.sequence.live.request.logprobs.is_some();
        }
    }

    /// The step that will be done first.
    pub fn oldest(&self) -> Option<(StepNumber, usize)> {
        self.flights.front().map(|flight| (flight.number, flight.outputs.len()))
    }

    /// Takes what has come of the oldest step, which is done: each sequence that is still there, with its token and its
    /// place among the outputs; with several where a draft was right, in order.
    pub fn land(&mut self, stats: &Stats) -> Vec<(u64, u32, usize)> {
        let Some(flight) = self.flights.pop_front() else { return Vec::new() };
        for &(id, evaluated) in &flight.parts {
            if let Some(at) = self.placed.iter().position(|placed| placed.id == id) {
                self.remember(at, evaluated);
            }
        }
        self.free_slots();
        let (mut landed, mut first) = (Vec::new(), 0);
        for outputs in flight.outputs.chunk_by(|one, other| one.id == other.id) {
            let (id, drafted) = (outputs[0].id, outputs.len() - 1);
            let sampled: Vec<u32> =
                (first..first + outputs.len()).map_while(|output| self.runner.sampled(flight.number, output)).collect();
            // What was sampled behind a wrong token is of no use.
            let right = |(output, token): &(&Output, &u32)| output.drafted == Some(**token);
            let accepted = outputs.iter().zip(&sampled).take_while(right).count();
            landed.extend((first..).zip(sampled).take(accepted + 1).map(|(output, token)| (id, token, output)));
            first += outputs.len();
            if drafted > 0 {
                stats.drafted_tokens.add(drafted as u64);
                stats.accepted_tokens.add(accepted as u64);
                self.judge(id, drafted, accepted);
            }
        }
        landed
    }

    /// So many tokens of a sequence's draft are its own now, and in the cache. What the others have left there is
    /// overwritten when their positions are evaluated.
    fn judge(&mut self, id: u64, drafted: usize, accepted: usize) {
        let Some(placed) = self.get(id) else { return };
        placed.submitted += accepted;
        if let Some(drafter) = &mut placed.sequence.drafter {
            drafter.judge(drafted, accepted);
        }
    }

    /// Remembers the sequence's blocks that are full when so many of its tokens are in the cache.
    fn remember(&mut self, at: usize, evaluated: usize) {
        let placed = &mut self.placed[at];
        let full = evaluated.min(placed.sequence.tokens.len()) / TOKENS;
        for index in placed.remembered..full {
            let chunk = &placed.sequence.tokens.as_chunks::<TOKENS>().0[index];
            placed.node = self.blocks.remember(placed.node, placed.blocks[index], chunk);
            placed.remembered = index + 1;
        }
    }

    pub fn get(&mut self, id: u64) -> Option<&mut Placed> {
        self.placed.iter_mut().find(|placed| placed.id == id)
    }

    /// Tells the device what a sequence may sample next.
    pub fn restrict(&mut self, id: u64) {
        if let Some(placed) = self.placed.iter().find(|placed| placed.id == id) {
            restrict(&mut self.runner, placed);
        }
    }

    pub fn write_stats(&self, stats: &Stats) {
        stats.sequences.set(self.runner.model().sizes.sequences.into());
        stats.blocks.set(self.blocks.count().into());
        stats.blocks_held.set(self.blocks.held().into());
        stats.blocks_cached.set(self.blocks.idle().into());
    }

    /// Ends every sequence with the device's error.
    pub fn fail(&mut self, error: &ExecutorError) -> Vec<Sequence> {
        let sequences = self.remove(|_| true);
        for sequence in &sequences {
            sequence.live.send(Event::Failed(error.to_string()));
        }
        sequences
    }
}

fn restrict(runner: &mut Runner, placed: &Placed) {
    let sequence = &placed.sequence;
    if sequence.is_constrained() {
        let mask = match &sequence.restriction {
            Restriction::None => None,
            Restriction::Mask(mask) => Some(mask.as_slice()),
        };
        runner.restrict(placed.slot, &sequence.live.request.sampling, sequence.seed, mask);
    }
}
