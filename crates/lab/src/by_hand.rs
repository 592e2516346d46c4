//! A mesh put together as `docs/by-hand.md` does it: public commands, hand-written files, no
//! supervisor, no relays. Each cluster is at one place of a [`Network`] of its own.
//!
//! Whatever happens, dropping a [`ByHand`] takes processes, files and network down with it; unless
//! all has passed, its logs are put aside and their place is printed.

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::http::{self, Reply};
use crate::mesh::{self, PATIENCE, Said, run};
use crate::namespaces::{Network, Place};
use crate::trouble::{During, Result, ensure, wait_for};

/// Last bytes of addresses: the control plane, the first gateway, the first workload.
const CONTROL: u8 = 1;
const GATEWAYS: u8 = 2;
const WORKLOADS: u8 = 10;

/// A mesh whose clusters are called like the places they are at.
#[derive(Debug)]
pub struct ByHand {
    binary: PathBuf,
    /// Holds home, configuration, state and logs; goes with the mesh.
    folder: PathBuf,
    processes: Vec<Process>,
    network: Network,
    /// Nothing has failed: its logs are not needed.
    passed: bool,
}

#[derive(Debug)]
struct Process {
    cluster: String,
    name: String,
    address: Ipv4Addr,
    child: Child,
}

impl ByHand {
    /// Founds the mesh `shop` and starts a control plane at each place; the first has authority.
    ///
    /// Errors: a command fails, or a control plane does not answer.
    pub fn found(binary: &Path, network: Network) -> Result<Self> {
        ensure(binary.is_file(), || {
            let path = binary.display();
            format!("{path} is missing: run `cargo build --workspace`")
        })?;
        let name = format!("isthmus-by-hand-{}", std::process::id());
        let mut made = Self {
            binary: binary.to_owned(),
            folder: std::env::temp_dir().join(name),
            processes: Vec::new(),
            network,
            passed: false,
        };
        fs::create_dir_all(made.folder.join("logs"))
            .during(|| made.folder.display().to_string())?;
        let clusters: Vec<&str> = made.network.places().iter().map(Place::name).collect();
        let first = clusters.first().copied().unwrap_or_default();
        made.isthmus(first, &["mesh", "found", "--trust-domain", "shop.example"])?
            .expect(0)?;
        made.write("home/token", "a secret of this test")?;
        let api = |cluster: &&str| -> Result<Value> {
            let address = made.address_of(cluster, CONTROL)?;
            Ok(json!({"name": cluster, "api": format!("{address}:7443")}))
        };
        let contexts = clusters.iter().map(api).collect::<Result<Vec<_>>>()?;
        let file = json!({
            "format": 1, "mesh": "shop", "trustDomain": "shop.example", "clusters": contexts,
        });
        made.write("home/mesh.json", &file.to_string())?;
        for cluster in &clusters {
            made.start_control(cluster, &clusters)?;
        }
        for cluster in &clusters {
            wait_for("a control plane to answer", PATIENCE, || {
                made.isthmus(cluster, &["--cluster", cluster, "status"])?
                    .expect(0)
            })?;
        }
        Ok(made)
    }

    fn start_control(&mut self, cluster: &str, clusters: &[&str]) -> Result<()> {
        // SHA-256 of the token in the home.
        let hash = self.sha256("home/token")?;
        let others = clusters.iter().filter(|other| **other != cluster);
        let peer = |other: &&str| Ok(format!("\"{}:15012\"", self.address_of(other, CONTROL)?));
        let peers = others.map(peer).collect::<Result<Vec<_>>>()?.join(", ");
        let address = self.address_of(cluster, CONTROL)?;
        let authority = clusters.first().copied().unwrap_or_default();
        let text = format!(
            "mesh: shop\ntrustDomain: shop.example\ncluster: {cluster}\naddress: {address}\n\
             data: control\nauthority: {authority}\npeers: [{peers}]\n\
             apiTokens:\n- {{name: test, sha256: {hash}}}\n"
        );
        let file = self.write(&format!("{cluster}/control.yaml"), &text)?;
        let file = file.display().to_string();
        self.isthmus(cluster, &["control", "init", "-c", &file])?
            .expect(0)?;
        let request = format!("{cluster}/control/cluster.csr");
        let signed = format!("{cluster}/control/cluster.pem");
        let sign = [
            "mesh",
            "sign",
            "--cluster",
            cluster,
            "--request",
            &request,
            "--out",
            &signed,
        ];
        self.isthmus(cluster, &sign)?.expect(0)?;
        self.start(cluster, "control", address, &["control", "-c", &file])
    }

    /// Starts gateways with the numbers 1 to `count`.
    pub fn start_gateways(&mut self, cluster: &str, count: u8) -> Result<()> {
        for number in 1..=count {
            let name = format!("gateway-{number}");
            let address = self.address_of(cluster, GATEWAYS + number - 1)?;
            let token = ["--account", "isthmus-system/gateway"];
            let file = self.write_joining(cluster, &name, address, &token, "")?;
            self.start(cluster, &name, address, &["gateway", "-c", &file])?;
        }
        Ok(())
    }

    /// Starts one program of the demo shop for each of `services`, in namespace `shop`: its proxy
    /// has an address of its own, and the program can be reached from its machine only.
    pub fn start_programs(&mut self, cluster: &str, services: &[&str]) -> Result<()> {
        for (service, last) in services.iter().zip(WORKLOADS..) {
            let name = format!("{service}-1");
            let service_name = format!("shop/{service}");
            let address = self.address_of(cluster, last)?;
            let token = ["--account", &service_name, "--service", &service_name];
            let more = format!(
                "service: {service_name}\naccessLog: true\nprogram:\n  address: 127.0.0.{last}\n  \
                 port: 8080\n  command: [isthmus-demo, {service}, --listen, \"${{ADDRESS}}:${{PORT}}\"]\n"
            );
            let file = self.write_joining(cluster, &name, address, &token, &more)?;
            self.start(cluster, &name, address, &["run", "-c", &file])?;
        }
        Ok(())
    }

