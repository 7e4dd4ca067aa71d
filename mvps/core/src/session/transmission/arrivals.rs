//! Requests as they arrive: which of them may begin now, and what the next bytes complete.

use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Arriving, Gate, Given, Transmission};
use crate::nbd::{Incoming, Request};
use crate::session::disk::Disk;
use crate::session::ended::Ended;
use crate::session::limits::{
    BYTES_IN_FLIGHT_MAX, EXTENT_WEIGHT_BYTES, PAYLOAD_EXEMPT_BYTES, REQUESTS_IN_FLIGHT_MAX,
    STATUS_SHORT_BYTES,
};

impl<S: AsyncRead + AsyncWrite + Unpin, D: Disk> Transmission<'_, S, D> {
    /// Begins every request that is there and within the budgets.
    pub(super) fn take_requests(&mut self, context: &mut Context<'_>) {
        self.awaits_header = false;
        loop {
            match self.arriving {
                Arriving::Header => {
                    if !matches!(self.gate, Gate::Open)
                        || self.in_flight.len() >= REQUESTS_IN_FLIGHT_MAX
                        || self.occupied_bytes() >= BYTES_IN_FLIGHT_MAX
                        || self.transport.output().len_bytes() as u64 > self.payload.unread_max()
                    {
                        return;
                    }
                    match Incoming::decode(self.transport.input(), &self.terms.bounds) {
                        Ok(None) => {
                            self.awaits_header = !self.transport.input().is_empty();
                            return;
                        }
                        Ok(Some((incoming, header_bytes))) => {
                            if !self.take_incoming(context, incoming, header_bytes) {
                                return;
                            }
                            self.headers += 1;
                        }
                        Err(broken) => {
                            self.closing = Some(Ended::Broken(broken));
                            return;
                        }
                    }
                }
                Arriving::Payload(to, request, ref mut reservation) => {
                    let Some(content) = self.transport.take_payload() else {
                        return;
                    };
                    let given = Given {
                        content,
                        reservation: reservation.take(),
                        extents_max: 0,
                    };
                    self.arriving = Arriving::Header;
                    self.begin(context, to, request, given);
                }
                Arriving::Worthless(to, errno) => {
                    if self.transport.is_skipping() {
                        return;
                    }
                    self.arriving = Arriving::Header;
                    self.fail(to, errno.into(), false);
                }
            }
            if self.closing.is_some() {
                return;
            }
        }
    }

    /// Consumes the header that was judged as `incoming`; `false` if it does not fit the budgets
    /// yet.
    fn take_incoming(
        &mut self,
        context: &mut Context<'_>,
        incoming: Incoming,
        header_bytes: usize,
    ) -> bool {
        match incoming {
            Incoming::Valid { to, request } => {
                let is_walk =
                    matches!(request, Request::BlockStatus { .. } | Request::Cache { .. });
                if is_walk && self.walks_left == 0 {
                    context.waker().wake_by_ref();
                    return false;
                }
                let Poll::Ready(extents_max) = self.poll_answer_budget(context, &request) else {
                    return false;
                };
                let occupied = self.occupied_bytes();
                let payload_bytes = request.payload_bytes();
                let reservation =
                    self.payload
                        .poll_reserve(context, u64::from(payload_bytes), occupied);
                let Poll::Ready(reservation) = reservation else {
                    return false;
                };
                self.transport.consume(header_bytes);
                self.walks_left -= usize::from(is_walk);
                if payload_bytes == 0 {
                    let given = Given {
                        content: Bytes::new(),
                        reservation: None,
                        extents_max,
                    };
                    self.begin(context, to, request, given);
                } else {
                    self.transport.expect_payload(payload_bytes as usize);
                    self.arriving = Arriving::Payload(to, request, reservation);
                }
            }
            Incoming::Refused {
                to,
                errno,
                skip_bytes,
                is_change,
            } => {
                // At once, whatever the reply waits for: a commit may follow right behind.
                if is_change && let Some(open) = &mut self.transaction {
                    open.failed.get_or_insert(errno.into());
                }
                self.transport.consume(header_bytes);
                self.transport.skip(u64::from(skip_bytes));
                self.arriving = Arriving::Worthless(to, errno);
            }
        }
        true
    }

    /// Reserves what a request brings and is answered with. Ready with the most extents of each
    /// context that the answer may have.
    fn poll_answer_budget(&mut self, context: &mut Context<'_>, request: &Request) -> Poll<usize> {
        let extents_max = self.extents_most(request);
        let occupied = self.occupied_bytes();
        let weight = self.weight(request, extents_max);
        if occupied > 0 && occupied + weight > BYTES_IN_FLIGHT_MAX {
            return Poll::Pending;
        }
        let is_status = matches!(request, Request::BlockStatus { .. });
        if !is_status && !matches!(request, Request::Read { .. }) {
            return Poll::Ready(extents_max);
        }
        let answering = self.answering_bytes();
        if self
            .payload
            .poll_reach(context, answering + weight)
            .is_ready()
        {
            return Poll::Ready(extents_max);
        }
        if !is_status || answering + STATUS_SHORT_BYTES > PAYLOAD_EXEMPT_BYTES {
            return Poll::Pending;
        }
        self.payload.stop_reaching();
        let extents = STATUS_SHORT_BYTES / EXTENT_WEIGHT_BYTES / self.contexts.len() as u64;
        let extents = usize::try_from(extents).expect("it is small");
        Poll::Ready(extents.min(extents_max))
    }

    /// Whether a disconnect is among the requests that are there and could not be taken yet. All
    /// requests before it are answered, whether or not the client sends on (`doc/proto.md`,
    /// `NBD_CMD_DISC`).
    pub(super) fn has_disconnect(&self) -> bool {
        let is_missed = crate::mutant::is("a disconnect that waits is not seen");
        if is_missed || !matches!(self.arriving, Arriving::Header) {
            return false;
        }
        let mut rest = self.transport.input();
        while let Ok(Some((incoming, header_bytes))) = Incoming::decode(rest, &self.terms.bounds) {
            let payload_bytes = match incoming {
                Incoming::Valid {
                    request: Request::Disconnect,
                    ..
                } => return true,
                Incoming::Valid { request, .. } => request.payload_bytes(),
                Incoming::Refused { skip_bytes, .. } => skip_bytes,
            };
            let taken = header_bytes.saturating_add(payload_bytes as usize);
            rest = rest.get(taken..).unwrap_or_default();
        }
        false
    }
}
