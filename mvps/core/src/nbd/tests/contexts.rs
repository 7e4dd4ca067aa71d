//! Framing and contexts in negotiation.

use bytes::BytesMut;

use super::{contexts_data, export, go_data, greeted, name, option, reply_type};
use crate::nbd::*;

const ACK: u32 = 1;
const INVALID: u32 = 1 << 31 | 3;
const TOO_BIG: u32 = 1 << 31 | 9;

/// A client that sends options one by one to a server with these contexts.
struct Negotiating {
    negotiation: Negotiation,
    input: BytesMut,
    has: Vec<ContextName>,
    negotiated: Option<NegotiatedOptions>,
}

impl Negotiating {
    fn new() -> Self {
        Self {
            negotiation: greeted(3),
            input: BytesMut::new(),
            has: vec![
                ContextName::Allocation,
                ContextName::ChangedSince(Since::Version(7)),
                ContextName::ChangedSince(Since::Snapshot("monday".to_owned())),
            ],
            negotiated: None,
        }
    }

    /// Sends one option; returns the type of the first reply and all that was answered.
    fn send(&mut self, number: u32, data: &[u8]) -> (u32, Vec<u8>) {
        self.input.extend(option(number, data));
        let mut output = BytesMut::new();
        loop {
            match self.negotiation.step(&mut self.input, &mut output).unwrap() {
                Step::NeedMore => break,
                Step::Close => return (0, output.to_vec()),
                Step::StartTls => panic!("nobody asked for encryption"),
                Step::Wanted(_) => {
                    self.negotiated = self.negotiation.grant(&export(), &mut output);
                    if self.negotiated.is_some() {
                        break;
                    }
                }
                Step::Contexts(request) => {
                    let asked = |name: &ContextName| {
                        request.queries.iter().any(|query| match query {
                            ContextQuery::Name(wanted) => wanted == name,
                            ContextQuery::AllBase => *name == ContextName::Allocation,
                            ContextQuery::AllChangedSince => *name != ContextName::Allocation,
                            ContextQuery::Foreign => panic!("nobody needs to hear of it"),
                        })
                    };
                    let all = request.queries.is_empty();
                    let has = self.has.iter().filter(|name| all || asked(name));
                    self.negotiation.offer(has.cloned().collect(), &mut output);
                }
            }
        }
        (reply_type(&output), output.to_vec())
    }

    fn selected(&mut self, export_name: &str) -> Vec<String> {
        self.send(7, &go_data(export_name, &[]));
        let negotiated = self.negotiated.take().expect("GO is granted");
        let named = negotiated.contexts.iter();
        named
            .map(|context| format!("{} {}", context.id, context.name))
            .collect()
    }
}

#[test]
fn what_is_selected_counts() {
    // (queries, contexts that GO begins with)
    let cases: &[(&[&str], &[&str])] = &[
        (&["base:allocation"], &["1 base:allocation"]),
        (
            &["base:allocation", "base:allocation"],
            &["1 base:allocation"],
        ),
        (&["base:", "mvps:", "x:y"], &[]),
        (&[], &[]),
        (&["mvps:changed-since:7"], &["1 mvps:changed-since:7"]),
        (&["mvps:changed-since:8"], &[]),
        (
            &["mvps:changed-since:monday", "base:allocation"],
            &["1 base:allocation", "2 mvps:changed-since:monday"],
        ),
    ];
    for (queries, expected) in cases {
        let mut negotiating = Negotiating::new();
        assert_eq!(negotiating.send(8, &[]).0, ACK);
        negotiating.send(10, &contexts_data("disk", queries));
        assert_eq!(negotiating.selected("disk"), *expected, "{queries:?}");
    }
}

#[test]
fn a_selection_is_of_one_export_and_the_last_one_counts_even_if_it_fails() {
    let select = contexts_data("disk", &["base:allocation"]);
    let begin = || {
        let mut negotiating = Negotiating::new();
        negotiating.send(8, &[]);
        negotiating.send(10, &select);
        negotiating
    };
    assert_eq!(begin().selected("other"), [""; 0]);
    let mut malformed = begin();
    assert_eq!(malformed.send(10, &[0; 3]).0, INVALID);
    assert_eq!(malformed.selected("disk"), [""; 0]);
    let mut endless = begin();
    let too_large = vec![0; OPTION_DATA_LIMIT_BYTES as usize + 1];
    assert_eq!(endless.send(10, &too_large).0, TOO_BIG);
    assert_eq!(endless.selected("disk"), [""; 0]);
    let mut nothing = begin();
    nothing.send(10, &contexts_data("disk", &["x:y"]));
    assert_eq!(nothing.selected("disk"), [""; 0]);
    let mut listed = begin();
    listed.send(9, &contexts_data("disk", &[]));
    listed.send(6, &go_data("other", &[]));
    assert_eq!(listed.selected("disk"), ["1 base:allocation"]);
    let mut extended = begin();
    assert_eq!(extended.send(11, &[]).0, ACK);
    assert_eq!(extended.selected("disk"), ["1 base:allocation"]);
}

