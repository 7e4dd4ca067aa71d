use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;

mod contexts;
mod replies;

const MIB: u64 = 1024 * 1024;

fn export() -> Export {
    Export {
        size_bytes: 64 * MIB,
        preferred_block_bytes: 4096,
        read_only: false,
        can_multi_conn: true,
        name: "disk0".to_owned(),
        description: "mvps image disk0".to_owned(),
    }
}

fn name(text: &str) -> ExportName {
    ExportName::new(text.to_owned()).unwrap()
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.extend(number.to_be_bytes());
    bytes.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
    bytes.extend(data);
    bytes
}

fn go_data(name: &str, wanted: &[u16]) -> Vec<u8> {
    let mut data = u32::try_from(name.len()).unwrap().to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend(u16::try_from(wanted.len()).unwrap().to_be_bytes());
    data.extend(wanted.iter().flat_map(|wanted| wanted.to_be_bytes()));
    data
}

fn contexts_data(name: &str, queries: &[&str]) -> Vec<u8> {
    let length = |text: &str| u32::try_from(text.len()).unwrap().to_be_bytes();
    let mut data = length(name).to_vec();
    data.extend(name.as_bytes());
    data.extend(u32::try_from(queries.len()).unwrap().to_be_bytes());
    for query in queries {
        data.extend(length(query));
        data.extend(query.as_bytes());
    }
    data
}

fn hex(bytes: &[u8]) -> String {
    let rows = bytes.chunks(16).map(|row| {
        let cells: Vec<_> = row.iter().map(|byte| format!("{byte:02x}")).collect();
        cells.join(" ")
    });
    rows.collect::<Vec<_>>().join("\n")
}

/// A negotiation past the client flags, with the greeting thrown away.
fn greeted(flags: u32) -> Negotiation {
    let mut output = BytesMut::new();
    let mut negotiation = Negotiation::begin(&mut output);
    let mut input = BytesMut::from(&flags.to_be_bytes()[..]);
    let step = negotiation.step(&mut input, &mut output).unwrap();
    assert_eq!(step, Step::NeedMore);
    negotiation
}

/// What the server says to one option that does not ask for an export, and what it does next.
fn answer(option_bytes: &[u8]) -> (Result<Step, Broken>, Vec<u8>) {
    let mut negotiation = greeted(3);
    let mut output = BytesMut::new();
    let mut input = BytesMut::from(option_bytes);
    let step = negotiation.step(&mut input, &mut output);
    (step, output.to_vec())
}

/// Option reply type of the first reply in `output`.
fn reply_type(output: &[u8]) -> u32 {
    assert_eq!(output[..8], 0x0003_e889_0455_65a9_u64.to_be_bytes());
    u32::from_be_bytes(output[12..16].try_into().unwrap())
}

#[test]
fn greeting_and_go_have_these_bytes() {
    let mut output = BytesMut::new();
    let mut negotiation = Negotiation::begin(&mut output);
    let mut input = BytesMut::from(&3_u32.to_be_bytes()[..]);
    input.extend(option(7, &go_data("secret", &[1, 2])));
    let step = negotiation.step(&mut input, &mut output).unwrap();
    let request = ExportRequest {
        name: name("secret"),
        purpose: Purpose::Attach,
    };
    assert_eq!(step, Step::Wanted(request));
    let negotiated = negotiation.grant(&export(), &mut output).unwrap();
    assert_eq!(
        (negotiated.framing, negotiated.contexts),
        (Framing::Simple, vec![])
    );
    insta::assert_snapshot!(hex(&output));
}

