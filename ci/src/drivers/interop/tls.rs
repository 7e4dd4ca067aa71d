//! TLS: libnbd and QEMU over nbds://, on TCP and on a unix socket; certificates of clients; what is
//! asked in the clear where TLS is required; certificates that change while the daemon runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::certificates::{Authority, CLIENT};
use super::images::IMAGE_BYTES;
use super::scripts::{tool, tool_any};
use crate::rig::daemon::{Daemon, Listen, Setup};
use crate::rig::image_file;
use crate::rig::object_server::ObjectStore;
use crate::rig::report::Report;
use crate::rig::token::Claims;

/// How much is copied through TLS.
const CONTENT_BYTES: u64 = 32 * 1024 * 1024;

/// How long new certificates may take to be in use after SIGHUP.
const RELOAD_LIMIT: Duration = Duration::from_secs(10);

/// Runs the checks, on daemons of their own.
///
/// # Errors
/// If a daemon does not start.
pub fn checks(report: &mut Report, binary: &Path, directory: &Path) -> Result<()> {
    let directory = directory.join("tls");
    let authority = Authority::new(directory.join("authority"))?;
    let anonymous = authority.without_client()?;
    let offered = Node::start(binary, &directory.join("offered"), &authority, &[])?;
    let area = "tls";
    report.check(area, "nbdinfo nbds://", || nbdinfo(&offered, &anonymous));
    report.check(area, "nbdcopy nbds://, in, out, compare", || {
        nbdcopy(&offered, &anonymous, &directory)
    });
    report.check(area, "qemu-io with TLS, TCP and unix", || {
        qemu_io(&offered, &anonymous)
    });
    report.check(area, "in the clear beside it", || plain(&offered));
    report.check(area, "an authority that is not ours", || {
        untrusted_authority(&offered, &directory)
    });
    report.check(area, "new certificates on SIGHUP", || {
        reload(&offered, &directory)
    });
    report.check(area, "clean shutdown (SIGTERM)", || {
        let took = offered.daemon.stop()?;
        Ok(format!("{:.1} s", took.as_secs_f64()))
    });
    let authority = Authority::new(directory.join("clients"))?;
    let anonymous = authority.without_client()?;
    let ca = authority.file("ca-cert.pem");
    let flags = ["--tls-required", "--tls-client-ca", &ca];
    let required = Node::start(binary, &directory.join("required"), &authority, &flags)?;
    report.check(area, "required: nothing in the clear", || {
        refused(&required)
    });
    report.check(area, "required: clients by certificate", || {
        by_certificate(&required, &authority, &anonymous)
    });
    Ok(())
}

/// A daemon that listens on TCP and on a unix socket.
struct Node {
    daemon: Daemon,
    socket: PathBuf,
    authority: PathBuf,
}

impl Node {
    fn start(binary: &Path, directory: &Path, of: &Authority, flags: &[&str]) -> Result<Self> {
        let store = ObjectStore::Local(directory.join("objects"));
        let mut setup = Setup::new(binary, store, directory)?;
        let socket = directory.join("nbd.sock");
        let listen = format!("unix:{}", socket.display());
        let (cert, key) = (of.file("server-cert.pem"), of.file("server-key.pem"));
        let own = ["--listen", &listen, "--tls-cert", &cert, "--tls-key", &key];
        let all = own.iter().chain(flags);
        setup.flags = all.map(|flag| (*flag).to_owned()).collect();
        Ok(Self {
            daemon: setup.start()?,
            socket,
            authority: of.directory().to_owned(),
        })
    }

    fn listens(&self) -> [Listen; 2] {
        let tcp = self.daemon.setup().listen.clone();
        [tcp, Listen::Unix(self.socket.clone())]
    }
}

fn nbdinfo(node: &Node, certificates: &Authority) -> Result<String> {
    let token = Claims::image("tls-info", IMAGE_BYTES).sign();
    for listen in node.listens() {
        let uri = certificates.uri(&listen, &token);
        let shown = tool("nbdinfo", &[&uri])?.stdout;
        ensure!(shown.contains("with TLS"), "{shown}");
        ensure!(shown.contains(&IMAGE_BYTES.to_string()), "{shown}");
    }
    Ok("TCP and unix".to_owned())
}

fn nbdcopy(node: &Node, certificates: &Authority, directory: &Path) -> Result<String> {
    let (input, output) = (directory.join("in.raw"), directory.join("out.raw"));
    image_file::write(&input, CONTENT_BYTES, 3)?;
    let token = Claims::image("tls-copy", CONTENT_BYTES).sign();
    for listen in node.listens() {
        let uri = certificates.uri(&listen, &token);
        tool("nbdcopy", &["--flush", &input.to_string_lossy(), &uri])?;
        tool("nbdcopy", &[&uri, &output.to_string_lossy()])?;
        image_file::compare(&input, &output, CONTENT_BYTES)?;
    }
    Ok(format!(
        "{} MiB each way, TCP and unix",
        CONTENT_BYTES >> 20
    ))
}

