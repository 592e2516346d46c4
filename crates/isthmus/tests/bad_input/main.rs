//! Bad input, as users give it: each case gets one message that says what, where and what to do, the
//! right exit code or status, and hurts nobody else.
//!
//! What needs a mesh shares one, and all its processes must be the same at the end.

mod bytes;

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use isthmus_lab::http;
use isthmus_lab::mesh::{Mesh, PATIENCE};
use isthmus_lab::trouble::{During, Result, ensure, wait_for};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/one-cluster");
const CATALOG: &str = "http://catalog.shop.mesh/";

#[test]
fn files_are_refused_before_anything_starts() -> Result<()> {
    let mesh = Mesh::of(Path::new(env!("CARGO_BIN_EXE_isthmus")), Path::new(EXAMPLE))?;
    up_tells_all_mistakes_of_its_files(&mesh)?;
    processes_tell_all_mistakes_of_their_files(&mesh)?;
    a_home_that_cannot_be_used_is_told(&mesh)?;
    mesh.pass();
    Ok(())
}

#[test]
fn a_mesh_says_no_and_serves_on() -> Result<()> {
    let mut mesh = Mesh::of(Path::new(env!("CARGO_BIN_EXE_isthmus")), Path::new(EXAMPLE))?;
    mesh.up(&["--quiet"])?;
    let before = processes(&mesh)?;

    resources_are_refused_with_their_place(&mesh)?;
    what_does_not_exist_is_told(&mesh)?;
    tokens_that_are_not_right_are_refused(&mesh)?;
    a_control_plane_that_is_not_there_is_told(&mesh)?;
    addresses_in_use_are_told(&mesh)?;
    bytes::malformed_requests_are_refused(&mesh)?;
    bytes::garbage_is_cut_off(&mesh)?;

    ensure(processes(&mesh)? == before, || {
        format!("{before:?} have become {:?}", processes(&mesh))
    })?;
    http::get(mesh.outbound("us-west", "frontend-1")?, CATALOG, &[])?.expect(200)?;
    up_tells_who_has_its_addresses(&mut mesh)?;
    mesh.pass();
    Ok(())
}

/// Every process of the mesh with its id.
fn processes(mesh: &Mesh) -> Result<Vec<(String, u32)>> {
    let running = mesh.running()?.into_iter();
    Ok(running
        .map(|(_, name, process)| (name, process.pid))
        .collect())
}

