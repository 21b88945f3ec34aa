//! How long a broker may take, and how much it may say.

use std::time::Duration;

/// Bounds of an exchange. What they bound is chosen by the broker, or by the host that carries its bytes.
#[derive(Debug, Clone)]
pub struct Limits {
    /// For a connection, TLS and all.
    pub connect: Duration,
    /// From a question to the end of its answer.
    pub answer: Duration,
    /// For one exchange with all its secrets.
    pub exchange: Duration,
    /// How often an exchange is begun, where the broker is away.
    pub attempts: u32,
    /// The pause before the second attempt. Each further one is twice as long.
    pub pause: Duration,
    /// For all exchanges that a request of the agent's needs, and those of others that it waits for.
    pub whole: Duration,
    /// An answer, without its head, in bytes.
    pub longest_answer: usize,
    /// The secrets of one exchange.
    pub most_resources: usize,
}

impl Default for Limits {
    /// The whole is less than the minute that making a container may take, and all attempts of an exchange with
    /// their pauses are less than that.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(8),
            exchange: Duration::from_secs(12),
            attempts: 4,
            pause: Duration::from_millis(250),
            whole: Duration::from_secs(50),
            longest_answer: 256 << 10,
            most_resources: 128,
        }
    }
}
