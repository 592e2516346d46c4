//! Paths of resources (Kubernetes API conventions).

use isthmus_model::Kind;

/// Path of all objects of a kind, or of one namespace's.
pub fn collection(kind: Kind, namespace: Option<&str>) -> String {
    let root = match kind.group() {
        "" => format!("/api/{}", kind.version()),
        group => format!("/apis/{group}/{}", kind.version()),
    };
    match namespace {
        Some(namespace) if kind.namespaced() => {
            format!("{root}/namespaces/{namespace}/{}", kind.plural())
        }
        _ => format!("{root}/{}", kind.plural()),
    }
}

/// Path of one object.
pub fn object(kind: Kind, namespace: Option<&str>, name: &str) -> String {
    format!("{}/{name}", collection(kind, namespace))
}

/// The same path among what belongs to a cluster.
pub fn of_cluster(cluster: &str, path: &str) -> String {
    format!("/clusters/{cluster}{path}")
}

/// The cluster, and the path as [`of_cluster`] was given it. `None`: the path is of what belongs to the mesh.
pub fn cluster_of(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("/clusters/")?;
    Some(rest.split_at(rest.find('/')?))
}

/// What a path under `/api` or `/apis` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourcePath {
    pub kind: Kind,
    pub namespace: Option<String>,
    pub name: Option<String>,
}

impl ResourcePath {
    /// `None`: no kind is served there.
    pub fn parse(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let find = |plural: &str| {
            Kind::ALL.into_iter().find(|kind| {
                kind.group() == group && kind.version() == version && kind.plural() == plural
            })
        };
        let (kind, namespace, name) = match rest {
            [plural] => (find(plural)?, None, None),
            ["namespaces", name] if group.is_empty() => (Kind::Namespace, None, Some(*name)),
            [plural, name] => (find(plural)?, None, Some(*name)),
            ["namespaces", namespace, plural] => (find(plural)?, Some(*namespace), None),
            ["namespaces", namespace, plural, name] => {
                (find(plural)?, Some(*namespace), Some(*name))
            }
            _ => return None,
        };
        let placed = namespace.is_some();
        let fits = if kind.namespaced() {
            placed || name.is_none()
        } else {
            !placed
        };
        fits.then(|| Self {
            kind,
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_round_trip() {
        for kind in Kind::ALL {
            let namespace = kind.namespaced().then_some("shop");
            let found = ResourcePath::parse(&object(kind, namespace, "x")).unwrap();
            assert_eq!((found.kind, found.name.as_deref()), (kind, Some("x")));
            assert_eq!(found.namespace.as_deref(), namespace);
            assert_eq!(
                ResourcePath::parse(&collection(kind, None)).unwrap().kind,
                kind
            );
        }
    }

    #[test]
    fn what_belongs_to_a_cluster_has_a_root_of_its_own() {
        let path = collection(Kind::HttpRoute, Some("shop"));
        let own = of_cluster("us-west", &path);
        assert_eq!(cluster_of(&own), Some(("us-west", &path[..])));
        assert_eq!(cluster_of(&path), None);
        assert_eq!(cluster_of("/clusters/us-west"), None);
    }

    #[test]
    fn other_paths_name_nothing() {
        for path in [
            "/",
            "/api/v1",
            "/api/v1/pods",
            "/apis/mesh.isthmus.dev/v1alpha1/links/a/b/c/d",
            "/apis/mesh.isthmus.dev/v1alpha1/namespaces/shop/links/x",
            "/api/v1/services/cart",
            "/mesh/v1/status",
        ] {
            assert_eq!(ResourcePath::parse(path), None, "{path}");
        }
    }
}
