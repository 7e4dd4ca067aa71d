//! What the attackers do: one stage of the protocol each, then nothing, until the storm is over or
//! they are cut off; then the next.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::images::IMAGE_BYTES;

/// Connections that are being made at a time, as a listen queue holds them.
const CONNECTING_MAX: usize = 128;

/// How long an attacker waits for anything.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// How long an attacker rests before it goes on or comes again.
const REST: Duration = Duration::from_millis(500);

const REQUEST_MAGIC: u32 = 0x2560_9513;

/// Commands of transactions.
const BEGIN: u16 = 64;
const COMMIT: u16 = 65;

/// What is written at once by those who write much.
const MUCH: u64 = 1 << 20;

/// The storm.
pub struct Plan {
    /// Where mvps listens.
    pub address: SocketAddr,
    /// Good tokens, of other images than the one that must not suffer.
    pub tokens: Vec<String>,
    /// How many attackers.
    pub connections: usize,
    /// How long they go on.
    pub duration: Duration,
    /// What they do, by turns.
    pub attacks: Vec<Attack>,
}

/// What one attacker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Attack {
    /// Nothing at all.
    Silent,
    /// Half of the client's flags.
    HalfFlags,
    /// The head of an option without its data.
    HalfOption,
    /// An option that announces 4 GiB.
    HugeOption,
    /// One option after the other.
    OptionFlood,
    /// A handshake, a byte every now and then.
    SlowHandshake,
    /// Random bytes in place of flags.
    RandomFlags,
    /// Random bytes in place of an option.
    RandomOption,
    /// A token that nobody signed.
    BadToken,
    /// Attaches, and stays.
    Attached,
    /// Half of a request's head.
    HalfRequest,
    /// A write without its payload.
    HalfPayload,
    /// A write of 32 MiB, a byte every now and then.
    SlowPayload,
    /// A write that announces 4 GiB.
    HugePayload,
    /// Random bytes in place of requests.
    RandomRequests,
    /// Valid heads with everything else at random.
    RandomFields,
    /// Commands of transactions in no order.
    Disorder,
    /// Reads as much as there is, and takes none of it.
    NeverRead,
    /// Writes much at once, then asks for a little of each and takes none of it, but goes on
    /// writing.
    Hoard,
    /// Transactions that write much and keep a little of it.
    Leftovers,
    /// A transaction that writes as much as it may, and never ends.
    Idle,
    /// The status of everything, and everything brought to the cache, again and again.
    Walks,
}

/// How often each attack was begun, and how often a connection could not even be made.
#[derive(Debug, Default)]
pub struct Tally {
    begun: BTreeMap<Attack, u64>,
    unreachable: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: u64 = self.begun.values().sum();
        let least = self.begun.values().min().copied().unwrap_or(0);
        write!(
            formatter,
            "{total} connections of {} kinds, at least {least} each, {} not made",
            self.begun.len(),
            self.unreachable
        )
    }
}

/// Runs the storm to its end.
///
/// # Errors
/// If there is no runtime.
pub fn run(plan: &Plan) -> Result<Tally> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("a runtime for the attackers")?;
    let tally = runtime.block_on(async {
        let until = Instant::now() + plan.duration;
        let connecting = Arc::new(Semaphore::new(CONNECTING_MAX));
        let attackers: Vec<_> = (0..plan.connections)
            .map(|number| {
                let attacker = Attacker {
                    address: plan.address,
                    token: plan.tokens[number % plan.tokens.len()].clone(),
                    connecting: Arc::clone(&connecting),
                    random: Random(number as u64 + 1),
                    has_greeted: false,
                    attacks: plan.attacks.clone(),
                };
                tokio::spawn(attacker.until(until, number))
            })
            .collect();
        let mut tally = Tally::default();
        for attacker in attackers {
            let (begun, unreachable) = attacker.await.unwrap_or_default();
            tally.unreachable += unreachable;
            for attack in begun {
                *tally.begun.entry(attack).or_default() += 1;
            }
        }
        tally
    });
    runtime.shutdown_background();
    Ok(tally)
}

/// A generator of bytes nobody expects (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| (self.next() >> 56) as u8).collect()
    }
}

struct Attacker {
    address: SocketAddr,
    token: String,
    connecting: Arc<Semaphore>,
    random: Random,
    /// Whether the flags of the present connection were sent.
    has_greeted: bool,
    attacks: Vec<Attack>,
}

