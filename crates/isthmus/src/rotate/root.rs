//! A root in the place of another. First everybody trusts both, then the clusters are signed by the new one, then
//! connections that rest on the old one are left, and when that is said to be all, it is trusted no more. Each step
//! is asked of every cluster, and done where it is not yet: whoever starts again goes on.

use std::process::ExitCode;
use std::time::Duration;

use isthmus_api::{CertificateView, NewRoots, collection};
use isthmus_identity::{MeshKey, TrustBundle};
use isthmus_model::Kind;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{REQUEST, fingerprint, install, progress, refused, tell, views, wait};
use crate::api_client::{ApiClient, ApiError};
use crate::args::RotateStartArgs;
use crate::failure::{Exit, Failure, Result};
use crate::home;
use crate::mesh_key;
use crate::output;
use crate::setting::Setting;
use crate::signer::{millis, sign_anew};

const ROOTS: &str = "/mesh/v1/roots";
/// From when all have heard that another root is to stay until one is trusted no more: proxies look every two seconds at which
/// connections they leave, and what is under way on them ends.
const LEFT: Duration = Duration::from_secs(5);
/// A day: clocks differ less.
const FUTURE_MS: u64 = 24 * 60 * 60 * 1000;
/// How often an object is read and written again that somebody else has changed meanwhile.
const TRIES: usize = 5;

type Clusters = Vec<(ApiClient, CertificateView)>;

/// What is asked of every cluster.
#[derive(Clone, Copy)]
enum Step<'a> {
    /// To trust the roots of these keys too, in the word of `by`.
    Add {
        roots: &'a [&'a MeshKey],
        by: &'a MeshKey,
    },
    /// To trust these alone, the first of which is to stay.
    Trust {
        roots: &'a [&'a MeshKey],
        by: &'a MeshKey,
    },
    /// To issue by a key that this one has signed.
    Issue { by: &'a MeshKey },
}

