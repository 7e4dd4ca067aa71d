//! The client, against a server that says anything.
//!
//! Oracle: it neither panics nor waits for ever nor allocates what only the server's word asks
//! for; it never takes an answer for another request's.

use bytes::Bytes;
use mvps_core::client::Client;
use mvps_core::nbd::{ExportName, Framing, Opening, RequestedOptions};

use crate::stream::Script;
use crate::world::World;

/// One input: the opening, then what the server sends.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    let Some((first, sent)) = data.split_first() else {
        return;
    };
    let opening = match first % 4 {
        0 => Opening::Go,
        1 => Opening::ExportName { no_zeroes: false },
        2 => Opening::ExportName { no_zeroes: true },
        _ => Opening::Describe,
    };
    let pieces = [first / 4];
    let pieces = if *first < 128 { &pieces[..] } else { &[] };
    let mut world = World::new();
    let (stream, _) = Script::new(sent.to_vec(), pieces);
    let name = ExportName::new("disk0".to_owned()).expect("it is short");
    let spawner = world.tasks.clone();
    world.run(async {
        if opening == Opening::Describe {
            let _ = Client::describe(stream, name).await;
            return;
        }
        // What a server that knows less answers, and one that knows all of it.
        let options = match first / 4 % 3 {
            0 => RequestedOptions::from(opening),
            1 => RequestedOptions {
                framing: Framing::Structured,
                ..RequestedOptions::from(opening)
            },
            _ => RequestedOptions {
                opening,
                ..RequestedOptions::everything()
            },
        };
        let Ok(client) = Client::connect(stream, name, options, &spawner).await else {
            return;
        };
        if let Ok(content) = client.read(0, 512).await {
            assert_eq!(content.len(), 512);
        }
        let _ = client.write(4096, Bytes::from_static(&[7; 64]), true).await;
        let _ = client.flush().await;
        if let Ok(status) = client.block_status(0, 8192, false).await {
            assert!(status.iter().all(|one| !one.extents.is_empty()));
        }
        if let Ok(content) = client.read(1, 1).await {
            assert_eq!(content.len(), 1);
        }
        client.disconnect().await;
    });
}
