//! The task behind a [`super::Client`]: it owns the stream, numbers requests and matches replies.

use std::collections::BTreeMap;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};

use super::error::ClientError;
use crate::nbd::{
    Answer, Broken, ChunkHead, Cookie, Expected, Framing, Gathering, RemoteExport, ReplyHead,
    Request, SimpleReply,
};
use crate::transport::Transport;

/// Commands that wait for the driver. The driver empties this at every turn; what limits a client
/// is [`IN_FLIGHT_MAX`].
pub(super) const COMMANDS_MAX: usize = 64;

/// Most requests in flight: more than servers take at once.
const IN_FLIGHT_MAX: usize = 1024;

/// Payload that waits to be sent before no more commands are taken.
const OUTPUT_MAX_BYTES: usize = 64 * 1024 * 1024;

/// What the driver is asked to do.
pub(super) enum Command {
    Request {
        request: Request,
        payload: Bytes,
        reply: Reply,
    },
    /// Drop the stream without disconnecting, as a crash would.
    Abort,
}

/// Where an answer goes.
pub(super) type Reply = oneshot::Sender<Result<Answer, ClientError>>;

struct Pending {
    gathering: Gathering,
    reply: Reply,
}

/// Whose payload is arriving.
enum Receiving {
    /// The content of a simple reply.
    Content(Pending),
    /// A chunk's.
    Chunk(ChunkHead),
}

/// The task that owns one connection's stream.
pub(super) struct Driver<S> {
    transport: Transport<S>,
    commands: mpsc::Receiver<Command>,
    next_cookie: u64,
    pending: BTreeMap<u64, Pending>,
    framing: Framing,
    /// Contexts that BLOCK_STATUS tells of.
    contexts: usize,
    receiving: Option<Receiving>,
    /// No more commands will come, and the disconnect is queued.
    disconnected: bool,
    _lives: oneshot::Sender<Never>,
}

