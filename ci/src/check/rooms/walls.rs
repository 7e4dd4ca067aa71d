//! The walls: the houses, their rooms, and what each room may import. Edit this table when a room
//! is made or a wall is moved on purpose; `cargo ci check --report` prints what every room imports
//! now.
//!
//! Rooms are listed from the bottom to the top.

/// A crate, or one directory of it.
#[derive(Debug)]
pub struct House {
    /// Its name in findings and reports.
    pub name: &'static str,
    /// The crate's root module.
    pub crate_root: &'static str,
    /// Where its rooms are: a file or a directory here is a room, called so without `.rs`.
    pub directory: &'static str,
    /// Directories here that are no rooms themselves: what is in them is, called `directory/name`.
    pub corridors: &'static [&'static str],
    /// Its rooms.
    pub rooms: &'static [Room],
}

/// A room.
#[derive(Debug)]
pub struct Room {
    /// Its name; `corridor/*` for all rooms of a corridor that are not named themselves.
    pub name: &'static str,
    /// What it may import: rooms, all rooms of a corridor (`corridor/*`), or single files
    /// (`room/file`).
    pub may_import: &'static [&'static str],
}

const fn room(name: &'static str, may_import: &'static [&'static str]) -> Room {
    Room { name, may_import }
}

/// All houses.
pub const HOUSES: &[House] = &[CORE, ENGINE, CI];

/// mvps → session → engine, admin, collector, check → protocol → reachability → format; `nbd` and
/// `format` know no environment (but for the time of a clock as a value).
const CORE: House = House {
    name: "mvps-core",
    crate_root: "mvps/core/src/lib.rs",
    directory: "mvps/core/src",
    corridors: &[],
    rooms: &[
        room("content", &[]),
        room("ids", &[]),
        room("mutant", &[]),
        room("nbd", &["content"]),
        room("env", &["ids"]),
        room("content_log", &["env", "ids", "mutant"]),
        room("frame_cache", &["env", "ids", "mutant"]),
        room("encryption", &["env", "ids", "mutant"]),
        room("format", &["encryption", "env/clock", "ids", "mutant"]),
        room("token", &["env", "ids", "nbd"]),
        room("transport", &["nbd"]),
        room("reachability", &["format", "ids", "mutant"]),
        room("store", &["env", "mutant"]),
        room("object_reads", &["env", "format", "ids", "store"]),
        room(
            "protocol",
            &[
                "encryption",
                "env",
                "format",
                "ids",
                "mutant",
                "object_reads",
                "reachability",
                "store",
            ],
        ),
        room(
            "engine",
            &[
                "content",
                "encryption",
                "env",
                "format",
                "ids",
                "mutant",
                "nbd/limits",
                "object_reads",
                "protocol",
                "reachability",
                "store",
            ],
        ),
        room(
            "admin",
            &[
                "encryption",
                "env",
                "format",
                "ids",
                "mutant",
                "object_reads",
                "protocol",
                "reachability",
                "store",
                "token",
            ],
        ),
        room(
            "collector",
            &[
                "env",
                "format",
                "ids",
                "mutant",
                "object_reads",
                "protocol",
                "reachability",
                "store",
            ],
        ),
        room(
            "check",
            &[
                "encryption",
                "env",
                "format",
                "ids",
                "object_reads",
                "protocol",
                "reachability",
                "store",
            ],
        ),
        room("client", &["content", "env", "nbd", "transport"]),
        room(
            "session",
            &[
                "content",
                "admin",
                "encryption",
                "engine",
                "env",
                "format",
                "ids",
                "mutant",
                "nbd",
                "protocol",
                "reachability",
                "token",
                "transport",
            ],
        ),
    ],
};

/// The image's task on top of what its handles ask, what publishes, what reads and what buffers.
const ENGINE: House = House {
    name: "engine",
    crate_root: "mvps/core/src/lib.rs",
    directory: "mvps/core/src/engine",
    corridors: &[],
    rooms: &[
        room("error", &[]),
        room("limits", &[]),
        room("reply", &["error"]),
        room("buffer", &["error"]),
        room("read", &["buffer", "error"]),
        room("transaction_budget", &[]),
        room("buffer_budget", &["buffer"]),
        room("memory_shares", &[]),
        room("upload_budget", &[]),
        room(
            "host",
            &[
                "buffer",
                "buffer_budget",
                "memory_shares",
                "read",
                "transaction_budget",
                "upload_budget",
            ],
        ),
        room(
            "publisher",
            &[
                "buffer",
                "error",
                "host",
                "limits",
                "read",
                "reply",
                "upload_budget",
            ],
        ),
        room("config", &["limits", "publisher"]),
        room("status", &["buffer_budget", "error", "publisher"]),
        room(
            "transaction",
            &[
                "buffer",
                "config",
                "error",
                "read",
                "reply",
                "transaction_budget",
            ],
        ),
        room(
            "request",
            &["buffer", "read", "reply", "status", "transaction"],
        ),
        room(
            "handle",
            &[
                "buffer",
                "config",
                "buffer_budget",
                "error",
                "host",
                "read",
                "reply",
                "request",
                "status",
                "transaction",
                "transaction_budget",
            ],
        ),
        room(
            "task",
            &[
                "buffer",
                "config",
                "buffer_budget",
                "error",
                "handle",
                "publisher",
                "read",
                "reply",
                "request",
                "status",
                "transaction",
            ],
        ),
        room(
            "open",
            &[
                "buffer",
                "config",
                "handle",
                "host",
                "publisher",
                "read",
                "task",
            ],
        ),
    ],
};

/// The commands on top of the drivers, the drivers on the model and the rig; no driver imports
/// another.
const CI: House = House {
    name: "ci",
    crate_root: "ci/src/main.rs",
    directory: "ci/src",
    corridors: &["drivers"],
    rooms: &[
        room("rig", &[]),
        room("model", &["rig"]),
        room("drivers/*", &["model", "rig"]),
        room("check", &["rig"]),
        room("evidence", &["rig"]),
        room("main", &["check", "drivers/*", "evidence", "rig"]),
    ],
};
