// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Payment, Status} from "../src/Payment.sol";
import {PaymentRouter} from "../src/PaymentRouter.sol";
import {SettlementManager} from "../src/SettlementManager.sol";
import {TokenizedCash} from "../src/TokenizedCash.sol";
import {Hashes} from "@openzeppelin/contracts/utils/cryptography/Hashes.sol";
import {T} from "./T.sol";

/// @notice A deployed set of contracts with every role in another hand, and builders for payments.
abstract contract Base is T {
    TokenizedCash internal token;
    PaymentRouter internal router;
    SettlementManager internal manager;

    address internal constant INITIATOR = address(0x1001);
    address internal constant SETTLER = address(0x1002);
    address internal constant CANCELLER = address(0x1003);
    address internal constant GUARDIAN = address(0x1004);
    address internal constant COMPLIANCE = address(0x1005);
    address internal constant HOUSE = address(0x1006);
    address internal constant ALICE = address(0xA11CE);
    address internal constant BOB = address(0xB0B);
    address internal constant CAROL = address(0xCA201);

    uint8 internal constant BANK_TO_TOKEN = 0;
    uint8 internal constant TOKEN_TO_TOKEN = 1;
    uint8 internal constant BANK_TO_BANK = 2;
    uint8 internal constant TOKEN_TO_BANK = 3;

    uint64 internal nextNumber = 1;

    function deploy() internal {
        vm.warp(1_800_000_000);
        token = TokenizedCash(create("TokenizedCash", abi.encode("Tokenized euro", "tEUR", 6, 0, address(this))));
        address futureRouter = vm.computeCreateAddress(address(this), vm.getNonce(address(this)) + 1);
        manager = SettlementManager(
            create("SettlementManager", abi.encode(token, futureRouter, HOUSE, 0, address(this)))
        );
        router = PaymentRouter(create("PaymentRouter", abi.encode(manager, 0, address(this))));

        router.grantRole(router.INITIATOR_ROLE(), INITIATOR);
        router.grantRole(router.GUARDIAN_ROLE(), GUARDIAN);
        manager.grantRole(manager.SETTLER_ROLE(), SETTLER);
        manager.grantRole(manager.CANCELLER_ROLE(), CANCELLER);
        manager.grantRole(manager.GUARDIAN_ROLE(), GUARDIAN);
        manager.grantRole(manager.COMPLIANCE_ROLE(), COMPLIANCE);
        token.grantRole(token.MINTER_ADMIN_ROLE(), address(this));
        token.grantRole(token.REGISTRAR_ROLE(), address(this));
        token.grantRole(token.FREEZER_ROLE(), COMPLIANCE);
        token.grantRole(token.PAUSER_ROLE(), GUARDIAN);
        token.grantRole(token.COMPLIANCE_ROLE(), COMPLIANCE);

        token.configureMinter(address(manager), type(uint128).max);
        token.configureMinter(address(this), type(uint128).max);
        address[] memory wallets = new address[](5);
        (wallets[0], wallets[1], wallets[2], wallets[3], wallets[4]) = (address(manager), HOUSE, ALICE, BOB, CAROL);
        token.registerWallets(wallets);
    }

    function payment(address debtor, address creditor, uint128 amount, uint8 terms) internal returns (Payment memory) {
        uint64 number = nextNumber++;
        return Payment(
            number,
            bytes16(keccak256(abi.encode("payment", number))),
            debtor,
            creditor,
            amount,
            0,
            uint64(block.timestamp + 600),
            terms
        );
    }

    function one(Payment memory single) internal pure returns (Payment[] memory batch) {
        batch = new Payment[](1);
        batch[0] = single;
    }

    function initiate(Payment[] memory batch) internal {
        vm.prank(INITIATOR);
        router.initiateBatch(batch, uint64(block.timestamp + 60));
    }

    function settle(Payment[] memory batch, uint256 mask) internal {
        vm.prank(SETTLER);
        manager.settleBatch(batch, picks(mask));
    }

    function picks(uint256 mask) internal pure returns (uint256[] memory words) {
        words = new uint256[](2);
        words[0] = mask;
    }

    /// @notice Tokens for `wallet`, and its standing allowance.
    function fund(address wallet, uint128 amount) internal {
        token.mint(wallet, amount);
        vm.prank(wallet);
        token.approve(address(manager), type(uint256).max);
    }

    function none() internal pure returns (bytes32[] memory) {
        return new bytes32[](0);
    }

    function status(Payment memory p) internal view returns (Status) {
        return router.statusOf(p.number);
    }

    function requireStatus(Payment memory p, Status wanted, string memory why) internal view {
        vm.assertEq(uint256(status(p)), uint256(wanted), why);
    }

    /// @notice The proof of leaf `i`, computed another way than the contract computes roots.
    function proofOf(Payment[] memory batch, uint256 i) internal pure returns (bytes32[] memory proof) {
        bytes32[] memory layer = new bytes32[](batch.length);
        for (uint256 k = 0; k < batch.length; ++k) {
            layer[k] = keccak256(abi.encode(batch[k]));
        }
        bytes32[] memory steps = new bytes32[](16);
        uint256 taken;
        while (layer.length > 1) {
            uint256 sibling = i % 2 == 0 ? i + 1 : i - 1;
            if (sibling < layer.length) steps[taken++] = layer[sibling];
            bytes32[] memory above = new bytes32[]((layer.length + 1) / 2);
            for (uint256 k = 0; k < above.length; ++k) {
                above[k] = 2 * k + 1 < layer.length
                    ? Hashes.commutativeKeccak256(layer[2 * k], layer[2 * k + 1])
                    : layer[2 * k];
            }
            layer = above;
            i /= 2;
        }
        proof = new bytes32[](taken);
        for (uint256 k = 0; k < taken; ++k) {
            proof[k] = steps[k];
        }
    }

    /// @notice Every token is with a wallet or in the manager's hands, and the manager knows which.
    function requireConserved(uint256 inWallets) internal view {
        (, uint96 escrowed, uint96 redemption) = manager.held();
        vm.assertEq(token.balanceOf(address(manager)), uint256(escrowed) + redemption, "the manager holds what it says");
        vm.assertEq(token.totalSupply(), inWallets + escrowed + redemption, "supply is wallets, escrow and redemption");
    }
}
