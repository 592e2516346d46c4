//! Writes of config: judged here when this cluster leads the authority, carried to whoever does otherwise.

use std::time::Instant;

use isthmus_api::{Cause, Failure};
use isthmus_manifest::{FieldPath, Problem, SIGNATURE_ANNOTATION, parse_object};
use isthmus_model::{ClusterName, Kind, Mesh, Namespace, Origin, Position, Resource, ResourceKey};
use isthmus_replica::{Change as LedgerChange, Decision, Expect, WriteError};
use isthmus_wire::proto;
use isthmus_world::Store;
use serde_json::Value;

use super::answer::{Answer, Held, ReplyTo};
use super::charter::Unbound;
use super::history::{Record, Recorded};
use super::objects::{Stored, ledger_key, resource_key};
use super::origin::{config_of, history_of};
use super::questions::Asked;
use super::write::{Submitted, Verb, Write};
use super::{Core, Now, PeerSessionId, RequestId};
use crate::time::unix_millis;

/// A write that holds.
#[derive(Debug)]
enum Judged {
    Unchanged {
        key: ResourceKey,
        current: (Position, Stored),
    },
    Put {
        key: ResourceKey,
        stored: Stored,
        before: Option<(Position, Stored)>,
    },
    Delete {
        key: ResourceKey,
        before: (Position, Stored),
    },
}

impl<S: Store> Core<S> {
    pub(super) fn on_write(&mut self, id: RequestId, write: Write, now: Now) {
        let reply_to = ReplyTo::Request(id);
        if write.dry_run {
            let own = &self.settings.cluster;
            let accepts = match &write.key.origin {
                Origin::Mesh => self.decides(),
                Origin::Cluster(cluster) => cluster == own,
            };
            let reach = if accepts {
                Ok(())
            } else {
                self.check_reaches(own, &write)
            };
            let answer = match reach.and_then(|()| self.judge(&write, now)) {
                Ok(judged) => self.foretell(write.verb, judged),
                Err(failure) => failure.into(),
            };
            return self.reply(reply_to, answer);
        }
        let asked = Submitted {
            request: self.next_request(),
            since: self.position_of(&write.key.origin),
            is_in_doubt: false,
            reply_to,
            write,
            source: self.settings.cluster.clone(),
            is_relayed: false,
        };
        self.submit_to_origin(asked, now);
    }

    fn submit_to_origin(&mut self, asked: Submitted, now: Now) {
        match asked.write.key.origin.clone() {
            Origin::Mesh => self.submit(asked, now),
            Origin::Cluster(cluster) => self.submit_to(&cluster, asked, now),
        }
    }

    /// Another cluster forwards a write of one of its users, or a voter what another one asked it.
    pub(super) fn on_commit(
        &mut self,
        session: PeerSessionId,
        id: u64,
        commit: &proto::Commit,
        now: Now,
    ) {
        let reply_to = ReplyTo::Peer(session, id);
        let Some(from) = self.peers.cluster_of(session).cloned() else {
            return;
        };
        match self.read_commit(from, commit) {
            Ok((write, source, is_relayed)) => {
                let asked = Submitted {
                    request: commit.request.clone(),
                    since: Position(commit.since),
                    is_in_doubt: commit.in_doubt,
                    reply_to,
                    write,
                    source,
                    is_relayed,
                };
                self.submit_to_origin(asked, now);
            }
            Err(failure) => self.reply(reply_to, failure.into()),
        }
    }

    /// The write, whose it is, and whether it was handed on.
    fn read_commit(
        &self,
        from: ClusterName,
        commit: &proto::Commit,
    ) -> Result<(Write, ClusterName, bool), Failure> {
        let bad =
            |what: &str| Failure::bad_request(format!("the forwarded write's {what} is not one"));
        let key = resource_key(commit.key.as_bytes()).map_err(|_| bad("key"))?;
        if key.origin == Origin::Mesh && !self.decides() {
            let voters: Vec<_> = self
                .authority
                .clusters()
                .iter()
                .map(ToString::to_string)
                .collect();
            let message = format!(
                "this cluster is not of the authority, {} is",
                voters.join(", ")
            );
            return Err(Failure::unavailable(message));
        }
        let is_relayed = !commit.cluster.is_empty();
        let source = match is_relayed {
            false => from,
            // Whoever votes has asked for that cluster's certificate; nobody else is believed.
            true if key.origin == Origin::Mesh && self.authority.clusters().contains(&from) => {
                commit.cluster.parse().map_err(|_| bad("cluster"))?
            }
            true => return Err(bad("cluster")),
        };
        let write = Write {
            author: commit.author.clone(),
            verb: Verb::parse(&commit.verb).ok_or_else(|| bad("verb"))?,
            key,
            object: if commit.object.is_empty() {
                None
            } else {
                Some(serde_json::from_slice(&commit.object).map_err(|_| bad("object"))?)
            },
            dry_run: false,
        };
        Ok((write, source, is_relayed))
    }