fn up_tells_all_mistakes_of_its_files(mesh: &Mesh) -> Result<()> {
    let good = ["up.yaml", "shop.yaml"].map(|name| mesh.files().join(name));
    let [up, shop] = &good;
    let read = |path: &Path| fs::read_to_string(path).during(|| path.display().to_string());
    let (up_text, shop_text) = (read(up)?, read(shop)?);
    let route = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
                 metadata: {name: r, namespace: shop}\nspec:\n  \
                 parentRefs: [{group: \"\", kind: Service, name: catalog}]\n  rules:\n  \
                 - backendRefs: [{name: catalgo, port: 80}]\n";
    let twice = "---\napiVersion: v1\nkind: Service\nmetadata: {name: catalog, namespace: shop}\n\
                 spec: {ports: [{port: 80}]}\n";
    let last = |text: &str| 1 + text.lines().count();
    let cases: [(&Path, String, &[&str]); 5] = [
        (
            up,
            "clusters:\n  us-west:\n    gatways: 0\n    processes:\n    - service: shop/frontend\n      \
             port: 80800\n      command: []\n    - {account: shop/a, command: [a, 1]}\n"
                .to_owned(),
            &[
                "4 mistakes",
                "up.yaml:3:5: clusters.us-west.gatways: unknown field; did you mean `gateways`?",
                "up.yaml:6:13: clusters.us-west.processes[0].port",
                "up.yaml:7:7: clusters.us-west.processes[0].command: there is no program",
                "up.yaml:8:38: clusters.us-west.processes[1].command[1]",
                "put it in quotes",
                "bad-config",
            ],
        ),
        (
            up,
            format!("{up_text}  us-west: {{}}\n"),
            &["up.yaml:", "us-west", "duplicate", "bad-config"],
        ),
        (up, "clusters: [\n".to_owned(), &["up.yaml:", "bad-config"]),
        (
            shop,
            format!("{shop_text}{route}"),
            &[
                &format!("shop.yaml:{}:26: spec.rules[0].backendRefs[0].name", last(&shop_text) + 7),
                "did you mean `catalog`?",
                "invalid",
            ],
        ),
        (
            shop,
            format!("{shop_text}{twice}"),
            &[
                &format!("shop.yaml:{}:18: metadata.name", last(&shop_text) + 3),
                "declared twice; the first is at",
                "invalid",
            ],
        ),
    ];
    for (path, text, say) in cases {
        fs::write(path, &text).during(|| path.display().to_string())?;
        let files = mesh.files().display().to_string();
        for more in [&["--detach"][..], &["--quiet"], &["--dry-run"]] {
            let said = mesh.isthmus(&[&["up", "-f", &files], more].concat())?;
            said.expect_failure(1, say).during(|| text.clone())?;
        }
        fs::write(up, &up_text).during(|| up.display().to_string())?;
        fs::write(shop, &shop_text).during(|| shop.display().to_string())?;
    }
    ensure(!mesh.home().join("mesh.json").exists(), || {
        "a mesh was founded all the same".to_owned()
    })
}

fn processes_tell_all_mistakes_of_their_files(mesh: &Mesh) -> Result<()> {
    let control = "mesh: shop\ntrustDomain: shop.example\nclustr: a\ncluster: a\naddress: 0.0.0.0\n\
                   data: d\nauthority: a\npeers: [127.1.2.1]\nrenewAfter: 25h\n";
    let told_of_control = [
        "file.yaml:3:1: clustr: unknown field; did you mean `cluster`?",
        "file.yaml:5:10: address: 0.0.0.0 is no address",
        "file.yaml:8:9: peers[0]: invalid socket address syntax; write it like 127.",
        "file.yaml:9:13: renewAfter:",
    ];
    let process = "name: a\ncluster: a\naddress: 127.1.1\ncontrol: []\nstate: s\nworkers: 0\n";
    let workload =
        format!("{process}program: {{adress: 127.0.0.1, address: 127.0.0.1, port: -1}}\n");
    let told_of_process = [
        "file.yaml:3:10: address: invalid IP address syntax; write it like 127.",
        "file.yaml:4:1: control: a process needs a control plane",
        "file.yaml:6:10: workers:",
    ];
    let told_of_workload = [
        "file.yaml:1:1: account: nothing says which namespace and account it runs as; write `service:",
        "file.yaml:7:11: program.adress: unknown field; did you mean `address`?",
        "file.yaml:7:56: program.port: expected a whole number",
    ];
    let missing = ["mesh", "trustDomain", "cluster", "address", "authority"];
    let missing = missing.map(|field| format!("file.yaml:1:1: the field `{field}` is missing"));
    let cases: [(&str, &str, &[&str]); 8] = [
        (
            "control",
            "data: d\n",
            &missing.each_ref().map(String::as_str),
        ),
        ("control", control, &told_of_control),
        ("gateway", process, &told_of_process[..1]),
        (
            "gateway",
            &process.replace("127.1.1\n", "127.1.1.9\n"),
            &told_of_process[1..],
        ),
        (
            "proxy",
            &workload.replace("127.1.1\n", "127.1.1.9\n"),
            &told_of_workload,
        ),
        ("run", &workload, &told_of_workload[1..]),
        ("run", "", &["file.yaml:1:1: the file says nothing"]),
        (
            "gateway",
            "name: a\n---\nname: b\n",
            &["file.yaml:2:1: a second document begins"],
        ),
    ];
    for (command, text, say) in cases {
        let file = mesh.write("file.yaml", text)?.display().to_string();
        let said = mesh.isthmus(&[command, "--config", &file])?;
        let said = said
            .expect_failure(1, say)
            .during(|| format!("{command}\n{text}"))?;
        said.expect_failure(1, &["bad-config", "correct the file"])?;
    }
    let absent = mesh.home().join("absent.yaml").display().to_string();
    let said = mesh.isthmus(&["proxy", "--config", &absent])?;
    said.expect_failure(
        1,
        &[
            "absent.yaml cannot be read",
            "No such file",
            "file-unreadable",
        ],
    )?;
    Ok(())
}

fn a_home_that_cannot_be_used_is_told(mesh: &Mesh) -> Result<()> {
    let files = mesh.files().display().to_string();
    let file = mesh.write("file", "")?.display().to_string();
    // Whoever runs this, a file holds no directory.
    let within = format!("{file}/home");
    for home in [&file, &within] {
        let said = mesh.isthmus(&["--home", home, "up", "-f", &files])?;
        said.expect_failure(1, &["home-unwritable", home, "ISTHMUS_HOME"])?;
    }
    for command in [&["status"][..], &["get", "services"], &["check"]] {
        let said = mesh.isthmus(command)?;
        let home = mesh.home().display().to_string();
        said.expect_failure(4, &["no-mesh", &home, "isthmus up"])?;
    }
    Ok(())
}

fn resources_are_refused_with_their_place(mesh: &Mesh) -> Result<()> {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: extra, namespace: shop}\n";
    let ports = "spec: {ports: [{port: 80}]}\n";
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
                 metadata: {name: lost, namespace: shop}\nspec:\n  \
                 parentRefs: [{group: \"\", kind: Service, name: frontend}]\n  rules:\n  \
                 - backendRefs: [{name: catalgo, port: 80}]\n";
    let mistyped = service.replace("Service", "Servce");
    let lets_out = "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: Mesh\nmetadata: {name: shop}\n\
                    spec: {trustDomain: shop.example, egress: allow}\n";
    let cases: [(i32, String, &[&str]); 7] = [
        (
            1,
            "a: [1\nb: 2\n".to_owned(),
            &["file.yaml:2:2:", "invalid"],
        ),
        (1, "a: {b: 'c\n".to_owned(), &["file.yaml:", "invalid"]),
        (
            1,
            mistyped.clone(),
            &[
                "file.yaml:2:7: kind:",
                "`Servce`; did you mean `Service`?",
                "invalid",
            ],
        ),
        (
            1,
            format!("{service}spec:\n  prots: []\n  ports:\n  - port: 123456\n---\n{mistyped}"),
            &[
                "3 mistakes",
                "file.yaml:5:3: spec.prots: unknown field; did you mean `ports`?",
                "file.yaml:7:11: spec.ports[0].port:",
                "file.yaml:10:7: kind:",
            ],
        ),
        (
            1,
            lets_out.to_owned(),
            &["file.yaml:4:43: spec.egress: `allow` is none of Deny, Allow; did you mean `Allow`?"],
        ),
        (
            1,
            format!("{service}{ports}---\n{service}{ports}"),
            &[
                "file.yaml:8:18: metadata.name: Service `extra` is declared twice",
                "file.yaml:3",
            ],
        ),
        (
            3,
            route.to_owned(),
            &[
                "file.yaml:7:26: spec.rules[0].backendRefs[0].name: there is no service shop/catalgo",
                "did you mean `catalog`?",
                "refs-not-resolved",
                "apply what is missing",
            ],
        ),
    ];
    for (code, text, say) in cases {
        let file = mesh.write("file.yaml", &text)?.display().to_string();
        for dry_run in [&["--dry-run"][..], &[]] {
            let said = mesh.isthmus(&[&["apply", "-f", &file], dry_run].concat())?;
            said.expect_failure(code, say).during(|| text.clone())?;
        }
    }
    // What dangles is written, and its callers learn what is missing.
    let caller = mesh.outbound("us-west", "catalog-1")?;
    wait_for("the route to lead nowhere", PATIENCE, || {
        let reply = http::get(caller, "http://frontend.shop.mesh/", &[])?;
        let reply = reply.expect_refusal(404, "no-such-service")?;
        ensure(reply.json()?["detail"] == "shop/catalgo", || reply.text())
    })?;
    mesh.isthmus(&["delete", "httproute/lost", "-n", "shop"])?
        .expect(0)?;
    let file = mesh
        .write("file.yaml", "# nothing\n")?
        .display()
        .to_string();
    let said = mesh.isthmus(&["apply", "-f", &file])?;
    said.expect_failure(1, &["no-objects", &file])?;
    // Somebody has changed it since it was read.
    let read = mesh.isthmus(&["get", "service/catalog", "-n", "shop", "-o", "yaml"])?;
    let read = read.expect(0)?.out;
    let first = read.replace("metadata:\n", "metadata:\n  labels: {touched: first}\n");
    let second = first.replace("first", "second");
    let file = mesh.write("file.yaml", &first)?.display().to_string();
    mesh.isthmus(&["apply", "-f", &file])?.expect(0)?;
    let file = mesh.write("file.yaml", &second)?.display().to_string();
    let said = mesh.isthmus(&["apply", "-f", &file])?;
    said.expect_failure(1, &["conflict", "somebody else has changed it"])?;
    let said = mesh.isthmus(&["delete", "mesh/shop"])?;
    said.expect_failure(1, &["a mesh ends with its control planes"])?;

    let absent = mesh.home().join("absent.yaml").display().to_string();
    let said = mesh.isthmus(&["apply", "-f", &absent])?;
    said.expect_failure(1, &["absent.yaml cannot be read", "file-unreadable"])?;
    let said = mesh.isthmus(&["get", "service/extra", "-n", "shop"])?;
    said.expect_failure(1, &["extra", "not-found"])?;
    Ok(())
}

fn what_does_not_exist_is_told(mesh: &Mesh) -> Result<()> {
    let program = ["--port", "8080", "--", "true"];
    let cases: [(i32, &[&str], &[&str]); 7] = [
        (2, &["get", "servces"], &["servces", "services"]),
        (2, &["aply", "-f", "x"], &["aply", "apply"]),
        (
            2,
            &["--cluster", "mars", "get", "services"],
            &["no-such-cluster", "mars", "us-west"],
        ),
        (1, &["get", "service/nobody"], &["not-found", "nobody"]),
        (1, &["delete", "service/nobody"], &["not-found", "nobody"]),
        (
            1,
            &["run", "--cluster", "us-west", "--service", "shop/nobody"],
            &["no-such-service", "shop/nobody", "isthmus apply"],
        ),
        (
            1,
            &[
                "load",
                "shop/nobody",
                "--from",
                "us-west",
                "--rate",
                "1",
                "--duration",
                "1s",
            ],
            &["no-such-service", "shop/nobody"],
        ),
    ];
    for (code, arguments, say) in cases {
        let more = if arguments[0] == "run" {
            &program[..]
        } else {
            &[]
        };
        let said = mesh.isthmus(&[arguments, more].concat())?;
        said.expect_failure(code, say)
            .during(|| format!("{arguments:?}"))?;
    }
    Ok(())
}

fn tokens_that_are_not_right_are_refused(mesh: &Mesh) -> Result<()> {
    // Of the API: another home, whose token the mesh does not know.
    let other = other_home(mesh, "other", |file| file)?;
    for command in [
        &["get", "services", "-A"][..],
        &["status"],
        &["delete", "service/a"],
    ] {
        let said = mesh.isthmus(&[&["--home", &other], command].concat())?;
        said.expect_failure(1, &["unauthorized", "token", "apiTokens"])?;
    }
    fs::remove_file(Path::new(&other).join("token")).during(|| other.clone())?;
    let said = mesh.isthmus(&["--home", &other, "get", "services"])?;
    said.expect_failure(1, &["token cannot be read", "apiTokens"])?;

    // To join with.
    let create = [
        "token",
        "create",
        "--cluster",
        "us-west",
        "--service",
        "shop/catalog",
    ];
    let token = |lifetime: &str| -> Result<String> {
        let said = mesh.isthmus(&[&create[..], &["--lifetime", lifetime]].concat())?;
        Ok(said.expect(0)?.out)
    };
    let said = mesh.isthmus(&[&create[..], &["--lifetime", "0s"]].concat())?;
    said.expect_failure(2, &["bad-token-request"])?;
    let (address, control) = (neighbour(mesh, 77)?, mesh.address("us-west", "control")?);
    let file = format!(
        "name: catalog-77\ncluster: us-west\naddress: {address}\ncontrol: ['{control}:15012']\n\
         tokenFile: join\nstate: state\nservice: shop/catalog\nprogram: {{address: 127.0.0.1}}\n"
    );
    let config = mesh.write("proxy.yaml", &file)?.display().to_string();
    let join = |token: &str, say: &[&str]| -> Result<()> {
        mesh.write("join", token)?;
        let said = mesh.isthmus(&["proxy", "--config", &config])?;
        said.expect_failure(1, &["not-joined", "isthmus token create"])?
            .expect_failure(1, say)?;
        Ok(())
    };
    let short = token("1s")?;
    // Whoever comes in time joins, and serves.
    let made = Instant::now();
    wait_for("a token to expire", PATIENCE, || {
        ensure(made.elapsed() > Duration::from_secs(1), || {
            "it is still good".to_owned()
        })
    })?;
    join(&short, &["expired"])?;
    join("nonsense", &["not a join token"])?;

    // It joins with a token of an account that may not stand for the service, and says what is wrong.
    let other_account = [
        "token",
        "create",
        "--cluster",
        "us-west",
        "--account",
        "shop/x",
    ];
    mesh.write("join", &mesh.isthmus(&other_account)?.expect(0)?.out)?;
    let log = mesh.write("proxy.log", "")?;
    let errors = fs::File::create(&log).during(|| log.display().to_string())?;
    let mut proxy = mesh.command(&["proxy", "--config", &config]);
    let proxy = proxy.stdout(Stdio::null()).stderr(errors).spawn();
    let mut proxy = proxy.during(|| "isthmus proxy".to_owned())?;
    let told = wait_for("the proxy to say why nobody calls it", PATIENCE, || {
        let said = fs::read_to_string(&log).during(|| log.display().to_string())?;
        let told = said.contains("gets no requests")
            && said.contains("x is none of the service's accounts");
        ensure(told, || said)
    });
    let _ = proxy.kill();
    proxy.wait().during(|| "isthmus proxy".to_owned())?;
    told
}

/// A home that knows the mesh by `edit` of its file, with a token of its own.
fn other_home(mesh: &Mesh, name: &str, edit: impl Fn(String) -> String) -> Result<String> {
    let other = mesh.home().with_extension(name);
    let during = || other.display().to_string();
    fs::create_dir_all(other.join("ca")).during(during)?;
    fs::copy(mesh.home().join("ca/root.pem"), other.join("ca/root.pem")).during(during)?;
    let file = fs::read_to_string(mesh.home().join("mesh.json")).during(during)?;
    fs::write(other.join("mesh.json"), edit(file)).during(during)?;
    fs::write(other.join("token"), "wrong\n").during(during)?;
    Ok(other.display().to_string())
}

/// An address of the mesh's own network that no process has.
fn neighbour(mesh: &Mesh, last: u8) -> Result<IpAddr> {
    match mesh.address("us-west", "control")? {
        IpAddr::V4(control) => {
            let [a, b, c, _] = control.octets();
            Ok([a, b, c, last].into())
        }
        IpAddr::V6(control) => isthmus_lab::trouble::trouble(format!("{control} is no loopback")),
    }
}

fn a_control_plane_that_is_not_there_is_told(mesh: &Mesh) -> Result<()> {
    let gone = other_home(mesh, "gone", |file| file.replace(":7443", ":7444"))?;
    for command in [
        &["status"][..],
        &["get", "services"],
        &["check"],
        &["explain", "shop/catalog"],
    ] {
        let explain = ["--source", "shop/frontend", "--from", "us-west"];
        let more = if command[0] == "explain" {
            &explain[..]
        } else {
            &[]
        };
        let said = mesh.isthmus(&[&["--home", &gone], command, more].concat())?;
        let said = said.expect_failure(4, &["mesh-unreachable", "us-west", "7444"]);
        said.during(|| format!("{command:?}"))?;
    }
    Ok(())
}

fn addresses_in_use_are_told(mesh: &Mesh) -> Result<()> {
    // A program's port that somebody else has: nobody may take its place in the mesh.
    let taken = TcpListener::bind((neighbour(mesh, 199)?, 8080)).during(|| "a port".to_owned())?;
    let address = taken.local_addr().during(|| "a port".to_owned())?;
    let said = mesh.isthmus(&[
        "run",
        "--cluster",
        "us-west",
        "--service",
        "shop/catalog",
        "--port",
        "8080",
        "--program-address",
        &address.ip().to_string(),
        "--",
        "true",
    ])?;
    said.expect_failure(1, &["address-in-use", &address.to_string(), "ss -ltnp"])?;
    // The address of another process.
    let frontend = mesh.address("us-west", "frontend-1")?;
    let file = format!(
        "name: a\ncluster: us-west\naddress: {frontend}\ncontrol: ['127.0.0.1:15012']\nstate: state-a\n\
         account: shop/a\nprogram: {{address: 127.0.0.1}}\n"
    );
    let config = mesh.write("proxy.yaml", &file)?.display().to_string();
    let said = mesh.isthmus(&["proxy", "--config", &config])?;
    said.expect_failure(
        1,
        &[
            "cannot-listen",
            &frontend.to_string(),
            "Address already in use",
        ],
    )?;
    let control = mesh
        .home()
        .join("clusters/us-west/control.yaml")
        .display()
        .to_string();
    let said = mesh.isthmus(&["control", "--config", &control])?;
    let address = mesh.address("us-west", "control")?.to_string();
    said.expect_failure(1, &["cannot-listen", &address, "ss -ltnp"])?;
    Ok(())
}

fn up_tells_who_has_its_addresses(mesh: &mut Mesh) -> Result<()> {
    let control = mesh.address("us-west", "control")?;
    mesh.down()?;
    let said = mesh.isthmus(&["get", "services"])?;
    said.expect_failure(4, &["mesh-unreachable", "us-west", "isthmus up"])?;
    let address = SocketAddr::from((control, 7443));
    let taken = TcpListener::bind(address).during(|| address.to_string())?;
    for more in [&["--detach"][..], &["--quiet"]] {
        let said = mesh.isthmus(&[&["up"], more].concat())?;
        said.expect_failure(1, &["address-in-use", &address.to_string(), "ss -ltnp"])?;
    }
    drop(taken);
    Ok(())
}
