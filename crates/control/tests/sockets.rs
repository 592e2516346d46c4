//! Control planes on real sockets: the API, joining, a proxy's stream, clusters that find each other.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use isthmus_control::{
    Addresses, ApiToken, AtRest, Config, Control, ControlError, KeySource, Ports, init,
};
use isthmus_identity::{
    CertificateRequest, JoinToken, KeyPair, Leaf, LeafCell, MeshKey, Terms, TrustBundle, TrustCell,
    client_config, control_server_name, pinned_client_config,
};
use isthmus_model::{ClusterName, TrustDomain};
use isthmus_wire::proto;
use isthmus_wire::proto::control_client::ControlClient;
use rustls::ClientConfig;
use rustls::time_provider::DefaultTimeProvider;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

const BEARER: &str = "let me in";

/// A mesh key, and where its clusters keep their data.
struct Mesh {
    key: MeshKey,
    home: tempfile::TempDir,
}

struct Cluster {
    name: ClusterName,
    addresses: Addresses,
    trust: Arc<TrustCell>,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

impl Mesh {
    fn new() -> Self {
        let trust_domain = TrustDomain::new("shop.mesh").unwrap();
        Self {
            key: MeshKey::found(&trust_domain, SystemTime::now()).unwrap(),
            home: tempfile::tempdir().unwrap(),
        }
    }

    fn config(&self, name: &str, peers: Vec<SocketAddr>) -> Config {
        let hash = digest(&SHA256, BEARER.as_bytes());
        Config {
            mesh: "shop".parse().unwrap(),
            trust_domain: "shop.mesh".parse().unwrap(),
            cluster: name.parse().unwrap(),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            ports: Ports {
                mesh: 0,
                api: 0,
                metrics: 0,
            },
            data: self.home.path().join(name),
            authority: "west".parse().unwrap(),
            peers,
            api_tokens: vec![ApiToken {
                name: "ada".to_owned(),
                sha256: hash.as_ref().try_into().unwrap(),
            }],
            leaf_lifetime: Duration::from_hours(1),
            renew_after: Duration::from_mins(10),
            at_rest: None,
        }
    }

    /// Signs the cluster in, if that was not done, and starts it.
    async fn start(&self, name: &str, peers: Vec<SocketAddr>) -> Cluster {
        self.start_as(self.config(name, peers)).await.unwrap()
    }

    async fn start_as(&self, config: Config) -> Result<Cluster, ControlError> {
        let name = config.cluster.clone();
        let made = init(&config)?;
        if !made.certificate.exists() {
            let request = std::fs::read_to_string(&made.request).unwrap();
            let request = CertificateRequest::from_pem(&request).unwrap();
            let lifetime = Duration::from_hours(24);
            let chain =
                self.key
                    .sign_cluster(&request, &config.cluster, SystemTime::now(), lifetime);
            std::fs::write(&made.certificate, chain.unwrap().to_pem()).unwrap();
        }
        let control = Control::start(config).await?;
        let (stop, stopped) = oneshot::channel();
        Ok(Cluster {
            name,
            addresses: control.addresses(),
            trust: Arc::new(TrustCell::new(self.key.bundle().clone())),
            stop,
            running: tokio::spawn(async {
                let stopped = async { drop(stopped.await) };
                control.until(stopped).await.unwrap();
            }),
        })
    }
}

impl Cluster {
    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.running.await.unwrap();
    }

