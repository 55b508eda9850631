//! The vault on a real node: what owners sign, who may carry it out and when, and who governs the contracts.

use crate::node::{Node, Who, key};
use flowbridge_chain::deploy::{self, Admin};
use flowbridge_chain::governance::{self, Governance, GovernancePlan};
use flowbridge_chain::vault::{self, Act, Approval, Call, Fate, Motion, NoApproval, Standing};
use flowbridge_chain::{Chain as _, ChainError, HttpChain, Key, Refusal, Vault};
use flowbridge_domain::party::EvmAddress;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

const DAY: u64 = 86_400;
const ALLOWED: u64 = 1_000_000_000;

/// A node whose contracts three owners govern, two of whom must approve, with a delay of a day.
struct Governed {
    node: Node,
    governance: Governance,
    vault: Vault,
}

fn owner(number: u8) -> Key {
    Key::from_random([number + 1; 32]).unwrap()
}

impl Governed {
    async fn start() -> Self {
        let mut node = Node::start().await;
        let chain = HttpChain::connect(&node.anvil.rpc_url(), 31337, Duration::from_secs(10)).await.unwrap();
        let deployer = key(Who::Deployer);
        let admin =
            Admin { chain: &chain, chain_id: 31337, key: &deployer, patience: Duration::from_secs(10) };
        let plan = GovernancePlan {
            owners: (0..3).map(|number| owner(number).address()).collect(),
            threshold: 2,
            delay_secs: DAY,
            anchorer: deployer.address(),
            admin_delay_secs: 0,
            mint_cap: ALLOWED.into(),
        };
        let governance = governance::deploy(&admin, &plan).await.unwrap();
        // What was cut off is given again, and changes nothing.
        for _ in 0..2 {
            let by = (&governance, &node.deployment.roles);
            node.deployment.roles = governance::hand_over(&admin, &node.contracts, by).await.unwrap();
        }
        node.deployment.governance = Some(governance.clone());
        let address = governance.vault_address().unwrap();
        let vault = Vault { chain: Arc::new(chain), chain_id: 31337, address };
        Self { node, governance, vault }
    }

    async fn motion(&self, act: Act) -> Motion {
        let state = self.vault.state().await.unwrap();
        Motion { nonce: state.nonce, deadline: state.block_time + 30 * DAY, act }
    }

    fn approvals(&self, motion: &Motion, owners: &[u8]) -> Vec<Approval> {
        let digest = self.vault.digest(motion);
        let sign = |number: &u8| {
            let signature = owner(*number).sign_recoverably(&digest).unwrap();
            Approval { owner: owner(*number).address(), signature }
        };
        owners.iter().map(sign).collect()
    }

    /// By somebody who is nothing to the vault.
    async fn send(&self, calldata: &[u8]) -> Result<(), ChainError> {
        self.node.send(Who::Debtor, self.vault.address, calldata).await.map(drop)
    }

    async fn execute(&self, motion: &Motion, owners: &[u8]) -> Result<(), ChainError> {
        self.send(&vault::execute(motion, &self.approvals(motion, owners))).await
    }

    async fn schedule(&self, motion: &Motion, owners: &[u8]) -> Result<(), ChainError> {
        self.send(&vault::schedule(motion, &self.approvals(motion, owners)).unwrap()).await
    }

    async fn refusal(&self, motion: &Motion, owners: &[u8]) -> Refusal {
        match self.execute(motion, owners).await {
            Err(ChainError::Reverted(refusal)) => refusal,
            other => panic!("{other:?}"),
        }
    }

    async fn pass(&self, secs: u64) {
        self.node.command("evm_increaseTime", json!([secs])).await;
        self.node.command("evm_mine", json!([])).await;
    }

    /// Lets a motion wait its day, and carries it out.
    async fn carry_out(&self, act: Act) {
        let motion = self.motion(act).await;
        self.schedule(&motion, &[0, 1]).await.unwrap();
        self.pass(DAY).await;
        self.execute(&motion, &[0, 1]).await.unwrap();
    }

    async fn verify(&self) -> Vec<String> {
        governance::verify(&self.node.chain, &self.node.deployment).await.unwrap()
    }
}

