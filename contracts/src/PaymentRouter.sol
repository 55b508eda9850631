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

    /// @notice Opens payments. Whoever has it neither settles nor cancels.
    bytes32 public constant INITIATOR_ROLE = keccak256("INITIATOR_ROLE");
    /// @notice Stops initiation.
    bytes32 public constant GUARDIAN_ROLE = keccak256("GUARDIAN_ROLE");

    /// @notice More would not fit a transaction of 16 million gas when it is settled.
    uint256 public constant BATCH_SIZE_MAX = 500;
    /// @notice As many tokens as there can be.
    uint128 public constant AMOUNT_MAX = type(uint96).max;
    /// @notice A payment expires within that time, in seconds: from then on its debtor can take an escrow back.
    uint64 public constant EXPIRY_MAX = 90 days;

    /// @notice The only contract that moves a number on from open.
    SettlementManager public immutable manager;
    /// @notice Which batch, counted from one, committed to a root; zero where none did.
    mapping(bytes32 root => uint256 sequence) public sequenceOf;
    /// @notice Two status bits for each of the 128 numbers from `index * 128` on.
    mapping(uint256 index => uint256 word) public statusWord;
    /// @notice How many batches were initiated.
    uint64 public batches;
    /// @notice Whether initiation is stopped.
    bool public paused;

    /// @notice Open from now on. The only event that says all of a payment.
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
    /// @notice Ends every initiation: its gapless sequence, its root, how many payments were in it, those set aside included.
    event BatchInitiated(uint64 sequence, bytes32 indexed root, uint256 count);
    /// @notice Initiation is stopped.
    event Paused(address indexed by);
    /// @notice Initiation goes on.
    event Unpaused(address indexed by);

    /// @notice Initiation is stopped.
    error PaymentRouter__Paused();
    /// @notice A batch has between one and `BATCH_SIZE_MAX` payments.
    error PaymentRouter__BatchSize(uint256 size);
    /// @notice The block time has reached `initiateBefore`.
    error PaymentRouter__TooLate(uint64 initiateBefore);
    /// @notice The number was used before, alone or in a batch.
    error PaymentRouter__NumberUsed(uint64 number);
    /// @notice Amount, fee, expiry or terms make no sense.
    error PaymentRouter__InvalidPayment(uint64 number);
    /// @notice Payments of one call are all funded the same way.
    error PaymentRouter__MixedFunding(uint64 number);
    /// @notice Only the manager moves numbers on.
    error PaymentRouter__OnlyManager();
    /// @notice A number would go where it may not, back to open for instance.
    error PaymentRouter__IllegalMove(uint256 index, uint256 word, uint256 next);
    /// @notice No key holds two of initiator, settler and canceller.
    error PaymentRouter__RolesNotSeparate(address account);

    /// @param adminDelay seconds between naming a new admin and its acceptance
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
        for (uint256 i = 0; i < payments.length;) {
            (uint256 end, Reason reason, bool each) =
                tokenFunded ? _escrowRun(payments, i) : (payments.length, Reason.None, false);
            for (; i < end; ++i) {
                Payment calldata payment = payments[i];
                if (payment.isTokenFunded() != tokenFunded) revert PaymentRouter__MixedFunding(payment.number);
                if (payment.number.index() != index) {
                    statusWord[index] = word;
                    index = payment.number.index();
                    word = statusWord[index];
                }
                _requireValid(payment, word);
                word = _open(payment, word, each ? manager.escrow(payment.debtor, payment.amount) : reason);
            }
        }
        statusWord[index] = word;
        if (tokenFunded) manager.reportEscrow();
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
        manager.reportEscrow();
        _commit(payment.hash(), 1);
    }

    /// @notice Where a payment number stands.
    function statusOf(uint64 number) external view returns (Status) {
        return statusWord[number.index()].get(number);
    }

    /// @notice The manager moves what is open to settled or closed, and what is settled to closed, a word at a time. Nothing ever
    /// goes back, whatever the manager may ask.
    function setStatusWord(uint256 index, uint256 next) external {
        if (msg.sender != address(manager)) revert PaymentRouter__OnlyManager();
        uint256 word = statusWord[index];
        if (!word.mayBecome(next)) revert PaymentRouter__IllegalMove(index, word, next);
        statusWord[index] = next;
    }

    /// @notice Stops initiation.
    function pause() external onlyRole(GUARDIAN_ROLE) {
        paused = true;
        emit Paused(msg.sender);
    }

    /// @notice Undoes `pause`.
    function unpause() external onlyRole(GUARDIAN_ROLE) {
        paused = false;
        emit Unpaused(msg.sender);
    }

    /// @dev Whoever settles or cancels cannot also initiate. The manager looks here for the other direction.
    function _grantRole(bytes32 role, address account) internal override returns (bool) {
        if (role == INITIATOR_ROLE) {
            bool separate = !manager.hasRole(manager.SETTLER_ROLE(), account)
                && !manager.hasRole(manager.CANCELLER_ROLE(), account);
            if (!separate) revert PaymentRouter__RolesNotSeparate(account);
        }
        return super._grantRole(role, account);
    }

    function _requireOpenFor(uint64 initiateBefore) private view {
        if (paused) revert PaymentRouter__Paused();
        if (block.timestamp >= initiateBefore) revert PaymentRouter__TooLate(initiateBefore);
    }

    function _requireValid(Payment calldata payment, uint256 word) private view {
        if (word.get(payment.number) != Status.Unused) revert PaymentRouter__NumberUsed(payment.number);
        // One comparison for both ends: what has expired wraps around to far above the maximum.
        uint256 rest;
        unchecked {
            rest = payment.expiresAt - block.timestamp - 1;
        }
        bool valid = payment.amount > 0 && payment.amount <= AMOUNT_MAX && payment.fee <= payment.amount
            && rest < EXPIRY_MAX && payment.terms < 4;
        if (!valid) revert PaymentRouter__InvalidPayment(payment.number);
    }

    /// @dev Escrows payments of one debtor that stand together by one transfer, or says that each has to be tried for itself.
    function _escrowRun(Payment[] calldata payments, uint256 begin)
        private
        returns (uint256 end, Reason reason, bool each)
    {
        address debtor = payments[begin].debtor;
        uint256 sum;
        unchecked {
            for (end = begin; end < payments.length; ++end) {
                Payment calldata payment = payments[end];
                if (payment.debtor != debtor) break;
                sum += payment.amount; // 500 times 128 bits do not overflow
            }
        }
        reason = manager.escrow(debtor, sum);
        each = reason != Reason.None && end - begin > 1;
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
