//! Config objects as the ledger keeps them: what somebody wrote, and what the mesh knows about it.

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use isthmus_model::{Kind, Namespace, ObjectName, Origin, Position, ResourceKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::hex::hex;
use crate::time::rfc3339;

/// The first byte of every record.
const FORMAT: u8 = 1;
/// Fields of `metadata` that only the API writes.
const SERVER_FIELDS: [&str; 5] = [
    "resourceVersion",
    "generation",
    "uid",
    "creationTimestamp",
    "managedFields",
];

/// One object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stored {
    /// Who wrote this version.
    pub author: String,
    /// When this version was accepted, in milliseconds since 1970.
    pub changed: u64,
    /// When the object was made, likewise.
    pub created: u64,
    pub generation: u64,
    pub uid: String,
    /// As written, without what the API adds.
    pub object: Value,
}

/// Why bytes of the config ledger are not an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadRecord {
    #[error(
        "it has format {0}, this version of isthmus reads format {FORMAT}; upgrade this cluster"
    )]
    Format(u8),
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error("its key is not one of a resource")]
    Key,
}

/// A record of the ledgers that the authority writes: the format, then JSON.
pub(super) fn encode(value: &impl Serialize) -> Bytes {
    let mut record = vec![FORMAT];
    let json = serde_json::to_vec(value);
    record.extend(json.expect("text, numbers and JSON values are JSON"));
    record.into()
}

pub(super) fn decode<T: DeserializeOwned>(record: &[u8]) -> Result<T, BadRecord> {
    match record.split_first() {
        Some((&FORMAT, json)) => {
            serde_json::from_slice(json).map_err(|error| BadRecord::Damaged(error.to_string()))
        }
        Some((&found, _)) => Err(BadRecord::Format(found)),
        None => Err(BadRecord::Damaged("it is empty".to_owned())),
    }
}

impl Stored {
    pub(super) fn encode(&self) -> Bytes {
        encode(self)
    }

    pub(super) fn decode(record: &[u8]) -> Result<Self, BadRecord> {
        let mut stored: Self = decode(record)?;
        // Others write some of the records: what is shown of them must be an object.
        let is_map = |value: Option<&Value>| value.is_none_or(Value::is_object);
        if !stored.object.is_object() || !is_map(stored.object.get("metadata")) {
            return Err(BadRecord::Damaged("it holds no object".to_owned()));
        }
        if let Some(fields) = stored.object.as_object_mut() {
            fields.shift_remove("status");
        }
        Ok(stored)
    }

    /// The next version of an object. `None` when it says what is there already.
    pub(super) fn after(
        before: Option<&Self>,
        key: &ResourceKey,
        object: Value,
        author: &str,
        now: u64,
    ) -> Option<Self> {
        let object = as_written(object);
        let Some(before) = before else {
            return Some(Self {
                author: author.to_owned(),
                changed: now,
                created: now,
                generation: 1,
                uid: uid(key, now),
                object,
            });
        };
        if before.object == object {
            return None;
        }
        let respecified = before.object.get("spec") != object.get("spec");
        Some(Self {
            author: author.to_owned(),
            changed: now,
            created: before.created,
            generation: before.generation.saturating_add(respecified.into()),
            uid: before.uid.clone(),
            object,
        })
    }

    /// As the API shows it, without status.
    pub(super) fn show(&self, changed_at: Position) -> Value {
        let mut object = self.object.clone();
        let metadata = object.as_object_mut().map(|fields| {
            fields
                .entry("metadata")
                .or_insert_with(|| Value::Object(Map::new()))
        });
        if let Some(Value::Object(metadata)) = metadata {
            metadata.insert("uid".to_owned(), self.uid.clone().into());
            metadata.insert("resourceVersion".to_owned(), changed_at.to_string().into());
            metadata.insert("generation".to_owned(), self.generation.into());
            metadata.insert("creationTimestamp".to_owned(), rfc3339(self.created).into());
            let written = json!([{
                "manager": self.author,
                "operation": "Update",
                "time": rfc3339(self.changed),
            }]);
            metadata.insert("managedFields".to_owned(), written);
        }
        object
    }
}

impl Stored {
    /// As [`Stored::show`], with the cluster that it belongs to.
    pub(super) fn show_of(&self, origin: &Origin, changed_at: Position) -> Value {
        let mut object = self.show(changed_at);
        if let (Some(cluster), Some(fields)) = (origin.cluster(), object.as_object_mut()) {
            let status = json!({"origin": cluster.as_str()});
            fields.insert("status".to_owned(), status);
        }
        object
    }
}

/// The object without what the API adds.
fn as_written(mut object: Value) -> Value {
    if let Value::Object(fields) = &mut object {
        fields.shift_remove("status");
        if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
            metadata.retain(|field, value| {
                !SERVER_FIELDS.contains(&field.as_str()) && !value.is_null()
            });
        }
    }
    object
}

