//! The client's side of the fixed newstyle handshake.
//!
//! Job: the mirror of [`super::negotiation`]: asks for one export and understands the answer.
//! Invariant: what a server sends is bounded by [`OPTION_SKIP_LIMIT_BYTES`] and never trusted.

use bytes::{Buf, BufMut, BytesMut};

use super::limits::{IMAGE_SIZE_MAX_BYTES, OPTION_SKIP_LIMIT_BYTES, PAYLOAD_MAX_BYTES};
use super::negotiation::{Broken, ExportName};
use super::wire::{
    GREETING_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, handshake, info, option, option_reply,
    transmission,
};

const GREETING_BYTES: usize = 18;
const REPLY_HEADER_BYTES: usize = 20;

/// How to ask for the export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// With GO: refusals have a reason.
    Go,
    /// With INFO: the export is described and the connection is then of no further use.
    Describe,
    /// With EXPORT_NAME: a refusal closes the connection.
    ExportName {
        /// Whether to save the 124 bytes of padding.
        no_zeroes: bool,
    },
}

/// An export as the server announced it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteExport {
    /// Size.
    pub size_bytes: u64,
    /// Whether it refuses to be changed.
    pub read_only: bool,
    /// Whether FLUSH is understood.
    pub can_flush: bool,
    /// Whether FUA is understood.
    pub can_fua: bool,
    /// Whether TRIM is understood.
    pub can_trim: bool,
    /// Whether WRITE_ZEROES is understood.
    pub can_write_zeroes: bool,
    /// Whether several connections see one disk.
    pub can_multi_conn: bool,
    /// Smallest block, 1 if not announced.
    pub minimum_block_bytes: u32,
    /// Preferred block, 4096 if not announced.
    pub preferred_block_bytes: u32,
    /// Largest payload, [`PAYLOAD_MAX_BYTES`] if not announced.
    pub maximum_payload_bytes: u32,
    /// Its canonical name, if announced.
    pub name: Option<String>,
    /// Its description, if announced.
    pub description: Option<String>,
}

impl RemoteExport {
    fn new(size_bytes: u64, flags: u16) -> Self {
        let has = |flag: u16| flags & flag != 0;
        Self {
            size_bytes,
            read_only: has(transmission::READ_ONLY),
            can_flush: has(transmission::SEND_FLUSH),
            can_fua: has(transmission::SEND_FUA),
            can_trim: has(transmission::SEND_TRIM),
            can_write_zeroes: has(transmission::SEND_WRITE_ZEROES),
            can_multi_conn: has(transmission::CAN_MULTI_CONN),
            minimum_block_bytes: 1,
            preferred_block_bytes: 4096,
            maximum_payload_bytes: PAYLOAD_MAX_BYTES,
            name: None,
            description: None,
        }
    }
}

/// The server's answer when it does not serve the export.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServerRefusal {
    /// `NBD_REP_ERR_POLICY`
    #[error("not permitted: {message}")]
    Policy {
        /// The server's words.
        message: String,
    },
    /// `NBD_REP_ERR_UNKNOWN`
    #[error("not available: {message}")]
    Unknown {
        /// The server's words.
        message: String,
    },
    /// `NBD_REP_ERR_SHUTDOWN`
    #[error("shutting down: {message}")]
    Shutdown {
        /// The server's words.
        message: String,
    },
    /// Any other.
    #[error("refused with {code:#x}: {message}")]
    Other {
        /// The reply type.
        code: u32,
        /// The server's words.
        message: String,
    },
}

/// What the caller does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientStep {
    /// Send what was appended, receive more, step again.
    NeedMore,
    /// The export was granted. Unless it was only to be described, requests may follow.
    Granted(RemoteExport),
    /// The export was refused.
    Refused(ServerRefusal),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Greeting,
    ExportNameAnswer { padding: bool },
    OptionReply,
}

