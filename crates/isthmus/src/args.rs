//! What was typed: the command line as clap reads it. Meaning is given in `invocation`.

mod authority;
mod backup;
mod history;
mod objects;
mod origin;
mod request;
mod rotate;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use isthmus_model::{ClusterName, ServiceName, TrustDomain};

use crate::config::parse_span;

pub(crate) use authority::AuthorityArgs;
pub(crate) use backup::{BackupArgs, RestoreArgs};
pub(crate) use history::{AuditArgs, HistoryArgs, UndoArgs};
pub(crate) use objects::{ApplyArgs, DeleteArgs, DescribeArgs, DiffArgs, GetArgs};
pub(crate) use request::{ExplainArgs, LoadArgs, RequestArgs};
pub(crate) use rotate::{RotateArgs, RotateStartArgs, Rotated};

#[derive(Debug, Parser)]
#[command(
    name = "isthmus",
    version,
    about = "A service mesh that stretches over many clusters",
    disable_help_subcommand = true,
    after_help = "Exit codes: 0 ok, 1 failed, 2 usage, 3 differences or findings, 4 mesh unreachable.\n\
                  Objects are written kind/name, services namespace/name."
)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: CommandArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct GlobalArgs {
    /// Where the mesh's state, token and contexts are [default: $XDG_STATE_HOME/isthmus]
    #[arg(
        long,
        global = true,
        env = "ISTHMUS_HOME",
        value_name = "DIR",
        help_heading = "Global options"
    )]
    pub(crate) home: Option<PathBuf>,
    /// The cluster whose API is asked [default: the first that answers]
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        help_heading = "Global options"
    )]
    pub(crate) cluster: Option<ClusterName>,
    /// Namespace of objects that are named without one
    #[arg(
        short,
        long,
        global = true,
        default_value = "default",
        value_name = "NAME",
        help_heading = "Global options"
    )]
    pub(crate) namespace: isthmus_model::Namespace,
    /// Print JSON or YAML instead of text for people
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORMAT",
        help_heading = "Global options"
    )]
    pub(crate) output: Option<StructuredFormat>,
    /// When to use colors
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "auto",
        value_name = "WHEN",
        help_heading = "Global options"
    )]
    pub(crate) color: Color,
    /// End when this process, the parent, ends.
    #[arg(long, global = true, hide = true, value_name = "PID")]
    pub(crate) die_with_parent: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StructuredFormat {
    Json,
    Yaml,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CommandArgs {
    /// Start a mesh on this machine and watch over it until Ctrl-C
    #[command(after_help = "Examples:\n  \
        isthmus up -f examples/one-cluster\n  \
        isthmus up -f examples/one-cluster --dry-run   # what would be started, and with which files\n  \
        isthmus up --detach                            # again, from where it was, in the background")]
    Up(UpArgs),
    /// Stop the mesh that `up` started
    #[command(
        after_help = "Examples:\n  isthmus down\n  isthmus down --purge --yes   # forget everything but this home's own directory"
    )]
    Down(DownArgs),
    /// Run a cluster's control plane, or make or break one
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "Examples:\n  isthmus control init -c control.yaml   # key and request for a certificate\n  \
            isthmus control -c control.yaml\n  \
            isthmus control restore -c control.yaml us-west-20261123T100000Z.backup\n  isthmus control kill us-west           # only where `up` runs\n  \
            isthmus control start --all"
    )]
    Control(ControlArgs),
    /// Run a gateway, or restart one without losing a connection
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "SIGUSR2 has a new process take over, with the program file and the configuration of that moment:\n\
            no request is lost, and what has begun has `drainLimit` to finish.\n\n\
            Examples:\n  isthmus gateway -c gateway.yaml\n  \
            isthmus gateway restart us-west/gateway-1   # only where `up` runs"
    )]
    Gateway(ServeArgs),
    /// Run a proxy beside a program that somebody else runs, or restart one
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "SIGUSR2 has a new process take over, with the program file and the configuration of that moment:\n\
            no request is lost, and what has begun has `drainLimit` to finish.\n\n\
            Examples:\n  isthmus proxy -c proxy.yaml\n  \
            isthmus proxy restart us-west/frontend-1   # only where `up` runs"
    )]
    Proxy(ServeArgs),
    /// Run a program in the mesh: its proxy first, then the program
    #[command(after_help = "Examples:\n  isthmus run -c run.yaml\n  \
        isthmus run --cluster us-west --service shop/catalog --port 8080 -- ./catalog\n  \
        isthmus run --cluster us-west --service shop/catalog --port 8080 --label version=v2 -- \\\n      \
        ./catalog --listen '${ADDRESS}:${PORT}'")]
    Run(RunArgs),
    /// List objects of a kind, or show one
    #[command(
        after_help = "Examples:\n  isthmus get services -n shop\n  isthmus get workloads -A -o json\n  \
        isthmus get httproute/catalog -n shop -o yaml\n  isthmus get httproutes -A --all-origins"
    )]
    Get(GetArgs),
    /// Create or change objects from files
    #[command(
        after_help = "Examples:\n  isthmus apply -f catalog.yaml\n  isthmus apply -f shop/ --dry-run\n  \
        isthmus apply -f local.yaml --origin us-west   # for callers in us-west, also while it is cut off\n  \
        cat catalog.yaml | isthmus apply -f -"
    )]
    Apply(ApplyArgs),
    /// Delete objects
    #[command(
        after_help = "Examples:\n  isthmus delete service/catalog -n shop\n  isthmus delete -f catalog.yaml"
    )]
    Delete(DeleteArgs),
    /// Show one object with all that is known of it
    #[command(after_help = "Example:\n  isthmus describe service/catalog -n shop")]
    Describe(DescribeArgs),
    /// Compare what the mesh has with files, or with what it had; exit 3 when they differ
    #[command(
        after_help = "Examples:\n  isthmus diff -f shop/\n  isthmus diff --at 30m                    # half an hour ago\n  \
        isthmus diff --at 2026-11-23T10:00:00Z"
    )]
    Diff(DiffArgs),
    /// List the changes of config: who made them, when, and what they changed
    #[command(
        after_help = "Examples:\n  isthmus history\n  isthmus history httproute/catalog -n shop --diff\n  \
        isthmus history services -A --limit 100 -o json"
    )]
    History(HistoryArgs),
    /// Make an object what it was before a change
    #[command(
        after_help = "It is a change like any other: it has a position, an author, and can be undone.\n\n\
        Examples:\n  isthmus undo 42 --dry-run   # what would be different\n  isthmus undo 42"
    )]
    Undo(UndoArgs),
    /// Check and export the history of config
    #[command(subcommand)]
    Audit(AuditArgs),
    /// Show clusters, services and proxies as one cluster sees them
    #[command(
        after_help = "Examples:\n  isthmus status\n  isthmus status --cluster us-west -o json"
    )]
    Status,
    /// Look for what is wrong in the mesh; exit 3 when something is
    #[command(
        after_help = "Every cluster is asked, or the one that --cluster names. Each finding has a stable code, a cause\n\
        and what to do.\n\n\
        Examples:\n  isthmus check\n  isthmus check -o json"
    )]
    Check,
    /// Show what clusters do not have in common, and why; exit 3 when there is something
    #[command(
        after_help = "Every cluster is asked for all config and for what it knows of the others' workloads. What differs for\n\
        longer than a moment is shown, compared with the cluster that knows most, or with the one it is about.\n\n\
        Examples:\n  isthmus drift\n  isthmus drift -o json"
    )]
    Drift,
    /// Say where a request would go, and why; sends nothing
    #[command(
        after_help = "A real proxy of the source decides, on what it knows and has measured.\n\
        The shape of -o json, and every reason, is in docs/reference/explain.md.\n\n\
        Examples:\n  isthmus explain shop/cart --source shop/frontend --from us-west\n  \
        isthmus explain shop/payment --source shop/frontend --from ap-south --method POST \\\n      \
        --path /pay --header x-version=v2 -o json"
    )]
    Explain(ExplainArgs),
    /// Send requests to a service at a steady rate and show what became of them
    #[command(
        after_help = "Requests start on schedule whatever the replies do, and latency counts from the schedule.\n\
        They enter the mesh as account `load` of the service's namespace, through a proxy of their own.\n\
        Exit 1 if any failed. The shape of -o json is in docs/reference/load.md.\n\n\
        Examples:\n  isthmus load shop/frontend --from us-west --rate 200 --duration 30s\n  \
        isthmus load shop/cart --from ap-south --method POST --body-bytes 1000 --log cart.jsonl\n  \
        isthmus load shop/catalog --from us-west -o json --allow-failures"
    )]
    Load(LoadArgs),
    /// Make join tokens
    #[command(subcommand)]
    Token(TokenArgs),
    /// Take a process or a cluster for one of the mesh no more
    #[command(
        subcommand,
        after_help = "Exit 3 when some cluster has not heard of it.\n\n\
        Examples:\n  isthmus revoke process us-west/frontend-1 --reason \"key was copied\"\n  \
        isthmus revoke cluster ap-south\n  isthmus revoke list"
    )]
    Revoke(RevokeArgs),
    /// Take workloads for gone that were missed together and are shown as they were
    #[command(
        after_help = "A control plane that stops hearing many of a service's workloads at once may be cut off itself: it shows\n\
        them as they were for a while (`removals` of the Mesh). `isthmus status` lists them.\n\
        Exit 3 when nothing of it is held.\n\n\
        Examples:\n  isthmus release shop/payment\n  isthmus release --gateways --cluster us-west"
    )]
    Release(ReleaseArgs),
    /// Replace keys and certificates while everything runs
    #[command(subcommand)]
    Rotate(RotateArgs),
    /// Found a mesh; sign clusters in
    #[command(subcommand)]
    Mesh(MeshArgs),
    /// Read what the processes of `up` have logged
    #[command(
        after_help = "Examples:\n  isthmus logs us-west\n  isthmus logs us-west/gateway-1 -f"
    )]
    Logs(LogsArgs),
    /// Break and mend a link of the mesh that `up` runs
    #[command(subcommand)]
    Link(LinkArgs),
    /// Drain a cluster; kill and start one of the mesh that `up` runs
    #[command(name = "cluster", subcommand)]
    Cluster(ClusterArgs),
    /// Whose control planes accept changes of config: show and change it
    #[command(subcommand)]
    Authority(AuthorityArgs),
    /// Keep all that control planes know in files, to start from when one is lost
    #[command(subcommand)]
    Backup(BackupArgs),
    /// Let storms loose on simulated meshes of this version, and see whether anything breaks
    #[command(
        after_help = "Clusters, network, disks and time are simulated; control planes are what this program runs.\n\
        Each seed draws a mesh, writes, cuts, crashes, full disks and wrong clocks, and gives the same\n\
        run each time, to the last message. The last line says seeds, steps, invariants checked and\n\
        violations; exit 3 if there are any.\n\n\
        Examples:\n  isthmus simulate --seeds 1000\n  \
        isthmus simulate --seed 17 --steps 80   # what was done in this one"
    )]
    Simulate(SimulateArgs),
    /// Print a completion script
    #[command(
        after_help = "Example:\n  isthmus completions bash > ~/.local/share/bash-completion/completions/isthmus"
    )]
    Completions { shell: clap_complete::Shell },
    /// Become a program that ends with its parent.
    #[command(hide = true)]
    ExecGuard {
        /// Descriptors that the program may have, if not as many as its parent.
        #[arg(long)]
        nofile: Option<u64>,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

#[derive(Debug, ClapArgs)]
#[expect(clippy::struct_excessive_bools, reason = "one flag, one bool")]
pub(crate) struct UpArgs {
    /// Directory with resource files and up.yaml [default: the one of the last start]
    #[arg(short = 'f', long = "file", value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
    /// Write what differs between the files and the mesh
    #[arg(long)]
    pub(crate) apply: bool,
    /// Return when the mesh is ready and leave it running
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) detach: bool,
    /// Leave out the processes that only make traffic
    #[arg(long)]
    pub(crate) quiet: bool,
    /// Print the commands and files, start nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Lead a session of its own: the part of --detach that stays.
    #[arg(long, hide = true)]
    pub(crate) background: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SimulateArgs {
    /// How many storms
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    pub(crate) from: u64,
    /// This storm only, with everything that is done in it
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seeds", "from"])]
    pub(crate) seed: Option<u64>,
    /// Rounds of each storm, up to two seconds apart
    #[arg(long, default_value_t = 80, value_name = "N")]
    pub(crate) steps: usize,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DownArgs {
    /// Remove the mesh's keys, store, tokens and logs too
    #[arg(long)]
    pub(crate) purge: bool,
    /// Do not ask
    #[arg(long, requires = "purge")]
    pub(crate) yes: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ConfigArgs {
    /// Configuration file
    #[arg(short, long = "config", value_name = "FILE")]
    pub(crate) config: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ServeArgs {
    /// Configuration file
    #[arg(short, long = "config", value_name = "FILE", required = true)]
    pub(crate) config: Option<PathBuf>,
    /// Take the place of the process that started this one.
    #[arg(long, hide = true)]
    pub(crate) take_over: bool,
    #[command(subcommand)]
    pub(crate) action: Option<ServeAction>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServeAction {
    /// Have a new process take over from one of the mesh that `up` runs
    Restart {
        /// As `isthmus logs` has it
        #[arg(value_name = "CLUSTER/PROCESS")]
        process: String,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ControlArgs {
    /// Configuration file
    #[arg(short, long = "config", value_name = "FILE", required = true)]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) action: Option<ControlAction>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ControlAction {
    /// Make the cluster's key and a request for its certificate, and stop
    #[command(after_help = "Example:\n  isthmus control init -c control.yaml")]
    Init(ConfigArgs),
    /// Have a control plane that does not run begin with what is in a backup
    #[command(
        after_help = "Its key and certificate stay, or are made anew before with `isthmus control init`.\n\n\
        Example:\n  isthmus control restore -c control.yaml us-west-20261123T100000Z.backup"
    )]
    Restore(RestoreArgs),
    /// Kill a control plane at once and keep it down
    #[command(
        after_help = "Examples:\n  isthmus control kill eu-central\n  isthmus control kill --all"
    )]
    Kill(ClustersArgs),
    /// Start a control plane that was killed
    #[command(
        after_help = "Examples:\n  isthmus control start eu-central\n  isthmus control start --all"
    )]
    Start(ClustersArgs),
}

#[derive(Debug, ClapArgs)]
#[group(required = true, multiple = false)]
pub(crate) struct ClustersArgs {
    /// Of this cluster
    #[arg(value_name = "CLUSTER")]
    pub(crate) name: Option<ClusterName>,
    /// In every cluster
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RunArgs {
    /// Configuration file; without one, the mesh is found through --home
    #[arg(short, long = "config", value_name = "FILE", conflicts_with_all = ["service", "port", "label", "program_address", "command"])]
    pub(crate) config: Option<PathBuf>,
    /// Service that the program is part of
    #[arg(
        long,
        value_name = "NAMESPACE/NAME",
        required_unless_present = "config"
    )]
    pub(crate) service: Option<ServiceName>,
    /// Port that the program listens on
    #[arg(long, required_unless_present = "config")]
    pub(crate) port: Option<u16>,
    /// Label of the workload; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,
    /// Where the program listens [default: 127.0.0.1]
    #[arg(long, value_name = "IP")]
    pub(crate) program_address: Option<IpAddr>,
    /// The program and its arguments; ${ADDRESS} and ${PORT} are filled in
    #[arg(
        last = true,
        required_unless_present = "config",
        value_name = "COMMAND"
    )]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenArgs {
    /// Make a one-time token that lets one process join a cluster
    #[command(
        after_help = "Examples:\n  isthmus token create --cluster us-west --service shop/catalog\n  \
        isthmus token create --cluster us-west --account shop/visitor --lifetime 10m"
    )]
    Create(TokenCreateArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct TokenCreateArgs {
    /// Service that the process runs
    #[arg(
        long,
        value_name = "NAMESPACE/NAME",
        required_unless_present = "account"
    )]
    pub(crate) service: Option<ServiceName>,
    /// Account that it runs as, `name` or `namespace/name` [default: the service's name]
    #[arg(long, value_name = "ACCOUNT")]
    pub(crate) account: Option<String>,
    /// How long the token may wait to be used, such as 30m
    #[arg(long, default_value = "1h", value_name = "DURATION")]
    pub(crate) lifetime: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ReleaseArgs {
    /// The service whose workloads they are; in all clusters unless --cluster names one
    #[arg(value_name = "NAMESPACE/SERVICE", required_unless_present = "gateways")]
    pub(crate) service: Option<ServiceName>,
    /// The clusters' gateways instead
    #[arg(long, conflicts_with = "service")]
    pub(crate) gateways: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RevokeArgs {
    /// One that is connected to its control plane: nobody believes its certificates any more
    Process {
        /// As `isthmus status` names it, or the name of its workload
        #[arg(value_name = "CLUSTER/PROCESS")]
        of: String,
        /// Kept with it, for people
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// One that is gone, or calls itself like others
    Admission {
        /// How it was admitted: the id of its join token, 16 hexadecimal digits
        #[arg(value_name = "CLUSTER/ADMISSION")]
        of: String,
        /// Kept with it, for people
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// A whole cluster, by the others and with the mesh key: its vote is taken, and nobody believes it
    Cluster { name: ClusterName },
    /// What is revoked, and until when that matters
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MeshArgs {
    /// Make the mesh key and root certificate in the home's ca directory
    #[command(after_help = "Example:\n  isthmus mesh found --trust-domain shop.example")]
    Found {
        /// Trust domain of every identity in the mesh
        #[arg(long, value_name = "NAME")]
        trust_domain: TrustDomain,
        /// Where the key goes instead, such as a disk that is taken out [default: ca/mesh.key of the home]
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
    },
    /// Show where the mesh key is, or say where it is from now on
    #[command(
        after_help = "It is read when something is signed, and kept nowhere. Nothing is changed unless what is there is the\n\
        key of this mesh.\n\n\
        Examples:\n  isthmus mesh key\n  isthmus mesh key --file /media/key/mesh.key\n  \
        isthmus mesh key --command vault kv get -field=key secret/mesh"
    )]
    Key {
        /// In a file
        #[arg(long, value_name = "PATH", group = "source")]
        file: Option<PathBuf>,
        /// In a variable of the environment
        #[arg(long, value_name = "NAME", group = "source")]
        env: Option<String>,
        /// A program and its arguments that print it
        #[arg(long, value_name = "WORD", num_args = 1.., allow_hyphen_values = true, group = "source")]
        command: Option<Vec<String>>,
    },
    /// Sign a cluster in, or what binds the whole mesh
    ///
    /// With --request, turns a cluster's request into its certificate. With -f, prints the objects of the
    /// files with the signature that a Mesh or a Cluster needs, for whoever applies them without the mesh key.
    #[command(
        after_help = "Examples:\n  isthmus mesh sign --cluster us-west --request cluster.csr --out cluster.pem\n  isthmus mesh sign -f clusters.yaml > signed.yaml"
    )]
    Sign {
        /// The cluster's request, as `control init` made it
        #[arg(
            long,
            value_name = "FILE",
            requires = "out",
            required_unless_present = "file"
        )]
        request: Option<PathBuf>,
        /// Where the certificate goes
        #[arg(long, value_name = "FILE", requires = "request")]
        out: Option<PathBuf>,
        /// Files with objects, directories of them, or - for standard input
        #[arg(short, long, value_name = "PATH", conflicts_with = "request")]
        file: Vec<PathBuf>,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct LogsArgs {
    /// A cluster, or one of its processes
    #[arg(value_name = "CLUSTER[/PROCESS]")]
    pub(crate) of: String,
    /// Go on with what is logged from now on
    #[arg(short, long)]
    pub(crate) follow: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LinkArgs {
    /// Reset all connections of a link and every new one
    #[command(after_help = "Example:\n  isthmus link cut us-west eu-central")]
    Cut(EndsArgs),
    /// Keep connections open and forward nothing
    #[command(name = "blackhole")]
    #[command(
        after_help = "Examples:\n  isthmus link blackhole us-west eu-central\n  \
        isthmus link blackhole us-west eu-central --one-way    # eu-central does not hear us-west, which hears it"
    )]
    BlackHole(BlackHoleArgs),
    /// Let traffic pass again
    #[command(after_help = "Example:\n  isthmus link restore us-west eu-central")]
    Restore(EndsArgs),
    /// Show all links, what they do with traffic and what they have carried
    #[command(after_help = "Example:\n  isthmus link list -o json")]
    List,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BlackHoleArgs {
    #[command(flatten)]
    pub(crate) ends: EndsArgs,
    /// Only what the first one sends is lost; nothing new is opened over it
    #[arg(long)]
    pub(crate) one_way: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct EndsArgs {
    /// One end of the link
    pub(crate) one: ClusterName,
    /// The other end
    pub(crate) other: ClusterName,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterArgs {
    /// Kill every process of a cluster at once and keep them down
    #[command(after_help = "Example:\n  isthmus cluster kill eu-central")]
    Kill { name: ClusterName },
    /// Start every process of a cluster that was killed
    #[command(after_help = "Example:\n  isthmus cluster start eu-central")]
    Start { name: ClusterName },
    /// Move requests out of a cluster, step by step; it serves what no other cluster can
    #[command(after_help = "Examples:\n  \
        isthmus cluster drain eu-central                 # everything, within a minute\n  \
        isthmus cluster drain eu-central --keep 50 --over 10m\n\n\
        What has begun ends where it is. If it is interrupted, the same command goes on.\n\
        `isthmus status` shows how much each cluster takes.")]
    Drain(DrainArgs),
    /// Give a cluster its requests back, step by step
    #[command(after_help = "Example:\n  isthmus cluster undrain eu-central --over 5m")]
    Undrain {
        name: ClusterName,
        /// How long it takes
        #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = parse_span)]
        over: Duration,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DrainArgs {
    pub(crate) name: ClusterName,
    /// How long it takes
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = parse_span)]
    pub(crate) over: Duration,
    /// Percent of its requests that it keeps
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(..=100))]
    pub(crate) keep: u8,
}

