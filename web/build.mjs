// Bundles viewer3d.js with the parts of three.js that it uses into one inline script.
//
// The first lines of the bundle name the SHA-256 of what it was built from, so that a test can
// tell a bundle that was forgotten, and hold the licence of three.js, which asks for that.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { build } from "esbuild";

const SOURCES = ["viewer3d.js", "build.mjs", "package-lock.json"];
const digest = createHash("sha256");
for (const name of SOURCES) digest.update(readFileSync(name));
const { version } = JSON.parse(readFileSync("node_modules/three/package.json", "utf8"));
const licence = readFileSync("node_modules/three/LICENSE", "utf8").trim();
const told = `Built by "make web" from ${SOURCES.map((name) => "web/" + name).join(", ")}`;

await build({
  entryPoints: ["viewer3d.js"],
  outfile: "../stages/viewer3d.bundle.js",
  bundle: true,
  minify: true,
  format: "iife",
  globalName: "viewer3d",
  target: "es2022",
  legalComments: "none",
  banner: {
    js: `/*\n${told}\nsha256 ${digest.digest("hex")}\n\nContains three.js ${version}:\n${licence}\n*/`,
  },
});
