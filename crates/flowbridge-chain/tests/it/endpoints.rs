//! Several ways to one node, of which some are spoiled.

use crate::node::Node;
use flowbridge_chain::endpoints::Health;
use flowbridge_chain::{
    At, Bearer, Chain as _, ChainError, EndpointConfig, EndpointSettings, Endpoints, HttpChain,
};
use flowbridge_embedded::shim::{Shim, Weather};
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const SETTINGS: EndpointSettings = EndpointSettings {
    chain_id: 31337,
    timeout: Duration::from_millis(1_000),
    look_interval: Duration::from_millis(100),
    behind_max: Duration::from_secs(1),
};
const PATIENCE: Duration = Duration::from_secs(20);

/// Ways to the node, and its client over all of them.
struct Ways {
    shims: Vec<Shim>,
    endpoints: Arc<Endpoints>,
    chain: HttpChain,
}

impl Ways {
    async fn to(node: &Node, count: usize) -> Self {
        let mut shims = Vec::new();
        for _ in 0..count {
            shims.push(Shim::start(&node.anvil.rpc_url(), None).await.unwrap());
        }
        let endpoints = Endpoints::connect(&configs(&shims), SETTINGS).await.unwrap();
        Self { shims, chain: HttpChain::over(endpoints.clone()), endpoints }
    }

    fn health(&self, place: usize) -> Health {
        self.endpoints.health()[place].1.clone()
    }

    /// Looks until an endpoint is as expected.
    async fn look_until(&self, place: usize, expected: impl Fn(&Health) -> bool) {
        let found = tokio::time::timeout(PATIENCE, async {
            while !expected(&self.health(place)) {
                self.endpoints.look().await;
                tokio::time::sleep(SETTINGS.look_interval).await;
            }
        });
        assert!(found.await.is_ok(), "it is {:?}", self.health(place));
    }
}

