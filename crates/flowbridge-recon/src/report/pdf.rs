//! The figures on paper: proof of balance, what became of the lines, breaks by kind and age, the largest of them.
//!
//! For those who sign and file. Written with the fourteen fonts that every reader has, so that no font is shipped; letters
//! that these lack are shown without their accents or as a question mark, and names are left to the other forms. No time of
//! day goes in: the same run gives the same bytes. Every page carries the manifest's hash.

use super::{AccountFigures, CUT_OFF, Extras, Report, minute, units};
use crate::break_kind::BreakKind;
use crate::text;
use pdf_writer::{Content, Finish as _, Name, Pdf, Rect, Ref, Str, TextStr};
use std::collections::BTreeMap;

const WIDTH: f32 = 595.0;
const HEIGHT: f32 = 842.0;
const MARGIN: f32 = 48.0;
const LARGEST_MAX: usize = 60;
const STATEMENT_CHARS_MAX: usize = 20;
const PLAIN: Name<'static> = Name(b"F1");
const BOLD: Name<'static> = Name(b"F2");

pub(super) fn document(report: &Report<'_>, extras: &Extras<'_>) -> Vec<u8> {
    let mut paper = Paper { pages: Vec::new(), content: Content::new(), y: 0.0 };
    paper.new_page();
    write(report, extras, &mut paper);
    paper.finish(&report.manifest.sha256(), &report.manifest.as_of.to_string())
}

fn write(report: &Report<'_>, extras: &Extras<'_>, paper: &mut Paper) {
    let accounts = report.accounts();
    let sum = |of: fn(&AccountFigures) -> usize| accounts.iter().map(of).sum::<usize>();
    let (lines, auto) = (sum(|account| account.lines), sum(|account| account.lines_auto));
    paper.text(MARGIN, 20.0, BOLD, &format!("Reconciliation of {}", report.manifest.as_of));
    paper.down(26.0);
    let tenths = auto * 1_000 / lines.max(1);
    paper.text(
        MARGIN,
        10.0,
        PLAIN,
        &format!(
            "{}.{} % of {lines} bank lines need nobody; {} are to confirm, {} have no entry, {} entries have no line.",
            tenths / 10,
            tenths % 10,
            sum(|account| account.lines_suggested),
            sum(|account| account.lines_open),
            sum(|account| account.entries_open)
        ),
    );
    if extras.is_cut_off() {
        paper.down(14.0);
        paper.text(MARGIN, 8.0, BOLD, CUT_OFF);
    }
    paper.down(26.0);
    balance(extras, paper);
    at_each_statement(extras, paper);
    paper.heading("Proof of balance");
    paper.row(
        true,
        &[("account", 0.0)],
        &[("bank", 270.0), ("ledger", 360.0), ("difference", 440.0), ("unexplained", 499.0)],
    );
    for account in &accounts {
        let code = &account.currency;
        let name = format!("{} {code}", account.account);
        let unexplained = account.unexplained();
        paper.row(
            false,
            &[(&name, 0.0)],
            &[
                (&units(account.bank_minor_units, code), 270.0),
                (&units(account.ledger_minor_units, code), 360.0),
                (&units(account.difference(), code), 440.0),
                (&if unexplained == 0 { "nothing".to_owned() } else { units(unexplained, code) }, 499.0),
            ],
        );
    }
    paper.down(14.0);
    paper.heading("What became of the bank's lines");
    for account in &accounts {
        paper.line_bar(account);
    }
    paper.down(14.0);
    breaks(report, paper);
    largest(report, paper);
}

fn balance(extras: &Extras<'_>, paper: &mut Paper) {
    if extras.balance.is_empty() {
        return;
    }
    paper.heading("Our reserve and the bank's balance");
    paper.row(
        true,
        &[("account", 0.0)],
        &[("closing balance", 270.0), ("reserve", 360.0), ("in between", 440.0), ("unexplained", 499.0)],
    );
    for line in extras.balance {
        let code = &line.currency;
        let between = line.explained() - i128::from(line.ledger);
        let unexplained =
            if line.is_told { unexplained(line.unexplained, code) } else { "not told".to_owned() };
        paper.row(
            false,
            &[(&format!("{} {code}", line.account), 0.0)],
            &[
                (
                    &line.statement.map_or_else(|| "not told".to_owned(), |told| units(told.into(), code)),
                    270.0,
                ),
                (&units(line.ledger.into(), code), 360.0),
                (&units(between, code), 440.0),
                (&unexplained, 499.0),
            ],
        );
    }
    paper.down(14.0);
}

