//! A connection to one export.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};

use super::driver::{COMMANDS_MAX, Command, Driver, Never, Reply};
use super::error::ClientError;
use super::security::ClientSecurity;
use crate::env::{Connection, Spawner};
use crate::nbd::{
    Answer, Broken, ClientNegotiation, ClientStep, ContextStatus, Errno, ExportName, Framing,
    Opening, RemoteExport, Request, RequestedOptions, ZeroFlags,
};
use crate::transport::Transport;

/// A connection to one export. Requests take `&self`, so any number of them can be in flight; each
/// is sent when its future is first polled, in that order.
///
/// Dropping the client disconnects once everything in flight is answered.
#[derive(Debug)]
pub struct Client {
    commands: mpsc::Sender<Command>,
    export: RemoteExport,
    ended: oneshot::Receiver<Never>,
    /// A dropped transaction's rollback did not fit the queue; the next request sends it.
    rollback_owed: AtomicBool,
}

impl Client {
    /// Attaches to the export called `name` and starts the connection's driver. `options` is an
    /// [`Opening`], which asks for nothing more, or [`RequestedOptions`]; what the server granted
    /// of them is in [`Self::export`].
    ///
    /// # Errors
    /// [`ClientError::Refused`], [`ClientError::Lost`] or a protocol error.
    pub async fn connect<S>(
        stream: S,
        name: ExportName,
        options: impl Into<RequestedOptions>,
        spawner: &dyn Spawner,
    ) -> Result<Self, ClientError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut transport = Transport::new(stream);
        let mut negotiation = ClientNegotiation::new(name, options.into());
        let export = attach(&mut transport, &mut negotiation).await?;
        Ok(Self::drive(transport, export, spawner))
    }

    /// [`Self::connect`], with everything from the greeting on encrypted: a server without TLS is
    /// refused, and the name is never sent in the clear.
    ///
    /// # Errors
    /// As [`Self::connect`]; [`ClientError::Tls`].
    pub async fn connect_tls<S: Connection>(
        stream: S,
        name: ExportName,
        options: impl Into<RequestedOptions>,
        security: &dyn ClientSecurity,
        spawner: &dyn Spawner,
    ) -> Result<Self, ClientError> {
        let mut transport = Transport::new(stream);
        let mut negotiation = ClientNegotiation::new(name, options.into()).over_tls();
        match negotiate(&mut transport, &mut negotiation).await? {
            ClientStep::StartTls => {}
            _ => return Err(Broken::UnexpectedReply.into()),
        }
        let secured = security.secure(Box::new(transport.into_stream())).await;
        let secured = secured.map_err(|error| ClientError::Tls(error.kind()))?;
        let mut transport = Transport::new(secured);
        negotiation.secured(transport.buffers_mut().1);
        let export = attach(&mut transport, &mut negotiation).await?;
        Ok(Self::drive(transport, export, spawner))
    }

    fn drive<S>(transport: Transport<S>, export: RemoteExport, spawner: &dyn Spawner) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (commands, received) = mpsc::channel(COMMANDS_MAX);
        let (driver_lives, ended) = oneshot::channel();
        let driver = Driver::new(transport, &export, received, driver_lives);
        spawner.spawn("nbd client", Box::pin(driver.run()));
        Self {
            commands,
            export,
            ended,
            rollback_owed: AtomicBool::new(false),
        }
    }

    /// Asks what the export called `name` is, without attaching.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn describe<S>(stream: S, name: ExportName) -> Result<RemoteExport, ClientError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let mut negotiation = ClientNegotiation::new(name, Opening::Describe);
        attach(&mut Transport::new(stream), &mut negotiation).await
    }

    /// Asks which metadata contexts the export called `name` has, of those that `queries` ask for;
    /// without any, of all that the server lists.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn list_contexts<S>(
        stream: S,
        name: ExportName,
        queries: Vec<String>,
    ) -> Result<Vec<String>, ClientError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let options = RequestedOptions {
            opening: Opening::ListContexts,
            framing: Framing::Structured,
            contexts: queries,
        };
        let mut negotiation = ClientNegotiation::new(name, options);
        match negotiate(&mut Transport::new(stream), &mut negotiation).await? {
            ClientStep::Contexts(names) => Ok(names),
            _ => Err(Broken::UnexpectedReply.into()),
        }
    }

    /// What the server announced.
    #[must_use]
    pub fn export(&self) -> &RemoteExport {
        &self.export
    }

    /// Reads `length` bytes at `offset`, at most the export's largest payload.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn read(&self, offset: u64, length: u32) -> Result<Bytes, ClientError> {
        self.check_payload(u64::from(length))?;
        let whole = false;
        let read = Request::Read {
            offset,
            length,
            whole,
        };
        match self.request(read).await? {
            Answer::Content(content) => Ok(content),
            Answer::Done | Answer::Status(_) => unreachable!("a read is answered with content"),
        }
    }

    /// What the contexts that were selected say of `length` bytes at `offset`: a list for each, in
    /// the server's order, from the beginning of the range on. A list may end early; with `one` it
    /// has one extent. Whoever wants more asks again from there.
    ///
    /// # Errors
    /// [`ClientError::Failed`] also if no context was selected.
    pub async fn block_status(
        &self,
        offset: u64,
        length: u64,
        one: bool,
    ) -> Result<Vec<ContextStatus>, ClientError> {
        if self.export.contexts.is_empty() {
            return Err(ClientError::Failed(Errno::Invalid));
        }
        let request = Request::BlockStatus {
            offset,
            length,
            one,
        };
        match self.request(request).await? {
            Answer::Status(status) => Ok(status),
            Answer::Done | Answer::Content(_) => unreachable!("a status is answered with one"),
        }
    }

    /// Asks the server to have `length` bytes at `offset` near when they are read.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn cache(&self, offset: u64, length: u64) -> Result<(), ClientError> {
        self.request(Request::Cache { offset, length })
            .await
            .map(drop)
    }

    /// Writes `data` at `offset`, at most the export's largest payload; with `fua` it is durable
    /// when this returns.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn write(&self, offset: u64, data: Bytes, fua: bool) -> Result<(), ClientError> {
        self.check_payload(data.len() as u64)?;
        let length = u32::try_from(data.len()).expect("a payload's length was checked");
        let request = Request::Write {
            offset,
            length,
            fua,
        };
        self.submit(request, data).await.map(drop)
    }

    /// Makes `length` bytes at `offset` read as zeroes.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        fua: bool,
    ) -> Result<(), ClientError> {
        let flags = ZeroFlags {
            fua,
            ..ZeroFlags::default()
        };
        self.write_zeroes_with(offset, length, flags).await
    }

    /// Makes `length` bytes at `offset` read as zeroes, as `flags` say.
    ///
    /// # Errors
    /// [`ClientError`]; [`Errno::NotSupported`] if it was to be fast and cannot be.
    pub async fn write_zeroes_with(
        &self,
        offset: u64,
        length: u64,
        flags: ZeroFlags,
    ) -> Result<(), ClientError> {
        let request = Request::WriteZeroes {
            offset,
            length,
            flags,
        };
        self.request(request).await.map(drop)
    }

    /// Frees the whole pages among `length` bytes at `offset`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn trim(&self, offset: u64, length: u64, fua: bool) -> Result<(), ClientError> {
        let request = Request::Trim {
            offset,
            length,
            fua,
        };
        self.request(request).await.map(drop)
    }

    /// Makes everything that was acknowledged before durable.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn flush(&self) -> Result<(), ClientError> {
        self.request(Request::Flush).await.map(drop)
    }

    /// Disconnects. Requests in flight are answered first.
    pub async fn disconnect(self) {
        let Self {
            commands, ended, ..
        } = self;
        drop(commands);
        // The driver never sends; it drops its end when it is done.
        let _ = ended.await;
    }

    /// Drops the stream without disconnecting, as a crash would. Requests in flight fail.
    pub async fn abort(self) {
        // A driver that is gone has dropped its stream.
        let _ = self.commands.send(Command::Abort).await;
        let _ = self.ended.await;
    }

    pub(super) async fn request(&self, request: Request) -> Result<Answer, ClientError> {
        self.submit(request, Bytes::new()).await
    }

    async fn submit(&self, request: Request, payload: Bytes) -> Result<Answer, ClientError> {
        if self.rollback_owed.swap(false, Ordering::Relaxed) {
            self.enqueue(Request::Rollback, Bytes::new()).await?;
        }
        let answer = self.enqueue(request, payload).await?;
        answer.await.unwrap_or(Err(ClientError::Lost))
    }

    async fn enqueue(
        &self,
        request: Request,
        payload: Bytes,
    ) -> Result<oneshot::Receiver<Result<Answer, ClientError>>, ClientError> {
        let (reply, answer): (Reply, _) = oneshot::channel();
        let command = Command::Request {
            request,
            payload,
            reply,
        };
        let sent = self.commands.send(command).await;
        sent.map(|()| answer).map_err(|_| ClientError::Lost)
    }

    /// Rolls back without waiting.
    pub(super) fn roll_back_later(&self) {
        let (reply, _) = oneshot::channel();
        let command = Command::Request {
            request: Request::Rollback,
            payload: Bytes::new(),
            reply,
        };
        if let Err(mpsc::error::TrySendError::Full(_)) = self.commands.try_send(command) {
            self.rollback_owed.store(true, Ordering::Relaxed);
        }
    }

    fn check_payload(&self, bytes: u64) -> Result<(), ClientError> {
        let maximum_bytes = self.export.maximum_payload_bytes;
        if bytes <= u64::from(maximum_bytes) {
            Ok(())
        } else {
            Err(ClientError::TooLarge { maximum_bytes })
        }
    }
}

async fn attach<S: AsyncRead + AsyncWrite + Unpin>(
    transport: &mut Transport<S>,
    negotiation: &mut ClientNegotiation,
) -> Result<RemoteExport, ClientError> {
    match negotiate(transport, negotiation).await? {
        ClientStep::Granted(export) => Ok(export),
        _ => Err(Broken::UnexpectedReply.into()),
    }
}

/// Negotiates to an end that is neither a refusal nor [`ClientStep::NeedMore`].
async fn negotiate<S: AsyncRead + AsyncWrite + Unpin>(
    transport: &mut Transport<S>,
    negotiation: &mut ClientNegotiation,
) -> Result<ClientStep, ClientError> {
    loop {
        let (input, output) = transport.buffers_mut();
        match negotiation.step(input, output)? {
            ClientStep::Refused(refusal) => return Err(refusal.into()),
            ClientStep::NeedMore => {
                transport.send().await.map_err(|_| ClientError::Lost)?;
                match transport.receive().await {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => return Err(ClientError::Lost),
                }
            }
            done => return Ok(done),
        }
    }
}
