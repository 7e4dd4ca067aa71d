//! The transmission phase of one connection: requests in, replies out, as they finish.
//!
//! Job: keep many requests in flight within one task, in the order and with the limits that the
//! protocol asks for. Nothing is spawned. A request is a future that is polled once when it
//! arrives, and waits among [`Transmission::in_flight`] only if it did not finish at once.
//!
//! Invariants:
//! - Requests begin in the order in which they arrived. BEGIN, COMMIT and ROLLBACK are barriers:
//!   they wait until everything before them is answered, and nothing after them begins until they
//!   are. So a write belongs to the transaction that its place in the stream says.
//! - A transaction commits with every change that arrived in it, or not at all.
//! - Whatever the client does, payload in flight, received or to be sent, stays below
//!   `BYTES_IN_FLIGHT_MAX` plus one request, that of all connections within their
//!   [`PayloadBudget`], and the number of requests below `REQUESTS_IN_FLIGHT_MAX`. Replies without
//!   content that nobody reads stay below `PAYLOAD_EXEMPT_BYTES`: beyond that no more requests are
//!   taken.
//! - The end of the stream is noticed while requests wait, as long as the input buffer has space.
//!   Everything in flight is dropped then, and an open transaction rolled back. A client that sent
//!   a disconnect is answered first.
//!
//! Must never: block on one request while another could finish, or copy a large payload.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};

use super::contexts::Contexts;
use super::disk::{Disk, DiskTransaction};
use super::ended::Ended;
use super::errno;
use super::limits::{RECEIVED_PER_TURN_BYTES, WALK_WORK_BYTES, WALKS_PER_TURN};
use super::payload_budget::{PayloadBudget, PayloadQueue, PayloadReservation};
use crate::content::Content;
use crate::engine::{Acknowledge, Durability, EngineError};
use crate::nbd::{Bounds, ContextStatus, Errno, Failure, ReplyTo, Request};
use crate::transport::Transport;

mod arrivals;
mod operations;

/// What a connection serves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// What requests are checked against.
    pub(super) bounds: Bounds,
    /// Page size of the image: what a zero-length write in a transaction deletes.
    pub(super) page_bytes: u64,
    /// What FLUSH and FUA promise.
    pub(super) durability: Durability,
}

impl Terms {
    fn acknowledge(&self, fua: bool) -> Acknowledge {
        if fua {
            Acknowledge::Durable(self.durability)
        } else {
            Acknowledge::Buffered
        }
    }
}

/// What remains to be known of a request while it is carried out.
#[derive(Clone, Copy)]
struct Ticket {
    to: ReplyTo,
    /// What it counts towards `BYTES_IN_FLIGHT_MAX`.
    bytes: u64,
    /// What of that it is answered with.
    answer_bytes: u64,
    /// Whether the open transaction must not commit without it.
    is_part: bool,
    /// Whether it goes through the map.
    is_walk: bool,
}

/// What a request's success brings.
enum Answer {
    Done,
    Content { content: Content, whole: bool },
    Status(Vec<ContextStatus>),
}

/// A request that finished.
struct Done {
    ticket: Ticket,
    result: Result<Answer, EngineError>,
}

type Operation<'a> = Pin<Box<dyn Future<Output = Done> + Send + 'a>>;

/// A command that waits for all before it, and lets none after it begin.
enum Control {
    Begin,
    Commit { fua: bool },
    Rollback,
}

type ControlResult<D> = Result<Option<<D as Disk>::Transaction>, EngineError>;
type ControlRun<'a, D> = Pin<Box<dyn Future<Output = ControlResult<D>> + Send + 'a>>;

/// Whether requests may begin.
enum Gate<'a, D: Disk> {
    Open,
    Draining(ReplyTo, Control),
    Running(ReplyTo, ControlRun<'a, D>),
}

/// What the next bytes of the stream complete.
enum Arriving {
    Header,
    Payload(ReplyTo, Request, Option<PayloadReservation>),
    Worthless(ReplyTo, Errno),
}

/// What a request has beside its header.
struct Given {
    /// A write's payload.
    content: Bytes,
    /// Where the payload is counted.
    reservation: Option<PayloadReservation>,
    /// Most extents of each context that it may be answered with.
    extents_max: usize,
}

struct OpenTransaction<T> {
    transaction: Arc<T>,
    /// Whether a request in it asked for FUA, which counts at the commit.
    fua: bool,
    /// Why a change in it failed. It must not commit without that change, which the client may
    /// learn only later: what follows in the stream was sent without knowing.
    failed: Option<Failure>,
}

/// What a connection waits for that only the client can do, and how far each has come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Awaited {
    /// The rest of a header: headers so far.
    pub(super) header: Option<u64>,
    /// The rest of a payload: bytes received so far.
    pub(super) payload: Option<u64>,
    /// Somebody who reads replies: bytes sent so far.
    pub(super) reader: Option<u64>,
}

