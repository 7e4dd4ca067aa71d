//! Operations on images by an operator, one file each: snapshots, clones, rollback, deletion,
//! growth, rekeying, pins, versions, takeover, adopt, show, list.
//!
//! Each is one plain function over the object store that returns values for the command line to
//! print; those that serialise are its JSON output. What changes something is a conditional
//! publication that was re-checked (`publishing`), so it can be cut off anywhere and run again.
//!
//! Must never: touch a buffer store other than to adopt it, repeat a takeover against a server
//! that the operator did not see, or release a clone's pin (only the collector can know that
//! nothing needs it).

mod adopt;
mod clone;
mod delete;
mod error;
mod pins;
mod publishing;
mod reader_life;
mod rekey;
mod report;
mod resize;
mod rollback;
mod snapshot;
mod takeover;
mod versions;

#[cfg(test)]
mod tests;

pub use adopt::{Adopted, adopt};
pub use clone::{Cloned, clone_image};
pub use delete::{Deleted, delete};
pub use error::AdminError;
pub(crate) use pins::release_pin;
pub use pins::{PinsReport, ReaderPinned, pin_version, pins, release_reader};
pub use publishing::Admin;
pub use reader_life::ReaderLife;
pub use rekey::{Rekeyed, rekey};
pub use report::{ImageReport, ImageRow, PinReport, SnapshotReport, TakeoverReport, list, show};
pub use resize::{Resized, resize};
pub use rollback::{RolledBack, resolve, roll_back};
pub use snapshot::{SnapshotCreated, SnapshotDeleted, create_snapshot, delete_snapshot, snapshots};
pub use takeover::{TakeoverOutcome, takeover};
pub use versions::{VersionReport, VersionsReport, versions};

/// A server's name for itself, or what to say of one that has none.
fn named(owner: &str) -> String {
    match owner {
        "" => "a server that did not name itself".to_owned(),
        owner => owner.to_owned(),
    }
}
