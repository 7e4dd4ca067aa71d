//! A way to a daemon: TCP or a unix socket, in the clear or over TLS.

use std::rc::Rc;

use super::certificates::{Authority, qemu_image};
use super::images::IMAGE_BYTES;
use crate::rig::daemon::Listen;
use crate::rig::token::Claims;

/// A way to the daemon; a column of the table.
pub struct Way {
    /// Its name, which is part of its images' names: they must not be long, see
    /// [`crate::rig::object_server::ObjectServer::store`].
    pub name: &'static str,
    /// Where the daemon listens.
    pub listen: Listen,
    /// The authority that clients trust, if they encrypt.
    pub authority: Option<Rc<Authority>>,
}

impl Way {
    /// The claims of this way's own image for `row`, of [`IMAGE_BYTES`].
    pub fn claims(&self, row: &str) -> Claims {
        Claims::image(&format!("m-{}-{row}", self.name), IMAGE_BYTES)
    }

    /// The URI of its image for `row`, for clients on libnbd.
    pub fn uri(&self, row: &str) -> String {
        let token = self.claims(row).sign();
        match &self.authority {
            None => self.listen.uri(&token),
            Some(authority) => authority.uri(&self.listen, &token),
        }
    }

    /// What QEMU's tools must be told before [`Self::qemu_image`].
    pub fn qemu_objects(&self) -> Vec<String> {
        let authority = self.authority.iter();
        let objects = authority.map(|authority| authority.qemu_object());
        objects
            .flat_map(|object| ["--object".to_owned(), object])
            .collect()
    }

    /// Its image for `row` as QEMU's tools take it.
    pub fn qemu_image(&self, row: &str) -> String {
        self.qemu_image_at(&self.listen, row)
    }

    /// [`Self::qemu_image`] through a relay that listens at `listen`.
    pub fn qemu_image_at(&self, listen: &Listen, row: &str) -> String {
        let token = self.claims(row).sign();
        match &self.authority {
            None => qemu_image(listen, &token),
            Some(authority) => authority.qemu_image(listen, &token),
        }
    }
}
