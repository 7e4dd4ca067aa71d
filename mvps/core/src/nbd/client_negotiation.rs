//! The client's side of the fixed newstyle handshake.
//!
//! Job: the mirror of [`super::negotiation`]. It asks for the framing and the contexts that its
//! user wants, then for one export, one option at a time, and understands the answers. A server
//! that knows less is accepted as it is. Invariant: what a server sends is bounded by
//! [`OPTION_SKIP_LIMIT_BYTES`] and [`REPLIES_MAX`], and never trusted.

use bytes::{Buf, BufMut, BytesMut};

use super::export::ExportName;
use super::limits::{IMAGE_SIZE_MAX_BYTES, OPTION_SKIP_LIMIT_BYTES, PAYLOAD_MAX_BYTES};
use super::remote::{RemoteContext, RemoteExport, ServerRefusal};
use super::wire::{
    GREETING_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, handshake, info, option, option_reply,
};
use super::{Broken, Framing};

/// Most replies to one option. A list of contexts is the longest answer there is.
pub const REPLIES_MAX: usize = 4096;

const GREETING_BYTES: usize = 18;
const REPLY_HEADER_BYTES: usize = 20;

/// How to ask for the export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// With GO: refusals have a reason.
    Go,
    /// With INFO: the server describes the export; after that the connection is of no further use.
    Describe,
    /// With EXPORT_NAME: a refusal closes the connection.
    ExportName {
        /// Whether to save the 124 bytes of padding.
        no_zeroes: bool,
    },
    /// With LIST_META_CONTEXT: nothing but a list of contexts.
    ListContexts,
}

/// What a client asks for in a negotiation. The server may grant less.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedOptions {
    /// How to ask for the export.
    pub opening: Opening,
    /// The best framing. Where the server does not have it, the client asks for the next best.
    pub framing: Framing,
    /// Names of contexts to select, or queries to list. Without any, a list has all there are. With
    /// EXPORT_NAME a client cannot be sure that one is selected.
    pub contexts: Vec<String>,
}

impl RequestedOptions {
    /// Everything that servers may have: extended headers, and `base:allocation`.
    #[must_use]
    pub fn everything() -> Self {
        Self {
            opening: Opening::Go,
            framing: Framing::Extended,
            contexts: vec!["base:allocation".to_owned()],
        }
    }
}

impl From<Opening> for RequestedOptions {
    /// Only the export: simple replies, no context.
    fn from(opening: Opening) -> Self {
        Self {
            opening,
            framing: Framing::Simple,
            contexts: Vec::new(),
        }
    }
}

/// What the caller does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientStep {
    /// Send what was appended, receive more, step again.
    NeedMore,
    /// Encrypt the stream, then say so with [`ClientNegotiation::secured`] and step again.
    StartTls,
    /// The export was granted. Unless it was only to be described, requests may follow.
    Granted(RemoteExport),
    /// The contexts that there are, for [`Opening::ListContexts`].
    Contexts(Vec<String>),
    /// The export was refused.
    Refused(ServerRefusal),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Greeting,
    /// The answer to this option is awaited.
    Asked(u32),
    ExportNameAnswer,
}

/// One handshake, client side.
#[derive(Debug)]
pub struct ClientNegotiation {
    name: ExportName,
    requested: RequestedOptions,
    state: State,
    /// Whether the client asks nothing before the stream is encrypted.
    wants_tls: bool,
    no_zeroes: bool,
    framing: Framing,
    replies: usize,
    contexts: Vec<RemoteContext>,
    export: Option<RemoteExport>,
    name_info: Option<String>,
    description_info: Option<String>,
    block_bytes: Option<(u32, u32, u32)>,
}

impl ClientNegotiation {
    /// Will ask for the export called `name`.
    #[must_use]
    pub fn new(name: ExportName, options: impl Into<RequestedOptions>) -> Self {
        Self {
            name,
            requested: options.into(),
            state: State::Greeting,
            wants_tls: false,
            no_zeroes: false,
            framing: Framing::Simple,
            replies: 0,
            contexts: Vec::new(),
            export: None,
            name_info: None,
            description_info: None,
            block_bytes: None,
        }
    }

