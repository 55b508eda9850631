//! A node with the contracts of one currency on it, and a notebook that a watcher would keep.

use flowbridge_chain::deploy::{self, Admin, Deployment, Plan, Roles};
use flowbridge_chain::leaf::LeafTerms;
use flowbridge_chain::signer::Unsigned;
use flowbridge_chain::watch::{self, Finality, Head, Next, Place, WatchSettings};
use flowbridge_chain::{At, Chain as _, ChainError, ContractSet, HttpChain, Key, Leaf, Receipt, SeenLog};
use flowbridge_domain::id::PaymentId;
use flowbridge_domain::money::Currency;
use flowbridge_domain::party::EvmAddress;
use flowbridge_embedded::EmbeddedAnvil;
use std::time::Duration;

/// Public keys to the world: the accounts of the standard development mnemonic.
const KEYS: [&str; 6] = [
    "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
    "5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
    "7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6",
    "47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a",
    "8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba",
];

pub(crate) struct Node {
    pub(crate) anvil: EmbeddedAnvil,
    pub(crate) chain: HttpChain,
    pub(crate) contracts: ContractSet,
    pub(crate) deployment: Deployment,
}

pub(crate) enum Who {
    Deployer,
    Initiator,
    Settler,
    Canceller,
    Guardian,
    Debtor,
}

pub(crate) fn key(who: Who) -> Key {
    Key::parse(KEYS[who as usize]).unwrap()
}

pub(crate) fn wallet(name: u8) -> EvmAddress {
    EvmAddress::from_bytes([name; 20])
}

impl Node {
    pub(crate) async fn start() -> Self {
        let anvil = EmbeddedAnvil::temporary().unwrap();
        let chain = HttpChain::connect(&anvil.rpc_url(), 31337, Duration::from_secs(10)).await.unwrap();
        let deployer = key(Who::Deployer);
        let address = |who| key(who).address().to_string();
        let plan = Plan {
            currency: Currency::parse("EUR").unwrap(),
            token_decimals: 6,
            house: wallet(0xfe),
            roles: Roles {
                initiator: address(Who::Initiator),
                settler: address(Who::Settler),
                canceller: address(Who::Canceller),
                guardian: address(Who::Guardian),
                compliance: Some(address(Who::Deployer)),
                registrar: address(Who::Deployer),
                ..Roles::default()
            },
            mint_allowance: 1_000_000_000,
            admin_delay_secs: 0,
        };
        let admin =
            Admin { chain: &chain, chain_id: 31337, key: &deployer, patience: Duration::from_secs(10) };
        let deployment = deploy::deploy(&admin, &plan).await.unwrap();
        let contracts = deployment.contracts().unwrap();
        let wallets: Vec<_> = (1..=9).map(wallet).chain([key(Who::Debtor).address()]).collect();
        admin.register_wallets(&contracts, &wallets).await.unwrap();
        Self { anvil, chain, contracts, deployment }
    }

    pub(crate) async fn send(
        &self,
        who: Who,
        to: EvmAddress,
        calldata: &[u8],
    ) -> Result<Receipt, ChainError> {
        let key = key(who);
        let admin =
            Admin { chain: &self.chain, chain_id: 31337, key: &key, patience: Duration::from_secs(10) };
        admin.send(Some(&to), calldata).await
    }

    /// Without asking first whether the contracts would refuse it.
    pub(crate) async fn send_blindly(&self, who: Who, to: EvmAddress, calldata: &[u8]) -> Receipt {
        let (key, fees) = (key(who), self.chain.fees().await.unwrap());
        let signed = key.sign(&Unsigned {
            chain_id: 31337,
            nonce: self.chain.nonce(&key.address(), At::Pending).await.unwrap(),
            to: Some(&to),
            calldata,
            value: 0,
            gas_limit: 1_000_000,
            fee_per_gas: 2 * fees.base + fees.priority,
            priority_fee: fees.priority,
        });
        let signed = signed.unwrap();
        self.chain.send(&signed.raw).await.unwrap();
        self.command("evm_mine", serde_json::json!([])).await;
        self.chain.receipt(signed.hash).await.unwrap().unwrap()
    }

    pub(crate) async fn in_an_hour(&self) -> u64 {
        let now = self.chain.block(At::Latest).await.unwrap().unwrap().time;
        u64::try_from(now.as_secs_down()).unwrap() + 3_600
    }

    pub(crate) async fn leaf(&self, number: u64, creditor: u8) -> Leaf {
        Leaf {
            number,
            payment_id: PaymentId::from_uuid(uuid::Uuid::from_u128(u128::from(number))),
            debtor: wallet(1),
            creditor: wallet(creditor),
            amount: 10_000,
            fee: 100,
            expires_at: self.in_an_hour().await,
            terms: LeafTerms { token_funded: false, paid_out_by_bank: false },
        }
    }

    /// A call of the node's own, such as `anvil_reorg`.
    pub(crate) async fn command(&self, method: &'static str, params: serde_json::Value) {
        let client = alloy::rpc::client::ClientBuilder::default().http(self.anvil.rpc_url().parse().unwrap());
        client.request::<_, serde_json::Value>(method, params).await.unwrap();
    }
}

/// What a watcher keeps.
pub(crate) struct Notebook {
    pub(crate) place: Place,
    pub(crate) announced: Vec<SeenLog>,
    waiting: Vec<SeenLog>,
    pub(crate) removed: Vec<SeenLog>,
    pub(crate) settings: WatchSettings,
}

impl Notebook {
    pub(crate) fn at_the_deployment(node: &Node) -> Self {
        let (number, hash) = node.deployment.start().unwrap();
        Self {
            place: Place { number, hash, known: vec![(number, hash)], head: None, reach: watch::REACH_FIRST },
            announced: vec![],
            waiting: vec![],
            removed: vec![],
            settings: WatchSettings {
                finality: Finality::Confirmations(1),
                reorg_depth_blocks_max: 64,
                stretch_blocks_max: 100,
                stretch_logs_max: 10_000,
            },
        }
    }

    /// Reads until the chain has nothing new.
    pub(crate) async fn catch_up(&mut self, node: &Node) -> Result<(), ChainError> {
        loop {
            match watch::next(&node.chain, &[node.contracts], &self.place, &self.settings).await? {
                Next::Idle => return Ok(()),
                Next::Again => {}
                Next::Rewind(ancestor) => {
                    let (gone, left) =
                        self.announced.drain(..).partition(|log| log.block_number > ancestor.number);
                    self.announced = left;
                    self.removed.extend::<Vec<_>>(gone);
                    self.waiting.retain(|log| log.block_number <= ancestor.number);
                    self.place.known.retain(|(number, _)| *number <= ancestor.number);
                    self.go_to(ancestor.number, ancestor.hash, None);
                }
                Next::TakeIn(stretch) => {
                    for block in &stretch.blocks {
                        self.place.known.insert(0, (block.number, block.hash));
                    }
                    self.waiting.extend(stretch.logs);
                    let (now, later) =
                        self.waiting.drain(..).partition(|log| log.block_number <= stretch.announce_to);
                    self.waiting = later;
                    self.announced.extend::<Vec<_>>(now);
                    self.place.reach = stretch.reach;
                    self.go_to(stretch.last.number, stretch.last.hash, Some(stretch.head));
                }
            }
        }
    }

    fn go_to(&mut self, number: u64, hash: [u8; 32], head: Option<Head>) {
        (self.place.number, self.place.hash, self.place.head) = (number, hash, head);
    }
}
