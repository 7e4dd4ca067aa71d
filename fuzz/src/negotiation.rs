//! The handshake, server side: any bytes, in any pieces.
//!
//! Oracle: the answer is a greeting, then, for every option the client sent, replies of which
//! exactly the last is final, in order, until the transmission phase begins; and it is not longer
//! than what so many options can ask for.

use mvps_core::session::{Ended, serve};

use crate::disk::{Everybody, FlatDisk};
use crate::stream::Script;
use crate::world::World;

const GREETING_BYTES: usize = 18;
const EXPORT_NAME: u32 = 1;
const GO: u32 = 7;
const ACK: u32 = 1;
const ERROR_BIT: u32 = 1 << 31;

/// The longest answer to one option: a name, a description, block sizes and contexts.
const ANSWER_MAX_BYTES: usize = 16 * 1024;

/// One input: how many pieces, their lengths, then what the client sends.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    let Some((count, rest)) = data.split_first() else {
        return;
    };
    let Some((pieces, sent)) = rest.split_at_checked(usize::from(count % 8)) else {
        return;
    };
    let mut world = World::new();
    let (stream, received) = Script::new(sent.to_vec(), pieces);
    let admission = Everybody::new(&FlatDisk::new(), false);
    let clock = world.clock.clone();
    let ended = world.run(serve(stream, &admission, &clock));
    assert!(
        !matches!(ended, Ended::Stopped | Ended::Drained),
        "nobody ordered that: {ended:?}"
    );
    let received = received.lock().expect("one thread");
    judge(sent, &received);
}

/// The options that the client sent, as far as they are whole.
fn options(sent: &[u8]) -> Vec<u32> {
    let mut options = Vec::new();
    let mut rest = sent.get(4..).unwrap_or_default();
    while rest.len() >= 16 && rest.starts_with(b"IHAVEOPT") {
        options.push(word(&rest[8..]));
        let length = word(&rest[12..]) as usize;
        match rest.get(16 + length..) {
            Some(next) => rest = next,
            None => break,
        }
    }
    options
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(*bytes.first_chunk().expect("four bytes"))
}

fn judge(sent: &[u8], received: &[u8]) {
    assert!(
        received.starts_with(b"NBDMAGICIHAVEOPT"),
        "a greeting comes first"
    );
    let mut rest = &received[GREETING_BYTES..];
    let options = options(sent);
    for (number, option) in options.iter().enumerate() {
        if *option == EXPORT_NAME {
            // Size and flags, with or without padding, or nothing; then transmission.
            return;
        }
        let mut answer_bytes = 0;
        loop {
            if rest.is_empty() {
                // The connection was closed, or the option was not whole.
                return;
            }
            assert!(rest.len() >= 20, "a cut reply to option {number}");
            assert_eq!(
                rest[..8],
                0x0003_e889_0455_65a9_u64.to_be_bytes(),
                "reply to {number}"
            );
            assert_eq!(word(&rest[8..]), *option, "replies come in order");
            let (kind, length) = (word(&rest[12..]), word(&rest[16..]) as usize);
            rest = rest.get(20 + length..).expect("a whole reply");
            answer_bytes += 20 + length;
            assert!(
                answer_bytes <= ANSWER_MAX_BYTES,
                "a long answer to option {number}"
            );
            if kind == ACK && *option == GO {
                return;
            }
            if kind == ACK || kind & ERROR_BIT != 0 {
                break;
            }
        }
    }
    assert!(rest.is_empty(), "a reply to no option");
}
