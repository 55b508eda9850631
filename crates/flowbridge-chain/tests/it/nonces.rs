//! The nonces of a lane, explored exhaustively around the real [`plan`]: every order in which transactions are signed, sent,
//! forgotten by the node, offered more for, included in whatever version, and taken back with their block; and once somebody
//! else with our key.
//!
//! What is modelled beside `plan` is what the sender does with its answers (`Sender::carry_out`) and the statements
//! `SIGN`, `REOPEN_TXS` and `UNSIGN`: a signature is durable before anybody sees it, every version ever signed is kept, what a
//! reorganisation took is open again. Each flawed build has to be refuted.

use flowbridge_chain::Receipt;
use flowbridge_chain::plan::{Action, FeePolicy, InFlight, Stage, TxFees, View, plan};
use flowbridge_domain::time::Timestamp;
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// A log counts with so many blocks, its own included: only the newest block is ever taken back.
const CONFIRMATIONS: usize = 2;
const PAYMENTS: u8 = 2;
const VERSIONS_MAX: u8 = 2;
const BLOCKS_MAX: usize = 4;
const POLICY: FeePolicy = FeePolicy {
    bump_after: Duration::from_secs(10),
    rebroadcast_after: Duration::from_secs(2),
    fee_per_gas_max: 1_000,
};
const SIGNED_AT: Timestamp = Timestamp::from_secs(1_000);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum What {
    /// A version of the transaction that carries this payment.
    Payment(u8, u8),
    /// Nothing, to fill a hole.
    Filler,
    /// Somebody else's.
    Foreign,
}

/// A transaction as a node knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Sent {
    nonce: u64,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum State {
    Intended,
    Signed,
    Broadcast,
    Included,
}

/// A row of `chain_tx`: one for each payment here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Row {
    state: State,
    nonce: u64,
    versions: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    /// One transaction in each block at most.
    blocks: Vec<Option<Sent>>,
    /// All that some node still holds, replaced versions too: any may be included.
    pool: BTreeSet<Sent>,
    rows: Vec<Row>,
    next_nonce: u64,
    reorganisations: u8,
    losses: u8,
    intruders: u8,
    /// Somebody else was blamed for what nobody else did.
    false_alarm: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Move {
    Sign(u8),
    /// Compares rows with the chain, soon after the signatures or long after.
    Track {
        late: bool,
    },
    Mine(Option<Sent>),
    /// The node forgets.
    Lose(Sent),
    /// The newest block is taken back; what was in it waits again, or is gone.
    Reorganise {
        keeps: bool,
    },
    Intrude,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    /// A nonce that went to somebody else is given up at once, not when that is final.
    GivesUpBeforeFinality,
    /// Only the newest version is looked for on chain.
    ForgetsVersions,
    /// What cannot be offered more is not offered again.
    SilentAtTheCap,
    /// What holes were filled with is not remembered.
    ForgetsFillers,
}

struct Lane {
    flaw: Flaw,
}

impl World {
    fn used_below(&self, blocks: usize) -> u64 {
        self.blocks.iter().take(blocks).flatten().count() as u64
    }

    fn next_on_chain(&self) -> u64 {
        self.used_below(self.blocks.len())
    }

    fn carried(&self, payment: u8) -> usize {
        let is_it = |sent: &&Sent| matches!(sent.what, What::Payment(of, _) if of == payment);
        self.blocks.iter().flatten().filter(is_it).count()
    }

    fn view(&self, flaw: Flaw) -> View {
        let final_number = self.blocks.len().saturating_sub(CONFIRMATIONS - 1);
        let used_below = self.next_on_chain();
        let mut known_below = used_below;
        while self.pool.iter().any(|sent| sent.nonce == known_below) {
            known_below += 1;
        }
        let mut receipts = HashMap::new();
        for (place, sent) in self.blocks.iter().enumerate() {
            if let Some(Sent { what: What::Payment(payment, version), .. }) = sent {
                receipts.insert(
                    hash(*payment, *version),
                    Receipt {
                        succeeded: true,
                        block_number: place as u64 + 1,
                        block_hash: [7; 32],
                        gas_used: 1,
                        created: None,
                    },
                );
            }
        }
        let fillers = self.blocks.iter().flatten().filter(|sent| sent.what == What::Filler);
        let filled = fillers.map(|sent| sent.nonce).filter(|_| flaw != Flaw::ForgetsFillers).collect();
        let finally =
            if flaw == Flaw::GivesUpBeforeFinality { used_below } else { self.used_below(final_number) };
        View {
            used_below,
            finally_used_below: finally,
            known_below,
            final_number: final_number as u64,
            receipts,
            filled,
        }
    }

