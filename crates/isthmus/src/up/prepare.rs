//! Before anything starts: files are read into a plan, and a plan is written as files.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use isthmus_identity::ClusterAuthority;
use isthmus_manifest::check_parsed;
use isthmus_model::Namespace;

use super::declared::UpFile;
use super::fleet::Stage;
use super::plan::{Given, Plan};
use super::planned::{API_PORT, CONTROL_PORT, PlanProblem, PlannedCluster};
use super::screen::shell_word;
use crate::args::UpArgs;
use crate::config::{self, Sha256, Text};
use crate::failure::{Failure, Result};
use crate::found::{self, ClusterFiles};
use crate::home::{self, Home, MESH_FORMAT, MeshFile};
use crate::mesh_key;
use crate::mistakes::Source;
use crate::process;
use crate::resources::{self, UP_FILE};

/// A plan and what goes into the home beside it.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) plan: Plan,
    source: PathBuf,
    bearer: String,
}

/// A cluster whose certificate ends sooner is signed again at the next start.
const RENEW_BEFORE: Duration = Duration::from_hours(30 * 24);

/// Reads everything, writes nothing.
pub(crate) fn plan(home: &Home, args: &UpArgs) -> Result<Prepared> {
    let known = home.read_mesh()?;
    let source = source(args, known.as_ref())?;
    let up_path = source.join(UP_FILE);
    let up_text = home::read_file(&up_path).map_err(|failure| {
        failure.next("`up -f` takes a directory with up.yaml and resource files, see examples")
    })?;
    let file = UpFile::parse(&up_path, &up_text)?;
    let sources = resources::sources(std::slice::from_ref(&source))?;
    let default = Namespace::new("default").expect("a label");
    let documents = resources::read_sources(&sources, &default)?;
    let bearer = match fs::read_to_string(home.token()) {
        Ok(text) => text.trim().to_owned(),
        Err(_) => random_token()?,
    };
    let number = match known.as_ref().and_then(|mesh| mesh.number) {
        Some(number) => number,
        None => free_number(home, file.clusters.len())?,
    };
    let plan = Plan::make(Given {
        home,
        source: &source,
        file: &file,
        documents,
        number,
        api_token: Sha256::of(bearer.as_bytes()),
        quiet: args.quiet,
    })
    .map_err(|problems| problems_failure(problems, &sources))?;
    if known.is_none() {
        // The files are all that there is: what they name must be in them.
        let dangling = check_parsed(&plan.resources, Vec::new());
        if !dangling.is_empty() {
            return Err(resources::problems_failure(&dangling, &sources));
        }
    }
    if let Some(known) = known
        && (known.mesh.0 != plan.mesh || known.trust_domain.0 != plan.trust_domain)
    {
        let what = format!(
            "{} holds mesh {} ({}), the files declare {} ({})",
            home.path().display(),
            known.mesh,
            known.trust_domain,
            plan.mesh,
            plan.trust_domain
        );
        return Err(Failure::failed("other-mesh", what).next(
            "use another --home for another mesh, or `isthmus down --purge` to forget this one",
        ));
    }
    Ok(Prepared {
        plan,
        source,
        bearer,
    })
}

fn source(args: &UpArgs, known: Option<&MeshFile>) -> Result<PathBuf> {
    let wanted = args.directory.clone();
    let wanted = wanted.or_else(|| known.and_then(|mesh| mesh.source.clone()));
    let wanted = wanted.ok_or_else(|| {
        Failure::usage(
            "no-source",
            "there is no mesh here yet, and no files to make one of",
        )
        .next("name a directory, such as `isthmus up -f examples/one-cluster`")
    })?;
    fs::canonicalize(&wanted).map_err(|error| {
        Failure::failed(
            "file-unreadable",
            format!("{} cannot be read", wanted.display()),
        )
        .caused_by(&error)
    })
}

fn problems_failure(problems: Vec<PlanProblem>, sources: &[Source]) -> Failure {
    let (mut in_resources, mut disagreements) = (Vec::new(), Vec::new());
    for problem in problems {
        match problem {
            PlanProblem::Resource(problem) => in_resources.push(problem),
            PlanProblem::Disagreement(text) => disagreements.push(text),
        }
    }
    let mut failure = if in_resources.is_empty() {
        Failure::failed(
            "disagreement",
            "up.yaml and the resource files do not agree",
        )
    } else {
        resources::problems_failure(&in_resources, sources)
    };
    failure.causes.extend(disagreements);
    failure
}

