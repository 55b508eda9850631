// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AccessControlDefaultAdminRules} from
    "@openzeppelin/contracts/access/extensions/AccessControlDefaultAdminRules.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
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
    using SafeCast for uint256;

    /// @notice Settles, burns, releases. Whoever has it neither initiates nor cancels.
    bytes32 public constant SETTLER_ROLE = keccak256("SETTLER_ROLE");
    /// @notice Cancels. Whoever has it neither initiates nor settles.
    bytes32 public constant CANCELLER_ROLE = keccak256("CANCELLER_ROLE");
    /// @notice Stops settlement and redemption.
    bytes32 public constant GUARDIAN_ROLE = keccak256("GUARDIAN_ROLE");
    /// @notice Says where quarantined and stray tokens go.
    bytes32 public constant COMPLIANCE_ROLE = keccak256("COMPLIANCE_ROLE");

    /// @notice What payments are in.
    TokenizedCash public immutable token;
    /// @notice Where payments are opened and their numbers' status is kept.
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
    /// @notice Whether settlement and redemption are stopped.
    bool public paused;

    /// @notice Paid: to the creditor's wallet, or into redemption if its bank pays. What was initiated says how much and to whom.
    event PaymentSettled(uint64 number, bytes16 indexed paymentId);
    /// @notice Left open: its creditor cannot receive.
    event PaymentSetAside(uint64 number, bytes16 indexed paymentId, Reason reason);
    /// @notice Not done because the payment is not where the caller thought.
    event PaymentSkipped(uint64 number, bytes16 indexed paymentId, Status status);
    /// @notice Closed by us, or by anyone once it had expired; its escrow went back.
    event PaymentCancelled(uint64 number, bytes16 indexed paymentId, bool expired);
    /// @notice Closed by its debtor after it had expired; its escrow went back.
    event PaymentReclaimed(uint64 number, bytes16 indexed paymentId);
    /// @notice The creditor's bank has paid; the tokens are gone.
    event RedemptionBurned(uint64 number, bytes16 indexed paymentId, uint128 amount);
    /// @notice The creditor's bank has declined; the creditor's wallet has the tokens.
    event RedemptionReleased(uint64 number, bytes16 indexed paymentId, address creditor, uint128 amount);
    /// @notice The wallet cannot receive; the tokens wait here for it.
    event Quarantined(address indexed wallet, uint256 amount);
    /// @notice What waited for `wallet` went to `to`.
    event QuarantineReleased(address indexed wallet, address to, uint256 amount);
    /// @notice Tokens that were here for no payment went to `to`.
    event SurplusReleased(address indexed to, uint256 amount);
    /// @notice Ends every call that moved money. Gapless sequence, running totals: a gap or a drift shows from events alone.
    event Totals(uint64 sequence, uint128 minted, uint128 burned, uint128 escrowed, uint128 redemption);
    /// @notice Settlement and redemption are stopped.
    event Paused(address indexed by);
    /// @notice Settlement and redemption go on.
    event Unpaused(address indexed by);

    /// @notice Settlement and redemption are stopped.
    error SettlementManager__Paused();
    /// @notice Escrow is taken at initiation only.
    error SettlementManager__OnlyRouter();
    /// @notice No batch was initiated that has this root.
    error SettlementManager__UnknownBatch(bytes32 root);
    /// @notice There is nothing to take back: the payment is not open.
    error SettlementManager__NotOpen(uint64 number, Status status);
    /// @notice The payment can still be settled.
    error SettlementManager__NotExpired(uint64 number, uint64 expiresAt);
    /// @notice Only the debtor of a payment funded by token takes it back.
    error SettlementManager__NotDebtor(uint64 number);
    /// @notice The payment is not paid out by a bank.
    error SettlementManager__NotRedeemable(uint64 number);
    /// @notice The wallet cannot receive yet.
    error SettlementManager__WalletBlocked(address wallet);
    /// @notice The wallet can receive, so what waits for it goes nowhere else.
    error SettlementManager__WalletInGoodStanding(address wallet);
    /// @notice No key holds two of initiator, settler and canceller.
    error SettlementManager__RolesNotSeparate(address account);

    /// @param router_ the address that the router will have; the two name each other
    /// @param adminDelay seconds between naming a new admin and its acceptance
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
    function escrow(address debtor, uint256 amount) external returns (Reason) {
        Reason reason = _requireRouterAndStanding(debtor);
        if (reason != Reason.None) return reason;
        if (token.availableBalanceOf(debtor) < amount || token.allowance(debtor, address(this)) < amount) {
            return Reason.NotFunded;
        }
        // Only the router asks, for the debtor of a payment; what the debtor allows this contract is for that.
        // slither-disable-next-line arbitrary-send-erc20
        token.transferFrom(debtor, address(this), amount);
        return _escrowed(amount);
    }

    /// @notice Takes a debtor's tokens by signature, or says why it cannot.
    function escrowWithAuthorization(address debtor, uint128 amount, Authorization calldata a) external returns (Reason) {
        Reason reason = _requireRouterAndStanding(debtor);
        if (reason != Reason.None) return reason;
        if (token.availableBalanceOf(debtor) < amount) return Reason.NotFunded;
        try token.receiveWithAuthorization(debtor, address(this), amount, a.validAfter, a.validBefore, a.nonce, a.v, a.r, a.s)
        {
            return _escrowed(amount);
        } catch {
            return Reason.Unauthorized;
        }
    }

    /// @notice The router ends every initiation that may have taken escrow with the totals.
    function reportEscrow() external {
        if (msg.sender != address(router)) revert SettlementManager__OnlyRouter();
        _emitTotals();
    }

    // --------------------------------------------------------------------------------------------------- settle

    /// @dev What a batch adds up to while it is settled.
    struct Tally {
        bool tokenFunded;
        uint256 index;
        uint256 word;
        address creditor;
        uint256 run;
        uint256 fees;
        uint256 redemption;
        uint256 paid;
        uint256 receivers;
        address[] to; // the first `receivers` of it are used
        uint256[] amounts;
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
        Tally memory tally = _begin(payments[0], payments.length);
        address[] memory creditors = new address[](payments.length);
        for (uint256 i = 0; i < payments.length; ++i) {
            if (_picked(picks, i)) creditors[i] = payments[i].creditor;
        }
        uint256[] memory blocked = token.blockedAmong(creditors);
        for (uint256 i = 0; i < payments.length; ++i) {
            if (_picked(picks, i)) _settle(tally, payments[i], (blocked[i / 256] >> (i % 256)) & 1 != 0);
        }
        _finish(tally);
    }

    /// @notice Settles one payment out of its batch.
    function settle(Payment calldata payment, bytes32[] calldata proof) external onlyRole(SETTLER_ROLE) whenNotPaused {
        _requireLeaf(payment, proof);
        Tally memory tally = _begin(payment, 1);
        _settle(tally, payment, !token.isInGoodStanding(payment.creditor));
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
    function burnRedeemedBatch(Payment[] calldata payments, uint256[] calldata picks)
        external
        onlyRole(SETTLER_ROLE)
        whenNotPaused
    {
        _requireBatch(payments);
        uint256 burned;
        for (uint256 i = 0; i < payments.length; ++i) {
            if (_picked(picks, i)) burned += _closeRedeemed(payments[i]);
        }
        _burn(burned);
    }

    /// @notice Burns the tokens of one payment whose bank payout is done.
    function burnRedeemed(Payment calldata payment, bytes32[] calldata proof)
        external
        onlyRole(SETTLER_ROLE)
        whenNotPaused
    {
        _requireLeaf(payment, proof);
        _burn(_closeRedeemed(payment));
    }

    /// @notice Gives the tokens of a payment whose bank payout was declined to its creditor's wallet.
    function releaseRedemption(Payment calldata payment, bytes32[] calldata proof)
        external
        onlyRole(SETTLER_ROLE)
        whenNotPaused
    {
        _requireLeaf(payment, proof);
        if (!payment.isPaidOutByBank()) revert SettlementManager__NotRedeemable(payment.number);
        Status status = _move(payment.number, Status.Settled, Status.Closed);
        if (status != Status.Settled) {
            emit PaymentSkipped(payment.number, payment.paymentId, status);
        } else {
            uint128 net = payment.amount - payment.fee;
            held.redemption -= uint256(net).toUint96();
            emit RedemptionReleased(payment.number, payment.paymentId, payment.creditor, net);
            _send(payment.creditor, net);
        }
        _emitTotals();
    }

    /// @notice Sends what was quarantined for a wallet to where compliance says; elsewhere only while the wallet cannot receive.
    function releaseQuarantine(address wallet, address to) external onlyRole(COMPLIANCE_ROLE) {
        if (to != wallet && _standing(wallet) == Reason.None) revert SettlementManager__WalletInGoodStanding(wallet);
        _releaseQuarantine(wallet, to);
    }

    /// @notice Gives a wallet that can receive again what waited for it. Anyone may, so nobody depends on us for it.
    function claimQuarantine(address wallet) external {
        if (_standing(wallet) != Reason.None) revert SettlementManager__WalletBlocked(wallet);
        _releaseQuarantine(wallet, wallet);
    }

    /// @notice Sends tokens that came here for no payment, by a plain transfer for instance, to where compliance says.
    function releaseSurplus(address to) external onlyRole(COMPLIANCE_ROLE) {
        uint256 surplus = token.balanceOf(address(this)) - held.escrowed - held.redemption;
        emit SurplusReleased(to, surplus);
        token.transfer(to, surplus);
        _emitTotals();
    }

    // ------------------------------------------------------------------------------------------------- guardian

    /// @notice Stops whatever the settler's key can do; never cancellation, expiry or reclaiming.
    function pause() external onlyRole(GUARDIAN_ROLE) {
        paused = true;
        emit Paused(msg.sender);
    }

    /// @notice Undoes `pause`.
    function unpause() external onlyRole(GUARDIAN_ROLE) {
        paused = false;
        emit Unpaused(msg.sender);
    }

    // -------------------------------------------------------------------------------------------------- private

    /// @dev Whoever initiates cannot settle or cancel, whoever settles cannot cancel. The router looks here for the other direction.
    function _grantRole(bytes32 role, address account) internal override returns (bool) {
        if (role == SETTLER_ROLE || role == CANCELLER_ROLE) {
            bool separate = !hasRole(role == SETTLER_ROLE ? CANCELLER_ROLE : SETTLER_ROLE, account)
                && !router.hasRole(router.INITIATOR_ROLE(), account);
            if (!separate) revert SettlementManager__RolesNotSeparate(account);
        }
        return super._grantRole(role, account);
    }

    function _releaseQuarantine(address wallet, address to) private {
        uint256 amount = quarantined[wallet];
        quarantined[wallet] = 0;
        held.escrowed -= amount.toUint96();
        emit QuarantineReleased(wallet, to, amount);
        token.transfer(to, amount);
        _emitTotals();
    }

    function _requireRouterAndStanding(address debtor) private view returns (Reason) {
        if (msg.sender != address(router)) revert SettlementManager__OnlyRouter();
        return _standing(debtor);
    }

    function _escrowed(uint256 amount) private returns (Reason) {
        held.escrowed += amount.toUint96();
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

    /// @dev At most one receiver a payment, the house, and the redemption held here.
    function _begin(Payment calldata first, uint256 count) private view returns (Tally memory tally) {
        tally.tokenFunded = first.isTokenFunded();
        (tally.to, tally.amounts) = (new address[](count + 2), new uint256[](count + 2));
        _load(tally, first.number.index());
    }

    function _load(Tally memory tally, uint256 index) private view {
        tally.index = index;
        tally.word = router.statusWord(index);
    }

    function _settle(Tally memory tally, Payment calldata payment, bool blocked) private {
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
        if (blocked && !byBank) {
            emit PaymentSetAside(payment.number, payment.paymentId, _standing(payment.creditor));
            return;
        }
        tally.word = tally.word.set(payment.number, Status.Settled);
        uint256 net = payment.amount - payment.fee;
        if (byBank) tally.redemption += net;
        else _addToRun(tally, payment.creditor, net);
        tally.fees += payment.fee;
        emit PaymentSettled(payment.number, payment.paymentId);
    }

    function _addToRun(Tally memory tally, address creditor, uint256 net) private view {
        if (creditor != tally.creditor) {
            _payRun(tally);
            tally.creditor = creditor;
        }
        tally.run += net;
    }

    /// @dev Pays what has added up for one creditor.
    function _payRun(Tally memory tally) private view {
        if (tally.run == 0) return;
        _pay(tally, tally.creditor, tally.run);
        tally.run = 0;
    }

    /// @dev Notes who gets what. What comes out of escrow and stays here is not sent.
    function _pay(Tally memory tally, address to, uint256 amount) private view {
        tally.paid += amount;
        if (tally.tokenFunded && to == address(this)) return;
        (tally.to[tally.receivers], tally.amounts[tally.receivers]) = (to, amount);
        ++tally.receivers;
    }

    /// @dev Everybody is paid by one call.
    function _payOut(Tally memory tally) private {
        (address[] memory to, uint256[] memory amounts, uint256 receivers) = (tally.to, tally.amounts, tally.receivers);
        if (receivers == 0) return;
        assembly ("memory-safe") {
            mstore(to, receivers)
            mstore(amounts, receivers)
        }
        if (tally.tokenFunded) token.transferMany(to, amounts);
        else token.mintMany(to, amounts);
    }

    function _finish(Tally memory tally) private {
        router.setStatusWord(tally.index, tally.word);
        _payRun(tally);
        if (tally.redemption != 0) {
            held.redemption += tally.redemption.toUint96();
            _pay(tally, address(this), tally.redemption);
        }
        uint256 kept = _payFees(tally);
        _payOut(tally);
        if (tally.tokenFunded) held.escrowed = held.escrowed - tally.paid.toUint96() + kept.toUint96();
        else {
            flow.minted += tally.paid.toUint128();
            held.escrowed += kept.toUint96();
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
        _pay(tally, address(this), tally.fees);
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
        held.escrowed -= uint256(payment.amount).toUint96();
        _send(payment.debtor, payment.amount);
    }

    function _send(address wallet, uint256 amount) private {
        if (token.canTransfer(address(this), wallet, amount)) {
            token.transfer(wallet, amount);
            return;
        }
        quarantined[wallet] += amount;
        held.escrowed += amount.toUint96();
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
            held.redemption -= amount.toUint96();
            flow.burned += amount.toUint128();
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