    pub(super) fn judge_and_propose(&mut self, asked: Submitted, now: Now) {
        // One that was asked for elsewhere may be an older copy, which comes last.
        let is_only_here = matches!(asked.reply_to, ReplyTo::Request(_)) && !asked.is_in_doubt;
        let found = if is_only_here {
            Some(Recorded::Not)
        } else {
            self.find_accepted(&asked)
        };
        match found {
            Some(Recorded::As { record, later }) => return self.confirm(asked, *record, &later),
            None if asked.is_in_doubt => {
                let message = format!(
                    "too much was changed since to know whether this was: look at {} before you repeat it",
                    asked.write.key
                );
                let failure = Failure::new(504, "Timeout", message);
                return self.reply(asked.reply_to, failure.into());
            }
            Some(Recorded::Not) | None => {}
        }
        self.judge_and_stage(asked, now);
    }

    /// Here it is decided: the write is staged, or answered with why it does not hold.
    pub(super) fn judge_and_stage(&mut self, asked: Submitted, now: Now) {
        let reach = match &asked.reply_to {
            ReplyTo::Request(_) => Ok(()),
            ReplyTo::Peer(..) => self.check_reaches(&asked.source, &asked.write),
        };
        let judged = reach.and_then(|()| self.judge(&asked.write, now));
        match judged {
            Err(failure) => self.reply(asked.reply_to, failure.into()),
            Ok(judged) => self.stage(asked, judged, now),
        }
    }

    /// What is asked for through another cluster reaches no further than what the mesh granted that cluster: whoever
    /// stole it writes nothing elsewhere in the name of its users. `namespace`: `None` for what is of the whole mesh.
    pub(super) fn check_reach(
        &self,
        source: &ClusterName,
        namespace: Option<&Namespace>,
    ) -> Result<(), Failure> {
        let Some(cluster) = self.index.declared().cluster(source) else {
            let message = format!(
                "the mesh has no cluster {source} that could ask for this: write it through another one"
            );
            return Err(Failure::forbidden(message));
        };
        let Some(granted) = &cluster.namespaces else {
            return Ok(());
        };
        let what = match namespace {
            Some(namespace) if granted.contains(namespace) => return Ok(()),
            Some(namespace) => format!("namespace {namespace}"),
            None => "what is of the whole mesh".to_owned(),
        };
        let granted: Vec<_> = granted.iter().map(ToString::to_string).collect();
        let message = format!(
            "cluster {source} is granted {}, and {what} is not among that: write it through another cluster",
            match granted[..] {
                [] => "no namespace".to_owned(),
                _ => granted.join(", "),
            }
        );
        Err(Failure::forbidden(message))
    }

    /// As [`Core::check_reach`], of all that the write has an effect on: a policy may stand in one namespace and hold
    /// in others.
    fn check_reaches(&self, source: &ClusterName, write: &Write) -> Result<(), Failure> {
        let key = &write.key;
        self.check_reach(source, key.namespace.as_ref())?;
        if key.kind != Kind::TrafficPolicy {
            return Ok(());
        }
        let latest = self.latest(key)?.map(|(_, stored)| stored.object);
        for object in write.object.iter().chain(&latest) {
            // What cannot be read has no effect, and is refused for that.
            if let Ok((_, Resource::TrafficPolicy(policy))) = parse_object(object.clone()) {
                for target in &policy.targets {
                    self.check_reach(source, target.namespace())?;
                }
            }
        }
        Ok(())
    }

    /// It was accepted when it was asked before. That is said when all that is proposed is decided.
    fn confirm(&mut self, asked: Submitted, record: Record, later: &[Record]) {
        let Submitted {
            reply_to, write, ..
        } = asked;
        let position = Position(record.position);
        let held = match record.after {
            None => Held::Ready(Answer::deleted(&write.key, position)),
            Some(object) => {
                let is_same = later.iter().all(|later| later.after.is_some());
                let latest = self.latest(&write.key).ok().flatten();
                match latest.filter(|_| is_same) {
                    Some((_, latest)) => Held::Object {
                        code: write.verb.code(),
                        written: Box::new((
                            position,
                            Stored {
                                author: record.author,
                                changed: record.time,
                                generation: latest
                                    .generation
                                    .saturating_sub(respecified(later))
                                    .max(1),
                                object,
                                ..latest
                            },
                        )),
                        key: write.key,
                    },
                    None => Held::Ready(accepted_and_gone(write.verb, object, position)),
                }
            }
        };
        // Of its place nobody knows until then: it may be void, and this with it.
        self.propose_in_doubt(reply_to, held);
    }