    async fn connect(&self, address: SocketAddr, config: ClientConfig) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = control_server_name(&self.name);
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .unwrap()
    }

    async fn request(
        &self,
        bearer: &str,
        method: &str,
        path: &str,
        body: &Value,
    ) -> hyper::Response<Incoming> {
        let clock = Arc::new(DefaultTimeProvider);
        let config = client_config(None, self.trust.clone(), &[b"http/1.1"], clock);
        let stream = self.connect(self.addresses.api, config).await;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "control")
            .header("authorization", format!("Bearer {bearer}"))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_string())))
            .unwrap();
        sender.send_request(request).await.unwrap()
    }

    async fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let reply = self.request(BEARER, method, path, body).await;
        let code = reply.status().as_u16();
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&body).unwrap())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.call("GET", path, &Value::Null).await
    }

    async fn create(&self, path: &str, body: &Value) {
        let (code, reply) = self.call("POST", path, body).await;
        assert_eq!(code, 201, "{reply}");
    }

    /// Asks for the status until it is as wanted.
    async fn until(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let asking = async {
            loop {
                let (_, status) = self.get("/mesh/v1/status").await;
                if wanted(&status) {
                    return status;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), asking)
            .await
            .expect("in time")
    }

    async fn token(&self, account: &str) -> JoinToken {
        let request = json!({"namespace": "shop", "account": account, "service": "shop/cart"});
        let (code, reply) = self.call("POST", "/mesh/v1/tokens", &request).await;
        assert_eq!(code, 201, "{reply}");
        JoinToken::parse(reply["token"].as_str().unwrap()).unwrap()
    }

    async fn channel(&self, config: ClientConfig) -> Channel {
        let mut stream = Some(TokioIo::new(
            self.connect(self.addresses.mesh, config).await,
        ));
        let connector = tower_like::service_fn(move |_| {
            let stream = stream.take();
            async move { stream.ok_or_else(|| std::io::Error::other("once")) }
        });
        Endpoint::from_static("http://control")
            .connect_with_connector(connector)
            .await
            .unwrap()
    }

    /// Joins with a token: a leaf, or why not.
    async fn enroll(
        &self,
        token: &JoinToken,
        key: &KeyPair,
    ) -> Result<proto::Certificates, tonic::Status> {
        let clock = Arc::new(DefaultTimeProvider);
        let config = pinned_client_config(token.root(), &[b"h2"], clock);
        let request = proto::EnrollRequest {
            token_id: token.id().to_string(),
            token_secret: token.secret().as_bytes().to_vec().into(),
            certificate_request: key.certificate_request().unwrap(),
        };
        let reply = ControlClient::new(self.channel(config).await)
            .enroll(request)
            .await?;
        Ok(reply.into_inner())
    }

    /// As the proxy that holds the leaf.
    async fn client(
        &self,
        key: KeyPair,
        certificates: &proto::Certificates,
    ) -> ControlClient<Channel> {
        let chain = isthmus_identity::Certificates::from_pem(&certificates.chain).unwrap();
        let leaf = Arc::new(LeafCell::new(Leaf::new(key, chain).unwrap()));
        let trust = TrustBundle::from_pem(&certificates.trust_bundle).unwrap();
        let clock = Arc::new(DefaultTimeProvider);
        let config = client_config(Some(leaf), Arc::new(TrustCell::new(trust)), &[b"h2"], clock);
        ControlClient::new(self.channel(config).await)
    }
}

/// What tower's `service_fn` does.
mod tower_like {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    pub(crate) struct ServiceFn<F>(F);

    pub(crate) fn service_fn<F>(function: F) -> ServiceFn<F> {
        ServiceFn(function)
    }

    impl<F, R, T, E> tonic::codegen::Service<http::Uri> for ServiceFn<F>
    where
        F: FnMut(http::Uri) -> R,
        R: Future<Output = Result<T, E>> + Send + 'static,
    {
        type Response = T;
        type Error = E;
        type Future = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

        fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), E>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, uri: http::Uri) -> Self::Future {
            Box::pin((self.0)(uri))
        }
    }
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"ports": [{"name": "http", "port": 80}]},
    })
}

fn cluster(key: &MeshKey, name: &str, control: SocketAddr) -> Value {
    let mut object = json!({
        "apiVersion": "mesh.isthmus.dev/v1alpha1",
        "kind": "Cluster",
        "metadata": {"name": name},
        "spec": {"region": name, "control": control.to_string()},
    });
    let (_, resource) = isthmus_manifest::parse_object(object.clone()).unwrap();
    let signature = key.sign_terms(&Terms::of(&resource).unwrap(), 1).unwrap();
    object["metadata"]["annotations"] =
        json!({isthmus_manifest::SIGNATURE_ANNOTATION: signature.to_string()});
    object
}

const SERVICES: &str = "/api/v1/namespaces/shop/services";
const CLUSTERS: &str = "/apis/mesh.isthmus.dev/v1alpha1/clusters";

/// Is this text in any file of the folder?
fn lies_in(folder: &std::path::Path, text: &str) -> bool {
    let files = std::fs::read_dir(folder).unwrap();
    let mut contents = files.map(|file| std::fs::read(file.unwrap().path()).unwrap());
    contents.any(|content| {
        let mut windows = content.windows(text.len());
        windows.any(|window| window == text.as_bytes())
    })
}