fn qemu(listen: &Listen, token: &str, certificates: &Authority, command: &str) -> Result<String> {
    let object = certificates.qemu_object();
    let image = certificates.qemu_image(listen, token);
    let arguments = ["--object", &object, "--image-opts", &image, "-c", command];
    let output = tool("qemu-io", &arguments)?.output();
    ensure!(
        !output.contains("failed") && !output.contains("rror"),
        "{output}"
    );
    Ok(output)
}

fn qemu_io(node: &Node, certificates: &Authority) -> Result<String> {
    let token = Claims::image("tls-qemu", IMAGE_BYTES).sign();
    let [tcp, unix] = node.listens();
    for (listen, other, byte) in [(&tcp, &unix, 0x11), (&unix, &tcp, 0x22)] {
        qemu(
            listen,
            &token,
            certificates,
            &format!("write -f -P {byte} 64k 1M"),
        )?;
        qemu(
            other,
            &token,
            certificates,
            &format!("read -P {byte} 64k 1M"),
        )?;
    }
    Ok("written through one, read through the other".to_owned())
}

fn plain(node: &Node) -> Result<String> {
    let token = Claims::image("tls-plain", IMAGE_BYTES).sign();
    for listen in node.listens() {
        let shown = tool("nbdinfo", &[&listen.uri(&token)])?.stdout;
        ensure!(shown.contains("without TLS"), "{shown}");
    }
    Ok("TCP and unix".to_owned())
}

/// A client must notice that the certificate is not one that it trusts: the cell proves that the
/// others verify anything.
fn untrusted_authority(node: &Node, directory: &Path) -> Result<String> {
    let other = Authority::new(directory.join("untrusted"))?.without_client()?;
    let token = Claims::image("tls-info", IMAGE_BYTES).sign();
    let uri = other.uri(&node.listens()[0], &token);
    let answer = tool_any("nbdinfo", &["--size", &uri])?;
    ensure!(
        !answer.status.success(),
        "a certificate of nobody was believed"
    );
    Ok("refused by the client".to_owned())
}

fn reload(node: &Node, directory: &Path) -> Result<String> {
    let token = Claims::image("tls-info", IMAGE_BYTES).sign();
    let next = Authority::new(directory.join("next"))?;
    let trusting = next.without_client()?;
    let uri = trusting.uri(&node.listens()[0], &token);
    let accepts =
        || -> Result<bool> { Ok(tool_any("nbdinfo", &["--size", &uri])?.status.success()) };
    ensure!(
        !accepts()?,
        "the new certificate is in use before it is there"
    );
    for name in ["server-cert.pem", "server-key.pem"] {
        fs::copy(next.file(name), node.authority.join(name))?;
    }
    ensure!(!accepts()?, "the new certificate is in use before SIGHUP");
    node.daemon.hang_up()?;
    let deadline = Instant::now() + RELOAD_LIMIT;
    while !accepts()? {
        if Instant::now() > deadline {
            bail!(
                "the old certificate is still in use\n{}",
                node.daemon.log_tail()
            );
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok("not before it, and then".to_owned())
}

fn refused(node: &Node) -> Result<String> {
    let token = Claims::image("tls-secret", IMAGE_BYTES).sign();
    for listen in node.listens() {
        let answer = tool_any("nbdinfo", &["--size", &listen.uri(&token)])?;
        ensure!(
            !answer.status.success(),
            "a token was accepted in the clear"
        );
    }
    let shown = node.daemon.setup().operate(&["image", "list"])?.stdout;
    ensure!(!shown.contains("tls-secret"), "it made an image: {shown}");
    Ok("TCP and unix".to_owned())
}

fn by_certificate(node: &Node, known: &Authority, anonymous: &Authority) -> Result<String> {
    let [tcp, _] = node.listens();
    let claims = Claims::image("tls-clients", IMAGE_BYTES);
    let open = |claims: &Claims, certificates: &Authority| {
        let uri = certificates.uri(&tcp, &claims.sign());
        tool_any("nbdinfo", &["--size", &uri]).map(|answer| answer.status.success())
    };
    ensure!(
        !open(&claims, anonymous)?,
        "a client without a certificate was let in"
    );
    ensure!(
        open(&claims, known)?,
        "a client with a certificate was refused"
    );
    let bound = |name: &str| Claims {
        tls_client: Some(name.to_owned()),
        ..claims.clone()
    };
    ensure!(
        open(&bound(CLIENT), known)?,
        "the token's own client was refused"
    );
    ensure!(
        !open(&bound("host-2"), known)?,
        "another client's token was accepted"
    );
    Ok(format!("without one, with one, tokens bound to {CLIENT}"))
}
