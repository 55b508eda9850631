// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Call, MultiSigVault} from "../src/MultiSigVault.sol";
import {TokenizedCash} from "../src/TokenizedCash.sol";
import {Base} from "./Base.sol";

/// @notice A vault of three owners of whom two must approve, and their keys.
abstract contract VaultBase is Base {
    MultiSigVault internal vault;
    uint256[] internal keys; // ascending by address
    uint64 internal constant DELAY = 2 days;
    uint128 internal constant PER_DAY = 1000;

    function deployVault() internal {
        deploy();
        for (uint256 key = 0xA1; key < 0xA5; ++key) {
            keys.push(key);
        }
        for (uint256 i = 0; i < keys.length; ++i) {
            for (uint256 k = i + 1; k < keys.length; ++k) {
                if (vm.addr(keys[k]) < vm.addr(keys[i])) (keys[i], keys[k]) = (keys[k], keys[i]);
            }
        }
        address[] memory owners = new address[](3);
        for (uint256 i = 0; i < 3; ++i) {
            owners[i] = vm.addr(keys[2 - i]);
        }
        vault = MultiSigVault(payable(create("MultiSigVault", abi.encode(owners, 2, DELAY))));
        address[] memory wallet = new address[](1);
        wallet[0] = address(vault);
        token.registerWallets(wallet);
        token.mint(address(vault), 1e9);
        perform(toSelf(abi.encodeCall(vault.setLimit, (address(token), PER_DAY))));
    }

    function toSelf(bytes memory data) internal view returns (Call[] memory calls) {
        return call(address(vault), 0, data);
    }

    function pay(address to, uint256 amount) internal view returns (Call[] memory) {
        return call(address(token), 0, abi.encodeCall(token.transfer, (to, amount)));
    }

    function call(address to, uint256 value, bytes memory data) internal pure returns (Call[] memory calls) {
        calls = new Call[](1);
        calls[0] = Call(to, value, data);
    }

    function soon() internal view returns (uint64) {
        return uint64(block.timestamp + 30 days);
    }

    /// @dev Signatures by the keys whose bits are set.
    function signed(bytes32 digest, uint256 who) internal view returns (bytes[] memory signatures) {
        uint256 count;
        for (uint256 i = 0; i < keys.length; ++i) {
            count += (who >> i) & 1;
        }
        signatures = new bytes[](count);
        count = 0;
        for (uint256 i = 0; i < keys.length; ++i) {
            if ((who >> i) & 1 == 0) continue;
            signatures[count++] = sign(keys[i], digest);
        }
    }

    function sign(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    function approvals(Call[] memory calls, uint256 who) internal view returns (bytes[] memory) {
        return signed(vault.digestOf(vault.nonce(), soon(), calls), who);
    }

    /// @dev Schedules, waits and executes.
    function perform(Call[] memory calls) internal {
        uint64 deadline = soon();
        bytes[] memory signatures = approvals(calls, 3);
        vault.schedule(calls, deadline, signatures);
        vm.warp(block.timestamp + DELAY);
        vault.execute(calls, deadline, signatures);
    }
}

/// @notice A token that answers false, and one that calls its sender back.
contract Awkward {
    MultiSigVault private immutable vault;
    bytes private again;

    constructor(MultiSigVault vault_) {
        vault = vault_;
    }

    function transfer(address, uint256) external pure returns (bool) {
        return false;
    }

    function prepare(bytes calldata again_) external {
        again = again_;
    }

    receive() external payable {}

    fallback() external payable {
        (bool done, bytes memory answer) = address(vault).call(again);
        require(done, string(answer));
    }
}

/// @notice Answers zero to everything.
contract Zero {
    fallback() external payable {
        assembly ("memory-safe") {
            mstore(0, 0)
            return(0, 32)
        }
    }
}

/// @notice What the vault does and refuses, one sentence a test.
contract VaultTest is VaultBase {
    bytes4 private constant NOT_AN_OWNER = MultiSigVault.MultiSigVault__NotAnOwnerOrOutOfOrder.selector;
    bytes4 private constant INVALID = MultiSigVault.MultiSigVault__InvalidSettings.selector;
    bytes4 private constant NOT_SCHEDULED = MultiSigVault.MultiSigVault__NotScheduled.selector;

    function setUp() public {
        deployVault();
    }

    function test_enoughOwnersPayWithinTheDailyLimitAtOnce() public {
        Call[] memory calls = pay(BOB, PER_DAY);
        vault.execute(calls, soon(), approvals(calls, 5));
        vm.assertEq(token.balanceOf(BOB), PER_DAY, "paid");
        vm.assertEq(vault.nonce(), 2, "one nonce further");
    }

    function test_fewerOwnersThanNeededDoNothing() public {
        Call[] memory calls = pay(BOB, 1);
        bytes[] memory one_ = approvals(calls, 1);
        vm.expectRevert(abi.encodeWithSelector(MultiSigVault.MultiSigVault__NotEnoughApprovals.selector, 1, 2));
        vault.execute(calls, soon(), one_);
        vm.expectPartialRevert(MultiSigVault.MultiSigVault__NotEnoughApprovals.selector);
        vault.schedule(calls, soon(), one_);
        vm.expectPartialRevert(MultiSigVault.MultiSigVault__NotEnoughApprovals.selector);
        vault.cancel(soon(), new bytes[](0));
    }

    function test_anOwnerCountsOnceAndAStrangerNever() public {
        Call[] memory calls = pay(BOB, 1);
        bytes[] memory twice = new bytes[](2);
        twice[0] = approvals(calls, 1)[0];
        twice[1] = twice[0];
        vm.expectPartialRevert(NOT_AN_OWNER);
        vault.execute(calls, soon(), twice);
        bytes[] memory stranger = approvals(calls, 9);
        vm.expectPartialRevert(NOT_AN_OWNER);
        vault.execute(calls, soon(), stranger);
        bytes[] memory turned = approvals(calls, 3);
        (turned[0], turned[1]) = (turned[1], turned[0]);
        vm.expectPartialRevert(NOT_AN_OWNER);
        vault.execute(calls, soon(), turned);
        bytes[] memory three = approvals(calls, 11);
        vm.expectPartialRevert(NOT_AN_OWNER);
        vault.execute(calls, soon(), three);
        three = approvals(calls, 7);
        vault.execute(calls, soon(), three);
        vm.assertEq(token.balanceOf(BOB), 1, "three may be more than needed");
    }

    function test_aNonceServesOnceAndInOrder() public {
        Call[] memory calls = pay(BOB, 1);
        uint64 deadline = soon();
        bytes[] memory now_ = approvals(calls, 3);
        bytes[] memory later = signed(vault.digestOf(vault.nonce() + 1, deadline, calls), 3);
        vm.expectPartialRevert(NOT_AN_OWNER);
        vault.execute(calls, deadline, later);
        vault.execute(calls, deadline, now_);
        vm.expectPartialRevert(NOT_AN_OWNER);
        vault.execute(calls, deadline, now_);
        vault.execute(calls, deadline, later);
        vm.assertEq(token.balanceOf(BOB), 2, "each once");
    }

    function test_aSignatureCountsForItsVaultAndChainOnly() public {
        Call[] memory calls = pay(BOB, 1);
        bytes[] memory signatures = approvals(calls, 3);
        address[] memory owners = new address[](3);
        for (uint256 i = 0; i < 3; ++i) {
            owners[i] = vm.addr(keys[i]);
        }
        MultiSigVault other = MultiSigVault(payable(create("MultiSigVault", abi.encode(owners, 2, DELAY))));
        vm.assertTrue(
            other.digestOf(1, soon(), calls) != vault.digestOf(1, soon(), calls), "another vault, another digest"
        );
        bytes32 here = vault.digestOf(1, soon(), calls);
        vm.chainId(777);
        vm.assertTrue(vault.digestOf(1, soon(), calls) != here, "another chain, another digest");
        vm.expectPartialRevert(NOT_AN_OWNER);
        vault.execute(calls, soon(), signatures);
    }

    function test_theDigestIsTypedDataOfEveryField() public view {
        Call[] memory calls = new Call[](2);
        calls[0] = Call(BOB, 7, hex"0102");
        calls[1] = Call(CAROL, 0, "");
        bytes32 callType = keccak256("Call(address to,uint256 value,bytes data)");
        bytes32 array = keccak256(
            abi.encodePacked(
                keccak256(abi.encode(callType, BOB, 7, keccak256(hex"0102"))),
                keccak256(abi.encode(callType, CAROL, 0, keccak256("")))
            )
        );
        bytes32 operation = keccak256(
            abi.encode(
                keccak256(
                    "Operation(uint256 nonce,uint64 deadline,Call[] calls)Call(address to,uint256 value,bytes data)"
                ),
                5,
                6,
                array
            )
        );
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("FlowBridge MultiSigVault"),
                keccak256("1"),
                block.chainid,
                address(vault)
            )
        );
        vm.assertEq(
            vault.digestOf(5, 6, calls), keccak256(abi.encodePacked(hex"1901", domain, operation)), "as EIP-712 says"
        );
        bytes32 cancellation =
            keccak256(abi.encode(keccak256("Cancellation(uint256 nonce,uint64 deadline)"), 5, 6));
        vm.assertEq(
            vault.cancellationDigestOf(5, 6),
            keccak256(abi.encodePacked(hex"1901", domain, cancellation)),
            "and for cancellations"
        );
    }

    function test_approvalsAreVoidFromTheirDeadlineOn() public {
        Call[] memory calls = pay(BOB, 1);
        uint64 deadline = uint64(block.timestamp + 60);
        bytes[] memory signatures = signed(vault.digestOf(1, deadline, calls), 3);
        vm.warp(deadline);
        vm.expectRevert(abi.encodeWithSelector(MultiSigVault.MultiSigVault__TooLate.selector, deadline));
        vault.execute(calls, deadline, signatures);
        vm.warp(deadline - 1);
        vault.execute(calls, deadline, signatures);
        vm.assertEq(token.balanceOf(BOB), 1, "in time");
    }

    function test_aboveTheDailyLimitAnOperationWaits() public {
        Call[] memory calls = pay(BOB, PER_DAY + 1);
        uint64 deadline = soon();
        bytes[] memory signatures = approvals(calls, 3);
        vm.expectPartialRevert(NOT_SCHEDULED);
        vault.execute(calls, deadline, signatures);
        vault.schedule(calls, deadline, signatures);
        vm.assertEq(vault.readyAt(), block.timestamp + DELAY, "ready after the delay");
        vm.expectPartialRevert(MultiSigVault.MultiSigVault__AlreadyScheduled.selector);
        vault.schedule(calls, deadline, signatures);
        Call[] memory small = pay(BOB, 1);
        bytes[] memory forSmall = signed(vault.digestOf(1, deadline, small), 3);
        vm.expectPartialRevert(NOT_SCHEDULED);
        vault.execute(small, deadline, forSmall);
        vm.warp(vault.readyAt() - 1);
        vm.expectPartialRevert(MultiSigVault.MultiSigVault__NotReady.selector);
        vault.execute(calls, deadline, signatures);
        vm.warp(vault.readyAt());
        vault.execute(calls, deadline, signatures);
        vm.assertEq(token.balanceOf(BOB), PER_DAY + 1, "after the delay");
        vm.assertEq(vault.scheduled(), 0, "nothing waits any more");
        vm.assertEq(vault.readyAt(), 0, "nothing waits any more");
    }

    /// @dev Whoever sees the signatures can schedule.
    function test_schedulingWhatNeedNotWaitDelaysNothing() public {
        Call[] memory calls = pay(BOB, PER_DAY);
        uint64 deadline = soon();
        bytes[] memory signatures = approvals(calls, 3);
        vm.prank(CAROL);
        vault.schedule(calls, deadline, signatures);
        Call[] memory other = pay(BOB, 1);
        bytes[] memory forOther = signed(vault.digestOf(1, deadline, other), 3);
        vm.expectPartialRevert(NOT_SCHEDULED);
        vault.execute(other, deadline, forOther);
        vault.execute(calls, deadline, signatures);
        vm.assertEq(token.balanceOf(BOB), PER_DAY, "at once");
        vm.assertEq(vault.scheduled(), 0, "nothing waits any more");
        vm.assertEq(vault.readyAt(), 0, "nothing waits any more");
        (,, uint128 spent) = vault.limitOf(address(token));
        vm.assertEq(spent, PER_DAY, "counted");
        calls = pay(BOB, 1);
        deadline = soon();
        signatures = approvals(calls, 3);
        vault.schedule(calls, deadline, signatures);
        vm.expectRevert(abi.encodeWithSelector(MultiSigVault.MultiSigVault__NotReady.selector, vault.readyAt()));
        vault.execute(calls, deadline, signatures);
        vm.warp(vault.readyAt());
        vault.execute(calls, deadline, signatures);
        (,, spent) = vault.limitOf(address(token));
        vm.assertEq(spent, PER_DAY, "what has waited is not of the day's limit");
    }

    function test_whatWouldBeVoidBeforeItsDelayIsOverIsNotScheduled() public {
        Call[] memory calls = pay(BOB, PER_DAY + 1);
        uint64 deadline = uint64(block.timestamp) + DELAY;
        bytes[] memory signatures = signed(vault.digestOf(1, deadline, calls), 3);
        vm.expectRevert(abi.encodeWithSelector(MultiSigVault.MultiSigVault__TooLate.selector, deadline));
        vault.schedule(calls, deadline, signatures);
        signatures = signed(vault.digestOf(1, deadline + 1, calls), 3);
        vault.schedule(calls, deadline + 1, signatures);
        vm.warp(deadline);
        vault.execute(calls, deadline + 1, signatures);
        vm.assertEq(token.balanceOf(BOB), PER_DAY + 1, "in its only second");
    }

    function test_paymentsOfADayAddUpAndTheNextDayBeginsAnew() public {
        vm.warp((block.timestamp / 1 days + 1) * 1 days);
        Call[] memory calls = new Call[](2);
        (calls[0], calls[1]) = (pay(BOB, 400)[0], pay(CAROL, 500)[0]);
        vault.execute(calls, soon(), approvals(calls, 3));
        calls = pay(BOB, 101);
        bytes[] memory signatures = approvals(calls, 3);
        vm.expectPartialRevert(NOT_SCHEDULED);
        vault.execute(calls, soon(), signatures);
        calls = pay(BOB, 100);
        vault.execute(calls, soon(), approvals(calls, 3));
        (, uint64 day, uint128 spent) = vault.limitOf(address(token));
        vm.assertEq(spent, PER_DAY, "all of the day");
        vm.assertEq(day, block.timestamp / 1 days, "of this day");
        vm.warp(block.timestamp + 1 days - 1);
        calls = pay(BOB, 1);
        signatures = approvals(calls, 3);
        vm.expectPartialRevert(NOT_SCHEDULED);
        vault.execute(calls, soon(), signatures);
        vm.warp(block.timestamp + 1);
        calls = pay(BOB, PER_DAY);
        vault.execute(calls, soon(), approvals(calls, 3));
        vm.assertEq(token.balanceOf(BOB), 1500, "a day later");
    }

    function test_onlyTransfersAndCappedAllowancesNeedNotWait() public {
        Call[][] memory all = new Call[][](6);
        all[0] = toSelf(abi.encodeCall(vault.setThreshold, (1)));
        all[1] = call(address(token), 0, abi.encodeCall(token.approve, (BOB, 1)));
        all[2] = call(address(router), 0, abi.encodeCall(token.transfer, (BOB, 0)));
        all[3] = call(address(token), 1, abi.encodeCall(token.transfer, (BOB, 1)));
        all[4] = call(BOB, 0, "");
        all[5] = call(address(token), 0, bytes.concat(abi.encodeCall(token.transfer, (BOB, 1)), hex"00"));
        for (uint256 i = 0; i < all.length; ++i) {
            bytes[] memory signatures = approvals(all[i], 3);
            vm.expectPartialRevert(NOT_SCHEDULED);
            vault.execute(all[i], soon(), signatures);
        }
    }

    function test_oneCallThatMustWaitMakesTheWholeOperationWait() public {
        token.grantRole(token.MINTER_ADMIN_ROLE(), address(vault));
        vm.deal(address(vault), 1);
        Call[] memory settings = new Call[](2);
        settings[0] = toSelf(abi.encodeCall(vault.setMintCap, (address(token), address(manager), 500)))[0];
        settings[1] = toSelf(abi.encodeCall(vault.setLimit, (address(0), 1)))[0];
        perform(settings);
        Call[] memory free = new Call[](3);
        free[0] = pay(BOB, 1)[0];
        free[1] = call(address(token), 0, abi.encodeCall(token.configureMinter, (address(manager), 500)))[0];
        free[2] = call(BOB, 1, "")[0];
        Call[] memory waiting = new Call[](3);
        waiting[0] = pay(BOB, PER_DAY + 1)[0];
        waiting[1] = call(address(token), 0, abi.encodeCall(token.configureMinter, (address(manager), 501)))[0];
        waiting[2] = toSelf(abi.encodeCall(vault.setThreshold, (1)))[0];
        for (uint256 i = 0; i < 9; ++i) {
            Call[] memory calls = new Call[](2);
            (calls[0], calls[1]) = (free[i / 3], waiting[i % 3]);
            waits(calls);
            (calls[0], calls[1]) = (calls[1], calls[0]);
            waits(calls);
        }
        vault.execute(free, soon(), approvals(free, 3));
        vm.assertEq(token.balanceOf(BOB) + BOB.balance, 2, "what need not wait is done at once, of every kind together");
    }

    function waits(Call[] memory calls) private {
        bytes[] memory signatures = approvals(calls, 3);
        vm.expectPartialRevert(NOT_SCHEDULED);
        vault.execute(calls, soon(), signatures);
    }

    function test_mintAllowancesWithinTheirCapAreGrantedAtOnce() public {
        token.grantRole(token.MINTER_ADMIN_ROLE(), address(vault));
        Call[] memory calls = call(address(token), 0, abi.encodeCall(token.configureMinter, (address(manager), 0)));
        bytes[] memory signatures = approvals(calls, 3);
        vm.expectPartialRevert(NOT_SCHEDULED);
        vault.execute(calls, soon(), signatures);
        perform(toSelf(abi.encodeCall(vault.setMintCap, (address(token), address(manager), 500))));
        vm.assertEq(vault.mintCapOf(address(token), address(manager)), 500, "the cap");
        calls = call(address(token), 0, abi.encodeCall(token.configureMinter, (address(manager), 501)));
        signatures = approvals(calls, 3);
        vm.expectPartialRevert(NOT_SCHEDULED);
        vault.execute(calls, soon(), signatures);
        calls = call(address(token), 0, abi.encodeCall(token.configureMinter, (ALICE, 1)));
        signatures = approvals(calls, 3);
        vm.expectPartialRevert(NOT_SCHEDULED);
        vault.execute(calls, soon(), signatures);
        calls = call(address(token), 0, abi.encodeCall(token.configureMinter, (address(manager), 500)));
        vault.execute(calls, soon(), approvals(calls, 3));
        vm.assertEq(token.minterAllowance(address(manager)), 500, "granted");
    }

    function test_coinsHaveALimitOfTheirOwn() public {
        vm.deal(address(this), 10);
        (bool sent,) = address(vault).call{value: 10}("");
        vm.assertTrue(sent, "coins are welcome");
        perform(toSelf(abi.encodeCall(vault.setLimit, (address(0), 6))));
        Call[] memory calls = call(BOB, 6, "");
        vault.execute(calls, soon(), approvals(calls, 3));
        vm.assertEq(BOB.balance, 6, "within the limit");
        calls = call(BOB, 1, "");
        bytes[] memory signatures = approvals(calls, 3);
        vm.expectPartialRevert(NOT_SCHEDULED);
        vault.execute(calls, soon(), signatures);
    }

    function test_allCallsAreMadeOrNone() public {
        Awkward awkward = new Awkward(vault);
        perform(toSelf(abi.encodeCall(vault.setLimit, (address(awkward), 1))));
        Call[2] memory failing = [
            pay(address(0x57A), 1)[0], call(address(awkward), 0, abi.encodeCall(token.transfer, (BOB, 1)))[0]
        ];
        for (uint256 i = 0; i < 2; ++i) {
            for (uint256 place = 0; place < 3; ++place) {
                Call[] memory calls = new Call[](3);
                (calls[0], calls[1], calls[2]) = (pay(BOB, 1)[0], pay(BOB, 1)[0], pay(BOB, 1)[0]);
                calls[place] = failing[i];
                bytes[] memory signatures = approvals(calls, 3);
                vm.expectPartialRevert(MultiSigVault.MultiSigVault__CallFailed.selector);
                vault.execute(calls, soon(), signatures);
                vm.assertEq(token.balanceOf(BOB), 0, "none, whichever fails");
                vm.assertEq(vault.nonce(), 2, "and the nonce is free");
            }
        }
    }

    function test_anOperationDoesNotBeginWithinAnother() public {
        Awkward awkward = new Awkward(vault);
        Call[] memory inner = pay(BOB, 1);
        uint64 deadline = soon();
        awkward.prepare(
            abi.encodeCall(vault.execute, (inner, deadline, signed(vault.digestOf(2, deadline, inner), 3)))
        );
        Call[] memory outer = call(address(awkward), 0, hex"01");
        bytes[] memory signatures = approvals(outer, 3);
        vault.schedule(outer, deadline, signatures);
        vm.warp(vault.readyAt());
        vm.expectPartialRevert(MultiSigVault.MultiSigVault__CallFailed.selector);
        vault.execute(outer, deadline, signatures);
        vm.assertEq(token.balanceOf(BOB), 0, "nothing happened");
    }

    function test_onlyATokenThatAnswersFalseHasRefused() public {
        address zero = address(new Zero());
        perform(call(zero, 0, ""));
        perform(call(zero, 0, hex"a9059c"));
        perform(call(zero, 0, abi.encodePacked(vault.nonce.selector)));
        bytes4[3] memory selectors = [token.transfer.selector, token.transferFrom.selector, token.approve.selector];
        uint256 start = vm.snapshotState();
        for (uint256 i = 0; i < selectors.length; ++i) {
            Call[] memory calls = call(zero, 0, abi.encodePacked(selectors[i]));
            bytes[] memory signatures = approvals(calls, 3);
            uint64 deadline = soon();
            vault.schedule(calls, deadline, signatures);
            vm.warp(block.timestamp + DELAY);
            vm.expectPartialRevert(MultiSigVault.MultiSigVault__CallFailed.selector);
            vault.execute(calls, deadline, signatures);
            vm.revertToState(start);
        }
    }

    function test_everyStepAndEveryChangeIsTold() public {
        address newcomer = vm.addr(keys[3]);
        Call[] memory calls = new Call[](6);
        calls[0] = Call(address(vault), 0, abi.encodeCall(vault.addOwner, (newcomer)));
        calls[1] = Call(address(vault), 0, abi.encodeCall(vault.setThreshold, (3)));
        calls[2] = Call(address(vault), 0, abi.encodeCall(vault.removeOwner, (newcomer)));
        calls[3] = Call(address(vault), 0, abi.encodeCall(vault.setDelay, (7)));
        calls[4] = Call(address(vault), 0, abi.encodeCall(vault.setLimit, (address(token), 8)));
        calls[5] = Call(address(vault), 0, abi.encodeCall(vault.setMintCap, (address(token), newcomer, 9)));
        uint256 nonce = vault.nonce();
        uint64 deadline = soon();
        bytes32 digest = vault.digestOf(nonce, deadline, calls);
        bytes[] memory signatures = signed(digest, 3);
        vm.expectEmit(address(vault));
        emit MultiSigVault.Scheduled(nonce, digest, uint64(block.timestamp) + DELAY);
        vault.schedule(calls, deadline, signatures);
        vm.warp(block.timestamp + DELAY);
        vm.expectEmit(address(vault));
        emit MultiSigVault.Executed(nonce, digest);
        vm.expectEmit(address(vault));
        emit MultiSigVault.OwnerAdded(newcomer);
        vm.expectEmit(address(vault));
        emit MultiSigVault.ThresholdChanged(3);
        vm.expectEmit(address(vault));
        emit MultiSigVault.OwnerRemoved(newcomer);
        vm.expectEmit(address(vault));
        emit MultiSigVault.DelayChanged(7);
        vm.expectEmit(address(vault));
        emit MultiSigVault.LimitChanged(address(token), 8);
        vm.expectEmit(address(vault));
        emit MultiSigVault.MintCapChanged(address(token), newcomer, 9);
        vault.execute(calls, deadline, signatures);
        deadline = soon();
        signatures = signed(vault.cancellationDigestOf(nonce + 1, deadline), 7);
        vm.expectEmit(address(vault));
        emit MultiSigVault.Cancelled(nonce + 1);
        vault.cancel(deadline, signatures);
        vm.deal(address(this), 1);
        vm.expectEmit(address(vault));
        emit MultiSigVault.Received(address(this), 1);
        (bool done,) = address(vault).call{value: 1}("");
        vm.assertTrue(done, "coins are welcome");
    }

    function test_cancellingUsesTheNonceUp() public {
        Call[] memory calls = pay(BOB, PER_DAY + 1);
        uint64 deadline = soon();
        bytes[] memory signatures = approvals(calls, 3);
        vault.schedule(calls, deadline, signatures);
        bytes[] memory dropped = signed(vault.cancellationDigestOf(1, deadline), 6);
        vault.cancel(deadline, dropped);
        vm.assertEq(vault.nonce(), 2, "used up");
        vm.assertEq(vault.scheduled(), 0, "nothing waits");
        vm.assertEq(vault.readyAt(), 0, "nothing waits");
        vm.warp(block.timestamp + DELAY);
        vm.expectPartialRevert(NOT_AN_OWNER);
        vault.execute(calls, deadline, signatures);
        vm.expectPartialRevert(NOT_AN_OWNER);
        vault.cancel(deadline, dropped);
    }

    function test_onlyTheVaultItselfChangesItsSettings() public {
        address owner = vm.addr(keys[0]);
        bytes[] memory all = new bytes[](6);
        all[0] = abi.encodeCall(vault.addOwner, (ALICE));
        all[1] = abi.encodeCall(vault.removeOwner, (owner));
        all[2] = abi.encodeCall(vault.setThreshold, (1));
        all[3] = abi.encodeCall(vault.setDelay, (0));
        all[4] = abi.encodeCall(vault.setLimit, (address(token), type(uint128).max));
        all[5] = abi.encodeCall(vault.setMintCap, (address(token), ALICE, 1));
        for (uint256 i = 0; i < all.length; ++i) {
            vm.prank(owner);
            (bool done, bytes memory answer) = address(vault).call(all[i]);
            vm.assertTrue(!done, "refused");
            vm.assertEq(bytes32(answer), bytes32(MultiSigVault.MultiSigVault__OnlySelf.selector), "to everybody else");
        }
    }

    function test_ownersChangeAndTheirOldSignaturesNoLongerCount() public {
        Call[] memory change = new Call[](3);
        change[0] = toSelf(abi.encodeCall(vault.addOwner, (vm.addr(keys[3]))))[0];
        change[1] = toSelf(abi.encodeCall(vault.removeOwner, (vm.addr(keys[0]))))[0];
        change[2] = toSelf(abi.encodeCall(vault.setThreshold, (3)))[0];
        Call[] memory calls = pay(BOB, 1);
        uint64 deadline = soon();
        bytes[] memory old = signed(vault.digestOf(2, deadline, calls), 7);
        perform(change);
        vm.assertEq(vault.owners(), 3, "one came, one went");
        vm.assertEq(vault.threshold(), 3, "all of them");
        vm.assertTrue(vault.isOwner(vm.addr(keys[3])) && !vault.isOwner(vm.addr(keys[0])), "these");
        vm.expectPartialRevert(NOT_AN_OWNER);
        vault.execute(calls, deadline, old);
        vault.execute(calls, deadline, signed(vault.digestOf(2, deadline, calls), 14));
        vm.assertEq(token.balanceOf(BOB), 1, "by the new owners");
    }

    function test_settingsThatWouldLockTheVaultAreRefused() public {
        refused(abi.encodeCall(vault.addOwner, (address(0))));
        refused(abi.encodeCall(vault.addOwner, (address(vault))));
        refused(abi.encodeCall(vault.addOwner, (vm.addr(keys[0]))));
        refused(abi.encodeCall(vault.removeOwner, (ALICE)));
        refused(abi.encodeCall(vault.setThreshold, (0)));
        refused(abi.encodeCall(vault.setThreshold, (4)));
        refused(abi.encodeCall(vault.setDelay, (30 days + 1)));
        perform(toSelf(abi.encodeCall(vault.setThreshold, (3))));
        vm.prank(address(vault));
        vm.expectRevert(INVALID);
        vault.removeOwner(vm.addr(keys[0]));
        vm.startPrank(address(vault));
        for (uint160 i = 0; i < 29; ++i) {
            vault.addOwner(address(0xF000 + i));
        }
        vm.assertEq(vault.owners(), 32, "as many as there may be");
        vm.expectRevert(INVALID);
        vault.addOwner(address(0xEFFF));
        vault.setDelay(30 days);
        vm.stopPrank();
        vm.assertEq(vault.delay(), 30 days, "the longest delay");
        (bool created,) = address(this).call(abi.encodeCall(this.createVault, (new address[](0), 0)));
        vm.assertTrue(!created, "a vault needs an owner");
    }

    function createVault(address[] calldata owners, uint16 threshold) external returns (address) {
        return create("MultiSigVault", abi.encode(owners, threshold, DELAY));
    }

    function refused(bytes memory data) private {
        vm.prank(address(vault));
        (bool done, bytes memory answer) = address(vault).call(data);
        vm.assertTrue(!done, "refused");
        vm.assertEq(bytes32(answer), bytes32(INVALID), "as it makes no sense");
    }

    /// @dev Whoever signs: it happens exactly if at least two owners, and nobody else, signed what is executed.
    function testFuzz_executionNeedsEnoughOwnersOverExactlyThis(uint8 who, uint8 altered) public {
        who = who % 16;
        altered = altered % 5;
        Call[] memory calls = pay(BOB, 7);
        uint64 deadline = soon();
        uint256 nonce = vault.nonce();
        bytes[] memory signatures = signed(
            vault.digestOf(altered == 1 ? nonce + 1 : nonce, altered == 2 ? deadline - 1 : deadline, calls), who
        );
        if (altered == 3) calls = pay(BOB, 8);
        if (altered == 4) calls = pay(CAROL, 7);
        uint256 count = (who & 1) + ((who >> 1) & 1) + ((who >> 2) & 1);
        bool expected = altered == 0 && who < 8 && count >= 2;
        (bool done,) = address(vault).call(abi.encodeCall(vault.execute, (calls, deadline, signatures)));
        vm.assertTrue(done == expected, "exactly then");
        vm.assertEq(token.balanceOf(BOB), expected ? 7 : 0, "and only this");
        vm.assertEq(vault.nonce(), nonce + (expected ? 1 : 0), "one nonce");
    }
}

