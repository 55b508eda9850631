// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Call, MultiSigVault} from "../src/MultiSigVault.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {Proof} from "./Proof.sol";

/// @notice MultiSigVault, from any state. What a signature recovers to is left open: any address, the same for the same bytes.
contract VaultProof is Proof {
    MultiSigVault private vault;
    address private constant SINK = address(0x51EE);

    function setUp() public {
        address[] memory owners = new address[](2);
        (owners[0], owners[1]) = (address(0xA1), address(0xA2));
        vault = MultiSigVault(payable(create("MultiSigVault", abi.encode(owners, 2, 1 days))));
        svm.enableSymbolicStorage(address(vault));
    }

    function signatures(uint256 count) private pure returns (bytes[] memory all) {
        all = new bytes[](count);
        if (count > 0) all[0] = svm.createBytes(65, "first");
        if (count > 1) all[1] = svm.createBytes(65, "second");
    }

    function signer(bytes32 digest, bytes memory signature) private pure returns (address) {
        (uint8 v, bytes32 r, bytes32 s) = (uint8(signature[64]), word(signature, 32), word(signature, 64));
        return ecrecover(digest, v, r, s);
    }

    function word(bytes memory data, uint256 start) private pure returns (bytes32 value) {
        assembly ("memory-safe") {
            value := mload(add(data, start))
        }
    }

    function pay(uint256 amount) private pure returns (Call[] memory calls) {
        calls = new Call[](1);
        calls[0] = Call(SINK, 0, abi.encodeCall(IERC20.transfer, (address(1), amount)));
    }

    function check_twoDistinctOwnersSignedThisOperationInTime(uint256 amount, uint64 deadline) public {
        Call[] memory calls = pay(amount);
        bytes[] memory given = signatures(2);
        uint256 nonce = vault.nonce();
        bytes32 digest = vault.digestOf(nonce, deadline, calls);
        (address a, address b) = (signer(digest, given[0]), signer(digest, given[1]));
        bool lawful = both(both(vault.isOwner(a), vault.isOwner(b)), both(a < b, vault.threshold() <= 2));
        vault.execute(calls, deadline, given);
        assert(both(lawful, both(block.timestamp < deadline, vault.nonce() == nonce + 1)));
    }

    function reach_operationsAreExecuted(uint256 amount, uint64 deadline) public {
        vault.execute(pay(amount), deadline, signatures(2));
        assert(false);
    }

    function check_fewerSignaturesThanNeededDoNothing(uint256 amount, uint64 deadline, uint8 which) public {
        vm.assume(vault.threshold() > 1);
        Call[] memory calls = pay(amount);
        bytes[] memory one = signatures(1);
        bytes memory data = abi.encodeCall(vault.execute, (calls, deadline, one));
        if (which == 1) data = abi.encodeCall(vault.schedule, (calls, deadline, one));
        if (which == 2) data = abi.encodeCall(vault.cancel, (deadline, one));
        (bool done,) = address(vault).call(data);
        assert(!done);
    }

    /// @dev Beyond the limit of the day only what was scheduled, and only after its time has come. Nothing else while something waits.
    function check_muchMoneyWaits(uint256 amount, uint64 deadline) public {
        Call[] memory calls = pay(amount);
        bool none = vault.scheduled() == 0;
        bool own = vault.scheduled() == vault.digestOf(vault.nonce(), deadline, calls);
        bool waited = both(both(!none, own), isReady());
        bool little = both(either(none, own), fitsToday(amount));
        vault.execute(calls, deadline, signatures(2));
        assert(both(either(waited, little), vault.scheduled() == 0));
    }

    function reach_littleMoneyDoesNotWaitThoughScheduled(uint256 amount, uint64 deadline) public {
        vm.assume(!isReady() && vault.scheduled() != 0);
        vault.execute(pay(amount), deadline, signatures(2));
        assert(false);
    }

    function reach_muchMoneyLeavesOnceItHasWaited(uint256 amount, uint64 deadline) public {
        vm.assume(!fitsToday(amount));
        vault.execute(pay(amount), deadline, signatures(2));
        assert(false);
    }

    function isReady() private view returns (bool) {
        return block.timestamp >= vault.readyAt();
    }

    function fitsToday(uint256 amount) private view returns (bool) {
        (uint128 perDay, uint64 day, uint128 spent) = vault.limitOf(SINK);
        uint256 today = day == block.timestamp / 1 days ? spent : 0;
        return both(amount <= perDay, amount <= type(uint128).max) && today + amount <= perDay;
    }

    /// @dev Whatever else waits, and however long it has.
    function check_otherCallsWait(bytes4 selector, uint64 deadline) public {
        vm.assume(selector != IERC20.transfer.selector);
        vm.assume(selector != bytes4(keccak256("configureMinter(address,uint256)")));
        Call[] memory calls = callOf(selector);
        bool own = vault.scheduled() == vault.digestOf(vault.nonce(), deadline, calls);
        vm.assume(!both(both(own, vault.scheduled() != 0), isReady()));
        (bool done,) = address(vault).call(abi.encodeCall(vault.execute, (calls, deadline, signatures(2))));
        assert(!done);
    }

    function reach_otherCallsAreMadeOnceTheyHaveWaited(uint64 deadline) public {
        vault.execute(callOf(IERC20.approve.selector), deadline, signatures(2));
        assert(false);
    }

    function callOf(bytes4 selector) private pure returns (Call[] memory calls) {
        calls = new Call[](1);
        calls[0] = Call(SINK, 0, abi.encodePacked(selector, uint256(1), uint256(1)));
    }

    function check_schedulingMovesNothingAndWaitsTheDelay(uint256 amount, uint64 deadline) public {
        uint256 nonce = vault.nonce();
        uint64 delay = vault.delay();
        vm.assume(block.timestamp < 1 << 60);
        vault.schedule(pay(amount), deadline, signatures(2));
        assert(both(vault.nonce() == nonce, vault.readyAt() == block.timestamp + delay));
        assert(vault.readyAt() < deadline);
    }

    function reach_operationsAreScheduled(uint256 amount, uint64 deadline) public {
        vault.schedule(pay(amount), deadline, signatures(2));
        assert(false);
    }

    /// @dev Any function but the three that take signatures: those carry calls, and what they call has no end.
    function unsignedCall() private returns (bytes memory data) {
        data = svm.createCalldata("MultiSigVault");
        vm.assume(bytes4(data) != vault.execute.selector && bytes4(data) != vault.schedule.selector);
        vm.assume(bytes4(data) != vault.cancel.selector);
    }

    function check_onlyTheVaultChangesItsSettings(address caller, address owner, address asset) public {
        vm.assume(caller != address(vault));
        bytes memory data = unsignedCall();
        bytes32 before = settings(owner, asset);
        anyCall(address(vault), caller, data);
        assert(settings(owner, asset) == before);
    }

    function settings(address owner, address asset) private view returns (bytes32) {
        (uint128 perDay,, uint128 spent) = vault.limitOf(asset);
        bytes memory money = abi.encode(perDay, spent, vault.mintCapOf(asset, owner));
        bytes memory people = abi.encode(vault.isOwner(owner), vault.owners(), vault.threshold());
        bytes memory queue = abi.encode(vault.delay(), vault.nonce(), vault.scheduled(), vault.readyAt());
        return keccak256(bytes.concat(money, people, queue));
    }

    function check_enoughOwnersStayForTheThreshold() public {
        vm.assume(vault.threshold() > 0 && vault.threshold() <= vault.owners());
        bytes memory data = unsignedCall();
        anyCall(address(vault), address(vault), data);
        assert(both(vault.threshold() > 0, vault.threshold() <= vault.owners()));
    }

    function reach_ownersChange(address owner) public {
        bool was = vault.isOwner(owner);
        anyCall(address(vault), address(vault), unsignedCall());
        assert(vault.isOwner(owner) == was);
    }
}
