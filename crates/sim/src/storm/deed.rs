//! One thing that is done to a mesh.

use std::fmt;

use isthmus_control::Verb;
use isthmus_model::Health;

use crate::LinkState;
use crate::shop::CLUSTERS;

#[derive(Debug, Clone)]
pub(super) enum Deed {
    /// Somebody asks a cluster for a change.
    Write {
        site: usize,
        verb: Verb,
        service: &'static str,
        port: usize,
        /// Only if nobody has changed it since.
        is_conditional: bool,
    },
    /// Somebody asks a cluster for a change of what belongs to one alone.
    Own {
        site: usize,
        of: usize,
        number: usize,
    },
    /// A workload's proxy says how it is.
    Report {
        site: usize,
        service: &'static str,
        number: u8,
        health: Health,
    },
    Link {
        a: usize,
        b: usize,
        state: LinkState,
    },
    Crash {
        site: usize,
        in_commit: bool,
    },
    Start {
        site: usize,
    },
    /// Its power is gone for a moment.
    Blink {
        site: usize,
    },
    Disk {
        site: usize,
        is_full: bool,
    },
    /// What it has saved is kept elsewhere.
    Backup {
        site: usize,
    },
    /// Its disk is lost, and it starts with its backup.
    Restore {
        site: usize,
    },
    /// These clusters, and no others, are to vote.
    Vote {
        site: usize,
        clusters: Vec<usize>,
    },
    Transfer {
        site: usize,
        to: usize,
    },
}

impl fmt::Display for Deed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |site: &usize| CLUSTERS[*site];
        match self {
            Self::Write {
                site,
                verb,
                service,
                port,
                is_conditional,
            } => {
                let verb = match verb {
                    Verb::Create => "create",
                    Verb::Update => "update",
                    Verb::Delete => "delete",
                };
                let condition = if *is_conditional { " as shown" } else { "" };
                write!(
                    out,
                    "{}: {verb} {service}{condition}, port {port}",
                    name(site)
                )
            }
            Self::Own { site, of, number } => {
                let (site, of) = (name(site), name(of));
                write!(out, "{site}: {number} ms for what {of} calls")
            }
            Self::Report {
                site,
                service,
                number,
                health,
            } => {
                write!(out, "{}: {service}-{number} is {health:?}", name(site))
            }
            Self::Link { a, b, state } => {
                let (a, b) = (name(a), name(b));
                match state {
                    LinkState::Up => write!(out, "{a} and {b} reach each other"),
                    LinkState::Cut => write!(out, "{a} and {b} are cut apart"),
                    LinkState::BlackHole => write!(out, "nothing arrives between {a} and {b}"),
                    LinkState::DeafAt(site) => {
                        let (deaf, other) = if name(site) == a { (a, b) } else { (b, a) };
                        write!(out, "nothing from {other} arrives at {deaf}")
                    }
                }
            }
            Self::Crash { site, in_commit } => {
                let when = if *in_commit {
                    " while it saves next"
                } else {
                    ""
                };
                write!(out, "{} loses power{when}", name(site))
            }
            Self::Blink { site } => write!(out, "{} loses power for a moment", name(site)),
            Self::Start { site } => write!(out, "{} starts", name(site)),
            Self::Disk { site, is_full } => {
                let state = if *is_full { "is full" } else { "has room" };
                write!(out, "{}: the disk {state}", name(site))
            }
            Self::Backup { site } => write!(out, "{} is backed up", name(site)),
            Self::Restore { site } => write!(out, "{} starts from its backup", name(site)),
            Self::Vote { site, clusters } => {
                let clusters: Vec<_> = clusters.iter().map(name).collect();
                write!(out, "{}: {} are to vote", name(site), clusters.join(", "))
            }
            Self::Transfer { site, to } => {
                write!(out, "{}: {} is to lead", name(site), name(to))
            }
        }
    }
}