#[tokio::test]
async fn what_a_control_plane_keeps_is_sealed_and_its_key_can_be_changed() {
    let mesh = Mesh::new();
    let data = mesh.home.path().join("west");
    let key = |digit: &str| {
        let path = mesh.home.path().join(digit);
        std::fs::write(&path, digit.repeat(64)).unwrap();
        KeySource::File(path)
    };
    let config = |keys: &[&str]| Config {
        at_rest: keys.split_first().map(|(first, previous)| AtRest {
            key: key(first),
            previous: previous.iter().map(|digit| key(digit)).collect(),
        }),
        ..mesh.config("west", Vec::new())
    };
    // It begins with everything open, as one that was set up without a key.
    let west = mesh.start_as(config(&[])).await.unwrap();
    let mut cart = service("cart");
    cart["metadata"]["annotations"] = json!({"who": "must-not-be-read"});
    west.create(SERVICES, &cart).await;
    west.stop().await;
    assert!(lies_in(&data, "must-not-be-read") && lies_in(&data, "PRIVATE KEY"));

    let starts = [&["a"][..], &["a"], &["b", "a"], &["b"]];
    for (number, keys) in starts.into_iter().enumerate() {
        let west = mesh.start_as(config(keys)).await.unwrap();
        let (code, found) = west.get(&format!("{SERVICES}/cart")).await;
        assert_eq!(code, 200, "{found}");
        assert_eq!(found["metadata"]["annotations"]["who"], "must-not-be-read");
        let more = service(&format!("more-{number}"));
        west.create(SERVICES, &more).await;
        west.stop().await;
        assert!(!lies_in(&data, "must-not-be-read") && !lies_in(&data, "PRIVATE KEY"));
    }
    for keys in [&[][..], &["a"], &["c", "a"]] {
        let refused = mesh.start_as(config(keys)).await.err().unwrap();
        let said = refused.to_string();
        assert!(said.contains("data.key"), "{said}");
    }

    // Nor does one that runs lose its keys to another that is told to change them.
    let west = mesh.start_as(config(&["b"])).await.unwrap();
    let refused = mesh.start_as(config(&["d", "b"])).await.err().unwrap();
    assert!(
        refused.to_string().contains("in use by another process"),
        "{refused}"
    );
    west.stop().await;
    mesh.start_as(config(&["b"])).await.unwrap().stop().await;

    // One that has a key from the beginning never lies open.
    let east = Config {
        data: mesh.home.path().join("east"),
        at_rest: config(&["a"]).at_rest,
        ..mesh.config("east", Vec::new())
    };
    let data = east.data.clone();
    mesh.start_as(east).await.unwrap().stop().await;
    assert!(data.join("cluster.key.sealed").exists() && !data.join("cluster.key").exists());
    assert!(!lies_in(&data, "PRIVATE KEY"));
}

#[tokio::test]
async fn the_api_speaks_kubernetes() {
    let mesh = Mesh::new();
    let west = mesh.start("west", Vec::new()).await;
    for (bearer, method, path, body, code) in [
        ("wrong", "GET", SERVICES, Value::Null, 401),
        ("", "GET", "/mesh/v1/status", Value::Null, 401),
        ("", "GET", "/healthz", Value::Null, 200),
        ("", "GET", "/readyz", Value::Null, 200),
        (BEARER, "POST", SERVICES, service("cart"), 201),
        (BEARER, "POST", SERVICES, service("cart"), 409),
        (
            BEARER,
            "GET",
            "/api/v1/namespaces/shop/services/cart",
            Value::Null,
            200,
        ),
        (
            BEARER,
            "GET",
            "/api/v1/namespaces/shop/services/ghost",
            Value::Null,
            404,
        ),
        (BEARER, "GET", "/api/v1/services", Value::Null, 200),
        (BEARER, "GET", "/api/v1/pods", Value::Null, 404),
        (BEARER, "GET", "/api/v1/services?wrong=1", Value::Null, 400),
        (
            BEARER,
            "PATCH",
            "/api/v1/namespaces/shop/services/cart",
            Value::Null,
            405,
        ),
        (BEARER, "POST", SERVICES, json!("text"), 422),
        (BEARER, "POST", "/api/v1/services", service("payment"), 400),
        (
            BEARER,
            "POST",
            "/api/v1/namespaces/shop/services?dryRun=All",
            service("payment"),
            201,
        ),
        (BEARER, "POST", SERVICES, json!("x".repeat(2_000_000)), 413),
        (
            BEARER,
            "DELETE",
            "/api/v1/namespaces/shop/services/payment",
            Value::Null,
            404,
        ),
        (
            BEARER,
            "GET",
            "/apis/mesh.isthmus.dev/v1alpha1/workloads",
            Value::Null,
            200,
        ),
    ] {
        let reply = west.request(bearer, method, path, &body).await;
        assert_eq!(reply.status().as_u16(), code, "{method} {path}");
    }
    let (_, found) = west.get("/api/v1/pods").await;
    let message = found["message"].as_str().unwrap();
    assert!(
        message.contains("the kinds are meshes, clusters"),
        "{message}"
    );

    let watch = west
        .request(BEARER, "GET", "/api/v1/services?watch=true", &Value::Null)
        .await;
    let mut lines = watch.into_body();
    let mut text = String::new();
    west.create(SERVICES, &service("payment")).await;
    while !text.contains("\"payment\"") {
        let frame = lines.frame().await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
    }
    let kinds: Vec<_> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["type"].clone())
        .collect();
    assert_eq!(kinds, ["ADDED", "BOOKMARK", "ADDED"]);
    drop(lines);

    west.stop().await;
    let west = mesh.start("west", Vec::new()).await;
    let (_, list) = west.get(SERVICES).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 2, "{list}");
    west.stop().await;
}

