//! `cargo ci fuzz --capture`: what real clients send, recorded as seeds for the fuzzer.
//!
//! Each client talks to a daemon through a [`Relay`] about an image of the size that the targets
//! have. What it sent becomes seeds of three targets: the whole stream for `negotiation`, the
//! requests alone for `requests`, told what was negotiated before them, and for `session`, which
//! reads them as what one or both of its clients do. Seeds are small: the fuzzer cuts longer ones.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mvps_core::nbd::{Framing, RequestedOptions, ZeroFlags};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::rig::client::attach_with;
use crate::rig::command::{run, run_any};
use crate::rig::daemon::Setup;
use crate::rig::fio;
use crate::rig::machine::{self, system};
use crate::rig::object_server::ObjectStore;
use crate::rig::relay::Relay;
use crate::rig::report::Report;
use crate::rig::token::Claims;
use crate::rig::workspace::{self, Binary};

/// The size of the targets' disks.
const DISK_BYTES: u64 = 64 * 1024;

/// The image's name.
const IMAGE: &str = "disk0";

/// How long one client may take.
const CLIENT_LIMIT: Duration = Duration::from_secs(60);

/// Most bytes of one seed.
const SEED_MAX_BYTES: usize = 4 * 1024;

/// Most bytes of all seeds that are captured.
const ALL_MAX_BYTES: usize = 100 * 1024;

/// Most connections of one client that are kept; further ones say the same.
const CONNECTIONS_MAX: usize = 2;

/// What the names of these seeds begin with.
const NAME: &str = "capture-";

/// Part of the byte that `session` expects first.
const SESSION_ONE_CLIENT: u8 = 1;
const SESSION_TWO_CLIENTS: u8 = 3;

/// What clients ask for before the first request ("Option types").
const STRUCTURED_REPLY: u32 = 8;
const SET_META_CONTEXT: u32 = 10;
const EXTENDED_HEADERS: u32 = 11;

/// Bytes of an option's header, and of the client's flags before the first.
const OPTION_BYTES: usize = 16;
const FLAGS_BYTES: usize = 4;

/// Where a client finds the export: a URI, and the socket and token that it is made of.
struct Place {
    uri: String,
    socket: String,
    token: String,
}

type Client = fn(&Place, &Path) -> Result<Command>;

/// Every client: its name, and the command that makes it send something.
const CLIENTS: &[(&str, Client)] = &[
    ("nbdinfo", |place, _| Ok(with("nbdinfo", &[&place.uri]))),
    ("nbdinfo-map", |place, _| {
        Ok(with("nbdinfo", &["--map", &place.uri]))
    }),
    ("nbdcopy", |place, directory| {
        let file = directory.join("content");
        fs::write(&file, [7; 1000])?;
        let file = file.to_string_lossy();
        let arguments = ["--destination-is-zero", "--flush", &file, &place.uri];
        Ok(with("nbdcopy", &arguments))
    }),
    ("nbdcopy-zero", |place, directory| {
        let file = directory.join("zeroes");
        fs::write(&file, vec![0; usize::try_from(DISK_BYTES)?])?;
        Ok(with("nbdcopy", &[&file.to_string_lossy(), &place.uri]))
    }),
    ("nbdsh", |place, _| {
        let script = "h.add_meta_context('base:allocation'); h.connect_uri(os.environ['URI'])\n\
            h.pwrite(b'a' * 600, 100, nbd.CMD_FLAG_FUA); h.cache(4096, 0)\n\
            h.trim(8192, 4096); h.zero(100, 30, nbd.CMD_FLAG_NO_HOLE); h.pread(700, 50)\n\
            h.block_status(65536, 0, lambda *_: 0, nbd.CMD_FLAG_REQ_ONE); h.flush()\n\
            h.pread_structured(512, 0, lambda *_: None, nbd.CMD_FLAG_DF); h.shutdown()";
        let mut nbdsh = with("nbdsh", &["-c", "import os", "-c", script]);
        nbdsh.env("URI", &place.uri);
        Ok(nbdsh)
    }),
    ("qemu-io", |place, _| {
        let commands = [
            "write -P 1 512 1k",
            "write -z 4k 8k",
            "write -z -u 3k 9k",
            "write -f -P 2 0 512",
            "discard 0 32k",
            "read 0 4k",
            "flush",
        ];
        let commands = commands.iter().flat_map(|command| ["-c", command]);
        let mut qemu = with("qemu-io", &["-f", "raw", &place.uri]);
        qemu.args(commands);
        Ok(qemu)
    }),
    ("qemu-img-map", |place, _| {
        let options = format!("driver=nbd,path={},export={}", place.socket, place.token);
        Ok(with("qemu-img", &["map", "--image-opts", &options]))
    }),
    ("fio", |place, _| {
        let mut fio = fio::nbd(&place.uri);
        fio.args(["--name=seed", "--rw=randrw", "--bs=512", "--iodepth=4"]);
        fio.args(["--size=64k", "--number_ios=8", "--fsync=3"]);
        Ok(fio)
    }),
    ("fio-trim", |place, _| {
        let mut fio = fio::nbd(&place.uri);
        fio.args(["--name=seed", "--rw=randtrim", "--bs=4k", "--iodepth=2"]);
        fio.args(["--size=64k", "--number_ios=8"]);
        Ok(fio)
    }),
    ("nbd-client", |place, _| {
        // It fails for want of a device, after it negotiated.
        let arguments = ["-N", &place.token, "-unix", &place.socket, "/dev/nbd15"];
        Ok(with("nbd-client", &arguments))
    }),
    ("nbd-client-list", |place, _| {
        Ok(with("nbd-client", &["-l", "-unix", &place.socket]))
    }),
];

