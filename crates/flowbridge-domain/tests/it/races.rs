//! The races that the design names, each told to its end: what the partners see, what is asked of chain and banks, and where the
//! money is in the books.

use crate::support::{
    AMOUNT, Account, BANK_TO_BANK, BANK_TO_TOKEN, CANCELLED, CAPTURE_DECLINED, CONFIRM_ONLY_TO_TOKEN,
    CREDIT_DECLINED, CREDITOR_FROZEN, EXPIRES_AT, FEE, HOLD_DECLINED, HOLD_PLACED, HOLD_UNTIL, INITIATED,
    NET, REVOKED, REVOKED_UNSIGNED, SETTLE_BEFORE, SETTLED, SHORT_HOLD, Story, TOKEN_TO_BANK, TOKEN_TO_TOKEN,
    payment, removed,
};
use flowbridge_domain::bank::{BankStep, ReasonCode};
use flowbridge_domain::ledger::Moment;
use flowbridge_domain::payment::{
    ChainLog, Decision, Effect, EndReason, Event, Rejected, ReviewReason, SetAside, State,
};
use flowbridge_domain::time::Timestamp;
use std::time::Duration;

const PLACE_HOLD: Effect = Effect::Bank(BankStep::PlaceHold);
const CAPTURE: Effect = Effect::Bank(BankStep::Capture);
const RELEASE: Effect = Effect::Bank(BankStep::Release);
const CREDIT: Effect = Effect::Bank(BankStep::Credit);

const CONTRADICTION: State = State::UnderReview(ReviewReason::Contradiction);
const FUNDS_MOVED: State = State::UnderReview(ReviewReason::FundsMovedWithoutSettlement);
const BANK_REFUSED: State = State::UnderReview(ReviewReason::BankRefused);
const CREDITOR_BLOCKED: State = State::UnderReview(ReviewReason::CreditorBlocked);

/// Initiated, funds reserved, settlement asked for.
fn held_at_bank() -> Story {
    payment(BANK_TO_TOKEN).after([INITIATED, HOLD_PLACED])
}

/// Settled, the debtor's money is ours, the creditor's bank is asked to pay.
fn owed_to_creditors_bank() -> Story {
    payment(BANK_TO_BANK).after([INITIATED, HOLD_PLACED, SETTLED, Event::Captured])
}

impl Story {
    #[track_caller]
    fn stands_at(self, state: State) -> Self {
        assert_eq!(self.state(), state);
        self
    }

    #[track_caller]
    fn asked_once(self, effect: Effect) -> Self {
        let times = self.asked.iter().filter(|asked| **asked == effect).count();
        assert_eq!(times, 1, "{effect:?} among {:?}", self.asked);
        self
    }

    #[track_caller]
    fn never_asked(self, effect: Effect) -> Self {
        assert!(!self.has_asked(effect), "{effect:?} among {:?}", self.asked);
        self
    }

    #[track_caller]
    fn rejects(mut self, event: Event, why: Rejected) -> Self {
        assert_eq!(self.tell(event), Err(why));
        self
    }

    /// Every balance that is not nothing.
    #[track_caller]
    fn owns(self, expected: &[(Account, i128)]) -> Self {
        let balances: Vec<_> = Account::ALL
            .into_iter()
            .map(|account| (account, self.books.balance(account)))
            .filter(|(_, balance)| *balance != 0)
            .collect();
        assert_eq!(balances, expected);
        self
    }
}

// Cancellation against settlement: the chain decides.

#[test]
fn a_revocation_that_loses_to_settlement_is_forgotten() {
    held_at_bank()
        .after([REVOKED])
        .stands_at(State::Cancelling(EndReason::Revoked))
        .asked_once(Effect::CancelOnChain)
        .never_asked(RELEASE)
        .after([SETTLED, Event::Captured])
        .stands_at(State::Completed)
        .never_asked(RELEASE)
        .rejects(REVOKED, Rejected::TooLate)
        .owns(&[
            (Account::ReserveAtDebtorsBank, AMOUNT),
            (Account::CreditorsWallet, NET),
            (Account::HouseWallet, FEE),
        ]);
}

