//! For tests that `make counts` counts.

use std::time::Duration;

use tokio::runtime::LocalRuntime;
use tokio::time::timeout;

use super::Scene;
use crate::process::local_runtime;

/// Whatever is counted takes fifty times as long, and is not late for that.
const PATIENT: Duration = Duration::from_mins(2);

/// Instructions are counted while this runs, and divided by a hundred.
#[inline(never)]
fn counted<T>(mut act: impl FnMut() -> T) -> T {
    for _ in 1..100 {
        std::hint::black_box(act());
    }
    act()
}

/// Does it a few times before, since what is made on first use is no part of it.
pub(crate) fn count<T>(mut act: impl FnMut() -> T) -> T {
    for _ in 0..20 {
        act();
    }
    counted(act)
}

/// A thread that everything runs on.
pub(crate) struct Thread(LocalRuntime);

impl Thread {
    pub(crate) fn new() -> Self {
        Self(local_runtime().unwrap())
    }

    pub(crate) fn run<T>(&self, act: impl Future<Output = T>) -> T {
        let act = async { timeout(PATIENT, act).await.expect("it hangs") };
        self.0.block_on(act)
    }

    /// Has callers wait for longer than they do elsewhere.
    pub(crate) fn scene(&self, scene: impl Future<Output = Scene>) -> Scene {
        self.run(async {
            let mut scene = scene.await;
            let patient = Some(PATIENT);
            scene.decree(
                |policy| (policy.connect_timeout, policy.request_timeout) = (patient, patient),
                |_| {},
            );
            scene
        })
    }
}
