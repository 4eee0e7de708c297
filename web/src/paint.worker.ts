/**
 * Runs the network. `encode.onnx` turns a picture into the tensors of its style,
 * `stylize.onnx` paints a picture with such tensors.
 */
import type * as Runtime from "onnxruntime-web/wasm";
import type { Answer, Order, Pixels, Question, Share } from "./protocol";

type Code = Record<string, Runtime.Tensor>;
type Loading = Extract<Question, { type: "load" }>;

const MOST_CODES = 64; // that are remembered

let ort: typeof Runtime;
let encoder: Runtime.InferenceSession;
let painter: Runtime.InferenceSession;
const codes = new Map<string, Code>();

const say = (answer: Answer, moved: Transferable[] = []) => postMessage(answer, { transfer: moved });

onmessage = async ({ data }: MessageEvent<Question>) => {
  try {
    if (data.type === "load") await load(data);
    else {
      const began = performance.now();
      const pixels = await paint(data);
      const seconds = (performance.now() - began) / 1000;
      say({ type: "painted", pixels, seconds }, [pixels.data.buffer]);
    }
  } catch (error) {
    say({ type: "failed", message: String(error) });
  }
};

async function load({ base, sizes, gpu, lock }: Loading) {
  // Held as long as this worker lives: the page notices when it is free.
  void navigator.locks?.request(lock, () => new Promise(() => {}));
  const onGpu = gpu && (await hasGpu());
  const runtime = onGpu ? "ort.webgpu.min.mjs" : "ort.wasm.min.mjs";
  const binary = `ort/ort-wasm-simd-threaded${onGpu ? ".asyncify" : ""}.wasm`;
  const wanted = [binary, "models/encode.onnx", "models/stylize.onnx"];
  const total = wanted.reduce((sum, name) => sum + sizes[name], 0);
  let loaded = 0;
  const count = (bytes: number) => say({ type: "progress", share: (loaded += bytes) / total });
  const [module, wasm, ...models] = await Promise.all([
    import(/* @vite-ignore */ new URL(`ort/${runtime}`, base).href) as Promise<typeof Runtime>,
    ...wanted.map((name) => fetched(new URL(name, base), sizes[name], count)),
  ]);
  ort = module;
  ort.env.wasm.wasmPaths = new URL("ort/", base).href;
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.numThreads = crossOriginIsolated ? threads() : 1;
  const options = { executionProviders: [onGpu ? "webgpu" : "wasm"] };
  encoder = await ort.InferenceSession.create(models[0], options);
  painter = await ort.InferenceSession.create(models[1], options);
  say({ type: "loaded", gpu: onGpu });
}

/** Whether there is a real graphics processor: software is slower than WebAssembly. */
async function hasGpu(): Promise<boolean> {
  const found = await navigator.gpu?.requestAdapter().catch(() => null);
  return !!found && !found.info?.isFallbackAdapter;
}

const threads = () => Math.min(4, Math.ceil(navigator.hardwareConcurrency / 2));

async function fetched(address: URL, size: number, count: (bytes: number) => void) {
  const response = await fetch(address);
  if (!response.ok || !response.body) throw new Error(`${address.pathname}: ${response.status}`);
  let bytes = new Uint8Array(size);
  let filled = 0;
  const reader = response.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    if (filled + part.value.length > bytes.length) {
      const longer = new Uint8Array(2 * (filled + part.value.length));
      longer.set(bytes);
      bytes = longer;
    }
    bytes.set(part.value, filled);
    filled += part.value.length;
    count(part.value.length);
  }
  return bytes.subarray(0, filled);
}

async function paint({ content, styles, own }: Order): Promise<Pixels> {
  const picture = tensorOf(content);
  const code = await mixed(own ? [...styles, own] : styles);
  const { stylized } = await painter.run({ content: picture, ...code });
  if (own) {
    // What drawing loses of the photograph is added in the measure that it counts.
    const drawn = await painter.run({ content: picture, ...(await encoded(own)) });
    const [result, whole, part] = [stylized, picture, drawn.stylized].map(
      ({ data }) => data as Float32Array,
    );
    for (let i = 0; i < result.length; i++) result[i] += own.weight * (whole[i] - part[i]);
  }
  return pixelsOf(stylized);
}

/** The weighted mean of the styles of several pictures. */
async function mixed(shares: Share[]): Promise<Code> {
  const found = [];
  for (const share of shares) found.push(await encoded(share));
  if (shares.length === 1) return found[0];
  const mean: Code = {};
  for (const [name, { dims }] of Object.entries(found[0])) {
    const values = new Float32Array(dims.reduce((product, side) => product * side, 1));
    found.forEach((code, i) => {
      const part = code[name].data as Float32Array;
      for (let j = 0; j < values.length; j++) values[j] += shares[i].weight * part[j];
    });
    mean[name] = new ort.Tensor("float32", values, dims);
  }
  return mean;
}

async function encoded({ key, pixels }: Share): Promise<Code> {
  let code = codes.get(key);
  if (!code) {
    code = (await encoder.run({ style: tensorOf(pixels) })) as Code;
    codes.set(key, code);
    if (codes.size > MOST_CODES) codes.delete(codes.keys().next().value!);
  }
  return code;
}

function tensorOf({ width, height, data }: Pixels): Runtime.Tensor {
  const values = new Float32Array(3 * width * height);
  for (let from = 0, to = 0; from < data.length; from += 4) {
    values[to++] = data[from] / 255;
    values[to++] = data[from + 1] / 255;
    values[to++] = data[from + 2] / 255;
  }
  return new ort.Tensor("float32", values, [1, height, width, 3]);
}

function pixelsOf(tensor: Runtime.Tensor): Pixels {
  const [, height, width] = tensor.dims;
  const values = tensor.data as Float32Array;
  const data = new Uint8ClampedArray(4 * width * height).fill(255);
  // Storing rounds and limits to 0 to 255.
  for (let from = 0, to = 0; to < data.length; to += 4)
    for (let channel = 0; channel < 3; channel++) data[to + channel] = 255 * values[from++];
  return { width, height, data };
}
