//! Replies of the server as the client reads them.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use crate::content::ContentPiece;
use crate::nbd::*;

fn to(has_content: bool) -> ReplyTo {
    ReplyTo {
        cookie: Cookie(7),
        offset: 4096,
        has_content,
    }
}

fn bytes(output: &Outgoing) -> Bytes {
    let mut slices = [std::io::IoSlice::new(&[]); 1024];
    let filled = output.fill(&mut slices);
    let gathered = slices[..filled].iter().flat_map(|slice| slice.to_vec());
    gathered.collect()
}

type Gathered = Result<Result<Answer, RemoteFailure>, Broken>;

/// Reads one reply of `framing`, which fills `input`.
fn read(framing: Framing, mut input: Bytes, expected: Expected) -> Gathered {
    let mut gathering = Gathering::new(4096, expected);
    loop {
        let decoded = ReplyHead::decode(&input, framing)?;
        let (head, header_bytes) = decoded.expect("a whole header");
        let _ = input.split_to(header_bytes);
        match head {
            ReplyHead::Simple(reply) => {
                assert_eq!(reply.cookie, Cookie(7));
                let answer = match expected {
                    Expected::Content(_) => Answer::Content(input),
                    _ => Answer::Done,
                };
                return Ok(reply.result.map(|()| answer).map_err(RemoteFailure::from));
            }
            ReplyHead::Chunk(head) => {
                assert_eq!(head.cookie, Cookie(7));
                let payload = input.split_to(head.payload_bytes as usize);
                if let Some(answer) = gathering.take(&head, payload)? {
                    assert!(input.is_empty(), "a reply ends with its last chunk");
                    return Ok(answer);
                }
            }
        }
    }
}

fn pieces_of(shape: &[(bool, usize)]) -> (Vec<ContentPiece>, Bytes) {
    let mut whole = BytesMut::new();
    let mut pieces = Vec::new();
    for (index, (hole, length)) in shape.iter().enumerate() {
        if *hole {
            whole.extend_from_slice(&vec![0; *length]);
            pieces.push(ContentPiece::Hole(*length));
        } else {
            let data = Bytes::from(vec![u8::try_from(index % 200).unwrap() + 1; *length]);
            whole.extend_from_slice(&data);
            pieces.push(ContentPiece::Data(data));
        }
    }
    (pieces, whole.freeze())
}

const ALL: [Framing; 3] = [Framing::Simple, Framing::Structured, Framing::Extended];

#[test]
fn replies_have_these_bytes() {
    let mut shown = String::new();
    for framing in ALL {
        let mut show = |what: &str, fill: &dyn Fn(&mut Outgoing)| {
            let mut output = Outgoing::default();
            fill(&mut output);
            shown += &format!("{framing:?} {what}\n{}\n\n", super::hex(&bytes(&output)));
        };
        show("done", &|output| framing.push_done(to(false), output));
        let failure = Failure {
            errno: Errno::Io,
            message: "lost",
            offset: Some(4100),
        };
        show("read fails", &|output| {
            framing.push_failure(to(true), failure, output)
        });
        show("flush fails", &|output| {
            framing.push_failure(to(false), Errno::Shutdown.into(), output);
        });
        let shape = [(false, 2), (false, 1), (true, 3), (false, 1)];
        show("content", &|output| {
            framing.push_content(to(true), false, pieces_of(&shape).0, output);
        });
        show("unfragmented", &|output| {
            framing.push_content(to(true), true, pieces_of(&shape).0, output);
        });
        if framing != Framing::Simple {
            let extent = |length_bytes, flags| StatusExtent {
                length_bytes,
                flags,
            };
            let statuses = [
                ContextStatus {
                    context: 1,
                    extents: vec![extent(4096, 3), extent(100, 0)],
                },
                ContextStatus {
                    context: 2,
                    extents: vec![extent(4196, 1)],
                },
            ];
            show("status", &|output| {
                framing.push_status(to(true), &statuses, output)
            });
        }
    }
    insta::assert_snapshot!(shown);
}

