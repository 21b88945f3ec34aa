//! The agent's service before the gate: every method decodes, is decided on, and asks the pod for what
//! has passed.

use std::sync::Arc;

use async_trait::async_trait;
use trefoil_agent_protocol::service::{
    AdjustClockRequest, Agent, ClockAnswer, ContainerRequest, CreateContainerRequest, ExecRequest,
    KernelLogAnswer, Nothing, ProcessEnded, ProcessRequest, ProcessStarted, ProcessesAnswer,
    PutFilesRequest, ResizeRequest, SetUpRequest, SignalRequest, StatsAnswer, UpdateRequest,
    VolumeRequest,
};
use trefoil_agent_protocol::status;
use trefoil_core::{Error, Result};
use trefoil_policy::{Denial, Output, Request};
use ttrpc::r#async::TtrpcContext;

use super::{Gated, Guarded, Inner, bound_variables, decode, denied, encode};

type Answer<T> = ttrpc::Result<T>;

fn answer<T>(result: Result<T>) -> Answer<T> {
    result.map_err(|why| status::to_answer(&why))
}

/// Carries a request through even if the host gives it up: the gate has to hear how it ended.
async fn carry_out<T: Send + 'static>(
    work: impl Future<Output = Answer<T>> + Send + 'static,
) -> Answer<T> {
    let outcome = tokio::spawn(work).await;
    outcome.unwrap_or_else(|why| answer(Err(Error::internal(format!("carry out: {why}")))))
}

impl<P: Guarded> Inner<P> {
    /// What has passed of a decoded request.
    fn pass(&self, decoded: Result<Request, Denial>) -> Answer<Request> {
        let request = decoded.map_err(|denial| status::to_answer(&denied(&denial)))?;
        answer(self.admit(request)).map(|approved| approved.request)
    }
}

/// The container of a request that has passed.
macro_rules! container_of {
    ($passed:expr, $kind:ident) => {
        match $passed {
            Request::$kind { container } => encode::container(container),
            _ => return other(),
        }
    };
}

/// The container and the process of a request that has passed.
macro_rules! process_of {
    ($passed:expr, $kind:ident) => {
        match $passed {
            Request::$kind { container, process } => encode::process(container, process),
            _ => return other(),
        }
    };
}

fn other<T>() -> Answer<T> {
    answer(Err(Error::internal(
        "the gate made another request of this one",
    )))
}

