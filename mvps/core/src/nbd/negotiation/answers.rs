//! Option replies as bytes.

use bytes::{BufMut, BytesMut};

use crate::nbd::context::ContextName;
use crate::nbd::wire::{OPTION_REPLY_MAGIC, option_reply};

/// Longest text that is sent with a refusal; strings are at most 4096 bytes.
const MESSAGE_MAX_BYTES: usize = 1024;

pub(super) fn put_reply_header(output: &mut BytesMut, option: u32, reply: u32, length_bytes: u32) {
    output.put_u64(OPTION_REPLY_MAGIC);
    output.put_u32(option);
    output.put_u32(reply);
    output.put_u32(length_bytes);
}

pub(super) fn put_error(output: &mut BytesMut, option: u32, reply: u32, message: &str) {
    let message = truncated(message);
    put_reply_header(output, option, reply, length_u32(message));
    output.put_slice(message.as_bytes());
}

pub(super) fn put_info_text(output: &mut BytesMut, option: u32, information: u16, text: &str) {
    let text = truncated(text);
    put_reply_header(output, option, option_reply::INFO, 2 + length_u32(text));
    output.put_u16(information);
    output.put_slice(text.as_bytes());
}

pub(super) fn put_context(output: &mut BytesMut, option: u32, id: u32, name: &ContextName) {
    let name = name.to_string();
    let length = u32::try_from(name.len()).expect("a name that was parsed is short");
    put_reply_header(output, option, option_reply::META_CONTEXT, 4 + length);
    output.put_u32(id);
    output.put_slice(name.as_bytes());
}

fn truncated(text: &str) -> &str {
    &text[..text.floor_char_boundary(MESSAGE_MAX_BYTES)]
}

fn length_u32(text: &str) -> u32 {
    u32::try_from(text.len()).expect("a truncated text is short")
}
