//! What stands in a document for something that every machine has otherwise. Pure.
//!
//! Invariant: nothing else of a block is changed before it is run.

/// Values for one section.
#[derive(Debug, Clone)]
pub struct Placeholders {
    pairs: Vec<(String, String)>,
}

/// Ports that documents print: the default one, and one for a second server.
pub const PORTS: [&str; 2] = ["10809", "10810"];

/// Directories of the system that documents print; here they are below the section's own.
const DIRECTORIES: [&str; 3] = ["/var/lib/mvps", "/run/mvps", "/etc/mvps"];

impl Placeholders {
    /// Those of a section that runs in `directory`, with these ports.
    pub fn new(directory: &str, ports: [u16; 2]) -> Self {
        let ports = PORTS.iter().zip(ports);
        let ports = ports.map(|(printed, port)| ((*printed).to_owned(), port.to_string()));
        let directories = DIRECTORIES.iter();
        let directories =
            directories.map(|printed| ((*printed).to_owned(), format!("{directory}{printed}")));
        Self {
            pairs: ports.chain(directories).collect(),
        }
    }

    /// Puts an S3 server in place of the one that documents print.
    pub fn add_s3(&mut self, endpoint: &str, bucket: &str, access_key: &str, secret_key: &str) {
        for (printed, value) in [
            ("https://s3.example.com", endpoint),
            ("my-disks", bucket),
            ("my-access-key", access_key),
            ("my-secret-key", secret_key),
        ] {
            self.pairs.push((printed.to_owned(), value.to_owned()));
        }
    }

    /// `text` with the values in their places.
    pub fn fill(&self, text: &str) -> String {
        let fill = |text: String, (printed, value): &(String, String)| text.replace(printed, value);
        self.pairs.iter().fold(text.to_owned(), fill)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_listed_is_replaced() {
        let mut here = Placeholders::new("/tmp/x", [7001, 7002]);
        here.add_s3("http://127.0.0.1:9000", "b", "k", "s");
        for (printed, run) in [
            (
                "nbdinfo nbd://127.0.0.1:10809/x",
                "nbdinfo nbd://127.0.0.1:7001/x",
            ),
            (
                "mvps --listen 127.0.0.1:10810",
                "mvps --listen 127.0.0.1:7002",
            ),
            (
                "ls /var/lib/mvps/buffer /run/mvps",
                "ls /tmp/x/var/lib/mvps/buffer /tmp/x/run/mvps",
            ),
            (
                "S3_ENDPOINT=https://s3.example.com",
                "S3_ENDPOINT=http://127.0.0.1:9000",
            ),
            ("mvps-gc --bucket my-disks", "mvps-gc --bucket b"),
            ("mvps token --image disk0", "mvps token --image disk0"),
        ] {
            assert_eq!(here.fill(printed), run);
        }
    }
}