impl CommandArgs {
    /// The cluster to which belongs what the command is about; `None`: the mesh, or that is no question.
    pub(crate) fn origin(&self) -> Option<&ClusterName> {
        let args = match self {
            Self::Get(args) => &args.origin,
            Self::Apply(args) => &args.origin,
            Self::Delete(args) => &args.origin,
            Self::Describe(args) => &args.origin,
            Self::Diff(args) => &args.origin,
            Self::History(args) => &args.origin,
            Self::Undo(args) => &args.origin,
            Self::Audit(AuditArgs::Verify(args) | AuditArgs::Export(args)) => args,
            _ => return None,
        };
        args.origin.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn what_people_type_is_read() {
        for line in [
            "isthmus up -f examples/one-cluster --quiet",
            "isthmus down --purge --yes",
            "isthmus control -c control.yaml",
            "isthmus control init -c control.yaml",
            "isthmus control kill --all",
            "isthmus control kill us-west",
            "isthmus run -c run.yaml",
            "isthmus run --cluster us-west --service shop/cart --port 8080 --label a=b -- cart -x",
            "isthmus get services -n shop -o json",
            "isthmus get -A workloads --cluster us-west",
            "isthmus delete service/catalog -n shop",
            "isthmus mesh sign --request a --cluster us-west --out b",
            "isthmus link blackhole us-west eu-central",
            "isthmus link blackhole us-west eu-central --one-way",
            "isthmus link list -o json",
            "isthmus --die-with-parent 7 gateway -c gateway.yaml",
            "isthmus explain shop/cart --source shop/frontend --from a --path /x --port 80",
            "isthmus load shop/cart --from a --rate 200 --duration 30s --header a=b --header c=d",
            "isthmus authority show -o json",
            "isthmus authority add eu-central",
            "isthmus authority remove eu-central",
            "isthmus authority transfer eu-central",
            "isthmus history",
            "isthmus release shop/payment --cluster us-west",
            "isthmus release --gateways",
            "isthmus history services -A --limit 5 --diff",
            "isthmus undo 42 --dry-run",
            "isthmus diff --at 10m",
            "isthmus audit verify --cluster us-west",
            "isthmus audit export",
            "isthmus cluster drain us-west --keep 30 --over 0s",
            "isthmus cluster undrain us-west",
        ] {
            let parsed = Args::try_parse_from(line.split(' '));
            assert!(parsed.is_ok(), "{line}: {parsed:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_a_usage_error() {
        for line in [
            "isthmus",
            "isthmus run",
            "isthmus run -c run.yaml --port 8080",
            "isthmus run --service cart --port 8080 -- cart",
            "isthmus control",
            "isthmus control kill",
            "isthmus control kill us-west --all",
            "isthmus down --yes",
            "isthmus delete",
            "isthmus get services -o table",
            "isthmus token create",
            "isthmus explain shop/cart --from a",
            "isthmus load cart --from a",
            "isthmus history -A",
            "isthmus history --limit 0",
            "isthmus undo",
            "isthmus undo service/cart",
            "isthmus diff",
            "isthmus diff --at 10m -f shop",
            "isthmus audit",
            "isthmus load shop/cart --rate 0",
            "isthmus load shop/cart --rate 100001",
            "isthmus load cart",
            "isthmus load shop/cart --path x",
            "isthmus explain shop/cart --source shop/frontend --path x",
        ] {
            let error = Args::try_parse_from(line.split(' ')).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
