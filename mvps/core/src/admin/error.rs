//! Why an operation was not done.

use crate::encryption::KeyError;
use crate::env::{BufferError, StoreError};
use crate::ids::{ImageId, Lsn, Version};
use crate::protocol::{ManifestError, OpeningError, PublishError, RuleBroken};

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
    /// Another server became the active writer while the command ran.
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
    /// Becoming the active writer for the buffer store failed.
    #[error("{0}")]
    Open(OpeningError),
    /// The image has an active writer, so nobody can be let in.
    #[error(
        "image {image} is in the hands of {owner}. Stop that server, which leaves the image clean, \
         or run `mvps image takeover {image}` if it is gone for good; then adopt again"
    )]
    Active {
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
    /// It has no such snapshot.
    #[error("image {image} has no snapshot {name}: look at `mvps snapshot list {image}`")]
    NoSuchSnapshot {
        /// The image.
        image: ImageId,
        /// The name.
        name: String,
    },
    /// The snapshot's name is taken.
    #[error(
        "image {image} has a snapshot {name} already, of version {version}: take another name, or \
         delete that one first with `mvps snapshot delete {image}@{name}`"
    )]
    SnapshotExists {
        /// The image.
        image: ImageId,
        /// The name.
        name: String,
        /// What it names.
        version: Version,
    },
    /// Not a snapshot's name.
    #[error(
        "{name:?} is not a snapshot's name: use A-Z a-z 0-9 . _ -, beginning with a letter or digit"
    )]
    InvalidSnapshotName {
        /// What was given.
        name: String,
    },
    /// Somebody reads the snapshot, or a clone was made of it.
    #[error(
        "snapshot {name} of image {image} is pinned by {holders}. What they need stays either way; \
         --force deletes the name"
    )]
    SnapshotPinned {
        /// The image.
        image: ImageId,
        /// The name.
        name: String,
        /// By whom.
        holders: String,
    },
    /// The version is not kept any more, or never was.
    #[error(
        "image {image} does not keep version {version}: `mvps image versions {image}` lists what \
         it keeps"
    )]
    VersionGone {
        /// The image.
        image: ImageId,
        /// The version.
        version: Version,
    },
    /// The image has an active writer, and only that may do this.
    #[error("image {image} is in the hands of {owner}: {advice}")]
    NotClean {
        /// The image.
        image: ImageId,
        /// Who has it.
        owner: String,
        /// What to do.
        advice: &'static str,
    },
    /// The name of a clone is taken.
    #[error("image {image} exists already: choose another name for the clone, or delete it first")]
    TargetExists {
        /// The name.
        image: ImageId,
    },
    /// An image is not a clone of itself.
    #[error("a clone of {image} needs a name of its own")]
    SameName {
        /// The name.
        image: ImageId,
    },
    /// Somebody else took the clone's name meanwhile.
    #[error(
        "the name {image} was taken while this command ran, and no clone was made: run it again"
    )]
    TargetTaken {
        /// The name.
        image: ImageId,
    },
    /// What a clone would share was let go while the clone was made.
    #[error(
        "image {image} does not keep what {origin} shares with it any more, and no clone was made: \
         run `mvps check`, and report this if it finds {origin} damaged"
    )]
    NotProtected {
        /// Whose objects they are.
        image: ImageId,
        /// The image that was to be cloned.
        origin: ImageId,
    },
    /// Images do not shrink.
    #[error(
        "image {image} has {size_bytes} bytes and cannot shrink to {wanted_bytes}: clients may \
         hold data there. Make a smaller image and copy what it is to hold"
    )]
    Shrink {
        /// The image.
        image: ImageId,
        /// Its size.
        size_bytes: u64,
        /// The size that was asked for.
        wanted_bytes: u64,
    },
    /// Not a size of this image.
    #[error("{wanted_bytes} bytes are no multiple of the page size of {image}, {page_bytes} bytes")]
    InvalidSize {
        /// The image.
        image: ImageId,
        /// The size that was asked for.
        wanted_bytes: u64,
        /// The page size.
        page_bytes: u64,
    },
    /// There is no such pin.
    #[error(
        "no reader {reader} pins image {image}, or only the one that runs here: look at `mvps image \
         pins {image}`"
    )]
    NoSuchReader {
        /// The image.
        image: ImageId,
        /// The name of a pin, a life or a stable id.
        reader: String,
    },
    /// A data key that is needed cannot be had.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The result must not be published.
    #[error("nothing was changed: {0}")]
    Broken(#[from] RuleBroken),
}
