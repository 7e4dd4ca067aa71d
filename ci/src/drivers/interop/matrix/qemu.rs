//! Cells of QEMU's tools.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::super::images::IMAGE_BYTES;
use super::super::way::Way;
use super::cell::{At, CANNOT, CLIENT_LIMIT};
use super::libnbd::nbdsh;
use crate::rig::command::{Finished, run, tail, wait_within};
use crate::rig::daemon::Listen;
use crate::rig::image_file;
use crate::rig::machine::system;
use crate::rig::relay::Relay;

/// How much of an image has content when it is copied.
const CONTENT_BYTES: u64 = 64 * 1024 * 1024;

/// How often a connection is cut under qemu-io.
const CUTS: u64 = 5;

/// How long QEMU looks for its server again, in seconds.
const RECONNECT_SECONDS: u32 = 20;

/// Runs one of the tools: `before` the objects, `after` the options of images.
fn tool(way: &Way, program: &str, before: &[&str], after: &[&str]) -> Result<Finished> {
    let mut command = system(program);
    command.args(before).args(way.qemu_objects()).args(after);
    run(&mut command, CLIENT_LIMIT)
}

fn io(way: &Way, row: &str, commands: &[&str]) -> Result<()> {
    let image = way.qemu_image(row);
    let mut after = vec!["--image-opts", &image];
    commands
        .iter()
        .for_each(|command| after.extend(["-c", command]));
    judge(&tool(way, "qemu-io", &[], &after)?.output())
}

/// qemu-io ends with success though commands failed.
fn judge(output: &str) -> Result<()> {
    ensure!(
        !output.contains("failed") && !output.contains("rror"),
        "{output}"
    );
    Ok(())
}

/// `qemu-img` shows the size and the extents.
pub fn map(at: &At<'_>) -> Result<String> {
    let image = at.way.qemu_image("qmap");
    io(at.way, "qmap", &["write 1M 64k"])?;
    let ask = |word| {
        let after = ["--output=json", "--image-opts", &image];
        tool(at.way, "qemu-img", &[word], &after)
    };
    let info: Value = serde_json::from_str(&ask("info")?.stdout)?;
    ensure!(info["virtual-size"] == IMAGE_BYTES, "info {info}");
    let output = ask("map")?.stdout;
    let extents: Vec<Value> = serde_json::from_str(&output)?;
    let data = extents.iter().filter(|extent| extent["data"] == true);
    let data: Vec<_> = data
        .map(|extent| (extent["start"].as_u64(), extent["length"].as_u64()))
        .collect();
    ensure!(data == [(Some(1 << 20), Some(64 << 10))], "map {output}");
    Ok("one extent where 64 KiB were written".to_owned())
}

/// `qemu-img convert` copies in and out.
pub fn convert(at: &At<'_>) -> Result<String> {
    let (input, output) = (at.place.join("in.raw"), at.place.join("out.raw"));
    image_file::write(&input, CONTENT_BYTES, 4)?;
    // The rest is a hole.
    File::options()
        .write(true)
        .open(&input)?
        .set_len(IMAGE_BYTES)?;
    let image = at.way.qemu_image("conv");
    let copy_in = ["-n", "-W", "-m", "8", "-f", "raw", "--target-image-opts"];
    let file = input.to_string_lossy();
    let after = [&copy_in[..], &[&file, &image]].concat();
    tool(at.way, "qemu-img", &["convert"], &after)?;
    let file = format!(
        "driver=raw,file.driver=file,file.filename={}",
        input.display()
    );
    let both = ["--image-opts", &file, &image];
    tool(at.way, "qemu-img", &["compare"], &both)?;
    let copy_out = [
        "--image-opts",
        "-O",
        "raw",
        &image,
        &output.to_string_lossy(),
    ];
    tool(at.way, "qemu-img", &["convert"], &copy_out)?;
    image_file::compare(&input, &output, IMAGE_BYTES)?;
    Ok("identical in, there and out".to_owned())
}

/// `qemu-img bench`: many writes in flight, flushes between them.
pub fn bench(at: &At<'_>) -> Result<String> {
    if at.way.authority.is_some() {
        return Ok(format!(
            "{CANNOT}it takes no objects, and so no certificates"
        ));
    }
    let image = at.way.qemu_image("bench");
    let writes = ["-w", "-c", "2000", "-d", "32", "-s", "4096"];
    let rest = ["--flush-interval=200", "--image-opts", &image];
    tool(
        at.way,
        "qemu-img",
        &["bench"],
        &[&writes[..], &rest].concat(),
    )?;
    Ok("2000 writes at depth 32, flushes between".to_owned())
}

/// `qemu-io` writes and verifies patterns with every kind of request.
pub fn patterns(at: &At<'_>) -> Result<String> {
    let commands = [
        "write -P 0xab 0 1M",
        "write -P 0xcd 1000 3000",
        "read -P 0xab 0 1000",
        "read -P 0xcd 1000 3000",
        "write -z 64k 64k",
        "write -z -u 256k 128k",
        "write -f -P 0x11 16M 128k",
        "discard 16M 64k",
        "aio_write -P 0x22 20M 64k",
        "aio_write -P 0x33 21M 64k",
        "aio_flush",
        "flush",
    ];
    io(at.way, "io", &commands)?;
    // Another connection sees what the first one left.
    let verify = [
        "read -P 0xab 0 1000",
        "read -P 0xcd 1000 3000",
        "read -P 0 64k 64k",
        "read -P 0xab 128k 128k",
        "read -P 0 256k 128k",
        "read -P 0 16M 64k",
        "read -P 0x11 16448k 64k",
        "read -P 0x22 20M 64k",
        "read -P 0x33 21M 64k",
    ];
    io(at.way, "io", &verify)?;
    Ok(format!("{} commands", commands.len() + verify.len()))
}

