// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Payment, Reason, Status} from "../src/Payment.sol";
import {PaymentRouter} from "../src/PaymentRouter.sol";
import {Authorization, SettlementManager} from "../src/SettlementManager.sol";
import {TokenizedCash} from "../src/TokenizedCash.sol";
import {Base} from "./Base.sol";
import {Vm} from "./T.sol";

/// @notice What a payment may and may not do on chain, one sentence a test.
contract PaymentsTest is Base {
    function setUp() public {
        deploy();
    }

    function wallets() private view returns (uint256) {
        return token.balanceOf(ALICE) + token.balanceOf(BOB) + token.balanceOf(CAROL) + token.balanceOf(HOUSE);
    }

    function test_bankFundedPaymentIsMintedToItsCreditorAtSettlement() public {
        Payment[] memory batch = one(payment(ALICE, BOB, 250e6, BANK_TO_TOKEN));
        batch[0].fee = 1e6;
        initiate(batch);
        requireStatus(batch[0], Status.Open, "initiated");
        vm.assertEq(token.totalSupply(), 0, "nothing moves at initiation");
        settle(batch, 1);
        requireStatus(batch[0], Status.Settled, "settled");
        vm.assertEq(token.balanceOf(BOB), 249e6, "the creditor gets the rest");
        vm.assertEq(token.balanceOf(HOUSE), 1e6, "the house gets the fee");
        requireConserved(wallets());
    }

    function test_tokenFundedPaymentIsEscrowedThenPaid() public {
        fund(ALICE, 100e6);
        Payment[] memory batch = one(payment(ALICE, BOB, 70e6, TOKEN_TO_TOKEN));
        initiate(batch);
        vm.assertEq(token.balanceOf(ALICE), 30e6, "escrowed at initiation");
        requireConserved(wallets());
        settle(batch, 1);
        vm.assertEq(token.balanceOf(BOB), 70e6, "paid from escrow");
        requireConserved(wallets());
    }

    function test_numberIsUsedOnceWhateverPathItComesBy() public {
        Payment[] memory batch = one(payment(ALICE, BOB, 1e6, BANK_TO_TOKEN));
        initiate(batch);
        Payment[] memory again = new Payment[](2);
        again[0] = payment(ALICE, BOB, 1e6, BANK_TO_TOKEN);
        again[1] = batch[0];
        again[1].amount = 2e6;
        vm.expectRevert(abi.encodeWithSelector(PaymentRouter.PaymentRouter__NumberUsed.selector, batch[0].number));
        initiate(again);
        again[1] = again[0];
        vm.expectRevert(abi.encodeWithSelector(PaymentRouter.PaymentRouter__NumberUsed.selector, again[0].number));
        initiate(again);
    }

    /// @dev Whatever the manager may ask of the router, for a number with neighbours of every standing.
    function test_numbersMoveOnlyWhereTheyMay() public {
        nextNumber = 125;
        Payment[] memory batch = new Payment[](3);
        for (uint256 i = 0; i < 3; ++i) {
            batch[i] = payment(ALICE, BOB, 1e6, BANK_TO_TOKEN);
        }
        initiate(batch);
        settle(batch, 2);
        vm.prank(CANCELLER);
        manager.cancel(batch[2], proofOf(batch, 2));
        uint256 word = router.statusWord(0);
        uint256 start = vm.snapshotState();
        for (uint256 from = 0; from < 4; ++from) {
            uint256 place = 2 * (124 + from);
            vm.assertEq((word >> place) & 3, from, "a number of each standing");
            for (uint256 to = 0; to < 4; ++to) {
                bool lawful = from == to || (from == 1 && to > 1) || (from == 2 && to == 3);
                uint256 next = word - (from << place) + (to << place);
                vm.prank(address(manager));
                (bool done,) = address(router).call(abi.encodeCall(router.setStatusWord, (0, next)));
                vm.assertTrue(done == lawful, "from open to settled or closed, from settled to closed");
                vm.assertEq(router.statusWord(0), lawful ? next : word, "and nothing else changes");
                vm.revertToState(start);
            }
        }
    }

    function test_settlingTwiceSkipsTheSecondTime() public {
        Payment[] memory batch = one(payment(ALICE, BOB, 5e6, BANK_TO_TOKEN));
        initiate(batch);
        settle(batch, 1);
        settle(batch, 1);
        vm.assertEq(token.balanceOf(BOB), 5e6, "paid once");
    }

    function test_cancelledIsNeverSettledAndSettledNeverCancelled() public {
        Payment[] memory batch = new Payment[](2);
        batch[0] = payment(ALICE, BOB, 5e6, BANK_TO_TOKEN);
        batch[1] = payment(ALICE, BOB, 7e6, BANK_TO_TOKEN);
        initiate(batch);
        vm.prank(CANCELLER);
        manager.cancelBatch(batch, picks(1));
        settle(batch, 3);
        requireStatus(batch[0], Status.Closed, "stays cancelled");
        requireStatus(batch[1], Status.Settled, "its neighbour settles");
        vm.prank(CANCELLER);
        manager.cancelBatch(batch, picks(3));
        requireStatus(batch[1], Status.Settled, "stays settled");
        vm.assertEq(token.balanceOf(BOB), 7e6, "only the second is paid");
    }

    function test_settlesStrictlyBeforeExpiryAndExpiresFromItOn() public {
        Payment[] memory batch = one(payment(ALICE, BOB, 5e6, BANK_TO_TOKEN));
        initiate(batch);
        vm.warp(batch[0].expiresAt - 1);
        vm.expectPartialRevert(SettlementManager.SettlementManager__NotExpired.selector);
        manager.expire(batch[0], none());
        vm.warp(batch[0].expiresAt);
        settle(batch, 1);
        requireStatus(batch[0], Status.Open, "too late to settle");
        manager.expire(batch[0], none());
        requireStatus(batch[0], Status.Closed, "anyone may expire it");
    }

    function test_lastInstantBeforeExpirySettles() public {
        Payment[] memory batch = one(payment(ALICE, BOB, 5e6, BANK_TO_TOKEN));
        initiate(batch);
        vm.warp(batch[0].expiresAt - 1);
        settle(batch, 1);
        requireStatus(batch[0], Status.Settled, "in time");
    }

    function test_initiationIsVoidFromItsDeadlineOn() public {
        Payment[] memory batch = one(payment(ALICE, BOB, 5e6, BANK_TO_TOKEN));
        vm.expectRevert(abi.encodeWithSelector(PaymentRouter.PaymentRouter__TooLate.selector, block.timestamp));
        vm.prank(INITIATOR);
        router.initiateBatch(batch, uint64(block.timestamp));
    }

    function test_debtorReclaimsAnExpiredEscrowEvenWhilePaused() public {
        fund(ALICE, 10e6);
        Payment[] memory batch = one(payment(ALICE, BOB, 10e6, TOKEN_TO_TOKEN));
        initiate(batch);
        vm.prank(GUARDIAN);
        manager.pause();
        vm.warp(batch[0].expiresAt - 1);
        vm.expectPartialRevert(SettlementManager.SettlementManager__NotExpired.selector);
        vm.prank(ALICE);
        manager.reclaim(batch[0], none());
        vm.warp(batch[0].expiresAt);
        vm.expectPartialRevert(SettlementManager.SettlementManager__NotDebtor.selector);
        manager.reclaim(batch[0], none());
        vm.prank(ALICE);
        manager.reclaim(batch[0], none());
        vm.assertEq(token.balanceOf(ALICE), 10e6, "all of it");
        vm.expectPartialRevert(SettlementManager.SettlementManager__NotOpen.selector);
        vm.prank(ALICE);
        manager.reclaim(batch[0], none());
        requireConserved(wallets());
    }

    function test_pauseStopsRedemptionButNotExpiry() public {
        Payment[] memory batch = new Payment[](2);
        (batch[0], batch[1]) = (payment(ALICE, BOB, 5e6, BANK_TO_BANK), payment(ALICE, BOB, 7e6, BANK_TO_BANK));
        initiate(batch);
        settle(batch, 1);
        vm.prank(GUARDIAN);
        manager.pause();
        bytes32[] memory proof = proofOf(batch, 0);
        for (uint256 i = 0; i < 3; ++i) {
            vm.expectRevert(SettlementManager.SettlementManager__Paused.selector);
            vm.prank(SETTLER);
            if (i == 0) manager.releaseRedemption(batch[0], proof);
            else if (i == 1) manager.burnRedeemed(batch[0], proof);
            else manager.burnRedeemedBatch(batch, picks(1));
        }
        requireStatus(batch[0], Status.Settled, "waits for its bank");
        vm.warp(batch[1].expiresAt);
        manager.expire(batch[1], proofOf(batch, 1));
        requireStatus(batch[1], Status.Closed, "expired while paused");
        vm.prank(GUARDIAN);
        manager.unpause();
        vm.prank(SETTLER);
        manager.burnRedeemed(batch[0], proof);
        vm.assertEq(token.totalSupply(), 0, "burned once it goes on");
        requireConserved(wallets());
    }

    /// @dev How an old manager is drained: its allowance is zero, and it stays a minter.
    function test_aManagerThatMayMintNoMoreEndsWhatItHolds() public {
        fund(ALICE, 15e6);
        Payment[] memory batch = new Payment[](3);
        batch[0] = payment(ALICE, BOB, 5e6, TOKEN_TO_BANK);
        batch[1] = payment(ALICE, BOB, 4e6, TOKEN_TO_TOKEN);
        batch[2] = payment(ALICE, BOB, 6e6, TOKEN_TO_TOKEN);
        initiate(batch);
        settle(batch, 1);
        token.configureMinter(address(manager), 0);
        settle(batch, 2);
        vm.prank(CANCELLER);
        manager.cancelBatch(batch, picks(4));
        vm.prank(SETTLER);
        manager.burnRedeemedBatch(batch, picks(1));
        vm.assertEq(token.balanceOf(address(manager)), 0, "drained");
        vm.assertEq(token.balanceOf(BOB), 4e6, "paid");
        vm.assertEq(token.balanceOf(ALICE), 6e6, "given back");
        requireConserved(wallets());
    }

    function test_pauseStopsInitiationAndSettlementButNotCancellation() public {
        Payment[] memory batch = new Payment[](2);
        (batch[0], batch[1]) = (payment(ALICE, BOB, 5e6, BANK_TO_TOKEN), payment(ALICE, BOB, 7e6, BANK_TO_TOKEN));
        initiate(batch);
        bytes32[] memory proof = proofOf(batch, 0);
        vm.prank(GUARDIAN);
        manager.pause();
        vm.prank(GUARDIAN);
        router.pause();
        vm.expectRevert(SettlementManager.SettlementManager__Paused.selector);
        settle(batch, 3);
        vm.expectRevert(SettlementManager.SettlementManager__Paused.selector);
        vm.prank(SETTLER);
        manager.settle(batch[0], proof);
        vm.expectRevert(PaymentRouter.PaymentRouter__Paused.selector);
        initiate(one(payment(ALICE, BOB, 5e6, BANK_TO_TOKEN)));
        vm.prank(CANCELLER);
        manager.cancel(batch[0], proof);
        requireStatus(batch[0], Status.Closed, "cancelled while paused");
        vm.prank(CANCELLER);
        manager.cancelBatch(batch, picks(2));
        requireStatus(batch[1], Status.Closed, "and so are many at once");
    }

    function test_unfundedItemIsSetAsideAndItsNeighboursGoOn() public {
        fund(ALICE, 10e6);
        Payment[] memory batch = new Payment[](4);
        batch[0] = payment(ALICE, BOB, 6e6, TOKEN_TO_TOKEN);
        batch[1] = payment(ALICE, BOB, 6e6, TOKEN_TO_TOKEN); // more than is left
        batch[2] = payment(CAROL, BOB, 1e6, TOKEN_TO_TOKEN); // no allowance
        batch[3] = payment(ALICE, BOB, 4e6, TOKEN_TO_TOKEN);
        initiate(batch);
        requireStatus(batch[0], Status.Open, "funded");
        requireStatus(batch[1], Status.Closed, "not funded");
        requireStatus(batch[2], Status.Closed, "not allowed");
        requireStatus(batch[3], Status.Open, "funded");
        requireConserved(wallets());
        token.mint(CAROL, 5);
        vm.prank(CAROL);
        token.approve(address(manager), 3);
        batch[0] = payment(CAROL, BOB, 4, TOKEN_TO_TOKEN);
        batch[1] = payment(CAROL, BOB, 3, TOKEN_TO_TOKEN);
        batch[2] = payment(ALICE, BOB, 1, TOKEN_TO_TOKEN);
        batch[3] = payment(CAROL, BOB, 1, TOKEN_TO_TOKEN);
        initiate(batch);
        requireStatus(batch[0], Status.Closed, "more than is allowed");
        requireStatus(batch[1], Status.Open, "all that is allowed");
        requireStatus(batch[3], Status.Closed, "nothing is allowed any more");
        vm.assertEq(token.balanceOf(CAROL), 2, "the rest is kept");
    }

    function test_debtorsThatStandTogetherAreEscrowedByOneTransferEach() public {
        fund(ALICE, 10e6);
        fund(CAROL, 10e6);
        Payment[] memory batch = new Payment[](6);
        for (uint256 i = 0; i < 6; ++i) {
            batch[i] = payment(i == 2 || i == 3 ? CAROL : ALICE, BOB, 1e6, TOKEN_TO_TOKEN);
        }
        vm.recordLogs();
        initiate(batch);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        (uint256 transfers, uint256 opened) = (0, 0);
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].emitter == address(token)) ++transfers;
            if (logs[i].topics[0] == PaymentRouter.PaymentInitiated.selector) ++opened;
        }
        vm.assertEq(transfers, 3, "one transfer where the debtor changes");
        vm.assertEq(opened, 6, "and one event a payment");
        vm.assertEq(token.balanceOf(ALICE), 6e6, "what its payments add up to");
        vm.assertEq(token.balanceOf(CAROL), 8e6, "what its payments add up to");
        requireConserved(wallets());
    }

    function test_frozenDebtorsAreSetAsideAndTheirNeighboursGoOn() public {
        fund(ALICE, 10e6);
        fund(CAROL, 10e6);
        vm.prank(COMPLIANCE);
        token.setFrozenTokens(CAROL, 8e6);
        vm.prank(COMPLIANCE);
        token.freeze(BOB);
        Payment[] memory batch = new Payment[](6);
        for (uint256 i = 0; i < 6; ++i) {
            batch[i] = payment(i < 2 ? BOB : i < 4 ? CAROL : ALICE, HOUSE, 2e6, TOKEN_TO_TOKEN);
        }
        initiate(batch);
        for (uint256 i = 0; i < 6; ++i) {
            bool funded = i == 2 || i > 3; // CAROL has 2e6 that may move
            requireStatus(batch[i], funded ? Status.Open : Status.Closed, "each by what its debtor may send");
        }
        vm.assertEq(token.balanceOf(CAROL), 8e6, "what is frozen stays");
        vm.assertEq(token.balanceOf(ALICE), 6e6, "the neighbours are escrowed");
        requireConserved(wallets());
    }

    function test_frozenCreditorIsLeftOpenAndItsNeighboursSettle() public {
        Payment[] memory batch = new Payment[](3);
        batch[0] = payment(ALICE, BOB, 1e6, BANK_TO_TOKEN);
        batch[1] = payment(ALICE, CAROL, 2e6, BANK_TO_TOKEN);
        batch[2] = payment(ALICE, BOB, 4e6, BANK_TO_TOKEN);
        initiate(batch);
        vm.prank(COMPLIANCE);
        token.freeze(CAROL);
        settle(batch, 7);
        vm.assertEq(token.balanceOf(BOB), 5e6, "the others are paid");
        requireStatus(batch[1], Status.Open, "set aside, still cancellable");
        vm.prank(COMPLIANCE);
        token.unfreeze(CAROL);
        settle(batch, 7);
        vm.assertEq(token.balanceOf(CAROL), 2e6, "paid once it can receive");
        vm.assertEq(token.balanceOf(BOB), 5e6, "and nobody twice");
    }

    function test_escrowOfAFrozenDebtorWaitsInQuarantine() public {
        fund(ALICE, 3e6);
        Payment[] memory batch = one(payment(ALICE, BOB, 3e6, TOKEN_TO_TOKEN));
        initiate(batch);
        vm.prank(COMPLIANCE);
        token.freeze(ALICE);
        vm.prank(CANCELLER);
        manager.cancel(batch[0], none());
        vm.assertEq(manager.quarantined(ALICE), 3e6, "kept for the debtor");
        requireConserved(wallets());
        vm.prank(COMPLIANCE);
        manager.releaseQuarantine(ALICE, CAROL);
        vm.assertEq(token.balanceOf(CAROL), 3e6, "released by compliance");
        requireConserved(wallets());
    }

    function test_blockedHouseWalletDoesNotStopSettlement() public {
        vm.prank(COMPLIANCE);
        token.freeze(HOUSE);
        Payment[] memory batch = one(payment(ALICE, BOB, 5e6, BANK_TO_TOKEN));
        batch[0].fee = 2e6;
        initiate(batch);
        settle(batch, 1);
        vm.assertEq(token.balanceOf(BOB), 3e6, "the creditor is paid");
        vm.assertEq(manager.quarantined(HOUSE), 2e6, "the fee waits");
        requireConserved(wallets());
        fund(ALICE, 7e6);
        batch = one(payment(ALICE, BOB, 7e6, TOKEN_TO_TOKEN));
        batch[0].fee = 3e6;
        initiate(batch);
        settle(batch, 1);
        vm.assertEq(manager.quarantined(HOUSE), 5e6, "and that out of escrow");
        requireConserved(wallets());
        vm.prank(COMPLIANCE);
        token.unfreeze(HOUSE);
        manager.claimQuarantine(HOUSE);
        vm.assertEq(token.balanceOf(HOUSE), 5e6, "until it can receive");
        requireConserved(wallets());
    }

    function test_nothingIsSentWhereNothingIsToBePaid() public {
        fund(ALICE, 1e6);
        Payment[] memory batch = one(payment(ALICE, BOB, 1e6, TOKEN_TO_BANK));
        initiate(batch);
        vm.recordLogs();
        settle(batch, 1);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i = 0; i < logs.length; ++i) {
            vm.assertTrue(logs[i].emitter != address(token), "what waits for the bank stays where it is");
        }
        vm.prank(GUARDIAN);
        token.pause();
        settle(batch, 1);
        requireStatus(batch[0], Status.Settled, "and a call that pays nobody does not need the token");
    }

    function test_stragglerSettlesByProofOutOfItsBatch() public {
        Payment[] memory batch = new Payment[](5);
        for (uint128 i = 0; i < 5; ++i) {
            batch[i] = payment(ALICE, BOB, 1e6 + i, BANK_TO_TOKEN);
        }
        initiate(batch);
        settle(batch, 0x0f);
        vm.prank(SETTLER);
        manager.settle(batch[4], proofOf(batch, 4));
        vm.assertEq(token.balanceOf(BOB), 5e6 + 10, "all five");
        bytes32[] memory proof = proofOf(batch, 3);
        batch[3].amount += 1;
        vm.expectPartialRevert(SettlementManager.SettlementManager__UnknownBatch.selector);
        vm.prank(SETTLER);
        manager.settle(batch[3], proof);
    }

    function test_batchThatWasNotInitiatedSettlesNothing() public {
        Payment[] memory batch = one(payment(ALICE, BOB, 1e6, BANK_TO_TOKEN));
        vm.expectPartialRevert(SettlementManager.SettlementManager__UnknownBatch.selector);
        settle(batch, 1);
    }

    function test_whatWasNotCommittedToIsUnknownToEveryFunction() public {
        Payment[] memory batch = one(payment(ALICE, BOB, 1e6, BANK_TO_BANK));
        initiate(batch);
        batch[0].amount += 1;
        vm.warp(batch[0].expiresAt);
        for (uint256 i = 0; i < 9; ++i) {
            vm.expectPartialRevert(SettlementManager.SettlementManager__UnknownBatch.selector);
            vm.prank(i < 5 ? SETTLER : i < 7 ? CANCELLER : ALICE);
            if (i == 0) manager.settle(batch[0], none());
            else if (i == 1) manager.settleBatch(batch, picks(1));
            else if (i == 2) manager.burnRedeemed(batch[0], none());
            else if (i == 3) manager.burnRedeemedBatch(batch, picks(1));
            else if (i == 4) manager.releaseRedemption(batch[0], none());
            else if (i == 5) manager.cancel(batch[0], none());
            else if (i == 6) manager.cancelBatch(batch, picks(1));
            else if (i == 7) manager.expire(batch[0], none());
            else manager.reclaim(batch[0], none());
        }
    }

    function test_bankPayoutWaitsInRedemptionUntilBurned() public {
        fund(ALICE, 8e6);
        Payment[] memory batch = one(payment(ALICE, BOB, 8e6, TOKEN_TO_BANK));
        batch[0].fee = 1e6;
        initiate(batch);
        settle(batch, 1);
        vm.assertEq(token.balanceOf(BOB), 0, "never a wallet");
        requireConserved(wallets());
        vm.prank(SETTLER);
        // There is no second payment to pick.
        manager.burnRedeemedBatch(batch, picks(3));
        vm.assertEq(token.totalSupply(), 1e6, "only the fee is left");
        vm.prank(SETTLER);
        manager.burnRedeemed(batch[0], none());
        vm.prank(SETTLER);
        manager.releaseRedemption(batch[0], none());
        vm.assertEq(token.totalSupply(), 1e6, "burned once, never released");
        requireConserved(wallets());
    }

    /// @dev However they are funded, what goes to wallets, waits for banks and is the house's does not hide one another.
    function test_walletsBanksAndTheHouseArePaidByOneCall() public {
        fund(ALICE, 100);
        for (uint8 funding = BANK_TO_TOKEN; funding <= TOKEN_TO_TOKEN; ++funding) {
            Payment[] memory batch = new Payment[](4);
            for (uint8 i = 0; i < 4; ++i) {
                uint8 payout = i % 2 == 0 ? BANK_TO_TOKEN : BANK_TO_BANK;
                batch[i] = payment(ALICE, i < 2 ? BOB : CAROL, 10 * (i + 1), funding | payout);
                batch[i].fee = i + 1;
            }
            initiate(batch);
            uint256 start = vm.snapshotState();
            settle(batch, 15);
            (, uint96 escrowed, uint96 redemption) = manager.held();
            vm.assertEq(escrowed, 0, "nothing is left in escrow");
            vm.assertEq(redemption, 20 - 2 + 40 - 4, "what the banks pay out waits");
            vm.assertEq(token.balanceOf(BOB), 10 - 1, "the first creditor's wallet is paid");
            vm.assertEq(token.balanceOf(CAROL), 30 - 3, "and the second's");
            vm.assertEq(token.balanceOf(HOUSE), 1 + 2 + 3 + 4, "and every fee");
            requireConserved(wallets());
            vm.prank(SETTLER);
            manager.burnRedeemedBatch(batch, picks(2));
            bytes32[] memory proof = proofOf(batch, 3);
            vm.prank(SETTLER);
            manager.releaseRedemption(batch[3], proof);
            vm.assertEq(token.balanceOf(address(manager)), 0, "one bank has paid, the other declined");
            vm.assertEq(token.balanceOf(CAROL), 30 - 3 + 40 - 4, "so that the wallet has it");
            requireConserved(wallets());
            vm.revertToState(start);
        }
    }

    function test_declinedBankPayoutGoesToTheCreditorsWallet() public {
        Payment[] memory batch = one(payment(ALICE, BOB, 8e6, BANK_TO_BANK));
        batch[0].fee = 1e6;
        initiate(batch);
        settle(batch, 1);
        vm.prank(SETTLER);
        manager.releaseRedemption(batch[0], none());
        vm.assertEq(token.balanceOf(BOB), 7e6, "released");
        vm.prank(SETTLER);
        manager.burnRedeemed(batch[0], none());
        vm.assertEq(token.balanceOf(BOB), 7e6, "and not burned");
        requireConserved(wallets());
        batch = one(payment(ALICE, BOB, 8e6, BANK_TO_TOKEN));
        initiate(batch);
        settle(batch, 1);
        for (uint256 i = 0; i < 3; ++i) {
            vm.expectPartialRevert(SettlementManager.SettlementManager__NotRedeemable.selector);
            vm.prank(SETTLER);
            if (i == 0) manager.releaseRedemption(batch[0], none());
            else if (i == 1) manager.burnRedeemed(batch[0], none());
            else manager.burnRedeemedBatch(batch, picks(1));
        }
    }

    /// @dev What the wallet of `key` signs to give the manager that much.
    function authorize(uint256 key, uint256 amount) private view returns (Authorization memory) {
        return authorize(key, amount, block.timestamp - 1, block.timestamp + 60);
    }

    function authorize(uint256 key, uint256 amount, uint256 validAfter, uint256 validBefore)
        private
        view
        returns (Authorization memory a)
    {
        (a.validAfter, a.validBefore, a.nonce) = (validAfter, validBefore, keccak256("nonce"));
        bytes32 digest = keccak256(
            abi.encodePacked(
                hex"1901",
                token.DOMAIN_SEPARATOR(),
                keccak256(
                    abi.encode(
                        keccak256(
                            "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
                        ),
                        vm.addr(key),
                        address(manager),
                        amount,
                        a.validAfter,
                        a.validBefore,
                        a.nonce
                    )
                )
            )
        );
        (a.v, a.r, a.s) = vm.sign(key, digest);
    }

    function test_debtorsSignatureFundsAPaymentWithoutAllowance() public {
        uint256 key = 0xD00D;
        address dora = vm.addr(key);
        address[] memory wallet = new address[](1);
        wallet[0] = dora;
        token.registerWallets(wallet);
        token.mint(dora, 9e6);
        Payment memory p = payment(dora, BOB, 9e6, TOKEN_TO_TOKEN);
        Authorization memory a = authorize(key, 9e6);
        vm.prank(INITIATOR);
        router.initiateWithAuthorization(p, uint64(block.timestamp + 60), a);
        requireStatus(p, Status.Open, "escrowed by signature");
        Payment memory replay = payment(dora, BOB, 9e6, TOKEN_TO_TOKEN);
        token.mint(dora, 9e6);
        vm.prank(INITIATOR);
        router.initiateWithAuthorization(replay, uint64(block.timestamp + 60), a);
        requireStatus(replay, Status.Closed, "a signature serves once");
        vm.prank(SETTLER);
        manager.settle(p, none());
        vm.assertEq(token.balanceOf(BOB), 9e6, "paid like any other");
    }

    function test_initiationBySignatureKeepsEveryRule() public {
        uint256 key = 0xD00D;
        address dora = vm.addr(key);
        address[] memory wallet = new address[](1);
        wallet[0] = dora;
        token.registerWallets(wallet);
        Authorization memory a = authorize(key, 9e6);
        Payment memory p = payment(dora, BOB, 9e6, BANK_TO_TOKEN);
        refusedBySignature(p, a, PaymentRouter.PaymentRouter__MixedFunding.selector);
        initiate(one(p));
        p.terms = TOKEN_TO_TOKEN;
        refusedBySignature(p, a, PaymentRouter.PaymentRouter__NumberUsed.selector);
        p = payment(dora, BOB, 0, TOKEN_TO_TOKEN);
        refusedBySignature(p, a, PaymentRouter.PaymentRouter__InvalidPayment.selector);
        p.amount = 9e6;
        p.expiresAt = uint64(block.timestamp + 90 days + 1);
        refusedBySignature(p, a, PaymentRouter.PaymentRouter__InvalidPayment.selector);
        p.expiresAt = uint64(block.timestamp + 600);
        vm.prank(INITIATOR);
        vm.expectPartialRevert(PaymentRouter.PaymentRouter__TooLate.selector);
        router.initiateWithAuthorization(p, uint64(block.timestamp), a);
        vm.prank(GUARDIAN);
        router.pause();
        refusedBySignature(p, a, PaymentRouter.PaymentRouter__Paused.selector);
        vm.prank(GUARDIAN);
        router.unpause();
        setAsideBySignature(p, a, Reason.NotFunded);
        token.mint(dora, 9e6);
        p = payment(dora, BOB, 8e6, TOKEN_TO_TOKEN);
        setAsideBySignature(p, a, Reason.Unauthorized);
        p = payment(dora, BOB, 9e6, TOKEN_TO_TOKEN);
        setAsideBySignature(p, authorize(key, 9e6, block.timestamp, block.timestamp + 60), Reason.Unauthorized);
        p = payment(dora, BOB, 9e6, TOKEN_TO_TOKEN);
        setAsideBySignature(p, authorize(key, 9e6, 0, block.timestamp), Reason.Unauthorized);
        p = payment(dora, BOB, 9e6, TOKEN_TO_TOKEN);
        setAsideBySignature(p, authorize(0xBAD, 9e6), Reason.Unauthorized);
        vm.prank(COMPLIANCE);
        token.freeze(dora);
        p = payment(dora, BOB, 9e6, TOKEN_TO_TOKEN);
        setAsideBySignature(p, a, Reason.Frozen);
        token.unregisterWallet(dora);
        p = payment(dora, BOB, 9e6, TOKEN_TO_TOKEN);
        setAsideBySignature(p, a, Reason.Unregistered);
        vm.assertEq(token.balanceOf(dora), 9e6, "nothing was taken");
    }

    function refusedBySignature(Payment memory p, Authorization memory a, bytes4 why) private {
        vm.prank(INITIATOR);
        vm.expectPartialRevert(why);
        router.initiateWithAuthorization(p, uint64(block.timestamp + 60), a);
    }

    function setAsideBySignature(Payment memory p, Authorization memory a, Reason why) private {
        (uint64 sequence,,) = manager.held();
        vm.expectEmit(address(router));
        emit PaymentRouter.PaymentSetAside(p.number, p.paymentId, why);
        vm.prank(INITIATOR);
        router.initiateWithAuthorization(p, uint64(block.timestamp + 60), a);
        requireStatus(p, Status.Closed, "set aside");
        (uint64 later,,) = manager.held();
        vm.assertEq(later, sequence + 1, "with a report");
    }

    /// @notice What only one may do, and how everybody else is refused.
    struct Right {
        address holder;
        bytes4 refusal;
        address where;
        bytes what;
    }

    Right[] private rights;

    function right(address holder, address where, bytes memory what) private {
        rights.push(Right(holder, bytes4(keccak256("AccessControlUnauthorizedAccount(address,bytes32)")), where, what));
    }

    /// @dev Every function of router and manager that not everybody may call, by everybody who may call any: done for its holder alone.
    function test_onlyTheRightRoleActs() public {
        listRights();
        address[10] memory callers =
            [INITIATOR, SETTLER, CANCELLER, GUARDIAN, COMPLIANCE, HOUSE, ALICE, address(this), address(router), address(manager)];
        uint256 start = vm.snapshotState();
        for (uint256 i = 0; i < rights.length; ++i) {
            for (uint256 k = 0; k < callers.length; ++k) {
                vm.prank(callers[k]);
                (bool done, bytes memory answer) = rights[i].where.call(rights[i].what);
                vm.assertTrue(done == (callers[k] == rights[i].holder), "the holder of the right, and nobody else");
                if (done) vm.revertToState(start);
                else vm.assertEq(bytes32(bytes4(answer)), bytes32(rights[i].refusal), "refused for who it is");
            }
        }
        vm.expectPartialRevert(TokenizedCash.TokenizedCash__NotMinter.selector);
        vm.prank(ALICE);
        token.mint(ALICE, 1);
    }

    /// @dev One payment is open, the other waits for its bank, so that whoever may act can.
    function listRights() private {
        fund(ALICE, 20);
        Payment[] memory batch = new Payment[](2);
        (batch[0], batch[1]) = (payment(ALICE, BOB, 5, TOKEN_TO_TOKEN), payment(ALICE, BOB, 7, TOKEN_TO_BANK));
        initiate(batch);
        settle(batch, 2);
        (bytes32[] memory proof, bytes32[] memory proofOfSecond) = (proofOf(batch, 0), proofOf(batch, 1));
        Payment memory next = payment(ALICE, BOB, 1, TOKEN_TO_TOKEN);
        Authorization memory a;
        right(INITIATOR, address(router), abi.encodeCall(router.initiateBatch, (one(next), type(uint64).max)));
        right(INITIATOR, address(router), abi.encodeCall(router.initiateWithAuthorization, (next, type(uint64).max, a)));
        right(SETTLER, address(manager), abi.encodeCall(manager.settleBatch, (batch, picks(1))));
        right(SETTLER, address(manager), abi.encodeCall(manager.settle, (batch[0], proof)));
        right(SETTLER, address(manager), abi.encodeCall(manager.burnRedeemedBatch, (batch, picks(2))));
        right(SETTLER, address(manager), abi.encodeCall(manager.burnRedeemed, (batch[1], proofOfSecond)));
        right(SETTLER, address(manager), abi.encodeCall(manager.releaseRedemption, (batch[1], proofOfSecond)));
        right(CANCELLER, address(manager), abi.encodeCall(manager.cancelBatch, (batch, picks(1))));
        right(CANCELLER, address(manager), abi.encodeCall(manager.cancel, (batch[0], proof)));
        right(COMPLIANCE, address(manager), abi.encodeCall(manager.releaseQuarantine, (BOB, BOB)));
        right(COMPLIANCE, address(manager), abi.encodeCall(manager.releaseSurplus, (BOB)));
        right(GUARDIAN, address(router), abi.encodeCall(router.pause, ()));
        right(GUARDIAN, address(router), abi.encodeCall(router.unpause, ()));
        right(GUARDIAN, address(manager), abi.encodeCall(manager.pause, ()));
        right(GUARDIAN, address(manager), abi.encodeCall(manager.unpause, ()));
        bytes4 refusal = SettlementManager.SettlementManager__OnlyRouter.selector;
        bytes memory what = abi.encodeCall(manager.escrow, (ALICE, 1));
        rights.push(Right(address(router), refusal, address(manager), what));
        what = abi.encodeCall(manager.escrowWithAuthorization, (ALICE, 1, a));
        rights.push(Right(address(router), refusal, address(manager), what));
        rights.push(Right(address(router), refusal, address(manager), abi.encodeCall(manager.reportEscrow, ())));
        refusal = PaymentRouter.PaymentRouter__OnlyManager.selector;
        what = abi.encodeCall(router.setStatusWord, (0, router.statusWord(0)));
        rights.push(Right(address(manager), refusal, address(router), what));
    }

    function test_tokensMoveOnlyBetweenRegisteredWalletsInGoodStanding() public {
        fund(ALICE, 5e6);
        address stranger = address(0x57A);
        vm.assertEq(token.detectTransferRestriction(ALICE, stranger, 1), 4, "the code says why");
        vm.expectRevert(abi.encodeWithSelector(TokenizedCash.TokenizedCash__TransferRestricted.selector, 4));
        vm.prank(ALICE);
        token.transfer(stranger, 1);
        vm.prank(COMPLIANCE);
        token.freeze(ALICE);
        vm.expectRevert(abi.encodeWithSelector(TokenizedCash.TokenizedCash__TransferRestricted.selector, 3));
        vm.prank(ALICE);
        token.transfer(BOB, 1);
    }

    function test_mintingBeyondTheAllowanceChangesNothing() public {
        token.configureMinter(address(manager), 1e6);
        Payment[] memory batch = one(payment(ALICE, BOB, 1e6 + 1, BANK_TO_TOKEN));
        initiate(batch);
        vm.expectRevert(
            abi.encodeWithSelector(TokenizedCash.TokenizedCash__MintAllowanceExceeded.selector, 1e6, 1e6 + 1)
        );
        settle(batch, 1);
        requireStatus(batch[0], Status.Open, "still open");
    }

    function test_whatWaitsInQuarantineIsClaimedForItsWalletByAnyone() public {
        fund(ALICE, 3e6);
        Payment[] memory batch = one(payment(ALICE, BOB, 3e6, TOKEN_TO_TOKEN));
        initiate(batch);
        vm.prank(GUARDIAN);
        token.pause();
        vm.warp(batch[0].expiresAt);
        manager.expire(batch[0], none());
        vm.assertEq(manager.quarantined(ALICE), 3e6, "a paused token does not keep a payment from expiring");
        vm.prank(GUARDIAN);
        token.unpause();
        vm.prank(COMPLIANCE);
        token.freeze(ALICE);
        vm.expectRevert(abi.encodeWithSelector(SettlementManager.SettlementManager__WalletBlocked.selector, ALICE));
        manager.claimQuarantine(ALICE);
        vm.prank(COMPLIANCE);
        token.unfreeze(ALICE);
        vm.prank(GUARDIAN);
        manager.pause();
        vm.prank(GUARDIAN);
        router.pause();
        manager.claimQuarantine(ALICE);
        vm.assertEq(token.balanceOf(ALICE), 3e6, "back without us, and while we are paused");
        requireConserved(wallets());
        manager.claimQuarantine(ALICE);
        vm.assertEq(token.balanceOf(ALICE), 3e6, "once");
    }

    function test_whatWaitsForAWalletInGoodStandingGoesToNobodyElse() public {
        fund(ALICE, 3e6);
        Payment[] memory batch = one(payment(ALICE, BOB, 3e6, TOKEN_TO_TOKEN));
        initiate(batch);
        vm.prank(GUARDIAN);
        token.pause();
        vm.prank(CANCELLER);
        manager.cancel(batch[0], none());
        vm.prank(GUARDIAN);
        token.unpause();
        vm.expectRevert(
            abi.encodeWithSelector(SettlementManager.SettlementManager__WalletInGoodStanding.selector, ALICE)
        );
        vm.prank(COMPLIANCE);
        manager.releaseQuarantine(ALICE, CAROL);
        vm.prank(COMPLIANCE);
        manager.releaseQuarantine(ALICE, ALICE);
        vm.assertEq(token.balanceOf(ALICE), 3e6, "where it belongs");
        requireConserved(wallets());
    }

    function test_strayTokensAreReleasedAndEscrowIsNot() public {
        fund(ALICE, 10e6);
        Payment[] memory batch = new Payment[](2);
        batch[0] = payment(ALICE, BOB, 6e6, TOKEN_TO_TOKEN);
        batch[1] = payment(ALICE, BOB, 1e6, TOKEN_TO_BANK);
        initiate(batch);
        settle(batch, 2);
        vm.prank(ALICE);
        token.transfer(address(manager), 3e6);
        vm.prank(COMPLIANCE);
        manager.releaseSurplus(CAROL);
        vm.assertEq(token.balanceOf(CAROL), 3e6, "what came for no payment");
        requireConserved(wallets());
    }

    function test_initiationThatTakesEscrowReportsTheTotals() public {
        fund(ALICE, 10e6);
        Payment[] memory batch = one(payment(ALICE, BOB, 6e6, TOKEN_TO_TOKEN));
        vm.recordLogs();
        initiate(batch);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        uint256 reports;
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].topics[0] != SettlementManager.Totals.selector) continue;
            (,,, uint128 escrowed,) = abi.decode(logs[i].data, (uint64, uint128, uint128, uint128, uint128));
            vm.assertEq(escrowed, 6e6, "what is in escrow");
            ++reports;
        }
        vm.assertEq(reports, 1, "one report");
        vm.expectPartialRevert(SettlementManager.SettlementManager__OnlyRouter.selector);
        manager.reportEscrow();
    }

    function test_noKeyHoldsTwoOfInitiatorSettlerAndCanceller() public {
        (bytes32 initiator, bytes32 settler, bytes32 canceller) =
            (router.INITIATOR_ROLE(), manager.SETTLER_ROLE(), manager.CANCELLER_ROLE());
        address[3] memory holders = [INITIATOR, SETTLER, CANCELLER];
        for (uint256 i = 0; i < 3; ++i) {
            if (i != 0) vm.expectPartialRevert(PaymentRouter.PaymentRouter__RolesNotSeparate.selector);
            router.grantRole(initiator, holders[i]);
            if (i != 1) vm.expectPartialRevert(SettlementManager.SettlementManager__RolesNotSeparate.selector);
            manager.grantRole(settler, holders[i]);
            if (i != 2) vm.expectPartialRevert(SettlementManager.SettlementManager__RolesNotSeparate.selector);
            manager.grantRole(canceller, holders[i]);
        }
    }

    function test_invalidPaymentsAreRefused() public {
        Payment[] memory batch = one(payment(ALICE, BOB, 1e6, BANK_TO_TOKEN));
        for (uint256 i = 0; i < 7; ++i) {
            Payment[] memory wrong = one(batch[0]);
            wrong[0] = Payment(batch[0].number, batch[0].paymentId, ALICE, BOB, 1e6, 0, batch[0].expiresAt, 0);
            if (i == 0) wrong[0].amount = 0;
            if (i == 1) wrong[0].amount = uint128(type(uint96).max) + 1;
            if (i == 2) wrong[0].fee = 1e6 + 1;
            if (i == 3) wrong[0].expiresAt = uint64(block.timestamp);
            if (i == 4) wrong[0].terms = 4;
            if (i == 5) wrong[0].expiresAt = uint64(block.timestamp + 90 days + 1);
            if (i == 6) wrong[0].expiresAt = uint64(block.timestamp - 1);
            vm.expectRevert(
                abi.encodeWithSelector(PaymentRouter.PaymentRouter__InvalidPayment.selector, batch[0].number)
            );
            initiate(wrong);
        }
        batch[0].fee = 1e6;
        batch[0].amount = 1e6;
        batch[0].expiresAt = uint64(block.timestamp + 1);
        initiate(batch);
        requireStatus(batch[0], Status.Open, "a fee may be all of it, and a second is enough");
        batch = one(payment(ALICE, BOB, type(uint96).max, BANK_TO_TOKEN));
        batch[0].expiresAt = uint64(block.timestamp + 90 days);
        initiate(batch);
        requireStatus(batch[0], Status.Open, "as many tokens as there can be, for as long as may be");
    }

    function test_batchesAreOfOneTo500PaymentsFundedTheSameWay() public {
        vm.expectRevert(abi.encodeWithSelector(PaymentRouter.PaymentRouter__BatchSize.selector, 0));
        initiate(new Payment[](0));
        Payment[] memory batch = new Payment[](501);
        vm.expectRevert(abi.encodeWithSelector(PaymentRouter.PaymentRouter__BatchSize.selector, 501));
        initiate(batch);
        batch = new Payment[](500);
        for (uint256 i = 0; i < 500; ++i) {
            batch[i] = payment(ALICE, BOB, 1, BANK_TO_TOKEN);
        }
        initiate(batch);
        settle(batch, 1);
        vm.assertEq(token.balanceOf(BOB), 1, "the largest batch works");
        batch = new Payment[](2);
        batch[0] = payment(ALICE, BOB, 1, BANK_TO_TOKEN);
        batch[1] = payment(ALICE, BOB, 1, TOKEN_TO_TOKEN);
        vm.expectRevert(abi.encodeWithSelector(PaymentRouter.PaymentRouter__MixedFunding.selector, batch[1].number));
        initiate(batch);
    }

    /// @dev Picks and standing come in words of 256 places; neither word says anything of the other's places.
    function test_eachPlaceOfALargeBatchHasItsOwnPickAndStanding() public {
        Payment[] memory batch = new Payment[](300);
        for (uint256 i = 0; i < 300; ++i) {
            batch[i] = payment(ALICE, i == 280 ? CAROL : BOB, uint128(1 + i), BANK_TO_TOKEN);
        }
        initiate(batch);
        vm.prank(COMPLIANCE);
        token.freeze(CAROL);
        // Of the places one word apart, 24 and 280 are both picked, 34 is not and 290 is.
        uint256[] memory words = new uint256[](2);
        (words[0], words[1]) = (1 | 1 << 24 | 1 << 255, 1 | 1 << 24 | 1 << 34);
        vm.prank(SETTLER);
        manager.settleBatch(batch, words);
        uint256 paid;
        for (uint256 i = 0; i < 300; ++i) {
            bool due = i == 0 || i == 24 || i == 255 || i == 256 || i == 290;
            requireStatus(batch[i], due ? Status.Settled : Status.Open, "settled are the picked, but for the frozen creditor's");
            if (due) paid += 1 + i;
        }
        vm.assertEq(token.balanceOf(BOB), paid, "and these are paid");
        (words[0], words[1]) = (0, 1 << 24 | 1 << 34);
        vm.prank(CANCELLER);
        manager.cancelBatch(batch, words);
        requireStatus(batch[280], Status.Closed, "what was set aside can be cancelled at its place");
        requireStatus(batch[290], Status.Settled, "what was settled cannot");
        requireStatus(batch[34], Status.Open, "and nothing else is");
    }

    function test_creditorsThatStandTogetherArePaidByOneTransferEach() public {
        Payment[] memory batch = new Payment[](6);
        for (uint256 i = 0; i < 6; ++i) {
            batch[i] = payment(ALICE, i < 4 ? BOB : CAROL, uint128(10 ** i), BANK_TO_TOKEN);
        }
        initiate(batch);
        vm.recordLogs();
        settle(batch, type(uint256).max);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        (uint256 transfers, uint256 settled) = (0, 0);
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].emitter == address(token)) ++transfers;
            if (logs[i].topics[0] == SettlementManager.PaymentSettled.selector) ++settled;
        }
        vm.assertEq(transfers, 2, "one transfer a creditor");
        vm.assertEq(settled, 6, "and one event a payment");
        vm.assertEq(token.balanceOf(BOB), 1111, "all of it");
        vm.assertEq(token.balanceOf(CAROL), 110000, "all of it");
    }

    function test_guardiansPauseAndUnpause() public {
        vm.prank(GUARDIAN);
        router.pause();
        vm.assertTrue(router.paused(), "router paused");
        vm.prank(GUARDIAN);
        router.unpause();
        vm.prank(GUARDIAN);
        manager.pause();
        vm.assertTrue(manager.paused() && !router.paused(), "manager paused, router not");
        vm.prank(GUARDIAN);
        manager.unpause();
        Payment[] memory batch = one(payment(ALICE, BOB, 1, BANK_TO_TOKEN));
        initiate(batch);
        settle(batch, 1);
        requireStatus(batch[0], Status.Settled, "both work again");
        bytes4 denied = bytes4(keccak256("AccessControlUnauthorizedAccount(address,bytes32)"));
        vm.expectPartialRevert(denied);
        router.pause();
        vm.expectPartialRevert(denied);
        router.unpause();
        vm.expectPartialRevert(denied);
        manager.pause();
        vm.expectPartialRevert(denied);
        manager.unpause();
    }

    function testFuzz_anyPartOfABatchSettlesOnceInAnyOrder(uint256 first, uint256 second, uint8 size, uint8 terms) public {
        uint256 count = 1 + size % 40;
        terms = terms % 4;
        fund(ALICE, 1e12);
        uint256 minted = token.totalSupply();
        Payment[] memory batch = new Payment[](count);
        uint256 expected;
        for (uint256 i = 0; i < count; ++i) {
            nextNumber += uint64(i % 7 == 6 ? 200 : 0); // numbers may skip words
            batch[i] = payment(ALICE, i % 3 == 0 ? CAROL : BOB, uint128(1 + i * i), terms);
            if (((first | second) >> i) & 1 != 0) expected += batch[i].amount;
        }
        initiate(batch);
        settle(batch, first);
        settle(batch, second);
        (, uint96 escrowed, uint96 redemption) = manager.held();
        uint256 paid = token.balanceOf(BOB) + token.balanceOf(CAROL) + redemption;
        vm.assertEq(paid, expected, "each picked payment is paid once");
        if (terms & 1 == 0) vm.assertEq(token.totalSupply(), minted + expected, "minted for it");
        else vm.assertEq(minted, token.balanceOf(ALICE) + escrowed + paid, "out of escrow");
        requireConserved(wallets());
    }

    function testFuzz_everyLeafProvesItsPlace(uint8 size, uint8 which) public {
        uint256 count = 1 + size % 60;
        uint256 i = which % count;
        Payment[] memory batch = new Payment[](count);
        for (uint256 k = 0; k < count; ++k) {
            batch[k] = payment(ALICE, BOB, uint128(1 + k), BANK_TO_TOKEN);
        }
        initiate(batch);
        bytes32[] memory proof = proofOf(batch, i);
        vm.prank(SETTLER);
        manager.settle(batch[i], proof);
        vm.assertEq(token.balanceOf(BOB), 1 + i, "paid by proof");
    }
}
