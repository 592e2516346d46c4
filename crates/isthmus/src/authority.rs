//! `isthmus authority`: whose control planes accept config. Who is to is config itself (`voters` of the
//! Mesh); whoever leads brings them there, and here one can watch it.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use isthmus_api::{
    AuthorityView, RESET_PURPOSE, ResetRequest, ResetStatement, StatusView, VoterPart, VoterView,
    object,
};
use isthmus_model::{ClusterName, Kind};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::api_client::{ApiClient, ApiError, connect};
use crate::args::AuthorityArgs;
use crate::failure::{Failure, Result};
use crate::mesh_key;
use crate::output::{self, table};
use crate::setting::Setting;
use crate::signer::Signer;
use crate::status::{STATUS_PATH, contact};

pub(crate) const PATH: &str = "/mesh/v1/authority";
const LEADER_PATH: &str = "/mesh/v1/authority/leader";
const RESET_PATH: &str = "/mesh/v1/authority/reset";
/// How long a cluster may take to become a voter, or to be one no more.
const PATIENCE: Duration = Duration::from_mins(1);
const AGAIN: Duration = Duration::from_millis(200);
/// How often a change is tried when others change the Mesh meanwhile.
const TRIES: usize = 5;

pub(crate) async fn authority(setting: &Setting, args: &AuthorityArgs) -> Result<ExitCode> {
    let mut client = connect(&setting.home, setting.cluster.as_ref()).await?;
    let view = match args {
        AuthorityArgs::Show => client.get(PATH).await?,
        AuthorityArgs::Transfer { name } => {
            let to = json!({"cluster": name.as_str()});
            client.post(LEADER_PATH, &to).await?
        }
        AuthorityArgs::Add { name } => {
            declared(&mut client, name).await?;
            change(&mut client, setting, name, true).await?
        }
        AuthorityArgs::Remove { name } => change(&mut client, setting, name, false).await?,
        AuthorityArgs::Reset { accept_loss } => reset(&mut client, setting, *accept_loss).await?,
    };
    let text = match setting.format {
        Some(format) => output::structured(&view, format),
        None => render(&view),
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

async fn declared(client: &mut ApiClient, name: &ClusterName) -> Result<()> {
    let status: StatusView = client.get(STATUS_PATH).await?;
    if status
        .clusters
        .iter()
        .any(|cluster| cluster.name == name.as_str())
    {
        return Ok(());
    }
    let what = format!("the mesh has no cluster {name}");
    Err(Failure::failed("no-such-cluster", what).next("`isthmus get clusters` lists all"))
}

/// Writes who is to vote, and waits until it is so.
pub(crate) async fn change(
    client: &mut ApiClient,
    setting: &Setting,
    name: &ClusterName,
    joins: bool,
) -> Result<AuthorityView> {
    write(client, &Signer::of(&setting.home), name, joins).await?;
    let patience = Instant::now() + PATIENCE;
    let mut said = String::new();
    loop {
        let view: AuthorityView = client.get(PATH).await?;
        let found = view
            .voters
            .iter()
            .find(|voter| voter.cluster == name.as_str());
        let is_so = found.map_or(!joins, |voter| joins && voter.part == VoterPart::Votes);
        // Whoever follows knows of others only what it was told.
        if is_so && view.leader.is_some() {
            return Ok(view);
        }
        let state = found.map_or_else(|| format!("{name} is not heard of yet"), progress);
        if Instant::now() >= patience {
            let what = format!("not so after {} s: {state}", PATIENCE.as_secs());
            return Err(Failure::failed("voters-pending", what).next(
                "it goes on by itself as soon as it can; `isthmus authority show` tells how far it is",
            ));
        }
        if setting.format.is_none() && state != said {
            eprintln!("{state}");
            said = state;
        }
        sleep(AGAIN).await;
    }
}

fn progress(voter: &VoterView) -> String {
    let VoterView { cluster, .. } = voter;
    match (voter.part, voter.lacks) {
        (VoterPart::Joins, None) => format!("{cluster} is asked to join"),
        (VoterPart::Joins, Some(0)) => format!("{cluster} has everything and gets its vote"),
        (VoterPart::Joins, Some(lacks)) => format!("{cluster} lacks {lacks} decisions"),
        (VoterPart::Leaves, _) if voter.leads => format!("{cluster} lets another one lead"),
        (VoterPart::Leaves, _) => format!("{cluster} leaves"),
        (VoterPart::Votes, _) => format!("{cluster} votes"),
    }
}

async fn write(
    client: &mut ApiClient,
    signer: &Signer,
    name: &ClusterName,
    joins: bool,
) -> Result<()> {
    let status: StatusView = client.get(STATUS_PATH).await?;
    let path = object(Kind::Mesh, None, &status.mesh);
    let mut tries = 0;
    loop {
        let view: AuthorityView = client.get(PATH).await?;
        let Some(mut mesh) = client.find(&path).await? else {
            let what = format!("there is no Mesh {}, and it says who votes", status.mesh);
            return Err(Failure::failed("no-mesh", what).next("apply one"));
        };
        signer.check_repeats(&mesh, &format!("Mesh/{}", status.mesh))?;
        let voters = changed(&mesh, &view, name, joins)?;
        let present = mesh.clone();
        mesh["spec"]["voters"] = json!(voters);
        let mesh = signer.sign(mesh, Some(&present))?;
        tries += 1;
        match client.put(&path, &mesh).await {
            Ok(_) => return Ok(()),
            // Somebody else has changed it since it was read.
            Err(ApiError::Refused(failure)) if failure.code == 409 && tries < TRIES => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// One cluster goes on alone, by the word of whoever holds the mesh key.
async fn reset(
    client: &mut ApiClient,
    setting: &Setting,
    accept_loss: bool,
) -> Result<AuthorityView> {
    let cluster = setting.required_cluster()?;
    let status: StatusView = client.get(STATUS_PATH).await?;
    let view: AuthorityView = client.get(PATH).await?;
    if view.leader.is_some() && view.accepts {
        let what = "the authority accepts changes: there is nothing to begin anew";
        return Err(Failure::failed("authority-leads", what)
            .next("`isthmus authority remove` takes the vote of a cluster that is lost"));
    }
    if !accept_loss {
        let position = status.position;
        let what = format!("what others accepted beyond change {position} would be void");
        let failure = Failure::usage("loss-not-accepted", what).next(format!(
            "`isthmus authority reset --cluster {cluster} --accept-loss` has {cluster} go on with what it has"
        ));
        let why = view.reason.into_iter();
        return Err(why.fold(failure, Failure::cause));
    }
    let key = mesh_key::read(&setting.home)?;
    let random = |error: getrandom::Error| {
        Failure::failed("no-randomness", "the system gives no random bytes")
            .cause(error.to_string())
    };
    let statement = ResetStatement {
        number: view.resets.saturating_add(1),
        cluster: cluster.to_string(),
        position: status.position,
        group: getrandom::u64().map_err(random)?,
        time: Timestamp::now().to_string(),
    };
    let statement = json!(statement).to_string();
    let signature = key.sign_statement(RESET_PURPOSE, statement.as_bytes());
    let signature = signature.map_err(|error| {
        Failure::failed("not-signed", "the statement cannot be signed").caused_by(&error)
    })?;
    let request = ResetRequest {
        signature: output::hex(&signature),
        statement,
    };
    let _: AuthorityView = client.post(RESET_PATH, &json!(request)).await?;
    let patience = Instant::now() + PATIENCE;
    loop {
        let view: AuthorityView = client.get(PATH).await?;
        if view.leader.as_deref() == Some(cluster.as_str()) && view.accepts {
            if setting.format.is_none() {
                eprintln!(
                    "{cluster} goes on from change {}; what others had beyond is void: `isthmus history --rejected`",
                    status.position
                );
            }
            return Ok(view);
        }
        if Instant::now() >= patience {
            let what = format!("{cluster} does not accept changes yet");
            return Err(Failure::failed("not-begun", what).next("look at `isthmus logs`"));
        }
        sleep(AGAIN).await;
    }
}

/// Who is to vote, in name order.
fn changed(
    mesh: &Value,
    view: &AuthorityView,
    name: &ClusterName,
    joins: bool,
) -> Result<Vec<String>> {
    let written = mesh["spec"]["voters"].as_array().map(|names| {
        let names = names.iter().filter_map(Value::as_str);
        names.map(str::to_owned).collect()
    });
    let mut voters: Vec<String> = written.unwrap_or_else(|| {
        let voters = view.voters.iter();
        voters.map(|voter| voter.cluster.clone()).collect()
    });
    voters.retain(|voter| voter != name.as_str());
    if joins {
        voters.push(name.to_string());
    }
    voters.sort();
    if voters.is_empty() {
        let what = format!("{name} is the only one that votes");
        return Err(Failure::failed("last-voter", what)
            .next("`isthmus authority add` gives another cluster a vote first"));
    }
    Ok(voters)
}

fn render(view: &AuthorityView) -> String {
    let AuthorityView {
        cluster, position, ..
    } = view;
    let led = match (&view.leader, view.term) {
        (Some(leader), Some(term)) => format!("led by {leader} (term {term})"),
        _ => "led by nobody that is known here".to_owned(),
    };
    let mut text = format!("authority {led}, config position {position}, seen from {cluster}\n");
    if let Some(reason) = &view.reason {
        let accepts = if view.accepts {
            ""
        } else {
            "changes are not accepted now: "
        };
        let _ = writeln!(text, "{accepts}{reason}");
    }
    let rows = view.voters.iter().map(|voter| {
        let part = match voter.part {
            VoterPart::Votes if voter.leads => "leads",
            VoterPart::Votes => "votes",
            VoterPart::Joins => "joins",
            VoterPart::Leaves => "leaves",
        };
        let contact = contact(voter.contact, voter.age_ms);
        let lacks = voter
            .lacks
            .map_or("-".to_owned(), |lacks| lacks.to_string());
        [voter.cluster.clone(), part.to_owned(), contact, lacks]
    });
    // Writing into a string cannot fail.
    let _ = write!(
        text,
        "\n{}",
        table(&["CLUSTER", "PART", "CONTACT", "LACKS"], rows)
    );
    let voting = view
        .voters
        .iter()
        .filter(|voter| voter.part != VoterPart::Joins);
    let _ = writeln!(text, "\n{}", tolerance(voting.count()));
    text
}

/// How many of those who vote can be lost.
fn tolerance(voters: usize) -> String {
    match (voters, voters.saturating_sub(1) / 2) {
        (1, _) => "it must not be lost: of three that vote, any one can be".to_owned(),
        (2, _) => "neither must be lost: of three that vote, any one can be".to_owned(),
        (_, 1) => "any one of them can be lost".to_owned(),
        (_, lost) => format!("any {lost} of them can be lost"),
    }
}

#[cfg(test)]
mod tests {
    use isthmus_api::Contact;

    use super::*;

    fn view(voters: &[(&str, VoterPart)]) -> AuthorityView {
        let voters = voters.iter().map(|(cluster, part)| VoterView {
            cluster: (*cluster).to_owned(),
            part: *part,
            leads: *cluster == "us",
            contact: if *cluster == "us" {
                Contact::Own
            } else {
                Contact::Lost
            },
            age_ms: (*cluster != "us").then_some(42_000),
            lacks: Some(3),
        });
        AuthorityView {
            cluster: "us".to_owned(),
            leader: Some("us".to_owned()),
            term: Some(4),
            position: 57,
            accepts: true,
            reason: None,
            resets: 0,
            voters: voters.collect(),
        }
    }

    #[test]
    fn who_votes_is_added_to_and_taken_from() {
        use VoterPart::Votes;
        let view = view(&[("us", Votes)]);
        let (eu, us): (ClusterName, ClusterName) = ("eu".parse().unwrap(), "us".parse().unwrap());
        let silent = json!({"spec": {}});
        assert_eq!(changed(&silent, &view, &eu, true).unwrap(), ["eu", "us"]);
        let written = json!({"spec": {"voters": ["us", "eu"]}});
        assert_eq!(changed(&written, &view, &eu, true).unwrap(), ["eu", "us"]);
        assert_eq!(changed(&written, &view, &us, false).unwrap(), ["eu"]);
        assert_eq!(
            changed(&silent, &view, &us, false).unwrap_err().code,
            "last-voter"
        );
    }

    #[test]
    fn it_is_shown_as_a_table() {
        use VoterPart::{Joins, Votes};
        let text = render(&view(&[("ap", Joins), ("us", Votes)]));
        assert_eq!(
            text,
            "authority led by us (term 4), config position 57, seen from us\n\
             \n\
             CLUSTER  PART   CONTACT                          LACKS\n\
             ap       joins  unreachable, last seen 42 s ago  3\n\
             us       leads  own                              3\n\
             \n\
             it must not be lost: of three that vote, any one can be\n"
        );
        assert_eq!(tolerance(3), "any one of them can be lost");
        assert_eq!(tolerance(5), "any 2 of them can be lost");
    }
}