pub(super) async fn start(setting: &Setting, args: &RotateStartArgs) -> Result<ExitCode> {
    let mut all = everywhere(setting).await?;
    let old = mesh_key::read(&setting.home)?;
    check_both_count(&all, &old, mesh_key::next(&setting.home)?.as_ref())?;
    let new = mesh_key::make_next(&setting.home, args.key_file.as_deref())?;
    let both = Step::Add {
        roots: &[&old, &new],
        by: &old,
    };
    let new_first = Step::Trust {
        roots: &[&new, &old],
        by: &new,
    };
    for step in [both, Step::Issue { by: &new }, new_first] {
        if !step.run(setting, &mut all, args.wait.timeout).await? {
            return late(setting, all, "start root");
        }
    }
    done(
        setting,
        all,
        "the new root signs everything, the old one is trusted still; `isthmus rotate finish` ends that, \
         `isthmus rotate abort` goes back\n",
    )?;
    eprintln!("join tokens that were made before are refused: make new ones");
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn finish(setting: &Setting, timeout: Duration) -> Result<ExitCode> {
    let Some(new) = mesh_key::next(&setting.home)? else {
        let what = "no root is to take the place of the mesh's";
        return Err(Failure::failed("nothing-begun", what)
            .next("`isthmus rotate start root` begins, from the home in which the mesh key is"));
    };
    let mut all = everywhere(setting).await?;
    let root = fingerprint(&new);
    let is_new = |view: &CertificateView| {
        view.root == root && view.trusted.first().is_some_and(|first| *first == root)
    };
    if let Some((client, _)) = all.iter().find(|(_, view)| !is_new(view)) {
        let what = format!("{} does not rest on the new root yet", client.cluster);
        return Err(Failure::failed("not-rotated", what)
            .next("`isthmus rotate start root` goes on with it"));
    }
    // All have renewed, or somebody would be left behind.
    if !(Step::Issue { by: &new })
        .run(setting, &mut all, timeout)
        .await?
    {
        return late(setting, all, "finish");
    }
    if let Some((client, _)) = all.first_mut() {
        let roots = home::read_file(&setting.home.root_certificate())?;
        let trusted = TrustBundle::from_pem(&roots).map_err(|error| {
            Failure::failed("bad-root", "the roots of this home cannot be used").caused_by(&error)
        })?;
        sign_terms(client, &new, &trusted).await?;
    }
    // What is signed from now on is believed by those who are done and by those who are not.
    let left = mesh_key::succeed(&setting.home)?;
    let alone = Step::Trust {
        roots: &[&new],
        by: &new,
    };
    be_left(setting, &all).await;
    if !alone.run(setting, &mut all, timeout).await? {
        return late(setting, all, "finish");
    }
    mesh_key::settle(&setting.home)?;
    done(
        setting,
        all,
        "the old root is trusted no more; the new key is the mesh key\n",
    )?;
    if let Some(left) = left {
        eprintln!("{left}: this key means nothing any more; delete it");
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn abort(setting: &Setting, timeout: Duration) -> Result<ExitCode> {
    let old = mesh_key::read(&setting.home)?;
    let new = mesh_key::next(&setting.home)?;
    let mut all = everywhere(setting).await?;
    check_both_count(&all, &old, new.as_ref())?;
    let is_known = |new: &MeshKey| all.iter().any(|(_, view)| knows(view, &[new]));
    let is_begun = new.as_ref().is_some_and(is_known);
    let alone = Step::Trust {
        roots: &[&old],
        by: &old,
    };
    let mut go = async |step: Step<'_>| step.run(setting, &mut all, timeout).await;
    let mut is_done = go(Step::Issue { by: &old }).await?;
    if let Some(new) = new.as_ref().filter(|_| is_begun) {
        // Connections are left when the order of roots changes, and it may be the right one already.
        for roots in [[new, &old], [&old, new]] {
            let by = &old;
            let roots = &roots[..];
            is_done = is_done && go(Step::Trust { roots, by }).await?;
        }
    }
    if is_done {
        be_left(setting, &all).await;
    }
    if !(is_done && alone.run(setting, &mut all, timeout).await?) {
        return late(setting, all, "abort");
    }
    let left = mesh_key::forget_next(&setting.home)?;
    done(
        setting,
        all,
        "the root is what it was; the new one was given up\n",
    )?;
    if let Some(left) = left {
        eprintln!("{left}: this key was given up; delete it");
    }
    Ok(ExitCode::SUCCESS)
}

/// A root is of the mesh, not of one cluster.
async fn everywhere(setting: &Setting) -> Result<Clusters> {
    if setting.cluster.is_some() {
        let what = "the root is one for all clusters";
        return Err(Failure::usage("one-cluster", what).next("leave --cluster out"));
    }
    let mut all = views(setting).await?;
    let names: Vec<String> = all
        .iter()
        .map(|(client, _)| client.cluster.to_string())
        .collect();
    let Some((client, _)) = all.first_mut() else {
        return Ok(all);
    };
    let list: Value = client.get(&collection(Kind::Cluster, None)).await?;
    for cluster in list["items"].as_array().into_iter().flatten() {
        let name = cluster["metadata"]["name"].as_str().unwrap_or_default();
        if cluster["spec"]["revoked"] != true && !names.iter().any(|known| known == name) {
            let home = setting.home.mesh_file();
            let what = format!("this home knows no API of {name}, which would be left behind");
            return Err(Failure::failed("cluster-unknown", what).next(format!(
                "name it in {}, or delete that Cluster if there is none",
                home.display()
            )));
        }
    }
    Ok(all)
}

/// Errors: in some cluster, or in the home, the new root is alone already: there is no way back.
fn check_both_count(all: &Clusters, old: &MeshKey, new: Option<&MeshKey>) -> Result<()> {
    let old = fingerprint(old);
    let nearly = |what: String| {
        Err(Failure::failed("nearly-done", what).next("`isthmus rotate finish` does the rest"))
    };
    if new.is_some_and(|new| fingerprint(new) == old) {
        return nearly("the new key is the mesh key already".to_owned());
    }
    // A version that knows one root says nothing of them.
    let counts = |view: &CertificateView| view.trusted.contains(&old) || view.trusted.is_empty();
    let Some((client, _)) = all.iter().find(|(_, view)| !counts(view)) else {
        return Ok(());
    };
    nearly(format!(
        "{} does not trust the old root any more",
        client.cluster
    ))
}

impl Step<'_> {
    /// Where it was not done, it is: one cluster after the other. Have all processes renewed in time?
    async fn run(self, setting: &Setting, all: &mut Clusters, timeout: Duration) -> Result<bool> {
        for (client, view) in all {
            let done = match self {
                Self::Add { roots, by } if !knows(view, roots) => {
                    Some(trust(client, view, roots, by).await?)
                }
                Self::Trust { roots, by } if view.trusted != fingerprints(roots) => {
                    Some(trust(client, view, roots, by).await?)
                }
                Self::Add { .. } | Self::Trust { .. } => None,
                Self::Issue { by } => issue(client, view, by).await?,
            };
            *view = wait(setting, client, Instant::now() + timeout).await?;
            if let Some(done) = done.filter(|_| setting.format.is_none()) {
                let progress = progress(view);
                output::print(&format!("{}: {done}, and {progress}\n", client.cluster))?;
            }
            if !view.waiting.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn fingerprints(keys: &[&MeshKey]) -> Vec<String> {
    keys.iter().map(|key| fingerprint(key)).collect()
}

fn knows(view: &CertificateView, roots: &[&MeshKey]) -> bool {
    let mut wanted = fingerprints(roots).into_iter();
    wanted.all(|root| view.trusted.contains(&root))
}

/// Where a root is to be trusted no more, what rests on it has a while to end.
async fn be_left(setting: &Setting, all: &Clusters) {
    if all.iter().any(|(_, view)| view.trusted.len() > 1) {
        if setting.format.is_none() {
            eprintln!("connections leave the root that goes: {} s", LEFT.as_secs());
        }
        sleep(LEFT).await;
    }
}

async fn trust(
    client: &mut ApiClient,
    view: &CertificateView,
    roots: &[&MeshKey],
    by: &MeshKey,
) -> Result<&'static str> {
    let failed = |cause: &dyn std::error::Error| {
        let what = "what is to be trusted cannot be signed";
        Failure::failed("not-signed", what).caused_by(cause)
    };
    let pem: String = roots.iter().map(|key| key.root_pem()).collect();
    let bundle = TrustBundle::from_pem(&pem).map_err(|error| failed(&error))?;
    let serial = serial_after(view)?;
    let signed = by.sign_roots(bundle.roots().clone(), serial);
    let said = NewRoots {
        serial,
        roots: pem,
        signature: output::hex(&signed.map_err(|error| failed(&error))?.signature),
    };
    let put = client.put(ROOTS, &json!(said)).await;
    put.map_err(|error| refused(error, &client.cluster))?;
    Ok(match roots.len() {
        1 => "trusts one root",
        _ if knows(view, roots) => "leaves connections that rest on the other root",
        _ => "trusts both roots",
    })
}

/// The time, or more than the last one had.
///
/// Errors: that is of tomorrow. A stolen control plane could say any number, and whoever has heard the largest one
/// believes no other word for ever.
fn serial_after(view: &CertificateView) -> Result<u64> {
    let now = millis();
    if view.serial > now.saturating_add(FUTURE_MS) {
        let cluster = &view.cluster;
        let what =
            format!("{cluster} says that it has heard a word of the mesh key of a day to come");
        return Err(Failure::failed("serial-of-the-future", what)
            .next("look at the clock here, and at who runs that control plane"));
    }
    Ok(view.serial.saturating_add(1).max(now))
}

/// `None`: it does so already.
async fn issue(
    client: &mut ApiClient,
    view: &CertificateView,
    by: &MeshKey,
) -> Result<Option<&'static str>> {
    if view.root == fingerprint(by) {
        return Ok(None);
    }
    let asked = client.post::<CertificateView>(REQUEST, &json!({})).await;
    let asked = asked.map_err(|error| refused(error, &client.cluster))?;
    let request = asked.request.unwrap_or_default();
    install(client, by, &request).await?;
    Ok(Some("issues by a key that the other root has signed"))
}

/// What binds the mesh is signed by the new key, too, before the old one means nothing.
async fn sign_terms(client: &mut ApiClient, key: &MeshKey, trusted: &TrustBundle) -> Result<()> {
    for kind in [Kind::Mesh, Kind::Cluster] {
        let list: Value = client.get(&collection(kind, None)).await?;
        for item in list["items"].as_array().into_iter().flatten() {
            let name = item["metadata"]["name"].as_str().unwrap_or_default();
            let path = isthmus_api::object(kind, None, name);
            let mut tries = 0;
            // It may be gone since.
            while let Some(object) = client.find(&path).await? {
                let what = format!("{kind}/{name}");
                let Some(signed) = sign_anew(key, trusted, &object, &what)? else {
                    break;
                };
                tries += 1;
                match client.put(&path, &signed).await {
                    Ok(_) => break,
                    // Somebody else has changed it since it was read.
                    Err(ApiError::Refused(failure)) if failure.code == 409 && tries < TRIES => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
    Ok(())
}

/// How all stand, for a program; for people, what that means.
fn done(setting: &Setting, all: Clusters, said: &str) -> Result<()> {
    tell(setting, &into_views(all))?;
    match setting.format {
        Some(_) => Ok(()),
        None => output::print(said),
    }
}

fn late(setting: &Setting, all: Clusters, verb: &str) -> Result<ExitCode> {
    tell(setting, &into_views(all))?;
    eprintln!(
        "some processes have not renewed in time: `isthmus rotate status` names them, \
         `isthmus rotate {verb}` goes on"
    );
    Ok(Exit::Findings.into())
}

fn into_views(all: Clusters) -> Vec<CertificateView> {
    all.into_iter().map(|(_, view)| view).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cluster_uses_up_the_numbers() {
        let after = |serial| {
            serial_after(&CertificateView {
                serial,
                ..CertificateView::default()
            })
        };
        let now = millis();
        assert!(after(0).unwrap() >= now);
        assert_eq!(
            after(now + 60_000).unwrap(),
            now + 60_001,
            "a clock that is ahead"
        );
        for odd in [now + 2 * FUTURE_MS, u64::MAX] {
            assert_eq!(after(odd).unwrap_err().code, "serial-of-the-future");
        }
    }

    #[test]
    fn there_is_a_way_back_until_the_old_root_is_gone_somewhere() {
        let key = || {
            MeshKey::found(
                &"shop.example".parse().unwrap(),
                std::time::SystemTime::now(),
            )
        };
        let (old, new) = (key().unwrap(), key().unwrap());
        let both = CertificateView {
            trusted: fingerprints(&[&new, &old]),
            ..CertificateView::default()
        };
        assert!(knows(&both, &[&old, &new]) && knows(&both, &[&new]));
        let check = |old, new| check_both_count(&Vec::new(), old, Some(new));
        check(&old, &new).unwrap();
        assert_eq!(check(&new, &new).unwrap_err().code, "nearly-done");
    }
}
