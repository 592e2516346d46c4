//! The mesh key's signature on what binds the whole mesh: Mesh and Cluster objects carry it in an annotation.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use isthmus_identity::{IssueError, MeshKey, Terms, TermsSignature, TrustBundle};
use isthmus_manifest::{SIGNATURE_ANNOTATION, parse_object};
use serde_json::{Map, Value};

use crate::failure::{Failure, Result};
use crate::home::Home;
use crate::mesh_key;

/// Signs what it can.
#[derive(Debug)]
pub(crate) struct Signer {
    home: Home,
    /// Read when it is needed first. `None`: this home knows of none.
    key: OnceLock<Option<MeshKey>>,
}

impl Signer {
    pub(crate) fn of(home: &Home) -> Self {
        Self {
            home: home.clone(),
            key: OnceLock::new(),
        }
    }

    /// Errors: there is no mesh key, or it cannot be used.
    pub(crate) fn with_key_of(home: &Home) -> Result<Self> {
        let key = OnceLock::from(Some(mesh_key::read(home)?));
        let home = home.clone();
        Ok(Self { home, key })
    }

    /// Errors: there is a mesh key, and it cannot be used.
    fn key(&self) -> Result<Option<&MeshKey>> {
        if let Some(key) = self.key.get() {
            return Ok(key.as_ref());
        }
        let is_here = mesh_key::is_known(&self.home);
        let key = is_here.then(|| mesh_key::read(&self.home)).transpose()?;
        Ok(self.key.get_or_init(|| key).as_ref())
    }

    /// May what an object says be signed again? What an API shows must have been signed with the mesh key before: whoever
    /// stole a control plane gets no signature by showing something. Without the key nothing is signed.
    pub(crate) fn may_repeat(&self, object: &Value) -> Result<bool> {
        Ok(match (self.key()?, terms(object)) {
            (Some(key), Some(terms)) => signature(object)
                .is_some_and(|signature| key.bundle().check_terms(&terms, &signature).is_ok()),
            _ => true,
        })
    }

    /// The same as an error, about `what` of the mesh.
    pub(crate) fn check_repeats(&self, object: &Value, what: &str) -> Result<()> {
        if self.may_repeat(object)? {
            return Ok(());
        }
        Err(unrepeated(what))
    }

    /// Gives `wanted` the signature that it needs, if it needs one: that of `current` where its terms are the
    /// same, its own where that is newer, else a new one. Without the mesh key nothing new is signed.
    pub(crate) fn sign(&self, mut wanted: Value, current: Option<&Value>) -> Result<Value> {
        let Some(terms) = terms(&wanted) else {
            return Ok(wanted);
        };
        let own = signature(&wanted);
        let present =
            current.and_then(|current| Some((signature(current)?, self::terms(current)?)));
        let newest = |kept: Option<TermsSignature>, own: Option<TermsSignature>| {
            let both = kept.into_iter().chain(own);
            both.max_by_key(|signature| signature.serial)
        };
        let Some(key) = self.key()? else {
            let kept = present.filter(|(_, present)| *present == terms);
            if let Some(signature) = newest(kept.map(|(signature, _)| signature), own) {
                put(&mut wanted, &signature);
            }
            return Ok(wanted);
        };
        // Only what was signed counts: anybody can write a number.
        let holds = |signature: &TermsSignature, terms: &Terms| {
            key.bundle().check_terms(terms, signature).is_ok()
        };
        let own = own.filter(|own| holds(own, &terms));
        let present = present.filter(|(signature, present)| holds(signature, present));
        let known = present
            .as_ref()
            .map_or(0, |(signature, _)| signature.serial);
        let is_refused = current.is_some_and(is_refused);
        let kept = present.filter(|(_, present)| *present == terms && !is_refused);
        let kept = kept.map(|(signature, _)| signature);
        let own = own.filter(|own| own.serial > known && !is_refused);
        let signature = match newest(kept, own) {
            Some(signature) => signature,
            None => sign(key, &terms, known)?,
        };
        put(&mut wanted, &signature);
        Ok(wanted)
    }
}

