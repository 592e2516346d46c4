//! Asking for another protocol instead of HTTP, in whichever version of HTTP, and being answered.

use bytes::Bytes;
use isthmus_codec::http1::{RequestHead, ResponseHead, websocket_accept, websocket_key};
use isthmus_model::AppProtocol;

use super::{HttpError, upgradable};

const KEY: &str = "sec-websocket-key";
const ACCEPT: &str = "sec-websocket-accept";

/// What is asked for instead of HTTP, and how.
pub(crate) struct Asked {
    protocol: String,
    /// The client's key, if its version of HTTP has one.
    given: Option<Bytes>,
    /// Ours, for a program that needs one.
    made: Option<String>,
    is_head: bool,
}

impl Asked {
    /// Says it in the version that the program speaks. `None`: nothing is asked for. `draw`: chance.
    pub(crate) fn of(
        wanted: &Bytes,
        speaks: AppProtocol,
        mut draw: impl FnMut() -> u64,
        head: &mut RequestHead,
    ) -> Option<Self> {
        // A peer may ask for what a client of its own proxy could not.
        let upgrade = upgradable(wanted)?;
        let mut asked = Self {
            protocol: String::from_utf8_lossy(&upgrade).into_owned(),
            given: head.fields.find(KEY).cloned(),
            made: None,
            is_head: head.method == b"HEAD"[..],
        };
        if speaks == AppProtocol::Http2 {
            // RFC 8441 section 5.1: neither is used there.
            head.fields.remove(KEY);
            return Some(asked);
        }
        // All of these are values of fields.
        let _ = head.fields.push("connection", "upgrade");
        let _ = head.fields.push("upgrade", upgrade.clone());
        if asked.given.is_none() && upgrade.eq_ignore_ascii_case(b"websocket") {
            let nonce = u128::from(draw()) << 64 | u128::from(draw());
            let key = websocket_key(nonce.to_be_bytes());
            let _ = head.fields.push(KEY, key.clone());
            asked.made = Some(key);
        }
        Some(asked)
    }

    pub(crate) fn protocol(&self) -> &str {
        &self.protocol
    }

    pub(crate) fn is_head(&self) -> bool {
        self.is_head
    }

    /// Has the program agreed? Then the head is made the one of HTTP/1.1 by which it would have.
    pub(crate) fn agreed(
        &self,
        is_http2: bool,
        head: &mut ResponseHead,
    ) -> Result<bool, HttpError> {
        if is_http2 {
            let agreed = (200..300).contains(&head.status);
            if agreed {
                head.status = 101;
                // The protocol was the value of a field before, the answer to a key is plain text.
                let _ = head.fields.push("upgrade", self.protocol.clone());
                if let Some(key) = &self.given {
                    let _ = head.fields.push(ACCEPT, websocket_accept(key));
                }
            }
            return Ok(agreed);
        }
        let asked = |protocol: &[u8]| {
            let mut asked = self.protocol.as_bytes().split(|&byte| byte == b',');
            asked.any(|asked| asked.trim_ascii().eq_ignore_ascii_case(protocol))
        };
        if head.status == 101 && !head.fields.members("upgrade").all(asked) {
            return Err(HttpError::Unasked);
        }
        if let (101, Some(key)) = (head.status, &self.made) {
            let accept = head.fields.find(ACCEPT);
            if accept.is_none_or(|accept| *accept != websocket_accept(key.as_bytes())) {
                return Err(HttpError::NotWebSocket);
            }
        }
        Ok(head.status == 101)
    }
}
