//! A customer: visits the shop's frontend at a steady rate, whatever the replies are.

use std::time::Duration;

use http::HeaderValue;
use tokio::time::{MissedTickBehavior, interval};

use crate::client;
use crate::server::Stop;
use crate::settings::Settings;

/// Visits until SIGTERM or SIGINT. What goes wrong with a visit is printed and ends nothing.
///
/// Errors: signals cannot be waited for.
pub(crate) async fn visit(settings: Settings) -> anyhow::Result<()> {
    let mut stop = Stop::listen()?;
    let mut visits = interval(Duration::from_secs(1) / settings.rate);
    visits.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut number = 0_u64;
    loop {
        tokio::select! {
            () = stop.wait() => return Ok(()),
            _ = visits.tick() => {}
        }
        number += 1;
        let id = HeaderValue::from_str(&format!("visit-{}-{number}", settings.cluster))?;
        let proxy = settings.proxy.clone();
        tokio::spawn(async move {
            let answer = client::call(proxy.as_deref(), "frontend", &id).await;
            if !answer.ok {
                eprintln!("isthmus-demo: a visit went wrong: {}", answer.shown);
            }
        });
    }
}
