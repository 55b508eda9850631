//! The bank worker: asks banks for what payments need, and writes down what they said.
//!
//! It promises that no operation is asked for twice while the first answer is unknown. A claim notes, durably and before the
//! call, that the operation may be on its way; from then on the bank is asked what became of it, by its key, until it
//! says so or its silence has become conclusive. An operation's outcome and the observation it brings are one transaction
//! under the claim's fence: a worker that lost its lease records nothing.
//!
//! Each bank is served by tasks of its own, so one that takes thirty seconds to answer delays nobody else's payments.

use crate::breaker::BreakerView;
use crate::context::{Context, RESTING_POLL, RESTS_AFTER, Rhythm, Turn, Worker, chain, run_loop};
use crate::step::{Step, trace_id};
use flowbridge_bank::connector::{
    Capabilities, Earlier, NextMove, Operation, OperationKind, Outcome, QueryOutcome,
};
use flowbridge_bank::personal::Personal;
use flowbridge_bank::registry::BankDesk;
use flowbridge_domain::bank::{BankStep, OperationKey};
use flowbridge_domain::id::PaymentId;
use flowbridge_domain::party::BankCode;
use flowbridge_domain::payment::{Effect, Event};
use flowbridge_domain::time::Timestamp;
use flowbridge_store::effect::{self, BankDetails, ClaimedBankEffect, EffectNext, EffectResult};
use flowbridge_store::event_log::{self, NewEvent, topic};
use flowbridge_store::wake::Work;
use flowbridge_store::{StoreError, observation};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Limits of the bank worker.
#[derive(Debug, Clone)]
pub struct BankWorkerSettings {
    /// Operations of one call at most; a bank's own limit may be lower.
    pub slice_max: usize,
    /// Calls to one bank under way at the same time.
    pub calls_per_bank_max: usize,
    /// How long a claim lasts. Longer than a call may take.
    pub lease: Duration,
    /// How often to look for work that nobody rang for.
    pub poll: Duration,
    /// How far apart turns are at least, so that slices fill.
    pub pace: Duration,
    /// The first and the longest pause before a bank is asked again.
    pub retry: (Duration, Duration),
}

impl Default for BankWorkerSettings {
    fn default() -> Self {
        Self {
            slice_max: 500,
            calls_per_bank_max: 4,
            lease: Duration::from_secs(60),
            poll: Duration::from_millis(100),
            pace: Duration::from_millis(20),
            retry: (Duration::from_millis(200), Duration::from_secs(30)),
        }
    }
}

/// Runs until told to stop; calls under way are finished and recorded first. `banks` says what each can do.
pub async fn run(
    context: Context,
    desk: Arc<dyn BankDesk>,
    banks: BTreeMap<BankCode, Capabilities>,
    settings: BankWorkerSettings,
    stop: CancellationToken,
) {
    let rhythm = Rhythm {
        bell: Work::BankEffects,
        poll: settings.poll,
        rests_after: RESTS_AFTER,
        resting_poll: RESTING_POLL,
        pace: settings.pace,
    };
    let mut dispatcher = Dispatcher {
        context: context.clone(),
        desk,
        banks,
        settings,
        slots: HashMap::new(),
        breaker: BreakerView::default(),
        tasks: TaskTracker::new(),
    };
    run_loop("bank", &context, rhythm, &stop, &mut dispatcher).await;
    dispatcher.tasks.close();
    dispatcher.tasks.wait().await;
}

/// How soon an answer that could not be recorded is tried to be recorded again.
const RECORD_AGAIN_AFTER: Duration = Duration::from_millis(250);

/// Claims slices and gives each to a task of its own.
struct Dispatcher {
    context: Context,
    desk: Arc<dyn BankDesk>,
    banks: BTreeMap<BankCode, Capabilities>,
    settings: BankWorkerSettings,
    /// How many more calls a bank may have under way.
    slots: HashMap<BankCode, Arc<Semaphore>>,
    breaker: BreakerView,
    tasks: TaskTracker,
}

