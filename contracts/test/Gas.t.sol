// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Payment} from "../src/Payment.sol";
import {Base} from "./Base.sol";
import {Vm} from "./T.sol";

/// @notice What a payment costs: gas of whole transactions, base fee and calldata included, and the bytes that a ZKsync OS chain
/// publishes of the storage they change. Needs `--isolate`, which makes a transaction of each call. The committed figures are in snapshots/; a test fails when they are not these.
contract GasTest is Base {
    uint256 private constant GAS_MAX = 25_000;
    uint256 private constant PUBDATA_MAX = 45;

    function setUp() public {
        deploy();
    }

    /// @dev Creditors have been paid before, each payment has another creditor, numbers and amounts are not round.
    function measure(uint256 count, uint8 terms, string memory name) private {
        address[] memory wallets = register(count);
        settleAll(batchTo(wallets, terms));
        Payment[] memory batch = batchTo(wallets, terms);
        initiate(batch);
        uint256 gas = vm.snapshotGasLastCall("initiate", name);
        vm.prank(SETTLER);
        manager.settleBatch(batch, everyone());
        gas += vm.snapshotGasLastCall("settle", name);
        uint256 pubdata = publishedFor(batchTo(wallets, terms));
        vm.snapshotValue("pubdata", name, pubdata);
        if (count >= 100) {
            vm.assertTrue(gas / count <= GAS_MAX, "gas per payment, both transactions");
            vm.assertTrue(pubdata / count <= PUBDATA_MAX, "published bytes per payment, both transactions");
        }
    }

    /// @dev Not in the run that measures gas: recording makes what was touched before cheap.
    function publishedFor(Payment[] memory batch) private returns (uint256 pubdata) {
        vm.startStateDiffRecording();
        initiate(batch);
        pubdata = published(vm.stopAndReturnStateDiff());
        vm.startStateDiffRecording();
        vm.prank(SETTLER);
        manager.settleBatch(batch, everyone());
        pubdata += published(vm.stopAndReturnStateDiff());
    }

    function register(uint256 count) private returns (address[] memory wallets) {
        wallets = new address[](count);
        for (uint256 i = 0; i < count; ++i) {
            wallets[i] = address(uint160(uint256(keccak256(abi.encode("wallet", i)))));
        }
        token.registerWallets(wallets);
    }

    function batchTo(address[] memory wallets, uint8 terms) private returns (Payment[] memory batch) {
        batch = new Payment[](wallets.length);
        for (uint256 i = 0; i < wallets.length; ++i) {
            batch[i] = payment(ALICE, wallets[i], uint128(1_234_567_891 + 7919 * i), terms);
            batch[i].fee = 250_000;
        }
    }

    function settleAll(Payment[] memory batch) private {
        initiate(batch);
        vm.prank(SETTLER);
        manager.settleBatch(batch, everyone());
    }

    function everyone() private pure returns (uint256[] memory all) {
        all = new uint256[](2);
        (all[0], all[1]) = (type(uint256).max, type(uint256).max);
    }

    /// @dev Per changed slot 32 bytes of key and the shortest of ZKsync OS's encodings of the change: one byte of metadata and the
    /// bytes of the new value, of the sum or of the difference.
    function published(Vm.AccountAccess[] memory accesses) private returns (uint256 bytes_) {
        delete changed;
        for (uint256 i = 0; i < accesses.length; ++i) {
            for (uint256 k = 0; k < accesses[i].storageAccesses.length; ++k) {
                note(accesses[i].storageAccesses[k]);
            }
        }
        for (uint256 i = 0; i < changed.length; ++i) {
            Change memory change = changes[changed[i]];
            delete changes[changed[i]];
            if (change.first == change.last) continue;
            unchecked {
                bytes_ += 33 + min(width(change.last), min(width(change.last - change.first), width(change.first - change.last)));
            }
        }
    }

    struct Change {
        bool seen;
        uint256 first;
        uint256 last;
    }

    mapping(bytes32 place => Change) private changes;
    bytes32[] private changed;

    function note(Vm.StorageAccess memory access) private {
        bool ours = access.account == address(token) || access.account == address(router) || access.account == address(manager);
        if (!ours || !access.isWrite || access.reverted) return;
        bytes32 place = keccak256(abi.encode(access.account, access.slot));
        Change storage change = changes[place];
        if (!change.seen) {
            (change.seen, change.first) = (true, uint256(access.previousValue));
            changed.push(place);
        }
        change.last = uint256(access.newValue);
    }

    function width(uint256 value) private pure returns (uint256 count) {
        for (; value != 0; value >>= 8) {
            ++count;
        }
    }

    function min(uint256 a, uint256 b) private pure returns (uint256) {
        return a < b ? a : b;
    }

    function test_costOf1() public {
        measure(1, BANK_TO_TOKEN, "001");
    }

    function test_costOf10() public {
        measure(10, BANK_TO_TOKEN, "010");
    }

    function test_costOf100() public {
        measure(100, BANK_TO_TOKEN, "100");
    }

    function test_costOf500() public {
        measure(500, BANK_TO_TOKEN, "500");
    }

    /// @dev By one debtor, so that they are escrowed by one transfer.
    function test_costOf100EscrowedForOneDebtor() public {
        fund(ALICE, 1e15);
        measure(100, TOKEN_TO_TOKEN, "100 escrowed");
    }

    /// @dev The dearest there is: no two payments share a debtor or a creditor.
    function test_costOf100EscrowedForAsManyDebtors() public {
        address[] memory wallets = register(100);
        for (uint256 i = 0; i < 100; ++i) {
            fund(wallets[i], 1e12);
        }
        Payment[] memory batch = batchTo(wallets, TOKEN_TO_TOKEN);
        for (uint256 i = 0; i < 100; ++i) {
            batch[i].debtor = wallets[99 - i];
        }
        initiate(batch);
        vm.snapshotGasLastCall("initiate", "100 escrowed for as many debtors");
    }

    /// @dev 100 payments to 20 creditors that stand together; single items by proof.
    function test_costOf100NettedAndOfOneByProof() public {
        address[] memory wallets = register(100);
        for (uint256 i = 0; i < 100; ++i) {
            wallets[i] = wallets[i - i % 5];
        }
        settleAll(batchTo(wallets, BANK_TO_TOKEN));
        settleAll(batchTo(wallets, BANK_TO_TOKEN));
        vm.snapshotGasLastCall("settle", "100 to 20 creditors");
        fund(ALICE, 1e15);
        Payment[] memory batch = batchTo(wallets, TOKEN_TO_TOKEN);
        initiate(batch);
        vm.prank(SETTLER);
        manager.settle(batch[37], proofOf(batch, 37));
        vm.snapshotGasLastCall("settle", "one of 100 by proof");
        vm.prank(CANCELLER);
        manager.cancel(batch[38], proofOf(batch, 38));
        vm.snapshotGasLastCall("cancel", "one of 100 by proof");
        vm.warp(batch[39].expiresAt);
        bytes32[] memory proof = proofOf(batch, 39);
        vm.prank(ALICE);
        manager.reclaim(batch[39], proof);
        vm.snapshotGasLastCall("cancel", "reclaimed by the debtor");
    }
}
