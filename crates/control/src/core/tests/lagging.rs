//! Certificates that end, as their cluster says.

use super::*;

#[test]
fn a_cluster_says_which_of_its_certificates_ends_soon() {
    let mut west = Machine::new("west");
    let day = Duration::from_hours(24);
    let start = west.clock.wall();
    let certificates = [
        ("control", day),
        ("cluster", 365 * day),
        ("root", 3650 * day),
    ];
    let of = |(name, life)| OwnCertificate {
        name,
        validity: (start, start + life),
    };
    west.event(Event::Certificates(certificates.map(of).to_vec()));
    for name in ["west", "east"] {
        west.create(cluster(name));
    }
    let said = |machine: &mut Machine, name: &str| {
        let (_, object) = machine.read(Kind::Cluster, Some(name));
        let conditions = object["status"]["conditions"].as_array().cloned();
        let mut conditions = conditions.unwrap_or_default().into_iter();
        conditions.find(|condition| condition["type"] == "CertificatesLast")
    };
    assert_eq!(said(&mut west, "west").unwrap()["status"], "True");
    assert_eq!(said(&mut west, "east"), None, "only its own");
    for (days, expect) in [(304, "control"), (2, "cluster")] {
        west.clock.advance(days * day);
        west.event(Event::Tick);
        let condition = said(&mut west, "west").unwrap();
        assert_eq!(
            (&condition["status"], &condition["reason"]),
            (&json!("False"), &json!("EndsSoon"))
        );
        let message = condition["message"].as_str().unwrap();
        assert_eq!(
            message.contains("that of the cluster ends at"),
            expect == "cluster",
            "{message}"
        );
        assert!(message.contains("that of the control"), "{message}");
        assert!(!message.contains("root"), "{message}");
    }
}
