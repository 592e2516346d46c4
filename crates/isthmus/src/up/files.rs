//! The configuration files of the processes that `up` starts. Pure.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use isthmus_api::TokenRequest;
use isthmus_model::{AccountName, ClusterName, Namespace};

use super::declared::ProcessDeclared;
use super::fleet::Stage;
use super::layout::{GATEWAYS, Layout, Standing, WORKLOADS};
use super::planned::{CONTROL_PORT, PlannedCluster, PlannedProcess};
use crate::config::ClientsEntry;
use crate::config::{
    self, AccountRef, ApiTokenEntry, ControlFile, GatewayFile, ListenerEntry, ProgramEntry, Sha256,
    Span, Text, WorkloadFile,
};
use crate::home::Home;

/// Makes the processes' files.
pub(crate) struct Writer<'a> {
    pub(crate) home: &'a Home,
    pub(crate) source: &'a Path,
    pub(crate) layout: &'a Layout,
    pub(crate) mesh: &'a isthmus_model::Mesh,
    pub(crate) clusters: &'a [PlannedCluster],
}

impl Writer<'_> {
    pub(crate) fn control(
        &self,
        index: usize,
        api_token: Sha256,
        leaf_lifetime: Option<Span>,
    ) -> PlannedProcess {
        let cluster = &self.clusters[index];
        let standings = self.layout.standings();
        let peer = |each: &&Standing| each.from == index && each.stands_for.port() == CONTROL_PORT;
        let file = ControlFile {
            mesh: Text(self.mesh.name.clone()),
            trust_domain: Text(self.mesh.trust_domain.clone()),
            cluster: Text(cluster.name.clone()),
            address: cluster.control.into(),
            data: cluster.data.clone(),
            authority: Text(self.clusters[0].name.clone()),
            peers: standings
                .iter()
                .filter(peer)
                .map(|each| each.stands_at)
                .collect(),
            api_tokens: vec![ApiTokenEntry {
                name: "admin".to_owned(),
                sha256: Text(api_token),
            }],
            leaf_lifetime,
            renew_after: None,
            at_rest: None,
        };
        PlannedProcess {
            cluster: cluster.name.clone(),
            name: "control".to_owned(),
            stage: Stage::Control,
            address: cluster.control,
            service: None,
            arguments: arguments("control", &cluster.config),
            config: cluster.config.clone(),
            config_text: config::to_yaml(&file),
            token: None,
        }
    }

    pub(crate) fn gateway(&self, index: usize, position: usize) -> PlannedProcess {
        let cluster = &self.clusters[index];
        let name = format!("gateway-{}", position + 1);
        let address = self.layout.address(index, GATEWAYS + position);
        let directory = self.directory(&cluster.name, &name);
        let file = GatewayFile {
            name: name.clone(),
            cluster: Text(cluster.name.clone()),
            address: address.into(),
            control: vec![self.layout.control(index)],
            token_file: Some(directory.join("token")),
            state: directory.join("state"),
            access_log: false,
            workers: None,
            memory: None,
            drain_limit: None,
            clients: ClientsEntry::default(),
        };
        let gateway = isthmus_identity::gateway_identity(&self.mesh.trust_domain);
        let token = TokenRequest {
            namespace: gateway.namespace.to_string(),
            account: gateway.account.to_string(),
            service: None,
            lifetime_seconds: None,
        };
        let config = directory.join("gateway.yaml");
        PlannedProcess {
            cluster: cluster.name.clone(),
            name,
            stage: Stage::Gateway,
            address,
            service: None,
            arguments: arguments("gateway", &config),
            config,
            config_text: config::to_yaml(&file),
            token: Some((token, directory.join("token"))),
        }
    }

    pub(crate) fn workloads(
        &self,
        index: usize,
        declared: &[&ProcessDeclared],
    ) -> Vec<PlannedProcess> {
        let mut processes: Vec<PlannedProcess> = Vec::new();
        let mut counts = std::collections::BTreeMap::new();
        for process in declared {
            // A file with a process that runs as nobody was refused.
            let Some(account) = process.runs_as() else {
                continue;
            };
            for _ in 0..process.copies {
                let count: &mut usize = counts.entry(process.base_name()).or_default();
                *count += 1;
                let name = format!("{}-{count}", process.base_name());
                let address = self.layout.address(index, WORKLOADS + processes.len());
                processes.push(self.workload(index, process, &account, name, address));
            }
        }
        processes
    }

    pub(crate) fn workload(
        &self,
        index: usize,
        declared: &ProcessDeclared,
        account: &(Namespace, AccountName),
        name: String,
        address: Ipv4Addr,
    ) -> PlannedProcess {
        let cluster = &self.clusters[index];
        let directory = self.directory(&cluster.name, &name);
        let listeners = declared.listeners.iter().map(|each| ListenerEntry {
            listen: (address, each.listen).into(),
            service: each.service.clone(),
            port: each.port,
        });
        let file = WorkloadFile {
            name: name.clone(),
            cluster: Text(cluster.name.clone()),
            address: address.into(),
            control: vec![self.layout.control(index)],
            token_file: Some(directory.join("token")),
            state: directory.join("state"),
            access_log: false,
            workers: declared.workers,
            memory: None,
            drain_limit: None,
            clients: ClientsEntry::default(),
            account: Some(Text(AccountRef {
                namespace: Some(account.0.clone()),
                account: account.1.clone(),
            })),
            service: declared.service.clone(),
            labels: declared.labels.clone(),
            zone: None,
            listeners: listeners.collect(),
            program: ProgramEntry {
                address: IpAddr::from(address),
                port: declared.port,
                command: declared.command.clone(),
                directory: Some(self.source.to_owned()),
            },
        };
        let token = TokenRequest {
            namespace: account.0.to_string(),
            account: account.1.to_string(),
            service: declared.service.as_ref().map(ToString::to_string),
            lifetime_seconds: None,
        };
        let config = directory.join("run.yaml");
        PlannedProcess {
            cluster: cluster.name.clone(),
            name,
            stage: Stage::Workload,
            address,
            service: declared.service.as_ref().map(|service| service.0.clone()),
            arguments: arguments("run", &config),
            config,
            config_text: config::to_yaml(&file),
            token: Some((token, directory.join("token"))),
        }
    }

    pub(crate) fn directory(&self, cluster: &ClusterName, process: &str) -> PathBuf {
        self.home.clusters().join(cluster.as_str()).join(process)
    }
}

fn arguments(command: &str, config: &Path) -> Vec<String> {
    vec![
        command.to_owned(),
        "-c".to_owned(),
        config.display().to_string(),
    ]
}
