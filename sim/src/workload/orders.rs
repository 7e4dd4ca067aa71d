//! What a server process is told, how it is doing, and what each does when it opens an image, however
//! clients talk to it.

use mvps_core::engine::{Attachment, EngineError, Image, Intent, OpeningRequest};
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

/// How much is read at once.
const STEP_BYTES: u64 = 1 << 20;

async fn read_step(
    site: &Site,
    process: &Process,
    attachment: &Attachment,
    offset: u64,
    length: u64,
) -> Result<(), EngineError> {
    let window = site.model.read_back(&process.name);
    let length = u32::try_from(length).expect("a small step");
    let bytes = attachment.read(offset, length).await?.into_bytes();
    site.model
        .read_returned(&process.name, window, offset, &bytes);
    Ok(())
}

/// A large image is empty where nobody writes: it says so, and reads so at the ends of each gap.
async fn read_gaps(
    site: &Site,
    process: &Process,
    attachment: &Attachment,
) -> Result<(), EngineError> {
    let page = site.plan.page_size.bytes() as u64;
    for gap in site.plan.areas.gaps(attachment.image().size_bytes()) {
        let window = site.model.read_back(&process.name);
        let length = gap.end - gap.start;
        let extents = attachment.extents(gap.start, length, None, 4).await?;
        site.model
            .extents_returned(&process.name, window, gap.start, &extents);
        for offset in [gap.start, gap.end - page] {
            read_step(site, process, attachment, offset, page).await?;
        }
    }
    site.journal.mark("a large image was read back");
    Ok(())
}

/// Reads the whole image as it was opened, and lets the model compare.
pub(super) async fn read_back(
    site: &Site,
    process: &Process,
    image: &Image,
) -> Result<(), EngineError> {
    let attachment = image.attach();
    for area in site.plan.areas.byte_ranges() {
        let mut offset = area.start;
        while offset < area.end {
            let length = STEP_BYTES.min(area.end - offset);
            read_step(site, process, &attachment, offset, length).await?;
            offset += length;
        }
    }
    if site.plan.areas.is_sparse() {
        read_gaps(site, process, &attachment).await?;
    }
    site.journal
        .note(&process.name, format_args!("the whole image reads well"));
    Ok(())
}