fn with(program: &str, arguments: &[&str]) -> Command {
    let mut command = system(program);
    command.args(arguments);
    command
}

/// Runs every client and writes its seeds, in place of what was captured before.
///
/// # Errors
/// If a client sends nothing, or the seeds are larger than they may be together.
pub fn run_all(binary: &Binary) -> Result<()> {
    machine::ensure(machine::NBD_TOOLS)?;
    let seeds = workspace::root().join("fuzz/seeds");
    let directory = TempDir::with_prefix("mvps-capture")?;
    let store = ObjectStore::Local(directory.path().join("objects"));
    let daemon = Setup::new(&binary.path()?, store, directory.path())?.start()?;
    let relay = Relay::start(&directory.path().join("relay"), &daemon.setup().listen)?;
    for target in ["negotiation", "requests", "session"] {
        forget(&seeds.join(target))?;
    }
    let token = Claims::image(IMAGE, DISK_BYTES).sign();
    let place = Place {
        uri: relay.listen().uri(&token),
        socket: directory.path().join("relay").display().to_string(),
        token,
    };
    let mut report = Report::default();
    let mut all_bytes = 0;
    let mut keep = |name: &str, report: &mut Report, done: Result<()>| {
        report.check("capture", name, || {
            done?;
            let mut bytes = 0;
            let streams = relay.take_kept().into_iter();
            let streams = streams.filter(|sent| sent.len() > FLAGS_BYTES);
            for (number, sent) in streams.take(CONNECTIONS_MAX).enumerate() {
                bytes += write(&seeds, &format!("{NAME}{name}-{number}"), &sent)?;
            }
            ensure!(bytes > 0, "it sent nothing");
            all_bytes += bytes;
            Ok(format!("{bytes} bytes"))
        });
    };
    for (name, client) in CLIENTS {
        let mut command = client(&place, directory.path())?;
        let done = match *name {
            "nbd-client" | "nbd-client-list" => run_any(&mut command, CLIENT_LIMIT),
            _ => run(&mut command, CLIENT_LIMIT),
        };
        keep(name, &mut report, done.map(drop));
    }
    let list = directory.path().join("list");
    fs::write(&list, "0 48656c6c6f\n4096 zero 100\n8192 trim 4096\n")?;
    let connect = format!("unix:{}", place.socket);
    let words = ["txn", "--image", IMAGE, "--durable", "--connect", &connect];
    let mut txn = daemon.setup().command(&words);
    let done = run(txn.arg(&list), CLIENT_LIMIT);
    keep("mvps-txn", &mut report, done.map(drop));
    for (name, options) in [
        ("mvps-everything", RequestedOptions::everything()),
        (
            "mvps-structured",
            RequestedOptions {
                framing: Framing::Structured,
                ..RequestedOptions::everything()
            },
        ),
    ] {
        let setup = Setup {
            listen: relay.listen().clone(),
            ..daemon.setup().clone()
        };
        keep(name, &mut report, own_client(&setup, options));
    }
    daemon.stop()?;
    report.finish("cargo ci fuzz --capture")?;
    println!("{all_bytes} bytes of seeds");
    ensure!(all_bytes <= ALL_MAX_BYTES, "more than {ALL_MAX_BYTES}");
    Ok(())
}

