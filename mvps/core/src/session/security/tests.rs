use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, BytesMut};
use futures_util::FutureExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::*;
use crate::client::{Client, ClientError, ClientSecurity};
use crate::env::memory::testing::{TestClock, TestSpawner};
use crate::nbd::{
    Broken, ClientNegotiation, ClientStep, ContextName, ContextsRequest, Export, ExportName,
    Opening, Refusal, RequestedOptions, ServerRefusal,
};
use crate::session::connection::{Admission, Admitted, serve};
use crate::session::ended::Ended;
use crate::session::limits::DISCONNECT_TIME_MAX;
use crate::session::testing::{MemoryDisk, OneDisk};

/// Not encryption, but nobody mistakes what goes through it for clear text.
pub(crate) struct Veil<S>(pub(crate) S);

const MASK: u8 = 0x55;
const LAST_WORD: u8 = 0xee;

impl<S: AsyncRead + Unpin> AsyncRead for Veil<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.0).poll_read(context, buffer))?;
        for byte in &mut buffer.filled_mut()[before..] {
            *byte ^= MASK;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Veil<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let veiled: Vec<u8> = bytes.iter().map(|byte| byte ^ MASK).collect();
        Pin::new(&mut self.0).poll_write(context, &veiled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    /// Like TLS, it has a last word to say.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.0).poll_write(context, &[LAST_WORD]))?;
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// Veils everything, and says that the client is `host-1`.
#[derive(Debug)]
pub(crate) struct Veiling {
    pub(crate) is_required: bool,
}

impl Security for Veiling {
    fn is_required(&self) -> bool {
        self.is_required
    }

    fn secure(&self, stream: Box<dyn Connection>) -> BoxFuture<'static, io::Result<Secured>> {
        let client = TlsClient {
            names: vec!["host-1".to_owned()],
        };
        let stream = Box::new(Veil(stream));
        async move { Ok(Secured { stream, client }) }.boxed()
    }
}

impl ClientSecurity for Veiling {
    fn secure(
        &self,
        stream: Box<dyn Connection>,
    ) -> BoxFuture<'static, io::Result<Box<dyn Connection>>> {
        let stream: Box<dyn Connection> = Box::new(Veil(stream));
        async move { Ok(stream) }.boxed()
    }
}

struct VeiledDisk {
    disk: OneDisk,
    security: Veiling,
    client: Mutex<Option<TlsClient>>,
}

impl Admission for VeiledDisk {
    type Disk = MemoryDisk;

    fn security(&self) -> Option<&dyn Security> {
        Some(&self.security)
    }

    fn identified(&self, client: TlsClient) {
        *self.client.lock().unwrap() = Some(client);
    }

    async fn describe(&self, name: &ExportName) -> Result<Export, Refusal> {
        self.disk.describe(name).await
    }

    async fn contexts(&self, request: &ContextsRequest) -> Result<Vec<ContextName>, Refusal> {
        self.disk.contexts(request).await
    }

    async fn attach(&self, name: &ExportName) -> Result<Admitted<MemoryDisk>, Refusal> {
        self.disk.attach(name).await
    }
}

const STARTTLS: u32 = 5;
const ACK: u32 = 1;
const ERR_UNSUP: u32 = 0x8000_0001;
const ERR_INVALID: u32 = 0x8000_0003;
const ERR_TLS_REQD: u32 = 0x8000_0005;

pub(crate) fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.put_u32(option);
    bytes.put_u32(u32::try_from(data.len()).unwrap());
    bytes.extend_from_slice(data);
    bytes
}

/// The type of the next option reply.
pub(crate) async fn option_reply(stream: &mut (impl AsyncRead + Unpin)) -> u32 {
    let mut header = [0; 20];
    stream.read_exact(&mut header).await.unwrap();
    let word = |at: usize| u32::from_be_bytes(*header[at..].first_chunk().unwrap());
    let mut data = vec![0; word(16) as usize];
    stream.read_exact(&mut data).await.unwrap();
    word(12)
}

/// Receives the greeting and sends the client's flags.
pub(crate) async fn greet(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    stream.read_exact(&mut [0; 18]).await.unwrap();
    stream.write_all(&[0, 0, 0, 3]).await.unwrap();
}

/// Attaches to the export `token`, on a stream on which greeting and flags are over.
pub(crate) async fn attach(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), name: &ExportName) {
    let mut negotiation = ClientNegotiation::new(name.clone(), Opening::Go);
    let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
    input.put_slice(b"NBDMAGICIHAVEOPT\0\x03");
    negotiation.step(&mut input, &mut output).unwrap();
    // Without the flags, which were sent in the clear.
    stream.write_all(&output[4..]).await.unwrap();
    output.clear();
    while let ClientStep::NeedMore = negotiation.step(&mut input, &mut output).unwrap() {
        assert_ne!(stream.read_buf(&mut input).await.unwrap(), 0);
    }
}

