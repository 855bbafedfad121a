//! Families of metrics as text, in the format that Prometheus, and whatever collects for it, reads (version 0.0.4). Pure.
//!
//! Always holds: each family has its HELP and TYPE once, before its samples; label values and help are escaped, so nothing that
//! somebody named can pose as another sample.

use std::fmt::{Display, Write};

/// Media type of the text, for HTTP.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family's numbers mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises, until the process ends.
    Counter,
    Gauge,
    Histogram,
}

/// Name and value.
pub type Label<'a> = (&'a str, &'a str);

/// A page that is being written.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

impl Exposition {
    /// Begins a family; its samples follow.
    pub fn family<'a>(&'a mut self, name: &'static str, kind: Kind, help: &str) -> Family<'a> {
        let kind_name = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        debug_assert_eq!(kind == Kind::Counter, name.ends_with("_total"), "{name}");
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        self.write(format_args!("# HELP {name} {help}\n# TYPE {name} {kind_name}\n"));
        Family { page: self, name }
    }

    pub fn into_text(self) -> String {
        self.text
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.write_fmt(text).expect("a string takes everything");
    }
}

/// A family whose samples are being written.
#[derive(Debug)]
pub struct Family<'a> {
    page: &'a mut Exposition,
    name: &'static str,
}

impl Family<'_> {
    /// One number; of any type that prints as one.
    pub fn sample(&mut self, labels: &[Label<'_>], value: impl Display) -> &mut Self {
        self.one("", labels, value)
    }

    /// 1 or 0.
    pub fn flag(&mut self, labels: &[Label<'_>], is_so: bool) -> &mut Self {
        self.sample(labels, u8::from(is_so))
    }

    /// `counts` says how many are in each bucket and in none before it; the last of them is for what no bound takes.
    pub fn histogram(
        &mut self,
        labels: &[Label<'_>],
        bounds_micros: &[u64],
        counts: &[u64],
        sum_seconds: f64,
    ) -> &mut Self {
        debug_assert_eq!(bounds_micros.len() + 1, counts.len());
        let ends = (bounds_micros.iter())
            .map(|micros| (*micros as f64 / 1e6).to_string())
            .chain(std::iter::once("+Inf".to_owned()));
        let mut total = 0;
        for (end, count) in ends.zip(counts) {
            total += count;
            let mut all = labels.to_vec();
            all.push(("le", &end));
            self.one("_bucket", &all, total);
        }
        self.one("_sum", labels, sum_seconds);
        self.one("_count", labels, total)
    }

    fn one(&mut self, suffix: &str, labels: &[Label<'_>], value: impl Display) -> &mut Self {
        let name = self.name;
        self.page.write(format_args!("{name}{suffix}"));
        for (index, (label, text)) in labels.iter().enumerate() {
            let before = if index == 0 { "{" } else { "," };
            let text = text
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            self.page.write(format_args!("{before}{label}=\"{text}\""));
        }
        let after = if labels.is_empty() { "" } else { "}" };
        self.page.write(format_args!("{after} {value}\n"));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccd_client::metrics::samples;
    use proptest::prelude::*;

    proptest! {
        /// Nothing that somebody named poses as another label or sample.
        #[test]
        fn whatever_a_label_says_is_read_back(texts in proptest::collection::vec(any::<String>(), 0..4), value in any::<u32>()) {
            let mut page = Exposition::default();
            let mut family = page.family("ccd_x", Kind::Gauge, "X");
            for text in &texts {
                family.sample(&[("node", text), ("n", "1")], value);
            }
            let read = samples(&page.into_text());
            prop_assert_eq!(read.len(), texts.len());
            for (sample, text) in read.iter().zip(&texts) {
                prop_assert_eq!(&sample.labels["node"], text);
                prop_assert_eq!((sample.labels.len(), sample.value), (2, f64::from(value)));
            }
        }
    }

    #[test]
    fn families_have_help_and_type_and_labels_are_escaped() {
        let mut page = Exposition::default();
        page.family("ccd_epoch", Kind::Gauge, "Of the configuration.\nOr \\ 0")
            .sample(&[], 7);
        page.family("ccd_x_total", Kind::Counter, "X")
            .sample(&[("node", "a\"b\\c\nd"), ("path", "/dev/sd{a}")], 3)
            .sample(&[("node", "ä")], u64::MAX);
        page.family("ccd_lease_seconds", Kind::Gauge, "Left")
            .sample(&[], 0.25);
        page.family("ccd_member", Kind::Gauge, "Whether").flag(&[], true);
        let expected = "\
# HELP ccd_epoch Of the configuration.\\nOr \\\\ 0
# TYPE ccd_epoch gauge
ccd_epoch 7
# HELP ccd_x_total X
# TYPE ccd_x_total counter
ccd_x_total{node=\"a\\\"b\\\\c\\nd\",path=\"/dev/sd{a}\"} 3
ccd_x_total{node=\"ä\"} 18446744073709551615
# HELP ccd_lease_seconds Left
# TYPE ccd_lease_seconds gauge
ccd_lease_seconds 0.25
# HELP ccd_member Whether
# TYPE ccd_member gauge
ccd_member 1
";
        assert_eq!(page.into_text(), expected);
    }

    #[test]
    fn a_histogram_counts_up_to_each_bound() {
        let mut page = Exposition::default();
        page.family("ccd_append_seconds", Kind::Histogram, "Took")
            .histogram(&[("replica", "primary")], &[100, 2_500_000], &[2, 0, 1], 3.5);
        let expected = "\
# HELP ccd_append_seconds Took
# TYPE ccd_append_seconds histogram
ccd_append_seconds_bucket{replica=\"primary\",le=\"0.0001\"} 2
ccd_append_seconds_bucket{replica=\"primary\",le=\"2.5\"} 2
ccd_append_seconds_bucket{replica=\"primary\",le=\"+Inf\"} 3
ccd_append_seconds_sum{replica=\"primary\"} 3.5
ccd_append_seconds_count{replica=\"primary\"} 3
";
        assert_eq!(page.into_text(), expected);
    }
}
