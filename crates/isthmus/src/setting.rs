//! What every command goes by: the home, the cluster that is asked, how it prints; and the event loop
//! that it runs on.

use std::process::ExitCode;

use isthmus_model::{ClusterName, Namespace};

use crate::api_client::{ApiClient, clients, connect_first};
use crate::args::StructuredFormat;
use crate::failure::{Failure, Result};
use crate::home::Home;

/// Everything that all commands go by.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) home: Home,
    /// The home is where it is looked for without a flag or variable.
    pub(crate) usual_home: bool,
    pub(crate) cluster: Option<ClusterName>,
    /// To whom belongs what a command is about; `None`: to the mesh.
    pub(crate) origin: Option<ClusterName>,
    pub(crate) namespace: Namespace,
    /// `None`: text for people.
    pub(crate) format: Option<StructuredFormat>,
    pub(crate) color: bool,
}

impl Setting {
    /// The cluster that a request comes from.
    pub(crate) fn caller_cluster<'a>(
        &'a self,
        from: Option<&'a ClusterName>,
    ) -> Result<&'a ClusterName> {
        match (from, &self.cluster) {
            (Some(from), Some(cluster)) if from != cluster => {
                let what = format!("--from {from} and --cluster {cluster} are not the same");
                Err(Failure::usage("two-clusters", what)
                    .next("name the cluster of the caller with --from alone"))
            }
            (Some(cluster), _) | (None, Some(cluster)) => Ok(cluster),
            (None, None) => Err(
                Failure::usage("no-cluster", "the caller must be in some cluster")
                    .next("name it with --from NAME; `isthmus get clusters` lists all"),
            ),
        }
    }

    /// An object as people are told of it: with the cluster that it belongs to.
    pub(crate) fn named(&self, object: &str) -> String {
        match &self.origin {
            None => object.to_owned(),
            Some(cluster) => format!("{object} of {cluster}"),
        }
    }

    /// The API that is asked: of the named cluster, else of any that answers, first of the one to which belongs what
    /// the command is about. It is asked for what belongs to that.
    ///
    /// Errors: there is no mesh in the home, no such cluster, or nobody answers (exit 4).
    pub(crate) async fn connect(&self) -> Result<ApiClient> {
        connect_first(self.clients()?).await
    }

    /// As [`Setting::connect`], all of them; none is connected yet.
    pub(crate) fn clients(&self) -> Result<Vec<ApiClient>> {
        let mut clients = clients(&self.home, self.cluster.as_ref())?;
        for client in &mut clients {
            client.origin.clone_from(&self.origin);
        }
        clients.sort_by_key(|client| self.origin.as_ref() != Some(&client.cluster));
        Ok(clients)
    }

    /// The cluster that must be named with `--cluster`.
    pub(crate) fn required_cluster(&self) -> Result<&ClusterName> {
        self.cluster.as_ref().ok_or_else(|| {
            Failure::usage("no-cluster", "this needs a cluster").next("name it with --cluster NAME")
        })
    }
}

/// Runs a short command to its end on a runtime of its own.
pub(crate) fn block_on(command: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    runtime()?.block_on(command)
}

pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| {
            Failure::failed("no-runtime", "no event loop can be made").caused_by(&error)
        })
}
