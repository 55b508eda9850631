// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Status} from "../src/Payment.sol";
import {PaymentRouter} from "../src/PaymentRouter.sol";
import {SettlementManager} from "../src/SettlementManager.sol";
import {TokenizedCash} from "../src/TokenizedCash.sol";
import {T} from "../test/T.sol";

/// @notice What the proofs use of halmos.
interface Svm {
    function enableSymbolicStorage(address) external;
    function createCalldata(string calldata contractName) external pure returns (bytes memory);
    function createBytes(uint256 length, string calldata name) external pure returns (bytes memory);
}

/// @notice Proofs of one step from any state: the contracts run as they were deployed, and whatever is in their storage is arbitrary.
/// A `check_` function holds for all its arguments and all states; a `reach_` function shows that what a proof speaks of can happen,
/// by failing.
abstract contract Proof is T {
    Svm internal constant svm = Svm(address(uint160(uint256(keccak256("svm cheat code")))));
    address internal constant HOUSE = address(0x1006);

    TokenizedCash internal token;
    PaymentRouter internal router;
    SettlementManager internal manager;

    function deployAll() internal {
        token = TokenizedCash(create("TokenizedCash", abi.encode("Tokenized euro", "tEUR", 6, 0, address(this))));
        // The addresses that halmos gives follow one another.
        address futureRouter = address(uint160(address(token)) + 2);
        manager =
            SettlementManager(create("SettlementManager", abi.encode(token, futureRouter, HOUSE, 0, address(this))));
        router = PaymentRouter(create("PaymentRouter", abi.encode(manager, 0, address(this))));
        require(address(router) == futureRouter, "the router is where the manager was told");
    }

    function forgetEverything() internal {
        svm.enableSymbolicStorage(address(token));
        svm.enableSymbolicStorage(address(router));
        svm.enableSymbolicStorage(address(manager));
    }

    function anyCall(address to, address caller, bytes memory data) internal returns (bool done) {
        vm.prank(caller);
        (done,) = to.call(data);
    }

    /// @dev Without a branch, which would be a path of its own to the prover.
    function either(bool a, bool b) internal pure returns (bool c) {
        assembly ("memory-safe") {
            c := or(a, b)
        }
    }

    function both(bool a, bool b) internal pure returns (bool c) {
        assembly ("memory-safe") {
            c := and(a, b)
        }
    }
}