fn configs(shims: &[Shim]) -> Vec<EndpointConfig> {
    let named = shims.iter().enumerate();
    named.map(|(n, shim)| EndpointConfig { name: format!("way {n}"), url: shim.url(), token: None }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_fails_is_left_within_three_seconds_and_taken_back_when_it_answers() {
    let node = Node::start().await;
    let ways = Ways::to(&node, 2).await;
    for weather in [Weather::Stall, Weather::Cut] {
        ways.shims[0].set(weather);
        let began = Instant::now();
        assert!(ways.chain.block(At::Latest).await.unwrap().is_some());
        assert!(began.elapsed() < Duration::from_secs(3), "{weather:?} took {:?}", began.elapsed());
        let asked = ways.shims[0].questions();
        ways.chain.block(At::Latest).await.unwrap();
        assert_eq!(ways.shims[0].questions(), asked, "it is left alone");
        ways.shims[0].set(Weather::Fair);
        ways.look_until(0, |health| *health == Health::Well).await;
    }
    for shim in &ways.shims {
        shim.set(Weather::Stall);
    }
    assert!(ways.chain.block(At::Latest).await.is_err_and(|error| error.is_retryable()));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_failed_a_while_ago_is_asked_before_one_that_fails_now() {
    let node = Node::start().await;
    let ways = Ways::to(&node, 2).await;
    for shim in &ways.shims {
        shim.set(Weather::Cut);
    }
    let of_many = join_all((0..8).map(|_| ways.chain.block(At::Latest))).await;
    assert!(of_many.iter().all(Result::is_err), "nobody answers: {of_many:?}");
    // The first answers again; the second does, too, and nobody knows.
    ways.shims[0].set(Weather::Fair);
    ways.chain.block(At::Latest).await.unwrap();
    ways.shims[1].set(Weather::Fair);
    ways.shims[0].set(Weather::Cut);
    let pinned = async || ways.chain.pinned().unwrap().block(At::Latest).await;
    pinned().await.unwrap_err();
    pinned().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_whose_answers_make_no_sense_is_left_for_another() {
    let node = Node::start().await;
    let ways = Ways::to(&node, 2).await;
    ways.chain.block(At::Latest).await.unwrap();
    ways.shims[0].set(Weather::Nonsense);
    let pinned = ways.chain.pinned().unwrap();
    let error = pinned.block(At::Latest).await.unwrap_err();
    assert!(matches!(error, ChainError::Unreadable(_)), "{error}");
    let other = ways.chain.pinned().unwrap();
    assert!(other.block(At::Latest).await.unwrap().is_some(), "whoever is asked next is another one");
    ways.shims[0].set(Weather::Fair);
    ways.look_until(0, |health| *health == Health::Well).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_limits_us_is_not_asked_before_it_said_so() {
    let node = Node::start().await;
    let ways = Ways::to(&node, 2).await;
    ways.shims[0].set(Weather::Limited(60));
    ways.chain.block(At::Latest).await.unwrap();
    let asked = ways.shims[0].questions();
    for _ in 0..5 {
        ways.chain.block(At::Latest).await.unwrap();
        ways.endpoints.look().await;
    }
    assert_eq!(ways.shims[0].questions(), asked);
    ways.shims[1].set(Weather::Limited(60));
    let _ = ways.chain.block(At::Latest).await;
    let limited = ways.chain.block(At::Latest).await;
    assert!(
        matches!(limited, Err(ChainError::Limited(pause)) if pause > Duration::from_secs(50)),
        "{limited:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_stopped_following_the_chain_is_asked_last() {
    let node = Node::start().await;
    let ways = Ways::to(&node, 2).await;
    let head = node.chain.block(At::Latest).await.unwrap().unwrap();
    ways.shims[0].set(Weather::Stale(head.number));
    ways.look_until(0, |health| *health == Health::Behind).await;
    assert!(ways.chain.block(At::Latest).await.unwrap().unwrap().number > head.number);
    ways.shims[1].set(Weather::Cut);
    assert_eq!(
        ways.chain.block(At::Latest).await.unwrap().unwrap().number,
        head.number,
        "better than nobody"
    );
    for shim in &ways.shims {
        shim.set(Weather::Fair);
    }
    ways.look_until(0, |health| *health == Health::Well).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_on_a_fork_of_its_own_is_set_aside() {
    let node = Node::start().await;
    let ways = Ways::to(&node, 3).await;
    ways.shims[0].set(Weather::Fork);
    ways.look_until(0, |health| *health == Health::Alone).await;
    let head = ways.chain.block(At::Number(3)).await.unwrap();
    assert_eq!(head, node.chain.block(At::Number(3)).await.unwrap());
    ways.shims[0].set(Weather::Fair);
    ways.look_until(0, |health| *health == Health::Well).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_that_look_behind_one_on_a_fork_of_its_own_are_followed() {
    let node = Node::start().await;
    let ways = Ways::to(&node, 3).await;
    ways.shims[0].set(Weather::Fork);
    let head = node.chain.block(At::Latest).await.unwrap().unwrap();
    for shim in &ways.shims[1..] {
        shim.set(Weather::Stale(head.number));
    }
    ways.look_until(0, |health| *health == Health::Alone).await;
    for place in [1, 2] {
        ways.look_until(place, |health| *health == Health::Well).await;
    }
    assert_eq!(ways.chain.block(At::Latest).await.unwrap().unwrap().hash, head.hash);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_of_another_chain_is_refused_at_the_start_and_never_asked_later() {
    let node = Node::start().await;
    let ways = Ways::to(&node, 2).await;
    ways.shims[0].set(Weather::OtherChain(1));
    let refused = Endpoints::connect(&configs(&ways.shims), SETTINGS).await;
    assert!(
        matches!(&refused, Err(ChainError::Wrong(why)) if why.contains("way 0") && why.contains("chain 1"))
    );
    // One that is replaced while it is away is asked who it is when it is back.
    ways.shims[0].set(Weather::Stall);
    ways.chain.block(At::Latest).await.unwrap();
    ways.shims[0].set(Weather::OtherChain(1));
    ways.look_until(0, |health| *health == Health::WrongChain(1)).await;
    ways.shims[1].set(Weather::Cut);
    assert!(ways.chain.block(At::Latest).await.is_err(), "rather nobody than another chain");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_a_proxy_does_not_allow_is_asked_elsewhere_or_refused_and_the_endpoint_is_well() {
    let node = Node::start().await;
    let ways = Ways::to(&node, 2).await;
    let token = node.contracts.token;
    ways.shims[0].set(Weather::Forbids("eth_getCode"));
    assert!(!ways.chain.code(&token).await.unwrap().is_empty(), "the other one allows it");
    ways.shims[1].set(Weather::Forbids("eth_getCode"));
    let refused = ways.chain.code(&token).await;
    assert!(matches!(&refused, Err(ChainError::Refused(why)) if why.contains("eth_getCode")), "{refused:?}");
    for shim in &ways.shims {
        shim.set(Weather::Forbids("zks_getBridgehubContract"));
    }
    assert_eq!(ways.chain.has_l1_batches().await, Ok(false), "it is not offered");
    assert_eq!([ways.health(0), ways.health(1)], [Health::Well, Health::Well]);

    // A watcher stays with one endpoint, and can do nothing without logs.
    ways.shims[0].set(Weather::Forbids("eth_getLogs"));
    let watched = async || ways.chain.pinned().unwrap().logs(1, 2, &[token]).await;
    assert_eq!(watched().await.unwrap_err(), ChainError::Forbidden("eth_getLogs"));
    assert!(watched().await.is_ok(), "the next time it takes another");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_wants_a_token_gets_it_and_nobody_else_sees_it() {
    let node = Node::start().await;
    let shim = Shim::start_with(&node.anvil.rpc_url(), None, Some("s3cret")).await.unwrap();
    let config = |token: Option<&str>| EndpointConfig {
        name: "prividium".to_owned(),
        url: shim.url(),
        token: token.map(Bearer::fixed),
    };
    let refused = Endpoints::connect(&[config(Some("guess"))], SETTINGS).await.unwrap_err().to_string();
    assert!(refused.contains("token") && !refused.contains("guess"), "{refused}");
    let endpoints = Endpoints::connect(&[config(Some("s3cret"))], SETTINGS).await.unwrap();
    assert!(!format!("{endpoints:?} {:?}", config(Some("s3cret"))).contains("s3cret"));
    assert!(HttpChain::over(endpoints).block(At::Latest).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_renewed_in_its_file_is_taken_when_the_old_one_is_refused() {
    let node = Node::start().await;
    let shim = Shim::start_with(&node.anvil.rpc_url(), None, Some("the first")).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "the first\n").unwrap();
    let token = Some(Bearer::in_file(file.clone()).unwrap());
    let config = EndpointConfig { name: "prividium".to_owned(), url: shim.url(), token };
    let endpoints = Endpoints::connect(&[config], SETTINGS).await.unwrap();
    let chain = HttpChain::over(endpoints.clone());

    shim.want_token("the second");
    let expired = chain.block(At::Latest).await;
    assert!(matches!(&expired, Err(ChainError::Wrong(why)) if why.contains("token")), "{expired:?}");
    std::fs::write(&file, "").unwrap();
    assert!(chain.block(At::Latest).await.is_err(), "somebody is just writing it");
    std::fs::write(&file, "the second\n").unwrap();
    assert!(chain.block(At::Latest).await.unwrap().is_some(), "without a restart");
    assert_eq!(endpoints.health()[0].1, Health::Well);

    std::fs::write(&file, "the third").unwrap();
    let asked = shim.questions();
    assert!(chain.block(At::Latest).await.unwrap().is_some(), "what is taken is kept");
    assert_eq!(shim.questions(), asked + 1);
}