#[tokio::test]
async fn a_proxy_joins_with_a_token_and_is_told_what_it_wants() {
    let mesh = Mesh::new();
    let west = mesh.start("west", Vec::new()).await;
    west.create(SERVICES, &service("cart")).await;
    let token = west.token("cart").await;
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let certificates = west.enroll(&token, &key).await.unwrap();
    assert_eq!(certificates.identity, "spiffe://shop.mesh/ns/shop/sa/cart");
    assert_eq!(certificates.node_key.len(), 32);
    assert!(
        west.enroll(&token, &key).await.is_ok(),
        "the reply may have been lost"
    );
    let refused = west.enroll(&token, &other).await.unwrap_err();
    assert!(refused.message().contains("has been used"), "{refused}");

    let stranger = client_config(
        None,
        west.trust.clone(),
        &[b"h2"],
        Arc::new(DefaultTimeProvider),
    );
    let mut stranger = ControlClient::new(west.channel(stranger).await);
    let request = key.certificate_request().unwrap();
    let renewal = proto::RenewRequest {
        certificate_request: request,
    };
    let refused = stranger.renew(renewal.clone()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);

    let mut client = west.client(key, &certificates).await;
    let renewed = client.renew(renewal).await.unwrap().into_inner();
    assert_eq!(renewed.identity, certificates.identity);
    assert!(renewed.node_key.is_empty());

    let (say, said) = tokio::sync::mpsc::channel(8);
    let tell = |message| {
        say.try_send(proto::FromProxy {
            message: Some(message),
        })
        .unwrap();
    };
    tell(proto::from_proxy::Message::Hello(proto::Hello {
        process: "cart-1".to_owned(),
        topics: vec!["service/shop/cart".to_owned()],
        number: 1,
        ..proto::Hello::default()
    }));
    let mut heard = client
        .sync(ReceiverStream::new(said))
        .await
        .unwrap()
        .into_inner();
    let mut next = async || heard.message().await.unwrap().unwrap().message.unwrap();
    assert!(matches!(next().await, proto::to_proxy::Message::Welcome(_)));
    let proto::to_proxy::Message::Push(push) = next().await else {
        panic!("a push")
    };
    assert_eq!(push.resources[0].name, "service");
    assert_eq!(push.complete, ["service/shop/cart"]);
    tell(proto::from_proxy::Message::Ack(proto::Ack {
        nonce: push.nonce,
        rejected: Vec::new(),
    }));
    tell(proto::from_proxy::Message::Workload(
        proto::WorkloadReport {
            namespace: "shop".to_owned(),
            service: "cart".to_owned(),
            address: "127.0.0.9:15008".to_owned(),
            health: proto::Health::Healthy.into(),
            ..proto::WorkloadReport::default()
        },
    ));
    let proto::to_proxy::Message::Push(push) = next().await else {
        panic!("a push")
    };
    assert!(push.resources[0].name.starts_with("workload/cart-"));
    let (_, list) = west.get("/apis/mesh.isthmus.dev/v1alpha1/workloads").await;
    assert_eq!(list["items"][0]["spec"]["address"], "127.0.0.9:15008");

    west.stop.send(()).unwrap();
    let end = next().await;
    assert!(
        matches!(end, proto::to_proxy::Message::Closing(_)),
        "{end:?}"
    );
    west.running.await.unwrap();
}

