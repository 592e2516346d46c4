//! What is measured: every figure, and who takes part in it by which way.
//!
//! Here a figure is added, or somebody to one.

use crate::load::{Held, Load, Pace, Size};

/// Whoever carries requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    Isthmus,
    /// Two workers in each proxy.
    IsthmusWide,
    IsthmusCross,
    HaproxyHttp2,
    HaproxyHttp1,
    HaproxyTcp,
    Nginx,
    Envoy,
}

/// Software that is run as a pair of processes of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    Nginx,
    Haproxy,
    Envoy,
}

/// A way through somebody.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entrant {
    pub(crate) who: Who,
    /// Where it takes the client's connections.
    pub(crate) port: u16,
    /// The name that the client asks for; only the mesh looks at it.
    pub(crate) host: &'static str,
    pub(crate) passes: Passes,
}

/// What stands on a way, apart from the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passes {
    /// The caller's proxy alone: a plain hop.
    Caller,
    /// Both proxies, and the gateway if there is one.
    All,
    /// The callee's proxy alone, and no program: the way ends there.
    Callee,
}

/// Something to be measured.
#[derive(Debug)]
pub(crate) struct Figure {
    /// As it is asked for.
    pub(crate) name: &'static str,
    /// For people.
    pub(crate) title: &'static str,
    pub(crate) load: Load,
    pub(crate) connections: &'static [usize],
    pub(crate) entrants: &'static [Entrant],
}

/// Everything that is run, in this order.
pub(crate) const FIGURES: &[Figure] = &[
    Figure {
        name: "hop",
        title: "plain hop, HTTP/1.1",
        load: Load::Http1 { size: Size::Small },
        connections: &[1, 16, 64, 256],
        entrants: &[
            Entrant {
                passes: Passes::Caller,
                ..mesh(Who::Isthmus, OUTSIDE)
            },
            hop(Who::Nginx, 8000),
            hop(Who::HaproxyHttp1, 8000),
            hop(Who::Envoy, 8000),
        ],
    },
    Figure {
        name: "pair-http1",
        title: "mutual-TLS pair, HTTP/1.1 client",
        load: Load::Http1 { size: Size::Small },
        connections: &[1, 16, 64, 256],
        entrants: HTTP1_PAIRS,
    },
    Figure {
        name: "pair-http1-64k",
        title: "mutual-TLS pair, HTTP/1.1 client, bodies of 64 KiB",
        load: Load::Http1 { size: Size::Large },
        connections: &[1, 64],
        entrants: HTTP1_PAIRS,
    },
    Figure {
        name: "pair-http2",
        title: "mutual-TLS pair, HTTP/2 client, 16 requests at a time on each connection",
        load: Load::Http2,
        connections: &[1, 4, 16],
        entrants: &[
            mesh(Who::Isthmus, "near.bench.mesh:81"),
            pair(Who::HaproxyHttp2, 8003),
            pair(Who::Envoy, 8003),
        ],
    },
    Figure {
        name: "pair-grpc",
        title: "mutual-TLS pair, gRPC client, 16 calls at a time on each connection",
        load: Load::Grpc,
        connections: &[1, 4, 16],
        entrants: &[
            mesh(Who::Isthmus, "near.bench.mesh:82"),
            pair(Who::HaproxyHttp2, 8003),
            pair(Who::Envoy, 8003),
        ],
    },
    Figure {
        name: "bulk",
        title: "bytes through a mutual-TLS pair",
        load: Load::Bulk,
        connections: &[1, 16],
        entrants: TCP_PAIRS,
    },
    Figure {
        name: "new-http1",
        title: "new client connection through a mutual-TLS pair, one request of HTTP/1.1 on each",
        load: Load::Http1Once,
        connections: &[16],
        entrants: HTTP1_PAIRS,
    },
    Figure {
        name: "new-tcp",
        title: "new client connection through a mutual-TLS pair, 1 KiB of bytes on each",
        load: Load::TcpOnce,
        connections: &[16],
        entrants: TCP_PAIRS,
    },
    Figure {
        name: "handshake",
        title: "full mutual-TLS handshake by X25519MLKEM768, callee's proxy alone",
        load: Load::Handshake,
        connections: &[8],
        entrants: CALLEES,
    },
    Figure {
        name: "latency",
        title: "latency of a mutual-TLS pair at 2,000 requests of HTTP/1.1 per second",
        load: Load::Paced(Pace::PerSecond(2000)),
        connections: &[0],
        entrants: HTTP1_PAIRS,
    },
    Figure {
        name: "latency-half",
        title: "latency of a mutual-TLS pair at half of what the slowest sustains, HTTP/1.1",
        load: Load::Paced(Pace::HalfOfSlowest),
        connections: &[0],
        entrants: HTTP1_PAIRS,
    },
    Figure {
        name: "memory-idle",
        title: "resident memory of a proxy that was just started",
        load: Load::Memory(Held::Nothing),
        connections: &[0],
        entrants: PROCESSES,
    },
    Figure {
        name: "memory-active",
        title: "resident memory of a proxy at work, HTTP/1.1",
        load: Load::Memory(Held::Active),
        connections: &[256, 1000],
        entrants: PROCESSES,
    },
    Figure {
        name: "memory-clients",
        title: "resident memory of a proxy with idle clients of HTTP/1.1",
        load: Load::Memory(Held::Clients),
        connections: &[10_000],
        // HAProxy takes no more than half as many as it may have descriptors.
        entrants: &[
            mesh(Who::Isthmus, "near.bench.mesh"),
            pair(Who::Nginx, 8001),
            pair(Who::Envoy, 8002),
        ],
    },
    Figure {
        name: "memory-sessions",
        title: "resident memory of a callee's proxy with idle sessions of mutual TLS",
        load: Load::Memory(Held::Sessions),
        connections: &[2000],
        entrants: CALLEES,
    },
    Figure {
        name: "cross-cluster",
        title: "into another cluster, HTTP/1.1 client",
        load: Load::Http1 { size: Size::Small },
        connections: &[1, 16, 64, 256],
        entrants: &[
            mesh(Who::Isthmus, "near.bench.mesh"),
            mesh(Who::IsthmusCross, "far.bench.mesh"),
        ],
    },
    Figure {
        name: "workers",
        title: "mutual-TLS pair, HTTP/1.1 client, one worker in each proxy and two",
        load: Load::Http1 { size: Size::Small },
        connections: &[64],
        entrants: &[
            mesh(Who::Isthmus, "near.bench.mesh"),
            mesh(Who::IsthmusWide, "wide.bench.mesh"),
        ],
    },
];