fn at_each_statement(extras: &Extras<'_>, paper: &mut Paper) {
    if extras.proofs.is_empty() {
        return;
    }
    paper.heading("Proof of balance at each statement");
    paper.row(
        true,
        &[("up to (UTC), statement", 0.0)],
        &[("closing balance", 270.0), ("reserve then", 360.0), ("in between", 440.0), ("unexplained", 499.0)],
    );
    for line in extras.proofs {
        let code = &line.currency;
        let name: String = line.statement.chars().take(STATEMENT_CHARS_MAX).collect();
        paper.row(
            false,
            &[(&format!("{} {code} {name}", minute(&line.as_of)), 0.0)],
            &[
                (&units(line.closing.into(), code), 270.0),
                (&units(line.ledger.into(), code), 360.0),
                (&units(line.in_between.into(), code), 440.0),
                (&unexplained(line.unexplained, code), 499.0),
            ],
        );
    }
    paper.down(14.0);
}

fn unexplained(amount: i64, code: &str) -> String {
    if amount == 0 { "nothing".to_owned() } else { units(amount.into(), code) }
}

fn breaks(report: &Report<'_>, paper: &mut Paper) {
    let mut kinds: BTreeMap<BreakKind, [usize; 4]> = BTreeMap::new();
    for found in &report.outcome.breaks {
        let column = match found.age_days {
            ..=2 => 0,
            3..=7 => 1,
            8..=30 => 2,
            _ => 3,
        };
        kinds.entry(found.kind).or_default()[column] += 1;
    }
    paper.heading("Breaks by kind and age in days");
    paper.row(
        true,
        &[("kind", 0.0), ("whose desk, what to do", 300.0)],
        &[("count", 150.0), ("0-2", 185.0), ("3-7", 220.0), ("8-30", 255.0), ("older", 290.0)],
    );
    for (kind, ages) in kinds {
        let all: usize = ages.iter().sum();
        paper.row(
            false,
            &[
                (&kind.code().replace('_', " "), 0.0),
                (&format!("{}: {}", kind.owner(), kind.proposal()), 300.0),
            ],
            &[
                (&all.to_string(), 150.0),
                (&ages[0].to_string(), 185.0),
                (&ages[1].to_string(), 220.0),
                (&ages[2].to_string(), 255.0),
                (&ages[3].to_string(), 290.0),
            ],
        );
    }
    paper.down(14.0);
}

fn largest(report: &Report<'_>, paper: &mut Paper) {
    let mut rows = report.breaks();
    rows.sort_by_key(|row| std::cmp::Reverse(row.minor_units.unsigned_abs()));
    paper.heading("Largest breaks");
    paper.row(true, &[("kind", 0.0), ("record", 120.0)], &[("amount", 430.0), ("days", 499.0)]);
    for row in rows.iter().take(LARGEST_MAX) {
        paper.row(
            false,
            &[(&row.kind.replace('_', " "), 0.0), (&row.subject, 120.0)],
            &[
                (&format!("{} {}", units(row.minor_units, &row.currency), row.currency), 430.0),
                (&row.age_days.to_string(), 499.0),
            ],
        );
    }
}

struct Paper {
    pages: Vec<Content>,
    content: Content,
    /// Distance from the upper edge.
    y: f32,
}

impl Paper {
    fn new_page(&mut self) {
        if self.y > 0.0 {
            self.pages.push(std::mem::replace(&mut self.content, Content::new()));
        }
        self.y = MARGIN + 20.0;
    }

    fn down(&mut self, points: f32) {
        self.y += points;
        if self.y > HEIGHT - MARGIN - 24.0 {
            self.new_page();
        }
    }

    fn text(&mut self, x: f32, size: f32, font: Name<'_>, text: &str) {
        self.content.begin_text().set_font(font, size).next_line(x, HEIGHT - self.y);
        self.content.show(Str(&encode(text))).end_text();
    }

    fn heading(&mut self, text: &str) {
        // A heading stands with at least three rows.
        if self.y > HEIGHT - MARGIN - 80.0 {
            self.new_page();
        }
        self.text(MARGIN, 11.0, BOLD, text);
        self.down(16.0);
    }

    /// Cells at their left edge, and numbers at their right one.
    fn row(&mut self, is_head: bool, left: &[(&str, f32)], right: &[(&str, f32)]) {
        let font = if is_head { BOLD } else { PLAIN };
        for (text, x) in left {
            self.text(MARGIN + x, 8.0, font, text);
        }
        for (text, x) in right {
            let width = width_of(&encode(text)) * 8.0 / 1_000.0;
            self.text(MARGIN + x - width, 8.0, font, text);
        }
        self.down(12.0);
    }