    /// Does the write hold, against everything that was accepted, saved or not?
    fn judge(&self, write: &Write, now: Now) -> Result<Judged, Failure> {
        let key = &write.key;
        self.check_origin(&key.origin, key.kind)?;
        if !key.kind.is_config() {
            return Err(Failure::new(
                405,
                "MethodNotAllowed",
                format!(
                    "{} objects are facts: their own proxies report them",
                    key.kind
                ),
            ));
        }
        let current = self.latest(key)?;
        let exists = current.as_ref().map(|(position, _)| *position);
        match (write.verb, exists) {
            (Verb::Create, Some(_)) => {
                return Err(Failure::already_exists(format!(
                    "{key} exists already: update it, or choose another name"
                )));
            }
            (Verb::Update | Verb::Delete, None) => {
                return Err(Failure::not_found(format!("there is no {key}")));
            }
            (Verb::Create, None) | (Verb::Update | Verb::Delete, Some(_)) => {}
        }
        if let Some(found) = exists {
            let next = self.next_position_of(&key.origin);
            check_version(key, write.object.as_ref(), found, next)?;
        }
        if let (Verb::Delete, Some(before)) = (write.verb, &current) {
            if key.kind == Kind::Mesh {
                let why = "everything else belongs to it: a mesh ends with its control planes";
                return Err(Failure::new(405, "MethodNotAllowed", why));
            }
            self.check_no_voter(key)?;
            if self.charter.is_revoked_object(key) {
                let why = format!(
                    "{} is revoked, and this says so to those who join later",
                    key.name
                );
                return Err(Failure::conflict(why));
            }
            let (key, before) = (key.clone(), before.clone());
            return Ok(Judged::Delete { key, before });
        }
        let object = write.object.clone().unwrap_or_default();
        let latest = current.as_ref().map(|(_, stored)| &stored.object);
        self.check_object(key, &object, latest)?;
        let before = current.as_ref().map(|(_, stored)| stored);
        let stored = Stored::after(before, key, object, &write.author, unix_millis(now.wall));
        let key = key.clone();
        Ok(match (stored, current) {
            (None, Some(current)) => Judged::Unchanged { key, current },
            (None, None) => return Err(Failure::internal(format!("{key} is not there"))),
            (Some(stored), before) => Judged::Put {
                key,
                stored,
                before,
            },
        })
    }

    /// The newest version that was accepted, and where.
    fn latest(&self, key: &ResourceKey) -> Result<Option<(Position, Stored)>, Failure> {
        let Some(ledger) = self.replica.ledger(&config_of(&key.origin)) else {
            return Ok(self.objects.get(key).cloned());
        };
        let Some((position, record)) = ledger.find_latest(&ledger_key(key)) else {
            return Ok(None);
        };
        let stored = Stored::decode(record)
            .map_err(|error| Failure::internal(format!("{key} cannot be read: {error}")))?;
        Ok(Some((position, stored)))
    }

    fn check_object(
        &self,
        key: &ResourceKey,
        object: &Value,
        latest: Option<&Value>,
    ) -> Result<(), Failure> {
        let (mut found, resource) =
            parse_object(object.clone()).map_err(|problems| invalid(key, &problems))?;
        found.origin.clone_from(&key.origin);
        if found != *key {
            return Err(Failure::bad_request(format!(
                "the object is {found}, the path says {key}"
            )));
        }
        match &resource {
            Resource::Mesh(mesh) => self.check_mesh(key, mesh)?,
            Resource::Cluster(cluster) if cluster.revoked == Some(true) => {
                self.check_no_voter(key)?;
            }
            _ => {}
        }
        let trust = &self.settings.trust;
        let signed = self.charter.check(trust, key, object, &resource, latest);
        signed.map_err(|why| not_signed(key, &why))
    }

    /// Those who remain must be able to decide without it.
    fn check_no_voter(&self, key: &ResourceKey) -> Result<(), Failure> {
        let name = &key.name;
        if key.kind == Kind::Cluster && self.is_voter(name.as_str()) {
            let why = format!(
                "{name} votes on config: `isthmus authority remove {name}` takes its vote first"
            );
            return Err(Failure::conflict(why));
        }
        Ok(())
    }

