//! Every state meets every event. What comes of it is a table for people, `docs/lifecycle.md`: committed, reviewed like
//! code, made from [`step`] and compared with what is committed. A changed cell fails the test and is shown; the new
//! table lies beside the build then, to be read and copied over by hand.

use crate::support::{
    BANK_TO_BANK, BANK_TO_TOKEN, CANCELLED, CAPTURE_DECLINED, CONFIRM_ONLY_TO_TOKEN, CREDIT_DECLINED,
    CREDITOR_FROZEN, HOLD_DECLINED, HOLD_PLACED, INITIATED, REVOKED, REVOKED_UNSIGNED, SETTLE_BEFORE,
    SETTLED, Story, TOKEN_TO_BANK, TOKEN_TO_TOKEN, every_event, payment, removed,
};
use flowbridge_domain::bank::BankStep;
use flowbridge_domain::ledger::HoldMovement;
use flowbridge_domain::payment::{
    ChainLog, Decision, Effect, Event, Initiation, Rejected, State, Step, step,
};
use std::fmt::Write;
use std::path::Path;

/// Where a payment can be within a state: the column of a table, with the story that leads there.
struct Position {
    name: &'static str,
    story: Story,
}

fn at(name: &'static str, story: Story) -> Position {
    Position { name, story }
}

fn held_at_bank() -> Story {
    payment(BANK_TO_TOKEN).after([INITIATED, HOLD_PLACED])
}

fn captured_for_bank_payout() -> Story {
    payment(BANK_TO_BANK).after([INITIATED, HOLD_PLACED, SETTLED, Event::Captured])
}

