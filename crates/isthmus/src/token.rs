//! `isthmus token create`: a join token for one process.

use std::process::ExitCode;
use std::time::Duration;

use isthmus_api::{TokenReply, TokenRequest};
use serde_json::json;

use crate::api_client::{ApiClient, ApiError, connect};
use crate::args::TokenCreateArgs;
use crate::config::{AccountRef, parse_span, runs_as};
use crate::failure::{Failure, Result};
use crate::output;
use crate::setting::Setting;

pub(crate) async fn create(setting: &Setting, args: &TokenCreateArgs) -> Result<ExitCode> {
    let request = request(setting, args)?;
    setting.required_cluster()?;
    let mut client = connect(&setting.home, setting.cluster.as_ref()).await?;
    let reply = mint(&mut client, &request).await?;
    let text = match setting.format {
        Some(format) => output::structured(&reply, format),
        None => format!("{}\n", reply.token),
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn mint(
    client: &mut ApiClient,
    request: &TokenRequest,
) -> Result<TokenReply, ApiError> {
    client.post("/mesh/v1/tokens", &json!(request)).await
}

fn request(setting: &Setting, args: &TokenCreateArgs) -> Result<TokenRequest> {
    let wrong = |what: String| Failure::usage("bad-token-request", what);
    let account: Option<AccountRef> = match &args.account {
        None => None,
        Some(text) => Some(text.parse().map_err(wrong)?),
    };
    let lifetime = parse_span(&args.lifetime).map_err(wrong)?;
    if lifetime < Duration::from_secs(1) {
        return Err(wrong("a token must live for a second at least".to_owned()));
    }
    let service = args.service.as_ref();
    let account = account.map(|mut account| {
        let fallback = service.map_or(&setting.namespace, |service| &service.namespace);
        account.namespace.get_or_insert_with(|| fallback.clone());
        account
    });
    let Some((namespace, account)) = runs_as(account.as_ref(), service) else {
        return Err(wrong(
            "neither a service nor an account is named".to_owned(),
        ));
    };
    if let Some(service) = service.filter(|service| service.namespace != namespace) {
        return Err(wrong(format!(
            "an account of namespace {namespace} cannot run {service}"
        )));
    }
    Ok(TokenRequest {
        namespace: namespace.to_string(),
        account: account.to_string(),
        service: service.map(ToString::to_string),
        lifetime_seconds: Some(lifetime.as_secs()),
    })
}
