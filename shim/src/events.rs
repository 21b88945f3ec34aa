//! Telling containerd what happens: in order, each event until containerd has taken it.
//!
//! containerd may be away (a restart, an upgrade) for as long as it likes; meanwhile events wait. Only
//! when very many wait are the oldest dropped, and that is logged.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use containerd_shim::util::convert_to_timestamp;
use containerd_shim_protos::events::task::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskOOM, TaskPaused,
    TaskResumed, TaskStart,
};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use containerd_shim_protos::ttrpc::context::with_duration;
use tokio::sync::Notify;
use trefoil_os::lock;

/// Events kept for a containerd that is away.
const CAPACITY: usize = 16 * 1024;
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_millis(10);
const LAST_RETRY: Duration = Duration::from_secs(2);

/// A message that containerd forwards to whoever subscribed to its topic.
///
/// The names stand here because asking the generated code for them would build the whole reflection of
/// its file in memory, in every shim.
pub trait Event: Message {
    /// Its topic.
    const TOPIC: &'static str;
    /// Its message type.
    const TYPE: &'static str;
}

macro_rules! events {
    ($($event:ident $topic:literal),+ $(,)?) => {
        $(impl Event for $event {
            const TOPIC: &'static str = $topic;
            const TYPE: &'static str = concat!("containerd.events.", stringify!($event));
        })+
    };
}

events! {
    TaskCreate "/tasks/create",
    TaskStart "/tasks/start",
    TaskExit "/tasks/exit",
    TaskDelete "/tasks/delete",
    TaskOOM "/tasks/oom",
    TaskExecAdded "/tasks/exec-added",
    TaskExecStarted "/tasks/exec-started",
    TaskPaused "/tasks/paused",
    TaskResumed "/tasks/resumed",
}

/// A time as messages carry it.
pub fn timestamp(time: SystemTime) -> Timestamp {
    convert_to_timestamp(Some(time.into()))
}

/// Takes events; clones share one queue.
#[derive(Clone)]
pub struct Publisher {
    namespace: Arc<str>,
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<VecDeque<Envelope>>,
    added: Notify,
    emptied: Notify,
}

impl Publisher {
    /// Publishes to the containerd that listens at `address`. Must be called within the event loop.
    pub fn new(address: &str, namespace: &str) -> Self {
        let queue = Arc::<Queue>::default();
        tokio::spawn(forward_all(queue.clone(), address.to_owned()));
        Self {
            namespace: namespace.into(),
            queue,
        }
    }

    /// Queues an event. The time it carries is now.
    pub fn publish<E: Event>(&self, event: E) {
        let value = match event.write_to_bytes() {
            Ok(value) => value,
            Err(why) => return log::error!("encode an event of topic {}: {why}", E::TOPIC),
        };
        let envelope = Envelope {
            timestamp: Some(timestamp(SystemTime::now())).into(),
            namespace: self.namespace.to_string(),
            topic: E::TOPIC.into(),
            event: Some(Any {
                type_url: E::TYPE.into(),
                value,
                ..Default::default()
            })
            .into(),
            ..Default::default()
        };
        let mut waiting = lock(&self.queue.waiting);
        if waiting.len() >= CAPACITY
            && let Some(lost) = waiting.pop_front()
        {
            log::warn!(
                "containerd has taken no events for long; lost one of topic {}",
                lost.topic
            );
        }
        waiting.push_back(envelope);
        drop(waiting);
        self.queue.added.notify_one();
    }

    /// Resolves when containerd has taken all events.
    pub async fn flush(&self) {
        loop {
            let emptied = self.queue.emptied.notified();
            if lock(&self.queue.waiting).is_empty() {
                return;
            }
            emptied.await;
        }
    }
}

async fn forward_all(queue: Arc<Queue>, address: String) {
    let mut client = None;
    let mut pause = FIRST_RETRY;
    loop {
        let next = lock(&queue.waiting).front().cloned();
        let Some(envelope) = next else {
            queue.emptied.notify_waiters();
            queue.added.notified().await;
            continue;
        };
        match forward(&mut client, &address, envelope.clone()).await {
            Ok(()) => {
                pause = FIRST_RETRY;
                let mut waiting = lock(&queue.waiting);
                // Unless it was dropped meanwhile, for want of room.
                if waiting.front() == Some(&envelope) {
                    waiting.pop_front();
                }
            }
            Err(why) => {
                log::debug!(
                    "containerd didn't take an event of topic {}: {why}",
                    envelope.topic
                );
                client = None;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LAST_RETRY);
            }
        }
    }
}

async fn forward(
    client: &mut Option<EventsClient>,
    address: &str,
    envelope: Envelope,
) -> Result<(), containerd_shim_protos::ttrpc::Error> {
    let client = match client {
        Some(client) => client,
        None => {
            let address = match address.contains("://") {
                true => address.to_owned(),
                false => format!("unix://{address}"),
            };
            client.insert(EventsClient::new(Client::connect(&address).await?))
        }
    };
    let request = ForwardRequest {
        envelope: Some(envelope).into(),
        ..Default::default()
    };
    client
        .forward(with_duration(CALL_TIMEOUT), &request)
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::protobuf::MessageFull;

    fn name_is_right<E: Event + MessageFull>() {
        assert_eq!(E::TYPE, E::descriptor().full_name());
    }

    #[test]
    fn the_types_are_called_what_containerd_calls_them() {
        name_is_right::<TaskCreate>();
        name_is_right::<TaskStart>();
        name_is_right::<TaskExit>();
        name_is_right::<TaskDelete>();
        name_is_right::<TaskOOM>();
        name_is_right::<TaskExecAdded>();
        name_is_right::<TaskExecStarted>();
        name_is_right::<TaskPaused>();
        name_is_right::<TaskResumed>();
    }

    #[tokio::test(flavor = "current_thread")]
    async fn while_containerd_is_away_the_newest_events_are_kept() {
        let publisher = Publisher::new("/nowhere/containerd.sock.ttrpc", "test");
        for pid in 0..CAPACITY + 5 {
            publisher.publish(TaskStart {
                container_id: "c".into(),
                pid: u32::try_from(pid).expect("small"),
                ..Default::default()
            });
        }
        let waiting = lock(&publisher.queue.waiting);
        assert_eq!(waiting.len(), CAPACITY);
        let first = TaskStart::parse_from_bytes(&waiting[0].event.value).expect("decode");
        assert_eq!(first.pid, 5);
    }
}
