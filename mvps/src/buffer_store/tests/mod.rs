mod speed;

use super::*;
use mvps_core::env::conformance;

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let root = tempfile::tempdir().unwrap();
    conformance::check_buffer_stores(&|| Arc::new(FjallBufferStores::new(root.path()))).await;
}
