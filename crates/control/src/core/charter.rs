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
    /// `None`: it was deleted.
    terms: Option<Terms>,
}

#[derive(Serialize, Deserialize)]
struct Record {
    serial: u64,
    object: Option<Value>,
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
    #[error("its signature has serial {found}, and {known} was seen: it is an older one")]
    Older { found: u64, known: u64 },
    #[error(
        "it was deleted after it was signed with serial {known}, and this signature has {found}"
    )]
    Withdrawn { found: u64, known: u64 },
}

impl Unbound {
    /// For conditions.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::NotSigned => "NotSigned",
            Self::OtherTerms => "WrongSignature",
            Self::Older { .. } | Self::Withdrawn { .. } => "OldSignature",
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
            // One that this version cannot read holds no more than a deleted one.
            let parsed = object.and_then(|object| parse_object(object).ok());
            let terms = parsed.and_then(|(_, resource)| Terms::of(&resource));
            charter.bound.insert(key, Bound { serial, terms });
        }
        Ok(charter)
    }

    /// The store has been read.
    pub(super) fn on_opened(&mut self, is_there: impl Fn(&ResourceKey) -> bool) {
        self.adopts = false;
        let gone: Vec<_> = self
            .bound
            .keys()
            .filter(|key| !is_there(key))
            .cloned()
            .collect();
        for key in &gone {
            self.withdraw(key);
        }
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
                Some(resource)
            }
            Err(Unbound::NotSigned) if self.adopts => {
                self.keep(key, 0, terms, object);
                Some(resource)
            }
            Err(why) => {
                self.refused.insert(key.clone(), why);
                let bound = self.bound.get(key)?;
                bound.terms.as_ref()?.bind(&mut resource);
                Some(resource)
            }
        }
    }

    /// The object is gone, and what was signed of it does not come back.
    pub(super) fn withdraw(&mut self, key: &ResourceKey) {
        self.refused.remove(key);
        if let Some(bound) = self.bound.get_mut(key)
            && bound.terms.take().is_some()
        {
            let record = Record {
                serial: bound.serial,
                object: None,
            };
            self.unsaved.put(TABLE, ledger_key(key), encode(&record));
        }
    }

    /// Do the object's terms hold? The serial that they are known by then.
    fn judge(
        &self,
        trust: &TrustBundle,
        key: &ResourceKey,
        object: &Value,
        terms: &Terms,
    ) -> Result<u64, Unbound> {
        let bound = self.bound.get(key);
        let signed = signed(trust, object, terms);
        match bound {
            // What holds already needs no other signature.
            Some(Bound {
                serial,
                terms: Some(known),
            }) if known == terms => Ok(signed.map_or(*serial, |found| found.max(*serial))),
            Some(bound) => match signed? {
                found if found > bound.serial => Ok(found),
                found if bound.terms.is_none() => Err(Unbound::Withdrawn {
                    found,
                    known: bound.serial,
                }),
                found => Err(Unbound::Older {
                    found,
                    known: bound.serial,
                }),
            },
            None => signed,
        }
    }

    /// May the object be written over `latest`? Whoever reads it later has nothing but its own signature to go by.
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
            Err(Unbound::NotSigned) if known == 0 => 0,
            found => found?,
        };
        let latest = latest.and_then(signature).map_or(0, |latest| latest.serial);
        match latest.max(known) {
            known if found < known => Err(Unbound::Older { found, known }),
            _ => Ok(()),
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
            object: Some(object.clone()),
        };
        self.unsaved.put(TABLE, ledger_key(key), encode(&record));
        self.bound.insert(key.clone(), bound);
    }

    /// Why the terms of an object do not hold; `None`: they do.
    pub(super) fn refused(&self, key: &ResourceKey) -> Option<&Unbound> {
        self.refused.get(key)
    }

    /// Do other terms hold than the object has?
    pub(super) fn holds_others(&self, key: &ResourceKey) -> bool {
        self.bound
            .get(key)
            .is_some_and(|bound| bound.terms.is_some())
    }

    /// Was it of the mesh, and is no more?
    pub(super) fn is_withdrawn(&self, cluster: &ClusterName) -> bool {
        let Ok(name) = ObjectName::new(cluster.as_str()) else {
            return false;
        };
        let key = ResourceKey {
            origin: Origin::Mesh,
            kind: Kind::Cluster,
            namespace: None,
            name,
        };
        self.bound
            .get(&key)
            .is_some_and(|bound| bound.terms.is_none())
    }
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
