//! The transmission phase of one connection: requests in, replies out, as they finish.
//!
//! Job: keep many requests in flight within one task, in the order and with the limits that the
//! protocol asks for. Nothing is spawned; a request is a future that is polled once when it
//! arrives, and waits among [`Transmission::in_flight`] only if it did not finish at once.
//!
//! Invariants:
//! - Requests begin in the order in which they arrived. BEGIN, COMMIT and ROLLBACK are barriers:
//!   they wait until everything before them is answered, and nothing after them begins until they
//!   are. So a write belongs to the transaction that its place in the stream says.
//! - Payload in flight, received or to be sent, stays below [`BYTES_IN_FLIGHT_MAX`] plus one
//!   request, that of all connections within their [`PayloadRoom`], the number of requests below [`REQUESTS_IN_FLIGHT_MAX`], whatever the client does.
//! - The end of the stream is noticed while requests wait, as long as the input buffer has room:
//!   then everything in flight is dropped and an open transaction rolled back.
//!
//! Must never: block on one request while another could finish, or copy a large payload.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::Ended;
use super::disk::{Disk, DiskTransaction};
use super::errno;
use super::limits::{BYTES_IN_FLIGHT_MAX, RECEIVES_PER_TURN, REQUESTS_IN_FLIGHT_MAX};
use super::payload::{PayloadQueue, PayloadRoom, Taken};
use crate::engine::{Acknowledge, Durability, EngineError};
use crate::nbd::{Bounds, Cookie, Errno, Incoming, REQUEST_BYTES, Request, SimpleReply};
use crate::transport::Transport;

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

/// A request that finished.
struct Done {
    cookie: Cookie,
    /// What it counted towards [`BYTES_IN_FLIGHT_MAX`].
    bytes: u64,
    result: Result<Vec<Bytes>, EngineError>,
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
    Draining(Cookie, Control),
    Running(Cookie, ControlRun<'a, D>),
}

/// What the next bytes of the stream complete.
enum Arriving {
    Header,
    Payload(Cookie, Request, Option<Taken>),
    Worthless(Cookie, Errno),
}

/// What a write brings along.
#[derive(Default)]
struct Payload {
    content: Bytes,
    room: Option<Taken>,
}

struct OpenTransaction<T> {
    transaction: Arc<T>,
    /// Whether a request in it asked for FUA, which counts at the commit.
    fua: bool,
}

/// The transmission phase of one connection.
pub(super) struct Transmission<'a, S, D: Disk> {
    transport: Transport<S>,
    disk: &'a D,
    terms: Terms,
    in_flight: FuturesUnordered<Operation<'a>>,
    in_flight_bytes: u64,
    arriving: Arriving,
    gate: Gate<'a, D>,
    transaction: Option<OpenTransaction<D::Transaction>>,
    room: PayloadQueue,
    /// Set once no more requests are taken: how the connection ends when all are answered.
    closing: Option<Ended>,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin, D: Disk> Transmission<'a, S, D> {
    pub(super) fn new(
        transport: Transport<S>,
        disk: &'a D,
        terms: Terms,
        room: PayloadRoom,
    ) -> Self {
        Self {
            transport,
            disk,
            terms,
            in_flight: FuturesUnordered::new(),
            in_flight_bytes: 0,
            arriving: Arriving::Header,
            gate: Gate::Open,
            transaction: None,
            room: PayloadQueue::new(room),
            closing: None,
        }
    }

    /// Takes no more requests; the connection ends as `ended` when all are answered.
    pub(super) fn close_after_replies(&mut self, ended: Ended) {
        self.closing.get_or_insert(ended);
    }

    /// How far the stream has come, if part of a payload or somebody to read replies is awaited.
    pub(super) fn awaited_progress(&self) -> Option<u64> {
        let awaited = self.transport.awaits_payload() || !self.transport.output().is_empty();
        awaited.then(|| self.transport.moved_bytes())
    }

