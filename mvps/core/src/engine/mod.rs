//! One open image: commits, views, checkpoints, publication.
