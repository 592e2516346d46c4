//! The mesh of three clusters on this machine: calls between clusters, what gateways and relays can
//! see of them, and what goes on when control planes, clusters and links are lost.
//!
//! One mesh carries all of it, because a mesh is dear; the steps share its state, in this order,
//! and each leaves the mesh whole. Its links are a tenth as long as the example's: nothing here is
//! about time, and two hundred calls one after the other are.

mod authority;
mod origin;
mod rotation;
mod trust;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;

use isthmus_lab::http;
use isthmus_lab::mesh::{Mesh, PATIENCE};
use isthmus_lab::processes::Process;
use isthmus_lab::trouble::{During, Result, ensure, trouble, wait_for};
use serde_json::Value;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/three-regions");
const CLUSTERS: [&str; 3] = ["us-west", "eu-central", "ap-south"];
/// Runs in eu-central and ap-south.
const CATALOG: &str = "http://catalog.shop.mesh/";
/// Two versions of it run everywhere.
const PAYMENT: &str = "http://payment.shop.mesh/";
/// The reply says how the request went.
const TELL: &str = "x-isthmus-tell: 1";
/// A port of each frontend that leads to redis.
const REDIS_PORT: u16 = 6379;

#[test]
fn three_clusters_and_their_losses() -> Result<()> {
    let mut mesh = Mesh::of(Path::new(env!("CARGO_BIN_EXE_isthmus")), Path::new(EXAMPLE))?;
    shorten_links(&mesh)?;
    mesh.up(&["--quiet"])?;

    every_cluster_reaches_every_service(&mesh)?;
    gateways_and_relays_cannot_read(&mesh)?;
    what_is_not_exported_is_refused_elsewhere(&mesh)?;
    routes_choose_between_versions(&mesh)?;
    plain_tcp_reaches_another_cluster(&mesh)?;
    config_is_the_same_wherever_it_is_written(&mesh)?;
    what_was_decided_can_be_seen_and_undone_anywhere(&mesh)?;
    origin::what_a_cluster_decides_for_itself_binds_it_alone(&mesh)?;
    a_cluster_is_drained_and_gets_its_traffic_back(&mesh)?;
    trust::only_the_mesh_key_grants(&mesh)?;
    rotation::keys_are_replaced_under_traffic(&mesh)?;
    authority::config_outlives_any_of_the_clusters_that_accept_it(&mesh)?;
    authority::what_is_accepted_while_all_fails_is_there_and_told_once(&mesh)?;
    traffic_outlives_all_control_planes(&mesh)?;
    a_proxy_starts_without_its_control_plane(&mesh)?;
    the_loss_of_a_cluster_is_not_seen(&mesh)?;
    a_black_hole_is_not_seen(&mesh)?;
    clusters_without_links_keep_to_themselves(&mesh)?;
    trust::what_is_revoked_is_refused_by_all(&mesh)?;
    mesh.pass();
    Ok(())
}

fn shorten_links(mesh: &Mesh) -> Result<()> {
    for file in ["up.yaml", "mesh.yaml"] {
        for (long, short) in [("140ms", "14ms"), ("220ms", "22ms"), ("120ms", "12ms")] {
            mesh.edit(file, &format!("rtt: {long}"), &format!("rtt: {short}"))?;
        }
    }
    Ok(())
}

fn frontend(mesh: &Mesh, cluster: &str) -> Result<SocketAddr> {
    mesh.outbound(cluster, "frontend-1")
}

/// The cluster that serves a GET from `cluster`. Errors: it is not answered with 200.
fn served_by(mesh: &Mesh, cluster: &str, url: &str) -> Result<String> {
    let reply = http::get(frontend(mesh, cluster)?, url, &[])?.expect(200)?;
    let by = reply.field("x-served-by").unwrap_or_default();
    Ok(by.rsplit('/').next().unwrap_or_default().to_owned())
}

