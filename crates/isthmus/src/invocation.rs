//! What was typed, turned into what it means, and carried out.

use std::ffi::OsString;
use std::io::stdout;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::CommandFactory;
use isthmus_model::ALL_TRAFFIC;

use crate::args::{
    Args, AuditArgs, ClusterArgs, CommandArgs, ControlAction, ControlArgs, DrainArgs, LinkArgs,
    MeshArgs, ServeAction, ServeArgs, TokenArgs,
};
use crate::config::KeyEntry;
use crate::failure::{Failure, Result};
use crate::home::Home;
use crate::programs::{Kind, Task};
use crate::setting::{Setting, block_on};
use crate::up::socket::{LinkMode, Request};
use crate::{
    authority, backup, check, drain, drift, explain, faults, found, history, load, logs, mesh_key,
    nofile, output, parent, process, release, resources, revoke, rotate, run, simulate, status,
    token, up,
};

/// A command that makes sense.
#[derive(Debug)]
pub(crate) struct Invocation {
    pub(crate) setting: Setting,
    pub(crate) command: CommandArgs,
    parent: Option<u32>,
}

impl Invocation {
    /// Errors: what cannot be meant (exit 2).
    pub(crate) fn resolve(args: Args) -> Result<Self> {
        let Args { global, command } = args;
        let path = |name: &str| {
            let value: Option<OsString> = std::env::var_os(name);
            value.filter(|value| !value.is_empty()).map(PathBuf::from)
        };
        Ok(Self {
            setting: Setting {
                usual_home: global.home.is_none(),
                home: Home::resolve(global.home, path("XDG_STATE_HOME"), path("HOME"))?,
                cluster: global.cluster,
                origin: command.origin().cloned(),
                namespace: global.namespace,
                format: global.output,
                color: output::use_color(global.color, &stdout()),
            },
            command,
            parent: global.die_with_parent,
        })
    }
}

