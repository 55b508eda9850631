// Runs the pinned forge that npm installed, by its native path.
const { spawnSync } = require("child_process");
const os = require("os");
const arch = { x64: "amd64", arm64: "arm64" }[os.arch()];
const binary = require.resolve(`@foundry-rs/forge-${os.platform()}-${arch}/bin/forge`);
process.exit(spawnSync(binary, process.argv.slice(2), { cwd: __dirname, stdio: "inherit" }).status ?? 1);
