// Compiles the contracts to artifacts/*.json (ABI and bytecode), the same bytes every time, and to artifacts/runtime.json what their code
// is once deployed: its length, where immutable values are filled in, and its hash with zeros there. --check compares instead of writing.
// --mutants SOURCES ARTIFACTS compiles other sources to another folder: for each line it reads, which says how ("quick": without
// optimizer, or "deployed": as always) and names the file that changed, only the contracts that the file is part of. It answers "ok", or
// "void" for what is no program; its first line says which version of the compiler it is.
const fs = require("fs");
const path = require("path");
const readline = require("readline");
const { keccak256 } = require("js-sha3");
const solc = require("solc");

const CONTRACTS = ["TokenizedCash", "PaymentRouter", "SettlementManager", "MultiSigVault", "AuditAnchor"];
const at = (...parts) => path.join(__dirname, ...parts);
const [, , mode, ...folders] = process.argv;

function compile(sources, contracts, quick) {
  const files = fs.readdirSync(sources).sort();
  const input = {
    language: "Solidity",
    sources: Object.fromEntries(
      files.map((file) => ["src/" + file, { content: fs.readFileSync(path.join(sources, file), "utf8") }]),
    ),
    settings: {
      evmVersion: "cancun",
      optimizer: quick ? { enabled: false } : { enabled: true, runs: 10000 },
      viaIR: !quick,
      metadata: { bytecodeHash: "none", appendCBOR: false },
      outputSelection: Object.fromEntries(
        contracts.map((name) => ["src/" + name + ".sol", { [name]: ["abi", "evm.bytecode.object", "evm.deployedBytecode"] }]),
      ),
    },
  };
  const output = JSON.parse(
    solc.compile(JSON.stringify(input), {
      import: (name) => ({ contents: fs.readFileSync(at("node_modules", name), "utf8") }),
    }),
  );
  const errors = (output.errors || []).filter(
    (error) => error.severity === "error" || !error.formattedMessage.includes("node_modules"),
  );
  const artifacts = new Map();
  const runtime = {};
  if (errors.every((error) => error.severity !== "error")) {
    for (const name of contracts) {
      const { abi, evm } = output.contracts["src/" + name + ".sol"][name];
      artifacts.set(name, JSON.stringify({ contractName: name, abi, bytecode: { object: "0x" + evm.bytecode.object } }, null, 1) + "\n");
      runtime[name] = deployed(evm.deployedBytecode);
    }
  }
  return { artifacts, runtime: JSON.stringify(runtime, null, 1) + "\n", errors };
}

function deployed({ object, immutableReferences }) {
  const places = Object.values(immutableReferences ?? {}).flat().sort((a, b) => a.start - b.start);
  const code = Buffer.from(object, "hex");
  places.forEach(({ start, length }) => code.fill(0, start, start + length));
  return { length: code.length, immutables: places.map(({ start, length }) => [start, length]), keccak256: "0x" + keccak256(code) };
}

async function serveMutants(sources, target) {
  const concerned = { "Payment.sol": ["PaymentRouter", "SettlementManager"], "": CONTRACTS };
  console.log(solc.version());
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [how, file] = line.split(" ");
    const { artifacts } = compile(sources, concerned[file] ?? [path.basename(file, ".sol")], how === "quick");
    artifacts.forEach((text, name) => fs.writeFileSync(path.join(target, name + ".json"), text));
    console.log(artifacts.size ? "ok" : "void");
  }
}

function build() {
  const { artifacts, runtime, errors } = compile(at("src"), CONTRACTS, false);
  errors.forEach((error) => console.error(error.formattedMessage));
  if (!artifacts.size) process.exit(1);
  artifacts.set("runtime", runtime);
  let stale = 0;
  fs.mkdirSync(at("artifacts"), { recursive: true });
  for (const [name, text] of artifacts) {
    const file = at("artifacts", name + ".json");
    if (mode !== "--check") {
      fs.writeFileSync(file, text);
      if (name !== "runtime") console.log(`${name}: ${(JSON.parse(text).bytecode.object.length - 2) / 2} bytes`);
    } else if (!fs.existsSync(file) || fs.readFileSync(file, "utf8") !== text) {
      console.error(`${path.relative(process.cwd(), file)} is not what the source compiles to: run "npm run build" in contracts/ and commit it`);
      stale += 1;
    }
  }
  if (stale) process.exit(1);
  if (mode === "--check") console.log("artifacts are what the sources compile to, bit for bit");
}

if (mode === "--mutants") serveMutants(...folders);
else build();
