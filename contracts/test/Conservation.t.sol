// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Payment, Status} from "../src/Payment.sol";
import {SettlementManager} from "../src/SettlementManager.sol";
import {Base} from "./Base.sol";
import {T, Vm} from "./T.sol";

/// @notice Acts at random on behalf of everybody, and keeps books of its own. What a pause stops is refused while it lasts; whatever else
/// is tried here is done.
contract World is Base {
    Payment[][] private batches;
    mapping(uint64 number => uint256) public timesSettled;
    mapping(uint64 number => uint256) public timesUndone;
    uint256 public mintedByHand;
    uint64 public lastSequence;
    bool public sequenceHasGap;
    bool public paidTwice;

    constructor() {
        deploy();
        for (uint256 i = 0; i < 3; ++i) {
            fund([ALICE, BOB, CAROL][i], 1e9);
            mintedByHand += 1e9;
        }
        vm.recordLogs();
    }

    modifier watched() {
        _;
        watch();
    }

    function initiateSome(uint256 seed) external watched {
        Payment[] memory batch = new Payment[](1 + seed % 6);
        uint8 funding = uint8((seed >> 8) % 2);
        for (uint256 i = 0; i < batch.length; ++i) {
            uint256 s = uint256(keccak256(abi.encode(seed, i)));
            uint8 payout = s >> 255 == 0 ? BANK_TO_TOKEN : BANK_TO_BANK;
            batch[i] = payment(wallet(s), wallet(s >> 8), uint128(1 + (s >> 16) % 1e8), funding | payout);
            batch[i].fee = uint128((s >> 64) % batch[i].amount);
        }
        bytes memory data = abi.encodeCall(router.initiateBatch, (batch, uint64(block.timestamp + 60)));
        if (!attempt(INITIATOR, address(router), data, router.paused(), funding == TOKEN_TO_TOKEN)) return;
        batches.push();
        for (uint256 i = 0; i < batch.length; ++i) {
            batches[batches.length - 1].push(batch[i]);
        }
    }

    function settleSome(uint256 seed, uint256 mask) external watched {
        if (batches.length == 0) return;
        bytes memory data = abi.encodeCall(manager.settleBatch, (pick(seed), picks(mask)));
        attempt(SETTLER, address(manager), data, manager.paused(), true);
    }

    /// @dev Refused by the pause of its own contract; what needs the token may be refused by the token's.
    function attempt(address caller, address to, bytes memory data, bool stopped, bool needsToken) private returns (bool done) {
        vm.prank(caller);
        (done,) = to.call(data);
        if (done) vm.assertTrue(!stopped, "nothing that a pause stops is done meanwhile");
        else vm.assertTrue(stopped || (needsToken && token.paused()), "nothing else is refused");
        if (!done) vm.getRecordedLogs(); // what was told and then undone
    }

    function cancelSome(uint256 seed, uint256 mask) external watched {
        if (batches.length == 0) return;
        Payment[] memory batch = pick(seed);
        vm.prank(CANCELLER);
        manager.cancelBatch(batch, picks(mask));
    }

    function expireOrReclaim(uint256 seed, uint256 i, bool reclaim) external watched {
        if (batches.length == 0) return;
        Payment[] memory batch = pick(seed);
        i = i % batch.length;
        if (block.timestamp < batch[i].expiresAt) return;
        bool mayReclaim = reclaim && batch[i].terms & 1 != 0 && status(batch[i]) == Status.Open;
        bytes32[] memory proof = proofOf(batch, i);
        if (mayReclaim) vm.prank(batch[i].debtor);
        if (mayReclaim) manager.reclaim(batch[i], proof);
        else manager.expire(batch[i], proof);
    }

    function redeemSome(uint256 seed, uint256 i, bool burn) external watched {
        if (batches.length == 0) return;
        Payment[] memory batch = pick(seed);
        i = i % batch.length;
        if (batch[i].terms & 2 == 0) return;
        bytes32[] memory proof = proofOf(batch, i);
        bytes memory data = burn
            ? abi.encodeCall(manager.burnRedeemed, (batch[i], proof))
            : abi.encodeCall(manager.releaseRedemption, (batch[i], proof));
        attempt(SETTLER, address(manager), data, manager.paused(), burn);
    }

    function freezeSomebody(uint256 seed, bool frozen) external watched {
        vm.prank(COMPLIANCE);
        if (frozen) token.freeze(walletOrHouse(seed));
        else token.unfreeze(walletOrHouse(seed));
    }

    /// @dev More often on than off, so that money goes on moving.
    function pauseOrGoOn(uint256 seed) external watched {
        bool pause = (seed >> 8) % 3 == 0;
        vm.prank(GUARDIAN);
        if (seed % 3 == 0) pause ? manager.pause() : manager.unpause();
        else if (seed % 3 == 1) pause ? router.pause() : router.unpause();
        else pause ? token.pause() : token.unpause();
    }

    function releaseQuarantine(uint256 seed, bool byItself) external watched {
        (address owner, address to) = (walletOrHouse(seed), walletOrHouse(seed >> 8));
        bool mayReceive = token.isInGoodStanding(owner);
        if (mayReceive) to = owner;
        if (!token.isInGoodStanding(to) || token.paused()) return;
        if (mayReceive && byItself) {
            manager.claimQuarantine(owner);
            return;
        }
        vm.prank(COMPLIANCE);
        manager.releaseQuarantine(owner, to);
    }

    function letTimePass(uint16 secs) external watched {
        vm.warp(block.timestamp + secs % 400);
    }

    // ------------------------------------------------------------------------------------------- what must hold

    function supplyIsAccountedFor() external view {
        uint256 inWallets =
            token.balanceOf(ALICE) + token.balanceOf(BOB) + token.balanceOf(CAROL) + token.balanceOf(HOUSE);
        requireConserved(inWallets);
        (uint128 minted, uint128 burned) = manager.flow();
        vm.assertEq(token.totalSupply(), mintedByHand + minted - burned, "supply is what was minted less what was burned");
    }

    function wallet(uint256 seed) private pure returns (address) {
        return [ALICE, BOB, CAROL][seed % 3];
    }

    function walletOrHouse(uint256 seed) private pure returns (address) {
        return seed % 4 == 3 ? HOUSE : wallet(seed);
    }

    function pick(uint256 seed) private view returns (Payment[] memory) {
        return batches[seed % batches.length];
    }

    /// @dev Reads the events of the call as a watcher would.
    function watch() private {
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].emitter != address(manager)) continue;
            bytes32 topic = logs[i].topics[0];
            if (topic == SettlementManager.Totals.selector) {
                uint64 sequence = uint64(uint256(firstWord(logs[i].data)));
                if (sequence != lastSequence + 1) sequenceHasGap = true;
                lastSequence = sequence;
                continue;
            }
            uint64 number = uint64(uint256(firstWord(logs[i].data)));
            if (topic == SettlementManager.PaymentSettled.selector) ++timesSettled[number];
            else if (topic == SettlementManager.PaymentCancelled.selector) ++timesUndone[number];
            else if (topic == SettlementManager.PaymentReclaimed.selector) ++timesUndone[number];
            if (timesSettled[number] + timesUndone[number] > 1) paidTwice = true;
        }
    }

    function firstWord(bytes memory data) private pure returns (bytes32 word) {
        assembly ("memory-safe") {
            word := mload(add(data, 32))
        }
    }
}

/// @notice Whatever everybody does in whatever order: no token is made or lost, nothing is paid twice, no event is missing.
contract ConservationTest is T {
    World private world;

    function setUp() public {
        world = new World();
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(world);
    }

    function invariant_supplyIsWalletsEscrowAndRedemption() external view {
        world.supplyIsAccountedFor();
    }

    function invariant_nothingIsSettledTwiceOrSettledAndUndone() external view {
        vm.assertTrue(!world.paidTwice(), "each payment ends once");
    }

    function invariant_totalsHaveNoGap() external view {
        vm.assertTrue(!world.sequenceHasGap(), "the sequence is gapless");
    }
}
