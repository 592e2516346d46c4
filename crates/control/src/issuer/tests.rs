use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use isthmus_identity::{CLUSTER_LIFETIME, CertificateRequest, MeshKey};

use super::*;
use crate::at_rest::{AtRest, KeySource};
use crate::config::{Ports, init};

/// A cluster's directory, in which nothing is sealed or all is.
struct Place {
    config: Arc<Config>,
    mesh: MeshKey,
    now: SystemTime,
    _home: tempfile::TempDir,
}

impl Place {
    fn new(is_sealed: bool) -> Self {
        let home = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let operator = home.path().join("operator.key");
        fs::write(&operator, "a".repeat(64)).unwrap();
        let at_rest = is_sealed.then(|| AtRest {
            key: KeySource::File(operator),
            previous: Vec::new(),
        });
        let config = Config {
            mesh: "shop".parse().unwrap(),
            trust_domain: "shop.example".parse().unwrap(),
            cluster: "west".parse().unwrap(),
            address: [127, 0, 0, 1].into(),
            ports: Ports::default(),
            data: home.path().join("west"),
            authority: "west".parse().unwrap(),
            peers: Vec::new(),
            api_tokens: Vec::new(),
            leaf_lifetime: Duration::from_hours(24),
            renew_after: Duration::from_hours(1),
            at_rest,
        };
        let mesh = MeshKey::found(&config.trust_domain, now).unwrap();
        let made = init(&config).unwrap();
        let place = Self {
            config: Arc::new(config),
            mesh,
            now,
            _home: home,
        };
        let request = fs::read_to_string(&made.request).unwrap();
        let chain = place.sign(&place.mesh, &request, "west");
        fs::write(&made.certificate, chain).unwrap();
        place
    }

    fn file(&self, name: &str) -> PathBuf {
        self.config.data.join(name)
    }

    fn sign(&self, key: &MeshKey, request: &str, cluster: &str) -> String {
        let request = CertificateRequest::from_pem(request).unwrap();
        let cluster = cluster.parse().unwrap();
        let chain = key.sign_cluster(&request, &cluster, self.now, CLUSTER_LIFETIME);
        chain.unwrap().to_pem()
    }

    /// As the control plane does.
    fn start(&self) -> Issuer {
        let unlocked = self.config.unlock().unwrap();
        let authority = self.config.authority_at(unlocked.as_ref(), self.now);
        let authority = authority.unwrap();
        let roots = Roots::load(&self.config, authority.bundle()).unwrap();
        Issuer::new(self.config.clone(), authority, roots, unlocked).unwrap()
    }
}

fn shown(issuer: &Issuer) -> Certificates {
    issuer.load().authority.chain()
}

#[test]
fn a_new_key_takes_over_once_it_is_certified_and_stays() {
    for is_sealed in [false, true] {
        let place = Place::new(is_sealed);
        let issuer = place.start();
        let first = shown(&issuer);
        let key = || KeyPair::generate().unwrap();
        let leaf_of = |issuer: &Issuer| {
            let request = key().certificate_request().unwrap();
            let request = CertificateRequest::from_pem(&request).unwrap();
            let (authority, day) = (&issuer.load().authority, Duration::from_hours(24));
            authority.issue_control(&request, place.now, day).unwrap()
        };
        let old = leaf_of(&issuer);
        assert_eq!(issuer.generation_of(old.as_slice()), Generation::FIRST);

        let refused = issuer.install(&first.to_pem(), place.now).unwrap_err();
        assert!(matches!(refused, IssuerError::NothingAsked), "{refused}");
        let request = issuer.request().unwrap();
        let key_of = |pem: &str| CertificateRequest::from_pem(pem).unwrap().key_hash();
        let asked = key_of(&request);
        assert_eq!(key_of(&issuer.request().unwrap()), asked, "not another one");
        drop(issuer);
        let issuer = place.start();
        assert_eq!(shown(&issuer), first, "nothing was signed yet");
        let requested = issuer.requested().unwrap();
        assert_eq!(requested.as_deref().map(key_of), Some(asked));

        let chain = place.sign(&place.mesh, &request, "west");
        let generation = issuer.install(&chain, place.now).unwrap();
        assert_eq!(generation, Generation::FIRST.next());
        let second = shown(&issuer);
        assert_eq!(second.to_pem(), chain);
        assert_eq!(issuer.generation_of(old.as_slice()), Generation::default());
        let new = leaf_of(&issuer);
        assert_eq!(issuer.generation_of(new.as_slice()), generation);
        assert_eq!(issuer.requested().unwrap(), None);
        let csr = fs::read_to_string(place.file("cluster.csr")).unwrap();
        assert_eq!(key_of(&csr), asked);

        drop(issuer);
        let issuer = place.start();
        assert_eq!(shown(&issuer), second);
        for of_next in ["cluster.next.key", "cluster.next.key.sealed"] {
            assert!(!place.file(of_next).exists(), "{of_next}");
        }
        assert_eq!(place.file("cluster.key").exists(), !is_sealed);
    }
}

