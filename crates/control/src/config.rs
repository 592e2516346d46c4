//! What a control plane is told when it starts, and what lies in its data directory.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use isthmus_identity::{AuthorityError, Certificates, ClusterAuthority, KeyError, KeyPair};
use isthmus_model::{ClusterIdentity, ClusterName, MeshName, TrustDomain};
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
    #[error(
        "{} does not say which roots are trusted: {reason}; without the file it is the one that has signed this \
         cluster", path.display()
    )]
    Roots { path: PathBuf, reason: String },
    #[error("{} is of {found}, the configuration says {expected}", path.display())]
    OtherCluster {
        path: PathBuf,
        found: String,
        expected: String,
    },
}

/// Where a private key lies, open or sealed.
pub(crate) struct KeyPath {
    open: PathBuf,
    sealed: PathBuf,
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

    pub(crate) fn key(&self) -> KeyPath {
        KeyPath {
            open: self.data.join("cluster.key"),
            sealed: self.data.join(at_rest::SEALED_CLUSTER_KEY),
        }
    }

    /// The one that is to take its place.
    pub(crate) fn next_key(&self) -> KeyPath {
        KeyPath {
            open: self.data.join("cluster.next.key"),
            sealed: self.data.join(at_rest::SEALED_NEXT_KEY),
        }
    }

    /// Opens what seals the directory; `None`: nothing there is sealed, or is to be.
    pub(crate) fn unlock(&self) -> Result<Option<Unlocked>, DataError> {
        if !at_rest::exists(&self.data)? {
            return Ok(None);
        }
        Ok(at_rest::unlock(&self.data, self.at_rest.as_ref())?)
    }

    fn request(&self) -> PathBuf {
        self.data.join("cluster.csr")
    }

    fn certificate(&self) -> PathBuf {
        self.data.join("cluster.pem")
    }

    pub(crate) fn roots(&self) -> PathBuf {
        self.data.join("roots.json")
    }

    /// Reads the cluster's key and its signed certificate. If another key was about to take its place, and its
    /// certificate is there, it does.
    pub(crate) fn authority_at(
        &self,
        unlocked: Option<&Unlocked>,
        now: SystemTime,
    ) -> Result<ClusterAuthority, DataError> {
        let next = self.next_key().read(unlocked)?;
        let Some(key) = self.key().read(unlocked)? else {
            let path = self.key().open;
            return Err(DataError::NoKey { path });
        };
        let path = self.certificate();
        let Some(chain) = read(&path)? else {
            return Err(DataError::NotSigned {
                certificate: path,
                request: self.request(),
            });
        };
        let (authority, takes_place) = match (ClusterAuthority::from_pem(&key, &chain, now), next) {
            (Err(AuthorityError::OtherKey), Some(next)) => {
                let authority = ClusterAuthority::from_pem(&next, &chain, now);
                (authority, Some(next))
            }
            // The key is in its place, and nothing but the file beside it is left.
            (authority, next) => (authority, next.filter(|next| *next == key)),
        };
        let authority = match authority {
            Ok(authority) => authority,
            Err(source) => return Err(DataError::Authority { path, source }),
        };
        self.check_is_own(authority.id(), &path)?;
        if let Some(next) = takes_place
            && let Err(error) = self.put_key(&KeyPair::from_pem(&next)?, unlocked)
        {
            // It is there, and serves; the next start tries again.
            tracing::warn!(%error, "the new key is not in its place yet");
        }
        Ok(authority)
    }

    /// Errors: the certificate is of another cluster.
    pub(crate) fn check_is_own(&self, id: &ClusterIdentity, path: &Path) -> Result<(), DataError> {
        if id.cluster == self.cluster && id.trust_domain == self.trust_domain {
            return Ok(());
        }
        let expected = ClusterIdentity {
            trust_domain: self.trust_domain.clone(),
            cluster: self.cluster.clone(),
        };
        Err(DataError::OtherCluster {
            path: path.to_owned(),
            found: id.to_string(),
            expected: expected.to_string(),
        })
    }

