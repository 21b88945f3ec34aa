//! Kills for want of memory, of which a guest tells as often as it likes.
//!
//! Each becomes an event of containerd's, which goes to all who listen there. So a guest is asked for the
//! next only so often, and what it tells meanwhile is one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use trefoil_agent_protocol::service::ContainerRequest;
use trefoil_core::ErrorKind;

use crate::guest::Guest;
use crate::guest::agent::{answer, waiting};

/// How many may follow each other at once.
const BURST: u32 = 4;

/// How long it takes until one more may.
const PAUSE: Duration = Duration::from_secs(1);

/// The kills of one container's processes.
#[derive(Debug, Default)]
pub(crate) struct OomKills(Arc<Untold>);

/// Whether there was one that nobody has been told of yet.
#[derive(Debug, Default)]
struct Untold {
    any: AtomicBool,
    more: Notify,
}

impl OomKills {
    /// Asks for them until there can be none. Must be called within the event loop.
    pub fn watch(guest: Arc<Guest>, request: ContainerRequest) -> Self {
        let kills = Self::default();
        tokio::spawn(watch(guest, request, kills.0.clone()));
        kills
    }

    /// Resolves when there has been one since the last call.
    pub async fn next(&self) {
        loop {
            let more = self.0.more.notified();
            if self.0.any.swap(false, Ordering::Relaxed) {
                return;
            }
            more.await;
        }
    }
}

async fn watch(guest: Arc<Guest>, request: ContainerRequest, untold: Arc<Untold>) {
    let doing = || format!("watch the memory of container {}", request.container);
    let mut allowed = BURST;
    let mut since = tokio::time::Instant::now();
    loop {
        let next = guest.agent.client.out_of_memory(waiting(), &request);
        if let Err(why) = answer(doing, next).await {
            if !matches!(why.kind(), ErrorKind::NotFound | ErrorKind::Unavailable) {
                log::warn!("{why}");
            }
            return;
        }
        untold.any.store(true, Ordering::Relaxed);
        untold.more.notify_one();

        let passed = since.elapsed().as_secs() / PAUSE.as_secs();
        if passed > 0 {
            since = tokio::time::Instant::now();
            allowed = BURST.min(allowed.saturating_add(u32::try_from(passed).unwrap_or(BURST)));
        }
        allowed = allowed.saturating_sub(1);
        if allowed == 0 {
            tokio::time::sleep(PAUSE).await;
        }
    }
}
