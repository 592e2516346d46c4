//! What `up` will do, as a value: addresses, files, commands, relays, completed resources. Pure.

use std::path::Path;

use isthmus_lab::relay::LinkPlan;
use isthmus_manifest::{Document, Parsed};
use isthmus_model::{ClusterName, Kind, MeshName, Resource, ServiceName, TrustDomain};

use super::declared::{ProcessDeclared, UpFile};
use super::files::Writer;
use super::layout::Layout;
use super::planned::{API_PORT, PlanProblem, PlannedCluster, PlannedProcess};
use crate::config::{self, Sha256, Text};
use crate::home::{Context, Home};

/// Addresses that `isthmus run` takes for programs of its own.
pub(crate) const GUESTS: std::ops::RangeInclusive<u8> = 200..=254;

/// What a plan is made from.
#[derive(Debug)]
pub(crate) struct Given<'a> {
    pub(crate) home: &'a Home,
    /// Directory of the resource files; programs run there.
    pub(crate) source: &'a Path,
    pub(crate) file: &'a UpFile,
    pub(crate) documents: Vec<Document>,
    /// Second byte of all addresses.
    pub(crate) number: u8,
    /// Hash of the API's bearer token.
    pub(crate) api_token: Sha256,
    /// Leave out what only makes traffic.
    pub(crate) quiet: bool,
}

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) mesh: MeshName,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) number: u8,
    /// In order of their addresses; the first is the founder.
    pub(crate) clusters: Vec<PlannedCluster>,
    /// All processes; their places are their ids.
    pub(crate) processes: Vec<PlannedProcess>,
    pub(crate) links: Vec<LinkPlan>,
    /// Complete, in the order in which they are created.
    pub(crate) resources: Vec<Parsed>,
}

impl Plan {
    /// Errors: problems of the resources, and of what they and up.yaml say about each other.
    pub(crate) fn make(given: Given<'_>) -> Result<Self, Vec<PlanProblem>> {
        let Given {
            home,
            source,
            file,
            documents,
            number,
            api_token,
            quiet,
        } = given;
        let layout = Layout::new(number, file);
        let problems = layout.strangers(&documents);
        if !problems.is_empty() {
            return Err(problems);
        }
        let documents = layout.complete(documents);
        let (resources, mut problems) = resolve(documents);
        let mesh = resources.iter().find_map(|parsed| match &parsed.resource {
            Resource::Mesh(mesh) => Some(mesh.clone()),
            _ => None,
        });
        problems.extend(disagreements(file, &resources, problems.is_empty()));
        let (Some(mesh), true) = (mesh, problems.is_empty()) else {
            return Err(problems);
        };
        let clusters = layout.clusters(home);
        let writer = Writer {
            home,
            source,
            layout: &layout,
            mesh: &mesh,
            clusters: &clusters,
        };
        let mut processes = Vec::new();
        for index in 0..clusters.len() {
            processes.push(writer.control(index, api_token, file.leaf_lifetime));
        }
        for (index, (_, declared)) in file.clusters.iter().enumerate() {
            let gateways = (0..declared.gateways).map(|position| writer.gateway(index, position));
            processes.extend(gateways);
            let traffic = declared.traffic.iter().filter(|_| !quiet);
            let declared: Vec<&ProcessDeclared> =
                declared.processes.iter().chain(traffic).collect();
            processes.extend(writer.workloads(index, &declared));
        }
        Ok(Self {
            mesh: mesh.name,
            trust_domain: mesh.trust_domain,
            number,
            clusters,
            processes,
            links: layout.links(file),
            resources,
        })
    }

    pub(crate) fn contexts(&self) -> Vec<Context> {
        let context = |cluster: &PlannedCluster| Context {
            name: Text(cluster.name.clone()),
            api: (cluster.control, API_PORT).into(),
        };
        self.clusters.iter().map(context).collect()
    }

    /// How many workloads a service is to have in a cluster.
    pub(crate) fn copies(&self, cluster: &ClusterName, service: &ServiceName) -> usize {
        let is = |process: &&PlannedProcess| {
            process.cluster == *cluster && process.service.as_ref() == Some(service)
        };
        self.processes.iter().filter(is).count()
    }

    /// The completed resources as one YAML file.
    pub(crate) fn manifest(&self) -> String {
        let documents = self
            .resources
            .iter()
            .map(|parsed| format!("---\n{}", config::to_yaml(parsed.document.object.json())));
        documents.collect()
    }
}

