//! The page for a person: first whether it balances, then what needs somebody, then everything else.
//!
//! One file with nothing outside it: no script, no font, no picture but SVG that is written here, so that it can be mailed,
//! archived and printed. Everything that comes from a bank or a ledger is escaped. Colours follow the reader's dark mode
//! and never say something that words do not say too.

use super::{AccountFigures, BreakRow, CUT_OFF, Extras, Report, explain, minute, units};
use crate::anomaly::{self, AnomalyKind, Severity};
use crate::break_kind::BreakKind;
use crate::date::Date;
use crate::engine::{Decision, How, Match};
use crate::record::Record;
use std::collections::BTreeMap;
use std::fmt::Write as _;

const CONFIRM_MAX: usize = 30;
const LARGEST_MAX: usize = 25;
const STATEMENTS_MAX: usize = 62;
const ANOMALIES_MAX: usize = 40;

pub(super) fn page(report: &Report<'_>, extras: &Extras<'_>) -> String {
    let accounts = report.accounts();
    let mut page = String::from(HEAD);
    opening(&mut page, report, &accounts, extras);
    balance(&mut page, extras);
    at_each_statement(&mut page, extras);
    proof(&mut page, &accounts);
    lines(&mut page, report, &accounts, extras);
    breaks(&mut page, report);
    to_confirm(&mut page, report, extras);
    largest(&mut page, report);
    anomalies(&mut page, report, extras);
    statements(&mut page, report);
    manifest(&mut page, report);
    page.push_str("</main></body></html>\n");
    page
}

/// Ages in days, as columns of tables and plots.
const AGES: [(&str, i32); 5] =
    [("0–2 days", 2), ("3–7", 7), ("8–30", 30), ("31–90", 90), ("older", i32::MAX)];

fn age_column(age_days: i32) -> usize {
    AGES.iter().position(|(_, until)| age_days <= *until).unwrap_or(AGES.len() - 1)
}

fn opening(page: &mut String, report: &Report<'_>, accounts: &[AccountFigures], extras: &Extras<'_>) {
    let sum = |of: fn(&AccountFigures) -> usize| accounts.iter().map(of).sum::<usize>();
    let (lines, auto) = (sum(|account| account.lines), sum(|account| account.lines_auto));
    let (suggested, open) = (sum(|account| account.lines_suggested), sum(|account| account.lines_open));
    let entries_open = sum(|account| account.entries_open);
    let oldest = report.outcome.breaks.iter().map(|found| found.age_days).max().unwrap_or(0);
    let is_proven = accounts.iter().all(|account| account.unexplained() == 0);
    let share = percent(auto, lines);
    let _ = write!(
        page,
        "<header><p class=m>FlowBridge · reconciliation</p><h1>{}</h1><p class=lead>{share} of {} bank lines need nobody. \
         <b>{}</b> {} to confirm, <b>{}</b> {} no entry, <b>{}</b> {} no line. {}</p></header><div class=tiles>",
        long_date(report.manifest.as_of),
        count(lines),
        count(suggested),
        if suggested == 1 { "is" } else { "are" },
        count(open),
        if open == 1 { "has" } else { "have" },
        count(entries_open),
        if entries_open == 1 { "entry has" } else { "entries have" },
        if is_proven {
            "Every difference between bank and ledger is accounted for, to the last unit."
        } else {
            "<b class=off>The differences are not all accounted for: do not rely on this report.</b>"
        },
    );
    for (name, value, note) in [
        ("need nobody", share, format!("{} lines", count(auto))),
        ("to confirm", count(suggested), percent(suggested, lines)),
        ("breaks", count(report.outcome.breaks.len()), format!("of {} kinds", kinds(report).len())),
        ("oldest break", format!("{oldest} d"), "since it was booked".to_owned()),
    ] {
        let _ = write!(page, "<div class=tile><b>{value}</b><span>{name}</span><i>{note}</i></div>");
    }
    page.push_str("</div>");
    if extras.is_cut_off() {
        let _ = write!(page, "<section><p class=off>{CUT_OFF}</p></section>");
    }
}

