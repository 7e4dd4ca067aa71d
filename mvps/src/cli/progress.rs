//! A line of progress on a terminal, and nothing elsewhere.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often it is drawn at most, per second.
const DRAWS_PER_SECOND: u8 = 5;

/// A bar of images on stderr, with a few words beside it.
pub struct ProgressLine(ProgressBar);

impl ProgressLine {
    /// Shows nothing yet; never anything if stderr is no terminal.
    #[must_use]
    pub fn new() -> Self {
        let target = match std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} images, {msg}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// So many images are done, and this is to be said.
    pub fn show(&self, images: u64, images_done: u64, words: String) {
        self.0.set_length(images);
        self.0.set_position(images_done);
        self.0.set_message(words);
    }

    /// Takes it off the terminal.
    pub fn clear(&self) {
        self.0.finish_and_clear();
    }
}

impl Default for ProgressLine {
    fn default() -> Self {
        Self::new()
    }
}