/// What is never sent.
#[derive(Debug)]
pub(super) enum Never {}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    /// `lives` is dropped with the driver.
    pub(super) fn new(
        transport: Transport<S>,
        export: &RemoteExport,
        commands: mpsc::Receiver<Command>,
        lives: oneshot::Sender<Never>,
    ) -> Self {
        Self {
            transport,
            framing: export.framing,
            contexts: export.contexts.len(),
            commands,
            next_cookie: 1,
            pending: BTreeMap::new(),
            receiving: None,
            disconnected: false,
            _lives: lives,
        }
    }

    /// Runs until the client is dropped or the connection fails, and answers everybody.
    pub(super) async fn run(mut self) {
        let error = std::future::poll_fn(|context| self.poll(context)).await;
        self.commands.close();
        if let Some(Receiving::Content(pending)) = self.receiving.take() {
            let _ = pending.reply.send(Err(error.clone()));
        }
        for pending in std::mem::take(&mut self.pending).into_values() {
            let _ = pending.reply.send(Err(error.clone()));
        }
        while let Some(command) = self.commands.recv().await {
            if let Command::Request { reply, .. } = command {
                let _ = reply.send(Err(error.clone()));
            }
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ClientError> {
        loop {
            if self.take_commands(context).is_break() {
                return Poll::Ready(ClientError::Lost);
            }
            let was_full = self.output_is_full();
            let sent = match self.transport.poll_send(context) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(_)) => return Poll::Ready(ClientError::Lost),
                Poll::Pending => false,
            };
            let finished = self.pending.is_empty() && self.receiving.is_none();
            if sent && self.disconnected && finished {
                return Poll::Ready(ClientError::Lost);
            }
            if sent && was_full {
                continue;
            }
            match ready!(self.transport.poll_receive(context)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(ClientError::Lost),
            }
            if let Err(error) = self.take_replies() {
                return Poll::Ready(error);
            }
        }
    }

    fn output_is_full(&self) -> bool {
        self.transport.output().len_bytes() >= OUTPUT_MAX_BYTES
    }

    fn take_commands(&mut self, context: &mut Context<'_>) -> std::ops::ControlFlow<()> {
        while !self.disconnected && self.pending.len() < IN_FLIGHT_MAX && !self.output_is_full() {
            match self.commands.poll_recv(context) {
                Poll::Ready(Some(Command::Request {
                    request,
                    payload,
                    reply,
                })) => self.send(request, payload, reply),
                Poll::Ready(Some(Command::Abort)) => return std::ops::ControlFlow::Break(()),
                Poll::Ready(None) => {
                    self.push_request(&Request::Disconnect, Cookie(0));
                    self.disconnected = true;
                }
                Poll::Pending => break,
            }
        }
        std::ops::ControlFlow::Continue(())
    }

    /// Queues a header; `false` if this connection's headers have no room for it.
    fn push_request(&mut self, request: &Request, cookie: Cookie) -> bool {
        let mut header = Vec::with_capacity(self.framing.request_bytes());
        let fits = request.encode(self.framing, cookie, &mut header);
        self.transport.output_mut().push_header(&header);
        fits
    }

    fn send(&mut self, request: Request, payload: Bytes, reply: Reply) {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let (offset, length) = request.range();
        let expected = match request {
            Request::Read { length, .. } => Expected::Content(length),
            Request::BlockStatus { .. } => Expected::Status {
                contexts: self.contexts,
                length,
            },
            _ => Expected::Nothing,
        };
        if !self.push_request(&request, Cookie(cookie)) {
            let maximum_bytes = u32::MAX;
            // A caller that is gone does not want the answer.
            let _ = reply.send(Err(ClientError::TooLarge { maximum_bytes }));
            return;
        }
        let gathering = Gathering::new(offset, expected);
        self.pending.insert(cookie, Pending { gathering, reply });
        self.transport.output_mut().push_payload(payload);
    }

    fn take_replies(&mut self) -> Result<(), ClientError> {
        loop {
            if let Some(receiving) = self.receiving.take() {
                let Some(payload) = self.transport.take_payload() else {
                    self.receiving = Some(receiving);
                    return Ok(());
                };
                match receiving {
                    Receiving::Content(pending) => {
                        let _ = pending.reply.send(Ok(Answer::Content(payload)));
                    }
                    Receiving::Chunk(head) => self.take_chunk(&head, payload)?,
                }
            }
            let Some((head, header_bytes)) =
                ReplyHead::decode(self.transport.input(), self.framing)?
            else {
                return Ok(());
            };
            self.transport.consume(header_bytes);
            match head {
                ReplyHead::Simple(reply) => self.take_simple(reply)?,
                ReplyHead::Chunk(head) if !self.pending.contains_key(&head.cookie.0) => {
                    return Err(ClientError::UnknownCookie);
                }
                ReplyHead::Chunk(head) if head.payload_bytes == 0 => {
                    self.take_chunk(&head, Bytes::new())?;
                }
                ReplyHead::Chunk(head) => {
                    self.transport.expect_payload(head.payload_bytes as usize);
                    self.receiving = Some(Receiving::Chunk(head));
                }
            }
        }
    }

    fn take_simple(&mut self, reply: SimpleReply) -> Result<(), ClientError> {
        let Some(pending) = self.pending.remove(&reply.cookie.0) else {
            return Err(ClientError::UnknownCookie);
        };
        let answer = match (reply.result, pending.gathering.expected()) {
            (Err(errno), _) => Err(ClientError::Failed(errno)),
            (Ok(()), Expected::Nothing) => Ok(Answer::Done),
            (Ok(()), Expected::Content(bytes)) if self.framing == Framing::Simple => {
                if bytes > 0 {
                    self.transport.expect_payload(bytes as usize);
                    self.receiving = Some(Receiving::Content(pending));
                    return Ok(());
                }
                Ok(Answer::Content(Bytes::new()))
            }
            // "A simple reply MUST NOT be used" for what has content.
            (Ok(()), _) => {
                let reason = "a simple reply where content was asked for";
                return Err(Broken::Reply { reason }.into());
            }
        };
        let _ = pending.reply.send(answer);
        Ok(())
    }

    fn take_chunk(&mut self, head: &ChunkHead, payload: Bytes) -> Result<(), ClientError> {
        let Some(pending) = self.pending.get_mut(&head.cookie.0) else {
            return Err(ClientError::UnknownCookie);
        };
        let Some(gathered) = pending.gathering.take(head, payload)? else {
            return Ok(());
        };
        if let Some(pending) = self.pending.remove(&head.cookie.0) {
            let answer = gathered.map_err(|failure| ClientError::Failed(failure.errno));
            let _ = pending.reply.send(answer);
        }
        Ok(())
    }
}