#[async_trait]
impl<P: Guarded> Agent for Gated<P> {
    async fn set_up(&self, context: &TtrpcContext, request: SetUpRequest) -> Answer<Nothing> {
        let Request::SetUp(passed) = answer(self.inner.open(&request))?.request else {
            return other();
        };
        let done = self
            .inner
            .pod
            .set_up(context, encode::set_up(passed))
            .await?;
        self.inner.expect_required();
        Ok(done)
    }

    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: CreateContainerRequest,
    ) -> Answer<ProcessStarted> {
        let inner = self.inner.clone();
        carry_out(async move { answer(inner.create(request).await) }).await
    }

    async fn start_container(
        &self,
        _: &TtrpcContext,
        request: ContainerRequest,
    ) -> Answer<Nothing> {
        let inner = self.inner.clone();
        carry_out(async move { answer(inner.start(request).await) }).await?;
        Ok(Nothing::default())
    }

    async fn delete_container(
        &self,
        _: &TtrpcContext,
        request: ContainerRequest,
    ) -> Answer<Nothing> {
        let decoded = decode::container("DeleteContainer", request, |container| {
            Request::DeleteContainer { container }
        });
        let message = container_of!(self.inner.pass(decoded)?, DeleteContainer);
        let inner = self.inner.clone();
        carry_out(async move {
            let id = message.container.clone();
            answer(inner.pod.remove(message).await)?;
            inner.forget(&id).await;
            Ok(Nothing::default())
        })
        .await
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecRequest) -> Answer<ProcessStarted> {
        carry_out(exec(self.inner.clone(), request)).await
    }

    async fn wait(&self, context: &TtrpcContext, request: ProcessRequest) -> Answer<ProcessEnded> {
        let decoded = decode::process("Wait", request, |container, process| Request::Wait {
            container,
            process,
        });
        let message = process_of!(self.inner.pass(decoded)?, Wait);
        let (id, name) = (message.container.clone(), message.process.clone());
        let ended = self.inner.pod.wait(context, message).await?;
        // The host knows of it from here on, so the gate has to.
        self.inner.tell(|gate| match name.is_empty() {
            true => gate.ended(&id, ended.code == 0),
            false => gate.exec_ended(&id, &name),
        });
        Ok(ended)
    }

    async fn signal(&self, context: &TtrpcContext, request: SignalRequest) -> Answer<Nothing> {
        match self.inner.pass(decode::signal(request))? {
            Request::Signal(signal) => {
                let message = encode::signal(signal);
                self.inner.pod.signal(context, message).await
            }
            _ => other(),
        }
    }

    async fn resize(&self, context: &TtrpcContext, request: ResizeRequest) -> Answer<Nothing> {
        match self.inner.pass(decode::resize(request))? {
            Request::Resize {
                container,
                process,
                width,
                height,
            } => {
                let message = encode::resize(container, process, width, height);
                self.inner.pod.resize(context, message).await
            }
            _ => other(),
        }
    }

    async fn close_stdin(
        &self,
        context: &TtrpcContext,
        request: ProcessRequest,
    ) -> Answer<Nothing> {
        let decoded = decode::process("CloseStdin", request, |container, process| {
            Request::CloseStdin { container, process }
        });
        let message = process_of!(self.inner.pass(decoded)?, CloseStdin);
        self.inner.pod.close_stdin(context, message).await
    }

    async fn pause(&self, context: &TtrpcContext, request: ContainerRequest) -> Answer<Nothing> {
        let decoded = decode::container("Pause", request, |container| Request::Pause { container });
        let message = container_of!(self.inner.pass(decoded)?, Pause);
        self.inner.pod.pause(context, message).await
    }

    async fn resume(&self, context: &TtrpcContext, request: ContainerRequest) -> Answer<Nothing> {
        let decoded =
            decode::container("Resume", request, |container| Request::Resume { container });
        let message = container_of!(self.inner.pass(decoded)?, Resume);
        self.inner.pod.resume(context, message).await
    }

    async fn update(&self, context: &TtrpcContext, request: UpdateRequest) -> Answer<Nothing> {
        match self.inner.pass(decode::update(request))? {
            Request::Update {
                container,
                resources,
            } => {
                let message = encode::update(container, &resources);
                self.inner.pod.update(context, message).await
            }
            _ => other(),
        }
    }

    async fn stats(
        &self,
        context: &TtrpcContext,
        request: ContainerRequest,
    ) -> Answer<StatsAnswer> {
        let decoded = decode::container("Stats", request, |container| Request::Stats { container });
        let message = container_of!(self.inner.pass(decoded)?, Stats);
        self.inner.pod.stats(context, message).await
    }

    async fn processes(
        &self,
        context: &TtrpcContext,
        request: ContainerRequest,
    ) -> Answer<ProcessesAnswer> {
        let decoded = decode::container("Processes", request, |container| Request::Processes {
            container,
        });
        let message = container_of!(self.inner.pass(decoded)?, Processes);
        self.inner.pod.processes(context, message).await
    }

    async fn out_of_memory(
        &self,
        context: &TtrpcContext,
        request: ContainerRequest,
    ) -> Answer<Nothing> {
        let decoded = decode::container("OutOfMemory", request, |container| Request::OutOfMemory {
            container,
        });
        let message = container_of!(self.inner.pass(decoded)?, OutOfMemory);
        self.inner.pod.out_of_memory(context, message).await
    }

    async fn refresh_volume(&self, _: &TtrpcContext, request: VolumeRequest) -> Answer<Nothing> {
        // The gate passes none.
        self.inner.pass(decode::refresh(request))?;
        other()
    }

    async fn put_files(&self, _: &TtrpcContext, request: PutFilesRequest) -> Answer<Nothing> {
        let inner = self.inner.clone();
        carry_out(async move { answer(inner.put_files(request).await) }).await?;
        Ok(Nothing::default())
    }

    async fn adjust_clock(
        &self,
        context: &TtrpcContext,
        request: AdjustClockRequest,
    ) -> Answer<ClockAnswer> {
        match self.inner.pass(decode::adjust_clock(&request))? {
            Request::AdjustClock { offset, step } => {
                let message = encode::adjust_clock(offset, step);
                self.inner.pod.adjust_clock(context, message).await
            }
            _ => other(),
        }
    }

    async fn kernel_log(
        &self,
        context: &TtrpcContext,
        request: Nothing,
    ) -> Answer<KernelLogAnswer> {
        let decoded = decode::nothing("KernelLog", &request, Request::KernelLog);
        self.inner.pass(decoded)?;
        self.inner.pod.kernel_log(context, Nothing::default()).await
    }

    async fn power_off(&self, context: &TtrpcContext, request: Nothing) -> Answer<Nothing> {
        let decoded = decode::nothing("PowerOff", &request, Request::PowerOff);
        self.inner.pass(decoded)?;
        self.inner.pod.power_off(context, Nothing::default()).await
    }
}

async fn exec<P: Guarded>(inner: Arc<Inner<P>>, request: ExecRequest) -> Answer<ProcessStarted> {
    let request = decode::exec(request).map_err(|denial| status::to_answer(&denied(&denial)))?;
    let approved = answer(inner.admit(request))?;
    let Request::Exec(passed) = approved.request else {
        return other();
    };
    let (id, name, streams) = (
        passed.container.clone(),
        passed.process.clone(),
        passed.streams,
    );
    let bound = bound_variables(&passed.configuration.env, &approved.bound);
    let mut message = encode::exec(*passed);
    if approved.output == Output::Withheld {
        message.streams = Some(encode::without_output(streams)).into();
        inner.pod.withhold(encode::outputs(streams), "");
    }
    let run = inner.pod.run(message, bound).await;
    if run.is_err() {
        inner.tell(|gate| gate.exec_ended(&id, &name));
    }
    answer(run)
}