    /// Will ask for encryption before anything else ("NBD_OPT_STARTTLS"): what an attacker could
    /// change on the way counts for nothing, and the export's name is not sent in the clear.
    #[must_use]
    pub fn over_tls(mut self) -> Self {
        self.wants_tls = true;
        self
    }

    /// Answers [`ClientStep::StartTls`]: the stream is encrypted.
    pub fn secured(&mut self, output: &mut BytesMut) {
        assert!(self.wants_tls, "nobody asked for encryption");
        self.wants_tls = false;
        self.ask_first(output);
    }

    /// Consumes what it understands of `input` and appends what is to be sent to `output`.
    ///
    /// # Errors
    /// [`Broken`]: this is no server to talk to.
    pub fn step(
        &mut self,
        input: &mut BytesMut,
        output: &mut BytesMut,
    ) -> Result<ClientStep, Broken> {
        loop {
            match self.state {
                State::Greeting => {
                    if input.len() < GREETING_BYTES {
                        return Ok(ClientStep::NeedMore);
                    }
                    self.take_greeting(input, output)?;
                }
                State::ExportNameAnswer => return self.take_export_name_answer(input),
                State::Asked(option) => {
                    let Some((reply, data)) = take_reply(option, input)? else {
                        return Ok(ClientStep::NeedMore);
                    };
                    if (option, reply) == (option::STARTTLS, option_reply::ACK) {
                        return start_tls(input);
                    }
                    if let Some(step) = self.take_answer(option, reply, &data, output)? {
                        return Ok(step);
                    }
                }
            }
        }
    }

    fn take_greeting(&mut self, input: &mut BytesMut, output: &mut BytesMut) -> Result<(), Broken> {
        for expected in [GREETING_MAGIC, OPTION_MAGIC] {
            let magic = input.get_u64();
            if magic != expected {
                return Err(Broken::NegotiationMagic { magic });
            }
        }
        let offered = input.get_u16();
        if offered & handshake::FIXED_NEWSTYLE == 0 {
            return Err(Broken::HandshakeFlags {
                flags: u32::from(offered),
            });
        }
        let opening = self.requested.opening;
        let wants_no_zeroes = !matches!(opening, Opening::ExportName { no_zeroes: false });
        self.no_zeroes = wants_no_zeroes && offered & handshake::NO_ZEROES != 0;
        let no_zeroes_flag = if self.no_zeroes {
            handshake::NO_ZEROES
        } else {
            0
        };
        output.put_u32(u32::from(handshake::FIXED_NEWSTYLE | no_zeroes_flag));
        if self.wants_tls {
            self.ask(option::STARTTLS, output);
        } else {
            self.ask_first(output);
        }
        Ok(())
    }

    fn ask_first(&mut self, output: &mut BytesMut) {
        let named_last = matches!(self.requested.opening, Opening::ExportName { .. });
        match self.requested.framing {
            // EXPORT_NAME must not follow extended headers.
            Framing::Extended if !named_last => self.ask(option::EXTENDED_HEADERS, output),
            Framing::Extended | Framing::Structured => self.ask(option::STRUCTURED_REPLY, output),
            Framing::Simple => self.ask_after_framing(output),
        }
    }

    fn ask_after_framing(&mut self, output: &mut BytesMut) {
        let selects = !self.requested.contexts.is_empty() && self.framing != Framing::Simple;
        match self.requested.opening {
            Opening::ListContexts => self.ask(option::LIST_META_CONTEXT, output),
            _ if selects => self.ask(option::SET_META_CONTEXT, output),
            _ => self.ask_for_export(output),
        }
    }

    fn ask_for_export(&mut self, output: &mut BytesMut) {
        let option = match self.requested.opening {
            Opening::Describe => option::INFO,
            Opening::ExportName { .. } => option::EXPORT_NAME,
            Opening::Go | Opening::ListContexts => option::GO,
        };
        self.ask(option, output);
    }

