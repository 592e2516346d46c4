//! A mesh of one cluster, as a user has it: from `up` to `down`, requests, resources and mistakes.
//!
//! One mesh carries all of it, because a mesh is dear; the steps share its state, in this order.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::UNIX_EPOCH;

use isthmus_lab::http::{self, Reply};
use isthmus_lab::mesh::{Mesh, PATIENCE, run};
use isthmus_lab::trouble::{During, Result, Trouble, ensure, wait_for};
use serde_json::Value;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/one-cluster");
const CATALOG: &str = "http://catalog.shop.mesh/";
/// The reply says how the request went.
const TELL: &str = "x-isthmus-tell: 1";

#[test]
fn one_cluster_from_up_to_down() -> Result<()> {
    let mut mesh = Mesh::of(Path::new(env!("CARGO_BIN_EXE_isthmus")), Path::new(EXAMPLE))?;
    mesh.up(&["--quiet"])?;
    let caller = mesh.outbound("us-west", "frontend-1")?;

    requests_arrive_as_they_were_sent(caller)?;
    any_client_can_use_the_proxy(caller)?;
    what_the_mesh_refuses_has_a_reason(caller)?;
    resources_are_shown(&mesh)?;
    structured_output_is_as_documented(&mesh)?;
    a_second_up_is_refused(&mesh)?;
    mistakes_are_told_with_their_place_and_change_nothing(&mesh)?;
    a_wrong_token_is_refused(&mesh)?;
    changes_reach_the_proxies(&mesh, caller)?;
    a_stopped_mesh_goes_on_where_it_was(&mut mesh)?;
    mesh.pass();
    Ok(())
}

/// While a mesh is down nothing renews its certificates.
#[test]
fn up_after_a_long_stop_issues_new_certificates() -> Result<()> {
    let mut mesh = Mesh::of(Path::new(env!("CARGO_BIN_EXE_isthmus")), Path::new(EXAMPLE))?;
    let file = mesh.files().join("up.yaml");
    let during = || file.display().to_string();
    let text = fs::read_to_string(&file).during(during)?;
    fs::write(&file, format!("leafLifetime: 8s\n{text}")).during(during)?;
    mesh.up(&["--quiet"])?;
    let caller = mesh.outbound("us-west", "frontend-1")?;
    let expiry = |mesh: &Mesh| {
        let name = "isthmus_leaf_expiry_timestamp_seconds";
        mesh.metric(("us-west", "frontend-1"), name, &[])
    };
    http::get(caller, CATALOG, &[])?.expect(200)?;
    let old = expiry(&mesh)?;

    mesh.down()?;
    wait_for("the certificates to expire", PATIENCE, || {
        let now = UNIX_EPOCH.elapsed().during(|| "the clock".to_owned())?;
        ensure(now.as_secs_f64() > old, || {
            format!("they are good until {old}")
        })
    })?;
    mesh.up(&["--quiet"])?;
    http::get(caller, CATALOG, &[])?.expect(200)?;
    assert!(expiry(&mesh)? > old);
    mesh.pass();
    Ok(())
}

fn requests_arrive_as_they_were_sent(caller: SocketAddr) -> Result<()> {
    let reply = http::get(caller, CATALOG, &["x-request-id: e2e-1", TELL])?.expect(200)?;
    assert_eq!(reply.field("x-served-by"), Some("catalog/v1/us-west"));
    assert_eq!(reply.field("x-request-id"), Some("e2e-1"));
    assert_eq!(reply.field("x-isthmus-cluster"), Some("us-west"));

    let echo = format!("{CATALOG}echo");
    let known = http::request(
        caller,
        "POST",
        &echo,
        &["x-mark: of known length"],
        b"a b\r\nc",
    )?;
    let page = echoed(known, "POST", "a b\r\nc")?;
    let headers = page["headers"].as_array().expect("a list of headers");
    let marks = headers.iter().filter(|header| header[0] == "x-mark");
    let values: Vec<&Value> = marks.map(|header| &header[1]).collect();
    assert_eq!(values, ["of known length"]);
    for foreign in ["x-isthmus-tell", "connection", "proxy-connection"] {
        let arrived = headers.iter().any(|header| header[0] == foreign);
        assert!(!arrived, "{foreign} is between caller and proxy");
    }

    let head = http::head("PUT", &echo, &["transfer-encoding: chunked"]);
    let chunked = format!("{head}\r\n5;size=five\r\nfirst\r\n1\r\n-\r\n4\r\nlast\r\n0\r\n\r\n");
    echoed(
        http::exchange(caller, chunked.as_bytes())?,
        "PUT",
        "first-last",
    )?;

    // Longer than any buffer on the way, both ways.
    let long = "x".repeat(3 << 20);
    let page = http::request(caller, "POST", &echo, &[], long.as_bytes())?.expect(200)?;
    assert_eq!(page.json()?["received_bytes"], long.len());
    let filler = http::get(caller, &format!("{CATALOG}bytes/5000000"), &[])?.expect(200)?;
    assert_eq!(filler.body.len(), 5_000_000);

    let answered = http::get(caller, &format!("{CATALOG}status/418"), &[])?.expect(418)?;
    assert_eq!(answered.refusal(), None, "it is the program's own answer");
    Ok(())
}