/// The object with a signature of `key` in the place of one by another root of `trusted`; `None`: it needs none.
///
/// Errors: neither has signed `what` it says.
pub(crate) fn sign_anew(
    key: &MeshKey,
    trusted: &TrustBundle,
    object: &Value,
    what: &str,
) -> Result<Option<Value>> {
    let Some(terms) = terms(object) else {
        return Ok(None);
    };
    let known = match signature(object) {
        Some(known) if key.bundle().check_terms(&terms, &known).is_ok() => return Ok(None),
        Some(known) if trusted.check_terms(&terms, &known).is_ok() => known.serial,
        _ => return Err(unrepeated(what)),
    };
    // What an API shows may be long superseded: with the number that it had it is so still.
    let again = key
        .sign_terms(&terms, known)
        .map_err(|error| unsigned(&error))?;
    let mut signed = object.clone();
    put(&mut signed, &again);
    Ok(Some(signed))
}

/// Whoever stole a control plane could show anything.
fn unrepeated(what: &str) -> Failure {
    let what =
        format!("{what} is not signed with the mesh key, and is not signed because it is there");
    Failure::failed("not-signed", what)
        .next("write what it is to be into a file, look at it, and `isthmus apply` that")
}

/// A new signature, in the place of that with the serial number `known`.
fn sign(key: &MeshKey, terms: &Terms, known: u64) -> Result<TermsSignature> {
    let signed = key.sign_terms(terms, known.saturating_add(1).max(millis()));
    signed.map_err(|error| unsigned(&error))
}

fn unsigned(error: &IssueError) -> Failure {
    Failure::failed("not-signed", "the mesh key does not sign").caused_by(error)
}

