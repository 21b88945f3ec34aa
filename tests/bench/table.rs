//! The table: a row per measurement, medians and spreads of both peers.

use std::fmt;

use rig::Handler;

/// One measurement of both peers.
#[derive(Debug)]
pub struct Row {
    name: String,
    unit: &'static str,
    values: Vec<(Handler, f64)>,
}

impl Row {
    /// A row without values.
    pub fn new(name: impl Into<String>, unit: &'static str) -> Self {
        Self {
            name: name.into(),
            unit,
            values: Vec::new(),
        }
    }

    /// Adds a value of one of the peers.
    pub fn add(&mut self, handler: Handler, value: f64) {
        self.values.push((handler, value));
    }

    fn of(&self, handler: Handler) -> Vec<f64> {
        let values = self.values.iter().filter(|(of, _)| *of == handler);
        values.map(|(_, value)| *value).collect()
    }
}

/// All rows.
#[derive(Debug)]
pub struct Table {
    /// The peer and ours.
    both: [Handler; 2],
    rows: Vec<Row>,
}

impl Table {
    /// One without rows, of a peer and ours.
    pub fn new(both: [Handler; 2]) -> Self {
        let rows = Vec::new();
        Self { both, rows }
    }

    /// Adds a finished row.
    pub fn push(&mut self, row: Row) {
        self.rows.push(row);
    }
}

/// The value below which a part of all values lie, as one of them.
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )]
    let index = (last as f64 * part).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

fn show(values: &[f64]) -> String {
    let digits = match quantile(values, 0.5) {
        median if median >= 100.0 => 0,
        median if median >= 10.0 => 1,
        _ => 2,
    };
    let [low, median, high] =
        [0.25, 0.5, 0.75].map(|part| format!("{:.digits$}", quantile(values, part)));
    if low == high {
        median
    } else {
        format!("{median} ({low}–{high})")
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [peer, ours] = match self.both {
            [Handler::Runc, _] => ["stock", "Trefoil"],
            both => both.map(Handler::name),
        };
        writeln!(
            f,
            "| what | unit | n | {peer}: median (quartiles) | {ours}: median (quartiles) | ratio |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for row in &self.rows {
            let [peers, ours] = self.both.map(|handler| row.of(handler));
            let shown = show(&ours);
            let (n, peers, ratio) = match peers.len() {
                // It has no such thing.
                0 => (ours.len(), "–".into(), "–".into()),
                n => {
                    let ratio = quantile(&ours, 0.5) / quantile(&peers, 0.5);
                    let peers = show(&peers);
                    (n.min(ours.len()), peers, format!("{ratio:.2}"))
                }
            };
            let (name, unit) = (&row.name, row.unit);
            writeln!(f, "| {name} | {unit} | {n} | {peers} | {shown} | {ratio} |")?;
        }
        Ok(())
    }
}