fn echoed(reply: Reply, method: &str, body: &str) -> Result<Value> {
    let page = reply.expect(200)?.json()?;
    assert_eq!(page["method"], method);
    assert_eq!(page["body"], body);
    Ok(page)
}

fn any_client_can_use_the_proxy(caller: SocketAddr) -> Result<()> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "20"])
        .args(["--write-out", "%{http_code} %{num_connects}\n"])
        .args(["--output", "/dev/null", CATALOG])
        .args(["--output", "/dev/null", CATALOG])
        .env("http_proxy", format!("http://{caller}"));
    let said = run(&mut curl)?.expect(0)?;
    assert_eq!(said.out, "200 1\n200 0\n", "the connection is kept");
    Ok(())
}

fn what_the_mesh_refuses_has_a_reason(caller: SocketAddr) -> Result<()> {
    http::get(caller, "http://nobody.shop.mesh/", &[])?.expect_refusal(404, "no-such-service")?;
    http::get(caller, "http://catalog.shop.mesh:81/", &[])?.expect_refusal(404, "unknown-port")?;
    http::get(caller, "http://example.com/", &[])?.expect_refusal(403, "outside-denied")?;
    for (malformed, head) in [
        (
            "no version",
            "GET http://catalog.shop.mesh/\r\n\r\n".to_owned(),
        ),
        ("no HTTP", "\x16\x03\x01\x02 hello \r\n\r\n".to_owned()),
        (
            "a space before the colon",
            http::head("GET", CATALOG, &["a : b"]) + "\r\n",
        ),
        (
            "two lengths",
            http::head("POST", CATALOG, &["content-length: 1", "content-length: 2"]) + "\r\nab",
        ),
        (
            "a length and chunks",
            http::head(
                "POST",
                CATALOG,
                &["content-length: 5", "transfer-encoding: chunked"],
            ) + "\r\n0\r\n\r\n",
        ),
    ] {
        let reply = http::exchange(caller, head.as_bytes());
        let refused = reply.and_then(|reply| reply.expect_refusal(400, "malformed-request"));
        refused.during(|| malformed.to_owned())?;
    }
    let huge = format!("cookie: {}", "c".repeat(1 << 20));
    http::get(caller, CATALOG, &[&huge])?.expect_refusal(431, "head-too-large")?;
    http::get(caller, CATALOG, &[])?.expect(200)?;
    Ok(())
}