/// The connection is cut again and again under a client that has written and not flushed; the
/// client reconnects, and everything acknowledged is there.
pub fn reconnect(at: &At<'_>) -> Result<String> {
    let relay = Relay::start(&at.place.join("relay"), &at.way.listen)?;
    let mut session = Session::start(at.way, relay.listen(), "cut", at.place)?;
    for cut in 0..CUTS {
        session.write_and_verify(cut)?;
        relay.cut();
    }
    session.write_and_verify(CUTS)?;
    session.end()?;
    let connections = relay.take_kept().len() as u64;
    ensure!(connections > CUTS, "only {connections} connections");
    for number in 0..=CUTS {
        io(at.way, "cut", &[&Session::read(number)])?;
    }
    Ok(format!("{CUTS} cuts, {connections} connections"))
}

/// A running qemu-io that gets its commands one by one.
pub struct Session {
    child: Child,
    /// Open until the end.
    commands: Option<ChildStdin>,
    output: std::path::PathBuf,
    /// Commands so far.
    given: usize,
}

impl Session {
    /// A session on the image for `row`, which it reaches at `listen`.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(way: &Way, listen: &Listen, row: &str, place: &Path) -> Result<Self> {
        let output = place.join("qemu-io.log");
        let log = File::create(&output)?;
        let image = way.qemu_image_at(listen, row);
        let mut command = system("qemu-io");
        command
            .args(way.qemu_objects())
            .arg("--image-opts")
            .arg(format!("{image},reconnect-delay={RECONNECT_SECONDS}"))
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut child = command.spawn().context("qemu-io")?;
        let commands = child.stdin.take();
        Ok(Self {
            child,
            commands,
            output,
            given: 0,
        })
    }

    /// Gives a command that ends with a line of operations per second, and waits for that.
    fn command(&mut self, command: &str) -> Result<()> {
        let commands = self.commands.as_mut().context("it has ended")?;
        writeln!(commands, "{command}")?;
        commands.flush()?;
        self.given += 1;
        let deadline = Instant::now() + CLIENT_LIMIT;
        loop {
            let output = fs::read_to_string(&self.output)?;
            judge(&output)?;
            if output.matches("ops/sec").count() >= self.given {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("qemu-io ended: {status}\n{}", tail(&output));
            }
            ensure!(
                Instant::now() < deadline,
                "{command} hangs\n{}",
                tail(&output)
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn read(number: u64) -> String {
        format!("read -P {} {}M 64k", number + 1, number + 1)
    }

    /// Writes what is `number`'s own, and reads it and what was written before.
    ///
    /// # Errors
    /// If anything failed or read back wrong.
    pub fn write_and_verify(&mut self, number: u64) -> Result<()> {
        if let Some(before) = number.checked_sub(1) {
            self.command(&Self::read(before))?;
        }
        self.command(&format!("write -P {} {}M 64k", number + 1, number + 1))
    }

    /// Ends qemu-io.
    ///
    /// # Errors
    /// If it does not end with success.
    pub fn end(mut self) -> Result<()> {
        let mut commands = self.commands.take().context("it has ended")?;
        writeln!(commands, "flush")?;
        // It waits for input although it has read more than one line: the end of input wakes it.
        drop(commands);
        let status = wait_within(&mut self.child, CLIENT_LIMIT)?.context("qemu-io hangs")?;
        let output = fs::read_to_string(&self.output)?;
        ensure!(status.success(), "qemu-io: {status}\n{}", tail(&output));
        judge(&output)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped_already = self.child.wait();
    }
}

/// `qemu-nbd` attaches and serves the image to another client.
pub fn in_front(at: &At<'_>) -> Result<String> {
    let socket = at.place.join("qemu-nbd");
    let mut server = system("qemu-nbd");
    server.args(["--shared=4", "--persistent", "--discard=unmap", "--socket"]);
    server.arg(&socket).args(at.way.qemu_objects());
    server.args(["--image-opts", &at.way.qemu_image("qnbd")]);
    let log = File::create(at.place.join("qemu-nbd.log"))?;
    let mut server = server.stdout(log.try_clone()?).stderr(log).spawn()?;
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    let script = "h.pwrite(b'b' * 8192, 8192); h.trim(4096, 8192); h.flush()\n\
        assert h.pread(8192, 8192) == bytes(4096) + b'b' * 4096\n\
        extents = []\n\
        h.block_status(16384, 0, lambda context, offset, entries, error: extents.extend(entries))\n\
        assert extents == [12288, 3, 4096, 0], extents";
    let deadline = Instant::now() + CLIENT_LIMIT;
    while !socket.exists() && server.try_wait()?.is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    let done = nbdsh(&uri, script);
    server.kill()?;
    server.wait()?;
    let log = || fs::read_to_string(at.place.join("qemu-nbd.log")).unwrap_or_default();
    done.with_context(log)?;
    Ok("read, written, trimmed, mapped through it".to_owned())
}