#[test]
fn what_was_not_asked_for_changes_nothing() {
    let place = Place::new(false);
    let issuer = place.start();
    let first = shown(&issuer);
    let request = issuer.request().unwrap();
    let other = KeyPair::generate().unwrap().certificate_request().unwrap();
    let domain = "shop.example".parse().unwrap();
    let stranger = MeshKey::found(&domain, place.now).unwrap();
    let good = place.sign(&place.mesh, &request, "west");
    let wrong = [
        (String::new(), "no certificate"),
        (good[..good.len() / 2].to_owned(), "PEM"),
        (first.to_pem(), "does not belong"),
        (place.sign(&place.mesh, &other, "west"), "does not belong"),
        (place.sign(&stranger, &request, "west"), "root"),
        (place.sign(&place.mesh, &request, "east"), "east"),
    ];
    for (chain, says) in wrong {
        let refused = issuer.install(&chain, place.now).unwrap_err();
        assert!(refused.to_string().contains(says), "{says}: {refused}");
        assert_eq!(shown(&issuer), first);
    }
    let late = place.now + CLUSTER_LIFETIME + Duration::from_secs(1);
    assert!(issuer.install(&good, late).is_err(), "it has ended");
    drop(issuer);
    let issuer = place.start();
    assert_eq!(shown(&issuer), first);
    issuer.install(&good, place.now).unwrap();
}

#[test]
fn what_is_given_up_is_not_signed_later() {
    for is_sealed in [false, true] {
        let place = Place::new(is_sealed);
        let issuer = place.start();
        assert!(!issuer.abort(place.now).unwrap());
        let request = issuer.request().unwrap();
        assert!(issuer.abort(place.now).unwrap());
        let chain = place.sign(&place.mesh, &request, "west");
        assert!(issuer.install(&chain, place.now).is_err());
        drop(issuer);
        let issuer = place.start();
        assert_eq!(issuer.requested().unwrap(), None);
        assert!(issuer.install(&chain, place.now).is_err());
        let key_of = |pem: &str| CertificateRequest::from_pem(pem).unwrap().key_hash();
        assert_ne!(key_of(&issuer.request().unwrap()), key_of(&request));
    }
}

/// From the moment that its certificate is there the new key holds, whatever else was not done.
#[test]
fn a_crash_in_the_middle_is_gone_on_with() {
    for is_sealed in [false, true] {
        let place = Place::new(is_sealed);
        let issuer = place.start();
        let request = issuer.request().unwrap();
        let chain = place.sign(&place.mesh, &request, "west");
        fs::write(place.file("cluster.pem"), &chain).unwrap();
        assert!(
            matches!(issuer.abort(place.now), Err(IssuerError::Installed)),
            "its key would be lost"
        );
        drop(issuer);
        let issuer = place.start();
        assert_eq!(shown(&issuer).to_pem(), chain);
        assert_eq!(issuer.requested().unwrap(), None);
        drop(issuer);
        // Nothing but the file of the next key was left to be removed.
        let unlocked = place.config.unlock().unwrap();
        let key = place.config.key().read(unlocked.as_ref()).unwrap().unwrap();
        let key = KeyPair::from_pem(&key).unwrap();
        let next = place.config.next_key();
        next.write(&key, unlocked.as_ref()).unwrap();
        drop(unlocked);
        let issuer = place.start();
        assert_eq!(shown(&issuer).to_pem(), chain);
        assert_eq!(issuer.requested().unwrap(), None);
    }
}

#[test]
fn who_renews_all_has_earlier_leaves_counted_as_older() {
    let place = Place::new(false);
    let issuer = place.start();
    let leaf_at = |at| {
        let request = KeyPair::generate().unwrap().certificate_request().unwrap();
        let request = CertificateRequest::from_pem(&request).unwrap();
        let authority = &issuer.load().authority;
        authority
            .issue_control(&request, at, Duration::from_hours(1))
            .unwrap()
    };
    let (before, after) = (
        leaf_at(place.now),
        leaf_at(place.now + Duration::from_mins(2)),
    );
    let generation = issuer.renew_all(place.now + Duration::from_mins(1));
    assert_eq!(
        issuer.generation_of(before.as_slice()),
        Generation::default()
    );
    assert_eq!(issuer.generation_of(after.as_slice()), generation);
}

