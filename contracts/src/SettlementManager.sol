// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AccessControlDefaultAdminRules} from
    "@openzeppelin/contracts/access/extensions/AccessControlDefaultAdminRules.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {Payment, PaymentLeaf, Reason, Status, StatusWord} from "./Payment.sol";
import {PaymentRouter} from "./PaymentRouter.sol";
import {TokenizedCash} from "./TokenizedCash.sol";

/// @notice A debtor's signed ERC-3009 `ReceiveWithAuthorization` towards the SettlementManager.
struct Authorization {
    uint256 validAfter;
    uint256 validBefore;
    bytes32 nonce;
    uint8 v;
    bytes32 r;
    bytes32 s;
}

/// @title Where payments are paid, undone and redeemed
/// @notice Holds escrowed tokens, mints what banks hold funds for, pays creditors. A payment settles strictly before its expiry and
/// can be expired by anyone from it on. Nothing that one creditor or debtor is or does keeps anybody else's payment from moving.
contract SettlementManager is AccessControlDefaultAdminRules {
    using PaymentLeaf for Payment;
    using StatusWord for uint256;
    using StatusWord for uint64;

    bytes32 public constant SETTLER_ROLE = keccak256("SETTLER_ROLE");
    bytes32 public constant CANCELLER_ROLE = keccak256("CANCELLER_ROLE");
    bytes32 public constant GUARDIAN_ROLE = keccak256("GUARDIAN_ROLE");
    bytes32 public constant COMPLIANCE_ROLE = keccak256("COMPLIANCE_ROLE");

    TokenizedCash public immutable token;
    PaymentRouter public immutable router;
    /// @notice Where fees go.
    address public immutable house;

    struct Held {
        uint64 sequence;
        uint96 escrowed;
        uint96 redemption;
    }

    struct Flow {
        uint128 minted;
        uint128 burned;
    }

    /// @notice What this contract holds: escrow of open and quarantined payments, and tokens whose bank payout is under way.
    Held public held;
    /// @notice What it has minted and burned, ever.
    Flow public flow;
    /// @notice What could not be given back because the wallet cannot receive.
    mapping(address wallet => uint256) public quarantined;
    bool public paused;

    event PaymentSettled(
        uint64 number, bytes16 indexed paymentId, address creditor, uint128 amount, uint128 fee, uint8 terms
    );
    /// @notice Left open: its creditor cannot receive.
    event PaymentSetAside(uint64 number, bytes16 indexed paymentId, Reason reason);
    /// @notice Not done because the payment is not where the caller thought.
    event PaymentSkipped(uint64 number, bytes16 indexed paymentId, Status status);
    event PaymentCancelled(uint64 number, bytes16 indexed paymentId, bool expired);
    event PaymentReclaimed(uint64 number, bytes16 indexed paymentId);
    event RedemptionBurned(uint64 number, bytes16 indexed paymentId, uint128 amount);
    event RedemptionReleased(uint64 number, bytes16 indexed paymentId, address creditor, uint128 amount);
    event Quarantined(address indexed wallet, uint256 amount);
    event QuarantineReleased(address indexed wallet, address to, uint256 amount);
    /// @notice Ends every call that moved money. Gapless sequence, running totals: a gap or a drift shows from events alone.
    event Totals(uint64 sequence, uint128 minted, uint128 burned, uint128 escrowed, uint128 redemption);
    event Paused(address indexed by);
    event Unpaused(address indexed by);

    error SettlementManager__Paused();
    error SettlementManager__OnlyRouter();
    error SettlementManager__UnknownBatch(bytes32 root);
    error SettlementManager__NotOpen(uint64 number, Status status);
    error SettlementManager__NotExpired(uint64 number, uint64 expiresAt);
    error SettlementManager__NotDebtor(uint64 number);
    error SettlementManager__NotRedeemable(uint64 number);
    error SettlementManager__WalletBlocked(address wallet);

    constructor(TokenizedCash token_, PaymentRouter router_, address house_, uint48 adminDelay, address admin)
        AccessControlDefaultAdminRules(adminDelay, admin)
    {
        token = token_;
        router = router_;
        house = house_;
    }

    modifier whenNotPaused() {
        if (paused) revert SettlementManager__Paused();
        _;
    }

    // --------------------------------------------------------------------------------------------------- escrow

    /// @notice Takes a debtor's tokens by standing allowance, or says why it cannot.
    function escrow(address debtor, uint128 amount) external returns (Reason) {
        Reason reason = _requireRouterAndStanding(debtor);
        if (reason != Reason.None) return reason;
        if (token.balanceOf(debtor) < amount || token.allowance(debtor, address(this)) < amount) {
            return Reason.NotFunded;
        }
        token.transferFrom(debtor, address(this), amount);
        return _escrowed(amount);
    }

    /// @notice Takes a debtor's tokens by signature, or says why it cannot.
    function escrowWithAuthorization(address debtor, uint128 amount, Authorization calldata a) external returns (Reason) {
        Reason reason = _requireRouterAndStanding(debtor);
        if (reason != Reason.None) return reason;
        if (token.balanceOf(debtor) < amount) return Reason.NotFunded;
        try token.receiveWithAuthorization(debtor, address(this), amount, a.validAfter, a.validBefore, a.nonce, a.v, a.r, a.s)
        {
            return _escrowed(amount);
        } catch {
            return Reason.Unauthorized;
        }
    }

    // --------------------------------------------------------------------------------------------------- settle

    /// @dev What a batch adds up to while it is settled.
    struct Tally {
        bool tokenFunded;
        uint256 index;
        uint256 word;
        address creditor;
        Reason standing;
        uint256 run;
        uint256 fees;
        uint256 redemption;
        uint256 paid;
    }

    /// @notice Settles the picked payments of a batch. Payments of one creditor that stand together are paid by one transfer.
    /// @param payments the whole batch, as it was initiated
    /// @param picks bit i of word i / 256 picks payment i
    function settleBatch(Payment[] calldata payments, uint256[] calldata picks)
        external
        onlyRole(SETTLER_ROLE)
        whenNotPaused
    {
        _requireBatch(payments);
        Tally memory tally;
        tally.tokenFunded = payments[0].isTokenFunded();
        _load(tally, payments[0].number.index());
        for (uint256 i = 0; i < payments.length; ++i) {
            if (_picked(picks, i)) _settle(tally, payments[i]);
        }
        _finish(tally);
    }

    /// @notice Settles one payment out of its batch.
    function settle(Payment calldata payment, bytes32[] calldata proof) external onlyRole(SETTLER_ROLE) whenNotPaused {
        _requireLeaf(payment, proof);
        Tally memory tally;
        tally.tokenFunded = payment.isTokenFunded();
        _load(tally, payment.number.index());
        _settle(tally, payment);
        _finish(tally);
    }

    // ----------------------------------------------------------------------------------------- cancel and expire

    /// @notice Closes the picked payments of a batch, at any time while they are open.
    function cancelBatch(Payment[] calldata payments, uint256[] calldata picks) external onlyRole(CANCELLER_ROLE) {
        _requireBatch(payments);
        for (uint256 i = 0; i < payments.length; ++i) {
            if (_picked(picks, i)) _cancel(payments[i], false);
        }
        _emitTotals();
    }

    /// @notice Closes one payment, at any time while it is open.
    function cancel(Payment calldata payment, bytes32[] calldata proof) external onlyRole(CANCELLER_ROLE) {
        _requireLeaf(payment, proof);
        _cancel(payment, false);
        _emitTotals();
    }

    /// @notice Closes an expired payment. Anyone may.
    function expire(Payment calldata payment, bytes32[] calldata proof) external {
        _requireLeaf(payment, proof);
        _requireExpired(payment);
        _cancel(payment, true);
        _emitTotals();
    }

    /// @notice The debtor takes an expired escrow back, without us and even while we are paused.
    function reclaim(Payment calldata payment, bytes32[] calldata proof) external {
        _requireLeaf(payment, proof);
        _requireExpired(payment);
        if (msg.sender != payment.debtor || !payment.isTokenFunded()) revert SettlementManager__NotDebtor(payment.number);
        Status status = _move(payment.number, Status.Open, Status.Closed);
        if (status != Status.Open) revert SettlementManager__NotOpen(payment.number, status);
        emit PaymentReclaimed(payment.number, payment.paymentId);
        _giveBack(payment);
        _emitTotals();
    }

    // ------------------------------------------------------------------------------------------------ redemption

    /// @notice Burns the tokens of picked payments whose bank payout is done.
    function burnRedeemedBatch(Payment[] calldata payments, uint256[] calldata picks) external onlyRole(SETTLER_ROLE) {
        _requireBatch(payments);
        uint256 burned;
        for (uint256 i = 0; i < payments.length; ++i) {
            if (_picked(picks, i)) burned += _closeRedeemed(payments[i]);
        }
        _burn(burned);
    }

    /// @notice Burns the tokens of one payment whose bank payout is done.
    function burnRedeemed(Payment calldata payment, bytes32[] calldata proof) external onlyRole(SETTLER_ROLE) {
        _requireLeaf(payment, proof);
        _burn(_closeRedeemed(payment));
    }

    /// @notice Gives the tokens of a payment whose bank payout was declined to its creditor's wallet.
    function releaseRedemption(Payment calldata payment, bytes32[] calldata proof) external onlyRole(SETTLER_ROLE) {
        _requireLeaf(payment, proof);
        if (!payment.isPaidOutByBank()) revert SettlementManager__NotRedeemable(payment.number);
        Status status = _move(payment.number, Status.Settled, Status.Closed);
        if (status != Status.Settled) {
            emit PaymentSkipped(payment.number, payment.paymentId, status);
        } else {
            uint128 net = payment.amount - payment.fee;
            held.redemption -= uint96(net);
            emit RedemptionReleased(payment.number, payment.paymentId, payment.creditor, net);
            _send(payment.creditor, net);
        }
        _emitTotals();
    }

    /// @notice Sends what was quarantined for a wallet to where compliance says.
    function releaseQuarantine(address wallet, address to) external onlyRole(COMPLIANCE_ROLE) {
        uint256 amount = quarantined[wallet];
        quarantined[wallet] = 0;
        held.escrowed -= uint96(amount);
        emit QuarantineReleased(wallet, to, amount);
        token.transfer(to, amount);
        _emitTotals();
    }

    // ------------------------------------------------------------------------------------------------- guardian

    /// @notice Stops settlement; never cancellation, expiry or reclaiming.
    function pause() external onlyRole(GUARDIAN_ROLE) {
        paused = true;
        emit Paused(msg.sender);
    }

    function unpause() external onlyRole(GUARDIAN_ROLE) {
        paused = false;
        emit Unpaused(msg.sender);
    }

    // -------------------------------------------------------------------------------------------------- private

    function _requireRouterAndStanding(address debtor) private view returns (Reason) {
        if (msg.sender != address(router)) revert SettlementManager__OnlyRouter();
        return _standing(debtor);
    }

    function _escrowed(uint128 amount) private returns (Reason) {
        held.escrowed += uint96(amount);
        return Reason.None;
    }

    function _standing(address wallet) private view returns (Reason) {
        if (token.isInGoodStanding(wallet)) return Reason.None;
        return token.isRegistered(wallet) ? Reason.Frozen : Reason.Unregistered;
    }

    function _requireBatch(Payment[] calldata payments) private view {
        bytes32 root = PaymentLeaf.root(payments);
        if (router.sequenceOf(root) == 0) revert SettlementManager__UnknownBatch(root);
    }

    function _requireLeaf(Payment calldata payment, bytes32[] calldata proof) private view {
        bytes32 root = MerkleProof.processProofCalldata(proof, payment.hash());
        if (router.sequenceOf(root) == 0) revert SettlementManager__UnknownBatch(root);
    }

    function _requireExpired(Payment calldata payment) private view {
        if (block.timestamp < payment.expiresAt) {
            revert SettlementManager__NotExpired(payment.number, payment.expiresAt);
        }
    }

    function _picked(uint256[] calldata picks, uint256 i) private pure returns (bool) {
        return (picks[i / 256] >> (i % 256)) & 1 != 0;
    }

    function _load(Tally memory tally, uint256 index) private view {
        tally.index = index;
        tally.word = router.statusWord(index);
    }

    function _settle(Tally memory tally, Payment calldata payment) private {
        if (payment.number.index() != tally.index) {
            router.setStatusWord(tally.index, tally.word);
            _load(tally, payment.number.index());
        }
        Status status = tally.word.get(payment.number);
        if (status != Status.Open || block.timestamp >= payment.expiresAt) {
            emit PaymentSkipped(payment.number, payment.paymentId, status);
            return;
        }
        bool byBank = payment.isPaidOutByBank();
        if (!byBank && payment.creditor != tally.creditor) {
            _payRun(tally);
            tally.creditor = payment.creditor;
            tally.standing = _standing(payment.creditor);
        }
        if (!byBank && tally.standing != Reason.None) {
            emit PaymentSetAside(payment.number, payment.paymentId, tally.standing);
            return;
        }
        tally.word = tally.word.set(payment.number, Status.Settled);
        uint256 net = payment.amount - payment.fee;
        if (byBank) tally.redemption += net;
        else tally.run += net;
        tally.fees += payment.fee;
        emit PaymentSettled(
            payment.number, payment.paymentId, payment.creditor, payment.amount, payment.fee, payment.terms
        );
    }

    /// @dev Pays what has added up for one creditor.
    function _payRun(Tally memory tally) private {
        if (tally.run == 0) return;
        _pay(tally, tally.creditor, tally.run);
        tally.run = 0;
    }

    function _pay(Tally memory tally, address to, uint256 amount) private {
        tally.paid += amount;
        if (tally.tokenFunded) token.transfer(to, amount);
        else token.mint(to, amount);
    }

    function _finish(Tally memory tally) private {
        router.setStatusWord(tally.index, tally.word);
        _payRun(tally);
        if (tally.redemption != 0) {
            tally.paid += tally.redemption;
            held.redemption += uint96(tally.redemption);
            if (!tally.tokenFunded) token.mint(address(this), tally.redemption);
        }
        uint256 kept = _payFees(tally);
        if (tally.tokenFunded) held.escrowed = held.escrowed - uint96(tally.paid) + uint96(kept);
        else {
            flow.minted += uint128(tally.paid);
            held.escrowed += uint96(kept);
        }
        _emitTotals();
    }

    /// @dev A house wallet that cannot receive does not stop a settlement: the fees wait here.
    function _payFees(Tally memory tally) private returns (uint256 kept) {
        if (tally.fees == 0) return 0;
        if (_standing(house) == Reason.None) {
            _pay(tally, house, tally.fees);
            return 0;
        }
        tally.paid += tally.fees;
        if (!tally.tokenFunded) token.mint(address(this), tally.fees);
        quarantined[house] += tally.fees;
        emit Quarantined(house, tally.fees);
        return tally.fees;
    }

    function _cancel(Payment calldata payment, bool expired) private {
        Status status = _move(payment.number, Status.Open, Status.Closed);
        if (status != Status.Open) {
            emit PaymentSkipped(payment.number, payment.paymentId, status);
            return;
        }
        emit PaymentCancelled(payment.number, payment.paymentId, expired);
        if (payment.isTokenFunded()) _giveBack(payment);
    }

    /// @dev Moves one number on if it stands at `from`; says where it stood.
    function _move(uint64 number, Status from, Status to) private returns (Status status) {
        uint256 index = number.index();
        uint256 word = router.statusWord(index);
        status = word.get(number);
        if (status == from) router.setStatusWord(index, word.set(number, to));
    }

    function _giveBack(Payment calldata payment) private {
        held.escrowed -= uint96(payment.amount);
        _send(payment.debtor, payment.amount);
    }

    function _send(address wallet, uint256 amount) private {
        if (!token.paused() && _standing(wallet) == Reason.None) {
            token.transfer(wallet, amount);
            return;
        }
        quarantined[wallet] += amount;
        held.escrowed += uint96(amount);
        emit Quarantined(wallet, amount);
    }

    function _closeRedeemed(Payment calldata payment) private returns (uint128 net) {
        if (!payment.isPaidOutByBank()) revert SettlementManager__NotRedeemable(payment.number);
        Status status = _move(payment.number, Status.Settled, Status.Closed);
        if (status != Status.Settled) {
            emit PaymentSkipped(payment.number, payment.paymentId, status);
            return 0;
        }
        net = payment.amount - payment.fee;
        emit RedemptionBurned(payment.number, payment.paymentId, net);
    }

    function _burn(uint256 amount) private {
        if (amount != 0) {
            held.redemption -= uint96(amount);
            flow.burned += uint128(amount);
            token.burn(amount);
        }
        _emitTotals();
    }

    function _emitTotals() private {
        Held memory now_ = held;
        now_.sequence += 1;
        held.sequence = now_.sequence;
        Flow memory flow_ = flow;
        emit Totals(now_.sequence, flow_.minted, flow_.burned, now_.escrowed, now_.redemption);
    }
}
