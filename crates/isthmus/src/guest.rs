//! Who comes into a mesh that `up` runs without being declared: the program of `isthmus run` without
//! a file, and the caller of `isthmus load`. Each gets an address, a token and a directory.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;

use isthmus_api::{TokenReply, TokenRequest, object};
use isthmus_model::{ClusterName, Kind, LabelKey, ServiceName};
use serde_json::Value;

use crate::api_client::{ApiClient, connect};
use crate::args::RunArgs;
use crate::config::ClientsEntry;
use crate::config::{self, PROGRAM_DEFAULT, ProgramEntry, Text, WorkloadFile};
use crate::failure::{Failure, Result};
use crate::home::{self, Context, Home, try_lock};
use crate::setting::{Setting, runtime};
use crate::token;
use crate::up::{CONTROL_PORT, GUESTS, MESH_PORT};

/// A program that was let in, until this is dropped.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) config: PathBuf,
    pub(crate) file: WorkloadFile,
    #[expect(dead_code, reason = "held, never read")]
    claim: Claim,
}

/// An address that nobody else takes meanwhile, and a directory of its own. The address is given
/// back, and the directory goes, when this is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) address: Ipv4Addr,
    pub(crate) directory: PathBuf,
    #[expect(dead_code, reason = "held, never read")]
    lock: File,
}

/// A place in a cluster and the token to join it with.
#[derive(Debug)]
pub(crate) struct Admission {
    pub(crate) claim: Claim,
    pub(crate) token: TokenReply,
}

impl Claim {
    /// The cluster's control plane, as a process with this address reaches it.
    pub(crate) fn control(&self) -> SocketAddr {
        let [a, b, c, _] = self.address.octets();
        (Ipv4Addr::new(a, b, c, 1), CONTROL_PORT).into()
    }

