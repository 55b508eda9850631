// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AuditAnchor} from "../src/AuditAnchor.sol";
import {T} from "./T.sol";

/// @notice The audit log's pins: who sets them, and that they only move on.
contract AnchorTest is T {
    AuditAnchor private pins;
    address private constant SCRIBE = address(0x5C1B);

    function setUp() public {
        vm.warp(1_800_000_000);
        pins = AuditAnchor(create("AuditAnchor", abi.encode(1 days, address(this))));
        pins.grantRole(pins.ANCHOR_ROLE(), SCRIBE);
    }

    function anchor(bytes32 root, uint64 size) private {
        vm.prank(SCRIBE);
        pins.anchor(root, size);
    }

    function test_aLogIsPinnedAtItsSizeAndKept() public {
        anchor("first", 10);
        vm.warp(block.timestamp + 5);
        anchor("second", 11);
        vm.assertEq(pins.rootOf(10), "first", "kept");
        vm.assertEq(pins.rootOf(11), "second", "pinned");
        vm.assertEq(pins.size(), 11, "the newest");
        vm.assertEq(pins.anchoredAt(), 1_800_000_005, "when");
    }

    function test_eachPinIsTold() public {
        vm.expectEmit(address(pins));
        emit AuditAnchor.Anchored(10, "first");
        anchor("first", 10);
    }

    function test_aLogNeitherShrinksNorChangesNorIsEmpty() public {
        anchor("first", 10);
        vm.expectRevert(abi.encodeWithSelector(AuditAnchor.AuditAnchor__NotGrown.selector, 10, 10));
        anchor("other", 10);
        vm.expectRevert(abi.encodeWithSelector(AuditAnchor.AuditAnchor__NotGrown.selector, 10, 9));
        anchor("other", 9);
        vm.expectRevert(AuditAnchor.AuditAnchor__EmptyRoot.selector);
        anchor(0, 11);
    }

    function test_onlyItsRolePins() public {
        vm.expectPartialRevert(bytes4(keccak256("AccessControlUnauthorizedAccount(address,bytes32)")));
        pins.anchor("first", 10);
    }

    function testFuzz_pinsAreWhatGrewAndNothingElse(uint64[8] calldata sizes) public {
        uint64 largest;
        for (uint256 i = 0; i < sizes.length; ++i) {
            bytes32 root = keccak256(abi.encode(i));
            bytes32 before = pins.rootOf(sizes[i]);
            vm.prank(SCRIBE);
            (bool done,) = address(pins).call(abi.encodeCall(pins.anchor, (root, sizes[i])));
            vm.assertTrue(done == (sizes[i] > largest), "exactly what is larger");
            if (done) largest = sizes[i];
            vm.assertEq(pins.rootOf(sizes[i]), done ? root : before, "and what is pinned stays");
            vm.assertEq(pins.size(), largest, "the newest");
        }
    }
}