#[test]
fn failures_are_heard() {
    for framing in ALL {
        for (offset, expected) in [
            (Some(5000), Expected::Content(4096)),
            (None, Expected::Nothing),
        ] {
            let mut output = Outgoing::default();
            let failure = Failure {
                errno: Errno::NoSpace,
                message: "why",
                offset,
            };
            let has_content = expected != Expected::Nothing;
            framing.push_failure(to(has_content), failure, &mut output);
            let Ok(Err(heard)) = read(framing, bytes(&output), expected) else {
                panic!("a failure");
            };
            assert_eq!(heard.errno, Errno::NoSpace);
            let chunk =
                framing == Framing::Extended || framing == Framing::Structured && has_content;
            assert_eq!(heard.message, if chunk { "why" } else { "" });
            assert_eq!(heard.offset, offset.filter(|_| chunk));
        }
    }
}

/// A structured chunk, whatever it says.
fn chunk(done: bool, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = 0x668e_33ef_u32.to_be_bytes().to_vec();
    bytes.extend(u16::from(done).to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(7_u64.to_be_bytes());
    bytes.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn data(offset: u64, data: &[u8]) -> Vec<u8> {
    [&offset.to_be_bytes()[..], data].concat()
}

fn hole(offset: u64, bytes: u32) -> Vec<u8> {
    [&offset.to_be_bytes()[..], &bytes.to_be_bytes()[..]].concat()
}

#[test]
fn chunks_come_in_any_order() {
    let chunks = [
        chunk(false, 1, &data(4100, b"efgh")),
        chunk(false, 2, &hole(4104, 2)),
        chunk(false, 1, &data(4096, b"abcd")),
        chunk(true, 0, &[]),
    ];
    let answer = read(
        Framing::Structured,
        chunks.concat().into(),
        Expected::Content(10),
    );
    assert_eq!(
        answer,
        Ok(Ok(Answer::Content(Bytes::from_static(b"abcdefgh\0\0"))))
    );
}

#[test]
fn replies_that_break_the_protocol() {
    let status = |payload: &[u32]| {
        let words = payload.iter().flat_map(|word| word.to_be_bytes());
        chunk(true, 5, &words.collect::<Vec<u8>>())
    };
    let ten = Expected::Content(10);
    let one_context = Expected::Status {
        contexts: 1,
        length: 100,
    };
    let cases: &[(&str, Vec<u8>, Expected)] = &[
        ("too little", chunk(true, 1, &data(4096, b"abc")), ten),
        ("nothing", chunk(true, 0, &[]), ten),
        ("before", chunk(true, 1, &data(4095, b"abc")), ten),
        ("beyond", chunk(true, 1, &data(4105, b"abc")), ten),
        ("far beyond", chunk(true, 1, &data(u64::MAX, b"abc")), ten),
        ("no data", chunk(true, 1, &data(4096, b"")), ten),
        ("no hole", chunk(true, 2, &hole(4096, 0)), ten),
        ("long hole", chunk(true, 2, &hole(4096, u32::MAX)), ten),
        ("short hole", chunk(true, 2, &[0; 11]), ten),
        (
            "twice",
            [
                chunk(false, 1, &data(4096, b"abcdefghij")),
                chunk(true, 2, &hole(4100, 1)),
            ]
            .concat(),
            ten,
        ),
        (
            "overlap",
            [
                chunk(false, 1, &data(4100, b"abc")),
                chunk(true, 1, &data(4098, b"abc")),
            ]
            .concat(),
            ten,
        ),
        (
            "uninvited",
            chunk(true, 1, &data(4096, b"a")),
            Expected::Nothing,
        ),
        ("unknown", chunk(true, 3, &[]), ten),
        ("goes on", chunk(false, 0, &[]), ten),
        ("error 0", chunk(true, 0x8001, &[0; 6]), ten),
        (
            "long message",
            chunk(true, 0x8001, &[0, 0, 0, 5, 0, 9]),
            ten,
        ),
        ("no status", chunk(true, 0, &[]), one_context),
        ("no extent", status(&[1]), one_context),
        ("half an extent", status(&[1, 5]), one_context),
        ("an empty extent", status(&[1, 0, 0]), one_context),
        ("too many extents", status(&[1, 100, 0, 1, 0]), one_context),
    ];
    for (what, input, expected) in cases {
        let answer = read(Framing::Structured, input.clone().into(), *expected);
        assert!(
            matches!(answer, Err(Broken::Reply { .. })),
            "{what}: {answer:?}"
        );
    }
    let simple = [&0x6744_6698_u32.to_be_bytes()[..], &[0; 12]].concat();
    let answer = ReplyHead::decode(&simple, Framing::Extended);
    assert!(matches!(answer, Err(Broken::ReplyMagic { .. })));
    let mut huge = chunk(true, 1, &[]);
    huge[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
    let answer = ReplyHead::decode(&huge, Framing::Structured);
    assert!(matches!(answer, Err(Broken::PayloadTooLarge { .. })));
}

proptest! {
    #[test]
    fn content_round_trips(
        shape in prop::collection::vec((any::<bool>(), 0_usize..3000), 0..12),
        whole: bool,
        framing in prop::sample::select(ALL.to_vec()),
    ) {
        let (pieces, content) = pieces_of(&shape);
        let mut output = Outgoing::default();
        framing.push_content(to(true), whole, pieces, &mut output);
        let sent = bytes(&output);
        prop_assert_eq!(output.len_bytes(), sent.len());
        let length = u32::try_from(content.len()).unwrap();
        let answer = read(framing, sent, Expected::Content(length));
        prop_assert_eq!(answer, Ok(Ok(Answer::Content(content))));
    }

    #[test]
    fn status_round_trips(
        lengths in prop::collection::vec(1_u64..1_000_000, 1..40),
        contexts in 1_usize..4,
        extended: bool,
    ) {
        let framing = if extended { Framing::Extended } else { Framing::Structured };
        let flags = [0, 3];
        let extents: Vec<StatusExtent> = lengths.iter().enumerate().map(|(index, length)| {
            StatusExtent { length_bytes: *length, flags: flags[index % 2] }
        }).collect();
        let statuses: Vec<ContextStatus> = (1..=contexts).map(|context| ContextStatus {
            context: u32::try_from(context).unwrap(),
            extents: extents.clone(),
        }).collect();
        let mut output = Outgoing::default();
        framing.push_status(to(true), &statuses, &mut output);
        let length = lengths.iter().sum();
        let answer = read(framing, bytes(&output), Expected::Status { contexts, length });
        prop_assert_eq!(answer, Ok(Ok(Answer::Status(statuses))));
    }

    #[test]
    fn a_hostile_reply_is_no_panic(
        chunks in prop::collection::vec(
            (any::<bool>(), 0_u16..8, any::<bool>(), prop::collection::vec(any::<u8>(), 0..40)),
            1..6,
        ),
        length in 0_u32..5000,
        status: bool,
    ) {
        let expected = match status {
            true => Expected::Status { contexts: 2, length: u64::from(length) },
            false => Expected::Content(length),
        };
        let mut gathering = Gathering::new(4096, expected);
        for (done, kind, error, mut payload) in chunks {
            // Offsets near the request.
            if let Some(high) = payload.first_chunk_mut::<6>() {
                *high = [0; 6];
            }
            let kind = if error { kind | 1 << 15 } else { kind };
            let bytes = chunk(done, kind, &payload);
            let decoded = ReplyHead::decode(&bytes, Framing::Structured);
            if let Ok(Some((ReplyHead::Chunk(head), _))) = decoded
                && gathering.take(&head, payload.into()).is_err()
            {
                break;
            }
        }
    }
}