/// The transmission phase of one connection.
pub(super) struct Transmission<'a, S, D: Disk> {
    transport: Transport<S>,
    disk: &'a D,
    terms: Terms,
    in_flight: FuturesUnordered<Operation<'a>>,
    in_flight_bytes: u64,
    /// What of these answers will have.
    answer_bytes: u64,
    arriving: Arriving,
    /// Headers that arrived.
    headers: u64,
    /// Times that a request went on through the map.
    walks: u64,
    /// Of the requests in flight, those that go through the map.
    walking: u64,
    /// Whether the beginning of a header is there and could be taken if it were whole.
    awaits_header: bool,
    /// Requests that go through the map and may begin before others have their turn.
    walks_left: usize,
    gate: Gate<'a, D>,
    transaction: Option<OpenTransaction<D::Transaction>>,
    contexts: &'a Contexts,
    payload: PayloadQueue,
    /// Whether the client sends no more, and what is left to take ends with a disconnect.
    disconnect_received: bool,
    /// Set once no more requests are taken: how the connection ends when all are answered.
    closing: Option<Ended>,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin, D: Disk> Transmission<'a, S, D> {
    pub(super) fn new(
        transport: Transport<S>,
        disk: &'a D,
        terms: Terms,
        contexts: &'a Contexts,
        budget: PayloadBudget,
    ) -> Self {
        Self {
            transport,
            disk,
            terms,
            in_flight: FuturesUnordered::new(),
            in_flight_bytes: 0,
            answer_bytes: 0,
            arriving: Arriving::Header,
            headers: 0,
            walks: 0,
            walking: 0,
            awaits_header: false,
            walks_left: WALKS_PER_TURN,
            gate: Gate::Open,
            transaction: None,
            contexts,
            payload: PayloadQueue::new(budget),
            disconnect_received: false,
            closing: None,
        }
    }

    /// Says that nothing follows. Of use once it ended with everything sent.
    pub(super) async fn close(&mut self) -> std::io::Result<()> {
        self.transport.close().await
    }

    /// Takes no more requests; the connection ends as `ended` when all are answered.
    pub(super) fn close_after_replies(&mut self, ended: Ended) {
        self.closing.get_or_insert(ended);
    }

    /// How much it has worked so far: bytes that it moved, and what takes as long.
    pub(super) fn work_bytes(&self) -> u64 {
        let moved = self.transport.received_bytes() + self.transport.sent_bytes();
        moved + self.walks * WALK_WORK_BYTES
    }

    /// What the connection waits for that only the client can do.
    pub(super) fn awaited(&self) -> Awaited {
        let transport = &self.transport;
        let has_unread = !transport.output().is_empty();
        Awaited {
            header: (self.awaits_header && self.closing.is_none()).then_some(self.headers),
            payload: transport
                .awaits_payload()
                .then(|| transport.received_bytes()),
            reader: has_unread.then(|| transport.sent_bytes()),
        }
    }

    /// Replies that nobody has read yet keep no more in memory than they are long from now on.
    pub(super) fn own_unread(&mut self) {
        self.transport.output_mut().own();
    }

    /// Goes as far as it can without waiting; ready when the connection ended.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Ended> {
        self.finish_operations(context);
        self.run_gate(context);
        let received_before = self.transport.received_bytes();
        self.walks_left = WALKS_PER_TURN;
        loop {
            // What finished does not wait for what arrives.
            let sent = match self.transport.poll_send(context) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(error)) => return Poll::Ready(Ended::Lost(error.kind())),
                Poll::Pending => false,
            };
            self.payload.settle_at(self.answering_bytes());
            if self.closing.is_some() {
                self.payload.leave();
                return if sent && self.is_idle() {
                    self.end()
                } else {
                    Poll::Pending
                };
            }
            self.take_requests(context);
            if self.closing.is_some() {
                continue;
            }
            let received = match self.disconnect_received {
                true => Poll::Pending,
                false => self.transport.poll_receive(context),
            };
            match received {
                Poll::Ready(Ok(0)) if self.has_disconnect() => self.disconnect_received = true,
                Poll::Ready(Ok(0)) => return Poll::Ready(Ended::EndOfStream),
                Poll::Ready(Ok(_)) => {
                    let received = self.transport.received_bytes() - received_before;
                    if received >= RECEIVED_PER_TURN_BYTES {
                        context.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Ended::Lost(error.kind())),
                // Once more if there is something to send; that makes room, too.
                Poll::Pending if sent && !self.transport.output().is_empty() => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
            && matches!(self.gate, Gate::Open)
            && self.transport.output().is_empty()
    }

    fn end(&mut self) -> Poll<Ended> {
        Poll::Ready(self.closing.take().expect("only a closing connection ends"))
    }

    fn finish_operations(&mut self, context: &mut Context<'_>) {
        // Those that go on do so now, if only for a step.
        self.walks += self.walking;
        while let Poll::Ready(Some(done)) = self.in_flight.poll_next_unpin(context) {
            self.finish(done);
        }
    }

    fn finish(&mut self, done: Done) {
        let Done { ticket, result } = done;
        self.in_flight_bytes -= ticket.bytes;
        self.answer_bytes -= ticket.answer_bytes;
        self.walking -= u64::from(ticket.is_walk);
        match result {
            Ok(answer) => self.reply(ticket.to, answer),
            Err(error) => {
                let failure = errno::of(&error);
                self.fail(ticket.to, failure, ticket.is_part);
            }
        }
    }

    fn reply(&mut self, to: ReplyTo, answer: Answer) {
        let framing = self.terms.bounds.framing;
        let output = self.transport.output_mut();
        match answer {
            Answer::Done => framing.push_done(to, output),
            Answer::Content { content, whole } => {
                framing.push_content(to, whole, content.pieces, output);
            }
            Answer::Status(contexts) => framing.push_status(to, &contexts, output),
        }
    }

    /// Answers with a failure, which the open transaction remembers if it lacks a part now.
    fn fail(&mut self, to: ReplyTo, failure: Failure, is_part: bool) {
        if is_part && let Some(open) = &mut self.transaction {
            open.failed.get_or_insert(failure);
        }
        let framing = self.terms.bounds.framing;
        framing.push_failure(to, failure, self.transport.output_mut());
    }

    /// Bytes that count towards `BYTES_IN_FLIGHT_MAX`.
    fn occupied_bytes(&self) -> u64 {
        self.in_flight_bytes + self.transport.output().len_bytes() as u64
    }

    /// What of that the budget for answers is for: writes may wait for long, and keep nobody's reads.
    fn answering_bytes(&self) -> u64 {
        self.answer_bytes + self.transport.output().len_bytes() as u64
    }

    /// Polls an operation for the first time, which is what gives it its place in the order. The
    /// task itself is woken when it can go on, so `in_flight` need not be polled before that.
    fn start(
        &mut self,
        context: &mut Context<'_>,
        ticket: Ticket,
        operation: impl Future<Output = Result<Answer, EngineError>> + Send + 'a,
    ) {
        self.in_flight_bytes += ticket.bytes;
        self.answer_bytes += ticket.answer_bytes;
        self.walks += u64::from(ticket.is_walk);
        self.walking += u64::from(ticket.is_walk);
        let mut operation: Operation<'a> = Box::pin(async move {
            Done {
                ticket,
                result: operation.await,
            }
        });
        match operation.as_mut().poll(context) {
            Poll::Ready(done) => self.finish(done),
            Poll::Pending => self.in_flight.push(operation),
        }
    }

    fn control(&mut self, context: &mut Context<'_>, to: ReplyTo, control: Control) {
        self.gate = Gate::Draining(to, control);
        self.run_gate(context);
    }

    /// Advances a command that is a barrier.
    fn run_gate(&mut self, context: &mut Context<'_>) {
        if matches!(self.gate, Gate::Draining(..)) && self.in_flight.is_empty() {
            let Gate::Draining(to, control) = std::mem::replace(&mut self.gate, Gate::Open) else {
                unreachable!("it was draining");
            };
            if let Some(failure) = self.incomplete(&control) {
                self.transaction = None;
                self.fail(to, failure, false);
                return;
            }
            self.gate = Gate::Running(to, self.run_control(control));
        }
        let Gate::Running(to, run) = &mut self.gate else {
            return;
        };
        let Poll::Ready(result) = run.as_mut().poll(context) else {
            return;
        };
        let to = *to;
        self.gate = Gate::Open;
        match result {
            Ok(transaction) => {
                self.transaction = transaction.map(|transaction| OpenTransaction {
                    transaction: Arc::new(transaction),
                    fua: false,
                    failed: None,
                });
                self.reply(to, Answer::Done);
            }
            Err(error) => self.fail(to, errno::of(&error), false),
        }
    }

    /// Why a commit is refused before it is tried: a change of the transaction failed, and
    /// committing the others would be neither all nor nothing. What a new attempt may mend is EPERM
    /// as any conflict, the rest EINVAL.
    fn incomplete(&self, control: &Control) -> Option<Failure> {
        let failed = match (control, &self.transaction) {
            (Control::Commit { .. }, Some(_))
                if crate::mutant::is("a transaction commits without a change that failed") =>
            {
                return None;
            }
            (Control::Commit { .. }, Some(open)) => open.failed?,
            _ => return None,
        };
        let errno = match failed.errno {
            Errno::Permission if !self.terms.bounds.read_only => Errno::Permission,
            _ => Errno::Invalid,
        };
        Some(Failure {
            errno,
            message: "a change of the transaction failed; none of it was committed",
            offset: None,
        })
    }

    /// The command's work. It yields the transaction that is open afterwards; before, a commit or
    /// rollback has closed it, whatever comes of it.
    fn run_control(&mut self, control: Control) -> ControlRun<'a, D> {
        let disk = self.disk;
        let open = self.transaction.take();
        match control {
            Control::Begin => Box::pin(async move { disk.begin().await.map(Some) }),
            Control::Rollback => {
                drop(open);
                Box::pin(std::future::ready(Ok(None)))
            }
            Control::Commit { fua } => {
                let open = open.expect("`begin` has seen the transaction");
                let acknowledge = self.terms.acknowledge(fua || open.fua);
                let transaction = Arc::into_inner(open.transaction)
                    .expect("a commit begins when all requests of the transaction are answered");
                Box::pin(async move { transaction.commit(acknowledge).await.map(|()| None) })
            }
        }
    }
}