#[test]
fn options_that_name_no_export() {
    let unsupported = 1 << 31 | 1;
    let policy = 1 << 31 | 2;
    let invalid = 1 << 31 | 3;
    let too_big = 1 << 31 | 9;
    let long_name = "x".repeat(EXPORT_NAME_MAX_BYTES + 1);
    let mut trailing = go_data("n", &[]);
    trailing.push(0);
    let mut not_text = go_data("n", &[]);
    not_text[4] = 0xff;
    let cases: &[(u32, Vec<u8>, u32)] = &[
        (3, vec![], policy),
        (5, vec![], unsupported),
        (8, vec![0], invalid),
        (11, vec![0], invalid),
        (10, contexts_data("n", &["base:allocation"]), invalid),
        (9, vec![0; 100], invalid),
        (9, contexts_data("n", &["nocolon"]), invalid),
        (
            9,
            contexts_data("n", &["x:y"; CONTEXT_QUERIES_MAX + 1]),
            too_big,
        ),
        (9, contexts_data(&long_name, &[]), invalid),
        (12, vec![], unsupported),
        (0xdead_beef, vec![1, 2, 3], unsupported),
        (6, vec![], invalid),
        (7, vec![0, 0, 0, 9, b'x'], invalid),
        (7, vec![0xff; 4], invalid),
        (7, trailing, invalid),
        (7, not_text, invalid),
        (7, go_data(&long_name, &[]), invalid),
        (7, vec![0; OPTION_DATA_LIMIT_BYTES as usize + 1], too_big),
        (99, vec![0; OPTION_SKIP_LIMIT_BYTES as usize], too_big),
    ];
    for (number, data, expected) in cases {
        let (step, output) = answer(&option(*number, data));
        assert_eq!(step, Ok(Step::NeedMore), "option {number}");
        assert_eq!(reply_type(&output), *expected, "option {number}");
    }
}

#[test]
fn abort_is_acknowledged_and_closes() {
    let (step, output) = answer(&option(2, &[]));
    assert_eq!(step, Ok(Step::Close));
    assert_eq!(reply_type(&output), 1);
}

#[test]
fn broken_negotiations_close() {
    let (step, _) = answer(b"GET / HTTP/1.1\r\n\r\n");
    assert!(matches!(step, Err(Broken::NegotiationMagic { .. })));

    let mut huge = option(7, &[]);
    huge[12..16].copy_from_slice(&u32::MAX.to_be_bytes());
    let length_bytes = u32::MAX;
    assert_eq!(
        answer(&huge).0,
        Err(Broken::OptionTooLarge { length_bytes })
    );

    let many = option(99, &[]).repeat(OPTIONS_LIMIT as usize + 1);
    assert_eq!(answer(&many).0, Err(Broken::TooManyOptions));

    let mut output = BytesMut::new();
    let mut negotiation = Negotiation::begin(&mut output);
    let step = negotiation.step(&mut BytesMut::from(&[0, 0, 0, 4][..]), &mut output);
    assert_eq!(step, Err(Broken::HandshakeFlags { flags: 4 }));
}

#[test]
fn export_name_refused_closes_without_a_word() {
    let mut negotiation = greeted(3);
    let mut output = BytesMut::new();
    let mut input = BytesMut::from(&option(1, b"secret")[..]);
    let step = negotiation.step(&mut input, &mut output).unwrap();
    assert!(matches!(step, Step::Wanted(_)));
    negotiation.refuse(&Refusal::Policy, &mut output);
    assert_eq!(negotiation.step(&mut input, &mut output), Ok(Step::Close));
    assert!(output.is_empty());
}

#[test]
fn refused_go_goes_on_negotiating() {
    let mut negotiation = greeted(3);
    let mut output = BytesMut::new();
    let mut input = BytesMut::from(&option(7, &go_data("bad", &[]))[..]);
    let step = negotiation.step(&mut input, &mut output).unwrap();
    assert!(matches!(step, Step::Wanted(_)));
    negotiation.refuse(&Refusal::Policy, &mut output);
    assert_eq!(reply_type(&output), 1 << 31 | 2);
    input.extend(option(7, &go_data("good", &[])));
    let step = negotiation.step(&mut input, &mut output).unwrap();
    assert!(matches!(step, Step::Wanted(request) if request.name == name("good")));
}

