// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC3009} from "@openzeppelin/contracts/interfaces/draft-IERC3009.sol";
import {TokenizedCash} from "../src/TokenizedCash.sol";
import {Proof} from "./Proof.sol";

/// @notice TokenizedCash, from any state, by any caller.
contract TokenProof is Proof {
    function setUp() public {
        token = TokenizedCash(create("TokenizedCash", abi.encode("Tokenized euro", "tEUR", 6, 0, address(this))));
        svm.enableSymbolicStorage(address(token));
    }

    function anything(address caller) private returns (bool) {
        return anyCall(address(token), caller, svm.createCalldata("TokenizedCash"));
    }

    function check_frozenWalletsKeepTheirTokensWhateverIsCalled(address wallet, address caller) public {
        vm.assume(either(token.paused(), !token.isInGoodStanding(wallet)));
        vm.assume(!token.hasRole(token.COMPLIANCE_ROLE(), caller));
        uint256 before = token.balanceOf(wallet);
        anything(caller);
        assert(token.balanceOf(wallet) == before);
    }

    function check_frozenPartStaysWhateverIsCalled(address wallet, address caller) public {
        vm.assume(!token.hasRole(token.COMPLIANCE_ROLE(), caller));
        uint256 frozen = token.getFrozenTokens(wallet);
        uint256 before = token.balanceOf(wallet);
        anything(caller);
        assert(token.balanceOf(wallet) >= (before < frozen ? before : frozen));
    }

    function reach_frozenPartAndTheRestMoves(address wallet, address caller) public {
        vm.assume(!token.hasRole(token.COMPLIANCE_ROLE(), caller) && token.getFrozenTokens(wallet) != 0);
        uint256 before = token.balanceOf(wallet);
        anything(caller);
        assert(token.balanceOf(wallet) >= before);
    }

    function check_supplyIsChangedByMintersWithinTheirAllowanceOnly(address caller) public {
        uint256 supply = token.totalSupply();
        uint256 allowed = token.minterAllowance(caller);
        bool minter = token.isMinter(caller);
        anything(caller);
        uint256 later = token.totalSupply();
        assert(either(later == supply, minter));
        if (later > supply) assert(allowed - token.minterAllowance(caller) == later - supply);
    }

    function reach_supplyGrows(address caller) public {
        uint256 supply = token.totalSupply();
        anything(caller);
        assert(token.totalSupply() <= supply);
    }

    function reach_supplyShrinks(address caller) public {
        uint256 supply = token.totalSupply();
        anything(caller);
        assert(token.totalSupply() >= supply);
    }

    function check_transfersMoveWhatTheySayAndNothingElse(address from, address to, address other, uint256 amount) public {
        vm.assume(other != from && other != to);
        uint256 supply = token.totalSupply();
        (uint256 a, uint256 b, uint256 c) = (token.balanceOf(from), token.balanceOf(to), token.balanceOf(other));
        vm.prank(from);
        token.transfer(to, amount);
        if (from != to) {
            assert(token.balanceOf(from) == a - amount && token.balanceOf(to) == b + amount);
        } else {
            assert(token.balanceOf(from) == a && amount <= a);
        }
        assert(token.balanceOf(other) == c && token.totalSupply() == supply);
    }

    function reach_transfersMove(address from, address to, uint256 amount) public {
        vm.assume(from != to);
        uint256 had = token.balanceOf(to);
        vm.prank(from);
        token.transfer(to, amount);
        assert(token.balanceOf(to) == had);
    }

    function reach_forcedTransfersMove(address caller, address from, address to, uint256 amount) public {
        vm.assume(from != to);
        uint256 had = token.balanceOf(to);
        vm.prank(caller);
        token.forcedTransfer(from, to, amount);
        assert(token.balanceOf(to) == had);
    }

    function check_forcedTransfersMoveWhatTheySayAndNothingElse(
        address caller,
        address from,
        address to,
        address other,
        uint256 amount
    ) public {
        vm.assume(other != from && other != to && from != to);
        uint256 supply = token.totalSupply();
        (uint256 a, uint256 b, uint256 c) = (token.balanceOf(from), token.balanceOf(to), token.balanceOf(other));
        bool may = token.hasRole(token.COMPLIANCE_ROLE(), caller);
        may = both(may, both(!token.isCustodian(from), token.canReceive(to)));
        vm.prank(caller);
        token.forcedTransfer(from, to, amount);
        assert(may);
        assert(token.balanceOf(from) == a - amount && token.balanceOf(to) == b + amount);
        assert(token.balanceOf(other) == c && token.totalSupply() == supply);
    }

    /// @dev From its first right to mint on, and whatever becomes of that right.
    function check_onceACustodianAlwaysACustodian(address caller, address account) public {
        vm.assume(either(!token.isMinter(account), token.isCustodian(account)));
        bool was = token.isCustodian(account);
        anything(caller);
        assert(both(either(!token.isMinter(account), token.isCustodian(account)), either(!was, token.isCustodian(account))));
    }

    function reach_custodiansLoseTheRightToMint(address caller, address account) public {
        vm.assume(token.isMinter(account) && token.isCustodian(account));
        anything(caller);
        assert(token.isMinter(account));
    }

    /// @dev Whoever calls whatever. What lets a debtor take an expired escrow back: the manager that has it can send.
    function check_aCustodianIsNeverFrozenOrUnregistered(address caller, address account) public {
        vm.assume(either(!token.isCustodian(account), isFree(account)));
        bool stays = both(token.isCustodian(account), token.isRegistered(account));
        anything(caller);
        assert(either(!token.isCustodian(account), isFree(account)));
        assert(either(!stays, token.isRegistered(account)));
    }

    function reach_othersAreFrozen(address caller, address account) public {
        vm.assume(isFree(account));
        anything(caller);
        assert(!token.isFrozen(account));
    }

    function reach_othersHaveAPartFrozen(address caller, address account) public {
        vm.assume(isFree(account));
        anything(caller);
        assert(token.getFrozenTokens(account) == 0);
    }

    function reach_othersAreUnregistered(address caller, address account) public {
        vm.assume(token.isRegistered(account));
        anything(caller);
        assert(token.isRegistered(account));
    }

    function reach_whoIsFreeBecomesACustodian(address caller, address account) public {
        vm.assume(both(!token.isCustodian(account), isFree(account)));
        anything(caller);
        assert(!token.isCustodian(account));
    }

    function isFree(address account) private view returns (bool) {
        return both(!token.isFrozen(account), token.getFrozenTokens(account) == 0);
    }

    function check_mintingManyAddsUp(address caller, address[] calldata to, uint256[] calldata amounts, address other) public {
        vm.assume(to.length == 2 && amounts.length == 2 && to[0] != to[1] && other != to[0] && other != to[1]);
        vm.assume(!token.isRegistered(address(0))); // as is proven below
        uint256 supply = token.totalSupply();
        (uint256 a, uint256 b, uint256 c) = (token.balanceOf(to[0]), token.balanceOf(to[1]), token.balanceOf(other));
        bool may = both(token.canReceive(to[0]), both(token.canReceive(to[1]), !token.paused()));
        vm.prank(caller);
        token.mintMany(to, amounts);
        assert(may);
        assert(token.balanceOf(to[0]) == a + amounts[0] && token.balanceOf(to[1]) == b + amounts[1]);
        assert(token.balanceOf(other) == c && token.totalSupply() == supply + amounts[0] + amounts[1]);
    }

    function reach_manyAreMinted(address caller, address[] calldata to, uint256[] calldata amounts) public {
        vm.assume(to.length == 2 && amounts.length == 2 && to[0] != to[1] && !token.isRegistered(address(0)));
        uint256 had = token.balanceOf(to[1]);
        vm.prank(caller);
        token.mintMany(to, amounts);
        assert(token.balanceOf(to[1]) == had);
    }

    function check_sendingManyAddsUp(address from, address[] calldata to, uint256[] calldata amounts, address other) public {
        vm.assume(to.length == 2 && amounts.length == 2 && to[0] != to[1] && other != to[0] && other != to[1]);
        vm.assume(from != other);
        uint256[5] memory had = whatIsWhere(from, to[0], to[1], other);
        bool may = both(both(token.canReceive(to[0]), token.canReceive(to[1])), both(token.canSend(from), !token.paused()));
        uint256 free = token.availableBalanceOf(from);
        vm.prank(from);
        token.transferMany(to, amounts);
        uint256[5] memory has = whatIsWhere(from, to[0], to[1], other);
        // What goes to the sender itself has to be there, and stays.
        uint256 first = from == to[0] ? 0 : amounts[0];
        uint256 second = from == to[1] ? 0 : amounts[1];
        assert(may);
        assert(amounts[0] <= free && amounts[1] <= free - first);
        assert(has[0] + first + second == had[0]);
        assert(from == to[0] || has[1] == had[1] + amounts[0]);
        assert(from == to[1] || has[2] == had[2] + amounts[1]);
        assert(has[3] == had[3] && has[4] == had[4]);
    }

    function reach_manyAreSentTheSenderAmongThem(address from, address[] calldata to, uint256[] calldata amounts) public {
        vm.assume(to.length == 2 && amounts.length == 2 && to[0] == from && to[1] != from && amounts[0] != 0);
        uint256 had = token.balanceOf(to[1]);
        vm.prank(from);
        token.transferMany(to, amounts);
        assert(token.balanceOf(to[1]) <= had);
    }

    function whatIsWhere(address a, address b, address c, address d) private view returns (uint256[5] memory) {
        return [token.balanceOf(a), token.balanceOf(b), token.balanceOf(c), token.balanceOf(d), token.totalSupply()];
    }

    function check_mintingAddsUp(address caller, address to, uint256 amount) public {
        uint256 supply = token.totalSupply();
        uint256 before = token.balanceOf(to);
        bool may = both(token.canReceive(to), both(token.isMinter(caller), !token.paused()));
        vm.prank(caller);
        token.mint(to, amount);
        assert(both(may, both(token.balanceOf(to) == before + amount, token.totalSupply() == supply + amount)));
    }

    function check_burningTakesFromTheMinterOnly(address caller, address other, uint256 amount) public {
        vm.assume(other != caller);
        uint256 supply = token.totalSupply();
        (uint256 a, uint256 b) = (token.balanceOf(caller), token.balanceOf(other));
        bool may = token.isMinter(caller);
        vm.prank(caller);
        token.burn(amount);
        assert(token.balanceOf(caller) == a - amount && token.totalSupply() == supply - amount);
        assert(both(token.balanceOf(other) == b, may));
    }

    /// @dev Signed authorizations aside, whose signatures halmos leaves open: nobody but its owner and whoever the owner allowed moves
    /// what a wallet has.
    function check_nobodyElseMovesWhatAWalletHas(address wallet, address caller) public {
        vm.assume(caller != wallet && token.allowance(wallet, caller) == 0);
        vm.assume(!token.hasRole(token.COMPLIANCE_ROLE(), caller));
        bytes memory data = svm.createCalldata("TokenizedCash");
        vm.assume(bytes4(data) != IERC3009.transferWithAuthorization.selector);
        vm.assume(bytes4(data) != IERC3009.receiveWithAuthorization.selector);
        uint256 before = token.balanceOf(wallet);
        anyCall(address(token), caller, data);
        assert(token.balanceOf(wallet) >= before);
    }

    function reach_whomTheOwnerAllowedMovesWhatAWalletHas(address wallet, address caller, address to, uint256 amount) public {
        vm.assume(caller != wallet && to != wallet);
        uint256 before = token.balanceOf(wallet);
        vm.prank(caller);
        token.transferFrom(wallet, to, amount);
        assert(token.balanceOf(wallet) == before);
    }

    function check_onlyTheAdminGivesRoles(address caller, address account, bytes32 role) public {
        vm.assume(role != 0 && token.getRoleAdmin(role) == 0 && !token.hasRole(role, account));
        bool admin = token.hasRole(0, caller);
        anything(caller);
        assert(!token.hasRole(role, account) || admin);
    }

    function reach_rolesAreGiven(address caller, address account, bytes32 role) public {
        vm.assume(role != 0 && token.getRoleAdmin(role) == 0 && !token.hasRole(role, account));
        anything(caller);
        assert(!token.hasRole(role, account));
    }

    function check_theZeroAddressIsNeverRegistered(address caller) public {
        vm.assume(!token.isRegistered(address(0)));
        anything(caller);
        assert(!token.isRegistered(address(0)));
    }

    function check_onlyTheirRolesChangeStandingAndPause(address caller, address wallet) public {
        (bool registered, bool frozen, bool paused) = (token.isRegistered(wallet), token.isFrozen(wallet), token.paused());
        bool registrar = token.hasRole(token.REGISTRAR_ROLE(), caller);
        bool freezer = token.hasRole(token.FREEZER_ROLE(), caller);
        bool pauser = token.hasRole(token.PAUSER_ROLE(), caller);
        anything(caller);
        bool kept = either(token.isRegistered(wallet) == registered, registrar);
        kept = both(kept, either(token.isFrozen(wallet) == frozen, freezer));
        assert(both(kept, either(token.paused() == paused, pauser)));
    }

    function reach_standingAndPauseChange(address caller, address wallet) public {
        (bool registered, bool frozen, bool paused) = (token.isRegistered(wallet), token.isFrozen(wallet), token.paused());
        anything(caller);
        bool kept = both(token.isRegistered(wallet) == registered, token.isFrozen(wallet) == frozen);
        assert(both(kept, token.paused() == paused));
    }

    function check_onlyTheirRolesChangeMintersAndFrozenParts(address caller, address wallet) public {
        (uint256 part, bool minter, uint256 allowed) =
            (token.getFrozenTokens(wallet), token.isMinter(wallet), token.minterAllowance(wallet));
        bool admin = token.hasRole(token.MINTER_ADMIN_ROLE(), caller);
        bool may = either(token.hasRole(token.FREEZER_ROLE(), caller), token.hasRole(token.COMPLIANCE_ROLE(), caller));
        anything(caller);
        bool kept = both(token.isMinter(wallet) == minter, token.minterAllowance(wallet) <= allowed);
        assert(both(either(kept, admin), either(token.getFrozenTokens(wallet) == part, may)));
    }
}