fn resources_are_shown(mesh: &Mesh) -> Result<()> {
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().into_iter().flatten();
        let name = |item: &Value| item["metadata"]["name"].as_str().map(str::to_owned);
        items.filter_map(name).collect()
    };
    let services = mesh.json(&["get", "services", "-n", "shop"])?;
    assert_eq!(names(&services), ["catalog", "frontend"]);
    let workloads = mesh.json(&["get", "workloads", "-A"])?;
    assert_eq!(names(&workloads).len(), 3, "a frontend and two catalogs");
    for word in ["clusters", "meshes", "namespaces"] {
        let said = mesh.isthmus(&["get", word])?.expect(0)?;
        assert!(said.out.lines().count() >= 2, "{}", said.out);
    }
    // What is printed can be read again.
    let printed = mesh.isthmus(&["get", "services", "-n", "shop", "-o", "yaml"])?;
    let file = mesh.write("printed.yaml", &printed.expect(0)?.out)?;
    let file = file.display().to_string();
    mesh.isthmus(&["diff", "-f", &file])?.expect(0)?;
    let described = mesh.isthmus(&["describe", "service/catalog", "-n", "shop"])?;
    let described = described.expect(0)?.out;
    for expect in [
        "Service shop/catalog",
        "by          admin",
        "Accepted",
        "us-west",
    ] {
        assert!(described.contains(expect), "{expect} in\n{described}");
    }
    let unknown = mesh.isthmus(&["get", "service/nobody", "-n", "shop"])?;
    unknown.expect_failure(1, &["nobody"])?;
    let unknown = mesh.isthmus(&["get", "servces"])?;
    unknown.expect_failure(2, &["servces", "services"])?;
    Ok(())
}

fn structured_output_is_as_documented(mesh: &Mesh) -> Result<()> {
    let other = "apiVersion: v1\nkind: Service\nmetadata: {name: other, namespace: shop}\n\
                 spec: {ports: [{port: 80}]}\n";
    let file = mesh.write("other.yaml", other)?.display().to_string();
    let folder = mesh.files().join("backups").display().to_string();
    for (heading, arguments) in [
        ("status", &["status"][..]),
        ("check", &["check"]),
        ("drift", &["drift"]),
        ("get", &["get", "workloads", "-A"]),
        ("apply", &["apply", "-f", &file, "--dry-run"]),
        ("diff", &["diff", "-f", &file]),
        (
            "token create",
            &[
                "token",
                "create",
                "--cluster",
                "us-west",
                "--service",
                "shop/catalog",
            ],
        ),
        ("rotate status", &["rotate", "status"]),
        ("link list", &["link", "list"]),
        ("history", &["history", "--limit", "1"]),
        ("undo", &["undo", "1", "--force", "--dry-run"]),
        ("audit verify", &["audit", "verify"]),
        ("authority", &["authority", "show"]),
        ("backup", &["backup", "create", "--to", &folder]),
    ] {
        let said = mesh.isthmus(&[arguments, &["-o", "json"]].concat())?;
        let printed = serde_json::from_str(&said.out).during(|| said.err.clone())?;
        let described = documented(heading)?;
        let unknown: Vec<_> = paths(&printed)
            .difference(&paths(&described))
            .cloned()
            .collect();
        ensure(unknown.is_empty(), || {
            format!("{heading}: {unknown:?} are not documented")
        })?;
    }
    Ok(())
}

/// The example under a heading of docs/reference/output.md.
fn documented(heading: &str) -> Result<Value> {
    let page = include_str!("../../../docs/reference/output.md");
    let section = page.split_once(&format!("\n## {heading}\n"));
    let block = section.and_then(|(_, section)| section.split_once("```json\n"));
    let block = block.and_then(|(_, block)| block.split_once("```"));
    let (block, _) = block.ok_or_else(|| Trouble(format!("there is no example of {heading}")))?;
    serde_json::from_str(block).during(|| heading.to_owned())
}

