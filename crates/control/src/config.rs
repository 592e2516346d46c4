//! What a control plane is told when it starts, and what lies in its data directory.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use isthmus_identity::{AuthorityError, ClusterAuthority, KeyError, KeyPair};
use isthmus_model::{ClusterName, MeshName, TrustDomain};
use zeroize::Zeroizing;

use crate::at_rest::{self, AtRest, AtRestError, Unlocked};

/// One cluster's control plane.
#[derive(Debug, Clone)]
pub struct Config {
    pub mesh: MeshName,
    pub trust_domain: TrustDomain,
    pub cluster: ClusterName,
    pub address: IpAddr,
    pub ports: Ports,
    /// Directory of key, certificate and store; only its owner should be able to read it.
    pub data: PathBuf,
    /// The cluster whose control plane accepts config; may be this one.
    pub authority: ClusterName,
    /// Control planes of other clusters, for as long as config does not say where they are.
    pub peers: Vec<SocketAddr>,
    /// Who may use the API.
    pub api_tokens: Vec<ApiToken>,
    /// How long the certificates of this cluster's processes are valid.
    pub leaf_lifetime: Duration,
    /// When those processes, and this one, renew.
    pub renew_after: Duration,
    /// `None`: what lies in `data` is not sealed.
    pub at_rest: Option<AtRest>,
}

/// Where it listens, on its own address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Proxies and other control planes, mutual TLS.
    pub mesh: u16,
    /// The API, HTTPS.
    pub api: u16,
    /// Metrics and health, plain HTTP.
    pub metrics: u16,
}

/// A bearer token of the API. What is kept of it cannot be used as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiToken {
    /// The author of what is written with it.
    pub name: String,
    pub sha256: [u8; 32],
}

/// Why the data directory does not hold a cluster's authority.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("{} cannot be {act}: {source}", path.display())]
    File {
        act: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(
        "{} is missing: the holder of the mesh key signs this cluster in with \
         `isthmus mesh sign {} --out {}`", certificate.display(), request.display(),
         certificate.display()
    )]
    NotSigned {
        certificate: PathBuf,
        request: PathBuf,
    },
    #[error("{} is missing: `isthmus control init` makes it", path.display())]
    NoKey { path: PathBuf },
    #[error("no key could be made: {0}")]
    Key(#[from] KeyError),
    #[error("{}: {source}", path.display())]
    Authority {
        path: PathBuf,
        source: AuthorityError,
    },
    #[error(transparent)]
    AtRest(#[from] AtRestError),
    #[error("{} is of {found}, the configuration says {expected}", path.display())]
    OtherCluster {
        path: PathBuf,
        found: String,
        expected: String,
    },
}

/// What `init` left for the holder of the mesh key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Initialised {
    /// The request to be signed.
    pub request: PathBuf,
    /// Where the signed certificates are expected.
    pub certificate: PathBuf,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            mesh: 15012,
            api: 7443,
            metrics: 15020,
        }
    }
}

impl Config {
    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address, port)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.data.join(at_rest::STORE)
    }

    fn key(&self) -> PathBuf {
        self.data.join("cluster.key")
    }

    fn sealed_key(&self) -> PathBuf {
        self.data.join(at_rest::SEALED_CLUSTER_KEY)
    }

    /// Opens what seals the directory; `None`: nothing there is sealed, or is to be.
    pub(crate) fn unlock(&self) -> Result<Option<Unlocked>, DataError> {
        if !at_rest::exists(&self.data)? {
            return Ok(None);
        }
        Ok(at_rest::unlock(&self.data, self.at_rest.as_ref())?)
    }

    /// The cluster's key; `None`: there is none. One that lies open is sealed, if `unlocked` can.
    fn read_key(
        &self,
        unlocked: Option<&Unlocked>,
    ) -> Result<Option<Zeroizing<String>>, DataError> {
        let (open, sealed) = (self.key(), self.sealed_key());
        let plain = read(&open)?.map(Zeroizing::new);
        let Some(unlocked) = unlocked else {
            // Without what opens it, it is as good as lost; another one would not be signed.
            if plain.is_none() && at_rest::exists(&sealed)? {
                return Err(AtRestError::Foreign { path: sealed }.into());
            }
            return Ok(plain);
        };
        if let Some(plain) = &plain {
            match unlocked.read(&sealed)? {
                None => unlocked.write(&sealed, plain.as_bytes())?,
                Some(known) if known[..] == *plain.as_bytes() => {}
                Some(_) => return Err(AtRestError::TwoKeys { open, sealed }.into()),
            }
            let removed = fs::remove_file(&open);
            removed.map_err(|source| DataError::File {
                act: "removed",
                path: open.clone(),
                source,
            })?;
            tracing::info!("{} takes the place of {}", sealed.display(), open.display());
        }
        let Some(key) = unlocked.read(&sealed)? else {
            return Ok(None);
        };
        let key = String::from_utf8(key.to_vec()).map_err(|_| KeyError::Kind)?;
        Ok(Some(Zeroizing::new(key)))
    }

    fn request(&self) -> PathBuf {
        self.data.join("cluster.csr")
    }

    fn certificate(&self) -> PathBuf {
        self.data.join("cluster.pem")
    }

    /// Reads the cluster's key and its signed certificate.
    pub(crate) fn authority_at(
        &self,
        unlocked: Option<&Unlocked>,
        now: SystemTime,
    ) -> Result<ClusterAuthority, DataError> {
        let Some(key) = self.read_key(unlocked)? else {
            return Err(DataError::NoKey { path: self.key() });
        };
        let path = self.certificate();
        let Some(chain) = read(&path)? else {
            return Err(DataError::NotSigned {
                certificate: path,
                request: self.request(),
            });
        };
        let authority = match ClusterAuthority::from_pem(&key, &chain, now) {
            Ok(authority) => authority,
            Err(source) => return Err(DataError::Authority { path, source }),
        };
        let id = authority.id();
        if id.cluster != self.cluster || id.trust_domain != self.trust_domain {
            let expected = isthmus_model::ClusterIdentity {
                trust_domain: self.trust_domain.clone(),
                cluster: self.cluster.clone(),
            };
            return Err(DataError::OtherCluster {
                path,
                found: id.to_string(),
                expected: expected.to_string(),
            });
        }
        Ok(authority)
    }
}

/// Makes the cluster's key and the request that the holder of the mesh key signs. What is there
/// already stays as it is.
///
/// Errors: the data directory cannot be written, or holds a key that cannot be read.
pub fn init(config: &Config) -> Result<Initialised, DataError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| DataError::File {
            act: "made",
            path,
            source,
        }
    };
    fs::create_dir_all(&config.data).map_err(failed(&config.data))?;
    let (key_path, request) = (config.key(), config.request());
    let unlocked = config.unlock()?;
    let key = match config.read_key(unlocked.as_ref())? {
        Some(pem) => KeyPair::from_pem(&pem)?,
        None => {
            let key = KeyPair::generate()?;
            let pem = key.to_pem();
            match &unlocked {
                Some(unlocked) => unlocked.write(&config.sealed_key(), pem.as_bytes())?,
                None => write_private(&key_path, pem.as_bytes()).map_err(failed(&key_path))?,
            }
            key
        }
    };
    if read(&request)?.is_none() {
        fs::write(&request, key.certificate_request()?).map_err(failed(&request))?;
    }
    Ok(Initialised {
        request,
        certificate: config.certificate(),
    })
}

/// `None` when there is no such file.
fn read(path: &Path) -> Result<Option<String>, DataError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DataError::File {
            act: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}
