//! One manual page while it is written: headings, paragraphs, lists, and text that stays as it is.
//!
//! In a text, what stands between backticks is bold; a blank line begins a paragraph.

use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

/// When the pages were last gone through; beside the version it stands at the foot of each.
pub const DATE: &str = "2026-11-26";

#[derive(Debug)]
pub struct Page {
    /// `ccdadm-query.1`
    pub file_name: String,
    source: String,
    /// Nothing stands below the last heading yet.
    below_heading: bool,
}

impl Page {
    /// `about` goes on after the dash of the NAME section.
    pub fn new(name: &str, section: u8, about: &str) -> Self {
        let mut roff = Roff::new();
        let (title, number) = (name.to_uppercase(), section.to_string());
        let source = concat!("ccd ", env!("CARGO_PKG_VERSION"));
        roff.control("TH", [&*title, &*number, DATE, source, manual(section)]);
        roff.control("SH", ["NAME"]);
        // No formatting there: whatis(1) reads it.
        roff.text([roman(format!("{name} - {about}"))]);
        Self {
            file_name: format!("{name}.{section}"),
            source: roff.render(),
            below_heading: false,
        }
    }

    /// The page's source.
    pub fn source(self) -> String {
        self.source
    }

    pub fn heading(&mut self, text: &str) {
        self.control("SH", &[text]);
        self.below_heading = true;
    }

    /// Paragraphs below a heading.
    pub fn text(&mut self, text: &str) {
        for (index, paragraph) in text.split("\n\n").enumerate() {
            if index > 0 {
                self.begin_paragraph();
            }
            self.line(inline(&on_one_line(paragraph)));
        }
    }

    /// Paragraphs after others, or after a list.
    pub fn paragraph(&mut self, text: &str) {
        self.begin_paragraph();
        self.text(text);
    }

    /// A word and what it is.
    pub fn entry(&mut self, term: &str, text: &str) {
        self.tagged(vec![bold(term)], text);
    }

    /// The same with a term of several parts.
    pub fn tagged(&mut self, term: Vec<Inline>, text: &str) {
        self.control("TP", &[]);
        self.line(term);
        for (index, paragraph) in text.split("\n\n").enumerate() {
            if index > 0 {
                self.control("IP", &[]);
            }
            self.line(inline(&on_one_line(paragraph)));
        }
    }

    /// Lines that are not filled.
    pub fn verbatim(&mut self, text: &str) {
        self.begin_paragraph();
        self.control("RS", &["4"]);
        self.control("nf", &[]);
        for line in text.lines() {
            self.line(vec![roman(line)]);
        }
        self.control("fi", &[]);
        self.control("RE", &[]);
    }

    /// The options of a command, in sections by their headings.
    ///
    /// # Panics
    /// Never: it is written to memory.
    pub fn options(&mut self, command: &clap::Command) {
        let mut source = Vec::new();
        clap_mangen::Man::new(command.clone())
            .render_options_section(&mut source)
            .expect("memory takes what is written to it");
        // The generator breaks the line twice before a list of values.
        let source = String::from_utf8(source).expect("roff is text");
        self.append(&source.replace(".br\n\n.br\n", ".br\n"));
    }

    /// `ccdadm(1)`, `ccdd(8)`.
    pub fn see_also(&mut self, pages: &[impl AsRef<str>]) {
        self.heading("SEE ALSO");
        let mut line = Vec::new();
        for page in pages {
            let (name, section) = page.as_ref().split_once('(').unwrap_or((page.as_ref(), ""));
            if !line.is_empty() {
                line.push(roman(", "));
            }
            line.push(bold(name));
            line.push(roman(format!("({section}")));
        }
        self.line(line);
    }

    pub fn line(&mut self, parts: Vec<Inline>) {
        let mut roff = Roff::new();
        roff.text(parts);
        self.append(&roff.render());
    }

    pub fn line_break(&mut self) {
        self.control("br", &[]);
    }

    fn begin_paragraph(&mut self) {
        if !self.below_heading {
            self.control("PP", &[]);
        }
    }

    fn control(&mut self, name: &str, arguments: &[&str]) {
        let mut roff = Roff::new();
        roff.control(name, arguments.iter().copied());
        self.append(&roff.render());
    }

    /// Each rendering begins with the same definitions, which the page has from its title on.
    fn append(&mut self, rendered: &str) {
        self.below_heading = false;
        let preamble = Roff::new().render();
        self.source
            .push_str(rendered.strip_prefix(&preamble).unwrap_or(rendered));
    }
}

fn manual(section: u8) -> &'static str {
    match section {
        5 => "ccd Files",
        7 => "ccd Overview",
        8 => "ccd Daemons",
        _ => "ccd Programs",
    }
}

fn on_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What stands between backticks is bold.
fn inline(text: &str) -> Vec<Inline> {
    let parts = text.split('`').enumerate();
    let parts = parts.filter(|(_, part)| !part.is_empty());
    parts
        .map(|(index, part)| if index % 2 == 1 { bold(part) } else { roman(part) })
        .collect()
}

/// What a user replaces by something else.
pub fn placeholder(text: &str) -> Inline {
    italic(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_between_backticks_are_bold_and_dots_at_the_beginning_are_text() {
        let mut page = Page::new("ccd", 7, "what it is");
        page.heading("DESCRIPTION");
        page.text("See `ccdadm`(1).\n\n.not a macro\\");
        let text = page.source();
        assert!(text.contains("\\fBccdadm\\fR(1)"), "{text}");
        assert!(text.contains("\n\\&.not a macro\\\\"), "{text}");
        assert!(text.contains(".TH CCD 7 2026-11-26"), "{text}");
    }
}
