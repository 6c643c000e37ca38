//! Both clients' figures for each kind of work, and their ratio.

use stead_tests::Client;

/// Rows in the order of their first figure.
pub(crate) struct Table {
    title: String,
    rows: Vec<Row>,
}

struct Row {
    name: String,
    unit: &'static str,
    go: Vec<f64>,
    ours: Vec<f64>,
}

impl Table {
    pub(crate) fn new(title: &str) -> Self {
        Self { title: title.to_owned(), rows: Vec::new() }
    }

    /// Notes a figure of one client; the median of several counts.
    pub(crate) fn add(&mut self, name: &str, unit: &'static str, client: Client, value: f64) {
        let index = self.rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
            self.rows.push(Row { name: name.to_owned(), unit, go: Vec::new(), ours: Vec::new() });
            self.rows.len() - 1
        });
        match client {
            Client::Go => self.rows[index].go.push(value),
            Client::Stead => self.rows[index].ours.push(value),
        }
    }

    /// A ratio above 1 is better for rates; for times, memory and round trips it is one below 1.
    pub(crate) fn print(&self) {
        println!("| {} | unit | Go client 1.4.2 | stead | stead / Go |\n|---|---|---:|---:|---:|", self.title);
        for row in &self.rows {
            let shown = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), number);
            let (go, ours) = (median(&row.go), median(&row.ours));
            // Of each round by itself: what disturbs the machine for a while meets both clients alike.
            let ratio = median(&row.go.iter().zip(&row.ours).map(|(go, ours)| ours / go).collect::<Vec<_>>());
            println!(
                "| {} | {} | {} | {} | {} |",
                row.name,
                row.unit,
                shown(go),
                shown(ours),
                ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"))
            );
        }
        println!();
    }
}

/// The middle one; `None` when there is none.
fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

fn number(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}
