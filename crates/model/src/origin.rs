//! Whose config a resource is.

use crate::ClusterName;

/// Who a config resource belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Origin {
    /// It binds all, and the authority accepts it.
    #[default]
    Mesh,
    /// It binds callers and workloads of this cluster, whose control plane accepts it.
    Cluster(ClusterName),
}

impl Origin {
    /// `None`: the mesh.
    pub fn cluster(&self) -> Option<&ClusterName> {
        match self {
            Self::Mesh => None,
            Self::Cluster(cluster) => Some(cluster),
        }
    }
}

impl From<Option<ClusterName>> for Origin {
    fn from(cluster: Option<ClusterName>) -> Self {
        cluster.map_or(Self::Mesh, Self::Cluster)
    }
}