    fn track(&mut self, flaw: Flaw, late: bool) {
        let view = self.view(flaw);
        let now = SIGNED_AT.plus(if late { POLICY.bump_after } else { Duration::ZERO });
        let open: Vec<InFlight<u8>> = (0..PAYMENTS)
            .zip(&self.rows)
            .filter(|(_, row)| matches!(row.state, State::Signed | State::Broadcast))
            .map(|(id, row)| InFlight {
                id,
                nonce: row.nonce,
                stage: if row.state == State::Broadcast { Stage::Broadcast } else { Stage::Signed },
                hashes: (1..=row.versions)
                    .filter(|version| flaw != Flaw::ForgetsVersions || *version == row.versions)
                    .map(|version| hash(id, version))
                    .collect(),
                fees: TxFees { fee_per_gas: 10, priority_fee: 1 },
                since: SIGNED_AT,
            })
            .collect();
        let next = open.iter().map(|tx| tx.nonce + 1).fold(self.next_nonce, u64::max);
        for action in plan(&open, next, &view, &POLICY, now) {
            self.carry_out(flaw, action);
        }
        // REOPEN_TXS: what is in no block any more is open again.
        for payment in 0..PAYMENTS {
            let is_there = self.carried(payment) > 0;
            if let Some(row) = self.rows.get_mut(usize::from(payment))
                && row.state == State::Included
                && !is_there
            {
                row.state = State::Signed;
            }
        }
    }

    fn carry_out(&mut self, flaw: Flaw, action: Action<u8>) {
        let row = |rows: &mut Vec<Row>, id: u8| rows.get_mut(usize::from(id)).cloned().unwrap();
        match action {
            Action::Broadcast(id) | Action::BroadcastAgain(id) => {
                let Row { nonce, versions, .. } = row(&mut self.rows, id);
                self.send(nonce, What::Payment(id, versions));
                self.rows[usize::from(id)].state = State::Broadcast;
            }
            Action::Bump(id) => {
                let row = &mut self.rows[usize::from(id)];
                // The cap.
                if row.versions < VERSIONS_MAX {
                    row.versions += 1;
                } else if flaw == Flaw::SilentAtTheCap {
                    return;
                }
                row.state = State::Broadcast;
                let (nonce, versions) = (row.nonce, row.versions);
                self.send(nonce, What::Payment(id, versions));
            }
            Action::Included(id, ..) => self.rows[usize::from(id)].state = State::Included,
            Action::Reverted(_) => unreachable!("nothing reverts here"),
            Action::Replaced(id) => {
                let nonce = row(&mut self.rows, id).nonce;
                let foreign = Sent { nonce, what: What::Foreign };
                self.false_alarm |= !self.blocks.iter().flatten().any(|sent| *sent == foreign);
                self.rows[usize::from(id)].state = State::Intended;
            }
            Action::Filled(id) => self.rows[usize::from(id)].state = State::Intended,
            Action::FillHole(nonce) | Action::RaiseFiller(nonce) => self.send(nonce, What::Filler),
            Action::SkipTo(nonce) => self.next_nonce = nonce,
        }
    }

    fn send(&mut self, nonce: u64, what: What) {
        if nonce >= self.next_on_chain() {
            self.pool.insert(Sent { nonce, what });
        }
    }

    fn sign(&mut self, payment: u8) {
        let row = &mut self.rows[usize::from(payment)];
        *row = Row { state: State::Signed, nonce: self.next_nonce, versions: row.versions + 1 };
        self.next_nonce += 1;
    }

    fn mine(&mut self, sent: Option<Sent>) {
        self.blocks.push(sent);
    }

    /// From here on nothing goes wrong any more: is each payment carried once in the end?
    fn ends_well(&self, flaw: Flaw) -> bool {
        let mut world = self.clone();
        for _ in 0..24 {
            for payment in 0..PAYMENTS {
                if world.rows[usize::from(payment)].state == State::Intended
                    && world.rows[usize::from(payment)].versions < 9
                {
                    world.sign(payment);
                }
            }
            world.track(flaw, true);
            let next = world.next_on_chain();
            let sent = world.pool.iter().rev().find(|sent| sent.nonce == next).copied();
            world.mine(sent);
            if (0..PAYMENTS).all(|payment| world.carried(payment) == 1) {
                return true;
            }
        }
        false
    }
}

fn hash(payment: u8, version: u8) -> [u8; 32] {
    let mut hash = [payment; 32];
    hash[0] = version;
    hash
}

impl Model for Lane {
    type State = World;
    type Action = Move;

