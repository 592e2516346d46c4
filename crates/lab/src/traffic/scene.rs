//! The mesh that the traffic goes through: three clusters, two services, a caller in two of them.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::Lane;
use crate::mesh::{Mesh, PATIENCE};
use crate::trouble::{During, Result, wait_for};

/// The mesh, and where its programs write down what they execute.
#[derive(Debug)]
pub struct Scene {
    pub mesh: Mesh,
    pub journal: PathBuf,
}

pub const CLUSTERS: [&str; 3] = ["west", "east", "south"];
const CALLERS: [&str; 2] = ["west", "east"];
/// Services, and the local ports of callers that lead to their TCP.
const SERVICES: [(&str, u16); 2] = [("near", 7001), ("far", 7002)];
const FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bin/soak/mesh");

impl Scene {
    /// Starts the mesh with the binary in `programs`, beside which `soak` stands. Its certificates live
    /// for `lifetime`, and are renewed after half of it or an hour.
    ///
    /// Errors: a program is missing, or the mesh does not become whole.
    pub fn start(programs: &Path, lifetime: &str) -> Result<Self> {
        let mut mesh = Mesh::of(&programs.join("isthmus"), Path::new(FILES))?;
        let journal = mesh.files().with_file_name("journal");
        fs::create_dir_all(&journal).during(|| journal.display().to_string())?;
        mesh.edit("up.yaml", "JOURNAL", &journal.display().to_string())?;
        mesh.edit("up.yaml", "LIFETIME", lifetime)?;
        mesh.up(&["--quiet"])?;
        let scene = Self { mesh, journal };
        scene.whole()?;
        Ok(scene)
    }

    /// Waits until every cluster sees everything as it should be.
    pub fn whole(&self) -> Result<()> {
        CLUSTERS.iter().try_for_each(|cluster| {
            wait_for("the mesh to be whole", 2 * PATIENCE, || {
                self.mesh.is_whole(cluster)
            })
        })
    }

    /// From each caller to each service.
    pub fn lanes(&self) -> Result<Vec<Lane>> {
        let mut lanes = Vec::new();
        for cluster in CALLERS {
            let proxy = self.mesh.outbound(cluster, "caller-1")?;
            lanes.extend(SERVICES.map(|(service, port)| Lane {
                proxy,
                host: format!("{service}.soak.mesh"),
                listener: SocketAddr::new(proxy.ip(), port),
            }));
        }
        Ok(lanes)
    }
}