    /// The name and the trust domain were decided when the mesh was founded.
    fn check_mesh(&self, key: &ResourceKey, mesh: &Mesh) -> Result<(), Failure> {
        let causes = [
            (
                "metadata.name",
                mesh.name.as_str(),
                self.settings.mesh.as_str(),
            ),
            (
                "spec.trustDomain",
                mesh.trust_domain.as_str(),
                self.settings.trust_domain.as_str(),
            ),
        ];
        let wrong: Vec<_> = causes
            .into_iter()
            .filter(|(_, found, expected)| found != expected)
            .map(|(field, found, expected)| Cause {
                field: field.to_owned(),
                message: format!("it is {found:?}, this mesh was founded as {expected:?}"),
            })
            .collect();
        if wrong.is_empty() {
            return Ok(());
        }
        Err(Failure::invalid(format!("{key} describes another mesh")).with_causes(wrong))
    }

    fn stage(&mut self, asked: Submitted, judged: Judged, now: Now) {
        let Submitted {
            request,
            reply_to,
            write,
            source,
            ..
        } = asked;
        let code = write.verb.code();
        let (key, before, stored) = match judged {
            Judged::Unchanged { key, current } => {
                let origin = key.origin.clone();
                let held = Held::Object {
                    code,
                    key,
                    written: Box::new(current),
                };
                return match origin {
                    // Nothing is proposed, and that this cluster still leads is: then it holds.
                    Origin::Mesh => {
                        self.propose_decision(Decision::default(), Some((reply_to, held)));
                    }
                    Origin::Cluster(_) => self.hold(reply_to, held),
                };
            }
            Judged::Put {
                key,
                stored,
                before,
            } => (key, before, Some(stored)),
            Judged::Delete { key, before } => (key, Some(before), None),
        };
        let since = before.as_ref().map(|(position, _)| *position);
        let change = LedgerChange {
            key: ledger_key(&key),
            value: stored.as_ref().map(Stored::encode),
            expect: since.map_or(Expect::Absent, Expect::UnchangedSince),
        };
        // What leaves the ledger with this change is in the archive by then.
        self.archive();
        let position = self.next_position_of(&key.origin);
        let (previous, not_before) = self.recorded_before(&key.origin, position).unzip();
        let record = Record {
            position: position.0,
            // Times are in the order of positions, whatever clocks do.
            time: unix_millis(now.wall).max(not_before.unwrap_or_default()),
            author: write.author.clone(),
            cluster: source.to_string(),
            verb: write.verb.as_str().to_owned(),
            key: String::from_utf8_lossy(&change.key).into_owned(),
            request: Some(request).filter(|request| !request.is_empty()),
            before: before.map(|(_, stored)| stored.object),
            after: stored.as_ref().map(|stored| stored.object.clone()),
            previous,
        };
        let held = match stored {
            None => Held::Ready(Answer::deleted(&key, position)),
            Some(stored) => Held::Object {
                code,
                key: key.clone(),
                written: Box::new((position, stored)),
            },
        };
        let writes = vec![
            (config_of(&key.origin), vec![change]),
            (history_of(&key.origin), self.recorded(&key.origin, &record)),
        ];
        let staged = match key.origin {
            Origin::Mesh => self.propose(writes, reply_to, held),
            Origin::Cluster(_) => {
                let written = self.replica.write_together(writes);
                written.map(|_| self.hold(reply_to, held))
            }
        };
        if let Err(error) = staged {
            self.reply(reply_to, not_written(&key, &error).into());
        }
    }

    /// What a write would answer.
    fn foretell(&mut self, verb: Verb, judged: Judged) -> Answer {
        match judged {
            Judged::Unchanged { key, .. } => match self.show(&key) {
                Some(body) => Answer::Json {
                    code: verb.code(),
                    body,
                },
                None => Failure::not_found(format!("there is no {key}")).into(),
            },
            Judged::Put {
                key,
                stored,
                before,
            } => {
                let position = before.map(|(position, _)| position).unwrap_or_default();
                Answer::Json {
                    code: verb.code(),
                    body: stored.show_of(&key.origin, position),
                }
            }
            Judged::Delete { key, before } => Answer::deleted(&key, before.0),
        }
    }