const HTTP1_PAIRS: &[Entrant] = &[
    mesh(Who::Isthmus, "near.bench.mesh"),
    pair(Who::HaproxyHttp2, 8002),
    pair(Who::HaproxyHttp1, 8001),
    pair(Who::Nginx, 8001),
    pair(Who::Envoy, 8002),
];

/// Nobody's processes twice.
const PROCESSES: &[Entrant] = &[
    mesh(Who::Isthmus, "near.bench.mesh"),
    pair(Who::HaproxyHttp2, 8002),
    pair(Who::Nginx, 8001),
    pair(Who::Envoy, 8002),
];

const CALLEES: &[Entrant] = &[
    Entrant {
        port: 15008,
        passes: Passes::Callee,
        ..mesh(Who::Isthmus, "")
    },
    Entrant {
        passes: Passes::Callee,
        ..pair(Who::Envoy, 9005)
    },
];

const TCP_PAIRS: &[Entrant] = &[
    Entrant {
        port: 7000,
        ..mesh(Who::Isthmus, "")
    },
    pair(Who::HaproxyTcp, 8004),
    pair(Who::Nginx, 8004),
    pair(Who::Envoy, 8004),
];

/// The program of the peers, which to the mesh is outside of it.
const OUTSIDE: &str = "127.0.7.1:8080";

const fn mesh(who: Who, host: &'static str) -> Entrant {
    Entrant {
        who,
        port: 15001,
        host,
        passes: Passes::All,
    }
}

const fn pair(who: Who, port: u16) -> Entrant {
    Entrant {
        who,
        port,
        host: "near.bench.mesh",
        passes: Passes::All,
    }
}

const fn hop(who: Who, port: u16) -> Entrant {
    Entrant {
        passes: Passes::Caller,
        ..pair(who, port)
    }
}

impl Who {
    pub(crate) const ALL: [Self; 8] = [
        Self::Isthmus,
        Self::IsthmusWide,
        Self::IsthmusCross,
        Self::HaproxyHttp2,
        Self::HaproxyHttp1,
        Self::HaproxyTcp,
        Self::Nginx,
        Self::Envoy,
    ];

    /// As it is asked for.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Isthmus => "isthmus",
            Self::IsthmusWide => "isthmus-wide",
            Self::IsthmusCross => "isthmus-cross",
            Self::HaproxyHttp2 => "haproxy-http2",
            Self::HaproxyHttp1 => "haproxy-http1",
            Self::HaproxyTcp => "haproxy-tcp",
            Self::Nginx => "nginx",
            Self::Envoy => "envoy",
        }
    }

    /// `None`: the mesh.
    pub(crate) fn peer(self) -> Option<Peer> {
        match self {
            Self::Isthmus | Self::IsthmusWide | Self::IsthmusCross => None,
            Self::HaproxyHttp2 | Self::HaproxyHttp1 | Self::HaproxyTcp => Some(Peer::Haproxy),
            Self::Nginx => Some(Peer::Nginx),
            Self::Envoy => Some(Peer::Envoy),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_different() {
        let mut names: Vec<&str> = FIGURES.iter().map(|figure| figure.name).collect();
        names.extend(Who::ALL.map(Who::name));
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn nobody_takes_part_twice() {
        for figure in FIGURES {
            let mut whos: Vec<Who> = figure.entrants.iter().map(|entrant| entrant.who).collect();
            whos.sort_unstable();
            whos.dedup();
            assert_eq!(whos.len(), figure.entrants.len(), "{}", figure.name);
        }
    }
}