#[test]
fn a_revocation_that_beats_settlement_releases_the_hold_only_then() {
    held_at_bank()
        .after([REVOKED])
        .never_asked(RELEASE)
        .after([CANCELLED])
        .asked_once(RELEASE)
        .stands_at(State::Cancelling(EndReason::Revoked))
        .after([Event::Released])
        .stands_at(State::Failed(EndReason::Revoked))
        .owns(&[]);
}

#[test]
fn what_was_never_signed_fails_at_once_and_what_may_be_signed_waits_for_the_chain() {
    let unsigned =
        payment(TOKEN_TO_TOKEN).after([REVOKED_UNSIGNED]).stands_at(State::Failed(EndReason::Revoked));
    assert_eq!(unsigned.books.held(), 0);

    let signed = payment(TOKEN_TO_TOKEN).after([REVOKED]).stands_at(State::Cancelling(EndReason::Revoked));
    assert_eq!(signed.books.held(), AMOUNT);
    let cancelled = signed
        .after([INITIATED])
        .asked_once(Effect::CancelOnChain)
        .after([CANCELLED])
        .stands_at(State::Failed(EndReason::Revoked));
    assert_eq!(cancelled.books.held(), 0);
}

// The windows of time.

#[test]
fn an_initiation_window_that_closes_ends_what_the_chain_never_saw() {
    payment(BANK_TO_TOKEN)
        .after([Event::InitiateWindowClosed])
        .stands_at(State::Failed(EndReason::NotInitiated))
        .never_asked(RELEASE);
    payment(TOKEN_TO_TOKEN)
        .after([REVOKED, Event::InitiateWindowClosed])
        .stands_at(State::Failed(EndReason::Revoked));
}

#[test]
fn an_initiation_window_that_closes_is_beside_the_point_once_the_chain_has_it() {
    payment(BANK_TO_TOKEN).after([INITIATED]).rejects(Event::InitiateWindowClosed, Rejected::TooLate);
}

#[test]
fn settlement_is_asked_for_until_just_before_the_window_closes() {
    let just_before = Timestamp::from_micros(SETTLE_BEFORE.as_micros() - 1);
    let initiated = || payment(BANK_TO_TOKEN).after([INITIATED]);

    initiated().at(just_before).after([HOLD_PLACED]).stands_at(State::Held).asked_once(Effect::SettleOnChain);
    initiated()
        .at(SETTLE_BEFORE)
        .after([HOLD_PLACED])
        .stands_at(State::Cancelling(EndReason::Expired))
        .never_asked(Effect::SettleOnChain)
        .asked_once(Effect::CancelOnChain);

    held_at_bank().at(just_before).rejects(Event::SettleWindowClosing, Rejected::NotApplicable);
    held_at_bank()
        .at(SETTLE_BEFORE)
        .after([Event::SettleWindowClosing])
        .stands_at(State::Cancelling(EndReason::Expired));
}

#[test]
fn expiry_only_asks_for_cancellation_and_a_settlement_under_way_still_wins() {
    let expiring = held_at_bank().at(EXPIRES_AT).after([Event::SettleWindowClosing]).never_asked(RELEASE);
    expiring.after([SETTLED, Event::Captured]).stands_at(State::Completed);
}

#[test]
fn a_debtor_who_reclaims_the_escrow_ends_the_payment() {
    let reclaimed = payment(TOKEN_TO_TOKEN)
        .after([INITIATED])
        .at(EXPIRES_AT)
        .after([Event::Chain(ChainLog::Reclaimed)])
        .stands_at(State::Failed(EndReason::Reclaimed));
    assert_eq!(reclaimed.books.held(), 0);
}

// The bank hold.

#[test]
fn a_declined_hold_cancels_with_the_banks_reason() {
    payment(BANK_TO_TOKEN)
        .after([INITIATED, HOLD_DECLINED, CANCELLED])
        .stands_at(State::Failed(EndReason::HoldDeclined(ReasonCode::INSUFFICIENT_FUNDS)))
        .never_asked(RELEASE);
}

