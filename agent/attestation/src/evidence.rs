//! What a TEE says of its guest.

use async_trait::async_trait;
use serde_json::{Value, json};
use trefoil_initdata::hex;

use crate::encoding::to_standard;

/// How many bytes of the guest's choice a report binds.
pub const REPORT_DATA: usize = 64;

/// A TEE, as a guest asks it.
#[async_trait]
pub trait Evidence: Send + Sync {
    /// Its name in the protocol: `snp`, `tdx`, `sample`.
    fn tee(&self) -> &'static str;

    /// Evidence that binds these bytes, as the protocol's verifiers expect it of this TEE.
    ///
    /// # Errors
    /// One sentence: why the TEE gives none.
    async fn evidence(&self, report_data: &[u8; REPORT_DATA]) -> Result<Value, String>;
}

/// A TEE that protects nothing, and says so.
///
/// In the protocol it is `sample`, whose evidence nobody signs: whoever takes it believes the guest's host.
/// Its fields beyond `svn` and `report_data` are ours.
#[derive(Debug, Clone)]
pub struct Simulated {
    launch_digest: Vec<u8>,
    init_data: Vec<u8>,
}

impl Simulated {
    /// One of a guest that was launched from what has this digest, and whose initdata has that.
    pub fn new(launch_digest: &[u8], init_data: &[u8]) -> Self {
        Self {
            launch_digest: launch_digest.to_vec(),
            init_data: init_data.to_vec(),
        }
    }
}

#[async_trait]
impl Evidence for Simulated {
    fn tee(&self) -> &'static str {
        "sample"
    }

    async fn evidence(&self, report_data: &[u8; REPORT_DATA]) -> Result<Value, String> {
        Ok(json!({
            "svn": "1",
            "report_data": to_standard(report_data),
            "simulated": "SIMULATED: no TEE, this protects nothing",
            "launch_digest": hex(&self.launch_digest),
            "init_data": hex(&self.init_data),
        }))
    }
}
