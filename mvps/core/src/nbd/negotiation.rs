//! The server's side of the fixed newstyle handshake ("Newstyle negotiation").
//!
//! Job: a state machine that takes what arrived, appends answers and says what it needs next. The
//! caller does the IO and decides whom to admit: when an option names an export, [`Step::Wanted`]
//! asks, and [`Negotiation::grant`] or [`Negotiation::refuse`] answers.
//!
//! Invariants: every option gets exactly one final answer, in order; an option this server does
//! not know is refused and negotiation goes on; never more than [`OPTION_DATA_LIMIT_BYTES`] are
//! needed in one piece. Must never: log or reveal an export name, which is a secret here.

use std::borrow::Cow;
use std::fmt;

use bytes::{Buf, BufMut, BytesMut};

use super::Framing;
use super::limits::{
    EXPORT_NAME_MAX_BYTES, OPTION_DATA_LIMIT_BYTES, OPTION_SKIP_LIMIT_BYTES, OPTIONS_LIMIT,
    PAYLOAD_MAX_BYTES,
};
use super::wire::{
    GREETING_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, handshake, info, option, option_reply,
    transmission,
};

const OPTION_HEADER_BYTES: usize = 16;

/// Longest text that is sent with a refusal; strings are at most 4096 bytes.
const MESSAGE_MAX_BYTES: usize = 1024;

/// The stream is out of step, or the peer will not keep to the protocol: close the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// No request began where one had to.
    #[error("a request began with {magic:#010x}")]
    RequestMagic {
        /// What stood there.
        magic: u32,
    },
    /// No reply began where one had to.
    #[error("a reply began with {magic:#010x}")]
    ReplyMagic {
        /// What stood there.
        magic: u32,
    },
    /// No option, greeting or option reply began where one had to.
    #[error("negotiation out of step: found {magic:#018x}")]
    NegotiationMagic {
        /// What stood there.
        magic: u64,
    },
    /// A refused write with more payload than is worth skipping.
    #[error("a request announced {length_bytes} bytes of payload")]
    PayloadTooLarge {
        /// What it announced.
        length_bytes: u64,
    },
    /// An option or option reply with more data than is worth skipping.
    #[error("an option announced {length_bytes} bytes of data")]
    OptionTooLarge {
        /// What it announced.
        length_bytes: u32,
    },
    /// More than [`OPTIONS_LIMIT`] options.
    #[error("more than {OPTIONS_LIMIT} options")]
    TooManyOptions,
    /// Flags that this side did not offer.
    #[error("unknown handshake flags {flags:#x}")]
    HandshakeFlags {
        /// All that were set.
        flags: u32,
    },
    /// Bytes arrived behind STARTTLS before it was answered. Whoever put them there, they must not
    /// pass for what is said under encryption.
    #[error("{bytes} bytes in the clear behind STARTTLS")]
    ClearBehindStartTls {
        /// How many.
        bytes: usize,
    },
    /// The server sent what does not answer the client's option.
    #[error("an option reply that answers nothing")]
    UnexpectedReply,
}

/// The name of an export as a client sent it. It is a token, hence a secret: its `Debug` output
/// hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct ExportName(String);

impl ExportName {
    /// A name from text; `None` if it is longer than [`EXPORT_NAME_MAX_BYTES`].
    #[must_use]
    pub fn new(name: String) -> Option<Self> {
        (name.len() <= EXPORT_NAME_MAX_BYTES).then_some(Self(name))
    }

    /// The secret itself. Not for logs.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    fn from_bytes(name: &[u8]) -> Option<Self> {
        Self::new(std::str::from_utf8(name).ok()?.to_owned())
    }
}

impl fmt::Debug for ExportName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ExportName({} bytes)", self.0.len())
    }
}

/// What a client wants with an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// INFO: to know about it.
    Describe,
    /// GO or EXPORT_NAME: to use it.
    Attach,
}

/// A client's wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportRequest {
    /// Which export.
    pub name: ExportName,
    /// What for.
    pub purpose: Purpose,
}

/// What the caller does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send what was appended, receive more, step again.
    NeedMore,
    /// Decide, then call [`Negotiation::grant`] or [`Negotiation::refuse`], then step again.
    Wanted(ExportRequest),
    /// Send what was appended, encrypt the stream, then call [`Negotiation::secured`] and go on
    /// with what arrives through it.
    StartTls,
    /// Send what was appended, then close.
    Close,
}

/// An export as it is announced to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// Size, at most [`super::IMAGE_SIZE_MAX_BYTES`].
    pub size_bytes: u64,
    /// Preferred size and alignment of requests, a power of two.
    pub preferred_block_bytes: u32,
    /// Whether it refuses to be changed.
    pub read_only: bool,
    /// Whether several connections see one disk and a flush on one covers all.
    pub can_multi_conn: bool,
    /// Its name in public: never the token.
    pub name: String,
    /// For people.
    pub description: String,
}

