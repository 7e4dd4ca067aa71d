//! One object store, any number of servers with buffer stores of their own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::content_log::LogBufferStores;
use crate::engine::{
    Acknowledge, Attachment, Durability, EngineConfig, Host, Image, OpenError, open,
};
use crate::env::memory::testing::{TestClock, TestSpawner};
use crate::env::memory::{
    Crash, MemoryBufferStores, MemoryFiles, MemoryObjectStore, SeededEntropy, Verdict,
};
use crate::env::{BufferStores, Environment, OperationKind};
use crate::ids::{ImageId, PageSize};
use crate::protocol::{Intent, OpeningRequest};

pub const PAGE: usize = 4096;
pub const IMAGE_BYTES: u64 = 16 << 20;
pub const FLUSHED: Acknowledge = Acknowledge::Durable(Durability::Local);

/// The object store that all servers share.
pub struct World {
    pub objects: Arc<MemoryObjectStore>,
}

/// One server's machine: its buffer stores survive a crash of the server.
pub struct Machine {
    pub buffers: Arc<MemoryBufferStores>,
    pub host: Host,
    pub entropy: Arc<SeededEntropy>,
}

pub fn image() -> ImageId {
    ImageId::parse("disk0").expect("a valid name")
}

pub fn config() -> EngineConfig {
    // No test waits for a timer that it does not mean.
    EngineConfig {
        checkpoint_interval: Duration::from_secs(3600),
        ..EngineConfig::default()
    }
}

impl World {
    pub fn new() -> Self {
        Self {
            objects: Arc::new(MemoryObjectStore::new()),
        }
    }

    /// From now on no object arrives in the store, and who puts one waits.
    pub fn hang_uploads(&self) {
        self.objects.set_script(|operation| match operation.kind {
            OperationKind::Put | OperationKind::Create => Verdict::Hang,
            _ => Verdict::Serve,
        });
    }

    pub fn machine(&self, seed: u64) -> Machine {
        self.machine_with(seed, Arc::new(MemoryBufferStores::new()))
    }

    /// A machine whose buffer stores are content logs on `files`.
    pub fn machine_on(&self, seed: u64, files: &MemoryFiles) -> Machine {
        let entropy = Arc::new(SeededEntropy::new(seed));
        let logs = LogBufferStores::new(Arc::new(files.clone()), entropy);
        let mut machine = self.machine(seed);
        machine.host = Host::new(self.environment(seed, Arc::new(logs)), 64 << 20);
        machine
    }

    fn environment(&self, seed: u64, buffers: Arc<dyn BufferStores>) -> Environment {
        Environment {
            clock: Arc::new(TestClock::start()),
            entropy: Arc::new(SeededEntropy::new(seed)),
            spawner: Arc::new(TestSpawner),
            objects: self.objects.clone(),
            buffers,
        }
    }

    fn machine_with(&self, seed: u64, buffers: Arc<MemoryBufferStores>) -> Machine {
        let entropy = Arc::new(SeededEntropy::new(seed));
        let environment = Environment {
            entropy: entropy.clone(),
            ..self.environment(seed, buffers.clone())
        };
        Machine {
            buffers,
            host: Host::new(environment, 64 << 20),
            entropy,
        }
    }
}

impl Machine {
    pub async fn try_open(&self, config: EngineConfig) -> Result<Image, OpenError> {
        self.try_open_named(&image(), config).await
    }

    /// Opens an image of any name, or makes it.
    pub async fn try_open_named(
        &self,
        image: &ImageId,
        config: EngineConfig,
    ) -> Result<Image, OpenError> {
        let request = OpeningRequest {
            image: image.clone(),
            page_size: PageSize::from_bits(12).expect("12 is in range"),
            image_size_bytes: Some(IMAGE_BYTES),
            intent: Intent::CreateOrGrow,
        };
        open(&self.host, &request, config).await
    }

    /// Opens an image of any name that exists.
    pub async fn open_named(&self, image: &ImageId) -> Attachment {
        let request = OpeningRequest {
            image: image.clone(),
            page_size: PageSize::from_bits(12).expect("12 is in range"),
            image_size_bytes: None,
            intent: Intent::ExistingOnly,
        };
        let opened = open(&self.host, &request, config()).await;
        opened.expect("the image opens").attach()
    }

    pub async fn open(&self) -> Attachment {
        self.try_open(config())
            .await
            .expect("the image opens")
            .attach()
    }

    /// The server dies and is started again: tasks of the dead one hold dead handles.
    pub async fn crash(&self, crash: Crash) {
        self.buffers.crash(crash, &*self.entropy);
        settle().await;
    }
}

/// Lets everything that can run do so.
pub async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// A page full of `byte`.
pub fn page(byte: u8) -> Bytes {
    Bytes::from(vec![byte; PAGE])
}

pub async fn write(attachment: &Attachment, number: u64, byte: u8) {
    let offset = number * PAGE as u64;
    attachment
        .write(offset, page(byte), Acknowledge::Buffered)
        .await
        .expect("the write is acknowledged");
}

/// What a page holds, which is one byte throughout.
pub async fn read(attachment: &Attachment, number: u64) -> u8 {
    let content = attachment
        .read(number * PAGE as u64, PAGE as u32)
        .await
        .expect("the page can be read")
        .into_bytes();
    assert_eq!(content.len(), PAGE);
    assert!(
        content.iter().all(|byte| *byte == content[0]),
        "page {number} is mixed"
    );
    content[0]
}

pub async fn read_all(attachment: &Attachment, pages: std::ops::Range<u64>) -> Vec<u8> {
    let mut content = Vec::new();
    for number in pages {
        content.push(read(attachment, number).await);
    }
    content
}
