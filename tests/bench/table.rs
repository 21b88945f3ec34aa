//! The table: a row per measurement, medians and spreads of both peers.

use std::fmt;

use rig::Handler;

/// One measurement of both peers.
#[derive(Debug)]
pub struct Row {
    name: String,
    unit: &'static str,
    stock: Vec<f64>,
    ours: Vec<f64>,
}

impl Row {
    /// A row without values.
    pub fn new(name: impl Into<String>, unit: &'static str) -> Self {
        Self {
            name: name.into(),
            unit,
            stock: Vec::new(),
            ours: Vec::new(),
        }
    }

    /// Adds a value of one of the peers.
    pub fn add(&mut self, handler: Handler, value: f64) {
        match handler {
            Handler::Runc => self.stock.push(value),
            _ => self.ours.push(value),
        }
    }
}

/// All rows.
#[derive(Debug, Default)]
pub struct Table(Vec<Row>);

impl Table {
    /// Adds a finished row.
    pub fn push(&mut self, row: Row) {
        self.0.push(row);
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
        writeln!(
            f,
            "| what | unit | n | stock: median (quartiles) | Trefoil: median (quartiles) | ratio |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for row in &self.0 {
            let ours = show(&row.ours);
            let (n, stock, ratio) = match row.stock.len() {
                // It has no such thing.
                0 => (row.ours.len(), "–".into(), "–".into()),
                n => {
                    let ratio = quantile(&row.ours, 0.5) / quantile(&row.stock, 0.5);
                    let stock = show(&row.stock);
                    (n.min(row.ours.len()), stock, format!("{ratio:.2}"))
                }
            };
            let (name, unit) = (&row.name, row.unit);
            writeln!(f, "| {name} | {unit} | {n} | {stock} | {ours} | {ratio} |")?;
        }
        Ok(())
    }
}
