//! What outlives the process: its certificate, renewed in time, and what it knows, for a start
//! without a control plane.

use std::time::{Duration, Instant, SystemTime};

use isthmus_delta::{self as delta, Subscription};
use isthmus_identity::KeyPair;
use isthmus_wire::Body;
use isthmus_wire::proto::control_client::ControlClient;
use isthmus_wire::proto::{self, RenewRequest, StoredTopic};
use tonic::transport::Channel;

use super::super::join::{Joined, renewed};
use super::Agent;

/// A renewal that failed is tried again after this time.
const RENEW_AGAIN: Duration = Duration::from_secs(10);

impl Agent {
    /// Starts from the snapshot of an earlier run, if there is one.
    pub(super) fn restore(&mut self) {
        let identity = self.joined.identity.to_string();
        let stored = match self.vault.view(&self.joined.node_key, &identity) {
            Ok(Some(stored)) => stored,
            Ok(None) => return,
            Err(error) => {
                self.metrics.count_snapshot_refused(error.reason());
                tracing::warn!(%error, "the kept view is not used");
                return;
            }
        };
        self.position = stored.position;
        let readable = stored.topics.into_iter().filter(is_readable);
        let topics = readable.map(|topic| {
            let resources = topic.resources.into_iter().map(|resource| delta::Resource {
                name: delta::ResourceName::new(&resource.name),
                version: delta::Version(resource.version),
                body: resource.body,
            });
            (delta::Topic::new(&topic.topic), resources.collect())
        });
        self.subscription = Subscription::restore(topics, Instant::now());
        tracing::info!(position = self.position, "starting from the kept view");
    }

    /// May this process write what it keeps?
    fn may_keep(&mut self) -> bool {
        !self.report.borrow().silent && self.vault.claim()
    }

    pub(super) async fn renew(&mut self, client: &mut ControlClient<Channel>) {
        let outcome = async {
            let key = KeyPair::generate().map_err(|error| error.to_string())?;
            let certificate_request = key
                .certificate_request()
                .map_err(|error| error.to_string())?;
            let certificates = client
                .renew(RenewRequest {
                    certificate_request,
                })
                .await
                .map_err(|status| status.message().to_owned())?
                .into_inner();
            self.joined.renew_after = Duration::from_millis(certificates.renew_after_ms);
            let may_keep = self.may_keep();
            let Joined {
                leaf,
                trust,
                node_key,
                ..
            } = &self.joined;
            let vault = may_keep.then_some(&self.vault);
            renewed(vault, node_key, leaf, trust, key, certificates)
        };
        let outcome: Result<(), String> = outcome.await;
        let leaf = self.joined.leaf.load();
        match outcome {
            Ok(()) => {
                self.renew_at = leaf.renew_at(self.joined.renew_after);
                self.metrics.set_leaf_expiry(leaf.not_after());
                tracing::info!("the certificate was renewed");
            }
            Err(reason) => {
                self.renew_at = SystemTime::now() + RENEW_AGAIN;
                tracing::warn!(reason, "the certificate could not be renewed yet");
            }
        }
    }

    /// Writes what is known to disk, for a start without a control plane.
    pub(super) fn keep(&mut self) {
        if !self.may_keep() {
            return;
        }
        let needed = self.needed();
        // Names that somebody has only said are not worth it. What could not be read does exist.
        let is_kept = |topic: &delta::Topic| {
            self.subscription.resources(topic).next().is_some()
                || (self.is_absent(topic) && needed.contains(topic))
        };
        let topics = self.subscription.topics().filter(|topic| is_kept(topic));
        let topics = topics.map(|topic| proto::StoredTopic {
            topic: topic.to_string(),
            resources: self
                .subscription
                .resources(topic)
                .map(|resource| proto::Resource {
                    topic: String::new(),
                    name: resource.name.to_string(),
                    version: resource.version.0,
                    body: resource.body.clone(),
                })
                .collect(),
        });
        let stored = proto::StoredView {
            position: self.position,
            topics: topics.collect(),
        };
        let identity = self.joined.identity.to_string();
        if let Err(error) = self
            .vault
            .keep_view(&self.joined.node_key, &identity, &stored)
        {
            tracing::warn!(%error, "the view could not be kept");
        }
    }
}

/// Is all of it of a kind that this release knows? If not, it is asked for as if it had not been kept: a
/// part of it would be taken for all that there is.
fn is_readable(topic: &StoredTopic) -> bool {
    let mut resources = topic.resources.iter();
    let unreadable = resources.find_map(|resource| {
        let error = Body::decode(&resource.body).err()?;
        Some((&resource.name, error))
    });
    if let Some((name, error)) = &unreadable {
        tracing::warn!(topic = topic.topic, name, %error, "what was kept cannot be read, and is asked for");
    }
    unreadable.is_none()
}