    /// Goes as far as it can without waiting; ready when the connection ended.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Ended> {
        self.finish_operations(context);
        self.run_gate(context);
        let mut receives = 0;
        loop {
            // What finished does not wait for what arrives.
            let sent = match self.transport.poll_send(context) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(error)) => return Poll::Ready(Ended::Lost(error.kind())),
                Poll::Pending => false,
            };
            self.room.settle_at(self.occupied_bytes());
            if self.closing.is_some() {
                self.room.leave();
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
            match self.transport.poll_receive(context) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ended::EndOfStream),
                Poll::Ready(Ok(_)) if receives == RECEIVES_PER_TURN => {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Ready(Ok(_)) => receives += 1,
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
        while let Poll::Ready(Some(done)) = self.in_flight.poll_next_unpin(context) {
            self.finish(done);
        }
    }

    fn finish(&mut self, done: Done) {
        self.in_flight_bytes -= done.bytes;
        self.reply(done.cookie, done.result.map_err(|error| errno::of(&error)));
    }

    fn reply(&mut self, cookie: Cookie, result: Result<Vec<Bytes>, Errno>) {
        let (result, chunks) = match result {
            Ok(chunks) => (Ok(()), chunks),
            Err(errno) => (Err(errno), Vec::new()),
        };
        let output = self.transport.output_mut();
        output.push_header(&SimpleReply { cookie, result }.encode());
        for chunk in chunks {
            output.push_payload(chunk);
        }
    }

    fn reply_at_once(&mut self, cookie: Cookie, result: Result<(), Errno>) {
        self.reply(cookie, result.map(|()| Vec::new()));
    }

    /// Bytes that count towards [`BYTES_IN_FLIGHT_MAX`].
    fn occupied_bytes(&self) -> u64 {
        self.in_flight_bytes + self.transport.output().len_bytes() as u64
    }

    /// Begins every request that is there and for which there is room.
    fn take_requests(&mut self, context: &mut Context<'_>) {
        loop {
            match self.arriving {
                Arriving::Header => {
                    if !matches!(self.gate, Gate::Open)
                        || self.in_flight.len() >= REQUESTS_IN_FLIGHT_MAX
                        || self.occupied_bytes() >= BYTES_IN_FLIGHT_MAX
                    {
                        return;
                    }
                    let Some(header) = self.transport.peek_header::<REQUEST_BYTES>() else {
                        return;
                    };
                    match Incoming::decode(header, &self.terms.bounds) {
                        Ok(incoming) => {
                            if !self.take_incoming(context, incoming) {
                                return;
                            }
                        }
                        Err(broken) => {
                            self.closing = Some(Ended::Broken(broken));
                            return;
                        }
                    }
                }
                Arriving::Payload(cookie, request, ref mut room) => {
                    let Some(content) = self.transport.take_payload() else {
                        return;
                    };
                    let room = room.take();
                    self.arriving = Arriving::Header;
                    self.begin(context, cookie, request, Payload { content, room });
                }
                Arriving::Worthless(cookie, errno) => {
                    if self.transport.is_skipping() {
                        return;
                    }
                    self.arriving = Arriving::Header;
                    self.reply_at_once(cookie, Err(errno));
                }
            }
            if self.closing.is_some() {
                return;
            }
        }
    }

    /// Consumes the header that was judged as `incoming`; `false` if there is no room for it yet.
    fn take_incoming(&mut self, context: &mut Context<'_>, incoming: Incoming) -> bool {
        match incoming {
            Incoming::Valid { cookie, request } => {
                let occupied = self.occupied_bytes();
                if occupied > 0 && occupied + weight(&request) > BYTES_IN_FLIGHT_MAX {
                    return false;
                }
                if let Request::Read { length, .. } = request
                    && self
                        .room
                        .poll_reach(context, occupied + u64::from(length))
                        .is_pending()
                {
                    return false;
                }
                let payload_bytes = request.payload_bytes();
                let room = self
                    .room
                    .poll_take(context, u64::from(payload_bytes), occupied);
                let Poll::Ready(room) = room else {
                    return false;
                };
                self.transport.consume(REQUEST_BYTES);
                if payload_bytes == 0 {
                    self.begin(context, cookie, request, Payload::default());
                } else {
                    self.transport.expect_payload(payload_bytes as usize);
                    self.arriving = Arriving::Payload(cookie, request, room);
                }
            }
            Incoming::Refused {
                cookie,
                errno,
                skip_bytes,
            } => {
                self.transport.consume(REQUEST_BYTES);
                self.transport.skip(u64::from(skip_bytes));
                self.arriving = Arriving::Worthless(cookie, errno);
            }
        }
        true
    }

    /// Begins one request.
    fn begin(
        &mut self,
        context: &mut Context<'_>,
        cookie: Cookie,
        request: Request,
        payload: Payload,
    ) {
        match (request, &self.transaction) {
            (Request::Disconnect, _) => self.closing = Some(Ended::Disconnected),
            (Request::Flush, _) => {
                let flush = self.disk.flush(self.terms.durability);
                self.start(context, cookie, 0, outcome(flush));
            }
            (Request::Begin, None) => self.control(context, cookie, Control::Begin),
            (Request::Commit { fua }, Some(_)) => {
                self.control(context, cookie, Control::Commit { fua });
            }
            (Request::Rollback, Some(_)) => self.control(context, cookie, Control::Rollback),
            (Request::Begin, Some(_))
            | (Request::Commit { .. } | Request::Rollback | Request::Lock, None) => {
                self.reply_at_once(cookie, Err(Errno::Invalid));
            }
            (_, None) => self.begin_plain(context, cookie, request, payload),
            (_, Some(_)) => self.begin_in_transaction(context, cookie, request, payload),
        }
    }

    fn begin_plain(
        &mut self,
        context: &mut Context<'_>,
        cookie: Cookie,
        request: Request,
        payload: Payload,
    ) {
        let disk = self.disk;
        let bytes = weight(&request);
        match request {
            Request::Read { offset, length } => {
                let content = disk.read(offset, length);
                self.start(context, cookie, bytes, whole(content, length));
            }
            Request::Write { length: 0, .. }
            | Request::Trim { length: 0, .. }
            | Request::WriteZeroes { length: 0, .. } => self.reply_at_once(cookie, Ok(())),
            Request::Write { offset, fua, .. } => {
                let Payload { content, room } = payload;
                let write = disk.write(offset, content, self.terms.acknowledge(fua));
                self.start(context, cookie, bytes, outcome(holding(room, write)));
            }
            Request::Trim {
                offset,
                length,
                fua,
            } => {
                let trim = disk.trim(offset, u64::from(length), self.terms.acknowledge(fua));
                self.start(context, cookie, bytes, outcome(trim));
            }
            Request::WriteZeroes {
                offset,
                length,
                fua,
                ..
            } => {
                let acknowledge = self.terms.acknowledge(fua);
                let zero = disk.write_zeroes(offset, u64::from(length), acknowledge);
                self.start(context, cookie, bytes, outcome(zero));
            }
            Request::Disconnect
            | Request::Flush
            | Request::Begin
            | Request::Commit { .. }
            | Request::Rollback
            | Request::Lock => unreachable!("`begin` handles what does not depend on a range"),
        }
    }

    fn begin_in_transaction(
        &mut self,
        context: &mut Context<'_>,
        cookie: Cookie,
        request: Request,
        payload: Payload,
    ) {
        let bytes = weight(&request);
        let page_bytes = self.terms.page_bytes;
        let size_bytes = self.terms.bounds.size_bytes;
        let open = self.transaction.as_mut().expect("a transaction is open");
        let transaction = Arc::clone(&open.transaction);
        match request {
            Request::Read { offset, length } => {
                let read = async move { whole(transaction.read(offset, length), length).await };
                self.start(context, cookie, bytes, read);
            }
            Request::Write {
                offset,
                length: 0,
                fua,
            } if offset.is_multiple_of(page_bytes) && offset < size_bytes => {
                open.fua |= fua;
                let delete = async move { transaction.trim(offset, page_bytes).await };
                self.start(context, cookie, bytes, outcome(delete));
            }
            Request::Write { length: 0, .. }
            | Request::Trim { length: 0, .. }
            | Request::WriteZeroes { length: 0, .. } => self.reply_at_once(cookie, Ok(())),
            Request::Write { offset, fua, .. } => {
                open.fua |= fua;
                let Payload { content, room } = payload;
                let write = async move { transaction.write(offset, content).await };
                self.start(context, cookie, bytes, outcome(holding(room, write)));
            }
            Request::Trim {
                offset,
                length,
                fua,
            } => {
                open.fua |= fua;
                let trim = async move { transaction.trim(offset, u64::from(length)).await };
                self.start(context, cookie, bytes, outcome(trim));
            }
            Request::WriteZeroes {
                offset,
                length,
                fua,
                ..
            } => {
                open.fua |= fua;
                let zero = async move { transaction.write_zeroes(offset, u64::from(length)).await };
                self.start(context, cookie, bytes, outcome(zero));
            }
            Request::Lock => {
                let lock = async move { transaction.lock().await };
                self.start(context, cookie, bytes, outcome(lock));
            }
            Request::Disconnect
            | Request::Flush
            | Request::Begin
            | Request::Commit { .. }
            | Request::Rollback => unreachable!("`begin` handles what is no part of a transaction"),
        }
    }

    /// Polls an operation for the first time, which is what gives it its place in the order. The
    /// task itself is woken when it can go on, so `in_flight` need not be polled before that.
    fn start(
        &mut self,
        context: &mut Context<'_>,
        cookie: Cookie,
        bytes: u64,
        operation: impl Future<Output = Result<Vec<Bytes>, EngineError>> + Send + 'a,
    ) {
        self.in_flight_bytes += bytes;
        let mut operation: Operation<'a> = Box::pin(async move {
            Done {
                cookie,
                bytes,
                result: operation.await,
            }
        });
        match operation.as_mut().poll(context) {
            Poll::Ready(done) => self.finish(done),
            Poll::Pending => self.in_flight.push(operation),
        }
    }

    fn control(&mut self, context: &mut Context<'_>, cookie: Cookie, control: Control) {
        self.gate = Gate::Draining(cookie, control);
        self.run_gate(context);
    }

    /// Advances a command that is a barrier.
    fn run_gate(&mut self, context: &mut Context<'_>) {
        if matches!(self.gate, Gate::Draining(..)) && self.in_flight.is_empty() {
            let Gate::Draining(cookie, control) = std::mem::replace(&mut self.gate, Gate::Open)
            else {
                unreachable!("it was draining");
            };
            self.gate = Gate::Running(cookie, self.run_control(control));
        }
        let Gate::Running(cookie, run) = &mut self.gate else {
            return;
        };
        let Poll::Ready(result) = run.as_mut().poll(context) else {
            return;
        };
        let cookie = *cookie;
        self.gate = Gate::Open;
        let result = result.map(|transaction| {
            self.transaction = transaction.map(|transaction| OpenTransaction {
                transaction: Arc::new(transaction),
                fua: false,
            });
        });
        self.reply_at_once(cookie, result.map_err(|error| errno::of(&error)));
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

/// What a request counts towards [`BYTES_IN_FLIGHT_MAX`].
fn weight(request: &Request) -> u64 {
    match request {
        Request::Read { length, .. } | Request::Write { length, .. } => u64::from(*length),
        _ => 0,
    }
}

async fn outcome(
    operation: impl Future<Output = Result<(), EngineError>>,
) -> Result<Vec<Bytes>, EngineError> {
    operation.await.map(|()| Vec::new())
}

/// Gives `room` back when the operation ends.
async fn holding<T>(room: Option<Taken>, operation: impl Future<Output = T>) -> T {
    let result = operation.await;
    drop(room);
    result
}

/// A reply of another length than the request's would put the stream out of step.
async fn whole(
    operation: impl Future<Output = Result<Vec<Bytes>, EngineError>>,
    length: u32,
) -> Result<Vec<Bytes>, EngineError> {
    let chunks = operation.await?;
    let bytes: usize = chunks.iter().map(Bytes::len).sum();
    assert_eq!(bytes, length as usize, "a read yields what was asked for");
    Ok(chunks)
}
