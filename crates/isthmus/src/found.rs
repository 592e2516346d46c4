//! Founding a mesh and signing clusters in: the mesh key stays with the people who hold the home.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use isthmus_control::Initialised;
use isthmus_identity::{CLUSTER_LIFETIME, CertificateRequest};
use isthmus_model::{ClusterName, TrustDomain};

use crate::config;
use crate::failure::{Failure, Result};
use crate::home::{self, Home};
use crate::setting::Setting;
use crate::{mesh_key, output, process};

/// What a control plane's data directory holds of its identity.
#[derive(Debug, Clone)]
pub(crate) struct ClusterFiles {
    pub(crate) key: PathBuf,
    pub(crate) request: PathBuf,
    pub(crate) certificate: PathBuf,
}

impl ClusterFiles {
    pub(crate) fn of(data: &Path) -> Self {
        Self {
            key: data.join("cluster.key"),
            request: data.join("cluster.csr"),
            certificate: data.join("cluster.pem"),
        }
    }
}

/// `isthmus mesh found`.
pub(crate) fn found(
    setting: &Setting,
    trust_domain: &TrustDomain,
    key_file: Option<&Path>,
) -> Result<ExitCode> {
    let home = &setting.home;
    if mesh_key::is_known(home) {
        let what = format!("{} has the key of a mesh", home.path().display());
        return Err(Failure::failed("mesh-exists", what)
            .next("use another home, with --home, for another mesh"));
    }
    home.create()?;
    let key = mesh_key::make(home, trust_domain, key_file)?;
    output::print(&format!(
        "mesh {trust_domain} founded\n  key          {}\n  certificate  {}\nKeep the key safe: whoever holds it can \
         sign clusters in.\n",
        key.display(),
        home.root_certificate().display()
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// `isthmus mesh sign`.
pub(crate) fn sign(setting: &Setting, request: &Path, out: &Path) -> Result<ExitCode> {
    let cluster = setting.required_cluster()?;
    sign_cluster(&setting.home, cluster, request, out)?;
    output::print(&format!("cluster {cluster} signed in: {}\n", out.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// `isthmus control init`.
pub(crate) fn init(path: &Path) -> Result<ExitCode> {
    let config = process::control_config(path, &config::read(path)?);
    let made = make_cluster_key(&config)?;
    output::print(&format!(
        "{}\nHave it signed:\n  isthmus mesh sign --cluster {} --request {} --out {}\n",
        made.request.display(),
        config.cluster,
        made.request.display(),
        made.certificate.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Makes a cluster's key and request, unless they are there.
pub(crate) fn make_cluster_key(config: &isthmus_control::Config) -> Result<Initialised> {
    isthmus_control::init(config).map_err(|error| {
        Failure::failed("no-key", "the cluster's key cannot be made").caused_by(&error)
    })
}

/// Turns a cluster's request into its certificate.
pub(crate) fn sign_cluster(
    home: &Home,
    cluster: &ClusterName,
    request: &Path,
    out: &Path,
) -> Result<()> {
    let key = mesh_key::read(home)?;
    let request_pem = home::read_file(request)?;
    let request = CertificateRequest::from_pem(&request_pem).map_err(|error| {
        let what = format!("{} is not a certificate request", request.display());
        Failure::failed("bad-request", what)
            .caused_by(&error)
            .next("make one with `isthmus control init -c FILE`")
    })?;
    let chain = key
        .sign_cluster(&request, cluster, SystemTime::now(), CLUSTER_LIFETIME)
        .map_err(|error| {
            Failure::failed(
                "not-signed",
                format!("cluster {cluster} cannot be signed in"),
            )
            .caused_by(&error)
        })?;
    home::write_file(out, &chain.to_pem())
}

#[cfg(test)]
mod tests {
    use isthmus_identity::ClusterAuthority;

    use super::*;

    #[test]
    fn a_founded_mesh_signs_a_cluster_in() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::resolve(Some(directory.path().join("home")), None, None).unwrap();
        let cluster: ClusterName = "us-west".parse().unwrap();
        let path = directory.path().join("control.yaml");
        let text = "{mesh: shop, trustDomain: shop.example, cluster: us-west, address: 127.1.1.1, data: data, authority: us-west}";
        let config = process::control_config(&path, &config::parse(&path, text).unwrap());
        let files = ClusterFiles::of(&config.data);
        make_cluster_key(&config).unwrap();
        let key = home::read_file(&files.key).unwrap();
        make_cluster_key(&config).unwrap();
        assert_eq!(
            home::read_file(&files.key).unwrap(),
            key,
            "a key is made once"
        );

        let unsigned = sign_cluster(&home, &cluster, &files.request, &files.certificate);
        assert!(unsigned.unwrap_err().next[0].contains("mesh found"));
        mesh_key::make(&home, &"shop.example".parse().unwrap(), None).unwrap();
        sign_cluster(&home, &cluster, &files.request, &files.certificate).unwrap();
        let chain = home::read_file(&files.certificate).unwrap();
        let authority = ClusterAuthority::from_pem(&key, &chain, SystemTime::now()).unwrap();
        assert_eq!(
            authority.id().to_string(),
            "spiffe://shop.example/cluster/us-west"
        );
    }
}
