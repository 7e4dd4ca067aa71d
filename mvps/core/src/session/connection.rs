//! One NBD connection from its first byte to its last.
//!
//! Job: negotiate, let [`Admission`] decide, then run the [transmission](super::transmission)
//! phase until the client disconnects or the server orders the end.
//!
//! Invariants: the client's share of the handshake has a time limit. The connection follows an
//! [`Order`] at any point. Must never: know tokens, or open images; the admission does.

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::contexts::Contexts;
use super::disk::Disk;
use super::ended::Ended;
use super::fair_scheduler::{FairScheduler, ScheduledConnection};
use super::limits::{
    DISCONNECT_TIME_MAX, HANDSHAKE_TIME_MAX, LONG_TURN_BYTES, STALL_PROGRESS_MIN_BYTES,
    STALL_TIME_MAX, UNREAD_SLICES_TIME_MAX,
};
use super::payload_budget::PayloadBudget;
use super::security::{Secured, Security, TlsClient};
use super::transmission::{Awaited, Terms, Transmission};
use crate::engine::Durability;
use crate::env::{Clock, Connection};
use crate::nbd::{
    Bounds, ContextName, ContextsRequest, Export, ExportName, NegotiatedOptions, Negotiation,
    Purpose, Refusal, Step, TlsPolicy,
};
use crate::transport::Transport;

/// What the server tells an attached connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Go on.
    Serve,
    /// Answer what has begun, then close.
    Drain,
    /// Close at once; requests in flight are cancelled.
    Stop,
}

/// A connection's right to an export, for as long as it exists.
pub struct Admitted<D> {
    /// What to announce.
    pub export: Export,
    /// Where requests go.
    pub disk: D,
    /// What FLUSH and FUA promise.
    pub durability: Durability,
    /// Orders; a dropped sender means [`Order::Stop`].
    pub orders: watch::Receiver<Order>,
    /// What payload in flight is counted against.
    pub budget: PayloadBudget,
    /// Says when it goes on, among the other connections.
    pub scheduler: FairScheduler,
}

/// Decides what a client may use, by the names of exports that it asks for.
pub trait Admission: Send + Sync {
    /// Access to an export.
    type Disk: Disk;

    /// What the stream can be encrypted with, if it can.
    fn security(&self) -> Option<&dyn Security> {
        None
    }

    /// The stream is encrypted now, and this is what the client proved.
    fn identified(&self, client: TlsClient) {
        let _ = client;
    }

    /// What a client would get; nothing is opened, created or changed.
    fn describe(&self, name: &ExportName) -> impl Future<Output = Result<Export, Refusal>> + Send;

    /// The contexts that an export has, of those that are asked for.
    fn contexts(
        &self,
        request: &ContextsRequest,
    ) -> impl Future<Output = Result<Vec<ContextName>, Refusal>> + Send;

    /// Attaches a client.
    fn attach(
        &self,
        name: &ExportName,
    ) -> impl Future<Output = Result<Admitted<Self::Disk>, Refusal>> + Send;
}

/// Serves one connection to its end.
pub async fn serve<S, A>(stream: S, admission: &A, clock: &dyn Clock) -> Ended
where
    S: Connection,
    A: Admission,
{
    let mut transport = Transport::new(stream);
    let (_, output) = transport.buffers_mut();
    let mut handshake = Handshake {
        negotiation: Negotiation::begin(output),
        time_left: HANDSHAKE_TIME_MAX,
    };
    if let Some(security) = admission.security() {
        handshake.negotiation.set_tls(match security.is_required() {
            true => TlsPolicy::Required,
            false => TlsPolicy::Offered,
        });
    }
    match negotiate(&mut transport, &mut handshake, admission, clock).await {
        Ok(Negotiated::Attached(admitted, options)) => {
            transmit(transport, admitted, options, clock).await
        }
        Ok(Negotiated::StartTls) => serve_secured(transport, handshake, admission, clock).await,
        Err(ended) => ended,
    }
}

/// The rest of a connection from STARTTLS on.
async fn serve_secured<S, A>(
    mut transport: Transport<S>,
    mut handshake: Handshake,
    admission: &A,
    clock: &dyn Clock,
) -> Ended
where
    S: Connection,
    A: Admission,
{
    let security = admission
        .security()
        .expect("only offered where there is one");
    let secured = within(clock, &mut handshake.time_left, async {
        transport.send().await?;
        security.secure(Box::new(transport.into_stream())).await
    });
    let Secured { stream, client } = match secured.await {
        Ok(Ok(secured)) => secured,
        Ok(Err(error)) => return Ended::TlsFailed(error.kind()),
        Err(ended) => return ended,
    };
    admission.identified(client);
    handshake.negotiation.secured();
    let mut transport = Transport::new(stream);
    match negotiate(&mut transport, &mut handshake, admission, clock).await {
        Ok(Negotiated::Attached(admitted, options)) => {
            transmit(transport, admitted, options, clock).await
        }
        Ok(Negotiated::StartTls) => unreachable!("a stream is encrypted once"),
        Err(ended) => ended,
    }
}

