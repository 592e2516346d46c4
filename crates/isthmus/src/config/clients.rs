//! What a proxy holds its clients to: `clients` in `gateway.yaml`, `proxy.yaml` and `run.yaml`.

use isthmus_manifest::{FieldPath, Problem};
use isthmus_proxy::{ClientLimits, Limits, Network, Patience};
use serde::{Deserialize, Serialize};

use super::{Span, Text};

/// Everything that is left out is as it is without the section.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ClientsEntry {
    /// A connection without a request. Default: 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    idle_timeout: Option<Span>,
    /// From the first byte of a head to its last. Default: 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    head_timeout: Option<Span>,
    /// In the middle of a message of HTTP/1.1. Default: 1m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stall_timeout: Option<Span>,
    /// A reply in HTTP/2 that gets no credit. Default: 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stream_stall_timeout: Option<Span>,
    /// First bytes on a port that is not declared; 0s: they are not looked at. Default: 10ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    detect_timeout: Option<Span>,
    /// Default, and most: 64 KiB, which is what travels between proxies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_head_bytes: Option<usize>,
    /// Default, and most: 128.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_fields: Option<usize>,
    /// Default: 8 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_request_line_bytes: Option<usize>,
    /// Requests open on one connection of HTTP/2. Default: 256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_streams: Option<u32>,
    /// Connections to the mesh port from one address. Default: a share of the descriptors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_connections_per_source: Option<usize>,
    /// Load balancers in front of the mesh port that speak the PROXY protocol.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    proxy_protocol_from: Vec<Text<Network>>,
}

impl ClientsEntry {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn patience(&self) -> Patience {
        let usual = Patience::default();
        let or = |span: Option<Span>, usual| span.map_or(usual, |span| span.0);
        Patience {
            idle: or(self.idle_timeout, usual.idle),
            head: or(self.head_timeout, usual.head),
            stalled: or(self.stall_timeout, usual.stalled),
            stalled_stream: or(self.stream_stall_timeout, usual.stalled_stream),
            detect: or(self.detect_timeout, usual.detect),
        }
    }

    pub(crate) fn limits(&self) -> ClientLimits {
        let usual = ClientLimits::default();
        ClientLimits {
            head: Limits {
                head: self.max_head_bytes.unwrap_or(usual.head.head),
                fields: self.max_fields.unwrap_or(usual.head.fields),
                request_line: self
                    .max_request_line_bytes
                    .unwrap_or(usual.head.request_line),
            },
            streams: self.max_streams.unwrap_or(usual.streams),
            connections_per_source: self.max_connections_per_source,
        }
    }

    pub(crate) fn proxy_protocol_from(&self) -> Vec<Network> {
        self.proxy_protocol_from
            .iter()
            .map(|Text(network)| *network)
            .collect()
    }

    pub(crate) fn problems(&self) -> Vec<Problem> {
        let most = Limits::default();
        let counts = [
            ("maxHeadBytes", self.max_head_bytes, Some(most.head)),
            ("maxFields", self.max_fields, Some(most.fields)),
            (
                "maxRequestLineBytes",
                self.max_request_line_bytes,
                Some(most.head),
            ),
            (
                "maxStreams",
                self.max_streams.map(|count| count as usize),
                None,
            ),
            (
                "maxConnectionsPerSource",
                self.max_connections_per_source,
                None,
            ),
        ];
        let times = [
            ("idleTimeout", self.idle_timeout),
            ("headTimeout", self.head_timeout),
            ("stallTimeout", self.stall_timeout),
            ("streamStallTimeout", self.stream_stall_timeout),
        ];
        let path = FieldPath::root().field("clients");
        let mut problems = Vec::new();
        for (name, count, most) in counts {
            if count == Some(0) {
                let problem = Problem::new(path.field(name), "with none of it nothing is served");
                problems.push(problem.hint("leave it out, or write a number above zero"));
            }
            if let (Some(count), Some(most)) = (count, most)
                && count > most
            {
                let message = format!("{count} is more than what can be carried, {most}");
                let problem = Problem::new(path.field(name), message);
                problems.push(problem.hint(format!("leave it out, or write at most {most}")));
            }
        }
        for (name, _) in times
            .iter()
            .filter(|(_, time)| time.is_some_and(|time| time.0.is_zero()))
        {
            let problem = Problem::new(path.field(name), "in no time nobody can say anything");
            problems.push(problem.hint("leave it out, or write a time above zero"));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::config::{GatewayFile, parse, to_yaml};

    const GATEWAY: &str = "name: gateway-1\ncluster: west\naddress: 127.1.1.2\ncontrol: [\"127.1.1.1:15012\"]\nstate: state\n";

    #[test]
    fn what_is_written_holds_and_what_is_left_out_is_usual() {
        let text = format!(
            "{GATEWAY}clients: {{idleTimeout: 1m, detectTimeout: 0s, maxFields: 50, maxStreams: 8, \
             maxConnectionsPerSource: 9, proxyProtocolFrom: [10.0.0.0/8, \"::1\"]}}\n"
        );
        let file: GatewayFile = parse(Path::new("gateway.yaml"), &text).unwrap();
        let (patience, limits) = (file.clients.patience(), file.clients.limits());
        assert_eq!(patience.idle, Duration::from_mins(1));
        assert_eq!(patience.detect, Duration::ZERO);
        assert_eq!(patience.head, Patience::default().head);
        assert_eq!(
            (limits.head.fields, limits.head.head),
            (50, Limits::default().head)
        );
        assert_eq!(
            (limits.streams, limits.connections_per_source),
            (8, Some(9))
        );
        let from: Vec<Network> = ["10.0.0.0/8", "::1"]
            .map(|text| text.parse().unwrap())
            .into();
        assert_eq!(file.clients.proxy_protocol_from(), from);
        // What is written anew is read as the same.
        let again: GatewayFile = parse(Path::new("gateway.yaml"), &to_yaml(&file)).unwrap();
        assert_eq!(again, file);
    }

    #[test]
    fn what_cannot_be_is_said() {
        for (wrong, expect) in [
            ("maxFields: 129", "128"),
            ("maxHeadBytes: 70000", "65536"),
            ("maxStreams: 0", "above zero"),
            ("headTimeout: 0s", "above zero"),
            ("proxyProtocolFrom: [10.0.0.0/33]", "32 bits"),
            ("maxHeaders: 1", "maxHeaders"),
        ] {
            let text = format!("{GATEWAY}clients: {{{wrong}}}\n");
            let refused = parse::<GatewayFile>(Path::new("gateway.yaml"), &text).unwrap_err();
            let said = format!("{refused:?}");
            assert!(said.contains(expect), "{wrong}: {said}");
        }
    }
}
