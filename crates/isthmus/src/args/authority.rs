//! `isthmus authority`: whose control planes accept config.

use clap::Subcommand;
use isthmus_model::ClusterName;

#[derive(Debug, Subcommand)]
pub(crate) enum AuthorityArgs {
    /// Show who votes on changes, who leads, and how many can be lost
    #[command(after_help = "Examples:\n  isthmus authority show\n  \
        isthmus authority show --cluster ap-south -o json")]
    Show,
    /// Have a cluster vote on changes from now on
    #[command(
        after_help = "Example:\n  isthmus authority add eu-central && isthmus authority add ap-south\n\n\
        A change is accepted when more than half of those who vote have it: three survive the loss of any\n\
        one, two that of none. Nothing stops meanwhile."
    )]
    Add { name: ClusterName },
    /// Have a cluster vote no more; it follows those who do
    #[command(after_help = "Example:\n  isthmus authority remove ap-south\n\n\
        Also for one that is lost: it must not come back with another store and vote.")]
    Remove { name: ClusterName },
    /// Have the cluster that --cluster names accept changes alone, when most of those who voted are lost for good
    #[command(
        after_help = "It needs the mesh key of this home, and only the holder's word: the cluster goes on with what it has.\n\
        What others accepted beyond that is void. Should they return, they follow, and keep it for\n\
        `isthmus history --rejected`. Those that are to vote do so again as soon as they are heard.\n\n\
        Example:\n  isthmus authority reset --cluster eu-central --accept-loss"
    )]
    Reset {
        /// Changes that only the lost ones had may be void from now on
        #[arg(long)]
        accept_loss: bool,
    },
    /// Have another cluster lead, as before it is taken down; nothing is lost if it just goes
    #[command(after_help = "Example:\n  isthmus authority transfer eu-central")]
    Transfer { name: ClusterName },
}