#[test]
fn a_hold_declined_while_cancelling_keeps_the_first_reason_and_needs_no_release() {
    payment(BANK_TO_TOKEN)
        .after([INITIATED, REVOKED, HOLD_DECLINED])
        .stands_at(State::Cancelling(EndReason::Revoked))
        .after([CANCELLED])
        .stands_at(State::Failed(EndReason::Revoked))
        .never_asked(RELEASE);
}

#[test]
fn a_hold_of_unknown_outcome_is_released_and_its_late_answer_changes_nothing() {
    let unknown = || payment(BANK_TO_TOKEN).after([INITIATED, REVOKED, CANCELLED]).asked_once(RELEASE);
    for late_answer in [HOLD_PLACED, HOLD_DECLINED] {
        unknown()
            .rejects(late_answer, Rejected::Repeat)
            .after([Event::Released])
            .stands_at(State::Failed(EndReason::Revoked))
            .rejects(late_answer, Rejected::Repeat)
            .asked_once(RELEASE);
    }
}

#[test]
fn a_hold_that_ends_too_early_is_not_settled_on() {
    payment(BANK_TO_TOKEN)
        .after([INITIATED, Event::HoldPlaced { until: SHORT_HOLD }])
        .stands_at(State::Cancelling(EndReason::HoldTooShort))
        .never_asked(Effect::SettleOnChain)
        .after([CANCELLED])
        .asked_once(RELEASE);
    payment(BANK_TO_TOKEN).after([INITIATED, Event::HoldPlaced { until: HOLD_UNTIL }]).stands_at(State::Held);
}

#[test]
fn a_hold_that_expires_before_settlement_cancels() {
    held_at_bank()
        .after([Event::HoldExpired])
        .stands_at(State::Cancelling(EndReason::HoldExpired))
        .after([CANCELLED])
        .stands_at(State::Failed(EndReason::HoldExpired))
        .never_asked(RELEASE)
        .owns(&[]);
}

#[test]
fn a_hold_that_expires_while_settlement_is_under_way_is_for_a_person() {
    held_at_bank().after([Event::HoldExpired, SETTLED]).stands_at(CONTRADICTION).never_asked(CAPTURE).owns(
        &[(Account::BankReceivable, AMOUNT), (Account::CreditorsWallet, NET), (Account::HouseWallet, FEE)],
    );
}

#[test]
fn a_bank_that_gives_two_outcomes_for_one_operation_is_for_a_person() {
    payment(BANK_TO_TOKEN).after([INITIATED, HOLD_DECLINED, HOLD_PLACED]).stands_at(CONTRADICTION);
    held_at_bank().after([HOLD_DECLINED]).stands_at(CONTRADICTION);
    held_at_bank().after([SETTLED, CAPTURE_DECLINED, Event::Captured]).stands_at(CONTRADICTION);
    held_at_bank().after([SETTLED, Event::Captured, CAPTURE_DECLINED]).stands_at(CONTRADICTION);
    owed_to_creditors_bank().after([CREDIT_DECLINED, Event::Credited]).stands_at(CONTRADICTION);
}

// After settlement.

#[test]
fn a_capture_declined_after_settlement_is_a_loss_and_suspends_the_debtors_institution() {
    let mut story = held_at_bank().after([SETTLED]).asked_once(CAPTURE);
    let step = story.tell(CAPTURE_DECLINED).unwrap();
    assert!(step.suspends_debtor);
    assert_eq!(step.entered, [State::UnderReview(ReviewReason::CaptureFailed)]);
    story.owns(&[(Account::CreditorsWallet, NET), (Account::HouseWallet, FEE), (Account::Loss, AMOUNT)]);
}

