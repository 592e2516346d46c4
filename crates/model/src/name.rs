//! Names: checked once, cheap to clone, never interchangeable.

use std::fmt;
use std::sync::Arc;

/// Why a string is not a name. `Display` is a sentence fragment that fits behind "`x` is not a
/// cluster name: ".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("it does not say its namespace: write namespace/name")]
    NoNamespace,
    #[error("it is empty")]
    Empty,
    #[error("it has {length} characters, {limit} are allowed")]
    TooLong { length: usize, limit: usize },
    #[error("{found:?} is not allowed, only {allowed}")]
    Character { found: char, allowed: &'static str },
    #[error("it must begin and end with a letter or a digit")]
    Edge,
}

/// RFC 1123 label: at most 63 of `[a-z0-9-]`, alphanumeric at both ends.
fn check_label(text: &str) -> Result<(), NameError> {
    check(text, 63, "a-z, 0-9 and '-'", |c| c == '-')
}

/// RFC 1123 subdomain: at most 253 of `[a-z0-9.-]`, every part a label.
fn check_subdomain(text: &str) -> Result<(), NameError> {
    check(text, 253, "a-z, 0-9, '-' and '.'", |c| c == '-' || c == '.')?;
    text.split('.').try_for_each(check_label)
}

fn check(
    text: &str,
    limit: usize,
    allowed: &'static str,
    extra: impl Fn(char) -> bool,
) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > limit {
        return Err(NameError::TooLong {
            length: text.len(),
            limit,
        });
    }
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if let Some(found) = text.chars().find(|&c| !plain(c) && !extra(c)) {
        return Err(NameError::Character { found, allowed });
    }
    if !text.starts_with(plain) || !text.ends_with(plain) {
        return Err(NameError::Edge);
    }
    Ok(())
}

/// HTTP field name in lower case (RFC 9110 section 5.1: a token; we keep one spelling).
fn check_header(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > 256 {
        return Err(NameError::TooLong {
            length: text.len(),
            limit: 256,
        });
    }
    let token =
        |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "!#$%&'*+-.^_`|~".contains(c);
    match text.chars().find(|&c| !token(c)) {
        Some(found) => Err(NameError::Character {
            found,
            allowed: "lower-case token characters (RFC 9110)",
        }),
        None => Ok(()),
    }
}

/// Cookie name (RFC 6265 section 4.1.1: a token; letter case counts).
fn check_cookie(text: &str) -> Result<(), NameError> {
    match check_header(&text.to_ascii_lowercase()) {
        Err(NameError::Character { found, .. }) => Err(NameError::Character {
            found,
            allowed: "token characters (RFC 9110)",
        }),
        other => other,
    }
}

/// Kubernetes label key: `[prefix/]name`, the name at most 63 of `[A-Za-z0-9._-]`.
fn check_label_key(text: &str) -> Result<(), NameError> {
    let name = match text.split_once('/') {
        Some((prefix, name)) => {
            check_subdomain(prefix)?;
            name
        }
        None => text,
    };
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > 63 {
        return Err(NameError::TooLong {
            length: name.len(),
            limit: 63,
        });
    }
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if let Some(found) = name.chars().find(|&c| !inner(c)) {
        return Err(NameError::Character {
            found,
            allowed: "letters, digits, '.', '_' and '-'",
        });
    }
    let edge = |c: char| c.is_ascii_alphanumeric();
    if !name.starts_with(edge) || !name.ends_with(edge) {
        return Err(NameError::Edge);
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Errors: the first rule that `text` breaks.
            pub fn new(text: &str) -> Result<Self, NameError> {
                $check(text)?;
                Ok(Self(text.into()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

name! {
    /// Name of a mesh: an RFC 1123 label.
    MeshName, check_label
}
name! {
    /// Name of a cluster: an RFC 1123 label, unique in the mesh.
    ClusterName, check_label
}
name! {
    /// Name of a region, such as `us-west`: an RFC 1123 label.
    RegionName, check_label
}
name! {
    /// Namespace: an RFC 1123 label; the same namespace in two clusters is the same namespace.
    Namespace, check_label
}
name! {
    /// Service account: what a workload runs as.
    AccountName, check_label
}
name! {
    /// `metadata.name` of a resource: an RFC 1123 subdomain.
    ObjectName, check_subdomain
}
name! {
    /// A service's own name: an RFC 1123 label, since it is one label of the host name.
    ServiceLabel, check_label
}
name! {
    /// Name of a service's port: an RFC 1123 label.
    PortName, check_label
}
name! {
    /// SPIFFE trust domain (SPIFFE-ID section 2.1, restricted to RFC 1123 subdomains).
    TrustDomain, check_subdomain
}
name! {
    /// HTTP field name, lower case.
    HeaderName, check_header
}
name! {
    /// Name of a cookie: a token (RFC 6265 section 4.1.1), letter case counts.
    CookieName, check_cookie
}
name! {
    /// Key of a label.
    LabelKey, check_label_key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels() {
        for good in ["a", "us-west", "x1", &"a".repeat(63)] {
            assert_eq!(
                ClusterName::new(good).map(|n| n.to_string()),
                Ok(good.to_owned())
            );
        }
        assert_eq!(ClusterName::new(""), Err(NameError::Empty));
        assert_eq!(
            ClusterName::new(&"a".repeat(64)),
            Err(NameError::TooLong {
                length: 64,
                limit: 63
            })
        );
        assert!(matches!(
            ClusterName::new("US"),
            Err(NameError::Character { found: 'U', .. })
        ));
        assert_eq!(ClusterName::new("-a"), Err(NameError::Edge));
        assert!(ClusterName::new("a.b").is_err());
        assert!(ObjectName::new("a.b").is_ok());
        assert!(ObjectName::new("a..b").is_err());
        assert!(HeaderName::new("x-user").is_ok());
        assert!(HeaderName::new("X-User").is_err());
        assert!(CookieName::new("X-User").is_ok());
        assert!(CookieName::new("a=b").is_err());
        assert!(CookieName::new("").is_err());
        assert!(LabelKey::new("app.kubernetes.io/version").is_ok());
        assert!(LabelKey::new("version").is_ok());
        assert!(LabelKey::new("a/b/c").is_err());
    }
}
