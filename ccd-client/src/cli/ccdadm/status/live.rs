//! The live view of `ccdadm status --watch`, as it is drawn; `watch.rs` feeds it.

use super::first_line::FirstLine;
use super::picture::{Pen, Piece, picture};
use super::work::lines as lines_of_work;
use super::{node_name, node_state, tone};
use crate::cli::table::date_text;
use crate::cli::terminal::Tone;
use crate::wire::{DatedDecision, StatusReport};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So far back goes the mean of updates a second.
const RATE_WINDOW: Duration = Duration::from_secs(60);

/// What is shown now.
#[derive(Debug)]
pub struct View {
    pub pen: Pen,
    pub coloured: bool,
    /// The last report, and why there is none since.
    pub report: Option<StatusReport>,
    pub trouble: Option<String>,
    pub decisions: Vec<DatedDecision>,
    generations: VecDeque<(Instant, u64)>,
}

impl View {
    pub fn new(pen: Pen, coloured: bool) -> Self {
        Self {
            pen,
            coloured,
            report: None,
            trouble: None,
            decisions: Vec::new(),
            generations: VecDeque::new(),
        }
    }

    /// Takes in what the daemon said.
    pub fn update(&mut self, now: Instant, report: StatusReport, decisions: Vec<DatedDecision>) {
        let generation = report.status.position.stamp.generation.0;
        if self
            .generations
            .back()
            .is_some_and(|(_, last)| *last > generation)
        {
            // Another branch: what came before it is no rate.
            self.generations.clear();
        }
        self.generations.push_back((now, generation));
        while self.generations.len() > 2
            && self
                .generations
                .front()
                .is_some_and(|(then, _)| now.duration_since(*then) > RATE_WINDOW)
        {
            self.generations.pop_front();
        }
        self.report = Some(report);
        self.decisions = decisions;
        self.trouble = None;
    }

    /// Updates a second: between the last two reports, and over the window.
    fn rates(&self) -> Option<(f64, f64)> {
        let rate = |from: &(Instant, u64), to: &(Instant, u64)| {
            let seconds = to.0.duration_since(from.0).as_secs_f64();
            (seconds > 0.0).then(|| (to.1 - from.1) as f64 / seconds)
        };
        let last = self.generations.back()?;
        let before = self.generations.get(self.generations.len().checked_sub(2)?)?;
        Some((rate(before, last)?, rate(self.generations.front()?, last)?))
    }

    fn style(&self, tone: Option<Tone>) -> Style {
        let colour = match tone {
            Some(Tone::Good) => Color::Green,
            Some(Tone::Worrying) => Color::Yellow,
            Some(Tone::Bad) => Color::Red,
            None => return Style::default(),
        };
        if self.coloured {
            Style::default().fg(colour)
        } else {
            Style::default()
        }
    }

    pub fn draw(&self, frame: &mut Frame) {
        let Some(report) = &self.report else {
            let text = self.trouble.as_deref().unwrap_or("asking the daemon");
            frame.render_widget(Paragraph::new(format!("{text}\n\nq quits")), frame.area());
            return;
        };
        let lines = picture(report, self.pen);
        let nodes = report.status.nodes.len().min(32);
        let [top, drawing, table, decisions, bottom] = Layout::vertical([
            Constraint::Length(3),
            Constraint::Length(lines.len() as u16 + 1),
            Constraint::Length(nodes as u16 + 2),
            Constraint::Min(3),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(Paragraph::new(self.head(report)), top);
        let picture: Vec<Line> = lines.iter().map(|line| self.line(line)).collect();
        frame.render_widget(Paragraph::new(picture), drawing);
        frame.render_widget(self.nodes(report), table);
        let block = Block::default()
            .borders(Borders::TOP)
            .title("decisions of this node, newest first");
        frame.render_widget(Paragraph::new(self.decision_lines()).block(block), decisions);
        let bold = Style::default().add_modifier(Modifier::BOLD);
        frame.render_widget(Paragraph::new(Line::styled("q quits", bold)), bottom);
    }

    fn head<'a>(&self, report: &'a StatusReport) -> Text<'a> {
        let first = FirstLine::of(report);
        let mut lines = vec![Line::from(vec![
            Span::raw(format!("{}: ", report.cluster_name)),
            Span::styled(first.verdict, self.style(Some(tone(report.status.health())))),
            Span::raw(first.rest),
        ])];
        let rates = match self.rates() {
            Some((now, mean)) => format!("{now:.0} updates/s, {mean:.0} in the last minute"),
            None => "counting updates".to_owned(),
        };
        let stamp = report.status.position.stamp;
        lines.push(Line::raw(format!(
            "{} rows at {stamp}, {rates}",
            report.status.rows
        )));
        lines.push(match &self.trouble {
            Some(trouble) => Line::styled(trouble.clone(), self.style(Some(Tone::Bad))),
            None => Line::raw(lines_of_work(report).join("; ")),
        });
        Text::from(lines)
    }

