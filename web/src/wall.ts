/** Where the picture hangs: result, comparison, title and state. */
import type { Pixels } from "./protocol";

const $ = <T extends HTMLElement>(id: string) => document.getElementById(id) as T;

export class Wall {
  #frame = $("frame");
  #after = $<HTMLCanvasElement>("after");
  #before = $<HTMLCanvasElement>("before");
  #divider = $<HTMLInputElement>("divider");
  #compare = $<HTMLButtonElement>("compare");
  #save = $<HTMLButtonElement>("save");
  #status = $("status");
  #progress = $<HTMLProgressElement>("progress");
  #name = "picture";

  constructor() {
    this.#compare.onclick = () => this.compare(this.#divider.hidden);
    this.#divider.oninput = () => this.#divide();
    this.#save.onclick = () => this.#download();
  }

  /** Shows a picture; `name` is what a file of it is called. */
  show(pixels: Pixels, title: string, name: string) {
    this.#name = name;
    draw(this.#after, pixels);
    this.#after.setAttribute("aria-label", title);
    $("title").textContent = title;
    this.#frame.style.setProperty("--ratio", `${pixels.width / pixels.height}`);
  }

  /** What the result is compared with. */
  showBefore(pixels: Pixels) {
    draw(this.#before, pixels);
    this.#compare.disabled = false;
  }

  /** Whether there is a finished picture to save. */
  set finished(yes: boolean) {
    this.#save.disabled = !yes;
  }

  /** Shows the photograph left of a divider, or the whole result. */
  compare(on: boolean) {
    this.#divider.hidden = this.#before.hidden = !on;
    this.#compare.setAttribute("aria-pressed", `${on}`);
    this.#divider.value = "500";
    this.#divide();
  }

  /** While the camera is live there is nothing to compare or save. */
  set live(on: boolean) {
    this.compare(false);
    for (const [id, hidden] of [["compare", on], ["save", on], ["shoot", !on], ["end", !on]] as const)
      $(id).hidden = hidden;
  }

  say(text: string, failed = false) {
    this.#status.textContent = text;
    this.#status.classList.toggle("failed", failed);
    $("again").hidden = !failed;
    this.#progress.hidden = true;
  }

  /** Shows how far something is; no share means that nobody can tell. */
  busy(text: string, share?: number) {
    if (this.#status.textContent !== text) this.say(text);
    this.#progress.hidden = false;
    if (share === undefined) this.#progress.removeAttribute("value");
    else this.#progress.value = share;
  }

  #divide() {
    this.#frame.style.setProperty("--split", `${Number(this.#divider.value) / 10}%`);
    this.#divider.setAttribute("aria-valuetext", `${Number(this.#divider.value) / 10} % photograph`);
  }

  #download() {
    this.#after.toBlob((blob) => {
      if (!blob) return this.say("The picture could not be saved. Choose a smaller size.", true);
      const link = document.createElement("a");
      link.href = URL.createObjectURL(blob);
      link.download = `${this.#name}.png`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    }, "image/png");
  }
}

function draw(canvas: HTMLCanvasElement, { width, height, data }: Pixels) {
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d")!.putImageData(new ImageData(data, width, height), 0, 0);
}
