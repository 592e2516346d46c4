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
    /// Have another cluster lead, as before it is taken down; nothing is lost if it just goes
    #[command(after_help = "Example:\n  isthmus authority transfer eu-central")]
    Transfer { name: ClusterName },
}