#[test]
fn debug_output_hides_the_export_name() {
    let request = ExportRequest {
        name: name("top-secret"),
        purpose: Purpose::Attach,
    };
    assert!(!format!("{request:?}").contains("secret"));
    let negotiation = ClientNegotiation::new(name("top-secret"), Opening::Go);
    assert!(!format!("{negotiation:?}").contains("secret"));
}

/// Runs both sides of a handshake, `chunk` bytes at a time.
fn handshake(opening: Opening, chunk: usize, verdict: Result<Export, Refusal>) -> ClientStep {
    let mut to_client = BytesMut::new();
    let mut server = Negotiation::begin(&mut to_client);
    let mut client = ClientNegotiation::new(name("token"), opening);
    let (mut client_input, mut server_input) = (BytesMut::new(), BytesMut::new());
    let mut to_server = BytesMut::new();
    let mut finished = false;
    loop {
        if to_client.is_empty() && to_server.is_empty() {
            panic!("the handshake stalled");
        }
        let arriving = to_client.split_to(to_client.len().min(chunk));
        client_input.extend_from_slice(&arriving);
        match client.step(&mut client_input, &mut to_server).unwrap() {
            ClientStep::NeedMore => {}
            ClientStep::StartTls => panic!("nobody asked for encryption"),
            ClientStep::Contexts(_) => panic!("nobody asked for a list"),
            done => {
                assert!(client_input.is_empty() && to_client.is_empty());
                return done;
            }
        }
        let arriving = to_server.split_to(to_server.len().min(chunk));
        server_input.extend_from_slice(&arriving);
        if finished {
            continue;
        }
        if let Step::Wanted(request) = server.step(&mut server_input, &mut to_client).unwrap() {
            assert_eq!(request.name, name("token"));
            match &verdict {
                Ok(export) => finished = server.grant(export, &mut to_client).is_some(),
                Err(refusal) => server.refuse(refusal, &mut to_client),
            }
        }
    }
}

#[test]
fn client_and_server_agree() {
    let padded = Opening::ExportName { no_zeroes: false };
    let unpadded = Opening::ExportName { no_zeroes: true };
    for opening in [Opening::Go, Opening::Describe, padded, unpadded] {
        for chunk in [1, 3, 17, 1000] {
            for (read_only, can_multi_conn) in [(false, true), (true, false)] {
                let export = Export {
                    read_only,
                    can_multi_conn,
                    ..export()
                };
                let step = handshake(opening, chunk, Ok(export));
                let ClientStep::Granted(remote) = step else {
                    panic!("{step:?}");
                };
                assert_eq!(remote.size_bytes, 64 * MIB);
                assert_eq!(remote.read_only, read_only);
                assert_eq!(remote.can_multi_conn, can_multi_conn);
                assert!(remote.can_flush && remote.can_fua);
                assert!(remote.can_trim && remote.can_write_zeroes);
                assert_eq!(remote.maximum_payload_bytes, PAYLOAD_MAX_BYTES);
                let told = matches!(opening, Opening::Go | Opening::Describe);
                assert_eq!(remote.name.as_deref(), told.then_some("disk0"));
            }
        }
    }
}

#[test]
fn client_hears_why_it_is_refused() {
    let refusal = Refusal::Unknown {
        message: "the image is gone".into(),
    };
    let message = "the image is gone".to_owned();
    let step = handshake(Opening::Go, 5, Err(refusal));
    assert_eq!(
        step,
        ClientStep::Refused(ServerRefusal::Unknown { message })
    );
    let step = handshake(Opening::Describe, 5, Err(Refusal::Shutdown));
    assert!(matches!(
        step,
        ClientStep::Refused(ServerRefusal::Shutdown { .. })
    ));
}

fn bounds(framing: Framing, read_only: bool) -> Bounds {
    Bounds {
        size_bytes: 64 * MIB,
        read_only,
        framing,
        has_contexts: framing != Framing::Simple,
    }
}