    fn init_states(&self) -> Vec<World> {
        let row = Row { state: State::Intended, nonce: 0, versions: 0 };
        vec![World {
            blocks: vec![],
            pool: BTreeSet::new(),
            rows: vec![row; usize::from(PAYMENTS)],
            next_nonce: 0,
            reorganisations: 1,
            losses: 1,
            intruders: 1,
            false_alarm: false,
        }]
    }

    fn actions(&self, world: &World, moves: &mut Vec<Move>) {
        for payment in 0..PAYMENTS {
            let row = &world.rows[usize::from(payment)];
            if row.state == State::Intended && row.versions <= VERSIONS_MAX {
                moves.push(Move::Sign(payment));
            }
        }
        moves.extend([Move::Track { late: false }, Move::Track { late: true }]);
        let next = world.next_on_chain();
        if world.blocks.len() < BLOCKS_MAX {
            moves.push(Move::Mine(None));
            moves.extend(
                world.pool.iter().filter(|sent| sent.nonce == next).map(|sent| Move::Mine(Some(*sent))),
            );
            if world.intruders > 0 {
                moves.push(Move::Intrude);
            }
        }
        if world.losses > 0 {
            moves.extend(world.pool.iter().map(|sent| Move::Lose(*sent)));
        }
        if world.reorganisations > 0 && !world.blocks.is_empty() {
            moves.extend([Move::Reorganise { keeps: true }, Move::Reorganise { keeps: false }]);
        }
    }

    fn next_state(&self, world: &World, made: Move) -> Option<World> {
        let mut next = world.clone();
        match made {
            Move::Sign(payment) => next.sign(payment),
            Move::Track { late } => next.track(self.flaw, late),
            Move::Mine(sent) => next.mine(sent),
            Move::Lose(sent) => {
                next.losses -= 1;
                next.pool.remove(&sent);
            }
            Move::Reorganise { keeps } => {
                next.reorganisations -= 1;
                let taken = next.blocks.pop().flatten();
                if let Some(sent) = taken.filter(|sent| !keeps || sent.what == What::Foreign) {
                    next.pool.remove(&sent);
                }
            }
            Move::Intrude => {
                next.intruders -= 1;
                let nonce = next.next_on_chain();
                next.mine(Some(Sent { nonce, what: What::Foreign }));
            }
        }
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONCE, |_, world: &World| {
                (0..PAYMENTS).all(|payment| world.carried(payment) <= 1)
            }),
            Property::always(OWN_NONCE, |_, world: &World| {
                let taken = world.rows.iter().filter(|row| row.state != State::Intended);
                let nonces: Vec<u64> = taken.map(|row| row.nonce).collect();
                BTreeSet::from_iter(&nonces).len() == nonces.len()
            }),
            Property::always(ENDS, |lane: &Self, world: &World| {
                matches!(lane.flaw, Flaw::GivesUpBeforeFinality | Flaw::ForgetsVersions)
                    || world.blocks.len() < BLOCKS_MAX
                    || world.ends_well(lane.flaw)
            }),
            Property::always(BLAME, |_, world: &World| !world.false_alarm),
            Property::sometimes("both are included", |_, world: &World| {
                (0..PAYMENTS).all(|payment| world.carried(payment) == 1)
            }),
        ]
    }
}

const ONCE: &str = "each payment is carried by at most one transaction on chain";
const OWN_NONCE: &str = "no two transactions have one nonce";
const BLAME: &str = "somebody else is blamed only for a transaction of somebody else's";
const ENDS: &str = "from where everything has happened, each payment is still carried";

#[test]
fn nonces_keep_their_promises() {
    let checked = Lane { flaw: Flaw::None }.checker().threads(2).spawn_bfs().join();
    checked.assert_properties();
}

#[test]
fn a_nonce_given_up_before_finality_pays_twice() {
    refute(Flaw::GivesUpBeforeFinality, ONCE);
}

#[test]
fn a_version_that_is_forgotten_pays_twice() {
    refute(Flaw::ForgetsVersions, ONCE);
}

#[test]
fn a_transaction_at_the_cap_that_every_node_forgot_waits_for_ever_unless_it_is_offered_again() {
    refute(Flaw::SilentAtTheCap, ENDS);
}

#[test]
fn a_filler_that_is_forgotten_is_a_false_alarm() {
    refute(Flaw::ForgetsFillers, BLAME);
}

fn refute(flaw: Flaw, promise: &'static str) {
    let enough = HasDiscoveries::AnyOf([promise].into());
    let checked = Lane { flaw }.checker().finish_when(enough).spawn_bfs().join();
    assert!(checked.discovery(promise).is_some(), "{flaw:?} was not found out");
}
