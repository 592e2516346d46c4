//! What the mesh key has signed, as far as this cluster has seen it: the terms that bind everybody, of the
//! Mesh and of its clusters.
//!
//! Each cluster checks them for itself, whoever accepted the objects that carry them. Where an object
//! comes with others than were signed, the last ones that were go on to hold; where none were, it has no
//! effect at all.

use std::collections::BTreeMap;

use isthmus_identity::{Terms, TermsSignature, TrustBundle};
use isthmus_manifest::{SIGNATURE_ANNOTATION, parse_object};
use isthmus_model::{ClusterName, Kind, ObjectName, Origin, Resource, ResourceKey};
use isthmus_world::{Batch, Store, Table};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::objects::{decode, encode, ledger_key, resource_key};
use crate::open_error::OpenError;

const TABLE: Table = Table::new("charter");
/// The key of what says that this cluster asks for signatures.
const BEGUN: &[u8] = b"begun";

/// What is known to be signed.
#[derive(Debug)]
pub(super) struct Charter {
    bound: BTreeMap<ResourceKey, Bound>,
    /// Objects whose terms do not hold, and why.
    refused: BTreeMap<ResourceKey, Unbound>,
    /// The store is of a version that asked for no signatures: what is in it holds until others are signed.
    adopts: bool,
    /// Not saved yet.
    unsaved: Batch,
}

/// What holds for one object.
#[derive(Debug, PartialEq)]
struct Bound {
    /// 0: adopted, and never signed.
    serial: u64,
    /// `None`: another version has kept them, and this one cannot read them.
    terms: Option<Terms>,
}

#[derive(Serialize, Deserialize)]
struct Record {
    serial: u64,
    object: Value,
}

/// Why the terms of an object do not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unbound {
    #[error("it is not signed with the mesh key")]
    NotSigned,
    #[error(
        "its signature is not of the mesh key over these terms: they were changed after it was signed"
    )]
    OtherTerms,
    #[error("the cluster is revoked, and this does not say `revoked: false`")]
    Revoked,
    #[error(
        "its signature has serial {found}, and it was signed anew since, with {known}: it is an older one"
    )]
    Older { found: u64, known: u64 },
}

impl Unbound {
    /// For conditions.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::NotSigned => "NotSigned",
            Self::OtherTerms => "WrongSignature",
            Self::Revoked => "Revoked",
            Self::Older { .. } => "OldSignature",
        }
    }
}

impl Charter {
    /// `is_new`: no config is in the store.
    ///
    /// Errors: the store cannot be read, or what is in it not understood.
    pub(super) fn load(store: &dyn Store, is_new: bool) -> Result<Self, OpenError> {
        let mut charter = Self {
            bound: BTreeMap::new(),
            refused: BTreeMap::new(),
            adopts: false,
            unsaved: Batch::new(),
        };
        if store.read(TABLE, BEGUN)?.is_none() {
            charter.adopts = !is_new;
            charter.unsaved.put(TABLE, BEGUN, encode(&true));
        }
        for (key, record) in store.scan_prefix(TABLE, b"")? {
            if key == BEGUN {
                continue;
            }
            let damaged = || OpenError::damaged(TABLE);
            let key = resource_key(&key).map_err(|_| damaged())?;
            let Record { serial, object } = decode(&record).map_err(|_| damaged())?;
            let terms = terms(object);
            charter.bound.insert(key, Bound { serial, terms });
        }
        Ok(charter)
    }

    /// The store has been read.
    pub(super) fn on_opened(&mut self) {
        self.adopts = false;
    }

    pub(super) fn take_unsaved(&mut self) -> Batch {
        std::mem::take(&mut self.unsaved)
    }

    /// What the object means, on the terms that hold. `None`: it has no effect.
    pub(super) fn bind(
        &mut self,
        trust: &TrustBundle,
        key: &ResourceKey,
        object: &Value,
        mut resource: Resource,
    ) -> Option<Resource> {
        let Some(terms) = Terms::of(&resource) else {
            return Some(resource);
        };
        match self.judge(trust, key, object, &terms) {
            Ok(serial) => {
                self.refused.remove(key);
                self.keep(key, serial, terms, object);
            }
            Err(Unbound::NotSigned) if self.adopts => self.keep(key, 0, terms, object),
            Err(why) => {
                self.refused.insert(key.clone(), why);
            }
        }
        let terms = self.bound.get(key)?.terms.as_ref()?;
        terms.bind(&mut resource);
        let is_revoked =
            matches!(&resource, Resource::Cluster(cluster) if cluster.revoked == Some(true));
        (!is_revoked).then_some(resource)
    }

    /// The object is gone. What was signed of it is not forgotten.
    pub(super) fn on_deleted(&mut self, key: &ResourceKey) {
        self.refused.remove(key);
    }