#[tokio::test]
async fn clusters_find_each_other_and_agree() {
    let mesh = Mesh::new();
    let west = mesh.start("west", Vec::new()).await;
    let east = mesh.start("east", vec![west.addresses.mesh]).await;
    let south = mesh.start("south", vec![west.addresses.mesh]).await;
    for cluster_of in [&west, &east, &south] {
        let object = cluster(
            &mesh.key,
            cluster_of.name.as_str(),
            cluster_of.addresses.mesh,
        );
        west.create(CLUSTERS, &object).await;
    }
    let all_live = |status: &Value| {
        let clusters = status["clusters"].as_array().unwrap();
        let heard =
            |cluster: &&Value| ["own", "live"].contains(&cluster["contact"].as_str().unwrap());
        clusters.iter().filter(heard).count() == 3
    };
    for cluster_of in [&west, &east, &south] {
        cluster_of.until(all_live).await;
    }
    south.create(SERVICES, &service("cart")).await;
    for cluster_of in [&south, &west] {
        let (code, found) = cluster_of
            .get("/api/v1/namespaces/shop/services/cart")
            .await;
        assert_eq!(code, 200, "{found}");
    }
    let position = south.get("/mesh/v1/status").await.1["position"].clone();
    east.until(|status| status["position"] == position).await;
    let (_, found) = east.get("/api/v1/namespaces/shop/services/cart").await;
    assert_eq!(found["metadata"]["name"], "cart");

    west.stop().await;
    let (code, failure) = east.call("POST", SERVICES, &service("payment")).await;
    assert_eq!(code, 503, "{failure}");
    let (code, _) = east.get("/api/v1/namespaces/shop/services/cart").await;
    assert_eq!(code, 200, "what is known stays");
    east.stop().await;
    south.stop().await;
}

#[tokio::test]
async fn a_cluster_that_is_not_signed_in_says_who_signs_it() {
    let mesh = Mesh::new();
    let config = mesh.config("west", Vec::new());
    let missing = Control::start(config.clone())
        .await
        .unwrap_err()
        .to_string();
    assert!(missing.contains("isthmus control init"), "{missing}");
    init(&config).unwrap();
    let unsigned = Control::start(config).await.unwrap_err().to_string();
    assert!(unsigned.contains("isthmus mesh sign"), "{unsigned}");
}

#[tokio::test]
async fn nobody_asks_by_a_certificate_that_has_ended_or_was_revoked() {
    let mesh = Mesh::new();
    let west = mesh.start_as(Config {
        leaf_lifetime: Duration::from_secs(2),
        ..mesh.config("west", Vec::new())
    });
    let west = west.await.unwrap();
    let token = west.token("cart").await;
    let key = || KeyPair::generate().unwrap();
    let renewal = || proto::RenewRequest {
        certificate_request: key().certificate_request().unwrap(),
    };
    // It has newer certificates by then, and asks over the connection that it began with the first.
    let first = key();
    let certificates = west.enroll(&token, &first).await.unwrap();
    let mut client = west.client(first, &certificates).await;
    let refused = async {
        let mut renewed = 0;
        while client.renew(renewal()).await.is_ok() {
            renewed += 1;
        }
        renewed
    };
    let renewed = tokio::time::timeout(Duration::from_secs(20), refused).await;
    assert!(renewed.expect("the connection ends") > 0);

    west.stop().await;
    let west = mesh.start("west", Vec::new()).await;
    let token = west.token("cart").await;
    let (mine, others) = (key(), key());
    let certificates = west.enroll(&token, &mine).await.unwrap();
    let mut client = west.client(mine, &certificates).await;
    let other = west
        .enroll(&west.token("cart").await, &others)
        .await
        .unwrap();
    let mut other = west.client(others, &other).await;
    client.renew(renewal()).await.unwrap();
    let revoke = json!({"admission": token.id().to_string(), "reason": "stolen"});
    let (code, reply) = west.call("POST", "/mesh/v1/revocations", &revoke).await;
    assert_eq!((code, &reply["author"]), (200, &json!("ada")), "{reply}");
    let refused = client.renew(renewal()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    assert!(refused.message().contains("revoked"), "{refused}");
    let refused = west.enroll(&token, &key()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    other.renew(renewal()).await.unwrap();
    west.stop().await;
}
