// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {ERC3009} from "@openzeppelin/contracts/token/ERC20/extensions/draft-ERC3009.sol";
import {AccessControlDefaultAdminRules} from
    "@openzeppelin/contracts/access/extensions/AccessControlDefaultAdminRules.sol";

/// @title Bank money as a token, one contract per currency
/// @notice Moves only between registered wallets; can be frozen per wallet and paused as a whole; is minted within the allowance of
/// a minter and burned only by a minter from its own balance. No fees, no rebasing, no callbacks to receivers.
contract TokenizedCash is ERC20Permit, ERC3009, AccessControlDefaultAdminRules {
    bytes32 public constant MINTER_ADMIN_ROLE = keccak256("MINTER_ADMIN_ROLE");
    bytes32 public constant REGISTRAR_ROLE = keccak256("REGISTRAR_ROLE");
    bytes32 public constant FREEZER_ROLE = keccak256("FREEZER_ROLE");
    bytes32 public constant PAUSER_ROLE = keccak256("PAUSER_ROLE");

    uint8 private constant REGISTERED = 1;
    uint8 private constant FROZEN = 2;

    uint8 private immutable _decimals;
    mapping(address wallet => uint8) private _flags;
    mapping(address minter => bool) public isMinter;
    mapping(address minter => uint256) public minterAllowance;
    bool public paused;

    event MinterConfigured(address indexed minter, uint256 allowance);
    event MinterRemoved(address indexed minter);
    event WalletRegistered(address indexed wallet);
    event WalletUnregistered(address indexed wallet);
    event WalletFrozen(address indexed wallet);
    event WalletUnfrozen(address indexed wallet);
    event Paused(address indexed by);
    event Unpaused(address indexed by);

    error TokenizedCash__NotMinter(address caller);
    error TokenizedCash__MintAllowanceExceeded(uint256 allowance, uint256 amount);
    /// @param code as `detectTransferRestriction` gives it
    error TokenizedCash__TransferRestricted(uint8 code);

    constructor(string memory name_, string memory symbol_, uint8 decimals_, uint48 adminDelay, address admin)
        ERC20(name_, symbol_)
        ERC20Permit(name_)
        AccessControlDefaultAdminRules(adminDelay, admin)
    {
        _decimals = decimals_;
    }

    function decimals() public view override returns (uint8) {
        return _decimals;
    }

    // ------------------------------------------------------------------------------------------------ minting

    /// @notice Lets `minter` mint `allowance` from now on; replaces what was left of an earlier allowance.
    function configureMinter(address minter, uint256 allowance_) external onlyRole(MINTER_ADMIN_ROLE) {
        isMinter[minter] = true;
        minterAllowance[minter] = allowance_;
        emit MinterConfigured(minter, allowance_);
    }

    function removeMinter(address minter) external onlyRole(MINTER_ADMIN_ROLE) {
        isMinter[minter] = false;
        minterAllowance[minter] = 0;
        emit MinterRemoved(minter);
    }

    function mint(address to, uint256 amount) external {
        if (!isMinter[msg.sender]) revert TokenizedCash__NotMinter(msg.sender);
        uint256 allowed = minterAllowance[msg.sender];
        if (allowed < amount) revert TokenizedCash__MintAllowanceExceeded(allowed, amount);
        unchecked {
            minterAllowance[msg.sender] = allowed - amount;
        }
        _mint(to, amount);
    }

    /// @notice Burns from the minter's own balance.
    function burn(uint256 amount) external {
        if (!isMinter[msg.sender]) revert TokenizedCash__NotMinter(msg.sender);
        _burn(msg.sender, amount);
    }

    // ------------------------------------------------------------------------------------------------ custody

    function registerWallets(address[] calldata wallets) external onlyRole(REGISTRAR_ROLE) {
        for (uint256 i = 0; i < wallets.length; ++i) {
            _flags[wallets[i]] |= REGISTERED;
            emit WalletRegistered(wallets[i]);
        }
    }

    function unregisterWallet(address wallet) external onlyRole(REGISTRAR_ROLE) {
        _flags[wallet] &= ~REGISTERED;
        emit WalletUnregistered(wallet);
    }

    function freeze(address wallet) external onlyRole(FREEZER_ROLE) {
        _flags[wallet] |= FROZEN;
        emit WalletFrozen(wallet);
    }

    function unfreeze(address wallet) external onlyRole(FREEZER_ROLE) {
        _flags[wallet] &= ~FROZEN;
        emit WalletUnfrozen(wallet);
    }

    function pause() external onlyRole(PAUSER_ROLE) {
        paused = true;
        emit Paused(msg.sender);
    }

    function unpause() external onlyRole(PAUSER_ROLE) {
        paused = false;
        emit Unpaused(msg.sender);
    }

    function isRegistered(address wallet) external view returns (bool) {
        return _flags[wallet] & REGISTERED != 0;
    }

    function isFrozen(address wallet) external view returns (bool) {
        return _flags[wallet] & FROZEN != 0;
    }

    /// @notice Registered and not frozen: may send and receive.
    function isInGoodStanding(address wallet) external view returns (bool) {
        return _flags[wallet] == REGISTERED;
    }

    /// @notice ERC-1404: zero, or why `from` cannot send `amount` to `to`.
    function detectTransferRestriction(address from, address to, uint256 amount) public view returns (uint8) {
        uint8 code = _restriction(from, to);
        return code == 0 && balanceOf(from) < amount ? 6 : code;
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
        return "unknown code";
    }

    function supportsInterface(bytes4 id) public view override returns (bool) {
        return super.supportsInterface(id);
    }

    function _restriction(address from, address to) private view returns (uint8) {
        if (paused) return 1;
        if (from != address(0)) {
            uint8 sender = _flags[from];
            if (sender & REGISTERED == 0) return 2;
            if (sender & FROZEN != 0) return 3;
        }
        if (to != address(0)) {
            uint8 receiver = _flags[to];
            if (receiver & REGISTERED == 0) return 4;
            if (receiver & FROZEN != 0) return 5;
        }
        return 0;
    }

    /// @dev Every movement, mints and burns included, comes through here.
    function _update(address from, address to, uint256 amount) internal override {
        uint8 code = _restriction(from, to);
        if (code != 0) revert TokenizedCash__TransferRestricted(code);
        super._update(from, to, amount);
    }
}