/// The states in the order of a life, each with the positions that answer differently.
fn states() -> [(&'static str, Vec<Position>); 8] {
    [
        (
            "accepted",
            vec![
                at("bank funding: just accepted", payment(BANK_TO_TOKEN)),
                at("token funding: just accepted", payment(TOKEN_TO_TOKEN)),
                at(
                    "initiation reorganised away: hold asked",
                    payment(BANK_TO_TOKEN).after([INITIATED, removed(ChainLog::Initiated)]),
                ),
                at(
                    "initiation reorganised away: hold placed",
                    held_at_bank().after([removed(ChainLog::Initiated)]),
                ),
                at(
                    "settlement and initiation reorganised away: captured, credit asked",
                    captured_for_bank_payout()
                        .after([removed(ChainLog::Settled), removed(ChainLog::Initiated)]),
                ),
            ],
        ),
        (
            "initiated",
            vec![
                at("hold asked", payment(BANK_TO_TOKEN).after([INITIATED])),
                at(
                    "confirm-only bank: capture asked",
                    payment(CONFIRM_ONLY_TO_TOKEN).after([INITIATED, HOLD_PLACED]),
                ),
            ],
        ),
        (
            "held",
            vec![
                at("bank hold", held_at_bank()),
                at("token escrow", payment(TOKEN_TO_TOKEN).after([INITIATED])),
                at(
                    "confirm-only bank: captured",
                    payment(CONFIRM_ONLY_TO_TOKEN).after([INITIATED, HOLD_PLACED, Event::Captured]),
                ),
                at(
                    "settlement reorganised away: capture asked",
                    held_at_bank().after([SETTLED, removed(ChainLog::Settled)]),
                ),
                at(
                    "settlement reorganised away: captured, credit asked",
                    captured_for_bank_payout().after([removed(ChainLog::Settled)]),
                ),
            ],
        ),
        (
            "settled",
            vec![
                at("token payout: capture asked", held_at_bank().after([SETTLED])),
                at("bank payout: credit asked", captured_for_bank_payout()),
                at("credited: burn asked", captured_for_bank_payout().after([Event::Credited])),
                at(
                    "credit declined: release to wallet asked",
                    payment(TOKEN_TO_BANK).after([INITIATED, SETTLED, CREDIT_DECLINED]),
                ),
            ],
        ),
        (
            "cancelling",
            vec![
                at("revoked before initiation was seen", payment(TOKEN_TO_TOKEN).after([REVOKED])),
                at("open, hold asked", payment(BANK_TO_TOKEN).after([INITIATED, REVOKED])),
                at("open, hold placed", held_at_bank().after([REVOKED])),
                at(
                    "initiation reorganised away, hold placed",
                    held_at_bank().after([REVOKED, removed(ChainLog::Initiated)]),
                ),
                at("closed, release asked", held_at_bank().after([REVOKED, CANCELLED])),
                at(
                    "cancellation reorganised away, release asked",
                    held_at_bank().after([REVOKED, CANCELLED, removed(ChainLog::Cancelled)]),
                ),
                at(
                    "confirm-only bank: closed, capture asked",
                    payment(CONFIRM_ONLY_TO_TOKEN).after([INITIATED, HOLD_PLACED, REVOKED, CANCELLED]),
                ),
                at(
                    "confirm-only bank: closed, return asked",
                    payment(CONFIRM_ONLY_TO_TOKEN).after([
                        INITIATED,
                        HOLD_PLACED,
                        Event::Captured,
                        REVOKED,
                        CANCELLED,
                    ]),
                ),
            ],
        ),
        (
            "completed",
            vec![
                at("token payout", held_at_bank().after([SETTLED, Event::Captured])),
                at(
                    "bank payout, burned",
                    captured_for_bank_payout()
                        .after([Event::Credited, Event::Chain(ChainLog::RedemptionBurned)]),
                ),
                at(
                    "settlement reorganised away",
                    held_at_bank().after([SETTLED, Event::Captured, removed(ChainLog::Settled)]),
                ),
                at(
                    "settlement and initiation reorganised away",
                    held_at_bank().after([
                        SETTLED,
                        Event::Captured,
                        removed(ChainLog::Settled),
                        removed(ChainLog::Initiated),
                    ]),
                ),
            ],
        ),
        (
            "failed",
            vec![
                at("never initiated", payment(TOKEN_TO_TOKEN).after([REVOKED_UNSIGNED])),
                at(
                    "declined by the bank",
                    payment(BANK_TO_TOKEN).after([INITIATED, HOLD_DECLINED, CANCELLED]),
                ),
                at(
                    "cancellation reorganised away",
                    payment(TOKEN_TO_TOKEN).after([
                        INITIATED,
                        REVOKED,
                        CANCELLED,
                        removed(ChainLog::Cancelled),
                    ]),
                ),
                at(
                    "cancellation and initiation reorganised away",
                    payment(TOKEN_TO_TOKEN).after([
                        INITIATED,
                        REVOKED,
                        CANCELLED,
                        removed(ChainLog::Cancelled),
                        removed(ChainLog::Initiated),
                    ]),
                ),
            ],
        ),
        (
            "under_review",
            vec![
                at("creditor_blocked", held_at_bank().after([CREDITOR_FROZEN])),
                at("capture_failed", held_at_bank().after([SETTLED, CAPTURE_DECLINED])),
                at("bank_refused", held_at_bank().after([SETTLED, Event::BankRefused(BankStep::Capture)])),
                at(
                    "funds_moved_without_settlement",
                    held_at_bank().after([SETTLED, Event::Captured, removed(ChainLog::Settled), CANCELLED]),
                ),
                at(
                    "contradiction: settled without a hold",
                    held_at_bank().after([Event::HoldExpired, SETTLED]),
                ),
            ],
        ),
    ]
}

fn event_name(event: Event) -> String {
    match event {
        Event::CancelRequested { initiation: Initiation::NeverSigned } => {
            "client cancels, never signed".into()
        }
        Event::CancelRequested { initiation: Initiation::MaybeSigned } => {
            "client cancels, maybe signed".into()
        }
        Event::InitiateWindowClosed => "time: initiate window closed".into(),
        Event::SettleWindowClosing => "time: settle window closing".into(),
        Event::Chain(log) => format!("chain: {}", log_name(log)),
        Event::ChainRemoved(log) => format!("chain: *removed* {}", log_name(log)),
        Event::InitiationRefused(_) => "chain worker: initiation refused".into(),
        Event::HoldPlaced { until } => {
            let long = until >= crate::support::HOLD_UNTIL;
            format!("bank: hold placed{}", if long { "" } else { ", too short" })
        }
        Event::HoldDeclined(_) => "bank: hold declined".into(),
        Event::HoldExpired => "bank: hold expired".into(),
        Event::Captured => "bank: captured".into(),
        Event::CaptureDeclined(_) => "bank: capture declined".into(),
        Event::Released => "bank: released".into(),
        Event::Credited => "bank: credited".into(),
        Event::CreditDeclined(_) => "bank: credit declined".into(),
        Event::BankRefused(step) => format!("bank: refuses the {}", step.as_str()),
        Event::Reviewed(Decision::Resume) => "person: resume".into(),
        Event::Reviewed(Decision::Cancel) => "person: cancel".into(),
        Event::Reviewed(Decision::CloseCompleted) => "person: close as completed".into(),
        Event::Reviewed(Decision::CloseFailed) => "person: close as failed".into(),
    }
}

fn log_name(log: ChainLog) -> &'static str {
    match log {
        ChainLog::Initiated => "initiated",
        ChainLog::InitiationSetAside(_) => "initiation set aside",
        ChainLog::Settled => "settled",
        ChainLog::SettlementSetAside(_) => "settlement set aside",
        ChainLog::Cancelled => "cancelled",
        ChainLog::Reclaimed => "reclaimed",
        ChainLog::RedemptionBurned => "redemption burned",
        ChainLog::RedemptionReleased => "redemption released",
    }
}