    fn line(&self, line: &[Piece]) -> Line<'static> {
        let spans = line
            .iter()
            .map(|piece| Span::styled(piece.text.clone(), self.style(piece.tone)));
        Line::from(spans.collect::<Vec<_>>())
    }

    fn nodes(&self, report: &StatusReport) -> Table<'static> {
        let rows = report.status.nodes.iter().map(|node| {
            let lease = node.lease.unwrap_or_default().as_millis();
            let full = report.lease.as_millis().max(1);
            // Eight steps: how much of the lease is left.
            let filled = ((lease.min(full) * 8).div_ceil(full)) as usize;
            let bar = format!("{}{}", "#".repeat(filled), ".".repeat(8 - filled));
            let lease = node
                .lease
                .map_or_else(|| "-".to_owned(), |_| format!("{bar} {lease} ms"));
            let stamp = node
                .position
                .map_or_else(|| "-".to_owned(), |position| position.stamp.to_string());
            Row::new([
                Cell::from(node_name(report, node.id)),
                Cell::from(node_state(node).replace('_', " ")),
                Cell::from(stamp),
                Cell::from(lease),
            ])
        });
        let widths = [
            Constraint::Length(20),
            Constraint::Length(10),
            Constraint::Length(20),
            Constraint::Length(20),
        ];
        Table::new(rows, widths).header(Row::new(["NODE", "STATE", "STAMP", "LEASE"]))
    }

    fn decision_lines(&self) -> Vec<Line<'static>> {
        let newest_first = self.decisions.iter().rev();
        newest_first
            .map(|dated| {
                let date = date_text(dated.date);
                let text = dated.decision.text.lines().next().unwrap_or_default().to_owned();
                let times = match dated.count {
                    0 | 1 => String::new(),
                    count => format!("{count} times: "),
                };
                Line::raw(format!("{}  {times}{text}", date.get(..19).unwrap_or(&date)))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{decision, solo, whole};
    use super::*;
    use ccd_core::protocol::DecisionKind;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    /// What stands on a screen of this size.
    fn screen(view: &View, columns: u16, rows: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(columns, rows)).expect("memory can be drawn on");
        terminal
            .draw(|frame| view.draw(frame))
            .expect("memory can be drawn on");
        let buffer = terminal.backend().buffer();
        let lines = (0..rows).map(|row| {
            let cells = (0..columns).map(|column| buffer[(column, row)].symbol());
            cells.collect::<String>().trim_end().to_owned() + "\n"
        });
        lines.collect()
    }

    #[test]
    fn the_view_has_verdict_rate_picture_leases_and_decisions() {
        let start = Instant::now();
        let mut view = View::new(Pen::UNICODE, false);
        view.update(start, whole(2, true), Vec::new());
        let mut later = whole(2, true);
        later.status.position.stamp.generation.0 += 50;
        let decisions = vec![
            decision(DecisionKind::Refused, "the first"),
            decision(DecisionKind::StoppedServing, "the second\nwith its evidence"),
        ];
        view.update(start + Duration::from_secs(2), later, decisions);
        assert_eq!(
            screen(&view, 80, 21),
            "\
prod: serving, all redundant
12 rows at 6/4761, 25 updates/s, 25 in the last minute

clients
   │
   ▼
alpha      this node, master: serving
   ├───▶ beta       serving      10.0.0.2:5640 up
   ├╌╌╌╌ primary    in sync
   └╌╌╌╌ secondary  in sync

NODE                 STATE      STAMP                LEASE
alpha                serving    6/4711               ######## 930 ms
beta                 serving    6/4711               ######## 930 ms

decisions of this node, newest first────────────────────────────────────────────
1997-04-16T09:49:47  the second
1997-04-16T09:49:47  the first


q quits
"
        );
    }

    #[test]
    fn a_daemon_that_went_away_leaves_the_last_picture_and_says_why() {
        let mut view = View::new(Pen::ASCII, false);
        view.trouble = Some("CCD-1101: no daemon".to_owned());
        assert!(screen(&view, 60, 5).contains("CCD-1101: no daemon"));
        view.update(Instant::now(), solo(), Vec::new());
        view.trouble = Some("CCD-1101: no daemon".to_owned());
        let text = screen(&view, 80, 24);
        for part in [
            "serving, degraded",
            "CCD-1101: no daemon",
            "owner: serving",
            "counting updates",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn a_screen_that_is_too_small_shows_what_fits() {
        let mut view = View::new(Pen::UNICODE, true);
        view.update(Instant::now(), whole(3, true), Vec::new());
        for (columns, rows) in [(1, 1), (10, 3), (40, 8), (200, 60)] {
            assert!(!screen(&view, columns, rows).is_empty());
        }
    }
}
