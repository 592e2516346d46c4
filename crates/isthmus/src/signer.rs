//! The mesh key's signature on what binds the whole mesh: Mesh and Cluster objects carry it in an annotation.

use std::time::{SystemTime, UNIX_EPOCH};

use isthmus_identity::{MeshKey, Terms, TermsSignature};
use isthmus_manifest::{SIGNATURE_ANNOTATION, parse_object};
use serde_json::{Map, Value};

use crate::failure::{Failure, Result};
use crate::found;
use crate::home::Home;

/// Signs what it can.
#[derive(Debug)]
pub(crate) struct Signer {
    /// `None`: it is not in this home.
    key: Option<MeshKey>,
}

impl Signer {
    /// Errors: there is a mesh key, and it cannot be used.
    pub(crate) fn of(home: &Home) -> Result<Self> {
        let is_here = home.mesh_key().exists();
        let key = is_here.then(|| found::mesh_key(home)).transpose()?;
        Ok(Self { key })
    }

    /// Errors: there is no mesh key, or it cannot be used.
    pub(crate) fn with_key_of(home: &Home) -> Result<Self> {
        let key = Some(found::mesh_key(home)?);
        Ok(Self { key })
    }

    /// Gives `wanted` the signature that it needs, if it needs one: that of `current` where its terms are the
    /// same, its own where that holds, else a new one. Without the mesh key it stays as it is.
    pub(crate) fn sign(&self, mut wanted: Value, current: Option<&Value>) -> Result<Value> {
        let Some(terms) = terms(&wanted) else {
            return Ok(wanted);
        };
        let holds = |signature: &TermsSignature| {
            let checked =
                (self.key.as_ref()).map(|key| key.bundle().check_terms(&terms, signature));
            checked.is_none_or(|checked| checked.is_ok())
        };
        let own = signature(&wanted);
        let present = current.and_then(signature);
        let is_kept = current.and_then(self::terms).as_ref() == Some(&terms);
        let kept = present.clone().filter(|_| is_kept).filter(holds);
        // One that is no newer than what the mesh has, or had, is signed anew where that can be.
        let is_newer = |signature: &TermsSignature| match (&self.key, &present) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(_), Some(present)) => signature.serial > present.serial,
        };
        let fresh = own.clone().filter(|own| holds(own) && is_newer(own));
        let newest = (kept.into_iter())
            .chain(fresh)
            .max_by_key(|signature| signature.serial);
        let signature = match (newest, &self.key) {
            (Some(signature), _) => signature,
            (None, None) => return Ok(wanted),
            (None, Some(key)) => {
                let known = [own, present].into_iter().flatten();
                let known = known.map(|signature| signature.serial).max();
                let serial = known.unwrap_or_default().saturating_add(1).max(millis());
                let signed = key.sign_terms(&terms, serial);
                signed.map_err(|error| {
                    Failure::failed("not-signed", "the mesh key does not sign").caused_by(&error)
                })?
            }
        };
        put(&mut wanted, &signature);
        Ok(wanted)
    }
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
fn millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let millis = since.unwrap_or_default().as_millis();
    u64::try_from(millis).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn signer() -> Signer {
        let key = MeshKey::found(&"shop.example".parse().unwrap(), SystemTime::now());
        Signer {
            key: Some(key.unwrap()),
        }
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
        let signer = signer();
        let first = signer.sign(cluster(&["shop"]), None).unwrap();
        let mut drained = cluster(&["shop"]);
        drained["spec"]["traffic"] = json!(10);
        let drained = signer.sign(drained, Some(&first)).unwrap();
        assert_eq!(signature(&drained), signature(&first), "others are free");

        let wider = signer
            .sign(cluster(&["bank", "shop"]), Some(&first))
            .unwrap();
        let (before, after) = (signature(&first).unwrap(), signature(&wider).unwrap());
        assert!(after.serial > before.serial);
        // A file that was read from the mesh, and changed: its signature is of other terms.
        let mut edited = first.clone();
        edited["spec"]["namespaces"] = json!(["bank"]);
        let edited = signer.sign(edited, Some(&first)).unwrap();
        let bundle = signer.key.as_ref().unwrap().bundle();
        let (terms, signature_of) = (terms(&edited).unwrap(), signature(&edited).unwrap());
        assert_eq!(bundle.check_terms(&terms, &signature_of), Ok(()));
        // An older file says the same as the mesh: the newer signature stays.
        let again = signer.sign(wider.clone(), Some(&first)).unwrap();
        assert_eq!(again, wider, "its own holds");
        // What was before is wanted back, or what was deleted: its signature is an old one by then.
        for current in [Some(&wider), None] {
            let back = signer.sign(first.clone(), current).unwrap();
            assert!(signature(&back).unwrap().serial > before.serial);
            assert_eq!(self::terms(&back), self::terms(&first));
        }
        let old = json!({"metadata": {"annotations": {SIGNATURE_ANNOTATION: "1:00"}}});
        let mut file = cluster(&["bank", "shop"]);
        file["metadata"]["annotations"] = old["metadata"]["annotations"].clone();
        assert_eq!(signer.sign(file, Some(&wider)).unwrap(), wider);
        let service = json!({"kind": "Service"});
        assert_eq!(signer.sign(service.clone(), None).unwrap(), service);
    }

    #[test]
    fn without_the_key_nothing_is_made_up() {
        let nobody = Signer { key: None };
        let bare = cluster(&["shop"]);
        assert_eq!(nobody.sign(bare.clone(), None).unwrap(), bare);
        let signed = signer().sign(bare.clone(), None).unwrap();
        assert_eq!(nobody.sign(signed.clone(), None).unwrap(), signed);
        assert_eq!(nobody.sign(bare, Some(&signed)).unwrap(), signed);
        let wider = cluster(&["bank", "shop"]);
        assert_eq!(nobody.sign(wider.clone(), Some(&signed)).unwrap(), wider);
    }
}
