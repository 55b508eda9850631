// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {ERC3009} from "@openzeppelin/contracts/token/ERC20/extensions/draft-ERC3009.sol";
import {AccessControlDefaultAdminRules} from
    "@openzeppelin/contracts/access/extensions/AccessControlDefaultAdminRules.sol";
import {IERC7943Fungible} from "./IERC7943.sol";

/// @title Bank money as a token, one contract per currency
/// @notice Moves only between registered wallets; can be frozen per wallet or in part, and paused as a whole; is minted within the
/// allowance of a minter and burned only by a minter from its own balance. No fees, no rebasing, no callbacks to receivers.
/// @dev A wallet is one storage slot: what it holds, what of it is frozen, and its flags. A payment writes that slot and no other
/// of its creditor, which is what a payment costs on chain.
contract TokenizedCash is ERC20Permit, ERC3009, AccessControlDefaultAdminRules, IERC7943Fungible {
    /// @notice Sets what each minter may mint.
    bytes32 public constant MINTER_ADMIN_ROLE = keccak256("MINTER_ADMIN_ROLE");
    /// @notice Says which wallets may hold the token.
    bytes32 public constant REGISTRAR_ROLE = keccak256("REGISTRAR_ROLE");
    /// @notice Freezes wallets, or parts of what they hold.
    bytes32 public constant FREEZER_ROLE = keccak256("FREEZER_ROLE");
    /// @notice Stops every movement.
    bytes32 public constant PAUSER_ROLE = keccak256("PAUSER_ROLE");
    /// @notice Takes tokens by order of a court or to repair an error.
    bytes32 public constant COMPLIANCE_ROLE = keccak256("COMPLIANCE_ROLE");

    /// @notice There are never more tokens than this, so that whoever keeps books of them can rely on 96 bits.
    uint256 public constant SUPPLY_MAX = type(uint96).max;

    uint8 private constant REGISTERED = 1;
    uint8 private constant FROZEN = 2;

    struct Account {
        uint96 balance; // in the lowest bits, so that a changed balance is a small change of the word
        uint96 frozen; // never moves, may exceed the balance
        uint8 flags;
    }

    struct Minter {
        uint240 allowance;
        bool active;
        bool custodian; // has been a minter, and may still hold tokens for others
    }

    uint8 private immutable _decimals;
    mapping(address wallet => Account) private _accounts;
    mapping(address minter => Minter) private _minters;
    uint96 private _supply;
    bool private _paused;

    /// @notice `minter` may mint `allowance` from now on.
    event MinterConfigured(address indexed minter, uint256 allowance);
    /// @notice `minter` may neither mint nor burn any more.
    event MinterRemoved(address indexed minter);
    /// @notice `wallet` may hold the token.
    event WalletRegistered(address indexed wallet);
    /// @notice `wallet` may neither send nor receive any more.
    event WalletUnregistered(address indexed wallet);
    /// @notice `wallet` may neither send nor receive.
    event WalletFrozen(address indexed wallet);
    /// @notice `wallet` is no longer frozen as a whole.
    event WalletUnfrozen(address indexed wallet);
    /// @notice Nothing moves.
    event Paused(address indexed by);
    /// @notice Tokens move again.
    event Unpaused(address indexed by);

    /// @notice Only minters mint and burn.
    error TokenizedCash__NotMinter(address caller);
    /// @notice The minter may mint `allowance`, not `amount`.
    error TokenizedCash__MintAllowanceExceeded(uint256 allowance, uint256 amount);
    /// @notice There would be more than `SUPPLY_MAX`.
    error TokenizedCash__SupplyExceeded(uint256 amount);
    /// @notice The rules refuse this transfer.
    /// @param code as `detectTransferRestriction` gives it
    error TokenizedCash__TransferRestricted(uint8 code);
    /// @notice Nobody who is frozen, or in part, becomes a minter.
    error TokenizedCash__MinterFrozen(address minter);
    /// @notice Whoever is or was a minter holds tokens for others and keeps books of them: they are neither taken from it nor held in it.
    error TokenizedCash__HeldForOthers(address custodian);

    /// @param adminDelay seconds between naming a new admin and its acceptance
    constructor(string memory name_, string memory symbol_, uint8 decimals_, uint48 adminDelay, address admin)
        ERC20(name_, symbol_)
        ERC20Permit(name_)
        AccessControlDefaultAdminRules(adminDelay, admin)
    {
        _decimals = decimals_;
    }

    /// @notice Decimal places of the token.
    function decimals() public view override returns (uint8) {
        return _decimals;
    }

    /// @notice All tokens there are.
    function totalSupply() public view override returns (uint256) {
        return _supply;
    }

    /// @notice What a wallet holds, frozen or not.
    function balanceOf(address wallet) public view override returns (uint256) {
        return _accounts[wallet].balance;
    }

    /// @notice What of a wallet's tokens is not frozen in part; says nothing of the wallet's standing.
    function availableBalanceOf(address wallet) public view returns (uint256) {
        Account storage account = _accounts[wallet];
        return account.balance > account.frozen ? account.balance - account.frozen : 0;
    }

    // ------------------------------------------------------------------------------------------------ minting

    /// @notice Lets `minter` mint `allowance_` from now on; replaces what was left of an earlier allowance. It is a custodian for ever.
    /// @dev Who is frozen, or in part, becomes none: it could not be set right by whoever is to use it.
    function configureMinter(address minter, uint256 allowance_) external onlyRole(MINTER_ADMIN_ROLE) {
        if (isFrozen(minter) || _accounts[minter].frozen != 0) revert TokenizedCash__MinterFrozen(minter);
        uint240 allowed = allowance_ > type(uint240).max ? type(uint240).max : uint240(allowance_);
        _minters[minter] = Minter(allowed, true, true);
        emit MinterConfigured(minter, allowed);
    }

    /// @notice Takes the right to mint and burn. What it holds for others stays theirs: it is still a custodian. A manager that is to
    /// burn what banks have paid out keeps the right, with an allowance of zero.
    function removeMinter(address minter) external onlyRole(MINTER_ADMIN_ROLE) {
        _minters[minter] = Minter(0, false, _minters[minter].custodian);
        emit MinterRemoved(minter);
    }

    /// @notice Whether this address may mint and burn.
    function isMinter(address minter) external view returns (bool) {
        return _minters[minter].active;
    }

    /// @notice Whether this address is or was a minter, so that nothing is taken from it, and it is never frozen or unregistered.
    function isCustodian(address account) external view returns (bool) {
        return _minters[account].custodian;
    }

    /// @notice What this minter may still mint.
    function minterAllowance(address minter) external view returns (uint256) {
        return _minters[minter].allowance;
    }

    /// @notice Makes tokens, within the caller's allowance.
    function mint(address to, uint256 amount) external {
        _useAllowance(amount);
        _mint(to, amount);
    }

    /// @notice Makes `amounts[i]` tokens for `to[i]`, all within the caller's allowance, or none.
    /// @dev The same as many times `mint`, with what is common to all done once.
    function mintMany(address[] calldata to, uint256[] calldata amounts) external {
        if (_paused) revert TokenizedCash__TransferRestricted(1);
        uint256 sum = _creditMany(address(0), to, amounts, SUPPLY_MAX);
        _raiseSupply(sum);
        _useAllowance(sum);
    }

    /// @notice Burns from the minter's own balance.
    function burn(uint256 amount) external {
        if (!_minters[msg.sender].active) revert TokenizedCash__NotMinter(msg.sender);
        _burn(msg.sender, amount);
    }

    // ------------------------------------------------------------------------------------------------ custody

    /// @notice Sends `amounts[i]` of the caller's tokens to `to[i]`, all or none.
    /// @dev The same as many times `transfer`, refusals included, with what is common to all done once.
    function transferMany(address[] calldata to, uint256[] calldata amounts) external {
        uint8 code = _sending(msg.sender);
        if (code != 0) revert TokenizedCash__TransferRestricted(code);
        _debit(msg.sender, _creditMany(msg.sender, to, amounts, availableBalanceOf(msg.sender)));
    }

    /// @notice Lets wallets hold the token.
    function registerWallets(address[] calldata wallets) external onlyRole(REGISTRAR_ROLE) {
        for (uint256 i = 0; i < wallets.length; ++i) {
            if (wallets[i] == address(0)) revert ERC20InvalidReceiver(address(0));
            _accounts[wallets[i]].flags |= REGISTERED;
            emit WalletRegistered(wallets[i]);
        }
    }

    /// @notice A wallet may neither send nor receive any more; what it holds stays there. Never a custodian.
    function unregisterWallet(address wallet) external onlyRole(REGISTRAR_ROLE) {
        _requireNotHeldForOthers(wallet);
        _accounts[wallet].flags &= ~REGISTERED;
        emit WalletUnregistered(wallet);
    }

    /// @notice A wallet may neither send nor receive. Never a custodian: what is meant for one would stop everybody whose it holds.
    function freeze(address wallet) external onlyRole(FREEZER_ROLE) {
        _requireNotHeldForOthers(wallet);
        _accounts[wallet].flags |= FROZEN;
        emit WalletFrozen(wallet);
    }

    /// @notice Undoes `freeze`; what is frozen in part stays frozen.
    function unfreeze(address wallet) external onlyRole(FREEZER_ROLE) {
        _accounts[wallet].flags &= ~FROZEN;
        emit WalletUnfrozen(wallet);
    }

    /// @inheritdoc IERC7943Fungible
    /// @dev More than there can ever be means everything. Nothing of a custodian is frozen.
    function setFrozenTokens(address account, uint256 amount) external onlyRole(FREEZER_ROLE) returns (bool) {
        _requireNotHeldForOthers(account);
        uint256 frozen = amount > SUPPLY_MAX ? SUPPLY_MAX : amount;
        _accounts[account].frozen = uint96(frozen);
        emit Frozen(account, frozen);
        return true;
    }

    /// @inheritdoc IERC7943Fungible
    /// @dev Works while paused. What stays in the wallet and was frozen stays frozen.
    function forcedTransfer(address from, address to, uint256 amount) external onlyRole(COMPLIANCE_ROLE) returns (bool) {
        if (from == address(0)) revert ERC20InvalidSender(from);
        if (to == address(0)) revert ERC20InvalidReceiver(to);
        _requireNotHeldForOthers(from);
        uint8 code = _receiving(to);
        if (code != 0) revert TokenizedCash__TransferRestricted(code);
        uint256 balance = _accounts[from].balance;
        if (balance >= amount && availableBalanceOf(from) < amount) {
            uint256 frozen = balance - amount;
            _accounts[from].frozen = uint96(frozen);
            emit Frozen(from, frozen);
        }
        _move(from, to, amount);
        emit ForcedTransfer(from, to, amount);
        return true;
    }

    /// @notice Stops every movement but those forced by compliance.
    function pause() external onlyRole(PAUSER_ROLE) {
        _paused = true;
        emit Paused(msg.sender);
    }

    /// @notice Undoes `pause`.
    function unpause() external onlyRole(PAUSER_ROLE) {
        _paused = false;
        emit Unpaused(msg.sender);
    }

    /// @notice Whether every movement is stopped.
    function paused() external view returns (bool) {
        return _paused;
    }

    /// @notice Whether a wallet may hold the token.
    function isRegistered(address wallet) external view returns (bool) {
        return _accounts[wallet].flags & REGISTERED != 0;
    }

    /// @notice Whether a wallet is frozen as a whole.
    function isFrozen(address wallet) public view returns (bool) {
        return _accounts[wallet].flags & FROZEN != 0;
    }

    /// @notice Registered and not frozen: may send and receive.
    function isInGoodStanding(address wallet) public view returns (bool) {
        return _accounts[wallet].flags == REGISTERED;
    }

    /// @notice Which of many wallets are not in good standing: bit i of word i / 256 stands for `wallets[i]`.
    function blockedAmong(address[] calldata wallets) external view returns (uint256[] memory blocked) {
        blocked = new uint256[]((wallets.length + 255) / 256);
        for (uint256 i = 0; i < wallets.length; ++i) {
            if (!isInGoodStanding(wallets[i])) blocked[i / 256] |= 1 << (i % 256);
        }
    }

    /// @inheritdoc IERC7943Fungible
    function canSend(address account) external view returns (bool) {
        return isInGoodStanding(account);
    }

    /// @inheritdoc IERC7943Fungible
    function canReceive(address account) external view returns (bool) {
        return isInGoodStanding(account);
    }

    /// @inheritdoc IERC7943Fungible
    function getFrozenTokens(address account) external view returns (uint256) {
        return _accounts[account].frozen;
    }

    /// @inheritdoc IERC7943Fungible
    function canTransfer(address from, address to, uint256 amount) external view returns (bool) {
        return detectTransferRestriction(from, to, amount) == 0;
    }

    /// @notice ERC-1404: zero, or why `from` cannot send `amount` to `to`.
    function detectTransferRestriction(address from, address to, uint256 amount) public view returns (uint8) {
        uint8 code = _restriction(from, to);
        if (code != 0) return code;
        if (_accounts[from].balance < amount) return 6;
        return availableBalanceOf(from) < amount ? 7 : 0;
    }

    /// @notice ERC-1404: the code in words.
    function messageForTransferRestriction(uint8 code) external pure returns (string memory) {
        if (code == 0) return "none";
        if (code == 1) return "the token is paused";
        if (code == 2) return "the sending wallet is not registered";
        if (code == 3) return "the sending wallet is frozen";
        if (code == 4) return "the receiving wallet is not registered";
        if (code == 5) return "the receiving wallet is frozen";
        if (code == 6) return "the sending wallet does not have that much";
        if (code == 7) return "part of what the sending wallet has is frozen";
        return "unknown code";
    }

    /// @notice ERC-165.
    function supportsInterface(bytes4 id) public view override returns (bool) {
        return id == type(IERC7943Fungible).interfaceId || super.supportsInterface(id);
    }

    // ------------------------------------------------------------------------------------------------ private

    function _requireNotHeldForOthers(address account) private view {
        if (_minters[account].custodian) revert TokenizedCash__HeldForOthers(account);
    }

    function _useAllowance(uint256 amount) private {
        Minter memory minter = _minters[msg.sender];
        if (!minter.active) revert TokenizedCash__NotMinter(msg.sender);
        if (minter.allowance < amount) revert TokenizedCash__MintAllowanceExceeded(minter.allowance, amount);
        unchecked {
            _minters[msg.sender].allowance = uint240(minter.allowance - amount);
        }
    }

    function _restriction(address from, address to) private view returns (uint8) {
        uint8 code = from != address(0) ? _sending(from) : _paused ? 1 : 0;
        if (code != 0 || to == address(0)) return code;
        return _receiving(to);
    }

    function _sending(address from) private view returns (uint8) {
        if (_paused) return 1;
        uint8 flags = _accounts[from].flags;
        if (flags == REGISTERED) return 0;
        return flags & REGISTERED == 0 ? 2 : 3;
    }

    function _receiving(address to) private view returns (uint8) {
        uint8 flags = _accounts[to].flags;
        if (flags == REGISTERED) return 0;
        return flags & REGISTERED == 0 ? 4 : 5;
    }

    /// @dev Every movement, mints and burns included, comes through here; only what compliance forces goes past it.
    function _update(address from, address to, uint256 amount) internal override {
        uint8 code = _restriction(from, to);
        if (code != 0) revert TokenizedCash__TransferRestricted(code);
        _move(from, to, amount);
    }

    function _raiseSupply(uint256 amount) private {
        uint256 supply = _supply;
        if (amount > SUPPLY_MAX - supply) revert TokenizedCash__SupplyExceeded(amount);
        unchecked {
            _supply = uint96(supply + amount);
        }
    }

    /// @dev No amount is credited that is not within what is left of `free`, so none is cut. What `from` sends to itself has to be there
    /// and stays where it is. That `from` may send, and that what is credited is debited, or raises the supply, is for the caller to do.
    /// @param free what may leave `from`; of what is minted, all that there can be
    /// @return what has left it
    function _creditMany(address from, address[] calldata to, uint256[] calldata amounts, uint256 free)
        private
        returns (uint256)
    {
        uint256 left = free;
        for (uint256 i = 0; i < to.length; ++i) {
            (address wallet, uint256 amount) = (to[i], amounts[i]);
            Account storage account = _accounts[wallet];
            Account memory before = account;
            if (before.flags != REGISTERED) revert TokenizedCash__TransferRestricted(_receiving(wallet));
            if (amount > left) _refuse(from, free - left, amount);
            if (wallet != from) {
                unchecked {
                    left -= amount;
                }
                account.balance = before.balance + uint96(amount);
            }
            emit Transfer(from, wallet, amount);
        }
        return free - left;
    }

    /// @dev Says why an amount cannot go where a sum of others goes.
    function _refuse(address from, uint256 sum, uint256 amount) private view {
        if (from == address(0)) revert TokenizedCash__SupplyExceeded(amount);
        uint256 left = _accounts[from].balance - sum;
        if (left < amount) revert ERC20InsufficientBalance(from, left, amount);
        revert TokenizedCash__TransferRestricted(7);
    }

    function _debit(address from, uint256 amount) private {
        Account storage account = _accounts[from];
        uint96 balance = account.balance;
        if (balance < amount) revert ERC20InsufficientBalance(from, balance, amount);
        uint96 frozen = account.frozen;
        unchecked {
            uint96 rest = uint96(balance - amount);
            if (rest < frozen && amount != 0) revert TokenizedCash__TransferRestricted(7);
            account.balance = rest;
        }
    }

    /// @dev What is minted fits 96 bits because the supply does, what is sent because the balance it comes from does.
    function _move(address from, address to, uint256 amount) private {
        if (from == address(0)) {
            _raiseSupply(amount);
        } else {
            _debit(from, amount);
        }
        if (to == address(0)) _supply -= uint96(amount);
        else _accounts[to].balance += uint96(amount);
        emit Transfer(from, to, amount);
    }
}