fn every_cluster_reaches_every_service(mesh: &Mesh) -> Result<()> {
    for cluster in CLUSTERS {
        for (service, runs_in) in [
            ("frontend", &CLUSTERS[..]),
            ("payment", &CLUSTERS),
            ("cart", &CLUSTERS[..2]),
            ("catalog", &CLUSTERS[1..]),
        ] {
            let by = served_by(mesh, cluster, &format!("http://{service}.shop.mesh/"))?;
            let expect = if runs_in.contains(&cluster) {
                vec![cluster]
            } else {
                runs_in.to_vec()
            };
            ensure(expect.contains(&by.as_str()), || {
                format!("{service} for {cluster} came from {by}, not from {expect:?}")
            })?;
        }
    }
    // The frontend's page is made of calls to all the others, each by its own way.
    let page = http::get(
        frontend(mesh, "ap-south")?,
        "http://frontend.shop.mesh/",
        &[],
    )?;
    assert_eq!(page.expect(200)?.json()?["complete"], true);
    Ok(())
}

/// Nested tunnels: only the two proxies at the ends ever hold what a request says.
fn gateways_and_relays_cannot_read(mesh: &Mesh) -> Result<()> {
    let caller = frontend(mesh, "us-west")?;
    let draw = || -> Result<String> {
        let mut bytes = [0u8; 24];
        let mut random = fs::File::open("/dev/urandom").during(|| "/dev/urandom".to_owned())?;
        random
            .read_exact(&mut bytes)
            .during(|| "/dev/urandom".to_owned())?;
        Ok(bytes
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 15])
            .filter_map(|digit| char::from_digit(digit.into(), 16))
            .collect())
    };
    let (in_head, in_body) = (draw()?, draw()?);
    let line = format!("x-marker: {in_head}");
    let body = in_body.repeat(100);
    let echo = format!("{CATALOG}echo");
    for _ in 0..20 {
        let reply = http::request(caller, "PUT", &echo, &[&line], body.as_bytes())?.expect(200)?;
        let text = reply.text();
        assert!(text.contains(&in_head) && text.contains(&in_body), "{text}");
    }
    // One more is under way while we look: what may be sent again is kept by the caller's proxy.
    let slow = format!("{CATALOG}slow?ms=20000");
    let head = http::head(
        "PUT",
        &slow,
        &[&line, &format!("content-length: {}", body.len())],
    );
    let mut pending = http::connect(caller)?;
    write!(pending, "{head}\r\n{body}").during(|| slow.clone())?;

    let markers = [in_head.as_bytes(), in_body.as_bytes()];
    let found = |process: &Process| process.find_in_memory(&markers);
    let own = mesh.process("us-west", "frontend-1")?;
    wait_for("the caller's proxy to hold the request", PATIENCE, || {
        let counts = found(&own)?;
        ensure(counts.iter().all(|count| *count > 0), || {
            format!("found {counts:?}")
        })
    })?;
    let mut looked_at = 0;
    for (cluster, name, process) in mesh.running()? {
        if name.starts_with("gateway-") {
            looked_at += 1;
            assert_eq!(
                found(&process)?,
                [0, 0],
                "in the memory of {cluster}/{name}"
            );
        }
    }
    assert_eq!(looked_at, 6, "two gateways in each of three clusters");
    let relay = mesh.supervisor()?;
    assert_eq!(found(&relay)?, [0, 0], "in the memory of the relay");
    Ok(())
}

fn what_is_not_exported_is_refused_elsewhere(mesh: &Mesh) -> Result<()> {
    mesh.isthmus(&["delete", "serviceexport/catalog", "-n", "shop"])?
        .expect(0)?;
    wait_for("us-west to refuse what is not exported", PATIENCE, || {
        let reply = http::get(frontend(mesh, "us-west")?, CATALOG, &[])?;
        reply.expect_refusal(403, "not-exported")
    })?;
    for cluster in ["eu-central", "ap-south"] {
        wait_for("a cluster to keep to itself", PATIENCE, || {
            let by = served_by(mesh, cluster, CATALOG)?;
            ensure(by == cluster, || by)
        })?;
    }
    let shop = mesh.files().join("shop.yaml").display().to_string();
    mesh.isthmus(&["apply", "-f", &shop])?.expect(0)?;
    wait_for("catalog to be exported again", PATIENCE, || {
        served_by(mesh, "us-west", CATALOG)
    })?;
    Ok(())
}