#[test]
fn a_decision_that_changes_nothing_tells_the_partners_nothing() {
    held_at_bank()
        .after([SETTLED, CAPTURE_DECLINED])
        .rejects(Event::Reviewed(Decision::Resume), Rejected::Repeat)
        .stands_at(State::UnderReview(ReviewReason::CaptureFailed))
        .after([Event::Reviewed(Decision::CloseCompleted)])
        .stands_at(State::Completed);
}

#[test]
fn people_may_pay_the_creditor_although_the_debtors_bank_has_declined() {
    let lost = payment(BANK_TO_BANK)
        .after([INITIATED, HOLD_PLACED, SETTLED, CAPTURE_DECLINED])
        .stands_at(State::UnderReview(ReviewReason::CaptureFailed))
        .rejects(Event::Reviewed(Decision::Cancel), Rejected::Repeat)
        .never_asked(CREDIT);
    let paid = lost.after([Event::Reviewed(Decision::Resume)]).stands_at(State::Settled).asked_once(CREDIT);
    paid.after([Event::Credited, Event::Chain(ChainLog::RedemptionBurned)]).stands_at(State::Completed).owns(
        &[(Account::ReserveAtCreditorsBank, -NET), (Account::HouseWallet, FEE), (Account::Loss, AMOUNT)],
    );
}

#[test]
fn what_a_bank_neither_does_nor_declines_is_for_people_who_have_it_asked_again_or_close_it() {
    let refused = payment(CONFIRM_ONLY_TO_TOKEN)
        .after([INITIATED, HOLD_PLACED, Event::Captured, REVOKED, CANCELLED])
        .rejects(Event::BankRefused(BankStep::Credit), Rejected::TooLate)
        .after([Event::BankRefused(BankStep::Release)])
        .stands_at(BANK_REFUSED)
        .rejects(Event::BankRefused(BankStep::Release), Rejected::Repeat)
        .asked_once(RELEASE);
    refused
        .clone()
        .after([Event::Reviewed(Decision::CloseFailed)])
        .stands_at(State::Failed(EndReason::Reviewed));
    let again =
        refused.after([Event::Reviewed(Decision::Resume)]).stands_at(State::Cancelling(EndReason::Reviewed));
    assert_eq!(again.asked.iter().filter(|asked| **asked == RELEASE).count(), 2);
    again.clone().after([Event::BankRefused(BankStep::Release)]).stands_at(BANK_REFUSED);
    again.after([Event::Released]).stands_at(State::Failed(EndReason::Reviewed)).owns(&[]);
}

#[test]
fn what_a_bank_refused_while_people_looked_at_something_else_is_asked_for_again_as_well() {
    let contradicted = held_at_bank()
        .after([SETTLED, CANCELLED])
        .stands_at(CONTRADICTION)
        .rejects(Event::BankRefused(BankStep::Capture), Rejected::Repeat)
        .asked_once(CAPTURE);
    let resumed = contradicted.after([Event::Reviewed(Decision::Resume)]).stands_at(State::Settled);
    assert_eq!(resumed.asked.iter().filter(|asked| **asked == CAPTURE).count(), 2);
    resumed.after([Event::Captured]).stands_at(State::Completed);
    // A hold is wanted by what goes on, and by nothing that is cancelled.
    let unanswered = || payment(BANK_TO_TOKEN).after([INITIATED, Event::Captured]).stands_at(CONTRADICTION);
    let places = |story: &Story| story.asked.iter().filter(|asked| **asked == PLACE_HOLD).count();
    let resumed = unanswered().after([Event::Reviewed(Decision::Resume)]).stands_at(State::Initiated);
    assert_eq!(places(&resumed), 2);
    assert_eq!(places(&unanswered().after([Event::Reviewed(Decision::Cancel)])), 1);
    // What was cancelled, and is settled after all, is not given back; what is closed takes nobody's money.
    let settled_after_all = held_at_bank()
        .after([REVOKED, CANCELLED, Event::ChainRemoved(ChainLog::Cancelled), SETTLED])
        .stands_at(CONTRADICTION)
        .asked_once(RELEASE);
    settled_after_all
        .rejects(Event::Reviewed(Decision::Resume), Rejected::Repeat)
        .rejects(Event::Reviewed(Decision::Cancel), Rejected::Repeat)
        .asked_once(RELEASE);
    let closed_after_all = held_at_bank()
        .after([SETTLED, removed(ChainLog::Settled), CANCELLED])
        .stands_at(FUNDS_MOVED)
        .asked_once(CAPTURE);
    closed_after_all.rejects(Event::Reviewed(Decision::Resume), Rejected::Repeat).asked_once(CAPTURE);
}

