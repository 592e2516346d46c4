//! Answers: ready at once, or held until what they speak of is safe.

use std::sync::Arc;
use std::time::SystemTime;

use isthmus_api::Failure;
use isthmus_identity::TokenGrant;
use isthmus_model::{Position, ResourceKey};
use isthmus_wire::proto;
use isthmus_world::{Store, StoreImage};
use serde::Serialize;
use serde_json::{Value, json};

use super::objects::Stored;
use super::{Action, ConnectionId, Core, PeerSessionId, RequestId};

/// What a request is answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// An HTTP status and a JSON body.
    Json {
        code: u16,
        body: Value,
    },
    /// Lines follow, one for each event.
    Watching,
    Done,
    Granted(TokenGrant),
    TokenRefused(String),
    Proxies(Vec<ConnectionId>),
    Backup(Backup),
    Renewals(Renewals),
}

/// The processes that are connected, by what they hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Renewals {
    pub renewed: usize,
    /// Those that are still to, by name.
    pub waiting: Vec<String>,
}

/// What the store held at one moment, made ready to start from.
#[derive(Debug, Clone)]
pub struct Backup {
    pub image: Arc<dyn StoreImage>,
    /// Where config stood.
    pub position: Position,
    pub taken: SystemTime,
}

impl PartialEq for Backup {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.image, &other.image)
    }
}

/// Who waits.
#[derive(Debug, Clone, Copy)]
pub(super) enum ReplyTo {
    Request(RequestId),
    /// Another control plane, with the number of its question.
    Peer(PeerSessionId, u64),
}

/// What is said when the store has what was asked for.
#[derive(Debug)]
pub(super) enum Held {
    Ready(Answer),
    /// The object as it was written there.
    Object {
        code: u16,
        key: ResourceKey,
        written: Box<(Position, Stored)>,
    },
}

impl Answer {
    pub(super) fn view(view: &impl Serialize) -> Self {
        match serde_json::to_value(view) {
            Ok(body) => Self::Json { code: 200, body },
            Err(error) => Failure::internal(error.to_string()).into(),
        }
    }

    /// The object is gone, since `position`.
    pub(super) fn deleted(key: &ResourceKey, position: Position) -> Self {
        Self::Json {
            code: 200,
            body: json!({
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {"resourceVersion": position.to_string()},
                "status": "Success",
                "details": {"name": key.name.as_str(), "kind": key.kind.plural()},
                "code": 200,
            }),
        }
    }
}

impl From<Failure> for Answer {
    fn from(failure: Failure) -> Self {
        let code = failure.code;
        let body = serde_json::to_value(failure).unwrap_or_default();
        Self::Json { code, body }
    }
}

impl<S: Store> Core<S> {
    pub(super) fn hold(&mut self, reply_to: ReplyTo, held: Held) {
        self.held.push((reply_to, held));
    }

    /// Says at once what waits for nothing.
    pub(super) fn reply(&mut self, reply_to: ReplyTo, answer: Answer) {
        match reply_to {
            ReplyTo::Request(id) => self.answer(id, answer),
            ReplyTo::Peer(session, question) => {
                let Answer::Json { code, body } = answer else {
                    return; // Peers ask for nothing else.
                };
                let answer = proto::PeerAnswer {
                    id: question,
                    status: code.into(),
                    body: body.to_string().into(),
                };
                self.send_to_peer(session, proto::peer_frame::Frame::Answer(answer));
            }
        }
    }

    /// Everything that was asked for is saved.
    pub(super) fn release(&mut self) {
        for (reply_to, held) in std::mem::take(&mut self.held) {
            let answer = match held {
                Held::Ready(answer) => answer,
                Held::Object { code, key, written } => self.show_answer(code, &key, &written),
            };
            self.reply(reply_to, answer);
        }
    }

    /// It could not be saved, and may have been saved all the same.
    pub(super) fn refuse(&mut self, who: Vec<ReplyTo>, error: &str) {
        let message = format!(
            "the store of cluster {} failed, so nothing was accepted for certain: {error}. \
             Look whether the change is there before you repeat it",
            self.settings.cluster
        );
        for reply_to in who {
            self.reply(reply_to, Failure::internal(message.clone()).into());
        }
    }

    /// Somebody may have written it again already: then without what is known of it, such as its status.
    fn show_answer(
        &mut self,
        code: u16,
        key: &ResourceKey,
        (position, stored): &(Position, Stored),
    ) -> Answer {
        let is_it = |(shown, _): &(Position, Stored)| shown == position;
        let shown = self.objects.get(key).is_some_and(is_it);
        let shown = shown.then(|| self.show(key)).flatten();
        let body = shown.unwrap_or_else(|| stored.show_of(&key.origin, *position));
        Answer::Json { code, body }
    }

    pub(super) fn send_to_peer(&mut self, session: PeerSessionId, frame: proto::peer_frame::Frame) {
        let frame = proto::PeerFrame { frame: Some(frame) };
        self.actions.push(Action::ToPeer { session, frame });
    }
}