impl Export {
    fn transmission_flags(&self) -> u16 {
        let mut flags = transmission::HAS_FLAGS
            | transmission::SEND_FLUSH
            | transmission::SEND_FUA
            | transmission::SEND_TRIM
            | transmission::SEND_WRITE_ZEROES;
        if self.read_only {
            flags |= transmission::READ_ONLY;
        }
        if self.can_multi_conn {
            flags |= transmission::CAN_MULTI_CONN;
        }
        flags
    }
}

/// Why an export is refused, as the client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The client may not (`NBD_REP_ERR_POLICY`). Says nothing more, whatever the reason.
    Policy,
    /// A permitted client asks for what cannot be served (`NBD_REP_ERR_UNKNOWN`).
    Unknown {
        /// What to tell it.
        message: Cow<'static, str>,
    },
    /// This server is going away (`NBD_REP_ERR_SHUTDOWN`).
    Shutdown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    ClientFlags,
    Option,
    /// Throwing away the data of an option that was too large.
    Skip {
        option: u32,
        remaining_bytes: u32,
    },
    /// The caller decides about an export.
    Asked {
        option: u32,
        wants_name: bool,
        wants_description: bool,
    },
    Closing,
    Finished,
}

/// Whether a client may, or must, encrypt the stream ("NBD_OPT_STARTTLS", "TLS modes").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsPolicy {
    /// This server cannot.
    #[default]
    Unavailable,
    /// As it likes (OPPORTUNISTICTLS).
    Offered,
    /// Before anything else (FORCEDTLS).
    Required,
    /// It is done.
    Secured,
}

/// One handshake, server side.
#[derive(Debug)]
pub struct Negotiation {
    state: State,
    no_zeroes: bool,
    fixed: bool,
    options_count: u32,
    tls: TlsPolicy,
}

impl Negotiation {
    /// Begins a handshake: appends the greeting.
    #[must_use]
    pub fn begin(output: &mut BytesMut) -> Self {
        output.put_u64(GREETING_MAGIC);
        output.put_u64(OPTION_MAGIC);
        output.put_u16(handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES);
        Self {
            state: State::ClientFlags,
            no_zeroes: false,
            fixed: false,
            options_count: 0,
            tls: TlsPolicy::Unavailable,
        }
    }

    /// From now on `policy` holds.
    pub fn set_tls(&mut self, policy: TlsPolicy) {
        self.tls = policy;
    }

    /// Answers [`Step::StartTls`]: the stream is encrypted. What was agreed before counts no more.
    pub fn secured(&mut self) {
        self.tls = TlsPolicy::Secured;
    }

    /// Consumes what it understands of `input` and appends answers to `output`.
    ///
    /// # Errors
    /// [`Broken`]: close the connection.
    ///
    /// # Panics
    /// If the previous step was [`Step::Wanted`] and nobody answered it, or after a grant that
    /// ended the handshake.
    pub fn step(&mut self, input: &mut BytesMut, output: &mut BytesMut) -> Result<Step, Broken> {
        loop {
            match self.state {
                State::ClientFlags => {
                    if input.len() < 4 {
                        return Ok(Step::NeedMore);
                    }
                    self.take_client_flags(input.get_u32())?;
                }
                State::Option => match self.take_option(input, output)? {
                    Taken::Answered => {}
                    Taken::Incomplete => return Ok(Step::NeedMore),
                    Taken::Wanted(request) => return Ok(Step::Wanted(request)),
                    Taken::StartTls => return start_tls(input),
                },
                State::Skip {
                    option,
                    remaining_bytes,
                } => {
                    let present = u32::try_from(input.len()).unwrap_or(u32::MAX);
                    let skipped = present.min(remaining_bytes);
                    input.advance(skipped as usize);
                    let remaining_bytes = remaining_bytes - skipped;
                    if remaining_bytes > 0 {
                        self.state = State::Skip {
                            option,
                            remaining_bytes,
                        };
                        return Ok(Step::NeedMore);
                    }
                    put_error(
                        output,
                        option,
                        option_reply::ERR_TOO_BIG,
                        "option too large",
                    );
                    self.state = State::Option;
                }
                State::Closing => return Ok(Step::Close),
                State::Asked { .. } => panic!("an export request is answered before the next step"),
                State::Finished => panic!("no step follows the end of the handshake"),
            }
        }
    }