/// What the guardian's key could do before, and no single key can any more.
#[tokio::test(flavor = "multi_thread")]
async fn compliance_is_the_vaults() {
    let governed = Governed::start().await;
    let (contracts, wallet) = (governed.node.contracts, EvmAddress::from_bytes([1; 20]));
    let take = vault::Call {
        to: contracts.manager,
        value: 0,
        data: flowbridge_chain::call::release_surplus(&wallet),
    };
    for who in [Who::Deployer, Who::Guardian] {
        let refused = governed.node.send(who, take.to, &take.data).await.unwrap_err();
        assert_eq!(refused, ChainError::Reverted(Refusal::NotAllowed));
    }
    governed.carry_out(Act::Operate(vec![take])).await;
    let accept =
        governance::take_over(&governed.node.chain, &contracts, &governed.governance, ALLOWED.into());
    governed.carry_out(accept.await.unwrap()).await;
    let guardian = key(Who::Guardian).address();
    governed
        .carry_out(Act::Operate(vec![
            vault::grant_role(&contracts.token, "COMPLIANCE_ROLE", &guardian),
            vault::revoke_role(&contracts.manager, "COMPLIANCE_ROLE", &governed.vault.address),
        ]))
        .await;
    let expected = [
        format!("{guardian} holds COMPLIANCE_ROLE on the token and should not"),
        format!("{} does not hold COMPLIANCE_ROLE on the manager and should", governed.vault.address),
    ];
    assert_eq!(governed.verify().await, expected);
    let mut deployment = governed.node.deployment.clone();
    deployment.roles.compliance = Some(guardian.to_string());
    let problems = governance::verify(&governed.node.chain, &deployment).await.unwrap();
    assert_eq!(problems[0], format!("{guardian} has no COMPLIANCE_ROLE on the Manager"), "{problems:#?}");
    // Handed over once more: nothing is taken back, and nobody is named who holds nothing.
    let deployer = key(Who::Deployer);
    let (chain, patience) = (&governed.node.chain, Duration::from_secs(10));
    let admin = Admin { chain, chain_id: 31337, key: &deployer, patience };
    deployment.roles.compliance = Some(deployer.address().to_string());
    let by = (&governed.governance, &deployment.roles);
    let roles = governance::hand_over(&admin, &contracts, by).await.unwrap();
    assert_eq!(roles.compliance, None);
}

