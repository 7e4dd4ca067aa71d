//! The NBD protocol, sans IO: codec and negotiation, server and client side. The only place with NBD numbers.