impl Worker for Dispatcher {
    async fn turn(&mut self) -> Result<Turn, StoreError> {
        let now = self.context.now();
        let banks = effect::banks_with_work(&self.context.db, now).await?;
        // Nobody has to know while no bank has work.
        let has_to_know = !banks.is_empty() || self.breaker.is_in_doubt(now);
        let may_pay_out = has_to_know && self.breaker.is_closed(&self.context).await?;
        let mut turn = Turn::Idle;
        for bank in banks {
            let bank =
                BankCode::parse(&bank).map_err(|_| StoreError::Corrupt(format!("bank code {bank}")))?;
            let calls_max = self.settings.calls_per_bank_max;
            let slot = self.slots.entry(bank.clone()).or_insert_with(|| Arc::new(Semaphore::new(calls_max)));
            let Ok(permit) = slot.clone().try_acquire_owned() else { continue };
            let Some(capabilities) = self.banks.get(&bank).copied() else {
                tracing::warn!(
                    bank = bank.as_str(),
                    "no connector is configured for a bank that payments wait for"
                );
                continue;
            };
            let slice_max = self.settings.slice_max.min(capabilities.operations_max);
            let slice_max = i64::try_from(slice_max).unwrap_or(i64::MAX);
            let (owner, lease) = (&self.context.instance, self.settings.lease);
            let claimed =
                effect::claim_bank(&self.context.db, bank.as_str(), slice_max, owner, now, lease).await?;
            if claimed.is_empty() {
                continue;
            }
            turn = Turn::Busy;
            let (context, desk, settings) = (self.context.clone(), self.desk.clone(), self.settings.clone());
            self.tasks.spawn(async move {
                let slice = Slice {
                    context: &context,
                    desk: &*desk,
                    settings: &settings,
                    bank,
                    capabilities,
                    may_pay_out,
                    claimed_at: now,
                };
                if let Err(error) = slice.serve(claimed).await {
                    tracing::error!(
                        error = chain(&error),
                        "could not record what a bank said; it will be asked again"
                    );
                }
                drop(permit);
                // There may be more than this slice held.
                context.wake.ring(Work::BankEffects);
            });
        }
        Ok(turn)
    }
}

/// A slice of claimed operations at one bank.
struct Slice<'a> {
    context: &'a Context,
    desk: &'a dyn BankDesk,
    settings: &'a BankWorkerSettings,
    bank: BankCode,
    capabilities: Capabilities,
    may_pay_out: bool,
    claimed_at: Timestamp,
}

/// When a payout that the breaker has stopped is looked at again.
const STOPPED_FOR: Duration = Duration::from_secs(5);

