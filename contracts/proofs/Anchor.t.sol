// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AuditAnchor} from "../src/AuditAnchor.sol";
import {Proof} from "./Proof.sol";

/// @notice AuditAnchor, from any state, by any caller.
contract AnchorProof is Proof {
    AuditAnchor private pins;

    function setUp() public {
        pins = AuditAnchor(create("AuditAnchor", abi.encode(1 days, address(this))));
        svm.enableSymbolicStorage(address(pins));
    }

    function check_theLogOnlyGrowsAndItsPinsStay(address caller, uint64 at) public {
        uint64 size = pins.size();
        bytes32 root = pins.rootOf(at);
        bool may = pins.hasRole(pins.ANCHOR_ROLE(), caller);
        anyCall(address(pins), caller, svm.createCalldata("AuditAnchor"));
        assert(pins.size() >= size);
        assert(either(pins.rootOf(at) == root, both(at > size, may)));
        assert(either(pins.size() == size, may));
    }

    function reach_theLogGrows(address caller) public {
        uint64 size = pins.size();
        anyCall(address(pins), caller, svm.createCalldata("AuditAnchor"));
        assert(pins.size() == size);
    }
}
