// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC7943Fungible} from "../src/IERC7943.sol";
import {Payment} from "../src/Payment.sol";
import {TokenizedCash} from "../src/TokenizedCash.sol";
import {Base} from "./Base.sol";
import {Vm} from "./T.sol";

/// @notice The token's own rules: who may hold it, what is frozen, who makes it, and who takes it.
contract TokenTest is Base {
    bytes4 private constant DENIED = bytes4(keccak256("AccessControlUnauthorizedAccount(address,bytes32)"));

    function setUp() public {
        deploy();
    }

    function refused(uint8 code) private {
        vm.expectRevert(abi.encodeWithSelector(TokenizedCash.TokenizedCash__TransferRestricted.selector, code));
    }

    function send(address from, address to, uint256 amount) private {
        vm.prank(from);
        token.transfer(to, amount);
    }

    function test_eachRefusalHasItsCodeAndTheCodeIsWhatTheTransferSays() public {
        fund(ALICE, 10);
        address stranger = address(0x57A);
        vm.assertEq(token.detectTransferRestriction(ALICE, BOB, 10), 0, "allowed");
        vm.assertTrue(token.canTransfer(ALICE, BOB, 10), "allowed");
        send(ALICE, BOB, 0);
        vm.prank(GUARDIAN);
        token.pause();
        check(ALICE, BOB, 10, 1);
        vm.prank(GUARDIAN);
        token.unpause();
        check(stranger, BOB, 0, 2);
        check(ALICE, stranger, 10, 4);
        vm.prank(COMPLIANCE);
        token.freeze(ALICE);
        check(ALICE, BOB, 10, 3);
        check(BOB, ALICE, 0, 5);
        vm.prank(COMPLIANCE);
        token.unfreeze(ALICE);
        vm.assertEq(token.detectTransferRestriction(ALICE, BOB, 11), 6, "not that much");
        vm.expectPartialRevert(bytes4(keccak256("ERC20InsufficientBalance(address,uint256,uint256)")));
        send(ALICE, BOB, 11);
        vm.prank(COMPLIANCE);
        token.setFrozenTokens(ALICE, 4);
        check(ALICE, BOB, 7, 7);
        vm.assertEq(token.availableBalanceOf(ALICE), 6, "the rest is free");
        send(ALICE, BOB, 6);
        token.unregisterWallet(ALICE);
        check(ALICE, BOB, 0, 2);
        for (uint8 code = 0; code < 9; ++code) {
            for (uint8 other = 0; other < code; ++other) {
                vm.assertTrue(keccak256(words(code)) != keccak256(words(other)), "each code has its words");
            }
        }
        vm.assertEq(keccak256(words(8)), keccak256("unknown code"), "and what is no code has none");
        vm.assertEq(keccak256(words(8)), keccak256(words(255)), "and what is no code has none");
    }

    function words(uint8 code) private view returns (bytes memory) {
        return bytes(token.messageForTransferRestriction(code));
    }

    function check(address from, address to, uint256 amount, uint8 code) private {
        vm.assertEq(token.detectTransferRestriction(from, to, amount), code, "the code says why");
        vm.assertTrue(!token.canTransfer(from, to, amount), "and it is refused");
        refused(code);
        send(from, to, amount);
    }

    function test_standingIsRegisteredAndNotFrozen() public {
        address[] memory asked = new address[](300);
        asked[1] = ALICE;
        asked[299] = BOB;
        asked[2] = CAROL;
        vm.prank(COMPLIANCE);
        token.freeze(CAROL);
        uint256[] memory blocked = token.blockedAmong(asked);
        vm.assertEq(blocked.length, 2, "a word for 256 wallets");
        vm.assertEq(blocked[0], type(uint256).max - 2, "all but the one in good standing");
        vm.assertEq(blocked[1], (1 << 43) - 1, "all but the last");
        vm.assertTrue(token.isRegistered(CAROL) && token.isFrozen(CAROL), "registered and frozen");
        vm.assertTrue(!token.canSend(CAROL) && !token.canReceive(CAROL), "may neither send nor receive");
        vm.assertTrue(token.canSend(ALICE) && token.canReceive(ALICE) && !token.isFrozen(ALICE), "may both");
        vm.expectPartialRevert(bytes4(keccak256("ERC20InvalidReceiver(address)")));
        token.registerWallets(new address[](1));
    }

    function test_onlyTheRightRoleGoverns() public {
        address[] memory some = new address[](1);
        some[0] = BOB;
        for (uint256 i = 0; i < 10; ++i) {
            vm.expectPartialRevert(DENIED);
            vm.prank(ALICE);
            if (i == 0) token.configureMinter(ALICE, 1);
            else if (i == 1) token.removeMinter(address(manager));
            else if (i == 2) token.registerWallets(some);
            else if (i == 3) token.unregisterWallet(BOB);
            else if (i == 4) token.freeze(BOB);
            else if (i == 5) token.unfreeze(BOB);
            else if (i == 6) token.setFrozenTokens(BOB, 1);
            else if (i == 7) token.forcedTransfer(BOB, ALICE, 0);
            else if (i == 8) token.pause();
            else token.unpause();
        }
    }

    function test_minterMintsItsAllowanceAndNoMore() public {
        token.configureMinter(ALICE, 10);
        vm.prank(ALICE);
        token.mint(BOB, 4);
        vm.assertEq(token.minterAllowance(ALICE), 6, "what is left");
        (address[] memory to, uint256[] memory amounts) = (new address[](2), new uint256[](2));
        (to[0], to[1], amounts[0], amounts[1]) = (BOB, CAROL, 3, 4);
        vm.expectRevert(abi.encodeWithSelector(TokenizedCash.TokenizedCash__MintAllowanceExceeded.selector, 6, 7));
        vm.prank(ALICE);
        token.mintMany(to, amounts);
        amounts[1] = 3;
        vm.prank(ALICE);
        token.mintMany(to, amounts);
        vm.assertEq(token.balanceOf(BOB), 7, "both");
        vm.assertEq(token.balanceOf(CAROL), 3, "are minted");
        vm.assertEq(token.totalSupply(), 10, "and counted");
        token.configureMinter(ALICE, type(uint256).max);
        vm.assertEq(token.minterAllowance(ALICE), type(uint240).max, "as good as without end");
        token.removeMinter(ALICE);
        vm.assertTrue(!token.isMinter(ALICE) && token.minterAllowance(ALICE) == 0, "removed");
        vm.expectRevert(abi.encodeWithSelector(TokenizedCash.TokenizedCash__NotMinter.selector, ALICE));
        vm.prank(ALICE);
        token.mintMany(to, amounts);
        vm.expectRevert(abi.encodeWithSelector(TokenizedCash.TokenizedCash__NotMinter.selector, ALICE));
        vm.prank(ALICE);
        token.burn(0);
    }

    function test_mintingManyKeepsEveryRule() public {
        (address[] memory to, uint256[] memory amounts) = (new address[](2), new uint256[](2));
        (to[0], to[1], amounts[0], amounts[1]) = (ALICE, address(0x57A), 1, 1);
        refused(4);
        token.mintMany(to, amounts);
        to[1] = BOB;
        vm.prank(COMPLIANCE);
        token.freeze(BOB);
        refused(5);
        token.mintMany(to, amounts);
        vm.prank(COMPLIANCE);
        token.unfreeze(BOB);
        vm.prank(GUARDIAN);
        token.pause();
        refused(1);
        token.mintMany(to, amounts);
        refused(1);
        token.mint(ALICE, 1);
        vm.prank(GUARDIAN);
        token.unpause();
        vm.recordLogs();
        token.mintMany(to, amounts);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        vm.assertEq(logs.length, 2, "an event each");
        vm.assertEq(logs[1].topics[0], keccak256("Transfer(address,address,uint256)"), "a transfer");
        vm.assertEq(logs[1].topics[1], 0, "from nobody");
        vm.assertEq(logs[1].topics[2], bytes32(uint256(uint160(BOB))), "to the second");
        vm.assertEq(uint256(bytes32(logs[1].data)), 1, "of one");
    }

    function test_supplyStaysWithin96Bits() public {
        token.mint(ALICE, type(uint96).max - 1);
        vm.expectRevert(abi.encodeWithSelector(TokenizedCash.TokenizedCash__SupplyExceeded.selector, 2));
        token.mint(BOB, 2);
        (address[] memory to, uint256[] memory amounts) = (new address[](2), new uint256[](2));
        (to[0], to[1], amounts[0], amounts[1]) = (ALICE, BOB, 1, 1);
        vm.expectRevert(abi.encodeWithSelector(TokenizedCash.TokenizedCash__SupplyExceeded.selector, 2));
        token.mintMany(to, amounts);
        amounts[1] = uint256(1) << 96;
        vm.expectRevert(abi.encodeWithSelector(TokenizedCash.TokenizedCash__SupplyExceeded.selector, amounts[1]));
        token.mintMany(to, amounts);
        token.mint(BOB, 1);
        vm.assertEq(token.totalSupply(), type(uint96).max, "all there can be");
    }

    function test_onlyMintersBurnAndOnlyTheirOwn() public {
        token.mint(ALICE, 5);
        vm.expectRevert(abi.encodeWithSelector(TokenizedCash.TokenizedCash__NotMinter.selector, ALICE));
        vm.prank(ALICE);
        token.burn(1);
        token.configureMinter(ALICE, 0);
        vm.prank(ALICE);
        token.burn(2);
        vm.assertEq(token.balanceOf(ALICE), 3, "burned");
        vm.assertEq(token.totalSupply(), 3, "and gone");
    }

    function test_frozenPartDoesNotMoveByAnyPath() public {
        fund(ALICE, 10);
        vm.prank(COMPLIANCE);
        vm.assertTrue(token.setFrozenTokens(ALICE, type(uint256).max), "says that it did");
        vm.assertEq(token.getFrozenTokens(ALICE), type(uint96).max, "all there can be");
        vm.assertEq(token.availableBalanceOf(ALICE), 0, "nothing is free");
        refused(7);
        send(ALICE, BOB, 1);
        refused(7);
        vm.prank(address(manager));
        token.transferFrom(ALICE, BOB, 1);
        vm.expectRevert(abi.encodeWithSelector(TokenizedCash.TokenizedCash__NotMinter.selector, ALICE));
        vm.prank(ALICE);
        token.burn(1);
        (address[] memory to, uint256[] memory amounts) = (new address[](1), new uint256[](1));
        (to[0], amounts[0]) = (BOB, 1);
        refused(7);
        vm.prank(ALICE);
        token.transferMany(to, amounts);
    }

    function test_nobodyMovesWhatAnotherHasBeyondWhatWasAllowed() public {
        token.mint(ALICE, 10);
        vm.prank(ALICE);
        token.approve(CAROL, 4);
        vm.startPrank(CAROL);
        token.transferFrom(ALICE, BOB, 3);
        vm.expectPartialRevert(bytes4(keccak256("ERC20InsufficientAllowance(address,uint256,uint256)")));
        token.transferFrom(ALICE, BOB, 2);
        vm.stopPrank();
        vm.assertEq(token.balanceOf(ALICE), 7, "the allowed part has moved, and no more");
        vm.assertEq(token.balanceOf(BOB), 3, "to where it was sent");
    }

    function test_transferManyMovesAllOrNothing() public {
        fund(ALICE, 10);
        (address[] memory to, uint256[] memory amounts) = (new address[](2), new uint256[](2));
        (to[0], to[1], amounts[0], amounts[1]) = (BOB, CAROL, 4, 7);
        vm.expectPartialRevert(bytes4(keccak256("ERC20InsufficientBalance(address,uint256,uint256)")));
        vm.prank(ALICE);
        token.transferMany(to, amounts);
        amounts[1] = 6;
        vm.prank(ALICE);
        token.transferMany(to, amounts);
        vm.assertEq(token.balanceOf(BOB), 4, "the first");
        vm.assertEq(token.balanceOf(CAROL), 6, "and the second");
    }

    function test_whatGoesToItsSenderHasToBeThereAndStaysThere() public {
        (address[] memory to, uint256[] memory amounts) = (new address[](1), new uint256[](1));
        (to[0], amounts[0]) = (ALICE, 1 << 70);
        vm.assertEq(token.detectTransferRestriction(ALICE, ALICE, 1 << 70), 6, "not that much");
        insufficient(0, 1 << 70);
        vm.prank(ALICE);
        token.transferMany(to, amounts);
        fund(ALICE, 10);
        (to, amounts) = (new address[](4), new uint256[](4));
        (to[0], to[1], to[2], to[3]) = (ALICE, BOB, ALICE, ALICE);
        (amounts[0], amounts[1], amounts[2], amounts[3]) = (10, 4, 6, 7);
        insufficient(6, 7);
        vm.prank(ALICE);
        token.transferMany(to, amounts);
        amounts[3] = 6;
        vm.expectEmit(address(token));
        emit IERC20.Transfer(ALICE, ALICE, 10);
        vm.prank(ALICE);
        token.transferMany(to, amounts);
        vm.assertEq(token.balanceOf(ALICE), 6, "what has not left");
        vm.assertEq(token.balanceOf(BOB), 4, "and what has");
        vm.assertEq(token.totalSupply(), 10, "is all there is");
        vm.prank(COMPLIANCE);
        token.setFrozenTokens(ALICE, 1);
        vm.assertEq(token.detectTransferRestriction(ALICE, ALICE, 6), 7, "part of it is frozen");
        (to, amounts) = (new address[](1), new uint256[](1));
        (to[0], amounts[0]) = (ALICE, 6);
        sendMany(7, to, amounts);
    }

    function insufficient(uint256 balance, uint256 amount) private {
        bytes4 why = bytes4(keccak256("ERC20InsufficientBalance(address,uint256,uint256)"));
        vm.expectRevert(abi.encodeWithSelector(why, ALICE, balance, amount));
    }

    /// @dev Whatever the order, to whomever, the sender itself included: the same refusal, or the same tokens moved.
    function testFuzz_sendingManyIsTheSameAsSendingEach(uint256 seed, uint96 balance, uint96 frozen) public {
        token.mint(ALICE, balance);
        vm.prank(COMPLIANCE);
        token.setFrozenTokens(ALICE, seed & 1 == 0 ? 0 : frozen);
        (address[] memory to, uint256[] memory amounts) = (new address[](4), new uint256[](4));
        for (uint256 i = 0; i < 4; ++i) {
            uint256 s = uint256(keccak256(abi.encode(seed, i)));
            to[i] = [ALICE, ALICE, BOB, BOB, CAROL, CAROL, HOUSE, address(0x57A)][s % 8];
            amounts[i] = (s >> 8) % 5 == 0 ? (s >> 16) & 1 : (s >> 32) % (uint256(balance) / (1 + (s >> 16) % 4) + 2);
        }
        uint256 start = vm.snapshotState();
        (bool each, bytes memory whyEach) = address(this).call(abi.encodeCall(this.sendEach, (to, amounts)));
        uint256[3] memory have = [token.balanceOf(ALICE), token.balanceOf(BOB), token.balanceOf(CAROL)];
        vm.revertToState(start);
        vm.prank(ALICE);
        (bool many, bytes memory why) = address(token).call(abi.encodeCall(token.transferMany, (to, amounts)));
        vm.assertTrue(each == many, "both, or neither");
        vm.assertEq(keccak256(why), keccak256(each ? bytes("") : whyEach), "for the same reason");
        vm.assertEq(token.balanceOf(ALICE), have[0], "as much is left");
        vm.assertEq(token.balanceOf(BOB), have[1], "as much has come");
        vm.assertEq(token.balanceOf(CAROL), have[2], "as much has come");
        vm.assertEq(token.totalSupply(), balance, "and none was made");
    }

    function sendEach(address[] calldata to, uint256[] calldata amounts) external {
        for (uint256 i = 0; i < to.length; ++i) {
            send(ALICE, to[i], amounts[i]);
        }
    }

    function test_sendingManyKeepsEveryRule() public {
        fund(ALICE, 10);
        (address[] memory to, uint256[] memory amounts) = (new address[](2), new uint256[](2));
        (to[0], to[1], amounts[0], amounts[1]) = (BOB, address(0x57A), 1, 1);
        sendMany(4, to, amounts);
        to[1] = CAROL;
        vm.prank(COMPLIANCE);
        token.freeze(CAROL);
        sendMany(5, to, amounts);
        vm.startPrank(COMPLIANCE);
        token.unfreeze(CAROL);
        token.freeze(ALICE);
        sendMany(3, to, amounts);
        vm.startPrank(COMPLIANCE);
        token.unfreeze(ALICE);
        token.setFrozenTokens(ALICE, 9);
        sendMany(7, to, amounts);
        vm.prank(GUARDIAN);
        token.pause();
        sendMany(1, to, amounts);
        vm.prank(GUARDIAN);
        token.unpause();
        vm.prank(COMPLIANCE);
        token.setFrozenTokens(ALICE, 8);
        amounts[0] = 1 << 96;
        vm.expectPartialRevert(bytes4(keccak256("ERC20InsufficientBalance(address,uint256,uint256)")));
        vm.prank(ALICE);
        token.transferMany(to, amounts);
        amounts[0] = 1;
        vm.expectEmit(address(token));
        emit IERC20.Transfer(ALICE, BOB, 1);
        vm.expectEmit(address(token));
        emit IERC20.Transfer(ALICE, CAROL, 1);
        vm.prank(ALICE);
        token.transferMany(to, amounts);
        vm.assertEq(token.balanceOf(ALICE), 8, "to the last one that is not frozen");
        token.unregisterWallet(ALICE);
        sendMany(2, to, amounts);
    }

    function sendMany(uint8 code, address[] memory to, uint256[] memory amounts) private {
        vm.stopPrank();
        refused(code);
        vm.prank(ALICE);
        token.transferMany(to, amounts);
    }

    function test_ownersSignatureAllowsOnceUntilItsDeadline() public {
        uint256 key = 0xD00D;
        address dora = vm.addr(key);
        bytes32 permit = keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
        uint256 deadline = block.timestamp + 60;
        bytes32 digest = keccak256(
            abi.encodePacked(
                hex"1901", token.DOMAIN_SEPARATOR(), keccak256(abi.encode(permit, dora, CAROL, 7, 0, deadline))
            )
        );
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        vm.warp(deadline + 1);
        vm.expectPartialRevert(bytes4(keccak256("ERC2612ExpiredSignature(uint256)")));
        token.permit(dora, CAROL, 7, deadline, v, r, s);
        vm.warp(deadline);
        token.permit(dora, CAROL, 7, deadline, v, r, s);
        vm.assertEq(token.allowance(dora, CAROL), 7, "what was signed");
        vm.expectPartialRevert(bytes4(keccak256("ERC2612InvalidSigner(address,address)")));
        token.permit(dora, CAROL, 7, deadline, v, r, s);
    }

    /// @notice What is signed to move tokens (ERC-3009), and by whose key.
    struct Order {
        address from;
        address to;
        uint256 value;
        uint256 validAfter;
        uint256 validBefore;
        bytes32 nonce;
        uint8 v;
        bytes32 r;
        bytes32 s;
    }

    bytes private constant SENDING =
        "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)";
    bytes private constant RECEIVING =
        "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)";
    uint256 private constant DORAS_KEY = 0xD00D;

    /// @dev Within a minute from now, to BOB, of a registered wallet that has enough.
    function order() private returns (Order memory o) {
        address[] memory wallet = new address[](1);
        wallet[0] = vm.addr(DORAS_KEY);
        token.registerWallets(wallet);
        token.mint(wallet[0], 10);
        (o.from, o.to, o.value, o.nonce) = (wallet[0], BOB, 7, "nonce");
        (o.validAfter, o.validBefore) = (block.timestamp, block.timestamp + 60);
    }

    function sign(Order memory o, uint256 key, bytes memory kind) private view {
        bytes32 hash = keccak256(abi.encode(keccak256(kind), o.from, o.to, o.value, o.validAfter, o.validBefore, o.nonce));
        (o.v, o.r, o.s) = vm.sign(key, keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), hash)));
    }

    function sendBySignature(Order memory o) private {
        token.transferWithAuthorization(o.from, o.to, o.value, o.validAfter, o.validBefore, o.nonce, o.v, o.r, o.s);
    }

    function receiveBySignature(Order memory o) private {
        token.receiveWithAuthorization(o.from, o.to, o.value, o.validAfter, o.validBefore, o.nonce, o.v, o.r, o.s);
    }

    function test_ownersSignatureMovesTokensOnceStrictlyWithinItsTime() public {
        Order memory o = order();
        sign(o, DORAS_KEY, SENDING);
        uint256 start = vm.snapshotState();
        uint256[4] memory times = [o.validAfter, o.validAfter + 1, o.validBefore - 1, o.validBefore];
        for (uint256 i = 0; i < 4; ++i) {
            bool inTime = i == 1 || i == 2;
            vm.warp(times[i]);
            if (!inTime) vm.expectPartialRevert(bytes4(keccak256("ERC3009InvalidAuthorizationTime(uint256,uint256)")));
            sendBySignature(o);
            vm.assertEq(token.balanceOf(BOB), inTime ? 7 : 0, "after its beginning and before its end");
            vm.revertToState(start);
        }
        vm.warp(o.validAfter + 1);
        sendBySignature(o);
        vm.expectPartialRevert(bytes4(keccak256("ERC3009UsedAuthorization(address,bytes32)")));
        sendBySignature(o);
        vm.assertEq(token.balanceOf(BOB), 7, "once");
    }

    function test_ownersSignatureMovesExactlyWhatItSays() public {
        Order memory signed = order();
        vm.warp(block.timestamp + 1);
        bytes4 invalid = bytes4(keccak256("ERC3009InvalidSignature()"));
        for (uint256 i = 0; i < 7; ++i) {
            Order memory o = abi.decode(abi.encode(signed), (Order));
            sign(o, i == 0 ? 0xBAD : DORAS_KEY, i == 1 ? RECEIVING : SENDING);
            if (i == 2) o.to = CAROL;
            else if (i == 3) o.value = 8;
            else if (i == 4) o.validAfter -= 1;
            else if (i == 5) o.validBefore += 1;
            else if (i == 6) o.nonce = "another";
            vm.expectRevert(invalid);
            sendBySignature(o);
        }
        sign(signed, DORAS_KEY, SENDING);
        vm.expectRevert(invalid);
        vm.prank(BOB);
        receiveBySignature(signed);
        sign(signed, DORAS_KEY, RECEIVING);
        vm.expectPartialRevert(bytes4(keccak256("ERC20InvalidReceiver(address)")));
        receiveBySignature(signed);
        vm.prank(COMPLIANCE);
        token.freeze(signed.from);
        refused(3);
        vm.prank(BOB);
        receiveBySignature(signed);
        vm.prank(COMPLIANCE);
        token.unfreeze(signed.from);
        vm.prank(BOB);
        receiveBySignature(signed);
        vm.assertEq(token.balanceOf(BOB), 7, "taken by whom it is for");
    }

    function test_ownerWithdrawsASignatureThatHasNotServedYet() public {
        Order memory o = order();
        vm.warp(block.timestamp + 1);
        (uint8 v, bytes32 r, bytes32 s) = signWithdrawal(0xBAD, o);
        vm.expectRevert(bytes4(keccak256("ERC3009InvalidSignature()")));
        token.cancelAuthorization(o.from, o.nonce, v, r, s);
        (v, r, s) = signWithdrawal(DORAS_KEY, o);
        token.cancelAuthorization(o.from, o.nonce, v, r, s);
        vm.assertTrue(token.authorizationState(o.from, o.nonce), "used up");
        bytes4 used = bytes4(keccak256("ERC3009UsedAuthorization(address,bytes32)"));
        sign(o, DORAS_KEY, SENDING);
        vm.expectPartialRevert(used);
        sendBySignature(o);
        vm.expectPartialRevert(used);
        token.cancelAuthorization(o.from, o.nonce, v, r, s);
        vm.assertEq(token.balanceOf(BOB), 0, "withdrawn");
    }

    function signWithdrawal(uint256 key, Order memory o) private view returns (uint8, bytes32, bytes32) {
        bytes32 hash = keccak256(abi.encode(keccak256("CancelAuthorization(address authorizer,bytes32 nonce)"), o.from, o.nonce));
        return vm.sign(key, keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), hash)));
    }

    function test_complianceTakesWhatIsFrozenAndTheRestStaysFrozen() public {
        fund(ALICE, 10);
        vm.prank(COMPLIANCE);
        token.setFrozenTokens(ALICE, 8);
        vm.prank(COMPLIANCE);
        token.freeze(ALICE);
        vm.prank(GUARDIAN);
        token.pause();
        vm.recordLogs();
        vm.prank(COMPLIANCE);
        vm.assertTrue(token.forcedTransfer(ALICE, BOB, 2), "says that it did");
        vm.assertEq(token.getFrozenTokens(ALICE), 8, "what was free went first");
        vm.assertEq(vm.getRecordedLogs().length, 2, "so that nothing was unfrozen");
        vm.prank(COMPLIANCE);
        token.forcedTransfer(ALICE, BOB, 3);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        vm.assertEq(logs.length, 3, "three events");
        vm.assertEq(logs[0].topics[0], IERC7943Fungible.Frozen.selector, "unfrozen first");
        vm.assertEq(uint256(bytes32(logs[0].data)), 5, "what is left");
        vm.assertEq(logs[1].topics[0], keccak256("Transfer(address,address,uint256)"), "then moved");
        vm.assertEq(logs[2].topics[0], IERC7943Fungible.ForcedTransfer.selector, "and why");
        vm.assertEq(token.getFrozenTokens(ALICE), 5, "the rest stays frozen");
        vm.assertEq(token.balanceOf(BOB), 5, "taken");
        vm.expectPartialRevert(bytes4(keccak256("ERC20InsufficientBalance(address,uint256,uint256)")));
        vm.prank(COMPLIANCE);
        token.forcedTransfer(ALICE, BOB, 6);
        vm.prank(COMPLIANCE);
        token.forcedTransfer(ALICE, BOB, 5);
        vm.assertEq(token.balanceOf(ALICE), 0, "all of it");
        vm.assertEq(token.getFrozenTokens(ALICE), 0, "leaves nothing frozen");
    }

    function test_whatIsHeldForOthersIsNeverFrozenNorUnregistered() public {
        fund(ALICE, 10);
        Payment[] memory batch = one(payment(ALICE, BOB, 10, TOKEN_TO_TOKEN));
        initiate(batch);
        for (uint256 i = 0; i < 2; ++i) {
            heldForOthers(address(manager));
            vm.prank(COMPLIANCE);
            token.freeze(address(manager));
            heldForOthers(address(manager));
            vm.prank(COMPLIANCE);
            token.setFrozenTokens(address(manager), 1);
            heldForOthers(address(manager));
            token.unregisterWallet(address(manager));
            token.removeMinter(address(manager));
        }
        vm.warp(batch[0].expiresAt);
        vm.prank(ALICE);
        manager.reclaim(batch[0], none());
        vm.assertEq(token.balanceOf(ALICE), 10, "nobody could stop it");
    }

    function test_whoIsFrozenBecomesNoMinter() public {
        vm.prank(COMPLIANCE);
        token.freeze(BOB);
        vm.expectRevert(abi.encodeWithSelector(TokenizedCash.TokenizedCash__MinterFrozen.selector, BOB));
        token.configureMinter(BOB, 1);
        vm.startPrank(COMPLIANCE);
        token.unfreeze(BOB);
        token.setFrozenTokens(BOB, 1);
        vm.stopPrank();
        vm.expectRevert(abi.encodeWithSelector(TokenizedCash.TokenizedCash__MinterFrozen.selector, BOB));
        token.configureMinter(BOB, 1);
        vm.prank(COMPLIANCE);
        token.setFrozenTokens(BOB, 0);
        token.configureMinter(BOB, 1);
        vm.assertTrue(token.isMinter(BOB), "once nothing of it is frozen");
    }

    function heldForOthers(address custodian) private {
        vm.expectRevert(abi.encodeWithSelector(TokenizedCash.TokenizedCash__HeldForOthers.selector, custodian));
    }

    function test_complianceTakesNothingThatIsHeldForOthersAndGivesOnlyToWhoMayReceive() public {
        fund(ALICE, 10);
        initiate(one(payment(ALICE, BOB, 10, TOKEN_TO_TOKEN)));
        vm.expectRevert(
            abi.encodeWithSelector(TokenizedCash.TokenizedCash__HeldForOthers.selector, address(manager))
        );
        vm.prank(COMPLIANCE);
        token.forcedTransfer(address(manager), BOB, 10);
        token.removeMinter(address(manager));
        vm.assertTrue(!token.isMinter(address(manager)), "a minter no more");
        vm.assertTrue(token.isCustodian(address(manager)), "but still a custodian");
        vm.expectRevert(
            abi.encodeWithSelector(TokenizedCash.TokenizedCash__HeldForOthers.selector, address(manager))
        );
        vm.prank(COMPLIANCE);
        token.forcedTransfer(address(manager), BOB, 10);
        token.removeMinter(BOB);
        vm.assertTrue(!token.isCustodian(BOB), "who was never a minter is none");
        refused(4);
        vm.prank(COMPLIANCE);
        token.forcedTransfer(ALICE, address(0x57A), 0);
        vm.expectPartialRevert(bytes4(keccak256("ERC20InvalidReceiver(address)")));
        vm.prank(COMPLIANCE);
        token.forcedTransfer(ALICE, address(0), 0);
        vm.expectPartialRevert(bytes4(keccak256("ERC20InvalidSender(address)")));
        vm.prank(COMPLIANCE);
        token.forcedTransfer(address(0), BOB, 1);
        vm.prank(COMPLIANCE);
        token.freeze(BOB);
        refused(5);
        vm.prank(COMPLIANCE);
        token.forcedTransfer(ALICE, BOB, 0);
    }

    function test_saysWhatItIs() public view {
        vm.assertTrue(token.supportsInterface(0x3edbb4c4), "ERC-7943 for ERC-20 tokens");
        vm.assertTrue(token.supportsInterface(0x01ffc9a7), "ERC-165");
        vm.assertTrue(token.supportsInterface(0x31498786), "AccessControlDefaultAdminRules");
        vm.assertTrue(!token.supportsInterface(0xffffffff), "not anything");
        vm.assertEq(token.decimals(), 6, "decimals");
    }

    function test_adminChangesInTwoStepsWithItsDelay() public {
        TokenizedCash slow =
            TokenizedCash(create("TokenizedCash", abi.encode("Tokenized euro", "tEUR", 6, 1 days, address(this))));
        slow.beginDefaultAdminTransfer(ALICE);
        vm.prank(ALICE);
        vm.expectPartialRevert(bytes4(keccak256("AccessControlEnforcedDefaultAdminDelay(uint48)")));
        slow.acceptDefaultAdminTransfer();
        vm.warp(block.timestamp + 1 days + 1);
        vm.assertEq(slow.defaultAdmin(), address(this), "nothing changes unless it is accepted");
        vm.prank(ALICE);
        slow.acceptDefaultAdminTransfer();
        vm.assertEq(slow.defaultAdmin(), ALICE, "after the delay");
    }

    /// @dev The rules as a plain function of everything, against the token.
    function testFuzz_whatTheTokenSaysAboutATransferIsWhatItDoes(uint256 seed, uint96 balance, uint96 frozen, uint96 amount)
        public
    {
        token.mint(ALICE, balance);
        vm.prank(COMPLIANCE);
        token.setFrozenTokens(ALICE, frozen);
        if (seed & 1 != 0) token.unregisterWallet(ALICE);
        if (seed & 2 != 0) token.unregisterWallet(BOB);
        vm.startPrank(COMPLIANCE);
        if (seed & 4 != 0) token.freeze(ALICE);
        if (seed & 8 != 0) token.freeze(BOB);
        vm.stopPrank();
        vm.prank(GUARDIAN);
        if (seed & 48 == 48) token.pause();
        else token.unpause();
        uint8 expected = seed & 48 == 48
            ? 1
            : seed & 1 != 0
                ? 2
                : seed & 4 != 0
                    ? 3
                    : seed & 2 != 0
                        ? 4
                        : seed & 8 != 0
                            ? 5
                            : amount > balance ? 6 : amount > 0 && uint256(amount) + frozen > balance ? 7 : 0;
        vm.assertEq(token.detectTransferRestriction(ALICE, BOB, amount), expected, "as the rules say");
        vm.prank(ALICE);
        (bool done,) = address(token).call(abi.encodeCall(token.transfer, (BOB, amount)));
        vm.assertTrue(done == (expected == 0), "and so it goes");
        vm.assertEq(token.balanceOf(BOB), done ? amount : 0, "all or nothing");
        vm.assertEq(token.totalSupply(), balance, "and the supply is what it was");
    }
}