fn balance(page: &mut String, extras: &Extras<'_>) {
    if extras.balance.is_empty() {
        return;
    }
    page.push_str(
        "<section><h2>Our reserve and the bank’s balance</h2><p class=m>The closing balance must be exactly: our reserve, minus \
         what the bank books later, plus lines without an entry, minus entries without a line, plus what matched lines differ \
         by.</p><div class=wide><table class=proof><tr><th>account<th>closing balance<th>reserve<th>booked later<th>lines \
         alone<th>entries alone<th>matched<th>unexplained</tr>",
    );
    for line in extras.balance {
        let currency = &line.currency;
        let of = |amount: i64| units(amount.into(), currency);
        let _ = write!(
            page,
            "<tr><td>{} <span class=m>{currency}</span><td><b>{}</b><td>{}<td>{}<td>{}<td>{}<td>{}<td>{}</tr>",
            escape(&line.account),
            line.statement.map_or_else(|| "not told".to_owned(), of),
            of(line.ledger),
            of(line.in_transit),
            of(line.at_bank_only),
            of(line.in_ledger_only),
            of(line.differences),
            match line.statement {
                None => "<span class=m>no balance to compare with</span>".to_owned(),
                Some(_) if !line.is_told => "<span class=m>not told yet</span>".to_owned(),
                Some(_) => unexplained(line.unexplained, currency),
            },
        );
    }
    page.push_str("</table></div></section>");
}

fn at_each_statement(page: &mut String, extras: &Extras<'_>) {
    if extras.proofs.is_empty() {
        return;
    }
    page.push_str(
        "<section><h2>Proof of balance at each statement</h2><p class=m>Our reserve as it was posted at each statement’s instant. \
         In between lies what was posted on the other side of that instant, stands on one side only, was matched with another \
         amount, or was put right since. What is unexplained at one statement and not at the next was a matter of time.</p>\
         <div class=wide><table class=proof><tr><th>statement<th class=l>account<th class=l>up to (UTC)<th>closing balance<th>reserve\
         <th>in between<th>unexplained</tr>",
    );
    for line in extras.proofs {
        let currency = &line.currency;
        let of = |amount: i64| units(amount.into(), currency);
        let _ = write!(
            page,
            "<tr><td>{}<td class=l>{} <span class=m>{currency}</span><td class=l>{}<td><b>{}</b><td>{}<td>{}<td>{}</tr>",
            escape(&line.statement),
            escape(&line.account),
            escape(&minute(&line.as_of)),
            of(line.closing),
            of(line.ledger),
            of(line.in_between),
            unexplained(line.unexplained, currency),
        );
    }
    page.push_str("</table></div></section>");
}

fn unexplained(amount: i64, currency: &str) -> String {
    match amount {
        0 => "<span class=ok>✓ nothing</span>".to_owned(),
        _ => format!("<span class=off>✗ {}</span>", units(amount.into(), currency)),
    }
}

fn proof(page: &mut String, accounts: &[AccountFigures]) {
    page.push_str(
        "<section><h2>Proof of balance</h2><p class=m>What the bank has more than the ledger must be exactly: what matched \
         lines differ by, plus lines without an entry, minus entries without a line.</p><div class=wide><table class=proof><tr>\
         <th>account<th>bank<th>ledger<th>difference<th>matched<th>lines alone<th>entries alone<th>unexplained</tr>",
    );
    for account in accounts {
        let currency = &account.currency;
        let (difference, unexplained) = (account.difference(), account.unexplained());
        let _ = write!(
            page,
            "<tr><td>{} <span class=m>{currency}</span><td>{}<td>{}<td><b>{}</b><td>{}<td>{}<td>{}<td>{}</tr>",
            escape(&account.account),
            units(account.bank_minor_units, currency),
            units(account.ledger_minor_units, currency),
            units(difference, currency),
            units(account.matched_difference_minor_units, currency),
            units(account.lines_open_minor_units, currency),
            units(account.entries_open_minor_units, currency),
            if unexplained == 0 {
                "<span class=ok>✓ nothing</span>".to_owned()
            } else {
                format!("<span class=off>✗ {}</span>", units(unexplained, currency))
            },
        );
    }
    page.push_str("</table></div></section>");
}

