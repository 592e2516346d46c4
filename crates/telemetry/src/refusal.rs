//! Every reason for which the mesh itself, and not the application, ends a request.
//!
//! The list is closed: a reason that is not here cannot be given. `proxy` renders them; metrics,
//! access log and documentation use the same codes.

use std::fmt;

/// Who has to act so that it does not happen again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The request is wrong.
    Caller,
    /// What was declared does not allow it.
    Configuration,
    /// The mesh could not do what it promises.
    Mesh,
    /// The workload that was called.
    Destination,
}

impl Fault {
    pub fn name(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Configuration => "configuration",
            Self::Mesh => "mesh",
            Self::Destination => "destination",
        }
    }
}

/// May the caller send the same request again?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retry {
    /// It never reached the application: yes, whatever its method.
    Safe,
    /// It may have been executed: only if executing it twice does no harm.
    IfIdempotent,
    /// The answer would be the same.
    Pointless,
}

impl Retry {
    pub fn name(self) -> &'static str {
        match self {
            Self::Safe => "safe",
            Self::IfIdempotent => "if idempotent",
            Self::Pointless => "pointless",
        }
    }
}

struct Row {
    code: &'static str,
    status: u16,
    fault: Fault,
    retry: Retry,
    meaning: &'static str,
    advice: &'static str,
}

macro_rules! reasons {
    ($($variant:ident: $code:literal, $status:literal, $fault:ident, $retry:ident,
       $meaning:literal, $advice:literal;)*) => {
        /// Why the mesh ended a request. The code goes into `x-isthmus-refusal`, the JSON body,
        /// the metrics and the access log.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum RefusalReason {
            $(#[doc = $meaning] $variant,)*
        }

        impl RefusalReason {
            /// Every reason, in the order of the reference page.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            fn row(self) -> Row {
                match self {
                    $(Self::$variant => Row {
                        code: $code,
                        status: $status,
                        fault: Fault::$fault,
                        retry: Retry::$retry,
                        meaning: $meaning,
                        advice: $advice,
                    },)*
                }
            }
        }
    };
}

