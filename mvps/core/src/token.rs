//! Export names: signed tokens and their claims.