    fn line_bar(&mut self, account: &AccountFigures) {
        self.text(MARGIN, 8.0, PLAIN, &format!("{} {}", account.account, account.currency));
        let all = account.lines.max(1) as f32;
        let mut x = MARGIN + 190.0;
        let parts = [account.lines_auto, account.lines_suggested, account.lines_open];
        for (part, grey) in parts.into_iter().zip([0.75, 0.5, 0.15]) {
            let width = part as f32 * 200.0 / all;
            self.content.set_fill_gray(grey);
            self.content.rect(x, HEIGHT - self.y - 1.0, width, 8.0).fill_nonzero();
            x += width;
        }
        self.content.set_fill_gray(0.0);
        let [auto, suggested, open] = parts;
        self.text(MARGIN + 400.0, 8.0, PLAIN, &format!("{auto} / {suggested} / {open}"));
        self.down(13.0);
    }

    fn finish(mut self, manifest: &str, day: &str) -> Vec<u8> {
        let last = std::mem::replace(&mut self.content, Content::new());
        self.pages.push(last);
        let mut pdf = Pdf::new();
        let (catalog, tree, plain, bold, info) =
            (Ref::new(1), Ref::new(2), Ref::new(3), Ref::new(4), Ref::new(5));
        let count = self.pages.len() as i32;
        let page_ref = |place: i32| Ref::new(10 + 2 * place);
        pdf.catalog(catalog).pages(tree);
        pdf.pages(tree).kids((0..count).map(page_ref)).count(count);
        for (place, mut content) in self.pages.into_iter().enumerate() {
            let place = place as i32;
            let footer = format!("manifest {manifest}    page {} of {count}", place + 1);
            content.begin_text().set_font(PLAIN, 7.0).next_line(MARGIN, MARGIN / 2.0);
            content.show(Str(&encode(&footer))).end_text();
            let body = Ref::new(11 + 2 * place);
            let mut page = pdf.page(page_ref(place));
            page.media_box(Rect::new(0.0, 0.0, WIDTH, HEIGHT)).parent(tree).contents(body);
            page.resources().fonts().pair(PLAIN, plain).pair(BOLD, bold);
            page.finish();
            pdf.stream(body, &content.finish());
        }
        for (font, name) in [(plain, &b"Helvetica"[..]), (bold, b"Helvetica-Bold")] {
            pdf.type1_font(font).base_font(Name(name)).encoding_predefined(Name(b"WinAnsiEncoding"));
        }
        pdf.document_info(info)
            .title(TextStr(&format!("Reconciliation of {day}")))
            .subject(TextStr(&format!("manifest {manifest}")));
        pdf.finish()
    }
}

/// Letters of the fonts' encoding; others lose their accents or become a question mark.
fn encode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            ' '..='~' | '\u{a1}'..='\u{ff}' => bytes.push(u32::from(letter) as u8),
            '\u{202f}' | '\u{a0}' | '\u{2009}' => bytes.push(b' '),
            '\u{2212}' | '\u{2013}' => bytes.push(0x96),
            '\u{2019}' => bytes.push(0x92),
            other => {
                let mut folded = Vec::new();
                text::fold_into(other.encode_utf8(&mut [0; 4]), &mut folded);
                let is_plain = !folded.is_empty() && folded.iter().all(u8::is_ascii_alphanumeric);
                bytes.extend_from_slice(if is_plain { &folded } else { b"?" });
            }
        }
    }
    bytes
}

/// Width of a text in thousandths of its size; exact for digits, marks and blanks, which is what is set to the right.
fn width_of(bytes: &[u8]) -> f32 {
    bytes
        .iter()
        .map(|byte| match byte {
            b' ' | b'.' | b',' | b'/' | b':' | b'i' | b'l' | b't' | b'f' | b'I' | b'j' => 278.0,
            b'-' | b'r' | b'(' | b')' => 333.0,
            b'c' | b's' | b'k' | b'v' | b'x' | b'y' | b'z' => 500.0,
            b'm' | b'M' => 833.0,
            b'w' => 722.0,
            b'A' | b'B' | b'E' | b'P' | b'S' | b'K' | b'V' | b'X' | b'Y' => 667.0,
            b'C' | b'D' | b'H' | b'N' | b'R' | b'U' => 722.0,
            b'G' | b'O' | b'Q' => 778.0,
            b'T' | b'F' | b'Z' => 611.0,
            b'W' => 944.0,
            _ => 556.0,
        })
        .sum()
}