fn lines(page: &mut String, report: &Report<'_>, accounts: &[AccountFigures], extras: &Extras<'_>) {
    page.push_str(
        "<section><h2>What became of the bank’s lines</h2><p class=key><i class=c0></i>need nobody<i class=c1></i>to \
         confirm<i class=c2></i>no entry</p><div class=two><div><table class=bars>",
    );
    for account in accounts {
        let parts = [account.lines_auto, account.lines_suggested, account.lines_open];
        let _ = write!(
            page,
            "<tr><td>{} <span class=m>{}</span><td>{}<td class=m>{} of {}</tr>",
            escape(&account.account),
            account.currency,
            stack(&parts),
            count(account.lines_auto),
            count(account.lines)
        );
    }
    page.push_str("</table></div><div>");
    let mut by_how: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    for found in &report.outcome.matches {
        let name = match found.how {
            How::Reference => "full reference",
            How::Model => "model",
            How::Group(_) => "group",
        };
        by_how.entry(name).or_default()[usize::from(found.decision != Decision::Auto)] += found.bank.len();
    }
    page.push_str("<table><tr><th>matched by<th>need nobody<th>to confirm</tr>");
    for (name, [auto, suggested]) in &by_how {
        let _ = write!(page, "<tr><td>{name}<td>{}<td>{}</tr>", count(*auto), count(*suggested));
    }
    page.push_str("</table>");
    if extras.history.len() >= 2 {
        page.push_str("<p class=m>Share that needs nobody, run by run</p>");
        let shares: Vec<f64> = extras
            .history
            .iter()
            .map(|run| {
                let (lines, auto) = run.accounts.iter().fold((0.0, 0.0), |(lines, auto), account| {
                    (lines + account.lines as f64, auto + account.lines as f64 * account.auto_share)
                });
                if lines > 0.0 { auto / lines } else { 0.0 }
            })
            .collect();
        trend(page, &shares);
    }
    page.push_str("</div></div></section>");
}

fn kinds(report: &Report<'_>) -> BTreeMap<BreakKind, [usize; AGES.len()]> {
    let mut kinds: BTreeMap<BreakKind, [usize; AGES.len()]> = BTreeMap::new();
    for found in &report.outcome.breaks {
        kinds.entry(found.kind).or_default()[age_column(found.age_days)] += 1;
    }
    kinds
}

fn breaks(page: &mut String, report: &Report<'_>) {
    let kinds = kinds(report);
    if kinds.is_empty() {
        page.push_str("<section><h2>Breaks</h2><p class=ok>None.</p></section>");
        return;
    }
    let mut ages = [0usize; AGES.len()];
    for counts in kinds.values() {
        ages.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    page.push_str("<section><h2>Breaks by age</h2>");
    ageing(page, &ages);
    page.push_str("<h2>Breaks by kind</h2><div class=wide><table><tr><th>kind<th class=l><th>count");
    for (name, _) in AGES {
        let _ = write!(page, "<th>{name}");
    }
    page.push_str("<th class=l>whose desk<th class=l>what to do</tr>");
    let most = kinds.values().map(|counts| counts.iter().sum::<usize>()).max().unwrap_or(1).max(1);
    let mut sorted: Vec<(BreakKind, [usize; AGES.len()])> = kinds.into_iter().collect();
    sorted.sort_by_key(|(kind, counts)| (std::cmp::Reverse(counts.iter().sum::<usize>()), *kind));
    for (kind, counts) in sorted {
        let sum: usize = counts.iter().sum();
        let width = (sum as f64 * 110.0 / most as f64).max(2.0);
        let _ = write!(
            page,
            "<tr><td>{}<td class=l><svg width=112 height=12 role=img aria-label='{sum}'><rect class=f2 width={width:.0} \
             height=12 rx=2 /></svg><td><b>{}</b>",
            words(kind.code()),
            count(sum)
        );
        for of_age in counts {
            let _ = write!(page, "<td>{}", if of_age == 0 { "·".to_owned() } else { count(of_age) });
        }
        let _ = write!(page, "<td class=l>{}<td class=l>{}</tr>", kind.owner(), kind.proposal());
    }
    page.push_str("</table></div></section>");
}

fn to_confirm(page: &mut String, report: &Report<'_>, extras: &Extras<'_>) {
    let wanted = report.to_confirm();
    if wanted.is_empty() {
        return;
    }
    let _ = write!(
        page,
        "<section><h2>To confirm</h2><p class=m>The largest {} of {}; all are in matches.csv.</p>",
        wanted.len().min(CONFIRM_MAX),
        count(wanted.len())
    );
    for place in wanted.into_iter().take(CONFIRM_MAX) {
        let found = &report.outcome.matches[place];
        let _ = write!(
            page,
            "<details><summary><b>{}</b> {} <span class=m>{}</span></summary><div class=two>",
            units(
                found.bank.iter().map(|line| report.bank[*line as usize].minor_units).sum(),
                code(report, found)
            ),
            escape(&title(report, found)),
            if found.difference == 0 {
                format!("{:.1} % likely", (f64::from(found.probability) * 1_000.0).floor() / 10.0)
            } else {
                format!("differs by {}", units(i128::from(found.difference), code(report, found)))
            }
        );
        side(page, "ledger", report.ledger, &found.ledger);
        side(page, "bank", report.bank, &found.bank);
        let sentence = extras.sentences.get(&place).map_or_else(|| explain(found), Clone::clone);
        let _ = write!(page, "</div><p>{}</p>", escape(&sentence));
        if let Some((line, _)) = found.runner_up {
            let rival = &report.bank[line as usize];
            let _ = write!(
                page,
                "<p class=m>Next best line: {} of {}, {} {}.</p>",
                escape(&rival.id),
                rival.booked_on,
                units(rival.minor_units, rival.currency.code()),
                escape(&short(&rival.counterparty, &rival.text))
            );
        }
        reasons(page, found);
        page.push_str("</details>");
    }
    page.push_str("</section>");
}

fn code<'a>(report: &Report<'a>, found: &Match) -> &'a str {
    report.bank[found.bank[0] as usize].currency.code()
}

