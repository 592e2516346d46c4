//! Traffic policies: how requests to a service behave.

use std::time::Duration;

use crate::{CookieName, HeaderName, Namespace, ObjectName, Origin, ServiceName};

/// A whole percentage, 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u8);

/// The number is above 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is above 100 percent")]
pub struct PercentError(pub u64);

impl Percent {
    pub const HALF: Self = Self(50);

    pub fn new(value: u64) -> Result<Self, PercentError> {
        match u8::try_from(value) {
            Ok(percent) if percent <= 100 => Ok(Self(percent)),
            _ => Err(PercentError(value)),
        }
    }

    pub fn value(self) -> u8 {
        self.0
    }

    /// 0.0 to 1.0.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

/// What a policy attaches to (GEP-713), widest first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    Mesh,
    Namespace(Namespace),
    Service(ServiceName),
    Route {
        namespace: Namespace,
        name: ObjectName,
    },
}

impl Target {
    /// `None`: it is of the whole mesh.
    pub fn namespace(&self) -> Option<&Namespace> {
        match self {
            Self::Mesh => None,
            Self::Service(service) => Some(&service.namespace),
            Self::Namespace(namespace) | Self::Route { namespace, .. } => Some(namespace),
        }
    }
}

/// One TrafficPolicy: only what it sets is `Some`. Which of several decides on a field is the order of
/// `route::settings`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrafficPolicy {
    pub origin: Origin,
    pub namespace: Namespace,
    pub name: ObjectName,
    pub targets: Vec<Target>,
    /// What it sets, no narrower policy and no route can set otherwise.
    pub enforced: bool,
    pub algorithm: Option<Algorithm>,
    pub hash_on: Option<HashOn>,
    pub locality_order: Option<LocalityOrder>,
    pub retry_attempts: Option<u32>,
    pub retry_budget: Option<Percent>,
    pub retry_on: Option<Vec<RetryOn>>,
    pub hedge: Option<bool>,
    pub request_timeout: Option<Duration>,
    pub per_try_timeout: Option<Duration>,
    pub connect_timeout: Option<Duration>,
    pub idle_timeout: Option<Duration>,
    pub max_connections: Option<u32>,
    pub max_pending: Option<u32>,
    pub max_requests: Option<u32>,
    pub consecutive_errors: Option<u32>,
    pub base_ejection: Option<Duration>,
    pub max_ejected: Option<Percent>,
    pub panic: Option<Percent>,
    pub health_check: Option<HealthCheck>,
}

impl TrafficPolicy {
    /// One that sets nothing.
    pub fn empty(namespace: Namespace, name: ObjectName, targets: Vec<Target>) -> Self {
        Self {
            origin: Origin::Mesh,
            namespace,
            name,
            targets,
            enforced: false,
            algorithm: None,
            hash_on: None,
            locality_order: None,
            retry_attempts: None,
            retry_budget: None,
            retry_on: None,
            hedge: None,
            request_timeout: None,
            per_try_timeout: None,
            connect_timeout: None,
            idle_timeout: None,
            max_connections: None,
            max_pending: None,
            max_requests: None,
            consecutive_errors: None,
            base_ejection: None,
            max_ejected: None,
            panic: None,
            health_check: None,
        }
    }
}

/// What holds for a (service, route) after all policies that reach it were merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrafficSettings {
    pub algorithm: Algorithm,
    /// For the algorithms that hash.
    pub hash_on: HashOn,
    pub locality_order: LocalityOrder,
    pub retry: RetrySettings,
    pub timeout: TimeoutSettings,
    pub limits: LimitSettings,
    pub outlier: OutlierSettings,
    pub health_check: HealthCheck,
}

/// How one of several workloads is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Power of two choices on peak-EWMA latency times requests in flight.
    PeakEwma,
    RoundRobin,
    LeastRequest,
    /// The same key, the same workload: points on a ring. Leaving moves only the keys of who leaves.
    RingHash,
    /// The same by a table, more even: leaving moves a few other keys, too.
    Maglev,
}

impl Algorithm {
    pub const ALL: [Self; 5] = [
        Self::PeakEwma,
        Self::RoundRobin,
        Self::LeastRequest,
        Self::RingHash,
        Self::Maglev,
    ];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PeakEwma => "PeakEWMA",
            Self::RoundRobin => "RoundRobin",
            Self::LeastRequest => "LeastRequest",
            Self::RingHash => "RingHash",
            Self::Maglev => "Maglev",
        }
    }
}

