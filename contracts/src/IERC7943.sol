// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title ERC-7943 for ERC-20 tokens
/// @notice What an outsider may ask of a token with rules, and what its compliance officer may do.
interface IERC7943Fungible {
    /// @notice Tokens were taken from a wallet by compliance.
    event ForcedTransfer(address indexed from, address indexed to, uint256 amount);
    /// @notice That many tokens of a wallet, whatever it holds, do not move.
    event Frozen(address indexed account, uint256 amount);

    /// @notice Takes `amount` from a wallet, frozen or not, and gives it to another that may receive.
    function forcedTransfer(address from, address to, uint256 amount) external returns (bool);
    /// @notice Keeps `amount` of a wallet's tokens from moving; replaces what was frozen before and may exceed what is there.
    function setFrozenTokens(address account, uint256 amount) external returns (bool);
    /// @notice Whether the rules let this wallet send at all.
    function canSend(address account) external view returns (bool);
    /// @notice Whether the rules let this wallet receive at all.
    function canReceive(address account) external view returns (bool);
    /// @notice How many tokens of a wallet do not move.
    function getFrozenTokens(address account) external view returns (uint256);
    /// @notice Whether this transfer would be let through now.
    function canTransfer(address from, address to, uint256 amount) external view returns (bool);
}