impl Attacker {
    async fn until(mut self, until: Instant, number: usize) -> (Vec<Attack>, u64) {
        let (mut begun, mut unreachable) = (Vec::new(), 0);
        let mut turn = number;
        while Instant::now() < until {
            let attack = self.attacks[turn % self.attacks.len()];
            turn += 1;
            let permit = self.connecting.acquire().await;
            let connected = timeout(ANSWER_LIMIT, TcpStream::connect(self.address)).await;
            drop(permit);
            let Ok(Ok(mut stream)) = connected else {
                unreachable += 1;
                sleep(REST).await;
                continue;
            };
            begun.push(attack);
            self.has_greeted = false;
            tokio::select! {
                biased;
                () = sleep_until(until) => {}
                // How it ends is the server's business.
                _ = self.attack(&mut stream, attack) => {}
            }
            drop(stream);
            tokio::select! {
                biased;
                () = sleep_until(until) => {}
                () = sleep(REST) => {}
            }
        }
        (begun, unreachable)
    }

    async fn attack(&mut self, stream: &mut TcpStream, attack: Attack) -> std::io::Result<()> {
        use Attack as A;
        let flags = [0, 0, 0, 3];
        match attack {
            A::Silent => {}
            A::HalfFlags => stream.write_all(&flags[..2]).await?,
            A::RandomFlags => stream.write_all(&self.random.bytes(4096)).await?,
            A::HalfOption => {
                stream.write_all(&flags).await?;
                stream.write_all(&option(7, &[0; 100])[..20]).await?;
            }
            A::HugeOption => {
                stream.write_all(&flags).await?;
                stream
                    .write_all(b"IHAVEOPT\0\0\0\x07\xff\xff\xff\xff")
                    .await?;
                stream.write_all(&vec![0; 256 * 1024]).await?;
            }
            A::OptionFlood => {
                stream.write_all(&flags).await?;
                loop {
                    stream.write_all(&option(99, &[7; 4000])).await?;
                }
            }
            A::SlowHandshake => {
                let sent = [&flags[..], &option(7, &go(&self.token))].concat();
                for byte in sent {
                    stream.write_all(&[byte]).await?;
                    sleep(REST).await;
                }
            }
            A::RandomOption => {
                stream.write_all(&flags).await?;
                stream.write_all(&self.random.bytes(4096)).await?;
            }
            A::BadToken => {
                stream.write_all(&flags).await?;
                let forged = format!("{}x", self.token);
                stream.write_all(&option(7, &go(&forged))).await?;
            }
            _ => {
                if attack == A::Walks {
                    self.ask_for_statuses(stream).await?;
                }
                self.attach(stream).await?;
                self.attack_attached(stream, attack).await?;
                if matches!(attack, A::NeverRead | A::Hoard) {
                    return std::future::pending().await;
                }
            }
        }
        drain(stream).await
    }