#[test]
fn a_credit_of_unknown_outcome_waits_and_is_never_burned() {
    owed_to_creditors_bank()
        .asked_once(CREDIT)
        .stands_at(State::Settled)
        .never_asked(Effect::BurnRedeemed)
        .never_asked(Effect::ReleaseRedemption)
        .at(EXPIRES_AT.plus(Duration::from_secs(86_400)))
        .rejects(Event::SettleWindowClosing, Rejected::TooLate)
        .stands_at(State::Settled);
}

#[test]
fn a_credit_that_turns_out_done_burns_the_tokens() {
    owed_to_creditors_bank()
        .after([Event::Credited])
        .asked_once(Effect::BurnRedeemed)
        .never_asked(Effect::ReleaseRedemption)
        .owns(&[
            (Account::ReserveAtDebtorsBank, AMOUNT),
            (Account::ReserveAtCreditorsBank, -NET),
            (Account::HouseWallet, FEE),
            (Account::BurnPending, NET),
            (Account::BurnOutstanding, NET),
        ])
        .after([Event::Chain(ChainLog::RedemptionBurned)])
        .stands_at(State::Completed)
        .owns(&[
            (Account::ReserveAtDebtorsBank, AMOUNT),
            (Account::ReserveAtCreditorsBank, -NET),
            (Account::HouseWallet, FEE),
        ]);
}

#[test]
fn a_credit_that_turns_out_declined_leaves_the_creditor_the_tokens() {
    owed_to_creditors_bank()
        .after([CREDIT_DECLINED])
        .asked_once(Effect::ReleaseRedemption)
        .never_asked(Effect::BurnRedeemed)
        .after([Event::Chain(ChainLog::RedemptionReleased)])
        .stands_at(State::Completed)
        .owns(&[
            (Account::ReserveAtDebtorsBank, AMOUNT),
            (Account::CreditorsWallet, NET),
            (Account::HouseWallet, FEE),
        ]);
}

// Set aside by the chain.

#[test]
fn what_is_set_aside_at_initiation_fails_and_frees_the_tokens() {
    let set_aside = Event::Chain(ChainLog::InitiationSetAside(SetAside::NotFunded));
    let failed = payment(TOKEN_TO_TOKEN)
        .after([set_aside])
        .stands_at(State::Failed(EndReason::SetAside(SetAside::NotFunded)));
    assert_eq!(failed.books.held(), 0);
    payment(BANK_TO_TOKEN).after([set_aside]).never_asked(PLACE_HOLD).never_asked(RELEASE);
}

#[test]
fn a_frozen_creditor_is_for_a_person_who_resumes_or_cancels() {
    let frozen = || held_at_bank().after([CREDITOR_FROZEN]).stands_at(CREDITOR_BLOCKED).never_asked(RELEASE);
    let resumed = frozen().after([Event::Reviewed(Decision::Resume)]).stands_at(State::Held);
    assert_eq!(resumed.asked.last(), Some(&Effect::SettleOnChain), "it is asked for anew");
    resumed.after([SETTLED, Event::Captured]).stands_at(State::Completed);

    frozen()
        .after([Event::Reviewed(Decision::Cancel), CANCELLED, Event::Released])
        .stands_at(State::Failed(EndReason::Reviewed));
    frozen().after([REVOKED]).stands_at(State::Cancelling(EndReason::Revoked));
}

