//! What `check` finds, and how it says so. Pure.

use std::fmt::Write as _;

use serde::Serialize;

/// Something that a person should look at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Finding {
    /// Stable and greppable.
    pub(super) code: Code,
    /// What it is about: `cluster eu-central`, `service shop/cart`.
    pub(super) subject: String,
    /// Clusters for which it holds, as they say themselves; empty: the whole mesh.
    pub(super) clusters: Vec<String>,
    pub(super) what: String,
    pub(super) causes: Vec<String>,
    pub(super) fix: String,
}

/// In order, the gravest first; what several clusters say of the same thing becomes one finding.
pub(super) fn merged(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort();
    findings.dedup_by(|next, first| {
        let same = next.code == first.code
            && next.subject == first.subject
            && next.what == first.what
            && next.fix == first.fix;
        if same {
            for (into, from) in [
                (&mut first.clusters, &next.clusters),
                (&mut first.causes, &next.causes),
            ] {
                let new: Vec<_> = from.iter().filter(|each| !into.contains(each)).collect();
                let new: Vec<String> = new.into_iter().cloned().collect();
                into.extend(new);
            }
        }
        same
    });
    findings
}

/// Every kind of finding, the gravest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Code {
    ApiUnreachable,
    ClusterLost,
    AuthorityUnreachable,
    VoteLost,
    ClusterBehind,
    CertificateExpiring,
    RemovalHeld,
    ServiceDown,
    ClusterStale,
    GatewayUnhealthy,
    ServiceUnhealthyInCluster,
    ProxyRejects,
    ProxyNotConnected,
    NotAccepted,
    RefsNotResolved,
    NotProgrammed,
    PolicyOverruled,
}

impl Code {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::ApiUnreachable => "api-unreachable",
            Self::ClusterLost => "cluster-lost",
            Self::AuthorityUnreachable => "authority-unreachable",
            Self::ClusterBehind => "cluster-behind",
            Self::VoteLost => "vote-lost",
            Self::CertificateExpiring => "certificate-expiring",
            Self::RemovalHeld => "removal-held",
            Self::ServiceDown => "service-down",
            Self::ClusterStale => "cluster-stale",
            Self::GatewayUnhealthy => "gateway-unhealthy",
            Self::ServiceUnhealthyInCluster => "service-unhealthy-in-cluster",
            Self::ProxyRejects => "proxy-rejects",
            Self::ProxyNotConnected => "proxy-not-connected",
            Self::NotAccepted => "not-accepted",
            Self::RefsNotResolved => "refs-not-resolved",
            Self::NotProgrammed => "not-programmed",
            Self::PolicyOverruled => "policy-overruled",
        }
    }
}

/// The result of `check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// Clusters that were asked and have answered.
    pub(super) checked: Vec<String>,
    /// The gravest first.
    pub(super) findings: Vec<Finding>,
}

pub(super) fn render(report: &Report, color: bool) -> String {
    let (bold, dim, plain) = if color {
        ("\x1b[1m", "\x1b[2m", "\x1b[0m")
    } else {
        ("", "", "")
    };
    let mut text = String::new();
    for finding in &report.findings {
        let by = match finding.clusters.as_slice() {
            [] => String::new(),
            clusters => format!(" (in {})", clusters.join(", ")),
        };
        // Writing into a string cannot fail.
        let _ = writeln!(
            text,
            "{bold}{}{plain}: {}{by}",
            finding.subject, finding.what
        );
        let causes = finding.causes.iter();
        let lines = causes.map(|cause| ("cause", cause.as_str()));
        for (label, line) in
            lines.chain([("fix", finding.fix.as_str()), ("code", finding.code.text())])
        {
            let line = line.trim_end().replace('\n', "\n         ");
            let _ = writeln!(text, "{dim}{label:>7}{plain}: {line}");
        }
        text.push('\n');
    }
    let checked = report.checked.join(", ");
    let count = match report.findings.len() {
        0 => "nothing to report".to_owned(),
        1 => "1 finding".to_owned(),
        count => format!("{count} findings"),
    };
    // Writing into a string cannot fail.
    let _ = writeln!(text, "{count}; asked {checked}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_says_what_why_and_what_to_do() {
        let finding = Finding {
            code: Code::ClusterLost,
            subject: "cluster eu-central".to_owned(),
            clusters: vec!["us-west".to_owned()],
            what: "it is not heard of".to_owned(),
            causes: vec!["last seen 4 s ago".to_owned()],
            fix: "look at the link".to_owned(),
        };
        let mut report = Report {
            checked: vec!["us-west".to_owned()],
            findings: vec![finding],
        };
        assert_eq!(
            render(&report, false),
            "cluster eu-central: it is not heard of (in us-west)\n  cause: last seen 4 s ago\n    \
             fix: look at the link\n   code: cluster-lost\n\n1 finding; asked us-west\n"
        );
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["findings"][0]["code"], Code::ClusterLost.text());
        report.findings.clear();
        assert_eq!(render(&report, false), "nothing to report; asked us-west\n");
    }
}
