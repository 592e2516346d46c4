//! Who has which address on this machine, and what follows for resources and relays. Pure.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use isthmus_lab::relay::{LinkPlan, RoutePlan, Way};
use isthmus_manifest::Document;
use isthmus_model::{ClusterName, Kind};
use serde_json::{Value, json};

use super::declared::UpFile;
use super::planned::{CONTROL_PORT, MESH_PORT, PlanProblem, PlannedCluster};
use crate::home::Home;

/// Where each kind of address begins in a cluster: 127.mesh.cluster.n.
pub(crate) const CONTROL: usize = 1;
pub(crate) const GATEWAYS: usize = 2;
pub(crate) const WORKLOADS: usize = 10;
const RELAYS: usize = 100;

/// Who has which address.
pub(crate) struct Layout {
    number: u8,
    names: Vec<ClusterName>,
    gateways: Vec<usize>,
}

/// An address in cluster `from` that stands for an address in cluster `to`.
pub(crate) struct Standing {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) stands_at: SocketAddr,
    pub(crate) stands_for: SocketAddr,
}

impl Layout {
    pub(crate) fn new(number: u8, file: &UpFile) -> Self {
        Self {
            number,
            names: file
                .clusters
                .iter()
                .map(|(name, _)| name.0.clone())
                .collect(),
            gateways: file
                .clusters
                .iter()
                .map(|(_, cluster)| cluster.gateways)
                .collect(),
        }
    }

    pub(crate) fn address(&self, cluster: usize, position: usize) -> Ipv4Addr {
        // `UpFile` has refused what does not fit.
        let byte = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
        Ipv4Addr::new(127, self.number, byte(cluster + 1), byte(position))
    }

    pub(crate) fn control(&self, cluster: usize) -> SocketAddr {
        (self.address(cluster, CONTROL), CONTROL_PORT).into()
    }

    pub(crate) fn gateway(&self, cluster: usize, position: usize) -> SocketAddr {
        (self.address(cluster, GATEWAYS + position), MESH_PORT).into()
    }

    /// In each cluster, one address for each control plane and gateway of every other.
    pub(crate) fn standings(&self) -> Vec<Standing> {
        let mut standings = Vec::new();
        for from in 0..self.names.len() {
            let mut next = RELAYS;
            for to in (0..self.names.len()).filter(|to| *to != from) {
                let gateways = (0..self.gateways[to]).map(|position| self.gateway(to, position));
                for stands_for in std::iter::once(self.control(to)).chain(gateways) {
                    let stands_at = (self.address(from, next), stands_for.port()).into();
                    standings.push(Standing {
                        from,
                        to,
                        stands_at,
                        stands_for,
                    });
                    next += 1;
                }
            }
        }
        standings
    }