fn random_token() -> Result<String> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).map_err(|error| {
        Failure::failed("no-randomness", format!("no token can be made: {error}"))
    })?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// A second byte under which no control plane listens. Homes begin to look at different places, so
/// that a mesh that is down does not lose its addresses to another.
fn free_number(home: &Home, clusters: usize) -> Result<u8> {
    let Sha256([start, ..]) = Sha256::of(home.path().as_os_str().as_encoded_bytes());
    let last = u8::try_from(clusters).unwrap_or(u8::MAX);
    let free = |number: u8| {
        (1..=last).all(|cluster| {
            let address = Ipv4Addr::new(127, number, cluster, 1);
            [CONTROL_PORT, API_PORT]
                .iter()
                .all(|port| TcpListener::bind((address, *port)).is_ok())
        })
    };
    let numbers = (0..254).map(|step: u16| (u16::from(start) + step) % 254 + 1);
    let mut numbers = numbers.filter_map(|number| u8::try_from(number).ok());
    numbers.find(|number| free(*number)).ok_or_else(|| {
        Failure::failed("no-address", "no loopback network 127.x.0.0/16 is free")
            .next("stop a mesh that is not needed; this works on Linux only")
    })
}

/// What must be free before anything starts: better one message now than a failure of many.
pub(crate) fn check_addresses(plan: &Plan) -> Result<()> {
    let mut failure = Failure::failed("address-in-use", "addresses of this mesh are in use");
    for cluster in &plan.clusters {
        for port in [CONTROL_PORT, API_PORT] {
            if let Err(error) = TcpListener::bind((cluster.control, port)) {
                failure = failure.cause(format!("{}:{port}: {error}", cluster.control));
            }
        }
    }
    if failure.causes.is_empty() {
        Ok(())
    } else {
        Err(failure
    .next("see who listens with `ss -ltnp`; processes of an `up` that was killed end within seconds"))
    }
}

/// Founds the mesh if it is new, signs its clusters in, and writes every file of the plan.
pub(crate) fn write(home: &Home, prepared: &Prepared) -> Result<()> {
    let Prepared { plan, bearer, .. } = prepared;
    home::write_file(&home.token(), &format!("{bearer}\n"))?;
    home.write_mesh(&mesh_file(prepared))?;
    if !mesh_key::is_known(home) {
        mesh_key::make(home, &plan.trust_domain, None)?;
    }
    for process in &plan.processes {
        home::write_file(&process.config, &process.config_text)?;
    }
    for cluster in &plan.clusters {
        sign_in(home, cluster)?;
    }
    home::write_file(&home.manifest(), &plan.manifest())
}

fn sign_in(home: &Home, cluster: &PlannedCluster) -> Result<()> {
    let files = ClusterFiles::of(&cluster.data);
    let config = process::control_config(&cluster.config, &config::read(&cluster.config)?);
    found::make_cluster_key(&config)?;
    if is_signed(&files) {
        Ok(())
    } else {
        found::sign_cluster(home, &cluster.name, &files.request, &files.certificate)
    }
}

fn is_signed(files: &ClusterFiles) -> bool {
    let now = SystemTime::now();
    let read = |path: &Path| fs::read_to_string(path).ok();
    let (Some(key), Some(chain)) = (read(&files.key), read(&files.certificate)) else {
        return false;
    };
    ClusterAuthority::from_pem(&key, &chain, now)
        .is_ok_and(|authority| authority.not_after() > now + RENEW_BEFORE)
}

fn mesh_file(prepared: &Prepared) -> MeshFile {
    let plan = &prepared.plan;
    MeshFile {
        format: MESH_FORMAT,
        mesh: Text(plan.mesh.clone()),
        trust_domain: Text(plan.trust_domain.clone()),
        number: Some(plan.number),
        source: Some(prepared.source.clone()),
        clusters: plan.contexts(),
    }
}