/// Runs the command; its exit code.
pub(crate) fn execute(invocation: Invocation) -> Result<ExitCode> {
    let Invocation {
        setting,
        command,
        parent,
    } = invocation;
    if let Some(parent) = parent {
        parent::end_with(parent)?;
    }
    match command {
        CommandArgs::Up(args) => up::up(&setting, &args),
        CommandArgs::Down(args) => up::down(&setting, &args),
        CommandArgs::Control(args) => control(&setting, args),
        CommandArgs::Gateway(args) => serve(&setting, args, Kind::Gateway),
        CommandArgs::Proxy(args) => serve(&setting, args, Kind::Proxy),
        CommandArgs::Run(args) => run::run(&setting, args),
        CommandArgs::Get(args) => block_on(resources::get(&setting, &args)),
        CommandArgs::Apply(args) => block_on(resources::apply(&setting, &args)),
        CommandArgs::Delete(args) => block_on(resources::delete(&setting, &args)),
        CommandArgs::Describe(args) => block_on(resources::describe(&setting, &args)),
        CommandArgs::Diff(args) => match &args.at {
            Some(at) => block_on(history::diff_at(&setting, at)),
            None => block_on(resources::diff(&setting, &args)),
        },
        CommandArgs::History(args) => block_on(history::history(&setting, &args)),
        CommandArgs::Undo(args) => block_on(history::undo(&setting, &args)),
        CommandArgs::Audit(AuditArgs::Verify(_)) => block_on(history::verify(&setting)),
        CommandArgs::Audit(AuditArgs::Export(_)) => block_on(history::export(&setting)),
        CommandArgs::Status => block_on(status::status(&setting)),
        CommandArgs::Check => block_on(check::check(&setting)),
        CommandArgs::Drift => block_on(drift::drift(&setting)),
        CommandArgs::Explain(args) => block_on(explain::explain(&setting, &args)),
        CommandArgs::Load(args) => load::load(&setting, &args),
        CommandArgs::Token(TokenArgs::Create(args)) => block_on(token::create(&setting, &args)),
        CommandArgs::Release(args) => block_on(release::release(&setting, &args)),
        CommandArgs::Revoke(args) => block_on(revoke::revoke(&setting, &args)),
        CommandArgs::Rotate(args) => block_on(rotate::rotate(&setting, &args)),
        CommandArgs::Mesh(MeshArgs::Found {
            trust_domain,
            key_file,
        }) => found::found(&setting, &trust_domain, key_file.as_deref()),
        CommandArgs::Mesh(MeshArgs::Key { file, env, command }) => {
            let entry = KeyEntry { file, env, command };
            mesh_key::key(&setting, entry)
        }
        CommandArgs::Mesh(MeshArgs::Sign { request, out, file }) => match (request, out) {
            (Some(request), Some(out)) => found::sign(&setting, &request, &out),
            _ => resources::sign(&setting, &file),
        },
        CommandArgs::Logs(args) => logs::logs(&setting, &args),
        CommandArgs::Link(args) => {
            let (ends, mode) = match args {
                LinkArgs::Cut(ends) => (ends, LinkMode::Cut),
                LinkArgs::BlackHole(args) if args.one_way => (args.ends, LinkMode::Silent),
                LinkArgs::BlackHole(args) => (args.ends, LinkMode::BlackHole),
                LinkArgs::Restore(ends) => (ends, LinkMode::Open),
                LinkArgs::List => return faults::ask(&setting, &Request::Links),
            };
            faults::ask(
                &setting,
                &Request::Link {
                    between: (ends.one.to_string(), ends.other.to_string()),
                    mode,
                },
            )
        }
        CommandArgs::Cluster(args) => {
            let request = match args {
                ClusterArgs::Kill { name } => Request::KillCluster {
                    cluster: name.to_string(),
                },
                ClusterArgs::Start { name } => Request::StartCluster {
                    cluster: name.to_string(),
                },
                ClusterArgs::Drain(DrainArgs { name, over, keep }) => {
                    return block_on(drain::drain(&setting, &name, keep, over));
                }
                ClusterArgs::Undrain { name, over } => {
                    return block_on(drain::drain(&setting, &name, ALL_TRAFFIC, over));
                }
            };
            faults::ask(&setting, &request)
        }
        CommandArgs::Backup(args) => block_on(backup::backup(&setting, &args)),
        CommandArgs::Authority(args) => block_on(authority::authority(&setting, &args)),
        CommandArgs::Simulate(args) => simulate::simulate(&setting, &args),
        CommandArgs::Completions { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "isthmus", &mut stdout());
            Ok(ExitCode::SUCCESS)
        }
        CommandArgs::ExecGuard { nofile, command } => {
            if let Some(nofile) = nofile {
                nofile::lower(nofile);
            }
            parent::exec_guarded(&command)
        }
    }
}

fn serve(setting: &Setting, args: ServeArgs, kind: Kind) -> Result<ExitCode> {
    match (args.action, args.config) {
        (Some(ServeAction::Restart { process }), _) => {
            faults::ask(setting, &Request::Restart { process })
        }
        (None, Some(config)) if args.take_over => Err(Task::TakeOver { kind, config }.begin()),
        (None, Some(config)) => Err(Task::Serve { kind, config }.begin()),
        (None, None) => Err(
            Failure::usage("no-config", "a process needs a configuration file")
                .next("name it with -c FILE"),
        ),
    }
}

fn control(setting: &Setting, args: ControlArgs) -> Result<ExitCode> {
    match (args.action, args.config) {
        (None, Some(config)) => process::control(&config),
        (None, None) => Err(Failure::usage(
            "no-config",
            "a control plane needs a configuration file",
        )
        .next("name it with -c FILE")),
        (Some(ControlAction::Init(args)), _) => found::init(&args.config),
        (Some(ControlAction::Restore(args)), _) => backup::restore(setting, &args),
        (Some(ControlAction::Kill(which)), _) => {
            let cluster = which.name.map(|name| name.to_string());
            faults::ask(setting, &Request::KillControl { cluster })
        }
        (Some(ControlAction::Start(which)), _) => {
            let cluster = which.name.map(|name| name.to_string());
            faults::ask(setting, &Request::StartControl { cluster })
        }
    }
}
