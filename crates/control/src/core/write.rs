//! What a write of config is.

use isthmus_model::{ClusterName, Origin, Position, ResourceKey};
use serde_json::Value;

use super::answer::ReplyTo;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Create,
    Update,
    Delete,
}

/// One write, as the API was asked.
#[derive(Debug, Clone)]
pub struct Write {
    /// The name of the user's token.
    pub author: String,
    pub verb: Verb,
    pub key: ResourceKey,
    /// `None` for a delete only, unless it is conditional: then just the version that it is about.
    pub object: Option<Value>,
    /// Say what would happen, and do nothing.
    pub dry_run: bool,
}

/// A write, on its way to whoever leads.
#[derive(Debug)]
pub(super) struct Submitted {
    /// It is recorded with the change, so that it is made once however often it is asked for.
    pub(super) request: String,
    /// Where config stood here when it was asked first.
    pub(super) since: Position,
    /// It was asked before, and may have been accepted.
    pub(super) is_in_doubt: bool,
    pub(super) reply_to: ReplyTo,
    pub(super) write: Write,
    /// Through whose API it was asked for.
    pub(super) source: ClusterName,
    /// A voter has handed it on already.
    pub(super) is_relayed: bool,
}

impl Submitted {
    /// Is another member of the authority asked, when one does not answer?
    pub(super) fn is_pursued(&self) -> bool {
        !self.is_relayed && self.write.key.origin == Origin::Mesh
    }
}

impl Verb {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::Create, Self::Update, Self::Delete]
            .into_iter()
            .find(|verb| verb.as_str() == text)
    }

    /// HTTP status of the verb's success.
    pub(super) fn code(self) -> u16 {
        match self {
            Self::Create => 201,
            Self::Update | Self::Delete => 200,
        }
    }
}