/// A header of these fields, as `framing` has it.
fn raw(framing: Framing, kind: u16, flags: u16, offset: u64, length: u64) -> Vec<u8> {
    let mut header = Vec::new();
    assert!(Request::Flush.encode(framing, Cookie(7), &mut header));
    header[4..6].copy_from_slice(&flags.to_be_bytes());
    header[6..8].copy_from_slice(&kind.to_be_bytes());
    header[16..24].copy_from_slice(&offset.to_be_bytes());
    match framing {
        Framing::Extended => header[24..32].copy_from_slice(&length.to_be_bytes()),
        _ => header[24..28].copy_from_slice(&u32::try_from(length).unwrap().to_be_bytes()),
    }
    header
}

const ALL_FRAMINGS: [Framing; 3] = [Framing::Simple, Framing::Structured, Framing::Extended];

fn judged(header: &[u8], bounds: &Bounds) -> Result<Incoming, Broken> {
    let decoded = Incoming::decode(header, bounds)?;
    let (incoming, header_bytes) = decoded.expect("the header is whole");
    assert_eq!(header_bytes, header.len());
    Ok(incoming)
}

#[test]
fn refused_requests() {
    let end = 64 * MIB;
    let over = u64::from(PAYLOAD_MAX_BYTES + 1);
    const PAYLOAD: u16 = 0x20;
    // (framings, type, flags, offset, length, read-only) -> (errno, bytes to skip)
    let all: &[Framing] = &ALL_FRAMINGS;
    let compact = &all[..2];
    let (simple, structured, extended) = (&all[..1], &all[1..2], &all[2..]);
    let chunks = &all[1..];
    let (inval, nospc, perm) = (Errno::Invalid, Errno::NoSpace, Errno::Permission);
    let cases = [
        (all, (0, 0, end, 1, false), (inval, 0)),
        (all, (0, 0, u64::MAX, 1, false), (inval, 0)),
        (all, (0, 0, 0, over, false), (inval, 0)),
        (all, (0, 0x40, 0, 1, false), (inval, 0)),
        (simple, (0, 4, 0, 1, false), (inval, 0)),
        (compact, (0, PAYLOAD, 0, 1, false), (inval, 0)),
        (extended, (0, PAYLOAD, 0, 100, false), (inval, 100)),
        (extended, (0, 0, 0, 1 << 33, false), (inval, 0)),
        (compact, (1, 0, end - 1, 2, false), (nospc, 2)),
        (extended, (1, PAYLOAD, end - 1, 2, false), (nospc, 2)),
        (compact, (1, 0, 0, over, false), (inval, 33_554_433)),
        (extended, (1, PAYLOAD, 0, over, false), (inval, 33_554_433)),
        (compact, (1, PAYLOAD, 0, 512, false), (inval, 512)),
        (compact, (1, 0, 0, 512, true), (perm, 512)),
        (all, (1, 0x10, 0, 512, false), (inval, 512)),
        (all, (3, 0, 1, 0, false), (inval, 0)),
        (all, (4, 0, end, 1, false), (inval, 0)),
        (all, (4, 2, 0, 1, false), (inval, 0)),
        (all, (4, 0, 0, 1, true), (perm, 0)),
        (all, (5, 0, end, 1, false), (inval, 0)),
        (all, (5, 8, 0, 1, false), (inval, 0)),
        (all, (6, 0, end, 1, false), (nospc, 0)),
        (all, (6, 8, 0, 1, false), (inval, 0)),
        (all, (6, 0, 0, 1, true), (perm, 0)),
        (extended, (6, 0, 1, u64::MAX, false), (nospc, 0)),
        (simple, (7, 0, 0, 1, false), (inval, 0)),
        (chunks, (7, 0, 0, 0, false), (inval, 0)),
        (chunks, (7, 0, end - 1, 2, false), (inval, 0)),
        (chunks, (7, 4, 0, 1, false), (inval, 0)),
        (structured, (7, PAYLOAD, 0, 1, false), (inval, 0)),
        (extended, (7, PAYLOAD, 0, 24, false), (inval, 24)),
        (all, (64, 0, 0, 1, false), (inval, 0)),
        (all, (67, 0, 0, 0, true), (perm, 0)),
        (all, (68, 0, 0, 0, false), (inval, 0)),
        (
            all,
            (u16::MAX, 0, 0, u64::from(u32::MAX), false),
            (inval, 0),
        ),
    ];
    for (framings, (kind, flags, offset, length, read_only), expected) in cases {
        for framing in framings {
            let header = raw(*framing, kind, flags, offset, length);
            let incoming = judged(&header, &bounds(*framing, read_only)).unwrap();
            let Incoming::Refused {
                to,
                errno,
                skip_bytes,
                is_change,
            } = incoming
            else {
                panic!("{framing:?} type {kind} flags {flags} at {offset} is accepted");
            };
            assert_eq!(
                (errno, skip_bytes),
                expected,
                "{framing:?} type {kind} at {offset}"
            );
            assert_eq!((to.cookie, to.offset), (Cookie(7), offset));
            assert_eq!(to.has_content, matches!(kind, 0 | 7));
            assert_eq!(is_change, matches!(kind, 1 | 4 | 6));
        }
    }
}