struct Served {
    stream: tokio::io::DuplexStream,
    session: tokio::task::JoinHandle<(Ended, Option<TlsClient>)>,
}

const PIPE_BYTES: usize = 64 * 1024;

fn served(is_required: bool) -> Served {
    served_disk(is_required, OneDisk::new(&MemoryDisk::new()))
}

fn served_disk(is_required: bool, disk: OneDisk) -> Served {
    let (stream, served) = tokio::io::duplex(PIPE_BYTES);
    let admission = VeiledDisk {
        disk,
        security: Veiling { is_required },
        client: Mutex::default(),
    };
    let session = tokio::spawn(async move {
        let ended = serve(served, &admission, &TestClock::start()).await;
        (ended, admission.client.into_inner().unwrap())
    });
    Served { stream, session }
}

fn token() -> ExportName {
    ExportName::new("token".to_owned()).unwrap()
}

#[tokio::test]
async fn a_stream_is_encrypted_where_it_is_asked_for() {
    let Served {
        mut stream,
        session,
    } = served(false);
    greet(&mut stream).await;
    stream.write_all(&option(STARTTLS, &[])).await.unwrap();
    assert_eq!(option_reply(&mut stream).await, ACK);
    let mut veiled = Veil(stream);
    // Once is enough.
    veiled.write_all(&option(STARTTLS, &[])).await.unwrap();
    assert_eq!(option_reply(&mut veiled).await, ERR_INVALID);
    attach(&mut veiled, &token()).await;
    veiled.write_all(&request(2, 0)).await.unwrap();
    let (ended, client) = session.await.unwrap();
    assert_eq!(ended, Ended::Disconnected);
    assert_eq!(client.unwrap().names, ["host-1"]);
    // Who hears nothing more cannot know whether something was cut off.
    let mut rest = Vec::new();
    veiled.0.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, [LAST_WORD]);
}

/// A request without content: its type, where, and how much.
fn request(kind: u8, length: u32) -> Vec<u8> {
    let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
    bytes.extend([0, 0, 0, kind]);
    bytes.resize(24, 0);
    bytes.extend(length.to_be_bytes());
    bytes
}

/// A last word that nobody takes is waited for, but no other connection waits for that.
#[tokio::test(start_paused = true)]
async fn a_slow_disconnect_holds_up_no_other_connection() {
    let disk = OneDisk::new(&MemoryDisk::new());
    let other_disk = OneDisk {
        scheduler: disk.scheduler.clone(),
        ..OneDisk::new(&MemoryDisk::new())
    };
    let mut attached = Vec::new();
    for disk in [disk, other_disk] {
        let Served {
            mut stream,
            session,
        } = served_disk(false, disk);
        greet(&mut stream).await;
        stream.write_all(&option(STARTTLS, &[])).await.unwrap();
        assert_eq!(option_reply(&mut stream).await, ACK);
        let mut veiled = Veil(stream);
        attach(&mut veiled, &token()).await;
        attached.push((veiled, session));
    }
    let (mut other, _other_session) = attached.pop().unwrap();
    let (mut leaving, session) = attached.pop().unwrap();
    // The reply fills the pipe, so that the last word does not fit.
    let fill = u32::try_from(PIPE_BYTES - 16).unwrap();
    let requests = [request(0, fill), request(2, 0)].concat();
    leaving.write_all(&requests).await.unwrap();
    let began = tokio::time::Instant::now();
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    other.write_all(&request(3, 0)).await.unwrap();
    other.read_exact(&mut [0; 16]).await.unwrap();
    assert!(!session.is_finished(), "it has a word to say");
    assert!(began.elapsed() < DISCONNECT_TIME_MAX);
    assert_eq!(session.await.unwrap().0, Ended::Disconnected);
    assert!(began.elapsed() >= DISCONNECT_TIME_MAX);
}

#[tokio::test]
async fn nothing_but_starttls_is_answered_where_it_is_required() {
    let Served {
        mut stream,
        session,
    } = served(true);
    greet(&mut stream).await;
    let go = [&[0, 0, 0, 5][..], b"token", &[0, 0]].concat();
    // LIST, INFO, GO with a good name and with garbage, and an option that nobody knows.
    for (number, data) in [(3, &[][..]), (6, &go), (7, &go), (7, &[1]), (99, &[])] {
        stream.write_all(&option(number, data)).await.unwrap();
        assert_eq!(
            option_reply(&mut stream).await,
            ERR_TLS_REQD,
            "option {number}"
        );
    }
    stream.write_all(&option(STARTTLS, &[0])).await.unwrap();
    assert_eq!(option_reply(&mut stream).await, ERR_INVALID);
    // EXPORT_NAME knows no refusal.
    stream.write_all(&option(1, b"token")).await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    drop(stream);
    let (_, client) = session.await.unwrap();
    assert_eq!(client, None);
}