    /// Do the object's terms hold? The serial that they are known by then.
    fn judge(
        &self,
        trust: &TrustBundle,
        key: &ResourceKey,
        object: &Value,
        terms: &Terms,
    ) -> Result<u64, Unbound> {
        let found = signed(trust, object, terms);
        match self.bound.get(key) {
            None => found,
            // What holds already needs no other signature.
            Some(bound) if bound.terms.as_ref() == Some(terms) => {
                Ok(found.map_or(bound.serial, |found| found.max(bound.serial)))
            }
            Some(Bound {
                serial,
                terms: None,
            }) => match found? {
                found if found >= *serial => Ok(found),
                found => Err(Unbound::Older {
                    found,
                    known: *serial,
                }),
            },
            Some(Bound {
                serial,
                terms: Some(known),
            }) => {
                let found = newer(found?, *serial)?;
                // Also with the mesh key nobody takes it back by leaving it out.
                match (is_revoked(known), terms) {
                    (true, Terms::Cluster { revoked: None, .. }) => Err(Unbound::Revoked),
                    _ => Ok(found),
                }
            }
        }
    }

    /// May the object be written over `latest`, which may not have come here yet? Whoever reads it later has nothing
    /// but its own signature to go by.
    pub(super) fn check(
        &self,
        trust: &TrustBundle,
        key: &ResourceKey,
        object: &Value,
        resource: &Resource,
        latest: Option<&Value>,
    ) -> Result<(), Unbound> {
        let Some(terms) = Terms::of(resource) else {
            return Ok(());
        };
        let known = self.judge(trust, key, object, &terms)?;
        let found = match signed(trust, object, &terms) {
            // Adopted, and as it was.
            Err(Unbound::NotSigned) if known == 0 => return Ok(()),
            found => found?,
        };
        match latest.and_then(|latest| Some((latest, self::terms(latest.clone())?))) {
            Some((latest, others)) => {
                let known = signed(trust, latest, &others).unwrap_or_default();
                // Also of the same terms the newest signature stays: who has not seen it would believe what was signed
                // between the two.
                if others == terms && found == known {
                    return Ok(());
                }
                newer(found, known).map(|_| ())
            }
            None => Ok(()),
        }
    }

    fn keep(&mut self, key: &ResourceKey, serial: u64, terms: Terms, object: &Value) {
        let bound = Bound {
            serial,
            terms: Some(terms),
        };
        if self.bound.get(key) == Some(&bound) {
            return;
        }
        let record = Record {
            serial,
            object: object.clone(),
        };
        self.unsaved.put(TABLE, ledger_key(key), encode(&record));
        self.bound.insert(key.clone(), bound);
    }

    /// Why the terms of an object do not hold; `None`: they do.
    pub(super) fn refused(&self, key: &ResourceKey) -> Option<&Unbound> {
        self.refused.get(key)
    }

    /// Do any terms hold for the object?
    pub(super) fn is_bound(&self, key: &ResourceKey) -> bool {
        self.bound
            .get(key)
            .is_some_and(|bound| bound.terms.is_some())
    }

    /// Is nobody to believe the cluster any more?
    pub(super) fn is_revoked(&self, cluster: &ClusterName) -> bool {
        let Ok(name) = ObjectName::new(cluster.as_str()) else {
            return false;
        };
        let key = ResourceKey {
            origin: Origin::Mesh,
            kind: Kind::Cluster,
            namespace: None,
            name,
        };
        self.is_revoked_object(&key)
    }

    pub(super) fn is_revoked_object(&self, key: &ResourceKey) -> bool {
        let terms = self.bound.get(key).and_then(|bound| bound.terms.as_ref());
        terms.is_some_and(is_revoked)
    }
}

fn is_revoked(terms: &Terms) -> bool {
    matches!(
        terms,
        Terms::Cluster {
            revoked: Some(true),
            ..
        }
    )
}

/// Other terms than those that hold need a newer signature.
fn newer(found: u64, known: u64) -> Result<u64, Unbound> {
    if found > known {
        Ok(found)
    } else {
        Err(Unbound::Older { found, known })
    }
}

fn terms(object: Value) -> Option<Terms> {
    let (_, resource) = parse_object(object).ok()?;
    Terms::of(&resource)
}

fn signature(object: &Value) -> Option<TermsSignature> {
    let text = object["metadata"]["annotations"][SIGNATURE_ANNOTATION].as_str()?;
    text.parse().ok()
}

/// The serial of the object's signature, which is of these terms.
fn signed(trust: &TrustBundle, object: &Value, terms: &Terms) -> Result<u64, Unbound> {
    if object["metadata"]["annotations"][SIGNATURE_ANNOTATION].is_null() {
        return Err(Unbound::NotSigned);
    }
    let signature = signature(object).ok_or(Unbound::OtherTerms)?;
    match trust.check_terms(terms, &signature) {
        Ok(()) => Ok(signature.serial),
        Err(_) => Err(Unbound::OtherTerms),
    }
}