#[test]
fn framing_is_negotiated_once_and_in_order() {
    let header_required = 1 << 31 | 10;
    let mut negotiating = Negotiating::new();
    assert_eq!(
        negotiating
            .send(10, &contexts_data("d", &["base:allocation"]))
            .0,
        INVALID
    );
    assert_eq!(negotiating.send(8, &[]).0, ACK);
    assert_eq!(negotiating.send(8, &[]).0, INVALID);
    assert_eq!(negotiating.send(11, &[1]).0, INVALID);
    assert_eq!(negotiating.send(11, &[]).0, ACK);
    assert_eq!(negotiating.send(11, &[]).0, INVALID);
    assert_eq!(negotiating.send(8, &[]).0, header_required);
    negotiating.send(7, &go_data("d", &[]));
    assert_eq!(negotiating.negotiated.unwrap().framing, Framing::Extended);
    // EXPORT_NAME has no place for an error.
    let mut negotiating = Negotiating::new();
    negotiating.send(11, &[]);
    assert_eq!(negotiating.send(1, b"d").0, 0);
}

#[test]
fn a_list_has_these_bytes() {
    let mut negotiating = Negotiating::new();
    negotiating.send(8, &[]);
    let (_, all) = negotiating.send(9, &contexts_data("disk", &[]));
    let (_, base) = negotiating.send(9, &contexts_data("disk", &["base:", "x:"]));
    let (_, none) = negotiating.send(9, &contexts_data("disk", &["x:"]));
    insta::assert_snapshot!([all, base, none].map(|one| super::hex(&one)).join("\n\n"));
}

/// Both sides of a handshake with everything.
#[test]
fn client_and_server_agree_on_everything() {
    for (framing, opening) in [
        (Framing::Extended, Opening::Go),
        (Framing::Structured, Opening::Go),
        (Framing::Simple, Opening::Go),
        (Framing::Extended, Opening::Describe),
        (Framing::Structured, Opening::ExportName { no_zeroes: true }),
    ] {
        let contexts = ["base:allocation", "mvps:changed-since:7", "x:y"];
        let options = RequestedOptions {
            opening,
            framing,
            contexts: contexts.map(str::to_owned).to_vec(),
        };
        let mut client = ClientNegotiation::new(name("token"), options);
        let mut to_client = BytesMut::new();
        let mut server = Negotiation::begin(&mut to_client);
        let mut to_server = BytesMut::new();
        let (export_seen, negotiated) = loop {
            let step = client.step(&mut to_client, &mut to_server).unwrap();
            if let ClientStep::Granted(seen) = step {
                break (seen, None);
            }
            match server.step(&mut to_server, &mut to_client).unwrap() {
                Step::StartTls => panic!("nobody asked for encryption"),
                Step::Contexts(request) => {
                    assert_eq!(request.queries.len(), 2, "the foreign one is left out");
                    server.offer(vec![ContextName::Allocation], &mut to_client);
                }
                Step::Wanted(_) => {
                    if let Some(negotiated) = server.grant(&export(), &mut to_client) {
                        let step = client.step(&mut to_client, &mut to_server).unwrap();
                        let ClientStep::Granted(seen) = step else {
                            panic!("{step:?}");
                        };
                        break (seen, Some(negotiated));
                    }
                }
                Step::NeedMore => {}
                Step::Close => panic!("the server closes"),
            }
        };
        assert_eq!(export_seen.framing, framing);
        assert_eq!(export_seen.can_df, framing != Framing::Simple);
        assert!(export_seen.can_cache && export_seen.can_fast_zero);
        let expected = usize::from(framing != Framing::Simple);
        assert_eq!(export_seen.contexts.len(), expected);
        if let Some(negotiated) = negotiated {
            assert_eq!(
                (negotiated.framing, negotiated.contexts.len()),
                (framing, expected)
            );
        }
    }
}