/// @notice Owners and strangers at random, with a plain model of what may happen beside.
contract VaultWorld is VaultBase {
    mapping(uint256 nonce => uint256) public timesUsed;
    mapping(uint256 day => uint256) public spentAtOnce;
    uint256 public expectedNonce;
    uint256 public waitingSince;
    bool public surprised;

    constructor() {
        deployVault();
        expectedNonce = vault.nonce();
    }

    function payAtOnce(uint256 amount, uint8 who) external {
        amount = amount % 700;
        attempt(pay(BOB, amount), amount, who % 16);
    }

    /// @dev Somebody schedules what may be done at once.
    function payLittleThoughScheduled(uint256 amount, uint8 who, uint24 wait) external {
        amount = amount % 700;
        Call[] memory calls = pay(BOB, amount);
        uint64 deadline = soon();
        bytes[] memory signatures = approvals(calls, who % 16);
        (bool done,) = address(vault).call(abi.encodeCall(vault.schedule, (calls, deadline, signatures)));
        if (done != isEnough(who % 16)) surprised = true;
        if (!done) return;
        wait = wait % uint24(2 * DELAY);
        vm.warp(block.timestamp + wait);
        uint256 day = block.timestamp / 1 days;
        bool atOnce = wait < DELAY;
        (done,) = address(vault).call(abi.encodeCall(vault.execute, (calls, deadline, signatures)));
        if (done != (!atOnce || spentAtOnce[day] + amount <= PER_DAY)) surprised = true;
        if (done && atOnce) spentAtOnce[day] += amount;
        if (done) note();
        else drop();
    }

    function payMuch(uint256 amount, uint8 who, uint24 wait) external {
        Call[] memory calls = pay(BOB, PER_DAY + 1 + amount % 1e5);
        uint64 deadline = soon();
        bytes[] memory signatures = approvals(calls, who % 16);
        bool scheduled = isEnough(who % 16);
        (bool done,) = address(vault).call(abi.encodeCall(vault.schedule, (calls, deadline, signatures)));
        if (done != scheduled) surprised = true;
        if (!done) return;
        vm.warp(block.timestamp + wait % (2 * DELAY));
        (done,) = address(vault).call(abi.encodeCall(vault.execute, (calls, deadline, signatures)));
        if (done != (wait % (2 * DELAY) >= DELAY)) surprised = true;
        if (done) note();
        else drop();
    }

    function changeOwners(uint8 which, bool add) external {
        address owner = vm.addr(keys[which % keys.length]);
        bytes memory data = add ? abi.encodeCall(vault.addOwner, (owner)) : abi.encodeCall(vault.removeOwner, (owner));
        vm.prank(address(vault));
        (bool done,) = address(vault).call(data);
        done;
    }

    function attempt(Call[] memory calls, uint256 amount, uint8 who) private {
        uint256 day = block.timestamp / 1 days;
        bool expected = isEnough(who) && spentAtOnce[day] + amount <= PER_DAY;
        bytes[] memory signatures = approvals(calls, who);
        (bool done,) = address(vault).call(abi.encodeCall(vault.execute, (calls, soon(), signatures)));
        if (done != expected) surprised = true;
        if (!done) return;
        spentAtOnce[day] += amount;
        note();
    }

    function isEnough(uint8 who) private view returns (bool) {
        uint256 count;
        for (uint256 i = 0; i < keys.length; ++i) {
            if ((who >> i) & 1 == 0) continue;
            if (!vault.isOwner(vm.addr(keys[i]))) return false;
            ++count;
        }
        return count >= vault.threshold();
    }

    function drop() private {
        uint256 who;
        for (uint256 i = 0; i < keys.length; ++i) {
            if (vault.isOwner(vm.addr(keys[i]))) who |= 1 << i;
        }
        vault.cancel(soon(), signed(vault.cancellationDigestOf(vault.nonce(), soon()), who));
        note();
    }

    function note() private {
        ++timesUsed[expectedNonce];
        ++expectedNonce;
    }

    function spending() external view returns (uint256, uint256) {
        (, uint64 day, uint128 spent) = vault.limitOf(address(token));
        return (spent, spentAtOnce[day]);
    }

    function settings() external view returns (uint256, uint256, uint256) {
        uint256 count;
        for (uint256 i = 0; i < keys.length; ++i) {
            if (vault.isOwner(vm.addr(keys[i]))) ++count;
        }
        return (count, vault.owners(), vault.threshold());
    }

    function nonce() external view returns (uint256) {
        return vault.nonce();
    }
}

/// @notice Whatever owners and strangers try: it happens exactly when the model says.
contract VaultModelTest is VaultBase {
    VaultWorld private world;

    function setUp() public {
        world = new VaultWorld();
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(world);
    }

    function invariant_theVaultDoesWhatTheModelSays() external view {
        vm.assertTrue(!world.surprised(), "as expected, every time");
        vm.assertEq(world.nonce(), world.expectedNonce(), "one nonce for each that was done");
    }

    function invariant_spendingOfTheDayIsCounted() external view {
        (uint256 counted, uint256 spent) = world.spending();
        vm.assertEq(counted, spent, "what left at once");
        vm.assertTrue(counted <= PER_DAY, "is within the limit");
    }

    function invariant_enoughOwnersForTheThreshold() external view {
        (uint256 owners, uint256 counted, uint256 threshold) = world.settings();
        vm.assertEq(owners, counted, "owners are counted");
        vm.assertTrue(owners >= threshold && threshold > 0, "and are enough");
    }
}
