//! The engine thread: takes requests from the queue, in fair order, and answers many at once.

use super::batch::Batch;
use super::logprobs;
use super::pace::Pace;
use super::queue::Inbox;
use super::request::{Event, FinishReason, Request, Token};
use super::runner::Runner;
use super::sequence::{Live, Sequence};
use super::waiting::{Rank, Waiting};
use crate::plan::ExecutorError;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Serves until every [`super::queue::Handle`] is gone, or the device fails: then the inbox is dropped and the handles
/// say so. `silence` as in [`Pace::new`].
pub fn run(runner: Runner, mut inbox: Inbox, silence: Duration) -> Result<(), ExecutorError> {
    Worker::new(&mut inbox).work(runner, silence)
}

/// As [`run`], but the first time the device fails `restart` gives another runner. The requests that ran are told of the
/// failure; those that wait are answered afterwards; meanwhile new ones are refused. A second failure is final, since a
/// device that keeps failing needs someone to look at it.
pub fn run_restarting<E: From<ExecutorError>>(
    runner: Runner,
    mut inbox: Inbox,
    silence: Duration,
    restart: impl FnOnce(&ExecutorError) -> Result<Runner, E>,
) -> Result<(), E> {
    let mut worker = Worker::new(&mut inbox);
    // The old device's memory is free again before the new one's is taken.
    let Err(failure) = worker.work(runner, silence) else { return Ok(()) };
    worker.inbox.set_restarting(true);
    let runner = restart(&failure)?;
    worker.inbox.set_restarting(false);
    Ok(worker.work(runner, silence)?)
}

/// What outlives a device: the requests that wait.
struct Worker<'i> {
    inbox: &'i mut Inbox,
    waiting: Waiting<Sequence>,
    context_tokens: u32,
    mask_words: usize,
}