fn routes_choose_between_versions(mesh: &Mesh) -> Result<()> {
    for cluster in CLUSTERS {
        let caller = frontend(mesh, cluster)?;
        let mut versions = BTreeSet::new();
        for _ in 0..60 {
            let canary = http::get(caller, PAYMENT, &["x-canary: always", TELL])?.expect(200)?;
            assert_eq!(canary.json()?["version"], "v2");
            assert_eq!(canary.field("x-isthmus-rule"), Some("canary"));
            let other = http::get(caller, PAYMENT, &["x-canary: sometimes", TELL])?.expect(200)?;
            assert_eq!(other.field("x-isthmus-rule"), Some("split"));
            versions.insert(other.json()?["version"].to_string());
        }
        // One of ten goes to v2: that none of sixty does happens once in five hundred times, and
        // that none goes to v1 never.
        assert!(versions.contains("\"v1\""), "{versions:?}");
    }
    Ok(())
}

fn plain_tcp_reaches_another_cluster(mesh: &Mesh) -> Result<()> {
    let caller = frontend(mesh, "us-west")?;
    let mut tunnel = http::connect(caller)?;
    write!(
        tunnel,
        "CONNECT redis.shop.mesh:6379 HTTP/1.1\r\nhost: redis.shop.mesh:6379\r\n\r\n"
    )
    .during(|| "CONNECT".to_owned())?;
    let head = read_until(&mut tunnel, b"\r\n\r\n")?;
    ensure(head.starts_with("HTTP/1.1 200"), || {
        format!("CONNECT was answered: {head}")
    })?;
    let local = SocketAddr::new(caller.ip(), REDIS_PORT);
    let listener = http::connect(local)?;
    for (name, mut stream) in [("CONNECT", tunnel), ("a listener", listener)] {
        let during = || format!("redis by {name}");
        write!(stream, "PING\r\n").during(during)?;
        assert_eq!(read_until(&mut stream, b"\r\n")?, "+PONG\r\n", "by {name}");
        let key = format!("key-{}", name.len());
        write!(stream, "SET {key} there\r\nGET {key}\r\n").during(during)?;
        assert_eq!(
            read_until(&mut stream, b"there\r\n")?,
            "+OK\r\n$5\r\nthere\r\n"
        );
    }
    let mut unknown = http::connect(caller)?;
    write!(
        unknown,
        "CONNECT nobody.shop.mesh:80 HTTP/1.1\r\nhost: nobody.shop.mesh:80\r\n\r\n"
    )
    .during(|| "CONNECT".to_owned())?;
    let head = read_until(&mut unknown, b"\r\n\r\n")?;
    ensure(head.starts_with("HTTP/1.1 404"), || head.clone())?;
    Ok(())
}

fn read_until(stream: &mut std::net::TcpStream, end: &[u8]) -> Result<String> {
    let mut read = Vec::new();
    let mut byte = [0u8];
    while !read.ends_with(end) {
        let so_far = || format!("reading, after {:?}", String::from_utf8_lossy(&read));
        stream.read_exact(&mut byte).during(so_far)?;
        read.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&read).into_owned())
}