    /// A name that is unique in the cluster as long as the claim is held.
    pub(crate) fn name(&self, of: &str) -> String {
        let [.., last] = self.address.octets();
        format!("{of}-{last}")
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // What stays behind is overwritten by the next who gets the address.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Lets a process into the cluster of `client`.
///
/// Errors: the cluster is not of this machine, has no address left, or gives no token.
pub(crate) async fn enter(
    home: &Home,
    client: &mut ApiClient,
    request: &TokenRequest,
) -> Result<Admission> {
    let claim = claim(home, &context(home, &client.cluster)?)?;
    let token = token::mint(client, request).await?;
    Ok(Admission { claim, token })
}

/// Errors: the mesh has no such service, or nobody answers.
pub(crate) async fn find_service(client: &mut ApiClient, service: &ServiceName) -> Result<Value> {
    let path = object(
        Kind::Service,
        Some(service.namespace.as_str()),
        service.name.as_str(),
    );
    client.find(&path).await?.ok_or_else(|| {
        Failure::failed(
            "no-such-service",
            format!("the mesh has no service {service}"),
        )
        .next("declare it first: `isthmus apply -f FILE`; `isthmus get services -A` lists all")
    })
}

/// Errors: no such cluster or service, nobody answers, no address is left.
pub(crate) fn admit(setting: &Setting, args: RunArgs) -> Result<Guest> {
    let cluster = setting.required_cluster()?.clone();
    let (Some(service), Some(port)) = (args.service, args.port) else {
        return Err(Failure::usage(
            "no-service",
            "a program needs --service and --port",
        ));
    };
    let labels = args
        .label
        .iter()
        .map(|label| parse_label(label))
        .collect::<Result<_>>()?;
    let home = &setting.home;
    let claim = runtime()?.block_on(async {
        let mut client = connect(home, Some(&cluster)).await?;
        check_port(&find_service(&mut client, &service).await?, &service, port)?;
        let request = TokenRequest {
            namespace: service.namespace.to_string(),
            account: service.name.to_string(),
            service: Some(service.to_string()),
            lifetime_seconds: None,
        };
        let Admission { claim, token } = enter(home, &mut client, &request).await?;
        home::write_file(&claim.directory.join("token"), &token.token)?;
        Ok::<_, Failure>(claim)
    })?;
    let file = WorkloadFile {
        name: claim.name(service.name.as_str()),
        cluster: Text(cluster),
        address: claim.address.into(),
        control: vec![claim.control()],
        token_file: Some(claim.directory.join("token")),
        state: claim.directory.join("state"),
        access_log: false,
        workers: None,
        memory: None,
        drain_limit: None,
        clients: ClientsEntry::default(),
        service: Some(Text(service)),
        account: None,
        labels,
        zone: None,
        listeners: Vec::new(),
        program: ProgramEntry {
            address: args.program_address.unwrap_or(PROGRAM_DEFAULT),
            port: Some(port),
            command: args.command,
            directory: None,
        },
    };
    let config = claim.directory.join("run.yaml");
    home::write_file(&config, &config::to_yaml(&file))?;
    Ok(Guest {
        config,
        file,
        claim,
    })
}

fn parse_label(text: &str) -> Result<(Text<LabelKey>, String)> {
    let wrong = |cause: String| {
        Failure::usage("bad-label", format!("{text:?} is not a label: {cause}"))
            .next("write --label key=value")
    };
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| wrong("it has no '='".to_owned()))?;
    let key = key
        .parse()
        .map_err(|error: isthmus_model::NameError| wrong(error.to_string()))?;
    Ok((Text(key), value.to_owned()))
}

/// The program must listen where the service's callers are sent.
fn check_port(found: &Value, service: &ServiceName, port: u16) -> Result<()> {
    let ports = target_ports(found);
    if ports.contains(&u64::from(port)) {
        return Ok(());
    }
    let what = format!("service {service} sends to no port {port} of its programs");
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    Err(Failure::failed("wrong-port", what)
        .next(format!("its target ports are: {}", ports.join(", "))))
}

/// `targetPort` of each port, which is `port` where it is left out.
fn target_ports(service: &Value) -> Vec<u64> {
    let ports = service.pointer("/spec/ports").and_then(Value::as_array);
    let target = |port: &Value| port["targetPort"].as_u64().or(port["port"].as_u64());
    ports.into_iter().flatten().filter_map(target).collect()
}

fn context(home: &Home, cluster: &ClusterName) -> Result<Context> {
    let mesh = home.read_mesh()?;
    let found = mesh
        .into_iter()
        .flat_map(|mesh| mesh.clusters)
        .find(|context| context.name.0 == *cluster);
    found.ok_or_else(|| {
        Failure::failed(
            "no-such-cluster",
            format!("this home knows no cluster {cluster}"),
        )
    })
}

/// The first address of the cluster that nobody has.
fn claim(home: &Home, context: &Context) -> Result<Claim> {
    let IpAddr::V4(control) = context.api.ip() else {
        return Err(elsewhere(context));
    };
    if !control.is_loopback() {
        return Err(elsewhere(context));
    }
    let [a, b, c, _] = control.octets();
    for last in GUESTS {
        let address = Ipv4Addr::new(a, b, c, last);
        let directory = home.addresses().join(address.to_string());
        home::make_directory(&home.addresses())?;
        let lock =
            try_lock(&home.addresses().join(format!("{address}.lock"))).map_err(|error| {
                Failure::failed("home-unwritable", "an address cannot be claimed").caused_by(&error)
            })?;
        let Some(lock) = lock else { continue };
        if TcpListener::bind((address, MESH_PORT)).is_ok() {
            // Left over from somebody who was killed.
            let _ = fs::remove_dir_all(&directory);
            home::make_directory(&directory)?;
            return Ok(Claim {
                address,
                directory,
                lock,
            });
        }
    }
    Err(Failure::failed(
        "no-address",
        format!("cluster {} has no address left", context.name),
    )
    .next("stop a program that `isthmus run` started there"))
}

fn elsewhere(context: &Context) -> Failure {
    let what = format!("cluster {} is not one of this machine's", context.name);
    Failure::failed("not-local", what)
        .next("`isthmus run -c` takes a run.yaml with this machine's address; `load` runs where `up` does")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_claimed_once() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::resolve(Some(directory.path().to_owned()), None, None).unwrap();
        let context = |api: &str| Context {
            name: Text("a".parse().unwrap()),
            api: api.parse().unwrap(),
        };
        let local = context("127.250.1.1:7443");
        let one = claim(&home, &local).unwrap();
        let two = claim(&home, &local).unwrap();
        assert_eq!(
            (one.address.octets()[3], two.address.octets()[3]),
            (200, 201)
        );
        drop(one);
        assert_eq!(claim(&home, &local).unwrap().address.octets()[3], 200);
        assert_eq!(
            claim(&home, &context("10.0.0.1:7443")).unwrap_err().code,
            "not-local"
        );
    }

    #[test]
    fn labels_and_ports() {
        assert!(parse_label("version=v2").is_ok());
        for text in ["version", "=v2", "a b=c"] {
            assert!(parse_label(text).is_err(), "{text}");
        }
        let service = serde_json::json!({"spec": {"ports": [{"port": 80, "targetPort": 8080}, {"port": 6379}]}});
        assert_eq!(target_ports(&service), [8080, 6379]);
    }
}