/// Runs mvps's own client with the requests that other clients do not make.
fn own_client(setup: &Setup, options: RequestedOptions) -> Result<()> {
    Runtime::new()?.block_on(async {
        let claims = Claims::image(IMAGE, DISK_BYTES);
        let mut client = attach_with(setup, &claims, options).await?;
        client.block_status(0, DISK_BYTES, false).await?;
        client.write(4000, vec![7; 200].into(), true).await?;
        client.block_status(4096, 1, true).await?;
        let flags = ZeroFlags {
            fast: true,
            no_hole: true,
            fua: false,
        };
        client.write_zeroes_with(8192, 16384, flags).await?;
        client.cache(0, DISK_BYTES).await?;
        client.read(0, 16384).await?;
        let transaction = client.begin().await?;
        transaction.write(0, vec![8; 100].into()).await?;
        transaction.delete_page(4096).await?;
        transaction.block_status(0, 16384, false).await?;
        transaction.lock().await?;
        transaction.commit(true).await?;
        client.trim(0, DISK_BYTES, false).await?;
        client.disconnect().await;
        Ok(())
    })
}

/// Deletes what was captured before.
fn forget(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.starts_with(NAME)) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Writes the seeds of one connection; returns how many bytes they are.
fn write(seeds: &Path, name: &str, sent: &[u8]) -> Result<usize> {
    let (form, requests) = requests_of(sent).context("not a fixed newstyle client")?;
    let whole = &sent[..sent.len().min(SEED_MAX_BYTES)];
    let requests = &requests[..requests.len().min(SEED_MAX_BYTES)];
    let mut wanted = vec![("negotiation", 0, whole, "")];
    if !requests.is_empty() {
        let session = form.of_session() * 4;
        let (one, two) = (session + SESSION_ONE_CLIENT, session + SESSION_TWO_CLIENTS);
        wanted.push(("requests", form.of_requests() << 4, requests, ""));
        wanted.push(("session", one, requests, ""));
        wanted.push(("session", two, requests, "-two"));
    }
    let mut bytes = 0;
    for (target, first, content, suffix) in wanted {
        let path = seeds.join(target).join(format!("{name}{suffix}"));
        let seed = [&[first], content].concat();
        fs::write(&path, &seed)?;
        bytes += seed.len();
    }
    Ok(bytes)
}

/// The options that a client asked for; the server grants all of them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Form {
    structured: bool,
    extended: bool,
    context: bool,
}

impl Form {
    /// The number that the target `requests` has for these options.
    fn of_requests(self) -> u8 {
        match (self.extended, self.structured) {
            (true, _) => 3 + u8::from(self.context),
            (false, true) => 1 + u8::from(self.context),
            (false, false) => 0,
        }
    }

    /// The number that the target `session` has for these options of its first client.
    fn of_session(self) -> u8 {
        match (self.extended, self.structured) {
            (true, _) => 3,
            (false, true) => 2,
            (false, false) => 0,
        }
    }
}

/// What follows the handshake, and what was asked for in it; `None` if it is not whole.
fn requests_of(sent: &[u8]) -> Option<(Form, &[u8])> {
    let mut form = Form::default();
    let mut rest = sent.get(FLAGS_BYTES..)?;
    while rest.starts_with(b"IHAVEOPT") {
        let word = |at: usize| Some(u32::from_be_bytes(*rest.get(at..)?.first_chunk()?));
        match word(OPTION_BYTES - 8)? {
            STRUCTURED_REPLY => form.structured = true,
            EXTENDED_HEADERS => form.extended = true,
            SET_META_CONTEXT => form.context = true,
            _ => {}
        }
        let length = usize::try_from(word(OPTION_BYTES - 4)?).ok()?;
        rest = rest.get(OPTION_BYTES + length..)?;
    }
    Some((form, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_begin_behind_the_last_option() {
        let option = |number: u8, data: &[u8]| {
            let length = u8::try_from(data.len()).expect("it is short");
            let head = [&b"IHAVEOPT"[..], &[0, 0, 0, number, 0, 0, 0, length]].concat();
            [&head, data].concat()
        };
        let flags = [0, 0, 0, 3];
        let options = [option(8, b""), option(7, b"abc")].concat();
        let sent = [&flags[..], &options, b"requests"].concat();
        let (form, requests) = requests_of(&sent).expect("it is whole");
        assert_eq!(requests, b"requests");
        assert_eq!((form.of_requests(), form.of_session()), (1, 2));
        let (form, requests) = requests_of(&sent[..20]).expect("one option is whole");
        assert_eq!((form.of_requests(), requests), (1, &b""[..]));
        assert_eq!(requests_of(&sent[..30]), None);
        assert_eq!(requests_of(&sent[..3]), None);
        let sent = [&flags[..], &option(11, b""), &option(10, b"d"), b"requests"].concat();
        let (form, _) = requests_of(&sent).expect("it is whole");
        assert_eq!((form.of_requests(), form.of_session()), (4, 3));
    }
}