fn title(report: &Report<'_>, found: &Match) -> String {
    let entry = &report.ledger[found.ledger[0] as usize];
    let name = if entry.counterparty.is_empty() { &entry.id } else { &entry.counterparty };
    match (found.ledger.len(), found.bank.len()) {
        (1, 1) => format!("{} · {name}", code(report, found)),
        (entries, lines) => format!(
            "{} · {name} · {}, {}",
            code(report, found),
            plural(entries, "entry", "entries"),
            plural(lines, "line", "lines")
        ),
    }
}

fn side(page: &mut String, name: &str, records: &[Record], places: &[u32]) {
    let _ = write!(page, "<table><tr><th>{name}<th class=l>who and what<th>amount</tr>");
    for place in places.iter().take(12) {
        let record = &records[*place as usize];
        let _ = write!(
            page,
            "<tr><td>{}<br><span class=m>{}</span><td class=l>{}<br><span class=m>{}</span><td>{}</tr>",
            record.booked_on,
            escape(&record.id),
            escape(&short(&record.counterparty, &record.text)),
            escape(&record.reference),
            units(record.minor_units, record.currency.code())
        );
    }
    if places.len() > 12 {
        let _ = write!(page, "<tr><td colspan=3 class=m>and {} more</tr>", places.len() - 12);
    }
    page.push_str("</table>");
}

/// What moved the score, as bars to the right (for) and to the left (against).
fn reasons(page: &mut String, found: &Match) {
    if found.reasons.is_empty() {
        return;
    }
    let most = found.reasons.iter().map(|(_, part)| part.abs()).fold(0.1f32, f32::max);
    let height = found.reasons.len() * 18;
    let _ =
        write!(page, "<svg class=why width=440 height={height} role=img aria-label='what moved the score'>");
    for (row, (name, part)) in found.reasons.iter().enumerate() {
        let width = (part.abs() / most * 90.0).max(1.0);
        let (x, class) = if *part < 0.0 { (300.0 - width, "f2") } else { (300.0, "f0") };
        let y = row * 18;
        let _ = write!(
            page,
            "<text x=195 y={} text-anchor=end>{}</text><rect class={class} x={x:.0} y={} width={width:.0} height=10 rx=2 />\
             <text x=400 y={}>{part:+.1}</text>",
            y + 12,
            words(name),
            y + 3,
            y + 12
        );
    }
    page.push_str("</svg>");
}