    /// Makes a join token and the configuration file that names it.
    fn write_joining(
        &self,
        cluster: &str,
        name: &str,
        address: Ipv4Addr,
        token: &[&str],
        more: &str,
    ) -> Result<String> {
        let create = ["token", "create", "--cluster", cluster];
        let token = self
            .isthmus(cluster, &[&create, token].concat())?
            .expect(0)?;
        self.write(&format!("{cluster}/{name}.token"), &token.out)?;
        let control = self.address_of(cluster, CONTROL)?;
        let text = format!(
            "name: {name}\ncluster: {cluster}\naddress: {address}\ncontrol: [\"{control}:15012\"]\n\
             tokenFile: {name}.token\nstate: {name}.state\n{more}"
        );
        let file = self.write(&format!("{cluster}/{name}.yaml"), &text)?;
        Ok(file.display().to_string())
    }

    fn start(
        &mut self,
        cluster: &str,
        name: &str,
        address: Ipv4Addr,
        arguments: &[&str],
    ) -> Result<()> {
        let log = self.log_path(cluster, name);
        let output = File::create(&log).during(|| log.display().to_string())?;
        let errors = output.try_clone().during(|| log.display().to_string())?;
        let parent = std::process::id().to_string();
        let mut command = self.command(cluster)?;
        let child = command
            .args(["--die-with-parent", &parent])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .during(|| format!("starting {cluster}/{name}"))?;
        self.processes.push(Process {
            cluster: cluster.to_owned(),
            name: name.to_owned(),
            address,
            child,
        });
        Ok(())
    }

    /// Runs a command at a cluster's place to its end.
    pub fn isthmus(&self, cluster: &str, arguments: &[&str]) -> Result<Said> {
        run(self.command(cluster)?.args(arguments))
    }

    /// What a cluster says of the mesh.
    pub fn status(&self, cluster: &str) -> Result<Value> {
        let arguments = ["--cluster", cluster, "status", "-o", "json"];
        let said = self.isthmus(cluster, &arguments)?.expect(0)?;
        serde_json::from_str(&said.out).during(|| format!("status printed {}", said.out))
    }

    /// Does every cluster see all clusters, connected and healthy? Errors: what is not.
    pub fn is_whole(&self) -> Result<()> {
        let mut places = self.network.places().iter();
        places.try_for_each(|place| mesh::is_whole(place.name(), &self.status(place.name())?))
    }

    /// GETs `url` at a workload's place through its proxy.
    pub fn get(&self, (cluster, process): (&str, &str), url: &str) -> Result<Reply> {
        let proxy = SocketAddr::from((self.address(cluster, process)?, 15001));
        let place = self.network.place(cluster)?;
        place.inside(|| http::get(proxy, url, &[]))
    }

    /// The address of a process. Errors: it was not started.
    pub fn address(&self, cluster: &str, process: &str) -> Result<Ipv4Addr> {
        let is_it = |each: &&Process| each.cluster == cluster && each.name == process;
        let found = self.processes.iter().find(is_it).map(|each| each.address);
        found.ok_or_else(|| crate::trouble::Trouble(format!("{cluster}/{process} was not started")))
    }

    /// All that a process has said.
    pub fn log(&self, cluster: &str, process: &str) -> Result<String> {
        let path = self.log_path(cluster, process);
        fs::read_to_string(&path).during(|| path.display().to_string())
    }

    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Writes a file of the mesh's folder.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        let parent = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(parent).during(|| parent.display().to_string())?;
        fs::write(&path, text).during(|| path.display().to_string())?;
        Ok(path)
    }

    /// Everything has come out right: dropping it keeps nothing.
    pub fn pass(mut self) {
        self.passed = true;
    }

    /// The binary at a cluster's place, in the folder, with the programs on its PATH.
    fn command(&self, cluster: &str) -> Result<Command> {
        let mut command = self.network.place(cluster)?.command(&self.binary);
        let mut path = OsString::from(self.binary.parent().unwrap_or(Path::new(".")));
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        command
            .current_dir(&self.folder)
            .env("PATH", path)
            .env("ISTHMUS_HOME", self.folder.join("home"));
        for name in ["HTTP_PROXY", "http_proxy", "XDG_STATE_HOME"] {
            command.env_remove(name);
        }
        Ok(command)
    }

    fn sha256(&self, file: &str) -> Result<String> {
        let said = run(Command::new("sha256sum").arg(self.folder.join(file)))?.expect(0)?;
        Ok(said.out.split(' ').next().unwrap_or_default().to_owned())
    }

    fn address_of(&self, cluster: &str, last: u8) -> Result<Ipv4Addr> {
        Ok(self.network.place(cluster)?.address(last))
    }

    fn log_path(&self, cluster: &str, process: &str) -> PathBuf {
        self.folder
            .join("logs")
            .join(format!("{cluster}-{process}.log"))
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // Its program ends with it. One that has ended by itself is only waited for.
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
        if !self.passed {
            let kept = self.folder.with_extension("failed");
            let _ = fs::remove_dir_all(&kept);
            match fs::rename(self.folder.join("logs"), &kept) {
                Ok(()) => eprintln!("the mesh's logs are in {}", kept.display()),
                Err(error) => eprintln!("the mesh's logs could not be kept: {error}"),
            }
        }
        // Nothing but what was made here is in it.
        let _ = fs::remove_dir_all(&self.folder);
    }
}