/// Does the cluster that was asked say that its terms do not hold, as when it has seen newer ones?
fn is_refused(object: &Value) -> bool {
    let mut conditions = object["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten();
    conditions.any(|condition| condition["type"] == "Accepted" && condition["status"] == "False")
}

/// Does a file bring its own signature?
pub(crate) fn is_signed(object: &Value) -> bool {
    signature(object).is_some()
}

fn terms(object: &Value) -> Option<Terms> {
    let (_, resource) = parse_object(object.clone()).ok()?;
    Terms::of(&resource)
}

fn signature(object: &Value) -> Option<TermsSignature> {
    let text = object["metadata"]["annotations"][SIGNATURE_ANNOTATION].as_str()?;
    text.parse().ok()
}

fn put(object: &mut Value, signature: &TermsSignature) {
    let annotations = &mut object["metadata"]["annotations"];
    if !annotations.is_object() {
        *annotations = Value::Object(Map::new());
    }
    annotations[SIGNATURE_ANNOTATION] = signature.to_string().into();
}

/// Since 1970: larger than what was signed before, also of what the mesh has forgotten.
pub(crate) fn millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let millis = since.unwrap_or_default().as_millis();
    u64::try_from(millis).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn signer(key: Option<MeshKey>) -> Signer {
        Signer {
            home: Home::resolve(Some("/nowhere".into()), None, None).unwrap(),
            key: OnceLock::from(key),
        }
    }

    fn key() -> Option<MeshKey> {
        MeshKey::found(&"shop.example".parse().unwrap(), SystemTime::now()).ok()
    }

    fn cluster(namespaces: &[&str]) -> Value {
        json!({
            "apiVersion": "mesh.isthmus.dev/v1alpha1",
            "kind": "Cluster",
            "metadata": {"name": "west"},
            "spec": {"region": "us", "control": "127.0.0.1:15012", "namespaces": namespaces},
        })
    }

    #[test]
    fn a_signature_lasts_as_long_as_its_terms() {
        let signer = signer(key());
        let first = signer.sign(cluster(&["shop"]), None).unwrap();
        let mut drained = cluster(&["shop"]);
        drained["spec"]["traffic"] = json!(10);
        let drained = signer.sign(drained, Some(&first)).unwrap();
        assert_eq!(signature(&drained), signature(&first), "others are free");

        let wider = cluster(&["bank", "shop"]);
        let wider = signer.sign(wider, Some(&first)).unwrap();
        let (before, after) = (signature(&first).unwrap(), signature(&wider).unwrap());
        assert!(after.serial > before.serial);
        // A file that was read from the mesh, and changed: its signature is of other terms.
        let mut edited = first.clone();
        edited["spec"]["namespaces"] = json!(["bank"]);
        let edited = signer.sign(edited, Some(&first)).unwrap();
        assert!(signer.may_repeat(&edited).unwrap());
        for current in [Some(&first), None] {
            let again = signer.sign(wider.clone(), current).unwrap();
            assert_eq!(again, wider, "its own holds");
        }
        // What was before is wanted back: its signature is an old one by then.
        let back = signer.sign(first.clone(), Some(&wider)).unwrap();
        assert!(signature(&back).unwrap().serial > after.serial);
        assert_eq!(terms(&back), terms(&first));
        // A cluster has seen a newer one, as after the authority began anew.
        let mut refused = first.clone();
        refused["status"]["conditions"] = json!([{"type": "Accepted", "status": "False"}]);
        let anew = signer.sign(cluster(&["shop"]), Some(&refused)).unwrap();
        assert!(signature(&anew).unwrap().serial > before.serial);
        let service = json!({"kind": "Service"});
        assert_eq!(signer.sign(service.clone(), None).unwrap(), service);
    }

    #[test]
    fn what_nobody_signed_neither_counts_nor_is_repeated() {
        let (signer, stranger) = (signer(key()), self::signer(key()));
        let mut forged = cluster(&["bank"]);
        forged["metadata"]["annotations"] =
            json!({SIGNATURE_ANNOTATION: format!("{}:00", u64::MAX)});
        let foreign = stranger.sign(cluster(&["bank"]), None).unwrap();
        for object in [cluster(&["bank"]), forged.clone(), foreign] {
            assert!(!signer.may_repeat(&object).unwrap(), "{object}");
            let failure = signer.check_repeats(&object, "Cluster/west").unwrap_err();
            assert_eq!(failure.code, "not-signed");
        }
        for wanted in [cluster(&["shop"]), cluster(&["bank"]), forged.clone()] {
            let object = signer.sign(wanted, Some(&forged)).unwrap();
            assert!(
                signature(&object).unwrap().serial < u64::MAX / 2,
                "no number is used up"
            );
            assert!(signer.may_repeat(&object).unwrap());
        }
    }

    #[test]
    fn what_the_old_root_signed_the_new_one_signs_and_nothing_else() {
        let (old, new) = (key().unwrap(), key().unwrap());
        let both = TrustBundle::from_pem(&(old.root_pem() + &new.root_pem())).unwrap();
        let object = signer(Some(old)).sign(cluster(&["shop"]), None).unwrap();
        let anew = |object: &Value| sign_anew(&new, &both, object, "Cluster/west");
        let signed = anew(&object).unwrap().unwrap();
        let serial = |object: &Value| signature(object).unwrap().serial;
        assert_eq!(
            serial(&signed),
            serial(&object),
            "older than what came after it"
        );
        assert_eq!(anew(&signed).unwrap(), None, "once");
        let foreign = signer(key()).sign(cluster(&["bank"]), None).unwrap();
        for odd in [cluster(&["bank"]), foreign] {
            assert_eq!(anew(&odd).unwrap_err().code, "not-signed");
        }
        assert_eq!(anew(&json!({"kind": "Service"})).unwrap(), None);
    }

    #[test]
    fn without_the_key_nothing_is_made_up() {
        let nobody = signer(None);
        let bare = cluster(&["shop"]);
        assert_eq!(nobody.sign(bare.clone(), None).unwrap(), bare);
        let signed = signer(key()).sign(bare.clone(), None).unwrap();
        assert_eq!(nobody.sign(signed.clone(), None).unwrap(), signed);
        assert_eq!(nobody.sign(bare.clone(), Some(&signed)).unwrap(), signed);
        let mut older = bare.clone();
        older["metadata"]["annotations"] = json!({SIGNATURE_ANNOTATION: "1:00"});
        assert_eq!(nobody.sign(older, Some(&signed)).unwrap(), signed);
        let wider = cluster(&["bank", "shop"]);
        assert_eq!(nobody.sign(wider.clone(), Some(&signed)).unwrap(), wider);
        assert!(nobody.may_repeat(&bare).unwrap(), "nothing is signed");
    }
}