fn effect_name(effect: &Effect) -> &'static str {
    effect.as_str()
}

fn state_name(state: State) -> String {
    match state.reason() {
        None => state.as_str().to_owned(),
        Some(reason) => format!("{}({reason})", state.as_str()),
    }
}

fn cell(outcome: Result<Step, Rejected>, story: &Story) -> String {
    let step = match outcome {
        Err(Rejected::Repeat) => return "repeat".into(),
        Err(Rejected::TooLate) => return "too late".into(),
        Err(Rejected::NotApplicable) => return "–".into(),
        Ok(step) => step,
    };
    let mut parts = Vec::new();
    if step.entered.is_empty() {
        assert_eq!(step.next.state, story.state(), "a state is never left in silence");
        parts.push("stays".to_owned());
    } else {
        let entered: Vec<String> = step.entered.iter().map(|state| state_name(*state)).collect();
        parts.push(format!("**{}**", entered.join(" → ")));
    }
    let asked: Vec<&str> = step.effects.iter().map(effect_name).collect();
    if !asked.is_empty() {
        parts.push(format!("ask {}", asked.join(", ")));
    }
    let posted: Vec<&str> = step.entries.iter().map(|entry| entry.moment.as_str()).collect();
    if !posted.is_empty() {
        parts.push(format!("post {}", posted.join(", ")));
    }
    if let Some(hold) = step.hold {
        parts.push(
            match hold.movement {
                HoldMovement::Place => "reserve tokens",
                HoldMovement::Capture => "take reserved tokens",
                HoldMovement::Release => "free reserved tokens",
            }
            .to_owned(),
        );
    }
    if step.suspends_debtor {
        parts.push("suspend debtor".to_owned());
    }
    parts.join("; ")
}

const HEAD: &str = "\
# The life of a payment, cell by cell

Made from `flowbridge_domain::payment::step` by `cargo test -p flowbridge-domain matrix`, which fails when a cell has changed
and says where the new table lies. Read the difference as you would read code, then copy it here.

One table per state. A column is a position within the state: what chain and banks have done so far. A row is one thing that
happens. A cell says what comes of it: the **states entered**, or `stays` when only a leg moved; what is asked of the outside
(`ask`); what is posted to the ledger (`post`). `repeat`: known already, or beside the point by now; `too late`: the payment is
past it; `–`: makes no sense there. Timers are told when they are due; a payment that stands at a person's decision takes in
facts and waits.
";

fn table() -> String {
    let mut text = HEAD.to_owned();
    for (state, positions) in states() {
        write!(text, "\n## {state}\n\n| what happens |").unwrap();
        for position in &positions {
            assert_eq!(position.story.state().as_str(), state, "{}", position.name);
            write!(text, " {} |", position.name).unwrap();
        }
        text.push_str("\n| --- |");
        text.push_str(&" --- |".repeat(positions.len()));
        text.push('\n');
        for event in every_event() {
            write!(text, "| {} |", event_name(event)).unwrap();
            for Position { story, .. } in &positions {
                // The timer is told from this instant on; everything else happens in good time.
                let now = if event == Event::SettleWindowClosing { SETTLE_BEFORE } else { story.now };
                write!(text, " {} |", cell(step(&story.payment, event, now), story)).unwrap();
            }
            text.push('\n');
        }
    }
    text
}

#[test]
fn the_committed_table_says_what_step_does() {
    let made = table();
    let committed_at = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/lifecycle.md");
    let committed = std::fs::read_to_string(&committed_at).unwrap_or_default();
    if made == committed {
        return;
    }
    let made_at = Path::new(env!("CARGO_TARGET_TMPDIR")).join("lifecycle.md");
    std::fs::write(&made_at, &made).unwrap();
    let differences: Vec<String> = (1..)
        .zip(made.lines())
        .zip(committed.lines().map(Some).chain(std::iter::repeat(None)))
        .filter(|((_, made), committed)| Some(*made) != *committed)
        .take(10)
        .map(|((line, made), committed)| {
            format!("line {line}\n  committed: {}\n  made:      {made}", committed.unwrap_or("nothing"))
        })
        .collect();
    panic!(
        "docs/lifecycle.md is not what step does. Read the difference; if it is right, copy\n  {}\nto docs/lifecycle.md\n{}",
        made_at.display(),
        differences.join("\n")
    );
}