/// The story before made a route through one cluster and deleted it through another.
fn what_was_decided_can_be_seen_and_undone_anywhere(mesh: &Mesh) -> Result<()> {
    let through = |cluster| {
        [
            "--cluster",
            cluster,
            "history",
            "httproute/catalog",
            "-n",
            "shop",
        ]
    };
    let mut changes = Value::Null;
    for cluster in CLUSTERS {
        wait_for("every cluster to have the history", PATIENCE, || {
            let seen = mesh.json(&through(cluster))?["changes"].clone();
            let told: Vec<_> = seen.as_array().into_iter().flatten().collect();
            let told: Vec<_> = told
                .iter()
                .map(|change| (change["verb"].as_str(), change["cluster"].as_str()))
                .collect();
            let expect = [
                (Some("delete"), Some("eu-central")),
                (Some("create"), Some("ap-south")),
            ];
            ensure(told == expect, || format!("{cluster} tells {told:?}"))?;
            ensure(changes.is_null() || changes == seen, || {
                format!("{cluster} tells {seen}, another {changes}")
            })?;
            changes = seen;
            Ok(())
        })?;
    }
    // Each change is undone through a cluster that had no part in it.
    let deleted = changes[0]["position"].to_string();
    mesh.isthmus(&["--cluster", "us-west", "undo", &deleted])?
        .expect(0)?;
    let get = [
        "--cluster",
        "us-west",
        "get",
        "httproute/catalog",
        "-n",
        "shop",
    ];
    let back = mesh.json(&get)?;
    ensure(back["spec"] == changes[0]["before"]["spec"], || {
        format!("what came back is {back}")
    })?;
    let undone = mesh.json(&through("us-west"))?["changes"][0]["position"].to_string();
    // To undo the making of the route is to undo what happened to it since.
    let created = changes[1]["position"].to_string();
    let refused = mesh
        .isthmus(&["--cluster", "us-west", "undo", &created])?
        .expect(1)?;
    ensure(refused.err.contains("changed-again"), || {
        refused.err.clone()
    })?;
    mesh.isthmus(&["--cluster", "us-west", "undo", &undone])?
        .expect(0)?;
    mesh.isthmus(&get)?.expect(1)?;
    // What was deleted, made again and deleted again is not taken further back without a word.
    let again = mesh.isthmus(&["--cluster", "us-west", "undo", &deleted])?;
    again.expect_failure(1, &["changed-again", &undone])?;
    // When it was made it was there, now it is not.
    let made = changes[1]["time"].as_str().unwrap_or_default().to_owned();
    let since = mesh
        .isthmus(&["--cluster", "us-west", "diff", "--at", &made])?
        .expect(3)?;
    ensure(
        since
            .out
            .starts_with("HTTPRoute/shop/catalog was deleted since\n"),
        || since.out.clone(),
    )?;
    let exported = mesh
        .isthmus(&["--cluster", "us-west", "audit", "export"])?
        .expect(0)?;
    let lines = exported.out.lines().count();
    wait_for("every cluster to have the whole chain", PATIENCE, || {
        let verified = mesh.json(&["audit", "verify"])?;
        let clusters = verified["clusters"].as_array().into_iter().flatten();
        let whole = clusters.filter(|each| each["changes"] == lines).count();
        ensure(whole == CLUSTERS.len(), || {
            format!("{lines} changes were exported, {verified}")
        })
    })
}

/// Waits until calls of us-west's frontend, so many in a row, come from where they are to; each is answered.
fn all_come_from(mesh: &Mesh, is_right: impl Fn(&str) -> bool) -> Result<()> {
    const IN_A_ROW: usize = 30;
    let mut right = 0;
    wait_for("traffic to move", PATIENCE, || {
        while right < IN_A_ROW {
            let by = served_by(mesh, "us-west", PAYMENT)?;
            if !is_right(&by) {
                right = 0;
                return trouble(format!("it came from {by}"));
            }
            right += 1;
        }
        Ok(())
    })
}