#[tokio::test]
async fn what_was_sent_in_the_clear_behind_starttls_is_never_taken_for_encrypted() {
    let Served {
        mut stream,
        session,
    } = served(false);
    greet(&mut stream).await;
    let injected = option(7, &[&[0, 0, 0, 5][..], b"token", &[0, 0]].concat());
    let both = [option(STARTTLS, &[]), injected].concat();
    stream.write_all(&both).await.unwrap();
    let (ended, client) = session.await.unwrap();
    assert!(matches!(
        ended,
        Ended::Broken(Broken::ClearBehindStartTls { .. })
    ));
    assert_eq!(client, None);
}

#[tokio::test]
async fn a_server_without_a_certificate_says_so() {
    let (mut stream, served) = tokio::io::duplex(64 * 1024);
    let admission = OneDisk::new(&MemoryDisk::new());
    tokio::spawn(async move { serve(served, &admission, &TestClock::start()).await });
    greet(&mut stream).await;
    stream.write_all(&option(STARTTLS, &[])).await.unwrap();
    assert_eq!(option_reply(&mut stream).await, ERR_UNSUP);
    attach(&mut stream, &token()).await;
}

/// What the client calls security: veils, as the server does.
const CLIENT: Veiling = Veiling { is_required: true };

#[tokio::test]
async fn the_client_encrypts_before_it_names_anything() {
    for is_required in [false, true] {
        let Served { stream, session } = served(is_required);
        let options = RequestedOptions::everything();
        let client = Client::connect_tls(stream, token(), options, &CLIENT, &TestSpawner);
        let client = client.await.unwrap();
        assert_eq!(client.export().contexts.len(), 1);
        let data = bytes::Bytes::from(vec![7; 100_000]);
        client.write(4000, data.clone(), true).await.unwrap();
        assert_eq!(client.read(4000, 100_000).await.unwrap(), data);
        client.disconnect().await;
        let (ended, client) = session.await.unwrap();
        assert_eq!(ended, Ended::Disconnected);
        assert_eq!(client.unwrap().names, ["host-1"]);
    }
    // Where it is required, a client that does not encrypt is told why.
    let Served { stream, .. } = served(true);
    let refused = Client::connect(stream, token(), Opening::Go, &TestSpawner).await;
    let code = ERR_TLS_REQD;
    assert!(matches!(
        refused,
        Err(ClientError::Refused(ServerRefusal::Other { code: found, .. })) if found == code
    ));
}

#[tokio::test]
async fn the_client_does_not_go_on_in_the_clear() {
    // A server that has no TLS.
    let (stream, served) = tokio::io::duplex(64 * 1024);
    let admission = OneDisk::new(&MemoryDisk::new());
    let session = tokio::spawn(async move { serve(served, &admission, &TestClock::start()).await });
    let refused = Client::connect_tls(stream, token(), Opening::Go, &CLIENT, &TestSpawner).await;
    assert!(matches!(refused, Err(ClientError::Refused(_))));
    assert_eq!(session.await.unwrap(), Ended::EndOfStream);

    // Somebody on the way puts answers behind the one to STARTTLS.
    let (stream, mut attacker) = tokio::io::duplex(64 * 1024);
    let attack = async {
        let greeting = b"NBDMAGICIHAVEOPT\0\x03";
        attacker.write_all(greeting).await.unwrap();
        let mut sent = [0; 20];
        attacker.read_exact(&mut sent).await.unwrap();
        assert_eq!(
            sent[4..],
            option(STARTTLS, &[])[..],
            "nothing else is asked"
        );
        let mut answer = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
        [STARTTLS, ACK, 0]
            .iter()
            .for_each(|word| answer.put_u32(*word));
        attacker
            .write_all(&[&answer[..], &answer].concat())
            .await
            .unwrap();
        let mut rest = Vec::new();
        attacker.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty(), "it went on");
    };
    let connect = Client::connect_tls(stream, token(), Opening::Go, &CLIENT, &TestSpawner);
    let (refused, ()) = tokio::join!(connect, attack);
    assert!(matches!(
        refused,
        Err(ClientError::Broken(Broken::ClearBehindStartTls {
            bytes: 20
        }))
    ));
}