#[test]
fn broken_requests_close() {
    let over = u64::from(WRITE_SKIP_LIMIT_BYTES) + 1;
    for framing in ALL_FRAMINGS {
        let broken = judged(&raw(framing, 1, 0, 0, over), &bounds(framing, false));
        let length_bytes = over;
        assert_eq!(broken, Err(Broken::PayloadTooLarge { length_bytes }));
        let zeroes = Incoming::decode(&[0; 4], &bounds(framing, false));
        assert_eq!(zeroes, Err(Broken::RequestMagic { magic: 0 }));
        let header = raw(framing, 3, 0, 0, 0);
        for length in 0..header.len() {
            let part = Incoming::decode(&header[..length], &bounds(framing, false));
            assert_eq!(part, Ok(None));
        }
    }
    let length_bytes = 1 << 40;
    let broken = judged(
        &raw(Framing::Extended, 7, 0x20, 0, length_bytes),
        &bounds(Framing::Extended, false),
    );
    assert_eq!(broken, Err(Broken::PayloadTooLarge { length_bytes }));
    let other = raw(Framing::Extended, 3, 0, 0, 0);
    let broken = Incoming::decode(&other, &bounds(Framing::Structured, false));
    assert!(matches!(broken, Err(Broken::RequestMagic { .. })));
}

#[test]
fn accepted_at_the_edges() {
    let end = 64 * MIB;
    let largest = u64::from(PAYLOAD_MAX_BYTES);
    for framing in ALL_FRAMINGS {
        let payload = if framing == Framing::Extended {
            0x20
        } else {
            0
        };
        let mut cases = vec![
            (0, 1, 0, largest),
            (0, 0, end, 0),
            (1, payload, end, 0),
            (1, payload | 1, end - 512, 512),
            // As qemu 10 writes, whatever the framing.
            (1, 1, end - 512, 512),
            (4, 1, 0, 64 * MIB),
            (5, 1, 0, 64 * MIB),
            (6, 0x13, 1, 3),
            (3, 1, 0, 0),
            (2, 0xffff, 9, 9),
        ];
        if framing != Framing::Simple {
            cases.extend([(0, 4, 0, 1), (7, 9, 0, 64 * MIB), (7, 0, end - 1, 1)]);
        }
        for (kind, flags, offset, length) in cases {
            let header = raw(framing, kind, flags, offset, length);
            let incoming = judged(&header, &bounds(framing, false)).unwrap();
            assert!(
                matches!(incoming, Incoming::Valid { .. }),
                "{framing:?} {incoming:?}"
            );
        }
    }
}

fn any_framing() -> impl Strategy<Value = Framing> {
    prop::sample::select(ALL_FRAMINGS.to_vec())
}