/// How far a handshake has come.
struct Handshake {
    negotiation: Negotiation,
    /// What the client has left of its time.
    time_left: Duration,
}

/// Where a handshake leads.
enum Negotiated<D> {
    Attached(Admitted<D>, NegotiatedOptions),
    StartTls,
}

async fn negotiate<S, A>(
    transport: &mut Transport<S>,
    handshake: &mut Handshake,
    admission: &A,
    clock: &dyn Clock,
) -> Result<Negotiated<A::Disk>, Ended>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
    A: Admission,
{
    let Handshake {
        negotiation,
        time_left,
    } = handshake;
    let mut refused = false;
    loop {
        let (input, output) = transport.buffers_mut();
        let step = negotiation.step(input, output)?;
        if let Step::Contexts(_) | Step::Wanted(_) = &step {
            // Answers may be long, and must not pile up where nobody reads them.
            let sent = within(clock, time_left, transport.send()).await?;
            sent.map_err(|error| Ended::Lost(error.kind()))?;
        }
        match step {
            Step::NeedMore => exchange(transport, clock, time_left).await?,
            Step::StartTls => return Ok(Negotiated::StartTls),
            Step::Close => {
                // The client need not wait for this, so a failure says nothing.
                let _ = within(clock, time_left, transport.close()).await;
                return Err(if refused {
                    Ended::Refused
                } else {
                    Ended::Disconnected
                });
            }
            Step::Contexts(request) => {
                let answer = admission.contexts(&request);
                let answer = while_connected(transport, answer).await?;
                let (_, output) = transport.buffers_mut();
                match answer {
                    Ok(contexts) => negotiation.offer(contexts, output),
                    Err(refusal) => negotiation.refuse(&refusal, output),
                }
            }
            Step::Wanted(request) => match request.purpose {
                Purpose::Describe => {
                    let answer = admission.describe(&request.name);
                    let answer = while_connected(transport, answer).await?;
                    let (_, output) = transport.buffers_mut();
                    match answer {
                        Ok(export) => {
                            let options = negotiation.grant(&export, output);
                            assert!(options.is_none(), "INFO does not end the handshake");
                        }
                        Err(refusal) => negotiation.refuse(&refusal, output),
                    }
                }
                Purpose::Attach => {
                    let answer = admission.attach(&request.name);
                    let answer = while_connected(transport, answer).await?;
                    let (_, output) = transport.buffers_mut();
                    match answer {
                        Ok(admitted) => {
                            let options = negotiation.grant(&admitted.export, output);
                            let options = options.expect("attaching ends the handshake");
                            return Ok(Negotiated::Attached(admitted, options));
                        }
                        Err(refusal) => {
                            refused = true;
                            negotiation.refuse(&refusal, output);
                        }
                    }
                }
            },
        }
    }
}

/// Sends what is queued and receives something.
async fn exchange<S>(
    transport: &mut Transport<S>,
    clock: &dyn Clock,
    time_left: &mut Duration,
) -> Result<(), Ended>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let exchanged = within(clock, time_left, async {
        transport.send().await?;
        transport.receive().await
    });
    match exchanged.await? {
        Ok(0) => Err(Ended::EndOfStream),
        Ok(_) => Ok(()),
        Err(error) => Err(Ended::Lost(error.kind())),
    }
}

/// Waits for the admission, which may take as long as an outage, while the client is there: one
/// that gives up must not keep its place. What it sends meanwhile is kept.
async fn while_connected<S, T>(
    transport: &mut Transport<S>,
    answer: impl Future<Output = T>,
) -> Result<T, Ended>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut answer = pin!(answer);
    loop {
        tokio::select! {
            biased;
            answer = &mut answer => return Ok(answer),
            received = transport.receive() => match received {
                Ok(0) => return Err(Ended::EndOfStream),
                Ok(_) => {}
                Err(error) => return Err(Ended::Lost(error.kind())),
            }
        }
    }
}

/// Waits for the client. The time counts against its share of the handshake.
async fn within<T>(
    clock: &dyn Clock,
    time_left: &mut Duration,
    waiting: impl Future<Output = T>,
) -> Result<T, Ended> {
    let began = clock.now();
    tokio::select! {
        biased;
        result = waiting => {
            *time_left = time_left.saturating_sub(clock.now().since(began));
            Ok(result)
        }
        () = clock.sleep(*time_left) => Err(Ended::HandshakeTooSlow),
    }
}

