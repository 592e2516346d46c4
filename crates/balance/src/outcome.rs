//! How one try ended, as the caller's proxy saw it.

/// One ended try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A whole reply. `retry_unwanted`: the far side asked not to be tried again.
    Replied { status: u16, retry_unwanted: bool },
    /// No connection in time, or none left to send on: nothing was sent.
    ConnectFailed,
    /// The far side said that no program saw the request.
    Refused { retry_unwanted: bool },
    /// The far side had more to do than it can, and turned the request away before its program saw it.
    Shed,
    /// The connection was closing and the request was beyond the last one it took (GOAWAY): no
    /// program saw it, and nobody is to blame.
    Drained,
    /// The far side cut it off before the reply was complete.
    Reset,
    /// The connection ended, or was found dead, before the reply was complete: the place is gone, and
    /// nothing else can be sent there on it.
    Lost,
    /// The time of the try, or of the whole request, is over.
    TimedOut,
    /// The application that asked went away.
    Cancelled,
}

/// What an outcome says about the place it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    Success,
    Failure,
    /// Nothing.
    Neutral,
}

impl Outcome {
    /// Replies of 500, 502, 503 and 504 are failures: they say that the server, not the request, is
    /// at fault (RFC 9110 section 15.6). 501 and 505 are about the request.
    pub fn evidence(self) -> Evidence {
        match self {
            Self::Replied {
                status: 500 | 502..=504,
                ..
            } => Evidence::Failure,
            Self::Replied { .. } => Evidence::Success,
            Self::ConnectFailed
            | Self::Refused { .. }
            | Self::Reset
            | Self::Lost
            | Self::TimedOut => Evidence::Failure,
            // Who is busy is not broken: where to go next is the limits' business.
            Self::Drained | Self::Shed | Self::Cancelled => Evidence::Neutral,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_to_blame() {
        let replied = |status| Outcome::Replied {
            status,
            retry_unwanted: false,
        };
        for (outcome, expect) in [
            (replied(200), Evidence::Success),
            (replied(404), Evidence::Success),
            (replied(500), Evidence::Failure),
            (replied(501), Evidence::Success),
            (replied(502), Evidence::Failure),
            (replied(503), Evidence::Failure),
            (replied(504), Evidence::Failure),
            (replied(505), Evidence::Success),
            (Outcome::ConnectFailed, Evidence::Failure),
            (
                Outcome::Refused {
                    retry_unwanted: false,
                },
                Evidence::Failure,
            ),
            (Outcome::Reset, Evidence::Failure),
            (Outcome::Lost, Evidence::Failure),
            (Outcome::TimedOut, Evidence::Failure),
            (Outcome::Drained, Evidence::Neutral),
            (Outcome::Shed, Evidence::Neutral),
            (Outcome::Cancelled, Evidence::Neutral),
        ] {
            assert_eq!(outcome.evidence(), expect, "{outcome:?}");
        }
    }
}
