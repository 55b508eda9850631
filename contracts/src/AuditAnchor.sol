// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AccessControlDefaultAdminRules} from
    "@openzeppelin/contracts/access/extensions/AccessControlDefaultAdminRules.sol";

/// @title Where the audit log is pinned
/// @notice Keeps the roots of an append-only log that grows elsewhere. A size is anchored once and sizes only grow, so nobody, not even
/// us, can later show another log of the same size, or a shorter one as the newest.
contract AuditAnchor is AccessControlDefaultAdminRules {
    /// @notice Anchors roots.
    bytes32 public constant ANCHOR_ROLE = keccak256("ANCHOR_ROLE");

    /// @notice The root of the log when it had that many entries; zero where none was anchored.
    mapping(uint64 size => bytes32 root) public rootOf;
    /// @notice Entries of the log as it was anchored last.
    uint64 public size;
    /// @notice When that was, as block time.
    uint64 public anchoredAt;

    /// @notice The log had this root when it had that many entries.
    event Anchored(uint64 indexed size, bytes32 root);

    /// @notice The log is anchored at `size` entries, `offered` is not more.
    error AuditAnchor__NotGrown(uint64 size, uint64 offered);
    /// @notice No log has this root.
    error AuditAnchor__EmptyRoot();

    /// @param adminDelay seconds between naming a new admin and its acceptance
    constructor(uint48 adminDelay, address admin) AccessControlDefaultAdminRules(adminDelay, admin) {}

    /// @notice Pins the log at `size_` entries.
    function anchor(bytes32 root, uint64 size_) external onlyRole(ANCHOR_ROLE) {
        if (root == 0) revert AuditAnchor__EmptyRoot();
        if (size_ <= size) revert AuditAnchor__NotGrown(size, size_);
        rootOf[size_] = root;
        size = size_;
        anchoredAt = uint64(block.timestamp);
        emit Anchored(size_, root);
    }
}