    /// Every pair of clusters, in order.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let count = self.names.len();
        (0..count).flat_map(move |one| (one + 1..count).map(move |other| (one, other)))
    }

    pub(crate) fn links(&self, file: &UpFile) -> Vec<LinkPlan> {
        let standings = self.standings();
        let link = |(one, other): (usize, usize)| {
            let (a, b) = (&self.names[one], &self.names[other]);
            let declared = file.links.iter().find(|link| link.joins(a, b));
            let joins = |each: &&Standing| {
                (each.from, each.to) == (one, other) || (each.from, each.to) == (other, one)
            };
            let route = |each: &Standing| RoutePlan {
                listen: each.stands_at,
                target: each.stands_for,
                opens: if each.from == one {
                    Way::Out
                } else {
                    Way::Back
                },
            };
            LinkPlan {
                name: link_name(a, b),
                rtt: declared.map_or(Duration::ZERO, |link| link.rtt.0),
                routes: standings.iter().filter(joins).map(route).collect(),
            }
        };
        self.pairs().map(link).collect()
    }

    pub(crate) fn clusters(&self, home: &Home) -> Vec<PlannedCluster> {
        let cluster = |(index, name): (usize, &ClusterName)| {
            let directory = home.clusters().join(name.as_str());
            PlannedCluster {
                name: name.clone(),
                control: self.address(index, CONTROL),
                gateways: self.gateways[index],
                config: directory.join("control.yaml"),
                data: directory.join("control"),
            }
        };
        self.names.iter().enumerate().map(cluster).collect()
    }

    /// Fills in addresses, and adds the links that nobody has declared.
    pub(crate) fn complete(&self, mut documents: Vec<Document>) -> Vec<Document> {
        let standings = self.standings();
        let reach = |one: usize, other: usize| -> Vec<Value> {
            let joins = |each: &&Standing| {
                (each.from, each.to) == (one, other) || (each.from, each.to) == (other, one)
            };
            let entry = |each: &Standing| {
                json!({
                    "from": self.names[each.from].as_str(),
                    "address": each.stands_for.to_string(),
                    "via": each.stands_at.to_string(),
                })
            };
            standings.iter().filter(joins).map(entry).collect()
        };
        for document in &mut documents {
            let name = document.object.metadata().name.to_string();
            if document.object.kind() == Kind::Cluster
                && let Some(index) = self.names.iter().position(|each| each.as_str() == name)
            {
                let control = self.control(index).to_string();
                document.object.set_spec("control", control.into());
            }
        }
        for (one, other) in self.pairs() {
            let found = documents
                .iter_mut()
                .find(|each| self.is_link(each, one, other));
            match found {
                Some(document) => document.object.set_spec("reach", reach(one, other).into()),
                None => documents.extend(self.link_document(one, other, &reach(one, other))),
            }
        }
        documents
    }

    pub(crate) fn is_link(&self, document: &Document, one: usize, other: usize) -> bool {
        let between = document
            .object
            .json()
            .get("spec")
            .and_then(|spec| spec.get("between"));
        let ends = |a: usize, b: usize| json!([self.names[a].as_str(), self.names[b].as_str()]);
        document.object.kind() == Kind::Link
            && between
                .is_some_and(|between| *between == ends(one, other) || *between == ends(other, one))
    }

    /// A link that nobody has declared. `None` cannot be: what is written here is a valid head.
    pub(crate) fn link_document(
        &self,
        one: usize,
        other: usize,
        reach: &[Value],
    ) -> Option<Document> {
        let (a, b) = (&self.names[one], &self.names[other]);
        let object = json!({
            "apiVersion": Kind::Link.api_version(),
            "kind": Kind::Link.name(),
            "metadata": {"name": link_name(a, b)},
            "spec": {"between": [a.as_str(), b.as_str()], "reach": reach},
        });
        let text = object.to_string();
        let (documents, _) = isthmus_manifest::read_files(&[("generated", text.as_str())], None);
        documents.into_iter().next()
    }

    /// Clusters that only the resources or only up.yaml knows; and there is one mesh.
    pub(crate) fn strangers(&self, documents: &[Document]) -> Vec<PlanProblem> {
        let mut problems = Vec::new();
        let mut say = |text: String| problems.push(PlanProblem::Disagreement(text));
        let names = |kind: Kind| -> Vec<&str> {
            let of_kind = documents.iter().filter(|each| each.object.kind() == kind);
            of_kind
                .map(|each| each.object.metadata().name.as_str())
                .collect()
        };
        match names(Kind::Mesh).len() {
            1 => {}
            0 => say("the resource files declare no Mesh".to_owned()),
            count => say(format!("the resource files declare {count} meshes")),
        }
        let declared = names(Kind::Cluster);
        for name in self
            .names
            .iter()
            .filter(|name| !declared.contains(&name.as_str()))
        {
            say(format!(
                "up.yaml runs cluster {name}, which no resource file declares"
            ));
        }
        for name in declared
            .iter()
            .filter(|name| !self.names.iter().any(|each| each.as_str() == **name))
        {
            say(format!(
                "cluster {name} is declared, but up.yaml does not run it"
            ));
        }
        problems
    }
}

/// What the link between two clusters is called where nobody has named it.
pub(crate) fn link_name(one: &ClusterName, other: &ClusterName) -> String {
    format!("{one}-{other}")
}
