#!/usr/bin/env node
// Runs the program of this platform, with the same arguments, streams and signals, and ends as it does.
"use strict";
const { spawn } = require("node:child_process");
const os = require("node:os");

const name = `@naq/${process.platform}-${process.arch}`;

function find() {
  try {
    return require.resolve(`${name}/bin/naq`);
  } catch {
    console.error(
      `naq: the package ${name} is not installed; naq has programs for Linux on x64 and arm64, and npm leaves them out with ` +
        "--omit=optional or a lockfile that another system has written",
    );
    process.exit(1);
  }
}

const child = spawn(find(), process.argv.slice(2), { stdio: "inherit" });
child.on("error", (error) => {
  console.error(`naq: cannot start ${name}: ${error.message}`);
  process.exit(1);
});
const signals = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"];
for (const signal of signals) process.on(signal, () => child.kill(signal));
child.on("exit", (code, signal) => {
  if (signal === null) process.exit(code);
  // as a shell sees it: killed by the same signal
  process.removeAllListeners(signal);
  process.kill(process.pid, signal);
  setTimeout(() => process.exit(128 + os.constants.signals[signal]), 1000);
});