    /// Answers [`Step::Wanted`] with an export. Returns the framing of the transmission phase if
    /// that begins now, `None` if negotiation goes on.
    ///
    /// # Panics
    /// If nobody asked.
    pub fn grant(&mut self, export: &Export, output: &mut BytesMut) -> Option<Framing> {
        let State::Asked {
            option,
            wants_name,
            wants_description,
        } = self.state
        else {
            panic!("a grant answers a request for an export");
        };
        if option == option::EXPORT_NAME {
            output.put_u64(export.size_bytes);
            output.put_u16(export.transmission_flags());
            if !self.no_zeroes {
                output.put_bytes(0, handshake::PADDING_BYTES);
            }
            self.state = State::Finished;
            return Some(Framing::Simple);
        }
        put_reply_header(output, option, option_reply::INFO, 12);
        output.put_u16(info::EXPORT);
        output.put_u64(export.size_bytes);
        output.put_u16(export.transmission_flags());
        if wants_name {
            put_info_text(output, option, info::NAME, &export.name);
        }
        if wants_description {
            put_info_text(output, option, info::DESCRIPTION, &export.description);
        }
        put_reply_header(output, option, option_reply::INFO, 14);
        output.put_u16(info::BLOCK_SIZE);
        output.put_u32(1);
        output.put_u32(export.preferred_block_bytes);
        output.put_u32(PAYLOAD_MAX_BYTES);
        put_reply_header(output, option, option_reply::ACK, 0);
        if option == option::GO {
            self.state = State::Finished;
            Some(Framing::Simple)
        } else {
            self.state = State::Option;
            None
        }
    }

    /// Answers [`Step::Wanted`] with a refusal. EXPORT_NAME knows no refusal: the next step says
    /// to close.
    ///
    /// # Panics
    /// If nobody asked.
    pub fn refuse(&mut self, refusal: &Refusal, output: &mut BytesMut) {
        let State::Asked { option, .. } = self.state else {
            panic!("a refusal answers a request for an export");
        };
        if option == option::EXPORT_NAME {
            self.state = State::Closing;
            return;
        }
        let (reply, message) = match refusal {
            Refusal::Policy => (option_reply::ERR_POLICY, "this export name is not accepted"),
            Refusal::Unknown { message } => (option_reply::ERR_UNKNOWN, &**message),
            Refusal::Shutdown => (option_reply::ERR_SHUTDOWN, "the server is shutting down"),
        };
        put_error(output, option, reply, message);
        self.state = State::Option;
    }

    fn take_client_flags(&mut self, flags: u32) -> Result<(), Broken> {
        let known = u32::from(handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES);
        if flags & !known != 0 {
            return Err(Broken::HandshakeFlags { flags });
        }
        self.fixed = flags & u32::from(handshake::FIXED_NEWSTYLE) != 0;
        self.no_zeroes = flags & u32::from(handshake::NO_ZEROES) != 0;
        self.state = State::Option;
        Ok(())
    }

    fn take_option(
        &mut self,
        input: &mut BytesMut,
        output: &mut BytesMut,
    ) -> Result<Taken, Broken> {
        if input.len() < OPTION_HEADER_BYTES {
            return Ok(Taken::Incomplete);
        }
        let mut header = &input[..OPTION_HEADER_BYTES];
        let magic = header.get_u64();
        if magic != OPTION_MAGIC {
            return Err(Broken::NegotiationMagic { magic });
        }
        let option = header.get_u32();
        let length_bytes = header.get_u32();
        if length_bytes > OPTION_DATA_LIMIT_BYTES {
            // EXPORT_NAME cannot be answered with an error.
            if length_bytes > OPTION_SKIP_LIMIT_BYTES || option == option::EXPORT_NAME {
                return Err(Broken::OptionTooLarge { length_bytes });
            }
            self.count_option()?;
            input.advance(OPTION_HEADER_BYTES);
            self.state = State::Skip {
                option,
                remaining_bytes: length_bytes,
            };
            return Ok(Taken::Answered);
        }
        let end = OPTION_HEADER_BYTES + length_bytes as usize;
        if input.len() < end {
            return Ok(Taken::Incomplete);
        }
        self.count_option()?;
        let whole = input.split_to(end);
        let data = &whole[OPTION_HEADER_BYTES..];
        Ok(self.answer(option, data, output))
    }

    fn count_option(&mut self) -> Result<(), Broken> {
        self.options_count += 1;
        if self.options_count > OPTIONS_LIMIT {
            return Err(Broken::TooManyOptions);
        }
        Ok(())
    }

