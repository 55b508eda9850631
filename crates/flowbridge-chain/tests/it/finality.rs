//! Reorganisation and finality, explored exhaustively around the real [`next`] on a chain in memory: blocks that come and go
//! between the watcher's looks and in the middle of one, and a watcher that dies between the two.
//!
//! What is modelled beside `next` is what the store does with its answers (`take_in` and `rewind`): blocks are announced up to
//! where policy lets them count, once; what went back is told as removed; place and announcements are one transaction. A
//! block's hash stands for what is in it. Each flawed build has to be refuted.

use async_trait::async_trait;
use flowbridge_chain::watch::{Finality, Next, Place, REACH_FIRST, WatchSettings, next};
use flowbridge_chain::{At, Block, Chain, ChainError, Fees, L1Batch, Receipt};
use flowbridge_domain::party::EvmAddress;
use flowbridge_domain::time::Timestamp;
use futures_util::FutureExt as _;
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The newest block that the node calls safe or finalized is so far behind the newest.
const FINAL_BEHIND: usize = 2;
const BLOCKS_MAX: usize = 5;
/// A reorganisation in the middle of a look comes after one of so many questions.
const QUESTIONS: usize = 9;

/// A block's hash, which here is all there is of it: `number` and the branch it is on.
type Name = (u8, u8);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    chain: Vec<Name>,
    branches: u8,
    /// The watcher's rows: its place and what it knows below, and what is announced.
    known: Vec<Name>,
    announced: Vec<Name>,
    /// What was told, in order.
    told: Vec<Told>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Told {
    Seen(Name),
    Removed(Name),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Move {
    Grow,
    /// So many blocks are replaced by as many others.
    Reorganise(usize),
    /// The watcher's turn; with a reorganisation in the middle of it, after so many questions.
    Look {
        reorganised_after: Option<usize>,
    },
    /// The same, and the watcher dies before its rows are written.
    LookAndDie,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    /// A log counts as soon as it is seen.
    NoFinality,
    /// What went back is not told as removed.
    RemovalsNotTold,
    /// What is announced is written before the place, not with it.
    PlaceWrittenLater,
}

struct Watching {
    flaw: Flaw,
    /// Reorganisations go so deep. Below what policy calls final they are told; above it nothing was.
    depth: usize,
}

/// A node that may be reorganised after so many questions.
#[derive(Debug)]
struct Node {
    before: Vec<Name>,
    after: Vec<Name>,
    questions_left: AtomicUsize,
}

impl Node {
    fn ask(&self) -> &[Name] {
        let left = self
            .questions_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if left.is_ok() { &self.before } else { &self.after }
    }
}

fn hash((number, branch): Name) -> [u8; 32] {
    let mut hash = [0; 32];
    hash[..2].copy_from_slice(&[number, branch]);
    hash
}

fn name(hash: [u8; 32]) -> Name {
    (hash[0], hash[1])
}

fn block(chain: &[Name], number: usize) -> Option<Block> {
    let parent = number.checked_sub(1).and_then(|number| chain.get(number)).copied();
    Some(Block {
        number: number as u64,
        hash: hash(*chain.get(number)?),
        parent: parent.map_or([0xff; 32], hash),
        time: Timestamp::EPOCH,
        base_fee: 0,
    })
}

#[async_trait]
impl Chain for Node {
    async fn chain_id(&self) -> Result<u64, ChainError> {
        Ok(1)
    }

    async fn block(&self, at: At) -> Result<Option<Block>, ChainError> {
        let chain = self.ask();
        let newest = chain.len() - 1;
        Ok(match at {
            At::Number(number) => block(chain, usize::try_from(number).unwrap()),
            At::Latest | At::Pending => block(chain, newest),
            At::Safe | At::Finalized => block(chain, newest.saturating_sub(FINAL_BEHIND)),
        })
    }

    async fn logs(
        &self,
        _from: u64,
        _to: u64,
        _contracts: &[EvmAddress],
    ) -> Result<Vec<alloy::rpc::types::Log>, ChainError> {
        self.ask();
        Ok(vec![])
    }

    async fn logs_of_block(
        &self,
        block_hash: [u8; 32],
        _contracts: &[EvmAddress],
    ) -> Result<Vec<alloy::rpc::types::Log>, ChainError> {
        if self.ask().contains(&name(block_hash)) {
            return Ok(vec![]);
        }
        Err(ChainError::Refused("unknown block".to_owned()))
    }

    async fn receipt(&self, _tx_hash: [u8; 32]) -> Result<Option<Receipt>, ChainError> {
        unasked()
    }

    async fn nonce(&self, _of: &EvmAddress, _at: At) -> Result<u64, ChainError> {
        unasked()
    }

    async fn coins(&self, _of: &EvmAddress) -> Result<u128, ChainError> {
        unasked()
    }

    async fn code(&self, _at: &EvmAddress) -> Result<Vec<u8>, ChainError> {
        unasked()
    }

    async fn estimate(
        &self,
        _from: &EvmAddress,
        _to: Option<&EvmAddress>,
        _calldata: &[u8],
    ) -> Result<u64, ChainError> {
        unasked()
    }

    async fn try_call(
        &self,
        _from: &EvmAddress,
        _to: &EvmAddress,
        _calldata: &[u8],
        _gas_limit: u64,
    ) -> Result<(), ChainError> {
        unasked()
    }

    async fn call(
        &self,
        _from: &EvmAddress,
        _to: &EvmAddress,
        _calldata: &[u8],
        _at: At,
    ) -> Result<Vec<u8>, ChainError> {
        unasked()
    }

    async fn fees(&self) -> Result<Fees, ChainError> {
        unasked()
    }

    async fn has_l1_batches(&self) -> Result<bool, ChainError> {
        unasked()
    }

    async fn l1_batch(&self, _block_number: u64) -> Result<Option<L1Batch>, ChainError> {
        unasked()
    }

    async fn send(&self, _raw: &[u8]) -> Result<(), ChainError> {
        unasked()
    }
}

fn unasked<T>() -> Result<T, ChainError> {
    Err(ChainError::Wrong("a watcher has no business asking this".to_owned()))
}

impl World {
    fn reorganise(&mut self, depth: usize) {
        self.branches += 1;
        let branch = self.branches;
        for (number, _, is_new) in
            self.chain.iter_mut().rev().take(depth).map(|block| (block.0, block.1, block))
        {
            *is_new = (number, branch);
        }
    }

    fn look(&mut self, watching: &Watching, reorganised_after: Option<usize>, dies: bool) {
        let before = self.chain.clone();
        if reorganised_after.is_some() {
            self.reorganise(1);
        }
        let node = Node {
            before,
            after: self.chain.clone(),
            questions_left: AtomicUsize::new(reorganised_after.unwrap_or(0)),
        };
        let Some(place) = self.known.last().copied() else { return };
        let place = Place {
            number: u64::from(place.0),
            hash: hash(place),
            known: self.known.iter().rev().map(|block| (u64::from(block.0), hash(*block))).collect(),
            head: None,
            reach: REACH_FIRST,
        };
        let finality =
            if watching.flaw == Flaw::NoFinality { Finality::Confirmations(1) } else { Finality::Finalized };
        let settings = WatchSettings {
            finality,
            reorg_depth_blocks_max: 16,
            stretch_blocks_max: 16,
            stretch_logs_max: 16,
        };
        // The node in memory never makes anybody wait.
        let answer = next(&node, &[], &place, &settings).now_or_never().unwrap();
        // A block that was asked for went away in the meantime: the watcher looks again.
        let Ok(answer) = answer.inspect_err(|error| assert!(matches!(error, ChainError::Refused(_)))) else {
            return;
        };
        match answer {
            Next::Idle | Next::Again => {}
            Next::Rewind(ancestor) if !dies => self.rewind(watching.flaw, ancestor.number),
            Next::Rewind(_) => {}
            Next::TakeIn(stretch) => {
                let mut known = self.known.clone();
                known.extend(stretch.blocks.iter().map(|block| name(block.hash)));
                let counts = known.iter().filter(|block| u64::from(block.0) <= stretch.announce_to);
                let new: Vec<Name> =
                    counts.filter(|block| !self.announced.contains(block)).copied().collect();
                if !dies || watching.flaw == Flaw::PlaceWrittenLater {
                    self.told.extend(new.iter().copied().map(Told::Seen));
                }
                if !dies {
                    self.announced.extend(new);
                    self.known = known;
                }
            }
        }
    }

    fn rewind(&mut self, flaw: Flaw, to: u64) {
        self.known.retain(|block| u64::from(block.0) <= to);
        let (kept, gone): (Vec<Name>, Vec<Name>) =
            self.announced.iter().partition(|block| u64::from(block.0) <= to);
        self.announced = kept;
        if flaw != Flaw::RemovalsNotTold {
            self.told.extend(gone.into_iter().rev().map(Told::Removed));
        }
    }

    /// What those believe who were told.
    fn believed(&self) -> Option<Vec<Name>> {
        let mut believed = Vec::new();
        for told in &self.told {
            match told {
                Told::Seen(block) if believed.contains(block) => return None,
                Told::Seen(block) => believed.push(*block),
                Told::Removed(block) if believed.last() == Some(block) => drop(believed.pop()),
                Told::Removed(_) => return None,
            }
        }
        Some(believed)
    }

    /// From here on the chain stands still: is what is believed in the end what is final on it?
    fn ends_well(&self, watching: &Watching) -> bool {
        let mut world = self.clone();
        for _ in 0..2 * BLOCKS_MAX {
            world.look(watching, None, false);
        }
        let counts = world.chain.len() - FINAL_BEHIND.min(world.chain.len() - 1);
        world.believed().is_some_and(|believed| believed == world.chain[1..counts])
    }
}

impl Model for Watching {
    type State = World;
    type Action = Move;

    fn init_states(&self) -> Vec<World> {
        let chain = vec![(0, 0)];
        vec![World { known: chain.clone(), announced: chain.clone(), chain, branches: 0, told: vec![] }]
    }

    fn actions(&self, world: &World, moves: &mut Vec<Move>) {
        if world.chain.len() < BLOCKS_MAX {
            moves.push(Move::Grow);
        }
        if world.branches < 2 {
            moves.extend((1..=self.depth.min(world.chain.len() - 1)).map(Move::Reorganise));
            if world.chain.len() > 1 {
                moves.extend((1..=QUESTIONS).map(|after| Move::Look { reorganised_after: Some(after) }));
            }
        }
        moves.extend([Move::Look { reorganised_after: None }, Move::LookAndDie]);
    }

    fn next_state(&self, world: &World, made: Move) -> Option<World> {
        let mut next = world.clone();
        match made {
            Move::Grow => {
                let number = u8::try_from(next.chain.len()).unwrap();
                next.chain.push((number, next.branches));
            }
            Move::Reorganise(depth) => next.reorganise(depth),
            Move::Look { reorganised_after } => next.look(self, reorganised_after, false),
            Move::LookAndDie => next.look(self, None, true),
        }
        // A flawed watcher could tell the same for ever.
        (next != *world && next.told.len() <= 3 * BLOCKS_MAX).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(CONSISTENT, |_, world: &World| world.believed().is_some()),
            Property::always(FINAL, |watching: &Self, world: &World| {
                watching.depth > FINAL_BEHIND
                    || !world.told.iter().any(|told| matches!(told, Told::Removed(_)))
            }),
            Property::always(ENDS, |watching: &Self, world: &World| {
                watching.flaw != Flaw::None && watching.flaw != Flaw::RemovalsNotTold
                    || world.ends_well(watching)
            }),
            Property::sometimes("something is final", |_, world: &World| world.told.len() > 1),
        ]
    }
}

