//! NBD connections: negotiation, admission, requests and transactions of one client.