fn a_cluster_is_drained_and_gets_its_traffic_back(mesh: &Mesh) -> Result<()> {
    let traffic = |cluster: &str| -> Result<Value> {
        let status = mesh.json(&["--cluster", cluster, "status"])?;
        let clusters = status["clusters"].as_array().into_iter().flatten();
        let mut ours = clusters.filter(|cluster| cluster["name"] == "us-west");
        Ok(ours
            .next()
            .map_or(Value::Null, |ours| ours["traffic"].clone()))
    };
    all_come_from(mesh, |by| by == "us-west")?;
    let drain = [
        "cluster", "drain", "us-west", "--keep", "50", "--over", "0s",
    ];
    let told = mesh.isthmus(&drain)?.expect(0)?;
    ensure(
        told.out.ends_with("us-west takes 50 % of its traffic\n"),
        || told.out.clone(),
    )?;
    wait_for("half of the traffic to move", PATIENCE, || {
        let served = (0..40).map(|_| served_by(mesh, "us-west", PAYMENT));
        let served = served.collect::<Result<Vec<_>>>()?;
        let stay = served.iter().filter(|by| *by == "us-west").count();
        ensure((8..=32).contains(&stay), || format!("{stay} of 40 stay"))
    })?;
    mesh.isthmus(&["cluster", "drain", "us-west", "--over", "0s"])?
        .expect(0)?;
    all_come_from(mesh, |by| by != "us-west")?;
    // Who applies the files that the mesh was made from leaves it so.
    let file = mesh.home().join("generated/resources.yaml");
    let said = mesh.isthmus(&["apply", "-f", &file.display().to_string()])?;
    said.expect(0)?;
    for cluster in CLUSTERS {
        wait_for("every cluster to know it", PATIENCE, || {
            let traffic = traffic(cluster)?;
            ensure(traffic == 0, || format!("{cluster} says {traffic}"))
        })?;
    }
    all_come_from(mesh, |by| by != "us-west")?;
    mesh.isthmus(&["cluster", "undrain", "us-west", "--over", "0s"])?
        .expect(0)?;
    all_come_from(mesh, |by| by == "us-west")?;
    ensure(traffic("us-west")? == 100, || {
        "it is not given back".to_owned()
    })
}

