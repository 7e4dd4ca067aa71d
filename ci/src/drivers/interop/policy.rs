//! The policies of mvps: which tokens it accepts, that a bad one creates nothing, that LIST is
//! refused; unix sockets and nbd-client.

use std::path::Path;

use anyhow::{Result, ensure};

use super::images::IMAGE_BYTES;
use super::scripts::{tool, tool_any};
use crate::rig::daemon::{Daemon, Listen};
use crate::rig::report::Report;
use crate::rig::token::Claims;

/// A token of the original's users, for the secret `insecure_token`: 1 GiB, pages of 4 KiB.
const FIXED_TOKEN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpbWFnZV9pZCI6IlRFU1RJTUctMDI\
    ubXZwcy1pbWFnZSIsImltYWdlX3NpemUiOjEwNzM3NDE4MjQsInBhZ2Vfc2l6ZV9iaXRzIjoxMiwiZXhwIjoxOTAxMT\
    U0OTQxLCJjbGllbnRfaWQiOiJjOWVmZDk2Yy1kYTU5LTQzNTEtYjMxMS0zNTEyOTVmYTk4ZTIifQ.j-nR5Opn-pK6wh\
    rm8pJIgyItO5XvlYf0oy7RzR00T1Y";

/// What the fixed token's image must show.
const FIXED_SIZE: &str = "1073741824";

/// Runs the checks against `daemon`.
pub fn checks(report: &mut Report, area: &str, daemon: &mut Daemon, socket: &Path) {
    report.check(area, "the fixed token", || fixed_token(daemon));
    report.check(area, "mvps token, nbdinfo", || own_token(daemon));
    report.check(area, "bad tokens are refused", || bad_tokens(daemon));
    report.check(area, "read_only", || read_only(daemon));
    report.check(area, "nbd-client -l (LIST is refused)", || list(daemon));
    report.check(area, "nbd-client -N (negotiation)", || negotiate(daemon));
    report.check(area, "unix socket", || unix(socket));
    report.check(area, "mvps status, checkpoint", || control(daemon));
}

fn fixed_token(daemon: &Daemon) -> Result<String> {
    let uri = daemon.setup().listen.uri(FIXED_TOKEN);
    let size = tool("nbdinfo", &["--size", &uri])?.stdout;
    ensure!(size.trim() == FIXED_SIZE, "nbdinfo --size says {size}");
    tool(
        "nbdsh",
        &[
            "--uri",
            &uri,
            "--command",
            "h.pwrite(b'x', 1 << 29); h.flush()",
        ],
    )?;
    Ok(format!("{} bytes", size.trim()))
}

fn own_token(daemon: &Daemon) -> Result<String> {
    let words = ["token", "--image", "disk0", "--size", "10GiB"];
    let output = daemon.setup().operate(&words)?.stdout;
    let token = output
        .split_whitespace()
        .find(|word| word.starts_with("eyJ"));
    let Some(token) = token else {
        anyhow::bail!("mvps token printed {output}");
    };
    let uri = daemon.setup().listen.uri(token);
    let size = tool("nbdinfo", &["--size", &uri])?.stdout;
    ensure!(size.trim() == "10737418240", "nbdinfo --size says {size}");
    Ok(format!("{} bytes", size.trim()))
}

fn bad_tokens(daemon: &mut Daemon) -> Result<String> {
    let image = Claims::image("refused", IMAGE_BYTES);
    let absent = Claims {
        size_bytes: None,
        ..image.clone()
    };
    let uneven = Claims::image("refused", IMAGE_BYTES + 1);
    let nameless = Claims::image("../refused", IMAGE_BYTES);
    let cases = [
        ("another secret", image.sign_with("another")),
        ("no image, no size", absent.sign()),
        ("a size of no whole pages", uneven.sign()),
        ("a name that is no image id", nameless.sign()),
        ("no token", "disk0".to_owned()),
        ("an empty name", String::new()),
        ("a long name", "x".repeat(4096)),
    ];
    for (name, token) in &cases {
        let uri = daemon.setup().listen.uri(token);
        let answer = tool_any("nbdinfo", &["--size", &uri])?;
        ensure!(!answer.status.success(), "{name} was accepted");
        daemon.must_run()?;
    }
    Ok(format!("{} kinds", cases.len()))
}