    pub(super) fn forward(&mut self, session: PeerSessionId, asked: Submitted, deadline: Instant) {
        let Submitted { write, source, .. } = &asked;
        let is_own = *source == self.settings.cluster;
        let object = write.object.as_ref().map(Value::to_string);
        let commit = proto::Commit {
            author: write.author.clone(),
            verb: write.verb.as_str().to_owned(),
            key: String::from_utf8_lossy(&ledger_key(&write.key)).into_owned(),
            object: object.unwrap_or_default().into(),
            cluster: if is_own {
                String::new()
            } else {
                source.to_string()
            },
            request: asked.request.clone(),
            since: asked.since.0,
            in_doubt: asked.is_in_doubt,
        };
        let asked = Asked::Commit {
            asked: Box::new(asked),
            answered: None,
        };
        let question = proto::peer_question::Question::Commit(commit);
        self.ask(session, question, asked, deadline);
    }
}

/// The write was accepted and answered late: somebody has deleted the object since. What the API adds to an object is
/// not known any more, but for where it was accepted.
fn accepted_and_gone(verb: Verb, object: Value, position: Position) -> Answer {
    let mut body = object;
    body["metadata"]["resourceVersion"] = position.to_string().into();
    let code = verb.code();
    Answer::Json { code, body }
}

/// How many of these changed what is wanted.
fn respecified(changes: &[Record]) -> u64 {
    let spec = |object: &Option<Value>| {
        object
            .as_ref()
            .and_then(|object| object.get("spec"))
            .cloned()
    };
    let changes = changes.iter();
    changes
        .filter(|change| spec(&change.before) != spec(&change.after))
        .count() as u64
}

/// Does the write speak of the version that is there?
fn check_version(
    key: &ResourceKey,
    object: Option<&Value>,
    found: Position,
    next: Position,
) -> Result<(), Failure> {
    let metadata = object.and_then(|object| object.get("metadata"));
    let based_on = metadata.and_then(|metadata| metadata.get("resourceVersion"));
    let Some(based_on) = based_on.filter(|version| !version.is_null()) else {
        return Ok(());
    };
    let number = based_on.as_str().and_then(|text| text.parse().ok());
    let Some(number) = number else {
        return Err(Failure::bad_request(format!(
            "metadata.resourceVersion {based_on} is not one that this API gave out"
        )));
    };
    if Position(number) >= next {
        return Err(Failure::conflict(format!(
            "you have version {number} of {key}, which is not of what was accepted here: read it again"
        )));
    }
    // Positions are the same for every object: what did not change since is not stale.
    if found > Position(number) {
        return Err(Failure::conflict(format!(
            "{key} was changed after you read it (you have version {number}, it changed at \
             {found}): read it again, and make your change there"
        )));
    }
    Ok(())
}

fn invalid(key: &ResourceKey, problems: &[Problem]) -> Failure {
    let causes: Vec<_> = problems
        .iter()
        .map(|problem| Cause {
            field: problem.path.to_string(),
            message: match &problem.hint {
                Some(hint) => format!("{}; {hint}", problem.message),
                None => problem.message.clone(),
            },
        })
        .collect();
    let first = problems
        .first()
        .map(ToString::to_string)
        .unwrap_or_default();
    let more = match causes.len() {
        0 | 1 => String::new(),
        several => format!(" (and {} more)", several - 1),
    };
    Failure::invalid(format!("{key} is not valid: {first}{more}")).with_causes(causes)
}

fn not_signed(key: &ResourceKey, why: &Unbound) -> Failure {
    let path = FieldPath::root().field("metadata").field("annotations");
    let path = path.field(SIGNATURE_ANNOTATION);
    let cause = Cause {
        field: path.to_string(),
        message: why.to_string(),
    };
    let message = format!(
        "{key} binds the whole mesh and {why}: write it with `isthmus apply` where the mesh key is, or sign \
         it there with `isthmus mesh sign -f FILE`"
    );
    Failure::invalid(message).with_causes(vec![cause])
}

fn not_written(key: &ResourceKey, error: &WriteError) -> Failure {
    match error {
        WriteError::Conflict { .. } => {
            Failure::conflict(format!("{key} was changed at the same time: read it again"))
        }
        WriteError::TooLarge { .. } => {
            Failure::new(413, "RequestEntityTooLarge", format!("{key}: {error}"))
        }
        WriteError::NotOurs { .. } | WriteError::Exhausted => {
            Failure::internal(format!("{key}: {error}"))
        }
    }
}

/// Which kinds of config there are, for messages.
pub(crate) fn kinds() -> String {
    Kind::ALL.map(Kind::plural).join(", ")
}
