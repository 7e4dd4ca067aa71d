//! The server's side of the fixed newstyle handshake ("Newstyle negotiation").
//!
//! Job: a state machine that takes what arrived, appends answers and says what it needs next. The
//! caller does the IO and decides whom to admit. When an option names an export, [`Step::Wanted`]
//! asks, and [`Negotiation::grant`] or [`Negotiation::refuse`] answers. When an option asks for
//! metadata contexts, [`Step::Contexts`] asks, and [`Negotiation::offer`] or `refuse` answers.
//!
//! Invariants: every option gets exactly one final answer, in order. An option that this server
//! does not know is refused, and negotiation goes on. The machine never needs more than
//! [`OPTION_DATA_LIMIT_BYTES`] in one piece. Must never: log or reveal an export name, which is a
//! secret here.

use bytes::{Buf, BufMut, BytesMut};

use self::answers::{put_context, put_error, put_info_text, put_reply_header};
use self::option_data::{ContextsData, GoData, Malformed};
use super::context::{Context, ContextName, ContextQuery};
use super::export::{
    ContextPurpose, ContextsRequest, Export, ExportName, ExportRequest, NegotiatedOptions, Purpose,
    Refusal,
};
use super::limits::{
    CONTEXTS_MAX, OPTION_DATA_LIMIT_BYTES, OPTION_SKIP_LIMIT_BYTES, OPTIONS_LIMIT,
    PAYLOAD_MAX_BYTES,
};
use super::wire::{GREETING_MAGIC, OPTION_MAGIC, handshake, info, option, option_reply};
use super::{Broken, Framing};

mod answers;
mod option_data;

const OPTION_HEADER_BYTES: usize = 16;

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
    /// Decide, then call [`Negotiation::offer`] or [`Negotiation::refuse`], then step again.
    Contexts(ContextsRequest),
    /// Send what was appended, then close.
    Close,
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
    /// The caller decides about contexts.
    AskedContexts {
        option: u32,
    },
    Closing,
    Finished,
}

