//! Manifests.

use mvps_core::format::codec::{ObjectSeed, RecordKind};
use mvps_core::format::manifest::Manifest;
use mvps_core::format::object_name::manifest_key;
use mvps_core::ids::{ImageId, Version};

use crate::records::check;

/// The image and version of the golden manifest, whose bytes are a seed.
const IMAGE: &str = "disk0";
const VERSION: Version = Version(300);

/// One input.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    let image = ImageId::parse(IMAGE).expect("a valid name");
    let seed = ObjectSeed::of_key(&manifest_key(&image, VERSION));
    let decode = |bytes: &[u8]| Manifest::decode(&image, VERSION, bytes);
    check(RecordKind::Manifest, seed, data, decode, Manifest::encode);
}