reasons! {
    MalformedRequest: "malformed-request", 400, Caller, Pointless,
        "The request breaks the rules of HTTP/1.1 (RFC 9112) or could be read in two ways.",
        "Look at what the client sends; the body of the reply says what is wrong with it.";
    UriTooLong: "uri-too-long", 414, Caller, Pointless,
        "The request line is longer than a proxy accepts.",
        "Send what is long in a body: 8 KiB of method, target and version are allowed.";
    HeadTooLarge: "head-too-large", 431, Caller, Pointless,
        "Request line and headers together are larger than a proxy accepts, or the headers are too many.",
        "Send fewer or smaller headers, 64 KiB and 128 at most; often a cookie has grown.";
    ClientTooSlow: "client-too-slow", 408, Caller, Pointless,
        "The client began a request and did not go on with it in time.",
        "Send the whole head within ten seconds, and some of the body at least once a minute.";
    HttpVersionNotSupported: "http-version-not-supported", 505, Caller, Pointless,
        "The client speaks a version of HTTP that this listener does not.",
        "Let the client speak HTTP/1.1.";
    UpgradeNotSupported: "upgrade-not-supported", 501, Caller, Pointless,
        "The client asked for a tunnel or another protocol where there can be none.",
        "WebSocket needs a program that takes it, by Upgrade (`appProtocol: http`) or by extended CONNECT (`http2`); any other CONNECT, a client of HTTP/1.1.";
    ForeignDestination: "foreign-destination", 403, Caller, Pointless,
        "The host ends like the names of services and is none, or is no host at all.",
        "Call <service>.<namespace>.mesh, or a host as a URL has it.";
    OutsideDenied: "outside-denied", 403, Configuration, Pointless,
        "The host is outside the mesh, and the mesh lets no program out.",
        "Call <service>.<namespace>.mesh; or set `egress: Allow` in the Mesh, or put the host into the client's NO_PROXY.";
    NoSuchService: "no-such-service", 404, Configuration, Pointless,
        "The control plane knows no service of this name.",
        "Check the name with `isthmus get services`; declare the service if it is new.";
    UnknownPort: "unknown-port", 404, Configuration, Pointless,
        "The service exists and has no such port.",
        "Use a port that `isthmus describe service/<name>` shows, or declare this one.";
    NoRoute: "no-route", 404, Configuration, Pointless,
        "The service has routes and none of their rules matches the request.",
        "See with `isthmus explain` which rules were tried; add a rule that matches.";
    NoBackend: "no-backend", 500, Configuration, Pointless,
        "The rule that matched has no backend to send to.",
        "Give the rule a backendRef whose weight is not zero.";
    NotExported: "not-exported", 403, Configuration, Pointless,
        "The service runs only in other clusters and is not exported from them.",
        "Create a ServiceExport of the service's name and namespace.";
    NotAuthorized: "not-authorized", 403, Configuration, Pointless,
        "The caller's identity may not make this request.",
        "See with `isthmus explain` which policy decided; change the policy or the caller.";
    NoIdentity: "no-identity", 503, Mesh, Safe,
        "This proxy has no valid certificate to speak with.",
        "Is its cluster's control plane running? `isthmus check` says why it could not renew.";
    NotKnownYet: "not-known-yet", 503, Mesh, Safe,
        "The control plane has not answered yet whether this service exists.",
        "Try again; if it stays, look whether the proxy reaches its control plane.";
    SnapshotRefused: "snapshot-refused", 503, Mesh, Safe,
        "This proxy may not use its saved snapshot and has not reached its control plane since.",
        "Start the control plane; isthmus_snapshot_refused_total names the reason.";
    NoHealthyWorkload: "no-healthy-workload", 503, Destination, Safe,
        "Every workload that the request may go to, in every cluster, is unhealthy or gone.",
        "See `isthmus describe service/<name>`; look at the program's health check and logs.";
    Overloaded: "overloaded", 503, Mesh, Safe,
        "A limit on requests or memory was reached before the request was sent on.",
        "Slow down or add workloads; the reply says which limit.";
    Draining: "draining", 503, Mesh, Safe,
        "The proxy is stopping and takes nothing new.",
        "Try again on a new connection.";
    ConnectFailed: "connect-failed", 503, Destination, Safe,
        "No connection to the chosen workload, nor to another one within the allowed attempts; or none to a host outside.",
        "Check that the program listens on its declared port and that the gateways are up; of a host outside, that its name is known.";
    ConnectTimeout: "connect-timeout", 504, Destination, Safe,
        "Connecting took longer than timeout.connect; to a host outside, than five seconds.",
        "Look for a link or a firewall that swallows packets; `isthmus check` tests the links.";
    PeerNotVerified: "peer-not-verified", 502, Destination, Safe,
        "The workload that answered could not prove that it may be this service.",
        "isthmus_tls_refused_total names the reason; check the service's declared accounts.";
    RequestTimeout: "request-timeout", 504, Destination, IfIdempotent,
        "No complete reply within timeout.request, or nothing of a stream within timeout.idle.",
        "Raise the timeout or make the service faster; it may still be executing the request.";
    MaybeExecuted: "maybe-executed", 502, Destination, IfIdempotent,
        "The connection was lost after the request had been handed over; whether it was executed is unknown.",
        "Ask the service whether it was done before sending it again.";
    UpstreamReset: "upstream-reset", 502, Destination, IfIdempotent,
        "The workload broke off in the middle of its reply.",
        "Look at the program's logs; x-isthmus-at and the access log name the workload.";
    BadUpstreamReply: "bad-upstream-reply", 502, Destination, IfIdempotent,
        "The workload answered with something that is not HTTP.",
        "Check that the declared port is the program's HTTP port.";
    LoopDetected: "loop-detected", 508, Configuration, Pointless,
        "The request passed more proxies or gateways than any lawful path has.",
        "Look for a route or a program that sends requests back to where they came from.";
}

impl RefusalReason {
    /// The stable code, such as `no-route`.
    pub fn code(self) -> &'static str {
        self.row().code
    }

    /// The reason of a code, as another proxy sent it; `None` for one this version does not know.
    pub fn find(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|r| r.code() == code)
    }

    /// HTTP status (RFC 9110 section 15; 431: RFC 6585, 508: RFC 5842).
    pub fn status(self) -> u16 {
        self.row().status
    }

    pub fn fault(self) -> Fault {
        self.row().fault
    }

    pub fn retry(self) -> Retry {
        self.row().retry
    }

    /// One sentence: what happened.
    pub fn meaning(self) -> &'static str {
        self.row().meaning
    }

    /// One sentence: what to do about it.
    pub fn advice(self) -> &'static str {
        self.row().advice
    }
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_well_formed() {
        for &reason in RefusalReason::ALL {
            let code = reason.code();
            assert_eq!(RefusalReason::find(code), Some(reason), "{code} names two");
            assert!(
                code.chars().all(|c| c.is_ascii_lowercase() || c == '-'),
                "{code}"
            );
            assert!((400..600).contains(&reason.status()), "{code}");
            assert!(reason.meaning().ends_with('.'), "{code}");
            assert!(reason.advice().ends_with('.'), "{code}");
        }
        assert_eq!(RefusalReason::find("no-such-reason"), None);
    }

    /// A client may repeat at will what it is told is safe, so that must not be said lightly.
    #[test]
    fn what_may_have_been_executed_is_never_safe_to_repeat() {
        let unsure = [
            RefusalReason::MaybeExecuted,
            RefusalReason::RequestTimeout,
            RefusalReason::UpstreamReset,
            RefusalReason::BadUpstreamReply,
        ];
        for &reason in RefusalReason::ALL {
            let expect = unsure.contains(&reason);
            assert_eq!(reason.retry() == Retry::IfIdempotent, expect, "{reason}");
        }
    }
}
