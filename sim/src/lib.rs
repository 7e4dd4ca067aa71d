//! mvps