    /// Keeps a key and its certificate in the place of those that are there. From the moment that the certificate is
    /// written they hold, also if nothing of the rest is done before the next start.
    pub(crate) fn put_authority(
        &self,
        key: &KeyPair,
        chain: &Certificates,
        unlocked: Option<&Unlocked>,
    ) -> Result<(), DataError> {
        // What is asked for again, if this ends here, is asked for this key.
        at_rest::replace(&self.request(), key.certificate_request()?.as_bytes())?;
        at_rest::replace(&self.certificate(), chain.to_pem().as_bytes())?;
        self.put_key(key, unlocked)
    }

    /// The key in the place of the one that was there.
    fn put_key(&self, key: &KeyPair, unlocked: Option<&Unlocked>) -> Result<(), DataError> {
        self.key().write(key, unlocked)?;
        self.next_key().remove()
    }

    /// Is the certificate that is there one of this key?
    pub(crate) fn is_certified(&self, key: &KeyPair, now: SystemTime) -> Result<bool, DataError> {
        let chain = read(&self.certificate())?.unwrap_or_default();
        let authority = ClusterAuthority::from_pem(&key.to_pem(), &chain, now);
        Ok(!matches!(authority, Err(AuthorityError::OtherKey)))
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
    let request = config.request();
    let unlocked = config.unlock()?;
    let key = match config.key().read(unlocked.as_ref())? {
        Some(pem) => KeyPair::from_pem(&pem)?,
        None => {
            let key = KeyPair::generate()?;
            config.key().write(&key, unlocked.as_ref())?;
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

impl KeyPath {
    /// The key; `None`: there is none. One that lies open is sealed, if `unlocked` can.
    pub(crate) fn read(
        &self,
        unlocked: Option<&Unlocked>,
    ) -> Result<Option<Zeroizing<String>>, DataError> {
        let Self { open, sealed } = self;
        let plain = read(open)?.map(Zeroizing::new);
        let Some(unlocked) = unlocked else {
            // Without what opens it, it is as good as lost; another one would not be signed.
            if plain.is_none() && at_rest::exists(sealed)? {
                let path = sealed.clone();
                return Err(AtRestError::Foreign { path }.into());
            }
            return Ok(plain);
        };
        if let Some(plain) = &plain {
            match unlocked.read(sealed)? {
                None => unlocked.write(sealed, plain.as_bytes())?,
                Some(known) if known[..] == *plain.as_bytes() => {}
                Some(_) => {
                    let (open, sealed) = (open.clone(), sealed.clone());
                    return Err(AtRestError::TwoKeys { open, sealed }.into());
                }
            }
            remove(open)?;
            tracing::info!("{} takes the place of {}", sealed.display(), open.display());
        }
        let Some(key) = unlocked.read(sealed)? else {
            return Ok(None);
        };
        let key = String::from_utf8(key.to_vec()).map_err(|_| KeyError::Kind)?;
        Ok(Some(Zeroizing::new(key)))
    }

    /// Keeps the key, in the place of any that was there.
    pub(crate) fn write(
        &self,
        key: &KeyPair,
        unlocked: Option<&Unlocked>,
    ) -> Result<(), DataError> {
        let pem = key.to_pem();
        match unlocked {
            Some(unlocked) => unlocked.write(&self.sealed, pem.as_bytes())?,
            None => at_rest::replace(&self.open, pem.as_bytes())?,
        }
        Ok(())
    }

    pub(crate) fn remove(&self) -> Result<(), DataError> {
        for path in [&self.open, &self.sealed] {
            if at_rest::exists(path)? {
                remove(path)?;
            }
        }
        Ok(())
    }
}

fn remove(path: &Path) -> Result<(), DataError> {
    fs::remove_file(path).map_err(|source| DataError::File {
        act: "removed",
        path: path.to_owned(),
        source,
    })
}

/// `None` when there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<String>, DataError> {
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
