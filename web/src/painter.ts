/** The worker that paints, as the page sees it. */
import files from "virtual:files";
import type { Answer, Order, Pixels, Question } from "./protocol";

/** The worker is gone, or can do no more; the next picture starts another. */
export class Lost extends Error {}

export interface Painted {
  pixels: Pixels;
  seconds: number;
}

export class Painter {
  #worker?: Worker;
  #ready?: Promise<void>;
  #gpu = true; // whether to try it
  #last: Promise<unknown> = Promise.resolve();
  #fail: (reason: Lost) => void = () => {};
  #answer: (answer: Answer) => void = () => {};

  /**
   * @param onProgress What share of the network has been loaded.
   * @param onLoaded Whether it runs on the graphics processor.
   */
  constructor(
    private onProgress: (share: number) => void,
    private onLoaded: (gpu: boolean) => void,
  ) {}

  /** Loads the network, where that has not been done. */
  load(): Promise<void> {
    return (this.#ready ??= this.#load());
  }

  /** Paints, after what was asked before. */
  paint(order: Order): Promise<Painted> {
    const painted = this.#last.then(() => this.#paint(order));
    this.#last = painted.catch(() => {});
    return painted;
  }

  async #paint(order: Order): Promise<Painted> {
    const mayFallBack = this.#gpu;
    try {
      await this.load();
      return (await this.#ask({ type: "paint", ...order })) as Painted & Answer;
    } catch (error) {
      if (!(error instanceof Lost && mayFallBack)) throw error;
      return this.#paint(order);
    }
  }

  async #load() {
    const worker = new Worker(new URL("./paint.worker.ts", import.meta.url), { type: "module" });
    this.#worker = worker;
    const lock = `tfstyle-${crypto.randomUUID()}`;
    worker.onerror = (event) => this.#lose(worker, event.message || "the worker did not start");
    worker.onmessage = ({ data }: MessageEvent<Answer>) => this.#hear(worker, lock, data);
    const base = new URL(".", location.href).href;
    await this.#ask({ type: "load", base, sizes: files.sizes, gpu: this.#gpu, lock });
  }

  #ask(question: Question): Promise<Answer> {
    return new Promise((resolve, reject) => {
      this.#answer = resolve;
      this.#fail = reject;
      this.#worker!.postMessage(question);
    });
  }

  #hear(worker: Worker, lock: string, answer: Answer) {
    if (worker !== this.#worker) return;
    if (answer.type === "progress") return this.onProgress(answer.share);
    if (answer.type === "failed") return this.#lose(worker, answer.message);
    if (answer.type === "loaded") {
      this.#gpu = answer.gpu;
      this.onLoaded(answer.gpu);
      // Free before its time only where the worker has ended.
      void navigator.locks?.request(lock, () => this.#lose(worker, "the worker ended"));
    }
    this.#answer(answer);
  }

  #lose(worker: Worker, message: string) {
    if (worker !== this.#worker) return;
    console.warn(`tfstyle: ${message}`);
    worker.terminate();
    this.#worker = this.#ready = undefined;
    this.#gpu = false; // where it fails, WebAssembly may not
    this.#fail(new Lost(message));
  }
}
