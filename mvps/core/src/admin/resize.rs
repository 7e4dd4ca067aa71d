//! `mvps image resize` of an image that has no active writer. The server of an open image grows it
//! itself. Images do not shrink: their maps may have pages there.

use crate::format::manifest::{ImageState, Manifest};
use crate::ids::ImageId;
use crate::protocol::{compose_resize, leave_mark, next_tenure};

use super::publishing::Step;
use super::{Admin, AdminError, named};

/// An image that has its size.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Resized {
    /// Its name.
    pub image: String,
    /// The size it had.
    pub from_bytes: u64,
    /// The size it has.
    pub size_bytes: u64,
}

/// Grows a clean image to `size_bytes`.
///
/// # Errors
/// [`AdminError`].
pub async fn resize(
    admin: &Admin<'_>,
    image: &ImageId,
    size_bytes: u64,
) -> Result<Resized, AdminError> {
    let step = |newest: &Manifest, mark| {
        check_size(newest, size_bytes)?;
        let done = Resized {
            image: image.to_string(),
            from_bytes: newest.size_bytes,
            size_bytes,
        };
        if newest.size_bytes == size_bytes {
            return Ok(Step::Done(done));
        }
        if newest.state != ImageState::Clean {
            return Err(AdminError::NotClean {
                image: image.clone(),
                owner: named(&newest.owner),
                advice: "run this with the --buffer-store-path of that server, so that it grows \
                         the image itself, or let it close the image first",
            });
        }
        let tenure = next_tenure(Some(newest), admin.entropy);
        let mut body = compose_resize(newest, size_bytes, tenure, admin.clock.wall())?;
        leave_mark(&mut body, mark);
        Ok(Step::Publish(Box::new(body), done))
    };
    let (_, done) = admin.publish(image, step).await?;
    Ok(done)
}

fn check_size(newest: &Manifest, wanted_bytes: u64) -> Result<(), AdminError> {
    let image = newest.image.clone();
    let page_bytes = newest.page_size.bytes() as u64;
    if wanted_bytes < newest.size_bytes {
        return Err(AdminError::Shrink {
            image,
            size_bytes: newest.size_bytes,
            wanted_bytes,
        });
    }
    if !wanted_bytes.is_multiple_of(page_bytes) {
        return Err(AdminError::InvalidSize {
            image,
            wanted_bytes,
            page_bytes,
        });
    }
    Ok(())
}
