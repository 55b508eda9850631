// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {TokenizedCash} from "./TokenizedCash.sol";

/// @notice One call of an operation.
struct Call {
    address to;
    uint256 value; // wei
    bytes data;
}

/// @title M of N owners act as one
/// @notice Holds treasury and admin rights. Owners sign an operation (EIP-712) away from the chain; whoever has enough signatures
/// executes it, all its calls or none. Operations are done in the order of their nonces, each nonce once; the digest names chain
/// and vault, so a signature counts nowhere else. Only plain transfers within a daily limit, and mint allowances within their cap, are
/// done at once. Everything else waits: it is scheduled first and executed after the delay, and in between the owners can cancel it.
/// Meanwhile no other operation is executed. Scheduling what need not wait delays nothing: it can be executed all the same.
/// @dev Immutable and without delegate calls. Owners are externally owned keys. Small enough to be read and proven; a house that wants
/// modules and contract owners takes Safe instead.
contract MultiSigVault is EIP712, ReentrancyGuardTransient {
    /// @notice What owners sign.
    bytes32 public constant OPERATION_TYPEHASH = keccak256(
        "Operation(uint256 nonce,uint64 deadline,Call[] calls)Call(address to,uint256 value,bytes data)"
    );
    /// @notice One call of what they sign.
    bytes32 public constant CALL_TYPEHASH = keccak256("Call(address to,uint256 value,bytes data)");
    /// @notice What owners sign to drop the operation that is scheduled.
    bytes32 public constant CANCELLATION_TYPEHASH = keccak256("Cancellation(uint256 nonce,uint64 deadline)");
    /// @notice More owners would only make approvals dear.
    uint256 public constant OWNERS_MAX = 32;
    /// @notice A delay that nobody waits for is no protection but a lock.
    uint64 public constant DELAY_MAX = 30 days;

    /// @notice What may leave without delay of one token within a day, and what has.
    struct Limit {
        uint128 perDay;
        uint64 day;
        uint128 spent;
    }

    /// @notice Whether this key is an owner.
    mapping(address owner => bool) public isOwner;
    /// @notice How many owners there are.
    uint16 public owners;
    /// @notice How many of them must approve.
    uint16 public threshold;
    /// @notice Seconds that a large operation waits.
    uint64 public delay;
    /// @notice The nonce of the next operation.
    uint256 public nonce;
    /// @notice The digest of the operation that waits, zero if none does. It has the nonce `nonce`.
    bytes32 public scheduled;
    /// @notice From when on it may be executed, as block time.
    uint64 public readyAt;
    /// @notice Daily limits by token; the zero address stands for the chain's own coin.
    mapping(address token => Limit) public limitOf;
    /// @notice Up to what allowance to mint a minter of a token is set without delay.
    mapping(address token => mapping(address minter => uint256)) public mintCapOf;

    /// @notice The operation waits until `readyAt`.
    event Scheduled(uint256 indexed nonce, bytes32 digest, uint64 readyAt);
    /// @notice All calls of the operation were made.
    event Executed(uint256 indexed nonce, bytes32 digest);
    /// @notice The nonce is used up without any call.
    event Cancelled(uint256 indexed nonce);
    /// @notice A key became an owner.
    event OwnerAdded(address indexed owner);
    /// @notice A key is no owner any more.
    event OwnerRemoved(address indexed owner);
    /// @notice That many owners must approve from now on.
    event ThresholdChanged(uint16 threshold);
    /// @notice Large operations wait that many seconds from now on.
    event DelayChanged(uint64 delay);
    /// @notice That much of a token may leave within a day without delay from now on.
    event LimitChanged(address indexed token, uint128 perDay);
    /// @notice A minter's allowance is set without delay up to that from now on.
    event MintCapChanged(address indexed token, address indexed minter, uint256 cap);
    /// @notice The vault received coins.
    event Received(address indexed from, uint256 amount);

    /// @notice An operation of the vault itself is the only way.
    error MultiSigVault__OnlySelf();
    /// @notice Not as many signatures as owners must approve.
    error MultiSigVault__NotEnoughApprovals(uint256 given, uint256 needed);
    /// @notice The signatures are not by owners in ascending order of their addresses.
    error MultiSigVault__NotAnOwnerOrOutOfOrder(address signer);
    /// @notice The block time has reached the deadline that was signed, or will have before the delay is over.
    error MultiSigVault__TooLate(uint64 deadline);
    /// @notice This operation must be scheduled first.
    error MultiSigVault__NotScheduled(bytes32 digest);
    /// @notice The delay is not over.
    error MultiSigVault__NotReady(uint64 readyAt);
    /// @notice Another operation waits already, or this one does.
    error MultiSigVault__AlreadyScheduled(bytes32 digest);
    /// @notice A call failed; nothing was done.
    error MultiSigVault__CallFailed(uint256 index, bytes reason);
    /// @notice Owners, threshold or delay would make no sense.
    error MultiSigVault__InvalidSettings();

    /// @param owners_ the keys, in any order, each once
    /// @param threshold_ how many of them must approve
    /// @param delay_ seconds that a large operation waits
    constructor(address[] memory owners_, uint16 threshold_, uint64 delay_) EIP712("FlowBridge MultiSigVault", "1") {
        for (uint256 i = 0; i < owners_.length; ++i) {
            _addOwner(owners_[i]);
        }
        _setThreshold(threshold_);
        _setDelay(delay_);
    }

    /// @notice Coins are welcome.
    receive() external payable {
        emit Received(msg.sender, msg.value);
    }

    // ------------------------------------------------------------------------------------------------ operations

    /// @notice Makes the calls of the next operation, all or none. Anyone with the signatures may.
    /// @param signatures of at least `threshold` owners over `digestOf`, 65 bytes each, ascending by the owner's address
    function execute(Call[] calldata calls, uint64 deadline, bytes[] calldata signatures) external nonReentrant {
        bytes32 digest = _useNonce(calls, deadline, signatures);
        bool waits = scheduled != 0;
        if (waits && scheduled != digest) revert MultiSigVault__NotScheduled(digest);
        if (!waits || block.timestamp < readyAt) {
            if (!_withinLimits(calls)) {
                if (waits) revert MultiSigVault__NotReady(readyAt);
                revert MultiSigVault__NotScheduled(digest);
            }
        }
        (scheduled, readyAt) = (0, 0);
        emit Executed(nonce - 1, digest);
        for (uint256 i = 0; i < calls.length; ++i) {
            (bool done, bytes memory answer) = calls[i].to.call{value: calls[i].value}(calls[i].data);
            // A token may answer false instead of failing.
            bool refused = answer.length == 32 && _isTokenCall(calls[i].data) && uint256(bytes32(answer)) == 0;
            if (!done || refused) revert MultiSigVault__CallFailed(i, answer);
        }
    }

    /// @notice Starts the delay of the next operation. It is executed with the same signatures after it, so they must last that long.
    function schedule(Call[] calldata calls, uint64 deadline, bytes[] calldata signatures) external {
        bytes32 digest = digestOf(nonce, deadline, calls);
        if (scheduled != 0) revert MultiSigVault__AlreadyScheduled(scheduled);
        _requireApproved(digest, deadline, signatures);
        uint64 ready = uint64(block.timestamp) + delay;
        if (deadline <= ready) revert MultiSigVault__TooLate(deadline);
        (scheduled, readyAt) = (digest, ready);
        emit Scheduled(nonce, digest, readyAt);
    }

    /// @notice Uses up the next nonce, whatever was scheduled or signed for it.
    function cancel(uint64 deadline, bytes[] calldata signatures) external {
        _requireApproved(cancellationDigestOf(nonce, deadline), deadline, signatures);
        (scheduled, readyAt) = (0, 0);
        emit Cancelled(nonce++);
    }

    /// @notice What owners sign to approve calls under a nonce until a deadline.
    function digestOf(uint256 nonce_, uint64 deadline, Call[] calldata calls) public view returns (bytes32) {
        bytes32[] memory hashes = new bytes32[](calls.length);
        for (uint256 i = 0; i < calls.length; ++i) {
            hashes[i] = keccak256(abi.encode(CALL_TYPEHASH, calls[i].to, calls[i].value, keccak256(calls[i].data)));
        }
        bytes32 callsHash = keccak256(abi.encodePacked(hashes));
        return _hashTypedDataV4(keccak256(abi.encode(OPERATION_TYPEHASH, nonce_, deadline, callsHash)));
    }

    /// @notice What owners sign to use up a nonce.
    function cancellationDigestOf(uint256 nonce_, uint64 deadline) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(CANCELLATION_TYPEHASH, nonce_, deadline)));
    }

    // ------------------------------------------------------------------------------------------------ settings

    /// @notice Makes a key an owner. By operation only.
    function addOwner(address owner) external onlySelf {
        _addOwner(owner);
    }

    /// @notice A key is no owner any more. By operation only; as many owners stay as must approve.
    function removeOwner(address owner) external onlySelf {
        if (!isOwner[owner] || owners <= threshold) revert MultiSigVault__InvalidSettings();
        isOwner[owner] = false;
        --owners;
        emit OwnerRemoved(owner);
    }

    /// @notice How many owners must approve. By operation only.
    function setThreshold(uint16 threshold_) external onlySelf {
        _setThreshold(threshold_);
    }

    /// @notice How long large operations wait. By operation only, which waits itself.
    function setDelay(uint64 delay_) external onlySelf {
        _setDelay(delay_);
    }

    /// @notice What of a token may leave within a day without delay. By operation only, which waits itself.
    function setLimit(address token, uint128 perDay) external onlySelf {
        limitOf[token].perDay = perDay;
        emit LimitChanged(token, perDay);
    }

    /// @notice Up to what allowance a minter is set without delay, as `configureMinter` of the token does. By operation only, which
    /// waits itself.
    function setMintCap(address token, address minter, uint256 cap) external onlySelf {
        mintCapOf[token][minter] = cap;
        emit MintCapChanged(token, minter, cap);
    }

    // ------------------------------------------------------------------------------------------------ private

    modifier onlySelf() {
        if (msg.sender != address(this)) revert MultiSigVault__OnlySelf();
        _;
    }

    function _addOwner(address owner) private {
        bool valid = owner != address(0) && owner != address(this) && !isOwner[owner] && owners < OWNERS_MAX;
        if (!valid) revert MultiSigVault__InvalidSettings();
        isOwner[owner] = true;
        ++owners;
        emit OwnerAdded(owner);
    }

    function _setThreshold(uint16 threshold_) private {
        if (threshold_ == 0 || threshold_ > owners) revert MultiSigVault__InvalidSettings();
        threshold = threshold_;
        emit ThresholdChanged(threshold_);
    }

    function _setDelay(uint64 delay_) private {
        if (delay_ > DELAY_MAX) revert MultiSigVault__InvalidSettings();
        delay = delay_;
        emit DelayChanged(delay_);
    }

    /// @dev The nonce is used before any call is made, so that a call cannot come back with the same signatures.
    function _useNonce(Call[] calldata calls, uint64 deadline, bytes[] calldata signatures) private returns (bytes32 digest) {
        digest = digestOf(nonce, deadline, calls);
        _requireApproved(digest, deadline, signatures);
        ++nonce;
    }

    /// @dev Ascending addresses make each signer count once.
    function _requireApproved(bytes32 digest, uint64 deadline, bytes[] calldata signatures) private view {
        if (block.timestamp >= deadline) revert MultiSigVault__TooLate(deadline);
        if (signatures.length < threshold) revert MultiSigVault__NotEnoughApprovals(signatures.length, threshold);
        address last;
        for (uint256 i = 0; i < signatures.length; ++i) {
            address signer = ECDSA.recover(digest, signatures[i]);
            if (signer <= last || !isOwner[signer]) revert MultiSigVault__NotAnOwnerOrOutOfOrder(signer);
            last = signer;
        }
    }

    /// @dev Whether every call is one that need not wait, and all transfers together stay within the limits of the day; counts them.
    function _withinLimits(Call[] calldata calls) private returns (bool) {
        for (uint256 i = 0; i < calls.length; ++i) {
            bytes calldata data = calls[i].data;
            if (data.length == 0) {
                if (!_spend(address(0), calls[i].value)) return false;
                continue;
            }
            if (calls[i].value != 0 || data.length != 68) return false;
            bytes4 selector = bytes4(data);
            uint256 amount = uint256(bytes32(data[36:68]));
            if (selector == IERC20.transfer.selector) {
                if (!_spend(calls[i].to, amount)) return false;
            } else if (selector == TokenizedCash.configureMinter.selector) {
                uint256 cap = mintCapOf[calls[i].to][address(uint160(uint256(bytes32(data[4:36]))))];
                if (cap == 0 || amount > cap) return false;
            } else {
                return false;
            }
        }
        return true;
    }

    function _spend(address token, uint256 amount) private returns (bool) {
        Limit memory limit = limitOf[token];
        uint64 today = uint64(block.timestamp / 1 days);
        if (limit.day != today) (limit.day, limit.spent) = (today, 0);
        if (limit.perDay == 0 || amount > limit.perDay || limit.spent > limit.perDay - amount) return false;
        limit.spent += uint128(amount);
        limitOf[token] = limit;
        return true;
    }

    function _isTokenCall(bytes calldata data) private pure returns (bool) {
        if (data.length < 4) return false;
        bytes4 selector = bytes4(data);
        return selector == IERC20.transfer.selector || selector == IERC20.transferFrom.selector
            || selector == IERC20.approve.selector;
    }
}
