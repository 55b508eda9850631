// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Payment} from "../src/Payment.sol";
import {Base} from "./Base.sol";

/// @notice What initiation and settlement cost per payment; the committed snapshot is in snapshots/.
contract GasTest is Base {
    function setUp() public {
        deploy();
    }

    function measure(uint256 count) private {
        address[] memory wallets = new address[](count);
        Payment[] memory warm = new Payment[](count);
        Payment[] memory batch = new Payment[](count);
        for (uint256 i = 0; i < count; ++i) {
            wallets[i] = address(uint160(0x10000 + i));
        }
        token.registerWallets(wallets);
        for (uint256 i = 0; i < count; ++i) {
            warm[i] = payment(ALICE, wallets[i], 1e6, BANK_TO_TOKEN);
        }
        for (uint256 i = 0; i < count; ++i) {
            batch[i] = payment(ALICE, wallets[i], 1e6, BANK_TO_TOKEN);
        }
        initiate(warm);
        settle(warm, type(uint256).max);
        initiate(batch);
        uint256 gas = vm.snapshotGasLastCall("initiate", name(count));
        uint256[] memory all = new uint256[](2);
        (all[0], all[1]) = (type(uint256).max, type(uint256).max);
        vm.prank(SETTLER);
        manager.settleBatch(batch, all);
        gas += vm.snapshotGasLastCall("settle", name(count));
        if (count == 100) vm.assertTrue(gas / count < 25_500, "execution of both legs, without calldata");
    }

    function name(uint256 count) private pure returns (string memory) {
        return count == 1 ? "001" : count == 10 ? "010" : count == 100 ? "100" : "500";
    }

    function test_gasOf1() public {
        measure(1);
    }

    function test_gasOf10() public {
        measure(10);
    }

    function test_gasOf100() public {
        measure(100);
    }

    function test_gasOf500() public {
        measure(500);
    }
}