impl Slice<'_> {
    async fn serve(&self, claimed: Vec<ClaimedBankEffect>) -> Result<(), StoreError> {
        let began = self.context.now();
        let ids: Vec<PaymentId> = claimed.iter().map(|effect| effect.payment_id).collect();
        let details = effect::bank_details(&self.context.db, &ids).await?;
        let (to_ask, to_send): (Vec<_>, Vec<_>) = claimed.into_iter().partition(|effect| effect.may_have_run);
        // What may be on its way is asked about all the same; nothing new is paid out while the breaker is tripped.
        let (stopped, to_send): (Vec<_>, Vec<_>) =
            to_send.into_iter().partition(|effect| !self.may_pay_out && effect.step == BankStep::Credit);
        let (asked, sent) = tokio::join!(self.ask(&to_ask), self.send(&to_send, &details));
        let again_at = Some(began.plus(STOPPED_FOR));
        let answers: Vec<_> = to_ask
            .into_iter()
            .zip(asked)
            .chain(to_send.into_iter().zip(sent))
            .chain(stopped.into_iter().map(|effect| (effect, NextMove::Send(again_at))))
            .collect();
        self.record(began, answers).await
    }

    /// Asks what became of operations that may have reached the bank.
    async fn ask(&self, effects: &[ClaimedBankEffect]) -> Vec<NextMove> {
        if effects.is_empty() {
            return vec![];
        }
        let keys: Vec<_> = effects.iter().map(|effect| (self.bank.clone(), key(effect))).collect();
        let asked_at = self.context.now();
        let outcomes = self.desk.query(&keys).await;
        let silence =
            || QueryOutcome::Unanswered { cause: "no answer for this operation".into(), retry_at: None };
        effects
            .iter()
            .zip(outcomes.into_iter().chain(std::iter::repeat_with(silence)))
            .map(|(effect, outcome)| outcome.next_move(&self.capabilities, effect.sent_at, asked_at))
            .collect()
    }

    /// Sends operations that have certainly not reached the bank before. What cannot be put into words is for a person, and stops no other.
    async fn send(
        &self,
        effects: &[ClaimedBankEffect],
        details: &BTreeMap<PaymentId, Result<BankDetails, &'static str>>,
    ) -> Vec<NextMove> {
        let mut operations = Vec::with_capacity(effects.len());
        let mut moves = Vec::with_capacity(effects.len());
        for effect in effects {
            let missing = Err("its payment or an account of it is missing");
            match details.get(&effect.payment_id).map_or(missing, |read| read.as_ref().map_err(|why| *why)) {
                Ok(details) => {
                    operations.push((self.bank.clone(), operation(effect, details)));
                    moves.push(None);
                }
                Err(why) => moves.push(Some(NextMove::Escalate(why.to_owned()))),
            }
        }
        let mut sent = self.execute(&operations).await.into_iter();
        moves.into_iter().filter_map(|unsaid| unsaid.or_else(|| sent.next())).collect()
    }

    async fn execute(&self, operations: &[(BankCode, Operation)]) -> Vec<NextMove> {
        if operations.is_empty() {
            return vec![];
        }
        // Who stood still since the claim may have lost it, and another may have sent these meanwhile: nothing is sent near its end.
        if self.context.now().since(self.claimed_at) >= self.settings.lease / 2 {
            return vec![NextMove::Send(None); operations.len()];
        }
        let outcomes = self.desk.execute(operations).await;
        let silence = || Outcome::Unknown { cause: "no answer for this operation".into() };
        operations
            .iter()
            .zip(outcomes.into_iter().chain(std::iter::repeat_with(silence)))
            .map(|(_, outcome)| outcome.next_move(Earlier::NeverSent))
            .collect()
    }

    /// What became of the effects, and the observations that follow for those that were still ours.
    async fn record(
        &self,
        began: Timestamp,
        answers: Vec<(ClaimedBankEffect, NextMove)>,
    ) -> Result<(), StoreError> {
        let now = self.context.now();
        let mut results = Vec::with_capacity(answers.len());
        let mut steps = Vec::with_capacity(answers.len());
        let mut observations = HashMap::new();
        for (effect, next) in answers {
            let outcome = outcome(&next);
            let (result, event) = self.judge(&effect, next, now);
            steps.push((outcome, effect.clone()));
            if let Some(event) = event {
                observations.insert((result.payment_id, result.effect), (event, effect.traceparent));
            }
            results.push(result);
        }
        let ours = self.write(&results, &observations, began).await?;
        for (outcome, effect) in steps {
            if !ours.contains(&(effect.payment_id, Effect::Bank(effect.step))) {
                continue;
            }
            let (bank, step) = (self.bank.as_str(), effect.step.as_str());
            metrics::counter!("bank_operations_total", "bank" => bank.to_owned(), "step" => step, "outcome" => outcome)
                .increment(1);
            metrics::histogram!("bank_operation_seconds", "bank" => bank.to_owned(), "step" => step)
                .record(now.since(began).as_secs_f64());
            let step = Step {
                name: step,
                outcome,
                payment: effect.payment_id,
                traceparent: &effect.traceparent,
                times: (began, now),
                bank: Some(bank),
                attempt: Some(effect.attempts),
            };
            step.tell();
        }
        if ours.len() < results.len() {
            tracing::warn!(
                bank = self.bank.as_str(),
                lost = results.len() - ours.len(),
                "answers came after their lease; another worker asks again"
            );
        }
        self.context.wake.ring(Work::Observations);
        Ok(())
    }

    /// Writes down what a bank said for as long as the claim lasts: an answer that is lost here costs the payment the rest of
    /// its claim, and a question to the bank. A repeat after a commit whose outcome is not known finds the claim gone.
    async fn write(
        &self,
        results: &[EffectResult],
        observations: &HashMap<(PaymentId, Effect), (Event, String)>,
        began: Timestamp,
    ) -> Result<HashSet<(PaymentId, Effect)>, StoreError> {
        loop {
            match self.try_to_write(results, observations).await {
                Err(error)
                    if error.is_retryable() && self.context.now().since(began) < self.settings.lease =>
                {
                    tracing::warn!(error = chain(&error), "could not record what a bank said; trying again");
                    tokio::time::sleep(RECORD_AGAIN_AFTER).await;
                }
                Err(error) if !error.is_retryable() => return self.write_each(results, observations).await,
                outcome => return outcome,
            }
        }
    }

    /// One answer that cannot be written down stops none of its neighbours: it is left to people, without what the bank said.
    async fn write_each(
        &self,
        results: &[EffectResult],
        observations: &HashMap<(PaymentId, Effect), (Event, String)>,
    ) -> Result<HashSet<(PaymentId, Effect)>, StoreError> {
        let mut ours = HashSet::new();
        for result in results {
            match self.try_to_write(std::slice::from_ref(result), observations).await {
                Ok(one) => ours.extend(one),
                Err(error) if !error.is_retryable() => {
                    tracing::error!(
                        payment.id = %result.payment_id,
                        bank = self.bank.as_str(),
                        effect = result.effect.as_str(),
                        error = chain(&error),
                        "what a bank said cannot be written down; a bank operation waits for a person"
                    );
                    let unsaid = EffectResult {
                        next: EffectNext::Escalated,
                        reference: None,
                        outcome: "what the bank said cannot be written down".into(),
                        booked_at: None,
                        sent_by: None,
                        ..result.clone()
                    };
                    let key = (result.payment_id, result.effect);
                    let event = match result.effect {
                        Effect::Bank(step) => refused(step),
                        Effect::InitiateOnChain
                        | Effect::SettleOnChain
                        | Effect::CancelOnChain
                        | Effect::BurnRedeemed
                        | Effect::ReleaseRedemption => None,
                    };
                    let traceparent = observations.get(&key).map(|(_, trace)| trace.clone());
                    let told = event.map(|event| (key, (event, traceparent.unwrap_or_default())));
                    ours.extend(self.try_to_write(&[unsaid], &told.into_iter().collect()).await?);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(ours)
    }

    /// One transaction.
    async fn try_to_write(
        &self,
        results: &[EffectResult],
        observations: &HashMap<(PaymentId, Effect), (Event, String)>,
    ) -> Result<HashSet<(PaymentId, Effect)>, StoreError> {
        let now = self.context.now();
        let tx = self.context.db.begin().await?;
        let ours: HashSet<_> = effect::finish(&tx, results, now).await?.into_iter().collect();
        let events: Vec<NewEvent> = results
            .iter()
            .map(|result| ((result.payment_id, result.effect), result))
            .filter(|(key, _)| ours.contains(key))
            .filter_map(|(key, result)| {
                let (event, traceparent) = observations.get(&key)?;
                let (kind, data) = observation::encode(event, &self.evidence(result))?;
                Some(NewEvent {
                    topic: topic::BANK,
                    key: key.0,
                    kind,
                    participants: None,
                    traceparent: traceparent.clone(),
                    data,
                })
            })
            .collect();
        event_log::append(&tx, &events, now).await?;
        tx.commit().await?;
        Ok(ours)
    }

    fn judge(
        &self,
        effect: &ClaimedBankEffect,
        next: NextMove,
        now: Timestamp,
    ) -> (EffectResult, Option<Event>) {
        let again_at = |at: Option<Timestamp>| at.unwrap_or(now).max(now.plus(self.pause(effect.attempts)));
        let mut result = EffectResult {
            payment_id: effect.payment_id,
            effect: Effect::Bank(effect.step),
            fence: effect.fence,
            next: EffectNext::Done,
            reference: None,
            outcome: "done".into(),
            booked_at: None,
            sent_by: None,
        };
        let event = match next {
            NextMove::RecordDone(receipt) => {
                let until = receipt.hold_lasts_until();
                result.reference = Some(receipt.reference);
                result.booked_at = Some(receipt.booked_at);
                Some(match effect.step {
                    BankStep::PlaceHold => Event::HoldPlaced { until },
                    BankStep::Capture => Event::Captured,
                    BankStep::Release => Event::Released,
                    BankStep::Credit => Event::Credited,
                })
            }
            NextMove::RecordDeclined(decline) => {
                result.outcome = decline.reason.to_string();
                match effect.step {
                    BankStep::PlaceHold => Some(Event::HoldDeclined(decline.reason)),
                    BankStep::Capture => Some(Event::CaptureDeclined(decline.reason)),
                    BankStep::Credit => Some(Event::CreditDeclined(decline.reason)),
                    // A bank that will not let go of a hold has a reason that only a person can find.
                    BankStep::Release => {
                        result.next = EffectNext::Escalated;
                        refused(effect.step)
                    }
                }
            }
            NextMove::Query(at) => {
                (result.next, result.outcome) = (EffectNext::Ask(again_at(at)), "unknown".into());
                // The call is over: what it sent was sent by now.
                result.sent_by = (!effect.may_have_run).then_some(now);
                None
            }
            NextMove::Send(at) => {
                // Conclusively absent is sent at once; turned away is sent when the bank may be ready.
                let at = if effect.may_have_run && at.is_none() { now } else { again_at(at) };
                (result.next, result.outcome) = (EffectNext::Again(at), "not_sent".into());
                None
            }
            NextMove::Escalate(why) => {
                (result.next, result.outcome) = (EffectNext::Escalated, why);
                refused(effect.step)
            }
        };
        if result.next == EffectNext::Escalated {
            tracing::error!(
                payment.id = %effect.payment_id,
                trace_id = trace_id(&effect.traceparent),
                bank = self.bank.as_str(),
                step = effect.step.as_str(),
                why = result.outcome,
                "a bank operation waits for a person"
            );
        }
        (result, event)
    }

    /// Doubles with each attempt, with jitter.
    fn pause(&self, attempts: i32) -> Duration {
        let (first, longest) = self.settings.retry;
        let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(0).min(16);
        first.saturating_mul(1 << doublings).min(longest).mul_f64(0.8 + rand::random_range(0.0..0.4))
    }

    fn evidence<'a>(&'a self, result: &'a EffectResult) -> Evidence<'a> {
        Evidence {
            bank: self.bank.as_str(),
            reference: result.reference.as_deref(),
            booked_at_micros: result.booked_at.map(Timestamp::as_micros),
        }
    }
}

/// How a bank's word can be found again.
#[derive(Debug, Serialize)]
struct Evidence<'a> {
    bank: &'a str,
    reference: Option<&'a str>,
    booked_at_micros: Option<i64>,
}

/// What came of an operation, as metrics and traces name it.
const fn outcome(next: &NextMove) -> &'static str {
    match next {
        NextMove::RecordDone(_) => "done",
        NextMove::RecordDeclined(_) => "declined",
        NextMove::Query(_) => "unknown",
        NextMove::Send(_) => "not_sent",
        NextMove::Escalate(_) => "escalated",
    }
}

fn key(effect: &ClaimedBankEffect) -> OperationKey {
    OperationKey { payment_id: effect.payment_id, step: effect.step }
}

/// What people have to find out. A hold that nobody placed ends with its payment, by the clock.
fn refused(step: BankStep) -> Option<Event> {
    (step != BankStep::PlaceHold).then_some(Event::BankRefused(step))
}

fn operation(effect: &ClaimedBankEffect, details: &BankDetails) -> Operation {
    let debtor = || details.debtor_iban.clone();
    let kind = match effect.step {
        BankStep::PlaceHold => {
            OperationKind::PlaceHold { account: debtor(), amount: details.amount, until: details.hold_until }
        }
        BankStep::Capture => OperationKind::Capture { account: debtor(), amount: details.amount },
        BankStep::Release => OperationKind::Release,
        BankStep::Credit => OperationKind::Credit {
            account: details.creditor_iban.clone(),
            amount: details.net_amount,
            end_to_end_id: details.end_to_end_id.clone(),
            remittance_information: details.remittance_information.clone().map(|text| Personal::new(text.0)),
        },
    };
    Operation { payment_id: effect.payment_id, kind }
}
