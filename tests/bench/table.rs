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
    go: Option<f64>,
    ours: Option<f64>,
}

impl Table {
    pub(crate) fn new(title: &str) -> Self {
        Self { title: title.to_owned(), rows: Vec::new() }
    }

    /// Notes a figure of one client.
    pub(crate) fn add(&mut self, name: &str, unit: &'static str, client: Client, value: f64) {
        let index = self.rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
            self.rows.push(Row { name: name.to_owned(), unit, go: None, ours: None });
            self.rows.len() - 1
        });
        match client {
            Client::Go => self.rows[index].go = Some(value),
            Client::Stead => self.rows[index].ours = Some(value),
        }
    }

    /// A ratio above 1 is better for rates; for times, memory and round trips it is one below 1.
    pub(crate) fn print(&self) {
        println!("| {} | unit | Go client 1.4.2 | stead | stead / Go |\n|---|---|---:|---:|---:|", self.title);
        for row in &self.rows {
            let shown = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), number);
            let ratio = row.go.zip(row.ours).map(|(go, ours)| ours / go);
            println!(
                "| {} | {} | {} | {} | {} |",
                row.name,
                row.unit,
                shown(row.go),
                shown(row.ours),
                ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"))
            );
        }
        println!();
    }
}

fn number(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}
