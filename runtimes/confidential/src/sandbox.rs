//! A pod that nothing protects: what is told of it in events says so first.

use std::sync::Arc;

use async_trait::async_trait;
use trefoil_core::stats::Stats;
use trefoil_core::{Container, ContainerConfig, Result, Sandbox};

/// A sandbox with a word before all that goes wrong with it.
pub(crate) struct Warned {
    /// What is warned of.
    pub(crate) inner: Arc<dyn Sandbox>,
    /// The word.
    pub(crate) warning: &'static str,
}

impl Warned {
    fn said(&self) -> String {
        format!("{} (no TEE protects this pod)", self.warning)
    }
}

#[async_trait]
impl Sandbox for Warned {
    async fn create_container(&self, config: ContainerConfig) -> Result<Arc<dyn Container>> {
        let made = self.inner.create_container(config).await;
        made.map_err(|why| why.context(self.said()))
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
}