/// A UUID (RFC 9562, version 8) from what makes the object this one and no other.
fn uid(key: &ResourceKey, created: u64) -> String {
    let hash = digest(&SHA256, format!("{key} {created}").as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.as_ref()[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex(&bytes);
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

/// The key in the config ledger: `mesh/<Kind>/[<namespace>/]<name>`, or `cluster=<cluster>/…`.
pub(super) fn ledger_key(key: &ResourceKey) -> Bytes {
    let origin = match &key.origin {
        Origin::Mesh => "mesh".to_owned(),
        Origin::Cluster(cluster) => format!("cluster={cluster}"),
    };
    format!("{origin}/{key}").into()
}

/// Reads a key of the config ledger.
pub(super) fn resource_key(key: &[u8]) -> Result<ResourceKey, BadRecord> {
    let text = std::str::from_utf8(key).map_err(|_| BadRecord::Key)?;
    let mut parts = text.split('/');
    let mut next = || parts.next().ok_or(BadRecord::Key);
    let origin = match next()? {
        "mesh" => Origin::Mesh,
        other => {
            let cluster = other
                .strip_prefix("cluster=")
                .and_then(|name| name.parse().ok());
            Origin::Cluster(cluster.ok_or(BadRecord::Key)?)
        }
    };
    let kind: Kind = next()?.parse().map_err(|_| BadRecord::Key)?;
    let namespace = if kind.namespaced() {
        Some(Namespace::new(next()?).map_err(|_| BadRecord::Key)?)
    } else {
        None
    };
    let name = ObjectName::new(next()?).map_err(|_| BadRecord::Key)?;
    match parts.next() {
        None => Ok(ResourceKey {
            origin,
            kind,
            namespace,
            name,
        }),
        Some(_) => Err(BadRecord::Key),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(text: &str) -> ResourceKey {
        resource_key(text.as_bytes()).unwrap()
    }

    #[test]
    fn keys_round_trip_and_nothing_else_parses() {
        for text in [
            "mesh/Service/shop/cart",
            "mesh/Cluster/us-west",
            "cluster=us-west/HTTPRoute/shop/split.v1",
        ] {
            assert_eq!(ledger_key(&key(text)), text);
        }
        for text in [
            "",
            "mesh",
            "mesh/Pod/a/b",
            "mesh/Service/cart",
            "moon/Cluster/a",
            "mesh/Cluster/a/b",
        ] {
            assert_eq!(resource_key(text.as_bytes()), Err(BadRecord::Key), "{text}");
        }
        assert!(resource_key(b"\xff").is_err());
    }

    #[test]
    fn generations_count_specs_and_what_the_api_adds_is_not_stored() {
        let key = key("mesh/Service/shop/cart");
        let object = |label: &str, port: u16| {
            json!({
                "kind": "Service",
                "metadata": {"name": "cart", "labels": {"a": label}, "uid": "mine", "resourceVersion": "9"},
                "spec": {"port": port},
                "status": {"conditions": []},
            })
        };
        let first = Stored::after(None, &key, object("x", 1), "ada", 1000).unwrap();
        assert_eq!(Stored::decode(&first.encode()), Ok(first.clone()));
        assert_eq!(
            Stored::after(Some(&first), &key, object("x", 1), "bob", 2000),
            None
        );
        let labelled = Stored::after(Some(&first), &key, object("y", 1), "bob", 2000).unwrap();
        let respecified =
            Stored::after(Some(&labelled), &key, object("y", 2), "bob", 3000).unwrap();
        assert_eq!(
            [
                first.generation,
                labelled.generation,
                respecified.generation
            ],
            [1, 1, 2]
        );
        assert_eq!(
            respecified.show(Position(7)),
            json!({
                "kind": "Service",
                "metadata": {
                    "name": "cart",
                    "labels": {"a": "y"},
                    "uid": first.uid,
                    "resourceVersion": "7",
                    "generation": 2,
                    "creationTimestamp": "1970-01-01T00:00:01Z",
                    "managedFields": [{
                        "manager": "bob",
                        "operation": "Update",
                        "time": "1970-01-01T00:00:03Z",
                    }],
                },
                "spec": {"port": 2},
            })
        );
    }

    #[test]
    fn unknown_formats_are_refused() {
        assert_eq!(Stored::decode(b"\x02{}"), Err(BadRecord::Format(2)));
        assert!(matches!(Stored::decode(b""), Err(BadRecord::Damaged(_))));
        for damaged in [
            "{",
            r#"{"author":"a","changed":1,"created":1,"generation":1,"uid":"u","object":"x"}"#,
            r#"{"author":"a","changed":1,"created":1,"generation":1,"uid":"u","object":{"metadata":5}}"#,
        ] {
            let record = format!("\u{1}{damaged}");
            let found = Stored::decode(record.as_bytes());
            assert!(matches!(found, Err(BadRecord::Damaged(_))), "{found:?}");
        }
        let record = "\u{1}{\"author\":\"a\",\"changed\":1,\"created\":1,\"generation\":1,\"uid\":\"u\",\"object\":{\"status\":5}}";
        let found = Stored::decode(record.as_bytes()).unwrap();
        assert_eq!(found.object, json!({}), "nobody else says how it is");
    }
}