async fn transmit<S, D>(
    transport: Transport<S>,
    admitted: Admitted<D>,
    options: NegotiatedOptions,
    clock: &dyn Clock,
) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin,
    D: Disk,
{
    let Admitted {
        export,
        disk,
        durability,
        mut orders,
        budget,
        scheduler,
    } = admitted;
    let terms = Terms {
        bounds: Bounds {
            size_bytes: export.size_bytes,
            read_only: export.read_only,
            framing: options.framing,
            has_contexts: !options.contexts.is_empty(),
        },
        page_bytes: u64::from(export.preferred_block_bytes),
        durability,
    };
    let contexts = Contexts::new(options.contexts);
    let mut transmission = Transmission::new(transport, &disk, terms, &contexts, budget);
    let mut patience = Patience::default();
    let mut scheduled = ScheduledConnection::new(scheduler);
    let mut order = *orders.borrow_and_update();
    let ended = loop {
        match order {
            Order::Serve => {}
            Order::Drain => transmission.close_after_replies(Ended::Drained),
            Order::Stop => break Ended::Stopped,
        }
        tokio::select! {
            biased;
            changed = orders.changed() => {
                order = match changed {
                    Ok(()) => *orders.borrow_and_update(),
                    Err(_) => Order::Stop,
                };
            }
            ended = poll_fn(|context| {
                ready!(scheduled.poll_begin(context));
                let before = transmission.work_bytes();
                let polled = transmission.poll(context);
                let work_bytes = transmission.work_bytes() - before;
                scheduled.end(context, work_bytes >= LONG_TURN_BYTES);
                if polled.is_ready() {
                    return polled;
                }
                let awaited = transmission.awaited();
                if patience.poll_unread(context, awaited, clock).is_ready() {
                    transmission.own_unread();
                }
                patience.poll(context, awaited, clock)
            }) => break ended,
        }
    };
    drop(scheduled);
    if matches!(ended, Ended::Disconnected | Ended::Drained) {
        // Everything is answered; a client that does not wait for this loses nothing.
        let mut time_left = DISCONNECT_TIME_MAX;
        let _ = within(clock, &mut time_left, transmission.close()).await;
    }
    ended
}

/// Watches a client on which the connection waits.
#[derive(Default)]
struct Patience {
    header: Watch,
    payload: Watch,
    reader: Watch,
    /// For how long replies have lain unread, and what was taken of them.
    unread: (Duration, u64),
}

impl Patience {
    /// Ready once the client made too little progress in [`STALL_TIME_MAX`] with anything of what
    /// is `awaited`.
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        awaited: Awaited,
        clock: &dyn Clock,
    ) -> Poll<Ended> {
        for (watch, progress, least) in [
            (&mut self.header, awaited.header, 1),
            (&mut self.payload, awaited.payload, STALL_PROGRESS_MIN_BYTES),
        ] {
            while let Poll::Ready(made) = watch.poll(context, progress, STALL_TIME_MAX, clock) {
                if made < least {
                    return Poll::Ready(Ended::Stalled);
                }
            }
        }
        let (unread_time, made) = self.unread;
        if unread_time < STALL_TIME_MAX {
            return Poll::Pending;
        }
        self.unread = Default::default();
        if made < STALL_PROGRESS_MIN_BYTES {
            return Poll::Ready(Ended::Stalled);
        }
        Poll::Pending
    }

    /// Ready every [`UNREAD_SLICES_TIME_MAX`] while there are replies that nobody has read.
    fn poll_unread(
        &mut self,
        context: &mut Context<'_>,
        awaited: Awaited,
        clock: &dyn Clock,
    ) -> Poll<()> {
        if awaited.reader.is_none() {
            self.unread = Default::default();
        }
        let time = UNREAD_SLICES_TIME_MAX;
        let mut outcome = Poll::Pending;
        while let Poll::Ready(made) = self.reader.poll(context, awaited.reader, time, clock) {
            self.unread.0 += time;
            self.unread.1 += made;
            outcome = Poll::Ready(());
        }
        outcome
    }
}

/// Watches one thing that is awaited.
#[derive(Default)]
struct Watch {
    /// How far it had come when the time began to run.
    since: Option<(u64, BoxFuture<'static, ()>)>,
}

impl Watch {
    /// Ready after `time` without a break in which this was awaited, with the progress made; then
    /// the time begins anew. `progress` is how far it has come, `None` if it is not awaited.
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        progress: Option<u64>,
        time: Duration,
        clock: &dyn Clock,
    ) -> Poll<u64> {
        let Some(progress) = progress else {
            self.since = None;
            return Poll::Pending;
        };
        let (seen, elapsed) = self
            .since
            .get_or_insert_with(|| (progress, clock.sleep(time)));
        std::task::ready!(elapsed.as_mut().poll(context));
        let made = progress - *seen;
        self.since = None;
        Poll::Ready(made)
    }
}
