// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Hashes} from "@openzeppelin/contracts/utils/cryptography/Hashes.sol";

/// @notice A payment as it is committed to on chain: the leaf of its batch's Merkle tree.
struct Payment {
    uint64 number; // dense, used once for ever whatever path it comes by
    bytes16 paymentId; // random; never a reference of a customer
    address debtor; // wallet that pays, registered
    address creditor; // wallet that is paid, registered
    uint128 amount; // token units, more than zero
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
    function hash(Payment calldata payment) internal pure returns (bytes32) {
        return keccak256(abi.encode(payment));
    }

    function isTokenFunded(Payment calldata payment) internal pure returns (bool) {
        return payment.terms & 1 != 0;
    }

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
        while (width > 1) {
            uint256 half = width / 2;
            for (uint256 i = 0; i < half; ++i) {
                nodes[i] = Hashes.commutativeKeccak256(nodes[2 * i], nodes[2 * i + 1]);
            }
            if (width % 2 == 1) {
                nodes[half++] = nodes[width - 1];
            }
            width = half;
        }
        return nodes[0];
    }
}

/// @title Two status bits per payment number, 128 numbers to a word
/// @notice Numbers of a batch are dense, so a batch reads and writes a word or two.
library StatusWord {
    function index(uint64 number) internal pure returns (uint256) {
        return number / 128;
    }

    function get(uint256 word, uint64 number) internal pure returns (Status) {
        return Status((word >> shift(number)) & 3);
    }

    function set(uint256 word, uint64 number, Status status) internal pure returns (uint256) {
        return (word & ~(uint256(3) << shift(number))) | (uint256(status) << shift(number));
    }

    function shift(uint64 number) private pure returns (uint256) {
        return (number % 128) * 2;
    }
}
