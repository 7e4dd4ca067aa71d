//! What each request asks of the disk, or of the open transaction.

use std::ops::Deref;
use std::sync::Arc;
use std::task::Context;

use tokio::io::{AsyncRead, AsyncWrite};

use super::{Answer, Control, Given, Ticket, Transmission};
use crate::content::Content;
use crate::engine::EngineError;
use crate::nbd::{EXTENTS_MAX, Errno, Failure, ReplyTo, Request};
use crate::session::disk::{Disk, DiskTransaction, ReadAt, WriteAt};
use crate::session::ended::Ended;
use crate::session::limits::EXTENT_WEIGHT_BYTES;
use crate::session::payload_budget::PayloadReservation;

impl<'a, S: AsyncRead + AsyncWrite + Unpin, D: Disk> Transmission<'a, S, D> {
    /// What a request counts towards `BYTES_IN_FLIGHT_MAX` that may be answered with
    /// `extents_max` extents of each context.
    pub(super) fn weight(&self, request: &Request, extents_max: usize) -> u64 {
        match request {
            Request::Read { length, .. } | Request::Write { length, .. } => u64::from(*length),
            Request::BlockStatus { .. } => {
                (extents_max * self.contexts.len()) as u64 * EXTENT_WEIGHT_BYTES
            }
            _ => 0,
        }
    }

    /// Most extents of one context that a request can be answered with: no extent but the first and
    /// the last is shorter than a page.
    pub(super) fn extents_most(&self, request: &Request) -> usize {
        match request {
            Request::BlockStatus { one: true, .. } => 1,
            Request::BlockStatus { length, .. } => {
                let pages = length / self.terms.page_bytes + 2;
                usize::try_from(pages).map_or(EXTENTS_MAX, |pages| pages.min(EXTENTS_MAX))
            }
            _ => 0,
        }
    }

    /// Begins one request.
    pub(super) fn begin(
        &mut self,
        context: &mut Context<'_>,
        to: ReplyTo,
        request: Request,
        given: Given,
    ) {
        let disk = self.disk;
        let bytes = self.weight(&request, given.extents_max);
        let is_answered = matches!(request, Request::Read { .. } | Request::BlockStatus { .. });
        let ticket = Ticket {
            to,
            bytes,
            answer_bytes: if is_answered { bytes } else { 0 },
            is_part: false,
            is_walk: matches!(request, Request::BlockStatus { .. } | Request::Cache { .. }),
        };
        match (request, &self.transaction) {
            (Request::Disconnect, _) => self.closing = Some(Ended::Disconnected),
            (Request::Flush, _) => {
                let flush = disk.flush(self.terms.durability);
                self.start(context, ticket, outcome(flush));
            }
            (Request::Cache { offset, length }, _) => {
                self.start(context, ticket, outcome(disk.prefetch(offset, length)));
            }
            (Request::WriteZeroes { flags, .. }, open) if flags.fast && !self.is_fast(&request) => {
                let is_part = open.is_some();
                self.fail(to, NOT_FAST, is_part);
            }
            (Request::Begin, None) => self.control(context, to, Control::Begin),
            (Request::Commit { fua }, Some(_)) => {
                self.control(context, to, Control::Commit { fua });
            }
            (Request::Rollback, Some(_)) => self.control(context, to, Control::Rollback),
            (Request::Lock, Some(open)) => {
                let transaction = Arc::clone(&open.transaction);
                let lock = async move { transaction.lock().await };
                self.start(context, ticket, outcome(lock));
            }
            (Request::Begin, Some(_))
            | (Request::Commit { .. } | Request::Rollback | Request::Lock, None) => {
                self.fail(to, Errno::Invalid.into(), false);
            }
            _ => self.begin_access(context, ticket, request, given),
        }
    }

    /// Whether zeroing is faster than writing: as soon as a whole page is among the bytes, which
    /// then takes no content at all. What is less than that is merged into its page, as a write is.
    fn is_fast(&self, request: &Request) -> bool {
        let (offset, length) = request.range();
        let page_bytes = self.terms.page_bytes;
        let first_page = offset.checked_next_multiple_of(page_bytes);
        let whole_page_end = first_page.and_then(|first| first.checked_add(page_bytes));
        length == 0 || whole_page_end.is_some_and(|end| end <= offset + length)
    }