#[test]
fn roots_are_trusted_by_the_word_of_one_that_was_and_stay() {
    let place = Place::new(false);
    let next = MeshKey::found(&place.config.trust_domain, place.now).unwrap();
    let thief = MeshKey::found(&place.config.trust_domain, place.now).unwrap();
    let word = |by: &MeshKey, of: &[&MeshKey], serial| {
        let all = of.iter().map(|key| key.root_pem()).collect::<String>();
        let signed = by.sign_roots(Certificates::from_pem(&all).unwrap(), serial);
        NewRoots {
            serial,
            roots: all,
            signature: crate::hex::hex(&signed.unwrap().signature),
        }
    };
    let (old, new) = (&place.mesh, &next);
    let (both, last) = (word(old, &[old, new], 5), word(new, &[new], 6));
    let issuer = place.start();
    let trusts = |issuer: &Issuer| issuer.trust().load().roots().as_slice().len();
    let refused = |issuer: &Issuer, said: &NewRoots| {
        let error = issuer.trust_in(said).unwrap_err();
        assert!(error.is_of_request(), "{error}");
        error.to_string()
    };
    assert!(refused(&issuer, &last).contains("no root that is trusted has signed"));
    assert!(refused(&issuer, &word(old, &[new], 1)).contains("not among them"));
    let odd = NewRoots {
        signature: "xyz".to_owned(),
        ..both.clone()
    };
    assert!(refused(&issuer, &odd).contains("not hexadecimal"));

    let (generation, bundle) = issuer.trust_in(&both).unwrap();
    assert_eq!(generation, Generation::FIRST.next());
    assert_eq!((bundle.roots().as_slice().len(), trusts(&issuer)), (2, 2));
    assert_eq!(
        issuer.trust_in(&both).unwrap(),
        (generation, bundle),
        "once"
    );
    assert!(refused(&issuer, &word(old, &[old], 4)).contains("an older one"));
    assert!(refused(&issuer, &word(old, &[old], 5)).contains("an older one"));
    drop(issuer);
    let issuer = place.start();
    assert_eq!((trusts(&issuer), issuer.serial()), (2, 5));
    // Who has a certificate from before may not have heard of it.
    let key = KeyPair::generate().unwrap().certificate_request().unwrap();
    let request = CertificateRequest::from_pem(&key).unwrap();
    let authority = &issuer.load().authority;
    let generation = |at| {
        let chain = authority.issue_control(&request, at, Duration::from_hours(24));
        issuer.generation_of(chain.unwrap().as_slice())
    };
    assert_eq!(
        generation(place.now - Duration::from_mins(1)),
        Generation::default()
    );
    assert_eq!(
        generation(SystemTime::now() + Duration::from_secs(1)),
        Generation::FIRST
    );

    assert!(
        refused(&issuer, &last).contains("not among them"),
        "own certificate first"
    );
    let request = issuer.request().unwrap();
    let stolen = place.sign(&thief, &request, "west");
    let error = issuer.install(&stolen, place.now).unwrap_err();
    assert!(matches!(error, IssuerError::ForeignRoot), "{error}");
    let chain = place.sign(new, &request, "west");
    issuer.install(&chain, place.now).unwrap();
    issuer.trust_in(&last).unwrap();
    drop(issuer);
    let issuer = place.start();
    assert_eq!((trusts(&issuer), issuer.serial()), (1, 6));
    assert_eq!(*issuer.trust().load(), *new.bundle());
    for by in [old, &thief] {
        let back = word(by, &[old, new], 7);
        assert!(refused(&issuer, &back).contains("no root that is trusted has signed"));
    }
}

#[test]
fn a_cluster_that_was_signed_by_hand_trusts_that_root_and_a_damaged_word_stops_it() {
    let place = Place::new(false);
    let other = MeshKey::found(&place.config.trust_domain, place.now).unwrap();
    let file = place.file("roots.json");
    let said = NewRoots {
        serial: 3,
        roots: other.root_pem(),
        signature: "00".to_owned(),
    };
    fs::write(&file, serde_json::to_vec(&said).unwrap()).unwrap();
    let issuer = place.start();
    assert_eq!(*issuer.trust().load(), *place.mesh.bundle());
    assert_eq!(issuer.serial(), 3, "what is older is not believed again");
    for damaged in ["", "{}", "{\"serial\":1,\"roots\":\"\",\"signature\":\"\"}"] {
        fs::write(&file, damaged).unwrap();
        let error = Roots::load(&place.config, place.mesh.bundle()).unwrap_err();
        assert!(error.to_string().contains("roots.json"), "{error}");
    }
}