fn config_is_the_same_wherever_it_is_written(mesh: &Mesh) -> Result<()> {
    // The first cluster is the authority; this is written through another.
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
                 metadata: {name: catalog, namespace: shop}\nspec:\n  \
                 parentRefs: [{group: \"\", kind: Service, name: catalog}]\n  rules:\n  \
                 - name: all\n    backendRefs: [{name: catalog, port: 80}]\n";
    let path = mesh.write("route.yaml", route)?.display().to_string();
    mesh.isthmus(&["--cluster", "ap-south", "apply", "-f", &path])?
        .expect(0)?;
    // The answer came after the writer's own copy had it.
    let version = |cluster: &str| -> Result<Value> {
        let get = [
            "--cluster",
            cluster,
            "get",
            "httproute/catalog",
            "-n",
            "shop",
        ];
        Ok(mesh.json(&get)?["metadata"]["resourceVersion"].clone())
    };
    let written = version("ap-south")?;
    for cluster in CLUSTERS {
        wait_for("every cluster to show the route", PATIENCE, || {
            let seen = version(cluster)?;
            ensure(seen == written, || {
                format!("{cluster} shows version {seen}, not {written}")
            })
        })?;
        wait_for("every cluster's proxies to use the route", PATIENCE, || {
            let reply = http::get(frontend(mesh, cluster)?, CATALOG, &[TELL])?.expect(200)?;
            let rule = reply.field("x-isthmus-rule");
            ensure(rule == Some("all"), || {
                format!("{cluster} uses rule {rule:?}")
            })
        })?;
    }
    mesh.isthmus(&[
        "--cluster",
        "eu-central",
        "delete",
        "httproute/catalog",
        "-n",
        "shop",
    ])?
    .expect(0)?;
    for cluster in CLUSTERS {
        wait_for("every cluster to forget the route", PATIENCE, || {
            let gone = mesh.isthmus(&[
                "--cluster",
                cluster,
                "get",
                "httproute/catalog",
                "-n",
                "shop",
            ])?;
            gone.expect(1)
        })?;
    }
    Ok(())
}

/// All clusters serve each other: two hundred calls from each to a service of others, or its own.
fn traffic_flows(mesh: &Mesh, calls: usize) -> Result<()> {
    for cluster in CLUSTERS {
        for call in 0..calls {
            let url = [CATALOG, PAYMENT, "http://cart.shop.mesh/"][call % 3];
            served_by(mesh, cluster, url).during(|| format!("{url} from {cluster}"))?;
        }
    }
    Ok(())
}

fn traffic_outlives_all_control_planes(mesh: &Mesh) -> Result<()> {
    mesh.isthmus(&["control", "kill", "--all"])?.expect(0)?;
    for cluster in CLUSTERS {
        wait_for("the control planes to be gone", PATIENCE, || {
            match mesh.process(cluster, "control") {
                Ok(process) => trouble(format!("{process:?} still runs")),
                Err(_) => Ok(()),
            }
        })?;
    }
    mesh.isthmus(&["status"])?.expect(4)?;
    traffic_flows(mesh, 30)?;
    mesh.isthmus(&["control", "start", "--all"])?.expect(0)?;
    for cluster in CLUSTERS {
        all_connected(mesh, cluster)?;
    }
    traffic_flows(mesh, 3)
}

/// Waits until a cluster hears from all its processes and from all clusters.
fn all_connected(mesh: &Mesh, cluster: &str) -> Result<()> {
    wait_for("a control plane to know its mesh again", PATIENCE, || {
        mesh.is_whole(cluster)
    })
}

fn a_proxy_starts_without_its_control_plane(mesh: &Mesh) -> Result<()> {
    let caller = frontend(mesh, "us-west")?;
    let restart = || -> Result<()> {
        let before = mesh.process("us-west", "frontend-1")?;
        before.kill()?;
        wait_for("the proxy to be started again", PATIENCE, || {
            let now = mesh.process("us-west", "frontend-1")?;
            ensure(now.pid != before.pid, || {
                "it is still the old one".to_owned()
            })?;
            http::connect(caller)
        })?;
        Ok(())
    };
    // It keeps what it has called: known before its control plane is gone, known after.
    served_by(mesh, "us-west", CATALOG)?;
    let snapshot = mesh
        .home()
        .join("clusters/us-west/frontend-1/state/view.sealed");
    let during = || snapshot.display().to_string();
    mesh.isthmus(&["control", "kill", "us-west"])?.expect(0)?;
    restart()?;
    for url in [CATALOG, PAYMENT] {
        wait_for("a proxy to serve from its snapshot", PATIENCE, || {
            served_by(mesh, "us-west", url)
        })?;
    }

    let mut bytes = fs::read(&snapshot).during(during)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&snapshot, &bytes).during(during)?;
    restart()?;
    wait_for("a proxy to refuse a changed snapshot", PATIENCE, || {
        let reply = http::get(caller, CATALOG, &[])?;
        ensure(reply.status == 503 && reply.refusal().is_some(), || {
            format!("{reply:?}")
        })?;
        let counted = mesh.metric(
            ("us-west", "frontend-1"),
            "isthmus_snapshot_refused_total",
            &["reason=\"damaged-or-foreign\""],
        )?;
        ensure(counted > 0.0, || format!("{counted} counted"))
    })?;
    mesh.isthmus(&["control", "start", "us-west"])?.expect(0)?;
    wait_for("the proxy to serve again", PATIENCE, || {
        served_by(mesh, "us-west", CATALOG)
    })?;
    all_connected(mesh, "us-west")
}

/// Calls of us-west to a service of the two other clusters, while eu-central is lost.
fn none_fails(mesh: &Mesh, lose: &[&str]) -> Result<()> {
    let eu = wait_for("eu-central to serve us-west", PATIENCE, || {
        let by = served_by(mesh, "us-west", CATALOG)?;
        ensure(by == "eu-central", || by)
    });
    eu.during(|| format!("before {lose:?}"))?;
    for call in 0..200 {
        if call == 5 {
            mesh.isthmus(lose)?.expect(0)?;
        }
        served_by(mesh, "us-west", CATALOG).during(|| format!("call {call} around {lose:?}"))?;
    }
    Ok(())
}

fn the_loss_of_a_cluster_is_not_seen(mesh: &Mesh) -> Result<()> {
    none_fails(mesh, &["cluster", "kill", "eu-central"])?;
    assert_eq!(served_by(mesh, "us-west", CATALOG)?, "ap-south");
    mesh.isthmus(&["cluster", "start", "eu-central"])?
        .expect(0)?;
    for cluster in CLUSTERS {
        all_connected(mesh, cluster)?;
    }
    traffic_flows(mesh, 3)
}

fn a_black_hole_is_not_seen(mesh: &Mesh) -> Result<()> {
    none_fails(mesh, &["link", "blackhole", "us-west", "eu-central"])?;
    assert_eq!(served_by(mesh, "us-west", CATALOG)?, "ap-south");
    mesh.isthmus(&["link", "restore", "us-west", "eu-central"])?
        .expect(0)?;
    for cluster in CLUSTERS {
        all_connected(mesh, cluster)?;
    }
    Ok(())
}

/// Bytes that the relays of all links have carried, and connections that they have open.
fn carried(mesh: &Mesh) -> Result<(u64, u64)> {
    let status = mesh.json(&["link", "list"])?;
    let links = status["links"].as_array().map_or(&[][..], Vec::as_slice);
    assert_eq!(links.len(), 3);
    let sum = |names: &[&str]| {
        let of = |link: &Value| {
            names
                .iter()
                .filter_map(|name| link[*name].as_u64())
                .sum::<u64>()
        };
        links.iter().map(of).sum()
    };
    Ok((sum(&["bytesOut", "bytesBack"]), sum(&["open"])))
}

fn clusters_without_links_keep_to_themselves(mesh: &Mesh) -> Result<()> {
    let pairs = [
        ("us-west", "eu-central"),
        ("us-west", "ap-south"),
        ("eu-central", "ap-south"),
    ];
    let (before, _) = carried(mesh)?;
    assert!(before > 0, "what crosses links is counted");
    for (one, other) in pairs {
        mesh.isthmus(&["link", "cut", one, other])?.expect(0)?;
    }
    wait_for("all connections over links to be gone", PATIENCE, || {
        let (_, open) = carried(mesh)?;
        ensure(open == 0, || format!("{open} are open"))
    })?;
    let (cut, _) = carried(mesh)?;
    for cluster in CLUSTERS {
        for _ in 0..20 {
            assert_eq!(served_by(mesh, cluster, PAYMENT)?, cluster);
        }
    }
    // What runs only elsewhere is refused, and says so.
    let reply = http::get(frontend(mesh, "us-west")?, CATALOG, &[])?;
    ensure(reply.status >= 500 && reply.refusal().is_some(), || {
        format!("{reply:?}")
    })?;
    // What they run is not left out in silence.
    for command in [["get", "workloads"], ["describe", "service/catalog"]] {
        let arguments = [&["--cluster", "us-west", "-n", "shop"], &command[..]].concat();
        let said = mesh.isthmus(&arguments)?.expect(0)?;
        for cluster in &CLUSTERS[1..] {
            let line = format!("{cluster}: unreachable, last seen ");
            ensure(said.out.contains(&line), || said.out.clone())?;
        }
    }
    assert_eq!(carried(mesh)?.0, cut, "nothing crosses a link that is cut");
    for (one, other) in pairs {
        mesh.isthmus(&["link", "restore", one, other])?.expect(0)?;
    }
    wait_for("us-west to reach catalog again", PATIENCE, || {
        served_by(mesh, "us-west", CATALOG)
    })?;
    Ok(())
}
