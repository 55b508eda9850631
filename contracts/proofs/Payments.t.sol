// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Payment, Status} from "../src/Payment.sol";
import {PaymentRouter} from "../src/PaymentRouter.sol";
import {SettlementManager} from "../src/SettlementManager.sol";
import {Proof} from "./Proof.sol";

/// @notice Router, manager and token together, from any state of all three, by any caller.
contract PaymentsProof is Proof {
    function setUp() public {
        deployAll();
        forgetEverything();
    }

    function status(uint64 number) private view returns (Status) {
        return router.statusOf(number);
    }

    /// @dev Committed to, as a batch of one.
    function known(Payment calldata a) private view returns (bool) {
        return router.sequenceOf(keccak256(abi.encode(a))) != 0;
    }

    function one(Payment memory payment) private pure returns (Payment[] memory batch) {
        batch = new Payment[](1);
        batch[0] = payment;
    }

    function two(Payment memory a, Payment memory b) private pure returns (Payment[] memory batch) {
        batch = new Payment[](2);
        (batch[0], batch[1]) = (a, b);
    }

    function picks(uint256 mask) private pure returns (uint256[] memory words) {
        words = new uint256[](1);
        words[0] = mask;
    }

    function none() private pure returns (bytes32[] memory) {
        return new bytes32[](0);
    }

    // ------------------------------------------------------------------------------------------- a number's life

    /// @dev Whatever the manager may ask for, and whoever else asks.
    function check_wordsOnlyMoveOn(address caller, uint256 index, uint256 next, uint64 number) public {
        vm.assume(number / 128 == index);
        uint256 before = uint256(status(number));
        uint256 word = router.statusWord(index);
        vm.prank(caller);
        (bool done,) = address(router).call(abi.encodeCall(router.setStatusWord, (index, next)));
        uint256 later = uint256(status(number));
        bool moved = either(both(before == 1, later >= 2), both(before == 2, later == 3));
        assert(either(later == before, both(moved, both(done, caller == address(manager)))));
        assert(either(!done, router.statusWord(index) == next));
        assert(either(done, router.statusWord(index) == word));
    }

    function reach_wordsMoveOn(address caller, uint256 index, uint256 next, uint64 number) public {
        vm.assume(number / 128 == index);
        uint256 before = uint256(status(number));
        vm.prank(caller);
        router.setStatusWord(index, next);
        assert(uint256(status(number)) == before);
    }

    /// @dev By whatever function of the router, with whatever payments: what was used stays as it is, and only the initiator opens.
    function check_initiationOnlyOpensUnusedNumbers(address caller, Payment calldata a, uint64 number, uint64 before) public {
        uint256 was = uint256(status(number));
        bool may = both(router.hasRole(router.INITIATOR_ROLE(), caller), !router.paused());
        vm.prank(caller);
        (bool done,) = address(router).call(abi.encodeCall(router.initiateBatch, (one(a), before)));
        uint256 later = uint256(status(number));
        bool inTime = both(block.timestamp < a.expiresAt, a.expiresAt <= block.timestamp + router.EXPIRY_MAX());
        may = both(may, both(block.timestamp < before, inTime));
        assert(either(later == was, both(both(was == 0, later != 2), both(may, both(number == a.number, done)))));
        assert(either(!done, either(later != 0, number != a.number)));
    }

    function reach_numbersAreOpened(address caller, Payment calldata a, uint64 before) public {
        uint256 was = uint256(status(a.number));
        vm.prank(caller);
        router.initiateBatch(one(a), before);
        assert(uint256(status(a.number)) == was);
    }

    /// @dev Twice in one batch, or in a batch after any other path: the number is refused.
    function check_aNumberIsUsedOnce(address caller, Payment calldata a, Payment calldata b, uint64 before) public {
        vm.assume(a.terms % 2 == 0 && b.terms % 2 == 0);
        bool used = either(either(status(a.number) != Status.Unused, status(b.number) != Status.Unused), a.number == b.number);
        vm.prank(caller);
        (bool done,) = address(router).call(abi.encodeCall(router.initiateBatch, (two(a, b), before)));
        assert(either(!used, !done));
    }

    function reach_twoNumbersAreOpened(address caller, Payment calldata a, Payment calldata b, uint64 before) public {
        vm.assume(a.terms % 2 == 0 && b.terms % 2 == 0);
        vm.prank(caller);
        router.initiateBatch(two(a, b), before);
        assert(false);
    }

    // ------------------------------------------------------------------------------------------- time and roles

    function check_settledBeforeExpiryByTheSettlerOnly(address caller, Payment calldata a) public {
        uint256 was = uint256(status(a.number));
        bool may = both(manager.hasRole(manager.SETTLER_ROLE(), caller), !manager.paused());
        bool committed = known(a);
        vm.prank(caller);
        (bool done,) = address(manager).call(abi.encodeCall(manager.settle, (a, none())));
        uint256 later = uint256(status(a.number));
        bool settled = both(both(was == 1, later == 2), both(done, block.timestamp < a.expiresAt));
        assert(either(later == was, both(settled, both(may, committed))));
    }

    function reach_paymentsSettle(address caller, Payment calldata a) public {
        uint256 was = uint256(status(a.number));
        vm.prank(caller);
        manager.settle(a, none());
        assert(uint256(status(a.number)) == was);
    }

    function check_expiredFromExpiryOnOnly(address caller, Payment calldata a) public {
        closesExpired(caller, a, abi.encodeCall(manager.expire, (a, none())));
    }

    function check_reclaimedByTheDebtorFromExpiryOnOnly(address caller, Payment calldata a) public {
        if (closesExpired(caller, a, abi.encodeCall(manager.reclaim, (a, none())))) assert(caller == a.debtor);
    }

    function closesExpired(address caller, Payment calldata a, bytes memory data) private returns (bool moved) {
        uint256 was = uint256(status(a.number));
        bool committed = known(a);
        bool done = anyCall(address(manager), caller, data);
        uint256 later = uint256(status(a.number));
        moved = later != was;
        bool lawful = both(both(was == 1, later == 3), both(done, committed));
        assert(either(!moved, both(lawful, block.timestamp >= a.expiresAt)));
    }

    function reach_paymentsExpire(address caller, Payment calldata a, bool reclaim) public {
        uint256 was = uint256(status(a.number));
        vm.prank(caller);
        if (reclaim) manager.reclaim(a, none());
        else manager.expire(a, none());
        assert(uint256(status(a.number)) == was);
    }

    function check_cancelledByTheCancellerOnly(address caller, Payment calldata a) public {
        uint256 was = uint256(status(a.number));
        bool may = both(known(a), manager.hasRole(manager.CANCELLER_ROLE(), caller));
        vm.prank(caller);
        (bool done,) = address(manager).call(abi.encodeCall(manager.cancel, (a, none())));
        uint256 later = uint256(status(a.number));
        assert(either(later == was, both(both(was == 1, later == 3), both(done, may))));
    }

    function reach_paymentsAreCancelled(address caller, Payment calldata a) public {
        uint256 was = uint256(status(a.number));
        vm.prank(caller);
        manager.cancel(a, none());
        assert(uint256(status(a.number)) == was);
    }

    function check_redeemedBySettlerOnly(address caller, Payment calldata a, bool burn) public {
        uint256 was = uint256(status(a.number));
        bool may = both(known(a), both(manager.hasRole(manager.SETTLER_ROLE(), caller), !manager.paused()));
        vm.prank(caller);
        (bool done,) = address(manager).call(
            burn
                ? abi.encodeCall(manager.burnRedeemed, (a, none()))
                : abi.encodeCall(manager.releaseRedemption, (a, none()))
        );
        uint256 later = uint256(status(a.number));
        bool lawful = both(both(was == 2, later == 3), both(done, a.terms & 2 != 0));
        assert(either(later == was, both(lawful, may)));
    }

    function reach_redeemedAreBurned(address caller, Payment calldata a) public {
        uint256 was = uint256(status(a.number));
        vm.prank(caller);
        manager.burnRedeemed(a, none());
        assert(uint256(status(a.number)) == was);
    }

    function reach_redeemedAreReleased(address caller, Payment calldata a) public {
        uint256 was = uint256(status(a.number));
        vm.prank(caller);
        manager.releaseRedemption(a, none());
        assert(uint256(status(a.number)) == was);
    }

    function check_noKeyGetsTwoOfTheThreeRoles(address caller, address account, uint8 which) public {
        bytes32 initiator = router.INITIATOR_ROLE();
        (bytes32 settler, bytes32 canceller) = (manager.SETTLER_ROLE(), manager.CANCELLER_ROLE());
        vm.assume(count(account, initiator, settler, canceller) < 2);
        vm.prank(caller);
        if (which == 0) router.grantRole(initiator, account);
        else if (which == 1) manager.grantRole(settler, account);
        else manager.grantRole(canceller, account);
        assert(count(account, initiator, settler, canceller) < 2);
    }

    function reach_oneOfTheThreeRolesIsGiven(address caller, address account) public {
        bytes32 initiator = router.INITIATOR_ROLE();
        (bytes32 settler, bytes32 canceller) = (manager.SETTLER_ROLE(), manager.CANCELLER_ROLE());
        vm.assume(count(account, initiator, settler, canceller) == 0);
        vm.prank(caller);
        manager.grantRole(settler, account);
        assert(count(account, initiator, settler, canceller) == 0);
    }

    function count(address account, bytes32 initiator, bytes32 settler, bytes32 canceller) private view returns (uint256 sum) {
        (bool a, bool b, bool c) =
            (router.hasRole(initiator, account), manager.hasRole(settler, account), manager.hasRole(canceller, account));
        assembly ("memory-safe") {
            sum := add(a, add(b, c))
        }
    }

    // ------------------------------------------------------------------------------------------- money

    /// @dev What the manager says it holds is there.
    function backed() private view returns (bool) {
        (, uint96 escrowed, uint96 redemption) = manager.held();
        return token.balanceOf(address(manager)) >= uint256(escrowed) + redemption;
    }

    function check_settlementKeepsTheBooksBacked(address caller, Payment calldata a) public {
        vm.assume(backed());
        vm.prank(caller);
        manager.settle(a, none());
        assert(backed());
    }

    function check_undoingKeepsTheBooksBacked(address caller, Payment calldata a, uint8 which) public {
        vm.assume(backed());
        vm.prank(caller);
        if (which == 0) manager.cancel(a, none());
        else if (which == 1) manager.expire(a, none());
        else manager.reclaim(a, none());
        assert(backed());
    }

    function check_redemptionKeepsTheBooksBacked(address caller, Payment calldata a, bool burn) public {
        vm.assume(backed());
        vm.prank(caller);
        if (burn) manager.burnRedeemed(a, none());
        else manager.releaseRedemption(a, none());
        assert(backed());
    }

    function check_quarantineKeepsTheBooksBacked(address caller, address wallet, address to, uint8 which) public {
        vm.assume(backed());
        vm.prank(caller);
        if (which == 0) manager.releaseQuarantine(wallet, to);
        else if (which == 1) manager.claimQuarantine(wallet);
        else manager.releaseSurplus(to);
        assert(backed());
    }

    function booked() private view returns (uint256) {
        (, uint96 escrowed, uint96 redemption) = manager.held();
        return uint256(escrowed) + redemption;
    }

    /// @dev Books that are backed and move, by each of the calls that are said to keep them so.
    function reach_settlementMovesBackedBooks(address caller, Payment calldata a) public {
        vm.assume(backed());
        uint256 before = booked();
        vm.prank(caller);
        manager.settle(a, none());
        assert(booked() == before);
    }

    function reach_undoingMovesBackedBooks(address caller, Payment calldata a) public {
        vm.assume(backed());
        uint256 before = booked();
        vm.prank(caller);
        manager.cancel(a, none());
        assert(booked() == before);
    }

    function reach_redemptionMovesBackedBooks(address caller, Payment calldata a) public {
        vm.assume(backed());
        uint256 before = booked();
        vm.prank(caller);
        manager.burnRedeemed(a, none());
        assert(booked() == before);
    }

    function reach_quarantineMovesBackedBooks(address caller, address wallet) public {
        vm.assume(backed());
        uint256 before = booked();
        vm.prank(caller);
        manager.claimQuarantine(wallet);
        assert(booked() == before);
    }

    function reach_escrowMovesBackedBooks(address caller, Payment calldata a, uint64 before) public {
        vm.assume(backed() && a.debtor != address(manager));
        uint256 had = booked();
        vm.prank(caller);
        router.initiateBatch(one(a), before);
        assert(booked() == had);
    }

    function check_quarantineOfAWalletInGoodStandingGoesNowhereElse(address caller, address wallet, address to) public {
        vm.assume(token.isInGoodStanding(wallet) && to != wallet);
        vm.prank(caller);
        (bool done,) = address(manager).call(abi.encodeCall(manager.releaseQuarantine, (wallet, to)));
        assert(!done);
    }

    function reach_quarantineOfABlockedWalletGoesElsewhere(address caller, address wallet, address to) public {
        vm.assume(to != wallet && manager.quarantined(wallet) != 0);
        vm.prank(caller);
        manager.releaseQuarantine(wallet, to);
        assert(manager.quarantined(wallet) != 0);
    }

    function check_escrowKeepsTheBooksBacked(address caller, Payment calldata a, uint64 before) public {
        vm.assume(backed() && a.debtor != address(manager));
        vm.prank(caller);
        router.initiateBatch(one(a), before);
        assert(backed());
    }

    /// @dev What is settled by this call is paid by it, and what was settled before is not paid again.
    function check_settlementPaysExactlyWhatWasAgreed(Payment calldata a, address other) public {
        address creditor = a.creditor;
        assumeDistinctParties(creditor, other);
        uint256[6] memory had = whatIsWhere(creditor, other);
        bool due = status(a.number) == Status.Open;
        manager.settle(a, none());
        vm.assume(status(a.number) == Status.Settled);
        uint256[6] memory has = whatIsWhere(creditor, other);
        uint256 net = due ? a.amount - a.fee : 0;
        uint256 fee = due ? a.fee : 0;
        bool toWallet = a.terms & 2 == 0;
        assert(has[0] == had[0] + (toWallet ? net : 0) && has[5] == had[5] + (toWallet ? 0 : net));
        assert(has[1] == had[1]);
        assert(has[2] + has[3] == had[2] + had[3] + fee);
        uint256 fromEscrow = a.terms & 1 == 0 ? 0 : net + fee;
        assert(has[4] + fromEscrow + had[3] == had[4] + has[3]);
    }

    function assumeDistinctParties(address creditor, address other) private view {
        vm.assume(creditor != address(manager) && creditor != HOUSE && other != creditor && other != HOUSE);
        vm.assume(other != address(manager) && !token.isRegistered(address(0)));
    }

    /// @dev The creditor's, another's and the house's tokens, what waits for the house, what is in escrow and in redemption.
    function whatIsWhere(address creditor, address other) private view returns (uint256[6] memory) {
        (, uint96 escrowed, uint96 redemption) = manager.held();
        return [
            token.balanceOf(creditor),
            token.balanceOf(other),
            token.balanceOf(HOUSE),
            manager.quarantined(HOUSE),
            escrowed,
            redemption
        ];
    }

    function reach_settlementPays(Payment calldata a, address other) public {
        assumeDistinctParties(a.creditor, other);
        uint256 had = token.balanceOf(a.creditor);
        manager.settle(a, none());
        assert(token.balanceOf(a.creditor) <= had);
    }

    /// @dev Bank-funded, paid to wallets, by any pick: each picked payment that can be settled is paid, once, and no other.
    function check_aBatchOfTwoIsTheSumOfItsParts(uint96 amountA, uint96 amountB, uint64 expiresAt, uint8 mask) public {
        (Payment memory a, Payment memory b) = pair(amountA, amountB, expiresAt);
        (uint256 hadA, uint256 hadB) = (token.balanceOf(a.creditor), token.balanceOf(b.creditor));
        if (isPayable(a, mask & 1 != 0)) hadA += amountA;
        if (isPayable(b, mask & 2 != 0)) hadB += amountB;
        manager.settleBatch(two(a, b), picks(mask));
        assert(both(token.balanceOf(a.creditor) == hadA, token.balanceOf(b.creditor) == hadB));
    }

    function reach_bothOfTwoArePaid(uint96 amountA, uint96 amountB, uint64 expiresAt) public {
        (Payment memory a, Payment memory b) = pair(amountA, amountB, expiresAt);
        (uint256 hadA, uint256 hadB) = (token.balanceOf(a.creditor), token.balanceOf(b.creditor));
        manager.settleBatch(two(a, b), picks(3));
        assert(either(token.balanceOf(a.creditor) <= hadA, token.balanceOf(b.creditor) <= hadB));
    }

    function pair(uint96 amountA, uint96 amountB, uint64 expiresAt) private pure returns (Payment memory, Payment memory) {
        return (
            Payment(1, "a", address(0xA11CE), address(0xB0B), amountA, 0, expiresAt, 0),
            Payment(2, "b", address(0xA11CE), address(0xCA201), amountB, 0, expiresAt, 0)
        );
    }

    function isPayable(Payment memory a, bool picked) private view returns (bool) {
        bool open = both(status(a.number) == Status.Open, block.timestamp < a.expiresAt);
        return both(picked, both(open, token.isInGoodStanding(a.creditor)));
    }

    /// @dev Whatever is paused and whoever is frozen: the debtor of an open, expired, escrowed payment takes it back without us, or it
    /// waits for nobody but him.
    function check_expiredEscrowIsAlwaysReclaimable(Payment calldata a) public {
        assumeExpiredEscrow(a);
        uint256 had = token.balanceOf(a.debtor) + manager.quarantined(a.debtor);
        vm.prank(a.debtor);
        (bool done,) = address(manager).call(abi.encodeCall(manager.reclaim, (a, none())));
        assert(done);
        assert(status(a.number) == Status.Closed);
        assert(token.balanceOf(a.debtor) + manager.quarantined(a.debtor) == had + a.amount);
    }

    function reach_expiredEscrowIsReclaimed(Payment calldata a) public {
        assumeExpiredEscrow(a);
        uint256 had = token.balanceOf(a.debtor);
        vm.prank(a.debtor);
        manager.reclaim(a, none());
        assert(token.balanceOf(a.debtor) == had);
    }

    function reach_expiredEscrowWaitsForItsDebtor(Payment calldata a) public {
        assumeExpiredEscrow(a);
        uint256 had = manager.quarantined(a.debtor);
        vm.prank(a.debtor);
        manager.reclaim(a, none());
        assert(manager.quarantined(a.debtor) == had);
    }

    function assumeExpiredEscrow(Payment calldata a) private view {
        (uint64 sequence, uint96 escrowed,) = manager.held();
        vm.assume(router.sequenceOf(keccak256(abi.encode(a))) != 0 && status(a.number) == Status.Open);
        vm.assume(a.terms == 1 && block.timestamp >= a.expiresAt && a.debtor != address(manager) && a.debtor != address(0));
        // What holds of every open escrow: it is in the books, and they are backed.
        vm.assume(escrowed >= a.amount && backed());
        vm.assume(manager.quarantined(a.debtor) <= escrowed);
        vm.assume(sequence < type(uint64).max && token.balanceOf(a.debtor) < 1 << 95 && a.amount < 1 << 95);
    }
}
