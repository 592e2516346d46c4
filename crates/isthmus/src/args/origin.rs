//! What was typed of whose config a command is about.

use clap::Args as ClapArgs;
use isthmus_model::ClusterName;

/// To whom belongs what a command is about.
#[derive(Debug, ClapArgs)]
pub(crate) struct OriginArgs {
    /// What belongs to this cluster alone, and binds no other [default: what belongs to the mesh]
    #[arg(long, value_name = "CLUSTER")]
    pub(crate) origin: Option<ClusterName>,
}