#[test]
fn a_frozen_creditors_payment_still_expires() {
    held_at_bank()
        .after([CREDITOR_FROZEN])
        .at(SETTLE_BEFORE)
        .after([Event::SettleWindowClosing])
        .stands_at(State::Cancelling(EndReason::Expired))
        .asked_once(Effect::CancelOnChain)
        .after([CANCELLED, Event::Released])
        .stands_at(State::Failed(EndReason::Expired));
}

#[test]
fn the_chain_may_settle_or_close_a_frozen_creditors_payment_without_a_person() {
    let frozen = || held_at_bank().after([CREDITOR_FROZEN]);
    frozen().after([SETTLED, Event::Captured]).stands_at(State::Completed);
    frozen().after([CANCELLED, Event::Released]).stands_at(State::Failed(EndReason::Expired));
    frozen().after([Event::HoldExpired]).stands_at(State::Cancelling(EndReason::HoldExpired));
}

// Reorganisations.

#[test]
fn a_reorganisation_before_the_hold_goes_back_and_keeps_what_was_asked() {
    payment(BANK_TO_TOKEN)
        .after([INITIATED, removed(ChainLog::Initiated)])
        .stands_at(State::Accepted)
        .after([INITIATED])
        .stands_at(State::Initiated)
        .asked_once(PLACE_HOLD);
}

#[test]
fn a_reorganisation_after_the_hold_keeps_the_hold() {
    held_at_bank()
        .after([removed(ChainLog::Initiated)])
        .stands_at(State::Accepted)
        .never_asked(RELEASE)
        .after([INITIATED])
        .stands_at(State::Held)
        .asked_once(PLACE_HOLD);
}

#[test]
fn an_initiation_that_a_reorganisation_took_for_good_releases_the_hold() {
    held_at_bank()
        .after([removed(ChainLog::Initiated), Event::InitiateWindowClosed])
        .asked_once(RELEASE)
        .rejects(Event::InitiateWindowClosed, Rejected::Repeat)
        .after([Event::Released])
        .stands_at(State::Failed(EndReason::NotInitiated));
}

#[test]
fn a_resettlement_posts_a_second_round() {
    let undone = held_at_bank().after([SETTLED, removed(ChainLog::Settled)]).stands_at(State::Held).owns(&[]);
    assert_eq!(undone.asked.last(), Some(&Effect::SettleOnChain), "it is sent again");
    let story = undone.after([Event::Captured, SETTLED]).stands_at(State::Completed).asked_once(CAPTURE);
    let round = |moment, round| (moment, round);
    assert_eq!(
        story.journal,
        [
            round(Moment::Settled, 0),
            round(Moment::Fee, 0),
            round(Moment::FeeRemoved, 0),
            round(Moment::SettlementRemoved, 0),
            round(Moment::Captured, 1),
            round(Moment::Settled, 1),
            round(Moment::Fee, 1),
        ]
    );
}

#[test]
fn a_reorganisation_after_capture_settles_again_without_a_second_capture() {
    held_at_bank()
        .after([SETTLED, Event::Captured, removed(ChainLog::Settled)])
        .stands_at(State::Completed)
        .owns(&[(Account::ReserveAtDebtorsBank, AMOUNT), (Account::BankReceivable, -AMOUNT)])
        .after([SETTLED])
        .stands_at(State::Completed)
        .asked_once(CAPTURE);
    owed_to_creditors_bank()
        .after([removed(ChainLog::Settled)])
        .stands_at(State::Held)
        .after([SETTLED])
        .stands_at(State::Settled)
        .asked_once(CAPTURE)
        .asked_once(CREDIT);
}

#[test]
fn a_client_cannot_revoke_what_banks_have_paid_on_while_it_is_settled_again() {
    owed_to_creditors_bank().after([removed(ChainLog::Settled)]).rejects(REVOKED, Rejected::TooLate);
}

#[test]
fn captured_money_whose_settlement_is_cancelled_after_a_reorganisation_is_for_a_person() {
    owed_to_creditors_bank().after([removed(ChainLog::Settled), CANCELLED]).stands_at(FUNDS_MOVED);
}