/// A deployer who gives itself the right to name minters, names one, and gives the right up again.
#[tokio::test(flavor = "multi_thread")]
async fn a_minter_that_nobody_should_know_of_is_found_out_and_so_is_what_the_record_does_not_say() {
    let governed = Governed::start().await;
    let (contracts, hidden) = (governed.node.contracts, EvmAddress::from_bytes([0x66; 20]));
    let deployer = key(Who::Deployer).address();
    for call in [
        vault::grant_role(&contracts.token, "MINTER_ADMIN_ROLE", &deployer),
        vault::mint_allowance(&contracts.token, &hidden, 7),
        vault::revoke_role(&contracts.token, "MINTER_ADMIN_ROLE", &deployer),
    ] {
        governed.node.send(Who::Deployer, call.to, &call.data).await.unwrap();
    }
    let accept =
        governance::take_over(&governed.node.chain, &contracts, &governed.governance, ALLOWED.into());
    governed.carry_out(accept.await.unwrap()).await;
    let is_found = format!("{hidden} may mint and burn the token and should not");
    assert_eq!(governed.verify().await, std::slice::from_ref(&is_found));

    let of_vault = &governed.vault.address;
    governed
        .carry_out(Act::Operate(vec![
            vault::mint_cap(of_vault, &contracts.token, &hidden, 5),
            vault::mint_cap(of_vault, &contracts.token, &contracts.manager, 6),
            vault::limit(of_vault, Some(&contracts.token), 8),
            vault::limit(of_vault, None, 9),
            vault::delay(of_vault, 10),
        ]))
        .await;
    let without_delay = |who: &str, cap: u64| {
        format!("the vault may let {who} mint up to {cap} units of the token without delay")
    };
    let expected = [
        "large operations of the vault wait 10 s, the record says 86400 s".to_owned(),
        "8 units of the token may leave the vault within a day without delay, the record says 0".to_owned(),
        "9 wei may leave the vault within a day without delay, the record says 0".to_owned(),
        is_found.clone(),
        format!("{} and should not", without_delay(&hidden.to_string(), 5)),
        format!("{}, the record says {ALLOWED}", without_delay("the manager", 6)),
    ];
    assert_eq!(governed.verify().await, expected);

    // An older record says nothing of it: what it does not say is told, and not compared.
    let mut older = serde_json::to_value(&governed.node.deployment).unwrap();
    let of_governance = older["governance"].as_object_mut().unwrap();
    of_governance.remove("delay_secs").unwrap();
    of_governance.remove("at_once").unwrap();
    let older: deploy::Deployment = serde_json::from_value(older).unwrap();
    assert_eq!(older.governance.as_ref().unwrap().unsaid().len(), 2);
    let problems = governance::verify(&governed.node.chain, &older).await.unwrap();
    assert_eq!(problems, [is_found, format!("{} and should not", without_delay(&hidden.to_string(), 5))]);
    assert!(governed.governance.unsaid().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_schedules_is_not_delayed_and_what_would_be_void_does_not_wait() {
    let governed = Governed::start().await;
    governed.node.command("anvil_setBalance", json!([governed.vault.address.to_string(), "0x3e8"])).await;
    governed.carry_out(Act::Operate(vec![vault::limit(&governed.vault.address, None, 500)])).await;
    let small = governed.motion(send_coins(300)).await;
    governed.schedule(&small, &[0, 1]).await.unwrap();
    governed.execute(&small, &[0, 1]).await.unwrap();
    assert_eq!(governed.vault.state().await.unwrap().scheduled, None);
    let open = governed.motion(send_coins(400)).await;
    let void = Motion { deadline: governed.vault.state().await.unwrap().block_time + DAY, ..open };
    let refused = governed.schedule(&void, &[0, 1]).await.unwrap_err();
    let ChainError::Reverted(Refusal::Vault(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("before the delay is over"), "{why}");
    assert_eq!(governed.node.chain.coins(&EvmAddress::from_bytes([7; 20])).await.unwrap(), 300);
}

fn send_coins(wei: u128) -> Act {
    Act::Operate(vec![Call { to: EvmAddress::from_bytes([7; 20]), value: wei, data: vec![] }])
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_accept_the_admins_place_and_then_raise_the_allowance_within_its_cap_at_once() {
    let governed = Governed::start().await;
    let before = governed.verify().await;
    assert!(before.iter().all(|problem| problem.contains("have not accepted yet")), "{before:#?}");
    assert_eq!(before.len(), 4);
    let contracts = governed.node.contracts;
    let accept =
        governance::take_over(&governed.node.chain, &contracts, &governed.governance, ALLOWED.into());
    governed.carry_out(accept.await.unwrap()).await;
    assert_eq!(governed.verify().await, Vec::<String>::new());

    let raise = |units: u64| {
        Act::Operate(vec![vault::mint_allowance(&contracts.token, &contracts.manager, units.into())])
    };
    let within = governed.motion(raise(ALLOWED)).await;
    assert_eq!(
        governed.refusal(&within, &[2]).await,
        Refusal::Vault("1 approvals are given, 2 are needed".into())
    );
    governed.execute(&within, &[2, 0]).await.unwrap();
    assert_eq!(deploy::mint_allowance(&governed.node.chain, &contracts).await.unwrap(), ALLOWED);
    let beyond = governed.motion(raise(ALLOWED + 1)).await;
    assert_eq!(governed.refusal(&beyond, &[0, 1]).await, Refusal::NotScheduled);

    // What was taken from the deployer, and who got what behind the record's back, is told in words.
    let token = contracts.token;
    let deployer = key(Who::Deployer).address();
    let grant = vault::grant_role(&token, "FREEZER_ROLE", &deployer).data;
    let refused = governed.node.send(Who::Deployer, token, &grant);
    assert_eq!(refused.await.unwrap_err(), ChainError::Reverted(Refusal::NotAllowed));
    let guardian = key(Who::Guardian).address();
    governed
        .carry_out(Act::Operate(vec![
            vault::grant_role(&token, "FREEZER_ROLE", &deployer),
            vault::revoke_role(&token, "PAUSER_ROLE", &guardian),
            vault::add_owner(&governed.vault.address, &deployer),
            vault::mint_allowance(&token, &deployer, 0),
            Call { to: token, value: 0, data: remove_minter(&deployer) },
        ]))
        .await;
    let expected = [
        format!("{guardian} has no PAUSER_ROLE on the Token"),
        "the vault has 4 owners, the record names 3".to_owned(),
        format!("{deployer} holds FREEZER_ROLE on the token and should not"),
        format!(
            "{deployer} was a minter, so that it can be neither frozen nor unregistered, and nothing is forced out of it"
        ),
    ];
    assert_eq!(governed.verify().await, expected);
}

fn remove_minter(minter: &EvmAddress) -> Vec<u8> {
    let mut data = alloy::primitives::keccak256("removeMinter(address)")[..4].to_vec();
    data.extend([0; 12]);
    data.extend(minter.as_bytes());
    data
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_this_build_does_not_make_is_found_out_and_the_rest_compared() {
    let governed = Governed::start().await;
    let mut deployment = governed.node.deployment.clone();
    let governance = deployment.governance.as_mut().unwrap();
    governance.anchor = deployment.token.clone();
    let problems = governance::verify(&governed.node.chain, &deployment).await.unwrap();
    let of_another_build = "is what was deployed, and not what AuditAnchor of this build compiles to";
    assert!(problems[0].contains(of_another_build), "{problems:#?}");
    assert!(problems.iter().any(|problem| problem.contains("have not accepted yet")), "{problems:#?}");
    deployment.governance = None;
    let problems = governance::verify(&governed.node.chain, &deployment).await.unwrap();
    assert!(problems[0].starts_with("no vault governs the contracts of EUR"), "{problems:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_nonce_serves_once_in_order_on_this_vault_and_chain_only() {
    let governed = Governed::start().await;
    let first = governed.motion(Act::Cancel).await;
    let later = Motion { nonce: 1, ..first.clone() };
    assert!(
        matches!(governed.refusal(&later, &[0, 1]).await, Refusal::Vault(why) if why.contains("no owner"))
    );
    governed.execute(&first, &[0, 1]).await.unwrap();
    assert!(
        matches!(governed.refusal(&first, &[0, 1]).await, Refusal::Vault(why) if why.contains("no owner"))
    );
    governed.execute(&later, &[1, 2]).await.unwrap();

    // The same motion, signed for another chain or another vault, is approved by nobody.
    let motion = governed.motion(Act::Cancel).await;
    let elsewhere = Vault { chain_id: 1, ..governed.vault.clone() };
    let another = Vault { address: governed.node.contracts.token, ..governed.vault.clone() };
    for wrong in [elsewhere, another] {
        let digest = wrong.digest(&motion);
        let signature = owner(0).sign_recoverably(&digest).unwrap();
        let refused = governed.vault.approval(&motion, &signature).await.unwrap_err();
        assert!(matches!(refused, NoApproval::NotAnOwner(_)), "{refused}");
        let forged = [0, 1].map(|number| Approval {
            owner: owner(number).address(),
            signature: owner(number).sign_recoverably(&digest).unwrap(),
        });
        let sent = governed.send(&vault::execute(&motion, &forged)).await;
        assert!(matches!(sent, Err(ChainError::Reverted(Refusal::Vault(_)))), "{sent:?}");
    }
    let own = governed.vault.digest(&motion);
    let signature = owner(2).sign_recoverably(&own).unwrap();
    assert_eq!(governed.vault.approval(&motion, &signature).await.unwrap().owner, owner(2).address());
    // Wallets that write 0 or 1 are understood; the twin with a high s is not, nor is half a signature.
    let mut of_wallet = signature;
    of_wallet[64] -= 27;
    assert_eq!(governed.vault.approval(&motion, &of_wallet).await.unwrap().signature, signature);
    let malformed = governed.vault.approval(&motion, &signature[..64]).await.unwrap_err();
    assert_eq!(malformed, NoApproval::Malformed);

    let fates = governed.vault.fates(0, governed.vault.state().await.unwrap().block_number).await.unwrap();
    assert_eq!(fates.into_iter().collect::<Vec<_>>(), [(0, Fate::Cancelled), (1, Fate::Cancelled)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_large_waits_its_delay_and_can_be_cancelled_and_what_is_small_is_done_within_the_days_limit()
{
    let governed = Governed::start().await;
    governed.node.command("anvil_setBalance", json!([governed.vault.address.to_string(), "0x3e8"])).await;

    let large = governed.motion(send_coins(400)).await;
    assert_eq!(governed.refusal(&large, &[0, 1]).await, Refusal::NotScheduled);
    governed.schedule(&large, &[0, 1]).await.unwrap();
    let Refusal::NotReady(ready_at) = governed.refusal(&large, &[0, 1]).await else { panic!("it waits") };
    let digest = governed.vault.digest(&large);
    let stands = async |fate| {
        let state = governed.vault.state().await.unwrap();
        vault::standing(&large, &digest, 2, &state, fate)
    };
    assert_eq!(stands(None).await, Standing::Scheduled);
    governed.pass(DAY - 60).await;
    assert_eq!(governed.refusal(&large, &[0, 1]).await, Refusal::NotReady(ready_at));
    let instead = governed.motion(Act::Cancel).await;
    governed.execute(&instead, &[1, 2]).await.unwrap();
    governed.pass(DAY).await;
    assert!(governed.execute(&large, &[0, 1]).await.is_err(), "its nonce is gone");
    assert_eq!(stands(Some(Fate::Cancelled)).await, Standing::Cancelled);

    governed.carry_out(Act::Operate(vec![vault::limit(&governed.vault.address, None, 500)])).await;
    for wei in [300, 200] {
        let small = governed.motion(send_coins(wei)).await;
        governed.execute(&small, &[0, 2]).await.unwrap();
    }
    let more = governed.motion(send_coins(1)).await;
    assert_eq!(governed.refusal(&more, &[0, 2]).await, Refusal::NotScheduled, "the day is used up");
    governed.pass(DAY).await;
    governed.execute(&more, &[0, 2]).await.unwrap();
    assert_eq!(governed.node.chain.coins(&EvmAddress::from_bytes([7; 20])).await.unwrap(), 501);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_typed_data_for_wallets_hashes_to_the_digest_and_calls_are_told_in_words() {
    let governed = Governed::start().await;
    let contracts = governed.node.contracts;
    let word = |address: &EvmAddress| [[0; 12].as_slice(), address.as_bytes().as_slice()].concat();
    let force = [
        alloy::primitives::keccak256("forcedTransfer(address,address,uint256)")[..4].to_vec(),
        word(&contracts.house),
        word(&contracts.manager),
        [vec![0; 31], vec![7]].concat(),
    ]
    .concat();
    let calls = vec![
        vault::mint_allowance(&contracts.token, &contracts.manager, 1_500_000),
        vault::add_owner(&governed.vault.address, &contracts.house),
        Call { to: contracts.router, value: 3, data: vec![1, 2, 3, 4] },
        Call {
            to: contracts.manager,
            value: 0,
            data: flowbridge_chain::call::release_quarantine(&contracts.house, &contracts.token),
        },
        Call { to: contracts.token, value: 0, data: force },
        Call {
            to: contracts.manager,
            value: 0,
            data: flowbridge_chain::call::release_surplus(&contracts.house),
        },
    ];
    let names = vault::Names::new(&governed.vault.address, None, &[contracts]);
    let words: Vec<String> = calls.iter().map(|call| names.in_words(call)).collect();
    assert!(words[0].starts_with("let the settlement manager of EUR (0x"), "{}", words[0]);
    assert!(words[0].contains("mint 1.500000 EUR of the token of EUR"), "{}", words[0]);
    assert!(words[1].starts_with("make the house wallet of EUR (0x"), "{}", words[1]);
    assert!(words[2].contains("0x01020304, which FlowBridge does not know, with 3 wei"), "{}", words[2]);
    let named = |what: &str, at: &EvmAddress| format!("the {what} of EUR ({at})");
    let (token, manager) =
        (named("token", &contracts.token), named("settlement manager", &contracts.manager));
    let house = named("house wallet", &contracts.house);
    assert_eq!(words[3], format!("send what waits at {manager} for {house} to {token}"));
    let taken = format!("of {token} from {house} by force, for {manager}");
    assert!(words[4].starts_with("take 0.000007 EUR") && words[4].ends_with(&taken), "{}", words[4]);
    assert_eq!(words[5], format!("send what came to {manager} for no payment to {house}"));
    // What is more than its words would say is not put in words.
    let mut padded = calls[0].clone();
    padded.data.push(0);
    assert!(names.in_words(&padded).contains("does not know"));
    let elsewhere = Call { to: contracts.token, ..calls[1].clone() };
    assert!(names.in_words(&elsewhere).contains("does not know"));

    for act in [Act::Operate(calls), Act::Cancel] {
        let motion = governed.motion(act).await;
        let typed = governed.vault.typed_data(&motion);
        let typed: alloy::dyn_abi::TypedData = serde_json::from_value(typed).unwrap();
        assert_eq!(typed.eip712_signing_hash().unwrap().0, governed.vault.digest(&motion));
    }
}