/// Whether a client may, or must, encrypt the stream ("NBD_OPT_STARTTLS", "TLS modes").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsPolicy {
    /// The server has no TLS.
    #[default]
    Unavailable,
    /// The client may (OPPORTUNISTICTLS).
    Offered,
    /// The client must, before anything else (FORCEDTLS).
    Required,
    /// The stream is encrypted.
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
    framing: Framing,
    /// The export that the present option is about.
    asked: Option<ExportName>,
    /// The contexts of the last SET_META_CONTEXT, and the export that they are of.
    selected: Option<(ExportName, Vec<Context>)>,
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
            framing: Framing::Simple,
            asked: None,
            selected: None,
        }
    }

    /// Sets the policy.
    pub fn set_tls(&mut self, policy: TlsPolicy) {
        self.tls = policy;
    }

    /// Answers [`Step::StartTls`]: the stream is encrypted. What was negotiated before counts no
    /// more.
    pub fn secured(&mut self) {
        self.tls = TlsPolicy::Secured;
        self.framing = Framing::Simple;
        self.asked = None;
        self.selected = None;
    }

    /// Consumes what it understands of `input` and appends answers to `output`.
    ///
    /// # Errors
    /// [`Broken`]: close the connection.
    ///
    /// # Panics
    /// If the previous step was [`Step::Wanted`] or [`Step::Contexts`] and nobody answered it, or
    /// after a grant that ended the handshake.
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
                    Taken::Asked(step) => return Ok(step),
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
                State::Asked { .. } | State::AskedContexts { .. } => {
                    panic!("a request of the client is answered before the next step")
                }
                State::Finished => panic!("no step follows the end of the handshake"),
            }
        }
    }

    /// Answers [`Step::Wanted`] with an export. Returns what the transmission phase begins with if
    /// that is now, `None` if negotiation goes on.
    ///
    /// # Panics
    /// If nobody asked.
    pub fn grant(&mut self, export: &Export, output: &mut BytesMut) -> Option<NegotiatedOptions> {
        let State::Asked {
            option,
            wants_name,
            wants_description,
        } = self.state
        else {
            panic!("a grant answers a request for an export");
        };
        let flags = export.transmission_flags(self.framing);
        if option == option::EXPORT_NAME {
            output.put_u64(export.size_bytes);
            output.put_u16(flags);
            if !self.no_zeroes {
                output.put_bytes(0, handshake::PADDING_BYTES);
            }
            return Some(self.finish());
        }
        put_reply_header(output, option, option_reply::INFO, 12);
        output.put_u16(info::EXPORT);
        output.put_u64(export.size_bytes);
        output.put_u16(flags);
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
            Some(self.finish())
        } else {
            self.state = State::Option;
            None
        }
    }

    /// Contexts count only for the export that they were selected for ("if … a different export
    /// name … the server MUST NOT" use them).
    fn finish(&mut self) -> NegotiatedOptions {
        self.state = State::Finished;
        let selected = self.selected.take();
        let same = selected.filter(|(name, _)| Some(name) == self.asked.as_ref());
        NegotiatedOptions {
            framing: self.framing,
            contexts: same.map_or_else(Vec::new, |(_, contexts)| contexts),
        }
    }

    /// Answers [`Step::Contexts`] with the contexts that there are of those that were asked for.
    /// More than [`CONTEXTS_MAX`] cannot be selected; the rest is left out.
    ///
    /// # Panics
    /// If nobody asked.
    pub fn offer(&mut self, contexts: Vec<ContextName>, output: &mut BytesMut) {
        let State::AskedContexts { option } = self.state else {
            panic!("an offer answers a request for contexts");
        };
        if option == option::LIST_META_CONTEXT {
            // "The metadata context ID in these replies is reserved and SHOULD be set to zero".
            contexts
                .iter()
                .for_each(|name| put_context(output, option, 0, name));
        } else {
            let mut selected: Vec<Context> = Vec::with_capacity(contexts.len().min(CONTEXTS_MAX));
            for (id, name) in (1..).zip(contexts.into_iter().take(CONTEXTS_MAX)) {
                put_context(output, option, id, &name);
                selected.push(Context { id, name });
            }
            self.selected = self.asked.take().map(|name| (name, selected));
        }
        put_reply_header(output, option, option_reply::ACK, 0);
        self.state = State::Option;
    }

    /// Answers [`Step::Wanted`] or [`Step::Contexts`] with a refusal. EXPORT_NAME has no reply for
    /// one: the next step says to close.
    ///
    /// # Panics
    /// If nobody asked.
    pub fn refuse(&mut self, refusal: &Refusal, output: &mut BytesMut) {
        let (State::Asked { option, .. } | State::AskedContexts { option }) = self.state else {
            panic!("a refusal answers a request");
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
            if option == option::SET_META_CONTEXT {
                // It "replaces all previously-set metadata contexts", also where it fails.
                self.selected = None;
            }
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
            // "A client MUST NOT use NBD_OPT_EXPORT_NAME" after extended headers.
            option::EXPORT_NAME if self.framing == Framing::Extended => self.close(),
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
                None => invalid(output, option, "malformed option"),
            },
            option::STRUCTURED_REPLY | option::EXTENDED_HEADERS => {
                self.change_framing(option, data, output)
            }
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                self.ask_contexts(option, data, output)
            }
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

    /// "The client MUST NOT send any additional data", nor ask for what it has.
    fn change_framing(&mut self, option: u32, data: &[u8], output: &mut BytesMut) -> Taken {
        let wanted = match option {
            option::EXTENDED_HEADERS => Framing::Extended,
            _ => Framing::Structured,
        };
        if !data.is_empty() {
            return invalid(output, option, "this option has no data");
        }
        if self.framing == wanted {
            return invalid(output, option, "this is agreed already");
        }
        if self.framing == Framing::Extended {
            let message = "extended headers are agreed already";
            put_error(output, option, option_reply::ERR_EXT_HEADER_REQD, message);
            return Taken::Answered;
        }
        self.framing = wanted;
        put_reply_header(output, option, option_reply::ACK, 0);
        Taken::Answered
    }

    fn ask_contexts(&mut self, option: u32, data: &[u8], output: &mut BytesMut) -> Taken {
        let purpose = match option {
            option::LIST_META_CONTEXT => ContextPurpose::List,
            _ => ContextPurpose::Select,
        };
        if purpose == ContextPurpose::Select {
            // It "replaces all previously-set metadata contexts", also where it fails.
            self.selected = None;
            if self.framing == Framing::Simple {
                return invalid(output, option, "ask for structured replies first");
            }
        }
        let ContextsData { name, queries } = match ContextsData::parse(data) {
            Ok(data) => data,
            Err(Malformed::Invalid) => return invalid(output, option, "malformed option"),
            Err(Malformed::TooMany) => {
                put_error(
                    output,
                    option,
                    option_reply::ERR_TOO_BIG,
                    "too many queries",
                );
                return Taken::Answered;
            }
        };
        let asks_for_all = queries.is_empty();
        let known = |query: &ContextQuery| match purpose {
            ContextPurpose::List => *query != ContextQuery::Foreign,
            ContextPurpose::Select => matches!(query, ContextQuery::Name(_)),
        };
        let queries: Vec<ContextQuery> = queries.into_iter().filter(known).collect();
        self.asked = Some(name.clone());
        self.state = State::AskedContexts { option };
        if queries.is_empty() && !(asks_for_all && purpose == ContextPurpose::List) {
            // Nothing that this server has under any name: no need to look at the export.
            self.offer(Vec::new(), output);
            return Taken::Answered;
        }
        Taken::Asked(Step::Contexts(ContextsRequest {
            name,
            purpose,
            queries,
        }))
    }

    fn ask(&mut self, option: u32, go: GoData) -> Taken {
        self.state = State::Asked {
            option,
            wants_name: go.wants_name,
            wants_description: go.wants_description,
        };
        self.asked = Some(go.name.clone());
        let purpose = match option {
            option::INFO => Purpose::Describe,
            _ => Purpose::Attach,
        };
        Taken::Asked(Step::Wanted(ExportRequest {
            name: go.name,
            purpose,
        }))
    }
}

enum Taken {
    Incomplete,
    Answered,
    Asked(Step),
    StartTls,
}

/// Nothing may have arrived behind STARTTLS, because a client waits for the answer.
fn start_tls(input: &BytesMut) -> Result<Step, Broken> {
    match input.len() {
        0 => Ok(Step::StartTls),
        bytes => Err(Broken::ClearBehindStartTls { bytes }),
    }
}

fn invalid(output: &mut BytesMut, option: u32, message: &str) -> Taken {
    put_error(output, option, option_reply::ERR_INVALID, message);
    Taken::Answered
}
