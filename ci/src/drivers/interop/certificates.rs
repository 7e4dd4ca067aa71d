//! Certificates for the checks of TLS, and how clients are told of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::scripts::tool;
use crate::rig::daemon::Listen;
use crate::rig::machine::as_root;

/// The name in the clients' certificate.
pub const CLIENT: &str = "host-1";

/// Certificates of one authority, under the names that libnbd and QEMU look for.
pub struct Authority {
    directory: PathBuf,
}

impl Authority {
    /// Makes an authority, and what it signs for a server and for a client.
    ///
    /// # Errors
    /// If openssl fails.
    pub fn new(directory: PathBuf) -> Result<Self> {
        fs::create_dir_all(&directory)?;
        let authority = Self { directory };
        let (key, cert) = (authority.file("ca-key.pem"), authority.file("ca-cert.pem"));
        openssl(&format!(
            "req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=mvps-ci -keyout {key} -out {cert} \
             -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign"
        ))?;
        authority.sign("server", "subjectAltName=DNS:localhost,IP:127.0.0.1")?;
        authority.sign("client", &format!("subjectAltName=DNS:{CLIENT}"))?;
        Ok(authority)
    }

    /// The path of one of its files.
    pub fn file(&self, name: &str) -> String {
        self.directory.join(name).to_string_lossy().into_owned()
    }

    fn sign(&self, who: &str, names: &str) -> Result<()> {
        let (ca, ca_key) = (self.file("ca-cert.pem"), self.file("ca-key.pem"));
        let (request, extensions) = (self.file("request.pem"), self.file("extensions"));
        let (key, cert) = (
            self.file(&format!("{who}-key.pem")),
            self.file(&format!("{who}-cert.pem")),
        );
        openssl(&format!(
            "req -newkey rsa:2048 -nodes -subj /CN={who} -keyout {key} -out {request}"
        ))?;
        fs::write(&extensions, format!("{names}\nbasicConstraints=CA:FALSE\n"))?;
        openssl(&format!(
            "x509 -req -in {request} -CA {ca} -CAkey {ca_key} -CAcreateserial -days 30 \
             -extfile {extensions} -out {cert}"
        ))
    }

    /// Copies of what a client without a certificate of its own needs.
    ///
    /// # Errors
    /// If they cannot be made.
    pub fn without_client(&self) -> Result<Self> {
        let directory = self.directory.join("anonymous");
        fs::create_dir_all(&directory)?;
        fs::copy(self.file("ca-cert.pem"), directory.join("ca-cert.pem"))?;
        Ok(Self { directory })
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The URI of `token` over TLS, for a libnbd client that uses these files as its own.
    pub fn uri(&self, listen: &Listen, token: &str) -> String {
        let directory = self.directory.display();
        match listen {
            Listen::Tcp(address) => {
                format!("nbds://{address}/{token}?tls-certificates={directory}")
            }
            Listen::Unix(path) => format!(
                "nbds+unix:///{token}?socket={}&tls-certificates={directory}",
                path.display()
            ),
        }
    }

    /// The URI of `token` over TLS, for a libnbd client that lets a URI name no files; it must run
    /// [`Self::as_of_root`].
    pub fn uri_without_files(&self, listen: &Listen, token: &str) -> String {
        listen.uri(token).replacen("nbd", "nbds", 1)
    }

    /// `inner`, run where these files are those that libnbd looks for when root runs it: below
    /// `/etc`, which is a view of its own for this one command.
    pub fn as_of_root(&self, inner: &Command) -> Command {
        let shell = "mount -t tmpfs none /mnt && mkdir -p /mnt/up/pki/libnbd /mnt/work && \
            cp \"$0\"/*.pem /mnt/up/pki/libnbd && \
            mount -t overlay none -o lowerdir=/etc,upperdir=/mnt/up,workdir=/mnt/work /etc && \
            exec \"$@\"";
        let mut outer = as_root("unshare");
        outer.args(["--mount", "bash", "-c", shell]);
        outer.arg(&self.directory);
        outer.arg(inner.get_program()).args(inner.get_args());
        outer
    }

    /// The object that [`Self::qemu_image`] names.
    pub fn qemu_object(&self) -> String {
        let directory = self.directory.display();
        format!("tls-creds-x509,id=tls0,endpoint=client,dir={directory}")
    }

    /// What QEMU's tools take in place of a URI.
    pub fn qemu_image(&self, listen: &Listen, token: &str) -> String {
        let image = qemu_image(listen, token);
        format!("{image},tls-creds=tls0,tls-hostname=localhost")
    }
}

/// What QEMU's tools take in place of a URI, in the clear.
pub fn qemu_image(listen: &Listen, token: &str) -> String {
    let place = match listen {
        Listen::Tcp(address) => format!("host={},port={}", address.ip(), address.port()),
        Listen::Unix(path) => format!("path={}", path.display()),
    };
    format!("driver=nbd,{place},export={token}")
}

fn openssl(line: &str) -> Result<()> {
    let words: Vec<&str> = line.split_whitespace().collect();
    tool("openssl", &words).map(drop)
}
