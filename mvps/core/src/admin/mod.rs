//! Operations on images by an operator: takeover, adopt, show, list.