/// Where values stand, whatever their place in lists; of objects of the API only the outline.
fn paths(value: &Value) -> BTreeSet<String> {
    fn walk(value: &Value, path: &str, found: &mut BTreeSet<String>) {
        found.insert(path.to_owned());
        let ends = ["spec", "metadata", "file", "before", "after"]
            .iter()
            .any(|end| path.ends_with(end));
        match value {
            Value::Object(fields) if !ends => {
                for (name, value) in fields {
                    walk(value, &format!("{path}.{name}"), found);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, path, found)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    walk(value, "", &mut found);
    found
}

fn a_second_up_is_refused(mesh: &Mesh) -> Result<()> {
    let files = mesh.files();
    let files = files.to_str().expect("a path of letters");
    for detach in [&[][..], &["--detach"]] {
        let said = mesh.isthmus(&[&["up", "-f", files], detach].concat())?;
        let pid = mesh.supervisor()?.pid.to_string();
        said.expect_failure(1, &["already-running", &pid, "isthmus down"])?;
    }
    Ok(())
}

fn mistakes_are_told_with_their_place_and_change_nothing(mesh: &Mesh) -> Result<()> {
    let good = "apiVersion: v1\nkind: Service\nmetadata: {name: extra, namespace: shop}\n\
                spec: {ports: [{port: 80}]}\n---\n";
    let before = position(mesh)?;
    for (name, text, place, say) in [
        ("broken.yaml", "kind: [Service\n", "broken.yaml:6:", ""),
        (
            "field.yaml",
            "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: shop}\nspec:\n  prots: []\n",
            "field.yaml:10:3",
            "ports",
        ),
        (
            "kind.yaml",
            "apiVersion: v1\nkind: Servce\nmetadata: {name: a}\n",
            "kind.yaml:7:7",
            "Service",
        ),
        (
            "value.yaml",
            "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: shop}\nspec:\n  ports:\n  \
             - port: 123456\n",
            "value.yaml:11:11",
            "123456",
        ),
    ] {
        let path = mesh.write(name, &format!("{good}{text}"))?;
        let said = mesh.isthmus(&["apply", "-f", &path.display().to_string()])?;
        let told = said.expect_failure(1, &[place, say]);
        told.during(|| name.to_owned())?;
    }
    assert_eq!(position(mesh)?, before);
    let said = mesh.isthmus(&["get", "service/extra", "-n", "shop"])?;
    said.expect_failure(1, &["extra"])?;
    Ok(())
}

fn a_wrong_token_is_refused(mesh: &Mesh) -> Result<()> {
    let api = format!("https://{}:7443", mesh.address("us-west", "control")?);
    let token = fs::read_to_string(mesh.home().join("token")).during(|| "token".to_owned())?;
    for (bearer, expect) in [(token.trim(), "200"), ("wrong", "401"), ("", "401")] {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--insecure", "--max-time", "20"])
            .args(["--output", "/dev/null", "--write-out", "%{http_code}"])
            .args(["--header", &format!("authorization: Bearer {bearer}")])
            .arg(format!("{api}/api/v1/namespaces"));
        let said = run(&mut curl)?.expect(0)?;
        assert_eq!(said.out, expect, "with the token {bearer:?}");
    }
    // As a person meets it: another home with a token that is not right.
    let other = mesh.home().with_extension("other");
    let during = || other.display().to_string();
    fs::create_dir_all(other.join("ca")).during(during)?;
    for name in ["mesh.json", "ca/root.pem"] {
        fs::copy(mesh.home().join(name), other.join(name)).during(during)?;
    }
    fs::write(other.join("token"), "wrong\n").during(during)?;
    let home = other.display().to_string();
    let said = mesh.isthmus(&["--home", &home, "get", "services", "-A"])?;
    said.expect_failure(1, &["token"])?;
    Ok(())
}

fn changes_reach_the_proxies(mesh: &Mesh, caller: SocketAddr) -> Result<()> {
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
                 metadata: {name: catalog, namespace: shop}\nspec:\n  \
                 parentRefs: [{group: \"\", kind: Service, name: catalog}]\n  rules:\n  \
                 - name: only-books\n    matches: [{path: {type: PathPrefix, value: /books}}]\n    \
                 backendRefs: [{name: catalog, port: 80}]\n";
    let path = mesh.write("route.yaml", route)?;
    let file = path.display().to_string();
    let shown = mesh.isthmus(&["diff", "-f", &file])?.expect(3)?;
    assert!(shown.out.contains("would be created"), "{}", shown.out);
    mesh.isthmus(&["apply", "-f", &file, "--dry-run"])?
        .expect(0)?;
    http::get(caller, CATALOG, &[])?.expect(200)?;

    let before = position(mesh)?;
    let said = mesh.isthmus(&["apply", "-f", &file])?.expect(0)?;
    assert!(said.out.contains("created"), "{}", said.out);
    assert_eq!(position(mesh)?, before + 1);
    wait_for("the proxy to know the route", PATIENCE, || {
        http::get(caller, CATALOG, &[])?.expect_refusal(404, "no-route")
    })?;
    // What the program says of the path is its own affair: the request has reached it.
    let books = http::get(caller, &format!("{CATALOG}books"), &[TELL])?;
    assert_eq!(books.field("x-isthmus-rule"), Some("only-books"));
    let said = mesh.isthmus(&["diff", "-f", &file])?.expect(0)?;
    assert_eq!(said.out, "");
    let said = mesh.isthmus(&["apply", "-f", &file])?.expect(0)?;
    assert!(said.out.contains("unchanged"), "{}", said.out);
    assert_eq!(position(mesh)?, before + 1);

    mesh.write("route.yaml", &route.replace("only-books", "books"))?;
    let shown = mesh.isthmus(&["diff", "-f", &file])?.expect(3)?.out;
    let lines: Vec<&str> = shown.lines().map(str::trim_end).collect();
    let changed = |sign: char, text: &str| {
        lines
            .iter()
            .any(|line| line.starts_with(sign) && line.ends_with(text))
    };
    assert!(
        changed('-', "only-books") && changed('+', "name: books"),
        "{shown}"
    );

    mesh.isthmus(&["delete", "httproute/catalog", "-n", "shop"])?
        .expect(0)?;
    wait_for("the proxy to forget the route", PATIENCE, || {
        http::get(caller, CATALOG, &[])?.expect(200)
    })?;
    let again = mesh.isthmus(&["delete", "httproute/catalog", "-n", "shop"])?;
    again.expect_failure(1, &["catalog"])?;
    Ok(())
}

fn a_stopped_mesh_goes_on_where_it_was(mesh: &mut Mesh) -> Result<()> {
    // Not in the files: a store that was made anew would not have it.
    let kept = "apiVersion: v1\nkind: Service\nmetadata: {name: kept, namespace: shop}\n\
                spec: {ports: [{port: 80}]}\n";
    let path = mesh.write("kept.yaml", kept)?;
    mesh.isthmus(&["apply", "-f", &path.display().to_string()])?
        .expect(0)?;
    let before = position(mesh)?;
    let version = version_of_kept(mesh)?;
    let caller = mesh.outbound("us-west", "frontend-1")?;

    mesh.down()?;
    assert!(http::connect(caller).is_err(), "nothing runs any more");
    let said = mesh.isthmus(&["status"])?;
    said.expect_failure(4, &["us-west"])?;
    // Files are for an empty store only: what they say now is shown and not written.
    let mut files = fs::OpenOptions::new();
    let shop = mesh.files().join("shop.yaml");
    let mut file = files
        .append(true)
        .open(&shop)
        .during(|| "shop.yaml".to_owned())?;
    let other = kept.replace("kept", "later");
    write!(file, "---\n{other}").during(|| "shop.yaml".to_owned())?;
    mesh.up(&["--quiet"])?;

    assert_eq!(
        mesh.outbound("us-west", "frontend-1")?,
        caller,
        "addresses are kept"
    );
    assert_eq!((position(mesh)?, version_of_kept(mesh)?), (before, version));
    http::get(caller, CATALOG, &[])?.expect(200)?;
    let said = mesh.isthmus(&["get", "service/later", "-n", "shop"])?;
    said.expect_failure(1, &["later"])?;
    let log = mesh.up_log()?;
    ensure(log.contains("differ") && log.contains("later"), || {
        log.clone()
    })?;

    mesh.down()?;
    let files = mesh.files().display().to_string();
    let up = ["up", "-f", &files, "--quiet", "--detach"];
    let said = mesh.isthmus(&up)?.expect(0)?;
    ensure(
        said.out.contains("differ") && said.out.contains("later"),
        || said.out.clone(),
    )?;
    mesh.isthmus(&["down"])?.expect(0)?;
    mesh.isthmus(&[&up[..], &["--apply"]].concat())?.expect(0)?;
    mesh.isthmus(&["get", "service/later", "-n", "shop"])?
        .expect(0)?;
    Ok(())
}

fn version_of_kept(mesh: &Mesh) -> Result<String> {
    let object = mesh.json(&["get", "service/kept", "-n", "shop"])?;
    Ok(object["metadata"]["resourceVersion"].to_string())
}

/// How far the config is, as the control plane says.
fn position(mesh: &Mesh) -> Result<u64> {
    let status = mesh.json(&["status"])?;
    Ok(status["position"].as_u64().expect("a number"))
}
