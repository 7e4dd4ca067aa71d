//! How requests and replies are framed. The bytes stand beside each: [`super::request`] and
//! [`super::reply`].

/// How requests and replies are framed once negotiation is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Compact requests, simple replies ("Simple reply message").
    Simple,
    /// Compact requests, structured replies where there is content ("Structured reply message").
    Structured,
    /// Extended requests and replies ("Extended reply message").
    Extended,
}
