//! A pod that nothing protects: what is told of it in events says so first.

use std::sync::Arc;

use async_trait::async_trait;
use oci_spec::runtime as oci;
use trefoil_core::stats::Stats;
use trefoil_core::{Container, ContainerConfig, ExecConfig, Process, Result, Sandbox};

/// A sandbox with a word before all that goes wrong with it.
pub(crate) struct Warned {
    /// What is warned of.
    pub(crate) inner: Arc<dyn Sandbox>,
    /// The word.
    pub(crate) warning: &'static str,
}

fn said(warning: &str) -> String {
    format!("{warning} (no TEE protects this pod)")
}

impl Warned {
    fn said(&self) -> String {
        said(self.warning)
    }
}

#[async_trait]
impl Sandbox for Warned {
    async fn create_container(&self, config: ContainerConfig) -> Result<Arc<dyn Container>> {
        let made = self.inner.create_container(config).await;
        let inner = made.map_err(|why| why.context(self.said()))?;
        Ok(Arc::new(WarnedContainer {
            inner,
            warning: self.warning,
        }))
    }

    fn pid(&self) -> Option<u32> {
        self.inner.pid()
    }

    async fn ended(&self) -> String {
        let why = self.inner.ended().await;
        format!("{}: {why}", self.said())
    }

    async fn ping(&self) -> Result<()> {
        let answered = self.inner.ping().await;
        answered.map_err(|why| why.context(self.said()))
    }

    async fn stats(&self) -> Result<Option<Stats>> {
        self.inner.stats().await
    }

    async fn stop(&self) -> Result<()> {
        self.inner.stop().await
    }

    async fn delete(&self) -> Result<()> {
        self.inner.delete().await
    }
}

/// A container of such a sandbox: so does what is refused of it.
struct WarnedContainer {
    inner: Arc<dyn Container>,
    warning: &'static str,
}

impl WarnedContainer {
    fn warned<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.map_err(|why| why.context(said(self.warning)))
    }
}

#[async_trait]
impl Container for WarnedContainer {
    fn init(&self) -> Arc<dyn Process> {
        self.inner.init()
    }

    async fn start(&self) -> Result<()> {
        self.warned(self.inner.start().await)
    }

    async fn exec(&self, config: ExecConfig) -> Result<Arc<dyn Process>> {
        self.warned(self.inner.exec(config).await)
    }

    async fn kill_all(&self, signal: i32) -> Result<()> {
        self.inner.kill_all(signal).await
    }

    async fn pause(&self) -> Result<()> {
        self.warned(self.inner.pause().await)
    }

    async fn resume(&self) -> Result<()> {
        self.warned(self.inner.resume().await)
    }

    async fn update(&self, resources: &oci::LinuxResources) -> Result<()> {
        self.warned(self.inner.update(resources).await)
    }

    async fn stats(&self) -> Result<Stats> {
        self.inner.stats().await
    }

    async fn processes(&self) -> Result<Vec<u32>> {
        self.inner.processes().await
    }

    fn owns_its_processes(&self) -> bool {
        self.inner.owns_its_processes()
    }

    async fn out_of_memory(&self) {
        self.inner.out_of_memory().await;
    }

    async fn delete(&self) -> Result<()> {
        self.inner.delete().await
    }
}

#[cfg(test)]
mod tests {
    use trefoil_core::{Error, RuntimeOptions, Stdio};

    use super::*;

    /// A sandbox of which nothing goes well.
    struct Broken;

    #[async_trait]
    impl Sandbox for Broken {
        async fn create_container(&self, _: ContainerConfig) -> Result<Arc<dyn Container>> {
            Err(Error::precondition("the policy denies it"))
        }

        fn pid(&self) -> Option<u32> {
            Some(7)
        }

        async fn ended(&self) -> String {
            "a block does not match".into()
        }

        async fn ping(&self) -> Result<()> {
            Err(Error::precondition("nobody answers"))
        }

        async fn stats(&self) -> Result<Option<Stats>> {
            Ok(None)
        }

        async fn stop(&self) -> Result<()> {
            Ok(())
        }

        async fn delete(&self) -> Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn whatever_goes_wrong_with_what_is_simulated_is_told_with_that_word() {
        let warned = Warned {
            inner: Arc::new(Broken),
            warning: "SIMULATED",
        };
        let config = ContainerConfig {
            id: "c".into(),
            bundle: "/b".into(),
            spec: Arc::default(),
            rootfs: Vec::new(),
            stdio: Stdio::default(),
            options: RuntimeOptions::default(),
        };
        let made = warned.create_container(config).await;
        let said = [
            made.map(drop).expect_err("it fails").to_string(),
            warned.ping().await.expect_err("it fails").to_string(),
            warned.ended().await,
        ];
        for (said, why) in said.iter().zip(["denies it", "nobody", "a block"]) {
            assert!(
                said.starts_with("SIMULATED (no TEE protects this pod): ") && said.contains(why),
                "{said}"
            );
        }
        assert_eq!(warned.pid(), Some(7));
    }
    /// A container that refuses everything.
    struct Refusing;

    #[async_trait]
    impl Container for Refusing {
        fn init(&self) -> Arc<dyn Process> {
            panic!("nobody asks for it")
        }

        async fn start(&self) -> Result<()> {
            Err(Error::precondition("no start"))
        }

        async fn exec(&self, _: ExecConfig) -> Result<Arc<dyn Process>> {
            Err(Error::precondition("no exec"))
        }

        async fn kill_all(&self, _: i32) -> Result<()> {
            Ok(())
        }

        async fn pause(&self) -> Result<()> {
            Err(Error::precondition("no pause"))
        }

        async fn resume(&self) -> Result<()> {
            Err(Error::precondition("no resume"))
        }

        async fn update(&self, _: &oci::LinuxResources) -> Result<()> {
            Err(Error::precondition("no update"))
        }

        async fn stats(&self) -> Result<Stats> {
            Err(Error::precondition("no stats"))
        }

        async fn processes(&self) -> Result<Vec<u32>> {
            Ok(vec![7])
        }

        fn owns_its_processes(&self) -> bool {
            true
        }

        async fn out_of_memory(&self) {}

        async fn delete(&self) -> Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn so_is_what_is_refused_of_a_container() {
        let warned = WarnedContainer {
            inner: Arc::new(Refusing),
            warning: "SIMULATED",
        };
        let exec = ExecConfig {
            id: "e".into(),
            process: oci::Process::default(),
            stdio: Stdio::default(),
        };
        let resources = oci::LinuxResources::default();
        let outcomes = [
            warned.start().await,
            warned.exec(exec).await.map(drop),
            warned.pause().await,
            warned.resume().await,
            warned.update(&resources).await,
        ];
        for (outcome, what) in outcomes
            .into_iter()
            .zip(["start", "exec", "pause", "resume", "update"])
        {
            let said = outcome.expect_err(what).to_string();
            assert_eq!(
                said,
                format!("SIMULATED (no TEE protects this pod): no {what}")
            );
        }
        assert_eq!(warned.processes().await.expect("one"), [7]);
        assert!(warned.owns_its_processes());
    }
}
