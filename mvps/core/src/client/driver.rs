//! The task behind a [`super::Client`]: it owns the stream, numbers requests and matches replies.

use std::collections::BTreeMap;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};

use super::connection::ClientError;
use crate::nbd::{Cookie, Request, SIMPLE_REPLY_BYTES, SimpleReply};
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
        reply: oneshot::Sender<Result<Bytes, ClientError>>,
    },
    /// Drop the stream without a goodbye, as a crash would.
    Abort,
}

struct Pending {
    /// Payload that follows a success.
    read_bytes: u32,
    reply: oneshot::Sender<Result<Bytes, ClientError>>,
}

/// See the module's text.
pub(super) struct Driver<S> {
    transport: Transport<S>,
    commands: mpsc::Receiver<Command>,
    next_cookie: u64,
    pending: BTreeMap<u64, Pending>,
    /// The read whose payload is arriving.
    receiving: Option<Pending>,
    /// No more commands will come, and the goodbye is queued.
    said_goodbye: bool,
    _lives: oneshot::Sender<Never>,
}

/// What is never sent.
#[derive(Debug)]
pub(super) enum Never {}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    /// `lives` is dropped with the driver.
    pub(super) fn new(
        transport: Transport<S>,
        commands: mpsc::Receiver<Command>,
        lives: oneshot::Sender<Never>,
    ) -> Self {
        Self {
            transport,
            commands,
            next_cookie: 1,
            pending: BTreeMap::new(),
            receiving: None,
            said_goodbye: false,
            _lives: lives,
        }
    }

    /// Runs until the client is dropped or the connection fails, and answers everybody.
    pub(super) async fn run(mut self) {
        let error = std::future::poll_fn(|context| self.poll(context)).await;
        self.commands.close();
        if let Some(pending) = self.receiving.take() {
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
            if sent && self.said_goodbye && finished {
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
        while !self.said_goodbye && self.pending.len() < IN_FLIGHT_MAX && !self.output_is_full() {
            match self.commands.poll_recv(context) {
                Poll::Ready(Some(Command::Request {
                    request,
                    payload,
                    reply,
                })) => self.send(request, payload, reply),
                Poll::Ready(Some(Command::Abort)) => return std::ops::ControlFlow::Break(()),
                Poll::Ready(None) => {
                    let goodbye = Request::Disconnect.encode(Cookie(0));
                    self.transport.output_mut().push_header(&goodbye);
                    self.said_goodbye = true;
                }
                Poll::Pending => break,
            }
        }
        std::ops::ControlFlow::Continue(())
    }

    fn send(
        &mut self,
        request: Request,
        payload: Bytes,
        reply: oneshot::Sender<Result<Bytes, ClientError>>,
    ) {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let read_bytes = match request {
            Request::Read { length, .. } => length,
            _ => 0,
        };
        self.pending.insert(cookie, Pending { read_bytes, reply });
        let output = self.transport.output_mut();
        output.push_header(&request.encode(Cookie(cookie)));
        output.push_payload(payload);
    }

    fn take_replies(&mut self) -> Result<(), ClientError> {
        loop {
            if self.receiving.is_some() {
                let Some(payload) = self.transport.take_payload() else {
                    return Ok(());
                };
                let pending = self.receiving.take().expect("a read is receiving");
                // A caller that is gone does not want the answer.
                let _ = pending.reply.send(Ok(payload));
            }
            let Some(header) = self.transport.peek_header::<SIMPLE_REPLY_BYTES>() else {
                return Ok(());
            };
            let reply = SimpleReply::decode(header)?;
            self.transport.consume(SIMPLE_REPLY_BYTES);
            let Some(pending) = self.pending.remove(&reply.cookie.0) else {
                return Err(ClientError::UnknownCookie);
            };
            match reply.result {
                Ok(()) if pending.read_bytes > 0 => {
                    self.transport.expect_payload(pending.read_bytes as usize);
                    self.receiving = Some(pending);
                }
                Ok(()) => {
                    let _ = pending.reply.send(Ok(Bytes::new()));
                }
                Err(errno) => {
                    let _ = pending.reply.send(Err(ClientError::Failed(errno)));
                }
            }
        }
    }
}
