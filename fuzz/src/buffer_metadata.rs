//! What a buffer store knows of itself, and names of objects.

use mvps_core::format::buffer_metadata::BufferMetadata;
use mvps_core::format::codec::{ObjectSeed, RecordKind};
use mvps_core::format::object_name::{ObjectName, parse_image_folder, parse_manifest_key};
use mvps_core::ids::ImageId;

use crate::records::check;

/// One input.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    let image = ImageId::parse("disk0").expect("a valid name");
    let decode = |bytes: &[u8]| BufferMetadata::decode(&image, bytes);
    // As the record itself has it.
    let seed = ObjectSeed::of_key("buffer/disk0");
    check(
        RecordKind::BufferMetadata,
        seed,
        data,
        decode,
        BufferMetadata::encode,
    );
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(name) = ObjectName::parse(text) {
        assert_eq!(name.key(), text, "a name has one spelling");
    }
    if let Ok((image, version)) = parse_manifest_key(text) {
        let key = mvps_core::format::object_name::manifest_key(&image, version);
        assert_eq!(key, text, "a name has one spelling");
    }
    if let Ok(image) = parse_image_folder(text) {
        assert!(text.contains(image.as_str()));
    }
}