    fn ask(&mut self, option: u32, output: &mut BytesMut) {
        let mut data = BytesMut::new();
        let name = self.name.reveal().as_bytes();
        match option {
            option::EXPORT_NAME => data.put_slice(name),
            option::GO | option::INFO => {
                put_string(&mut data, name);
                let wanted = [info::NAME, info::DESCRIPTION, info::BLOCK_SIZE];
                data.put_u16(3);
                wanted.into_iter().for_each(|wanted| data.put_u16(wanted));
            }
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                put_string(&mut data, name);
                let queries = &self.requested.contexts;
                data.put_u32(u32::try_from(queries.len()).expect("a list in memory is short"));
                for query in queries {
                    put_string(&mut data, query.as_bytes());
                }
            }
            _ => {}
        }
        output.put_u64(OPTION_MAGIC);
        output.put_u32(option);
        output.put_u32(u32::try_from(data.len()).expect("option data is short"));
        output.put_slice(&data);
        self.replies = 0;
        self.state = match option {
            option::EXPORT_NAME => State::ExportNameAnswer,
            _ => State::Asked(option),
        };
    }

    fn take_export_name_answer(&mut self, input: &mut BytesMut) -> Result<ClientStep, Broken> {
        let padding_bytes = match self.no_zeroes {
            true => 0,
            false => handshake::PADDING_BYTES,
        };
        if input.len() < 10 + padding_bytes {
            return Ok(ClientStep::NeedMore);
        }
        let size_bytes = checked_size(input.get_u64())?;
        self.export = Some(RemoteExport::new(size_bytes, input.get_u16()));
        input.advance(padding_bytes);
        self.granted().map(ClientStep::Granted)
    }

    /// Takes one reply to `option`. Returns what the caller does next if that was the last of all.
    fn take_answer(
        &mut self,
        option: u32,
        reply: u32,
        data: &[u8],
        output: &mut BytesMut,
    ) -> Result<Option<ClientStep>, Broken> {
        self.replies += 1;
        if self.replies > REPLIES_MAX {
            return Err(Broken::UnexpectedReply);
        }
        let is_error = reply & option_reply::ERROR_BIT != 0;
        match (option, reply) {
            (option::EXTENDED_HEADERS, option_reply::ACK) => {
                self.framing = Framing::Extended;
                self.ask_after_framing(output);
            }
            // "Clients SHOULD be prepared" for servers without it.
            (option::EXTENDED_HEADERS, _) if is_error => {
                self.ask(option::STRUCTURED_REPLY, output);
            }
            (option::STRUCTURED_REPLY, option_reply::ACK) => {
                self.framing = Framing::Structured;
                self.ask_after_framing(output);
            }
            (option::STRUCTURED_REPLY, _) if is_error => self.ask_after_framing(output),
            (option::LIST_META_CONTEXT | option::SET_META_CONTEXT, option_reply::META_CONTEXT) => {
                self.take_context(data)?
            }
            (option::LIST_META_CONTEXT, option_reply::ACK) => {
                let contexts = std::mem::take(&mut self.contexts).into_iter();
                let names = contexts.map(|context| context.name).collect();
                return Ok(Some(ClientStep::Contexts(names)));
            }
            (option::SET_META_CONTEXT, option_reply::ACK) => self.ask_for_export(output),
            (option::SET_META_CONTEXT, _) if is_error => {
                // An export that is refused is refused again, with its reason.
                self.contexts.clear();
                self.ask_for_export(output);
            }
            (option::GO | option::INFO, option_reply::INFO) => self.take_info(data)?,
            (option::GO | option::INFO, option_reply::ACK) => {
                return self
                    .granted()
                    .map(|export| Some(ClientStep::Granted(export)));
            }
            _ if is_error => return Ok(Some(ClientStep::Refused(refusal(reply, data)))),
            _ => return Err(Broken::UnexpectedReply),
        }
        Ok(None)
    }

    fn take_context(&mut self, mut data: &[u8]) -> Result<(), Broken> {
        let id = data.try_get_u32().map_err(|_| Broken::UnexpectedReply)?;
        let name = text(data);
        self.contexts.push(RemoteContext { id, name });
        Ok(())
    }

    fn take_info(&mut self, mut data: &[u8]) -> Result<(), Broken> {
        let information = data.try_get_u16().map_err(|_| Broken::UnexpectedReply)?;
        match (information, data.len()) {
            (info::EXPORT, 10) => {
                let size_bytes = checked_size(data.get_u64())?;
                self.export = Some(RemoteExport::new(size_bytes, data.get_u16()));
            }
            (info::BLOCK_SIZE, 12) => {
                self.block_bytes = Some((data.get_u32(), data.get_u32(), data.get_u32()));
            }
            (info::EXPORT | info::BLOCK_SIZE, _) => return Err(Broken::UnexpectedReply),
            (info::NAME, _) => self.name_info = Some(text(data)),
            (info::DESCRIPTION, _) => self.description_info = Some(text(data)),
            _ => {}
        }
        Ok(())
    }

    fn granted(&mut self) -> Result<RemoteExport, Broken> {
        let mut export = self.export.take().ok_or(Broken::UnexpectedReply)?;
        if let Some((minimum, preferred, maximum)) = self.block_bytes {
            export.minimum_block_bytes = minimum;
            export.preferred_block_bytes = preferred;
            export.maximum_payload_bytes = maximum.min(PAYLOAD_MAX_BYTES);
        }
        export.name = self.name_info.take();
        export.description = self.description_info.take();
        export.framing = self.framing;
        export.contexts = std::mem::take(&mut self.contexts);
        Ok(export)
    }
}

