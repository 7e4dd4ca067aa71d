//! Published versions as the session layer serves them: its own export, with its own pins. The
//! model learns when one is open, and before it is let go.

use std::sync::Arc;

use mvps_core::admin::ReaderLife;
use mvps_core::engine::{EngineError, Since};
use mvps_core::ids::{ImageId, PageSize, Version};
use mvps_core::session::{
    EngineImages, ImageFacts, Images, OpenFailure, OpenImage, ServedDisk, ServedImage,
};
use mvps_core::token::Grant;

use super::reader_group::ReaderGroup;
use crate::environment::machine::Site;

/// Who reads which image.
pub struct Reader {
    /// The image.
    pub site: Arc<Site>,
    /// The process.
    pub name: String,
    /// Its life, in whose name it pins.
    pub life: ReaderLife,
    /// The other processes with its reader id.
    pub group: Arc<ReaderGroup>,
}

impl Reader {
    /// Whether lives of its line that ended have left pins behind.
    fn has_outlived_pins(&self) -> bool {
        let life = self.life.to_string();
        let (line, _) = life.rsplit_once('.').expect("a life is of a line");
        let pins = self.site.model.reader_pins();
        pins.iter()
            .any(|name| name.starts_with(line) && !name.starts_with(&life))
    }

    fn ends(&self) {
        self.site.model.reader_ended(&self.name);
        self.group.ends(&self.name);
    }
}

/// The images of a process that reads versions.
pub struct VersionImages {
    /// Who reads.
    pub reader: Arc<Reader>,
    /// The session layer's own.
    pub engine: EngineImages,
}

/// An open version.
#[derive(Clone)]
pub struct ReadVersion {
    reader: Arc<Reader>,
    served: ServedImage,
}

impl Images for VersionImages {
    type Image = ReadVersion;

    async fn open(&self, grant: &Grant) -> Result<ReadVersion, OpenFailure> {
        let has_outlived_pins = self.reader.has_outlived_pins();
        let served = self.engine.open(grant).await?;
        let ServedImage::Version(export) = &served else {
            unreachable!("readers ask for versions");
        };
        let (reader, version) = (&*self.reader, export.version());
        let (site, name) = (&reader.site, &reader.name);
        let life = reader.life.to_string();
        site.model
            .reader_pinned(name, &life, version.version(), version.size_bytes());
        reader.group.begins(name, &site.image);
        if has_outlived_pins && !reader.has_outlived_pins() {
            let journal = &site.journal;
            journal.mark("a pin was taken over from an earlier life");
        }
        site.journal.note(
            name,
            format_args!("reads version {} of {}", version.version(), site.image),
        );
        Ok(ReadVersion {
            reader: Arc::clone(&self.reader),
            served,
        })
    }

    fn look(
        &self,
        grant: &Grant,
    ) -> impl Future<Output = Result<Option<ImageFacts>, OpenFailure>> + Send {
        self.engine.look(grant)
    }

    async fn retains(&self, image: &ImageId, since: &Since) -> Result<bool, OpenFailure> {
        self.engine.retains(image, since).await
    }

    async fn list_retained(
        &self,
        image: &ImageId,
        versions_max: usize,
    ) -> Result<Vec<Since>, OpenFailure> {
        self.engine.list_retained(image, versions_max).await
    }
}

impl OpenImage for ReadVersion {
    type Disk = ServedDisk;

    fn page_size(&self) -> PageSize {
        self.served.page_size()
    }

    fn size_bytes(&self) -> u64 {
        self.served.size_bytes()
    }

    fn attach(&self) -> ServedDisk {
        self.served.attach()
    }

    async fn grow(&self, size_bytes: u64) -> Result<(), EngineError> {
        self.served.grow(size_bytes).await
    }

    async fn checkpoint(&self) -> Result<Version, EngineError> {
        self.served.checkpoint().await
    }

    async fn is_settled(&self) -> bool {
        self.served.is_settled().await
    }

    async fn close(&self) -> Result<(), EngineError> {
        self.reader.ends();
        self.served.close().await
    }
}