impl Worker<'_> {
    fn new(inbox: &mut Inbox) -> Worker<'_> {
        Worker { inbox, waiting: Waiting::default(), context_tokens: 0, mask_words: 0 }
    }

    fn work(&mut self, runner: Runner, silence: Duration) -> Result<(), ExecutorError> {
        self.context_tokens = runner.context_tokens();
        self.mask_words = runner.mask_words();
        let mut batch = Batch::new(runner);
        let outcome = self.serve(&mut batch, silence);
        if let Err(error) = &outcome {
            for sequence in batch.fail(error) {
                self.end(&sequence, true);
            }
        }
        outcome
    }

    fn serve(&mut self, batch: &mut Batch, silence: Duration) -> Result<(), ExecutorError> {
        let mut pace = Pace::new(silence);
        loop {
            while let Some(request) = self.inbox.try_next() {
                self.arrive(request);
            }
            self.drop_gone(batch);
            self.place(batch);
            let mut displaced = Vec::new();
            while batch.submit(&mut displaced, self.inbox.stats())? {}
            displaced.into_iter().for_each(|sequence| self.again(sequence));
            batch.write_stats(self.inbox.stats());
            if let Some((step, outputs)) = batch.oldest() {
                pace.wait(&mut batch.runner, || false, |runner| runner.is_done(step, outputs).then_some(()))?;
                self.land(batch)?;
            } else if self.waiting.is_empty() && batch.is_empty() {
                match self.inbox.wait() {
                    Some(request) => self.arrive(request),
                    None => return Ok(()),
                }
                pace = Pace::new(silence);
            }
        }
    }

    /// Queues the first answer of a request; the others follow when its prompt is evaluated.
    fn arrive(&mut self, request: Request) {
        let rank = self.waiting.rank(request.tokens.len());
        let live = Live::new(request);
        if live.request.tokens.is_empty() {
            live.send(Event::Failed("the prompt is empty".to_owned()));
            self.inbox.dropped();
            return;
        }
        match Sequence::new(&live, 0, rank, self.context_tokens, self.mask_words) {
            Ok(sequence) => self.waiting.push(&live.request.client, rank, sequence),
            Err(problem) => {
                live.send(Event::Failed(problem));
                self.inbox.dropped();
            }
        }
    }

    /// A sequence that lost its place waits for another.
    fn again(&mut self, sequence: Sequence) {
        self.inbox.stats().preemptions.add(1);
        let client = sequence.live.request.client.clone();
        self.waiting.left(&client);
        self.waiting.push(&client, sequence.rank, sequence);
    }

    /// Gives up requests whose clients are gone or whose time is up.
    fn drop_gone(&mut self, batch: &mut Batch) {
        let now = Instant::now();
        let over = |live: &Live| live.is_gone() || live.is_late(now);
        for sequence in self.waiting.extract(|sequence| over(&sequence.live)) {
            self.give_up(&sequence, false);
        }
        for sequence in batch.remove(|placed| over(&placed.sequence.live)) {
            self.give_up(&sequence, true);
        }
    }

    fn give_up(&mut self, sequence: &Sequence, placed: bool) {
        // Several answers of one request may end at once: it is told of it with the first.
        if !sequence.live.is_gone() && sequence.live.open.get() > 0 {
            sequence.live.send(Event::TimedOut);
        }
        self.end(sequence, placed);
    }

    /// The request of this sequence, which had a place or waited, is over with all its answers.
    fn end(&mut self, sequence: &Sequence, placed: bool) {
        let live = &sequence.live;
        if placed {
            self.waiting.left(&live.request.client);
        }
        if live.open.replace(0) == 0 {
            return;
        }
        if live.started.get() { self.inbox.finished() } else { self.inbox.dropped() }
    }

    /// Gives places to those that wait while there are any.
    fn place(&mut self, batch: &mut Batch) {
        while let Some(sequence) = self.waiting.pop() {
            let client = sequence.live.request.client.clone();
            // An answer that has no room for a token is complete.
            if sequence.end <= sequence.prompt_tokens {
                self.start(&sequence.live, 0);
                self.finish(&sequence, FinishReason::Length);
                continue;
            }
            let live = sequence.live.clone();
            let tokens = sequence.tokens.len();
            match batch.place(sequence) {
                Ok(found) => {
                    self.waiting.charge(&client, tokens - found, 0);
                    let stats = self.inbox.stats();
                    stats.prefix_tokens.add(tokens as u64);
                    stats.prefix_hit_tokens.add(found as u64);
                    self.start(&live, found);
                }
                Err(sequence) => {
                    self.waiting.left(&client);
                    self.waiting.push(&client, sequence.rank, *sequence);
                    return;
                }
            }
        }
    }

    fn start(&mut self, live: &Live, cached_tokens: usize) {
        if !live.started.replace(true) {
            self.inbox.started();
            live.send(Event::Started { cached_tokens: cached_tokens as u32 });
        }
    }

    /// An answer is complete.
    fn finish(&mut self, sequence: &Sequence, reason: FinishReason) {
        let live = &sequence.live;
        self.waiting.left(&live.request.client);
        live.send(Event::Finished { choice: sequence.choice, reason });
        live.open.set(live.open.get().saturating_sub(1));
        self.queue_choices(sequence.rank, live);
        if live.open.get() == 0 {
            self.inbox.finished();
        }
    }

    /// The prompt is evaluated: the other answers to it can begin, if they have not.
    fn queue_choices(&mut self, first: Rank, live: &Rc<Live>) {
        if live.spread.replace(true) {
            return;
        }
        for choice in 1..live.request.choices {
            let rank = first.of_choice(choice);
            match Sequence::new(live, choice, rank, self.context_tokens, self.mask_words) {
                Ok(sequence) => self.waiting.push(&live.request.client, rank, sequence),
                Err(problem) => live.send(Event::Failed(problem)),
            }
        }
    }

    /// Takes the tokens that the oldest step has sampled.
    fn land(&mut self, batch: &mut Batch) -> Result<(), ExecutorError> {
        let landed = batch.land(self.inbox.stats());
        // Before anything else is submitted: the next step's logits take the place of this one's.
        let mut logprobs = Vec::with_capacity(landed.len());
        for &(id, token, output) in &landed {
            let wanted = batch.get(id).and_then(|placed| placed.sequence.live.request.logprobs);
            logprobs.push(match wanted {
                Some(count) => Some(logprobs::logprobs(&batch.runner.last_logits(output)?, token, count)),
                None => None,
            });
        }
        for ((id, token, _), logprobs) in landed.into_iter().zip(logprobs) {
            self.take(batch, id, Token { id: token, logprobs });
        }
        Ok(())
    }

    /// A token was sampled for the sequence `id`, which may be gone.
    fn take(&mut self, batch: &mut Batch, id: u64, token: Token) {
        let Some(placed) = batch.get(id) else { return };
        let (live, choice) = (placed.sequence.live.clone(), placed.sequence.choice);
        let rank = placed.sequence.rank;
        let taken = placed.sequence.take(token.id, self.mask_words);
        self.inbox.stats().sampled_tokens.add(1);
        self.waiting.charge(&live.request.client, 0, 1);
        self.queue_choices(rank, &live);
        let ended = match taken {
            Ok((sent, ended)) => {
                if sent {
                    live.send(Event::Token { choice, token });
                }
                ended
            }
            Err(problem) => {
                live.send(Event::Failed(problem));
                for sequence in batch.remove(|placed| Rc::ptr_eq(&placed.sequence.live, &live)) {
                    self.end(&sequence, true);
                }
                for sequence in self.waiting.extract(|sequence| Rc::ptr_eq(&sequence.live, &live)) {
                    self.end(&sequence, false);
                }
                return;
            }
        };
        match ended {
            Some(reason) => {
                for sequence in batch.remove(|placed| placed.id == id) {
                    self.finish(&sequence, reason);
                }
            }
            None => batch.restrict(id),
        }
    }
}