#[test]
fn a_completed_payment_that_the_chain_will_not_take_again_is_for_a_person() {
    let undone = || held_at_bank().after([SETTLED, Event::Captured, removed(ChainLog::Settled)]);
    undone().after([CREDITOR_FROZEN]).stands_at(FUNDS_MOVED);
    undone().after([CANCELLED]).stands_at(FUNDS_MOVED);
    held_at_bank()
        .after([SETTLED, Event::Captured])
        .at(EXPIRES_AT)
        .after([removed(ChainLog::Settled)])
        .stands_at(FUNDS_MOVED);
}

#[test]
fn a_completed_payment_that_the_chain_does_not_settle_again_in_time_is_for_a_person() {
    let undone = || held_at_bank().after([SETTLED, Event::Captured, removed(ChainLog::Settled)]);
    undone()
        .at(SETTLE_BEFORE)
        .rejects(Event::SettleWindowClosing, Rejected::TooLate)
        .at(EXPIRES_AT)
        .after([Event::SettleWindowClosing])
        .stands_at(FUNDS_MOVED);
    undone().after([removed(ChainLog::Initiated), Event::InitiateWindowClosed]).stands_at(FUNDS_MOVED);
    undone().after([SETTLED]).at(EXPIRES_AT).rejects(Event::SettleWindowClosing, Rejected::TooLate);
}

#[test]
fn a_cancellation_that_a_reorganisation_took_back_is_asked_for_again() {
    let reopened = held_at_bank().after([REVOKED, CANCELLED, removed(ChainLog::Cancelled)]);
    assert_eq!(reopened.asked.last(), Some(&Effect::CancelOnChain), "whoever had cancelled");
    reopened.after([CANCELLED, Event::Released]).stands_at(State::Failed(EndReason::Revoked));
}

#[test]
fn a_capture_declined_before_the_resettlement_is_a_loss_of_the_second_round() {
    let story = held_at_bank()
        .after([SETTLED, removed(ChainLog::Settled), CAPTURE_DECLINED])
        .asked_once(Effect::CancelOnChain)
        .after([SETTLED])
        .stands_at(State::UnderReview(ReviewReason::CaptureFailed));
    assert_eq!(story.journal.last(), Some(&(Moment::Loss, 1)));
}

#[test]
fn a_failed_payment_that_a_reorganisation_opens_again_is_closed_again() {
    let reopened = payment(TOKEN_TO_TOKEN)
        .after([INITIATED, REVOKED, CANCELLED, removed(ChainLog::Cancelled)])
        .stands_at(State::Failed(EndReason::Revoked));
    assert_eq!(reopened.books.held(), AMOUNT, "the escrow is there again");
    let closed = reopened.after([CANCELLED]).stands_at(State::Failed(EndReason::Revoked));
    assert_eq!(closed.books.held(), 0);
}

#[test]
fn a_set_aside_that_a_reorganisation_turns_into_an_initiation_is_cancelled() {
    let set_aside = ChainLog::InitiationSetAside(SetAside::NotFunded);
    let freed = payment(TOKEN_TO_TOKEN).after([Event::Chain(set_aside), removed(set_aside)]);
    assert_eq!(freed.books.held(), 0, "nothing is in escrow");
    let opened = freed
        .after([INITIATED])
        .stands_at(State::Failed(EndReason::SetAside(SetAside::NotFunded)))
        .asked_once(Effect::CancelOnChain);
    assert_eq!(opened.books.held(), AMOUNT);
    assert_eq!(opened.after([CANCELLED]).books.held(), 0);
}

#[test]
fn an_initiation_seen_after_it_was_given_up_is_for_a_person_and_its_escrow_is_reserved() {
    let contradicted = payment(TOKEN_TO_TOKEN).after([REVOKED_UNSIGNED, INITIATED]).stands_at(CONTRADICTION);
    assert_eq!(contradicted.books.held(), AMOUNT);
    let closed = contradicted
        .after([Event::Reviewed(Decision::Cancel), CANCELLED])
        .stands_at(State::Failed(EndReason::Reviewed));
    assert_eq!(closed.books.held(), 0);
}

