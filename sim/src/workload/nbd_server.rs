//! One server process as clients know it: the session layer over the engine, with connections
//! that are pipes of our own and tokens that are real.

use std::sync::Arc;

use mvps_core::engine::{Host, Intent, OpenError, OpeningRequest, Since, open};
use mvps_core::ids::ImageId;
use mvps_core::protocol::OpeningError;
use mvps_core::session::{EngineImages, ImageFacts, Images, OpenFailure, ServedImage};
use mvps_core::token::Grant;
use tokio::sync::watch;

use super::connector::serve_over_pipes;
use super::history::keep_history;
use super::nbd_client::NbdClient;
use super::orders::{Orders, Status, read_back};
use crate::environment::machine::{Process, Site};
use crate::random::RandomStream;

/// Images as a process of the simulation opens them: the model learns of each opening.
struct SimImages {
    site: Arc<Site>,
    process: Process,
    host: Host,
    strict: bool,
    status: watch::Sender<Status>,
    engine: EngineImages,
}

impl SimImages {
    fn report(&self, now: Status) {
        let journal = &self.site.journal;
        journal.note(&self.process.name, format_args!("{now:?}"));
        if !matches!(now, Status::Opening | Status::Serving) {
            self.site.model.ended(&self.process.name);
        }
        self.status.send_replace(now);
    }
}

impl Images for SimImages {
    type Image = ServedImage;

    async fn open(&self, grant: &Grant) -> Result<ServedImage, OpenFailure> {
        let request = OpeningRequest {
            image: grant.image.clone(),
            page_size: self.site.plan.page_size,
            image_size_bytes: grant.size_bytes,
            intent: Intent::CreateOrGrow,
        };
        let failed = |reason: String| OpenFailure { reason, told: None };
        let opened = open(&self.host, &request, self.site.plan.config.clone()).await;
        let image = match opened {
            Ok(image) => image,
            Err(OpenError::Opening(OpeningError::Refused(refusal))) => {
                let reason = format!("{:?}", refusal.reason);
                self.site.model.not_let_in(&self.process.name, &reason);
                self.report(Status::Refused(reason.clone()));
                return Err(failed(reason));
            }
            Err(error) => {
                self.report(Status::Failed(error.to_string()));
                return Err(failed(error.to_string()));
            }
        };
        let Some(found) = image.status().await else {
            return Err(failed("closed at once".to_owned()));
        };
        let model = &self.site.model;
        model.opened(&self.process.name, found.tenure.id, found.lsn);
        model.size_told(&self.process.name, image.size_bytes());
        if let Err(error) = read_back(&self.site, &self.process, &image).await {
            assert!(!self.strict, "oracle 11 (liveness): {error}");
            self.report(Status::Failed(error.to_string()));
            return Err(failed(error.to_string()));
        }
        self.report(Status::Serving);
        let site = &self.site;
        if site.plan.history.on_server && !self.strict {
            let (process, host) = (self.process.clone(), self.host.clone());
            let history = keep_history(Arc::clone(site), process, host, image.clone());
            self.process.node.spawn(history);
        }
        Ok(ServedImage::Live(image))
    }

    fn look(
        &self,
        grant: &Grant,
    ) -> impl Future<Output = Result<Option<ImageFacts>, OpenFailure>> + Send {
        self.engine.look(grant)
    }

    async fn retains(&self, image: &ImageId, since: &Since) -> Result<bool, OpenFailure> {
        self.engine.retains(image, since).await
    }

    async fn list_retained(
        &self,
        image: &ImageId,
        versions_max: usize,
    ) -> Result<Vec<Since>, OpenFailure> {
        self.engine.list_retained(image, versions_max).await
    }
}

/// Serves over NBD on `process` until told to stop, or until every client gave up.
pub async fn serve_nbd(
    site: Arc<Site>,
    process: Process,
    host: Host,
    orders: Orders,
    status: watch::Sender<Status>,
) {
    let report = |now: Status| {
        site.journal.note(&process.name, format_args!("{now:?}"));
        if !matches!(now, Status::Opening | Status::Serving) {
            site.model.ended(&process.name);
        }
        status.send_replace(now);
    };
    let images = SimImages {
        site: Arc::clone(&site),
        process: process.clone(),
        host: host.clone(),
        strict: orders.strict,
        status: status.clone(),
        engine: EngineImages::new(host, site.plan.config.clone()),
    };
    let (server, connector) = serve_over_pipes(&process, images, site.plan.idle_time);
    let clients: Vec<_> = (0..site.plan.clients)
        .map(|number| {
            let client = NbdClient::new(&site, &process, number, connector.clone(), orders.strict);
            process.node.spawn(client.run(orders.stop.clone()))
        })
        .collect();
    let abrupt =
        !orders.strict && RandomStream::new(site.plan.seed, &process.name).chance(site.plan.abrupt);
    if abrupt {
        let mut ordered = orders.stop.clone();
        let _ = ordered.wait_for(|stop| *stop).await;
        site.journal
            .mark("a server was shut down under its clients");
    } else {
        for client in clients {
            // A client that panicked ended the run.
            let _ = client.await;
        }
    }
    let asked = *orders.stop.borrow();
    server.shut_down().await;
    if server.image(&site.image).await.is_some() {
        report(Status::Failed("the image is still open".to_owned()));
    } else if !asked {
        report(Status::Failed("its clients gave up".to_owned()));
    } else if site.model.handed_back(&process.name) {
        report(Status::Closed);
    } else {
        report(Status::Failed("it did not hand the image back".to_owned()));
    }
}
