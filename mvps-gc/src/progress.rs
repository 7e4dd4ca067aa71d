//! Progress on a terminal.

use mvps::cli::ProgressLine;
use mvps_core::collector::{Observer, Progress};

/// A bar on stderr if that is a terminal, else nothing.
pub(crate) struct Bar(ProgressLine);

impl Bar {
    pub(crate) fn new() -> Self {
        Self(ProgressLine::new())
    }

    pub(crate) fn clear(&self) {
        self.0.clear();
    }
}

impl Observer for Bar {
    fn progress(&self, progress: Progress) {
        let Progress {
            images,
            images_done,
            listed,
            deleted,
        } = progress;
        let words = format!("{listed} keys listed, {deleted} deleted");
        self.0.show(images, images_done, words);
    }
}
