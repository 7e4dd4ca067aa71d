//! What a server process is told, how it is doing, and what each does when it opens an image, however
//! clients talk to it.

use mvps_core::engine::{EngineError, Image, Intent, OpeningRequest};
use tokio::sync::watch;

use crate::environment::machine::{Process, Site};

/// How a server is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// It opens the image, and becomes the active writer.
    Opening,
    /// Clients use it.
    Serving,
    /// The protocol does not let it in.
    Refused(String),
    /// It is of no more use.
    Failed(String),
    /// It closed the image.
    Closed,
}

/// What a server is told to do.
pub struct Orders {
    /// Clients end, and the image is closed.
    pub stop: watch::Receiver<bool>,
    /// Every error is a failure.
    pub strict: bool,
}

/// What every server asks for.
#[must_use]
pub fn opening_request(site: &Site) -> OpeningRequest {
    OpeningRequest {
        image: site.image.clone(),
        page_size: site.plan.page_size,
        image_size_bytes: Some(site.plan.size_bytes()),
        intent: Intent::CreateOrGrow,
    }
}

/// Reads the whole image as it was opened, and lets the model compare.
pub(super) async fn read_back(
    site: &Site,
    process: &Process,
    image: &Image,
) -> Result<(), EngineError> {
    let attachment = image.attach();
    let (size, step) = (site.plan.size_bytes(), 1 << 20);
    let mut offset = 0;
    while offset < size {
        let length = u32::try_from(step.min(size - offset)).expect("a small step");
        let window = site.model.read_back(&process.name);
        let bytes = attachment.read(offset, length).await?.into_bytes();
        site.model
            .read_returned(&process.name, window, offset, &bytes);
        offset += u64::from(length);
    }
    site.journal
        .note(&process.name, format_args!("the whole image reads well"));
    Ok(())
}
