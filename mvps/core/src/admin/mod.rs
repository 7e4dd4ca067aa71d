//! Operations on images by an operator: takeover, adopt, show, list.
//!
//! Each is one plain function over the object store that returns values for the command line to
//! print; those that serialise are its JSON output.
//!
//! Must never: touch a buffer store other than to adopt it, or repeat a takeover against a server
//! that the operator did not see.

mod adopt;
mod report;
mod takeover;

#[cfg(test)]
mod tests;

pub use adopt::{Adopted, adopt};
pub use report::{ImageReport, ImageRow, PinReport, SnapshotReport, TakeoverReport, list, show};
pub use takeover::{TakeoverOutcome, takeover};

use crate::engine::protocol::{ManifestError, OpenError, PublishError};
use crate::env::{BufferError, StoreError};
use crate::ids::{ImageId, Lsn};

/// Why an operation was not done. Every text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// There is no such image.
    #[error("image {image} does not exist: check its name, the bucket and the prefix")]
    NoSuchImage {
        /// The image.
        image: ImageId,
    },
    /// It was deleted.
    #[error("image {image} was deleted")]
    Deleted {
        /// The image.
        image: ImageId,
    },
    /// The object store did not answer, or refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A manifest cannot be read.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// It is not known whether the publication happened.
    #[error("{source}. Run the same command again to find out")]
    Publish {
        /// What went wrong.
        #[from]
        source: PublishError,
    },
    /// Another server took office while the command ran.
    #[error(
        "image {image} was opened by {owner} while this command ran, and nothing was done: look at \
         `mvps image show {image}` and run the command again if you mean that server"
    )]
    OwnerChanged {
        /// The image.
        image: ImageId,
        /// Who has it now.
        owner: String,
    },
    /// Too many others published meanwhile.
    #[error("image {image} changes faster than this command can publish: run it again")]
    Contended {
        /// The image.
        image: ImageId,
    },
    /// There is no buffer store to adopt.
    #[error("there is no buffer store of image {image} at {location}")]
    NoBufferStore {
        /// The image.
        image: ImageId,
        /// Where it would be.
        location: String,
    },
    /// The buffer store cannot be opened.
    #[error(transparent)]
    Buffer(#[from] BufferError),
    /// Taking office for the buffer store failed.
    #[error("{0}")]
    Open(OpenError),
    /// The image is in office, so nobody can be let in.
    #[error(
        "image {image} is in the hands of {owner}. Stop that server, which leaves the image clean, \
         or run `mvps image takeover {image}` if it is gone for good; then adopt again"
    )]
    InOffice {
        /// The image.
        image: ImageId,
        /// Who has it.
        owner: String,
    },
    /// The buffer store does not fit onto what the image is now.
    #[error(
        "the buffer store {location} ends at LSN {buffer} of another history than image {image}, \
         whose last checkpoint is at LSN {image_lsn}: it cannot be adopted. Move it away"
    )]
    OtherHistory {
        /// The image.
        image: ImageId,
        /// Where the buffer store is.
        location: String,
        /// The buffer store's last LSN.
        buffer: Lsn,
        /// The image's.
        image_lsn: Lsn,
    },
}

/// A server's name for itself, or what to say of one that has none.
fn named(owner: &str) -> String {
    match owner {
        "" => "a server that did not name itself".to_owned(),
        owner => owner.to_owned(),
    }
}
