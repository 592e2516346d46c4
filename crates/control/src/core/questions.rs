//! Questions between control planes: writes that are carried to the authority, and what only another
//! cluster can say of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use isthmus_api::Failure;
use isthmus_model::{ClusterName, Origin, Position};
use isthmus_wire::proto;
use isthmus_wire::proto::peer_frame::Frame;
use isthmus_wire::proto::peer_question::Question;
use isthmus_world::Store;
use serde_json::Value;

use super::answer::{Answer, ReplyTo};
use super::objects::Stored;
use super::write::{Submitted, Verb};
use super::{Core, Now, PeerSessionId};

/// What other control planes were asked and have not answered.
#[derive(Debug, Default)]
pub(super) struct Questions {
    last: u64,
    open: BTreeMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    session: PeerSessionId,
    whom: String,
    deadline: Instant,
    asked: Asked,
}

/// A list that waits for its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GatherId(pub(super) u64);

/// What a question is for.
#[derive(Debug)]
pub(super) enum Asked {
    /// A forwarded write. `answered`: accepted at this position, our copy is not there yet.
    Commit {
        asked: Box<Submitted>,
        answered: Option<(u64, Answer)>,
    },
    Inquiry {
        gather: GatherId,
        cluster: ClusterName,
    },
    /// What only whoever leads the authority can say or do.
    OfLeader { reply_to: ReplyTo },
}

impl Questions {
    fn add(
        &mut self,
        session: PeerSessionId,
        whom: String,
        deadline: Instant,
        asked: Asked,
    ) -> u64 {
        self.last += 1;
        let open = Open {
            session,
            whom,
            deadline,
            asked,
        };
        self.open.insert(self.last, open);
        self.last
    }

    /// The question that an answer on this stream is for.
    fn take(&mut self, id: u64, session: PeerSessionId) -> Option<Open> {
        let asked_there = self.open.get(&id)?.session == session;
        asked_there.then(|| self.open.remove(&id)).flatten()
    }

    /// Of forwarded writes that our copy does not show yet.
    fn origins(&self) -> BTreeSet<Origin> {
        let origin = |open: &Open| match &open.asked {
            Asked::Commit {
                asked,
                answered: Some(_),
            } => Some(asked.write.key.origin.clone()),
            _ => None,
        };
        self.open.values().filter_map(origin).collect()
    }

    fn take_where(&mut self, wanted: impl Fn(&Open) -> bool) -> Vec<Open> {
        let taken = self.open.extract_if(.., |_, open| wanted(open));
        taken.map(|(_, open)| open).collect()
    }
}

impl<S: Store> Core<S> {
    pub(super) fn ask(
        &mut self,
        session: PeerSessionId,
        question: Question,
        asked: Asked,
        deadline: Instant,
    ) {
        let whom = self.peers.cluster_of(session);
        let whom = whom.map(ToString::to_string).unwrap_or_default();
        let question = proto::PeerQuestion {
            id: self.questions.add(session, whom, deadline, asked),
            question: Some(question),
        };
        self.send_to_peer(session, Frame::Question(question));
    }

    pub(super) fn on_question(
        &mut self,
        session: PeerSessionId,
        question: proto::PeerQuestion,
        now: Now,
    ) {
        let reply_to = ReplyTo::Peer(session, question.id);
        match question.question {
            Some(Question::Commit(commit)) => self.on_commit(session, question.id, &commit, now),
            Some(Question::Transfer(transfer)) => match transfer.cluster.parse() {
                Ok(to) => match self.check_asker(session) {
                    Ok(()) => self.on_transfer(reply_to, &to, now),
                    Err(failure) => self.reply(reply_to, failure.into()),
                },
                Err(error) => {
                    let failure = Failure::bad_request(format!("{:?}: {error}", transfer.cluster));
                    self.reply(reply_to, failure.into());
                }
            },
            Some(Question::Authority(_)) => self.on_show_authority(reply_to, now),
            Some(Question::Inquiry(inquiry)) => {
                let answer = self.own_part(&inquiry.path);
                self.reply(reply_to, answer);
            }
            None => {
                let failure = Failure::bad_request("this version does not know the question");
                self.reply(reply_to, failure.into());
            }
        }
    }

    /// Who leads is of the whole mesh.
    fn check_asker(&self, session: PeerSessionId) -> Result<(), Failure> {
        match self.peers.cluster_of(session) {
            Some(cluster) => self.check_reach(cluster, None),
            None => Err(Failure::forbidden("the stream is not open")),
        }
    }