fn largest(page: &mut String, report: &Report<'_>) {
    let mut rows: Vec<BreakRow> = report.breaks();
    if rows.is_empty() {
        return;
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row.minor_units.unsigned_abs()));
    page.push_str(
        "<section><h2>Largest breaks</h2><div class=wide><table><tr><th>kind<th class=l>record<th>amount<th>days<th class=l>\
         what to do</tr>",
    );
    for row in rows.iter().take(LARGEST_MAX) {
        let _ = write!(
            page,
            "<tr><td>{}<td class=l>{}<td>{} {}<td>{}<td class=l>{}</tr>",
            words(row.kind),
            escape(&row.subject),
            units(row.minor_units, &row.currency),
            row.currency,
            row.age_days,
            row.proposal
        );
    }
    page.push_str("</table></div></section>");
}

fn anomalies(page: &mut String, report: &Report<'_>, extras: &Extras<'_>) {
    if extras.history.is_empty() && extras.anomalies.is_empty() {
        return;
    }
    page.push_str("<section><h2>Unusual</h2>");
    let today = report.manifest.as_of;
    let earlier =
        plural(extras.history.iter().filter(|run| run.on != today).count(), "earlier run", "earlier runs");
    let knows_enough = anomaly::knows_enough(extras.history, today);
    if extras.anomalies.is_empty() && knows_enough {
        let _ = write!(page, "<p class=ok>Nothing, beside {earlier}.</p>");
    } else if !knows_enough {
        let _ = write!(
            page,
            "<p class=m>Too few nights yet: {earlier}, and an account is judged beside {} of the same weekday.</p>",
            anomaly::SAMPLES_MIN
        );
    }
    if !extras.anomalies.is_empty() {
        page.push_str(
            "<div class=wide><table><tr><th>what<th class=l>where<th>usual<th>found<th>how far off</tr>",
        );
        for found in extras.anomalies.iter().take(ANOMALIES_MAX) {
            let (name, measure) = match found.kind {
                AnomalyKind::Count => ("number of lines", "robust z"),
                AnomalyKind::Sum => ("sum", "robust z"),
                AnomalyKind::Lag => ("days until booked", "robust z"),
                AnomalyKind::BreakMix => ("share of a kind of break", "robust z"),
                AnomalyKind::AutoRateDrop => ("share that needs nobody fell", "points"),
                AnomalyKind::FirstSeenAccount => ("known debtor, new account", "payments before"),
                AnomalyKind::AmountOutlier => ("amount unlike this debtor’s", "robust z"),
                AnomalyKind::FeatureDrift => ("feature distributed otherwise", "stability index"),
                AnomalyKind::ScoreDrift => ("scores distributed otherwise", "stability index"),
            };
            let mark = if found.severity == Severity::Alarm { "<span class=off>● </span>" } else { "○ " };
            let _ = write!(
                page,
                "<tr><td>{mark}{name}<td class=l>{}<td>{}<td>{}<td>{:.1} <span class=m>{measure}</span></tr>",
                escape(&found.subject),
                figure(found.usual),
                figure(found.found),
                found.score
            );
        }
        page.push_str("</table></div>");
        if extras.anomalies.len() > ANOMALIES_MAX {
            let more = extras.anomalies.len() - ANOMALIES_MAX;
            let _ = write!(page, "<p class=m>and {more} more in report.json</p>");
        }
    }
    page.push_str("</section>");
}

fn statements(page: &mut String, report: &Report<'_>) {
    if report.heads.is_empty() {
        return;
    }
    page.push_str(
        "<section><h2>Statements</h2><div class=wide><table><tr><th>account<th>no.<th>opening<th>entries<th>closing<th></tr>",
    );
    for head in report.heads.iter().take(STATEMENTS_MAX) {
        let adds_up =
            head.opening_minor_units.checked_add(head.entries_minor_units) == Some(head.closing_minor_units);
        let code = head.currency.code();
        let _ = write!(
            page,
            "<tr><td>{} <span class=m>{code}</span><td>{}<td>{}<td>{}<td>{}<td>{}</tr>",
            escape(&head.account),
            head.sequence.map(|number| number.to_string()).unwrap_or_default(),
            units(head.opening_minor_units, code),
            units(head.entries_minor_units, code),
            units(head.closing_minor_units, code),
            if adds_up {
                "<span class=ok>✓ adds up</span>"
            } else {
                "<span class=off>✗ does not add up</span>"
            },
        );
    }
    page.push_str("</table></div>");
    if report.heads.len() > STATEMENTS_MAX {
        let _ = write!(page, "<p class=m>and {} more</p>", report.heads.len() - STATEMENTS_MAX);
    }
    page.push_str("</section>");
}