    async fn attack_attached(
        &mut self,
        stream: &mut TcpStream,
        attack: Attack,
    ) -> std::io::Result<()> {
        use Attack as A;
        match attack {
            A::HalfRequest => stream.write_all(&request(0, 0, 4096)[..13]).await,
            A::HalfPayload => stream.write_all(&request(1, 0, 1 << 20)).await,
            A::SlowPayload => {
                stream.write_all(&request(1, 0, 32 << 20)).await?;
                loop {
                    stream.write_all(&[0]).await?;
                    sleep(REST).await;
                }
            }
            A::HugePayload => {
                stream.write_all(&request(1, 0, u32::MAX)).await?;
                stream.write_all(&vec![0; 256 * 1024]).await
            }
            A::RandomRequests => stream.write_all(&self.random.bytes(64 * 1024)).await,
            A::RandomFields => {
                for _ in 0..1000 {
                    let mut head = self.random.bytes(28);
                    head[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
                    stream.write_all(&head).await?;
                }
                Ok(())
            }
            A::Disorder => {
                for _ in 0..1000 {
                    let kind = 64 + (self.random.next() % 4) as u16;
                    stream.write_all(&request(kind, 0, 0)).await?;
                    let offset = self.random.next() % (1 << 20);
                    stream.write_all(&request(6, offset, 4096)).await?;
                }
                Ok(())
            }
            A::NeverRead => loop {
                stream.write_all(&request(0, 0, 16 << 20)).await?;
            },
            A::Hoard => loop {
                let offset = self.random.next() % (IMAGE_BYTES - MUCH);
                let mut bytes = request(1, offset, MUCH as u32).to_vec();
                bytes.resize(bytes.len() + MUCH as usize, 0xaa);
                for part in 0..16 {
                    bytes.extend(request(0, offset + part * 65536, 2048));
                }
                stream.write_all(&bytes).await?;
                sleep(REST * 2).await;
            },
            A::Leftovers => loop {
                let offset = self.random.next() % ((IMAGE_BYTES - MUCH) / 4096) * 4096;
                let mut bytes = request(BEGIN, 0, 0).to_vec();
                bytes.extend(request(1, offset, MUCH as u32));
                bytes.resize(bytes.len() + MUCH as usize, 0xaa);
                bytes.extend(request(4, offset, MUCH as u32 - 20480));
                bytes.extend(request(COMMIT, 0, 0));
                stream.write_all(&bytes).await?;
                stream.read_exact(&mut [0; 4 * 16]).await?;
                sleep(REST * 2).await;
            },
            A::Idle => {
                stream.write_all(&request(BEGIN, 0, 0)).await?;
                for part in 0..64 {
                    let head = request(1, part * MUCH, MUCH as u32);
                    stream.write_all(&head).await?;
                    stream.write_all(&vec![0xaa; MUCH as usize]).await?;
                    sleep(REST).await;
                }
                Ok(())
            }
            A::Walks => {
                let (mut replies, mut requests) = stream.split();
                let mut sink = tokio::io::sink();
                let flood = async {
                    let one = [
                        request(7, 0, IMAGE_BYTES as u32),
                        request(5, 0, IMAGE_BYTES as u32),
                    ];
                    let many = one.concat().repeat(64);
                    loop {
                        requests.write_all(&many).await?;
                        sleep(REST).await;
                    }
                };
                tokio::select! {
                    flooded = flood => flooded,
                    read = tokio::io::copy(&mut replies, &mut sink) => read.map(drop),
                }
            }
            _ => Ok(()),
        }
    }

    /// Flags and GO, until the answer is that it is attached. (What precedes that are information
    /// replies and the answers to earlier options, whatever they say.)
    async fn attach(&mut self, stream: &mut TcpStream) -> std::io::Result<()> {
        if !self.has_greeted {
            self.greet(stream).await?;
        }
        stream.write_all(&option(7, &go(&self.token))).await?;
        loop {
            let (number, kind) = timeout(ANSWER_LIMIT, option_reply(stream)).await??;
            if number == 7 && kind == 1 {
                return Ok(());
            }
            if number == 7 && kind >= 1 << 31 {
                return Err(std::io::ErrorKind::PermissionDenied.into());
            }
        }
    }

    async fn greet(&mut self, stream: &mut TcpStream) -> std::io::Result<()> {
        stream.write_all(&[0, 0, 0, 3]).await?;
        timeout(ANSWER_LIMIT, stream.read_exact(&mut [0; 18])).await??;
        self.has_greeted = true;
        Ok(())
    }

    /// Structured replies and the allocation context.
    async fn ask_for_statuses(&mut self, stream: &mut TcpStream) -> std::io::Result<()> {
        self.greet(stream).await?;
        stream.write_all(&option(8, &[])).await?;
        let name = go(&self.token);
        let (name, _) = name.split_at(name.len() - 2);
        let query = b"base:allocation";
        let length = u32::try_from(query.len()).expect("a query is short");
        let data = [name, &1_u32.to_be_bytes(), &length.to_be_bytes(), query].concat();
        stream.write_all(&option(10, &data)).await
    }
}

/// The number of the option that is answered, and how.
async fn option_reply(stream: &mut TcpStream) -> std::io::Result<(u32, u32)> {
    let mut head = [0; 20];
    stream.read_exact(&mut head).await?;
    let number = |at: usize| u32::from_be_bytes(*head[at..].first_chunk().expect("20 bytes"));
    let mut rest = stream.take(u64::from(number(16)));
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    Ok((number(8), number(12)))
}

/// Takes what comes until the server has had enough.
async fn drain(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.extend_from_slice(&number.to_be_bytes());
    let length = u32::try_from(data.len()).expect("an option is short");
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

fn go(token: &str) -> Vec<u8> {
    let length = u32::try_from(token.len()).expect("a token is short");
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(token.as_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes
}

fn request(kind: u16, offset: u64, length: u32) -> [u8; 28] {
    let mut bytes = [0; 28];
    bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    bytes[6..8].copy_from_slice(&kind.to_be_bytes());
    bytes[16..24].copy_from_slice(&offset.to_be_bytes());
    bytes[24..].copy_from_slice(&length.to_be_bytes());
    bytes
}