    pub(super) fn on_peer_answer(
        &mut self,
        session: PeerSessionId,
        answer: &proto::PeerAnswer,
        now: Instant,
    ) {
        let Some(open) = self.questions.take(answer.id, session) else {
            return; // Too late: it was given up.
        };
        let code = u16::try_from(answer.status).unwrap_or(500);
        let body = serde_json::from_slice(&answer.body).unwrap_or_default();
        match open.asked {
            Asked::Inquiry { gather, cluster } => self.on_part(gather, cluster, code, &body, now),
            Asked::OfLeader { reply_to } => self.reply(reply_to, Answer::Json { code, body }),
            Asked::Commit { mut asked, .. } => {
                let accepted = accepted_at(code, &body);
                let answer_now = Answer::Json { code, body };
                let Some(position) = accepted else {
                    if matches!(code, 503 | 504) && asked.is_pursued() {
                        asked.is_in_doubt |= code == 504;
                        return self.submit_again(*asked, open.deadline, Some(answer_now));
                    }
                    return self.reply(asked.reply_to, answer_now);
                };
                let asked = Asked::Commit {
                    asked,
                    answered: Some((position, answer_now)),
                };
                self.questions.add(session, open.whom, open.deadline, asked);
                self.confirm_commits();
            }
        }
    }

    /// Answers forwarded writes that our own copy shows now.
    pub(super) fn confirm_commits(&mut self) {
        let origins = self.questions.origins();
        let origins = origins.into_iter();
        let here: BTreeMap<_, _> = origins
            .map(|origin| (origin.clone(), self.position_of(&origin).0))
            .collect();
        let arrived = |open: &Open| match &open.asked {
            Asked::Commit {
                asked,
                answered: Some((at, _)),
            } => here.get(&asked.write.key.origin) >= Some(at),
            _ => false,
        };
        for open in self.questions.take_where(arrived) {
            if let Asked::Commit {
                asked,
                answered: Some((at, Answer::Json { code, body })),
            } = open.asked
            {
                let (reply_to, key) = (asked.reply_to, asked.write.key);
                // Others may have written it again already, or made what a delete says is gone.
                let is_it = |found: &(Position, Stored)| found.0 == Position(at);
                let is_it =
                    asked.write.verb != Verb::Delete && self.objects.get(&key).is_some_and(is_it);
                let object = is_it.then(|| self.show(&key)).flatten();
                let body = object.unwrap_or(body);
                self.reply(reply_to, Answer::Json { code, body });
            }
        }
    }

    /// The stream has ended: what was asked on it is not answered any more.
    pub(super) fn give_up_questions(&mut self, session: PeerSessionId, now: Instant) {
        for open in self.questions.take_where(|open| open.session == session) {
            self.on_unanswered(open, now);
        }
    }

    pub(super) fn on_question_timeouts(&mut self, now: Instant) {
        for open in self.questions.take_where(|open| open.deadline <= now) {
            self.on_unanswered(open, now);
        }
        self.on_gather_timeouts(now);
    }

    fn on_unanswered(&mut self, open: Open, now: Instant) {
        match open.asked {
            // Accepted for certain; only our copy is behind.
            Asked::Commit {
                asked,
                answered: Some((_, answer)),
            } => self.reply(asked.reply_to, answer),
            Asked::Commit { mut asked, .. } => {
                asked.is_in_doubt = true;
                if asked.is_pursued() && now < open.deadline {
                    return self.submit_again(*asked, open.deadline, None);
                }
                let message = format!(
                    "{} did not answer, so it is not known whether the write was accepted: look at \
                     {} before you repeat it",
                    open.whom, asked.write.key
                );
                let failure = Failure::new(504, "Timeout", message);
                self.reply(asked.reply_to, failure.into());
            }
            Asked::OfLeader { reply_to } => {
                let message = format!("{} did not answer", open.whom);
                self.reply(reply_to, Failure::new(504, "Timeout", message).into());
            }
            Asked::Inquiry { gather, cluster } => self.on_silent(gather, &cluster, now),
        }
    }
}

/// The position of an accepted write, which its answer says.
fn accepted_at(code: u16, body: &Value) -> Option<u64> {
    let version = body.get("metadata")?.get("resourceVersion")?.as_str()?;
    (code < 300).then(|| version.parse().ok()).flatten()
}