/// A request that any framing has, but for its flags.
fn any_request(framing: Framing) -> impl Strategy<Value = Request> {
    let place = (0..64 * MIB, any::<u64>()).prop_map(|(offset, length)| {
        let room = 64 * MIB - offset;
        (offset, length.min(room))
    });
    let small = (0..32 * MIB, 0..=PAYLOAD_MAX_BYTES);
    let chunks = framing != Framing::Simple;
    prop_oneof![
        (small.clone(), any::<bool>()).prop_map(move |((offset, length), whole)| Request::Read {
            offset,
            length,
            whole: whole && chunks
        }),
        (small, any::<bool>()).prop_map(|((offset, length), fua)| Request::Write {
            offset,
            length,
            fua
        }),
        Just(Request::Disconnect),
        Just(Request::Flush),
        (place.clone(), any::<bool>()).prop_map(|((offset, length), fua)| Request::Trim {
            offset,
            length,
            fua
        }),
        place
            .clone()
            .prop_map(|(offset, length)| Request::Cache { offset, length }),
        (place.clone(), any::<[bool; 3]>()).prop_map(|((offset, length), [fua, no_hole, fast])| {
            Request::WriteZeroes {
                offset,
                length,
                flags: ZeroFlags { fua, no_hole, fast },
            }
        }),
        (place, any::<bool>()).prop_map(move |((offset, length), one)| match chunks {
            true => Request::BlockStatus {
                offset,
                length: length.max(1),
                one
            },
            false => Request::Flush,
        }),
        Just(Request::Begin),
        any::<bool>().prop_map(|fua| Request::Commit { fua }),
        Just(Request::Rollback),
        Just(Request::Lock),
    ]
}

fn framed_request() -> impl Strategy<Value = (Framing, Request)> {
    any_framing().prop_flat_map(|framing| (Just(framing), any_request(framing)))
}