#[test]
fn what_people_close_as_failed_leaves_nothing_in_escrow() {
    let closed = payment(TOKEN_TO_TOKEN)
        .after([INITIATED, CREDITOR_FROZEN])
        .stands_at(CREDITOR_BLOCKED)
        .never_asked(Effect::CancelOnChain)
        .after([Event::Reviewed(Decision::CloseFailed)])
        .stands_at(State::Failed(EndReason::Reviewed))
        .asked_once(Effect::CancelOnChain);
    assert_eq!(closed.books.held(), AMOUNT, "in escrow until the chain says otherwise");
    let given_back = closed.after([CANCELLED]).stands_at(State::Failed(EndReason::Reviewed));
    assert_eq!(given_back.books.held(), 0);
}

#[test]
fn what_people_close_as_failed_and_the_chain_never_had_is_not_reserved_for() {
    let lost = payment(TOKEN_TO_BANK)
        .after([INITIATED, SETTLED, removed(ChainLog::Settled), removed(ChainLog::Initiated)])
        .after([Event::InitiateWindowClosed])
        .stands_at(FUNDS_MOVED);
    assert_eq!(lost.books.held(), AMOUNT);
    let closed = lost
        .after([Event::Reviewed(Decision::CloseFailed)])
        .stands_at(State::Failed(EndReason::Reviewed))
        .never_asked(Effect::CancelOnChain);
    assert_eq!(closed.books.held(), 0);
    // The chain has it after all.
    let again = closed.after([INITIATED]).asked_once(Effect::CancelOnChain);
    assert_eq!(again.books.held(), AMOUNT);
    assert_eq!(again.after([CANCELLED]).stands_at(State::Failed(EndReason::Reviewed)).books.held(), 0);
}

// A bank that only confirms.

#[test]
fn a_confirm_only_bank_is_captured_before_settlement() {
    payment(CONFIRM_ONLY_TO_TOKEN)
        .after([INITIATED, HOLD_PLACED])
        .stands_at(State::Initiated)
        .asked_once(CAPTURE)
        .never_asked(Effect::SettleOnChain)
        .after([Event::Captured])
        .stands_at(State::Held)
        .asked_once(Effect::SettleOnChain)
        .after([SETTLED])
        .stands_at(State::Completed)
        .asked_once(CAPTURE);
}

#[test]
fn what_a_confirm_only_bank_captured_is_returned_when_settlement_fails() {
    payment(CONFIRM_ONLY_TO_TOKEN)
        .after([INITIATED, HOLD_PLACED, Event::Captured])
        .owns(&[(Account::ReserveAtDebtorsBank, AMOUNT), (Account::BankReceivable, -AMOUNT)])
        .after([REVOKED, CANCELLED])
        .asked_once(RELEASE)
        .after([Event::Released])
        .stands_at(State::Failed(EndReason::Revoked))
        .owns(&[]);
}

#[test]
fn a_confirm_only_capture_under_way_while_cancelling_is_awaited_and_then_returned() {
    payment(CONFIRM_ONLY_TO_TOKEN)
        .after([INITIATED, HOLD_PLACED, REVOKED, CANCELLED])
        .never_asked(RELEASE)
        .after([Event::Captured])
        .asked_once(RELEASE)
        .after([Event::Released])
        .stands_at(State::Failed(EndReason::Revoked))
        .owns(&[]);
}

#[test]
fn tokens_paid_out_by_a_bank_leave_the_debtors_wallet_once() {
    payment(TOKEN_TO_BANK)
        .after([INITIATED, SETTLED, Event::Credited, Event::Chain(ChainLog::RedemptionBurned)])
        .stands_at(State::Completed)
        .owns(&[
            (Account::ReserveAtCreditorsBank, -NET),
            (Account::DebtorsWallet, -AMOUNT),
            (Account::HouseWallet, FEE),
        ]);
}