fn manifest(page: &mut String, report: &Report<'_>) {
    let manifest = report.manifest;
    let _ = write!(
        page,
        "<footer><h2>Manifest</h2><p class=m>The same manifest gives the same report, byte for byte.</p><table>\
         <tr><td>manifest<td class=l><code>{}</code></tr><tr><td>model<td class=l><code>{}</code></tr>\
         <tr><td>program<td class=l>{}</tr><tr><td>days a bank may take<td class=l>{}</tr>",
        manifest.sha256(),
        escape(&manifest.model),
        manifest.program,
        manifest.transit_days_max
    );
    for (name, hash) in &manifest.inputs {
        let _ = write!(page, "<tr><td>{}<td class=l><code>{}</code></tr>", escape(name), escape(hash));
    }
    page.push_str("</table></footer>");
}

/// One bar of three shares.
fn stack(parts: &[usize; 3]) -> String {
    let all = parts.iter().sum::<usize>().max(1) as f64;
    let mut bar = String::from(
        "<svg class=fill viewBox='0 0 260 14' preserveAspectRatio=none height=14 role=img aria-label='shares'>",
    );
    let mut x = 0.0;
    for (place, part) in parts.iter().enumerate() {
        let width = *part as f64 * 260.0 / all;
        let _ = write!(bar, "<rect class=f{place} x={x:.1} width={width:.1} height=14 />");
        x += width;
    }
    bar.push_str("</svg>");
    bar
}

fn ageing(page: &mut String, ages: &[usize; AGES.len()]) {
    let most = ages.iter().copied().max().unwrap_or(1).max(1) as f64;
    page.push_str("<svg width=520 height=170 role=img aria-label='breaks by age'>");
    for (column, (of_age, (name, _))) in ages.iter().zip(AGES).enumerate() {
        let (x, height) = (column * 104, *of_age as f64 * 110.0 / most);
        let _ = write!(
            page,
            "<rect class=f3 x={} y={:.1} width=72 height={height:.1} rx=3 /><text x={} y={:.1} text-anchor=middle>{}</text>\
             <text class=m x={} y=160 text-anchor=middle>{name}</text>",
            x + 12,
            138.0 - height,
            x + 48,
            131.0 - height,
            count(*of_age),
            x + 48
        );
    }
    page.push_str("<line x1=0 x2=520 y1=138.5 y2=138.5 /></svg>");
}

fn trend(page: &mut String, shares: &[f64]) {
    let low = shares.iter().copied().fold(1.0f64, f64::min).min(0.99) - 0.005;
    let step = 400.0 / (shares.len() - 1).max(1) as f64;
    let points: Vec<String> = shares
        .iter()
        .enumerate()
        .map(|(place, share)| {
            format!("{:.1},{:.1}", place as f64 * step, 60.0 - (share - low) / (1.0 - low) * 54.0)
        })
        .collect();
    let _ = write!(
        page,
        "<svg width=420 height=70 role=img aria-label='trend'><polyline points='{}' /><text class=m x=400 y=68 \
         text-anchor=end>{:.1} % now, lowest {:.1} %</text></svg>",
        points.join(" "),
        shares.last().copied().unwrap_or(0.0) * 100.0,
        shares.iter().copied().fold(1.0f64, f64::min) * 100.0
    );
}

fn short(name: &str, text: &str) -> String {
    let both = if name.is_empty() || text.is_empty() {
        format!("{name}{text}")
    } else {
        format!("{name} · {text}")
    };
    if both.chars().count() > 90 { both.chars().take(89).chain(['…']).collect() } else { both }
}

fn words(code: &str) -> String {
    code.replace('_', " ")
}

fn long_date(day: Date) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let (year, month, date) = day.civil();
    format!("{date} {} {year}", MONTHS[(month as usize + 11) % 12])
}

