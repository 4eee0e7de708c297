/** A gallery: pictures of which one is chosen, and files of one's own. */
import { BadPicture, Picture } from "./pictures";

const titled = (name: string) => (name[0].toUpperCase() + name.slice(1)).replaceAll("_", " ");

export class Gallery {
  #pictures = new Map<string, () => Promise<Picture>>();
  #tiles: HTMLElement;

  /**
   * @param root The gallery's element: `.tiles`, and where files may be brought
   *   `.message` and an input.
   * @param group The name of its radio buttons.
   * @param onChange Something else has been chosen.
   */
  constructor(
    private root: HTMLElement,
    private group: string,
    private onChange: () => void,
    private onAdded: (picture: Picture) => void = () => {},
  ) {
    this.#tiles = root.querySelector(".tiles")!;
    this.#tiles.addEventListener("change", onChange);
    const input = root.querySelector<HTMLInputElement>("input[type=file]");
    input?.addEventListener("change", async () => {
      if (input.files?.[0]) await this.bring(input.files[0]);
      input.value = ""; // the same file may be chosen again
    });
  }

  /** Adds the samples in a folder; they are read when they are chosen. */
  addSamples(folder: string, names: string[]) {
    for (const name of names) {
      const address = `samples/${folder}/${name}.jpg`;
      let picture: Promise<Picture> | undefined;
      this.#add(name, address, titled(name), () => (picture ??= Picture.ofAddress(address, name)));
    }
  }

  /** Adds a picture, at the front. */
  add(picture: Picture, choose: boolean) {
    const tile = this.#add(picture.key, picture.address, picture.name, async () => picture);
    this.#tiles.prepend(tile);
    if (choose) tile.querySelector("input")!.checked = true;
  }

  /** Reads a file and chooses it, or says beside the gallery why not. */
  async bring(file: File) {
    this.say("");
    try {
      const picture = await Picture.ofFile(file);
      this.add(picture, true);
      this.onAdded(picture);
      this.onChange();
    } catch (error) {
      if (!(error instanceof BadPicture)) throw error;
      this.say(error.message);
    }
  }

  /** One line beside the gallery. */
  say(message: string) {
    this.root.querySelector(".message")!.textContent = message;
  }

  choose(name: string) {
    const input = this.#tiles.querySelector<HTMLInputElement>(`input[value="${name}"]`);
    if (input) input.checked = true;
  }

  /** What is chosen. */
  get chosen(): Promise<Picture> {
    return this.#pictures.get(this.#checked.value)!();
  }

  /** What people call it. */
  get title(): string {
    return this.#checked.closest(".tile")!.querySelector("img")!.alt;
  }

  get #checked(): HTMLInputElement {
    return this.#tiles.querySelector("input:checked")!;
  }

  #add(value: string, address: string, title: string, read: () => Promise<Picture>): HTMLElement {
    this.#pictures.set(value, read);
    const tile = document.createElement("label");
    tile.className = "tile";
    tile.title = title;
    const input = document.createElement("input");
    Object.assign(input, { type: "radio", name: this.group, value });
    input.checked = !this.#tiles.querySelector("input:checked");
    const image = new Image();
    Object.assign(image, { src: address, alt: title, draggable: false });
    tile.append(input, image);
    this.#tiles.append(tile);
    return tile;
  }
}

/** Lets pictures be dropped on an element; elsewhere, a drop does nothing. */
export function takesDrops(element: HTMLElement, take: (file: File) => void) {
  const over = (on: boolean) => () => element.classList.toggle("over", on);
  element.addEventListener("dragenter", over(true));
  element.addEventListener("dragover", over(true));
  element.addEventListener("dragleave", over(false));
  element.addEventListener("drop", (event) => {
    over(false)();
    const file = event.dataTransfer?.files[0];
    if (file) take(file);
  });
}
