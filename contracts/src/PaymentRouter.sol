// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AccessControlDefaultAdminRules} from
    "@openzeppelin/contracts/access/extensions/AccessControlDefaultAdminRules.sol";
import {Payment, PaymentLeaf, Reason, Status, StatusWord} from "./Payment.sol";
import {Authorization, SettlementManager} from "./SettlementManager.sol";

/// @title Where payments are opened
/// @notice Commits to a batch by one Merkle root and keeps two status bits per payment number. A number is used once for ever,
/// whether its payment came alone or in a batch. Money never passes through this contract.
contract PaymentRouter is AccessControlDefaultAdminRules {
    using PaymentLeaf for Payment;
    using StatusWord for uint256;
    using StatusWord for uint64;

    bytes32 public constant INITIATOR_ROLE = keccak256("INITIATOR_ROLE");
    bytes32 public constant GUARDIAN_ROLE = keccak256("GUARDIAN_ROLE");

    /// @notice More would not fit a transaction of 16 million gas when it is settled.
    uint256 public constant BATCH_SIZE_MAX = 500;

    SettlementManager public immutable manager;
    /// @notice Which batch, counted from one, committed to a root; zero where none did.
    mapping(bytes32 root => uint256 sequence) public sequenceOf;
    mapping(uint256 index => uint256 word) public statusWord;
    uint64 public batches;
    bool public paused;

    event PaymentInitiated(
        uint64 number,
        bytes16 indexed paymentId,
        address debtor,
        address creditor,
        uint128 amount,
        uint128 fee,
        uint64 expiresAt,
        uint8 terms
    );
    /// @notice Closed at once: it could not be funded.
    event PaymentSetAside(uint64 number, bytes16 indexed paymentId, Reason reason);
    event BatchInitiated(uint64 sequence, bytes32 indexed root, uint256 count);
    event Paused(address indexed by);
    event Unpaused(address indexed by);

    error PaymentRouter__Paused();
    error PaymentRouter__BatchSize(uint256 size);
    error PaymentRouter__TooLate(uint64 initiateBefore);
    error PaymentRouter__NumberUsed(uint64 number);
    error PaymentRouter__InvalidPayment(uint64 number);
    error PaymentRouter__MixedFunding(uint64 number);
    error PaymentRouter__OnlyManager();

    constructor(SettlementManager manager_, uint48 adminDelay, address admin)
        AccessControlDefaultAdminRules(adminDelay, admin)
    {
        manager = manager_;
    }

    /// @notice Opens payments, all funded the same way. One that cannot be funded is set aside; its neighbours go on.
    /// @param initiateBefore the block time from which this call is void: what is not open by then never will be
    function initiateBatch(Payment[] calldata payments, uint64 initiateBefore) external onlyRole(INITIATOR_ROLE) {
        _requireOpenFor(initiateBefore);
        if (payments.length == 0 || payments.length > BATCH_SIZE_MAX) revert PaymentRouter__BatchSize(payments.length);
        bool tokenFunded = payments[0].isTokenFunded();
        uint256 index = payments[0].number.index();
        uint256 word = statusWord[index];
        for (uint256 i = 0; i < payments.length; ++i) {
            Payment calldata payment = payments[i];
            if (payment.isTokenFunded() != tokenFunded) revert PaymentRouter__MixedFunding(payment.number);
            if (payment.number.index() != index) {
                statusWord[index] = word;
                index = payment.number.index();
                word = statusWord[index];
            }
            _requireValid(payment, word);
            Reason reason = tokenFunded ? manager.escrow(payment.debtor, payment.amount) : Reason.None;
            word = _open(payment, word, reason);
        }
        statusWord[index] = word;
        _commit(payments.length == 1 ? payments[0].hash() : PaymentLeaf.root(payments), payments.length);
    }

    /// @notice Opens one payment funded by the debtor's signature (ERC-3009) instead of a standing allowance.
    function initiateWithAuthorization(Payment calldata payment, uint64 initiateBefore, Authorization calldata authorization)
        external
        onlyRole(INITIATOR_ROLE)
    {
        _requireOpenFor(initiateBefore);
        if (!payment.isTokenFunded()) revert PaymentRouter__MixedFunding(payment.number);
        uint256 index = payment.number.index();
        uint256 word = statusWord[index];
        _requireValid(payment, word);
        Reason reason = manager.escrowWithAuthorization(payment.debtor, payment.amount, authorization);
        statusWord[index] = _open(payment, word, reason);
        _commit(payment.hash(), 1);
    }

    /// @notice Where a payment number stands.
    function statusOf(uint64 number) external view returns (Status) {
        return statusWord[number.index()].get(number);
    }

    /// @notice The manager moves what is open to settled or closed, a word at a time.
    function setStatusWord(uint256 index, uint256 word) external {
        if (msg.sender != address(manager)) revert PaymentRouter__OnlyManager();
        statusWord[index] = word;
    }

    function pause() external onlyRole(GUARDIAN_ROLE) {
        paused = true;
        emit Paused(msg.sender);
    }

    function unpause() external onlyRole(GUARDIAN_ROLE) {
        paused = false;
        emit Unpaused(msg.sender);
    }

    function _requireOpenFor(uint64 initiateBefore) private view {
        if (paused) revert PaymentRouter__Paused();
        if (block.timestamp >= initiateBefore) revert PaymentRouter__TooLate(initiateBefore);
    }

    function _requireValid(Payment calldata payment, uint256 word) private view {
        if (word.get(payment.number) != Status.Unused) revert PaymentRouter__NumberUsed(payment.number);
        bool valid = payment.amount > 0 && payment.fee <= payment.amount && payment.expiresAt > block.timestamp
            && payment.terms < 4;
        if (!valid) revert PaymentRouter__InvalidPayment(payment.number);
    }

    function _open(Payment calldata payment, uint256 word, Reason reason) private returns (uint256) {
        if (reason != Reason.None) {
            emit PaymentSetAside(payment.number, payment.paymentId, reason);
            return word.set(payment.number, Status.Closed);
        }
        emit PaymentInitiated(
            payment.number,
            payment.paymentId,
            payment.debtor,
            payment.creditor,
            payment.amount,
            payment.fee,
            payment.expiresAt,
            payment.terms
        );
        return word.set(payment.number, Status.Open);
    }

    function _commit(bytes32 root, uint256 count) private {
        uint64 sequence = ++batches;
        sequenceOf[root] = sequence;
        emit BatchInitiated(sequence, root, count);
    }
}