/// One handshake, client side.
#[derive(Debug)]
pub struct ClientNegotiation {
    name: ExportName,
    opening: Opening,
    state: State,
    export: Option<RemoteExport>,
    name_info: Option<String>,
    description_info: Option<String>,
    block_bytes: Option<(u32, u32, u32)>,
}

impl ClientNegotiation {
    /// Will ask for the export called `name`.
    #[must_use]
    pub fn new(name: ExportName, opening: Opening) -> Self {
        Self {
            name,
            opening,
            state: State::Greeting,
            export: None,
            name_info: None,
            description_info: None,
            block_bytes: None,
        }
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
        if self.state == State::Greeting {
            if input.len() < GREETING_BYTES {
                return Ok(ClientStep::NeedMore);
            }
            self.take_greeting(input, output)?;
        }
        if let State::ExportNameAnswer { padding } = self.state {
            let padding_bytes = if padding { handshake::PADDING_BYTES } else { 0 };
            if input.len() < 10 + padding_bytes {
                return Ok(ClientStep::NeedMore);
            }
            let export = RemoteExport::new(checked_size(input.get_u64())?, input.get_u16());
            input.advance(padding_bytes);
            return Ok(ClientStep::Granted(export));
        }
        while let Some((reply, data)) = self.take_reply(input)? {
            match reply {
                option_reply::INFO => self.take_info(&data)?,
                option_reply::ACK => {
                    return self.granted().map(ClientStep::Granted);
                }
                _ if reply & option_reply::ERROR_BIT != 0 => {
                    return Ok(ClientStep::Refused(refusal(reply, &data)));
                }
                _ => return Err(Broken::UnexpectedReply),
            }
        }
        Ok(ClientStep::NeedMore)
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
        let wants_no_zeroes = !matches!(self.opening, Opening::ExportName { no_zeroes: false });
        let no_zeroes = wants_no_zeroes && offered & handshake::NO_ZEROES != 0;
        let no_zeroes_flag = if no_zeroes { handshake::NO_ZEROES } else { 0 };
        output.put_u32(u32::from(handshake::FIXED_NEWSTYLE | no_zeroes_flag));
        self.put_option(output);
        self.state = match self.opening {
            Opening::ExportName { .. } => State::ExportNameAnswer {
                padding: !no_zeroes,
            },
            Opening::Go | Opening::Describe => State::OptionReply,
        };
        Ok(())
    }

    fn option(&self) -> u32 {
        match self.opening {
            Opening::Go => option::GO,
            Opening::Describe => option::INFO,
            Opening::ExportName { .. } => option::EXPORT_NAME,
        }
    }

    fn put_option(&self, output: &mut BytesMut) {
        let name = self.name.reveal().as_bytes();
        let name_bytes = u32::try_from(name.len()).expect("an export name is short");
        output.put_u64(OPTION_MAGIC);
        output.put_u32(self.option());
        if matches!(self.opening, Opening::ExportName { .. }) {
            output.put_u32(name_bytes);
            output.put_slice(name);
            return;
        }
        let wanted = [info::NAME, info::DESCRIPTION, info::BLOCK_SIZE];
        output.put_u32(4 + name_bytes + 2 + 2 * 3);
        output.put_u32(name_bytes);
        output.put_slice(name);
        output.put_u16(3);
        for information in wanted {
            output.put_u16(information);
        }
    }

    fn take_reply(&self, input: &mut BytesMut) -> Result<Option<(u32, BytesMut)>, Broken> {
        if input.len() < REPLY_HEADER_BYTES {
            return Ok(None);
        }
        let mut header = &input[..REPLY_HEADER_BYTES];
        let magic = header.get_u64();
        if magic != OPTION_REPLY_MAGIC {
            return Err(Broken::NegotiationMagic { magic });
        }
        let option = header.get_u32();
        let reply = header.get_u32();
        let length_bytes = header.get_u32();
        if option != self.option() {
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
        Ok(export)
    }
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
