//! Who may call what.
//!
//! [`Policies`] is compiled once per view; [`Policies::authorize`] judges one request (or one
//! tunnel) and is the only maker of a [`Permit`]. A permit also says how far it carries: which
//! clusters the request may be sent to. Access policies will be compiled into `authorize`, and
//! residency policies into [`Permit::reaches`].
//!
//! This crate never verifies certificates: it takes the identity that was already proven. It never
//! falls back to allowing: what no rule allows is denied.

use std::sync::Arc;

use isthmus_model::{ClusterName, Identity, Service, ServiceName, TrustDomain};

/// Who calls. Belongs to a connection, so it is shared by that connection's requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A peer whose certificate chain was verified, and the cluster whose authority vouched for it.
    Verified {
        identity: Identity,
        cluster: ClusterName,
    },
    /// The workload beside this proxy, through the outbound listener. It is who this proxy is.
    Local { identity: Identity },
}

impl Caller {
    pub fn identity(&self) -> &Identity {
        match self {
            Self::Verified { identity, .. } | Self::Local { identity } => identity,
        }
    }
}

/// Why a request may not go on. Closed: every reason is documented and counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("{identity} is not of trust domain {mesh}")]
    ForeignTrustDomain {
        identity: Identity,
        mesh: TrustDomain,
    },
    #[error(
        "service {service} is not exported: it may be called only in the clusters that run it, \
         and the call goes from {from} to {to}"
    )]
    NotExported {
        service: ServiceName,
        from: ClusterName,
        to: ClusterName,
    },
}

impl Denied {
    /// The stable code, as in `x-isthmus-refusal`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ForeignTrustDomain { .. } => "foreign-trust-domain",
            Self::NotExported { .. } => "not-exported",
        }
    }
}

/// The rules that hold in one cluster, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policies {
    mesh: TrustDomain,
    own_cluster: ClusterName,
}

impl Policies {
    /// `mesh`: the trust domain whose identities are known. `own_cluster`: where this proxy runs.
    pub fn compile(mesh: TrustDomain, own_cluster: ClusterName) -> Self {
        Self { mesh, own_cluster }
    }

    /// May `caller` call `service` here? Asked by the caller's proxy before a cluster is chosen,
    /// by a gateway when a tunnel is opened, and by the callee's proxy, which trusts neither.
    ///
    /// Errors: the first rule that denies it.
    pub fn authorize(&self, caller: &Arc<Caller>, service: &Service) -> Result<Permit, Denied> {
        let identity = caller.identity();
        if identity.trust_domain != self.mesh {
            return Err(Denied::ForeignTrustDomain {
                identity: identity.clone(),
                mesh: self.mesh.clone(),
            });
        }
        let from = match &**caller {
            Caller::Verified { cluster, .. } => cluster,
            Caller::Local { .. } => &self.own_cluster,
        };
        let permit = Permit {
            caller: caller.clone(),
            service: service.name.clone(),
            from: from.clone(),
            exported: service.exported,
        };
        match &**caller {
            // It has arrived: what it reached is this cluster.
            Caller::Verified { .. } => permit.reaches(&self.own_cluster)?,
            // It has gone nowhere yet: every candidate cluster is asked about later.
            Caller::Local { .. } => {}
        }
        Ok(permit)
    }
}

/// Proof that a caller may call a service. Only [`Policies::authorize`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    caller: Arc<Caller>,
    service: ServiceName,
    from: ClusterName,
    exported: bool,
}

impl Permit {
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// May this call be answered in `cluster`?
    ///
    /// Errors: the rule that keeps it out, so that a candidate can be listed with its reason.
    pub fn reaches(&self, cluster: &ClusterName) -> Result<(), Denied> {
        if self.exported || *cluster == self.from {
            return Ok(());
        }
        Err(Denied::NotExported {
            service: self.service.clone(),
            from: self.from.clone(),
            to: cluster.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use isthmus_model::{AccountName, AppProtocol, Namespace, ServicePort};

    fn identity(trust_domain: &str) -> Identity {
        Identity {
            trust_domain: TrustDomain::new(trust_domain).unwrap(),
            namespace: Namespace::new("shop").unwrap(),
            account: AccountName::new("frontend").unwrap(),
        }
    }

    fn cluster(name: &str) -> ClusterName {
        ClusterName::new(name).unwrap()
    }

    fn service(exported: bool) -> Service {
        Service {
            name: ServiceName::new("shop", "cart").unwrap(),
            ports: vec![ServicePort {
                name: None,
                port: 80,
                target_port: 8080,
                protocol: AppProtocol::Http1,
            }],
            accounts: vec![AccountName::new("cart").unwrap()],
            exported,
        }
    }

    fn verified(trust_domain: &str, from: &str) -> Arc<Caller> {
        Arc::new(Caller::Verified {
            identity: identity(trust_domain),
            cluster: cluster(from),
        })
    }

    fn local(trust_domain: &str) -> Arc<Caller> {
        Arc::new(Caller::Local {
            identity: identity(trust_domain),
        })
    }

    #[test]
    fn every_rule_denies_what_it_must_and_nothing_else() {
        let policies = Policies::compile(TrustDomain::new("shop.mesh").unwrap(), cluster("east"));
        for (caller, exported, expect) in [
            (verified("shop.mesh", "east"), false, Ok(())),
            (verified("shop.mesh", "east"), true, Ok(())),
            (verified("shop.mesh", "west"), true, Ok(())),
            (verified("shop.mesh", "west"), false, Err("not-exported")),
            (
                verified("evil.mesh", "east"),
                true,
                Err("foreign-trust-domain"),
            ),
            (
                verified("evil.mesh", "west"),
                false,
                Err("foreign-trust-domain"),
            ),
            (local("shop.mesh"), false, Ok(())),
            (local("evil.mesh"), true, Err("foreign-trust-domain")),
        ] {
            let judged = policies.authorize(&caller, &service(exported));
            let seen = judged.map(|_| ()).map_err(|denied| denied.reason());
            assert_eq!(seen, expect, "{caller:?} exported={exported}");
        }
    }

    #[test]
    fn a_permit_carries_to_other_clusters_only_when_the_service_is_exported() {
        let policies = Policies::compile(TrustDomain::new("shop.mesh").unwrap(), cluster("east"));
        for (exported, to, expect) in [
            (false, "east", Ok(())),
            (false, "west", Err("not-exported")),
            (true, "east", Ok(())),
            (true, "west", Ok(())),
        ] {
            let permit = policies
                .authorize(&local("shop.mesh"), &service(exported))
                .unwrap();
            let reaches = permit.reaches(&cluster(to));
            assert_eq!(reaches.map_err(|denied| denied.reason()), expect, "{to}");
        }
    }

    #[test]
    fn a_permit_names_whom_it_was_made_for() {
        let policies = Policies::compile(TrustDomain::new("shop.mesh").unwrap(), cluster("east"));
        let caller = verified("shop.mesh", "west");
        let permit = policies.authorize(&caller, &service(true)).unwrap();
        assert_eq!(permit.caller(), &*caller);
        assert_eq!(permit.service(), &service(true).name);
    }
}