pub(super) fn plural(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

fn percent(part: usize, of: usize) -> String {
    // Rounded down, so that 100 % means all.
    let tenths = part * 1_000 / of.max(1);
    format!("{}.{} %", tenths / 10, tenths % 10)
}

fn count(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

fn figure(value: f64) -> String {
    if value.abs() >= 1_000.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

const HEAD: &str = "<!doctype html>\n<html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width'>\
<title>Reconciliation</title><style>\
:root{--ink:#1c2530;--soft:#67727f;--line:#e8ebef;--paper:#fff;--ground:#f5f6f8;--good:#2f8f62;--wait:#d9a431;--bad:#bf4036;\
--plain:#5b7fa8}@media(prefers-color-scheme:dark){:root{--ink:#e4e8ed;--soft:#98a3af;--line:#2b333d;--paper:#1b2129;\
--ground:#12161c;--good:#4db284;--wait:#e0b354;--bad:#e0695f;--plain:#7d9fc6}}\
*{box-sizing:border-box}body{font:15px/1.55 system-ui,-apple-system,'Segoe UI',sans-serif;color:var(--ink);\
background:var(--ground);margin:0}main{max-width:74rem;margin:0 auto;padding:2.5rem 1.5rem 4rem}\
h1{font-weight:650;font-size:2rem;margin:.1rem 0 .6rem;letter-spacing:-.01em}h2{font-size:1.05rem;font-weight:600;\
margin:0 0 .7rem}.lead{font-size:1.12rem;max-width:52rem;margin:0 0 1.6rem}section,footer{background:var(--paper);\
border:1px solid var(--line);border-radius:10px;padding:1.3rem 1.4rem;margin-top:1.2rem}section h2+*{margin-top:0}\
section svg+h2{margin-top:1.4rem}.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(10rem,1fr));gap:1rem}\
.tile{background:var(--paper);border:1px solid var(--line);border-radius:10px;padding:1rem 1.2rem;display:flex;\
flex-direction:column}.tile b{font-size:1.7rem;font-weight:600;font-variant-numeric:tabular-nums}.tile i{font-style:normal;\
color:var(--soft);font-size:.85rem}table{border-collapse:collapse;width:100%}th,td{padding:.38rem .6rem;text-align:right;\
border-bottom:1px solid var(--line);font-variant-numeric:tabular-nums;vertical-align:top}th{font-weight:500;\
color:var(--soft);font-size:.85rem;white-space:nowrap}tr:last-child td{border-bottom:0}td:first-child,th:first-child,.l{\
text-align:left!important}.wide{overflow-x:auto}.wide table{min-width:46rem}.wide svg{max-width:none}.two{display:grid;grid-template-columns:1fr 1fr;gap:1.5rem;align-items:start}\
.two>*{min-width:0;overflow-x:auto}@media(max-width:60rem){.two{grid-template-columns:minmax(0,1fr)}}.m{color:var(--soft);font-size:.88rem}.ok{color:var(--good)}\
.off{color:var(--bad)}.bars td{border:0;white-space:nowrap}.bars td:nth-child(2){width:60%}.proof td{white-space:nowrap;font-size:.9rem}code{font:.82rem ui-monospace,monospace;word-break:break-all}\
svg{display:block;max-width:100%}.fill{width:100%;min-width:8rem;border-radius:3px}svg text{font-size:12px;fill:var(--ink)}svg text.m{fill:var(--soft)}svg line{stroke:\
var(--line)}polyline{fill:none;stroke:var(--good);stroke-width:2}.f0{fill:var(--good)}.f1{fill:var(--wait)}.f2{fill:\
var(--bad)}.f3{fill:var(--plain)}.key{color:var(--soft);font-size:.88rem;margin:0 0 .6rem}.key i{display:inline-block;\
width:.7rem;height:.7rem;border-radius:2px;margin:0 .4rem 0 1rem}.key i:first-child{margin-left:0}.c0{background:\
var(--good)}.c1{background:var(--wait)}.c2{background:var(--bad)}details{border-top:1px solid var(--line);padding:.5rem 0}\
summary{cursor:pointer}.why{margin:.4rem 0}@media print{body{background:#fff}section,footer,.tile{break-inside:avoid;\
border-color:#ccc}}</style></head><body><main>";
