//! `isthmus get` and `isthmus describe`.

use std::fmt::Write as _;
use std::process::ExitCode;

use isthmus_api::{ObjectList, StatusView, UnreachableCluster, collection};
use isthmus_model::{Kind, Namespace};
use serde_json::{Value, json};

use super::change::of_clusters;
use super::reference::ObjectRef;
use crate::api_client::ApiClient;
use crate::args::{DescribeArgs, GetArgs};
use crate::config;
use crate::failure::{Failure, Result};
use crate::output::{self, field, last_seen, table};
use crate::setting::Setting;
use crate::status::{STATUS_PATH, cluster_table};

pub(crate) async fn get(setting: &Setting, args: &GetArgs) -> Result<ExitCode> {
    let reference = ObjectRef::parse(&args.object, &setting.namespace)?;
    if args.all_namespaces && reference.name.is_some() {
        return Err(Failure::usage(
            "bad-object",
            "one object is in one namespace: -A does not fit",
        ));
    }
    if args.all_origins && (reference.name.is_some() || !reference.kind.is_of_clusters()) {
        let what = format!(
            "{}: --all-origins lists {} only",
            args.object,
            of_clusters()
        );
        return Err(Failure::usage("bad-object", what));
    }
    let mut client = setting.connect().await?;
    let text = match &reference.name {
        Some(name) => {
            let object: Value = client.get(&reference.path(name)).await?;
            match setting.format {
                Some(format) => output::structured(&object, format),
                None => rows(reference.kind, Shown::default(), &[object]),
            }
        }
        None => {
            let shown = Shown {
                namespaces: args.all_namespaces,
                origins: args.all_origins,
            };
            let list = list(&mut client, &reference, shown).await?;
            match setting.format {
                Some(format) => output::structured(&list, format),
                None => render_list(&reference, shown, &list),
            }
        }
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// What a list is of, and says of each object.
#[derive(Debug, Clone, Copy, Default)]
struct Shown {
    namespaces: bool,
    origins: bool,
}

async fn list(client: &mut ApiClient, reference: &ObjectRef, shown: Shown) -> Result<ObjectList> {
    let namespace = reference.namespace.as_ref().filter(|_| !shown.namespaces);
    let path = collection(reference.kind, namespace.map(Namespace::as_str));
    let mut list: ObjectList = client.get(&path).await?;
    if shown.origins {
        let clusters: ObjectList = client.get(&collection(Kind::Cluster, None)).await?;
        for cluster in &clusters.items {
            client.origin = field(cluster, "/metadata/name").parse().ok();
            // A version that knows none has none.
            let own: Option<ObjectList> = client.find_as(&path).await?;
            list.items.extend(own.into_iter().flat_map(|own| own.items));
        }
    }
    Ok(list)
}

fn render_list(reference: &ObjectRef, shown: Shown, list: &ObjectList) -> String {
    let plural = reference.kind.plural();
    let mut text = match (list.items.is_empty(), &reference.namespace) {
        (true, Some(namespace)) if !shown.namespaces => {
            format!("no {plural} in namespace {namespace} (-A looks in all)\n")
        }
        (true, _) => format!("no {plural}\n"),
        (false, _) => rows(reference.kind, shown, &list.items),
    };
    text += &unreachable(list);
    text
}

/// Clusters that could not be asked: what they run is missing from the list.
fn unreachable(list: &ObjectList) -> String {
    let line = |one: &UnreachableCluster| {
        let seen = last_seen(one.last_seen_ms);
        format!("{}: unreachable, {seen}\n", one.cluster)
    };
    list.unreachable.iter().map(line).collect()
}

/// The columns of a kind behind its name: heading and how the cell is read from an object.
type Column = (&'static str, fn(&Value) -> String);

fn columns(kind: Kind) -> &'static [Column] {
    match kind {
        Kind::Mesh => &[
            ("TRUST DOMAIN", |object| field(object, "/spec/trustDomain")),
            ("EGRESS", |object| field(object, "/spec/egress")),
        ],
        Kind::Cluster => &[
            ("REGION", |object| field(object, "/spec/region")),
            ("CONTROL", |object| field(object, "/spec/control")),
        ],
        Kind::Link => &[
            ("BETWEEN", |object| texts(object, "/spec/between", " - ")),
            ("RTT", |object| field(object, "/spec/rtt")),
        ],
        Kind::Namespace | Kind::ServiceExport => &[("ACCEPTED", |object| accepted(object))],
        Kind::Service => &[("PORTS", ports), ("ACCEPTED", |object| accepted(object))],
        Kind::HttpRoute => &[
            ("PARENTS", |object| named(object, "/spec/parentRefs")),
            ("ACCEPTED", |object| accepted(object)),
        ],
        Kind::TrafficPolicy => &[
            ("TARGETS", |object| named(object, "/spec/targetRefs")),
            ("ACCEPTED", |object| accepted(object)),
        ],
        Kind::Workload => &[
            ("SERVICE", |object| field(object, "/spec/service")),
            ("CLUSTER", |object| field(object, "/spec/cluster")),
            ("ADDRESS", |object| field(object, "/spec/address")),
            ("HEALTH", |object| field(object, "/status/health")),
        ],
    }
}

fn rows(kind: Kind, shown: Shown, objects: &[Value]) -> String {
    let mut columns: Vec<Column> = self::columns(kind).to_vec();
    columns.insert(0, ("NAME", |object| field(object, "/metadata/name")));
    if shown.namespaces && kind.namespaced() {
        columns.insert(
            0,
            ("NAMESPACE", |object| field(object, "/metadata/namespace")),
        );
    }
    if shown.origins {
        columns.insert(0, ("ORIGIN", origin));
    }
    let headings: Vec<_> = columns.iter().map(|(heading, _)| *heading).collect();
    let cells = |object| columns.iter().map(move |(_, cell)| cell(object));
    table(&headings, objects.iter().map(cells))
}

/// To whom it belongs.
fn origin(object: &Value) -> String {
    match field(object, "/status/origin").as_str() {
        "-" => "mesh".to_owned(),
        cluster => cluster.to_owned(),
    }
}

fn items<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn texts(object: &Value, pointer: &str, between: &str) -> String {
    let texts: Vec<&str> = items(object, pointer).filter_map(Value::as_str).collect();
    texts.join(between)
}

fn ports(object: &Value) -> String {
    let ports: Vec<String> = items(object, "/spec/ports")
        .map(|port| field(port, "/port"))
        .collect();
    ports.join(",")
}

/// `Kind/name` of each reference.
fn named(object: &Value, pointer: &str) -> String {
    let name = |reference: &Value| {
        format!(
            "{}/{}",
            field(reference, "/kind"),
            field(reference, "/name")
        )
    };
    let names: Vec<String> = items(object, pointer).map(name).collect();
    names.join(",")
}

/// The conditions of an object; those of a route stand with its parents.
pub(crate) fn conditions(object: &Value) -> Vec<&Value> {
    let parents = items(object, "/status/parents").flat_map(|parent| items(parent, "/conditions"));
    items(object, "/status/conditions").chain(parents).collect()
}

fn accepted(object: &Value) -> String {
    let found = conditions(object);
    match found
        .iter()
        .find(|condition| condition["type"] == "Accepted")
    {
        None => "-".to_owned(),
        Some(condition) if condition["status"] == "False" => {
            format!("no: {}", field(condition, "/reason"))
        }
        Some(condition) => match field(condition, "/status").as_str() {
            "True" => "yes".to_owned(),
            _ => "unknown".to_owned(),
        },
    }
}

pub(crate) async fn describe(setting: &Setting, args: &DescribeArgs) -> Result<ExitCode> {
    let (reference, name) = ObjectRef::parse_one(&args.object, &setting.namespace)?;
    let mut client = setting.connect().await?;
    let object: Value = client.get(&reference.path(&name)).await?;
    let text = match setting.format {
        Some(format) => output::structured(&object, format),
        None => {
            let mut text = description(reference.kind, &object);
            match reference.kind {
                Kind::Service => {
                    text += &service_details(&mut client, &reference, name.as_str()).await?;
                }
                Kind::Cluster => {
                    let view: StatusView = client.get(STATUS_PATH).await?;
                    let seen = view
                        .clusters
                        .iter()
                        .filter(|each| each.name == name.as_str());
                    text += "\n";
                    text += &cluster_table(seen);
                }
                _ => {}
            }
            text
        }
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn description(kind: Kind, object: &Value) -> String {
    let name = match field(object, "/metadata/namespace").as_str() {
        "-" => field(object, "/metadata/name"),
        namespace => format!("{namespace}/{}", field(object, "/metadata/name")),
    };
    let mut text = format!("{kind} {name}\n");
    for (label, pointer) in [
        ("generation", "/metadata/generation"),
        ("version", "/metadata/resourceVersion"),
        ("created", "/metadata/creationTimestamp"),
        ("changed", "/metadata/managedFields/0/time"),
        ("by", "/metadata/managedFields/0/manager"),
    ] {
        let value = field(object, pointer);
        if value != "-" {
            // Writing into a string cannot fail.
            let _ = writeln!(text, "  {label:<12}{value}");
        }
    }
    text += "\n";
    text += &config::to_yaml(&super::compare::essence(object));
    let mut status = object["status"].clone();
    if let Value::Object(fields) = &mut status {
        // These have a table of their own.
        fields.retain(|name, _| !matches!(name.as_str(), "conditions" | "parents"));
        if !fields.is_empty() {
            text += &config::to_yaml(&json!({"status": status}));
        }
    }
    let rows = conditions(object).into_iter().map(|condition| {
        ["/type", "/status", "/reason", "/message"].map(|pointer| field(condition, pointer))
    });
    let conditions = table(&["CONDITION", "STATUS", "REASON", "MESSAGE"], rows);
    if !conditions.is_empty() {
        text += "\n";
        text += &conditions;
    }
    text
}

/// Where a service runs, by the answering cluster's knowledge, and each of its workloads.
async fn service_details(
    client: &mut ApiClient,
    reference: &ObjectRef,
    name: &str,
) -> Result<String> {
    let namespace = reference.namespace.as_ref().map(Namespace::as_str);
    let full = format!("{}/{name}", namespace.unwrap_or_default());
    let view: StatusView = client.get(STATUS_PATH).await?;
    let service = view
        .services
        .into_iter()
        .find(|service| service.name == full);
    let shares = service.into_iter().flat_map(|service| service.clusters);
    let shares = shares.map(|share| {
        [
            share.cluster,
            share.healthy.to_string(),
            share.total.to_string(),
        ]
    });
    let mut text = String::new();
    let shares = table(&["CLUSTER", "HEALTHY", "TOTAL"], shares);
    if !shares.is_empty() {
        text = format!("\n{shares}");
    }
    let mut list: ObjectList = client.get(&collection(Kind::Workload, namespace)).await?;
    list.items
        .retain(|workload| field(workload, "/spec/service") == name);
    let workloads = rows(Kind::Workload, Shown::default(), &list.items) + &unreachable(&list);
    if !workloads.is_empty() {
        text.push('\n');
        text.push_str(&workloads);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Shown {
        Shown {
            namespaces: true,
            origins: false,
        }
    }

    #[test]
    fn of_all_origins_each_says_whose_it_is() {
        let policy = |origin: Value| json!({"metadata": {"name": "slow"}, "status": origin});
        let objects = [policy(json!({})), policy(json!({"origin": "us-west"}))];
        let shown = Shown {
            namespaces: false,
            origins: true,
        };
        assert_eq!(
            rows(Kind::TrafficPolicy, shown, &objects),
            "ORIGIN   NAME  TARGETS  ACCEPTED\nmesh     slow           -\nus-west  slow           -\n"
        );
    }

    #[test]
    fn objects_are_rows() {
        let service = json!({
            "metadata": {"name": "cart", "namespace": "shop"},
            "spec": {"ports": [{"port": 80}, {"port": 6379}]},
            "status": {"conditions": [{"type": "Accepted", "status": "True"}]},
        });
        assert_eq!(
            rows(Kind::Service, all(), &[service]),
            "NAMESPACE  NAME  PORTS    ACCEPTED\nshop       cart  80,6379  yes\n"
        );
        let route = json!({
            "metadata": {"name": "cart"},
            "spec": {"parentRefs": [{"kind": "Service", "name": "cart"}]},
            "status": {"parents": [{"conditions":
                [{"type": "Accepted", "status": "False", "reason": "NoMatchingParent"}]}]},
        });
        assert_eq!(
            rows(Kind::HttpRoute, Shown::default(), &[route]),
            "NAME  PARENTS       ACCEPTED\ncart  Service/cart  no: NoMatchingParent\n"
        );
        for kind in Kind::ALL {
            assert!(
                rows(kind, all(), &[json!({})]).contains('-'),
                "{kind} has gaps"
            );
        }
    }

    #[test]
    fn the_description_of_a_workload_says_its_health() {
        let workload = json!({
            "metadata": {"name": "cart-1", "namespace": "shop"},
            "spec": {"cluster": "us-west"},
            "status": {"health": "Healthy"},
        });
        assert_eq!(
            description(Kind::Workload, &workload),
            "Workload shop/cart-1\n\nspec:\n  cluster: us-west\nstatus:\n  health: Healthy\n"
        );
    }

    #[test]
    fn what_is_not_there_is_said() {
        let shop = Namespace::new("shop").unwrap();
        let workloads = ObjectRef::parse("workloads", &shop).unwrap();
        let list: ObjectList = serde_json::from_value(json!({
            "kind": "WorkloadList", "apiVersion": "mesh.isthmus.dev/v1alpha1",
            "metadata": {"resourceVersion": "3"}, "items": [],
            "unreachable": [{"cluster": "eu-central", "lastSeenMs": 4100}],
        }))
        .unwrap();
        assert_eq!(
            render_list(&workloads, Shown::default(), &list),
            "no workloads in namespace shop (-A looks in all)\n\
             eu-central: unreachable, last seen 4 s ago\n"
        );
        assert!(render_list(&workloads, all(), &list).starts_with("no workloads\n"));
    }
}
