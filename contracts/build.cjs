// Compiles the contracts to artifacts/*.json (ABI and bytecode), the same bytes every time. --check compares instead of writing.
// --mutant SOURCES ARTIFACTS compiles other sources to another folder, quickly: not by way of IR.
const fs = require("fs");
const path = require("path");
const solc = require("solc");

const CONTRACTS = ["TokenizedCash", "PaymentRouter", "SettlementManager", "MultiSigVault", "AuditAnchor"];
const at = (...parts) => path.join(__dirname, ...parts);
const [, , mode, mutantSources, mutantArtifacts] = process.argv;
const isMutant = mode === "--mutant";
const sources = isMutant ? mutantSources : at("src");
const artifacts = isMutant ? mutantArtifacts : at("artifacts");

const input = {
  language: "Solidity",
  sources: Object.fromEntries(
    fs.readdirSync(sources).sort().map((file) => ["src/" + file, { content: fs.readFileSync(path.join(sources, file), "utf8") }]),
  ),
  settings: {
    evmVersion: "cancun",
    optimizer: { enabled: true, runs: 10000 },
    viaIR: !isMutant,
    metadata: { bytecodeHash: "none", appendCBOR: false },
    outputSelection: { "*": { "*": ["abi", "evm.bytecode.object"] } },
  },
};
const output = JSON.parse(
  solc.compile(JSON.stringify(input), {
    import: (name) => ({ contents: fs.readFileSync(at("node_modules", name), "utf8") }),
  }),
);
const errors = (output.errors || []).filter((error) => error.severity === "error" || !error.formattedMessage.includes("node_modules"));
if (!isMutant) errors.forEach((error) => console.error(error.formattedMessage));
if (errors.some((error) => error.severity === "error")) process.exit(1);

let stale = 0;
fs.mkdirSync(artifacts, { recursive: true });
for (const name of CONTRACTS) {
  const { abi, evm } = output.contracts["src/" + name + ".sol"][name];
  const text = JSON.stringify({ contractName: name, abi, bytecode: { object: "0x" + evm.bytecode.object } }, null, 1) + "\n";
  const file = path.join(artifacts, name + ".json");
  if (mode !== "--check") {
    fs.writeFileSync(file, text);
    if (!isMutant) console.log(`${name}: ${evm.bytecode.object.length / 2} bytes`);
  } else if (!fs.existsSync(file) || fs.readFileSync(file, "utf8") !== text) {
    console.error(`${path.relative(process.cwd(), file)} is not what the source compiles to: run "npm run build" in contracts/ and commit it`);
    stale += 1;
  }
}
if (stale) process.exit(1);
if (mode === "--check") console.log("artifacts are what the sources compile to, bit for bit");