fn read_only(daemon: &Daemon) -> Result<String> {
    let writable = daemon.uri_for(&Claims::image("read-only", IMAGE_BYTES));
    tool(
        "nbdsh",
        &["--uri", &writable, "--command", "h.pwrite(b'kept', 0)"],
    )?;
    let claims = Claims {
        size_bytes: None,
        read_only: true,
        ..Claims::image("read-only", 0)
    };
    let uri = daemon.uri_for(&claims);
    let script = "assert h.is_read_only(); assert h.pread(4, 0) == b'kept'\n\
                  h.set_strict_mode(0)\n\
                  try:\n    h.pwrite(b'lost', 0)\n    raise SystemExit('written')\n\
                  except nbd.Error as error:\n    assert error.errno == 'EPERM', error\n";
    tool("nbdsh", &["--uri", &uri, "--command", script])?;
    Ok("reads, EPERM on write".to_owned())
}

fn host_and_port(daemon: &Daemon) -> (String, String) {
    match &daemon.setup().listen {
        Listen::Tcp(address) => (address.ip().to_string(), address.port().to_string()),
        Listen::Unix(_) => unreachable!("the suite listens on TCP"),
    }
}

fn list(daemon: &mut Daemon) -> Result<String> {
    let (host, port) = host_and_port(daemon);
    let answer = tool_any("nbd-client", &["-l", &host, &port])?;
    let output = answer.output();
    daemon.must_run()?;
    let leaked = ["information", "fio", "read-only", "eyJ"];
    let leak = leaked.iter().find(|name| output.contains(**name));
    ensure!(leak.is_none(), "LIST told {leak:?}: {output}");
    ensure!(
        !answer.status.success() || output.contains("olicy"),
        "{output}"
    );
    let last = output.lines().last().unwrap_or("").to_owned();
    Ok(last)
}

/// Without a kernel module nbd-client negotiates, prints the size, and fails for want of a
/// device; with one it attaches, and is detached again.
fn negotiate(daemon: &Daemon) -> Result<String> {
    let (host, port) = host_and_port(daemon);
    let token = Claims::image("nbd-client", IMAGE_BYTES).sign();
    let arguments = ["-N", &token, &host, &port, "/dev/nbd15"];
    let answer = tool_any("nbd-client", &arguments)?;
    if answer.status.success() {
        tool("nbd-client", &["-d", "/dev/nbd15"])?;
    }
    let output = answer.output();
    let expected = format!("size = {}MB", IMAGE_BYTES / (1024 * 1024));
    ensure!(output.contains(&expected), "no {expected:?} in {output}");
    Ok(expected)
}

fn unix(socket: &Path) -> Result<String> {
    let token = Claims::image("unix", IMAGE_BYTES).sign();
    let uri = Listen::Unix(socket.to_owned()).uri(&token);
    let size = tool("nbdinfo", &["--size", &uri])?.stdout;
    ensure!(
        size.trim() == IMAGE_BYTES.to_string(),
        "nbdinfo --size says {size}"
    );
    let script = "h.pwrite(b'here', 4096); assert h.pread(4, 4096) == b'here'";
    tool("nbdsh", &["--uri", &uri, "--command", script])?;
    Ok(format!("{} bytes", size.trim()))
}

fn control(daemon: &Daemon) -> Result<String> {
    let uri = daemon.uri_for(&Claims::image("control", IMAGE_BYTES));
    tool(
        "nbdsh",
        &["--uri", &uri, "--command", "h.pwrite(b'here', 4096)"],
    )?;
    daemon.checkpoint("control")?;
    let status = daemon.status()?.to_string();
    ensure!(
        status.contains("control"),
        "status does not name the image: {status}"
    );
    let shown = daemon.setup().operate(&["image", "list"])?.stdout;
    ensure!(shown.contains("control"), "image list: {shown}");
    Ok("status is JSON and names the image; checkpoint done; image list".to_owned())
}
