//! What a machine or a program says, kept for when it fails.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};

/// Everything that was heard, in the order in which it came.
#[derive(Clone)]
pub struct Transcript {
    heard: Arc<Mutex<Heard>>,
    path: Option<PathBuf>,
}

#[derive(Default)]
struct Heard {
    file: Option<File>,
    /// The end of it.
    last: Vec<u8>,
}

impl Transcript {
    /// So much of the end is kept for [`Self::last_lines`].
    const KEPT: usize = 16 << 10;

    /// Keeps everything in a file, too.
    pub fn create(path: &Path) -> Result<Self> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let file = File::create(path).with_context(|| format!("writing {}", path.display()))?;
        Ok(Self {
            heard: Arc::new(Mutex::new(Heard {
                file: Some(file),
                last: Vec::new(),
            })),
            path: Some(path.to_owned()),
        })
    }

    /// Keeps the end only.
    pub fn in_memory() -> Self {
        Self {
            heard: Arc::default(),
            path: None,
        }
    }

    fn add(&self, bytes: &[u8]) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        // A full disk must not end a test; the error shows the end of what was heard.
        if let Some(file) = &mut heard.file {
            drop(file.write_all(bytes));
        }
        heard.last.extend_from_slice(bytes);
        let surplus = heard.last.len().saturating_sub(Self::KEPT);
        heard.last.drain(..surplus);
    }

    /// Takes down what comes from a pipe, on a thread of its own, and shows it.
    pub fn follow(
        &self,
        mut pipe: impl Read + Send + 'static,
        mut show: impl FnMut(&[u8]) + Send + 'static,
    ) -> thread::JoinHandle<()> {
        let transcript = self.clone();
        thread::spawn(move || {
            let mut buffer = [0; 16 << 10];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                let bytes = buffer.get(..count).unwrap_or_default();
                transcript.add(bytes);
                show(bytes);
            }
        })
    }

    /// The end of it, for an error: so many lines, and more where a kernel's panic is told in more.
    pub fn last_lines(&self, count: usize) -> String {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&heard.last).replace('\r', "");
        let lines: Vec<&str> = text.lines().collect();
        if lines.is_empty() {
            return "nothing was heard of it".into();
        }
        // What a panic is about is said before all the registers, and after what led to it.
        let panic = lines
            .iter()
            .position(|line| line.contains("Kernel panic - not syncing"))
            .map_or(lines.len(), |line| line.saturating_sub(3));
        let from = lines.len().saturating_sub(count).min(panic);
        let lines = lines.get(from..).unwrap_or_default().join("\n");
        match &self.path {
            Some(path) => format!("its last lines (all are in {}):\n{lines}", path.display()),
            None => format!("its last lines:\n{lines}"),
        }
    }
}
