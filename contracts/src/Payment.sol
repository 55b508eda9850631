// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Hashes} from "@openzeppelin/contracts/utils/cryptography/Hashes.sol";

/// @notice A payment as it is committed to on chain: the leaf of its batch's Merkle tree.
struct Payment {
    uint64 number; // dense, used once for ever whatever path it comes by
    bytes16 paymentId; // random; never a reference of a customer
    address debtor; // wallet that pays, registered
    address creditor; // wallet that is paid, registered
    uint128 amount; // token units, more than zero, at most 96 bits
    uint128 fee; // what of the amount goes to the house wallet
    uint64 expiresAt; // settled strictly before this block time, expired from it on
    uint8 terms; // bit 0: funded by token (else by bank); bit 1: paid out by bank (else in token)
}

/// @notice Where a payment number stands.
enum Status {
    Unused,
    Open,
    Settled,
    Closed
}

/// @notice Why an item was set aside while its batch went on.
enum Reason {
    None,
    NotFunded,
    Frozen,
    Unregistered,
    Unauthorized
}

/// @title Leaves and roots
/// @notice A leaf is the hash of the 256 bytes of a payment, so it can never be taken for an inner node, which is the hash of 64.
/// Pairs are sorted before they are hashed; an odd node moves up unchanged. A single payment is its own root.
library PaymentLeaf {
    /// @notice The hash of the payment's 256 bytes as they were sent.
    /// @dev `abi.encode` would write the same bytes, having checked that each field's unused bits are zero. At initiation every field
    /// of a payment that is opened is read, which checks them; later a payment must have the hash that it had then.
    function hash(Payment calldata payment) internal pure returns (bytes32 leaf) {
        assembly ("memory-safe") {
            let start := mload(0x40)
            calldatacopy(start, payment, 256)
            leaf := keccak256(start, 256)
        }
    }

    /// @notice The debtor's tokens were escrowed at initiation; else the debtor's bank holds the funds.
    function isTokenFunded(Payment calldata payment) internal pure returns (bool) {
        return payment.terms & 1 != 0;
    }

    /// @notice The creditor's bank pays and the tokens are burned; else the creditor's wallet gets them.
    function isPaidOutByBank(Payment calldata payment) internal pure returns (bool) {
        return payment.terms & 2 != 0;
    }

    /// @notice The root over payments in their order.
    function root(Payment[] calldata payments) internal pure returns (bytes32) {
        uint256 width = payments.length;
        bytes32[] memory nodes = new bytes32[](width);
        for (uint256 i = 0; i < width; ++i) {
            nodes[i] = hash(payments[i]);
        }
        unchecked {
            while (width > 1) {
                uint256 half = width / 2;
                for (uint256 i = 0; i < half; ++i) {
                    nodes[i] = Hashes.commutativeKeccak256(nodes[2 * i], nodes[2 * i + 1]);
                }
                if (width % 2 == 1) nodes[half++] = nodes[width - 1];
                width = half;
            }
        }
        return nodes[0];
    }
}

/// @title Two status bits per payment number, 128 numbers to a word
/// @notice Numbers of a batch are dense, so a batch reads and writes a word or two.
library StatusWord {
    /// @dev The lower bit of every pair.
    uint256 private constant LOW = type(uint256).max / 3;

    /// @notice Which word a number is in.
    function index(uint64 number) internal pure returns (uint256) {
        return number / 128;
    }

    /// @notice Where a number stands.
    function get(uint256 word, uint64 number) internal pure returns (Status) {
        return Status((word >> shift(number)) & 3);
    }

    /// @notice The word with one number moved.
    function set(uint256 word, uint64 number, Status status) internal pure returns (uint256) {
        return (word & ~(uint256(3) << shift(number))) | (uint256(status) << shift(number));
    }

    /// @notice Whether every number goes only where it may: from open to settled or closed, from settled to closed, or nowhere.
    /// What is unused stays unused: numbers are opened by initiation alone.
    function mayBecome(uint256 word, uint256 next) internal pure returns (bool) {
        uint256 used = (word | (word >> 1)) & LOW;
        uint256 usedNext = (next | (next >> 1)) & LOW;
        uint256 ended = (word >> 1) & LOW;
        uint256 endedNext = (next >> 1) & LOW;
        uint256 closed = word & ended;
        return used == usedNext && ended & ~endedNext == 0 && closed & ~next == 0;
    }

    function shift(uint64 number) private pure returns (uint256) {
        return (number % 128) * 2;
    }
}