/// The commands and files of a plan, as a user would write them by hand.
pub(crate) fn describe(home: &Home, prepared: &Prepared) -> String {
    let plan = &prepared.plan;
    let word = |path: &Path| shell_word(&path.display().to_string());
    let mut commands = vec![
        format!("export ISTHMUS_HOME={}", word(home.path())),
        format!("isthmus mesh found --trust-domain {}", plan.trust_domain),
    ];
    for cluster in &plan.clusters {
        let files = ClusterFiles::of(&cluster.data);
        commands.push(format!("isthmus control init -c {}", word(&cluster.config)));
        commands.push(format!(
            "isthmus mesh sign --cluster {} --request {} --out {}",
            cluster.name,
            word(&files.request),
            word(&files.certificate)
        ));
    }
    let start = |arguments: &[String]| {
        let words: Vec<String> = arguments
            .iter()
            .map(|argument| shell_word(argument))
            .collect();
        format!("isthmus {} &", words.join(" "))
    };
    let (controls, others): (Vec<_>, Vec<_>) = plan
        .processes
        .iter()
        .partition(|process| process.stage == Stage::Control);
    commands.extend(controls.iter().map(|process| start(&process.arguments)));
    commands.push(format!("isthmus apply -f {}", word(&home.manifest())));
    for process in others {
        if let Some((request, path)) = &process.token {
            let service = request
                .service
                .iter()
                .map(|service| format!(" --service {service}"));
            commands.push(format!(
                "isthmus token create --cluster {} --account {}/{}{} > {}",
                process.cluster,
                request.namespace,
                request.account,
                service.collect::<String>(),
                word(path)
            ));
        }
        commands.push(start(&process.arguments));
    }
    let mut text = commands.join("\n") + "\n";
    // Writing into a string cannot fail.
    let _ = writeln!(
        text,
        "\n# {}: any secret; its SHA-256 stands in each control.yaml",
        home.token().display()
    );
    let _ = write!(
        text,
        "\n# {}\n{}",
        home.mesh_file().display(),
        mesh_file(prepared).to_json()
    );
    let files = plan
        .processes
        .iter()
        .map(|process| (&process.config, process.config_text.as_str()));
    let manifest = (&home.manifest(), plan.manifest());
    for (path, content) in files.chain([(manifest.0, manifest.1.as_str())]) {
        let _ = write!(text, "\n# {}\n{content}", path.display());
    }
    for link in plan.links.iter().filter(|link| !link.routes.is_empty()) {
        let _ = write!(
            text,
            "\n# link {}: a relay that adds {} ms\n",
            link.name,
            link.rtt.as_millis()
        );
        for route in &link.routes {
            let _ = writeln!(text, "# {} -> {}", route.listen, route.target);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(directory: &Path) -> UpArgs {
        UpArgs {
            directory: Some(directory.to_owned()),
            apply: false,
            detach: false,
            quiet: false,
            dry_run: false,
            background: false,
        }
    }

    /// The example that the repository ships, from files to files.
    #[test]
    fn an_example_is_prepared_and_prepared_again() {
        let example = Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../examples/three-regions"
        ));
        let directory = tempfile::tempdir().unwrap();
        let home = Home::resolve(Some(directory.path().join("home")), None, None).unwrap();
        home.create().unwrap();
        let first = plan(&home, &args(example)).unwrap();
        write(&home, &first).unwrap();
        let key = home::read_file(&home.mesh_key()).unwrap();
        for cluster in &first.plan.clusters {
            assert!(
                is_signed(&ClusterFiles::of(&cluster.data)),
                "{}",
                cluster.name
            );
        }
        let mesh = home.read_mesh().unwrap().unwrap();
        let again = UpArgs {
            directory: None,
            ..args(example)
        };
        let again = plan(&home, &again).unwrap();
        write(&home, &again).unwrap();
        assert_eq!(home.read_mesh().unwrap().unwrap(), mesh);
        assert_eq!(home::read_file(&home.mesh_key()).unwrap(), key);
        assert_eq!(again.bearer, first.bearer);
        let text = describe(&home, &again);
        for expect in [
            "isthmus mesh sign --cluster us-west",
            "isthmus apply -f",
            "# link us-west-eu-central",
        ] {
            assert!(text.contains(expect), "{expect} in\n{text}");
        }
    }

    #[test]
    fn a_home_keeps_its_mesh() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::resolve(Some(directory.path().join("home")), None, None).unwrap();
        assert!(
            plan(
                &home,
                &UpArgs {
                    directory: None,
                    ..args(Path::new(""))
                }
            )
            .is_err()
        );
        home.create().unwrap();
        home.write_mesh(&MeshFile {
            format: MESH_FORMAT,
            mesh: Text("other".parse().unwrap()),
            trust_domain: Text("other.example".parse().unwrap()),
            number: Some(9),
            source: None,
            clusters: vec![],
        })
        .unwrap();
        let example = Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../examples/one-cluster"
        ));
        let failure = plan(&home, &args(example)).unwrap_err();
        assert_eq!(failure.code, "other-mesh");
    }
}