/// What services and up.yaml say differently. Unless all resources are `complete`, one that is not
/// found may be there and wrong.
fn disagreements(file: &UpFile, resources: &[Parsed], complete: bool) -> Vec<PlanProblem> {
    let services = resources
        .iter()
        .filter_map(|parsed| match &parsed.resource {
            Resource::Service(service) => Some(service),
            _ => None,
        });
    let services: Vec<_> = services.collect();
    let mut problems = Vec::new();
    for (Text(cluster), declared) in &file.clusters {
        for process in declared.processes.iter().chain(&declared.traffic) {
            let Some(Text(wanted)) = &process.service else {
                continue;
            };
            let found = services.iter().find(|service| service.name == *wanted);
            let text = match (found, process.port) {
                (None, _) if complete => {
                    format!("up.yaml runs {wanted} in {cluster}, which no resource file declares")
                }
                (Some(service), Some(port))
                    if !service.ports.iter().any(|each| each.target_port == port) =>
                {
                    format!(
                        "up.yaml: {wanted} in {cluster} listens on {port}, no targetPort of the Service"
                    )
                }
                _ => continue,
            };
            problems.push(PlanProblem::Disagreement(text));
        }
    }
    problems
}

fn resolve(documents: Vec<Document>) -> (Vec<Parsed>, Vec<PlanProblem>) {
    let (mut resources, mut problems) = (Vec::new(), Vec::new());
    for document in documents {
        match document.resolve() {
            Ok(parsed) => resources.push(parsed),
            Err(wrong) => problems.extend(wrong.into_iter().map(PlanProblem::Resource)),
        }
    }
    // Kinds are ordered so that what others refer to comes first. Only the Mesh, which nothing names,
    // is last: a store that has it was filled whole.
    resources.sort_by_key(|parsed| (parsed.key.kind == Kind::Mesh, parsed.key.kind));
    (resources, problems)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::declared::tests::TWO_CLUSTERS;
    use super::super::fleet::Stage;

    use super::*;
    use crate::config::{ControlFile, GatewayFile, WorkloadFile};

    const RESOURCES: &str = "
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Mesh
metadata: {name: shop}
spec: {trustDomain: shop.example}
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Cluster
metadata: {name: us-west}
spec: {region: us-west}
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Cluster
metadata: {name: eu-central}
spec: {region: eu-central}
---
apiVersion: v1
kind: Service
metadata: {name: frontend, namespace: shop}
spec: {ports: [{port: 80, targetPort: 8080, appProtocol: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: payment, namespace: shop}
spec: {ports: [{port: 80, targetPort: 8080, appProtocol: http}]}
";

    pub(crate) fn made(resources: &str, quiet: bool) -> Result<Plan, Vec<PlanProblem>> {
        let home = Home::resolve(Some("/h".into()), None, None).unwrap();
        let (documents, problems) = isthmus_manifest::read_files(&[("r.yaml", resources)], None);
        assert_eq!(problems, []);
        Plan::make(Given {
            home: &home,
            source: Path::new("/source"),
            file: &UpFile::parse(Path::new("up.yaml"), TWO_CLUSTERS).unwrap(),
            documents,
            number: 7,
            api_token: Sha256::of(b"token"),
            quiet,
        })
    }

    pub(crate) fn plan() -> Plan {
        made(RESOURCES, false).unwrap()
    }

    #[test]
    fn a_store_that_has_the_mesh_was_filled_whole() {
        let kinds: Vec<Kind> = plan().resources.iter().map(|each| each.key.kind).collect();
        assert_eq!(kinds.last(), Some(&Kind::Mesh), "it is written last");
    }

    #[test]
    fn every_process_has_its_address_and_command() {
        let plan = plan();
        let lines: Vec<String> = plan
            .processes
            .iter()
            .map(|each| {
                format!(
                    "{} {} {}",
                    each.full_name(),
                    each.address,
                    each.arguments.join(" ")
                )
            })
            .collect();
        assert_eq!(
            lines,
            [
                "us-west/control 127.7.1.1 control -c /h/clusters/us-west/control.yaml",
                "eu-central/control 127.7.2.1 control -c /h/clusters/eu-central/control.yaml",
                "us-west/gateway-1 127.7.1.2 gateway -c /h/clusters/us-west/gateway-1/gateway.yaml",
                "us-west/frontend-1 127.7.1.10 run -c /h/clusters/us-west/frontend-1/run.yaml",
                "us-west/frontend-2 127.7.1.11 run -c /h/clusters/us-west/frontend-2/run.yaml",
                "us-west/payment-1 127.7.1.12 run -c /h/clusters/us-west/payment-1/run.yaml",
                "us-west/payment-2 127.7.1.13 run -c /h/clusters/us-west/payment-2/run.yaml",
                "us-west/visitor-1 127.7.1.14 run -c /h/clusters/us-west/visitor-1/run.yaml",
                "eu-central/gateway-1 127.7.2.2 gateway -c /h/clusters/eu-central/gateway-1/gateway.yaml",
                "eu-central/gateway-2 127.7.2.3 gateway -c /h/clusters/eu-central/gateway-2/gateway.yaml",
            ]
        );
        let quiet = made(RESOURCES, true).unwrap();
        assert!(!quiet.processes.iter().any(|each| each.name == "visitor-1"));
    }

    #[test]
    fn files_are_what_the_processes_read() {
        let plan = plan();
        for process in &plan.processes {
            let (path, text) = (&process.config, &process.config_text);
            match process.stage {
                Stage::Control => {
                    let file: ControlFile = config::parse(path, text).unwrap();
                    assert_eq!(file.authority.0.as_str(), "us-west");
                    assert_eq!(file.peers.len(), 1);
                }
                Stage::Gateway => {
                    config::parse::<GatewayFile>(path, text).unwrap();
                }
                Stage::Workload => {
                    let file: WorkloadFile = config::parse(path, text).unwrap();
                    assert_eq!(file.address, process.address);
                }
            }
        }
    }

    #[test]
    fn everything_between_clusters_goes_through_the_relay() {
        let plan = plan();
        let [link] = plan.links.as_slice() else {
            panic!("{:?}", plan.links)
        };
        assert_eq!(
            (link.name.as_str(), link.rtt.as_millis()),
            ("us-west-eu-central", 140)
        );
        let routes: Vec<String> = link
            .routes
            .iter()
            .map(|route| format!("{} > {}", route.listen, route.target))
            .collect();
        assert_eq!(
            routes,
            [
                "127.7.1.100:15012 > 127.7.2.1:15012",
                "127.7.1.101:15008 > 127.7.2.2:15008",
                "127.7.1.102:15008 > 127.7.2.3:15008",
                "127.7.2.100:15012 > 127.7.1.1:15012",
                "127.7.2.101:15008 > 127.7.1.2:15008",
            ]
        );
        let links = plan
            .resources
            .iter()
            .filter_map(|parsed| match &parsed.resource {
                Resource::Link(link) => Some(link),
                _ => None,
            });
        let reach: Vec<_> = links.flat_map(|link| &link.reach).collect();
        assert_eq!(
            reach.len(),
            routes.len(),
            "the Link was added and says the same"
        );
        for (reach, route) in reach.iter().zip(&link.routes) {
            assert_eq!((reach.via, reach.address), (route.listen, route.target));
        }
        assert!(plan.manifest().contains("127.7.2.1:15012"));
    }

    #[test]
    fn a_declared_link_is_completed() {
        let declared = format!(
            "{RESOURCES}---\napiVersion: mesh.isthmus.dev/v1alpha1\nkind: Link\nmetadata: {{name: sea}}\n\
             spec: {{between: [eu-central, us-west], rtt: 140ms}}\n"
        );
        let plan = made(&declared, false).unwrap();
        let links: Vec<_> = plan
            .resources
            .iter()
            .filter(|parsed| parsed.key.kind == Kind::Link)
            .collect();
        assert_eq!(links.len(), 1);
        assert_eq!(links[0].key.name.as_str(), "sea");
    }

    #[test]
    fn resources_and_up_yaml_must_agree() {
        let edit = |from: &str, to: &str| RESOURCES.replace(from, to);
        for (resources, expect) in [
            (
                edit(
                    "kind: Mesh\nmetadata: {name: shop}\nspec: {trustDomain: shop.example}",
                    "kind: Mesh\nmetadata: {name: shop}\nspec: {}",
                ),
                "trustDomain",
            ),
            (
                edit("{name: eu-central}", "{name: eu-north}"),
                "eu-central, which no resource file declares",
            ),
            (
                edit("{name: eu-central}", "{name: eu-north}"),
                "eu-north is declared",
            ),
            (
                edit("name: payment", "name: payments"),
                "runs shop/payment in us-west",
            ),
            (
                edit("targetPort: 8080", "targetPort: 8081"),
                "listens on 8080",
            ),
        ] {
            let problems = made(&resources, false).unwrap_err();
            let shown = format!("{problems:?}");
            assert!(shown.contains(expect), "{expect}: {shown}");
        }
    }
}