proptest! {
    #[test]
    fn requests_round_trip((framing, request) in framed_request(), cookie: u64) {
        let cookie = Cookie(cookie);
        let mut header = Vec::new();
        prop_assert!(request.encode(framing, cookie, &mut header));
        prop_assert_eq!(header.len(), framing.request_bytes());
        let to = ReplyTo {
            cookie,
            offset: request.range().0,
            has_content: request.has_content(),
        };
        let incoming = judged(&header, &bounds(framing, false));
        prop_assert_eq!(incoming, Ok(Incoming::Valid { to, request }));
    }

    #[test]
    fn replies_round_trip(cookie: u64, code: u32) {
        let result = if code == 0 { Ok(()) } else { Err(Errno::from_code(code)) };
        let reply = SimpleReply { cookie: Cookie(cookie), result };
        prop_assert_eq!(SimpleReply::decode(&reply.encode()), Ok(reply));
    }

    #[test]
    fn any_header_is_judged(
        bytes: [u8; EXTENDED_REQUEST_BYTES],
        framing in any_framing(),
        with_magic: bool,
        size: u64,
        flags: [bool; 2],
    ) {
        let mut bytes = bytes;
        if with_magic {
            let header = raw(framing, 0, 0, 0, 0);
            bytes[..4].copy_from_slice(&header[..4]);
            bytes[6] = 0;
        }
        let [read_only, has_contexts] = flags;
        let bounds = Bounds { size_bytes: size, read_only, framing, has_contexts };
        match Incoming::decode(&bytes, &bounds) {
            Ok(Some((Incoming::Valid { request, .. }, _))) => {
                prop_assert!(request.payload_bytes() <= PAYLOAD_MAX_BYTES);
            }
            Ok(Some((Incoming::Refused { skip_bytes, .. }, _))) => {
                prop_assert!(skip_bytes <= WRITE_SKIP_LIMIT_BYTES);
            }
            Ok(None) | Err(_) => {}
        }
    }

    #[test]
    fn negotiation_survives_anything(
        pieces in prop::collection::vec(any_option(), 0..8),
        noise in prop::collection::vec(any::<u8>(), 0..64),
        grant: bool,
        tls: bool,
    ) {
        let mut output = BytesMut::new();
        let mut negotiation = Negotiation::begin(&mut output);
        if tls {
            negotiation.set_tls(TlsPolicy::Offered);
        }
        let mut input = BytesMut::from(&3_u32.to_be_bytes()[..]);
        input.extend(pieces.concat());
        input.extend_from_slice(&noise);
        loop {
            match negotiation.step(&mut input, &mut output) {
                Ok(Step::Wanted(_)) if grant => {
                    if negotiation.grant(&export(), &mut output).is_some() {
                        break;
                    }
                }
                Ok(Step::Contexts(_)) if grant => {
                    negotiation.offer(vec![ContextName::Allocation], &mut output);
                }
                Ok(Step::Wanted(_) | Step::Contexts(_)) => {
                    negotiation.refuse(&Refusal::Policy, &mut output);
                }
                Ok(Step::StartTls) => negotiation.secured(),
                Ok(Step::NeedMore | Step::Close) | Err(_) => break,
            }
        }
    }

    #[test]
    fn client_survives_anything(
        noise in prop::collection::vec(any::<u8>(), 0..256),
        greeting: bool,
    ) {
        let mut client = ClientNegotiation::new(name("token"), Opening::Go);
        let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
        if greeting {
            let _ = Negotiation::begin(&mut input);
            input.extend_from_slice(&0x0003_e889_0455_65a9_u64.to_be_bytes());
            input.extend_from_slice(&7_u32.to_be_bytes());
        }
        input.extend_from_slice(&noise);
        let _ = client.step(&mut input, &mut output);
    }

    #[test]
    fn outgoing_keeps_order(pieces in prop::collection::vec((any::<bool>(), 0_usize..3000), 0..20),
                            steps in prop::collection::vec(1_usize..5000, 1..20)) {
        let mut outgoing = Outgoing::default();
        let mut expected = Vec::new();
        let mut written = Vec::new();
        let mut steps = steps.into_iter().cycle();
        for (index, (payload, length)) in pieces.into_iter().enumerate() {
            let bytes = vec![u8::try_from(index).unwrap(); length];
            expected.extend_from_slice(&bytes);
            if payload {
                outgoing.push_payload(Bytes::from(bytes));
            } else {
                outgoing.push_header(&bytes);
            }
            if index % 3 == 0 {
                drain(&mut outgoing, steps.next().unwrap(), &mut written);
            }
        }
        while !outgoing.is_empty() {
            drain(&mut outgoing, steps.next().unwrap(), &mut written);
        }
        prop_assert_eq!(outgoing.len_bytes(), 0);
        prop_assert_eq!(written, expected);
    }
}

fn any_option() -> impl Strategy<Value = Vec<u8>> {
    let go = (prop_oneof![Just(6_u32), Just(7), Just(1)], "[ -~]{0,20}")
        .prop_map(|(number, name)| option(number, &go_data(&name, &[1, 2, 3, 9])));
    let contexts = (
        9_u32..11,
        prop::collection::vec("(base|mvps|x):[a-z:0-9-]{0,20}", 0..4),
    )
        .prop_map(|(number, queries)| {
            let queries: Vec<&str> = queries.iter().map(String::as_str).collect();
            [
                option(8, &[]),
                option(number, &contexts_data("n", &queries)),
            ]
            .concat()
        });
    let other = (0_u32..12, prop::collection::vec(any::<u8>(), 0..40))
        .prop_map(|(number, data)| option(number, &data));
    prop_oneof![go, contexts, other]
}

/// Takes up to `limit` bytes out of `outgoing`, as a vectored write would.
fn drain(outgoing: &mut Outgoing, limit: usize, written: &mut Vec<u8>) {
    let mut slices = [std::io::IoSlice::new(&[]); 4];
    let filled = outgoing.fill(&mut slices);
    let gathered: Vec<u8> = slices[..filled]
        .iter()
        .flat_map(|slice| slice.to_vec())
        .collect();
    let count = gathered.len().min(limit);
    written.extend_from_slice(&gathered[..count]);
    outgoing.advance(count);
}
