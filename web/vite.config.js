import { createHash } from "node:crypto";
import fs from "node:fs";
import path from "node:path";
import { defineConfig } from "vite";

const HERE = import.meta.dirname;
const RUNTIME = path.join(HERE, "node_modules/onnxruntime-web/dist");
const MODELS = process.env.TFSTYLE_MODELS ?? path.join(HERE, "models");
const HEADERS = JSON.parse(fs.readFileSync(path.join(HERE, "headers.json"), "utf8"));

/** Names of the sample pictures of a kind, without extension. */
const samples = (kind) =>
  fs
    .readdirSync(path.join(HERE, "../data", kind))
    .filter((name) => name.endsWith(".jpg"))
    .map((name) => path.parse(name).name);

/** Files of the page that no module imports: address → file. */
function assets() {
  const found = {
    "headers.json": path.join(HERE, "headers.json"),
    "icon.svg": path.join(HERE, "icon.svg"),
    "manifest.webmanifest": path.join(HERE, "manifest.webmanifest"),
  };
  for (const name of [
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
  ])
    found[`ort/${name}`] = path.join(RUNTIME, name);
  for (const name of ["encode.onnx", "stylize.onnx"])
    found[`models/${name}`] = path.join(MODELS, name);
  for (const kind of ["content", "style"])
    for (const name of samples(kind))
      found[`samples/${kind}/${name}.jpg`] = path.join(HERE, "../data", kind, `${name}.jpg`);
  return found;
}

/** What the page must know of these files: names of samples, sizes of downloads. */
function known(files) {
  const sizes = {};
  for (const [address, file] of Object.entries(files))
    if (/\.(onnx|wasm)$/.test(address)) sizes[address] = fs.statSync(file).size;
  return { photographs: samples("content"), paintings: samples("style"), sizes };
}

/** The policy without what a meta element cannot say. */
const policy = HEADERS["Content-Security-Policy"].replace(/; frame-ancestors [^;]*/, "");

function page() {
  const files = assets();
  const missing = Object.values(files).filter((file) => !fs.existsSync(file));
  if (missing.length) throw new Error(`${missing[0]} is missing; see docs/guides/web.md`);
  return {
    name: "tfstyle-page",
    resolveId: (id) => (id === "virtual:files" ? "\0files" : undefined),
    load: (id) =>
      id === "\0files" ? `export default ${JSON.stringify(known(files))}` : undefined,
    configureServer(server) {
      server.middlewares.use((request, response, next) => {
        const file = files[request.url.slice(1).split("?")[0]];
        if (!file) return next();
        if (file.endsWith(".mjs")) response.setHeader("Content-Type", "text/javascript");
        response.end(fs.readFileSync(file));
      });
    },
    transformIndexHtml(html, { server }) {
      const content = { "http-equiv": "Content-Security-Policy", content: policy };
      return server ? html : [{ tag: "meta", attrs: content, injectTo: "head-prepend" }];
    },
    generateBundle() {
      for (const [fileName, file] of Object.entries(files))
        this.emitFile({ type: "asset", fileName, source: fs.readFileSync(file) });
    },
    writeBundle({ dir }, bundle) {
      const hashes = {};
      for (const name of Object.keys(bundle)) {
        const hash = createHash("sha256").update(fs.readFileSync(path.join(dir, name)));
        hashes[name] = hash.digest("hex").slice(0, 16);
      }
      const worker = fs.readFileSync(path.join(HERE, "src/offline.worker.js"), "utf8");
      const written = worker
        .replace("__FILES__", () => JSON.stringify(hashes))
        .replace("__HEADERS__", () => JSON.stringify(HEADERS));
      fs.writeFileSync(path.join(dir, "sw.js"), written);
    },
  };
}

export default defineConfig({
  base: "./",
  publicDir: false,
  plugins: [page()],
  build: { target: "es2022", assetsInlineLimit: 0, modulePreload: { polyfill: false } },
  worker: { format: "es" },
});