/// What of a request is the key of `RingHash` and `Maglev`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HashOn {
    /// The value of this header.
    Header(HeaderName),
    /// The value of the cookie of this name. `ttl`: a client that has none is given one that lasts so
    /// long, or, with zero, until the client ends; `None`: it is not.
    Cookie {
        name: CookieName,
        ttl: Option<Duration>,
    },
    /// Who asks: the client's address.
    Source,
}

/// Which clusters are tried first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LocalityOrder {
    /// The caller's own cluster, then the others by measured round-trip time.
    Nearest,
    /// The caller's own cluster only.
    LocalOnly,
}

impl LocalityOrder {
    pub const ALL: [Self; 2] = [Self::Nearest, Self::LocalOnly];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nearest => "Nearest",
            Self::LocalOnly => "LocalOnly",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetrySettings {
    /// Tries after the first of which something was sent; 0 switches retries off.
    pub attempts: u32,
    /// Retries allowed on top of the requests of any second.
    pub budget: Percent,
    pub on: Vec<RetryOn>,
    /// Send a request once more, elsewhere, when its reply takes longer than most.
    pub hedge: bool,
}

/// What makes a try worth repeating.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RetryOn {
    /// No connection could be made.
    ConnectFailure,
    /// The far side refused the request before its program saw it.
    Refused,
    /// The connection ended before the reply was complete.
    Reset,
    /// 502, 503 or 504.
    GatewayError,
    /// A call of gRPC ended as UNAVAILABLE. Whoever lists it says that this is safe to repeat, whatever
    /// the method.
    Unavailable,
}

impl RetryOn {
    pub const ALL: [Self; 5] = [
        Self::ConnectFailure,
        Self::Refused,
        Self::Reset,
        Self::GatewayError,
        Self::Unavailable,
    ];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConnectFailure => "ConnectFailure",
            Self::Refused => "Refused",
            Self::Reset => "Reset",
            Self::GatewayError => "GatewayError",
            Self::Unavailable => "Unavailable",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeoutSettings {
    /// Overall; zero: none.
    pub request: Duration,
    /// A route's own does not replace it.
    pub request_is_enforced: bool,
    /// One try; zero: as `request`.
    pub per_try: Duration,
    /// As `request_is_enforced`.
    pub per_try_is_enforced: bool,
    pub connect: Duration,
    /// A TCP connection, or one that was upgraded, that carries nothing; zero: none.
    pub idle: Duration,
}

/// What one caller may have under way at a time to the workloads of one cluster; `None`: no limit but
/// what is learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LimitSettings {
    /// TCP connections.
    pub connections: Option<u32>,
    /// Requests and connections that wait for a way there.
    pub pending: Option<u32>,
    /// Requests of HTTP.
    pub requests: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlierSettings {
    /// Failures in a row that eject a workload; 0 switches ejection off, of whatever cause.
    pub consecutive_errors: u32,
    /// Length of the first ejection; each further one lasts that much longer.
    pub base_ejection: Duration,
    pub max_ejected: Percent,
    /// If a smaller share of the workloads is usable than this, all are used; 0: never.
    pub panic: Percent,
}

/// How a proxy checks the program beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    pub probe: HealthProbe,
    pub interval: Duration,
    pub timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthProbe {
    /// Connecting is enough.
    Tcp,
    /// GET on this path answers 200 to 399.
    Http { path: String },
    /// The gRPC health checking protocol says SERVING of this service; empty: of the program.
    Grpc { service: String },
}

impl Default for TrafficSettings {
    /// The built-in defaults, listed in docs/reference.
    fn default() -> Self {
        Self {
            algorithm: Algorithm::PeakEwma,
            hash_on: HashOn::Source,
            locality_order: LocalityOrder::Nearest,
            retry: RetrySettings {
                attempts: 2,
                budget: Percent(20),
                on: vec![
                    RetryOn::ConnectFailure,
                    RetryOn::Refused,
                    RetryOn::Reset,
                    RetryOn::GatewayError,
                ],
                hedge: false,
            },
            timeout: TimeoutSettings {
                request: Duration::from_secs(15),
                request_is_enforced: false,
                per_try: Duration::ZERO,
                per_try_is_enforced: false,
                connect: Duration::from_secs(1),
                idle: Duration::from_hours(1),
            },
            limits: LimitSettings::default(),
            outlier: OutlierSettings {
                consecutive_errors: 5,
                base_ejection: Duration::from_secs(5),
                max_ejected: Percent(50),
                panic: Percent(0),
            },
            health_check: HealthCheck {
                probe: HealthProbe::Tcp,
                interval: Duration::from_secs(1),
                timeout: Duration::from_secs(1),
            },
        }
    }
}
