// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC7943Fungible} from "../src/IERC7943.sol";
import {Payment, Reason, Status} from "../src/Payment.sol";
import {PaymentRouter} from "../src/PaymentRouter.sol";
import {SettlementManager} from "../src/SettlementManager.sol";
import {TokenizedCash} from "../src/TokenizedCash.sol";
import {Base} from "./Base.sol";
import {Vm} from "./T.sol";

/// @notice Whoever watches from outside knows everything: each step and each change is told, with all that it concerns.
contract EventsTest is Base {
    function setUp() public {
        deploy();
    }

    function single(Payment memory p) private returns (Payment[] memory batch) {
        batch = one(p);
        initiate(batch);
    }

    function test_initiationTellsAllOfAPayment() public {
        Payment memory p = payment(ALICE, BOB, 250, BANK_TO_BANK);
        p.fee = 3;
        vm.expectEmit(address(router));
        emit PaymentRouter.PaymentInitiated(p.number, p.paymentId, ALICE, BOB, 250, 3, p.expiresAt, BANK_TO_BANK);
        vm.expectEmit(address(router));
        emit PaymentRouter.BatchInitiated(1, keccak256(abi.encode(p)), 1);
        initiate(one(p));
        p = payment(ALICE, BOB, 250, TOKEN_TO_TOKEN);
        vm.expectEmit(address(router));
        emit PaymentRouter.PaymentSetAside(p.number, p.paymentId, Reason.NotFunded);
        vm.expectEmit(address(manager));
        emit SettlementManager.Totals(1, 0, 0, 0, 0);
        vm.expectEmit(address(router));
        emit PaymentRouter.BatchInitiated(2, keccak256(abi.encode(p)), 1);
        initiate(one(p));
        vm.prank(COMPLIANCE);
        token.freeze(ALICE);
        setAside(Reason.Frozen);
        token.unregisterWallet(ALICE);
        setAside(Reason.Unregistered);
    }

    function setAside(Reason why) private {
        Payment memory p = payment(ALICE, BOB, 250, TOKEN_TO_TOKEN);
        vm.expectEmit(address(router));
        emit PaymentRouter.PaymentSetAside(p.number, p.paymentId, why);
        initiate(one(p));
    }

    function test_settlementTellsWhatWasPaidSkippedAndSetAside() public {
        Payment memory p = payment(ALICE, BOB, 250, BANK_TO_TOKEN);
        p.fee = 3;
        Payment[] memory batch = single(p);
        vm.expectEmit(address(manager));
        emit SettlementManager.PaymentSettled(p.number, p.paymentId);
        vm.expectEmit(address(token));
        emit IERC20.Transfer(address(0), BOB, 247);
        vm.expectEmit(address(token));
        emit IERC20.Transfer(address(0), HOUSE, 3);
        vm.expectEmit(address(manager));
        emit SettlementManager.Totals(1, 250, 0, 0, 0);
        settle(batch, 1);
        vm.expectEmit(address(manager));
        emit SettlementManager.PaymentSkipped(p.number, p.paymentId, Status.Settled);
        vm.expectEmit(address(manager));
        emit SettlementManager.Totals(2, 250, 0, 0, 0);
        settle(batch, 1);
        p = payment(ALICE, BOB, 250, BANK_TO_TOKEN);
        batch = single(p);
        vm.prank(COMPLIANCE);
        token.freeze(BOB);
        vm.expectEmit(address(manager));
        emit SettlementManager.PaymentSetAside(p.number, p.paymentId, Reason.Frozen);
        settle(batch, 1);
        token.unregisterWallet(BOB);
        vm.expectEmit(address(manager));
        emit SettlementManager.PaymentSetAside(p.number, p.paymentId, Reason.Unregistered);
        settle(batch, 1);
        vm.warp(p.expiresAt);
        vm.expectEmit(address(manager));
        emit SettlementManager.PaymentSkipped(p.number, p.paymentId, Status.Open);
        vm.expectEmit(address(manager));
        emit SettlementManager.Totals(5, 250, 0, 0, 0);
        settle(batch, 1);
    }

    function test_everyCallThatMovesMoneyEndsWithTheTotals() public {
        fund(ALICE, 1000);
        Payment[] memory batch = new Payment[](9);
        for (uint256 i = 0; i < 9; ++i) {
            batch[i] = payment(ALICE, BOB, 10, i < 3 ? TOKEN_TO_BANK : TOKEN_TO_TOKEN);
        }
        vm.recordLogs();
        initiate(batch);
        vm.getRecordedLogs();
        vm.prank(SETTLER);
        manager.settle(batch[3], proofOf(batch, 3));
        endsWithTotals(2);
        settle(batch, 7);
        endsWithTotals(3);
        vm.prank(CANCELLER);
        manager.cancel(batch[4], proofOf(batch, 4));
        endsWithTotals(4);
        vm.prank(COMPLIANCE);
        token.freeze(ALICE);
        vm.getRecordedLogs();
        vm.expectEmit(address(manager));
        emit SettlementManager.PaymentCancelled(batch[5].number, batch[5].paymentId, false);
        vm.prank(CANCELLER);
        manager.cancelBatch(batch, picks(1 << 5));
        endsWithTotals(5);
        vm.prank(COMPLIANCE);
        token.unfreeze(ALICE);
        manager.claimQuarantine(ALICE);
        endsWithTotals(6);
        bytes32[] memory proof = proofOf(batch, 0);
        vm.prank(SETTLER);
        manager.burnRedeemed(batch[0], proof);
        endsWithTotals(7);
        vm.prank(SETTLER);
        manager.burnRedeemedBatch(batch, picks(2));
        endsWithTotals(8);
        proof = proofOf(batch, 2);
        vm.prank(SETTLER);
        manager.releaseRedemption(batch[2], proof);
        endsWithTotals(9);
        vm.warp(block.timestamp + 600);
        manager.expire(batch[6], proofOf(batch, 6));
        endsWithTotals(10);
        proof = proofOf(batch, 7);
        vm.prank(ALICE);
        manager.reclaim(batch[7], proof);
        endsWithTotals(11);
    }

    function endsWithTotals(uint64 sequence) private {
        Vm.Log[] memory logs = vm.getRecordedLogs();
        Vm.Log memory last = logs[logs.length - 1];
        vm.assertEq(last.topics[0], SettlementManager.Totals.selector, "the last word");
        (uint64 told,,, uint128 escrowed, uint128 redemption) =
            abi.decode(last.data, (uint64, uint128, uint128, uint128, uint128));
        vm.assertEq(told, sequence, "in its order");
        vm.assertEq(token.balanceOf(address(manager)), uint256(escrowed) + redemption, "and true");
    }

    function test_undoingTellsHow() public {
        fund(ALICE, 1000);
        Payment memory p = payment(ALICE, BOB, 100, TOKEN_TO_TOKEN);
        single(p);
        vm.expectEmit(address(manager));
        emit SettlementManager.PaymentCancelled(p.number, p.paymentId, false);
        vm.expectEmit(address(token));
        emit IERC20.Transfer(address(manager), ALICE, 100);
        vm.prank(CANCELLER);
        manager.cancel(p, none());
        vm.expectEmit(address(manager));
        emit SettlementManager.PaymentSkipped(p.number, p.paymentId, Status.Closed);
        vm.prank(CANCELLER);
        manager.cancel(p, none());
        Payment memory expired = payment(ALICE, BOB, 100, TOKEN_TO_TOKEN);
        single(expired);
        Payment memory reclaimed = payment(ALICE, BOB, 100, TOKEN_TO_TOKEN);
        single(reclaimed);
        vm.warp(block.timestamp + 600);
        vm.expectEmit(address(manager));
        emit SettlementManager.PaymentCancelled(expired.number, expired.paymentId, true);
        manager.expire(expired, none());
        vm.expectEmit(address(manager));
        emit SettlementManager.PaymentReclaimed(reclaimed.number, reclaimed.paymentId);
        vm.prank(ALICE);
        manager.reclaim(reclaimed, none());
    }

    function test_redemptionTellsWhetherTokensWereBurnedOrReleased() public {
        Payment memory p = payment(ALICE, BOB, 100, BANK_TO_BANK);
        p.fee = 1;
        settle(single(p), 1);
        vm.expectEmit(address(manager));
        emit SettlementManager.RedemptionBurned(p.number, p.paymentId, 99);
        vm.expectEmit(address(token));
        emit IERC20.Transfer(address(manager), address(0), 99);
        vm.expectEmit(address(manager));
        emit SettlementManager.Totals(2, 100, 99, 0, 0);
        vm.prank(SETTLER);
        manager.burnRedeemed(p, none());
        vm.expectEmit(address(manager));
        emit SettlementManager.PaymentSkipped(p.number, p.paymentId, Status.Closed);
        vm.prank(SETTLER);
        manager.burnRedeemed(p, none());
        vm.expectEmit(address(manager));
        emit SettlementManager.PaymentSkipped(p.number, p.paymentId, Status.Closed);
        vm.prank(SETTLER);
        manager.releaseRedemption(p, none());
        p = payment(ALICE, BOB, 100, BANK_TO_BANK);
        settle(single(p), 1);
        vm.expectEmit(address(manager));
        emit SettlementManager.RedemptionReleased(p.number, p.paymentId, BOB, 100);
        vm.prank(SETTLER);
        manager.releaseRedemption(p, none());
    }

    function test_whatWaitsInQuarantineAndWhatCameForNoPaymentIsTold() public {
        fund(ALICE, 1000);
        Payment memory p = payment(ALICE, BOB, 100, TOKEN_TO_TOKEN);
        single(p);
        vm.prank(COMPLIANCE);
        token.freeze(ALICE);
        vm.expectEmit(address(manager));
        emit SettlementManager.Quarantined(ALICE, 100);
        vm.expectEmit(address(manager));
        emit SettlementManager.Totals(2, 0, 0, 100, 0);
        vm.prank(CANCELLER);
        manager.cancel(p, none());
        vm.expectEmit(address(manager));
        emit SettlementManager.QuarantineReleased(ALICE, CAROL, 100);
        vm.expectEmit(address(manager));
        emit SettlementManager.Totals(3, 0, 0, 0, 0);
        vm.prank(COMPLIANCE);
        manager.releaseQuarantine(ALICE, CAROL);
        vm.prank(CAROL);
        token.transfer(address(manager), 40);
        vm.expectEmit(address(manager));
        emit SettlementManager.SurplusReleased(BOB, 40);
        vm.expectEmit(address(manager));
        emit SettlementManager.Totals(4, 0, 0, 0, 0);
        vm.prank(COMPLIANCE);
        manager.releaseSurplus(BOB);
        p = payment(ALICE, BOB, 100, BANK_TO_TOKEN);
        p.fee = 2;
        vm.prank(COMPLIANCE);
        token.freeze(HOUSE);
        Payment[] memory batch = single(p);
        vm.expectEmit(address(manager));
        emit SettlementManager.Quarantined(HOUSE, 2);
        settle(batch, 1);
    }

    function test_guardiansActsAreTold() public {
        vm.expectEmit(address(router));
        emit PaymentRouter.Paused(GUARDIAN);
        vm.prank(GUARDIAN);
        router.pause();
        vm.expectEmit(address(router));
        emit PaymentRouter.Unpaused(GUARDIAN);
        vm.prank(GUARDIAN);
        router.unpause();
        vm.expectEmit(address(manager));
        emit SettlementManager.Paused(GUARDIAN);
        vm.prank(GUARDIAN);
        manager.pause();
        vm.expectEmit(address(manager));
        emit SettlementManager.Unpaused(GUARDIAN);
        vm.prank(GUARDIAN);
        manager.unpause();
        vm.expectEmit(address(token));
        emit TokenizedCash.Paused(GUARDIAN);
        vm.prank(GUARDIAN);
        token.pause();
        vm.expectEmit(address(token));
        emit TokenizedCash.Unpaused(GUARDIAN);
        vm.prank(GUARDIAN);
        token.unpause();
    }

    function test_whoMintsAndWhoHoldsIsTold() public {
        (address dave, address erin) = (address(0xDA7E), address(0xE417));
        address[] memory wallets = new address[](1);
        wallets[0] = dave;
        vm.expectEmit(address(token));
        emit TokenizedCash.MinterConfigured(erin, 7);
        token.configureMinter(erin, 7);
        vm.expectEmit(address(token));
        emit TokenizedCash.MinterConfigured(erin, type(uint240).max);
        token.configureMinter(erin, type(uint256).max);
        vm.expectEmit(address(token));
        emit TokenizedCash.MinterRemoved(erin);
        token.removeMinter(erin);
        vm.expectEmit(address(token));
        emit TokenizedCash.WalletRegistered(dave);
        token.registerWallets(wallets);
        vm.expectEmit(address(token));
        emit IERC20.Transfer(address(0), dave, 10);
        token.mint(dave, 10);
        vm.expectEmit(address(token));
        emit IERC20.Transfer(dave, BOB, 1);
        vm.prank(dave);
        token.transfer(BOB, 1);
        vm.expectEmit(address(token));
        emit TokenizedCash.WalletUnregistered(dave);
        token.unregisterWallet(dave);
    }

    function test_freezingAndForcingIsTold() public {
        token.mint(ALICE, 10);
        vm.startPrank(COMPLIANCE);
        vm.expectEmit(address(token));
        emit TokenizedCash.WalletFrozen(ALICE);
        token.freeze(ALICE);
        vm.expectEmit(address(token));
        emit TokenizedCash.WalletUnfrozen(ALICE);
        token.unfreeze(ALICE);
        vm.expectEmit(address(token));
        emit IERC7943Fungible.Frozen(ALICE, type(uint96).max);
        token.setFrozenTokens(ALICE, type(uint256).max);
        vm.expectEmit(address(token));
        emit IERC7943Fungible.Frozen(ALICE, 6);
        vm.expectEmit(address(token));
        emit IERC20.Transfer(ALICE, BOB, 4);
        vm.expectEmit(address(token));
        emit IERC7943Fungible.ForcedTransfer(ALICE, BOB, 4);
        token.forcedTransfer(ALICE, BOB, 4);
        vm.stopPrank();
    }
}
