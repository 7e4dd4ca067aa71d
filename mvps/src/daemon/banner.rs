//! What the embedded default prints: a ready token, and lines to paste.
//!
//! Goes to stdout, never to the log: whoever reads it can use the disk.

use std::fmt::Write as _;

use mvps_core::env::Address;

/// The image that the printed token is for.
pub const EMBEDDED_IMAGE: &str = "disk0";

/// Its size.
pub const EMBEDDED_IMAGE_BYTES: u64 = 10 << 30;

/// What to paste where.
#[must_use]
pub fn banner(address: &Address, token: &str, folder: &str) -> String {
    let uri = uri(address, token);
    let mut text = format!(
        "\nmvps serves {folder} (no flag names another store).\n\n\
         token for image {EMBEDDED_IMAGE}, 10 GiB, good for 30 days:\n  {token}\n\n\
         URI:\n  {uri}\n\n\
         look at it:\n  nbdinfo '{uri}'\n\n"
    );
    let mut part = |title: &str, lines: &[String]| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{title}:\n  {}\n", lines.join("\n  "));
    };
    part(
        "attach it to this machine",
        &[
            "sudo modprobe nbd".to_owned(),
            nbd_client(address, token),
            "sudo mkfs.ext4 /dev/nbd0 && sudo mount /dev/nbd0 /mnt".to_owned(),
            "sudo umount /mnt && sudo nbd-client -d /dev/nbd0    # detach".to_owned(),
        ],
    );
    part(
        "copy a disk into it, or boot from it",
        &[
            format!("qemu-img convert -n -O raw disk.qcow2 '{uri}'"),
            format!(
                "qemu-system-x86_64 -m 2G -drive 'file={uri},format=raw,if=virtio,discard=unmap'"
            ),
        ],
    );
    part(
        "other tokens",
        &["mvps token --image disk1 --size 20GiB    # from this folder".to_owned()],
    );
    text
}

/// The NBD URI of an export at an address.
#[must_use]
pub fn uri(address: &Address, token: &str) -> String {
    match address {
        Address::Tcp(host_port) => format!("nbd://{host_port}/{token}"),
        Address::Unix(path) => format!("nbd+unix:///{token}?socket={}", path.display()),
    }
}

fn nbd_client(address: &Address, token: &str) -> String {
    match address {
        Address::Tcp(host_port) => {
            let (host, port) = host_port.rsplit_once(':').unwrap_or((host_port, "10809"));
            let host = host.trim_start_matches('[').trim_end_matches(']');
            format!("sudo nbd-client -N {token} {host} {port} /dev/nbd0")
        }
        Address::Unix(path) => {
            format!("sudo nbd-client -N {token} -u {} /dev/nbd0", path.display())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_to_paste_name_address_and_token() {
        let tcp = Address::Tcp("127.0.0.1:10809".to_owned());
        let text = banner(&tcp, "a.b.c", "./mvps-data");
        for expected in [
            "  a.b.c\n",
            "nbdinfo 'nbd://127.0.0.1:10809/a.b.c'",
            "nbd-client -N a.b.c 127.0.0.1 10809 /dev/nbd0",
            "qemu-img convert -n -O raw disk.qcow2 'nbd://127.0.0.1:10809/a.b.c'",
            "-drive 'file=nbd://127.0.0.1:10809/a.b.c,format=raw",
        ] {
            assert!(text.contains(expected), "{expected} is not in:\n{text}");
        }
        let unix = Address::Unix("/run/mvps.sock".into());
        let text = banner(&unix, "a.b.c", "./mvps-data");
        for expected in [
            "nbd+unix:///a.b.c?socket=/run/mvps.sock",
            "nbd-client -N a.b.c -u /run/mvps.sock /dev/nbd0",
        ] {
            assert!(text.contains(expected), "{expected} is not in:\n{text}");
        }
    }
}