    /// Begins a read or a change, on the open transaction if there is one.
    fn begin_access(
        &mut self,
        context: &mut Context<'_>,
        ticket: Ticket,
        request: Request,
        given: Given,
    ) {
        let request = self.page_deletion(&request).unwrap_or(request);
        if request.is_change() && request.range().1 == 0 {
            self.reply(ticket.to, Answer::Done);
            return;
        }
        match &mut self.transaction {
            None => {
                let acknowledge = self.terms.acknowledge(request.fua());
                self.access(context, ticket, request, given, self.disk, acknowledge);
            }
            Some(open) => {
                open.fua |= request.fua();
                let transaction = Arc::clone(&open.transaction);
                let ticket = Ticket {
                    is_part: request.is_change(),
                    ..ticket
                };
                self.access(context, ticket, request, given, transaction, ());
            }
        }
    }

    /// What a write of nothing means within a transaction: it deletes the page that begins there.
    fn page_deletion(&self, request: &Request) -> Option<Request> {
        let page_bytes = self.terms.page_bytes;
        match *request {
            Request::Write {
                offset,
                length: 0,
                fua,
            } if self.transaction.is_some()
                && offset.is_multiple_of(page_bytes)
                && offset < self.terms.bounds.size_bytes =>
            {
                Some(Request::Trim {
                    offset,
                    length: page_bytes,
                    fua,
                })
            }
            _ => None,
        }
    }

    /// Carries out a read or a change on `target`.
    fn access<T: ReadAt<Base = D::Base> + WriteAt>(
        &mut self,
        context: &mut Context<'_>,
        ticket: Ticket,
        request: Request,
        given: Given,
        target: impl Deref<Target = T> + Send + Sync + 'a,
        when: T::When,
    ) {
        let (disk, contexts) = (self.disk, self.contexts);
        match request {
            Request::Read {
                offset,
                length,
                whole,
            } => {
                let read = async move { content(target.read(offset, length), length, whole).await };
                self.start(context, ticket, read);
            }
            Request::BlockStatus { offset, length, .. } => {
                let status = async move {
                    let range = offset..offset + length;
                    let status = contexts.status(range, given.extents_max, disk, &*target);
                    status.await.map(Answer::Status)
                };
                self.start(context, ticket, status);
            }
            Request::Write { offset, .. } => {
                let Given {
                    content,
                    reservation,
                    ..
                } = given;
                let write = async move { target.write(offset, content, when).await };
                self.start(context, ticket, outcome(holding(reservation, write)));
            }
            Request::Trim { offset, length, .. } => {
                let trim = async move { target.trim(offset, length, when).await };
                self.start(context, ticket, outcome(trim));
            }
            Request::WriteZeroes { offset, length, .. } => {
                let zero = async move { target.write_zeroes(offset, length, when).await };
                self.start(context, ticket, outcome(zero));
            }
            Request::Disconnect
            | Request::Flush
            | Request::Cache { .. }
            | Request::Begin
            | Request::Commit { .. }
            | Request::Rollback
            | Request::Lock => unreachable!("`begin` handles what is neither read nor change"),
        }
    }
}

/// The answer to a FAST_ZERO that is not ("Command flags").
const NOT_FAST: Failure = Failure {
    errno: Errno::NotSupported,
    message: "less than a whole page is no faster than a write",
    offset: None,
};

async fn outcome(
    operation: impl Future<Output = Result<(), EngineError>>,
) -> Result<Answer, EngineError> {
    operation.await.map(|()| Answer::Done)
}

/// Ends the reservation with the operation.
async fn holding<T>(
    reservation: Option<PayloadReservation>,
    operation: impl Future<Output = T>,
) -> T {
    let result = operation.await;
    drop(reservation);
    result
}

/// A reply of another length than the request's would put the stream out of step.
async fn content(
    operation: impl Future<Output = Result<Content, EngineError>>,
    length: u32,
    whole: bool,
) -> Result<Answer, EngineError> {
    let content = operation.await?;
    assert_eq!(
        content.len(),
        length as usize,
        "a read yields what was asked for"
    );
    Ok(Answer::Content { content, whole })
}