/// Nothing may have arrived behind the answer: an attacker could have put it there in the clear.
fn start_tls(input: &BytesMut) -> Result<ClientStep, Broken> {
    match input.len() {
        0 => Ok(ClientStep::StartTls),
        bytes => Err(Broken::ClearBehindStartTls { bytes }),
    }
}

fn put_string(data: &mut BytesMut, string: &[u8]) {
    data.put_u32(u32::try_from(string.len()).expect("a string in memory is short"));
    data.put_slice(string);
}

/// The next reply, which must be to `option`: its type and data, once all of it is there.
fn take_reply(option: u32, input: &mut BytesMut) -> Result<Option<(u32, BytesMut)>, Broken> {
    if input.len() < REPLY_HEADER_BYTES {
        return Ok(None);
    }
    let mut header = &input[..REPLY_HEADER_BYTES];
    let magic = header.get_u64();
    if magic != OPTION_REPLY_MAGIC {
        return Err(Broken::NegotiationMagic { magic });
    }
    let answered = header.get_u32();
    let reply = header.get_u32();
    let length_bytes = header.get_u32();
    if answered != option {
        return Err(Broken::UnexpectedReply);
    }
    if length_bytes > OPTION_SKIP_LIMIT_BYTES {
        return Err(Broken::OptionTooLarge { length_bytes });
    }
    let end = REPLY_HEADER_BYTES + length_bytes as usize;
    if input.len() < end {
        return Ok(None);
    }
    let mut whole = input.split_to(end);
    whole.advance(REPLY_HEADER_BYTES);
    Ok(Some((reply, whole)))
}

fn checked_size(size_bytes: u64) -> Result<u64, Broken> {
    if size_bytes <= IMAGE_SIZE_MAX_BYTES {
        Ok(size_bytes)
    } else {
        Err(Broken::UnexpectedReply)
    }
}

fn refusal(reply: u32, data: &[u8]) -> ServerRefusal {
    let message = text(data);
    match reply {
        option_reply::ERR_POLICY => ServerRefusal::Policy { message },
        option_reply::ERR_UNKNOWN => ServerRefusal::Unknown { message },
        option_reply::ERR_SHUTDOWN => ServerRefusal::Shutdown { message },
        code => ServerRefusal::Other { code, message },
    }
}

fn text(data: &[u8]) -> String {
    String::from_utf8_lossy(data).into_owned()
}
