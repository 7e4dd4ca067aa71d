//! `mvps image adopt IMAGE`: lets the buffer store of a server that was taken over back in, with
//! everything it holds, as long as nothing was committed since (protocol §2, end).

use crate::env::BufferStores;
use crate::format::manifest::ImageState;
use crate::ids::ImageId;
use crate::protocol::{Activation, OPEN_ATTEMPTS_MAX, Opener, OpeningError};

use super::{AdminError, named};

/// A buffer store whose server is the active writer again.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Adopted {
    /// The image.
    pub image: String,
    /// The version that made it the active writer.
    pub version: u64,
    /// The LSN of the last checkpoint.
    pub checkpoint_lsn: u64,
    /// The last LSN that the buffer store holds, which a server will continue from.
    pub buffer_lsn: u64,
    /// It was the active writer already; nothing was published.
    pub was_active: bool,
}

/// Locks the buffer store of the image, checks that the image's newest manifest is clean and
/// continues in it, and makes it the active writer without serving. A server started on it
/// afterwards opens the image in the ordinary way.
///
/// # Errors
/// [`AdminError`].
pub async fn adopt(
    opener: &Opener<'_>,
    buffers: &dyn BufferStores,
    image: &ImageId,
) -> Result<Adopted, AdminError> {
    let location = buffers.location(image);
    let mut recovered = buffers.open(image).await?;
    if recovered.metadata.is_none() {
        return Err(AdminError::NoBufferStore {
            image: image.clone(),
            location,
        });
    }
    let mut activation =
        Activation::begin(opener, &mut recovered, image, &location).map_err(AdminError::Open)?;
    for _ in 0..OPEN_ATTEMPTS_MAX {
        let found = opener.manifests.newest(image).await?;
        let newest = found.ok_or_else(|| AdminError::NoSuchImage {
            image: image.clone(),
        })?;
        let image = image.clone();
        let buffer = activation.buffer();
        let adopted = |version: u64, was_active| Adopted {
            image: newest.image.to_string(),
            version,
            checkpoint_lsn: newest.lsn.0,
            buffer_lsn: buffer.last_lsn.max(newest.lsn).0,
            was_active,
        };
        if matches!(newest.state, ImageState::Tombstone | ImageState::Abandoned) {
            return Err(AdminError::Deleted { image });
        }
        if buffer.owns(newest.tenure) && buffer.last_lsn >= newest.lsn {
            return Ok(adopted(newest.version.0, true));
        }
        if newest.state != ImageState::Clean {
            let owner = named(&newest.owner);
            return Err(AdminError::Active { image, owner });
        }
        if !buffer.continues(&newest) {
            return Err(AdminError::OtherHistory {
                image,
                buffer: buffer.last_lsn,
                image_lsn: newest.lsn,
                location,
            });
        }
        let done = adopted(newest.version.next().0, false);
        let body = activation.compose_open(&newest, newest.size_bytes);
        if activation
            .attempt(body, false)
            .await
            .map_err(AdminError::Open)?
            .is_some()
        {
            return Ok(done);
        }
    }
    Err(AdminError::Open(OpeningError::Contended))
}
