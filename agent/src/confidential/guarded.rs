//! The pod as the gate has it: what has passed is done here, and nowhere else.

use async_trait::async_trait;
use futures::future::BoxFuture;
use nix::unistd::write;
use trefoil_agent_protocol::service::{
    ContainerRequest, CreateContainerRequest, ExecRequest, ProcessStarted, PutFilesRequest,
    SetUpRequest, Streams,
};
use trefoil_core::{Error, Result};
use trefoil_policy::{Gate, GrantedRoot};

use crate::gate::Guarded;
use crate::service::{Bound, Pod};

#[async_trait]
impl Guarded for Pod {
    fn open(&self, request: &SetUpRequest) -> Result<Gate> {
        self.author.open(request)
    }

    async fn make(
        &self,
        request: CreateContainerRequest,
        root: GrantedRoot,
        bound: Bound,
    ) -> Result<ProcessStarted> {
        let container = request.container.clone();
        let made = self.create(request, root, bound).await;
        if made.is_err()
            && let Err(why) = self.author.pod().and_then(|pod| pod.forget(&container))
        {
            log::warn!("{why}");
        }
        made
    }

    async fn start(&self, request: ContainerRequest) -> Result<()> {
        self.container(&request.container)?.inner.start().await
    }

    async fn remove(&self, request: ContainerRequest) -> Result<()> {
        self.delete(&request.container).await
    }

    async fn run(&self, request: ExecRequest, bound: Bound) -> Result<ProcessStarted> {
        self.exec(request, bound).await
    }

    async fn put(&self, request: PutFilesRequest, bound: Bound) -> Result<()> {
        self.put_files(request, bound).await
    }

    fn end_of(&self, container: &str) -> Option<BoxFuture<'static, bool>> {
        let init = self.container(container).ok()?.inner.init();
        Some(Box::pin(async move { init.wait().await.code == 0 }))
    }

    fn withhold(&self, streams: Streams, line: &'static str) {
        let all = self.streams.clone();
        tokio::spawn(async move {
            match all.open(&streams).await {
                Ok(stdio) => {
                    if let Some(output) = stdio.stdout {
                        // A host that does not read it has read all there is.
                        let _ = write(output.write, line.as_bytes());
                    }
                }
                Err(why) => log::warn!("withhold a container's output: {why}"),
            }
        });
    }

    fn give_up(&self, why: Error) {
        self.author.give_up(why);
    }
}