    fn answer(&mut self, option: u32, data: &[u8], output: &mut BytesMut) -> Taken {
        match option {
            option::EXPORT_NAME if self.tls == TlsPolicy::Required => self.close(),
            option::EXPORT_NAME => match ExportName::from_bytes(data) {
                Some(name) => self.ask(option, GoData::plain(name)),
                None => self.close(),
            },
            option::ABORT => {
                put_reply_header(output, option, option_reply::ACK, 0);
                self.close()
            }
            // A client that is not "fixed" does not understand replies to other options.
            _ if !self.fixed => self.close(),
            option::STARTTLS => self.start_tls(data, output),
            _ if self.tls == TlsPolicy::Required => {
                let message = "this server requires TLS";
                put_error(output, option, option_reply::ERR_TLS_REQD, message);
                Taken::Answered
            }
            option::INFO | option::GO => match GoData::parse(data) {
                Some(go) => self.ask(option, go),
                None => {
                    put_error(
                        output,
                        option,
                        option_reply::ERR_INVALID,
                        "malformed option",
                    );
                    Taken::Answered
                }
            },
            option::LIST => {
                put_error(
                    output,
                    option,
                    option_reply::ERR_POLICY,
                    "exports are not listed",
                );
                Taken::Answered
            }
            _ => {
                put_error(
                    output,
                    option,
                    option_reply::ERR_UNSUP,
                    "unsupported option",
                );
                Taken::Answered
            }
        }
    }

    fn start_tls(&mut self, data: &[u8], output: &mut BytesMut) -> Taken {
        let option = option::STARTTLS;
        let (reply, message) = match self.tls {
            _ if !data.is_empty() => (option_reply::ERR_INVALID, "STARTTLS has no data"),
            TlsPolicy::Unavailable => (option_reply::ERR_UNSUP, "this server has no certificate"),
            TlsPolicy::Secured => (option_reply::ERR_INVALID, "the stream is encrypted"),
            TlsPolicy::Offered | TlsPolicy::Required => {
                put_reply_header(output, option, option_reply::ACK, 0);
                return Taken::StartTls;
            }
        };
        put_error(output, option, reply, message);
        Taken::Answered
    }

    fn close(&mut self) -> Taken {
        self.state = State::Closing;
        Taken::Answered
    }

    fn ask(&mut self, option: u32, go: GoData) -> Taken {
        self.state = State::Asked {
            option,
            wants_name: go.wants_name,
            wants_description: go.wants_description,
        };
        let purpose = match option {
            option::INFO => Purpose::Describe,
            _ => Purpose::Attach,
        };
        Taken::Wanted(ExportRequest {
            name: go.name,
            purpose,
        })
    }
}

enum Taken {
    Incomplete,
    Answered,
    Wanted(ExportRequest),
    StartTls,
}

/// Nothing may have arrived behind STARTTLS: the client waits for the answer.
fn start_tls(input: &BytesMut) -> Result<Step, Broken> {
    match input.len() {
        0 => Ok(Step::StartTls),
        bytes => Err(Broken::ClearBehindStartTls { bytes }),
    }
}

/// The data of GO and INFO.
struct GoData {
    name: ExportName,
    wants_name: bool,
    wants_description: bool,
}

impl GoData {
    fn plain(name: ExportName) -> Self {
        Self {
            name,
            wants_name: false,
            wants_description: false,
        }
    }

    /// `name length | name | count | count × information type`, nothing after it.
    fn parse(mut data: &[u8]) -> Option<Self> {
        let name_bytes = data.try_get_u32().ok()? as usize;
        let name = ExportName::from_bytes(data.get(..name_bytes)?)?;
        data.advance(name_bytes);
        let count = data.try_get_u16().ok()?;
        if data.len() != usize::from(count) * 2 {
            return None;
        }
        let mut go = Self::plain(name);
        while let Ok(wanted) = data.try_get_u16() {
            match wanted {
                info::NAME => go.wants_name = true,
                info::DESCRIPTION => go.wants_description = true,
                // EXPORT and BLOCK_SIZE are sent in any case; unknown ones are ignored.
                _ => {}
            }
        }
        Some(go)
    }
}

fn put_reply_header(output: &mut BytesMut, option: u32, reply: u32, length_bytes: u32) {
    output.put_u64(OPTION_REPLY_MAGIC);
    output.put_u32(option);
    output.put_u32(reply);
    output.put_u32(length_bytes);
}

fn put_error(output: &mut BytesMut, option: u32, reply: u32, message: &str) {
    let message = truncated(message);
    put_reply_header(output, option, reply, length_u32(message));
    output.put_slice(message.as_bytes());
}

fn put_info_text(output: &mut BytesMut, option: u32, information: u16, text: &str) {
    let text = truncated(text);
    put_reply_header(output, option, option_reply::INFO, 2 + length_u32(text));
    output.put_u16(information);
    output.put_slice(text.as_bytes());
}

fn truncated(text: &str) -> &str {
    &text[..text.floor_char_boundary(MESSAGE_MAX_BYTES)]
}

fn length_u32(text: &str) -> u32 {
    u32::try_from(text.len()).expect("a truncated text is short")
}
