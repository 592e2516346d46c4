//! How an object is named on the command line.

use isthmus_model::{Kind, Namespace, ObjectName};

use crate::failure::{Failure, Result};

/// `kind`, `kind/name` or `kind/namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ObjectRef {
    pub(crate) kind: Kind,
    /// `Some` exactly when the kind is namespaced.
    pub(crate) namespace: Option<Namespace>,
    pub(crate) name: Option<ObjectName>,
}

impl ObjectRef {
    /// Objects of namespaced kinds that name no namespace are in `namespace`.
    ///
    /// Errors: no such kind, or no such name can exist (exit 2).
    pub(crate) fn parse(text: &str, namespace: &Namespace) -> Result<Self> {
        let wrong = |what: String| Failure::usage("bad-object", what);
        let mut parts = text.splitn(3, '/');
        let kind = kind(parts.next().unwrap_or_default())?;
        let (second, third) = (parts.next(), parts.next());
        let (in_namespace, name) = match (second, third) {
            (Some(namespace), Some(name)) => (Some(namespace), Some(name)),
            (name, None) => (None, name),
            (None, Some(_)) => (None, None),
        };
        if in_namespace.is_some() && !kind.namespaced() {
            return Err(wrong(format!(
                "a {kind} has no namespace: write {}/NAME",
                kind.plural()
            )));
        }
        let named =
            |error: isthmus_model::NameError| wrong(format!("{text:?} names no object: {error}"));
        let namespace = match in_namespace {
            Some(namespace) => Namespace::new(namespace).map_err(named)?,
            None => namespace.clone(),
        };
        Ok(Self {
            kind,
            namespace: kind.namespaced().then_some(namespace),
            name: name.map(ObjectName::new).transpose().map_err(named)?,
        })
    }

    /// As [`ObjectRef::parse`], of one object.
    pub(crate) fn parse_one(text: &str, namespace: &Namespace) -> Result<(Self, ObjectName)> {
        let mut reference = Self::parse(text, namespace)?;
        match reference.name.take() {
            Some(name) => Ok((reference, name)),
            None => Err(Failure::usage(
                "bad-object",
                format!("{text:?} names a kind, not an object"),
            )
            .next(format!(
                "write {text}/NAME; `isthmus get {text}` lists them"
            ))),
        }
    }

    /// Path of the object `name`.
    pub(crate) fn path(&self, name: &ObjectName) -> String {
        let namespace = self.namespace.as_ref().map(Namespace::as_str);
        isthmus_api::object(self.kind, namespace, name.as_str())
    }
}

fn kind(text: &str) -> Result<Kind> {
    text.parse().map_err(|error: isthmus_model::UnknownKind| {
        let plurals = Kind::ALL.map(Kind::plural);
        let distance = |plural: &&str| strsim::osa_distance(&text.to_lowercase(), plural);
        let next = match plurals.into_iter().min_by_key(distance) {
            Some(near) if distance(&near) <= 3 => format!("did you mean {near}?"),
            _ => format!("the kinds are {}", plurals.join(", ")),
        };
        Failure::usage("unknown-kind", error.to_string()).next(next)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_named_as_people_write_them() {
        let default = Namespace::new("default").unwrap();
        for (text, expect) in [
            ("services", Some((Kind::Service, Some("default"), None))),
            (
                "service/cart",
                Some((Kind::Service, Some("default"), Some("cart"))),
            ),
            (
                "HTTPRoute/shop/cart",
                Some((Kind::HttpRoute, Some("shop"), Some("cart"))),
            ),
            (
                "cluster/us-west",
                Some((Kind::Cluster, None, Some("us-west"))),
            ),
            ("cluster/a/b", None),
            ("service/CART", None),
            ("service/", None),
            ("", None),
        ] {
            let parsed = ObjectRef::parse(text, &default).ok();
            let parsed = parsed.as_ref().map(|each| {
                (
                    each.kind,
                    each.namespace.as_ref().map(Namespace::as_str),
                    each.name.as_ref().map(ObjectName::as_str),
                )
            });
            assert_eq!(parsed, expect, "{text}");
        }
    }

    #[test]
    fn a_near_kind_is_suggested() {
        let default = Namespace::new("default").unwrap();
        for (text, expect) in [("servics", "services"), ("pods", "the kinds are")] {
            let failure = ObjectRef::parse(text, &default).unwrap_err();
            assert!(failure.next[0].contains(expect), "{failure:?}");
        }
        assert!(ObjectRef::parse_one("services", &default).is_err());
    }
}