const CONSISTENT: &str = "nothing is told twice, and what is removed was told";
const FINAL: &str = "what counts is never taken back by a reorganisation that policy foresees";
const ENDS: &str = "in the end what was told is what is final on the chain";

#[test]
fn what_counts_is_told_once_and_stays() {
    explore(FINAL_BEHIND);
}

#[test]
fn what_a_deeper_reorganisation_takes_is_told_as_removed() {
    explore(FINAL_BEHIND + 2);
}

fn explore(depth: usize) {
    let checked = Watching { flaw: Flaw::None, depth }.checker().threads(2).spawn_bfs().join();
    checked.assert_properties();
}

#[test]
fn a_log_that_counts_at_once_is_taken_back() {
    refute(Flaw::NoFinality, FINAL_BEHIND, FINAL);
}

#[test]
fn a_removal_that_is_not_told_is_believed_for_ever() {
    refute(Flaw::RemovalsNotTold, FINAL_BEHIND + 2, ENDS);
}

#[test]
fn a_place_that_is_written_later_tells_twice() {
    refute(Flaw::PlaceWrittenLater, FINAL_BEHIND, CONSISTENT);
}

fn refute(flaw: Flaw, depth: usize, promise: &'static str) {
    let enough = HasDiscoveries::AnyOf([promise].into());
    let checked = Watching { flaw, depth }.checker().finish_when(enough).spawn_bfs().join();
    assert!(checked.discovery(promise).is_some(), "{flaw:?} was not found out");
}
