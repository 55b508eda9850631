#!/usr/bin/env node
// The compiler that forge calls: solc-js behind the command line of the native solc, so that no binary has to be downloaded. Whoever
// calls forge often says in SOLC_VERSION what it would answer, as loading it to ask takes longer than most tests.
const fs = require("fs");
const path = require("path");

const solc = () => require("solc");

if (process.argv.includes("--version")) {
  console.log("solc, the solidity compiler commandline interface");
  console.log("Version: " + (process.env.SOLC_VERSION ?? solc().version()).replace(/Emscripten\.clang$/, "Linux.g++"));
} else if (process.argv.includes("--standard-json")) {
  const find = (name) => {
    for (const candidate of [name, path.join(__dirname, name), path.join(__dirname, "node_modules", name)]) {
      if (fs.existsSync(candidate)) return { contents: fs.readFileSync(candidate, "utf8") };
    }
    return { error: "not found: " + name };
  };
  process.stdout.write(solc().compile(fs.readFileSync(0, "utf8"), { import: find }));
} else {
  console.error("solcw.cjs knows --version and --standard-json only");
  process.exit(1);
}
