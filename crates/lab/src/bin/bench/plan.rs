//! What is measured: every figure, and who takes part in it by which way.
//!
//! Here a figure is added, or somebody to one.

use crate::load::{Load, Size};

/// Whoever carries requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    Isthmus,
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
    /// Does the callee's proxy stand on it too?
    pub(crate) is_pair: bool,
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
        name: "cross-cluster",
        title: "into another cluster, HTTP/1.1 client",
        load: Load::Http1 { size: Size::Small },
        connections: &[1, 16, 64, 256],
        entrants: &[
            mesh(Who::Isthmus, "near.bench.mesh"),
            mesh(Who::IsthmusCross, "far.bench.mesh"),
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

const TCP_PAIRS: &[Entrant] = &[
    Entrant {
        port: 7000,
        ..mesh(Who::Isthmus, "")
    },
    pair(Who::HaproxyTcp, 8004),
    pair(Who::Nginx, 8004),
    pair(Who::Envoy, 8004),
];

const fn mesh(who: Who, host: &'static str) -> Entrant {
    Entrant {
        who,
        port: 15001,
        host,
        is_pair: true,
    }
}

const fn pair(who: Who, port: u16) -> Entrant {
    Entrant {
        who,
        port,
        host: "near.bench.mesh",
        is_pair: true,
    }
}

const fn hop(who: Who, port: u16) -> Entrant {
    Entrant {
        is_pair: false,
        ..pair(who, port)
    }
}

impl Who {
    pub(crate) const ALL: [Self; 7] = [
        Self::Isthmus,
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
            Self::Isthmus | Self::IsthmusCross => None,
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
